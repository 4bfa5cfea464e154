//! `clean --verify`: moves broken images to `invalid/`, and removes images whose records are deleted.
//!
//! Prune's lock is taken only while an image is moved, because reading all images can take hours. Each image
//! is moved as soon as it is found; [`crate::cache::set_aside`] has the order of the steps and what a crash
//! leaves. With `--skip-if-locked` the lock is also taken once before anything is read, and released at once:
//! if it is held, the run ends. Later it waits for the lock as every other run does. Images whose records are
//! deleted are removed at the end, as `prune` removes images.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    BrokenHandler, Fate, Verdicts, Verification, VerifiedCache, VerifyRequest, require_owner, verify,
};
use crate::cache::dir::CacheDir;
use crate::cache::entry::Image;
use crate::cache::execute::Executor;
use crate::cache::index::Driver;
use crate::cache::inventory::Inventory;
use crate::cache::ledger::Ledger;
use crate::cache::lock::{LockDir, LockWait, PRUNE};
use crate::cache::outcome::{Action, EntryError, Outcome};
use crate::cache::plan::{CleanPlan, PrunePlan, PruneReason};
use crate::cache::set_aside::{IN_USE, SetAside, foresee, set_aside};
use crate::cache::usable::Unusable;
use crate::database::Database;
use crate::database::opening::Purpose;
use crate::exit::Failure;
use crate::fetch::examine::Fault;
use crate::host::glance::central::{check_records, open_records};
use crate::host::glance::open::{
    Cache, Locked, Making, check_index, may_be_wrong, refuse_strange, take_lock, take_stock,
};
use crate::host::glance::settings::Settings;
use crate::names::ImageId;
use crate::ops::Change;
use crate::ops::report::{ChangeReport, Ending, Step};
use crate::output::Report;
use crate::output::progress::Bar;
use crate::run::Run;
use crate::units::{count, human};

/// Verifies the images of a cache, and moves those that are broken.
pub(crate) fn clean_verify(
    run: &Run,
    settings: &Settings<'_>,
    change: &Change,
    request: &VerifyRequest,
) -> Result<MoveReport, Failure> {
    let mut report = MoveReport { ending: Ending::new(change.dry_run), ..MoveReport::default() };
    let ended = fill(run, settings, change, request, &mut report);
    report.ending.settle(run, change, ended)?;
    Ok(report)
}

/// Verifies, and fills in the report. The report is shown unless this fails.
fn fill(
    run: &Run,
    settings: &Settings<'_>,
    change: &Change,
    request: &VerifyRequest,
    report: &mut MoveReport,
) -> Result<(), Failure> {
    run.catch_signals()?;
    report.ending.plan = change.dry_run.then(Vec::new);
    check_records(&settings.database)?;
    let Some(dir) = settings.open()? else {
        run.output.note(&settings.nothing_there());
        report.ending.absent = Some(settings.nothing_there());
        return Ok(());
    };
    refuse_strange(settings, &dir)?;
    require_owner(&dir)?;
    let locks = settings.lock_dir(&dir, &run.output)?;
    if change.lock_wait.skip_if_locked
        && !change.dry_run
        && let Locked::Busy(who) = take_lock(run, &dir, &locks, PRUNE, &change.lock_wait)?
    {
        report.ending.skipped = Some(who);
        return Ok(());
    }
    if !change.dry_run && may_be_wrong(settings, &dir) {
        check_index(run, settings, &dir, Making::Never)?;
    }
    let (mut cache, records) = open(run, settings, &dir, change)?;
    let images = std::mem::take(&mut cache.inventory.images);
    let attributes = cache.driver == Some(Driver::Xattr);
    let mut mover = Mover {
        run,
        dir: &dir,
        locks: &locks,
        change,
        ledger: &mut cache.ledger,
        attributes,
        errors: Vec::new(),
    };
    let unreadable = &cache.inventory.unreadable;
    let verified = VerifiedCache { run, dir: &dir, images: &images, unreadable, records };
    let Verdicts { report: found, records, deleted, .. } = verify(verified, request, &mut mover)?;
    report.ending.errors.append(&mut mover.errors);
    // The ghosts are left to prune, which first makes sure that this is the right directory.
    cache.inventory.leave_ghosts();
    cache.inventory.images = images;
    let outcome = mover.remove_deleted(&cache.inventory, deleted, records, report);
    report.found(run, found, outcome)
}

