//! The common parts of reports: the steps of a plan, the ending of a run, and a line for each cache.
//!
//! Reports are data. They are serialized as JSON and can render themselves as text, but nothing here prints
//! anything.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use super::Change;
use crate::cache::outcome::{Action, EntryError, Outcome};
use crate::cache::plan::{Kept, PruneReason};
use crate::database::refusal::Refusal;
use crate::exit::{Exit, Failure};
use crate::host::Declared;
use crate::host::cache::{Foreseen, Planned, PlannedRemoval, Tally};
use crate::host::gather::Member;
use crate::interrupt::signal_name;
use crate::names::escaped;
use crate::os::mounts::{Mount, mount_of};
use crate::output::Report;
use crate::output::screen::Screen;
use crate::output::table::with_sentences;
use crate::run::Run;
use crate::units::{Nanos, SECOND, count, human, span, when};

/// At most this many steps of a plan are shown on a terminal; the rest is only counted.
const SHOWN: usize = 100;

/// The version of the JSON of `list` and `status`. It changes if a key changes its meaning or its type.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// The thing that a step of a plan is about. In JSON, its key says which it is.
#[derive(Debug, Serialize)]
pub(super) enum Subject {
    /// An image, or the row of one, by its id.
    #[serde(rename = "image_id")]
    Image(String),
    /// Something else, by its name: an entry of a subdirectory such as `invalid/NAME`, a row whose id is no
    /// image id, or a node.
    #[serde(rename = "name")]
    Other(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Subject::Image(name) | Subject::Other(name)) = self;
        f.write_str(name)
    }
}

/// One step of a plan.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// The name of the cache, if the plan covers several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache: Option<String>,
    #[serde(flatten)]
    pub(super) subject: Subject,
    /// `remove`, `forget`, `adopt`, `drop`, `fetch` or `keep`.
    pub(super) action: &'static str,
    pub(super) reason: String,
    /// The size of the entry; `None` if it is not known.
    pub(super) bytes: Option<u64>,
    /// The reason in a few words, for a table that has no space for more.
    #[serde(skip)]
    pub(super) brief: Option<String>,
}

impl Step {
    /// Returns a step of a plan for one cache that is about an image.
    pub(super) fn new(
        action: &'static str,
        image_id: String,
        bytes: impl Into<Option<u64>>,
        reason: impl Into<String>,
    ) -> Self {
        let (subject, reason, bytes) = (Subject::Image(image_id), reason.into(), bytes.into());
        Step { cache: None, subject, action, reason, bytes, brief: None }
    }

    /// Returns a step of a plan for one cache that is about something other than an image.
    pub(super) fn other(action: &'static str, name: String, bytes: u64, reason: impl Into<String>) -> Self {
        Step { subject: Subject::Other(name), ..Step::new(action, String::new(), bytes, reason) }
    }

    /// Returns the step for an entry in the plan for one cache.
    pub(super) fn of(foreseen: Foreseen) -> Self {
        match foreseen {
            Foreseen::Ghost(name) => Step::new("forget", name, 0, "its file is missing"),
            Foreseen::Removal(PlannedRemoval { name, size, last_use, is_orphan, reason, .. }) => {
                let orphan = if is_orphan { "without a row in the index, " } else { "" };
                let (why, used) = (reason.text(), when(last_use));
                let step = Step::new("remove", name, size, format!("{orphan}{why} (last use {used})"));
                match reason {
                    PruneReason::Unusable(why) => Step { brief: Some(why.in_brief().to_owned()), ..step },
                    // Why is the same for all images of a prune, and the name of the option is long.
                    _ => step.briefly(last_use, is_orphan),
                }
            }
            Foreseen::Kept { name, size, why } => Step::new("keep", name, size, reason_to_keep(why)),
        }
    }

