//! `prefetch` beside the prefetcher of Glance 31.1.0: the same store, the same database, the same queue, once
//! by each. (That of Glance 33 does not start.)
//!
//! What can be fetched has to come out the same, by Glance's own driver. What cannot be fetched is where ours
//! differs on purpose: each such case is a test that says how.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::env::*;
use crate::support::images::{content, digest};
use crate::support::peer::{Peer, prefetcher};
use crate::support::prefetch::Prefetch;
use crate::support::servers::{Database, SqliteFile};
use crate::support::stores::Nginx;

const NODE: &str = "http://n1.example:9292";

/// Two caches with the same things in their queues.
struct Pair {
    prefetch: Prefetch,
    nginx: Nginx,
    driver: &'static str,
    /// Ours and theirs: the directory, the node of the central index, the configuration.
    sides: [(PathBuf, String, String); 2],
}

impl Pair {
    fn new(driver: &'static str) -> Self {
        let prefetch = Prefetch::new(Xattr);
        // Its prefetcher reads more tables than ours.
        let _ = Database::whole(SqliteFile, &prefetch.env.outside("glance.sqlite"));
        let env = &prefetch.env;
        let sides = ["ours", "theirs"].map(|who| {
            let (dir, node) = (env.outside(who), format!("{NODE}/{who}"));
            for sub in ["queue", "incomplete", "invalid"] {
                fs::create_dir_all(dir.join(sub)).unwrap();
            }
            prefetch.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
            let (cache, locks) = (dir.display(), env.outside(format!("{who}-locks")));
            fs::create_dir(&locks).unwrap();
            let text = format!(
                "[DEFAULT]\nimage_cache_dir = {cache}\nimage_cache_driver = \
                 {driver}\nworker_self_reference_url = {node}\n\
                 enabled_backends = disk:file, web:http\n\
                 [glance_store]\ndefault_backend = disk\n\
                 [disk]\nfilesystem_store_datadir = {}\n\
                 [database]\nconnection = {}\n\
                 [oslo_concurrency]\nlock_path = {}\n",
                env.outside("store").display(),
                prefetch.db.url,
                locks.display(),
            );
            let conf = env.write(&format!("{who}.conf"), text);
            (dir, node, conf)
        });
        // Glance's driver makes its table itself; ours wants one that is there.
        let pair = Pair { prefetch, nginx: Nginx::start(), driver, sides };
        if driver == "sqlite" {
            let mut glance = Peer::start();
            for (dir, ..) in &pair.sides {
                glance.call("make", json!({"dir": dir, "driver": driver}));
            }
        }
        pair
    }

    /// Makes an image of so many bytes with a record, in the file store or at nginx.
    fn image(&self, letter: char, size: usize, store: &str) {
        let bytes = content(letter, size);
        self.prefetch.record(letter, &bytes, &[]);
        let location = if store == "web" {
            self.nginx.put(&letter.to_string(), &bytes);
            self.nginx.url(&format!("/{letter}"))
        } else {
            fs::write(self.prefetch.stored(letter), &bytes).unwrap();
            self.prefetch.location(letter)
        };
        self.prefetch.locate(letter, &location, &json!({ "store": store }).to_string());
    }

    fn queue(&self, letters: &str) {
        for (n, letter) in letters.chars().enumerate() {
            for (dir, ..) in &self.sides {
                let at = self.prefetch.env.now - 1000.0 + n as f64;
                let entry = dir.join("queue").join(id(letter));
                fs::write(&entry, "").unwrap();
                set_times(&entry, at, at);
            }
        }
    }

    /// Has one side fetch: 0 is ours, 1 is Glance 31.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn fetch_by(&self, side: usize) -> Run {
        let env = &self.prefetch.env;
        let conf = &self.sides[side].2;
        if side == 0 {
            env.raw(&["prefetch", "--config-file", conf])
        } else {
            env.finish(env.command(prefetcher()).args(["--config-file", conf]))
        }
    }

    /// Returns the names and sizes of all in a cache that is not the index's, and each image as Glance's
    /// driver serves it.
    fn state(&self, glance: &mut Peer, side: usize) -> (BTreeMap<String, u64>, Value) {
        let (dir, node, _) = &self.sides[side];
        let mut files = BTreeMap::new();
        for sub in ["", "queue", "incomplete", "invalid"] {
            for name in names(&dir.join(sub)).into_iter().filter(|name| name.len() == 36) {
                let path = Path::new(sub).join(name);
                // An entry of the queue may remember why it failed: Glance asks only whether it is there.
                let length = if sub == "queue" { 0 } else { fs::metadata(dir.join(&path)).unwrap().len() };
                files.insert(path.display().to_string(), length);
            }
        }
        let url = self.prefetch.db.url.as_str();
        let arguments = json!({"dir": dir, "driver": self.driver, "connection": url, "node": node});
        (files, glance.call("served", arguments))
    }
}

