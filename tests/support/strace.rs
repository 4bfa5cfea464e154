//! Commands under strace, which shows their system calls, lets some of them fail, or holds them up.

use std::fs;
use std::process::{Command, Stdio};

use super::env::*;
use super::host::{CLOCK, HostEnv, in_ten_days};
use super::needs;

/// Returns the system calls of a run.
pub(crate) fn calls(env: &TestEnv, trace: &str, arguments: &[&str]) -> Vec<String> {
    needs::strace();
    let log = env.outside("strace");
    let mut command = env.command("/usr/bin/strace");
    command.args(["-f", "-y", "-o", log.to_str().unwrap(), "-e", trace, BINARY]).args(arguments);
    env.finish(command.args(["--cache-dir", env.dir().to_str().unwrap()])).ok();
    let calls: Vec<String> = fs::read_to_string(log).unwrap().lines().map(String::from).collect();
    assert!(
        calls.iter().any(|call| call.contains(env.dir().to_str().unwrap())),
        "strace saw nothing: {calls:?}"
    );
    calls
}

/// Runs a command with some of its system calls failing, as `strace -e inject` takes it.
pub(crate) fn with_faults(env: &TestEnv, faults: &[&str], arguments: &[&str]) -> Run {
    needs::strace();
    let mut command = env.command("/usr/bin/strace");
    command.args(["-f", "-o", "/dev/null"]);
    for fault in faults {
        command.args(["-e", &format!("inject={fault}")]);
    }
    command.arg(BINARY).args(arguments).args(["--driver", env.driver.name()]);
    env.finish(command.args(["--cache-dir", env.dir().to_str().unwrap()]))
}

/// Returns the command under strace, which delays it or kills it as `inject` says; not run yet.
pub(crate) fn traced(env: &HostEnv, inject: &str, arguments: &[&str]) -> Command {
    needs::strace();
    let mut command = env.command(arguments[0]);
    command.args(&arguments[1..]);
    let mut strace = Command::new("strace");
    let calls = inject.split([':', '=']).next().unwrap();
    strace.args([
        "-f",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={inject}"),
    ]);
    strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    strace.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", env.path("home"));
    strace.env(CLOCK, in_ten_days());
    strace
}
