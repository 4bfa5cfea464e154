//! The old tools: runs the operation that an old name stands for, with that tool's command line.
//!
//! Under the name of one of Glance's cache tools, this program does that tool's work with that tool's
//! options, exit codes and log. Stdout stays empty except for `--help` and the like, and stderr stays empty
//! unless there is a warning or an error. The command line is parsed in [`options`]; the work is that of
//! `clean`, `prune` and `prefetch` with the defaults of those commands. Options that only the new commands
//! have do not exist here.

mod options;

use std::time::Duration;

use self::options::LegacyOptions;
pub(crate) use self::options::{Invocation, Tool, parse};
use crate::cache::lock::LockWait;
use crate::commands::conclude;
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::host::{Host, Scope, Task};
use crate::ops::Change;
use crate::ops::clean::{CleanRequest, clean};
use crate::ops::prefetch::prefetch;
use crate::ops::prefetch::request::PrefetchRequest;
use crate::ops::prune::{PruneRequest, prune};
use crate::output::Output;
use crate::output::audit::log_of_old_tool;
use crate::run::Run;

/// The wait for a lock; the same as the default of the new commands.
const LOCK_WAIT: LockWait = LockWait { limit: Duration::from_secs(60), skip_if_locked: false };

/// Runs as one of the old tools, with the arguments that follow the program's name.
pub(crate) fn run(tool: Tool, args: &[std::ffi::OsString]) -> Exit {
    let logger = match tool {
        Tool::Cleaner => "glance.image_cache.cleaner",
        Tool::Pruner => "glance.image_cache.pruner",
        Tool::Prefetcher => "glance.image_cache.prefetcher",
    };
    let run = Run::new(tool.name(), Output::legacy(logger));
    let options = match parse(tool, args) {
        Ok(Invocation::Run(options)) => options,
        Ok(Invocation::Print(text)) => {
            run.output.print(&text);
            return Exit::Done;
        }
        Err(e) => {
            run.output.error(&format!("{e:#}"));
            return Exit::WrongCommandLine;
        }
    };
    let command = match tool {
        Tool::Cleaner => "clean",
        Tool::Pruner => "prune",
        Tool::Prefetcher => "prefetch",
    };
    run.output.deprecation(&format!(
        "{} is an old name of glance-cache; the same command is now: glance-cache {command}",
        tool.name(),
    ));
    work(&run, tool, &options).unwrap_or_else(|mut failure| {
        // Hints may name options that only the new commands have.
        for hint in failure.hints.iter_mut().filter(|hint| names_option(hint)) {
            *hint = format!("{hint} (an option of glance-cache {command}, not of this name)");
        }
        run.output.failure(&failure);
        failure.exit
    })
}

/// True if a text names an option that the old tools do not have.
fn names_option(text: &str) -> bool {
    let options = text.split([' ', ',', ';']).filter(|word| word.starts_with("--"));
    options.into_iter().any(|option| !["--config-file", "--config-dir"].contains(&option))
}

fn work(run: &Run, tool: Tool, options: &LegacyOptions) -> Result<Exit, Failure> {
    let selection = Selection { sources: options.sources.clone(), ..Selection::default() };
    let config = selection.read(run, false)?;
    let given = |name: &str| options.get(name).map(str::to_owned);
    run.output.set_log(log_of_old_tool(tool.name(), &config, &given));
    let change = Change { dry_run: false, lock_wait: LOCK_WAIT };
    Ok(match tool {
        Tool::Cleaner => {
            let host = Host::new(run, selection, config, (Scope::One, Task::Clean), LOCK_WAIT);
            let request = CleanRequest { change, forget_all: false, temp_grace: 0 };
            conclude(run, &clean(&host, &request)?)
        }
        Tool::Pruner => {
            let host = Host::new(run, selection, config, (Scope::One, Task::Prune), LOCK_WAIT);
            let request = PruneRequest { only_when_over: true, ..PruneRequest::new(change) };
            conclude(run, &prune(&host, &request)?)
        }
        Tool::Prefetcher => {
            let settings = Settings::new(&config, selection)?;
            conclude(run, &prefetch(run, &settings, &PrefetchRequest::new(change))?)
        }
    })
}
