//! What must never happen: a lost file, a hang, a look that writes, a step outside the cache.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::process::Signal;
use serde_json::json;

use crate::env::*;

const PRUNE_ALL: &[&str] = &["--max-size", "0", "--lock-timeout", "300ms"];

// -- Locks --

#[test]
fn a_held_lock_is_named_with_its_holder_and_nothing_changes() {
    for (command, lock) in [("prune", "glance-cache-prune"), ("clean", "glance-cache-clean")] {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            let _held = env.lock(lock);
            let before = env.snapshot();
            let run = env.run(command, PRUNE_ALL.split_at(if command == "prune" { 0 } else { 2 }).1);
            let run = run.fails(3, &[lock, &std::process::id().to_string()]);
            assert!(run.json()["error"].is_string(), "{run:?}");
            assert_eq!(env.snapshot(), before);
        }
    }
}

#[test]
fn skip_if_locked_is_success() {
    let env = TestEnv::sqlite(FIVE);
    let _locks = [env.lock("glance-cache-prune"), env.lock("glance-cache-clean")];
    env.prune(&["--skip-if-locked", "--max-size", "0"]).ok();
    env.clean(&["--skip-if-locked"]).ok();
    assert_eq!(env.left(), "abcde");
}

#[test]
fn waits_for_a_lock_within_the_timeout() {
    let env = TestEnv::sqlite(FIVE);
    let held = env.lock("glance-cache-prune");
    let mut command = env.of_cache("prune");
    let mut running = Running::start(command.args(["--max-size", "0"]), &env.outside(""));
    sleep(Duration::from_millis(400));
    assert!(running.child.try_wait().unwrap().is_none(), "did not wait");
    drop(held);
    running.wait().ok();
    assert_eq!(env.left(), "");
}

#[test]
fn each_command_takes_its_own_lock() {
    let env = TestEnv::sqlite(FIVE);
    let held = env.lock("glance-cache-prune");
    env.clean(&["--lock-timeout", "300ms"]).ok();
    env.clean(&["--repair", "--lock-timeout", "300ms"]).fails(3, &["glance-cache-prune"]);
    drop(held);
    let _held = [env.lock("glance-cache-clean"), env.lock("glance-cache")];
    env.prune(PRUNE_ALL).ok();
    assert_eq!(env.left(), "");
}

#[test]
fn a_dry_run_is_not_kept_out_by_a_lock() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock("glance-cache-prune");
    env.prune(&["--dry-run", "--max-size", "0"]).ok();
}

#[test]
fn flock_is_not_oslos_lock() {
    let env = TestEnv::sqlite(FIVE);
    let file = File::create(env.path("glance-cache-prune")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    env.prune(PRUNE_ALL).ok();
}

#[test]
fn the_configured_lock_path_is_taken() {
    let env = TestEnv::sqlite(FIVE);
    let locks = env.outside("locks");
    fs::create_dir(&locks).unwrap();
    let conf = env.conf(&format!("[oslo_concurrency]\nlock_path = {}", locks.display()));
    let file = File::options().append(true).create(true).open(locks.join("glance-cache-prune")).unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    env.raw(&["prune", "--config-file", &conf, "--max-size", "0", "--lock-timeout", "0"]).code(3);
    drop(file);
    env.raw(&["prune", "--config-file", &conf, "--max-size", "0"]).ok();
    assert!(!env.path("glance-cache-prune").exists(), "locked in the cache directory as well");
}

#[test]
fn a_lock_file_that_was_deleted_and_made_anew_is_taken_again() {
    let env = TestEnv::sqlite(FIVE);
    let old = env.lock("glance-cache-prune");
    let mut command = env.of_cache("prune");
    let mut running = Running::start(command.args(["--max-size", "0"]), &env.outside(""));
    sleep(Duration::from_millis(300));
    system(&["rm", env.path("glance-cache-prune").to_str().unwrap()]);
    let new = env.lock("glance-cache-prune");
    drop(old);
    sleep(Duration::from_millis(600));
    assert!(running.child.try_wait().unwrap().is_none(), "took the lock of a deleted file");
    assert_eq!(env.left(), "abcde");
    drop(new);
    running.wait().ok();
    assert_eq!(env.left(), "");
}

#[test]
fn a_lock_file_that_is_something_else_is_no_reason_to_hang_or_to_leave_the_cache() {
    type Make = fn(&TestEnv);
    let kinds: [(&str, Make); 3] = [
        ("a FIFO", |env| env.fifo("glance-cache-prune")),
        ("a dangling link", |env| {
            env.link("glance-cache-prune", env.outside("made"));
        }),
        ("a directory", |env| {
            fs::create_dir(env.path("glance-cache-prune")).unwrap();
        }),
    ];
    for (kind, make) in kinds {
        let env = TestEnv::sqlite(FIVE);
        make(&env);
        let run = env.prune(PRUNE_ALL);
        assert!(
            [1, 2, 3].contains(&run.code) && run.stderr.contains("glance-cache-prune"),
            "{kind}: {run:?}"
        );
        assert_eq!(env.left(), "abcde", "{kind}");
        assert!(!env.outside("made").exists());
    }
}

#[test]
fn two_prunes_at_once_remove_what_one_would() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::large(driver, 400);
        let mut commands = [env.of_cache("prune"), env.of_cache("prune")];
        let runs =
            commands.each_mut().map(|c| Running::start(c.args(["--max-size", "200"]), &env.outside("")));
        let pruned: u64 =
            runs.map(|r| r.wait().ok().json()["total_files_pruned"].as_u64().unwrap()).iter().sum();
        assert_eq!(pruned, 200);
        assert_eq!(env.names("").iter().filter(|name| name.len() == 36).count(), 200);
    }
}

