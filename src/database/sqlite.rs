//! An SQLite file, opened safely in a directory that others can write to, and shared patiently with other
//! processes.
//!
//! **Opening.** SQLite opens by path and follows links. So the file must be a regular file with one link,
//! which is checked before; the descriptor that SQLite got is compared with it after, before the first
//! statement. All of this is done as the owner that is handed in. While the file is open, this process opens
//! no second descriptor of it: closing that one would release SQLite's POSIX locks.
//!
//! **A wait that remains.** SQLite opens a journal that it finds, and opening a FIFO waits for its other end.
//! So the place of the journal is checked before each transaction. The owner of the directory can still put a
//! FIFO there in the microseconds between, and make the command wait until a second signal ends it. Nothing
//! is lost by that.
//!
//! **Looking.** An index that is opened for looking is locked for reading only, and nothing is written: a hot
//! journal is not rolled back, and no WAL files are made. If reading would need that, the result is
//! [`Opening::Unreadable`].

use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::ffi::SQLITE_IOERR_DELETE_NOENT;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use crate::database::opening::{Opening, Purpose};
use crate::database::refusal::Refusal;
use crate::interrupt::{Interrupt, Wait};
use crate::names::{Name, NameBuf, escaped};
use crate::os::locks::{Held, HeldThing, holders, process};
use crate::os::owner::Owner;
use crate::os::space::available;

/// The size of the page cache, in KiB. The rows of a batch lie all over the index. With SQLite's own 2 MiB
/// its changed pages spill in mid-transaction, and each spill syncs the journal. This size holds the ids of
/// 100,000 images and the current part of the table.
const PAGE_CACHE: u32 = 6 * 1024;

/// The time for which SQLite itself waits for a lock at once. Meanwhile new readers queue behind the waiting
/// writer.
const SLICE: Duration = Duration::from_millis(200);

/// The pause between two such waits, in which others get in. It is longer than Glance's own between two tries
/// (50 ms).
const BREAK: Duration = Duration::from_millis(60);

/// Bytes that fit on a disk unless it is full: a journal of some pages.
const PROBE: usize = 64 * 1024;

/// The contents that a file is expected to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    /// The name of such a file in messages.
    pub(crate) name: &'static str,
    /// The kind of such a file where another process has locked it.
    pub(crate) thing: HeldThing,
    /// The table that it must have, and the statement that makes it. A file without it belongs to another
    /// program.
    pub(crate) table: Option<(&'static str, &'static str)>,
}

/// The place of a database file: its directory, held open, its name, and the path for messages and for
/// SQLite.
#[derive(Debug)]
pub(crate) struct SqlitePath {
    dir: OwnedFd,
    name: NameBuf,
    path: PathBuf,
    owner: Owner,
    contents: Contents,
}

impl fmt::Display for SqlitePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.contents.name, self.path.display())
    }
}

impl SqlitePath {
    /// Finds a file below the directory `base`, whose path is `path`; `file` is relative to it or absolute.
    ///
    /// Fails if the directory of the file does not exist.
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
        // The directory is the operator's own setting, and is followed. Only the last component must not be a
        // link.
        let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(base, parent, flags, Mode::empty()).with_context(|| {
            format!("cannot open the directory of the {} {}", contents.name, path.display())
        })?;
        Ok(SqlitePath { dir, name, path, owner, contents })
    }

    /// Finds a file by its path alone. It will be opened as the owner of its directory.
    ///
    /// Fails if that directory does not exist.
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

    /// Returns the path for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn stat(&self, name: Name<'_>) -> Result<Option<Stat>> {
        match statat(&self.dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot look at {self}")),
        }
    }

    /// Checks a file that goes with the database (`suffix` "-journal", "-wal", "-shm"), or the database
    /// itself (""). Returns `None` if it does not exist.
    ///
    /// Anything but a regular file with one link is refused: SQLite would follow it.
    fn checked(&self, suffix: &str) -> Result<Option<Stat>> {
        let name = NameBuf::new(&[self.name.as_name().as_bytes(), suffix.as_bytes()].concat())
            .context("file name too long")?;
        let Some(stat) = self.stat(name.as_name())? else {
            return Ok(None);
        };
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            bail!("{self}{suffix} is not a regular file, and is not opened");
        }
        if stat.st_nlink > 1 {
            bail!(
                "{self}{suffix} has {} links, and is not opened: one of them may be another program's file",
                stat.st_nlink
            );
        }
        Ok(Some(stat))
    }

    /// Names the owner of the file if that may be why it cannot be opened or written: another user than the
    /// one as whom it is opened.
    fn strangers(&self, stat: &Stat) -> String {
        if stat.st_uid == self.owner.uid {
            return String::new();
        }
        format!(
            " (it belongs to user {} and is opened as user {}: change its owner)",
            stat.st_uid, self.owner.uid
        )
    }

    /// True if the file begins as every SQLite database does. Must not be called while SQLite has it open.
    pub(crate) fn is_database(&self) -> bool {
        let Ok(Some(_)) = self.checked("") else { return false };
        let Ok(_owner) = self.owner.act() else { return false };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let Ok(file) = openat(&self.dir, self.name.as_name().as_c_str(), flags, Mode::empty()) else {
            return false;
        };
        let mut header = [0_u8; 16];
        matches!(rustix::io::pread(&file, &mut header, 0), Ok(16)) && header == *b"SQLite format 3\0"
    }

    /// True if the database is in WAL mode, which bytes 18 and 19 of the file say. Must not be called while
    /// SQLite has it open.
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
        format!("cannot open {self}")
    }

    fn exchanged(&self) -> anyhow::Error {
        anyhow!("{self} was replaced while it was opened; nothing was written")
    }
}

