//! A run of the program: its clock, environment, signals and output, which every operation receives.
//!
//! The clock and the environment are read once, here, so that the whole run uses the same time, and no other
//! code reads settings behind its back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::exit::Failure;
use crate::interrupt::{Interrupt, Wait};
use crate::output::Output;
use crate::units::Nanos;

/// A run of the program.
pub(crate) struct Run {
    /// The time at which the run started, in nanoseconds since the epoch; or the time of `--now`.
    pub(crate) now: Nanos,
    /// The name that the program was called by. It decides which configuration files are read by default.
    pub(crate) program: &'static str,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) interrupt: Interrupt,
    pub(crate) output: Output,
}

impl Run {
    /// Starts a run: reads the clock and the environment.
    pub(crate) fn new(program: &'static str, output: Output) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the clock is read once, here")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as Nanos);
        #[allow(clippy::disallowed_methods, reason = "the environment is read once, here")]
        let environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let output = output.in_environment(&environment);
        // Tests cannot make files old enough. The released program has no such variable.
        #[cfg(debug_assertions)]
        let now = environment
            .get(std::ffi::OsStr::new("GLANCE_CACHE_TEST_NOW"))
            .and_then(|time| time.to_str()?.parse().ok())
            .map_or(now, |crate::units::Moment(time)| time);
        Run { now, program, environment, interrupt: Interrupt::default(), output }
    }

    /// True if the program was called by the name of one of the tools that it replaces.
    pub(crate) fn is_old_name(&self) -> bool {
        self.program != "glance-cache"
    }

    /// From now on, a signal ends the run only between two entries.
    ///
    /// This is called after lists of ids were read. Before that, and in commands that change nothing, a
    /// signal ends the process immediately.
    pub(crate) fn catch_signals(&self) -> Result<(), Failure> {
        self.interrupt.register().context("cannot catch SIGINT and SIGTERM").map_err(Failure::cannot_start)
    }

    /// Returns a wait of this length. A signal ends it early.
    pub(crate) fn wait(&self, limit: Duration) -> Wait {
        Wait { limit, interrupt: self.interrupt.clone() }
    }
}
