//! `prune --all-caches`: which images may go, in which order, and runs that meet.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde_json::json;

use crate::support::env::*;
use crate::support::host::*;

#[test]
fn only_images_nobody_uses_under_names_that_ironic_makes_go() {
    let env = HostEnv::new();
    env.limits(0, 0);
    let iso = env.dir("iso");
    for name in [
        "README.txt",
        ".hidden",
        "x.part",
        "pxelinux.0",
        "00000001-0000-4000-8000-00000000000g",
        "00000001-0000-4000-8000-000000000000.converte",
        "00000001-0000-4000-8000-000000000000.converted2",
        "{00000001-0000-4000-8000-000000000000}",
        "00000001000040008000000000000000",
    ] {
        env.image("iso", name, 10);
    }
    let foreign = env.names("iso");
    env.image("iso", &master(1), 10);
    env.image("iso", &master(1).to_uppercase(), 10);
    env.image("iso", &format!("{}.converted", master(2)), 10);
    env.image("iso", &master(3), 10);
    env.use_image("iso", &master(3));
    fs::create_dir(iso.join(master(4))).unwrap();
    fs::write(iso.join(master(4)).join(master(5)), "inside").unwrap();
    fs::write(env.dir("target"), "outside").unwrap();
    symlink(env.dir("target"), iso.join(master(6))).unwrap();
    symlink("nowhere", iso.join(master(7))).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, iso.join(master(8)), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();

    // What is in use is more than the limit.
    env.later("prune", &["--all-caches"])
        .code(1)
        .has(&json!({"total_files_pruned": 3, "total_bytes_pruned": 30}));
    let mut left = foreign.clone();
    left.extend([3, 4, 6, 7, 8].map(master));
    left.sort();
    assert_eq!(env.names("iso"), left);
    let status = env.status();
    let named = cache(&status, "ironic-iso")["foreign"].as_array().unwrap().len();
    assert_eq!(named, foreign.len() + 4, "the others are named: {status}");
    assert_eq!(fs::read_to_string(env.dir("target")).unwrap(), "outside");
}

#[test]
fn young_and_listed_images_stay() {
    let env = HostEnv::new();
    env.limits(0, 0);
    for n in 1..=3 {
        env.image("iso", &master(n), 10);
    }
    env.run("prune", &["--all-caches"]).code(1).says(&["still over its limit"]);
    let mut command = env.command("prune");
    command.arg("--all-caches").env(CLOCK, (now() + 590.0).to_string());
    env.finish(&mut command).code(1);
    assert_eq!(env.names("iso").len(), 3, "all are younger than ten minutes");
    env.later("prune", &["--all-caches", "--keep", &master(2).to_uppercase()]).code(1);
    assert_eq!(env.names("iso"), [master(2)]);
    let mut command = env.command("prune");
    command.args(["--all-caches", "--min-age", "0"]).env(CLOCK, (now() + 1.0).to_string());
    env.finish(&mut command).ok();
    assert_eq!(env.names("iso"), [""; 0]);
}

#[test]
fn a_cache_is_held_to_its_age_and_then_its_size() {
    let env = HostEnv::new();
    env.limits(3, 1440);
    for n in 1..=5 {
        env.image("iso", &master(n), MIB);
        std::thread::sleep(std::time::Duration::from_millis(12));
    }
    env.use_image("iso", &master(1));
    let before = tree(&env.base);
    let plan = env.run("prune", &["--all-caches", "--min-age", "0", "--dry-run"]).ok().json();
    assert_eq!(tree(&env.base), before, "a dry run changes nothing");
    let planned: Vec<&str> =
        plan["plan"].as_array().unwrap().iter().map(|e| e["image_id"].as_str().unwrap()).collect();
    assert_eq!(planned, [master(2), master(3)], "what is in use counts, and stays");
    env.run("prune", &["--all-caches", "--min-age", "0"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.names("iso"), [1, 4, 5].map(master));
    let again = env.run("prune", &["--all-caches", "--min-age", "0"]).ok().json();
    assert_eq!(again["total_files_pruned"], 0);
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.names("iso"), [master(1)], "expired ones go although the cache is small");
}

