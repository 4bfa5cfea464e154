//! The sqlite index: Glance's `cache.db`, one row per image.
//!
//! **What a transaction costs Glance.** Glance gives up after two seconds of "database is locked". Whoever calls keeps
//! transactions short; this file makes sure that nothing but the disk itself can make one fail after it has begun: it takes
//! EXCLUSIVE at once (after `BEGIN IMMEDIATE` a reader could still make `COMMIT` fail), and `forget` ends by writing the
//! journal and the changed pages, so that `COMMIT` needs no more room on a full disk.
//!
//! **What is opened.** SQLite opens by path, and follows what it finds there. So the index must be a regular file with one
//! link, looked at before; the descriptor that SQLite got is compared with it after, before the first statement; all of it
//! as the cache directory's owner. While it is open, this process opens no other descriptor of that file: closing one would
//! drop SQLite's POSIX locks.
//!
//! **What can still keep us waiting.** SQLite opens a journal that it finds to read it, and opening a FIFO waits for its other end.
//! So what stands there is looked at before each transaction; whoever owns the directory and puts a FIFO there in the
//! microseconds after makes the command wait until a second signal ends it. Nothing is lost by that.
//!
//! **What a look may do.** list, status and dry runs take the shared lock and write nothing: no roll-back of a hot journal, no
//! WAL files. Where reading would need that, they say so instead.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::{Claim, Index, Refusal, Target};
use crate::cache::dir::{CacheDir, Place};
use crate::cache::entry::{BadRow, Image, Row};
use crate::cache::inventory::Joiner;
use crate::cache::lock::StartGate;
use crate::interrupt::{Interrupt, Wait};
use crate::names::{ImageId, Name, NameBuf, escaped};
use crate::os::locks::{holders, process};
use crate::os::owner::Owner;
use crate::os::space::available;
use crate::units::seconds;

/// Glance's own table (`glance/image_cache/drivers/sqlite.py`), the same in all releases from Yoga on.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS cached_images (
    image_id TEXT PRIMARY KEY,
    last_accessed REAL DEFAULT 0.0,
    last_modified REAL DEFAULT 0.0,
    size INTEGER DEFAULT 0,
    hits INTEGER DEFAULT 0,
    checksum TEXT
)";

const DELETE: &str = "DELETE FROM cached_images WHERE rowid = ?1 AND image_id = ?2";

/// As `DELETE`, and only if the row still says what it said.
const DELETE_UNCHANGED: &str = "DELETE FROM cached_images WHERE rowid = ?1 AND image_id = ?2 \
                                AND last_accessed = ?3 AND hits = ?4";

/// Rows read under one shared lock: a writer waits some milliseconds at most.
const PAGE: i64 = 20_000;

/// KiB of pages that may be in memory. The rows of a batch lie all over the index; with SQLite's own 2 MiB its changed pages
/// spill in mid-transaction, and each spill syncs the journal. This holds the ids of 100,000 images, and what of the table is at hand.
const PAGE_CACHE: u32 = 6 * 1024;

/// How long SQLite itself waits before it asks us whether to go on: meanwhile new readers queue behind the writer.
const SLICE: Duration = Duration::from_millis(200);

/// How long others are let in between two slices: longer than Glance's pause between two tries (50 ms).
const BREAK: Duration = Duration::from_millis(60);

/// Bytes that must fit on a disk that is not full: a journal of some pages.
const PROBE: usize = 64 * 1024;

/// What an index is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Nothing is written, not even to recover.
    Look,
    Change,
    /// As `Change`, and the table is made when it is missing.
    Create,
}

/// What was found where the index should be.
#[derive(Debug)]
pub(crate) enum Found {
    /// No file, an empty one, or one without Glance's table: no image is tracked.
    Nothing,
    Index(Sqlite),
    /// There is one, but reading it would need a write first; the text says why.
    Unreadable(String),
}

/// Where the index file is: its directory held open, its name, and the path to tell people and SQLite.
#[derive(Debug)]
pub(crate) struct Location {
    dir: OwnedFd,
    name: NameBuf,
    path: PathBuf,
    owner: Owner,
    /// Whether this is the place of a `cache.db`: what has no table of its images is another program's.
    is_index: bool,
}

