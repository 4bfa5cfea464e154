//! The Cache API as a service, through real sockets: heads and bodies, framing, what is hostile, what is
//! broken, locks, signals, and the work by the clock.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::Signal;
use serde_json::json;

use crate::support::central::{Central, NODE, five};
use crate::support::env::*;
use crate::support::identity::{Identity, Mode};
use crate::support::prefetch::Prefetch;
use crate::support::servers::SqliteFile;
use crate::support::service::{Reply, Service};

const PRUNE: &str = "POST /v2/cache/prune";
const LOCK: &str = "glance-cache-prune";

/// Takes the lock of prune as soon as no run has it.
fn lock(env: &TestEnv) -> File {
    let file = File::options().append(true).open(env.path(LOCK)).unwrap();
    until("the lock", || fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
    file
}

/// Limits the cache to 3000 bytes.
fn limited(env: &TestEnv, settings: &str) -> Service {
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{}", Service::settings(env, settings)));
    Service::at(env, &conf, &[])
}

#[test]
fn the_calls_of_the_api_do_what_they_say() {
    for env in TestEnv::both(FIVE) {
        env.file(format!("invalid/{}", id('9')), 7, 100);
        env.file(format!("queue/{}", id('8')), 0, 1);
        let service = limited(&env, "");
        let list = service.ask("GET /v2/cache", "").is(200);
        assert_eq!(list.header("content-type"), Some("application/json"));
        let keys: Vec<String> = list.json().as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["cached_images", "queued_images"]);
        let body = list.json();
        assert_eq!(body["cached_images"].as_array().unwrap().len(), 5);
        assert_eq!(body["queued_images"], json!([id('8')]));
        for image in body["cached_images"].as_array().unwrap() {
            let keys: Vec<&String> = image.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["hits", "image_id", "last_accessed", "last_modified", "size"]);
            assert!(image["hits"].is_i64() && image["last_accessed"].is_number(), "{image}");
        }
        assert!(list.body.starts_with("{\"cached_images\": [{\"image_id\": \""), "{}", list.body);

        let prune = service.ask(PRUNE, "").is(200);
        let start = "{\"total_files_pruned\": 2, \"total_bytes_pruned\": 2000, \"";
        assert!(prune.body.starts_with(start), "{}", prune.body);
        assert_eq!(env.left(), "cde");

        let clean = service.ask("POST /v2/cache/clean", "").is(200);
        assert_eq!((clean.body.as_str(), clean.header("content-length")), ("", Some("0")));
        assert_eq!(env.names("invalid").len(), 0);
        let clean = service.ask("POST /v2/cache/clean", "Accept: application/json\r\n").is(200);
        assert_eq!(clean.json()["total_files_cleaned"], 0);

        service.ask(&format!("DELETE /v2/cache/{}", id('c')), "").is(204);
        assert_eq!(env.left(), "de");
        service.ask(&format!("DELETE /v2/cache/{}", id('8')), "").is(204);
        assert_eq!(env.names("queue").len(), 0);
        service.ask(&format!("DELETE /v2/cache/{}", id('7')), "").is(204);
        env.file(format!("queue/{}", id('8')), 0, 1);
        service.ask("DELETE /v2/cache", "x-image-cache-clear-target: queue\r\n").is(204);
        assert_eq!((env.left().as_str(), env.names("queue").len()), ("de", 0));
        let bogus = service.ask("DELETE /v2/cache", "x-image-cache-clear-target: bogus\r\n").is(400);
        assert!(bogus.body.contains("must be 'cache', 'queue', 'both' or empty string."), "{bogus:?}");
        service.ask("DELETE /v2/cache", "").is(204);
        assert_eq!(env.left(), "");
        service.ask(&format!("PUT /v2/cache/{}", id('1')), "").is(501);
        service.ask(&format!("GET /v2/cache/nodes/{}", id('1')), "").is(409);
    }
}

#[test]
fn the_nodes_that_have_an_image_are_those_of_the_central_database() {
    let c = five(SqliteFile);
    c.db.sql("INSERT INTO node_reference (node_reference_url) VALUES ('http://n0.example:9292')");
    let other = Central { node: "http://n0.example:9292", ..c };
    other.row(&id('a'), 3);
    let conf = other.conf_with(&other.db.url, NODE, "");
    let p = Prefetch::with(other.env, other.db);
    "ab7".chars().for_each(|letter| p.image(letter, 9));
    let settings = p.env.write("api.conf", Service::settings(&p.env, ""));
    let service = Service::at(&p.env, &conf, &["--config-file", &settings]);
    for (letter, nodes) in [('a', &["http://n0.example:9292", NODE][..]), ('b', &[NODE]), ('7', &[])] {
        let found = service.ask(&format!("GET /v2/cache/nodes/{}", id(letter)), "").is(200);
        assert_eq!(found.json(), json!(nodes), "{letter}");
    }
}

