//! The Cache API of a node: its calls, the addresses they are sent to, and what an answer means.
//!
//! Pure: nothing is sent here. The same table serves any node, Glance's own API and ours. Answers come from
//! servers that may be anything: whatever they say is bounded and escaped before it is shown.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::names::{ImageId, escaped};
use crate::net::http::Method;
use crate::openstack::secret::{Secret, without_secrets};

/// The longest URL of a node, in bytes. Glance's column for it has 255 characters.
const MAX_URL: usize = 2000;
/// Limit of what is shown of a URL or of a server's words, in characters.
const MAX_SHOWN: usize = 300;
/// The pause before a busy node is asked again, if it gives none that is understood.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);

/// A call that is sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheCall {
    List,
    Queue(ImageId),
    Clean,
    Prune,
}

impl CacheCall {
    pub(crate) fn method(self) -> Method {
        match self {
            Self::List => Method::GET,
            Self::Queue(_) => Method::PUT,
            Self::Clean | Self::Prune => Method::POST,
        }
    }

    /// Returns the URL of the call at a node.
    pub(crate) fn url(self, node: &Url) -> Url {
        let call = match self {
            Self::List => "v2/cache".to_owned(),
            Self::Queue(id) => format!("v2/cache/{id}"),
            Self::Clean => "v2/cache/clean".to_owned(),
            Self::Prune => "v2/cache/prune".to_owned(),
        };
        below(node, &call)
    }

    /// Returns the policy that decides about the call.
    fn policy(self) -> &'static str {
        match self {
            Self::List => "cache_list",
            Self::Queue(_) => "cache_image",
            Self::Clean => "cache_clean",
            Self::Prune => "cache_prune",
        }
    }
}

/// Returns the URL that lists the versions of a node's API.
pub(crate) fn versions_url(node: &Url) -> Url {
    below(node, "versions")
}

fn below(node: &Url, path: &str) -> Url {
    let mut url = node.clone();
    url.set_path(&format!("{}/{path}", node.path().trim_end_matches('/')));
    url
}

/// Returns the URL of a node without the version at its end, or the reason why nobody can be asked there.
pub(crate) fn node_url(text: &str) -> Result<Url, &'static str> {
    if text.len() > MAX_URL {
        return Err("the URL is longer than 2000 characters");
    }
    // The parser would leave some of them out.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("the URL has blanks or control characters");
    }
    let mut url = Url::parse(text).map_err(|_| "it is not a URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the URL is neither http nor https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL has credentials in it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the URL has a query or a fragment");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("the URL has no host");
    }
    let path = url.path().trim_end_matches('/');
    let is_version = |part: &str| {
        part.strip_prefix('v').is_some_and(|rest| {
            rest.starts_with('2') && rest.bytes().all(|b| b == b'.' || b.is_ascii_digit())
        })
    };
    let path = match path.rsplit_once('/') {
        Some((before, last)) if is_version(last) => before.to_owned(),
        _ => path.to_owned(),
    };
    url.set_path(&path);
    Ok(url)
}

/// Returns the URL of a node, or of another server, as it is shown everywhere: escaped, not too long, and
/// without credentials.
pub(crate) fn shown_url(text: &str) -> String {
    let text = match text.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://(credentials)@{after}")
        }
        None => text.to_owned(),
    };
    cut(&text)
}

/// True if two URLs lead to the same server.
pub(crate) fn same_server(one: &Url, other: &Url) -> bool {
    one.host() == other.host() && one.port_or_known_default() == other.port_or_known_default()
}

/// True if a token that is sent there can be read on the way.
pub(crate) fn is_exposed(url: &Url) -> bool {
    let is_local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_local
}

/// The result of asking a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeStatus {
    Done,
    /// The caller may not do that.
    Refused,
    /// The node's API does not have the call.
    NotSupported,
    CachingOff,
    /// Another operation held the cache's lock all the time.
    Busy,
    Failed,
    /// The node may have done it, or may still be doing it.
    Unknown,
    Unreachable,
    /// The node has a URL at which nobody can be asked.
    InvalidUrl,
    NotAsked,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::NotSupported => "not supported",
            Self::CachingOff => "caching off",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
            Self::InvalidUrl => "invalid URL",
            Self::NotAsked => "not asked",
        })
    }
}

