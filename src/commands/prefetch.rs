//! `prefetch`: fetches images into the cache, from the queue or by name.
//!
//! One thread decides, publishes and speaks; it alone has the index, the database and the queue. Each image is fetched and
//! verified by a thread of its own, so many at a time as `--jobs` says, and comes back as a staged file.
//!
//! **Publishing an image**, under prune's lock: its claim is looked at again, its row recorded and committed, its file given its
//! name, its entry taken from the queue, its claim released. Killed in between, what is left is a ghost or a dead claim.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use super::clean::refuse_strange;
use super::prune::removals;
use super::{
    Cache, Context, Opened, Selection, Settings, misplaced, parse_line, take_lock, take_stock, tell, wait,
};
use crate::cache::dir::{CacheDir, available, capacity, seen};
use crate::cache::entry::{Image, ImageId, Nanos, Row};
use crate::cache::execute::{EntryError, Executor, Pace as IndexPace};
use crate::cache::index::central::{Database, Record};
use crate::cache::index::sqlite::Purpose;
use crate::cache::index::{Claim as RowClaim, Driver, Refusal, Target, Wait};
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{self, LockDir};
use crate::cache::plan::{self, CleanPlan, PruneLimits, PrunePlan};
use crate::cache::queue::{self, Enqueued, Memory, Queue};
use crate::cache::stage::{self, Claim, Claiming, Publication, Staged};
use crate::cli::{Amount, ChangeArgs, PrefetchArgs, Wanted};
use crate::exit::{Exit, Failure};
use crate::fetch::digest::{Check, fingerprint};
use crate::fetch::judge::{Room, Space, Verdict, Wish, judge, room, unverifiable};
use crate::fetch::pace::Pace;
use crate::fetch::{Attempt, Failed, Fetched, Job, Meter, fetch};
use crate::interrupt::signal_name;
use crate::output::progress::Downloads;
use crate::output::report::{ImageOutcome, ImageReport, PlanEntry, PrefetchReport, human};
use crate::output::stdin;
use crate::source::{Refused, Source, Stores, Waits};

/// How often bars move and signals are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How often claims are touched: far less than any sensible stall time.
const TOUCH: Duration = Duration::from_secs(10);
/// More than a million ids: what is longer is no list of images.
const LONGEST_LIST: u64 = 64 << 20;

/// What a prefetch was asked for, besides the cache.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// `None` is what is in the queue.
    pub(crate) images: Option<Vec<ImageId>>,
    pub(crate) jobs: usize,
    /// Bytes per second.
    pub(crate) rate: Option<u64>,
    pub(crate) reserve: Amount,
    pub(crate) max_size: Option<Amount>,
    pub(crate) limit: Limit,
    pub(crate) wish: Wish,
    pub(crate) stall_time: Option<crate::cli::Duration>,
}

impl Default for Wishes {
    fn default() -> Self {
        Wishes {
            images: None,
            jobs: 2,
            rate: None,
            reserve: Amount::Bytes(16 << 20),
            max_size: None,
            limit: Limit::Ignored,
            wish: Wish::default(),
            stall_time: None,
        }
    }
}

/// What the cache's limit means for a prefetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// It is prune's business.
    Ignored,
    /// What does not fit is not fetched.
    Kept,
    /// What does not fit has room made for it.
    MadeRoom,
}

/// Prefetches, as the command line says.
pub(crate) fn run(context: &Context, args: PrefetchArgs) -> Result<Exit, Failure> {
    let settings = Settings::load(context, Selection::from(args.cache))?;
    let images = wanted(&args.images)?;
    if args.enqueue {
        return enqueue(context, &settings, &args.change, &images.unwrap_or_default());
    }
    let rate = match args.rate_limit {
        Some(Amount::Percent(_) | Amount::Bytes(0)) => {
            return Err(Failure::usage(anyhow!(
                "--rate-limit takes a size of at least one byte, for a second"
            )));
        }
        Some(Amount::Bytes(bytes)) => Some(bytes),
        None => None,
    };
    let limit = match (args.within_limit, args.make_room) {
        (_, true) => Limit::MadeRoom,
        (true, _) => Limit::Kept,
        _ => Limit::Ignored,
    };
    let wishes = Wishes {
        images,
        jobs: args.jobs.into(),
        rate,
        reserve: args.reserve,
        max_size: args.limit.max_size,
        limit,
        wish: Wish { retry: args.retry, require_checksum: args.require_checksum },
        stall_time: args.stall_time,
    };
    prefetch(context, &settings, &args.change, &wishes)
}

/// The images that were named, each once, in order; `None` when none were.
fn wanted(given: &[Wanted]) -> Result<Option<Vec<ImageId>>, Failure> {
    let mut images = Vec::new();
    for wanted in given {
        match wanted {
            Wanted::Image(id) => images.push(*id),
            Wanted::Stdin => read_ids(&mut images).map_err(Failure::usage)?,
        }
    }
    let mut known = HashSet::new();
    images.retain(|id| known.insert(*id));
    Ok((!given.is_empty()).then_some(images))
}

