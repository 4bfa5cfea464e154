//! The image caches of a host: the kinds of caches, and where the configuration puts them.
//!
//! A kind of cache has a name and a priority, finds its cache in the configuration, and opens it. Nothing
//! outside this folder names a kind. **A new kind needs a file here and a line in `KINDS` of
//! [`kinds`].**
//!
//! In a section `[image_cache:NAME]` of the configuration, an operator sets the priority, size and age of the
//! cache that a kind finds (NAME is the name of the kind), or declares a further cache. Nothing in this file
//! opens, creates or changes anything in a cache.

pub(crate) mod cache;
pub(crate) mod gather;
pub(crate) mod glance;
mod ironic;
mod kinds;
pub(crate) mod order;

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::cache::lock::LockWait;
use crate::config::{self, Config, ConfigSource, Origin, Setting};
use crate::exit::Failure;
use crate::host::cache::ImageCache;
use crate::host::glance::settings::Selection;
use crate::run::Run;
use crate::units::{Amount, Nanos, TimeSpan};

/// A kind of image cache.
pub(crate) trait CacheKind: Sync {
    /// Returns its name in configuration and output.
    fn name(&self) -> &'static str;

    /// Returns its default priority. If space is needed, images are removed first from the cache with the
    /// highest priority.
    fn priority(&self) -> u32;

    /// Returns the cache of this kind in the host's configuration, or `None` if there is none.
    fn find(&self, host: &Host<'_>) -> Result<Option<ConfiguredCache>>;

    /// Opens a cache of this kind. Returns `None` if the directory does not exist.
    fn open<'a>(
        &self,
        host: &'a Host<'a>,
        cache: &Declared,
    ) -> Result<Option<Box<dyn ImageCache + 'a>>, Failure>;
}

/// A cache as its own service's configuration describes it.
#[derive(Debug)]
pub(crate) struct ConfiguredCache {
    directory: Setting<PathBuf>,
    size: Setting<Amount>,
    /// `None` if its images do not expire.
    age: Option<Setting<Nanos>>,
}

/// A cache of the host, with the values that the operator has set.
#[derive(Clone)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) kind: &'static dyn CacheKind,
    pub(crate) priority: u32,
    pub(crate) directory: Setting<PathBuf>,
    pub(crate) size: Setting<Amount>,
    /// `None` if its images do not expire.
    pub(crate) age: Option<Setting<Nanos>>,
}

/// The kind of work that is done on the caches. It decides which locks are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    Look,
    Prune,
    Clean,
    /// A clean that also repairs the index.
    Repair,
}

/// The caches that an operation covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// The Glance cache that the settings name. If it cannot be opened, locked or scanned, the run fails.
    One,
    /// Every cache of the host. If one of them cannot be opened, locked or scanned, this is reported as an
    /// error, and the run continues with the others.
    All,
}

/// This host: its configuration, and the values that the command line adds.
pub(crate) struct Host<'a> {
    pub(crate) run: &'a Run,
    pub(crate) selection: Selection,
    pub(crate) config: Config,
    pub(crate) scope: Scope,
    pub(crate) task: Task,
    pub(crate) lock_wait: LockWait,
    /// The limit of the one cache, from the command line.
    pub(crate) max_size: Option<Amount>,
    pub(crate) stall_time: Option<TimeSpan>,
    pub(crate) invalid_grace: Nanos,
    /// Ask Glance's database which images it still serves, so that the others are removed first.
    pub(crate) asks_records: bool,
    pub(crate) ironic_sources: Vec<ConfigSource>,
    ironic: OnceCell<Result<Config, String>>,
}

impl<'a> Host<'a> {
    pub(crate) fn new(
        run: &'a Run,
        selection: Selection,
        config: Config,
        (scope, task): (Scope, Task),
        lock_wait: LockWait,
    ) -> Self {
        Host {
            run,
            selection,
            config,
            scope,
            task,
            lock_wait,
            max_size: None,
            stall_time: None,
            invalid_grace: 0,
            asks_records: false,
            ironic_sources: Vec::new(),
            ironic: OnceCell::new(),
        }
    }

    /// Returns Ironic's configuration. It is read on the first call.
    pub(crate) fn ironic(&self) -> Result<&Config> {
        let config = self.ironic.get_or_init(|| {
            let request = config::ConfigSearch {
                project: &config::IRONIC,
                program: "ironic-conductor".to_owned(),
                sources: self.ironic_sources.clone(),
                environment: self.run.environment.clone(),
                root: PathBuf::from("/"),
                pass_over_unreadable: false,
            };
            Config::load(&request).map_err(|e| format!("{e:#}"))
        });
        config.as_ref().map_err(|e| anyhow!(e.clone()))
    }
}

/// Converts a number in the service's own unit to bytes or nanoseconds, and keeps its origin.
fn scaled(setting: Setting<i64>, unit: i64) -> Setting<i64> {
    setting.map(|number| number.saturating_mul(unit))
}

impl Declared {
    /// True if the directory is set somewhere, and is not just a default.
    fn is_configured(&self) -> bool {
        self.directory.origin != Origin::Default
    }
}
