//! The old tools: runs the operation that an old name stands for, with that tool's command line.
//!
//! Under the name of one of Glance's cache tools, this program does that tool's work with that tool's
//! options, exit codes and log. Stdout stays empty except for `--help` and the like, and stderr stays empty
//! unless there is a warning or an error. The command line is parsed in [`options`]; the work is that of
//! `clean`, `prune` and `prefetch` with the defaults of those commands. Options that only the new commands
//! have do not exist here.

mod options;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use self::options::LegacyOptions;
pub(crate) use self::options::{Invocation, Tool, parse};
use crate::cache::lock::LockWait;
use crate::commands::conclude;
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::host::{Host, Scope, Task};
use crate::ops::Change;
use crate::ops::clean::{CleanRequest, clean};
use crate::ops::prefetch::prefetch;
use crate::ops::prefetch::request::PrefetchRequest;
use crate::ops::prune::{PruneRequest, prune};
use crate::output::Output;
use crate::output::log::{Log, LogSettings};
use crate::output::oslo::{Encoding, Level};
use crate::run::Run;

/// The wait for a lock; the same as the default of the new commands.
const LOCK_WAIT: LockWait = LockWait { limit: Duration::from_mins(1), skip_if_locked: false };

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
            let _ = write!(hint, " (an option of glance-cache {command}, not of this name)");
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
    let (log, warnings) = Log::open(&log_settings(&config, options), tool.name());
    run.output.set_log(log);
    for warning in warnings {
        run.output.warning(&warning);
    }
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

/// Returns the values of oslo.log's options; the command line wins over the configuration.
///
/// An invalid boolean counts as false, because a mistake in the logging options must not prevent the run.
fn log_settings(config: &Config, options: &LegacyOptions) -> LogSettings {
    let text = |opt: &config::Opt<'static>| {
        let given = options.get(opt.name).map(str::to_owned);
        given.or_else(|| Some(config.optional(opt).ok()??.value)).filter(|text| !text.is_empty())
    };
    let switch = |opt: &config::Opt<'static>| match options.get(opt.name) {
        Some(given) => given == "true",
        None => config.boolean(opt).is_ok_and(|setting| setting.value),
    };
    let defaults = LogSettings::default();
    let (log_file, log_dir) =
        (text(&config::LOG_FILE).map(PathBuf::from), text(&config::LOG_DIR).map(PathBuf::from));
    let (syslog, journal) = (switch(&config::USE_SYSLOG), switch(&config::USE_JOURNAL));
    LogSettings {
        // Stderr must stay empty without errors, so debug records go there only if there is no other log.
        stderr: switch(&config::USE_STDERR) && log_file.is_none() && log_dir.is_none() && !syslog && !journal,
        log_file,
        log_dir,
        syslog,
        journal,
        facility: text(&config::SYSLOG_LOG_FACILITY).unwrap_or(defaults.facility),
        level: if switch(&config::DEBUG) { Level::Debug } else { Level::Info },
        encoding: if switch(&config::USE_JSON) { Encoding::Json } else { Encoding::Text },
        date_format: text(&config::LOG_DATE_FORMAT).unwrap_or(defaults.date_format),
        format: text(&config::LOGGING_DEFAULT_FORMAT_STRING).unwrap_or(defaults.format),
        debug_suffix: text(&config::LOGGING_DEBUG_FORMAT_SUFFIX).unwrap_or(defaults.debug_suffix),
        syslog_socket: defaults.syslog_socket,
        journal_socket: defaults.journal_socket,
    }
}
