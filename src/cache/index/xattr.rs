//! The xattr index: an image's hits are in the attribute `user.hits` of its file, and its last use is the
//! access time.
//!
//! The attributes vanish with the file, so that to remove an image is to forget it. Reading them neither
//! opens an image nor changes its access time.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::names::Name;

/// The attribute in which Glance counts hits: an ASCII decimal.
const HITS: &str = "user.hits";
/// The attribute in which Glance writes why an image is invalid: UTF-8.
const ERROR: &str = "user.error";

/// The value of one of Glance's attributes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Value(Vec<u8>),
    /// The file has no such attribute.
    Absent,
    /// It cannot be read, or the file system has no attributes.
    Unknown,
}

/// Reads the hits of an image.
pub(crate) fn hits(dir: BorrowedFd<'_>, name: Name<'_>) -> Attribute {
    read(dir, name, HITS)
}

/// Reads the reason why an image is invalid.
pub(crate) fn error(dir: BorrowedFd<'_>, name: Name<'_>) -> Attribute {
    read(dir, name, ERROR)
}

/// Marks an image as not yet used, as Glance's driver does before it publishes one.
pub(crate) fn set_unused(file: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, HITS, b"0", XattrFlags::empty())
}

/// Writes the reason why an image is invalid.
pub(crate) fn set_error(file: BorrowedFd<'_>, why: &str) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, ERROR, why.as_bytes(), XattrFlags::empty())
}

/// Reads an attribute without opening the file for reading: a FIFO or device in its place is not opened, and
/// the access time stays.
fn read(dir: BorrowedFd<'_>, name: Name<'_>, attribute: &str) -> Attribute {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir, name.as_c_str(), flags, Mode::empty()) else {
        return Attribute::Unknown;
    };
    let is_file = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH)
        .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file());
    if !is_file {
        return Attribute::Unknown;
    }
    // The *xattr calls refuse O_PATH descriptors. The link in /proc leads to the inode that is held open.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut value = [0_u8; 4096];
    match rustix::fs::getxattr(path.as_str(), attribute, &mut value[..]) {
        Ok(length) => Attribute::Value(value[..length].to_vec()),
        Err(Errno::NODATA) => Attribute::Absent,
        Err(_) => Attribute::Unknown,
    }
}

/// Returns the number in a hits attribute, as Glance's `int()` reads it. Anything else counts as no hits.
pub(crate) fn parse_hits(value: &[u8]) -> i64 {
    std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
