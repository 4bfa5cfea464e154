//! `prefetch`: fetches images into the cache, from the queue or by name.
//!
//! One thread decides, publishes and speaks; it alone has the index, the database and the queue. Each image is fetched and
//! verified by a thread of its own, so many at a time as `--jobs` says, and comes back as a staged file.
//!
//! [`mod@wanted`] says which images; [`admit`] judges one and [`space`] whether it fits; [`publish`] is what follows its fetch;
//! [`report`] is told how it ended.

mod admit;
pub(crate) mod outcome;
mod publish;
mod report;
mod space;
pub(crate) mod wanted;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use self::outcome::{ImageOutcome, PrefetchReport};
use self::report::ImageEnding;
pub(crate) use self::wanted::enqueue;
use self::wanted::{WantedImage, requests};
use super::Change;
use super::report::{Ending, Step};
use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::index::Driver;
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::LockWait;
use crate::cache::lock::{self, LockDir};
use crate::cache::queue::Queue;
use crate::cache::stage::{self, Claim};
use crate::database::images::ImageRecord;
use crate::database::{Database, Purpose};
use crate::exit::Failure;
use crate::fetch::digest::Check;
use crate::fetch::judge::FetchPolicy;
use crate::fetch::throttle::Throttle;
use crate::fetch::{Attempt, FetchJob, Fetched, Meter, Unfetched, fetch};
use crate::host::glance::central::{check_records, open_records};
use crate::host::glance::open::{Cache, Locked, refuse_strange, take_lock, take_stock};
use crate::host::glance::settings::Settings;
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::net::wire::Waits;
use crate::os::space::capacity;
use crate::output::progress::Downloads;
use crate::run::Run;
use crate::source::Stores;
use crate::units::{Amount, Nanos, TimeSpan};

/// How often bars move and signals are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How often claims are touched: far less than any sensible stall time.
const TOUCH: Duration = Duration::from_secs(10);

/// What a prefetch is asked for, besides the cache.
#[derive(Debug)]
pub(crate) struct PrefetchRequest {
    pub(crate) change: Change,
    /// `None` is what is in the queue.
    pub(crate) images: Option<Vec<ImageId>>,
    pub(crate) jobs: usize,
    /// Bytes per second.
    pub(crate) rate: Option<u64>,
    pub(crate) reserve: Amount,
    pub(crate) max_size: Option<Amount>,
    pub(crate) limit: Limit,
    pub(crate) policy: FetchPolicy,
    pub(crate) stall_time: Option<TimeSpan>,
}