fn read_ids(images: &mut Vec<ImageId>) -> anyhow::Result<()> {
    let mut text = String::new();
    let shown = "cannot read the images to fetch from standard input";
    let length = stdin().take(LONGEST_LIST + 1).read_to_string(&mut text).context(shown)?;
    anyhow::ensure!(length as u64 <= LONGEST_LIST, "{shown}: it is longer than {}", human(LONGEST_LIST));
    for (number, line) in text.lines().enumerate() {
        let id = line.split('#').next().unwrap_or("").trim();
        if !id.is_empty() {
            images.push(parse_line(id, &format_args!("standard input:{}", number + 1))?);
        }
    }
    Ok(())
}

/// Puts images into the queue and does nothing else.
fn enqueue(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    images: &[ImageId],
) -> Result<Exit, Failure> {
    let dir = existing(settings)?;
    context.start()?;
    let mut report = PrefetchReport::default();
    report.run.dry_run = change.dry_run;
    for id in images {
        let added = if change.dry_run { queue::would_add(&dir, *id) } else { queue::add(&dir, *id) };
        let (outcome, message) = match added {
            Ok(Enqueued::Queued) => (ImageOutcome::Enqueued, None),
            Ok(Enqueued::AlreadyQueued) => (ImageOutcome::Enqueued, Some("it was queued already".to_owned())),
            Ok(Enqueued::Cached) => (ImageOutcome::Cached, None),
            Ok(Enqueued::BeingCached) => (ImageOutcome::LeftToGlance, None),
            Err(e) => (ImageOutcome::Failed, Some(format!("{e:#}"))),
        };
        if let (ImageOutcome::Failed, Some(message)) = (outcome, &message) {
            context.output.error(&format!("image {id}: {message}"));
            let (name, message) = (id.to_string(), message.clone());
            report.run.errors.push(EntryError { name, action: "enqueue", message });
        }
        let queued = outcome == ImageOutcome::Enqueued;
        report.still_queued += u64::from(queued);
        let image_id = id.to_string();
        let image =
            ImageReport { image_id, outcome, bytes: 0, location: None, verified_by: None, message, queued };
        report.images.push(image);
    }
    let exit = exit_code(&report);
    tell(context, &mut report, |report| &mut report.run, Ok(exit))
}

/// Opens a cache that images are to be put into: where there is none, that cannot be.
fn existing(settings: &Settings) -> Result<CacheDir, Failure> {
    let dir = match settings.open()? {
        Opened::Cache(dir) => dir,
        Opened::Nothing(why) => {
            return Err(Failure::cannot_start(anyhow!(why)).hint("glance-api makes it when it starts"));
        }
    };
    refuse_strange(settings, &dir)?;
    if dir.fd(crate::cache::dir::Place::Incomplete).is_none() {
        return Err(Failure::cannot_start(anyhow!("{} has no directory incomplete/", dir.path().display()))
            .hint("glance-api makes it when it starts"));
    }
    Ok(dir)
}

pub(crate) fn prefetch(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    wishes: &Wishes,
) -> Result<Exit, Failure> {
    let mut report = PrefetchReport::default();
    report.run.dry_run = change.dry_run;
    let ended = attempt(context, settings, change, wishes, &mut report);
    tell(context, &mut report, |report| &mut report.run, ended)
}

/// Prefetches, and fills in the report, which is told whenever this ends without a failure.
fn attempt(
    context: &Context,
    settings: &Settings,
    change: &ChangeArgs,
    wishes: &Wishes,
    report: &mut PrefetchReport,
) -> Result<Exit, Failure> {
    context.start()?;
    if wishes.images.is_none() && nothing_to_do(context, settings)? {
        return Ok(Exit::Done);
    }
    let dir = existing(settings)?;
    let wait = wait(context, change);
    let locks = settings.lock_dir(&dir, &context.output)?;
    let lock = if change.dry_run {
        None
    } else {
        let locked = take_lock(context, &dir, &locks, lock::PREFETCH, &wait, change.skip_if_locked)?;
        match locked.or_end(context, &mut report.run) {
            Ok(lock) => lock,
            Err(exit) => return Ok(exit),
        }
    };
    let pending = requests(context, &dir, wishes)?;
    let session = if pending.is_empty() {
        None
    } else {
        Some(Session::open(context, settings, &dir, locks, wait, wishes, report)?)
    };
    if lock.is_some() {
        // Now nothing keeps it from starting.
        stage::sweep(&dir);
    }
    let Some(session) = session else { return Ok(Exit::Done) };
    let mut session = Session { pending, ..session };
    if change.dry_run {
        session.dry_run();
    } else {
        session.work();
    }
    session.sum_up();
    if let Some(signal) = context.interrupt.signal() {
        report.run.signal = Some(signal_name(signal));
        return Ok(Exit::Signal(signal));
    }
    Ok(exit_code(report))
}

