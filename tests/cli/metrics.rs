//! `--textfile` and `status --format prometheus`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;

use crate::support::env::*;
use crate::support::prefetch::Prefetch;

/// Returns the value of a sample.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn of_command(text: &str, name: &str, command: &str) -> Option<f64> {
    value(text, &format!("glance_cache_{name}{{command=\"{command}\"}}"))
}

#[test]
fn each_run_adds_to_the_file() {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x", 700, 1);
    let file = env.outside("cache.prom");
    let textfile = ["--textfile", file.to_str().unwrap()];
    let read = || fs::read_to_string(&file).unwrap();
    env.prune(&[&textfile[..], &["--max-size", "3000B"]].concat()).ok();
    let text = read();
    assert_eq!(of_command(&text, "removed_files_total", "prune"), Some(2.0), "{text}");
    assert_eq!(of_command(&text, "freed_bytes_total", "prune"), Some(2000.0), "{text}");
    assert!((of_command(&text, "last_success_timestamp_seconds", "prune").unwrap() - now()).abs() < 60.0);
    env.clean(&textfile).ok();
    env.prune(&[&textfile[..], &["--max-size", "2000B"]].concat()).ok();
    env.run("status", &textfile).ok();
    env.run("list", &textfile).ok();
    let text = read();
    assert_eq!(of_command(&text, "removed_files_total", "prune"), Some(3.0), "{text}");
    assert_eq!(of_command(&text, "removed_files_total", "clean"), Some(1.0), "{text}");
    assert_eq!(of_command(&text, "freed_bytes_total", "clean"), Some(700.0), "{text}");
    for command in ["clean", "prune", "status", "list"] {
        assert_eq!(of_command(&text, "last_exit_code", command), Some(0.0), "{text}");
    }
    assert_eq!(value(&text, "glance_cache_size_bytes{cache=\"glance\"}"), Some(2000.0), "{text}");
    assert_eq!(value(&text, "glance_cache_entries{cache=\"glance\",state=\"tracked\"}"), Some(2.0), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
}

/// Otherwise a verification every night hides that no clean runs any more.
#[test]
fn a_verification_is_a_command_of_its_own() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    let file = p.env.outside("cache.prom");
    let conf = p.conf("");
    let options = ["clean", "--config-file", &conf, "--textfile", file.to_str().unwrap()];
    p.env.raw(&[&options[..], &["--verify"]].concat()).ok();
    let runs = |command: &str| of_command(&fs::read_to_string(&file).unwrap(), "runs_total", command);
    assert_eq!((runs("verify"), runs("clean")), (Some(1.0), None));
    p.env.raw(&options).ok();
    assert_eq!((runs("verify"), runs("clean")), (Some(1.0), Some(1.0)));
}

#[test]
fn failures_are_recorded() {
    let env = TestEnv::sqlite(FIVE);
    let file = env.outside("cache.prom");
    let textfile = ["--textfile", file.to_str().unwrap()];
    let _held = env.lock("glance-cache-prune");
    env.prune(&[&textfile[..], &["--max-size", "3000B", "--lock-timeout", "0"]].concat()).code(3);
    env.prune(&[&textfile[..], &["--max-size", "3000B", "--skip-if-locked"]].concat()).ok();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(of_command(&text, "runs_total", "prune"), Some(2.0), "{text}");
    assert_eq!(of_command(&text, "failed_runs_total", "prune"), Some(1.0), "{text}");
    assert_eq!(of_command(&text, "skipped_runs_total", "prune"), Some(1.0), "{text}");
    assert_eq!(of_command(&text, "last_success_timestamp_seconds", "prune"), Some(0.0), "{text}");
    assert_eq!(of_command(&text, "last_exit_code", "prune"), Some(0.0), "{text}");
}

#[test]
fn all_users_can_read_the_file() {
    let env = TestEnv::sqlite(FIVE);
    let file = env.outside("cache.prom");
    let mut shell = env.command("/bin/sh");
    let line = "umask 077; exec \"$0\" status --cache-dir \"$1\" --textfile \"$2\"";
    env.finish(shell.args(["-c", line, BINARY, env.dir().to_str().unwrap(), file.to_str().unwrap()])).ok();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_anything_is_removed() {
    let env = TestEnv::sqlite(FIVE);
    let place = env.outside("metrics");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("foreign"), "kept").unwrap();
    symlink(place.join("foreign"), place.join("link.prom")).unwrap();
    let refused = |name: &str, says: &str| {
        let file = place.join(name);
        env.prune(&["--max-size", "0", "--textfile", file.to_str().unwrap()]).fails(2, &[says]);
        assert_eq!(env.left(), "abcde", "{name}");
    };
    refused("missing/cache.prom", "the directory of --textfile");
    refused("foreign", "glance-cache did not write --textfile");
    refused("foreign/cache.prom", "Not a directory");
    refused("link.prom", "is a symbolic link");
    assert_eq!(fs::read_to_string(place.join("foreign")).unwrap(), "kept");
}

