//! The same requests to a real Glance 33 and to the service, on one cache, one database and one Keystone: the
//! same status, the same headers that matter, the same body. Differences are those of a table, each with its
//! reason; any other one fails, and so does one that is in the table and does not show.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;

use super::Beside;
use crate::support::env::*;
use crate::support::http::{self, Answer};
use crate::support::openstack::{GlanceApi, Keystone};

/// An id that no image has.
const UNKNOWN: &str = "11111111-1111-4111-8111-111111111111";

/// The headers that matter, beside the body.
const HEADERS: [&str; 7] = [
    "allow",
    "content-type",
    "location",
    "retry-after",
    "vary",
    "www-authenticate",
    "x-openstack-request-id",
];

/// A difference that is intended: a request by somebody (`*` is everybody), the status of Glance, the status
/// of the service, and why. With the same status twice, the bodies or the headers differ.
type Difference = (&'static [&'static str], &'static str, u16, u16, &'static str);

/// Those who may do nothing, but have a token.
const REFUSED: &str = "admin of the domain, admin of the system, admin without a scope, forged headers of a \
                       member, manager, member, reader, service role";
const PATH_FIRST: &str = "the path and the method are judged before the token";
const TWO_WAYS: &str = "a front end may understand such a path in another way";
const POLICY_FIRST: &str = "the policy comes before everything that tells about images or bodies";
const BODY: &str = "the specification of the calls sends {}, Glance fails on it";
const MORE_KEYS: &str = "the other keys of prune follow Glance's two";

const INTENDED: &[Difference] = &[
    (
        &[
            "HEAD /v2/",
            "GET /v2/cache/",
            "PUT /v2/cache",
            "POST /v2/cache",
            "DELETE /v2/cache/",
            "PATCH /v2/cache",
        ],
        "nobody",
        401,
        405,
        PATH_FIRST,
    ),
    (
        &[
            "GET /v2/cache/",
            "POST /v2/cache/prune/",
            "GET /v2/cached_images",
            "GET /v2/queued_images",
            "GET /v2/nothing",
        ],
        "nobody",
        401,
        404,
        PATH_FIRST,
    ),
    (&["HEAD /v2/"], "*", 404, 405, "there is only GET"),
    (&["GET //v2/cache", "GET /v2//cache", "GET /v2/c%61che"], "admin", 200, 400, TWO_WAYS),
    (&["GET //v2/cache", "GET /v2//cache", "GET /v2/c%61che"], "member", 403, 400, TWO_WAYS),
    (&["GET //v2/cache", "GET /v2//cache", "GET /v2/c%61che"], "nobody", 401, 400, TWO_WAYS),
    (&["DELETE /v2/cache/..%2fx"], "*", 404, 400, TWO_WAYS),
    (&["DELETE /v2/cache/..%2fx"], "nobody", 401, 400, TWO_WAYS),
    (&["DELETE /v2/cache/x'<&\">"], "*", 404, 400, "the target is no URL"),
    (&["DELETE /v2/cache/x'<&\">"], "nobody", 401, 400, "the target is no URL"),
    (&["POST /v2/cache/prune?dry_run=1"], "admin", 200, 400, "it would not be dry"),
    (&["POST /v2/cache/prune?dry_run=1"], "member", 403, 400, "it would not be dry"),
    (&["POST /v2/cache/prune?dry_run=1"], "nobody", 401, 400, "it would not be dry"),
    (&["POST /v2/cache/prune [Transfer-Encoding"], "nobody", 401, 400, "framing is judged first"),
    (&["POST /v2/cache/prune [Transfer-Encoding"], "*", 400, 400, "chunked bodies are refused as such"),
    (&["PUT /v2/cache/", "DELETE /v2/cache/"], REFUSED, 404, 403, POLICY_FIRST),
    (&["GET /v2/cache [C", "POST /v2/cache/", "PUT /v2/cache/UNKNOWN ["], "member", 400, 403, POLICY_FIRST),
    (&["POST /v2/cache/", "PUT /v2/cache/UNKNOWN ["], "member", 500, 403, POLICY_FIRST),
    (&["POST /v2/cache/"], "admin", 500, 200, BODY),
    (&["PUT /v2/cache/UNKNOWN ["], "admin", 500, 404, BODY),
    (
        &["POST /v2/cache/", "PUT /v2/cache/UNKNOWN ["],
        "admin",
        500,
        400,
        "a body that would be ignored is refused",
    ),
    (&["GET /v2/cache [X-Openstack-Request-Id: xx..."], "admin", 500, 200, "a long id is replaced"),
    (&["GET /v2/cache [X-Openstack-Request-Id: xx..."], "member", 500, 403, "a long id is replaced"),
    (&["GET /v2/cache [X-Openstack-Request-Id: a b"], "*", 200, 200, "ids are words, for the sake of logs"),
    (&["GET /v2/cache [X-Openstack-Request-Id: a b"], "*", 403, 403, "ids are words, for the sake of logs"),
    (&["GET /v2/cache [X-Openstack-Request-Id: 1;2"], "*", 200, 200, "ids are words, for the sake of logs"),
    (&["GET /v2/cache [X-Openstack-Request-Id: 1;2"], "*", 403, 403, "ids are words, for the sake of logs"),
    (&["GET /v2/cached_images", "GET /v2/queued_images"], "admin", 200, 404, "deprecated, and not served"),
    (&["GET /v2/cached_images", "GET /v2/queued_images"], "member", 403, 404, "deprecated, and not served"),
    (&["GET /v2"], "admin, member", 302, 302, "relative, which is right behind any front end"),
    (&["POST /v2/cache/prune"], "*", 200, 200, MORE_KEYS),
    (
        &["POST /v2/cache/clean [Accept: application/json"],
        "*",
        200,
        200,
        "the summary, for who asks for JSON",
    ),
    (
        &["DELETE /v2/cache [x-image-cache-clear-target: both"],
        "*",
        400,
        204,
        "Glance's documents have this word, its code has not",
    ),
    (
        &[
            "DELETE /v2/cache [x-image-cache-clear-target: bogus",
            "DELETE /v2/cache [x-image-cache-clear-target: cache,",
            "DELETE /v2/cache [x-image-cache-clear-target: cache;",
        ],
        "*",
        400,
        400,
        "the message names the target both, too",
    ),
    (
        &["DELETE /v2/cache [x-image-cache-clear-target:  queue"],
        "*",
        400,
        204,
        "blanks around a value are no part of it",
    ),
];

