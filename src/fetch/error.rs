//! The errors of a fetch, sorted by the side that failed.
//!
//! The side decides what happens next: after an error of a source the next location is tried, while any other
//! error ends the fetch.

/// The reason that a fetch from one location failed.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The source failed, or the data it sends cannot be right.
    Source(anyhow::Error),
    /// The cache's own side failed, such as its disk.
    Cache(anyhow::Error),
    /// A signal arrived.
    Interrupted,
}
