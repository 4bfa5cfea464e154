//! Raw sockets: thousands of clients that connect and say little, and a service that is stopped while it
//! prunes. `serve::framing_that_can_be_read_in_two_ways_is_refused` of `tests/cli` has the table of framing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::process::Signal;

use crate::support::env::*;
use crate::support::service::{Reply, Service};

/// So many connections at once.
const CONNECTIONS: usize = 10_000;

/// Starts a service at a free port of the loopback interface, without Keystone.
fn service(env: &TestEnv, lines: &str, settings: &str) -> Service {
    let conf = env.conf(&format!("{lines}\n[cache_api]\nauth_strategy = none\n{settings}\n"));
    Service::at(env, &conf, &["--bind", "127.0.0.1:0"])
}

fn ask(service: &Service, request: &str) -> Reply {
    let mut stream = service.connect_tcp();
    let length = if request.starts_with("POST") { "Content-Length: 0\r\n" } else { "" };
    stream.write_all(Service::request(request, length).as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    Reply::new(&answer)
}

/// Returns resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Opens ten thousand connections, each with a part of a request, while probes are answered.
fn flood(service: &Service, what: &str) -> (u64, Duration) {
    let address = service.address.as_ref().unwrap();
    let mut streams = Vec::with_capacity(CONNECTIONS);
    let (mut most, mut slowest) = (0, Duration::ZERO);
    for n in 0..CONNECTIONS {
        // A port of the clients may be in use for a moment.
        let stream = (0..100).find_map(|_| TcpStream::connect(address).ok()).expect("a connection");
        let mut stream = stream;
        // The service may have closed it already.
        let _ = match n % 4 {
            0 => Ok(()),
            1 => stream.write_all(b"G"),
            2 => stream.write_all(b"POST /v2/cache/prune HTTP/1.1\r\nHost: h\r\nX-Auth-Tok"),
            _ => stream
                .write_all(b"POST /v2/cache/prune HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n{"),
        };
        streams.push(stream);
        if n % 250 == 0 {
            let start = Instant::now();
            assert_eq!(ask(service, "GET /healthcheck").status, 200, "{what}: {n}");
            slowest = slowest.max(start.elapsed());
            most = most.max(resident(service.pid()));
        }
    }
    let start = Instant::now();
    assert_eq!(ask(service, "POST /v2/cache/prune").status, 200);
    slowest = slowest.max(start.elapsed());
    most = most.max(resident(service.pid()));
    let open = fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().count();
    println!(
        "{what}: {CONNECTIONS} half-open connections, {open} descriptors, slowest answer {slowest:?}, {most} KiB"
    );
    drop(streams);
    (most, slowest)
}

#[test]
fn ten_thousand_half_open_connections_keep_nobody_out() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = (CONNECTIONS + 1000) as u64;
    assert!(hard >= wanted, "this test needs {wanted} descriptors (ulimit -n)");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
    let env = TestEnv::sqlite(FIVE);
    let usual = service(&env, "image_cache_max_size = 3000", "");
    let idle = resident(usual.pid());
    let (most, slowest) = flood(&usual, "64 places");
    println!("idle {idle} KiB");
    // A build for tests: benches/run --serve measures the release, which has to be under 16 MiB when idle.
    assert!(idle < 20 << 10 && most < idle + (8 << 10), "{idle}, {most}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    drop(usual);
    // As many places as clients: memory is still bounded.
    let wide = service(&env, "image_cache_max_size = 3000", "max_connections = 12000");
    let (most, slowest) = flood(&wide, "12000 places");
    assert!(most < 256 << 10, "{most}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    until("the connections to be closed", || {
        fs::read_dir(format!("/proc/{}/fd", wide.pid())).unwrap().count() < 100
    });
    assert_eq!(ask(&wide, "GET /healthcheck").status, 200);
}

#[test]
fn sigterm_in_the_middle_of_a_prune_leaves_a_consistent_cache() {
    let mut finished = 0;
    for round in 0..8 {
        let env = TestEnv::large(Sqlite, 10_000);
        let service = service(&env, "image_cache_max_size = 10", "shutdown_timeout = 0s");
        let mut stream = service.connect_tcp();
        stream
            .write_all(Service::request("POST /v2/cache/prune", "Content-Length: 0\r\n").as_bytes())
            .unwrap();
        let count = || names(env.dir()).len();
        let whole = count();
        until("the prune to begin", || count() < whole);
        std::thread::sleep(Duration::from_millis(round * 15));
        service.signal(Signal::TERM);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let reply = Reply::new(&answer);
        assert!([200, 503].contains(&reply.status), "{reply:?}");
        finished += usize::from(reply.status == 200);
        let run = service.wait().ok();
        assert!(run.took < Duration::from_secs(60), "{:?}", run.took);
        let left = images(&env);
        println!("SIGTERM {} ms after the first removal: {}, {left} of 10000 left", round * 15, reply.status);
        assert!(left >= 10);
        // The next one goes on.
        env.run("prune", &["--max-size", "10B"]).ok();
        assert_eq!(images(&env), 10);
    }
    assert!(finished < 8, "no prune was under way when the signal came");
}

/// Returns the number of images. The files and the rows have to be the same.
#[track_caller]
fn images(env: &TestEnv) -> usize {
    let index = env.db();
    let mut rows = index.prepare("SELECT image_id FROM cached_images ORDER BY image_id").unwrap();
    let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let files: Vec<String> = names(env.dir()).into_iter().filter(|name| name.len() == 36).collect();
    assert_eq!(files, rows);
    files.len()
}

/// A cache that cannot be opened, is away, or has its index locked: an error in time, and nothing is removed;
/// when it is back, so is the service.
#[test]
fn a_cache_in_trouble_comes_back() {
    let env = TestEnv::sqlite(FIVE);
    let service = service(&env, "image_cache_max_size = 3000", "lock_timeout = 300ms");
    let calls = ["GET /v2/cache", "POST /v2/cache/prune", "POST /v2/cache/clean", "DELETE /v2/cache"];
    let fails = |what: &str, calls: &[&str], status: u16| {
        for call in calls {
            let start = Instant::now();
            let reply = ask(&service, call);
            assert_eq!(reply.status, status, "{what}: {call}: {reply:?}");
            assert!(start.elapsed() < Duration::from_secs(5), "{what}: {call}: {:?}", start.elapsed());
            assert!(!reply.body.contains(env.dir().to_str().unwrap()), "{what}: {call}: {reply:?}");
            assert_eq!(ask(&service, "GET /healthcheck").status, 200, "{what}");
        }
    };
    let works = || assert_eq!(ask(&service, "GET /v2/cache").status, 200);
    works();
    // Root reads it all the same.
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(env.dir(), fs::Permissions::from_mode(0o000)).unwrap();
        fails("mode 000", &calls, 500);
        fs::set_permissions(env.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        works();
    }
    fs::rename(env.dir(), env.outside("away")).unwrap();
    fails("away", &calls, 500);
    fs::rename(env.outside("away"), env.dir()).unwrap();
    works();
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    fails("index locked", &["GET /v2/cache", "POST /v2/cache/prune", "DELETE /v2/cache"], 503);
    drop(writer);
    assert_eq!(env.left(), "abcde");
    assert_eq!(ask(&service, "POST /v2/cache/prune").status, 200);
    assert_eq!(env.left(), "cde");
}
