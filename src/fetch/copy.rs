//! Moving an image's bytes into a staged file, with its digest computed on the way.
//!
//! A stream goes through a ring of blocks: one thread reads, one writes, one hashes, each block passing from hand to hand
//! and back. There are so many blocks and no more, so memory does not depend on the image, and the slowest of the three sets
//! the pace alone.
//!
//! What is written is put on the disk while the rest is still coming, so that little is left to wait for at the end.
//!
//! A file is cloned where the file system can, else copied by the kernel, its holes kept; what is hashed is then what stands
//! in the staged file, read behind the copy while it is still in memory.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

use anyhow::{Context as _, anyhow};
use rustix::fs::{SeekFrom, copy_file_range, fdatasync, fstatvfs, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::digest::Algorithm;
use super::pace::Pace;
use crate::fetch::pace::Trouble;
use crate::os::space::available;
use crate::source::Body;

/// Bytes of a block ...
const BLOCK: usize = 512 << 10;
/// ... and how many a stream has: one each is read, written and hashed, one waits.
const BLOCKS: usize = 4;
/// Bytes that the kernel copies at a time, and after which it is looked whether there is room for more.
const STEP: u64 = 4 << 20;
/// Bytes after which what was written is put on the disk.
const FLUSH: u64 = 64 << 20;

/// What was copied.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) bytes: u64,
    /// In hexadecimal, when one was asked for.
    pub(crate) digest: Option<String>,
}

/// Copies a body into an empty file. `size` is what it should have, if known: a source that gives more is cut short. Where it is
/// not known nobody can have looked whether there is room, and the copy ends when fewer than `reserve` bytes are left free.
pub(crate) fn copy(
    body: Body,
    to: &File,
    size: Option<u64>,
    reserve: u64,
    algorithm: Option<Algorithm>,
    pace: &Pace,
    moved: &AtomicU64,
) -> Result<Copied, Trouble> {
    match body {
        Body::Stream(from) => {
            let room = Room { reserve: size.is_none().then_some(reserve), since: 0 };
            stream(from, to, size, room, algorithm, pace, moved)
        }
        Body::File(from) => file(&from, to, size, algorithm, pace, moved),
    }
}

/// A block on its way.
struct Block {
    bytes: Vec<u8>,
    length: usize,
}

/// Looks from time to time whether there is room for more.
struct Room {
    /// Bytes of the file system to be left free, where that is to be looked after.
    reserve: Option<u64>,
    since: u64,
}

impl Room {
    fn wrote(&mut self, bytes: u64, to: &File) -> Result<(), Trouble> {
        self.since += bytes;
        let Some(reserve) = self.reserve.filter(|_| self.since >= STEP) else { return Ok(()) };
        self.since = 0;
        let free = available(&fstatvfs(to).map_err(|e| cannot_write(e.into()))?);
        if free < reserve {
            return Err(Trouble::Here(anyhow!(
                "nobody says how large it is, and by now the file system has room for {free} bytes, of which {reserve} are to be left free"
            )));
        }
        Ok(())
    }
}

fn stream(
    mut from: Box<dyn Read + Send>,
    mut to: &File,
    size: Option<u64>,
    mut room: Room,
    algorithm: Option<Algorithm>,
    pace: &Pace,
    moved: &AtomicU64,
) -> Result<Copied, Trouble> {
    scope(|scope| {
        let (full, to_write) = channel::<Block>();
        let (written, to_hash) = channel::<Block>();
        let (done, free) = channel();
        let (mut flusher, on_disk) = Flusher::start(scope, to)?;
        let writer = spawn(scope, move || {
            for block in to_write {
                to.write_all(&block.bytes[..block.length]).map_err(cannot_write)?;
                flusher.wrote(block.length as u64);
                room.wrote(block.length as u64, to)?;
                let _ = written.send(block);
            }
            Ok(())
        })?;
        let hasher = spawn(scope, move || {
            let mut digest = algorithm.map(Algorithm::start);
            for block in to_hash {
                if let Some(digest) = &mut digest {
                    digest.update(&block.bytes[..block.length]);
                }
                let _ = done.send(block);
            }
            digest.map(super::digest::Digest::finish)
        })?;
        let read = read_all(&mut from, &full, &free, size, pace, moved);
        drop(full);
        joined(writer).and_then(|()| joined(on_disk).map_err(cannot_write))?;
        let digest = joined(hasher);
        Ok(Copied { bytes: read?, digest })
    })
}

