//! Fetching one image: from the first of its locations that has it, into a staged file, verified.
//!
//! [`judge`] decides, without I/O, what is to be fetched and whether it fits; [`digest`] knows the digests; [`copy`] moves the
//! bytes, at the [`pace`] that is allowed. Nothing here knows the index or the queue: who calls publishes what it gets, or
//! drops it.

pub(crate) mod copy;
pub(crate) mod digest;
pub(crate) mod judge;
pub(crate) mod pace;

use std::fmt::Display;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow};

use self::digest::Check;
use self::pace::Pace;
use crate::cache::dir::CacheDir;
use crate::cache::index::xattr;
use crate::cache::stage::{self, Staged};
use crate::fetch::pace::Trouble;
use crate::names::{ImageId, escaped};
use crate::os::space::available;
use crate::source::{Refused, Source};

/// How far an image has come; read by others while it is fetched.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes of the image that are there.
    pub(crate) moved: AtomicU64,
    /// How large it will be, as far as anybody has said.
    pub(crate) size: AtomicU64,
}

/// An image that is to be fetched.
pub(crate) struct Job<'a> {
    pub(crate) id: ImageId,
    pub(crate) dir: &'a CacheDir,
    /// The locations in the order to try them; those that cannot be read say why.
    pub(crate) sources: Vec<Candidate>,
    /// Bytes, as the record says.
    pub(crate) size: Option<u64>,
    pub(crate) check: Option<Check>,
    /// Bytes of the file system to be left free.
    pub(crate) reserve: u64,
    /// Whether the image's metadata are attributes of its file.
    pub(crate) attributes: bool,
    pub(crate) pace: &'a Pace,
}

/// A location that can be read, or why it cannot.
pub(crate) type Candidate = Result<Box<dyn Source>, Refused>;

/// A location that did not give the image.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Which, and what happened.
    pub(crate) message: String,
    /// Whether it would happen again at the cost of a download: worth remembering.
    pub(crate) lasting: bool,
}

/// An image that was fetched, verified and put on the disk.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) staged: Staged,
    pub(crate) bytes: u64,
    pub(crate) location: String,
}

/// How a fetch ended without an image.
#[derive(Debug)]
pub(crate) enum Failed {
    /// No location gave it.
    Nowhere,
    /// It is our side that cannot go on, and no other location would help.
    Here(anyhow::Error),
    /// A signal came.
    Interrupted,
}

/// Tries the locations in turn. What each failed with is told beside the result.
pub(crate) fn fetch(job: &Job<'_>, meter: &Meter) -> (Result<Fetched, Failed>, Vec<Attempt>) {
    let mut attempts = Vec::new();
    for source in &job.sources {
        if job.pace.interrupt.raised() {
            return (Err(Failed::Interrupted), attempts);
        }
        let source = match source {
            Ok(source) => source,
            Err(e) => {
                attempts.push(Attempt { message: told(e), lasting: false });
                continue;
            }
        };
        let location = source.shown().to_owned();
        match one(job, source.as_ref(), meter) {
            Ok((staged, bytes)) => return (Ok(Fetched { staged, bytes, location }), attempts),
            Err(Trouble::Interrupted) => return (Err(Failed::Interrupted), attempts),
            Err(Trouble::Here(e)) => return (Err(Failed::Here(e)), attempts),
            Err(Trouble::There(e)) => {
                let lasting = meter.moved.swap(0, Ordering::Relaxed) > 0;
                attempts.push(Attempt { message: format!("{location}: {}", told(&e)), lasting });
            }
        }
    }
    (Err(Failed::Nowhere), attempts)
}

/// A chain of causes in one line. Sources escape what servers say; this is for what they may have missed.
fn told(error: &dyn Display) -> String {
    let text = format!("{error:#}");
    if text.chars().any(char::is_control) { escaped(text.as_bytes()) } else { text }
}

/// Fetches from one location.
fn one(job: &Job<'_>, source: &dyn Source, meter: &Meter) -> Result<(Staged, u64), Trouble> {
    let opened = source.open().map_err(|e| job.pace.or_interrupted(Trouble::There(e)))?;
    let size = job.size.or(opened.size);
    if let (Some(said), Some(wanted)) = (opened.size, job.size)
        && said != wanted
    {
        return Err(Trouble::There(anyhow!("it has {said} bytes there, but {wanted} in Glance's record")));
    }
    if let (Some(encoding), None, None) = (&opened.encoding, job.size, &job.check) {
        return Err(Trouble::There(anyhow!(
            "the server says that what it sends is encoded ({encoding}), and Glance's record has neither the size nor \
             the hash of the image to compare it with"
        )));
    }
    meter.size.store(size.unwrap_or(0), Ordering::Relaxed);
    if job.size.is_none() {
        let free = available(&job.dir.statvfs().map_err(Trouble::Here)?).saturating_sub(job.reserve);
        if let Some(size) = size.filter(|size| *size > free) {
            return Err(Trouble::Here(anyhow!(
                "it has {size} bytes, and the file system has room for {free}"
            )));
        }
    }
    let staged = Staged::make(job.dir, job.id).map_err(Trouble::Here)?;
    let algorithm = job.check.as_ref().map(|check| check.algorithm);
    let copied = copy::copy(opened.body, &staged.file, size, job.reserve, algorithm, job.pace, &meter.moved)?;
    if let Err(e) = verdict(job, copied.bytes, copied.digest.as_deref()) {
        // Whatever was moved, this is what the location has.
        meter.moved.fetch_max(1, Ordering::Relaxed);
        return Err(Trouble::There(match reject(job, staged, &e) {
            Ok(()) => e,
            Err(lost) => anyhow!("{e:#} (and {lost:#})"),
        }));
    }
    if job.attributes {
        xattr::set_unused(staged.file.as_fd())
            .context("cannot set user.hits on the staged image")
            .map_err(Trouble::Here)?;
    }
    staged.settle().map_err(Trouble::Here)?;
    Ok((staged, copied.bytes))
}

/// Compares what was fetched with what the record says.
fn verdict(job: &Job<'_>, bytes: u64, digest: Option<&str>) -> Result<()> {
    if let Some(wanted) = job.size.filter(|wanted| *wanted != bytes) {
        return Err(anyhow!("it gave {bytes} bytes instead of {wanted}"));
    }
    match (&job.check, digest) {
        (Some(check), Some(digest)) if !check.expected.eq_ignore_ascii_case(digest) => Err(anyhow!(
            "what it gave has the {} {} instead of {}",
            check.name,
            short(digest),
            short(&escaped(check.expected.as_bytes()))
        )),
        _ => Ok(()),
    }
}

/// Enough of a digest to tell it from another.
fn short(digest: &str) -> String {
    let start: String = digest.chars().take(12).collect();
    if start.len() < digest.len() { start + "..." } else { start }
}

/// Keeps what is wrong for whoever wants to look at it, as Glance does.
fn reject(job: &Job<'_>, staged: Staged, why: &anyhow::Error) -> Result<()> {
    if job.attributes {
        // Where it cannot be written the file is invalid all the same.
        let _ = xattr::set_error(staged.file.as_fd(), &format!("{why:#}"));
    }
    stage::reject(job.dir, job.id, staged)
}
