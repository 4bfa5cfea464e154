//! A new image, from the claim on its name until it is published.
//!
//! **The claim** is an empty file `incomplete/ID`. While it exists, Glance does not begin to cache that
//! image. A Glance that had looked before opens this file with truncation, writes into it and moves it into
//! place when it is complete. So this program never writes to a claim, and a claim that has bytes, or that
//! another process has open for writing, is Glance's by now. A claim of ours is marked by its sticky bit,
//! which has no meaning for a file: a run that holds the prefetch lock and finds an empty file with this mark
//! knows that its maker is dead.
//!
//! **The bytes** go into a file without a name (`O_TMPFILE`), or where the file system has no such files into
//! `incomplete/ID.prefetch`, which `clean` removes like everything stalled there. The next prefetch removes
//! at once what a killed one left.
//!
//! **Publishing** gives that file the name of the image in the cache directory. It never replaces a file that
//! exists.
//!
//! | killed | what is left |
//! |---|---|
//! | before it is published | a claim, perhaps a private file, perhaps a row without a file (a ghost) |
//! | after | the complete image with its row, its claim, perhaps its entry in the queue |
//!
//! A claim or a file that is dropped without being published is removed.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, fchmod, fstat, futimens,
    linkat, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::dir::{CacheDir, CachePlace, kind_of, look};
use super::entry::{EntryKind, Seen};
use crate::names::{ImageId, Name, NameBuf};
use crate::os::locks::process;
use crate::os::owner::Owner;
use crate::os::writers;
use crate::units::{Nanos, SECOND};

/// The mode of Glance's own files, before the umask.
const MODE: Mode = Mode::from_raw_mode(0o666);
/// The mark of our own claims.
const MARK: Mode = Mode::SVTX;
/// The end of the name of a staged file, after the id, on a file system that has no files without a name.
const PRIVATE: &str = ".prefetch";

/// The result of claiming an image.
#[derive(Debug)]
pub(crate) enum Claiming {
    Ours(Claim),
    /// The image is in the cache.
    Cached,
    /// The image is left to another process, as the text says.
    Left(String),
    /// Something that is no file has been in the place of the claim for long: nobody can cache the image.
    Blocked(String),
}

/// The file that is in the place of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    kind: EntryKind,
    size: u64,
    mtime: Nanos,
    /// True if it has the mark of our own claims.
    marked: bool,
    /// A process that has it open for writing.
    writer: Option<i32>,
}

impl Standing {
    /// Returns why it must be left alone, or `None` if it is dead and may be taken over.
    fn stays(&self, id: ImageId, stalled_before: Nanos) -> Option<Claiming> {
        let is_old = self.mtime < stalled_before;
        let left = |why: String| Some(Claiming::Left(why));
        match (self.kind, self.writer) {
            (EntryKind::File, Some(pid)) => left(format!("{} is caching it", process(pid))),
            (EntryKind::File, None) if self.marked && self.size == 0 => None,
            (EntryKind::File, None) if is_old => None,
            (EntryKind::File, None) => {
                left("another process is caching it, or was a short while ago".to_owned())
            }
            (kind, _) if is_old => Some(Claiming::Blocked(format!(
                "incomplete/{id} is {kind}, which keeps the image from being cached: remove it"
            ))),
            (kind, _) => left(format!("its place in incomplete/ is taken by {kind}")),
        }
    }
}

/// A claim on an image that is to be cached.
#[derive(Debug)]
pub(crate) struct Claim {
    id: ImageId,
    incomplete: OwnedFd,
    owner: Owner,
    inode: u64,
    /// Held open for writing, so that others do not take it for stalled.
    file: Option<OwnedFd>,
}

