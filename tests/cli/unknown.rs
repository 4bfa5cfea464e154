//! What a run did not look at: null in JSON and "unknown" in text, never 0; and what a plan or an error says
//! it is about.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::env::*;
use crate::support::host::*;
use crate::support::prefetch::Prefetch;

/// A configuration whose cache directory does not exist, and its path.
fn without_directory(env: &TestEnv) -> String {
    let conf = format!(
        "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_max_size = 9000\n",
        env.outside("gone").display()
    );
    env.write("gone.conf", conf)
}

// -- Changes that did not happen --

#[test]
fn a_prune_that_was_skipped_knows_no_sizes() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock("glance-cache-prune");
    let run = env.prune(&["--skip-if-locked", "--max-size", "9000B"]).ok();
    run.has(&json!({"cache_size_before": null, "cache_size_after": null, "max_size": 9000,
        "total_files_pruned": 0}));
}

#[test]
fn a_signal_while_waiting_knows_no_sizes() {
    for format in ["json", "text"] {
        let env = TestEnv::sqlite(FIVE);
        let _held = env.lock("glance-cache-prune");
        let mut command = env.of_cache("prune");
        command.args(["--max-size", "9000B", "--format", format]);
        let running = Running::start(&mut command, &env.outside(""));
        sleep(Duration::from_millis(300));
        running.signal(Signal::TERM);
        let run = running.wait().code(143);
        if format == "json" {
            let _ = run.has(&json!({"cache_size_before": null, "cache_size_after": null, "max_size": 9000}));
        } else {
            assert!(run.stdout.contains("the size of the cache is unknown"), "{}", run.stdout);
            assert!(!run.stdout.contains("holds"), "{}", run.stdout);
        }
    }
}

#[test]
fn a_prune_of_a_missing_directory_knows_only_its_limit() {
    let env = TestEnv::sqlite(&[]);
    let conf = without_directory(&env);
    for arguments in [&[][..], &["--dry-run"]] {
        let run = env.raw(&[&["prune", "--config-file", &conf], arguments].concat()).ok();
        let _ = run.has(&json!({"cache_size_before": null, "cache_size_after": null, "max_size": 9000}));
    }
    let run = env.raw(&["prune", "--config-file", &conf, "--max-size", "50%"]).ok();
    run.has(&json!({"max_size": null}));
    env.raw(&["prefetch", "--config-file", &conf]).ok().has(&json!({"still_queued": null}));
}

#[test]
fn a_repair_that_was_skipped_did_not_look_for_young_orphans() {
    let env = TestEnv::sqlite(FIVE);
    env.orphan('f', 10, 5);
    env.clean(&["--repair"]).ok().has(&json!({"orphans_too_young": 1}));
    let _held = env.lock("glance-cache-clean");
    env.clean(&["--repair", "--skip-if-locked"]).ok().has(&json!({"orphans_too_young": null}));
}

#[test]
fn a_clean_of_all_caches_does_not_look_at_images_of_glance() {
    let env = HostEnv::new();
    env.conf(&format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir("glance").display()));
    let _index = glance(&env, &[(7, 500.0)]);
    let report = env.run("clean", &["--all-caches"]).ok().json();
    let cache = cache(&report, "glance");
    for key in ["size", "in_use", "reclaimable", "kept", "foreign"] {
        assert_eq!(cache[key], Value::Null, "{key} in {cache}");
    }
    assert!(cache["limit"].is_u64() && cache["leftovers"].is_object(), "{cache}");
}

// -- Prefetch --

/// Asserts that a report has every key that the documents promise.
#[track_caller]
fn is_whole(report: &Value) {
    for key in [
        "total_files_prefetched",
        "total_bytes_prefetched",
        "images",
        "still_queued",
        "cache_size_after",
        "max_size",
        "over_limit",
        "dry_run",
        "errors",
    ] {
        assert!(report.get(key).is_some(), "{key} in {report}");
    }
    assert_eq!(report.get("plan").is_some(), report["dry_run"] == true, "plan in {report}");
}