#[test]
fn a_list_is_new_after_each_change() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    let count = || service.ask("GET /v2/cache", "").is(200).json()["cached_images"].as_array().unwrap().len();
    assert_eq!(count(), 5);
    // Old enough for an answer to be kept ready.
    sleep(Duration::from_millis(2300));
    assert_eq!((count(), count()), (5, 5));
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(count(), 5);
    }
    println!("50 lists that are ready: {} ms", start.elapsed().as_millis());
    assert!(children(service.pid()).is_empty());
    env.image(('f', 1000, 1, 0));
    assert_eq!(count(), 6);
    env.sql(&format!("UPDATE cached_images SET hits = 7 WHERE image_id = '{}'", id('f')));
    let list = service.ask("GET /v2/cache", "").json();
    let image = list["cached_images"].as_array().unwrap().iter().find(|image| image["image_id"] == id('f'));
    assert_eq!(image.unwrap()["hits"], 7);
    fs::remove_file(env.path(id('a'))).unwrap();
    assert_eq!(count(), 5);
}

#[test]
fn an_idle_prune_is_ready_until_there_is_something_to_do() {
    let env = TestEnv::sqlite(&FIVE[2..]);
    let service = limited(&env, "");
    let pruned = || service.ask(PRUNE, "").is(200).json()["total_files_pruned"].as_u64().unwrap();
    assert_eq!(pruned(), 0);
    sleep(Duration::from_millis(2300));
    assert_eq!((pruned(), pruned(), pruned()), (0, 0, 0));
    env.image(('b', 1000, 90, 0));
    assert_eq!(pruned(), 1);
    assert_eq!(env.left(), "cde");
    // The limit of the configuration counts at once.
    sleep(Duration::from_millis(2300));
    assert_eq!((pruned(), pruned()), (0, 0));
    env.conf(&format!("image_cache_max_size = 1000\n{}", Service::settings(&env, "")));
    assert_eq!(pruned(), 2);
}

#[test]
fn images_are_queued_and_fetched() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    p.image('b', 500);
    p.update('b', "status = 'deactivated'");
    p.update('a', "name = 'jammy', owner = 'p1'");
    let conf = p.conf(&Service::settings(&p.env, ""));
    let service = Service::at(&p.env, &conf, &[]);
    let put = |letter| service.ask(&format!("PUT /v2/cache/{}", id(letter)), "");
    put('a').is(202);
    until("the image to be fetched", || p.env.images() == "a");
    let refused = put('b').is(400);
    assert!(refused.body.contains("Only images with status active can be targeted for queueing"));
    assert!(put('c').is(404).body.contains(&format!("Image {} not found.", id('c'))));
    service.ask(&format!("PUT /v2/cache/{}", id('a').to_uppercase()), "").is(404);
    service.ask("PUT /v2/cache/x", "").is(404);
    let image = service.ask(&format!("GET /v2/images/{}", id('a')), "").is(200);
    assert_eq!(image.json(), json!({"id": id('a'), "name": "jammy", "status": "active"}));
    service.ask(&format!("GET /v2/images/{}", id('c')), "").is(404);
    // An image that nobody knows, and an orphan of one that Glance has forgotten.
    service.ask(&format!("DELETE /v2/cache/{}", id('c')), "").is(404);
    p.env.orphan('e', 5, 1);
    service.ask(&format!("DELETE /v2/cache/{}", id('e')), "").is(204);
    assert_eq!(p.env.images(), "a");
}

#[test]
fn what_is_in_the_queue_is_fetched_when_the_service_starts() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    let conf = p.conf(&Service::settings(&p.env, ""));
    let stored = fs::read(p.stored('a')).unwrap();
    fs::write(p.stored('a'), "other").unwrap();
    let service = Service::at(&p.env, &conf, &[]);
    service.ask(&format!("PUT /v2/cache/{}", id('a')), "").is(202);
    until("a failure", || service.stderr().contains("maintenance failed: 1 consecutive"));
    assert_eq!(p.queued(), "a");
    drop(service);
    fs::write(p.stored('a'), stored).unwrap();
    let service = Service::at(&p.env, &conf, &[]);
    until("the image to be fetched", || p.env.images() == "a" && p.queued().is_empty());
    // An empty queue is no pass.
    drop(service);
    let service = Service::at(&p.env, &conf, &[]);
    sleep(Duration::from_millis(300));
    assert!(children(service.pid()).is_empty());
}

