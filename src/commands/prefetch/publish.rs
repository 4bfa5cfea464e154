//! The end of a fetch: what was verified is published with its row, what failed is told and remembered.
//!
//! **Publishing an image**, under prune's lock: its record and its claim are looked at again, its row recorded and committed, its file given its
//! name, its entry taken from the queue, its claim released. Killed in between, what is left is a ghost or a dead claim.

use std::os::fd::AsFd as _;

use super::admit::judged;
use super::report::{Ending, verified_by};
use super::{Running, Session};
use crate::cache::dir::{Place, seen};
use crate::cache::entry::{Image, ImageId};
use crate::cache::index::{Claim as RowClaim, Refusal, Target};
use crate::cache::queue;
use crate::cache::stage::{self, Claim, Publication, Staged};
use crate::fetch::digest::fingerprint;
use crate::fetch::judge::judge_again;
use crate::fetch::{Attempt, Failed, Fetched};
use crate::output::report::{ImageOutcome, human};

impl Session<'_> {
    /// Publishes what was fetched, or notes why there is nothing to publish.
    pub(super) fn finish(&mut self, id: ImageId, result: Result<Fetched, Failed>, attempts: &[Attempt]) {
        let Some(running) = self.running.remove(&id) else { return };
        let last = if result.is_err() { attempts.split_last() } else { None };
        for attempt in last.map_or(attempts, |(_, others)| others) {
            let next = "the next location is tried";
            self.context.output.warning(&format!("image {id}: {}: {next}", attempt.message));
        }
        let size = running.record.size.unwrap_or(0);
        let ending = match result {
            Ok(fetched) => return self.publish(running, fetched),
            Err(Failed::Interrupted) => {
                Ending::new(ImageOutcome::Pending, size, "a signal came while it was fetched")
            }
            Err(Failed::Here(e)) => Ending::new(ImageOutcome::Failed, size, format!("{e:#}")),
            Err(Failed::Nowhere) => {
                let why = last.map_or("it has no location", |(last, _)| last.message.as_str());
                if running.request.queued && attempts.iter().any(|attempt| attempt.lasting) {
                    self.remember(id, why, fingerprint(&running.record));
                }
                Ending::new(ImageOutcome::Failed, size, why)
            }
        };
        self.end(&running.request, ending);
    }

    /// Writes into the image's entry in the queue why it failed, so that it is not downloaded in vain again.
    fn remember(&mut self, id: ImageId, failed: &str, fingerprint: String) {
        if let Err(e) = queue::remember(self.dir, id, failed, fingerprint) {
            self.context.output.note(&format!("{e:#}: the next run will try it again"));
        }
    }

    fn publish(&mut self, mut running: Running, fetched: Fetched) {
        let ending = self.try_publish(&mut running, fetched).unwrap_or_else(|ending| ending);
        self.end(&running.request, ending);
    }

    fn try_publish(&mut self, running: &mut Running, fetched: Fetched) -> Result<Ending, Ending> {
        let Fetched { staged, bytes, location } = fetched;
        let (id, interrupt) = (running.request.id, self.context.interrupt.clone());
        let failed = |e: anyhow::Error| {
            if interrupt.raised() {
                Ending::new(ImageOutcome::Pending, bytes, "a signal came before it was published")
            } else {
                let why = format!("it was fetched, but cannot be published: {e:#}");
                Ending::new(ImageOutcome::Failed, bytes, why)
            }
        };
        // Thrown away, it would have to be fetched again: so long at least it is worth waiting.
        let patience = self.means.wait.limit.max(running.since.elapsed());
        let _lock = self.prune_lock(patience).map_err(failed)?;
        match self.records.record(id) {
            Ok(record) => drop(judged(judge_again(record.as_ref(), &running.record), bytes)?),
            Err(Refusal::Interrupted) => return Err(failed(Refusal::Interrupted.into_error())),
            // What was true when the fetch began has to do: Glance itself goes by its record, whatever is cached.
            Err(refusal) => {
                let why = refusal.into_error();
                self.context
                    .output
                    .warning(&format!("image {id} is published as it was recorded before: {why:#}"));
            }
        }
        if self.give_place(&mut running.claim, id, staged).map_err(failed)? == Publication::AlreadyThere {
            let why = "Glance has cached it meanwhile, or is at it: what was fetched is dropped";
            return Err(Ending::new(ImageOutcome::LeftToGlance, bytes, why));
        }
        self.report.total_files_prefetched += 1;
        self.report.total_bytes_prefetched += bytes;
        let by = verified_by(running.check.as_ref(), running.record.size);
        self.context.output.did(|| {
            let by = by.as_deref().unwrap_or("nothing");
            format!("fetched {id} ({}) from {location}, verified by {by}", human(bytes))
        });
        Ok(Ending::fetched(bytes, location, by))
    }

    /// Gives an image its row and its name in the cache, if it is still ours to give.
    fn give_place(&mut self, claim: &mut Claim, id: ImageId, staged: Staged) -> anyhow::Result<Publication> {
        if !claim.confirm()? || stage::is_cached(self.dir, id)? {
            return Ok(Publication::AlreadyThere);
        }
        self.record_row(id, &staged)?;
        let published = staged.publish(self.dir, Place::Base, id);
        if published.is_err() {
            self.forget_row(id);
        }
        published
    }

    /// Takes back the row of an image that got no file. Where that fails too, whoever comes next forgets it.
    fn forget_row(&mut self, id: ImageId) {
        let Ok(inventory) = self.inventory() else { return };
        let Some(ghost) = inventory.ghosts.iter().find(|ghost| ghost.id == id) else { return };
        let target = Target { id, claim: RowClaim::Row(ghost.row.key) };
        let index = &mut *self.cache.index;
        let mut forget = || {
            index.begin(&self.means.wait)?;
            index.forget(&[target])?;
            index.commit(None)
        };
        if forget().is_err() {
            self.cache.index.abandon();
        }
    }

    /// Gives an image its row, as Glance's driver does, in the place of one that was left without a file, whenever that was.
    fn record_row(&mut self, id: ImageId, staged: &Staged) -> anyhow::Result<()> {
        if !self.cache.index.is_transactional() {
            return Ok(());
        }
        let seen = seen(&rustix::fs::fstat(staged.file.as_fd())?);
        let index = &mut *self.cache.index;
        let mut record = || {
            index.begin(&self.means.wait)?;
            index.record(&Image { id, seen, row: None })?;
            index.commit(None)
        };
        let recorded = record();
        recorded.map_err(|refusal| {
            self.cache.index.abandon();
            refusal.into_error().context("cannot record it in the index")
        })
    }
}