#[test]
fn a_prefetch_of_an_empty_queue_has_every_key() {
    let p = Prefetch::new(Sqlite);
    for arguments in [&[][..], &["--dry-run"]] {
        let report = p.run(arguments).ok().json();
        is_whole(&report);
        assert_eq!((&report["still_queued"], &report["over_limit"]), (&json!(0), &Value::Null), "{report}");
    }
}

#[test]
fn images_that_are_only_queued_have_every_key() {
    let p = Prefetch::new(Sqlite);
    p.queue("c");
    let dry = p.run(&["--enqueue", "--dry-run", &id('a'), &id('c')]).ok().json();
    is_whole(&dry);
    assert_eq!(
        dry["plan"],
        json!([{"image_id": id('a'), "action": "enqueue",
        "reason": "it is neither cached nor queued", "bytes": null}])
    );
    assert_eq!((p.queued().as_str(), &dry["still_queued"]), ("c", &json!(2)));
    let report = p.run(&["--enqueue", &id('a'), &id('c')]).ok().json();
    is_whole(&report);
    assert_eq!((p.queued().as_str(), &report["still_queued"]), ("ac", &json!(2)));
    assert_eq!(report["images"][0]["size"], Value::Null);
}

#[test]
fn images_in_the_queue_that_were_not_asked_for_count_as_queued() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    p.queue("bc");
    p.run(&[&id('a')]).ok().has(&json!({"total_files_prefetched": 1, "still_queued": 2}));
}

#[test]
fn an_interrupted_prefetch_counts_no_bytes_of_images_that_it_did_not_fetch() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    p.image('b', 9_000_000);
    p.queue("ab");
    let ours = p.start(&["--rate-limit", "1MB", "--jobs", "1"]);
    until("the first image", || p.env.images() == "a");
    sleep(Duration::from_millis(300));
    ours.signal(Signal::INT);
    let run = ours.wait().code(130);
    let told = Prefetch::told(&run, 'b');
    assert_eq!(
        (&told["outcome"], &told["bytes"], &told["size"]),
        (&json!("pending"), &json!(0), &json!(9_000_000))
    );
    let report = run.json();
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.iter().map(|image| image["bytes"].as_u64().unwrap()).sum::<u64>(), 1000);
    assert_eq!(report["total_bytes_prefetched"], 1000);
}

// -- Plans --

#[test]
fn a_plan_calls_only_images_images() {
    let env = TestEnv::sqlite(FIVE);
    env.file(format!("invalid/{}", id('1')), 10, 5);
    env.file(format!("incomplete/{}", id('2')), 10, 500);
    env.row("no image", 3);
    env.ghost('f', 3);
    let report = env.clean(&["--dry-run", "--repair"]).ok().json();
    let steps: Vec<(Value, Value)> = report["plan"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["name"].clone(), step["image_id"].clone()))
        .collect();
    let named = |name: String| (json!(name), Value::Null);
    for expected in [
        (Value::Null, json!(id('f'))),
        named("no image".to_owned()),
        named(format!("invalid/{}", id('1'))),
        named(format!("incomplete/{}", id('2'))),
    ] {
        assert!(steps.contains(&expected), "{expected:?} in {steps:?}");
    }
    assert_eq!(steps.len(), 4);
}

// -- Limits that are not held --

#[test]
fn the_reason_why_a_limit_is_not_held_is_named() {
    let env = TestEnv::sqlite(FIVE);
    let keep = ["--keep", &id('a'), "--keep", &id('b'), "--min-age", "15h"];
    for extra in [&[][..], &["--dry-run"]] {
        let run = env.prune(&[&keep[..], &["--max-size", "500B"], extra].concat());
        let run = run.fails(1, &["the cache is still over its limit: 2.93 KiB of 500 B ("]);
        let run = run.says(&[
            "2 images, 1.95 KiB, listed by --keep, --keep-from or keep_from; 1 image, 1000 B, cached",
        ]);
        for wrong in ["in use", "could not be removed", "failed"] {
            assert!(!run.stderr.contains(wrong), "{wrong} in {}", run.stderr);
        }
    }
}

