//! Carries out a plan, entry by entry, and returns the outcome.
//!
//! **Order.** The rows of each batch are deleted first, in an open transaction whose commit can no longer be
//! refused; then the files are removed; then the transaction is committed. A file that cannot be removed
//! keeps its row. Killed in between, the rows come back without their files: ghosts, which the next run
//! forgets. Large files are held open until after the commit, because to free their blocks takes longer than
//! Glance is willing to wait for its index.
//!
//! **Looking again.** Glance goes on meanwhile. A row is deleted only if last use and hits are what the plan
//! was made from, and a file is removed only if it is still the same. Images that were used or changed stay,
//! and the next in order are removed instead.
//!
//! **Very many images** of an index with pages are removed in the order of their rows, and not by last use:
//! it is decided which ones are removed, and a transaction costs by the pages it changes. A run that ends
//! early has then removed any of them, not the oldest. On a full disk, where some are removed out of turn,
//! the rest goes by last use again.
//!
//! **A full disk** has no space for the journal of the index. Then entries without a row are removed first
//! (those that `clean` would remove, then orphans). After them images are removed one at a time, each file
//! before its row, under the index's lock, until the journal fits.
//!
//! **A connection that is lost** before the first file of a batch is removed costs nothing: the batch begins
//! again as long as the wait allows. The lost session may still have its rows locked, so that they are waited
//! for; otherwise newer images would be removed in their place.
//!
//! **A commit that is refused** leaves rows without files. Their deletion is repeated as long as the wait
//! allows, in smaller parts where the server refuses them all at once, and the batches that follow are no
//! larger than these. If rows stay all the same, the run ends there: at most half of the rows are without
//! their files then, and the next run forgets them. That these rows are ours, or those of a run that was
//! killed, the next run knows from a note ([`pending`]).
//!
//! **A row that is refused**, by a trigger for instance, is looked for in halves and passed over. Its image
//! stays, or the row does if it was without its file.
//!
//! An entry that fails is recorded, and the next follows. Dry runs never come here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rustix::io::Errno;

use super::dir::{CacheDir, CachePlace, Removal};
use super::entry::{EntryKind, Ghost, Image, Partial, Seen};
use super::index::{Condition, Deletion};
use super::inventory::Inventory;
use super::ledger::{Ledger, Parts, Retry};
use super::pending::{self, PendingRows};
use super::plan::{CleanPlan, CleanReason, Goal, PrunePlan, PruneReason, RepairPlan, frees};
use crate::cache::outcome::{Action, Last, Outcome, Progress, Removed};
use crate::database::refusal::Refusal;
use crate::interrupt::Interrupt;
use crate::names::ImageId;
use crate::os::space::available;

/// The number of images in the first transaction. Like all of them, it is bounded in time.
const FIRST_BATCH: usize = 1024;
const SMALLEST_BATCH: usize = 16;
const LARGEST_BATCH: usize = 20_000;
/// Files of more than this many bytes on disk are held open across their unlink.
const LARGE: u64 = 8 << 20;
/// The number of descriptors that are held at a time.
const HELD: usize = 200;
/// From this number of images in a batch on, a second thread saves time.
const WORTH_TWO: usize = 128;
/// The number of entries of the subdirectories that are removed between two reports of progress, at most.
const PARTIALS: usize = 1024;
/// The time between two reports of progress.
const TOLD: Duration = Duration::from_millis(100);
/// The number of orphans that are removed at a time on a full disk.
const ORPHANS: usize = 256;
/// The number of rows without files that are deleted at a time, in some milliseconds.
const ROWS: usize = 5_000;
/// The time to wait, once, for blocks that the file system frees in the background.
const SETTLE: Duration = Duration::from_secs(2);
/// The time to wait for such blocks in all: those of a file that is still open are not freed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries out plans on one cache.
pub(crate) struct Executor<'a> {
    pub(crate) dir: &'a CacheDir,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) progress: &'a dyn Progress,
}

/// Removes the entries of a clean plan. No index is needed.
pub(crate) fn clean(
    dir: &CacheDir,
    plan: &CleanPlan,
    interrupt: &Interrupt,
    progress: &dyn Progress,
    outcome: &mut Outcome,
) {
    let mut entries = plan.alternating();
    let mut portion = Vec::new();
    loop {
        portion.extend(entries.by_ref().take(PARTIALS - portion.len()));
        if portion.is_empty() {
            return;
        }
        if interrupt.raised() {
            outcome.stopped = Some(Refusal::Interrupted);
            return;
        }
        let started = Instant::now();
        let is_over = |at| interrupt.raised() || (at > 0 && started.elapsed() > TOLD);
        let done = in_turn(portion.len(), &is_over, &|at| {
            let (reason, entry) = portion[at];
            let seen = &entry.seen;
            let same =
                |now: &Seen| now.inode == seen.inode && now.mtime == seen.mtime && now.size == seen.size;
            dir.remove(reason.place(), entry.name.as_name(), same)
        });
        for ((reason, entry), removal) in portion.drain(..done.len()).zip(done) {
            account(reason, entry, removal, progress, outcome);
        }
    }
}

/// Adds the result of removing an entry of a clean plan to the outcome.
fn account(
    reason: CleanReason,
    entry: &Partial,
    removal: Result<Removal, Errno>,
    progress: &dyn Progress,
    outcome: &mut Outcome,
) {
    let (place, name) = (reason.place(), entry.name.as_name());
    match removal {
        Ok(Removal::Removed) => {
            let (count, text) = match reason {
                CleanReason::Invalid => (&mut outcome.invalid_files, "invalid"),
                CleanReason::Stalled => (&mut outcome.stalled_files, "stalled"),
            };
            *count += 1;
            // A link has a length, but no image is behind it.
            let bytes = if entry.kind == EntryKind::File { entry.seen.size } else { 0 };
            outcome.bytes_cleaned += bytes;
            let last = Last::Write(entry.seen.mtime);
            progress.removed(Removed {
                place,
                name,
                bytes,
                reason: text,
                is_ghost: false,
                is_orphan: false,
                last,
            });
        }
        Ok(Removal::AlreadyGone) => {}
        Ok(Removal::Changed) => outcome.left_alone += 1,
        Err(e) => outcome.error(place.show(name), Action::Remove, e.to_string()),
    }
}

/// True if a file is still the one that the plan was made from, unused since. Without a row its access time
/// is its last use.
fn unchanged(image: &Image) -> impl Fn(&Seen) -> bool + '_ {
    let was = &image.seen;
    move |now| {
        let same = now.inode == was.inode
            && now.size == was.size
            && now.mtime == was.mtime
            && now.ctime == was.ctime
            && now.links == was.links;
        same && (image.row.is_some() || now.atime == was.atime)
    }
}

/// Returns if an image whose row has changed was removed by another process, or only used.
fn lost(dir: &CacheDir, image: &Image) -> Result<Removal, Errno> {
    let now = dir.look(CachePlace::Base, image.id.as_name())?;
    Ok(if now.is_none() { Removal::AlreadyGone } else { Removal::Changed })
}

/// Removes an image. The blocks of a large one are freed when the returned handle is dropped.
fn remove(dir: &CacheDir, image: &Image) -> (Result<Removal, Errno>, Option<OwnedFd>) {
    let handle = if image.seen.allocated > LARGE { dir.hold(image.id.as_name()) } else { None };
    let removal = dir.remove(CachePlace::Base, image.id.as_name(), unchanged(image));
    let handle = handle.filter(|_| matches!(removal, Ok(Removal::Removed)));
    (removal, handle)
}

