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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;

    use super::*;
    use crate::cache::entry::Seen;
    use crate::cache::inventory::Inventory;
    use crate::database::Patience;
    use crate::database::opening::{Opening, Purpose};
    use crate::database::url::Address;
    use crate::interrupt::Interrupt;

    const NODE: i64 = 7;
    const TABLE: &str = "CREATE TABLE cached_images (id INTEGER PRIMARY KEY, image_id VARCHAR(36) NOT NULL, \
         last_accessed DATETIME NOT NULL, last_modified DATETIME NOT NULL, size BIGINT NOT NULL, \
         hits INTEGER NOT NULL, checksum VARCHAR(32), node_reference_id INTEGER NOT NULL, \
         UNIQUE (image_id, node_reference_id))";

    fn id(number: u64) -> ImageId {
        ImageId::new(format!("{number:08x}-0000-0000-0000-000000000000").as_bytes()).unwrap()
    }

    fn image(number: u64) -> Image {
        let time = 2_000_000_000;
        let seen =
            Seen { inode: 1, size: 10, allocated: 0, atime: time, mtime: time, ctime: 0, links: 1, owner: 0 };
        Image { id: id(number), seen, row: None }
    }

    fn wait() -> Wait {
        Wait { limit: Duration::from_millis(300), interrupt: Interrupt::default() }
    }

    /// A database, and a connection of another program.
    struct Tables {
        temporary: tempfile::TempDir,
        other: Connection,
    }

    impl Tables {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            let other = Connection::open(temporary.path().join("glance.sqlite")).unwrap();
            other.execute_batch(TABLE).unwrap();
            Tables { temporary, other }
        }

        fn open(&self, purpose: Purpose) -> Central {
            let path = self.temporary.path().join("glance.sqlite");
            let address = Address::parse(&format!("sqlite:///{}", path.display())).unwrap();
            let patience = Patience { limit: Duration::ZERO, retries: None, interval: Duration::ZERO };
            let open = || Database::open(address.clone(), patience, purpose, &wait());
            // A file that another test opens at the same moment looks like one that replaces the database.
            let opened = (0..1000).map(|_| open()).find(Result::is_ok);
            let Some(Ok(Opening::Open(database))) = opened else { panic!("the database cannot be opened") };
            Central::new(database, NODE)
        }

        /// Makes the row of an image on a node, which was used once.
        fn row(&self, number: u64, node: i64) -> Deletion {
            let sql = "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                       node_reference_id) \
                       VALUES (?1, '2026-01-01 00:00:00', '2026-01-01 00:00:00', 10, 1, ?2)";
            self.other.execute(sql, (id(number).as_str(), node)).unwrap();
            Deletion { id: id(number), only_if: Condition::Row(self.other.last_insert_rowid()) }
        }

        /// Returns the rows of this node, as a run reads them.
        fn read(&self) -> Inventory {
            let mut inventory = Inventory::default();
            self.open(Purpose::Look).read(&wait(), &mut inventory.joiner()).unwrap();
            inventory
        }

        /// Returns the numbers of the images that have rows on this node.
        fn left(&self) -> Vec<u64> {
            let ghosts = self.read().ghosts;
            let mut left: Vec<u64> = ghosts.iter().map(|ghost| ghost.id.leading().into()).collect();
            left.sort_unstable();
            left
        }
    }

    #[test]
    fn the_row_of_an_image_that_was_used_stays() {
        for (change, is_unchanged) in [
            ("size = 11", true),
            ("last_accessed = '2026-01-01 00:00:01'", false),
            ("hits = 2", false),
            ("image_id = '00000009-0000-0000-0000-000000000000'", false),
            ("node_reference_id = 8", false),
        ] {
            let tables = Tables::new();
            tables.row(1, NODE);
            let victim = Deletion { id: id(1), only_if: Condition::Unchanged(tables.read().ghosts[0].row) };
            tables.other.execute_batch(&format!("UPDATE cached_images SET {change}")).unwrap();
            let mut index = tables.open(Purpose::Change);
            index.begin(&wait()).unwrap();
            assert_eq!(index.holds(&victim).unwrap(), is_unchanged, "{change}");
            assert_eq!(index.forget(&[victim], &|_| true).unwrap(), [is_unchanged], "{change}");
            index.commit(None).unwrap();
            let count = tables.other.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0));
            assert_eq!(count, Ok(i64::from(!is_unchanged)), "{change}");
        }
    }

    #[test]
    fn only_rows_that_are_due_are_forgotten_and_only_those_that_are_gone_stay_so() {
        let tables = Tables::new();
        let mut victims: Vec<Deletion> = [1, 2, 3].map(|number| tables.row(number, NODE)).into();
        let orphan = |number| Deletion { id: id(number), only_if: Condition::NoRow };
        // Another node has a row of the first orphan, and this node one of the second.
        tables.row(4, 8);
        victims.extend([orphan(4), orphan(3)]);
        let mut index = tables.open(Purpose::Change);
        assert!(!index.begin(&wait()).unwrap(), "it is not known if others wrote");
        let is_due = |victim: &Deletion| victim.id != id(2);
        assert_eq!(index.forget(&victims, &is_due).unwrap(), [true, false, true, true, false]);
        // The file of the third image could not be removed.
        index.commit(Some(&victims[..1])).unwrap();
        assert_eq!(tables.left(), [2, 3]);
        index.begin(&wait()).unwrap();
        // A row that is gone by now need not be deleted.
        assert_eq!(index.forget(&victims[..2], &|_| true).unwrap(), [true, true]);
        index.abandon();
        assert_eq!(tables.left(), [2, 3]);
    }

    #[test]
    fn orphans_get_rows_unless_they_have_them_on_this_node() {
        let tables = Tables::new();
        tables.row(1, NODE);
        tables.row(2, 8);
        let mut index = tables.open(Purpose::Change);
        index.reach(&wait()).unwrap();
        for (ends, left) in [(Central::abandon as fn(&mut Central), &[1][..]), (|_| {}, &[1, 2, 3])] {
            index.begin(&wait()).unwrap();
            assert_eq!(index.adopt(&[image(1), image(2), image(3)]).unwrap(), 2);
            ends(&mut index);
            let _ = index.commit(None);
            assert_eq!(tables.left(), left);
        }
        index.begin(&wait()).unwrap();
        index.record(&image(1)).unwrap();
        index.commit(None).unwrap();
        let rows: Vec<_> =
            tables.read().ghosts.iter().map(|ghost| (ghost.row.last_accessed, ghost.row.hits)).collect();
        assert_eq!(rows, [(2.0, 0); 3]);
    }

    #[test]
    fn rows_that_name_no_image_are_dropped_and_no_others() {
        let tables = Tables::new();
        let rows = [1, 2, 3].map(|number| tables.row(number, NODE));
        let keys: Vec<i64> = rows.iter().filter_map(Deletion::key).collect();
        let rename = format!("UPDATE cached_images SET image_id = 'x' || id WHERE id <> {}", keys[0]);
        tables.other.execute_batch(&rename).unwrap();
        assert_eq!(tables.read().bad_rows.len(), 2);
        // The first one has become the row of an image meanwhile, and the last one is gone.
        let keys = keys.into_iter().chain([99]);
        let bad: Vec<BadRow> = keys.map(|key| BadRow { key, shown: String::new() }).collect();
        let mut index = tables.open(Purpose::Change);
        index.begin(&wait()).unwrap();
        assert_eq!(index.drop_bad_rows(&bad).unwrap(), 2);
        index.commit(None).unwrap();
        assert_eq!((tables.left(), tables.read().bad_rows.len()), (vec![1], 0));
    }

    #[test]
    fn a_database_that_is_open_for_reading_is_not_writable() {
        let tables = Tables::new();
        tables.open(Purpose::Change).check_writable(&wait()).unwrap();
        let refused = tables.open(Purpose::Look).check_writable(&wait()).unwrap_err();
        assert!(refused.into_error().to_string().starts_with("cannot change rows in the database"));
    }
}
