//! Verify: reads cached images and compares size and digest with Glance's records.
//!
//! Images are read in the order of [`mod@plan`], a few at a time, each by a thread of its own
//! ([`crate::fetch::examine`]). One thread reads the records, decides, and prints. The records are read in
//! portions, shortly before their images, and once more before an image is called broken: hours may lie
//! between the first and the last image.
//!
//! **Nothing is locked while images are read.** A broken image is given to [`BrokenHandler`], which leaves it
//! (`status`) or moves it to `invalid/` (`clean`, in [`mod@mover`]).
//!
//! **Many broken images** are a sign that the disk or the database is at fault. So a run that moves images
//! holds broken ones back until half of what was read is sound, and decides about the rest at its end: if
//! there are many, they all stay ([`plan`]). What earlier runs found counts, also of images that they moved:
//! otherwise runs that read a few images each would empty a cache on a failing disk.
//!
//! The run notes what it has read in the cache directory ([`crate::cache::verified`]), so that the next one
//! goes on from there. Killed, it forgets what it read in the last seconds, but no image that it moved.

pub(crate) mod mover;
mod plan;
mod report;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, Scope, scope};
use std::time::{Duration, Instant};

use anyhow::anyhow;

pub(crate) use self::plan::Budget;
use self::plan::{MANY, are_mostly_broken, order};
use self::report::FaultReport;
pub(crate) use self::report::{BrokenImage, Verification, VerifiedImages};
use crate::cache::dir::{CacheDir, CachePlace, Unreadable};
use crate::cache::entry::Image;
use crate::cache::outcome::{Action, EntryError};
use crate::cache::usable::{Unusable, UnusableImages};
use crate::cache::verified::Verified;
use crate::database::Database;
use crate::database::images::ImageRecord;
use crate::exit::Failure;
use crate::fetch::Meter;
use crate::fetch::digest::Check;
use crate::fetch::examine::{Examination, Fault, Finding, examine};
use crate::fetch::throttle::Throttle;
use crate::names::ImageId;
use crate::output::progress::Downloads;
use crate::run::Run;
use crate::units::Nanos;

/// The time between two updates of the progress bars and checks for signals.
const TICK: Duration = Duration::from_millis(100);
/// The number of images whose records are read at a time.
const PORTION: usize = 100;
/// The time between two writes of the memory.
const REMEMBER: Duration = Duration::from_secs(10);
/// The time between two writes of the memory while images are moved.
const REMEMBER_MOVES: Duration = Duration::from_secs(1);
/// The number of images whose records are read at a time, if the images are not.
const PORTION_UNREAD: usize = 5_000;

/// The hint if so many images are broken that none of them is moved.
pub(super) const MANY_ARE_BROKEN: &str = "check the disk, the memory and the database; then prune --image \
     ID... removes broken images (see Verify, \"Many broken images\")";

/// The options of a verification.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifyRequest {
    /// The number of images to read at a time.
    pub(crate) jobs: usize,
    /// Bytes per second, for all images together.
    pub(crate) rate: Option<u64>,
    pub(crate) budget: Budget,
    /// False in a dry run, and if the time is not the real one: then nothing is remembered.
    pub(crate) remembers: bool,
}

/// The cache that is verified, and Glance's records.
pub(crate) struct VerifiedCache<'a> {
    pub(crate) run: &'a Run,
    pub(crate) dir: &'a CacheDir,
    pub(crate) images: &'a [Image],
    /// Entries that the survey could not look at.
    pub(crate) unreadable: &'a [(CachePlace, Unreadable)],
    pub(crate) records: Database,
}

/// The end of a broken image.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It stays where it is.
    Left,
    /// It is in `invalid/` now.
    Moved,
    /// It would be moved, in a run that changes something.
    WouldMove,
    /// It is not the same file any more.
    Changed,
    /// It should have been moved, and was not.
    NotMoved(String),
}

