//! One node is asked for one call: a connection, a request, an answer, and again where the answer says so.
//!
//! The token goes to the URL that is asked and to no other: redirects are not followed. A call is sent once,
//! and again only after an answer that says that it was not done: a refused token, or a busy cache. Answers
//! are bounded in length and in time.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use url::Url;

use crate::interrupt::Interrupt;
use crate::names::escaped;
use crate::net::http::{Client, Method, Request, Response};
use crate::net::wire::{Least, Waits};
use crate::openstack::cache_api::{
    CacheCall, Meaning, NodeAnswer, NodeStatus, PAUSE, Removals, current_version, is_foreign, meaning,
    versions_url,
};
use crate::openstack::keystone::error::KeystoneError;
use crate::openstack::keystone::session::KeystoneSession;
use crate::openstack::secret::Secret;
use crate::units::{Nanos, span};

/// Limit of an answer, in bytes. Ours has a line for each image that could not be removed.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Limit of a list of images, in bytes: a million of them.
const MAX_LIST: u64 = 256 * 1024 * 1024;
/// Limit of a message about a failure, in bytes.
const MAX_MESSAGE: u64 = 64 * 1024;
/// For a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// For the answer to a question that needs no work.
const QUICK: Duration = Duration::from_secs(10);
/// The shortest pause before a busy node is asked again.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Asks nodes. Threads share it.
pub(super) struct Asker<'a> {
    pub(super) session: &'a KeystoneSession,
    /// The way to servers. Its waits are replaced.
    pub(super) client: Client,
    /// The certificate and the key (PEM) that this client shows.
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
    /// The time that a node has for a call, with all its pauses.
    pub(super) timeout: Duration,
    /// Ends all waits.
    pub(super) stop: Interrupt,
}

/// The result of a call to a node.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: NodeStatus,
    pub(super) http_status: Option<u16>,
    /// True if the API is not at this URL, though it may be at another one of the same server.
    pub(super) is_elsewhere: bool,
    pub(super) removals: Removals,
    /// The version of the node's API, if it does not have the call.
    pub(super) api_version: Option<String>,
    /// The reason why it is not done.
    pub(super) message: Option<String>,
    /// Of a list.
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn new(status: NodeStatus, message: impl Into<Option<String>>) -> Self {
        let (message, removals) = (message.into(), Removals::default());
        let is_elsewhere = status == NodeStatus::NotSupported;
        Reply {
            status,
            http_status: None,
            is_elsewhere,
            removals,
            api_version: None,
            message,
            body: Vec::new(),
        }
    }
}

/// The end of one request.
enum CallAttempt {
    /// Nothing was sent.
    NotSent(String),
    /// It was sent, and no whole answer came.
    Broken(String),
    Answered(NodeAnswer),
}

