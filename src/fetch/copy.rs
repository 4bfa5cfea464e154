//! Moving an image's bytes into a staged file, and computing its digest on the way.
//!
//! A stream passes through a ring of blocks: one thread reads, one writes and one hashes, and each block goes
//! from one to the next and back. The number of blocks is fixed, so memory does not depend on the image's
//! size, and the slowest of the three threads alone limits the speed. Written data is flushed to the disk
//! while the rest is still being read, so that little is left to flush at the end.
//!
//! A file is cloned if the file system can do that. Otherwise the kernel copies it and keeps its holes. The
//! hash is then computed from the staged file, just behind the copy, while the data is still in memory.
//!
//! Promises: no more bytes are accepted than the image should have, and a file that changes during the copy
//! is an error. This module does not compare sizes or hashes with the record, and does not remove the staged
//! file.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

use anyhow::{Context as _, anyhow};
use rustix::fs::{SeekFrom, copy_file_range, fdatasync, fstatvfs, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::digest::{Algorithm, Digest};
use super::error::FetchError;
use super::throttle::Throttle;
use crate::os::space::available;
use crate::source::{Body, WrongData};
use crate::units::human;

/// Bytes in a block.
const BLOCK: usize = 512 << 10;
/// Blocks of a stream: one each is being read, written and hashed, and one waits.
const BLOCKS: usize = 4;
/// Bytes that the kernel copies at a time, and between two checks of the free space.
const STEP: u64 = 4 << 20;
/// Bytes after which written data is flushed to the disk.
const FLUSH: u64 = 64 << 20;

/// The result of a copy.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) bytes: u64,
    /// In hexadecimal; `None` if no algorithm was given.
    pub(super) digest: Option<String>,
}

/// A copy into an empty file, and the conditions that apply to it.
pub(super) struct Transfer<'a> {
    pub(super) to: &'a File,
    /// Bytes that the image should have, if known.
    pub(super) size: Option<u64>,
    /// Bytes of the file system that must stay free. This is checked only if the size is unknown: otherwise
    /// the caller has checked that the image fits.
    pub(super) reserve: u64,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) throttle: &'a Throttle,
    /// Counts the bytes as they arrive.
    pub(super) moved: &'a AtomicU64,
}

/// A block of a stream.
struct Block {
    bytes: Vec<u8>,
    length: usize,
}

/// Checks from time to time that the file system has enough free space.
struct SpaceGuard {
    /// Bytes that must stay free; `None` if the space need not be checked.
    reserve: Option<u64>,
    since: u64,
}

impl SpaceGuard {
    fn wrote(&mut self, bytes: u64, to: &File) -> Result<(), FetchError> {
        self.since += bytes;
        let Some(reserve) = self.reserve.filter(|_| self.since >= STEP) else { return Ok(()) };
        self.since = 0;
        let free = available(&fstatvfs(to).map_err(|e| cannot_write(e.into()))?);
        if free < reserve {
            return Err(FetchError::Room(anyhow!(
                "image size is unknown and free space fell to {}, below the reserve of {}",
                human(free),
                human(reserve)
            )));
        }
        Ok(())
    }
}

