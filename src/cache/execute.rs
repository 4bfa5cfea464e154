//! Carries out a plan, entry by entry, and tells what came of it.
//!
//! **Order.** Of each batch the rows are forgotten first, in an open transaction whose commit can no longer be refused; then the
//! files go; then it is committed. A file that cannot be removed keeps its row. Killed in between, the rows come back without
//! their files: ghosts, which the next run forgets. Large files are held until after the commit, because freeing their blocks
//! takes longer than Glance is willing to wait for its index.
//!
//! **Looking again.** The service goes on while we work. A row is forgotten only if it still says what the plan was made from,
//! a file removed only if it is still the one that was seen; what was used or changed meanwhile stays, and the next in order
//! takes its place.
//!
//! **Very many images of an index with pages** go by where their rows lie, and not by last use: which ones go is decided, and a transaction
//! costs by the pages it changes. A run that is ended early has then removed any of them, not the oldest. On a full disk, where
//! others go out of their turn, what is left goes by last use again.
//!
//! **A full disk** has no room for the index's journal. Then entries that need none go first (what clean would remove, then
//! orphans), and after them one image at a time, file before row, under the index's lock, until the journal fits.
//!
//! One entry that fails is recorded and passed over. Nothing here knows of dry runs: they do not come here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rustix::io::Errno;

use super::dir::{CacheDir, Place, Removal};
use super::entry::{Ghost, Image, Kind, Partial, Seen};
use super::index::{Condition, Victim};
use super::inventory::Inventory;
use super::ledger::Ledger;
use super::plan::{CleanPlan, CleanReason, Goal, PrunePlan, RepairPlan, frees};
use crate::cache::outcome::{Action, Outcome, Progress, Removed};
use crate::database::Refusal;
use crate::interrupt::Interrupt;
use crate::names::ImageId;
use crate::os::space::available;

/// Images of the first transaction; it is bounded in time as all are.
const FIRST_BATCH: usize = 1024;
const SMALLEST_BATCH: usize = 16;
const LARGEST_BATCH: usize = 20_000;
/// Files of more than this many bytes on disk are held across their unlink.
const LARGE: u64 = 8 << 20;
/// Descriptors that may be held at a time.
const HELD: usize = 200;
/// Batches of this many images are worth a second thread.
const WORTH_TWO: usize = 128;
/// Entries of the subdirectories go in portions of this many ...
const PARTIALS: usize = 1024;
/// ... and are told of after each, which takes no longer.
const TOLD: Duration = Duration::from_millis(100);
/// Orphans that make room on a full disk go in portions of this many.
const ORPHANS: usize = 256;
/// Ghosts and rows are forgotten in portions of this many: some milliseconds.
const ROWS: usize = 5_000;
/// How long a file system that frees in the background is waited for ...
const SETTLE: Duration = Duration::from_secs(2);
/// ... and how long in all: blocks that somebody holds never come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries out plans on one cache.
pub(crate) struct Executor<'a> {
    pub(crate) dir: &'a CacheDir,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) progress: &'a dyn Progress,
}

/// Removes what a clean plans to remove. It needs no index.
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

/// Books what became of an entry that a clean was to remove.
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
            // A link has a length, but frees no image's bytes.
            let bytes = if entry.kind == Kind::File { entry.seen.size } else { 0 };
            outcome.bytes_cleaned += bytes;
            progress.removed(Removed { place, name, bytes, reason: text });
        }
        Ok(Removal::AlreadyGone) => {}
        Ok(Removal::Changed) => outcome.left_alone += 1,
        Err(e) => outcome.error(place.show(name), Action::Remove, e.to_string()),
    }
}

/// Whether the file of an image is the one the plan was made from, unused since. Without a row its access time is its last use.
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

/// What became of an image whose row is not what it was: somebody used it, or removed it.
fn lost(dir: &CacheDir, image: &Image) -> Result<Removal, Errno> {
    let now = dir.look(Place::Base, image.id.as_name())?;
    Ok(if now.is_none() { Removal::AlreadyGone } else { Removal::Changed })
}

