//! The central index: Glance's own database holds the rows of all nodes' caches, of which this is one node's
//! part.
//!
//! **Few statements.** Rows are read in pages, checked again, deleted and inserted some hundred at a time,
//! always by their primary key. Nothing scans the table for an image, and no row of another node is locked.
//!
//! **The second look** is a locking read (`FOR UPDATE`) of last use and hits: a plain read would show an old
//! snapshot under REPEATABLE READ. After it rows are deleted, then the caller removes the files, then the
//! transaction is committed. Last use has whole seconds on MariaDB, but Glance counts a hit with every use.
//!
//! **Rows in use.** A row that another session has locked is left out of the locking read (`SKIP LOCKED`), so
//! that one idle session does not keep all others from being deleted. Its image stays, and counts as used.
//! After a lost connection that session may be our own, of which the server does not yet know that it ended.
//! Then rows are waited for.
//!
//! **Conflicts.** After a deadlock, a lock timeout, a serialization failure or a row that another process has
//! just inserted, the transaction starts again, as long as the caller is ready to wait; before the commit
//! nothing else was done in it. A commit that is refused (Galera detects conflicts only there) is for the
//! caller to repeat, because files are removed by then. A lost connection is replaced for the next
//! transaction, never within one.
//!
//! **Times** are UTC in the tables, without saying so. They are asked for as numbers, so that no time zone of
//! a session or server matters, and compared bit by bit: the same value is read in the same way.
//!
//! No node is ever registered here: a node that the database does not know is a mistake in the settings.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, anyhow};

use super::{Condition, Deletion, Index};
use crate::cache::entry::{BadRow, Image, Row};
use crate::cache::inventory::Joiner;
use crate::database::refusal::{Refusal, is_unknown_syntax};
use crate::database::{CHUNK, Cell, Database, Dialect, PAGE, joined, naive};
use crate::interrupt::Wait;
use crate::names::ImageId;

/// Statements that need the rights to change rows, and change none.
const NO_CHANGES: [&str; 2] = [
    "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, checksum, \
     node_reference_id) SELECT image_id, last_accessed, last_modified, size, hits, checksum, \
     node_reference_id FROM cached_images WHERE 1 = 0",
    "DELETE FROM cached_images WHERE 1 = 0",
];

/// One node's part of the central index.
pub(crate) struct Central {
    database: Database,
    node: i64,
    /// Keys of the rows that the open transaction has locked and deleted.
    locked: HashSet<i64>,
    /// False once the server has turned out to be too old to leave out locked rows.
    skips_locked: bool,
    /// True if locked rows are waited for all the same.
    waits: bool,
}

/// A row of this node, as a locking read saw it.
struct LockedRow {
    id: String,
    last_accessed: f64,
    hits: i64,
}

impl Central {
    /// Makes the index of the node with this key.
    pub(crate) fn new(database: Database, node: i64) -> Self {
        Central { database, node, locked: HashSet::new(), skips_locked: true, waits: false }
    }

    /// Reads and locks rows of this node, except those that another session has locked. An old server lets a
    /// locked row fail the statement instead, and the transaction starts again.
    fn lock_free_rows(&mut self, keys: &[i64]) -> Result<HashMap<i64, LockedRow>, Refusal> {
        if self.skips_locked && !self.waits {
            match self.lock(keys, self.database.dialect().skipping()) {
                Err(refusal) if is_unknown_syntax(&refusal) => self.skips_locked = false,
                result => return result,
            }
        }
        self.lock(keys, ("", self.database.dialect().locking()))
    }

    /// Returns those of these rows that exist, whoever has locked them.
    fn existing(&mut self, keys: &[i64]) -> Result<HashSet<i64>, Refusal> {
        let mut found = HashSet::new();
        for chunk in keys.chunks(CHUNK) {
            let sql = format!(
                "SELECT id FROM {} WHERE id IN ({}) AND node_reference_id = {}",
                self.database.dialect().by_key(),
                joined(chunk),
                self.node
            );
            found.extend(
                self.database.query(&sql, &[])?.iter().filter_map(|row| Some(row.first()?.integer())),
            );
        }
        Ok(found)
    }