/// An answer of a node, with the headers that count.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeAnswer {
    pub(crate) status: u16,
    pub(crate) allow: Option<String>,
    pub(crate) location: Option<String>,
    /// The pause after which it is to be asked again, if it wants to be.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
    /// The token that the node was asked with, which its words may repeat.
    pub(crate) token: Secret,
}

/// The files and bytes that a call removed; `None` if the node does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removals {
    pub(crate) files: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

/// The meaning of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Done(Removals),
    /// The token is not accepted; a new one may be.
    TokenRefused,
    /// The cache is busy. The node is to be asked again after this pause.
    Later(Duration),
    Ended(NodeStatus, String),
}

/// Returns the meaning of an answer to a call.
pub(crate) fn meaning(call: CacheCall, answer: &NodeAnswer) -> Meaning {
    let ended = |status, message: String| Meaning::Ended(status, message);
    let failed = |message: String| Meaning::Ended(NodeStatus::Failed, message);
    let words = || answer.words();
    match answer.status {
        200 | 202 | 204 => done(call, answer),
        300 => ended(NodeStatus::NotSupported, "the API there does not have this call".to_owned()),
        301 | 302 | 303 | 307 | 308 => {
            let place = answer.location.as_deref().map(|place| answer.without_token(place));
            let place = place.filter(|place| !place.is_empty());
            let place = place.map_or("elsewhere".to_owned(), |place| shown_url(&place));
            failed(format!("it redirects to {place}, which is not followed"))
        }
        401 => Meaning::TokenRefused,
        403 => ended(
            NodeStatus::Refused,
            format!(
                "the caller may not do that: the policy {} wants the role admin in a project, and system \
                 scope does not count",
                call.policy()
            ),
        ),
        404 if answer.says("Caching via API is not supported") => {
            ended(NodeStatus::CachingOff, "image_cache_dir is not set there".to_owned())
        }
        404 if matches!(call, CacheCall::Queue(_)) && answer.says("Image ") => failed(words()),
        404 => ended(NodeStatus::NotSupported, "there is no Cache API at this address".to_owned()),
        405 if answer.allows_cache_calls() => {
            ended(NodeStatus::NotSupported, "the API there does not have this call".to_owned())
        }
        503 => match answer.retry_after {
            Some(pause) => Meaning::Later(pause),
            None => failed(words()),
        },
        504 if call != CacheCall::List => ended(
            NodeStatus::Unknown,
            format!("a proxy gave up waiting for it, so the node may still be at work ({})", words()),
        ),
        _ => failed(words()),
    }
}

fn done(call: CacheCall, answer: &NodeAnswer) -> Meaning {
    let (files, bytes) = match call {
        CacheCall::Prune => ("total_files_pruned", "total_bytes_pruned"),
        CacheCall::Clean => ("total_files_cleaned", "total_bytes_cleaned"),
        CacheCall::List | CacheCall::Queue(_) => ("", ""),
    };
    let json = answer.json();
    let number = |key: &str| json.as_ref().and_then(|json| json.get(key)).and_then(Value::as_u64);
    let removals = Removals { files: number(files), bytes: number(bytes) };
    let is_expected = match call {
        CacheCall::List => answer.status == 200 && json.as_ref().is_some_and(Value::is_object),
        CacheCall::Queue(_) => answer.status == 202,
        // Glance's answer to a clean is empty.
        CacheCall::Clean => answer.status == 200 && (answer.body.is_empty() || removals.files.is_some()),
        CacheCall::Prune => answer.status == 200 && removals.files.is_some() && removals.bytes.is_some(),
    };
    if is_expected {
        Meaning::Done(removals)
    } else {
        let message = format!("it answers {} with something that is not of the Cache API", answer.status);
        Meaning::Ended(NodeStatus::Failed, message)
    }
}

