//! The sqlite index: Glance's `cache.db`, one row per image.
//!
//! **What a transaction costs Glance.** Glance gives up after two seconds of "database is locked". Whoever calls keeps
//! transactions short; this file makes sure that nothing but the disk itself can make one fail after it has begun: it takes
//! EXCLUSIVE at once (after `BEGIN IMMEDIATE` a reader could still make `COMMIT` fail), and `forget` ends by writing the
//! journal and the changed pages, so that `COMMIT` needs no more room on a full disk.

use std::path::Path;

use anyhow::{Context as _, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Claim, Index, Target};
use crate::cache::dir::{CacheDir, Place};
use crate::cache::entry::{BadRow, Image, Row};
use crate::cache::inventory::Joiner;
use crate::cache::lock::StartGate;
use crate::database::sqlite::{Contents, SqliteFile, SqlitePath};
use crate::database::{Opening, Purpose, Refusal};
use crate::interrupt::Wait;
use crate::names::{ImageId, escaped};
use crate::units::seconds;

/// Glance's own table (`glance/image_cache/drivers/sqlite.py`), the same in all releases from Yoga on.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS cached_images (
    image_id TEXT PRIMARY KEY,
    last_accessed REAL DEFAULT 0.0,
    last_modified REAL DEFAULT 0.0,
    size INTEGER DEFAULT 0,
    hits INTEGER DEFAULT 0,
    checksum TEXT
)";

const DELETE: &str = "DELETE FROM cached_images WHERE rowid = ?1 AND image_id = ?2";

/// What the file is opened as.
const CONTENTS: Contents = Contents { name: "image index", table: Some(("cached_images", TABLE)) };

/// As `DELETE`, and only if the row still says what it said.
const DELETE_UNCHANGED: &str = "DELETE FROM cached_images WHERE rowid = ?1 AND image_id = ?2 \
                                AND last_accessed = ?3 AND hits = ?4";

/// Rows read under one shared lock: a writer waits some milliseconds at most.
const PAGE: i64 = 20_000;

/// Finds the index of a cache; `file` is `image_cache_sqlite_db`, relative to the cache directory or absolute.
///
/// Fails when the directory the file should be in does not exist.
pub(crate) fn locate(dir: &CacheDir, file: &Path) -> Result<SqlitePath> {
    let base = dir.fd(Place::Base).context("the cache directory is always open")?;
    SqlitePath::below(base, dir.path(), file, dir.owner(), CONTENTS)
}

/// Glance's `cache.db`, open.
#[derive(Debug)]
pub(crate) struct Sqlite {
    file: SqliteFile,
    gate: Option<StartGate>,
    /// SQLite's count of other connections' commits, as last seen.
    data_version: i64,
}

