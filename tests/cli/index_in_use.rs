//! The sqlite index while others read or write it, and after they died: journals, write-ahead logs, waiting.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::support::env::*;

#[test]
fn an_index_that_is_being_written_costs_no_file() {
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let env = TestEnv::sqlite(FIVE);
        let writer = env.db();
        writer.execute_batch(begin).unwrap();
        let run = env.prune(TO_NOTHING).fails(3, &["cache.db"]);
        assert!(run.json()["error"].is_string() && run.took < Duration::from_secs(10), "{run:?}");
        drop(writer);
        assert_eq!(env.left(), "abcde", "{begin}");
    }
}

#[test]
fn an_index_that_is_being_read_costs_no_file() {
    let env = TestEnv::sqlite(FIVE);
    let reader = env.db();
    reader.execute_batch("BEGIN; SELECT * FROM cached_images;").unwrap();
    env.prune(TO_NOTHING).fails(3, &["cache.db"]);
    drop(reader);
    assert_eq!(env.left(), "abcde");
    env.prune(TO_NOTHING).ok();
}

#[test]
fn waits_for_a_busy_index_within_the_timeout() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "2000B"]), &env.outside(""));
    sleep(Duration::from_millis(500));
    drop(writer);
    running.wait().ok();
    assert_eq!(env.left(), "de");
}

#[test]
fn the_index_is_reserved_by_a_writer() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    env.prune_refuses(3, "cache.db");
    env.list();
}

#[test]
fn the_index_is_held_by_a_writer() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    env.prune_refuses(3, "cache.db");
}

#[test]
fn write_ahead_log_with_a_reader_at_the_limit() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("PRAGMA journal_mode = WAL");
    let reader = env.db();
    reader.execute_batch("BEGIN; SELECT * FROM cached_images;").unwrap();
    env.prune(&["--max-size", "5000B"])
        .ok()
        .has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
    assert_eq!(env.left(), "abcde");
}

#[test]
fn an_uncommitted_writer_at_the_limit() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN; UPDATE cached_images SET hits = hits + 1").unwrap();
    let run = env.prune(&["--max-size", "5000B", "--lock-timeout", "500ms"]);
    assert!(run.code == 0 || run.code == 3, "{run:?}");
    drop(writer);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_write_ahead_log_neither_counts_nor_is_made_by_a_look() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("PRAGMA journal_mode = WAL");
    assert_eq!(env.names("").iter().filter(|name| name.starts_with("cache.db")).count(), 1);
    let before = tree(env.dir());
    env.list();
    env.run("status", &[]).ok();
    assert_eq!(tree(env.dir()), before);
    let reader = env.db();
    reader.execute_batch("BEGIN; SELECT * FROM cached_images;").unwrap();
    env.prune(&["--max-size", "5000B"])
        .ok()
        .has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
    env.prune(&["--max-size", "3000B", "--lock-timeout", "1s"]).ok();
    drop(reader);
    assert_eq!(env.left(), "cde");
}

#[test]
fn a_write_ahead_log_that_a_killed_writer_left() {
    let (env, work) = (TestEnv::sqlite(FIVE), TestEnv::sqlite(FIVE));
    work.sql("PRAGMA journal_mode = WAL");
    let writer = work.db();
    let sql = format!(
        "PRAGMA wal_autocheckpoint = 0; UPDATE cached_images SET hits = 3; DELETE FROM cached_images WHERE \
         image_id = '{}'",
        id('e')
    );
    writer.execute_batch(&sql).unwrap();
    for name in ["cache.db", "cache.db-wal"] {
        fs::write(env.path(name), fs::read(work.path(name)).unwrap()).unwrap();
    }
    let before = tree(env.dir());
    let run = env.run("list", &["--format", "json"]).ok();
    assert!(run.stdout.contains(&id('a')), "{run:?}");
    let _ = env.run("status", &[]);
    assert_eq!(tree(env.dir()), before, "a look wrote");
    // What was committed to the log counts: e has no row, so it is an orphan, and used last.
    env.prune(&["--max-size", "2000B"]).ok();
    assert_eq!((env.images().as_str(), env.rows().as_str()), ("de", "d"));
}

