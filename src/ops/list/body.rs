//! The JSON form of a list: the body of Glance's `GET /v2/cache`.
//!
//! Keys that Glance has keep its names and types, with times in seconds since the epoch. Entries that its API
//! does not report have arrays of their own.

use serde::{Serialize, Serializer};

use super::{EntryState, Epoch, ListEntry, ListReport};
use crate::cache::usable::Unusable;
use crate::ops::report::SCHEMA_VERSION;

/// An image as Glance's API reports it. Tracked images, orphans and ghosts have the same keys; an orphan has
/// no hits.
#[derive(Serialize)]
struct ApiImage<'a> {
    image_id: &'a str,
    hits: Option<i64>,
    last_accessed: Option<Epoch>,
    last_modified: Option<Epoch>,
    size: Option<u64>,
    /// The reason for which Glance does not serve it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    unusable: Option<&'static str>,
}

impl<'a> From<&'a ListEntry> for ApiImage<'a> {
    fn from(entry: &'a ListEntry) -> Self {
        ApiImage {
            image_id: &entry.name,
            hits: entry.hits,
            last_accessed: entry.times.map(|times| times.0),
            last_modified: entry.times.map(|times| times.1),
            size: entry.size,
            unusable: entry.unusable.map(Unusable::word),
        }
    }
}

/// An entry of a subdirectory.
#[derive(Serialize)]
struct ApiPartial<'a> {
    /// The name of the entry, even if it is not an id.
    image_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<&'a str>,
    size: Option<u64>,
    last_modified: Option<Epoch>,
    /// True if nothing was written to it for the stall time. Only entries of `incomplete/` have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> From<&'a ListEntry> for ApiPartial<'a> {
    fn from(entry: &'a ListEntry) -> Self {
        ApiPartial {
            image_id: &entry.name,
            name_bytes: entry.name_bytes.as_deref(),
            size: entry.size,
            last_modified: entry.times.map(|times| times.1),
            stalled: (entry.state != EntryState::Invalid).then_some(entry.state == EntryState::Stalled),
            error: entry.error.as_deref(),
        }
    }
}

/// The answer of `GET /v2/cache` itself: two keys and no other, because clients print the items of all keys
/// but the first as queued images. No number is
/// null.
#[derive(Serialize)]
struct CachedAndQueued<'a> {
    cached_images: Vec<CachedImage<'a>>,
    queued_images: Vec<&'a str>,
}

/// An image that is cached, as Glance's API shows it with each index.
#[derive(Serialize)]
#[serde(untagged)]
enum CachedImage<'a> {
    OfNode(CachedByNode<'a>),
    Central(CachedInDatabase<'a>),
}

/// An image of the central database.
#[derive(Serialize)]
struct CachedInDatabase<'a> {
    id: i64,
    image_id: &'a str,
    last_accessed: Epoch,
    last_modified: Epoch,
    size: u64,
    hits: i64,
    /// Glance never sets it.
    checksum: Option<&'static str>,
}

/// An image of an index of the node itself.
#[derive(Serialize)]
struct CachedByNode<'a> {
    image_id: &'a str,
    hits: i64,
    last_accessed: Epoch,
    last_modified: Epoch,
    size: u64,
}

impl<'a> CachedImage<'a> {
    fn of(entry: &'a ListEntry, is_central: bool) -> Self {
        let (last_accessed, last_modified) = entry.times.unwrap_or((Epoch::Whole(0), Epoch::Whole(0)));
        let (image_id, size, hits) = (&*entry.name, entry.size.unwrap_or(0), entry.hits.unwrap_or(0));
        match entry.key.filter(|_| is_central) {
            Some(id) => CachedImage::Central(CachedInDatabase {
                id,
                image_id,
                last_accessed,
                last_modified,
                size,
                hits,
                checksum: None,
            }),
            None => CachedImage::OfNode(CachedByNode { image_id, hits, last_accessed, last_modified, size }),
        }
    }
}

impl ListReport {
    /// Returns the answer of `GET /v2/cache`.
    pub(crate) fn answer(&self) -> impl Serialize {
        let is_tracked = |entry: &&ListEntry| entry.state == EntryState::Tracked;
        let mut images: Vec<&ListEntry> = self.entries.iter().filter(is_tracked).collect();
        if self.is_central {
            images.sort_by_key(|entry| entry.key);
        }
        let images = images.into_iter().map(|entry| CachedImage::of(entry, self.is_central));
        CachedAndQueued { cached_images: images.collect(), queued_images: self.queue() }
    }

    /// Returns the names of the entries of the queue, the first to be fetched first.
    fn queue(&self) -> Vec<&str> {
        let is_queued = |entry: &&ListEntry| entry.state == EntryState::Queued;
        let mut queue: Vec<&ListEntry> = self.entries.iter().filter(is_queued).collect();
        queue.sort_by(|a, b| a.modified.cmp(&b.modified).then_with(|| a.name.cmp(&b.name)));
        queue.iter().map(|entry| entry.name.as_str()).collect()
    }
}

#[derive(Serialize)]
struct ApiList<'a> {
    schema_version: u32,
    cached_images: Vec<ApiImage<'a>>,
    queued_images: Vec<&'a str>,
    orphans: Vec<ApiImage<'a>>,
    ghosts: Vec<ApiImage<'a>>,
    incomplete: Vec<ApiPartial<'a>>,
    invalid: Vec<ApiPartial<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_unreadable: Option<&'a str>,
}

impl Serialize for ListReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = |states: &'static [EntryState]| {
            self.entries.iter().filter(move |entry| states.contains(&entry.state))
        };
        ApiList {
            schema_version: SCHEMA_VERSION,
            cached_images: of(&[EntryState::Tracked]).map(Into::into).collect(),
            queued_images: self.queue(),
            orphans: of(&[EntryState::Orphan]).map(Into::into).collect(),
            ghosts: of(&[EntryState::Ghost]).map(Into::into).collect(),
            incomplete: of(&[EntryState::Incomplete, EntryState::Stalled]).map(Into::into).collect(),
            invalid: of(&[EntryState::Invalid]).map(Into::into).collect(),
            index_unreadable: self.index_unreadable.as_deref(),
        }
        .serialize(serializer)
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Epoch::Float(seconds) => serializer.serialize_f64(*seconds),
            Epoch::Whole(seconds) => serializer.serialize_i64(*seconds),
        }
    }
}
