//! Makes out the caller of a request, and asks if it may do what it asks for. This is the only place in the
//! service that knows Keystone and the policy.
//!
//! With `auth_strategy = none` nobody is asked: on a Unix socket root and the owner of the cache may do
//! everything and others nothing, by the kernel's word about who connected; on the loopback interface
//! everybody may do everything, because the settings say so.
//!
//! Keystone is asked on a thread of its own; a token that is known is judged without one, so that a Keystone
//! that does not answer delays nobody else. A request waits for its turn and for the judgement no longer than
//! [`Validator::patience`] in all. Headers that claim an identity are never read.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use rustix::fs::{AtFlags, CWD, statat};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::Problem;
use super::listen::Peer;
use super::metrics::Metrics;
use super::verdict::Failed;
use crate::openstack::caller::Caller;
use crate::openstack::keystone::validate::{AT_ONCE, Presented, Rejection, Validator, no_turn};
use crate::openstack::policy::condition::Target;
use crate::openstack::policy::files::{PolicyChange, PolicyFiles};
use crate::openstack::policy::rules::CacheRule;
use crate::output::Output;
use crate::output::oslo::Level;

/// The longest time for a look at the owner of the cache.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);

/// A caller who was made out.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The id of the user, for the log.
    pub(super) user: String,
    /// The id of the project, for the log.
    pub(super) project: String,
    /// `None` if the socket has decided.
    caller: Option<Caller>,
}

/// The facts of a request that decide who the caller is.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestFacts<'a> {
    pub(super) peer: Peer,
    pub(super) headers: &'a HeaderMap,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
}

/// Makes out callers, and knows what they may do.
pub(super) enum Auth {
    /// The socket decides. The owner of the cache may connect to a Unix socket.
    Socket(CacheOwner),
    Keystone(Box<KeystoneAuth>),
}

impl Auth {
    /// Returns the caller, or the problem with which the request is answered.
    pub(super) async fn caller(&self, asked: RequestFacts<'_>) -> Result<Known, Failed> {
        match self {
            Auth::Socket(owner) => {
                let owner = match asked.peer {
                    Peer::Unix { uid } if uid != 0 => owner.user().await,
                    _ => None,
                };
                Ok(by_socket(asked.peer, owner)?)
            }
            Auth::Keystone(keystone) => keystone.caller(asked).await,
        }
    }

    /// True if the image that a request is about may decide if a caller may do what this rule is about.
    pub(super) fn reads_target(&self, rule: CacheRule) -> bool {
        match self {
            Auth::Socket(_) => false,
            Auth::Keystone(keystone) => keystone.policy.borrow().policy().reads_target(rule),
        }
    }

    /// Fails if the caller must not do what this rule is about.
    pub(super) fn check(&self, known: &Known, rule: CacheRule, target: &Target) -> Result<(), Problem> {
        match (self, &known.caller) {
            (Auth::Socket(_), _) => Ok(()),
            (Auth::Keystone(keystone), Some(caller)) if keystone.allows(rule, caller, target) => Ok(()),
            _ => Err(Problem::forbidden(rule.name())),
        }
    }

    /// True if there is a policy, whose files may change.
    pub(super) fn has_policy(&self) -> bool {
        matches!(self, Auth::Keystone(_))
    }

    /// True if the policy has changed and could not be used, so that an older one is in force.
    pub(super) fn has_outdated_policy(&self) -> bool {
        matches!(self, Auth::Keystone(keystone) if keystone.policy.borrow().is_outdated())
    }

    /// Reads the policy again if it has changed, which is a line in the log. Returns false if it has not.
    pub(super) fn refresh_policy(&self) -> bool {
        match self {
            Auth::Socket(_) => false,
            Auth::Keystone(keystone) => keystone.refresh(),
        }
    }

    /// Logs in to Keystone, to say early what is wrong. Nobody waits for it.
    pub(super) fn log_in(&self) {
        let Auth::Keystone(keystone) = self else { return };
        let (validator, output) = (Arc::clone(&keystone.validator), Rc::clone(&keystone.output));
        let metrics = Rc::clone(&keystone.metrics);
        tokio::task::spawn_local(async move {
            if let Ok(Err(e)) = spawn_blocking(move || validator.log_in()).await {
                metrics.keystone_failed();
                let line = format!("our service user cannot log in to Keystone: {e}");
                output.event(Level::Error, &line, &[]);
            }
        });
    }
}