/// Calls `one` for the numbers from 0 to `count` and returns the results in order: all of them, or the first
/// ones if `is_over` becomes true.
///
/// Two threads share the work if there is much of it: half of an unlink is work on the inode, which does not
/// lock the directory.
fn in_turn<T: Send>(
    count: usize,
    is_over: &(dyn Fn(usize) -> bool + Sync),
    one: &(dyn Fn(usize) -> T + Sync),
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while !is_over(next.load(Ordering::Relaxed)) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                break;
            }
            done.push((at, one(at)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let second = (count >= WORTH_TWO).then(|| thread::Builder::new().spawn_scoped(scope, work));
        let mut done = work();
        // If no thread can be started, this one does all the work.
        if let Some(Ok(second)) = second {
            done.extend(second.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn victim(image: &Image) -> Deletion {
    Deletion { id: image.id, only_if: image.row.map_or(Condition::NoRow, Condition::Unchanged) }
}

/// Removes the files of the images whose conditions held, until it is late or a signal comes. Returns the
/// results for the images that were reached, and the handles of the large ones.
fn remove_in_turn(
    dir: &CacheDir,
    images: &[&Image],
    holds: &[bool],
    interrupt: &Interrupt,
    is_late: &(dyn Fn() -> bool + Sync),
) -> (Vec<Result<Removal, Errno>>, Vec<Option<OwnedFd>>) {
    let held = AtomicUsize::new(0);
    let is_full = || held.load(Ordering::Relaxed) >= HELD;
    let is_over = |at| interrupt.raised() || (at > 0 && (is_late() || is_full()));
    let done = in_turn(images.len(), &is_over, &|at| {
        if !holds[at] {
            return (lost(dir, images[at]), None);
        }
        let (removal, handle) = remove(dir, images[at]);
        held.fetch_add(usize::from(handle.is_some()), Ordering::Relaxed);
        (removal, handle)
    });
    done.into_iter().unzip()
}

impl Executor<'_> {
    /// Prunes: forgets the ghosts, then removes images until the goal is reached.
    ///
    /// `spare` returns what may be removed without the index if the disk is too full for its journal.
    /// `min_free` (bytes) is measured again at the end: file systems and open files can give back less than
    /// expected.
    pub(crate) fn prune(
        &mut self,
        inventory: &Inventory,
        plan: &PrunePlan,
        spare: &dyn Fn() -> CleanPlan,
        min_free: Option<u64>,
    ) -> Outcome {
        let mut run = PruneRun {
            order: plan.by_page(inventory),
            at: 0,
            goal: plan.goal,
            freed: 0,
            rows: inventory.rows(),
            batch: FIRST_BATCH,
            disk: Disk::Enough,
            made_space: false,
            taken: HashSet::new(),
            pending: Vec::new(),
            note: PendingRows::default(),
            noted: self.noted_ghosts(inventory),
            left: Vec::new(),
            patience: PATIENCE,
            reason: &|image| plan.reason_for(image),
            by_file: inventory.tracked_by_file(),
            outcome: Outcome::default(),
        };
        let has_note = inventory.has_note || !run.noted.is_empty();
        let before = self.available().unwrap_or(0);
        let ghosts = self.forget_first(&inventory.ghosts, spare, &mut run);
        while run.outcome.stopped.is_none() && run.outcome.rows_left == 0 {
            let step = match run.disk {
                Disk::Enough => self.step(inventory, &mut run),
                Disk::Full => self.make_space(inventory, plan, &mut run, spare),
                Disk::Fuller => self.file_before_row(inventory, &mut run),
            };
            match step {
                Ok(true) => {}
                Ok(false) if self.is_short(min_free, before, &mut run) => {}
                Ok(false) => break,
                Err(refusal) => run.outcome.stopped = Some(refusal),
            }
        }
        self.settle_rows(ghosts, &mut run);
        self.end_untouched(&mut run.outcome);
        if run.note.is_made() || has_note || !run.left.is_empty() {
            self.settle_note(&run.noted, &run.left);
        }
        run.outcome.warnings.extend(self.ledger.take_warning());
        run.outcome
    }

    /// Forgets the ghosts before any image is removed, and returns those for which there is no space yet.
    fn forget_first<'g>(
        &mut self,
        mut ghosts: &'g [Ghost],
        spare: &dyn Fn() -> CleanPlan,
        run: &mut PruneRun<'_>,
    ) -> &'g [Ghost] {
        let mut forgotten = self.forget_ghosts(&mut ghosts, &mut run.noted, &mut run.outcome);
        if matches!(forgotten, Err(Refusal::Full(_))) {
            clean(self.dir, &spare(), self.ledger.interrupt(), self.progress, &mut run.outcome);
            forgotten = self.forget_ghosts(&mut ghosts, &mut run.noted, &mut run.outcome);
        }
        let count = usize::try_from(run.outcome.ghosts_forgotten).unwrap_or(usize::MAX);
        run.rows = run.rows.saturating_sub(count);
        match forgotten {
            Ok(()) => {}
            // The removal of images frees space, and the ghosts are tried again after it.
            Err(Refusal::Full(_)) if !run.goal.is_reached() => {}
            Err(refusal) => run.outcome.stopped = Some(refusal),
        }
        ghosts
    }

    /// Removes one batch of images. Returns false if there is nothing more to do.
    fn step(&mut self, inventory: &Inventory, run: &mut PruneRun<'_>) -> Result<bool, Refusal> {
        let images: Vec<&Image> = run.next_batch(inventory, self.ledger.most_rows());
        if images.is_empty() {
            return Ok(false);
        }
        match self.batch(&images, run) {
            Ok(Batch::Reached(_)) => {}
            Ok(Batch::Refused(why)) => self.pass_over(&images, why, run)?,
            Err(Refusal::Full(_)) => run.disk = if run.made_space { Disk::Fuller } else { Disk::Full },
            Err(refusal) => return Err(refusal),
        }
        Ok(true)
    }

    /// Notes that the rows of a batch were refused before a file was removed. The batches that follow are
    /// smaller, and an image whose row is refused alone stays.
    fn pass_over(
        &mut self,
        images: &[&Image],
        why: anyhow::Error,
        run: &mut PruneRun<'_>,
    ) -> Result<(), Refusal> {
        match self.ledger.refused(images.len(), &why) {
            Retry::Fewer => {}
            Retry::Others => {
                run.outcome.error(images[0].id.as_str(), Action::Remove, format!("{why:#}"));
                run.at += 1;
            }
            Retry::No => return Err(Refusal::Broken(why)),
        }
        Ok(())
    }

    /// Removes images and their rows in one transaction.
    ///
    /// If the connection is lost before the first file is removed, nothing was changed. Then the batch begins
    /// again, with another look at each image, as long as the wait allows. Rows that stay locked are an error
    /// then.
    fn batch(&mut self, images: &[&Image], run: &mut PruneRun<'_>) -> Result<Batch, Refusal> {
        let mut repeats = None;
        let mut limit = Duration::MAX;
        let result = loop {
            match self.batch_within(limit, images, run) {
                Err(Refusal::Lost(e)) => {
                    let repeats = repeats.get_or_insert_with(|| self.ledger.repeats());
                    if !self.ledger.pauses(repeats) {
                        break Err(self.or_interrupted(Refusal::Lost(e)));
                    }
                    limit = Ledger::left(repeats);
                    self.ledger.wait_for_rows(true);
                }
                Err(Refusal::Busy(e)) if repeats.is_some() => {
                    break Err(Refusal::Busy(e.context("the connection was lost, and rows stay locked")));
                }
                result => break result,
            }
        };
        self.ledger.wait_for_rows(false);
        result
    }

    /// As [`Executor::batch`], once. After an error no file was removed, and all rows are there.
    fn batch_within(
        &mut self,
        limit: Duration,
        images: &[&Image],
        run: &mut PruneRun<'_>,
    ) -> Result<Batch, Refusal> {
        if self.ledger.interrupt().raised() {
            return Err(Refusal::Interrupted);
        }
        let mut victims: Vec<Deletion> = images.iter().map(|image| victim(image)).collect();
        let interrupt = self.ledger.interrupt().clone();
        let mut transaction = self.ledger.begin_within(limit)?;
        let turn = transaction.turn();
        let holds = match transaction.forget(&victims) {
            Err(Refusal::Broken(why)) => return Ok(Batch::Refused(why)),
            holds => holds?,
        };
        let with_rows = victims.iter().zip(&holds).filter(|(victim, holds)| **holds && victim.has_row());
        let before = run.noted.iter().copied().chain(run.pending.iter().map(|row| row.id));
        run.note.write(self.dir, before.chain(with_rows.map(|(victim, _)| victim.id)));
        // Only the removals are bounded, because a slow disk needs its time for the journal however small the
        // batch is. They get twice the aim: to stop early costs, too, because the rows of the rest are
        // restored page by page.
        let removing = Instant::now();
        let is_late = || removing.elapsed() > turn * 2;
        let (done, held) = remove_in_turn(self.dir, images, &holds, &interrupt, &is_late);
        let removed_in = removing.elapsed();
        let is_gone = |result: Option<&Result<Removal, Errno>>| {
            matches!(result, Some(Ok(Removal::Removed | Removal::AlreadyGone)))
        };
        // Rows whose condition did not hold were not deleted, and need not be restored.
        let all = holds.iter().enumerate().all(|(i, holds)| !holds || is_gone(done.get(i)));
        let mut at = 0..;
        victims.retain(|_| is_gone(at.next().and_then(|at| done.get(at))));
        let committed = transaction.commit(if all { None } else { Some(&victims) });
        drop(held);
        match committed {
            Ok(()) => self.ledger.took(done.len()),
            Err(refusal) => self.repeat(&victims, refusal, run),
        }
        run.account(images, &done, self.progress);
        run.adapt(done.len(), removed_in, turn);
        Ok(Batch::Reached(done.len()))
    }

    /// After a commit that failed, deletes the rows again on their own: their files are removed.
    fn repeat(&mut self, gone: &[Deletion], refusal: Refusal, run: &mut PruneRun<'_>) {
        // A conflict is no error if the rows are deleted now. Neither is a limit for the size of a
        // transaction, of which there is a warning.
        let is_conflict = matches!(refusal, Refusal::Busy(_));
        let most_rows = self.ledger.most_rows();
        let why = format!("{:#}", refusal.into_error());
        run.pending.extend(gone.iter().filter_map(as_ghost));
        match self.forget_pending(run) {
            Ok(()) if is_conflict || self.ledger.most_rows() < most_rows => {}
            Ok(()) => {
                let message = format!("{why}; the rows of the removed files were then deleted all the same");
                run.outcome.error("index", Action::Forget, message);
            }
            Err(refusal) => {
                run.outcome.error("index", Action::Forget, why);
                run.give_up_rows(refusal);
            }
        }
    }

    /// Deletes rows whose files this run removed before, unless Glance has cached the image again.
    fn forget_pending(&mut self, run: &mut PruneRun<'_>) -> Result<(), Refusal> {
        let dir = self.dir;
        let count = run.pending.len();
        let parts = self.ledger.in_parts(count, count, |ledger, part| {
            ledger.rows_repeatedly(|transaction| {
                let rows = &run.pending[part.clone()];
                let forgotten = transaction.forget_due(rows, &|row| is_absent(dir, row))?;
                let stay = rows.iter().zip(forgotten).filter(|(_, is_forgotten)| !is_forgotten);
                match stay.filter(|(row, _)| is_absent(dir, row)).count() {
                    0 => Ok(()),
                    count => Err(Refusal::Busy(anyhow!("{count} rows are locked by another session"))),
                }
            })
        });
        // Rows that were passed over stay pending, like those that were not reached.
        let mut stay = parts.refused.iter().map(|(at, _)| run.pending[*at]).collect::<Vec<_>>();
        stay.extend_from_slice(&run.pending[parts.reached..]);
        run.pending = stay;
        let refused = parts.refused.into_iter().next();
        parts.result.and(refused.map_or(Ok(()), |(_, why)| Err(Refusal::Broken(why))))
    }

    /// Removes entries without a row from a full disk: those that `clean` would remove, then orphans.
    fn make_space(
        &mut self,
        inventory: &Inventory,
        plan: &PrunePlan,
        run: &mut PruneRun<'_>,
        spare: &dyn Fn() -> CleanPlan,
    ) -> Result<bool, Refusal> {
        run.made_space = true;
        run.go_by_last_use(plan);
        clean(self.dir, &spare(), self.ledger.interrupt(), self.progress, &mut run.outcome);
        let orphans: Vec<&Image> = run.order[run.at..]
            .iter()
            .map(|position| &inventory.images[*position as usize])
            .filter(|image| inventory.is_orphan(image))
            .collect();
        for portion in orphans.chunks(ORPHANS) {
            let mut goal = run.goal;
            let wanted: Vec<&Image> = portion
                .iter()
                .copied()
                .filter(|image| {
                    let wanted = goal.wants(image);
                    if wanted {
                        goal = goal.without(image);
                    }
                    wanted
                })
                .collect();
            if wanted.is_empty() {
                break;
            }
            let at = run.at;
            let done = match self.batch(&wanted, run) {
                // Even reading needs space now. Images are next.
                Err(Refusal::Full(_)) => break,
                Err(refusal) => return Err(refusal),
                Ok(Batch::Refused(why)) => return Err(Refusal::Broken(why)),
                Ok(Batch::Reached(done)) => done,
            };
            // They were removed out of turn.
            run.at = at;
            run.taken.extend(wanted[..done].iter().map(|image| image.id));
        }
        run.disk = Disk::Enough;
        Ok(true)
    }

    /// Removes one image before its row from a disk that is still full, under the index's lock, then tries to
    /// delete the row.
    fn file_before_row(&mut self, inventory: &Inventory, run: &mut PruneRun<'_>) -> Result<bool, Refusal> {
        let Some(image) = run.next_batch(inventory, Some(1)).first().copied() else {
            return Ok(false);
        };
        if self.ledger.interrupt().raised() {
            return Err(Refusal::Interrupted);
        }
        let half = inventory.rows() / 2;
        // The only image of an index goes, too, if it frees the space that its row needs.
        let most = if frees(image) > 0 { half.max(1) } else { half };
        if run.pending.len() >= most {
            // With more rows without files, the next run would refuse the directory as a wrong one.
            return Err(Refusal::Full(anyhow!(
                "still no space left for the journal of the index after {} images were removed: free some \
                 space on the disk, and run this again",
                run.pending.len()
            )));
        }
        let mut transaction = self.ledger.begin()?;
        let victim = victim(image);
        let holds = transaction.holds(&victim)?;
        // Large files are not held here: their blocks are needed now.
        let removal = if holds {
            self.dir.remove(CachePlace::Base, image.id.as_name(), unchanged(image))
        } else {
            lost(self.dir, image)
        };
        drop(transaction);
        if matches!(removal, Ok(Removal::Removed | Removal::AlreadyGone)) {
            run.pending.extend(as_ghost(&victim));
        }
        run.account(&[image], &[removal], self.progress);
        match self.forget_pending(run) {
            Ok(()) => run.disk = Disk::Enough,
            Err(Refusal::Full(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        Ok(true)
    }

    /// Deletes, at the end, the rows of removed files, and ghosts for which there was no space before.
    fn settle_rows(&mut self, mut ghosts: &[Ghost], run: &mut PruneRun<'_>) {
        if let Err(refusal) = self.forget_pending(run) {
            run.give_up_rows(refusal);
        }
        if run.outcome.stopped.is_none()
            && run.outcome.rows_left == 0
            && let Err(refusal) = self.forget_ghosts(&mut ghosts, &mut run.noted, &mut run.outcome)
        {
            run.outcome.stopped = Some(refusal);
        }
    }

    /// Returns the images that a run before this one has noted, and whose rows may still be without files.
    fn noted_ghosts(&self, inventory: &Inventory) -> HashSet<ImageId> {
        let mut noted = if self.ledger.has_rows() { pending::noted(self.dir) } else { HashSet::new() };
        if inventory.ghosts_are_left {
            noted.retain(|id| is_missing(self.dir, *id));
        } else if !noted.is_empty() {
            let ghosts: HashSet<ImageId> = inventory.ghosts.iter().map(|ghost| ghost.id).collect();
            noted.retain(|id| ghosts.contains(id));
        }
        noted
    }

    /// Notes, at the end, only what is still a ghost: of the images that were noted before, and of those
    /// whose rows this run left. Without any the note is removed.
    fn settle_note(&self, noted: &HashSet<ImageId>, left: &[ImageId]) {
        if self.ledger.has_rows() {
            let ghosts = noted.iter().chain(left).copied().filter(|id| is_missing(self.dir, *id));
            pending::keep(self.dir, ghosts.collect());
        }
    }

    /// Deletes rows whose image is missing. That it is, is seen when nobody else can use the row: Glance may
    /// cache the image again while the row is waited for, and then keeps that row. Those that are deleted
    /// are no longer `noted`, and those that were reached are taken off the front of `ghosts`.
    fn forget_ghosts(
        &mut self,
        ghosts: &mut &[Ghost],
        noted: &mut HashSet<ImageId>,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        let (dir, progress, all) = (self.dir, self.progress, *ghosts);
        let forget = |ledger: &mut Ledger, part: Range<usize>| {
            if ledger.interrupt().raised() {
                return Err(Refusal::Interrupted);
            }
            let portion = &all[part];
            let victims: Vec<Deletion> = portion
                .iter()
                .map(|ghost| Deletion { id: ghost.id, only_if: Condition::Row(ghost.row.key) })
                .collect();
            let forgotten = ledger.rows_repeatedly(|transaction| {
                transaction.forget_due(&victims, &|victim| is_absent(dir, victim))
            })?;
            let gone = || victims.iter().zip(&forgotten).filter(|(_, is_forgotten)| **is_forgotten);
            let count = gone().count();
            outcome.ghosts_forgotten += count as u64;
            outcome.left_alone += (portion.len() - count) as u64;
            for (victim, _) in gone() {
                noted.remove(&victim.id);
                progress.removed(Removed {
                    place: CachePlace::Base,
                    name: victim.id.as_name(),
                    bytes: 0,
                    reason: "its file is missing",
                    is_ghost: true,
                    is_orphan: false,
                    last: Last::Unknown,
                });
            }
            Ok(())
        };
        let parts = self.ledger.in_parts(all.len(), ROWS, forget);
        *ghosts = &all[parts.reached..];
        self.ended(parts, outcome, &|at| (all[at].id.to_string(), Action::Forget))
    }

    /// Ends a run that changed nothing because the index refused one row after the other. It ends as if the
    /// index had refused all of them at once.
    fn end_untouched(&self, outcome: &mut Outcome) {
        if outcome.stopped.is_none() && outcome.is_untouched() {
            outcome.stopped = self.ledger.refuses_all();
        }
    }

    /// Adds the rows that were passed over to the errors, and returns the reason for not going on behind
    /// them.
    fn ended(
        &self,
        parts: Parts,
        outcome: &mut Outcome,
        entry: &dyn Fn(usize) -> (String, Action),
    ) -> Result<(), Refusal> {
        for (at, why) in parts.refused {
            let (name, action) = entry(at);
            outcome.error(name, action, format!("{why:#}"));
        }
        parts.result.map_err(|refusal| self.or_interrupted(refusal))
    }

    /// Repairs the index: deletes ghosts, gives rows to orphans, deletes rows whose id is no UUID.
    pub(crate) fn repair(&mut self, inventory: &Inventory, plan: &RepairPlan, outcome: &mut Outcome) {
        let mut noted = self.noted_ghosts(inventory);
        let has_note = inventory.has_note || !noted.is_empty();
        let result = self
            .forget_ghosts(&mut &inventory.ghosts[..], &mut noted, outcome)
            .and_then(|()| self.adopt(&plan.adopt, outcome))
            .and_then(|()| self.drop_bad_rows(inventory, outcome));
        outcome.warnings.extend(self.ledger.take_warning());
        outcome.stopped = result.err();
        self.end_untouched(outcome);
        if has_note {
            self.settle_note(&noted, &[]);
        }
    }

    fn adopt(&mut self, orphans: &[Image], outcome: &mut Outcome) -> Result<(), Refusal> {
        let dir = self.dir;
        let adopt = |ledger: &mut Ledger, part: Range<usize>| {
            if ledger.interrupt().raised() {
                return Err(Refusal::Interrupted);
            }
            let portion = &orphans[part];
            let adopted = ledger.rows_counted(|transaction| {
                let there: Vec<Image> = portion
                    .iter()
                    .filter(|image| {
                        let now = dir.look(CachePlace::Base, image.id.as_name());
                        matches!(now, Ok(Some((EntryKind::File, now))) if unchanged(image)(&now))
                    })
                    .copied()
                    .collect();
                transaction.adopt(&there)
            })?;
            outcome.orphans_adopted += adopted;
            outcome.left_alone += (portion.len() as u64).saturating_sub(adopted);
            Ok(())
        };
        let parts = self.ledger.in_parts(orphans.len(), ROWS, adopt);
        self.ended(parts, outcome, &|at| (orphans[at].id.to_string(), Action::Repair))
    }

    fn drop_bad_rows(&mut self, inventory: &Inventory, outcome: &mut Outcome) -> Result<(), Refusal> {
        let rows = &inventory.bad_rows;
        let drop = |ledger: &mut Ledger, part: Range<usize>| {
            let portion = &rows[part];
            outcome.rows_dropped += ledger.rows_counted(|transaction| transaction.drop_bad_rows(portion))?;
            Ok(())
        };
        let parts = self.ledger.in_parts(rows.len(), ROWS, drop);
        self.ended(parts, outcome, &|at| (rows[at].shown.clone(), Action::Forget))
    }

    /// Returns the refusal after which something is not repeated any more: a signal, if one ended the wait.
    fn or_interrupted(&self, refusal: Refusal) -> Refusal {
        if self.ledger.interrupt().raised() { Refusal::Interrupted } else { refusal }
    }

    /// Returns the free bytes of the file system, if they can be measured.
    fn available(&self) -> Option<u64> {
        self.dir.statvfs().ok().map(|fs| available(&fs))
    }

    /// True if the goal is reached, but less is free than was asked for. The goal then is what is missing.
    ///
    /// File systems may free blocks in the background. As long as fewer are free than were just released,
    /// this waits a moment.
    fn is_short(&self, min_free: Option<u64>, before: u64, run: &mut PruneRun<'_>) -> bool {
        let Some(wanted) = min_free.filter(|_| run.goal.is_reached() && run.freed > 0) else {
            return false;
        };
        let started = Instant::now();
        let limit = SETTLE.min(run.patience);
        let expected = wanted.min(before.saturating_add(run.freed));
        let waits = |free| free < expected && started.elapsed() < limit && !self.ledger.interrupt().raised();
        while self.available().is_some_and(waits) {
            thread::sleep(Duration::from_millis(20));
        }
        run.patience = run.patience.saturating_sub(started.elapsed());
        // If it cannot be measured, no image is removed for it; the report says so.
        run.goal.free = self.available().map_or(0, |free| wanted.saturating_sub(free));
        run.goal.free > 0
    }
}

/// Returns the ghost that a victim is once its file is removed. Orphans leave none.
fn as_ghost(victim: &Deletion) -> Option<Deletion> {
    match victim.only_if {
        Condition::Unchanged(row) => Some(Deletion { id: victim.id, only_if: Condition::Row(row.key) }),
        Condition::Row(_) => Some(*victim),
        Condition::Present(key) => Some(Deletion { id: victim.id, only_if: Condition::Row(key) }),
        Condition::NoRow => None,
    }
}

/// True if the image of a row is missing. If that is unknown, the image counts as present.
fn is_absent(dir: &CacheDir, victim: &Deletion) -> bool {
    is_missing(dir, victim.id)
}

/// As [`is_absent`], for an image.
fn is_missing(dir: &CacheDir, id: ImageId) -> bool {
    match dir.look(CachePlace::Base, id.as_name()) {
        Ok(found) => !matches!(found, Some((EntryKind::File, _))),
        Err(_) => false,
    }
}

/// The result of a batch.
enum Batch {
    /// So many of its images were reached.
    Reached(usize),
    /// The deletion of its rows was refused, and nothing was changed.
    Refused(anyhow::Error),
}

/// The space that is left for the journal of the index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Enough,
    /// None: entries without a row are removed first.
    Full,
    /// None, and no entry without a row is left.
    Fuller,
}

/// The state of a running prune.
struct PruneRun<'a> {
    /// The candidates in their order, as positions in the inventory.
    order: Cow<'a, [u32]>,
    /// The position of the next candidate in `order`.
    at: usize,
    /// The rest of the goal.
    goal: Goal,
    /// Bytes of disk freed so far.
    freed: u64,
    /// The number of rows in the index, about.
    rows: usize,
    /// The number of images in the next transaction.
    batch: usize,
    disk: Disk,
    /// True if the entries without a row were removed already.
    made_space: bool,
    /// Images that were removed out of turn.
    taken: HashSet<ImageId>,
    /// Rows of images whose files are removed.
    pending: Vec<Deletion>,
    /// The note of what is being removed.
    note: PendingRows,
    /// Images that a run before this one has noted, and whose rows may still be without files.
    noted: HashSet<ImageId>,
    /// Images whose rows this run leaves without files.
    left: Vec<ImageId>,
    /// The rest of the time to wait for blocks that are freed in the background.
    patience: Duration,
    /// Returns why the plan removes an image.
    reason: &'a dyn Fn(&Image) -> PruneReason,
    /// True if the index knows its images by their files.
    by_file: bool,
    outcome: Outcome,
}

impl PruneRun<'_> {
    /// Ends the run because rows of removed files cannot be deleted: with more of them the next run would
    /// refuse the directory as a wrong one.
    fn give_up_rows(&mut self, refusal: Refusal) {
        let count = self.pending.len();
        self.left.extend(self.pending.drain(..).map(|row| row.id));
        self.outcome.rows_left += count as u64;
        if matches!(refusal, Refusal::Interrupted) {
            self.outcome.stopped = Some(Refusal::Interrupted);
        }
        let why = refusal.into_error();
        let message = format!(
            "{count} rows stay without their files, so that no more images were removed; the next run \
             forgets these rows: {why:#}"
        );
        self.outcome.error("index", Action::Forget, message);
    }

    /// Orders the rest by last use from here on: images removed out of turn change how many of the others
    /// have to follow.
    fn go_by_last_use(&mut self, plan: &PrunePlan) {
        if let Cow::Owned(order) = &self.order {
            let left: HashSet<u32> = order[self.at..].iter().copied().collect();
            self.order = plan.candidates.iter().copied().filter(|position| left.contains(position)).collect();
            self.at = 0;
        }
    }

    /// Returns the next images: as many as one transaction should take, and as the goal needs. Candidates
    /// that would not help are skipped. `most_rows` is the number of rows that the index lets a transaction
    /// delete; `None` if it has no rows.
    ///
    /// Never more than half of the rows: after a crash all of them come back without their files, and the
    /// next run would refuse the directory as a wrong one.
    fn next_batch<'a>(&mut self, inventory: &'a Inventory, most_rows: Option<usize>) -> Vec<&'a Image> {
        let most = most_rows.map_or(self.batch, |most| self.batch.min((self.rows / 2).max(1)).min(most));
        let mut goal = self.goal;
        let mut images = Vec::new();
        let mut at = self.at;
        while let Some(position) = self.order.get(at) {
            if goal.is_reached() || images.len() >= most {
                break;
            }
            let image = &inventory.images[*position as usize];
            if goal.wants(image) && !self.taken.contains(&image.id) {
                goal = goal.without(image);
                images.push(image);
            } else if images.is_empty() {
                self.at = at + 1;
            } else {
                break;
            }
            at += 1;
        }
        images
    }

    /// Adds the results of a batch to the outcome. Images that were not reached are left for the next batch.
    fn account(&mut self, images: &[&Image], done: &[Result<Removal, Errno>], progress: &dyn Progress) {
        for (image, result) in images.iter().zip(done) {
            match result {
                Ok(Removal::Removed) => {
                    self.outcome.files += 1;
                    self.outcome.bytes = self.outcome.bytes.saturating_add(image.seen.size);
                    self.freed += frees(image);
                    self.goal = self.goal.without(image);
                    self.rows -= usize::from(image.row.is_some() && self.rows > 0);
                    progress.removed(Removed {
                        place: CachePlace::Base,
                        name: image.id.as_name(),
                        bytes: image.seen.size,
                        reason: (self.reason)(image).text(),
                        is_ghost: false,
                        is_orphan: image.row.is_none() && !self.by_file,
                        last: Last::Use(image.last_use(self.by_file)),
                    });
                }
                Ok(Removal::AlreadyGone) => {
                    self.outcome.bytes_gone = self.outcome.bytes_gone.saturating_add(image.seen.size);
                    self.goal = self.goal.without(image);
                }
                Ok(Removal::Changed) => self.outcome.left_alone += 1,
                Err(e) => self.outcome.error(image.id.as_str(), Action::Remove, e.to_string()),
            }
        }
        self.at += done.len();
    }

    /// Sets the size of the next batch by the speed of this one, a little below its limit because entries
    /// differ.
    fn adapt(&mut self, done: usize, elapsed: Duration, limit: Duration) {
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-6);
        let next = (rate * limit.as_secs_f64() * 0.7) as usize;
        self.batch = next.clamp(SMALLEST_BATCH, LARGEST_BATCH).min(self.batch.saturating_mul(8));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::{Arc, Mutex};

    use anyhow::Result;

    use super::super::entry::{BadRow, Row};
    use super::super::index::double::{IndexDouble, IndexScript};
    use super::super::inventory::{Partials, Tracking};
    use super::super::plan::{self, CleanLimits, PruneLimits};
    use super::*;
    use crate::interrupt::Wait;

    /// The refusals of an index.
    #[derive(Clone, Copy)]
    struct Refusals {
        /// The number of commits.
        commits: usize,
        /// Makes the refusal of a commit.
        refusal: fn() -> Refusal,
        /// The number of deletions that fit on the disk, and of those that follow and do not.
        fit: usize,
        do_not_fit: usize,
        /// The number of deletions during which the connection is lost.
        losses: usize,
        /// Commits of more rows are refused.
        most: usize,
        /// True for the keys of rows that another session has locked.
        is_locked: fn(i64) -> bool,
        /// True for the keys of rows whose deletion is refused.
        is_poison: fn(i64) -> bool,
        /// True for the keys of rows whose deletion is refused in the commit.
        is_deferred: fn(i64) -> bool,
        /// Deletions of more rows are refused before the commit.
        most_deleted: usize,
        /// The number of deletions for which a lost session keeps the rows of the first twenty images locked.
        outlives: usize,
        /// As long as the directory has more files than this, the disk has no space to delete a row.
        full_above: usize,
    }

    const NOTHING: Refusals = Refusals {
        commits: 0,
        refusal: || Refusal::Interrupted,
        fit: 0,
        do_not_fit: 0,
        losses: 0,
        most: usize::MAX,
        is_locked: |_| false,
        is_poison: |_| false,
        is_deferred: |_| false,
        most_deleted: usize::MAX,
        outlives: 0,
        full_above: usize::MAX,
    };

    /// The keys of the rows of an index.
    type Keys = Arc<Mutex<HashSet<i64>>>;

    /// An index of rows in memory, which refuses something.
    struct Rows {
        /// The keys of the rows.
        committed: Keys,
        forgotten: HashSet<i64>,
        refuses: Refusals,
        /// True if locked rows are waited for.
        waits: bool,
        /// A file that appears while rows are waited for: Glance caches the image again.
        arrives: Option<std::path::PathBuf>,
        /// The directory whose files fill the disk.
        on_disk: Option<std::path::PathBuf>,
        /// The number of rows that each commit has deleted.
        batches: Arc<Mutex<Vec<usize>>>,
        /// The number of commits that were too large.
        too_large: Arc<AtomicUsize>,
    }

    impl IndexScript for Rows {
        fn begin(&mut self, _: &Wait) -> Result<bool, Refusal> {
            self.forgotten.clear();
            Ok(false)
        }

        fn forget(
            &mut self,
            deletions: &[Deletion],
            is_due: &dyn Fn(&Deletion) -> bool,
        ) -> Result<Vec<bool>, Refusal> {
            if let Some(path) = self.arrives.take() {
                std::fs::write(path, "image").unwrap();
            }
            if self.refuses.fit > 0 {
                self.refuses.fit -= 1;
            } else if self.refuses.do_not_fit > 0 {
                self.refuses.do_not_fit -= 1;
                return Err(Refusal::Full(anyhow!("no space left")));
            }
            if self.refuses.losses > 0 {
                self.refuses.losses -= 1;
                return Err(Refusal::Lost(anyhow!("the server has gone away")));
            }
            let is_ours = self.refuses.outlives > 0;
            self.refuses.outlives = self.refuses.outlives.saturating_sub(1);
            if is_ours && self.waits {
                return Err(Refusal::Busy(anyhow!("rows are locked")));
            }
            let is_locked = |key| (self.refuses.is_locked)(key) || (is_ours && key <= 20);
            let free = |one: &Deletion| !one.key().is_some_and(is_locked) && is_due(one);
            if deletions.iter().any(Deletion::has_row) && self.is_full() {
                return Err(Refusal::Full(anyhow!("database or disk is full")));
            }
            if deletions.iter().filter_map(Deletion::key).any(self.refuses.is_poison) {
                return Err(Refusal::Broken(anyhow!("error 1644: poison")));
            }
            if deletions.len() > self.refuses.most_deleted {
                return Err(Refusal::Broken(anyhow!("error 1105: wsrep_max_ws_rows exceeded")));
            }
            self.forgotten.extend(deletions.iter().filter(|one| free(one)).filter_map(Deletion::key));
            Ok(deletions.iter().map(free).collect())
        }

        fn commit(&mut self) -> Result<(), Refusal> {
            if self.refuses.commits > 0 {
                self.refuses.commits -= 1;
                return Err((self.refuses.refusal)());
            }
            if self.forgotten.iter().copied().any(self.refuses.is_deferred) {
                return Err(Refusal::Broken(anyhow!("error P0001: poison")));
            }
            if self.forgotten.len() > self.refuses.most {
                self.too_large.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::Broken(anyhow!("error 1105: transaction size limit exceeded")));
            }
            self.batches.lock().unwrap().push(self.forgotten.len());
            self.committed.lock().unwrap().retain(|key| !self.forgotten.contains(key));
            Ok(())
        }

        fn wait_for_rows(&mut self, waits: bool) {
            self.waits = waits;
        }
    }

    impl Rows {
        fn new(committed: Keys, refuses: Refusals) -> Self {
            Rows {
                committed,
                forgotten: HashSet::new(),
                refuses,
                waits: false,
                arrives: None,
                on_disk: None,
                batches: Arc::default(),
                too_large: Arc::default(),
            }
        }

        fn is_full(&self) -> bool {
            let files = |path| std::fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name());
            let is_image = |name: std::ffi::OsString| ImageId::new(name.as_encoded_bytes()).is_some();
            self.on_disk.as_ref().is_some_and(|path| {
                files(path).filter(|name| is_image(name.clone())).count() > self.refuses.full_above
            })
        }
    }

    /// Prunes a cache of twenty images to nothing, and returns the outcome, the files and the rows that are
    /// left.
    fn prune_all(commits: usize, refusal: fn() -> Refusal, limit: Duration) -> (Outcome, usize, usize) {
        let (outcome, files, rows, _) = prune_of(20, 20, Refusals { commits, refusal, ..NOTHING }, limit);
        (outcome, files, rows)
    }

    /// Makes a cache with so many files, and rows for them and for ghosts.
    fn stock(files: usize, rows: i64) -> (tempfile::TempDir, CacheDir, Inventory) {
        let temporary = tempfile::tempdir().unwrap();
        for n in 0..files {
            let name = format!("{n:08x}-0000-0000-0000-000000000000");
            std::fs::write(temporary.path().join(name), "image").unwrap();
        }
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let mut inventory = Inventory::scan(&dir, Tracking::ByRow).unwrap();
        let row = |key| Row { key, last_accessed: 0.0, last_modified: 0.0, size: 5, hits: 0 };
        for (key, image) in (1..).zip(&mut inventory.images) {
            image.row = Some(row(key));
        }
        inventory
            .ghosts
            .extend((files as i64 + 1..=rows).map(|key| Ghost { id: ghost_id(key), row: row(key) }));
        (temporary, dir, inventory)
    }

    fn ghost_id(key: i64) -> ImageId {
        ImageId::new(format!("{key:08x}-1111-0000-0000-000000000000").as_bytes()).unwrap()
    }

    /// Opens an index of so many rows. Also returns the keys of its rows, and the number of commits that were
    /// too large.
    fn index(rows: i64, refuses: Refusals, limit: Duration) -> (Ledger, Keys, Arc<AtomicUsize>) {
        let (rows, too_large) = (Arc::new(Mutex::new((1..=rows).collect())), Arc::default());
        let index = Rows { too_large: Arc::clone(&too_large), ..Rows::new(Arc::clone(&rows), refuses) };
        (ledger(index, limit), rows, too_large)
    }

    fn ledger(index: Rows, limit: Duration) -> Ledger {
        Ledger::new(Some(Box::new(IndexDouble(index))), Wait { limit, interrupt: Interrupt::default() })
    }

    /// Prunes a cache with so many files and rows to nothing. Returns the number of commits that were too
    /// large, too.
    fn prune_of(
        files: usize,
        rows: i64,
        refuses: Refusals,
        limit: Duration,
    ) -> (Outcome, usize, usize, usize) {
        let (_temporary, dir, inventory) = stock(files, rows);
        let (mut ledger, rows, too_large) = index(rows, refuses, limit);
        let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
        let outcome = Executor { dir: &dir, ledger: &mut ledger, progress: &() }.prune(
            &inventory,
            &plan,
            &CleanPlan::default,
            None,
        );
        let rows = rows.lock().unwrap().len();
        let files = Inventory::scan(&dir, Tracking::ByRow).unwrap().images;
        // The next run has to know whose rows stay without files.
        let noted = pending::noted(&dir);
        assert_eq!(noted.len(), rows - files.len(), "{noted:?}");
        assert!(files.iter().all(|image| !noted.contains(&image.id)));
        (outcome, files.len(), rows, too_large.load(Ordering::Relaxed))
    }

    #[test]
    fn a_note_that_an_earlier_run_could_not_remove_is_removed() {
        let (temporary, dir, _) = stock(0, 0);
        PendingRows::default().write(&dir, [ghost_id(1)].into_iter());
        let inventory = Inventory::scan(&dir, Tracking::ByRow).unwrap();
        let (mut ledger, ..) = index(0, NOTHING, Duration::ZERO);
        let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        executor.prune(&inventory, &plan, &CleanPlan::default, None);
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_note_of_a_killed_run_stays_as_long_as_its_ghosts() {
        let noted: HashSet<ImageId> = (7..=16).map(ghost_id).collect();
        let killed = || {
            let (temporary, dir, mut inventory) = stock(6, 20);
            inventory.has_note = true;
            PendingRows::default().write(&dir, noted.iter().copied());
            (temporary, dir, inventory)
        };
        let prune = |dir: &CacheDir, inventory: &Inventory, is_locked| {
            let (mut ledger, ..) = index(20, Refusals { is_locked, ..NOTHING }, Duration::ZERO);
            let plan = plan::prune(inventory, &PruneLimits::default(), 0, 0);
            let mut executor = Executor { dir, ledger: &mut ledger, progress: &() };
            let outcome = executor.prune(inventory, &plan, &CleanPlan::default, None);
            assert_eq!((outcome.files, outcome.errors), (6, vec![]));
        };
        // A run that does not look for ghosts, but removes images.
        let (_temporary, dir, mut inventory) = killed();
        inventory.leave_ghosts();
        prune(&dir, &inventory, |_| false);
        assert_eq!(pending::noted(&dir), noted);
        // Ghosts that another session has locked, half of them.
        let (_temporary, dir, inventory) = killed();
        prune(&dir, &inventory, |key| key > 11);
        assert_eq!(pending::noted(&dir), (12..=16).map(ghost_id).collect());
        let (_temporary, dir, inventory) = killed();
        let (mut ledger, ..) = index(20, Refusals { is_locked: |key| key > 11, ..NOTHING }, Duration::ZERO);
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        executor.repair(&inventory, &plan::repair(&inventory, 0), &mut Outcome::default());
        assert_eq!(pending::noted(&dir), (12..=16).map(ghost_id).collect());
        // None stays.
        let (_temporary, dir, inventory) = killed();
        prune(&dir, &inventory, |_| false);
        assert!(!Inventory::scan(&dir, Tracking::ByRow).unwrap().has_note);
    }

    #[test]
    fn the_row_of_an_image_that_is_cached_again_while_it_is_waited_for_stays() {
        for repairs in [false, true] {
            let (temporary, dir, inventory) = stock(0, 3);
            let committed: Keys = Arc::new(Mutex::new((1..=3).collect()));
            let arrives = Some(temporary.path().join(ghost_id(2).to_string()));
            let index = Rows { arrives, ..Rows::new(Arc::clone(&committed), NOTHING) };
            let mut ledger = ledger(index, Duration::ZERO);
            let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
            let mut outcome = Outcome::default();
            if repairs {
                executor.repair(&inventory, &plan::repair(&inventory, 0), &mut outcome);
            } else {
                let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
                outcome = executor.prune(&inventory, &plan, &CleanPlan::default, None);
            }
            assert_eq!((outcome.ghosts_forgotten, outcome.left_alone), (2, 1));
            assert_eq!(*committed.lock().unwrap(), HashSet::from([2]));
        }
    }

    #[test]
    fn ghosts_that_are_forgotten_before_the_disk_is_full_count_once() {
        for do_not_fit in [1, 2] {
            let refuses = Refusals { fit: 1, do_not_fit, ..NOTHING };
            let (outcome, files, rows, _) = prune_of(20, 20 + 2 * ROWS as i64, refuses, Duration::ZERO);
            assert_eq!((outcome.ghosts_forgotten, outcome.left_alone), (2 * ROWS as u64, 0), "{do_not_fit}");
            assert_eq!((outcome.files, files, rows), (20, 0, 0));
        }
    }

    #[test]
    fn the_only_image_of_an_index_goes_from_a_full_disk() {
        let refuses = Refusals { do_not_fit: 2, ..NOTHING };
        let (outcome, files, rows, _) = prune_of(1, 1, refuses, Duration::ZERO);
        assert!(outcome.stopped.is_none(), "{outcome:?}");
        assert_eq!((outcome.files, files, rows), (1, 0, 0));
    }

    #[test]
    fn the_only_image_of_an_index_stays_on_a_full_disk_if_that_frees_nothing() {
        let mut stock = stock(1, 1);
        stock.2.images[0].seen.links = 2;
        let refuses = Refusals { do_not_fit: 2, ..NOTHING };
        let (outcome, rows) = prune_on_disk(&stock, refuses, 0, &CleanPlan::default);
        assert!(matches!(outcome.stopped, Some(Refusal::Full(_))), "{outcome:?}");
        assert_eq!((outcome.files, rows.len()), (0, 1));
    }

    #[test]
    fn after_a_commit_that_stays_refused_nothing_more_is_removed() {
        for refusal in [
            || Refusal::Broken(anyhow!("error 1105: transaction size limit exceeded")),
            || Refusal::Busy(anyhow!("error 1213: deadlock")),
            || Refusal::Lost(anyhow!("the database did not answer within 10 s")),
        ] {
            let (outcome, files, rows) = prune_all(usize::MAX, refusal, Duration::from_millis(200));
            assert_eq!((outcome.files, files, rows), (10, 10, 20), "half of the rows, and no second batch");
            let last = &outcome.errors.last().unwrap().message;
            assert!(last.contains("10 rows") && last.contains("next run"), "{last}");
        }
    }

    #[test]
    fn a_commit_is_repeated_for_as_long_as_the_wait_allows() {
        let conflict = || Refusal::Busy(anyhow!("error 1213: deadlock"));
        let (outcome, files, rows) = prune_all(6, conflict, Duration::from_secs(60));
        assert_eq!((outcome.files, files, rows, outcome.errors), (20, 0, 0, vec![]));
        let lost = || Refusal::Lost(anyhow!("the connection is lost"));
        let (outcome, files, rows) = prune_all(6, lost, Duration::from_secs(60));
        assert_eq!((outcome.files, files, rows), (20, 0, 0));
        let message = &outcome.errors[0].message;
        assert!(message.contains("lost") && message.contains("deleted all the same"), "{message}");
    }

    #[test]
    fn rows_that_do_not_fit_into_one_transaction_are_deleted_in_several() {
        // The first commit and its repetition are refused; each half of the rows is accepted.
        let too_large = || Refusal::Broken(anyhow!("error 1105: transaction size limit exceeded"));
        let (outcome, files, rows) = prune_all(2, too_large, Duration::from_secs(60));
        assert_eq!((outcome.files, files, rows), (20, 0, 0));
    }

    #[test]
    fn a_limit_for_the_size_of_transactions_is_found_once_and_is_no_error() {
        let refuses = Refusals { most: 3, ..NOTHING };
        let (outcome, files, rows, too_large) = prune_of(20, 20, refuses, Duration::from_secs(60));
        assert_eq!((outcome.files, files, rows, &outcome.errors[..]), (20, 0, 0, &[][..]));
        // The batch of ten, the same ten again, and five. Those that follow fit.
        assert_eq!((too_large, outcome.warnings.len()), (3, 1), "{:?}", outcome.warnings);
        let warning = &outcome.warnings[0];
        assert!(warning.contains("limit exceeded") && warning.contains("these 10 rows"), "{warning}");
        // The same with rows that are without files from the start.
        let (outcome, files, rows, too_large) = prune_of(4, 24, refuses, Duration::from_secs(60));
        assert_eq!((outcome.ghosts_forgotten, outcome.files, files, rows), (20, 4, 0, 0));
        assert_eq!((too_large, outcome.warnings.len(), outcome.errors.len()), (3, 1, 0));
    }

    #[test]
    fn a_limit_that_the_statement_meets_makes_batches_smaller_before_a_file_goes() {
        let refuses = Refusals { most_deleted: 3, ..NOTHING };
        for rows in [20, 35] {
            let (outcome, files, left, _) = prune_of(20, rows, refuses, Duration::from_secs(60));
            assert_eq!((outcome.files, files, left, &outcome.errors[..]), (20, 0, 0, &[][..]));
            assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
        }
    }

    #[test]
    fn what_stays_refused_in_the_smallest_part_is_an_error() {
        let refuses = Refusals { most: 0, ..NOTHING };
        let (outcome, files, rows, _) = prune_of(20, 20, refuses, Duration::from_secs(60));
        assert_eq!((outcome.files, files, rows, outcome.rows_left), (10, 10, 20, 10));
        assert_eq!(outcome.warnings, [""; 0]);
    }

    #[test]
    fn a_connection_that_is_lost_before_a_file_goes_does_not_end_the_run() {
        let refuses = Refusals { losses: 3, ..NOTHING };
        for (files, rows) in [(20, 20), (20, 25)] {
            let (outcome, files, rows, _) = prune_of(files, rows, refuses, Duration::from_secs(60));
            assert_eq!((outcome.files, files, rows, outcome.errors), (20, 0, 0, vec![]));
            assert!(outcome.stopped.is_none(), "{:?}", outcome.stopped);
        }
        let refuses = Refusals { losses: usize::MAX, ..NOTHING };
        let (outcome, files, rows, _) = prune_of(20, 20, refuses, Duration::from_millis(200));
        assert!(matches!(outcome.stopped, Some(Refusal::Lost(_))), "{:?}", outcome.stopped);
        assert_eq!((outcome.files, files, rows), (0, 20, 20));
    }

    #[test]
    fn a_row_that_is_refused_is_passed_over() {
        // Rows 1 to 20 have files, 21 to 40 have none.
        for (is_poison, ghosts, files) in [
            ((|key| key == 13) as fn(i64) -> bool, 20, 19),
            (|key| key == 1, 20, 19),
            (|key| key == 21, 19, 20),
            (|key| matches!(key, 1 | 2 | 13 | 20 | 22 | 39 | 40), 17, 16),
        ] {
            let (_temporary, dir, inventory) = stock(20, 40);
            let (mut ledger, rows, _) = index(40, Refusals { is_poison, ..NOTHING }, Duration::from_secs(60));
            let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
            let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
            let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, None);
            assert!(outcome.stopped.is_none(), "{:?}", outcome.stopped);
            assert_eq!((outcome.ghosts_forgotten, outcome.files), (ghosts, files));
            assert_eq!((outcome.errors.len() as u64, outcome.warnings), (40 - ghosts - files, vec![]));
            assert!(rows.lock().unwrap().iter().copied().all(is_poison));
            assert_eq!(rows.lock().unwrap().len() as u64, 40 - ghosts - files);
        }
    }

    #[test]
    fn a_row_that_is_refused_in_the_commit_ends_the_run_and_keeps_no_other() {
        // Twenty images in batches of ten. In the second case, ten rows are without files from the start.
        for (rows, is_deferred) in [(20, (|key| key == 3) as fn(i64) -> bool), (30, |key| key == 3)] {
            let refuses = Refusals { is_deferred, ..NOTHING };
            let (outcome, files, left, _) = prune_of(20, rows, refuses, Duration::from_secs(60));
            assert_eq!((outcome.ghosts_forgotten as i64, outcome.files), (rows - 20, 10));
            // The note has this row alone: see `prune_of`.
            assert_eq!((outcome.rows_left, files, left), (1, 10, 11));
        }
        // A ghost from the start is passed over.
        let refuses = Refusals { is_deferred: |key| key == 23, ..NOTHING };
        let (_temporary, dir, inventory) = stock(20, 30);
        let (mut ledger, rows, _) = index(30, refuses, Duration::from_secs(60));
        let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, None);
        assert_eq!((outcome.ghosts_forgotten, outcome.files, outcome.errors.len()), (9, 20, 1));
        assert_eq!(*rows.lock().unwrap(), HashSet::from([23]));
    }

    #[test]
    fn an_index_that_refuses_every_row_ends_the_run() {
        for (files, rows) in [(40, 40), (30, 60), (2, 2), (0, 1)] {
            let (_temporary, dir, inventory) = stock(files, rows);
            let refuses = Refusals { is_poison: |_| true, ..NOTHING };
            let (mut ledger, left, _) = index(rows, refuses, Duration::from_secs(60));
            let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
            let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
            let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, None);
            assert!(matches!(outcome.stopped, Some(Refusal::Broken(_))), "{:?}", outcome.stopped);
            assert!(outcome.is_untouched() && left.lock().unwrap().len() == rows as usize, "{outcome:?}");
        }
    }

    #[test]
    fn rows_that_a_lost_session_still_has_locked_are_waited_for_and_not_passed_over() {
        // The batch is ten of forty rows, all of them locked by the session that was lost.
        let (_temporary, dir, inventory) = stock(40, 40);
        let refuses = Refusals { losses: 1, outlives: usize::MAX, ..NOTHING };
        let (mut ledger, rows, _) = index(40, refuses, Duration::from_millis(200));
        let limits = PruneLimits { max_size: 150, target_size: 150, ..PruneLimits::default() };
        let plan = plan::prune(&inventory, &limits, 0, 0);
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, None);
        let Some(Refusal::Busy(why)) = outcome.stopped else { panic!("{:?}", outcome.stopped) };
        assert_eq!(why.to_string(), "the connection was lost, and rows stay locked");
        assert_eq!((outcome.files, outcome.left_alone, rows.lock().unwrap().len()), (0, 0, 40));
        // So are ghosts.
        let refuses = Refusals { losses: 1, outlives: 3, ..NOTHING };
        let (outcome, files, rows, _) = prune_of(0, 20, refuses, Duration::from_secs(60));
        assert_eq!((outcome.ghosts_forgotten, outcome.left_alone, files, rows), (20, 0, 0, 0));
    }

    /// Prunes a cache of equal images down to so many bytes, with an index on the same disk. Returns the keys
    /// of the rows that are left, too.
    fn prune_on_disk(
        (temporary, dir, inventory): &(tempfile::TempDir, CacheDir, Inventory),
        refuses: Refusals,
        max_size: u64,
        spare: &dyn Fn() -> CleanPlan,
    ) -> (Outcome, HashSet<i64>) {
        let (ghosts, images) = (inventory.ghosts.iter(), inventory.images.iter());
        let rows = ghosts.map(|ghost| ghost.row).chain(images.filter_map(|image| image.row));
        let committed = Arc::new(Mutex::new(rows.map(|row| row.key).collect()));
        let on_disk = Some(temporary.path().to_owned());
        let index = Rows { on_disk, ..Rows::new(Arc::clone(&committed), refuses) };
        let mut ledger = ledger(index, Duration::ZERO);
        let limits = PruneLimits { max_size, target_size: max_size, ..PruneLimits::default() };
        let plan = plan::prune(inventory, &limits, 0, 0);
        let mut executor = Executor { dir, ledger: &mut ledger, progress: &() };
        let outcome = executor.prune(inventory, &plan, spare, None);
        let rows = committed.lock().unwrap().clone();
        (outcome, rows)
    }

    #[test]
    fn on_a_full_disk_what_has_no_row_goes_first() {
        for left in [3, 0] {
            on_a_full_disk_with_orphans_all_go_but(left);
        }
    }

    #[track_caller]
    fn on_a_full_disk_with_orphans_all_go_but(count: usize) {
        let mut cache = stock(13, 0);
        std::fs::create_dir(cache.0.path().join("invalid")).unwrap();
        for name in ["one", "other"] {
            std::fs::write(cache.0.path().join("invalid").join(name), "bad").unwrap();
        }
        cache.1 = CacheDir::open(cache.0.path()).unwrap().unwrap();
        // Orphans are the sixth to the eighth in order of last use.
        cache.2.images.sort_by_key(|image| image.id);
        for (position, image) in cache.2.images.iter_mut().enumerate() {
            let last_accessed = if position < 5 { 0.0 } else { 4e9 };
            if let Some(row) = &mut image.row {
                *row = Row { last_accessed, ..*row };
            }
            if (5..8).contains(&position) {
                image.row = None;
            }
        }
        let spare = || {
            let invalid = Partials::scan(&cache.1, CachePlace::Invalid).unwrap();
            let limits = CleanLimits { stall_time: 0, invalid_grace: 0 };
            plan::clean(invalid, Partials::default(), limits, 0, &HashMap::new())
        };
        let refuses = Refusals { full_above: 10, ..NOTHING };
        let (outcome, rows) = prune_on_disk(&cache, refuses, 5 * count as u64, &spare);
        assert!(outcome.stopped.is_none(), "{:?}", outcome.stopped);
        assert_eq!((outcome.invalid_files, outcome.files, outcome.bytes_gone), (2, 13 - count as u64, 0));
        assert_eq!((outcome.errors, outcome.left_alone, rows.len()), (vec![], 0, count));
        let left = Inventory::scan(&cache.1, Tracking::ByRow).unwrap().images;
        let last: HashSet<ImageId> = cache.2.images[13 - count..].iter().map(|image| image.id).collect();
        assert_eq!(left.iter().map(|image| image.id).collect::<HashSet<_>>(), last);
    }

    #[test]
    fn on_a_disk_that_stays_full_each_file_goes_before_its_row() {
        let cache = stock(10, 10);
        let refuses = Refusals { full_above: 7, ..NOTHING };
        let (outcome, rows) = prune_on_disk(&cache, refuses, 5, &CleanPlan::default);
        assert!(outcome.stopped.is_none(), "{:?}", outcome.stopped);
        assert_eq!((outcome.files, outcome.bytes_gone, outcome.rows_left, rows.len()), (9, 0, 0, 1));
        assert_eq!((outcome.errors, pending::noted(&cache.1).len()), (vec![], 0));
        // Never more than half of the rows are without their files.
        let cache = stock(10, 10);
        let refuses = Refusals { full_above: 0, ..NOTHING };
        let (outcome, rows) = prune_on_disk(&cache, refuses, 0, &CleanPlan::default);
        let Some(Refusal::Full(why)) = outcome.stopped else { panic!("{:?}", outcome.stopped) };
        assert!(why.to_string().contains("after 5 images were removed"), "{why}");
        assert_eq!((outcome.files, outcome.rows_left, rows.len()), (5, 5, 10));
        assert_eq!(pending::noted(&cache.1).len(), 5);
    }

    #[test]
    fn ghosts_for_which_there_is_no_space_wait_for_images_to_go() {
        let cache = stock(12, 15);
        let refuses = Refusals { full_above: 10, ..NOTHING };
        let (outcome, rows) = prune_on_disk(&cache, refuses, 5, &CleanPlan::default);
        assert!(outcome.stopped.is_none(), "{:?}", outcome.stopped);
        assert_eq!((outcome.ghosts_forgotten, outcome.files, outcome.rows_left), (3, 11, 0));
        assert_eq!(rows.len(), 1);
        // No image has to go, so that there is no space to come.
        let cache = stock(12, 15);
        let (outcome, rows) = prune_on_disk(&cache, refuses, 60, &CleanPlan::default);
        assert!(matches!(outcome.stopped, Some(Refusal::Full(_))), "{:?}", outcome.stopped);
        assert_eq!((outcome.ghosts_forgotten, outcome.files, rows.len()), (0, 0, 15));
        // There are entries that `clean` would remove: their space is enough.
        let gives_way = || {
            for position in 10..12 {
                std::fs::remove_file(cache.0.path().join(cache.2.images[position].id.as_str())).unwrap();
            }
            CleanPlan::default()
        };
        let (outcome, rows) = prune_on_disk(&cache, refuses, 60, &gives_way);
        assert!(outcome.stopped.is_none(), "{:?}", outcome.stopped);
        assert_eq!((outcome.ghosts_forgotten, outcome.files, rows.len()), (3, 0, 12));
    }

    /// Prunes ten images to eight, and then goes on until so much space is free. Returns how many were
    /// removed, and the time it took.
    fn prune_until_free(min_free: u64, allocated: u64, is_interrupted: bool) -> (u64, Duration) {
        let (_temporary, dir, mut inventory) = stock(10, 10);
        for image in &mut inventory.images {
            image.seen.allocated = allocated;
        }
        let (mut ledger, ..) = index(10, NOTHING, Duration::ZERO);
        let limits = PruneLimits { max_size: 40, target_size: 40, ..PruneLimits::default() };
        let plan = plan::prune(&inventory, &limits, 0, 0);
        let interrupt = ledger.interrupt().clone();
        let ends = Signalling(is_interrupted.then_some(interrupt));
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &ends };
        let started = Instant::now();
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, Some(min_free));
        (outcome.files, started.elapsed())
    }

    /// Raises a signal when an image is removed.
    struct Signalling(Option<Interrupt>);

    impl Progress for Signalling {
        fn removed(&self, _: Removed<'_>) {
            if let Some(interrupt) = &self.0 {
                interrupt.raise(signal_hook::consts::SIGTERM);
            }
        }
    }

    #[test]
    fn images_are_removed_until_so_much_space_is_free_as_was_asked_for() {
        let (_temporary, dir, _) = stock(0, 0);
        let free = available(&dir.statvfs().unwrap());
        assert_eq!(prune_until_free(free / 2, 1, false).0, 2);
        assert_eq!(prune_until_free(u64::MAX, 1, false).0, 10);
        // Images that free nothing do not help.
        assert_eq!(prune_until_free(u64::MAX, 0, false).0, 2);
        // A run that has removed nothing cannot be short of what it has freed.
        let (_temporary, dir, inventory) = stock(2, 2);
        let (mut ledger, ..) = index(2, NOTHING, Duration::ZERO);
        let limits = PruneLimits { max_size: 10, target_size: 10, ..PruneLimits::default() };
        let plan = PrunePlan { candidates: vec![0, 1], ..plan::prune(&inventory, &limits, 0, 0) };
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, Some(u64::MAX));
        assert_eq!((outcome.files, outcome.errors), (0, vec![]));
    }

    #[test]
    fn blocks_that_are_freed_late_are_waited_for_unless_a_signal_comes() {
        // No file system gives back so much.
        let allocated = 1 << 60;
        let (files, took) = prune_until_free(u64::MAX, allocated, false);
        assert!(files == 10 && took >= SETTLE && took < PATIENCE + SETTLE, "{files} in {took:?}");
        let (files, took) = prune_until_free(u64::MAX, allocated, true);
        assert!(files == 2 && took < SETTLE, "{files} in {took:?}");
    }

    #[test]
    fn a_file_is_another_one_if_anything_of_it_changed_but_its_last_use() {
        let (_temporary, _dir, inventory) = stock(1, 1);
        let tracked = inventory.images[0];
        let orphan = Image { row: None, ..tracked };
        let was = tracked.seen;
        for now in [
            Seen { inode: was.inode + 1, ..was },
            Seen { size: was.size + 1, ..was },
            Seen { mtime: was.mtime + 1, ..was },
            Seen { ctime: was.ctime + 1, ..was },
            Seen { links: was.links + 1, ..was },
        ] {
            assert!(!unchanged(&tracked)(&now) && !unchanged(&orphan)(&now), "{now:?}");
        }
        assert!(unchanged(&tracked)(&was) && unchanged(&orphan)(&was));
        // The use of an image that has a row is in its row.
        let used = Seen { atime: was.atime + 1, ..was };
        assert!(unchanged(&tracked)(&used) && !unchanged(&orphan)(&used));
    }

    #[test]
    fn entries_of_the_subdirectories_that_changed_stay() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join("invalid")).unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        for name in ["inode", "size", "mtime", "same"] {
            std::fs::write(temporary.path().join("invalid").join(name), "bad").unwrap();
        }
        let mut invalid = Partials::scan(&dir, CachePlace::Invalid).unwrap();
        for entry in &mut invalid.entries {
            match entry.name.as_name().as_bytes() {
                b"inode" => entry.seen.inode += 1,
                b"size" => entry.seen.size += 1,
                b"mtime" => entry.seen.mtime += 1,
                _ => {}
            }
        }
        let limits = CleanLimits { stall_time: 0, invalid_grace: 0 };
        let plan = plan::clean(invalid, Partials::default(), limits, 0, &HashMap::new());
        let mut outcome = Outcome::default();
        clean(&dir, &plan, &Interrupt::default(), &(), &mut outcome);
        assert_eq!((outcome.invalid_files, outcome.left_alone, outcome.bytes_cleaned), (1, 3, 3));
        assert!(!temporary.path().join("invalid/same").exists());
    }

    #[test]
    fn removing_ends_when_it_is_late_or_many_large_files_are_held() {
        let count = HELD + 10;
        let removed = |is_late: bool, is_interrupted: bool, allocated: u64| {
            let (_temporary, dir, mut inventory) = stock(count, count as i64);
            for image in &mut inventory.images {
                image.seen.allocated = allocated;
            }
            let images: Vec<&Image> = inventory.images.iter().collect();
            let interrupt = Interrupt::default();
            if is_interrupted {
                interrupt.raise(signal_hook::consts::SIGTERM);
            }
            let (done, held) = remove_in_turn(&dir, &images, &vec![true; count], &interrupt, &|| is_late);
            assert!(done.iter().all(|result| *result == Ok(Removal::Removed)), "{done:?}");
            assert_eq!(Inventory::scan(&dir, Tracking::ByRow).unwrap().images.len(), count - done.len());
            (done.len(), held.iter().flatten().count())
        };
        assert_eq!(removed(false, false, LARGE), (count, 0));
        // Two threads may each be at one more.
        let (done, held) = removed(false, false, LARGE + 1);
        assert!((HELD..=HELD + 1).contains(&done) && held == done, "{done} {held}");
        let (done, _) = removed(true, false, LARGE);
        assert!((1..=2).contains(&done), "at least one, so that there is an end: {done}");
        assert_eq!(removed(false, true, LARGE), (0, 0));
        assert_eq!(LARGE, 8 << 20);
    }

    #[test]
    fn only_images_whose_rows_are_deleted_are_noted() {
        let (_temporary, dir, mut inventory) = stock(6, 6);
        inventory.images.sort_by_key(|image| image.row.unwrap().key);
        inventory.images[5].row = None;
        let refuses = Refusals { is_locked: |key| key == 2, ..NOTHING };
        let (mut ledger, ..) = index(6, refuses, Duration::ZERO);
        // The first batch is at most half of the rows. Orphans are the last.
        let (ids, noted) = (inventory.images.clone(), Mutex::new(HashSet::new()));
        let progress = Noting(&dir, &noted);
        let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &progress };
        executor.prune(&inventory, &plan, &CleanPlan::default, None);
        let expected = [0, 2, 3, 4].map(|position: usize| ids[position].id);
        assert_eq!(*noted.lock().unwrap(), HashSet::from(expected));
    }

    /// Collects all that is noted while images are removed.
    struct Noting<'a>(&'a CacheDir, &'a Mutex<HashSet<ImageId>>);

    impl Progress for Noting<'_> {
        fn removed(&self, _: Removed<'_>) {
            self.1.lock().unwrap().extend(pending::noted(self.0));
        }
    }

    #[test]
    fn a_repair_gives_rows_to_orphans_that_are_unchanged_and_removes_the_note() {
        let (temporary, dir, mut inventory) = stock(6, 0);
        PendingRows::default().write(&dir, [ghost_id(1)].into_iter());
        inventory.has_note = true;
        for image in &mut inventory.images {
            image.row = None;
        }
        inventory.bad_rows.extend([1, 2].map(|key| BadRow { key, shown: "no UUID".to_owned() }));
        let mut plan = RepairPlan { adopt: inventory.images.clone(), young: Vec::new() };
        plan.adopt[1].seen.mtime += 1;
        std::fs::remove_file(temporary.path().join(plan.adopt[2].id.as_str())).unwrap();
        let (mut ledger, ..) = index(0, NOTHING, Duration::ZERO);
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        let mut outcome = Outcome::default();
        executor.repair(&inventory, &plan, &mut outcome);
        assert_eq!((outcome.orphans_adopted, outcome.left_alone, outcome.rows_dropped), (4, 2, 2));
        assert!(outcome.stopped.is_none() && !Inventory::scan(&dir, Tracking::ByRow).unwrap().has_note);
    }

    /// Removes all images, of which these many have no row and go first. Returns the number of rows that each
    /// transaction has deleted.
    fn batches_of(orphans: usize, images: usize) -> Vec<usize> {
        let (_temporary, dir, mut inventory) = stock(images, images as i64);
        for image in &mut inventory.images[..orphans] {
            // The last use of an image without a row is that of its file.
            (image.row, image.seen.atime, image.seen.mtime) = (None, i64::MIN, i64::MIN);
        }
        let (committed, batches) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
        let index = Rows { batches: Arc::clone(&batches), ..Rows::new(committed, NOTHING) };
        let mut ledger = ledger(index, Duration::ZERO);
        let plan = plan::prune(&inventory, &PruneLimits::default(), 0, 0);
        // They are the same files all the same.
        for image in &mut inventory.images[..orphans] {
            image.seen = dir.look(CachePlace::Base, image.id.as_name()).unwrap().unwrap().1;
        }
        let mut executor = Executor { dir: &dir, ledger: &mut ledger, progress: &() };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, None);
        assert_eq!((outcome.files, outcome.errors, outcome.bytes_gone), (images as u64, vec![], 0));
        let batches = batches.lock().unwrap();
        batches.iter().copied().filter(|rows| *rows > 0).collect()
    }

    #[test]
    fn no_transaction_deletes_more_than_half_of_the_rows() {
        assert_eq!(batches_of(0, 20), [10, 5, 2, 1, 1, 1]);
        // Those that have no row do not count as one.
        assert_eq!(batches_of(4, 12), [4, 2, 1, 1]);
    }

    /// Returns a prune that has these images to remove, in this order.
    fn run_of<'a>(order: Cow<'a, [u32]>, reason: &'a dyn Fn(&Image) -> PruneReason) -> PruneRun<'a> {
        PruneRun {
            order,
            at: 0,
            goal: Goal::EVERYTHING,
            freed: 0,
            rows: 0,
            batch: FIRST_BATCH,
            disk: Disk::Enough,
            made_space: false,
            taken: HashSet::new(),
            pending: Vec::new(),
            note: PendingRows::default(),
            noted: HashSet::new(),
            left: Vec::new(),
            patience: PATIENCE,
            reason,
            by_file: false,
            outcome: Outcome::default(),
        }
    }

    #[test]
    fn the_next_batch_is_as_large_as_the_speed_of_the_last_one_allows() {
        let limit = Duration::from_millis(250);
        for (done, milliseconds, expected) in [
            (1000, 100, 1750),           // seven tenths of a quarter of ten thousand a second
            (1000, 10, 8 * FIRST_BATCH), // it does not grow faster than this
            (1000, 10_000_000, SMALLEST_BATCH),
            (1, 1, 175),
            (0, 0, SMALLEST_BATCH),
        ] {
            let reason = |_: &Image| PruneReason::LeastRecentlyUsed;
            let mut run = run_of(Cow::Borrowed(&[]), &reason);
            run.adapt(done, Duration::from_millis(milliseconds), limit);
            assert_eq!(run.batch, expected, "{done} in {milliseconds} ms");
        }
    }

    #[test]
    fn the_rest_goes_by_last_use_once_some_went_out_of_turn() {
        let reason = |_: &Image| PruneReason::LeastRecentlyUsed;
        let plan = PrunePlan::of_all(vec![4, 3, 2, 1, 0], PruneReason::LeastRecentlyUsed);
        let mut run = run_of(Cow::Owned(vec![0, 1, 2, 3, 4]), &reason);
        run.at = 2;
        run.go_by_last_use(&plan);
        assert_eq!((&run.order[..], run.at), (&[4, 3, 2][..], 0));
    }

    #[test]
    fn an_orphan_is_an_image_that_should_have_a_row() {
        for (by_file, orphans) in [(false, 1), (true, 0)] {
            let (_temporary, dir, mut inventory) = stock(2, 1);
            inventory.images.sort_by_key(|image| image.row.is_none());
            inventory.images[1].row = None;
            if by_file {
                inventory.tracking = Tracking::ByFile;
                inventory.images[0].row = None;
            }
            let images: Vec<&Image> = inventory.images.iter().collect();
            let reason = |_: &Image| PruneReason::LeastRecentlyUsed;
            let mut run = PruneRun { by_file, ..run_of(Cow::Borrowed(&[]), &reason) };
            let counting = CountingOrphans::default();
            run.account(&images, &[Ok(Removal::Removed), Ok(Removal::Removed)], &counting);
            assert_eq!(counting.0.load(Ordering::Relaxed), orphans);
            assert!(!dir.is_empty().unwrap(), "nothing is removed here");
        }
    }

    #[derive(Default)]
    struct CountingOrphans(AtomicUsize);

    impl Progress for CountingOrphans {
        fn removed(&self, what: Removed<'_>) {
            self.0.fetch_add(usize::from(what.is_orphan), Ordering::Relaxed);
        }
    }
}
