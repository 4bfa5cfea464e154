//! The central index: rows of all nodes' caches in Glance's own database, of which this is one node's part.
//!
//! **Few statements.** Rows are read in pages, looked at again, deleted and inserted some hundred at a time, always by their
//! primary key: nothing scans the table for an image, and no lock is taken on another node's rows.
//!
//! **The second look** is a locking read (`FOR UPDATE`) of last use and hits: a plain read would show an old snapshot under
//! REPEATABLE READ. Only after it are rows deleted, then the caller's files, then it is committed. Last use has whole seconds on
//! MariaDB, but Glance counts a hit with every use.
//!
//! **Conflicts.** Deadlocks, lock timeouts, serialization failures and rows that somebody else has just inserted start the
//! transaction again, as long as the caller is ready to wait; before the commit nothing else was done in it. A commit that is
//! refused (Galera certifies only there) is the caller's to repeat, for by then files are gone. A connection that is lost is made
//! anew for the next transaction, once.
//!
//! **Times** are naive UTC in the tables. They are asked for as numbers, so that no session's or server's time zone has a say,
//! and compared bit by bit: the same value is read the same way.
//!
//! Nothing is ever registered here: a node that the database does not know is somebody's mistake to mend.

mod fleet;
mod images;
mod mysql;
mod postgres;
mod sqlite;
mod url;
mod worker;

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

pub(crate) use self::fleet::{Copies, NodeSummary, Placement};
pub(crate) use self::images::Record;
use self::mysql::MySql;
use self::postgres::PostgreSql;
use self::sqlite::File;
pub(crate) use self::url::{Dialect, Target};
use self::worker::Worker;
use super::sqlite::Purpose;
use super::{Claim, Index, Refusal, Target as Victim};
use crate::cache::entry::{BadRow, Image, Row};
use crate::cache::inventory::Joiner;
use crate::interrupt::Wait;
use crate::names::ImageId;
use crate::units::{Nanos, SECOND};

/// Rows read at a time.
const PAGE: usize = 20_000;
/// Keys or rows in one statement: above a thousand MariaDB turns the list into a join.
const CHUNK: usize = 500;
/// The pause before a transaction is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a server that could not be reached again is left alone.
const AGAIN: Duration = Duration::from_secs(10);

/// How long, and how often, a database is asked for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For all attempts together.
    pub(crate) limit: Duration,
    /// Attempts after the first; `None` is as many as there is time for.
    pub(crate) retries: Option<u64>,
    /// Between two attempts.
    pub(crate) interval: Duration,
}

/// A value as a database gives it.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl Cell {
    fn integer(&self) -> i64 {
        match self {
            Cell::Null => 0,
            Cell::Integer(number) => *number,
            Cell::Real(number) => *number as i64,
            Cell::Text(text) => text.parse().unwrap_or(0),
        }
    }

    fn text(self) -> String {
        match self {
            Cell::Null => "NULL".to_owned(),
            Cell::Integer(number) => number.to_string(),
            Cell::Real(number) => number.to_string(),
            Cell::Text(text) => text,
        }
    }

    /// Epoch seconds, of a column that was asked for with [`Dialect::epoch`]. What is no time sorts as in the sqlite index.
    fn epoch(&self, dialect: Dialect) -> f64 {
        match (dialect, self) {
            (_, Cell::Null) => f64::NEG_INFINITY,
            (Dialect::MySql, cell) => cell.integer() as f64 / 1e6,
            (_, Cell::Real(seconds)) => *seconds,
            (_, Cell::Integer(seconds)) => *seconds as f64,
            (_, Cell::Text(text)) => {
                text.parse::<jiff::civil::DateTime>().ok().map_or(f64::INFINITY, |time| {
                    let since = time.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
                    since.as_micros() as f64 / 1e6
                })
            }
        }
    }

    /// As [`Cell::epoch`], of a time that may be missing.
    fn time(&self, dialect: Dialect) -> Option<Nanos> {
        (*self != Cell::Null).then(|| crate::units::nanos(self.epoch(dialect)))
    }
}

