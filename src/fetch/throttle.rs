//! The rate limit of all fetches together, and the check for signals while they wait.
//!
//! One [`Throttle`] is shared by all fetches of a run. It ends a wait early only because of a signal.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::FetchError;
use crate::interrupt::Interrupt;

/// The longest sleep between two checks for a signal.
const SLICE: Duration = Duration::from_millis(100);

/// The part of a pause that may be caught up afterwards.
const BURST: Duration = Duration::from_millis(250);

/// A limit that all fetches of a run share.
#[derive(Debug)]
pub(crate) struct Throttle {
    pub(super) interrupt: Interrupt,
    /// Bytes per second; `None` without a limit.
    rate: Option<u64>,
    /// The time from which the next bytes may be moved.
    next: Mutex<Instant>,
}

impl Throttle {
    /// Returns a limit of `rate` bytes per second, or none.
    pub(crate) fn new(interrupt: Interrupt, rate: Option<u64>) -> Self {
        Throttle { interrupt, rate, next: Mutex::new(Instant::now()) }
    }

    /// Returns the number of bytes to move at a time, at most `most`: fewer if the rate is low, so that a
    /// signal is noticed in time.
    pub(super) fn portion(&self, most: u64) -> u64 {
        self.rate.map_or(most, |rate| (rate / 4).clamp(64 << 10, most))
    }

    /// Accounts for bytes that were moved, and waits until more may be moved.
    ///
    /// Fails if a signal arrives.
    pub(super) fn moved(&self, bytes: u64) -> Result<(), FetchError> {
        let until = self.rate.map(|rate| self.book(bytes, rate));
        loop {
            if self.interrupt.raised() {
                return Err(FetchError::Interrupted);
            }
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Books the bytes and returns the time at which the next ones may be moved.
    fn book(&self, bytes: u64, rate: u64) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *next = (*next).max(now.checked_sub(BURST).unwrap_or(now)) + cost;
        *next
    }

    /// Returns the error, or `Interrupted` if a signal arrived and is therefore its cause.
    pub(super) fn or_interrupted(&self, error: FetchError) -> FetchError {
        if self.interrupt.raised() { FetchError::Interrupted } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_takes_a_quarter_of_a_second_at_most() {
        for (rate, expected) in
            [(None, 4 << 20), (Some(1), 64 << 10), (Some(1 << 20), 256 << 10), (Some(u64::MAX), 4 << 20)]
        {
            let throttle = Throttle::new(Interrupt::default(), rate);
            assert_eq!(throttle.portion(4 << 20), expected, "{rate:?}");
        }
    }

    #[test]
    fn bytes_take_as_long_as_the_rate_says() {
        let throttle = Throttle::new(Interrupt::default(), Some(10 << 20));
        let made = Instant::now();
        let half = Duration::from_millis(500);
        let first = throttle.book(5 << 20, 10 << 20);
        assert!(first > made && first <= made + half, "the first begins at once");
        assert!(throttle.book(5 << 20, 10 << 20) >= first + half, "the second begins after the first");
        assert!(throttle.book(1, 0) > first + half, "a rate of 0 is the lowest there is");
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let throttle = Throttle::new(Interrupt::default(), Some(1 << 20));
        *throttle.next.lock().unwrap() = Instant::now().checked_sub(10 * BURST).unwrap();
        let before = Instant::now();
        let until = throttle.book(1 << 20, 1 << 20);
        let less = Duration::from_millis(750);
        assert!(until >= before + less && until <= Instant::now() + less, "a second, less the burst");
    }

    #[test]
    fn a_signal_is_the_cause_of_an_error() {
        let throttle = Throttle::new(Interrupt::default(), None);
        let error = || FetchError::Source(anyhow::anyhow!("broken"));
        assert!(matches!(throttle.or_interrupted(error()), FetchError::Source(_)));
        throttle.moved(1 << 40).unwrap();
        throttle.interrupt.raise(15);
        assert!(matches!(throttle.or_interrupted(error()), FetchError::Interrupted));
        assert!(matches!(throttle.moved(1), Err(FetchError::Interrupted)));
    }

    #[test]
    fn the_rate_holds_for_all_threads_together() {
        let throttle = Throttle::new(Interrupt::default(), Some(10 << 20));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..8).for_each(|_| throttle.moved(512 << 10).unwrap()));
            }
        });
        let elapsed = started.elapsed();
        // 8 MiB at 10 MiB/s take 0.8 s; the burst may shorten that.
        assert!(elapsed > Duration::from_millis(500), "{elapsed:?}");
    }
}
