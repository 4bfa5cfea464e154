//! `status`: one look at everything an operator asks, and `--check` for monitoring.

use crate::support::central::{Central, NODE, five};
use crate::support::env::*;
use crate::support::servers::SqliteFile;

#[test]
fn text_says_which_cache_which_index_and_how_full() {
    for env in TestEnv::both(FIVE) {
        let run = env.run("status", &["--max-size", "10000B"]).ok();
        assert!(run.stdout.contains(env.dir().to_str().unwrap()), "{}", run.stdout);
        assert!(run.stdout.contains(env.driver.name()), "{}", run.stdout);
        assert_eq!(run.stderr, "");
    }
}

#[test]
fn json_is_one_object() {
    for env in TestEnv::both(FIVE) {
        assert!(env.status().is_object());
    }
}

#[test]
fn verbose_says_where_each_setting_came_from() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_max_size = 9000");
    let mut command = env.command(BINARY);
    command.args(["status", "-v", "--config-file", &conf, "--stall-time", "2h"]);
    command.env("OS_DEFAULT__IMAGE_CACHE_SQLITE_DB", "cache.db");
    let run = env.finish(&mut command).ok();
    for origin in [&format!("{conf}:4"), "OS_DEFAULT__IMAGE_CACHE_SQLITE_DB", "--stall-time"] {
        assert!(run.stdout.contains(origin), "{origin} in\n{}", run.stdout);
    }
}

#[test]
fn check_is_silent_about_a_healthy_cache_and_fails_over_the_limit() {
    for env in TestEnv::both(FIVE) {
        env.run("status", &["--check", "--max-size", "5000B"]).ok();
        env.run("status", &["--check", "--max-size", "4999B"]).code(1);
        env.run("status", &["--max-size", "4999B"]).ok();
    }
}

/// Checks a cache in which something needs attention, which the output has to name.
#[track_caller]
fn check_fails(what: &str, make: fn(&TestEnv)) {
    let env = TestEnv::sqlite(FIVE);
    make(&env);
    let run = env.run("status", &["--check"]).code(1);
    let said = format!("{}{}", run.stdout, run.stderr).to_lowercase();
    assert!(said.contains(what), "{what} in {said}");
}

#[test]
fn check_fails_when_there_is_a_ghost() {
    check_fails("ghost", |env| env.ghost('f', 1));
}

#[test]
fn check_fails_when_there_is_an_orphan() {
    check_fails("orphan", |env| env.orphan('f', 1, 1));
}

#[test]
fn check_fails_when_a_row_names_no_image() {
    check_fails("row", |env| env.row("../x", 1));
}

#[test]
fn foreign_files_are_named() {
    for env in TestEnv::both(FIVE) {
        env.file("README", 10, 1);
        env.link(id('f'), "/etc/passwd");
        let text = env.run("status", &[]).ok().stdout;
        assert!(text.contains("README"), "{text}");
        assert!(text.contains(&id('f')), "{text}");
    }
}

#[test]
fn the_holder_of_a_lock_is_named() {
    let env = TestEnv::sqlite(FIVE);
    let _lock = env.lock("glance-cache-prune");
    let text = env.run("status", &[]).ok().stdout;
    assert!(text.contains("glance-cache-prune") && text.contains(&std::process::id().to_string()), "{text}");
}

