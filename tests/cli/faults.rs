//! Faults: every system call of a command that can fail is failed, one at a time, in every way that makes sense, and the
//! process is killed at every one that reaches outside of it. A call that is in neither list here fails the sweep.
//!
//! What must hold after each, whatever the fault: no panic; an exit code of the contract, and 0 only when the same was done as
//! without a fault; one JSON object that names as many files as are gone or fetched, and errors where the code is 1; nothing
//! changed where the code says so; nothing new but lock files, an abandoned journal and a prefetch's images and claims, all of it
//! the cache owner's; nothing outside touched. No damaged image is ever in the cache, and one that is to be fetched is in the
//! cache or in the queue. The next plain run ends with 0 and leaves no row without a file and no orphan that was not there
//! before; a prefetch then has all images and nothing staged. Glance's own driver goes on with every state of the cache that a
//! fault left.
//!
//! Each call of each thread is reached, though strace counts the calls of every thread for itself: see `tests/peer/shift.c`.
//! `prefetch` runs with one image at a time, so that threads come in the same order each time; root gives each run a PID
//! namespace of its own, where /proc shows nothing else.
//!
//! `scenarios` is the table of what is swept: a command on a small cache. Each sweep tries [`SAMPLE`] faults, spread evenly;
//! with `GLANCE_CACHE_TEST_FAULTS=all` it tries all of them, which takes long, and with names of calls those of these calls.
//! Totals go past the test harness to stderr.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::env::*;
use crate::peer::Peer;
use crate::prefetch::{Prefetch, content};
use crate::servers::{Database, Kind};
use crate::stores::Nginx;

/// How many faults a sweep tries unless told to try all.
const SAMPLE: usize = 48;
const NODE: &str = "http://n1.example:9292";
/// Whom the caches belong to when root runs the sweep.
const OWNER: u32 = 65534;

