//! Prefetch: fetches images into the cache, those in the queue or those that are named.
//!
//! One thread makes all decisions, publishes images and prints messages. Only this thread uses the index, the
//! database and the queue. Each image is fetched and verified by a thread of its own, which returns a staged
//! file. At most `--jobs` images are fetched at a time.
//!
//! For each image in [`mod@wanted`], [`admit`] decides if it is fetched and [`space`] if it fits; [`publish`]
//! gives it its row and its name; [`report`] notes the result. The order of these steps, and the state after
//! a crash, is described in [`publish`]. An image that is not complete and verified is never published.

mod admit;
mod ending;
pub(crate) mod outcome;
mod publish;
mod report;
pub(crate) mod request;
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
use self::wanted::{WantedImage, requests};
pub(crate) use self::wanted::{dequeue, enqueue};
use super::clouds::find_image_cloud;
use super::report::{Ending, Step};
use crate::cache::dir::CacheDir;
use crate::cache::index::Driver;
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{self, LockDir, LockWait};
use crate::cache::queue::Queue;
use crate::cache::stage::{self, Claim};
use crate::config::Config;
use crate::database::Database;
use crate::database::images::ImageRecord;
use crate::database::opening::Purpose;
use crate::exit::Failure;
use crate::fetch::digest::Check;
use crate::fetch::throttle::Throttle;
use crate::fetch::{Attempt, FetchJob, Fetched, Meter, Unfetched, fetch};
use crate::host::glance::central::{check_records, open_records};
use crate::host::glance::open::{
    Cache, Locked, Making, check_index, check_opens, may_be_wrong, refuse_strange, take_lock, take_stock,
};
use crate::host::glance::settings::Settings;
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::net::wire::{Least, Waits};
use crate::ops::ids::configured_keep;
use crate::ops::prefetch::ending::ImageEnding;
use crate::ops::prefetch::request::{Limit, PrefetchRequest, existing};
use crate::os::space::capacity;
use crate::output::progress::Downloads;
use crate::run::Run;
use crate::source::{ImageApi, Stores, Via};
use crate::units::Nanos;

/// The time between two updates of the progress bars and checks for signals.
const TICK: Duration = Duration::from_millis(100);
/// The time between two touches of a claim. It is far shorter than any sensible stall time.
const TOUCH: Duration = Duration::from_secs(10);

/// Fetches images into the cache.
pub(crate) fn prefetch(
    run: &Run,
    settings: &Settings<'_>,
    request: &PrefetchRequest,
) -> Result<PrefetchReport, Failure> {
    let mut report =
        PrefetchReport { ending: Ending::new(request.change.dry_run), ..PrefetchReport::default() };
    let ended = fill(run, settings, request, &mut report);
    report.ending.settle(run, &request.change, ended)?;
    Ok(report)
}

