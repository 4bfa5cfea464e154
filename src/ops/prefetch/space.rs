//! Whether an image fits on the disk and into the cache's limit, and making room for it where that is wanted.

use std::collections::HashSet;

use anyhow::anyhow;

use crate::cache::entry::Image;
use crate::cache::execute::Executor;
use crate::cache::inventory::Inventory;
use crate::cache::plan::{self, CleanPlan, PruneLimits, PrunePlan};
use crate::cache::queue::Queue;
use crate::fetch::judge::{Fit, SpaceBudget, fit};
use crate::host::cache::{Foreseen, PlannedRemoval};
use crate::host::glance::open::misplaced;
use crate::names::ImageId;
use crate::ops::prefetch::{Limit, Locked, PrefetchRun, Running};
use crate::ops::report::Step;
use crate::os::space::available;
use crate::units::human;

impl PrefetchRun<'_> {
    /// Makes sure that an image of this size fits, by making room for it where that is wanted.
    pub(crate) fn find_room(&mut self, size: Option<u64>) -> Result<(), String> {
        let Some(size) = size.or((self.request.limit == Limit::Ignored).then_some(0)) else {
            return Err(
                "its record has no size, so nobody can tell whether it fits into the cache".to_owned()
            );
        };
        let space = self.space().map_err(|e| format!("{e:#}"))?;
        let found = fit(size, space);
        if found == Fit::Fits {
            return Ok(());
        }
        if self.request.limit != Limit::MadeSpace {
            return Err(no_room(size, &found, space));
        }
        if self.report.ending.dry_run {
            let (inventory, plan, _) = self.plan_room(size, space)?;
            // What is foreseen counts in it, so it goes on from the plan before.
            self.doomed = removals(&inventory, &plan);
            return Ok(());
        }
        self.make_room(size, space)?;
        let space = self.space().map_err(|e| format!("{e:#}"))?;
        match fit(size, space) {
            Fit::Fits => Ok(()),
            found => Err(no_room(size, &found, space)),
        }
    }

    /// Measures how much the cache holds now: Glance fills it, too.
    pub(crate) fn measure(&mut self) -> anyhow::Result<()> {
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
            reserve: self.means.reserve,
            in_flight: self.under_way().map(Running::to_come).sum::<u64>() + self.foreseen,
            cached: self.cached.saturating_add(promised),
            limit: (self.request.limit != Limit::Ignored).then_some(self.means.max_size),
        })
    }

    /// Prunes for an image that does not fit.
    fn make_room(&mut self, size: u64, space: SpaceBudget) -> Result<(), String> {
        let why_not = |e: anyhow::Error| format!("cannot make room for it: {e:#}");
        // The fetches before may have taken longer than a server keeps an idle connection.
        self.cache.ledger.reach().map_err(|refusal| why_not(refusal.into_error()))?;
        let _lock = match self.prune_lock(true) {
            Ok(Locked::Go(lock)) => lock,
            Ok(_) => return Err(why_not(anyhow!("a signal came while waiting for the lock"))),
            Err(failure) => return Err(why_not(failure.error)),
        };
        let (inventory, plan, free) = self.plan_room(size, space)?;
        let mut executor = Executor { dir: self.dir, ledger: &mut self.cache.ledger, progress: &() };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, Some(free));
        self.report.total_files_pruned += outcome.files;
        self.report.total_bytes_pruned += outcome.bytes;
        self.report.ending.errors.extend(outcome.errors);
        outcome.stopped.map_or(Ok(()), |refusal| Err(why_not(refusal.into_error())))
    }

    /// Plans by prune's rules what goes for an image that does not fit, and how many bytes must be free then. Where even all
    /// that may go would not be enough, nothing does.
    fn plan_room(&mut self, size: u64, space: SpaceBudget) -> Result<(Inventory, PrunePlan, u64), String> {
        let why_not = |e: anyhow::Error| format!("cannot make room for it: {e:#}");
        let inventory = self.inventory().map_err(why_not)?;
        if let Some(error) = misplaced(self.dir, &inventory, false) {
            return Err(format!("cannot make room for it: {}", error.message));
        }
        let promised = space.cached.saturating_sub(self.cached);
        let most = self.means.max_size.saturating_sub(size).saturating_sub(promised);
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
        if reached && size.saturating_add(promised) <= self.means.max_size {
            return Ok((inventory, plan, free));
        }
        let (size, max) = (human(size), human(self.means.max_size));
        Err(format!(
            "it has {size} and does not fit, whatever may be removed for it (the cache may hold {max})"
        ))
    }

    /// What must not go to make room: what was fetched or found in the cache, and what is to be.
    fn spared(&self) -> anyhow::Result<HashSet<ImageId>> {
        let wanted = self.pending.iter().chain(self.under_way().map(|running| &running.request));
        let wanted = wanted.map(|request| request.id);
        let queued = Queue::read(self.dir)?.images.into_iter().map(|entry| entry.id);
        Ok(wanted.chain(queued).chain(self.held.iter().copied()).map(|id| id.folded()).collect())
    }
}

fn no_room(size: u64, found: &Fit, space: SpaceBudget) -> String {
    let size = human(size);
    match found {
        Fit::DiskShort(short) => format!(
            "it has {size}, which the file system has no room for: {} are missing ({} free, of which {} are to be left free)",
            human(*short),
            human(space.available),
            human(space.reserve)
        ),
        Fit::OverLimit(over) => format!(
            "it has {size}, which would put the cache {} over its limit of {}",
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
            last_use: image.last_use(inventory.tracked_by_file()),
            is_orphan: inventory.is_orphan(image),
            is_expired: false,
        })
    };
    plan.victims(inventory).map(|image| Step::of(victim(image))).collect()
}