/// How calls fail. Not `brk`, which tells its failure otherwise than strace can.
const ERRORS: &[(&str, &[&str])] = &[
    ("open", &["EIO", "EACCES", "EMFILE", "EINTR"]),
    ("openat", &["EIO", "EACCES", "EMFILE", "EINTR"]),
    ("stat", &["EIO", "EACCES"]),
    ("lstat", &["EIO", "EACCES"]),
    ("fstat", &["EIO"]),
    ("newfstatat", &["EIO", "EACCES"]),
    ("statx", &["EIO", "EACCES"]),
    ("access", &["EIO", "EACCES"]),
    ("statfs", &["EIO", "EINTR"]),
    ("fstatfs", &["EIO", "EINTR"]),
    ("getdents64", &["EIO", "EACCES"]),
    ("readlink", &["EIO", "EACCES"]),
    ("readlinkat", &["EIO", "EACCES"]),
    ("getcwd", &["EACCES", "ENOENT"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("lseek", &["EIO"]),
    ("write", &["EIO", "ENOSPC", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EINTR"]),
    ("ftruncate", &["EIO", "ENOSPC", "EINTR"]),
    ("fallocate", &["EIO", "ENOSPC", "EINTR"]),
    ("copy_file_range", &["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EXDEV", "EOPNOTSUPP", "EINTR"]),
    ("ioctl", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fcntl", &["EIO", "EACCES", "EAGAIN", "ENOLCK", "EINTR"]),
    ("flock", &["EIO", "EAGAIN", "ENOLCK", "EINTR"]),
    ("mmap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("mremap", &["ENOMEM"]),
    ("unlink", &["EIO", "EACCES", "EROFS", "EBUSY"]),
    ("unlinkat", &["EIO", "EACCES", "EROFS", "EBUSY"]),
    ("rename", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("renameat", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("renameat2", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("linkat", &["EIO", "EACCES", "ENOSPC", "EMLINK"]),
    ("mkdirat", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("fchown", &["EIO", "EPERM"]),
    ("fchmod", &["EIO", "EPERM"]),
    ("utimensat", &["EIO", "EPERM"]),
    ("setxattr", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("fsetxattr", &["EIO", "ENOSPC", "EOPNOTSUPP"]),
    ("getxattr", &["EIO", "EACCES", "EOPNOTSUPP"]),
    ("lgetxattr", &["EIO", "EACCES", "EOPNOTSUPP"]),
    ("fgetxattr", &["EIO", "EACCES", "EOPNOTSUPP"]),
    ("setgroups", &["EPERM"]),
    ("rt_sigaction", &["EINVAL"]),
    ("close", &["EIO", "EINTR"]),
    ("clone", &["EAGAIN"]),
    ("clone3", &["EAGAIN"]),
    ("socket", &["EMFILE", "EACCES"]),
    ("connect", &["ECONNREFUSED", "ETIMEDOUT", "EINTR"]),
    ("getsockopt", &["ENOBUFS"]),
    ("setsockopt", &["ENOBUFS"]),
    ("sendto", &["ECONNRESET", "EPIPE", "EINTR"]),
    ("writev", &["ECONNRESET", "EPIPE", "EINTR"]),
    ("recvfrom", &["ECONNRESET", "EINTR"]),
    ("shutdown", &["ENOTCONN"]),
    ("poll", &["ENOMEM", "EINTR"]),
    ("epoll_create1", &["EMFILE"]),
    ("epoll_ctl", &["ENOMEM"]),
    ("epoll_wait", &["EINTR"]),
    ("eventfd2", &["EMFILE"]),
    ("getrandom", &["EINTR"]),
];
/// Calls that cannot fail, or whose failing means nothing.
#[rustfmt::skip]
const NEVER_FAIL: &[&str] = &[
    "brk", "exit", "exit_group", "futex", "geteuid", "getpid", "gettid", "madvise", "munmap", "prctl", "rseq", "rt_sigprocmask",
    "sched_getaffinity", "set_robust_list", "setfsgid", "setfsuid", "sigaltstack",
];
/// Further ways for calls that would make or write something.
const WRITING: &[&str] = &["ENOSPC", "EROFS", "EDQUOT"];

/// Where the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Sqlite,
    Xattr,
    /// The central database.
    Central(Kind),
}

impl Rows {
    fn driver(self) -> &'static str {
        match self {
            Rows::Sqlite => "sqlite",
            Rows::Xattr => "xattr",
            Rows::Central(_) => "centralized_db",
        }
    }

    /// Whether the rows are with a server, and not below the swept directory.
    fn are_served(self) -> bool {
        matches!(self, Rows::Central(Kind::MariaDb | Kind::PostgreSql))
    }
}

/// What a prefetch is to bring: the letters of the ids, and bytes.
const WANTED: [(char, usize); 3] = [('1', 700_000), ('2', 5000), ('3', 17)];

/// A command on a small cache.
struct Scenario {
    name: &'static str,
    rows: Rows,
    /// What comes before and after the options that say which cache.
    command: &'static str,
    arguments: &'static [&'static str],
    /// Whether the command leaves rows and files in agreement.
    mends: bool,
    /// Whether the cache is one of several on a file system of its own.
    host: bool,
    /// Whether images come over http.
    web: bool,
}

const PLAIN: Scenario = Scenario {
    name: "",
    rows: Rows::Sqlite,
    command: "",
    arguments: &[],
    mends: false,
    host: false,
    web: false,
};

/// The table: a new command is a line here and a test below.
mod scenarios {
    use super::*;

    const LIMIT: &[&str] = &["--max-size", "3000", "--min-free", "1KiB", "--lock-timeout", "2s"];

    pub(super) const CLEAN: Scenario = Scenario { name: "clean", command: "clean", ..PLAIN };
    pub(super) const PRUNE_SQLITE: Scenario =
        Scenario { name: "prune, sqlite", command: "prune", arguments: LIMIT, mends: true, ..PLAIN };
    pub(super) const PRUNE_XATTR: Scenario =
        Scenario { name: "prune, xattr", rows: Rows::Xattr, ..PRUNE_SQLITE };
    pub(super) const PRUNE_CENTRAL: Scenario =
        Scenario { name: "prune, centralized_db", rows: Rows::Central(Kind::SqliteFile), ..PRUNE_SQLITE };
    pub(super) const PRUNE_MARIADB: Scenario = Scenario {
        name: "prune, centralized_db on MariaDB",
        rows: Rows::Central(Kind::MariaDb),
        ..PRUNE_SQLITE
    };
    pub(super) const PRUNE_POSTGRESQL: Scenario = Scenario {
        name: "prune, centralized_db on PostgreSQL",
        rows: Rows::Central(Kind::PostgreSql),
        ..PRUNE_SQLITE
    };
    pub(super) const REPAIR_SQLITE: Scenario = Scenario {
        name: "clean --repair, sqlite",
        command: "clean",
        arguments: &["--repair", "--lock-timeout", "2s"],
        mends: true,
        ..PLAIN
    };
    pub(super) const REPAIR_CENTRAL: Scenario = Scenario {
        name: "clean --repair, centralized_db",
        rows: Rows::Central(Kind::SqliteFile),
        ..REPAIR_SQLITE
    };
    pub(super) const PREFETCH_SQLITE: Scenario = Scenario {
        name: "prefetch, sqlite",
        command: "prefetch",
        arguments: &["-j", "1", "--lock-timeout", "2s"],
        ..PLAIN
    };
    pub(super) const PREFETCH_XATTR: Scenario =
        Scenario { name: "prefetch, xattr", rows: Rows::Xattr, ..PREFETCH_SQLITE };
    pub(super) const PREFETCH_CENTRAL: Scenario = Scenario {
        name: "prefetch, centralized_db",
        rows: Rows::Central(Kind::SqliteFile),
        ..PREFETCH_SQLITE
    };
    pub(super) const PREFETCH_HTTP: Scenario =
        Scenario { name: "prefetch over http, sqlite", web: true, ..PREFETCH_SQLITE };
    pub(super) const REQUIRE: Scenario =
        Scenario { name: "prune --require", command: "prune", host: true, mends: false, ..PLAIN };
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn clean() {
    sweep(&scenarios::CLEAN);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn prune_with_sqlite() {
    sweep(&scenarios::PRUNE_SQLITE);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn prune_with_xattr() {
    sweep(&scenarios::PRUNE_XATTR);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn prune_with_the_central_database() {
    sweep(&scenarios::PRUNE_CENTRAL);
}

#[test]
#[ignore = "needs strace, the real Glance and MariaDB: run tests/run"]
fn prune_with_mariadb() {
    sweep(&scenarios::PRUNE_MARIADB);
}

#[test]
#[ignore = "needs strace, the real Glance and PostgreSQL: run tests/run"]
fn prune_with_postgresql() {
    sweep(&scenarios::PRUNE_POSTGRESQL);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn prefetch_with_sqlite() {
    sweep(&scenarios::PREFETCH_SQLITE);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn prefetch_with_xattr() {
    sweep(&scenarios::PREFETCH_XATTR);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn prefetch_with_the_central_database() {
    sweep(&scenarios::PREFETCH_CENTRAL);
}

#[test]
#[ignore = "needs strace, the real Glance and nginx: run tests/run"]
fn prefetch_over_http() {
    sweep(&scenarios::PREFETCH_HTTP);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn repair_with_sqlite() {
    sweep(&scenarios::REPAIR_SQLITE);
}

#[test]
#[ignore = "needs strace and the real Glance: run tests/run"]
fn repair_with_the_central_database() {
    sweep(&scenarios::REPAIR_CENTRAL);
}

mod as_root {
    use super::*;

    #[test]
    #[ignore = "needs root (a file system in a file), strace and the real Glance: run tests/run as root"]
    fn prune_require() {
        sweep(&scenarios::REQUIRE);
    }
}

// -- The sweep --

/// One thing that goes wrong: the `nth` call of that name in a thread fails, or is the last one.
#[derive(Debug)]
struct Fault {
    call: String,
    number: String,
    /// Threads in the order in which they are made.
    thread: usize,
    nth: usize,
    /// So many calls that do nothing come first: no other thread makes as many.
    shift: usize,
    /// The error, or `None` for a kill.
    error: Option<&'static str>,
    /// The call as strace shows it, without a fault.
    line: String,
}

fn sweep(scenario: &Scenario) {
    let bench = Bench::new(scenario);
    let (expected, mut faults) = bench.faults();
    let wanted = std::env::var("GLANCE_CACHE_TEST_FAULTS").ok();
    let stride = if wanted.is_some() { 1 } else { (faults.len() / SAMPLE).max(1) };
    let is_wanted = |call: &str| {
        wanted.as_ref().is_none_or(|calls| calls == "all" || calls.split(',').any(|wanted| wanted == call))
    };
    faults.retain(|fault| is_wanted(&fault.call));
    let mut totals = Totals::default();
    let mut states = States::default();
    for fault in faults.iter().step_by(stride) {
        bench.restore();
        let run = bench.run_with(fault);
        if !bench.was_injected() || run.stderr.contains(" alternative stack") {
            // What other processes and threads do decides how often some calls are made; the runtime's may be hit instead.
            totals.unreached += 1;
            continue;
        }
        let mut wrong = bench.judge(fault, &run, &expected);
        states.note(&bench, fault);
        wrong.extend(bench.go_on());
        totals.note(fault, &wrong, &run);
    }
    states.show_to_glance(&bench, &mut totals);
    totals.tell(scenario, faults.len());
    let tried = totals.errors + totals.kills;
    assert!(totals.unreached <= tried, "most faults did not happen: may strace not inject them here?");
    assert_eq!(totals.broken, 0, "faults did harm: they are told above");
}

#[derive(Default)]
struct Totals {
    errors: usize,
    kills: usize,
    unreached: usize,
    states: usize,
    codes: BTreeMap<i32, usize>,
    broken: usize,
}

impl Totals {
    fn note(&mut self, fault: &Fault, wrong: &[String], run: &Run) {
        *(if fault.error.is_some() { &mut self.errors } else { &mut self.kills }) += 1;
        *self.codes.entry(run.code).or_default() += 1;
        if !wrong.is_empty() {
            let what = fault.error.unwrap_or("KILL");
            self.broken(&format!(
                "{what} at {} number {} of thread {}: {}\n  {}\n  code {}, stdout {:?}, stderr {:?}",
                fault.call,
                fault.nth,
                fault.thread,
                fault.line,
                wrong.join("\n  "),
                run.code,
                run.stdout,
                run.stderr
            ));
        }
    }

    fn tell(&self, scenario: &Scenario, possible: usize) {
        let tried = self.errors + self.kills;
        let line = format!(
            "faults: {}: {tried} of {possible} tried ({} errors, {} kills), {} held; exit codes {:?}; {} unreached; Glance went on \
             with {} states\n",
            scenario.name,
            self.errors,
            self.kills,
            tried - self.broken.min(tried),
            self.codes,
            self.unreached,
            self.states,
        );
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    /// Tells of harm at once: a whole sweep takes its time.
    fn broken(&mut self, what: &str) {
        self.broken += 1;
        let _ = std::io::stderr().write_all(format!("faults: {what}\n").as_bytes());
    }
}

/// The cache as it is after the run without a fault.
struct Expected {
    lost: BTreeSet<String>,
}

/// What is in the swept directory: kind, size and owner by name.
type State = BTreeMap<String, (char, u64, u32)>;
/// What a server's table of images has, as text.
type Table = Vec<Vec<String>>;

const COLUMNS: &str = "id, image_id, last_accessed, last_modified, size, hits, node_reference_id";
const LOCKS: [&str; 3] = ["glance-cache-prune", "glance-cache-clean", "glance-cache"];

/// A cache that is put back before each fault.
struct Bench<'a> {
    scenario: &'a Scenario,
    env: TestEnv,
    /// What a fault may touch, and how it looked at first.
    work: PathBuf,
    template: PathBuf,
    times: Vec<(PathBuf, Timestamps)>,
    before: State,
    orphans: BTreeSet<String>,
    ghosts: BTreeSet<String>,
    /// The central database, or the one with Glance's records of images.
    database: Option<Database>,
    /// What its table of images has where no copy of a file puts it back.
    table: Table,
    _web: Option<Nginx>,
    /// What nobody may touch.
    outside: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// Where a file system of its own is mounted; undone before the directory goes.
    _mount: Option<crate::root::Mount>,
}

impl<'a> Bench<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let root = tempfile::Builder::new().prefix("gct-").tempdir().unwrap();
        chmod(root.path(), 0o755);
        let (mount, base) = if scenario.host {
            let ext4 = crate::root::Ext4::make(root.path(), 48);
            let mount = crate::root::Mount::ext4(&ext4, &root.path().join("mnt"), "relatime");
            let base = mount.point.clone();
            (Some(mount), base)
        } else {
            (None, root.path().to_owned())
        };
        let web = scenario.web.then(Nginx::start);
        let (env, database) = if scenario.command == "prefetch" {
            Self::make_queue(scenario, root, web.as_ref())
        } else {
            Self::make(scenario, root, &base)
        };
        let (work, template) = (base.join("work"), env.outside("template"));
        if rustix::process::geteuid().is_root() {
            give_to_nobody(&work);
        }
        system(&["cp", "-a", "--sparse=always", work.to_str().unwrap(), template.to_str().unwrap()]);
        fs::create_dir_all(env.outside("beside")).unwrap();
        for n in 0..5 {
            fs::write(env.outside("beside").join(nth_id(n)), "precious").unwrap();
        }
        let times = times(&work);
        let arguments = Self::arguments(scenario, &env, &base, database.as_ref());
        let outside = tree(&env.outside("beside"));
        let mut bench = Bench {
            scenario,
            env,
            before: state(&work),
            work,
            template,
            times,
            orphans: BTreeSet::new(),
            ghosts: BTreeSet::new(),
            table: Table::new(),
            database,
            outside,
            arguments,
            _web: web,
            _mount: mount,
        };
        (bench.orphans, bench.ghosts, bench.table) = (bench.orphans(), bench.ghosts(), bench.table());
        bench.restore();
        bench
    }

    /// Six images, an orphan, a ghost, a bad row, and something in every corner.
    fn make(scenario: &Scenario, root: TempDir, base: &Path) -> (TestEnv, Option<Database>) {
        let driver = if scenario.rows == Rows::Sqlite { Sqlite } else { Xattr };
        let env = TestEnv::at(driver, root, base.join("work/cache"));
        let images = [('a', 1000, 60), ('b', 1000, 50), ('c', 1000, 40), ('d', 1000, 30), ('e', 1000, 20)];
        let mut database = None;
        match scenario.rows {
            Rows::Central(kind) => {
                fs::create_dir(base.join("work/db")).unwrap();
                let db = &*database.insert(Database::new(kind, &base.join("work/db/glance.sqlite")));
                for (n, (letter, size, hours)) in images.into_iter().enumerate() {
                    env.file(id(letter), size, hours);
                    insert(db, &id(letter), n);
                }
                insert(db, &id('9'), 20);
                insert(db, "../beside/x", 21);
            }
            Rows::Sqlite => {
                for (letter, size, hours) in images {
                    env.image((letter, size, hours, 0));
                }
                env.ghost('9', 45);
                env.row("../beside/x", 45);
            }
            Rows::Xattr => {
                for (letter, size, hours) in images {
                    env.image((letter, size, hours, 0));
                }
            }
        }
        env.orphan('0', 500, 55);
        for name in ["invalid/x", "invalid/y", "incomplete/stalled"] {
            env.file(name, 10, 100);
        }
        env.file("incomplete/fresh", 10, 0);
        env.file(format!("queue/{}", id('8')), 0, 5);
        if scenario.rows == Rows::Xattr {
            // Glance's own driver cannot list a file without hits.
            env.set_hits(&id('0'), b"0");
        } else {
            env.file("README", 10, 5);
        }
        if scenario.host {
            fs::create_dir_all(base.join("work/iso")).unwrap();
            for n in 1..=3 {
                // With blocks on disk, or they would make no room.
                fs::write(base.join("work/iso").join(crate::host::master(n)), vec![7; 1 << 20]).unwrap();
            }
            fs::hard_link(base.join("work/iso").join(crate::host::master(2)), base.join("work/in-use"))
                .unwrap();
            for letter in ['a', 'b', 'c', 'd', 'e'] {
                fs::write(env.path(id(letter)), vec![7; 1 << 20]).unwrap();
            }
        }
        (env, database)
    }

    /// An image, a ghost, and a queue of three: of the second a row was left behind, of the third a claim and a private file.
    fn make_queue(scenario: &Scenario, root: TempDir, web: Option<&Nginx>) -> (TestEnv, Option<Database>) {
        let driver = if scenario.rows == Rows::Sqlite { Sqlite } else { Xattr };
        let work = root.path().join("work");
        let env = TestEnv::at(driver, root, work.join("cache"));
        fs::create_dir(work.join("db")).unwrap();
        fs::create_dir_all(env.outside("beside/store")).unwrap();
        let p = Prefetch { db: Database::new(Kind::SqliteFile, &work.join("db/glance.sqlite")), env };
        for (letter, size) in WANTED {
            let bytes = content(letter, size);
            let file = p.env.outside("beside/store").join(id(letter));
            fs::write(&file, &bytes).unwrap();
            let location = if let Some(nginx) = web {
                nginx.put(&id(letter), &bytes);
                nginx.url(&format!("/{}", id(letter)))
            } else {
                format!("file://{}", file.display())
            };
            p.record(letter, &bytes, &[&location]);
        }
        p.queue("123");
        let Prefetch { env, db } = p;
        for letter in ['9', '2'] {
            match scenario.rows {
                Rows::Sqlite => env.ghost(letter, 45),
                Rows::Xattr => {}
                Rows::Central(_) => insert(&db, &id(letter), 20),
            }
        }
        match scenario.rows {
            Rows::Central(_) => {
                env.file(id('a'), 1000, 60);
                insert(&db, &id('a'), 0);
            }
            _ => env.image(('a', 1000, 60, 0)),
        }
        env.file(format!("incomplete/{}", id('3')), 0, 0);
        chmod(&env.path("incomplete").join(id('3')), 0o1644);
        env.file(format!("incomplete/{}.prefetch", id('3')), 10, 0);
        (env, Some(db))
    }

    fn arguments(
        scenario: &Scenario,
        env: &TestEnv,
        base: &Path,
        database: Option<&Database>,
    ) -> Vec<String> {
        let mut lines = format!("worker_self_reference_url = {NODE}\n");
        if let Some(database) = database {
            let (store, url) = (env.outside("beside/store"), &database.url);
            let store = format!("stores = file,http\nfilesystem_store_datadir = {}", store.display());
            lines = format!("{lines}[glance_store]\n{store}\n[database]\nconnection = {url}\n");
        }
        let text = format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = {}\n{lines}",
            env.dir().display(),
            scenario.rows.driver()
        );
        let conf = env.write("glance-api.conf", text);
        let later = (env.now + if scenario.host { 864_000.0 } else { 3600.0 }).to_string();
        let mut arguments: Vec<String> = [scenario.command, "--config-file", &conf].map(Into::into).into();
        if scenario.host {
            let ironic = env.write(
                "ironic.conf",
                format!(
                    "[deploy]\niso_master_path = {0}\niso_cache_size = 20480\niso_cache_ttl = 1000000\n[pxe]\n\
                     instance_master_path =\ntftp_master_path =\n",
                    base.join("work/iso").display()
                ),
            );
            let on = base.to_str().unwrap().to_owned();
            let fs = rustix::fs::statvfs(base).unwrap();
            let wanted = (fs.f_bavail * fs.f_frsize + (9 << 19)).to_string();
            for argument in ["--ironic-config-file", &ironic, "--require", &wanted, "--on", &on] {
                arguments.push(argument.into());
            }
        } else {
            arguments.extend(scenario.arguments.iter().map(|argument| (*argument).to_owned()));
        }
        arguments.extend(["--now".into(), later]);
        arguments
    }

    /// Puts everything back.
    fn restore(&self) {
        fs::remove_dir_all(&self.work).unwrap();
        system(&["cp", "-a", "--sparse=auto", self.template.to_str().unwrap(), self.work.to_str().unwrap()]);
        for (path, times) in &self.times {
            rustix::fs::utimensat(CWD, path, times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        if let Some(server) = self.server() {
            load(server, &self.table);
        }
    }

    /// The database, when it is a server's.
    fn server(&self) -> Option<&Database> {
        self.database.as_ref().filter(|_| self.scenario.rows.are_served())
    }

    fn table(&self) -> Table {
        let columns = format!("SELECT {COLUMNS} FROM cached_images ORDER BY id");
        self.server().map_or_else(Table::new, |server| server.rows(&columns))
    }

    fn log(&self) -> PathBuf {
        self.env.outside("strace.log")
    }

    fn strace(&self, options: &[&str]) -> Run {
        // Where no other process is to be seen, the same calls are made each time.
        let alone: &[&str] = if rustix::process::geteuid().is_root() {
            &["unshare", "--pid", "--fork", "--mount-proc", "strace"]
        } else {
            &["strace"]
        };
        let mut command = self.env.command(alone[0]);
        command
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .args(&alone[1..])
            .args(["-f", "-o"])
            .arg(self.log());
        command.arg("-E").arg(format!("LD_PRELOAD={}", shifter().display()));
        command.args(options).arg(BINARY).args(&self.arguments);
        self.env.finish(&mut command)
    }

    /// Runs without a fault, and lists all that can go wrong.
    fn faults(&self) -> (Expected, Vec<Fault>) {
        self.strace(&["-y", "-n"]).ok();
        let expected = Expected { lost: self.lost() };
        assert!(!expected.lost.is_empty() || self.scenario.command == "clean", "the run has something to do");
        assert_eq!(self.fetched().len(), if self.fetches() { WANTED.len() } else { 0 });
        let log = fs::read_to_string(self.log()).unwrap();
        let root = self.env.outside("").display().to_string();
        let lines: Vec<(usize, &str, &str, &str)> = log.lines().filter_map(Self::parse).collect();
        let threads: BTreeSet<usize> = lines.iter().map(|(thread, ..)| *thread).collect();
        // strace counts the calls of each thread for itself.
        let mut counts: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        for (thread, _, call, _) in &lines {
            *counts.entry((call, *thread)).or_default() += 1;
        }
        let shift = |call: &str| {
            let all = counts.iter().filter(|((counted, _), _)| *counted == call);
            let all: Vec<_> = all.map(|(_, count)| *count).collect();
            // Calls that end a thread cannot come before the others.
            if all.len() < 2 || call.starts_with("exit") { 0 } else { all.into_iter().max().unwrap() }
        };
        let mut seen: HashMap<(&str, usize), usize> = HashMap::new();
        let mut alike: HashMap<String, usize> = HashMap::new();
        let mut unknown = BTreeSet::new();
        let mut started = false;
        let mut faults = Vec::new();
        for (tid, number, call, line) in lines {
            let count = seen.entry((call, tid)).or_default();
            *count += 1;
            // Before, it is the loader's and the runtime's calls that would fail.
            started |= !["execve", "poll"].contains(&call) && line.contains(&root);
            // The descriptors of other processes are looked through call by call, all alike.
            let foreign = line.contains("/proc/")
                && !line.contains(&format!("/proc/{}/", threads.first().unwrap()))
                && !line.contains("/proc/self");
            let alike = alike.entry(format!("{call} {foreign}")).or_default();
            *alike += 1;
            if !started || (foreign && *alike > 3) {
                continue;
            }
            let fault = |error| Fault {
                call: call.into(),
                number: number.into(),
                thread: threads.range(..tid).count(),
                nth: *count,
                shift: shift(call),
                error,
                line: line.into(),
            };
            if is_the_runtimes(call, line) {
                // It ends the process, or panics: a kill at the same call does no less.
            } else if let Some((_, errors)) = ERRORS.iter().find(|(name, _)| *name == call) {
                let writes = call.starts_with("open")
                    && ["O_CREAT", "O_WRONLY", "O_RDWR"].iter().any(|f| line.contains(f));
                let more = if writes { WRITING } else { &[] };
                faults.extend(errors.iter().chain(more).map(|error| fault(Some(*error))));
            } else if !NEVER_FAIL.contains(&call) {
                unknown.insert(call);
            }
            // A kill at a call that does not reach outside the process is one at the next that does.
            if !NEVER_FAIL.contains(&call) {
                faults.push(fault(None));
            }
        }
        assert!(started, "strace saw nothing: {log}");
        assert!(unknown.is_empty(), "calls that are neither in ERRORS nor in NEVER_FAIL: {unknown:?}");
        (expected, faults)
    }

    /// Takes the thread, the number, the name and the text of the call from a line of the log.
    fn parse(line: &str) -> Option<(usize, &str, &str, &str)> {
        let (tid, rest) = line.split_once(' ')?;
        let (number, line) = rest.trim_start().strip_prefix('[')?.split_once("] ")?;
        let (call, _) = line.split_once('(')?;
        let is_name = call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        Some((tid.parse().ok()?, number.trim(), call, line)).filter(|_| is_name)
    }

    fn run_with(&self, fault: &Fault) -> Run {
        let (trace, what) = (format!("trace={}", fault.call), fault.error.unwrap_or("KILL"));
        let kind = if fault.error.is_some() { "error" } else { "signal" };
        let inject = format!("inject={}:{kind}={what}:when={}", fault.call, fault.nth + fault.shift);
        let shift = [
            format!("SHIFT_THREAD={}", fault.thread),
            format!("SHIFT_CALL={}", fault.number),
            format!("SHIFT_COUNT={}", fault.shift),
        ];
        let shift: Vec<_> = shift.iter().flat_map(|variable| ["-E", variable]).collect();
        // With seccomp-bpf strace is not there when a signal is due.
        let quick: &[&str] = if fault.error.is_some() { &["--seccomp-bpf"] } else { &[] };
        self.strace(&[quick, &shift, &["-e", &trace, "-e", &inject]].concat())
    }

    fn was_injected(&self) -> bool {
        let log = fs::read_to_string(self.log()).unwrap();
        log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL")
    }

    /// The names that are gone since the beginning.
    fn lost(&self) -> BTreeSet<String> {
        let now = state(&self.work);
        self.before.keys().filter(|name| !now.contains_key(*name)).cloned().collect()
    }

    /// Returns what is wrong with a run that met a fault.
    fn judge(&self, fault: &Fault, run: &Run, expected: &Expected) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                wrong.push(what());
            }
        };
        check(!run.stderr.contains("panicked"), &|| "it panicked".into());
        check(tree(&self.env.outside("beside")) == self.outside, &|| "something outside was touched".into());
        let now = state(&self.work);
        let made: Vec<_> = now.iter().filter(|(name, _)| !self.before.contains_key(*name)).collect();
        let (fetched, lost) = (self.fetched(), self.lost());
        let is_claim =
            |name: &str| WANTED.iter().any(|(letter, _)| name == format!("cache/incomplete/{}", id(*letter)));
        let known = |name: &str| {
            is_lock(name)
                || name.contains("/.glance-cache-aside")
                || name.ends_with("-journal")
                || self.fetches()
                    && (fetched.iter().any(|id| name == format!("cache/{id}")) || is_claim(name))
        };
        check(made.iter().all(|(name, _)| known(name)), &|| format!("something new is there: {made:?}"));
        let owner =
            if rustix::process::geteuid().is_root() { OWNER } else { rustix::process::geteuid().as_raw() };
        check(now.values().all(|(_, _, uid)| *uid == owner), &|| {
            format!("something is not its owner's: {now:?}")
        });
        check(self.are_whole(), &|| "a damaged image is in the cache".into());
        if self.fetches() {
            let queued: BTreeSet<_> = self.env.names("queue").into_iter().collect();
            let neither = WANTED
                .iter()
                .map(|(letter, _)| id(*letter))
                .find(|id| !queued.contains(id) && !fetched.contains(id));
            check(neither.is_none(), &|| format!("{neither:?} is neither in the cache nor in the queue"));
            check(lost.is_subset(&expected.lost), &|| format!("{lost:?} are gone"));
        }
        if fault.error.is_none() {
            check(run.code == 128 + 9, &|| "it was not killed".into());
            return wrong;
        }
        check((0..=3).contains(&run.code), &|| "this is no exit code of the contract".into());
        if run.code >= 2 {
            check(lost.is_empty() && fetched.is_empty(), &|| {
                format!("nothing was changed, it says, but {lost:?} are gone")
            });
        }
        // On a full disk other entries go first.
        let is_full = ["ENOSPC", "EDQUOT"].contains(&fault.error.unwrap_or_default());
        let done = if self.fetches() {
            // A claim that could not be closed looks as if somebody else had taken it, for strace's faults leave it open.
            let is_left = fault.call == "close" && run.stdout.contains("\"left_to_glance\"");
            is_left || (fetched.len() == WANTED.len() && self.env.names("queue").is_empty())
        } else {
            lost == expected.lost || (is_full && lost.len() >= expected.lost.len())
        };
        check(run.code != 0 || done, &|| {
            format!("all is done, it says, but gone are {lost:?}, and not {:?}", expected.lost)
        });
        if run.stdout.is_empty() && fault.line.starts_with("write(1") {
            check(run.code == 1, &|| {
                "the report is not there, and the exit code is silent about that".into()
            });
            return wrong;
        }
        let report: Value = match serde_json::from_str(&run.stdout) {
            Ok(report) if run.stdout.ends_with('\n') && run.stdout.lines().count() == 1 => report,
            other => {
                wrong.push(format!("stdout is not one line of JSON: {other:?}"));
                return wrong;
            }
        };
        if run.code >= 2 {
            let error = report["error"].as_str().unwrap_or_default();
            check(error.split_once(" (os error").is_none_or(|(what, _)| what.contains(": ")), &|| {
                "the error does not say what was being done".into()
            });
            check(!error.is_empty(), &|| "no error in the report".into());
        } else {
            let count = |key: &str| report[key].as_u64().unwrap_or(0);
            let told =
                count("total_files_pruned") + count("total_files_cleaned") + count("total_files_prefetched");
            let changed = if self.fetches() { &fetched } else { &lost };
            check(told == changed.len() as u64, &|| {
                format!("{told} files are reported, but it is {changed:?}")
            });
            let queued = self.env.names("queue").len();
            check(!self.fetches() || count("still_queued") == queued as u64, &|| {
                format!("{queued} are queued")
            });
            let errors = report["errors"].as_array().map_or(0, Vec::len);
            let short = report["missing"].as_u64().is_some_and(|missing| missing > 0);
            check((errors > 0 || short) == (run.code == 1), &|| format!("{errors} errors are reported"));
        }
        wrong
    }

    /// Runs once more without a fault, and returns what is wrong then.
    fn go_on(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let again = |more: &[&str]| {
            let mut command = self.env.command(BINARY);
            self.env.finish(command.current_dir("/").args(&self.arguments).args(more))
        };
        let mut run = again(&[]);
        if self.fetches() && run.code == 1 && run.stdout.contains("\"skipped\"") {
            // A download in vain is not repeated unless somebody says so.
            run = again(&["--retry"]);
        }
        if run.code != 0 {
            wrong.push(format!("the next run ends with {}: {} {}", run.code, run.stdout, run.stderr));
        }
        let new: Vec<_> = self.orphans().difference(&self.orphans).cloned().collect();
        if !new.is_empty() {
            wrong.push(format!("after the next run there are new orphans: {new:?}"));
        }
        let (now, fetched) = (state(&self.work), self.fetched());
        let made: Vec<_> = now.keys().filter(|name| !self.before.contains_key(*name)).collect();
        if self.fetches() {
            let left: Vec<_> = ["queue", "incomplete", "invalid"].map(|sub| self.env.names(sub)).concat();
            if fetched.len() < WANTED.len() || !left.is_empty() {
                wrong.push(format!("the next run fetches {fetched:?} and leaves {left:?}"));
            }
        }
        // What a journal without a header holds, SQLite drops with the next change. An empty place to set aside goes with the next
        // image.
        let is_nothing = |name: &str| {
            let path = self.work.join(name);
            if path.is_dir() {
                return fs::read_dir(path).unwrap().next().is_none()
                    && name.ends_with("/.glance-cache-aside");
            }
            name.ends_with("-journal") && fs::read(path).unwrap().iter().take(8).all(|byte| *byte == 0)
        };
        let is_fetched = |name: &str| fetched.iter().any(|id| name == format!("cache/{id}"));
        if !made.iter().all(|name| is_lock(name) || is_nothing(name) || is_fetched(name)) {
            wrong.push(format!("the next run leaves {made:?}"));
        }
        let ghosts = self.ghosts();
        if self.fetches() && !ghosts.is_subset(&self.ghosts) {
            wrong.push(format!("after the next run there are new rows without files: {ghosts:?}"));
        }
        if self.scenario.mends
            && !ghosts.iter().all(|id| self.scenario.command == "prune" && id.contains('/'))
        {
            wrong.push(format!("after the next run there are rows without files: {ghosts:?}"));
        }
        if !self.are_whole() {
            wrong.push("after the next run a damaged image is in the cache".into());
        }
        if tree(&self.env.outside("beside")) != self.outside {
            wrong.push("the next run touched something outside".into());
        }
        wrong
    }

    fn images(&self) -> BTreeSet<String> {
        self.env.names("").into_iter().filter(|name| name.len() == 36).collect()
    }

    fn ids(&self) -> BTreeSet<String> {
        match self.scenario.rows {
            Rows::Sqlite => self.env.ids().into_iter().collect(),
            Rows::Xattr => self.images(),
            Rows::Central(_) => {
                let database = self.database.as_ref().unwrap();
                database.rows("SELECT image_id FROM cached_images").into_iter().flatten().collect()
            }
        }
    }

    fn ghosts(&self) -> BTreeSet<String> {
        self.ids().difference(&self.images()).cloned().collect()
    }

    fn fetches(&self) -> bool {
        self.scenario.command == "prefetch"
    }

    /// The images that were to be fetched and are in the cache.
    fn fetched(&self) -> BTreeSet<String> {
        let images = self.images();
        let wanted = WANTED.iter().map(|(letter, _)| id(*letter));
        wanted.filter(|id| images.contains(id)).collect()
    }

    /// Whether all that was fetched is what the store has.
    fn are_whole(&self) -> bool {
        let store = self.env.outside("beside/store");
        self.fetched()
            .iter()
            .all(|id| fs::read(self.env.path(id)).unwrap() == fs::read(store.join(id)).unwrap())
    }

    fn orphans(&self) -> BTreeSet<String> {
        self.images().difference(&self.ids()).cloned().collect()
    }
}

/// The states of the cache that faults left, each one once.
#[derive(Default)]
struct States {
    seen: HashMap<u64, usize>,
    kept: Option<TempDir>,
    /// Which fault led to each, and what a server's table had.
    from: Vec<(String, Table)>,
}

impl States {
    fn note(&mut self, bench: &Bench<'_>, fault: &Fault) {
        let mut hasher = DefaultHasher::new();
        for (name, (kind, size, _)) in state(&bench.work) {
            (&name, kind, size).hash(&mut hasher);
            if name.ends_with("cache.db") || name.ends_with("glance.sqlite") {
                fs::read(bench.work.join(&name)).unwrap().hash(&mut hasher);
            } else if name.ends_with("-journal") {
                // The rest of it has random numbers in it.
                let text = fs::read(bench.work.join(&name)).unwrap();
                text.get(..12).hash(&mut hasher);
            }
        }
        let table = bench.table();
        table.hash(&mut hasher);
        let next = self.seen.len();
        if *self.seen.entry(hasher.finish()).or_insert(next) == next && next == self.from.len() {
            let kept =
                self.kept.get_or_insert_with(|| tempfile::Builder::new().prefix("gct-").tempdir().unwrap());
            let copy = kept.path().join(next.to_string());
            system(&["cp", "-a", bench.work.to_str().unwrap(), copy.to_str().unwrap()]);
            for lock in LOCKS {
                // Killed in the moment between making and marking it: the next run marks it.
                let lock = copy.join("cache").join(lock);
                if bench.scenario.rows == Rows::Xattr && lock.exists() {
                    let _ = rustix::fs::setxattr(lock, "user.hits", b"0", rustix::fs::XattrFlags::CREATE);
                }
            }
            self.from.push((format!("{fault:?}"), table));
        }
    }

    /// Lets Glance's own driver go on with each of them.
    fn show_to_glance(&self, bench: &Bench<'_>, totals: &mut Totals) {
        let Some(kept) = &self.kept else { return };
        let mut peer = Peer::start();
        let rows = bench.scenario.rows;
        for (n, (from, table)) in self.from.iter().enumerate() {
            let dir = kept.path().join(n.to_string());
            let url = if let Some(server) = bench.server() {
                load(server, table);
                server.url.clone()
            } else {
                format!("sqlite:///{}", dir.join("db/glance.sqlite").display())
            };
            let request = json!({
                "dir": dir.join("cache"), "driver": rows.driver(), "fresh": id('7'),
                "connection": matches!(rows, Rows::Central(_)).then_some(url), "node": NODE,
            });
            if let Err(error) = peer.try_call("go_on", request) {
                totals.broken(&format!("Glance does not go on after {from}: {error}"));
            }
            totals.states += 1;
        }
    }
}

/// Whether it is a call of a thread's start, or of the inside of the PostgreSQL client: neither takes a failure there for possible.
fn is_the_runtimes(call: &str, line: &str) -> bool {
    match call {
        // The stack for signals, and the page before it.
        "mmap" => line.contains("PROT_READ|PROT_WRITE") && line.contains("MAP_STACK"),
        "mprotect" => line.contains("PROT_NONE"),
        "epoll_create1" | "epoll_ctl" | "eventfd2" => true,
        _ => line.contains("anon_inode:[event"),
    }
}

/// The library that lets strace tell threads apart.
fn shifter() -> &'static Path {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("gct-").tempdir().unwrap();
        let path = dir.path().join("shift.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/shift.c");
        system(&["cc", "-shared", "-fPIC", "-O", "-o", path.to_str().unwrap(), source]);
        (dir, path)
    });
    path
}

/// Whether it is one of the lock files that are left for good.
fn is_lock(name: &str) -> bool {
    name.strip_prefix("cache/").is_some_and(|name| LOCKS.contains(&name))
}

/// Gives an image of 1000 bytes its row in the central database.
fn insert(db: &Database, image_id: &str, hour: usize) {
    if db.rows("SELECT 1 FROM node_reference").is_empty() {
        db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{NODE}')"));
    }
    db.sql(&format!(
        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) SELECT '{image_id}', \
         '2024-01-12 {hour:02}:00:00', '2024-01-12 10:00:00', 1000, 0, node_reference_id FROM node_reference"
    ));
}

/// Puts back what the table of images of a server had.
fn load(db: &Database, table: &Table) {
    db.sql("DELETE FROM cached_images");
    let rows: Vec<String> = table.iter().map(|row| format!("('{}')", row.join("', '"))).collect();
    if !rows.is_empty() {
        db.sql(&format!("INSERT INTO cached_images ({COLUMNS}) VALUES {}", rows.join(", ")));
    }
}

/// Everything below a directory.
fn state(dir: &Path) -> State {
    let walk = walkdir::WalkDir::new(dir).min_depth(1);
    walk.into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let m = entry.path().symlink_metadata().unwrap();
            let kind = if m.is_file() {
                'f'
            } else if m.is_dir() {
                'd'
            } else {
                'o'
            };
            let size = if m.is_file() { m.size() } else { 0 };
            let name =
                entry.path().strip_prefix(dir).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
            (name, (kind, size, m.uid()))
        })
        .collect()
}

/// The times of everything below a directory, deepest first, to be set again.
fn times(dir: &Path) -> Vec<(PathBuf, Timestamps)> {
    let walk = walkdir::WalkDir::new(dir).contents_first(true);
    walk.into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let m = entry.path().symlink_metadata().unwrap();
            let last_access = Timespec { tv_sec: m.atime(), tv_nsec: m.atime_nsec() };
            let last_modification = Timespec { tv_sec: m.mtime(), tv_nsec: m.mtime_nsec() };
            (entry.path().to_owned(), Timestamps { last_access, last_modification })
        })
        .collect()
}
