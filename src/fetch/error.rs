//! The errors of a fetch, sorted by the side that failed.
//!
//! The side decides what happens next: after an error of a source the next location is tried, while an error
//! of the cache's own side ends the fetch. Without a size on record, nobody but the source says how large the
//! image is, so that too large an image is the error of that source.
//!
//! A source that failed may be better the next time, however much of the image had come. Data that was wrong
//! would be wrong again, and is remembered.

/// The reason that a fetch from one location failed.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The source failed, at the start or in the middle. It may be better the next time.
    Source(anyhow::Error),
    /// The source gave data that is not the image.
    Data(anyhow::Error),
    /// The source has, or says that it has, more than there is room for. Another may tell the truth.
    Room(anyhow::Error),
    /// The cache's own side failed, such as its disk.
    Cache(anyhow::Error),
    /// A signal arrived.
    Interrupted,
}