impl Location {
    /// Finds the index of a cache; `file` is `image_cache_sqlite_db`, relative to the cache directory or absolute.
    ///
    /// Fails when the directory the file should be in does not exist.
    pub(crate) fn new(dir: &CacheDir, file: &Path) -> Result<Self> {
        let path = std::path::absolute(dir.path().join(file))?;
        let not_a_file = || format!("image_cache_sqlite_db {} names no file", file.display());
        let name = file.file_name().with_context(not_a_file)?;
        let name = NameBuf::new(name.as_encoded_bytes()).with_context(not_a_file)?;
        let base = dir.fd(Place::Base).context("the cache directory is always open")?;
        // The directory part leads where the operator's setting says; only the last component must not be a link.
        let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir_fd = openat(base, parent, flags, Mode::empty())
            .with_context(|| format!("cannot open the directory of the image index {}", path.display()))?;
        Ok(Location { dir: dir_fd, name, path, owner: dir.owner(), is_index: true })
    }

    /// Finds a database that belongs to no cache directory; it is opened as the owner of the directory it is in.
    ///
    /// Fails when that directory does not exist.
    pub(super) fn alone(file: &Path) -> Result<Self> {
        let path = std::path::absolute(file)?;
        let not_a_file = || format!("{} names no file", file.display());
        let name = path.file_name().with_context(not_a_file)?;
        let name = NameBuf::new(name.as_encoded_bytes()).with_context(not_a_file)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shown = || format!("cannot open the directory of the database {}", path.display());
        let parent = path.parent().with_context(not_a_file)?;
        let dir = rustix::fs::open(parent, flags, Mode::empty()).with_context(shown)?;
        let stat = rustix::fs::fstat(&dir).with_context(shown)?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(Location { dir, name, path, owner, is_index: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn stat(&self, name: Name<'_>) -> Result<Option<Stat>> {
        match statat(&self.dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot look at image index {}", self.path.display())),
        }
    }

    /// Looks at a file that goes with the index (`suffix` "-journal", "-wal", "-shm"), or at the index itself ("").
    ///
    /// Anything but a regular file with one link is refused: SQLite would follow it.
    fn checked(&self, suffix: &str) -> Result<Option<Stat>> {
        let name = NameBuf::new(&[self.name.as_name().as_bytes(), suffix.as_bytes()].concat())
            .context("file name too long")?;
        let Some(stat) = self.stat(name.as_name())? else {
            return Ok(None);
        };
        let shown = || format!("{}{suffix}", self.path.display());
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            bail!("image index {} is not a regular file, and is not opened", shown());
        }
        if stat.st_nlink > 1 {
            bail!(
                "image index {} has {} links, and is not opened: another file may be meant",
                shown(),
                stat.st_nlink
            );
        }
        Ok(Some(stat))
    }

    /// Says whose the file is, when the owner of the cache, as whom it is opened, may be kept out by that.
    fn strangers(&self, stat: &Stat) -> String {
        if stat.st_uid == self.owner.uid {
            return String::new();
        }
        format!(
            " (it belongs to user {}, not to user {} who owns the cache directory: chown it)",
            stat.st_uid, self.owner.uid
        )
    }

    /// Reads bytes 18 and 19 of the file: 2 means that the database is in WAL mode. Must not be called while SQLite has it.
    fn is_wal(&self, expected: &Stat) -> Result<bool> {
        let _owner = self.owner.act()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = openat(&self.dir, self.name.as_name().as_c_str(), flags, Mode::empty())
            .with_context(|| self.cannot_open())?;
        let stat = rustix::fs::fstat(&file).with_context(|| self.cannot_open())?;
        if (stat.st_dev, stat.st_ino) != (expected.st_dev, expected.st_ino) {
            return Err(self.exchanged());
        }
        let mut header = [0_u8; 20];
        let length = rustix::io::pread(&file, &mut header, 0).with_context(|| self.cannot_open())?;
        Ok(length == header.len() && header[18..] == [2, 2])
    }

    fn cannot_open(&self) -> String {
        format!("cannot open image index {}", self.path.display())
    }

    fn exchanged(&self) -> anyhow::Error {
        anyhow!("image index {} was exchanged while it was opened: nothing was written", self.path.display())
    }
}

/// Glance's `cache.db`, open.
#[derive(Debug)]
pub(crate) struct Sqlite {
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    location: Location,
    /// Device and inode of the file.
    identity: (u64, u64),
    purpose: Purpose,
    /// What to say when it cannot be written: whose it is, if that may be the reason.
    strangers: String,
    gate: Option<StartGate>,
    /// SQLite's count of other connections' commits, as last seen.
    data_version: i64,
}

impl Drop for Sqlite {
    /// Closing can remove a WAL, by path: that too is done as the owner.
    fn drop(&mut self) {
        if let Ok(_owner) = self.location.owner.act() {
            drop(self.connection.take());
        }
    }
}

impl Sqlite {
    /// Opens the index at a location.
    pub(crate) fn open(location: Location, purpose: Purpose, wait: &Wait) -> Result<Found> {
        let stat = match location.checked("")? {
            Some(stat) => stat,
            None if purpose == Purpose::Create => Self::make_file(&location)?,
            None => return Ok(Found::Nothing),
        };
        if stat.st_size == 0 && purpose != Purpose::Create {
            return Ok(Found::Nothing);
        }
        location.checked("-journal")?;
        let wal = location.checked("-wal")?;
        let shm = location.checked("-shm")?;
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut path = location.path.clone();
        if purpose == Purpose::Look {
            flags |= OpenFlags::SQLITE_OPEN_READ_ONLY;
            if location.is_wal(&stat)? {
                if wal.is_none() || shm.is_none() {
                    return Ok(Found::Unreadable(format!(
                        "{} is in WAL mode and nobody has it open: reading it would make files beside it",
                        location.path.display()
                    )));
                }
                flags |= OpenFlags::SQLITE_OPEN_URI;
                path = uri(&location.path, "readonly_shm=1");
            }
        } else {
            flags |= OpenFlags::SQLITE_OPEN_READ_WRITE;
        }
        let connection = Self::connect(&location, &stat, &path, flags)?;
        let strangers = location.strangers(&stat);
        let identity = (stat.st_dev, stat.st_ino);
        Sqlite {
            connection: Some(connection),
            location,
            identity,
            purpose,
            strangers,
            gate: None,
            data_version: 0,
        }
        .prepare(wait)
    }

    /// Shuts this gate during transactions.
    pub(crate) fn guard_start(&mut self, gate: Option<StartGate>) {
        self.gate = gate;
    }

    fn open_gate(&self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
    }

    /// Lets a signal end statements, whatever the database itself makes them do (views, triggers); `None` lets it not.
    fn mind(&mut self, interrupt: Option<Interrupt>) -> rusqlite::Result<()> {
        let connection =
            self.connection.as_mut().expect("the connection is there until the index is dropped");
        connection.progress_handler(100_000, interrupt.map(|interrupt| move || interrupt.raised()))
    }

    fn db(&self) -> &Connection {
        self.connection.as_ref().expect("the connection is there until the index is dropped")
    }

    /// Opens the database and makes sure, before any statement runs, that SQLite's descriptor is of the file that was looked at.
    fn connect(location: &Location, expected: &Stat, path: &Path, flags: OpenFlags) -> Result<Connection> {
        let _owner = location.owner.act()?;
        let before = open_descriptors()?;
        let connection = Connection::open_with_flags(path, flags)
            .with_context(|| format!("{}{}", location.cannot_open(), location.strangers(expected)))?;
        let opened = open_descriptors()?;
        let mut new = opened.iter().filter(|fd| !before.contains(fd));
        let same = |fd: &&String| {
            rustix::fs::stat(format!("/proc/self/fd/{fd}").as_str())
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (expected.st_dev, expected.st_ino))
        };
        if new.clone().next().is_none() || !new.all(|fd| same(&fd)) {
            return Err(location.exchanged());
        }
        Ok(connection)
    }

    fn make_file(location: &Location) -> Result<Stat> {
        let _owner = location.owner.act()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = openat(&location.dir, location.name.as_name().as_c_str(), flags, mode)
            .with_context(|| format!("cannot make image index {}", location.path.display()))?;
        Ok(rustix::fs::fstat(&file)?)
    }

    fn prepare(mut self, wait: &Wait) -> Result<Found> {
        self.mind(Some(wait.interrupt.clone()))?;
        let purpose = self.purpose;
        let _owner = self.location.owner.act()?;
        self.db().busy_timeout(SLICE)?;
        if purpose == Purpose::Create {
            self.patiently(wait, |c| c.execute_batch(TABLE)).map_err(Refusal::into_error)?;
        }
        let tables = self.patiently(wait, |c| {
            c.query_row("SELECT count(*), total(name = 'cached_images') FROM sqlite_schema", [], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, f64>(1)?))
            })
        });
        match tables {
            Ok((0, _)) => return Ok(Found::Nothing),
            Ok((_, 0.0)) if self.location.is_index => bail!(
                "{} is a database, but not an image index of Glance: it has no table cached_images",
                self.location.path.display()
            ),
            Ok(_) => {}
            Err(Refusal::NeedsWrite(_)) => {
                return Ok(Found::Unreadable(format!(
                    "{} has a journal of a killed process to roll back, which only a changing command does",
                    self.location.path.display()
                )));
            }
            Err(Refusal::Busy(e)) if purpose == Purpose::Look => return Ok(Found::Unreadable(e.to_string())),
            Err(refusal) => return Err(refusal.into_error()),
        }
        if purpose != Purpose::Look {
            // Never MEMORY or OFF, whatever this SQLite was built with: the roll-back must survive us.
            let mode: String = self
                .patiently(wait, |c| c.query_row("PRAGMA journal_mode", [], |r| r.get(0)))
                .map_err(Refusal::into_error)?;
            if !["delete", "truncate", "persist", "wal"].contains(&mode.as_str()) {
                self.db().query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
            }
            if self.location.is_index && mode != "wal" {
                // As Glance's own connections: a third of the syncs less, while Glance waits. With a WAL no commit would be synced
                // then, and a power failure bring back the rows of more than one batch.
                self.db().execute_batch("PRAGMA synchronous = NORMAL")?;
            }
            // No temporary files: the disk may be full.
            self.db().execute_batch("PRAGMA temp_store = MEMORY")?;
            self.db().execute_batch(&format!("PRAGMA cache_size = -{PAGE_CACHE}"))?;
        }
        Ok(Found::Index(self))
    }

    /// As `patiently`, as the owner of the file.
    pub(super) fn run<T>(
        &self,
        wait: &Wait,
        run: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Refusal> {
        let _owner = self.location.owner.act().map_err(Refusal::Broken)?;
        self.patiently(wait, run)
    }

    /// Runs a statement, again and again while the database is busy, until the wait is over.
    fn patiently<T>(
        &self,
        wait: &Wait,
        mut run: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Refusal> {
        let deadline = wait.deadline();
        loop {
            // What SQLite finds there it opens to read, and would wait for the other end of a FIFO.
            self.location.checked("-journal").map_err(Refusal::Broken)?;
            match run(self.db()) {
                Ok(value) => return Ok(value),
                Err(e) => match self.refusal(&e) {
                    Refusal::Busy(_) if wait.interrupt.raised() => return Err(Refusal::Interrupted),
                    // Glance's turn: a writer that waits keeps new readers out.
                    Refusal::Busy(_) if Instant::now() < deadline => std::thread::sleep(BREAK),
                    Refusal::Busy(_) => return Err(Refusal::Busy(self.still_busy(wait))),
                    refusal => return Err(refusal),
                },
            }
        }
    }

    /// Says who kept the index busy, as far as the kernel tells.
    fn still_busy(&self, wait: &Wait) -> anyhow::Error {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let (device, inode) = self.identity;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let holders: Vec<String> =
            holders(&locks, device, inode).into_iter().filter(|pid| *pid != own).map(process).collect();
        let who = if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") };
        let seconds = wait.limit.as_secs_f64();
        anyhow!("image index {} was still locked by {who} after {seconds:.0} s", self.location.path.display())
    }

    /// Tells why SQLite refused, with the path and, where known, what to do.
    fn refusal(&self, error: &rusqlite::Error) -> Refusal {
        let path = self.location.path.display();
        // SQLite quotes what stands in the database.
        let why = escaped(error.to_string().as_bytes());
        let full = || Refusal::Full(anyhow!("no space left for the journal of image index {path}"));
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Refusal::Busy(anyhow!("image index {path} is locked: {why}"))
            }
            Some(ErrorCode::OperationInterrupted) => Refusal::Interrupted,
            Some(ErrorCode::DiskFull) => full(),
            // SQLite reports a journal it could not create, or a write that failed, without the reason.
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) if self.disk_is_full() => full(),
            Some(ErrorCode::ReadOnly) if self.purpose == Purpose::Look => {
                Refusal::NeedsWrite(anyhow!("image index {path} cannot be read without writing: {why}"))
            }
            Some(ErrorCode::ReadOnly) => {
                Refusal::Broken(anyhow!("image index {path} cannot be written{}: {why}", self.strangers))
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Refusal::Broken(anyhow!("image index {path} is damaged: {why}"))
            }
            Some(ErrorCode::CannotOpen) => {
                Refusal::Broken(anyhow!("cannot open image index {path} or its journal: {why}"))
            }
            _ => Refusal::Broken(anyhow!("cannot use image index {path}: {why}")),
        }
    }

    /// Whether the owner of the cache can write nothing more here, be it for want of blocks, of inodes or of quota. SQLite does not
    /// tell, and free space says nothing of quotas: a file without a name shows it, and is gone when it is closed.
    fn disk_is_full(&self) -> bool {
        let full = |e| matches!(e, Errno::NOSPC | Errno::DQUOT);
        let Ok(_owner) = self.location.owner.act() else { return false };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match openat(&self.location.dir, c".", flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => file,
            // No such files on this file system: a little space is taken for none.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                return rustix::fs::fstatvfs(self.location.dir.as_fd())
                    .is_ok_and(|fs| available(&fs) < PROBE as u64 || (fs.f_files > 0 && fs.f_favail == 0));
            }
            Err(e) => return full(e),
        };
        let mut written = 0;
        while written < PROBE {
            match rustix::io::write(&file, &[0; 4096]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(e) => return full(e),
            }
        }
        false
    }

    fn try_forget(&self, targets: &[Target]) -> rusqlite::Result<Vec<bool>> {
        let mut forgotten = vec![false; targets.len()];
        // In the order of the table, so that each of its pages is come to once.
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_unstable_by_key(|at| key(&targets[*at]));
        let mut goes = false;
        for at in order {
            let target = &targets[at];
            let is_deleted = self.delete(target)?;
            goes |= is_deleted && matches!(target.claim, Claim::Unchanged(_));
            forgotten[at] = is_deleted || (key(target).is_none() && self.claim_holds(target)?);
        }
        if goes {
            self.secure()?;
        }
        Ok(forgotten)
    }

    /// Deletes the row of a target whose claim holds, and tells whether it did.
    ///
    /// A trigger may keep the row: then it is not forgotten, and its file stays.
    fn delete(&self, target: &Target) -> rusqlite::Result<bool> {
        let Some(key) = key(target) else { return Ok(false) };
        let id = target.id.as_str();
        if let Claim::Unchanged(row) = target.claim {
            // One statement for all rows but those that hold something else than numbers, and those that were used.
            let mut delete = self.db().prepare_cached(DELETE_UNCHANGED)?;
            if delete.execute(params![key, id, row.last_accessed, row.hits])? == 1 {
                return Ok(true);
            }
        }
        Ok(self.claim_holds(target)? && self.db().prepare_cached(DELETE)?.execute(params![key, id])? == 1)
    }

    fn claim_holds(&self, target: &Target) -> rusqlite::Result<bool> {
        let id = target.id.as_str();
        match target.claim {
            Claim::Row(_) => Ok(true),
            Claim::NoRow => Ok(!self
                .db()
                .prepare_cached("SELECT 1 FROM cached_images WHERE image_id = ?1")?
                .exists([id])?),
            Claim::Unchanged(row) => {
                let mut now = self.db().prepare_cached(
                    "SELECT last_accessed, hits FROM cached_images WHERE rowid = ?1 AND image_id = ?2",
                )?;
                let now = now
                    .query_row(params![row.key, id], |r| Ok((real(r.get_ref(0)?), integer(r.get_ref(1)?))))
                    .optional()?;
                Ok(now.is_some_and(|(used, hits)| {
                    used.to_bits() == row.last_accessed.to_bits() && hits == row.hits
                }))
            }
        }
    }

    /// Inserts rows; `conflict` says what becomes of one that is there.
    fn insert(&self, conflict: &str, images: &[Image]) -> rusqlite::Result<u64> {
        let mut insert = self.db().prepare_cached(&format!(
            "INSERT OR {conflict} INTO cached_images (image_id, last_accessed, last_modified, size, hits) \
             VALUES (?1, ?2, ?3, ?4, 0)",
        ))?;
        let mut inserted = 0;
        for image in images {
            let seen = &image.seen;
            let size = i64::try_from(seen.size).unwrap_or(i64::MAX);
            let (used, modified) = (seconds(seen.last_use()), seconds(seen.mtime));
            inserted += insert.execute(params![image.id.as_str(), used, modified, size])? as u64;
        }
        Ok(inserted)
    }

    /// Before files go, puts on disk whatever the commit will need: the journal, with the page that the commit itself changes (setting the
    /// user version to what it is touches that page and nothing else), and the pages changed so far.
    pub(super) fn secure(&self) -> rusqlite::Result<()> {
        let version: i32 = self.db().query_row("PRAGMA user_version", [], |r| r.get(0))?;
        self.db().execute_batch(&format!("PRAGMA user_version = {version}"))?;
        self.db().cache_flush()
    }

    fn try_commit(&self, gone: Option<&[Target]>) -> rusqlite::Result<()> {
        if let Some(gone) = gone {
            self.db().execute_batch("ROLLBACK TO batch")?;
            let mut delete = self.db().prepare_cached(DELETE)?;
            for target in gone {
                if let Some(key) = key(target) {
                    delete.execute(params![key, target.id.as_str()])?;
                }
            }
        }
        self.db().execute_batch("COMMIT")
    }

    /// Runs a change inside the open transaction, as the owner of the cache.
    pub(super) fn change<T>(&self, run: impl FnOnce(&Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        let _owner = self.location.owner.act().map_err(Refusal::Broken)?;
        run(self).map_err(|e| self.refusal(&e))
    }
}

