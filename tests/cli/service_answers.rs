//! What the service says to whom: callers learn nothing about the host, and the answer, the log and the
//! metrics agree about what failed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::env::*;
use crate::support::running::free_port;
use crate::support::service::{Reply, Service};

const PRUNE: &str = "POST /v2/cache/prune";
const LOCK: &str = "glance-cache-prune";

/// Returns the metrics of a service that has them at this port.
pub(crate) fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(Service::request("GET /metrics", "").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Reply::new(&answer).is(200).body
}

/// Sends a signal to a process.
fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal)
}

/// Returns a metric of the service about an operation.
pub(crate) fn of_operation(metrics: &str, name: &str, operation: &str) -> Option<String> {
    let start = format!("glance_cache_api_{name}{{op=\"{operation}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

#[test]
fn a_directory_that_is_away_is_a_failure_in_the_answer_the_log_and_the_metrics() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    let settings = Service::settings(&env, &format!("metrics_bind = 127.0.0.1:{port}\nlock_timeout = 300ms"));
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{settings}"));
    let service = Service::at(&env, &conf, &[]);
    fs::rename(env.dir(), env.outside("away")).unwrap();
    let delete = format!("DELETE /v2/cache/{}", id('a'));
    for (request, headers, operation) in [
        (PRUNE, "", "prune"),
        ("POST /v2/cache/clean", "", "clean"),
        ("DELETE /v2/cache", "x-image-cache-clear-target: cache\r\n", "clear"),
        ("DELETE /v2/cache", "x-image-cache-clear-target: queue\r\n", "clear"),
        (&*delete, "", "delete"),
        ("GET /v2/cache", "", "list"),
    ] {
        let reply = service.ask(request, headers).is(500);
        assert!(!reply.body.contains(env.dir().to_str().unwrap()), "{reply:?}");
        let metrics = metrics(port);
        let failures = of_operation(&metrics, "consecutive_failures", operation);
        assert!(failures.as_deref().is_some_and(|failures| failures != "0"), "{operation}: {failures:?}");
        let success = of_operation(&metrics, "last_success_timestamp_seconds", operation);
        assert_eq!(success, None, "{operation}");
        assert!(of_operation(&metrics, "last_failure_timestamp_seconds", operation).is_some());
        assert_eq!(of_operation(&metrics, "interval_seconds", operation), None);
        let line = format!("{request} 500 ");
        assert!(service.stderr().contains(&line), "{line}: {}", service.stderr());
    }
    fs::rename(env.outside("away"), env.dir()).unwrap();
    service.ask(PRUNE, "").is(200);
    let metrics = metrics(port);
    assert_eq!(of_operation(&metrics, "consecutive_failures", "prune").as_deref(), Some("0"));
    assert!(of_operation(&metrics, "last_success_timestamp_seconds", "prune").is_some());
    assert_eq!(env.left(), "cde");
}

#[test]
fn a_cache_that_has_moved_with_its_setting_is_not_away() {
    let env = TestEnv::sqlite(FIVE);
    let settings = Service::settings(&env, "");
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{settings}"));
    let service = Service::at(&env, &conf, &[]);
    let new = env.outside("new");
    fs::rename(env.dir(), &new).unwrap();
    let text = fs::read_to_string(&conf).unwrap();
    env.write("glance-api.conf", text.replace(env.dir().to_str().unwrap(), new.to_str().unwrap()));
    assert_eq!(service.ask(PRUNE, "").is(200).json()["total_files_pruned"], 2);
}

#[test]
fn a_pass_of_the_clock_without_a_directory_is_a_failure_in_the_log_and_the_metrics() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    let conf = env.conf(&format!(
        "image_cache_max_size = 3000\n[cache_api]\nprune_interval = 1s\nclean_interval = 1s\n\
         metrics_bind = 127.0.0.1:{port}\nauth_strategy = none\n"
    ));
    fs::rename(env.dir(), env.outside("away")).unwrap();
    let service = Service::at(&env, &conf, &["--bind", "none"]);
    for operation in ["prune", "clean"] {
        until("two failures", || {
            let log = service.stderr();
            let lines = log.lines().filter(|line| line.contains("maintenance failed: "));
            lines.filter(|line| line.contains(&format!("({operation}: "))).count() >= 2
        });
        let metrics = metrics(port);
        let failures = of_operation(&metrics, "consecutive_failures", operation).unwrap();
        assert!(failures.parse::<u32>().unwrap() >= 2, "{operation}: {failures}");
        assert_eq!(of_operation(&metrics, "last_success_timestamp_seconds", operation), None);
        assert!(of_operation(&metrics, "last_failure_timestamp_seconds", operation).is_some());
        assert_eq!(of_operation(&metrics, "interval_seconds", operation).as_deref(), Some("1"));
        let line = format!("cache at unknown of 3 KiB ({operation}: ");
        let log = service.stderr();
        let lines = log.lines().filter(|found| found.contains(&line));
        assert!(lines.clone().all(|line| line.ends_with("does not exist; so the size is unknown)")), "{log}");
        assert!(lines.count() >= 2, "{log}");
    }
}

