//! `clean`: what goes, what stays, what it says; and `clean --repair`.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::json;

use crate::support::central::{Central, NODE, five};
use crate::support::env::*;
use crate::support::servers::SqliteFile;

/// Invalid and incomplete entries of several ages, around the default stall time of a day.
fn littered(driver: Driver) -> TestEnv {
    let env = TestEnv::new(driver, FIVE);
    env.file("invalid/i1", 10, 0);
    env.file(format!("invalid/{}", id('1')), 20, 100);
    env.file(format!("incomplete/{}", id('2')), 300, 25);
    env.file(format!("incomplete/{}", id('3')), 400, 23);
    env.file(format!("incomplete/{}", id('4')), 500, -2);
    env.file(format!("queue/{}", id('5')), 0, 99);
    env
}

#[test]
fn removes_invalid_at_once_and_incomplete_after_the_stall_time() {
    for env in [littered(Sqlite), littered(Xattr)] {
        env.clean(&[])
            .ok()
            .has(&json!({"total_files_cleaned": 3, "total_bytes_cleaned": 330, "invalid_files": 2,
            "stalled_files": 1, "dry_run": false, "errors": []}));
        assert_eq!(env.names("invalid"), [""; 0]);
        assert_eq!(env.names("incomplete"), [id('3'), id('4')]);
        assert_eq!(env.names("queue"), [id('5')]);
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn stall_time_takes_units() {
    for (time, left) in
        [("24h", 2), ("25h", 2), ("26h", 3), ("2d", 3), ("82900", 2), ("1h", 1), ("0", 1), ("30m", 1)]
    {
        let env = littered(Xattr);
        env.clean(&["--stall-time", time]).ok();
        assert_eq!(env.names("incomplete").len(), left, "--stall-time {time}");
    }
}

#[test]
fn a_future_time_stays_even_with_no_stall_time() {
    for env in [littered(Sqlite), littered(Xattr)] {
        env.clean(&["--stall-time", "0"]).ok();
        assert_eq!(env.names("incomplete"), [id('4')]);
    }
}

#[test]
fn invalid_grace_keeps_young_ones() {
    let env = littered(Xattr);
    env.clean(&["--invalid-grace", "36h"]).ok().has(&json!({"invalid_files": 1, "stalled_files": 1}));
    assert_eq!(env.names("invalid"), ["i1"]);
}

#[test]
fn the_stall_time_of_the_configuration_counts() {
    let env = littered(Sqlite);
    let conf = env.conf("image_cache_stall_time = 3600");
    env.raw(&["clean", "--config-file", &conf]).ok().has(&json!({"stalled_files": 2}));
}

#[test]
fn a_dry_run_says_what_it_would_remove_and_touches_nothing() {
    for env in [littered(Sqlite), littered(Xattr)] {
        let before = env.snapshot();
        let report = env.clean(&["--dry-run"]).ok().has(&json!({"total_files_cleaned": 3,
            "total_bytes_cleaned": 330, "invalid_files": 2, "stalled_files": 1, "dry_run": true}));
        let plan = report.json()["plan"].as_array().unwrap().clone();
        assert_eq!(plan.iter().map(|entry| entry["bytes"].as_u64().unwrap()).sum::<u64>(), 330);
        assert!(
            plan.iter().all(|e| e["name"].is_string() && e["action"].is_string() && e["reason"].is_string())
        );
        assert_eq!(env.snapshot(), before);
    }
}

#[test]
fn running_twice_removes_nothing_more() {
    for env in [littered(Sqlite), littered(Xattr)] {
        env.clean(&[]).ok();
        let before = env.snapshot();
        env.clean(&[]).ok().has(&json!({"total_files_cleaned": 0, "total_bytes_cleaned": 0, "errors": []}));
        assert_eq!(env.snapshot(), before);
    }
}

#[test]
fn a_file_open_for_writing_stays_and_is_reported() {
    let env = littered(Xattr);
    let name = format!("incomplete/{}", id('2'));
    let writer = File::options().append(true).open(env.path(&name)).unwrap();
    let run = env.clean(&[]);
    assert!(env.path(&name).exists(), "removed under its writer");
    assert!(run.stdout.contains(&id('2')) || run.stderr.contains(&id('2')), "not reported: {run:?}");
    drop(writer);
    env.clean(&[]).ok().has(&json!({"stalled_files": 1}));
    assert!(!env.path(&name).exists());
}

#[test]
fn opens_no_index() {
    for garbage in ["", "no database at all", "SQLite format 3\0 or so"] {
        let env = littered(Sqlite);
        fs::write(env.path("cache.db"), garbage).unwrap();
        env.clean(&[]).ok().has(&json!({"total_files_cleaned": 3}));
        assert_eq!(fs::read_to_string(env.path("cache.db")).unwrap(), garbage);
    }
}

#[test]
fn needs_no_node_url_and_no_database() {
    let env = littered(Sqlite);
    let conf = env.write("c.conf", format!("[DEFAULT]\nimage_cache_dir = {}\n", env.dir().display()));
    env.raw(&["clean", "--config-file", &conf]).ok().has(&json!({"total_files_cleaned": 3}));
}

#[test]
fn missing_subdirectories_are_not_made() {
    let env = TestEnv::sqlite(FIVE);
    for sub in ["invalid", "incomplete", "queue"] {
        system(&["rmdir", env.path(sub).to_str().unwrap()]);
    }
    env.clean(&[]).ok().has(&json!({"total_files_cleaned": 0}));
    assert!(!env.path("invalid").exists() && !env.path("incomplete").exists());
}

#[test]
fn json_is_one_line_whatever_happened_and_text_replaces_it() {
    let env = littered(Sqlite);
    let run = env.clean(&[]).ok();
    assert!(run.stdout.ends_with('\n') && run.stdout.matches('\n').count() == 1, "{:?}", run.stdout);
    assert_eq!(run.stderr, "");
    let text = env.clean(&["--format", "text"]).ok();
    assert!(!text.stdout.is_empty() && !text.stdout.starts_with('{'), "{:?}", text.stdout);
}

#[test]
fn verbose_gives_the_summary_on_stderr() {
    let env = littered(Sqlite);
    let run = env.clean(&["-v"]).ok();
    assert!(!run.stderr.is_empty());
    assert_eq!(run.json()["total_files_cleaned"], 3);
}

// -- What lies in the subdirectories --

#[test]
fn clean_with_a_stall_time() {
    for env in TestEnv::both(FIVE) {
        env.file("invalid/new", 1, 0);
        env.file("invalid/future", 1, -5);
        env.file("incomplete/old", 1, 1);
        env.file_at("incomplete/young", 1, env.now - 50.0, env.now - 50.0);
        env.file("incomplete/future", 1, -5);
        env.clean(&["--stall-time", "100"]).ok().has(&json!({"stalled_files": 1}));
        assert_eq!(env.names("incomplete"), ["future", "young"]);
        assert!(!env.path("invalid/new").exists());
    }
}

#[test]
fn clean_with_no_stall_time() {
    for env in TestEnv::both(FIVE) {
        env.file("incomplete/old", 1, 1);
        env.file("incomplete/future", 1, -5);
        env.clean(&["--stall-time", "0"]).ok();
        assert_eq!(env.names("incomplete"), ["future"]);
    }
}

/// Makes a file, a directory with a file, and nothing at all outside, to be linked to.
fn link_targets(env: &TestEnv) -> [PathBuf; 3] {
    env.write("file", "x");
    env.write("directory/file", "x");
    [env.outside("file"), env.outside("directory"), env.outside("nothing")]
}

#[test]
fn links_in_invalid() {
    for env in TestEnv::both(FIVE) {
        for (n, target) in link_targets(&env).iter().enumerate() {
            env.link(format!("invalid/{n}"), target);
        }
        env.clean(&[]).ok().has(&json!({"invalid_files": 3}));
        assert_eq!(env.names("invalid"), [""; 0]);
        assert!(env.outside("file").exists() && env.outside("directory/file").exists());
    }
}

#[test]
fn links_in_incomplete_have_their_own_age() {
    for env in TestEnv::both(FIVE) {
        let [target, directory, nothing] = link_targets(&env);
        set_times(&target, 0.0, 0.0);
        env.link("incomplete/young", &target);
        for (name, to) in [("old", &target), ("old-directory", &directory), ("old-dangling", &nothing)] {
            env.link(format!("incomplete/{name}"), to);
            let long_ago = Timespec { tv_sec: 1000, tv_nsec: 0 };
            let times = Timestamps { last_access: long_ago, last_modification: long_ago };
            let path = env.path(format!("incomplete/{name}"));
            rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        env.clean(&[]).ok().has(&json!({"stalled_files": 3}));
        assert_eq!(env.names("incomplete"), ["young"]);
        assert!(target.exists() && env.outside("directory/file").exists());
    }
}

#[test]
fn invalid_itself_is_a_link() {
    for env in TestEnv::both(FIVE) {
        let [_, directory, _] = link_targets(&env);
        fs::remove_dir(env.path("invalid")).unwrap();
        env.link("invalid", &directory);
        env.file("incomplete/old", 1, 100);
        let run = env.clean(&[]);
        assert!(run.code != 0 && run.stderr.contains("invalid"), "{run:?}");
        assert!(directory.join("file").exists());
    }
}

#[test]
fn directories_and_fifos_in_invalid() {
    for env in TestEnv::both(FIVE) {
        fs::create_dir(env.path("invalid/directory")).unwrap();
        env.fifo("invalid/fifo");
        env.file("invalid/x", 1, 1);
        let run = env.clean(&[]).has(&json!({"invalid_files": 1}));
        assert!(run.code <= 1, "{run:?}");
        assert_eq!(env.names("invalid"), ["directory", "fifo"]);
    }
}

// -- clean --repair --

#[test]
fn repair_forgets_ghosts() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 5);
    env.clean(&["--repair"])
        .ok()
        .has(&json!({"ghosts_forgotten": 1, "orphans_adopted": 0, "rows_dropped": 0}));
    assert_eq!(env.left(), "abcde");
}

#[test]
fn repair_leaves_young_orphans_alone() {
    let env = TestEnv::sqlite(FIVE);
    env.orphan('f', 5, 5); // its ctime is now: Glance may be about to insert the row
    env.clean(&["--repair"]).ok().has(&json!({"orphans_adopted": 0}));
    let left = "1 orphan that changed less than 10min ago: run it again later";
    for (arguments, verb) in [(&["--dry-run"][..], "would leave"), (&[], "left")] {
        let text = env.clean(&[&["--repair", "--format", "text"], arguments].concat()).ok().stdout;
        assert!(text.contains(&format!("; {verb} {left}")), "{text}");
    }
    assert_eq!((env.images().as_str(), env.rows().as_str()), ("abcdef", "abcde"));
}

#[test]
fn repair_drops_rows_that_name_no_image() {
    let env = TestEnv::sqlite(FIVE);
    for name in ["../outside", "/etc/passwd", "", "invalid", "not-a-uuid"] {
        env.row(name, 5);
    }
    env.clean(&["--repair"]).ok().has(&json!({"rows_dropped": 5, "ghosts_forgotten": 0}));
    assert_eq!(env.ids().len(), 5);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn repair_cleans_as_well() {
    let env = littered(Sqlite);
    env.ghost('f', 5);
    env.clean(&["--repair"]).ok().has(&json!({"total_files_cleaned": 3, "ghosts_forgotten": 1}));
}

#[test]
fn a_dry_repair_gives_each_its_reason() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 5);
    env.row("../outside", 5);
    let before = env.snapshot();
    let run = env.clean(&["--repair", "--dry-run"]).ok();
    let plan = run.json()["plan"].as_array().unwrap().clone();
    let reason = |key: &str, name: &str| {
        plan.iter().any(|e| e[key] == name && !e["reason"].as_str().unwrap().is_empty())
    };
    assert!(reason("image_id", &id('f')) && reason("name", "../outside"), "{plan:?}");
    assert_eq!(env.snapshot(), before);
}

