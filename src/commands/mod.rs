//! The subcommands. Each has a file with its options, whose doc comments are the help texts, and with the
//! request that it makes of them.
//!
//! Nothing is decided or done here. The operations are in [`crate::ops`].

pub(crate) mod answer;
pub(crate) mod clean;
pub(crate) mod completion;
pub(crate) mod flags;
pub(crate) mod list;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod record;
pub(crate) mod serve;
pub(crate) mod status;

use serde::Serialize;

use self::flags::{CacheArgs, ChangeArgs, HostArgs, LogArgs};
use crate::cache::lock::LockWait;
use crate::exit::{Exit, Failure};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::Selection;
use crate::host::{Host, Scope, Task};
use crate::ops::Change;
use crate::ops::look::{LookReport, Overview, look};
use crate::ops::metrics::exposition;
use crate::ops::nodes::{NodesRequest, ask_nodes};
use crate::ops::report::ChangeReport;
use crate::output::Report;
use crate::output::rows::{ListStyle, Listing};
use crate::run::Run;

/// Reads the configuration, opens the logs, and returns this host for a change.
fn host_to_change(
    run: &Run,
    cache: CacheArgs,
    aim: (Scope, Task),
    (change, log): (ChangeArgs, LogArgs),
) -> Result<(Host<'_>, Change), Failure> {
    let selection = Selection::from(cache);
    let config = selection.read(run, false)?;
    log.open(run, &config, &change);
    let change = Change::from(change);
    Ok((Host::new(run, selection, config, aim, change.lock_wait), change))
}

/// Reads the configuration, and returns this host to look at all its caches.
fn host_to_look<'a>(run: &'a Run, cache: CacheArgs, args: &mut HostArgs) -> Result<Host<'a>, Failure> {
    let lock_wait = LockWait { limit: GLANCE_PATIENCE, skip_if_locked: false };
    let selection = Selection::from(cache);
    let config = selection.read(run, true)?;
    let mut host = Host::new(run, selection, config, (Scope::All, Task::Look), lock_wait);
    host.ironic_sources = std::mem::take(&mut args.ironic.0);
    Ok(host)
}

/// Has nodes do the work, and prints their report.
fn conclude_on_nodes(
    run: &Run,
    cache: CacheArgs,
    (change, log): (ChangeArgs, LogArgs),
    request: &NodesRequest,
) -> Result<Exit, Failure> {
    let selection = Selection::from(cache);
    // Nodes that are named can be asked by somebody who may not read this host's configuration.
    let config = selection.read(run, request.urls.is_some())?;
    log.open(run, &config, &change);
    Ok(conclude(run, &ask_nodes(run, &selection, &config, request)?))
}

/// Surveys every cache of the host, and prints the errors.
fn look_at_all(
    run: &Run,
    cache: CacheArgs,
    mut args: HostArgs,
    what: Overview,
    human: bool,
) -> Result<LookReport, Failure> {
    let host = host_to_look(run, cache, &mut args)?;
    let report = look(&host, what, args.temp_grace.0, human)?;
    for error in report.errors() {
        run.output.error(&error.to_string());
    }
    Ok(report)
}

/// Prints the report of a change: first its errors, then the result. Returns the exit code.
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
    ending.hints.iter().for_each(|hint| run.output.hint(hint));
    run.output.summary(report, &|screen| ending.plan_on(screen, run.output.is_verbose()));
    match ending.exit() {
        Exit::Done if run.output.has_failed() => Exit::Incomplete,
        exit => exit,
    }
}

/// Prints a list. Returns the exit code.
fn show_list(
    run: &Run,
    list: &(impl Listing + Serialize),
    style: &ListStyle,
    is_fine: bool,
) -> Result<Exit, Failure> {
    run.output.list(list, style)?;
    Ok(if is_fine && !run.output.has_failed() { Exit::Done } else { Exit::Incomplete })
}

/// Prints the report of a command that changes nothing. Returns the exit code.
fn show(run: &Run, report: &impl Report, is_fine: bool) -> Exit {
    if !keep_metrics(run, report) {
        run.output.result(report);
    }
    if is_fine && !run.output.has_failed() { Exit::Done } else { Exit::Incomplete }
}

/// Keeps a report for the textfile, and prints its metrics if they are the result. Returns true if they are.
fn keep_metrics(run: &Run, report: &impl Serialize) -> bool {
    run.output.keep(report);
    if !run.output.prints_metrics() {
        return false;
    }
    let report = serde_json::to_value(report).expect("the keys of all maps in reports are strings");
    run.output.print(&exposition(&report));
    true
}
