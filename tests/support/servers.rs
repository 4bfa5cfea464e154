//! Databases of Glance: on private MariaDB and PostgreSQL servers, and in SQLite files.
//!
//! One server of each kind serves all tests of a run; every test has databases of its own there.
//! `tests/peer/database.sh` runs a server and stops it when this process ends. Each database has the tables
//! of `tests/support/schema`, which are Glance's: the tests in `tests/peer/schema.rs` compare the two.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use mysql::prelude::Queryable as _;
use rustix::process::Signal;
use tempfile::TempDir;

use super::needs;
use super::peer::script;
use super::running::{free_port, signal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    MariaDb,
    PostgreSql,
    SqliteFile,
}

pub(crate) use Kind::{MariaDb, PostgreSql, SqliteFile};

impl Kind {
    /// Asks for the server of this kind.
    #[track_caller]
    fn ask(self) {
        match self {
            MariaDb => needs::mariadb(),
            PostgreSql => needs::postgresql(),
            SqliteFile => {}
        }
    }

    /// Returns the SQL that makes Glance's tables.
    pub(crate) fn schema(self) -> &'static str {
        match self {
            MariaDb => include_str!("schema/mariadb.sql"),
            PostgreSql => include_str!("schema/postgresql.sql"),
            SqliteFile => include_str!("schema/sqlite.sql"),
        }
    }

    /// Returns the statement that begins a transaction.
    pub(crate) fn begin(self) -> &'static str {
        if self == MariaDb { "START TRANSACTION" } else { "BEGIN" }
    }
}

