//! A run of the program: the clock, the environment, the interrupt and the voice that every operation is given.
//!
//! Clock and environment are read here, once, so that a run never straddles two moments and nothing below has settings
//! of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::exit::Failure;
use crate::interrupt::{Interrupt, Wait};
use crate::output::Output;
use crate::units::Nanos;

/// A run, as the operations see it.
pub(crate) struct Run {
    /// When the run began.
    pub(crate) now: Nanos,
    /// The name the program was called by. It decides which default configuration directories are read.
    pub(crate) program: &'static str,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) interrupt: Interrupt,
    pub(crate) output: Output,
}

impl Run {
    /// Begins a run: reads the clock and the environment.
    pub(crate) fn new(program: &'static str, output: Output) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the clock is read once, here")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as Nanos);
        #[allow(clippy::disallowed_methods, reason = "the environment is read once, here")]
        let environment = std::env::vars_os().collect();
        Run { now, program, environment, interrupt: Interrupt::default(), output }
    }

    /// From now on, a signal ends the run between two entries.
    ///
    /// It is called once everything typed has been read. Until then, and in commands that only look, a signal ends
    /// the process at once.
    pub(crate) fn catch_signals(&self) -> Result<(), Failure> {
        self.interrupt.register().context("cannot catch SIGINT and SIGTERM").map_err(Failure::cannot_start)
    }

    /// Returns a wait of this length, which a signal ends early.
    pub(crate) fn wait(&self, limit: Duration) -> Wait {
        Wait { limit, interrupt: self.interrupt.clone() }
    }
}
