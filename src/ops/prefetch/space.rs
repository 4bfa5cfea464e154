//! Checks that an image fits on the disk and within the cache's limit, and makes space for it on request.
//!
//! Space is made by the rules of prune and in its order of steps, under prune's lock. If all images that may
//! be removed could not free enough, none is removed.

use std::collections::HashSet;

use anyhow::anyhow;

use crate::cache::entry::Image;
use crate::cache::execute::Executor;
use crate::cache::inventory::Inventory;
use crate::cache::plan::{self, CleanPlan, PruneLimits, PrunePlan, frees};
use crate::cache::queue::Queue;
use crate::fetch::judge::{Fit, SpaceBudget, fit};
use crate::host::cache::{Foreseen, PlannedRemoval};
use crate::host::glance::open::misplaced;
use crate::names::ImageId;
use crate::ops::prefetch::request::Limit;
use crate::ops::prefetch::{Locked, PrefetchRun, Running};
use crate::ops::report::Step;
use crate::os::space::available;
use crate::output::progress::Bar;
use crate::units::human;

impl PrefetchRun<'_> {
    /// Makes sure that an image of this size fits, and makes space for it on request. The error is the reason
    /// that the image does not fit.
    pub(super) fn find_space(&mut self, size: Option<u64>) -> Result<(), String> {
        let Some(size) = size.or((self.request.limit == Limit::Ignored).then_some(0)) else {
            return Err("Glance's record has no size, so it is not known if the image fits".to_owned());
        };
        let space = self.space().map_err(|e| format!("{e:#}"))?;
        let found = fit(size, space);
        if found == Fit::Fits {
            return Ok(());
        }
        if self.request.limit != Limit::MadeSpace {
            return Err(too_large(size, &found, space));
        }
        if self.report.ending.dry_run {
            let (inventory, plan, _) = self.plan_space(size, space)?;
            // The images foreseen so far are part of the space, so this plan includes the one before.
            self.doomed = removals(&inventory, &plan);
            return Ok(());
        }
        self.make_space(size, space)?;
        let space = self.space().map_err(|e| format!("{e:#}"))?;
        match fit(size, space) {
            Fit::Fits => Ok(()),
            found => Err(too_large(size, &found, space)),
        }
    }

    /// Measures the size of the cache, because Glance adds images, too.
    pub(super) fn measure(&mut self) -> anyhow::Result<()> {
        self.cached = Inventory::scan(self.dir, self.cache.inventory.tracking.clone())?.size();
        Ok(())
    }

    fn space(&mut self) -> anyhow::Result<SpaceBudget> {
        if self.request.limit != Limit::Ignored {
            self.measure()?;
        }
        let promised =
            self.foreseen + self.under_way().filter_map(|running| running.record.size).sum::<u64>();
        Ok(SpaceBudget {
            available: available(&self.dir.statvfs()?),
            reserve: self.settings.reserve,
            in_flight: self.under_way().map(Running::to_come).sum::<u64>() + self.foreseen,
            cached: self.cached.saturating_add(promised),
            limit: (self.request.limit != Limit::Ignored).then_some(self.settings.max_size),
        })
    }

    /// Removes images so that an image of this size fits.
    fn make_space(&mut self, size: u64, space: SpaceBudget) -> Result<(), String> {
        let why_not = |e: anyhow::Error| format!("cannot make space for the image: {e:#}");
        // The connection to the index may have been closed because it was idle during a long fetch.
        self.cache.ledger.reach().map_err(|refusal| why_not(refusal.into_error()))?;
        let _lock = match self.prune_lock(true) {
            Ok(Locked::Go(lock)) => lock,
            Ok(_) => return Err(why_not(anyhow!("a signal ended the wait for the lock"))),
            Err(failure) => return Err(why_not(failure.error)),
        };
        let (inventory, plan, free) = self.plan_space(size, space)?;
        let bar = Bar::hidden(&self.run.output);
        let mut executor = Executor { dir: self.dir, ledger: &mut self.cache.ledger, progress: &bar };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, Some(free));
        self.report.total_files_pruned += outcome.files;
        self.report.total_bytes_pruned += outcome.bytes;
        self.report.ending.errors.extend(outcome.errors);
        outcome.warnings.iter().for_each(|warning| self.run.output.warning(warning));
        outcome.stopped.map_or(Ok(()), |refusal| Err(why_not(refusal.into_error())))
    }

    /// Plans which images to remove, by prune's rules, so that an image of this size fits. Also returns how
    /// many bytes must be free then. Fails if removing all images that may be removed would not be enough.
    fn plan_space(&mut self, size: u64, space: SpaceBudget) -> Result<(Inventory, PrunePlan, u64), String> {
        let why_not = |e: anyhow::Error| format!("cannot make space for the image: {e:#}");
        let inventory = self.inventory().map_err(why_not)?;
        if let Some(error) = misplaced(self.dir, &inventory, false) {
            return Err(format!("cannot make space for the image: {}", error.message));
        }
        let promised = space.cached.saturating_sub(self.cached);
        let most = self.settings.max_size.saturating_sub(size).saturating_sub(promised);
        let free = size.saturating_add(space.in_flight).saturating_add(space.reserve);
        let limits = PruneLimits {
            max_size: most,
            target_size: most,
            min_free: Some(free),
            keep: self.spared().map_err(why_not)?,
            ..PruneLimits::default()
        };
        let plan = plan::prune(&inventory, &limits, space.available, self.run.now);
        let reached = plan.victims(&inventory).fold(plan.goal, plan::Goal::without).is_reached();
        if reached && size.saturating_add(promised) <= self.settings.max_size {
            return Ok((inventory, plan, free));
        }
        let (size, max) = (human(size), human(self.settings.max_size));
        Err(format!(
            "the image has {size} and does not fit, even if every image that may be removed were removed \
             (the limit of the cache is {max})"
        ))
    }

    /// Returns the images that must not be removed to make space: those that were fetched or found in the
    /// cache by this run, those that it will still fetch, and those of the configured list.
    fn spared(&self) -> anyhow::Result<HashSet<ImageId>> {
        let wanted = self.pending.iter().chain(self.under_way().map(|running| &running.request));
        let wanted = wanted.map(|request| request.id);
        let queued = Queue::read(self.dir)?.images.into_iter().map(|entry| entry.id);
        let named = wanted.chain(queued).chain(self.held.iter().copied()).map(|id| id.folded());
        Ok(named.chain(self.settings.kept.iter().copied()).collect())
    }
}

/// Returns the reason that an image does not fit.
fn too_large(size: u64, found: &Fit, space: SpaceBudget) -> String {
    let size = human(size);
    match found {
        Fit::DiskShort(short) => format!(
            "the image has {size} and does not fit on the file system: {} are missing ({} are free, of which \
             {} must stay free)",
            human(*short),
            human(space.available),
            human(space.reserve)
        ),
        Fit::OverLimit(over) => format!(
            "the image has {size} and would put the cache {} over its limit of {}",
            human(*over),
            human(space.limit.unwrap_or_default())
        ),
        Fit::Fits => String::new(),
    }
}

/// Returns the images that a plan removes, as steps.
fn removals(inventory: &Inventory, plan: &PrunePlan) -> Vec<Step> {
    let victim = |image: &Image| {
        Foreseen::Removal(PlannedRemoval {
            name: image.id.to_string(),
            size: image.seen.size,
            frees: frees(image),
            last_use: image.last_use(inventory.tracked_by_file()),
            is_orphan: inventory.is_orphan(image),
            reason: plan.reason,
        })
    };
    plan.victims(inventory).map(|image| Step::of(victim(image))).collect()
}
