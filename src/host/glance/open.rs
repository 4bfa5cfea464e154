//! Opens a Glance cache: the directory, its lock, its index, and what both hold together.
//!
//! [`take_stock`] returns one finished thing, a [`Cache`]: the entries of the directory joined with the rows of the index.
//! Before that, one gate, [`require_cache`], refuses a directory that holds things but is no image cache. Nothing here
//! removes anything; only [`Purpose::Create`] makes an index where there is none.

use std::time::Duration;

use anyhow::anyhow;
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use crate::cache::dir::{CacheDir, Place, Unreadable};
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::index::xattr::{Attribute, hits};
use crate::cache::index::{Driver, Index};
use crate::cache::inventory::{Inventory, Tracking};
use crate::cache::ledger::Ledger;
use crate::cache::lock::{Lock, LockDir, LockWait, Locking};
use crate::cache::outcome::{Action, EntryError};
use crate::config::Setting;
use crate::database::{Opening, Purpose};
use crate::exit::Failure;
use crate::host::glance::central;
use crate::host::glance::index::{IndexPlace, OpenIndex};
use crate::host::glance::settings::Settings;
use crate::interrupt::Wait;
use crate::os::mounts::mount_point;
use crate::run::Run;

/// How long an operation that only looks waits for a busy index before it goes on without it. It is Glance's own limit.
pub(crate) const GLANCE_PATIENCE: Duration = Duration::from_secs(2);

/// A cache: the entries of its directory, joined with the rows of its index.
pub(crate) struct Cache {
    pub(crate) inventory: Inventory,
    pub(crate) ledger: Ledger,
    /// `None` when no setting names a driver and the directory shows none, which only an empty cache may be.
    pub(crate) driver: Option<Driver>,
    /// Why it is that driver.
    pub(crate) why: String,
    pub(crate) place: IndexPlace,
    /// Set when the index file does not exist or is empty.
    pub(crate) warning: Option<String>,
}

/// Scans a cache directory, opens its index and joins the two.
pub(crate) fn take_stock(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    purpose: Purpose,
    wait: &Wait,
) -> Result<Cache, Failure> {
    let patience = if purpose == Purpose::Look { wait.limit.min(GLANCE_PATIENCE) } else { wait.limit };
    let wait = &run.wait(patience);
    let at = Opener { run, settings, dir, purpose, wait };
    // The index is opened before the directory is scanned: it may be waited for, and what Glance caches meanwhile must
    // be in the scan.
    let (open, mut inventory) = match settings.driver()? {
        Some(Setting { value, origin }) => (at.named(value, format!("set by {origin}"))?, at.scan()?),
        None => at.detect()?,
    };
    let is_evidence = open.is_evidence();
    let OpenIndex { index, driver, tracking, why, place, warning } = open;
    inventory.tracking = tracking;
    let mut ledger = Ledger::new(index, wait.clone());
    ledger.read(&mut inventory.joiner()).map_err(Failure::cannot_start)?;
    if ledger.has_rows() {
        inventory.look_again(dir);
    }
    let knows_images =
        driver == Some(Driver::CentralizedDb) && inventory.images.iter().any(|image| image.row.is_some());
    require_cache(settings, dir, &inventory, is_evidence || knows_images)?;
    if driver == Some(Driver::Xattr) {
        need_attributes(dir)?;
    }
    Ok(Cache { inventory, ledger, driver, why, place, warning })
}

/// Everything that opening an index needs.
struct Opener<'a> {
    run: &'a Run,
    settings: &'a Settings<'a>,
    dir: &'a CacheDir,
    purpose: Purpose,
    wait: &'a Wait,
}

