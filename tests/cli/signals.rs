//! Signals and kills: a run ends soon, between two entries, and leaves at worst what the next run repairs.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::env::*;
use crate::support::prefetch::Prefetch;

#[test]
fn a_signal_while_waiting_ends_it_with_nothing_changed() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let env = TestEnv::sqlite(FIVE);
        let _held = env.lock("glance-cache-prune");
        let mut command = env.of_cache("prune");
        let running = Running::start(command.args(["--max-size", "0"]), &env.outside(""));
        sleep(Duration::from_millis(300));
        running.signal(signal);
        running.wait().code(code);
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn a_signal_in_the_middle_ends_it_between_two_entries() {
    for (driver, signal, code) in
        [(Sqlite, Signal::INT, 130), (Xattr, Signal::TERM, 143), (Sqlite, Signal::TERM, 143)]
    {
        let env = TestEnv::large(driver, 10_000);
        let mut command = env.of_cache("prune");
        let running = Running::start(command.args(["--max-size", "0"]), &env.outside(""));
        until("the first image to go", || !env.path(nth_id(0)).exists());
        running.signal(signal);
        let run = running.wait().code(code);
        assert!(!run.json()["signal"].is_null(), "{run:?}");
        let files: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
        assert!(!files.is_empty(), "it was done before the signal came: nothing tested");
        assert_eq!(run.json()["total_files_pruned"], 10_000 - files.len());
        assert!(driver == Xattr || env.ids() == files, "files and rows differ");
    }
}

#[test]
fn killed_at_any_point_leaves_at_worst_ghosts_and_the_next_run_forgets_them() {
    for round in 0..6 {
        let env = TestEnv::large(Sqlite, 1500);
        let mut command = env.of_cache("prune");
        let mut running = Running::start(command.args(["--max-size", "500B"]), &env.outside(""));
        until("some images to go", || !env.path(nth_id(round * 150)).exists());
        running.child.kill().unwrap();
        let _ = running.wait();
        let (rows, files) = (env.ids(), env.names(""));
        assert!(
            files.iter().filter(|name| name.len() == 36).all(|file| rows.contains(file)),
            "an orphan was left"
        );
        env.prune(&["--max-size", "500B", "--forget-all"]).ok();
        let files: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
        assert_eq!((files.len(), env.ids() == files), (500, true), "round {round}");
    }
}

#[test]
fn a_signal_while_the_index_is_busy_ends_it_soon() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "0"]), &env.outside(""));
    sleep(Duration::from_millis(300));
    running.signal(Signal::TERM);
    let run = running.wait().code(143);
    assert!(run.took < Duration::from_secs(15), "{run:?}");
    drop(writer);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_repair_that_a_signal_ends_tells_what_was_cleaned_before() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let invalid = env.path("invalid").join(id('f'));
    env.file(&invalid, 7, 1);
    let running = Running::start(env.of_cache("clean").arg("--repair"), &env.outside(""));
    until("the invalid file to go", || !invalid.exists());
    sleep(Duration::from_millis(300));
    running.signal(Signal::TERM);
    let run = running.wait().code(143);
    let _ =
        run.has(&json!({"signal": "SIGTERM", "invalid_files": 1, "errors": [], "orphans_too_young": null}));
}

#[test]
fn a_view_without_end_is_left_by_a_signal() {
    let env = TestEnv::sqlite(FIVE);
    env.sql(
        "DROP TABLE cached_images; CREATE VIEW cached_images AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL \
         SELECT i FROM n) \
         SELECT 'x' AS image_id, 0 AS last_accessed, 0 AS last_modified, 0 AS size, 0 AS hits, i AS rowid \
         FROM n WHERE i < 0",
    );
    let mut command = env.of_cache("prune");
    let run = Running::start(command.args(["--max-size", "3000B"]), &env.outside(""));
    std::thread::sleep(std::time::Duration::from_millis(300));
    run.signal(rustix::process::Signal::TERM);
    let _ = run.wait().code(143).has(&json!({"signal": "SIGTERM", "total_files_pruned": 0}));
}

#[test]
fn a_signal_leaves_nothing_staged_and_the_queue_as_it_was() {
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
        let run = ours
            .wait()
            .code(code)
            .has(&json!({"signal": name, "total_files_prefetched": 0, "still_queued": 3}));
        assert_eq!(Prefetch::told(&run, 'c')["outcome"], "pending");
        let mut after = p.env.snapshot();
        after.retain(|path, _| !path.contains("glance-cache"));
        let keys = |map: &std::collections::BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&after), keys(&before));
        assert_eq!((p.env.left().as_str(), p.queued().as_str()), ("", "abc"));
    }
}
