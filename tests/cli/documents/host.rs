//! The hosts on which the commands of the documents are run. They have fixed ids, sizes and times, and lie
//! below a directory of the test.
//!
//! A page names the host it needs (`<!-- host: glance -->`). Cached images are sparse files with the sizes of
//! real ones. Only Ironic's master images take space, because their blocks are what removing them frees.
//!
//! Nothing here needs root or a service. Facts of the machine itself (mounts, free space, process numbers)
//! are replaced by [`super::shown`].

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FlockOperation, Timespec, Timestamps};
use sha2::{Digest as _, Sha512};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_glance-cache");

/// The time on every page. Real times are moved to it, so that a page stays the same.
const PAGE_NOW: &str = "2026-11-28T12:00:00Z";

/// No command of a page takes longer.
const HANG: Duration = Duration::from_secs(120);

const MIB: u64 = 1 << 20;
const DAY: i64 = 86_400;

/// Images in the cache: id, MiB, last use, hits. The first was used longest ago.
const TRACKED: &[(&str, u64, &str, i64)] = &[
    ("b8a1abcd-1a69-46c7-8da4-f9fc3c6da5d7", 2400, "2026-10-12T12:00:00Z", 3),
    ("1710cf53-27ac-435a-ba97-c643656412a9", 700, "2026-10-23T13:00:00Z", 8),
    ("8ca59966-66ce-4b36-8512-bd1311072231", 4300, "2026-11-10T14:00:00Z", 17),
    ("8534f457-38d0-48ec-8f10-99c6c3e1b258", 1800, "2026-11-19T16:00:00Z", 44),
    ("c79d6793-46d4-4c7a-9c39-02b38963dc6e", 3100, "2026-11-21T17:00:00Z", 120),
];
const ORPHAN: (&str, u64, &str) = ("fd724452-ccea-41ff-8a14-876aeaff1a09", 620, "2026-11-13T15:00:00Z");
const GHOST: (&str, u64, &str) = ("43000de0-1b2e-440e-93ad-dccb2c33be0a", 310, "2026-09-30T08:00:00Z");
const INVALID: (&str, u64, &str) = ("a4d2f9b1-c370-48e5-9b6d-8f1e7c20a563", 700, "2026-11-26T09:00:00Z");
const STALLED: (&str, u64, &str) = ("e7e05a62-1f8c-4d93-a2b4-5c6d9e3f7081", 300, "2026-11-24T03:00:00Z");

/// Images in the file store: id, MiB. The record of the last one has a wrong hash.
const STORED: &[(&str, u64)] = &[(CIRROS, 13), (UBUNTU, 112), (BROKEN, 24)];
const CIRROS: &str = "4f1b6a1e-0f5e-4d3c-9a52-0d6c1a3b7e10";
const UBUNTU: &str = "9c2d7f44-52c1-4b8e-8f0a-77e1c5d2a9b3";
const BROKEN: &str = "d0a3e5b8-1c7d-4e2f-b6a4-3f9e8c7b6a51";

/// Nodes of the central database.
const NODES: &[&str] =
    &["http://glance-1.internal:9292", "http://glance-2.internal:9292", "http://glance-3.internal:9292"];

/// Ironic's master images: directory, id, MiB, whether an instance uses it.
const MASTERS: &[(&str, &str, u64, bool)] = &[
    ("master_iso_images", "790a4b2c-51c3-4b1e-9d0a-1f6a3c001eef", 120, false),
    ("master_iso_images", "97f96a1b-51c3-4b1e-9d0a-1f6a3c003dde", 150, false),
    ("master_iso_images", "b6e8890a-51c3-4b1e-9d0a-1f6a3c005ccd", 90, false),
    ("master_images", "2c41d08e-7a35-4f0b-b1d6-5e9a0c7f3b28", 210, false),
    ("master_images", "64e0b7f9-3d12-4c85-9a0e-8b7d2f6c1e53", 180, false),
    ("master_images", "f08d5c3a-9e67-42b1-8c4f-a1d90e2b7f64", 240, true),
    ("tftp", "3b9f1e70-d4a8-4c26-95e1-7c0b8d2f6a91", 12, false),
    ("tftp", "a75c2d18-6f03-4e9b-8a3d-0f1e9b4c7d52", 40, false),
];

