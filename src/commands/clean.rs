//! `clean`: removes what is invalid or stalled, and with `--repair` mends the index.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use anyhow::anyhow;
use clap::Args;

use super::{
    Context, Opened, Selection, Settings, check_stopped, conclude, host, misplaced, no_cache, stopped_by,
    take_lock, take_stock, tell, unreadable_errors, wait,
};
use crate::cache::dir::{CacheDir, Place};
use crate::cache::entry::Kind;
use crate::cache::execute::{self, EntryError, Executor, Outcome, Pace};
use crate::cache::index::sqlite::Purpose;
use crate::cache::index::{Driver, Refusal};
use crate::cache::inventory::{Inventory, Partials, Tracking};
use crate::cache::lock;
use crate::cache::plan::{self, CleanLimits, CleanPlan, CleanReason, RepairPlan};
use crate::commands::flags::{CacheArgs, ChangeArgs, EXIT_CODES, EXIT_CODES_IN_SHORT, HostArgs, LIMITS};
use crate::exit::{Exit, Failure};
use crate::interrupt::Wait;
use crate::os::locks::process;
use crate::os::writers::{self, Writers};
use crate::output::progress::Bar;
use crate::output::report::{CleanReport, KeptOpen, PlanEntry, RepairReport};
use crate::units::{Nanos, TimeSpan, span, when};

/// Cleans, as the command line says.
pub(crate) fn run(context: &Context, args: CleanArgs) -> Result<Exit, Failure> {
    if args.host.all_caches {
        return host::clean(context, args);
    }
    let CleanArgs { cache, change, stall_time, invalid_grace, repair, forget_all, forget_node, host: _ } =
        args;
    if let Some(url) = forget_node {
        return super::fleet::forget(context, Selection::from(cache), &change, &url);
    }
    let settings = Settings::load(context, Selection::from(cache))?;
    let limits =
        CleanLimits { stall_time: settings.stall_time(stall_time)?.value, invalid_grace: invalid_grace.0 };
    clean(context, &settings, &change, limits, repair.then_some(Repair { forget_all }))
}

/// That the index is to be mended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repair {
    pub(crate) forget_all: bool,
}

pub(crate) fn clean(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    limits: CleanLimits,
    repair: Option<Repair>,
) -> Result<Exit, Failure> {
    let mut report =
        CleanReport { repair: repair.map(|_| RepairReport::default()), ..CleanReport::default() };
    report.run.dry_run = change.dry_run;
    let ended = attempt(context, settings, change, limits, repair, &mut report);
    tell(context, &mut report, |report| &mut report.run, ended)
}

