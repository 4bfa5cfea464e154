//! Faults: every system call of a command that can fail is failed, one at a time, in every way that makes sense, and the
//! process is killed at every one.
//!
//! What must hold after each, whatever the fault: no panic; an exit code of the contract, and 0 only when the same was done as
//! without a fault; one JSON object that names as many files as are gone, and errors where the code is 1; nothing gone where the
//! code says that nothing was changed; nothing new but lock files and an abandoned journal, all of it the cache owner's;
//! nothing outside touched. The next plain run ends with 0 and leaves no row without a file and no orphan that was not there
//! before. Glance's own driver goes on with every state of the cache that a fault left.
//!
//! `SCENARIOS` is the table of what is swept: a command on a small cache. Each sweep tries [`SAMPLE`] faults, spread evenly;
//! with `GLANCE_CACHE_TEST_FAULTS=all` it tries all of them, which takes minutes, and with the name of a call those of that call. Totals go past the test harness to stderr.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::env::*;
use crate::peer::Peer;
use crate::servers::{Database, Kind};

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
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fcntl", &["EIO", "EACCES", "EAGAIN", "ENOLCK", "EINTR"]),
    ("flock", &["EIO", "EAGAIN", "ENOLCK", "EINTR"]),
    ("mmap", &["ENOMEM"]),
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
    ("connect", &["ECONNREFUSED", "ETIMEDOUT"]),
    ("sendto", &["ECONNRESET", "EPIPE"]),
    ("recvfrom", &["ECONNRESET", "EINTR"]),
];
/// Further ways for calls that would make or write something.
const WRITING: &[&str] = &["ENOSPC", "EROFS", "EDQUOT"];

/// Where the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Sqlite,
    Xattr,
    /// The central database, in an SQLite file.
    Central,
}

impl Rows {
    fn driver(self) -> &'static str {
        match self {
            Rows::Sqlite => "sqlite",
            Rows::Xattr => "xattr",
            Rows::Central => "centralized_db",
        }
    }
}

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
}

const PLAIN: Scenario =
    Scenario { name: "", rows: Rows::Sqlite, command: "", arguments: &[], mends: false, host: false };

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
        Scenario { name: "prune, centralized_db", rows: Rows::Central, ..PRUNE_SQLITE };
    pub(super) const REPAIR_SQLITE: Scenario = Scenario {
        name: "clean --repair, sqlite",
        command: "clean",
        arguments: &["--repair", "--lock-timeout", "2s"],
        mends: true,
        ..PLAIN
    };
    pub(super) const REPAIR_CENTRAL: Scenario =
        Scenario { name: "clean --repair, centralized_db", rows: Rows::Central, ..REPAIR_SQLITE };
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

/// One thing that goes wrong: the `nth` call of that name fails, or is the last one.
#[derive(Debug)]
struct Fault {
    call: String,
    nth: usize,
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
    faults.retain(|fault| wanted.as_ref().is_none_or(|call| call == "all" || *call == fault.call));
    let mut totals = Totals::default();
    let mut states = States::default();
    for fault in faults.iter().step_by(stride) {
        bench.restore();
        let run = bench.run_with(fault);
        if !bench.was_injected() {
            // What other processes do decides how often some calls are made.
            totals.unreached += 1;
            continue;
        }
        let mut wrong = bench.judge(fault, &run, &expected);
        states.note(&bench, fault);
        wrong.extend(bench.go_on());
        totals.note(fault, &wrong, &run);
    }
    states.show_to_glance(scenario, &mut totals);
    totals.tell(scenario, faults.len());
    let tried = totals.errors + totals.kills;
    assert!(totals.unreached <= tried, "most faults did not happen: may strace not inject them here?");
    assert!(
        totals.broken.is_empty(),
        "{} faults did harm:\n{}",
        totals.broken.len(),
        totals.broken.join("\n")
    );
}

#[derive(Default)]
struct Totals {
    errors: usize,
    kills: usize,
    unreached: usize,
    states: usize,
    codes: BTreeMap<i32, usize>,
    broken: Vec<String>,
}