#[test]
fn what_others_remove_meanwhile_is_not_removed_twice() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::large(driver, 3000);
        // Two that do not see each other's lock, as Glance's own pruner sees none.
        let conf = |name: &str| {
            std::fs::create_dir(env.outside(name)).unwrap();
            let lock_path = env.outside(name);
            let text = env.conf_text(&format!("[oslo_concurrency]\nlock_path = {}", lock_path.display()));
            env.write(&format!("{name}.conf"), text)
        };
        let confs = [conf("one"), conf("two")];
        let mut commands = confs.each_ref().map(|conf| {
            let mut command = env.command(BINARY);
            command.args(["prune", "--max-size", "1500", "--config-file", conf]);
            command
        });
        let runs = commands.each_mut().map(|c| Running::start(c, &env.outside("")));
        for run in runs {
            let _ = run.wait().ok();
        }
        let left = env.names("").iter().filter(|name| name.len() == 36).count();
        assert_eq!(left, 1500, "{driver:?}");
    }
}

#[test]
fn a_trigger_that_keeps_its_rows_costs_no_file() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER keep BEFORE DELETE ON cached_images BEGIN SELECT RAISE(IGNORE); END");
    for _ in 0..2 {
        env.prune(&["--max-size", "3000"]).code(1).has(&json!({"total_files_pruned": 0, "left_alone": 5}));
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn a_view_without_end_is_left_by_a_signal() {
    let env = TestEnv::sqlite(FIVE);
    env.sql(
        "DROP TABLE cached_images; CREATE VIEW cached_images AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) \
         SELECT 'x' AS image_id, 0 AS last_accessed, 0 AS last_modified, 0 AS size, 0 AS hits, i AS rowid FROM n WHERE i < 0",
    );
    let mut command = env.of_cache("prune");
    let run = Running::start(command.args(["--max-size", "3000"]), &env.outside(""));
    std::thread::sleep(std::time::Duration::from_millis(300));
    run.signal(rustix::process::Signal::TERM);
    let _ = run.wait().code(143).has(&json!({"signal": "SIGTERM", "total_files_pruned": 0}));
}

#[test]
fn sqlites_own_words_are_escaped() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER forge BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, '\x1b[31m\nerror: forged'); END");
    let run = env.prune(&["--max-size", "3000"]).code(3);
    assert!(!run.stderr.contains('\x1b') && !run.stderr.contains("\nerror: forged"), "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn two_cleans_at_once_both_succeed() {
    let env = TestEnv::xattr(FIVE);
    for n in 0..2000 {
        env.file(format!("invalid/{}", nth_id(n)), 1, 1);
    }
    let mut commands = [env.of_cache("clean"), env.of_cache("clean")];
    let runs = commands.each_mut().map(|c| Running::start(c, &env.outside("")));
    let cleaned: u64 =
        runs.map(|r| r.wait().ok().json()["total_files_cleaned"].as_u64().unwrap()).iter().sum();
    assert_eq!(cleaned, 2000);
}

// -- Signals --

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
        let mut running = Running::start(command.args(["--max-size", "500"]), &env.outside(""));
        until("some images to go", || !env.path(nth_id(round * 150)).exists());
        running.child.kill().unwrap();
        let _ = running.wait();
        let (rows, files) = (env.ids(), env.names(""));
        assert!(
            files.iter().filter(|name| name.len() == 36).all(|file| rows.contains(file)),
            "an orphan was left"
        );
        env.prune(&["--max-size", "500", "--forget-all"]).ok();
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

// -- The index in use --

#[test]
fn an_index_that_is_being_written_costs_no_file() {
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let env = TestEnv::sqlite(FIVE);
        let writer = env.db();
        writer.execute_batch(begin).unwrap();
        let run = env.prune(PRUNE_ALL).fails(3, &["cache.db"]);
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
    env.prune(PRUNE_ALL).fails(3, &["cache.db"]);
    drop(reader);
    assert_eq!(env.left(), "abcde");
    env.prune(PRUNE_ALL).ok();
}