#[test]
fn repair_twice_changes_nothing_more() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 5);
    env.row("x", 5);
    env.clean(&["--repair"]).ok();
    let before = env.snapshot();
    env.clean(&["--repair"]).ok().has(&json!({"ghosts_forgotten": 0, "rows_dropped": 0}));
    assert_eq!(env.snapshot(), before);
}

#[test]
fn repair_does_not_forget_most_of_an_index_unasked() {
    let env = TestEnv::sqlite(&FIVE[..2]);
    for letter in ['c', 'd', 'e'] {
        env.ghost(letter, 5);
    }
    env.clean(&["--repair"]).fails(1, &[env.dir().to_str().unwrap(), "--forget-all"]);
    assert_eq!(env.rows(), "abcde");
    env.clean(&["--repair", "--forget-all"]).ok().has(&json!({"ghosts_forgotten": 3}));
    assert_eq!(env.left(), "ab");
}

#[test]
fn a_dry_repair_counts_young_orphans_unless_it_is_refused() {
    for (ghosts, expected) in [(2, json!(1)), (9, json!(null))] {
        let env = TestEnv::sqlite(&FIVE[..2]);
        env.orphan('f', 5, 5);
        (0..ghosts).for_each(|n| env.row(&nth_id(n), 5));
        let report = env.clean(&["--repair", "--dry-run"]).json();
        assert_eq!(report["orphans_too_young"], expected, "{report}");
    }
}

