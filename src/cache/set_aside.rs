//! Moves a broken image to `invalid/`, so that Glance does not serve it any more and fetches it again.
//!
//! **Order**, as when images are removed ([`execute`](super::execute)): the row is deleted in an open
//! transaction whose commit can no longer be refused, then the file is moved, then the transaction is
//! committed.
//!
//! **Looking again.** In the transaction the file must still be the one that was read: same inode, size and
//! modification time. Otherwise nothing is done. That the image was used meanwhile does not save it: its
//! contents are wrong all the same. The file is held open from then on, and its name is looked at once more
//! right before the move. If the name comes to lead to another file in the moment between, that file is
//! moved: its inode shows it, and it is moved back.
//!
//! **A row in use.** If the file is the same, but another session has locked its row, or a trigger keeps it,
//! the image stays, and the caller reports that. Such a lock is mostly a short one, so the deletion is tried
//! a few times.
//!
//! | killed | what is left |
//! |---|---|
//! | before the file is moved | the image with its row, perhaps with a new modification time |
//! | after it, before the commit | a row without a file (a ghost) |
//! | after the commit | the file in `invalid/`, which `clean` removes |
//!
//! The next `prune` forgets such a row: a note says that it is ours ([`pending`]).
//!
//! **A commit that is refused** leaves a ghost, too. Its deletion is repeated as long as the wait allows,
//! even if another session has locked the row. If the row stays, so does the note.
//!
//! **The time of the move** becomes the modification time of the file: from then on it is among the invalid
//! ones, and `--invalid-grace` counts from there. It is set before the move, because an image that was moved
//! with its old time would be removed by the next `clean`. Glance's own cleaner removes invalid files
//! whatever their age, and its drivers do no more than show that time of an
//! image.
//!
//! **An older file stays.** `--invalid-grace` may keep a file of the same name in `invalid/` for somebody to
//! look at. Then the image becomes `ID.1`, or the first of `ID.2` and so on that is free. `clean` and the
//! cleaners of Glance's drivers remove whatever lies in `invalid/`. Only the file under the last of these
//! names is replaced, so that an image which is broken again and again does not fill the disk. (A failed
//! download replaces `ID`, whoever it was that failed: that is how Glance's drivers do it.)
//!
//! The caller holds prune's lock.

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{
    Access, AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, accessat, fstat,
    futimens, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::dir::{CacheDir, CachePlace, kind_of, seen};
use super::entry::{EntryKind, Image};
use super::index::{Condition, Deletion, xattr};
use super::ledger::Ledger;
use super::pending;
use crate::database::refusal::Refusal;
use crate::names::{ImageId, Name, NameBuf};
use crate::units::SECOND;

/// The number of files of one image in `invalid/` that are kept beside the first one.
const MORE: u32 = 9;
/// The number of attempts to delete a row that is in use. The pauses between them add up to less than 0.5 s.
const ATTEMPTS: u32 = 4;

/// Said of a row that cannot be deleted now.
pub(crate) const IN_USE: &str = "its row is in use by another session, or the database keeps it";

/// The result of moving a broken image.
#[derive(Debug)]
pub(crate) enum SetAside {
    /// It has this name in `invalid/` now.
    Moved(NameBuf),
    /// It is not the file that was read, or it is gone. Nothing was done.
    Changed,
    /// It is the file that was read, but another session has locked its row, or the database keeps the row.
    /// Nothing was done.
    RowInUse,
    /// It was moved, but its row could not be deleted.
    RowStays(NameBuf, anyhow::Error),
}

/// Fails if it is known beforehand that an image cannot be moved. Changes nothing.
///
/// Nothing here makes a directory. Glance's drivers make all three of them when they start.
pub(crate) fn foresee(dir: &CacheDir, image: &Image) -> Result<()> {
    let (base, invalid) = places(dir)?;
    for (fd, place) in [(base, CachePlace::Base), (invalid, CachePlace::Invalid)] {
        let found = accessat(fd, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty());
        // Whatever else it may be, only the move itself shows it.
        if let Err(e @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) = found {
            bail!("cannot write to {}: {e}{}", dir.path().join(place.name()).display(), advice(e));
        }
    }
    let device = |fd| fstat(fd).ok().map(|found| found.st_dev);
    if let (Some(from), Some(to)) = (device(base), device(invalid))
        && from != to
    {
        bail!(failed(Errno::XDEV));
    }
    let name = image.id.as_name();
    if accessat(base, name.as_c_str(), Access::WRITE_OK, AtFlags::empty()) == Err(Errno::PERM) {
        bail!(
            "its file is immutable: allow its removal with chattr -i {}",
            dir.path().join(image.id.as_str()).display()
        );
    }
    if is_blocked(dir, image.id) {
        bail!(failed(Errno::ISDIR));
    }
    Ok(())
}

/// True if all names of an image in `invalid/` are taken, and the last of them by a directory.
fn is_blocked(dir: &CacheDir, id: ImageId) -> bool {
    let kind =
        |name: Option<NameBuf>| dir.look(CachePlace::Invalid, name?.as_name()).ok()?.map(|(kind, _)| kind);
    let mut kinds = (0..=MORE).map(|number| kind(invalid_name(id, number)));
    kinds.by_ref().take(MORE as usize).all(|kind| kind.is_some())
        && kinds.next() == Some(Some(EntryKind::Directory))
}

/// Returns one of the names of an image in `invalid/`.
fn invalid_name(id: ImageId, number: u32) -> Option<NameBuf> {
    let name = if number == 0 { id.to_string() } else { format!("{id}.{number}") };
    NameBuf::new(name.as_bytes())
}

/// Returns the error of a move that failed.
fn failed(error: Errno) -> anyhow::Error {
    anyhow!("cannot move it to invalid/: {error}{}", advice(error))
}

/// Returns the directories from which and to which images are moved.
fn places(dir: &CacheDir) -> Result<(BorrowedFd<'_>, BorrowedFd<'_>)> {
    let base = dir.fd(CachePlace::Base).context("the cache directory is always open")?;
    let invalid = dir.fd(CachePlace::Invalid).with_context(|| {
        let path = dir.path().join(CachePlace::Invalid.name());
        format!(
            "the directory {} is missing: start glance-api, which makes it, or make it, with the owner of \
             the cache directory",
            path.display()
        )
    })?;
    Ok((base, invalid))
}

/// Returns the end of a message: what to do about a move that failed.
fn advice(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS | Errno::PERM => {
            "; run as the user that glance-api runs as, and let this user write there"
        }
        Errno::XDEV => {
            "; make invalid/ a plain directory on the file system of the cache, as Glance needs it"
        }
        Errno::ISDIR => "; remove the directory of the image's last name there, which ends in .9",
        Errno::ROFS => "; mount its file system writable",
        Errno::NOSPC | Errno::DQUOT => "; free some space on its file system",
        _ => "",
    }
}

