//! A cache, Glance's database and a file store: all that `prefetch` works with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::env::*;
use super::images::{content, digest};
use super::peer::Peer;
use super::servers::{Database, Kind, PostgreSql, SqliteFile};
use super::stores::{ACCESS_KEY, Ceph, Nginx, SECRET_KEY};

/// A cache, Glance's database, and a file store.
pub(crate) struct Prefetch {
    pub(crate) env: TestEnv,
    pub(crate) db: Database,
}

impl Prefetch {
    pub(crate) fn new(driver: Driver) -> Self {
        Self::on(driver, SqliteFile)
    }

    pub(crate) fn on(driver: Driver, kind: Kind) -> Self {
        Self::of(TestEnv::empty(driver), kind)
    }

    /// Makes a file store and Glance's database for this cache.
    pub(crate) fn of(env: TestEnv, kind: Kind) -> Self {
        let db = Database::new(kind, &env.outside("glance.sqlite"));
        Self::with(env, db)
    }

    /// Makes a file store for this cache and this database.
    pub(crate) fn with(env: TestEnv, db: Database) -> Self {
        fs::create_dir(env.outside("store")).unwrap();
        Prefetch { env, db }
    }

    /// Returns the path of an image in the store.
    pub(crate) fn stored(&self, letter: char) -> PathBuf {
        self.env.outside("store").join(id(letter))
    }

    /// Returns the location of an image in the store.
    pub(crate) fn location(&self, letter: char) -> String {
        format!("file://{}", self.stored(letter).display())
    }

    /// Makes an image of so many bytes in the store, and its record.
    pub(crate) fn image(&self, letter: char, size: usize) {
        let bytes = content(letter, size);
        fs::write(self.stored(letter), &bytes).unwrap();
        self.record(letter, &bytes, &[&self.location(letter)]);
    }

    /// Inserts the record of an active image with this content, at these locations.
    pub(crate) fn record(&self, letter: char, bytes: &[u8], locations: &[&str]) {
        let (md5, sha512) = (digest("md5sum", bytes), digest("sha512sum", bytes));
        let no = if self.db.kind == PostgreSql { "false" } else { "0" };
        self.db.sql(&format!(
            "INSERT INTO images (id, size, status, checksum, os_hash_algo, os_hash_value, created_at, \
             updated_at, deleted, min_disk, \
             min_ram, protected, visibility, os_hidden) VALUES ('{}', {}, 'active', '{md5}', 'sha512', \
             '{sha512}', \
             '2024-01-01 00:00:00', '2024-01-01 00:00:00', {no}, 0, 0, {no}, 'public', {no})",
            id(letter),
            bytes.len()
        ));
        for location in locations {
            self.locate(letter, location, "{}");
        }
    }

    pub(crate) fn locate(&self, letter: char, location: &str, data: &str) {
        let no = if self.db.kind == PostgreSql { "false" } else { "0" };
        self.db.sql(&format!(
            "INSERT INTO image_locations (image_id, value, meta_data, status, deleted, created_at) VALUES \
             ('{}', '{location}', '{data}', 'active', {no}, '2024-01-01 00:00:00')",
            id(letter)
        ));
    }

    /// Changes an image's record.
    pub(crate) fn update(&self, letter: char, change: &str) {
        self.db.sql(&format!("UPDATE images SET {change} WHERE id = '{}'", id(letter)));
    }

    /// Queues images, the first to be taken first.
    pub(crate) fn queue(&self, letters: &str) {
        for (n, letter) in letters.chars().enumerate() {
            let at = self.env.now - 1000.0 + n as f64;
            self.env.file_at(Path::new("queue").join(id(letter)), 0, at, at);
        }
    }

    /// Writes the configuration, with more lines at its beginning, and returns its path.
    pub(crate) fn conf(&self, lines: &str) -> String {
        let store = self.env.outside("store");
        self.env.conf(&format!(
            "{lines}\n[glance_store]\nfilesystem_store_datadir = {}\n[database]\nconnection = {}",
            store.display(),
            self.db.url
        ))
    }

    /// Returns the command, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.env.command(BINARY);
        command.args(["prefetch", "--config-file", &self.conf("")]).args(arguments);
        command
    }

    /// Returns our program, not run yet, which may not read and write everything even as root.
    pub(crate) fn without_rights(&self) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.env.command(BINARY);
        }
        let mut command = self.env.command("setpriv");
        command.args(["--bounding-set=-dac_override,-dac_read_search", BINARY]);
        command
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.env.finish(&mut self.command(arguments))
    }

    /// Starts the command.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments), &self.env.outside(""))
    }

    /// Returns the report's entry of an image.
    #[track_caller]
    pub(crate) fn told(run: &Run, letter: char) -> Value {
        let report = run.json();
        let images = report["images"].as_array().unwrap();
        images.iter().find(|image| image["image_id"] == id(letter)).unwrap_or(&Value::Null).clone()
    }

    /// Asserts that Glance's driver serves all images, whole, and counts it.
    pub(crate) fn glance_serves(&self, images: &[(char, usize)]) {
        let mut glance = Peer::start();
        let found = glance.call("served", json!({"dir": self.env.dir(), "driver": self.env.driver.name()}));
        let expected: serde_json::Map<String, Value> = images
            .iter()
            .map(|(letter, size)| {
                let md5 = digest("md5sum", &content(*letter, *size));
                (id(*letter), json!([md5, size, 0, 1]))
            })
            .collect();
        assert_eq!(found, Value::Object(expected));
    }

    /// Asserts what comes after a store broke off both `a`, which has no other location, and `b`, which has
    /// one in the file store: `why` is said, and the next run brings `a`.
    #[track_caller]
    pub(crate) fn goes_on_after_a_broken_store(
        &self,
        run: &Run,
        why: &str,
        size: usize,
        again: impl Fn() -> Command,
    ) {
        let told = |letter| Self::told(run, letter);
        assert_eq!(run.code, 1, "{run:?}");
        for words in [why, "trying the next location", "stays in the queue"] {
            assert!(run.stderr.contains(words), "{words}: {run:?}");
        }
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
        assert_eq!(told('a')["outcome"], "failed");
        assert_eq!(told('b')["location"], self.location('b'));
        self.holds(&[('b', size)]);
        assert_eq!((self.queued().as_str(), self.env.names("invalid").len()), ("a", 0));
        self.env.finish(&mut again()).ok();
        self.holds(&[('a', size), ('b', size)]);
    }

    /// Returns the letters of the images in the queue.
    pub(crate) fn queued(&self) -> String {
        self.env.names("queue").iter().filter_map(|name| name.chars().next()).collect()
    }

    /// Asserts that the cache holds these images whole, that its index agrees, and that nothing is left of
    /// the work.
    #[track_caller]
    pub(crate) fn holds(&self, images: &[(char, usize)]) {
        let letters: String = images.iter().map(|(letter, _)| *letter).collect();
        assert_eq!(self.env.left(), letters);
        for (letter, size) in images {
            assert!(fs::read(self.env.path(id(*letter))).unwrap() == content(*letter, *size), "{letter}");
        }
        assert_eq!(self.env.names("incomplete"), [""; 0]);
    }
}