impl Index for Sqlite {
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()> {
        let _owner = self.location.owner.act()?;
        let mut last = Some(i64::MIN);
        while let Some(after) = last {
            // A busy database answers so before the first row, so that no row is joined twice.
            last = self.patiently(wait, |c| read_page(c, after, joiner)).map_err(|refusal| {
                refusal
                    .into_error()
                    .context(format!("cannot read the rows of image index {}", self.location.path.display()))
            })?;
        }
        Ok(())
    }

    fn begin(&mut self, wait: &Wait) -> Result<(), Refusal> {
        self.mind(Some(wait.interrupt.clone())).map_err(|e| self.refusal(&e))?;
        if let Some(gate) = &self.gate {
            gate.shut();
        }
        let owner = self.location.owner.act().map_err(Refusal::Broken)?;
        let begun = self
            .patiently(wait, |c| c.execute_batch("BEGIN EXCLUSIVE"))
            .and_then(|()| self.db().execute_batch("SAVEPOINT batch").map_err(|e| self.refusal(&e)));
        drop(owner);
        begun.inspect_err(|_| self.abandon())
    }

    fn forget(&mut self, targets: &[Target]) -> Result<Vec<bool>, Refusal> {
        self.change(|index| index.try_forget(targets))
    }

    fn holds(&mut self, target: &Target) -> Result<bool, Refusal> {
        self.change(|index| index.claim_holds(target))
    }