impl Sqlite {
    /// Opens the index at a path.
    pub(crate) fn open(path: SqlitePath, purpose: Purpose, wait: &Wait) -> Result<Opening<Self>> {
        let file = match SqliteFile::open(path, purpose, wait)? {
            Opening::Open(file) => file,
            Opening::Nothing(path) => return Ok(Opening::Nothing(path)),
            Opening::Unreadable(why) => return Ok(Opening::Unreadable(why)),
        };
        if purpose != Purpose::Look && !file.is_wal() {
            // As Glance's own connections: a third of the syncs less, while Glance waits. With a WAL no commit would be synced
            // then, and a power failure bring back the rows of more than one batch.
            file.db().execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        Ok(Opening::Open(Sqlite { file, gate: None, data_version: 0 }))
    }

    /// Shuts this gate during transactions.
    pub(crate) fn guard_start(&mut self, gate: Option<StartGate>) {
        self.gate = gate;
    }

    fn open_gate(&self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
    }

    /// Runs a change inside the open transaction, as the owner of the cache.
    fn change<T>(&self, run: impl FnOnce(&Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        self.file.change(|_| run(self))
    }

    fn try_forget(&self, targets: &[Target]) -> rusqlite::Result<Vec<bool>> {
        let mut forgotten = vec![false; targets.len()];
        // In the order of the table, so that each of its pages is come to once.
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_unstable_by_key(|at| key(&targets[*at]));
        let mut goes = false;
        for at in order {
            let target = &targets[at];
            let is_deleted = self.delete(target)?;
            goes |= is_deleted && matches!(target.claim, Claim::Unchanged(_));
            forgotten[at] = is_deleted || (key(target).is_none() && self.claim_holds(target)?);
        }
        if goes {
            self.file.secure()?;
        }
        Ok(forgotten)
    }

    /// Deletes the row of a target whose claim holds, and tells whether it did.
    ///
    /// A trigger may keep the row: then it is not forgotten, and its file stays.
    fn delete(&self, target: &Target) -> rusqlite::Result<bool> {
        let Some(key) = key(target) else { return Ok(false) };
        let id = target.id.as_str();
        if let Claim::Unchanged(row) = target.claim {
            // One statement for all rows but those that hold something else than numbers, and those that were used.
            let mut delete = self.file.db().prepare_cached(DELETE_UNCHANGED)?;
            if delete.execute(params![key, id, row.last_accessed, row.hits])? == 1 {
                return Ok(true);
            }
        }
        Ok(self.claim_holds(target)?
            && self.file.db().prepare_cached(DELETE)?.execute(params![key, id])? == 1)
    }

    fn claim_holds(&self, target: &Target) -> rusqlite::Result<bool> {
        let id = target.id.as_str();
        match target.claim {
            Claim::Row(_) => Ok(true),
            Claim::NoRow => {
                let mut look =
                    self.file.db().prepare_cached("SELECT 1 FROM cached_images WHERE image_id = ?1")?;
                Ok(!look.exists([id])?)
            }
            Claim::Unchanged(row) => {
                let mut now = self.file.db().prepare_cached(
                    "SELECT last_accessed, hits FROM cached_images WHERE rowid = ?1 AND image_id = ?2",
                )?;
                let now = now
                    .query_row(params![row.key, id], |r| Ok((real(r.get_ref(0)?), integer(r.get_ref(1)?))))
                    .optional()?;
                Ok(now.is_some_and(|(used, hits)| {
                    used.to_bits() == row.last_accessed.to_bits() && hits == row.hits
                }))
            }
        }
    }

    /// Inserts rows; `conflict` says what becomes of one that is there.
    fn insert(&self, conflict: &str, images: &[Image]) -> rusqlite::Result<u64> {
        let mut insert = self.file.db().prepare_cached(&format!(
            "INSERT OR {conflict} INTO cached_images (image_id, last_accessed, last_modified, size, hits) \
             VALUES (?1, ?2, ?3, ?4, 0)",
        ))?;
        let mut inserted = 0;
        for image in images {
            let seen = &image.seen;
            let size = i64::try_from(seen.size).unwrap_or(i64::MAX);
            let (used, modified) = (seconds(seen.last_use()), seconds(seen.mtime));
            inserted += insert.execute(params![image.id.as_str(), used, modified, size])? as u64;
        }
        Ok(inserted)
    }

    fn try_commit(&self, gone: Option<&[Target]>) -> rusqlite::Result<()> {
        if let Some(gone) = gone {
            self.file.db().execute_batch("ROLLBACK TO batch")?;
            let mut delete = self.file.db().prepare_cached(DELETE)?;
            for target in gone {
                if let Some(key) = key(target) {
                    delete.execute(params![key, target.id.as_str()])?;
                }
            }
        }
        self.file.db().execute_batch("COMMIT")
    }
}

impl Index for Sqlite {
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()> {
        let mut last = Some(i64::MIN);
        while let Some(after) = last {
            // A busy database answers so before the first row, so that no row is joined twice.
            last = self.file.run(wait, |c| read_page(c, after, joiner)).map_err(|refusal| {
                refusal
                    .into_error()
                    .context(format!("cannot read the rows of image index {}", self.file.path().display()))
            })?;
        }
        Ok(())
    }

    fn begin(&mut self, wait: &Wait) -> Result<(), Refusal> {
        self.file.mind(Some(wait.interrupt.clone()))?;
        if let Some(gate) = &self.gate {
            gate.shut();
        }
        let begun = self.file.run(wait, |c| c.execute_batch("BEGIN EXCLUSIVE; SAVEPOINT batch"));
        begun.inspect_err(|_| self.abandon())
    }

    fn forget(&mut self, targets: &[Target]) -> Result<Vec<bool>, Refusal> {
        self.change(|index| index.try_forget(targets))
    }

    fn holds(&mut self, target: &Target) -> Result<bool, Refusal> {
        self.change(|index| index.claim_holds(target))
    }

    fn commit(&mut self, gone: Option<&[Target]>) -> Result<(), Refusal> {
        // Files are gone by now: their rows must go, signal or not.
        self.file.mind(None)?;
        let committed = self.change(|index| index.try_commit(gone));
        if committed.is_ok() {
            self.open_gate();
        } else {
            self.abandon();
        }
        committed
    }

    fn abandon(&mut self) {
        self.file.roll_back();
        self.open_gate();
    }

    fn others_wrote(&mut self) -> bool {
        let version =
            self.file.db().query_row("PRAGMA data_version", [], |r| r.get(0)).unwrap_or(self.data_version);
        let first = self.data_version == 0;
        std::mem::replace(&mut self.data_version, version) != version && !first
    }

    fn is_paged(&self) -> bool {
        true
    }

    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        self.change(|index| index.insert("IGNORE", orphans))
    }

    fn record(&mut self, image: &Image) -> Result<(), Refusal> {
        self.change(|index| index.insert("REPLACE", std::slice::from_ref(image)).map(drop))
    }

    fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        self.change(|index| {
            let mut look =
                index.file.db().prepare_cached("SELECT image_id FROM cached_images WHERE rowid = ?1")?;
            let mut delete = index.file.db().prepare_cached("DELETE FROM cached_images WHERE rowid = ?1")?;
            let mut dropped = 0;
            for row in rows {
                let is_bad = look.query_row([row.key], |r| Ok(is_bad_id(r.get_ref(0)?))).optional()?;
                if is_bad == Some(true) {
                    dropped += delete.execute([row.key])? as u64;
                }
            }
            Ok(dropped)
        })
    }
}

