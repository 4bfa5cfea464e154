//! Glance's database: a connection to a server or an open file, and what is asked of it.
//!
//! Nothing here knows of cache directories or of what is done with an answer.

mod cell;
mod dialect;
mod file;
mod mysql;
mod postgres;
mod worker;

pub(crate) mod images;
pub(crate) mod nodes;
pub(crate) mod sqlite;
pub(crate) mod url;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use self::cell::{Cell, naive};
pub(crate) use self::dialect::Dialect;
use self::file::File;
use self::mysql::MySql;
use self::postgres::PostgreSql;
use self::url::Address;
use self::worker::Worker;
use crate::interrupt::Wait;

/// Rows read at a time.
pub(crate) const PAGE: usize = 20_000;

/// Keys or rows in one statement: above a thousand MariaDB turns the list into a join.
pub(crate) const CHUNK: usize = 500;

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

/// A connection to a server, or an open file.
enum Link {
    Server(Worker),
    File(File),
}

/// Glance's database, open.
pub(crate) struct Database {
    link: Link,
    address: Address,
    patience: Patience,
    pub(crate) wait: Wait,
    /// When a lost connection could not be made anew.
    given_up: Option<Instant>,
}

/// What came of opening a database.
#[derive(Debug)]
pub(crate) enum Opening<T> {
    Open(T),
    /// A file that is not there, or has no tables.
    Nothing(PathBuf),
    /// A file that cannot be read without writing; the text says why.
    Unreadable(String),
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
        Ok(Opening::Open(Database { link, address, patience, wait, given_up: None }))
    }

    /// What messages call it.
    pub(crate) fn shown(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.address.dialect
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(&self.link, Link::Server(worker) if worker.is_lost())
    }

    /// Runs a query; each `?` in it is one of the texts.
    pub(crate) fn query(&mut self, sql: &str, texts: &[&str]) -> Result<Vec<Vec<Cell>>, Refusal> {
        match &mut self.link {
            Link::Server(worker) => worker.query(sql, texts),
            Link::File(file) => file.query(sql, texts, &self.wait),
        }
    }

    pub(crate) fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        match &mut self.link {
            Link::Server(worker) => worker.execute(sql),
            Link::File(file) => file.execute(sql, &self.wait),
        }
    }

    pub(crate) fn begin(&mut self) -> Result<(), Refusal> {
        let begin = self.dialect().begin();
        match self.execute(begin) {
            Err(_) if self.is_lost() && self.may_reconnect() => {
                let link = connect(&self.address, self.patience, &self.wait);
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

    pub(crate) fn rollback(&mut self) {
        if !self.is_lost() {
            // What cannot be rolled back now, the server rolls back when the connection ends.
            let _ = self.execute("ROLLBACK");
        }
    }

    /// After a conflict with somebody else: begins the open transaction again, or says why not.
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

    /// Puts on disk what the commit will need.
    pub(crate) fn secure(&mut self) -> Result<(), Refusal> {
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

    pub(crate) fn told(&self, refusal: Refusal, what: impl Display) -> Refusal {
        refusal.context(format!("{what} in the database ({})", self.address))
    }
}

/// Whether a refusal means that the database is not Glance's, or older than the central index.
pub(crate) fn is_missing_table(refusal: &Refusal) -> bool {
    let Refusal::Broken(error) = refusal else { return false };
    let text = format!("{error:#}");
    ["error 1146:", "error 42P01:", "no such table"].iter().any(|sign| text.contains(sign))
}

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

pub(crate) fn joined(keys: &[i64]) -> String {
    keys.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// Why an index did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Somebody else held it for as long as we were ready to wait.
    Busy(anyhow::Error),
    /// The disk is full: there is no room for the journal.
    Full(anyhow::Error),
    /// A signal came while waiting.
    Interrupted,
    /// It was opened for looking, and would have to be written before it could be read.
    NeedsWrite(anyhow::Error),
    /// It cannot be opened, read or written.
    Broken(anyhow::Error),
}

impl Refusal {
    /// Adds what was being done.
    pub(crate) fn context(self, what: String) -> Self {
        match self {
            Refusal::Busy(e) => Refusal::Busy(e.context(what)),
            Refusal::Full(e) => Refusal::Full(e.context(what)),
            Refusal::NeedsWrite(e) => Refusal::NeedsWrite(e.context(what)),
            Refusal::Broken(e) => Refusal::Broken(e.context(what)),
            Refusal::Interrupted => Refusal::Interrupted,
        }
    }

    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Refusal::Busy(e) | Refusal::Full(e) | Refusal::NeedsWrite(e) | Refusal::Broken(e) => e,
            Refusal::Interrupted => anyhow::anyhow!("stopped by a signal"),
        }
    }
}

/// What an index is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Nothing is written, not even to recover.
    Look,
    Change,
    /// As `Change`, and the table is made when it is missing.
    Create,
}
