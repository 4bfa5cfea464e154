//! A run: the clock, the environment, the voice and the interrupt that every operation is given.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::units::Nanos;

/// What a run has from the outside world.
pub(crate) struct Context {
    /// When the run began.
    pub(crate) now: Nanos,
    /// The name called by: it decides which default configuration directories are read.
    pub(crate) program: &'static str,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) interrupt: Interrupt,
    pub(crate) output: Output,
}

impl Context {
    /// From here on a signal ends the run between two entries. Called when everything typed has been read: until then, and in
    /// commands that only look, it ends the process at once.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        self.interrupt.register().context("cannot catch SIGINT and SIGTERM").map_err(Failure::cannot_start)
    }
}

/// What a run has from the outside world.
pub(crate) fn context(program: &'static str, output: Output) -> Context {
    #[expect(clippy::disallowed_methods, reason = "the one reading of the clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as Nanos);
    Context {
        now,
        program,
        environment: std::env::vars_os().collect(),
        interrupt: Interrupt::default(),
        output,
    }
}