/// Receives each broken image, at once.
pub(crate) trait BrokenHandler {
    /// True if it moves images. Then a run that doubts its own findings keeps them from it.
    fn moves(&self) -> bool;

    fn handle(&mut self, image: &Image, fault: &Fault) -> Fate;
}

/// Leaves broken images where they are.
impl BrokenHandler for () {
    fn moves(&self) -> bool {
        false
    }

    fn handle(&mut self, _: &Image, _: &Fault) -> Fate {
        Fate::Left
    }
}

/// The outcome of a verification.
pub(crate) struct Verdicts {
    pub(crate) report: Verification,
    pub(crate) memory: Verified,
    pub(crate) records: Database,
    /// The positions of images whose records are deleted.
    pub(crate) deleted: Vec<u32>,
}

/// Reads the images of a cache and compares them with their records.
pub(crate) fn verify<'a>(
    cache: VerifiedCache<'a>,
    request: &'a VerifyRequest,
    handler: &'a mut dyn BrokenHandler,
) -> Result<Verdicts, Failure> {
    let memory = Verified::read(cache.dir, cache.run.now);
    let order = order(cache.images, &memory, handler.moves()).into();
    let mut verifying = Verifying {
        cache,
        request,
        handler,
        memory,
        order,
        portion: VecDeque::new(),
        running: HashMap::new(),
        held: Vec::new(),
        spent: 0,
        is_over: false,
        unusable: UnusableImages::default(),
        report: Verification::default(),
        deleted: Vec::new(),
        started: Instant::now(),
        remembered: None,
        cannot_remember: false,
    };
    verifying.not_looked_at();
    // A database that does not answer ends a run that has not read anything.
    verifying.read_records().map_err(|refusal| Failure::cannot_start(refusal.into_error()))?;
    verifying.work();
    Ok(verifying.end())
}

/// Fails if this user cannot read the images without changing their access times.
pub(super) fn require_owner(dir: &CacheDir) -> Result<(), Failure> {
    let (user, owner) = (rustix::process::geteuid(), dir.owner().uid);
    if user.is_root() || user.as_raw() == owner {
        return Ok(());
    }
    let path = dir.path().display();
    Err(Failure::cannot_start(anyhow!(
        "cannot read the images of {path} without changing their access times: they belong to user {owner}"
    ))
    .hint("run as the user that glance-api runs as"))
}

/// Returns the summary of what is remembered of these images; `None` if it is nothing.
pub(super) fn verified_images(images: &[Image], memory: &Verified) -> Option<VerifiedImages> {
    let mut found: Option<VerifiedImages> = None;
    for image in images {
        let Some(verification) = memory.of(image) else { continue };
        let at = verification.at;
        let summary = found.get_or_insert_with(|| VerifiedImages {
            count: 0,
            bytes: 0,
            oldest: at,
            newest: at,
            broken: Vec::new(),
            are_mostly_broken: are_mostly_broken(memory.runs(), MANY),
        });
        summary.count += 1;
        summary.bytes = summary.bytes.saturating_add(image.seen.size);
        (summary.oldest, summary.newest) = (summary.oldest.min(at), summary.newest.max(at));
        if verification.is_broken {
            summary.broken.push(image.id.to_string());
        }
    }
    if let Some(summary) = &mut found {
        summary.broken.sort_unstable();
    }
    found
}

/// An image that is being read.
struct ImageReading {
    record: ImageRecord,
    meter: Arc<Meter>,
    /// Bytes that will be read of it, if it is read once.
    expected: u64,
}

/// A broken image that is not decided about yet.
struct HeldBrokenImage {
    image: Image,
    record: ImageRecord,
    fault: Fault,
}