fn fetches_the_same(driver: &'static str) {
    let pair = Pair::new(driver);
    let images = [('a', 3_000_001, "disk"), ('b', 0, "disk"), ('c', 17, "web"), ('d', 2_000_000, "web")];
    for (letter, size, store) in images {
        pair.image(letter, size, store);
    }
    pair.queue("dbca");
    pair.fetch_by(0).ok();
    pair.fetch_by(1).ok();
    let mut glance = Peer::start();
    let [ours, theirs] = [0, 1].map(|side| pair.state(&mut glance, side));
    assert_eq!(ours, theirs);
    assert_eq!(ours.0.len(), images.len(), "{ours:?}");
    for (letter, size, _) in images {
        let md5 = digest("md5sum", &content(letter, size));
        assert_eq!(ours.1[id(letter)], json!([md5, size, 0, 1]), "{letter}");
    }
    println!(
        "{driver}: {} images by both, the same files, checksums, rows, and an empty queue",
        images.len()
    );
}

#[test]
fn the_same_is_fetched_as_by_glance_31_with_sqlite() {
    fetches_the_same("sqlite");
}

#[test]
fn the_same_is_fetched_as_by_glance_31_with_xattr() {
    fetches_the_same("xattr");
}

#[test]
fn the_same_is_fetched_as_by_glance_31_with_the_central_index() {
    fetches_the_same("centralized_db");
}

/// Has both fetch an image that `make` prepares, with a good one beside it, and compares what comes of it:
/// the exit code, and where the image is then.
fn differs(make: fn(&Pair), ours: &str, theirs: &str) {
    let mut glance = Peer::start();
    let pair = Pair::new("xattr");
    make(&pair);
    pair.image('b', 1000, "disk");
    pair.queue("ab");
    let outcomes = [0, 1].map(|side| {
        let run = pair.fetch_by(side);
        let (files, served) = pair.state(&mut glance, side);
        // The other image is fetched all the same.
        assert_eq!(served[id('b')][1], 1000, "{}", run.stderr);
        let places: Vec<&str> = [("", "cached"), ("queue/", "queue"), ("invalid/", "invalid")]
            .iter()
            .filter(|(sub, _)| files.contains_key(&format!("{sub}{}", id('a'))))
            .map(|(_, place)| *place)
            .collect();
        let places = if places.is_empty() { "gone".to_owned() } else { places.join(", ") };
        format!("exit {}, {places}", run.code)
    });
    assert_eq!(outcomes, [ours, theirs], "ours, and Glance 31");
}

#[test]
fn a_wrong_checksum_is_refused_by_both() {
    let make = |p: &Pair| {
        p.image('a', 9, "disk");
        p.prefetch.update('a', "checksum = 'ffff', os_hash_value = 'ffff'");
    };
    differs(make, "exit 1, queue, invalid", "exit 1, queue, invalid");
}

#[test]
fn a_wrong_hash_with_the_right_checksum_is_refused_by_ours() {
    let make = |p: &Pair| {
        p.image('a', 9, "disk");
        p.prefetch.update('a', "os_hash_value = 'ffff'");
    };
    differs(make, "exit 1, queue, invalid", "exit 0, cached");
}

#[test]
fn a_wrong_size_without_a_checksum_is_refused_by_ours() {
    let make = |p: &Pair| {
        p.image('a', 9, "disk");
        p.prefetch.update('a', "size = 10, checksum = NULL, os_hash_algo = NULL, os_hash_value = NULL");
    };
    differs(make, "exit 1, queue", "exit 0, cached");
}

#[test]
fn a_good_second_location_is_read_by_ours() {
    let make = |p: &Pair| {
        p.prefetch.record('a', &content('a', 9), &[]);
        let gone = format!("{}-gone", p.prefetch.location('a'));
        p.prefetch.locate('a', &gone, r#"{"store": "disk"}"#);
        fs::write(p.prefetch.stored('a'), content('a', 9)).unwrap();
        p.prefetch.locate('a', &p.prefetch.location('a'), r#"{"store": "disk"}"#);
    };
    differs(make, "exit 0, cached", "exit 1, queue");
}

#[test]
fn an_image_that_the_store_lacks_stays_queued_with_both() {
    let make = |p: &Pair| {
        p.image('a', 9, "disk");
        fs::remove_file(p.prefetch.stored('a')).unwrap();
    };
    differs(make, "exit 1, queue", "exit 1, queue");
}

#[test]
fn a_deactivated_image_is_an_error_of_ours() {
    let make = |p: &Pair| {
        p.image('a', 9, "disk");
        p.prefetch.update('a', "status = 'deactivated'");
    };
    differs(make, "exit 1, queue", "exit 0, queue");
}

#[test]
fn an_unknown_image_leaves_the_queue_of_ours() {
    differs(|_| {}, "exit 1, gone", "exit 0, queue");
}