    /// Returns the step for an image that is removed from one of several caches.
    fn among(declared: &Declared, victim: PlannedRemoval, now: Nanos) -> Self {
        let PlannedRemoval { name, size, last_use, reason, .. } = victim;
        let unused = span(now.saturating_sub(last_use).max(0));
        let reason = match (reason, &declared.age) {
            (PruneReason::Expired, Some(age)) => {
                format!("expired: not used for {unused}, the age limit is {}", span(age.value))
            }
            _ => {
                let (priority, used) = (declared.priority, when(last_use));
                format!("least recently used in a cache of priority {priority} (last use {used})")
            }
        };
        let step = Step::new("remove", name, size, reason).briefly(last_use, false);
        Step { cache: Some(declared.name.clone()), ..step }
    }

    /// Says the reason for removing an image in a few words: the day of its last use.
    fn briefly(self, last_use: Nanos, is_orphan: bool) -> Self {
        let used = when(last_use);
        let day = used.split('T').next().unwrap_or_default();
        let orphan = if is_orphan { "no row, " } else { "" };
        Step { brief: Some(format!("{orphan}last use {day}")), ..self }
    }

    /// Returns the cells of a table, and the reason in full and in brief.
    fn cells(&self) -> ([String; 4], [String; 2]) {
        let size = self.bytes.map(human).unwrap_or_default();
        let cache = self.cache.clone().unwrap_or_default();
        let brief = self.brief.clone().unwrap_or_else(|| self.reason.clone());
        ([self.action.to_owned(), cache, self.subject.to_string(), size], [self.reason.clone(), brief])
    }
}

/// Returns the reason that an image stays.
pub(super) fn reason_to_keep(why: Kept) -> &'static str {
    match why {
        Kept::Listed => "listed by --keep, --keep-from or keep_from",
        Kept::Young => "cached or used within --min-age",
    }
}

/// A signal that ended a run early. In JSON it appears by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Signal(pub(crate) i32);

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(signal_name(self.0))
    }
}

/// The ending of a change: it decides the exit code, and appears in JSON and in words.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ending {
    pub(super) dry_run: bool,
    /// The plan of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<Vec<Step>>,
    /// Set if the run covers several caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warnings: Option<Vec<String>>,
    pub(crate) errors: Vec<EntryError>,
    /// The reason for doing nothing, if nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) skipped: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<Signal>,
    /// The goals of the run that were not reached, as sentences.
    #[serde(skip)]
    pub(crate) shortfalls: Vec<String>,
    /// Advice about the errors.
    #[serde(skip)]
    pub(crate) hints: Vec<&'static str>,
    /// The sentence that there is no cache directory, if there is none.
    #[serde(skip)]
    pub(super) absent: Option<String>,
}

impl Ending {
    pub(super) fn new(dry_run: bool) -> Self {
        Ending { dry_run, ..Ending::default() }
    }

