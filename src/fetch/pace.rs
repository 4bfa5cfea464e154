//! How fast all fetches together may be, and what ends them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::interrupt::Interrupt;

/// The longest sleep before a signal is looked for again.
const SLICE: Duration = Duration::from_millis(100);
/// What may be caught up after a pause.
const BURST: Duration = Duration::from_millis(250);

/// One for all fetches of a run.
#[derive(Debug)]
pub(crate) struct Pace {
    pub(crate) interrupt: Interrupt,
    /// Bytes per second, if limited.
    rate: Option<u64>,
    /// From when on the next bytes may move.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(interrupt: Interrupt, rate: Option<u64>) -> Self {
        Pace { interrupt, rate, next: Mutex::new(Instant::now()) }
    }

    /// How many bytes to move at a time, of so many: few where few may be moved in a second.
    pub(crate) fn portion(&self, most: u64) -> u64 {
        self.rate.map_or(most, |rate| (rate / 4).clamp(64 << 10, most))
    }

    /// Accounts for bytes that were moved, and waits until more may be.
    pub(crate) fn moved(&self, bytes: u64) -> Result<(), Trouble> {
        let until = self.rate.map(|rate| self.book(bytes, rate));
        loop {
            if self.interrupt.raised() {
                return Err(Trouble::Interrupted);
            }
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    fn book(&self, bytes: u64, rate: u64) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *next = (*next).max(now.checked_sub(BURST).unwrap_or(now)) + cost;
        *next
    }

    /// What an error is once a signal has come: its consequence.
    pub(crate) fn or_interrupted(&self, trouble: Trouble) -> Trouble {
        if self.interrupt.raised() { Trouble::Interrupted } else { trouble }
    }
}

/// Why a copy ended.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The source failed, or what it gives cannot be right.
    There(anyhow::Error),
    /// The cache's own side failed.
    Here(anyhow::Error),
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_for_all_together() {
        let pace = Pace::new(Interrupt::default(), Some(10 << 20));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..8).for_each(|_| pace.moved(512 << 10).unwrap()));
            }
        });
        let elapsed = started.elapsed();
        // 8 MiB at 10 MiB/s, less the burst.
        assert!(elapsed > Duration::from_millis(500), "{elapsed:?}");
    }
}
