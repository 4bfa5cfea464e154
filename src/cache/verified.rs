//! The memory of a verification: which images were read when, and if they were as they should be.
//!
//! It is the file `verified` in the directory `.glance-cache` of the cache, so that a run with a budget goes
//! on where the last one ended, and `status` can name broken images without reading them again.
//!
//! **A directory of its own** does not disturb Glance. None of its drivers looks at a directory in the cache:
//! not for the size of the cache, not for its images, and not when it empties the cache. A file beside the
//! images would count towards the size, and be an image for the xattr driver. An attribute of each image
//! would change the image: its time of change is one of the signs by which `prune` sees that an image was
//! used since its plan was made, and with relatime the next reader would set a new access time.
//!
//! **An image is known by its id and its modification time.** One that was cached again was never verified.
//!
//! **Broken images are remembered** for [`KEPT`] also after they were moved or removed: if disk or database
//! are at fault, runs that read a few images each see it only together.
//!
//! **If the memory is lost**, damaged or cannot be written, nothing fails: all images count as never
//! verified, and the next run starts again. The same goes for times in the future, which a clock that was
//! wrong left behind. It is replaced as a whole, and is not forced to the disk.
//!
//! **Two runs at the same time** add to it what each of them has read. A run that writes it holds a lock on
//! the directory (flock) from the reading of the file to its replacement. Of two verdicts about an image,
//! that of the run which began later stays. A file system without such locks is written to without one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{
    Access, AtFlags, FlockOperation, Mode, OFlags, accessat, flock, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::dir::{CacheDir, CachePlace, DIRECTORY};
use super::entry::Image;
use crate::names::ImageId;
use crate::units::{Nanos, SECOND};

/// The name of the directory in the cache directory.
pub(super) const PLACE: &CStr = c".glance-cache";
const NAME: &CStr = c"verified";
const NEW: &CStr = c"verified.new";
/// Bytes that are read of a memory, at most.
const LONGEST: u64 = 256 << 20;
/// The time to wait for another run that is writing the memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time for which a broken image is remembered that is not in the cache any more.
const KEPT: Nanos = 90 * 24 * 3600 * SECOND;

/// The verification of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LastVerification {
    /// The time at which its run began, in whole seconds.
    pub(crate) at: Nanos,
    pub(crate) is_broken: bool,
}

/// The file of an image: its id and its modification time.
type VerifiedFile = (ImageId, Nanos);

fn file_of(image: &Image) -> VerifiedFile {
    (image.id, image.seen.mtime)
}

/// The images that a run has verified and no later run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RunTally {
    pub(crate) examined: u64,
    pub(crate) broken: u64,
}

/// The verifications that are remembered: the last one of each file. An image that was cached again is
/// another file, so that one which is broken again and again counts each time.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    known: HashMap<VerifiedFile, LastVerification>,
    /// Those that this run has verified.
    noted: HashSet<VerifiedFile>,
    /// Those that this run has forgotten.
    forgotten: HashSet<VerifiedFile>,
    /// By the time at which each run began, in seconds.
    runs: BTreeMap<Nanos, RunTally>,
}

impl Verified {
    /// Reads the memory of a cache, without what lies in the future. One that cannot be read is empty.
    pub(crate) fn read(dir: &CacheDir, now: Nanos) -> Self {
        let mut memory = Verified::default();
        for (file, verification) in read(dir) {
            if verification.at <= now {
                memory.insert(file, verification);
            }
        }
        memory
    }

    /// Returns the last verification of an image, or `None` if this file was never verified.
    pub(crate) fn of(&self, image: &Image) -> Option<LastVerification> {
        self.known.get(&file_of(image)).copied()
    }

    /// Returns the tallies of the runs, the last one first. Each file counts once.
    pub(crate) fn runs(&self) -> impl Iterator<Item = RunTally> {
        self.runs.values().rev().copied()
    }

    /// Notes that an image was read, by a run that began at this time.
    pub(crate) fn note(&mut self, image: &Image, at: Nanos, is_broken: bool) {
        let file = file_of(image);
        self.insert(file, LastVerification { at, is_broken });
        self.noted.insert(file);
        self.forgotten.remove(&file);
    }

    /// Forgets an image: what was noted of it may not be true of it.
    pub(crate) fn forget(&mut self, image: &Image) {
        let file = file_of(image);
        self.remove(file);
        self.noted.remove(&file);
        self.forgotten.insert(file);
    }

