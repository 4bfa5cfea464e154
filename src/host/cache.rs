//! An image cache of any kind, as the operations see it: the trait [`ImageCache`] and its vocabulary.
//!
//! Each kind of cache implements how it is locked, scanned, planned, pruned and cleaned. The order in which
//! several caches give up images is decided in [`super::order`]. Nothing here prints or reports anything.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use anyhow::anyhow;

use crate::cache::lock::LockWait;
use crate::cache::outcome::{EntryError, Outcome, Progress};
use crate::cache::plan::{Choice, Kept, PrunePlan, PruneReason};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::names::ImageId;
use crate::os::space::{CLOSE, Space};
use crate::units::Nanos;

/// The rules by which a survey decides which images may be removed.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) now: Nanos,
    /// Images that were used less than this long ago are kept.
    pub(crate) min_age: Nanos,
    /// A download counts as crashed after this long without a sign of life.
    pub(crate) grace: Nanos,
    /// Images to keep, each [`ImageId::folded`].
    pub(crate) keep: HashSet<ImageId>,
    /// True if the cache is locked and may be changed. Then the remains of a killed run are repaired.
    pub(crate) changing: bool,
    /// True if rows may be forgotten even if most images of the index are missing.
    pub(crate) forget_all: bool,
    /// The images that a prune removes. An age limit of the cache counts only with [`Choice::OverLimit`].
    pub(crate) choice: Choice,
    /// If set, a cache whose index is not known from the settings is left alone as long as its files are
    /// within this many bytes.
    pub(crate) fits_without_index: Option<u64>,
}

/// The limits of one cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes. The cache is over its limit if the sizes of its images add up to more.
    pub(crate) size: u64,
    /// Bytes to prune down to once the cache is over its limit.
    pub(crate) target: u64,
    /// Bytes of the file system to keep free.
    pub(crate) min_free: Option<u64>,
    /// Images that were not used for longer than this are removed, whatever the size of the cache.
    pub(crate) age: Option<Nanos>,
}

impl Limits {
    /// Returns how many bytes of images have to be removed from a cache of this size.
    pub(super) fn excess(&self, size: u64) -> u64 {
        if size > self.size { size.saturating_sub(self.target) } else { 0 }
    }
}

/// An image that may be removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) last_use: Nanos,
    pub(crate) size: u64,
    /// Bytes of disk that its removal frees, as far as can be known beforehand.
    pub(crate) frees: u64,
}

/// A number of entries, and the sum of their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// The contents of a cache, as a survey counts them.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// The sizes of all images, which the cache's own limit refers to. `None` if they were not looked at.
    pub(crate) size: Option<u64>,
    /// True if the images are counted in the following three tallies.
    pub(crate) is_tallied: bool,
    /// Images that may be removed, with the bytes of disk they would free.
    pub(crate) reclaimable: Tally,
    /// Images in use, with the bytes of disk they hold.
    pub(crate) in_use: Tally,
    /// Images that are too young to be removed or are listed to be kept, with the bytes of disk they hold.
    pub(crate) kept: Tally,
    /// Files that crashed downloads left, with the bytes of disk they hold.
    pub(crate) leftovers: Tally,
    /// Stalled files that a process has open for writing, with the id of the process. They stay.
    pub(crate) kept_open: Vec<(String, i32)>,
    /// Names of entries that are not images, escaped. They are not touched.
    pub(crate) foreign: Vec<String>,
    /// True if the directory is empty.
    pub(crate) is_empty: bool,
    /// True if most images of the index are not in the directory. Then nothing is removed.
    pub(crate) is_misplaced: bool,
    pub(super) errors: Vec<EntryError>,
    /// Warnings about the cache.
    pub(super) notes: Vec<String>,
}

/// A plan for one cache. Images are given by positions that only the cache itself can resolve.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Images that are removed because they have expired.
    pub(crate) expired: Vec<u32>,
    /// Images that are removed, least recently used first, until the goal is reached.
    pub(crate) rest: PrunePlan,
}

/// An entry that a plan mentions.
#[derive(Debug)]
pub(crate) enum Foreseen {
    /// A row whose file is missing.
    Ghost(String),
    Removal(PlannedRemoval),
    Kept {
        name: String,
        size: u64,
        why: Kept,
    },
}

/// An image that a plan removes.
#[derive(Debug)]
pub(crate) struct PlannedRemoval {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Bytes of disk that its removal frees, as far as can be known beforehand.
    pub(crate) frees: u64,
    pub(crate) last_use: Nanos,
    /// True if the index has no row for it.
    pub(crate) is_orphan: bool,
    pub(crate) reason: PruneReason,
}