    /// Reads and locks rows of this node, with the beginning and the end of the statement.
    fn lock(
        &mut self,
        keys: &[i64],
        (read, locking): (&str, &str),
    ) -> Result<HashMap<i64, LockedRow>, Refusal> {
        let dialect = self.database.dialect();
        let mut found = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let sql = format!(
                "{read}SELECT id, image_id, {}, hits FROM {} \
                 WHERE id IN ({}) AND node_reference_id = {} ORDER BY id{locking}",
                dialect.epoch("last_accessed"),
                dialect.by_key(),
                joined(chunk),
                self.node,
            );
            for row in self.database.query(&sql, &[])? {
                let [key, id, used, hits] = four(row);
                let row =
                    LockedRow { id: id.text(), last_accessed: used.epoch(dialect), hits: hits.integer() };
                found.insert(key.integer(), row);
            }
        }
        Ok(found)
    }

    /// Returns those of these images that have a row now.
    fn tracked(&mut self, ids: &[ImageId]) -> Result<HashSet<String>, Refusal> {
        let mut found = HashSet::new();
        for chunk in ids.chunks(CHUNK) {
            let ids: Vec<String> = chunk.iter().map(|id| format!("'{id}'")).collect();
            let sql = format!(
                "SELECT image_id FROM cached_images WHERE image_id IN ({}) AND node_reference_id = {}",
                ids.join(","),
                self.node
            );
            found.extend(self.database.query(&sql, &[])?.into_iter().flatten().map(Cell::text));
        }
        Ok(found)
    }

    /// Looks at every condition again, and locks the rows there are. Returns which conditions hold, and the
    /// keys of the rows to delete. A row that another session has locked is in use: no condition on it holds.
    fn check(&mut self, victims: &[Deletion]) -> Result<(Vec<bool>, Vec<i64>), Refusal> {
        let keys: Vec<i64> = victims.iter().filter_map(Deletion::key).collect();
        let rows = self.lock_free_rows(&keys)?;
        let missing: Vec<i64> = keys.into_iter().filter(|key| !rows.contains_key(key)).collect();
        let in_use = if self.skips_locked { self.existing(&missing)? } else { HashSet::new() };
        let orphans: Vec<ImageId> = victims
            .iter()
            .filter(|victim| matches!(victim.only_if, Condition::NoRow))
            .map(|victim| victim.id)
            .collect();
        let tracked = self.tracked(&orphans)?;
        let same = |victim: &Deletion, row: &LockedRow| row.id == victim.id.as_str();
        let holds: Vec<bool> = victims
            .iter()
            .map(|victim| match victim.only_if {
                Condition::Row(key) => !in_use.contains(&key),
                Condition::Present(key) => rows.get(&key).is_some_and(|row| same(victim, row)),
                Condition::NoRow => !tracked.contains(victim.id.as_str()),
                Condition::Unchanged(was) => rows.get(&was.key).is_some_and(|row| {
                    let unused =
                        row.last_accessed.to_bits() == was.last_accessed.to_bits() && row.hits == was.hits;
                    same(victim, row) && unused
                }),
            })
            .collect();
        let delete = victims
            .iter()
            .zip(&holds)
            .filter(|(_, holds)| **holds)
            .filter_map(|(victim, _)| {
                victim.key().filter(|key| rows.get(key).is_some_and(|row| same(victim, row)))
            })
            .collect();
        Ok((holds, delete))
    }

    /// Deletes rows that are locked.
    fn delete(&mut self, keys: &[i64]) -> Result<(), Refusal> {
        for chunk in keys.chunks(CHUNK) {
            let dialect = self.database.dialect();
            let sql = format!(
                "{} WHERE id IN ({}) AND node_reference_id = {}",
                dialect.delete(),
                joined(chunk),
                self.node
            );
            let deleted = self.database.execute(&sql)?;
            if deleted != chunk.len() as u64 {
                return Err(Refusal::Broken(anyhow!(
                    "{deleted} rows were deleted instead of {}",
                    chunk.len()
                )));
            }
        }
        Ok(())
    }

    fn try_forget(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal> {
        let (mut holds, mut keys) = self.check(victims)?;
        // The locks were taken before the savepoint, so that they outlive a return to it.
        self.database.execute("SAVEPOINT batch")?;
        self.delete(&keys)?;
        // PostgreSQL refuses a second row at once while the first one is only locked. Once it is deleted,
        // whoever inserts one waits for the end of this transaction. So this is asked now, and not before.
        loop {
            let not_due: HashSet<i64> = victims
                .iter()
                .zip(&mut holds)
                .filter(|(victim, holds)| **holds && !is_due(victim))
                .filter_map(|(victim, holds)| {
                    *holds = false;
                    victim.key()
                })
                .collect();
            let count = keys.len();
            keys.retain(|key| !not_due.contains(key));
            if keys.len() == count {
                break;
            }
            self.database.execute("ROLLBACK TO SAVEPOINT batch")?;
            self.delete(&keys)?;
        }
        if !keys.is_empty() {
            self.database.secure()?;
        }
        self.locked = keys.into_iter().collect();
        Ok(holds)
    }

    fn try_commit(&mut self, gone: Option<&[Deletion]>) -> Result<(), Refusal> {
        if let Some(gone) = gone {
            self.database.execute("ROLLBACK TO SAVEPOINT batch")?;
            let keys: Vec<i64> =
                gone.iter().filter_map(Deletion::key).filter(|key| self.locked.contains(key)).collect();
            self.delete(&keys)?;
        }
        self.database.commit()
    }

    fn try_adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        if let Some(end) = self.database.dialect().unless_it_exists() {
            return self.insert(orphans, end);
        }
        // A row that another process inserts in between is a conflict, and the transaction starts again.
        let known = self.images_with_rows(orphans)?;
        let unknown: Vec<Image> =
            orphans.iter().filter(|image| !known.contains(image.id.as_str())).copied().collect();
        self.insert(&unknown, "")
    }

    /// Returns the ids of those of these images that have a row.
    fn images_with_rows(&mut self, images: &[Image]) -> Result<HashSet<String>, Refusal> {
        let mut found = HashSet::new();
        for chunk in images.chunks(CHUNK) {
            let ids: Vec<String> = chunk.iter().map(|image| format!("'{}'", image.id)).collect();
            let sql = format!(
                "SELECT image_id FROM cached_images WHERE image_id IN ({}) AND node_reference_id = {}",
                ids.join(", "),
                self.node
            );
            let rows = self.database.query(&sql, &[])?;
            found.extend(rows.into_iter().filter_map(|row| Some(row.into_iter().next()?.text())));
        }
        Ok(found)
    }

    /// Inserts rows, with the end of the statement.
    fn insert(&mut self, images: &[Image], end: &str) -> Result<u64, Refusal> {
        let mut inserted = 0;
        for chunk in images.chunks(CHUNK) {
            let values: Vec<String> = chunk
                .iter()
                .map(|image| {
                    let seen = &image.seen;
                    let (used, modified) = (naive(seen.last_use()), naive(seen.mtime));
                    let size = i64::try_from(seen.size).unwrap_or(i64::MAX);
                    format!("('{}', '{used}', '{modified}', {size}, 0, NULL, {})", image.id, self.node)
                })
                .collect();
            let sql = format!(
                "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, checksum, \
                 node_reference_id) VALUES {}{end}",
                values.join(", ")
            );
            inserted += self.database.execute(&sql)?;
        }
        Ok(inserted)
    }

    fn try_record(&mut self, image: &Image) -> Result<(), Refusal> {
        let sql = format!(
            "SELECT id FROM cached_images WHERE image_id = '{}' AND node_reference_id = {}",
            image.id, self.node
        );
        let keys: Vec<i64> = self.database.query(&sql, &[])?.iter().map(|row| row[0].integer()).collect();
        // Another process may have deleted the row meanwhile.
        let locking = self.database.dialect().locking();
        let left: Vec<i64> = self.lock(&keys, ("", locking))?.into_keys().collect();
        self.delete(&left)?;
        // Not as for orphans: a row that another process has inserted meanwhile is a conflict.
        match self.insert(std::slice::from_ref(image), "")? {
            1 => Ok(()),
            // A trigger passed it over.
            _ => Err(Refusal::Broken(anyhow!("the row of image {} was not inserted", image.id))),
        }
    }

    fn try_drop(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        let keys: Vec<i64> = rows.iter().map(|row| row.key).collect();
        let rows = self.lock_free_rows(&keys)?;
        let bad: Vec<i64> = rows
            .into_iter()
            .filter(|(_, row)| ImageId::new(row.id.as_bytes()).is_none())
            .map(|(key, _)| key)
            .collect();
        self.delete(&bad)?;
        Ok(bad.len() as u64)
    }

    /// Runs a change in the open transaction, which begins again after a conflict with another process.
    fn change<T>(
        &mut self,
        what: &str,
        mut run: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let deadline = self.database.deadline();
        loop {
            match run(self) {
                Ok(value) => return Ok(value),
                Err(refusal) => self.database.start_again(refusal, deadline, what)?,
            }
        }
    }
}

