//! Work by the clock: prune, clean and prefetch at their intervals, and a look at the size in between.
//!
//! The same children, lanes and locks as for requests. A pass that fails is a line in the log, whose words
//! are stable, and never the end of the service: the next pass may find the disk, the index or the database
//! back. A pass that the end of the service ends is no failure, and none begins after that. The first pass
//! comes after a random part of its interval, so that the nodes of a fleet do not all begin at once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::operations::{OnBehalf, Operations, Totals};
use super::settings::Intervals;
use super::upkeep::failure_line;
use super::verdict::Failed;
use crate::output::Output;
use crate::output::oslo::Level;
use crate::units::{count, human};

/// The work by the clock.
pub(super) struct Periodic {
    operations: Rc<Operations>,
    output: Rc<Output>,
    /// Passes that failed one after the other: prune, clean, prefetch.
    failures: [Cell<u64>; 3],
}

/// The kind of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClockWork {
    Prune,
    Clean,
    Prefetch,
}

impl ClockWork {
    fn name(self) -> &'static str {
        match self {
            ClockWork::Prune => "prune",
            ClockWork::Clean => "clean",
            ClockWork::Prefetch => "prefetch",
        }
    }
}

/// The time after which the queue is looked at again: the interval at which Glance prefetches.
const QUEUE_LOOK: Duration = Duration::from_secs(300);

/// Starts the work by the clock, and the task that fetches what is in the queue, if requests may put images
/// there.
pub(super) fn start(operations: Rc<Operations>, output: Rc<Output>, intervals: &Intervals, fetches: bool) {
    let periodic = Rc::new(Periodic { operations, output, failures: Default::default() });
    for (pass, interval) in [
        (ClockWork::Prune, intervals.prune),
        (ClockWork::Clean, intervals.clean),
        (ClockWork::Prefetch, intervals.prefetch),
    ] {
        if let Some(interval) = interval {
            spawn_local(Rc::clone(&periodic).repeat(pass, interval));
        }
    }
    if intervals.prune.is_some() {
        spawn_local(Rc::clone(&periodic).watch(intervals.poll));
    }
    if fetches {
        spawn_local(periodic.fetch());
    }
}

impl Periodic {
    async fn repeat(self: Rc<Self>, pass: ClockWork, interval: Duration) {
        sleep(random_part(interval)).await;
        loop {
            self.pass(pass).await;
            sleep(interval).await;
        }
    }

    /// Prunes as soon as the cache is over its limit, whatever the clock says.
    async fn watch(self: Rc<Self>, poll: Duration) {
        loop {
            sleep(poll).await;
            if self.operations.are_ending() {
                return;
            }
            // The pass itself will say what is wrong.
            let _ = self.operations.check_mount().await;
            // If the state is not known, the next pass will say why.
            if self.operations.fill_level().await.is_ok_and(|level| level["over_limit"] == true) {
                self.pass(ClockWork::Prune).await;
            }
        }
    }

    /// Fetches what requests put into the queue, and what is there from before: at the start, and after a
    /// pass that could not fetch all.
    async fn fetch(self: Rc<Self>) {
        loop {
            if self.operations.has_queue().await {
                self.pass(ClockWork::Prefetch).await;
            }
            // A request is not the only reason to look.
            let _ = timeout(QUEUE_LOOK, self.operations.queued()).await;
        }
    }

    /// Does one pass, and reports how it ended.
    async fn pass(&self, pass: ClockWork) {
        if self.operations.are_ending() {
            return;
        }
        // The end of the service waits for the lines of this pass as well.
        let _ongoing = self.operations.ongoing();
        let done: Result<Totals, Failed> = match pass {
            ClockWork::Prune => {
                self.operations.prune(OnBehalf::Clock).await.map(|(_, totals)| totals.unwrap_or_default())
            }
            ClockWork::Clean => self.operations.clean(OnBehalf::Clock).await.map(|(_, totals)| totals),
            ClockWork::Prefetch => self.operations.prefetch().await,
        };
        let name = pass.name();
        if matches!(&done, Err(failed) if failed.is_interrupted) {
            let line = format!("glance-cache maintenance interrupted: the service is ending ({name})");
            self.output.event(Level::Info, &line, &[]);
            return;
        }
        let failures = &self.failures[pass as usize];
        let before = failures.get();
        failures.set(if done.is_ok() { 0 } else { before + 1 });
        match done {
            Ok(totals) => {
                if before > 0 {
                    let line = format!("glance-cache maintenance recovered: after {before} ({name})");
                    self.output.event(Level::Info, &line, &[]);
                }
                if totals.0 > 0 {
                    self.output.event(Level::Info, &done_line(pass, totals), &[]);
                }
            }
            Err(failed) => {
                let level = self.operations.fill_level().await;
                let line = failure_line(name, before + 1, &failed, &level);
                self.output.event(Level::Warning, &line, &[]);
            }
        }
    }
}

/// Returns the line about a pass that changed something.
fn done_line(pass: ClockWork, (files, bytes): Totals) -> String {
    let (name, bytes) = (pass.name(), human(bytes));
    match pass {
        ClockWork::Prune | ClockWork::Clean => {
            format!("glance-cache maintenance: {name} removed {}, {bytes}", count(files, "file"))
        }
        ClockWork::Prefetch => {
            format!("glance-cache maintenance: {name} fetched {}, {bytes}", count(files, "image"))
        }
    }
}

/// Returns a random part of an interval.
fn random_part(interval: Duration) -> Duration {
    let mut random = [0_u8; 2];
    // Without randomness, the first pass is at once.
    let _ = SystemRandom::new().fill(&mut random);
    interval.mul_f64(f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX))
}
