//! Glance's image cache, as one of the caches of a host.
//!
//! This file connects [`open`] with the plans of [`crate::cache::plan`] and their execution in
//! [`crate::cache::execute`], which changes rows first, then removes files, then commits; it also says what a
//! crash leaves. Nothing is decided or removed in this file itself.

pub(crate) mod central;
pub(crate) mod index;
mod leftovers;
pub(crate) mod open;
mod others;
pub(crate) mod records;
pub(crate) mod settings;

use std::os::fd::BorrowedFd;

use anyhow::Result;

use self::leftovers::{Leftovers, on_full_disk, plan_clean};
use self::open::{
    Cache, Locked, Making, check_index, check_opens, foreign, is_empty, may_be_wrong, misplaced,
    refuse_strange, take_lock, take_stock, unreadable_errors,
};
use self::records::{Usability, unusable};
use self::settings::{Selection, Settings};
use super::cache::{
    Foreseen, HeldImage, Holder, ImageCache, Item, Limits, Planned, PlannedRemoval, Remains, Removing,
    Repaired, Rules, Stock, Unlocked, Until,
};
use super::{CacheKind, ConfiguredCache, Declared, Host, Scope, Task};
use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry;
use crate::cache::execute::{self, Executor};
use crate::cache::index::Driver;
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{CLEAN, Lock, LockWait, PRUNE};
use crate::cache::outcome::Outcome;
use crate::cache::plan::{
    self, Choice, CleanLimits, CleanPlan, CleanReason, Goal, Kept, PruneLimits, PrunePlan, PruneReason,
    RepairPlan, frees,
};
use crate::cache::usable::UnusableImages;
use crate::database::opening::Purpose;
use crate::exit::{Exit, Failure};
use crate::os::space::available;
use crate::units::{Amount, Nanos, span};

/// The kind of Glance's caches.
pub(super) struct Glance;

pub(super) static GLANCE: Glance = Glance;

impl CacheKind for Glance {
    fn name(&self) -> &'static str {
        "glance"
    }

    fn priority(&self) -> u32 {
        60
    }

    fn find(&self, host: &Host<'_>) -> Result<Option<ConfiguredCache>> {
        let directory = host.selection.directory(&host.config).map_err(|failure| failure.error)?;
        let Some(directory) = directory else { return Ok(None) };
        let size = host.config.integer(&crate::config::IMAGE_CACHE_MAX_SIZE)?;
        let size = size.map(|bytes| Amount::Bytes(bytes.unsigned_abs()));
        Ok(Some(ConfiguredCache { directory, size, age: None }))
    }

    fn open<'a>(
        &self,
        host: &'a Host<'a>,
        cache: &Declared,
    ) -> Result<Option<Box<dyn ImageCache + 'a>>, Failure> {
        let mut selection = host.selection.clone();
        let is_further = cache.name != self.name();
        if is_further {
            // The flags and settings of the index belong to the configured cache, not to a further one.
            selection = Selection {
                sources: selection.sources,
                cache_dir: Some(cache.directory.value.clone()),
                ..Selection::default()
            };
        }
        let settings = Settings::new(&host.config, selection)?;
        let dir = match settings.open() {
            Ok(Some(dir)) => dir,
            Ok(None) => return Ok(None),
            // The directory of a further cache comes from the configuration, although it is set here like an
            // option of the command line. So it may be missing.
            Err(failure) if is_further && failure.exit == Exit::Usage => {
                return match CacheDir::open(&cache.directory.value) {
                    Ok(None) => Ok(None),
                    _ => Err(failure),
                };
            }
            Err(failure) => return Err(failure),
        };
        Ok(Some(Box::new(GlanceCache {
            host,
            settings,
            dir,
            locks: Vec::new(),
            cache: None,
            order: Vec::new(),
            clean: CleanPlan::default(),
        })))
    }
}

/// An opened cache of Glance.
struct GlanceCache<'a> {
    host: &'a Host<'a>,
    settings: Settings<'a>,
    dir: CacheDir,
    locks: Vec<Option<Lock>>,
    /// `None` before the survey, and if nothing may be removed.
    cache: Option<Cache>,
    /// Positions of the images that may be removed, as [`ImageCache::items`] returned them.
    order: Vec<u32>,
    clean: CleanPlan,
}

