//! Reads a cached image and compares it with its record.
//!
//! **Nothing is changed.** The image is read with `O_NOATIME`. A file system that ignores this has the access
//! time put back afterwards; an image of another user, for whom neither is allowed, is not read at all. With
//! the xattr driver the access time is the last use, by which `prune` chooses.
//!
//! **The page cache** of a busy node is left as it is: images are read directly from the disk (`O_DIRECT`),
//! which also finds a disk that returns other data than memory still holds. A file system without direct
//! reads (tmpfs, some of FUSE) has the pages that were read dropped behind the reader, unless the first page
//! of the image was in memory before: then the image is in use, and all its pages stay.
//!
//! **An image that changes** or is removed while it is read is not at fault: inode, size and modification
//! time are compared before and after. An image whose digest is wrong is read a second time. Only if both
//! readings agree, the image is broken; otherwise it is the disk or the memory of the host.
//!
//! One thread reads and one hashes. The number of blocks is fixed, so memory does not depend on the image's
//! size.

use std::fmt;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, scope};

use anyhow::{Context as _, anyhow};
use rustix::fs::{
    Advice, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fadvise, fcntl_getfl, fcntl_setfl, fstat,
    fstatfs, futimens, openat,
};
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, pread, preadv2};

use super::digest::{Algorithm, Check, Digest};
use super::throttle::Throttle;
use super::{Meter, short};
use crate::cache::dir::{CacheDir, CachePlace, seen};
use crate::cache::entry::{Image, Seen};
use crate::cache::set_aside::is_unchanged;
use crate::names::escaped;
use crate::units::SECOND;

/// Bytes in a block. A disk that others use, too, serves large reads sooner, as it does the kernel's own read
/// ahead.
const BLOCK: usize = 3 << 19;
/// Blocks of an image: one is being read while the other is hashed.
const BLOCKS: usize = 2;
/// Direct reads need memory and positions that are multiples of this.
const ALIGNMENT: usize = 4096;
/// Bytes after which pages that were read are dropped.
const DROP: u64 = 8 << 20;

/// A cached image and what its record says of it.
pub(crate) struct Examination<'a> {
    pub(crate) dir: &'a CacheDir,
    pub(crate) image: Image,
    /// In bytes; `None` if the record has no size.
    pub(crate) size: Option<u64>,
    pub(crate) check: Option<Check>,
    pub(crate) throttle: &'a Throttle,
}

/// The result of reading an image.
#[derive(Debug)]
pub(crate) enum Finding {
    /// The contents are as the record says.
    Sound,
    /// The record has no digest to compare with. The size is as it says, if it has one.
    Unverifiable,
    Broken(Fault),
    /// The image changed or was removed while it was read.
    Changed,
    /// The image could not be read, for a reason that is not in its contents.
    Failed(anyhow::Error),
    /// A signal arrived.
    Interrupted,
}

/// The way in which an image is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// In bytes.
    Size { found: u64, expected: u64 },
    /// In hexadecimal.
    Digest { name: String, found: String, expected: String },
    /// A block cannot be read.
    Unreadable { at: u64, error: Errno },
}

/// Shows the fault without the image.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Size { found, expected } => {
                write!(f, "size mismatch: got {found} bytes, expected {expected}")
            }
            Fault::Digest { name, found, expected } => {
                let name = escaped(name.as_bytes());
                write!(f, "{name} mismatch: got {}, expected {}", short(found), short(expected))
            }
            Fault::Unreadable { at, error } => write!(f, "it cannot be read at byte {at}: {error}"),
        }
    }
}

/// Reads an image and compares it with its record. `meter` counts the bytes that were read, those of a second
/// reading, too.
pub(crate) fn examine(job: &Examination<'_>, meter: &Meter) -> Finding {
    let opened = match ImageFile::open(job.dir, &job.image) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Finding::Changed,
        Err(e) => return Finding::Failed(e),
    };
    let finding = opened.examine(job, meter);
    opened.put_back_access_time();
    let is_same = opened.is_still(&job.image).and_then(|is| Ok(is && is_unchanged(job.dir, &job.image)?));
    match is_same {
        Ok(true) => finding,
        Ok(false) => Finding::Changed,
        Err(e) => Finding::Failed(e),
    }
}