/// Where the databases' languages differ.
impl Dialect {
    /// An expression for a time column, whatever the time zones of session and server.
    fn epoch(self, column: &str) -> String {
        match self {
            Dialect::MySql => format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column})"),
            Dialect::PostgreSql => format!("extract(epoch FROM {column})::float8"),
            Dialect::Sqlite => column.to_owned(),
        }
    }

    /// An expression as a whole number: sums have types of their own.
    fn whole(self, expression: &str) -> String {
        match self {
            Dialect::PostgreSql => format!("({expression})::bigint"),
            Dialect::MySql | Dialect::Sqlite => expression.to_owned(),
        }
    }

    /// The table, read by primary key and by nothing else: a small table would be scanned, and every row of it locked.
    fn by_key(self) -> &'static str {
        match self {
            Dialect::MySql => "cached_images FORCE INDEX (PRIMARY)",
            Dialect::PostgreSql | Dialect::Sqlite => "cached_images",
        }
    }

    fn delete(self) -> &'static str {
        match self {
            Dialect::MySql => "DELETE cached_images FROM cached_images FORCE INDEX (PRIMARY)",
            Dialect::PostgreSql | Dialect::Sqlite => "DELETE FROM cached_images",
        }
    }

    /// What ends a read that locks; SQLite's transaction has locked everything.
    fn locking(self) -> &'static str {
        match self {
            Dialect::Sqlite => "",
            Dialect::MySql | Dialect::PostgreSql => " FOR UPDATE",
        }
    }

    /// What begins and ends an insert that leaves rows which are there.
    fn insert(self) -> (&'static str, &'static str) {
        match self {
            Dialect::MySql => ("INSERT IGNORE", ""),
            Dialect::PostgreSql | Dialect::Sqlite => ("INSERT", " ON CONFLICT DO NOTHING"),
        }
    }

    fn begin(self) -> &'static str {
        match self {
            Dialect::MySql => "START TRANSACTION",
            // The default may be another.
            Dialect::PostgreSql => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Dialect::Sqlite => "BEGIN EXCLUSIVE",
        }
    }

    /// What keeps a transaction from waiting for locks while it holds some: it is tried again instead. MySQL knows it for
    /// sessions only.
    fn impatience(self) -> Option<&'static str> {
        (self == Dialect::PostgreSql).then_some("SET LOCAL lock_timeout = '250ms'")
    }
}

impl Target {
    /// A server's words without what was sent to it: they can repeat the user, and nothing keeps them from more.
    fn without_credentials(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(password) = self.password.as_deref().filter(|password| !password.is_empty()) {
            text = text.replace(password, "***");
        }
        if let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) {
            for quote in ['\'', '"'] {
                text = text.replace(&format!("{quote}{user}{quote}"), &format!("{quote}***{quote}"));
            }
        }
        crate::names::escaped(text.as_bytes())
    }
}

/// A connection to a server, or an open file.
enum Link {
    Server(Worker),
    File(File),
}

/// Glance's database, open.
pub(crate) struct Database {
    link: Link,
    target: Target,
    patience: Patience,
    wait: Wait,
    /// When a lost connection could not be made anew.
    given_up: Option<Instant>,
}

/// What was found where the database should be.
pub(crate) enum Found {
    Database(Box<Database>),
    /// An SQLite file that is not there, or without any table.
    Nothing(PathBuf),
    /// An SQLite file that cannot be read without writing; the text says why.
    Unreadable(String),
}

