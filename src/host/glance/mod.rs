//! Glance's image cache, as one of the caches of a host. How it is opened, planned and pruned is the commands' and the core's;
//! this fits it to the list.

pub(crate) mod central;
pub(crate) mod leftovers;
pub(crate) mod open;
pub(crate) mod settings;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::cache::dir::{CacheDir, Place};
use crate::cache::execute::{self, Executor, Pace};
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{CLEAN, Held, Lock, Locking, PRUNE};
use crate::cache::outcome::{EntryError, Outcome};
use crate::cache::plan::{self, CleanLimits, CleanPlan, Goal, PruneLimits, PrunePlan, frees};
use crate::config::{self, Origin, Setting};
use crate::database::{Purpose, Refusal};
use crate::exit::Failure;
use crate::host::cache::{ImageCache, Item, Removing, Rules, Stock, Target, Told};
use crate::host::glance::leftovers::{plan_clean, room};
use crate::host::glance::open::{Cache, misplaced, refuse_strange, take_stock, unreadable_errors};
use crate::host::glance::settings::{Opened, Selection, Settings};
use crate::host::{Declared, Found, Host, Kind, Task};
use crate::interrupt::Wait;
use crate::units::{Amount, Nanos};

/// The kind of Glance's caches.
pub(crate) struct Glance;

pub(crate) static GLANCE: Glance = Glance;

impl Kind for Glance {
    fn name(&self) -> &'static str {
        "glance"
    }

    fn priority(&self) -> u32 {
        60
    }

    fn find(&self, host: &Host<'_>) -> Result<Option<Found>> {
        let directory = match &host.selection.cache_dir {
            Some(given) => Setting { value: given.clone(), origin: Origin::Flag("--cache-dir") },
            None => match host.config.optional(&config::IMAGE_CACHE_DIR)? {
                Some(configured) => configured.map(PathBuf::from),
                None => return Ok(None),
            },
        };
        let size = host.config.integer(&config::IMAGE_CACHE_MAX_SIZE)?;
        Ok(Some(Found { directory, size: size.map(|bytes| Amount::Bytes(bytes.unsigned_abs())), age: None }))
    }

    fn open<'a>(&self, host: &'a Host<'a>, cache: &Declared) -> Result<Option<Box<dyn ImageCache + 'a>>> {
        let mut selection = host.selection.clone();
        if cache.name != self.name() {
            // A further cache: the flags and settings of the index are the configured one's.
            selection = Selection { sources: selection.sources, ..Selection::default() };
            selection.cache_dir = Some(cache.directory.value.clone());
        }
        let settings = Settings::load(host.context, selection).map_err(plain)?;
        let dir = match settings.open() {
            Ok(Opened::Cache(dir)) => dir,
            Ok(Opened::Nothing(_)) => return Ok(None),
            // Given by name it would be a mistake; a declared one is a configured one.
            Err(_) if cache.name != self.name() && !cache.directory.value.exists() => return Ok(None),
            Err(failure) => return Err(plain(failure)),
        };
        Ok(Some(Box::new(GlanceCache {
            host,
            settings,
            dir,
            lock: None,
            cache: None,
            order: Vec::new(),
            clean: CleanPlan::default(),
        })))
    }
}

/// A failure as one error among others: its hints go with it.
fn plain(failure: Failure) -> anyhow::Error {
    failure.hints.into_iter().fold(failure.error, |error, hint| anyhow!("{error:#} ({hint})"))
}

/// An opened cache of Glance's.
struct GlanceCache<'a> {
    host: &'a Host<'a>,
    settings: Settings,
    dir: CacheDir,
    lock: Option<Lock>,
    /// `None` before the survey, and when the directory is empty.
    cache: Option<Cache>,
    /// Positions of the images that may go, least recently used first.
    order: Vec<u32>,
    clean: CleanPlan,
}

impl GlanceCache<'_> {
    fn clean_limits(&self) -> Result<CleanLimits> {
        let stall_time = self.settings.stall_time(self.host.stall_time).map_err(plain)?.value;
        Ok(CleanLimits { stall_time, invalid_grace: self.host.invalid_grace })
    }

    fn survey_leftovers(&mut self, stock: &mut Stock) -> Result<()> {
        let (plan, errors) = plan_clean(self.host.context, &self.dir, self.clean_limits()?);
        for (_, entry) in plan.entries() {
            stock.leftovers.add(entry.seen.allocated);
        }
        self.clean = plan;
        stock.errors = errors;
        Ok(())
    }

    fn survey_images(&mut self, rules: &Rules, stock: &mut Stock) -> Result<()> {
        let purpose = if rules.changing { Purpose::Change } else { Purpose::Look };
        let (context, wait) = (self.host.context, &self.host.wait);
        let cache = take_stock(context, &self.settings, &self.dir, purpose, wait).map_err(plain)?;
        let inventory = &cache.inventory;
        stock.size = inventory.size();
        stock.errors.extend(unreadable_errors(&inventory.unreadable));
        stock.foreign =
            inventory.foreign.iter().map(|entry| entry.place.show(entry.name.as_name())).collect();
        if !inventory.images.is_empty() {
            stock.notes.extend(cache.warnings.iter().cloned());
        }
        if let Tracking::Unknown(why) = &inventory.tracking {
            return Err(anyhow!("last use is unknown: {why}"));
        }
        if let Some(error) = misplaced(&self.dir, inventory, rules.forget_all) {
            stock.errors.push(error);
            return Ok(());
        }
        self.order = sort(inventory, rules, stock);
        self.cache = Some(cache);
        Ok(())
    }
}

