//! `prune`: which images go, in which order, down to where, and what is said about it.

use serde_json::{Value, json};

use crate::support::env::*;

#[test]
fn removes_the_least_recently_used_until_the_limit_holds() {
    for env in TestEnv::both(FIVE) {
        env.prune(&["--max-size", "3000B"]).ok().has(
            &json!({"total_files_pruned": 2, "total_bytes_pruned": 2000,
            "ghosts_forgotten": 0, "cache_size_before": 5000, "cache_size_after": 3000, "max_size": 3000,
            "dry_run": false, "errors": []}),
        );
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn of_many_images_the_same_go_though_in_another_order() {
    const COUNT: usize = 14_000;
    let env = TestEnv::empty(Sqlite);
    let mut rows = String::from("BEGIN;");
    // Ids, rows and last uses each in an order of their own.
    let id = |n: usize| format!("{:08x}-0000-4000-8000-{n:012x}", (n * 2_654_435_761) as u32);
    let used = |n: usize| env.now - 1e6 + ((n * 7919) % COUNT) as f64;
    for n in 0..COUNT {
        env.file_at(id(n), 1 + (n % 3) as u64, used(n), used(n));
        rows += &row(&id(n), used(n), used(n), 1, 0);
    }
    env.sql(&(rows + "COMMIT;"));
    let mut expected: Vec<usize> = (0..COUNT).collect();
    expected.sort_by(|a, b| used(*b).total_cmp(&used(*a)));
    let mut size = 0;
    expected.retain(|n| {
        size += 1 + n % 3;
        size <= 5000
    });
    let mut expected: Vec<String> = expected.into_iter().map(id).collect();
    expected.sort();

    env.prune(&["--max-size", "5000B"]).ok();
    let mut left = env.names("");
    left.retain(|name| name.len() == 36);
    left.sort();
    assert_eq!(left, expected);
    assert_eq!(env.ids(), expected);
}

#[test]
fn limits_around_the_size() {
    for (limit, left) in [
        ("5001B", "abcde"),
        ("5000B", "abcde"),
        ("4999B", "bcde"),
        ("4000B", "bcde"),
        ("1000B", "e"),
        ("999B", ""),
        ("0", ""),
    ] {
        for env in TestEnv::both(FIVE) {
            env.prune(&["--max-size", limit]).ok();
            assert_eq!(env.left(), left, "{} at {limit}", env.driver.name());
        }
    }
}

#[test]
fn sizes_take_units() {
    for (size, bytes) in [
        ("3KiB", 3072),
        ("3K", 3072),
        ("4kB", 4000),
        ("10GiB", 10 << 30),
        ("500M", 500 << 20),
        ("2T", 2 << 40),
        ("7B", 7),
        ("1048576", 1 << 20),
        ("10Gi", 10 << 30),
        ("10GI", 10 << 30),
        ("0", 0),
    ] {
        let run = TestEnv::xattr(FIVE).prune(&["--dry-run", "--max-size", size]).ok();
        let found = run.json()["max_size"].as_u64().unwrap();
        // Whether K and M are powers of two or of ten is the help's to say; both are within 10 %.
        assert!(found.abs_diff(bytes) * 10 <= bytes, "{size} is {found}");
    }
}

#[test]
fn bad_sizes_and_durations_are_usage_errors() {
    let env = TestEnv::sqlite(FIVE);
    let before = env.snapshot();
    for arguments in [
        ["--max-size", "lots"],
        ["--max-size", "-1"],
        ["--max-size", ""],
        ["--max-size", "1e999"],
        ["--max-size", "10XB"],
        ["--max-size", "99999999999999999999999"],
        ["--min-age", "soon"],
        ["--min-free", "120%"],
        ["--target-size", "150%"],
        ["--lock-timeout", "x"],
        ["--driver", "memcache"],
        ["--keep", "no-uuid"],
        ["--bogus", "1"],
        ["positional", "x"],
    ] {
        let run = env.prune(&arguments).code(2);
        assert!(run.stderr.contains(arguments[0]) || run.stderr.contains(arguments[1]), "{run:?}");
        assert_eq!(run.stdout, "", "a usage error of the command line prints no object");
    }
    assert_eq!(env.snapshot(), before);
}

#[test]
fn the_real_size_of_a_file_counts_and_not_the_rows() {
    let env = TestEnv::sqlite(FIVE);
    env.sql("UPDATE cached_images SET size = 1");
    env.prune(&["--max-size", "3000B"]).ok().has(&json!({"total_bytes_pruned": 2000}));
    assert_eq!(env.left(), "cde");
}

#[test]
fn an_empty_image_goes_in_its_turn_only() {
    for env in TestEnv::both(&[('a', 0, 50, 0), ('b', 100, 40, 0), ('c', 0, 30, 0), ('d', 100, 20, 0)]) {
        env.prune(&["--max-size", "100B"])
            .ok()
            .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 100}));
        assert_eq!(env.left(), "cd");
    }
}