    /// Adds the errors of an outcome, and the reason if it ended early. Prints its warnings.
    ///
    /// With `fails`, and if nothing was changed yet, this reason is returned as the failure of the run.
    pub(super) fn add(&mut self, run: &Run, outcome: &mut Outcome, fails: bool) -> Result<(), Failure> {
        let is_untouched = outcome.is_untouched();
        self.errors.append(&mut outcome.errors);
        for warning in std::mem::take(&mut outcome.warnings) {
            run.output.warning(&warning);
            self.warnings.iter_mut().for_each(|all| all.push(warning.clone()));
        }
        match outcome.stopped.take() {
            None => {}
            Some(Refusal::Interrupted) => self.stopped(run),
            Some(Refusal::Unknown(e)) if fails && is_untouched => return Err(Failure::cannot_start(e)),
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

    /// Notes the signal that ended the run, if there was one.
    pub(super) fn stopped(&mut self, run: &Run) {
        self.signal = run.interrupt.signal().map(Signal);
    }

    /// Turns a failure that a signal has caused into an ordinary ending, so that the report is still shown.
    /// The same is done with an index that stays locked, if a run that cannot lock is to be skipped.
    pub(super) fn settle(
        &mut self,
        run: &Run,
        change: &Change,
        ended: Result<(), Failure>,
    ) -> Result<(), Failure> {
        match ended {
            Err(_) if run.interrupt.raised() => {
                self.stopped(run);
                Ok(())
            }
            Err(failure) if change.lock_wait.skips(&failure.error) => {
                self.skipped = Some(format!("{:#}", failure.error));
                Ok(())
            }
            ended => ended,
        }
    }

    /// Returns the exit code of the run.
    pub(crate) fn exit(&self) -> Exit {
        match self.signal {
            Some(Signal(number)) => Exit::Signal(number),
            None if self.errors.is_empty() && self.shortfalls.is_empty() => Exit::Done,
            None => Exit::Incomplete,
        }
    }

    /// Returns the first verb, or the second one in a dry run.
    pub(super) fn verb<'a>(&self, did: &'a str, would: &'a str) -> &'a str {
        if self.dry_run { would } else { did }
    }

    /// Returns the plan of a dry run as text, or nothing if there is none: a table on a terminal, which has
    /// other entries only counted after the first [`SHOWN`], and sentences elsewhere.
    pub(crate) fn plan_on(&self, screen: &Screen, is_verbose: bool) -> String {
        let steps = self.plan.as_deref().unwrap_or_default();
        let mut text = String::new();
        let Some(width) = screen.width else {
            for Step { cache, subject, action, reason, bytes, .. } in steps {
                let cache = cache.as_ref().map(|cache| format!("{cache} ")).unwrap_or_default();
                let size = bytes.map(|bytes| format!(" ({})", human(bytes))).unwrap_or_default();
                let _ = writeln!(text, "would {action} {cache}{subject}{size}: {reason}");
            }
            return text;
        };
        if steps.is_empty() {
            return text;
        }
        let shown = if is_verbose { steps.len() } else { steps.len().min(SHOWN) };
        let rows: Vec<_> = steps[..shown].iter().map(Step::cells).collect();
        let cache = if steps.iter().any(|step| step.cache.is_some()) { "CACHE" } else { "" };
        let size = if rows.iter().any(|([_, _, _, size], _)| !size.is_empty()) { "SIZE" } else { "" };
        let is_image = |step: &Step| matches!(step.subject, Subject::Image(_));
        let subject = if steps.iter().all(is_image) { "IMAGE" } else { "ENTRY" };
        text = with_sentences(["ACTION", cache, subject, size], &rows, width);
        if shown < steps.len() {
            let _ = writeln!(text, "... and {} more; -v lists all of them", steps.len() - shown);
        }
        text.push('\n');
        text
    }

    /// Returns the reason for doing nothing, if nothing was done, as the line before the summary.
    pub(super) fn preamble(&self) -> String {
        self.skipped.as_ref().map(|why| format!("nothing was done: {why}\n")).unwrap_or_default()
    }

    /// Returns the line that replaces the summary of one cache, if the run did nothing.
    pub(super) fn did_nothing(&self) -> Option<String> {
        let absent = || self.absent.as_ref().map(|why| format!("nothing to do: {why}\n"));
        self.skipped.is_some().then(|| self.preamble()).or_else(absent)
    }

    /// Returns the end of the summary's line: the number of entries that failed, and the signal that ended
    /// the run.
    pub(super) fn trailer(&self) -> String {
        // Other errors are about the run: a limit that is exceeded, an index that refuses a change.
        let is_entry = |error: &&EntryError| matches!(error.action, Action::Look | Action::Remove);
        let failed = match self.errors.iter().filter(is_entry).count() {
            0 => String::new(),
            number => format!("; {} failed", count(number as u64, "entry")),
        };
        failed + &self.line_end()
    }

    /// Returns the signal that ended the run, if there was one, and a newline.
    pub(super) fn line_end(&self) -> String {
        match self.signal {
            Some(Signal(number)) => format!("; stopped by {}\n", signal_name(number)),
            None => "\n".to_owned(),
        }
    }
}

/// A report of a change.
pub(crate) trait ChangeReport: Report {
    fn ending(&self) -> &Ending;

    /// True if the errors were already printed during the run.
    fn errors_were_reported(&self) -> bool {
        false
    }
}

/// One cache in a report. Sizes are bytes.
#[derive(Debug, Serialize)]
pub(super) struct CacheLine {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) priority: u32,
    pub(super) directory: String,
    pub(super) directory_set_by: String,
    /// The mount point.
    pub(super) file_system: String,
    /// The sizes of all images, or `None` if they were not looked at: a clean of a Glance cache does not.
    pub(super) size: Option<u64>,
    pub(super) limit: u64,
    pub(super) limit_set_by: String,
    /// Seconds, or null if its images do not expire.
    pub(super) age_limit: Option<i64>,
    /// Images in use. The bytes of this tally and of the following ones are disk space.
    pub(super) in_use: Option<Tally>,
    /// Images that may be removed now.
    pub(super) reclaimable: Option<Tally>,
    /// Images that are too young to be removed, or are listed to be kept.
    pub(super) kept: Option<Tally>,
    pub(super) leftovers: Tally,
    pub(super) foreign: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) files_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) bytes_pruned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) bytes_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) ghosts_forgotten: u64,
}

