//! `prefetch`: images from Glance's database and a file store into the cache, with the real Glance reading the result.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::env::*;
use crate::peer::Peer;
use crate::servers::{Database, KINDS, Kind, SERVERS};
use crate::stores::{ACCESS_KEY, Ceph, Nginx, SECRET_KEY};

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
        Self::of(TestEnv::empty(driver), kind)
    }

    /// With this cache.
    pub(crate) fn of(env: TestEnv, kind: Kind) -> Self {
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

    /// Where the configuration of the test stands.
    pub(crate) fn conf(&self, lines: &str) -> String {
        let store = self.env.outside("store");
        self.env.conf(&format!(
            "{lines}\n[glance_store]\nfilesystem_store_datadir = {}\n[database]\nconnection = {}",
            store.display(),
            self.db.url
        ))
    }

    /// The command, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.env.command(BINARY);
        command.args(["prefetch", "--config-file", &self.conf("")]).args(arguments);
        command
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.env.finish(&mut self.command(arguments))
    }

    /// The command under way.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments), &self.env.outside(""))
    }

    /// What the report says of an image.
    #[track_caller]
    pub(crate) fn told(run: &Run, letter: char) -> Value {
        let report = run.json();
        let images = report["images"].as_array().unwrap();
        images.iter().find(|image| image["image_id"] == id(letter)).unwrap_or(&Value::Null).clone()
    }

    /// Glance's driver serves all images, whole, and counts it.
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

/// A database with one image of zeros, made without Glance: just what a prefetch reads. Returns its URL.
pub(crate) fn small_database(env: &TestEnv, letter: char, size: usize) -> String {
    let (store, file) = (env.outside("store").join(id(letter)), env.outside("glance.sqlite"));
    fs::create_dir_all(store.parent().unwrap()).unwrap();
    fs::write(&store, vec![0; size]).unwrap();
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE images (id, status, deleted, size, checksum, os_hash_algo, os_hash_value);
         CREATE TABLE image_locations (id, image_id, value, meta_data, status, deleted);
         INSERT INTO images VALUES ('{id}', 'active', 0, {size}, '{md5}', NULL, NULL);
         INSERT INTO image_locations VALUES (1, '{id}', 'file://{store}', '{{}}', 'active', 0);",
        id = id(letter),
        md5 = digest("md5sum", &vec![0; size]),
        store = store.display(),
    ))
    .unwrap();
    format!("sqlite:///{}", file.display())
}

/// Tests that need the real Glance and its databases.
macro_rules! tests {
    ($($name:ident $body:block)*) => {
        $(#[test]
        #[ignore = "needs the real Glance and database servers: run tests/run"]
        fn $name() $body)*
    };
}

pub(crate) use tests;