#[test]
fn the_metrics_say_that_a_cache_cannot_be_looked_at() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    let settings = Service::settings(&env, &format!("metrics_bind = 127.0.0.1:{port}"));
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{settings}"));
    let _service = Service::at(&env, &conf, &[]);
    let figures = || {
        let text = metrics(port);
        assert!(text.contains("# TYPE glance_cache_api_requests_total") && !text.contains("EOF"), "{text}");
        ["readable", "directory_missing", "limit_bytes", "size_bytes"].map(|name| {
            let start = format!("glance_cache_{name}{{cache=\"glance\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.map(|value| value.parse::<u64>().unwrap())
        })
    };
    assert_eq!(figures(), [Some(1), Some(0), Some(3000), Some(5000)]);
    fs::rename(env.dir(), env.outside("away")).unwrap();
    assert_eq!(figures(), [Some(0), Some(1), Some(3000), None]);
    fs::write(env.dir(), "").unwrap();
    assert_eq!(figures(), [Some(0), Some(0), Some(3000), None]);
    // Not even the settings can be read.
    env.write("glance-api.conf", "[DEFAULT");
    assert_eq!(figures(), [Some(0), Some(0), None, None]);
}

/// Starts a service on a large cache with metrics at this port.
fn on_a_large_cache(port: u16) -> (TestEnv, Service) {
    let env = TestEnv::large(Sqlite, 10_000);
    let service = Service::start(&env, &format!("metrics_bind = 127.0.0.1:{port}\nshutdown_timeout = 1s"));
    (env, service)
}

#[test]
fn scrapes_that_are_given_up_leave_no_process() {
    let port = free_port();
    let (_env, service) = on_a_large_cache(port);
    for _ in 0..20 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(Service::request("GET /metrics", "").as_bytes()).unwrap();
        // The child is started, and the client leaves.
        sleep(Duration::from_millis(10));
        drop(stream);
        assert!(children(service.pid()).len() <= 1, "one look for all");
    }
    until("the last child to be collected", || children(service.pid()).is_empty());
    assert!(metrics(port).contains("glance_cache_entries{cache=\"glance\",state=\"tracked\"} 10000"));
    service.signal(Signal::TERM);
    let start = Instant::now();
    let run = service.wait().ok();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!run.stderr.contains("the time is up"), "{run:?}");
}

