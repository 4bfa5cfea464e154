//! `status --verify` and `clean --verify`: broken images are found and moved, all others stay as they are.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::env::*;
use crate::support::images::content;
use crate::support::prefetch::Prefetch;

const SIZE: usize = 1_300_000;

/// Makes a cache of five images of [`SIZE`] bytes each, with their records.
fn five(driver: Driver) -> Prefetch {
    let p = Prefetch::new(driver);
    for (hours, letter) in (1..).zip("abcde".chars()) {
        p.image(letter, SIZE);
        put(&p, letter, &content(letter, SIZE), hours);
    }
    p
}

/// Puts an image with its row into the cache.
fn put(p: &Prefetch, letter: char, bytes: &[u8], hours: i64) {
    p.env.image((letter, 0, hours, 3));
    damage(p, letter, |old| *old = bytes.to_vec());
}

/// Changes the contents of a cached image, and none of its times.
fn damage(p: &Prefetch, letter: char, change: impl FnOnce(&mut Vec<u8>)) {
    let path = p.env.path(id(letter));
    let before = fs::metadata(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let time = |seconds: i64, nanos: i64| seconds as f64 + nanos as f64 / 1e9;
    set_times(&path, time(before.atime(), before.atime_nsec()), time(before.mtime(), before.mtime_nsec()));
}

/// Damages `b` by a bit, and makes `c` shorter and `d` longer.
fn damage_three(p: &Prefetch) {
    damage(p, 'b', |bytes| bytes[1_000_000] ^= 4);
    damage(p, 'c', |bytes| bytes.truncate(SIZE - 1));
    damage(p, 'd', |bytes| bytes.push(0));
}

#[must_use]
fn run(p: &Prefetch, command: &str, arguments: &[&str]) -> Run {
    p.env.raw(&[&[command, "--verify", "--config-file", &p.conf(""), "--format", "json"], arguments].concat())
}

fn path(p: &Prefetch, letter: char) -> PathBuf {
    p.env.path(id(letter))
}

/// Returns the ids of the broken images in a report.
fn broken(report: &Value) -> Vec<&str> {
    let broken = report["verification"]["broken"].as_array().unwrap();
    broken.iter().map(|image| image["image_id"].as_str().unwrap()).collect()
}

/// Returns the access times of all images.
fn uses(p: &Prefetch) -> Vec<(i64, i64)> {
    "abcde"
        .chars()
        .map(|letter| fs::metadata(path(p, letter)).unwrap())
        .map(|m| (m.atime(), m.atime_nsec()))
        .collect()
}

#[test]
fn status_finds_what_is_broken_and_changes_nothing() {
    for driver in [Sqlite, Xattr] {
        let p = five(driver);
        run(&p, "status", &[]).ok();
        damage_three(&p);
        let snapshot = || {
            let mut all = p.env.snapshot();
            all.retain(|name, _| !name.contains(".glance-cache"));
            all
        };
        let (before, used) = (snapshot(), uses(&p));
        let report = run(&p, "status", &["-j", "2"]).code(1).json();
        assert_eq!(broken(&report), [id('b'), id('c'), id('d')], "{report}");
        let verification = &report["verification"];
        assert_eq!(verification["sound"], json!({"count": 2, "bytes": 2 * SIZE}));
        let faults: Vec<_> =
            verification["broken"].as_array().unwrap().iter().map(|image| &image["fault"]).collect();
        assert_eq!(faults, ["digest", "size", "size"]);
        let c = &verification["broken"][1];
        assert_eq!((&c["found"], &c["expected"]), (&json!((SIZE - 1).to_string()), &json!(SIZE.to_string())));
        assert_eq!(uses(&p), used, "access times");
        assert_eq!(snapshot(), before);
    }
}

#[test]
fn clean_moves_what_is_broken_and_nothing_else() {
    for driver in [Sqlite, Xattr] {
        let p = five(driver);
        damage_three(&p);
        let kept = (fs::metadata(path(&p, 'a')).unwrap().ctime(), fs::read(path(&p, 'e')).unwrap());
        let dry = run(&p, "clean", &["--dry-run"]).ok();
        let plan = dry.json()["plan"].clone();
        assert_eq!(plan.as_array().unwrap().len(), 3, "{plan}");
        assert!(plan.as_array().unwrap().iter().all(|step| step["action"] == "move"));
        assert_eq!(p.env.left(), "abcde");
        assert!(!p.env.path(".glance-cache").exists(), "a dry run remembers nothing");
        let done = run(&p, "clean", &[]).ok().says(&[
            &format!("image {} is broken: sha512 mismatch: got ", id('b')),
            "1299999 bytes, expected 1300000",
            "moved to invalid/",
        ]);
        let report =
            done.has(&json!({"total_files_moved": 3, "total_bytes_moved": 3 * SIZE, "errors": []})).json();
        assert!(
            report["verification"]["broken"].as_array().unwrap().iter().all(|image| image["moved"] == true)
        );
        assert_eq!(p.env.left(), "ae");
        assert_eq!(p.env.names("invalid"), [id('b'), id('c'), id('d')]);
        assert_eq!((fs::metadata(path(&p, 'a')).unwrap().ctime(), fs::read(path(&p, 'e')).unwrap()), kept);
        run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 0}));
        assert!(!p.env.path(".glance-cache-pending").exists());
        // As Glance does, a later clean removes them.
        p.env.clean(&[]).ok().has(&json!({"invalid_files": 3}));
    }
}

