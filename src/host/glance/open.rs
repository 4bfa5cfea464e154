//! Opens a Glance cache: takes its locks, opens its index, and joins the rows of the index with the
//! directory.
//!
//! [`take_stock`] returns the finished [`Cache`]. It refuses a directory that has files in it but is not an
//! image cache. Nothing here removes anything. An index is created only for [`Purpose::Create`].

use std::ffi::OsString;
use std::ops::ControlFlow;
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
use crate::exit::{Exit, Failure};
use crate::host::glance::central::{self, Detected};
use crate::host::glance::index::{IndexPlace, OpenIndex, has_attributes};
use crate::host::glance::others::IndexInUse;
use crate::host::glance::settings::Settings;
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::os::locks::{Held, HeldThing};
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
    /// The error if the index cannot be read now.
    unreadable: Option<anyhow::Error>,
    /// The failure of an operation that would change the cache, if this is probably the wrong index.
    doubt: Option<Failure>,
}

impl Cache {
    /// Returns a cache whose index could not be read, with the reason.
    pub(crate) fn files_only(dir: &CacheDir, wait: Wait, reason: String) -> Result<Self, Failure> {
        Ok(Cache {
            inventory: Inventory::scan(dir, Tracking::Unknown(reason)).map_err(Failure::cannot_start)?,
            ledger: Ledger::new(None, wait),
            driver: None,
            why: "cannot be read".to_owned(),
            place: IndexPlace::Files,
            warning: None,
            unreadable: None,
            doubt: None,
        })
    }

    /// Fails if it is not known what the index says of the images. `what` cannot be done then.
    pub(crate) fn readable(&mut self, what: &str) -> Result<(), Failure> {
        let Tracking::Unknown(why) = &self.inventory.tracking else { return Ok(()) };
        let error = self.unreadable.take().unwrap_or_else(|| anyhow!(why.clone()));
        Err(Failure::cannot_start(error.context(what.to_owned())))
    }

    /// Fails if this is probably the wrong index. Every operation asks this before it changes the cache, or
    /// plans a change.
    pub(crate) fn certain(mut self) -> Result<Self, Failure> {
        self.doubt.take().map_or(Ok(self), Err)
    }

    /// Fails if the cache has another index, where an index would have to be made: of two indexes beside each
    /// other, Glance would use one, and this program the other.
    pub(crate) fn refuse_second(
        &self,
        run: &Run,
        settings: &Settings<'_>,
        dir: &CacheDir,
    ) -> Result<(), Failure> {
        let wait = &run.wait(GLANCE_PATIENCE);
        Opener { run, settings, dir, purpose: Purpose::Look, wait }.in_use(self).refuse_second()
    }

    /// Returns the reason why this is probably the wrong index, for operations that only look.
    pub(crate) fn doubt(&self) -> Option<String> {
        // Where nothing shows the index, this is why its rows are unknown.
        let failure = self.doubt.as_ref().filter(|_| self.driver.is_some())?;
        Some(format!("{:#}", failure.error))
    }
}

/// Scans a cache directory, opens its index and joins the two.
///
/// This does not fail if the index is probably the wrong one: see [`Cache::certain`].
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
    let (open, mut inventory, unsure) = match settings.driver()? {
        Some(Setting { value, origin }) => (at.named(value, format!("set by {origin}"))?, at.scan()?, None),
        None => at.detect()?,
    };
    let is_evidence = open.is_evidence();
    let OpenIndex { index, driver, tracking, why, place, warning, unreadable } = open;
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
    let mut cache = Cache { inventory, ledger, driver, why, place, warning, unreadable, doubt: None };
    let in_use = at.in_use(&cache);
    let is_known = in_use.knows_images();
    // Without a setting, attributes alone may be those of an earlier driver: the settings name a database.
    let is_sure = is_known && (driver != Some(Driver::Xattr) || cache.inventory.images.is_empty());
    let others = if is_known || settings.ignores_other_index() { None } else { in_use.doubt() };
    cache.doubt = others.or_else(|| unsure.filter(|_| !is_sure));
    Ok(cache)
}

