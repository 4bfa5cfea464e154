//! The audit trail under our own name: a line for each removal and one for the run, in a file, syslog or the
//! journal, and never in glance-api's own log.
//!
//! The sockets of syslog and of the journal are those of the system, which tests cannot replace here. The
//! unit tests of the log have sockets of their own; no test has a real daemon.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::json;

use crate::support::deployed::{PRUNER, deployed};
use crate::support::env::*;

/// Returns the messages of a log in oslo.log's default format, without date, time, process and level.
fn messages(env: &TestEnv, log: &str) -> Vec<String> {
    let text = fs::read_to_string(env.outside(log)).unwrap_or_default();
    let message = |line: &str| line.split_once("glance-cache [-] ").map(|(_, message)| message.to_owned());
    text.lines().map(|line| message(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

fn log_option(env: &TestEnv) -> String {
    format!("--log-file={}", env.outside("a.log").display())
}

#[test]
fn every_removal_and_the_run_are_a_line_each() {
    for env in TestEnv::both(FIVE) {
        let run = env.prune(&["--max-size", "3000B", &log_option(&env)]).ok();
        assert_eq!(run.stderr, "");
        run.has(&json!({"total_files_pruned": 2}));
        let lines = messages(&env, "a.log");
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (line, letter) in lines.iter().zip(['a', 'b']) {
            let start = format!("removed {} (1000 B): least recently used, last use 20", id(letter));
            assert!(line.starts_with(&start) && line.ends_with('Z'), "{line}");
        }
        assert_eq!(lines[2], "prune: removed 2 images, 1.95 KiB; the cache holds 2.93 KiB of 2.93 KiB");
        // The next run appends, and says that it ran.
        env.prune(&["--max-size", "3000B", &log_option(&env)]).ok();
        assert!(messages(&env, "a.log")[3].starts_with("prune: removed 0 images, 0 B; the cache holds"));
    }
}

#[test]
fn the_lines_have_oslos_shape() {
    let env = TestEnv::sqlite(FIVE);
    env.prune(&["--max-size", "3000B", &log_option(&env)]).ok();
    let text = fs::read_to_string(env.outside("a.log")).unwrap();
    let words: Vec<&str> = text.lines().next().unwrap().split(' ').collect();
    // 2026-01-12 17:58:48.055 4711 LEVEL logger [-] message
    assert!(words[0].len() == 10 && words[1].len() == 12 && words[2].parse::<u32>().is_ok(), "{text}");
    assert_eq!(words[3..6], ["INFO", "glance-cache", "[-]"]);
}

#[test]
fn reasons_orphans_ghosts_and_leftovers_are_told() {
    let env = TestEnv::sqlite(FIVE);
    env.ghost('f', 5);
    env.orphan('9', 20, 100);
    env.file("invalid/x", 7, 2);
    env.file("incomplete/y", 8, 48);
    let log = log_option(&env);
    env.prune(&["--image", &id('c'), &id('9'), &log]).ok();
    env.prune(&["--older-than", "45h", &log]).ok();
    env.prune(&["--everything", &log]).ok();
    env.clean(&[&log]).ok();
    let lines = messages(&env, "a.log");
    let has =
        |start: String| assert!(lines.iter().any(|line| line.starts_with(&start)), "{start} {lines:#?}");
    has(format!("forgot {}: its file is missing", id('f')));
    has(format!("removed {} (20 B): asked for by --image, without a row, last use ", id('9')));
    has(format!("removed {} (1000 B): asked for by --image, last use ", id('c')));
    has(format!("removed {} (1000 B): not used within --older-than, last use ", id('a')));
    has(format!("removed {} (1000 B): asked for by --everything, last use ", id('e')));
    has("removed invalid/x (7 B): invalid, last write ".to_owned());
    has("removed incomplete/y (8 B): stalled, last write ".to_owned());
    has("clean: removed 1 invalid file and 1 stalled file, 15 B".to_owned());
}

#[test]
fn a_dry_run_and_commands_that_look_log_nothing() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.outside("glance-cache.conf").display().to_string();
    let log = env.outside("a.log");
    env.write("glance-cache.conf", env.conf_text(&format!("log_file = {}", log.display())));
    env.raw(&["prune", "-n", "--config-file", &conf]).ok();
    env.prune(&["-n", &log_option(&env)]).ok();
    env.raw(&["list", "--config-file", &conf]).ok();
    env.raw(&["status", "--config-file", &conf]).ok();
    assert!(!log.exists());
}

#[test]
fn our_own_files_choose_the_log_and_glance_apis_do_not() {
    for (file, is_ours) in [
        ("home/glance-cache.conf", true),
        ("home/glance-cache.conf.d/log.conf", true),
        ("home/.glance/glance-cache.conf", true),
        ("home/glance-api.conf", false),
        ("home/glance.conf", false),
        ("home/glance.conf.d/log.conf", false),
        ("home/glance-api.conf.d/log.conf", false),
    ] {
        let env = TestEnv::sqlite(FIVE);
        env.write(file, format!("[DEFAULT]\nlog_file = {}\n", env.outside("a.log").display()));
        let run = env.prune(&["--max-size", "3000B"]).ok();
        assert_eq!(run.stderr, "", "{file}");
        assert_eq!(env.outside("a.log").exists(), is_ours, "{file}");
    }
}

#[test]
fn a_stronger_file_of_glance_api_does_not_hide_ours() {
    let env = TestEnv::sqlite(FIVE);
    let at = |name: &str| format!("[DEFAULT]\nlog_file = {}\n", env.outside(name).display());
    env.write("home/glance-cache.conf", at("ours.log"));
    env.write("home/glance.conf.d/log.conf", at("theirs.log"));
    env.prune(&["--max-size", "3000B"]).ok();
    assert!(env.outside("ours.log").exists() && !env.outside("theirs.log").exists());
}

#[test]
fn settings_and_options_combine_as_for_the_old_tools() {
    let env = TestEnv::sqlite(FIVE);
    let dir = env.outside("logs");
    fs::create_dir(&dir).unwrap();
    let lines = format!("[DEFAULT]\nlog_dir = {}\nuse_json = true\n", dir.display());
    env.write("home/glance-cache.conf", lines);
    env.prune(&["--max-size", "4000B"]).ok();
    let text = fs::read_to_string(dir.join("glance-cache.log")).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["extra"]["image_id"], json!(id('a')));
    assert_eq!(line["extra"]["action"], json!("remove"));
    assert_eq!(line["extra"]["bytes"], json!("1000"));
    assert_eq!(line["extra"]["reason"], json!("least recently used"));
    assert!(line["extra"]["last_use"].as_str().unwrap().ends_with('Z'), "{line}");
    // A relative path on the command line is not below log_dir.
    env.prune(&["--max-size", "3000B", "--log-file", "here.log"]).ok();
    assert!(env.outside("here.log").exists());
}

#[test]
fn a_log_that_cannot_be_written_is_one_warning_and_no_failure() {
    let env = TestEnv::sqlite(FIVE);
    for log in ["/nowhere/dir/x.log", "/dev/full", "/"] {
        let run = env.prune(&["--image", &id('a'), "--log-file", log]).ok();
        let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.contains("log")).collect();
        assert_eq!(warnings.len(), 1, "{run:?}");
        assert!(warnings[0].starts_with("warning: ") && warnings[0].contains(log), "{run:?}");
        let run = env.prune(&["-q", "--everything", "--keep", &id('b'), "--log-file", log]).ok();
        assert_eq!(run.stderr, "", "-q leaves errors alone");
    }
    assert_eq!(env.left(), "b");
}