impl GlanceCache<'_> {
    fn clean_limits(&self) -> Result<CleanLimits, Failure> {
        let stall_time = self.settings.stall_time(self.host.stall_time)?.value;
        Ok(CleanLimits { stall_time, invalid_grace: self.host.invalid_grace })
    }

    /// Finds the invalid and stalled entries, and counts them.
    fn survey_leftovers(&mut self, stock: &mut Stock) -> Result<(), Failure> {
        let Leftovers { plan, errors, blocking } = plan_clean(self.host.run, &self.dir, self.clean_limits()?);
        for (_, entry) in plan.entries() {
            stock.leftovers.add(entry.seen.allocated);
        }
        stock.kept_open = plan
            .kept_open
            .iter()
            .map(|(entry, pid)| (CachePlace::Incomplete.show(entry.name.as_name()), *pid))
            .collect();
        self.clean = plan;
        stock.errors = errors;
        stock.notes.extend(blocking);
        Ok(())
    }

    /// Opens the index, and counts the images that may be removed and those that stay.
    fn survey_images(&mut self, rules: &Rules, stock: &mut Stock) -> Result<(), Failure> {
        let purpose = if rules.changing { Purpose::Change } else { Purpose::Look };
        let mut cache = match self.take_stock(purpose) {
            Err(failure) if self.is_nothing_to_do(&failure, rules, stock) => return Ok(()),
            result => result?,
        };
        let inventory = &cache.inventory;
        stock.size = Some(inventory.size());
        stock.errors.extend(unreadable_errors(&inventory.unreadable));
        let strangers = foreign(&self.settings, &self.dir, &cache);
        stock.foreign = strangers.map(|entry| entry.place.show(entry.name.as_name())).collect();
        if !inventory.images.is_empty() {
            stock.notes.extend(cache.warning.clone());
        }
        stock.notes.extend(cache.doubt());
        let what = if self.host.task == Task::Prune { "cannot plan a prune" } else { "last use is unknown" };
        cache.readable(what)?;
        let inventory = &cache.inventory;
        if let Some(error) = misplaced(&self.dir, inventory, rules.forget_all) {
            stock.errors.push(error);
            stock.is_misplaced = true;
            return Ok(());
        }
        // Only reports on several caches show the tallies. A prune of one cache with a million images does
        // not need another pass over them.
        if self.host.scope == Scope::All {
            tally(inventory, rules, stock);
            stock.is_tallied = true;
        }
        self.cache = Some(cache);
        Ok(())
    }

    fn take_stock(&self, purpose: Purpose) -> Result<Cache, Failure> {
        let wait = self.host.run.wait(self.host.lock_wait.limit);
        let cache = take_stock(self.host.run, &self.settings, &self.dir, purpose, &wait)?;
        if self.host.task == Task::Look { Ok(cache) } else { cache.certain() }
    }

    /// Fails if the index is missing and another one knows the images, or if a repair would make an index
    /// beside another one. Nothing was created by then. A repair removes leftovers first, and so asks in any
    /// case.
    fn check_index(&self) -> Result<(), Failure> {
        let is_repair = self.host.task == Task::Repair;
        let is_prune = self.host.task == Task::Prune && may_be_wrong(&self.settings, &self.dir);
        // An old name is content with any index as long as the cache is within its limit.
        if self.host.run.is_old_name() || !(is_repair || is_prune) {
            return Ok(());
        }
        let making = if is_repair { Making::ForImages } else { Making::Never };
        check_index(self.host.run, &self.settings, &self.dir, making)
    }

    /// Fails if an index would have to be made beside another one.
    fn refuse_second(&self, cache: &Cache) -> Result<(), Failure> {
        let is_made = !cache.inventory.images.is_empty();
        if is_made { cache.refuse_second(self.host.run, &self.settings, &self.dir) } else { Ok(()) }
    }

    /// True if the settings do not say which index the cache has, but its files are within the limit, and the
    /// rules say that this is enough. Cron jobs of the old pruner run without a node URL.
    fn is_nothing_to_do(&self, failure: &Failure, rules: &Rules, stock: &mut Stock) -> bool {
        let Some(limit) = rules.fits_without_index else { return false };
        if failure.exit != Exit::Usage || self.settings.driver().is_err() {
            return false;
        }
        let Ok(inventory) = Inventory::scan(&self.dir, Tracking::ByRow) else { return false };
        let size = inventory.size();
        stock.size = Some(size);
        let fits = size <= limit;
        if fits {
            let why = &failure.error;
            self.host.run.output.note(&format!("{why:#}; nothing to do, as the cache is within its limit"));
        }
        fits
    }

    /// Returns the images that Glance does not serve, if some have to be removed because of a limit. What the
    /// database does not say is not needed.
    fn unusable(&self, inventory: &Inventory, limits: &PruneLimits, available: u64) -> UnusableImages {
        let is_over =
            inventory.size() > limits.max_size || limits.min_free.is_some_and(|free| free > available);
        if !self.host.asks_records || limits.choice != Choice::OverLimit || !is_over {
            return UnusableImages::default();
        }
        match unusable(self.host.run, &self.settings.database, &inventory.images) {
            Usability::Known(found) => found,
            Usability::NotAsked => UnusableImages::default(),
            Usability::Unknown(why) => {
                let line = format!("images that Glance does not serve are not removed first: {why}");
                self.host.run.output.warning(&line);
                UnusableImages::default()
            }
        }
    }

    /// Returns the executor of a plan, with the inventory and the directory. `None` if nothing may be
    /// removed.
    fn executor<'e>(
        &'e mut self,
        removing: &'e Removing<'_>,
    ) -> Option<(Executor<'e>, &'e mut Inventory, &'e CacheDir)> {
        let dir = &self.dir;
        let Cache { ledger, inventory, .. } = self.cache.as_mut()?;
        Some((Executor { dir, ledger, progress: removing.progress }, inventory, dir))
    }

    /// Carries out a plan, and returns the outcome.
    fn prune(&mut self, plan: &PrunePlan, min_free: Option<u64>, removing: &Removing<'_>) -> Outcome {
        // The stall time is needed only on a full disk. A wrong value must not keep the cache over its limit.
        let limits = self.clean_limits().unwrap_or(CleanLimits { stall_time: Nanos::MAX, invalid_grace: 0 });
        let run = self.host.run;
        let Some((mut executor, inventory, dir)) = self.executor(removing) else { return Outcome::default() };
        let done = executor.prune(inventory, plan, &|| on_full_disk(run, dir, limits), min_free);
        // Ghosts are forgotten only once, even if images are removed from this cache several times.
        inventory.leave_ghosts();
        if done.rows_left > 0 {
            // With more rows without files the next run would refuse the directory as a wrong one.
            self.cache = None;
        }
        done
    }
}