#[test]
fn leftovers_of_another_driver_are_a_warning() {
    let env = TestEnv::xattr(FIVE);
    let index = TestEnv::sqlite(&[]);
    std::fs::copy(index.path("cache.db"), env.path("cache.db")).unwrap();
    assert_eq!(codes(&env, &[]), ["other_index"]);
    let c = five(SqliteFile);
    let codes_of_central = || {
        let json = c.run("status", &["--format", "json"]).ok().json();
        json["attention"].as_array().unwrap().iter().map(|entry| entry["code"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(codes_of_central(), [""; 0]);
    std::fs::copy(index.path("cache.db"), c.env.path("cache.db")).unwrap();
    assert_eq!(codes_of_central(), ["other_index"]);
    // The attributes of the xattr driver are only noted.
    let env = TestEnv::sqlite(FIVE);
    env.set_hits(&id('a'), b"3");
    assert!(env.status()["notes"].to_string().contains("a leftover of the xattr driver"));
    assert_eq!(codes(&env, &[]), [""; 0]);
}

#[test]
fn the_nodes_of_a_central_database_are_summed_up() {
    let c = five(SqliteFile);
    let this = "http://n2.example:9292";
    c.db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{this}')"));
    let c = Central { node: this, ..c };
    c.row(&id('a'), 3);
    let json = c.run("status", &["--all-nodes", "--format", "json"]).ok().json();
    let nodes = json["nodes"].as_array().unwrap();
    let found: Vec<_> = nodes.iter().map(|n| (n["node"].as_str().unwrap(), n["this_node"] == true)).collect();
    assert_eq!(found, [(NODE, false), (this, true)]);
    let text = c.run("status", &["--all-nodes", "--bytes"]).ok().stdout;
    assert!(text.contains("http://n2.example:9292 (this node)  20"), "{text}");
    assert!(text.contains("2 nodes, 5 different images"), "{text}");
}

#[test]
fn a_directory_that_is_no_image_cache_has_no_state() {
    let env = TestEnv::sqlite(&[]);
    let dir = env.outside("documents");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("notes"), "no cache").unwrap();
    let run = env.raw(&["status", "--cache-dir", dir.to_str().unwrap()]);
    run.fails(2, &["does not look like an image cache"]);
}

#[test]
fn a_foreign_directory_has_the_size_of_all_files_in_it() {
    let env = TestEnv::sqlite(&[]);
    std::fs::create_dir_all(env.path("old/deep")).unwrap();
    for (name, size) in [("README", 10), ("old/one", 3), ("old/deep/two", 4)] {
        env.file(name, size, 1);
    }
    let foreign = env.status()["foreign"].clone();
    let bytes = |name: &str| {
        let entry = foreign.as_array().unwrap().iter().find(|entry| entry["name"] == name);
        entry.unwrap()["bytes"].as_u64()
    };
    assert_eq!((bytes("README"), bytes("old")), (Some(10), Some(7)), "{foreign}");
}

#[test]
fn a_bad_value_is_a_warning_here() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_max_size = 10G\nimage_cache_stall_time = soon");
    let run = env.raw(&["status", "--config-file", &conf]);
    assert!(run.code <= 1, "{run:?}");
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("10G") && said.contains("soon"), "{run:?}");
}

#[test]
fn quiet_says_nothing_on_stderr() {
    let env = TestEnv::sqlite(FIVE);
    assert_eq!(env.run("status", &["-q"]).ok().stderr, "");
}

// -- A check, as monitoring calls it --

