//! A small cache that is put back before each fault, the command that runs on it, and all that can fail in
//! that run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Timestamps};
use tempfile::TempDir;

use crate::support::central::NODE;
use crate::support::env::*;
use crate::support::host::{CLOCK, master};
use crate::support::images::{content, digest};
use crate::support::mounts::{Ext4, Mount};
use crate::support::needs;
use crate::support::prefetch::Prefetch;
use crate::support::rights::give_away_as_root;
use crate::support::servers::{Database, SqliteFile};
use crate::support::stores::Nginx;

use super::calls::{ERRORS, NEVER_FAIL, WRITING, is_the_runtimes};
use super::scenarios::{BROKEN, Rows, Scenario, WANTED};
use super::states::{COLUMNS, Expected, State, Table, insert, load, state, times};
use super::sweep::Fault;

/// A cache that is put back before each fault.
pub(super) struct Bench<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) env: TestEnv,
    /// The directory that a fault may touch, and a copy of it as it was at first.
    pub(super) work: PathBuf,
    pub(super) template: PathBuf,
    pub(super) times: Vec<(PathBuf, Timestamps)>,
    pub(super) before: State,
    pub(super) orphans: BTreeSet<String>,
    pub(super) ghosts: BTreeSet<String>,
    /// The central database, or the one with Glance's records of images.
    pub(super) database: Option<Database>,
    /// The rows of its table of images, where no copy of a file puts them back.
    pub(super) table: Table,
    pub(super) _web: Option<Nginx>,
    /// The entries that nobody may touch.
    pub(super) outside: BTreeMap<String, String>,
    pub(super) arguments: Vec<String>,
    /// A file system of its own, unmounted before the directory is removed.
    pub(super) _mount: Option<Mount>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let root = tempfile::Builder::new().prefix("gct-").tempdir().unwrap();
        chmod(root.path(), 0o755);
        let (mount, base) = if scenario.host {
            let ext4 = Ext4::make(root.path(), 48);
            let mount = Mount::ext4(&ext4, &root.path().join("mnt"), "relatime");
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
        let database =
            if scenario.verifies() { Some(Self::make_records(&env, database, &base)) } else { database };
        let (work, template) = (base.join("work"), env.outside("template"));
        give_away_as_root(&work);
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
    pub(super) fn make(scenario: &Scenario, root: TempDir, base: &Path) -> (TestEnv, Option<Database>) {
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
                fs::write(base.join("work/iso").join(master(n)), vec![7; 1 << 20]).unwrap();
            }
            fs::hard_link(base.join("work/iso").join(master(2)), base.join("work/in-use")).unwrap();
            for letter in ['a', 'b', 'c', 'd', 'e'] {
                fs::write(env.path(id(letter)), vec![7; 1 << 20]).unwrap();
            }
        }
        (env, database)
    }

    /// Makes the records of all images, and breaks one of these.
    pub(super) fn make_records(env: &TestEnv, database: Option<Database>, base: &Path) -> Database {
        let db = database.unwrap_or_else(|| {
            fs::create_dir(base.join("work/db")).unwrap();
            Database::new(SqliteFile, &base.join("work/db/glance.sqlite"))
        });
        for (letter, size) in [('a', 1000), ('b', 1000), ('c', 1000), ('d', 1000), ('e', 1000), ('0', 500)] {
            let md5 = digest("md5sum", &vec![0; size]);
            db.sql(&format!(
                "INSERT INTO images (id, size, status, checksum, created_at, deleted, min_disk, min_ram, \
                 protected, visibility, os_hidden) VALUES ('{}', {size}, 'active', '{md5}', \
                 '2024-01-01 00:00:00', 0, 0, 0, 0, 'public', 0)",
                id(letter)
            ));
        }
        let mut bytes = vec![0; 1000];
        bytes[500] = 1;
        fs::write(env.path(id(BROKEN)), bytes).unwrap();
        let used = env.now - 50.0 * 3600.0;
        set_times(&env.path(id(BROKEN)), used, used);
        db
    }

    /// Makes an image, a ghost, and a queue of three: of the second a row was left behind, of the third a
    /// claim and a private file.
    pub(super) fn make_queue(
        scenario: &Scenario,
        root: TempDir,
        web: Option<&Nginx>,
    ) -> (TestEnv, Option<Database>) {
        let driver = if scenario.rows == Rows::Sqlite { Sqlite } else { Xattr };
        let work = root.path().join("work");
        let env = TestEnv::at(driver, root, work.join("cache"));
        fs::create_dir(work.join("db")).unwrap();
        fs::create_dir_all(env.outside("beside/store")).unwrap();
        let p = Prefetch { db: Database::new(SqliteFile, &work.join("db/glance.sqlite")), env };
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

    pub(super) fn arguments(
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
        let mut arguments: Vec<String> = [scenario.command, "--config-file", &conf].map(Into::into).into();
        if scenario.host {
            let ironic = env.write(
                "ironic.conf",
                format!(
                    "[deploy]\niso_master_path = {0}\niso_cache_size = 20480\niso_cache_ttl = \
                     1000000\n[pxe]\n\
                     instance_master_path =\ntftp_master_path =\n",
                    base.join("work/iso").display()
                ),
            );
            let on = base.to_str().unwrap().to_owned();
            let fs = rustix::fs::statvfs(base).unwrap();
            let wanted = format!("{}B", fs.f_bavail * fs.f_frsize + (9 << 19));
            for argument in ["--ironic-config-file", &ironic, "--require", &wanted, "--on", &on] {
                arguments.push(argument.into());
            }
        } else {
            arguments.extend(scenario.arguments.iter().map(|argument| (*argument).to_owned()));
        }
        arguments
    }

    /// Returns the time at which the command runs, in seconds since the epoch.
    pub(super) fn later(&self) -> String {
        (self.env.now + if self.scenario.host { 864_000.0 } else { 3600.0 }).to_string()
    }

    /// Puts everything back.
    pub(super) fn restore(&self) {
        fs::remove_dir_all(&self.work).unwrap();
        system(&["cp", "-a", "--sparse=auto", self.template.to_str().unwrap(), self.work.to_str().unwrap()]);
        for (path, times) in &self.times {
            rustix::fs::utimensat(CWD, path, times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        if let Some(server) = self.server() {
            load(server, &self.table);
        }
    }

    /// Returns the database, when it is a server's.
    pub(super) fn server(&self) -> Option<&Database> {
        self.database.as_ref().filter(|_| self.scenario.rows.are_served())
    }

    pub(super) fn table(&self) -> Table {
        let columns = format!("SELECT {COLUMNS} FROM cached_images ORDER BY id");
        self.server().map_or_else(Table::new, |server| server.rows(&columns))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.env.outside("strace.log")
    }

    pub(super) fn strace(&self, options: &[&str]) -> Run {
        needs::strace();
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
        command.arg("-E").arg(format!("{CLOCK}={}", self.later()));
        command.args(options).arg(BINARY).args(&self.arguments);
        self.env.finish(&mut command)
    }

    /// Runs without a fault, and lists all that can go wrong.
    pub(super) fn faults(&self) -> (Expected, Vec<Fault>) {
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
    pub(super) fn parse(line: &str) -> Option<(usize, &str, &str, &str)> {
        let (tid, rest) = line.split_once(' ')?;
        let (number, line) = rest.trim_start().strip_prefix('[')?.split_once("] ")?;
        let (call, _) = line.split_once('(')?;
        let is_name = call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        Some((tid.parse().ok()?, number.trim(), call, line)).filter(|_| is_name)
    }

    pub(super) fn run_with(&self, fault: &Fault) -> Run {
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

    pub(super) fn was_injected(&self) -> bool {
        let log = fs::read_to_string(self.log()).unwrap();
        log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL")
    }
}

/// Returns the library that lets strace tell threads apart.
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
