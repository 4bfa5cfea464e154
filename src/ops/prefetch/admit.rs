//! Judging one image: what its record says, whether it can be claimed, whether it fits; then it is a job.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::index::Driver;
use crate::cache::stage::{self, Claim, Claiming};
use crate::database::Refusal;
use crate::database::images::ImageRecord;
use crate::fetch::digest::Check;
use crate::fetch::judge::{Verdict, judge, unverifiable};
use crate::fetch::throttle::Throttle;
use crate::fetch::{FetchJob, Meter};
use crate::names::ImageId;
use crate::ops::prefetch::outcome::ImageOutcome;
use crate::ops::prefetch::report::ImageEnding;
use crate::ops::prefetch::wanted::WantedImage;
use crate::ops::prefetch::{PrefetchRun, Running};
use crate::source::{Refused, Source};

/// An image that may be fetched: its record, the check it must pass and its claim.
struct Admitted {
    record: ImageRecord,
    check: Option<Check>,
    claim: Claim,
}

impl<'a> PrefetchRun<'a> {
    /// Makes the job of fetching an image, if that is to be done; otherwise notes why not.
    pub(crate) fn begin<'s>(
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

    /// Judges an image, claims it and makes sure that it fits.
    fn admit(&mut self, request: &WantedImage) -> Result<Admitted, ImageEnding> {
        let (record, check) = self.examine(request)?;
        let size = record.size.unwrap_or(0);
        let claim = match Claim::make(self.dir, request.id, self.means.stalled_before) {
            Ok(Claiming::Ours(claim)) => claim,
            Ok(Claiming::Cached) => return Err(ImageEnding::cached()),
            Ok(Claiming::Left(why)) => return Err(ImageEnding::new(ImageOutcome::LeftToGlance, size, why)),
            Err(e) => return Err(ImageEnding::new(ImageOutcome::Failed, size, format!("{e:#}"))),
        };
        self.find_room(record.size).map_err(|why| ImageEnding::new(ImageOutcome::Refused, size, why))?;
        Ok(Admitted { record, check, claim })
    }

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
            sources: self.sources(&record),
            size: record.size,
            check: check.clone(),
            reserve: self.means.reserve,
            attributes: self.cache.driver == Some(Driver::Xattr),
            throttle,
        };
        let running =
            Running { request, claim, meter: Arc::clone(&meter), record, check, since: Instant::now() };
        self.running.insert(job.id, running);
        (job, meter)
    }

    /// What an image can be read from, in the order to try. What is unsafe about it is told once.
    pub(crate) fn sources(&mut self, record: &ImageRecord) -> Vec<Result<Box<dyn Source>, Refused>> {
        let sources = self.means.stores.sources(&record.locations);
        for warning in sources.iter().flatten().filter_map(|source| source.warning()) {
            if self.warned.insert(warning.to_owned()) {
                self.run.output.warning(warning);
            }
        }
        sources
    }

    /// Looks an image up and judges it.
    pub(crate) fn examine(
        &mut self,
        request: &WantedImage,
    ) -> Result<(ImageRecord, Option<Check>), ImageEnding> {
        let failed = |e: anyhow::Error| ImageEnding::new(ImageOutcome::Failed, 0, format!("{e:#}"));
        if stage::is_cached(self.dir, request.id).map_err(failed)? {
            return Err(ImageEnding::cached());
        }
        let record = self.records.record(request.id).map_err(|refusal| match refusal {
            Refusal::Interrupted => ImageEnding::new(ImageOutcome::Pending, 0, "a signal came first"),
            refusal => failed(refusal.into_error()),
        })?;
        let verdict = judge(record.as_ref(), request.memory.as_ref(), self.request.policy);
        // What has no record is not fetched.
        let record = record.unwrap_or_default();
        let check = judged(verdict, record.size.unwrap_or(0))?;
        self.warn_unverified(request.id, &record, check.as_ref());
        Ok((record, check))
    }

    fn warn_unverified(&self, id: ImageId, record: &ImageRecord, check: Option<&Check>) {
        if check.is_none() {
            let by = if record.size.is_some() { "by its size alone" } else { "by nothing" };
            let why = unverifiable(record);
            self.run.output.warning(&format!("image {id} can be verified {by}: {why}"));
        }
    }
}

/// What an image is to be verified by, if it is to be fetched; otherwise how it ends with it.
pub(crate) fn judged(verdict: Verdict, size: u64) -> Result<Option<Check>, ImageEnding> {
    let (outcome, why) = match verdict {
        Verdict::Fetch(check) => return Ok(check),
        Verdict::Gone(why) => (ImageOutcome::Gone, why),
        Verdict::FailedBefore(why) => (
            ImageOutcome::Skipped,
            format!("{why} (in an earlier run, and nothing has changed since: --retry tries again)"),
        ),
        Verdict::Unverifiable(why) => (ImageOutcome::Refused, why),
        Verdict::NotYet(why) => (ImageOutcome::NotReady, why),
    };
    Err(ImageEnding::new(outcome, size, why))
}