/// Reads to the end, block by block. Ends early when the writer has gone; then that one knows why.
fn read_all(
    from: &mut dyn Read,
    full: &Sender<Block>,
    free: &Receiver<Block>,
    size: Option<u64>,
    pace: &Pace,
    moved: &AtomicU64,
) -> Result<u64, Trouble> {
    let (mut total, mut made) = (0, 0);
    loop {
        let next = if made < BLOCKS {
            made += 1;
            Some(Block { bytes: vec![0; BLOCK], length: 0 })
        } else {
            free.recv().ok()
        };
        let Some(mut block) = next else { return Ok(total) };
        block.length = fill(from, &mut block.bytes, pace, moved)?;
        total += block.length as u64;
        if size.is_some_and(|size| total > size) {
            return Err(Trouble::There(anyhow!(
                "it gave more than the {} bytes it should have",
                size.unwrap_or_default()
            )));
        }
        let is_last = block.length < BLOCK;
        if full.send(block).is_err() || is_last {
            return Ok(total);
        }
    }
}

/// Fills a block; one that is not full is the last.
fn fill(from: &mut dyn Read, bytes: &mut [u8], pace: &Pace, moved: &AtomicU64) -> Result<usize, Trouble> {
    let mut length = 0;
    while length < bytes.len() {
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => {
                length += count;
                moved.fetch_add(count as u64, Ordering::Relaxed);
                pace.moved(count as u64)?;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(pace.or_interrupted(Trouble::There(e.into()))),
        }
    }
    Ok(length)
}

fn file(
    from: &File,
    to: &File,
    size: Option<u64>,
    algorithm: Option<Algorithm>,
    pace: &Pace,
    moved: &AtomicU64,
) -> Result<Copied, Trouble> {
    let look = || from.metadata().map_err(|e| Trouble::There(e.into()));
    let before = look()?;
    let length = before.len();
    if let Some(size) = size.filter(|size| *size != length) {
        return Err(Trouble::There(anyhow!("it has {length} bytes there instead of {size}")));
    }
    scope(|scope| {
        let (ready, copied) = channel();
        let hasher = hash_behind(scope, to, algorithm, pace, copied, moved)?;
        let (mut flusher, on_disk) = Flusher::start(scope, to)?;
        let result = copy_file(from, to, length, pace, &ready, &mut flusher);
        drop((ready, flusher));
        let (digest, on_disk) = (joined(hasher), joined(on_disk));
        result?;
        on_disk.map_err(cannot_write)?;
        let digest = digest?;
        let after = look()?;
        // What was cut off meanwhile would look like a hole, and what was added like a part of a clone.
        if (after.len(), after.mtime(), after.mtime_nsec()) != (length, before.mtime(), before.mtime_nsec()) {
            return Err(Trouble::There(anyhow!("it was changed while it was copied")));
        }
        Ok(Copied { bytes: length, digest })
    })
}

/// Puts on the disk what was written to a file, on a thread of its own.
struct Flusher {
    due: Sender<()>,
    since: u64,
}

impl Flusher {
    /// The thread ends when the flusher is dropped, with the first error there was: the kernel tells it only once.
    fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        file: &'scope File,
    ) -> Result<(Self, ScopedJoinHandle<'scope, std::io::Result<()>>), Trouble> {
        let (due, flushes) = channel();
        let thread = spawn(scope, move || {
            for () in flushes {
                fdatasync(file)?;
            }
            Ok(())
        })?;
        Ok((Flusher { due, since: 0 }, thread))
    }

    fn wrote(&mut self, bytes: u64) {
        self.since += bytes;
        if self.since >= FLUSH {
            self.since = 0;
            // Who is late finds more to do at once; an error is told when the thread is joined.
            let _ = self.due.send(());
        }
    }
}