/// The arguments of opening an index.
struct Opener<'a> {
    run: &'a Run,
    settings: &'a Settings<'a>,
    dir: &'a CacheDir,
    purpose: Purpose,
    wait: &'a Wait,
}

impl<'a> Opener<'a> {
    /// Returns the index of a cache as the search for others sees it.
    fn in_use(&self, cache: &'a Cache) -> IndexInUse<'a> {
        let Opener { run, settings, dir, wait, .. } = *self;
        let Cache { inventory, driver, why, place, warning, .. } = cache;
        let is_missing = warning.is_some();
        IndexInUse { run, settings, dir, wait, inventory, driver: *driver, why, place, is_missing }
    }

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
    ///
    /// Also returns a failure for the case that the index turns out to know no image of the cache.
    fn detect(&self) -> Result<(OpenIndex, Inventory, Option<Failure>), Failure> {
        let unsure = match central::detect(&self.settings.database, self.purpose, self.wait)? {
            Detected::Index(open) => return Ok((open, self.scan()?, None)),
            Detected::Doubt(failure) => Some(failure.hint(
                "image_cache_driver is not set; if this cache has no index in the database, set it, or give \
                 --driver",
            )),
            Detected::Nothing => None,
        };
        let mut sqlite = self.sqlite(String::new())?;
        let inventory = self.scan()?;
        if sqlite.warning.is_none() {
            if let IndexPlace::File(path) = &sqlite.place {
                sqlite.why = format!("found {}", path.display());
            }
            return Ok((sqlite, inventory, unsure));
        }
        if has_attributes(self.dir, &inventory) {
            let why = "found user.hits on images".to_owned();
            return Ok((OpenIndex::by_file(Some(Driver::Xattr), why), inventory, unsure));
        }
        let mut none = OpenIndex::by_file(None, "not set, and not detected".to_owned());
        if inventory.images.is_empty() {
            return Ok((none, inventory, unsure));
        }
        let unsure = unsure.unwrap_or_else(|| self.cannot_tell());
        none.tracking = Tracking::Unknown(format!("{:#}", unsure.error));
        Ok((none, inventory, Some(unsure)))
    }

    /// Returns the failure for a cache with images whose index nothing shows.
    fn cannot_tell(&self) -> Failure {
        let path = self.dir.path().display();
        let failure = Failure::usage(anyhow!(
            "cannot tell which index {path} has: image_cache_driver is not set, and the directory shows none"
        ));
        let hint = "set image_cache_driver, or give --driver";
        failure.hint(if self.settings.database.are_complete() {
            format!(
                "{hint}; the database has no tables of a central index (glance-manage db_sync makes them)"
            )
        } else {
            format!("{hint}; centralized_db also needs [database] connection and worker_self_reference_url")
        })
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
        let mut unreadable = None;
        let (index, tracking, warning): (Option<Box<dyn Index>>, _, _) = match found {
            Opening::Open(index) => (Some(Box::new(index)), Tracking::ByRow, None),
            Opening::Nothing(_) => {
                let path = path.display();
                let warning = format!("image index {path} does not exist or is empty: no image is tracked");
                (None, Tracking::ByRow, Some(warning))
            }
            Opening::Unreadable(reason) => {
                let tracking = Tracking::Unknown(reason.to_string());
                unreadable = Some(reason);
                (None, tracking, None)
            }
        };
        let place = IndexPlace::File(path);
        Ok(OpenIndex { index, driver: Some(Driver::Sqlite), tracking, why, place, warning, unreadable })
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

/// The cases in which an operation makes an index that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Making {
    Never,
    /// If there are images, which get rows.
    ForImages,
    Always,
}

/// Fails if this is probably the wrong index, or if an index would be made beside another one. Other failures
/// are left to the operation itself.
pub(crate) fn check_index(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    making: Making,
) -> Result<(), Failure> {
    let wait = run.wait(GLANCE_PATIENCE);
    let checked = take_stock(run, settings, dir, Purpose::Look, &wait).and_then(Cache::certain);
    let checked = checked.and_then(|cache| {
        let has_images = !cache.inventory.images.is_empty();
        let is_made = making == Making::Always || (making == Making::ForImages && has_images);
        if is_made { cache.refuse_second(run, settings, dir) } else { Ok(()) }
    });
    match checked {
        Err(failure) if failure.exit == Exit::Usage => Err(failure),
        _ => Ok(()),
    }
}

/// Fails if the index that a setting names cannot be opened, or if a setting of the database is wrong. The
/// index is not read.
pub(crate) fn check_opens(run: &Run, settings: &Settings<'_>, dir: &CacheDir) -> Result<(), Failure> {
    let Some(Setting { value, origin }) = settings.driver()? else {
        return settings.database.check();
    };
    let wait = &run.wait(GLANCE_PATIENCE);
    let at = Opener { run, settings, dir, purpose: Purpose::Look, wait };
    at.named(value, format!("set by {origin}")).map(drop)
}

/// True if it can be seen at once that the index which is named is not there, or if an option names its file.
/// Then a run first makes sure that another one is not the right one: before it makes a lock file.
pub(crate) fn may_be_wrong(settings: &Settings<'_>, dir: &CacheDir) -> bool {
    if settings.gives_sqlite_db() {
        return true;
    }
    match settings.driver() {
        Ok(Some(Setting { value: Driver::Sqlite, .. })) => !has_sqlite_file(settings, dir),
        Ok(Some(Setting { value: Driver::Xattr, .. })) => !shows_attributes(dir),
        Ok(Some(_)) | Err(_) => false,
        // A database is asked only once, after the lock is taken.
        Ok(None) if settings.database.are_complete() => false,
        Ok(None) => !has_sqlite_file(settings, dir) && !shows_attributes(dir),
    }
}

/// True if the first image has an attribute of Glance's xattr driver, or if there is no image.
fn shows_attributes(dir: &CacheDir) -> bool {
    let Some(base) = dir.fd(CachePlace::Base) else { return true };
    let mut shows = true;
    let listed = dir.names(CachePlace::Base, |name| {
        if ImageId::new(name.as_bytes()).is_none() {
            return ControlFlow::Continue(());
        }
        shows = matches!(hits(base, name), Attribute::Value(_));
        ControlFlow::Break(())
    });
    shows || listed.is_err()
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
        Ok(Locking::Busy(who)) => {
            let held = Held(HeldThing::Lock, format!("{who}; nothing was changed"));
            Err(Failure::cannot_start(held).hint("wait longer with --lock-timeout, or give --skip-if-locked"))
        }
        Ok(Locking::Interrupted) => Ok(Locked::Interrupted),
        Err(e) if e.downcast_ref() == Some(&Errno::ROFS) => {
            Err(Failure::cannot_start(e).hint("the file system is mounted read-only"))
        }
        Err(e) => {
            let failure = Failure::cannot_start(e);
            let hint = "run as the user that glance-api runs as";
            let beside = LockDir::open(None, dir).ok();
            let exists = |locks: &LockDir| locks.identity(name).is_some();
            Err(failure.hint(if exists(locks) || beside.as_ref().is_some_and(exists) {
                format!(
                    "{hint}; if root has created the lock file, chown it to user {}, the owner of the cache \
                     directory",
                    dir.owner().uid
                )
            } else {
                hint.to_owned()
            }))
        }
    }
}

/// Returns an error if most of the images in the index are not in the directory. Then no row may be
/// forgotten.
pub(crate) fn misplaced(dir: &CacheDir, inventory: &Inventory, forget_all: bool) -> Option<EntryError> {
    (!forget_all && inventory.looks_misplaced(dir)).then(|| EntryError {
        name: dir.path().display().to_string(),
        action: Action::Forget,
        message: format!(
            "{} of {} images in the index are not in this directory: it is probably the wrong directory, or \
             its file system is not mounted (it is on the file system mounted at {} now); no row and no \
             image was removed; give --forget-all if the images are really gone",
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
