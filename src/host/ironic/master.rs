//! A directory of Ironic's master images: finds unused images and the remains of crashed downloads, and
//! removes them safely beside a running conductor.
//!
//! The directory has no index. An instance that uses an image has a hard link to it, so an image with one
//! link is unused.
//!
//! **Images** are regular files named `<uuid>` or `<uuid>.converted`, as Ironic names them. All other entries
//! are foreign and are never touched, except what a crashed download left. A download that was killed leaves
//! its temporary directory behind for ever, with a second link to an image or with files of its own. Once
//! such a directory is old enough and no process has a file in it open, its links no longer count as use.
//!
//! **A running conductor** is not locked out: its locks exist only inside its process. Therefore an image is
//! never unlinked under its own name. The steps are:
//!
//! 1. The image is renamed into a private subdirectory, where no new link to it can be made.
//! 2. It is checked again there. If it has gained a link meanwhile, it is linked back into the cache.
//! 3. Links to it in stale temporary directories are removed.
//! 4. The image is unlinked.
//!
//! If the disk is too full for the private subdirectory, the image is checked again and unlinked in place.
//! One race remains: a conductor that has just found the image may miss it a moment later (see
//! glance-cache-prune(8)).
//!
//! | the run is killed | left behind | repaired by the next run |
//! |---|---|---|
//! | after step 1 or 2 | the image in the subdirectory | the image is put back |
//! | during step 3 | the same, with fewer stale links | the image is put back |
//! | after step 4 | the empty subdirectory | the subdirectory is removed |
//!
//! **Two runs of this tool** exclude each other by flock on the directory itself, because Ironic would remove
//! a lock file as if it were an image.
//!
//! All paths are relative to open descriptors and consist of single names, as in [`crate::cache::dir`].
//! Subdirectories are opened without following links. Only the private one and those that are named like
//! Ironic's temporary directories are entered.

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

use crate::cache::outcome::{Action, EntryError};
use crate::interrupt::{Interrupt, Wait};
use crate::names::{ImageId, Name, NameBuf};
use crate::os::locks::{Held, HeldThing, flock_holder, process};
use crate::os::owner::Owner;
use crate::os::writers;
use crate::units::Nanos;

/// The private subdirectory: an image is here after it was renamed and until it is unlinked. Because of the
/// flock on the cache, only one run uses it at a time.
const ASIDE: &CStr = c".glance-cache-aside";
const CONVERTED: &[u8] = b".converted";
const PART: &[u8] = b".part";
/// The time between two attempts to take a busy lock.
const PAUSE: Duration = Duration::from_millis(50);

/// The name of a master image: a UUID in either case, followed by `.converted` if Ironic has converted the
/// image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MasterName([u8; 47]);

impl MasterName {
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        ImageId::new(bytes.strip_suffix(CONVERTED).unwrap_or(bytes))?;
        let mut name = [0; 47];
        name[..bytes.len()].copy_from_slice(bytes);
        Some(MasterName(name))
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).expect("at most 46 characters, followed by NUL")
    }

    pub(super) fn as_name(&self) -> Name<'_> {
        Name::new(self.as_c_str()).expect("the name has only hexadecimal digits, dashes and a suffix")
    }

    /// Returns the id of the image.
    pub(super) fn id(&self) -> ImageId {
        ImageId::new(&self.0[..36]).expect("the id was checked when the name was made")
    }
}

impl fmt::Display for MasterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_c_str().to_string_lossy())
    }
}

/// An image that no instance has a link to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Master {
    pub(super) name: MasterName,
    pub(super) seen: Seen,
}

impl fmt::Debug for MasterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Master {
    /// Returns the last use as Ironic determines it: the latest of the three times of the file. Linking and
    /// unlinking change the third one, the ctime.
    pub(super) fn last_use(&self) -> Nanos {
        self.seen.last_use().max(self.seen.ctime)
    }
}

/// The temporary directory of a download.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) name: NameBuf,
    inode: u64,
    /// The files in it that are named like a download's.
    pub(super) files: Vec<(NameBuf, Seen)>,
    /// True if it also holds entries that no download creates. Such a directory is not removed.
    is_strange: bool,
    /// The time of the last sign of life, in nanoseconds since the epoch.
    pub(super) newest: Nanos,
    pub(super) state: LeftoverState,
}

impl Temporary {
    /// Returns how many bytes of disk are freed if it is removed.
    pub(super) fn allocated(&self) -> u64 {
        self.files.iter().filter(|(_, seen)| seen.links == 1).map(|(_, seen)| seen.allocated).sum()
    }
}

/// The state of a temporary file or directory: does it belong to a crashed download?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LeftoverState {
    /// It is too young: the download may still be running.
    Young,
    /// It is old, but the process with this id has it, or a file in it, open.
    Open(i32),
    /// It is old, but holds entries that no download creates.
    Strange,
    /// It was left by a crashed download, and is removed.
    Stale,
}