/// Hashes a file as far as it is told to, on a thread of its own.
fn hash_behind<'scope>(
    scope: &'scope Scope<'scope, '_>,
    file: &'scope File,
    algorithm: Option<Algorithm>,
    pace: &'scope Pace,
    copied: Receiver<u64>,
    moved: &'scope AtomicU64,
) -> Result<ScopedJoinHandle<'scope, Result<Option<String>, Trouble>>, Trouble> {
    spawn(scope, move || {
        let mut digest = algorithm.map(Algorithm::start);
        let (mut block, mut at) = (vec![0; BLOCK], 0);
        for until in copied {
            let Some(digest) = &mut digest else {
                moved.store(until, Ordering::Relaxed);
                continue;
            };
            while at < until {
                if pace.interrupt.raised() {
                    return Err(Trouble::Interrupted);
                }
                let most = usize::try_from(until - at).map_or(BLOCK, |left| left.min(BLOCK));
                file.read_exact_at(&mut block[..most], at)
                    .context("cannot read the staged image back")
                    .map_err(Trouble::Here)?;
                digest.update(&block[..most]);
                at += most as u64;
                moved.store(at, Ordering::Relaxed);
            }
        }
        Ok(digest.map(super::digest::Digest::finish))
    })
}

/// Clones a file, or copies its data and leaves its holes. Tells how far it is whenever more can be hashed.
fn copy_file(
    from: &File,
    to: &File,
    length: u64,
    pace: &Pace,
    ready: &Sender<u64>,
    flusher: &mut Flusher,
) -> Result<(), Trouble> {
    // A hasher that has gone says why when it is joined.
    let tell = |at| {
        let _ = ready.send(at);
    };
    if ioctl_ficlone(to, from).is_ok() {
        tell(length);
        return Ok(());
    }
    to.set_len(length).map_err(cannot_write)?;
    let mut copier = Copier { from, to, block: Vec::new() };
    let mut at = 0;
    while let Some((start, end)) = data(from, at, length)? {
        at = start;
        while at < end {
            let count = copier.step(at, (end - at).min(pace.portion(STEP)))?;
            pace.moved(count)?;
            at += count;
            flusher.wrote(count);
            tell(at);
        }
    }
    tell(length);
    Ok(())
}

/// The next stretch of data at or after a place, or `None` when nothing but a hole follows.
fn data(from: &File, at: u64, length: u64) -> Result<Option<(u64, u64)>, Trouble> {
    if at >= length {
        return Ok(None);
    }
    let there = |e: Errno| Trouble::There(anyhow!(e).context("cannot look for the file's holes"));
    let start = match seek(from, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, length))),
        Err(e) => return Err(there(e)),
    };
    let end = seek(from, SeekFrom::Hole(start)).map_err(there)?;
    Ok((start < length).then_some((start, end.min(length))))
}

/// Copies stretches of one file to the same place in another.
struct Copier<'a> {
    from: &'a File,
    to: &'a File,
    /// Used once the kernel does not copy between these two.
    block: Vec<u8>,
}

impl Copier<'_> {
    /// Copies some of the bytes that are wanted, at least one.
    fn step(&mut self, at: u64, wanted: u64) -> Result<u64, Trouble> {
        if self.block.is_empty() {
            let (mut out, mut into) = (at, at);
            match copy_file_range(self.from, Some(&mut out), self.to, Some(&mut into), wanted as usize) {
                Ok(count) if count > 0 => return Ok(count as u64),
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(cannot_write(e.into())),
                // Whatever else is wrong, reading and writing will tell on which side.
                Ok(_) | Err(_) => self.block = vec![0; BLOCK],
            }
        }
        let most = (wanted as usize).min(BLOCK);
        let count = self.from.read_at(&mut self.block[..most], at).map_err(|e| Trouble::There(e.into()))?;
        if count == 0 {
            return Err(Trouble::There(anyhow!("it became shorter while it was copied")));
        }
        self.to.write_all_at(&self.block[..count], at).map_err(cannot_write)?;
        Ok(count as u64)
    }
}

fn cannot_write(error: std::io::Error) -> Trouble {
    Trouble::Here(anyhow!(error).context("cannot write the staged image"))
}

/// Starts a thread. That there can be none is our side's trouble, and no fault of this program.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Trouble> {
    Builder::new().spawn_scoped(scope, work).context("cannot start a thread").map_err(Trouble::Here)
}

