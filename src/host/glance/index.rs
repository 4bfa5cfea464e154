//! An index that is open and has not been read: what [`super::open`] and [`super::central`] hand to each other.

use std::path::PathBuf;

use crate::cache::index::{Driver, Index};
use crate::cache::inventory::Tracking;

/// Where a central index is, for people.
#[derive(Clone, Debug)]
pub(crate) struct DatabasePlace {
    pub(crate) database: String,
    pub(crate) node: String,
}

/// Where an index is.
pub(crate) enum IndexPlace {
    /// In the files themselves, or nowhere.
    Files,
    File(PathBuf),
    Database(DatabasePlace),
}

/// An index that is open and has not been read.
pub(super) struct OpenIndex {
    /// `None` where there are no rows.
    pub(super) index: Option<Box<dyn Index>>,
    pub(super) driver: Option<Driver>,
    pub(super) tracking: Tracking,
    pub(super) why: String,
    pub(super) place: IndexPlace,
    pub(super) warning: Option<String>,
}

impl OpenIndex {
    pub(super) fn by_file(driver: Option<Driver>, why: String) -> Self {
        let (tracking, place) = (Tracking::ByFile, IndexPlace::Files);
        OpenIndex { index: None, driver, tracking, why, place, warning: None }
    }

    /// True if the index itself shows that this is an image cache, before its rows are read.
    pub(super) fn is_evidence(&self) -> bool {
        self.driver == Some(Driver::Sqlite) && self.warning.is_none()
    }
}