/// Joins the rows of a node whose keys follow `last`, as many as are read at once. Returns the last key if
/// more rows may follow.
fn read_page(
    database: &mut Database,
    node: i64,
    last: i64,
    joiner: &mut Joiner<'_>,
) -> Result<Option<i64>, Refusal> {
    let dialect = database.dialect();
    let sql = format!(
        "SELECT id, image_id, {}, {}, size, hits FROM cached_images \
         WHERE node_reference_id = {node} AND id > {last} ORDER BY id LIMIT {PAGE}",
        dialect.epoch("last_accessed"),
        dialect.epoch("last_modified"),
    );
    let rows = database.look(&sql, &[])?;
    let (count, mut key) = (rows.len(), last);
    for row in rows {
        key = row[0].integer();
        let found = Row {
            key,
            last_accessed: row[2].epoch(dialect),
            last_modified: row[3].epoch(dialect),
            size: row[4].integer(),
            hits: row[5].integer(),
        };
        joiner.row(row.into_iter().nth(1).map(Cell::text).unwrap_or_default().as_bytes(), found);
    }
    Ok((count == PAGE).then_some(key))
}

impl Index for Central {
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()> {
        self.database.set_wait(wait);
        let mut last = i64::MIN;
        loop {
            let page = read_page(&mut self.database, self.node, last, joiner);
            match page.map_err(|refusal| self.database.told(refusal, "cannot read the rows").into_error())? {
                Some(key) => last = key,
                None => return Ok(()),
            }
        }
    }