/// An unfinished `.part` file of a download in the cache directory itself.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) name: NameBuf,
    pub(super) seen: Seen,
    pub(super) state: LeftoverState,
}

/// The contents of a master directory.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Images that no instance uses, in directory order.
    pub(super) unused: Vec<Master>,
    /// Images that instances have links to, in directory order.
    pub(super) used: Vec<Master>,
    /// The number of these images.
    pub(super) in_use: u64,
    /// The sizes of these images, in bytes.
    pub(super) in_use_bytes: u64,
    /// The disk space of these images, in bytes.
    pub(super) in_use_allocated: u64,
    pub(super) foreign: Vec<NameBuf>,
    pub(super) temporary: Vec<Temporary>,
    pub(super) parts: Vec<PartFile>,
    /// For the inode of an image, its links in stale temporary directories: the position of the directory in
    /// `temporary`, and of the file in its `files`.
    stale_links: HashMap<u64, Vec<(usize, usize)>>,
    pub(super) errors: Vec<EntryError>,
    /// True if there were processes whose open files could not be read.
    pub(super) some_unseen: bool,
    /// True if a killed run has left images in the private subdirectory.
    pub(super) has_aside: bool,
}

/// The result of removing a stale temporary directory.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    /// The number of files that were removed.
    pub(super) files: u64,
    /// The disk space that was freed, in bytes.
    pub(super) bytes: u64,
    pub(super) errors: Vec<EntryError>,
}

/// An open master image directory.
#[derive(Debug)]
pub(super) struct MasterDir {
    path: PathBuf,
    fd: OwnedFd,
    device: u64,
    owner: Owner,
    aside: Option<OwnedFd>,
}

