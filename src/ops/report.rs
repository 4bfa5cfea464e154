//! What the reports of several operations share: the steps of a plan, how a run ended, and one line for each cache.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::cache::outcome::{Action, EntryError, Outcome};
use crate::cache::plan::Kept;
use crate::database::Refusal;
use crate::exit::{Exit, Failure};
use crate::host::Declared;
use crate::host::cache::{Foreseen, PlannedRemoval, Tally};
use crate::host::gather::Member;
use crate::interrupt::signal_name;
use crate::names::escaped;
use crate::os::mounts::mount_of;
use crate::output::Report;
use crate::run::Run;
use crate::units::{Nanos, SECOND, human, span, when};

/// One step of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// The cache it is in, where the plan is about several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<String>,
    /// The image's id; for what is no image, the entry's name.
    pub(crate) image_id: String,
    /// `remove`, `forget`, `adopt`, `drop`, `fetch` or `keep`.
    pub(crate) action: &'static str,
    pub(crate) reason: String,
    pub(crate) bytes: u64,
}

impl Step {
    /// Returns a step of a plan for one cache.
    pub(crate) fn new(action: &'static str, image_id: String, bytes: u64, reason: impl Into<String>) -> Self {
        Step { cache: None, image_id, action, reason: reason.into(), bytes }
    }

    /// Returns the step that comes of an entry of a plan.
    pub(crate) fn of(foreseen: Foreseen) -> Self {
        match foreseen {
            Foreseen::Ghost(name) => Step::new("forget", name, 0, "its file is missing"),
            Foreseen::Removal(PlannedRemoval { name, size, last_use, is_orphan, .. }) => {
                let orphan = if is_orphan { "without a row in the index, and " } else { "" };
                let used = when(last_use);
                Step::new("remove", name, size, format!("{orphan}least recently used (last use {used})"))
            }
            Foreseen::Kept { name, size, why } => Step::new("keep", name, size, kept(why)),
        }
    }

    /// Returns the step that comes of an image that is removed from one of several caches.
    pub(crate) fn among(declared: &Declared, victim: PlannedRemoval, now: Nanos) -> Self {
        let PlannedRemoval { name, size, last_use, is_expired, .. } = victim;
        let unused = span(now.saturating_sub(last_use).max(0));
        let reason = match (is_expired, &declared.age) {
            (true, Some(age)) => {
                format!("expired: not used for {unused}, and {} are allowed", span(age.value))
            }
            _ => {
                let (priority, used) = (declared.priority, when(last_use));
                format!("least recently used of priority {priority}: last use {used}")
            }
        };
        Step { cache: Some(declared.name.clone()), ..Step::new("remove", name, size, reason) }
    }
}

fn kept(why: Kept) -> &'static str {
    match why {
        Kept::Listed => "named by --keep or --keep-from",
        Kept::Young => "cached or used less than --min-age ago",
    }
}

/// A signal that ended a run early. Its name is a value of our JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Signal(pub(crate) i32);

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(signal_name(self.0))
    }
}

/// How a change ended: for the exit code, for JSON, and in words.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ending {
    pub(crate) dry_run: bool,
    /// The plan of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Vec<Step>>,
    /// Set where a run is about several caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnings: Option<Vec<String>>,
    pub(crate) errors: Vec<EntryError>,
    /// Why nothing was done, when that was so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<Signal>,
    /// What was asked for and could not be reached, as sentences.
    #[serde(skip)]
    pub(crate) shortfalls: Vec<String>,
}

impl Ending {
    pub(crate) fn new(dry_run: bool) -> Self {
        Ending { dry_run, ..Ending::default() }
    }

    /// Adds the errors of an outcome, and what ended it early.
    ///
    /// A run of one cache fails with what stopped it, as long as nothing was changed.
    pub(crate) fn add(&mut self, run: &Run, outcome: &mut Outcome, fails: bool) -> Result<(), Failure> {
        let is_untouched = outcome.is_untouched();
        self.errors.append(&mut outcome.errors);
        match outcome.stopped.take() {
            None => {}
            Some(Refusal::Interrupted) => self.stopped(run),
            Some(refusal) if fails && is_untouched => {
                return Err(Failure::cannot_start(refusal.into_error().context("nothing was changed")));
            }
            Some(refusal) => {
                let message = format!("{:#}", refusal.into_error());
                self.errors.push(EntryError { name: "index".to_owned(), action: Action::Change, message });
            }
        }
        Ok(())
    }

    /// Notes that a signal ended the run, if one came.
    pub(crate) fn stopped(&mut self, run: &Run) {
        self.signal = run.interrupt.signal().map(Signal);
    }