#[test]
fn a_locked_database_is_not_a_locked_cache() {
    let p = Prefetch::new(Sqlite);
    p.image('a', 1000);
    let service = Service::at(&p.env, &p.conf(&Service::settings(&p.env, "lock_timeout = 1s")), &[]);
    let writer = rusqlite::Connection::open(p.env.outside("glance.sqlite")).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let request = format!("GET /v2/images/{}", id('a'));
    let reply = service.ask(&request, "").is(503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert!(reply.body.contains("Glance's database is locked by another process."), "{reply:?}");
    // Two ask, and the others wait for their turn.
    let waiting: Vec<_> = (0..4).map(|_| service.begin(&request)).collect();
    let replies: Vec<Reply> = waiting.into_iter().map(|stream| Reply::of(stream).is(503)).collect();
    assert!(replies.iter().all(|reply| !reply.body.contains("cache")), "{replies:?}");
    let says = "Other requests for Glance's database have not ended.";
    assert!(replies.iter().any(|reply| reply.body.contains(says)), "{replies:?}");
    drop(writer);
    service.ask(&request, "").is(200);
}

#[test]
fn discovery_and_errors_are_glances() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    let list = "{\"versions\": [{\"id\": \"v2.18\", \"status\": \"CURRENT\", \"links\": [{\"rel\": \"self\", \
                \"href\": \"http://localhost/v2/\"}]}, {\"id\": \"v2.14\", \"status\": \"SUPPORTED\", \"links\": \
                [{\"rel\": \"self\", \"href\": \"http://localhost/v2/\"}]}]}";
    assert_eq!(service.ask("GET /versions", "").is(200).body, list);
    for path in ["/", "/v1/images", "/V2/cache", "/v2.19/cache"] {
        assert_eq!(service.ask(&format!("GET {path}"), "").is(300).body, list, "{path}");
    }
    assert_eq!(service.ask("GET /v2", "").is(302).header("location"), Some("/v2/"));
    service.ask("GET /v2/", "").is(404);
    service.ask("OPTIONS /any/thing", "").is(200);
    let schema = service.ask("GET /v2/schemas/metadefs/resource_type", "").is(200);
    assert_eq!(schema.json()["name"], "resource_type_association");
    for (request, allow) in [
        ("GET /v2/cache/prune", "POST"),
        ("HEAD /v2/cache", "GET, DELETE"),
        ("POST /v2/cache", "GET, DELETE"),
        ("GET /v2/cache/x", "DELETE, PUT"),
    ] {
        assert_eq!(service.ask(request, "").is(405).header("allow"), Some(allow), "{request}");
    }
    let text = "405 Method Not Allowed\n\nThe method PUT is not allowed for this resource. \n\n ";
    assert_eq!(service.ask("PUT /v2/cache/prune", "").is(405).body, text);
    let id = service.ask("GET /v2/cache", "X-Openstack-Request-Id: abc\r\n").is(200);
    assert_eq!(id.header("x-openstack-request-id"), Some("req-abc"));
    for (body, status) in [("{}", 200), ("[]", 400), ("null", 400), ("{", 400), (" ", 400)] {
        let request = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let bytes = Service::request(PRUNE, &request);
        let reply = Reply::new(&service.raw(bytes.strip_suffix("\r\n").unwrap()));
        assert_eq!(reply.status, status, "{body:?}: {reply:?}");
    }
    service.ask("POST /v2/cache/prune?dry_run=1", "").is(400);
    assert_eq!(env.left(), "abcde");
}

#[test]
fn a_probe_never_depends_on_anything() {
    let env = TestEnv::sqlite(FIVE);
    let off = env.outside("off");
    let service = Service::start(&env, &format!("disable_by_file_path = {}", off.display()));
    for request in ["GET /healthcheck", "POST /healthcheck"] {
        assert_eq!(service.ask(request, "").is(200).body, "OK");
    }
    service.ask("HEAD /healthcheck", "").is(204);
    fs::write(&off, "").unwrap();
    assert_eq!(service.ask("GET /healthcheck", "").is(503).body, "DISABLED BY FILE");
    fs::remove_file(&off).unwrap();
    fs::rename(env.dir(), env.outside("away")).unwrap();
    service.ask("GET /healthcheck", "").is(200);
}

