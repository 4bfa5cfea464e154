//! Invalid and stalled entries of a Glance cache.

use crate::cache::dir::{CacheDir, Place};
use crate::cache::entry::Kind;
use crate::cache::inventory::Partials;
use crate::cache::outcome::EntryError;
use crate::cache::plan::{self, CleanLimits, CleanPlan};
use crate::host::glance::open::unreadable_errors;
use crate::os::writers::{self, Writers};
use crate::run::Context;

/// Scans both subdirectories and plans. Entries that could not be looked at become errors.
pub(crate) fn plan_clean(
    context: &Context,
    dir: &CacheDir,
    limits: CleanLimits,
) -> (CleanPlan, Vec<EntryError>) {
    let mut errors = Vec::new();
    let mut scan = |place| match Partials::scan(dir, place) {
        Ok(partials) => {
            errors.extend(unreadable_errors(&partials.unreadable));
            partials
        }
        // One unreadable subdirectory does not keep the other from being cleaned.
        Err(e) => {
            errors.push(EntryError {
                name: format!("{}/", place.name()),
                action: "list",
                message: e.root_cause().to_string(),
            });
            Partials::default()
        }
    };
    let (invalid, incomplete) = (scan(Place::Invalid), scan(Place::Incomplete));
    let plan = plan_with_writers(context, dir, invalid, incomplete, limits);
    (plan, errors)
}

fn plan_with_writers(
    context: &Context,
    dir: &CacheDir,
    invalid: Partials,
    incomplete: Partials,
    limits: CleanLimits,
) -> CleanPlan {
    let stalled = incomplete
        .entries
        .iter()
        .filter(|e| e.kind == Kind::File && plan::is_stalled(e, limits, context.now));
    let writers = match dir.fd(Place::Incomplete) {
        Some(fd) => writers::find(fd, stalled.map(|e| (e.name.as_name(), e.seen.inode))),
        None => Writers::default(),
    };
    if writers.some_unseen {
        context.output.note(
            "not every process could be looked into: for stalled entries that other users' processes may still write to, the \
             modification time decides",
        );
    }
    plan::clean(invalid, incomplete, limits, context.now, &writers.by_inode)
}

/// What a prune may remove without an index when the disk is full: what this command would.
pub(crate) fn room(context: &Context, dir: &CacheDir, limits: CleanLimits) -> CleanPlan {
    let scan = |place| Partials::scan(dir, place).unwrap_or_default();
    plan_with_writers(context, dir, scan(Place::Invalid), scan(Place::Incomplete), limits)
}
