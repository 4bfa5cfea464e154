//! Opens a Glance cache: the directory, its lock, its index, and what both hold together.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;

use crate::cache::dir::{CacheDir, Place};
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::index::xattr::{Attribute, hits};
use crate::cache::index::{Driver, Index, NoRows};
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::lock::{Lock, LockDir, Locking};
use crate::cache::outcome::EntryError;
use crate::config::Setting;
use crate::database::{Opening, Purpose};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Settings;
use crate::interrupt::{Wait, signal_name};
use crate::ops::report::Run;
use crate::os::mounts::mount_of;
use crate::run::Context;

/// Refuses a directory that holds things and is no cache. No index is opened for that: a file of its name is enough.
pub(crate) fn refuse_strange(settings: &Settings, dir: &CacheDir) -> Result<(), Failure> {
    if dir.has_subdirectories() {
        return Ok(());
    }
    let inventory = Inventory::scan(dir, Tracking::ByRow).map_err(Failure::cannot_start)?;
    let has_index =
        rustix::fs::lstat(dir.path().join(&settings.sqlite_db.value)).is_ok_and(|stat| stat.st_size > 0);
    let is_empty = inventory.images.is_empty() && inventory.foreign.is_empty();
    // Whether the central index knows these images is found out before anything happens to them.
    let is_central = settings.driver.as_ref().is_some_and(|driver| driver.value == Driver::CentralizedDb)
        && !inventory.images.is_empty();
    if is_empty || has_index || is_central || crate::host::glance::open::has_attributes(dir, &inventory) {
        return Ok(());
    }
    Err(no_cache(settings, dir))
}

/// Whether the directory holds nothing at all: then nothing is made there, not even a lock file.
pub(crate) fn is_empty(dir: &CacheDir) -> Result<bool, Failure> {
    dir.is_empty().map_err(Failure::cannot_start)
}

/// How long a command that only looks waits for a busy index before it does without.
pub(crate) const GLANCE_PATIENCE: Duration = Duration::from_secs(2);

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
    pub(crate) central: Option<crate::host::glance::central::Place>,
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
            let cache =
                crate::host::glance::central::stock(settings, purpose, wait, format!("set by {origin}"))?;
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
    if let Some(cache) = crate::host::glance::central::detect(settings, purpose, wait)? {
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
            mount_of(dir.path()).map_or_else(|| "an unknown place".to_owned(), |mount| mount.point)
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