/// Cleans, and fills in the report, which is told whenever this ends without a failure.
fn attempt(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    limits: CleanLimits,
    repair: Option<Repair>,
    report: &mut CleanReport,
) -> Result<Exit, Failure> {
    context.start()?;
    let dir = match settings.open()? {
        Opened::Cache(dir) => dir,
        Opened::Nothing(why) => {
            context.output.note(&why);
            return Ok(Exit::Done);
        }
    };
    refuse_strange(settings, &dir)?;
    let wait = wait(context, change);
    if change.dry_run {
        return dry_run(context, settings, &dir, limits, repair, &wait, report);
    }
    if is_empty(&dir)? {
        return Ok(Exit::Done);
    }

    let locks = settings.lock_dir(&dir, &context.output)?;
    let names = if repair.is_some() { &[lock::CLEAN, lock::PRUNE][..] } else { &[lock::CLEAN] };
    let mut held = Vec::new();
    for name in names {
        let locked = take_lock(context, &dir, &locks, name, &wait, change.skip_if_locked)?;
        match locked.or_end(context, &mut report.run) {
            Ok(lock) => held.push(lock),
            Err(exit) => return Ok(exit),
        }
    }

    let mut outcome = Outcome::default();
    let (plan, mut errors) = plan_clean(context, &dir, limits);
    let bar = Bar::new(&context.output, "cleaning", plan.len() as u64, None);
    execute::clean(&dir, &plan, &wait, &bar, &mut outcome);
    drop(bar);
    // The index last: on a full disk what was just removed makes room for its journal.
    let mended = match repair {
        Some(repair) if outcome.stopped.is_none() => {
            match mend(context, settings, &dir, repair, &wait, &mut outcome) {
                // What was cleaned before is told all the same.
                Err(_) if !outcome.is_untouched() && wait.interrupt.raised() => {
                    outcome.stopped = Some(Refusal::Interrupted);
                    None
                }
                Err(failure) if !outcome.is_untouched() => {
                    let message = format!("{:#}", failure.error);
                    errors.push(EntryError { name: "index".to_owned(), action: "repair", message });
                    None
                }
                mended => Some(mended?),
            }
        }
        _ => None,
    };
    check_stopped(&mut outcome)?;

    report.total_files_cleaned = outcome.invalid_files + outcome.stalled_files;
    report.total_bytes_cleaned = outcome.bytes_cleaned;
    report.invalid_files = outcome.invalid_files;
    report.stalled_files = outcome.stalled_files;
    report.left_alone = outcome.left_alone;
    report.kept_open = kept_open(context, &plan);
    report.repair = repair.map(|_| RepairReport {
        ghosts_forgotten: outcome.ghosts_forgotten,
        orphans_adopted: outcome.orphans_adopted,
        rows_dropped: outcome.rows_dropped,
        orphans_too_young: mended.unwrap_or(0),
    });
    errors.append(&mut outcome.errors);
    report.run.signal = stopped_by(context, &outcome);
    report.run.errors = errors;
    Ok(conclude(context, &outcome, &report.run.errors))
}

/// Refuses a directory that holds things and is no cache. No index is opened for that: a file of its name is enough.
pub(crate) fn refuse_strange(settings: &Settings, dir: &CacheDir) -> Result<(), Failure> {
    if dir.has_subdirectories() {
        return Ok(());
    }
    let inventory = Inventory::scan(dir, Tracking::ByRow).map_err(Failure::cannot_start)?;
    let has_index =
        rustix::fs::lstat(dir.path().join(&settings.sqlite_db.value)).is_ok_and(|stat| stat.st_size > 0);
    let is_empty = inventory.images.is_empty() && inventory.foreign.is_empty();
    // Whether the central index knows these images is found out before anything happens to them.
    let is_central = settings.driver.as_ref().is_some_and(|driver| driver.value == Driver::CentralizedDb)
        && !inventory.images.is_empty();
    if is_empty || has_index || is_central || super::has_attributes(dir, &inventory) {
        return Ok(());
    }
    Err(no_cache(settings, dir))
}

/// Whether the directory holds nothing at all: then nothing is made there, not even a lock file.
pub(crate) fn is_empty(dir: &CacheDir) -> Result<bool, Failure> {
    dir.is_empty().map_err(Failure::cannot_start)
}

/// Scans both subdirectories and plans. Entries that could not be looked at become errors.
pub(crate) fn plan_clean(
    context: &Context,
    dir: &CacheDir,
    limits: CleanLimits,
) -> (CleanPlan, Vec<EntryError>) {
    let mut errors = Vec::new();
    let mut scan = |place| match Partials::scan(dir, place) {
        Ok(partials) => {
            errors.extend(unreadable_errors(&partials.unreadable));
            partials
        }
        // One unreadable subdirectory does not keep the other from being cleaned.
        Err(e) => {
            errors.push(EntryError {
                name: format!("{}/", place.name()),
                action: "list",
                message: e.root_cause().to_string(),
            });
            Partials::default()
        }
    };
    let (invalid, incomplete) = (scan(Place::Invalid), scan(Place::Incomplete));
    let plan = plan_with_writers(context, dir, invalid, incomplete, limits);
    (plan, errors)
}

