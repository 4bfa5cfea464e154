//! Images of a cache that Glance does not serve any more: their records say so. Decided without I/O.
//!
//! Glance asks its database before it serves an image from the cache. An image whose record is deleted,
//! deactivated or missing only takes space, until it is the one that was used longest ago.
//!
//! **The wrong database** knows none of the images. So if more images have no record than have one, none of
//! them counts as missing: the settings are then more likely wrong than that many records are lost.

use std::collections::HashMap;

use crate::database::images::ImageRecord;
use crate::names::ImageId;

/// Why Glance does not serve an image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Unusable {
    Deleted,
    Deactivated,
    /// The database has no record of it.
    Missing,
}

impl Unusable {
    /// Returns the reason as a word, which is a value of our JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Unusable::Deleted => "deleted",
            Unusable::Deactivated => "deactivated",
            Unusable::Missing => "no_record",
        }
    }

    /// Returns the reason as a sentence.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Unusable::Deleted => "its record is deleted",
            Unusable::Deactivated => "it is deactivated",
            Unusable::Missing => "Glance's database has no record of it",
        }
    }

    /// Returns the reason in a few words, for a table that has no space for a sentence.
    pub(crate) fn in_brief(self) -> &'static str {
        match self {
            Unusable::Deleted => "record deleted",
            Unusable::Deactivated => "deactivated",
            Unusable::Missing => "no record in Glance's database",
        }
    }

    /// Returns the reason that a record gives, or `None` if Glance serves the image.
    pub(crate) fn of(record: Option<&ImageRecord>) -> Option<Self> {
        let Some(record) = record else { return Some(Unusable::Missing) };
        match record.status.as_str() {
            _ if record.deleted => Some(Unusable::Deleted),
            "deleted" | "pending_delete" => Some(Unusable::Deleted),
            "deactivated" => Some(Unusable::Deactivated),
            _ => None,
        }
    }
}

/// The images of a cache that Glance does not serve, each with the reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnusableImages {
    by_id: HashMap<ImageId, Unusable>,
    /// The number of images whose records were looked for.
    asked: usize,
    missing: usize,
}

impl UnusableImages {
    /// Adds the answer of the database about an image.
    pub(crate) fn add(&mut self, id: ImageId, record: Option<&ImageRecord>) {
        self.asked += 1;
        let Some(why) = Unusable::of(record) else { return };
        self.missing += usize::from(why == Unusable::Missing);
        self.by_id.insert(id, why);
    }

    /// If the database is probably another Glance's, leaves all images out and returns the reason. Called
    /// after the last image was added.
    pub(crate) fn doubt(&mut self) -> Option<String> {
        if self.missing * 2 <= self.asked {
            return None;
        }
        self.by_id.clear();
        Some(format!(
            "Glance's database has no record of {} of {} cached images: it is probably that of another \
             Glance, and no image counts as unusable",
            self.missing, self.asked
        ))
    }

    /// Makes a list of images whose records are deleted.
    #[cfg(test)]
    pub(super) fn deleted(ids: impl Iterator<Item = ImageId>) -> Self {
        UnusableImages { by_id: ids.map(|id| (id, Unusable::Deleted)).collect(), ..UnusableImages::default() }
    }

    /// Returns why Glance does not serve an image, or `None` if it does.
    pub(crate) fn get(&self, id: ImageId) -> Option<Unusable> {
        self.by_id.get(&id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: &str, deleted: bool) -> ImageRecord {
        ImageRecord { status: status.to_owned(), deleted, ..ImageRecord::default() }
    }

    #[test]
    fn a_record_says_if_glance_serves_the_image() {
        for (status, deleted, expected) in [
            ("active", false, None),
            ("active", true, Some(Unusable::Deleted)),
            ("deleted", false, Some(Unusable::Deleted)),
            ("pending_delete", false, Some(Unusable::Deleted)),
            ("deactivated", false, Some(Unusable::Deactivated)),
            ("deactivated", true, Some(Unusable::Deleted)),
            ("saving", false, None),
            ("nonsense", false, None),
        ] {
            assert_eq!(Unusable::of(Some(&record(status, deleted))), expected, "{status} {deleted}");
        }
        assert_eq!(Unusable::of(None), Some(Unusable::Missing));
    }

    #[test]
    fn each_reason_has_its_own_words() {
        for (reason, word, part) in [
            (Unusable::Deleted, "deleted", "record is deleted"),
            (Unusable::Deactivated, "deactivated", "is deactivated"),
            (Unusable::Missing, "no_record", "no record"),
        ] {
            assert_eq!(reason.word(), word);
            assert!(reason.sentence().contains(part), "{}", reason.sentence());
        }
    }

    #[test]
    fn a_database_that_knows_less_than_half_of_the_images_is_not_believed() {
        for (known, missing, is_doubted) in
            [(0, 0, false), (1, 0, false), (0, 1, true), (1, 1, false), (1, 2, true), (5, 5, false)]
        {
            let mut found = UnusableImages::default();
            let id =
                |n: usize| ImageId::new(format!("{n:08x}-0000-0000-0000-000000000000").as_bytes()).unwrap();
            for n in 0..known {
                found.add(id(n), Some(&record("deleted", true)));
            }
            for n in 0..missing {
                found.add(id(100 + n), None);
            }
            assert_eq!(found.doubt().is_some(), is_doubted, "{known} known, {missing} missing");
            assert_eq!(found.by_id.is_empty(), is_doubted || known + missing == 0);
        }
    }
}