    fn check_writable(&mut self, wait: &Wait) -> Result<(), Refusal> {
        self.database.set_wait(wait);
        let checked = self.database.reading(|database| {
            let locking = database.dialect().locking();
            database.query(&format!("SELECT id FROM cached_images WHERE 1 = 0{locking}"), &[])?;
            for sql in NO_CHANGES {
                database.execute(sql)?;
            }
            match database.dialect() {
                Dialect::PostgreSql => is_sequence_usable(database),
                Dialect::MySql | Dialect::Sqlite => Ok(()),
            }
        });
        checked.map_err(|refusal| self.database.told(refusal, "cannot change rows"))
    }

    fn begin(&mut self, wait: &Wait) -> Result<bool, Refusal> {
        self.database.set_wait(wait);
        self.locked.clear();
        let begun = self.database.begin();
        // It is not known if others wrote. They need no breaks either, because each row is locked by itself.
        begun.map(|()| false).map_err(|refusal| self.database.told(refusal, "cannot begin a transaction"))
    }

    fn forget(
        &mut self,
        victims: &[Deletion],
        is_due: &dyn Fn(&Deletion) -> bool,
    ) -> Result<Vec<bool>, Refusal> {
        self.change("cannot delete rows", |index| index.try_forget(victims, is_due))
    }

    fn holds(&mut self, victim: &Deletion) -> Result<bool, Refusal> {
        self.change("cannot look at a row", |index| Ok(index.check(&[*victim])?.0[0]))
    }

    fn commit(&mut self, gone: Option<&[Deletion]>) -> Result<(), Refusal> {
        self.try_commit(gone)
            .map_err(|refusal| self.database.told(refusal, "cannot commit the deletion of rows"))
    }

    fn wait_for_rows(&mut self, waits: bool) {
        self.waits = waits;
    }

    fn abandon(&mut self) {
        self.database.rollback();
    }

    fn adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        self.change("cannot insert rows", |index| index.try_adopt(orphans))
    }

    fn record(&mut self, image: &Image) -> Result<(), Refusal> {
        self.change("cannot insert a row", |index| index.try_record(image))
    }

    fn drop_bad_rows(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        self.change("cannot delete rows without an image id", |index| index.try_drop(rows))
    }

    fn reach(&mut self, wait: &Wait) -> Result<(), Refusal> {
        self.database.set_wait(wait);
        self.database
            .reading(|_| Ok(()))
            .map_err(|refusal| self.database.told(refusal, "cannot begin a transaction"))
    }
}

/// Fails if this user may not take a key for a new row.
fn is_sequence_usable(database: &mut Database) -> Result<(), Refusal> {
    let sql = "SELECT CASE WHEN COALESCE(has_sequence_privilege( \
               pg_get_serial_sequence('cached_images', 'id'), 'USAGE'), true) THEN 1 ELSE 0 END";
    match database.query(sql, &[])?.first().map(|row| row[0].integer()) {
        Some(0) => Err(Refusal::Broken(anyhow!(
            "permission denied for the sequence of cached_images: GRANT USAGE ON SEQUENCE \
             cached_images_id_seq"
        ))),
        _ => Ok(()),
    }
}

/// Returns the four cells of a row.
fn four(row: Vec<Cell>) -> [Cell; 4] {
    row.try_into().unwrap_or([Cell::Null, Cell::Null, Cell::Null, Cell::Null])
}
