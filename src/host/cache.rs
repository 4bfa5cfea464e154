//! An image cache of any kind, as the operations see it.
//!
//! A kind of cache knows how to lock itself, to look at everything in it, to plan within limits, to carry a plan out, and
//! to remove what crashed downloads left. Deciding between several caches is in [`super::order`]; reporting is the
//! operations' business.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use anyhow::anyhow;

use crate::cache::lock::LockWait;
use crate::cache::outcome::{EntryError, Outcome, Progress};
use crate::cache::plan::{Kept, PrunePlan};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::names::ImageId;
use crate::os::space::{CLOSE, Space};
use crate::units::Nanos;

/// What a survey has to know to tell the images that may be removed from the others.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) now: Nanos,
    /// Images used less than this ago stay.
    pub(crate) min_age: Nanos,
    /// How long a download must have shown no sign of life to count as crashed.
    pub(crate) grace: Nanos,
    /// Images that stay, [`ImageId::folded`].
    pub(crate) keep: HashSet<ImageId>,
    /// True if the cache is locked and may be changed: then what a killed run left is repaired.
    pub(crate) changing: bool,
    /// True if an index may be told to forget most of what it knows.
    pub(crate) forget_all: bool,
    /// True if a cache whose files alone are within this many bytes is nothing to do even when its index cannot be
    /// known from the settings.
    pub(crate) fits_without_index: Option<u64>,
}

/// What bounds one cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes; the cache is over its limit when its images sum to more.
    pub(crate) size: u64,
    /// Bytes to prune down to once the cache is over its limit.
    pub(crate) target: u64,
    /// Bytes of the file system to keep free.
    pub(crate) min_free: Option<u64>,
    /// Images not used for longer than this are removed, whatever the size of the cache.
    pub(crate) age: Option<Nanos>,
}

impl Limits {
    /// Returns how many bytes of images have to be removed from a cache of this size.
    pub(crate) fn excess(&self, size: u64) -> u64 {
        if size > self.size { size.saturating_sub(self.target) } else { 0 }
    }
}

/// An image that may be removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) last_use: Nanos,
    pub(crate) size: u64,
    /// Bytes of disk that removing it frees, as far as that can be known beforehand.
    pub(crate) frees: u64,
}

/// A number of entries, and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub(crate) struct Part {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Part {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What a cache holds.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// The sizes of all images: what the cache's own limit is about.
    pub(crate) size: u64,
    /// Images that may be removed, with the bytes of disk they would free.
    pub(crate) reclaimable: Part,
    /// Images in use, with the bytes of disk they hold.
    pub(crate) in_use: Part,
    /// Images that are too young to be removed, or listed to be kept, with the bytes of disk they hold.
    pub(crate) kept: Part,
    /// What crashed downloads left, with the bytes of disk it holds.
    pub(crate) leftovers: Part,
    /// Stalled files that stay because a process has them open for writing, with its id.
    pub(crate) kept_open: Vec<(String, i32)>,
    /// Entries that are no images and are not touched, escaped.
    pub(crate) foreign: Vec<String>,
    /// True if the directory holds nothing at all.
    pub(crate) is_empty: bool,
    /// True if most of its index is not in the directory, so that nothing is removed.
    pub(crate) is_misplaced: bool,
    pub(crate) errors: Vec<EntryError>,
    pub(crate) notes: Vec<String>,
}

/// A plan for one cache. Positions are the cache's own.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Images that are removed because they have expired.
    pub(crate) expired: Vec<u32>,
    /// Images that are removed, least recently used first, until the goal is reached.
    pub(crate) rest: PrunePlan,
}

/// An entry that a plan is about.
#[derive(Debug)]
pub(crate) enum Foreseen {
    /// A row whose file is missing.
    Ghost(String),
    Victim(Victim),
    Kept {
        name: String,
        size: u64,
        why: Kept,
    },
}

/// An image that a plan removes.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) last_use: Nanos,
    /// True if its index has no row for it.
    pub(crate) is_orphan: bool,
    pub(crate) is_expired: bool,
}

/// A file, or a directory of files, that a clean removes.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) is_invalid: bool,
    /// How many files it is.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// When to stop removing images.
pub(crate) enum Until<'a, 's> {
    /// When all that are given are removed.
    All,
    /// When images of so many bytes in all are removed.
    Size(u64),
    /// When there is that much space.
    Space(&'a mut Space<'s>),
}

