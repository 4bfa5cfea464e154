//! The times that the service keeps: waits, signals, and files that change while it runs.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::service_answers::{metrics, of_operation};
use crate::support::env::*;
use crate::support::identity::{Identity, Mode};
use crate::support::running::free_port;
use crate::support::service::{Reply, Service};

const PRUNE: &str = "POST /v2/cache/prune";
const LOCK: &str = "glance-cache-prune";

/// Starts a service that asks this identity service, with these lines in `[cache_api]`.
fn asking(env: &TestEnv, identity: &Identity, lines: &str) -> Service {
    let conf = env.conf(&format!(
        "[cache_api]\nbind_socket = {}\n{lines}\n[oslo_policy]\npolicy_file = {}\n{}",
        env.outside("api.sock").display(),
        env.outside("policy.yaml").display(),
        identity.settings(),
    ));
    Service::at(env, &conf, &[])
}

#[test]
fn a_policy_that_changes_is_noticed_within_a_second_though_nobody_calls() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    env.write("policy.yaml", "cache_list: role:reader\n");
    let port = free_port();
    let service = asking(&env, &identity, &format!("metrics_bind = 127.0.0.1:{port}"));
    for (policy, line) in [
        ("cache_list: rule:typo\n", "the old policy stays in force"),
        ("cache_list: role:member\n", "the new policy is in force"),
    ] {
        env.write("policy.yaml", policy);
        let start = Instant::now();
        until(line, || service.stderr().contains(line));
        let took = start.elapsed();
        println!("{line}: after {took:?}");
        // A second, and some for a busy machine.
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    let list = |name| service.ask("GET /v2/cache", &format!("X-Auth-Token: {name}\r\n")).status;
    assert_eq!((list("reader"), list("member")), (403, 200));
}

#[test]
fn an_image_that_grows_is_seen_by_the_clock() {
    let env = TestEnv::sqlite(FIVE);
    let settings = Service::settings(&env, "prune_interval = 1s\npoll_interval = 1s");
    let conf = env.conf(&format!("image_cache_max_size = 5000\n{settings}"));
    let service = Service::at(&env, &conf, &[]);
    // So long that what was seen before counts as settled, and an answer may be kept.
    sleep(Duration::from_secs(4));
    service.ask(PRUNE, "").is(200);
    service.ask(PRUNE, "").is(200);
    // Neither the directory nor the index shows that.
    let image = std::fs::File::options().write(true).open(env.path(id('e'))).unwrap();
    image.set_len(4000).unwrap();
    let start = Instant::now();
    until("a prune", || env.images() != "abcde");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn a_request_waits_for_its_turn_and_for_the_lock_no_longer_than_the_limit_in_all() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock(LOCK);
    let service = Service::start(&env, "lock_timeout = 2s");
    let start = Instant::now();
    let waiting: Vec<_> = (0..6).map(|_| service.begin(PRUNE)).collect();
    let clear = service.begin("DELETE /v2/cache");
    for stream in waiting.into_iter().chain([clear]) {
        let reply = Reply::of(stream).is(503);
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    let took = start.elapsed();
    println!("seven that waited for a lock: {took:?}");
    assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(5), "{took:?}");
    // Nobody is left in the lane.
    let start = Instant::now();
    service.ask(PRUNE, "").is(503);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_second_signal_is_not_told_as_the_end_of_the_time() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "lock_timeout = 60");
    let _held = env.lock(LOCK);
    let pruning = service.begin(PRUNE);
    until("the child", || children(service.pid()).len() == 1);
    service.signal(Signal::TERM);
    until("the listener to end", || std::os::unix::net::UnixStream::connect(&service.socket).is_err());
    service.signal(Signal::TERM);
    Reply::of(pruning).is(503);
    let run = service.wait().ok();
    assert!(run.stderr.contains("a second signal"), "{run:?}");
    assert!(!run.stderr.contains("the time is up"), "{run:?}");
}