/// A server under way; ended when dropped, or with the process.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    dir: PathBuf,
    /// `None` for the servers that last as long as the process.
    _scratch: Option<TempDir>,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Server {
    /// Starts a server that only the caller has.
    pub(crate) fn private(kind: Kind) -> Self {
        Self::start(kind, "keep")
    }

    fn start(kind: Kind, after: &str) -> Self {
        kind.ask();
        let scratch = tempfile::Builder::new().prefix("gct-db-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let port = free_port();
        let dir = scratch.path().to_owned();
        let (child, stdin) = run(kind, &dir, port, after);
        let server = Server { kind, port, dir, _scratch: Some(scratch), child, stdin: Some(stdin) };
        Database::on(&server, "glance").make_tables();
        server
    }

    /// Returns the one that all tests share.
    fn shared(kind: Kind) -> &'static Server {
        static SERVERS: [OnceLock<Server>; 2] = [OnceLock::new(), OnceLock::new()];
        kind.ask();
        SERVERS[usize::from(kind == PostgreSql)].get_or_init(|| Server::start(kind, "remove"))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().into()
    }

    /// Makes it present another certificate, which is in its directory.
    pub(crate) fn present(&self, certificate: &str) {
        fs::copy(self.dir.join(certificate), self.dir.join("server.pem")).unwrap();
        if self.kind == MariaDb {
            let mut session = Session::open(&Database::on(self, "glance"));
            // The second is MySQL's word for it.
            session.try_sql("FLUSH SSL").or_else(|_| session.try_sql("ALTER INSTANCE RELOAD TLS")).unwrap();
        } else {
            self.signal(Signal::HUP);
        }
    }

    /// Sends a signal to the server process.
    pub(crate) fn signal(&self, signal: Signal) {
        self::signal(signal, &fs::read_to_string(self.dir.join("pid")).unwrap());
    }

    /// Stops the server as an operator does, without waiting for its clients.
    pub(crate) fn stop(&self) {
        self.signal(if self.kind == MariaDb { Signal::TERM } else { Signal::INT });
    }

    /// Ends the server as a crash does.
    pub(crate) fn crash(&self) {
        self.signal(if self.kind == MariaDb { Signal::KILL } else { Signal::QUIT });
    }

    /// Starts it again after a crash.
    pub(crate) fn restart(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
        let _ = fs::remove_file(self.dir.join("data/postmaster.pid"));
        let (child, stdin) = run(self.kind, &self.dir, self.port, "keep");
        (self.child, self.stdin) = (child, Some(stdin));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn run(kind: Kind, dir: &Path, port: u16, after: &str) -> (Child, ChildStdin) {
    let name = if kind == MariaDb { "mariadb" } else { "postgresql" };
    let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/database.sh"))
        .arg(name)
        .arg(dir)
        .arg(port.to_string())
        .arg(after)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{name} did not start: see {}", dir.display());
    (child, stdin)
}

/// Lets the real Glance make its tables.
fn db_sync(url: &str) {
    let conf = tempfile::NamedTempFile::new().unwrap();
    fs::write(conf.path(), format!("[database]\nconnection = {url}\n")).unwrap();
    let made = Command::new(script("glance-manage"))
        .arg("--config-file")
        .arg(conf.path())
        .arg("db_sync")
        .output()
        .unwrap();
    assert!(made.status.success(), "glance-manage db_sync: {}", String::from_utf8_lossy(&made.stderr));
}

/// An empty database with Glance's tables, of one test.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    port: u16,
    /// The database's name, or its file.
    pub(crate) name: String,
}

impl Database {
    /// Makes a new one; an SQLite file is put at `file`.
    pub(crate) fn new(kind: Kind, file: &Path) -> Self {
        if kind == SqliteFile {
            static EMPTY: OnceLock<TempDir> = OnceLock::new();
            let make = |file: &Path| Self::file(file).make_tables();
            return Self::copy(&EMPTY, file, make);
        }
        let database = Self::bare(kind);
        database.make_tables();
        database
    }

    /// Makes a new one on the shared server, without tables.
    pub(crate) fn bare(kind: Kind) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let server = Server::shared(kind);
        let first = if kind == MariaDb { "glance" } else { "postgres" };
        Self::on(server, first).sql(&format!("CREATE DATABASE {name}"));
        Self::on(server, &name)
    }

    /// Makes a new one with all tables that the real Glance makes.
    pub(crate) fn whole(kind: Kind, file: &Path) -> Self {
        if kind == SqliteFile {
            static EMPTY: OnceLock<TempDir> = OnceLock::new();
            needs::glance();
            return Self::copy(&EMPTY, file, |file| db_sync(&Self::file(file).url));
        }
        let database = Self::bare(kind);
        db_sync(&database.url);
        database
    }

    /// Returns the database in an SQLite file.
    fn file(file: &Path) -> Self {
        let name = file.display().to_string();
        Database { kind: SqliteFile, url: format!("sqlite:///{name}"), port: 0, name }
    }

    /// Makes a copy at `file` of what is made once.
    fn copy(made: &OnceLock<TempDir>, file: &Path, make_it: impl Fn(&Path)) -> Self {
        let made = made.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            make_it(&dir.path().join("empty"));
            dir
        });
        fs::copy(made.path().join("empty"), file).unwrap();
        Self::file(file)
    }

    /// Makes the tables of Glance that concern us.
    pub(crate) fn make_tables(&self) {
        for statement in self.kind.schema().split(";\n").filter(|statement| !statement.trim().is_empty()) {
            self.sql(statement);
        }
    }

    /// Returns a database of a server.
    pub(crate) fn on(server: &Server, name: &str) -> Self {
        Self::at(server.kind, server.port, name)
    }

    /// Returns the database at a port, with the URL as deployments write it.
    pub(crate) fn at(kind: Kind, port: u16, name: &str) -> Self {
        let dialect = if kind == MariaDb { "mysql+pymysql" } else { "postgresql+psycopg2" };
        let url = format!("{dialect}://g:s3cret@127.0.0.1:{port}/{name}");
        Database { kind, url, port, name: name.into() }
    }

    /// True if the server is MySQL, not MariaDB.
    pub(crate) fn is_mysql(&self) -> bool {
        self.kind == MariaDb && !self.rows("SELECT version()")[0][0].contains("MariaDB")
    }

    /// Returns a path in the directory of the shared server.
    pub(crate) fn server_file(&self, name: &str) -> String {
        Server::shared(self.kind).path(name)
    }

    /// Returns the server's port, or 0.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn mysql(&self) -> mysql::Conn {
        let url = format!("mysql://g:s3cret@127.0.0.1:{}/{}?prefer_socket=false", self.port, self.name);
        mysql::Conn::new(url.as_str()).unwrap()
    }

    pub(crate) fn postgresql(&self) -> postgres::Client {
        let options =
            format!("host=127.0.0.1 port={} user=g password=s3cret dbname={}", self.port, self.name);
        postgres::Client::connect(&options, postgres::NoTls).unwrap()
    }

    pub(crate) fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.name).unwrap()
    }

    /// Ends the connections that others have to it.
    pub(crate) fn cut_others(&self) {
        match self.kind {
            MariaDb => {
                let mut own = self.mysql();
                let sql = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> \
                           CONNECTION_ID()";
                let others: Vec<u64> = own.query(sql).unwrap();
                // One may have gone by itself.
                for id in others {
                    drop(own.query_drop(format!("KILL {id}")));
                }
            }
            PostgreSql => self.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            ),
            SqliteFile => {}
        }
    }

    /// Runs statements.
    pub(crate) fn sql(&self, sql: &str) {
        Session::open(self).sql(sql);
    }

    /// Runs a query; every value as text.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        match self.kind {
            MariaDb => {
                let rows: Vec<mysql::Row> = self.mysql().query(sql).unwrap();
                rows.into_iter()
                    .map(|row| {
                        row.unwrap().into_iter().map(|v| v.as_sql(true).trim_matches('\'').into()).collect()
                    })
                    .collect()
            }
            PostgreSql => {
                let rows = self.postgresql().simple_query(sql).unwrap();
                rows.iter()
                    .filter_map(|message| match message {
                        postgres::SimpleQueryMessage::Row(row) => {
                            Some((0..row.len()).map(|n| row.get(n).unwrap_or("NULL").into()).collect())
                        }
                        _ => None,
                    })
                    .collect()
            }
            SqliteFile => {
                let db = self.sqlite();
                let mut statement = db.prepare(sql).unwrap();
                let count = statement.column_count();
                let rows = statement.query_map([], |row| {
                    (0..count)
                        .map(|n| {
                            Ok(match row.get_ref(n)? {
                                rusqlite::types::ValueRef::Null => "NULL".into(),
                                rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                                rusqlite::types::ValueRef::Real(f) => f.to_string(),
                                rusqlite::types::ValueRef::Text(t) | rusqlite::types::ValueRef::Blob(t) => {
                                    String::from_utf8_lossy(t).into_owned()
                                }
                            })
                        })
                        .collect()
                });
                rows.unwrap().map(Result::unwrap).collect()
            }
        }
    }
}

/// A connection that stays, as Glance's own would.
pub(crate) enum Session {
    MySql(mysql::Conn),
    PostgreSql(postgres::Client),
    Sqlite(rusqlite::Connection),
}

impl Session {
    pub(crate) fn open(database: &Database) -> Self {
        match database.kind {
            MariaDb => Session::MySql(database.mysql()),
            PostgreSql => Session::PostgreSql(database.postgresql()),
            SqliteFile => Session::Sqlite(database.sqlite()),
        }
    }

    pub(crate) fn sql(&mut self, sql: &str) {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs a statement that may be refused.
    pub(crate) fn try_sql(&mut self, sql: &str) -> Result<(), String> {
        match self {
            Session::MySql(connection) => connection.query_drop(sql).map_err(|error| error.to_string()),
            Session::PostgreSql(client) => client.batch_execute(sql).map_err(|error| error.to_string()),
            Session::Sqlite(connection) => connection.execute_batch(sql).map_err(|error| error.to_string()),
        }
    }
}