fn plan_with_writers(
    context: &Context,
    dir: &CacheDir,
    invalid: Partials,
    incomplete: Partials,
    limits: CleanLimits,
) -> CleanPlan {
    let stalled = incomplete
        .entries
        .iter()
        .filter(|e| e.kind == Kind::File && plan::is_stalled(e, limits, context.now));
    let writers = match dir.fd(Place::Incomplete) {
        Some(fd) => writers::find(fd, stalled.map(|e| (e.name.as_name(), e.seen.inode))),
        None => Writers::default(),
    };
    if writers.some_unseen {
        context.output.note(
            "not every process could be looked into: for stalled entries that other users' processes may still write to, the \
             modification time decides",
        );
    }
    plan::clean(invalid, incomplete, limits, context.now, &writers.by_inode)
}

/// What a prune may remove without an index when the disk is full: what this command would.
pub(crate) fn room(context: &Context, dir: &CacheDir, limits: CleanLimits) -> CleanPlan {
    let scan = |place| Partials::scan(dir, place).unwrap_or_default();
    plan_with_writers(context, dir, scan(Place::Invalid), scan(Place::Incomplete), limits)
}

fn kept_open(context: &Context, plan: &CleanPlan) -> Vec<KeptOpen> {
    plan.kept_open
        .iter()
        .map(|(entry, pid)| {
            let name = Place::Incomplete.show(entry.name.as_name());
            context
                .output
                .warning(&format!("{name} is stalled, but {} has it open for writing", process(*pid)));
            KeptOpen { name, pid: *pid }
        })
        .collect()
}

/// Mends the index, and tells how many orphans were too young to adopt.
fn mend(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    repair: Repair,
    wait: &Wait,
    outcome: &mut Outcome,
) -> Result<u64, Failure> {
    let mut cache = take_stock(context, settings, dir, Purpose::Change, wait)?;
    if let Some(error) = misplaced(dir, &cache.inventory, repair.forget_all) {
        outcome.errors.push(error);
        return Ok(0);
    }
    let plan = plan::repair(&cache.inventory, context.now);
    if cache.driver == Some(Driver::Sqlite) && !cache.index.is_transactional() && !plan.adopt.is_empty() {
        // The configured index does not exist yet, or has no table: here, and only here, it is made, as Glance would.
        cache = take_stock(context, settings, dir, Purpose::Create, wait)?;
    }
    let total = cache.inventory.ghosts.len() + cache.inventory.bad_rows.len();
    let bar = Bar::new(&context.output, "repairing", total as u64, None);
    Executor { dir, index: &mut *cache.index, wait, progress: &bar, pace: Pace::default() }.repair(
        &cache.inventory,
        &plan,
        outcome,
    );
    Ok(plan.young.len() as u64)
}

fn dry_run(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    limits: CleanLimits,
    repair: Option<Repair>,
    wait: &Wait,
    report: &mut CleanReport,
) -> Result<Exit, Failure> {
    let (plan, mut errors) = plan_clean(context, dir, limits);
    let mut entries: Vec<PlanEntry> = Vec::new();
    if let Some(repair) = repair {
        let cache = take_stock(context, settings, dir, Purpose::Look, wait)?;
        if let Tracking::Unknown(why) = &cache.inventory.tracking {
            return Err(Failure::cannot_start(anyhow!("cannot plan a repair: {why}")));
        }
        match misplaced(dir, &cache.inventory, repair.forget_all) {
            Some(error) => errors.push(error),
            None => {
                let plan = plan::repair(&cache.inventory, context.now);
                report.repair = Some(repair_entries(&cache.inventory, &plan, &mut entries, context.now));
            }
        }
    }
    for (reason, entry) in plan.entries() {
        let bytes = if entry.kind == Kind::File { entry.seen.size } else { 0 };
        report.total_bytes_cleaned += bytes;
        let age = span(context.now.saturating_sub(entry.seen.mtime).max(0));
        let reason_text = match reason {
            CleanReason::Invalid => {
                report.invalid_files += 1;
                "invalid".to_owned()
            }
            CleanReason::Stalled => {
                report.stalled_files += 1;
                format!("stalled: not written to for {age}")
            }
        };
        entries.push(PlanEntry {
            image_id: reason.place().show(entry.name.as_name()),
            action: "remove",
            reason: reason_text,
            bytes,
        });
    }
    report.total_files_cleaned = report.invalid_files + report.stalled_files;
    report.kept_open = kept_open(context, &plan);
    report.run.plan = Some(entries);
    report.run.errors = errors;
    Ok(conclude(context, &Outcome::default(), &report.run.errors))
}