/// Starts a service at a Unix socket that prunes to 3000 bytes each second, with these settings more.
fn pruning(env: &TestEnv, settings: &str) -> Service {
    let settings = Service::settings(env, &format!("prune_interval = 1s\n{settings}"));
    Service::at(env, &env.conf(&format!("image_cache_max_size = 3000\n{settings}")), &[])
}

/// Returns the child that prunes.
fn pruning_child(service: &Service) -> Option<u32> {
    let line = |child: &u32| std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
    children(service.pid()).into_iter().find(|child| line(child).starts_with("glance-cache\0prune\0"))
}

#[test]
fn a_pass_that_the_end_of_the_service_ends_is_no_failure() {
    let env = TestEnv::sqlite(FIVE);
    let _held = env.lock(LOCK);
    let service = pruning(&env, "lock_timeout = 60\nshutdown_timeout = 300ms");
    until("the prune", || pruning_child(&service).is_some());
    service.signal(Signal::TERM);
    let run = service.wait().ok();
    let line = "glance-cache maintenance interrupted: the service is ending (prune)\n";
    assert!(run.stderr.contains(line), "{run:?}");
    assert!(!run.stderr.contains("maintenance failed"), "{run:?}");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn no_pass_begins_while_the_service_ends() {
    let env = TestEnv::sqlite(FIVE);
    let held = env.lock(LOCK);
    let service = pruning(&env, "lock_timeout = 60\npoll_interval = 1s\nclean_interval = 1s");
    until("the prune", || pruning_child(&service).is_some());
    service.signal(Signal::TERM);
    until("the listener to end", || std::os::unix::net::UnixStream::connect(&service.socket).is_err());
    env.file(format!("invalid/{}", id('9')), 7, 100);
    sleep(Duration::from_millis(2500));
    // The prune that waits is the only one that goes on.
    assert_eq!(env.names("invalid").len(), 1);
    drop(held);
    let run = service.wait().ok();
    assert!(!run.stderr.contains("maintenance failed"), "{run:?}");
}

/// The kernel closes the life line of the child, which then ends between two entries.
#[test]
fn an_operation_ends_when_its_service_is_killed() {
    let env = TestEnv::sqlite(FIVE);
    let held = env.lock(LOCK);
    let service = pruning(&env, "lock_timeout = 600");
    until("the prune", || pruning_child(&service).is_some());
    let child = pruning_child(&service).unwrap();
    service.signal(Signal::KILL);
    let start = Instant::now();
    until("the child to end", || !is_running(child));
    println!("a child that waits for a lock ends {:?} after kill -9", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5));
    drop((service, held));
    assert_eq!(env.left(), "abcde");
    // One in the middle of its work.
    let env = TestEnv::large(Sqlite, 10_000);
    let service = Service::start(&env, "");
    let clear = service.begin("DELETE /v2/cache");
    until("the first image to go", || !env.path(nth_id(0)).exists());
    let child = pruning_child(&service).unwrap();
    service.signal(Signal::KILL);
    until("the child to end", || !is_running(child));
    drop((service, clear));
    let files: Vec<String> = env.names("").into_iter().filter(|name| name.len() == 36).collect();
    println!("{} of 10000 images are left", files.len());
    assert!(!files.is_empty(), "it was done before the signal came: nothing tested");
    assert_eq!(env.ids(), files, "files and rows differ");
}