tests! {
    the_queue_is_fetched_verified_and_emptied {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.image('a', 3_000_000);
            p.image('b', 0);
            p.image('c', 17);
            p.queue("cab");
            let run = p.run(&["-v"]).ok().says(&["fetched aaaaaaaa", "verified by sha512"]);
            let report = run.json();
            assert_eq!(report["total_files_prefetched"], 3, "{report}");
            assert_eq!(report["total_bytes_prefetched"], 3_000_017, "{report}");
            let order: Vec<_> = report["images"].as_array().unwrap().iter().map(|i| &i["image_id"]).collect();
            assert_eq!(order.len(), 3);
            assert_eq!(
                Prefetch::told(&run, 'a'),
                json!({"image_id": id('a'), "outcome": "fetched", "bytes": 3_000_000, "location": p.location('a'),
                       "verified_by": "sha512", "queued": false})
            );
            p.holds(&[('a', 3_000_000), ('b', 0), ('c', 17)]);
            assert_eq!(p.queued(), "");
            p.glance_serves(&[('a', 3_000_000), ('b', 0), ('c', 17)]);
            // Once more there is nothing to do, and nothing is done.
            let before = p.env.snapshot();
            p.run(&[]).ok().has(&json!({"total_files_prefetched": 0, "images": []}));
            assert_eq!(p.env.snapshot(), before);
        }
    }

    glance_goes_on_with_what_was_fetched {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            for letter in "abc".chars() {
                p.image(letter, 1000);
            }
            p.run(&[&id('a'), &id('b'), &id('c')]).ok();
            if driver == Xattr {
                // Its lock files are images to the xattr driver, and cannot be served.
                for lock in ["glance-cache", "glance-cache-prune"] {
                    fs::remove_file(p.env.path(lock)).unwrap();
                }
            }
            let mut glance = Peer::start();
            let arguments = json!({"dir": p.env.dir(), "driver": driver.name(), "gone": [], "fresh": id('f')});
            glance.call("use", arguments);
        }
    }

    records_of_every_database_and_the_central_index {
        for kind in KINDS {
            let p = Prefetch::on(Xattr, kind);
            let node = "http://n1.example:9292";
            p.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
            p.image('a', 100_000);
            p.image('b', 5000);
            p.locate('b', "file:///nowhere", r#"{"store": "other"}"#);
            p.update('c', "size = 1");
            p.queue("abc");
            let conf = p.env.write("glance-api.conf", format!(
                "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = centralized_db\nworker_self_reference_url = {node}\n\
                 [glance_store]\nfilesystem_store_datadir = {}\n[database]\nconnection = {}\n",
                p.env.dir().display(), p.env.outside("store").display(), p.db.url
            ));
            let run = p.env.raw(&["prefetch", "--config-file", &conf]).code(1);
            assert_eq!(run.json()["total_files_prefetched"], 2, "{kind:?}");
            assert_eq!(Prefetch::told(&run, 'c')["outcome"], "gone");
            assert_eq!(p.env.images(), "ab");
            let rows = p.db.rows("SELECT image_id, size, hits FROM cached_images ORDER BY image_id");
            assert_eq!(rows, [[id('a'), "100000".into(), "0".into()], [id('b'), "5000".into(), "0".into()]]);
            let mut glance = Peer::start();
            let arguments = json!({"dir": p.env.dir(), "driver": "centralized_db", "connection": p.db.url, "node": node});
            let found = glance.call("served", arguments);
            assert_eq!(found[id('a')], json!([digest("md5sum", &content('a', 100_000)), 100_000, 0, 1]));
            assert_eq!(found.as_object().unwrap().len(), 2);
        }
    }

    a_server_tells_the_records_for_the_other_drivers {
        for (kind, driver) in SERVERS.into_iter().zip([Sqlite, Xattr]) {
            let p = Prefetch::on(driver, kind);
            p.image('a', 1000);
            p.update('a', "os_hash_algo = NULL");
            p.queue("a");
            assert_eq!(Prefetch::told(&p.run(&[]).ok(), 'a')["verified_by"], "md5");
            p.holds(&[('a', 1000)]);
        }
    }

    // -- Bad input: what is told, the exit code, and what is left --

    what_cannot_be_fetched_is_told_and_the_others_are_fetched {
        type Case = (&'static str, fn(&Prefetch), &'static [&'static str], &'static str, bool, bool);
        // (what, how, words on stderr, outcome, whether it stays in the queue, whether invalid/ has it)
        let cases: &[Case] = &[
            ("unknown", |_| {}, &["has no such image", "leaves the queue"], "gone", false, false),
            ("deleted", |p| { p.image('b', 9); p.update('b', "deleted = 1, status = 'deleted'"); },
             &["it is deleted", "leaves the queue"], "gone", false, false),
            ("deactivated", |p| { p.image('b', 9); p.update('b', "status = 'deactivated'"); },
             &["deactivated, not active", "stays in the queue"], "not_ready", true, false),
            ("without locations", |p| p.record('b', b"x", &[]),
             &["no active location", "stays"], "not_ready", true, false),
            ("deleted location", |p| { p.image('b', 9); p.db.sql("UPDATE image_locations SET status = 'deleted' WHERE image_id LIKE 'b%'"); },
             &["no active location"], "not_ready", true, false),
            ("unknown scheme", |p| p.record('b', b"x", &["gopher://h/x"]), &["gopher"], "failed", true, false),
            ("swift", |p| p.record('b', b"x", &["swift+https://u:s3cret@auth/c/o"]), &["swift"], "failed", true, false),
            ("record says 0", |p| { p.image('b', 9); p.update('b', "size = 0"); }, &["9 bytes there"], "failed", true, false),
            ("record says more", |p| { p.image('b', 9); p.update('b', "size = 10"); },
             &["9 bytes there", "10"], "failed", true, false),
            ("wrong hash", |p| { p.image('b', 9); p.update('b', "os_hash_value = 'ffff'"); },
             &["sha512", "instead of ffff", "stays in the queue"], "failed", true, true),
            ("wrong checksum, unknown hash", |p| {
                p.image('b', 9);
                p.update('b', "os_hash_algo = 'whirlpool', checksum = 'eeee'");
             }, &["md5", "instead of eeee"], "failed", true, true),
            ("outside the store", |p| p.record('b', b"x", &["file:///etc/shadow"]), &["/etc/shadow"], "failed", true, false),
            ("missing in the store", |p| p.record('b', b"x", &[&p.location('b')]), &["store"], "failed", true, false),
            ("a directory in the store", |p| { p.record('b', b"x", &[&p.location('b')]); fs::create_dir(p.stored('b')).unwrap(); },
             &["store"], "failed", true, false),
            ("its name is a directory", |p| { p.image('b', 9); fs::create_dir(p.env.path(id('b'))).unwrap(); },
             &["is not a file", "stays"], "failed", true, false),
            ("too large for the disk", |p| { p.image('b', 9); p.update('b', "size = 1000000000000000"); },
             &["no room", "stays"], "refused", true, false),
        ];
        for driver in [Sqlite, Xattr] {
            for (what, make, words, outcome, stays, invalid) in cases {
                println!("{what}");
                let p = Prefetch::new(driver);
                p.image('a', 1000);
                p.image('c', 1000);
                make(&p);
                p.queue("abc");
                fs::write(p.env.path("queue/README"), "").unwrap();
                let run = p.run(&[]).fails(1, words).says(&[&id('b'), "queue/README"]);
                assert!(!run.stderr.contains("s3cret") && !run.stdout.contains("s3cret"), "{}", run.stderr);
                println!("{}", run.stderr);
                let told = Prefetch::told(&run, 'b');
                assert_eq!((told["outcome"].as_str(), told["queued"].as_bool()), (Some(*outcome), Some(*stays)), "{what}: {told}");
                assert_eq!(p.env.images().replace('b', ""), "ac", "{what}");
                assert_eq!(p.queued(), if *stays { "Rb" } else { "R" }, "{what}");
                assert_eq!(p.env.names("incomplete"), [""; 0], "{what}");
                assert_eq!(p.env.names("invalid"), if *invalid { vec![id('b')] } else { vec![] }, "{what}");
                if *invalid && driver == Xattr {
                    let list = p.env.list();
                    assert!(list["invalid"][0].to_string().contains("instead of"), "{list}");
                }
            }
        }
    }

    the_next_location_is_tried {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            let good = content('a', 5000);
            let wrong = p.env.outside("store/wrong");
            fs::write(&wrong, content('b', 5000)).unwrap();
            fs::write(p.stored('a'), &good).unwrap();
            let wrong = format!("file://{}", wrong.display());
            p.record('a', &good, &["gopher://x/y", "file:///nowhere/at/all", &wrong, &p.location('a')]);
            p.queue("a");
            let run = p.run(&[]).ok().says(&["gopher", "nowhere", "instead of", "the next location is tried"]);
            assert_eq!(Prefetch::told(&run, 'a')["location"], p.location('a'));
            p.holds(&[('a', 5000)]);
            assert_eq!(p.env.names("invalid"), [id('a')]);
        }
    }

    what_failed_is_not_downloaded_again_until_something_changes {
        let p = Prefetch::new(Sqlite);
        p.image('a', 9);
        p.image('b', 9);
        p.update('b', "os_hash_value = 'ffff'");
        p.queue("ba");
        let before = fs::metadata(p.env.path("queue").join(id('b'))).unwrap().mtime();
        p.run(&[]).fails(1, &["instead of ffff"]);
        assert_eq!(fs::metadata(p.env.path("queue").join(id('b'))).unwrap().mtime(), before);
        fs::remove_file(p.env.path("invalid").join(id('b'))).unwrap();
        let run = p.run(&[]).fails(1, &["in an earlier run", "instead of ffff", "--retry"]);
        assert_eq!(Prefetch::told(&run, 'b')["outcome"], "skipped");
        assert_eq!(p.env.names("invalid"), [""; 0]);
        p.run(&["--retry"]).fails(1, &["instead of ffff"]);
        assert_eq!(p.env.names("invalid"), [id('b')]);
        // Who names it wants it tried.
        fs::remove_file(p.env.path("invalid").join(id('b'))).unwrap();
        p.run(&[&id('b')]).fails(1, &["instead of ffff"]);
        assert_eq!(p.env.names("invalid"), [id('b')]);
        p.update('b', &format!("os_hash_value = '{}'", digest("sha512sum", &content('b', 9))));
        p.run(&[]).ok();
        p.holds(&[('a', 9), ('b', 9)]);
        assert_eq!(p.queued(), "");
    }

    a_missing_file_is_tried_again_each_time {
        let p = Prefetch::new(Sqlite);
        p.record('a', &content('a', 9), &[&p.location('a')]);
        p.queue("a");
        p.run(&[]).code(1);
        fs::write(p.stored('a'), content('a', 9)).unwrap();
        p.run(&[]).ok();
        p.holds(&[('a', 9)]);
    }

    what_cannot_be_verified_is_told_or_refused {
        let p = Prefetch::new(Xattr);
        p.image('a', 9);
        p.update('a', "os_hash_algo = NULL, os_hash_value = NULL, checksum = NULL");
        p.queue("a");
        p.run(&["--require-checksum"]).fails(1, &["neither a hash nor a checksum", "stays in the queue"]);
        assert_eq!(p.env.images(), "");
        let run = p.run(&[]).ok().says(&["by its size alone"]);
        assert_eq!(Prefetch::told(&run, 'a')["verified_by"], "size");
        p.holds(&[('a', 9)]);
    }

    // -- The queue and the command line --

    images_are_named_listed_and_queued {
        let p = Prefetch::new(Sqlite);
        for letter in "abcd".chars() {
            p.image(letter, 9);
        }
        p.queue("d");
        let list = p.env.write("list", format!("# golden\n{}\n\n{} # twice\n{}\n", id('b'), id('a'), id('b')));
        let mut command = p.command(&["-", &id('d')]);
        p.env.finish(command.stdin(File::open(list).unwrap())).ok().has(&json!({"total_files_prefetched": 3}));
        p.holds(&[('a', 9), ('b', 9), ('d', 9)]);
        assert_eq!(p.queued(), "");
        let run = p.run(&["--enqueue", &id('c'), &id('a')]).ok();
        assert_eq!(Prefetch::told(&run, 'c')["outcome"], "enqueued");
        assert_eq!(Prefetch::told(&run, 'a')["outcome"], "cached");
        assert_eq!(p.queued(), "c");
        let mut glance = Peer::start();
        let listing = glance.call("listing", json!({"dir": p.env.dir(), "driver": "sqlite"}));
        assert_eq!(listing["queued_images"], json!([id('c')]));
        p.run(&[]).ok();
        p.holds(&[('a', 9), ('b', 9), ('c', 9), ('d', 9)]);
        p.run(&["not-a-uuid"]).code(2);
        p.run(&["--enqueue"]).code(2);
        p.run(&[&id('e')]).fails(1, &["has no such image"]);
    }

    a_dry_run_tells_all_and_changes_nothing {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.env.image(('f', 1000, 5, 0));
            p.image('a', 3000);
            p.image('f', 1000);
            p.queue("abf");
            let before = p.env.snapshot();
            let run = p.run(&["--dry-run"]).code(1);
            assert_eq!(p.env.snapshot(), before);
            let report = run.json();
            assert_eq!((&report["dry_run"], &report["total_bytes_prefetched"]), (&json!(true), &json!(3000)));
            assert_eq!(report["plan"][0]["image_id"], id('a'));
            assert!(report["plan"][0]["reason"].as_str().unwrap().contains(&p.location('a')), "{report}");
            assert_eq!(report["cache_size_after"], 4000);
            let text = p.run(&["-n", "--format", "text"]).code(1);
            assert!(text.stdout.contains("would fetch 1 image"), "{}", text.stdout);
        }
    }

    an_empty_queue_asks_for_nothing {
        let p = Prefetch::new(Xattr);
        // No database, no index: a cron job on a node without a queue.
        p.run(&["--database", "mysql://nobody@127.0.0.1:1/x"]).ok().has(&json!({"images": []}));
        p.queue("a");
        p.run(&["--database", "mysql://nobody@127.0.0.1:1/x"]).fails(3, &["cannot connect"]);
        let conf = p.env.conf("");
        p.env.raw(&["prefetch", "--config-file", &conf]).fails(2, &["[database] connection is not set"]);
        assert_eq!(p.queued(), "a");
    }

    // -- The limit and the disk --

    the_limit_is_prunes_business_unless_it_is_to_be_kept {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.env.image(('c', 1000, 30, 0));
            p.env.image(('d', 1000, 20, 0));
            p.env.image(('e', 1000, 10, 0));
            p.image('a', 1500);
            p.image('b', 1000);
            p.queue("ab");
            let args = ["--max-size", "4000", "-j", "1"];
            p.run(&[&args[..], &["--within-limit"]].concat()).fails(1, &["over its limit of 3.91 KiB", "stays"]);
            assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("bcde", "a"));
            // Room for one more goes from what was used longest ago, never from what is queued.
            p.env.file_at(Path::new("queue").join(id('c')), 0, p.env.now, p.env.now);
            let run = p.run(&[&args[..], &["--make-room", &id('a')]].concat()).ok();
            assert_eq!(run.json()["total_files_pruned"], 2, "{}", run.stdout);
            assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("abc", "c"));
            p.image('f', 5000);
            p.run(&[&args[..], &["--make-room", &id('f')]].concat()).fails(1, &["whatever may be removed"]);
            assert_eq!(p.env.left(), "abc");
            let run = p.run(&[&args[..], &[&id('f')]].concat()).ok();
            assert_eq!((&run.json()["over_limit"], &run.json()["cache_size_after"]), (&json!(true), &json!(8500)));
            assert_eq!(p.env.left(), "abcf");
        }
    }

    // -- Beside others --

    what_somebody_else_caches_is_left {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.image('a', 9);
            p.image('b', 9);
            p.queue("ab");
            p.env.file(Path::new("incomplete").join(id('a')), 5, 1);
            let run = p.run(&["-v"]).ok().says(&["another process is caching it"]);
            assert_eq!(Prefetch::told(&run, 'a')["outcome"], "left_to_glance");
            assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("b", "a"));
            // Stalled, but written to.
            let path = p.env.path("incomplete").join(id('a'));
            let writer = File::options().append(true).open(&path).unwrap();
            p.run(&["-v", "--stall-time", "30min"]).ok().says(&["is caching it"]);
            assert_eq!(fs::read(&path).unwrap().len(), 5);
            drop(writer);
            p.run(&["--stall-time", "30min"]).ok();
            p.holds(&[('a', 9), ('b', 9)]);
        }
    }

    what_glance_caches_meanwhile_is_glances {
        for driver in [Sqlite, Xattr] {
            for fail in [false, true] {
                let p = Prefetch::new(driver);
                p.image('a', 3_000_000);
                p.queue("a");
                let mut glance = Peer::start();
                glance.call("listing", json!({"dir": p.env.dir(), "driver": driver.name()}));
                let ours = p.start(&["-v", "--rate-limit", "1500000"]);
                let claim = p.env.path("incomplete").join(id('a'));
                until("the claim", || claim.exists());
                let arguments = json!({"dir": p.env.dir(), "driver": driver.name(), "image_id": id('a'), "pause": if fail { 0.0 } else { 4.0 },
                                       "size": 3_000_000, "fail": fail});
                glance.ask("slowly", arguments);
                if fail {
                    // Glance gives up, and moves what was our claim into invalid/: then it is ours again.
                    glance.answer().unwrap();
                    ours.wait().ok().has(&json!({"total_files_prefetched": 1}));
                    p.holds(&[('a', 3_000_000)]);
                } else {
                    let run = ours.wait().ok();
                    assert_eq!(Prefetch::told(&run, 'a')["outcome"], "left_to_glance", "{}", run.stderr);
                    glance.answer().unwrap();
                    assert_eq!(fs::read(p.env.path(id('a'))).unwrap(), vec![b'g'; 3_000_000], "the test's own Glance");
                    assert_eq!((p.env.left().as_str(), p.env.names("incomplete").len()), ("a", 0));
                }
            }
        }
    }

    two_at_once_fetch_each_image_once {
        let p = Prefetch::new(Sqlite);
        for letter in "abcdef".chars() {
            p.image(letter, 100_000);
        }
        p.queue("abcdef");
        // Each command writes the configuration anew: none is to read it half-written.
        let commands = [(); 3].map(|()| p.command(&["--rate-limit", "2000000"]));
        let runs = commands.map(|mut command| Running::start(&mut command, &p.env.outside("")));
        let fetched: u64 = runs.map(|run| run.wait().ok().json()["total_files_prefetched"].as_u64().unwrap()).iter().sum();
        assert_eq!(fetched, 6);
        p.holds(&"abcdef".chars().map(|letter| (letter, 100_000)).collect::<Vec<_>>());
        p.queue("a");
        let _held = p.env.lock("glance-cache");
        p.run(&["--lock-timeout", "100ms"]).fails(3, &["glance-cache", "still held by"]);
        p.run(&["--skip-if-locked"]).ok();
    }

    publishing_waits_for_a_prune {
        let p = Prefetch::new(Sqlite);
        p.image('a', 9);
        p.queue("a");
        let held = p.env.lock("glance-cache-prune");
        p.run(&["--lock-timeout", "200ms"]).fails(1, &["cannot be published", "glance-cache-prune"]);
        assert_eq!((p.env.images().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "a", 0));
        let ours = p.start(&[]);
        sleep(Duration::from_millis(500));
        drop(held);
        ours.wait().ok();
        p.holds(&[('a', 9)]);
    }

    // -- Ended early --

    a_signal_leaves_nothing_staged_and_the_queue_as_it_was {
        for (signal, code, name) in [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM")] {
            let p = Prefetch::new(Sqlite);
            for letter in "abc".chars() {
                p.image(letter, 9_000_000);
            }
            p.queue("abc");
            let before = p.env.snapshot();
            let ours = p.start(&["--rate-limit", "1MB"]);
            until("a claim", || !p.env.names("incomplete").is_empty());
            sleep(Duration::from_millis(300));
            ours.signal(signal);
            let run = ours.wait().code(code).has(&json!({"signal": name, "total_files_prefetched": 0, "still_queued": 3}));
            assert_eq!(Prefetch::told(&run, 'c')["outcome"], "pending");
            let mut after = p.env.snapshot();
            after.retain(|path, _| !path.contains("glance-cache"));
            let keys = |map: &std::collections::BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&after), keys(&before));
            assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("", "abc"));
        }
    }

    killed_at_any_moment_the_next_run_goes_on {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            for letter in "abcdef".chars() {
                p.image(letter, 400_000);
            }
            p.queue("abcdef");
            let mut kills = 0;
            for n in 0_u64.. {
                let mut ours = p.start(&["--rate-limit", "4MB"]);
                sleep(Duration::from_millis(15 + n * 37 % 400));
                if ours.child.try_wait().unwrap().is_some() {
                    ours.wait().ok();
                    break;
                }
                ours.signal(Signal::KILL);
                let _ = ours.wait();
                kills += 1;
                for letter in p.env.images().chars() {
                    assert!(fs::read(p.env.path(id(letter))).unwrap() == content(letter, 400_000), "{letter} after {n} kills");
                }
                let names = p.env.names("incomplete");
                assert!(names.iter().all(|name| p.env.path("incomplete").join(name).metadata().unwrap().len() == 0));
                assert!(kills < 200, "it never ends");
            }
            println!("{}: {kills} kills", driver.name());
            p.run(&[]).ok();
            p.holds(&"abcdef".chars().map(|letter| (letter, 400_000)).collect::<Vec<_>>());
            assert_eq!(p.queued(), "");
            p.glance_serves(&"abcdef".chars().map(|letter| (letter, 400_000)).collect::<Vec<_>>());
        }
    }
}

