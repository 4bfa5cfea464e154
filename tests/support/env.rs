//! The vocabulary of the tests: a cache made from a compact table, the binary run on it, what is left.
//!
//! Hermetic: the environment is cleared, HOME and TMPDIR are inside the test's own directory, standard input
//! is closed, and a run that does not end is killed and reported as a hang. Nothing is skipped: a file system
//! that cannot hold what a test needs is a failure that says what to set.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, FlockOperation, Mode};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use super::cache::*;
use super::schemas;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_glance-cache");

/// Longer than any command here may take; a run that is still there then hangs.
const HANG: Duration = Duration::from_secs(120);

/// More than this on stdout or stderr is output by the megabyte.
const TOO_MUCH: u64 = 1 << 20;

/// The five images of the edge cases: 1000 bytes each, `a` used longest ago.
pub(crate) const FIVE: &[Image] =
    &[('a', 1000, 50, 0), ('b', 1000, 40, 0), ('c', 1000, 30, 0), ('d', 1000, 20, 0), ('e', 1000, 10, 0)];

/// The options that prune [`FIVE`] to `c`, `d` and `e`, without long waits.
pub(crate) const TO_3000: &[&str] = &["--max-size", "3000B", "--lock-timeout", "500ms"];

/// The options that prune everything, without long waits.
pub(crate) const TO_NOTHING: &[&str] = &["--max-size", "0", "--lock-timeout", "300ms"];

/// One line of a table: the letter of its id, its size in bytes, hours since its last use, hits.
pub(crate) type Image = (char, u64, i64, i64);

/// Returns the time now, in seconds since the epoch.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// One test's directory with a cache at `cache/`.
pub(crate) struct TestEnv {
    pub(crate) driver: Driver,
    root: TempDir,
    /// `cache/` in the test's directory, or where the cache was put with [`TestEnv::at`].
    cache: PathBuf,
    /// Read once, so that no test straddles a second.
    pub(crate) now: f64,
}

impl TestEnv {
    /// Makes an empty cache as Glance makes it: three subdirectories and, for sqlite, an index without rows.
    pub(crate) fn empty(driver: Driver) -> Self {
        let root = tempfile::Builder::new().prefix("gct-").tempdir().unwrap();
        let cache = root.path().join("cache");
        Self::at(driver, root, cache)
    }

    /// Makes an empty cache at `cache`, which lives as long as `root`.
    pub(crate) fn at(driver: Driver, root: TempDir, cache: PathBuf) -> Self {
        make(&cache, driver);
        fs::create_dir_all(root.path().join("home")).unwrap();
        Self { driver, root, cache, now: now().floor() }
    }

    pub(crate) fn new(driver: Driver, images: &[Image]) -> Self {
        let env = Self::empty(driver);
        for image in images {
            env.image(*image);
        }
        env
    }

    pub(crate) fn sqlite(images: &[Image]) -> Self {
        Self::new(Sqlite, images)
    }

    pub(crate) fn xattr(images: &[Image]) -> Self {
        Self::new(Xattr, images)
    }

    /// Makes the same cache under either driver.
    pub(crate) fn both(images: &[Image]) -> [Self; 2] {
        [Self::sqlite(images), Self::xattr(images)]
    }

    /// Makes a cache of `count` images of one byte each, the first used longest ago.
    pub(crate) fn large(driver: Driver, count: usize) -> Self {
        let env = Self::empty(driver);
        let mut rows = String::from("BEGIN;");
        for n in 0..count {
            let last = env.now - (10 * count - n) as f64;
            env.file_at(nth_id(n), 1, last, last);
            if driver == Xattr {
                env.set_hits(&nth_id(n), b"0");
            } else {
                rows.push_str(&row(&nth_id(n), last, last, 1, 0));
            }
        }
        if driver == Sqlite {
            env.sql(&(rows + "COMMIT;"));
        }
        env
    }

    // -- Making things --