/// `SQLite` keeps any value in a column of sizes. One that is no number is no size of 0 bytes.
#[test]
fn a_size_that_is_no_number_moves_nothing() {
    let p = five(Sqlite);
    for (letter, size) in [('a', "'none'"), ('b', "'12 bytes'"), ('c', "x'00'"), ('d', "-1"), ('e', "1.5")] {
        p.update(letter, &format!("size = {size}"));
    }
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 0, "errors": []}));
    assert_eq!(p.env.left(), "abcde");
    // The digest is still compared.
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
    assert_eq!(p.env.left(), "acde");
}

#[test]
fn an_image_without_a_row_is_moved_too_and_one_in_invalid_is_replaced() {
    let p = five(Sqlite);
    p.env.sql(&format!("DELETE FROM cached_images WHERE image_id = '{}'", id('b')));
    p.env.file(format!("invalid/{}", id('b')), 5, 1);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
    assert_eq!(fs::metadata(p.env.path("invalid").join(id('b'))).unwrap().len(), SIZE as u64);
    assert_eq!(p.env.left(), "acde");
}

#[test]
fn a_budget_ends_a_run_and_the_next_one_goes_on_there() {
    let p = five(Sqlite);
    let budget = format!("{}B", 2 * SIZE);
    let mut seen = Vec::new();
    for expected in [2, 2, 2] {
        let report = run(&p, "status", &["--budget", &budget]).ok().json();
        assert_eq!(report["verification"]["sound"]["count"], expected, "{report}");
        assert_eq!(report["verification"]["left"]["count"], 5 - expected);
        seen.push(report["verified"]["count"].as_u64().unwrap());
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert_eq!(seen, [2, 4, 5]);
    let report = run(&p, "status", &["--budget", "10B"]).ok().json();
    assert_eq!(report["verification"]["sound"]["count"], 1, "one image is read in any case");
    run(&p, "status", &["--budget", "10"]).code(2);
    let report = run(&p, "status", &["--for", "0s"]).ok().json();
    assert_eq!(report["verification"]["left"]["count"], 5);
}

#[test]
fn a_broken_image_is_remembered_until_it_is_another_file() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    run(&p, "status", &[]).code(1);
    let conf = p.conf("");
    let status = |arguments: &[&str]| p.env.raw(&[&["status", "--config-file", &conf], arguments].concat());
    let report = status(&["--format", "json"]).ok().json();
    assert_eq!(report["verified"]["broken"], json!([id('b')]));
    assert!(
        report["attention"].as_array().unwrap().iter().any(|entry| entry["code"] == "broken"),
        "{report}"
    );
    status(&["--check"]).code(1);
    let metrics = status(&["--format", "prometheus"]).ok().stdout;
    assert!(metrics.contains("glance_cache_broken_images{cache=\"glance\"} 1"), "{metrics}");
    fs::write(path(&p, 'b'), content('b', SIZE)).unwrap();
    let report = status(&["--format", "json"]).ok().json();
    assert_eq!(report["verified"]["broken"], json!([]));
    // A memory that is lost or damaged begins again.
    fs::write(p.env.path(".glance-cache/verified"), "garbage\0\n").unwrap();
    let report = run(&p, "status", &[]).ok().json();
    assert_eq!(report["verification"]["sound"]["count"], 5);
}

#[test]
fn odd_records_are_no_fault_of_the_images() {
    let p = five(Sqlite);
    p.update('a', "os_hash_value = upper(os_hash_value)");
    p.update('b', "os_hash_algo = 'whirlpool'");
    p.update('c', "os_hash_algo = 'whirlpool', checksum = NULL");
    p.update('d', "os_hash_value = 'no digest', checksum = '', size = NULL");
    p.update('e', "size = NULL");
    let report = run(&p, "clean", &[]).ok().json();
    let verification = &report["verification"];
    assert_eq!(verification["sound"]["count"], 3, "{report}");
    assert_eq!(verification["unverifiable"]["count"], 2, "{report}");
    assert_eq!((report["total_files_moved"].as_u64(), p.env.left().as_str()), (Some(0), "abcde"));
    // Without a digest the size is compared all the same.
    damage(&p, 'c', |bytes| bytes.truncate(10));
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
}