// -- Every store --

#[test]
#[ignore = "needs the real Glance, nginx and Ceph: run tests/run"]
fn every_store_gives_its_images() {
    let (nginx, ceph) = (Nginx::start(), Ceph::shared());
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        let size = 3_000_001;
        let images: Vec<_> = "abcdef".chars().map(|letter| (letter, size)).collect();
        let name = |letter: char| format!("{}-{}", id(letter), driver.name());
        nginx.put(&name('b'), &content('b', size));
        nginx.put(&name('c'), &content('c', size));
        ceph.put("glance", &name('d'), &content('d', size));
        ceph.put("glance", &name('e'), &content('e', size));
        p.image('a', size);
        for (letter, location) in [
            ('b', nginx.url(&format!("/redir/?to=/{}", name('b')))),
            ('c', nginx.https_url(&format!("/{}", name('c')))),
            ('d', format!("s3://{ACCESS_KEY}:{SECRET_KEY}@{}/glance/{}", ceph.s3(), name('d'))),
            ('e', format!("s3+http://{}/glance/{}", ceph.s3(), name('e'))),
            ('f', ceph.import(&name('f'), &content('f', size))),
        ] {
            p.record(letter, &content(letter, size), &[&location]);
        }
        p.queue("fedcba");
        let conf = p.conf("").replace("glance-api.conf", "stores.conf");
        let text = p.env.conf_text(&format!(
            "[glance_store]\nstores = file,http,s3,rbd\nfilesystem_store_datadir = {}\nhttps_ca_certificates_file = {}\n\
             s3_store_host = http://{}\ns3_store_access_key = {ACCESS_KEY}\ns3_store_secret_key = {SECRET_KEY}\n\
             s3_store_bucket = glance\nrbd_store_ceph_conf = {}\nrbd_store_user = glance\nrbd_store_pool = images\n\
             [database]\nconnection = {}",
            p.env.outside("store").display(), nginx.ca().display(), ceph.s3(), ceph.conf().display(), p.db.url
        ));
        fs::write(&conf, text).unwrap();
        let mut command = p.env.command(BINARY);
        command.env("PATH", "/usr/bin:/bin").args(["prefetch", "--config-file", &conf, "-v", "-j", "3"]);
        let run = p.env.finish(&mut command).ok();
        println!("{}", run.stderr);
        assert!(
            !run.stderr.contains("s3cret") && !run.stdout.contains("s3cret"),
            "{}{}",
            run.stderr,
            run.stdout
        );
        p.holds(&images);
        p.glance_serves(&images);
    }
}

