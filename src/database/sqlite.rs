//! One SQLite file: how it is opened, and how patiently it is worked on.
//!
//! **What is opened.** SQLite opens by path, and follows what it finds there. So the file must be a regular one with one
//! link, looked at before; the descriptor that SQLite got is compared with it after, before the first statement; all of it
//! as the owner that is handed in. While it is open, this process opens no other descriptor of that file: closing one would
//! drop SQLite's POSIX locks.
//!
//! **What can still keep us waiting.** SQLite opens a journal that it finds to read it, and opening a FIFO waits for its other end.
//! So what stands there is looked at before each transaction; whoever owns the directory and puts a FIFO there in the
//! microseconds after makes the command wait until a second signal ends it. Nothing is lost by that.
//!
//! **What a look may do.** list, status and dry runs take the shared lock and write nothing: no roll-back of a hot journal, no
//! WAL files. Where reading would need that, they say so instead.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::{Opening, Purpose, Refusal};
use crate::interrupt::{Interrupt, Wait};
use crate::names::{Name, NameBuf, escaped};
use crate::os::locks::{holders, process};
use crate::os::owner::Owner;
use crate::os::space::available;

/// KiB of pages that may be in memory. The rows of a batch lie all over the index; with SQLite's own 2 MiB its changed pages
/// spill in mid-transaction, and each spill syncs the journal. This holds the ids of 100,000 images, and what of the table is at hand.
const PAGE_CACHE: u32 = 6 * 1024;

/// How long SQLite itself waits before it asks us whether to go on: meanwhile new readers queue behind the writer.
const SLICE: Duration = Duration::from_millis(200);

/// How long others are let in between two slices: longer than Glance's pause between two tries (50 ms).
const BREAK: Duration = Duration::from_millis(60);

/// Bytes that must fit on a disk that is not full: a journal of some pages.
const PROBE: usize = 64 * 1024;

/// What a file is opened as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    /// What messages call it.
    pub(crate) name: &'static str,
    /// The table it must have, and the statement that makes it: a file without it is another program's.
    pub(crate) table: Option<(&'static str, &'static str)>,
}

/// Where a database file is: its directory held open, its name, and the path to tell people and SQLite.
#[derive(Debug)]
pub(crate) struct SqlitePath {
    dir: OwnedFd,
    name: NameBuf,
    path: PathBuf,
    owner: Owner,
    contents: Contents,
}

impl SqlitePath {
    /// Finds a file below the directory `base`, whose path is `path`; `file` is relative to it or absolute.
    ///
    /// Fails when the directory the file should be in does not exist.
    pub(crate) fn below(
        base: BorrowedFd<'_>,
        path: &Path,
        file: &Path,
        owner: Owner,
        contents: Contents,
    ) -> Result<Self> {
        let path = std::path::absolute(path.join(file))?;
        let not_a_file = || format!("{} names no file", file.display());
        let name = file.file_name().with_context(not_a_file)?;
        let name = NameBuf::new(name.as_encoded_bytes()).with_context(not_a_file)?;
        // The directory part leads where the operator's setting says; only the last component must not be a link.
        let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(base, parent, flags, Mode::empty()).with_context(|| {
            format!("cannot open the directory of the {} {}", contents.name, path.display())
        })?;
        Ok(SqlitePath { dir, name, path, owner, contents })
    }

