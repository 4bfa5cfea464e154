//! The cache directory, held by descriptors.
//!
//! The path the operator gave is followed once, when it is opened; after that everything happens relative to four
//! descriptors (the directory and its `incomplete/`, `invalid/` and `queue/`, opened without following links) and single
//! names. Whatever is swapped in the directory while a command runs, nothing outside it can be reached.
//!
//! Removing looks once more and then unlinks. Between the two calls a name can still be replaced; what can be lost in that
//! window is the one new entry of that name in this directory, which Glance would fetch again.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, StatVfs, openat, statat, unlinkat};
use rustix::io::Errno;

use super::entry::{Kind, Seen};
use crate::names::{Name, NameBuf};
use crate::os::owner::Owner;
use crate::units::{Nanos, SECOND};

pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// One of the directories of a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Base,
    Incomplete,
    Invalid,
    Queue,
}

impl Place {
    pub(crate) const SUBDIRECTORIES: [Place; 3] = [Place::Incomplete, Place::Invalid, Place::Queue];

    /// The subdirectory's name, empty for the cache directory itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Place::Base => "",
            Place::Incomplete => "incomplete",
            Place::Invalid => "invalid",
            Place::Queue => "queue",
        }
    }

    fn c_name(self) -> &'static CStr {
        match self {
            Place::Base => c".",
            Place::Incomplete => c"incomplete",
            Place::Invalid => c"invalid",
            Place::Queue => c"queue",
        }
    }

    /// How an entry of this place is shown: `invalid/NAME`, or `NAME` in the cache directory itself.
    pub(crate) fn show(self, name: Name<'_>) -> String {
        match self {
            Place::Base => name.to_string(),
            place => format!("{}/{name}", place.name()),
        }
    }
}

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Removal {
    Removed,
    /// Somebody else was faster; nothing was done.
    AlreadyGone,
    /// It is not what was seen when the plan was made; nothing was done.
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

/// What a look at an entry found; `None` when nothing was there.
type Look = Result<Option<(Kind, Seen)>, Errno>;

/// Entries of a listing that are looked at together ...
const PORTION: usize = 2048;
/// ... and how many of them are worth a second thread.
const WORTH_TWO: usize = 256;

/// An entry that could not be looked at, and why.
pub(crate) type Unreadable = (NameBuf, Errno);

impl CacheDir {
    /// Opens the directory at `path`; `None` when there is none.
    ///
    /// Subdirectories may be missing. One that is a symlink or no directory is an error: following it would delete
    /// elsewhere.
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
        for (slot, place) in subdirectories.iter_mut().zip(Place::SUBDIRECTORIES) {
            // Only to hold: one that cannot be listed is no reason not to work on the others.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            *slot = match openat(&base, place.c_name(), flags, Mode::empty()) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT) => None,
                Err(e) => {
                    let shown = path.join(place.name());
                    let is_link = statat(&base, place.c_name(), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|s| kind_of(&s) == Kind::Symlink);
                    if is_link {
                        bail!("{} is a symlink, and links in a cache are not followed", shown.display());
                    }
                    return Err(e).with_context(|| format!("cannot open {}", shown.display()));
                }
            };
        }
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(Some(CacheDir { path: path.to_owned(), base, subdirectories, owner }))
    }

    /// The path as the operator wrote it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The user and group that own the cache directory.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// The descriptor of a place, or `None` when that subdirectory does not exist.
    pub(crate) fn fd(&self, place: Place) -> Option<BorrowedFd<'_>> {
        match place {
            Place::Base => Some(self.base.as_fd()),
            Place::Incomplete => self.subdirectories[0].as_ref().map(AsFd::as_fd),
            Place::Invalid => self.subdirectories[1].as_ref().map(AsFd::as_fd),
            Place::Queue => self.subdirectories[2].as_ref().map(AsFd::as_fd),
        }
    }

    pub(crate) fn has_subdirectories(&self) -> bool {
        self.subdirectories.iter().any(Option::is_some)
    }

    /// Calls `visit` for every entry of a place, in directory order, and returns those that could not be looked at.
    ///
    /// An entry that vanishes meanwhile is none. A missing subdirectory is an empty one.
    pub(crate) fn scan(
        &self,
        place: Place,
        mut visit: impl FnMut(Name<'_>, Kind, &Seen),
    ) -> Result<Vec<Unreadable>> {
        let Some(fd) = self.fd(place) else {
            return Ok(Vec::new());
        };
        list(fd, &self.path.join(place.name()), &mut visit)
    }

    /// Calls `visit` for the names in a place, in directory order, until it breaks off. What stands there is not looked
    /// at. A missing subdirectory has no names.
    pub(crate) fn names(
        &self,
        place: Place,
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

    /// True if the cache directory holds nothing at all. One name answers it: the rest is not listed.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let mut empty = true;
        self.names(Place::Base, |_| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    /// Looks at one entry; `None` when it is not there.
    pub(crate) fn look(&self, place: Place, name: Name<'_>) -> Result<Option<(Kind, Seen)>, Errno> {
        self.fd(place).map_or(Ok(None), |fd| look(fd, name))
    }

    /// Removes an entry if `unchanged` still says so of what stands there now.
    pub(crate) fn remove(
        &self,
        place: Place,
        name: Name<'_>,
        unchanged: impl FnOnce(&Seen) -> bool,
    ) -> Result<Removal, Errno> {
        let Some(fd) = self.fd(place) else {
            return Ok(Removal::AlreadyGone);
        };
        match self.look(place, name)? {
            None => return Ok(Removal::AlreadyGone),
            Some((_, now)) if !unchanged(&now) => {
                // An unlink under way shows a changed file for a moment: who comes second must not take another one for it.
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

    /// Holds on to an image's inode without opening the file, so that its blocks are freed when the handle is dropped and
    /// not by the unlink. `None` when that does not work: then the unlink frees them, which is only slower for others.
    pub(crate) fn hold(&self, name: Name<'_>) -> Option<OwnedFd> {
        openat(&self.base, name.as_c_str(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .ok()
    }

    /// The file system's figures, for free space.
    pub(crate) fn statvfs(&self) -> Result<StatVfs> {
        rustix::fs::fstatvfs(&self.base)
            .with_context(|| format!("cannot ask for the free space of {}", self.path.display()))
    }
}

/// Calls `visit` for every entry of an open directory, in its order, and returns those that could not be looked at.
///
/// An entry that vanishes meanwhile is none. `path` is for messages.
pub(crate) fn list(
    fd: BorrowedFd<'_>,
    path: &Path,
    visit: &mut dyn FnMut(Name<'_>, Kind, &Seen),
) -> Result<Vec<Unreadable>> {
    let shown = || format!("cannot list {}", path.display());
    // A descriptor of its own: the offset of a listing belongs to the open file.
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

/// Looks at several entries. Two threads share many of them: a look reads the inode, which may still be on the disk.
fn look_at(fd: BorrowedFd<'_>, entries: &mut [(NameBuf, Look)]) {
    let work = |entries: &mut [(NameBuf, Look)]| {
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
        // Too few to share, or no thread to be had.
        work(first);
    }
}

/// Looks at one entry of an open directory; `None` when it is not there.
pub(crate) fn look(fd: BorrowedFd<'_>, name: Name<'_>) -> Result<Option<(Kind, Seen)>, Errno> {
    match statat(fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((kind_of(&stat), seen(&stat)))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        FileType::Directory => Kind::Directory,
        _ => Kind::Other,
    }
}

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
