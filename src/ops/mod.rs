//! The operations on the caches of a host. Each takes a request and returns a report.
//!
//! Nothing here knows the command line, and nothing prints a result: a command, or a service, makes the
//! request and shows the report. Notes and warnings are printed during an operation, through
//! [`Run::output`](crate::run::Run).
//!
//! Every change has the same steps: the caches are opened, locked and surveyed, then the change is planned,
//! and then the plan is described (in a dry run) or carried out. Every report of a change contains a
//! [`report::Ending`].

pub(crate) mod api;
pub(crate) mod attention;
pub(crate) mod clean;
pub(crate) mod clouds;
pub(crate) mod fleet;
#[cfg(test)]
mod fuzz;
pub(crate) mod held;
pub(crate) mod ids;
pub(crate) mod list;
pub(crate) mod look;
pub(crate) mod metrics;
pub(crate) mod nodes;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod report;
pub(crate) mod require;
pub(crate) mod status;
pub(crate) mod verify;

use crate::cache::lock::LockWait;
use crate::units::{Nanos, SECOND};

/// The minimum age of images to remove if all caches of a host are pruned and no other is given.
const MIN_AGE: Nanos = 600 * SECOND;

/// The options of any change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// Only plan the change, and describe it.
    pub(crate) dry_run: bool,
    pub(crate) lock_wait: LockWait,
}