/// True for zero. Counters that are zero are left out of some reports.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl CacheLine {
    pub(super) fn of(member: &Member<'_>) -> Self {
        let Declared { name, kind, priority, directory, size, age } = &member.declared;
        let stock = &member.stock;
        CacheLine {
            name: name.clone(),
            kind: kind.name(),
            priority: *priority,
            directory: directory.value.display().to_string(),
            directory_set_by: directory.origin.to_string(),
            file_system: shown_point(mount_of(&directory.value).as_ref()),
            size: stock.size,
            limit: member.limit(),
            limit_set_by: size.origin.to_string(),
            age_limit: age.as_ref().map(|age| age.value / SECOND),
            in_use: stock.is_tallied.then_some(stock.in_use),
            reclaimable: stock.is_tallied.then_some(stock.reclaimable),
            kept: stock.is_tallied.then_some(stock.kept),
            leftovers: stock.leftovers,
            foreign: stock.size.map(|_| stock.foreign.clone()),
            files_pruned: 0,
            bytes_pruned: 0,
            files_cleaned: 0,
            bytes_cleaned: 0,
            ghosts_forgotten: 0,
        }
    }

    /// Fills in the outcome of a run.
    fn add(&mut self, outcome: &Outcome) {
        self.files_pruned = outcome.files;
        self.bytes_pruned = outcome.bytes;
        self.files_cleaned = outcome.invalid_files + outcome.stalled_files;
        self.bytes_cleaned = outcome.bytes_cleaned;
        self.ghosts_forgotten = outcome.ghosts_forgotten;
        let gone = outcome.bytes.saturating_add(outcome.bytes_gone);
        self.size = self.size.map(|size| size.saturating_sub(gone));
    }

    pub(super) fn is_over(&self) -> bool {
        self.size.is_some_and(|size| size > self.limit)
    }

    /// Returns the age limit in words.
    pub(super) fn age(&self) -> String {
        self.age_limit.map_or_else(|| "-".to_owned(), |seconds| span(seconds.saturating_mul(SECOND)))
    }
}

/// Returns the mount point in words.
pub(super) fn shown_point(mount: Option<&Mount>) -> String {
    mount.map_or_else(|| "unknown".to_owned(), |mount| escaped(mount.point.as_bytes()))
}

/// The common part of reports about changes to several caches.
#[derive(Debug, Default, Serialize)]
pub(super) struct HostRun {
    /// Images that stayed because they were used or changed after the plan was made.
    pub(super) left_alone: u64,
    pub(super) caches: Vec<CacheLine>,
    #[serde(flatten)]
    pub(super) ending: Ending,
}

impl HostRun {
    /// Returns the report of a run that has not started.
    pub(super) fn empty(dry_run: bool) -> Self {
        let ending = Ending { warnings: Some(Vec::new()), ..Ending::new(dry_run) };
        HostRun { ending, ..HostRun::default() }
    }

