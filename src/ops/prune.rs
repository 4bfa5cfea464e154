//! Prune: forgets rows without a file, then removes least recently used images until each cache is within its
//! limits.
//!
//! One cache is handled like a list with one element. The plan is made before anything is removed. A dry run
//! describes the same plan that a real run carries out. The order of rows and files, and the state after a
//! crash, is that of [`crate::cache::execute`] and of the Ironic caches. Nothing is fetched, and foreign
//! files are neither counted nor removed.

use std::collections::HashSet;
use std::fmt::Write as _;

use anyhow::anyhow;
use serde::Serialize;

use super::ids::configured_keep;
use super::report::{ChangeReport, Ending, HostRun, Rest, Step, human_or_unknown, is_zero, reason_to_keep};
use super::{Change, MIN_AGE};
use crate::cache::outcome::{Action, EntryError, Outcome, Progress};
use crate::cache::plan::{Choice, Goal};
use crate::exit::Failure;
use crate::host::cache::{Foreseen, Limits, Planned, Removing, Rules};
use crate::host::gather::{Gathered, Member};
use crate::host::{Host, Scope};
use crate::names::ImageId;
use crate::os::space::available;
use crate::output::Report;
use crate::output::progress::Bar;
use crate::run::Run;
use crate::units::{Amount, Nanos, count, human};

/// The options of a prune.
#[derive(Debug)]
pub(crate) struct PruneRequest {
    pub(crate) change: Change,
    /// The size to prune down to once the cache is over its limit. A percentage refers to the limit. For one
    /// cache only.
    pub(crate) target_size: Option<Amount>,
    /// The space to keep free. A percentage refers to the file system. For one cache only.
    pub(crate) min_free: Option<Amount>,
    /// `None` stands for the default: 0 for one cache, [`MIN_AGE`] for all caches of the host.
    pub(crate) min_age: Option<Nanos>,
    /// Images to keep, each [`ImageId::folded`].
    pub(crate) keep: HashSet<ImageId>,
    /// Forget rows even if most images of the index are missing.
    pub(crate) forget_all: bool,
    /// A download into one of Ironic's caches counts as crashed after this long without a sign of life.
    pub(crate) temp_grace: Nanos,
    pub(crate) choice: Choice,
    /// If the settings do not say which index the cache has, fail only if the cache is over its limit. Cron
    /// jobs of the old pruner run without a node URL.
    pub(crate) only_when_over: bool,
}

impl PruneRequest {
    /// Returns a request that only enforces the configured limits.
    pub(crate) fn new(change: Change) -> Self {
        PruneRequest {
            change,
            target_size: None,
            min_free: None,
            min_age: None,
            keep: HashSet::new(),
            forget_all: false,
            temp_grace: 0,
            choice: Choice::OverLimit,
            only_when_over: false,
        }
    }

    /// Returns the rules by which caches are surveyed. Images of the configured list are kept, too.
    pub(super) fn rules(&self, host: &Host<'_>) -> Result<Rules, Failure> {
        let default = if host.scope == Scope::One { 0 } else { MIN_AGE };
        let mut keep = configured_keep(&host.config)?;
        keep.extend(&self.keep);
        Ok(Rules {
            now: host.run.now,
            min_age: self.min_age.unwrap_or(default),
            grace: self.temp_grace,
            keep,
            changing: !self.change.dry_run,
            forget_all: self.forget_all,
            choice: self.choice.clone(),
            fits_without_index: None,
        })
    }

    /// Returns the limits of a cache in bytes.
    fn limits(&self, member: &Member<'_>) -> Result<Limits, Failure> {
        let limits = member.limits();
        let target = self.target_size.map_or(limits.size, |amount| amount.of(limits.size));
        if target > limits.size {
            return Err(Failure::usage(anyhow!(
                "--target-size {} is above the limit of {} (set by {})",
                human(target),
                human(limits.size),
                member.declared.size.origin
            )));
        }
        let min_free = self.min_free.map(|amount| amount.of(member.capacity));
        if let Some(wanted) = min_free.filter(|wanted| *wanted > member.capacity) {
            return Err(Failure::usage(anyhow!(
                "--min-free {} is more than the whole file system, which has {}",
                human(wanted),
                human(member.capacity)
            )));
        }
        Ok(Limits { target, min_free, ..limits })
    }
}

