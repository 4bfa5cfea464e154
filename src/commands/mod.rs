//! The subcommands, and what they share: reading the configuration, opening the cache, choosing its index.
//!
//! Each command is one file: gather, decide, act, tell. The clock is read once, in `main`, and handed on.

mod central;
pub(crate) mod clean;
pub(crate) mod flags;
mod fleet;
pub(crate) mod host;
pub(crate) mod legacy;
pub(crate) mod list;
pub(crate) mod prefetch;
pub(crate) mod prune;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;

use self::central::CentralSettings;
use crate::cache::dir::{CacheDir, Place};
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::index::xattr::{Attribute, hits};
use crate::cache::index::{Driver, Index, NoRows};
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{Lock, LockDir, Locking};
use crate::cache::outcome::{EntryError, Outcome};
use crate::commands::flags::{CacheArgs, ChangeArgs};
use crate::config::{self, Config, Origin, Setting, Source};
use crate::database::{Opening, Purpose, Refusal};
use crate::exit::{Exit, Failure};
use crate::interrupt::{Interrupt, Wait, signal_name};
use crate::os::mounts::mount_point;
use crate::os::space::capacity;
use crate::output::report::Run;
use crate::output::{Output, Report};
use crate::units::{Amount, Nanos, SECOND};

/// How long a command that only looks waits for a busy index before it does without.
pub(crate) const GLANCE_PATIENCE: Duration = Duration::from_secs(2);

/// What a run has from the outside world.
pub(crate) struct Context {
    /// When the run began.
    pub(crate) now: Nanos,
    /// The name called by: it decides which default configuration directories are read.
    pub(crate) program: &'static str,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) interrupt: Interrupt,
    pub(crate) output: Output,
}

impl Context {
    /// From here on a signal ends the run between two entries. Called when everything typed has been read: until then, and in
    /// commands that only look, it ends the process at once.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        self.interrupt.register().context("cannot catch SIGINT and SIGTERM").map_err(Failure::cannot_start)
    }
}

/// Which cache, from the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) sources: Vec<Source>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) driver: Option<Driver>,
    pub(crate) sqlite_db: Option<PathBuf>,
    pub(crate) central: central::Given,
}

impl From<CacheArgs> for Selection {
    fn from(args: CacheArgs) -> Self {
        Selection {
            sources: args.sources.0,
            cache_dir: args.cache_dir,
            driver: args.driver.map(Into::into),
            sqlite_db: args.sqlite_db,
            central: central::Given {
                node: args.node,
                database: args.database,
                database_file: args.database_file,
            },
        }
    }
}

/// The settings of a cache, each with where it came from.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) cache_dir: Setting<PathBuf>,
    /// `None` when neither the command line nor the configuration names one.
    pub(crate) driver: Option<Setting<Driver>>,
    /// What is wrong with `image_cache_driver`: whoever needs the index fails with it, nobody else.
    pub(crate) index_problem: Option<String>,
    pub(crate) sqlite_db: Setting<PathBuf>,
    pub(crate) central: CentralSettings,
    /// Whether the settings of the index belong to another directory than the one that was asked for.
    pub(crate) elsewhere: bool,
}

/// What stands where the cache should be.
pub(crate) enum Opened {
    /// Nothing: the text says why there is nothing to do.
    Nothing(String),
    Cache(CacheDir),
}

impl Settings {
    /// Reads the configuration and overlays the command line.
    pub(crate) fn load(context: &Context, selection: Selection) -> Result<Self, Failure> {
        let config = Self::read(context, selection.sources.clone(), false)?;
        Self::overlay(config, selection)
    }

    /// As [`Settings::load`], for looking: where the cache is named on the command line, files that an ordinary user may not
    /// read are no obstacle.
    pub(crate) fn load_to_look(context: &Context, selection: Selection) -> Result<Self, Failure> {
        let config = Self::read(context, selection.sources.clone(), selection.cache_dir.is_some())?;
        for path in config.files_passed_over() {
            context.output.warning(&format!("no permission to read {}: doing without it", path.display()));
        }
        Self::overlay(config, selection)
    }