#[test]
fn deleted_images_are_removed_and_others_without_use_stay() {
    for driver in [Sqlite, Xattr] {
        let p = five(driver);
        p.update('a', "status = 'deleted', deleted = 1");
        p.update('b', "status = 'deactivated'");
        p.db.sql(&format!("DELETE FROM image_locations WHERE image_id = '{}'", id('c')));
        p.db.sql(&format!("DELETE FROM images WHERE id = '{}'", id('c')));
        run(&p, "status", &[]).ok();
        run(&p, "clean", &["--dry-run"]).ok().has(&json!({"deleted_images_removed": 1}));
        let report = run(&p, "clean", &[])
            .ok()
            .has(&json!({"deleted_images_removed": 1,
            "deleted_bytes_removed": SIZE, "total_files_moved": 0}))
            .json();
        assert_eq!(report["verification"]["missing"]["count"], 1);
        assert_eq!(report["verification"]["sound"]["count"], 3);
        assert_eq!(p.env.left(), "bcde");
    }
}

#[test]
fn the_database_of_another_glance_makes_no_image_wrong() {
    let p = five(Sqlite);
    p.db.sql("DELETE FROM image_locations");
    p.db.sql(&format!("DELETE FROM images WHERE id <> '{}'", id('a')));
    p.update('a', "status = 'deleted', deleted = 1");
    let run = run(&p, "clean", &[]).ok().says(&["4 of 5 cached images", "another Glance"]);
    run.has(&json!({"total_files_moved": 0, "deleted_images_removed": 0}));
    assert_eq!(p.env.left(), "abcde");
}

#[test]
fn many_broken_images_are_not_all_moved() {
    let p = Prefetch::new(Xattr);
    for n in 0..40_u32 {
        let letter = char::from_digit(n % 16, 16).unwrap();
        if n < 16 {
            p.image(letter, 1000);
            put(&p, letter, &content(letter, 1000), 1);
            damage(&p, letter, |bytes| bytes[3] ^= 8);
        }
    }
    let done = run(&p, "clean", &[]).code(1).says(&["more than half of the images"]);
    let report = done.json();
    assert_eq!(report["total_files_moved"], 9, "{report}");
    assert_eq!(report["errors"].as_array().unwrap().len(), 7);
}

#[test]
fn an_image_that_cannot_be_moved_is_an_error_and_keeps_its_row() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    fs::remove_dir(p.env.path("invalid")).unwrap();
    let done = run(&p, "clean", &[]).code(1).says(&[&id('b'), "invalid/ is missing"]);
    assert_eq!(done.json()["errors"][0]["action"], "move");
    assert_eq!(p.env.left(), "abcde");
    fs::create_dir(p.env.path("invalid")).unwrap();
    let held = p.env.lock("glance-cache-prune");
    run(&p, "clean", &["--lock-timeout", "100ms"]).code(1).says(&["glance-cache-prune"]);
    drop(held);
    assert_eq!(p.env.left(), "abcde");
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
}

#[test]
fn without_records_nothing_is_verified() {
    let p = five(Sqlite);
    let conf = p.env.write("bare.conf", p.env.conf_text(""));
    for command in ["status", "clean"] {
        p.env.raw(&[command, "--verify", "--config-file", &conf]).fails(2, &["connection is not set"]);
        let gone =
            p.env.write("gone.conf", fs::read_to_string(p.conf("")).unwrap().replace("glance.sqlite", "no"));
        p.env.raw(&[command, "--verify", "--config-file", &gone]).fails(3, &["does not exist"]);
        p.env
            .raw(&[command, "--verify", "--all-caches", "--config-file", &p.conf("")])
            .fails(2, &["Ironic's caches"]);
        p.env.raw(&[command, "--budget", "2GiB"]).fails(2, &["--verify"]);
    }
}

#[test]
fn a_signal_ends_a_verification_with_its_report() {
    let p = five(Sqlite);
    let conf = p.conf("");
    let mut command = p.env.command(BINARY);
    command.args(["status", "--verify", "--rate-limit", "500KB", "--config-file", &conf, "--format", "json"]);
    let running = Running::start(&mut command, &p.env.outside(""));
    std::thread::sleep(Duration::from_millis(600));
    running.signal(Signal::INT);
    let report = running.wait().code(130).json();
    assert!(report["verification"]["left"]["count"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_rate_limit_holds_for_all_jobs_together() {
    let p = five(Sqlite);
    let took = run(&p, "status", &["-j", "2", "--rate-limit", "3MB"]).ok().took;
    // 6.5 MB at 3 MB/s take 2.17 s, less what a burst may save.
    assert!(took > Duration::from_millis(1800), "{took:?}");
}