    /// Keeps the report of a run that a signal made fail: only a run that fails for another reason has none.
    pub(crate) fn settle(&mut self, run: &Run, ended: Result<(), Failure>) -> Result<(), Failure> {
        match ended {
            Err(_) if run.interrupt.raised() => {
                self.stopped(run);
                Ok(())
            }
            ended => ended,
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self.signal {
            Some(Signal(number)) => Exit::Signal(number),
            None if self.errors.is_empty() && self.shortfalls.is_empty() => Exit::Done,
            None => Exit::Incomplete,
        }
    }

    /// Returns one of two verbs: what was done, or what a dry run would do.
    pub(crate) fn verb<'a>(&self, did: &'a str, would: &'a str) -> &'a str {
        if self.dry_run { would } else { did }
    }

    /// Returns the lines before the summary: the plan of a dry run, or why nothing was done.
    pub(crate) fn preamble(&self) -> String {
        let mut text = String::new();
        for Step { cache, image_id, action, reason, bytes } in self.plan.iter().flatten() {
            let cache = cache.as_ref().map(|cache| format!("{cache} ")).unwrap_or_default();
            let _ = writeln!(text, "would {action} {cache}{image_id} ({}): {reason}", human(*bytes));
        }
        if let Some(why) = &self.skipped {
            let _ = writeln!(text, "nothing was done: {why}");
        }
        text
    }

    /// Returns the end of the summary's line: how many entries failed, and the signal that ended the run.
    pub(crate) fn trailer(&self) -> String {
        // A limit that is not held is no entry that failed.
        let is_entry = |error: &&EntryError| !matches!(error.action, Action::Limit | Action::Free);
        let failed = match self.errors.iter().filter(is_entry).count() {
            0 => String::new(),
            number => format!("; {} failed", crate::units::count(number as u64, "entry")),
        };
        failed + &self.line_end()
    }

    /// Returns the signal that ended the run, if one did, and the end of the line.
    pub(crate) fn line_end(&self) -> String {
        match self.signal {
            Some(Signal(number)) => format!("; stopped by {}\n", signal_name(number)),
            None => "\n".to_owned(),
        }
    }
}

/// A report of a change.
pub(crate) trait ChangeReport: Report {
    fn ending(&self) -> &Ending;

    /// True if the errors were reported while the run went on.
    fn errors_were_reported(&self) -> bool {
        false
    }
}

/// One cache in a report. Sizes are bytes.
#[derive(Debug, Serialize)]
pub(crate) struct CacheLine {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) priority: u32,
    pub(crate) directory: String,
    pub(crate) directory_set_by: String,
    /// The mount point.
    pub(crate) file_system: String,
    /// The sizes of all images.
    pub(crate) size: u64,
    pub(crate) limit: u64,
    pub(crate) limit_set_by: String,
    /// Seconds, or null if its images do not expire.
    pub(crate) age_limit: Option<i64>,
    /// With the bytes of disk they hold, as the following.
    pub(crate) in_use: Tally,
    /// Images that may be removed now.
    pub(crate) reclaimable: Tally,
    /// Images too young to be removed, or listed to be kept.
    pub(crate) kept: Tally,
    pub(crate) leftovers: Tally,
    pub(crate) foreign: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) files_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) bytes_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) bytes_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) ghosts_forgotten: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl CacheLine {
    pub(crate) fn of(member: &Member<'_>) -> Self {
        let Declared { name, kind, priority, directory, size, age } = &member.declared;
        let stock = &member.stock;
        CacheLine {
            name: name.clone(),
            kind: kind.name(),
            priority: *priority,
            directory: directory.value.display().to_string(),
            directory_set_by: directory.origin.to_string(),
            file_system: mounted_at(&directory.value),
            size: stock.size,
            limit: member.limit(),
            limit_set_by: size.origin.to_string(),
            age_limit: age.as_ref().map(|age| age.value / SECOND),
            in_use: stock.in_use,
            reclaimable: stock.reclaimable,
            kept: stock.kept,
            leftovers: stock.leftovers,
            foreign: stock.foreign.clone(),
            files_pruned: 0,
            bytes_pruned: 0,
            files_cleaned: 0,
            bytes_cleaned: 0,
            ghosts_forgotten: 0,
        }
    }

    /// Accounts for what was done to the cache.
    fn add(&mut self, outcome: &Outcome) {
        self.files_pruned = outcome.files;
        self.bytes_pruned = outcome.bytes;
        self.files_cleaned = outcome.invalid_files + outcome.stalled_files;
        self.bytes_cleaned = outcome.bytes_cleaned;
        self.ghosts_forgotten = outcome.ghosts_forgotten;
        self.size = self.size.saturating_sub(outcome.bytes).saturating_sub(outcome.bytes_gone);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.size > self.limit
    }

    pub(crate) fn age(&self) -> String {
        self.age_limit.map_or_else(|| "-".to_owned(), |seconds| span(seconds.saturating_mul(SECOND)))
    }
}