#[test]
fn framing_that_can_be_read_in_two_ways_is_refused() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    let post = "POST /v2/cache/prune HTTP/1.1\r\nHost: h\r\n";
    for (bytes, status) in [
        (format!("{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"), 400),
        (format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"), 400),
        (format!("{post}Content-Length: -2\r\n\r\n"), 400),
        (format!("{post}Content-Length: 70000\r\n\r\n"), 413),
        (format!("{post}X: a\r\n b\r\n\r\n"), 400),
        (format!("{post}X: a\rb\r\n\r\n"), 400),
        (format!("{post}X : a\r\n\r\n"), 400),
        (format!("{post}Host: other\r\n\r\n"), 400),
        (format!("{post}X: {}\r\n\r\n", "a".repeat(20_000)), 431),
        (format!("{post}{}\r\n", "X: a\r\n".repeat(200)), 431),
        (format!("{post}{}\r\n", format!("X: {}\r\n", "a".repeat(9000)).repeat(8)), 431),
        ("POST /v2/cache/prune HTTP/1.1\nHost: h\n\n".to_owned(), 400),
        ("POST /v2/cache/prune HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET /v2//cache HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("GET /v2/c%61che HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(), 400),
        ("GET /v2/cache HTTP/1.0\r\n\r\n".to_owned(), 200),
    ] {
        let reply = Reply::new(&service.raw(&bytes));
        assert_eq!(reply.status, status, "{:?}: {reply:?}", &bytes[..bytes.len().min(200)]);
        assert!(reply.status == 200 || reply.body.len() > 20, "a message: {reply:?}");
    }
    // Two requests in one packet, of which the second is refused.
    let good = "GET /healthcheck HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = service.raw(format!("{good}{good}{good}GET / HTTP/1.1\nHost: h\n\n{good}"));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 400 Bad Request").count(), 1, "{answer}");
    // TLS, or any other noise.
    assert_eq!(Reply::new(&service.raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")).status, 400);
    service.ask("GET /healthcheck", "").is(200);
}

#[test]
fn silent_clients_keep_nobody_out() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "max_connections = 8\nclient_socket_timeout = 2");
    let mut silent: Vec<_> = (0..200).map(|_| service.connect()).collect();
    for stream in &mut silent[100..] {
        let _ = stream.write_all(b"GET / HTT");
    }
    let start = Instant::now();
    service.ask("GET /healthcheck", "").is(200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // Bodies that do not come.
    let half = Service::request(PRUNE, "Content-Length: 9\r\n") + "{";
    let bodies: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = service.connect();
            stream.write_all(half.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..10 {
        service.ask("GET /healthcheck", "").is(200);
        service.ask(PRUNE, "").is(200);
    }
    drop(bodies);
    service.ask(PRUNE, "Content-Length: 2\r\n").is(400);
    // Answers that nobody reads.
    let versions = "GET /versions HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4000);
    let unread: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = service.connect();
            stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = stream.write_all(versions.as_bytes());
            stream
        })
        .collect();
    for _ in 0..10 {
        service.ask("GET /healthcheck", "").is(200);
        service.ask(PRUNE, "").is(200);
    }
    drop(unread);
    // A connection is closed by itself when nothing comes.
    let mut idle = service.connect();
    let start = Instant::now();
    assert_eq!(idle.read(&mut [0; 10]).unwrap(), 0);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn broken_caches_are_errors_without_paths() {
    let secret = |reply: &Reply, env: &TestEnv| {
        let path = env.dir().parent().unwrap().to_str().unwrap().to_owned();
        assert!(!reply.body.contains(&path), "{reply:?}");
    };
    let env = TestEnv::sqlite(FIVE);
    let service = limited(&env, "lock_timeout = 300ms");
    // The index is locked.
    let writer = env.db();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for request in ["GET /v2/cache", PRUNE] {
        let reply = service.ask(request, "").is(503);
        assert_eq!(reply.header("retry-after"), Some("5"));
        assert!(reply.body.contains("The index of the cache is locked by another process."), "{reply:?}");
        secret(&reply, &env);
    }
    drop(writer);
    // The index is garbage.
    fs::write(env.path("cache.db"), vec![7; 8192]).unwrap();
    for request in ["GET /v2/cache", PRUNE] {
        let reply = service.ask(request, "Accept: application/json\r\n").is(500);
        secret(&reply, &env);
    }
    assert_eq!(env.images(), "abcde");
    // The directory is away.
    fs::rename(env.dir(), env.outside("away")).unwrap();
    for request in ["GET /v2/cache", PRUNE, "POST /v2/cache/clean", "DELETE /v2/cache"] {
        secret(&service.ask(request, "").is(500), &env);
    }
    assert!(service.stderr().contains("POST /v2/cache/prune 503"), "{}", service.stderr());
}

