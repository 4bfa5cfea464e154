//! The request for a prefetch, and the cache that it needs.

use anyhow::anyhow;

use crate::cache::dir::{CacheDir, CachePlace};
use crate::exit::Failure;
use crate::fetch::judge::FetchPolicy;
use crate::host::glance::open::refuse_strange;
use crate::host::glance::settings::Settings;
use crate::names::ImageId;
use crate::ops::Change;
use crate::source::Via;
use crate::units::{Amount, TimeSpan};

/// The options of a prefetch.
#[derive(Debug)]
pub(crate) struct PrefetchRequest {
    pub(crate) change: Change,
    /// The images to fetch; `None` stands for those in the queue.
    pub(crate) images: Option<Vec<ImageId>>,
    /// The number of images to fetch at a time.
    pub(crate) jobs: usize,
    /// Bytes per second, for all fetches together.
    pub(crate) rate: Option<u64>,
    /// The least rate of a location, in bytes per second.
    pub(crate) min_rate: u64,
    /// The space to keep free. A percentage refers to the file system.
    pub(crate) reserve: Amount,
    pub(crate) max_size: Option<Amount>,
    pub(crate) limit: Limit,
    pub(crate) policy: FetchPolicy,
    pub(crate) stall_time: Option<TimeSpan>,
    pub(crate) via: Via,
    /// The cloud of clouds.yaml whose credentials Glance's API is asked with.
    pub(crate) cloud: Option<String>,
}

impl PrefetchRequest {
    /// Returns a request for the images in the queue.
    pub(crate) fn new(change: Change) -> Self {
        PrefetchRequest {
            change,
            images: None,
            jobs: 2,
            rate: None,
            min_rate: 1024,
            reserve: Amount::Bytes(16 << 20),
            max_size: None,
            limit: Limit::Ignored,
            policy: FetchPolicy::default(),
            stall_time: None,
            via: Via::Auto,
            cloud: None,
        }
    }
}

/// The effect of the cache's limit on a prefetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// The limit is ignored; a later prune enforces it.
    Ignored,
    /// Images that would exceed the limit are not fetched.
    Kept,
    /// Other images are removed to make space, by the rules of prune.
    MadeSpace,
}

/// Opens the cache that images are put into. Fails if it does not exist.
pub(super) fn existing(settings: &Settings<'_>) -> Result<CacheDir, Failure> {
    let cannot = |e: anyhow::Error| Failure::cannot_start(e).hint("glance-api creates it when it starts");
    let dir = settings.open()?.ok_or_else(|| cannot(anyhow!(settings.nothing_there())))?;
    refuse_strange(settings, &dir)?;
    if dir.fd(CachePlace::Incomplete).is_none() {
        return Err(cannot(anyhow!("{} has no directory incomplete/", dir.path().display())));
    }
    Ok(dir)
}
