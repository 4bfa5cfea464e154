//! The end of a fetch: what was verified is published with its row, what failed is told and remembered.
//!
//! **Publishing an image**: its record is read again; then, under prune's lock, its claim is looked at again, its row recorded and
//! committed, its file given its name, its entry taken from the queue, its claim released. Killed in between, what is left is a ghost
//! or a dead claim.
//!
//! **The record comes before the lock**, for which prune and glance-api wait: a database that hangs takes ten seconds and more. It comes
//! right before, and while somebody else has the lock, the database is not asked. A server of the index that was lost is found again
//! before the lock, too.
//!
//! **While somebody else has the lock or the index**, or the index's server is lost, what was fetched waits, and the other fetches go
//! on: thrown away, it would have to be fetched again.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use crate::cache::dir::{CachePlace, seen};
use crate::cache::entry::Image;
use crate::cache::index::{Condition, Deletion};
use crate::cache::lock::{self, Lock, Locking};
use crate::cache::queue;
use crate::cache::stage::{self, Publication, Staged};
use crate::database::Refusal;
use crate::fetch::digest::fingerprint;
use crate::fetch::judge::judge_again;
use crate::fetch::{Attempt, Fetched, Unfetched};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::ops::prefetch::admit::judged;
use crate::ops::prefetch::outcome::ImageOutcome;
use crate::ops::prefetch::report::{ImageEnding, verified_by};
use crate::ops::prefetch::{Locked, PrefetchRun, Ready, Running};
use crate::units::human;