#[test]
fn a_cache_that_stays_over_its_limit_is_no_success() {
    let env = TestEnv::sqlite(FIVE);
    let keep = env.write("keep", ('a'..='e').map(|letter| id(letter) + "\n").collect::<String>());
    let settings = Service::settings(&env, "");
    let conf = format!("image_cache_max_size = 3000\n[glance_cache]\nkeep_from = {keep}\n{settings}");
    let service = Service::at(&env, &env.conf(&conf), &[]);
    let reply = service.ask(PRUNE, "").is(500);
    assert!(reply.body.contains("The cache is still over its limit: 5000 of 3000 bytes."), "{reply:?}");
    let reply = service.ask(PRUNE, "Accept: application/json\r\n").is(500);
    assert_eq!(reply.json()["errors"][0]["action"], "limit");
    assert_eq!(env.left(), "abcde");
}

#[test]
fn one_operation_runs_and_eight_wait() {
    let env = TestEnv::sqlite(FIVE);
    let service = limited(&env, "lock_timeout = 60");
    let held = env.lock(LOCK);
    let first = service.begin(PRUNE);
    until("the first child", || children(service.pid()).len() == 1);
    let wait = |_| {
        let stream = service.begin(PRUNE);
        // Requests are begun in the order in which they come.
        service.ask("GET /healthcheck", "").is(200);
        stream
    };
    let waiting: Vec<_> = (0..8).map(wait).collect();
    let start = Instant::now();
    assert_eq!(service.ask(PRUNE, "").is(503).header("retry-after"), Some("5"));
    assert_eq!(children(service.pid()).len(), 1);
    // Others are not in the way.
    service.ask("GET /healthcheck", "").is(200);
    service.ask("POST /v2/cache/clean", "").is(200);
    service.ask("GET /v2/cache", "").is(200);
    println!("while a lock is held: {} ms", start.elapsed().as_millis());
    // A client that leaves ends nothing.
    drop(first);
    drop(held);
    for stream in waiting {
        Reply::of(stream).is(200);
    }
    assert_eq!(env.left(), "cde");
}

#[test]
fn probes_have_a_place_when_all_are_taken() {
    let env = TestEnv::sqlite(FIVE);
    let service = limited(&env, "lock_timeout = 60\nmax_connections = 4");
    let held = env.lock(LOCK);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let stream = service.begin(PRUNE);
            // Until it is read, it is one of those who are silent.
            sleep(Duration::from_millis(100));
            stream
        })
        .collect();
    for _ in 0..20 {
        service.ask("GET /healthcheck", "").is(200);
        let reply = service.ask("GET /v2/cache", "").is(503);
        assert_eq!(reply.header("retry-after"), Some("5"));
    }
    // Nor do those who are silent take the last places.
    let silent: Vec<_> = (0..50).map(|_| service.connect()).collect();
    service.ask("GET /healthcheck", "").is(200);
    drop((silent, held));
    for stream in waiting {
        Reply::of(stream).is(200);
    }
    service.ask("GET /v2/cache", "").is(200);
}

