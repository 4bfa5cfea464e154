//! The decisions about a wanted image: may it be fetched, and does it fit?
//!
//! Decides from the image's record, from an earlier failure and from numbers of bytes. Nothing here does I/O.

use super::digest::{Check, fingerprint};
use crate::cache::queue::Memory;
use crate::database::images::ImageRecord;

/// The decision about an image. The texts are reasons, which follow the image's id in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Fetch it; `None` if nothing but its size can verify it.
    Fetch(Option<Check>),
    /// The image does not exist or was deleted: it leaves the queue.
    Gone(String),
    /// The image cannot be fetched now, but perhaps later.
    NotYet(String),
    /// The last fetch failed for this reason, and the record has not changed since.
    FailedBefore(String),
    /// The record offers nothing to verify the image with, but verification is required.
    Unverifiable(String),
}

/// The user's choices about which images to fetch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FetchPolicy {
    /// Try images again whose last fetch failed.
    pub(crate) retry: bool,
    /// Fetch only images that can be verified by a hash or a checksum.
    pub(crate) require_checksum: bool,
}

/// Decides about an image from its record and from the failure that an earlier run noted in the queue.
pub(crate) fn judge(record: Option<&ImageRecord>, memory: Option<&Memory>, policy: FetchPolicy) -> Verdict {
    let Some(record) = record else {
        return Verdict::Gone("Glance's database has no such image".to_owned());
    };
    if record.deleted || record.status == "deleted" || record.status == "pending_delete" {
        return Verdict::Gone("the image is deleted".to_owned());
    }
    if record.status != "active" {
        let status = crate::names::escaped(record.status.as_bytes());
        return Verdict::NotYet(format!("the image has the status {status}, not active"));
    }
    if record.locations.is_empty() {
        return Verdict::NotYet("the image has no active location".to_owned());
    }
    let failed = memory.filter(|memory| !policy.retry && memory.fingerprint == fingerprint(record));
    if let Some(memory) = failed {
        return Verdict::FailedBefore(memory.failed.clone());
    }
    match Check::of(record) {
        None if policy.require_checksum => Verdict::Unverifiable(unverifiable(record)),
        check => Verdict::Fetch(check),
    }
}

/// Decides about a fetched image again, from its current record.
///
/// Its locations may have changed meanwhile, since the content remains the same.
pub(crate) fn judge_again(record: Option<&ImageRecord>, fetched: &ImageRecord) -> Verdict {
    let dropped = |why| format!("{why} (changed during the fetch; the fetched data is discarded)");
    let content = |record: &ImageRecord| {
        let ImageRecord { size, checksum, os_hash_algo, os_hash_value, .. } = record.clone();
        (size, checksum, os_hash_algo, os_hash_value)
    };
    match judge(record, None, FetchPolicy::default()) {
        Verdict::Gone(why) => Verdict::Gone(dropped(why)),
        Verdict::NotYet(why) => Verdict::NotYet(dropped(why)),
        Verdict::Fetch(_) if record.map(content) != Some(content(fetched)) => {
            Verdict::NotYet(dropped("Glance's record now has another size or hash".to_owned()))
        }
        verdict => verdict,
    }
}

/// Returns the reason that a record cannot verify an image.
pub(crate) fn unverifiable(record: &ImageRecord) -> String {
    match &record.os_hash_algo {
        Some(name) => format!(
            "Glance's record has a hash of the unknown kind {} and no checksum",
            crate::names::escaped(name.as_bytes())
        ),
        None => "Glance's record has neither a hash nor a checksum".to_owned(),
    }
}

/// The space for a fetch, all in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpaceBudget {
    /// Free space of the file system.
    pub(crate) available: u64,
    /// The part of it that must stay free.
    pub(crate) reserve: u64,
    /// Space that the fetches in progress will still use.
    pub(crate) in_flight: u64,
    /// The size of the cache, fetches in progress included.
    pub(crate) cached: u64,
    /// The cache's limit; `None` if it does not apply.
    pub(crate) limit: Option<u64>,
}

/// The answer to the question if an image fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    /// The file system lacks this many bytes.
    DiskShort(u64),
    /// The cache would exceed its limit by this many bytes.
    OverLimit(u64),
}