#[test]
fn a_missing_daemon_is_a_warning_under_every_name() {
    // The sockets of the system, where there are none: with a daemon there is nothing to warn of.
    for (option, old, socket) in [
        ("--syslog", "--use-syslog", "/dev/log"),
        ("--journal", "--use-journal", "/run/systemd/journal/socket"),
    ] {
        let env = deployed(Sqlite, "home");
        let is_there = std::os::unix::net::UnixDatagram::unbound().unwrap().connect(socket).is_ok();
        let warning = format!("warning: cannot log to {socket}: no daemon listens there");
        let runs = [env.prune(&["--max-size", "3000B", option]).ok(), env.old(PRUNER, &[old]).ok()];
        for run in runs {
            assert_eq!(run.stderr.contains(&warning), !is_there, "{run:?}");
            assert!(run.stderr.matches("cannot log").count() <= 1, "{run:?}");
        }
        assert_eq!(env.left(), "cde");
    }
}

#[test]
fn names_that_could_forge_a_line_are_escaped() {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x\n2026-01-01 INFO forged\x1b[2J", 1, 1);
    env.clean(&[&log_option(&env)]).ok();
    let text = fs::read_to_string(env.outside("a.log")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.contains('\x1b') && text.contains("forged"), "{text}");
}

#[test]
fn a_new_log_is_written_by_its_owner_alone() {
    let env = TestEnv::sqlite(FIVE);
    let script = format!(
        "umask 0; exec {BINARY} prune --cache-dir {} --max-size 3000B {}",
        env.dir().display(),
        log_option(&env)
    );
    env.finish(env.command("/bin/sh").args(["-c", &script])).ok();
    let metadata = fs::metadata(env.outside("a.log")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
    assert_eq!(metadata.uid(), fs::metadata(env.outside("")).unwrap().uid());
}

#[test]
fn failures_are_in_the_log_too() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock("glance-cache-prune");
    env.prune(&["--max-size", "3000B", "--lock-timeout", "50ms", &log_option(&env)]).code(3);
    let text = fs::read_to_string(env.outside("a.log")).unwrap();
    assert!(text.contains(" ERROR glance-cache [-] ") && text.contains("glance-cache-prune"), "{text}");
}

#[test]
fn the_queue_is_in_the_log_too() {
    let env = TestEnv::sqlite(FIVE);
    env.file(format!("queue/{}", id('6')), 0, 1);
    env.run("prefetch", &["--dequeue", &id('6'), &log_option(&env)]).ok();
    assert_eq!(messages(&env, "a.log")[0], format!("took {} out of the queue", id('6')));
}

#[test]
fn fetched_images_and_those_that_make_room_are_in_the_log() {
    let env = deployed(Sqlite, "home");
    env.write(
        "home/glance-cache.conf",
        format!("[DEFAULT]\nlog_file = {}\nimage_cache_max_size = 5000\n", env.outside("a.log").display()),
    );
    env.raw(&["prefetch", "--make-room"]).ok();
    let lines = messages(&env, "a.log");
    let fetched = format!("fetched {} (500 B) from file://", id('f'));
    assert!(lines.iter().any(|line| line.starts_with(&fetched)), "{lines:?}");
    let removed = format!("removed {} (1000 B): least recently used, last use ", id('a'));
    assert!(lines.iter().any(|line| line.starts_with(&removed)), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("prefetch: fetched 1 image, 500 B"), "{lines:?}");
    assert_eq!(env.left(), "def", "the limit of glance.conf.d, which is 3000");
}
