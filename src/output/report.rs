//! What the commands report: one structure each, shown as JSON or in words.
//!
//! A key that Glance's API has keeps Glance's name and type: sizes are bytes, its times are epoch seconds. Times of our own are
//! RFC 3339 in UTC.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};

use super::Report;
use crate::cache::outcome::EntryError;
use crate::units::{count, human};

/// One step of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct PlanEntry {
    /// The image's id, or for what is no image the entry's name.
    pub(crate) image_id: String,
    /// `remove`, `forget`, `adopt`, `drop` or `keep`.
    pub(crate) action: &'static str,
    pub(crate) reason: String,
    pub(crate) bytes: u64,
}

/// What clean and prune have in common.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Run {
    pub(crate) dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Vec<PlanEntry>>,
    pub(crate) errors: Vec<EntryError>,
    /// Why nothing was done, when that was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
    /// The signal that ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<&'static str>,
}

impl Run {
    /// The lines before the summary: the plan of a dry run, or why nothing was done.
    fn preamble(&self) -> String {
        let mut text = String::new();
        for entry in self.plan.iter().flatten() {
            let _ = writeln!(
                text,
                "would {} {} ({}): {}",
                entry.action,
                entry.image_id,
                human(entry.bytes),
                entry.reason
            );
        }
        if let Some(why) = &self.skipped {
            let _ = writeln!(text, "nothing was done: {why}");
        }
        text
    }

    fn verb<'a>(&self, did: &'a str, would: &'a str) -> &'a str {
        if self.dry_run { would } else { did }
    }

    fn trailer(&self) -> String {
        let failed = match self.errors.len() {
            0 => String::new(),
            number => format!("; {} failed", count(number as u64, "entry")),
        };
        failed + &self.end()
    }

    /// What ended the run, and the end of the line.
    fn end(&self) -> String {
        let mut text = String::new();
        if let Some(signal) = self.signal {
            let _ = write!(text, "; stopped by {signal}");
        }
        text.push('\n');
        text
    }
}

/// What a prune did, or would do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PruneReport {
    pub(crate) total_files_pruned: u64,
    pub(crate) total_bytes_pruned: u64,
    pub(crate) ghosts_forgotten: u64,
    pub(crate) cache_size_before: u64,
    pub(crate) cache_size_after: u64,
    pub(crate) max_size: u64,
    /// Candidates that were used or changed since the plan was made, and stayed.
    pub(crate) left_alone: u64,
    /// Invalid and stalled files that went first because the disk was full.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_bytes_cleaned: u64,
    #[serde(flatten)]
    pub(crate) run: Run,
}

impl Report for PruneReport {
    fn text(&self) -> String {
        let mut text = self.run.preamble();
        if self.run.skipped.is_some() {
            return text;
        }
        let removed = count(self.total_files_pruned, "image");
        let _ = write!(
            text,
            "prune: {} {removed}, {}; the cache {} {} of {}",
            self.run.verb("removed", "would remove"),
            human(self.total_bytes_pruned),
            self.run.verb("holds", "would hold"),
            human(self.cache_size_after),
            human(self.max_size),
        );
        if self.ghosts_forgotten > 0 {
            let rows = count(self.ghosts_forgotten, "row");
            let _ = write!(text, "; {} {rows} without a file", self.run.verb("forgot", "would forget"));
        }
        if self.total_files_cleaned > 0 {
            let files = count(self.total_files_cleaned, "invalid or stalled file");
            let _ = write!(text, "; removed {files} because the disk was full");
        }
        if self.left_alone > 0 {
            let _ =
                write!(text, "; left {} alone, used or changed meanwhile", count(self.left_alone, "image"));
        }
        text + &self.run.trailer()
    }
}

/// What a clean did, or would do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CleanReport {
    pub(crate) total_files_cleaned: u64,
    pub(crate) total_bytes_cleaned: u64,
    pub(crate) invalid_files: u64,
    pub(crate) stalled_files: u64,
    /// Stalled by their age, but some process has them open for writing.
    pub(crate) kept_open: Vec<KeptOpen>,
    pub(crate) left_alone: u64,
    #[serde(flatten)]
    pub(crate) repair: Option<RepairReport>,
    #[serde(flatten)]
    pub(crate) run: Run,
}

/// What `clean --repair` did to the index.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RepairReport {
    pub(crate) ghosts_forgotten: u64,
    pub(crate) orphans_adopted: u64,
    pub(crate) rows_dropped: u64,
    /// Orphans too young to tell from an image that Glance is just publishing.
    pub(crate) orphans_too_young: u64,
}

/// An incomplete entry that a process still writes to.
#[derive(Debug, Serialize)]
pub(crate) struct KeptOpen {
    pub(crate) name: String,
    pub(crate) pid: i32,
}

