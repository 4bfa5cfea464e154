//! Sessions and judgements against a small Keystone of the tests' own, which answers each request as told,
//! refuses, lies and keeps silent.
//!
//! The real Keystone is asked by the tests in tests/peer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::catalog::{EndpointSettings, ServiceSought};
use super::error::{KeystoneError, Unhelpful};
use super::session::KeystoneSession;
use super::settings::AuthTokenSettings;
use super::validate::{Presented, Rejection, Validator};
use super::wire::{Reach, SilentServers};
use crate::config::{Config, ConfigSearch, ConfigSource, GLANCE};
use crate::interrupt::Interrupt;
use crate::net::double::{Double, impatient};
use crate::net::tls::Trust;
use crate::net::wire::Waits;

/// A request as the small Keystone sees it.
struct Asked {
    method: String,
    target: String,
    text: String,
}

impl Asked {
    fn new(text: &str) -> Self {
        let mut words = text.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        Asked { method, target, text: text.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        let line = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default()
    }

    fn is_login(&self) -> bool {
        self.method == "POST" && self.target == "/v3/auth/tokens"
    }
}

/// An answer: status, headers, body.
type Told = (u16, String, String);

fn told(status: u16, body: &Value) -> Told {
    (status, String::new(), body.to_string())
}

fn error(status: u16, message: &str) -> Told {
    told(status, &json!({"error": {"code": status, "message": message, "title": "Some"}}))
}

/// Returns a Keystone that answers the n-th request like this.
fn keystone(answer: impl Fn(usize, &Asked) -> Told + Send + 'static) -> Double {
    Double::new(move |n, text, stream| {
        let (status, headers, body) = answer(n, &Asked::new(text));
        let length = body.len();
        let text = format!("HTTP/1.1 {status} Some\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let _ = stream.write_all(text.as_bytes());
    })
}

const NEVER: &str = "2100-01-01T00:00:00.000000Z";

/// Returns the token `own-N`, with a catalogue that names the Keystone that was asked.
fn granted(n: usize, asked: &Asked) -> Told {
    let token = json!({"token": {
        "issued_at": "2026-11-29T00:00:00.000000Z", "expires_at": NEVER,
        "catalog": [{"type": "identity", "endpoints": [
            {"interface": "internal", "region": "R", "url": format!("http://{}/v3/", asked.header("Host"))}]},
            {"type": "image", "endpoints": [{"interface": "public", "region": "R", "url": "http://g:9292"}]}],
    }});
    (201, format!("X-Subject-Token: own-{n}\r\n"), token.to_string())
}

/// The settings of a service user, with more lines.
fn settings_with(url: &str, more: &str) -> Result<AuthTokenSettings, String> {
    settings(&format!(
        "auth_url = {url}\nauth_type = password\nusername = glance\nuser_domain_id = default\n\
         password = s3cret/pa\"ss\nproject_name = service\nproject_domain_name = Default\n\
         http_request_max_retries = 0\n{more}\n"
    ))
}

/// The settings in these lines of the section.
pub(super) fn settings(lines: &str) -> Result<AuthTokenSettings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glance-api.conf");
    std::fs::write(&path, format!("[keystone_authtoken]\n{lines}")).unwrap();
    let search = ConfigSearch {
        project: &GLANCE,
        program: "glance-cache".into(),
        sources: vec![ConfigSource::File(path)],
        environment: BTreeMap::new(),
        root: dir.path().to_owned(),
        pass_over_unreadable: false,
    };
    let config = Config::load(&search).unwrap();
    let settings = AuthTokenSettings::from_config(&config, &Waits::new(Interrupt::default()));
    let settings =
        settings.map_err(|error| format!("{error:#}").replace(&dir.path().display().to_string(), ""));
    assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
    settings
}

fn session(url: &str) -> KeystoneSession {
    let settings = settings_with(url, "").unwrap();
    let mut reach = settings.reach;
    let waits = impatient();
    (reach.waits.connect, reach.waits.silence) = (waits.connect, waits.silence);
    KeystoneSession::new(settings.login, reach)
}

/// Returns a service to look for.
pub(super) fn sought<'a>(
    service_type: &'a str,
    interface: &'a str,
    region: Option<&'a str>,
) -> ServiceSought<'a> {
    ServiceSought { service_type, interface, region, settings: EndpointSettings::OF_GLANCE }
}

fn lines(double: &Double) -> Vec<String> {
    double.heads().iter().map(|head| head.lines().next().unwrap().replace(" HTTP/1.1", "")).collect()
}

