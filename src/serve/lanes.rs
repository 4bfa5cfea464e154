//! Lanes: one operation of a kind at a time, and a few that wait for their turn.
//!
//! Operations that take the same lock would only wait for one another in their children. Here they wait in
//! order, without a process. When too many wait, the next one is turned away, and so is one whose time for
//! waiting ends before its turn comes.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// So many may wait.
const MOST_WAITING: usize = 8;

/// A lane. One at a time has the turn.
#[derive(Debug)]
pub(super) struct Lane {
    turn: Arc<Semaphore>,
    waiting: Cell<usize>,
}

/// The reason why somebody has not got the turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoTurn {
    /// Too many wait.
    Crowded,
    /// The time for waiting is over.
    Late,
}

/// The turn in a lane, until it is dropped; or the reason why there is none.
pub(super) type Turned = Result<OwnedSemaphorePermit, NoTurn>;

/// Counts one that waits.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Lane {
    /// Returns a lane in which so many have the turn at once.
    pub(super) fn new(width: usize) -> Self {
        Lane { turn: Arc::new(Semaphore::new(width)), waiting: Cell::new(0) }
    }

    /// Waits for the turn until this time, if not too many wait already.
    pub(super) async fn enter(&self, until: Instant) -> Turned {
        if let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() {
            return Ok(turn);
        }
        if self.waiting.get() >= MOST_WAITING {
            return Err(NoTurn::Crowded);
        }
        let _waiting = Waiting::new(&self.waiting);
        match timeout_at(until, Arc::clone(&self.turn).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(NoTurn::Late),
        }
    }

    /// Waits for the turn, however many wait, and however long.
    pub(super) async fn turn(&self) -> Turned {
        Arc::clone(&self.turn).acquire_owned().await.map_err(|_| NoTurn::Late)
    }
}

/// The lanes of all operations.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Prunes, and the removal of images: they take prune's lock.
    pub(super) prune: Lane,
    pub(super) clean: Lane,
    pub(super) prefetch: Lane,
    /// Questions and the queue. They take no lock.
    pub(super) look: Lane,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Lanes { prune: Lane::new(1), clean: Lane::new(1), prefetch: Lane::new(1), look: Lane::new(2) }
    }
}