/// A verification, as the deciding thread sees it.
struct Verifying<'a> {
    cache: VerifiedCache<'a>,
    request: &'a VerifyRequest,
    handler: &'a mut dyn BrokenHandler,
    memory: Verified,
    /// The positions of images whose records were not read yet.
    order: VecDeque<u32>,
    /// Images with their records, which come next.
    portion: VecDeque<(u32, Option<ImageRecord>)>,
    running: HashMap<u32, ImageReading>,
    held: Vec<HeldBrokenImage>,
    /// Bytes that were read, and those that are still to be read of the images that were begun. The second
    /// reading of an image counts once it is made.
    spent: u64,
    /// True once no further image is begun.
    is_over: bool,
    unusable: UnusableImages,
    report: Verification,
    deleted: Vec<u32>,
    started: Instant,
    /// The last write of the memory; `None` if there was none.
    remembered: Option<Instant>,
    /// True after a write of the memory that failed.
    cannot_remember: bool,
}

/// The place to which reading threads send what they found.
type Findings = Sender<(u32, Finding)>;

impl<'a> Verifying<'a> {
    /// Reads images until all are read, the budget is spent, or a signal comes.
    fn work(&mut self) {
        let (run, images) = (self.cache.run, self.cache.images);
        let throttle = Throttle::new(run.interrupt.clone(), self.request.rate);
        let all = || images.iter().map(|image| image.seen.size).fold(0, u64::saturating_add);
        let total = || self.request.budget.bytes.map_or_else(all, |bytes| bytes.min(all()));
        let mut bars = Downloads::new(&run.output, total);
        scope(|scope| {
            let (sender, found) = channel();
            loop {
                while self.running.len() < self.request.jobs {
                    let Some((position, job)) = self.next(&throttle) else { break };
                    let meter = &self.running[&position].meter;
                    bars.begin(job.image.id, job.image.seen.size, meter);
                    self.start(scope, position, job, sender.clone());
                }
                if self.running.is_empty() {
                    break;
                }
                match found.recv_timeout(TICK) {
                    Ok((position, finding)) => {
                        bars.end(images[position as usize].id);
                        self.finish(position, finding);
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                bars.tick();
                if run.interrupt.raised() {
                    bars.give_back_terminal();
                }
                if self.remembered.unwrap_or(self.started).elapsed() >= REMEMBER {
                    self.remember();
                }
            }
        });
    }

    /// Starts the thread that reads an image.
    fn start<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        position: u32,
        job: Examination<'scope>,
        sender: Findings,
    ) {
        let meter = Arc::clone(&self.running[&position].meter);
        let read = move || {
            // A panic becomes an error, so that the run does not wait for this image for ever.
            let found = catch_unwind(AssertUnwindSafe(|| examine(&job, &meter)));
            let bug = || Finding::Failed(anyhow!("the reading was aborted by a bug in this program"));
            let _ = sender.send((position, found.unwrap_or_else(|_| bug())));
        };
        if let Err(e) = Builder::new().spawn_scoped(scope, read) {
            self.finish(position, Finding::Failed(anyhow!(e).context("cannot start a thread")));
        }
    }

    /// Reads the records of the next images.
    fn read_records(&mut self) -> Result<(), crate::database::refusal::Refusal> {
        let positions: Vec<u32> = self.order.drain(..PORTION.min(self.order.len())).collect();
        let ids: Vec<_> = positions.iter().map(|position| self.cache.images[*position as usize].id).collect();
        match self.cache.records.records(&ids) {
            Ok(records) => {
                self.portion.extend(positions.into_iter().zip(records));
                Ok(())
            }
            Err(refusal) => {
                for position in positions.into_iter().rev() {
                    self.order.push_front(position);
                }
                Err(refusal)
            }
        }
    }

    /// Returns the next image to read. Images that are not read are counted on the way.
    fn next<'t>(&mut self, throttle: &'t Throttle) -> Option<(u32, Examination<'t>)>
    where
        'a: 't,
    {
        loop {
            if self.is_over || self.cache.run.interrupt.raised() {
                return None;
            }
            if self.portion.is_empty() {
                if self.order.is_empty() {
                    return None;
                }
                if let Err(refusal) = self.read_records() {
                    self.is_over = true;
                    let message =
                        format!("{:#}; the other images are left to a later run", refusal.into_error());
                    self.error("database", Action::Verify, message);
                    return None;
                }
            }
            let (position, record) = self.portion.front()?;
            let (position, image) = (*position, self.cache.images[*position as usize]);
            let is_read =
                record.as_ref().is_some_and(|record| Unusable::of(Some(record)) != Some(Unusable::Deleted));
            if is_read && !self.request.budget.admits(image.seen.size, self.spent, self.started.elapsed()) {
                self.is_over = true;
                return None;
            }
            let (_, record) = self.portion.pop_front()?;
            self.unusable.add(image.id, record.as_ref());
            match record {
                None => self.report.missing.add(image.seen.size),
                Some(_) if !is_read => {
                    self.report.deleted.add(image.seen.size);
                    self.deleted.push(position);
                }
                Some(record) => return Some((position, self.begin(position, image, record, throttle))),
            }
        }
    }

    fn begin<'t>(
        &mut self,
        position: u32,
        image: Image,
        record: ImageRecord,
        throttle: &'t Throttle,
    ) -> Examination<'t>
    where
        'a: 't,
    {
        let check = Check::credible(&record);
        let expected = if check.is_some() { image.seen.size } else { 0 };
        self.spent = self.spent.saturating_add(expected);
        let job = Examination { dir: self.cache.dir, image, size: record.size, check, throttle };
        let meter = Arc::new(Meter::default());
        meter.size.store(image.seen.size, Ordering::Relaxed);
        self.running.insert(position, ImageReading { record, meter, expected });
        job
    }