#[test]
fn what_was_used_at_the_same_time_goes_by_name() {
    let env = HostEnv::new();
    env.limits(0, 1_000_000);
    for n in (0..200).rev() {
        env.image("iso", &master(n), 10);
    }
    let plan = env.later("prune", &["--all-caches", "--dry-run"]).ok().json();
    let planned: Vec<String> =
        plan["plan"].as_array().unwrap().iter().map(|e| e["image_id"].as_str().unwrap().to_owned()).collect();
    let used = |name: &String| {
        let file = fs::metadata(env.dir("iso").join(name)).unwrap();
        (file.ctime(), file.ctime_nsec(), name.clone())
    };
    let mut expected = planned.clone();
    expected.sort_by_key(used);
    assert_eq!(planned, expected);
    let times: std::collections::HashSet<_> = planned.iter().map(|name| used(name).1).collect();
    assert!(times.len() < planned.len(), "some were made in the same tick");
}

#[test]
fn one_caches_trouble_does_not_stop_the_next() {
    let env = HostEnv::new();
    env.limits(0, 0);
    for cache in ["iso", "instance", "tftp"] {
        env.image(cache, &master(1), 10);
    }
    fs::create_dir(env.dir("glance")).unwrap();
    fs::write(env.dir("glance/notes"), "no cache").unwrap();
    env.conf(&format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir("glance").display()));
    // Where images are put aside stands something else.
    fs::write(env.dir("iso/.glance-cache-aside"), "in the way").unwrap();
    env.later("prune", &["--all-caches"])
        .fails(1, &["glance", "does not look like an image cache", "ironic-iso"]);
    assert_eq!(env.names("iso"), [".glance-cache-aside".to_owned(), master(1)]);
    assert_eq!(env.names("instance"), [""; 0]);
    assert_eq!(env.names("tftp"), [""; 0]);
    assert_eq!(env.names("glance"), ["notes"]);
}

#[test]
fn a_locked_cache_is_named_and_left_out() {
    let env = HostEnv::new();
    env.limits(0, 0);
    env.image("iso", &master(1), 10);
    env.image("tftp", &master(1), 10);
    let other = fs::File::open(env.dir("iso")).unwrap();
    rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    let me = format!("process {}", std::process::id());
    env.later("prune", &["--all-caches", "--lock-timeout", "0"]).fails(1, &["is locked by", &me]);
    assert_eq!(env.names("iso"), [master(1)]);
    assert_eq!(env.names("tftp"), [""; 0]);
    env.later("prune", &["--all-caches", "--skip-if-locked"]).ok().says(&["cache ironic-iso is skipped"]);
    env.later("prune", &["--all-caches", "--dry-run"]).ok();
    drop(other);
    // A hint stands in the same parentheses as the origin of the directory.
    let index = glance(&env, &[]);
    env.conf(&format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir("glance").display()));
    let lock = fs::File::create(env.dir("glance/glance-cache-prune")).unwrap();
    rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let run = env.run("prune", &["--all-caches", "--lock-timeout", "0"]);
    run.fails(1, &["give --skip-if-locked; directory set by"]);
    drop((lock, index));
    env.later("prune", &["--all-caches"]).ok();
    assert_eq!(env.names("iso"), [""; 0], "no lock file, no directory of ours is left");
}

#[test]
fn glances_images_expire_when_an_age_is_set() {
    let env = HostEnv::new();
    env.limits(1000, 1440);
    let db = glance(&env, &[(1, 100.0), (2, 20.0 * 86_400.0), (3, 2.0 * 86_400.0), (4, 30.0 * 86_400.0)]);
    env.image("iso", &master(9), 10);
    env.conf(&format!(
        "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n[image_cache:glance]\nage = 15d\n",
        env.dir("glance").display()
    ));
    let pick = |cache: &str, n: usize| (cache.to_owned(), master(n));
    let plan = env.run("prune", &["--all-caches", "--min-age", "0", "--dry-run"]).ok().json();
    assert_eq!(planned(&plan), [pick("glance", 4), pick("glance", 2)]);
    let reason = plan["plan"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("expired: not used for "), "{reason}");
    // Ten days later the ISO is older than a day, and nothing else of Glance's than fifteen.
    let plan = env.later("prune", &["--all-caches", "--dry-run"]).ok().json();
    assert_eq!(planned(&plan), [pick("ironic-iso", 9), pick("glance", 4), pick("glance", 2)]);
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 3}));
    let rows: i64 = db.query_row("SELECT count(*) FROM cached_images", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
    assert!(env.dir("glance").join(master(1)).exists() && env.dir("glance").join(master(3)).exists());
    env.later("prune", &["--all-caches"]).ok().has(&json!({"total_files_pruned": 0}));
}