/// Moves an image to `invalid/` and forgets its row. `why` is written to the file, where Glance's xattr
/// driver keeps such reasons; `None` for the other drivers.
///
/// On an error nothing was moved.
pub(crate) fn set_aside(
    dir: &CacheDir,
    ledger: &mut Ledger,
    image: &Image,
    why: Option<&str>,
) -> Result<SetAside> {
    let mut repeats = ledger.repeats();
    for _ in 1..ATTEMPTS {
        match set_aside_once(dir, ledger, image, why)? {
            SetAside::RowInUse if ledger.pauses(&mut repeats) => {}
            done => return Ok(done),
        }
    }
    set_aside_once(dir, ledger, image, why)
}

/// As [`set_aside`], without a repetition.
fn set_aside_once(dir: &CacheDir, ledger: &mut Ledger, image: &Image, why: Option<&str>) -> Result<SetAside> {
    let condition = image.row.map_or(Condition::NoRow, |row| Condition::Present(row.key));
    let victim = Deletion { id: image.id, only_if: condition };
    let has_row = ledger.has_rows() && victim.has_row();
    let mut transaction = ledger.begin().map_err(Refusal::into_error)?;
    let is_forgotten = transaction.forget(&[victim]).map_err(Refusal::into_error)? == [true];
    let Some(file) = hold(dir, image)? else { return Ok(SetAside::Changed) };
    if !is_forgotten {
        return Ok(SetAside::RowInUse);
    }
    if has_row {
        pending::add(dir, image.id);
    }
    let moved = match rename(dir, image, file.as_fd()) {
        Ok(Some(name)) => name,
        unmoved => {
            drop(transaction);
            // Without a file at its name, the row stays noted.
            if !matches!(dir.look(CachePlace::Base, image.id.as_name()), Ok(None)) {
                settle(dir, image, has_row);
            }
            return unmoved.map(|_| SetAside::Changed);
        }
    };
    let committed = transaction.commit(None).or_else(|refusal| forget_again(dir, ledger, &victim, refusal));
    if let Some(why) = why {
        explain(dir, &moved, why);
    }
    match committed {
        Ok(()) => {
            settle(dir, image, has_row);
            Ok(SetAside::Moved(moved))
        }
        Err(refusal) => Ok(SetAside::RowStays(moved, refusal.into_error())),
    }
}

