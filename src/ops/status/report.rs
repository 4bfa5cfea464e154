//! The report of a status: what is known of a cache. What was not looked at is `None`, which is null in JSON.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::age::AgeGroup;
use crate::cache::outcome::EntryError;
use crate::config::Setting;
use crate::exit::Failure;
use crate::host::cache::Tally;
use crate::ops::attention::{Attention, Concern};
use crate::ops::report::SCHEMA_VERSION;
use crate::ops::verify::{Verification, VerifiedImages};
use crate::units::{Nanos, when};

#[derive(Debug, Serialize)]
pub(super) struct ForeignEntry {
    pub(super) name: String,
    pub(super) kind: &'static str,
    /// `None` if a directory could not be looked through.
    pub(super) bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct WrongOwner {
    pub(super) name: String,
    pub(super) uid: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct HeldLock {
    pub(super) name: String,
    /// Process ids.
    pub(super) holders: Vec<i32>,
}

#[derive(Debug, Serialize)]
pub(super) struct FileSystem {
    pub(super) mount_point: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) available: Option<u64>,
    pub(super) access_times: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct SettingInUse {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) set_by: String,
}

#[derive(Debug, Serialize)]
pub(super) struct SettingsInUse {
    pub(super) files_read: Vec<String>,
    pub(super) files_missing: Vec<String>,
    pub(super) values: Vec<SettingInUse>,
    /// True if the configured index settings are not used because they belong to another directory.
    pub(super) index_settings_dropped: bool,
}

/// Images that Glance does not serve. Bytes are their sizes.
#[derive(Debug, Default, Serialize)]
pub(super) struct UnusableReport {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) images: Vec<UnusableImage>,
}

/// An image that Glance does not serve.
#[derive(Debug, Serialize)]
pub(super) struct UnusableImage {
    pub(super) image_id: String,
    pub(super) reason: &'static str,
    pub(super) bytes: u64,
    /// The reason for people.
    #[serde(skip)]
    pub(super) sentence: &'static str,
}

/// The entries of a subdirectory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Entries {
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// The time of the last write to the oldest of them; `None` if there is none.
    #[serde(serialize_with = "as_time")]
    pub(super) oldest: Option<Nanos>,
}

impl Entries {
    pub(super) fn add(&mut self, bytes: u64, written: Nanos) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.oldest = Some(self.oldest.map_or(written, |oldest| oldest.min(written)));
    }
}

#[allow(clippy::ref_option, reason = "serde passes references")]
fn as_time<S: Serializer>(time: &Option<Nanos>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(when).serialize(serializer)
}

/// The way in which the text is shown. It is no part of the JSON.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// Show sizes with units.
    pub(super) human: bool,
    /// Begin with the first line of a check.
    pub(super) check: bool,
    /// Draw a bar of the size against the limit.
    pub(super) is_terminal: bool,
    /// Wrap lines at this many columns.
    pub(super) width: Option<usize>,
}

/// The state of a cache. Sizes are in bytes. Times are RFC 3339 in UTC.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StatusReport {
    schema_version: u32,
    pub(super) cache_dir: String,
    pub(super) cache_dir_set_by: String,
    pub(super) exists: bool,
    pub(super) driver: Option<String>,
    pub(super) driver_why: Option<String>,
    pub(super) index_path: Option<String>,
    /// The URL of the central database, without credentials; `node` is this host's node in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// The reason if the index could not be read.
    pub(super) index_unreadable: Option<String>,
    /// The sizes of all images, including orphans. The limit refers to this.
    pub(super) cache_size: Option<u64>,
    pub(super) max_size: Option<u64>,
    pub(super) max_size_set_by: Option<String>,
    /// The time after which an incomplete entry counts as stalled, in seconds.
    pub(super) stall_time: Option<i64>,
    pub(super) stall_time_set_by: Option<String>,
    pub(super) over_limit: Option<bool>,
    /// Bytes of disk that the images hold.
    pub(super) allocated: Option<u64>,
    pub(super) tracked: Option<Tally>,
    pub(super) orphans: Option<Tally>,
    /// The bytes are those in the rows.
    pub(super) ghosts: Option<Tally>,
    pub(super) impossible_rows: Option<u64>,
    /// Hits of all images, as the index counts them; orphans have none.
    pub(super) hits: Option<u64>,
    pub(super) queued: Option<Entries>,
    pub(super) incomplete: Option<Entries>,
    pub(super) stalled: Option<Entries>,
    pub(super) invalid: Option<Entries>,
    #[serde(serialize_with = "as_time")]
    pub(super) oldest_use: Option<Nanos>,
    #[serde(serialize_with = "as_time")]
    pub(super) newest_use: Option<Nanos>,
    pub(super) by_last_use: Option<Vec<AgeGroup>>,
    pub(super) file_system: Option<FileSystem>,
    pub(super) foreign: Vec<ForeignEntry>,
    pub(super) wrong_owners: Vec<WrongOwner>,
    /// `None` if the kernel does not tell who holds locks.
    pub(super) locks: Option<Vec<HeldLock>>,
    /// Images that Glance does not serve. Only if its database was asked, and has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unusable: Option<UnusableReport>,
    /// The verifications that are remembered, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verified: Option<VerifiedImages>,
    /// The result of reading the images, if this was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verification: Option<Verification>,
    /// Images that could not be verified, if this was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errors: Option<Vec<EntryError>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) settings: Option<SettingsInUse>,
    /// Problems that somebody should look at.
    pub(super) attention: Vec<Attention>,
    /// Remarks that need no action.
    pub(super) notes: Vec<String>,
    /// The reason if the cache could not be looked at. Only metrics are made of such a report.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    /// The failure of the run in this case.
    #[serde(skip)]
    pub(crate) refusal: Option<Failure>,
    /// The number of images, tracked or not.
    #[serde(skip)]
    pub(super) images: Option<u64>,
    #[serde(skip)]
    pub(super) shown: Shown,
}

impl StatusReport {
    /// Returns the report on a directory that was not looked at yet.
    pub(super) fn new(cache_dir: &Setting<PathBuf>, shown: Shown) -> Self {
        StatusReport {
            schema_version: SCHEMA_VERSION,
            cache_dir: cache_dir.value.display().to_string(),
            cache_dir_set_by: cache_dir.origin.to_string(),
            shown,
            ..StatusReport::default()
        }
    }

    /// Adds something that needs attention.
    pub(super) fn note(&mut self, code: Concern, message: impl Into<String>) {
        self.attention.push(Attention::new(code, message));
    }

    /// Notes that the cache could not be looked at.
    pub(super) fn refuse(&mut self, failure: Failure) {
        let why = format!("{:#}", failure.error);
        self.note(Concern::Unreadable, why.clone());
        self.unreadable = Some(why);
        self.refusal = Some(failure);
    }

    /// Returns the size and the limit.
    pub(crate) fn fill_level(&self) -> FillLevel {
        let missing = (!self.exists).then(|| format!("cache directory {} does not exist", self.cache_dir));
        FillLevel {
            cache_size: self.cache_size,
            max_size: self.max_size,
            over_limit: self.over_limit,
            unknown: self.unreadable.clone().or(missing),
        }
    }

    /// True if something needs attention.
    pub(crate) fn needs_attention(&self) -> bool {
        !self.attention.is_empty()
    }
}

/// The size of a cache and its limit, in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct FillLevel {
    cache_size: Option<u64>,
    max_size: Option<u64>,
    over_limit: Option<bool>,
    /// The reason if the size is not known.
    unknown: Option<String>,
}