#[test]
fn logs_in_once_and_knows_the_catalogue() {
    let double = keystone(granted);
    let session = session(&double.url("/v3"));
    assert_eq!(session.token().unwrap().reveal(), "own-0");
    assert_eq!(session.token().unwrap().reveal(), "own-0");
    assert_eq!(session.endpoint(&sought("image", "public", Some("R"))).unwrap().as_str(), "http://g:9292/");
    assert_eq!(session.endpoint(&sought("image", "admin", None)).unwrap_err().kind, Unhelpful::Misconfigured);
    assert_eq!(lines(&double), ["POST /v3/auth/tokens"]);
    let head = &double.heads()[0];
    assert!(head.contains("Content-Type: application/json\n"), "{head}");
    assert!(
        head.contains(r#""password":"s3cret/pa\"ss""#) && head.contains("\"name\":\"service\""),
        "{head}"
    );
}

#[test]
fn threads_share_one_login() {
    let double = keystone(|n, asked| {
        thread::sleep(Duration::from_millis(100));
        if n == 0 { granted(n, asked) } else { error(500, "no") }
    });
    let session = session(&double.url(""));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(session.token().unwrap().reveal(), "own-0"));
        }
    });
    assert_eq!(double.heads().len(), 1);
}

#[test]
fn threads_share_one_failure() {
    let double = keystone(|_, _| {
        thread::sleep(Duration::from_millis(200));
        error(401, "no")
    });
    let session = session(&double.url(""));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(session.token().unwrap_err().kind, Unhelpful::Refused));
        }
    });
    assert!(double.heads().len() < 4, "{}", double.heads().len());
}

#[test]
fn renews_a_token_before_it_ends() {
    let double = keystone(|n, _| {
        let token = json!({"token": {
            "issued_at": "2026-11-29T00:00:00.000000Z", "expires_at": "2026-11-29T00:00:00.200000Z"}});
        (201, format!("X-Subject-Token: own-{n}\r\n"), token.to_string())
    });
    let session = session(&double.url("/v3/"));
    assert_eq!(session.token().unwrap().reveal(), "own-0");
    thread::sleep(Duration::from_millis(110));
    assert_eq!(session.token().unwrap().reveal(), "own-1");
}

