//! The metrics beside the real Prometheus and node exporter: what they read, which alerts fire, and which
//! queries of the dashboard have an answer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::env::*;
use crate::support::running::free_port;
use crate::support::servers::SqliteFile;
use crate::support::strace::with_faults;
use crate::support::{central, needs};

const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib");

/// A server of this test; ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command, log: &Path) -> Server {
    let log = fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Server(command.spawn().unwrap())
}

/// Returns the body of an answer with status 200.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.0 200").then(|| body.to_owned())
}

fn query(port: u16, expression: &str) -> Vec<Value> {
    let encoded: Vec<String> = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = get(port, &format!("/api/v1/query?query={}", encoded.concat())).unwrap_or_default();
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

/// Runs promtool, and returns all that it prints.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) -> String {
    needs::prometheus();
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}\n{input}");
    text
}

/// A cache with something in each state, and a file of metrics of every command.
fn recorded(place: &Path) -> TestEnv {
    let env = TestEnv::sqlite(FIVE);
    env.file("invalid/x", 700, 1);
    env.file(format!("queue/{}", id('f')), 0, 1);
    env.ghost('9', 3);
    env.orphan('8', 400, 5);
    let file = place.join("cache.prom");
    let file = file.to_str().unwrap();
    env.prune(&["--max-size", "4000B", "--textfile", file]).ok();
    env.clean(&["--textfile", file]).ok();
    env.run("prefetch", &["--textfile", file]).code(2);
    env.run("status", &["--max-size", "3500B", "--textfile", file]).ok();
    env
}

#[test]
fn promtool_accepts_the_metrics() {
    let place = tempfile::tempdir().unwrap();
    let env = recorded(place.path());
    let file = fs::read_to_string(place.path().join("cache.prom")).unwrap();
    assert_eq!(promtool(&["check", "metrics"], &file), "");
    let printed = env.run("status", &["--max-size", "3000B", "--format", "prometheus"]).ok().stdout;
    assert_eq!(promtool(&["check", "metrics"], &printed), "");
}

#[test]
fn promtool_accepts_the_alerts() {
    let rules = format!("{CONTRIB}/prometheus/alerts.yml");
    let text = promtool(&["check", "rules", &rules], "");
    assert!(text.contains("SUCCESS"), "{text}");
    let text = promtool(&["test", "rules", &format!("{CONTRIB}/prometheus/alerts_test.yml")], "");
    assert!(text.contains("SUCCESS"), "{text}");
    // Each alert has a test in which it fires, and one in which it is silent.
    let (rules, tests) = (
        fs::read_to_string(rules).unwrap(),
        fs::read_to_string(format!("{CONTRIB}/prometheus/alerts_test.yml")).unwrap(),
    );
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        for ending in ["fires", "is silent"] {
            assert!(tests.contains(&format!("- name: {alert} {ending}\n")), "{alert} {ending}");
        }
    }
}

