//! The cache directory, held open by descriptors.
//!
//! The path that the operator gave is followed once, to open it. After that every file is addressed by a
//! single name below one of four descriptors: the directory and its `incomplete/`, `invalid/` and `queue/`,
//! opened without following links. Whatever is replaced in the directory while a command runs, nothing
//! outside it can be reached.
//!
//! To remove an entry is to look at it once more, then to unlink it. Between the two calls a name can still
//! be replaced. All that can be lost then is one new entry of that name in this directory, and Glance would
//! fetch it again.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, StatVfs, openat, statat, unlinkat};
use rustix::io::Errno;

use super::entry::{EntryKind, Seen};
use crate::names::{Name, NameBuf};
use crate::os::owner::Owner;
use crate::units::{Nanos, SECOND};

/// The flags that open a directory for listing.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// One of the directories of a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CachePlace {
    Base,
    Incomplete,
    Invalid,
    Queue,
}

impl CachePlace {
    pub(crate) const SUBDIRECTORIES: [CachePlace; 3] =
        [CachePlace::Incomplete, CachePlace::Invalid, CachePlace::Queue];

    /// Returns the name of the subdirectory, empty for the cache directory itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CachePlace::Base => "",
            CachePlace::Incomplete => "incomplete",
            CachePlace::Invalid => "invalid",
            CachePlace::Queue => "queue",
        }
    }

    fn c_name(self) -> &'static CStr {
        match self {
            CachePlace::Base => c".",
            CachePlace::Incomplete => c"incomplete",
            CachePlace::Invalid => c"invalid",
            CachePlace::Queue => c"queue",
        }
    }

    /// Returns an entry of this place for messages: `invalid/NAME`, or `NAME` in the cache directory itself.
    pub(crate) fn show(self, name: Name<'_>) -> String {
        match self {
            CachePlace::Base => name.to_string(),
            place => format!("{}/{name}", place.name()),
        }
    }
}

/// The result of removing an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Removal {
    Removed,
    /// Another process had removed it; nothing was done.
    AlreadyGone,
    /// It is not the entry that the plan was made for; nothing was done.
    Changed,
}

/// An open cache directory.
#[derive(Debug)]
pub(crate) struct CacheDir {
    path: PathBuf,
    base: OwnedFd,
    subdirectories: [Option<OwnedFd>; 3],
    owner: Owner,
}

/// The number of entries of a listing that are looked at together.
const PORTION: usize = 2048;
/// From this number of entries on a second thread saves time.
const WORTH_TWO: usize = 256;

/// An entry that could not be looked at, and why.
pub(crate) type Unreadable = (NameBuf, Errno);