impl MasterDir {
    /// Opens the directory at `path`. Returns `None` if it does not exist, and never creates it.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let fd = match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            #[expect(clippy::disallowed_methods, reason = "for the message alone")]
            Err(Errno::NOENT) if rustix::fs::lstat(path).is_ok() => {
                bail!("cannot open {}: it is a symlink to a path that does not exist", path.display())
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
        };
        let stat = fstat(&fd).with_context(|| format!("cannot look at {}", path.display()))?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(Some(MasterDir { path: path.to_owned(), fd, device: stat.st_dev, owner, aside: None }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Locks the directory against other runs of this tool until it is closed.
    ///
    /// If the lock stays busy, the error names the process that holds it.
    pub(super) fn lock(&self, wait: &Wait) -> Result<()> {
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
                    let text = format!("{} is locked by {who}", self.path.display());
                    return Err(Held(HeldThing::Lock, text).into());
                }
                Err(e) => return Err(e).with_context(|| format!("cannot lock {}", self.path.display())),
            }
        }
    }

    /// Puts images back that a killed run has left in the private subdirectory, and removes that
    /// subdirectory. Returns how many there were. The caller must hold the lock.
    ///
    /// After an error the cache must not be changed: the next image of the same name that is moved aside
    /// would replace one that could not be put back.
    pub(super) fn recover(&mut self) -> Result<u64> {
        let shown =
            || format!("cannot put back the images in {}/{}", self.path.display(), ASIDE.to_string_lossy());
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
            return Err(anyhow!("{name} is not an image; move it away first")).with_context(shown);
        }
        for name in &names {
            put_back(&aside, &self.fd, name.as_c_str()).with_context(shown)?;
        }
        self.aside = Some(aside);
        self.close_aside();
        Ok(names.len() as u64)
    }

    /// Scans the directory, and decides which images are in use and which files a crashed download left.
    ///
    /// A download counts as crashed after `grace` without a sign of life. `caches` holds the device and inode
    /// of every cache of the host: none of these directories is ever taken for the remains of a download.
    pub(super) fn survey(&self, grace: Nanos, now: Nanos, caches: &[(u64, u64)]) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut linked = Vec::new();
        let mut directories = Vec::new();
        let unreadable = list(self.fd(), &self.path, &mut |name, kind, seen| {
            let bytes = name.as_bytes();
            match (MasterName::new(bytes), kind) {
                // Another process has just unlinked it.
                (_, EntryKind::File) if seen.links == 0 => {}
                (Some(name), EntryKind::File) if seen.links == 1 => {
                    survey.unused.push(Master { name, seen: *seen });
                }
                (Some(name), EntryKind::File) => linked.push(Master { name, seen: *seen }),
                (_, EntryKind::Directory) if bytes == ASIDE.to_bytes() => survey.has_aside = true,
                (_, EntryKind::Directory) if is_temporary(bytes) => {
                    directories.push((name.to_owned(), *seen));
                }
                (_, EntryKind::File) if is_part(bytes) && seen.links == 1 => {
                    let part = PartFile { name: name.to_owned(), seen: *seen, state: LeftoverState::Young };
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

    /// Opens a directory that is named like a download's. Returns `None` if no download can have created it.
    ///
    /// Ironic creates these directories with Python's mkdtemp, which gives rights to the owner alone.
    fn open_download(&self, name: &NameBuf, caches: &[(u64, u64)]) -> Result<Option<OwnedFd>, Errno> {
        let fd = match self.open_below(name.as_name().as_c_str()) {
            Err(Errno::XDEV) => return Ok(None),
            opened => opened?,
        };
        let stat = fstat(&fd)?;
        let is_private = stat.st_mode & 0o777 == 0o700;
        Ok(Some(fd).filter(|_| is_private && !caches.contains(&(stat.st_dev, stat.st_ino))))
    }

    /// Lists the files of a temporary directory. Its state is decided later.
    fn look_into(&self, fd: &OwnedFd, name: &NameBuf, seen: &Seen) -> Result<Temporary> {
        let mut found = Temporary {
            name: name.clone(),
            inode: seen.inode,
            files: Vec::new(),
            is_strange: false,
            newest: seen.mtime.max(seen.ctime),
            state: LeftoverState::Young,
        };
        let unreadable = list(fd.as_fd(), &self.path, &mut |name, kind, seen| {
            // The ctime of an image also changes when an instance's link to it is removed, so that only the
            // times of its contents show that the download was alive.
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

    /// Removes an unused image if it has not changed since the survey. The steps are in the head of this
    /// file.
    pub(super) fn remove(&mut self, survey: &Survey, image: &Master) -> Result<Removal> {
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
        // From here on no process can make a link to it, and links made before are counted in its inode.
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
                .with_context(|| format!("the image is left in {}", ASIDE.to_string_lossy()))?;
        }
        removal
    }

    /// Removes an image under its own name, after checking it once more. This is for a disk that is too full
    /// for another directory entry.
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

    /// Removes the links to an image in stale temporary directories. Otherwise its disk space would not be
    /// freed.
    fn remove_stale_links(&self, survey: &Survey, inode: u64) -> Result<()> {
        for (position, file) in survey.stale_links.get(&inode).into_iter().flatten() {
            let found = &survey.temporary[*position];
            let (name, _) = &found.files[*file];
            remove_below(&self.open_temporary(found)?, name, inode)?;
        }
        Ok(())
    }

    /// Opens a temporary directory. Fails if it is not the one of the survey any more.
    fn open_temporary(&self, found: &Temporary) -> Result<OwnedFd> {
        let fd = self.open_below(found.name.as_name().as_c_str())?;
        if fstat(&fd)?.st_ino != found.inode {
            bail!("{} was replaced meanwhile", found.name);
        }
        Ok(fd)
    }

    /// Removes a stale temporary directory and its files. If a file cannot be removed, the directory stays,
    /// too.
    pub(super) fn remove_temporary(&self, found: &Temporary, interrupt: &Interrupt) -> Emptied {
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
            // The errors already name the files that stay.
            Err(Errno::NOTEMPTY) if !done.errors.is_empty() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes a stale `.part` file if it has not changed since the survey.
    pub(super) fn remove_part(&self, part: &PartFile) -> Result<Removal> {
        match look(self.fd(), part.name.as_name())? {
            None => Ok(Removal::AlreadyGone),
            Some((EntryKind::File, now)) if now == part.seen => {
                unlinkat(&self.fd, part.name.as_name().as_c_str(), AtFlags::empty())?;
                Ok(Removal::Removed)
            }
            Some(_) => Ok(Removal::Changed),
        }
    }

    /// Creates the private subdirectory, unless the disk is too full. After an error no image here can be
    /// removed.
    pub(super) fn prepare(&mut self) -> Result<()> {
        if self.aside.is_none() {
            match self.make_aside() {
                Ok(fd) => self.aside = Some(fd),
                Err(Errno::NOSPC | Errno::DQUOT) => {}
                Err(e) => {
                    return Err(e).with_context(|| {
                        format!("cannot create {}/{}", self.path.display(), ASIDE.to_string_lossy())
                    });
                }
            }
        }
        Ok(())
    }

    /// Creates the private subdirectory as the owner of the cache directory, and opens it.
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

    /// Removes the private subdirectory. If it is not empty, it stays, and the next run puts its images back.
    pub(super) fn close_aside(&mut self) {
        if self.aside.take().is_none() {
            return;
        }
        let _ = unlinkat(&self.fd, ASIDE, AtFlags::REMOVEDIR);
    }

    /// Opens a subdirectory. Fails with `EXDEV` if another file system is mounted there.
    fn open_below(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        let fd = openat(&self.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        if fstat(&fd)?.st_dev == self.device { Ok(fd) } else { Err(Errno::XDEV) }
    }
}

impl Drop for MasterDir {
    fn drop(&mut self) {
        self.close_aside();
    }
}

impl Survey {
    /// Decides which temporary directories and files are stale: they have shown no sign of life since
    /// `limit`, and no process has them open.
    fn judge(&mut self, limit: Nanos) {
        for found in &mut self.temporary {
            if found.newest < limit {
                found.state = if found.is_strange { LeftoverState::Strange } else { LeftoverState::Stale };
            }
        }
        for part in &mut self.parts {
            if part.seen.mtime.max(part.seen.ctime) < limit {
                part.state = LeftoverState::Stale;
            }
        }
        let stale = self.temporary.iter().filter(|found| found.state == LeftoverState::Stale);
        let files =
            stale.flat_map(|found| found.files.iter().map(|(name, seen)| (name.as_name(), seen.inode)));
        let parts = self.parts.iter().filter(|part| part.state == LeftoverState::Stale);
        let suspects = files.chain(parts.map(|part| (part.name.as_name(), part.seen.inode)));
        let open = writers::find_open(suspects);
        self.some_unseen = open.some_unseen;
        let holder = |seen: &Seen| open.by_inode.get(&seen.inode).copied();
        for found in self.temporary.iter_mut().filter(|found| found.state == LeftoverState::Stale) {
            if let Some(pid) = found.files.iter().find_map(|(_, seen)| holder(seen)) {
                found.state = LeftoverState::Open(pid);
            }
        }
        for part in self.parts.iter_mut().filter(|part| part.state == LeftoverState::Stale) {
            if let Some(pid) = holder(&part.seen) {
                part.state = LeftoverState::Open(pid);
            }
        }
    }

    /// Sorts images with several links into used and unused ones. An image is unused if all its links but one
    /// are in stale temporary directories.
    fn count_links(&mut self, linked: Vec<Master>) {
        let mut links: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
        for (position, found) in self.temporary.iter().enumerate() {
            for (file, (_, seen)) in found.files.iter().enumerate() {
                if found.state == LeftoverState::Stale && seen.links > 1 {
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
                self.used.push(image);
            }
        }
        self.stale_links = links;
    }
}

/// True if an image is the one of the survey and was not used since. The ctime is not compared, because
/// renaming changes it.
fn is_same(was: &Seen, now: &Seen) -> bool {
    was.inode == now.inode
        && was.links == now.links
        && was.size == now.size
        && was.mtime == now.mtime
        && was.atime == now.atime
}

/// Returns the result for an image that differs from the survey: it was removed or it has changed.
///
/// An unlink in another process shows a changed file for a moment, as in
/// [`crate::cache::dir::CacheDir::remove`].
fn gone_or_changed(fd: BorrowedFd<'_>, name: Name<'_>, now: &Seen) -> Result<Removal, Errno> {
    let is_gone = now.links == 0 || look(fd, name)?.is_none_or(|(_, now)| now.links == 0);
    Ok(if is_gone { Removal::AlreadyGone } else { Removal::Changed })
}

/// Removes a file of a temporary directory. Fails if it is not the one of the survey any more.
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

/// Moves an image from the private subdirectory back into the cache.
///
/// It never replaces an image that has got the same name meanwhile: that one is as good, and the one aside is
/// removed.
fn put_back(aside: &OwnedFd, cache: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match linkat(aside, name, cache, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::EXIST) => unlinkat(aside, name, AtFlags::empty()),
        Err(Errno::NOENT) => Ok(()),
        // The file system has no links, or the kernel refuses links to files of other users.
        Err(_) => match renameat_with(aside, name, cache, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => unlinkat(aside, name, AtFlags::empty()),
            renamed => renamed,
        },
    }
}

/// True for a name that Python's mkdtemp gives a directory when Ironic calls it: `tmp` and eight random
/// characters.
fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(b"tmp").is_some_and(|random| {
        random.len() == 8 && random.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_')
    })
}

/// True for a name that a download gives a file in its temporary directory: that of an image, followed by
/// suffixes for the stages of the download.
fn is_downloaded(name: &[u8]) -> bool {
    let mut stem = name;
    while let Some(shorter) = stem.strip_suffix(PART).or_else(|| stem.strip_suffix(CONVERTED)) {
        stem = shorter;
    }
    ImageId::new(stem).is_some()
}

/// True for the name of an unfinished download: that of an image, followed by `.part`.
fn is_part(name: &[u8]) -> bool {
    name.strip_suffix(PART).is_some_and(|name| MasterName::new(name).is_some())
}

fn error(name: &NameBuf, action: Action, message: &str) -> EntryError {
    EntryError { name: name.to_string(), action, message: message.to_owned() }
}