/// Prunes the caches.
pub(crate) fn prune(host: &Host<'_>, request: &PruneRequest) -> Result<PruneReport, Failure> {
    let dry_run = request.change.dry_run;
    let mut report = match host.scope {
        Scope::One => PruneReport::One(Pruned { ending: Ending::new(dry_run), ..Pruned::default() }),
        Scope::All => PruneReport::All(AllPruned::new(HostRun::empty(dry_run))),
    };
    let ended = fill(host, request, &mut report);
    report.ending_mut().settle(host.run, &request.change, ended)?;
    Ok(report)
}

/// Prunes, and fills in the report. The report is shown unless this fails.
fn fill(host: &Host<'_>, request: &PruneRequest, report: &mut PruneReport) -> Result<(), Failure> {
    let run = host.run;
    run.catch_signals()?;
    let mut gathered = Gathered::open(host, None)?;
    let mut rules = request.rules(host)?;
    for member in &gathered.members {
        let limits = request.limits(member)?;
        if let PruneReport::One(one) = report {
            one.max_size = Some(limits.size);
            rules.fits_without_index = request.only_when_over.then_some(limits.size);
        }
    }
    if let (PruneReport::One(one), [missing]) = (&mut *report, &gathered.missing[..]) {
        one.max_size = missing.size.value.bytes();
    }
    if rules.changing {
        gathered.lock()?;
    }
    gathered.survey(&rules)?;
    gathered.report_warnings(run);
    let mut passes = Vec::new();
    for member in &mut gathered.members {
        if run.interrupt.raised() {
            break;
        }
        let limits = request.limits(member)?;
        let planned = member.cache.plan(&rules, &limits)?;
        if let (PruneReport::One(one), Choice::Named(ids)) = (&mut *report, &rules.choice) {
            gathered.errors.extend(one.note_named(run, member, &planned, ids));
        }
        let mut rest = Rest::planned(member, &planned);
        let result = if rules.changing {
            let outcome = carry_out(host, member, planned, &limits);
            rest.add(&outcome);
            PassResult::Done(outcome)
        } else {
            PassResult::Planned(member.cache.describe(&planned))
        };
        passes.push(Pass { result, rest });
    }
    match report {
        PruneReport::One(one) => one.fill(host, request, gathered, passes),
        PruneReport::All(all) => {
            *all = AllPruned::filled(host, request, &gathered, passes);
            Ok(())
        }
    }
}

/// One cache's pass: its result, and the images that stay.
struct Pass {
    result: PassResult,
    rest: Rest,
}

enum PassResult {
    Planned(Vec<Foreseen>),
    Done(Outcome),
}

/// Carries out the plan of one cache, even if no image has to be removed: rows without a file are forgotten
/// in any case.
fn carry_out(host: &Host<'_>, member: &mut Member<'_>, planned: Planned, limits: &Limits) -> Outcome {
    let count = planned.expired.len() + planned.rest.candidates.len();
    let goal = planned.rest.goal;
    let bytes = (goal != Goal::EVERYTHING).then_some(goal.size.max(goal.free));
    let bar = Bar::new(&host.run.output, "pruning", count as u64, bytes);
    let of_cache = bar.of_cache(&member.declared.name);
    let progress: &dyn Progress = if host.scope == Scope::All { &of_cache } else { &bar };
    let mut removing = Removing { interrupt: &host.run.interrupt, progress, outcome: Outcome::default() };
    member.cache.carry_out(planned, limits, &mut removing);
    removing.outcome
}

/// The report of a prune of one cache, with the keys of Glance's `POST /v2/cache/prune`, or of all caches of
/// a host.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum PruneReport {
    One(Pruned),
    All(AllPruned),
}