/// Whether there is nothing in the queue, and nothing left by a dead run: then no lock, index or database is asked for.
fn nothing_to_do(context: &Context, settings: &Settings) -> Result<bool, Failure> {
    match settings.open()? {
        Opened::Nothing(why) => {
            context.output.note(&why);
            Ok(true)
        }
        Opened::Cache(dir) => {
            refuse_strange(settings, &dir)?;
            let queue = Queue::read(&dir).map_err(Failure::cannot_start)?;
            Ok(queue.images.is_empty() && queue.foreign.is_empty() && stage::leftovers(&dir).is_empty())
        }
    }
}

fn exit_code(report: &PrefetchReport) -> Exit {
    if report.run.errors.is_empty() { Exit::Done } else { Exit::Incomplete }
}

/// An image that was asked for.
#[derive(Clone, Debug)]
struct Request {
    id: ImageId,
    /// Whether it is in the queue.
    queued: bool,
    memory: Option<Memory>,
}

/// What is to be fetched, in order. Names in the queue that are no image's are told, and left.
fn requests(context: &Context, dir: &CacheDir, wishes: &Wishes) -> Result<VecDeque<Request>, Failure> {
    let queue = Queue::read(dir).map_err(Failure::cannot_start)?;
    let entry = |entry: queue::Queued| Request { id: entry.id, queued: true, memory: entry.memory };
    let Some(images) = &wishes.images else {
        for name in &queue.foreign {
            context.output.warning(&format!("queue/{name} is no image's entry, and is left alone"));
        }
        return Ok(queue.images.into_iter().map(entry).collect());
    };
    let mut known: HashMap<ImageId, Request> =
        queue.images.into_iter().map(|found| (found.id, entry(found))).collect();
    // Who names an image wants it tried, whatever happened before.
    let named = |id: &ImageId| match known.remove(id) {
        Some(request) => Request { memory: None, ..request },
        None => Request { id: *id, queued: false, memory: None },
    };
    Ok(images.iter().map(named).collect())
}

/// An image that is being fetched.
struct Running {
    request: Request,
    claim: Claim,
    meter: Arc<Meter>,
    /// Bytes, where they are known.
    size: Option<u64>,
    check: Option<Check>,
    fingerprint: String,
}

impl Running {
    /// Bytes that it will still take.
    fn to_come(&self) -> u64 {
        let moved = self.meter.moved.load(std::sync::atomic::Ordering::Relaxed);
        self.size.unwrap_or(0).saturating_sub(moved)
    }
}

/// How it ended with an image.
struct Ending {
    outcome: ImageOutcome,
    bytes: u64,
    location: Option<String>,
    verified_by: Option<String>,
    /// Why it ended so, where that is worth telling.
    message: Option<String>,
}

impl Ending {
    fn new(outcome: ImageOutcome, bytes: u64, why: impl Into<String>) -> Self {
        Ending { outcome, bytes, location: None, verified_by: None, message: Some(why.into()) }
    }

    fn cached() -> Self {
        Ending::new(ImageOutcome::Cached, 0, "it is in the cache already")
    }

    fn fetched(bytes: u64, location: String, verified_by: Option<String>) -> Self {
        let outcome = ImageOutcome::Fetched;
        Ending { outcome, bytes, location: Some(location), verified_by, message: None }
    }
}

/// One run, seen from the thread that decides.
struct Session<'a> {
    context: &'a Context,
    dir: &'a CacheDir,
    locks: LockDir,
    wait: Wait,
    cache: Cache,
    records: Database,
    stores: Stores,
    wishes: &'a Wishes,
    /// Bytes that the cache may hold.
    max_size: u64,
    /// Bytes of the file system to be left free.
    reserve: u64,
    stalled_before: Nanos,
    /// Bytes that the cache holds.
    cached: u64,
    /// Rows whose files are missing: one of an image that is fetched makes room for its new row.
    ghosts: HashMap<ImageId, Row>,
    pending: VecDeque<Request>,
    running: HashMap<ImageId, Running>,
    /// What was fetched, or was wanted and is there: not to go for other images.
    held: HashSet<ImageId>,
    /// What was warned of already.
    warned: HashSet<String>,
    /// Bytes that a dry run would have fetched.
    foreseen: u64,
    /// What a dry run would have removed to make room.
    doomed: Vec<PlanEntry>,
    report: &'a mut PrefetchReport,
}