#[test]
fn only_a_dry_run_has_a_plan_where_there_is_no_cache() {
    let env = TestEnv::sqlite(&[]);
    let missing = env.outside("missing");
    let conf = env.write("gone.conf", format!("[DEFAULT]\nimage_cache_dir = {}\n", missing.display()));
    for (arguments, plan) in [(&[][..], None), (&["--dry-run"], Some(json!([])))] {
        let run = env.raw(&[&["clean", "--config-file", &conf], arguments].concat()).ok();
        assert_eq!(run.json().get("plan"), plan.as_ref(), "{arguments:?}");
    }
}

#[test]
fn a_node_of_a_central_database_is_forgotten_unless_it_is_this_one() {
    let c = five(SqliteFile);
    let this = "http://n2.example:9292";
    c.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{this}')"));
    let c = Central { node: this, ..c };
    c.row(&id('a'), 3);
    let forget = |arguments: &[&str]| c.run("clean", &[&["--forget-node"], arguments].concat());
    let rows = || c.db.rows("SELECT image_id FROM cached_images").len();
    forget(&[this]).fails(2, &["is the node of this host"]);
    forget(&[&format!("{NODE}/")]).fails(2, &["did you mean"]);
    let dry = forget(&[NODE, "--dry-run"]).ok();
    let expected = json!({"node": NODE, "rows_forgotten": 5, "bytes": 5000, "node_removed": true});
    dry.has(&expected).has(&json!({"dry_run": true, "errors": []}));
    assert_eq!(rows(), 6);
    let text = forget(&[NODE, "--format", "text"]).ok().stdout;
    assert_eq!(text, format!("forgot node {NODE} (5 rows, 4.88 KiB)\n"));
    assert_eq!((rows(), c.ids()), (1, vec![id('a')]));
}