    fn commit(&mut self, gone: Option<&[Target]>) -> Result<(), Refusal> {
        // Files are gone by now: their rows must go, signal or not.
        self.mind(None).map_err(|e| self.refusal(&e))?;
        let committed = self.change(|index| index.try_commit(gone));
        if committed.is_ok() {
            self.open_gate();
        } else {
            self.abandon();
        }
        committed
    }

    fn abandon(&mut self) {
        if let Ok(_owner) = self.location.owner.act()
            && !self.db().is_autocommit()
        {
            // What cannot be rolled back now is rolled back by whoever opens the index next.
            let _ = self.db().execute_batch("ROLLBACK");
        }
        self.open_gate();
    }

    fn others_wrote(&mut self) -> bool {
        let version =
            self.db().query_row("PRAGMA data_version", [], |r| r.get(0)).unwrap_or(self.data_version);
        let first = self.data_version == 0;
        std::mem::replace(&mut self.data_version, version) != version && !first
    }

    fn is_paged(&self) -> bool {
        true
    }

    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        self.change(|index| index.insert("IGNORE", orphans))
    }

    fn record(&mut self, image: &Image) -> Result<(), Refusal> {
        self.change(|index| index.insert("REPLACE", std::slice::from_ref(image)).map(drop))
    }

    fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        self.change(|index| {
            let mut look =
                index.db().prepare_cached("SELECT image_id FROM cached_images WHERE rowid = ?1")?;
            let mut delete = index.db().prepare_cached("DELETE FROM cached_images WHERE rowid = ?1")?;
            let mut dropped = 0;
            for row in rows {
                let is_bad = look.query_row([row.key], |r| Ok(is_bad_id(r.get_ref(0)?))).optional()?;
                if is_bad == Some(true) {
                    dropped += delete.execute([row.key])? as u64;
                }
            }
            Ok(dropped)
        })
    }
}