impl Claim {
    /// Claims an image. A file in its place is taken over if it was not written to since `stalled_before`, or
    /// if a killed run left it.
    ///
    /// The caller holds the prefetch lock.
    pub(crate) fn make(dir: &CacheDir, id: ImageId, stalled_before: Nanos) -> Result<Claiming> {
        let incomplete = dir.fd(CachePlace::Incomplete).context("the directory incomplete/ is missing")?;
        for _ in 0..3 {
            if is_cached(dir, id)? {
                return Ok(Claiming::Cached);
            }
            match Self::create(incomplete, dir.owner(), id) {
                // Glance may have published it between the look and the claim.
                Ok(_claim) if is_cached(dir, id)? => return Ok(Claiming::Cached),
                Ok(claim) => return Ok(Claiming::Ours(claim)),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e).with_context(|| format!("cannot make incomplete/{id}")),
            }
            let Some((standing, inode)) = standing(incomplete, id.as_name())? else { continue };
            if let Some(claiming) = standing.stays(id, stalled_before) {
                return Ok(claiming);
            }
            let same = |now: &Seen| now.inode == inode && now.size == standing.size;
            dir.remove(CachePlace::Incomplete, id.as_name(), same)
                .with_context(|| format!("cannot take over incomplete/{id}"))?;
        }
        Ok(Claiming::Left("another process keeps beginning to cache it".to_owned()))
    }

    /// Makes the file of a claim.
    fn create(incomplete: BorrowedFd<'_>, owner: Owner, id: ImageId) -> Result<Claim, Errno> {
        let _owner = owner.act().map_err(|_| Errno::PERM)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(incomplete, id.as_name().as_c_str(), flags, MODE | MARK)?;
        let stat = fstat(&file)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.contains(MARK) {
            // Some file systems (bindfs) drop the mark of a new file. If it cannot be set now, a next run
            // waits for the stall time.
            let _ = fchmod(&file, mode | MARK);
        }
        let inode = stat.st_ino;
        let incomplete = rustix::io::fcntl_dupfd_cloexec(incomplete, 3)?;
        Ok(Claim { id, incomplete, owner, inode, file: Some(file) })
    }

    /// Sets the time of the claim, so that others see that it is not stalled.
    pub(crate) fn touch(&self) {
        if let Some(file) = &self.file {
            // If this fails, another process may take the claim over. It is looked at again before the image
            // is published.
            let _ = futimens(file, &at_once());
        }
    }

    /// True if the image is still ours to publish: no process writes to the claim. A claim that was removed
    /// meanwhile is made again.
    pub(crate) fn confirm(&mut self) -> Result<bool> {
        self.file = None;
        match standing(self.incomplete.as_fd(), self.id.as_name())? {
            Some((now, inode)) => Ok(inode == self.inode && now.size == 0 && now.writer.is_none()),
            None => match Self::create(self.incomplete.as_fd(), self.owner, self.id) {
                Ok(mut again) => {
                    self.inode = again.inode;
                    self.file = again.file.take();
                    // The new claim is this one now, and must not be released when the other is dropped.
                    again.inode = 0;
                    Ok(true)
                }
                Err(Errno::EXIST) => Ok(false),
                Err(e) => Err(e).with_context(|| format!("cannot make incomplete/{} again", self.id)),
            },
        }
    }
}

impl Drop for Claim {
    /// Releases the claim, unless it is Glance's by now.
    fn drop(&mut self) {
        let Ok(_owner) = self.owner.act() else { return };
        let name = self.id.as_name();
        if let Ok(Some((_, now))) = look(self.incomplete.as_fd(), name)
            && now.inode == self.inode
            && now.size == 0
        {
            // If this fails, it is a dead claim, which the next run takes over.
            let _ = unlinkat(&self.incomplete, name.as_c_str(), AtFlags::empty());
        }
    }
}

/// Looks at the file in the place of a claim and returns it with its inode, or `None` if there is none.
fn standing(incomplete: BorrowedFd<'_>, name: Name<'_>) -> Result<Option<(Standing, u64)>> {
    let stat = match statat(incomplete, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot look at incomplete/{name}")),
    };
    let writers = writers::find(incomplete, std::iter::once((name, stat.st_ino)));
    let standing = Standing {
        kind: kind_of(&stat),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: stat.st_mtime.saturating_mul(SECOND).saturating_add(stat.st_mtime_nsec as i64),
        marked: Mode::from_raw_mode(stat.st_mode).contains(MARK),
        writer: writers.by_inode.get(&stat.st_ino).copied(),
    };
    Ok(Some((standing, stat.st_ino)))
}

/// True if an image is in the cache. Anything else of its name is an error: it can neither be served nor
/// replaced.
pub(crate) fn is_cached(dir: &CacheDir, id: ImageId) -> Result<bool> {
    let found = dir.look(CachePlace::Base, id.as_name());
    match found.with_context(|| format!("cannot look for image {id} in the cache"))? {
        None => Ok(false),
        Some((EntryKind::File, _)) => Ok(true),
        Some(_) => bail!("its name in the cache directory is taken by something that is not a file"),
    }
}