impl PrefetchRequest {
    /// Returns a request for what is in the queue.
    pub(crate) fn new(change: Change) -> Self {
        PrefetchRequest {
            change,
            images: None,
            jobs: 2,
            rate: None,
            reserve: Amount::Bytes(16 << 20),
            max_size: None,
            limit: Limit::Ignored,
            policy: FetchPolicy::default(),
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
    MadeSpace,
}

/// Opens a cache that images are put into. It has to be there.
fn existing(settings: &Settings<'_>) -> Result<CacheDir, Failure> {
    let cannot = |e: anyhow::Error| Failure::cannot_start(e).hint("glance-api makes it when it starts");
    let dir = settings.open()?.ok_or_else(|| cannot(anyhow!(settings.nothing_there())))?;
    refuse_strange(settings, &dir)?;
    if dir.fd(CachePlace::Incomplete).is_none() {
        return Err(cannot(anyhow!("{} has no directory incomplete/", dir.path().display())));
    }
    Ok(dir)
}

/// Fetches images into the cache.
pub(crate) fn prefetch(
    run: &Run,
    settings: &Settings<'_>,
    request: &PrefetchRequest,
) -> Result<PrefetchReport, Failure> {
    let mut report =
        PrefetchReport { ending: Ending::new(request.change.dry_run), ..PrefetchReport::default() };
    let ended = fill(run, settings, request, &mut report);
    report.ending.settle(run, ended)?;
    Ok(report)
}

/// Prefetches, and fills in the report, which is shown whenever this ends without a failure.
fn fill(
    run: &Run,
    settings: &Settings<'_>,
    request: &PrefetchRequest,
    report: &mut PrefetchReport,
) -> Result<(), Failure> {
    run.catch_signals()?;
    if request.images.is_none() && is_nothing_to_do(run, settings)? {
        return Ok(());
    }
    let dir = existing(settings)?;
    if request.images.is_some() || !Queue::read(&dir).map_err(Failure::cannot_start)?.images.is_empty() {
        check_records(&settings.database)?;
    }
    let means = Means::of(run, settings, &dir, request)?;
    let mut lock = None;
    if !request.change.dry_run {
        match take_lock(run, &dir, &means.locks, lock::PREFETCH, &request.change.lock_wait)? {
            Locked::Go(held) => lock = Some(held),
            Locked::Busy(who) => report.ending.skipped = Some(who),
            Locked::Interrupted => report.ending.stopped(run),
        }
        if lock.is_none() {
            return Ok(());
        }
    }
    let pending = requests(run, &dir, request)?;
    let session =
        if pending.is_empty() { None } else { Some(PrefetchRun::open(run, settings, &dir, means, request)?) };
    if lock.flatten().is_some() {
        // From here on, nothing keeps the run from starting.
        stage::sweep(&dir);
    }
    let Some(session) = session else { return Ok(()) };
    let mut session = PrefetchRun { pending, ..session };
    session.report.ending = std::mem::take(&mut report.ending);
    if request.change.dry_run {
        session.dry_run();
    } else {
        session.work();
    }
    session.sum_up();
    *report = session.report;
    report.ending.stopped(run);
    Ok(())
}

/// True if the queue is empty and no dead run left anything: then no lock, index or database is asked for.
fn is_nothing_to_do(run: &Run, settings: &Settings<'_>) -> Result<bool, Failure> {
    let Some(dir) = settings.open()? else {
        run.output.note(&settings.nothing_there());
        return Ok(true);
    };
    refuse_strange(settings, &dir)?;
    let queue = Queue::read(&dir).map_err(Failure::cannot_start)?;
    Ok(queue.images.is_empty() && queue.foreign.is_empty() && stage::leftovers(&dir).is_empty())
}

/// An image that is being fetched.
struct Running {
    request: WantedImage,
    claim: Claim,
    meter: Arc<Meter>,
    /// As it was when the fetch began.
    record: ImageRecord,
    check: Option<Check>,
    since: Instant,
}

impl Running {
    /// Bytes that it will still take.
    fn to_come(&self) -> u64 {
        let moved = self.meter.moved.load(Ordering::Relaxed);
        self.record.size.unwrap_or(0).saturating_sub(moved)
    }
}

/// An image that was fetched and verified, and waits for prune's lock, or for an index that is busy or lost.
struct Ready {
    running: Running,
    fetched: Fetched,
    /// When it is given up.
    until: Instant,
}

/// What the settings say. All of it is read before anything is made.
struct Means {
    locks: LockDir,
    wait: Wait,
    stores: Stores,
    /// Bytes that the cache may hold.
    max_size: u64,
    /// Bytes of the file system to be left free.
    reserve: u64,
    stalled_before: Nanos,
}

impl Means {
    fn of(
        run: &Run,
        settings: &Settings<'_>,
        dir: &CacheDir,
        request: &PrefetchRequest,
    ) -> Result<Self, Failure> {
        settings.driver()?;
        let whole = capacity(&dir.statvfs().map_err(Failure::cannot_start)?);
        let stall_time = settings.stall_time(request.stall_time)?.value;
        let waits = Waits::new(run.interrupt.clone());
        Ok(Means {
            locks: settings.lock_dir(dir, &run.output)?,
            wait: run.wait(request.change.lock_wait.limit),
            stores: Stores::from_config(settings.config, &waits).map_err(Failure::usage)?,
            max_size: settings.max_size(request.max_size, dir)?.value,
            reserve: request.reserve.of(whole),
            stalled_before: run.now.saturating_sub(stall_time),
        })
    }
}

/// One run, seen from the thread that decides.
struct PrefetchRun<'a> {
    run: &'a Run,
    dir: &'a CacheDir,
    cache: Cache,
    records: Database,
    means: Means,
    request: &'a PrefetchRequest,
    /// Bytes that the cache holds.
    cached: u64,
    pending: VecDeque<WantedImage>,
    running: HashMap<ImageId, Running>,
    /// What is fetched and not yet published.
    ready: VecDeque<Ready>,
    /// What was fetched, or was wanted and is there: not to go for other images.
    held: HashSet<ImageId>,
    /// What was warned of already.
    warned: HashSet<String>,
    /// Bytes that a dry run would have fetched.
    foreseen: u64,
    /// What a dry run would have removed to make room.
    doomed: Vec<Step>,
    report: PrefetchReport,
}

impl<'a> PrefetchRun<'a> {
    fn open(
        run: &'a Run,
        settings: &Settings<'_>,
        dir: &'a CacheDir,
        means: Means,
        request: &'a PrefetchRequest,
    ) -> Result<Self, Failure> {
        // Before any fetch: SQLite's descriptors are told apart by being new. The index comes last, because it may be
        // made. Only where both are one file does it come first: it rolls back what a killed run left, which a look may
        // not.
        let stock = || stock(run, settings, dir, &means.wait, request.change.dry_run);
        let first = if settings.names(Driver::CentralizedDb) { Some(stock()?) } else { None };
        let records = open_records(&settings.database, &means.wait)?;
        let cache = first.map_or_else(stock, Ok)?;
        Ok(PrefetchRun {
            run,
            dir,
            records,
            means,
            request,
            cached: cache.inventory.size(),
            cache,
            pending: VecDeque::new(),
            running: HashMap::new(),
            ready: VecDeque::new(),
            held: HashSet::new(),
            warned: HashSet::new(),
            foreseen: 0,
            doomed: Vec::new(),
            report: PrefetchReport::default(),
        })
    }

