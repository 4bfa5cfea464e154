//! What stands in a cache directory: names, identities, images and the other entries.
//!
//! No I/O and no clock here. A [`Name`] is the only way to address a file below an open directory; it is checked once,
//! when it is made, so that nothing read from a directory or an index can lead out of the cache.

use crate::names::{ImageId, NameBuf};
use crate::units::{Nanos, nanos};

/// What one look at a directory entry saw (lstat; no link is followed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) inode: u64,
    /// Length in bytes (`st_size`), as Glance counts.
    pub(crate) size: u64,
    /// Bytes of disk in use (`st_blocks`): what removing the last link frees.
    pub(crate) allocated: u64,
    pub(crate) atime: Nanos,
    pub(crate) mtime: Nanos,
    pub(crate) ctime: Nanos,
    pub(crate) links: u32,
    pub(crate) owner: u32,
}

impl Seen {
    /// The last use as a file's own times tell it: the xattr index and orphans have nothing else.
    pub(crate) fn last_use(&self) -> Nanos {
        self.atime.max(self.mtime)
    }
}

/// What kind of directory entry a name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    File,
    Symlink,
    Directory,
    /// FIFO, socket or device.
    Other,
}

/// A row of the index, without its image id.
///
/// Times are epoch seconds as Glance keeps them. SQLite lets any type stand in any column: NULL reads as minus infinity and
/// text or a blob as plus infinity, which is where SQLite's own order puts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What names the row in its index and gives the order on ties: the SQLite rowid.
    pub(crate) key: i64,
    pub(crate) last_accessed: f64,
    pub(crate) last_modified: f64,
    pub(crate) size: i64,
    pub(crate) hits: i64,
}

/// A regular file in the cache directory that is named like an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) id: ImageId,
    pub(crate) seen: Seen,
    /// `None` for orphans, and for every image under the xattr index.
    pub(crate) row: Option<Row>,
}

impl Image {
    /// The last use: what the row says, else the file's own times (the xattr index: the access time alone, as Glance).
    pub(crate) fn last_use(&self, tracked_by_file: bool) -> Nanos {
        match (&self.row, tracked_by_file) {
            (Some(row), _) => nanos(row.last_accessed),
            (None, true) => self.seen.atime,
            (None, false) => self.seen.last_use(),
        }
    }
}

/// A row whose image is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ghost {
    pub(crate) id: ImageId,
    pub(crate) row: Row,
}

/// A row whose id is no UUID, and so can name no image.
#[derive(Clone, Debug)]
pub(crate) struct BadRow {
    pub(crate) key: i64,
    /// The id as it stands in the index, escaped.
    pub(crate) shown: String,
}

/// An entry of `incomplete/`, `invalid/` or `queue/`: a regular file or a symlink, of any name.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub(crate) name: NameBuf,
    pub(crate) kind: Kind,
    pub(crate) seen: Seen,
}