/// Returns what killed runs left in `incomplete/`: claims and private files.
///
/// Entries that cannot be looked at are left to `clean`.
pub(crate) fn leftovers(dir: &CacheDir) -> Vec<Remnant> {
    let Some(incomplete) = dir.fd(CachePlace::Incomplete) else { return Vec::new() };
    let mut left = Vec::new();
    let _ = dir.scan(CachePlace::Incomplete, |name, kind, seen| {
        let stem = name.as_bytes().strip_suffix(PRIVATE.as_bytes());
        let is_private = stem.is_some_and(|stem| ImageId::new(stem).is_some());
        if kind == EntryKind::File && (is_private || seen.size == 0) {
            left.push((name.to_owned(), is_private));
        }
    });
    let dead = |(name, is_private): (NameBuf, bool)| {
        let (now, inode) = standing(incomplete, name.as_name()).ok()??;
        let ours = is_private || (now.marked && now.size == 0);
        (ours && now.writer.is_none()).then_some(Remnant { name, inode, size: now.size })
    };
    left.into_iter().filter_map(dead).collect()
}

/// A claim or a private file that a killed run left.
#[derive(Debug)]
pub(crate) struct Remnant {
    name: NameBuf,
    inode: u64,
    size: u64,
}

/// Removes what killed runs left. The caller holds the prefetch lock.
pub(crate) fn sweep(dir: &CacheDir) {
    for Remnant { name, inode, size } in leftovers(dir) {
        // An entry that cannot be removed is left to `clean`.
        let _ =
            dir.remove(CachePlace::Incomplete, name.as_name(), |now| now.inode == inode && now.size == size);
    }
}

/// Returns why a claim on an image would fail, or `None` if it would be made.
pub(crate) fn foresee(dir: &CacheDir, id: ImageId, stalled_before: Nanos) -> Result<Option<Claiming>> {
    let incomplete = dir.fd(CachePlace::Incomplete).context("the directory incomplete/ is missing")?;
    let found = standing(incomplete, id.as_name())?;
    Ok(found.and_then(|(standing, _)| standing.stays(id, stalled_before)))
}

/// True if another process has begun to cache an image.
pub(super) fn is_being_cached(dir: &CacheDir, id: ImageId) -> Result<bool> {
    let found = dir.look(CachePlace::Incomplete, id.as_name());
    Ok(found.with_context(|| format!("cannot look at incomplete/{id}"))?.is_some())
}

/// The result of publishing an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Publication {
    Published,
    /// A file of that name exists, and stays.
    AlreadyThere,
}

/// A file that will become an image.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) file: File,
    owner: Owner,
    /// The directory and the private name, if the file needs one.
    private: Option<(OwnedFd, NameBuf)>,
}

impl Staged {
    /// Makes an empty file on the file system of the cache.
    pub(crate) fn make(dir: &CacheDir, id: ImageId) -> Result<Self> {
        let owner = dir.owner();
        let _owner = owner.act()?;
        let base = dir.fd(CachePlace::Base).context("the cache directory is always open")?;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match openat(base, c".", flags, MODE) {
            Ok(file) => Ok(Staged { file: file.into(), owner, private: None }),
            // A kernel or a file system that does not know the flag tries to open the directory.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => Self::with_name(dir, id),
            Err(e) => Err(e).with_context(|| format!("cannot stage a file in {}", dir.path().display())),
        }
    }

