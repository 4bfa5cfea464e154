//! What is to become of an image that is wanted, decided without I/O.

use super::digest::{Check, fingerprint};
use crate::cache::queue::Memory;
use crate::database::images::ImageRecord;

/// What is to be done about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Fetch it; `None` when there is nothing to verify it against but its size.
    Fetch(Option<Check>),
    /// There is no such image, or not any more, as the text says: it leaves the queue.
    Gone(String),
    /// It cannot be fetched as things are.
    NotYet(String),
    /// It failed before, with what the text says, and nothing has changed since.
    FailedBefore(String),
    /// It can be verified against nothing, and has to be.
    Unverifiable(String),
}

/// What one may want of a fetch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Try again what failed before.
    pub(crate) retry: bool,
    /// Fetch nothing that cannot be verified.
    pub(crate) require_checksum: bool,
}

/// Judges an image by its record and by what an earlier run remembers of it.
pub(crate) fn judge(record: Option<&ImageRecord>, memory: Option<&Memory>, wish: Wish) -> Verdict {
    let Some(record) = record else {
        return Verdict::Gone("Glance's database has no such image".to_owned());
    };
    if record.deleted || record.status == "deleted" || record.status == "pending_delete" {
        return Verdict::Gone("it is deleted".to_owned());
    }
    if record.status != "active" {
        let status = crate::names::escaped(record.status.as_bytes());
        return Verdict::NotYet(format!("its status is {status}, not active"));
    }
    if record.locations.is_empty() {
        return Verdict::NotYet("it has no active location".to_owned());
    }
    let failed = memory.filter(|memory| !wish.retry && memory.fingerprint == fingerprint(record));
    if let Some(memory) = failed {
        return Verdict::FailedBefore(memory.failed.clone());
    }
    match Check::of(record) {
        None if wish.require_checksum => Verdict::Unverifiable(unverifiable(record)),
        check => Verdict::Fetch(check),
    }
}

/// Judges an image that was fetched by what its record says now. Its locations may have changed: the content is the same.
pub(crate) fn judge_again(record: Option<&ImageRecord>, fetched: &ImageRecord) -> Verdict {
    let dropped = |why| format!("{why} by now: what was fetched is dropped");
    let content = |record: &ImageRecord| {
        let ImageRecord { size, checksum, os_hash_algo, os_hash_value, .. } = record.clone();
        (size, checksum, os_hash_algo, os_hash_value)
    };
    match judge(record, None, Wish::default()) {
        Verdict::Gone(why) => Verdict::Gone(dropped(why)),
        Verdict::NotYet(why) => Verdict::NotYet(dropped(why)),
        Verdict::Fetch(_) if record.map(content) != Some(content(fetched)) => {
            Verdict::NotYet(dropped("its record has another size or hash".to_owned()))
        }
        verdict => verdict,
    }
}

/// Why a record offers nothing to verify an image against.
pub(crate) fn unverifiable(record: &ImageRecord) -> String {
    match &record.os_hash_algo {
        Some(name) => format!(
            "its record has a hash of the unknown kind {} and no checksum",
            crate::names::escaped(name.as_bytes())
        ),
        None => "its record has neither a hash nor a checksum".to_owned(),
    }
}

/// What a fetch may take, all in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    /// Free on the file system.
    pub(crate) available: u64,
    /// Of that, to be left free.
    pub(crate) reserve: u64,
    /// What the fetches under way will still take.
    pub(crate) in_flight: u64,
    /// What the cache holds, those included.
    pub(crate) cached: u64,
    /// What it may hold, where that has to be kept to.
    pub(crate) limit: Option<u64>,
}

/// Whether an image fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// So many bytes of the disk are missing.
    DiskShort(u64),
    /// The cache would be so many bytes over its limit.
    OverLimit(u64),
}

/// Tells whether an image of this size fits.
pub(crate) fn room(size: u64, space: Space) -> Room {
    let wanted = size.saturating_add(space.in_flight).saturating_add(space.reserve);
    let over = space.limit.map_or(0, |limit| space.cached.saturating_add(size).saturating_sub(limit));
    match (wanted.saturating_sub(space.available), over) {
        (0, 0) => Room::Enough,
        (0, over) => Room::OverLimit(over),
        (short, _) => Room::DiskShort(short),
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
        let (usual, retry) = (Wish::default(), Wish { retry: true, ..Wish::default() });
        let strict = Wish { require_checksum: true, ..Wish::default() };
        for (what, record, memory, wish, expected) in [
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
            let found = match judge(record, memory, wish) {
                Verdict::Fetch(_) => "fetch",
                Verdict::Gone(_) => "gone",
                Verdict::NotYet(_) => "not yet",
                Verdict::FailedBefore(_) => "failed before",
                Verdict::Unverifiable(_) => "unverifiable",
            };
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn room_is_what_is_free_and_not_promised() {
        let space = Space { available: 100, reserve: 10, in_flight: 20, cached: 50, limit: None };
        for (size, limit, expected) in [
            (70, None, Room::Enough),
            (71, None, Room::DiskShort(1)),
            (u64::MAX, None, Room::DiskShort(u64::MAX - 100)),
            (50, Some(100), Room::Enough),
            (51, Some(100), Room::OverLimit(1)),
            (0, Some(49), Room::OverLimit(1)),
            (71, Some(0), Room::DiskShort(1)),
        ] {
            assert_eq!(room(size, Space { limit, ..space }), expected, "{size}");
        }
    }
}