impl PrefetchRun<'_> {
    /// Publishes what was fetched, or notes why there is nothing to publish.
    pub(crate) fn finish(&mut self, id: ImageId, result: Result<Fetched, Unfetched>, attempts: &[Attempt]) {
        let Some(running) = self.running.remove(&id) else { return };
        let last = if result.is_err() { attempts.split_last() } else { None };
        for attempt in last.map_or(attempts, |(_, others)| others) {
            let next = "the next location is tried";
            self.run.output.warning(&format!("image {id}: {}: {next}", attempt.message));
        }
        let size = running.record.size.unwrap_or(0);
        let ending = match result {
            Ok(fetched) => {
                let patience = self.means.wait.limit.max(running.since.elapsed());
                self.ready.push_back(Ready { running, fetched, until: Instant::now() + patience });
                return;
            }
            Err(Unfetched::Interrupted) => {
                ImageEnding::new(ImageOutcome::Pending, size, "a signal came while it was fetched")
            }
            Err(Unfetched::Cache(e)) => ImageEnding::new(ImageOutcome::Failed, size, format!("{e:#}")),
            Err(Unfetched::NoSource) => {
                let why = last.map_or("it has no location", |(last, _)| last.message.as_str());
                if running.request.queued && attempts.iter().any(|attempt| attempt.lasting) {
                    self.remember(id, why, fingerprint(&running.record));
                }
                ImageEnding::new(ImageOutcome::Failed, size, why)
            }
        };
        self.end(&running.request, ending);
    }

    /// Writes into the image's entry in the queue why it failed, so that it is not downloaded in vain again.
    fn remember(&mut self, id: ImageId, failed: &str, fingerprint: String) {
        if let Err(e) = queue::remember(self.dir, id, failed, fingerprint) {
            self.run.output.note(&format!("{e:#}: the next run will try it again"));
        }
    }

    /// Publishes what waits for it, as far as that can be done now. What has waited long enough is given up.
    pub(crate) fn publish_ready(&mut self) {
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
                            self.run.output.note(&format!("what was fetched waits to be published: {why:#}"));
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

    fn unpublished(&self, bytes: u64, why: &anyhow::Error) -> ImageEnding {
        if self.run.interrupt.raised() {
            return ImageEnding::new(ImageOutcome::Pending, bytes, "a signal came before it was published");
        }
        let why = format!("it was fetched, but cannot be published: {why:#}");
        ImageEnding::new(ImageOutcome::Failed, bytes, why)
    }

    /// Does all that comes before an image gets its name; prune's lock is to be held until it has it.
    fn prepare(&mut self, ready: &mut Ready) -> Result<Option<Lock>, Unprepared> {
        let Ready { running, fetched: Fetched { staged, bytes, .. }, .. } = ready;
        let (id, bytes) = (running.request.id, *bytes);
        // Glance is let at the index between images, too.
        self.cache.ledger.rest();
        let at_once = Wait { limit: Duration::ZERO, ..self.means.wait.clone() };
        if let Ok(Locking::Busy(who)) = self.means.locks.take(lock::PRUNE, &at_once) {
            return Err(Unprepared::Later(anyhow!(who)));
        }
        let reached = self.cache.ledger.reach();
        reached.map_err(|refusal| self.refused(bytes, refusal))?;
        let unread = match self.records.record(id) {
            Ok(record) => {
                let verdict = judge_again(record.as_ref(), &running.record);
                judged(verdict, bytes).map_err(Unprepared::Never)?;
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
            // Glance itself goes by its record, whatever is cached.
            let line = format!("image {id}: what its record said before the fetch has to do: {why:#}");
            self.run.output.warning(&line);
        }
        Ok(lock)
    }

    /// What an index that refuses means. Where nothing came of it, or what did is replaced, it can be done again.
    fn refused(&self, bytes: u64, refusal: Refusal) -> Unprepared {
        let passes = matches!(refusal, Refusal::Busy(_) | Refusal::Lost(_) | Refusal::Interrupted);
        let why = refusal.into_error();
        if passes { Unprepared::Later(why) } else { self.never(bytes, &why) }
    }

    fn never(&self, bytes: u64, why: &anyhow::Error) -> Unprepared {
        Unprepared::Never(self.unpublished(bytes, why))
    }

    /// Gives an image that has its row its name in the cache.
    fn give_name(&mut self, running: &Running, fetched: Fetched) -> anyhow::Result<ImageEnding> {
        let (id, Fetched { staged, bytes, location }) = (running.request.id, fetched);
        let published =
            staged.publish(self.dir, CachePlace::Base, id).inspect_err(|_| self.forget_row(id))?;
        if published == Publication::AlreadyThere {
            return Ok(dropped(bytes));
        }
        self.report.total_files_prefetched += 1;
        self.report.total_bytes_prefetched += bytes;
        let by = verified_by(running.check.as_ref(), running.record.size);
        self.run.output.did(|| {
            let by = by.as_deref().unwrap_or("nothing");
            format!("fetched {id} ({}) from {location}, verified by {by}", human(bytes))
        });
        Ok(ImageEnding::fetched(bytes, location, by))
    }

    /// Takes back the row of an image that got no file. Where that fails too, whoever comes next forgets it.
    fn forget_row(&mut self, id: ImageId) {
        let Ok(inventory) = self.inventory() else { return };
        let Some(ghost) = inventory.ghosts.iter().find(|ghost| ghost.id == id) else { return };
        let victim = Deletion { id, only_if: Condition::Row(ghost.row.key) };
        let _ = self.cache.ledger.rows_only(|transaction| transaction.forget(&[victim]).map(drop));
    }

    /// Gives an image its row, as Glance's driver does, in the place of one that was left without a file, whenever that was.
    fn record_row(&mut self, id: ImageId, staged: &Staged) -> Result<(), Refusal> {
        if !self.cache.ledger.has_rows() {
            return Ok(());
        }
        let stat = rustix::fs::fstat(staged.file.as_fd()).context("cannot look at the staged image");
        let seen = seen(&stat.map_err(Refusal::Broken)?);
        // Meanwhile the others wait; the next look is not far.
        let begun = self.cache.ledger.begin_within(GLANCE_PATIENCE);
        let recorded = begun.and_then(|mut transaction| {
            transaction.record(&Image { id, seen, row: None })?;
            transaction.commit(None)
        });
        recorded.map_err(|refusal| refusal.context("cannot record it in the index".to_owned()))
    }
}

/// Why an image was not prepared to be published.
enum Unprepared {
    /// Somebody else has the lock or the index, or its server is lost.
    Later(anyhow::Error),
    Never(ImageEnding),
}

fn dropped(bytes: u64) -> ImageEnding {
    let why = "Glance has cached it meanwhile, or is at it: what was fetched is dropped";
    ImageEnding::new(ImageOutcome::LeftToGlance, bytes, why)
}
