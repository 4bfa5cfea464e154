//! The records of images in Glance's database: a prefetch reads one before it fetches the image, and a
//! verification those of the images that it reads.
//!
//! A record is read again for each image when its turn comes, because hours may lie between the first and the
//! last image of a queue. Nothing is written here.

use std::collections::HashMap;

use super::cell::Cell;
use super::{CHUNK, Database, Link};
use crate::database::refusal::{Refusal, is_missing_table};
use crate::names::ImageId;

/// The beginning of a query for records.
const RECORD: &str = "SELECT id, status, CASE WHEN deleted THEN 1 ELSE 0 END, size, checksum, os_hash_algo, \
                      os_hash_value FROM images";

/// An image's row in `images`, with the places where its data is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageRecord {
    pub(crate) status: String,
    pub(crate) deleted: bool,
    /// In bytes; `None` while Glance does not know it.
    pub(crate) size: Option<u64>,
    /// MD5, in hexadecimal.
    pub(crate) checksum: Option<String>,
    /// A name that Python's hashlib knows, such as `sha512`.
    pub(crate) os_hash_algo: Option<String>,
    /// In hexadecimal.
    pub(crate) os_hash_value: Option<String>,
    /// The active ones, in the order in which they were added.
    pub(crate) locations: Vec<Location>,
}

/// An image as policies and clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageDescription {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) owner: String,
    pub(crate) visibility: String,
    /// The properties that users gave to it.
    pub(crate) properties: Vec<(String, String)>,
}

impl Database {
    /// Returns the description of an image, or `None` if there is no such image, or none any more.
    pub(crate) fn description(&mut self, id: ImageId) -> Result<Option<ImageDescription>, Refusal> {
        let described = self.reading(|database| database.try_description(id));
        described.map_err(|refusal| self.told(refusal, format_args!("cannot read the record of image {id}")))
    }

    fn try_description(&mut self, id: ImageId) -> Result<Option<ImageDescription>, Refusal> {
        let sql = format!(
            "SELECT id, name, status, owner, visibility FROM images WHERE id = '{id}' AND NOT deleted"
        );
        // MariaDB compares without regard to case.
        let same = |row: &Vec<Cell>| row[0].clone().text() == id.as_str();
        let Some(row) = self.query(&sql, &[])?.into_iter().find(same) else { return Ok(None) };
        let sql = format!("SELECT name, value FROM image_properties WHERE image_id = '{id}' AND NOT deleted");
        let properties = match self.query(&sql, &[]) {
            Err(refusal) if is_missing_table(&refusal) => Vec::new(),
            rows => rows?,
        };
        let mut cells = row.into_iter().skip(1).map(|cell| text(cell).unwrap_or_default());
        let mut next = || cells.next().unwrap_or_default();
        let property = |row: Vec<Cell>| {
            let [name, value] = row.try_into().ok()?;
            Some((text(name)?, text(value).unwrap_or_default()))
        };
        Ok(Some(ImageDescription {
            name: next(),
            status: next(),
            owner: next(),
            visibility: next(),
            properties: properties.into_iter().filter_map(property).collect(),
        }))
    }

    /// Returns an image's record, or `None` if the database has none.
    pub(crate) fn record(&mut self, id: ImageId) -> Result<Option<ImageRecord>, Refusal> {
        self.reading(|database| database.try_record(id))
            .map_err(|refusal| self.told(refusal, format_args!("cannot read the record of image {id}")))
    }

    /// Fails if the database has no tables for the records of images.
    pub(crate) fn check_records(&mut self) -> Result<(), Refusal> {
        for table in ["images", "image_locations"] {
            self.query(&format!("SELECT id FROM {table} WHERE 1 = 0"), &[])
                .map_err(|refusal| self.told(refusal, "cannot look for the images' records"))?;
        }
        Ok(())
    }

    /// Returns the sum of the sizes of these images, as far as they are known. It serves only to show
    /// progress.
    pub(crate) fn sizes(&mut self, ids: &[ImageId]) -> Result<u64, Refusal> {
        let whole = self.dialect().sum("COALESCE(SUM(size), 0)");
        let mut sum = 0_u64;
        for chunk in ids.chunks(CHUNK) {
            let ids: Vec<String> = chunk.iter().map(|id| format!("'{id}'")).collect();
            let sql = format!("SELECT {whole} FROM images WHERE id IN ({})", ids.join(","));
            let rows = self.reading(|database| database.query(&sql, &[]))?;
            sum = sum.saturating_add(rows.first().map_or(0, |row| number(&row[0]).unwrap_or(0)));
        }
        Ok(sum)
    }

    /// Returns the records of these images without their locations; `None` where the database has none.
    pub(crate) fn records(&mut self, ids: &[ImageId]) -> Result<Vec<Option<ImageRecord>>, Refusal> {
        let read = self.reading(|database| database.try_records(ids));
        read.map_err(|refusal| self.told(refusal, "cannot read the records of images"))
    }