/// Prefetches, and fills in the report. The report is shown unless this fails.
fn fill(
    run: &Run,
    settings: &Settings<'_>,
    request: &PrefetchRequest,
    report: &mut PrefetchReport,
) -> Result<(), Failure> {
    run.catch_signals()?;
    if request.images.is_none() && is_nothing_to_do(run, settings, report)? {
        return Ok(());
    }
    let dir = existing(settings)?;
    if request.images.is_some() || !Queue::read(&dir).map_err(Failure::cannot_start)?.images.is_empty() {
        check_records(&settings.database)?;
    }
    let resolved = PrefetchSettings::of(run, settings, &dir, request)?;
    report.max_size = Some(resolved.max_size);
    let mut lock = None;
    if !request.change.dry_run {
        if may_be_wrong(settings, &dir) {
            // Before a lock file is made: another index may be the right one.
            check_index(run, settings, &dir, Making::Always)?;
        }
        if resolved.locks.identity(lock::PREFETCH).is_none() {
            check_opens(run, settings, &dir)?;
        }
        match take_lock(run, &dir, &resolved.locks, lock::PREFETCH, &request.change.lock_wait)? {
            Locked::Go(held) => lock = Some(held),
            Locked::Busy(who) => report.ending.skipped = Some(who),
            Locked::Interrupted => report.ending.stopped(run),
        }
        if lock.is_none() {
            return Ok(());
        }
    }
    let wanted = requests(run, &dir, request)?;
    let session = if wanted.images.is_empty() {
        None
    } else {
        Some(PrefetchRun::open(run, settings, &dir, resolved, request)?)
    };
    if lock.flatten().is_some() {
        // The run can no longer fail to start, so files may be removed now.
        stage::sweep(&dir);
    }
    let Some(session) = session else {
        report.nothing_to_do();
        return Ok(());
    };
    let mut session = PrefetchRun { pending: wanted.images, others: wanted.others, ..session };
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

/// True if the queue is empty and no killed run left anything behind. Then no lock, index or database is
/// needed, and the report says so.
fn is_nothing_to_do(
    run: &Run,
    settings: &Settings<'_>,
    report: &mut PrefetchReport,
) -> Result<bool, Failure> {
    let Some(dir) = settings.open()? else {
        run.output.note(&settings.nothing_there());
        report.nothing_to_do();
        report.still_queued = None;
        report.ending.absent = Some(settings.nothing_there());
        return Ok(true);
    };
    refuse_strange(settings, &dir)?;
    let queue = Queue::read(&dir).map_err(Failure::cannot_start)?;
    let is_nothing = queue.images.is_empty() && queue.foreign.is_empty() && stage::leftovers(&dir).is_empty();
    if is_nothing {
        report.nothing_to_do();
    }
    Ok(is_nothing)
}

/// An image that is being fetched.
struct Running {
    request: WantedImage,
    claim: Claim,
    meter: Arc<Meter>,
    /// Glance's record of the image at the start of the fetch.
    record: ImageRecord,
    check: Option<Check>,
    since: Instant,
}

impl Running {
    /// Returns how many bytes are still to be fetched.
    fn to_come(&self) -> u64 {
        let moved = self.meter.moved.load(Ordering::Relaxed);
        self.record.size.unwrap_or(0).saturating_sub(moved)
    }
}

/// An image that was fetched and verified, and waits for prune's lock, or for an index that is busy or lost.
struct Ready {
    running: Running,
    fetched: Fetched,
    /// The time at which the image is given up.
    until: Instant,
}

/// The settings of a prefetch. All of them are read before anything is created.
struct PrefetchSettings {
    locks: LockDir,
    wait: Wait,
    stores: Stores,
    /// The limit of the cache, in bytes.
    max_size: u64,
    /// The space to keep free on the file system, in bytes.
    reserve: u64,
    /// An entry that was not written to since this time has stalled.
    stalled_before: Nanos,
    /// The images of the configured list, folded. They are not removed to make space.
    kept: HashSet<ImageId>,
}

impl PrefetchSettings {
    fn of(
        run: &Run,
        settings: &Settings<'_>,
        dir: &CacheDir,
        request: &PrefetchRequest,
    ) -> Result<Self, Failure> {
        settings.driver()?;
        let whole = capacity(&dir.statvfs().map_err(Failure::cannot_start)?);
        let stall_time = settings.stall_time(request.stall_time)?.value;
        let least = Least::per_second(request.min_rate);
        let waits = Waits { least, ..Waits::new(run.interrupt.clone()) };
        let kept = match request.limit {
            Limit::MadeSpace => configured_keep(settings.config)?,
            Limit::Ignored | Limit::Kept => HashSet::new(),
        };
        Ok(PrefetchSettings {
            locks: settings.lock_dir(dir, &run.output)?,
            wait: run.wait(request.change.lock_wait.limit),
            stores: stores(run, settings.config, request, &waits)?,
            max_size: settings.max_size(request.max_size, dir)?.value,
            reserve: request.reserve.of(whole),
            stalled_before: run.now.saturating_sub(stall_time),
            kept,
        })
    }
}

/// Returns all stores, with Glance's API for what none of them reads.
///
/// Missing credentials are an error only if they were asked for: most runs need none.
fn stores(run: &Run, config: &Config, request: &PrefetchRequest, waits: &Waits) -> Result<Stores, Failure> {
    let stores = Stores::from_config(config, waits).map_err(Failure::usage)?;
    if request.via == Via::Store {
        return Ok(stores);
    }
    let api = find_image_cloud(run, config, request.cloud.as_deref());
    if (request.via == Via::Api || request.cloud.is_some())
        && let Err(error) = api
    {
        return Err(Failure::usage(error.context("cannot use Glance's API")));
    }
    Ok(stores.reading(request.via, api.map(|cloud| ImageApi::new(cloud, waits))))
}

/// One prefetch, as the deciding thread sees it.
struct PrefetchRun<'a> {
    run: &'a Run,
    dir: &'a CacheDir,
    cache: Cache,
    records: Database,
    settings: PrefetchSettings,
    request: &'a PrefetchRequest,
    /// The size of the cache, in bytes.
    cached: u64,
    pending: VecDeque<WantedImage>,
    /// The number of images in the queue that are not wanted in this run.
    others: u64,
    running: HashMap<ImageId, Running>,
    /// Images that are fetched but not yet published.
    ready: VecDeque<Ready>,
    /// Images that were fetched, or that were wanted and in the cache already. They are not removed to make
    /// space.
    held: HashSet<ImageId>,
    /// Warnings that were printed already.
    warned: HashSet<String>,
    /// Bytes that a dry run would have fetched so far.
    foreseen: u64,
    /// Images that a dry run would have removed to make space.
    doomed: Vec<Step>,
    report: PrefetchReport,
}