    /// Reads the configuration files.
    pub(crate) fn read(
        context: &Context,
        sources: Vec<Source>,
        pass_over_unreadable: bool,
    ) -> Result<Config, Failure> {
        let request = config::Request {
            project: &config::GLANCE,
            program: context.program.to_owned(),
            sources,
            environment: context.environment.clone(),
            root: PathBuf::from("/"),
            pass_over_unreadable,
        };
        Config::load(&request).map_err(Failure::usage)
    }

    pub(crate) fn overlay(config: Config, selection: Selection) -> Result<Self, Failure> {
        let Selection { cache_dir, driver, sqlite_db, central, .. } = selection;
        let configured = config.optional(&config::IMAGE_CACHE_DIR);
        let (cache_dir, elsewhere) = match (cache_dir, configured) {
            (Some(given), _) => {
                let elsewhere = is_elsewhere(&config, &given);
                (Setting { value: given, origin: Origin::Flag("--cache-dir") }, elsewhere)
            }
            (None, Ok(Some(configured))) => (configured.map(PathBuf::from), false),
            (None, Ok(None)) => {
                return Err(Failure::usage(anyhow!("image_cache_dir is not set"))
                    .hint("give --cache-dir DIR, or --config-file with the file that sets it"));
            }
            (None, Err(e)) => return Err(Failure::usage(e)),
        };
        let mut index_problem = None;
        let driver = match driver {
            Some(driver) => Some(Setting { value: driver, origin: Origin::Flag("--driver") }),
            None if elsewhere => None,
            None => configured_driver(&config).unwrap_or_else(|e| {
                index_problem = Some(format!("{e:#}"));
                None
            }),
        };
        let sqlite_db = match sqlite_db {
            Some(file) => Setting { value: file, origin: Origin::Flag("--sqlite-db") },
            None if elsewhere => Setting { value: PathBuf::from("cache.db"), origin: Origin::Default },
            None => config.text(&config::IMAGE_CACHE_SQLITE_DB).map_err(Failure::usage)?.map(PathBuf::from),
        };
        let central = CentralSettings::resolve(&config, central, elsewhere)?;
        Ok(Settings { config, cache_dir, driver, index_problem, sqlite_db, central, elsewhere })
    }

    /// Opens the cache directory.
    ///
    /// A configured directory that is missing is nothing to do; one that was asked for by name is a mistake.
    pub(crate) fn open(&self) -> Result<Opened, Failure> {
        let path = &self.cache_dir.value;
        let opened = CacheDir::open(path).map_err(|e| match e.downcast_ref::<Errno>() {
            Some(&Errno::NOTDIR | &Errno::LOOP) => {
                Failure::usage(e.context(format!("{} is set by {}", path.display(), self.cache_dir.origin)))
            }
            Some(&Errno::ACCESS | &Errno::PERM) => {
                Failure::cannot_start(e).hint("run as the user glance-api runs as")
            }
            _ => Failure::cannot_start(e),
        })?;
        match opened {
            Some(dir) => Ok(Opened::Cache(dir)),
            None if self.cache_dir.origin == Origin::Flag("--cache-dir") => {
                Err(Failure::usage(anyhow!("cache directory {} does not exist", path.display())))
            }
            None => Ok(Opened::Nothing(format!(
                "cache directory {} (set by {}) does not exist",
                path.display(),
                self.cache_dir.origin
            ))),
        }
    }

    /// The limit in bytes: the command line's, else `image_cache_max_size`.
    pub(crate) fn max_size(&self, given: Option<Amount>, dir: &CacheDir) -> Result<Setting<u64>, Failure> {
        match given {
            Some(amount) => {
                let whole = dir.statvfs().map_err(Failure::cannot_start)?;
                Ok(Setting { value: amount.of(capacity(&whole)), origin: Origin::Flag("--max-size") })
            }
            None => {
                let max = self.config.integer(&config::IMAGE_CACHE_MAX_SIZE).map_err(Failure::usage)?;
                Ok(max.map(i64::unsigned_abs))
            }
        }
    }

    /// The stall time: the command line's, else `image_cache_stall_time`.
    pub(crate) fn stall_time(
        &self,
        given: Option<crate::units::TimeSpan>,
    ) -> Result<Setting<Nanos>, Failure> {
        match given {
            Some(duration) => Ok(Setting { value: duration.0, origin: Origin::Flag("--stall-time") }),
            None => {
                let seconds = self.config.integer(&config::IMAGE_CACHE_STALL_TIME).map_err(Failure::usage)?;
                Ok(seconds.map(|seconds| seconds.saturating_mul(SECOND)))
            }
        }
    }