/// Decides if an image of this size fits into the space. If both the disk and the limit are short, reports
/// the disk.
pub(crate) fn fit(size: u64, space: SpaceBudget) -> Fit {
    let wanted = size.saturating_add(space.in_flight).saturating_add(space.reserve);
    let over = space.limit.map_or(0, |limit| space.cached.saturating_add(size).saturating_sub(limit));
    match (wanted.saturating_sub(space.available), over) {
        (0, 0) => Fit::Fits,
        (0, over) => Fit::OverLimit(over),
        (short, _) => Fit::DiskShort(short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::images::Location;

    fn active() -> ImageRecord {
        let location = Location { value: "file:///x".into(), store: None };
        ImageRecord {
            status: "active".into(),
            size: Some(1),
            checksum: Some("00".into()),
            locations: vec![location],
            ..ImageRecord::default()
        }
    }

    #[test]
    fn judges_by_record_and_memory() {
        let good = active();
        let bare = ImageRecord { checksum: None, ..active() };
        let moved = ImageRecord { locations: [active().locations, active().locations].concat(), ..active() };
        let before = Memory { failed: "lies".into(), fingerprint: fingerprint(&good) };
        let with = |status: &str| ImageRecord { status: status.into(), ..active() };
        let (usual, retry) = (FetchPolicy::default(), FetchPolicy { retry: true, ..FetchPolicy::default() });
        let strict = FetchPolicy { require_checksum: true, ..FetchPolicy::default() };
        for (case, record, memory, policy, expected) in [
            ("unknown", None, None, usual, "gone"),
            ("deleted", Some(&ImageRecord { deleted: true, ..active() }), None, usual, "gone"),
            ("deleted", Some(&with("deleted")), None, usual, "gone"),
            ("deactivated", Some(&with("deactivated")), None, usual, "not yet"),
            ("uploading", Some(&with("saving")), None, usual, "not yet"),
            ("nowhere", Some(&ImageRecord { locations: Vec::new(), ..active() }), None, usual, "not yet"),
            ("good", Some(&good), None, usual, "fetch"),
            ("failed before", Some(&good), Some(&before), usual, "failed before"),
            ("to be tried again", Some(&good), Some(&before), retry, "fetch"),
            ("changed since", Some(&moved), Some(&before), usual, "fetch"),
            ("nothing to verify against", Some(&bare), None, usual, "fetch"),
            ("and that is not enough", Some(&bare), None, strict, "unverifiable"),
        ] {
            let found = match judge(record, memory, policy) {
                Verdict::Fetch(_) => "fetch",
                Verdict::Gone(_) => "gone",
                Verdict::NotYet(_) => "not yet",
                Verdict::FailedBefore(_) => "failed before",
                Verdict::Unverifiable(_) => "unverifiable",
            };
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn a_fetched_image_must_still_be_the_one_on_record() {
        let fetched = active();
        let hashed = |value: &str| ImageRecord { os_hash_value: Some(value.into()), ..active() };
        let elsewhere = vec![Location { value: "file:///y".into(), store: None }];
        for (case, now, expected) in [
            ("the same", Some(active()), None),
            ("moved", Some(ImageRecord { locations: elsewhere, ..active() }), None),
            ("larger", Some(ImageRecord { size: Some(2), ..active() }), Some("another size or hash")),
            ("other bytes", Some(hashed("11")), Some("another size or hash")),
            (
                "without a checksum",
                Some(ImageRecord { checksum: None, ..active() }),
                Some("another size or hash"),
            ),
            (
                "deactivated",
                Some(ImageRecord { status: "deactivated".into(), ..active() }),
                Some("deactivated"),
            ),
            ("deleted", Some(ImageRecord { deleted: true, ..active() }), Some("the image is deleted")),
            ("unknown", None, Some("has no such image")),
        ] {
            match (judge_again(now.as_ref(), &fetched), expected) {
                (Verdict::Fetch(_), None) => {}
                (Verdict::NotYet(why) | Verdict::Gone(why), Some(expected)) => {
                    assert!(
                        why.contains(expected) && why.contains("changed during the fetch"),
                        "{case}: {why}"
                    );
                }
                (verdict, _) => panic!("{case}: {verdict:?}"),
            }
        }
    }

    #[test]
    fn the_reason_names_a_hash_that_nobody_knows() {
        let record = ImageRecord { os_hash_algo: Some("whirl\npool".into()), ..ImageRecord::default() };
        assert!(unverifiable(&record).contains("the unknown kind whirl\\npool"), "{}", unverifiable(&record));
        assert!(unverifiable(&ImageRecord::default()).contains("neither a hash nor a checksum"));
    }

    #[test]
    fn an_image_fits_into_free_space_that_is_not_promised() {
        let space = SpaceBudget { available: 100, reserve: 10, in_flight: 20, cached: 50, limit: None };
        for (size, limit, expected) in [
            (70, None, Fit::Fits),
            (71, None, Fit::DiskShort(1)),
            (u64::MAX, None, Fit::DiskShort(u64::MAX - 100)),
            (50, Some(100), Fit::Fits),
            (51, Some(100), Fit::OverLimit(1)),
            (0, Some(49), Fit::OverLimit(1)),
            (71, Some(0), Fit::DiskShort(1)),
        ] {
            assert_eq!(fit(size, SpaceBudget { limit, ..space }), expected, "{size}");
        }
    }
}
