//! `--textfile`: what a run did, as metrics in a file.

use std::path::Path;
use std::time::Instant;

use crate::exit::{Exit, Failure};
use crate::ops::metrics::{Ended, textfile};
use crate::output::textfile::Textfile;
use crate::run::Run;
use crate::units::Nanos;

/// A run that is to be recorded when it ends.
#[derive(Debug)]
pub(crate) struct Record {
    file: Textfile,
    command: &'static str,
    started: Instant,
}

impl Record {
    /// Begins with a run that writes its metrics to this file. If the file cannot be written, the run fails
    /// before it changes anything.
    pub(crate) fn begin(path: &Path, command: &'static str) -> Result<Self, Failure> {
        Ok(Record { file: Textfile::open(path)?, command, started: Instant::now() })
    }

    /// Writes the metrics of the run. Returns its exit code, which is at least 1 if the file could not be
    /// written.
    pub(crate) fn end(self, run: &Run, exit: Exit) -> Exit {
        // A signal that comes now must not leave a part of the file behind.
        let _ = run.catch_signals();
        let duration = self.started.elapsed();
        let at = run.now.saturating_add(duration.as_nanos() as Nanos);
        let ended = Ended { command: self.command, at, duration, exit };
        let report = run.output.kept_report();
        match self.file.update(|last| textfile(last, &ended, &report)) {
            Ok(()) => exit,
            Err(e) => {
                run.output.error(&format!("{e:#}"));
                exit.max(Exit::Incomplete)
            }
        }
    }
}