    /// Notes what was found in an image.
    fn finish(&mut self, position: u32, finding: Finding) {
        let Some(ImageReading { record, meter, expected }) = self.running.remove(&position) else { return };
        let image = self.cache.images[position as usize];
        let bytes = image.seen.size;
        let read = meter.moved.load(Ordering::Relaxed);
        self.report.bytes_read += read;
        self.spent = self.spent.saturating_sub(expected).saturating_add(read);
        match finding {
            Finding::Sound => {
                self.report.sound.add(bytes);
                self.memory.note(&image, self.cache.run.now, false);
                self.decide();
            }
            Finding::Unverifiable => self.report.unverifiable.add(bytes),
            Finding::Broken(fault) => {
                self.memory.note(&image, self.cache.run.now, true);
                self.held.push(HeldBrokenImage { image, record, fault });
                self.decide();
            }
            Finding::Changed => self.report.changed += 1,
            Finding::Failed(e) => {
                self.report.failed.add(bytes);
                self.error(image.id.as_str(), Action::Verify, format!("{e:#}"));
            }
            Finding::Interrupted => self.report.left.add(bytes),
        }
    }

    /// Notes the images that the survey could not look at.
    fn not_looked_at(&mut self) {
        for (place, (name, errno)) in self.cache.unreadable {
            if let (CachePlace::Base, Some(id)) = (place, ImageId::new(name.as_name().as_bytes())) {
                self.report.failed.add(0);
                self.error(id.as_str(), Action::Verify, format!("cannot look at it: {errno}"));
            }
        }
    }

    /// Decides about the images that are held back, unless more than half of the images are broken so far.
    fn decide(&mut self) {
        let waits = self.handler.moves() && are_mostly_broken(self.memory.runs(), 1);
        if !self.held.is_empty() && !waits {
            self.settle();
        }
    }

    /// Gives the images that are held back to the handler.
    fn settle(&mut self) {
        // A run that is killed and started again and again must know what it has moved.
        let is_recent = self.remembered.is_some_and(|written| written.elapsed() < REMEMBER_MOVES);
        if self.handler.moves() && !is_recent {
            self.remember();
        }
        for held in std::mem::take(&mut self.held) {
            let fate = self.fate(&held);
            self.note_broken(&held, &fate);
        }
    }