impl Database {
    /// Connects, within the patience given.
    pub(crate) fn open(
        target: Target,
        patience: Patience,
        purpose: Purpose,
        wait: &Wait,
    ) -> Result<Found, Refusal> {
        let link = if target.dialect == Dialect::Sqlite {
            match File::open(Path::new(&target.database), purpose, wait).map_err(Refusal::Broken)? {
                sqlite::Opened::File(file) => Link::File(file),
                sqlite::Opened::Nothing(path) => return Ok(Found::Nothing(path)),
                sqlite::Opened::Unreadable(why) => return Ok(Found::Unreadable(why)),
            }
        } else {
            Link::Server(connect(&target, patience, wait)?)
        };
        let wait = wait.clone();
        Ok(Found::Database(Box::new(Database { link, target, patience, wait, given_up: None })))
    }

    /// What messages call it.
    pub(crate) fn shown(&self) -> String {
        self.target.to_string()
    }

    fn dialect(&self) -> Dialect {
        self.target.dialect
    }

    fn is_lost(&self) -> bool {
        matches!(&self.link, Link::Server(worker) if worker.is_lost())
    }

    /// Runs a query; each `?` in it is one of the texts.
    fn query(&mut self, sql: &str, texts: &[&str]) -> Result<Vec<Vec<Cell>>, Refusal> {
        match &mut self.link {
            Link::Server(worker) => worker.query(sql, texts),
            Link::File(file) => file.query(sql, texts, &self.wait),
        }
    }

    fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        match &mut self.link {
            Link::Server(worker) => worker.execute(sql),
            Link::File(file) => file.execute(sql, &self.wait),
        }
    }

    fn begin(&mut self) -> Result<(), Refusal> {
        let begin = self.dialect().begin();
        match self.execute(begin) {
            Err(_) if self.is_lost() && self.may_reconnect() => {
                let link = connect(&self.target, self.patience, &self.wait);
                self.given_up = link.is_err().then(Instant::now);
                self.link = Link::Server(link?);
                self.execute(begin)?;
            }
            result => drop(result?),
        }
        self.dialect().impatience().map_or(Ok(()), |sql| self.execute(sql).map(drop))
    }

    /// Whether it is time to try to connect again. What ends with the connection ends without waiting once more; what goes on for
    /// hours finds a server that came back.
    fn may_reconnect(&self) -> bool {
        self.given_up.is_none_or(|at| at.elapsed() > AGAIN) && !self.wait.interrupt.raised()
    }

    fn rollback(&mut self) {
        if !self.is_lost() {
            // What cannot be rolled back now, the server rolls back when the connection ends.
            let _ = self.execute("ROLLBACK");
        }
    }

    /// Puts on disk what the commit will need.
    fn secure(&mut self) -> Result<(), Refusal> {
        match &mut self.link {
            Link::Server(_) => Ok(()),
            Link::File(file) => file.secure(),
        }
    }

    /// Finds a node by its URL, as the database compares texts.
    pub(crate) fn node(&mut self, url: &str) -> Result<Option<i64>, Refusal> {
        let sql = "SELECT node_reference_id FROM node_reference WHERE node_reference_url = ?";
        let rows =
            self.query(sql, &[url]).map_err(|refusal| self.told(refusal, "cannot look for this node"))?;
        Ok(rows.first().map(|row| row[0].integer()))
    }

    /// The URLs of all nodes.
    pub(crate) fn nodes(&mut self) -> Result<Vec<String>, Refusal> {
        let sql = "SELECT node_reference_url FROM node_reference ORDER BY node_reference_url";
        let rows = self.query(sql, &[]).map_err(|refusal| self.told(refusal, "cannot list the nodes"))?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).map(Cell::text).collect())
    }

    /// The index of one node's cache.
    pub(crate) fn index(self, node: i64) -> Central {
        Central { database: self, node, locked: HashSet::new() }
    }

    fn told(&self, refusal: Refusal, what: impl Display) -> Refusal {
        refusal.context(format!("{what} in the database ({})", self.target))
    }
}

/// Whether a refusal means that the database is not Glance's, or older than the central index.
pub(crate) fn is_missing_table(refusal: &Refusal) -> bool {
    let Refusal::Broken(error) = refusal else { return false };
    let text = format!("{error:#}");
    ["error 1146:", "error 42P01:", "no such table"].iter().any(|sign| text.contains(sign))
}