impl Transfer<'_> {
    /// Copies a body into the file, which must be empty.
    ///
    /// On an error the file may contain a part of the image.
    pub(super) fn copy(&self, body: Body) -> Result<Copied, FetchError> {
        match body {
            Body::Stream(from) => self.copy_stream(from),
            Body::File(from) => self.copy_whole_file(&from),
        }
    }

    fn copy_stream(&self, mut from: Box<dyn Read + Send>) -> Result<Copied, FetchError> {
        let (algorithm, mut to) = (self.algorithm, self.to);
        let mut guard = SpaceGuard { reserve: self.size.is_none().then_some(self.reserve), since: 0 };
        scope(|scope| {
            let (full, to_write) = channel::<Block>();
            let (written, to_hash) = channel::<Block>();
            let (done, free) = channel();
            let (mut flusher, on_disk) = Flusher::start(scope, to)?;
            let writer = spawn(scope, move || {
                for block in to_write {
                    to.write_all(&block.bytes[..block.length]).map_err(cannot_write)?;
                    flusher.wrote(block.length as u64);
                    guard.wrote(block.length as u64, to)?;
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
                digest.map(Digest::finish)
            })?;
            let read = self.read_all(&mut from, &full, &free);
            drop(full);
            joined(writer).and_then(|()| joined(on_disk).map_err(cannot_write))?;
            let digest = joined(hasher);
            Ok(Copied { bytes: read?, digest })
        })
    }

    /// Reads to the end, block by block.
    ///
    /// Ends early without an error if the writer has ended, since the writer's own error is the cause.
    fn read_all(
        &self,
        from: &mut dyn Read,
        full: &Sender<Block>,
        free: &Receiver<Block>,
    ) -> Result<u64, FetchError> {
        let (mut total, mut made) = (0, 0);
        loop {
            let next = if made < BLOCKS {
                made += 1;
                Some(Block { bytes: vec![0; BLOCK], length: 0 })
            } else {
                free.recv().ok()
            };
            let Some(mut block) = next else { return Ok(total) };
            block.length = self.fill(from, &mut block.bytes)?;
            total += block.length as u64;
            if let Some(size) = self.size.filter(|size| total > *size) {
                return Err(FetchError::Data(anyhow!(
                    "size mismatch: got more than the expected {size} bytes"
                )));
            }
            let is_last = block.length < BLOCK;
            if full.send(block).is_err() || is_last {
                return Ok(total);
            }
        }
    }

    /// Fills a block, and returns its length; a block that is not full is the last.
    fn fill(&self, from: &mut dyn Read, bytes: &mut [u8]) -> Result<usize, FetchError> {
        let mut length = 0;
        while length < bytes.len() {
            match from.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(count) => {
                    length += count;
                    self.moved.fetch_add(count as u64, Ordering::Relaxed);
                    self.throttle.moved(count as u64)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.throttle.or_interrupted(unread(e))),
            }
        }
        Ok(length)
    }

    fn copy_whole_file(&self, from: &File) -> Result<Copied, FetchError> {
        let look = || from.metadata().map_err(|e| FetchError::Source(e.into()));
        let before = look()?;
        let length = before.len();
        if let Some(size) = self.size.filter(|size| *size != length) {
            return Err(FetchError::Source(anyhow!("size mismatch: got {length} bytes, expected {size}")));
        }
        scope(|scope| {
            let (ready, copied) = channel();
            let hasher = spawn(scope, || self.hash_behind(copied))?;
            let (mut flusher, on_disk) = Flusher::start(scope, self.to)?;
            let result = self.copy_data(from, length, &ready, &mut flusher);
            drop((ready, flusher));
            let (digest, on_disk) = (joined(hasher), joined(on_disk));
            result?;
            on_disk.map_err(cannot_write)?;
            let digest = digest?;
            let after = look()?;
            // Data cut off during the copy would look like a hole, and added data like a part of a clone.
            if (after.len(), after.mtime(), after.mtime_nsec())
                != (length, before.mtime(), before.mtime_nsec())
            {
                return Err(FetchError::Source(anyhow!("the file changed while it was copied")));
            }
            Ok(Copied { bytes: length, digest })
        })
    }

    /// Hashes the file as far as it has been copied; `copied` receives the position each time.
    fn hash_behind(&self, copied: Receiver<u64>) -> Result<Option<String>, FetchError> {
        let mut digest = self.algorithm.map(Algorithm::start);
        let (mut block, mut at) = (vec![0; BLOCK], 0);
        for until in copied {
            let Some(digest) = &mut digest else {
                self.moved.store(until, Ordering::Relaxed);
                continue;
            };
            while at < until {
                if self.throttle.interrupt.raised() {
                    return Err(FetchError::Interrupted);
                }
                let most = usize::try_from(until - at).map_or(BLOCK, |left| left.min(BLOCK));
                self.to
                    .read_exact_at(&mut block[..most], at)
                    .context("cannot read the staged image back")
                    .map_err(FetchError::Cache)?;
                digest.update(&block[..most]);
                at += most as u64;
                self.moved.store(at, Ordering::Relaxed);
            }
        }
        Ok(digest.map(Digest::finish))
    }

    /// Clones a file, or copies its data and keeps its holes. Sends the position whenever more can be hashed.
    fn copy_data(
        &self,
        from: &File,
        length: u64,
        ready: &Sender<u64>,
        flusher: &mut Flusher,
    ) -> Result<(), FetchError> {
        // If the hasher has ended, joining it returns its error.
        let report = |at| {
            let _ = ready.send(at);
        };
        if ioctl_ficlone(self.to, from).is_ok() {
            report(length);
            return Ok(());
        }
        self.to.set_len(length).map_err(cannot_write)?;
        let mut copier = Copier { from, to: self.to, block: Vec::new() };
        let mut at = 0;
        while let Some((start, end)) = data(from, at, length)? {
            at = start;
            while at < end {
                let count = copier.step(at, (end - at).min(self.throttle.portion(STEP)))?;
                self.throttle.moved(count)?;
                at += count;
                flusher.wrote(count);
                report(at);
            }
        }
        report(length);
        Ok(())
    }
}

