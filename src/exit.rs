//! How a run ends: one table of exit codes, and errors that carry theirs.

use anyhow::Error;

/// The exit codes of contract section 5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Exit {
    /// Done, also when there was nothing to do.
    Done,
    /// Finished, but something failed or the cache is still over its limit.
    Incomplete,
    /// Usage or configuration; nothing was changed.
    Usage,
    /// As `Usage`, and known to be the command line's fault, which is 2 under an old name, too.
    WrongCommandLine,
    /// Could not start; nothing was changed.
    CannotStart,
    /// Ended by this signal.
    Signal(i32),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Incomplete => 1,
            Exit::Usage | Exit::WrongCommandLine => 2,
            Exit::CannotStart => 3,
            Exit::Signal(signal) => 128 + signal as u8,
        }
    }

    /// The code under an old tool's name, which knows only 0, 1, and 2 for a wrong command line.
    pub(crate) fn legacy_code(self) -> u8 {
        match self {
            Exit::Usage | Exit::CannotStart => 1,
            exit => exit.code(),
        }
    }

    /// Whether the run ended before anything was changed.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Exit::Usage | Exit::CannotStart)
    }
}

/// An error that ends the run, with its exit code and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: Error,
    pub(crate) hints: Vec<String>,
}

impl Failure {
    pub(crate) fn usage(error: impl Into<Error>) -> Self {
        Failure { exit: Exit::Usage, error: error.into(), hints: Vec::new() }
    }

    pub(crate) fn cannot_start(error: impl Into<Error>) -> Self {
        Failure { exit: Exit::CannotStart, error: error.into(), hints: Vec::new() }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}