fn connect(target: &Target, patience: Patience, wait: &Wait) -> Result<Worker, Refusal> {
    let limit = target.connect_timeout.unwrap_or(patience.limit);
    let deadline = Instant::now() + limit;
    let shown = || format!("cannot connect to the database ({target})");
    let mut attempts = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let (to, name) = (target.clone(), target.to_string());
        let result = match target.dialect {
            Dialect::MySql => Worker::open(name, move || MySql::connect(&to, left), left, &wait.interrupt),
            _ => Worker::open(name, move || PostgreSql::connect(&to, left), left, &wait.interrupt),
        };
        let again = patience.retries.is_none_or(|retries| attempts < retries)
            && Instant::now() + patience.interval < deadline;
        match result {
            // What the network refused may be there in a moment; what the server refused will not.
            Err(Refusal::Busy(_)) if again => pause(patience.interval, wait)?,
            result => return result.map_err(|refusal| refusal.context(shown())),
        }
        attempts += 1;
    }
}

fn pause(time: Duration, wait: &Wait) -> Result<(), Refusal> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if wait.interrupt.raised() {
            return Err(Refusal::Interrupted);
        }
        std::thread::sleep(PAUSE.min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// One node's part of the central index.
pub(crate) struct Central {
    database: Database,
    node: i64,
    /// Keys of the rows that the open transaction has locked and deleted.
    locked: HashSet<i64>,
}

/// What a locking read saw of a row.
struct Locked {
    id: String,
    last_accessed: f64,
    hits: i64,
}

impl Central {
    /// Reads and locks rows of this node.
    fn lock(&mut self, keys: &[i64]) -> Result<HashMap<i64, Locked>, Refusal> {
        let dialect = self.database.dialect();
        let mut found = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let sql = format!(
                "SELECT id, image_id, {}, hits FROM {} WHERE id IN ({}) AND node_reference_id = {} ORDER BY id{}",
                dialect.epoch("last_accessed"),
                dialect.by_key(),
                joined(chunk),
                self.node,
                dialect.locking()
            );
            for row in self.database.query(&sql, &[])? {
                let [key, id, used, hits] = four(row);
                let row = Locked { id: id.text(), last_accessed: used.epoch(dialect), hits: hits.integer() };
                found.insert(key.integer(), row);
            }
        }
        Ok(found)
    }

    /// Which of these images have a row now.
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

    /// Looks at every claim again, and locks the rows there are. Returns what holds, and the keys of the rows to delete.
    fn claims(&mut self, targets: &[Victim]) -> Result<(Vec<bool>, Vec<i64>), Refusal> {
        let keys: Vec<i64> = targets.iter().filter_map(key).collect();
        let rows = self.lock(&keys)?;
        let orphans: Vec<ImageId> = targets
            .iter()
            .filter(|target| matches!(target.claim, Claim::NoRow))
            .map(|target| target.id)
            .collect();
        let tracked = self.tracked(&orphans)?;
        let same = |target: &Victim, row: &Locked| row.id == target.id.as_str();
        let holds: Vec<bool> = targets
            .iter()
            .map(|target| match target.claim {
                Claim::Row(_) => true,
                Claim::NoRow => !tracked.contains(target.id.as_str()),
                Claim::Unchanged(was) => rows.get(&was.key).is_some_and(|row| {
                    let unused =
                        row.last_accessed.to_bits() == was.last_accessed.to_bits() && row.hits == was.hits;
                    same(target, row) && unused
                }),
            })
            .collect();
        let delete = targets
            .iter()
            .zip(&holds)
            .filter(|(_, holds)| **holds)
            .filter_map(|(target, _)| {
                key(target).filter(|key| rows.get(key).is_some_and(|row| same(target, row)))
            })
            .collect();
        Ok((holds, delete))
    }

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

    fn try_forget(&mut self, targets: &[Victim]) -> Result<Vec<bool>, Refusal> {
        let (holds, keys) = self.claims(targets)?;
        // The locks are from before, and so outlive going back to here.
        self.database.execute("SAVEPOINT batch")?;
        self.delete(&keys)?;
        if !keys.is_empty() {
            self.database.secure()?;
        }
        self.locked = keys.into_iter().collect();
        Ok(holds)
    }

    fn try_commit(&mut self, gone: Option<&[Victim]>) -> Result<(), Refusal> {
        if let Some(gone) = gone {
            self.database.execute("ROLLBACK TO SAVEPOINT batch")?;
            let keys: Vec<i64> =
                gone.iter().filter_map(key).filter(|key| self.locked.contains(key)).collect();
            self.delete(&keys)?;
        }
        self.database.execute("COMMIT").map(drop)
    }

    fn try_adopt(&mut self, orphans: &[Image]) -> Result<u64, Refusal> {
        self.insert(orphans, self.database.dialect().insert())
    }

    /// Inserts rows, with what begins and ends the statement.
    fn insert(&mut self, images: &[Image], (insert, end): (&str, &str)) -> Result<u64, Refusal> {
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
                "{insert} INTO cached_images (image_id, last_accessed, last_modified, size, hits, checksum, node_reference_id) \
                 VALUES {}{end}",
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
        // Somebody else may have deleted it meanwhile.
        let left: Vec<i64> = self.lock(&keys)?.into_keys().collect();
        self.delete(&left)?;
        // Not as for orphans: MySQL's IGNORE leaves out whatever the database refuses, and says nothing. One that somebody else has
        // inserted meanwhile is a conflict.
        self.insert(std::slice::from_ref(image), ("INSERT", "")).map(drop)
    }

    fn try_drop(&mut self, rows: &[BadRow]) -> Result<u64, Refusal> {
        let keys: Vec<i64> = rows.iter().map(|row| row.key).collect();
        let rows = self.lock(&keys)?;
        let bad: Vec<i64> = rows
            .into_iter()
            .filter(|(_, row)| ImageId::new(row.id.as_bytes()).is_none())
            .map(|(key, _)| key)
            .collect();
        self.delete(&bad)?;
        Ok(bad.len() as u64)
    }

    /// Runs a change in the open transaction, beginning it again where somebody else was in the way.
    fn change<T>(
        &mut self,
        what: &str,
        mut run: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let deadline = self.database.wait.deadline();
        loop {
            match run(self) {
                Err(Refusal::Busy(_)) if self.database.wait.interrupt.raised() => {
                    return Err(Refusal::Interrupted);
                }
                Err(Refusal::Busy(_))
                    if self.database.dialect() != Dialect::Sqlite && Instant::now() < deadline =>
                {
                    self.database.rollback();
                    std::thread::sleep(PAUSE);
                    self.database.begin()?;
                }
                result => return result.map_err(|refusal| self.database.told(refusal, what)),
            }
        }
    }
}