/// Returns where the file system of a path is mounted.
pub(crate) fn mounted_at(path: &Path) -> String {
    mount_of(path).map_or_else(|| "unknown".to_owned(), |mount| escaped(mount.point.as_bytes()))
}

/// What the reports of changes to several caches have in common.
#[derive(Debug, Default, Serialize)]
pub(crate) struct HostRun {
    /// Images that were used or changed since the plan was made, and stayed.
    pub(crate) left_alone: u64,
    pub(crate) caches: Vec<CacheLine>,
    #[serde(flatten)]
    pub(crate) ending: Ending,
}

impl HostRun {
    /// Returns the report of a run that has not begun.
    pub(crate) fn empty(dry_run: bool) -> Self {
        let ending = Ending { warnings: Some(Vec::new()), ..Ending::new(dry_run) };
        HostRun { ending, ..HostRun::default() }
    }

    /// Returns the report of a run that has done nothing yet to these caches.
    pub(crate) fn new(
        members: &[Member<'_>],
        warnings: &[String],
        errors: Vec<EntryError>,
        dry_run: bool,
    ) -> Self {
        let ending = Ending { warnings: Some(warnings.to_vec()), errors, ..Ending::new(dry_run) };
        HostRun { left_alone: 0, caches: members.iter().map(CacheLine::of).collect(), ending }
    }

    /// Makes it the report of a dry run that would remove these images, each from the cache at that position.
    pub(crate) fn would_prune(
        &mut self,
        members: &[Member<'_>],
        victims: impl IntoIterator<Item = (usize, PlannedRemoval)>,
        now: Nanos,
    ) {
        let mut plan = Vec::new();
        for (cache, victim) in victims {
            let line = &mut self.caches[cache];
            line.files_pruned += 1;
            line.bytes_pruned = line.bytes_pruned.saturating_add(victim.size);
            line.size = line.size.saturating_sub(victim.size);
            plan.push(Step::among(&members[cache].declared, victim, now));
        }
        self.ending.plan = Some(plan);
    }

    /// Makes it the report of a dry run that would remove what crashed downloads left.
    pub(crate) fn would_clean(&mut self, members: &[Member<'_>]) {
        let mut plan = Vec::new();
        for (member, line) in members.iter().zip(&mut self.caches) {
            for remains in member.cache.remains() {
                line.files_cleaned += remains.files;
                line.bytes_cleaned += remains.bytes;
                let step = Step::new("remove", remains.name, remains.bytes, remains.reason);
                plan.push(Step { cache: Some(member.declared.name.clone()), ..step });
            }
        }
        self.ending.plan = Some(plan);
    }

    /// Accounts for what was done, in the order of the caches.
    pub(crate) fn did(&mut self, run: &Run, members: &[Member<'_>], outcomes: Vec<Outcome>) {
        for ((member, line), mut outcome) in members.iter().zip(&mut self.caches).zip(outcomes) {
            line.add(&outcome);
            self.left_alone += outcome.left_alone;
            let errors = std::mem::take(&mut outcome.errors);
            self.ending.errors.extend(errors.into_iter().map(|error| member.located(error)));
            // One cache of many is an error, not a failure of the run.
            let _ = self.ending.add(run, &mut outcome, false);
        }
        // A signal may have come while locks were waited for.
        if run.interrupt.raised() {
            self.ending.stopped(run);
        }
    }

    pub(crate) fn sum(&self, figure: fn(&CacheLine) -> u64) -> u64 {
        self.caches.iter().map(figure).fold(0, u64::saturating_add)
    }

    /// Notes which caches are still over their limit, unless a signal is the reason.
    pub(crate) fn note_over_limit(&mut self) {
        if self.ending.signal.is_some() {
            return;
        }
        let over = self.caches.iter().filter(|line| line.is_over()).map(|line| {
            format!(
                "{} ({}) is still over its limit: {} of {} (the rest is in use, too young, protected, or could not be \
                 removed)",
                line.name,
                line.directory,
                human(line.size),
                human(line.limit)
            )
        });
        self.ending.shortfalls = over.collect();
    }
}
