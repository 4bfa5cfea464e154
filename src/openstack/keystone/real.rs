//! Sessions and judgements against a real Keystone, which `tests/peer/openstack.sh` runs.
//!
//! One Keystone serves all tests here, one after the other, because some of them stop it. Its tokens are
//! valid for less than a minute.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use url::Url;

use super::error::{KeystoneError, Unhelpful};
use super::session::KeystoneSession;
use super::settings::AuthTokenSettings;
use super::tests::{settings, sought, unauthorized, unavailable};
use super::validate::{Presented, Validator};
use crate::interrupt::Interrupt;
use crate::net::http::{Client, Method, Request};
use crate::net::tls::Trust;
use crate::net::wire::Waits;

/// The lifetime of a token, in seconds.
const LIFETIME: u64 = 40;

const UNKNOWN: &str = "the token is unknown, expired or revoked";

/// A real Keystone with the users of `tests/peer/openstack.sh`. It ends with the process.
struct Keystone {
    port: u16,
    dir: PathBuf,
    script: Child,
}

/// Returns the Keystone, for one test at a time.
fn keystone() -> MutexGuard<'static, Option<Keystone>> {
    static KEYSTONE: Mutex<Option<Keystone>> = Mutex::new(None);
    let mut keystone = KEYSTONE.lock().unwrap_or_else(PoisonError::into_inner);
    keystone.get_or_insert_with(Keystone::start);
    keystone
}

impl Keystone {
    #[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
    fn start() -> Self {
        let python = std::env::var_os("GLANCE_CACHE_TEST_KEYSTONE_PYTHON")
            .expect("GLANCE_CACHE_TEST_KEYSTONE_PYTHON is set");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::Builder::new().prefix("gct-ks-").tempdir_in("/tmp").unwrap().keep();
        std::fs::write(dir.join("extra.conf"), format!("[token]\nexpiration = {LIFETIME}\n")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/openstack.sh");
        let mut script = Command::new(script);
        script.arg("keystone").arg(&dir).arg(port.to_string()).arg("remove").env("PYTHON", python);
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "see {}", dir.display());
        Keystone { port, dir, script }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Calls it and returns status, token and body.
    fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, String, Value) {
        let client =
            Client { trust: Trust::System, proxies: Vec::new(), waits: Waits::new(Interrupt::default()) };
        let url = Url::parse(&self.url(path)).unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Request::new(method, &url).header("content-type", "application/json");
        if !token.is_empty() {
            request = request.header("x-auth-token", token).header("x-subject-token", token);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let mut response = client.send(&request).unwrap();
        let token = response.header("x-subject-token").unwrap_or_default().to_owned();
        let mut text = String::new();
        response.body.read_to_string(&mut text).unwrap();
        (response.status, token, serde_json::from_str(&text).unwrap_or_default())
    }

    /// Returns a new token of a user in this scope.
    fn token(&self, user: &str, scope: &Value) -> String {
        let user = json!({"name": user, "domain": {"id": "default"}, "password": format!("{user}pw")});
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
        if !scope.is_null() {
            auth["scope"] = scope.clone();
        }
        let (status, token, body) = self.call("POST", "/v3/auth/tokens", "", &json!({"auth": auth}));
        assert_eq!(status, 201, "{body}");
        token
    }

    fn project_token(&self, user: &str, project: &str) -> String {
        self.token(user, &json!({"project": {"name": project, "domain": {"id": "default"}}}))
    }

    fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, _, body) = self.call(method, path, &self.project_token("admin", "admin"), body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {body}");
        body
    }

    /// Makes an application credential of a user and returns its id; its secret is `s3cret`.
    fn credential(&self, user: &str, project: &str, name: &str, more: &Value) -> String {
        let token = self.project_token(user, project);
        let (_, _, body) = self.call("GET", "/v3/auth/tokens", &token, &Value::Null);
        let id = body["token"]["user"]["id"].as_str().unwrap().to_owned();
        let mut credential = json!({"name": name, "secret": "s3cret"});
        for (key, value) in more.as_object().unwrap() {
            credential[key] = value.clone();
        }
        let path = format!("/v3/users/{id}/application_credentials");
        let body = json!({"application_credential": credential});
        let (status, _, body) = self.call("POST", &path, &token, &body);
        assert_eq!(status, 201, "{body}");
        body["application_credential"]["id"].as_str().unwrap().to_owned()
    }

    /// Returns a token that comes with an application credential.
    fn credential_token(&self, id: &str) -> String {
        let identity = json!({"methods": ["application_credential"],
                              "application_credential": {"id": id, "secret": "s3cret"}});
        let body = json!({"auth": {"identity": identity}});
        let (status, token, body) = self.call("POST", "/v3/auth/tokens", "", &body);
        assert_eq!(status, 201, "{body}");
        token
    }