impl Totals {
    fn note(&mut self, fault: &Fault, wrong: &[String], run: &Run) {
        *(if fault.error.is_some() { &mut self.errors } else { &mut self.kills }) += 1;
        *self.codes.entry(run.code).or_default() += 1;
        if !wrong.is_empty() {
            let what = fault.error.unwrap_or("KILL");
            self.broken.push(format!(
                "{what} at {} number {}: {}\n  {}\n  code {}, stdout {:?}, stderr {:?}",
                fault.call,
                fault.nth,
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
            tried - self.broken.len().min(tried),
            self.codes,
            self.unreached,
            self.states,
        );
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// The cache as it is after the run without a fault.
struct Expected {
    lost: BTreeSet<String>,
}

/// What is in the swept directory: kind, size and owner by name.
type State = BTreeMap<String, (char, u64, u32)>;

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
        let env = Self::make(scenario, root, &base);
        let (work, template) = (base.join("work"), env.outside("template"));
        if rustix::process::geteuid().is_root() {
            give_to_nobody(&work);
        }
        system(&["cp", "-a", "--sparse=always", work.to_str().unwrap(), template.to_str().unwrap()]);
        fs::create_dir(env.outside("beside")).unwrap();
        for n in 0..5 {
            fs::write(env.outside("beside").join(nth_id(n)), "precious").unwrap();
        }
        let times = times(&work);
        let arguments = Self::arguments(scenario, &env, &base);
        let outside = tree(&env.outside("beside"));
        let mut bench = Bench {
            scenario,
            env,
            before: state(&work),
            work,
            template,
            times,
            orphans: BTreeSet::new(),
            outside,
            arguments,
            _mount: mount,
        };
        bench.orphans = bench.orphans();
        bench.restore();
        bench
    }

    /// Six images, an orphan, a ghost, a bad row, and something in every corner.
    fn make(scenario: &Scenario, root: TempDir, base: &Path) -> TestEnv {
        let driver = if scenario.rows == Rows::Sqlite { Sqlite } else { Xattr };
        let env = TestEnv::at(driver, root, base.join("work/cache"));
        let images = [('a', 1000, 60), ('b', 1000, 50), ('c', 1000, 40), ('d', 1000, 30), ('e', 1000, 20)];
        match scenario.rows {
            Rows::Central => {
                fs::create_dir(base.join("work/db")).unwrap();
                let db = Database::new(Kind::SqliteFile, &base.join("work/db/glance.sqlite"));
                db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{NODE}')"));
                let row = |image_id: &str, hour: i64| {
                    db.sql(&format!(
                        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) \
                         SELECT '{image_id}', '2024-01-12 {hour:02}:00:00', '2024-01-12 10:00:00', 1000, 0, \
                         node_reference_id FROM node_reference"
                    ));
                };
                for (n, (letter, size, hours)) in images.into_iter().enumerate() {
                    env.file(id(letter), size, hours);
                    row(&id(letter), n as i64);
                }
                row(&id('9'), 20);
                row("../beside/x", 21);
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
        env
    }

    fn arguments(scenario: &Scenario, env: &TestEnv, base: &Path) -> Vec<String> {
        let mut lines = String::new();
        if scenario.rows == Rows::Central {
            lines = format!(
                "worker_self_reference_url = {NODE}\n[database]\nconnection = sqlite:///{}\n",
                base.join("work/db/glance.sqlite").display()
            );
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
    }

    fn log(&self) -> PathBuf {
        self.env.outside("strace.log")
    }

    fn strace(&self, options: &[&str]) -> Run {
        let mut command = self.env.command("strace");
        command.env("PATH", "/usr/bin:/bin").current_dir("/").args(["-f", "-o"]).arg(self.log());
        command.args(options).arg(BINARY).args(&self.arguments);
        self.env.finish(&mut command)
    }

    /// Runs without a fault, and lists all that can go wrong.
    fn faults(&self) -> (Expected, Vec<Fault>) {
        self.strace(&["-y"]).ok();
        let expected = Expected { lost: self.lost() };
        assert!(!expected.lost.is_empty() || self.scenario.command != "prune", "the run has something to do");
        let log = fs::read_to_string(self.log()).unwrap();
        let root = self.env.outside("").display().to_string();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut alike: HashMap<String, usize> = HashMap::new();
        let mut started = false;
        let mut faults = Vec::new();
        for line in log.lines() {
            let Some((pid, line)) = line.split_once(' ') else { continue };
            let line = line.trim_start();
            let Some((call, _)) = line.split_once('(') else { continue };
            let count = counts.entry(call).or_default();
            *count += 1;
            // Before, it is the loader's and the runtime's calls that would fail.
            started |= !["execve", "poll"].contains(&call) && line.contains(&root);
            // The descriptors of other processes are looked through call by call, all alike.
            let foreign = line.contains("/proc/")
                && !line.contains(&format!("/proc/{pid}/"))
                && !line.contains("/proc/self");
            let seen = alike.entry(format!("{call} {foreign}")).or_default();
            *seen += 1;
            if !started || (foreign && *seen > 3) {
                continue;
            }
            let fault = |error| Fault { call: call.into(), nth: *count, error, line: line.into() };
            if let Some((_, errors)) = ERRORS.iter().find(|(name, _)| *name == call) {
                let writes = call.starts_with("open")
                    && ["O_CREAT", "O_WRONLY", "O_RDWR"].iter().any(|f| line.contains(f));
                let more = if writes { WRITING } else { &[] };
                faults.extend(errors.iter().chain(more).map(|error| fault(Some(*error))));
            }
            if call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                faults.push(fault(None));
            }
        }
        assert!(started, "strace saw nothing: {log}");
        (expected, faults)
    }

    fn run_with(&self, fault: &Fault) -> Run {
        let (trace, what) = (format!("trace={}", fault.call), fault.error.unwrap_or("KILL"));
        let kind = if fault.error.is_some() { "error" } else { "signal" };
        let inject = format!("inject={}:{kind}={what}:when={}", fault.call, fault.nth);
        // With seccomp-bpf strace is not there when a signal is due.
        let quick: &[&str] = if fault.error.is_some() { &["--seccomp-bpf"] } else { &[] };
        self.strace(&[quick, &["-e", &trace, "-e", &inject]].concat())
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
        let known =
            |name: &str| is_lock(name) || name.contains("/.glance-cache-aside") || name.ends_with("-journal");
        check(made.iter().all(|(name, _)| known(name)), &|| format!("something new is there: {made:?}"));
        let owner =
            if rustix::process::geteuid().is_root() { OWNER } else { rustix::process::geteuid().as_raw() };
        check(now.values().all(|(_, _, uid)| *uid == owner), &|| {
            format!("something is not its owner's: {now:?}")
        });
        if fault.error.is_none() {
            check(run.code == 128 + 9, &|| "it was not killed".into());
            return wrong;
        }
        check((0..=3).contains(&run.code), &|| "this is no exit code of the contract".into());
        let lost = self.lost();
        if run.code >= 2 {
            check(lost.is_empty(), &|| format!("nothing was changed, it says, but {lost:?} are gone"));
        }
        // On a full disk other entries go first.
        let is_full = ["ENOSPC", "EDQUOT"].contains(&fault.error.unwrap_or_default());
        let done = lost == expected.lost || (is_full && lost.len() >= expected.lost.len());
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
            check(report["error"].is_string(), &|| "no error in the report".into());
        } else {
            let count = |key: &str| report[key].as_u64().unwrap_or(0);
            let told = count("total_files_pruned") + count("total_files_cleaned");
            check(told == lost.len() as u64, &|| format!("{told} files are reported, but {lost:?} are gone"));
            let errors = report["errors"].as_array().map_or(0, Vec::len);
            let short = report["missing"].as_u64().is_some_and(|missing| missing > 0);
            check((errors > 0 || short) == (run.code == 1), &|| format!("{errors} errors are reported"));
        }
        wrong
    }

    /// Runs once more without a fault, and returns what is wrong then.
    fn go_on(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut command = self.env.command(BINARY);
        let run = self.env.finish(command.current_dir("/").args(&self.arguments));
        if run.code != 0 {
            wrong.push(format!("the next run ends with {}: {} {}", run.code, run.stdout, run.stderr));
        }
        let new: Vec<_> = self.orphans().difference(&self.orphans).cloned().collect();
        if !new.is_empty() {
            wrong.push(format!("after the next run there are new orphans: {new:?}"));
        }
        let now = state(&self.work);
        let made: Vec<_> = now.keys().filter(|name| !self.before.contains_key(*name)).collect();
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
        if !made.iter().all(|name| is_lock(name) || is_nothing(name)) {
            wrong.push(format!("the next run leaves {made:?}"));
        }
        let ghosts: Vec<_> = self.ids().difference(&self.images()).cloned().collect();
        if self.scenario.mends
            && !ghosts.iter().all(|id| self.scenario.command == "prune" && id.contains('/'))
        {
            wrong.push(format!("after the next run there are rows without files: {ghosts:?}"));
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
            Rows::Central => {
                let db = rusqlite::Connection::open(self.work.join("db/glance.sqlite")).unwrap();
                let mut rows = db.prepare("SELECT image_id FROM cached_images").unwrap();
                rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
        }
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
    /// Which fault led to each.
    from: Vec<String>,
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
        let next = self.seen.len();
        if *self.seen.entry(hasher.finish()).or_insert(next) == next && next == self.from.len() {
            let kept =
                self.kept.get_or_insert_with(|| tempfile::Builder::new().prefix("gct-").tempdir().unwrap());
            let copy = kept.path().join(next.to_string());
            system(&["cp", "-a", bench.work.to_str().unwrap(), copy.to_str().unwrap()]);
            for lock in ["glance-cache-prune", "glance-cache-clean"] {
                // Killed in the moment between making and marking it: the next run marks it.
                let lock = copy.join("cache").join(lock);
                if bench.scenario.rows == Rows::Xattr && lock.exists() {
                    let _ = rustix::fs::setxattr(lock, "user.hits", b"0", rustix::fs::XattrFlags::CREATE);
                }
            }
            self.from.push(format!("{fault:?}"));
        }
    }

    /// Lets Glance's own driver go on with each of them.
    fn show_to_glance(&self, scenario: &Scenario, totals: &mut Totals) {
        let Some(kept) = &self.kept else { return };
        let mut peer = Peer::start();
        for (n, from) in self.from.iter().enumerate() {
            let dir = kept.path().join(n.to_string());
            let url = format!("sqlite:///{}", dir.join("db/glance.sqlite").display());
            let request = json!({
                "dir": dir.join("cache"), "driver": scenario.rows.driver(), "fresh": id('7'),
                "connection": (scenario.rows == Rows::Central).then_some(url), "node": NODE,
            });
            if let Err(error) = peer.try_call("go_on", request) {
                totals.broken.push(format!("Glance does not go on after {from}: {error}"));
            }
            totals.states += 1;
        }
    }
}

/// Whether it is one of the lock files that are left for good.
fn is_lock(name: &str) -> bool {
    ["cache/glance-cache-prune", "cache/glance-cache-clean"].contains(&name)
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
