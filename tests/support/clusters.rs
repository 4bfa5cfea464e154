//! Clusters of database servers, and what stands between them and a client: see `tests/peer/clusters.sh`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mysql::prelude::Queryable as _;
use rustix::process::{Pid, Signal, kill_process};

use super::central::{Central, NODE};
use super::env::*;
use super::needs;
use super::running::{Keep, Servers, signal};
use super::servers::{Database, Kind, MariaDb, PostgreSql};

/// The number of images that [`struck`] begins with, and how many it leaves.
const MANY: usize = 2500;
const FEW: usize = 10;

/// Returns how often a test whose result depends on chance is repeated.
pub(crate) fn rounds() -> usize {
    std::env::var("GLANCE_CACHE_TEST_ROUNDS").map_or(1, |text| text.parse().unwrap())
}

/// Three nodes of MariaDB with Galera. A cache's own database is on all of them.
pub(crate) struct Galera {
    servers: Servers,
}

/// The turn of one test with the cluster that all of them share.
pub(crate) struct Turn(MutexGuard<'static, Option<Galera>>);

impl Deref for Turn {
    type Target = Galera;

    fn deref(&self) -> &Galera {
        self.0.as_ref().unwrap()
    }
}

impl Galera {
    /// Waits for this test's turn with the cluster, which is whole then.
    pub(crate) fn whole() -> Turn {
        static SHARED: Mutex<Option<Galera>> = Mutex::new(None);
        needs::galera();
        // A test that failed may have left it in any state.
        let failed = SHARED.is_poisoned();
        let mut turn = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        SHARED.clear_poison();
        if failed {
            *turn = None;
        }
        turn.get_or_insert_with(|| Galera {
            servers: Servers::start(&mut Servers::script("clusters.sh", "galera"), 12, Keep::ForTheRun),
        });
        let turn = Turn(turn);
        turn.mend();
        turn
    }

    /// Makes an empty cache whose rows are in a new database of the cluster, reached through the first node.
    pub(crate) fn central(&self) -> Central {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Database::at(MariaDb, self.port(1), "glance").sql(&format!("CREATE DATABASE {name}"));
        let db = Database::at(MariaDb, self.port(1), &name);
        db.make_tables();
        Central::of(TestEnv::empty(Xattr), db, NODE)
    }

    /// Returns the port of a node, counted from 1.
    pub(crate) fn port(&self, node: usize) -> u16 {
        self.servers.ports[node - 1]
    }

    /// Runs a statement on a node, as an administrator.
    pub(crate) fn sql(&self, node: usize, sql: &str) {
        Database::at(MariaDb, self.port(node), "").mysql().query_drop(sql).unwrap();
    }

    /// Sends a signal to the server of a node.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        self.servers.signal(node, signal);
    }

    /// Starts a node again that is dead.
    pub(crate) fn start(&self, node: usize) {
        self.servers.ask(&format!("start {node}"));
    }

    /// Starts a node again that is dead, without anything: it takes all from the first one, which gives it.
    pub(crate) fn join(&self, node: usize) {
        self.servers.ask(&format!("join {node}"));
    }

    /// Returns a status of a node, if it answers.
    pub(crate) fn status(&self, node: usize, name: &str) -> Option<String> {
        let address = format!("mysql://g:s3cret@127.0.0.1:{}/", self.port(node));
        let limit = Some(Duration::from_secs(2));
        let options = mysql::OptsBuilder::from_opts(mysql::Opts::from_url(&address).unwrap())
            .prefer_socket(false)
            .tcp_connect_timeout(limit)
            .read_timeout(limit);
        let mut connection = mysql::Conn::new(options).ok()?;
        let row: (String, String) =
            connection.query_first(format!("SHOW STATUS LIKE '{name}'")).ok().flatten()?;
        Some(row.1)
    }

    fn is_synced(&self, node: usize) -> bool {
        self.status(node, "wsrep_local_state_comment").as_deref() == Some("Synced")
            && self.status(node, "wsrep_cluster_status").as_deref() == Some("Primary")
    }

    /// Starts whatever is dead, and waits for three nodes with the same rows.
    pub(crate) fn mend(&self) {
        for node in 1..=3 {
            if self.servers.is_dead(node) {
                self.start(node);
            }
        }
        for node in 1..=3 {
            until(&format!("node {node}"), || self.is_synced(node));
            until("all three nodes", || self.status(node, "wsrep_cluster_size").as_deref() == Some("3"));
        }
    }
}

