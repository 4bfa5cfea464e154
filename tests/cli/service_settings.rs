//! The settings of the service: what is refused, in which words, and that `--check` refuses all of it.

use crate::support::env::*;
use crate::support::running::free_port;
use crate::support::service::Service;

const NONE: &str = "auth_strategy = none";

/// Runs `serve` with settings that it refuses, with and without `--check`.
#[track_caller]
fn refused(env: &TestEnv, settings: &str, arguments: &[&str], code: i32, says: &[&str]) {
    let conf = env.conf(&format!("[cache_api]\n{NONE}\n{settings}\n"));
    let line = ["serve", "--allow-root", "--config-file", &conf];
    let run = env.raw(&[&line[..], arguments].concat()).fails(code, says);
    for word in ["integer", "out of range integral", "invalid socket", "invalid IP"] {
        assert!(!run.stderr.contains(word), "{word}: {run:?}");
    }
    env.raw(&[&line[..], arguments, &["--check"]].concat()).fails(2, says);
}

#[test]
fn a_check_refuses_whatever_the_start_would_refuse() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    refused(&env, "", &["--bind", "none"], 2, &["there is nothing to do"]);
    refused(&env, "bind_port = 0", &[], 2, &["there is nothing to do"]);
    for (bind, metrics) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "[::]"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("::1", "[::]"),
    ] {
        let settings = format!("bind_host = {bind}\nbind_port = {port}\nmetrics_bind = {metrics}:{port}");
        refused(&env, &settings, &[], 2, &["metrics_bind", &format!("{port}"), "at the same address"]);
    }
    let place = format!("127.0.0.1:{port}");
    refused(&env, "", &["--bind", &place, "--bind", &place], 2, &["at the same address"]);
    let socket = format!("unix:{}", env.outside("s.sock").display());
    refused(&env, "", &["--bind", &socket, "--bind", &socket], 2, &["at the same address"]);
    let long = format!("unix:/{}", "x".repeat(107));
    refused(&env, "", &["--bind", &long], 2, &["at most 107 bytes", "has 108"]);
    let file = env.write("file", "");
    refused(&env, "", &["--bind", &format!("unix:{file}")], 3, &["no socket: it is not replaced"]);
    let nowhere = format!("unix:{}/no/x.sock", env.outside("").display());
    refused(&env, "", &["--bind", &nowhere], 3, &["cannot listen at", "No such file or directory"]);
    // An address of documents, which no host has.
    let elsewhere = "192.0.2.1:0";
    let conf = env.conf(&Service::settings(&env, &format!("metrics_bind = {elsewhere}")));
    let line = ["serve", "--allow-root", "--config-file", &conf];
    env.raw(&line).fails(3, &["cannot listen at 192.0.2.1"]);
    env.raw(&[&line[..], &["--check"]].concat()).fails(2, &["cannot listen at 192.0.2.1"]);
    if rustix::process::geteuid().is_root() {
        let conf = env.conf(&Service::settings(&env, ""));
        let line = ["serve", "--config-file", &conf];
        env.raw(&line).fails(2, &["does not run as root"]);
        env.raw(&[&line[..], &["--check"]].concat()).fails(2, &["does not run as root"]);
    }
}

#[test]
fn a_check_passes_while_the_service_runs() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    let conf = env.conf(&Service::settings(&env, &format!("bind_port = {port}")));
    let service = Service::at(&env, &conf, &[]);
    let check = env.raw(&["serve", "--allow-root", "--check", "--config-file", &conf]).ok();
    assert!(check.stdout.contains("in order"), "{check:?}");
    service.ask("GET /healthcheck", "").is(200);
}

#[test]
fn nonsense_is_no_setting() {
    let env = TestEnv::sqlite(FIVE);
    for (setting, says) in [
        ("prune_interval = 1ms", "[cache_api] prune_interval must be at least 1 s, or 0 for never"),
        ("clean_interval = 999ms", "[cache_api] clean_interval must be at least 1 s, or 0 for never"),
        ("prefetch_interval = 0.5", "[cache_api] prefetch_interval must be at least 1 s, or 0 for never"),
        ("poll_interval = 0", "[cache_api] poll_interval must be at least 1 s"),
        ("poll_interval = 10ms", "[cache_api] poll_interval must be at least 1 s"),
        ("operation_timeout = 0", "[cache_api] operation_timeout must be at least 1 s"),
        ("client_socket_timeout = 1ms", "[cache_api] client_socket_timeout must be at least 1 s"),
        ("max_header_line = 100000000", "max_header_line must be at most 65536"),
        ("max_connections = 100000000", "max_connections must be at most 65536"),
        ("disable_by_file_path = off", "[cache_api] disable_by_file_path must be an absolute path"),
        ("cert_file = c.pem\nkey_file = /k.pem", "[cache_api] cert_file must be an absolute path"),
        ("cert_file = /c.pem\nkey_file = k.pem", "[cache_api] key_file must be an absolute path"),
        ("bind_socket = api.sock", "[cache_api] bind_socket must be an absolute path"),
        ("bind_port = 99999", "[cache_api] bind_port is 99999; a port is at most 65535"),
        ("bind_host = localhost", "[cache_api] bind_host is \"localhost\", which is no IP address"),
        ("metrics_bind = localhost:1", "[cache_api] metrics_bind is \"localhost:1\"; give ADDRESS:PORT"),
    ] {
        refused(&env, setting, &[], 2, &[says, "glance-api.conf:"]);
    }
}

#[test]
fn the_line_of_a_service_that_is_ready_has_all_places() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "metrics_bind = 127.0.0.1:0");
    let log = service.stderr();
    let line = log.lines().find(|line| line.contains("is ready")).unwrap();
    assert!(line.contains("api.sock, metrics at 127.0.0.1:") && !line.ends_with(":0"), "{line}");
}
