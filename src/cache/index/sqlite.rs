//! The sqlite index: Glance's `cache.db`, one row per image.
//!
//! **Transactions.** Glance gives up after two seconds of "database is locked", so the caller keeps
//! transactions short. Only the disk itself can make a transaction fail after it has begun: it takes
//! EXCLUSIVE at once (after `BEGIN IMMEDIATE` a reader could still make `COMMIT` fail), and `forget` ends by
//! writing the journal and the changed pages, so that `COMMIT` needs no more space on a full disk.
//!
//! **A crash** before the commit leaves a hot journal, and the next process that opens the index rolls it
//! back. The file itself is opened by [`database::sqlite`](crate::database::sqlite), which says how safely.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Condition, Deletion, Index};
use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::{BadRow, Image, Row};
use crate::cache::inventory::Joiner;
use crate::cache::lock::StartGate;
use crate::database::opening::{Opening, Purpose};
use crate::database::refusal::Refusal;
use crate::database::sqlite::{Contents, SqliteFile, SqlitePath};
use crate::interrupt::Wait;
use crate::names::{ImageId, escaped};
use crate::os::locks::HeldThing;
use crate::units::seconds;

/// Glance's own table (`glance/image_cache/drivers/sqlite.py`), the same in all releases since Yoga.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS cached_images (
    image_id TEXT PRIMARY KEY,
    last_accessed REAL DEFAULT 0.0,
    last_modified REAL DEFAULT 0.0,
    size INTEGER DEFAULT 0,
    hits INTEGER DEFAULT 0,
    checksum TEXT
)";

const DELETE: &str = "DELETE FROM cached_images WHERE rowid = ?1 AND image_id = ?2";

const CONTENTS: Contents =
    Contents { name: "image index", thing: HeldThing::Index, table: Some(("cached_images", TABLE)) };

/// As `DELETE`, but only if last use and hits are what they were.
const DELETE_UNCHANGED: &str = "DELETE FROM cached_images WHERE rowid = ?1 AND image_id = ?2 \
                                AND last_accessed = ?3 AND hits = ?4";

/// The number of rows read under one shared lock: a writer waits some milliseconds at most.
const PAGE: i64 = 20_000;

/// Finds the index of a cache; `file` is `image_cache_sqlite_db`, relative to the cache directory or
/// absolute.
///
/// Fails if the directory of the file does not exist.
pub(crate) fn locate(dir: &CacheDir, file: &Path) -> Result<SqlitePath> {
    let base = dir.fd(CachePlace::Base).context("the cache directory is always open")?;
    SqlitePath::below(base, dir.path(), file, dir.owner(), CONTENTS)
}

/// Glance's `cache.db`, open.
#[derive(Debug)]
pub(crate) struct Sqlite {
    file: SqliteFile,
    gate: Option<StartGate>,
    /// The change counter of SQLite that other connections' commits raise, as last seen; 0 before the first
    /// look.
    data_version: i64,
}

