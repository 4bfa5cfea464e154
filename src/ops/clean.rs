//! Clean: removes invalid and stalled entries and the files that crashed downloads left; repairs an index on
//! request.
//!
//! A clean alone opens no index. A repair opens the index after the entries are removed, because on a full
//! disk their space is needed for the index's journal. A crash leaves entries that the next clean removes.

use std::fmt::Write as _;

use serde::Serialize;

use super::Change;
use super::report::{ChangeReport, Ending, HostRun, Step};
use crate::cache::outcome::{Action, EntryError, Outcome, Progress};
use crate::cache::plan::{ADOPTION_AGE, Choice};
use crate::database::refusal::Refusal;
use crate::exit::Failure;
use crate::host::cache::{Removing, Repaired, Rules};
use crate::host::gather::{Gathered, Member};
use crate::host::{Host, Scope, Task};
use crate::os::locks::process;
use crate::output::Report;
use crate::output::progress::Bar;
use crate::units::{Nanos, count, human, span, when};

/// The options of a clean. With [`Task::Repair`], the index is repaired, too.
#[derive(Debug)]
pub(crate) struct CleanRequest {
    pub(crate) change: Change,
    /// Forget rows even if most images of the index are missing.
    pub(crate) forget_all: bool,
    /// A download into one of Ironic's caches counts as crashed after this long without a sign of life.
    pub(crate) temp_grace: Nanos,
}

/// Cleans the caches.
pub(crate) fn clean(host: &Host<'_>, request: &CleanRequest) -> Result<CleanReport, Failure> {
    let dry_run = request.change.dry_run;
    let mut report = match host.scope {
        Scope::One => {
            let repair = (host.task == Task::Repair).then(Repairs::default);
            CleanReport::One(Cleaned { repair, ending: Ending::new(dry_run), ..Cleaned::default() })
        }
        Scope::All => CleanReport::All(AllCleaned::new(HostRun::empty(dry_run))),
    };
    let ended = fill(host, request, &mut report);
    report.ending_mut().settle(host.run, &request.change, ended)?;
    Ok(report)
}

/// Cleans, and fills in the report. The report is shown unless this fails.
fn fill(host: &Host<'_>, request: &CleanRequest, report: &mut CleanReport) -> Result<(), Failure> {
    let run = host.run;
    let rules = Rules {
        now: run.now,
        min_age: 0,
        grace: request.temp_grace,
        keep: std::collections::HashSet::default(),
        changing: !request.change.dry_run,
        forget_all: request.forget_all,
        choice: Choice::OverLimit,
        fits_without_index: None,
    };
    run.catch_signals()?;
    let mut gathered = Gathered::open(host, None)?;
    if rules.changing {
        gathered.lock()?;
    }
    gathered.survey(&rules)?;
    gathered.report_warnings(run);
    for (name, pid) in gathered.members.iter().flat_map(|member| &member.stock.kept_open) {
        let who = process(*pid);
        run.output.warning(&format!("{name} is stalled, but stays: {who} has it open for writing"));
    }
    match report {
        CleanReport::One(one) => one.fill(host, &rules, gathered),
        CleanReport::All(all) => {
            *all = AllCleaned::filled(host, &rules, &mut gathered);
            Ok(())
        }
    }
}

/// Removes the leftovers that the survey of a cache found.
fn remove(host: &Host<'_>, member: &mut Member<'_>) -> Outcome {
    let bar = Bar::new(&host.run.output, "cleaning", member.stock.leftovers.count, None);
    let of_cache = bar.of_cache(&member.declared.name);
    let progress: &dyn Progress = if host.scope == Scope::All { &of_cache } else { &bar };
    let mut removing = Removing { interrupt: &host.run.interrupt, progress, outcome: Outcome::default() };
    if !host.run.interrupt.raised() {
        member.cache.clean(&mut removing);
    }
    removing.outcome
}

/// The report of a clean, of one cache or of all caches of a host.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum CleanReport {
    One(Cleaned),
    All(AllCleaned),
}

impl CleanReport {
    fn ending_mut(&mut self) -> &mut Ending {
        match self {
            CleanReport::One(one) => &mut one.ending,
            CleanReport::All(all) => &mut all.run.ending,
        }
    }
}

