//! The service and a real Keystone: tokens that end, that are limited, and that our own user cannot judge, and
//! a Keystone that is gone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::env::*;
use crate::support::http::{self, Answer};
use crate::support::needs;
use crate::support::openstack::Keystone;
use crate::support::service::Service;

/// Starts a service with these lines of `[keystone_authtoken]`.
fn service(env: &TestEnv, authtoken: &str) -> Service {
    let conf = env.conf(&format!("[cache_api]\nbind_port = 1\n{authtoken}"));
    Service::at(env, &conf, &["--bind", "127.0.0.1:0"])
}

fn ask(service: &Service, line: &str, headers: &[(&str, &str)]) -> Answer {
    let body = line.starts_with("POST").then_some(&b""[..]);
    http::send(service.address.as_ref().unwrap(), line, headers, body)
}

/// Returns the status of a list with these tokens.
fn list(service: &Service, token: &str, service_token: Option<&str>) -> u16 {
    let mut headers = vec![("X-Auth-Token", token)];
    headers.extend(service_token.map(|token| ("X-Service-Token", token)));
    ask(service, "GET /v2/cache", &headers).status
}

/// Makes an application credential of a user and returns its id; its secret is `s3cret`.
fn credential(keystone: &Keystone, user: &str, project: &str, name: &str, rules: &Value) -> String {
    let token = keystone.token(user, project);
    let me = keystone.administer("GET", &format!("/users?name={user}"), None);
    let id = me["users"][0]["id"].as_str().unwrap().to_owned();
    let mut credential = json!({"name": name, "secret": "s3cret"});
    if !rules.is_null() {
        credential["access_rules"] = rules.clone();
    }
    let path = format!("/users/{id}/application_credentials");
    let made =
        keystone.call("POST", &path, Some(&token), Some(&json!({"application_credential": credential})));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["application_credential"]["id"].as_str().unwrap().to_owned()
}

/// Returns a token that comes with an application credential.
fn credential_token(keystone: &Keystone, id: &str) -> String {
    let identity = json!({"methods": ["application_credential"],
                          "application_credential": {"id": id, "secret": "s3cret"}});
    let made = keystone.call("POST", "/auth/tokens", None, Some(&json!({"auth": {"identity": identity}})));
    assert_eq!(made.status, 201, "{}", made.text());
    made.header("X-Subject-Token").unwrap().to_owned()
}

#[test]
fn a_token_that_has_expired_needs_a_service_token() {
    const LIFETIME: u64 = 40;
    let keystone = Keystone::private(&format!("[token]\nexpiration = {LIFETIME}\n"));
    let env = TestEnv::sqlite(FIVE);
    let authtoken = keystone.authtoken();
    let kept = service(&env, &authtoken);
    let admin = keystone.token("admin", "admin");
    assert_eq!(list(&kept, &admin, None), 200);
    sleep(Duration::from_secs(LIFETIME + 2));
    // Answers are kept for a minute, but not beyond the end of the token.
    let refused = ask(&kept, "GET /v2/cache", &[("X-Auth-Token", &admin)]);
    assert_eq!(refused.status, 401);
    let expected = format!("Keystone uri=\"{}\"", keystone.url());
    assert_eq!(refused.header("WWW-Authenticate"), Some(expected.as_str()));
    let helper = keystone.token("glance", "service");
    assert_eq!(list(&kept, &admin, Some(&helper)), 200);
    assert_eq!(list(&kept, &admin, Some("nonsense")), 401);
    assert_eq!(list(&kept, &admin, Some(&keystone.token("demo", "demo"))), 401);
    assert_eq!(list(&kept, &admin, None), 401);
    // Our own token has been renewed meanwhile.
    assert_eq!(list(&kept, &keystone.token("admin", "admin"), None), 200);

    // A Keystone that keeps silent delays those it has to judge, and nobody else.
    drop(kept);
    let env = TestEnv::sqlite(FIVE);
    let kept = service(&env, &(authtoken + "http_connect_timeout = 4\nhttp_request_max_retries = 0\n"));
    let known = keystone.token("admin", "admin");
    let unknown = keystone.token("admin", "admin");
    assert_eq!(list(&kept, &known, None), 200);
    keystone.freeze();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&kept, "POST /v2/cache/prune", &[("X-Auth-Token", &unknown)]));
        assert_eq!(ask(&kept, "GET /healthcheck", &[]).status, 200);
        assert_eq!(list(&kept, &known, None), 200);
        let quick = start.elapsed();
        let waited = waiting.join().unwrap();
        keystone.thaw();
        assert!(quick < Duration::from_secs(4), "{quick:?}");
        assert_eq!(waited.status, 503, "{}", waited.text());
        assert!(waited.header("Retry-After").is_some(), "{:?}", waited.headers);
    });
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(kept.stderr().contains("nothing came for 4 s"), "{}", kept.stderr());
    for secret in [known.as_str(), unknown.as_str(), "glancepw"] {
        assert!(!kept.stderr().contains(secret), "{}", kept.stderr());
    }
    until("Keystone to judge again", || list(&kept, &keystone.token("admin", "admin"), None) == 200);
}

