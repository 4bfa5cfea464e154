//! The units of systemd: systemd itself has nothing to say about them, and what they forbid is not needed.
//!
//! No manager runs here. So the units are checked by `systemd-analyze`, the system calls of the commands are
//! compared with the filter, and a prune runs with the same user, capabilities and read-only root.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::env::*;
use crate::support::needs;
use crate::support::strace::calls;

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd");

fn units(extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(UNITS).unwrap().map(|file| file.unwrap().path());
    let units: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    assert_eq!(units.len(), if extension == "service" { 5 } else { 4 }, "{units:?}");
    units
}

fn analyze(arguments: &[&str]) -> String {
    needs::systemd();
    let output = Command::new("systemd-analyze").args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[test]
fn verify_is_silent() {
    let place = tempfile::tempdir().unwrap();
    let mut line = vec!["verify".to_owned(), "--man=no".to_owned()];
    for unit in [units("service"), units("timer")].concat() {
        let text = fs::read_to_string(&unit).unwrap().replace("/usr/bin/glance-cache", BINARY);
        let copy = place.path().join(unit.file_name().unwrap());
        fs::write(&copy, text).unwrap();
        line.push(copy.to_str().unwrap().to_owned());
    }
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    assert_eq!(analyze(&line), "");
}

#[test]
fn exposure_is_low() {
    for unit in units("service") {
        let text = analyze(&["security", "--offline=true", "--no-pager", unit.to_str().unwrap()]);
        let line = text.lines().find(|line| line.contains("Overall exposure level")).unwrap();
        let level = line.split_once(": ").unwrap().1.split_whitespace().next().unwrap();
        assert!(level.parse::<f64>().unwrap() < 3.0, "{line}");
    }
}

/// Returns the system calls of a set of systemd's.
fn set(name: &str) -> HashSet<String> {
    let mut calls = HashSet::new();
    for word in analyze(&["syscall-filter", "--no-pager", name]).lines().skip(1).map(str::trim) {
        if word.starts_with('@') {
            calls.extend(set(word));
        } else if !word.is_empty() && !word.starts_with('#') {
            calls.insert(word.to_owned());
        }
    }
    calls
}

#[test]
fn the_filter_has_all_system_calls() {
    for unit in units("service") {
        let text = fs::read_to_string(unit).unwrap();
        assert!(
            text.contains("SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n")
        );
    }
    let mut allowed = set("@system-service");
    for name in ["@privileged", "@resources"] {
        let refused = set(name);
        allowed.retain(|call| !refused.contains(call));
    }
    assert!(allowed.len() > 150 && !allowed.contains("chroot"), "{allowed:?}");
    let mut seen = HashSet::new();
    for driver in ["sqlite", "xattr"] {
        let env = if driver == "sqlite" { TestEnv::sqlite(FIVE) } else { TestEnv::xattr(FIVE) };
        env.file("invalid/x", 700, 1);
        let textfile = env.outside("cache.prom");
        let textfile = textfile.to_str().unwrap();
        for command in [&["prune", "--max-size", "3000B"][..], &["clean"]] {
            let line = [command, &["--driver", driver, "--textfile", textfile]].concat();
            for call in calls(&env, "all", &line) {
                // A process id, then the call; a continued call is seen at its start.
                let call = call.split_once(' ').unwrap().1.trim_start().to_owned();
                if let Some((name, _)) = call.split_once('(')
                    && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
                {
                    seen.insert(name.to_owned());
                }
            }
        }
    }
    assert!(seen.contains("unlinkat") && seen.contains("fsync"), "{seen:?}");
    // Only as root: the program acts as the owner of the cache, and SQLite gives its journal to that owner. The
    // units run as the user glance.
    let is_of_root = |call: &str| call.starts_with("setfs") || call == "fchown";
    let refused: Vec<_> = seen.difference(&allowed).filter(|call| !is_of_root(call)).collect();
    assert!(refused.is_empty(), "not in the filter: {refused:?}");
}

mod as_root {
    use super::*;
    use crate::support::rights::give_to_nobody;

    /// Everything is read-only but the cache; no capability, no way to gain one, another user than root.
    #[test]
    fn a_prune_under_the_same_restrictions() {
        needs::root();
        let env = TestEnv::sqlite(FIVE);
        drop(env.nobodys()); // makes a copy of the program that this user can reach
        give_to_nobody(&env.outside(""));
        let program = env.outside("glance-cache");
        let cache = env.dir().to_str().unwrap();
        let script = format!(
            "set -e; mount --make-rprivate /; mount --bind {cache} {cache}; mount -o remount,bind,ro /; \
             ! touch /etc/x 2>/dev/null; \
             exec setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --bounding-set=-all \
             --inh-caps=-all {program} prune --cache-dir {cache} --driver sqlite --max-size 3000B --skip-if-locked",
            program = program.display()
        );
        let mut command = env.command("/usr/bin/unshare");
        env.finish(command.args(["--mount", "sh", "-c", &script])).ok();
        assert_eq!(env.left(), "cde");
    }
}