/// Adds up the images that may be removed, and those that the rules protect.
fn tally(inventory: &Inventory, rules: &Rules, stock: &mut Stock) {
    let by_file = inventory.tracked_by_file();
    for image in &inventory.images {
        if kept(image, rules, by_file).is_some() {
            stock.kept.add(image.seen.allocated);
        } else {
            stock.reclaimable.add(frees(image));
        }
    }
}

/// Returns the reason for keeping an image, or `None` if the rules allow its removal.
fn kept(image: &entry::Image, rules: &Rules, by_file: bool) -> Option<Kept> {
    if !rules.keep.is_empty() && rules.keep.contains(&image.id.folded()) {
        return Some(Kept::Listed);
    }
    let used = image.last_use(by_file).max(image.seen.mtime);
    let is_young = rules.min_age > 0 && used > rules.now.saturating_sub(rules.min_age);
    is_young.then_some(Kept::Young)
}

/// Limits under which every image that may be removed is a candidate.
fn no_limit(rules: &Rules) -> PruneLimits {
    PruneLimits { min_age: rules.min_age, keep: rules.keep.clone(), ..PruneLimits::default() }
}

/// Adds the outcome of one pass over the cache to the whole outcome. The later reason for stopping counts.
fn add(mut done: Outcome, outcome: &mut Outcome) {
    let stopped = done.stopped.take();
    outcome.add(done);
    if stopped.is_some() {
        outcome.stopped = stopped;
    }
}

