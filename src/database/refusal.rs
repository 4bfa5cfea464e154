//! The reasons for which a database, or an index in a file, does not do what it is asked.

use anyhow::anyhow;

/// Said of a commit without an answer.
const UNKNOWN: &str = "it is not known if the change took effect";

/// Why a database or an index did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another process held it for longer than the wait allows.
    Busy(anyhow::Error),
    /// The disk is full: the journal does not fit.
    Full(anyhow::Error),
    /// A signal came while waiting.
    Interrupted,
    /// It was opened for looking, and would have to be written before it can be read.
    NeedsWrite(anyhow::Error),
    /// The connection was lost, with everything done in the open transaction. A later transaction may connect
    /// again.
    Lost(anyhow::Error),
    /// The connection was lost in a commit: it is not known if the change took effect.
    Unknown(anyhow::Error),
    /// The file of an index cannot be opened, read or written, whatever was asked of it.
    Damaged(anyhow::Error),
    /// It did not do what it was asked, for any other reason.
    Broken(anyhow::Error),
}

impl Refusal {
    /// Adds what was being done.
    pub(crate) fn context(self, what: String) -> Self {
        match self {
            Refusal::Busy(e) => Refusal::Busy(e.context(what)),
            Refusal::Full(e) => Refusal::Full(e.context(what)),
            Refusal::NeedsWrite(e) => Refusal::NeedsWrite(e.context(what)),
            Refusal::Lost(e) => Refusal::Lost(e.context(what)),
            Refusal::Unknown(e) => Refusal::Unknown(e.context(what)),
            Refusal::Damaged(e) => Refusal::Damaged(e.context(what)),
            Refusal::Broken(e) => Refusal::Broken(e.context(what)),
            Refusal::Interrupted => Refusal::Interrupted,
        }
    }

    /// Returns the error to report.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Refusal::Busy(e)
            | Refusal::Full(e)
            | Refusal::NeedsWrite(e)
            | Refusal::Lost(e)
            | Refusal::Unknown(e)
            | Refusal::Damaged(e)
            | Refusal::Broken(e) => e,
            Refusal::Interrupted => anyhow!("stopped by a signal"),
        }
    }

    /// Returns the refusal of an attempt before which a commit got no answer. A signal stays one.
    pub(crate) fn after_unknown(self) -> Self {
        match self {
            Refusal::Interrupted => Refusal::Interrupted,
            refusal => Refusal::Unknown(refusal.into_error().context(UNKNOWN)),
        }
    }
}

/// True if a refusal means that the database is not Glance's, or older than the central index.
pub(crate) fn is_missing_table(refusal: &Refusal) -> bool {
    let Refusal::Broken(error) = refusal else { return false };
    let text = format!("{error:#}");
    ["error 1146:", "error 42P01:", "no such table"].iter().any(|sign| text.contains(sign))
}

/// True if a refusal means that the server does not know the syntax of a statement, because it is too old.
pub(crate) fn is_unknown_syntax(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Broken(error) if format!("{error:#}").contains("error 1064:"))
}