    /// Opens the directory of the lock files.
    ///
    /// One that is configured but not there is passed over, as `-v` tells: the old tools took no locks, and whoever has no such
    /// directory shares none with us. The same goes for one that cannot be written: [`take_lock`].
    pub(crate) fn lock_dir(&self, dir: &CacheDir, output: &Output) -> Result<LockDir, Failure> {
        let configured = self.config.optional(&config::LOCK_PATH).map_err(Failure::usage)?;
        if let Some(lock_path) = configured {
            match LockDir::open(Some(Path::new(&lock_path.value)), dir) {
                Ok(locks) => return Ok(locks),
                Err(e) => output.note(&format!(
                    "{e:#} (set by {}): locking in the cache directory instead",
                    lock_path.origin
                )),
            }
        }
        LockDir::open(None, dir).map_err(Failure::cannot_start)
    }
}

/// `image_cache_driver`, if it is set. The default is no setting: what the directory shows is better evidence.
fn configured_driver(config: &Config) -> anyhow::Result<Option<Setting<Driver>>> {
    let driver = config.choice(&config::IMAGE_CACHE_DRIVER)?;
    if driver.origin == Origin::Default {
        return Ok(None);
    }
    Ok(Some(driver.map(|name| match name {
        "sqlite" => Driver::Sqlite,
        "xattr" => Driver::Xattr,
        _ => Driver::CentralizedDb,
    })))
}

/// Whether a directory is another than the configured one, so that the index settings are none of its.
fn is_elsewhere(config: &Config, given: &Path) -> bool {
    let configured = config.optional(&config::IMAGE_CACHE_DIR).ok().flatten();
    !configured.is_some_and(|configured| is_same_directory(given, Path::new(&configured.value)))
}

/// Whether two paths lead to the same directory; when either leads nowhere, whether they are spelt the same.
fn is_same_directory(a: &Path, b: &Path) -> bool {
    match (rustix::fs::stat(a), rustix::fs::stat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => a.components().eq(b.components()),
    }
}

/// A cache, scanned and joined with its index.
pub(crate) struct Cache {
    pub(crate) inventory: Inventory,
    pub(crate) index: Box<dyn Index>,
    /// `None` when nothing shows and nothing is set, which only an empty cache may be.
    pub(crate) driver: Option<Driver>,
    /// Why it is that driver.
    pub(crate) why: String,
    /// Where the index is, when it is a file.
    pub(crate) index_path: Option<PathBuf>,
    /// Where the index is, when it is the central database.
    pub(crate) central: Option<central::Place>,
    /// Things about the index that somebody should look at.
    pub(crate) warnings: Vec<String>,
}

/// Scans a cache directory and opens its index.
///
/// A directory that holds things but looks like no image cache is refused before anything else happens.
pub(crate) fn take_stock(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    purpose: Purpose,
    wait: &Wait,
) -> Result<Cache, Failure> {
    if let Some(problem) = &settings.index_problem {
        return Err(Failure::usage(anyhow!("{problem}")));
    }
    let wait = if purpose == Purpose::Look {
        &Wait { limit: wait.limit.min(GLANCE_PATIENCE), interrupt: context.interrupt.clone() }
    } else {
        wait
    };
    let scan = || Inventory::scan(dir, Tracking::ByRow).map_err(Failure::cannot_start);
    // The index first: it may be waited for, and what Glance caches meanwhile must be in the scan.
    let (mut inventory, mut cache) = match &settings.driver {
        Some(Setting { value: Driver::Sqlite, origin }) => {
            let found = open_sqlite(context, settings, dir, purpose, wait)?;
            (scan()?, with_sqlite(found, format!("set by {origin}")))
        }
        Some(Setting { value: Driver::Xattr, origin }) => {
            (scan()?, Cache::by_file(format!("set by {origin}")))
        }
        Some(Setting { value: Driver::CentralizedDb, origin }) => {
            let cache = central::stock(settings, purpose, wait, format!("set by {origin}"))?;
            (scan()?, cache)
        }
        None => detect(context, settings, dir, purpose, wait, scan)?,
    };
    inventory.tracking = std::mem::take(&mut cache.inventory.tracking);
    let is_central = cache.driver == Some(Driver::CentralizedDb);
    if !is_central {
        refuse_if_no_cache(settings, dir, &inventory, &cache)?;
    }
    if cache.driver == Some(Driver::Xattr) {
        need_attributes(dir)?;
    }
    let mut joiner = inventory.joiner();
    cache.index.read(wait, &mut joiner).map_err(Failure::cannot_start)?;
    if cache.index.is_transactional() {
        inventory.look_again(dir);
    }
    if is_central {
        // What the index is worth here, only its rows tell.
        refuse_if_no_cache(settings, dir, &inventory, &cache)?;
    }
    cache.inventory = inventory;
    Ok(cache)
}