#[test]
fn a_held_lock_and_a_long_operation_have_their_status() {
    let env = TestEnv::sqlite(FIVE);
    let held = env.lock(LOCK);
    let service = limited(&env, "lock_timeout = 300ms");
    let reply = service.ask(PRUNE, "").is(503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert!(reply.body.contains("The cache is locked by another operation."), "{reply:?}");
    let who = format!("{LOCK} was still held by process {}", std::process::id());
    assert!(service.stderr().contains(&who), "{}", service.stderr());
    drop(service);
    let service = limited(&env, "lock_timeout = 60\noperation_timeout = 1s");
    let start = Instant::now();
    service.ask(PRUNE, "").is(504);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(held);
    service.ask(PRUNE, "").is(200);
    assert_eq!(env.left(), "cde");
}

#[test]
fn sigterm_lets_an_operation_finish() {
    let env = TestEnv::sqlite(FIVE);
    let service = limited(&env, "lock_timeout = 60");
    let held = env.lock(LOCK);
    let pruning = service.begin(PRUNE);
    until("the child", || children(service.pid()).len() == 1);
    let idle = service.connect();
    service.signal(Signal::TERM);
    until("the listener to end", || std::os::unix::net::UnixStream::connect(&service.socket).is_err());
    assert!(!service.stderr().contains("has ended"));
    drop(held);
    Reply::of(pruning).is(200);
    drop(idle);
    let run = service.wait().ok();
    assert!(run.stderr.contains("has ended"), "{run:?}");
    assert_eq!(env.left(), "cde");
    assert!(!env.outside("api.sock").exists());
}

#[test]
fn sigterm_ends_an_operation_that_takes_too_long() {
    let env = TestEnv::sqlite(FIVE);
    let service = limited(&env, "lock_timeout = 60\nshutdown_timeout = 300ms");
    let _held = env.lock(LOCK);
    let pruning = service.begin(PRUNE);
    until("the child", || children(service.pid()).len() == 1);
    let child = children(service.pid())[0];
    service.signal(Signal::TERM);
    Reply::of(pruning).is(503);
    let run = service.wait().ok();
    assert!(run.took < Duration::from_secs(20), "{:?}", run.took);
    assert!(!fs::exists(format!("/proc/{child}")).unwrap());
    assert_eq!(env.left(), "abcde");
}

#[test]
fn work_by_the_clock_needs_no_listener() {
    let env = TestEnv::sqlite(FIVE);
    env.file(format!("invalid/{}", id('9')), 7, 100);
    let metrics = "127.0.0.1:0";
    let conf = env.conf(&format!(
        "image_cache_max_size = 3000\n[cache_api]\nprune_interval = 1s\nclean_interval = 1s\n\
         metrics_bind = {metrics}\nauth_strategy = none\nlock_timeout = 100ms\n"
    ));
    let service = Service::at(&env, &conf, &["--bind", "none"]);
    until("a prune and a clean", || env.images() == "cde" && env.names("invalid").is_empty());
    let held = lock(&env);
    let failed = "glance-cache maintenance failed: 2 consecutive, cache at 3 of 3 KiB (prune: ";
    until("failures", || service.stderr().contains(failed));
    drop(held);
    until("a success", || service.stderr().contains("glance-cache maintenance recovered: after "));
    service.signal(Signal::TERM);
    service.wait().ok();
}

#[test]
fn a_cache_over_its_limit_is_pruned_whatever_the_clock_says() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf(
        "image_cache_max_size = 3000\n[cache_api]\nprune_interval = 30d\npoll_interval = 1s\n\
         auth_strategy = none\n",
    );
    let _service = Service::at(&env, &conf, &["--bind", "none"]);
    until("a prune", || env.images() == "cde");
    env.orphan('b', 1000, 90);
    until("another prune", || env.images() == "cde");
}