/// The owner of the cache directory. It is looked at for each request: its file system may be mounted later
/// than the service is started.
pub(super) struct CacheOwner {
    directory: PathBuf,
    /// The user that was found last.
    last: Cell<Option<u32>>,
    /// One look at a time: one that hangs must not take a thread each time.
    turn: Arc<Semaphore>,
}

impl CacheOwner {
    pub(super) fn new(directory: PathBuf) -> Self {
        CacheOwner { directory, last: Cell::new(None), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Returns the user; the one that was found last, if the directory cannot be looked at now.
    async fn user(&self) -> Option<u32> {
        let (turn, directory) = (Arc::clone(&self.turn), self.directory.clone());
        let look = async {
            let turn = turn.acquire_owned().await.ok()?;
            let look = spawn_blocking(move || {
                let _turn = turn;
                statat(CWD, &directory, AtFlags::empty()).ok().map(|stat| stat.st_uid)
            });
            look.await.ok()?
        };
        if let Ok(Some(user)) = timeout(OWNER_PATIENCE, look).await {
            self.last.set(Some(user));
        }
        self.last.get()
    }
}

fn by_socket(peer: Peer, owner: Option<u32>) -> Result<Known, Problem> {
    let known = |user: String| Known { user, project: "-".to_owned(), caller: None };
    match peer {
        Peer::Tcp => Ok(known("local".to_owned())),
        Peer::Unix { uid } if uid == 0 || Some(uid) == owner => Ok(known(format!("uid:{uid}"))),
        Peer::Unix { .. } => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "Only root and the owner of the cache may use this socket.",
        )),
    }
}

/// Keystone and the policy.
pub(super) struct KeystoneAuth {
    validator: Arc<Validator>,
    policy: RefCell<PolicyFiles>,
    /// As many as Keystone is asked questions at once.
    turns: Arc<Semaphore>,
    metrics: Rc<Metrics>,
    output: Rc<Output>,
}

impl KeystoneAuth {
    pub(super) fn new(
        validator: Validator,
        policy: PolicyFiles,
        metrics: Rc<Metrics>,
        output: Rc<Output>,
    ) -> Self {
        let (validator, policy) = (Arc::new(validator), RefCell::new(policy));
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        KeystoneAuth { validator, policy, turns, metrics, output }
    }

    /// Judges the tokens of a request.
    async fn caller(&self, asked: RequestFacts<'_>) -> Result<Known, Failed> {
        let token = only(asked.headers, "x-auth-token").transpose();
        let token = token.or_else(|| only(asked.headers, "x-storage-token").transpose());
        let token = match token {
            Some(Ok(token)) => token,
            Some(Err(NotOne::Several)) => {
                return Err(self.unauthorized("the request has more than one token"));
            }
            Some(Err(NotOne::NoText)) => {
                return Err(self.unauthorized("the token has characters that no token has"));
            }
            None => return Err(self.unauthorized("the request has no token")),
        };
        let service_token = only(asked.headers, "x-service-token").map_err(|why| {
            self.unauthorized(match why {
                NotOne::Several => "the request has more than one service token",
                NotOne::NoText => "the service token has characters that no token has",
            })
        })?;
        let (method, path) = (asked.method, asked.path);
        let presented = Presented { token, service_token, method, path };
        let judged = match self.validator.judge_known(&presented) {
            Some(judged) => judged,
            None => self.ask(&presented).await,
        };
        match judged {
            Ok(caller) => {
                let shown = |id: &Option<String>| id.clone().unwrap_or_else(|| "-".to_owned());
                let (user, project) = (shown(&caller.user_id), shown(&caller.project_id));
                Ok(Known { user, project, caller: Some(caller) })
            }
            Err(Rejection::Unauthorized(why)) => Err(self.unauthorized(why)),
            Err(Rejection::Unavailable(why)) => {
                self.metrics.keystone_failed();
                Err(Failed::because(Problem::busy("The identity service is not available."), why))
            }
        }
    }

