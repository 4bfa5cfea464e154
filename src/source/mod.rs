//! Where images come from: the stores that Glance's locations name, opened for reading.
//!
//! Promises: nothing here writes; a location's credentials appear in no message; TLS is verified unless a
//! setting says otherwise in so many words; every wait is bounded and ends soon after the run is interrupted.
//! A stream that breaks is resumed where that is safe, that is, where a validator proves that the content is
//! still the same; otherwise its reader gets the error. Whether the bytes are the image is for the caller to
//! check, where it writes them: by size and digest.
//!
//! `stores` says by which stores a location is read; `file`, `web`, `s3` and `rbd` are one type of store
//! each: its options, its locations, its images. `location` and `sealed` are about a location as text,
//! `download` is what the two stores over HTTP have in common.

mod download;
mod file;
mod location;
mod rbd;
mod s3;
mod sealed;
mod stores;
#[cfg(test)]
mod tests;
mod web;

use std::fmt;
use std::fs::File;
use std::io::Read;

use anyhow::Result;

pub(crate) use self::stores::Stores;

/// One place an image can be read from.
pub(crate) trait Source: Send + Sync {
    /// Returns the location as it may be shown: without credentials.
    fn shown(&self) -> &str;

    /// Returns what a setting makes unsafe about reading it; the same text for all locations it is used for.
    fn warning(&self) -> Option<&str> {
        None
    }

    /// Opens the image at its start.
    fn open(&self) -> Result<Opened>;
}

/// An image that is being read.
pub(crate) struct Opened {
    /// Size in bytes, where the store says it before the data.
    pub(crate) size: Option<u64>,
    /// The encoding that the store says the bytes have (`gzip`), where it does: then they may not be the
    /// image.
    pub(crate) encoding: Option<String>,
    pub(crate) body: Body,
}

/// A local file can be cloned and has holes; everything else comes byte by byte.
pub(crate) enum Body {
    File(File),
    Stream(Box<dyn Read + Send>),
}

/// A location that cannot be read, before anything was asked of its store.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Without credentials.
    pub(crate) shown: String,
    /// Why, and what to do.
    pub(crate) error: anyhow::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.shown, self.error)
    }
}