impl PruneReport {
    fn ending_mut(&mut self) -> &mut Ending {
        match self {
            PruneReport::One(one) => &mut one.ending,
            PruneReport::All(all) => &mut all.run.ending,
        }
    }
}

impl ChangeReport for PruneReport {
    fn ending(&self) -> &Ending {
        match self {
            PruneReport::One(one) => &one.ending,
            PruneReport::All(all) => &all.run.ending,
        }
    }
}

impl Report for PruneReport {
    fn text(&self) -> String {
        match self {
            PruneReport::One(one) => one.text(),
            PruneReport::All(all) => all.text(),
        }
    }
}

/// The report of a prune of one cache.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Pruned {
    total_files_pruned: u64,
    total_bytes_pruned: u64,
    ghosts_forgotten: u64,
    /// The sizes are `None` if the run ended before it looked at the images.
    cache_size_before: Option<u64>,
    cache_size_after: Option<u64>,
    /// `None` if it is a part of a file system that is not there.
    max_size: Option<u64>,
    /// Candidates that stayed because they were used or changed after the plan was made.
    left_alone: u64,
    /// The images of `--image` that are not in the cache, if the cache was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_cached: Option<Vec<String>>,
    /// Invalid and stalled files that were removed first, because the disk was full.
    #[serde(skip_serializing_if = "is_zero")]
    total_files_cleaned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_bytes_cleaned: u64,
    /// Bytes of disk that the plan of a dry run would free.
    #[serde(skip)]
    would_free: u64,
    #[serde(flatten)]
    ending: Ending,
}

impl Pruned {
    /// Fills in the result of the pass over the cache, if there was one.
    fn fill(
        &mut self,
        host: &Host<'_>,
        request: &PruneRequest,
        mut gathered: Gathered<'_>,
        mut passes: Vec<Pass>,
    ) -> Result<(), Failure> {
        self.ending.errors = std::mem::take(&mut gathered.errors);
        self.ending.skipped = gathered.skipped.take();
        self.ending.absent = gathered.absent.take();
        let Some(member) = gathered.members.pop() else {
            if host.run.interrupt.raised() {
                self.ending.stopped(host.run);
                return Ok(());
            }
            if request.change.dry_run {
                self.ending.plan = Some(Vec::new());
            }
            if let (Choice::Named(ids), None) = (&request.choice, &self.ending.skipped) {
                self.note_absent(host.run, ids.iter().copied().collect());
            }
            return Ok(());
        };
        self.cache_size_before = member.stock.size;
        self.cache_size_after = member.stock.size;
        let Some(Pass { result, rest }) = passes.pop() else {
            // A signal came between the survey and the plan.
            self.ending.stopped(host.run);
            return Ok(());
        };
        match result {
            PassResult::Planned(foreseen) => self.would(foreseen),
            PassResult::Done(outcome) => self.did(host.run, outcome)?,
        }
        if self.ending.signal.is_none() && !member.stock.is_misplaced && !member.stock.is_empty {
            match request.choice {
                Choice::OverLimit => self.note_unmet(&member, &request.limits(&member)?, &rest),
                Choice::Named(_) => self.note_left_alone(&member),
                // Images in use are not old, and an image that comes while all are removed is a new one.
                Choice::Unused(_) | Choice::Everything => {}
            }
        }
        Ok(())
    }

    /// Notes the named images that are not in the cache. Returns an error for each that the rules keep.
    fn note_named(
        &mut self,
        run: &Run,
        member: &Member<'_>,
        planned: &Planned,
        ids: &HashSet<ImageId>,
    ) -> Vec<EntryError> {
        let all = || ids.iter().copied().collect();
        self.note_absent(run, if member.stock.is_empty { all() } else { planned.rest.absent.clone() });
        if planned.rest.kept.is_empty() {
            return Vec::new();
        }
        let kept = member.cache.describe(planned).into_iter().filter_map(|entry| match entry {
            Foreseen::Kept { name, why, .. } => Some((name, why)),
            Foreseen::Ghost(_) | Foreseen::Removal(_) => None,
        });
        let refused = |(name, why)| {
            let message = format!("it stays, as it is {}", reason_to_keep(why));
            EntryError { name, action: Action::Prune, message }
        };
        kept.map(refused).collect()
    }