#[test]
fn an_application_credential_may_do_what_its_rules_say() {
    let keystone = Keystone::shared();
    let services = keystone.administer("GET", "/services?type=image", None);
    if services["services"].as_array().unwrap().is_empty() {
        keystone.add_endpoint("image", "RegionOne", "http://127.0.0.1:9292");
    }
    let rules = json!([{"service": "image", "method": "POST", "path": "/v2/cache/prune"}]);
    let limited = credential_token(keystone, &credential(keystone, "admin", "admin", "prune-job", &rules));
    let free = credential_token(keystone, &credential(keystone, "admin", "admin", "free", &Value::Null));
    let env = TestEnv::sqlite(FIVE);
    // The service's own user logs in with one as well.
    let ours = credential(keystone, "glance", "service", "ours", &Value::Null);
    let by_credential = format!(
        "[keystone_authtoken]\nauth_url = {}\nauth_type = v3applicationcredential\nservice_type = image\n\
         application_credential_id = {ours}\napplication_credential_secret = s3cret\n",
        keystone.url()
    );
    let kept = service(&env, &by_credential);
    for (line, token, status) in [
        ("POST /v2/cache/prune", &limited, 200),
        ("POST /v2/cache/clean", &limited, 401),
        ("GET /v2/cache", &limited, 401),
        ("GET /v2/cache", &free, 200),
    ] {
        let answer = ask(&kept, line, &[("X-Auth-Token", token)]);
        assert_eq!(answer.status, status, "{line}: {}", answer.text());
    }
    // Any text beside it does not switch its rules off.
    let headers = [("X-Auth-Token", limited.as_str()), ("X-Service-Token", "x")];
    assert_eq!(ask(&kept, "POST /v2/cache/clean", &headers).status, 401);
    drop(kept);
    // Without a service type, nobody can tell which rules are for this service.
    let env = TestEnv::sqlite(FIVE);
    let untyped = service(&env, &keystone.authtoken());
    assert_eq!(ask(&untyped, "POST /v2/cache/prune", &[("X-Auth-Token", &limited)]).status, 401);
    assert_eq!(list(&untyped, &free, None), 200);
}

#[test]
fn a_service_user_without_the_right_is_not_the_callers_fault() {
    let keystone = Keystone::shared();
    let env = TestEnv::sqlite(FIVE);
    let member = keystone.authtoken().replace("= service\n", "= demo\n").replace("glance", "demo");
    let service = service(&env, &member);
    let refused = ask(&service, "GET /v2/cache", &[("X-Auth-Token", &keystone.token("admin", "admin"))]);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("Retry-After").is_some());
    let log = service.stderr();
    assert!(log.contains("does not let us validate tokens (it answers 403"), "{log}");
    assert!(log.contains("give the role 'service' to our service user, the user 'demo'"), "{log}");
    service.signal(Signal::TERM);
    assert_eq!(service.wait().code, 0);
}

#[test]
fn a_token_that_is_revoked_and_a_keystone_that_is_gone() {
    let keystone = Keystone::private("");
    let env = TestEnv::sqlite(FIVE);
    let kept = service(&env, &(keystone.authtoken() + "token_cache_time = 3\n"));
    let revoked = keystone.token("admin", "admin");
    assert_eq!(list(&kept, &revoked, None), 200);
    let headers = [("X-Auth-Token", revoked.as_str()), ("X-Subject-Token", revoked.as_str())];
    assert_eq!(http::send(&keystone.address(), "DELETE /v3/auth/tokens", &headers, None).status, 204);
    let start = Instant::now();
    until("the revoked token to be refused", || list(&kept, &revoked, None) == 401);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());

    drop(kept);
    let env = TestEnv::sqlite(FIVE);
    let kept = service(&env, &keystone.authtoken());
    let (known, unknown) = (keystone.token("admin", "admin"), keystone.token("admin", "admin"));
    assert_eq!(list(&kept, &known, None), 200);
    keystone.stop();
    assert_eq!(list(&kept, &known, None), 200, "its answer is kept");
    let answer = ask(&kept, "POST /v2/cache/prune", &[("X-Auth-Token", &unknown)]);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("Retry-After").is_some(), "{:?}", answer.headers);
    assert!(!answer.text().contains(&keystone.address()), "{}", answer.text());
    assert_eq!(ask(&kept, "GET /healthcheck", &[]).status, 200);
    keystone.start_again();
    assert_eq!(list(&kept, &unknown, None), 200);

    // A password of ours that is wrong is not the caller's fault.
    let env = TestEnv::sqlite(FIVE);
    let wrong = keystone.authtoken().replace("password = glancepw", "password = n0tTheWord");
    let kept = service(&env, &wrong);
    let answer = ask(&kept, "GET /v2/cache", &[("X-Auth-Token", &unknown)]);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(kept.stderr().contains("our service user"), "{}", kept.stderr());
    assert!(!kept.stderr().contains("n0tTheWord"), "{}", kept.stderr());
}

