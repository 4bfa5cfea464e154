//! Fetching one image: from the first of its locations that has it into a staged file, verified.
//!
//! Promises: an image is returned only if its size and its hash match the record, and only after its data is
//! on the disk. If a location fails, the next one is tried; an error on the cache's own side ends the fetch,
//! since no other location would help. A crash leaves at most the staged file, which `clean` removes once it
//! has stalled.
//!
//! Nothing here knows the index or the queue: the caller publishes the staged file or drops it. The decision
//! about an image is [`judge`]'s. [`mod@examine`] reads an image that is in the cache already.

mod copy;
pub(crate) mod digest;
mod error;
pub(crate) mod examine;
pub(crate) mod judge;
pub(crate) mod throttle;

use std::fmt::Display;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow};

use self::copy::{Copied, Transfer};
use self::digest::Check;
use self::error::FetchError;
use self::throttle::Throttle;
use crate::cache::dir::CacheDir;
use crate::cache::index::xattr;
use crate::cache::stage::{self, Staged};
use crate::names::{ImageId, escaped};
use crate::os::space::available;
use crate::source::{End, Opened, Refused, Source};
use crate::units::human;

/// The progress of a fetch, which other threads may read.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes of the image fetched so far.
    pub(crate) moved: AtomicU64,
    /// The image's size in bytes; 0 as long as it is unknown.
    pub(crate) size: AtomicU64,
}

/// An image to fetch.
pub(crate) struct FetchJob<'a> {
    pub(crate) id: ImageId,
    pub(crate) dir: &'a CacheDir,
    /// The locations in the order to try them, each as a source or as the reason that it cannot be read.
    pub(crate) sources: Vec<Result<Box<dyn Source>, Refused>>,
    /// The size in bytes according to the record.
    pub(crate) size: Option<u64>,
    pub(crate) check: Option<Check>,
    /// Bytes of the file system that must stay free.
    pub(crate) reserve: u64,
    /// True if the index keeps an image's metadata in attributes of its file.
    pub(crate) attributes: bool,
    pub(crate) throttle: &'a Throttle,
}

/// A failed attempt to fetch an image from one location.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The location and the error.
    pub(crate) message: String,
    pub(crate) kind: AttemptKind,
}

/// The meaning of a failed attempt for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AttemptKind {
    /// Nothing was asked of the location: the settings do not allow to read it.
    Refused,
    /// The location, or the way to it, failed. The next attempt may be better.
    Failed,
    /// The location gave data that is not the image. The next attempt would probably end in the same way,
    /// after the same effort.
    WrongData,
}

/// True if fetching the image again would be in vain until something changes: data was wrong, and no other
/// location may be better the next time.
pub(crate) fn is_in_vain(attempts: &[Attempt]) -> bool {
    let any = |kind| attempts.iter().any(|attempt| attempt.kind == kind);
    any(AttemptKind::WrongData) && !any(AttemptKind::Failed)
}

/// An image that was fetched, verified and written to the disk.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) staged: Staged,
    pub(crate) bytes: u64,
    pub(crate) location: String,
    /// Something that the operator should change, although the image was read.
    pub(crate) warning: Option<String>,
}

/// The reason that a fetch ended without an image.
#[derive(Debug)]
pub(crate) enum Unfetched {
    /// All locations failed.
    NoSource,
    /// The cache's own side failed, so no other location would help.
    Cache(anyhow::Error),
    /// A signal arrived.
    Interrupted,
}

/// Tries the locations in turn, and returns the result together with the failed attempts.
pub(crate) fn fetch(job: &FetchJob<'_>, meter: &Meter) -> (Result<Fetched, Unfetched>, Vec<Attempt>) {
    let mut attempts = Vec::new();
    for source in &job.sources {
        if job.throttle.interrupt.raised() {
            return (Err(Unfetched::Interrupted), attempts);
        }
        let source = match source {
            Ok(source) => source,
            Err(e) => {
                attempts.push(Attempt { message: one_line(e), kind: AttemptKind::Refused });
                continue;
            }
        };
        let location = source.shown().to_owned();
        let (error, kind) = match one(job, source.as_ref(), meter) {
            Ok(Copy { staged, bytes, warning }) => {
                return (Ok(Fetched { staged, bytes, location, warning }), attempts);
            }
            Err(FetchError::Interrupted) => return (Err(Unfetched::Interrupted), attempts),
            Err(FetchError::Cache(e)) => return (Err(Unfetched::Cache(e)), attempts),
            // There may be more room the next time.
            Err(FetchError::Room(e) | FetchError::Source(e)) => (e, AttemptKind::Failed),
            Err(FetchError::Data(e)) => (e, AttemptKind::WrongData),
        };
        meter.moved.store(0, Ordering::Relaxed);
        attempts.push(Attempt { message: format!("{location}: {}", one_line(&error)), kind });
    }
    (Err(Unfetched::NoSource), attempts)
}