    /// Returns the report of a run that has not yet changed these caches.
    pub(super) fn new(
        members: &[Member<'_>],
        warnings: &[String],
        errors: Vec<EntryError>,
        dry_run: bool,
    ) -> Self {
        let ending = Ending { warnings: Some(warnings.to_vec()), errors, ..Ending::new(dry_run) };
        HostRun { left_alone: 0, caches: members.iter().map(CacheLine::of).collect(), ending }
    }

    /// Fills in the plan of a dry run: the rows to forget and the images to remove, each with the position of
    /// its cache.
    pub(super) fn would_prune(
        &mut self,
        members: &[Member<'_>],
        foreseen: impl IntoIterator<Item = (usize, Foreseen)>,
        now: Nanos,
    ) {
        let mut plan = Vec::new();
        for (cache, entry) in foreseen {
            let (line, declared) = (&mut self.caches[cache], &members[cache].declared);
            match entry {
                Foreseen::Ghost(_) => {
                    line.ghosts_forgotten += 1;
                    plan.push(Step { cache: Some(declared.name.clone()), ..Step::of(entry) });
                }
                Foreseen::Removal(victim) => {
                    line.files_pruned += 1;
                    line.bytes_pruned = line.bytes_pruned.saturating_add(victim.size);
                    line.size = line.size.map(|size| size.saturating_sub(victim.size));
                    plan.push(Step::among(declared, victim, now));
                }
                Foreseen::Kept { .. } => {}
            }
        }
        self.ending.plan = Some(plan);
    }

    /// Fills in the plan of a dry run: the files that crashed downloads left.
    pub(super) fn would_clean(&mut self, members: &[Member<'_>]) {
        let mut plan = Vec::new();
        for (member, line) in members.iter().zip(&mut self.caches) {
            for remains in member.cache.remains() {
                line.files_cleaned += remains.files;
                line.bytes_cleaned += remains.bytes;
                let step = Step::other("remove", remains.name, remains.bytes, remains.reason);
                plan.push(Step { cache: Some(member.declared.name.clone()), ..step });
            }
        }
        self.ending.plan = Some(plan);
    }

    /// Fills in the outcomes, in the order of the caches.
    pub(super) fn did(&mut self, run: &Run, members: &[Member<'_>], outcomes: Vec<Outcome>) {
        for ((member, line), mut outcome) in members.iter().zip(&mut self.caches).zip(outcomes) {
            line.add(&outcome);
            self.left_alone += outcome.left_alone;
            let errors = std::mem::take(&mut outcome.errors);
            self.ending.errors.extend(errors.into_iter().map(|error| member.located(error)));
            // If one cache of several stops early, this is an error, but the run does not fail.
            let _ = self.ending.add(run, &mut outcome, false);
        }
        // A signal may have come while the run waited for locks.
        if run.interrupt.raised() {
            self.ending.stopped(run);
        }
    }

    pub(super) fn sum(&self, figure: fn(&CacheLine) -> u64) -> u64 {
        self.caches.iter().map(figure).fold(0, u64::saturating_add)
    }

    /// Notes the caches that are still over their limit, unless a signal ended the run. `rests` has the
    /// reasons, in the order of the caches.
    pub(super) fn note_over_limit(&mut self, rests: &[Rest]) {
        if self.ending.signal.is_some() {
            return;
        }
        let over = self.caches.iter().zip(rests).filter(|(line, _)| line.is_over()).map(|(line, rest)| {
            format!(
                "{} ({}) is still over its limit: {} of {}{}",
                line.name,
                line.directory,
                human_or_unknown(line.size),
                human(line.limit),
                rest.reasons()
            )
        });
        self.ending.shortfalls = over.collect();
    }
}

/// The images that a prune left, although it did not reach its goal, by reason.
#[derive(Debug, Default)]
pub(super) struct Rest {
    listed: Tally,
    young: Tally,
    /// Images in use. Only Ironic's caches know them.
    in_use: Tally,
    /// The number of images that were used or changed after the plan was made.
    changed: u64,
    /// The number of images that could not be removed.
    failed: u64,
    ended_early: bool,
}

impl Rest {
    /// Returns the images that the plan for a cache leaves.
    pub(super) fn planned(member: &Member<'_>, planned: &Planned) -> Self {
        let mut rest = Rest { in_use: member.stock.in_use, ..Rest::default() };
        for (why, size) in member.cache.kept(planned) {
            match why {
                Kept::Listed => rest.listed.add(size),
                Kept::Young => rest.young.add(size),
            }
        }
        rest
    }

    /// Adds the images that the run left besides.
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.changed = outcome.left_alone;
        self.failed = outcome.errors.iter().filter(|error| error.action == Action::Remove).count() as u64;
        self.ended_early = outcome.stopped.is_some() || outcome.rows_left > 0;
    }

    /// Returns the reasons in brackets, or nothing if there is none.
    pub(super) fn reasons(&self) -> String {
        let tallies = [
            (self.listed, reason_to_keep(Kept::Listed)),
            (self.young, reason_to_keep(Kept::Young)),
            (self.in_use, "in use"),
        ];
        let tallies = tallies.into_iter().filter(|(tally, _)| tally.count > 0);
        let mut reasons: Vec<String> = tallies
            .map(|(tally, why)| format!("{}, {}, {why}", count(tally.count, "image"), human(tally.bytes)))
            .collect();
        for (number, why) in
            [(self.changed, "used or changed during the run"), (self.failed, "that could not be removed")]
        {
            if number > 0 {
                reasons.push(format!("{} {why}", count(number, "image")));
            }
        }
        if self.ended_early {
            reasons.push("the run ended early".to_owned());
        }
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
    }
}

/// Formats a size for people, also one that is not known.
pub(super) fn human_or_unknown(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), human)
}

#[cfg(test)]
pub(super) mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::cache::usable::Unusable;
    use crate::output::{Format, Output, Verbosity};