/// A request.
struct Probe {
    /// The request in words, as the table of differences has it.
    name: String,
    who: &'static str,
    bytes: String,
}

/// The callers, each with the lines of its headers.
struct Callers(BTreeMap<&'static str, String>);

impl Callers {
    fn new(keystone: &Keystone) -> Self {
        let domain = json!({"domain": {"id": "default"}});
        let admin = keystone.administer("GET", "/users?name=admin", None)["users"][0]["id"].take();
        let roles = keystone.administer("GET", "/roles", None);
        let role = |name: &str| {
            let roles = roles["roles"].as_array().unwrap();
            let role = roles.iter().find(|role| role["name"] == name).unwrap();
            role["id"].as_str().unwrap().to_owned()
        };
        let admin = admin.as_str().unwrap();
        keystone.administer("PUT", &format!("/domains/default/users/{admin}/roles/{}", role("admin")), None);
        let demo = keystone.administer("GET", "/projects?name=demo", None)["projects"][0]["id"].take();
        let demo = demo.as_str().unwrap();
        keystone.administer("PUT", &format!("/projects/{demo}/users/{admin}/roles/{}", role("admin")), None);
        let user = json!({"user": {"name": "servant", "password": "servantpw", "domain_id": "default"}});
        let servant = keystone.administer("POST", "/users", Some(&user))["user"]["id"].take();
        let servant = format!("/projects/{demo}/users/{}/roles", servant.as_str().unwrap());
        keystone.administer("PUT", &format!("{servant}/{}", role("service")), None);
        let revoked = keystone.token("admin", "admin");
        let own = keystone.token("admin", "admin");
        let headers = [("X-Auth-Token", own.as_str()), ("X-Subject-Token", revoked.as_str())];
        assert_eq!(http::send(&keystone.address(), "DELETE /v3/auth/tokens", &headers, None).status, 204);
        let token = |token: String| format!("X-Auth-Token: {token}\r\n");
        let admin = keystone.token("admin", "admin");
        Callers(BTreeMap::from([
            ("admin", token(admin.clone())),
            ("admin of another project", token(keystone.token("admin", "demo"))),
            ("admin of the domain", token(keystone.authenticate("admin", domain))),
            ("admin of the system", token(keystone.authenticate("admin", json!({"system": {"all": true}})))),
            ("admin without a scope", token(keystone.authenticate("admin", json!("unscoped")))),
            ("bad token", token("gAAAAAnonsense".to_owned())),
            ("bearer", format!("Authorization: Bearer {admin}\r\n")),
            ("blanks", format!("X-Auth-Token:   {admin}  \r\n")),
            ("empty token", token(String::new())),
            ("forged headers", "X-Roles: admin\r\nX-Identity-Status: Confirmed\r\n".to_owned()),
            (
                "forged headers of a member",
                token(keystone.token("demo", "demo")) + "X-Roles: admin\r\nX-User-Id: a\r\nX-Is-Admin: 1\r\n",
            ),
            ("manager", token(keystone.token("manager", "demo"))),
            ("member", token(keystone.token("demo", "demo"))),
            ("nobody", String::new()),
            ("reader", token(keystone.token("reader", "demo"))),
            ("revoked token", token(revoked)),
            ("service role", token(keystone.token("servant", "demo"))),
            ("service user", token(keystone.token("glance", "service"))),
            ("storage token", format!("X-Storage-Token: {admin}\r\n")),
            ("two tokens", token(admin.clone()) + &token(admin)),
        ]))
    }

    fn probe(&self, who: &'static str, line: &str, headers: &str, body: &str) -> Probe {
        let name = match (headers, body) {
            ("", "") => line.to_owned(),
            (headers, "") => format!("{line} [{}]", headers.trim_end().replace("\r\n", "; ")),
            (headers, body) => format!("{line} [{}] {body:?}", headers.trim_end().replace("\r\n", "; ")),
        };
        let name = name.replace(&"x".repeat(65), "xx...");
        let caller = &self.0[who];
        let host = "Host: glance.example:9292\r\nConnection: close\r\n";
        Probe { name, who, bytes: format!("{line} HTTP/1.1\r\n{host}{caller}{headers}\r\n{body}") }
    }
}

/// Sends a request; the answer ends with its connection.
#[track_caller]
fn send(address: &str, probe: &Probe) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(probe.bytes.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    http::parse(&answer).unwrap_or_else(|| panic!("{}: {read:?}: {answer:?}", probe.name))
}

/// Returns what is compared of an answer, in words. Of a random id, only its presence counts; of an answer to
/// HEAD, neither type nor length of the body that is not there.
fn essence(probe: &Probe, answer: &Answer) -> Vec<String> {
    let mut lines = vec![format!("status {}", answer.status)];
    for header in HEADERS {
        let is_of_body = header == "content-type" && probe.name.starts_with("HEAD");
        if let Some(value) = answer.header(header).filter(|_| !is_of_body) {
            let is_random = header == "x-openstack-request-id" && value.len() == 40;
            lines.push(format!("{header}: {}", if is_random { "req-UUID" } else { value }));
        }
    }
    lines.push(format!("body {:?}", answer.text()));
    lines
}

/// The requests that change nothing, or nothing that the answers show.
fn probes(callers: &Callers, images: &Images, accepts: &[&str]) -> Vec<Probe> {
    let mut probes = Vec::new();
    let Images { cached, other, queued, .. } = images;
    let calls = [
        "GET /v2/cache".to_owned(),
        format!("GET /v2/cache/nodes/{cached}"),
        format!("GET /v2/cache/nodes/{UNKNOWN}"),
        format!("PUT /v2/cache/{cached}"),
        format!("PUT /v2/cache/{queued}"),
        format!("PUT /v2/cache/{UNKNOWN}"),
        format!("DELETE /v2/cache/{other}"),
        format!("DELETE /v2/cache/{UNKNOWN}"),
        "POST /v2/cache/clean".to_owned(),
        "POST /v2/cache/prune".to_owned(),
    ];
    for who in callers.0.keys() {
        for call in &calls {
            for accept in accepts {
                let is_post = call.starts_with("POST");
                let length = if is_post { "Content-Length: 0\r\n" } else { "" };
                probes.push(callers.probe(who, call, &format!("{accept}{length}"), ""));
            }
        }
    }
    for who in ["admin", "member", "nobody"] {
        for line in OTHER_LINES {
            for accept in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
                let line = line.replace("ID", cached).replace("UPPER", &cached.to_uppercase());
                let line = line.replace("PLAIN", &cached.replace('-', ""));
                probes.push(callers.probe(who, &line, accept, ""));
            }
        }
        for body in ["{}", "[]", "null", "\"s\"", " ", "{", "{\"a\": 1}", "7", "\u{fffd}"] {
            for line in ["POST /v2/cache/prune", "POST /v2/cache/clean", "GET /v2/cache"] {
                probes.push(callers.probe(who, line, &format!("Content-Length: {}\r\n", body.len()), body));
            }
            let line = format!("PUT /v2/cache/{UNKNOWN}");
            probes.push(callers.probe(who, &line, &format!("Content-Length: {}\r\n", body.len()), body));
        }
        let chunked = "Transfer-Encoding: chunked\r\n";
        probes.push(callers.probe(who, "POST /v2/cache/prune", chunked, "2\r\n{}\r\n0\r\n\r\n"));
        for id in ["abc", "req-abc", "a b", "", &"x".repeat(64), &"x".repeat(65), "1;2"] {
            let header = format!("X-Openstack-Request-Id: {id}\r\n");
            probes.push(callers.probe(who, "GET /v2/cache", &header, ""));
        }
        for accept in
            ["text/html", "application/*", "text/*", "application/xml", "application/json, */*", "", "x"]
        {
            let header = format!("Accept: {accept}\r\n");
            probes.push(callers.probe(who, "GET /v2/cache/prune", &header, ""));
            probes.push(callers.probe(who, "DELETE /v2/cache/x'<&\">", &header, ""));
        }
    }
    probes
}