impl Index for Central {
    fn read(&mut self, wait: &Wait, joiner: &mut Joiner<'_>) -> Result<()> {
        self.database.wait = wait.clone();
        let dialect = self.database.dialect();
        let mut last = i64::MIN;
        loop {
            let sql = format!(
                "SELECT id, image_id, {}, {}, size, hits FROM cached_images \
                 WHERE node_reference_id = {} AND id > {last} ORDER BY id LIMIT {PAGE}",
                dialect.epoch("last_accessed"),
                dialect.epoch("last_modified"),
                self.node
            );
            let rows = self.database.query(&sql, &[]);
            let rows =
                rows.map_err(|refusal| self.database.told(refusal, "cannot read the rows").into_error())?;
            let count = rows.len();
            for row in rows {
                last = row[0].integer();
                let found = Row {
                    key: last,
                    last_accessed: row[2].epoch(dialect),
                    last_modified: row[3].epoch(dialect),
                    size: row[4].integer(),
                    hits: row[5].integer(),
                };
                joiner.row(row.into_iter().nth(1).map(Cell::text).unwrap_or_default().as_bytes(), found);
            }
            if count < PAGE {
                return Ok(());
            }
        }
    }

    fn begin(&mut self, wait: &Wait) -> Result<(), Refusal> {
        self.database.wait = wait.clone();
        self.locked.clear();
        self.database.begin().map_err(|refusal| self.database.told(refusal, "cannot begin a transaction"))
    }

