//! The locks that glance-api and its tools take, so that no two of them change a cache at the same time.
//!
//! They are oslo.concurrency's external locks: POSIX record locks (`fcntl`, the whole file, for writing). An
//! flock would not be noticed. oslo never removes the files, but `DELETE /v2/cache` removes the lock files of
//! a cache with its images. So after a lock is taken, its name must still lead to the locked inode; otherwise
//! the lock is taken again on the new file.
//!
//! A POSIX lock is released when *any* descriptor of the file is closed in this process. So nothing else here
//! opens these files. After a crash the kernel releases the lock; the empty file stays.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, XattrFlags, fcntl_lock, fsetxattr, fstat, openat, statat,
};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};

use super::dir::{CacheDir, CachePlace};
use crate::interrupt::Wait;
use crate::os::locks::{Held, process};
use crate::os::owner::Owner;

/// The lock of a clean: `POST /v2/cache/clean` takes it, too.
pub(crate) const CLEAN: &str = "glance-cache-clean";
/// The lock of a prune and of a repair: `POST /v2/cache/prune` takes it, too.
pub(crate) const PRUNE: &str = "glance-cache-prune";
/// The lock of a prefetch: Glance's own prefetcher takes it, too.
pub(crate) const PREFETCH: &str = "glance-cache";

/// The lock under which Glance's sqlite driver makes its table when it starts. It does not wait for a busy
/// index then.
const INDEX_START: &str = "image_cache_db_init";

/// All names of lock files.
pub(crate) const LOCKS: [&str; 4] = [CLEAN, PRUNE, PREFETCH, INDEX_START];

/// oslo.concurrency's own pauses: 10 ms, then 10 ms more each time, up to about 100 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The patience of an operation that needs a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockWait {
    pub(crate) limit: Duration,
    /// True if the operation ends at once when another process holds the lock.
    pub(crate) skip_if_locked: bool,
}

impl LockWait {
    /// True if a run with this error is to be skipped: another process holds a lock, or the index.
    pub(crate) fn skips(&self, error: &anyhow::Error) -> bool {
        self.skip_if_locked && error.downcast_ref::<Held>().is_some()
    }
}

/// The directory of the lock files.
#[derive(Debug)]
pub(crate) struct LockDir {
    dir: OwnedFd,
    path: PathBuf,
    owner: Owner,
    is_cache_directory: bool,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
#[must_use = "the lock is released when it is dropped"]
pub(crate) struct Lock {
    _file: OwnedFd,
}

/// Keeps Glance's sqlite driver from starting in the middle of a transaction: it would fail instead of
/// waiting for the index.
#[derive(Debug)]
pub(crate) struct StartGate(OwnedFd);

impl StartGate {
    /// The time to wait for a Glance that is just starting. It may be hanging, so work goes on after that.
    const PATIENCE: Duration = Duration::from_millis(300);

    /// Shuts the gate. A Glance that is starting is waited for, but not for long.
    pub(super) fn shut(&self) {
        let deadline = Instant::now() + Self::PATIENCE;
        while fcntl_lock(&self.0, FlockOperation::NonBlockingLockExclusive).is_err()
            && Instant::now() < deadline
        {
            std::thread::sleep(FIRST_PAUSE);
        }
    }

    /// Opens the gate.
    pub(crate) fn open(&self) {
        // If this fails, the lock ends with the process.
        let _ = fcntl_lock(&self.0, FlockOperation::NonBlockingUnlock);
    }
}

/// The result of asking for a lock.
#[derive(Debug)]
pub(crate) enum Locking {
    Held(Lock),
    /// Another process held it for longer than the wait allows; the text says which.
    Busy(String),
    /// The disk is too full for a lock file. Work goes on without the lock, and a warning says so.
    NoSpace(String),
    Interrupted,
}

impl LockDir {
    /// Opens the directory of the lock files: `[oslo_concurrency] lock_path`, or else the cache directory.
    pub(crate) fn open(lock_path: Option<&Path>, cache: &CacheDir) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = lock_path.unwrap_or(cache.path());
        let dir = match lock_path {
            Some(path) => rustix::fs::open(path, flags, Mode::empty()),
            None => openat(
                cache.fd(CachePlace::Base).context("the cache directory is always open")?,
                c".",
                flags,
                Mode::empty(),
            ),
        };
        let dir = dir.with_context(|| format!("cannot open the lock directory {}", path.display()))?;
        let is_cache_directory = lock_path.is_none();
        Ok(LockDir { dir, path: path.to_owned(), owner: cache.owner(), is_cache_directory })
    }

