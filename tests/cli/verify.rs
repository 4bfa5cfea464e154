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
use crate::support::servers::SqliteFile;

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
        assert_eq!(dry.json()["dry_run"], true, "{dry:?}");
        assert_eq!(plan.as_array().unwrap().len(), 3, "{plan}");
        assert!(plan.as_array().unwrap().iter().all(|step| step["action"] == "move"));
        let moved = |report: &Value| {
            let broken = report["verification"]["broken"].as_array().unwrap().clone();
            broken.iter().filter(|image| image["moved"] == true).count()
        };
        assert_eq!(moved(&dry.json()), 0, "{dry:?}");
        let conf = p.conf("");
        let line = ["clean", "--verify", "--config-file", &conf, "--dry-run", "--format", "text"];
        let text = p.env.raw(&line).ok().stdout;
        assert!(text.ends_with("; read 5 images, 6.20 MiB: 2 as recorded, 3 broken\n"), "{text}");
        assert_eq!(p.env.left(), "abcde");
        assert!(!p.env.path(".glance-cache").exists(), "a dry run remembers nothing");
        let done = run(&p, "clean", &[]).ok().says(&[
            &format!("image {} is broken: sha512 mismatch: got ", id('b')),
            "1299999 bytes, expected 1300000",
            "moved to invalid/",
        ]);
        let report =
            done.has(&json!({"total_files_moved": 3, "total_bytes_moved": 3 * SIZE, "errors": []})).json();
        assert_eq!(moved(&report), 3, "{report}");
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
fn an_image_without_a_row_is_moved_too() {
    let p = five(Sqlite);
    p.env.sql(&format!("DELETE FROM cached_images WHERE image_id = '{}'", id('b')));
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
    assert_eq!(p.env.names("invalid"), [id('b')]);
    assert_eq!(p.env.left(), "acde");
}

/// `--invalid-grace` keeps it for somebody to look at.
#[test]
fn an_older_file_in_invalid_stays() {
    for driver in [Sqlite, Xattr] {
        let p = five(driver);
        let size = |name: &str| fs::metadata(p.env.path("invalid").join(name)).unwrap().len();
        let (first, second, third) = (id('b'), format!("{}.1", id('b')), format!("{}.2", id('b')));
        p.env.file(format!("invalid/{first}"), 5, 1);
        damage(&p, 'b', |bytes| bytes[7] ^= 1);
        run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
        assert_eq!((size(&first), size(&second)), (5, SIZE as u64));
        put(&p, 'b', &[1; 7], 9);
        next_second();
        let done = run(&p, "clean", &[]).ok().says(&[&format!("it is moved to invalid/{third}, and")]);
        done.has(&json!({"total_files_moved": 1}));
        assert_eq!((size(&first), size(&second), size(&third)), (5, SIZE as u64, 7));
        // The reason is that of its own file.
        let list = p.env.list();
        for (n, says) in [(0, None), (1, Some("sha512 mismatch")), (2, Some("size mismatch"))] {
            let invalid = &list["invalid"][n];
            let says = says.filter(|_| driver == Xattr);
            assert_eq!(
                invalid["error"].as_str().map(|text| &text[..says.unwrap_or(text).len()]),
                says,
                "{list}"
            );
        }
        p.env.clean(&["--invalid-grace", "30m"]).ok().has(&json!({"invalid_files": 1}));
        assert_eq!(p.env.names("invalid"), [second, third]);
        p.env.clean(&[]).ok().has(&json!({"invalid_files": 2}));
    }
}

#[test]
fn of_the_files_of_one_image_in_invalid_ten_are_kept() {
    let p = five(Sqlite);
    for n in 1..=9 {
        p.env.file(format!("invalid/{}.{n}", id('b')), n, 1);
    }
    p.env.file(format!("invalid/{}", id('b')), 10, 1);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
    let sizes: Vec<u64> = p
        .env
        .names("invalid")
        .iter()
        .map(|name| fs::metadata(p.env.path("invalid").join(name)).unwrap().len())
        .collect();
    assert_eq!(sizes, [10, 1, 2, 3, 4, 5, 6, 7, 8, SIZE as u64]);
}