#[test]
fn a_scrape_answers_in_its_time_though_the_cache_does_not() {
    let port = free_port();
    let (_env, service) = on_a_large_cache(port);
    let scrape = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let header = "X-Prometheus-Scrape-Timeout-Seconds: 1.5\r\n";
        stream.write_all(Service::request("GET /metrics", header).as_bytes()).unwrap();
        stream
    };
    let answer = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        Reply::new(&answer).is(200).body
    };
    // A process that is stopped stands for one whose disk does not answer.
    let (first, start) = (scrape(), Instant::now());
    let pids = || children(service.pid());
    let stop = |signal| pids().into_iter().try_for_each(|pid| kill(pid, signal));
    let line = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // Before that line, the child is still the service, which waits for it.
    while !pids().into_iter().any(|pid| line(pid).starts_with("glance-cache\0status\0")) {
        assert!(start.elapsed() < Duration::from_secs(1), "no child");
    }
    stop(Signal::STOP).unwrap();
    for stream in [first, scrape()] {
        let text = answer(stream);
        assert!(text.contains("glance_cache_readable{cache=\"glance\"} 0"), "{text}");
        assert!(
            !text.contains("glance_cache_size_bytes") && text.contains("_api_freed_bytes_total 0"),
            "{text}"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(pids().len(), 1, "one look for all");
    stop(Signal::CONT).unwrap();
    until("the look to end", || pids().is_empty());
    assert!(answer(scrape()).contains("glance_cache_readable{cache=\"glance\"} 1"));
}

/// Asserts that an answer shows nothing of this host.
#[track_caller]
fn tells_nothing(reply: &Reply) {
    let mut text = reply.body.clone();
    for markup in ["</title>", "</head>", "</h1>", "<br />", "</body>", "</html>"] {
        text = text.replace(markup, "");
    }
    let pid = format!("{}", std::process::id());
    for told in ["/", "image caches", "of Glance's", "cache.db", LOCK, "process ", &*pid, "cli", "glance-api"]
    {
        assert!(!text.contains(told), "{told}: {reply:?}");
    }
}

/// Returns a cache whose path has blanks in it, and a service on it.
fn with_blanks(root: &str, lines: &str) -> (TestEnv, Service) {
    let root = tempfile::Builder::new().prefix(root).tempdir().unwrap();
    let cache = root.path().join("image caches, of Glance's");
    let env = TestEnv::at(Sqlite, root, cache);
    for image in FIVE {
        env.image(*image);
    }
    let settings = Service::settings(&env, "lock_timeout = 300ms");
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{lines}\n{settings}"));
    let service = Service::at(&env, &conf, &[]);
    (env, service)
}

#[test]
fn no_answer_says_where_things_are_and_who_holds_them() {
    let (env, service) = with_blanks("gct and more-", "");
    let accepted = ["", "Accept: */*\r\n", "Accept: application/json\r\n"];
    let id_of_a = format!("DELETE /v2/cache/{}", id('a'));
    let held = env.lock(LOCK);
    for accept in accepted {
        for request in [PRUNE, "DELETE /v2/cache", &*id_of_a] {
            tells_nothing(&service.ask(request, accept).is(503));
        }
    }
    let who = format!("{LOCK} was still held by process {}", std::process::id());
    assert!(service.stderr().contains(&who), "{}", service.stderr());
    drop(held);
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for accept in accepted {
        for request in [PRUNE, "GET /v2/cache"] {
            tells_nothing(&service.ask(request, accept).is(503));
        }
    }
    drop(writer);
    let index = fs::read(env.path("cache.db")).unwrap();
    fs::write(env.path("cache.db"), vec![7; 8192]).unwrap();
    for accept in accepted {
        for request in [PRUNE, "GET /v2/cache", "DELETE /v2/cache"] {
            tells_nothing(&service.ask(request, accept).is(500));
        }
    }
    fs::write(env.path("cache.db"), index).unwrap();
    fs::rename(env.dir(), env.outside("away")).unwrap();
    for accept in accepted {
        for request in [PRUNE, "GET /v2/cache", "DELETE /v2/cache", "POST /v2/cache/clean"] {
            tells_nothing(&service.ask(request, accept).is(500));
        }
    }
    fs::rename(env.outside("away"), env.dir()).unwrap();
    // A clean names the process that has a file open; callers do not learn which it is.
    env.file(format!("incomplete/{}", id('9')), 7, 100);
    let open = fs::File::options().append(true).open(env.path(format!("incomplete/{}", id('9')))).unwrap();
    let clean = service.ask("POST /v2/cache/clean", "Accept: application/json\r\n").is(200);
    assert_eq!(clean.json()["kept_open"][0]["pid"], Value::Null, "{clean:?}");
    assert_eq!(clean.json()["total_files_cleaned"], 0);
    tells_nothing(&clean);
    drop(open);
}

#[test]
fn a_report_of_failures_names_images_and_no_files() {
    let keep: String = ('a'..='e').map(|letter| id(letter) + "\n").collect();
    let (env, service) = with_blanks("gct and more-", "[glance_cache]\nkeep_from = the list");
    // A relative path is one of the host as well.
    env.write("the list", keep);
    let reply = service.ask(PRUNE, "Accept: application/json\r\n").is(500);
    tells_nothing(&reply);
    let report = reply.json();
    assert_eq!(report["errors"][0]["action"], "limit", "{report}");
    assert_eq!(report["cache_size_after"], 5000);
    let text = service.ask(PRUNE, "").is(500);
    assert!(text.body.contains("The cache is still over its limit: 5000 of 3000 bytes."), "{text:?}");
    let delete = format!("DELETE /v2/cache/{}", id('a'));
    let reply = service.ask(&delete, "Accept: application/json\r\n").is(500);
    tells_nothing(&reply);
    assert_eq!(reply.json()["errors"][0]["name"], id('a'), "{reply:?}");
    assert!(!reply.body.contains("keep"), "{reply:?}");
    tells_nothing(&service.ask(&delete, "").is(500));
    assert!(service.stderr().contains("keep_from"), "{}", service.stderr());
}

/// Sends a request with a body.
fn with_body(service: &Service, request: &str, body: &str) -> Reply {
    let lines = format!("Content-Length: {}\r\n", body.len());
    Reply::new(&service.raw(Service::request(request, &lines) + body))
}

#[test]
fn a_body_that_would_be_ignored_is_refused() {
    let env = TestEnv::sqlite(FIVE);
    let settings = Service::settings(&env, "");
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{settings}"));
    let service = Service::at(&env, &conf, &[]);
    let delete = format!("DELETE /v2/cache/{}", id('a'));
    for request in [PRUNE, "POST /v2/cache/clean", "DELETE /v2/cache", &*delete] {
        for body in ["{\"dry_run\": true}", "{\"a\": null}", "[]", "[{}]", "[\"dry_run\"]"] {
            let reply = with_body(&service, request, body).is(400);
            assert!(reply.body.contains("takes no body, or an empty JSON object."), "{body}: {reply:?}");
        }
        for body in ["null", "7", "\"s\""] {
            let reply = with_body(&service, request, body).is(400);
            assert!(reply.body.contains("Unexpected body type. Expected list/dict."), "{reply:?}");
        }
    }
    assert_eq!(env.left(), "abcde");
    with_body(&service, PRUNE, " {\r\n} ").is(200);
    assert_eq!(env.left(), "cde");
}

#[test]
fn a_target_with_a_fragment_is_none() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    for request in ["GET /v2/cache#x", "POST /v2/cache/prune#", "GET /v2/cache?a#b", "GET /healthcheck#x"] {
        service.ask(request, "").is(400);
    }
}