const OTHER_LINES: &[&str] = &[
    "HEAD /v2/cache",
    "HEAD /v2/cache/ID",
    "HEAD /v2/cache/prune",
    "OPTIONS /v2/cache",
    "OPTIONS /v2/cache/prune",
    "OPTIONS /anything",
    "GET /v2/cache/clean",
    "PUT /v2/cache/clean",
    "DELETE /v2/cache/clean",
    "GET /v2/cache/prune",
    "PUT /v2/cache/prune",
    "DELETE /v2/cache/prune",
    "PATCH /v2/cache/prune",
    "POST /v2/cache",
    "PUT /v2/cache",
    "GET /v2/cache/ID",
    "POST /v2/cache/ID",
    "GET /v2/cache/nodes",
    "POST /v2/cache/nodes/ID",
    "DELETE /v2/cache/nodes/ID",
    "GET /v2/cache/",
    "POST /v2/cache/prune/",
    "GET /v2/cache/nodes/",
    "GET /v2/cache/nodes/ID/x",
    "GET /v2/cache/ID/x",
    "GET //v2/cache",
    "GET /v2//cache",
    "GET /v2/c%61che",
    "GET /v2/cache?x=1",
    "POST /v2/cache/prune?dry_run=1",
    "POST /v2/cache/prune?",
    "GET /v2.0/cache",
    "GET /v2.14/cache",
    "GET /v2.18/cache",
    "GET /v2.19/cache",
    "GET /v2.x/cache",
    "GET /V2/cache",
    "GET /v1/cache",
    "GET /v3/cache",
    "GET /cache",
    "PUT /v2/cache/x",
    "PUT /v2/cache/UPPER",
    "PUT /v2/cache/PLAIN",
    "DELETE /v2/cache/x",
    "DELETE /v2/cache/UPPER",
    "DELETE /v2/cache/..%2fx",
    "GET /v2/cached_images",
    "GET /v2/queued_images",
    "GET /",
    "GET /versions",
    "HEAD /versions",
    "POST /versions",
    "GET /versions/",
    "GET /v2",
    "GET /v2/",
    "HEAD /v2/",
    "GET /nothing",
    "GET /v2/nothing",
    "GET /v2/schemas/metadefs/resource_type",
    "GET /healthcheck",
    "HEAD /healthcheck",
    "POST /healthcheck",
    "GET /healthcheck/",
    "GET /healthcheck?x=1",
];