    /// Makes an empty file with a private name.
    fn with_name(dir: &CacheDir, id: ImageId) -> Result<Self> {
        let incomplete = dir.fd(CachePlace::Incomplete).context("the directory incomplete/ is missing")?;
        let name = NameBuf::new(format!("{id}{PRIVATE}").as_bytes()).context("an id is no long name")?;
        let shown = || format!("cannot stage {}", CachePlace::Incomplete.show(name.as_name()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(incomplete, name.as_name().as_c_str(), flags, MODE);
        let file = match open() {
            // Under the prefetch lock it can only be that of a killed run.
            Err(Errno::EXIST) => {
                dir.remove(CachePlace::Incomplete, name.as_name(), |_| true).with_context(shown)?;
                open()
            }
            result => result,
        };
        let file = file.with_context(shown)?.into();
        let incomplete = rustix::io::fcntl_dupfd_cloexec(incomplete, 3)?;
        Ok(Staged { file, owner: dir.owner(), private: Some((incomplete, name)) })
    }

    /// Writes the file to the disk, so that it survives a power failure, and sets its times to now: it was
    /// never used.
    pub(crate) fn settle(&self) -> Result<()> {
        rustix::fs::fdatasync(&self.file).context("cannot write the staged image to the disk")?;
        futimens(&self.file, &at_once()).context("cannot set the times of the staged image")
    }

    /// Gives the file the name of the image in a place, without replacing a file that exists.
    pub(crate) fn publish(mut self, dir: &CacheDir, place: CachePlace, id: ImageId) -> Result<Publication> {
        let _owner = self.owner.act()?;
        let Some(to) = dir.fd(place) else { bail!("the directory {}/ is missing", place.name()) };
        let name = id.as_name();
        match self.link(to, name) {
            Ok(()) => Ok(Publication::Published),
            Err(Errno::EXIST) => Ok(Publication::AlreadyThere),
            Err(e) => Err(e).with_context(|| format!("cannot publish {}", place.show(name))),
        }
    }

    /// Links or moves the file to its new name.
    fn link(&mut self, to: BorrowedFd<'_>, name: Name<'_>) -> Result<(), Errno> {
        let Some((incomplete, private)) = &self.private else {
            // The file has no name that could be linked, but its descriptor leads to it.
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            return linkat(CWD, path.as_str(), to, name.as_c_str(), AtFlags::SYMLINK_FOLLOW);
        };
        let from = private.as_name().as_c_str();
        match renameat_with(incomplete, from, to, name.as_c_str(), RenameFlags::NOREPLACE) {
            // A file system without this call (NFS) has links.
            Err(Errno::INVAL | Errno::NOSYS) => {
                linkat(incomplete, from, to, name.as_c_str(), AtFlags::empty())
            }
            Ok(()) => {
                self.private = None;
                Ok(())
            }
            result => result,
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some((incomplete, name)) = &self.private
            && let Ok(_owner) = self.owner.act()
        {
            // If this fails, `clean` removes it.
            let _ = unlinkat(incomplete, name.as_name().as_c_str(), AtFlags::empty());
        }
    }
}

/// Puts a bad file into `invalid/`, in place of a file of its name, as Glance does.
pub(crate) fn reject(dir: &CacheDir, id: ImageId, staged: Staged) -> Result<()> {
    {
        let _owner = dir.owner().act()?;
        dir.remove(CachePlace::Invalid, id.as_name(), |_| true)
            .with_context(|| format!("cannot replace invalid/{id}"))?;
    }
    staged.publish(dir, CachePlace::Invalid, id).map(drop)
}

/// Returns the present time for both times of a file.
fn at_once() -> Timestamps {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

    use super::*;

    #[test]
    fn only_what_is_dead_is_taken_over() {
        let old = Standing { kind: EntryKind::File, size: 7, mtime: 10, marked: false, writer: None };
        for (what, standing, dead) in [
            ("stalled", old, true),
            ("stalled, but written to", Standing { writer: Some(1), ..old }, false),
            ("just not stalled", Standing { mtime: 20, ..old }, false),
            ("fresh", Standing { mtime: 30, ..old }, false),
            ("fresh and empty", Standing { mtime: 30, size: 0, ..old }, false),
            ("a dead run's", Standing { mtime: 30, size: 0, marked: true, ..old }, true),
            ("a dead run's that Glance writes to", Standing { mtime: 30, marked: true, ..old }, false),
            ("a living run's", Standing { mtime: 30, size: 0, marked: true, writer: Some(1), ..old }, false),
            ("no file", Standing { kind: EntryKind::Directory, ..old }, false),
        ] {
            let id = ImageId::new(b"00000000-0000-0000-0000-00000000000a").unwrap();
            assert_eq!(standing.stays(id, 20).is_none(), dead, "{what}");
        }
    }

    fn cache() -> (tempfile::TempDir, CacheDir, ImageId) {
        let temporary = tempfile::tempdir().unwrap();
        for place in CachePlace::SUBDIRECTORIES {
            fs::create_dir(temporary.path().join(place.name())).unwrap();
        }
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        (temporary, dir, ImageId::new(b"00000000-0000-0000-0000-00000000000a").unwrap())
    }

    fn claimed(dir: &CacheDir, id: ImageId) -> Claim {
        match Claim::make(dir, id, 0).unwrap() {
            Claiming::Ours(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_claim_is_empty_and_goes_when_it_is_dropped() {
        let (temporary, dir, id) = cache();
        let path = temporary.path().join("incomplete").join(id.as_str());
        let mut claim = claimed(&dir, id);
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.mode() & 0o1600), (0, 0o1600), "marked, and its owner may write to it");
        let flags = rustix::io::fcntl_getfd(claim.file.as_ref().unwrap()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child process would hold it, too");
        File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        claim.touch();
        assert!(fs::metadata(&path).unwrap().mtime() > 0, "it is not stalled");
        assert!(matches!(Claim::make(&dir, id, 0).unwrap(), Claiming::Left(_)), "held by a living process");
        assert!(claim.confirm().unwrap());
        // The file was closed when the claim was confirmed, so that this is the claim of a dead run.
        std::mem::forget(claim);
        let mut claim = claimed(&dir, id);
        // The claim is removed by a third party.
        dir.remove(CachePlace::Incomplete, id.as_name(), |_| true).unwrap();
        assert!(claim.confirm().unwrap());
        drop(claim);
        assert!(!path.exists());
    }

    #[test]
    fn a_claim_that_glance_writes_to_is_glances() {
        let (temporary, dir, id) = cache();
        let path = temporary.path().join("incomplete").join(id.as_str());
        let mut claim = claimed(&dir, id);
        let glance = File::create(&path).unwrap();
        assert!(!claim.confirm().unwrap(), "open for writing");
        drop(glance);
        fs::write(&path, "image").unwrap();
        assert!(!claim.confirm().unwrap(), "written to");
        drop(claim);
        assert_eq!(fs::read(&path).unwrap(), b"image");
    }

    #[test]
    fn what_a_dead_run_left_is_swept_away() {
        let (temporary, dir, id) = cache();
        let alive = Staged::with_name(&dir, id).unwrap();
        let path = |name: String| temporary.path().join("incomplete").join(name);
        let other = ImageId::new(b"00000000-0000-0000-0000-00000000000b").unwrap();
        std::mem::forget(claimed(&dir, other));
        fs::write(path(other.to_string() + PRIVATE), "half").unwrap();
        fs::write(path(id.to_string()), "").unwrap();
        fs::write(path("README.prefetch".to_owned()), "").unwrap();
        // A claim without a process, one that Glance has written to, and a link in the place of a file.
        let [dead, written, link] =
            ["c", "d", "e"].map(|digit| id.to_string().replace("00a", &format!("00{digit}")));
        for (name, text) in [(&dead, ""), (&written, "image")] {
            fs::write(path(name.clone()), text).unwrap();
            fs::set_permissions(path(name.clone()), PermissionsExt::from_mode(0o1644)).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", path(link.clone() + PRIVATE)).unwrap();
        sweep(&dir);
        assert!(!path(dead).exists() && path(written).exists());
        assert!(path(link + PRIVATE).is_symlink());
        // The forgotten claim is still open in this process, as that of a living run would be.
        assert!(path(other.to_string()).exists());
        assert!(!path(other.to_string() + PRIVATE).exists(), "its maker is dead");
        assert!(path(id.to_string() + PRIVATE).exists(), "of a run that is alive");
        assert!(path(id.to_string()).exists() && path("README.prefetch".to_owned()).exists(), "not ours");
        drop(alive);
        assert!(!path(id.to_string() + PRIVATE).exists(), "it was not published");
    }

    #[test]
    fn publishing_replaces_nothing() {
        let (temporary, dir, id) = cache();
        for named in [false, true] {
            let stage = || if named { Staged::with_name(&dir, id) } else { Staged::make(&dir, id) }.unwrap();
            let path = temporary.path().join(id.as_str());
            assert_eq!(stage().publish(&dir, CachePlace::Base, id).unwrap(), Publication::Published);
            let inode = fs::metadata(&path).unwrap().ino();
            assert_eq!(stage().publish(&dir, CachePlace::Base, id).unwrap(), Publication::AlreadyThere);
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
            reject(&dir, id, stage()).unwrap();
            reject(&dir, id, stage()).unwrap();
            assert_eq!(fs::read_dir(temporary.path().join("incomplete")).unwrap().count(), 0);
            dir.remove(CachePlace::Base, id.as_name(), |_| true).unwrap();
        }
    }

    #[test]
    fn a_staged_file_begins_empty_and_was_never_used() {
        let (temporary, dir, id) = cache();
        let private = temporary.path().join("incomplete").join(id.to_string() + PRIVATE);
        fs::write(&private, "half of an image").unwrap();
        for staged in [Staged::with_name(&dir, id).unwrap(), Staged::make(&dir, id).unwrap()] {
            assert_eq!(staged.file.metadata().unwrap().len(), 0);
            let flags = rustix::io::fcntl_getfd(&staged.file).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child process would hold it, too");
            let old =
                fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH).set_modified(std::time::UNIX_EPOCH);
            staged.file.set_times(old).unwrap();
            staged.settle().unwrap();
            let settled = staged.file.metadata().unwrap();
            assert!(settled.mtime() > 0 && settled.atime() > 0);
        }
    }
}
