//! The exit codes, and the type of errors that end a run.
//!
//! Operations return a [`Failure`]; only `main` prints it and exits with its code.

use anyhow::Error;

/// The ways in which a run ends, each with its exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Exit {
    /// The work is done, or there was nothing to do.
    Done,
    /// The run finished, but something failed, or the cache is still over its limit.
    Incomplete,
    /// The usage or the configuration is wrong. Nothing was changed.
    Usage,
    /// The command line is wrong. Unlike `Usage`, this has the code 2 under an old name, too.
    WrongCommandLine,
    /// The run could not start. Nothing was changed.
    CannotStart,
    /// This signal ended the run.
    Signal(i32),
}

impl Exit {
    /// Returns the exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Incomplete => 1,
            Exit::Usage | Exit::WrongCommandLine => 2,
            Exit::CannotStart => 3,
            Exit::Signal(signal) => 128 + signal as u8,
        }
    }

    /// Returns the exit code under an old name. The old tools have only 0, 1, and 2 for a wrong command line.
    pub(crate) fn legacy_code(self) -> u8 {
        match self {
            Exit::Usage | Exit::CannotStart => 1,
            exit => exit.code(),
        }
    }

    /// True if the run ended before anything was changed.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Exit::Usage | Exit::CannotStart)
    }
}

/// An error that ends the run, with its exit code, and with hints for the operator.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: Error,
    pub(crate) hints: Vec<String>,
}

impl Failure {
    /// Returns a failure because of wrong usage or configuration.
    pub(crate) fn usage(error: impl Into<Error>) -> Self {
        Failure { exit: Exit::Usage, error: error.into(), hints: Vec::new() }
    }

    /// Returns a failure of a run that cannot start.
    pub(crate) fn cannot_start(error: impl Into<Error>) -> Self {
        Failure { exit: Exit::CannotStart, error: error.into(), hints: Vec::new() }
    }

    /// Adds a hint, which is printed on a line of its own.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}
