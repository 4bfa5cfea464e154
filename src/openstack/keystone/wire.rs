//! Requests to Keystone and its answers, as far as they are the same for all of them.
//!
//! A connection that fails is tried again as often as the settings say, with a pause that doubles; an answer
//! that does not come in time is not asked for again, because the next one would not come either. Answers
//! are bounded. Redirects are not followed: the request holds a password or a token.
//!
//! A run that reads images comes back to a Keystone that is busy and says when (429, 503 with `Retry-After`),
//! for as long as it would have waited for an answer.

use std::error::Error as _;
use std::io::{self, ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Error;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::{Origin, Url};

use super::error::KeystoneError;
use super::refused::RefusedLogins;
use crate::names::escaped;
use crate::net::http::{Client, Method, Request};
use crate::net::tls::{Trust, UnusableCertificates};
use crate::net::wire::{Least, Waits};
use crate::openstack::secret::without_secrets;
use crate::units::{Nanos, span};

/// Limit of an answer, in bytes: a catalogue of a large cloud has some hundred kilobytes.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;
/// Limit of what is shown of Keystone's own words, in characters.
const MAX_WORDS: usize = 300;
/// Before the first repetition of a request; then doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// The time for which a server is left alone that takes requests and keeps silent.
const REST: Duration = Duration::from_secs(60);
/// The same for one that cannot be reached at all. It is shorter than the tries to resume an image take, so
/// that a Keystone which is started again while a token ends does not end the image.
const SHORT_REST: Duration = Duration::from_secs(10);
/// Limits if the settings say nothing.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(20);

/// The way to a Keystone, or to another service of its cloud.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) trust: Trust,
    /// The certificate and the key (PEM) that this client shows.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) waits: Waits,
    /// The number of times that a connection that failed is tried again.
    pub(crate) retries: u32,
    /// The servers that did not answer, where they are not to be asked again at once.
    pub(crate) silent: Option<SilentServers>,
    /// The logins that were refused.
    pub(crate) refused: RefusedLogins,
}

/// Servers that did not answer. They are left alone for a while: a run asks for many images, and would wait
/// for each of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SilentServers(Arc<Mutex<Vec<SilentServer>>>);

#[derive(Debug)]
struct SilentServer {
    origin: Origin,
    since: Instant,
    rest: Duration,
    message: String,
}

impl SilentServers {
    /// Returns what is said of a server that is left alone.
    fn get(&self, url: &Url) -> Option<String> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|server| server.since.elapsed() < server.rest);
        let found = servers.iter().find(|server| server.origin == url.origin())?;
        let rest = span(found.rest.as_nanos() as Nanos);
        Some(format!("{}; it is not asked again within {rest}", found.message))
    }

    fn add(&self, url: &Url, rest: Duration, message: &str) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (origin, since, message) = (url.origin(), Instant::now(), message.to_owned());
        servers.push(SilentServer { origin, since, rest, message });
    }
}

/// A request to Keystone.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// JSON, or empty.
    pub(super) body: &'a str,
}