impl Report for CleanReport {
    fn text(&self) -> String {
        let mut text = self.run.preamble();
        if self.run.skipped.is_some() {
            return text;
        }
        let _ = write!(
            text,
            "clean: {} {} and {}, {}",
            self.run.verb("removed", "would remove"),
            count(self.invalid_files, "invalid file"),
            count(self.stalled_files, "stalled file"),
            human(self.total_bytes_cleaned),
        );
        if !self.kept_open.is_empty() {
            let _ = write!(
                text,
                "; kept {} that a process writes to",
                count(self.kept_open.len() as u64, "file")
            );
        }
        if let Some(repair) = &self.repair {
            let _ = write!(
                text,
                "; {} {} without a file, {} {}, {} {}",
                self.run.verb("forgot", "would forget"),
                count(repair.ghosts_forgotten, "row"),
                self.run.verb("adopted", "would adopt"),
                count(repair.orphans_adopted, "orphan"),
                self.run.verb("dropped", "would drop"),
                count(repair.rows_dropped, "impossible row"),
            );
        }
        text + &self.run.trailer()
    }
}

/// What became of an image that was to be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImageOutcome {
    /// It is in the cache now; in a dry run it would be.
    Fetched,
    /// It was in the cache already.
    Cached,
    /// Glance is just caching it, or has while we fetched it.
    LeftToGlance,
    /// Glance's database has no such image, or not any more.
    Gone,
    /// Its record does not allow it now.
    NotReady,
    /// It failed in an earlier run, and nothing has changed since.
    Skipped,
    /// It does not fit, or cannot be verified and has to be.
    Refused,
    Failed,
    /// It was put into the queue.
    Enqueued,
    /// A signal ended the run before it was its turn, or while it was fetched.
    Pending,
}

impl ImageOutcome {
    /// Whether what was asked for has come true.
    pub(crate) fn is_good(self) -> bool {
        matches!(
            self,
            ImageOutcome::Fetched
                | ImageOutcome::Cached
                | ImageOutcome::LeftToGlance
                | ImageOutcome::Enqueued
                | ImageOutcome::Pending
        )
    }
}

/// One image of a prefetch.
#[derive(Debug, Serialize)]
pub(crate) struct ImageReport {
    pub(crate) image_id: String,
    pub(crate) outcome: ImageOutcome,
    /// Its size, where it is known.
    pub(crate) bytes: u64,
    /// Where it came from, without credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<String>,
    /// The hash it was verified by, or `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified_by: Option<String>,
    /// Why it ended so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    /// Whether it is in the queue now.
    pub(crate) queued: bool,
}

/// What a prefetch did, or would do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PrefetchReport {
    pub(crate) total_files_prefetched: u64,
    pub(crate) total_bytes_prefetched: u64,
    pub(crate) images: Vec<ImageReport>,
    /// Images that stay in the queue.
    pub(crate) still_queued: u64,
    /// Bytes of all images in the cache, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_size_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_size: Option<u64>,
    /// Whether the cache holds more than that now: prune's business.
    pub(crate) over_limit: bool,
    /// What went to make room.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_files_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_bytes_pruned: u64,
    #[serde(flatten)]
    pub(crate) run: Run,
}

impl PrefetchReport {
    fn having(&self, outcomes: &[ImageOutcome]) -> u64 {
        self.images.iter().filter(|image| outcomes.contains(&image.outcome)).count() as u64
    }
}

impl Report for PrefetchReport {
    fn text(&self) -> String {
        let mut text = self.run.preamble();
        if self.run.skipped.is_some() {
            return text;
        }
        let fetched = count(self.total_files_prefetched, "image");
        let bytes = human(self.total_bytes_prefetched);
        let _ = write!(text, "prefetch: {} {fetched}, {bytes}", self.run.verb("fetched", "would fetch"));
        for (outcomes, what) in [
            (&[ImageOutcome::Enqueued][..], "queued"),
            (&[ImageOutcome::Cached], "in the cache already"),
            (&[ImageOutcome::LeftToGlance], "left to Glance"),
            (&[ImageOutcome::Gone], "unknown or deleted"),
            (&[ImageOutcome::NotReady, ImageOutcome::Refused], "not possible now"),
            (&[ImageOutcome::Skipped], "failed before"),
            (&[ImageOutcome::Failed], "failed"),
        ] {
            match self.having(outcomes) {
                0 => {}
                number => drop(write!(text, "; {number} {what}")),
            }
        }
        if self.still_queued > 0 {
            let verb = self.run.verb(if self.still_queued == 1 { "stays" } else { "stay" }, "would stay");
            let _ = write!(text, "; {} {verb} in the queue", self.still_queued);
        }
        if self.total_files_pruned > 0 {
            let images = count(self.total_files_pruned, "image");
            let _ = write!(text, "; removed {images}, {}, for them", human(self.total_bytes_pruned));
        }
        if let (Some(size), Some(max)) = (self.cache_size_after, self.max_size) {
            let verb = self.run.verb("holds", "would hold");
            let _ = write!(text, "; the cache {verb} {} of {}", human(size), human(max));
        }
        if self.over_limit {
            text.push_str(", and is over its limit: prune holds it");
        }
        text + &self.run.end()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A time of Glance's: epoch seconds as its drivers give them, whole for the xattr driver; null where it is no number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Epoch {
    Float(f64),
    Whole(i64),
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Epoch::Float(seconds) => serializer.serialize_f64(*seconds),
            Epoch::Whole(seconds) => serializer.serialize_i64(*seconds),
        }
    }
}