    /// A cache that holds 3 KiB of 2 KiB, and of whose images nothing is known but that.
    pub(in crate::ops) fn line(name: &str) -> CacheLine {
        CacheLine {
            name: name.to_owned(),
            kind: "glance",
            priority: 0,
            directory: format!("/{name}"),
            directory_set_by: "a test".to_owned(),
            file_system: "/".to_owned(),
            size: Some(3072),
            limit: 2048,
            limit_set_by: "a test".to_owned(),
            age_limit: None,
            in_use: None,
            reclaimable: None,
            kept: None,
            leftovers: Tally::default(),
            foreign: None,
            files_pruned: 0,
            bytes_pruned: 0,
            files_cleaned: 0,
            bytes_cleaned: 0,
            ghosts_forgotten: 0,
        }
    }

    fn error(action: Action) -> EntryError {
        EntryError { name: "an entry".to_owned(), action, message: "refused".to_owned() }
    }

    #[test]
    fn a_line_has_the_outcome_of_its_cache() {
        let outcome = Outcome {
            files: 2,
            bytes: 1000,
            bytes_gone: 24,
            invalid_files: 3,
            stalled_files: 4,
            bytes_cleaned: 50,
            ghosts_forgotten: 6,
            ..Outcome::default()
        };
        let mut lines = vec![line("one"), line("other")];
        lines[0].add(&outcome);
        lines[1].add(&outcome);
        assert_eq!((lines[0].files_pruned, lines[0].bytes_pruned, lines[0].size), (2, 1000, Some(2048)));
        assert_eq!((lines[0].files_cleaned, lines[0].bytes_cleaned, lines[0].ghosts_forgotten), (7, 50, 6));
        let run = HostRun { caches: lines, ..HostRun::default() };
        assert_eq!((run.sum(|line| line.files_pruned), run.sum(|line| line.bytes_cleaned)), (4, 100));
    }

