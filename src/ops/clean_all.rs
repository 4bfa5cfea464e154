//! `clean --all-caches`: removes what crashed downloads left, and Glance's invalid and stalled entries, in every cache of the host.

use std::collections::HashSet;

use crate::cache::outcome::Outcome;
use crate::commands::clean::CleanArgs;
use crate::exit::{Exit, Failure};
use crate::host::cache::{Removing, Rules};
use crate::host::gather::{Gathered, gather};
use crate::host::{Host, Task};
use crate::ops::host::{TotalsReport, host, wait};
use crate::ops::host_report::HostRun;
use crate::output::progress::Bar;
use crate::run::Context;

pub(crate) fn clean(context: &Context, args: CleanArgs) -> Result<Exit, Failure> {
    let CleanArgs { cache, change, stall_time, invalid_grace, host: all, .. } = args;
    let rules = Rules {
        now: context.now,
        min_age: 0,
        grace: all.temp_grace.0,
        keep: HashSet::default(),
        changing: !change.dry_run,
        forget_all: false,
    };
    context.start()?;
    let mut host = host(context, cache, all, Task::Clean, wait(context, &change))?;
    host.stall_time = stall_time;
    host.skip_if_locked = change.skip_if_locked;
    host.invalid_grace = invalid_grace.0;
    let mut gathered = gather(&host, &rules, None);
    gathered.tell(context);
    let mut run = HostRun::new(&gathered, change.dry_run);
    if change.dry_run {
        run.would_clean(&gathered.members);
    } else {
        let outcomes = remove(context, &host, &mut gathered);
        run.did(context, &gathered.members, outcomes);
    }
    let report = TotalsReport::cleaned(run);
    context.output.summary(&report);
    Ok(report.run.end(context, false))
}

/// Removes the leftovers of each cache, and returns what came of it.
fn remove(context: &Context, host: &Host<'_>, gathered: &mut Gathered<'_>) -> Vec<Outcome> {
    let bar = Bar::new(&context.output, "cleaning", 0, None);
    let mut outcomes = Vec::new();
    for member in &mut gathered.members {
        let mut run = Removing { wait: &host.wait, progress: &bar, outcome: Outcome::default() };
        if !context.interrupt.raised() {
            member.cache.clean(&mut run);
        }
        outcomes.push(run.outcome);
    }
    outcomes
}
