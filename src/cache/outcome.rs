//! The outcome of a change to a cache: counts, entries that failed, and removals reported as they happen.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::cache::dir::CachePlace;
use crate::database::refusal::Refusal;
use crate::names::Name;
use crate::units::Nanos;

/// Receives each removal as it happens; `()` ignores them.
pub(crate) trait Progress {
    /// Reports an entry that was removed.
    fn removed(&self, _what: Removed<'_>) {}
}

impl Progress for () {}

/// An entry that was removed.
#[derive(Clone, Copy)]
pub(crate) struct Removed<'a> {
    pub(crate) place: CachePlace,
    pub(crate) name: Name<'a>,
    pub(crate) bytes: u64,
    pub(crate) reason: &'static str,
    /// True if only its row was removed, because its file was missing.
    pub(crate) is_ghost: bool,
    /// True if the index had no row for the image.
    pub(crate) is_orphan: bool,
    pub(crate) last: Last,
}

/// The last sign of life of an entry that was removed.
#[derive(Clone, Copy)]
pub(crate) enum Last {
    Use(Nanos),
    Write(Nanos),
    Unknown,
}

/// The thing that was being done to an entry when it failed. Its word is a value of our JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Change,
    /// To have a node clean its cache.
    Clean,
    Dequeue,
    Enqueue,
    Fetch,
    Find,
    Forget,
    /// To have as much free space as was asked for.
    Free,
    /// To hold a cache to its limit.
    Limit,
    List,
    Lock,
    Look,
    LookThrough,
    Measure,
    /// To move an image to `invalid/`.
    Move,
    Open,
    Prune,
    /// To have a node put images into its queue.
    Queue,
    Remove,
    Repair,
    Verify,
}

impl Action {
    /// Returns the word that stands in our JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Action::Change => "change",
            Action::Clean => "clean",
            Action::Dequeue => "dequeue",
            Action::Enqueue => "enqueue",
            Action::Fetch => "fetch",
            Action::Find => "find",
            Action::Forget => "forget",
            Action::Free => "free",
            Action::Limit => "limit",
            Action::List => "list",
            Action::Lock => "lock",
            Action::Look => "look",
            Action::LookThrough => "look through",
            Action::Measure => "measure",
            Action::Move => "move",
            Action::Open => "open",
            Action::Prune => "prune",
            Action::Queue => "queue",
            Action::Remove => "remove",
            Action::Repair => "repair",
            Action::Verify => "verify",
        }
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// An entry that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct EntryError {
    /// The entry, escaped.
    pub(crate) name: String,
    pub(crate) action: Action,
    pub(crate) message: String,
}

/// Shows the error as a sentence.
impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EntryError { name, action, message } = self;
        match action {
            // The message is the sentence, and the name is where it holds.
            Action::Free | Action::Limit => write!(f, "{name}: {message}"),
            Action::Fetch => write!(f, "image {name}: {message}"),
            Action::Look => write!(f, "cannot look at {name}: {message}"),
            Action::Enqueue => write!(f, "cannot put {name} into the queue: {message}"),
            Action::Dequeue => write!(f, "cannot take {name} out of the queue: {message}"),
            Action::Queue => write!(f, "cannot queue images on {name}: {message}"),
            Action::Find => write!(f, "cannot use cache {name}: {message}"),
            Action::Forget => write!(f, "cannot remove rows of {name}: {message}"),
            action => write!(f, "cannot {} {name}: {message}", action.word()),
        }
    }
}