#[test]
fn a_refused_token_is_renewed_once() {
    let double = keystone(granted);
    let session = session(&double.url("/v3"));
    let asked = AtomicUsize::new(0);
    let ask = |refusals: usize| {
        asked.store(0, Ordering::Relaxed);
        session.authorized(
            |token| {
                let n = asked.fetch_add(1, Ordering::Relaxed);
                Ok::<_, KeystoneError>((token.to_owned(), if n < refusals { 401 } else { 200 }))
            },
            |(_, status)| *status == 401,
        )
    };
    assert_eq!(ask(0).unwrap(), ("own-0".to_owned(), 200));
    assert_eq!(ask(1).unwrap(), ("own-1".to_owned(), 200));
    assert_eq!(ask(9).unwrap(), ("own-2".to_owned(), 401));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn says_what_is_wrong_with_a_login() {
    for (answer, kind, message) in [
        (
            error(401, "The request you have made requires\nauthentication.\u{1b}[31m s3cret/pa\"ss"),
            Unhelpful::Refused,
            "refuses the user 'glance' (domain 'default') for the project 'service' (domain 'Default'): the \
             password is wrong, there is no such user or project, or the user has no role there (it answers \
             401: The request you have made requires authentication.\\u{1b}[31m ***)",
        ),
        (
            error(404, "Could not find: s3cret/pa\"ss"),
            Unhelpful::Refused,
            "no role there (it answers 404: Could not find: ***)",
        ),
        // In any other form, nothing of the text is shown.
        (error(403, "No s3cret%2Fpa%22ss"), Unhelpful::Refused, "'Default'): it answers 403"),
        (error(403, r#"No s3cret\/pa\"ss"#), Unhelpful::Refused, "'Default'): it answers 403"),
        (error(403, r"No \u0073\u0033cret/pa\u0022ss"), Unhelpful::Refused, "'Default'): it answers 403"),
        (error(403, "No s3cret/pa&quot;ss"), Unhelpful::Refused, "'Default'): it answers 403"),
        (error(403, "Locked."), Unhelpful::Refused, "'Default'): it answers 403: Locked."),
        (error(400, "Expecting."), Unhelpful::Misconfigured, "does not accept the login of the user"),
        (error(503, ""), Unhelpful::Unreachable, "is out of order: it answers 503"),
        (error(429, "Slow down"), Unhelpful::Unreachable, "is out of order: it answers 429: Slow down"),
        (
            told(201, &json!({"token": {}})),
            Unhelpful::Misconfigured,
            "is not that of a Keystone: it has no token",
        ),
        (
            (200, "X-Subject-Token: x\r\n".into(), "<html>".into()),
            Unhelpful::Misconfigured,
            "is not that of a Keystone: it does not describe the token",
        ),
        ((204, String::new(), String::new()), Unhelpful::Misconfigured, "does not accept the login"),
    ] {
        let double = keystone(move |_, _| answer.clone());
        let error = session(&double.url("/v3")).token().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(message), "{text}");
        assert!(text.contains(&double.url("/v3/auth/tokens")) && !text.contains("s3cret"), "{text}");
        assert_eq!(error.kind, kind, "{text}");
        assert_eq!(double.heads().len(), 1);
    }
}

#[test]
fn finds_version_3_where_its_server_says() {
    let versions = |href: &str| {
        let links = json!([{"rel": "describedby", "href": "x"}, {"rel": "self", "href": href}]);
        json!({"versions": {"values": [
            {"id": "v2.0", "links": [{"rel": "self", "href": "/v2.0"}]}, {"id": "v3.14", "links": links}]}})
    };
    let double = keystone(move |n, asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("POST", "/identity/v3/auth/tokens") => granted(n, asked),
        ("GET", "/") => told(300, &versions(&format!("http://{}/identity/v3/", asked.header("Host")))),
        _ => (404, String::new(), "<html>not found</html>".into()),
    });
    let session = session(&double.url("/"));
    assert_eq!(session.token().unwrap().reveal(), "own-2");
    let expected = ["POST /v3/auth/tokens", "GET /", "POST /identity/v3/auth/tokens"];
    assert_eq!(lines(&double), expected);
    assert_eq!(session.base().unwrap().as_str(), double.url("/identity/v3"));
}

#[test]
fn says_that_there_is_no_keystone_at_auth_url() {
    let elsewhere =
        json!({"version": {"id": "v3.14", "links": [{"rel": "self", "href": "http://public/v3"}]}});
    let here = json!({"version": {"id": "v3.14", "links": [{"rel": "self", "href": "/v3"}]}});
    for (status, document, message) in [
        (
            404,
            (404, String::new(), String::new()),
            "it answers 404; [keystone_authtoken] auth_url has to be the address of the Identity API, with",
        ),
        (
            405,
            told(200, &json!({"versions": {"values": []}})),
            "it answers 405; [keystone_authtoken] auth_url has to be",
        ),
        (
            300,
            told(300, &elsewhere),
            "gives http://public/v3 as the address of version 3, which is another server",
        ),
        (301, told(200, &here), "it answers 301, although it says that version 3 is there"),
    ] {
        let double = keystone(move |_, asked| {
            if asked.method == "GET" { document.clone() } else { (status, String::new(), String::new()) }
        });
        let error = session(&double.url("/")).token().unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind, Unhelpful::Misconfigured);
        // The password went nowhere else.
        let posts = lines(&double).iter().filter(|line| line.starts_with("POST")).count();
        assert_eq!(posts, 1);
    }
}

#[test]
fn a_keystone_that_is_away_or_silent_ends_the_wait() {
    let start = Instant::now();
    let error = session("http://127.0.0.1:1/v3").token().unwrap_err();
    assert_eq!(error.kind, Unhelpful::Unreachable);
    assert!(error.to_string().contains("is not reached: cannot connect to 127.0.0.1 port 1"), "{error}");
    let silent = Double::new(|_, _, _| thread::sleep(Duration::from_secs(2)));
    let error = session(&silent.url("/v3")).token().unwrap_err();
    assert!(error.to_string().ends_with("no answer: nothing came for 0.5 s"), "{error}");
    assert_eq!(error.kind, Unhelpful::Unreachable);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    let settings = settings_with("http://127.0.0.1:1/v3", "").unwrap();
    settings.reach.waits.interrupt.raise(15);
    let error = KeystoneSession::new(settings.login, settings.reach).token().unwrap_err();
    assert!(error.to_string().ends_with("interrupted"), "{error}");
}

/// A Keystone that is away may be back soon.
#[test]
fn a_keystone_that_is_away_is_left_alone_for_a_while() {
    let settings = settings_with("http://127.0.0.1:1/v3", "").unwrap();
    let mut reach = settings.reach;
    reach.silent = Some(SilentServers::default());
    for (message, is_known) in
        [("is not reached: cannot connect", false), ("; it is not asked again within 10s", true)]
    {
        // Another login to the same server.
        let session = KeystoneSession::new(settings.login.clone(), reach.clone());
        let error = session.token().unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.to_string().ends_with("within 10s"), is_known, "{error}");
    }
}

