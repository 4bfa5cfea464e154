//! The index of a cache: a row for each image, with its size, its last use and its hits.
//!
//! It has few methods, because decisions are made elsewhere: all rows are read; in one short transaction the
//! rows of a batch are checked and deleted *before* their files are removed; then it is committed. With the
//! xattr driver the files themselves are the index, so that there is no [`Index`] at all.
//!
//! | crash or failure | what is left |
//! |---|---|
//! | before the first file is removed | nothing happened |
//! | between the first file and the commit | the rows come back: ghosts, which the next run forgets |
//! | in the commit | the same; it is reported, and the deletion is tried again on its own |
//!
//! A note in the cache directory says which ghosts these are ([`pending`](super::pending)).

pub(crate) mod central;
#[cfg(test)]
pub(crate) mod double;
pub(crate) mod sqlite;
pub(crate) mod xattr;

use std::fmt;

use anyhow::Result;

use super::entry::{BadRow, Image, Row};
use super::inventory::Joiner;
use crate::database::refusal::Refusal;
use crate::interrupt::Wait;
use crate::names::ImageId;

/// A kind of index, as `image_cache_driver` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driver {
    Sqlite,
    Xattr,
    CentralizedDb,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::Sqlite => "sqlite",
            Driver::Xattr => "xattr",
            Driver::CentralizedDb => "centralized_db",
        })
    }
}

/// The condition on which a transaction may forget an image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// The row is there and the image was not used since: last use and hits are what they were.
    Unchanged(Row),
    /// Whatever the row says now, and also if it is gone by now: its file is known to be missing.
    Row(i64),
    /// The row is there, whatever it says now: its file is moved away before the commit.
    Present(i64),
    /// There is no row of this image: it is still an orphan.
    NoRow,
}

/// An image to forget, and the condition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deletion {
    pub(crate) id: ImageId,
    pub(crate) only_if: Condition,
}

impl Deletion {
    /// True if it has a row.
    pub(super) fn has_row(&self) -> bool {
        self.key().is_some()
    }

    /// Returns the key of its row, if it has one.
    pub(super) fn key(&self) -> Option<i64> {
        match self.only_if {
            Condition::Unchanged(row) => Some(row.key),
            Condition::Row(key) | Condition::Present(key) => Some(key),
            Condition::NoRow => None,
        }
    }
}

/// An index with rows, open for reading or for changing. [`Ledger`](super::ledger::Ledger) says when each
/// method is called.
pub(crate) trait Index {
    /// Reads all rows.
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()>;

    /// Makes sure that the index answers. An index that is a file always does.
    fn reach(&mut self, wait: &Wait) -> Result<(), Refusal>;

    /// Makes sure that rows can be written, and writes none: the index is not read-only, and this user has
    /// the rights.
    fn check_writable(&mut self, wait: &Wait) -> Result<(), Refusal>;

    /// Begins a transaction that no other process can make fail later: all locks are held when this returns.
    /// Returns true if another process is known to have changed the index since the last transaction.
    fn begin(&mut self, wait: &Wait) -> Result<bool, Refusal>;

    /// Looks at the condition of each victim again and deletes the rows of those whose condition holds.
    /// Returns one answer for each victim.
    ///
    /// `is_due` is a part of each condition. It is asked when no other process can find or insert the row
    /// before the end of the transaction, and is asked again if the transaction begins again meanwhile.
    ///
    /// When this returns, the commit needs no more space on the disk.
    fn forget(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal>;

    /// Looks at one condition, in the open transaction, and changes nothing.
    fn holds(&mut self, victim: &Deletion) -> Result<bool, Refusal>;

    /// Commits. Of what was forgotten in the transaction, only `gone` stays forgotten; `None` means all of
    /// it.
    ///
    /// After an error the transaction may still be open: it is abandoned.
    fn commit(&mut self, gone: Option<&[Deletion]>) -> Result<(), Refusal>;

    /// Sets if rows that another session has locked are waited for from now on. If not, they are left out. An
    /// index that is locked as a whole has no such rows.
    fn wait_for_rows(&mut self, _waits: bool) {}

    /// Rolls the transaction back, if one is open.
    fn abandon(&mut self);

    /// Gives rows to orphans, in the open transaction. An orphan that has a row by now is skipped.
    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal>;

    /// Gives an image its row, in the open transaction, in place of whatever row it has.
    fn record(&mut self, image: &Image) -> Result<(), Refusal>;

    /// Deletes rows whose id is no UUID, in the open transaction, and returns how many were still there.
    fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal>;
}