/// Takes an image out of the note of pending rows.
fn settle(dir: &CacheDir, image: &Image, has_row: bool) {
    if has_row {
        pending::settle(dir, image.id);
    }
}

/// True if the file of an image is still the one that was read.
pub(crate) fn is_unchanged(dir: &CacheDir, image: &Image) -> Result<bool> {
    let found = dir.look(CachePlace::Base, image.id.as_name());
    let found = found.with_context(|| format!("cannot look at image {}", image.id))?;
    let was = &image.seen;
    Ok(matches!(found, Some((EntryKind::File, now))
        if (now.inode, now.size, now.mtime) == (was.inode, was.size, was.mtime)))
}

/// Opens the file of an image, so that its inode becomes that of no other file. Returns `None` if it is gone,
/// or not the file that was read.
fn hold(dir: &CacheDir, image: &Image) -> Result<Option<OwnedFd>> {
    let base = dir.fd(CachePlace::Base).context("the cache directory is always open")?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || openat(base, image.id.as_name().as_c_str(), flags, Mode::empty());
    let opened = open().or_else(|e| match e {
        // Root has no rights of its own on some network file systems.
        Errno::ACCESS | Errno::PERM => dir.owner().act().map_or(Err(e), |_owner| open()),
        e => Err(e),
    });
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot open image {}", image.id)),
    };
    let now = fstat(&file).with_context(|| format!("cannot look at image {}", image.id))?;
    let (kind, now, was) = (kind_of(&now), seen(&now), &image.seen);
    let is_same = (now.inode, now.size, now.mtime) == (was.inode, was.size, was.mtime);
    Ok((kind == EntryKind::File && is_same && is_unchanged(dir, image)?).then_some(file))
}

/// Moves the file that is held, and returns its name in `invalid/`; `None` if the name of the image leads to
/// another file by now.
fn rename(dir: &CacheDir, image: &Image, file: BorrowedFd<'_>) -> Result<Option<NameBuf>> {
    let (base, invalid) = places(dir)?;
    // Without the new time, the file is removed earlier than its grace allows. It must not be served, so that
    // it is moved all the same.
    let _ = set_modified(file, Timespec { tv_sec: 0, tv_nsec: UTIME_NOW });
    let moved = match is_still(dir, CachePlace::Base, image.id.as_name(), image) {
        Ok(true) => move_to_free_name(base, image.id, invalid).map_err(failed).map(Some),
        Ok(false) => Ok(None),
        Err(e) => Err(failed(e)),
    };
    // If another file was moved, the broken one had been removed before. A failed download may replace the
    // moved one right afterwards: it must not be moved back.
    let is_removed = fstat(file).is_ok_and(|now| now.st_nlink == 0);
    let moved = match moved {
        Ok(Some(name))
            if is_removed
                && matches!(is_still(dir, CachePlace::Invalid, name.as_name(), image), Ok(false)) =>
        {
            move_back(dir, image.id, &name).map(|()| None)
        }
        moved => moved,
    };
    if !matches!(moved, Ok(Some(_))) {
        let (tv_sec, nanos) = (image.seen.mtime.div_euclid(SECOND), image.seen.mtime.rem_euclid(SECOND));
        let _ = set_modified(file, Timespec { tv_sec, tv_nsec: nanos as _ });
    }
    moved
}