/// How far away the end is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Distance {
    Far,
    /// So little is missing that a directory of ours could be what is in the way.
    Close,
    Reached,
}

impl Until<'_, '_> {
    pub(crate) fn is_reached(&mut self) -> bool {
        match self {
            Until::All => false,
            Until::Size(left) => *left == 0,
            Until::Space(space) => space.is_there(),
        }
    }

    /// Returns the distance, looked at once for each image. When it is [`Distance::Close`], nothing has been waited
    /// for yet.
    pub(crate) fn distance(&mut self) -> Distance {
        let reached = match self {
            Until::All => false,
            Until::Size(left) => *left == 0,
            Until::Space(space) => match space.missing() {
                0 => true,
                1..=CLOSE => return Distance::Close,
                _ => space.has_settled(),
            },
        };
        if reached { Distance::Reached } else { Distance::Far }
    }

    /// Accounts for an image that is no longer there.
    pub(crate) fn removed(&mut self, size: u64, frees: u64) {
        match self {
            Until::All => {}
            Until::Size(left) => *left = left.saturating_sub(size),
            Until::Space(space) => space.released += frees,
        }
    }
}

/// Why a cache was not locked.
#[derive(Debug)]
pub(crate) enum Unlocked {
    /// Another process holds the lock, and the run does not wait for it. The text says which.
    Busy(String),
    /// A signal came while waiting.
    Interrupted,
    Failed(Failure),
}

/// What `clean --repair` does to the index of a cache.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    /// Orphans too young to tell from an image that Glance is just publishing.
    pub(crate) too_young: Vec<(String, u64, Nanos)>,
    /// Orphans to adopt: name, size and last use. Filled in by a plan only.
    pub(crate) adopt: Vec<(String, u64, Nanos)>,
    pub(crate) ghosts: Vec<String>,
    pub(crate) bad_rows: Vec<String>,
    /// Why nothing is repaired.
    pub(crate) refused: Option<EntryError>,
}

/// An opened cache of any kind.
pub(crate) trait ImageCache {
    /// Returns the directory.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Locks the cache against other runs, until it is dropped.
    fn lock(&mut self, wait: &LockWait) -> Result<(), Unlocked>;

    /// Looks at everything in it. Positions of images are good until the next survey.
    ///
    /// `caches` are the device and inode of all caches of the host, which are no leftovers wherever they are.
    fn survey(&mut self, rules: &Rules, caches: &[(u64, u64)]) -> Result<Stock, Failure>;

    /// Plans which images to remove to keep the limits.
    fn plan(&self, rules: &Rules, limits: &Limits) -> Result<Planned, Failure>;

    /// Describes a plan: rows without files, images that are removed, and images that stay.
    fn describe(&self, planned: &Planned) -> Vec<Foreseen>;

    /// Carries a plan out. It is called even when the plan is empty: rows without files are forgotten all the same.
    fn carry_out(&mut self, planned: Planned, limits: &Limits, removing: &mut Removing<'_>);

    /// Returns the images that may be removed, least recently used first.
    fn items(&mut self, rules: &Rules) -> Vec<Item>;

    /// Returns the name of an item.
    fn name(&self, item: u32) -> String;

    /// Removes items in this order until the end is reached, looking at each again.
    fn remove(
        &mut self,
        items: &[u32],
        until: &mut Until<'_, '_>,
        reason: &'static str,
        removing: &mut Removing<'_>,
    );

    /// Removes whatever was made for removing.
    fn tidy(&mut self) {}

    /// Returns what a clean removes, in its order.
    fn remains(&self) -> Vec<Remains>;

    /// Removes what the survey found left over.
    fn clean(&mut self, removing: &mut Removing<'_>);

    /// Describes a repair of the index.
    fn plan_repair(&mut self, _rules: &Rules) -> Result<Repaired, Failure> {
        Err(no_index())
    }

    /// Repairs the index.
    fn repair(&mut self, _rules: &Rules, _removing: &mut Removing<'_>) -> Result<Repaired, Failure> {
        Err(no_index())
    }
}

fn no_index() -> Failure {
    Failure::usage(anyhow!("caches of this kind have no index to repair"))
}

/// What is handed on while images are removed.
pub(crate) struct Removing<'a> {
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) outcome: Outcome,
}