impl Cache {
    fn by_file(why: String) -> Self {
        let inventory = Inventory { tracking: Tracking::ByFile, ..Inventory::default() };
        Cache {
            inventory,
            index: Box::new(NoRows),
            driver: Some(Driver::Xattr),
            why,
            index_path: None,
            central: None,
            warnings: Vec::new(),
        }
    }
}

fn open_sqlite(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    purpose: Purpose,
    wait: &Wait,
) -> Result<(Opening<Sqlite>, PathBuf), Failure> {
    let location = locate(dir, &settings.sqlite_db.value).map_err(|e| {
        Failure::cannot_start(
            e.context(format!("image_cache_sqlite_db is set by {}", settings.sqlite_db.origin)),
        )
    })?;
    let path = location.path().to_owned();
    let mut found = Sqlite::open(location, purpose, wait).map_err(Failure::cannot_start)?;
    if let Opening::Open(index) = &mut found
        && purpose != Purpose::Look
    {
        index.guard_start(settings.lock_dir(dir, &context.output)?.start_gate());
    }
    Ok((found, path))
}

fn with_sqlite((found, path): (Opening<Sqlite>, PathBuf), why: String) -> Cache {
    let mut warnings = Vec::new();
    let (index, tracking): (Box<dyn Index>, _) = match found {
        Opening::Open(index) => (Box::new(index), Tracking::ByRow),
        Opening::Nothing(_) => {
            warnings.push(format!(
                "image index {} does not exist or is empty: no image is tracked",
                path.display()
            ));
            (Box::new(NoRows), Tracking::ByRow)
        }
        Opening::Unreadable(why) => (Box::new(NoRows), Tracking::Unknown(why)),
    };
    let inventory = Inventory { tracking, ..Inventory::default() };
    Cache {
        inventory,
        index,
        driver: Some(Driver::Sqlite),
        why,
        index_path: Some(path),
        central: None,
        warnings,
    }
}

/// No driver is set: the directory shows which one it is.
fn detect(
    context: &Context,
    settings: &Settings,
    dir: &CacheDir,
    purpose: Purpose,
    wait: &Wait,
    scan: impl FnOnce() -> Result<Inventory, Failure>,
) -> Result<(Inventory, Cache), Failure> {
    if let Some(cache) = central::detect(settings, purpose, wait)? {
        return Ok((scan()?, cache));
    }
    let found = open_sqlite(context, settings, dir, purpose, wait)?;
    let inventory = scan()?;
    if !matches!(found.0, Opening::Nothing(_)) {
        let why = format!("found {}", found.1.display());
        return Ok((inventory, with_sqlite(found, why)));
    }
    if has_attributes(dir, &inventory) {
        return Ok((inventory, Cache::by_file("found user.hits on images".to_owned())));
    }
    let mut cache = Cache::by_file("nothing shows which".to_owned());
    cache.driver = None;
    if inventory.images.is_empty() {
        return Ok((inventory, cache));
    }
    if purpose == Purpose::Look {
        cache.inventory.tracking =
            Tracking::Unknown("nothing in the directory shows which index it has".to_owned());
        return Ok((inventory, cache));
    }
    Err(Failure::usage(anyhow!(
        "{} holds images, but nothing shows which index it has",
        dir.path().display()
    ))
    .hint("set image_cache_driver, or give --driver; centralized_db needs [database] connection and worker_self_reference_url, too"))
}