impl CacheDir {
    /// Opens the directory at `path`, or returns `None` if it does not exist.
    ///
    /// Subdirectories may be missing. One that is a symlink or no directory is an error: files would be
    /// removed elsewhere.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let base = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => {
                return Err(e).with_context(|| format!("cannot open cache directory {}", path.display()));
            }
        };
        let looked = rustix::fs::fstat(&base);
        let stat = looked.with_context(|| format!("cannot look at cache directory {}", path.display()))?;
        let mut subdirectories = [None, None, None];
        for (slot, place) in subdirectories.iter_mut().zip(CachePlace::SUBDIRECTORIES) {
            // Opened without permission to list: a subdirectory that cannot be listed must not keep the
            // others from work.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            *slot = match openat(&base, place.c_name(), flags, Mode::empty()) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT) => None,
                Err(e) => {
                    let shown = path.join(place.name());
                    let is_link = statat(&base, place.c_name(), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|s| kind_of(&s) == EntryKind::Symlink);
                    if is_link {
                        bail!("{} is a symlink: it must be a directory itself", shown.display());
                    }
                    return Err(e).with_context(|| format!("cannot open {}", shown.display()));
                }
            };
        }
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(Some(CacheDir { path: path.to_owned(), base, subdirectories, owner }))
    }

    /// Returns the path as the operator wrote it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the user and group that own the cache directory.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Returns the descriptor of a place, or `None` if that subdirectory does not exist.
    pub(crate) fn fd(&self, place: CachePlace) -> Option<BorrowedFd<'_>> {
        match place {
            CachePlace::Base => Some(self.base.as_fd()),
            CachePlace::Incomplete => self.subdirectories[0].as_ref().map(AsFd::as_fd),
            CachePlace::Invalid => self.subdirectories[1].as_ref().map(AsFd::as_fd),
            CachePlace::Queue => self.subdirectories[2].as_ref().map(AsFd::as_fd),
        }
    }

    /// True if any of the three subdirectories exists.
    pub(crate) fn has_subdirectories(&self) -> bool {
        self.subdirectories.iter().any(Option::is_some)
    }

    /// Calls `visit` for every entry of a place, in directory order, and returns the entries that could not
    /// be looked at.
    ///
    /// An entry that vanishes meanwhile is skipped. A missing subdirectory counts as empty.
    pub(crate) fn scan(
        &self,
        place: CachePlace,
        mut visit: impl FnMut(Name<'_>, EntryKind, &Seen),
    ) -> Result<Vec<Unreadable>> {
        let Some(fd) = self.fd(place) else {
            return Ok(Vec::new());
        };
        list(fd, &self.path.join(place.name()), &mut visit)
    }

    /// Calls `visit` for the names in a place, in directory order, until it breaks off. The entries are not
    /// looked at. A missing subdirectory counts as empty.
    pub(crate) fn names(
        &self,
        place: CachePlace,
        mut visit: impl FnMut(Name<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let Some(fd) = self.fd(place) else { return Ok(()) };
        let shown = || format!("cannot list {}", self.path.join(place.name()).display());
        let listing = openat(fd, c".", DIRECTORY, Mode::empty()).with_context(shown)?;
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(&listing, &mut buffer);
        while let Some(entry) = entries.next() {
            if Name::new(entry.with_context(shown)?.file_name()).is_some_and(|name| visit(name).is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// True if the cache directory holds nothing at all. The first name answers it, and the rest is not
    /// listed.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let mut empty = true;
        self.names(CachePlace::Base, |_| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    /// Looks at one entry, without following a link. Returns `None` if it does not exist.
    pub(crate) fn look(&self, place: CachePlace, name: Name<'_>) -> Result<Option<(EntryKind, Seen)>, Errno> {
        self.fd(place).map_or(Ok(None), |fd| look(fd, name))
    }

    /// Removes an entry if `unchanged` is true of it now.
    pub(crate) fn remove(
        &self,
        place: CachePlace,
        name: Name<'_>,
        unchanged: impl FnOnce(&Seen) -> bool,
    ) -> Result<Removal, Errno> {
        let Some(fd) = self.fd(place) else {
            return Ok(Removal::AlreadyGone);
        };
        match self.look(place, name)? {
            None => return Ok(Removal::AlreadyGone),
            Some((_, now)) if !unchanged(&now) => {
                // While another process unlinks the file, it looks changed for a moment.
                let gone = now.links == 0 || self.look(place, name)?.is_none_or(|(_, now)| now.links == 0);
                return Ok(if gone { Removal::AlreadyGone } else { Removal::Changed });
            }
            Some(_) => {}
        }
        match unlinkat(fd, name.as_c_str(), AtFlags::empty()) {
            Ok(()) => Ok(Removal::Removed),
            Err(Errno::NOENT) => Ok(Removal::AlreadyGone),
            Err(e) => Err(e),
        }
    }

    /// Holds an image's inode without opening the file, so that its blocks are freed when the handle is
    /// dropped and not by the unlink. Returns `None` if that fails: then the unlink frees them, which only
    /// makes others wait.
    pub(crate) fn hold(&self, name: Name<'_>) -> Option<OwnedFd> {
        openat(&self.base, name.as_c_str(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .ok()
    }

    /// Returns the figures of the file system, for free space.
    pub(crate) fn statvfs(&self) -> Result<StatVfs> {
        rustix::fs::fstatvfs(&self.base)
            .with_context(|| format!("cannot find out the free space of {}", self.path.display()))
    }
}

/// Calls `visit` for every entry of an open directory, in its order, and returns the entries that could not
/// be looked at.
///
/// An entry that vanishes meanwhile is skipped. `path` is for messages.
pub(crate) fn list(
    fd: BorrowedFd<'_>,
    path: &Path,
    visit: &mut dyn FnMut(Name<'_>, EntryKind, &Seen),
) -> Result<Vec<Unreadable>> {
    let shown = || format!("cannot list {}", path.display());
    // The listing has a descriptor of its own, because its offset belongs to the open file.
    let listing = openat(fd, c".", DIRECTORY, Mode::empty()).with_context(shown)?;
    let mut unreadable = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); 128 * 1024];
    let mut entries = RawDir::new(&listing, &mut buffer);
    let mut portion = Vec::new();
    let mut more = true;
    while more {
        match entries.next() {
            Some(entry) => {
                let entry = entry.with_context(shown)?;
                portion.extend(Name::new(entry.file_name()).map(|name| (name.to_owned(), Ok(None))));
            }
            None => more = false,
        }
        if more && portion.len() < PORTION {
            continue;
        }
        look_at(fd, &mut portion);
        for (name, found) in portion.drain(..) {
            match found {
                Ok(Some((kind, seen))) => visit(name.as_name(), kind, &seen),
                Ok(None) => {}
                Err(e) => unreadable.push((name, e)),
            }
        }
    }
    Ok(unreadable)
}

/// An entry of a listing, and the result of looking at it.
type Looked = (NameBuf, Result<Option<(EntryKind, Seen)>, Errno>);

/// Looks at several entries. Two threads share them if there are many: the inode may have to be read from the
/// disk.
fn look_at(fd: BorrowedFd<'_>, entries: &mut [Looked]) {
    let work = |entries: &mut [Looked]| {
        for (name, found) in entries {
            *found = look(fd, name.as_name());
        }
    };
    let half = if entries.len() < WORTH_TWO { 0 } else { entries.len() / 2 };
    let (first, second) = entries.split_at_mut(half);
    let is_shared = thread::scope(|scope| {
        let spawned = half > 0 && thread::Builder::new().spawn_scoped(scope, || work(first)).is_ok();
        work(second);
        spawned
    });
    if !is_shared {
        // There are too few, or no thread could be started.
        work(first);
    }
}

/// Looks at one entry of an open directory, without following a link. Returns `None` if it does not exist.
pub(crate) fn look(fd: BorrowedFd<'_>, name: Name<'_>) -> Result<Option<(EntryKind, Seen)>, Errno> {
    match statat(fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((kind_of(&stat), seen(&stat)))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Returns the kind of the entry that a look at a file saw.
pub(super) fn kind_of(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Directory => EntryKind::Directory,
        _ => EntryKind::Other,
    }
}

/// Returns what a look at a file saw.
pub(crate) fn seen(stat: &Stat) -> Seen {
    Seen {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        atime: time(stat.st_atime, stat.st_atime_nsec as i64),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec as i64),
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        owner: stat.st_uid,
    }
}

fn time(seconds: i64, nanoseconds: i64) -> Nanos {
    seconds.saturating_mul(SECOND).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes an empty cache directory.
    fn cache() -> (tempfile::TempDir, CacheDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        (temporary, dir)
    }

    fn name(text: &str) -> NameBuf {
        NameBuf::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_entry_is_removed_only_if_it_is_unchanged() {
        let (temporary, dir) = cache();
        let path = temporary.path().join("image");
        let remove = |unchanged: &dyn Fn(&Seen) -> bool| {
            dir.remove(CachePlace::Base, name("image").as_name(), unchanged).unwrap()
        };
        assert_eq!(remove(&|_| true), Removal::AlreadyGone);
        fs::write(&path, "image").unwrap();
        assert_eq!(remove(&|now| now.size != 5), Removal::Changed);
        assert_eq!(fs::read(&path).unwrap(), b"image");
        assert_eq!(remove(&|now| now.size == 5), Removal::Removed);
        assert!(!path.exists());
    }

    #[test]
    fn an_entry_that_another_process_is_removing_is_gone_and_not_changed() {
        let (temporary, dir) = cache();
        let path = temporary.path().join("image");
        fs::write(&path, "image").unwrap();
        let removal = dir.remove(CachePlace::Base, name("image").as_name(), |_| {
            fs::remove_file(&path).unwrap();
            false
        });
        assert_eq!(removal, Ok(Removal::AlreadyGone));
        fs::write(&path, "image").unwrap();
        let removal = dir.remove(CachePlace::Base, name("image").as_name(), |_| {
            fs::remove_file(&path).unwrap();
            true
        });
        assert_eq!(removal, Ok(Removal::AlreadyGone));
        // A directory that is not there has no entries.
        let removal = dir.remove(CachePlace::Invalid, name("image").as_name(), |_| true);
        assert_eq!(removal, Ok(Removal::AlreadyGone));
    }

    #[test]
    fn a_subdirectory_that_is_none_is_refused() {
        let (temporary, dir) = cache();
        assert!(!dir.has_subdirectories());
        let place = temporary.path().join("invalid");
        fs::write(&place, "").unwrap();
        let error = CacheDir::open(temporary.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot open"), "{error:#}");
        fs::remove_file(&place).unwrap();
        symlink(std::env::temp_dir(), &place).unwrap();
        let error = CacheDir::open(temporary.path()).unwrap_err();
        assert!(error.to_string().contains("is a symlink"), "{error:#}");
    }

    #[test]
    fn an_image_that_is_held_stays_on_the_disk_until_the_handle_is_dropped() {
        let (temporary, dir) = cache();
        let path = temporary.path().join("image");
        fs::write(&path, "image").unwrap();
        let held = dir.hold(name("image").as_name()).unwrap();
        fs::remove_file(&path).unwrap();
        let now = seen(&rustix::fs::fstat(&held).unwrap());
        assert_eq!((now.size, now.links), (5, 0));
        assert!(dir.hold(name("image").as_name()).is_none());
        // A link is held itself, and not the file behind it.
        symlink("/dev/null", &path).unwrap();
        let held = dir.hold(name("image").as_name()).unwrap();
        assert_eq!(kind_of(&rustix::fs::fstat(&held).unwrap()), EntryKind::Symlink);
        let flags = rustix::io::fcntl_getfd(&held).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child process would hold it, too");
    }

    #[test]
    fn every_entry_of_a_large_directory_is_looked_at_once() {
        let (temporary, dir) = cache();
        for count in [WORTH_TWO - 1, WORTH_TWO + 1, PORTION, PORTION + 1] {
            for number in 0..count {
                fs::write(temporary.path().join(number.to_string()), number.to_string()).unwrap();
            }
            let mut found = Vec::new();
            let unreadable = dir.scan(CachePlace::Base, |name, kind, seen| {
                assert_eq!((kind, seen.size), (EntryKind::File, name.as_bytes().len() as u64));
                found.push(name.to_string().parse::<usize>().unwrap());
            });
            assert!(unreadable.unwrap().is_empty());
            found.sort_unstable();
            assert_eq!(found, (0..count).collect::<Vec<_>>());
        }
    }
}
