//! The report of a prefetch.

use std::fmt::Write as _;

use serde::Serialize;

use crate::ops::report::{ChangeReport, Ending, is_zero};
use crate::output::Report;
use crate::units::{count, human};

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
    pub(crate) ending: Ending,
}

impl PrefetchReport {
    fn having(&self, outcomes: &[ImageOutcome]) -> u64 {
        self.images.iter().filter(|image| outcomes.contains(&image.outcome)).count() as u64
    }
}

impl ChangeReport for PrefetchReport {
    fn ending(&self) -> &Ending {
        &self.ending
    }

    fn errors_were_reported(&self) -> bool {
        true
    }
}

impl Report for PrefetchReport {
    fn text(&self) -> String {
        let mut text = self.ending.preamble();
        if self.ending.skipped.is_some() {
            return text;
        }
        let fetched = count(self.total_files_prefetched, "image");
        let bytes = human(self.total_bytes_prefetched);
        let _ = write!(text, "prefetch: {} {fetched}, {bytes}", self.ending.verb("fetched", "would fetch"));
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
            let verb = self.ending.verb(if self.still_queued == 1 { "stays" } else { "stay" }, "would stay");
            let _ = write!(text, "; {} {verb} in the queue", self.still_queued);
        }
        if self.total_files_pruned > 0 {
            let images = count(self.total_files_pruned, "image");
            let _ = write!(text, "; removed {images}, {}, for them", human(self.total_bytes_pruned));
        }
        if let (Some(size), Some(max)) = (self.cache_size_after, self.max_size) {
            let verb = self.ending.verb("holds", "would hold");
            let _ = write!(text, "; the cache {verb} {} of {}", human(size), human(max));
        }
        if self.over_limit {
            text.push_str(", and is over its limit: prune holds it");
        }
        text + &self.ending.line_end()
    }
}