    #[test]
    fn only_counters_that_are_zero_are_left_out_of_a_line() {
        let has = |line: &CacheLine| {
            let line = serde_json::to_value(line).unwrap();
            ["files_pruned", "bytes_pruned", "files_cleaned", "bytes_cleaned", "ghosts_forgotten"]
                .map(|counter| line.get(counter).is_some())
        };
        assert_eq!(has(&line("one")), [false; 5]);
        let done = CacheLine { files_pruned: 1, bytes_cleaned: 1, ..line("one") };
        assert_eq!(has(&done), [true, false, false, true, false]);
    }

    #[test]
    fn a_cache_that_holds_more_than_its_limit_is_named_unless_a_signal_came() {
        let at_limit = || CacheLine { size: Some(2048), ..line("full") };
        let unknown = || CacheLine { size: None, ..line("unknown") };
        assert!(line("over").is_over() && !at_limit().is_over() && !unknown().is_over());
        let mut run = HostRun { caches: vec![at_limit(), line("over"), unknown()], ..HostRun::default() };
        let rests = || [Rest::default(), Rest { failed: 1, ..Rest::default() }, Rest::default()];
        run.note_over_limit(&rests());
        let expected =
            "over (/over) is still over its limit: 3 KiB of 2 KiB (1 image that could not be removed)";
        assert_eq!(run.ending.shortfalls, [expected]);
        assert_eq!(run.ending.exit(), Exit::Incomplete);
        let mut stopped = HostRun { caches: vec![line("over")], ..HostRun::default() };
        stopped.ending.signal = Some(Signal(15));
        stopped.note_over_limit(&rests());
        assert_eq!(stopped.ending.shortfalls, [""; 0]);
        assert_eq!((stopped.ending.exit(), Ending::default().exit()), (Exit::Signal(15), Exit::Done));
    }

    #[test]
    fn each_reason_for_which_images_stay_is_given() {
        assert_eq!(Rest::default().reasons(), "");
        let tally = |count| Tally { count, bytes: 1024 };
        let outcome = Outcome {
            left_alone: 4,
            errors: vec![error(Action::Remove), error(Action::Forget), error(Action::Remove)],
            rows_left: 1,
            ..Outcome::default()
        };
        let mut rest = Rest { listed: tally(1), young: tally(2), in_use: tally(3), ..Rest::default() };
        rest.add(&outcome);
        assert_eq!(
            rest.reasons(),
            " (1 image, 1 KiB, listed by --keep, --keep-from or keep_from; 2 images, 1 KiB, cached or used \
             within --min-age; 3 images, 1 KiB, in use; 4 images used or changed during the run; 2 images \
             that could not be removed; the run ended early)"
        );
        rest.add(&Outcome::default());
        assert!(!rest.reasons().contains("during the run") && !rest.reasons().contains("ended early"));
        rest.add(&Outcome { stopped: Some(Refusal::Interrupted), ..Outcome::default() });
        assert!(rest.reasons().ends_with("; the run ended early)"));
    }

    #[test]
    fn the_last_line_counts_entries_that_failed() {
        let mut ending = Ending::new(false);
        assert_eq!(ending.trailer(), "\n");
        ending.errors = [Action::Look, Action::Limit, Action::Remove, Action::Forget].map(error).into();
        assert_eq!(ending.trailer(), "; 2 entries failed\n");
        ending.signal = Some(Signal(15));
        assert_eq!(ending.trailer(), "; 2 entries failed; stopped by SIGTERM\n");
        assert_eq!((ending.verb("removed", "would remove"), ending.preamble()), ("removed", String::new()));
        let skipped = Ending { skipped: Some("it is locked".to_owned()), ..Ending::new(true) };
        assert_eq!(skipped.verb("removed", "would remove"), "would remove");
        assert_eq!(skipped.preamble(), "nothing was done: it is locked\n");
    }