/// The reason that a reading ended early.
enum ReadingEnd {
    Block {
        at: u64,
        error: Errno,
    },
    /// The file is shorter than it was.
    Shorter,
    Failed(anyhow::Error),
    Interrupted,
}

impl From<ReadingEnd> for Finding {
    fn from(unread: ReadingEnd) -> Self {
        match unread {
            ReadingEnd::Block { at, error } if is_of_the_contents(error) => {
                Finding::Broken(Fault::Unreadable { at, error })
            }
            ReadingEnd::Block { at, error } => {
                Finding::Failed(anyhow!("cannot read it at byte {at}: {error}"))
            }
            ReadingEnd::Shorter => Finding::Changed,
            ReadingEnd::Failed(e) => Finding::Failed(e),
            ReadingEnd::Interrupted => Finding::Interrupted,
        }
    }
}

/// True if an error is about the blocks that are read, and not about the way to them: a medium error, a
/// checksum of the file system that is wrong, damaged metadata.
fn is_of_the_contents(error: Errno) -> bool {
    [Errno::IO, Errno::NODATA, Errno::BADMSG, Errno::UCLEAN, Errno::ILSEQ, Errno::REMOTEIO].contains(&error)
}

/// A block of an image, in memory that direct reads accept.
struct AlignedBlock {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBlock {
    /// Makes a block for this many bytes.
    fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes.next_multiple_of(ALIGNMENT) + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        // An offset that cannot be computed is as good as none: the read is then not a direct one.
        AlignedBlock { memory, start: if start < ALIGNMENT { start } else { 0 }, length: 0 }
    }