    fn revoke(&self, token: &str) {
        let (status, _, body) = self.call("DELETE", "/v3/auth/tokens", token, &Value::Null);
        assert_eq!(status, 204, "{body}");
    }

    /// Returns the settings of a user of it, with more lines.
    fn settings(&self, user: &str, project: &str, more: &str) -> AuthTokenSettings {
        settings(&format!(
            "auth_url = {}\nauth_type = password\nusername = {user}\npassword = {user}pw\n\
             user_domain_id = default\nproject_name = {project}\nproject_domain_id = default\n\
             http_request_max_retries = 0\n{more}\n",
            self.url("/v3")
        ))
        .unwrap()
    }

    /// Returns the validator of the service user, with more lines in its settings.
    fn validator(&self, more: &str) -> Validator {
        Validator::new(self.settings("glance", "service", more))
    }

    fn session(&self, user: &str, project: &str, more: &str) -> KeystoneSession {
        let settings = self.settings(user, project, more);
        KeystoneSession::new(settings.login, settings.reach)
    }

    /// Sends a signal to its master process and to the workers of that.
    fn signal(&self, signal: &str) {
        let master = std::fs::read_to_string(self.dir.join("pid")).unwrap().trim().to_owned();
        let children = Command::new("pgrep").args(["-P", &master]).output().unwrap().stdout;
        let children = String::from_utf8(children).unwrap();
        let all = children.split_whitespace().chain([master.as_str()]);
        assert!(Command::new("kill").arg(signal).args(all).status().unwrap().success());
    }