/// True if an answer to a call shows that something else than the API is at this address: a redirect, a page
/// of a web server, or a method that this server has for no address.
pub(crate) fn is_foreign(call: CacheCall, answer: &NodeAnswer) -> bool {
    match answer.status {
        200 | 202 | 204 => !matches!(done(call, answer), Meaning::Done(_)),
        301 | 302 | 303 | 307 | 308 => true,
        405 => !answer.allows_cache_calls(),
        _ => false,
    }
}

impl NodeAnswer {
    /// True if the methods that it names are those of an image in Glance's cache.
    fn allows_cache_calls(&self) -> bool {
        self.allow.as_deref().is_some_and(|allow| allow.contains("DELETE") && allow.contains("PUT"))
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    fn says(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }

    fn without_token(&self, text: &str) -> String {
        without_secrets(text, &[self.token.reveal()])
    }

    /// Returns the status and the words of the answer, without markup and line breaks.
    pub(crate) fn words(&self) -> String {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let of_json = self.json().and_then(|json| {
            let first = || json.get("errors")?.get(0)?.get("message").and_then(text);
            json.get("message").and_then(text).or_else(|| json.get("error").and_then(text)).or_else(first)
        });
        let words = of_json.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        let words = without_markup(&self.without_token(&words));
        match cut(&words) {
            words if words.is_empty() => format!("it answers {}", self.status),
            words => format!("it answers {}: {words}", self.status),
        }
    }
}

/// Returns the number of the current version in a node's list of versions, such as `v2.17`.
pub(crate) fn current_version(versions: &NodeAnswer) -> Option<String> {
    let json = versions.json()?;
    let is_current = |version: &&Value| version["status"] == "CURRENT";
    let version = json.get("versions")?.as_array()?.iter().find(is_current)?;
    let id = version["id"].as_str()?;
    let is_plain = id.len() <= 20 && id.bytes().all(|b| b == b'.' || b.is_ascii_alphanumeric());
    is_plain.then(|| id.to_owned())
}

/// Returns a text without the tags of HTML, its words with one blank between them.
fn without_markup(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        plain += before;
        plain.push(' ');
        rest = after.split_once('>').map_or("", |(_, after)| after);
    }
    plain += rest;
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the beginning of a text, escaped.
fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    escaped(short.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &str) -> NodeAnswer {
        NodeAnswer { status, body: body.as_bytes().to_owned(), ..NodeAnswer::default() }
    }

    fn queue() -> CacheCall {
        CacheCall::Queue("1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10".parse().unwrap())
    }

    fn call(name: &str) -> CacheCall {
        match name {
            "list" => CacheCall::List,
            "clean" => CacheCall::Clean,
            "prune" => CacheCall::Prune,
            _ => queue(),
        }
    }

    const ZERO: &str = r#"{"total_files_pruned": 0, "total_bytes_pruned": 0}"#;
    const HTML: &str = "<html>\n <head>\n  <title>500 Internal Server Error</title>\n </head>\n</html>";
    const OFF: &str = "Caching via API is not supported at this site.";