#[test]
fn a_connection_that_breaks_is_tried_again() {
    let double = Double::new(|n, text, stream| {
        if n == 1 {
            let (status, headers, body) = granted(n, &Asked::new(text));
            let mut answer = String::new();
            let _ = write!(
                answer,
                "HTTP/1.1 {status} C\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let mut settings = settings_with(&double.url(""), "").unwrap();
    settings.reach.retries = 1;
    let session = KeystoneSession::new(settings.login, settings.reach);
    assert_eq!(session.token().unwrap().reveal(), "own-1");
}

#[test]
fn a_given_token_needs_no_login() {
    let double = keystone(|n, asked| {
        let (_, headers, body) = granted(n, asked);
        if asked.method == "GET" && asked.header("X-Auth-Token") == "given" {
            (200, headers, body)
        } else {
            error(401, "no")
        }
    });
    let given = |url: &str, token: &str| {
        let lines = format!("auth_type = v3token\nauth_url = {url}\ntoken = {token}\n");
        let settings = settings(&lines).unwrap();
        KeystoneSession::new(settings.login, settings.reach)
    };
    let session = given(&double.url(""), "given");
    assert_eq!(session.token().unwrap().reveal(), "given");
    assert_eq!(double.heads().len(), 0);
    assert_eq!(session.endpoint(&sought("image", "public", None)).unwrap().as_str(), "http://g:9292/");
    assert_eq!(session.token().unwrap().reveal(), "given");
    let refused = session.authorized(|_| Ok::<_, KeystoneError>(401), |status| *status == 401);
    assert_eq!(refused.unwrap(), 401);
    assert_eq!(lines(&double), ["GET /v3/auth/tokens"]);
    let error = given(&double.url(""), "bad-one").endpoint(&sought("image", "public", None)).unwrap_err();
    assert!(
        error.to_string().contains("refuses the given token: it is unknown, expired or revoked"),
        "{error}"
    );
    assert!(!error.to_string().contains("bad-one"), "{error}");
}

#[test]
fn reads_the_settings_that_deployments_write() {
    let settings = settings_with(
        "http://k:5000",
        "cafile = /ca.pem\ncertfile = /c.pem\nkeyfile = /k.pem\nhttp_connect_timeout = 7\nregion_name = R\n\
         interface = admin\nwww_authenticate_uri = https://public:5000\n\
         service_token_roles = service, proxy\n\
         service_token_roles_required = false\nservice_type = image\ntoken_cache_time = 300\n\
         include_service_catalog = false\nmemcached_servers = a:11211\ndelay_auth_decision = true\n\
         auth_version = v3\nenforce_token_bind = disabled",
    )
    .unwrap();
    assert_eq!(settings.reach.trust, Trust::Only("/ca.pem".into()));
    assert_eq!(settings.reach.certificate, Some(("/c.pem".into(), "/k.pem".into())));
    assert_eq!(settings.reach.waits.silence, Duration::from_secs(7));
    assert_eq!(settings.reach.retries, 0);
    assert_eq!((settings.region.as_deref(), settings.interface.as_str()), (Some("R"), "admin"));
    assert_eq!(settings.service_roles, ["service", "proxy"]);
    assert_eq!(settings.cache_time, Duration::from_secs(300));
    assert!(!settings.include_catalog && !settings.service_roles_required && !settings.refuse_bound);
    assert_eq!(settings.remarks.len(), 2, "{:?}", settings.remarks);
    assert_eq!(Validator::new(settings).challenge(), "Keystone uri=\"https://public:5000\"");

    let settings = settings_with("http://k:5000", "insecure = true\ntoken_cache_time = -1").unwrap();
    assert_eq!((settings.reach.trust.clone(), settings.cache_time), (Trust::Anybody, Duration::ZERO));
    assert_eq!(settings.remarks.len(), 2, "{:?}", settings.remarks);
    assert_eq!(settings.www_authenticate_uri, "http://k:5000/");
    assert_eq!(settings_with("http://k:5000", "").unwrap().cache_time, Duration::from_secs(60));
    let section = "auth_section = other\n[other]\nauth_type = v3applicationcredential\nauth_url = http://k\n\
                   application_credential_id = a1\napplication_credential_secret = s3cret\n";
    let other = self::settings(section).unwrap();
    assert_eq!(other.login.shown(), "the application credential with the id 'a1'");
}

#[test]
fn says_which_setting_is_missing_or_wrong() {
    for (lines, message) in [
        ("", "[keystone_authtoken] auth_type is not set, so it is unknown how to log in to Keystone"),
        (
            "admin_user = glance\nadmin_password = s3cret\n",
            "[keystone_authtoken] admin_user is of a time before auth_type and is not supported: set \
             auth_type = password, and username and user_domain_name in its place",
        ),
        ("identity_uri = http://k:35357\n", "identity_uri is of a time before auth_type"),
        ("auth_type = password\n", "[keystone_authtoken] auth_url is not set"),
        ("auth_type = v3token\ntoken = s3cret\n", "auth_url is not set, so it is unknown where Keystone is"),
        (
            "auth_type = v3kerberos\n",
            "/glance-api.conf:2: [keystone_authtoken] auth_type: the plugin \"v3kerberos\" is not supported",
        ),
        (
            "auth_type = password\nauth_url = keystone\n",
            "/glance-api.conf:3: cannot use [keystone_authtoken] auth_url: it is not a URL that begins with",
        ),
        ("auth_section = none\n", "[none] auth_type is not set"),
    ] {
        let error = settings(lines).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    for (line, message) in [
        (
            "http_connect_timeout = 0",
            "/glance-api.conf:10: [keystone_authtoken] http_connect_timeout is 0, but must be from 1 to 3600",
        ),
        ("insecure = maybe", "[keystone_authtoken] insecure is \"maybe\", but must be true or false"),
        ("interface = foo", "interface is \"foo\", but must be one of public, internal, admin"),
        ("interface = Internal", "interface is \"Internal\", but must be one of public, internal, admin"),
        (
            "auth_version = v2.0",
            "/glance-api.conf:10: [keystone_authtoken] auth_version is \"v2.0\", but only version 3",
        ),
        ("enforce_token_bind = kerberos", "enforce_token_bind = kerberos is not supported"),
        (
            "www_authenticate_uri = http://a\" b",
            "conf:10: [keystone_authtoken] www_authenticate_uri is \"http://a\\\" b\", which is no URL",
        ),
        ("www_authenticate_uri = http://u:s3cret@h:5000/v3", "www_authenticate_uri has credentials: it is"),
        ("password = s3cret$", "neither"),
    ] {
        match settings_with("http://k", line) {
            Err(error) => assert!(error.contains(message), "{error}"),
            Ok(_) => assert!(line.starts_with("password"), "{line}"),
        }
    }
}

/// Answers of Keystone about the tokens `user`, `service`, `limited` and others; all else is unknown.
fn vouched(token: &str) -> Option<Value> {
    let of = |roles: &[&str], more: Value| {
        let roles: Vec<_> = roles.iter().map(|role| json!({"id": "r", "name": role})).collect();
        let domain = json!({"id": "default", "name": "Default"});
        let mut token = json!({
            "methods": ["password"], "expires_at": NEVER, "is_domain": false, "roles": roles,
            "user": {"id": format!("{token}-id"), "name": token, "domain": domain},
            "project": {"id": "p1", "name": "p", "domain": domain},
            "catalog": [{"type": "image", "name": "glance", "endpoints": []}],
        });
        for (key, value) in more.as_object().unwrap() {
            token[key] = value.clone();
        }
        Some(token)
    };
    let rules = |rules: Value| json!({"application_credential": {"id": "a", "access_rules": rules}});
    match token {
        "user" | "renewed" => of(&["Admin", "member"], json!({})),
        "service" => of(&["service"], json!({})),
        "other" => of(&["reader"], json!({"is_admin_project": false})),
        "system" => of(&["admin"], json!({"system": {"all": true}, "project": null})),
        "domain" => of(&["admin"], json!({"domain": {"id": "d1", "name": "D"}, "project": null})),
        "unscoped" => of(&[], json!({"project": null, "catalog": null})),
        "limited" => of(
            &["admin"],
            rules(json!([{"id": "1", "service": "image", "method": "POST", "path": "/v2/cache/prune"}])),
        ),
        "empty" => of(&["admin"], rules(json!([]))),
        "free" => of(&["admin"], rules(Value::Null)),
        "expired" => of(&["admin"], json!({"expires_at": "2026-01-01T00:00:00.000000Z"})),
        "bound" => of(&["admin"], json!({"bind": {"kerberos": "principal"}})),
        "nobody" => of(&["admin"], json!({"user": null})),
        "endless" => of(&["admin"], json!({"expires_at": null})),
        _ => None,
    }
}

/// Returns a Keystone that knows the tokens of [`vouched`].
fn judging() -> Double {
    keystone(|n, asked| {
        if asked.is_login() {
            return granted(n, asked);
        }
        assert!(asked.target.starts_with("/v3/auth/tokens") && asked.method == "GET", "{}", asked.target);
        assert!(asked.header("X-Auth-Token").starts_with("own-"), "{}", asked.text);
        assert_eq!(asked.header("Openstack-Identity-Access-Rules"), "1", "{}", asked.text);
        let subject = asked.header("X-Subject-Token");
        match vouched(subject) {
            Some(_) if subject == "expired" && !asked.target.contains("allow_expired=1") => {
                error(404, "gone")
            }
            Some(token) => told(200, &json!({"token": token})),
            None => error(404, "Could not find token."),
        }
    })
}

fn validator(url: &str, more: &str) -> Validator {
    Validator::new(settings_with(url, more).unwrap())
}

fn request(token: &str) -> Presented<'_> {
    Presented { token, service_token: None, method: "POST", path: "/v2/cache/prune" }
}

pub(super) fn unauthorized<T: std::fmt::Debug>(result: Result<T, Rejection>) -> &'static str {
    match result {
        Err(Rejection::Unauthorized(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

pub(super) fn unavailable<T: std::fmt::Debug>(result: Result<T, Rejection>) -> String {
    match result {
        Err(Rejection::Unavailable(reason)) => {
            assert!(!reason.contains("s3cret") && !reason.contains("own-"), "{reason}");
            reason
        }
        other => panic!("{other:?}"),
    }
}

const UNKNOWN: &str = "the token is unknown, expired or revoked";

#[test]
fn a_good_token_makes_a_caller() {
    let double = judging();
    let validator = validator(&double.url("/v3"), "");
    let caller = validator.judge(&request(" user ")).unwrap();
    assert_eq!(caller.user_id.as_deref(), Some("user-id"));
    assert_eq!(caller.user_domain_id.as_deref(), Some("default"));
    assert_eq!(caller.project_id.as_deref(), Some("p1"));
    assert_eq!(caller.project_domain_id.as_deref(), Some("default"));
    assert_eq!((caller.domain_id, caller.system_scope), (None, None));
    assert_eq!(caller.roles, ["admin", "member"]);
    assert!(caller.is_admin_project);
    assert_eq!(caller.service_user_id, None);
    let caller = validator.judge(&request("system")).unwrap();
    assert_eq!((caller.system_scope.as_deref(), caller.project_id), (Some("all"), None));
    assert_eq!(validator.judge(&request("domain")).unwrap().domain_id.as_deref(), Some("d1"));
    assert!(!validator.judge(&request("other")).unwrap().is_admin_project);
    assert_eq!(validator.judge(&request("unscoped")).unwrap().roles, [""; 0]);
    assert!(validator.judge(&request("free")).is_ok());
}

/// As a service does it, which must not wait in the thread of its own runtime.
#[test]
fn a_blocking_thread_of_a_runtime_can_judge() {
    let double = judging();
    let validator = Arc::new(validator(&double.url("/v3"), ""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let judged = runtime.block_on(async move {
        tokio::task::spawn_blocking(move || validator.judge(&request("user"))).await.unwrap()
    });
    assert_eq!(judged.unwrap().user_id.as_deref(), Some("user-id"));
}

#[test]
fn answers_are_kept() {
    let double = judging();
    let validator = validator(&double.url("/v3"), "");
    for _ in 0..3 {
        validator.judge(&request("user")).unwrap();
        assert_eq!(unauthorized(validator.judge(&request("wrong"))), UNKNOWN);
    }
    assert_eq!(lines(&double), ["POST /v3/auth/tokens", "GET /v3/auth/tokens", "GET /v3/auth/tokens"]);
    let double = judging();
    let validator = self::validator(&double.url("/v3"), "token_cache_time = 0\ninclude_service_catalog = no");
    validator.judge(&request("user")).unwrap();
    validator.judge(&request("user")).unwrap();
    assert_eq!(lines(&double)[1..], ["GET /v3/auth/tokens?nocatalog"; 2]);
}

#[test]
fn what_cannot_be_a_token_is_not_asked_for() {
    let double = judging();
    let validator = validator(&double.url("/v3"), "");
    let long = "x".repeat(2049);
    let characters = "the token has characters that no token has";
    for (token, why) in [
        ("", "the token is empty"),
        (" ", "the token is empty"),
        ("a b", characters),
        ("a\tb", characters),
        ("a\r\nb", characters),
        ("schön", characters),
        ("\u{7f}", characters),
        (&*long, "the token is longer than 2048 bytes"),
    ] {
        assert_eq!(unauthorized(validator.judge(&request(token))), why, "{token:?}");
    }
    assert_eq!(double.heads().len(), 0);
    assert_eq!(unauthorized(validator.judge(&request("expired"))), UNKNOWN);
    assert_eq!(unauthorized(validator.judge(&request("bound"))), UNKNOWN);
    for token in ["nobody", "endless"] {
        let reason = unavailable(validator.judge(&request(token)));
        assert!(reason.contains("is not understood: it does not say"), "{reason}");
    }
}

#[test]
fn a_service_token_lets_an_expired_one_in() {
    let double = judging();
    let validator = validator(&double.url("/v3"), "service_type = image");
    let with = |token, service| Presented { service_token: Some(service), ..request(token) };
    // Bad without a service token, good with one, and bad again without.
    assert_eq!(unauthorized(validator.judge(&request("expired"))), UNKNOWN);
    let caller = validator.judge(&with("expired", "service")).unwrap();
    assert_eq!(caller.user_id.as_deref(), Some("expired-id"));
    assert_eq!(caller.service_user_id.as_deref(), Some("service-id"));
    assert_eq!(caller.service_project_id.as_deref(), Some("p1"));
    assert_eq!(caller.service_roles, ["service"]);
    assert_eq!(unauthorized(validator.judge(&request("expired"))), UNKNOWN);
    assert_eq!(
        unauthorized(validator.judge(&with("user", "other"))),
        "the service token has none of service_token_roles"
    );
    for service in ["wrong", "", "expired"] {
        assert_eq!(unauthorized(validator.judge(&with("user", service))), "the service token is not valid");
    }
    let lax = self::validator(&double.url("/v3"), "service_token_roles_required = false");
    assert_eq!(lax.judge(&with("user", "other")).unwrap().service_roles, ["reader"]);
    assert_eq!(unauthorized(lax.judge(&with("expired", "other"))), UNKNOWN);
}

#[test]
fn access_rules_limit_the_requests() {
    let double = judging();
    let ours = validator(&double.url("/v3"), "service_type = image");
    let to = |token, path| Presented { path, ..request(token) };
    let not_allowed = "the token's access rules do not allow the request";
    assert!(ours.judge(&request("limited")).is_ok());
    assert_eq!(unauthorized(ours.judge(&to("limited", "/v2/cache/clean"))), not_allowed);
    assert_eq!(unauthorized(ours.judge(&Presented { method: "GET", ..request("limited") })), not_allowed);
    assert_eq!(unauthorized(ours.judge(&request("empty"))), not_allowed);
    let by = |token, service| Presented { service_token: Some(service), ..to(token, "/v2/cache/clean") };
    assert!(ours.judge(&by("limited", "service")).is_ok());
    assert_eq!(unauthorized(ours.judge(&by("empty", "service"))), not_allowed);
    assert_eq!(unauthorized(ours.judge(&by("limited", "junk"))), "the service token is not valid");
    let lax = validator(&double.url("/v3"), "service_type = image\nservice_token_roles_required = false");
    assert_eq!(unauthorized(lax.judge(&by("limited", "other"))), not_allowed);
    let reason = unauthorized(validator(&double.url("/v3"), "").judge(&request("limited")));
    assert!(reason.contains("service_type is not set"), "{reason}");
    let reason =
        unauthorized(validator(&double.url("/v3"), "service_type = compute").judge(&request("limited")));
    assert!(reason.contains("service_type is not in its catalogue"), "{reason}");
}

#[test]
fn our_own_token_is_renewed_once_if_it_is_refused() {
    let double = keystone(|n, asked| {
        if asked.is_login() {
            return granted(n, asked);
        }
        match asked.header("X-Auth-Token") {
            "own-0" => error(401, "no"),
            _ => told(200, &json!({"token": vouched("user").unwrap()})),
        }
    });
    let validator = validator(&double.url("/v3"), "");
    assert!(validator.judge(&request("renewed")).is_ok());
    let expected =
        ["POST /v3/auth/tokens", "GET /v3/auth/tokens", "POST /v3/auth/tokens", "GET /v3/auth/tokens"];
    assert_eq!(lines(&double), expected);
}

#[test]
fn our_own_trouble_is_not_the_callers() {
    let answering = |login: Option<Told>, judged: Told| {
        keystone(move |n, asked| match (&login, asked.is_login()) {
            (Some(login), true) => login.clone(),
            (None, true) => granted(n, asked),
            _ => judged.clone(),
        })
    };
    for (login, judged, message) in [
        (Some(error(401, "no")), error(500, ""), "our service user cannot log in: Keystone at "),
        (
            None,
            error(401, "no"),
            "refuses our own token, also a new one (our service user is the user 'glance'",
        ),
        (
            None,
            error(403, "You are not authorized"),
            "does not let us validate tokens (it answers 403: You are",
        ),
        (None, error(500, "Oops"), "does not judge a token: it answers 500: Oops"),
        (None, (301, String::new(), String::new()), "does not judge a token: it answers 301"),
        (None, (200, String::new(), "[]".into()), "is not understood: it is no description of a token"),
    ] {
        let double = answering(login, judged);
        let validator = validator(&double.url("/v3"), "");
        let reason = unavailable(validator.judge(&request("user")));
        assert!(reason.contains(message), "{reason}");
    }
    let reason = unavailable(validator("http://127.0.0.1:1", "").judge(&request("user")));
    assert!(reason.starts_with("Keystone at http://127.0.0.1:1/v3/auth/tokens is not reached: "), "{reason}");
    assert!(validator("http://127.0.0.1:1", "").log_in().is_err());
}

#[test]
fn a_token_of_another_region_is_judged_by_the_keystone_that_we_know() {
    // The catalogue has no internal endpoint in this region, so the Keystone of the login judges.
    let double = judging();
    let validator = validator(&double.url("/v3"), "region_name = Elsewhere");
    assert!(validator.judge(&request("user")).is_ok());
    assert!(validator.log_in().is_ok());
}

#[test]
fn no_more_than_eight_questions_are_asked_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let double = Double::new(move |n, text, stream| {
        let answer = |told: &Told| {
            let (status, headers, body) = told;
            format!("HTTP/1.1 {status} C\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
        };
        if n == 0 {
            let _ = stream.write_all(answer(&granted(n, &Asked::new(text))).as_bytes());
            return;
        }
        let (now, most, mut stream) = (Arc::clone(&now), Arc::clone(&most), stream.try_clone().unwrap());
        let answer = answer(&error(404, "no"));
        thread::spawn(move || {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(150));
            now.fetch_sub(1, Ordering::SeqCst);
            let _ = stream.write_all(answer.as_bytes());
        });
    });
    let validator = validator(&double.url("/v3"), "");
    validator.log_in().unwrap();
    thread::scope(|scope| {
        for n in 0..24 {
            let validator = &validator;
            scope.spawn(move || {
                assert_eq!(unauthorized(validator.judge(&request(&format!("t{n}")))), UNKNOWN);
            });
        }
    });
    assert_eq!(double.heads().len(), 25);
    let most = seen.load(Ordering::SeqCst);
    assert!((2..=8).contains(&most), "{most}");
}

#[test]
fn a_silent_keystone_does_not_hold_callers_for_ever() {
    let double = Double::new(|n, text, stream| {
        if n == 0 {
            let (status, headers, body) = granted(n, &Asked::new(text));
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status} C\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
            return;
        }
        let stream = stream.try_clone().unwrap();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(10));
            drop(stream);
        });
    });
    let mut settings = settings_with(&double.url("/v3"), "").unwrap();
    settings.reach = settings.reach.within(Duration::from_millis(500));
    let validator = Validator::new(settings);
    let start = Instant::now();
    let judge = |n: usize| unavailable(validator.judge(&request(&format!("t{n}"))));
    let reasons: Vec<String> = thread::scope(|scope| {
        let judge = &judge;
        let threads: Vec<_> = (0..12).map(|n| scope.spawn(move || judge(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let is_about = |reason: &String| {
        reason.ends_with("no answer: nothing came for 0.5 s")
            || reason.starts_with("8 questions about tokens")
    };
    assert!(reasons.iter().all(is_about), "{reasons:#?}");
}

/// Our own login is left alone for a few seconds after a refusal, whoever calls: Keystone may lock its user
/// out.
#[test]
fn a_refused_login_of_the_service_is_left_alone_for_a_while() {
    let double = keystone(|_, _| error(401, "no"));
    let validator = Validator::new(settings_with(&double.url("/v3"), "").unwrap());
    for _ in 0..3 {
        assert_eq!(validator.log_in().unwrap_err().kind, Unhelpful::Refused);
    }
    assert_eq!(lines(&double), ["POST /v3/auth/tokens"]);
}

/// A busy Keystone that says when to come back is asked again by a run that reads images, if that is soon.
#[test]
fn a_busy_keystone_is_asked_again_when_it_says() {
    for (after, busy, is_granted, requests) in
        [("0", 2, true, 3), ("0", 9, false, 4), ("3600", 1, false, 1), ("x", 1, false, 1)]
    {
        let double = keystone(move |n, asked| match n {
            n if n < busy => (503, format!("Retry-After: {after}\r\n"), String::new()),
            n => granted(n, asked),
        });
        let settings = settings_with(&double.url("/v3"), "").unwrap();
        let reach = Reach { retries: 3, silent: Some(SilentServers::default()), ..settings.reach };
        let session = KeystoneSession::new(settings.login, reach);
        assert_eq!(session.token().is_ok(), is_granted, "{after} {busy}");
        assert_eq!(double.heads().len(), requests, "{after} {busy}");
    }
}
