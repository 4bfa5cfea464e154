//! Decides about one image and prepares its fetch: reads its record, claims it, and makes sure that it fits.
//!
//! Nothing is fetched here. If the image is not fetched, the reason is noted and its claim is released.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::index::Driver;
use crate::cache::stage::{self, Claim, Claiming};
use crate::database::images::ImageRecord;
use crate::database::refusal::Refusal;
use crate::fetch::digest::Check;
use crate::fetch::judge::{Verdict, judge, unverifiable};
use crate::fetch::throttle::Throttle;
use crate::fetch::{FetchJob, Meter};
use crate::names::ImageId;
use crate::ops::prefetch::ending::ImageEnding;
use crate::ops::prefetch::outcome::ImageOutcome;
use crate::ops::prefetch::wanted::WantedImage;
use crate::ops::prefetch::{PrefetchRun, Running};
use crate::source::{ImageOfGlance, Refused, Source};

/// An image that is going to be fetched: its record, the hash to verify it by, and its claim.
struct Admitted {
    record: ImageRecord,
    check: Option<Check>,
    claim: Claim,
}

impl<'a> PrefetchRun<'a> {
    /// Returns the fetch of an image. If the image is not to be fetched, notes the reason and returns `None`.
    pub(super) fn begin<'s>(
        &mut self,
        request: WantedImage,
        throttle: &'s Throttle,
    ) -> Option<(FetchJob<'s>, Arc<Meter>)>
    where
        'a: 's,
    {
        match self.admit(&request) {
            Ok(admitted) => Some(self.job(request, admitted, throttle)),
            Err(ending) => {
                self.end(&request, ending);
                None
            }
        }
    }

    /// Decides about an image, claims it and makes sure that it fits.
    fn admit(&mut self, request: &WantedImage) -> Result<Admitted, ImageEnding> {
        let (record, check) = self.examine(request)?;
        let size = record.size;
        let claim = match Claim::make(self.dir, request.id, self.settings.stalled_before) {
            Ok(Claiming::Ours(claim)) => claim,
            Ok(Claiming::Cached) => return Err(ImageEnding::cached()),
            Ok(Claiming::Left(why)) => return Err(ImageEnding::new(ImageOutcome::LeftToGlance, size, why)),
            Ok(Claiming::Blocked(why)) => return Err(ImageEnding::new(ImageOutcome::Failed, size, why)),
            Err(e) => return Err(ImageEnding::new(ImageOutcome::Failed, size, format!("{e:#}"))),
        };
        self.find_space(record.size).map_err(|why| ImageEnding::new(ImageOutcome::Refused, size, why))?;
        Ok(Admitted { record, check, claim })
    }

    /// Returns the fetch of an image that was admitted, and notes that it is running.
    fn job<'s>(
        &mut self,
        request: WantedImage,
        Admitted { record, check, claim }: Admitted,
        throttle: &'s Throttle,
    ) -> (FetchJob<'s>, Arc<Meter>)
    where
        'a: 's,
    {
        let meter = Arc::new(Meter::default());
        let job = FetchJob {
            id: request.id,
            dir: self.dir,
            sources: self.sources(request.id, &record),
            size: record.size,
            check: check.clone(),
            reserve: self.settings.reserve,
            attributes: self.cache.driver == Some(Driver::Xattr),
            throttle,
        };
        let running =
            Running { request, claim, meter: Arc::clone(&meter), record, check, since: Instant::now() };
        self.running.insert(job.id, running);
        (job, meter)
    }

    /// Returns the sources of an image, in the order in which they are tried. Warns once about each unsafe
    /// one.
    pub(super) fn sources(
        &mut self,
        image: ImageId,
        record: &ImageRecord,
    ) -> Vec<Result<Box<dyn Source>, Refused>> {
        let image = ImageOfGlance { id: image, size: record.size };
        let sources = self.settings.stores.sources(image, &record.locations);
        for warning in sources.iter().flatten().filter_map(|source| source.warning()) {
            if self.warned.insert(warning.to_owned()) {
                self.run.output.warning(warning);
            }
        }
        sources
    }

    /// Reads the record of an image and decides if it is fetched. Returns the record and the hash to verify
    /// it by.
    pub(super) fn examine(
        &mut self,
        request: &WantedImage,
    ) -> Result<(ImageRecord, Option<Check>), ImageEnding> {
        let failed = |e: anyhow::Error| ImageEnding::new(ImageOutcome::Failed, None, format!("{e:#}"));
        if stage::is_cached(self.dir, request.id).map_err(failed)? {
            return Err(ImageEnding::cached());
        }
        let record = self.records.record(request.id).map_err(|refusal| match refusal {
            Refusal::Interrupted => ImageEnding::new(
                ImageOutcome::Pending,
                None,
                "a signal ended the run before the image was fetched",
            ),
            refusal => failed(refusal.into_error()),
        })?;
        let verdict = judge(record.as_ref(), request.memory.as_ref(), self.request.policy);
        // Without a record, the verdict is never to fetch the image.
        let record = record.unwrap_or_default();
        let check = judged(verdict, record.size)?;
        self.warn_unverified(request.id, &record, check.as_ref());
        Ok((record, check))
    }

    fn warn_unverified(&self, id: ImageId, record: &ImageRecord, check: Option<&Check>) {
        if check.is_none() {
            let how = if record.size.is_some() { "only by its size" } else { "in no way" };
            let why = unverifiable(record);
            self.run.output.warning(&format!("image {id} can be verified {how}: {why}"));
        }
    }
}

/// Returns the hash to verify an image by if the verdict is to fetch it, and otherwise the result for this
/// image.
pub(super) fn judged(verdict: Verdict, size: Option<u64>) -> Result<Option<Check>, ImageEnding> {
    let (outcome, why) = match verdict {
        Verdict::Fetch(check) => return Ok(check),
        Verdict::Gone(why) => (ImageOutcome::Gone, why),
        Verdict::FailedBefore(why) => (
            ImageOutcome::Skipped,
            format!("{why} (in an earlier run; its record has not changed since, use --retry to try again)"),
        ),
        Verdict::Unverifiable(why) => (ImageOutcome::Refused, why),
        Verdict::NotYet(why) => (ImageOutcome::NotReady, why),
    };
    Err(ImageEnding::new(outcome, size, why))
}
