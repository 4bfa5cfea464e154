//! The subcommands: one file each, with its options, which are its help, and the request that they make.
//!
//! Nothing is decided or done here: the operations are in [`crate::ops`].

pub(crate) mod clean;
pub(crate) mod completion;
pub(crate) mod flags;
pub(crate) mod list;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod status;

use self::flags::{CacheArgs, HostArgs};
use crate::cache::lock::LockWait;
use crate::exit::{Exit, Failure};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::Selection;
use crate::host::{Host, Scope, Task};
use crate::ops::look::{LookReport, Overview, look};
use crate::ops::report::ChangeReport;
use crate::output::Report;
use crate::run::Run;

/// Reads the configuration, for an operation on this host.
fn host_of<'a>(
    run: &'a Run,
    cache: CacheArgs,
    aim: (Scope, Task),
    lock_wait: LockWait,
) -> Result<Host<'a>, Failure> {
    let selection = Selection::from(cache);
    let config = selection.read(run, aim.1 == Task::Look)?;
    Ok(Host::new(run, selection, config, aim, lock_wait))
}

/// Looks at every cache of the host.
fn look_at_all(
    run: &Run,
    cache: CacheArgs,
    args: HostArgs,
    what: Overview,
    human: bool,
) -> Result<LookReport, Failure> {
    let lock_wait = LockWait { limit: GLANCE_PATIENCE, skip_if_locked: false };
    let mut host = host_of(run, cache, (Scope::All, Task::Look), lock_wait)?;
    host.ironic_sources = args.ironic.0;
    let report = look(&host, what, args.temp_grace.0, human)?;
    for error in report.errors() {
        run.output.error(&error.to_string());
    }
    Ok(report)
}

/// Shows the report of a change: its errors, then the result. Returns the exit code.
pub(crate) fn conclude(run: &Run, report: &impl ChangeReport) -> Exit {
    let ending = report.ending();
    if !report.errors_were_reported() {
        for error in &ending.errors {
            run.output.error(&error.to_string());
        }
    }
    for shortfall in &ending.shortfalls {
        run.output.error(shortfall);
    }
    run.output.summary(report);
    match ending.exit() {
        Exit::Done if run.output.has_failed() => Exit::Incomplete,
        exit => exit,
    }
}

/// Shows the report of a command that only looks. Returns the exit code.
fn show(run: &Run, report: &impl Report, is_fine: bool) -> Exit {
    run.output.result(report);
    if is_fine && !run.output.has_failed() { Exit::Done } else { Exit::Incomplete }
}
