//! Where images come from: the stores that Glance's locations name, opened for reading.
//!
//! Promises: nothing here writes; a location's credentials appear in no message; TLS is verified unless a setting
//! says otherwise in so many words; every wait is bounded and ends soon after the run is interrupted. A stream that
//! breaks heals itself where that is safe (the same content, proven by its validator); otherwise its reader gets the
//! error. What the bytes are worth, the caller decides: size and digest are checked where they are written.

use std::fs::File;
use std::io::Read;

use anyhow::Result;

/// One row of `image_locations`, as the database holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The URL, perhaps encrypted; never shown as it is.
    pub(crate) value: String,
    /// `store` of the row's `meta_data` (before Train `backend`): the id of the store that holds it.
    pub(crate) store: Option<String>,
}

/// One place an image can be read from.
pub(crate) trait Source: Send + Sync {
    /// The location as it may be shown: without credentials.
    fn shown(&self) -> &str;

    /// Opens the image at its start.
    fn open(&self) -> Result<Opened>;
}

/// An image that is being read.
pub(crate) struct Opened {
    /// What the store says its size is, in bytes, where it says so before the data.
    pub(crate) size: Option<u64>,
    pub(crate) body: Body,
}

/// A local file can be cloned and has holes; everything else comes byte by byte.
pub(crate) enum Body {
    File(File),
    Stream(Box<dyn Read + Send>),
}