/// Flushes written data of a file to the disk, on a thread of its own.
struct Flusher {
    due: Sender<()>,
    since: u64,
}

impl Flusher {
    /// Starts the thread.
    ///
    /// It ends when the flusher is dropped, and returns its first error: the kernel reports each error only
    /// once.
    fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        file: &'scope File,
    ) -> Result<(Self, ScopedJoinHandle<'scope, std::io::Result<()>>), FetchError> {
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
            // If the thread has ended with an error, joining it returns that error.
            let _ = self.due.send(());
        }
    }
}

/// Returns the next range of data at or after a position, or `None` if only a hole follows.
fn data(from: &File, at: u64, length: u64) -> Result<Option<(u64, u64)>, FetchError> {
    if at >= length {
        return Ok(None);
    }
    let failed = |e: Errno| FetchError::Source(anyhow!(e).context("cannot look for the file's holes"));
    let start = match seek(from, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // This file system does not support holes, so the whole file is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, length))),
        Err(e) => return Err(failed(e)),
    };
    let end = seek(from, SeekFrom::Hole(start)).map_err(failed)?;
    Ok((start < length).then_some((start, end.min(length))))
}

/// Copies ranges of one file to the same position in another.
struct Copier<'a> {
    from: &'a File,
    to: &'a File,
    /// Empty as long as the kernel copies between these two files.
    block: Vec<u8>,
}

impl Copier<'_> {
    /// Copies at least one and at most `wanted` bytes.
    fn step(&mut self, at: u64, wanted: u64) -> Result<u64, FetchError> {
        if self.block.is_empty() {
            let (mut out, mut into) = (at, at);
            match copy_file_range(self.from, Some(&mut out), self.to, Some(&mut into), wanted as usize) {
                Ok(count) if count > 0 => return Ok(count as u64),
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(cannot_write(e.into())),
                // For any other error, reading and writing shows which side failed.
                Ok(_) | Err(_) => self.block = vec![0; BLOCK],
            }
        }
        let most = (wanted as usize).min(BLOCK);
        let count =
            self.from.read_at(&mut self.block[..most], at).map_err(|e| FetchError::Source(e.into()))?;
        if count == 0 {
            return Err(FetchError::Source(anyhow!("the file became shorter while it was copied")));
        }
        self.to.write_all_at(&self.block[..count], at).map_err(cannot_write)?;
        Ok(count as u64)
    }
}

/// Returns the error of a stream that broke, or that says itself that it is not the image.
fn unread(error: std::io::Error) -> FetchError {
    let is_wrong = error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<WrongData>);
    if is_wrong { FetchError::Data(error.into()) } else { FetchError::Source(error.into()) }
}

fn cannot_write(error: std::io::Error) -> FetchError {
    FetchError::Cache(anyhow!(error).context("cannot write the staged image"))
}

/// Starts a thread. A limit on threads is an error of the cache's side, and must not end the program.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, FetchError> {
    Builder::new().spawn_scoped(scope, work).context("cannot start a thread").map_err(FetchError::Cache)
}

