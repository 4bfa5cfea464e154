//! Clean: removes invalid and stalled entries, and mends the index on request.

use std::fmt::Write as _;

use anyhow::anyhow;
use serde::Serialize;

use crate::cache::dir::{CacheDir, Place};
use crate::cache::entry::Kind;
use crate::cache::execute::{self, Executor, Pace};
use crate::cache::index::Driver;
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock;
use crate::cache::outcome::{EntryError, Outcome};
use crate::cache::plan::{self, CleanLimits, CleanPlan, CleanReason, RepairPlan};
use crate::commands::flags::ChangeArgs;
use crate::database::{Purpose, Refusal};
use crate::exit::{Exit, Failure};
use crate::host::glance::leftovers::plan_clean;
use crate::host::glance::open::{is_empty, misplaced, refuse_strange, take_lock, take_stock};
use crate::host::glance::settings::{Opened, Settings};
use crate::interrupt::Wait;
use crate::ops::report::{PlanEntry, Run};
use crate::ops::{check_stopped, conclude, stopped_by, tell, wait};
use crate::os::locks::process;
use crate::output::Report;
use crate::output::progress::Bar;
use crate::run::Context;
use crate::units::{Nanos, count, human, span, when};

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

/// What a clean did, or would do.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CleanReport {
    pub(crate) total_files_cleaned: u64,
    pub(crate) total_bytes_cleaned: u64,
    pub(crate) invalid_files: u64,
    pub(crate) stalled_files: u64,
    /// Stalled by their age, but some process has them open for writing.
    pub(crate) kept_open: Vec<KeptOpen>,
    pub(crate) left_alone: u64,
    #[serde(flatten)]
    pub(crate) repair: Option<RepairReport>,
    #[serde(flatten)]
    pub(crate) run: Run,
}

/// What `clean --repair` did to the index.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RepairReport {
    pub(crate) ghosts_forgotten: u64,
    pub(crate) orphans_adopted: u64,
    pub(crate) rows_dropped: u64,
    /// Orphans too young to tell from an image that Glance is just publishing.
    pub(crate) orphans_too_young: u64,
}

/// An incomplete entry that a process still writes to.
#[derive(Debug, Serialize)]
pub(crate) struct KeptOpen {
    pub(crate) name: String,
    pub(crate) pid: i32,
}

impl Report for CleanReport {
    fn text(&self) -> String {
        let mut text = self.run.preamble();
        if self.run.skipped.is_some() {
            return text;
        }
        let _ = write!(
            text,
            "clean: {} {} and {}, {}",
            self.run.verb("removed", "would remove"),
            count(self.invalid_files, "invalid file"),
            count(self.stalled_files, "stalled file"),
            human(self.total_bytes_cleaned),
        );
        if !self.kept_open.is_empty() {
            let _ = write!(
                text,
                "; kept {} that a process writes to",
                count(self.kept_open.len() as u64, "file")
            );
        }
        if let Some(repair) = &self.repair {
            let _ = write!(
                text,
                "; {} {} without a file, {} {}, {} {}",
                self.run.verb("forgot", "would forget"),
                count(repair.ghosts_forgotten, "row"),
                self.run.verb("adopted", "would adopt"),
                count(repair.orphans_adopted, "orphan"),
                self.run.verb("dropped", "would drop"),
                count(repair.rows_dropped, "impossible row"),
            );
        }
        text + &self.run.trailer()
    }
}
