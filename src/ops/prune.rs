//! Prune: forgets ghosts, then removes least recently used images until the cache is within its limits.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::anyhow;
use serde::Serialize;

use crate::cache::dir::CacheDir;
use crate::cache::execute::{Executor, Pace};
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock;
use crate::cache::outcome::{EntryError, Outcome};
use crate::cache::plan::{self, CleanLimits, Kept, PruneLimits, PrunePlan};
use crate::commands::flags::ChangeArgs;
use crate::database::Purpose;
use crate::exit::{Exit, Failure};
use crate::host::glance::leftovers::room;
use crate::host::glance::open::{
    Cache, is_empty, misplaced, refuse_strange, take_lock, take_stock, unreadable_errors,
};
use crate::host::glance::settings::{Opened, Settings};
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::ops::ids::kept_ids;
use crate::ops::report::{PlanEntry, Run, is_zero};
use crate::ops::{check_stopped, conclude, stopped_by, tell, wait};
use crate::os::space::{available, capacity};
use crate::output::Report;
use crate::output::progress::Bar;
use crate::run::Context;
use crate::units::{Amount, Nanos, count, human, when};

/// What a prune was asked for, besides the cache.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) max_size: Option<Amount>,
    pub(crate) target_size: Option<Amount>,
    pub(crate) min_free: Option<Amount>,
    pub(crate) min_age: Nanos,
    pub(crate) keep: Vec<ImageId>,
    pub(crate) keep_from: Vec<PathBuf>,
    pub(crate) stall_time: Option<crate::units::TimeSpan>,
    pub(crate) forget_all: bool,
    /// Whether a cache within its limit is nothing to do even when its index cannot be known from the settings: the old tool's
    /// cron jobs run without a node URL.
    pub(crate) only_when_over: bool,
}

pub(crate) fn prune(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    wishes: &Wishes,
) -> Result<Exit, Failure> {
    let mut report = PruneReport::default();
    report.run.dry_run = change.dry_run;
    let ended = attempt(context, settings, change, wishes, &mut report);
    tell(context, &mut report, |report| &mut report.run, ended)
}

/// Prunes, and fills in the report, which is told whenever this ends without a failure.
fn attempt(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    wishes: &Wishes,
    report: &mut PruneReport,
) -> Result<Exit, Failure> {
    let keep = kept_ids(&wishes.keep, &wishes.keep_from)?;
    context.start()?;
    let dir = match settings.open()? {
        Opened::Cache(dir) => dir,
        Opened::Nothing(why) => {
            context.output.note(&why);
            return Ok(Exit::Done);
        }
    };
    refuse_strange(settings, &dir)?;
    let limits = limits(settings, &dir, wishes, keep)?;
    report.max_size = limits.max_size;
    let wait = wait(context, change);
    let purpose = if change.dry_run { Purpose::Look } else { Purpose::Change };
    let _lock = if change.dry_run {
        None
    } else if is_empty(&dir)? {
        return Ok(Exit::Done);
    } else {
        let locks = settings.lock_dir(&dir, &context.output)?;
        let locked = take_lock(context, &dir, &locks, lock::PRUNE, &wait, change.skip_if_locked)?;
        match locked.or_end(context, &mut report.run) {
            Ok(lock) => lock,
            Err(exit) => return Ok(exit),
        }
    };

    let mut cache = match take_stock(context, settings, &dir, purpose, &wait) {
        Err(failure)
            if failure.exit == Exit::Usage
                && settings.index_problem.is_none()
                && wishes.only_when_over
                && fits(&dir, &limits)? =>
        {
            context.output.note(&format!("{:#}; the cache is within its limit", failure.error));
            return Ok(Exit::Done);
        }
        result => result?,
    };
    if let Tracking::Unknown(why) = &cache.inventory.tracking {
        return Err(Failure::cannot_start(anyhow!("cannot plan a prune: {why}")));
    }
    for warning in cache.warnings.iter().filter(|_| !cache.inventory.images.is_empty()) {
        context.output.warning(warning);
    }
    report.cache_size_before = cache.inventory.size();
    report.cache_size_after = report.cache_size_before;
    report.run.errors = unreadable_errors(&cache.inventory.unreadable);
    if let Some(error) = misplaced(&dir, &cache.inventory, wishes.forget_all) {
        report.run.errors.push(error);
        if change.dry_run {
            report.run.plan = Some(Vec::new());
        }
        return Ok(conclude(context, &Outcome::default(), &report.run.errors));
    }
    let free = dir.statvfs().map_err(Failure::cannot_start)?;
    let plan = plan::prune(&cache.inventory, &limits, available(&free), context.now);
    if change.dry_run {
        describe(&cache.inventory, &plan, report);
        return Ok(conclude(context, &Outcome::default(), &report.run.errors));
    }

    let mut outcome = execute(context, settings, &dir, &mut cache, &plan, &limits, wishes, &wait);
    check_stopped(&mut outcome)?;
    report.total_files_pruned = outcome.files;
    report.total_bytes_pruned = outcome.bytes;
    report.ghosts_forgotten = outcome.ghosts_forgotten;
    report.cache_size_after =
        report.cache_size_before.saturating_sub(outcome.bytes).saturating_sub(outcome.bytes_gone);
    report.left_alone = outcome.left_alone;
    report.total_files_cleaned = outcome.invalid_files + outcome.stalled_files;
    report.total_bytes_cleaned = outcome.bytes_cleaned;
    report.run.errors.append(&mut outcome.errors);
    report.run.signal = stopped_by(context, &outcome);
    if report.run.signal.is_none() {
        note_unmet(&dir, report, &limits);
    }
    Ok(conclude(context, &outcome, &report.run.errors))
}

