//! `status --verify` and `clean --verify` beside the real Glance: a thousand images with twenty broken ones on
//! every driver, a Glance that serves and caches meanwhile, and runs that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::support::central::{NODE, naive};
use crate::support::env::*;
use crate::support::peer::Peer;
use crate::support::prefetch::Prefetch;
use crate::support::servers::{Kind, MariaDb, PostgreSql, SqliteFile};

/// The index of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Own(Driver),
    Central(Kind),
}

/// A cache of many images with their records.
struct Many {
    prefetch: Prefetch,
    rows: Rows,
    conf: String,
    count: usize,
}

/// Returns the contents of the `n`th image.
fn contents(n: usize) -> Vec<u8> {
    (0..20_000 + 13 * n % 3000).map(|at| ((at * 31 + n * 7) % 251) as u8).collect()
}

fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Many {
    fn new(rows: Rows, count: usize) -> Self {
        let (driver, kind) = match rows {
            Rows::Own(driver) => (driver, SqliteFile),
            Rows::Central(kind) => (Xattr, kind),
        };
        let prefetch = Prefetch::of(TestEnv::empty(driver), kind);
        let mut conf = prefetch.conf("");
        if let Rows::Central(_) = rows {
            prefetch.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{NODE}')"));
            let central = format!("image_cache_driver = centralized_db\nworker_self_reference_url = {NODE}");
            let text = fs::read_to_string(&conf).unwrap().replace("image_cache_driver = xattr", &central);
            conf = prefetch.env.write("central.conf", text);
        }
        let many = Many { prefetch, rows, conf, count };
        many.make_records();
        many.make_images();
        many
    }

    fn env(&self) -> &TestEnv {
        &self.prefetch.env
    }

    fn make_records(&self) {
        let db = &self.prefetch.db;
        let no = if db.kind == PostgreSql { "false" } else { "0" };
        let values: Vec<String> = (0..self.count)
            .map(|n| {
                let bytes = contents(n);
                format!(
                    "('{}', {}, 'active', 'sha512', '{}', '2024-01-01 00:00:00', {no}, 0, 0, {no}, 'public', \
                     {no})",
                    nth_id(n),
                    bytes.len(),
                    sha512(&bytes)
                )
            })
            .collect();
        for values in values.chunks(200) {
            db.sql(&format!(
                "INSERT INTO images (id, size, status, os_hash_algo, os_hash_value, created_at, deleted, \
                 min_disk, min_ram, protected, visibility, os_hidden) VALUES {}",
                values.join(",")
            ));
        }
    }

    /// Returns the time of the last use of an image, in whole seconds, because MariaDB has no others.
    fn used(&self, n: usize) -> f64 {
        self.env().now - (100_000 + 60 * n) as f64
    }

    fn make_images(&self) {
        let mut rows = String::new();
        for n in 0..self.count {
            let (path, used) = (self.env().path(nth_id(n)), self.used(n));
            fs::write(&path, contents(n)).unwrap();
            if self.rows == Rows::Own(Xattr) {
                set_hits(&path, b"3");
            }
            set_times(&path, used, used);
            match self.rows {
                Rows::Own(Sqlite) => rows += &row(&nth_id(n), used, used, contents(n).len() as u64, 3),
                Rows::Own(Xattr) => {}
                Rows::Central(_) => {
                    let (at, size) = (naive(used), contents(n).len());
                    let _ = writeln!(
                        rows,
                        "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                         node_reference_id) SELECT '{}', '{at}', '{at}', {size}, 3, node_reference_id FROM \
                         node_reference;",
                        nth_id(n)
                    );
                }
            }
        }
        match self.rows {
            Rows::Own(Sqlite) => self.env().sql(&format!("BEGIN;{rows}COMMIT;")),
            Rows::Own(Xattr) => {}
            Rows::Central(_) => {
                let mut session = crate::support::servers::Session::open(&self.prefetch.db);
                rows.lines().for_each(|line| session.sql(line));
            }
        }
    }

    /// Changes the contents of an image, but not its times.
    fn damage(&self, n: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.env().path(nth_id(n));
        let mut bytes = contents(n);
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        set_times(&path, self.used(n), self.used(n));
    }

    #[must_use]
    fn run(&self, command: &str, arguments: &[&str]) -> Run {
        let all = [command, "--config-file", &self.conf, "--format", "json"];
        self.env().raw(&[&all[..], arguments].concat())
    }

    /// Returns the ids of the rows that have their files, with last use and hits as the index has them.
    fn uses(&self) -> BTreeMap<String, String> {
        match self.rows {
            Rows::Own(Xattr) => names(self.env().dir())
                .into_iter()
                .filter(|name| name.len() == 36)
                .map(|name| {
                    let m = fs::metadata(self.env().path(&name)).unwrap();
                    (name, format!("{}.{}", m.atime(), m.atime_nsec()))
                })
                .collect(),
            Rows::Own(Sqlite) => {
                let db = self.env().db();
                let mut all =
                    db.prepare("SELECT image_id, last_accessed || ' ' || hits FROM cached_images").unwrap();
                let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Rows::Central(_) => {
                let rows = self.prefetch.db.rows("SELECT image_id, last_accessed, hits FROM cached_images");
                rows.into_iter().map(|row| (row[0].clone(), row[1..].join(" "))).collect()
            }
        }
    }

    /// Returns the access times of all images.
    fn access_times(&self) -> BTreeMap<String, (i64, i64)> {
        let images = names(self.env().dir()).into_iter().filter(|name| name.len() == 36);
        images
            .map(|name| {
                let m = fs::metadata(self.env().path(&name)).unwrap();
                (name, (m.atime(), m.atime_nsec()))
            })
            .collect()
    }

    /// Returns the arguments with which Glance's driver opens the cache.
    fn for_glance(&self) -> Value {
        match self.rows {
            Rows::Own(driver) => json!({"dir": self.env().dir(), "driver": driver.name()}),
            Rows::Central(_) => json!({"dir": self.env().dir(), "driver": "centralized_db",
                "connection": self.prefetch.db.url, "node": NODE}),
        }
    }
}

fn ids(report: &Value) -> BTreeSet<String> {
    let broken = report["verification"]["broken"].as_array().unwrap();
    broken.iter().map(|image| image["image_id"].as_str().unwrap().to_owned()).collect()
}

/// Breaks twenty of a thousand images in five ways, finds them, moves them, and lets Glance serve the rest.
fn twenty_of_a_thousand(rows: Rows) {
    let many = Many::new(rows, 1000);
    let broken: BTreeSet<usize> = (0..20).map(|n| 17 + 49 * n).collect();
    for (way, n) in broken.iter().copied().enumerate() {
        many.damage(n, |bytes| match way % 5 {
            0 => bytes[12_345] ^= 1 << (way % 8),
            1 => bytes.truncate(4096 * (way % 4)),
            2 => bytes.extend([0; 7]),
            3 => bytes[4096..8192].fill(0),
            _ => bytes[..20_000].copy_from_slice(&contents(n + 1)[..20_000]),
        });
    }
    let expected: BTreeSet<String> = broken.iter().map(|n| nth_id(*n)).collect();
    let (uses, times) = (many.uses(), many.access_times());

    let status = many.run("status", &["--verify", "-j", "2"]).code(1).json();
    assert_eq!(ids(&status), expected);
    assert_eq!(status["verification"]["sound"]["count"], 980);
    assert_eq!(many.uses(), uses, "last use and hits");
    assert_eq!(many.access_times(), times, "access times");

    let clean = many.run("clean", &["--verify", "-j", "2"]).ok().json();
    assert_eq!((ids(&clean), &clean["total_files_moved"]), (expected.clone(), &json!(20)));
    let kept = |all: &BTreeMap<String, String>| {
        let all = all.iter().filter(|(id, _)| !expected.contains(*id));
        all.map(|(id, use_)| (id.clone(), use_.clone())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(many.uses(), kept(&uses), "the rows of the others, and no more");
    let times_kept: BTreeMap<_, _> = times.into_iter().filter(|(id, _)| !expected.contains(id)).collect();
    assert_eq!(many.access_times(), times_kept);
    let moved: BTreeSet<String> = many.env().names("invalid").into_iter().collect();
    assert_eq!(moved, expected);

    let served = Peer::start().call("served", many.for_glance());
    let served = served.as_object().unwrap();
    let digest = |n: usize| crate::support::images::digest("md5sum", &contents(n));
    assert_eq!(served.len(), 980);
    for n in (0..1000).filter(|n| !broken.contains(n)).step_by(97) {
        assert_eq!(served[&nth_id(n)][0], digest(n), "{n}");
    }
    println!("{rows:?}: 20 of 20 found, 0 false alarms, 980 served");
}

#[test]
fn twenty_of_a_thousand_with_sqlite() {
    twenty_of_a_thousand(Rows::Own(Sqlite));
}

#[test]
fn twenty_of_a_thousand_with_xattr() {
    twenty_of_a_thousand(Rows::Own(Xattr));
}

#[test]
fn twenty_of_a_thousand_with_a_central_file() {
    twenty_of_a_thousand(Rows::Central(SqliteFile));
}

#[test]
fn twenty_of_a_thousand_on_mariadb() {
    twenty_of_a_thousand(Rows::Central(MariaDb));
}

#[test]
fn twenty_of_a_thousand_on_postgresql() {
    twenty_of_a_thousand(Rows::Central(PostgreSql));
}

/// A file in `invalid/` stays when its image is broken again, as long as its grace says. Glance's own cleaner
/// removes whatever is there, and its driver goes on.
fn an_image_is_broken_again(rows: Rows) {
    let many = Many::new(rows, 4);
    let (first, second) = (nth_id(1), format!("{}.1", nth_id(1)));
    let break_again = |length: usize| {
        if !many.env().path(nth_id(1)).exists() {
            many.insert(1);
        }
        many.damage(1, |bytes| bytes.truncate(length));
        let report = many.run("clean", &["--verify"]).ok().json();
        assert_eq!(report["total_files_moved"], 1, "{report}");
    };
    let sizes = || -> BTreeMap<String, u64> {
        let names = many.env().names("invalid").into_iter();
        names.map(|n| (n.clone(), fs::metadata(many.env().path("invalid").join(n)).unwrap().len())).collect()
    };
    break_again(9);
    let old = many.env().now - 8.0 * 86400.0;
    set_times(&many.env().path("invalid").join(&first), old, old);
    break_again(10);
    assert_eq!(sizes(), BTreeMap::from([(first.clone(), 9), (second.clone(), 10)]));
    let report = many.run("clean", &["--invalid-grace", "7d"]).ok().json();
    assert_eq!((&report["invalid_files"], sizes()), (&json!(1), BTreeMap::from([(second.clone(), 10)])));
    break_again(11);
    assert_eq!(sizes(), BTreeMap::from([(first, 11), (second, 10)]));
    let mut peer = Peer::start();
    let served = peer.call("served", many.for_glance());
    assert_eq!(served.as_object().unwrap().keys().collect::<Vec<_>>(), [0, 2, 3].map(nth_id).each_ref());
    let mut request = many.for_glance();
    request["fresh"] = json!(nth_id(7));
    peer.call("go_on", request);
    assert_eq!(sizes(), BTreeMap::new());
}

#[test]
fn an_image_is_broken_again_with_sqlite() {
    an_image_is_broken_again(Rows::Own(Sqlite));
}

#[test]
fn an_image_is_broken_again_with_xattr() {
    an_image_is_broken_again(Rows::Own(Xattr));
}

#[test]
fn an_image_is_broken_again_with_a_central_file() {
    an_image_is_broken_again(Rows::Central(SqliteFile));
}

/// Glance reads images and caches new ones while they are verified: none is damaged, none is moved.
fn beside_a_busy_glance(driver: Driver) {
    let many = Many::new(Rows::Own(driver), 100);
    let zeros = sha512(&[0; 1000]);
    let fresh: Vec<String> = (500..700).map(nth_id).collect();
    for id in &fresh {
        many.prefetch.db.sql(&format!(
            "INSERT INTO images (id, size, status, os_hash_algo, os_hash_value, created_at, deleted, min_disk, \
             min_ram, protected, visibility, os_hidden) VALUES ('{id}', 1000, 'active', 'sha512', '{zeros}', \
             '2024-01-01 00:00:00', 0, 0, 0, 0, 'public', 0)"
        ));
    }
    let mut peer = Peer::start();
    let all: Vec<String> = (0..100).map(nth_id).chain(fresh).collect();
    let request =
        json!({"dir": many.env().dir(), "driver": driver.name(), "ids": &all, "seconds": 5, "size": 1000});
    peer.ask("traffic", request);
    let end = std::time::Instant::now() + Duration::from_millis(4800);
    // The fresh ones alone make room: what Glance caches here is theirs.
    let keep = many.env().write("keep", all[..100].join("\n"));
    let (mut runs, mut read) = (0, 0);
    while std::time::Instant::now() < end {
        let report = many.run("clean", &["--verify", "-j", "2"]).ok().json();
        assert_eq!(report["total_files_moved"], 0, "{report}");
        read += report["verification"]["sound"]["count"].as_u64().unwrap();
        // Something to remove, so that Glance caches anew.
        many.run("prune", &["--max-size", "2200000B", "--keep-from", &keep]).ok();
        runs += 1;
    }
    let did = peer.answer().unwrap();
    println!("{}: {runs} runs read {read} images beside {did}", driver.name());
    assert_eq!(did["errors"], json!([]), "Glance met errors");
    assert!(did["longest"].as_f64().unwrap() < 2.0 && runs > 3 && read > 300, "{did}");
    assert_eq!(many.env().names("invalid"), [""; 0]);
}

#[test]
fn beside_a_busy_glance_with_sqlite() {
    beside_a_busy_glance(Sqlite);
}

#[test]
fn beside_a_busy_glance_with_xattr() {
    beside_a_busy_glance(Xattr);
}

/// Kills a run at random fifty times. The next one ends the work, and Glance serves what is left.
fn killed_fifty_times(rows: Rows) {
    let many = Many::new(rows, 120);
    let broken: Vec<usize> = (0..40).map(|n| 3 * n).collect();
    let all: BTreeSet<String> = (0..120).map(nth_id).collect();
    let mut peer = Peer::start();
    let (mut killed, mut state) = (0, 7_u64);
    let mut whole = Duration::from_millis(200);
    for round in 0..50 {
        let is_there = |n: &usize| many.env().path(nth_id(*n)).exists();
        let invalid: Vec<String> = many.env().names("invalid");
        for name in invalid {
            fs::remove_file(many.env().path("invalid").join(name)).unwrap();
        }
        // What was moved before comes back with its row, broken again.
        for n in broken.iter().filter(|n| !is_there(n)) {
            many.insert(*n);
        }
        for n in &broken {
            many.damage(*n, |bytes| bytes[777] ^= 2);
        }
        let mut command = many.env().command(BINARY);
        command.args(["clean", "--verify", "--config-file", &many.conf]);
        let mut running = Running::start(&mut command, &many.env().outside(""));
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(whole.mul_f64((state >> 33) as f64 / f64::from(1_u32 << 31)));
        running.child.kill().unwrap();
        killed += usize::from(running.wait().code == 128 + 9);
        // Nothing is lost, whenever it was killed.
        let images = |sub: &str| many.env().names(sub).into_iter().filter(|name| name.len() == 36);
        let left: BTreeSet<String> = images("").chain(images("invalid")).collect();
        assert_eq!(left, all, "round {round}");
        let next = std::time::Instant::now();
        let report = many.run("clean", &["--verify", "--lock-timeout", "5s"]).ok().json();
        whole = next.elapsed().min(whole * 2);
        assert!(report["errors"].as_array().unwrap().is_empty(), "{report}");
        many.run("prune", &["--max-size", "1GiB"]).ok();
        let sound: BTreeSet<String> = (0..120).filter(|n| !broken.contains(n)).map(nth_id).collect();
        assert_eq!(images("").collect::<BTreeSet<_>>(), sound, "round {round}");
        assert_eq!(many.uses().into_keys().collect::<BTreeSet<_>>(), sound, "round {round}");
        assert!(!many.env().path(".glance-cache-pending").exists());
        if round % 10 == 0 {
            let served = peer.call("served", many.for_glance());
            assert_eq!(served.as_object().unwrap().len(), sound.len());
        }
    }
    println!("{rows:?}: killed {killed} of 50 times");
    assert!(killed > 20, "most runs ended before they were killed: {killed} were");
}

impl Many {
    /// Puts an image back with its row.
    fn insert(&self, n: usize) {
        let (path, used, size) = (self.env().path(nth_id(n)), self.used(n), contents(n).len());
        fs::write(&path, contents(n)).unwrap();
        match self.rows {
            Rows::Own(Sqlite) => self.env().sql(&row(&nth_id(n), used, used, size as u64, 3)),
            Rows::Own(Xattr) => set_hits(&path, b"3"),
            Rows::Central(_) => {
                let at = naive(used);
                self.prefetch.db.sql(&format!(
                    "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                     node_reference_id) SELECT '{}', '{at}', '{at}', {size}, 3, node_reference_id FROM \
                     node_reference",
                    nth_id(n)
                ));
            }
        }
        set_times(&path, used, used);
    }
}

#[test]
fn killed_fifty_times_with_sqlite() {
    killed_fifty_times(Rows::Own(Sqlite));
}

#[test]
fn killed_fifty_times_with_xattr() {
    killed_fifty_times(Rows::Own(Xattr));
}

#[test]
fn killed_fifty_times_with_a_central_file() {
    killed_fifty_times(Rows::Central(SqliteFile));
}

mod as_root {
    use super::*;
    use crate::support::mounts::{Mount, Mounted};
    use crate::support::rights::Immutable;

    #[test]
    fn a_dry_run_foresees_an_immutable_image_and_an_invalid_elsewhere() {
        let p = Prefetch::new(Sqlite);
        p.image('a', 1000);
        p.env.image(('a', 1000, 5, 0));
        let conf = p.conf("");
        let fails = |says: &[&str]| {
            for arguments in [&["--dry-run"][..], &[]] {
                let clean = ["clean", "--verify", "--config-file", &conf, "--format", "json"];
                let done = p.env.raw(&[&clean, arguments].concat()).code(1).says(says);
                done.has(&json!({"total_files_moved": 0}));
                assert_eq!(p.env.left(), "a");
            }
        };
        let held = Immutable::new(p.env.path(id('a')));
        fails(&["its file is immutable", "chattr -i"]);
        drop(held);
        let _elsewhere = Mount::of("tmpfs", &p.env.path("invalid"));
        fails(&["cannot move it to invalid/", "on the file system of the cache"]);
    }

    /// A file whose blocks lie outside of the file system: reading them fails, whatever reads.
    #[test]
    fn an_image_with_a_block_that_cannot_be_read() {
        let mounted = Mounted::made(Sqlite, &["mkfs.ext4", "-q", "-O", "^extents,^64bit", "-b", "1024"], 24);
        let image = mounted.env.outside("image");
        let point = mounted.mount.point.clone();
        let p = Prefetch::of(TestEnv::empty(Sqlite), SqliteFile);
        for letter in ['a', 'b', 'c'] {
            p.image(letter, 900_000);
            mounted.env.image((letter, 0, 5, 0));
            let path = mounted.env.path(id(letter));
            fs::write(&path, crate::support::images::content(letter, 900_000)).unwrap();
        }
        mounted.mount.unmount();
        let stat = std::process::Command::new("debugfs")
            .args(["-R", &format!("stat /cache/{}", id('b')), image.to_str().unwrap()])
            .output()
            .unwrap();
        let stat = String::from_utf8(stat.stdout).unwrap();
        let indirect = stat.split_once("(IND):").unwrap().1;
        let indirect: u64 = indirect.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        // The hundredth of its pointers leads out of the file system.
        let device = fs::File::options().write(true).open(&image).unwrap();
        device.write_all_at(&99_999_999_u32.to_le_bytes(), indirect * 1024 + 400).unwrap();
        let again = crate::support::mounts::Mount::image(&image, &point, "relatime");
        let text = fs::read_to_string(p.conf("")).unwrap();
        let own = p.env.dir().to_str().unwrap().to_owned();
        let conf = p.env.write("eio.conf", text.replace(&own, mounted.env.dir().to_str().unwrap()));
        let run =
            |command: &str| p.env.raw(&[command, "--verify", "--config-file", &conf, "--format", "json"]);
        let report = run("status").code(1).json();
        let broken = &report["verification"]["broken"];
        assert_eq!(
            (broken.as_array().unwrap().len(), &broken[0]["fault"]),
            (1, &json!("unreadable")),
            "{report}"
        );
        run("clean").ok().says(&[&id('b'), "cannot be read at byte", "moved to invalid/"]);
        assert_eq!(mounted.env.left(), "ac");
        drop(again);
    }
}
