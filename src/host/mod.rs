//! The image caches of a host: which kinds there are, and where the configuration puts them.
//!
//! A kind of cache brings its name, its priority, its place in the configuration, and how it is opened. Nothing outside
//! this room names a kind. **A new kind is a file here and a line in [`KINDS`].**
//!
//! In sections `[image_cache:NAME]` of our own configuration an operator sets priority, size and age of a cache that a
//! kind found (NAME is the kind's), or declares a further cache. Nothing in this file opens, makes or changes anything in
//! a cache.

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
static KINDS: &[&dyn Kind] = &[&glance::GLANCE, &ironic::ISO, &ironic::INSTANCE, &ironic::TFTP];

/// What the sections of further caches begin with.
const SECTION: &str = "image_cache:";

/// A kind of image cache.
pub(crate) trait Kind: Sync {
    /// Returns its name in configuration and output.
    fn name(&self) -> &'static str;

    /// Returns its priority: when space is needed, images of a higher priority are removed first.
    fn priority(&self) -> u32;

    /// Returns the cache of this kind that the host's configuration has, if any.
    fn find(&self, host: &Host<'_>) -> Result<Option<Place>>;

    /// Opens a cache of this kind; `None` if the directory does not exist.
    fn open<'a>(
        &self,
        host: &'a Host<'a>,
        cache: &Declared,
    ) -> Result<Option<Box<dyn ImageCache + 'a>>, Failure>;
}

/// A cache as its own service's configuration describes it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: Setting<PathBuf>,
    pub(crate) size: Setting<Amount>,
    /// `None` when its images do not expire.
    pub(crate) age: Option<Setting<Nanos>>,
}

/// A cache on the list.
#[derive(Clone)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) kind: &'static dyn Kind,
    pub(crate) priority: u32,
    pub(crate) directory: Setting<PathBuf>,
    pub(crate) size: Setting<Amount>,
    pub(crate) age: Option<Setting<Nanos>>,
}

/// What is done with the caches. It decides which locks are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    Look,
    Prune,
    Clean,
    /// A clean that repairs the index, too.
    Repair,
}

/// The caches an operation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// The Glance cache that the settings name. What fails with it fails the run, with its exit code.
    One,
    /// Every cache of the host. What fails with one is an error, and the others go on.
    All,
}

/// This host: its configuration, and what the command line adds to it.
pub(crate) struct Host<'a> {
    pub(crate) run: &'a Run,
    pub(crate) selection: Selection,
    pub(crate) config: Config,
    pub(crate) scope: Scope,
    pub(crate) task: Task,
    pub(crate) lock_wait: LockWait,
    /// The limit that the command line gives to the one cache.
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

    /// Returns Ironic's configuration, which is read when it is first asked for.
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

    /// Returns the one Glance cache that the settings name. Its limit counts only where it is pruned.
    pub(crate) fn the_one(&self) -> Result<Declared, Failure> {
        let kind: &'static dyn Kind = &glance::GLANCE;
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

/// Finds all caches of the host, sorted by priority. A mistake in the configuration of one cache keeps only that one
/// from the list.
pub(crate) fn find_all(host: &Host<'_>) -> (Vec<Declared>, Vec<EntryError>) {
    let mut list = List::new();
    let mut errors: Vec<EntryError> = Vec::new();
    let mut add = |name: &str, declared: Result<Option<Declared>>| match declared {
        Ok(Some(declared)) => list.add(declared.priority, declared),
        Ok(None) => {}
        Err(e) => {
            let message = format!("{e:#}");
            // One file that cannot be read is one error, however many kinds are configured in it.
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

/// Refuses a relative path: its service and a cron job have different working directories.
fn placed(found: Option<Declared>) -> Result<Option<Declared>> {
    if let Some(Declared { directory: Setting { value, origin }, .. }) = &found
        && !matches!(origin, Origin::Flag(_))
        && value.is_relative()
    {
        bail!("{origin}: directory is \"{}\", but must be an absolute path", value.display());
    }
    Ok(found)
}

fn kind_of(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// Returns the cache that a kind finds, with the values that the operator's section sets.
fn found(host: &Host<'_>, kind: &'static dyn Kind) -> Result<Option<Declared>> {
    let Some(Place { directory, size, age }) = kind.find(host)? else { return Ok(None) };
    let section = format!("{SECTION}{}", kind.name());
    for name in ["directory", "kind"] {
        if let Some(set) = host.config.optional(&text(&section, name))? {
            bail!(
                "{}: {name} of {} cannot be set: its own service's configuration has it",
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

/// Returns a cache that only the operator's section declares.
fn declared(host: &Host<'_>, section: &str, name: &str) -> Result<Declared> {
    if name.trim().is_empty() {
        bail!("[{section}] names no cache: the section is [{SECTION}NAME]");
    }
    let required = |option: &str, set: Option<_>| {
        set.ok_or_else(|| anyhow!("[{section}] sets no {option}: directory, kind and size are needed"))
    };
    let kind: Setting<String> = required("kind", host.config.optional(&text(section, "kind"))?)?;
    let Some(found) = kind_of(&kind.value) else {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
        bail!("{}: kind is {:?}, but must be one of {}", kind.origin, kind.value, names.join(", "));
    };
    let directory = required("directory", host.config.optional(&text(section, "directory"))?)?;
    let Some(size) = size_of(host, section)? else {
        bail!("[{section}] sets no size: directory, kind and size are needed");
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

fn priority(host: &Host<'_>, section: &str, kind: &dyn Kind) -> Result<u32> {
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

/// Returns a value written as on our command line: `20GiB`, `7d`.
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

/// Returns a number of the service's own unit as bytes or nanoseconds, with its origin.
fn scaled(setting: Setting<i64>, unit: i64) -> Setting<i64> {
    setting.map(|number| number.saturating_mul(unit))
}

impl Declared {
    /// True if a setting says that there is such a cache, and not only a default.
    pub(crate) fn is_configured(&self) -> bool {
        self.directory.origin != Origin::Default
    }
}