    fn space(&mut self) -> &mut [u8] {
        let end = self.memory.len() - ALIGNMENT + self.start;
        &mut self.memory[self.start..end]
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

/// An image that is open for reading.
struct ImageFile {
    file: File,
    /// As it was before the first read.
    before: Seen,
    /// True if pages are dropped behind the reader.
    drops: bool,
}

impl ImageFile {
    /// Opens an image; `None` if it is gone, or another file by now.
    fn open(dir: &CacheDir, image: &Image) -> anyhow::Result<Option<Self>> {
        let opened = open(dir, image).or_else(|e| match e {
            // Root has no rights of its own on some network file systems.
            Errno::ACCESS | Errno::PERM => dir.owner().act().map_or(Err(e), |_owner| open(dir, image)),
            e => Err(e),
        });
        let file: File = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(Errno::PERM) => {
                return Err(anyhow!(
                    "it cannot be read without changing its access time, because it belongs to another user"
                ));
            }
            Err(e) => return Err(anyhow!(e).context("cannot open it")),
        };
        let before = seen(&fstat(&file).context("cannot look at it")?);
        let is_direct = fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
        let drops = !is_direct && !is_in_memory(&file);
        let opened = ImageFile { file, before, drops };
        Ok(opened.is_still(image)?.then_some(opened))
    }

    /// True if the open file is the image that the survey found.
    fn is_still(&self, image: &Image) -> anyhow::Result<bool> {
        let (was, now) = (&image.seen, seen(&fstat(&self.file).context("cannot look at it")?));
        Ok((now.inode, now.size, now.mtime) == (was.inode, was.size, was.mtime))
    }

    fn examine(&self, job: &Examination<'_>, meter: &Meter) -> Finding {
        let found = self.before.size;
        if let Some(expected) = job.size.filter(|expected| *expected != found) {
            return Finding::Broken(Fault::Size { found, expected });
        }
        let Some(check) = &job.check else { return Finding::Unverifiable };
        let read = || self.digest(check.algorithm, job.throttle, meter);
        let first = match read() {
            Ok(digest) if check.expected.eq_ignore_ascii_case(&digest) => return Finding::Sound,
            Ok(digest) => digest,
            Err(unread) => return unread.into(),
        };
        meter.size.fetch_add(self.before.size, Ordering::Relaxed);
        // Memory is wrong more often than it is believed, and what follows throws a good image away.
        match read() {
            Ok(second) if second == first => Finding::Broken(Fault::Digest {
                name: check.name.clone(),
                found: first,
                expected: check.expected.to_ascii_lowercase(),
            }),
            Ok(_) => Finding::Failed(anyhow!(
                "two readings of it differ: the disk or the memory of this host is failing"
            )),
            Err(unread) => unread.into(),
        }
    }

    /// Reads the whole image and returns its digest.
    fn digest(&self, algorithm: Algorithm, throttle: &Throttle, meter: &Meter) -> Result<String, ReadingEnd> {
        if self.before.size <= BLOCK as u64 {
            // A second thread would take longer than the reading.
            let mut digest = algorithm.start();
            let mut block = AlignedBlock::new(self.before.size as usize);
            self.fill(&mut block, 0, throttle, meter)?;
            digest.update(block.bytes());
            return Ok(digest.finish());
        }
        scope(|scope| {
            let (full, to_hash) = channel::<AlignedBlock>();
            let (done, free) = channel();
            let hash = move || {
                let mut digest: Digest = algorithm.start();
                for block in to_hash {
                    digest.update(block.bytes());
                    let _ = done.send(block);
                }
                digest.finish()
            };
            let hasher = Builder::new().spawn_scoped(scope, hash).context("cannot start a thread");
            let hasher = hasher.map_err(ReadingEnd::Failed)?;
            let read = self.read_all(&full, &free, throttle, meter);
            drop(full);
            let digest = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.map(|()| digest)
        })
    }

    /// Reads to the end, block by block.
    fn read_all(
        &self,
        full: &Sender<AlignedBlock>,
        free: &Receiver<AlignedBlock>,
        throttle: &Throttle,
        meter: &Meter,
    ) -> Result<(), ReadingEnd> {
        let (mut at, mut made, mut dropped) = (0, 0, 0);
        while at < self.before.size {
            let mut block = if made < BLOCKS {
                made += 1;
                AlignedBlock::new(BLOCK)
            } else {
                // The hasher ends only after this sender is dropped.
                free.recv().map_err(|_| ReadingEnd::Failed(anyhow!("the hashing thread ended early")))?
            };
            self.fill(&mut block, at, throttle, meter)?;
            at += block.length as u64;
            let _ = full.send(block);
            if self.drops && (at - dropped >= DROP || at == self.before.size) {
                // Pages that stay cost memory, not correctness.
                let _ = fadvise(&self.file, dropped, NonZeroU64::new(at - dropped), Advice::DontNeed);
                dropped = at;
            }
        }
        Ok(())
    }

    /// Fills a block from a position on; only the last one is not full.
    fn fill(
        &self,
        block: &mut AlignedBlock,
        at: u64,
        throttle: &Throttle,
        meter: &Meter,
    ) -> Result<(), ReadingEnd> {
        let wanted = (self.before.size - at).min(BLOCK as u64) as usize;
        block.length = 0;
        while block.length < wanted {
            let from = at + block.length as u64;
            let length = block.length;
            // A direct read needs whole multiples, also at the end of the file.
            let most = throttle.portion(BLOCK as u64) as usize / ALIGNMENT * ALIGNMENT;
            let end = block.space().len().min(length + most);
            match pread(&self.file, &mut block.space()[length..end], from) {
                Ok(0) => return Err(ReadingEnd::Shorter),
                Ok(count) => {
                    let count = count.min(wanted - length);
                    block.length += count;
                    meter.moved.fetch_add(count as u64, Ordering::Relaxed);
                    throttle.moved(count as u64).map_err(|_| ReadingEnd::Interrupted)?;
                }
                Err(Errno::INTR) => {}
                // The file system accepts the flag, but not such a read.
                Err(Errno::INVAL) if self.stop_direct_reads() => {}
                Err(error) => return Err(ReadingEnd::Block { at: from, error }),
            }
        }
        Ok(())
    }

    /// Switches to reads through the page cache. Returns false if reads are already so.
    fn stop_direct_reads(&self) -> bool {
        let Ok(flags) = fcntl_getfl(&self.file) else { return false };
        flags.contains(OFlags::DIRECT) && fcntl_setfl(&self.file, flags - OFlags::DIRECT).is_ok()
    }

    /// Puts the access time back if the file system changed it all the same.
    fn put_back_access_time(&self) {
        let Ok(stat) = fstat(&self.file) else { return };
        if seen(&stat).atime == self.before.atime || !self.has_a_server() {
            // It is as it was, or another reader's use counts.
            return;
        }
        let (atime, keep) = (self.before.atime, Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT });
        let last_access =
            Timespec { tv_sec: atime.div_euclid(SECOND), tv_nsec: atime.rem_euclid(SECOND) as _ };
        // If it fails, the image looks as if it was used.
        let _ = futimens(&self.file, &Timestamps { last_access, last_modification: keep });
    }

