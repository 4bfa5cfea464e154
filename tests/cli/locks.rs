//! Locks between runs: who waits, how long, what is said, and that nothing changes meanwhile.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::thread::sleep;
use std::time::Duration;

use crate::support::env::*;

#[test]
fn a_held_lock_is_named_with_its_holder_and_nothing_changes() {
    for (command, lock) in [("prune", "glance-cache-prune"), ("clean", "glance-cache-clean")] {
        for env in TestEnv::both(FIVE) {
            env.file("invalid/x", 1, 1);
            let _held = env.lock(lock);
            let before = env.snapshot();
            let run = env.run(command, TO_NOTHING.split_at(if command == "prune" { 0 } else { 2 }).1);
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
fn skip_if_locked_covers_an_index_that_stays_locked() {
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let env = TestEnv::sqlite(FIVE);
        let writer = env.db();
        writer.execute_batch(begin).unwrap();
        let me = format!("cache.db was still locked by process {}", std::process::id());
        let run = env.prune(&["--skip-if-locked", "--max-size", "0", "--lock-timeout", "300ms"]).ok();
        assert!(run.json()["skipped"].as_str().unwrap().contains(&me), "{run:?}");
        env.prune(&["--max-size", "0", "--lock-timeout", "300ms"]).fails(3, &[&me]);
        if begin == "BEGIN EXCLUSIVE" {
            // A dry run agrees. With the other kind of lock it can read the index.
            let dry = ["--max-size", "0", "--lock-timeout", "300ms", "--dry-run"];
            env.prune(&dry).fails(3, &[&me]);
            let run = env.prune(&[&dry[..], &["--skip-if-locked"]].concat()).ok();
            assert!(run.json()["skipped"].as_str().unwrap().contains(&me), "{run:?}");
        }
        if begin == "BEGIN EXCLUSIVE" {
            env.file("invalid/x", 5, 1);
            let repair = ["--repair", "--skip-if-locked", "--lock-timeout", "300ms"];
            let run = env.clean(&repair).ok().says(&["the index was not repaired", &me]);
            assert_eq!(run.json()["invalid_files"], 1);
            let run = env.clean(&repair).ok();
            assert!(run.json()["skipped"].as_str().unwrap().contains(&me), "{run:?}");
        }
        drop(writer);
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn an_owner_is_to_be_changed_only_of_a_lock_file_that_exists() {
    let env = TestEnv::sqlite(FIVE);
    let says = "chown it to user";
    fs::create_dir(env.path("glance-cache-prune")).unwrap();
    env.prune(TO_NOTHING).fails(3, &["glance-cache-prune", says]);
    // A directory in which this user may not make a lock file.
    let env = TestEnv::sqlite(FIVE);
    system(&["chmod", "-R", "a+rX,a-w", env.outside("").to_str().unwrap()]);
    let mut command = env.of_cache("prune");
    command.args(TO_NOTHING);
    if rustix::process::geteuid().is_root() {
        command.uid(65534);
    }
    let run = env.finish(&mut command).fails(3, &["run as the user that glance-api runs as"]);
    assert!(!run.stderr.contains(says), "there is no lock file: {run:?}");
    system(&["chmod", "-R", "u+w", env.outside("").to_str().unwrap()]);
}

#[test]
fn a_run_that_cannot_start_makes_no_lock_file() {
    let env = TestEnv::sqlite(FIVE);
    fs::write(env.path("cache.db"), "no database, but long enough to be taken for one").unwrap();
    let before = tree(env.dir());
    env.prune(TO_NOTHING).fails(3, &["damaged"]);
    assert_eq!(tree(env.dir()), before);
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
    env.prune(TO_NOTHING).ok();
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
    env.prune(TO_NOTHING).ok();
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

/// Prunes where something else has the name of the lock file: the run fails, does not hang, and stays in the
/// cache.
#[track_caller]
fn something_else_is_no_lock_file(make: fn(&TestEnv)) {
    let env = TestEnv::sqlite(FIVE);
    make(&env);
    let run = env.prune(TO_NOTHING);
    assert!([1, 2, 3].contains(&run.code) && run.stderr.contains("glance-cache-prune"), "{run:?}");
    assert_eq!(env.left(), "abcde");
    assert!(!env.outside("made").exists());
}

#[test]
fn a_fifo_is_no_lock_file() {
    something_else_is_no_lock_file(|env| env.fifo("glance-cache-prune"));
}

#[test]
fn a_dangling_link_is_no_lock_file() {
    something_else_is_no_lock_file(|env| env.link("glance-cache-prune", env.outside("made")));
}

#[test]
fn a_directory_is_no_lock_file() {
    something_else_is_no_lock_file(|env| fs::create_dir(env.path("glance-cache-prune")).unwrap());
}

#[test]
fn two_prunes_at_once_remove_what_one_would() {
    for driver in [Sqlite, Xattr] {
        let env = TestEnv::large(driver, 400);
        let mut commands = [env.of_cache("prune"), env.of_cache("prune")];
        let runs =
            commands.each_mut().map(|c| Running::start(c.args(["--max-size", "200B"]), &env.outside("")));
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
            command.args(["prune", "--max-size", "1500B", "--config-file", conf]);
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

#[test]
fn the_lock_of_the_index_start_up_is_held() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock("image_cache_db_init");
    env.prunes_to_cde();
}

#[test]
fn two_pruners_at_once() {
    for env in [TestEnv::large(Sqlite, 400), TestEnv::large(Xattr, 400)] {
        let mut commands = [env.of_cache("prune"), env.of_cache("prune")];
        let runs =
            commands.each_mut().map(|c| Running::start(c.args(["--max-size", "200B"]), &env.outside("")));
        for run in runs {
            run.wait().ok();
        }
        assert_eq!(env.names("").iter().filter(|name| name.len() == 36).count(), 200);
    }
}

#[test]
fn two_cleaners_at_once() {
    for env in TestEnv::both(&[]) {
        for n in 0..5000 {
            fs::write(env.path("invalid").join(nth_id(n)), "").unwrap();
        }
        let mut commands = [env.of_cache("clean"), env.of_cache("clean")];
        let runs = commands.each_mut().map(|c| Running::start(c, &env.outside("")));
        let cleaned: u64 =
            runs.map(|r| r.wait().ok().json()["total_files_cleaned"].as_u64().unwrap()).iter().sum();
        assert_eq!((cleaned, env.names("invalid").len()), (5000, 0));
    }
}

#[test]
fn where_the_lock_path_holds_no_lock_file_the_cache_directory_does() {
    let env = TestEnv::sqlite(FIVE);
    let elsewhere = env.outside("locks");
    std::fs::create_dir_all(elsewhere.join("glance-cache-prune")).unwrap();
    let lines =
        format!("image_cache_max_size = 3000\n[oslo_concurrency]\nlock_path = {}", elsewhere.display());
    let instead = "using a lock file in the cache directory instead";
    env.raw(&["prune", "-v", "--config-file", &env.conf(&lines)]).ok().says(&[instead]);
    assert_eq!(env.left(), "cde");
    // There is no third place.
    let env = TestEnv::sqlite(FIVE);
    std::fs::create_dir(env.path("glance-cache-prune")).unwrap();
    let run = env.prune(&["-v", "--max-size", "3000B"]).fails(3, &["glance-cache-prune"]);
    assert!(!run.stderr.contains(instead), "{}", run.stderr);
    assert_eq!(env.left(), "abcde");
}
