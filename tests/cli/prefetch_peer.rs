//! `prefetch` beside the prefetcher of Glance 31.1.0: the same store, the same database, the same queue, once by each. (That of
//! Glance 33 does not start.)
//!
//! What can be fetched has to come out the same, by Glance's own driver. What cannot is where ours differs on purpose: the table
//! says how.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::env::*;
use crate::peer::{Peer, prefetcher};
use crate::prefetch::{Prefetch, content};
use crate::servers::Kind;
use crate::stores::Nginx;

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
        let prefetch = Prefetch::on(Xattr, Kind::SqliteFile);
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
                "[DEFAULT]\nimage_cache_dir = {cache}\nimage_cache_driver = {driver}\nworker_self_reference_url = {node}\n\
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

    /// An image of so many bytes with a record, in the file store or at nginx.
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

    /// Has both fetch: the exit codes of ours and theirs.
    fn fetch(&self) -> [Run; 2] {
        let env = &self.prefetch.env;
        let ours = env.raw(&["prefetch", "--config-file", &self.sides[0].2]);
        let theirs = env.finish(env.command(prefetcher()).args(["--config-file", &self.sides[1].2]));
        [ours, theirs]
    }

    /// What is in a cache: names and sizes of what is not the index's, and each image as Glance's driver serves it.
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
    for run in pair.fetch() {
        run.ok();
    }
    let mut glance = Peer::start();
    let [ours, theirs] = [0, 1].map(|side| pair.state(&mut glance, side));
    assert_eq!(ours, theirs);
    assert_eq!(ours.0.len(), images.len(), "{ours:?}");
    for (letter, size, _) in images {
        let md5 = crate::prefetch::digest("md5sum", &content(letter, size));
        assert_eq!(ours.1[id(letter)], json!([md5, size, 0, 1]), "{letter}");
    }
    println!(
        "{driver}: {} images by both, the same files, checksums, rows, and an empty queue",
        images.len()
    );
}

macro_rules! tests {
    ($($name:ident $body:block)*) => {
        $(#[test]
        #[ignore = "needs the real Glance 31 and 33, and nginx: run tests/run"]
        fn $name() $body)*
    };
}

tests! {
    the_same_is_fetched_as_by_glance_31_with_sqlite {
        fetches_the_same("sqlite");
    }

    the_same_is_fetched_as_by_glance_31_with_xattr {
        fetches_the_same("xattr");
    }

    the_same_is_fetched_as_by_glance_31_with_the_central_index {
        fetches_the_same("centralized_db");
    }

    where_it_differs_from_glance_31 {
        type Make = fn(&Pair);
        // (what, how 'a' is made so, what comes of it: ours and theirs)
        let cases: [(&str, Make, [&str; 2]); 7] = [
            ("wrong checksum", |p| {
                p.image('a', 9, "disk");
                p.prefetch.update('a', "checksum = 'ffff', os_hash_value = 'ffff'");
             }, ["exit 1, queue, invalid", "exit 1, queue, invalid"]),
            ("wrong hash, right checksum", |p| {
                p.image('a', 9, "disk");
                p.prefetch.update('a', "os_hash_value = 'ffff'");
             }, ["exit 1, queue, invalid", "exit 0, cached"]),
            ("wrong size, no checksum", |p| {
                p.image('a', 9, "disk");
                p.prefetch.update('a', "size = 10, checksum = NULL, os_hash_algo = NULL, os_hash_value = NULL");
             }, ["exit 1, queue", "exit 0, cached"]),
            ("second location good", |p| {
                p.prefetch.record('a', &content('a', 9), &[]);
                let gone = format!("{}-gone", p.prefetch.location('a'));
                p.prefetch.locate('a', &gone, r#"{"store": "disk"}"#);
                fs::write(p.prefetch.stored('a'), content('a', 9)).unwrap();
                p.prefetch.locate('a', &p.prefetch.location('a'), r#"{"store": "disk"}"#);
             }, ["exit 0, cached", "exit 1, queue"]),
            ("missing in the store", |p| {
                p.image('a', 9, "disk");
                fs::remove_file(p.prefetch.stored('a')).unwrap();
             }, ["exit 1, queue", "exit 1, queue"]),
            ("deactivated", |p| {
                p.image('a', 9, "disk");
                p.prefetch.update('a', "status = 'deactivated'");
             }, ["exit 1, queue", "exit 0, queue"]),
            ("no such image", |_| {}, ["exit 1, gone", "exit 0, queue"]),
        ];
        let mut glance = Peer::start();
        let (mut table, mut expected) = (String::new(), String::new());
        for (what, make, outcomes) in cases {
            let pair = Pair::new("xattr");
            make(&pair);
            pair.image('b', 1000, "disk");
            pair.queue("ab");
            let runs = pair.fetch();
            for (side, run) in runs.iter().enumerate() {
                let (files, served) = pair.state(&mut glance, side);
                // The other image is fetched all the same.
                assert_eq!(served[id('b')][1], 1000, "{what}: {}", run.stderr);
                let places: Vec<&str> = [("", "cached"), ("queue/", "queue"), ("invalid/", "invalid")]
                    .iter()
                    .filter(|(sub, _)| files.contains_key(&format!("{sub}{}", id('a'))))
                    .map(|(_, place)| *place)
                    .collect();
                let places = if places.is_empty() { "gone".to_owned() } else { places.join(", ") };
                let who = ["ours", "Glance 31"][side];
                let _ = writeln!(table, "{what}: {who}: exit {}, {places}", run.code);
                let _ = writeln!(expected, "{what}: {who}: {}", outcomes[side]);
            }
        }
        println!("{table}");
        assert_eq!(table, expected);
    }
}