impl ChangeReport for CleanReport {
    fn ending(&self) -> &Ending {
        match self {
            CleanReport::One(one) => &one.ending,
            CleanReport::All(all) => &all.run.ending,
        }
    }
}

impl Report for CleanReport {
    fn text(&self) -> String {
        match self {
            CleanReport::One(one) => one.text(),
            CleanReport::All(all) => all.text(),
        }
    }
}

/// The report of a clean of one cache.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cleaned {
    total_files_cleaned: u64,
    total_bytes_cleaned: u64,
    invalid_files: u64,
    stalled_files: u64,
    /// Stalled entries that stayed because a process has them open for writing.
    kept_open: Vec<KeptOpen>,
    /// Entries that stayed because they changed after the plan was made.
    left_alone: u64,
    #[serde(flatten)]
    repair: Option<Repairs>,
    #[serde(flatten)]
    ending: Ending,
}

/// The changes of a repair to the index.
#[derive(Debug, Default, Serialize)]
struct Repairs {
    ghosts_forgotten: u64,
    orphans_adopted: u64,
    rows_dropped: u64,
    /// Orphans that were not adopted, because they are so young that Glance may just be publishing them.
    /// `None` if the index was not looked at.
    orphans_too_young: Option<u64>,
}

/// An incomplete entry that a process still has open for writing.
#[derive(Debug, Serialize)]
struct KeptOpen {
    name: String,
    pid: i32,
}

impl Cleaned {
    /// Cleans or plans, and fills in the result.
    fn fill(&mut self, host: &Host<'_>, rules: &Rules, mut gathered: Gathered<'_>) -> Result<(), Failure> {
        self.ending.errors = std::mem::take(&mut gathered.errors);
        self.ending.skipped = gathered.skipped.take();
        self.ending.absent = gathered.absent.take();
        let Some(mut member) = gathered.members.pop() else {
            if host.run.interrupt.raised() {
                self.ending.stopped(host.run);
            } else if !rules.changing {
                self.ending.plan = Some(Vec::new());
            }
            return Ok(());
        };
        let kept_open = std::mem::take(&mut member.stock.kept_open);
        self.kept_open = kept_open.into_iter().map(|(name, pid)| KeptOpen { name, pid }).collect();
        if rules.changing { self.change(host, rules, &mut member) } else { self.plan(rules, &mut member) }
    }

    /// Fills in the plan of a dry run.
    fn plan(&mut self, rules: &Rules, member: &mut Member<'_>) -> Result<(), Failure> {
        let mut steps = Vec::new();
        if let Some(repair) = &mut self.repair {
            let mut repaired = member.cache.plan_repair(rules)?;
            let is_refused = repaired.refused.is_some();
            self.ending.errors.extend(repaired.refused.take());
            *repair = Repairs {
                ghosts_forgotten: repaired.ghosts.len() as u64,
                orphans_adopted: repaired.adopt.len() as u64,
                rows_dropped: repaired.bad_rows.len() as u64,
                orphans_too_young: (!is_refused).then_some(repaired.too_young.len() as u64),
            };
            steps = steps_of(repaired, rules.now);
        }
        for remains in member.cache.remains() {
            self.total_bytes_cleaned += remains.bytes;
            let files = if remains.is_invalid { &mut self.invalid_files } else { &mut self.stalled_files };
            *files += remains.files;
            steps.push(Step::other("remove", remains.name, remains.bytes, remains.reason));
        }
        self.total_files_cleaned = self.invalid_files + self.stalled_files;
        self.ending.plan = Some(steps);
        Ok(())
    }

