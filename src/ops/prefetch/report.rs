//! Notes the result for each image in the report, prints it, and removes images from the queue that need not
//! be there any more. Also describes the prefetch for a dry run, which changes nothing.

use std::fmt::Display;

use crate::cache::outcome::{Action, EntryError};
use crate::cache::stage::Claiming;
use crate::cache::{queue, stage};
use crate::names::ImageId;
use crate::ops::prefetch::PrefetchRun;
use crate::ops::prefetch::ending::{ImageEnding, verified_by};
use crate::ops::prefetch::outcome::{ImageOutcome, ImageReport};
use crate::ops::prefetch::wanted::WantedImage;
use crate::ops::report::Step;
use crate::source::Refused;

impl PrefetchRun<'_> {
    /// Notes and prints the result for an image. If it is cached or does not exist, it is removed from the
    /// queue.
    pub(super) fn end(&mut self, request: &WantedImage, ending: ImageEnding) {
        let ImageEnding { outcome, bytes, size, location, verified_by, message } = ending;
        let leaves = matches!(outcome, ImageOutcome::Fetched | ImageOutcome::Cached | ImageOutcome::Gone);
        let queued = request.queued && !(leaves && self.dequeue(request.id));
        if matches!(outcome, ImageOutcome::Fetched | ImageOutcome::Cached) {
            self.held.insert(request.id);
        }
        if let Some(why) = &message {
            let next = match (outcome, request.queued, queued) {
                (ImageOutcome::Pending, ..) | (_, false, _) => "",
                (_, true, false) if self.report.ending.dry_run => "; it would be removed from the queue",
                (_, true, false) => "; it was removed from the queue",
                (_, true, true) => "; it stays in the queue",
            };
            let line = format!("image {}: {why}{next}", request.id);
            match outcome {
                ImageOutcome::Failed => self.run.output.error(&line),
                outcome if outcome.is_good() => self.run.output.note(&line),
                _ => self.run.output.warning(&line),
            }
            if !outcome.is_good() {
                let (name, message) = (request.id.to_string(), why.clone());
                self.report.ending.errors.push(EntryError { name, action: Action::Fetch, message });
            }
        }
        let image_id = request.id.to_string();
        self.report.images.push(ImageReport {
            image_id,
            outcome,
            bytes,
            size,
            location,
            verified_by,
            message,
            queued,
        });
    }

    /// Removes an image from the queue. Returns true if it was removed, and always in a dry run, which
    /// removes nothing.
    fn dequeue(&mut self, id: ImageId) -> bool {
        if self.report.ending.dry_run {
            return true;
        }
        let removed = queue::remove(self.dir, id);
        if let Err(e) = &removed {
            self.error(id, Action::Dequeue, e);
        }
        removed.is_ok()
    }

    /// Prints an error about an image, and notes it.
    fn error(&mut self, id: ImageId, action: Action, error: &anyhow::Error) {
        let message = format!("{error:#}");
        self.run.output.error(&format!("image {id}: {message}"));
        self.report.ending.errors.push(EntryError { name: id.to_string(), action, message });
    }

    /// Describes the images that would be fetched, and from where.
    pub(super) fn dry_run(&mut self) {
        let mut entries = Vec::new();
        while let Some(request) = self.pending.pop_front() {
            let ending = self.foresee(&request).unwrap_or_else(|ending| ending);
            if let Some(location) = &ending.location {
                self.foreseen += ending.bytes;
                self.report.total_files_prefetched += 1;
                self.report.total_bytes_prefetched += ending.bytes;
                let by = ending.verified_by.as_deref().unwrap_or("nothing");
                let reason = format!("from {location}, verified by {by}");
                let image_id = request.id.to_string();
                entries.push(Step::new("fetch", image_id, ending.size, reason));
            }
            self.end(&request, ending);
        }
        let doomed = std::mem::take(&mut self.doomed);
        self.report.total_files_pruned = doomed.len() as u64;
        self.report.total_bytes_pruned = doomed.iter().filter_map(|entry| entry.bytes).sum();
        self.cached = (self.cached + self.foreseen).saturating_sub(self.report.total_bytes_pruned);
        self.report.ending.plan = Some(doomed.into_iter().chain(entries).collect());
    }

    /// Returns the result that an image would have.
    fn foresee(&mut self, request: &WantedImage) -> Result<ImageEnding, ImageEnding> {
        let (record, check) = self.examine(request)?;
        let size = record.size;
        let failed = |e: &dyn Display| ImageEnding::new(ImageOutcome::Failed, size, format!("{e:#}"));
        let claiming = stage::foresee(self.dir, request.id, self.settings.stalled_before);
        match claiming.map_err(|e| failed(&e))? {
            Some(Claiming::Left(why)) => {
                return Err(ImageEnding::new(ImageOutcome::LeftToGlance, size, why));
            }
            Some(Claiming::Blocked(why)) => return Err(failed(&why)),
            _ => {}
        }
        let sources = self.sources(request.id, &record);
        let Some(source) = sources.iter().find_map(|source| source.as_ref().ok()) else {
            return Err(sources
                .iter()
                .find_map(|source| source.as_ref().err())
                .map_or_else(|| failed(&"the image has no location"), |refused: &Refused| failed(refused)));
        };
        self.find_space(size).map_err(|why| ImageEnding::new(ImageOutcome::Refused, size, why))?;
        let by = verified_by(check.as_ref(), size);
        let ending = ImageEnding::fetched(size.unwrap_or(0), source.shown().to_owned(), by);
        Ok(ImageEnding { size, ..ending })
    }

    /// Fills in the sums of the report.
    pub(super) fn sum_up(&mut self) {
        let queued = self.report.images.iter().filter(|image| image.queued).count() as u64;
        self.report.still_queued = Some(queued + self.others);
        self.report.cache_size_after = Some(self.cached);
        self.report.max_size = Some(self.settings.max_size);
        self.report.over_limit = Some(self.cached > self.settings.max_size);
    }
}