/// The outcome of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) files: u64,
    /// The sizes of the removed files.
    pub(crate) bytes: u64,
    /// The sizes of images that other processes removed meanwhile.
    pub(crate) bytes_gone: u64,
    /// Rows of removed files that could not be deleted: ghosts, which the next run forgets.
    pub(crate) rows_left: u64,
    pub(crate) ghosts_forgotten: u64,
    pub(crate) orphans_adopted: u64,
    pub(crate) rows_dropped: u64,
    pub(crate) invalid_files: u64,
    pub(crate) stalled_files: u64,
    /// Bytes of invalid and stalled files.
    pub(crate) bytes_cleaned: u64,
    /// Entries that were used or changed since the plan was made. They stay.
    pub(crate) left_alone: u64,
    pub(crate) errors: Vec<EntryError>,
    /// Of what was done all the same.
    pub(crate) warnings: Vec<String>,
    /// The reason why the run ended early; `None` if it did not.
    pub(crate) stopped: Option<Refusal>,
}

impl Outcome {
    /// True if nothing was changed at all.
    pub(crate) fn is_untouched(&self) -> bool {
        self.files + self.ghosts_forgotten + self.orphans_adopted + self.rows_dropped == 0
            && self.invalid_files + self.stalled_files == 0
    }

    /// Adds the outcome of another part of the run, except how that part ended.
    pub(crate) fn add(&mut self, mut part: Outcome) {
        self.files += part.files;
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.bytes_gone = self.bytes_gone.saturating_add(part.bytes_gone);
        self.rows_left += part.rows_left;
        self.ghosts_forgotten += part.ghosts_forgotten;
        self.orphans_adopted += part.orphans_adopted;
        self.rows_dropped += part.rows_dropped;
        self.invalid_files += part.invalid_files;
        self.stalled_files += part.stalled_files;
        self.bytes_cleaned += part.bytes_cleaned;
        self.left_alone += part.left_alone;
        self.errors.append(&mut part.errors);
        self.warnings.append(&mut part.warnings);
    }

    pub(super) fn error(&mut self, name: impl Into<String>, action: Action, message: impl Into<String>) {
        self.errors.push(EntryError { name: name.into(), action, message: message.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_changed_anything_is_not_untouched() {
        assert!(Outcome::default().is_untouched());
        let one = Outcome { bytes: 1, left_alone: 1, rows_left: 1, ..Outcome::default() };
        assert!(one.is_untouched());
        for changed in [
            Outcome { files: 1, ..Outcome::default() },
            Outcome { ghosts_forgotten: 1, ..Outcome::default() },
            Outcome { orphans_adopted: 1, ..Outcome::default() },
            Outcome { rows_dropped: 1, ..Outcome::default() },
            Outcome { invalid_files: 1, ..Outcome::default() },
            Outcome { stalled_files: 1, ..Outcome::default() },
        ] {
            assert!(!changed.is_untouched(), "{changed:?}");
        }
    }

    #[test]
    fn the_parts_of_a_run_are_summed_up() {
        let part = || {
            let mut part = Outcome {
                files: 3,
                bytes: 5,
                bytes_gone: 7,
                rows_left: 11,
                ghosts_forgotten: 13,
                orphans_adopted: 17,
                rows_dropped: 19,
                invalid_files: 23,
                stalled_files: 29,
                bytes_cleaned: 31,
                left_alone: 37,
                warnings: vec!["a warning".to_owned()],
                stopped: Some(Refusal::Interrupted),
                ..Outcome::default()
            };
            part.error("index", Action::Forget, "it is locked");
            part
        };
        let mut sum = Outcome::default();
        sum.add(part());
        sum.add(part());
        let Outcome { files, bytes, bytes_gone, rows_left, ghosts_forgotten, orphans_adopted, .. } = sum;
        assert_eq!((files, bytes, bytes_gone), (6, 10, 14));
        assert_eq!((rows_left, ghosts_forgotten, orphans_adopted), (22, 26, 34));
        assert_eq!((sum.rows_dropped, sum.invalid_files, sum.stalled_files), (38, 46, 58));
        assert_eq!((sum.bytes_cleaned, sum.left_alone), (62, 74));
        assert_eq!((sum.errors.len(), sum.warnings.len()), (2, 2));
        assert!(sum.stopped.is_none());
        assert_eq!(sum.errors[0].to_string(), "cannot remove rows of index: it is locked");
    }
}