impl Asker<'_> {
    /// Sends a call to a node until it is answered, or until the time is over.
    pub(super) fn ask(&self, node: &Url, call: CacheCall) -> Reply {
        let deadline = Instant::now() + self.timeout;
        loop {
            let start = Instant::now();
            let attempt: Result<CallAttempt, KeystoneError> = self.session.authorized(
                |token| Ok(self.attempt(node, call, token, deadline)),
                |attempt| matches!(attempt, CallAttempt::Answered(answer) if answer.status == 401),
            );
            let answer = match attempt {
                Err(e) => return Reply::new(NodeStatus::Refused, e.to_string()),
                Ok(CallAttempt::NotSent(_)) if self.stop.raised() => {
                    return Reply::new(NodeStatus::NotAsked, None);
                }
                Ok(CallAttempt::NotSent(why)) => return Reply::new(NodeStatus::Unreachable, why),
                Ok(CallAttempt::Broken(why)) if call == CacheCall::List => {
                    return Reply::new(NodeStatus::Failed, why);
                }
                Ok(CallAttempt::Broken(why)) => {
                    let message = format!("the node may have done it or still be at work: {why}");
                    return Reply::new(NodeStatus::Unknown, message);
                }
                Ok(CallAttempt::Answered(answer)) => answer,
            };
            let (http_status, is_elsewhere) = (Some(answer.status), is_foreign(call, &answer));
            let reply = match meaning(call, &answer) {
                Meaning::Later(pause) => match self.pause(pause, start.elapsed(), deadline) {
                    Ok(()) => continue,
                    Err(message) => Reply::new(NodeStatus::Busy, message),
                },
                Meaning::Done(removals) => {
                    Reply { removals, body: answer.body, ..Reply::new(NodeStatus::Done, None) }
                }
                Meaning::TokenRefused => {
                    let message = "it does not accept the token; it may belong to another Keystone";
                    Reply::new(NodeStatus::Refused, message.to_owned())
                }
                Meaning::Ended(NodeStatus::NotSupported, message) => {
                    self.not_supported(node, answer.status, message)
                }
                Meaning::Ended(status, message) => Reply::new(status, message),
            };
            return Reply { http_status, is_elsewhere: reply.is_elsewhere || is_elsewhere, ..reply };
        }
    }

    /// Waits before a busy node is asked again. Fails if there is no time for that and for an answer that
    /// takes as long as the last one: what is broken off is no longer known to be busy.
    fn pause(&self, pause: Duration, answer: Duration, deadline: Instant) -> Result<(), String> {
        let pause = pause.max(LEAST_PAUSE);
        let left = deadline.saturating_duration_since(Instant::now());
        if pause >= left {
            let wanted = span(pause.as_nanos() as Nanos);
            return Err(format!(
                "its cache is busy, and wants to be asked again in {wanted}, which is longer than there is \
                 time (--timeout)"
            ));
        }
        if pause + 2 * answer >= left {
            return Err("its cache was busy all the time".to_owned());
        }
        self.waits(QUICK).sleep(pause).map_err(|_| "its cache was busy when the run was stopped".to_owned())
    }

    fn attempt(&self, node: &Url, call: CacheCall, token: &str, deadline: Instant) -> CallAttempt {
        let url = call.url(node);
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let client = Client { waits: self.waits(left), ..self.client.clone() };
        let mut request = Request::new(call.method(), &url)
            .certificate(self.certificate.as_ref())
            .header("accept", "application/json")
            .header("x-auth-token", token);
        if call != CacheCall::List {
            // Glance wants it, and nothing behind it.
            request = request.header("content-length", "0");
        }
        let connection = match client.open(&request) {
            Ok(connection) => connection,
            Err(e) => return CallAttempt::NotSent(shown_error(&e)),
        };
        let response = match connection.exchange() {
            Ok(response) => response,
            Err(e) => return CallAttempt::Broken(shown_error(&e)),
        };
        match read(response, call, deadline) {
            Ok(answer) => CallAttempt::Answered(NodeAnswer { token: Secret::new(token), ..answer }),
            Err(e) => CallAttempt::Broken(format!("its answer broke: {}", escaped(e.to_string().as_bytes()))),
        }
    }

    /// Says of a node that does not have a call which version of the API it has.
    fn not_supported(&self, node: &Url, status: u16, message: String) -> Reply {
        let api_version = self.version(node);
        let message = match &api_version {
            // Whatever its version, the API answers so only where it knows nothing at all.
            Some(version) if status == 300 => {
                format!("the path of this URL is wrong: glance-api there ({version}) has no API at it")
            }
            Some(version) => {
                format!("{message}: glance-api there is older than v2.18 (it says {version})")
            }
            None => message,
        };
        Reply { api_version, ..Reply::new(NodeStatus::NotSupported, message) }
    }

    /// Returns the current version of a node's API, if it says one. Needs no token.
    pub(super) fn version(&self, node: &Url) -> Option<String> {
        let url = versions_url(node);
        let client = Client { waits: self.waits(QUICK), ..self.client.clone() };
        let request = Request::new(Method::GET, &url).certificate(self.certificate.as_ref());
        let response = client.send(&request.header("accept", "application/json")).ok()?;
        current_version(&read(response, CacheCall::Prune, Instant::now() + QUICK).ok()?)
    }

    /// Returns waits of which none is longer than this.
    fn waits(&self, limit: Duration) -> Waits {
        Waits {
            connect: CONNECT.min(limit),
            silence: limit,
            least: Least { bytes: 1024, within: QUICK },
            ..Waits::new(self.stop.clone())
        }
    }
}

fn shown_error(error: &anyhow::Error) -> String {
    escaped(format!("{error:#}").as_bytes())
}

/// Reads an answer. One of success has to be whole.
fn read(mut response: Response, call: CacheCall, deadline: Instant) -> io::Result<NodeAnswer> {
    let header = |name: &str| response.header(name).map(str::to_owned);
    let mut answer = NodeAnswer {
        status: response.status,
        allow: header("allow"),
        location: header("location"),
        retry_after: header("retry-after").map(|_| response.retry_after().unwrap_or(PAUSE)),
        ..NodeAnswer::default()
    };
    let is_success = response.status < 300;
    let limit = match (is_success, call) {
        (false, _) => MAX_MESSAGE,
        (true, CacheCall::List) => MAX_LIST,
        (true, _) => MAX_ANSWER,
    };
    match fill(&mut response, limit, deadline, &mut answer.body) {
        Err(e) if is_success => Err(e),
        // The part of a message that came is enough.
        _ => Ok(answer),
    }
}

fn fill(response: &mut Response, limit: u64, deadline: Instant, body: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = response.body.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        body.extend_from_slice(&buffer[..read]);
        if body.len() as u64 > limit {
            return Err(io::Error::other(format!("it is longer than {limit} bytes")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("it was not complete in time (--timeout)"));
        }
    }
}