impl<'a> PrefetchRun<'a> {
    fn open(
        run: &'a Run,
        settings: &Settings<'_>,
        dir: &'a CacheDir,
        resolved: PrefetchSettings,
        request: &'a PrefetchRequest,
    ) -> Result<Self, Failure> {
        // Both databases are opened before any fetch, because SQLite's descriptors are recognized by being
        // new. The index is opened last, because this may create it. Only if both are the same file, it is
        // opened first: opening it for a change rolls back an unfinished transaction of a killed run, which a
        // reader may not do.
        let stock = || stock(run, settings, dir, &resolved.wait, request.change.dry_run);
        let first = if settings.names(Driver::CentralizedDb) { Some(stock()?) } else { None };
        let records = open_records(&settings.database, &resolved.wait)?;
        let mut cache = first.map_or_else(stock, Ok)?;
        if !request.change.dry_run {
            // A read-only index would be found out only after the first image was downloaded.
            cache.ledger.check_writable().map_err(|refusal| {
                Failure::cannot_start(refusal.into_error().context("cannot write to the index"))
                    .hint("nothing was downloaded")
            })?;
        }
        Ok(PrefetchRun {
            run,
            dir,
            records,
            settings: resolved,
            request,
            cached: cache.inventory.size(),
            cache,
            pending: VecDeque::new(),
            others: 0,
            running: HashMap::new(),
            ready: VecDeque::new(),
            held: HashSet::new(),
            warned: HashSet::new(),
            foreseen: 0,
            doomed: Vec::new(),
            report: PrefetchReport::default(),
        })
    }