/// Starts both, and returns them with the port of Prometheus. Its alerts do not wait.
fn prometheus(scratch: &Path, metrics: &Path) -> (Server, Server, u16) {
    needs::prometheus();
    let (exporter, server) = (free_port(), free_port());
    let mut command = Command::new("prometheus-node-exporter");
    command.args(["--collector.disable-defaults", "--collector.textfile"]);
    command.arg(format!("--collector.textfile.directory={}", metrics.display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{exporter}"));
    let exporting = start(&mut command, &scratch.join("exporter.log"));
    let rules = fs::read_to_string(format!("{CONTRIB}/prometheus/alerts.yml")).unwrap();
    let at_once = rules.lines().filter(|line| !line.trim().starts_with("for:"));
    fs::write(scratch.join("alerts.yml"), at_once.collect::<Vec<_>>().join("\n")).unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [alerts.yml]\n\
         scrape_configs:\n- job_name: node\n  static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]\n"
    );
    fs::write(scratch.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", scratch.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", scratch.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{server}"));
    let serving = start(&mut command, &scratch.join("prometheus.log"));
    until("Prometheus has scraped twice", || {
        !query(server, "count_over_time(glance_cache_runs_total[1m]) >= 2").is_empty()
    });
    (exporting, serving, server)
}

#[test]
fn the_real_prometheus_scrapes_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let metrics = scratch.path().join("metrics");
    fs::create_dir(&metrics).unwrap();
    let env = recorded(&metrics);
    let (_exporting, _serving, port) = prometheus(scratch.path(), &metrics);
    let value = |expression: &str| -> Option<f64> {
        query(port, expression).first()?["value"][1].as_str()?.parse().ok()
    };
    assert_eq!(value("node_textfile_scrape_error"), Some(0.0));
    assert_eq!(value("glance_cache_size_bytes"), Some(3400.0), "{:?}", env.status());
    assert_eq!(value("glance_cache_limit_bytes"), Some(3500.0));
    assert_eq!(value("glance_cache_entries{state='tracked'}"), Some(3.0));
    assert_eq!(value("glance_cache_removed_files_total{command='clean'}"), Some(1.0));
    assert_eq!(value("glance_cache_last_exit_code{command='prefetch'}"), Some(2.0));

    let dashboard = fs::read_to_string(format!("{CONTRIB}/grafana/glance-cache.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap().replace("$instance", ".*");
            // Nothing was fetched here.
            let is_of_prefetch = expression.contains("glance_cache_fetched");
            assert!(is_of_prefetch || !query(port, &expression).is_empty(), "no answer: {expression}");
            asked += 1;
        }
    }
    assert!(asked >= 15, "{asked}");

    // Prefetch failed above. The cache is within its limit, until the limit is lowered.
    let firing = |alert: &str| !query(port, &format!("ALERTS{{alertname='{alert}'}}")).is_empty();
    until("a failed command is an alert", || firing("GlanceCacheCommandFailed"));
    assert!(!firing("GlanceCacheOverLimit") && !firing("GlanceCacheIndexUnreadable"));
    let file = metrics.join("cache.prom");
    env.run("status", &["--max-size", "2000B", "--textfile", file.to_str().unwrap()]).ok();
    until("a cache over its limit is an alert", || firing("GlanceCacheOverLimit"));
}

#[test]
fn nodes_of_a_central_database_are_metrics() {
    let fleet = central::fleet(SqliteFile);
    let hostile = "http://a\n\"b\"\\c\r\u{1b}[31m\u{202e}:9292";
    fleet.db.sql(&format!("UPDATE node_reference SET node_reference_url = '{hostile}' WHERE node_reference_url = 'http://f01:9292'"));
    let text = fleet.run("status", &["--all-nodes", "--format", "prometheus"]).ok().stdout;
    assert!(text.contains("glance_cache_node_images{node=\"http"), "{text}");
    let escaped = r#"{node="http://a\\n\"b\"\\\\c\\r\\u{1b}[31m\\u{202e}:9292"}"#;
    assert!(text.contains(escaped) && !text.contains(['\r', '\u{1b}', '\u{202e}']), "{text}");
    assert_eq!(promtool(&["check", "metrics"], &text), "");
}

/// Killed at each of its system calls, a run leaves the old file or the new one.
#[test]
fn a_killed_run_leaves_a_whole_file() {
    let env = TestEnv::sqlite(FIVE);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("cache.prom");
    let textfile = ["list", "--textfile", file.to_str().unwrap()];
    with_faults(&env, &[], &textfile).ok();
    let lines = fs::read_to_string(&file).unwrap().lines().count();
    for call in ["flock", "unlinkat", "fchmod", "fsync", "linkat", "renameat"] {
        let inject = format!("{call}:signal=KILL");
        let run = with_faults(&env, &[&inject], &textfile);
        assert_ne!(run.code, 0, "{call} is not called");
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), lines, "{call}");
        let left = names(place.path());
        // The signal comes before the system call. The new file has a name only between the last two.
        if call != "renameat" {
            assert_eq!(left, ["cache.prom"], "{call}");
        }
        env.run("list", &textfile[1..]).ok();
        assert_eq!(names(place.path()), ["cache.prom"], "after {call}");
    }
}

/// A full disk costs the metrics of a run, and is reported.
#[test]
fn a_full_disk_is_reported() {
    let env = TestEnv::sqlite(FIVE);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("cache.prom");
    let textfile = ["prune", "--max-size", "3000B", "--textfile", file.to_str().unwrap()];
    let run = with_faults(&env, &["fsync:error=ENOSPC:when=1"], &["list", "--textfile", textfile[4]]);
    run.fails(1, &["cannot write --textfile", "No space left on device"]);
    assert_eq!(names(place.path()), [""; 0]);
}
