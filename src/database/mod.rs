//! Glance's database: a connection to a server, or an open SQLite file, and the questions that this program
//! asks.
//!
//! A server is asked through a [`worker`], so that no wait lasts longer than its limit and a signal ends each
//! one. Errors come as a [`Refusal`], which says what a caller can do about it; no error repeats a user or a
//! password.
//!
//! Nothing here knows of cache directories, or of what is done with an answer. The central index, which is
//! one node's part of these tables, is built on top of this in `cache/index/central.rs`.

mod cell;
mod dialect;
mod file;
#[cfg(test)]
mod fuzz;
mod mysql;
pub(crate) mod opening;
mod postgres;
pub(crate) mod refusal;
mod tunnel;
mod worker;

pub(crate) mod images;
pub(crate) mod nodes;
pub(crate) mod sqlite;
pub(crate) mod url;

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;

pub(crate) use self::cell::{Cell, naive};
pub(crate) use self::dialect::Dialect;
use self::file::File;
use self::mysql::MySql;
use self::postgres::PostgreSql;
use self::url::Address;
use self::worker::Worker;
use crate::database::opening::{Opening, Purpose};
use crate::database::refusal::Refusal;
use crate::interrupt::Wait;

/// The number of rows read at a time.
pub(crate) const PAGE: usize = 20_000;
/// The number of keys or rows in one statement. Above a thousand MariaDB turns the list into a join.
pub(crate) const CHUNK: usize = 500;
/// The pause before a transaction is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause before a server that is full is asked again, if the pause of the settings does not fit into the
/// limit, and before a lost connection is replaced after an attempt that failed.
const SHORT: Duration = Duration::from_secs(1);

/// The limits of connecting to a database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For all attempts together.
    pub(crate) limit: Duration,
    /// Attempts after the first; `None` is as many as fit into the limit.
    pub(crate) retries: Option<u64>,
    /// The pause between two attempts.
    pub(crate) interval: Duration,
}

/// A connection to a server, or an open file.
enum Link {
    Server(Worker),
    File(File),
}

/// An attempt to replace a lost connection that failed.
struct FailedReconnect {
    /// The end of the time for which the server is left alone.
    until: Instant,
    why: String,
}

/// Glance's database, open.
pub(crate) struct Database {
    link: Link,
    address: Address,
    patience: Patience,
    wait: Wait,
    /// The last attempt to replace a lost connection, if it failed.
    failed: Option<FailedReconnect>,
}

impl Database {
    /// Connects, within the patience given.
    pub(crate) fn open(
        address: Address,
        patience: Patience,
        purpose: Purpose,
        wait: &Wait,
    ) -> Result<Opening<Self>, Refusal> {
        let link = if address.dialect == Dialect::Sqlite {
            match File::open(Path::new(&address.database), purpose, wait).map_err(Refusal::Broken)? {
                Opening::Open(file) => Link::File(file),
                Opening::Nothing(path) => return Ok(Opening::Nothing(path)),
                Opening::Unreadable(why) => return Ok(Opening::Unreadable(why)),
            }
        } else {
            Link::Server(connect(&address, patience, wait)?)
        };
        let wait = wait.clone();
        Ok(Opening::Open(Database { link, address, patience, wait, failed: None }))
    }

    /// Returns the text that messages show: dialect, name and host, without user or password.
    pub(crate) fn shown(&self) -> String {
        self.address.to_string()
    }

    /// Returns the language of this database.
    pub(crate) fn dialect(&self) -> Dialect {
        self.address.dialect
    }

    /// Sets how long the statements that follow wait for others, and what ends the wait early.
    pub(crate) fn set_wait(&mut self, wait: &Wait) {
        self.wait = wait.clone();
    }

    /// Returns when a change that begins now is no longer tried again.
    pub(crate) fn deadline(&self) -> Instant {
        self.wait.deadline()
    }

    fn is_lost(&self) -> bool {
        matches!(&self.link, Link::Server(worker) if worker.is_lost())
    }

    /// Runs a query. Each `?` in it stands for one of the texts.
    pub(crate) fn query(&mut self, sql: &str, texts: &[&str]) -> Result<Vec<Vec<Cell>>, Refusal> {
        let found = match &mut self.link {
            Link::Server(worker) => worker.query(sql, texts),
            Link::File(file) => file.query(sql, texts, &self.wait),
        };
        found.map_err(|refusal| self.lost(refusal))
    }

    /// Runs a query outside a transaction, which pgbouncer allows in each of its modes. While another session
    /// has locked the table (an upgrade of the schema), MariaDB and MySQL are asked again as long as the wait
    /// allows. PostgreSQL itself waits, and so does the worker, for ten seconds.
    pub(crate) fn look(&mut self, sql: &str, texts: &[&str]) -> Result<Vec<Vec<Cell>>, Refusal> {
        let deadline = self.deadline();
        self.patiently(deadline, |database| database.query(sql, texts))
    }