#[test]
fn wrong_settings_stop_the_start() {
    let env = TestEnv::sqlite(FIVE);
    let serve = |settings: &str, arguments: &[&str]| {
        let conf = env.conf(&format!("[cache_api]\n{settings}\n"));
        env.raw(&[&["serve", "--allow-root", "--config-file", &conf], arguments].concat())
    };
    let none = "auth_strategy = none";
    serve(none, &["--bind", "0.0.0.0:0"]).fails(2, &["only for a Unix socket or the loopback interface"]);
    for places in [["none", "127.0.0.1:0"], ["127.0.0.1:0", "none"]] {
        let says = "--bind none listens nowhere, and --bind 127.0.0.1:0 listens there: give one of them";
        // Without --check, a service that starts would not end.
        serve(none, &["--check", "--bind", places[0], "--bind", places[1]]).fails(2, &[says]);
    }
    serve(none, &["--bind", "none"]).fails(2, &["there is nothing to do"]);
    serve(&format!("{none}\nbind_port = 0"), &[]).fails(2, &["there is nothing to do"]);
    serve(&format!("{none}\nbind_port = 99999"), &[])
        .fails(2, &["a port is at most 65535", "glance-api.conf:"]);
    serve(&format!("{none}\nbind_host = name"), &[]).fails(2, &["which is no IP address"]);
    serve(&format!("{none}\nprune_interval = soon"), &[]).fails(2, &["prune_interval", "not a duration"]);
    serve(&format!("{none}\noperation_timeout = 0"), &[]).fails(2, &["must be at least 1 s"]);
    serve(&format!("{none}\ncert_file = /x"), &[]).fails(2, &["key_file is not"]);
    serve(&format!("{none}\ncert_file = /x\nkey_file = /x"), &[]).fails(2, &["cannot read certificates"]);
    serve("auth_strategy = any", &[]).fails(2, &["must be one of keystone, none"]);
    serve(none, &["--bind", "localhost:1"]).fails(2, &["give IP-ADDRESS:PORT"]);
    let file = env.write("file", "");
    serve(none, &["--bind", &format!("unix:{file}")]).fails(3, &["no socket: it is not replaced"]);
    let checked = serve(&format!("{none}\nprune_intervall = 1"), &["--check"]).ok();
    assert!(checked.stdout.contains("in order") && checked.stderr.contains("did you mean prune_interval"));
    let run =
        env.raw(&["serve", "--allow-root", "--bind", "none", "--config-file", &env.write("x.conf", "")]);
    run.fails(2, &["image_cache_dir is not set"]);
    if rustix::process::geteuid().is_root() {
        env.raw(&["serve", "--config-file", &env.conf("")])
            .fails(2, &["does not run as root", "--allow-root"]);
    }
}

#[test]
fn a_socket_is_for_its_group_and_replaced_only_if_nobody_listens() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "");
    let mode = fs::metadata(&service.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let conf = env.conf(&Service::settings(&env, ""));
    let second = env.raw(&["serve", "--allow-root", "--config-file", &conf]);
    second.fails(3, &["another service listens at unix:"]);
    service.ask("GET /healthcheck", "").is(200);
    service.signal(Signal::KILL);
    assert!(service.socket.exists());
    drop(service);
    Service::start(&env, "").ask("GET /healthcheck", "").is(200);
}

#[test]
fn each_call_is_a_line_in_the_log() {
    let env = TestEnv::sqlite(FIVE);
    let log = env.outside("api.log");
    let conf = env.conf(&format!("image_cache_max_size = 3000\n{}", Service::settings(&env, "")));
    let socket = env.outside("api.sock");
    let mut command = env.command(BINARY);
    command.args(["serve", "--allow-root", "--config-file", &conf, "--log-file"]).arg(&log);
    let running = Running::start(&mut command, &env.outside(""));
    until("the socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let token = "X-Auth-Token: gAAAAsecret\r\nX-Openstack-Request-Id: r1\r\n";
    stream.write_all(Service::request(PRUNE, token).as_bytes()).unwrap();
    Reply::of(stream).is(200);
    running.signal(Signal::TERM);
    let run = running.wait().ok();
    assert_eq!(run.stderr, "", "what is in the log is not printed");
    let text = fs::read_to_string(log).unwrap();
    let line = text.lines().find(|line| line.contains("POST")).unwrap();
    assert!(line.contains("POST /v2/cache/prune 200 ") && line.contains(" req-r1 user uid:"), "{line}");
    assert!(line.ends_with(" removed 2 files, 2000 bytes"), "{line}");
    assert!(!text.contains("gAAAA"), "{text}");
}

/// Starts a service that asks this identity service.
fn asking(env: &TestEnv, identity: &Identity, settings: &str) -> Service {
    let socket = env.outside("api.sock");
    let conf = env.conf(&format!(
        "image_cache_max_size = 3000\n[cache_api]\nbind_socket = {}\nlock_timeout = 60\n[oslo_policy]\n\
         policy_file = {}\n{settings}\n{}",
        socket.display(),
        env.outside("policy.yaml").display(),
        identity.settings(),
    ));
    Service::at(env, &conf, &[])
}

/// Returns the header with a token.
fn token(token: &str) -> String {
    format!("X-Auth-Token: {token}\r\n")
}

#[test]
fn who_may_do_nothing_learns_nothing_and_waits_for_nobody() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    let service = asking(&env, &identity, "");
    let unknown = format!("DELETE /v2/cache/{}", id('7'));
    for request in ["GET /v2/cache", "DELETE /v2/cache", PRUNE, "POST /v2/cache/clean", &*unknown, "GET /v2/"]
    {
        let reply = service.ask(request, "").is(401);
        let challenge = "Keystone uri=\"http://keystone.example:5000\"";
        assert_eq!(reply.header("www-authenticate"), Some(challenge));
        assert_eq!(reply.header("x-openstack-request-id"), None);
        service.ask(request, &token("wrong")).is(401);
        service.ask(request, "X-Auth-Token: admin\r\nX-Auth-Token: admin\r\n").is(401);
        service.ask(request, "Authorization: Bearer admin\r\n").is(401);
        service.ask(request, "X-Roles: admin\r\nX-Identity-Status: Confirmed\r\n").is(401);
    }
    let held = env.lock(LOCK);
    for name in ["member", "reader", "system"] {
        for (request, rule) in [
            ("GET /v2/cache", "cache_list"),
            ("DELETE /v2/cache", "cache_delete"),
            (PRUNE, "cache_prune"),
            ("POST /v2/cache/clean", "cache_clean"),
            (&*unknown, "cache_delete"),
            ("PUT /v2/cache/x", "cache_image"),
        ] {
            let start = Instant::now();
            let headers = token(name) + "x-image-cache-clear-target: bogus\r\nAccept: application/json\r\n";
            let reply = service.ask(request, &headers).is(403);
            let says = format!("You are not authorized to complete {rule} action.");
            assert!(reply.body.contains(&says), "{reply:?}");
            assert!(start.elapsed() < Duration::from_millis(500), "{request}: {:?}", start.elapsed());
        }
    }
    drop(held);
    assert_eq!(env.left(), "abcde");
    service.ask(PRUNE, &token("admin")).is(200);
    assert_eq!(env.left(), "cde");
    assert!(service.stderr().contains("200 ") && service.stderr().contains(" user u-admin project p-admin"));
    // Answers about tokens are kept.
    let before = identity.validated();
    for _ in 0..20 {
        service.ask("GET /v2/cache", &token("admin")).is(200);
        service.ask("GET /v2/cache", &token("member")).is(403);
        service.ask("GET /v2/cache", &token("wrong")).is(401);
    }
    assert!(identity.validated() <= before + 1, "{} {before}", identity.validated());
}

