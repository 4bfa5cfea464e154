//! The queue: one file in `queue/` for each image that is to be fetched, oldest first.
//!
//! Glance asks only whether an entry is there, and orders entries by their modification time. So what an earlier run found out
//! about an image is written into its entry, and the time put back. An entry that cannot be read or written is simply one
//! without memory.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{
    FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fstat, ftruncate, futimens, openat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::dir::{CacheDir, Place, Removal};
use super::entry::Kind;
use super::stage::{is_being_cached, is_cached};
use crate::names::{ImageId, NameBuf};
use crate::units::Nanos;

/// What is longer was not written here.
const LONGEST: u64 = 4096;
/// So many characters of a reason are remembered: however they are written, an entry is not longer than that.
const LONGEST_REASON: usize = 600;

/// An image that is to be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) id: ImageId,
    pub(crate) memory: Option<Memory>,
}

/// Why an image could not be cached, as an earlier run found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) failed: String,
    /// Stands for the record and the locations that failed.
    pub(crate) fingerprint: String,
}

/// What is in an entry, under our own name: others may want to remember something, too.
#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(rename = "glance-cache")]
    memory: Memory,
}

/// What is in the queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// In the order in which Glance takes them.
    pub(crate) images: Vec<Queued>,
    /// What is no image's entry.
    pub(crate) foreign: Vec<NameBuf>,
}

impl Queue {
    pub(crate) fn read(dir: &CacheDir) -> Result<Self> {
        let (mut found, mut foreign) = (Vec::new(), Vec::new());
        let unreadable =
            dir.scan(Place::Queue, |name, kind, seen| match (ImageId::new(name.as_bytes()), kind) {
                (Some(id), Kind::File) => found.push((seen.mtime, id, seen.size)),
                _ => foreign.push(name.to_owned()),
            })?;
        // An entry that cannot be looked at is one all the same. Its turn is the last.
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

fn recall(dir: &CacheDir, id: ImageId) -> Option<Memory> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir.fd(Place::Queue)?, id.as_name().as_c_str(), flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file).take(LONGEST).read_to_string(&mut text).ok()?;
    Some(serde_json::from_str::<Content>(&text).ok()?.memory)
}

/// Writes into an image's entry why it could not be cached; its time stays. No entry is none to write to.
pub(crate) fn remember(dir: &CacheDir, id: ImageId, failed: &str, fingerprint: String) -> Result<()> {
    let shown = || format!("cannot write to queue/{id}");
    let queue = dir.fd(Place::Queue).context("the directory queue/ is missing")?;
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
    ensure!(is_own, "{}: it is no file of its own", shown());
    ftruncate(&file, 0).with_context(shown)?;
    let mut file = File::from(file);
    let written = file.write_all(text.as_bytes()).with_context(shown);
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let was = Timespec { tv_sec: was.st_mtime, tv_nsec: was.st_mtime_nsec as _ };
    futimens(&file, &Timestamps { last_access: keep, last_modification: was }).with_context(shown)?;
    written
}

/// Takes an image out of the queue; one that is not in it is fine.
pub(crate) fn remove(dir: &CacheDir, id: ImageId) -> Result<bool> {
    let removal = dir.remove(Place::Queue, id.as_name(), |_| true);
    Ok(removal.with_context(|| format!("cannot take {id} out of the queue"))? == Removal::Removed)
}

/// What came of queueing an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Enqueued {
    Queued,
    AlreadyQueued,
    Cached,
    BeingCached,
}

/// What would come of queueing an image.
pub(crate) fn would_add(dir: &CacheDir, id: ImageId) -> Result<Enqueued> {
    if is_cached(dir, id)? {
        return Ok(Enqueued::Cached);
    }
    if is_being_cached(dir, id)? {
        return Ok(Enqueued::BeingCached);
    }
    let entry = dir.look(Place::Queue, id.as_name());
    let entry = entry.with_context(|| format!("cannot look at queue/{id}"))?;
    Ok(if entry.is_some() { Enqueued::AlreadyQueued } else { Enqueued::Queued })
}

/// Puts an image into the queue, as Glance would: one that is cached, being cached or queued is not.
pub(crate) fn add(dir: &CacheDir, id: ImageId) -> Result<Enqueued> {
    let found = would_add(dir, id)?;
    if found != Enqueued::Queued {
        return Ok(found);
    }
    let queue = dir.fd(Place::Queue).context("the directory queue/ is missing")?;
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
        std::os::unix::fs::symlink("/etc/passwd", path.join(id('d').as_str())).unwrap();
        let memory = Memory { failed: "the server lied".into(), fingerprint: "f".into() };
        remember(&dir, id('b'), &memory.failed, memory.fingerprint.clone()).unwrap();
        remember(&dir, id('f'), &memory.failed, memory.fingerprint.clone()).unwrap();
        fs::hard_link(path.join("README"), path.join(id('e').as_str())).unwrap();
        remember(&dir, id('e'), &memory.failed, memory.fingerprint.clone()).unwrap_err();
        remember(&dir, id('d'), &memory.failed, memory.fingerprint.clone()).unwrap_err();
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
}
