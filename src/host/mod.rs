//! The image caches of a host: the kinds of caches, and where the configuration puts them.
//!
//! A kind of cache has a name and a priority, finds its cache in the configuration, and opens it. Nothing
//! outside this folder names a kind. **A new kind needs a file here and a line in [`KINDS`].**
//!
//! In a section `[image_cache:NAME]` of the configuration, an operator sets the priority, size and age of the
//! cache that a kind finds (NAME is the name of the kind), or declares a further cache. Nothing in this file
//! opens, creates or changes anything in a cache.

pub(crate) mod cache;
pub(crate) mod gather;
pub(crate) mod glance;
mod ironic;
pub(crate) mod order;

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use crate::cache::lock::LockWait;
use crate::cache::outcome::{Action, EntryError};
use crate::config::{self, Config, ConfigSource, Opt, Origin, Setting};
use crate::exit::Failure;
use crate::host::cache::ImageCache;
use crate::host::glance::settings::{Selection, Settings, max_size};
use crate::host::order::List;
use crate::run::Run;
use crate::units::{Amount, Nanos, TimeSpan};

/// All kinds, in order of registration.
static KINDS: &[&dyn CacheKind] = &[&glance::GLANCE, &ironic::ISO, &ironic::INSTANCE, &ironic::TFTP];

/// The beginning of the names of these sections.
const SECTION: &str = "image_cache:";

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
    lock_wait: LockWait,
    /// The limit of the one cache, from the command line.
    pub(crate) max_size: Option<Amount>,
    pub(crate) stall_time: Option<TimeSpan>,
    pub(crate) invalid_grace: Nanos,
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

    /// Returns the Glance cache that the settings name. Its limit is read only for a prune.
    fn the_one(&self) -> Result<Declared, Failure> {
        let kind: &'static dyn CacheKind = &glance::GLANCE;
        let size = match self.task {
            Task::Prune => max_size(&self.config, self.max_size)?,
            _ => Setting { value: Amount::Bytes(0), origin: Origin::Default },
        };
        Ok(Declared {
            name: kind.name().to_owned(),
            kind,
            priority: kind.priority(),
            directory: Settings::new(&self.config, self.selection.clone())?.cache_dir,
            size,
            age: None,
        })
    }
}

/// Returns all caches of the host, sorted by priority.
///
/// If the configuration of one cache is wrong, an error names this cache, and only this one is left out.
fn find_all(host: &Host<'_>) -> (Vec<Declared>, Vec<EntryError>) {
    let mut list = List::new();
    let mut errors: Vec<EntryError> = Vec::new();
    let mut add = |name: &str, declared: Result<Option<Declared>>| match declared {
        Ok(Some(declared)) => list.add(declared.priority, declared),
        Ok(None) => {}
        Err(e) => {
            let message = format!("{e:#}");
            // A file that cannot be read is reported once, even if several kinds are configured in it.
            if !errors.iter().any(|error| error.message == message) {
                errors.push(EntryError { name: name.to_owned(), action: Action::Find, message });
            }
        }
    };
    for kind in KINDS.iter().copied() {
        add(kind.name(), found(host, kind).and_then(placed));
    }
    for section in host.config.sections() {
        if let Some(name) = section.strip_prefix(SECTION).filter(|name| kind_of(name).is_none()) {
            add(name, declared(host, section, name).map(Some).and_then(placed));
        }
    }
    (list.into_vec(), errors)
}

/// Refuses a relative path, because the service and a cron job have different working directories.
fn placed(found: Option<Declared>) -> Result<Option<Declared>> {
    if let Some(Declared { directory: Setting { value, origin }, .. }) = &found
        && !matches!(origin, Origin::Flag(_))
        && value.is_relative()
    {
        bail!("{origin}: the directory \"{}\" is not an absolute path", value.display());
    }
    Ok(found)
}

fn kind_of(name: &str) -> Option<&'static dyn CacheKind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// Returns the cache that a kind finds, with the values that the operator's section sets.
fn found(host: &Host<'_>, kind: &'static dyn CacheKind) -> Result<Option<Declared>> {
    let Some(ConfiguredCache { directory, size, age }) = kind.find(host)? else { return Ok(None) };
    let section = format!("{SECTION}{}", kind.name());
    for name in ["directory", "kind"] {
        if let Some(set) = host.config.optional(&text(&section, name))? {
            bail!(
                "{}: {name} cannot be set for {}: the service's own configuration sets it",
                set.origin,
                kind.name()
            );
        }
    }
    Ok(Some(Declared {
        name: kind.name().to_owned(),
        kind,
        priority: priority(host, &section, kind)?,
        directory,
        size: size_of(host, &section)?.unwrap_or(size),
        age: age_of(host, &section)?.or(age),
    }))
}

/// Returns a further cache, which only the operator's section declares.
fn declared(host: &Host<'_>, section: &str, name: &str) -> Result<Declared> {
    if name.trim().is_empty() {
        bail!("section [{section}] has no name after the colon: write [{SECTION}NAME]");
    }
    let missing = |option: &str| {
        anyhow!("section [{section}] does not set {option}; it must set directory, kind and size")
    };
    let required = |option: &str, set: Option<_>| set.ok_or_else(|| missing(option));
    let kind: Setting<String> = required("kind", host.config.optional(&text(section, "kind"))?)?;
    let Some(found) = kind_of(&kind.value) else {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
        bail!("{}: kind {:?} does not exist; the kinds are {}", kind.origin, kind.value, names.join(", "));
    };
    let directory = required("directory", host.config.optional(&text(section, "directory"))?)?;
    let Some(size) = size_of(host, section)? else {
        return Err(missing("size"));
    };
    Ok(Declared {
        name: name.to_owned(),
        kind: found,
        priority: priority(host, section, found)?,
        directory: directory.map(PathBuf::from),
        size,
        age: age_of(host, section)?,
    })
}

fn text<'a>(section: &'a str, name: &'a str) -> Opt<'a> {
    Opt::new(section, name, config::ValueKind::Text)
}

fn priority(host: &Host<'_>, section: &str, kind: &dyn CacheKind) -> Result<u32> {
    let opt = Opt::new(section, "priority", config::ValueKind::Integer { min: 1 });
    if host.config.optional(&text(section, "priority"))?.is_none() {
        return Ok(kind.priority());
    }
    let priority = host.config.integer(&opt)?.value;
    Ok(u32::try_from(priority).unwrap_or(u32::MAX))
}

fn size_of(host: &Host<'_>, section: &str) -> Result<Option<Setting<Amount>>> {
    parsed(host, section, "size")
}

fn age_of(host: &Host<'_>, section: &str) -> Result<Option<Setting<Nanos>>> {
    Ok(parsed::<TimeSpan>(host, section, "age")?.map(|age| age.map(|age| age.0)))
}

/// Returns a value that is written as on our command line, such as `20GiB` or `7d`.
fn parsed<T: std::str::FromStr<Err = String>>(
    host: &Host<'_>,
    section: &str,
    name: &str,
) -> Result<Option<Setting<T>>> {
    let Some(Setting { value, origin }) = host.config.optional(&text(section, name))? else {
        return Ok(None);
    };
    let value = value.parse().map_err(|e: String| anyhow!("{origin}: [{section}] {name}: {e}"))?;
    Ok(Some(Setting { value, origin }))
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