#[test]
#[ignore = "needs the real Glance and nginx: run tests/run"]
fn a_server_that_dies_half_way_leaves_nothing_and_is_remembered() {
    let nginx = Nginx::start();
    let p = Prefetch::new(Sqlite);
    let size = 6 << 20;
    nginx.put("a", &content('a', size));
    p.record('a', &content('a', size), &[&nginx.url("/slow/a")]);
    p.queue("a");
    let ours = p.start(&[]);
    until("the first bytes", || !nginx.requests().is_empty() || p.env.names("incomplete") == [id('a')]);
    sleep(Duration::from_millis(700));
    nginx.kill();
    let run = ours.wait().fails(1, &[&id('a'), "stays in the queue"]);
    println!("{}", run.stderr);
    assert_eq!((p.env.left().as_str(), p.env.names("incomplete").len(), p.queued().as_str()), ("", 0, "a"));
    nginx.start_again();
    until("nginx", || std::net::TcpStream::connect(nginx.url("").trim_start_matches("http://")).is_ok());
    p.run(&[]).fails(1, &["in an earlier run", "--retry"]);
    p.run(&["--retry"]).ok();
    p.holds(&[('a', size)]);
}

// -- Killed, and refused, at each system call --

/// The calls of a fetch that change something, and how often a thread makes each.
fn changing_calls(p: &Prefetch) -> Vec<(String, usize)> {
    let log = p.env.outside("strace");
    let mut command = p.env.command("/usr/bin/strace");
    command.args(["-f", "-o", log.to_str().unwrap(), "-e", CHANGING, BINARY]).args(arguments(p));
    p.env.finish(&mut command).ok();
    let mut counts = std::collections::BTreeMap::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else { continue };
        if let Some((name, _)) = call.split_once('(') {
            *counts.entry((name.to_owned(), thread.to_owned())).or_insert(0) += 1;
        }
    }
    let mut most = std::collections::BTreeMap::new();
    for ((name, _), count) in counts {
        let entry = most.entry(name).or_insert(0);
        *entry = count.max(*entry);
    }
    most.into_iter().collect()
}