    /// Removes the leftovers, repairs the index on request, and fills in the outcome.
    fn change(&mut self, host: &Host<'_>, rules: &Rules, member: &mut Member<'_>) -> Result<(), Failure> {
        let mut outcome = remove(host, member);
        let mut too_young = None;
        if self.repair.is_some() && outcome.stopped.is_none() {
            let bar = Bar::new(&host.run.output, "repairing", 0, None);
            let mut removing = Removing { interrupt: &host.run.interrupt, progress: &bar, outcome };
            let repaired = member.cache.repair(rules, &mut removing);
            outcome = removing.outcome;
            match repaired {
                Ok(repaired) => {
                    let is_done = repaired.refused.is_none();
                    too_young = is_done.then_some(repaired.too_young.len() as u64);
                    self.ending.errors.extend(repaired.refused);
                }
                Err(failure) if !outcome.is_untouched() && host.lock_wait.skips(&failure.error) => {
                    host.run.output.warning(&format!("the index was not repaired: {:#}", failure.error));
                }
                // Something was removed before the repair failed, so the report is still shown.
                Err(_) if !outcome.is_untouched() && host.run.interrupt.raised() => {
                    outcome.stopped = Some(Refusal::Interrupted);
                }
                Err(failure) if !outcome.is_untouched() => {
                    let message = format!("{:#}", failure.error);
                    let name = "index".to_owned();
                    self.ending.errors.push(EntryError { name, action: Action::Repair, message });
                }
                Err(failure) => return Err(failure),
            }
        }
        self.ending.add(host.run, &mut outcome, true)?;
        self.total_files_cleaned = outcome.invalid_files + outcome.stalled_files;
        self.total_bytes_cleaned = outcome.bytes_cleaned;
        self.invalid_files = outcome.invalid_files;
        self.stalled_files = outcome.stalled_files;
        self.left_alone = outcome.left_alone;
        self.repair = self.repair.as_ref().map(|_| Repairs {
            ghosts_forgotten: outcome.ghosts_forgotten,
            orphans_adopted: outcome.orphans_adopted,
            rows_dropped: outcome.rows_dropped,
            orphans_too_young: too_young,
        });
        Ok(())
    }
}

/// Returns the steps of a repair.
fn steps_of(repaired: Repaired, now: Nanos) -> Vec<Step> {
    let ghosts = repaired.ghosts.into_iter().map(|name| Step::new("forget", name, 0, "its file is missing"));
    let adopt = repaired.adopt.into_iter().map(|(name, size, used)| {
        Step::new("adopt", name, size, format!("the index has no row for it; last use {}", when(used)))
    });
    let bad = "its id is not a UUID, so it belongs to no image";
    let bad = repaired.bad_rows.into_iter().map(|name| Step::other("drop", name, 0, bad));
    let young = repaired.too_young.into_iter().map(|(name, size, changed)| {
        let age = span(now.saturating_sub(changed).max(0));
        let reason =
            format!("the index has no row for it, but it is only {age} old: Glance may be publishing it");
        Step::new("keep", name, size, reason)
    });
    ghosts.chain(adopt).chain(bad).chain(young).collect()
}

impl Report for Cleaned {
    fn text(&self) -> String {
        let ending = &self.ending;
        if let Some(text) = ending.did_nothing() {
            return text;
        }
        let mut text = String::new();
        let _ = write!(
            text,
            "clean: {} {} and {}, {}",
            ending.verb("removed", "would remove"),
            count(self.invalid_files, "invalid file"),
            count(self.stalled_files, "stalled file"),
            human(self.total_bytes_cleaned),
        );
        if !self.kept_open.is_empty() {
            let files = count(self.kept_open.len() as u64, "file");
            let _ = write!(text, "; kept {files} that a process has open");
        }
        if let Some(repair) = &self.repair {
            let _ = write!(
                text,
                "; {} {} without a file, {} {}, {} {}",
                ending.verb("forgot", "would forget"),
                count(repair.ghosts_forgotten, "row"),
                ending.verb("adopted", "would adopt"),
                count(repair.orphans_adopted, "orphan"),
                ending.verb("dropped", "would drop"),
                count(repair.rows_dropped, "impossible row"),
            );
            if let Some(young) = repair.orphans_too_young.filter(|young| *young > 0) {
                let (images, age) = (count(young, "orphan"), span(ADOPTION_AGE));
                let left = ending.verb("left", "would leave");
                let _ =
                    write!(text, "; {left} {images} that changed less than {age} ago: run it again later");
            }
        }
        text + &ending.trailer()
    }
}

/// The report of a clean of all caches of a host.
#[derive(Debug, Default, Serialize)]
pub(crate) struct AllCleaned {
    total_files_cleaned: u64,
    total_bytes_cleaned: u64,
    #[serde(flatten)]
    run: HostRun,
}