/// The real middleware with a server that answers as Keystone does, in a process of its own.
struct Middleware {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Middleware {
    fn start(certificates: &str) -> Self {
        let mut child = Command::new(needs::glance())
            .args([
                "-I",
                "-B",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/keystone_settings.py"),
            ])
            .arg(certificates)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Middleware { child, requests, answers }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// True if a token is judged with these settings.
    fn takes(&mut self, section: &str) -> bool {
        writeln!(self.requests, "{}", json!(section)).unwrap();
        self.answer() == 200
    }
}

impl Drop for Middleware {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_start_takes_the_settings_with_which_the_real_middleware_works() {
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let mut middleware = Middleware::start(certificates);
    let urls = middleware.answer();
    let env = TestEnv::sqlite(FIVE);
    let (junk, empty) = (env.write("junk", "junk\n"), env.write("empty", ""));
    let (only, key) = (format!("{certificates}/server.pem"), format!("{certificates}/server.key"));
    let both = std::fs::read_to_string(&only).unwrap() + &std::fs::read_to_string(&key).unwrap();
    let both = env.write("both.pem", both);
    let trusted = format!("cafile = {certificates}/ca.pem\n");
    for (scheme, lines, taken) in [
        ("http", String::new(), true),
        ("http", "interface = foo".to_owned(), false),
        ("http", "interface = Internal".to_owned(), false),
        ("http", "interface = internal,public".to_owned(), false),
        ("http", "interface = publicURL".to_owned(), true),
        ("http", "interface =".to_owned(), true),
        ("http", "http_request_max_retries = -1".to_owned(), true),
        ("http", "http_request_max_retries = 99".to_owned(), true),
        ("http", "http_request_max_retries = x".to_owned(), false),
        ("http", "identity_uri = http://old:35357\nadmin_user = a\nadmin_password = b".to_owned(), true),
        ("http", format!("keyfile = {key}"), true),
        ("http", format!("certfile = {only}"), true),
        ("http", format!("cafile = {junk}"), true),
        ("http", "cafile = /no".to_owned(), true),
        ("https", trusted.clone(), true),
        ("https", format!("{trusted}keyfile = {key}"), true),
        ("https", format!("{trusted}keyfile = /no"), true),
        ("https", format!("{trusted}certfile = {both}"), true),
        ("https", format!("{trusted}certfile = {only}\nkeyfile = {key}"), true),
        ("https", format!("{trusted}certfile = {only}"), false),
        ("https", format!("{trusted}certfile = {only}\nkeyfile = {junk}"), false),
        ("https", format!("{trusted}certfile = /no"), false),
        ("https", "cafile = /no".to_owned(), false),
        ("https", format!("cafile = {junk}"), false),
        ("https", format!("cafile = {empty}"), false),
        ("https", format!("cafile = {key}"), false),
        ("https", format!("insecure = true\ncafile = {junk}"), true),
    ] {
        let url = urls[scheme].as_str().unwrap();
        let section = format!(
            "[keystone_authtoken]\nauth_type = password\nauth_url = {url}\nusername = glance\npassword = p\n\
             project_name = service\nuser_domain_id = default\nproject_domain_id = default\n\
             www_authenticate_uri = http://keystone.example:5000\n{lines}\n"
        );
        assert_eq!(middleware.takes(&section), taken, "the real one with {scheme}, {lines}");
        let conf = env.conf(&section);
        let run = env.raw(&["serve", "--allow-root", "--check", "--config-file", &conf]);
        let run = run.code(if taken { 0 } else { 2 });
        assert!(taken || run.stderr.contains("glance-api.conf:"), "{lines}: {run:?}");
    }
}