#[test]
fn the_last_file_in_invalid_may_be_a_link_of_the_image_but_no_directory() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    let name = |n| p.env.path("invalid").join(if n == 0 { id('b') } else { format!("{}.{n}", id('b')) });
    (0..9).for_each(|n| fs::write(name(n), "older").unwrap());
    fs::create_dir(name(9)).unwrap();
    for arguments in [&["--dry-run"][..], &[]] {
        let done = run(&p, "clean", arguments).code(1).says(&["it stays", "remove the directory"]);
        done.has(&json!({"total_files_moved": 0}));
        assert_eq!(p.env.left(), "abcde");
    }
    fs::remove_dir(name(9)).unwrap();
    fs::hard_link(path(&p, 'b'), name(9)).unwrap();
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
    assert_eq!(p.env.left(), "acde");
    assert_eq!(fs::metadata(name(9)).unwrap().len(), SIZE as u64);
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
    let earlier = "found by an earlier verification";
    assert!(status(&[]).ok().stdout.contains(earlier));
    let text = status(&["--verify", "--format", "text"]).code(1).stdout;
    assert!(text.contains("sha512 mismatch") && !text.contains(earlier), "{text}");
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
    run(&p, "status", &[]).ok().says(&["4 of 5 cached images", "another Glance"]);
    p.update('a', "status = 'deleted', deleted = 1");
    let run = run(&p, "clean", &[]).ok().says(&["4 of 5 cached images", "another Glance"]);
    run.has(&json!({"total_files_moved": 0, "deleted_images_removed": 0}));
    assert_eq!(p.env.left(), "abcde");
}

/// Records are read a hundred at a time.
#[test]
fn deleted_images_are_removed_although_other_records_are_left_to_a_later_run() {
    let p = Prefetch::of(TestEnv::large(Xattr, 150), SqliteFile);
    let values: Vec<String> = (0..150)
        .map(|n| {
            let (status, deleted) = if n == 0 { ("deleted", 1) } else { ("active", 0) };
            format!(
                "('{}', 1, '{status}', '2024-01-01 00:00:00', {deleted}, 0, 0, 0, 'public', 0)",
                nth_id(n)
            )
        })
        .collect();
    p.db.sql(&format!(
        "INSERT INTO images (id, size, status, created_at, deleted, min_disk, min_ram, protected, visibility, \
         os_hidden) VALUES {}",
        values.join(",")
    ));
    run(&p, "clean", &["--for", "0s"]).ok().has(&json!({"deleted_images_removed": 1}));
    assert!(!p.env.path(nth_id(0)).exists() && p.env.path(nth_id(1)).exists());
}

/// A wrong digest is confirmed by reading the image again.
#[test]
fn the_second_reading_of_a_broken_image_counts() {
    let p = five(Sqlite);
    damage(&p, 'e', |bytes| bytes[7] ^= 1);
    // The oldest is read first, and twice. The third part is for the next one.
    let report = run(&p, "status", &["--budget", &format!("{}B", 3 * SIZE)]).code(1).json();
    let verification = &report["verification"];
    assert_eq!(broken(&report), [id('e')]);
    assert_eq!((&verification["sound"]["count"], &verification["left"]["count"]), (&json!(1), &json!(3)));
    assert_eq!(verification["bytes_read"], 3 * SIZE, "{report}");
    let report = run(&p, "status", &[]).code(1).json();
    assert_eq!(report["verification"]["bytes_read"], 6 * SIZE, "{report}");
    // A size is compared without reading, which leaves the budget to the others.
    damage(&p, 'e', |bytes| bytes.truncate(5));
    let report = run(&p, "status", &["--budget", &format!("{}B", 2 * SIZE)]).code(1).json();
    assert_eq!(report["verification"]["sound"]["count"], 2, "{report}");
    assert_eq!(report["verification"]["bytes_read"], 2 * SIZE, "{report}");
}

/// Makes a cache of sixteen images of 1000 bytes each. Of these, the given ones are broken.
fn sixteen(broken: &str) -> Prefetch {
    let p = Prefetch::new(Xattr);
    for (hours, letter) in (1..).zip("0123456789abcdef".chars()) {
        p.image(letter, 1000);
        put(&p, letter, &content(letter, 1000), 40 - hours);
    }
    broken.chars().for_each(|letter| flip(&p, letter));
    p
}

fn flip(p: &Prefetch, letter: char) {
    damage(p, letter, |bytes| bytes[3] ^= 8);
}