    /// Finds a file that belongs to no such directory; it is opened as the owner of the directory it is in.
    ///
    /// Fails when that directory does not exist.
    pub(super) fn alone(file: &Path, contents: Contents) -> Result<Self> {
        let path = std::path::absolute(file)?;
        let not_a_file = || format!("{} names no file", file.display());
        let name = path.file_name().with_context(not_a_file)?;
        let name = NameBuf::new(name.as_encoded_bytes()).with_context(not_a_file)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shown = || format!("cannot open the directory of the {} {}", contents.name, path.display());
        let parent = path.parent().with_context(not_a_file)?;
        let dir = rustix::fs::open(parent, flags, Mode::empty()).with_context(shown)?;
        let stat = rustix::fs::fstat(&dir).with_context(shown)?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(SqlitePath { dir, name, path, owner, contents })
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

/// A database file, open.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    location: SqlitePath,
    /// Device and inode of the file.
    identity: (u64, u64),
    purpose: Purpose,
    /// What to say when it cannot be written: whose it is, if that may be the reason.
    strangers: String,
    is_wal: bool,
}

impl Drop for SqliteFile {
    /// Closing can remove a WAL, by path: that too is done as the owner.
    fn drop(&mut self) {
        if let Ok(_owner) = self.location.owner.act() {
            drop(self.connection.take());
        }
    }
}

impl SqliteFile {
    /// Opens the index at a location.
    pub(crate) fn open(location: SqlitePath, purpose: Purpose, wait: &Wait) -> Result<Opening<Self>> {
        let stat = match location.checked("")? {
            Some(stat) => stat,
            None if purpose == Purpose::Create => Self::make_file(&location)?,
            None => return Ok(Opening::Nothing(location.path)),
        };
        if stat.st_size == 0 && purpose != Purpose::Create {
            return Ok(Opening::Nothing(location.path));
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
                    return Ok(Opening::Unreadable(format!(
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
        SqliteFile { connection: Some(connection), location, identity, purpose, strangers, is_wal: false }
            .prepare(wait)
    }

    /// Lets a signal end statements, whatever the database itself makes them do (views, triggers); `None` lets it not.
    pub(crate) fn mind(&mut self, interrupt: Option<Interrupt>) -> Result<(), Refusal> {
        let connection = self.connection.as_mut().expect("the connection is there until this is dropped");
        let handled =
            connection.progress_handler(100_000, interrupt.map(|interrupt| move || interrupt.raised()));
        handled.map_err(|e| self.refusal(&e))
    }

    pub(crate) fn db(&self) -> &Connection {
        self.connection.as_ref().expect("the connection is there until this is dropped")
    }

    /// Opens the database and makes sure, before any statement runs, that SQLite's descriptor is of the file that was looked at.
    fn connect(location: &SqlitePath, expected: &Stat, path: &Path, flags: OpenFlags) -> Result<Connection> {
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

    pub(crate) fn path(&self) -> &Path {
        &self.location.path
    }

    /// Whether it is in WAL mode; only known of one that may be changed.
    pub(crate) fn is_wal(&self) -> bool {
        self.is_wal
    }

    /// Ends an open transaction, if there is one, without what was done in it.
    pub(crate) fn roll_back(&self) {
        if let Ok(_owner) = self.location.owner.act()
            && !self.db().is_autocommit()
        {
            // What cannot be rolled back now is rolled back by whoever opens the file next.
            let _ = self.db().execute_batch("ROLLBACK");
        }
    }

    fn make_file(location: &SqlitePath) -> Result<Stat> {
        let _owner = location.owner.act()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = openat(&location.dir, location.name.as_name().as_c_str(), flags, mode)
            .with_context(|| format!("cannot make image index {}", location.path.display()))?;
        Ok(rustix::fs::fstat(&file)?)
    }

    fn prepare(mut self, wait: &Wait) -> Result<Opening<Self>> {
        self.mind(Some(wait.interrupt.clone())).map_err(Refusal::into_error)?;
        let purpose = self.purpose;
        let _owner = self.location.owner.act()?;
        self.db().busy_timeout(SLICE)?;
        if let Some((_, create)) = self.location.contents.table
            && purpose == Purpose::Create
        {
            self.patiently(wait, |c| c.execute_batch(create)).map_err(Refusal::into_error)?;
        }
        let table = self.location.contents.table;
        let name = table.map_or("", |(name, _)| name);
        let tables = self.patiently(wait, |c| {
            c.query_row("SELECT count(*), total(name = ?1) FROM sqlite_schema", [name], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, f64>(1)?))
            })
        });
        match tables {
            Ok((0, _)) => return Ok(Opening::Nothing(self.location.path.clone())),
            Ok((_, 0.0)) if table.is_some() => bail!(
                "{} is a database, but not an {} of Glance: it has no table {name}",
                self.location.path.display(),
                self.location.contents.name
            ),
            Ok(_) => {}
            Err(Refusal::NeedsWrite(_)) => {
                return Ok(Opening::Unreadable(format!(
                    "{} has a journal of a killed process to roll back, which only a changing command does",
                    self.location.path.display()
                )));
            }
            Err(Refusal::Busy(e)) if purpose == Purpose::Look => {
                return Ok(Opening::Unreadable(e.to_string()));
            }
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
            self.is_wal = mode == "wal";
            // No temporary files: the disk may be full.
            self.db().execute_batch("PRAGMA temp_store = MEMORY")?;
            self.db().execute_batch(&format!("PRAGMA cache_size = -{PAGE_CACHE}"))?;
        }
        Ok(Opening::Open(self))
    }

    /// As `patiently`, as the owner of the file.
    pub(crate) fn run<T>(
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

    /// Before files go, puts on disk whatever the commit will need: the journal, with the page that the commit itself changes (setting the
    /// user version to what it is touches that page and nothing else), and the pages changed so far.
    pub(crate) fn secure(&self) -> rusqlite::Result<()> {
        let version: i32 = self.db().query_row("PRAGMA user_version", [], |r| r.get(0))?;
        self.db().execute_batch(&format!("PRAGMA user_version = {version}"))?;
        self.db().cache_flush()
    }

    /// Runs a change inside the open transaction, as the owner of the cache.
    pub(crate) fn change<T>(&self, run: impl FnOnce(&Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        let _owner = self.location.owner.act().map_err(Refusal::Broken)?;
        run(self).map_err(|e| self.refusal(&e))
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