/// A database file, open.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    /// `None` only while this is dropped.
    connection: Option<Connection>,
    place: SqlitePath,
    /// Device and inode of the file.
    identity: (u64, u64),
    purpose: Purpose,
    /// The owner of the file, for messages, if that may be why it cannot be written.
    strangers: String,
    /// True if it is in WAL mode. Not known of a file that was opened for looking.
    is_wal: bool,
}

impl Drop for SqliteFile {
    /// Closes the file as its owner, because closing can remove a WAL by its path.
    fn drop(&mut self) {
        if let Ok(_owner) = self.place.owner.act() {
            drop(self.connection.take());
        }
    }
}

impl SqliteFile {
    /// Opens the file at a place.
    pub(crate) fn open(place: SqlitePath, purpose: Purpose, wait: &Wait) -> Result<Opening<Self>> {
        let stat = match place.checked("")? {
            Some(stat) => stat,
            None if purpose == Purpose::Create => Self::make_file(&place)?,
            None => return Ok(Opening::Nothing(place.path)),
        };
        if stat.st_size == 0 && purpose != Purpose::Create {
            return Ok(Opening::Nothing(place.path));
        }
        place.checked("-journal")?;
        let wal = place.checked("-wal")?;
        let shm = place.checked("-shm")?;
        let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut path = place.path.clone();
        if purpose == Purpose::Look {
            flags |= OpenFlags::SQLITE_OPEN_READ_ONLY;
            if place.is_wal(&stat)? {
                if wal.is_none() || shm.is_none() {
                    return Ok(Opening::Unreadable(anyhow!(
                        "{place} is in WAL mode and no process has it open: reading it would make files \
                         beside it"
                    )));
                }
                flags |= OpenFlags::SQLITE_OPEN_URI;
                path = uri(&place.path, "readonly_shm=1");
            }
        } else {
            flags |= OpenFlags::SQLITE_OPEN_READ_WRITE;
        }
        let connection = Self::connect(&place, &stat, &path, flags)?;
        let strangers = place.strangers(&stat);
        let identity = (stat.st_dev, stat.st_ino);
        SqliteFile { connection: Some(connection), place, identity, purpose, strangers, is_wal: false }
            .prepare(wait)
    }

    /// Lets a signal end statements, however long the views and triggers of the database make them; `None`
    /// does not.
    pub(crate) fn mind(&mut self, interrupt: Option<Interrupt>) -> Result<(), Refusal> {
        let connection = self.connection.as_mut().expect("the connection is there until this is dropped");
        let handled =
            connection.progress_handler(100_000, interrupt.map(|interrupt| move || interrupt.raised()));
        handled.map_err(|e| self.refusal(&e))
    }

    pub(crate) fn db(&self) -> &Connection {
        self.connection.as_ref().expect("the connection is there until this is dropped")
    }