/// The row a target has, if it has one.
fn key(target: &Target) -> Option<i64> {
    match target.claim {
        Claim::Unchanged(row) => Some(row.key),
        Claim::Row(key) => Some(key),
        Claim::NoRow => None,
    }
}

/// Joins the rows after `last`, and returns the last one joined when there may be more.
fn read_page(connection: &Connection, last: i64, joiner: &mut Joiner<'_>) -> rusqlite::Result<Option<i64>> {
    let mut page = connection.prepare_cached(
        "SELECT rowid, image_id, last_accessed, last_modified, size, hits FROM cached_images \
         WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
    )?;
    let mut rows = page.query([last, PAGE])?;
    let (mut count, mut key) = (0, last);
    while let Some(row) = rows.next()? {
        key = row.get(0)?;
        let found = Row {
            key,
            last_accessed: real(row.get_ref(2)?),
            last_modified: real(row.get_ref(3)?),
            size: integer(row.get_ref(4)?),
            hits: integer(row.get_ref(5)?),
        };
        match row.get_ref(1)? {
            ValueRef::Text(id) => joiner.row(id, found),
            id => joiner.bad_row(key, escaped(&raw(id))),
        }
        count += 1;
    }
    Ok((count == PAGE).then_some(key))
}

/// Whether a row's id can name no image: Glance puts text there, and a UUID.
fn is_bad_id(id: ValueRef<'_>) -> bool {
    !matches!(id, ValueRef::Text(id) if ImageId::new(id).is_some())
}

