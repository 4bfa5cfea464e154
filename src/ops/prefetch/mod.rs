//! `prefetch`: fetches images into the cache, from the queue or by name.
//!
//! One thread decides, publishes and speaks; it alone has the index, the database and the queue. Each image is fetched and
//! verified by a thread of its own, so many at a time as `--jobs` says, and comes back as a staged file.
//!
//! [`mod@wanted`] says which images; [`admit`] judges one and [`room`] whether it fits; [`publish`] is what follows its fetch;
//! [`report`] is told how it ended.

mod admit;
pub(crate) mod outcome;
mod publish;
mod report;
mod room;
pub(crate) mod wanted;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cache::dir::{CacheDir, Place};
use crate::cache::execute;
use crate::cache::index::Driver;
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{self, LockDir};
use crate::cache::queue::Queue;
use crate::cache::stage::{self, Claim};
use crate::commands::flags::ChangeArgs;
use crate::database::images::ImageRecord;
use crate::database::{Database, Purpose};
use crate::exit::{Exit, Failure};
use crate::fetch::digest::Check;
use crate::fetch::judge::Wish;
use crate::fetch::pace::Pace;
use crate::fetch::{Attempt, Failed, Fetched, Job, Meter, fetch};
use crate::host::glance::open::{Cache, Locked, refuse_strange, take_lock, take_stock};
use crate::host::glance::settings::{Opened, Settings};
use crate::interrupt::{Wait, signal_name};
use crate::names::ImageId;
use crate::net::wire::Waits;
use crate::ops::prefetch::outcome::{ImageOutcome, PrefetchReport};
use crate::ops::prefetch::report::Ending;
use crate::ops::prefetch::wanted::{Request, requests};
use crate::ops::report::PlanEntry;
use crate::ops::{tell, wait};
use crate::os::space::capacity;
use crate::output::progress::Downloads;
use crate::run::Context;
use crate::source::Stores;
use crate::units::{Amount, Nanos};

/// How often bars move and signals are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How often claims are touched: far less than any sensible stall time.
const TOUCH: Duration = Duration::from_secs(10);

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
    pub(crate) stall_time: Option<crate::units::TimeSpan>,
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

/// Opens a cache that images are to be put into: where there is none, that cannot be.
fn existing(settings: &Settings) -> Result<CacheDir, Failure> {
    let dir = match settings.open()? {
        Opened::Cache(dir) => dir,
        Opened::Nothing(why) => {
            return Err(Failure::cannot_start(anyhow!(why)).hint("glance-api makes it when it starts"));
        }
    };
    refuse_strange(settings, &dir)?;
    if dir.fd(Place::Incomplete).is_none() {
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
    if wishes.images.is_some() || !Queue::read(&dir).map_err(Failure::cannot_start)?.images.is_empty() {
        settings.central.check_records(&settings.config)?;
    }
    let means = Means::of(context, settings, &dir, change, wishes)?;
    let lock = if change.dry_run {
        None
    } else {
        let locked =
            take_lock(context, &dir, &means.locks, lock::PREFETCH, &means.wait, change.skip_if_locked)?;
        match locked.or_end(context, &mut report.run) {
            Ok(lock) => lock,
            Err(exit) => return Ok(exit),
        }
    };
    let pending = requests(context, &dir, wishes)?;
    let session = if pending.is_empty() {
        None
    } else {
        Some(Session::open(context, settings, &dir, means, wishes, report)?)
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

/// An image that is being fetched.
struct Running {
    request: Request,
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
        context: &Context,
        settings: &Settings,
        dir: &CacheDir,
        change: &ChangeArgs,
        wishes: &Wishes,
    ) -> Result<Self, Failure> {
        if let Some(problem) = &settings.index_problem {
            return Err(Failure::usage(anyhow!("{problem}")));
        }
        let whole = capacity(&dir.statvfs().map_err(Failure::cannot_start)?);
        let stall_time = settings.stall_time(wishes.stall_time)?.value;
        let waits = Waits::new(context.interrupt.clone());
        Ok(Means {
            locks: settings.lock_dir(dir, &context.output)?,
            wait: wait(context, change),
            stores: Stores::from_config(&settings.config, waits).map_err(Failure::usage)?,
            max_size: settings.max_size(wishes.max_size, dir)?.value,
            reserve: wishes.reserve.of(whole),
            stalled_before: context.now.saturating_sub(stall_time),
        })
    }
}

/// One run, seen from the thread that decides.
struct Session<'a> {
    context: &'a Context,
    dir: &'a CacheDir,
    cache: Cache,
    /// Glance is let at the index between images, too.
    turns: execute::Pace,
    records: Database,
    means: Means,
    wishes: &'a Wishes,
    /// Bytes that the cache holds.
    cached: u64,
    pending: VecDeque<Request>,
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
    doomed: Vec<PlanEntry>,
    report: &'a mut PrefetchReport,
}

impl<'a> Session<'a> {
    fn open(
        context: &'a Context,
        settings: &'a Settings,
        dir: &'a CacheDir,
        means: Means,
        wishes: &'a Wishes,
        report: &'a mut PrefetchReport,
    ) -> Result<Self, Failure> {
        // Before any fetch: SQLite's descriptors are told apart by being new. The index last: it may be made.
        // Only where both are one file does the index come first: it rolls back what a killed run left, which a look may not.
        let is_central = settings.driver.as_ref().is_some_and(|driver| driver.value == Driver::CentralizedDb);
        let stock = || stock(context, settings, dir, &means.wait, report.run.dry_run);
        let first = if is_central { Some(stock()?) } else { None };
        let records = settings.central.open_records(&settings.config, &means.wait)?;
        let cache = first.map_or_else(stock, Ok)?;
        Ok(Session {
            context,
            dir,
            turns: execute::Pace::default(),
            records,
            means,
            wishes,
            cached: cache.inventory.size(),
            cache,
            pending: VecDeque::new(),
            running: HashMap::new(),
            ready: VecDeque::new(),
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
                while self.running.len() + self.ready.len() < self.wishes.jobs
                    && !self.context.interrupt.raised()
                {
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
                if self.context.interrupt.raised() {
                    bars.give_back_terminal();
                }
                if touched.elapsed() > TOUCH {
                    self.under_way().for_each(|running| running.claim.touch());
                    touched = Instant::now();
                }
            }
        });
        if let Err(e) = self.measure() {
            self.context.output.warning(&format!("{e:#}: what the cache holds is as it was before"));
        }
        for request in std::mem::take(&mut self.pending) {
            self.end(&request, Ending::new(ImageOutcome::Pending, 0, "a signal came first"));
        }
    }

    /// Scans the cache anew.
    fn inventory(&mut self) -> anyhow::Result<Inventory> {
        let mut inventory = Inventory::scan(self.dir, self.cache.inventory.tracking.clone())?;
        self.cache.index.read(&self.means.wait, &mut inventory.joiner())?;
        if self.cache.index.is_transactional() {
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
        take_lock(self.context, self.dir, &self.means.locks, lock::PRUNE, &self.means.wait, !waits)
    }
}

/// Fetches; a bug in one fetch must not leave the others waiting for it for ever.
fn fetch_unwinding(job: &Job<'_>, meter: &Meter) -> (Result<Fetched, Failed>, Vec<Attempt>) {
    catch_unwind(AssertUnwindSafe(|| fetch(job, meter))).unwrap_or_else(|_| {
        (Err(Failed::Here(anyhow!("the fetch broke off by a fault of this program"))), Vec::new())
    })
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