/// Waits until the next run begins in another second: runs are told apart by that.
fn next_second() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn if_many_images_are_broken_none_is_moved_in_any_run() {
    let p = sixteen("0123456789abcdef");
    for arguments in [&["--dry-run"][..], &[], &[], &["-j", "3"]] {
        let done = run(&p, "clean", arguments).code(1).says(&["10 or more images are broken, counting"]);
        let hint = "hint: check the disk, the memory and the database; then prune --image ID... removes";
        assert_eq!(done.stderr.matches(hint).count(), 1, "{done:?}");
        let report = done.json();
        assert_eq!(report["total_files_moved"], 0, "{report}");
        assert_eq!(report["errors"].as_array().unwrap().len(), 16);
        next_second();
    }
    assert_eq!(p.env.left(), "0123456789abcdef");
    let status = p.env.raw(&["status", "--config-file", &p.conf(""), "--format", "json"]).json();
    let says = "16 broken images, too many to be moved: check the disk, the memory and the database";
    assert!(status["attention"].to_string().contains(says), "{status}");
    // Once most of them turn out to be sound, the rest is moved.
    for letter in "0123456789".chars() {
        flip(&p, letter);
    }
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 6}));
    assert_eq!(p.env.left(), "0123456789");
}

#[test]
fn many_broken_images_are_many_also_in_small_parts() {
    let p = sixteen("0123456789abcdef");
    let mut moved = 0;
    for night in 0..8 {
        let done = run(&p, "clean", &["--budget", "6000B"]);
        let count = done.json()["total_files_moved"].as_u64().unwrap();
        assert_eq!((count, done.code), if night < 3 { (3, 0) } else { (0, 1) }, "{night}: {done:?}");
        moved += count;
        next_second();
    }
    assert_eq!(moved, 9);
    // A run that reads all sees it, too.
    run(&p, "clean", &[]).code(1).has(&json!({"total_files_moved": 0}));
}

/// The disk damages whatever Glance caches again.
#[test]
fn images_that_are_broken_again_and_again_are_not_moved_for_ever() {
    let p = sixteen("0123456");
    run(&p, "clean", &["--budget", "14000B"]).ok().has(&json!({"total_files_moved": 7}));
    for digit in "0123456".chars() {
        put(&p, digit, &content(digit, 1000), 50);
        flip(&p, digit);
    }
    next_second();
    run(&p, "clean", &["--budget", "14000B"]).code(1).has(&json!({"total_files_moved": 0}));
}

#[test]
fn a_broken_image_that_stays_is_an_error_in_each_run() {
    let p = sixteen("0123456789");
    for night in 0..6 {
        let done = run(&p, "clean", &["--budget", "6000B"]);
        let count = done.json()["total_files_moved"].as_u64().unwrap();
        assert_eq!((count, done.code), if night < 3 { (3, 0) } else { (0, 1) }, "{night}: {done:?}");
        if night >= 3 {
            let _ = done.says(&[&id('9'), "it stays"]);
        }
        next_second();
    }
}

#[test]
fn sound_images_of_earlier_runs_do_not_excuse_a_disk_that_fails() {
    let p = sixteen("");
    run(&p, "clean", &[]).ok();
    "0123456789abc".chars().for_each(|letter| flip(&p, letter));
    let mut moved = 0;
    for _ in 0..5 {
        next_second();
        moved += run(&p, "clean", &["--budget", "10000B"]).json()["total_files_moved"].as_u64().unwrap();
    }
    assert_eq!(moved, 5, "the second five are not moved");
}

#[test]
fn images_that_are_known_to_be_broken_are_moved_first() {
    let p = sixteen("7c");
    run(&p, "status", &[]).code(1);
    next_second();
    run(&p, "clean", &["--budget", "3000B"]).ok().has(&json!({"total_files_moved": 2}));
    assert_eq!(p.env.names("invalid"), [id('7'), id('c')]);
}

#[test]
fn a_broken_image_that_is_left_to_a_later_run_is_an_error_of_those_that_move() {
    let p = sixteen("7");
    run(&p, "status", &[]).code(1);
    let report = run(&p, "status", &["--for", "0s"]).json();
    assert_eq!((&report["errors"], &report["verification"]["left"]["count"]), (&json!([]), &json!(16)));
    run(&p, "clean", &["--for", "0s"]).code(1).says(&[&id('7'), "it stays, as this run has not read it"]);
}

#[test]
fn without_broken_images_no_lock_is_needed() {
    let p = five(Sqlite);
    let _held = p.env.lock("glance-cache-prune");
    run(&p, "clean", &["--lock-timeout", "0"]).ok().has(&json!({"total_files_moved": 0, "errors": []}));
}

