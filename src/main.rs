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
mod interrupt;
mod kinds;
mod legacy;
mod names;
mod net;
mod ops;
mod os;
mod output;
mod source;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::cli::{Action, Cli};
use crate::commands::Context;
use crate::commands::flags::CacheArgs;
use crate::exit::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Format, Output, Verbosity};
use crate::units::Nanos;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let tool = args.first().and_then(|argv0| legacy::Tool::from_argv0(argv0));
    if let Some(tool) = tool {
        return ExitCode::from(commands::legacy::run(tool, &args[1..]).legacy_code());
    }
    let cli = Cli::parse_from(args);
    let (cache, default) = match &cli.command {
        Action::Clean(args) => (&args.cache, Format::Json),
        Action::Prune(args) => (&args.cache, Format::Json),
        Action::Prefetch(args) => (&args.cache, Format::Json),
        Action::List(args) => (&args.cache, Format::Text),
        Action::Status(args) => (&args.cache, Format::Text),
    };
    let mut context = context("glance-cache", Output::new(cache.format.unwrap_or(default), verbosity(cache)));
    if let Some(now) = cache.now {
        context.now = now.0;
    }
    ExitCode::from(finish(&context, dispatch(&context, cli.command)).code())
}

fn dispatch(context: &Context, action: Action) -> Result<Exit, Failure> {
    match action {
        Action::Clean(args) => commands::clean::run(context, args),
        Action::Prune(args) => commands::prune::run(context, args),
        Action::Prefetch(args) => commands::prefetch::run(context, args),
        Action::List(args) => commands::list::run(context, args),
        Action::Status(args) => commands::status::run(context, args),
    }
}

/// The one place where an error is printed.
fn finish(context: &Context, result: Result<Exit, Failure>) -> Exit {
    result.unwrap_or_else(|failure| {
        context.output.failure(&failure);
        failure.exit
    })
}

/// What a run has from the outside world.
fn context(program: &'static str, output: Output) -> Context {
    #[expect(clippy::disallowed_methods, reason = "the one reading of the clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as Nanos);
    Context {
        now,
        program,
        environment: std::env::vars_os().collect(),
        interrupt: Interrupt::default(),
        output,
    }
}

fn verbosity(args: &CacheArgs) -> Verbosity {
    match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}