#[test]
fn ties_go_by_row_order_in_sqlite() {
    let env = TestEnv::sqlite(&[('c', 10, 5, 0), ('a', 30, 5, 0), ('b', 20, 5, 0)]);
    env.prune(&["--max-size", "50B"]).ok();
    assert_eq!(env.left(), "ab");
}

#[test]
fn ties_go_by_size_then_name_in_xattr() {
    let env = TestEnv::xattr(&[('c', 10, 5, 0), ('a', 30, 5, 0), ('b', 20, 5, 0), ('d', 10, 5, 0)]);
    env.prune(&["--max-size", "60B"]).ok();
    assert_eq!(env.left(), "abd");
    env.prune(&["--max-size", "50B"]).ok();
    assert_eq!(env.left(), "ab");
    env.prune(&["--max-size", "30B"]).ok();
    assert_eq!(env.left(), "a");
}

#[test]
fn access_times_count_below_the_second() {
    let env = TestEnv::xattr(&[]);
    for (letter, size, fraction) in [('a', 10, 0.75), ('b', 20, 0.25)] {
        env.file_at(id(letter), size, env.now - 3600.0 + fraction, env.now - 7200.0);
        env.set_hits(&id(letter), b"0");
    }
    env.prune(&["--max-size", "25B"]).ok();
    assert_eq!(env.left(), "a");
}

#[test]
fn orphans_take_part_by_their_own_times() {
    let env = TestEnv::sqlite(FIVE);
    env.orphan('f', 500, 35); // between b and c
    env.prune(&["--max-size", "3000B"])
        .ok()
        .has(&json!({"total_files_pruned": 3, "total_bytes_pruned": 2500}));
    assert_eq!(env.left(), "cde");
}

#[test]
fn an_orphan_counts_by_the_later_of_use_and_change() {
    let env = TestEnv::sqlite(FIVE);
    env.file_at(id('f'), 1000, env.now - 100.0 * 3600.0, env.now - 3600.0);
    env.prune(&["--max-size", "1000B"]).ok();
    assert_eq!(env.images(), "f");
}

#[test]
fn ghosts_go_at_once_and_are_no_files() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 5);
    env.prune(&["--max-size", "10000B"]).ok().has(&json!({"total_files_pruned": 0, "total_bytes_pruned": 0,
        "ghosts_forgotten": 1, "cache_size_before": 5000, "cache_size_after": 5000}));
    assert_eq!(env.left(), "abcde");
}

#[test]
fn foreign_files_neither_count_nor_die() {
    for env in TestEnv::both(FIVE) {
        for name in ["README", ".hidden", "glance-cache", "core.1234", "aaaaaaaa", "sub.tmp"] {
            env.file(name, 100_000, 500);
        }
        env.prune(&["--max-size", "5000B"])
            .ok()
            .has(&json!({"total_files_pruned": 0, "cache_size_before": 5000}));
        env.prune(&["--max-size", "0"]).ok();
        assert_eq!(env.left(), "");
        assert!(
            env.path("README").exists() && env.path(".hidden").exists() && env.path("core.1234").exists()
        );
    }
}

#[test]
fn upper_case_ids_are_images() {
    let env = TestEnv::xattr(FIVE);
    let upper = id('F');
    env.file(&upper, 1000, 100);
    env.prune(&["--max-size", "5000B"]).ok().has(&json!({"total_files_pruned": 1}));
    assert!(!env.path(upper).exists());
}

#[test]
fn a_target_is_reached_only_once_over_the_limit() {
    for env in TestEnv::both(FIVE) {
        env.prune(&["--max-size", "5000B", "--target-size", "2000B"]).ok();
        assert_eq!(env.left(), "abcde");
        env.prune(&["--max-size", "4500B", "--target-size", "2000B"]).ok();
        assert_eq!(env.left(), "de");
    }
}