const CHANGING: &str = "trace=openat,unlinkat,unlink,linkat,pwrite64,copy_file_range,ftruncate,fdatasync,fsync,utimensat,fsetxattr,ioctl";

fn arguments(p: &Prefetch) -> Vec<String> {
    ["prefetch", "--config-file", &p.conf(""), "-j", "1"].map(str::to_owned).to_vec()
}

fn three(driver: Driver) -> Prefetch {
    let p = Prefetch::new(driver);
    for letter in "abc".chars() {
        p.image(letter, 70_000);
    }
    p.queue("abc");
    p
}

/// Fetches three images while a system call fails or kills, and lets the next run mend what is left.
fn refused(driver: Driver, inject: &str) {
    let p = three(driver);
    let log = p.env.outside("strace");
    let mut command = p.env.command("/usr/bin/strace");
    command.args(["-f", "-o", log.to_str().unwrap(), "-e", inject, BINARY]).args(arguments(&p));
    let run = p.env.finish(&mut command);
    let context = format!("{} {inject}: {}", driver.name(), run.stderr);
    println!("{context}");
    assert!([0, 1, 2, 3, 137].contains(&run.code) && !run.stderr.contains("panicked"), "{context}");
    for letter in p.env.images().chars() {
        assert!(fs::read(p.env.path(id(letter))).unwrap() == content(letter, 70_000), "{letter}: {context}");
    }
    if driver == Sqlite && p.env.path("cache.db").exists() {
        let (images, rows) = (p.env.images(), p.env.rows());
        assert!(images.chars().all(|image| rows.contains(image)), "an orphan: {images} {rows} {context}");
    }
    assert!(p.env.images().len() + p.queued().len() >= 3, "{context}");
    p.run(&["--retry"]).ok();
    p.holds(&[('a', 70_000), ('b', 70_000), ('c', 70_000)]);
    assert_eq!(p.queued(), "", "{context}");
}

