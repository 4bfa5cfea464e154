//! Fills caches: the same ids, sizes and times for the same number of entries, every time.
//!
//! Files are sparse and 1 to 4096 bytes long, so that the work measured is that on names, inodes and rows.
//! Last uses are spread over a year, independent of the order in which the files are made, and exact to the
//! microsecond: the bare program compares them with a time.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{Timespec, Timestamps, XattrFlags, fsetxattr, futimens};

use super::cache;
pub(crate) use super::cache::Driver;

const YEAR: u64 = 365 * 86_400 * 1_000_000;
/// The most recent last use, 1 January 2025: every entry is older than the stall time.
const LATEST: u64 = 1_735_689_600 * 1_000_000;

/// Facts about a cache and about a prune to half of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Half of the bytes.
    pub(crate) limit: u64,
    /// The last use of the first image that stays, in microseconds since the epoch.
    pub(crate) cutoff: i64,
    /// How many images stay.
    pub(crate) left: usize,
}

/// Returns an entry: its id, bytes, and last use in microseconds since the epoch.
fn entry(n: usize) -> (String, u64, u64) {
    let (a, b, c) = (mix(3 * n as u64), mix(3 * n as u64 + 1), mix(3 * n as u64 + 2));
    let id = format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    );
    (id, 1 + c % 4096, LATEST - (c >> 13) % YEAR)
}

/// Returns the facts about a cache of `images`, without making it.
pub(crate) fn facts(images: usize) -> Facts {
    let mut all: Vec<(u64, u64)> = (0..images).map(entry).map(|(_, size, used)| (used, size)).collect();
    all.sort_unstable();
    let mut size: u64 = all.iter().map(|(_, size)| size).sum();
    let limit = size / 2;
    let mut gone = 0;
    while size > limit {
        size -= all[gone].1;
        gone += 1;
    }
    let cutoff = all.get(gone).map_or(0, |(used, _)| *used as i64);
    Facts { limit, cutoff, left: images - gone }
}

/// Makes a cache of `images`, with `partials` invalid and as many stalled entries.
pub(crate) fn cache(dir: &Path, driver: Driver, images: usize, partials: usize) -> anyhow::Result<()> {
    cache::make(dir, driver);
    for n in 0..images {
        file(dir, n, driver)?;
    }
    for n in 0..partials {
        file(&dir.join("invalid"), n, driver)?;
        file(&dir.join("incomplete"), n, driver)?;
    }
    if driver == Driver::Sqlite {
        let mut db = rusqlite::Connection::open(dir.join("cache.db"))?;
        db.execute_batch("PRAGMA synchronous = OFF")?;
        let transaction = db.transaction()?;
        let mut insert = transaction.prepare("INSERT INTO cached_images VALUES (?1, ?2, ?2, ?3, 0, NULL)")?;
        for (id, size, used) in (0..images).map(entry) {
            insert.execute((id, used as f64 / 1e6, size as i64))?;
        }
        drop(insert);
        transaction.commit()?;
    }
    Ok(())
}

/// The directories of a host's caches.
pub(crate) const MASTERS: [&str; 3] = ["iso", "instance", "tftp"];
/// The length of a master image.
pub(crate) const MASTER: u64 = 1024;

/// Makes a directory of master images, in the order of their last uses, because the change time counts.
pub(crate) fn masters(dir: &Path, images: usize) -> anyhow::Result<()> {
    fs::create_dir_all(dir)?;
    for n in 0..images {
        let file = File::create_new(dir.join(entry(n).0))?;
        file.set_len(MASTER)?;
        let used = Timespec { tv_sec: last_use(n) / 1_000_000, tv_nsec: 0 };
        futimens(&file, &Timestamps { last_access: used, last_modification: used })?;
    }
    Ok(())
}

/// Returns the time when a master image was last read, in microseconds since the epoch.
fn last_use(n: usize) -> i64 {
    (LATEST as i64) - 1_000_000 * (10_000_000 - n as i64)
}

/// Returns the time of the last read of the first image of the later half.
pub(crate) fn middle(images: usize) -> i64 {
    last_use(images / 2)
}

fn file(dir: &Path, n: usize, driver: Driver) -> anyhow::Result<()> {
    let (id, size, used) = entry(n);
    let file = File::create_new(dir.join(id))?;
    file.set_len(size)?;
    if driver == Driver::Xattr {
        fsetxattr(&file, "user.hits", b"0", XattrFlags::empty())?;
    }
    let used = Timespec { tv_sec: (used / 1_000_000) as i64, tv_nsec: (used % 1_000_000 * 1000) as _ };
    futimens(&file, &Timestamps { last_access: used, last_modification: used })?;
    Ok(())
}

/// Returns a number that looks random (the finaliser of splitmix64).
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
