//! `glance-cache`: cleans, prunes, fills and inspects the image caches of OpenStack Glance and Ironic.
//!
//! Parses the command line, runs the command, and returns the exit code. Under the name of a tool that this
//! program replaces, [`legacy`] does the same with that tool's options. The failure of a run is printed only
//! here and there.

// Unit tests look at their own temporary files by path, and find the real parts through the environment.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod cache;
mod cli;
mod commands;
mod config;
mod database;
mod exit;
mod fetch;
#[cfg(test)]
mod fuzzing;
mod host;
mod interrupt;
mod legacy;
mod names;
mod net;
mod openstack;
mod ops;
mod os;
mod output;
mod run;
mod serve;
mod source;
mod spelling;
mod units;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::Command;
use crate::commands::record::Record;
use crate::exit::{Exit, Failure};
use crate::os::lifeline;
use crate::output::screen::ColorWhen;
use crate::output::{Format, Output, Verbosity};
use crate::run::Run;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let tool = args.first().and_then(|argv0| legacy::Tool::from_argv0(argv0));
    if let Some(tool) = tool {
        return ExitCode::from(legacy::run(tool, &args[1..]).legacy_code());
    }
    if let Some(when) = ColorWhen::on(&args) {
        when.decide();
    }
    let cli = cli::parse(args);
    let (cache, change, default) = match &cli.command {
        Command::Clean(args) => (Some(&args.cache), Some(&args.change), Format::of_changes()),
        Command::Prune(args) => (Some(&args.cache), Some(&args.change), Format::of_changes()),
        Command::Prefetch(args) => (Some(&args.cache), Some(&args.change), Format::of_changes()),
        Command::List(args) => (Some(&args.cache), None, Format::Text),
        Command::Status(args) => (Some(&args.cache), None, Format::Text),
        Command::Answer(_) => (None, None, Format::Json),
        Command::Serve(_) | Command::Completion(_) | Command::Ids(_) => (None, None, Format::Text),
    };
    let format = cache.and_then(|cache| cache.format).unwrap_or(default);
    let verbosity = match &cli.command {
        Command::Serve(args) => verbosity(args.quiet, args.verbose),
        _ => cache.map_or(Verbosity::Quiet, |cache| verbosity(cache.quiet, cache.verbose)),
    };
    let output = Output::new(format, verbosity);
    if let Some(change) = change {
        change.wait_for_splay(&output);
    }
    let mut run = Run::new("glance-cache", output);
    if run.environment.contains_key(OsStr::new(lifeline::VARIABLE)) {
        lifeline::watch(run.interrupt.clone());
    }
    if let Some(now) = cache.and_then(|cache| cache.now) {
        run.now = now.0;
    }
    let textfile = cache.and_then(|cache| cache.textfile.clone());
    let exit = recorded(&run, cli.command, textfile).unwrap_or_else(|failure| {
        run.output.failure(&failure);
        failure.exit
    });
    ExitCode::from(exit.code())
}

/// Runs the command, and writes its metrics to the textfile, if there is one.
fn recorded(run: &Run, action: Command, textfile: Option<PathBuf>) -> Result<Exit, Failure> {
    let Some(path) = textfile else { return dispatch(run, action) };
    let record = Record::begin(&path, action.name())?;
    // The report of `list` has no metrics, and may be long.
    run.output.keep_report(!matches!(action, Command::List(_)));
    let exit = dispatch(run, action).unwrap_or_else(|failure| {
        run.output.failure(&failure);
        failure.exit
    });
    Ok(record.end(run, exit))
}

/// Runs the command.
fn dispatch(run: &Run, action: Command) -> Result<Exit, Failure> {
    match action {
        Command::Clean(args) => commands::clean::run(run, args),
        Command::Prune(args) => commands::prune::run(run, args),
        Command::Prefetch(args) => commands::prefetch::run(run, args),
        Command::List(args) => commands::list::run(run, args),
        Command::Status(args) => commands::status::run(run, args),
        Command::Serve(args) => commands::serve::run(run, args),
        Command::Answer(args) => commands::answer::run(run, args),
        Command::Completion(args) => Ok(commands::completion::run(run, &args)),
        Command::Ids(args) => {
            if let Some((sources, cache_dir)) = cli::cache_on(&args.line) {
                commands::completion::ids(run, &args, sources, cache_dir);
            }
            Ok(Exit::Done)
        }
    }
}

fn verbosity(quiet: bool, verbose: bool) -> Verbosity {
    match (quiet, verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}
