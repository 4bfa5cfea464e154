//! The queue: one file in `queue/` for each image that is to be fetched, oldest first.
//!
//! Glance only looks if an entry exists, and orders entries by their modification time. So the reason why an
//! image failed is written into its entry, and the time is set back. An entry that cannot be read or written
//! is an entry without a reason.
//!
//! An entry is made, written and removed by its name below the open directory; links are not followed. Killed
//! while a reason is written, an entry may hold half of it and a new time: it is fetched again, later.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{
    FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fstat, ftruncate, futimens, openat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::dir::{CacheDir, CachePlace, Removal};
use super::entry::EntryKind;
use super::stage::{is_being_cached, is_cached};
use crate::names::{ImageId, NameBuf};
use crate::units::Nanos;

/// In bytes. A longer entry was not written by this program.
const LONGEST: u64 = 4096;
/// The number of characters of a reason that are kept. However they are encoded, the entry is not longer than
/// `LONGEST`.
const LONGEST_REASON: usize = 600;

/// An image that is to be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) id: ImageId,
    pub(crate) memory: Option<Memory>,
}

/// Why an earlier run could not cache an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) failed: String,
    /// A digest of the record and the locations that failed.
    pub(crate) fingerprint: String,
}

/// The content of an entry. It is under the name of this program, because others may store something, too.
#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(rename = "glance-cache")]
    memory: Memory,
}

/// The queue as it is on the disk.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// In the order in which Glance takes them.
    pub(crate) images: Vec<Queued>,
    /// Everything else in the directory.
    pub(crate) foreign: Vec<NameBuf>,
}

impl Queue {
    /// Reads the queue.
    pub(crate) fn read(dir: &CacheDir) -> Result<Self> {
        let (mut found, mut foreign) = (Vec::new(), Vec::new());
        let unreadable =
            dir.scan(CachePlace::Queue, |name, kind, seen| match (ImageId::new(name.as_bytes()), kind) {
                (Some(id), EntryKind::File) => found.push((seen.mtime, id, seen.size)),
                _ => foreign.push(name.to_owned()),
            })?;
        // An entry that cannot be looked at is an entry all the same. It comes last.
        let unknown = unreadable.iter().filter_map(|(name, _)| ImageId::new(name.as_name().as_bytes()));
        found.extend(unknown.map(|id| (Nanos::MAX, id, 0)));
        found.sort_unstable();
        let entry = |(_, id, size)| {
            let memory = if (1..=LONGEST).contains(&size) { recall(dir, id) } else { None };
            Queued { id, memory }
        };
        Ok(Queue { images: found.into_iter().map(entry).collect(), foreign })
    }
}

/// Reads why an image failed; `None` if its entry does not say so.
fn recall(dir: &CacheDir, id: ImageId) -> Option<Memory> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir.fd(CachePlace::Queue)?, id.as_name().as_c_str(), flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).take(LONGEST).read_to_string(&mut text).ok()?;
    Some(serde_json::from_str::<Content>(&text).ok()?.memory)
}

/// Writes into an image's entry why it could not be cached, and keeps the entry's time. Without an entry
/// nothing is written.
pub(crate) fn remember(dir: &CacheDir, id: ImageId, failed: &str, fingerprint: String) -> Result<()> {
    let shown = || format!("cannot write to queue/{id}");
    let queue = dir.fd(CachePlace::Queue).context("the directory queue/ is missing")?;
    let failed = failed.chars().take(LONGEST_REASON).collect();
    let text = serde_json::to_string(&Content { memory: Memory { failed, fingerprint } })?;
    let _owner = dir.owner().act()?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(queue, id.as_name().as_c_str(), flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        file => file.with_context(shown)?,
    };
    let was = fstat(&file).with_context(shown)?;
    let is_own = FileType::from_raw_mode(was.st_mode).is_file() && was.st_nlink == 1;
    ensure!(is_own, "{}: it is not a regular file with one link", shown());
    ftruncate(&file, 0).with_context(shown)?;
    let mut file = File::from(file);
    let written = file.write_all(text.as_bytes()).with_context(shown);
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let was = Timespec { tv_sec: was.st_mtime, tv_nsec: was.st_mtime_nsec as _ };
    futimens(&file, &Timestamps { last_access: keep, last_modification: was }).with_context(shown)?;
    written
}

/// Takes an image out of the queue. Returns false if it was not in it.
pub(crate) fn remove(dir: &CacheDir, id: ImageId) -> Result<bool> {
    let removal = dir.remove(CachePlace::Queue, id.as_name(), |_| true);
    Ok(removal.with_context(|| format!("cannot take {id} out of the queue"))? == Removal::Removed)
}

/// The result of putting an image into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Enqueued {
    Queued,
    AlreadyQueued,
    Cached,
    BeingCached,
}

/// Returns what putting an image into the queue would do.
pub(crate) fn would_add(dir: &CacheDir, id: ImageId) -> Result<Enqueued> {
    if is_cached(dir, id)? {
        return Ok(Enqueued::Cached);
    }
    if is_being_cached(dir, id)? {
        return Ok(Enqueued::BeingCached);
    }
    let entry = dir.look(CachePlace::Queue, id.as_name());
    let entry = entry.with_context(|| format!("cannot look at queue/{id}"))?;
    Ok(if entry.is_some() { Enqueued::AlreadyQueued } else { Enqueued::Queued })
}

