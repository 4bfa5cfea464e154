//! The way in which the prefetch of one image ended.

use crate::fetch::digest::Check;
use crate::ops::prefetch::outcome::ImageOutcome;

/// The result for an image, before it is noted.
pub(super) struct ImageEnding {
    pub(super) outcome: ImageOutcome,
    /// Bytes that were fetched and published; in a dry run, those that would be.
    pub(super) bytes: u64,
    /// The size of the image in bytes, if it is known.
    pub(super) size: Option<u64>,
    pub(super) location: Option<String>,
    pub(super) verified_by: Option<String>,
    /// The reason for the result, if there is something to say.
    pub(super) message: Option<String>,
}

impl ImageEnding {
    /// Returns the result for an image that is not fetched.
    pub(super) fn new(outcome: ImageOutcome, size: Option<u64>, why: impl Into<String>) -> Self {
        let message = Some(why.into());
        ImageEnding { outcome, bytes: 0, size, location: None, verified_by: None, message }
    }

    pub(super) fn cached() -> Self {
        ImageEnding::new(ImageOutcome::Cached, None, "the image is in the cache already")
    }

    pub(super) fn fetched(bytes: u64, location: String, verified_by: Option<String>) -> Self {
        let outcome = ImageOutcome::Fetched;
        let (size, location) = (Some(bytes), Some(location));
        ImageEnding { outcome, bytes, size, location, verified_by, message: None }
    }
}

/// Returns the name of the hash that verifies an image, or `size`, or `None` if nothing does.
pub(super) fn verified_by(check: Option<&Check>, size: Option<u64>) -> Option<String> {
    check.map(|check| check.name.clone()).or_else(|| size.map(|_| "size".to_owned()))
}
