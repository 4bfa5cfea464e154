//! Ironic's master image directories: no index, hard links are the reference count.
//!
//! **Images** are the regular files named as Ironic names them, `<uuid>` and `<uuid>.converted`; everything else is foreign and
//! never touched. An instance that uses an image has a hard link to it, so an image with one link is unused. A download that was
//! killed leaves its temporary directory for ever, with a second link to an image or with files of its own; once such a directory
//! is old enough and nobody has anything in it open, its links count no more.
//!
//! **Beside a running conductor**, whose locks are its own and cannot be taken: an image is never unlinked under its name. It is
//! renamed into a private subdirectory, looked at again there, where no new link can be made to it, and only then unlinked; what
//! has gained a link meanwhile is linked back. When the disk is too full for that subdirectory the image is looked at again and
//! unlinked in place. Nothing can keep a conductor that has just looked for the image from missing it: see the man page of prune.
//!
//! | killed | what is left, for the next run |
//! |---|---|
//! | after the rename | the image in the subdirectory: it is put back |
//! | after a stale link is gone | the same, with one link less |
//! | after the unlink | the empty subdirectory |
//!
//! **Two of ours** are kept apart by flock on the directory itself; a lock file would be eaten by Ironic.
//!
//! Everything happens relative to descriptors and by single names, as in [`super::dir`]; directories below are opened without
//! following links, and the only ones entered are the private one and those named as Ironic's downloads name theirs.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, linkat, mkdirat, openat, renameat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::cache::dir::{DIRECTORY, Removal, list, look};
use crate::cache::entry::{EntryKind, Seen};
use crate::cache::lock;
use crate::cache::outcome::{Action, EntryError};
use crate::interrupt::{Interrupt, Wait};
use crate::names::{ImageId, Name, NameBuf};
use crate::os::locks::{flock_holder, process};
use crate::os::owner::Owner;
use crate::os::writers;
use crate::units::Nanos;

/// Where an image is between being taken out and being unlinked. The flock on the cache keeps it one run's own.
const ASIDE: &CStr = c".glance-cache-aside";
const CONVERTED: &[u8] = b".converted";
const PART: &[u8] = b".part";
/// How long a busy lock is left alone before it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// The name of a master image: a UUID in either case, with `.converted` when Ironic has converted the image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MasterName([u8; 47]);

impl MasterName {
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        ImageId::new(bytes.strip_suffix(CONVERTED).unwrap_or(bytes))?;
        let mut name = [0; 47];
        name[..bytes.len()].copy_from_slice(bytes);
        Some(MasterName(name))
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).expect("46 characters at most, then NUL")
    }

    pub(crate) fn as_name(&self) -> Name<'_> {
        Name::new(self.as_c_str()).expect("hexadecimal digits, dashes and a suffix")
    }

    /// The id of the image.
    pub(crate) fn id(&self) -> ImageId {
        ImageId::new(&self.0[..36]).expect("checked when the name was made")
    }
}

impl fmt::Display for MasterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_c_str().to_string_lossy())
    }
}

/// An image that no instance has a link to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Master {
    pub(crate) name: MasterName,
    pub(crate) seen: Seen,
}

impl fmt::Debug for MasterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Master {
    /// The last use as Ironic tells it: whichever of the three times is the latest. Linking and unlinking change the third.
    pub(crate) fn last_use(&self) -> Nanos {
        self.seen.last_use().max(self.seen.ctime)
    }
}

/// A temporary directory of a download.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) name: NameBuf,
    inode: u64,
    /// Everything in it that a download makes.
    pub(crate) files: Vec<(NameBuf, Seen)>,
    /// Whether it holds something else, which no download makes: then it is nobody's to remove.
    is_strange: bool,
    /// The last sign of life.
    pub(crate) newest: Nanos,
    pub(crate) state: Leftover,
}