/// True if a name leads to the file of an image, which is held open; also if it is gone from `invalid/`.
fn is_still(dir: &CacheDir, place: CachePlace, name: Name<'_>, image: &Image) -> Result<bool, Errno> {
    let found = dir.look(place, name)?;
    Ok(found.map_or(place == CachePlace::Invalid, |(_, now)| now.inode == image.seen.inode))
}

/// Moves another file than the broken image back from `invalid/`. Glance may have cached the image once more:
/// then it stays there.
fn move_back(dir: &CacheDir, id: ImageId, name: &NameBuf) -> Result<()> {
    let (base, invalid) = places(dir)?;
    match move_unless_taken(invalid, name.as_name().as_c_str(), base, id.as_name().as_c_str()) {
        Ok(()) | Err(Errno::EXIST | Errno::NOENT) => Ok(()),
        Err(e) => {
            Err(anyhow!("its file was replaced, and the new one was moved to invalid/{name} by mistake: {e}"))
        }
    }
}

/// Moves the file of an image to the first free one of its names in `invalid/`, or to the last one.
fn move_to_free_name(base: BorrowedFd<'_>, id: ImageId, invalid: BorrowedFd<'_>) -> Result<NameBuf, Errno> {
    let from = id.as_name().as_c_str();
    for number in 0..=MORE {
        let to = invalid_name(id, number).ok_or(Errno::INVAL)?;
        let name = to.as_name().as_c_str();
        let moved = if number < MORE {
            move_unless_taken(base, from, invalid, name)
        } else {
            replace(base, from, invalid, name)
        };
        match moved {
            Ok(()) => return Ok(to),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::EXIST)
}

/// Moves a file, or fails with [`Errno::EXIST`] if there is an entry of the new name.
fn move_unless_taken(
    base: BorrowedFd<'_>,
    from: &CStr,
    invalid: BorrowedFd<'_>,
    to: &CStr,
) -> Result<(), Errno> {
    match renameat_with(base, from, invalid, to, RenameFlags::NOREPLACE) {
        // A file system without this call (NFS). A file that a download leaves there after this look is
        // replaced.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(invalid, to, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(base, from, invalid, to),
            Err(e) => Err(e),
            Ok(_) => Err(Errno::EXIST),
        },
        result => result,
    }
}

/// Moves a file, in place of the one that has the new name.
fn replace(base: BorrowedFd<'_>, from: &CStr, invalid: BorrowedFd<'_>, to: &CStr) -> Result<(), Errno> {
    let inode = |fd, name: &CStr| statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|found| found.st_ino);
    // rename(2) does nothing if both names are links of one file, and succeeds.
    if inode(base, from).is_some_and(|from| inode(invalid, to) == Some(from)) {
        unlinkat(invalid, to, AtFlags::empty())?;
    }
    renameat(base, from, invalid, to)
}

/// Sets the modification time of an open file.
fn set_modified(file: BorrowedFd<'_>, time: Timespec) -> Result<(), Errno> {
    let kept = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    futimens(file, &Timestamps { last_access: kept, last_modification: time })
}

/// Deletes the row on its own, after a commit that was refused: the file is moved already. If Glance has
/// cached the image again, the row stays.
fn forget_again(
    dir: &CacheDir,
    ledger: &mut Ledger,
    victim: &Deletion,
    refusal: Refusal,
) -> Result<(), Refusal> {
    let Some(key) = victim.key() else { return Err(refusal) };
    let ghost = Deletion { only_if: Condition::Row(key), ..*victim };
    let no_row = Deletion { only_if: Condition::NoRow, ..*victim };
    let mut is_back = false;
    let forgotten = ledger.rows_repeatedly(|transaction| {
        let is_forgotten = transaction.forget(&[ghost])? == [true] || transaction.holds(&no_row)?;
        // The look comes after the row is locked: Glance, which may cache the image again, waits for the row.
        match dir.look(CachePlace::Base, victim.id.as_name()) {
            Ok(None) if is_forgotten => Ok(()),
            Ok(None) => Err(Refusal::Busy(anyhow!(IN_USE))),
            Ok(Some(_)) => {
                is_back = true;
                Err(Refusal::Broken(anyhow!("the image was cached again")))
            }
            Err(e) => Err(Refusal::Broken(anyhow!(e).context("cannot look at the file of its row"))),
        }
    });
    if is_back { Ok(()) } else { forgotten }
}