#[test]
fn a_dry_run_and_another_time_are_not_recorded() {
    let env = TestEnv::sqlite(FIVE);
    let file = env.outside("cache.prom");
    let file = file.to_str().unwrap();
    env.prune(&["--dry-run", "--textfile", file]).fails(2, &["cannot be used with"]);
    env.run("status", &["--now", "100", "--textfile", file]).fails(2, &["cannot be used with"]);
}

#[test]
fn status_prints_metrics() {
    let env = TestEnv::sqlite(FIVE);
    let text = env.run("status", &["--format", "prometheus", "--max-size", "3000B"]).ok().stdout;
    assert_eq!(value(&text, "glance_cache_size_bytes{cache=\"glance\"}"), Some(5000.0), "{text}");
    assert_eq!(value(&text, "glance_cache_limit_bytes{cache=\"glance\"}"), Some(3000.0), "{text}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    for command in ["prune", "list"] {
        env.run(command, &["--format", "prometheus"]).fails(2, &["invalid value 'prometheus'"]);
    }
    assert_eq!(env.left(), "abcde");
}

/// A cache that goes away must not look like one that is not watched.
#[test]
fn a_cache_that_cannot_be_looked_at_has_a_metric() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf("image_cache_max_size = 3000");
    let file = env.outside("cache.prom");
    let status = ["status", "--config-file", &conf];
    let shown = || env.raw(&[&status[..], &["--format", "prometheus"]].concat());
    let kept = || env.raw(&[&status[..], &["--textfile", file.to_str().unwrap()]].concat());
    let of_cache = |text: &str, name: &str| value(text, &format!("glance_cache_{name}{{cache=\"glance\"}}"));
    let figures = |text: &str| {
        ["readable", "directory_missing", "limit_bytes", "size_bytes"].map(|name| of_cache(text, name))
    };
    let whole = [Some(1.0), Some(0.0), Some(3000.0), Some(5000.0)];
    assert_eq!(figures(&shown().ok().stdout), whole);
    kept().ok();
    assert_eq!(figures(&fs::read_to_string(&file).unwrap()), whole);

    fs::rename(env.dir(), env.outside("away")).unwrap();
    let missing = [Some(0.0), Some(1.0), Some(3000.0), None];
    assert_eq!(figures(&shown().ok().stdout), missing);
    kept().ok();
    assert_eq!(figures(&fs::read_to_string(&file).unwrap()), missing);

    // A file in its place is as good as a directory without permission, which root always has.
    fs::write(env.dir(), "").unwrap();
    let unreadable = [Some(0.0), Some(0.0), Some(3000.0), None];
    let run = shown().fails(2, &["cannot use the directory set by"]);
    assert_eq!(figures(&run.stdout), unreadable, "{run:?}");
    assert!(run.stdout.ends_with("\n# EOF\n"), "{run:?}");
    assert_eq!(of_cache(&run.stdout, "attention"), Some(1.0), "{run:?}");
    kept().code(2);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(figures(&text), unreadable, "{text}");
    assert_eq!(of_command(&text, "last_exit_code", "status"), Some(2.0), "{text}");
    env.raw(&[&status[..], &["--format", "json"]].concat()).code(2).has(&json!({"reason": "usage"}));

    // Nor may settings that cannot be read leave the last good state.
    fs::remove_file(env.dir()).unwrap();
    fs::rename(env.outside("away"), env.dir()).unwrap();
    kept().ok();
    assert_eq!(figures(&fs::read_to_string(&file).unwrap()), whole);
    env.write("glance-api.conf", "[DEFAULT");
    kept().fails(2, &["glance-api.conf"]);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(figures(&text), [Some(0.0), Some(0.0), None, None], "{text}");
    assert!(!text.contains("glance_cache_info") && !text.contains("glance_cache_hits"), "{text}");
    assert_eq!(of_command(&text, "last_exit_code", "status"), Some(2.0), "{text}");
}

#[test]
fn a_splay_waits_and_says_so() {
    let env = TestEnv::sqlite(FIVE);
    let run = env.clean(&["-v", "--splay", "50ms"]).ok();
    assert!(run.stderr.starts_with("waiting "), "{run:?}");
    assert!(run.stderr.contains("(--splay)"), "{run:?}");
    // A dry run does not wait.
    env.clean(&["--dry-run", "--splay", "10000h"]).ok();
}

#[test]
fn a_signal_ends_a_splay() {
    let env = TestEnv::sqlite(FIVE);
    let mut command = env.of_cache("prune");
    command.args(["-v", "--max-size", "0", "--splay", "10000h"]);
    let running = Running::start(&mut command, env.outside("").as_path());
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.signal(rustix::process::Signal::TERM);
    let run = running.wait().code(143);
    assert_eq!(env.left(), "abcde", "{run:?}");
}