impl<'a> Session<'a> {
    fn open(
        context: &'a Context,
        settings: &'a Settings,
        dir: &'a CacheDir,
        locks: LockDir,
        wait: Wait,
        wishes: &'a Wishes,
        report: &'a mut PrefetchReport,
    ) -> Result<Self, Failure> {
        let max_size = settings.max_size(wishes.max_size, dir)?.value;
        let whole = capacity(&dir.statvfs().map_err(Failure::cannot_start)?);
        let stall_time = settings.stall_time(wishes.stall_time)?.value;
        let cache = stock(context, settings, dir, &wait, report.run.dry_run)?;
        // The database before any thread is started: SQLite's descriptors are told apart by being new.
        let records = settings.central.open_records(&settings.config, &wait)?;
        let waits = Waits::new(context.interrupt.clone());
        let stores = Stores::from_config(&settings.config, waits).map_err(Failure::usage)?;
        Ok(Session {
            context,
            dir,
            locks,
            wait,
            records,
            stores,
            wishes,
            max_size,
            reserve: wishes.reserve.of(whole),
            stalled_before: context.now.saturating_sub(stall_time),
            cached: cache.inventory.size(),
            ghosts: cache.inventory.ghosts.iter().map(|ghost| (ghost.id, ghost.row)).collect(),
            cache,
            pending: VecDeque::new(),
            running: HashMap::new(),
            held: HashSet::new(),
            warned: HashSet::new(),
            foreseen: 0,
            doomed: Vec::new(),
            report,
        })
    }