/// Whether Glance's xattr driver has left its mark on an image.
pub(crate) fn has_attributes(dir: &CacheDir, inventory: &Inventory) -> bool {
    let Some(base) = dir.fd(Place::Base) else {
        return false;
    };
    inventory.images.iter().any(|image| matches!(hits(base, image.id.as_name()), Attribute::Value(_)))
}

/// The xattr driver cannot have worked where there are no extended attributes: the setting is wrong, or the directory.
fn need_attributes(dir: &CacheDir) -> Result<(), Failure> {
    let Some(base) = dir.fd(Place::Base) else {
        return Ok(());
    };
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(base, "user.hits", &mut value[..]) {
        Err(Errno::NOTSUP) => Err(Failure::cannot_start(anyhow!(
            "the file system of {} has no extended attributes, so the xattr driver cannot be its index",
            dir.path().display()
        ))
        .hint("Glance itself falls back to sqlite there: look for a cache.db, and set image_cache_driver = sqlite")),
        _ => Ok(()),
    }
}

/// Refuses a directory that holds things but has neither a subdirectory nor an index of an image cache.
fn refuse_if_no_cache(
    settings: &Settings,
    dir: &CacheDir,
    inventory: &Inventory,
    cache: &Cache,
) -> Result<(), Failure> {
    let has_index = match cache.driver {
        Some(Driver::Sqlite) => cache.warnings.is_empty(),
        Some(Driver::CentralizedDb) => inventory.images.iter().any(|image| image.row.is_some()),
        _ => false,
    };
    let is_empty =
        inventory.images.is_empty() && inventory.foreign.is_empty() && inventory.unreadable.is_empty();
    if dir.has_subdirectories() || has_index || is_empty || has_attributes(dir, inventory) {
        return Ok(());
    }
    Err(no_cache(settings, dir))
}

pub(crate) fn no_cache(settings: &Settings, dir: &CacheDir) -> Failure {
    Failure::usage(anyhow!(
        "{} (set by {}) does not look like an image cache: it holds things, but neither incomplete/, invalid/ or queue/ nor an \
         index; nothing was removed",
        dir.path().display(),
        settings.cache_dir.origin
    ))
}

/// How the wish for a lock ended.
pub(crate) enum Locked {
    /// To be held while the work is done; `None` when there is no room for a lock file.
    Go(Option<Lock>),
    /// Somebody else has it, and that is fine.
    Skip(String),
    /// A signal came while waiting.
    Interrupted,
}

impl Locked {
    /// The lock to hold while the work is done, or how the run ends without it.
    pub(crate) fn or_end(self, context: &Context, run: &mut Run) -> Result<Option<Lock>, Exit> {
        match self {
            Locked::Go(lock) => Ok(lock),
            Locked::Skip(who) => {
                run.skipped = Some(who);
                Err(Exit::Done)
            }
            Locked::Interrupted => {
                let signal = context.interrupt.signal().unwrap_or(SIGTERM);
                run.signal = Some(signal_name(signal));
                Err(Exit::Signal(signal))
            }
        }
    }
}

/// Takes one of oslo's locks, waiting as long as the command line says.
pub(crate) fn take_lock(
    context: &Context,
    dir: &CacheDir,
    locks: &LockDir,
    name: &str,
    wait: &Wait,
    skip_if_locked: bool,
) -> Result<Locked, Failure> {
    let patience = if skip_if_locked { Duration::ZERO } else { wait.limit };
    let wait = Wait { limit: patience, interrupt: wait.interrupt.clone() };
    let taken = locks.take(name, &wait).or_else(|e| match LockDir::open(None, dir) {
        Ok(beside) if !locks.is_cache_directory() => {
            context.output.note(&format!("{e:#}: locking in the cache directory instead"));
            beside.take(name, &wait)
        }
        _ => Err(e),
    });
    match taken {
        Ok(Locking::Held(lock)) => Ok(Locked::Go(Some(lock))),
        Ok(Locking::NoSpace(why)) => {
            context.output.warning(&format!("{why}: going on without the lock"));
            Ok(Locked::Go(None))
        }
        Ok(Locking::Busy(who)) if skip_if_locked => Ok(Locked::Skip(who)),
        Ok(Locking::Busy(who)) => Err(Failure::cannot_start(anyhow!("{who}; nothing was changed"))
            .hint("wait for it with a longer --lock-timeout, or give --skip-if-locked")),
        Ok(Locking::Interrupted) => Ok(Locked::Interrupted),
        Err(e) => Err(Failure::cannot_start(e).hint(format!(
            "run as the user glance-api runs as; a lock file left by root must belong to user {}, like the cache directory",
            dir.owner().uid
        ))),
    }
}