#[test]
fn what_a_client_sends_is_cut_in_the_log_and_in_answers() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    let method = "M".repeat(9000);
    let name = "x".repeat(12_000);
    let replies = [
        service.ask(&format!("{method} /v2/cache"), "").is(405),
        service.ask(&format!("GET /v2/cache/nodes/{name}"), "").is(404),
        service.ask(&format!("DELETE /v2/cache/{name}"), "").is(404),
        service.ask(&format!("GET /{name}"), "").is(300),
    ];
    for reply in &replies {
        assert!(reply.body.len() < 700, "{}", reply.body.len());
    }
    let log = service.stderr();
    for line in log.lines() {
        assert!(line.len() < 700, "{}", line.len());
    }
    assert!(log.contains(&format!("{}... (9000 characters) /v2/cache 405 ", "M".repeat(64))), "{log}");
    assert!(log.contains("xxx... (12001 characters) 300 "), "{log}");
    let text = format!("Image {}... (12000 characters) not found.", "x".repeat(255));
    assert!(replies[1].body.contains(&text), "{:?}", replies[1]);
}

#[test]
fn a_delete_needs_the_database_to_know_that_there_is_no_image() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    // As Glance says about an image that it knows and has not cached.
    service.ask(&format!("DELETE /v2/cache/{}", id('7')), "").is(204);
}

