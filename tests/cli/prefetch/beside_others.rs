//! A prefetch beside others: Glance caching the same image, other prefetches, prunes, a busy index, records
//! that change.

use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::json;

use crate::support::env::*;
use crate::support::prefetch::Prefetch;

#[test]
fn what_somebody_else_caches_is_left() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.image('a', 9);
        p.image('b', 9);
        p.queue("ab");
        p.env.file(Path::new("incomplete").join(id('a')), 5, 1);
        for arguments in [&["-v", "--dry-run"][..], &["-v"]] {
            let run = p.run(arguments).ok().says(&["another process is caching it"]);
            assert_eq!(Prefetch::told(&run, 'a')["outcome"], "left_to_glance");
        }
        assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("b", "a"));
        let quiet = p.run(&[]).ok();
        assert!(!quiet.stderr.contains("is caching it"), "{}", quiet.stderr);
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

#[test]
fn what_glance_begins_to_cache_during_a_fetch_is_glances() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 500_000);
    p.queue("a");
    let ours = p.start(&["-v", "--rate-limit", "1MB"]);
    let claim = p.env.path("incomplete").join(id('a'));
    until("the claim", || claim.exists());
    fs::write(&claim, "the first bytes").unwrap();
    let run = ours.wait().ok();
    assert_eq!(Prefetch::told(&run, 'a')["outcome"], "left_to_glance");
    assert_eq!((p.env.images().as_str(), fs::read(&claim).unwrap().len()), ("", 15));
}

#[test]
fn what_is_no_file_in_the_place_of_a_download_is_an_error_once_it_is_old() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 3] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a symlink", |path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
        ("a FIFO, socket or device", |path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }),
    ];
    for (kind, make) in kinds {
        let p = Prefetch::new(Sqlite);
        p.image('a', 9);
        p.queue("a");
        let path = p.env.path("incomplete").join(id('a'));
        make(&path);
        let run = p.run(&["-v"]).ok().says(&["is taken by", kind]);
        assert_eq!(Prefetch::told(&run, 'a')["outcome"], "left_to_glance");
        let old = std::process::Command::new("touch").args(["-h", "-d", "@1000000"]).arg(&path).status();
        assert!(old.unwrap().success());
        for arguments in [&["--dry-run"][..], &[]] {
            let run = p.run(arguments).fails(1, &["incomplete/", kind, "remove it"]);
            assert_eq!(Prefetch::told(&run, 'a')["outcome"], "failed");
        }
        assert_eq!((p.env.images().as_str(), p.queued().as_str()), ("", "a"));
        if kind != "a symlink" {
            p.env.run("clean", &[]).ok().says(&[&format!("incomplete/{} is {kind}", id('a'))]);
        }
    }
}

#[test]
fn two_at_once_fetch_each_image_once() {
    let p = Prefetch::new(Sqlite);
    for letter in "abcdef".chars() {
        p.image(letter, 100_000);
    }
    p.queue("abcdef");
    // Each command writes the configuration anew: none is to read it half-written.
    let commands = [(); 3].map(|()| p.command(&["--rate-limit", "2000000"]));
    let runs = commands.map(|mut command| Running::start(&mut command, &p.env.outside("")));
    let fetched: u64 =
        runs.map(|run| run.wait().ok().json()["total_files_prefetched"].as_u64().unwrap()).iter().sum();
    assert_eq!(fetched, 6);
    p.holds(&"abcdef".chars().map(|letter| (letter, 100_000)).collect::<Vec<_>>());
    p.queue("a");
    let _held = p.env.lock("glance-cache");
    p.run(&["--lock-timeout", "100ms"]).fails(3, &["glance-cache", "still held by"]);
    p.run(&["--skip-if-locked"]).ok();
}

#[test]
fn publishing_waits_for_a_prune() {
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

/// Fetches for longer than the lock timeout while a prune has its lock, which then is waited for as long as
/// that.
fn waits_for_a_prune() -> (Prefetch, File, Running) {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1_500_000);
    p.queue("a");
    let held = p.env.lock("glance-cache-prune");
    let ours = p.start(&["--rate-limit", "1MB", "--lock-timeout", "100ms"]);
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    sleep(Duration::from_millis(2200));
    (p, held, ours)
}

#[test]
fn what_took_long_to_fetch_waits_as_long_for_a_prune() {
    let (p, held, ours) = waits_for_a_prune();
    drop(held);
    ours.wait().ok();
    p.holds(&[('a', 1_500_000)]);
}

#[test]
fn a_signal_while_a_prune_is_waited_for_leaves_nothing() {
    let (p, _held, ours) = waits_for_a_prune();
    ours.signal(Signal::INT);
    ours.wait().code(130).has(&json!({"still_queued": 1}));
    assert_eq!((p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "a", 0));
}