    /// Judges the tokens on a thread that may wait for Keystone. Requests wait here for their turn: on
    /// threads, they would take all those that wait for operations.
    async fn ask(&self, presented: &Presented<'_>) -> Result<Caller, Rejection> {
        let until = Instant::now() + self.validator.patience();
        let Ok(turn) = timeout_at(until, Arc::clone(&self.turns).acquire_owned()).await else {
            return Err(no_turn());
        };
        // A question that is cut off at once would only say that no answer came.
        if until.saturating_duration_since(Instant::now()) < self.validator.patience() / 20 {
            return Err(no_turn());
        }
        let validator = Arc::clone(&self.validator);
        let token = presented.token.to_owned();
        let service_token = presented.service_token.map(str::to_owned);
        let (method, path) = (presented.method.to_owned(), presented.path.to_owned());
        let judging = spawn_blocking(move || {
            // It is taken until the thread ends, also if nobody waits for it any more.
            let _turn = turn;
            let service_token = service_token.as_deref();
            let presented = Presented { token: &token, service_token, method: &method, path: &path };
            validator.judge_until(&presented, until.into_std())
        });
        match timeout_at(until, judging).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(e)) => Err(Rejection::Unavailable(format!("the judgement failed: {e}"))),
            Err(_) => Err(self.validator.no_answer()),
        }
    }

    fn unauthorized(&self, why: &str) -> Failed {
        Failed::because(Problem::unauthorized(self.validator.challenge()), why.to_owned())
    }

    fn allows(&self, rule: CacheRule, caller: &Caller, target: &Target) -> bool {
        self.policy.borrow().policy().allows(rule, caller, target)
    }

    /// Reads the policy again, if it has changed. A policy that is wrong leaves the old one in force. Returns
    /// false if nothing has changed.
    fn refresh(&self) -> bool {
        let mut policy = self.policy.borrow_mut();
        match policy.refresh() {
            PolicyChange::None => return false,
            PolicyChange::Applied(warnings) => {
                self.output.event(Level::Info, "the new policy is in force", &[]);
                for warning in warnings {
                    self.output.event(Level::Warning, &warning, &[]);
                }
            }
            PolicyChange::Refused(e) => {
                self.output.event(Level::Error, &format!("the old policy stays in force: {e:#}"), &[]);
            }
        }
        self.metrics.policy_failed(policy.is_outdated());
        true
    }
}

/// The reason why a header has not one value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NotOne {
    Several,
    NoText,
}

/// Returns the only value of a header, or `None`. A header that comes twice is an error, and so is one that
/// is no text.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, NotOne> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| NotOne::NoText),
        _ => Err(NotOne::Several),
    }
}

/// Returns an image as policy checks see it; `None` is one that is not known.
pub(super) fn image_target(image: Option<&Map<String, Value>>) -> Target {
    let Some(image) = image else { return Target::cache() };
    let text = |value: &Value| value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
    let properties = image.get("properties").and_then(Value::as_object).into_iter().flatten();
    let attributes = ["id", "name", "status", "owner", "visibility"].into_iter().filter_map(|name| {
        let known = if name == "id" { "image_id" } else { name };
        Some((known.to_owned(), text(image.get(name)?)))
    });
    // A property never stands for an attribute.
    let properties = properties.filter(|(name, _)| !Target::is_attribute(name));
    let properties = properties.map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned)));
    Target::image(properties.chain(attributes))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_header_that_comes_twice_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(only(&headers, "x-auth-token"), Ok(None));
        headers.append("x-auth-token", "a".parse().unwrap());
        assert_eq!(only(&headers, "x-auth-token"), Ok(Some("a")));
        headers.append("x-auth-token", "a".parse().unwrap());
        assert_eq!(only(&headers, "x-auth-token"), Err(NotOne::Several));
        headers.insert("x-auth-token", HeaderValue::from_bytes(b"\xc3\xa4").unwrap());
        assert_eq!(only(&headers, "x-auth-token"), Err(NotOne::NoText));
    }

    #[test]
    fn the_owner_is_looked_at_each_time() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("cache");
        let owner = CacheOwner::new(directory.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let user = || runtime.block_on(owner.user());
        assert_eq!(user(), None);
        std::fs::create_dir(&directory).unwrap();
        let own = rustix::process::geteuid();
        assert_eq!(user(), Some(own.as_raw()));
        if own.is_root() {
            std::os::unix::fs::chown(&directory, Some(42), None).unwrap();
            assert_eq!(user(), Some(42));
        }
    }

    #[test]
    fn the_socket_knows_root_and_the_owner() {
        for (peer, expected) in [
            (Peer::Tcp, Some("local")),
            (Peer::Unix { uid: 0 }, Some("uid:0")),
            (Peer::Unix { uid: 42 }, Some("uid:42")),
            (Peer::Unix { uid: 43 }, None),
        ] {
            let known = by_socket(peer, Some(42)).ok().map(|known| known.user);
            assert_eq!(known.as_deref(), expected, "{peer:?}");
        }
        assert!(by_socket(Peer::Unix { uid: 42 }, None).is_err());
    }
}