    /// Notes named images that are not in the cache. This is no error: they were to be removed.
    fn note_absent(&mut self, run: &Run, mut absent: Vec<ImageId>) {
        absent.sort_unstable();
        for id in &absent {
            run.output.warning(&format!("image {id} is not in the cache"));
        }
        self.not_cached = Some(absent.iter().map(ImageId::to_string).collect());
    }

    /// Adds an error if named images stayed because they are in use.
    fn note_left_alone(&mut self, member: &Member<'_>) {
        if self.left_alone > 0 {
            let name = member.declared.directory.value.display().to_string();
            let images = count(self.left_alone, "image");
            let message = format!("{images} or rows stay, as they were used or changed during the run");
            self.ending.errors.push(EntryError { name, action: Action::Prune, message });
        }
    }

    /// Fills in the plan of a dry run.
    fn would(&mut self, foreseen: Vec<Foreseen>) {
        for entry in &foreseen {
            match entry {
                Foreseen::Ghost(_) => self.ghosts_forgotten += 1,
                Foreseen::Removal(victim) => {
                    self.would_free = self.would_free.saturating_add(victim.frees);
                    self.total_files_pruned += 1;
                    self.total_bytes_pruned += victim.size;
                }
                Foreseen::Kept { .. } => {}
            }
        }
        self.shrink(self.total_bytes_pruned);
        self.ending.plan = Some(foreseen.into_iter().map(Step::of).collect());
    }

    /// Fills in the outcome of a run.
    fn did(&mut self, run: &Run, mut outcome: Outcome) -> Result<(), Failure> {
        self.ending.add(run, &mut outcome, true)?;
        self.total_files_pruned = outcome.files;
        self.total_bytes_pruned = outcome.bytes;
        self.ghosts_forgotten = outcome.ghosts_forgotten;
        self.shrink(outcome.bytes.saturating_add(outcome.bytes_gone));
        self.left_alone = outcome.left_alone;
        self.total_files_cleaned = outcome.invalid_files + outcome.stalled_files;
        self.total_bytes_cleaned = outcome.bytes_cleaned;
        Ok(())
    }

    /// Notes the size of the cache after this many bytes of images were removed.
    fn shrink(&mut self, bytes: u64) {
        self.cache_size_after = self.cache_size_before.map(|size| size.saturating_sub(bytes));
    }

    /// Adds an error for each limit that is still exceeded at the end of the run. `rest` has the reasons.
    fn note_unmet(&mut self, member: &Member<'_>, limits: &Limits, rest: &Rest) {
        let name = member.declared.directory.value.display().to_string();
        let are_free = self.ending.verb("are", "would be");
        let mut unmet =
            |action, message| self.ending.errors.push(EntryError { name: name.clone(), action, message });
        let reasons = rest.reasons();
        if let Some(size) = self.cache_size_after.filter(|size| *size > limits.size) {
            let (size, max) = (human(size), human(limits.size));
            unmet(Action::Limit, format!("the cache is still over its limit: {size} of {max}{reasons}"));
        }
        let Some(wanted) = limits.min_free else { return };
        match rustix::fs::fstatvfs(member.cache.fd()).map(|fs| available(&fs)) {
            Ok(free) if free.saturating_add(self.would_free) < wanted => {
                let (free, wanted) = (human(free.saturating_add(self.would_free)), human(wanted));
                unmet(
                    Action::Free,
                    format!(
                        "only {free} of the required {wanted} {are_free} free, and no other image may be \
                         removed or would free space{reasons}"
                    ),
                );
            }
            Ok(_) => {}
            Err(e) => unmet(Action::Free, format!("cannot get the free space: {e}")),
        }
    }
}