#[test]
fn the_grace_of_a_broken_image_begins_when_it_is_moved() {
    for driver in [Sqlite, Xattr] {
        let p = five(driver);
        // It was written years ago.
        set_times(&path(&p, 'b'), 1_700_000_000.0, 1_700_000_000.0);
        damage(&p, 'b', |bytes| bytes[7] ^= 1);
        run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
        p.env.clean(&["--invalid-grace", "7d"]).ok().has(&json!({"invalid_files": 0}));
        assert_eq!(p.env.names("invalid"), [id('b')]);
        let conf = p.conf("");
        let status = |more: &[&str]| {
            let common = ["status", "--config-file", &conf, "--format", "json", "--no-database"];
            p.env.raw(&[&common, more].concat()).ok().json()["attention"].to_string()
        };
        assert!(!status(&["--max-invalid", "1d"]).contains("invalid file"));
        assert!(status(&["--max-invalid", "0"]).contains("invalid file"));
        p.env.clean(&[]).ok().has(&json!({"invalid_files": 1}));
    }
}

#[test]
fn a_move_that_fails_leaves_the_times_of_the_image() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    // Directories are in the way, whatever its name.
    for end in ["", ".1", ".2", ".3", ".4", ".5", ".6", ".7", ".8", ".9"] {
        fs::create_dir(p.env.path("invalid").join(id('b') + end)).unwrap();
    }
    let before = fs::metadata(path(&p, 'b')).unwrap();
    run(&p, "clean", &[]).code(1).says(&["cannot move it to invalid/"]);
    let after = fs::metadata(path(&p, 'b')).unwrap();
    let times = |m: &fs::Metadata| (m.mtime(), m.mtime_nsec(), m.atime(), m.atime_nsec());
    assert_eq!(times(&after), times(&before));
}

#[test]
fn another_time_leaves_no_trace() {
    let p = five(Sqlite);
    let memory = || fs::read(p.env.path(".glance-cache/verified")).ok();
    run(&p, "status", &["--now", "2099-01-01T00:00:00Z"]).ok();
    assert_eq!(memory(), None);
    run(&p, "status", &[]).ok();
    let before = memory();
    run(&p, "status", &["--now", "2099-01-01T00:00:00Z"]).ok();
    assert_eq!(memory(), before);
}

#[test]
fn a_verification_in_the_future_is_none() {
    let p = five(Sqlite);
    run(&p, "status", &[]).ok();
    let path = p.env.path(".glance-cache/verified");
    // A clock that was wrong: the year 2099.
    let lines = fs::read_to_string(&path).unwrap();
    let future: Vec<String> = lines
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("{} 4070908800 {} broken\n", words[0], words[2])
        })
        .collect();
    fs::write(&path, future.concat()).unwrap();
    let conf = p.conf("");
    let report = p.env.raw(&["status", "--config-file", &conf, "--format", "json"]).ok().json();
    assert_eq!(report["verified"], Value::Null, "{report}");
    let report = run(&p, "status", &["--budget", "2600000B"]).ok().json();
    assert_eq!((&report["verified"]["count"], &report["verified"]["broken"]), (&json!(2), &json!([])));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[test]
fn a_part_of_the_images_says_nothing_about_the_database() {
    let p = five(Sqlite);
    for letter in ['e', 'd'] {
        p.db.sql(&format!("DELETE FROM image_locations WHERE image_id = '{}'", id(letter)));
        p.db.sql(&format!("DELETE FROM images WHERE id = '{}'", id(letter)));
    }
    p.update('c', "status = 'deleted', deleted = 1");
    // The oldest come first: two without a record, and then the deleted one.
    for arguments in [&["--budget", "1B"][..], &["--for", "0s"], &[]] {
        for command in ["status", "clean"] {
            let done = run(&p, command, arguments).ok();
            assert!(!done.stderr.contains("another Glance"), "{command} {arguments:?}: {}", done.stderr);
        }
    }
    assert_eq!(p.env.left(), "abde");
    let done = p.env.raw(&["list", &id('e'), "-v", "--config-file", &p.conf("")]).ok();
    assert!(!done.stderr.contains("another Glance"), "{}", done.stderr);
}

#[test]
fn the_database_of_another_glance_is_seen_by_a_part_of_a_run() {
    let p = five(Sqlite);
    p.db.sql("DELETE FROM image_locations");
    p.db.sql(&format!("DELETE FROM images WHERE id NOT IN ('{}', '{}')", id('e'), id('d')));
    p.update('e', "status = 'deleted', deleted = 1");
    // The oldest is deleted, and the others are not looked at.
    let done = run(&p, "clean", &["--for", "0s"]).ok().says(&["3 of 5 cached images", "another Glance"]);
    done.has(&json!({"deleted_images_removed": 0}));
    assert_eq!(p.env.left(), "abcde");
}