#[test]
fn waits_for_a_busy_index_within_the_timeout() {
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "2000"]), &env.outside(""));
    sleep(Duration::from_millis(500));
    drop(writer);
    running.wait().ok();
    assert_eq!(env.left(), "de");
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
    env.prune(&["--max-size", "5000"]).ok().has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
    env.prune(&["--max-size", "3000", "--lock-timeout", "1s"]).ok();
    drop(reader);
    assert_eq!(env.left(), "cde");
}

#[test]
#[ignore = "needs strace: run tests/run"]
fn each_batch_is_on_the_disk_before_the_next_with_a_write_ahead_log_too() {
    let env = TestEnv::large(Sqlite, 600);
    env.sql("PRAGMA journal_mode = WAL");
    let log = env.outside("strace.log");
    let mut command = env.command("strace");
    command.args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o"]).arg(&log).arg(BINARY);
    command.args(["prune", "--max-size", "100", "--cache-dir"]).arg(env.dir());
    env.finish(&mut command).ok().has(&json!({"total_files_pruned": 500}));
    let log = fs::read_to_string(log).unwrap();
    let syncs = log.lines().filter(|line| line.contains("cache.db-wal>)")).count();
    // Half of the rows, half of the rest, and what is left.
    assert!(syncs >= 3, "{log}");
}

#[test]
fn a_write_ahead_log_that_a_killed_writer_left() {
    let (env, work) = (TestEnv::sqlite(FIVE), TestEnv::sqlite(FIVE));
    work.sql("PRAGMA journal_mode = WAL");
    let writer = work.db();
    let sql = format!(
        "PRAGMA wal_autocheckpoint = 0; UPDATE cached_images SET hits = 3; DELETE FROM cached_images WHERE image_id = '{}'",
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
    env.prune(&["--max-size", "2000"]).ok();
    assert_eq!((env.images().as_str(), env.rows().as_str()), ("de", "d"));
}

/// A cache whose writer died in the middle: its journal is hot, all rows are doubtful until it is rolled back.
fn with_a_hot_journal() -> TestEnv {
    let (env, work) = (TestEnv::sqlite(FIVE), TestEnv::sqlite(FIVE));
    let padding = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) ";
    work.sql(&format!("CREATE TABLE padding AS {padding} SELECT i, hex(randomblob(60)) AS x FROM n"));
    let writer = work.db();
    writer.execute_batch("PRAGMA cache_size = 2; BEGIN; UPDATE padding SET x = x || 'y'; DELETE FROM cached_images; UPDATE padding SET x = x || 'z'").unwrap();
    for name in ["cache.db", "cache.db-journal"] {
        fs::write(env.path(name), fs::read(work.path(name)).unwrap()).unwrap();
    }
    env
}

#[test]
fn a_hot_journal_is_rolled_back_by_a_prune() {
    let env = with_a_hot_journal();
    env.prune(&["--max-size", "3000"]).ok().has(&json!({"total_files_pruned": 2, "cache_size_before": 5000}));
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

#[test]
fn an_index_with_a_second_link_is_not_written() {
    let env = TestEnv::sqlite(FIVE);
    fs::hard_link(env.path("cache.db"), env.outside("other.db")).unwrap();
    let before = fs::read(env.path("cache.db")).unwrap();
    env.prune(PRUNE_ALL).fails(3, &["cache.db"]);
    assert_eq!(fs::read(env.outside("other.db")).unwrap(), before);
    assert_eq!(env.images(), "abcde");
}

#[test]
fn an_index_that_is_a_link_is_not_followed() {
    let (env, other) = (TestEnv::sqlite(FIVE), TestEnv::sqlite(FIVE));
    fs::rename(env.path("cache.db"), env.path("gone")).unwrap();
    env.link("cache.db", other.path("cache.db"));
    env.prune(PRUNE_ALL).fails(3, &["cache.db"]);
    assert_eq!((env.images().as_str(), other.rows().as_str()), ("abcde", "abcde"));
}

#[test]
fn rows_and_files_agree_whatever_the_index_refuses() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("CREATE TRIGGER no BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, 'no'); END");
    let run = env.prune(PRUNE_ALL);
    assert!(run.code == 1 || run.code == 3, "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn what_was_used_since_the_plan_stays() {
    // The plan is made while the lock is waited for or the index is busy: whatever happened until then counts.
    let env = TestEnv::sqlite(FIVE);
    let writer = env.db();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "3000"]), &env.outside(""));
    sleep(Duration::from_millis(500));
    let used = format!(
        "UPDATE cached_images SET hits = 1, last_accessed = {} WHERE image_id = '{}'; COMMIT;",
        now(),
        id('a')
    );
    writer.execute_batch(&used).unwrap();
    running.wait().ok();
    assert_eq!(env.left(), "ade");
}