#[test]
fn a_target_may_be_a_share_of_the_limit() {
    let env = TestEnv::sqlite(FIVE);
    env.prune(&["--max-size", "4000B", "--target-size", "50%"]).ok();
    assert_eq!(env.left(), "de");
}

#[test]
fn min_free_keeps_that_much_of_the_file_system() {
    let env = TestEnv::sqlite(FIVE);
    env.prune(&["--min-free", "1B"]).ok().has(&json!({"total_files_pruned": 0}));
    env.prune(&["--min-free", "8000T"]).fails(2, &["--min-free"]); // more than any file system has
    assert_eq!(env.left(), "abcde");
    let text = env.prune(&["--min-free", "100%"]).code(1).stderr; // sparse files: nothing would be won
    assert!(text.contains("free") && env.left() == "abcde", "{text}");
    for letter in "abcde".chars() {
        std::fs::write(env.path(id(letter)), [1; 1000]).unwrap();
    }
    env.prune(&["--min-free", "100%", "--dry-run"]).fails(1, &["of the required", "would be free"]);
    env.prune(&["--min-free", "100%"]).code(1); // everything goes, and still it is not enough
    assert_eq!(env.left(), "");
}

#[test]
fn a_dry_run_agrees_with_the_run_on_what_stays() {
    for env in TestEnv::both(FIVE) {
        let all: Vec<String> = "abcde".chars().map(id).collect();
        let list = env.write("keep", all.join("\n"));
        let arguments = ["--max-size", "3000B", "--keep-from", &list];
        let over = "the cache is still over its limit";
        let plan = env.prune(&[&arguments[..], &["--dry-run"]].concat()).fails(1, &[over]);
        let run = env.prune(&arguments).fails(1, &[over]);
        assert_eq!(plan.stderr, run.stderr);
        assert_eq!(plan.json()["errors"], run.json()["errors"]);
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn options_are_taken_before_the_subcommand_too() {
    let env = TestEnv::sqlite(FIVE);
    let dir = env.dir().to_str().unwrap();
    let before = ["-n", "--cache-dir", dir, "--max-size=3000B", "prune", "--driver", "sqlite"];
    env.raw(&before).ok().has(&json!({"total_files_pruned": 2, "dry_run": true}));
    assert_eq!(env.left(), "abcde");
    env.raw(&["--cache-dir", dir, "--wrong", "prune"]).fails(2, &["'--wrong'", "glance-cache prune"]);
}

#[test]
fn min_age_protects_the_young() {
    for env in TestEnv::both(FIVE) {
        // Still over its limit: c, d, e are younger.
        let run = env.prune(&["--max-size", "1000B", "--min-age", "35h"]).code(1);
        assert_eq!(run.json()["cache_size_after"], 3000);
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn kept_images_stay_and_the_next_go() {
    for env in TestEnv::both(FIVE) {
        let list = env.write("keep", format!("# golden images\n\n{}\n", id('c')));
        env.prune(&["--max-size", "3000B", "--keep", &id('a'), "--keep-from", &list]).ok();
        assert_eq!(env.left(), "ace");
    }
}

#[test]
fn what_is_kept_can_leave_the_cache_over_its_limit_and_the_exit_code_tells() {
    let env = TestEnv::sqlite(FIVE);
    let keep: Vec<String> = "abcd".chars().map(id).collect();
    let run = env.prune(&[
        "--max-size",
        "0",
        "--keep",
        &keep[0],
        "--keep",
        &keep[1],
        "--keep",
        &keep[2],
        "--keep",
        &keep[3],
    ]);
    assert_eq!(run.code(1).json()["cache_size_after"], 4000);
    assert_eq!(env.left(), "abcd");
}

#[test]
fn a_missing_or_bad_keep_list_is_refused_before_anything_goes() {
    let env = TestEnv::sqlite(FIVE);
    let bad = env.write("keep", "not an id\n");
    for list in ["/nowhere/keep", &bad] {
        env.prune(&["--max-size", "0", "--keep-from", list]).fails(2, &[list]);
    }
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_dry_run_plans_with_reasons_and_touches_nothing() {
    for env in TestEnv::both(FIVE) {
        if env.driver == Sqlite {
            env.ghost('f', 1);
        }
        let before = env.snapshot();
        let run = env.prune(&["--dry-run", "--max-size", "3000B"]).ok().has(&json!({"dry_run": true,
            "total_files_pruned": 2, "total_bytes_pruned": 2000, "cache_size_before": 5000,
            "max_size": 3000}));
        let plan = run.json()["plan"].as_array().unwrap().clone();
        for victim in ['a', 'b'] {
            let entry = plan.iter().find(|entry| entry["image_id"] == id(victim)).expect("a victim's plan");
            assert_eq!(entry["bytes"], 1000);
            assert!(entry["action"].is_string() && !entry["reason"].as_str().unwrap().is_empty());
        }
        assert_eq!(env.snapshot(), before);
    }
}

#[test]
fn a_dry_run_is_what_the_real_run_does() {
    for env in
        TestEnv::both(&[('a', 700, 9, 1), ('b', 1, 8, 0), ('c', 0, 7, 3), ('d', 555, 6, 0), ('e', 90, 5, 9)])
    {
        let totals = |v: &Value| {
            [v["total_files_pruned"].clone(), v["total_bytes_pruned"].clone(), v["cache_size_after"].clone()]
        };
        let planned = env.prune(&["--dry-run", "--max-size", "600B"]).ok().json();
        let done = env.prune(&["--max-size", "600B"]).ok().json();
        assert_eq!(totals(&planned), totals(&done));
    }
}

#[test]
fn running_twice_changes_nothing_more() {
    for env in TestEnv::both(FIVE) {
        env.prune(&["--max-size", "2500B"]).ok();
        let before = env.snapshot();
        env.prune(&["--max-size", "2500B"])
            .ok()
            .has(&json!({"total_files_pruned": 0, "ghosts_forgotten": 0}));
        assert_eq!(env.snapshot(), before);
    }
}

#[test]
fn most_of_an_index_without_files_is_probably_the_wrong_directory() {
    let env = TestEnv::sqlite(&[]);
    for letter in "abcde".chars() {
        env.ghost(letter, 5);
    }
    env.prune(&["--max-size", "0"]).fails(1, &[env.dir().to_str().unwrap(), "--forget-all"]);
    assert_eq!(env.rows(), "abcde");
    env.prune(&["--max-size", "0", "--forget-all"]).ok().has(&json!({"ghosts_forgotten": 5}));
    assert_eq!(env.rows(), "");
    // That nothing is removed there, although the limit is exceeded, is no second error.
    let env = TestEnv::sqlite(&FIVE[..1]);
    (0..9).for_each(|n| env.row(&nth_id(n), 5));
    let errors = env.prune(&["--max-size", "0"]).code(1).json()["errors"].clone();
    assert_eq!(errors.as_array().unwrap().len(), 1, "{errors}");
    assert_eq!(env.images(), "a");
}

#[test]
fn half_of_the_files_is_enough_to_believe_the_directory() {
    let env = TestEnv::sqlite(&FIVE[..2]);
    env.ghost('c', 5);
    env.ghost('d', 5);
    env.prune(&[]).ok().has(&json!({"ghosts_forgotten": 2}));
    assert_eq!(env.left(), "ab");
}

#[test]
fn an_empty_directory_is_nothing_to_do_and_nothing_is_made() {
    let env = TestEnv::empty(Xattr);
    let dir = env.outside("new");
    std::fs::create_dir(&dir).unwrap();
    for command in ["clean", "prune"] {
        env.raw(&[command, "--cache-dir", dir.to_str().unwrap()]).ok();
    }
    assert_eq!(names(&dir), [""; 0]);
}

#[test]
fn a_missing_directory_is_an_error_when_named_and_nothing_to_do_when_configured() {
    let env = TestEnv::empty(Xattr);
    let conf = env.write(
        "g.conf",
        format!(
            "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = sqlite\n",
            env.outside("no").display()
        ),
    );
    for command in ["clean", "prune"] {
        env.raw(&[command, "--cache-dir", "/nowhere/cache"]).fails(2, &["/nowhere/cache"]);
        env.raw(&[command, "--config-file", &conf]).ok();
    }
    assert!(!env.outside("no").exists());
}

#[test]
fn what_looks_like_no_cache_is_refused() {
    let env = TestEnv::empty(Xattr);
    let dir = env.outside("home2");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("letter.txt"), "dear").unwrap();
    std::fs::write(dir.join(id('a')), "a UUID for a name is not enough").unwrap();
    for command in [
        &["clean"] as &[&str],
        &["prune", "--max-size", "0"],
        &["prune", "--max-size", "0", "--driver", "xattr"],
    ] {
        let mut arguments = command.to_vec();
        arguments.extend(["--cache-dir", dir.to_str().unwrap()]);
        let run = env.raw(&arguments);
        assert!(run.code == 2 || run.code == 1 || run.code == 3, "{run:?}");
        assert!(run.stderr.contains(dir.to_str().unwrap()), "{run:?}");
    }
    assert_eq!(names(&dir).len(), 2);
}

#[test]
fn the_index_is_found_by_what_the_directory_shows() {
    for env in TestEnv::both(FIVE) {
        env.raw(&["prune", "--cache-dir", env.dir().to_str().unwrap(), "--max-size", "3000B"]).ok();
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn images_without_any_index_ask_for_the_driver() {
    let env = TestEnv::empty(Xattr);
    env.orphan('a', 10, 5); // no user.hits, no cache.db
    env.raw(&["prune", "--cache-dir", env.dir().to_str().unwrap(), "--max-size", "0"])
        .fails(2, &["--driver"]);
    assert_eq!(env.images(), "a");
    assert!(!env.path("cache.db").exists());
}

#[test]
fn a_node_url_is_needed_for_the_central_index() {
    let env = TestEnv::xattr(FIVE);
    let conf = env.conf("image_cache_driver = centralized_db");
    let run = env.raw(&["prune", "--config-file", &conf, "--max-size", "0"]);
    assert!(run.code == 2 || run.code == 3, "{run:?}");
    assert_eq!(env.images(), "abcde");
}

#[test]
fn another_cache_dir_drops_the_configured_index() {
    let (here, there) = (TestEnv::sqlite(FIVE), TestEnv::xattr(FIVE));
    let conf = here.conf("image_cache_max_size = 1000\nimage_cache_sqlite_db = other.db");
    here.raw(&["prune", "--config-file", &conf, "--cache-dir", there.dir().to_str().unwrap()]).ok();
    assert_eq!((here.left().as_str(), there.left().as_str()), ("abcde", "e"));
    assert!(!there.path("other.db").exists());
}

#[test]
fn the_configured_path_may_be_a_link() {
    for env in TestEnv::both(FIVE) {
        let link = env.outside("link");
        std::os::unix::fs::symlink(env.dir(), &link).unwrap();
        let driver = env.driver.name();
        env.raw(&["prune", "--cache-dir", link.to_str().unwrap(), "--driver", driver, "--max-size", "3000B"])
            .ok();
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn quiet_leaves_errors_alone_and_the_object_on_stdout() {
    let env = TestEnv::sqlite(FIVE);
    let run = env.prune(&["-q", "--max-size", "3000B"]).ok();
    assert_eq!(run.stderr, "");
    assert_eq!(run.json()["total_files_pruned"], 2);
    assert_ne!(env.prune(&["-q", "--driver", "memcache"]).code(2).stderr, "");
}

#[test]
fn an_error_of_the_configuration_is_an_object_too() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_max_size = 10G");
    let run = env.raw(&["prune", "--config-file", &conf]).fails(2, &["10G", "image_cache_max_size", &conf]);
    assert!(run.json()["error"].is_string());
}

#[test]
fn a_thousand_images_go_in_order() {
    for env in [TestEnv::large(Sqlite, 1000), TestEnv::large(Xattr, 1000)] {
        env.prune(&["--max-size", "400B"]).ok().has(&json!({"total_files_pruned": 600}));
        let images: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
        assert_eq!((images.len(), &images[0]), (400, &nth_id(600)));
        assert!(env.driver == Xattr || env.ids() == images);
    }
}

#[test]
fn over_the_limit() {
    for env in TestEnv::both(FIVE) {
        env.prunes_to_cde();
    }
}

#[test]
fn size_equals_limit() {
    for env in TestEnv::both(FIVE) {
        env.prune(&["--max-size", "5000B"]).ok().has(&json!({"total_files_pruned": 0}));
        assert_eq!(env.left(), "abcde");
    }
}

#[test]
fn limit_zero_spares_the_last_empty_image() {
    for env in TestEnv::both(&[FIVE, &[('f', 0, 1, 0)]].concat()) {
        env.prune(&["--max-size", "0"]).ok();
        assert_eq!(env.left(), "f");
    }
}

#[test]
fn an_orphan_larger_than_the_limit() {
    for (hours, left) in [(60, "bcde"), (1, "")] {
        for env in TestEnv::both(FIVE) {
            env.orphan('f', 5000, hours);
            env.prune(&["--max-size", "4000B"]).ok();
            assert_eq!(env.left(), left, "{} {hours}", env.driver.name());
        }
    }
}