#[test]
fn a_memory_that_cannot_be_written_is_a_warning() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    p.env.file(".glance-cache", 0, 0);
    for (command, code) in [("status", 1), ("clean", 0)] {
        let done = run(&p, command, &[]).code(code);
        assert_eq!(done.stderr.matches("cannot remember what was verified").count(), 1, "{}", done.stderr);
        done.says(&["warning: ", "each run begins anew"]);
    }
    let dry = run(&p, "clean", &["--dry-run"]).ok();
    assert!(!dry.stderr.contains("cannot remember"), "{}", dry.stderr);
}

#[test]
fn without_a_memory_a_run_moves_nothing_if_most_of_what_it_read_is_broken() {
    let p = sixteen("0123456789abcdef");
    p.env.file(".glance-cache", 0, 0);
    for dry_run in [&["--dry-run"][..], &[], &[]] {
        let arguments = [&["--budget", "3000B"], dry_run].concat();
        let done =
            run(&p, "clean", &arguments).code(1).says(&["it is not known how many were in earlier runs"]);
        done.has(&json!({"total_files_moved": 0}));
    }
    "0123456789abcde".chars().for_each(|letter| flip(&p, letter));
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
}

#[test]
fn an_image_that_cannot_be_opened_is_counted_and_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let p = five(Sqlite);
    fs::set_permissions(path(&p, 'b'), fs::Permissions::from_mode(0o000)).unwrap();
    for command in ["status", "clean"] {
        let mut arguments = vec![command, "--verify", "--format", "json"];
        let conf = p.conf("");
        arguments.extend(["--config-file", &conf]);
        let mut command = p.without_rights();
        let done = p.env.finish(command.args(arguments)).code(1);
        let report = done.says(&[&id('b'), "cannot open it"]).json();
        assert_eq!(report["verification"]["failed"], json!({"count": 1, "bytes": SIZE}), "{report}");
        assert_eq!(report["verification"]["sound"]["count"], 4);
        let errors = report["errors"].as_array().unwrap();
        assert_eq!((errors.len(), &errors[0]["action"]), (1, &json!("verify")), "{report}");
        assert_eq!(errors[0]["name"], json!(id('b')));
    }
    assert_eq!(p.env.left(), "abcde");
}

#[test]
fn an_image_that_cannot_be_moved_is_an_error_and_keeps_its_row() {
    use std::os::unix::fs::PermissionsExt as _;

    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    let invalid = p.env.path("invalid");
    let fails = |why: &str, advice: &str| {
        for arguments in [&["--dry-run"][..], &[]] {
            let conf = p.conf("");
            let mut command = p.without_rights();
            command.args(["clean", "--verify", "--config-file", &conf, "--format", "json"]).args(arguments);
            let done = p.env.finish(&mut command).code(1).says(&[&id('b'), why, advice]);
            let done = done.has(&json!({"total_files_moved": 0}));
            assert_eq!(done.json()["errors"][0]["action"], "move", "{arguments:?}");
            assert_eq!(p.env.left(), "abcde");
        }
    };
    fs::set_permissions(&invalid, fs::Permissions::from_mode(0o555)).unwrap();
    fails("Permission denied", "; run as the user that glance-api runs as");
    fs::remove_dir(&invalid).unwrap();
    fails("invalid is missing", "start glance-api, which makes it, or make it");
    assert!(!invalid.exists());
    fs::create_dir(p.env.path("invalid")).unwrap();
    let held = p.env.lock("glance-cache-prune");
    run(&p, "clean", &["--lock-timeout", "100ms"]).code(1).says(&["glance-cache-prune"]);
    drop(held);
    assert_eq!(p.env.left(), "abcde");
    run(&p, "clean", &[]).ok().has(&json!({"total_files_moved": 1}));
}