/// Returns a chain of causes as one line.
///
/// Sources escape the texts of servers themselves; this catches anything that they missed.
fn one_line(error: &dyn Display) -> String {
    let text = format!("{error:#}");
    if text.chars().any(char::is_control) { escaped(text.as_bytes()) } else { text }
}

/// An image as one location gave it.
struct Copy {
    staged: Staged,
    bytes: u64,
    warning: Option<String>,
}

/// Fetches from one location.
fn one(job: &FetchJob<'_>, source: &dyn Source, meter: &Meter) -> Result<Copy, FetchError> {
    let opened = source.open().map_err(|e| job.throttle.or_interrupted(FetchError::Source(e)))?;
    let size = expected_size(job, &opened)?;
    meter.size.store(size.unwrap_or(0), Ordering::Relaxed);
    let staged = Staged::make(job.dir, job.id).map_err(FetchError::Cache)?;
    let copied = Transfer {
        to: &staged.file,
        size,
        reserve: job.reserve,
        algorithm: job.check.as_ref().map(|check| check.algorithm),
        throttle: job.throttle,
        moved: &meter.moved,
    }
    .copy(opened.body)?;
    if let Some(expected) = job.size.filter(|size| opened.end == End::Unproven && copied.bytes < *size) {
        return Err(FetchError::Source(anyhow!(
            "the connection ended after {} of the image's {expected} bytes, and the server had not said how \
             many it would send",
            copied.bytes
        )));
    }
    if let Err(e) = verify(job, &copied) {
        if opened.end == End::Unproven && job.size.is_none() {
            return Err(FetchError::Source(e.context(format!(
                "the connection ended after {} bytes, and neither the server nor Glance's record says how \
                 many the image has",
                copied.bytes
            ))));
        }
        return Err(FetchError::Data(match reject(job, staged, &e) {
            Ok(()) => e,
            Err(lost) => anyhow!("{e:#} (and {lost:#})"),
        }));
    }
    if job.attributes {
        xattr::set_unused(staged.file.as_fd())
            .context("cannot set user.hits on the staged image")
            .map_err(FetchError::Cache)?;
    }
    staged.settle().map_err(FetchError::Cache)?;
    Ok(Copy { staged, bytes: copied.bytes, warning: opened.warning })
}

/// Returns the size that the image should have, if it is known.
///
/// Fails if the location's size is wrong or does not fit, and if the location encodes the data and nothing
/// could reveal that.
fn expected_size(job: &FetchJob<'_>, opened: &Opened) -> Result<Option<u64>, FetchError> {
    match (job.size, opened.size) {
        (Some(expected), Some(size)) if size != expected => Err(FetchError::Source(anyhow!(
            "size mismatch: got {size} bytes, expected {expected} according to Glance's record"
        ))),
        (Some(expected), _) => Ok(Some(expected)),
        (None, size) => {
            if let (Some(encoding), None) = (&opened.encoding, &job.check) {
                return Err(FetchError::Source(anyhow!(
                    "the server sends the image encoded ({encoding}), and Glance's record has neither the \
                     size nor the hash of the image to compare it with"
                )));
            }
            let free = available(&job.dir.statvfs().map_err(FetchError::Cache)?).saturating_sub(job.reserve);
            match size.filter(|size| *size > free) {
                Some(size) => Err(FetchError::Room(anyhow!(
                    "the image would have {}, but only {} of the file system may be used",
                    human(size),
                    human(free)
                ))),
                None => Ok(size),
            }
        }
    }
}

/// Compares the copy with the record.
fn verify(job: &FetchJob<'_>, copied: &Copied) -> Result<()> {
    if let Some(expected) = job.size.filter(|expected| *expected != copied.bytes) {
        return Err(anyhow!("size mismatch: got {} bytes, expected {expected}", copied.bytes));
    }
    match (&job.check, &copied.digest) {
        (Some(check), Some(digest)) if !check.expected.eq_ignore_ascii_case(digest) => Err(anyhow!(
            "{} mismatch: got {}, expected {}",
            escaped(check.name.as_bytes()),
            short(digest),
            short(&escaped(check.expected.as_bytes()))
        )),
        _ => Ok(()),
    }
}

/// Returns enough of a digest to tell it from another.
fn short(digest: &str) -> String {
    let start: String = digest.chars().take(12).collect();
    if start.len() < digest.len() { start + "..." } else { start }
}

/// Keeps a file with wrong content among the invalid ones for inspection, as Glance does.
fn reject(job: &FetchJob<'_>, staged: Staged, why: &anyhow::Error) -> Result<()> {
    if job.attributes {
        // The error is ignored, because the file is invalid even without the attribute that says why.
        let _ = xattr::set_error(staged.file.as_fd(), &format!("{why:#}"));
    }
    stage::reject(job.dir, job.id, staged)
}

#[cfg(test)]
mod tests {
    use super::digest::Algorithm;
    use super::*;
    use crate::interrupt::Interrupt;
    use crate::source::Body;

    const ID: &[u8] = b"00000000-0000-0000-0000-00000000000a";
    /// The MD5 checksum of `image`.
    const MD5: &str = "78805a221a988e79ef3f42d7c5bfd418";