    fn insert(&mut self, file: VerifiedFile, verification: LastVerification) {
        self.remove(file);
        let run = self.runs.entry(verification.at.div_euclid(SECOND)).or_default();
        run.examined += 1;
        run.broken += u64::from(verification.is_broken);
        self.known.insert(file, verification);
    }

    fn remove(&mut self, file: VerifiedFile) {
        let Some(old) = self.known.remove(&file) else { return };
        if let Some(run) = self.runs.get_mut(&old.at.div_euclid(SECOND)) {
            run.examined -= 1;
            run.broken -= u64::from(old.is_broken);
        }
    }

    /// False if it is known beforehand that the memory cannot be written. Changes nothing.
    pub(crate) fn is_writable(dir: &CacheDir) -> bool {
        let Some(base) = dir.fd(CachePlace::Base) else { return false };
        let writes = |fd| {
            let found = accessat(fd, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty());
            !matches!(found, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
        };
        match open(dir) {
            Ok(place) => writes(place.as_fd()),
            Err(Errno::NOENT) => writes(base),
            Err(_) => false,
        }
    }

    /// Writes the memory of a run that began at a time. Drops sound images that are not among these, and
    /// what lies in the future; what another run has noted meanwhile stays.
    pub(crate) fn write(&self, dir: &CacheDir, images: &[Image], began: Nanos, now: Nanos) -> Result<()> {
        self.add(dir, images, began, now).with_context(|| {
            format!("cannot remember what was verified in {}/.glance-cache", dir.path().display())
        })
    }

    fn add(&self, dir: &CacheDir, images: &[Image], began: Nanos, now: Nanos) -> Result<()> {
        let place = lock(dir)?;
        let mut all = read(dir);
        let present: HashSet<VerifiedFile> = images.iter().map(file_of).collect();
        all.retain(|file, LastVerification { at, is_broken }| {
            let is_new = *at >= began - began.rem_euclid(SECOND);
            let is_kept = is_new || present.contains(file) || *is_broken && *at > now.saturating_sub(KEPT);
            *at <= now && is_kept && !self.forgotten.contains(file)
        });
        for file in &self.noted {
            let Some(own) = self.known.get(file) else { continue };
            let last = all.entry(*file).or_insert(*own);
            if last.at.div_euclid(SECOND) <= own.at.div_euclid(SECOND) {
                *last = *own;
            }
        }
        write(dir, &place, &all)
    }
}

/// Opens the directory of the memory.
fn open(dir: &CacheDir) -> Result<OwnedFd, Errno> {
    let base = dir.fd(CachePlace::Base).ok_or(Errno::NOENT)?;
    openat(base, PLACE, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

fn read(dir: &CacheDir) -> HashMap<VerifiedFile, LastVerification> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = dir.owner().act().map_err(|_| Errno::PERM).and_then(|_owner| {
        let place = open(dir)?;
        openat(&place, NAME, flags, Mode::empty())
    });
    let Ok(file) = opened else { return HashMap::new() };
    let lines = BufReader::new(File::from(file).take(LONGEST)).lines();
    lines.map_while(Result::ok).filter_map(|line| parse(&line)).collect()
}

/// Reads a line: the image, its verification and its modification time in nanoseconds, and the result.
fn parse(line: &str) -> Option<(VerifiedFile, LastVerification)> {
    let mut words = line.split(' ');
    let id = ImageId::new(words.next()?.as_bytes())?;
    let at: i64 = words.next()?.parse().ok()?;
    let mtime = words.next()?.parse().ok()?;
    let is_broken = match words.next()? {
        "sound" => false,
        "broken" => true,
        _ => return None,
    };
    let verification = LastVerification { at: at.checked_mul(SECOND)?, is_broken };
    words.next().is_none().then_some(((id, mtime), verification))
}

/// Opens the directory of the memory, which is made if it is missing, and locks it until it is closed.
fn lock(dir: &CacheDir) -> Result<OwnedFd> {
    let _owner = dir.owner().act()?;
    let base = dir.fd(CachePlace::Base).context("the cache directory is always open")?;
    match mkdirat(base, PLACE, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let place = open(dir)?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(e) = flock(&place, FlockOperation::NonBlockingLockExclusive) {
        if e != Errno::WOULDBLOCK {
            break;
        }
        if Instant::now() > deadline {
            bail!("another process has locked it for {} seconds", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(place)
}

/// Replaces the memory in its locked directory, as the owner of the cache.
fn write(dir: &CacheDir, place: &OwnedFd, all: &HashMap<VerifiedFile, LastVerification>) -> Result<()> {
    let _owner = dir.owner().act()?;
    // This removes what a killed run left.
    let _ = unlinkat(place, NEW, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(place, NEW, flags, Mode::from_raw_mode(0o644))?;
    let written = write_lines(file.into(), all);
    if written.is_err() {
        let _ = unlinkat(place, NEW, AtFlags::empty());
    }
    written?;
    renameat(place, NEW, place, NAME)?;
    Ok(())
}

fn write_lines(file: File, all: &HashMap<VerifiedFile, LastVerification>) -> std::io::Result<()> {
    let mut out = BufWriter::new(file);
    for ((id, mtime), LastVerification { at, is_broken }) in all {
        let result = if *is_broken { "broken" } else { "sound" };
        writeln!(out, "{id} {} {mtime} {result}", at.div_euclid(SECOND))?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::super::entry::Seen;
    use super::super::inventory::{Inventory, Tracking};
    use super::*;

    /// Returns an empty cache, which is removed with the first part.
    fn cache() -> (tempfile::TempDir, CacheDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        (temporary, dir)
    }

    fn image(letter: char, mtime: Nanos) -> Image {
        let id = ImageId::new(format!("00000000-0000-0000-0000-00000000000{letter}").as_bytes()).unwrap();
        let seen = Seen { inode: 1, size: 1, allocated: 0, atime: 0, mtime, ctime: 0, links: 1, owner: 0 };
        Image { id, seen, row: None }
    }

    #[test]
    fn what_is_noted_is_known_to_the_next_run_for_the_same_file_only() {
        let (_temporary, dir) = cache();
        let (a, b, c) = (image('a', 7), image('b', 8), image('c', 9));
        let mut memory = Verified::read(&dir, 300 * SECOND);
        assert!(memory.known.is_empty());
        memory.note(&a, 100 * SECOND, false);
        memory.note(&b, 200 * SECOND, true);
        memory.write(&dir, &[a, b, c], 50 * SECOND, 300 * SECOND).unwrap();
        let next = Verified::read(&dir, 300 * SECOND);
        assert_eq!(next.of(&a), Some(LastVerification { at: 100 * SECOND, is_broken: false }));
        assert!(next.of(&b).unwrap().is_broken);
        assert_eq!(next.of(&c), None);
        assert_eq!(next.of(&image('a', 6)), None, "it was cached again");
        assert_eq!(Inventory::scan(&dir, Tracking::ByRow).unwrap().foreign.len(), 0);
    }

    #[test]
    fn two_runs_add_to_one_memory_and_images_that_are_gone_leave_it() {
        let (_temporary, dir) = cache();
        let (a, b, c) = (image('a', 7), image('b', 8), image('c', 9));
        let now = 200 * SECOND;
        let mut before = Verified::read(&dir, now);
        before.note(&c, 10 * SECOND, false);
        before.write(&dir, &[a, b, c], 0, now).unwrap();
        let (mut one, mut other) = (Verified::read(&dir, now), Verified::read(&dir, now));
        one.note(&a, 100 * SECOND, false);
        other.note(&b, 101 * SECOND, false);
        one.write(&dir, &[a, b], 100 * SECOND, now).unwrap();
        other.write(&dir, &[b], 100 * SECOND, now).unwrap();
        let both = Verified::read(&dir, now);
        assert!(both.of(&a).is_some() && both.of(&b).is_some());
        assert_eq!(both.of(&c), None);
    }

    #[test]
    fn runs_that_write_at_the_same_time_lose_no_verdict() {
        let (_temporary, dir) = cache();
        let images: Vec<Image> = (0..200).map(|n| image('a', n)).collect();
        std::thread::scope(|scope| {
            for part in images.chunks(50) {
                let (dir, images) = (&dir, &images);
                scope.spawn(move || {
                    let mut memory = Verified::read(dir, 200 * SECOND);
                    for image in part {
                        memory.note(image, 100 * SECOND, false);
                        memory.write(dir, images, 100 * SECOND, 200 * SECOND).unwrap();
                    }
                });
            }
        });
        let all = Verified::read(&dir, 200 * SECOND);
        assert_eq!(images.iter().filter(|image| all.of(image).is_none()).count(), 0);
    }

    #[test]
    fn of_two_verdicts_that_of_the_later_run_stays() {
        let (_temporary, dir) = cache();
        let (a, now) = (image('a', 7), 200 * SECOND);
        let (mut earlier, mut later) = (Verified::read(&dir, now), Verified::read(&dir, now));
        earlier.note(&a, 100 * SECOND, false);
        later.note(&a, 110 * SECOND, true);
        for (one, began) in [(&later, 110), (&earlier, 100), (&later, 110)] {
            one.write(&dir, &[a], began * SECOND, now).unwrap();
            assert!(Verified::read(&dir, now).of(&a).unwrap().is_broken);
        }
    }

    #[test]
    fn a_run_that_began_in_the_same_second_is_not_older() {
        let (_temporary, dir) = cache();
        let (a, b) = (image('a', 7), image('b', 8));
        let began = 100 * SECOND + SECOND / 2;
        let mut other = Verified::default();
        other.note(&b, began, false);
        other.write(&dir, &[a, b], began, began).unwrap();
        Verified::default().write(&dir, &[a], began, began).unwrap();
        assert!(Verified::read(&dir, began).of(&b).is_some());
    }

    #[test]
    fn nothing_but_a_file_in_a_directory_of_its_own_is_read_or_written() {
        let (temporary, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let (place, now) = (temporary.path().join(".glance-cache"), 9 * SECOND);
        let text = "00000000-0000-0000-0000-00000000000a 5 7 sound\n";
        let secret = outside.path().join("verified");
        std::fs::write(&secret, text).unwrap();
        let knows = || Verified::read(&dir, now).of(&image('a', 7)).is_some();
        // A link in the place of the directory.
        std::os::unix::fs::symlink(outside.path(), &place).unwrap();
        assert!(!knows() && Verified::default().write(&dir, &[], 0, now).is_err());
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), text);
        std::fs::remove_file(&place).unwrap();
        // A link in the place of the file is replaced.
        std::fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&secret, place.join("verified")).unwrap();
        assert!(!knows());
        Verified::default().write(&dir, &[], 0, now).unwrap();
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), text);
        // A FIFO has no writer: waiting for one would never end.
        std::fs::remove_file(place.join("verified")).unwrap();
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, place.join("verified"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        assert!(!knows());
        std::fs::remove_file(place.join("verified")).unwrap();
        std::fs::write(place.join("verified"), text).unwrap();
        assert!(knows());
    }

    #[test]
    fn a_broken_image_that_is_gone_is_remembered_for_a_while() {
        let (_temporary, dir) = cache();
        let (a, b) = (image('a', 7), image('b', 8));
        let mut memory = Verified::default();
        memory.note(&a, 10 * SECOND, true);
        memory.note(&b, 10 * SECOND, true);
        memory.write(&dir, &[a, b], 0, 20 * SECOND).unwrap();
        let in_90_days = (10 + 7_776_000) * SECOND;
        for (now, broken) in [(in_90_days - 1, 2), (in_90_days, 1)] {
            Verified::read(&dir, now).write(&dir, &[b], now, now).unwrap();
            let tallies: Vec<RunTally> = Verified::read(&dir, now).runs().collect();
            assert_eq!(tallies, [RunTally { examined: broken, broken }], "b is still there");
        }
    }

    #[test]
    fn an_image_that_is_cached_again_and_broken_again_counts_twice() {
        let (_temporary, dir) = cache();
        let (a, again) = (image('a', 7), image('a', 8));
        let mut memory = Verified::default();
        memory.note(&a, 10 * SECOND, true);
        memory.write(&dir, &[a], 0, 20 * SECOND).unwrap();
        let mut next = Verified::read(&dir, 30 * SECOND);
        assert_eq!(next.of(&again), None);
        next.note(&again, 30 * SECOND, true);
        next.write(&dir, &[again], 30 * SECOND, 30 * SECOND).unwrap();
        let tallies: Vec<RunTally> = Verified::read(&dir, 40 * SECOND).runs().collect();
        assert_eq!(tallies, [RunTally { examined: 1, broken: 1 }; 2]);
    }

    #[test]
    fn each_image_counts_for_the_last_run_that_has_read_it() {
        let (a, b, c) = (image('a', 7), image('b', 8), image('c', 9));
        let mut memory = Verified::default();
        let tallies = |memory: &Verified| -> Vec<(u64, u64)> {
            memory.runs().map(|run| (run.broken, run.examined)).filter(|run| *run != (0, 0)).collect()
        };
        memory.note(&a, 10 * SECOND, true);
        memory.note(&b, 10 * SECOND + 5, true);
        memory.note(&c, 20 * SECOND, false);
        assert_eq!(tallies(&memory), [(0, 1), (2, 2)]);
        memory.note(&b, 30 * SECOND, false);
        memory.note(&b, 30 * SECOND, true);
        assert_eq!(tallies(&memory), [(1, 1), (0, 1), (1, 1)]);
        memory.forget(&b);
        memory.forget(&b);
        assert_eq!(tallies(&memory), [(0, 1), (1, 1)]);
    }

    #[test]
    fn times_in_the_future_are_no_verifications() {
        let (_temporary, dir) = cache();
        let (a, b) = (image('a', 7), image('b', 8));
        let mut memory = Verified::default();
        memory.note(&a, 100 * SECOND, false);
        memory.note(&b, 200 * SECOND, true);
        memory.write(&dir, &[a, b], 100 * SECOND, 200 * SECOND).unwrap();
        let earlier = Verified::read(&dir, 200 * SECOND - 1);
        assert!(earlier.of(&a).is_some() && earlier.of(&b).is_none());
        assert_eq!(earlier.runs().count(), 1);
        earlier.write(&dir, &[a, b], 150 * SECOND, 200 * SECOND - 1).unwrap();
        let later = Verified::read(&dir, 900 * SECOND);
        assert!(later.of(&a).is_some() && later.of(&b).is_none(), "they leave the memory");
    }

    #[test]
    fn an_image_whose_verdict_is_withdrawn_leaves_the_memory() {
        let (_temporary, dir) = cache();
        let a = image('a', 7);
        let mut memory = Verified::default();
        memory.note(&a, 10 * SECOND, true);
        memory.write(&dir, &[a], 0, 20 * SECOND).unwrap();
        memory.forget(&a);
        memory.write(&dir, &[a], 0, 20 * SECOND).unwrap();
        assert!(Verified::read(&dir, 20 * SECOND).of(&a).is_none());
        memory.note(&a, 15 * SECOND, false);
        memory.write(&dir, &[a], 0, 20 * SECOND).unwrap();
        assert!(Verified::read(&dir, 20 * SECOND).of(&a).is_some());
    }

    #[test]
    fn a_damaged_memory_knows_less_and_one_that_cannot_be_written_is_an_error() {
        let good = "00000000-0000-0000-0000-00000000000a 5 7 sound";
        assert!(parse(good).is_some());
        for damaged in
            ["", "x 5 7 sound", &good[..40], &good.replace('5', "x"), &format!("{good} more"), "\u{fffd}\0"]
        {
            assert_eq!(parse(damaged), None, "{damaged:?}");
        }
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join(".glance-cache"), "a file").unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let mut memory = Verified::read(&dir, SECOND);
        memory.note(&image('a', 7), SECOND, false);
        assert!(memory.write(&dir, &[], 0, SECOND).is_err());
        assert!(!Verified::is_writable(&dir));
        std::fs::remove_file(temporary.path().join(".glance-cache")).unwrap();
        assert!(Verified::is_writable(&dir) && memory.write(&dir, &[], 0, SECOND).is_ok());
        assert!(Verified::is_writable(&dir));
    }

    #[test]
    fn a_memory_that_another_run_keeps_locked_is_not_waited_for_without_end() {
        let (_temporary, dir) = cache();
        let held = lock(&dir).unwrap();
        let started = Instant::now();
        let error = Verified::default().write(&dir, &[], 0, 0).unwrap_err();
        assert!(started.elapsed() >= PATIENCE, "{:?}", started.elapsed());
        assert!(format!("{error:#}").ends_with("another process has locked it for 5 seconds"), "{error:#}");
        drop(held);
        Verified::default().write(&dir, &[], 0, 0).unwrap();
    }
}