/// An answer of Keystone.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) subject_token: Option<String>,
    /// The time after which a busy Keystone wants to be asked again.
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Reach {
    /// Returns the way that needs no settings: the system's authorities, and waits that suit a service.
    pub(crate) fn new(mut waits: Waits) -> Self {
        waits.connect = CONNECT.min(waits.connect);
        waits.silence = SILENCE.min(waits.silence);
        // An answer is small: a server that sends it byte by byte is not waited for.
        waits.least = Least { bytes: 16 * 1024, within: SILENCE };
        let refused = RefusedLogins::default();
        Reach { trust: Trust::System, certificate: None, waits, retries: 3, silent: None, refused }
    }

    /// Limits the wait for a connection and for each answer.
    pub(in crate::openstack) fn within(mut self, limit: Duration) -> Self {
        self.waits.connect = limit;
        self.waits.silence = limit;
        self.waits.least.within = limit;
        self
    }

    /// Returns the time that all questions about one request may take, with every wait: 20 s, and less only
    /// where the settings let no connection and no answer of a login and a question take that long.
    pub(super) fn patience(&self) -> Duration {
        (self.waits.silence * 4).min(SILENCE).max(self.waits.silence)
    }

    /// Returns the same way with no wait beyond this time.
    pub(super) fn until(&self, end: Instant) -> Self {
        let left = end.saturating_duration_since(Instant::now());
        let mut reach = self.clone();
        reach.waits.connect = reach.waits.connect.min(left);
        reach.waits.silence = reach.waits.silence.min(left);
        reach.waits.least.within = reach.waits.least.within.min(left);
        reach
    }

    /// Sends a request to Keystone and returns the answer, whatever its status.
    pub(super) fn ask(&self, question: &Question<'_>) -> Result<Answer, KeystoneError> {
        if let Some(message) = self.silent.as_ref().and_then(|silent| silent.get(question.url)) {
            return Err(KeystoneError::unreachable(message));
        }
        let mut pause = PAUSE;
        let mut left = self.retries;
        let end = Instant::now() + self.waits.silence;
        loop {
            match self.ask_once(question) {
                Ok(answer) => {
                    let Some((silent, after)) = self.silent.as_ref().zip(answer.retry_after) else {
                        return Ok(answer);
                    };
                    let left_time = end.saturating_duration_since(Instant::now());
                    if left == 0 || after > left_time || self.waits.sleep(after).is_err() {
                        let place = shown(question.url);
                        let message = format!("Keystone at {place} is busy: it answers {}", answer.status);
                        silent.add(question.url, SHORT_REST, &message);
                        return Ok(answer);
                    }
                    left -= 1;
                }
                Err(error) if left > 0 && is_worth_repeating(&error) && !self.waits.interrupt.raised() => {
                    left -= 1;
                    let _ = self.waits.sleep(pause);
                    pause *= 2;
                }
                Err(error) if error.is::<UnusableCertificates>() => {
                    let message = format!("Keystone at {} cannot be asked: {error}", shown(question.url));
                    return Err(KeystoneError::misconfigured(message));
                }
                Err(error) => {
                    let message = format!("Keystone at {} is not reached: {error:#}", shown(question.url));
                    if let Some(silent) = self.silent.as_ref().filter(|_| !self.waits.interrupt.raised()) {
                        let rest = if is_worth_repeating(&error) { SHORT_REST } else { REST };
                        silent.add(question.url, rest, &message);
                    }
                    return Err(KeystoneError::unreachable(message));
                }
            }
        }
    }

    fn ask_once(&self, question: &Question<'_>) -> anyhow::Result<Answer> {
        let client = Client { trust: self.trust.clone(), proxies: Vec::new(), waits: self.waits.clone() };
        let mut request = Request::new(question.method.clone(), question.url)
            .certificate(self.certificate.as_ref())
            .header("accept", "application/json");
        if !question.body.is_empty() {
            request = request.header("content-type", "application/json").body(question.body);
        }
        for (name, value) in question.headers {
            request = request.header(name, value);
        }
        let mut response = client.send(&request)?;
        let mut body = Vec::new();
        (&mut response.body).take(MAX_ANSWER + 1).read_to_end(&mut body)?;
        anyhow::ensure!(body.len() as u64 <= MAX_ANSWER, "its answer is longer than 4 MiB");
        let subject_token = response.header("x-subject-token").map(str::to_owned);
        let retry_after = response.retry_after().filter(|_| matches!(response.status, 429 | 503));
        Ok(Answer { status: response.status, subject_token, retry_after, body })
    }
}

/// True if a connection failed, and the next one may not.
fn is_worth_repeating(error: &Error) -> bool {
    let is_final = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>();
        // TLS fails with the first of these.
        io.is_some_and(|io| matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::TimedOut))
            || io.is_some_and(|io| io.source().is_some_and(<dyn std::error::Error>::is::<rustls::Error>))
    };
    !error.chain().any(is_final) && !error.is::<UnusableCertificates>()
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorWords,
}

#[derive(Deserialize)]
struct ErrorWords {
    #[serde(default)]
    message: String,
}

impl Answer {
    /// Reads the body, if it is what is expected.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// True if Keystone itself says why it does not do it, and not a web server in its place.
    pub(super) fn is_of_keystone(&self) -> bool {
        self.json::<ErrorBody>().is_some()
    }

    /// Returns the status, and Keystone's own words where it has any, without line breaks and without the
    /// secrets that it got.
    pub(super) fn words(&self, secrets: &[&str]) -> String {
        let words = self.json::<ErrorBody>().map(|body| body.error.message).unwrap_or_default();
        let words = without_secrets(&words, secrets);
        let words: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let words: String = words.chars().take(MAX_WORDS).collect();
        match escaped(words.as_bytes()) {
            words if words.is_empty() => format!("it answers {}", self.status),
            words => format!("it answers {}: {words}", self.status),
        }
    }
}

/// Returns a URL as messages show it, without query.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    escaped(url.as_str().as_bytes())
}