impl Report for Pruned {
    fn text(&self) -> String {
        let ending = &self.ending;
        if let Some(text) = ending.did_nothing() {
            return text;
        }
        let mut text = String::new();
        let removed = count(self.total_files_pruned, "image");
        let _ = write!(
            text,
            "prune: {} {removed}, {}; ",
            ending.verb("removed", "would remove"),
            human(self.total_bytes_pruned),
        );
        let (size, max) = (self.cache_size_after.map(human), human_or_unknown(self.max_size));
        let _ = match size {
            Some(size) => write!(text, "the cache {} {size} of {max}", ending.verb("holds", "would hold")),
            None => write!(text, "the size of the cache is unknown, its limit is {max}"),
        };
        if self.ghosts_forgotten > 0 {
            let rows = count(self.ghosts_forgotten, "row");
            let _ = write!(text, "; {} {rows} without a file", ending.verb("forgot", "would forget"));
        }
        if self.total_files_cleaned > 0 {
            let files = count(self.total_files_cleaned, "invalid or stalled file");
            let _ = write!(text, "; removed {files} because the disk was full");
        }
        if let Some(absent) = self.not_cached.as_ref().filter(|absent| !absent.is_empty()) {
            let _ = write!(text, "; {} not in the cache", count(absent.len() as u64, "image"));
        }
        if self.left_alone > 0 {
            let images = count(self.left_alone, "image");
            let _ = write!(text, "; kept {images} that were used or changed meanwhile");
        }
        text + &ending.trailer()
    }
}

/// The report of a prune of all caches of a host.
#[derive(Debug, Default, Serialize)]
pub(crate) struct AllPruned {
    total_files_pruned: u64,
    total_bytes_pruned: u64,
    #[serde(flatten)]
    run: HostRun,
}

impl AllPruned {
    fn new(run: HostRun) -> Self {
        AllPruned {
            total_files_pruned: run.sum(|line| line.files_pruned),
            total_bytes_pruned: run.sum(|line| line.bytes_pruned),
            run,
        }
    }

    /// Returns the report of a run that was carried out or planned.
    fn filled(host: &Host<'_>, request: &PruneRequest, gathered: &Gathered<'_>, passes: Vec<Pass>) -> Self {
        let (members, dry_run) = (&gathered.members, request.change.dry_run);
        let mut run = HostRun::new(members, &gathered.warnings, gathered.errors.clone(), dry_run);
        let (mut foreseen, mut outcomes, mut rests) = (Vec::new(), Vec::new(), Vec::new());
        for (position, Pass { result, rest }) in passes.into_iter().enumerate() {
            rests.push(rest);
            match result {
                PassResult::Done(outcome) => outcomes.push(outcome),
                PassResult::Planned(entries) => {
                    foreseen.extend(entries.into_iter().map(|entry| (position, entry)));
                }
            }
        }
        if dry_run {
            run.would_prune(members, foreseen, host.run.now);
        } else {
            run.did(host.run, members, outcomes);
        }
        run.note_over_limit(&rests);
        AllPruned::new(run)
    }
}