impl Opener<'_> {
    fn scan(&self) -> Result<Inventory, Failure> {
        Inventory::scan(self.dir, Tracking::ByRow).map_err(Failure::cannot_start)
    }

    /// Opens the index of the driver that a setting names.
    fn named(&self, driver: Driver, why: String) -> Result<OpenIndex, Failure> {
        match driver {
            Driver::Sqlite => self.sqlite(why),
            Driver::Xattr => Ok(OpenIndex::by_file(Some(Driver::Xattr), why)),
            Driver::CentralizedDb => central::open(&self.settings.database, self.purpose, self.wait, why),
        }
    }

    /// Opens the index that the database or the directory shows, where no setting names a driver.
    fn detect(&self) -> Result<(OpenIndex, Inventory), Failure> {
        if let Some(open) = central::detect(&self.settings.database, self.purpose, self.wait)? {
            return Ok((open, self.scan()?));
        }
        let mut sqlite = self.sqlite(String::new())?;
        let inventory = self.scan()?;
        if sqlite.warning.is_none() {
            if let IndexPlace::File(path) = &sqlite.place {
                sqlite.why = format!("found {}", path.display());
            }
            return Ok((sqlite, inventory));
        }
        if has_attributes(self.dir, &inventory) {
            let why = "found user.hits on images".to_owned();
            return Ok((OpenIndex::by_file(Some(Driver::Xattr), why), inventory));
        }
        let mut none = OpenIndex::by_file(None, "nothing shows which".to_owned());
        if inventory.images.is_empty() {
            return Ok((none, inventory));
        }
        if self.purpose == Purpose::Look {
            none.tracking = Tracking::Unknown("nothing in the directory shows which index it has".to_owned());
            return Ok((none, inventory));
        }
        let path = self.dir.path().display();
        Err(Failure::usage(anyhow!("{path} holds images, but nothing shows which index it has")).hint(
            "set image_cache_driver, or give --driver; centralized_db needs [database] connection and \
             worker_self_reference_url, too",
        ))
    }

    fn sqlite(&self, why: String) -> Result<OpenIndex, Failure> {
        let file = self.settings.sqlite_db()?;
        let location = locate(self.dir, &file.value).map_err(|e| {
            Failure::cannot_start(e.context(format!("image_cache_sqlite_db is set by {}", file.origin)))
        })?;
        let path = location.path().to_owned();
        let mut found = Sqlite::open(location, self.purpose, self.wait).map_err(Failure::cannot_start)?;
        if let Opening::Open(index) = &mut found
            && self.purpose != Purpose::Look
        {
            index.guard_start(self.settings.lock_dir(self.dir, &self.run.output)?.start_gate());
        }
        let (index, tracking, warning): (Option<Box<dyn Index>>, _, _) = match found {
            Opening::Open(index) => (Some(Box::new(index)), Tracking::ByRow, None),
            Opening::Nothing(_) => {
                let path = path.display();
                let warning = format!("image index {path} does not exist or is empty: no image is tracked");
                (None, Tracking::ByRow, Some(warning))
            }
            Opening::Unreadable(why) => (None, Tracking::Unknown(why), None),
        };
        let place = IndexPlace::File(path);
        Ok(OpenIndex { index, driver: Some(Driver::Sqlite), tracking, why, place, warning })
    }
}

/// Refuses a directory that is no image cache, before anything is made or locked in it.
///
/// No index is opened for that: a file of its name is enough. If the central database knows its images is found out by
/// [`take_stock`], before anything happens to them.
pub(crate) fn refuse_strange(settings: &Settings<'_>, dir: &CacheDir) -> Result<(), Failure> {
    if dir.has_subdirectories() {
        return Ok(());
    }
    let inventory = Inventory::scan(dir, Tracking::ByRow).map_err(Failure::cannot_start)?;
    let is_central = settings.names(Driver::CentralizedDb) && !inventory.images.is_empty();
    require_cache(settings, dir, &inventory, is_central || has_sqlite_file(settings, dir))
}

/// Refuses a directory that holds things but has neither a subdirectory nor an index of an image cache.
fn require_cache(
    settings: &Settings<'_>,
    dir: &CacheDir,
    inventory: &Inventory,
    has_index: bool,
) -> Result<(), Failure> {
    let is_empty =
        inventory.images.is_empty() && inventory.foreign.is_empty() && inventory.unreadable.is_empty();
    if dir.has_subdirectories() || has_index || is_empty || has_attributes(dir, inventory) {
        return Ok(());
    }
    Err(Failure::usage(anyhow!(
        "{} (set by {}) does not look like an image cache: it holds files, but neither incomplete/, invalid/ or queue/ \
         nor an index; nothing was removed",
        dir.path().display(),
        settings.cache_dir.origin
    )))
}