/// A primary and a standby of PostgreSQL: each COMMIT waits for both.
pub(crate) struct Pair {
    servers: Servers,
}

impl Pair {
    pub(crate) fn start() -> Self {
        needs::postgresql();
        let pair = Pair {
            servers: Servers::start(&mut Servers::script("clusters.sh", "pair"), 2, Keep::ForTheTest),
        };
        until("the standby", || {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            pair.glance(1).rows(sql) == [["1"]]
        });
        pair.glance(1).make_tables();
        pair
    }

    /// Returns the database on the primary, 1, or on the standby, 2.
    pub(crate) fn glance(&self, server: usize) -> Database {
        Database::at(PostgreSql, self.servers.ports[server - 1], "glance")
    }

    /// Makes an empty cache whose rows are on the primary.
    pub(crate) fn central(&self) -> Central {
        Central::of(TestEnv::empty(Xattr), self.glance(1), NODE)
    }

    /// Sends a signal to a server with all its processes.
    pub(crate) fn signal(&self, server: usize, wanted: Signal) {
        let pid = self.servers.pid(server);
        let all = children(pid.parse().unwrap());
        self.servers.signal(server, wanted);
        for child in all {
            // Some end with their parent.
            let _ = kill_process(Pid::from_raw(child.cast_signed()).unwrap(), wanted);
        }
    }

    /// Starts a server again that is dead.
    pub(crate) fn restart(&self, server: usize) {
        self.servers.ask(&format!("start {server}"));
    }
}

/// `HAProxy` before servers that are listed as "s1", "s2" and so on, in one backend "db".
pub(crate) struct HaProxy {
    servers: Servers,
}

impl HaProxy {
    /// Starts one. `idle` is how long a connection may say nothing. `balance` is how servers are chosen:
    /// "roundrobin", or "backup" for the first one that is up.
    pub(crate) fn start(ports: &[u16], idle: &str, balance: &str) -> Self {
        needs::haproxy();
        let servers = Servers::prepared(
            &mut Servers::script("clusters.sh", "haproxy"),
            1,
            Keep::ForTheTest,
            |dir, own| {
                let mut text = format!(
                    "global\n  stats socket {}/admin mode 600 level admin\ndefaults\n  mode tcp\n  timeout \
                     connect 2s\n  timeout client {idle}\n  timeout server {idle}\nlisten db\n  bind \
                     127.0.0.1:{}\n",
                    dir.display(),
                    own[0]
                );
                if balance != "backup" {
                    writeln!(text, "  balance {balance}").unwrap();
                }
                for (n, port) in ports.iter().enumerate() {
                    let backup = if n > 0 && balance == "backup" { " backup" } else { "" };
                    let check = "check inter 100ms fall 2 rise 2 on-marked-down shutdown-sessions";
                    writeln!(text, "  server s{} 127.0.0.1:{port} {check}{backup}", n + 1).unwrap();
                }
                fs::write(dir.join("haproxy.cfg"), text).unwrap();
            },
        );
        HaProxy { servers }
    }

    /// Returns a database behind it.
    pub(crate) fn before(&self, database: &Database) -> Database {
        Database::at(database.kind, self.servers.ports[0], &database.name)
    }