/// How long this run waits for locks and a busy index.
pub(crate) fn wait(context: &Context, change: &ChangeArgs) -> Wait {
    Wait { limit: change.lock_timeout.as_std(), interrupt: context.interrupt.clone() }
}

/// What stands against forgetting rows: most of what the index knows is not in the directory.
pub(crate) fn misplaced(dir: &CacheDir, inventory: &Inventory, forget_all: bool) -> Option<EntryError> {
    (!forget_all && inventory.looks_misplaced()).then(|| EntryError {
        name: dir.path().display().to_string(),
        action: "forget",
        message: format!(
            "{} of {} images in the index are not there; the directory is on the file system mounted at {}, and is probably \
             the wrong one or not mounted; no row was forgotten and no image removed; give --forget-all if they are really gone",
            inventory.ghosts.len(),
            inventory.rows(),
            mount_point(dir)
        ),
    })
}

/// The errors of entries that could not even be looked at.
pub(crate) fn unreadable_errors<'a>(
    unreadable: impl IntoIterator<Item = &'a (Place, crate::cache::dir::Unreadable)>,
) -> Vec<EntryError> {
    unreadable
        .into_iter()
        .map(|(place, (name, errno))| EntryError {
            name: place.show(name.as_name()),
            action: "look",
            message: errno.to_string(),
        })
        .collect()
}

/// Tells the errors of a run on stderr, and how the run ended.
pub(crate) fn conclude(context: &Context, outcome: &Outcome, errors: &[EntryError]) -> Exit {
    for error in errors {
        context.output.error(&format!("cannot {} {}: {}", error.action, error.name, error.message));
    }
    if let Some(signal) =
        context.interrupt.signal().filter(|_| matches!(outcome.stopped, Some(Refusal::Interrupted)))
    {
        return Exit::Signal(signal);
    }
    if errors.is_empty() { Exit::Done } else { Exit::Incomplete }
}

/// The name of the signal that ended a run early.
pub(crate) fn stopped_by(context: &Context, outcome: &Outcome) -> Option<&'static str> {
    let interrupted = matches!(outcome.stopped, Some(Refusal::Interrupted));
    context.interrupt.signal().filter(|_| interrupted).map(signal_name)
}

/// Takes what ended a run early out of its outcome: an error of the run, or, when nothing was changed at all, its failure.
pub(crate) fn check_stopped(outcome: &mut Outcome) -> Result<(), Failure> {
    match outcome.stopped.take() {
        None => Ok(()),
        Some(Refusal::Interrupted) => {
            outcome.stopped = Some(Refusal::Interrupted);
            Ok(())
        }
        Some(refusal) if outcome.is_untouched() => {
            Err(Failure::cannot_start(refusal.into_error().context("nothing was changed")))
        }
        Some(refusal) => {
            let message = format!("{:#}", refusal.into_error());
            outcome.errors.push(EntryError { name: "index".to_owned(), action: "change", message });
            Ok(())
        }
    }
}

/// Prints the report of a change, however it ended: only a run that failed for another reason than a signal has none.
pub(crate) fn tell<R: Report>(
    context: &Context,
    report: &mut R,
    run: impl Fn(&mut R) -> &mut Run,
    ended: Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let ended = match (ended, context.interrupt.signal()) {
        (Err(_), Some(signal)) => {
            run(report).signal = Some(signal_name(signal));
            Exit::Signal(signal)
        }
        (ended, _) => ended?,
    };
    context.output.summary(report);
    Ok(if ended == Exit::Done && context.output.has_failed() { Exit::Incomplete } else { ended })
}

/// Parses a line of a list, naming the place when it is wrong.
pub(crate) fn parse_line<T: FromStr<Err = String>>(text: &str, place: &dyn Display) -> anyhow::Result<T> {
    text.parse().map_err(|e: String| anyhow!(e)).with_context(|| place.to_string())
}
