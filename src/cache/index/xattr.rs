//! The xattr index: Glance keeps an image's hits in the attribute `user.hits` of its file, and its last use in the access
//! time. The attributes die with the file, so forgetting an image is nothing but removing it.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::names::Name;

/// The attribute in which Glance counts hits: an ASCII decimal.
const HITS: &str = "user.hits";
/// The attribute in which Glance leaves why an image became invalid: UTF-8.
const ERROR: &str = "user.error";

/// What one of Glance's attributes says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    Value(Vec<u8>),
    /// The file has no such attribute.
    Absent,
    /// The file, or the file system, cannot tell.
    Unknown,
}

/// Reads the hits of an image.
pub(crate) fn hits(dir: BorrowedFd<'_>, name: Name<'_>) -> Attribute {
    read(dir, name, HITS)
}

/// Reads why an image is invalid.
pub(crate) fn error(dir: BorrowedFd<'_>, name: Name<'_>) -> Attribute {
    read(dir, name, ERROR)
}

/// Marks an image as never used yet, as Glance's driver does before it publishes one.
pub(crate) fn set_unused(file: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, HITS, b"0", XattrFlags::empty())
}

/// Writes down why an image is invalid.
pub(crate) fn set_error(file: BorrowedFd<'_>, why: &str) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, ERROR, why.as_bytes(), XattrFlags::empty())
}

/// Reads an attribute without opening the file for data: a device or FIFO swapped in is not woken, the access time stays.
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
    // The *xattr calls refuse O_PATH descriptors; the link in /proc leads to the very inode that is held.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut value = [0_u8; 4096];
    match rustix::fs::getxattr(path.as_str(), attribute, &mut value[..]) {
        Ok(length) => Attribute::Value(value[..length].to_vec()),
        Err(Errno::NODATA) => Attribute::Absent,
        Err(_) => Attribute::Unknown,
    }
}

/// Reads the number in a hits attribute, as Glance's `int()` of it; anything else counts as no hits.
pub(crate) fn parse_hits(value: &[u8]) -> i64 {
    std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