impl AllCleaned {
    fn new(run: HostRun) -> Self {
        AllCleaned {
            total_files_cleaned: run.sum(|line| line.files_cleaned),
            total_bytes_cleaned: run.sum(|line| line.bytes_cleaned),
            run,
        }
    }

    /// Cleans or plans, and returns the report.
    fn filled(host: &Host<'_>, rules: &Rules, gathered: &mut Gathered<'_>) -> Self {
        let errors = std::mem::take(&mut gathered.errors);
        let mut run = HostRun::new(&gathered.members, &gathered.warnings, errors, !rules.changing);
        if rules.changing {
            let outcomes = gathered.members.iter_mut().map(|member| remove(host, member)).collect();
            run.did(host.run, &gathered.members, outcomes);
        } else {
            run.would_clean(&gathered.members);
        }
        AllCleaned::new(run)
    }
}

impl Report for AllCleaned {
    fn text(&self) -> String {
        let mut text = self.run.ending.preamble();
        let verb = self.run.ending.verb("removed", "would remove");
        for line in &self.run.caches {
            let (files, bytes) = (count(line.files_cleaned, "file"), human(line.bytes_cleaned));
            let _ = writeln!(text, "clean: {}: {verb} {files}, {bytes}", line.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Signal;
    use super::super::report::tests::line;
    use super::*;

    #[test]
    fn the_summary_of_one_cache_says_what_was_done() {
        let mut cleaned = Cleaned { invalid_files: 1, stalled_files: 2, ..Cleaned::default() };
        cleaned.total_bytes_cleaned = 1024;
        let summary = "clean: removed 1 invalid file and 2 stalled files, 1 KiB";
        assert_eq!(cleaned.text(), format!("{summary}\n"));
        cleaned.kept_open = vec![KeptOpen { name: "incomplete/an image".to_owned(), pid: 1 }];
        cleaned.repair = Some(Repairs { ghosts_forgotten: 1, orphans_adopted: 2, ..Repairs::default() });
        assert_eq!(
            cleaned.text(),
            format!(
                "{summary}; kept 1 file that a process has open; forgot 1 row without a file, adopted 2 \
                 orphans, dropped 0 impossible rows\n"
            )
        );
        let mut report = CleanReport::One(cleaned);
        report.ending_mut().signal = Some(Signal(15));
        assert!(report.text().ends_with("; stopped by SIGTERM\n"));
        report.ending_mut().skipped = Some("it is locked".to_owned());
        assert_eq!(report.text(), "nothing was done: it is locked\n");
    }

    #[test]
    fn the_summary_of_a_host_has_a_line_for_each_cache() {
        let mut run = HostRun::empty(true);
        run.caches = vec![line("one"), line("other")];
        for line in &mut run.caches {
            (line.files_cleaned, line.bytes_cleaned) = (1, 1024);
        }
        let all = AllCleaned::new(run);
        assert_eq!((all.total_files_cleaned, all.total_bytes_cleaned), (2, 2048));
        let expected = "clean: one: would remove 1 file, 1 KiB\nclean: other: would remove 1 file, 1 KiB\n";
        assert_eq!(all.text(), expected);
        let mut report = CleanReport::All(all);
        report.ending_mut().signal = Some(Signal(15));
        assert_eq!(report.ending().signal, Some(Signal(15)));
        assert_eq!(report.text(), expected);
    }

    #[test]
    fn the_steps_of_a_repair_have_their_reasons() {
        let repaired = Repaired {
            ghosts: vec!["a ghost".to_owned()],
            adopt: vec![("an orphan".to_owned(), 10, 0)],
            bad_rows: vec!["no UUID".to_owned()],
            too_young: vec![("a young one".to_owned(), 10, 40_000_000_000)],
            ..Repaired::default()
        };
        let steps = steps_of(repaired, 100_000_000_000);
        let actions: Vec<_> = steps.iter().map(|step| (step.action, step.subject.to_string())).collect();
        let expected =
            [("forget", "a ghost"), ("adopt", "an orphan"), ("drop", "no UUID"), ("keep", "a young one")];
        assert_eq!(actions, expected.map(|(action, name)| (action, name.to_owned())));
        assert!(steps[3].reason.contains("it is only 1min old"), "{}", steps[3].reason);
    }
}
