//! `prune --all-caches`: holds every cache of the host to its own age and size, on every file system.

use crate::cache::outcome::Outcome;
use crate::exit::Exit;
use crate::host::Host;
use crate::host::cache::{Removing, Rules, Target};
use crate::host::gather::{Member, gather};
use crate::host::order::{Pick, limits};
use crate::ops::host::TotalsReport;
use crate::ops::host_report::HostRun;
use crate::output::progress::Bar;
use crate::run::Context;
use crate::units::human;

pub(crate) fn hold(context: &Context, host: &Host<'_>, rules: &Rules) -> Exit {
    let mut gathered = gather(host, rules, None);
    gathered.tell(context);
    let mut run = HostRun::new(&gathered, !rules.changing);
    if run.dry_run {
        let members = gathered.members.iter().enumerate();
        let picks: Vec<Pick> = members.flat_map(|(cache, member)| planned(cache, member, rules)).collect();
        run.would_prune(&gathered.members, &picks, rules.now);
    } else {
        let mut outcomes = Vec::new();
        for member in &mut gathered.members {
            outcomes.push(hold_one(context, host, member, rules));
            if context.interrupt.raised() {
                break;
            }
        }
        run.did(context, &gathered.members, outcomes);
    }
    let report = TotalsReport::pruned(run);
    context.output.summary(&report);
    let is_over = tell_over(context, &report.run);
    report.run.end(context, is_over)
}

/// What goes if nothing comes between: what has expired, then least recently used images until the size is kept.
fn planned(cache: usize, member: &Member<'_>, rules: &Rules) -> Vec<Pick> {
    let (expired, mut over) = limits(member.view(), member.limit, rules.now);
    let mut picks: Vec<Pick> = (0..expired as u32).map(|item| Pick { cache, item, expired: true }).collect();
    for (item, image) in member.stock.items.iter().enumerate().skip(expired) {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(image.size);
        picks.push(Pick { cache, item: item as u32, expired: false });
    }
    picks
}

fn hold_one(context: &Context, host: &Host<'_>, member: &mut Member<'_>, rules: &Rules) -> Outcome {
    let (count, over) = limits(member.view(), member.limit, rules.now);
    let items: Vec<u32> = (0..member.stock.items.len() as u32).collect();
    let (expired, rest) = items.split_at(count);
    let bytes = member.stock.items[..count].iter().fold(over, |sum, item| sum.saturating_add(item.size));
    let bar = Bar::new(&context.output, "pruning", bytes, Some(bytes));
    let mut run = Removing { wait: &host.wait, progress: &bar, outcome: Outcome::default() };
    // One run for each cache even when nothing is over: rows without a file are forgotten all the same.
    if !expired.is_empty() {
        member.cache.remove(expired, &mut Target::All, "expired", &mut run);
    }
    let gone = run.outcome.bytes.saturating_add(run.outcome.bytes_gone);
    // What of the expired ones stayed counts towards the size.
    let over = member.stock.size.saturating_sub(gone).saturating_sub(member.limit);
    member.cache.remove(rest, &mut Target::Size(over), "least recently used", &mut run);
    run.outcome
}

/// Tells which caches are over their limit all the same, unless a signal is the reason. Returns whether any is.
fn tell_over(context: &Context, run: &HostRun) -> bool {
    let mut is_over = false;
    for line in run.caches.iter().filter(|line| line.is_over()) {
        is_over = true;
        if run.signal.is_none() {
            context.output.error(&format!(
                "{} ({}) is still over its limit: {} of {}; what is left is in use, too young, listed to be kept, or could not be \
                 removed",
                line.name,
                line.directory,
                human(line.size),
                human(line.limit)
            ));
        }
    }
    is_over
}