/// Whether the files alone are within the limit.
fn fits(dir: &CacheDir, limits: &PruneLimits) -> Result<bool, Failure> {
    let inventory = Inventory::scan(dir, Tracking::ByRow).map_err(Failure::cannot_start)?;
    Ok(inventory.size() <= limits.max_size)
}

#[allow(clippy::too_many_arguments, reason = "one call, to keep the outline of prune readable")]
pub(crate) fn execute(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    cache: &mut Cache,
    plan: &PrunePlan,
    limits: &PruneLimits,
    wishes: &Wishes,
    wait: &Wait,
) -> Outcome {
    // Only a full disk asks for it: a wrong value there must not keep the limit from being held here.
    let stall_time = settings.stall_time(wishes.stall_time).map_or(Nanos::MAX, |setting| setting.value);
    let clean_limits = CleanLimits { stall_time, invalid_grace: 0 };
    let bar = Bar::new(
        &context.output,
        "pruning",
        plan.candidates.len() as u64,
        Some(plan.goal.size.max(plan.goal.free)),
    );
    let mut executor =
        Executor { dir, index: &mut *cache.index, wait, progress: &bar, pace: Pace::default() };
    executor.prune(&cache.inventory, plan, &|| room(context, dir, clean_limits), limits.min_free)
}

/// Works out the limits in bytes.
fn limits(
    settings: &Settings,
    dir: &CacheDir,
    wishes: &Wishes,
    keep: HashSet<ImageId>,
) -> Result<PruneLimits, Failure> {
    let max = settings.max_size(wishes.max_size, dir)?;
    let target_size = wishes.target_size.map_or(max.value, |amount| amount.of(max.value));
    if target_size > max.value {
        return Err(Failure::usage(anyhow!(
            "--target-size is {}, but the limit is {} (set by {}): the target cannot be above it",
            human(target_size),
            human(max.value),
            max.origin
        )));
    }
    let min_free = match wishes.min_free {
        None => None,
        Some(amount) => {
            let capacity = capacity(&dir.statvfs().map_err(Failure::cannot_start)?);
            let wanted = amount.of(capacity);
            if wanted > capacity {
                return Err(Failure::usage(anyhow!(
                    "--min-free is {}, but the whole file system has {}",
                    human(wanted),
                    human(capacity)
                )));
            }
            Some(wanted)
        }
    };
    Ok(PruneLimits { max_size: max.value, target_size, min_free, min_age: wishes.min_age, keep })
}

/// The images that would go, and why.
pub(crate) fn removals<'a>(
    inventory: &'a Inventory,
    plan: &'a PrunePlan,
) -> impl Iterator<Item = PlanEntry> + 'a {
    plan.victims(inventory).map(move |image| {
        let orphan = if inventory.is_orphan(image) { "without a row in the index, and " } else { "" };
        let used = when(image.last_use(inventory.tracked_by_file()));
        let reason = format!("{orphan}least recently used (last use {used})");
        PlanEntry { image_id: image.id.to_string(), action: "remove", reason, bytes: image.seen.size }
    })
}