#[test]
fn a_keystone_in_trouble_is_no_answer_about_the_caller() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    identity.behave(Mode::Refusing);
    let service = asking(&env, &identity, "");
    let reply = service.ask(PRUNE, &token("admin")).is(503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert!(
        reply.body.contains("The identity service is not available.") && !reply.body.contains("127.0.0.1")
    );
    assert!(service.stderr().contains("our service user"), "{}", service.stderr());
    identity.behave(Mode::Well);
    // A login that was refused is left alone for five seconds.
    sleep(Duration::from_secs(5));
    service.ask("GET /v2/cache", &token("admin")).is(200);
    // Silence: known tokens and probes do not wait.
    identity.behave(Mode::Silent);
    let waiting: Vec<_> = (0..60)
        .map(|n| {
            let mut stream = service.connect();
            stream.write_all(Service::request(PRUNE, &token(&format!("t{n}"))).as_bytes()).unwrap();
            stream
        })
        .collect();
    // All of them have been read.
    sleep(Duration::from_millis(300));
    let start = Instant::now();
    service.ask("GET /healthcheck", "").is(200);
    service.ask("GET /v2/cache", &token("admin")).is(200);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(env.left(), "abcde");
    service.ask(PRUNE, &token("admin")).is(200);
    assert_eq!(env.left(), "cde");
    drop(waiting);
}

#[test]
fn a_policy_is_read_again_and_a_wrong_one_never_counts() {
    let env = TestEnv::sqlite(FIVE);
    let identity = Identity::start();
    env.write("policy.yaml", "cache_list: role:reader or role:admin\n");
    let service = asking(&env, &identity, "");
    let list = |name| service.ask("GET /v2/cache", &token(name)).status;
    assert_eq!((list("reader"), list("member"), list("admin")), (200, 403, 200));
    env.write("policy.yaml", "cache_list: role:member\n");
    until("the new policy", || list("reader") == 403 && list("member") == 200);
    env.write("policy.yaml", "cache_list: rule:typo\n");
    until("the error", || {
        list("member");
        service.stderr().contains("the old policy stays in force")
    });
    assert_eq!((list("reader"), list("member")), (403, 200));
    drop(service);
    let conf = env.outside("glance-api.conf");
    let run = env.raw(&["serve", "--allow-root", "--check", "--config-file", conf.to_str().unwrap()]);
    run.fails(2, &["there is no rule typo"]);
}
