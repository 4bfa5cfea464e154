//! What the kernel sees of a run: what it opens, locks, unlinks and syncs, and what a failing call does to
//! it.

use std::fs;

use serde_json::json;

use crate::support::env::*;
use crate::support::needs;
use crate::support::strace::*;

#[test]
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

#[test]
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
fn no_descriptor_of_a_locked_file_is_closed_before_the_end() {
    // POSIX drops every lock of a process on a file as soon as it closes any descriptor of it.
    let env = TestEnv::sqlite(FIVE);
    let calls =
        calls(&env, "trace=fcntl,close,unlinkat", &["prune", "--max-size", "2000B", "--driver", "sqlite"]);
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
fn each_batch_is_on_the_disk_before_the_next_with_a_write_ahead_log_too() {
    needs::strace();
    let env = TestEnv::large(Sqlite, 600);
    env.sql("PRAGMA journal_mode = WAL");
    let log = env.outside("strace.log");
    let mut command = env.command("strace");
    command.args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o"]).arg(&log).arg(BINARY);
    command.args(["prune", "--max-size", "100B", "--cache-dir"]).arg(env.dir());
    env.finish(&mut command).ok().has(&json!({"total_files_pruned": 500}));
    let log = fs::read_to_string(log).unwrap();
    let syncs = log.lines().filter(|line| line.contains("cache.db-wal>)")).count();
    // Half of the rows, half of the rest, and what is left.
    assert!(syncs >= 3, "{log}");
}

#[test]
fn free_space_that_cannot_be_asked_for_hides_no_removed_image() {
    // The last time it is asked for is after the images were removed.
    for (asked, code) in [(1, 3), (2, 3), (3, 0), (4, 1)] {
        let env = TestEnv::sqlite(FIVE);
        let fault = format!("fstatfs:error=EIO:when={asked}");
        let run =
            with_faults(&env, &[&fault], &["prune", "--max-size", "3KB", "--min-free", "1B"]).code(code);
        let told = run.json()["total_files_pruned"].as_u64().unwrap_or(0);
        assert_eq!(told, 5 - env.left().len() as u64, "{run:?}");
    }
}

#[test]
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
