//! What can be done: a request in, a report out.

use crate::cache::outcome::{EntryError, Outcome};
use crate::commands::flags::ChangeArgs;
use crate::database::Refusal;
use crate::exit::{Exit, Failure};
use crate::interrupt::{Wait, signal_name};
use crate::ops::report::Run;
use crate::output::Report;
use crate::run::Context;

pub(crate) mod clean;
pub(crate) mod clean_all;
pub(crate) mod fleet;
pub(crate) mod host;
pub(crate) mod host_report;
pub(crate) mod ids;
pub(crate) mod limits;
pub(crate) mod list;
pub(crate) mod look;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod report;
pub(crate) mod require;
pub(crate) mod status;

/// How long this run waits for locks and a busy index.
pub(crate) fn wait(context: &Context, change: &ChangeArgs) -> Wait {
    Wait { limit: change.lock_timeout.as_std(), interrupt: context.interrupt.clone() }
}

/// Tells the errors of a run on stderr, and how the run ended.
pub(crate) fn conclude(context: &Context, outcome: &Outcome, errors: &[EntryError]) -> Exit {
    for error in errors {
        context.output.error(&format!("cannot {} {}: {}", error.action, error.name, error.message));
    }
    if let Some(signal) =
        context.interrupt.signal().filter(|_| matches!(outcome.stopped, Some(Refusal::Interrupted)))
    {
        return Exit::Signal(signal);
    }
    if errors.is_empty() { Exit::Done } else { Exit::Incomplete }
}

/// The name of the signal that ended a run early.
pub(crate) fn stopped_by(context: &Context, outcome: &Outcome) -> Option<&'static str> {
    let interrupted = matches!(outcome.stopped, Some(Refusal::Interrupted));
    context.interrupt.signal().filter(|_| interrupted).map(signal_name)
}

/// Takes what ended a run early out of its outcome: an error of the run, or, when nothing was changed at all, its failure.
pub(crate) fn check_stopped(outcome: &mut Outcome) -> Result<(), Failure> {
    match outcome.stopped.take() {
        None => Ok(()),
        Some(Refusal::Interrupted) => {
            outcome.stopped = Some(Refusal::Interrupted);
            Ok(())
        }
        Some(refusal) if outcome.is_untouched() => {
            Err(Failure::cannot_start(refusal.into_error().context("nothing was changed")))
        }
        Some(refusal) => {
            let message = format!("{:#}", refusal.into_error());
            outcome.errors.push(EntryError { name: "index".to_owned(), action: "change", message });
            Ok(())
        }
    }
}

/// Prints the report of a change, however it ended: only a run that failed for another reason than a signal has none.
pub(crate) fn tell<R: Report>(
    context: &Context,
    report: &mut R,
    run: impl Fn(&mut R) -> &mut Run,
    ended: Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let ended = match (ended, context.interrupt.signal()) {
        (Err(_), Some(signal)) => {
            run(report).signal = Some(signal_name(signal));
            Exit::Signal(signal)
        }
        (ended, _) => ended?,
    };
    context.output.summary(report);
    Ok(if ended == Exit::Done && context.output.has_failed() { Exit::Incomplete } else { ended })
}

/// The one place where an error is printed.
pub(crate) fn finish(context: &Context, result: Result<Exit, Failure>) -> Exit {
    result.unwrap_or_else(|failure| {
        context.output.failure(&failure);
        failure.exit
    })
}
