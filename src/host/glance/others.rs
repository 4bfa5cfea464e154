//! Other indexes in a cache directory than the one in use. Nothing may be removed on the word of the wrong
//! one.
//!
//! [`IndexInUse::doubt`] is asked only if the index in use has no row of any image of the cache, so that it
//! costs an ordinary run nothing. Then every SQLite file of the directory is opened, to look for Glance's
//! table and for rows of these images. Nothing is written. A file that may be an index but cannot be read now
//! counts as one: it may be the right one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use rustix::fs::{AtFlags, CWD, statat};

use super::central;
use super::index::{IndexPlace, has_attributes};
use super::settings::Settings;
use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::EntryKind;
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::index::{Driver, Index};
use crate::cache::inventory::{Inventory, Tracking};
use crate::config::Origin;
use crate::database::opening::{Opening, Purpose};
use crate::database::sqlite::SqlitePath;
use crate::exit::Failure;
use crate::interrupt::Wait;
use crate::names::escaped;
use crate::run::Run;
use crate::units::count;

/// The index in use, with its rows joined to the images of the cache.
pub(super) struct IndexInUse<'a> {
    pub(super) run: &'a Run,
    pub(super) settings: &'a Settings<'a>,
    pub(super) dir: &'a CacheDir,
    pub(super) wait: &'a Wait,
    pub(super) inventory: &'a Inventory,
    pub(super) driver: Option<Driver>,
    /// The reason for choosing this driver.
    pub(super) why: &'a str,
    pub(super) place: &'a IndexPlace,
    /// True if the index file does not exist or is empty.
    pub(super) is_missing: bool,
}

/// The least that a file must have to count as another index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// Glance's table.
    Table,
    /// Rows of images of this cache.
    Rows,
}