    /// True if the locks are in the cache directory itself.
    pub(crate) fn is_cache_directory(&self) -> bool {
        self.is_cache_directory
    }

    /// Takes a lock. Waits for it as long as `wait` says.
    pub(crate) fn take(&self, name: &str, wait: &Wait) -> Result<Locking> {
        let deadline = wait.deadline();
        let mut pause = FIRST_PAUSE;
        loop {
            let file = match self.open_file(name) {
                Ok(file) => file,
                Err(Errno::NOSPC | Errno::DQUOT) => {
                    let path = self.path.join(name);
                    return Ok(Locking::NoSpace(format!(
                        "no space left for the lock file {}",
                        path.display()
                    )));
                }
                Err(e) => {
                    return Err(e).with_context(|| {
                        format!("cannot open the lock file {}", self.path.join(name).display())
                    });
                }
            };
            let stat = fstat(&file).with_context(|| {
                format!("cannot look at the lock file {}", self.path.join(name).display())
            })?;
            if !FileType::from_raw_mode(stat.st_mode).is_file() {
                bail!("{} is no regular file, and so no lock file", self.path.join(name).display());
            }
            if self.is_cache_directory {
                // For Glance's xattr driver every file here is an image, and it cannot list one without hits.
                // Other drivers do not care. If this process is killed just before, the next run sets the
                // attribute.
                let _ = fsetxattr(&file, "user.hits", b"0", XattrFlags::CREATE);
            }
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let now = statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
                    if now.is_ok_and(|now| (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino)) {
                        return Ok(Locking::Held(Lock { _file: file }));
                    }
                }
                Err(Errno::AGAIN | Errno::ACCESS) => {}
                Err(e) => {
                    return Err(e).with_context(|| format!("cannot lock {}", self.path.join(name).display()));
                }
            }
            if wait.interrupt.raised() {
                return Ok(Locking::Interrupted);
            }
            if Instant::now() >= deadline {
                return Ok(Locking::Busy(self.busy(name, holder(&file), wait.limit)));
            }
            std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause + FIRST_PAUSE).min(LONGEST_PAUSE);
        }
    }

    /// Returns the gate to the start of Glance's sqlite driver, if its lock file exists. The file is never
    /// made here.
    pub(crate) fn start_gate(&self) -> Option<StartGate> {
        let _owner = self.owner.act().ok()?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.dir, INDEX_START, flags, Mode::empty()).ok()?;
        FileType::from_raw_mode(fstat(&file).ok()?.st_mode).is_file().then_some(StartGate(file))
    }

    /// Returns device and inode of a lock file, without opening it.
    pub(crate) fn identity(&self, name: &str) -> Option<(u64, u64)> {
        let stat = statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    fn open_file(&self, name: &str) -> Result<OwnedFd, Errno> {
        // The file is made as the owner of the cache, or glance-api could not open it. NONBLOCK keeps a FIFO
        // from blocking.
        let _owner = self.owner.act().map_err(|_| Errno::PERM)?;
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::APPEND
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::from_raw_mode(0o666))
    }

    /// Returns the message for a lock that another process holds.
    fn busy(&self, name: &str, holder: Option<Pid>, waited: Duration) -> String {
        let who =
            holder.map_or_else(|| "another process".to_owned(), |pid| process(pid.as_raw_nonzero().get()));
        let path = self.path.join(name);
        match waited.as_secs_f64() {
            0.0 => format!("{} is held by {who}", path.display()),
            seconds => format!("{} was still held by {who} after {seconds:.0} s", path.display()),
        }
    }
}

fn holder(file: &OwnedFd) -> Option<Pid> {
    fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok().flatten()?.pid
}
