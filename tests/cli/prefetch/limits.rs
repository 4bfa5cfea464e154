//! The cache's limit, kept or exceeded, and room that is made for what is fetched.

use std::path::Path;

use serde_json::json;

use crate::support::env::*;
use crate::support::prefetch::Prefetch;

#[test]
fn the_limit_is_prunes_business_unless_it_is_to_be_kept() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.env.image(('c', 1000, 30, 0));
        p.env.image(('d', 1000, 20, 0));
        p.env.image(('e', 1000, 10, 0));
        p.image('a', 1500);
        p.image('b', 1000);
        p.queue("ab");
        let args = ["--max-size", "4000B", "-j", "1"];
        p.run(&[&args[..], &["--within-limit"]].concat()).fails(1, &["over its limit of 3.91 KiB", "stays"]);
        assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("bcde", "a"));
        // Room for one more goes from what was used longest ago, never from what is queued.
        p.env.file_at(Path::new("queue").join(id('c')), 0, p.env.now, p.env.now);
        let run = p.run(&[&args[..], &["--make-room", &id('a')]].concat()).ok();
        assert_eq!(run.json()["total_files_pruned"], 2, "{}", run.stdout);
        assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("abc", "c"));
        p.image('f', 5000);
        p.run(&[&args[..], &["--make-room", &id('f')]].concat()).fails(1, &["even if every image"]);
        assert_eq!(p.env.left(), "abc");
        let run = p.run(&[&args[..], &[&id('f')]].concat()).ok();
        assert_eq!(
            (&run.json()["over_limit"], &run.json()["cache_size_after"]),
            (&json!(true), &json!(8500))
        );
        assert_eq!(p.env.left(), "abcf");
    }
}

#[test]
fn a_dry_run_that_makes_room_says_what_would_go() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.env.image(('b', 600, 3, 1));
        p.env.image(('c', 300, 2, 1));
        p.image('a', 500);
        p.queue("a");
        let before = p.env.snapshot();
        let run = p.run(&["--dry-run", "--make-room", "--max-size", "1000B"]).ok();
        println!("{}", run.stdout);
        assert_eq!(p.env.snapshot(), before);
        let wet = p.run(&["--make-room", "--max-size", "1000B"]).ok();
        println!("{}", wet.stdout);
        for key in [
            "cache_size_after",
            "over_limit",
            "total_files_prefetched",
            "total_files_pruned",
            "total_bytes_pruned",
        ] {
            assert_eq!(run.json()[key], wet.json()[key], "{key}");
        }
        assert_eq!(p.env.left(), "ac");
    }
}

/// Fetches two images, while Glance adds one, into a cache that has room for two of the three.
#[track_caller]
fn what_glance_adds_meanwhile_counts(limit: &str, code: i32, left: &str, size: u64) {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.image('a', 600_000);
        p.image('b', 300_000);
        p.queue("ab");
        let ours = p.start(&[limit, "--max-size", "1000000B", "-j", "1", "--rate-limit", "1MB"]);
        until("the claim", || p.env.path("incomplete").join(id('a')).exists());
        p.env.image(('c', 200_000, 5, 0));
        let run = ours.wait().code(code);
        println!("{}", run.stderr);
        assert_eq!(p.env.left(), left);
        run.has(&json!({"cache_size_after": size, "over_limit": false}));
    }
}

#[test]
fn what_glance_adds_meanwhile_counts_within_the_limit() {
    what_glance_adds_meanwhile_counts("--within-limit", 1, "ac", 800_000);
}

#[test]
fn what_glance_adds_meanwhile_is_what_room_is_made_from() {
    what_glance_adds_meanwhile_counts("--make-room", 0, "ab", 900_000);
}

#[test]
fn an_image_that_is_wanted_does_not_go_for_another() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.env.image(('b', 600, 3, 1));
        p.env.image(('c', 300, 2, 1));
        p.image('a', 500);
        p.run(&["--make-room", "--max-size", "1200B", &id('b'), &id('a')]).ok();
        assert_eq!(p.env.left(), "ab");
    }
}

#[test]
fn no_image_goes_if_those_that_may_go_are_not_enough() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.env.image(('b', 600, 3, 1));
        p.env.image(('c', 300, 2, 1));
        p.image('a', 800);
        // One of the two is wanted, too.
        let run = p.run(&["--make-room", "--max-size", "1000B", &id('c'), &id('a')]);
        run.fails(1, &["even if every image"]);
        assert_eq!(p.env.left(), "bc");
    }
}

#[test]
fn space_is_made_once_a_prune_has_ended() {
    let p = Prefetch::new(Sqlite);
    p.env.image(('b', 600, 3, 1));
    p.image('a', 800);
    let held = p.env.lock("glance-cache-prune");
    let ours = p.start(&["--make-room", "--max-size", "1000B", &id('a')]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    drop(held);
    ours.wait().ok().has(&json!({"total_files_pruned": 1}));
    assert_eq!(p.env.left(), "a");
}

#[test]
fn images_that_are_fetched_at_once_count_together() {
    for driver in [Sqlite, Xattr] {
        let p = Prefetch::new(driver);
        p.image('a', 600_000);
        p.image('b', 600_000);
        p.queue("ab");
        let arguments = ["--within-limit", "--max-size", "1000000B", "-j", "2", "--rate-limit", "2MB"];
        let dry = p.run(&[&arguments[..], &["--dry-run"]].concat()).fails(1, &[&id('b'), "over its limit"]);
        dry.has(&json!({"total_files_prefetched": 1, "still_queued": 1}));
        p.run(&arguments).fails(1, &[&id('b'), "over its limit", "stays in the queue"]);
        assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("a", "b"));
    }
}

#[test]
fn a_cache_that_is_exactly_full_is_not_over_its_limit() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    for (limit, is_over) in [("1000B", false), ("999B", true)] {
        p.run(&["--max-size", limit, &id('a')]).ok().has(&json!({"over_limit": is_over}));
    }
}

#[test]
fn without_a_size_nothing_fits_into_a_limit() {
    let p = Prefetch::new(Xattr);
    p.image('a', 1000);
    p.update('a', "size = NULL");
    p.queue("a");
    for limit in ["--within-limit", "--make-room"] {
        p.run(&[limit, "--max-size", "500B"]).fails(1, &["no size", "stays in the queue"]);
    }
    assert_eq!(p.env.images(), "");
    let dry = p.run(&["--max-size", "500B", "--dry-run"]).ok();
    assert_eq!(Prefetch::told(&dry, 'a')["size"], json!(null));
    p.run(&["--max-size", "500B"]).ok();
}
