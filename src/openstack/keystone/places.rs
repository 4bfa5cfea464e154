//! A limit of how many threads do something at once.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::interrupt::Interrupt;

/// Interval at which a waiting thread looks if it should end.
const LOOK: Duration = Duration::from_millis(200);

/// Places for threads; each holds one while it works.
pub(super) struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A place, which is free again when this is dropped.
pub(super) struct Place<'a>(&'a Places);

impl Places {
    pub(super) fn new(number: usize) -> Self {
        Places { free: Mutex::new(number), freed: Condvar::new() }
    }

    /// Waits for a free place, but not longer than the limit and not after a signal.
    pub(super) fn enter(&self, limit: Duration, interrupt: &Interrupt) -> Option<Place<'_>> {
        let end = Instant::now() + limit;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || interrupt.raised() {
                return None;
            }
            let waited = self.freed.wait_timeout(free, left.min(LOOK));
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn lets_no_more_in_than_there_are_places() {
        let places = Places::new(2);
        let calm = Interrupt::default();
        let first = places.enter(Duration::ZERO, &calm).unwrap();
        let second = places.enter(Duration::ZERO, &calm).unwrap();
        assert!(places.enter(Duration::from_millis(1), &calm).is_none());
        let raised = Interrupt::default();
        raised.raise(15);
        assert!(places.enter(Duration::from_secs(60), &raised).is_none());
        thread::scope(|scope| {
            let third = scope.spawn(|| places.enter(Duration::from_secs(60), &calm).is_some());
            drop(first);
            assert!(third.join().unwrap());
        });
        drop(second);
        assert!(places.enter(Duration::ZERO, &calm).is_some());
    }
}