fn repair_entries(
    inventory: &Inventory,
    plan: &RepairPlan,
    entries: &mut Vec<PlanEntry>,
    now: Nanos,
) -> RepairReport {
    for ghost in &inventory.ghosts {
        let reason = "its file is missing".to_owned();
        entries.push(PlanEntry { image_id: ghost.id.to_string(), action: "forget", reason, bytes: 0 });
    }
    for image in &plan.adopt {
        let reason = format!("the index has no row for it; last use {}", when(image.seen.last_use()));
        entries.push(PlanEntry {
            image_id: image.id.to_string(),
            action: "adopt",
            reason,
            bytes: image.seen.size,
        });
    }
    for row in &inventory.bad_rows {
        let reason = "a row whose id is no UUID can name no image".to_owned();
        entries.push(PlanEntry { image_id: row.shown.clone(), action: "drop", reason, bytes: 0 });
    }
    for image in inventory.orphans().filter(|image| plan.young.contains(&image.id)) {
        let age = span(now.saturating_sub(image.seen.ctime).max(0));
        let reason =
            format!("the index has no row for it, but it is only {age} old: Glance may be publishing it");
        entries.push(PlanEntry {
            image_id: image.id.to_string(),
            action: "keep",
            reason,
            bytes: image.seen.size,
        });
    }
    RepairReport {
        ghosts_forgotten: inventory.ghosts.len() as u64,
        orphans_adopted: plan.adopt.len() as u64,
        rows_dropped: inventory.bad_rows.len() as u64,
        orphans_too_young: plan.young.len() as u64,
    }
}

/// Remove invalid and stalled entries
///
/// Removes every file and symlink in invalid/. Removes those in incomplete/ that have not been written to for the stall
/// time and that no process has open for writing. Needs neither an index nor a database. With --repair, repairs the
/// index, too.
///
/// With --all-caches, does this in every Glance cache of the host, and removes the files that crashed downloads left in
/// Ironic's caches.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct CleanArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Repair the index
    ///
    /// Forgets rows whose file is missing, adds rows for images that have none, and drops rows whose id is not a UUID.
    #[arg(long, conflicts_with = "all_caches")]
    pub(crate) repair: bool,
    /// With --repair: forget rows even if most of the images in the index are missing
    ///
    /// Without this option such an index is left alone, because the directory is probably the wrong one, or its file
    /// system is not mounted.
    #[arg(long, requires = "repair", hide_short_help = true)]
    pub(crate) forget_all: bool,
    /// Only remove a decommissioned node and its rows from the central database
    #[arg(long, value_name = "URL", conflicts_with_all = ["repair", "stall_time", "all_caches"],
        hide_short_help = true)]
    pub(crate) forget_node: Option<String>,
    /// Age at which incomplete entries are removed
    ///
    /// The age is the time since the last write.
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS)]
    pub(crate) stall_time: Option<TimeSpan>,
    /// Age at which invalid entries are removed
    ///
    /// The age is the time since the last write.
    #[arg(long, value_name = "DURATION", default_value = "0", help_heading = LIMITS)]
    pub(crate) invalid_grace: TimeSpan,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}