impl Temporary {
    /// Bytes of disk that removing it frees.
    pub(crate) fn allocated(&self) -> u64 {
        self.files.iter().filter(|(_, seen)| seen.links == 1).map(|(_, seen)| seen.allocated).sum()
    }
}

/// Whether a temporary file or directory belongs to a download that is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leftover {
    /// Not old enough to tell.
    Young,
    /// A process, of which this is the id, has something in it open.
    Open(i32),
    /// It holds what no download makes.
    Strange,
    Stale,
}

/// A file of a crashed download that stands in the cache itself.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: NameBuf,
    pub(crate) seen: Seen,
    pub(crate) state: Leftover,
}

/// What a master directory holds.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Images that nobody uses, in directory order.
    pub(crate) unused: Vec<Master>,
    /// How many images have links of instances, and their sizes and blocks in bytes.
    pub(crate) in_use: u64,
    pub(crate) in_use_bytes: u64,
    pub(crate) in_use_allocated: u64,
    pub(crate) foreign: Vec<NameBuf>,
    pub(crate) temporary: Vec<Temporary>,
    pub(crate) parts: Vec<Part>,
    /// Where the links of stale temporary directories are, by inode: positions in `temporary` and in its files.
    stale_links: HashMap<u64, Vec<(usize, usize)>>,
    pub(crate) errors: Vec<EntryError>,
    /// Whether there were processes that could not be looked into.
    pub(crate) some_unseen: bool,
    /// Whether a killed run has left something aside.
    pub(crate) has_aside: bool,
}

/// What became of a stale temporary directory.
#[derive(Debug, Default)]
pub(crate) struct Emptied {
    pub(crate) files: u64,
    /// Bytes of disk freed.
    pub(crate) bytes: u64,
    pub(crate) errors: Vec<EntryError>,
}

/// An open master image directory.
#[derive(Debug)]
pub(crate) struct MasterDir {
    path: PathBuf,
    fd: OwnedFd,
    device: u64,
    owner: Owner,
    aside: Option<OwnedFd>,
}