    fn try_records(&mut self, ids: &[ImageId]) -> Result<Vec<Option<ImageRecord>>, Refusal> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let ids: Vec<String> = chunk.iter().map(|id| format!("'{id}'")).collect();
            let sql = format!("{RECORD} WHERE id IN ({})", ids.join(","));
            for row in self.query(&sql, &[])? {
                // As the database spells it: it may compare without regard to case.
                found.insert(row[0].clone().text(), record(row));
            }
        }
        Ok(ids.iter().map(|id| found.remove(id.as_str())).collect())
    }

    fn try_record(&mut self, id: ImageId) -> Result<Option<ImageRecord>, Refusal> {
        let sql = format!("{RECORD} WHERE id = '{id}'");
        // MariaDB compares without regard to case, but Glance never looks for an image under another
        // spelling.
        let same = |row: &Vec<Cell>| row[0].clone().text() == id.as_str();
        let Some(row) = self.query(&sql, &[])?.into_iter().find(same) else { return Ok(None) };
        let mut record = record(row);
        let sql = format!(
            "SELECT value, meta_data FROM image_locations \
             WHERE image_id = '{id}' AND status = 'active' AND NOT deleted ORDER BY id"
        );
        record.locations = self.query(&sql, &[])?.into_iter().map(location).collect();
        Ok(Some(record))
    }

    /// Reads in one transaction. If the server has closed the connection meanwhile, it is replaced first. A
    /// table that another session has locked is waited for.
    pub(crate) fn reading<T>(
        &mut self,
        mut run: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        if matches!(self.link, Link::File(_)) {
            return run(self);
        }
        let deadline = self.deadline();
        self.patiently(deadline, |database| {
            database.begin()?;
            let result = run(database);
            database.rollback();
            result
        })
    }
}

fn record(row: Vec<Cell>) -> ImageRecord {
    let mut cells = row.into_iter().skip(1);
    let mut next = || cells.next().unwrap_or(Cell::Null);
    ImageRecord {
        status: next().text(),
        deleted: next().integer() != 0,
        size: number(&next()),
        checksum: text(next()),
        os_hash_algo: text(next()),
        os_hash_value: text(next()),
        locations: Vec::new(),
    }
}

fn location(row: Vec<Cell>) -> Location {
    let mut cells = row.into_iter();
    let value = cells.next().map(Cell::text).unwrap_or_default();
    let store = cells.next().and_then(text).and_then(|json| store(&json));
    Location { value, store }
}

/// Returns the store that a location's `meta_data` names: in `store`, before Train in `backend`.
fn store(json: &str) -> Option<String> {
    let data: serde_json::Value = serde_json::from_str(json).ok()?;
    ["store", "backend"].iter().find_map(|key| Some(data.get(key)?.as_str()?.to_owned()))
}

/// Returns a size, or `None` for whatever is none. `SQLite` keeps a text or a fraction in a column of whole
/// numbers; that says nothing about the size, and least of all that it is 0.
fn number(cell: &Cell) -> Option<u64> {
    match cell {
        Cell::Null => None,
        Cell::Integer(number) => u64::try_from(*number).ok(),
        Cell::Real(number) => {
            // Up to this number, each whole one is a number of its own.
            let is_whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(number);
            is_whole.then_some(*number as u64)
        }
        Cell::Text(text) => text.parse().ok(),
    }
}

/// Returns a text; an empty one says as little as NULL.
fn text(cell: Cell) -> Option<String> {
    (cell != Cell::Null).then(|| cell.text()).filter(|text| !text.is_empty())
}

/// One row of `image_locations`, as the database holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The URL, perhaps encrypted; never shown as it is.
    pub(crate) value: String,
    /// `store` of the row's `meta_data` (before Train `backend`): the id of the store that holds it.
    pub(crate) store: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_is_no_size_is_unknown() {
        let size = |cell: Cell| record(vec![Cell::Null, Cell::Null, Cell::Integer(0), cell]).size;
        assert_eq!(size(Cell::Integer(7)), Some(7));
        assert_eq!(size(Cell::Null), None);
        assert_eq!(size(Cell::Integer(-1)), None);
        let text = |text: &str| size(Cell::Text(text.into()));
        assert_eq!(
            (text("7"), text("none"), text("7 bytes"), text("-7"), text("")),
            (Some(7), None, None, None, None)
        );
        assert_eq!(
            (size(Cell::Real(7.0)), size(Cell::Real(7.5)), size(Cell::Real(-7.0))),
            (Some(7), None, None)
        );
        assert_eq!((size(Cell::Real(1e300)), size(Cell::Real(f64::NAN))), (None, None));
    }

    #[test]
    fn the_store_is_read_from_the_locations_data() {
        for (json, expected) in [
            (r#"{"store": "fast"}"#, Some("fast")),
            (r#"{"backend": "old"}"#, Some("old")),
            (r#"{"store": "new", "backend": "old"}"#, Some("new")),
            ("{}", None),
            (r#"{"store": 1}"#, None),
            ("garbage", None),
            ("[]", None),
        ] {
            assert_eq!(store(json).as_deref(), expected, "{json}");
        }
    }
}
