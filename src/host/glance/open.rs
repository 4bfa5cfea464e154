//! Opens a Glance cache: takes its locks, opens its index, and joins the rows of the index with the
//! directory.
//!
//! [`take_stock`] returns the finished [`Cache`]. It refuses a directory that has files in it but is not an
//! image cache. Nothing here removes anything. An index is created only for [`Purpose::Create`].

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use anyhow::anyhow;
use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use crate::cache::dir::{CacheDir, CachePlace, Unreadable};
use crate::cache::entry::EntryKind;
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::index::xattr::{Attribute, hits};
use crate::cache::index::{Driver, Index};
use crate::cache::inventory::{Foreign, Inventory, Tracking};
use crate::cache::ledger::Ledger;
use crate::cache::lock::{LOCKS, Lock, LockDir, LockWait, Locking};
use crate::cache::outcome::{Action, EntryError};
use crate::config::Setting;
use crate::database::opening::{Opening, Purpose};
use crate::exit::Failure;
use crate::host::glance::central;
use crate::host::glance::index::{IndexPlace, OpenIndex};
use crate::host::glance::settings::Settings;
use crate::interrupt::Wait;
use crate::os::mounts::{is_same_directory, mount_point};
use crate::run::Run;

/// An operation that changes nothing waits this long for a busy index, and then continues without it. Glance
/// itself waits as long.
pub(crate) const GLANCE_PATIENCE: Duration = Duration::from_secs(2);

/// A cache: the entries of its directory, joined with the rows of its index.
pub(crate) struct Cache {
    pub(crate) inventory: Inventory,
    pub(crate) ledger: Ledger,
    /// `None` if no setting names a driver and the directory shows none either. Only an empty cache can be
    /// changed then.
    pub(crate) driver: Option<Driver>,
    /// The reason for choosing this driver.
    pub(crate) why: String,
    pub(crate) place: IndexPlace,
    /// Set if the index file does not exist or is empty.
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
    // The index is opened before the directory is scanned. Opening may have to wait, and the scan must
    // include the images that Glance caches in the meantime.
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

/// The arguments of opening an index.
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

    /// Opens the index if no setting names a driver: the database or the directory shows which one it is.
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
        let mut none = OpenIndex::by_file(None, "not set, and not detected".to_owned());
        if inventory.images.is_empty() {
            return Ok((none, inventory));
        }
        if self.purpose == Purpose::Look {
            none.tracking = Tracking::Unknown(
                "image_cache_driver is not set, and the directory does not show which index it has"
                    .to_owned(),
            );
            return Ok((none, inventory));
        }
        let path = self.dir.path().display();
        Err(Failure::usage(anyhow!(
            "cannot tell which index {path} has: image_cache_driver is not set, and the directory shows none"
        ))
        .hint(
            "set image_cache_driver, or give --driver; centralized_db also needs [database] connection and \
             worker_self_reference_url",
        ))
    }

    /// Opens the sqlite index.
    fn sqlite(&self, why: String) -> Result<OpenIndex, Failure> {
        let file = self.settings.sqlite_db()?;
        let location = locate(self.dir, &file.value).map_err(|e| {
            Failure::cannot_start(
                e.context(format!("cannot use image_cache_sqlite_db (set by {})", file.origin)),
            )
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

/// Refuses a directory that is not an image cache, before anything is created or locked in it.
///
/// This opens no index: a file with the name of one is enough. [`take_stock`] later asks the central database
/// if it knows the images, before any of them is removed.
pub(crate) fn refuse_strange(settings: &Settings<'_>, dir: &CacheDir) -> Result<(), Failure> {
    if dir.has_subdirectories() {
        return Ok(());
    }
    let inventory = Inventory::scan(dir, Tracking::ByRow).map_err(Failure::cannot_start)?;
    let is_central = settings.names(Driver::CentralizedDb) && !inventory.images.is_empty();
    require_cache(settings, dir, &inventory, is_central || has_sqlite_file(settings, dir))
}

/// Refuses a directory that is not empty but has neither a subdirectory nor an index of an image cache.
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
        "{} (set by {}) does not look like an image cache: it has files, but no index and none of the \
         directories incomplete/, invalid/ and queue/; nothing was changed",
        dir.path().display(),
        settings.cache_dir.origin
    )))
}

/// True if there is a file, which is not empty, at the path of the sqlite index.
pub(crate) fn has_sqlite_file(settings: &Settings<'_>, dir: &CacheDir) -> bool {
    let (Ok(file), Some(base)) = (settings.sqlite_db(), dir.fd(CachePlace::Base)) else { return false };
    statat(base, &file.value, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_size > 0)
}

