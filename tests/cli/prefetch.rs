//! `prefetch`: images from Glance's database and a file store into the cache, with the real Glance reading the result.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::env::*;
use crate::peer::Peer;
use crate::servers::{Database, Kind};

/// A cache, Glance's database, and a file store.
pub(crate) struct Prefetch {
    pub(crate) env: TestEnv,
    pub(crate) db: Database,
}

impl Prefetch {
    pub(crate) fn new(driver: Driver) -> Self {
        Self::on(driver, Kind::SqliteFile)
    }

    pub(crate) fn on(driver: Driver, kind: Kind) -> Self {
        let env = TestEnv::empty(driver);
        let db = Database::new(kind, &env.outside("glance.sqlite"));
        fs::create_dir(env.outside("store")).unwrap();
        Prefetch { env, db }
    }

    /// Where the store has an image.
    pub(crate) fn stored(&self, letter: char) -> PathBuf {
        self.env.outside("store").join(id(letter))
    }

    /// The location of an image in the store.
    pub(crate) fn location(&self, letter: char) -> String {
        format!("file://{}", self.stored(letter).display())
    }

    /// An image of so many bytes in the store, and its record.
    pub(crate) fn image(&self, letter: char, size: usize) {
        let bytes = content(letter, size);
        fs::write(self.stored(letter), &bytes).unwrap();
        self.record(letter, &bytes, &[&self.location(letter)]);
    }

    /// The record of an active image with this content, at these locations.
    pub(crate) fn record(&self, letter: char, bytes: &[u8], locations: &[&str]) {
        let (md5, sha512) = (digest("md5sum", bytes), digest("sha512sum", bytes));
        let no = if self.db.kind == Kind::PostgreSql { "false" } else { "0" };
        self.db.sql(&format!(
            "INSERT INTO images (id, size, status, checksum, os_hash_algo, os_hash_value, created_at, updated_at, deleted, min_disk, \
             min_ram, protected, visibility, os_hidden) VALUES ('{}', {}, 'active', '{md5}', 'sha512', '{sha512}', \
             '2024-01-01 00:00:00', '2024-01-01 00:00:00', {no}, 0, 0, {no}, 'public', {no})",
            id(letter),
            bytes.len()
        ));
        for location in locations {
            self.locate(letter, location, "{}");
        }
    }

    pub(crate) fn locate(&self, letter: char, location: &str, data: &str) {
        let no = if self.db.kind == Kind::PostgreSql { "false" } else { "0" };
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

    pub(crate) fn conf(&self, lines: &str) -> String {
        let store = self.env.outside("store");
        self.env.conf(&format!(
            "{lines}\n[glance_store]\nfilesystem_store_datadir = {}\n[database]\nconnection = {}",
            store.display(),
            self.db.url
        ))
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let conf = self.conf("");
        self.env.raw(&[&["prefetch", "--config-file", &conf], arguments].concat())
    }

    /// The letters of the images in the queue.
    pub(crate) fn queued(&self) -> String {
        self.env.names("queue").iter().filter_map(|name| name.chars().next()).collect()
    }

    /// Asserts that the cache holds these images whole, that its index agrees, and that nothing is left of the work.
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

/// The content of a test image.
pub(crate) fn content(letter: char, size: usize) -> Vec<u8> {
    let mut state = u64::from(u32::from(letter)) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(4)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(size);
    bytes
}

/// A digest, by the system's own tool.
pub(crate) fn digest(tool: &str, bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = std::process::Command::new(tool).arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

macro_rules! tests {
    ($($name:ident $body:block)*) => {
        $(#[test]
        #[ignore = "needs the real Glance: run tests/run"]
        fn $name() $body)*
    };
}

tests! {
    the_queue_is_fetched_verified_and_emptied {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.image('a', 3_000_000);
            p.image('b', 0);
            p.image('c', 17);
            p.queue("cab");
            let run = p.run(&["-v"]).ok();
            let report = run.json();
            assert_eq!(report["total_files_prefetched"], 3, "{report}");
            assert_eq!(report["total_bytes_prefetched"], 3_000_017, "{report}");
            assert_eq!(report["images"].as_array().unwrap().len(), 3);
            p.holds(&[('a', 3_000_000), ('b', 0), ('c', 17)]);
            assert_eq!(p.queued(), "");
        }
    }
}