/// Removes an image; a large one is held, and goes with the handle.
fn remove(dir: &CacheDir, image: &Image) -> (Result<Removal, Errno>, Option<OwnedFd>) {
    let handle = if image.seen.allocated > LARGE { dir.hold(image.id.as_name()) } else { None };
    let removal = dir.remove(Place::Base, image.id.as_name(), unchanged(image));
    let handle = handle.filter(|_| matches!(removal, Ok(Removal::Removed)));
    (removal, handle)
}

/// Does things in turn, from the first of `count` on, and returns what came of them: of all, unless it is over before the next.
///
/// Two threads share many of them: half of an unlink is work on the inode, for which the directory is not locked.
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
        // Where no thread can be had, this one does it all.
        if let Some(Ok(second)) = second {
            done.extend(second.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn victim(image: &Image) -> Victim {
    Victim { id: image.id, only_if: image.row.map_or(Condition::NoRow, Condition::Unchanged) }
}

/// Removes the files of the images whose conditions held, and returns what became of the first of them: all, unless it gets
/// late or a signal comes. Large ones are held.
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
    /// `room` is what may go without the index when the disk is too full for its journal. `min_free` (bytes) is measured again
    /// at the end: file systems and open files can give back less than they seem to.
    pub(crate) fn prune(
        &mut self,
        inventory: &Inventory,
        plan: &PrunePlan,
        room: &dyn Fn() -> CleanPlan,
        min_free: Option<u64>,
    ) -> Outcome {
        let mut run = PruneRun {
            order: plan.by_page(inventory),
            at: 0,
            goal: plan.goal,
            freed: 0,
            rows: inventory.rows(),
            batch: FIRST_BATCH,
            disk: Disk::HasRoom,
            made_room: false,
            taken: HashSet::new(),
            pending: Vec::new(),
            patience: PATIENCE,
            outcome: Outcome::default(),
        };
        let before = self.available().unwrap_or(0);
        let mut ghosts = &inventory.ghosts[..];
        let mut forgotten = self.forget_ghosts(ghosts, &mut run.outcome);
        if matches!(forgotten, Err(Refusal::Full(_))) {
            clean(self.dir, &room(), self.ledger.interrupt(), self.progress, &mut run.outcome);
            forgotten = self.forget_ghosts(ghosts, &mut run.outcome);
        }
        match forgotten {
            Ok(()) => ghosts = &[],
            // The images make room, and the ghosts are tried again after them.
            Err(Refusal::Full(_)) if !plan.goal.is_reached() => {}
            Err(refusal) => run.outcome.stopped = Some(refusal),
        }
        let forgotten = run.outcome.ghosts_forgotten;
        run.rows = run.rows.saturating_sub(usize::try_from(forgotten).unwrap_or(usize::MAX));
        while run.outcome.stopped.is_none() {
            let step = match run.disk {
                Disk::HasRoom => self.step(inventory, &mut run),
                Disk::Full => self.make_room(inventory, plan, &mut run, room),
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
        run.outcome
    }

    /// One batch. `Ok(false)` when there is nothing more to do.
    fn step(&mut self, inventory: &Inventory, run: &mut PruneRun<'_>) -> Result<bool, Refusal> {
        let images: Vec<&Image> = run.next_batch(inventory, self.ledger.has_rows());
        if images.is_empty() {
            return Ok(false);
        }
        match self.batch(&images, run) {
            Err(Refusal::Full(_)) => {
                run.disk = if run.made_room { Disk::Fuller } else { Disk::Full };
                Ok(true)
            }
            result => result.map(|_| true),
        }
    }

    /// Forgets and removes images in one transaction, and returns how many of them were come to.
    fn batch(&mut self, images: &[&Image], run: &mut PruneRun<'_>) -> Result<usize, Refusal> {
        if self.ledger.interrupt().raised() {
            return Err(Refusal::Interrupted);
        }
        let mut victims: Vec<Victim> = images.iter().map(|image| victim(image)).collect();
        let interrupt = self.ledger.interrupt().clone();
        let mut transaction = self.ledger.begin()?;
        let turn = transaction.turn();
        let holds = transaction.forget(&victims)?;
        // Only the removals are bounded: a slow disk takes its time for the journal however small the batch is. Twice what was aimed
        // at, because stopping early has its price: the rows of the rest are taken back page by page.
        let removing = Instant::now();
        let is_late = || removing.elapsed() > turn * 2;
        let (done, held) = remove_in_turn(self.dir, images, &holds, &interrupt, &is_late);
        let removed_in = removing.elapsed();
        let is_gone = |result: Option<&Result<Removal, Errno>>| {
            matches!(result, Some(Ok(Removal::Removed | Removal::AlreadyGone)))
        };
        // Rows that were not forgotten because their condition did not hold need no taking back.
        let all = holds.iter().enumerate().all(|(i, holds)| !holds || is_gone(done.get(i)));
        let mut at = 0..;
        victims.retain(|_| is_gone(at.next().and_then(|at| done.get(at))));
        let committed = transaction.commit(if all { None } else { Some(&victims) });
        drop(held);
        if let Err(refusal) = committed {
            self.repeat(&victims, refusal, run);
        }
        run.account(images, &done, self.progress);
        run.adapt(done.len(), removed_in, turn);
        Ok(done.len())
    }

    /// After a commit that failed: the files are gone, so their rows are deleted again, on their own.
    fn repeat(&mut self, gone: &[Victim], refusal: Refusal, run: &mut PruneRun<'_>) {
        let count = gone.len();
        // A conflict is nobody's fault, and nothing is amiss once this has worked.
        let is_conflict = matches!(refusal, Refusal::Busy(_));
        let why = format!("{:#}", refusal.into_error());
        if !is_conflict {
            run.outcome.error("index", Action::Forget, why.clone());
        }
        run.pending.extend(gone.iter().filter_map(as_ghost));
        if let Err(refusal) = self.forget_pending(run) {
            if is_conflict {
                run.outcome.error("index", Action::Forget, why);
            }
            let why = refusal.into_error();
            run.outcome.error(
                "index",
                Action::Forget,
                format!("{count} rows stay without their files until the next run: {why:#}"),
            );
            run.pending.clear();
        }
    }

    /// Forgets rows whose files this run removed before them, unless Glance has cached the image anew.
    fn forget_pending(&mut self, run: &mut PruneRun<'_>) -> Result<(), Refusal> {
        if run.pending.is_empty() {
            return Ok(());
        }
        let dir = self.dir;
        self.ledger.rows_only(|transaction| {
            let absent: Vec<Victim> =
                run.pending.iter().copied().filter(|victim| is_absent(dir, victim)).collect();
            transaction.forget(&absent).map(drop)
        })?;
        run.pending.clear();
        Ok(())
    }

    /// The disk is full: removes what needs no index, as clean would, then the orphans among the candidates.
    fn make_room(
        &mut self,
        inventory: &Inventory,
        plan: &PrunePlan,
        run: &mut PruneRun<'_>,
        room: &dyn Fn() -> CleanPlan,
    ) -> Result<bool, Refusal> {
        run.made_room = true;
        run.go_by_last_use(plan);
        clean(self.dir, &room(), self.ledger.interrupt(), self.progress, &mut run.outcome);
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
                // Even reading needs room now: on to the images.
                Err(Refusal::Full(_)) => break,
                result => result?,
            };
            // They were taken out of their turn.
            run.at = at;
            run.taken.extend(wanted[..done].iter().map(|image| image.id));
        }
        run.disk = Disk::HasRoom;
        Ok(true)
    }

    /// The disk is still full: removes one image before its row, under the index's lock, then tries the row.
    fn file_before_row(&mut self, inventory: &Inventory, run: &mut PruneRun<'_>) -> Result<bool, Refusal> {
        let Some(image) = run.next_batch(inventory, true).first().copied() else {
            return Ok(false);
        };
        if self.ledger.interrupt().raised() {
            return Err(Refusal::Interrupted);
        }
        if (run.pending.len() + 1) * 2 > inventory.rows() {
            // More rows without files would make the next run take the directory for a wrong one.
            return Err(Refusal::Full(anyhow!(
                "still no space left for the index's journal after {} images were removed: make room on the disk, and run \
                 this again",
                run.pending.len()
            )));
        }
        let mut transaction = self.ledger.begin()?;
        let victim = victim(image);
        let holds = transaction.holds(&victim)?;
        // Not held: it is the blocks that are needed.
        let removal = if holds {
            self.dir.remove(Place::Base, image.id.as_name(), unchanged(image))
        } else {
            lost(self.dir, image)
        };
        drop(transaction);
        if matches!(removal, Ok(Removal::Removed | Removal::AlreadyGone)) {
            run.pending.extend(as_ghost(&victim));
        }
        run.account(&[image], &[removal], self.progress);
        match self.forget_pending(run) {
            Ok(()) => run.disk = Disk::HasRoom,
            Err(Refusal::Full(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        Ok(true)
    }

    /// At the end: rows that are still owed, and ghosts for which there was no room before.
    fn settle_rows(&mut self, ghosts: &[Ghost], run: &mut PruneRun<'_>) {
        let count = run.pending.len();
        if let Err(refusal) = self.forget_pending(run) {
            let why = refusal.into_error();
            run.outcome.error(
                "index",
                Action::Forget,
                format!("{count} rows stay without their files until the next run: {why:#}"),
            );
        }
        if run.outcome.stopped.is_none()
            && let Err(refusal) = self.forget_ghosts(ghosts, &mut run.outcome)
        {
            run.outcome.stopped = Some(refusal);
        }
    }

    /// Forgets rows whose image is not there, looking for it again under the index's lock.
    fn forget_ghosts(&mut self, ghosts: &[Ghost], outcome: &mut Outcome) -> Result<(), Refusal> {
        let dir = self.dir;
        for portion in ghosts.chunks(ROWS) {
            if self.ledger.interrupt().raised() {
                return Err(Refusal::Interrupted);
            }
            let (victims, forgotten) = self.ledger.rows_only(|transaction| {
                let victims: Vec<Victim> = portion
                    .iter()
                    .map(|ghost| Victim { id: ghost.id, only_if: Condition::Row(ghost.row.key) })
                    .filter(|victim| is_absent(dir, victim))
                    .collect();
                let forgotten = transaction.forget(&victims)?;
                Ok((victims, forgotten))
            })?;
            outcome.ghosts_forgotten += forgotten.iter().filter(|forgotten| **forgotten).count() as u64;
            outcome.left_alone += (portion.len() - victims.len()) as u64;
            for victim in &victims {
                self.progress.removed(Removed {
                    place: Place::Base,
                    name: victim.id.as_name(),
                    bytes: 0,
                    reason: "ghost",
                });
            }
        }
        Ok(())
    }

    /// Repairs the index: forgets ghosts, adopts orphans, drops rows that can name no image.
    pub(crate) fn repair(&mut self, inventory: &Inventory, plan: &RepairPlan, outcome: &mut Outcome) {
        let result = self
            .forget_ghosts(&inventory.ghosts, outcome)
            .and_then(|()| self.adopt(&plan.adopt, outcome))
            .and_then(|()| self.drop_bad_rows(inventory, outcome));
        if let Err(refusal) = result {
            outcome.stopped = Some(refusal);
        }
    }

    fn adopt(&mut self, orphans: &[Image], outcome: &mut Outcome) -> Result<(), Refusal> {
        let dir = self.dir;
        for portion in orphans.chunks(ROWS) {
            if self.ledger.interrupt().raised() {
                return Err(Refusal::Interrupted);
            }
            let adopted = self.ledger.rows_only(|transaction| {
                let there: Vec<Image> = portion
                    .iter()
                    .filter(|image| {
                        let now = dir.look(Place::Base, image.id.as_name());
                        matches!(now, Ok(Some((Kind::File, now))) if unchanged(image)(&now))
                    })
                    .copied()
                    .collect();
                transaction.adopt(&there)
            })?;
            outcome.orphans_adopted += adopted;
            outcome.left_alone += portion.len() as u64 - adopted;
        }
        Ok(())
    }

    fn drop_bad_rows(&mut self, inventory: &Inventory, outcome: &mut Outcome) -> Result<(), Refusal> {
        for portion in inventory.bad_rows.chunks(ROWS) {
            outcome.rows_dropped +=
                self.ledger.rows_only(|transaction| transaction.drop_bad_rows(portion))?;
        }
        Ok(())
    }

    /// Bytes free on the file system, unless it does not tell.
    fn available(&self) -> Option<u64> {
        self.dir.statvfs().ok().map(|fs| available(&fs))
    }

    /// Whether less is free than was asked for although the goal is reached; then sets what is still missing.
    ///
    /// File systems may free in the background: as long as less shows than the blocks just released, it is waited for a moment.
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
        // When it cannot be told, no image goes for it; the report says so.
        run.goal.free = self.available().map_or(0, |free| wanted.saturating_sub(free));
        run.goal.free > 0
    }
}

/// What becomes of a victim once its file is gone: a row to forget whatever it says. Orphans leave none.
fn as_ghost(victim: &Victim) -> Option<Victim> {
    match victim.only_if {
        Condition::Unchanged(row) => Some(Victim { id: victim.id, only_if: Condition::Row(row.key) }),
        Condition::Row(_) => Some(*victim),
        Condition::NoRow => None,
    }
}

/// True if the image of a row is not in the cache directory. When that cannot be told, it is taken to be there.
fn is_absent(dir: &CacheDir, victim: &Victim) -> bool {
    match dir.look(Place::Base, victim.id.as_name()) {
        Ok(found) => !matches!(found, Some((Kind::File, _))),
        Err(_) => false,
    }
}

/// How much room the index's journal has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    HasRoom,
    /// None: first what needs no row.
    Full,
    /// None, and nothing left that needs no row.
    Fuller,
}

/// The state of a prune under way.
struct PruneRun<'a> {
    /// The candidates, the first to go first; their positions in the inventory.
    order: Cow<'a, [u32]>,
    /// The next candidate.
    at: usize,
    /// What is still to be reached.
    goal: Goal,
    /// Bytes of disk freed so far.
    freed: u64,
    /// Rows in the index, about.
    rows: usize,
    /// How many images to take at a time.
    batch: usize,
    disk: Disk,
    /// Whether what needs no row has been tried.
    made_room: bool,
    /// Images that were dealt with out of their turn.
    taken: HashSet<ImageId>,
    /// Rows of images that are gone already.
    pending: Vec<Victim>,
    /// How long blocks that are freed in the background may still be waited for.
    patience: Duration,
    outcome: Outcome,
}

impl PruneRun<'_> {
    /// Takes what is left by last use from here on: what goes out of its turn changes how many of the others have to.
    fn go_by_last_use(&mut self, plan: &PrunePlan) {
        if let Cow::Owned(order) = &self.order {
            let left: HashSet<u32> = order[self.at..].iter().copied().collect();
            self.order = plan.candidates.iter().copied().filter(|position| left.contains(position)).collect();
            self.at = 0;
        }
    }

    /// The next images, as many as one transaction should take and the goal needs; candidates that help nothing are passed over.
    ///
    /// Never more than half of the rows: a crash would bring them all back without their files, and the next run would take the
    /// directory for a wrong one.
    fn next_batch<'a>(&mut self, inventory: &'a Inventory, transactional: bool) -> Vec<&'a Image> {
        let most = if transactional { self.batch.min((self.rows / 2).max(1)) } else { self.batch };
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

    /// Books what became of a batch; what was not come to is left for the next.
    fn account(&mut self, images: &[&Image], done: &[Result<Removal, Errno>], progress: &dyn Progress) {
        for (image, result) in images.iter().zip(done) {
            match result {
                Ok(Removal::Removed) => {
                    self.outcome.files += 1;
                    self.outcome.bytes = self.outcome.bytes.saturating_add(image.seen.size);
                    self.freed += frees(image);
                    self.goal = self.goal.without(image);
                    self.rows -= usize::from(image.row.is_some() && self.rows > 0);
                    let reason = if image.row.is_some() {
                        "least recently used"
                    } else {
                        "least recently used, without a row"
                    };
                    let (name, bytes) = (image.id.as_name(), image.seen.size);
                    progress.removed(Removed { place: Place::Base, name, bytes, reason });
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

    /// Sizes the next batch by the pace of this one, a little below its limit because entries differ.
    fn adapt(&mut self, done: usize, elapsed: Duration, limit: Duration) {
        let rate = done as f64 / elapsed.as_secs_f64().max(1e-6);
        let next = (rate * limit.as_secs_f64() * 0.7) as usize;
        self.batch = next.clamp(SMALLEST_BATCH, LARGEST_BATCH).min(self.batch.saturating_mul(8));
    }
}