impl Sqlite {
    /// Opens the index at a place.
    pub(crate) fn open(place: SqlitePath, purpose: Purpose, wait: &Wait) -> Result<Opening<Self>> {
        let file = match SqliteFile::open(place, purpose, wait)? {
            Opening::Open(file) => file,
            Opening::Nothing(path) => return Ok(Opening::Nothing(path)),
            Opening::Unreadable(why) => return Ok(Opening::Unreadable(why)),
        };
        if purpose != Purpose::Look && !file.is_wal() {
            // As Glance's own connections do: one third fewer syncs, while Glance waits. With a WAL no commit
            // would be synced, and a power failure could bring back the rows of more than one batch.
            file.db().execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        // As in Glance's own connections. A deferred key of a table that somebody has added would refuse the
        // commit, when the files are gone.
        file.db().execute_batch("PRAGMA foreign_keys = OFF")?;
        Ok(Opening::Open(Sqlite { file, gate: None, data_version: 0 }))
    }

    /// Keeps this gate shut during transactions.
    pub(crate) fn guard_start(&mut self, gate: Option<StartGate>) {
        self.gate = gate;
    }

    fn open_gate(&self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
    }

    /// True if another connection changed the index since the last transaction. Asked in an open one.
    fn others_wrote(&mut self) -> bool {
        let version =
            self.file.db().query_row("PRAGMA data_version", [], |r| r.get(0)).unwrap_or(self.data_version);
        let first = self.data_version == 0;
        std::mem::replace(&mut self.data_version, version) != version && !first
    }

    /// Runs a change inside the open transaction, as the owner of the file.
    fn change<T>(&self, run: impl FnOnce(&Self) -> rusqlite::Result<T>) -> Result<T, Refusal> {
        self.file.change(|_| run(self))
    }

    /// Deletes the rows of the victims that are `due`.
    fn try_forget(&self, victims: &[Deletion], due: &[bool]) -> rusqlite::Result<Vec<bool>> {
        let mut forgotten = vec![false; victims.len()];
        // In the order of the table, so that each of its pages is read once.
        let mut order: Vec<usize> = (0..victims.len()).filter(|at| due[*at]).collect();
        order.sort_unstable_by_key(|at| victims[*at].key());
        let mut goes = false;
        for at in order {
            let victim = &victims[at];
            let is_deleted = self.delete(victim)?;
            let has_file = matches!(victim.only_if, Condition::Unchanged(_) | Condition::Present(_));
            goes |= is_deleted && has_file;
            forgotten[at] = is_deleted || self.is_without_row(victim)?;
        }
        if goes {
            self.file.secure()?;
        }
        Ok(forgotten)
    }

    /// Deletes the row of a victim whose condition holds, and returns true if it did.
    ///
    /// A trigger may keep the row: then it is not forgotten, and its file stays.
    fn delete(&self, victim: &Deletion) -> rusqlite::Result<bool> {
        let Some(key) = victim.key() else { return Ok(false) };
        let id = victim.id.as_str();
        if let Condition::Unchanged(row) = victim.only_if {
            // One statement is enough, except for rows that were used and rows that hold something else than
            // numbers.
            let mut delete = self.file.db().prepare_cached(DELETE_UNCHANGED)?;
            if delete.execute(params![key, id, row.last_accessed, row.hits])? == 1 {
                return Ok(true);
            }
        }
        Ok(self.condition_holds(victim)?
            && self.file.db().prepare_cached(DELETE)?.execute(params![key, id])? == 1)
    }

    /// True if nothing has to be deleted: of an image without a row, and of a row without a file that is gone
    /// by now. A commit without an answer may have deleted it.
    fn is_without_row(&self, victim: &Deletion) -> rusqlite::Result<bool> {
        let Condition::Row(key) = victim.only_if else {
            return Ok(victim.key().is_none() && self.condition_holds(victim)?);
        };
        let sql = "SELECT 1 FROM cached_images WHERE rowid = ?1 AND image_id = ?2";
        Ok(!self.file.db().prepare_cached(sql)?.exists(params![key, victim.id.as_str()])?)
    }

    /// True if the condition of a victim holds.
    fn condition_holds(&self, victim: &Deletion) -> rusqlite::Result<bool> {
        let id = victim.id.as_str();
        match victim.only_if {
            Condition::Row(_) | Condition::Present(_) => Ok(true),
            Condition::NoRow => {
                let mut look =
                    self.file.db().prepare_cached("SELECT 1 FROM cached_images WHERE image_id = ?1")?;
                Ok(!look.exists([id])?)
            }
            Condition::Unchanged(row) => {
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

    /// Inserts rows. `conflict` is SQLite's word for the case that a row exists: `IGNORE` or `REPLACE`.
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

    fn try_commit(&self, gone: Option<&[Deletion]>) -> rusqlite::Result<()> {
        if let Some(gone) = gone {
            self.file.db().execute_batch("ROLLBACK TO batch")?;
            let mut delete = self.file.db().prepare_cached(DELETE)?;
            for victim in gone {
                if let Some(key) = victim.key() {
                    delete.execute(params![key, victim.id.as_str()])?;
                }
            }
        }
        self.file.db().execute_batch("COMMIT")
    }
}

impl Index for Sqlite {
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()> {
        joiner.rows_lie_on_pages();
        let mut last = Some(i64::MIN);
        while let Some(after) = last {
            // A database that is busy says so before the first row, so that no row is joined twice.
            last = self.file.run(wait, |c| read_page(c, after, joiner)).map_err(|refusal| {
                refusal
                    .into_error()
                    .context(format!("cannot read the rows of image index {}", self.file.path().display()))
            })?;
        }
        Ok(())
    }

    fn reach(&mut self, _: &Wait) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_writable(&mut self, _: &Wait) -> Result<(), Refusal> {
        // SQLite opens a file for reading only if the rights allow no more.
        match self.file.db().is_readonly("main") {
            Ok(true) => Err(Refusal::Broken(anyhow!("{} is read-only", self.file.path().display()))),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, wait: &Wait) -> Result<bool, Refusal> {
        self.file.mind(Some(wait.interrupt.clone()))?;
        if let Some(gate) = &self.gate {
            gate.shut();
        }
        let begun = self.file.run(wait, |c| c.execute_batch("BEGIN EXCLUSIVE; SAVEPOINT batch"));
        begun.map(|()| self.others_wrote())
    }

    fn forget(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal> {
        // The whole index is locked since the transaction began.
        let due: Vec<bool> = victims.iter().map(is_due).collect();
        self.change(|index| index.try_forget(victims, &due))
    }

    fn holds(&mut self, victim: &Deletion) -> Result<bool, Refusal> {
        self.change(|index| index.condition_holds(victim))
    }

    fn commit(&mut self, gone: Option<&[Deletion]>) -> Result<(), Refusal> {
        // Files are removed by now, so that their rows must be deleted, even after a signal.
        self.file.mind(None)?;
        let committed = self.change(|index| index.try_commit(gone));
        if committed.is_ok() {
            self.open_gate();
        }
        committed
    }

    fn abandon(&mut self) {
        self.file.roll_back();
        self.open_gate();
    }

    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        self.change(|index| index.insert("IGNORE", orphans))
    }

    fn record(&mut self, image: &Image) -> Result<(), Refusal> {
        match self.change(|index| index.insert("REPLACE", std::slice::from_ref(image)))? {
            1 => Ok(()),
            // A trigger passed it over.
            _ => Err(Refusal::Broken(anyhow!("the row of image {} was not inserted", image.id))),
        }
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

/// True if a row's id names no image. Glance writes a UUID as text.
fn is_bad_id(id: ValueRef<'_>) -> bool {
    !matches!(id, ValueRef::Text(id) if ImageId::new(id).is_some())
}

/// Returns the id of a row as bytes. Glance writes text, but SQLite accepts any type.
fn raw(value: ValueRef<'_>) -> std::borrow::Cow<'_, [u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
        ValueRef::Null => b"NULL"[..].into(),
        ValueRef::Integer(i) => i.to_string().into_bytes().into(),
        ValueRef::Real(f) => f.to_string().into_bytes().into(),
    }
}

/// Returns a time; other types sort as in SQLite, NULL first and text last.
fn real(value: ValueRef<'_>) -> f64 {
    match value {
        ValueRef::Null => f64::NEG_INFINITY,
        ValueRef::Integer(i) => i as f64,
        ValueRef::Real(f) => f,
        ValueRef::Text(_) | ValueRef::Blob(_) => f64::INFINITY,
    }
}

/// Returns a number; other types count as 0.
fn integer(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(i) => i,
        ValueRef::Real(f) => f as i64,
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::time::Duration;

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;
    use crate::cache::entry::Seen;
    use crate::cache::inventory::Inventory;
    use crate::cache::lock::LockDir;
    use crate::interrupt::Interrupt;
    use crate::os::locks::holders;

    fn id(number: usize) -> ImageId {
        ImageId::new(format!("{number:08x}-0000-0000-0000-000000000000").as_bytes()).unwrap()
    }

    fn wait() -> Wait {
        Wait { limit: Duration::from_millis(300), interrupt: Interrupt::default() }
    }

    /// A cache with an index, and a connection of another program.
    struct Cache {
        dir: CacheDir,
        other: Connection,
        _temporary: tempfile::TempDir,
    }

    impl Cache {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            let other = Connection::open(temporary.path().join("cache.db")).unwrap();
            other.execute_batch(TABLE).unwrap();
            Cache { dir: CacheDir::open(temporary.path()).unwrap().unwrap(), other, _temporary: temporary }
        }

        fn open(&self, purpose: Purpose) -> Sqlite {
            let open = || Sqlite::open(locate(&self.dir, Path::new("cache.db")).unwrap(), purpose, &wait());
            // A file that another test opens at the same moment looks like one that replaces the index.
            let opened = (0..1000).map(|_| open()).find(|opened| {
                opened.as_ref().err().is_none_or(|error| !error.to_string().contains("was replaced"))
            });
            match opened.unwrap().unwrap() {
                Opening::Open(index) => index,
                other => panic!("{other:?}"),
            }
        }

        /// Makes a row with this key, which was last used at 1, once.
        fn row(&self, key: i64) -> Row {
            let sql = "INSERT INTO cached_images VALUES (?1, 1.0, 1.0, 10, 1, NULL)";
            self.other.execute(sql, [id(key as usize).as_str()]).unwrap();
            let key = self.other.last_insert_rowid();
            Row { key, last_accessed: 1.0, last_modified: 1.0, size: 10, hits: 1 }
        }

        fn count(&self) -> i64 {
            self.other.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0)).unwrap()
        }

        fn read(&self) -> Inventory {
            let mut inventory = Inventory::default();
            self.open(Purpose::Look).read(&wait(), &mut inventory.joiner()).unwrap();
            inventory
        }
    }

    fn image(number: usize) -> Image {
        let time = 2_000_000_000;
        let seen =
            Seen { inode: 1, size: 10, allocated: 0, atime: time, mtime: time, ctime: 0, links: 1, owner: 0 };
        Image { id: id(number), seen, row: None }
    }

    #[test]
    fn the_row_of_an_image_that_was_used_stays() {
        for (change, is_unchanged) in [
            ("size = 11", true),
            ("last_accessed = 2.0", false),
            ("hits = 2", false),
            ("last_accessed = 2.0, hits = 2", false),
            ("last_accessed = 'text', hits = 1", false),
            ("image_id = '00000009-0000-0000-0000-000000000000'", false),
        ] {
            let cache = Cache::new();
            let victim = Deletion { id: id(1), only_if: Condition::Unchanged(cache.row(1)) };
            cache.other.execute_batch(&format!("UPDATE cached_images SET {change}")).unwrap();
            let mut index = cache.open(Purpose::Change);
            index.begin(&wait()).unwrap();
            assert_eq!(index.holds(&victim).unwrap(), is_unchanged, "{change}");
            assert_eq!(index.forget(&[victim], &|_| true).unwrap(), [is_unchanged], "{change}");
            index.commit(None).unwrap();
            assert_eq!(cache.count(), i64::from(!is_unchanged), "{change}");
        }
    }

    #[test]
    fn a_row_of_other_types_is_unchanged_as_it_is() {
        let cache = Cache::new();
        cache.row(1);
        cache.other.execute_batch("UPDATE cached_images SET last_accessed = 'text', hits = NULL").unwrap();
        let row = cache.read().ghosts[0].row;
        assert_eq!((row.last_accessed, row.hits), (f64::INFINITY, 0));
        let victim = Deletion { id: id(1), only_if: Condition::Unchanged(row) };
        let mut index = cache.open(Purpose::Change);
        index.begin(&wait()).unwrap();
        assert_eq!(index.forget(&[victim], &|_| true).unwrap(), [true]);
        index.commit(None).unwrap();
        assert_eq!(cache.count(), 0);
    }

    #[test]
    fn only_rows_that_are_due_are_forgotten_and_only_those_that_are_gone_stay_so() {
        let cache = Cache::new();
        let mut victims: Vec<Deletion> = [1, 2, 3]
            .map(|key| Deletion { id: id(key as usize), only_if: Condition::Row(cache.row(key).key) })
            .into();
        victims.push(Deletion { id: id(4), only_if: Condition::NoRow });
        victims.push(Deletion { id: id(3), only_if: Condition::NoRow });
        let mut index = cache.open(Purpose::Change);
        index.begin(&wait()).unwrap();
        let is_due = |victim: &Deletion| victim.id != id(2);
        assert_eq!(index.forget(&victims, &is_due).unwrap(), [true, false, true, true, false]);
        // The file of the third image could not be removed.
        index.commit(Some(&victims[..1])).unwrap();
        let left: Vec<ImageId> = cache.read().ghosts.iter().map(|ghost| ghost.id).collect();
        assert_eq!(left, [id(2), id(3)]);
        index.begin(&wait()).unwrap();
        index.forget(&victims, &|_| true).unwrap();
        index.abandon();
        assert_eq!(cache.count(), 2);
    }

    #[test]
    fn orphans_get_rows_unless_they_have_them() {
        let cache = Cache::new();
        cache.row(1);
        let mut index = cache.open(Purpose::Change);
        index.begin(&wait()).unwrap();
        assert_eq!(index.adopt(&[image(1), image(2), image(3)]).unwrap(), 2);
        index.record(&image(1)).unwrap();
        index.commit(None).unwrap();
        let rows: Vec<_> =
            cache.read().ghosts.iter().map(|ghost| (ghost.id, ghost.row.last_accessed)).collect();
        assert_eq!(rows, [(id(2), 2.0), (id(3), 2.0), (id(1), 2.0)]);
    }

    #[test]
    fn rows_that_name_no_image_are_dropped_and_no_others() {
        let cache = Cache::new();
        cache.row(1);
        cache
            .other
            .execute_batch("INSERT INTO cached_images (image_id) VALUES ('../x'), (NULL), (x'00')")
            .unwrap();
        let mut bad = cache.read().bad_rows;
        assert_eq!(bad.iter().map(|row| row.shown.as_str()).collect::<Vec<_>>(), ["../x", "NULL", "\\0"]);
        // Meanwhile the first one has become the row of an image, and there is another row of its key.
        cache
            .other
            .execute("UPDATE cached_images SET image_id = ?1 WHERE image_id = '../x'", [id(2).as_str()])
            .unwrap();
        bad.push(BadRow { key: 99, shown: "it is gone".to_owned() });
        let mut index = cache.open(Purpose::Change);
        index.begin(&wait()).unwrap();
        assert_eq!(index.drop_bad_rows(&bad).unwrap(), 2);
        index.commit(None).unwrap();
        assert_eq!((cache.count(), cache.read().ghosts.len()), (2, 2));
    }

    #[test]
    fn all_pages_of_rows_are_read() {
        for count in [PAGE - 1, PAGE, 2 * PAGE + 1] {
            let cache = Cache::new();
            cache
                .other
                .execute_batch(&format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
                     INSERT INTO cached_images (image_id) \
                     SELECT printf('%08x-0000-0000-0000-000000000000', i) FROM n"
                ))
                .unwrap();
            let inventory = cache.read();
            assert_eq!((inventory.ghosts.len(), inventory.bad_rows.len()), (count as usize, 0));
        }
    }

    #[test]
    fn it_is_noticed_if_others_write_between_transactions() {
        let cache = Cache::new();
        let mut index = cache.open(Purpose::Change);
        let mut number = 0;
        let mut others_wrote = || {
            number += 1;
            let others_wrote = index.begin(&wait()).unwrap();
            index.adopt(&[image(number)]).unwrap();
            index.commit(None).unwrap();
            others_wrote
        };
        assert!(!others_wrote(), "it is not known who wrote before the first one");
        assert!(!others_wrote(), "the last one was ours");
        cache.row(100);
        assert!(others_wrote());
        assert!(!others_wrote());
    }

    #[test]
    fn an_index_is_synced_as_often_as_its_journal_needs_it() {
        let synced = |index: &Sqlite| {
            index.file.db().query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0)).unwrap()
        };
        let cache = Cache::new();
        let (usual, normal) = (synced(&cache.open(Purpose::Look)), 1);
        assert_ne!(usual, normal);
        assert_eq!(synced(&cache.open(Purpose::Change)), normal);
        cache.other.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        cache.row(1);
        assert_eq!(synced(&cache.open(Purpose::Change)), usual);
    }

    /// Then the commit needs no more space, and the files may go.
    #[test]
    fn rows_whose_files_will_go_are_written_before_the_commit() {
        for (has_file, is_used, is_written) in
            [(true, false, true), (true, true, false), (false, true, false)]
        {
            let cache = Cache::new();
            let row = cache.row(1);
            let only_if = if has_file { Condition::Unchanged(row) } else { Condition::Row(row.key) };
            if is_used {
                cache.other.execute_batch("UPDATE cached_images SET hits = 2").unwrap();
            }
            let path = cache.dir.path().join("cache.db");
            let long_ago = Timespec { tv_sec: 1, tv_nsec: 0 };
            let times = Timestamps { last_access: long_ago, last_modification: long_ago };
            utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
            let mut index = cache.open(Purpose::Change);
            index.begin(&wait()).unwrap();
            let goes = index.forget(&[Deletion { id: id(1), only_if }], &|_| true).unwrap()[0];
            assert_eq!(goes, !(has_file && is_used));
            assert_eq!(std::fs::metadata(&path).unwrap().mtime() > 1, is_written, "{has_file} {is_used}");
        }
    }

    #[test]
    fn a_glance_that_starts_waits_for_the_end_of_a_transaction() {
        const INIT: &str = "image_cache_db_init";
        let cache = Cache::new();
        let locks = LockDir::open(None, &cache.dir).unwrap();
        assert!(locks.start_gate().is_none(), "its lock file is never made here");
        std::fs::write(cache.dir.path().join(INIT), "").unwrap();
        let (device, inode) = locks.identity(INIT).unwrap();
        let is_shut = || !holders(&std::fs::read_to_string("/proc/locks").unwrap(), device, inode).is_empty();
        let mut index = cache.open(Purpose::Change);
        index.guard_start(locks.start_gate());
        for end in [Sqlite::abandon as fn(&mut Sqlite), |index| index.commit(None).unwrap()] {
            index.begin(&wait()).unwrap();
            assert!(is_shut());
            end(&mut index);
            assert!(!is_shut());
        }
    }

    #[test]
    fn an_index_that_is_open_for_reading_is_not_writable() {
        let cache = Cache::new();
        cache.open(Purpose::Change).check_writable(&wait()).unwrap();
        let refused = cache.open(Purpose::Look).check_writable(&wait()).unwrap_err();
        assert!(refused.into_error().to_string().ends_with("cache.db is read-only"));
    }

    #[test]
    fn a_commit_whose_journal_is_removed_may_have_taken_effect() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let wait = Wait { limit: Duration::ZERO, interrupt: Interrupt::default() };
        let place = locate(&dir, Path::new("cache.db")).unwrap();
        let Opening::Open(mut index) = Sqlite::open(place, Purpose::Create, &wait).unwrap() else { panic!() };
        let id = ImageId::new(b"00000000-0000-0000-0000-00000000000a").unwrap();
        let seen = Seen { inode: 1, size: 1, allocated: 0, atime: 0, mtime: 0, ctime: 0, links: 1, owner: 0 };
        index.begin(&wait).unwrap();
        assert_eq!(index.adopt(&[Image { id, seen, row: None }]).unwrap(), 1);
        index.commit(None).unwrap();
        let ghost = [Deletion { id, only_if: Condition::Row(1) }];
        index.begin(&wait).unwrap();
        assert_eq!(index.forget(&ghost, &|_| true).unwrap(), [true]);
        std::fs::remove_file(temporary.path().join("cache.db-journal")).unwrap();
        let refusal = index.commit(None).unwrap_err();
        assert!(matches!(refusal, Refusal::Unknown(_)), "{refusal:?}");
        index.abandon();
        index.begin(&wait).unwrap();
        assert_eq!(index.forget(&ghost, &|_| true).unwrap(), [true], "a row that is gone is forgotten");
        index.commit(None).unwrap();
    }
}
