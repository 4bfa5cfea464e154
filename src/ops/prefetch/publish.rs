//! The end of a fetch: publishes an image that was verified, or reports why the fetch failed.
//!
//! **An image is published** in these steps:
//!
//! 1. Its record in Glance's database is read again.
//! 2. Prune's lock is taken, and the claim of the image is checked again.
//! 3. Its row is written to the index and committed.
//! 4. The staged file gets the name of the image.
//! 5. Its entry is removed from the queue, and its claim is released.
//!
//! A crash after step 3 leaves a ghost, which the next prune forgets: a note says that it is ours
//! ([`pending`]). A crash at any other point leaves at
//! most a staged file, a claim without a process and the entry in the queue, which the next prefetch removes.
//!
//! **The record is read before the lock is taken**, because prune and glance-api wait for this lock, and a
//! database that hangs may take more than ten seconds. While another process holds the lock, the database is
//! not asked. A lost connection to the index is restored before the lock is taken, too.
//!
//! **An image that cannot be published yet waits**, because another process has the lock or the index, or
//! because the server of the index is lost. Meanwhile other fetches continue. Otherwise its data would have
//! to be fetched again.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use crate::cache::dir::{CachePlace, seen};
use crate::cache::entry::Image;
use crate::cache::index::{Condition, Deletion};
use crate::cache::lock::{self, Lock, Locking};
use crate::cache::pending;
use crate::cache::queue;
use crate::cache::stage::{self, Publication, Staged};
use crate::database::refusal::Refusal;
use crate::fetch::digest::fingerprint;
use crate::fetch::judge::judge_again;
use crate::fetch::{Attempt, Fetched, Unfetched, is_in_vain};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::ops::prefetch::admit::judged;
use crate::ops::prefetch::ending::{ImageEnding, verified_by};
use crate::ops::prefetch::outcome::ImageOutcome;
use crate::ops::prefetch::{Locked, PrefetchRun, Ready, Running};
use crate::output::Event;
use crate::units::human;