/// True if a process runs: one that has ended is at most a zombie, until somebody collects it.
fn is_running(pid: impl std::fmt::Display) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_directory_that_lost_its_file_system_is_no_empty_cache() {
    let env = TestEnv::sqlite(FIVE);
    let [here, other] = [env.outside("here"), std::path::PathBuf::from("/dev/shm")];
    let other = tempfile::Builder::new().prefix("gct-").tempdir_in(other).unwrap();
    let device = |path: &std::path::Path| std::fs::metadata(path).unwrap().dev();
    assert_ne!(device(env.dir()), device(other.path()), "this test needs two file systems");
    // The link stands for the mount point.
    std::fs::rename(env.dir(), &here).unwrap();
    let mount = |to: &std::path::Path| {
        let _ = std::fs::remove_file(env.dir());
        std::os::unix::fs::symlink(to, env.dir()).unwrap();
    };
    mount(&here);
    let port = free_port();
    let service = pruning(&env, &format!("poll_interval = 1s\nmetrics_bind = 127.0.0.1:{port}"));
    until("a prune", || env.images() == "cde");
    let figures = |text: &str| {
        ["readable", "size_bytes"].map(|name| {
            let start = format!("glance_cache_{name}{{cache=\"glance\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
        })
    };
    assert_eq!(figures(&metrics(port)), [Some("1".to_owned()), Some("3000".to_owned())]);
    mount(other.path());
    let failed = "the file system of ";
    until("a failure", || service.stderr().contains(failed));
    until("another failure", || service.stderr().contains("maintenance failed: 2 consecutive"));
    let level = "cache at unknown of 3 KiB (prune: the file system of ";
    assert!(service.stderr().contains(level), "{}", service.stderr());
    assert_eq!(figures(&metrics(port)), [Some("0".to_owned()), None]);
    let reply = service.ask("DELETE /v2/cache", "").is(500);
    assert!(reply.body.contains("The file system of the cache seems not to be mounted."), "{reply:?}");
    service.ask("GET /v2/cache", "").is(500);
    assert_eq!(of_operation(&metrics(port), "consecutive_failures", "list").as_deref(), Some("1"));
    assert!(!service.stderr().contains("recovered"), "{}", service.stderr());
    mount(&here);
    until("the recovery", || service.stderr().contains("glance-cache maintenance recovered: after "));
    // Another file system with images is the cache.
    let before = service.stderr().matches("maintenance failed").count();
    for name in env.names("") {
        let (from, to) = (here.join(&name), other.path().join(&name));
        if from.is_file() {
            std::fs::copy(from, to).unwrap();
        }
    }
    mount(other.path());
    env.image(('f', 2000, 1, 0));
    until("a prune there", || env.images() == "ef");
    assert_eq!(service.stderr().matches("maintenance failed").count(), before, "{}", service.stderr());
}

#[test]
fn a_silent_keystone_holds_no_request_for_longer_than_one_is_judged() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    env.write("policy.yaml", "");
    let conf = format!(
        "[cache_api]\nbind_socket = {}\n[oslo_policy]\npolicy_file = {}\n{}http_connect_timeout = 1\n",
        env.outside("api.sock").display(),
        env.outside("policy.yaml").display(),
        identity.settings(),
    );
    let service = Service::at(&env, &env.conf(&conf), &[]);
    service.ask("GET /v2/cache", "X-Auth-Token: admin\r\n").is(200);
    identity.behave(Mode::Silent);
    // Seven rounds of eight, each of which would take a second.
    let start = Instant::now();
    let waiting: Vec<_> = (0..56)
        .map(|n| {
            let mut stream = service.connect();
            let request = Service::request(PRUNE, &format!("X-Auth-Token: t{n}\r\n"));
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    for stream in waiting {
        let reply = Reply::of(stream).is(503);
        assert_eq!(reply.header("retry-after"), Some("5"));
        assert!(reply.body.contains("The identity service is not available."), "{reply:?}");
    }
    let took = start.elapsed();
    println!("56 new tokens and a silent Keystone: {took:?}");
    // Four waits of a second, and some for a busy machine.
    assert!(took > Duration::from_millis(3500) && took < Duration::from_secs(6), "{took:?}");
    assert!(service.stderr().contains("8 questions about tokens are under way"), "{}", service.stderr());
    assert!(!service.stderr().contains("nothing came for 0 s"), "{}", service.stderr());
    // Nobody is left in the queue.
    identity.behave(Mode::Well);
    sleep(Duration::from_millis(1200));
    let start = Instant::now();
    service.ask("GET /v2/cache", "X-Auth-Token: reader\r\n").is(403);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_glance_that_goes_away_and_comes_back_is_told_once_each() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    let service = Service::start(&env, &format!("glance_api_url = http://127.0.0.1:{port}"));
    let ids = || {
        let list = service.ask("GET /versions", "").is(200).json();
        let versions = list["versions"].as_array().unwrap().iter();
        versions.map(|version| version["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let away = format!("glance_api_url: Glance at http://127.0.0.1:{port}/ does not list its versions: ");
    let back = format!("glance_api_url: Glance at http://127.0.0.1:{port}/ lists its versions again\n");
    let told = |line: &str| service.stderr().matches(line).count();
    assert_eq!((ids().len(), told(&away), told(&back)), (2, 1, 0), "{}", service.stderr());
    sleep(Duration::from_secs(6));
    ids();
    sleep(Duration::from_millis(300));
    assert_eq!((told(&away), told(&back)), (1, 0), "{}", service.stderr());
    let glance = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in glance.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let body = r#"{"versions": [{"id": "v2.16", "status": "CURRENT"}]}"#;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    until("Glance's version", || {
        sleep(Duration::from_millis(200));
        ids().contains(&"v2.16".to_owned())
    });
    assert_eq!((told(&away), told(&back)), (1, 1), "{}", service.stderr());
}

#[test]
fn a_signal_to_read_again_is_always_a_line_in_the_log() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    env.write("policy.yaml", "cache_list: role:reader\n");
    let service = asking(&env, &identity, "");
    service.signal(Signal::HUP);
    until("a line", || service.stderr().contains("SIGHUP: the policy has not changed"));
    env.write("policy.yaml", "cache_list: rule:typo\n");
    until("the error", || service.stderr().contains("the old policy stays in force"));
    service.signal(Signal::HUP);
    until("a line", || service.stderr().contains("SIGHUP: the policy is still wrong, and the old one stays"));
    drop(service);
    let service = Service::start(&env, "");
    service.signal(Signal::HUP);
    until("a line", || service.stderr().contains("SIGHUP: there is no certificate and no policy"));
    // The service goes on.
    sleep(Duration::from_millis(100));
    service.ask("GET /healthcheck", "").is(200);
}

#[test]
fn a_token_that_cannot_be_one_is_told_by_what_is_wrong_with_it() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    env.write("policy.yaml", "");
    let service = asking(&env, &identity, "");
    for (header, says) in [
        (String::new(), "the request has no token"),
        ("X-Auth-Token: \u{e4}\r\n".to_owned(), "the token has characters that no token has"),
        (format!("X-Auth-Token: {}\r\n", "x".repeat(12_000)), "the token is longer than 2048 bytes"),
        ("X-Auth-Token: a\r\nX-Auth-Token: a\r\n".to_owned(), "the request has more than one token"),
        ("X-Auth-Token: a b\r\n".to_owned(), "the token has characters that no token has"),
        ("X-Auth-Token:  \r\n".to_owned(), "the token is empty"),
    ] {
        service.ask("GET /v2/cache", &header).is(401);
        let log = service.stderr();
        let last = log.lines().last().unwrap();
        assert!(last.ends_with(says), "{last}, not {says}");
    }
    let service_token = "X-Auth-Token: admin\r\nX-Service-Token: \u{e4}\r\n";
    service.ask("GET /v2/cache", service_token).is(401);
    assert!(service.stderr().ends_with("the service token has characters that no token has\n"));
}

#[test]
fn a_client_that_does_not_read_gives_up_its_place_whatever_it_asks_for_next() {
    // A list that no socket takes as a whole.
    let env = TestEnv::large(Sqlite, 4000);
    let service = Service::start(&env, "max_connections = 4\nclient_socket_timeout = 60");
    let list = "GET /v2/cache HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut unread: Vec<_> = (0..4).map(|_| service.connect()).collect();
    for stream in &mut unread {
        stream.write_all(list.as_bytes()).unwrap();
        // One byte of the answer has come, so the rest is being written.
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
    }
    sleep(Duration::from_millis(300));
    for stream in &mut unread {
        stream.write_all(list.as_bytes()).unwrap();
    }
    sleep(Duration::from_millis(300));
    for _ in 0..8 {
        service.ask("GET /versions", "").is(200);
    }
}
