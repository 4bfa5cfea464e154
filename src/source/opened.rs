//! One place an image can be read from, and an image that is being read.

use std::fmt;
use std::fs::File;
use std::io::Read;

use anyhow::Result;

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
    pub(crate) end: End,
    /// Something that the operator should change, although the image can be read.
    pub(crate) warning: Option<String>,
    pub(crate) body: Body,
}

/// The meaning of the end of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The store says where the data ends; a body that ends earlier is an error.
    Announced,
    /// The data ends where the connection does. One that broke looks the same.
    Unproven,
}

/// The error of a body that is not the image, however often it is read: its store contradicts itself.
#[derive(Debug)]
pub(crate) struct WrongData(pub(crate) String);

impl fmt::Display for WrongData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongData {}

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