/// Makes a cache whose writer died in the middle: its journal is hot, all rows are doubtful until it is
/// rolled back.
fn with_a_hot_journal() -> TestEnv {
    let (env, work) = (TestEnv::sqlite(FIVE), TestEnv::sqlite(FIVE));
    let padding = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) ";
    work.sql(&format!("CREATE TABLE padding AS {padding} SELECT i, hex(randomblob(60)) AS x FROM n"));
    let writer = work.db();
    writer
        .execute_batch(
            "PRAGMA cache_size = 2; BEGIN; UPDATE padding SET x = x || 'y'; DELETE FROM \
                          cached_images; UPDATE padding SET x = x || 'z'",
        )
        .unwrap();
    for name in ["cache.db", "cache.db-journal"] {
        fs::write(env.path(name), fs::read(work.path(name)).unwrap()).unwrap();
    }
    env
}

#[test]
fn a_hot_journal_is_rolled_back_by_a_prune() {
    let env = with_a_hot_journal();
    env.prune(&["--max-size", "3000B"])
        .ok()
        .has(&json!({"total_files_pruned": 2, "cache_size_before": 5000}));
    assert_eq!(env.left(), "cde");
}

#[test]
fn a_hot_journal_is_left_alone_by_a_look_and_the_files_are_shown() {
    let env = with_a_hot_journal();
    let before = tree(env.dir());
    let run = env.run("list", &["--format", "json"]).ok();
    assert!(run.stdout.contains(&id('a')), "{run:?}");
    assert!(
        run.stderr.contains("unknown") && run.stderr.contains("roll back"),
        "not said why last use is unknown: {run:?}"
    );
    let _ = env.run("status", &[]);
    let _ = env.prune(&["--dry-run"]);
    assert_eq!(tree(env.dir()), before);
}

/// Runs a prune while the index is written to: `a` is used after the plan was made.
fn with_a_use_since_the_plan(env: &TestEnv, command: &mut Command) -> Run {
    // The plan is made while the lock is waited for or the index is busy: whatever happened until then
    // counts.
    let writer = env.db();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let running = Running::start(command, &env.outside(""));
    sleep(Duration::from_millis(500));
    let used = format!(
        "UPDATE cached_images SET hits = 1, last_accessed = {} WHERE image_id = '{}'; COMMIT;",
        now(),
        id('a')
    );
    writer.execute_batch(&used).unwrap();
    running.wait()
}

#[test]
fn what_was_used_since_the_plan_stays() {
    let env = TestEnv::sqlite(FIVE);
    let run = with_a_use_since_the_plan(&env, env.of_cache("prune").args(["--max-size", "3000B"])).ok();
    run.has(&json!({"total_files_pruned": 2, "left_alone": 1}));
    assert_eq!(env.left(), "ade");
}

#[test]
fn a_named_image_that_was_used_since_the_plan_is_an_error() {
    let env = TestEnv::sqlite(FIVE);
    let run = with_a_use_since_the_plan(&env, env.of_cache("prune").args(["--image", &id('a')]));
    let run = run.fails(1, &["1 image or rows stay, as they were used or changed during the run"]);
    run.has(&json!({"total_files_pruned": 0, "left_alone": 1}));
    assert_eq!(env.left(), "abcde");
}

#[test]
fn what_was_used_since_the_plan_is_counted_with_all_caches_too() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_max_size = 3000");
    let paths = ["[deploy]\niso_master_path =\n", "[pxe]\ninstance_master_path =\ntftp_master_path =\n"];
    let ironic = env.write("ironic.conf", paths.concat());
    let mut command = env.command(BINARY);
    command.args(["prune", "--all-caches", "--min-age", "0", "--config-file", &conf]);
    let run = with_a_use_since_the_plan(&env, command.args(["--ironic-config-file", &ironic])).ok();
    run.has(&json!({"total_files_pruned": 2, "left_alone": 1}));
    assert_eq!(env.left(), "ade");
}

#[test]
fn images_cached_while_the_index_is_waited_for_are_no_ghosts() {
    let env = TestEnv::sqlite(&[('a', 1000, 5, 0)]);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "10000B"]), &env.outside(""));
    sleep(Duration::from_millis(500));
    for letter in ['b', 'c', 'd', 'e'] {
        env.orphan(letter, 1000, 1);
        writer.execute("INSERT INTO cached_images (image_id, size) VALUES (?, 1000)", [id(letter)]).unwrap();
    }
    writer.execute_batch("COMMIT").unwrap();
    drop(writer);
    running.wait().ok().has(&json!({"ghosts_forgotten": 0}));
    assert_eq!(env.left(), "abcde");
}
