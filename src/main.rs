//! `glance-cache`: acts on Glance's image cache directories.
//!
//! Parse, run, exit code. The environment and the clock are read here, once.

mod cache;
mod cli;
mod commands;
mod config;
mod database;
mod exit;
mod fetch;
mod host;
mod interrupt;
mod legacy;
mod names;
mod net;
mod ops;
mod os;
mod output;
mod run;
mod source;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Action, Cli};
use crate::commands::flags::CacheArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output, Verbosity};
use crate::run::Run;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let tool = args.first().and_then(|argv0| legacy::Tool::from_argv0(argv0));
    if let Some(tool) = tool {
        return ExitCode::from(legacy::run(tool, &args[1..]).legacy_code());
    }
    let cli = Cli::parse_from(args);
    let (cache, default) = match &cli.command {
        Action::Clean(args) => (Some(&args.cache), Format::Json),
        Action::Prune(args) => (Some(&args.cache), Format::Json),
        Action::Prefetch(args) => (Some(&args.cache), Format::Json),
        Action::List(args) => (Some(&args.cache), Format::Text),
        Action::Status(args) => (Some(&args.cache), Format::Text),
        Action::Completion(_) | Action::Ids(_) => (None, Format::Text),
    };
    let format = cache.and_then(|cache| cache.format).unwrap_or(default);
    let mut run = Run::new("glance-cache", Output::new(format, cache.map_or(Verbosity::Quiet, verbosity)));
    if let Some(now) = cache.and_then(|cache| cache.now) {
        run.now = now.0;
    }
    let exit = dispatch(&run, cli.command).unwrap_or_else(|failure| {
        run.output.failure(&failure);
        failure.exit
    });
    ExitCode::from(exit.code())
}

fn dispatch(run: &Run, action: Action) -> Result<Exit, Failure> {
    match action {
        Action::Clean(args) => commands::clean::run(run, args),
        Action::Prune(args) => commands::prune::run(run, args),
        Action::Prefetch(args) => commands::prefetch::run(run, args),
        Action::List(args) => commands::list::run(run, args),
        Action::Status(args) => commands::status::run(run, args),
        Action::Completion(args) => Ok(commands::completion::run(run, &args)),
        Action::Ids(args) => {
            if let Some((sources, cache_dir)) = cli::cache_on(&args.line) {
                commands::completion::ids(run, &args, sources, cache_dir);
            }
            Ok(Exit::Done)
        }
    }
}

fn verbosity(args: &CacheArgs) -> Verbosity {
    match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}