    /// Fetches everything there is to fetch, or as much as a signal allows.
    fn work(&mut self) {
        let pace = Pace::new(self.context.interrupt.clone(), self.wishes.rate);
        let ids: Vec<ImageId> = self.pending.iter().map(|request| request.id).collect();
        let total = || self.records.sizes(&ids).unwrap_or(0);
        let mut bars = Downloads::new(&self.context.output, total);
        let mut touched = Instant::now();
        scope(|scope| {
            let (tell, told) = channel();
            loop {
                while self.running.len() < self.wishes.jobs && !self.context.interrupt.raised() {
                    let Some(request) = self.pending.pop_front() else { break };
                    let Some((job, meter)) = self.begin(request, &pace) else { continue };
                    bars.begin(job.id, job.size.unwrap_or(0), &meter);
                    let tell = tell.clone();
                    let id = job.id;
                    let fetch = move || drop(tell.send((id, fetch_unwinding(&job, &meter))));
                    if let Err(e) = Builder::new().spawn_scoped(scope, fetch) {
                        bars.end(id);
                        self.finish(id, Err(Failed::Here(anyhow!(e).context("cannot start a thread"))), &[]);
                    }
                }
                if self.running.is_empty() {
                    break;
                }
                match told.recv_timeout(TICK) {
                    Ok((id, (result, attempts))) => {
                        bars.end(id);
                        self.finish(id, result, &attempts);
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                bars.tick();
                if touched.elapsed() > TOUCH {
                    self.running.values().for_each(|running| running.claim.touch());
                    touched = Instant::now();
                }
            }
        });
        for request in std::mem::take(&mut self.pending) {
            self.end(&request, Ending::new(ImageOutcome::Pending, 0, "a signal came first"));
        }
    }

    /// Makes the job of fetching an image, if that is to be done; otherwise notes why not.
    fn begin<'s>(&mut self, request: Request, pace: &'s Pace) -> Option<(Job<'s>, Arc<Meter>)>
    where
        'a: 's,
    {
        match self.admit(&request) {
            Ok((record, check, claim)) => Some(self.job(request, &record, check, claim, pace)),
            Err(ending) => {
                self.end(&request, ending);
                None
            }
        }
    }

    /// Judges an image, claims it and makes sure that it fits.
    fn admit(&mut self, request: &Request) -> Result<(Record, Option<Check>, Claim), Ending> {
        let (record, check) = self.examine(request)?;
        let size = record.size.unwrap_or(0);
        let claim = match Claim::make(self.dir, request.id, self.stalled_before) {
            Ok(Claiming::Ours(claim)) => claim,
            Ok(Claiming::Cached) => return Err(Ending::cached()),
            Ok(Claiming::Left(why)) => return Err(Ending::new(ImageOutcome::LeftToGlance, size, why)),
            Err(e) => return Err(Ending::new(ImageOutcome::Failed, size, format!("{e:#}"))),
        };
        self.find_room(record.size).map_err(|why| Ending::new(ImageOutcome::Refused, size, why))?;
        Ok((record, check, claim))
    }

    fn job<'s>(
        &mut self,
        request: Request,
        record: &Record,
        check: Option<Check>,
        claim: Claim,
        pace: &'s Pace,
    ) -> (Job<'s>, Arc<Meter>)
    where
        'a: 's,
    {
        let meter = Arc::new(Meter::default());
        let job = Job {
            id: request.id,
            dir: self.dir,
            sources: self.sources(record),
            size: record.size,
            check: check.clone(),
            reserve: self.reserve,
            attributes: self.cache.driver == Some(Driver::Xattr),
            pace,
        };
        let fingerprint = fingerprint(record);
        let (size, watched) = (record.size, Arc::clone(&meter));
        self.running.insert(job.id, Running { request, claim, meter: watched, size, check, fingerprint });
        (job, meter)
    }

    /// What an image can be read from, in the order to try. What is unsafe about it is told once.
    fn sources(&mut self, record: &Record) -> Vec<Result<Box<dyn Source>, Refused>> {
        let sources = self.stores.sources(&record.locations);
        for warning in sources.iter().flatten().filter_map(|source| source.warning()) {
            if self.warned.insert(warning.to_owned()) {
                self.context.output.warning(warning);
            }
        }
        sources
    }

    /// Looks an image up and judges it.
    fn examine(&mut self, request: &Request) -> Result<(Record, Option<Check>), Ending> {
        let failed = |e: anyhow::Error| Ending::new(ImageOutcome::Failed, 0, format!("{e:#}"));
        if stage::is_cached(self.dir, request.id).map_err(failed)? {
            return Err(Ending::cached());
        }
        let record = self.records.record(request.id).map_err(|refusal| match refusal {
            Refusal::Interrupted => Ending::new(ImageOutcome::Pending, 0, "a signal came first"),
            refusal => failed(refusal.into_error()),
        })?;
        let verdict = judge(record.as_ref(), request.memory.as_ref(), self.wishes.wish);
        let size = record.as_ref().and_then(|record| record.size).unwrap_or(0);
        let (outcome, why) = match (verdict, record) {
            (Verdict::Fetch(check), Some(record)) => {
                self.warn_unverified(request.id, &record, check.as_ref());
                return Ok((record, check));
            }
            (Verdict::Gone(why), _) => (ImageOutcome::Gone, why),
            (Verdict::FailedBefore(why), _) => (
                ImageOutcome::Skipped,
                format!("{why} (in an earlier run, and nothing has changed since: --retry tries again)"),
            ),
            (Verdict::Unverifiable(why), _) => (ImageOutcome::Refused, why),
            (Verdict::NotYet(why), _) => (ImageOutcome::NotReady, why),
            (Verdict::Fetch(_), None) => (ImageOutcome::NotReady, "it has no record".to_owned()),
        };
        Err(Ending::new(outcome, size, why))
    }

    fn warn_unverified(&self, id: ImageId, record: &Record, check: Option<&Check>) {
        if check.is_none() {
            let by = if record.size.is_some() { "by its size alone" } else { "by nothing" };
            let why = unverifiable(record);
            self.context.output.warning(&format!("image {id} can be verified {by}: {why}"));
        }
    }

    /// Makes sure that an image of this size fits, by making room for it where that is wanted.
    fn find_room(&mut self, size: Option<u64>) -> Result<(), String> {
        let Some(size) = size.or((self.wishes.limit == Limit::Ignored).then_some(0)) else {
            return Err(
                "its record has no size, so nobody can tell whether it fits into the cache".to_owned()
            );
        };
        let space = self.space().map_err(|e| format!("{e:#}"))?;
        let found = room(size, space);
        if found == Room::Enough {
            return Ok(());
        }
        if self.wishes.limit != Limit::MadeRoom {
            return Err(no_room(size, &found, space));
        }
        if self.report.run.dry_run {
            let (inventory, plan, _) = self.plan_room(size, space)?;
            // What is foreseen counts in it, so it goes on from the plan before.
            self.doomed = removals(&inventory, &plan).collect();
            return Ok(());
        }
        self.make_room(size, space)?;
        let space = self.space().map_err(|e| format!("{e:#}"))?;
        match room(size, space) {
            Room::Enough => Ok(()),
            found => Err(no_room(size, &found, space)),
        }
    }

    fn space(&self) -> anyhow::Result<Space> {
        let promised: u64 = self.running.values().filter_map(|running| running.size).sum();
        Ok(Space {
            available: available(&self.dir.statvfs()?),
            reserve: self.reserve,
            in_flight: self.running.values().map(Running::to_come).sum::<u64>() + self.foreseen,
            cached: self.cached.saturating_add(promised),
            limit: (self.wishes.limit != Limit::Ignored).then_some(self.max_size),
        })
    }

    /// Prunes for an image that does not fit.
    fn make_room(&mut self, size: u64, space: Space) -> Result<(), String> {
        let why_not = |e: anyhow::Error| format!("cannot make room for it: {e:#}");
        let _lock = self.prune_lock().map_err(why_not)?;
        let (inventory, plan, free) = self.plan_room(size, space)?;
        let mut executor = Executor {
            dir: self.dir,
            index: &mut *self.cache.index,
            wait: &self.wait,
            progress: &(),
            pace: IndexPace::default(),
        };
        let outcome = executor.prune(&inventory, &plan, &CleanPlan::default, Some(free));
        self.report.total_files_pruned += outcome.files;
        self.report.total_bytes_pruned += outcome.bytes;
        self.cached = inventory.size().saturating_sub(outcome.bytes + outcome.bytes_gone);
        self.ghosts.clear();
        self.report.run.errors.extend(outcome.errors);
        outcome.stopped.map_or(Ok(()), |refusal| Err(why_not(refusal.into_error())))
    }

    /// Plans by prune's rules what goes for an image that does not fit, and how many bytes must be free then. Where even all
    /// that may go would not be enough, nothing does.
    fn plan_room(&mut self, size: u64, space: Space) -> Result<(Inventory, PrunePlan, u64), String> {
        let inventory = self.inventory().map_err(|e| format!("cannot make room for it: {e:#}"))?;
        if let Some(error) = misplaced(self.dir, &inventory, false) {
            return Err(format!("cannot make room for it: {}", error.message));
        }
        let promised = space.cached.saturating_sub(self.cached) + self.foreseen;
        let most = self.max_size.saturating_sub(size).saturating_sub(promised);
        let free = size.saturating_add(space.in_flight).saturating_add(space.reserve);
        let limits = PruneLimits {
            max_size: most,
            target_size: most,
            min_free: Some(free),
            keep: self.spared(),
            ..PruneLimits::default()
        };
        let plan = plan::prune(&inventory, &limits, space.available, self.context.now);
        let reached = plan.victims(&inventory).fold(plan.goal, plan::Goal::without).is_reached();
        if reached && size.saturating_add(promised) <= self.max_size {
            return Ok((inventory, plan, free));
        }
        let (size, max) = (human(size), human(self.max_size));
        Err(format!(
            "it has {size} and does not fit, whatever may be removed for it (the cache may hold {max})"
        ))
    }

    /// What must not go to make room: what was fetched or found in the cache, and what is to be.
    fn spared(&self) -> HashSet<ImageId> {
        let wanted = self.pending.iter().map(|request| request.id).chain(self.running.keys().copied());
        let queued = Queue::read(self.dir).map(|queue| queue.images).unwrap_or_default();
        let queued = queued.into_iter().map(|entry| entry.id);
        wanted.chain(queued).chain(self.held.iter().copied()).map(|id| id.folded()).collect()
    }

    /// Scans the cache anew.
    fn inventory(&mut self) -> anyhow::Result<Inventory> {
        let mut inventory = Inventory::scan(self.dir, self.cache.inventory.tracking.clone())?;
        self.cache.index.read(&self.wait, &mut inventory.joiner())?;
        if self.cache.index.is_transactional() {
            inventory.look_again(self.dir);
        }
        Ok(inventory)
    }

    fn prune_lock(&self) -> anyhow::Result<Option<lock::Lock>> {
        match take_lock(self.context, self.dir, &self.locks, lock::PRUNE, &self.wait, false) {
            Ok(super::Locked::Go(lock)) => Ok(lock),
            Ok(_) => Err(anyhow!("a signal came while waiting for the lock")),
            Err(failure) => Err(failure.error),
        }
    }

    /// Publishes what was fetched, or notes why there is nothing to publish.
    fn finish(&mut self, id: ImageId, result: Result<Fetched, Failed>, attempts: &[Attempt]) {
        let Some(running) = self.running.remove(&id) else { return };
        let last = if result.is_err() { attempts.split_last() } else { None };
        for attempt in last.map_or(attempts, |(_, others)| others) {
            let next = "the next location is tried";
            self.context.output.warning(&format!("image {id}: {}: {next}", attempt.message));
        }
        let size = running.size.unwrap_or(0);
        let ending = match result {
            Ok(fetched) => return self.publish(running, fetched),
            Err(Failed::Interrupted) => {
                Ending::new(ImageOutcome::Pending, size, "a signal came while it was fetched")
            }
            Err(Failed::Here(e)) => Ending::new(ImageOutcome::Failed, size, format!("{e:#}")),
            Err(Failed::Nowhere) => {
                let why = last.map_or("it has no location", |(last, _)| last.message.as_str());
                if running.request.queued && attempts.iter().any(|attempt| attempt.lasting) {
                    self.remember(id, why, &running.fingerprint);
                }
                Ending::new(ImageOutcome::Failed, size, why)
            }
        };
        self.end(&running.request, ending);
    }

    /// Writes into the image's entry in the queue why it failed, so that it is not downloaded in vain again.
    fn remember(&mut self, id: ImageId, failed: &str, fingerprint: &str) {
        if let Err(e) = queue::remember(self.dir, id, failed, fingerprint.to_owned()) {
            self.context.output.note(&format!("{e:#}: the next run will try it again"));
        }
    }

    fn publish(&mut self, mut running: Running, fetched: Fetched) {
        let Fetched { staged, bytes, location } = fetched;
        let id = running.request.id;
        let ending = match self.try_publish(&mut running.claim, id, staged) {
            Ok(Publication::Published) => {
                self.cached = self.cached.saturating_add(bytes);
                self.report.total_files_prefetched += 1;
                self.report.total_bytes_prefetched += bytes;
                let by = verified_by(running.check.as_ref(), running.size);
                self.context.output.did(|| {
                    let by = by.as_deref().unwrap_or("nothing");
                    format!("fetched {id} ({}) from {location}, verified by {by}", human(bytes))
                });
                Ending::fetched(bytes, location, by)
            }
            Ok(Publication::AlreadyThere) => {
                let why = "Glance has cached it meanwhile, or is at it: what was fetched is dropped";
                Ending::new(ImageOutcome::LeftToGlance, bytes, why)
            }
            Err(_) if self.context.interrupt.raised() => {
                Ending::new(ImageOutcome::Pending, bytes, "a signal came before it was published")
            }
            Err(e) => {
                let why = format!("it was fetched, but cannot be published: {e:#}");
                Ending::new(ImageOutcome::Failed, bytes, why)
            }
        };
        self.end(&running.request, ending);
    }

    fn try_publish(&mut self, claim: &mut Claim, id: ImageId, staged: Staged) -> anyhow::Result<Publication> {
        let _lock = self.prune_lock()?;
        if !claim.confirm()? || stage::is_cached(self.dir, id)? {
            return Ok(Publication::AlreadyThere);
        }
        self.record_row(id, &staged)?;
        let published = staged.publish(self.dir, crate::cache::dir::Place::Base, id);
        if published.is_err() {
            self.forget_row(id);
        }
        published
    }

    /// Takes back the row of an image that got no file. Where that fails too, whoever comes next forgets it.
    fn forget_row(&mut self, id: ImageId) {
        let Ok(inventory) = self.inventory() else { return };
        let Some(ghost) = inventory.ghosts.iter().find(|ghost| ghost.id == id) else { return };
        let target = Target { id, claim: RowClaim::Row(ghost.row.key) };
        let index = &mut *self.cache.index;
        let mut forget = || {
            index.begin(&self.wait)?;
            index.forget(&[target])?;
            index.commit(None)
        };
        if forget().is_err() {
            self.cache.index.abandon();
        }
    }

    /// Gives an image its row, as Glance's driver does, in the place of one that was left without a file.
    fn record_row(&mut self, id: ImageId, staged: &Staged) -> anyhow::Result<()> {
        if !self.cache.index.is_transactional() {
            return Ok(());
        }
        let seen = seen(&rustix::fs::fstat(staged.file.as_fd())?);
        let ghost = self.ghosts.remove(&id).map(|row| Target { id, claim: RowClaim::Row(row.key) });
        let index = &mut *self.cache.index;
        let mut record = || {
            index.begin(&self.wait)?;
            if let Some(ghost) = &ghost {
                index.forget(std::slice::from_ref(ghost))?;
            }
            index.adopt(&[Image { id, seen, row: None }])?;
            index.commit(None)
        };
        let recorded = record();
        recorded.map_err(|refusal| {
            self.cache.index.abandon();
            refusal.into_error().context("cannot record it in the index")
        })
    }

    /// Books what became of an image, and tells whoever should know. What is cached or gone leaves the queue.
    fn end(&mut self, request: &Request, ending: Ending) {
        let Ending { outcome, bytes, location, verified_by, message } = ending;
        let leaves = matches!(outcome, ImageOutcome::Fetched | ImageOutcome::Cached | ImageOutcome::Gone);
        let queued = request.queued && !(leaves && self.dequeue(request.id));
        if matches!(outcome, ImageOutcome::Fetched | ImageOutcome::Cached) {
            self.held.insert(request.id);
        }
        if let Some(why) = &message {
            let next = match (outcome, request.queued, queued) {
                (ImageOutcome::Pending, ..) | (_, false, _) => "",
                (_, true, false) => "; it leaves the queue",
                (_, true, true) => "; it stays in the queue",
            };
            let line = format!("image {}: {why}{next}", request.id);
            match outcome {
                ImageOutcome::Failed => self.context.output.error(&line),
                outcome if outcome.is_good() => self.context.output.note(&line),
                _ => self.context.output.warning(&line),
            }
            if !outcome.is_good() {
                let (name, message) = (request.id.to_string(), why.clone());
                self.report.run.errors.push(EntryError { name, action: "fetch", message });
            }
        }
        let image_id = request.id.to_string();
        self.report.images.push(ImageReport {
            image_id,
            outcome,
            bytes,
            location,
            verified_by,
            message,
            queued,
        });
    }

    /// Takes an image from the queue, unless this only looks; tells whether it has left it.
    fn dequeue(&mut self, id: ImageId) -> bool {
        if self.report.run.dry_run {
            return true;
        }
        let removed = queue::remove(self.dir, id);
        if let Err(e) = &removed {
            self.error(id, "dequeue", e);
        }
        removed.is_ok()
    }

    fn error(&mut self, id: ImageId, action: &'static str, error: &anyhow::Error) {
        let message = format!("{error:#}");
        self.context.output.error(&format!("image {id}: {message}"));
        self.report.run.errors.push(EntryError { name: id.to_string(), action, message });
    }

    /// Describes what would be fetched, and from where.
    fn dry_run(&mut self) {
        let mut entries = Vec::new();
        while let Some(request) = self.pending.pop_front() {
            let ending = self.foresee(&request).unwrap_or_else(|ending| ending);
            if let Some(location) = &ending.location {
                self.cached = self.cached.saturating_add(ending.bytes);
                self.foreseen += ending.bytes;
                self.report.total_files_prefetched += 1;
                self.report.total_bytes_prefetched += ending.bytes;
                let by = ending.verified_by.as_deref().unwrap_or("nothing");
                let reason = format!("from {location}, to be verified by {by}");
                let image_id = request.id.to_string();
                entries.push(PlanEntry { image_id, action: "fetch", reason, bytes: ending.bytes });
            }
            self.end(&request, ending);
        }
        let doomed = std::mem::take(&mut self.doomed);
        self.report.total_files_pruned = doomed.len() as u64;
        self.report.total_bytes_pruned = doomed.iter().map(|entry| entry.bytes).sum();
        self.cached = self.cached.saturating_sub(self.report.total_bytes_pruned);
        self.report.run.plan = Some(doomed.into_iter().chain(entries).collect());
    }

    /// What would become of an image.
    fn foresee(&mut self, request: &Request) -> Result<Ending, Ending> {
        let (record, check) = self.examine(request)?;
        let size = record.size.unwrap_or(0);
        let failed = |e: &dyn Display| Ending::new(ImageOutcome::Failed, size, format!("{e:#}"));
        if stage::is_being_cached(self.dir, request.id).map_err(|e| failed(&e))? {
            return Err(Ending::new(ImageOutcome::LeftToGlance, size, "somebody is caching it"));
        }
        let sources = self.sources(&record);
        let Some(source) = sources.iter().find_map(|source| source.as_ref().ok()) else {
            return Err(sources
                .iter()
                .find_map(|source| source.as_ref().err())
                .map_or_else(|| failed(&"it has no location"), |refused: &Refused| failed(refused)));
        };
        self.find_room(record.size).map_err(|why| Ending::new(ImageOutcome::Refused, size, why))?;
        let by = verified_by(check.as_ref(), record.size);
        Ok(Ending::fetched(size, source.shown().to_owned(), by))
    }

    fn sum_up(&mut self) {
        self.report.still_queued = self.report.images.iter().filter(|image| image.queued).count() as u64;
        self.report.cache_size_after = Some(self.cached);
        self.report.max_size = Some(self.max_size);
        self.report.over_limit = self.cached > self.max_size;
    }
}

/// What an image is verified by, if by anything.
fn verified_by(check: Option<&Check>, size: Option<u64>) -> Option<String> {
    check.map(|check| check.name.clone()).or_else(|| size.map(|_| "size".to_owned()))
}

/// Fetches; a bug in one fetch must not leave the others waiting for it for ever.
fn fetch_unwinding(job: &Job<'_>, meter: &Meter) -> (Result<Fetched, Failed>, Vec<Attempt>) {
    catch_unwind(AssertUnwindSafe(|| fetch(job, meter))).unwrap_or_else(|_| {
        (Err(Failed::Here(anyhow!("the fetch broke off by a fault of this program"))), Vec::new())
    })
}

fn no_room(size: u64, found: &Room, space: Space) -> String {
    let size = human(size);
    match found {
        Room::DiskShort(short) => format!(
            "it has {size}, which the file system has no room for: {} are missing ({} free, of which {} are to be left free)",
            human(*short),
            human(space.available),
            human(space.reserve)
        ),
        Room::OverLimit(over) => format!(
            "it has {size}, which would put the cache {} over its limit of {}",
            human(*over),
            human(space.limit.unwrap_or_default())
        ),
        Room::Enough => String::new(),
    }
}

/// Opens the cache's index, to look at or to add to; for adding, one that is configured and not there yet is made, as Glance would.
fn stock(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    wait: &Wait,
    dry_run: bool,
) -> Result<Cache, Failure> {
    let is_sqlite = settings.driver.as_ref().is_some_and(|driver| driver.value == Driver::Sqlite);
    let purpose = match (dry_run, is_sqlite) {
        (true, _) => Purpose::Look,
        (false, true) => Purpose::Create,
        (false, false) => Purpose::Change,
    };
    let cache = take_stock(context, settings, dir, purpose, wait)?;
    match (&cache.inventory.tracking, cache.driver) {
        (Tracking::Unknown(why), _) if !dry_run => {
            Err(Failure::cannot_start(anyhow!("the index cannot be added to: {why}")))
        }
        (_, None) => Err(Failure::usage(anyhow!("nothing shows which index {} has", dir.path().display()))
            .hint("set image_cache_driver, or give --driver")),
        _ => Ok(cache),
    }
}