    /// Returns a path in the cache directory.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.cache.join(name)
    }

    /// Returns the cache directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.cache
    }

    /// Returns a path in the test's directory but outside the cache.
    pub(crate) fn outside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes an image that the index knows.
    pub(crate) fn image(&self, (letter, size, hours, hits): Image) {
        let last = self.hours_ago(hours);
        self.file_at(id(letter), size, last, last);
        match self.driver {
            Sqlite => self.sql(&row(&id(letter), last, last, size, hits)),
            Xattr => self.set_hits(&id(letter), hits.to_string().as_bytes()),
        }
    }

    /// Makes an image file that the index does not know (with xattr: an image that was never read).
    pub(crate) fn orphan(&self, letter: char, size: u64, hours: i64) {
        self.file(id(letter), size, hours);
    }

    /// Makes a row without a file.
    pub(crate) fn ghost(&self, letter: char, hours: i64) {
        self.row(&id(letter), hours);
    }

    /// Makes a row of 1000 bytes with any id.
    pub(crate) fn row(&self, image_id: &str, hours: i64) {
        let last = self.hours_ago(hours);
        self.sql(&row(image_id, last, last, 1000, 0));
    }

    /// Makes a sparse file of `size` bytes at `name` below the cache, used and changed `hours` ago.
    pub(crate) fn file(&self, name: impl AsRef<Path>, size: u64, hours: i64) {
        let last = self.hours_ago(hours);
        self.file_at(name, size, last, last);
    }

    /// Makes a sparse file with given times of use and change.
    pub(crate) fn file_at(&self, name: impl AsRef<Path>, size: u64, used: f64, changed: f64) {
        sparse_file(&self.path(name), size, used, changed);
    }

    pub(crate) fn fifo(&self, name: impl AsRef<Path>) {
        rustix::fs::mknodat(CWD, self.path(name), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    }

    pub(crate) fn link(&self, name: impl AsRef<Path>, target: impl AsRef<Path>) {
        symlink(target, self.path(name)).unwrap();
    }

    /// Sets Glance's `user.hits`, and leaves the times as they are.
    pub(crate) fn set_hits(&self, name: &str, hits: &[u8]) {
        set_hits(&self.path(name), hits);
    }

    /// Runs SQL on the index, and closes it.
    pub(crate) fn sql(&self, sql: &str) {
        self.db().execute_batch(sql).unwrap();
    }

    /// Opens the index as another program would.
    pub(crate) fn db(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path("cache.db")).unwrap()
    }

    /// Writes a file of the test outside the cache and returns its path.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.outside(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A command that was started before may be reading it.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path.to_str().unwrap().into()
    }

    /// Writes `glance-api.conf` with this cache's directory and driver and more lines, and returns its path.
    pub(crate) fn conf(&self, lines: &str) -> String {
        self.write("glance-api.conf", self.conf_text(lines))
    }

    /// Returns the text that [`TestEnv::conf`] writes.
    pub(crate) fn conf_text(&self, lines: &str) -> String {
        let (dir, driver) = (self.cache.display(), self.driver.name());
        format!("[DEFAULT]\nimage_cache_dir = {dir}\nimage_cache_driver = {driver}\n{lines}\n")
    }

    /// Takes oslo's lock of that name in the cache directory, as glance-api does, until the file is dropped.
    pub(crate) fn lock(&self, name: &str) -> File {
        let file = File::options().append(true).create(true).open(self.path(name)).unwrap();
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        file
    }

    fn hours_ago(&self, hours: i64) -> f64 {
        self.now - (hours * 3600) as f64
    }

    // -- Running --

    /// Returns a command with a cleared environment.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("HOME", self.outside("home"))
            .env("TMPDIR", self.root.path())
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// `glance-cache` with these arguments and nothing added.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn raw<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Run {
        run(self.command(BINARY).args(arguments), self.root.path())
    }

    /// `glance-cache COMMAND --cache-dir DIR --driver DRIVER ARGUMENTS`.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Run {
        run(self.of_cache(command).args(arguments), self.root.path())
    }

    /// Returns the same command, not run yet.
    pub(crate) fn of_cache(&self, command: &str) -> Command {
        let mut ours = self.command(BINARY);
        ours.arg(command).arg("--cache-dir").arg(&self.cache).args(["--driver", self.driver.name()]);
        ours
    }

    /// Runs a command made with [`TestEnv::command`].
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn finish(&self, command: &mut Command) -> Run {
        run(command, self.root.path())
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn prune(&self, arguments: &[&str]) -> Run {
        self.run("prune", arguments)
    }

    /// `prune --cache-dir DIR ARGUMENTS`, without a driver.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn prune_with(&self, arguments: &[&str]) -> Run {
        self.raw(&[&["prune", "--cache-dir", self.cache.to_str().unwrap()], arguments].concat())
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn clean(&self, arguments: &[&str]) -> Run {
        self.run("clean", arguments)
    }

    /// `list --format json`, which has to succeed.
    pub(crate) fn list(&self) -> Value {
        self.run("list", &["--format", "json"]).ok().json()
    }

    /// `status --format json`, which has to succeed.
    pub(crate) fn status(&self) -> Value {
        self.run("status", &["--format", "json"]).ok().json()
    }

    /// Returns a link to the binary under an old name.
    pub(crate) fn old_name(&self, name: &str) -> PathBuf {
        let link = self.outside("bin").join(name);
        fs::create_dir_all(self.outside("bin")).unwrap();
        if !link.exists() {
            symlink(BINARY, &link).unwrap();
        }
        link
    }

    /// Runs the tool of an old name with these arguments.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn old(&self, name: &str, arguments: &[&str]) -> Run {
        let mut command = self.command(self.old_name(name));
        run(command.arg0(name).args(arguments), self.root.path())
    }

    /// Prunes to 3000 bytes, which has to succeed and to leave `c`, `d` and `e`.
    #[track_caller]
    pub(crate) fn prunes_to_cde(&self) {
        self.prune(TO_3000).ok().has(&json!({
            "total_files_pruned": 2, "total_bytes_pruned": 2000, "cache_size_after": 3000
        }));
        assert_eq!(self.images(), "cde", "{}", self.driver.name());
    }

    /// Prunes, which has to fail before anything is lost.
    #[track_caller]
    pub(crate) fn prune_refuses(&self, code: i32, says: &str) {
        self.prune(TO_3000).fails(code, &[says]);
        assert_eq!(self.images(), "abcde", "files were lost: {}", self.driver.name());
    }

    // -- Looking --

    /// Returns the names in a directory of the cache (`""` for the cache itself), sorted, hostile ones made
    /// visible.
    pub(crate) fn names(&self, sub: &str) -> Vec<String> {
        names(&self.path(sub))
    }

    /// Returns the letters of the image files that are left.
    pub(crate) fn images(&self) -> String {
        letters(self.names(""))
    }

    /// Returns the letters of the rows that are left, in order of id.
    pub(crate) fn rows(&self) -> String {
        letters(self.ids())
    }

    /// Returns the ids of the rows that are left.
    pub(crate) fn ids(&self) -> Vec<String> {
        let db = self.db();
        let mut rows =
            db.prepare("SELECT CAST(image_id AS TEXT) FROM cached_images ORDER BY image_id").unwrap();
        rows.query_map([], |row| row.get::<_, Option<String>>(0))
            .unwrap()
            .map(|id| id.unwrap().unwrap_or_default())
            .collect()
    }

    /// Returns the letters of the images that are left, after asserting that the index agrees.
    #[track_caller]
    pub(crate) fn left(&self) -> String {
        if self.driver == Sqlite {
            assert_eq!(self.images(), self.rows(), "files and rows differ");
        }
        self.images()
    }

    /// Returns everything in the cache: every entry with its identity, size, owner, mode and times but atime,
    /// and every row.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, String> {
        let mut all = tree(&self.cache);
        if self.driver == Sqlite && self.path("cache.db").is_file() {
            all.insert("rows".into(), self.dump());
        }
        all
    }

    fn dump(&self) -> String {
        let db = self.db();
        let sql = "SELECT group_concat(quote(image_id) || quote(last_accessed) || quote(last_modified) || \
                   quote(size) \
                   || quote(hits), x'0a') FROM (SELECT * FROM cached_images ORDER BY rowid)";
        db.query_row(sql, [], |row| row.get::<_, Option<String>>(0))
            .map(Option::unwrap_or_default)
            .unwrap_or_default()
    }
}