#[test]
fn a_node_whose_rows_are_kept_is_an_error() {
    let c = five(SqliteFile);
    c.db.sql("INSERT INTO node_reference (node_reference_url) VALUES ('http://n2.example:9292')");
    c.db.sql("CREATE TRIGGER t BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, 'no'); END");
    let c = Central { node: "http://n2.example:9292", ..c };
    c.run("clean", &["--forget-node", NODE]).fails(3, &["nothing was changed"]);
}

#[test]
fn repair_with_the_xattr_index_finds_nothing_to_repair() {
    let env = TestEnv::xattr(FIVE);
    env.orphan('f', 5, 5);
    let before = env.images();
    env.clean(&["--repair"])
        .ok()
        .has(&json!({"ghosts_forgotten": 0, "orphans_adopted": 0, "rows_dropped": 0}));
    assert_eq!(env.images(), before);
}

#[test]
fn a_wrong_driver_name_is_no_matter_of_a_clean() {
    let env = littered(Xattr);
    let conf = env.write(
        "glance-api.conf",
        format!("[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = bogus\n", env.dir().display()),
    );
    let _ = env.raw(&["clean", "--config-file", &conf]).ok();
    assert_eq!(env.names("invalid").len(), 0);
    let _ = env.raw(&["clean", "--repair", "--config-file", &conf]).code(2);
}