#[test]
fn a_run_that_is_skipped_if_locked_reads_nothing() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    let held = p.env.lock("glance-cache-prune");
    let skipped = run(&p, "clean", &["--skip-if-locked"]).ok().json();
    assert!(skipped["skipped"].as_str().unwrap().contains("glance-cache-prune"), "{skipped}");
    assert_eq!((&skipped["verification"], &skipped["errors"]), (&Value::Null, &json!([])));
    assert!(!p.env.path(".glance-cache").exists(), "no image was read");
    // A dry run takes no lock.
    run(&p, "clean", &["--skip-if-locked", "--dry-run"]).ok().has(&json!({"total_files_moved": 1}));
    drop(held);
    run(&p, "clean", &["--skip-if-locked"]).ok().has(&json!({"total_files_moved": 1}));
}

#[test]
fn a_run_that_reads_is_not_skipped_any_more() {
    let p = five(Sqlite);
    // It is read last.
    damage(&p, 'a', |bytes| bytes.truncate(SIZE - 1));
    let mut command = p.env.command(BINARY);
    command.args(["clean", "--verify", "--skip-if-locked", "--rate-limit", "5MB", "--format", "json"]);
    let running = Running::start(command.args(["--config-file", &p.conf("")]), &p.env.outside(""));
    let files = format!("/proc/{}/fd", running.child.id());
    until("an image is read", || {
        let mut files = fs::read_dir(&files).unwrap();
        files.any(|file| fs::read_link(file.unwrap().path()).is_ok_and(|file| file == path(&p, 'e')))
    });
    let held = p.env.lock("glance-cache-prune");
    std::thread::sleep(Duration::from_secs(2));
    drop(held);
    running.wait().ok().has(&json!({"total_files_moved": 1, "errors": []}));
}

/// So does the row that another session of a central database has locked.
#[test]
fn an_image_whose_row_is_kept_stays_and_is_remembered() {
    let p = five(Sqlite);
    damage(&p, 'b', |bytes| bytes[7] ^= 1);
    p.env.sql("CREATE TRIGGER keep BEFORE DELETE ON cached_images BEGIN SELECT RAISE(IGNORE); END");
    let done = run(&p, "clean", &[]).code(1).says(&[&id('b'), "its row is in use"]);
    let report = done.has(&json!({"total_files_moved": 0})).json();
    assert_eq!((broken(&report), &report["verification"]["changed"]), (vec![&*id('b')], &json!(0)));
    assert_eq!((p.env.left(), p.env.names("invalid").len()), ("abcde".to_owned(), 0));
    let status = p.env.raw(&["status", "--config-file", &p.conf(""), "--format", "json"]).json();
    assert_eq!(status["verified"]["broken"], json!([id('b')]));
    p.env.sql("DROP TRIGGER keep");
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
    run(&p, "status", &["--no-database"]).fails(2, &["--verify cannot be used with --no-database"]);
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

/// The record is read once more before an image is called broken, and the file is looked at.
#[test]
fn an_image_that_changes_while_it_is_read_is_not_moved() {
    let new_record = |p: &Prefetch| p.update('a', "os_hash_value = 'ffff'");
    let new_file = |p: &Prefetch| {
        fs::write(p.env.outside("new"), content('a', SIZE)).unwrap();
        fs::rename(p.env.outside("new"), path(p, 'a')).unwrap();
    };
    for change in [&new_record as &dyn Fn(&Prefetch), &new_file] {
        let p = Prefetch::new(Sqlite);
        p.image('a', SIZE);
        put(&p, 'a', &content('a', SIZE), 1);
        damage(&p, 'a', |bytes| bytes[7] ^= 1);
        let mut command = p.env.command(BINARY);
        command.args(["clean", "--verify", "--rate-limit", "500KB", "--format", "json"]);
        let running = Running::start(command.args(["--config-file", &p.conf("")]), &p.env.outside(""));
        let files = format!("/proc/{}/fd", running.child.id());
        until("the image is read", || {
            let mut files = fs::read_dir(&files).unwrap();
            files.any(|file| fs::read_link(file.unwrap().path()).is_ok_and(|file| file == path(&p, 'a')))
        });
        change(&p);
        let report = running.wait().ok().has(&json!({"total_files_moved": 0})).json();
        assert_eq!((broken(&report), &report["verification"]["changed"]), (vec![], &json!(1)), "{report}");
        assert_eq!((p.env.left(), p.env.names("invalid").len()), ("a".to_owned(), 0));
    }
}

#[test]
fn a_rate_limit_holds_for_all_jobs_together() {
    let p = five(Sqlite);
    let took = run(&p, "status", &["-j", "2", "--rate-limit", "3MB"]).ok().took;
    // 6.5 MB at 3 MB/s take 2.17 s, less what a burst may save.
    assert!(took > Duration::from_millis(1800), "{took:?}");
}