#[test]
fn what_was_fetched_waits_for_a_busy_index_too() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1_500_000);
    p.image('b', 1000);
    p.run(&[&id('b')]).ok();
    p.queue("a");
    let ours = p.start(&["--rate-limit", "1MB", "--lock-timeout", "100ms"]);
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    let glance = p.env.db();
    glance.execute_batch("BEGIN EXCLUSIVE").unwrap();
    sleep(Duration::from_millis(2200));
    glance.execute_batch("COMMIT").unwrap();
    ours.wait().ok();
    p.holds(&[('a', 1_500_000), ('b', 1000)]);
}

#[test]
fn while_one_waits_for_a_prune_the_others_are_fetched() {
    let p = Prefetch::new(Xattr);
    p.image('a', 1000);
    p.image('b', 1_000_000);
    p.image('c', 1000);
    p.queue("abc");
    let held = p.env.lock("glance-cache-prune");
    let ours = p.start(&["--rate-limit", "1MB", "-j", "2", "--lock-timeout", "5s", "-v"]);
    // Both are ready, and so the third is not begun.
    sleep(Duration::from_secs(2));
    assert_eq!(
        (p.env.images().as_str(), p.env.names("incomplete").iter().filter(|name| name.len() == 36).count()),
        ("", 2)
    );
    drop(held);
    let run = ours.wait().ok();
    assert!(run.stderr.contains("wait to be published: "), "{}", run.stderr);
    p.holds(&[('a', 1000), ('b', 1_000_000), ('c', 1000)]);
}

#[test]
fn what_is_deleted_while_it_waits_is_not_published() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    p.queue("a");
    let held = p.env.lock("glance-cache-prune");
    let ours = p.start(&[]);
    sleep(Duration::from_secs(1));
    p.db.sql("UPDATE images SET deleted = 1, status = 'deleted'");
    drop(held);
    ours.wait().fails(1, &["the image is deleted (changed during the fetch"]);
    assert_eq!((p.env.left().as_str(), p.queued().as_str(), p.env.names("incomplete").len()), ("", "", 0));
}

#[test]
fn what_changes_in_glance_while_it_is_fetched_is_not_published() {
    // What changes, what is told, the outcome, whether it is still in the queue.
    let cases: &[(&str, &str, &str, bool)] = &[
        (
            "UPDATE images SET deleted = 1, status = 'deleted'",
            "the image is deleted (changed during the fetch",
            "gone",
            false,
        ),
        (
            "DELETE FROM image_locations; DELETE FROM images",
            "has no such image (changed during the fetch",
            "gone",
            false,
        ),
        (
            "UPDATE images SET status = 'deactivated'",
            "deactivated, not active (changed during the fetch",
            "not_ready",
            true,
        ),
        ("UPDATE images SET size = 7", "now has another size or hash", "not_ready", true),
        ("UPDATE images SET checksum = 'ffff'", "now has another size or hash", "not_ready", true),
        ("UPDATE images SET os_hash_value = 'ffff'", "now has another size or hash", "not_ready", true),
        ("UPDATE image_locations SET value = value || '/elsewhere'", "fetched", "fetched", false),
    ];
    for driver in [Sqlite, Xattr] {
        for (change, word, outcome, stays) in cases {
            let p = Prefetch::new(driver);
            p.image('a', 600_000);
            p.queue("a");
            let ours = p.start(&["-v", "--rate-limit", "1MB"]);
            until("the claim", || p.env.path("incomplete").join(id('a')).exists());
            p.db.sql(change);
            let run = ours.wait().code(i32::from(*outcome != "fetched")).says(&[word]);
            println!("{}", run.stderr);
            assert_eq!(Prefetch::told(&run, 'a')["outcome"], *outcome, "{change}");
            assert_eq!((p.env.left() == "a", p.queued() == "a"), (*outcome == "fetched", *stays), "{change}");
            assert_eq!((p.env.names("incomplete").len(), p.env.names("invalid").len()), (0, 0), "{change}");
        }
    }
}

#[test]
fn a_database_that_is_gone_by_the_end_costs_no_download() {
    let p = Prefetch::new(Xattr);
    p.image('a', 600_000);
    p.queue("a");
    let ours = p.start(&["--rate-limit", "1MB"]);
    until("the claim", || p.env.path("incomplete").join(id('a')).exists());
    p.db.sql("ALTER TABLE images RENAME TO gone");
    ours.wait().ok().says(&["published without reading its record again", "images"]);
    p.holds(&[('a', 600_000)]);
}