/// Describes the plan in the report, for a dry run.
fn describe(inventory: &Inventory, plan: &PrunePlan, report: &mut PruneReport) {
    let mut entries = Vec::new();
    for ghost in &inventory.ghosts {
        let reason = "its file is missing".to_owned();
        entries.push(PlanEntry { image_id: ghost.id.to_string(), action: "forget", reason, bytes: 0 });
    }
    for entry in removals(inventory, plan) {
        report.total_files_pruned += 1;
        report.total_bytes_pruned += entry.bytes;
        entries.push(entry);
    }
    for (position, kept) in &plan.kept {
        let image = &inventory.images[*position as usize];
        let reason = match kept {
            Kept::Listed => "named by --keep or --keep-from",
            Kept::Young => "cached or used less than --min-age ago",
        };
        let reason = reason.to_owned();
        entries.push(PlanEntry {
            image_id: image.id.to_string(),
            action: "keep",
            reason,
            bytes: image.seen.size,
        });
    }
    report.ghosts_forgotten = inventory.ghosts.len() as u64;
    report.cache_size_after = report.cache_size_before - report.total_bytes_pruned;
    report.run.plan = Some(entries);
}

/// Adds to the errors which limit does not hold although the run is over.
fn note_unmet(dir: &CacheDir, report: &mut PruneReport, limits: &PruneLimits) {
    let mut unmet = |action, message| {
        let name = dir.path().display().to_string();
        report.run.errors.push(EntryError { name, action, message });
    };
    if report.cache_size_after > limits.max_size {
        let (size, max) = (human(report.cache_size_after), human(limits.max_size));
        unmet(
            "limit",
            format!(
                "the cache still holds {size} of {max}; what is left was used meanwhile, could not be removed or is to be kept"
            ),
        );
    }
    let Some(wanted) = limits.min_free else { return };
    match dir.statvfs().map(|fs| available(&fs)) {
        Ok(free) if free < wanted => {
            let (free, wanted) = (human(free), human(wanted));
            unmet(
                "free",
                format!(
                    "the file system has {free} to spare, not {wanted}; nothing is left that may go and would free any"
                ),
            );
        }
        Ok(_) => {}
        Err(e) => unmet("free", format!("{e:#}")),
    }
}

/// What a prune did, or would do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PruneReport {
    pub(crate) total_files_pruned: u64,
    pub(crate) total_bytes_pruned: u64,
    pub(crate) ghosts_forgotten: u64,
    pub(crate) cache_size_before: u64,
    pub(crate) cache_size_after: u64,
    pub(crate) max_size: u64,
    /// Candidates that were used or changed since the plan was made, and stayed.
    pub(crate) left_alone: u64,
    /// Invalid and stalled files that went first because the disk was full.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_bytes_cleaned: u64,
    #[serde(flatten)]
    pub(crate) run: Run,
}

impl Report for PruneReport {
    fn text(&self) -> String {
        let mut text = self.run.preamble();
        if self.run.skipped.is_some() {
            return text;
        }
        let removed = count(self.total_files_pruned, "image");
        let _ = write!(
            text,
            "prune: {} {removed}, {}; the cache {} {} of {}",
            self.run.verb("removed", "would remove"),
            human(self.total_bytes_pruned),
            self.run.verb("holds", "would hold"),
            human(self.cache_size_after),
            human(self.max_size),
        );
        if self.ghosts_forgotten > 0 {
            let rows = count(self.ghosts_forgotten, "row");
            let _ = write!(text, "; {} {rows} without a file", self.run.verb("forgot", "would forget"));
        }
        if self.total_files_cleaned > 0 {
            let files = count(self.total_files_cleaned, "invalid or stalled file");
            let _ = write!(text, "; removed {files} because the disk was full");
        }
        if self.left_alone > 0 {
            let _ =
                write!(text, "; left {} alone, used or changed meanwhile", count(self.left_alone, "image"));
        }
        text + &self.run.trailer()
    }
}
