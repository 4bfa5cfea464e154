//! `status`: one look at everything an operator asks, and `--check` for monitoring.

use crate::support::env::*;

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
    let run = env.run("status", &[]).ok();
    assert!(format!("{}{}", run.stdout, run.stderr).contains("cache.db"), "{run:?}");
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