    #[test]
    fn a_long_plan_is_cut_on_a_terminal_only() {
        let step = |number: usize| Step::new("remove", format!("image-{number}"), 1024, "expired");
        let ending = |count| Ending { plan: Some((0..count).map(step).collect()), ..Ending::new(true) };
        let screen = Screen::of_width(100);
        let plan = ending(SHOWN + 1).plan_on(&screen, false);
        assert!(plan.starts_with("ACTION  IMAGE"), "{plan}");
        assert!(plan.ends_with("... and 1 more; -v lists all of them\n\n"), "{plan}");
        assert_eq!(plan.lines().count(), 1 + SHOWN + 2);
        let plan = ending(SHOWN + 1).plan_on(&screen, true);
        assert_eq!(plan.lines().count(), 1 + SHOWN + 1 + 1, "{plan}");
        let plan = ending(SHOWN).plan_on(&screen, false);
        assert_eq!((plan.lines().count(), plan.contains("more")), (1 + SHOWN + 1, false), "{plan}");
        assert_eq!(ending(0).plan_on(&screen, false), "");
        let others = [Step::other("drop", "a row".to_owned(), 0, "it belongs to no image"), step(1)];
        let among = Step { cache: Some("glance".to_owned()), bytes: None, ..step(2) };
        let mixed = Ending { plan: Some(others.into_iter().chain([among]).collect()), ..Ending::new(true) };
        let plan = mixed.plan_on(&screen, false);
        assert!(plan.starts_with("ACTION  CACHE   ENTRY"), "{plan}");
        assert!(plan.lines().next().is_some_and(|titles| titles.contains("SIZE")), "{plan}");
        let unsized_ = Ending { plan: Some(vec![Step { bytes: None, ..step(3) }]), ..Ending::new(true) };
        assert!(!unsized_.plan_on(&screen, false).contains("SIZE"));
    }

    #[test]
    fn a_run_fails_only_if_it_changed_nothing() {
        let run = Run::new("a test", Output::new(Format::Json, Verbosity::Quiet));
        let broken = || Refusal::Broken(anyhow!("the disk is broken"));
        let unknown = || Refusal::Unknown(anyhow!("no answer to the commit"));
        for (refusal, files, fails, expected) in [
            (broken as fn() -> Refusal, 0, true, Some("nothing was changed: the disk is broken")),
            (broken, 1, true, None),
            (broken, 0, false, None),
            (unknown, 0, true, Some("no answer to the commit")),
            (unknown, 1, true, None),
            (unknown, 0, false, None),
        ] {
            let mut outcome = Outcome { files, stopped: Some(refusal()), ..Outcome::default() };
            outcome.warnings.push("a warning".to_owned());
            let mut ending = Ending { warnings: Some(Vec::new()), ..Ending::new(false) };
            let added = ending.add(&run, &mut outcome, fails);
            let failure = added.err().map(|failure| format!("{:#}", failure.error));
            assert_eq!(failure.as_deref(), expected);
            assert_eq!(ending.errors.len(), usize::from(expected.is_none()));
            assert_eq!(ending.warnings, Some(vec!["a warning".to_owned()]));
        }
        let mut stopped = Outcome { stopped: Some(Refusal::Interrupted), ..Outcome::default() };
        let mut ending = Ending::new(false);
        run.interrupt.raise(signal_hook::consts::SIGTERM);
        ending.add(&run, &mut stopped, true).unwrap();
        assert_eq!((ending.signal, ending.errors.len()), (Some(Signal(15)), 0));
    }

    #[test]
    fn a_terminal_shows_why_an_image_goes_before_older_ones() {
        for (reason, is_orphan, brief) in [
            (PruneReason::Unusable(Unusable::Missing), true, "no record in Glance's database"),
            (PruneReason::Unusable(Unusable::Deleted), false, "record deleted"),
            (PruneReason::LeastRecentlyUsed, true, "no row, last use 2026-11-22"),
            (PruneReason::Named, false, "last use 2026-11-22"),
        ] {
            let removal = PlannedRemoval {
                name: "x".to_owned(),
                size: 1,
                frees: 1,
                last_use: 1_795_312_250_000_000_000,
                is_orphan,
                reason,
            };
            assert_eq!(Step::of(Foreseen::Removal(removal)).brief.as_deref(), Some(brief));
        }
    }
}