/// The outcome of one run.
#[derive(Debug)]
pub(crate) struct Run {
    what: String,
    /// The exit code, or 128 and the signal.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Run {
    /// Asserts exit code 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.code(0)
    }

    /// Asserts an exit code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "{}\nstdout: {}\nstderr: {}", self.what, self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}: {}", self.what, self.stderr);
        self
    }

    /// Asserts an exit code other than 0 and a message on stderr that contains each of these.
    #[track_caller]
    pub(crate) fn fails(self, expected: i32, says: &[&str]) -> Self {
        self.code(expected).says(says)
    }

    /// Asserts that stderr contains each of these.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{}: stderr lacks {word:?}:\n{}", self.what, self.stderr);
        }
        self
    }

    /// Asserts that nothing was printed.
    #[track_caller]
    pub(crate) fn silent(self) -> Self {
        assert_eq!((self.stdout.as_str(), self.stderr.as_str()), ("", ""), "{}", self.what);
        self
    }

    /// Returns the one JSON object on stdout, which has to be as its schema says.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let json = serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{}: {error}: {:?}; stderr: {}", self.what, self.stdout, self.stderr)
        });
        schemas::check(&json, &self.what);
        json
    }

    /// Asserts that the JSON object has these values.
    #[track_caller]
    pub(crate) fn has(self, expected: &Value) -> Self {
        let found = self.json();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&found[key], value, "{}: {key} in {found}; stderr: {}", self.what, self.stderr);
        }
        self
    }
}

