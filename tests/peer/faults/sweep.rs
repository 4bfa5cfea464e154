//! Goes through the faults of a scenario, and counts what came of them.

use std::collections::BTreeMap;
use std::io::Write as _;

use crate::support::env::*;

use super::bench::Bench;
use super::scenarios::Scenario;
use super::states::States;

/// The number of faults that a sweep tries unless it has to try all.
const SAMPLE: usize = 48;

/// One thing that goes wrong: the `nth` call of that name in a thread fails, or is the last one.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) call: String,
    pub(super) number: String,
    /// Threads in the order in which they are made.
    pub(super) thread: usize,
    pub(super) nth: usize,
    /// So many calls that do nothing come first: no other thread makes as many.
    pub(super) shift: usize,
    /// The error, or `None` for a kill.
    pub(super) error: Option<&'static str>,
    /// The call as strace shows it, without a fault.
    pub(super) line: String,
}

pub(super) fn sweep(scenario: &Scenario) {
    let bench = Bench::new(scenario);
    let (expected, mut faults) = bench.faults();
    let wanted = std::env::var("GLANCE_CACHE_TEST_FAULTS").ok();
    let stride = if wanted.is_some() { 1 } else { (faults.len() / SAMPLE).max(1) };
    let is_wanted = |call: &str| {
        wanted.as_ref().is_none_or(|calls| calls == "all" || calls.split(',').any(|wanted| wanted == call))
    };
    faults.retain(|fault| is_wanted(&fault.call));
    let mut totals = Totals::default();
    let mut states = States::default();
    for fault in faults.iter().step_by(stride) {
        bench.restore();
        let run = bench.run_with(fault);
        if !bench.was_injected() || run.stderr.contains(" alternative stack") {
            // What other processes and threads do decides how often some calls are made; the runtime's may be
            // hit instead.
            totals.unreached += 1;
            continue;
        }
        let mut wrong = bench.judge(fault, &run, &expected);
        states.note(&bench, fault);
        wrong.extend(bench.go_on());
        totals.note(fault, &wrong, &run);
    }
    states.show_to_glance(&bench, &mut totals);
    totals.tell(scenario, faults.len());
    let tried = totals.errors + totals.kills;
    assert!(totals.unreached <= tried, "most faults did not happen: may strace not inject them here?");
    assert_eq!(totals.broken, 0, "faults did harm: they are told above");
}

#[derive(Default)]
pub(super) struct Totals {
    pub(super) errors: usize,
    pub(super) kills: usize,
    pub(super) unreached: usize,
    pub(super) states: usize,
    pub(super) codes: BTreeMap<i32, usize>,
    pub(super) broken: usize,
}

impl Totals {
    pub(super) fn note(&mut self, fault: &Fault, wrong: &[String], run: &Run) {
        *(if fault.error.is_some() { &mut self.errors } else { &mut self.kills }) += 1;
        *self.codes.entry(run.code).or_default() += 1;
        if !wrong.is_empty() {
            let what = fault.error.unwrap_or("KILL");
            self.broken(&format!(
                "{what} at {} number {} of thread {}: {}\n  {}\n  code {}, stdout {:?}, stderr {:?}",
                fault.call,
                fault.nth,
                fault.thread,
                fault.line,
                wrong.join("\n  "),
                run.code,
                run.stdout,
                run.stderr
            ));
        }
    }

    pub(super) fn tell(&self, scenario: &Scenario, possible: usize) {
        let tried = self.errors + self.kills;
        let line = format!(
            "faults: {}: {tried} of {possible} tried ({} errors, {} kills), {} held; exit codes {:?}; {} \
             unreached; Glance went on \
             with {} states\n",
            scenario.name,
            self.errors,
            self.kills,
            tried - self.broken.min(tried),
            self.codes,
            self.unreached,
            self.states,
        );
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    /// Tells of harm at once: a whole sweep takes its time.
    pub(super) fn broken(&mut self, what: &str) {
        self.broken += 1;
        let _ = std::io::stderr().write_all(format!("faults: {what}\n").as_bytes());
    }
}
