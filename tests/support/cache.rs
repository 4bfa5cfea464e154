//! Makes caches as Glance's drivers make them: directories, image files with given times, the sqlite index,
//! `user.hits`.
//!
//! Depends on nothing but std, rustix and rusqlite, which the program itself uses, so that the benchmarks can
//! use it too.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

/// Glance's own table of cached images, as its sqlite driver makes it.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS cached_images (image_id TEXT PRIMARY KEY, \
     last_accessed REAL DEFAULT 0.0, last_modified REAL DEFAULT 0.0, size INTEGER DEFAULT 0, \
     hits INTEGER DEFAULT 0, checksum TEXT);";

/// The directories that Glance makes in a cache.
pub(crate) const SUBDIRECTORIES: [&str; 3] = ["incomplete", "invalid", "queue"];

/// Which index a test cache has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Sqlite,
    Xattr,
}

pub(crate) use Driver::{Sqlite, Xattr};

impl Driver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sqlite => "sqlite",
            Xattr => "xattr",
        }
    }
}

/// Makes an empty cache at `dir`: three subdirectories and, for sqlite, an index without rows.
pub(crate) fn make(dir: &Path, driver: Driver) {
    for sub in SUBDIRECTORIES {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    if driver == Sqlite {
        fs::write(dir.join("image_cache_db_init"), "").unwrap();
        rusqlite::Connection::open(dir.join("cache.db")).unwrap().execute_batch(TABLE).unwrap();
    }
}

/// Returns the id whose every digit is `letter` (a hexadecimal one).
pub(crate) fn id(letter: char) -> String {
    assert!(letter.is_ascii_hexdigit(), "an image id is hexadecimal");
    [8, 4, 4, 4, 12].map(|n| letter.to_string().repeat(n)).join("-")
}

/// Returns the `n`th id of a large cache.
pub(crate) fn nth_id(n: usize) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}

/// Returns the SQL that inserts a row into the index of the sqlite driver. Times are seconds since the epoch.
pub(crate) fn row(image_id: &str, used: f64, changed: f64, size: u64, hits: i64) -> String {
    format!(
        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits) \
         VALUES ('{image_id}', {used:.6}, {changed:.6}, {size}, {hits});"
    )
}

/// Makes a sparse file of `size` bytes, last used and changed at these times (seconds since the epoch).
pub(crate) fn sparse_file(path: &Path, size: u64, used: f64, changed: f64) {
    File::create(path).unwrap().set_len(size).unwrap();
    set_times(path, used, changed);
}

/// Sets the times of last use and change, in seconds since the epoch.
pub(crate) fn set_times(path: &Path, used: f64, changed: f64) {
    let spec = |t: f64| Timespec { tv_sec: t.floor() as i64, tv_nsec: (t.fract() * 1e9) as i64 };
    let times = Timestamps { last_access: spec(used), last_modification: spec(changed) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// Sets the `user.hits` of Glance's xattr driver, and leaves the times as they are.
pub(crate) fn set_hits(path: &Path, hits: &[u8]) {
    rustix::fs::setxattr(path, "user.hits", hits, XattrFlags::empty()).unwrap_or_else(|error| {
        panic!(
            "{} takes no extended attributes ({error}): set TMPDIR to a file system that does",
            path.display()
        )
    });
}
