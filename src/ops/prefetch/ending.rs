//! The way in which the prefetch of one image ended.

use crate::fetch::digest::Check;
use crate::ops::prefetch::outcome::ImageOutcome;

/// The result for an image, before it is noted.
pub(super) struct ImageEnding {
    pub(super) outcome: ImageOutcome,
    pub(super) bytes: u64,
    pub(super) location: Option<String>,
    pub(super) verified_by: Option<String>,
    /// The reason for the result, if there is something to say.
    pub(super) message: Option<String>,
}

impl ImageEnding {
    pub(super) fn new(outcome: ImageOutcome, bytes: u64, why: impl Into<String>) -> Self {
        ImageEnding { outcome, bytes, location: None, verified_by: None, message: Some(why.into()) }
    }

    pub(super) fn cached() -> Self {
        ImageEnding::new(ImageOutcome::Cached, 0, "the image is in the cache already")
    }

    pub(super) fn fetched(bytes: u64, location: String, verified_by: Option<String>) -> Self {
        let outcome = ImageOutcome::Fetched;
        ImageEnding { outcome, bytes, location: Some(location), verified_by, message: None }
    }
}

/// Returns the name of the hash that verifies an image, or `size`, or `None` if nothing does.
pub(super) fn verified_by(check: Option<&Check>, size: Option<u64>) -> Option<String> {
    check.map(|check| check.name.clone()).or_else(|| size.map(|_| "size".to_owned()))
}