    /// Looks at the record of a broken image again, and gives it to the handler.
    fn fate(&mut self, held: &HeldBrokenImage) -> Fate {
        let content = |record: &ImageRecord| {
            let ImageRecord { size, checksum, os_hash_algo, os_hash_value, .. } = record.clone();
            (size, checksum, os_hash_algo, os_hash_value)
        };
        match self.cache.records.records(&[held.image.id]) {
            Ok(now) if now[0].as_ref().map(content) != Some(content(&held.record)) => Fate::Changed,
            Ok(_) => self.handler.handle(&held.image, &held.fault),
            Err(refusal) => Fate::NotMoved(format!("{:#}", refusal.into_error())),
        }
    }

    /// Notes the end of a broken image.
    fn note_broken(&mut self, held: &HeldBrokenImage, fate: &Fate) {
        let HeldBrokenImage { image, fault, .. } = held;
        match fate {
            Fate::Changed => {
                self.memory.forget(image);
                self.report.changed += 1;
                return;
            }
            Fate::NotMoved(why) => {
                self.error(image.id.as_str(), Action::Move, format!("{fault}; it stays: {why}"));
            }
            Fate::Left | Fate::Moved | Fate::WouldMove => {}
        }
        let (image_id, size) = (image.id.to_string(), image.seen.size);
        let (moved, would_move) = (matches!(fate, Fate::Moved), matches!(fate, Fate::WouldMove));
        let fault = FaultReport::of(fault);
        self.report.broken.push(BrokenImage { image_id, size, fault, moved, would_move });
    }

    fn error(&mut self, name: &str, action: Action, message: String) {
        self.report.errors.push(EntryError { name: name.to_owned(), action, message });
    }

    /// Writes the memory. Warns once if it cannot be written.
    fn remember(&mut self) {
        if !self.request.remembers {
            return;
        }
        self.remembered = Some(Instant::now());
        let (run, dir, images) = (self.cache.run, self.cache.dir, self.cache.images);
        let now = run.now.saturating_add(self.started.elapsed().as_nanos() as Nanos);
        let Err(e) = self.memory.write(dir, images, run.now, now) else { return };
        if !std::mem::replace(&mut self.cannot_remember, true) {
            run.output.warning(&format!(
                "{e:#}; each run begins anew: it reads the same images first, and does not know how many \
                 were broken before"
            ));
        }
    }

    /// Decides about the images that are still held back.
    fn decide_at_the_end(&mut self) {
        if self.held.is_empty() {
            return;
        }
        self.remember();
        // A run that remembers nothing foresees what another one would do.
        if self.handler.moves() && !self.request.remembers && !Verified::is_writable(self.cache.dir) {
            self.cannot_remember = true;
        }
        // Without a memory, each run could move a few images, until none is left.
        let (many, why) = if self.cannot_remember {
            (1, "more than half of the images are broken, and it is not known how many were in earlier runs")
        } else {
            (MANY, "10 or more images are broken, counting those of earlier runs")
        };
        let is_interrupted = self.cache.run.interrupt.raised();
        if !is_interrupted && !are_mostly_broken(self.memory.runs(), many) {
            return self.settle();
        }
        self.report.hint = (!is_interrupted).then_some(MANY_ARE_BROKEN);
        for held in std::mem::take(&mut self.held) {
            let fate = if is_interrupted { Fate::Left } else { Fate::NotMoved(why.to_owned()) };
            self.note_broken(&held, &fate);
        }
    }