/// Returns the command with this node's part of the central index; the database gets to know the node.
pub(crate) fn on_central(p: &Prefetch, node: &str, arguments: &[&str]) -> Command {
    p.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
    let central = format!("image_cache_driver = centralized_db\nworker_self_reference_url = {node}");
    let text = fs::read_to_string(p.conf("")).unwrap().replace("image_cache_driver = xattr", &central);
    let conf = p.env.write("central.conf", text);
    let mut command = p.env.command(BINARY);
    command.args(["prefetch", "--config-file", &conf]).args(arguments);
    command
}

/// Returns a prefetch that knows the Ceph of the tests, not run yet.
pub(crate) fn on_ceph(p: &Prefetch, ceph: &Ceph, arguments: &[&str]) -> Command {
    let text = p.env.conf_text(&format!(
        "[glance_store]\nstores = rbd,s3,file\nfilesystem_store_datadir = {}\nrbd_store_ceph_conf = \
         {}\nrbd_store_user = glance\n\
         rbd_store_pool = images\ns3_store_host = http://{}\ns3_store_access_key = \
         {ACCESS_KEY}\ns3_store_secret_key = {SECRET_KEY}\n\
         s3_store_bucket = glance\n[database]\nconnection = {}",
        p.env.outside("store").display(),
        ceph.conf().display(),
        ceph.s3(),
        p.db.url
    ));
    let mut command = p.env.command(BINARY);
    command.env("PATH", "/usr/bin:/bin");
    command.args(["prefetch", "--config-file", &p.env.write("ceph.conf", text)]).args(arguments);
    command
}

/// A cache, Glance's database, and a store of each type.
pub(crate) struct Stores {
    pub(crate) prefetch: Prefetch,
    pub(crate) nginx: Nginx,
    pub(crate) ceph: &'static Ceph,
}

impl Stores {
    pub(crate) fn new(driver: Driver) -> Self {
        Stores { prefetch: Prefetch::new(driver), nginx: Nginx::start(), ceph: Ceph::shared() }
    }

    /// Writes a configuration of all stores, with more lines at its end, and returns its path.
    pub(crate) fn conf(&self, more: &str) -> String {
        let (env, db) = (&self.prefetch.env, &self.prefetch.db);
        let base = env.conf_text("enabled_backends = disk:file, web:http, ceph:rbd, objects:s3, old:swift");
        let text = format!(
            "{base}\n[database]\nconnection = {}\n\
             [disk]\nfilesystem_store_datadir = {}\n\
             [web]\nhttps_ca_certificates_file = {}\n\
             [ceph]\nrbd_store_ceph_conf = {}\nrbd_store_user = glance\n\
             [objects]\ns3_store_host = http://{}\ns3_store_bucket = glance\ns3_store_access_key = \
             {ACCESS_KEY}\n\
             s3_store_secret_key = {SECRET_KEY}\n{more}\n",
            db.url,
            env.outside("store").display(),
            self.nginx.ca().display(),
            self.ceph.conf().display(),
            self.ceph.s3(),
        );
        env.write("stores.conf", text)
    }

    pub(crate) fn run(&self, more: &str, arguments: &[&str]) -> Run {
        let conf = self.conf(more);
        self.prefetch.env.raw(&[&["prefetch", "--config-file", &conf], arguments].concat())
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let (env, conf) = (&self.prefetch.env, self.conf(""));
        Running::start(
            env.command(BINARY).args(["prefetch", "--config-file", &conf]).args(arguments),
            &env.outside(""),
        )
    }

    /// Inserts the record of an image, at locations of these stores.
    pub(crate) fn record(&self, letter: char, size: usize, locations: &[(&str, &str)]) {
        self.prefetch.record(letter, &content(letter, size), &[]);
        for (location, store) in locations {
            self.prefetch.locate(letter, location, &json!({ "store": store }).to_string());
        }
    }
}

/// Returns all that a report says of an image, as one text.
pub(crate) fn said(report: &Value, letter: char) -> String {
    let images = report["images"].as_array().unwrap();
    images.iter().find(|image| image["image_id"] == id(letter)).unwrap_or(&Value::Null).to_string()
}