/// An image of a cache, as the survey found it.
#[derive(Debug)]
pub(crate) struct HeldImage {
    pub(crate) name: String,
    /// True if the index should have a row for it, and has none.
    pub(crate) is_orphan: bool,
    pub(crate) size: u64,
    pub(crate) last_use: Nanos,
    /// The number of hard links to the file, its name in the cache included.
    pub(crate) links: u32,
    /// The reason for keeping the image; `None` if it may be removed.
    pub(crate) held: Option<Holder>,
}

/// The reason for keeping an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// An instance has a link to it.
    InUse,
    /// The rules keep it.
    Rule(Kept),
}

/// A file, or a directory of files, that a clean removes.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) name: String,
    pub(crate) reason: String,
    pub(crate) is_invalid: bool,
    /// The number of files.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// When to stop removing images.
pub(crate) enum Until<'a, 's> {
    /// After all given images.
    All,
    /// After images that have this many bytes together.
    Size(u64),
    /// As soon as this much space is free.
    Space(&'a mut Space<'s>),
}

/// The distance to the point where the removal stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Distance {
    Far,
    /// So little space is missing that removing a directory of our own may be enough.
    Close,
    Reached,
}

impl Until<'_, '_> {
    pub(super) fn is_reached(&mut self) -> bool {
        match self {
            Until::All => false,
            Until::Size(left) => *left == 0,
            Until::Space(space) => space.is_there(),
        }
    }

    /// Returns the distance. It is asked for before each image. If it is [`Distance::Close`], the caller has
    /// not waited yet for blocks that the file system frees late.
    pub(super) fn distance(&mut self) -> Distance {
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

    /// Takes account of an image that was removed.
    pub(super) fn removed(&mut self, size: u64, frees: u64) {
        match self {
            Until::All => {}
            Until::Size(left) => *left = left.saturating_sub(size),
            Until::Space(space) => space.released += frees,
        }
    }
}

/// The reason that a cache was not locked.
#[derive(Debug)]
pub(crate) enum Unlocked {
    /// Another process, which the text names, holds the lock, and the run does not wait for it.
    Busy(String),
    /// A signal came while waiting.
    Interrupted,
    Failed(Failure),
}

/// The changes of `clean --repair` to the index of a cache.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    /// Orphans that Glance may just be publishing, because they are so young: name, size and last change.
    pub(crate) too_young: Vec<(String, u64, Nanos)>,
    /// Orphans to adopt: name, size and last use. Only a plan fills this in.
    pub(crate) adopt: Vec<(String, u64, Nanos)>,
    pub(crate) ghosts: Vec<String>,
    pub(crate) bad_rows: Vec<String>,
    /// The reason for not repairing anything.
    pub(crate) refused: Option<EntryError>,
}

/// An opened cache of any kind.
pub(crate) trait ImageCache {
    /// Returns the directory.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Locks the cache against other runs, until it is dropped.
    fn lock(&mut self, wait: &LockWait) -> Result<(), Unlocked>;

    /// Scans the cache. Positions of images are valid until the next survey.
    ///
    /// `caches` holds the device and inode of every cache of the host: none of these directories is ever
    /// taken for the remains of a download.
    fn survey(&mut self, rules: &Rules, caches: &[(u64, u64)]) -> Result<Stock, Failure>;

    /// Returns all images that the survey found.
    fn images(&self, rules: &Rules) -> Vec<HeldImage>;

    /// Plans which images are removed so that the limits hold.
    fn plan(&self, rules: &Rules, limits: &Limits) -> Result<Planned, Failure>;

    /// Describes a plan: the rows without a file, the images to remove, and the images that stay.
    fn describe(&self, planned: &Planned) -> Vec<Foreseen>;

    /// Returns the images that a plan keeps: why, and their sizes.
    fn kept(&self, planned: &Planned) -> Vec<(Kept, u64)>;

    /// Carries a plan out. It is also called with an empty plan, because rows without a file are forgotten in
    /// any case.
    fn carry_out(&mut self, planned: Planned, limits: &Limits, removing: &mut Removing<'_>);

    /// Returns the images that may be removed, least recently used first.
    fn items(&mut self, rules: &Rules) -> Vec<Item>;

    /// Returns the name of an item.
    fn name(&self, item: u32) -> String;

    /// Removes items in this order until the end is reached. Each is checked again before it is removed.
    fn remove(
        &mut self,
        items: &[u32],
        until: &mut Until<'_, '_>,
        reason: PruneReason,
        removing: &mut Removing<'_>,
    );

    /// Removes the directory that was created for the removal, if there is one.
    fn tidy(&mut self) {}

    /// Returns the files and directories that a clean removes, in the order of removal.
    fn remains(&self) -> Vec<Remains>;

    /// Removes the leftovers that the survey found.
    fn clean(&mut self, removing: &mut Removing<'_>);

    /// Plans a repair of the index.
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

/// The context of a removal: the signal that ends it, the progress bar, and the outcome so far.
pub(crate) struct Removing<'a> {
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) outcome: Outcome,
}
