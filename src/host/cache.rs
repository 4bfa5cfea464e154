//! An image cache of any kind, as the operations see it.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use anyhow::Result;

use crate::cache::outcome::{EntryError, Outcome, Progress};
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::os::space::{CLOSE, Space};
use crate::units::Nanos;

/// What a survey has to know to tell what may go.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) now: Nanos,
    /// Images used less than this ago stay.
    pub(crate) min_age: Nanos,
    /// How long a download must have shown no sign of life to count as crashed.
    pub(crate) grace: Nanos,
    /// Images that stay, [`ImageId::folded`].
    pub(crate) keep: HashSet<ImageId>,
    /// Whether the cache is locked and may be changed: what a killed run left is mended then.
    pub(crate) changing: bool,
    /// Whether indexes may be told to forget most of what they know.
    pub(crate) forget_all: bool,
}

/// An image that may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) last_use: Nanos,
    pub(crate) size: u64,
    /// Bytes of disk that removing it frees, as far as one can tell beforehand.
    pub(crate) frees: u64,
}

/// How many, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub(crate) struct Part {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Part {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a cache holds.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    /// Images that may go, least recently used first.
    pub(crate) items: Vec<Item>,
    /// The sizes of all images, which the cache's own limit is about.
    pub(crate) size: u64,
    /// Images in use, with the bytes of disk they hold.
    pub(crate) in_use: Part,
    /// Images that may not go, as young or as listed to be kept, with the bytes of disk they hold.
    pub(crate) kept: Part,
    /// What crashed downloads left, with the bytes of disk it holds.
    pub(crate) leftovers: Part,
    /// Entries that are no images and are not touched, escaped.
    pub(crate) foreign: Vec<String>,
    pub(crate) errors: Vec<EntryError>,
    pub(crate) notes: Vec<String>,
}

impl Stock {
    /// Bytes of disk that all images together would free.
    pub(crate) fn reclaimable(&self) -> u64 {
        self.items.iter().map(|item| item.frees).sum()
    }
}

/// An image, or another entry, that a dry run tells of.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) reason: String,
    /// How many files it is.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// What removing goes on to.
pub(crate) enum Target<'a, 's> {
    /// All that is given.
    All,
    /// Until images of so many bytes in all are gone.
    Size(u64),
    /// Until there is that much space.
    Room(&'a mut Space<'s>),
}

/// How far a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Distance {
    Far,
    /// So little is missing that a directory of ours could be what is in the way.
    Close,
    Reached,
}

impl Target<'_, '_> {
    pub(crate) fn is_reached(&mut self) -> bool {
        match self {
            Target::All => false,
            Target::Size(left) => *left == 0,
            Target::Room(space) => space.is_there(),
        }
    }

    /// The same, looked at once for each image: when [`Distance::Close`], nothing has been waited for yet.
    pub(crate) fn distance(&mut self) -> Distance {
        let reached = match self {
            Target::All => false,
            Target::Size(left) => *left == 0,
            Target::Room(space) => match space.missing() {
                0 => true,
                1..=CLOSE => return Distance::Close,
                _ => space.has_settled(),
            },
        };
        if reached { Distance::Reached } else { Distance::Far }
    }

    /// Books an image that is gone.
    pub(crate) fn gone(&mut self, size: u64, frees: u64) {
        match self {
            Target::All => {}
            Target::Size(left) => *left = left.saturating_sub(size),
            Target::Room(space) => space.released += frees,
        }
    }
}

/// An opened cache of any kind.
pub(crate) trait ImageCache {
    /// The directory.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Locks the cache against other runs, until it is dropped. An error tells who holds it.
    fn lock(&mut self, wait: &Wait) -> Result<()>;

    /// Looks at everything in it. Positions of items are good until the next survey.
    ///
    /// `caches` are the device and inode of all caches of the host, which are no leftovers wherever they are.
    fn survey(&mut self, rules: &Rules, caches: &[(u64, u64)]) -> Result<Stock>;

    /// The name of an item.
    fn name(&self, item: u32) -> String;

    /// Removes items in this order until the target is reached, looking at each again.
    fn remove(
        &mut self,
        items: &[u32],
        target: &mut Target<'_, '_>,
        reason: &'static str,
        run: &mut Removing<'_>,
    );

    /// Removes whatever was made for removing.
    fn tidy(&mut self) {}

    /// What a clean would remove, in its order.
    fn leftovers(&self) -> Vec<Told>;

    /// Removes the leftovers of the survey.
    fn clean(&mut self, run: &mut Removing<'_>);
}

/// What is handed on while images are removed.
pub(crate) struct Removing<'a> {
    pub(crate) wait: &'a Wait,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) outcome: Outcome,
}