#[test]
#[ignore = "needs the real Glance and strace: run tests/run"]
fn killed_or_refused_at_each_system_call_the_next_run_mends_it() {
    for driver in [Sqlite, Xattr] {
        let calls = changing_calls(&three(driver));
        assert!(calls.iter().any(|(name, _)| name == "linkat"), "{calls:?}");
        let mut runs = 0;
        for (name, count) in &calls {
            // The dynamic linker's and the configuration's openat say nothing about a fetch.
            let first = if name == "openat" { 10 } else { 1 };
            for when in first..=*count {
                // Killed at each of them, refused in turn.
                let error = ["error=ENOSPC", "error=EIO"][runs % 2];
                let whats = if runs % 3 == 0 { vec!["signal=KILL", error] } else { vec!["signal=KILL"] };
                for what in whats {
                    runs += 1;
                    refused(driver, &format!("inject={name}:{what}:when={when}"));
                }
            }
        }
        println!("{}: {runs} runs, {calls:?}", driver.name());
    }
}

mod as_root {
    use super::*;
    use crate::root::{Ext4, Mount};

    #[test]
    #[ignore = "needs root and the real Glance: run tests/run"]
    fn everything_made_as_root_belongs_to_the_owner_of_the_cache() {
        for driver in [Sqlite, Xattr] {
            let p = Prefetch::new(driver);
            p.image('a', 1000);
            p.image('b', 1000);
            p.update('b', "os_hash_value = 'ffff'");
            p.queue("ab");
            chmod(&p.env.outside(""), 0o755);
            give_to_nobody(p.env.dir());
            p.run(&[]).code(1);
            p.run(&["--enqueue", &id('c')]).ok();
            for (path, what) in tree(p.env.dir()) {
                assert!(what.contains("owner 65534:65534"), "{path}: {what}");
            }
            assert_eq!((p.env.left().as_str(), p.env.names("invalid")), ("a", vec![id('b')]));
        }
    }