/// True if a file that is not empty stands where the sqlite index would be.
pub(crate) fn has_sqlite_file(settings: &Settings<'_>, dir: &CacheDir) -> bool {
    let (Ok(file), Some(base)) = (settings.sqlite_db(), dir.fd(Place::Base)) else { return false };
    statat(base, &file.value, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_size > 0)
}

/// True if the directory holds nothing at all: then nothing is made there, not even a lock file.
pub(crate) fn is_empty(dir: &CacheDir) -> Result<bool, Failure> {
    dir.is_empty().map_err(Failure::cannot_start)
}

/// True if an image carries the mark of Glance's xattr driver.
pub(crate) fn has_attributes(dir: &CacheDir, inventory: &Inventory) -> bool {
    let Some(base) = dir.fd(Place::Base) else {
        return false;
    };
    inventory.images.iter().any(|image| matches!(hits(base, image.id.as_name()), Attribute::Value(_)))
}

/// Refuses the xattr driver where there are no extended attributes: either the setting or the directory is wrong.
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
        .hint(
            "Glance itself falls back to sqlite there: look for a cache.db, and set image_cache_driver = sqlite",
        )),
        _ => Ok(()),
    }
}

/// The result of asking for a lock.
pub(crate) enum Locked {
    /// To be held while the work is done; `None` when the disk has no space for a lock file.
    Go(Option<Lock>),
    /// Another process holds it, and the run does not wait for it. The text says which.
    Busy(String),
    /// A signal came while waiting.
    Interrupted,
}

/// Takes one of oslo's locks. If another process holds it, waits; with `skip_if_locked`, returns at once.
///
/// A lock file that cannot be opened in the configured lock path is taken in the cache directory instead.
pub(crate) fn take_lock(
    run: &Run,
    dir: &CacheDir,
    locks: &LockDir,
    name: &str,
    patience: &LockWait,
) -> Result<Locked, Failure> {
    let wait = run.wait(if patience.skip_if_locked { Duration::ZERO } else { patience.limit });
    let taken = locks.take(name, &wait).or_else(|e| match LockDir::open(None, dir) {
        Ok(beside) if !locks.is_cache_directory() => {
            run.output.note(&format!("{e:#}: locking in the cache directory instead"));
            beside.take(name, &wait)
        }
        _ => Err(e),
    });
    match taken {
        Ok(Locking::Held(lock)) => Ok(Locked::Go(Some(lock))),
        Ok(Locking::NoSpace(why)) => {
            run.output.warning(&format!("{why}: going on without the lock"));
            Ok(Locked::Go(None))
        }
        Ok(Locking::Busy(who)) if patience.skip_if_locked => Ok(Locked::Busy(who)),
        Ok(Locking::Busy(who)) => Err(Failure::cannot_start(anyhow!("{who}; nothing was changed"))
            .hint("wait longer with --lock-timeout, or give --skip-if-locked")),
        Ok(Locking::Interrupted) => Ok(Locked::Interrupted),
        Err(e) => Err(Failure::cannot_start(e).hint(format!(
            "run as the user glance-api runs as; a lock file that root left must be given to user {}, who owns the \
             cache directory",
            dir.owner().uid
        ))),
    }
}

/// Returns the error that keeps rows from being forgotten: most of the images in the index are not in the directory.
pub(crate) fn misplaced(dir: &CacheDir, inventory: &Inventory, forget_all: bool) -> Option<EntryError> {
    (!forget_all && inventory.looks_misplaced()).then(|| EntryError {
        name: dir.path().display().to_string(),
        action: Action::Forget,
        message: format!(
            "{} of {} images in the index are not in this directory; it is on the file system mounted at {}, and is \
             probably the wrong directory or not mounted; no row was forgotten and no image removed; give --forget-all \
             if the images are really lost",
            inventory.ghosts.len(),
            inventory.rows(),
            mount_point(dir.path())
        ),
    })
}

/// Returns the errors of entries that could not even be looked at.
pub(crate) fn unreadable_errors<'a>(
    unreadable: impl IntoIterator<Item = &'a (Place, Unreadable)>,
) -> Vec<EntryError> {
    unreadable
        .into_iter()
        .map(|(place, (name, errno))| EntryError {
            name: place.show(name.as_name()),
            action: Action::Look,
            message: errno.to_string(),
        })
        .collect()
}
