//! Free space of a file system, and the wait for blocks that the file system frees in the background.
//!
//! Some file systems free the blocks of a removed file only after a while. Pruning to a wanted amount of free
//! space therefore waits a little for the blocks of files it has just removed, so that it does not remove
//! more images than it has to. This module measures and waits; it does not choose what to remove.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{StatVfs, fstatvfs};

/// The longest wait for freed blocks before the next image is removed.
const SETTLE: Duration = Duration::from_secs(2);

/// The longest wait in all, because blocks of a file that a process keeps open are never freed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest number of missing bytes that the blocks of our own directories may make up for.
pub(crate) const CLOSE: u64 = 1 << 20;

/// The pause between two measurements.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The free space of a file system, compared with the free space that is required.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    fd: BorrowedFd<'a>,
    /// Bytes that must be free.
    pub(crate) required: u64,
    /// Bytes that were free at the last measurement.
    pub(crate) base: u64,
    /// Bytes released by removing files since then.
    pub(crate) released: u64,
    /// The rest of [`PATIENCE`].
    patience: Duration,
    /// True once the file system did not answer: nothing counts as missing then, so that no image is removed
    /// on a guess.
    blind: Cell<bool>,
}

impl<'a> Space<'a> {
    /// Measures the file system of an open directory, of which `required` bytes must be free.
    pub(crate) fn new(fd: BorrowedFd<'a>, required: u64) -> Result<Self> {
        let mut space =
            Space { fd, required, base: 0, released: 0, patience: PATIENCE, blind: Cell::new(false) };
        space.base = space.figures().map(|fs| available(&fs)).context("cannot ask for the free space")?;
        Ok(space)
    }

    /// Returns the kernel's figures of the file system.
    pub(crate) fn figures(&self) -> rustix::io::Result<StatVfs> {
        rustix::io::retry_on_intr(|| fstatvfs(self.fd))
    }

    /// Returns the bytes that are missing now; 0 if the file system does not answer.
    pub(crate) fn missing(&self) -> u64 {
        match self.figures() {
            Ok(fs) if !self.blind.get() => self.required.saturating_sub(available(&fs)),
            Ok(_) => 0,
            Err(_) => {
                self.blind.set(true);
                0
            }
        }
    }

    /// True if so few bytes are missing that the blocks of our own directories may make up for them.
    pub(crate) fn is_close(&self) -> bool {
        (1..=CLOSE).contains(&self.missing())
    }

    /// Starts anew from the space that is free now, no matter which process released it.
    pub(crate) fn measure(&mut self) {
        self.base = self.figures().map_or(self.base.saturating_add(self.released), |fs| available(&fs));
        self.released = 0;
    }

    /// True if enough space is free, after a wait for released blocks if they would suffice.
    pub(crate) fn is_there(&mut self) -> bool {
        self.missing() == 0 || self.has_settled()
    }

    /// True if enough space is free after a wait for the blocks just released.
    ///
    /// False without a wait if the released blocks would not suffice.
    pub(crate) fn has_settled(&mut self) -> bool {
        if self.released == 0 || self.base.saturating_add(self.released) < self.required {
            return false;
        }
        let started = Instant::now();
        let limit = SETTLE.min(self.patience);
        while self.missing() > 0 && started.elapsed() < limit {
            std::thread::sleep(LOOK_AGAIN);
        }
        self.patience = self.patience.saturating_sub(started.elapsed());
        self.measure();
        self.base >= self.required
    }
}

/// Returns the bytes that an ordinary user may still write (`f_bavail`), as Ironic and `df` count them.
///
/// A file system that counts no blocks at all, such as ramfs, is assumed to have unlimited space.
pub(crate) fn available(fs: &StatVfs) -> u64 {
    if fs.f_blocks == 0 { u64::MAX } else { fs.f_bavail.saturating_mul(fs.f_frsize) }
}

/// Returns the size of the file system in bytes, as `df` shows it.
pub(crate) fn capacity(fs: &StatVfs) -> u64 {
    fs.f_blocks.saturating_mul(fs.f_frsize)
}
