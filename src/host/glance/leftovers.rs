//! Invalid and stalled entries of a Glance cache: what a clean removes, and a prune on a full disk.
//!
//! Nothing is removed here. Which process writes to a stalled entry is looked up in one pass over `/proc`.

use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::EntryKind;
use crate::cache::inventory::Partials;
use crate::cache::outcome::{Action, EntryError};
use crate::cache::plan::{self, CleanLimits, CleanPlan};
use crate::host::glance::open::unreadable_errors;
use crate::os::writers::{self, Writers};
use crate::run::Run;

/// Scans both subdirectories and plans a clean. Entries that could not be looked at become errors.
pub(super) fn plan_clean(run: &Run, dir: &CacheDir, limits: CleanLimits) -> (CleanPlan, Vec<EntryError>) {
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
                action: Action::List,
                message: e.root_cause().to_string(),
            });
            Partials::default()
        }
    };
    let (invalid, incomplete) = (scan(CachePlace::Invalid), scan(CachePlace::Incomplete));
    (plan_with_writers(run, dir, invalid, incomplete, limits), errors)
}

/// Returns what a prune may remove without an index when the disk is full: what a clean would remove.
pub(super) fn on_full_disk(run: &Run, dir: &CacheDir, limits: CleanLimits) -> CleanPlan {
    let scan = |place| Partials::scan(dir, place).unwrap_or_default();
    plan_with_writers(run, dir, scan(CachePlace::Invalid), scan(CachePlace::Incomplete), limits)
}

fn plan_with_writers(
    run: &Run,
    dir: &CacheDir,
    invalid: Partials,
    incomplete: Partials,
    limits: CleanLimits,
) -> CleanPlan {
    let stalled = incomplete
        .entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::File && plan::is_stalled(entry, limits, run.now));
    let writers = match dir.fd(CachePlace::Incomplete) {
        Some(fd) => writers::find(fd, stalled.map(|entry| (entry.name.as_name(), entry.seen.inode))),
        None => Writers::default(),
    };
    if writers.some_unseen {
        run.output.note(
            "not every process could be looked into: for stalled entries that other users' processes may still \
             write to, the modification time decides",
        );
    }
    plan::clean(invalid, incomplete, limits, run.now, &writers.by_inode)
}