impl Report for AllPruned {
    fn text(&self) -> String {
        let mut text = self.run.ending.preamble();
        let verb = self.run.ending.verb("removed", "would remove");
        for line in &self.run.caches {
            let (files, bytes) = (count(line.files_pruned, "image"), human(line.bytes_pruned));
            let (name, size, limit) = (&line.name, human_or_unknown(line.size), human(line.limit));
            let holds = self.run.ending.verb("holds", "would hold");
            let _ = writeln!(text, "prune: {name}: {verb} {files}, {bytes}; it {holds} {size} of {limit}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Signal;
    use super::super::report::tests::line;
    use super::*;
    use crate::output::{Format, Output, Verbosity};

    #[test]
    fn the_summary_of_one_cache_says_what_was_done() {
        let mut pruned = Pruned { max_size: Some(2048), ..Pruned::default() };
        assert_eq!(
            pruned.text(),
            "prune: removed 0 images, 0 B; the size of the cache is unknown, its limit is 2 KiB\n"
        );
        pruned.cache_size_before = Some(3072);
        pruned.shrink(2048);
        (pruned.total_files_pruned, pruned.total_bytes_pruned) = (2, 2048);
        let summary = "prune: removed 2 images, 2 KiB; the cache holds 1 KiB of 2 KiB";
        assert_eq!(pruned.text(), format!("{summary}\n"));
        pruned.ghosts_forgotten = 1;
        pruned.total_files_cleaned = 2;
        pruned.not_cached = Some(vec!["an image".to_owned()]);
        pruned.left_alone = 3;
        assert_eq!(
            pruned.text(),
            format!(
                "{summary}; forgot 1 row without a file; removed 2 invalid or stalled files because the disk \
                 was full; 1 image not in the cache; kept 3 images that were used or changed meanwhile\n"
            )
        );
        pruned.ending.skipped = Some("it is locked".to_owned());
        assert_eq!(pruned.text(), "nothing was done: it is locked\n");
        pruned.shrink(4096);
        assert_eq!(pruned.cache_size_after, Some(0));
    }

    #[test]
    fn what_a_run_did_is_counted() {
        let run = Run::new("a test", Output::new(Format::Json, Verbosity::Quiet));
        let outcome = Outcome {
            files: 2,
            bytes: 1000,
            bytes_gone: 24,
            ghosts_forgotten: 3,
            left_alone: 4,
            invalid_files: 5,
            stalled_files: 6,
            bytes_cleaned: 7,
            ..Outcome::default()
        };
        let mut pruned = Pruned { cache_size_before: Some(3072), ..Pruned::default() };
        pruned.did(&run, outcome).unwrap();
        assert_eq!((pruned.total_files_pruned, pruned.total_bytes_pruned), (2, 1000));
        assert_eq!((pruned.cache_size_after, pruned.ghosts_forgotten, pruned.left_alone), (Some(2048), 3, 4));
        assert_eq!((pruned.total_files_cleaned, pruned.total_bytes_cleaned), (11, 7));
    }

    #[test]
    fn a_dry_run_says_what_would_be_done() {
        let removal = |frees| {
            Foreseen::Removal(crate::host::cache::PlannedRemoval {
                name: "an image".to_owned(),
                size: 1000,
                frees,
                last_use: 0,
                is_orphan: false,
                reason: crate::cache::plan::PruneReason::LeastRecentlyUsed,
            })
        };
        let mut pruned = Pruned { ending: Ending::new(true), ..Pruned::default() };
        (pruned.cache_size_before, pruned.max_size) = (Some(3024), Some(2048));
        pruned.would(vec![Foreseen::Ghost("a row".to_owned()), removal(4096), removal(512)]);
        assert_eq!(
            pruned.text(),
            "prune: would remove 2 images, 1.95 KiB; the cache would hold 1 KiB of 2 KiB; would forget 1 row \
             without a file\n"
        );
        assert_eq!((pruned.would_free, pruned.ending.plan.unwrap().len()), (4608, 3));
    }

    #[test]
    fn the_summary_of_a_host_has_a_line_for_each_cache() {
        let mut run = HostRun::empty(false);
        run.caches = vec![line("one"), line("other")];
        for line in &mut run.caches {
            (line.files_pruned, line.bytes_pruned) = (1, 1024);
        }
        let mut all = AllPruned::new(run);
        assert_eq!((all.total_files_pruned, all.total_bytes_pruned), (2, 2048));
        assert_eq!(
            all.text(),
            "prune: one: removed 1 image, 1 KiB; it holds 3 KiB of 2 KiB\n\
             prune: other: removed 1 image, 1 KiB; it holds 3 KiB of 2 KiB\n"
        );
        let mut report = PruneReport::All(all);
        report.ending_mut().signal = Some(Signal(15));
        assert_eq!(report.ending().signal, Some(Signal(15)));
        assert!(report.text().starts_with("prune: one: removed"));
        all = AllPruned::default();
        assert_eq!(all.text(), "");
    }
}