/// The operations of a service write the same lines as the commands do, and a pass of the clock that changed
/// something is a line of its own.
#[test]
fn the_log_of_the_service_has_each_removal() {
    let env = TestEnv::sqlite(FIVE);
    let settings = Service::settings(&env, "prune_interval = 1s");
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{settings}"));
    let log = env.outside("service.log");
    let mut command = env.command(BINARY);
    command.args(["serve", "--allow-root", "--config-file", &conf, "--log-file"]).arg(&log);
    let service = Running::start(&mut command, &env.outside(""));
    let text = || fs::read_to_string(&log).unwrap_or_default();
    until("the pass of the clock", || text().contains("glance-cache maintenance: prune removed 2 files, "));
    assert_eq!(text().matches(" (1000 B): least recently used, ").count(), 2, "{}", text());
    service.signal(Signal::TERM);
    service.wait().ok();
    let env = TestEnv::sqlite(FIVE);
    let settings = Service::settings(&env, "prune_interval = 1s");
    let service = Service::at(&env, &env.conf(&format!("image_cache_max_size = 3000\n{settings}")), &[]);
    until("the line of the pass", || {
        service.stderr().contains("glance-cache maintenance: prune removed 2 files, 1.95 KiB\n")
    });
}

#[test]
fn requests_for_health_and_metrics_are_told_if_that_is_asked_for() {
    for (arguments, is_told) in [(&["-v"][..], true), (&[], false)] {
        let env = TestEnv::sqlite(FIVE);
        let port = free_port();
        let settings = Service::settings(&env, &format!("metrics_bind = 127.0.0.1:{port}"));
        let service = Service::at(&env, &env.conf(&settings), arguments);
        service.ask("GET /healthcheck", "").is(200);
        metrics(port);
        for line in ["GET /healthcheck 200\n", "GET /metrics 200\n"] {
            assert_eq!(service.stderr().contains(line), is_told, "{}", service.stderr());
        }
    }
}

/// Images without an index are no empty cache: nobody knows which of them Glance would serve.
#[test]
fn a_list_without_an_index_is_a_failure_if_there_are_images() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    fs::rename(env.path("cache.db"), env.outside("cache.db")).unwrap();
    service.ask("GET /v2/cache", "").is(500);
    assert!(service.stderr().contains("cache.db does not exist or is empty"), "{}", service.stderr());
    fs::rename(env.outside("cache.db"), env.path("cache.db")).unwrap();
    service.ask("GET /v2/cache", "").is(200);
}

/// Clients that come all at once get an answer each, also those that lose their place to later ones.
#[test]
fn clients_that_find_no_place_are_told_so() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "max_connections = 4");
    let connections: Vec<_> = (0..40).map(|_| service.connect()).collect();
    sleep(Duration::from_millis(100));
    let mut statuses = Vec::new();
    for mut stream in connections {
        // An answer may come before the request.
        let _ = stream.write_all(Service::request("GET /versions", "").as_bytes());
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        statuses.push(Reply::new(&answer).status);
    }
    assert!(statuses.iter().filter(|status| **status == 200).count() >= 4, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
}
