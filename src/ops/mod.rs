//! What can be done to the caches of a host: a request in, a report out.
//!
//! Nothing here knows what was typed, and nothing prints a result: a command line, or a service, makes the request and
//! shows the report. Notes and warnings go to the run's voice while an operation goes on.
//!
//! Every change has the same outline: open the caches, lock them, survey them, plan, then describe the plan or carry it
//! out. How it ended is one [`report::Ending`].

pub(crate) mod clean;
pub(crate) mod fleet;
pub(crate) mod ids;
pub(crate) mod list;
pub(crate) mod look;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod report;
pub(crate) mod require;
pub(crate) mod status;

use crate::cache::lock::LockWait;
use crate::units::{Nanos, SECOND};

/// How long images stay that were just cached or used, where all caches of a host are pruned.
pub(crate) const MIN_AGE: Nanos = 600 * SECOND;

/// How a change is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) dry_run: bool,
    pub(crate) lock_wait: LockWait,
}
