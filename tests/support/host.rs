//! A host with Ironic's image caches, for what `--all-caches` and `prune --require` do.
//!
//! Times cannot be set back far enough, because the change time is part of an image's last use. So the clock
//! is set forward instead, by the variable [`CLOCK`].

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::env::{BINARY, Run, names, now, run};

pub(crate) const MIB: usize = 1 << 20;

/// The variable that sets the clock of a run that changes something. Only builds with debug assertions read
/// it: the program has no such option, because a wrong time would remove what is in use.
pub(crate) const CLOCK: &str = "GLANCE_CACHE_TEST_NOW";

/// A host with Ironic's three caches, below a directory of its own.
pub(crate) struct HostEnv {
    root: TempDir,
    /// The directory that the caches are in.
    pub(crate) base: PathBuf,
}

/// Makes a directory as Ironic makes one for a download, with Python's mkdtemp.
pub(crate) fn mkdtemp(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// Returns the master image number `n`.
pub(crate) fn master(n: usize) -> String {
    format!("{n:08x}-00ab-4000-8000-000000000000")
}

impl HostEnv {
    /// Makes a host whose caches are in a directory of the test.
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("gch-").tempdir().unwrap();
        let base = root.path().join("host");
        Self::at(root, base)
    }

    /// Makes a host whose caches are in `base`, which may be a file system of its own.
    pub(crate) fn at(root: TempDir, base: PathBuf) -> Self {
        let env = Self { root, base };
        for name in ["iso", "instance", "tftp"] {
            fs::create_dir_all(env.dir(name)).unwrap();
        }
        fs::create_dir_all(env.path("home")).unwrap();
        env.limits(1000, 1_000_000);
        env.conf("");
        env
    }

    /// Returns a path in the test's directory, outside the caches.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Returns the directory of a cache, or another path beside it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Writes `ironic.conf` with the same size (MiB) and age (minutes) for all three.
    pub(crate) fn limits(&self, size: u64, minutes: u64) {
        self.ironic_conf(&format!(
            "[deploy]\niso_master_path = {0}/iso\niso_cache_size = {size}\niso_cache_ttl = {minutes}\n\
             [pxe]\ninstance_master_path = {0}/instance\ntftp_master_path = {0}/tftp\nimage_cache_size = \
             {size}\n\
             image_cache_ttl = {minutes}\n",
            self.base.display()
        ));
    }

    pub(crate) fn ironic_conf(&self, text: &str) {
        fs::write(self.path("ironic.conf"), text).unwrap();
    }

    /// Writes our own configuration.
    pub(crate) fn conf(&self, text: &str) {
        fs::write(self.path("glance-cache.conf"), text).unwrap();
    }

    /// Makes an image of so many bytes, all of them on disk.
    pub(crate) fn image(&self, cache: &str, name: &str, bytes: usize) {
        fs::write(self.dir(cache).join(name), vec![7; bytes]).unwrap();
    }

    /// Makes an instance's link to an image.
    pub(crate) fn use_image(&self, cache: &str, name: &str) {
        fs::hard_link(self.dir(cache).join(name), self.dir(&format!("used-{cache}-{name}"))).unwrap();
    }

    /// Makes what a killed download leaves.
    pub(crate) fn leftover(&self, cache: &str, name: &str, bytes: usize) -> PathBuf {
        let directory = self.dir(cache).join("tmpabcd_123");
        mkdtemp(&directory);
        fs::write(directory.join(name), vec![7; bytes]).unwrap();
        directory
    }

    pub(crate) fn names(&self, cache: &str) -> Vec<String> {
        names(&self.dir(cache))
    }

    /// `glance-cache COMMAND` with this host's configuration, not run yet.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut ours = Command::new(BINARY);
        ours.env_clear().env("HOME", self.path("home")).current_dir(self.root.path()).stdin(Stdio::null());
        ours.arg(command).arg("--config-file").arg(self.path("glance-cache.conf"));
        ours.arg("--ironic-config-file").arg(self.path("ironic.conf"));
        ours
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Run {
        self.finish(self.command(command).args(arguments))
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn finish(&self, command: &mut Command) -> Run {
        run(command, self.root.path())
    }

    /// Runs a command as if it were ten days later.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn later(&self, command: &str, arguments: &[&str]) -> Run {
        self.finish(self.command(command).env(CLOCK, in_ten_days()).args(arguments))
    }

    /// `prune --require BYTES --on` the caches' file system, ten days later.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn require(&self, bytes: u64, arguments: &[&str]) -> Run {
        let on = self.base.to_str().unwrap().to_owned();
        self.finish(
            self.command("prune")
                .env(CLOCK, in_ten_days())
                .args(["--require", &format!("{bytes}B"), "--on", &on])
                .args(arguments),
        )
    }

    /// Returns how many bytes are free on the caches' file system.
    pub(crate) fn available(&self) -> u64 {
        let fs = rustix::fs::statvfs(&self.base).unwrap();
        fs.f_bavail * fs.f_frsize
    }

    /// `status --all-caches`, as JSON.
    pub(crate) fn status(&self) -> Value {
        self.run("status", &["--all-caches", "--format", "json"]).ok().json()
    }
}

pub(crate) fn in_ten_days() -> String {
    (now() + 864_000.0).to_string()
}

/// Returns the names of the caches in a report, in its order.
pub(crate) fn caches(report: &Value) -> Vec<String> {
    let caches = report["caches"].as_array().unwrap();
    caches.iter().map(|cache| cache["name"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn cache<'a>(report: &'a Value, name: &str) -> &'a Value {
    let caches = report["caches"].as_array().unwrap();
    caches.iter().find(|cache| cache["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Glance's cache with its sqlite index, and images by the seconds since their last use.
pub(crate) fn glance(env: &HostEnv, images: &[(usize, f64)]) -> rusqlite::Connection {
    for sub in ["incomplete", "invalid", "queue"] {
        fs::create_dir_all(env.dir("glance").join(sub)).unwrap();
    }
    let db = rusqlite::Connection::open(env.dir("glance/cache.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY, last_accessed REAL, last_modified REAL, size \
         INTEGER, \
         hits INTEGER, checksum TEXT)",
    )
    .unwrap();
    for (n, ago) in images {
        env.image("glance", &master(*n), 4096);
        let row = (master(*n), now() - ago);
        db.execute("INSERT INTO cached_images VALUES (?1, ?2, ?2, 4096, 0, NULL)", row).unwrap();
    }
    db
}

/// Returns what a dry run would remove: the cache and the image, in order.
pub(crate) fn planned(run: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    run["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (text(&step["cache"]), text(&step["image_id"])))
        .collect()
}