/// The requests that empty the cache.
fn last_probes(callers: &Callers) -> Vec<Probe> {
    let mut probes = Vec::new();
    for who in callers.0.keys() {
        for target in ["", "cache", "queue", "QUEUE", "Cache", "both", "bogus", "cache,queue", " queue "] {
            let header = format!("x-image-cache-clear-target: {target}\r\n");
            probes.push(callers.probe(who, "DELETE /v2/cache", &header, ""));
        }
        let twice = "x-image-cache-clear-target: cache\r\n".repeat(2);
        probes.push(callers.probe(who, "DELETE /v2/cache", &twice, ""));
        probes.push(callers.probe(who, "DELETE /v2/cache", "", ""));
        probes.push(callers.probe(who, "GET /v2/cache", "", ""));
    }
    probes
}

/// The images of the cache and beside it.
struct Images {
    /// In the cache.
    cached: String,
    /// Not in the cache.
    other: String,
    /// Without data, so that nobody fetches it, and in the queue.
    queued: String,
}

impl Images {
    fn new(glance: &GlanceApi, token: &str) -> Self {
        let cached = glance.upload(token, b"an image");
        glance.download(token, &cached);
        let other = glance.upload(token, b"another image");
        let image = json!({"name": "no data", "disk_format": "raw", "container_format": "bare"});
        let headers = [("X-Auth-Token", token), ("Content-Type", "application/json")];
        let body = image.to_string();
        let made = http::send(&glance.address(), "POST /v2/images", &headers, Some(body.as_bytes())).json();
        let queued = made["id"].as_str().unwrap().to_owned();
        std::fs::write(glance.cache().join("queue").join(&queued), "").unwrap();
        until("the image to be cached", || glance.cache().join(&cached).exists());
        // The list has an order.
        for n in 0..4 {
            let more = glance.upload(token, format!("image {n}").as_bytes());
            glance.download(token, &more);
            until("the image to be cached", || glance.cache().join(&more).exists());
        }
        Images { cached, other, queued }
    }
}