impl PrefetchRun<'_> {
    /// Queues a fetched image to be published, or notes why its fetch failed.
    pub(super) fn finish(&mut self, id: ImageId, result: Result<Fetched, Unfetched>, attempts: &[Attempt]) {
        let Some(running) = self.running.remove(&id) else { return };
        let last = if result.is_err() { attempts.split_last() } else { None };
        for attempt in last.map_or(attempts, |(_, others)| others) {
            self.run.output.warning(&format!("image {id}: {}; trying the next location", attempt.message));
        }
        let size = running.record.size;
        let ending = match result {
            Ok(fetched) => {
                if let Some(warning) =
                    fetched.warning.as_ref().filter(|text| self.warned.insert((*text).clone()))
                {
                    self.run.output.warning(warning);
                }
                let patience = self.settings.wait.limit.max(running.since.elapsed());
                self.ready.push_back(Ready { running, fetched, until: Instant::now() + patience });
                return;
            }
            Err(Unfetched::Interrupted) => {
                ImageEnding::new(ImageOutcome::Pending, size, "a signal ended the run while it was fetched")
            }
            Err(Unfetched::Cache(e)) => ImageEnding::new(ImageOutcome::Failed, size, format!("{e:#}")),
            Err(Unfetched::NoSource) => {
                let why = last.map_or("the image has no location", |(last, _)| last.message.as_str());
                if running.request.queued && is_in_vain(attempts) {
                    self.remember(id, why, fingerprint(&running.record));
                }
                ImageEnding::new(ImageOutcome::Failed, size, why)
            }
        };
        self.end(&running.request, ending);
    }

    /// Writes the reason for the failure into the image's entry in the queue, so that later runs do not
    /// download it in vain.
    fn remember(&mut self, id: ImageId, failed: &str, fingerprint: String) {
        if let Err(e) = queue::remember(self.dir, id, failed, fingerprint) {
            self.run.output.note(&format!("{e:#}; the next run will fetch the image again"));
        }
    }

    /// Publishes the waiting images, as far as this is possible now. An image that has waited too long is
    /// given up.
    pub(super) fn publish_ready(&mut self) {
        while let Some(mut ready) = self.ready.pop_front() {
            let bytes = ready.fetched.bytes;
            let ending = match self.prepare(&mut ready) {
                Ok(_lock) => {
                    let Ready { running, fetched, .. } = ready;
                    let ending =
                        self.give_name(&running, fetched).unwrap_or_else(|e| self.unpublished(bytes, &e));
                    self.end(&running.request, ending);
                    continue;
                }
                Err(Unprepared::Later(why)) => {
                    if Instant::now() < ready.until && !self.run.interrupt.raised() {
                        if self.warned.insert("waiting to publish".to_owned()) {
                            self.run.output.note(&format!("fetched images wait to be published: {why:#}"));
                        }
                        self.ready.push_front(ready);
                        return;
                    }
                    self.unpublished(bytes, &why)
                }
                Err(Unprepared::Never(ending)) => ending,
            };
            self.end(&ready.running.request, ending);
        }
    }

    /// Returns the result for an image that was fetched but could not be published.
    fn unpublished(&self, bytes: u64, why: &anyhow::Error) -> ImageEnding {
        if self.run.interrupt.raised() {
            let why = "a signal ended the run before the fetched image was published";
            return ImageEnding::new(ImageOutcome::Pending, Some(bytes), why);
        }
        let why = format!("the image was fetched, but cannot be published: {why:#}");
        ImageEnding::new(ImageOutcome::Failed, Some(bytes), why)
    }

    /// Takes all steps before the one that gives the file its name. The caller holds prune's lock until that
    /// is done.
    fn prepare(&mut self, ready: &mut Ready) -> Result<Option<Lock>, Unprepared> {
        let Ready { running, fetched: Fetched { staged, bytes, .. }, .. } = ready;
        let (id, bytes) = (running.request.id, *bytes);
        // Between two images, Glance may use the index.
        self.cache.ledger.rest();
        let at_once = Wait { limit: Duration::ZERO, ..self.settings.wait.clone() };
        if let Ok(Locking::Busy(who)) = self.settings.locks.take(lock::PRUNE, &at_once) {
            return Err(Unprepared::Later(anyhow!(who)));
        }
        let reached = self.cache.ledger.reach();
        reached.map_err(|refusal| self.refused(bytes, refusal))?;
        let unread = match self.records.record(id) {
            Ok(record) => {
                let verdict = judge_again(record.as_ref(), &running.record);
                judged(verdict, Some(bytes)).map_err(Unprepared::Never)?;
                None
            }
            Err(Refusal::Interrupted) => return Err(Unprepared::Later(Refusal::Interrupted.into_error())),
            Err(refusal) => Some(refusal.into_error()),
        };
        let lock = match self.prune_lock(false) {
            Ok(Locked::Go(lock)) => lock,
            Ok(Locked::Busy(who)) => return Err(Unprepared::Later(anyhow!(who))),
            Ok(Locked::Interrupted) => return Err(Unprepared::Later(Refusal::Interrupted.into_error())),
            Err(failure) => return Err(self.never(bytes, &failure.error)),
        };
        let is_ours = running.claim.confirm().and_then(|ours| Ok(ours && !stage::is_cached(self.dir, id)?));
        if !is_ours.map_err(|e| self.never(bytes, &e))? {
            return Err(Unprepared::Never(dropped(bytes)));
        }
        self.record_row(id, staged).map_err(|refusal| self.refused(bytes, refusal))?;
        if let Some(why) = unread {
            // This is safe: glance-api reads the record before it serves an image from the cache.
            let line = format!("image {id}: published without reading its record again: {why:#}");
            self.run.output.warning(&line);
        }
        Ok(lock)
    }

    /// Decides if an image is tried again after the index has refused a change. This is safe if the change
    /// did not happen, or if the next one replaces it.
    fn refused(&self, bytes: u64, refusal: Refusal) -> Unprepared {
        let passes = matches!(
            refusal,
            Refusal::Busy(_) | Refusal::Lost(_) | Refusal::Unknown(_) | Refusal::Interrupted
        );
        let why = refusal.into_error();
        if passes { Unprepared::Later(why) } else { self.never(bytes, &why) }
    }

    /// Gives an image up.
    fn never(&self, bytes: u64, why: &anyhow::Error) -> Unprepared {
        Unprepared::Never(self.unpublished(bytes, why))
    }

    /// Gives the staged file the name of its image. The row is already in the index.
    fn give_name(&mut self, running: &Running, fetched: Fetched) -> anyhow::Result<ImageEnding> {
        let (id, Fetched { staged, bytes, location, .. }) = (running.request.id, fetched);
        let published =
            staged.publish(self.dir, CachePlace::Base, id).inspect_err(|_| self.forget_row(id))?;
        if self.cache.ledger.has_rows() {
            pending::settle(self.dir, id);
        }
        if published == Publication::AlreadyThere {
            return Ok(dropped(bytes));
        }
        self.report.total_files_prefetched += 1;
        self.report.total_bytes_prefetched += bytes;
        let by = verified_by(running.check.as_ref(), running.record.size);
        self.run.output.did(|| {
            let by = by.as_deref().unwrap_or("nothing");
            let sentence = format!("fetched {id} ({}) from {location}, verified by {by}", human(bytes));
            let facts = [
                ("action", "fetch".to_owned()),
                ("image_id", id.to_string()),
                ("bytes", bytes.to_string()),
                ("location", location.clone()),
                ("verified_by", by.to_owned()),
            ];
            Event { sentence, facts: facts.into() }
        });
        Ok(ImageEnding::fetched(bytes, location, by))
    }

    /// Removes the row of an image whose file could not be published. If this fails, too, the next prune
    /// forgets it.
    fn forget_row(&mut self, id: ImageId) {
        let Ok(inventory) = self.inventory() else { return };
        let Some(ghost) = inventory.ghosts.iter().find(|ghost| ghost.id == id) else { return };
        let victim = Deletion { id, only_if: Condition::Row(ghost.row.key) };
        let _ = self.cache.ledger.rows_only(|transaction| transaction.forget(&[victim]).map(drop));
    }

    /// Writes the row of an image, as Glance's driver does. It replaces a row that was left without a file.
    fn record_row(&mut self, id: ImageId, staged: &Staged) -> Result<(), Refusal> {
        if !self.cache.ledger.has_rows() {
            return Ok(());
        }
        let stat = rustix::fs::fstat(staged.file.as_fd()).context("cannot examine the staged file");
        let seen = seen(&stat.map_err(Refusal::Broken)?);
        // A busy index is tried again soon, and the other fetches must not wait for it.
        let begun = self.cache.ledger.begin_within(GLANCE_PATIENCE);
        // From the commit on until the image has its name, its row has no file.
        pending::add(self.dir, id);
        let recorded = begun.and_then(|mut transaction| {
            transaction.record(&Image { id, seen, row: None })?;
            transaction.commit(None)
        });
        recorded.map_err(|refusal| {
            if !matches!(refusal, Refusal::Unknown(_)) {
                pending::settle(self.dir, id);
            }
            refusal.context("cannot write its row to the index".to_owned())
        })
    }
}

/// The reason that an image cannot be published now.
enum Unprepared {
    /// Another process has the lock or the index, or the server of the index is lost.
    Later(anyhow::Error),
    Never(ImageEnding),
}

/// Returns the result for a fetched image that Glance itself caches.
fn dropped(bytes: u64) -> ImageEnding {
    let why = "Glance has cached the image meanwhile, or is caching it; the fetched data is discarded";
    ImageEnding::new(ImageOutcome::LeftToGlance, Some(bytes), why)
}