impl IndexInUse<'_> {
    /// True if the index knows an image of the cache, or if the cache has none.
    pub(super) fn knows_images(&self) -> bool {
        if self.inventory.images.is_empty() {
            return true;
        }
        match (&self.inventory.tracking, self.driver) {
            // It is not known what the index says. An operation that needs its rows fails for that reason.
            (Tracking::Unknown(_), Some(_)) => true,
            (_, Some(Driver::Xattr)) => has_attributes(self.dir, self.inventory),
            _ => self.inventory.images.iter().any(|image| image.row.is_some()),
        }
    }

    /// Returns the failure of a run whose index knows no image of the cache, if another index does.
    pub(super) fn doubt(&self) -> Option<Failure> {
        let other = match self.configured() {
            Ok(other) => other,
            Err(failure) => return Some(failure),
        };
        let other = other.or_else(|| self.sqlite(Evidence::Rows)).or_else(|| self.attributes())?;
        Some(self.refusal(&other))
    }

    /// Fails if an index would be made in a cache that has another one.
    pub(super) fn refuse_second(&self) -> Result<(), Failure> {
        if self.settings.ignores_other_index() || self.driver != Some(Driver::Sqlite) || !self.is_missing {
            return Ok(());
        }
        match self.sqlite(Evidence::Table).or_else(|| self.attributes()) {
            Some(other) => Err(self.refusal(&other)),
            None => Ok(()),
        }
    }

    fn refusal(&self, other: &str) -> Failure {
        let this = self.describe();
        let failure = Failure::usage(anyhow!("{this}, but {other}; this is probably the wrong index"));
        let settings = "check image_cache_driver, image_cache_sqlite_db and worker_self_reference_url";
        if self.run.is_old_name() {
            return failure.hint(settings);
        }
        failure
            .hint(format!("{settings}, or their options; if it is the right one, give --ignore-other-index"))
    }

    /// Describes this index, which knows no image.
    fn describe(&self) -> String {
        let dir = self.dir.path().display();
        match (self.place, self.driver) {
            (IndexPlace::Database(place), _) => {
                format!(
                    "the database ({}) has no row of an image in {dir} for {}",
                    place.database, place.node
                )
            }
            (_, Some(Driver::Xattr)) => {
                format!("no image in {dir} has the attribute user.hits of the xattr driver ({})", self.why)
            }
            _ => {
                let file = self.settings.sqlite_db().ok();
                let origin =
                    file.as_ref().map(|file| &file.origin).filter(|origin| **origin != Origin::Default);
                let why = origin.map_or_else(|| self.why.to_owned(), |origin| format!("set by {origin}"));
                let path = match self.place {
                    IndexPlace::File(path) => path.clone(),
                    _ => self.dir.path().join(file.map(|file| file.value).unwrap_or_default()),
                };
                let path = path.display();
                if self.is_missing || self.driver.is_none() {
                    format!("image index {path} ({why}) does not exist or is empty")
                } else {
                    format!("image index {path} ({why}) has no row of an image in {dir}")
                }
            }
        }
    }

    /// Looks for a SQLite file, and describes it.
    fn sqlite(&self, least: Evidence) -> Option<String> {
        let dir = self.dir;
        let files = self.inventory.foreign.iter().filter(|entry| {
            entry.place == CachePlace::Base && entry.kind == EntryKind::File && entry.size > 0
        });
        let names =
            files.map(|entry| PathBuf::from(OsStr::from_bytes(entry.name.as_name().as_bytes()).to_owned()));
        let configured = self.settings.configured_sqlite_db();
        let candidates = configured.into_iter().chain(names).filter(|file| !self.is_used(dir.path(), file));
        let found = candidates.filter_map(|file| self.examine(&file, least));
        found.into_iter().next()
    }

    /// True if this is the file of the index in use.
    fn is_used(&self, base: &Path, file: &Path) -> bool {
        let IndexPlace::File(used) = self.place else { return false };
        let identity = |path: &Path| {
            statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map(|stat| (stat.st_dev, stat.st_ino)).ok()
        };
        let file = base.join(file);
        file == *used || identity(&file).is_some_and(|one| identity(used) == Some(one))
    }

    /// Describes a file if it is an index.
    fn examine(&self, file: &Path, least: Evidence) -> Option<String> {
        let location = locate(self.dir, file).ok().filter(SqlitePath::is_database)?;
        let path = location.path().display().to_string();
        match Sqlite::open(location, Purpose::Look, self.wait) {
            Ok(Opening::Open(mut index)) => match self.known_by(&mut index, self.wait) {
                Err(why) => Some(unreadable(&path, &why)),
                Ok(0) if least == Evidence::Table => Some(format!("{path} is an image index of Glance, too")),
                Ok(0) => None,
                Ok(known) => Some(format!("{path} has rows of {}", self.part(known))),
            },
            Ok(Opening::Unreadable(why)) => Some(unreadable(&path, &why.to_string())),
            Ok(Opening::Nothing(_)) | Err(_) => None,
        }
    }

    /// Returns the number of images of the cache that an index has rows of.
    fn known_by(&self, index: &mut dyn Index, wait: &Wait) -> Result<usize, String> {
        let mut probe = self.inventory.without_rows();
        index.read(wait, &mut probe.joiner()).map_err(|e| format!("{e:#}"))?;
        Ok(probe.images.iter().filter(|image| image.row.is_some()).count())
    }

    /// Describes the central database of the configuration, if an option names another driver.
    fn configured(&self) -> Result<Option<String>, Failure> {
        if !self.settings.overrides_central() {
            return Ok(None);
        }
        let found = central::detect(&self.settings.database, Purpose::Look, self.wait)?;
        let central::Detected::Index(open) = found else { return Ok(None) };
        let IndexPlace::Database(place) = &open.place else { return Ok(None) };
        let (database, node) = (place.database.clone(), place.node.clone());
        let Some(mut index) = open.index else { return Ok(None) };
        let known = self.known_by(index.as_mut(), self.wait);
        let known = known.map_err(|why| Failure::cannot_start(anyhow!(why)))?;
        let part = self.part(known);
        Ok((known > 0).then(|| format!("the configured database ({database}) has rows of {part} for {node}")))
    }

    /// Describes the attributes of the xattr driver, if images have them.
    fn attributes(&self) -> Option<String> {
        let are_others = self.driver != Some(Driver::Xattr) && has_attributes(self.dir, self.inventory);
        are_others.then(|| "images there have the attribute user.hits of the xattr driver".to_owned())
    }

    fn part(&self, known: usize) -> String {
        format!("{known} of {} there", count(self.inventory.images.len() as u64, "image"))
    }
}

fn unreadable(path: &str, why: &str) -> String {
    format!("{path} may be an image index, too, and cannot be read now: {}", escaped(why.as_bytes()))
}