/// The row a target has, if it has one.
fn key(target: &Target) -> Option<i64> {
    match target.claim {
        Claim::Unchanged(row) => Some(row.key),
        Claim::Row(key) => Some(key),
        Claim::NoRow => None,
    }
}

/// Joins the rows after `last`, and returns the last one joined when there may be more.
fn read_page(connection: &Connection, last: i64, joiner: &mut Joiner<'_>) -> rusqlite::Result<Option<i64>> {
    let mut page = connection.prepare_cached(
        "SELECT rowid, image_id, last_accessed, last_modified, size, hits FROM cached_images \
         WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
    )?;
    let mut rows = page.query([last, PAGE])?;
    let (mut count, mut key) = (0, last);
    while let Some(row) = rows.next()? {
        key = row.get(0)?;
        let found = Row {
            key,
            last_accessed: real(row.get_ref(2)?),
            last_modified: real(row.get_ref(3)?),
            size: integer(row.get_ref(4)?),
            hits: integer(row.get_ref(5)?),
        };
        match row.get_ref(1)? {
            ValueRef::Text(id) => joiner.row(id, found),
            id => joiner.bad_row(key, escaped(&raw(id))),
        }
        count += 1;
    }
    Ok((count == PAGE).then_some(key))
}

/// Whether a row's id can name no image: Glance puts text there, and a UUID.
fn is_bad_id(id: ValueRef<'_>) -> bool {
    !matches!(id, ValueRef::Text(id) if ImageId::new(id).is_some())
}

/// The raw image id of a row: Glance puts text there, SQLite lets anything stand there.
fn raw(value: ValueRef<'_>) -> std::borrow::Cow<'_, [u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
        ValueRef::Null => b"NULL"[..].into(),
        ValueRef::Integer(i) => i.to_string().into_bytes().into(),
        ValueRef::Real(f) => f.to_string().into_bytes().into(),
    }
}

fn real(value: ValueRef<'_>) -> f64 {
    match value {
        ValueRef::Null => f64::NEG_INFINITY,
        ValueRef::Integer(i) => i as f64,
        ValueRef::Real(f) => f,
        ValueRef::Text(_) | ValueRef::Blob(_) => f64::INFINITY,
    }
}

fn integer(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(i) => i,
        ValueRef::Real(f) => f as i64,
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
    }
}