    /// A location that gives the five bytes of `image`, and says about them what it is told.
    #[derive(Clone)]
    struct Location {
        size: Option<u64>,
        encoding: Option<String>,
        end: End,
    }

    const SILENT: Location = Location { size: None, encoding: None, end: End::Announced };

    impl Source for Location {
        fn shown(&self) -> &'static str {
            "http://store/image"
        }

        fn open(&self) -> Result<Opened> {
            let Location { size, encoding, end } = self.clone();
            let body = Body::Stream(Box::new(&b"image"[..]));
            Ok(Opened { size, encoding, end, warning: None, body })
        }
    }

    fn md5(expected: &str) -> Check {
        Check { algorithm: Algorithm::Md5, name: "md5".to_owned(), expected: expected.to_owned() }
    }

    /// Fetches the image from these locations, with the size and the hash of its record. Returns how many
    /// bytes there are, the attempts that failed, and if there is a file in `invalid/`.
    fn fetched(
        locations: Vec<Location>,
        size: Option<u64>,
        check: Option<Check>,
    ) -> (Option<u64>, Vec<AttemptKind>, bool) {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir(temporary.path().join("invalid")).unwrap();
        std::fs::create_dir(temporary.path().join("incomplete")).unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let throttle = Throttle::new(Interrupt::default(), None);
        let sources = locations.into_iter().map(|location| Ok(Box::new(location) as Box<dyn Source>));
        let (id, sources) = (ImageId::new(ID).unwrap(), sources.collect());
        let job = FetchJob {
            id,
            dir: &dir,
            sources,
            size,
            check,
            reserve: 0,
            attributes: false,
            throttle: &throttle,
        };
        let (result, attempts) = fetch(&job, &Meter::default());
        let bytes = result.ok().map(|fetched| {
            assert_eq!(fetched.staged.file.metadata().unwrap().len(), fetched.bytes);
            fetched.bytes
        });
        let is_rejected = temporary.path().join("invalid").read_dir().unwrap().count() == 1;
        (bytes, attempts.iter().map(|attempt| attempt.kind).collect(), is_rejected)
    }

    #[test]
    fn data_is_compared_with_the_record() {
        let unproven = Location { end: End::Unproven, ..SILENT };
        for (location, size, check, expected) in [
            (&SILENT, Some(5), Some(md5(MD5)), None),
            (&SILENT, None, Some(md5(&MD5.to_uppercase())), None),
            (&SILENT, None, None, None),
            (&SILENT, Some(4), None, Some((AttemptKind::WrongData, false))),
            (&SILENT, Some(6), None, Some((AttemptKind::WrongData, true))),
            (&SILENT, None, Some(md5("00")), Some((AttemptKind::WrongData, true))),
            // The location contradicts the record before it gives data.
            (&Location { size: Some(6), ..SILENT }, Some(5), None, Some((AttemptKind::Failed, false))),
            (&Location { size: Some(5), ..SILENT }, Some(5), None, None),
            // The image does not fit.
            (&Location { size: Some(u64::MAX), ..SILENT }, None, None, Some((AttemptKind::Failed, false))),
            // Data that ends with the connection may be a part of the image.
            (&unproven, Some(5), Some(md5(MD5)), None),
            (&unproven, Some(6), None, Some((AttemptKind::Failed, false))),
            (&unproven, None, Some(md5("00")), Some((AttemptKind::Failed, false))),
            (&unproven, Some(5), Some(md5("00")), Some((AttemptKind::WrongData, true))),
        ] {
            let (bytes, attempts, is_rejected) = fetched(vec![location.clone()], size, check);
            assert_eq!(bytes.is_some(), expected.is_none(), "{size:?} {attempts:?}");
            assert_eq!(attempts, expected.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
            assert_eq!(is_rejected, expected.is_some_and(|(_, rejected)| rejected));
        }
    }

    #[test]
    fn encoded_data_must_be_comparable_with_the_record() {
        let encoded = Location { encoding: Some("gzip".to_owned()), ..SILENT };
        assert_eq!(fetched(vec![encoded.clone()], None, None), (None, vec![AttemptKind::Failed], false));
        assert_eq!(fetched(vec![encoded.clone()], Some(5), None).0, Some(5));
        assert_eq!(fetched(vec![encoded], None, Some(md5(MD5))).0, Some(5));
    }

    #[test]
    fn the_next_location_is_tried_after_one_that_failed() {
        let wrong = Location { size: Some(6), ..SILENT };
        let (bytes, attempts, _) = fetched(vec![wrong, SILENT], Some(5), Some(md5(MD5)));
        assert_eq!((bytes, attempts), (Some(5), vec![AttemptKind::Failed]));
    }

    #[test]
    fn a_digest_is_shown_in_part() {
        assert_eq!(short("0123456789ab"), "0123456789ab");
        assert_eq!(short("0123456789abc"), "0123456789ab...");
        assert_eq!(short("01"), "01");
    }
}