/// Puts an image into the queue, unless it is cached, being cached or queued. Glance does the same.
pub(crate) fn add(dir: &CacheDir, id: ImageId) -> Result<Enqueued> {
    let found = would_add(dir, id)?;
    if found != Enqueued::Queued {
        return Ok(found);
    }
    let queue = dir.fd(CachePlace::Queue).context("the directory queue/ is missing")?;
    let _owner = dir.owner().act()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(queue, id.as_name().as_c_str(), flags, Mode::from_raw_mode(0o666)) {
        Ok(_) => Ok(Enqueued::Queued),
        Err(Errno::EXIST) => Ok(Enqueued::AlreadyQueued),
        Err(e) => Err(e).with_context(|| format!("cannot make queue/{id}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn id(digit: char) -> ImageId {
        ImageId::new(format!("00000000-0000-0000-0000-00000000000{digit}").as_bytes()).unwrap()
    }

    #[test]
    fn what_is_remembered_leaves_the_order_as_it_is() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("queue");
        fs::create_dir(&path).unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        for digit in ['b', 'a', 'c'] {
            assert_eq!(add(&dir, id(digit)).unwrap(), Enqueued::Queued);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(add(&dir, id('a')).unwrap(), Enqueued::AlreadyQueued);
        fs::write(path.join("README"), "").unwrap();
        fs::write(path.join(id('c').as_str()), "not ours").unwrap();
        let outside = temporary.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        std::os::unix::fs::symlink(&outside, path.join(id('d').as_str())).unwrap();
        let memory = Memory { failed: "the server lied".into(), fingerprint: "f".into() };
        remember(&dir, id('b'), &memory.failed, memory.fingerprint.clone()).unwrap();
        remember(&dir, id('f'), &memory.failed, memory.fingerprint.clone()).unwrap();
        fs::hard_link(path.join("README"), path.join(id('e').as_str())).unwrap();
        remember(&dir, id('e'), &memory.failed, memory.fingerprint.clone()).unwrap_err();
        remember(&dir, id('d'), &memory.failed, memory.fingerprint.clone()).unwrap_err();
        assert_eq!(fs::read(&outside).unwrap(), b"precious");
        assert_eq!(fs::read(path.join("README")).unwrap(), b"");
        assert!(remove(&dir, id('e')).unwrap());
        let queue = Queue::read(&dir).unwrap();
        let found: Vec<_> = queue.images.iter().map(|entry| (entry.id, entry.memory.clone())).collect();
        assert_eq!(found, [(id('b'), Some(memory)), (id('a'), None), (id('c'), None)]);
        assert_eq!(queue.foreign.len(), 2);
        for failed in ["\"".repeat(9000), "\u{1}".repeat(9000), "\u{1f600}".repeat(9000)] {
            remember(&dir, id('b'), &failed, "f".repeat(32)).unwrap();
            assert!(
                failed.starts_with(&Queue::read(&dir).unwrap().images[0].memory.as_ref().unwrap().failed)
            );
        }
        assert!(remove(&dir, id('b')).unwrap() && !remove(&dir, id('b')).unwrap());
    }

    #[test]
    fn whatever_is_no_entry_is_not_read_and_not_written() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("queue");
        fs::create_dir(&path).unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        add(&dir, id('a')).unwrap();
        remember(&dir, id('a'), "the server lied", "f".to_owned()).unwrap();
        assert!(recall(&dir, id('a')).is_some());
        let (fifo, link) = (path.join(id('b').as_str()), path.join(id('c').as_str()));
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink(id('a').as_str(), &link).unwrap();
        let before = fs::read(path.join(id('a').as_str())).unwrap();
        for digit in ['b', 'c'] {
            assert_eq!(recall(&dir, id(digit)), None);
            remember(&dir, id(digit), "another reason", "f".to_owned()).unwrap_err();
        }
        assert_eq!(fs::read(path.join(id('a').as_str())).unwrap(), before);
    }

    #[test]
    fn an_image_that_is_cached_or_being_cached_is_not_queued() {
        let temporary = tempfile::tempdir().unwrap();
        for place in CachePlace::SUBDIRECTORIES {
            fs::create_dir(temporary.path().join(place.name())).unwrap();
        }
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        fs::write(temporary.path().join(id('a').as_str()), "image").unwrap();
        fs::write(temporary.path().join("incomplete").join(id('b').as_str()), "half").unwrap();
        for (digit, expected) in
            [('a', Enqueued::Cached), ('b', Enqueued::BeingCached), ('c', Enqueued::Queued)]
        {
            assert_eq!(would_add(&dir, id(digit)).unwrap(), expected);
            assert_eq!(add(&dir, id(digit)).unwrap(), expected);
        }
        let queue = Queue::read(&dir).unwrap();
        assert_eq!(queue.images.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id('c')]);
    }
}
