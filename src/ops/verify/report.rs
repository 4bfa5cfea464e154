//! The result of a verification. It is a part of the reports of `status` and `clean`.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::cache::outcome::EntryError;
use crate::fetch::examine::Fault;
use crate::host::cache::Tally;
use crate::units::{Nanos, count, human, when};

/// A broken image.
#[derive(Debug, Serialize)]
pub(crate) struct BrokenImage {
    pub(crate) image_id: String,
    /// The size of the file in bytes.
    pub(crate) size: u64,
    #[serde(flatten)]
    pub(crate) fault: FaultReport,
    /// True if it is in `invalid/` now.
    pub(crate) moved: bool,
    /// True if a run that changes something would have moved it.
    #[serde(skip)]
    pub(super) would_move: bool,
}

/// The way in which an image is broken, for programs and for people.
#[derive(Debug, Serialize)]
pub(crate) struct FaultReport {
    /// `size`, `digest` or `unreadable`.
    fault: &'static str,
    /// The algorithm of the digest.
    algorithm: Option<String>,
    found: Option<String>,
    expected: Option<String>,
    pub(crate) message: String,
}

impl FaultReport {
    pub(super) fn of(fault: &Fault) -> Self {
        let message = fault.to_string();
        let report =
            |fault, algorithm, found, expected| FaultReport { fault, algorithm, found, expected, message };
        match fault {
            Fault::Size { found, expected } => {
                report("size", None, Some(found.to_string()), Some(expected.to_string()))
            }
            Fault::Digest { name, found, expected } => {
                let name = crate::names::escaped(name.as_bytes());
                report("digest", Some(name), Some(found.clone()), Some(expected.clone()))
            }
            Fault::Unreadable { .. } => report("unreadable", None, None, None),
        }
    }
}

/// The result of reading the images of a cache. Bytes are the sizes of images.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verification {
    /// Images whose contents are as their records say.
    pub(crate) sound: Tally,
    pub(crate) broken: Vec<BrokenImage>,
    /// Images that cannot be verified, because their records have no digest.
    pub(crate) unverifiable: Tally,
    /// Images without a record.
    pub(crate) missing: Tally,
    /// Images whose record is deleted.
    pub(crate) deleted: Tally,
    /// Images that changed or were removed while they were read.
    pub(crate) changed: u64,
    /// Images that could not be read, or whose readings differ.
    pub(crate) failed: Tally,
    /// Images that were left to a later run.
    pub(crate) left: Tally,
    pub(super) bytes_read: u64,
    #[serde(serialize_with = "as_seconds")]
    pub(crate) duration: Duration,
    /// Images that could not be read, or could not be moved.
    #[serde(skip)]
    pub(crate) errors: Vec<EntryError>,
    /// The hint about broken images that were not moved because there are many.
    #[serde(skip)]
    pub(crate) hint: Option<&'static str>,
    /// True if a signal ended the run.
    #[serde(skip)]
    pub(crate) is_interrupted: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

impl Verification {
    /// Returns the result in a line, without the broken images.
    pub(crate) fn summary(&self) -> String {
        let (sound, broken) = (self.sound.count, self.broken.len() as u64);
        let sizes = self.broken.iter().map(|image| image.size);
        let bytes = sizes.fold(self.sound.bytes, u64::saturating_add);
        let images = count(sound + broken, "image");
        let mut text = format!("{images}, {}: {sound} as recorded, {broken} broken", human(bytes));
        for (tally, what) in [
            (self.unverifiable, "without a digest"),
            (self.missing, "without a record"),
            (self.deleted, "with a deleted record"),
            (self.failed, "could not be read"),
            (self.left, "left to a later run"),
        ] {
            if tally.count > 0 {
                let _ = write!(text, "; {} {what}", tally.count);
            }
        }
        if self.changed > 0 {
            let _ = write!(text, "; {} changed meanwhile", self.changed);
        }
        text
    }
}

/// The verifications that are remembered of the images of a cache.
#[derive(Debug, Serialize)]
pub(crate) struct VerifiedImages {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// The times of the first and of the last verification among them, RFC 3339 in UTC.
    #[serde(serialize_with = "as_time")]
    pub(crate) oldest: Nanos,
    #[serde(serialize_with = "as_time")]
    pub(crate) newest: Nanos,
    /// The ids of those that were broken and are still the same.
    pub(crate) broken: Vec<String>,
    /// True if so many images are broken that none of them is moved.
    #[serde(skip)]
    pub(in crate::ops) are_mostly_broken: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_time<S: Serializer>(time: &Nanos, serializer: S) -> Result<S::Ok, S::Error> {
    when(*time).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_duration_is_in_seconds_with_three_places() {
        let found = Verification { duration: Duration::from_micros(1_234_567), ..Verification::default() };
        assert_eq!(serde_json::to_value(&found).unwrap()["duration"], 1.235);
    }

    #[test]
    fn the_summary_counts_broken_images_among_those_that_were_read() {
        let broken = |size| BrokenImage {
            image_id: "an image".to_owned(),
            size,
            fault: FaultReport::of(&Fault::Size { found: size, expected: 1 }),
            moved: false,
            would_move: false,
        };
        let sound = Tally { count: 3, bytes: 1024 };
        let found = Verification { sound, broken: vec![broken(512), broken(512)], ..Verification::default() };
        assert_eq!(found.summary(), "5 images, 2 KiB: 3 as recorded, 2 broken");
    }

    #[test]
    fn the_summary_names_only_what_there_is() {
        let tally = |count| Tally { count, bytes: 1024 };
        let mut found = Verification { sound: tally(2), ..Verification::default() };
        assert_eq!(found.summary(), "2 images, 1 KiB: 2 as recorded, 0 broken");
        (found.unverifiable, found.missing, found.deleted) = (tally(1), tally(2), tally(3));
        (found.failed, found.left, found.changed) = (tally(4), tally(5), 6);
        assert_eq!(
            found.summary(),
            "2 images, 1 KiB: 2 as recorded, 0 broken; 1 without a digest; 2 without a record; 3 with a \
             deleted record; 4 could not be read; 5 left to a later run; 6 changed meanwhile"
        );
    }
}