#[test]
fn images_cached_while_the_index_is_waited_for_are_no_ghosts() {
    let env = TestEnv::sqlite(&[('a', 1000, 5, 0)]);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = env.of_cache("prune");
    let running = Running::start(command.args(["--max-size", "10000"]), &env.outside(""));
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

// -- The directory --

#[test]
fn a_subdirectory_that_is_a_link_is_an_error_and_not_followed() {
    for driver in [Sqlite, Xattr] {
        for sub in ["invalid", "incomplete"] {
            let env = TestEnv::new(driver, FIVE);
            let outside = env.outside("precious");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("file"), "x").unwrap();
            set_times(&outside.join("file"), 0.0, 0.0);
            fs::remove_dir(env.path(sub)).unwrap();
            env.link(sub, &outside);
            let run = env.clean(&[]);
            assert!(run.code != 0 && run.stderr.contains(sub), "{run:?}");
            assert!(outside.join("file").exists());
        }
    }
}

#[test]
fn fifos_everywhere_block_nothing() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::new(driver, FIVE);
        for name in [
            id('f'),
            "pipe".into(),
            format!("invalid/{}", id('1')),
            "incomplete/pipe".into(),
            format!("queue/{}", id('2')),
        ] {
            env.fifo(&name);
        }
        env.list();
        env.run("status", &[]).ok();
        env.clean(&[]).code(0);
        env.prune(&["--max-size", "3000"]).ok();
        assert_eq!(env.images(), "cdef");
        assert!(env.path("pipe").exists() && env.path("invalid").join(id('1')).exists());
    }
}

#[test]
fn a_fifo_for_an_index_or_a_configuration_file_is_an_error() {
    let env = TestEnv::sqlite(FIVE);
    fs::remove_file(env.path("cache.db")).unwrap();
    env.fifo("cache.db");
    env.prune(PRUNE_ALL).fails(3, &["cache.db"]);
    let run = env.run("list", &[]);
    assert_ne!(run.stderr, "");
    let pipe = env.path("pipe");
    env.fifo("pipe");
    env.raw(&["prune", "--config-file", pipe.to_str().unwrap()]).fails(2, &["pipe"]);
}

#[test]
fn links_and_directories_among_the_images_are_foreign() {
    for env in TestEnv::both(FIVE) {
        let target = env.outside("target");
        File::create(&target).unwrap().set_len(1 << 20).unwrap();
        env.link(id('f'), &target);
        env.link(id('1'), "dangling");
        fs::create_dir(env.path(id('2'))).unwrap();
        env.prune(&["--max-size", "5000"])
            .ok()
            .has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
        env.prune(&["--max-size", "0"]).ok();
        assert!(
            target.exists() && env.path(id('f')).symlink_metadata().is_ok() && env.path(id('2')).is_dir()
        );
    }
}

#[test]
fn rows_that_point_outside_touch_nothing_there() {
    let env = TestEnv::sqlite(FIVE);
    let victim = env.outside("victim");
    fs::write(&victim, "x").unwrap();
    for name in ["../victim", victim.to_str().unwrap(), "", ".", "..", "invalid", "a/b"] {
        env.row(name, 100);
    }
    env.sql("INSERT INTO cached_images (image_id) VALUES (NULL), (x'ff00'), (17)");
    let _ = env.prune(&["--max-size", "0"]);
    let _ = env.clean(&["--repair"]);
    assert!(victim.exists());
    assert_eq!(env.images(), "");
}