    /// Gives an order, such as "set server db/s1 state drain".
    pub(crate) fn order(&self, order: &str) {
        let mut socket = UnixStream::connect(self.servers.dir.join("admin")).unwrap();
        socket.write_all(format!("{order}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.trim(), "", "{order}");
    }
}

/// pgbouncer before the PostgreSQL server of the tests.
pub(crate) struct PgBouncer {
    servers: Servers,
    behind: u16,
}

impl PgBouncer {
    /// Starts one with this pool mode, and more settings.
    pub(crate) fn start(behind: &Database, mode: &str, settings: &str) -> Self {
        needs::pgbouncer();
        let port = behind.port();
        let servers = Servers::prepared(
            &mut Servers::script("clusters.sh", "pgbouncer"),
            1,
            Keep::ForTheTest,
            |dir, own| {
                fs::write(dir.join("users"), "\"g\" \"s3cret\"\n").unwrap();
                let text = format!(
                    "[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = \
                     127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = \
                     {}/users\nadmin_users = g\npool_mode = {mode}\ndefault_pool_size = 2\n{settings}\n",
                    own[0],
                    dir.display()
                );
                fs::write(dir.join("pgbouncer.ini"), text).unwrap();
            },
        );
        PgBouncer { servers, behind: port }
    }

    /// Returns a database behind it.
    pub(crate) fn before(&self, database: &Database) -> Database {
        assert_eq!(database.port(), self.behind);
        Database::at(PostgreSql, self.servers.ports[0], &database.name)
    }

    /// Gives an order, such as "KILL glance".
    pub(crate) fn order(&self, order: &str) {
        Database::at(PostgreSql, self.servers.ports[0], "pgbouncer")
            .postgresql()
            .simple_query(order)
            .unwrap_or_else(|error| panic!("{order}: {error}"));
    }

    /// Ends it at once.
    pub(crate) fn crash(&self) {
        self.servers.signal(1, Signal::KILL);
    }

    /// Starts it again.
    pub(crate) fn restart(&self) {
        self.servers.ask("start 1");
    }
}

impl Servers {
    /// Sends a signal to one of the servers, counted from 1.
    fn signal(&self, server: usize, wanted: Signal) {
        signal(wanted, &self.pid(server));
    }

    fn pid(&self, server: usize) -> String {
        fs::read_to_string(self.dir.join(format!("{server}.pid"))).unwrap().trim().into()
    }

    fn is_dead(&self, server: usize) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.pid(server)))
            .map_or(true, |status| status.contains("State:\tZ"))
    }
}

/// The files and the rows of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) files: usize,
    pub(crate) rows: usize,
    /// Files without a row.
    pub(crate) orphans: usize,
    /// Rows without a file.
    pub(crate) ghosts: usize,
}

impl Count {
    pub(crate) fn of(c: &Central) -> Self {
        let rows: BTreeSet<String> = c.ids().into_iter().collect();
        let files = Self::files(c);
        Count {
            files: files.len(),
            rows: rows.len(),
            orphans: files.difference(&rows).count(),
            ghosts: rows.difference(&files).count(),
        }
    }

    fn files(c: &Central) -> BTreeSet<String> {
        c.env.names("").into_iter().filter(|name| name.len() == 36).collect()
    }

    /// Returns the count where every row has its file, and every file its row.
    pub(crate) fn equal(count: usize) -> Self {
        Count { files: count, rows: count, orphans: 0, ghosts: 0 }
    }
}

/// Starts a command with this database.
pub(crate) fn start_through(c: &Central, through: &Database, arguments: &[&str]) -> Running {
    let conf = c.conf_with(&through.url, c.node, "");
    let mut command = c.env.command(BINARY);
    command.args(&arguments[..1]).args(["--config-file", &conf]).args(&arguments[1..]);
    Running::start(&mut command, &c.env.outside(""))
}

/// Runs a command with this database.
#[must_use = "check the exit code: ok(), code(), fails()"]
pub(crate) fn run_through(c: &Central, through: &Database, arguments: &[&str]) -> Run {
    start_through(c, through, arguments).wait()
}