/// The raw image id of a row: Glance puts text there, SQLite lets anything stand there.
fn raw(value: ValueRef<'_>) -> std::borrow::Cow<'_, [u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
        ValueRef::Null => b"NULL"[..].into(),
        ValueRef::Integer(i) => i.to_string().into_bytes().into(),
        ValueRef::Real(f) => f.to_string().into_bytes().into(),
    }
}

fn real(value: ValueRef<'_>) -> f64 {
    match value {
        ValueRef::Null => f64::NEG_INFINITY,
        ValueRef::Integer(i) => i as f64,
        ValueRef::Real(f) => f,
        ValueRef::Text(_) | ValueRef::Blob(_) => f64::INFINITY,
    }
}

fn integer(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(i) => i,
        ValueRef::Real(f) => f as i64,
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
    }
}

/// The names of this process's descriptors, without the one that lists them.
fn open_descriptors() -> Result<Vec<String>> {
    let shown = "cannot see which files this process has open: /proc must be mounted";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).context(shown)?;
    let own = listing.as_raw_fd().to_string();
    let mut names = Vec::new();
    for entry in Dir::new(listing).context(shown)? {
        names.push(entry.context(shown)?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| *name != own && !name.starts_with('.'));
    Ok(names)
}

/// Returns a path as the URI form that SQLite takes options in.
fn uri(path: &Path, options: &str) -> PathBuf {
    let mut text = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                text.push(char::from(*byte));
            }
            byte => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    PathBuf::from(format!("{text}?{options}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris_that_mean_the_same_file() {
        assert_eq!(uri(Path::new("/a b/c?d#e%"), "x=1"), Path::new("file:/a%20b/c%3Fd%23e%25?x=1"));
    }
}