#[test]
fn a_subdirectory_swapped_for_a_link_while_it_runs_removes_nothing_outside() {
    let env = TestEnv::xattr(FIVE);
    let outside = env.outside("precious");
    fs::create_dir(&outside).unwrap();
    for n in 0..50 {
        fs::write(outside.join(nth_id(n)), "").unwrap();
    }
    env.link("link", &outside);
    let (real, link) = (env.path("invalid"), env.path("link"));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
                sleep(Duration::from_micros(50));
            }
        });
        for _ in 0..200 {
            let run = env.clean(&[]);
            assert!(run.code <= 3, "{run:?}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(names(&outside).len(), 50);
}

// -- What the kernel sees --

/// The system calls of a run, from strace.
fn calls(env: &TestEnv, trace: &str, arguments: &[&str]) -> Vec<String> {
    let log = env.outside("strace");
    let mut command = env.command("/usr/bin/strace");
    command.args(["-f", "-y", "-o", log.to_str().unwrap(), "-e", trace, BINARY]).args(arguments);
    env.finish(command.args(["--cache-dir", env.dir().to_str().unwrap()])).ok();
    let calls: Vec<String> = fs::read_to_string(log).unwrap().lines().map(String::from).collect();
    assert!(
        calls.iter().any(|call| call.contains(env.dir().to_str().unwrap())),
        "strace saw nothing: {calls:?}"
    );
    calls
}

#[test]
#[ignore = "needs strace: run tests/run"]
fn a_look_opens_nothing_for_writing_and_takes_no_lock_of_ours() {
    for env in TestEnv::both(FIVE) {
        for command in [
            &["list"] as &[&str],
            &["status"],
            &["prune", "--dry-run", "--max-size", "0"],
            &["clean", "--dry-run"],
        ] {
            let calls = calls(&env, "trace=file,desc", command);
            let cache = env.dir().to_str().unwrap();
            for call in calls.iter().filter(|call| call.contains(cache)) {
                let writes = [
                    "O_WRONLY",
                    "O_CREAT",
                    "unlink",
                    "rename",
                    "ftruncate",
                    "F_WRLCK",
                    "setxattr",
                    "utimens",
                ];
                assert!(!writes.iter().any(|what| call.contains(what)), "{command:?}: {call}");
            }
        }
    }
}

/// Runs a command with some of its system calls failing, as `strace -e inject` takes it.
fn with_faults(env: &TestEnv, faults: &[&str], arguments: &[&str]) -> Run {
    let mut command = env.command("/usr/bin/strace");
    command.args(["-f", "-o", "/dev/null"]);
    for fault in faults {
        command.args(["-e", &format!("inject={fault}")]);
    }
    command.arg(BINARY).args(arguments).args(["--driver", env.driver.name()]);
    env.finish(command.args(["--cache-dir", env.dir().to_str().unwrap()]))
}

#[test]
#[ignore = "needs strace: run tests/run"]
fn free_space_that_cannot_be_asked_for_hides_no_removed_image() {
    // The last time it is asked for is after the images went.
    for (asked, code) in [(1, 3), (2, 3), (3, 3), (4, 0), (5, 1)] {
        let env = TestEnv::sqlite(FIVE);
        let fault = format!("fstatfs:error=EIO:when={asked}");
        let run = with_faults(&env, &[&fault], &["prune", "--max-size", "3KB", "--min-free", "1"]).code(code);
        let told = run.json()["total_files_pruned"].as_u64().unwrap_or(0);
        assert_eq!(told, 5 - env.left().len() as u64, "{run:?}");
    }
}

#[test]
#[ignore = "needs strace: run tests/run"]
fn a_quota_that_is_used_up_is_a_full_disk() {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x", 1000, 1);
    // The first of each: SQLite's journal, and then what asks whether anything can be written at all.
    let faults = ["pwrite64:error=EDQUOT:when=1", "write:error=EDQUOT:when=1"];
    with_faults(&env, &faults, &["prune", "--max-size", "3KB"])
        .ok()
        .has(&json!({"total_files_pruned": 2, "total_files_cleaned": 1}));
    assert_eq!(env.left(), "cde");
    // A write that fails while there is room is none.
    let run = with_faults(&env, &faults[..1], &["prune", "--max-size", "1KB"]).code(3);
    assert!(!run.stderr.contains("no space"), "{run:?}");
    assert_eq!(env.left(), "cde");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_costs_no_file() {
    let env = TestEnv::sqlite(FIVE);
    let mut shell = env.command("/bin/sh");
    shell.args(["-c", "ulimit -f 2; exec \"$@\"", "sh", BINARY, "prune", "--max-size", "0", "--cache-dir"]);
    env.finish(shell.arg(env.dir()).args(["--driver", "sqlite"])).fails(3, &["cannot use image index"]);
    assert_eq!(env.left(), "abcde");
}

#[test]
#[ignore = "needs strace: run tests/run"]
fn nothing_is_unlinked_by_path() {
    for env in TestEnv::both(FIVE) {
        env.file("invalid/x", 1, 1);
        for command in [&["prune", "--max-size", "0"] as &[&str], &["clean"]] {
            for call in calls(&env, "trace=unlink,unlinkat,rename,renameat,renameat2,rmdir", command) {
                let own = call.contains("cache.db-journal"); // SQLite's own, which opens by path
                assert!(
                    own || !call.contains("unlink")
                        || call.contains("unlinkat(") && !call.contains("AT_FDCWD"),
                    "{call}"
                );
            }
        }
    }
}

#[test]
#[ignore = "needs strace: run tests/run"]
fn no_descriptor_of_a_locked_file_is_closed_before_the_end() {
    // POSIX drops every lock of a process on a file as soon as it closes any descriptor of it.
    let env = TestEnv::sqlite(FIVE);
    let calls =
        calls(&env, "trace=fcntl,close,unlinkat", &["prune", "--max-size", "2000", "--driver", "sqlite"]);
    let unlinked = |call: &&String| call.contains("unlinkat(") && !call.contains("journal");
    let last = calls.iter().rposition(|call| unlinked(&call)).expect("something was pruned");
    let locked =
        calls.iter().position(|call| call.contains("glance-cache-prune") && call.contains("F_WRLCK"));
    let locked = locked.expect("the lock was taken");
    let closed = calls[locked..last]
        .iter()
        .find(|call| call.contains("close(") && call.contains("glance-cache-prune"));
    assert_eq!(closed, None, "the lock was dropped before the last image was removed");
    let first = calls.iter().position(|call| unlinked(&call)).unwrap();
    let begun = calls[..first]
        .iter()
        .rposition(|call| call.contains("cache.db>") && call.contains("F_WRLCK"))
        .expect("locked");
    let closed = calls[begun..last].iter().find(|call| call.contains("close(") && call.contains("cache.db>"));
    assert_eq!(closed, None, "the index's locks were dropped before the last image was removed");
}

#[test]
fn rows_of_any_value_are_no_panic() {
    let env = TestEnv::sqlite(FIVE);
    for (letter, values) in [
        ('a', "1e300, 9e999, 9223372036854775807, 9223372036854775807"),
        ('b', "-1e300, -9e999, -9223372036854775808, -1"),
        ('c', "9223372036854775807, 'x', 'x', 'x'"),
        ('d', "NULL, NULL, NULL, NULL"),
        ('e', "x'ff', x'', x'00', 1.5"),
    ] {
        env.sql(&format!(
            "UPDATE cached_images SET (last_accessed, last_modified, size, hits) = (SELECT {values}) WHERE image_id = '{}'",
            id(letter)
        ));
    }
    env.row("\x1b[31mred\nline", 5);
    for arguments in
        [&["list"] as &[&str], &["list", "--sort", "hits"], &["status", "-v"], &["prune", "--dry-run", "-v"]]
    {
        let run = env.run(arguments[0], &arguments[1..]).ok();
        assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'), "{run:?}");
    }
    assert_eq!(env.list()["cached_images"].as_array().unwrap().len(), 5);
    env.prune(&["--max-size", "3000"]).ok();
    assert_eq!(env.left().len(), 3);
}

#[test]
fn an_endless_list_of_images_to_keep_is_refused() {
    let env = TestEnv::xattr(FIVE);
    let limit = "ulimit -v 2000000; exec \"$0\" prune --cache-dir \"$1\" --driver xattr --max-size 0 --keep-from /dev/zero";
    let mut shell = env.command("/bin/sh");
    let run =
        env.finish(shell.args(["-c", limit, BINARY, env.dir().to_str().unwrap()])).fails(2, &["/dev/zero"]);
    assert!(!run.stderr.contains("memory"), "read until memory ran out: {run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn twenty_thousand_foreign_things_are_no_output_by_the_megabyte() {
    let env = TestEnv::sqlite(FIVE);
    env.sql(
        "INSERT INTO cached_images (image_id) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
         SELECT printf('no uuid %050d', i) FROM n",
    );
    for n in 0..20_000 {
        fs::write(env.path(format!("foreign {n:050}")), "").unwrap();
    }
    env.run("status", &[]).ok();
    env.run("status", &["--check"]).code(1);
    env.prune(&["-v", "--max-size", "3000"]).ok();
    env.run("list", &[]).ok();
    assert_eq!(env.images(), "cde");
}

#[test]
fn nothing_of_a_cache_dir_in_odd_spelling_is_lost() {
    for env in TestEnv::both(FIVE) {
        let dir = env.dir().to_str().unwrap();
        for spelled in [
            format!("{dir}/"),
            format!("{dir}/."),
            format!("{dir}//"),
            format!("{dir}/invalid/.."),
            "cache".into(),
            "./cache".into(),
        ] {
            env.raw(&["prune", "--dry-run", "--cache-dir", &spelled, "--max-size", "3000"])
                .ok()
                .has(&json!({"total_files_pruned": 2}));
        }
        env.raw(&["prune", "--cache-dir", &format!("{dir}/"), "--max-size", "3000"]).ok();
        assert_eq!(env.left(), "cde");
    }
}

/// Names with a newline, an escape sequence, and bytes that are no UTF-8.
fn hostile_names() -> [&'static std::ffi::OsStr; 3] {
    [b"new\nline" as &[u8], b"\x1b[2Jclear", b"bad\xff\xfename"].map(std::ffi::OsStr::from_bytes)
}

#[test]
fn a_repair_that_fails_tells_what_was_cleaned_before_it() {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x", 10, 1);
    fs::write(env.path("cache.db"), "no database, but long enough to be taken for one").unwrap();
    let run = env.clean(&["--repair"]).fails(1, &["cannot repair index", "damaged"]);
    assert_eq!(run.json()["invalid_files"], 1);
    assert_eq!(env.names("invalid"), [""; 0]);
    env.clean(&["--repair"]).fails(3, &["damaged"]);
}

#[test]
fn hostile_names_are_removed_where_they_should_be_and_shown_escaped() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::new(driver, FIVE);
        for name in hostile_names() {
            for sub in ["", "invalid", "queue", "incomplete"] {
                fs::write(env.path(sub).join(name), "").unwrap();
                set_times(&env.path(sub).join(name), 0.0, 0.0);
            }
        }
        for arguments in [
            &["list"] as &[&str],
            &["status", "-v"],
            &["clean", "--dry-run", "-v"],
            &["clean", "-v", "--format", "text"],
        ] {
            let run = env.run(arguments[0], &arguments[1..]).ok();
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(!said.contains('\x1b') && !said.contains("new\nline"), "{said:?}");
        }
        let list = env.run("list", &["--format", "json"]).ok();
        let _ = list.json();
        assert_eq!(env.names("invalid").len() + env.names("incomplete").len(), 0);
        assert_eq!(env.names("queue").len(), 3);
    }
}

#[test]
fn output_that_cannot_be_written_is_no_panic_and_costs_no_row() {
    let env = TestEnv::sqlite(FIVE);
    let mut command = env.of_cache("prune");
    command.args(["--max-size", "2000"]).stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(env.left(), "de");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let env = TestEnv::large(Xattr, 3000);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = env.of_cache("list").stdout(writer).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked") && !said.contains("roken pipe"), "{said}");
}

#[test]
fn no_home_and_no_terminal_are_no_problem() {
    let env = TestEnv::sqlite(FIVE);
    let mut command = env.of_cache("prune");
    env.finish(command.env_clear().args(["--max-size", "2000"])).ok();
    assert_eq!(env.left(), "de");
}

#[test]
fn an_unmounted_cache_with_its_index_elsewhere_loses_no_rows() {
    let env = TestEnv::sqlite(FIVE);
    let index = env.outside("index.db");
    fs::copy(env.path("cache.db"), &index).unwrap();
    for letter in "abcde".chars() {
        fs::remove_file(env.path(id(letter))).unwrap();
    }
    let conf = env.conf(&format!("image_cache_sqlite_db = {}", index.display()));
    env.raw(&["prune", "--config-file", &conf]).fails(1, &[env.dir().to_str().unwrap(), "--forget-all"]);
    let db = rusqlite::Connection::open(index).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM cached_images", [], |r| r.get::<_, i64>(0)).unwrap(), 5);
}

/// What only root can arrange.
mod as_root {
    use super::*;
    use crate::root::*;

    #[test]
    #[ignore = "needs root (chattr): run tests/run as root"]
    fn an_image_that_cannot_be_removed_is_reported_and_the_next_goes() {
        for env in TestEnv::both(FIVE) {
            let _a = Immutable::new(env.path(id('a')));
            let run = env.prune(&["--max-size", "3000"]).fails(1, &[&id('a')]);
            assert_eq!(run.json()["errors"][0]["name"], id('a'));
            assert_eq!(run.json()["cache_size_after"], 3000);
            assert_eq!(env.left(), "ade");
        }
    }

    #[test]
    #[ignore = "needs root (chattr): run tests/run as root"]
    fn an_entry_that_cannot_be_removed_does_not_stop_a_clean() {
        for env in TestEnv::both(FIVE) {
            for name in ["invalid/a", "invalid/b", "incomplete/a", "incomplete/b"] {
                env.file(name, 10, 100);
            }
            let _held = [Immutable::new(env.path("invalid/a")), Immutable::new(env.path("incomplete/a"))];
            let run = env.clean(&[]).code(1).has(&json!({"total_files_cleaned": 2}));
            assert_eq!(run.json()["errors"].as_array().unwrap().len(), 2);
            assert_eq!((env.names("invalid"), env.names("incomplete")), (vec!["a".into()], vec!["a".into()]));
        }
    }

    #[test]
    #[ignore = "needs root (to become another user): run tests/run as root"]
    fn a_directory_without_permission_is_refused_and_nothing_changes() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            let before = env.snapshot();
            for arguments in [["prune", "--max-size=0"], ["clean", "--lock-timeout=1s"]] {
                let run = env.as_nobody(arguments[0], &arguments[1..]);
                assert!(run.code == 3 || run.code == 1, "{run:?}");
                assert_ne!(run.stderr, "");
            }
            assert_eq!(env.snapshot(), before);
            env.as_nobody("list", &[]).ok(); // it can be read
            env.as_nobody("status", &[]).ok();
            chmod(env.dir(), 0o700);
            assert_ne!(env.as_nobody("list", &[]).code, 0);
            let run = env.as_nobody("prune", &["--max-size", "0"]).code(3);
            assert!(run.stderr.to_lowercase().contains("permission denied"), "{run:?}");
        }
    }

    #[test]
    #[ignore = "needs root (to become another user): run tests/run as root"]
    fn the_owner_of_the_cache_needs_no_root() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            give_to_nobody(env.dir());
            env.as_nobody("clean", &[]).ok();
            env.as_nobody("prune", &["--max-size", "3000"]).ok();
            assert_eq!(env.left(), "cde");
        }
    }

    #[test]
    #[ignore = "needs root (to give files away): run tests/run as root"]
    fn what_root_makes_belongs_to_the_owner_of_the_cache() {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            give_to_nobody(env.dir());
            env.clean(&["--repair"]).ok();
            env.prune(&["--max-size", "3000"]).ok();
            for entry in walkdir::WalkDir::new(env.dir()) {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().uid(), 65534, "{}", entry.path().display());
            }
            env.as_nobody("prune", &["--max-size", "1000"]).ok();
        }
    }

    #[test]
    #[ignore = "needs root (a file system in a file): run tests/run as root"]
    fn a_full_file_system_stops_neither_prune_nor_clean() {
        for driver in [Sqlite, Xattr] {
            let small = Mounted::ext4(driver, 8, "relatime");
            for (n, letter) in "abcdef".chars().enumerate() {
                small.env.image((letter, 0, 50 - n as i64, 0));
                fs::write(small.env.path(id(letter)), vec![1; 500_000]).unwrap();
                let last = small.env.now - 3600.0 * (50.0 - n as f64);
                set_times(&small.env.path(id(letter)), last, last);
            }
            fs::write(small.env.path("invalid/x"), vec![1; 2000]).unwrap();
            small.fill();
            small.env.prune(&["--max-size", "1500000"]).ok().has(&json!({"total_files_pruned": 3}));
            assert_eq!(small.env.left(), "def");
            small.env.clean(&[]).ok();
            assert_eq!(small.env.names("invalid"), [""; 0]);
        }
    }

    #[test]
    #[ignore = "needs root (a file system in a file): run tests/run as root"]
    fn only_orphans_older_than_ten_minutes_are_adopted() {
        let mounted = Mounted::ext4(Sqlite, 8, "relatime");
        let env = &mounted.env;
        for letter in ['a', 'b', 'c'] {
            env.image((letter, 1000, 9, 0));
        }
        env.orphan('e', 700, 30);
        env.orphan('f', 700, 30);
        mounted.set_ctimes(&[id('e')], env.now as i64 - 700);
        env.clean(&["--repair"]).ok().has(&json!({"orphans_adopted": 1}));
        assert_eq!((env.images().as_str(), env.rows().as_str()), ("abcef", "abce"));
        let sql = format!(
            "SELECT size, last_accessed, last_modified FROM cached_images WHERE image_id = '{}'",
            id('e')
        );
        let row: (i64, f64, f64) =
            env.db().query_row(&sql, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
        assert_eq!(row, (700, env.now - 30.0 * 3600.0, env.now - 30.0 * 3600.0));
    }

    #[test]
    #[ignore = "needs root (a tmpfs, which takes any time): run tests/run as root"]
    fn times_beyond_every_calendar_are_no_panic() {
        for driver in [Sqlite, Xattr] {
            let mounted = Mounted::of("tmpfs", driver);
            let env = &mounted.env;
            for (letter, time) in [('a', -1e15), ('b', -1.0), ('c', 1e13), ('d', 9e17), ('e', 1e9)] {
                if driver == Sqlite {
                    env.image((letter, 1000, 5, 0));
                } else {
                    env.orphan(letter, 1000, 5);
                }
                set_times(&env.path(id(letter)), time, time);
                for sub in ["invalid", "incomplete", "queue"] {
                    env.file_at(format!("{sub}/{}", id(letter)), 1, time, time);
                }
            }
            for arguments in [
                &["list"] as &[&str],
                &["list", "--format", "json"],
                &["status", "-v"],
                &["clean"],
                &["prune", "--max-size", "3000"],
            ] {
                env.run(arguments[0], &arguments[1..]).ok();
            }
            assert_eq!(env.left().len(), 3);
            assert!(env.names("incomplete").len() >= 2, "future times stay");
        }
    }

    #[test]
    #[ignore = "needs root (a file system in a file): run tests/run as root"]
    fn noatime_is_said() {
        let mounted = Mounted::ext4(Xattr, 8, "noatime");
        mounted.env.image(('a', 10, 5, 0));
        let run = mounted.env.run("status", &["-v"]).ok();
        assert!(run.stdout.contains("noatime"), "{}", run.stdout);
    }

    #[test]
    #[ignore = "needs root (a read-only mount): run tests/run as root"]
    fn a_read_only_file_system_is_refused_and_can_be_looked_at() {
        for driver in [Sqlite, Xattr] {
            let mounted = Mounted::ext4(driver, 8, "relatime");
            for image in FIVE {
                mounted.env.image(*image);
            }
            system(&["mount", "-o", "remount,ro", mounted.mount.point.to_str().unwrap()]);
            mounted.env.list();
            let run = mounted.env.prune(PRUNE_ALL);
            assert!([1, 3].contains(&run.code) && run.stderr.to_lowercase().contains("read-only"), "{run:?}");
            assert_eq!(mounted.env.images(), "abcde");
        }
    }
}