/// Returns the foreign entries of the cache directory: all but the lock files and the cache's own index with
/// its journals.
pub(crate) fn foreign<'a>(
    settings: &Settings<'_>,
    dir: &CacheDir,
    cache: &'a Cache,
) -> impl Iterator<Item = &'a Foreign> {
    let index = own_index(settings, dir, cache.driver);
    let is_own = move |name: &[u8]| {
        let of_index = index.as_ref().and_then(|index| name.strip_prefix(index.as_bytes()));
        let is_index = of_index.is_some_and(|rest| [&b""[..], b"-journal", b"-wal", b"-shm"].contains(&rest));
        is_index || LOCKS.iter().any(|lock| lock.as_bytes() == name)
    };
    cache
        .inventory
        .foreign
        .iter()
        .filter(move |entry| entry.kind != EntryKind::File || !is_own(entry.name.as_name().as_bytes()))
}

/// Returns the name of the sqlite index, if the cache has one and it is in its directory.
fn own_index(settings: &Settings<'_>, dir: &CacheDir, driver: Option<Driver>) -> Option<OsString> {
    let driver = driver.or_else(|| Some(settings.driver().ok()??.value));
    if driver.is_some_and(|driver| driver != Driver::Sqlite) {
        return None;
    }
    let path = dir.path().join(settings.sqlite_db().ok()?.value);
    let is_inside = path.parent().is_some_and(|parent| is_same_directory(parent, dir.path()));
    path.file_name().filter(|_| is_inside).map(ToOwned::to_owned)
}

/// True if the directory is empty. Then nothing is created in it, not even a lock file.
pub(super) fn is_empty(dir: &CacheDir) -> Result<bool, Failure> {
    dir.is_empty().map_err(Failure::cannot_start)
}

/// True if an image has an attribute of Glance's xattr driver.
pub(crate) fn has_attributes(dir: &CacheDir, inventory: &Inventory) -> bool {
    let Some(base) = dir.fd(CachePlace::Base) else {
        return false;
    };
    inventory.images.iter().any(|image| matches!(hits(base, image.id.as_name()), Attribute::Value(_)))
}

/// Refuses the xattr driver if the file system has no extended attributes.
fn need_attributes(dir: &CacheDir) -> Result<(), Failure> {
    let Some(base) = dir.fd(CachePlace::Base) else {
        return Ok(());
    };
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(base, "user.hits", &mut value[..]) {
        Err(Errno::NOTSUP) => Err(Failure::cannot_start(anyhow!(
            "the file system of {} has no extended attributes, which the xattr driver needs",
            dir.path().display()
        ))
        .hint(
            "Glance uses sqlite instead on such a file system: look for a cache.db in the directory, and set \
             image_cache_driver = sqlite",
        )),
        _ => Ok(()),
    }
}

/// The result of asking for a lock.
pub(crate) enum Locked {
    /// The lock, to be held during the work; `None` if the disk has no space for a lock file.
    Go(Option<Lock>),
    /// Another process, which the text names, holds the lock, and the run does not wait for it.
    Busy(String),
    /// A signal came while waiting.
    Interrupted,
}

/// Takes one of oslo's locks. If another process holds it, this waits, or returns at once with
/// `skip_if_locked`.
///
/// If the lock file in the configured lock path cannot be opened, one in the cache directory is used instead.
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
            run.output.note(&format!("{e:#}; using a lock file in the cache directory instead"));
            beside.take(name, &wait)
        }
        _ => Err(e),
    });
    match taken {
        Ok(Locking::Held(lock)) => Ok(Locked::Go(Some(lock))),
        Ok(Locking::NoSpace(why)) => {
            run.output.warning(&format!("{why}; continuing without the lock"));
            Ok(Locked::Go(None))
        }
        Ok(Locking::Busy(who)) if patience.skip_if_locked => Ok(Locked::Busy(who)),
        Ok(Locking::Busy(who)) => Err(Failure::cannot_start(anyhow!("{who}; nothing was changed"))
            .hint("wait longer with --lock-timeout, or give --skip-if-locked")),
        Ok(Locking::Interrupted) => Ok(Locked::Interrupted),
        Err(e) => Err(Failure::cannot_start(e).hint(format!(
            "run as the user that glance-api runs as; if root has created the lock file, chown it to user \
             {}, the owner of the cache directory",
            dir.owner().uid
        ))),
    }
}

/// Returns an error if most of the images in the index are not in the directory. Then no row may be
/// forgotten.
pub(crate) fn misplaced(dir: &CacheDir, inventory: &Inventory, forget_all: bool) -> Option<EntryError> {
    (!forget_all && inventory.looks_misplaced()).then(|| EntryError {
        name: dir.path().display().to_string(),
        action: Action::Forget,
        message: format!(
            "{} of {} images in the index are not in this directory: it is probably the wrong directory, or \
             its file system is not mounted; the directory is on the file system mounted at {}; no row was \
             forgotten and no image was removed; give --forget-all if the images are really lost",
            inventory.ghosts.len(),
            inventory.rows(),
            mount_point(dir.path())
        ),
    })
}

/// Returns the errors of entries that could not be examined.
pub(crate) fn unreadable_errors<'a>(
    unreadable: impl IntoIterator<Item = &'a (CachePlace, Unreadable)>,
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
