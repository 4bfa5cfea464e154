//! The report of a prefetch, and its text. Nothing is decided here.

use std::fmt::Write as _;

use serde::Serialize;

use crate::names::ImageId;
use crate::ops::report::{ChangeReport, Ending, is_zero};
use crate::output::Report;
use crate::units::{count, human};

/// The result for an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ImageOutcome {
    /// The image was fetched; in a dry run, it would be.
    Fetched,
    /// The image was in the cache already.
    Cached,
    /// Glance is caching the image right now, or has cached it during the fetch.
    LeftToGlance,
    /// Glance's database has no such image, or it is deleted.
    Gone,
    /// The record does not allow to fetch the image now.
    NotReady,
    /// The image failed in an earlier run, and its record has not changed since.
    Skipped,
    /// The image does not fit, or cannot be verified although this is required.
    Refused,
    Failed,
    /// The image was put into the queue.
    Enqueued,
    /// The image was taken out of the queue.
    Dequeued,
    /// The image was not in the queue, out of which it was to be taken.
    NotQueued,
    /// A signal ended the run before or while the image was fetched.
    Pending,
}

impl ImageOutcome {
    /// True if nothing went wrong with the image.
    pub(super) fn is_good(self) -> bool {
        matches!(
            self,
            ImageOutcome::Fetched
                | ImageOutcome::Cached
                | ImageOutcome::LeftToGlance
                | ImageOutcome::Enqueued
                | ImageOutcome::Dequeued
                | ImageOutcome::NotQueued
                | ImageOutcome::Pending
        )
    }
}

/// One image of a prefetch.
#[derive(Debug, Serialize)]
pub(super) struct ImageReport {
    pub(super) image_id: String,
    pub(super) outcome: ImageOutcome,
    /// Bytes that were fetched and published; in a dry run, those that would be.
    pub(super) bytes: u64,
    /// The size of the image in bytes, if it is known.
    pub(super) size: Option<u64>,
    /// The location that it came from, without credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<String>,
    /// The hash that it was verified by, or `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verified_by: Option<String>,
    /// The reason for this result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// True if it is in the queue now.
    pub(super) queued: bool,
}

impl ImageReport {
    /// Returns the result for an image that was only put into the queue, or taken out of it.
    pub(super) fn of_queue(id: ImageId, outcome: ImageOutcome, message: Option<String>) -> Self {
        ImageReport {
            image_id: id.to_string(),
            outcome,
            bytes: 0,
            size: None,
            location: None,
            verified_by: None,
            message,
            queued: outcome == ImageOutcome::Enqueued,
        }
    }
}

/// The report of a prefetch.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PrefetchReport {
    pub(super) total_files_prefetched: u64,
    pub(super) total_bytes_prefetched: u64,
    pub(super) images: Vec<ImageReport>,
    /// The number of images in the queue at the end; `None` if the queue was not read.
    pub(super) still_queued: Option<u64>,
    /// The size of the cache in bytes; `None` if it was not measured.
    pub(super) cache_size_after: Option<u64>,
    /// The limit in bytes; `None` if it was not needed.
    pub(super) max_size: Option<u64>,
    /// True if the cache is now over this limit. A prune enforces it. `None` if the cache was not measured.
    pub(super) over_limit: Option<bool>,
    /// Images that were removed to make space.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) total_files_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) total_bytes_pruned: u64,
    #[serde(flatten)]
    pub(super) ending: Ending,
}

impl PrefetchReport {
    /// Notes that the queue is empty.
    pub(super) fn nothing_to_do(&mut self) {
        self.still_queued = Some(0);
        if self.ending.dry_run {
            self.ending.plan = Some(Vec::new());
        }
    }

    /// Returns the number of images with one of these results.
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
        if let Some(text) = self.ending.did_nothing() {
            return text;
        }
        let mut text = String::new();
        let fetched = count(self.total_files_prefetched, "image");
        let bytes = human(self.total_bytes_prefetched);
        let _ = write!(text, "prefetch: {} {fetched}, {bytes}", self.ending.verb("fetched", "would fetch"));
        for (outcomes, what) in [
            (&[ImageOutcome::Enqueued][..], "queued"),
            (&[ImageOutcome::Dequeued], "out of the queue"),
            (&[ImageOutcome::NotQueued], "not in the queue"),
            (&[ImageOutcome::Cached], "in the cache already"),
            (&[ImageOutcome::LeftToGlance], "being cached by Glance"),
            (&[ImageOutcome::Gone], "unknown or deleted"),
            (&[ImageOutcome::NotReady, ImageOutcome::Refused], "not possible now"),
            (&[ImageOutcome::Skipped], "skipped after an earlier failure"),
            (&[ImageOutcome::Failed], "failed"),
        ] {
            match self.having(outcomes) {
                0 => {}
                number => drop(write!(text, "; {number} {what}")),
            }
        }
        if let Some(number) = self.still_queued.filter(|number| *number > 0) {
            let verb = self.ending.verb(if number == 1 { "stays" } else { "stay" }, "would stay");
            let _ = write!(text, "; {number} {verb} in the queue");
        }
        if self.total_files_pruned > 0 {
            let images = count(self.total_files_pruned, "image");
            let removed = self.ending.verb("removed", "would remove");
            let bytes = human(self.total_bytes_pruned);
            let _ = write!(text, "; {removed} {images}, {bytes}, to make space");
        }
        if let (Some(size), Some(max)) = (self.cache_size_after, self.max_size) {
            let verb = self.ending.verb("holds", "would hold");
            let _ = write!(text, "; the cache {verb} {} of {}", human(size), human(max));
        }
        if self.over_limit == Some(true) {
            text.push_str(", which is over its limit: run prune to enforce it");
        }
        text + &self.ending.line_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_only_what_there_is() {
        let mut report = PrefetchReport { still_queued: Some(0), ..PrefetchReport::default() };
        assert_eq!(report.text(), "prefetch: fetched 0 images, 0 B\n");
        (report.total_files_prefetched, report.total_bytes_prefetched) = (1, 1024);
        (report.still_queued, report.total_files_pruned, report.total_bytes_pruned) = (Some(1), 2, 2048);
        (report.cache_size_after, report.max_size, report.over_limit) = (Some(4096), Some(2048), Some(true));
        assert_eq!(
            report.text(),
            "prefetch: fetched 1 image, 1 KiB; 1 stays in the queue; removed 2 images, 2 KiB, to make space; \
             the cache holds 4 KiB of 2 KiB, which is over its limit: run prune to enforce it\n"
        );
        report.still_queued = Some(2);
        assert!(report.text().contains("; 2 stay in the queue; "), "{}", report.text());
    }
}