/// Opens the index and the database with the records. See `PrefetchRun::open` for the order.
fn open(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    change: &Change,
) -> Result<(Cache, Database), Failure> {
    let purpose = if change.dry_run { Purpose::Look } else { Purpose::Change };
    let wait = run.wait(change.lock_wait.limit);
    let stock = || take_stock(run, settings, dir, purpose, &wait).and_then(Cache::certain);
    let first = if settings.names(Driver::CentralizedDb) { Some(stock()?) } else { None };
    let records = open_records(&settings.database, &wait)?;
    let mut cache = first.map_or_else(stock, Ok)?;
    cache.readable("cannot move images without the index")?;
    if !change.dry_run {
        cache.ledger.check_writable().map_err(|refusal| {
            Failure::cannot_start(refusal.into_error().context("cannot write to the index"))
        })?;
    }
    Ok((cache, records))
}

/// Moves broken images to `invalid/`.
struct Mover<'a> {
    run: &'a Run,
    dir: &'a CacheDir,
    locks: &'a LockDir,
    change: &'a Change,
    ledger: &'a mut Ledger,
    /// True if the reason is kept in an attribute of the file, as Glance's xattr driver does.
    attributes: bool,
    /// Rows of moved images that could not be deleted.
    errors: Vec<EntryError>,
}

impl Mover<'_> {
    /// Takes prune's lock; the text says why it is not taken.
    fn lock(&self) -> Result<Locked, String> {
        // The run has begun, and is not skipped any more.
        let patience = LockWait { skip_if_locked: false, ..self.change.lock_wait };
        let taken = take_lock(self.run, self.dir, self.locks, PRUNE, &patience);
        taken.map_err(|failure| format!("{:#}", failure.error))
    }

    fn move_away(&mut self, image: &Image, fault: &Fault) -> Result<Fate, String> {
        let shown = |e: anyhow::Error| format!("{e:#}");
        // The connection to the index may have been closed because it was idle during a long reading. Glance
        // waits for the lock, so that this comes before it.
        self.ledger.rest();
        self.ledger.reach().map_err(|refusal| shown(refusal.into_error()))?;
        let _lock = match self.lock()? {
            Locked::Go(lock) => lock,
            Locked::Busy(who) => return Err(who),
            Locked::Interrupted => return Ok(Fate::Left),
        };
        let why = fault.to_string();
        let why = self.attributes.then_some(why.as_str());
        let name = match set_aside(self.dir, self.ledger, image, why).map_err(shown)? {
            SetAside::Changed => return Ok(Fate::Changed),
            SetAside::RowInUse => return Err(IN_USE.to_owned()),
            SetAside::Moved(name) => name,
            SetAside::RowStays(name, e) => {
                let message = format!("{e:#}; the next prune deletes it");
                let (image, action) = (image.id.to_string(), Action::Forget);
                self.errors.push(EntryError { name: image, action, message });
                name
            }
        };
        self.run.output.warning(&format!(
            "image {} is broken: {fault}; it is moved to invalid/{}, and Glance fetches it again when it is \
             used",
            image.id,
            name.as_name()
        ));
        Ok(Fate::Moved)
    }

    /// Removes the images whose records are still deleted, or plans it.
    fn remove_deleted(
        &mut self,
        inventory: &Inventory,
        mut deleted: Vec<u32>,
        mut records: Database,
        report: &mut MoveReport,
    ) -> Outcome {
        let image = |position: &u32| &inventory.images[*position as usize];
        let ids: Vec<ImageId> = deleted.iter().map(|position| image(position).id).collect();
        if ids.is_empty() || self.run.interrupt.raised() {
            return Outcome::default();
        }
        let mut fails = |message: String| {
            let (name, action) = ("deleted images".to_owned(), Action::Remove);
            report.ending.errors.push(EntryError { name, action, message });
            Outcome::default()
        };
        let now = match records.records(&ids) {
            Ok(now) => now,
            Err(refusal) => return fails(format!("{:#}", refusal.into_error())),
        };
        let mut now = now.iter();
        deleted
            .retain(|_| now.next().is_some_and(|now| Unusable::of(now.as_ref()) == Some(Unusable::Deleted)));
        let reason = PruneReason::Unusable(Unusable::Deleted);
        if let Some(plan) = &mut report.ending.plan {
            let step =
                |image: &Image| Step::new("remove", image.id.to_string(), image.seen.size, reason.text());
            plan.extend(deleted.iter().map(|position| step(image(position))));
            report.deleted_images_removed = deleted.len() as u64;
            report.deleted_bytes_removed = deleted.iter().map(|position| image(position).seen.size).sum();
            return Outcome::default();
        }
        let _lock = match self.lock() {
            Ok(Locked::Go(lock)) => lock,
            Ok(Locked::Interrupted) => return Outcome::default(),
            Ok(Locked::Busy(why)) | Err(why) => return fails(why),
        };
        let bar = Bar::hidden(&self.run.output);
        let mut executor = Executor { dir: self.dir, ledger: self.ledger, progress: &bar };
        executor.prune(inventory, &PrunePlan::of_all(deleted, reason), &CleanPlan::default, None)
    }
}