impl Images {
    /// Puts words in the place of ids.
    fn named(&self, text: &str) -> String {
        let pairs = [(&self.cached, "CACHED"), (&self.other, "OTHER"), (&self.queued, "QUEUED")];
        let text = pairs.iter().fold(text.to_owned(), |text, (id, word)| text.replace(*id, word));
        text.replace(UNKNOWN, "UNKNOWN")
    }
}

/// Compares the answers, and returns the requests whose answers differ.
fn compare(glance: &GlanceApi, beside: &Beside, probes: &[Probe]) -> Vec<(usize, Answer, Answer)> {
    let mut differ = Vec::new();
    for (n, probe) in probes.iter().enumerate() {
        let theirs = send(&glance.address(), probe);
        let ours = send(beside.address(), probe);
        let length = ours.header("content-length").map(|length| length.parse::<usize>().unwrap());
        let has_body = ours.status != 204 && !probe.name.starts_with("HEAD");
        assert!(!has_body || length == Some(ours.body.len()), "{}: {:?}", probe.name, ours.headers);
        if essence(probe, &theirs) != essence(probe, &ours) {
            differ.push((n, theirs, ours));
        }
    }
    differ
}

#[test]
fn answers_are_those_of_glance_33() {
    let all = ["", "Accept: */*\r\n", "Accept: application/json\r\n", "Accept: text/plain\r\n"];
    same("sqlite", &all);
}

#[test]
fn answers_about_a_central_database_are_those_of_glance_33() {
    same("centralized_db", &["", "Accept: application/json\r\n"]);
}

/// Compares the answers of both about a cache with this index. `accepts` are the forms of errors that each
/// caller asks for.
#[track_caller]
fn same(driver: &str, accepts: &[&str]) {
    static CALLERS: OnceLock<Callers> = OnceLock::new();
    let keystone = Keystone::shared();
    let callers = CALLERS.get_or_init(|| Callers::new(keystone));
    let glance = GlanceApi::start(keystone, driver, "");
    let beside = Beside::start(&glance, &format!("glance_api_url = {}", glance.url()));
    let images = Images::new(&glance, &keystone.token("admin", "admin"));
    let mut probes = probes(callers, &images, accepts);
    probes.extend(last_probes(callers));
    let differ = compare(&glance, &beside, &probes);
    let mut unknown: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for (n, theirs, ours) in &differ {
        let probe = &probes[*n];
        let name = images.named(&probe.name);
        let intended = INTENDED.iter().position(|(of, who, their_status, our_status, _)| {
            (theirs.status, ours.status) == (*their_status, *our_status)
                && (*who == "*" || who.split(", ").any(|who| who == probe.who))
                && of.iter().any(|of| name.starts_with(of))
        });
        match intended {
            Some(row) => *seen.entry(row).or_insert(0) += 1,
            None => {
                let (theirs, ours) = (essence(probe, theirs), essence(probe, ours));
                let only = |of: &[String], other: &[String]| -> Vec<String> {
                    let only = of.iter().filter(|line| !other.contains(line));
                    only.map(|line| images.named(line).chars().take(120).collect()).collect()
                };
                let difference = format!("{name}: {:?} {:?}", only(&theirs, &ours), only(&ours, &theirs));
                unknown.entry(difference).or_default().push(probe.who);
            }
        }
    }
    println!("{driver}: {} requests, {} differ", probes.len(), differ.len());
    for (row, (request, who, theirs, ours, why)) in INTENDED.iter().enumerate() {
        let count: usize = seen.get(&row).copied().unwrap_or(0);
        println!("{count:5} {request:?} by {who}: {theirs}, {ours}: {why}");
        assert!(count > 0 || !unknown.is_empty(), "{driver}: {request:?} by {who} does not differ");
    }
    for (difference, who) in &unknown {
        println!("DIFFERENT by {who:?}: {difference}");
    }
    assert!(unknown.is_empty(), "{driver}: {} differences", unknown.len());
}