/// Runs a command, and panics when it hangs or prints by the megabyte.
#[track_caller]
#[must_use = "check the exit code: ok(), code(), fails()"]
pub(crate) fn run(command: &mut Command, scratch: &Path) -> Run {
    Running::start(command, scratch).wait()
}

/// A command under way, its output going to files so that it can never block on us.
pub(crate) struct Running {
    pub(crate) child: Child,
    what: String,
    output: TempDir,
    started: Instant,
}

impl Running {
    pub(crate) fn start(command: &mut Command, scratch: &Path) -> Self {
        let output = tempfile::Builder::new().prefix("out-").tempdir_in(scratch).unwrap();
        command.stdout(File::create(output.path().join("stdout")).unwrap());
        command.stderr(File::create(output.path().join("stderr")).unwrap());
        let what = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Self { child, what, output, started: Instant::now() }
    }

    #[track_caller]
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn wait(mut self) -> Run {
        let waiting = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if waiting.elapsed() > HANG {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("{} hangs; stderr so far: {}", self.what, self.read("stderr"));
            }
            sleep(Duration::from_millis(2));
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
        let (stdout, stderr) = (self.read("stdout"), self.read("stderr"));
        Run { what: self.what, code, stdout, stderr, took: self.started.elapsed() }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn read(&self, stream: &str) -> String {
        let path = self.output.path().join(stream);
        let size = fs::metadata(&path).unwrap().len();
        assert!(size < TOO_MUCH, "{}: {size} bytes on {stream}", self.what);
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    }
}

/// Waits until something is so, and panics when it never is.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < HANG, "waited in vain for {what}");
        sleep(Duration::from_millis(1));
    }
}

/// Returns the processes that a process has started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    children
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// Returns the most memory that a process ever had, in KiB.
pub(crate) fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs a program of the system, which has to succeed.
#[track_caller]
pub(crate) fn system(line: &[&str]) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(line[0]).args(&line[1..]).env("PATH", path).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{line:?}: {error}"));
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

/// Returns the names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().as_bytes().escape_ascii().to_string()).collect();
    names.sort();
    names
}

/// Returns every entry below a directory and the directory itself, without following links.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, String> {
    let walk = walkdir::WalkDir::new(dir);
    walk.into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let m = entry.path().symlink_metadata().unwrap();
            let what = format!(
                "{}:{} mode {:o} owner {}:{} size {} mtime {}.{} links {}",
                m.dev(),
                m.ino(),
                m.mode(),
                m.uid(),
                m.gid(),
                m.size(),
                m.mtime(),
                m.mtime_nsec(),
                m.nlink()
            );
            (entry.path().as_os_str().as_bytes().escape_ascii().to_string(), what)
        })
        .collect()
}

fn letters(names: Vec<String>) -> String {
    let images = names.into_iter().filter(|name| name.len() == 36 && name.chars().nth(8) == Some('-'));
    images.map(|name| name.chars().next().unwrap()).collect()
}
