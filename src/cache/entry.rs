//! The entries of a cache: images, rows, ghosts, and the files of the subdirectories.
//!
//! No I/O and no clock here.

use std::fmt;

use crate::names::{ImageId, NameBuf};
use crate::units::{Nanos, nanos};

/// A directory entry as one look saw it (lstat; no link is followed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) inode: u64,
    /// Length in bytes (`st_size`), as Glance counts.
    pub(crate) size: u64,
    /// Bytes of disk in use (`st_blocks`): they are freed with the last link.
    pub(crate) allocated: u64,
    pub(crate) atime: Nanos,
    pub(crate) mtime: Nanos,
    pub(crate) ctime: Nanos,
    pub(crate) links: u32,
    pub(crate) owner: u32,
}

impl Seen {
    /// Returns the last use by the file's own times. Orphans have nothing else.
    pub(crate) fn last_use(&self) -> Nanos {
        self.atime.max(self.mtime)
    }
}

/// The kind of a directory entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EntryKind {
    File,
    Symlink,
    Directory,
    /// FIFO, socket or device.
    Other,
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EntryKind::File => "a file",
            EntryKind::Symlink => "a symlink",
            EntryKind::Directory => "a directory",
            EntryKind::Other => "a FIFO, socket or device",
        })
    }
}

/// A row of the index, without its image id.
///
/// Times are epoch seconds, as Glance writes them. SQLite accepts any type in any column: NULL is read as
/// minus infinity, text and blobs as plus infinity, which is where SQLite's own order puts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The key of the row in its index, which is also the order of ties. For SQLite it is the rowid.
    pub(crate) key: i64,
    pub(crate) last_accessed: f64,
    pub(crate) last_modified: f64,
    pub(crate) size: i64,
    pub(crate) hits: i64,
}

/// A regular file in the cache directory that has the name of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) id: ImageId,
    pub(crate) seen: Seen,
    /// `None` for orphans, and for every image with the xattr index.
    pub(crate) row: Option<Row>,
}

impl Image {
    /// Returns the last use: by the row, or without one by the file's own times. With the xattr index it is
    /// the access time alone, as for Glance.
    pub(crate) fn last_use(&self, tracked_by_file: bool) -> Nanos {
        match (&self.row, tracked_by_file) {
            (Some(row), _) => nanos(row.last_accessed),
            (None, true) => self.seen.atime,
            (None, false) => self.seen.last_use(),
        }
    }
}

/// A row whose image is missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ghost {
    pub(crate) id: ImageId,
    pub(crate) row: Row,
}

/// A row whose id is no UUID, and so names no image.
#[derive(Clone, Debug)]
pub(crate) struct BadRow {
    pub(crate) key: i64,
    /// The id in the index, escaped.
    pub(crate) shown: String,
}

/// An entry of `incomplete/`, `invalid/` or `queue/`: a regular file or a symlink, of any name.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub(crate) name: NameBuf,
    pub(crate) kind: EntryKind,
    pub(crate) seen: Seen,
}