/// Returns the result of a thread, and passes a panic on.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupt;

    fn transfer<'a>(to: &'a File, throttle: &'a Throttle, moved: &'a AtomicU64) -> Transfer<'a> {
        Transfer { to, size: None, reserve: 0, algorithm: None, throttle, moved }
    }

    fn run(body: Body, size: Option<u64>) -> (Result<Copied, FetchError>, File) {
        let to = tempfile::tempfile().unwrap();
        let (throttle, moved) = (Throttle::new(Interrupt::default(), None), AtomicU64::new(0));
        let algorithm = Some(Algorithm::Sha256);
        (Transfer { size, algorithm, ..transfer(&to, &throttle, &moved) }.copy(body), to)
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
        assert!(matches!(copied, Err(FetchError::Data(_))));
        assert!(to.metadata().unwrap().len() <= (BLOCK * BLOCKS) as u64);
    }

    /// A stream that fails at its start.
    struct Failing(Option<std::io::Error>);

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            self.0.take().map_or(Ok(0), Err)
        }
    }

    #[test]
    fn a_stream_that_breaks_is_not_one_that_is_wrong() {
        for (error, is_wrong) in [
            (std::io::Error::other("broken"), false),
            (ErrorKind::ConnectionReset.into(), false),
            (std::io::Error::from_raw_os_error(5), false),
            (std::io::Error::other(WrongData("wrong".to_owned())), true),
        ] {
            let from = std::io::Cursor::new(content(BLOCK + 7)).chain(Failing(Some(error)));
            let (copied, _) = run(Body::Stream(Box::new(from)), None);
            match copied {
                Err(FetchError::Data(_)) => assert!(is_wrong),
                Err(FetchError::Source(_)) => assert!(!is_wrong),
                copied => panic!("{copied:?}"),
            }
        }
    }

    #[test]
    fn a_read_that_a_signal_handler_interrupts_is_repeated() {
        let bytes = content(BLOCK + 7);
        let interrupted = Failing(Some(ErrorKind::Interrupted.into()));
        let from = std::io::Cursor::new(bytes[..9].to_vec()).chain(interrupted);
        let from = from.chain(std::io::Cursor::new(bytes[9..].to_vec()));
        let (copied, _) = run(Body::Stream(Box::new(from)), None);
        assert_eq!(copied.unwrap().bytes, bytes.len() as u64);
    }

    #[test]
    fn a_stream_of_unknown_size_keeps_the_reserve_free() {
        for (size, reserve, whole) in
            [(None, u64::MAX, false), (None, 0, true), (Some(3 * STEP), u64::MAX, true)]
        {
            let to = tempfile::tempfile().unwrap();
            let body = Body::Stream(Box::new(std::io::repeat(1).take(3 * STEP)));
            let (throttle, moved) = (Throttle::new(Interrupt::default(), None), AtomicU64::new(0));
            let copied = Transfer { size, reserve, ..transfer(&to, &throttle, &moved) }.copy(body);
            assert_eq!(copied.is_ok(), whole, "{size:?} {reserve}");
            assert_eq!(to.metadata().unwrap().len() == 3 * STEP, whole, "{size:?} {reserve}");
            if let Err(error) = copied {
                assert!(matches!(error, FetchError::Room(e) if e.to_string().contains("below the reserve")));
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
    fn a_file_that_changes_while_it_is_copied_is_an_error() {
        for change in [|file: &File| file.set_len(1 << 20), |file: &File| file.set_len(32 << 20)] {
            let from = tempfile::tempfile().unwrap();
            from.write_all_at(&content(16 << 20), 0).unwrap();
            let (changed, to) = (from.try_clone().unwrap(), tempfile::tempfile().unwrap());
            let (throttle, moved) = (Throttle::new(Interrupt::default(), Some(16 << 20)), AtomicU64::new(0));
            let copied = scope(|scope| {
                scope.spawn(|| {
                    while moved.load(Ordering::Relaxed) == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    change(&changed).unwrap();
                });
                transfer(&to, &throttle, &moved).copy(Body::File(from))
            });
            assert!(matches!(copied, Err(FetchError::Source(_))), "{copied:?}");
        }
    }

    #[test]
    fn a_signal_ends_a_copy() {
        let throttle = Throttle::new(Interrupt::default(), Some(1));
        let to = tempfile::tempfile().unwrap();
        let from = Body::Stream(Box::new(std::io::repeat(1)));
        // Without a signal the copy would take days.
        let moved = AtomicU64::new(0);
        scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                throttle.interrupt.raise(15);
            });
            let copied = transfer(&to, &throttle, &moved).copy(from);
            assert!(matches!(copied, Err(FetchError::Interrupted)));
        });
    }
}