    /// Repeats what a server refuses because of a lock, until the deadline.
    fn patiently<T>(
        &mut self,
        deadline: Instant,
        mut run: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        loop {
            match run(self) {
                Err(Refusal::Busy(_)) if self.wait.interrupt.raised() => return Err(Refusal::Interrupted),
                // A file has waited for its locks already.
                Err(Refusal::Busy(_)) if self.dialect() != Dialect::Sqlite && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        let changed = match &mut self.link {
            Link::Server(worker) => worker.execute(sql),
            Link::File(file) => file.execute(sql, &self.wait),
        };
        changed.map_err(|refusal| self.lost(refusal))
    }

    /// Commits the open transaction.
    pub(crate) fn commit(&mut self) -> Result<(), Refusal> {
        self.execute("COMMIT").map(drop).map_err(|refusal| match refusal {
            lost @ Refusal::Lost(_) => lost.after_unknown(),
            refusal => refusal,
        })
    }

    /// Marks a refusal that came with the end of the connection: the server itself did not refuse.
    fn lost(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Broken(e) if self.is_lost() => Refusal::Lost(e),
            refusal => refusal,
        }
    }

    /// Begins a transaction. A connection that was lost is replaced first, once. After an attempt that
    /// failed, the server is left alone for as long as that attempt took.
    pub(crate) fn begin(&mut self) -> Result<(), Refusal> {
        let begin = self.dialect().begin();
        match self.execute(begin) {
            Err(_) if self.is_lost() && !self.wait.interrupt.raised() => {
                self.reconnect()?;
                self.execute(begin)?;
            }
            result => drop(result?),
        }
        self.dialect().impatience().map_or(Ok(()), |sql| self.execute(sql).map(drop))
    }

    /// Replaces a lost connection, unless an attempt has just failed. A command that ends with its connection
    /// does not wait for a silent server a second time; one that owes rows, or runs for hours, finds a server
    /// that came back.
    fn reconnect(&mut self) -> Result<(), Refusal> {
        if let Some(failed) = self.failed.as_ref().filter(|failed| Instant::now() < failed.until) {
            return Err(Refusal::Lost(anyhow!("{}", failed.why)));
        }
        let started = Instant::now();
        match connect(&self.address, self.patience, &self.wait) {
            Ok(worker) => {
                (self.link, self.failed) = (Link::Server(worker), None);
                Ok(())
            }
            Err(Refusal::Interrupted) => Err(Refusal::Interrupted),
            Err(refusal) => {
                let (error, pause) = (refusal.into_error(), started.elapsed().max(SHORT));
                self.failed =
                    Some(FailedReconnect { until: Instant::now() + pause, why: format!("{error:#}") });
                Err(Refusal::Lost(error))
            }
        }
    }

    /// Rolls the open transaction back.
    pub(crate) fn rollback(&mut self) {
        if !self.is_lost() {
            // If this fails, the server rolls back when the connection ends.
            let _ = self.execute("ROLLBACK");
        }
    }

    /// Begins the open transaction again after a conflict with another process. Any other refusal, or a
    /// conflict after the deadline, is returned.
    pub(crate) fn start_again(
        &mut self,
        refusal: Refusal,
        deadline: Instant,
        what: &str,
    ) -> Result<(), Refusal> {
        match refusal {
            Refusal::Busy(_) if self.wait.interrupt.raised() => Err(Refusal::Interrupted),
            Refusal::Busy(_) if self.dialect() != Dialect::Sqlite && Instant::now() < deadline => {
                self.rollback();
                std::thread::sleep(PAUSE);
                self.begin()
            }
            refusal => Err(self.told(refusal, what)),
        }
    }

    /// Writes to the disk what the commit will need, so that it cannot fail for want of space.
    pub(crate) fn secure(&mut self) -> Result<(), Refusal> {
        match &mut self.link {
            Link::Server(_) => Ok(()),
            Link::File(file) => file.secure(),
        }
    }

    /// Returns the key of the node with this URL. The database compares the texts.
    pub(crate) fn node(&mut self, url: &str) -> Result<Option<i64>, Refusal> {
        let sql = "SELECT node_reference_id FROM node_reference WHERE node_reference_url = ?";
        let rows =
            self.look(sql, &[url]).map_err(|refusal| self.told(refusal, "cannot look for this node"))?;
        Ok(rows.first().map(|row| row[0].integer()))
    }

    /// Returns the URLs of all nodes.
    pub(crate) fn nodes(&mut self) -> Result<Vec<String>, Refusal> {
        let sql = "SELECT node_reference_url FROM node_reference ORDER BY node_reference_url";
        let rows = self.look(sql, &[]).map_err(|refusal| self.told(refusal, "cannot list the nodes"))?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).map(Cell::text).collect())
    }

    /// Adds to a refusal what was being done, and in which database.
    pub(crate) fn told(&self, refusal: Refusal, what: impl Display) -> Refusal {
        refusal.context(format!("{what} in the database ({})", self.address))
    }
}

/// Connects to a server, as often as the patience allows.
fn connect(address: &Address, patience: Patience, wait: &Wait) -> Result<Worker, Refusal> {
    let limit = address.connect_timeout.unwrap_or(patience.limit);
    let deadline = Instant::now() + limit;
    let shown = || format!("cannot connect to the database ({address})");
    let mut attempts = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let (to, name) = (address.clone(), address.to_string());
        let result = match address.dialect {
            Dialect::MySql => Worker::open(name, move || MySql::connect(&to, left), left, &wait.interrupt),
            _ => Worker::open(name, move || PostgreSql::connect(&to, left), left, &wait.interrupt),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let interval = match &result {
            // A server that is full for the moment is asked again even if oslo.db's pause does not fit.
            Err(Refusal::Busy(_)) if patience.interval >= left => SHORT.min(patience.interval),
            _ => patience.interval,
        };
        let again = patience.retries.is_none_or(|retries| attempts < retries) && interval < left;
        match result {
            // A network error may be over in a moment. If the server itself refused, it will refuse again.
            Err(Refusal::Busy(_) | Refusal::Lost(_)) if again => pause(interval, wait)?,
            result => return result.map_err(|refusal| refusal.context(shown())),
        }
        attempts += 1;
    }
}

/// Sleeps, unless a signal comes.
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

/// Writes keys as a list of numbers for a statement.
pub(crate) fn joined(keys: &[i64]) -> String {
    keys.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}