/// Writes the reason to the moved file. Without it the file is invalid all the same.
fn explain(dir: &CacheDir, moved: &NameBuf, why: &str) {
    let (Some(invalid), Ok(_owner)) = (dir.fd(CachePlace::Invalid), dir.owner().act()) else { return };
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = openat(invalid, moved.as_name().as_c_str(), flags, Mode::empty()) {
        let _ = xattr::set_error(file.as_fd(), why);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Duration;

    use super::super::entry::{Row, Seen};
    use super::super::index::double::{IndexDouble, IndexScript};
    use super::*;
    use crate::interrupt::{Interrupt, Wait};

    const ID: &str = "0000000b-0000-0000-0000-000000000000";

    /// The behaviour of the index of a test, and its state.
    #[derive(Default)]
    struct Script {
        /// The number of commits that are refused.
        lost_commits: usize,
        /// The number of deletions that find the row in use, once a commit was refused.
        in_use: usize,
        /// The number of deletions that find the row in use before.
        in_use_before: usize,
        has_row: bool,
        is_deleted: bool,
        /// Runs before the row is deleted.
        before_deletion: Option<Box<dyn FnMut()>>,
    }

    /// An index with the row of one image.
    struct OneRow(Rc<RefCell<Script>>);

    impl IndexScript for OneRow {
        fn forget(
            &mut self,
            victims: &[Deletion],
            _: &dyn Fn(&Deletion) -> bool,
        ) -> Result<Vec<bool>, Refusal> {
            let mut script = self.0.borrow_mut();
            if let Some(run) = &mut script.before_deletion {
                run();
            }
            if matches!(victims[0].only_if, Condition::Row(_)) && script.in_use > 0 {
                script.in_use -= 1;
                return Ok(vec![false]);
            }
            if script.in_use_before > 0 {
                script.in_use_before -= 1;
                return Ok(vec![false]);
            }
            script.is_deleted = script.has_row;
            Ok(vec![script.has_row])
        }

        fn holds(&mut self, victim: &Deletion) -> Result<bool, Refusal> {
            Ok(matches!(victim.only_if, Condition::NoRow) != self.0.borrow().has_row)
        }

        fn commit(&mut self) -> Result<(), Refusal> {
            let mut script = self.0.borrow_mut();
            if script.lost_commits > 0 {
                script.lost_commits -= 1;
                return Err(Refusal::Lost(anyhow!("the connection was lost")));
            }
            script.has_row &= !std::mem::take(&mut script.is_deleted);
            Ok(())
        }

        fn abandon(&mut self) {
            self.0.borrow_mut().is_deleted = false;
        }
    }

    /// A cache with one image, and its index.
    struct OneImage {
        temporary: tempfile::TempDir,
        dir: CacheDir,
        image: Image,
        script: Rc<RefCell<Script>>,
    }

    impl OneImage {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            std::fs::create_dir(temporary.path().join("invalid")).unwrap();
            std::fs::write(temporary.path().join(ID), "broken").unwrap();
            let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
            let id = ImageId::new(ID.as_bytes()).unwrap();
            let (_, seen) = dir.look(CachePlace::Base, id.as_name()).unwrap().unwrap();
            let row = Row { key: 1, last_accessed: 0.0, last_modified: 0.0, size: 6, hits: 0 };
            let script = Script { has_row: true, ..Script::default() };
            OneImage {
                temporary,
                dir,
                image: Image { id, seen, row: Some(row) },
                script: Rc::new(RefCell::new(script)),
            }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.temporary.path().join(name)
        }

        fn set_aside(&self) -> SetAside {
            self.set_aside_within(Duration::from_millis(400))
        }

        fn set_aside_within(&self, limit: Duration) -> SetAside {
            let wait = Wait { limit, interrupt: Interrupt::default() };
            let mut ledger = Ledger::new(Some(Box::new(IndexDouble(OneRow(Rc::clone(&self.script))))), wait);
            set_aside(&self.dir, &mut ledger, &self.image, None).unwrap()
        }

        fn has_note(&self) -> bool {
            Path::exists(&self.path(".glance-cache-pending"))
        }
    }

    #[test]
    fn a_file_that_takes_the_place_of_the_broken_one_is_not_moved() {
        let one = OneImage::new();
        let file = hold(&one.dir, &one.image).unwrap().unwrap();
        let sound = one.path("sound");
        std::fs::write(&sound, "sound").unwrap();
        std::fs::rename(&sound, one.path(ID)).unwrap();
        assert!(rename(&one.dir, &one.image, file.as_fd()).unwrap().is_none());
        assert!(matches!(one.set_aside(), SetAside::Changed));
        assert_eq!(std::fs::read_dir(one.path("invalid")).unwrap().count(), 0);
        // The name was replaced after the last look.
        let name = move_to_free_name(
            one.dir.fd(CachePlace::Base).unwrap(),
            one.image.id,
            one.dir.fd(CachePlace::Invalid).unwrap(),
        );
        move_back(&one.dir, one.image.id, &name.unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(one.path(ID)).unwrap(), "sound");
        assert!(one.script.borrow().has_row && !one.has_note());
    }

    #[test]
    fn a_row_that_others_use_after_a_lost_commit_is_deleted_when_it_is_free() {
        let one = OneImage::new();
        (one.script.borrow_mut().lost_commits, one.script.borrow_mut().in_use) = (1, 2);
        assert!(matches!(one.set_aside(), SetAside::Moved(_)));
        assert!(!one.script.borrow().has_row && !one.has_note());
    }

    #[test]
    fn a_row_that_stays_after_a_lost_commit_is_an_error_and_stays_noted() {
        let one = OneImage::new();
        (one.script.borrow_mut().lost_commits, one.script.borrow_mut().in_use) = (1, usize::MAX);
        let SetAside::RowStays(_, e) = one.set_aside() else { panic!("the row stays") };
        assert!(format!("{e:#}").contains("in use"), "{e:#}");
        assert!(one.script.borrow().has_row && one.has_note() && one.path("invalid").join(ID).exists());
    }

    #[test]
    fn the_row_of_an_image_that_is_cached_again_after_a_lost_commit_stays() {
        let one = OneImage::new();
        one.script.borrow_mut().lost_commits = 1;
        let (path, moved) = (one.path(ID), one.path("invalid").join(ID));
        let again = move || {
            if moved.exists() {
                std::fs::write(&path, "sound").unwrap();
            }
        };
        one.script.borrow_mut().before_deletion = Some(Box::new(again));
        assert!(matches!(one.set_aside(), SetAside::Moved(_)));
        assert!(one.script.borrow().has_row && one.path(ID).exists() && !one.has_note());
    }

    #[test]
    fn an_image_that_is_not_the_one_that_was_read_is_not_held() {
        let one = OneImage::new();
        let was = one.image.seen;
        for seen in [
            Seen { inode: was.inode + 1, ..was },
            Seen { size: was.size + 1, ..was },
            Seen { mtime: was.mtime + 1, ..was },
        ] {
            let image = Image { seen, ..one.image };
            assert!(!is_unchanged(&one.dir, &image).unwrap(), "{seen:?}");
            assert!(hold(&one.dir, &image).unwrap().is_none(), "{seen:?}");
        }
        assert!(is_unchanged(&one.dir, &one.image).unwrap());
        let held = hold(&one.dir, &one.image).unwrap().unwrap();
        let flags = rustix::io::fcntl_getfd(&held).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "a child process would hold it, too");
        // Something else than a file is neither followed nor waited for.
        std::fs::rename(one.path(ID), one.path("moved")).unwrap();
        assert!(hold(&one.dir, &one.image).unwrap().is_none());
        std::os::unix::fs::symlink("moved", one.path(ID)).unwrap();
        assert!(hold(&one.dir, &one.image).unwrap().is_none());
        std::fs::remove_file(one.path(ID)).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, one.path(ID), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(hold(&one.dir, &one.image).unwrap().is_none());
        assert!(!is_unchanged(&one.dir, &one.image).unwrap());
    }

    #[test]
    fn a_row_that_is_in_use_for_a_moment_is_waited_for() {
        let one = OneImage::new();
        one.script.borrow_mut().in_use_before = 2;
        let started = std::time::Instant::now();
        assert!(matches!(one.set_aside_within(Duration::from_secs(60)), SetAside::Moved(_)));
        assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
        let one = OneImage::new();
        one.script.borrow_mut().in_use_before = usize::MAX;
        assert!(matches!(one.set_aside(), SetAside::RowInUse));
        assert!(one.script.borrow().has_row && one.path(ID).exists() && !one.has_note());
    }

    #[test]
    fn an_image_that_cannot_be_moved_keeps_its_time_and_leaves_no_note() {
        let one = OneImage::new();
        for number in 0..MORE {
            let name = invalid_name(one.image.id, number).unwrap().to_string();
            std::fs::write(one.path("invalid").join(name), "").unwrap();
        }
        std::fs::create_dir(one.path("invalid").join(format!("{ID}.{MORE}"))).unwrap();
        let wait = Wait { limit: Duration::ZERO, interrupt: Interrupt::default() };
        let mut ledger = Ledger::new(Some(Box::new(IndexDouble(OneRow(Rc::clone(&one.script))))), wait);
        let error = set_aside(&one.dir, &mut ledger, &one.image, None).unwrap_err();
        assert!(error.to_string().ends_with("which ends in .9"), "{error}");
        assert!(is_unchanged(&one.dir, &one.image).unwrap(), "it has its modification time");
        assert!(one.script.borrow().has_row && !one.has_note());
    }

    #[test]
    fn the_message_of_a_failed_move_says_what_to_do() {
        for (error, advice) in [
            (Errno::ACCESS, "run as the user that glance-api runs as"),
            (Errno::PERM, "run as the user that glance-api runs as"),
            (Errno::XDEV, "make invalid/ a plain directory"),
            (Errno::ISDIR, "remove the directory of the image's last name"),
            (Errno::ROFS, "mount its file system writable"),
            (Errno::NOSPC, "free some space"),
            (Errno::DQUOT, "free some space"),
        ] {
            let message = failed(error).to_string();
            assert!(message.contains(&format!("{error}; {advice}")), "{message}");
        }
        assert!(failed(Errno::IO).to_string().ends_with(&Errno::IO.to_string()));
    }

    #[test]
    fn an_image_that_is_gone_is_not_moved() {
        let one = OneImage::new();
        let file = hold(&one.dir, &one.image).unwrap().unwrap();
        std::fs::remove_file(one.path(ID)).unwrap();
        assert!(rename(&one.dir, &one.image, file.as_fd()).unwrap().is_none());
        let name = one.image.id.as_name();
        assert!(!is_still(&one.dir, CachePlace::Base, name, &one.image).unwrap());
        assert!(is_still(&one.dir, CachePlace::Invalid, name, &one.image).unwrap(), "it was cleaned away");
    }

    #[test]
    fn only_a_file_is_given_a_reason() {
        let one = OneImage::new();
        let (invalid, name) = (one.path("invalid"), |name: &str| NameBuf::new(name.as_bytes()).unwrap());
        std::fs::write(invalid.join("file"), "").unwrap();
        std::os::unix::fs::symlink(one.path(ID), invalid.join("link")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        let fifo = invalid.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for entry in ["file", "link", "fifo"] {
            explain(&one.dir, &name(entry), "it is broken");
        }
        let reason = |place, name: &NameBuf| xattr::error(one.dir.fd(place).unwrap(), name.as_name());
        let given = xattr::Attribute::Value(b"it is broken".to_vec());
        assert_eq!(reason(CachePlace::Invalid, &name("file")), given);
        assert_eq!(reason(CachePlace::Base, &name(ID)), xattr::Attribute::Absent);
    }
}