/// A thread's result. These threads do not panic: what they index is as long as they say.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupt;

    fn pace() -> Pace {
        Pace::new(Interrupt::default(), None)
    }

    fn run(body: Body, size: Option<u64>) -> (Result<Copied, Trouble>, File) {
        let to = tempfile::tempfile().unwrap();
        let moved = AtomicU64::new(0);
        (copy(body, &to, size, 0, Some(Algorithm::Sha256), &pace(), &moved), to)
    }

    fn digest(bytes: &[u8]) -> String {
        let mut digest = Algorithm::Sha256.start();
        digest.update(bytes);
        digest.finish()
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 7 % 251) as u8).collect()
    }

    #[test]
    fn streams_of_any_length_arrive_whole() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * BLOCKS, BLOCK * (BLOCKS + 2) + 3] {
            let bytes = content(length);
            let body = Body::Stream(Box::new(std::io::Cursor::new(bytes.clone())));
            let (copied, to) = run(body, Some(length as u64));
            let copied = copied.unwrap();
            assert_eq!((copied.bytes, copied.digest), (length as u64, Some(digest(&bytes))));
            let mut found = vec![0; length];
            to.read_exact_at(&mut found, 0).unwrap();
            assert!(found == bytes && to.metadata().unwrap().len() == length as u64, "{length}");
        }
    }

    #[test]
    fn a_stream_without_end_is_cut_short() {
        let (copied, to) = run(Body::Stream(Box::new(std::io::repeat(1))), Some(10));
        assert!(matches!(copied, Err(Trouble::There(_))));
        assert!(to.metadata().unwrap().len() <= (BLOCK * BLOCKS) as u64);
    }

    #[test]
    fn a_stream_of_unknown_size_leaves_free_what_is_to_be_left() {
        for (size, reserve, whole) in
            [(None, u64::MAX, false), (None, 0, true), (Some(3 * STEP), u64::MAX, true)]
        {
            let to = tempfile::tempfile().unwrap();
            let body = Body::Stream(Box::new(std::io::repeat(1).take(3 * STEP)));
            let copied = copy(body, &to, size, reserve, None, &pace(), &AtomicU64::new(0));
            assert_eq!(copied.is_ok(), whole, "{size:?} {reserve}");
            assert_eq!(to.metadata().unwrap().len() == 3 * STEP, whole, "{size:?} {reserve}");
            if let Err(trouble) = copied {
                assert!(matches!(trouble, Trouble::Here(e) if e.to_string().contains("to be left free")));
            }
        }
    }

    #[test]
    fn files_arrive_whole_with_their_holes() {
        let from = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 12 << 20];
        for at in [1 << 20, 7 << 20] {
            let data = content(1 << 20);
            from.write_all_at(&data, at as u64).unwrap();
            bytes[at..at + data.len()].copy_from_slice(&data);
        }
        from.set_len(12 << 20).unwrap();
        let (copied, to) = run(Body::File(from), None);
        let copied = copied.unwrap();
        assert_eq!((copied.bytes, copied.digest), (12 << 20, Some(digest(&bytes))));
        assert!(to.metadata().unwrap().blocks() * 512 < 4 << 20, "the holes are filled");
    }

    #[test]
    fn a_file_that_changes_while_it_is_copied_is_no_image() {
        for change in [|file: &File| file.set_len(1 << 20), |file: &File| file.set_len(32 << 20)] {
            let from = tempfile::tempfile().unwrap();
            from.write_all_at(&content(16 << 20), 0).unwrap();
            let (changed, to) = (from.try_clone().unwrap(), tempfile::tempfile().unwrap());
            let (pace, moved) = (Pace::new(Interrupt::default(), Some(16 << 20)), AtomicU64::new(0));
            let copied = scope(|scope| {
                scope.spawn(|| {
                    while moved.load(Ordering::Relaxed) == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    change(&changed).unwrap();
                });
                copy(Body::File(from), &to, None, 0, None, &pace, &moved)
            });
            assert!(matches!(copied, Err(Trouble::There(_))), "{copied:?}");
        }
    }

    #[test]
    fn a_signal_ends_a_copy() {
        let interrupt = Interrupt::default();
        let pace = Pace::new(interrupt, Some(1));
        let to = tempfile::tempfile().unwrap();
        let from = Body::Stream(Box::new(std::io::repeat(1)));
        // Without a signal it would take a day.
        let moved = AtomicU64::new(0);
        scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                pace.interrupt.raise(15);
            });
            let copied = copy(from, &to, None, 0, None, &pace, &moved);
            assert!(matches!(copied, Err(Trouble::Interrupted)));
        });
    }
}