impl ImageCache for GlanceCache<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.dir.fd(CachePlace::Base).expect("the cache directory itself is always open")
    }

    fn lock(&mut self, wait: &LockWait) -> Result<(), Unlocked> {
        if matches!(self.host.task, Task::Clean | Task::Repair) {
            // A wrong stall time fails the run before a lock file is created.
            self.clean_limits().map_err(Unlocked::Failed)?;
        }
        refuse_strange(&self.settings, &self.dir).map_err(Unlocked::Failed)?;
        if is_empty(&self.dir).map_err(Unlocked::Failed)? {
            return Ok(());
        }
        self.check_index().map_err(Unlocked::Failed)?;
        let run = self.host.run;
        let locks = self.settings.lock_dir(&self.dir, &run.output).map_err(Unlocked::Failed)?;
        let names = match self.host.task {
            Task::Clean => &[CLEAN][..],
            Task::Repair => &[CLEAN, PRUNE],
            Task::Prune | Task::Look => &[PRUNE],
        };
        if self.host.task == Task::Prune && !run.is_old_name() && locks.identity(PRUNE).is_none() {
            // A run that cannot start should not make the first lock file.
            check_opens(run, &self.settings, &self.dir).map_err(Unlocked::Failed)?;
        }
        for name in names {
            match take_lock(run, &self.dir, &locks, name, wait).map_err(Unlocked::Failed)? {
                Locked::Go(lock) => self.locks.push(lock),
                Locked::Busy(who) => return Err(Unlocked::Busy(who)),
                Locked::Interrupted => return Err(Unlocked::Interrupted),
            }
        }
        Ok(())
    }

    fn survey(&mut self, rules: &Rules, _: &[(u64, u64)]) -> Result<Stock, Failure> {
        let mut stock = Stock::default();
        refuse_strange(&self.settings, &self.dir)?;
        if is_empty(&self.dir)? {
            return Ok(Stock { size: Some(0), is_tallied: true, is_empty: true, ..stock });
        }
        match self.host.task {
            // A clean needs no index; a repair opens it after the leftovers are removed.
            Task::Clean | Task::Repair => self.survey_leftovers(&mut stock)?,
            Task::Prune if self.host.scope == Scope::One => self.survey_images(rules, &mut stock)?,
            Task::Prune | Task::Look => {
                self.survey_leftovers(&mut stock)?;
                self.survey_images(rules, &mut stock)?;
            }
        }
        Ok(stock)
    }

    fn images(&self, rules: &Rules) -> Vec<HeldImage> {
        let Some(Cache { inventory, .. }) = &self.cache else { return Vec::new() };
        let by_file = inventory.tracked_by_file();
        let images = inventory.images.iter().map(|image| HeldImage {
            name: image.id.to_string(),
            is_orphan: inventory.is_orphan(image),
            size: image.seen.size,
            last_use: image.last_use(by_file),
            links: image.seen.links,
            held: kept(image, rules, by_file).map(Holder::Rule),
        });
        images.collect()
    }

    fn plan(&self, rules: &Rules, limits: &Limits) -> Result<Planned, Failure> {
        let Some(Cache { inventory, .. }) = &self.cache else { return Ok(Planned::default()) };
        let free = available(&self.dir.statvfs().map_err(Failure::cannot_start)?);
        let bounds = PruneLimits {
            max_size: limits.size,
            target_size: limits.target,
            min_free: limits.min_free,
            choice: rules.choice.clone(),
            ..no_limit(rules)
        };
        let bounds = PruneLimits { unusable: self.unusable(inventory, &bounds, free), ..bounds };
        let age = limits.age.filter(|_| rules.choice == Choice::OverLimit);
        let Some(age) = age else {
            let rest = plan::prune(inventory, &bounds, free, rules.now);
            return Ok(Planned { expired: Vec::new(), rest });
        };
        let mut all = plan::prune(inventory, &no_limit(rules), 0, rules.now);
        let by_file = inventory.tracked_by_file();
        let image = |position: u32| &inventory.images[position as usize];
        let old = rules.now.saturating_sub(age);
        let count = all.candidates.partition_point(|position| image(*position).last_use(by_file) < old);
        let rest = all.candidates.split_off(count);
        let expired = std::mem::replace(&mut all.candidates, rest);
        let left = expired
            .iter()
            .fold(inventory.size(), |size, position| size.saturating_sub(image(*position).seen.size));
        all.goal = Goal { size: limits.excess(left), free: 0 };
        Ok(Planned { expired, rest: all })
    }

    fn describe(&self, planned: &Planned) -> Vec<Foreseen> {
        let Some(Cache { inventory, .. }) = &self.cache else { return Vec::new() };
        let by_file = inventory.tracked_by_file();
        let victim = |image: &entry::Image, reason| {
            Foreseen::Removal(PlannedRemoval {
                name: image.id.to_string(),
                size: image.seen.size,
                frees: frees(image),
                last_use: image.last_use(by_file),
                is_orphan: inventory.is_orphan(image),
                reason,
            })
        };
        let image = |position: u32| &inventory.images[position as usize];
        let ghosts = inventory.ghosts.iter().map(|ghost| Foreseen::Ghost(ghost.id.to_string()));
        let expired = planned.expired.iter().map(|position| victim(image(*position), PruneReason::Expired));
        let reason = |image| planned.rest.reason_for(image);
        let victims = planned.rest.victims(inventory).map(|image| victim(image, reason(image)));
        let kept = planned.rest.kept.iter().map(|(position, why)| {
            let image = image(*position);
            Foreseen::Kept { name: image.id.to_string(), size: image.seen.size, why: *why }
        });
        ghosts.chain(expired).chain(victims).chain(kept).collect()
    }

    fn kept(&self, planned: &Planned) -> Vec<(Kept, u64)> {
        let Some(Cache { inventory, .. }) = &self.cache else { return Vec::new() };
        let size = |position: u32| inventory.images[position as usize].seen.size;
        planned.rest.kept.iter().map(|(position, why)| (*why, size(*position))).collect()
    }

    fn carry_out(&mut self, planned: Planned, limits: &Limits, removing: &mut Removing<'_>) {
        let Planned { expired, mut rest } = planned;
        if !expired.is_empty() {
            let size = self.cache.as_ref().map_or(0, |cache| cache.inventory.size());
            let plan = PrunePlan::of_all(expired, PruneReason::Expired);
            let done = self.prune(&plan, None, removing);
            // Expired images that could not be removed count towards the size.
            let left = size.saturating_sub(done.bytes).saturating_sub(done.bytes_gone);
            rest.goal.size = limits.excess(left);
            add(done, &mut removing.outcome);
            if removing.outcome.stopped.is_some() {
                return;
            }
        }
        let done = self.prune(&rest, limits.min_free, removing);
        add(done, &mut removing.outcome);
    }

    fn items(&mut self, rules: &Rules) -> Vec<Item> {
        let Some(Cache { inventory, .. }) = &self.cache else { return Vec::new() };
        // Without any limit, every image that may be removed is a candidate.
        self.order = plan::prune(inventory, &no_limit(rules), 0, rules.now).candidates;
        let by_file = inventory.tracked_by_file();
        let item = |position: &u32| {
            let image = &inventory.images[*position as usize];
            Item { last_use: image.last_use(by_file), size: image.seen.size, frees: frees(image) }
        };
        self.order.iter().map(item).collect()
    }

    fn name(&self, item: u32) -> String {
        let images = self.cache.as_ref().map(|cache| &cache.inventory.images);
        let position = self.order[item as usize] as usize;
        images.map(|images| images[position].id.to_string()).unwrap_or_default()
    }

    fn remove(
        &mut self,
        items: &[u32],
        until: &mut Until<'_, '_>,
        reason: PruneReason,
        removing: &mut Removing<'_>,
    ) {
        let candidates = items.iter().map(|item| self.order[*item as usize]).collect();
        let (goal, min_free) = match until {
            Until::All => (Goal::EVERYTHING, None),
            Until::Size(left) => (Goal { size: *left, free: 0 }, None),
            Until::Space(space) => (Goal { size: 0, free: space.missing() }, Some(space.required)),
        };
        let plan = PrunePlan { goal, ..PrunePlan::of_all(candidates, reason) };
        let done = self.prune(&plan, min_free, removing);
        match until {
            Until::All => {}
            Until::Size(left) => *left = left.saturating_sub(done.bytes).saturating_sub(done.bytes_gone),
            Until::Space(space) => space.measure(),
        }
        add(done, &mut removing.outcome);
    }

    fn remains(&self) -> Vec<Remains> {
        let now = self.host.run.now;
        let remains = self.clean.entries().map(|(reason, entry)| {
            let age = span(now.saturating_sub(entry.seen.mtime).max(0));
            Remains {
                name: reason.place().show(entry.name.as_name()),
                reason: match reason {
                    CleanReason::Invalid => "invalid".to_owned(),
                    CleanReason::Stalled => format!("stalled: not written to for {age}"),
                },
                is_invalid: reason == CleanReason::Invalid,
                files: 1,
                bytes: if entry.kind == entry::EntryKind::File { entry.seen.size } else { 0 },
            }
        });
        remains.collect()
    }

    fn clean(&mut self, removing: &mut Removing<'_>) {
        let Removing { interrupt, progress, outcome } = removing;
        execute::clean(&self.dir, &self.clean, interrupt, *progress, outcome);
    }

    fn plan_repair(&mut self, rules: &Rules) -> Result<Repaired, Failure> {
        let mut cache = self.take_stock(Purpose::Look)?;
        cache.readable("cannot plan a repair")?;
        let inventory = &cache.inventory;
        if let Some(refused) = misplaced(&self.dir, inventory, rules.forget_all) {
            return Ok(Repaired { refused: Some(refused), ..Repaired::default() });
        }
        self.refuse_second(&cache)?;
        let plan = plan::repair(inventory, rules.now);
        Ok(Repaired {
            too_young: too_young(inventory, &plan),
            adopt: plan
                .adopt
                .iter()
                .map(|image| (image.id.to_string(), image.seen.size, image.seen.last_use()))
                .collect(),
            ghosts: inventory.ghosts.iter().map(|ghost| ghost.id.to_string()).collect(),
            bad_rows: inventory.bad_rows.iter().map(|row| row.shown.clone()).collect(),
            refused: None,
        })
    }

    fn repair(&mut self, rules: &Rules, removing: &mut Removing<'_>) -> Result<Repaired, Failure> {
        let mut cache = self.take_stock(Purpose::Change)?;
        if let Some(refused) = misplaced(&self.dir, &cache.inventory, rules.forget_all) {
            return Ok(Repaired { refused: Some(refused), ..Repaired::default() });
        }
        let plan = plan::repair(&cache.inventory, rules.now);
        self.refuse_second(&cache)?;
        if cache.driver == Some(Driver::Sqlite) && !cache.ledger.has_rows() && !plan.adopt.is_empty() {
            // The configured index does not exist yet, or has no table. Only here a clean creates it, as
            // Glance would.
            cache = self.take_stock(Purpose::Create)?;
        }
        let too_young = too_young(&cache.inventory, &plan);
        self.cache = Some(cache);
        let mut outcome = std::mem::take(&mut removing.outcome);
        if let Some((mut executor, inventory, _)) = self.executor(removing) {
            executor.repair(inventory, &plan, &mut outcome);
        }
        removing.outcome = outcome;
        Ok(Repaired { too_young, ..Repaired::default() })
    }
}

/// Returns the orphans that are too young to adopt: name, size and time of their last change.
fn too_young(inventory: &Inventory, plan: &RepairPlan) -> Vec<(String, u64, Nanos)> {
    let young = inventory.orphans().filter(|image| plan.young.contains(&image.id));
    young.map(|image| (image.id.to_string(), image.seen.size, image.seen.ctime)).collect()
}