    #[test]
    #[ignore = "needs root and the real Glance: run tests/run"]
    fn a_full_disk_is_told_and_left_as_it_was() {
        for driver in [Sqlite, Xattr] {
            let root = tempfile::Builder::new().prefix("gct-").tempdir().unwrap();
            let ext4 = Ext4::make(root.path(), 24);
            let mount = Mount::ext4(&ext4, &root.path().join("mount"), "rw");
            let p = Prefetch::of(TestEnv::at(driver, root, mount.point.join("cache")), Kind::SqliteFile);
            p.image('a', 3 << 20);
            p.image('b', 30 << 20);
            p.image('c', 11 << 20);
            p.update('c', "size = NULL");
            p.queue("abc");
            let run = p
                .run(&["--reserve", "8MiB", "-j", "1"])
                .fails(1, &["which the file system has no room for", "has room for"]);
            println!("{}", run.stderr);
            assert_eq!(
                (p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
                ("a", "bc", 0)
            );
            // Somebody else fills the disk while it is fetched.
            fs::write(mount.point.join("filler"), vec![1; 13 << 20]).unwrap();
            p.update('b', "size = NULL");
            let run = p.run(&["--reserve", "0"]).code(1);
            println!("{}", run.stderr);
            assert_eq!(
                (p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()),
                ("a", "bc", 0)
            );
            fs::remove_file(mount.point.join("filler")).unwrap();
            p.run(&["--reserve", "0", &id('c')]).ok();
            assert_eq!(p.env.left(), "ac");
            drop(p);
        }
    }
}