#[test]
fn the_reason_why_a_cache_of_several_is_over_its_limit_is_named() {
    let env = HostEnv::new();
    env.limits(2, 1_000_000);
    for n in 1..=3 {
        env.image("instance", &master(n), MIB);
    }
    (1..=3).for_each(|n| env.use_image("instance", &master(n)));
    let run = env.run("prune", &["--all-caches"]).code(1);
    run.says(&["ironic-instance", "is still over its limit: 3 MiB of 2 MiB (3 images, 3 MiB, in use)"]);
}

#[test]
fn nothing_failed_if_no_entry_did() {
    let env = TestEnv::sqlite(FIVE);
    for n in 0..20 {
        env.row(&nth_id(n), 5);
    }
    let run = env.prune(&["--max-size", "1000B", "--format", "text"]).code(1);
    assert!(run.stderr.contains("--forget-all") && !run.stdout.contains("failed"), "{run:?}");
}

// -- Status --

/// Runs a status, and returns its JSON and its text.
fn status(env: &TestEnv, arguments: &[&str]) -> (Value, String) {
    let json = env.raw(&[&["status", "--format", "json"], arguments].concat()).ok().json();
    (json, env.raw(&[&["status"], arguments].concat()).ok().stdout)
}

#[test]
fn a_missing_directory_has_no_numbers() {
    let env = TestEnv::sqlite(&[]);
    let conf = without_directory(&env);
    let (json, text) = status(&env, &["--config-file", &conf]);
    for key in ["cache_size", "allocated", "over_limit", "tracked", "orphans", "ghosts", "impossible_rows"]
        .iter()
        .chain(&["queued", "incomplete", "stalled", "invalid", "by_last_use", "file_system", "driver"])
    {
        assert_eq!(json[key], Value::Null, "{key} in {json}");
    }
    assert_eq!((&json["exists"], &json["max_size"]), (&json!(false), &json!(9000)));
    assert!(!text.contains("0 B"), "{text}");
}

#[test]
fn an_index_that_cannot_be_read_has_no_ghosts_and_no_orphans_to_count() {
    let env = TestEnv::sqlite(FIVE);
    fs::write(env.path("cache.db"), vec![7; 8192]).unwrap();
    let arguments = ["--cache-dir", env.dir().to_str().unwrap(), "--driver", "sqlite"];
    let (json, text) = status(&env, &arguments);
    let unknown =
        ["tracked", "orphans", "ghosts", "impossible_rows", "oldest_use", "newest_use", "by_last_use"];
    for key in unknown.into_iter().chain(["hits"]) {
        assert_eq!(json[key], Value::Null, "{key} in {json}");
    }
    assert_eq!(json["cache_size"], 5000);
    for line in ["tracked       unknown", "orphans       unknown", "ghosts        unknown"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn without_a_stall_time_no_entry_is_called_stalled_or_not() {
    let env = TestEnv::sqlite(FIVE);
    env.file(format!("incomplete/{}", id('2')), 10, 500);
    let conf = env.conf("image_cache_stall_time = soon");
    let (json, text) = status(&env, &["--config-file", &conf]);
    assert_eq!((&json["stalled"], &json["incomplete"]["count"]), (&Value::Null, &json!(1)));
    assert!(text.contains("stalled       unknown"), "{text}");
}

#[test]
fn images_that_were_never_used_have_no_time_of_use() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("UPDATE cached_images SET last_accessed = 0");
    let json = env.status();
    assert_eq!((&json["oldest_use"], &json["newest_use"]), (&Value::Null, &Value::Null));
}