    /// A call, the status and body of the answer, the status of the node, and a part of the message.
    const FAILURES: &[(&str, u16, &str, NodeStatus, &str)] = {
        use NodeStatus::{CachingOff, Failed, NotSupported, Refused, Unknown};
        &[
            ("prune", 200, "", Failed, "not of the Cache API"),
            ("prune", 200, "<html>", Failed, "not of the Cache API"),
            ("prune", 200, r#"{"total_files_pruned": -1}"#, Failed, "not of the Cache API"),
            ("prune", 202, ZERO, Failed, "answers 202"),
            ("clean", 200, "It works!", Failed, "not of the Cache API"),
            ("queue", 200, "", Failed, "answers 200"),
            ("list", 200, "[]", Failed, "not of the Cache API"),
            ("prune", 403, "", Refused, "cache_prune wants the role admin"),
            ("list", 403, "", Refused, "cache_list wants the role admin"),
            ("prune", 300, "{}", NotSupported, "does not have this call"),
            ("prune", 404, "404 Not Found", NotSupported, "no Cache API"),
            ("prune", 404, OFF, CachingOff, "image_cache_dir is not set there"),
            ("queue", 404, OFF, CachingOff, "image_cache_dir is not set there"),
            ("queue", 404, "Image X not found.", Failed, "404: Image X not found."),
            ("queue", 404, "The resource could not be found.", NotSupported, "no Cache API"),
            ("queue", 400, "Only images with status active", Failed, "400: Only images"),
            ("queue", 501, "", Failed, "answers 501"),
            ("prune", 500, HTML, Failed, "answers 500: 500 Internal Server Error"),
            ("prune", 500, r#"{"total_files_pruned":1,"errors":[{"message":"busy"}]}"#, Failed, "500: busy"),
            ("prune", 409, r#"{"message": "E<br /><br />\n\n\n", "code": "409"}"#, Failed, "answers 409: E"),
            ("prune", 502, "", Failed, "answers 502"),
            ("prune", 503, "", Failed, "answers 503"),
            ("prune", 504, "", Unknown, "may still be at work"),
            ("clean", 504, "", Unknown, "may still be at work"),
            ("list", 504, "", Failed, "answers 504"),
            ("prune", 199, "", Failed, "answers 199"),
        ]
    };

    #[track_caller]
    fn assert_ended(call: CacheCall, answer: &NodeAnswer, status: NodeStatus, part: &str) {
        match meaning(call, answer) {
            Meaning::Ended(found, message) => {
                assert_eq!(found, status, "{call:?} {answer:?}: {message}");
                assert!(message.contains(part), "{call:?} {answer:?}: {message}");
            }
            other => panic!("{call:?} {answer:?}: {other:?}"),
        }
    }

    #[test]
    fn answers_mean_what_the_table_says() {
        let done = |files, bytes| Meaning::Done(Removals { files, bytes });
        let ours = r#"{"total_files_cleaned":2,"total_bytes_cleaned":5,"x":1}"#;
        for (name, status, body, expected) in [
            ("prune", 200, ZERO, done(Some(0), Some(0))),
            ("clean", 200, "", done(None, None)),
            ("clean", 200, ours, done(Some(2), Some(5))),
            ("queue", 202, "", done(None, None)),
            ("list", 200, r#"{"cached_images": [], "queued_images": []}"#, done(None, None)),
            ("prune", 401, "", Meaning::TokenRefused),
        ] {
            assert_eq!(meaning(call(name), &answer(status, body)), expected, "{name} {status} {body}");
        }
        for (name, code, body, status, part) in FAILURES {
            assert_ended(call(name), &answer(*code, body), *status, part);
        }
    }

    #[test]
    fn headers_count_where_they_have_a_meaning() {
        let allow = |allow: &str| NodeAnswer { allow: Some(allow.to_owned()), ..answer(405, "") };
        let part = "does not have this call";
        assert_ended(CacheCall::Prune, &allow("DELETE, PUT"), NodeStatus::NotSupported, part);
        assert_ended(CacheCall::Prune, &allow("GET"), NodeStatus::Failed, "answers 405");
        let location = Some("http://u:p@evil/\u{1b}[2J".to_owned());
        let redirect = NodeAnswer { location, ..answer(302, "") };
        let part = "redirects to http://(credentials)@evil/\\u{1b}[2J, which is not followed";
        assert_ended(CacheCall::Prune, &redirect, NodeStatus::Failed, part);
        let busy = NodeAnswer { retry_after: Some(PAUSE), ..answer(503, "") };
        assert_eq!(meaning(CacheCall::Prune, &busy), Meaning::Later(PAUSE));
    }

    #[test]
    fn urls_of_nodes_are_checked() {
        for (text, expected) in [
            ("http://a:9292", Ok("http://a:9292/")),
            ("https://a.example/image/", Ok("https://a.example/image")),
            ("http://a:9292/v2", Ok("http://a:9292/")),
            ("http://a:9292/v2.9/", Ok("http://a:9292/")),
            ("http://a/x/v2", Ok("http://a/x")),
            ("http://a/v1", Ok("http://a/v1")),
            ("http://[::1]:9292", Ok("http://[::1]:9292/")),
            ("", Err("it is not a URL")),
            ("a:9292", Err("the URL is neither http nor https")),
            ("node1", Err("it is not a URL")),
            ("file:///etc/passwd", Err("the URL is neither http nor https")),
            ("ftp://a", Err("the URL is neither http nor https")),
            ("http://user:word@a:9292", Err("the URL has credentials in it")),
            ("http://user@a:9292", Err("the URL has credentials in it")),
            ("http://a:9292?x=1", Err("the URL has a query or a fragment")),
            ("http://a:9292/#x", Err("the URL has a query or a fragment")),
            ("http://a:99999", Err("it is not a URL")),
            ("http://", Err("it is not a URL")),
            ("http://a\u{1b}[2J:9292", Err("the URL has blanks or control characters")),
            ("http://a\n.evil", Err("the URL has blanks or control characters")),
            (" http://a", Err("the URL has blanks or control characters")),
        ] {
            assert_eq!(node_url(text).as_ref().map(Url::as_str), expected.as_ref().copied(), "{text:?}");
        }
        let long = format!("http://{}", "a".repeat(10_000));
        assert_eq!(node_url(&long), Err("the URL is longer than 2000 characters"));
        assert_eq!(shown_url(&long).len(), MAX_SHOWN + 3);
    }

    #[test]
    fn calls_are_below_the_url_of_the_node() {
        let url = |call: CacheCall, node: &str| call.url(&node_url(node).unwrap()).to_string();
        assert_eq!(url(CacheCall::Prune, "http://a:9292"), "http://a:9292/v2/cache/prune");
        assert_eq!(url(CacheCall::Clean, "http://a/image/v2/"), "http://a/image/v2/cache/clean");
        assert_eq!(url(CacheCall::List, "https://a"), "https://a/v2/cache");
        assert_eq!(url(queue(), "http://a"), "http://a/v2/cache/1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10");
    }

    #[test]
    fn shown_urls_have_no_credentials_and_no_control_characters() {
        for (text, expected) in [
            ("http://a:9292", "http://a:9292"),
            ("http://user:s3cr3t@a:9292", "http://(credentials)@a:9292"),
            ("user:s3cr3t@a", "://(credentials)@a"),
            ("http://a\u{1b}[31m", "http://a\\u{1b}[31m"),
        ] {
            assert_eq!(shown_url(text), expected);
        }
    }

    #[test]
    fn tokens_are_exposed_on_the_network_only() {
        for (text, expected) in [
            ("http://a:9292", true),
            ("https://a:9292", false),
            ("http://localhost:1", false),
            ("http://127.0.0.2:1", false),
            ("http://[::1]:1", false),
            ("http://10.0.0.1", true),
            ("http://localhost.evil", true),
        ] {
            assert_eq!(is_exposed(&Url::parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn servers_are_compared_by_host_and_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(same_server(&url("http://a"), &url("http://A:80/image/v2")));
        assert!(same_server(&url("https://a:443"), &url("https://a")));
        assert!(!same_server(&url("https://a"), &url("http://a")));
        assert!(!same_server(&url("http://a:9292"), &url("http://b:9292")));
    }

    #[test]
    fn the_current_version_is_found() {
        let versions =
            r#"{"versions": [{"id": "v2.17", "status": "CURRENT"}, {"id": "v2.16", "status": "SUPPORTED"}]}"#;
        assert_eq!(current_version(&answer(200, versions)).as_deref(), Some("v2.17"));
        for body in
            ["", "{}", r#"{"versions": {}}"#, r#"{"versions": [{"id": "v\u001b", "status": "CURRENT"}]}"#]
        {
            assert_eq!(current_version(&answer(200, body)), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_shows_control_characters(
            status in 100u16..700,
            body in "[\\PC\u{1b}\n<>{}\"]{0,400}",
        ) {
            for call in [CacheCall::List, queue(), CacheCall::Clean, CacheCall::Prune] {
                if let Meaning::Ended(_, message) = meaning(call, &answer(status, &body)) {
                    prop_assert!(!message.chars().any(char::is_control), "{}", message);
                    prop_assert!(message.len() < 8000);
                }
            }
        }

        #[test]
        fn no_url_panics(text in any::<String>()) {
            let _ = node_url(&text);
            prop_assert!(!shown_url(&text).chars().any(char::is_control));
        }
    }
}