    /// Notes the images that were not read. A run that moves broken images should have moved those that are
    /// known to be broken: each of them is an error.
    fn note_left(&mut self) {
        let images = self.cache.images;
        let rest = self.portion.iter().map(|(position, _)| position).chain(&self.order);
        let left: Vec<Image> = rest.map(|position| images[*position as usize]).collect();
        let reports = self.handler.moves() && !self.cache.run.interrupt.raised();
        for image in left {
            self.report.left.add(image.seen.size);
            if reports && self.memory.of(&image).is_some_and(|verification| verification.is_broken) {
                let message = "an earlier run found it broken; it stays, as this run has not read it";
                self.error(image.id.as_str(), Action::Verify, message.to_owned());
            }
        }
    }

    /// Warns if the database is probably that of another Glance. Then no image is removed because of its
    /// record. The share is that of all images, also in a run that has read few of them.
    fn doubt(&mut self) {
        if self.deleted.is_empty() && self.report.missing.count == 0 {
            return;
        }
        let ids: Vec<ImageId> =
            self.order.iter().map(|position| self.cache.images[*position as usize].id).collect();
        for (position, record) in &self.portion {
            self.unusable.add(self.cache.images[*position as usize].id, record.as_ref());
        }
        for ids in ids.chunks(PORTION_UNREAD) {
            let records = match self.cache.records.records(ids) {
                Ok(records) if !self.cache.run.interrupt.raised() => records,
                // It is not known which images are deleted. The next run finds out.
                _ => return self.deleted.clear(),
            };
            for (id, record) in ids.iter().zip(&records) {
                self.unusable.add(*id, record.as_ref());
            }
        }
        if let Some(doubt) = self.unusable.doubt() {
            self.cache.run.output.warning(&doubt);
            self.deleted.clear();
        }
    }

    fn end(mut self) -> Verdicts {
        self.decide_at_the_end();
        self.remember();
        self.note_left();
        self.doubt();
        self.report.duration = self.started.elapsed();
        self.report.is_interrupted = self.cache.run.interrupt.raised();
        self.report.broken.sort_by(|a, b| a.image_id.cmp(&b.image_id));
        let VerifiedCache { records, .. } = self.cache;
        Verdicts { report: self.report, memory: self.memory, records, deleted: self.deleted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Patience;
    use crate::database::opening::{Opening, Purpose};
    use crate::database::url::Address;
    use crate::names::NameBuf;
    use crate::output::{Format, Output, Verbosity};

    #[test]
    fn an_image_that_could_not_be_looked_at_is_an_error() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("glance.sqlite");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE images (id VARCHAR(36))").unwrap();
        let run = Run::new("a test", Output::new(Format::Json, Verbosity::Quiet));
        let address = Address::parse(&format!("sqlite:///{}", path.display())).unwrap();
        let patience = Patience { limit: Duration::ZERO, retries: None, interval: Duration::ZERO };
        let wait = run.wait(Duration::from_secs(1));
        // A file that another test opens at the same moment looks like one that replaces the database.
        let open = || Database::open(address.clone(), patience, Purpose::Look, &wait);
        let opened = (0..1000).map(|_| open()).find(Result::is_ok);
        let Some(Ok(Opening::Open(records))) = opened else { panic!("the database cannot be opened") };
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let image = "00000000-0000-0000-0000-00000000000a";
        let unreadable = [
            (CachePlace::Base, (NameBuf::new(image.as_bytes()).unwrap(), rustix::io::Errno::IO)),
            (CachePlace::Base, (NameBuf::new(b"README").unwrap(), rustix::io::Errno::IO)),
            (CachePlace::Queue, (NameBuf::new(image.as_bytes()).unwrap(), rustix::io::Errno::IO)),
        ];
        let request = VerifyRequest { jobs: 1, rate: None, budget: Budget::default(), remembers: false };
        let cache = VerifiedCache { run: &run, dir: &dir, images: &[], unreadable: &unreadable, records };
        let report = verify(cache, &request, &mut ()).map(|verdicts| verdicts.report).unwrap();
        assert_eq!((report.failed.count, report.errors.len()), (1, 1));
        let message = report.errors[0].to_string();
        assert!(message.contains(image) && message.contains("cannot look at it"), "{message}");
    }
}