/// A host, and where its files really are.
///
/// A page looks at its host a day after it was made, and at a conductor six days after. The reason is the
/// change time of a file, which cannot be set: it is part of the last use of Ironic's images, and it is the
/// age of an orphan.
pub(super) struct Host {
    root: TempDir,
    /// The real time at which it was made.
    made: i64,
    /// The page's time for everything that happens while the page is run.
    runs_at: &'static str,
    /// What has to be added to a time on the page, in seconds, to get the real one.
    shift: i64,
    /// Where `mirror.example.org` listens.
    mirror: String,
    /// What the test's own process holds open.
    held: Vec<Box<dyn Any>>,
}

impl Host {
    /// Makes the host of that name.
    pub(super) fn new(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix("docs-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = now();
        let (lead, runs_at) =
            if name == "conductor" { (6 * DAY, "2026-11-22T12:00:00Z") } else { (DAY, PAGE_NOW) };
        let shift = made + lead - page_time(PAGE_NOW);
        let host = Host { made, runs_at, shift, mirror: mirror(), root, held: Vec::new() };
        host.make_home();
        match name {
            "glance" => host.make_glance(),
            "edge" => host.make_edge(),
            "central" => host.make_central(),
            "conductor" => host.make_conductor(),
            "empty" => {}
            other => panic!("there is no host '{other}'"),
        }
        host
    }

    /// The real place of a path of the page.
    pub(super) fn path(&self, page: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(page.as_ref().strip_prefix("/").unwrap())
    }

    /// The home directory of the one who types.
    pub(super) fn home(&self) -> PathBuf {
        self.path("/root")
    }

    pub(super) fn root(&self) -> &str {
        self.root.path().to_str().unwrap()
    }

    pub(super) fn mirror(&self) -> &str {
        &self.mirror
    }

    pub(super) fn shift(&self) -> i64 {
        self.shift
    }

    /// The page's time for a real one, in seconds since the epoch.
    pub(super) fn page_time(&self, real: i64) -> i64 {
        let is_meanwhile = (self.made..self.made + 3600).contains(&real);
        if is_meanwhile { page_time(self.runs_at) } else { real - self.shift }
    }

    /// Holds something of the cache as another process would, as long as the host lives: the index while it
    /// is written to, an incomplete image that is being downloaded, or one of Glance's locks.
    pub(super) fn hold(&mut self, name: &str) {
        let path = self.path(CACHE).join(name);
        if name == "cache.db" {
            let index = rusqlite::Connection::open(path).unwrap();
            index.execute_batch("BEGIN EXCLUSIVE").unwrap();
            self.held.push(Box::new(index));
            return;
        }
        let file = File::options().append(true).create(true).open(path).unwrap();
        if !name.starts_with("incomplete/") {
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        }
        self.held.push(Box::new(file));
    }

    /// Runs a command line of the real paths in a shell and returns what it printed on stdout and stderr, and
    /// its exit code.
    pub(super) fn run(&self, line: &str) -> (String, i32) {
        let mut output = tempfile::tempfile_in(self.root.path()).unwrap();
        let bin = self.root.path().join("usr/local/bin");
        let mut child = Command::new("sh")
            .args(["-c", line])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("HOME", self.home())
            .env("TMPDIR", self.root.path())
            .env("LC_ALL", "C")
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > HANG {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("hangs: {line}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        let mut text = Vec::new();
        std::io::Seek::rewind(&mut output).unwrap();
        output.read_to_end(&mut text).unwrap();
        (String::from_utf8_lossy(&text).into_owned(), status.code().unwrap_or(-1))
    }

    // -- Hosts --

    /// A node with a cache over its limit, an sqlite index, and most of what can go wrong in a cache.
    fn make_glance(&self) {
        self.make_store();
        self.configure("image_cache_driver = sqlite\nimage_cache_max_size = 10737418240\n", "");
        self.make_cache();
        let mut rows = String::from(TABLE);
        for (id, mib, used, hits) in TRACKED {
            self.sparse(&format!("{CACHE}/{id}"), mib * MIB, used);
            rows += &self.row(id, mib * MIB, used, *hits);
        }
        rows += &self.row(GHOST.0, GHOST.1 * MIB, GHOST.2, 1);
        self.sql(&format!("{CACHE}/cache.db"), &rows);
        for (sub, (id, mib, at)) in [("", ORPHAN), ("invalid/", INVALID), ("incomplete/", STALLED)] {
            self.sparse(&format!("{CACHE}/{sub}{id}"), mib * MIB, at);
        }
        self.sparse(&format!("{CACHE}/queue/{UBUNTU}"), 0, "2026-11-27T06:00:00Z");
    }

    /// A new node with an empty cache and three images in its queue.
    fn make_edge(&self) {
        self.make_store();
        self.configure("image_cache_driver = sqlite\nimage_cache_max_size = 10737418240\n", "");
        self.make_cache();
        self.sql(&format!("{CACHE}/cache.db"), TABLE);
        for (n, (id, _)) in STORED.iter().enumerate() {
            self.sparse(&format!("{CACHE}/queue/{id}"), 0, &format!("2026-11-27T06:00:0{n}Z"));
        }
    }

    /// A node of three that keep their index in Glance's database.
    fn make_central(&self) {
        self.make_store();
        self.configure(
            "image_cache_driver = centralized_db\nimage_cache_max_size = 10737418240\n",
            &format!("worker_self_reference_url = {}\n", NODES[0]),
        );
        self.make_cache();
        let mut rows = String::from(
            "CREATE TABLE node_reference
                 (node_reference_id INTEGER PRIMARY KEY, node_reference_url VARCHAR(255) UNIQUE);
             CREATE TABLE cached_images (id INTEGER PRIMARY KEY, image_id VARCHAR(36), last_accessed DATETIME,
                 last_modified DATETIME, size BIGINT, hits INTEGER, checksum VARCHAR(32),
                 node_reference_id INTEGER, UNIQUE (image_id, node_reference_id));",
        );
        for node in NODES {
            let _ = write!(rows, "INSERT INTO node_reference (node_reference_url) VALUES ('{node}');");
        }
        for (n, (id, mib, used, hits)) in TRACKED.iter().enumerate() {
            self.sparse(&format!("{CACHE}/{id}"), mib * MIB, used);
            for node in (1..=NODES.len()).filter(|node| n >= *node - 1) {
                let at = jiff::Timestamp::from_second(self.real(used)).unwrap();
                let at = at.strftime("%Y-%m-%d %H:%M:%S.000000");
                let _ = write!(
                    rows,
                    "INSERT INTO cached_images
                         (image_id, last_accessed, last_modified, size, hits, node_reference_id)
                     VALUES ('{id}', '{at}', '{at}', {}, {hits}, {node});",
                    mib * MIB
                );
            }
        }
        self.sql("/var/lib/glance/glance.sqlite", &rows);
    }

    /// A conductor's host: Ironic's three caches of master images and Glance's cache.
    fn make_conductor(&self) {
        self.make_store();
        self.configure("image_cache_driver = sqlite\nimage_cache_max_size = 10737418240\n", "");
        self.make_cache();
        let mut rows = String::from(TABLE);
        for (id, mib, used, hits) in [
            ("8534f457-38d0-48ec-8f10-99c6c3e1b258", 60, "2026-11-19T16:00:00Z", 44),
            ("c79d6793-46d4-4c7a-9c39-02b38963dc6e", 80, "2026-11-21T17:00:00Z", 120),
        ] {
            self.allocated(&format!("{CACHE}/{id}"), mib * MIB);
            self.set_times(&format!("{CACHE}/{id}"), used);
            rows += &self.row(id, mib * MIB, used, hits);
        }
        self.sql(&format!("{CACHE}/cache.db"), &rows);
        let ironic = self.path("/var/lib/ironic");
        self.write(
            "/etc/ironic/ironic.conf",
            &format!(
                "[deploy]\niso_master_path = {0}/master_iso_images\niso_cache_size = 1024\n\
                 [pxe]\ninstance_master_path = {0}/master_images\ntftp_master_path = {0}/tftp\n\
                 image_cache_size = 512\n",
                ironic.display()
            ),
        );
        for (directory, id, mib, in_use) in MASTERS {
            let path = format!("/var/lib/ironic/{directory}/{id}");
            self.allocated(&path, mib * MIB);
            if *in_use {
                fs::create_dir_all(self.path("/var/lib/ironic/images/node-1")).unwrap();
                fs::hard_link(self.path(path), self.path("/var/lib/ironic/images/node-1/disk")).unwrap();
            }
        }
        self.allocated("/var/lib/ironic/tftp/pxelinux.0", 42 * 1024);
        let crashed = self.path("/var/lib/ironic/master_iso_images/tmpk3x9_q2f");
        DirBuilder::new().mode(0o700).create(&crashed).unwrap();
        self.allocated(
            "/var/lib/ironic/master_iso_images/tmpk3x9_q2f/0c5d7e21-8b94-4f3a-9e60-2d1f8a7b3c46",
            70 * MIB,
        );
    }

    // -- What they are made of --

    /// The program, and a home directory in which it finds the configuration of /etc.
    fn make_home(&self) {
        for directory in
            ["root", "etc/glance", "etc/ironic", "usr/bin", "usr/local/bin", "usr/libexec", "var/log/glance"]
        {
            fs::create_dir_all(self.root.path().join(directory)).unwrap();
        }
        for project in ["glance", "ironic"] {
            let own = self.home().join(format!(".{project}"));
            symlink(self.path(format!("/etc/{project}")), own).unwrap();
        }
        for name in ["", "-cleaner", "-pruner", "-prefetcher"] {
            symlink(BINARY, self.path(format!("/usr/libexec/glance-cache{name}"))).unwrap();
        }
        let script = PROGRAM
            .replace("NOW", &self.real(PAGE_NOW).to_string())
            .replace("LIBEXEC", self.path("/usr/libexec").to_str().unwrap());
        self.write("/usr/local/bin/glance-cache", &script);
        let program = self.path("/usr/local/bin/glance-cache");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes `glance-api.conf`, which says where cache, store and database are.
    fn configure(&self, cache: &str, more: &str) {
        self.write(
            "/etc/glance/glance-api.conf",
            &format!(
                "[DEFAULT]\nimage_cache_dir = {}\n{cache}{more}\n[database]\nconnection = sqlite:///{}\n\n\
                 [glance_store]\nfilesystem_store_datadir = {}\n",
                self.path(CACHE).display(),
                self.path("/var/lib/glance/glance.sqlite").display(),
                self.path("/var/lib/glance/images").display()
            ),
        );
    }

    fn make_cache(&self) {
        for sub in ["incomplete", "invalid", "queue"] {
            fs::create_dir_all(self.path(CACHE).join(sub)).unwrap();
        }
    }

    /// A file store with three images of zeros, and Glance's records of them.
    fn make_store(&self) {
        let mut rows = String::from(
            "CREATE TABLE images (id, status, deleted, size, checksum, os_hash_algo, os_hash_value);
             CREATE TABLE image_locations
                 (id INTEGER PRIMARY KEY, image_id, value, meta_data, status, deleted);",
        );
        for (id, mib) in STORED {
            let path = format!("/var/lib/glance/images/{id}");
            self.sparse(&path, mib * MIB, "2026-11-02T10:00:00Z");
            let hash = if *id == BROKEN { "198f".repeat(32) } else { sha512_of_zeros(mib * MIB) };
            let location = |url: &str| {
                format!(
                    "INSERT INTO image_locations (image_id, value, meta_data, status, deleted)
                     VALUES ('{id}', '{url}', '{{}}', 'active', 0);"
                )
            };
            let _ = write!(
                rows,
                "INSERT INTO images VALUES ('{id}', 'active', 0, {}, NULL, 'sha512', '{hash}');",
                mib * MIB
            );
            if *id == CIRROS {
                rows += &location(&format!("{}/cirros-0.6.3.img", self.mirror));
            }
            rows += &location(&format!("file://{}", self.path(&path).display()));
        }
        for (id, mib) in TRACKED.iter().map(|image| (image.0, image.1)).chain([(ORPHAN.0, ORPHAN.1)]) {
            let size = mib * MIB;
            let _ =
                write!(rows, "INSERT INTO images VALUES ('{id}', 'active', 0, {size}, NULL, NULL, NULL);");
        }
        self.sql("/var/lib/glance/glance.sqlite", &rows);
    }

    fn row(&self, id: &str, size: u64, used: &str, hits: i64) -> String {
        let at = self.real(used);
        format!(
            "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits)
             VALUES ('{id}', {at}.0, {at}.0, {size}, {hits});"
        )
    }

    fn sql(&self, path: &str, sql: &str) {
        rusqlite::Connection::open(self.path(path)).unwrap().execute_batch(sql).unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// A file that takes no space.
    fn sparse(&self, path: &str, size: u64, at: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        File::create(self.path(path)).unwrap().set_len(size).unwrap();
        self.set_times(path, at);
    }

    /// A file whose blocks are on the disk.
    fn allocated(&self, path: &str, size: u64) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        let mut file = File::create(self.path(path)).unwrap();
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size).is_err() {
            let block = vec![7; MIB as usize];
            for start in (0..size).step_by(MIB as usize) {
                file.write_all(&block[..MIB.min(size - start) as usize]).unwrap();
            }
        }
    }

    fn set_times(&self, path: &str, at: &str) {
        let at = Timespec { tv_sec: self.real(at), tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(CWD, self.path(path), &times, AtFlags::empty()).unwrap();
    }

    /// The real time for one of the page, in seconds since the epoch.
    fn real(&self, page: &str) -> i64 {
        page_time(page) + self.shift
    }
}

const CACHE: &str = "/var/lib/glance/image-cache";

/// Glance's own schema of `cache.db`.
const TABLE: &str = "CREATE TABLE cached_images (image_id TEXT PRIMARY KEY, last_accessed REAL DEFAULT 0.0, \
                     last_modified REAL DEFAULT 0.0, size INTEGER DEFAULT 0, hits INTEGER DEFAULT 0, \
                     checksum TEXT);";

/// What a page calls `glance-cache`. Commands that only look are given the page's time; those that change
/// something take the real one.
const PROGRAM: &str = r#"#!/bin/sh
case "$0 $* " in
    *glance-cache-* | *' --now '* | *' --all-nodes '* | *' --forget-node '*) ;;
    *' --dry-run '* | *' -n '* | *' status '* | *' list '*) set -- "$@" --now NOW ;;
esac
exec LIBEXEC/${0##*/} "$@"
"#;

fn page_time(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_second()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn sha512_of_zeros(size: u64) -> String {
    static KNOWN: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    let hash = known.entry(size).or_insert_with(|| {
        let block = vec![0; MIB as usize];
        let mut hash = Sha512::new();
        for _ in 0..size / MIB {
            hash.update(&block);
        }
        let digest = hash.finalize();
        digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    });
    hash.clone()
}

/// Starts a web server that is out of order, and returns its address. It ends with the test.
fn mirror() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { continue };
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    });
    address
}
