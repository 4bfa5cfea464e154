//! The index of a cache: where Glance keeps what it knows of each image.
//!
//! Few methods, because deciding happens elsewhere: read all rows; in one short write transaction, check and forget the rows
//! of a batch *before* their files are touched; commit after. A driver whose rows die with the files (xattr) has nothing to
//! do in most of them.
//!
//! | crash or failure | what is left |
//! |---|---|
//! | before the first unlink | nothing happened |
//! | between the first unlink and the commit | the rows come back: ghosts, which the next run forgets |
//! | in the commit | the same, reported, and tried once more on its own |

pub(crate) mod central;
pub(crate) mod sqlite;
pub(crate) mod xattr;

use std::fmt;

use anyhow::Result;

use super::entry::{BadRow, Image, Row};
use super::inventory::Joiner;
use crate::database::Refusal;
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

/// What a write transaction has to find in the index before it may forget an image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claim {
    /// The row is there and the image was not used since: last use and hits are what they were.
    Unchanged(Row),
    /// The row is there, whatever it says now: its file is known to be gone.
    Row(i64),
    /// There is no row of this image: it is an orphan still.
    NoRow,
}

/// An image to forget, and on what condition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) id: ImageId,
    pub(crate) claim: Claim,
}

/// The index of one cache, open for reading or for changing.
pub(crate) trait Index {
    /// Reads all rows.
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()>;

    /// Opens a write transaction that nobody can make fail later: all locks are held when it returns.
    fn begin(&mut self, wait: &Wait) -> Result<(), Refusal>;

    /// Looks at the claim of each target again and deletes the rows of those that hold. One answer for each target.
    ///
    /// When it returns, whatever the commit needs of the disk is already there, if it forgot images whose files are to go.
    fn forget(&mut self, targets: &[Target]) -> Result<Vec<bool>, Refusal>;

    /// Looks at one claim, in the open transaction, and changes nothing.
    fn holds(&mut self, target: &Target) -> Result<bool, Refusal>;

    /// Ends the transaction. Of what was forgotten in it, only `gone` stays forgotten; `None` means all of it.
    ///
    /// On an error nothing is forgotten.
    fn commit(&mut self, gone: Option<&[Target]>) -> Result<(), Refusal>;

    /// Ends the transaction and takes back everything done in it.
    fn abandon(&mut self);

    /// Gives rows to orphans, in the open transaction: the file's size and times, no hits. One that has a row by now is left.
    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal>;

    /// Gives an image that is being published its row, in the open transaction, in place of whatever row it has: that one was left
    /// without a file.
    fn record(&mut self, image: &Image) -> Result<(), Refusal>;

    /// Deletes rows whose id is no UUID, in the open transaction, and tells how many were still there.
    fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal>;

    /// Whether somebody else changed the index since the last transaction; asked in an open one.
    fn others_wrote(&mut self) -> bool {
        false
    }

    /// Whether each transaction costs by the pages on which its rows lie, of which there are many.
    fn is_paged(&self) -> bool {
        false
    }

    /// Makes sure that it answers, which can take a server its time: to be asked before a lock is taken that others wait for.
    fn reach(&mut self, _: &Wait) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether the connection to it was lost, with what was done in the open transaction; a later transaction can find it again.
    fn is_lost(&self) -> bool {
        false
    }

    /// Whether a crash before the commit brings rows back whose files are gone.
    fn is_transactional(&self) -> bool {
        true
    }
}

/// An index without rows: the files are the index (xattr), or there is none.
#[derive(Debug)]
pub(crate) struct NoRows;

impl Index for NoRows {
    fn read(&mut self, _: &Wait, _: &mut Joiner<'_>) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, _: &Wait) -> Result<(), Refusal> {
        Ok(())
    }

    fn forget(&mut self, targets: &[Target]) -> Result<Vec<bool>, Refusal> {
        Ok(vec![true; targets.len()])
    }

    fn holds(&mut self, _: &Target) -> Result<bool, Refusal> {
        Ok(true)
    }

    fn commit(&mut self, _: Option<&[Target]>) -> Result<(), Refusal> {
        Ok(())
    }

    fn abandon(&mut self) {}

    fn adopt(&mut self, _: &[Image]) -> Result<u64, Refusal> {
        Ok(0)
    }

    fn record(&mut self, _: &Image) -> Result<(), Refusal> {
        Ok(())
    }

    fn drop_bad_rows(&mut self, _: &[BadRow]) -> Result<u64, Refusal> {
        Ok(0)
    }

    fn is_transactional(&self) -> bool {
        false
    }
}
