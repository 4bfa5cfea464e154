//! The invalid and stalled entries of a Glance cache: finds those that a clean removes, or a prune on a full
//! disk.
//!
//! Nothing is removed here. The processes that write to stalled entries are found in one pass over `/proc`.

use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::EntryKind;
use crate::cache::inventory::Partials;
use crate::cache::outcome::{Action, EntryError};
use crate::cache::plan::{self, CleanLimits, CleanPlan};
use crate::host::glance::open::unreadable_errors;
use crate::names::ImageId;
use crate::os::writers::{self, Writers};
use crate::run::Run;

/// The entries that a clean removes, and those that it leaves.
pub(super) struct Leftovers {
    pub(super) plan: CleanPlan,
    /// Entries that cannot be examined.
    pub(super) errors: Vec<EntryError>,
    /// Sentences about entries that keep an image from being cached.
    pub(super) blocking: Vec<String>,
}

/// Scans both subdirectories and plans a clean.
pub(super) fn plan_clean(run: &Run, dir: &CacheDir, limits: CleanLimits) -> Leftovers {
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
    let blocking =
        incomplete.foreign.iter().filter(|entry| ImageId::new(entry.name.as_name().as_bytes()).is_some());
    let blocking = blocking.map(|entry| {
        let name = entry.place.show(entry.name.as_name());
        format!("{name} is {}, which keeps the image from being cached: remove it", entry.kind)
    });
    let blocking = blocking.collect();
    Leftovers { plan: plan_with_writers(run, dir, invalid, incomplete, limits), errors, blocking }
}

/// Plans what a prune may remove without the index if the disk is full: the entries that a clean would
/// remove.
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
        run.output
            .note("cannot see every open file of other users: only the age shows which entries are stalled");
    }
    plan::clean(invalid, incomplete, limits, run.now, &writers.by_inode)
}