impl MasterDir {
    /// Opens the directory at `path`; `None` when there is none. Nothing is made.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let fd = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if rustix::fs::lstat(path).is_ok() => {
                bail!("cannot open {}: it is a symlink that leads nowhere", path.display())
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
        };
        let stat = fstat(&fd).with_context(|| format!("cannot look at {}", path.display()))?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(Some(MasterDir { path: path.to_owned(), fd, device: stat.st_dev, owner, aside: None }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Locks the directory against other runs of this tool until it is closed. An error tells who holds it.
    pub(crate) fn lock(&self, wait: &Wait) -> Result<()> {
        let deadline = wait.deadline();
        loop {
            match flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK | Errno::INTR) if wait.interrupt.raised() => {
                    bail!("stopped by a signal")
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    let holder = fstat(&self.fd).ok().and_then(|stat| flock_holder(stat.st_dev, stat.st_ino));
                    let who = holder.map_or_else(|| "another run".to_owned(), process);
                    return Err(lock::Held(format!("{} is locked by {who}", self.path.display())).into());
                }
                Err(e) => return Err(e).with_context(|| format!("cannot lock {}", self.path.display())),
            }
        }
    }

    /// Puts back what a killed run has left aside, and removes the private subdirectory. Needs the lock.
    ///
    /// After an error the cache must not be changed: an image that could not be put back would be lost under the next one.
    pub(crate) fn recover(&mut self) -> Result<u64> {
        let shown =
            || format!("cannot put back what is in {}/{}", self.path.display(), ASIDE.to_string_lossy());
        let aside = match self.open_below(ASIDE) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(0),
            Err(e) => return Err(e).with_context(shown),
        };
        let mut names = Vec::new();
        let mut strange = None;
        list(aside.as_fd(), &self.path, &mut |name, kind, _| match MasterName::new(name.as_bytes()) {
            Some(name) if kind == EntryKind::File => names.push(name),
            _ => strange = Some(name.to_owned()),
        })
        .with_context(shown)?;
        if let Some(name) = strange {
            return Err(anyhow!("{name} is no image")).with_context(shown);
        }
        for name in &names {
            put_back(&aside, &self.fd, name.as_c_str()).with_context(shown)?;
        }
        self.aside = Some(aside);
        self.close_aside();
        Ok(names.len() as u64)
    }

    /// Looks at everything in the directory and decides what is in use and what a crashed download left.
    ///
    /// `grace` is how long a download must have shown no sign of life to count as dead. `caches` are the device and inode of
    /// directories that are caches themselves, and so no leftovers wherever they are.
    pub(crate) fn survey(&self, grace: Nanos, now: Nanos, caches: &[(u64, u64)]) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut linked = Vec::new();
        let mut directories = Vec::new();
        let unreadable = list(self.fd(), &self.path, &mut |name, kind, seen| {
            let bytes = name.as_bytes();
            match (MasterName::new(bytes), kind) {
                (Some(name), EntryKind::File) if seen.links == 1 => {
                    survey.unused.push(Master { name, seen: *seen });
                }
                (Some(name), EntryKind::File) => linked.push(Master { name, seen: *seen }),
                (_, EntryKind::Directory) if bytes == ASIDE.to_bytes() => survey.has_aside = true,
                (_, EntryKind::Directory) if is_temporary(bytes) => {
                    directories.push((name.to_owned(), *seen));
                }
                (_, EntryKind::File) if is_part(bytes) && seen.links == 1 => {
                    let part = Part { name: name.to_owned(), seen: *seen, state: Leftover::Young };
                    survey.parts.push(part);
                }
                _ => survey.foreign.push(name.to_owned()),
            }
        })?;
        survey
            .errors
            .extend(unreadable.into_iter().map(|(name, e)| error(&name, Action::Look, &e.to_string())));
        for (name, seen) in directories {
            let looked = match self.open_download(&name, caches) {
                Ok(Some(fd)) => self.look_into(&fd, &name, &seen),
                Ok(None) => {
                    survey.foreign.push(name);
                    continue;
                }
                Err(Errno::NOENT) => continue,
                Err(e) => Err(e.into()),
            };
            match looked {
                Ok(temporary) => survey.temporary.push(temporary),
                Err(e) => survey.errors.push(error(&name, Action::Look, &format!("{:#}", e.root_cause()))),
            }
        }
        survey.judge(now.saturating_sub(grace));
        survey.count_links(linked);
        Ok(survey)
    }

    /// Opens a directory that is named like a download's; `None` when none made it: Python's mkdtemp leaves nobody else any rights.
    fn open_download(&self, name: &NameBuf, caches: &[(u64, u64)]) -> Result<Option<OwnedFd>, Errno> {
        let fd = match self.open_below(name.as_name().as_c_str()) {
            Err(Errno::XDEV) => return Ok(None),
            opened => opened?,
        };
        let stat = fstat(&fd)?;
        let is_private = stat.st_mode & 0o777 == 0o700;
        Ok(Some(fd).filter(|_| is_private && !caches.contains(&(stat.st_dev, stat.st_ino))))
    }

    fn look_into(&self, fd: &OwnedFd, name: &NameBuf, seen: &Seen) -> Result<Temporary> {
        let mut found = Temporary {
            name: name.clone(),
            inode: seen.inode,
            files: Vec::new(),
            is_strange: false,
            newest: seen.mtime.max(seen.ctime),
            state: Leftover::Young,
        };
        let unreadable = list(fd.as_fd(), &self.path, &mut |name, kind, seen| {
            // An image's third time also moves when an instance's link to it goes: only its contents tell of the download.
            found.newest = found.newest.max(seen.mtime).max(if seen.links == 1 { seen.ctime } else { 0 });
            if kind == EntryKind::File && is_downloaded(name.as_bytes()) {
                found.files.push((name.to_owned(), *seen));
            } else {
                found.is_strange = true;
            }
        })?;
        found.is_strange |= !unreadable.is_empty();
        Ok(found)
    }

    /// Removes an unused image if nothing has changed since the survey.
    pub(crate) fn remove(&mut self, survey: &Survey, image: &Master) -> Result<Removal> {
        let name = image.name.as_c_str();
        let was = &image.seen;
        match look(self.fd(), image.name.as_name())? {
            None => return Ok(Removal::AlreadyGone),
            Some((EntryKind::File, now)) if is_same(was, &now) && now.ctime == was.ctime => {}
            Some((_, now)) => return Ok(gone_or_changed(self.fd(), image.name.as_name(), &now)?),
        }
        let Some(aside) = &self.aside else {
            return self.remove_in_place(survey, image);
        };
        match renameat(&self.fd, name, aside, name) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Removal::AlreadyGone),
            Err(Errno::NOSPC | Errno::DQUOT) => return self.remove_in_place(survey, image),
            Err(e) => return Err(e.into()),
        }
        // Nobody can link to it any more; what was linked until now shows.
        let removal = match look(aside.as_fd(), image.name.as_name()) {
            Ok(Some((EntryKind::File, now))) if is_same(was, &now) => self
                .remove_stale_links(survey, was.inode)
                .and_then(|()| unlinkat(aside, name, AtFlags::empty()).map_err(Into::into))
                .map(|()| Removal::Removed),
            Ok(_) => Ok(Removal::Changed),
            Err(e) => Err(e.into()),
        };
        if !matches!(removal, Ok(Removal::Removed)) {
            put_back(aside, &self.fd, name)
                .with_context(|| format!("it is left in {}", ASIDE.to_string_lossy()))?;
        }
        removal
    }

    /// The disk has no room for another name: the image is looked at once more and unlinked where it stands.
    fn remove_in_place(&self, survey: &Survey, image: &Master) -> Result<Removal> {
        self.remove_stale_links(survey, image.seen.inode)?;
        match look(self.fd(), image.name.as_name())? {
            None => Ok(Removal::AlreadyGone),
            Some((EntryKind::File, now))
                if now.inode == image.seen.inode && now.links == 1 && now.mtime == image.seen.mtime =>
            {
                unlinkat(&self.fd, image.name.as_c_str(), AtFlags::empty())?;
                Ok(Removal::Removed)
            }
            Some(_) => Ok(Removal::Changed),
        }
    }

    /// Removes the links that stale temporary directories have to an image: with them its blocks would stay.
    fn remove_stale_links(&self, survey: &Survey, inode: u64) -> Result<()> {
        for (position, file) in survey.stale_links.get(&inode).into_iter().flatten() {
            let found = &survey.temporary[*position];
            let (name, _) = &found.files[*file];
            remove_below(&self.open_temporary(found)?, name, inode)?;
        }
        Ok(())
    }

    /// Opens a temporary directory if it is still the one that was seen.
    fn open_temporary(&self, found: &Temporary) -> Result<OwnedFd> {
        let fd = self.open_below(found.name.as_name().as_c_str())?;
        if fstat(&fd)?.st_ino != found.inode {
            bail!("{} was replaced meanwhile", found.name);
        }
        Ok(fd)
    }

    /// Removes a stale temporary directory with all that is in it. What cannot be removed stays, and with it the directory.
    pub(crate) fn remove_temporary(&self, found: &Temporary, interrupt: &Interrupt) -> Emptied {
        let mut done = Emptied::default();
        if let Err(e) = self.empty(found, interrupt, &mut done) {
            done.errors.push(error(&found.name, Action::Remove, &format!("{e:#}")));
        }
        done
    }

    fn empty(&self, found: &Temporary, interrupt: &Interrupt, done: &mut Emptied) -> Result<()> {
        let fd = match self.open_temporary(found) {
            Err(e) if e.downcast_ref() == Some(&Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        for (name, seen) in &found.files {
            if interrupt.raised() {
                return Ok(());
            }
            match remove_below(&fd, name, seen.inode) {
                Ok(()) => {
                    done.files += 1;
                    done.bytes += if seen.links == 1 { seen.allocated } else { 0 };
                }
                Err(e) => {
                    let name = format!("{}/{name}", found.name);
                    done.errors.push(EntryError { name, action: Action::Remove, message: format!("{e:#}") });
                }
            }
        }
        match unlinkat(&self.fd, found.name.as_name().as_c_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // It has been told already what stays.
            Err(Errno::NOTEMPTY) if !done.errors.is_empty() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes a stale file of a download from the cache itself, if it has not changed.
    pub(crate) fn remove_part(&self, part: &Part) -> Result<Removal> {
        match look(self.fd(), part.name.as_name())? {
            None => Ok(Removal::AlreadyGone),
            Some((EntryKind::File, now)) if now == part.seen => {
                unlinkat(&self.fd, part.name.as_name().as_c_str(), AtFlags::empty())?;
                Ok(Removal::Removed)
            }
            Some(_) => Ok(Removal::Changed),
        }
    }

    /// Makes the private subdirectory, if the disk has room for it. After an error no image here can be removed.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        if self.aside.is_none() {
            match self.make_aside() {
                Ok(fd) => self.aside = Some(fd),
                Err(Errno::NOSPC | Errno::DQUOT) => {}
                Err(e) => {
                    return Err(e).with_context(|| {
                        format!("cannot make {}/{}", self.path.display(), ASIDE.to_string_lossy())
                    });
                }
            }
        }
        Ok(())
    }

    /// Makes it as whoever owns the cache.
    fn make_aside(&self) -> Result<OwnedFd, Errno> {
        {
            let _owner = self.owner.act().map_err(|_| Errno::PERM)?;
            match mkdirat(&self.fd, ASIDE, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        }
        self.open_below(ASIDE)
    }

    /// Removes the private subdirectory again. One that is not empty stays for the next run.
    pub(crate) fn close_aside(&mut self) {
        if self.aside.take().is_none() {
            return;
        }
        let _ = unlinkat(&self.fd, ASIDE, AtFlags::REMOVEDIR);
    }

    fn open_below(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        let fd = openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        // Something mounted there is not of this cache.
        if fstat(&fd)?.st_dev == self.device { Ok(fd) } else { Err(Errno::XDEV) }
    }
}

impl Drop for MasterDir {
    fn drop(&mut self) {
        self.close_aside();
    }
}

impl Survey {
    /// Decides which temporary directories and files are stale: no sign of life since `limit`, and nobody has them open.
    fn judge(&mut self, limit: Nanos) {
        for found in &mut self.temporary {
            if found.newest < limit {
                found.state = if found.is_strange { Leftover::Strange } else { Leftover::Stale };
            }
        }
        for part in &mut self.parts {
            if part.seen.mtime.max(part.seen.ctime) < limit {
                part.state = Leftover::Stale;
            }
        }
        let stale = self.temporary.iter().filter(|found| found.state == Leftover::Stale);
        let files =
            stale.flat_map(|found| found.files.iter().map(|(name, seen)| (name.as_name(), seen.inode)));
        let parts = self.parts.iter().filter(|part| part.state == Leftover::Stale);
        let suspects = files.chain(parts.map(|part| (part.name.as_name(), part.seen.inode)));
        let open = writers::find_open(suspects);
        self.some_unseen = open.some_unseen;
        let holder = |seen: &Seen| open.by_inode.get(&seen.inode).copied();
        for found in self.temporary.iter_mut().filter(|found| found.state == Leftover::Stale) {
            if let Some(pid) = found.files.iter().find_map(|(_, seen)| holder(seen)) {
                found.state = Leftover::Open(pid);
            }
        }
        for part in self.parts.iter_mut().filter(|part| part.state == Leftover::Stale) {
            if let Some(pid) = holder(&part.seen) {
                part.state = Leftover::Open(pid);
            }
        }
    }

    /// Sorts images with several links: unused when all but one are in stale temporary directories.
    fn count_links(&mut self, linked: Vec<Master>) {
        let mut links: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
        for (position, found) in self.temporary.iter().enumerate() {
            for (file, (_, seen)) in found.files.iter().enumerate() {
                if found.state == Leftover::Stale && seen.links > 1 {
                    links.entry(seen.inode).or_default().push((position, file));
                }
            }
        }
        for image in linked {
            let stale = links.get(&image.seen.inode).map_or(0, Vec::len);
            if image.seen.links as usize == stale + 1 {
                self.unused.push(image);
            } else {
                self.in_use += 1;
                self.in_use_bytes = self.in_use_bytes.saturating_add(image.seen.size);
                self.in_use_allocated += image.seen.allocated;
            }
        }
        self.stale_links = links;
    }
}

/// Whether an image is the one of the survey and was not used since. The third time is left out: renaming changes it.
fn is_same(was: &Seen, now: &Seen) -> bool {
    was.inode == now.inode
        && was.links == now.links
        && was.size == now.size
        && was.mtime == now.mtime
        && was.atime == now.atime
}

/// What became of an image that is not what was seen. An unlink under way shows a changed file for a moment, as in
/// [`super::dir::CacheDir::remove`].
fn gone_or_changed(fd: BorrowedFd<'_>, name: Name<'_>, now: &Seen) -> Result<Removal, Errno> {
    let is_gone = now.links == 0 || look(fd, name)?.is_none_or(|(_, now)| now.links == 0);
    Ok(if is_gone { Removal::AlreadyGone } else { Removal::Changed })
}

/// Removes a file of a temporary directory if it is still the one that was seen.
fn remove_below(directory: &OwnedFd, name: &NameBuf, inode: u64) -> Result<()> {
    match look(directory.as_fd(), name.as_name())? {
        Some((_, now)) if now.inode == inode => {
            unlinkat(directory, name.as_name().as_c_str(), AtFlags::empty())?;
            Ok(())
        }
        Some(_) => bail!("it was replaced meanwhile"),
        None => Ok(()),
    }
}

/// Gives an image its name in the cache back. Never replaces: an image of that name which came meanwhile is as good, and stays.
fn put_back(aside: &OwnedFd, cache: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match linkat(aside, name, cache, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::EXIST) => unlinkat(aside, name, AtFlags::empty()),
        Err(Errno::NOENT) => Ok(()),
        // No links on this file system, or none to other people's files.
        Err(_) => match renameat_with(aside, name, cache, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => unlinkat(aside, name, AtFlags::empty()),
            renamed => renamed,
        },
    }
}

/// Whether a name is one that Python's mkdtemp makes, as Ironic calls it: `tmp` and eight random characters.
fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(b"tmp").is_some_and(|random| {
        random.len() == 8 && random.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_')
    })
}

/// Whether a name is one that a download gives the files in its temporary directory: an image's, with what marks its stages.
fn is_downloaded(name: &[u8]) -> bool {
    let mut stem = name;
    while let Some(shorter) = stem.strip_suffix(PART).or_else(|| stem.strip_suffix(CONVERTED)) {
        stem = shorter;
    }
    ImageId::new(stem).is_some()
}

/// Whether a name is one of an unfinished download: an image's with `.part`.
fn is_part(name: &[u8]) -> bool {
    name.strip_suffix(PART).is_some_and(|name| MasterName::new(name).is_some())
}

fn error(name: &NameBuf, action: Action, message: &str) -> EntryError {
    EntryError { name: name.to_string(), action, message: message.to_owned() }
}
