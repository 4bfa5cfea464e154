//! Free space of a file system, and the wait for blocks that are freed in the background.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{StatVfs, fstatvfs};

/// How long freed blocks are waited for before the next image goes ...
const SETTLE: Duration = Duration::from_secs(2);

/// ... and how long in all: blocks that somebody holds never come.
const PATIENCE: Duration = Duration::from_secs(10);

/// With so few bytes missing, the blocks of our own directories count.
pub(crate) const CLOSE: u64 = 1 << 20;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The free space of a file system, and how much of it there should be.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    fd: BorrowedFd<'a>,
    /// Bytes that are to be free.
    pub(crate) required: u64,
    /// Bytes that were free when it was last measured for good.
    pub(crate) base: u64,
    /// Bytes released since.
    pub(crate) released: u64,
    /// How long may still be waited in all.
    patience: Duration,
    /// Whether the file system once did not tell: from then on nothing is missing, so that no image goes on a guess.
    blind: Cell<bool>,
}

impl<'a> Space<'a> {
    pub(crate) fn new(fd: BorrowedFd<'a>, required: u64) -> Result<Self> {
        let mut space =
            Space { fd, required, base: 0, released: 0, patience: PATIENCE, blind: Cell::new(false) };
        space.base = space.figures().map(|fs| available(&fs)).context("cannot ask for the free space")?;
        Ok(space)
    }

    pub(crate) fn figures(&self) -> rustix::io::Result<StatVfs> {
        rustix::io::retry_on_intr(|| fstatvfs(self.fd))
    }

    /// Bytes that are missing now, as far as can be told.
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

    pub(crate) fn is_close(&self) -> bool {
        (1..=CLOSE).contains(&self.missing())
    }

    /// Takes what is free now for what there is, whoever made it.
    pub(crate) fn measure(&mut self) {
        self.base = self.figures().map_or(self.base.saturating_add(self.released), |fs| available(&fs));
        self.released = 0;
    }

    /// Whether the space is there. When only the blocks just released are not there yet, they are waited for.
    pub(crate) fn is_there(&mut self) -> bool {
        self.missing() == 0 || self.has_settled()
    }

    /// Whether it is there after a wait for the blocks just released, which without enough of those there is not.
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

/// Bytes that an ordinary user may still write to the file system (`f_bavail`), as Ironic and `df` count. One that counts no
/// blocks at all (ramfs) does not say, and is taken to have room.
pub(crate) fn available(fs: &StatVfs) -> u64 {
    if fs.f_blocks == 0 { u64::MAX } else { fs.f_bavail.saturating_mul(fs.f_frsize) }
}

/// The size of the file system in bytes, as `df` shows it.
pub(crate) fn capacity(fs: &StatVfs) -> u64 {
    fs.f_blocks.saturating_mul(fs.f_frsize)
}
