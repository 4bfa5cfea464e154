//! A note in the cache directory of the rows that may be without their files.
//!
//! A run that is killed between the first file of a batch and its commit leaves rows without files. So does a
//! prefetch that is killed between the row of an image and its name. The next run has to know that these rows
//! are its own, however many they are: where most rows have no file, the directory otherwise counts as the
//! wrong one, or as not mounted. So the ids are written here before, and the note is removed when rows and
//! files agree. If rows stay without files, it stays, too: a run that leaves ghosts of an earlier one,
//! because it does not look for them or because they are locked, writes its own images behind them.
//!
//! A directory that is the wrong one, or not mounted, has no such note, and is refused as before. The note is
//! not forced to the disk, so that a power failure may lose it. Against that, no batch takes more than half
//! of the rows. Nothing fails because the note cannot be written or read. Whoever writes it holds prune's
//! lock.
//!
//! Glance does not look at the file. Only its xattr driver takes every file for an image, and cannot list one
//! without hits; it has no rows and so no note, but the setting may change.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

use super::dir::{CacheDir, CachePlace};
use super::entry::EntryKind;
use super::index::xattr;
use crate::names::ImageId;

/// The name of the note in the cache directory.
pub(super) const NAME: &CStr = c".glance-cache-pending";
/// Bytes that are read of a note, at most: more images than a batch ever has.
const LONGEST: u64 = 16 << 20;

/// The rows of the batch of a running prune.
#[derive(Debug, Default)]
pub(super) struct PendingRows {
    file: Option<File>,
    /// True if it could not be made, and is not tried again.
    has_failed: bool,
}

impl PendingRows {
    /// Notes the images of a batch, in place of those of the batch before.
    pub(super) fn write(&mut self, dir: &CacheDir, ids: impl Iterator<Item = ImageId>) {
        let mut text = String::new();
        for id in ids {
            text.push_str(id.as_str());
            text.push('\n');
        }
        if text.is_empty() || self.has_failed {
            return;
        }
        if self.file.is_none() {
            self.file = make(dir).ok();
        }
        // All lines are of the same length: killed in between, the note has lines of before at its end.
        let written = self.file.as_ref().is_some_and(|file| {
            file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64)).is_ok()
        });
        self.has_failed = !written;
    }

    /// True if the note was made by this run.
    pub(super) fn is_made(&self) -> bool {
        self.file.is_some()
    }
}

/// Removes the note: no row is left without its file.
pub(super) fn remove(dir: &CacheDir) {
    let (Some(base), Ok(_owner)) = (dir.fd(CachePlace::Base), dir.owner().act()) else { return };
    // A note that stays is replaced by the next run that removes images.
    let _ = unlinkat(base, NAME, AtFlags::empty());
}

/// Notes the row of an image that is about to be published, beside whatever is noted already.
pub(crate) fn add(dir: &CacheDir, id: ImageId) {
    let mut ids = noted(dir);
    ids.insert(id);
    PendingRows::default().write(dir, ids.into_iter());
}

/// Forgets the row of an image: its file and its row agree. So they do for every noted image that has its
/// file, which is forgotten, too. The note is removed if nothing else is noted.
///
/// A note that could not be removed goes in this way with the next image.
pub(crate) fn settle(dir: &CacheDir, id: ImageId) {
    let mut ids = noted(dir);
    let has_file =
        |id: ImageId| matches!(dir.look(CachePlace::Base, id.as_name()), Ok(Some((EntryKind::File, _))));
    ids.retain(|noted| *noted != id && !has_file(*noted));
    keep(dir, ids);
}

/// Notes these images and no others. Without any the note is removed.
pub(super) fn keep(dir: &CacheDir, ids: HashSet<ImageId>) {
    if ids.is_empty() {
        remove(dir);
    } else {
        PendingRows::default().write(dir, ids.into_iter());
    }
}