/// Returns the codes of what needs attention.
fn codes(env: &TestEnv, arguments: &[&str]) -> Vec<String> {
    let json = env.run("status", &[&["--format", "json"], arguments].concat()).ok().json();
    let attention = json["attention"].as_array().unwrap();
    assert!(attention.iter().all(|entry| entry["message"].as_str().is_some_and(|text| !text.is_empty())));
    attention.iter().map(|entry| entry["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_first_line_of_a_check_is_that_of_a_plugin() {
    for env in TestEnv::both(FIVE) {
        let run = env.run("status", &["--check", "--max-size", "6000B"]).ok();
        let first = run.stdout.lines().next().unwrap();
        assert!(
            first.starts_with("GLANCE-CACHE OK - 5 images, 4.88 KiB of 5.86 KiB | size=5000B;6000 "),
            "{first}"
        );
        let run = env.run("status", &["--check", "--max-size", "10B"]).code(1);
        let first = run.stdout.lines().next().unwrap();
        assert!(
            first.starts_with("GLANCE-CACHE WARNING - over the limit; 5 images, 4.88 KiB of 10 B | "),
            "{first}"
        );
        assert!(run.stdout.lines().nth(1).unwrap().starts_with("attention "), "{}", run.stdout);
        assert_eq!(run.stdout.matches('|').count(), 1, "{}", run.stdout);
    }
}

#[test]
fn the_first_line_of_a_check_that_fails_says_why() {
    let env = TestEnv::sqlite(&[]);
    let run = env.raw(&["status", "--check"]).fails(2, &["image_cache_dir is not set"]);
    assert_eq!(run.stdout, "GLANCE-CACHE CRITICAL - image_cache_dir is not set\n");
}

#[test]
fn a_quiet_check_prints_nothing() {
    let env = TestEnv::sqlite(FIVE);
    env.run("status", &["--check", "-q"]).ok().silent();
    env.run("status", &["--check", "-q", "--max-size", "10B"]).code(1).silent();
    env.run("status", &["--check", "-q", "--max-size", "10B", "--format", "json"]).code(1).silent();
    assert_eq!(env.raw(&["status", "--check", "-q"]).code(2).stdout, "");
}

#[test]
fn a_configured_directory_that_is_missing_needs_attention() {
    let env = TestEnv::sqlite(&[]);
    let conf =
        env.write("gone.conf", format!("[DEFAULT]\nimage_cache_dir = {}\n", env.outside("gone").display()));
    let run = env.raw(&["status", "--check", "--config-file", &conf]).code(1);
    assert!(
        run.stdout
            .starts_with("GLANCE-CACHE WARNING - no cache directory; size unknown, limit 10 GiB | size=U "),
        "{}",
        run.stdout
    );
    env.raw(&["status", "--config-file", &conf]).ok();
    let json = env.raw(&["status", "--format", "json", "--config-file", &conf]).ok().json();
    assert_eq!(json["attention"][0]["code"], "no_cache");
}

#[test]
fn invalid_and_stalled_files_need_attention_from_a_number_or_an_age_on() {
    let env = TestEnv::sqlite(FIVE);
    for (n, hours) in [(1, 30), (2, 100)] {
        env.file(format!("invalid/{}", nth_id(n)), 10, hours);
        env.file(format!("incomplete/{}", nth_id(n)), 10, hours);
    }
    for option in ["--max-invalid", "--max-stalled"] {
        let code = if option == "--max-invalid" { "invalid" } else { "stalled" };
        for (threshold, needs) in
            [("2", false), ("1", true), ("0", true), ("101h", false), ("99h", true), ("7d", false)]
        {
            let expected: &[&str] = if needs { &[code] } else { &[] };
            assert_eq!(codes(&env, &[option, threshold]), expected, "{option} {threshold}");
            let code = i32::from(needs);
            let _ = env.run("status", &["--check", option, threshold]).code(code);
        }
        assert_eq!(codes(&env, &[option, "1", option, "7d"]), [code], "both thresholds");
        env.run("status", &[option, "many"]).fails(2, &["many", option]);
    }
    assert_eq!(codes(&env, &[]), [""; 0], "a week is allowed without an option");
    env.file(format!("invalid/{}", nth_id(3)), 10, 200);
    assert_eq!(codes(&env, &[]), ["invalid"]);
}

#[test]
fn everything_that_needs_attention_has_a_code() {
    let env = TestEnv::sqlite(FIVE);
    env.orphan('f', 1, 1);
    env.ghost('9', 1);
    env.row("../x", 1);
    assert_eq!(codes(&env, &["--max-size", "10B"]), ["over_limit", "orphans", "ghosts", "impossible_row"]);
    let env = TestEnv::sqlite(FIVE);
    std::fs::write(env.path("cache.db"), "no database at all").unwrap();
    assert_eq!(codes(&env, &[]), ["index_unreadable"]);
    std::fs::remove_file(env.path("cache.db")).unwrap();
    assert_eq!(codes(&env, &[]), ["orphans", "index_missing"]);
    let env = TestEnv::sqlite(&FIVE[..1]);
    (0..9).for_each(|n| env.row(&nth_id(n), 5));
    assert_eq!(codes(&env, &[]), ["ghosts", "misplaced"]);
    let conf = env.conf("image_cache_max_size = 10G");
    let json = env.raw(&["status", "--format", "json", "--config-file", &conf]).ok().json();
    assert_eq!(json["attention"][0]["code"], "setting");
    assert_eq!(json["max_size"], serde_json::Value::Null);
}

// -- How old the contents are --

#[test]
fn bytes_are_shown_by_last_use() {
    for env in TestEnv::both(&[('a', 3000, 2400, 0), ('b', 2000, 200, 0), ('c', 1000, 1, 0)]) {
        let json = env.status();
        let groups = json["by_last_use"].as_array().unwrap();
        let column = |get: &dyn Fn(&serde_json::Value) -> u64| groups.iter().map(get).collect::<Vec<u64>>();
        assert_eq!(column(&|group| group["older_than"].as_u64().unwrap() / 86_400), [0, 1, 7, 30, 90]);
        assert_eq!(column(&|group| group["bytes"].as_u64().unwrap()), [1000, 0, 2000, 0, 3000]);
        assert_eq!(
            column(&|group| group["all_older"]["bytes"].as_u64().unwrap()),
            [6000, 5000, 5000, 3000, 3000]
        );
        let text = env.run("status", &[]).ok().stdout;
        for line in [
            "last use      0 to 1d   ###      1, 1000 B\n",
            "              7 to 30d  ######   1, 1.95 KiB  --older-than 7d: 2, 4.88 KiB",
            "              over 90d  ######## 1, 2.93 KiB  --older-than 90d: 1, 2.93 KiB",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
    }
    let text = TestEnv::sqlite(&[]).run("status", &[]).ok().stdout;
    assert!(!text.contains("last use"), "{text}");
}

// -- What is shown --

#[test]
fn sizes_are_for_people_also_in_a_pipe() {
    let env = TestEnv::sqlite(&[('a', 3 << 30, 5, 0)]);
    assert!(env.run("status", &[]).ok().stdout.contains("3 GiB of 10 GiB"));
    assert!(env.run("status", &["--human"]).ok().stdout.contains("3 GiB of 10 GiB"));
    assert!(env.run("status", &["--bytes"]).ok().stdout.contains("3221225472 of 10737418240"));
}

#[test]
fn the_index_and_the_lock_files_are_not_foreign() {
    for env in TestEnv::both(FIVE) {
        for name in
            ["glance-cache-clean", "glance-cache-prune", "glance-cache", "image_cache_db_init", "README"]
        {
            env.file(name, 0, 1);
        }
        // A directory of such a name is foreign all the same.
        std::fs::remove_file(env.path("glance-cache")).unwrap();
        std::fs::create_dir(env.path("glance-cache")).unwrap();
        if env.driver == Sqlite {
            for name in ["cache.db-journal", "cache.db-wal", "cache.db-shm", "cache.db-old"] {
                env.file(name, 0, 1);
            }
        }
        let json = env.status();
        let mut names: Vec<&str> =
            json["foreign"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        let index: &[&str] = if env.driver == Sqlite { &["cache.db-old"] } else { &[] };
        assert_eq!(names, [&["README"][..], index, &["glance-cache"]].concat());
    }
}

#[test]
fn an_index_that_cannot_be_read_is_not_foreign_either() {
    let env = TestEnv::sqlite(FIVE);
    std::fs::write(env.path("cache.db"), "no database at all").unwrap();
    assert_eq!(env.status()["foreign"], serde_json::json!([]));
}

#[test]
fn access_times_are_shown_where_they_count() {
    for (env, shown) in [(TestEnv::sqlite(FIVE), false), (TestEnv::xattr(FIVE), true)] {
        let has = || env.run("status", &[]).ok().stdout.contains("access times");
        assert_eq!(has(), shown);
        env.orphan('f', 1, 1);
        assert!(has(), "an orphan has no other time of use");
    }
}

#[test]
fn what_asks_for_no_image_is_not_queued() {
    let env = TestEnv::sqlite(&[]);
    env.file(std::path::Path::new("queue").join(id('a')), 0, 1);
    env.link(std::path::Path::new("queue").join(id('b')), "/etc/passwd");
    env.file("queue/README", 5, 1);
    let status = env.status();
    assert_eq!(status["queued"]["count"], 1, "{status}");
    let foreign = status["foreign"].to_string();
    assert!(foreign.contains(&id('b')) && foreign.contains("queue/README"), "{foreign}");
}

#[test]
fn hits_are_added_up_with_each_index() {
    for env in TestEnv::both(&[('a', 1000, 3, 7), ('b', 1000, 2, 0), ('c', 1000, 1, 35)]) {
        env.orphan('d', 1000, 1);
        assert_eq!(env.status()["hits"], 42, "{}", env.driver.name());
    }
}
