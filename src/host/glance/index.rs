//! An open index whose rows have not been read yet: the type that [`super::open`] and [`super::central`]
//! share.

use std::path::PathBuf;

use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::index::xattr::{Attribute, hits};
use crate::cache::index::{Driver, Index};
use crate::cache::inventory::{Inventory, Tracking};

/// The place of a central index, in words.
#[derive(Clone, Debug)]
pub(crate) struct DatabasePlace {
    pub(crate) database: String,
    pub(crate) node: String,
}

/// The place of an index.
pub(crate) enum IndexPlace {
    /// The files themselves, or no place at all.
    Files,
    File(PathBuf),
    Database(DatabasePlace),
}

/// An open index whose rows have not been read yet.
pub(super) struct OpenIndex {
    /// `None` if there are no rows.
    pub(super) index: Option<Box<dyn Index>>,
    pub(super) driver: Option<Driver>,
    pub(super) tracking: Tracking,
    /// The reason for choosing this driver.
    pub(super) why: String,
    pub(super) place: IndexPlace,
    /// Set if the index file does not exist or is empty.
    pub(super) warning: Option<String>,
    /// The error if the index cannot be read now.
    pub(super) unreadable: Option<anyhow::Error>,
}

impl OpenIndex {
    /// Returns the index of a cache whose files themselves carry the uses.
    pub(super) fn by_file(driver: Option<Driver>, why: String) -> Self {
        let (tracking, place) = (Tracking::ByFile, IndexPlace::Files);
        OpenIndex { index: None, driver, tracking, why, place, warning: None, unreadable: None }
    }

    /// True if the index itself shows that this is an image cache, before its rows are read.
    pub(super) fn is_evidence(&self) -> bool {
        self.driver == Some(Driver::Sqlite) && self.warning.is_none()
    }
}

/// True if an image has an attribute of Glance's xattr driver.
pub(crate) fn has_attributes(dir: &CacheDir, inventory: &Inventory) -> bool {
    let Some(base) = dir.fd(CachePlace::Base) else {
        return false;
    };
    inventory.images.iter().any(|image| matches!(hits(base, image.id.as_name()), Attribute::Value(_)))
}