/// Prunes many images to a few through a database. Harm is done as soon as the first file is removed.
///
/// Whatever it is, the run ends in time, or does not begin; no file loses its row without being removed, at most half of the
/// rows are left without files, and the report is true.
pub(crate) fn struck(c: &Central, through: &Database, harm: impl FnOnce()) -> Run {
    c.large(MANY);
    let mut run = start_through(c, through, &["prune", "--max-size", "10B", "--lock-timeout", "8s"]);
    // Of those in use, each may stay.
    let is_begun = || (0..1000).step_by(50).any(|n| !c.env.path(nth_id(n)).exists());
    until("the first file to be removed", || is_begun() || run.child.try_wait().unwrap().is_some());
    harm();
    let run = run.wait();
    let files = Count::files(c).len();
    println!("exit {} after {:.1} s, {files} files left; {}", run.code, run.took.as_secs_f64(), said(&run));
    if run.code == 3 {
        assert_eq!(files, MANY, "{run:?}");
        return run;
    }
    assert!(run.code == 1 || (run.code == 0 && files == FEW), "{run:?}");
    assert!(run.took < Duration::from_secs(40), "{:?}", run.took);
    assert_eq!(run.json()["total_files_pruned"], MANY - files, "{run:?}");
    run
}

/// Returns the errors that a run reported.
pub(crate) fn said(run: &Run) -> String {
    run.stderr.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>().join("; ")
}

/// Asserts what [`struck`] left, and that the next run mends it: it prunes to the same few.
pub(crate) fn mended(c: &Central) {
    let left = Count::of(c);
    let next = run_through(c, &c.db, &["prune", "--max-size", "10B", "--lock-timeout", "8s"]).ok();
    println!("{left:?}; the next run: exit {}, {:?}", next.code, Count::of(c));
    assert_eq!(left.orphans, 0, "{left:?}");
    assert!(left.ghosts * 2 <= MANY, "{left:?}");
    assert_eq!(next.json()["ghosts_forgotten"], left.ghosts);
    assert_eq!(Count::of(c), Count::equal(FEW));
    run_through(c, &c.db, &["prune", "--max-size", "10B"])
        .ok()
        .has(&serde_json::json!({"total_files_pruned": 0}));
}

/// Asserts that a run through this database ends with 3 before anything is changed, and says this.
pub(crate) fn cannot_start(c: &Central, through: &Database, says: &str) {
    let before = Count::files(c).len();
    let run =
        run_through(c, through, &["prune", "--max-size", "0", "--lock-timeout", "2s"]).fails(3, &[says]);
    println!("exit 3 after {:.1} s: {}", run.took.as_secs_f64(), said(&run));
    assert!(run.took < Duration::from_secs(15), "{:?}", run.took);
    assert_eq!(Count::files(c).len(), before);
}

/// Uses rows in random order, as fast as it can, until it is dropped.
pub(crate) struct Writer {
    end: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, u64)>>,
}

impl Writer {
    /// Starts one that uses the images with the numbers up to `count`, through this database.
    pub(crate) fn start(database: &Database, count: usize) -> Self {
        let end = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (stop, database) = (std::sync::Arc::clone(&end), database.clone());
        let thread = std::thread::spawn(move || {
            let mut connection = database.mysql();
            let (mut done, mut refused, mut n) = (0, 0, 12_345_usize);
            while !stop.load(Ordering::Relaxed) {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let sql = format!(
                    "UPDATE cached_images SET hits = hits + 1, last_accessed = UTC_TIMESTAMP() WHERE image_id \
                     = '{}'",
                    nth_id((n >> 33) % count)
                );
                // A conflict with a prune is Glance's to repeat.
                if connection.query_drop(sql).is_ok() { done += 1 } else { refused += 1 }
            }
            (done, refused)
        });
        Writer { end, thread: Some(thread) }
    }

    /// Stops it, and returns how many writes were done, and how many were refused.
    pub(crate) fn stop(mut self) -> (u64, u64) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Returns the kinds of servers that `HAProxy` is tried before.
pub(crate) const SERVERS: [Kind; 2] = [MariaDb, PostgreSql];