/// Opens the note, as the owner of the cache, or makes an empty one in place of whatever is none.
///
/// A note of an earlier run is written over, and not replaced: killed in between, its images are still noted.
fn make(dir: &CacheDir) -> Result<File, Errno> {
    let base = dir.fd(CachePlace::Base).ok_or(Errno::NOENT)?;
    let _owner = dir.owner().act().map_err(|_| Errno::PERM)?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = openat(base, NAME, flags, Mode::empty()) {
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1 {
            return Ok(file.into());
        }
    }
    let _ = unlinkat(base, NAME, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(base, NAME, flags, Mode::from_raw_mode(0o600))?;
    // Some file systems have no attributes, and then no xattr driver either.
    let _ = xattr::set_unused(file.as_fd());
    Ok(file.into())
}

/// Returns the images whose rows this program may have left without files.
pub(super) fn noted(dir: &CacheDir) -> HashSet<ImageId> {
    let mut bytes = Vec::new();
    if let Ok(file) = open(dir) {
        // As much of it as can be read counts.
        let _ = File::from(file).take(LONGEST).read_to_end(&mut bytes);
    }
    bytes.split(|byte| *byte == b'\n').filter_map(ImageId::new).collect()
}

fn open(dir: &CacheDir) -> Result<OwnedFd, Errno> {
    let base = dir.fd(CachePlace::Base).ok_or(Errno::NOENT)?;
    let _owner = dir.owner().act().map_err(|_| Errno::PERM)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(base, NAME, flags, Mode::empty())?;
    let is_file = FileType::from_raw_mode(fstat(&file)?.st_mode).is_file();
    if is_file { Ok(file) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use rustix::fs::CWD;
    use rustix::io::FdFlags;

    use super::*;

    fn id(digit: char) -> ImageId {
        ImageId::new(format!("00000000-0000-0000-0000-00000000000{digit}").as_bytes()).unwrap()
    }

    fn cache() -> (tempfile::TempDir, CacheDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let note = temporary.path().join(NAME.to_str().unwrap());
        (temporary, dir, note)
    }

    #[test]
    fn whatever_is_no_note_is_not_read_and_is_replaced() {
        let (temporary, dir, note) = cache();
        let others = temporary.path().join("others");
        let text = format!("{}\n", id('b'));
        fs::write(&others, &text).unwrap();
        for make in [
            &|| symlink(&others, &note).unwrap() as _,
            &|| rustix::fs::mknodat(CWD, &note, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            &|| fs::hard_link(&others, &note).unwrap(),
        ] as [&dyn Fn(); 3]
        {
            make();
            let is_second_name = note.metadata().is_ok_and(|found| found.is_file() && !note.is_symlink());
            assert_eq!(
                noted(&dir).len(),
                usize::from(is_second_name),
                "a second name is read, but not written to"
            );
            PendingRows::default().write(&dir, [id('a')].into_iter());
            assert_eq!(noted(&dir), HashSet::from([id('a')]));
            assert_eq!(fs::read_to_string(&others).unwrap(), text);
            remove(&dir);
            assert!(!note.exists());
        }
    }

    #[test]
    fn a_note_is_written_over_and_is_not_left_to_child_processes() {
        let (_temporary, dir, note) = cache();
        let mut rows = PendingRows::default();
        rows.write(&dir, std::iter::empty());
        assert!(!rows.is_made() && !note.exists(), "there is nothing to note");
        rows.write(&dir, ['a', 'b', 'c'].map(id).into_iter());
        assert!(rows.is_made());
        let made = rows.file.take().unwrap();
        rows.write(&dir, [id('d')].into_iter());
        assert_eq!(noted(&dir), HashSet::from([id('d')]));
        for file in [made, rows.file.take().unwrap(), open(&dir).unwrap().into()] {
            assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
        }
        // A write that failed once is not tried again.
        let mut rows = PendingRows { has_failed: true, ..PendingRows::default() };
        rows.write(&dir, [id('e')].into_iter());
        assert_eq!(noted(&dir), HashSet::from([id('d')]));
    }

    #[test]
    fn images_that_have_their_files_leave_the_note_with_the_one_that_is_settled() {
        let (temporary, dir, note) = cache();
        for digit in ['a', 'b', 'c'] {
            add(&dir, id(digit));
        }
        fs::write(temporary.path().join(id('b').as_str()), "image").unwrap();
        settle(&dir, id('a'));
        assert_eq!(noted(&dir), HashSet::from([id('c')]));
        settle(&dir, id('c'));
        assert!(!note.exists());
    }
}