    fn forget(&mut self, targets: &[Victim]) -> Result<Vec<bool>, Refusal> {
        self.change("cannot delete rows", |index| index.try_forget(targets))
    }

    fn holds(&mut self, target: &Victim) -> Result<bool, Refusal> {
        self.change("cannot look at a row", |index| Ok(index.claims(&[*target])?.0[0]))
    }

    fn commit(&mut self, gone: Option<&[Victim]>) -> Result<(), Refusal> {
        self.try_commit(gone)
            .map_err(|refusal| self.database.told(refusal, "cannot commit the deletion of rows"))
            .inspect_err(|_| self.abandon())
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
        self.change("cannot drop rows", |index| index.try_drop(rows))
    }

    fn reach(&mut self, wait: &Wait) -> Result<(), Refusal> {
        self.database.wait = wait.clone();
        self.database
            .reading(|_| Ok(()))
            .map_err(|refusal| self.database.told(refusal, "cannot begin a transaction"))
    }

    fn is_lost(&self) -> bool {
        self.database.is_lost()
    }
}

/// The row a target has, if it has one.
fn key(target: &Victim) -> Option<i64> {
    match target.claim {
        Claim::Unchanged(row) => Some(row.key),
        Claim::Row(key) => Some(key),
        Claim::NoRow => None,
    }
}

fn joined(keys: &[i64]) -> String {
    keys.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

fn four(row: Vec<Cell>) -> [Cell; 4] {
    row.try_into().unwrap_or([Cell::Null, Cell::Null, Cell::Null, Cell::Null])
}

/// A time as `SQLAlchemy` writes it: UTC, without saying so.
fn naive(time: Nanos) -> String {
    let whole = jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap_or_default();
    let micros = time.rem_euclid(SECOND) / 1000;
    format!("{}.{micros:06}", whole.strftime("%Y-%m-%d %H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_same_number_in_every_dialect() {
        let expected = 1_705_082_328.055_431_f64;
        let text = Cell::Text("2024-01-12 17:58:48.055431".into());
        assert_eq!(text.epoch(Dialect::Sqlite).to_bits(), expected.to_bits());
        let micros = Cell::Text("1705082328055431".into());
        assert_eq!(micros.epoch(Dialect::MySql).to_bits(), expected.to_bits());
        assert_eq!(Cell::Real(expected).epoch(Dialect::PostgreSql).to_bits(), expected.to_bits());
        assert_eq!(naive(1_705_082_328_055_431_999), "2024-01-12 17:58:48.055431");
        assert_eq!(naive(-1), "1969-12-31 23:59:59.999999");
    }

    #[test]
    fn what_is_no_time_sorts_first_or_last() {
        for dialect in [Dialect::MySql, Dialect::PostgreSql, Dialect::Sqlite] {
            assert_eq!(Cell::Null.epoch(dialect).to_bits(), f64::NEG_INFINITY.to_bits());
        }
        assert_eq!(Cell::Text("yesterday".into()).epoch(Dialect::Sqlite).to_bits(), f64::INFINITY.to_bits());
    }

    #[test]
    fn credentials_do_not_come_back_in_a_servers_words() {
        let target = Target::parse("mysql://gl:s3cret@db/glance").unwrap();
        let shown =
            target.without_credentials("Access denied for user 'gl'@'::1' with s3cret\u{1b}[0m in 'glance'");
        assert_eq!(shown, "Access denied for user '***'@'::1' with ***\\u{1b}[0m in 'glance'");
    }
}