    /// True if another machine or process sets the access times, and perhaps does not know of `O_NOATIME`.
    #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
    fn has_a_server(&self) -> bool {
        fstatfs(&self.file).is_ok_and(|fs| SERVED.contains(&(fs.f_type as i64)))
    }
}

/// File systems that have a server: FUSE, NFS, CIFS, SMB2, Ceph, AFS and 9p.
const SERVED: [i64; 7] =
    [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x5346_414f, 0x0102_1997];

/// Opens an image to read it directly and without changing its access time.
fn open(dir: &CacheDir, image: &Image) -> Result<File, Errno> {
    let base = dir.fd(CachePlace::Base).ok_or(Errno::NOENT)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
    let name = image.id.as_name().as_c_str();
    let opened = openat(base, name, flags | OFlags::DIRECT, Mode::empty());
    let opened = opened.or_else(|e| match e {
        Errno::INVAL | Errno::OPNOTSUPP => openat(base, name, flags, Mode::empty()),
        e => Err(e),
    });
    opened.map(File::from)
}

/// True if the first byte of a file is in memory.
fn is_in_memory(file: impl AsFd) -> bool {
    let mut byte = [0; 1];
    preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    use super::super::digest::Check;
    use super::*;
    use crate::cache::inventory::{Inventory, Tracking};
    use crate::database::images::ImageRecord;
    use crate::interrupt::Interrupt;

    /// A cache with one image, and its record.
    struct One {
        _temporary: tempfile::TempDir,
        dir: CacheDir,
        path: PathBuf,
        record: ImageRecord,
    }

    fn one(bytes: &[u8]) -> One {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("00000000-0000-0000-0000-00000000000a");
        std::fs::write(&path, bytes).unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let mut digest = Algorithm::Sha512.start();
        digest.update(bytes);
        let record = ImageRecord {
            size: Some(bytes.len() as u64),
            os_hash_algo: Some("sha512".to_owned()),
            os_hash_value: Some(digest.finish().to_ascii_uppercase()),
            ..ImageRecord::default()
        };
        One { _temporary: temporary, dir, path, record }
    }

    impl One {
        fn image(&self) -> Image {
            Inventory::scan(&self.dir, Tracking::ByRow).unwrap().images[0]
        }

        fn finding(&self, image: Image) -> Finding {
            let throttle = Throttle::new(Interrupt::default(), None);
            let (size, check) = (self.record.size, Check::credible(&self.record));
            let job = Examination { dir: &self.dir, image, size, check, throttle: &throttle };
            examine(&job, &Meter::default())
        }
    }

    #[test]
    fn contents_of_every_length_are_read_whole() {
        for length in [0, 1, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 777] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let one = one(&bytes);
            let before = std::fs::metadata(&one.path).unwrap();
            assert!(matches!(one.finding(one.image()), Finding::Sound), "{length} bytes");
            let after = std::fs::metadata(&one.path).unwrap();
            let times = |m: &std::fs::Metadata| (m.atime(), m.atime_nsec(), m.ctime(), m.ctime_nsec());
            assert_eq!(times(&after), times(&before));
        }
    }

    #[test]
    fn a_bit_more_or_less_is_found() {
        let bytes = vec![7; BLOCK + 10];
        let one = one(&bytes);
        let mut flipped = bytes.clone();
        flipped[BLOCK + 3] ^= 1;
        for (what, wrong) in [
            ("flipped", flipped),
            ("truncated", bytes[..BLOCK].to_vec()),
            ("lengthened", [&bytes[..], b"x"].concat()),
        ] {
            std::fs::write(&one.path, wrong).unwrap();
            let found = one.finding(one.image());
            match (what, found) {
                ("flipped", Finding::Broken(Fault::Digest { name, found, expected })) => {
                    assert!(name == "sha512" && found != expected && expected.len() == 128);
                }
                (_, Finding::Broken(Fault::Size { found, expected })) => assert_ne!(found, expected),
                (_, found) => panic!("{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn an_image_that_changes_or_goes_is_not_at_fault() {
        let one = one(b"image");
        let image = one.image();
        std::fs::write(&one.path, "other").unwrap();
        assert!(matches!(one.finding(image), Finding::Changed), "written to");
        let image = one.image();
        std::fs::remove_file(&one.path).unwrap();
        std::fs::write(&one.path, "other").unwrap();
        assert!(matches!(one.finding(image), Finding::Changed), "replaced");
        std::fs::remove_file(&one.path).unwrap();
        assert!(matches!(one.finding(image), Finding::Changed), "removed");
        std::os::unix::fs::symlink("/dev/zero", &one.path).unwrap();
        assert!(matches!(one.finding(image), Finding::Changed), "a link");
    }

    #[test]
    fn without_a_digest_only_the_size_is_compared() {
        let mut one = one(b"image");
        one.record.os_hash_value = None;
        assert!(matches!(one.finding(one.image()), Finding::Unverifiable));
        one.record.size = Some(4);
        assert!(matches!(one.finding(one.image()), Finding::Broken(Fault::Size { found: 5, expected: 4 })));
    }

    #[test]
    fn a_direct_read_that_is_refused_is_made_through_the_page_cache() {
        let bytes: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
        let one = one(&bytes);
        let open = || ImageFile::open(&one.dir, &one.image()).unwrap().unwrap();
        let is_direct = |image: &ImageFile| fcntl_getfl(&image.file).unwrap().contains(OFlags::DIRECT);
        let image = open();
        let was_direct = is_direct(&image);
        assert_eq!(image.stop_direct_reads(), was_direct);
        assert!(!is_direct(&image) && !image.stop_direct_reads());
        // No file system reads directly from the middle of a sector.
        let (image, mut block) = (open(), AlignedBlock::new(bytes.len()));
        let throttle = Throttle::new(Interrupt::default(), None);
        assert!(image.fill(&mut block, 1, &throttle, &Meter::default()).is_ok());
        assert!(block.bytes() == &bytes[1..]);
    }

    #[test]
    fn on_a_file_system_without_a_server_another_readers_use_counts() {
        let one = one(b"image");
        let image = ImageFile::open(&one.dir, &one.image()).unwrap().unwrap();
        let (last_access, last_modification) =
            (Timespec { tv_sec: 4_000_000_000, tv_nsec: 0 }, Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT });
        futimens(&image.file, &Timestamps { last_access, last_modification }).unwrap();
        image.put_back_access_time();
        assert_eq!(std::fs::metadata(&one.path).unwrap().atime(), 4_000_000_000);
    }

    #[test]
    fn an_error_of_the_disk_is_a_fault_of_the_image_and_others_are_not() {
        let found = |error| Finding::from(ReadingEnd::Block { at: 7, error });
        for error in [Errno::IO, Errno::NODATA, Errno::BADMSG, Errno::UCLEAN, Errno::ILSEQ, Errno::REMOTEIO] {
            let Finding::Broken(fault) = found(error) else { panic!("{error}") };
            assert_eq!(fault.to_string(), format!("it cannot be read at byte 7: {error}"));
        }
        for error in [Errno::ACCESS, Errno::STALE, Errno::TIMEDOUT, Errno::NOMEM] {
            let Finding::Failed(why) = found(error) else { panic!("{error}") };
            assert_eq!(why.to_string(), format!("cannot read it at byte 7: {error}"));
        }
        assert!(matches!(Finding::from(ReadingEnd::Shorter), Finding::Changed));
        assert!(matches!(Finding::from(ReadingEnd::Interrupted), Finding::Interrupted));
    }
}