/// Tells the images that may go from those that stay, and returns the positions of the former, least recently used first.
fn sort(inventory: &Inventory, rules: &Rules, stock: &mut Stock) -> Vec<u32> {
    let limits = PruneLimits { min_age: rules.min_age, keep: rules.keep.clone(), ..PruneLimits::default() };
    // With no limit at all the plan holds every image that may go.
    let plan = plan::prune(inventory, &limits, 0, rules.now);
    for (position, _) in &plan.kept {
        stock.kept.add(inventory.images[*position as usize].seen.allocated);
    }
    let by_file = inventory.tracked_by_file();
    let item = |position: &u32| {
        let image = &inventory.images[*position as usize];
        Item { last_use: image.last_use(by_file), size: image.seen.size, frees: frees(image) }
    };
    stock.items = plan.candidates.iter().map(item).collect();
    plan.candidates
}

/// What the core's own pruning is to reach, and how much of the file system is to be free then.
fn goal(target: &Target<'_, '_>) -> (Goal, Option<u64>) {
    match target {
        Target::All => (Goal { size: u64::MAX, free: 0 }, None),
        Target::Size(left) => (Goal { size: *left, free: 0 }, None),
        Target::Room(space) => (Goal { size: 0, free: space.missing() }, Some(space.required)),
    }
}

/// Adds what was done to one cache to the run. How a run of all caches goes on is not for one index to say.
fn book(mut done: Outcome, outcome: &mut Outcome) {
    let stopped = done.stopped.take();
    outcome.add(done);
    match stopped {
        None => {}
        Some(Refusal::Interrupted) => outcome.stopped = Some(Refusal::Interrupted),
        Some(refusal) => outcome.errors.push(EntryError {
            name: "index".to_owned(),
            action: "change",
            message: format!("{:#}", refusal.into_error()),
        }),
    }
}

impl ImageCache for GlanceCache<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.dir.fd(Place::Base).expect("the cache directory itself is always open")
    }

    fn lock(&mut self, wait: &Wait) -> Result<()> {
        refuse_strange(&self.settings, &self.dir).map_err(plain)?;
        if crate::host::glance::open::is_empty(&self.dir).map_err(plain)? {
            return Ok(());
        }
        let output = &self.host.context.output;
        let locks = self.settings.lock_dir(&self.dir, output).map_err(plain)?;
        let name = if self.host.task == Task::Clean { CLEAN } else { PRUNE };
        match locks.take(name, wait)? {
            Locking::Held(lock) => self.lock = Some(lock),
            Locking::NoSpace(why) => output.warning(&format!("{why}: going on without the lock")),
            Locking::Busy(who) => return Err(Held(who).into()),
            Locking::Interrupted => return Err(anyhow!("stopped by a signal")),
        }
        Ok(())
    }

    fn survey(&mut self, rules: &Rules, _: &[(u64, u64)]) -> Result<Stock> {
        let mut stock = Stock::default();
        refuse_strange(&self.settings, &self.dir).map_err(plain)?;
        if crate::host::glance::open::is_empty(&self.dir).map_err(plain)? {
            return Ok(stock);
        }
        self.survey_leftovers(&mut stock)?;
        // A clean needs no index, here as elsewhere.
        if self.host.task != Task::Clean {
            self.survey_images(rules, &mut stock)?;
        }
        Ok(stock)
    }

    fn name(&self, item: u32) -> String {
        let images = self.cache.as_ref().map(|cache| &cache.inventory.images);
        let position = self.order[item as usize] as usize;
        images.map(|images| images[position].id.to_string()).unwrap_or_default()
    }

    fn remove(
        &mut self,
        items: &[u32],
        target: &mut Target<'_, '_>,
        _: &'static str,
        run: &mut Removing<'_>,
    ) {
        let limits = self.clean_limits().unwrap_or(CleanLimits { stall_time: Nanos::MAX, invalid_grace: 0 });
        let Some(cache) = &mut self.cache else { return };
        let (goal, min_free) = goal(target);
        let candidates = items.iter().map(|item| self.order[*item as usize]).collect();
        let plan = PrunePlan { candidates, kept: Vec::new(), goal };
        let (context, dir) = (self.host.context, &self.dir);
        let mut executor = Executor {
            dir,
            index: &mut *cache.index,
            wait: run.wait,
            progress: run.progress,
            pace: Pace::default(),
        };
        let done = executor.prune(&cache.inventory, &plan, &|| room(context, dir, limits), min_free);
        // They are forgotten once, however often images are taken from this cache.
        cache.inventory.ghosts.clear();
        match target {
            Target::All => {}
            Target::Size(left) => *left = left.saturating_sub(done.bytes).saturating_sub(done.bytes_gone),
            Target::Room(space) => space.measure(),
        }
        book(done, &mut run.outcome);
    }

    fn leftovers(&self) -> Vec<Told> {
        let told = self.clean.entries().map(|(reason, entry)| Told {
            name: reason.place().show(entry.name.as_name()),
            reason: match reason {
                plan::CleanReason::Invalid => "invalid".to_owned(),
                plan::CleanReason::Stalled => "stalled".to_owned(),
            },
            files: 1,
            bytes: entry.seen.allocated,
        });
        told.collect()
    }

    fn clean(&mut self, run: &mut Removing<'_>) {
        execute::clean(&self.dir, &self.clean, run.wait, run.progress, &mut run.outcome);
    }
}