    /// Fetches all pending images, or as many as it can before a signal.
    fn work(&mut self) {
        let throttle = Throttle::new(self.run.interrupt.clone(), self.request.rate);
        let ids: Vec<ImageId> = self.pending.iter().map(|request| request.id).collect();
        let total = || self.records.sizes(&ids).unwrap_or(0);
        let mut bars = Downloads::new(&self.run.output, total);
        let mut touched = Instant::now();
        scope(|scope| {
            let (sender, finished) = channel();
            loop {
                while self.running.len() + self.ready.len() < self.request.jobs
                    && !self.run.interrupt.raised()
                {
                    let Some(request) = self.pending.pop_front() else { break };
                    let Some((job, meter)) = self.begin(request, &throttle) else { continue };
                    bars.begin(job.id, job.size.unwrap_or(0), &meter);
                    let sender = sender.clone();
                    let id = job.id;
                    let fetch = move || drop(sender.send((id, fetch_unwinding(&job, &meter))));
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
                match finished.recv_timeout(TICK) {
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
            self.run.output.warning(&format!("{e:#}; the reported size of the cache may be outdated"));
        }
        for request in std::mem::take(&mut self.pending) {
            let why = "a signal ended the run before the image was fetched";
            self.end(&request, ImageEnding::new(ImageOutcome::Pending, None, why));
        }
    }

    /// Scans the cache again, and joins it with the index.
    fn inventory(&mut self) -> anyhow::Result<Inventory> {
        let mut inventory = Inventory::scan(self.dir, self.cache.inventory.tracking.clone())?;
        self.cache.ledger.read(&mut inventory.joiner())?;
        if self.cache.ledger.has_rows() {
            inventory.look_again(self.dir);
        }
        Ok(inventory)
    }

    /// Returns the images that are being fetched or wait to be published.
    fn under_way(&self) -> impl Iterator<Item = &Running> {
        self.running.values().chain(self.ready.iter().map(|ready| &ready.running))
    }

    /// Takes prune's lock. If another process holds it, this waits, or returns at once without `waits`.
    fn prune_lock(&self, waits: bool) -> Result<Locked, Failure> {
        let lock_wait = LockWait { limit: self.settings.wait.limit, skip_if_locked: !waits };
        take_lock(self.run, self.dir, &self.settings.locks, lock::PRUNE, &lock_wait)
    }
}

/// Fetches an image. A panic becomes an error, so that the other fetches do not wait for this one for ever.
fn fetch_unwinding(job: &FetchJob<'_>, meter: &Meter) -> (Result<Fetched, Unfetched>, Vec<Attempt>) {
    catch_unwind(AssertUnwindSafe(|| fetch(job, meter))).unwrap_or_else(|_| {
        (Err(Unfetched::Cache(anyhow!("the fetch was aborted by a bug in this program"))), Vec::new())
    })
}

/// Opens the index of the cache, and reads it. If it is configured but does not exist yet, it is created as
/// Glance would create it, except in a dry run.
fn stock(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    wait: &Wait,
    dry_run: bool,
) -> Result<Cache, Failure> {
    let purpose = if dry_run { Purpose::Look } else { Purpose::Change };
    let mut cache = take_stock(run, settings, dir, purpose, wait)?.certain()?;
    cache.refuse_second(run, settings, dir)?;
    if !dry_run && settings.names(Driver::Sqlite) && cache.warning.is_some() {
        drop(cache);
        cache = take_stock(run, settings, dir, Purpose::Create, wait)?.certain()?;
    }
    match (&cache.inventory.tracking, cache.driver) {
        (Tracking::Unknown(why), _) if !dry_run => {
            Err(Failure::cannot_start(anyhow!("cannot add images to the index: {why}")))
        }
        (_, None) => Err(Failure::usage(anyhow!(
            "cannot tell which index {} has: image_cache_driver is not set, and the directory shows none",
            dir.path().display()
        ))
        .hint("set image_cache_driver, or give --driver")),
        _ => Ok(cache),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::dir::CachePlace;

    #[test]
    fn only_what_was_not_moved_yet_is_to_come() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join(CachePlace::Incomplete.name())).unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let id = ImageId::new(b"00000000-0000-0000-0000-00000000000a").unwrap();
        let stage::Claiming::Ours(claim) = Claim::make(&dir, id, 0).unwrap() else { panic!() };
        let running = Running {
            request: WantedImage { id, queued: true, memory: None },
            claim,
            meter: Arc::new(Meter::default()),
            record: ImageRecord { size: Some(1000), ..ImageRecord::default() },
            check: None,
            since: Instant::now(),
        };
        for (moved, left) in [(0, 1000), (400, 600), (1000, 0), (2000, 0)] {
            running.meter.moved.store(moved, Ordering::Relaxed);
            assert_eq!(running.to_come(), left);
        }
    }
}
