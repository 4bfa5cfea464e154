//! The purpose for which a database or an index is opened, and what is found there.

use std::path::PathBuf;

/// Why a database or an index is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// To look: nothing is written, not even to recover.
    Look,
    Change,
    /// To change, and the table is made if it is missing.
    Create,
}

/// The result of opening a database or an index.
#[derive(Debug)]
pub(crate) enum Opening<T> {
    Open(T),
    /// The file does not exist, is empty, or has no table.
    Nothing(PathBuf),
    /// The file cannot be read without writing, or is locked; the error says why.
    Unreadable(anyhow::Error),
}
