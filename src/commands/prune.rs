//! `prune`: forgets ghosts, then removes least recently used images until the cache is within its limits.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;

use super::clean::{refuse_strange, room};
use super::{
    Cache, Context, Opened, Selection, Settings, check_stopped, conclude, host, misplaced, parse_line,
    stopped_by, take_lock, take_stock, tell, unreadable_errors, wait,
};
use crate::cache::dir::CacheDir;
use crate::cache::execute::{EntryError, Executor, Outcome, Pace};
use crate::cache::index::sqlite::Purpose;
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock;
use crate::cache::plan::{self, CleanLimits, Kept, PruneLimits, PrunePlan};
use crate::commands::flags::{
    ALL_CACHES, CacheArgs, ChangeArgs, EXIT_CODES_IN_SHORT, HostArgs, LIMITS, LimitArgs,
};
use crate::exit::{Exit, Failure};
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::os::space::{available, capacity};
use crate::output::progress::Bar;
use crate::output::report::{PlanEntry, PruneReport};
use crate::output::stdin;
use crate::units::{Amount, Nanos, TimeSpan, human, when};

/// More than a million ids: what is longer is no list of images to keep.
const LONGEST_LIST: u64 = 64 << 20;

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

/// Prunes, as the command line says.
pub(crate) fn run(context: &Context, args: PruneArgs) -> Result<Exit, Failure> {
    if args.room.require.is_some() || args.host.all_caches {
        return host::prune(context, args);
    }
    let settings = Settings::load(context, Selection::from(args.cache))?;
    let wishes = Wishes {
        max_size: args.limit.max_size,
        target_size: args.target_size,
        min_free: args.min_free,
        min_age: args.min_age.map_or(0, |age| age.0),
        keep: args.keep,
        keep_from: args.keep_from,
        stall_time: args.stall_time,
        forget_all: args.forget_all,
        only_when_over: false,
    };
    prune(context, &settings, &args.change, &wishes)
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
    } else if super::clean::is_empty(&dir)? {
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
fn execute(
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

/// Collects the images to keep. A line that is no id fails the run: the image it meant would be lost.
pub(crate) fn kept_ids(keep: &[ImageId], keep_from: &[PathBuf]) -> Result<HashSet<ImageId>, Failure> {
    let mut keep: HashSet<ImageId> = keep.iter().map(ImageId::folded).collect();
    for file in keep_from {
        read_ids(file, &mut keep).map_err(Failure::usage)?;
    }
    Ok(keep)
}

fn read_ids(file: &Path, keep: &mut HashSet<ImageId>) -> anyhow::Result<()> {
    let shown = || format!("cannot read the images to keep from {}", file.display());
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(stdin())
    } else {
        Box::new(File::open(file).with_context(shown)?)
    };
    let mut text = String::new();
    let length = source.take(LONGEST_LIST + 1).read_to_string(&mut text).with_context(shown)?;
    ensure!(length as u64 <= LONGEST_LIST, "{}: it is longer than {}", shown(), human(LONGEST_LIST));
    for (number, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or("").trim();
        if !id.is_empty() {
            let id: ImageId = parse_line(id, &format_args!("{}:{}", file.display(), number + 1))?;
            keep.insert(id.folded());
        }
    }
    Ok(())
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

const EXIT_CODES_OF_PRUNE: &str = "Exit codes:
  0    done, also if there was nothing to do
  1    finished, but something failed, the cache is still over its limit, or
       --require could not free enough
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable or no permission; nothing was
       changed
  130  ended by SIGINT, the index is consistent (143: ended by SIGTERM)";

/// Remove least recently used images until the cache fits its limit
///
/// First forgets rows whose file is missing, whether or not the cache is over its limit. Images without a row are removed
/// in their turn, by the later of their access and modification times.
///
/// With --require, frees space on a file system instead, from all image caches of the host that are on it. With
/// --all-caches, applies to each cache of the host its own limits for age and size. glance-cache-prune(8) explains how
/// caches are declared and in which order they give space.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES_OF_PRUNE)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Once over the limit, prune down to this size
    ///
    /// A percentage refers to the limit.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["all_caches", "require"], help_heading = LIMITS)]
    pub(crate) target_size: Option<Amount>,
    /// Keep at least this much of the file system free
    ///
    /// A percentage refers to the size of the file system.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["all_caches", "require"], help_heading = LIMITS)]
    pub(crate) min_free: Option<Amount>,
    /// Keep images cached or used within this time
    ///
    /// [default: 0, or 10m with --require or --all-caches]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS)]
    pub(crate) min_age: Option<TimeSpan>,
    /// Keep this image; may be repeated
    #[arg(long, value_name = "ID", help_heading = LIMITS)]
    pub(crate) keep: Vec<ImageId>,
    /// Keep the images listed in this file
    ///
    /// The file has one id per line; # starts a comment. - is standard input. May be repeated.
    #[arg(long, value_name = "FILE", help_heading = LIMITS)]
    pub(crate) keep_from: Vec<PathBuf>,
    /// Forget rows even if most of the images in the index are missing
    ///
    /// Without this option such an index is left alone, because the directory is probably the wrong one, or its file
    /// system is not mounted.
    #[arg(long, hide_short_help = true)]
    pub(crate) forget_all: bool,
    /// If the disk is too full to change the index, first remove incomplete entries that are older than this
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, hide_short_help = true)]
    pub(crate) stall_time: Option<TimeSpan>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
}

/// Space that is needed, whichever cache gives it.
#[derive(Debug, Args)]
#[command(next_help_heading = ALL_CACHES)]
pub(crate) struct RoomArgs {
    /// Make sure that this much of a file system is free
    ///
    /// Expired images go first, then by the priority of their cache, until this much is free. If all caches together
    /// cannot free that much, nothing is removed. A percentage refers to the size of the file system.
    #[arg(long, value_name = "SIZE", conflicts_with = "all_caches")]
    pub(crate) require: Option<Amount>,
    /// With --require: a path on that file system
    ///
    /// [default: the Glance cache]
    #[arg(long, value_name = "PATH", requires = "require")]
    pub(crate) on: Option<PathBuf>,
    /// With --require: remove images even if they cannot free enough
    #[arg(long, requires = "require", hide_short_help = true)]
    pub(crate) best_effort: bool,
}