impl BrokenHandler for Mover<'_> {
    fn moves(&self) -> bool {
        true
    }

    fn handle(&mut self, image: &Image, fault: &Fault) -> Fate {
        if let Err(e) = foresee(self.dir, image) {
            return Fate::NotMoved(format!("{e:#}"));
        }
        if self.change.dry_run {
            return Fate::WouldMove;
        }
        self.move_away(image, fault).unwrap_or_else(Fate::NotMoved)
    }
}

/// The report of a clean that verified the images of a cache.
#[derive(Debug, Default, Serialize)]
pub(crate) struct MoveReport {
    total_files_moved: u64,
    total_bytes_moved: u64,
    deleted_images_removed: u64,
    deleted_bytes_removed: u64,
    /// `None` if no image was looked at.
    verification: Option<Verification>,
    #[serde(flatten)]
    ending: Ending,
}

impl MoveReport {
    /// Fills in what was found, and what was done about it.
    fn found(&mut self, run: &Run, mut found: Verification, mut outcome: Outcome) -> Result<(), Failure> {
        let moved = || found.broken.iter().filter(|image| image.moved || image.would_move);
        self.total_files_moved = moved().count() as u64;
        self.total_bytes_moved = moved().map(|image| image.size).sum();
        if let Some(plan) = &mut self.ending.plan {
            let step = |image: &super::BrokenImage| {
                Step::new("move", image.image_id.clone(), image.size, image.fault.message.clone())
            };
            plan.splice(0..0, found.broken.iter().filter(|image| image.would_move).map(step));
        } else {
            self.deleted_images_removed = outcome.files;
            self.deleted_bytes_removed = outcome.bytes;
        }
        self.ending.errors.append(&mut found.errors);
        self.ending.hints.extend(found.hint.take());
        let is_interrupted = found.is_interrupted;
        self.verification = Some(found);
        self.ending.add(run, &mut outcome, false)?;
        if is_interrupted {
            self.ending.stopped(run);
        }
        Ok(())
    }
}

impl ChangeReport for MoveReport {
    fn ending(&self) -> &Ending {
        &self.ending
    }
}

impl Report for MoveReport {
    fn text(&self) -> String {
        if let Some(text) = self.ending.did_nothing() {
            return text;
        }
        let mut text = String::new();
        let moved = self.ending.verb("moved", "would move");
        let images = count(self.total_files_moved, "broken image");
        let _ = write!(text, "clean: {moved} {images}, {}", human(self.total_bytes_moved));
        if self.deleted_images_removed > 0 {
            let removed = self.ending.verb("removed", "would remove");
            let (images, bytes) =
                (count(self.deleted_images_removed, "image"), human(self.deleted_bytes_removed));
            let _ = write!(text, "; {removed} {images} with a deleted record, {bytes}");
        }
        if let Some(verification) = &self.verification {
            let _ = write!(text, "; read {}", verification.summary());
        }
        text + &self.ending.line_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_moved_and_removed() {
        let mut report =
            MoveReport { total_files_moved: 1, total_bytes_moved: 1024, ..MoveReport::default() };
        let moved = "clean: moved 1 broken image, 1 KiB";
        assert_eq!(report.text(), format!("{moved}\n"));
        (report.deleted_images_removed, report.deleted_bytes_removed) = (2, 2048);
        report.verification = Some(Verification::default());
        let removed = "removed 2 images with a deleted record, 2 KiB";
        let read = "read 0 images, 0 B: 0 as recorded, 0 broken";
        assert_eq!(report.text(), format!("{moved}; {removed}; {read}\n"));
        report.ending.dry_run = true;
        assert!(report.text().starts_with("clean: would move 1 broken image"), "{}", report.text());
        report.ending.skipped = Some("it is locked".to_owned());
        assert_eq!(report.text(), "nothing was done: it is locked\n");
    }
}