    /// Fetches everything there is to fetch, or as much as a signal allows.
    fn work(&mut self) {
        let throttle = Throttle::new(self.run.interrupt.clone(), self.request.rate);
        let ids: Vec<ImageId> = self.pending.iter().map(|request| request.id).collect();
        let total = || self.records.sizes(&ids).unwrap_or(0);
        let mut bars = Downloads::new(&self.run.output, total);
        let mut touched = Instant::now();
        scope(|scope| {
            let (tell, told) = channel();
            loop {
                while self.running.len() + self.ready.len() < self.request.jobs
                    && !self.run.interrupt.raised()
                {
                    let Some(request) = self.pending.pop_front() else { break };
                    let Some((job, meter)) = self.begin(request, &throttle) else { continue };
                    bars.begin(job.id, job.size.unwrap_or(0), &meter);
                    let tell = tell.clone();
                    let id = job.id;
                    let fetch = move || drop(tell.send((id, fetch_unwinding(&job, &meter))));
                    if let Err(e) = Builder::new().spawn_scoped(scope, fetch) {
                        bars.end(id);
                        self.finish(
                            id,
                            Err(Unfetched::Cache(anyhow!(e).context("cannot start a thread"))),
                            &[],
                        );
                    }
                }
                if self.running.is_empty() && self.ready.is_empty() {
                    break;
                }
                match told.recv_timeout(TICK) {
                    Ok((id, (result, attempts))) => {
                        bars.end(id);
                        self.finish(id, result, &attempts);
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                self.publish_ready();
                bars.tick();
                if self.run.interrupt.raised() {
                    bars.give_back_terminal();
                }
                if touched.elapsed() > TOUCH {
                    self.under_way().for_each(|running| running.claim.touch());
                    touched = Instant::now();
                }
            }
        });
        if let Err(e) = self.measure() {
            self.run.output.warning(&format!("{e:#}: what the cache holds is as it was before"));
        }
        for request in std::mem::take(&mut self.pending) {
            self.end(&request, ImageEnding::new(ImageOutcome::Pending, 0, "a signal came first"));
        }
    }

    /// Scans the cache anew.
    fn inventory(&mut self) -> anyhow::Result<Inventory> {
        let mut inventory = Inventory::scan(self.dir, self.cache.inventory.tracking.clone())?;
        self.cache.ledger.read(&mut inventory.joiner())?;
        if self.cache.ledger.has_rows() {
            inventory.look_again(self.dir);
        }
        Ok(inventory)
    }

    /// What is being fetched, or waits to be published.
    fn under_way(&self) -> impl Iterator<Item = &Running> {
        self.running.values().chain(self.ready.iter().map(|ready| &ready.running))
    }

    /// Takes prune's lock; if somebody else has it, that is the answer at once where it is not to be waited for.
    fn prune_lock(&self, waits: bool) -> Result<Locked, Failure> {
        let lock_wait = LockWait { limit: self.means.wait.limit, skip_if_locked: !waits };
        take_lock(self.run, self.dir, &self.means.locks, lock::PRUNE, &lock_wait)
    }
}

/// Fetches; a bug in one fetch must not leave the others waiting for it for ever.
fn fetch_unwinding(job: &FetchJob<'_>, meter: &Meter) -> (Result<Fetched, Unfetched>, Vec<Attempt>) {
    catch_unwind(AssertUnwindSafe(|| fetch(job, meter))).unwrap_or_else(|_| {
        (Err(Unfetched::Cache(anyhow!("the fetch broke off by a fault of this program"))), Vec::new())
    })
}

/// Opens the cache's index, to look at it or to add to it. To add to it, one that is configured and does not exist yet is
/// made, as Glance would make it.
fn stock(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    wait: &Wait,
    dry_run: bool,
) -> Result<Cache, Failure> {
    let purpose = match (dry_run, settings.names(Driver::Sqlite)) {
        (true, _) => Purpose::Look,
        (false, true) => Purpose::Create,
        (false, false) => Purpose::Change,
    };
    let cache = take_stock(run, settings, dir, purpose, wait)?;
    match (&cache.inventory.tracking, cache.driver) {
        (Tracking::Unknown(why), _) if !dry_run => {
            Err(Failure::cannot_start(anyhow!("the index cannot be added to: {why}")))
        }
        (_, None) => Err(Failure::usage(anyhow!("nothing shows which index {} has", dir.path().display()))
            .hint("set image_cache_driver, or give --driver")),
        _ => Ok(cache),
    }
}