    fn until_it_answers(&self, wanted: bool) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() != wanted {
            assert!(start.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn request<'a>(token: &'a str, service_token: Option<&'a str>) -> Presented<'a> {
    Presented { token, service_token, method: "POST", path: "/v2/cache/prune" }
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn tokens_of_all_scopes_make_callers() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let validator = keystone.validator("");
    let judge = |token: &str| validator.judge(&request(token, None)).unwrap();
    let admin = judge(&keystone.project_token("admin", "admin"));
    assert!(admin.roles.iter().any(|role| role == "admin"), "{admin:?}");
    assert!(admin.user_id.is_some() && admin.project_id.is_some() && admin.is_admin_project, "{admin:?}");
    assert_eq!(admin.user_domain_id.as_deref(), Some("default"));
    assert_eq!(admin.project_domain_id.as_deref(), Some("default"));
    assert_eq!((&admin.domain_id, &admin.system_scope), (&None, &None));
    let member = judge(&keystone.project_token("demo", "demo"));
    assert!(!member.roles.iter().any(|role| role == "admin"), "{member:?}");
    let system = judge(&keystone.token("admin", &json!({"system": {"all": true}})));
    assert_eq!((system.system_scope.as_deref(), system.project_id), (Some("all"), None));
    let unscoped = judge(&keystone.token("demo", &json!("unscoped")));
    assert_eq!((unscoped.project_id, unscoped.roles.len()), (None, 0));
    for token in ["nonsense", &"g".repeat(255), &"g".repeat(2048)] {
        assert_eq!(unauthorized(validator.judge(&request(token, None))), UNKNOWN, "{token}");
    }
    let nocatalog = keystone.validator("include_service_catalog = false");
    nocatalog.judge(&request(&keystone.project_token("admin", "admin"), None)).unwrap();
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn a_revoked_token_works_no_longer_than_it_is_kept() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let token = keystone.project_token("admin", "admin");
    let validator = keystone.validator("token_cache_time = 3");
    let start = Instant::now();
    validator.judge(&request(&token, None)).unwrap();
    keystone.revoke(&token);
    if start.elapsed() < Duration::from_secs(2) {
        validator.judge(&request(&token, None)).unwrap();
    }
    assert_eq!(unauthorized(keystone.validator("").judge(&request(&token, None))), UNKNOWN);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(unauthorized(validator.judge(&request(&token, None))), UNKNOWN);
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn an_expired_token_needs_a_service_token() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let validator = keystone.validator("");
    let token = keystone.project_token("admin", "admin");
    validator.judge(&request(&token, None)).unwrap();
    thread::sleep(Duration::from_secs(LIFETIME + 2));
    // Kept here for a minute, but not beyond its end.
    assert_eq!(unauthorized(validator.judge(&request(&token, None))), UNKNOWN);
    assert_eq!(unauthorized(keystone.validator("").judge(&request(&token, None))), UNKNOWN);
    let service = keystone.project_token("glance", "service");
    for validator in [validator, keystone.validator("")] {
        let caller = validator.judge(&request(&token, Some(&service))).unwrap();
        assert!(caller.service_user_id.is_some() && caller.user_id != caller.service_user_id, "{caller:?}");
        assert!(caller.service_roles.contains(&"service".to_owned()), "{caller:?}");
        let member = keystone.project_token("demo", "demo");
        let reason = unauthorized(validator.judge(&request(&token, Some(&member))));
        assert_eq!(reason, "the service token has none of service_token_roles");
    }
    // The session has renewed its own token in the meantime.
    let session = keystone.session("glance", "service", "");
    let first = session.token().unwrap();
    thread::sleep(Duration::from_secs(LIFETIME / 2 + 1));
    assert_ne!(session.token().unwrap(), first);
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn access_rules_are_kept() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let services = keystone.admin("GET", "/v3/services?type=image", &Value::Null);
    if services["services"].as_array().unwrap().is_empty() {
        keystone.admin("POST", "/v3/services", &json!({"service": {"type": "image", "name": "glance"}}));
    }
    let rules = json!({"access_rules": [
        {"service": "image", "method": "POST", "path": "/v2/cache/prune"},
        {"service": "image", "method": "PUT", "path": "/v2/cache/*"}]});
    let id = keystone.credential("admin", "admin", "limited", &rules);
    let token = keystone.credential_token(&id);
    let ours = keystone.validator("service_type = image");
    ours.judge(&request(&token, None)).unwrap();
    for (method, path, allowed) in [
        ("POST", "/v2/cache/clean", false),
        ("GET", "/v2/cache/prune", false),
        ("PUT", "/v2/cache/0a", true),
        ("PUT", "/v2/cache/nodes/0a", false),
    ] {
        let judged = ours.judge(&Presented { method, path, ..request(&token, None) });
        assert_eq!(judged.is_ok(), allowed, "{method} {path}: {judged:?}");
    }
    let reason = unauthorized(keystone.validator("").judge(&request(&token, None)));
    assert!(reason.contains("service_type is not set"), "{reason}");
    let reason = unauthorized(keystone.validator("service_type = compute").judge(&request(&token, None)));
    assert!(reason.contains("service_type is not in its catalogue"), "{reason}");
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn an_application_credential_can_be_the_service_user() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let id = keystone.credential("glance", "service", "ours", &json!({}));
    let url = keystone.url("");
    let lines = |credential: &str, secret: &str| {
        format!(
            "auth_url = {url}\nauth_type = v3applicationcredential\n{credential}\n\
             application_credential_secret = {secret}\nhttp_request_max_retries = 0\n"
        )
    };
    let token = keystone.project_token("admin", "admin");
    let judged = |lines: &str| Validator::new(settings(lines).unwrap()).judge(&request(&token, None));
    let by_id = format!("application_credential_id = {id}");
    let by_name = "application_credential_name = ours\nusername = glance\nuser_domain_name = Default";
    for credential in [by_id.as_str(), by_name] {
        assert!(judged(&lines(credential, "s3cret")).is_ok(), "{credential}");
        let reason = unavailable(judged(&lines(credential, "wrong")));
        assert!(reason.starts_with("our service user cannot log in: Keystone at http://"), "{reason}");
        assert!(reason.contains("it does not exist, has expired, or its secret is wrong"), "{reason}");
    }
    let reason = unavailable(judged(&lines("application_credential_id = 0123456789abcdef", "s3cret")));
    assert!(reason.contains("refuses the application credential with the id '0123456789abcdef'"), "{reason}");
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn says_what_is_wrong_with_our_own_login() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let token = keystone.project_token("admin", "admin");
    let log_in = |more: &str| keystone.session("glance", "service", more).token();
    assert!(log_in("").is_ok());
    for (more, kind, message) in [
        ("password = wrong", Unhelpful::Refused, "the password is wrong, there is no such user or project"),
        ("username = nobody", Unhelpful::Refused, "refuses the user 'nobody' (domain 'default')"),
        ("project_name = nowhere", Unhelpful::Refused, "for the project 'nowhere' (domain 'default')"),
        ("project_id = nowhere", Unhelpful::Refused, "for the project with the id 'nowhere'"),
        ("user_domain_id = nowhere", Unhelpful::Refused, "(domain 'nowhere')"),
        // It is there, but the user has no role in it.
        ("project_name = demo", Unhelpful::Refused, "or the user has no role there"),
    ] {
        let error = log_in(more).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.to_string().contains("glancepw"), "{error}");
    }
    // A user who may not ask about the tokens of others.
    let member = Validator::new(keystone.settings("demo", "demo", ""));
    let reason = unavailable(member.judge(&request(&token, None)));
    assert!(reason.contains("does not let us validate tokens (it answers 403: "), "{reason}");
    assert!(reason.contains("give the role 'service' to our service user, the user 'demo'"), "{reason}");
    let reason = unavailable(keystone.validator("password = wrong").judge(&request(&token, None)));
    assert!(reason.starts_with("our service user cannot log in: "), "{reason}");
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn finds_the_identity_api_wherever_auth_url_points() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    for path in ["", "/", "/v3", "/v3/"] {
        let more = format!("auth_url = {}", keystone.url(path));
        let session = keystone.session("glance", "service", &more);
        assert!(session.token().is_ok(), "{path}");
        let found = session.endpoint(&sought("identity", "internal", Some("RegionOne"))).unwrap();
        assert_eq!(found.as_str(), keystone.url("/v3/"));
        let error = session.endpoint(&sought("volume", "internal", None)).unwrap_err();
        assert_eq!(error.kind, Unhelpful::Misconfigured);
    }
    for path in ["/identity", "/v4", "/v3/auth"] {
        let more = format!("auth_url = {}", keystone.url(path));
        let error = keystone.session("glance", "service", &more).token().unwrap_err();
        assert_ne!(error.kind, Unhelpful::Unreachable, "{path}: {error}");
        println!("{path}: {error}");
    }
    let session = keystone.session("glance", "service", "");
    let given = session.token().unwrap();
    let lines = format!("auth_type = v3token\nauth_url = {}\ntoken = {}\n", keystone.url(""), given.reveal());
    let given = settings(&lines).unwrap();
    let given = KeystoneSession::new(given.login, given.reach);
    assert_eq!(given.endpoint(&sought("identity", "public", None)).unwrap().as_str(), keystone.url("/v3/"));
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn our_own_token_is_renewed_when_it_was_revoked() {
    let keystone = keystone();
    let keystone = keystone.as_ref().unwrap();
    let session = keystone.session("glance", "service", "");
    let mut used = Vec::new();
    let ask = |token: &str| {
        used.push(token.to_owned());
        let (status, ..) = keystone.call("GET", "/v3/auth/tokens", token, &Value::Null);
        Ok::<_, KeystoneError>(status)
    };
    keystone.revoke(session.token().unwrap().reveal());
    // Its own token is the subject as well: 401 for the one, 200 for the next.
    assert_eq!(session.authorized(ask, |status| *status == 401).unwrap(), 200);
    assert_eq!(used.len(), 2);
    let validator = keystone.validator("token_cache_time = 0");
    let token = keystone.project_token("admin", "admin");
    validator.judge(&request(&token, None)).unwrap();
    validator.revoke_own(|own| keystone.revoke(own));
    let token = keystone.project_token("admin", "admin");
    validator.judge(&request(&token, None)).unwrap();
}

#[test]
#[ignore = "needs GLANCE_CACHE_TEST_KEYSTONE_PYTHON, a Python with keystone"]
fn a_keystone_that_stops_is_unavailable_and_then_works_again() {
    let mut guard = keystone();
    let keystone = guard.as_mut().unwrap();
    let validator = keystone.validator("token_cache_time = 0");
    let token = keystone.project_token("admin", "admin");
    validator.judge(&request(&token, None)).unwrap();

    let impatient = keystone.validator("token_cache_time = 0\nhttp_connect_timeout = 5");
    let logged_in = impatient.log_in();
    keystone.signal("-STOP");
    let start = Instant::now();
    let judged = impatient.judge(&request(&token, None));
    let waited = start.elapsed();
    keystone.signal("-CONT");
    let reason = unavailable(judged);
    assert!(reason.ends_with("no answer: nothing came for 5 s"), "{logged_in:?}: {reason}");
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    validator.judge(&request(&keystone.project_token("admin", "admin"), None)).unwrap();

    let master = std::fs::read_to_string(keystone.dir.join("pid")).unwrap();
    assert!(Command::new("kill").arg(master.trim()).status().unwrap().success());
    keystone.until_it_answers(false);
    let reason = unavailable(validator.judge(&request(&token, None)));
    assert!(reason.contains("is not reached: cannot connect to 127.0.0.1 port"), "{reason}");
    let keeper = keystone.script.id().to_string();
    assert!(Command::new("kill").args(["-USR1", &keeper]).status().unwrap().success());
    keystone.until_it_answers(true);
    let token = keystone.project_token("admin", "admin");
    validator.judge(&request(&token, None)).unwrap();
}