    /// Opens the database, and fails before any statement runs unless SQLite's descriptor is of the file that
    /// was checked.
    fn connect(place: &SqlitePath, expected: &Stat, path: &Path, flags: OpenFlags) -> Result<Connection> {
        let _owner = place.owner.act()?;
        let before = open_descriptors()?;
        let connection = Connection::open_with_flags(path, flags)
            .with_context(|| format!("{}{}", place.cannot_open(), place.strangers(expected)))?;
        let opened = open_descriptors()?;
        let mut new = opened.iter().filter(|fd| !before.contains(fd));
        #[expect(
            clippy::disallowed_methods,
            reason = "the path is the kernel's name of a descriptor of this process"
        )]
        let same = |fd: &&String| {
            rustix::fs::stat(format!("/proc/self/fd/{fd}").as_str())
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (expected.st_dev, expected.st_ino))
        };
        if new.clone().next().is_none() || !new.all(|fd| same(&fd)) {
            return Err(place.exchanged());
        }
        Ok(connection)
    }

    /// Returns the path for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.place.path
    }

    /// True if the database is in WAL mode. Not known of a file that was opened for looking.
    pub(crate) fn is_wal(&self) -> bool {
        self.is_wal
    }

    /// Rolls back the open transaction, if there is one.
    pub(crate) fn roll_back(&self) {
        if let Ok(_owner) = self.place.owner.act()
            && !self.db().is_autocommit()
        {
            // If this fails, the next process that opens the file rolls it back.
            let _ = self.db().execute_batch("ROLLBACK");
        }
    }

    fn make_file(place: &SqlitePath) -> Result<Stat> {
        let _owner = place.owner.act()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = openat(&place.dir, place.name.as_name().as_c_str(), flags, mode)
            .with_context(|| format!("cannot create {place}"))?;
        Ok(rustix::fs::fstat(&file)?)
    }

    fn prepare(mut self, wait: &Wait) -> Result<Opening<Self>> {
        self.mind(Some(wait.interrupt.clone())).map_err(Refusal::into_error)?;
        let purpose = self.purpose;
        let _owner = self.place.owner.act()?;
        self.db().busy_timeout(SLICE)?;
        if let Some((_, create)) = self.place.contents.table
            && purpose == Purpose::Create
        {
            self.patiently(wait, |c| c.execute_batch(create)).map_err(Refusal::into_error)?;
        }
        let table = self.place.contents.table;
        let name = table.map_or("", |(name, _)| name);
        let tables = self.patiently(wait, |c| {
            c.query_row("SELECT count(*), total(name = ?1) FROM sqlite_schema", [name], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, f64>(1)?))
            })
        });
        match tables {
            Ok((0, _)) => return Ok(Opening::Nothing(self.place.path.clone())),
            Ok((_, 0.0)) if table.is_some() => bail!(
                "{} is a database, but not an {} of Glance: it has no table {name}",
                self.place.path.display(),
                self.place.contents.name
            ),
            Ok(_) => {}
            Err(Refusal::NeedsWrite(_)) => {
                return Ok(Opening::Unreadable(anyhow!(
                    "{} has a journal of a killed process to roll back, which only a changing command does",
                    self.place
                )));
            }
            Err(Refusal::Busy(e)) if purpose == Purpose::Look => {
                return Ok(Opening::Unreadable(e));
            }
            Err(refusal) => return Err(refusal.into_error()),
        }
        if purpose != Purpose::Look {
            // Never MEMORY or OFF, whatever SQLite was built with: the journal must survive this process.
            let mode: String = self
                .patiently(wait, |c| c.query_row("PRAGMA journal_mode", [], |r| r.get(0)))
                .map_err(Refusal::into_error)?;
            if !["delete", "truncate", "persist", "wal"].contains(&mode.as_str()) {
                self.db().query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
            }
            self.is_wal = mode == "wal";
            // Without temporary files: the disk may be full.
            self.db().execute_batch("PRAGMA temp_store = MEMORY")?;
            self.db().execute_batch(&format!("PRAGMA cache_size = -{PAGE_CACHE}"))?;
        }
        Ok(Opening::Open(self))
    }

    /// Runs a statement as the owner of the file, again and again while the database is busy, until the wait
    /// is over.
    pub(crate) fn run<T>(
        &self,
        wait: &Wait,
        run: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Refusal> {
        let _owner = self.place.owner.act().map_err(Refusal::Damaged)?;
        self.patiently(wait, run)
    }

    /// As [`SqliteFile::run`], for a caller that acts as the owner already.
    fn patiently<T>(
        &self,
        wait: &Wait,
        mut run: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Refusal> {
        let deadline = wait.deadline();
        loop {
            // SQLite opens whatever is in this place, and would wait for the other end of a FIFO.
            self.place.checked("-journal").map_err(Refusal::Damaged)?;
            match run(self.db()) {
                Ok(value) => return Ok(value),
                Err(e) => match self.refusal(&e) {
                    Refusal::Busy(_) if wait.interrupt.raised() => return Err(Refusal::Interrupted),
                    // A break for Glance: a writer that waits keeps new readers out.
                    Refusal::Busy(_) if Instant::now() < deadline => std::thread::sleep(BREAK),
                    Refusal::Busy(_) => return Err(Refusal::Busy(self.still_busy(wait))),
                    refusal => return Err(refusal),
                },
            }
        }
    }

    /// Names the processes that hold the file, as far as the kernel tells.
    fn still_busy(&self, wait: &Wait) -> anyhow::Error {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let (device, inode) = self.identity;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let holders: Vec<String> =
            holders(&locks, device, inode).into_iter().filter(|pid| *pid != own).map(process).collect();
        let who = if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") };
        let seconds = wait.limit.as_secs_f64();
        let text = format!("{} was still locked by {who} after {seconds:.0} s", self.place);
        Held(self.place.contents.thing, text).into()
    }

    /// Returns why SQLite refused, with the path and, where known, with what to do.
    fn refusal(&self, error: &rusqlite::Error) -> Refusal {
        let file = &self.place;
        // SQLite quotes the contents of the database.
        let why = escaped(error.to_string().as_bytes());
        let full = || Refusal::Full(anyhow!("no space left for the journal of {file}"));
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Refusal::Busy(anyhow!("{file} is locked: {why}"))
            }
            Some(ErrorCode::OperationInterrupted) => Refusal::Interrupted,
            Some(ErrorCode::DiskFull) => full(),
            // SQLite removes the journal to commit, and the changed pages are on the disk by then. Glance
            // takes it for an image when it removes all of them.
            Some(ErrorCode::SystemIoFailure)
                if error.sqlite_extended_error_code() == Some(SQLITE_IOERR_DELETE_NOENT) =>
            {
                let gone = "another process removed its journal, as Glance does when it empties the cache";
                Refusal::Damaged(anyhow!("{file}: {gone}")).after_unknown()
            }
            // SQLite gives no reason for a journal that it cannot create, or a write that fails.
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) if self.disk_is_full() => full(),
            Some(ErrorCode::ReadOnly) if self.purpose == Purpose::Look => {
                Refusal::NeedsWrite(anyhow!("{file} cannot be read without writing: {why}"))
            }
            Some(ErrorCode::ReadOnly) => {
                Refusal::Damaged(anyhow!("{file} cannot be written{}: {why}", self.strangers))
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Refusal::Damaged(anyhow!("{file} is damaged: {why}"))
            }
            Some(ErrorCode::CannotOpen) => {
                Refusal::Damaged(anyhow!("cannot open {file} or its journal: {why}"))
            }
            Some(ErrorCode::SystemIoFailure) => Refusal::Damaged(anyhow!("cannot use {file}: {why}")),
            _ => Refusal::Broken(anyhow!("cannot use {file}: {why}")),
        }
    }

    /// True if the owner can write nothing more here, for want of blocks, of inodes or of quota. SQLite does
    /// not say so, and free space says nothing about quotas. So some bytes are written to a file without a
    /// name, which vanishes with its descriptor.
    fn disk_is_full(&self) -> bool {
        let full = |e| matches!(e, Errno::NOSPC | Errno::DQUOT);
        let Ok(_owner) = self.place.owner.act() else { return false };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match openat(&self.place.dir, c".", flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => file,
            // This file system has no such files: a little space is taken for none.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                return rustix::fs::fstatvfs(self.place.dir.as_fd())
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

    /// Writes to the disk whatever the commit will need, before files are removed: the pages changed so far,
    /// and the journal with the page that the commit itself changes. (Setting the user version to its own
    /// value touches that page, and nothing else.)
    pub(crate) fn secure(&self) -> rusqlite::Result<()> {
        let version: i32 = self.db().query_row("PRAGMA user_version", [], |r| r.get(0))?;
        self.db().execute_batch(&format!("PRAGMA user_version = {version}"))?;
        self.db().cache_flush()
    }

    /// Runs a change inside the open transaction, as the owner of the file.
    pub(crate) fn change<T>(&self, run: impl FnOnce(&Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        let _owner = self.place.owner.act().map_err(Refusal::Damaged)?;
        run(self).map_err(|e| self.refusal(&e))
    }
}

/// Returns the names of this process's descriptors, without the one that lists them.
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

/// Returns a path as a URI, in which SQLite accepts options.
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