#[test]
fn a_signal_while_a_lock_is_waited_for_ends_the_run_as_one() {
    let env = HostEnv::new();
    env.image("iso", &master(1), 10);
    let held = fs::File::open(env.dir("iso")).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let on = env.base.to_str().unwrap();
    // All that there could be and cannot be had is for somebody who waits, not for somebody who was told to
    // stop.
    for arguments in [
        &["prune", "--require", "90%", "--on", on][..],
        &["prune", "--all-caches"],
        &["clean", "--all-caches"],
    ] {
        let mut command = env.command(arguments[0]);
        command.args(&arguments[1..]);
        let running = Running::start(&mut command, &env.path(""));
        let pid = running.child.id();
        until("it waits for the lock", || {
            fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| !text.starts_with("running"))
                && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
                    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
                        .any(|path| path == env.dir("tftp"))
                })
        });
        std::thread::sleep(Duration::from_millis(100));
        running.signal(Signal::TERM);
        let run = running.wait().code(143);
        assert_eq!(run.json()["signal"], "SIGTERM", "{}", run.stdout);
        assert!(!run.stderr.contains("cannot"), "{}", run.stderr);
    }
    assert_eq!(env.names("iso"), [master(1)]);
}

/// Six at once: each image goes once, and nobody waits for ever.
#[test]
fn runs_at_once_take_turns() {
    let env = HostEnv::new();
    env.limits(0, 0);
    for n in 0..600 {
        env.image(["iso", "instance", "tftp"][n % 3], &master(n), 10);
    }
    let start = |_| {
        let mut command = env.command("prune");
        command.arg("--all-caches").env(CLOCK, in_ten_days());
        Running::start(&mut command, &env.path(""))
    };
    let running: Vec<Running> = (0..6).map(start).collect();
    let pruned: u64 =
        running.into_iter().map(|run| run.wait().ok().json()["total_files_pruned"].as_u64().unwrap()).sum();
    assert_eq!(pruned, 600);
}

/// Somebody else unlinks the same images at the same time, as a conductor's own cleaning does.
#[test]
fn beside_a_conductors_own_cleaning_nothing_is_amiss() {
    let env = HostEnv::new();
    env.limits(0, 0);
    for n in 0..3000 {
        env.image("iso", &master(n), 10);
    }
    let mut command = env.command("prune");
    command.arg("--all-caches").env(CLOCK, in_ten_days());
    let running = Running::start(&mut command, &env.path(""));
    let theirs = names(&env.dir("iso"))
        .into_iter()
        .filter(|name| fs::remove_file(env.dir("iso").join(name)).is_ok())
        .count();
    let run = running.wait().ok();
    println!("{theirs} went by the other, {} by ours", run.json()["total_files_pruned"]);
    assert_eq!(run.json()["errors"], json!([]));
    assert_eq!(env.names("iso"), [""; 0]);
}

#[test]
fn a_dry_run_foresees_the_rows_without_a_file() {
    for (is_required, images) in [(false, &[][..]), (true, &[1, 3])] {
        let env = HostEnv::new();
        env.conf(&format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir("glance").display()));
        let _index = glance(&env, &[(1, 50.0), (2, 40.0), (3, 30.0)]);
        fs::remove_file(env.dir("glance").join(master(2))).unwrap();
        let on = env.base.to_str().unwrap();
        // No file system has all of its blocks free.
        let required = ["--require", "100%", "--on", on, "--best-effort", "--min-age", "0"];
        let arguments = if is_required { &required[..] } else { &["--all-caches"] };
        let run = |more: &[&str]| env.run("prune", &[arguments, more].concat()).code(i32::from(is_required));
        let plan = run(&["--dry-run"]).json();
        let expected = [&[2], images].concat();
        assert_eq!(
            planned(&plan),
            expected.iter().map(|n| ("glance".to_owned(), master(*n))).collect::<Vec<_>>()
        );
        let done = run(&[]).json();
        for report in [plan, done] {
            assert_eq!(cache(&report, "glance")["ghosts_forgotten"], 1, "{report}");
        }
    }
}
