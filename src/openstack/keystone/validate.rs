//! The judgement of a request's tokens: who calls, or why nobody is let in.
//!
//! Keystone is asked with a token of our own. Its answers are kept under the hash of the token: good ones for
//! at most `token_cache_time` and never beyond the end of the token, bad ones for five seconds. At most eight
//! questions are under way at once; the ninth waits. The caller says until when a request may be judged.
//!
//! All is refused that is not understood. Unlike Keystone's middleware, a service token that is not valid
//! refuses the request, even if the caller's is: there, any text in its place switches off the access rules
//! of an application credential.
//!
//! Nothing here reads headers: the service hands in the tokens, the method and the path.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use url::Url;

use super::catalog::{EndpointSettings, ServiceSought};
use super::error::{KeystoneError, Unhelpful};
use super::judged::{Judged, TokenHash};
use super::places::Places;
use super::refused::RefusedLogins;
use super::rules::AccessRule;
use super::session::{KeystoneSession, below, versioned};
use super::settings::AuthTokenSettings;
use super::token::{TokenBody, TokenData, TokenDomain};
use super::wire::{Answer, Question, Reach, shown};
use crate::net::http::Method;
use crate::openstack::caller::Caller;
use crate::openstack::secret::is_token;

/// The time for which a bad token is known to be bad.
const BAD_TIME: Duration = Duration::from_secs(5);
/// The time for which our own login is left alone after Keystone has refused it.
const REFUSED_TIME: Duration = Duration::from_secs(5);
/// Limit of the questions to Keystone at once.
pub(crate) const AT_ONCE: usize = 8;
/// Limit of a token, in bytes. Keystone's own have up to 255, signed ones some more.
const MAX_TOKEN: usize = 2048;

/// A request whose caller is to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Presented<'a> {
    /// `X-Auth-Token`.
    pub(crate) token: &'a str,
    /// `X-Service-Token`.
    pub(crate) service_token: Option<&'a str>,
    pub(crate) method: &'a str,
    /// As it came, without the query.
    pub(crate) path: &'a str,
}

/// The reason why nobody is let in, for the log. It contains no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The tokens are not valid, or not for this request: 401.
    Unauthorized(&'static str),
    /// It cannot be known, for now: 503.
    Unavailable(String),
}

/// Judges requests, with Keystone's help. Shared by threads.
pub(crate) struct Validator {
    session: KeystoneSession,
    settings: AuthTokenSettings,
    vouched: Mutex<Judged<Arc<Vouched>>>,
    bad: Mutex<Judged<()>>,
    places: Places,
}

/// A token that Keystone vouches for.
struct Vouched {
    caller: Caller,
    /// In seconds since the epoch.
    expires: Option<i64>,
    /// `None` if the token is for all requests.
    access_rules: Option<Vec<AccessRule>>,
    /// True unless there is a catalogue and our own type is not in it.
    may_know_us: bool,
    /// As Keystone spells them.
    roles: Vec<String>,
}

impl Vouched {
    fn new(mut data: TokenData, service_type: Option<&str>) -> Option<Self> {
        let domain = |domain: Option<TokenDomain>| domain.and_then(|domain| domain.id);
        let roles: Vec<String> = data.role_names().into_iter().map(str::to_owned).collect();
        let expires = data.expires();
        let access_rules = data.access_rules();
        let system_scope = data.has_system_scope().then(|| "all".to_owned());
        let may_know_us = match (service_type, &data.catalog) {
            (Some(service_type), Some(services)) => {
                services.iter().any(|service| service.service_type == service_type)
            }
            _ => true,
        };
        let user = data.user?;
        let (project_id, project_domain_id) =
            data.project.map_or((None, None), |project| (Some(project.id), domain(project.domain)));
        let caller = Caller {
            user_id: Some(user.id),
            user_domain_id: domain(user.domain),
            system_scope,
            domain_id: domain(data.domain),
            project_id,
            project_domain_id,
            is_admin_project: data.is_admin_project.unwrap_or(true),
            ..Caller::default()
        };
        let caller = caller.with_roles(&roles);
        Some(Vouched { caller, expires, access_rules, may_know_us, roles })
    }

    fn has_expired(&self) -> bool {
        self.expires.is_none_or(|end| end <= now())
    }
}

/// Returns the time in seconds since the epoch: a service outlives the clock of its start.
#[expect(clippy::disallowed_methods, reason = "tokens expire while the service runs")]
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}

/// Returns the reason why a text cannot be a token, if there is one.
fn no_token(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("the token is empty"),
        _ if text.len() > MAX_TOKEN => Some("the token is longer than 2048 bytes"),
        _ if !is_token(text) => Some("the token has characters that no token has"),
        _ => None,
    }
}

impl Validator {
    pub(crate) fn new(settings: AuthTokenSettings) -> Self {
        let refused = RefusedLogins::for_a_while(REFUSED_TIME);
        let reach = Reach { refused, ..settings.reach.clone() };
        Validator {
            session: KeystoneSession::new(settings.login.clone(), reach),
            settings,
            vouched: Mutex::new(Judged::new()),
            bad: Mutex::new(Judged::new()),
            places: Places::new(AT_ONCE),
        }
    }

    /// Returns the value of `WWW-Authenticate` for an answer of 401.
    pub(crate) fn challenge(&self) -> String {
        format!("Keystone uri=\"{}\"", self.settings.www_authenticate_uri)
    }

    /// Logs in to Keystone, which a service may do when it starts, to say early what is wrong.
    pub(crate) fn log_in(&self) -> Result<(), KeystoneError> {
        self.session.token().map(|_| ())
    }

    /// Hands out our own token, to be revoked.
    #[cfg(test)]
    pub(super) fn revoke_own(&self, revoke: impl FnOnce(&str)) {
        revoke(self.session.token().unwrap().reveal());
    }

    /// Returns the time that the judgement of one request may take, with every wait.
    pub(crate) fn patience(&self) -> Duration {
        self.settings.reach.patience()
    }

    /// Judges a request: returns the caller, or why there is none. No question is waited for beyond this
    /// time, except a login, which serves all requests.
    pub(crate) fn judge_until(&self, request: &Presented<'_>, until: Instant) -> Result<Caller, Rejection> {
        self.judge_by(request, Asking::Until(until))
    }

    /// Judges a request in the time that it may take.
    #[cfg(test)]
    pub(super) fn judge(&self, request: &Presented<'_>) -> Result<Caller, Rejection> {
        self.judge_until(request, Instant::now() + self.patience())
    }

    /// Returns the rejection of a request about which Keystone has not answered in time.
    pub(crate) fn no_answer(&self) -> Rejection {
        let seconds = self.patience().as_secs_f32();
        Rejection::Unavailable(format!("Keystone has not judged the token within {seconds} s"))
    }

    /// Judges a request if all its tokens are known. Nobody is asked, and nothing is waited for.
    pub(crate) fn judge_known(&self, request: &Presented<'_>) -> Option<Result<Caller, Rejection>> {
        Some(self.judge_by(request, Asking::Forbidden)).filter(|judged| *judged != Err(UNASKED))
    }

    fn judge_by(&self, request: &Presented<'_>, asking: Asking) -> Result<Caller, Rejection> {
        let service = request.service_token.map(|token| self.service(token, asking)).transpose()?;
        let is_service = service.as_ref().is_some_and(|service| self.has_service_role(service));
        let vouched = self.vouched(request.token, is_service, asking)?;
        self.check_access_rules(&vouched, request, is_service)?;
        let mut caller = vouched.caller.clone();
        if let Some(service) = service {
            caller.service_user_id.clone_from(&service.caller.user_id);
            caller.service_user_domain_id.clone_from(&service.caller.user_domain_id);
            caller.service_project_id.clone_from(&service.caller.project_id);
            caller.service_project_domain_id.clone_from(&service.caller.project_domain_id);
            caller.service_roles.clone_from(&service.roles);
        }
        Ok(caller)
    }

    /// Judges the token of a service that calls for somebody else.
    fn service(&self, token: &str, asking: Asking) -> Result<Arc<Vouched>, Rejection> {
        let service = self.vouched(token, false, asking).map_err(|rejection| match rejection {
            UNASKED => UNASKED,
            Rejection::Unauthorized(_) => Rejection::Unauthorized("the service token is not valid"),
            unavailable @ Rejection::Unavailable(_) => unavailable,
        })?;
        if self.settings.service_roles_required && !self.has_service_role(&service) {
            return Err(Rejection::Unauthorized("the service token has none of service_token_roles"));
        }
        Ok(service)
    }

    fn has_service_role(&self, service: &Vouched) -> bool {
        service.roles.iter().any(|role| self.settings.service_roles.contains(role))
    }

    /// Fails if the token is not for this request.
    fn check_access_rules(
        &self,
        vouched: &Vouched,
        request: &Presented<'_>,
        is_service: bool,
    ) -> Result<(), Rejection> {
        let Some(rules) = &vouched.access_rules else { return Ok(()) };
        let Some(service_type) = &self.settings.service_type else {
            return Err(Rejection::Unauthorized(
                "the token has access rules, and [keystone_authtoken] service_type is not set to judge them",
            ));
        };
        if !vouched.may_know_us {
            return Err(Rejection::Unauthorized(
                "the token has access rules, and [keystone_authtoken] service_type is not in its catalogue",
            ));
        }
        // With a service between, the caller did not choose the request.
        let allowed = (is_service && !rules.is_empty())
            || rules.iter().any(|rule| rule.allows(service_type, request.method, request.path));
        allowed
            .then_some(())
            .ok_or(Rejection::Unauthorized("the token's access rules do not allow the request"))
    }

    /// Returns what Keystone says about a token.
    fn vouched(&self, token: &str, even_expired: bool, asking: Asking) -> Result<Arc<Vouched>, Rejection> {
        let token = token.trim_matches([' ', '\t']);
        if let Some(why) = no_token(token) {
            return Err(Rejection::Unauthorized(why));
        }
        let hash = TokenHash::of(token);
        if let Some(known) = self.known(hash, even_expired) {
            return known;
        }
        let Asking::Until(until) = asking else { return Err(UNASKED) };
        let left = until.saturating_duration_since(Instant::now());
        let Some(_place) = self.places.enter(left, &self.settings.reach.waits.interrupt) else {
            return Err(no_turn());
        };
        // It may have become known while this thread waited.
        if let Some(known) = self.known(hash, even_expired) {
            return known;
        }
        let vouched = self.ask(token, even_expired, until)?;
        match &vouched {
            Some(vouched) => {
                locked(&self.vouched).keep(hash, Arc::clone(vouched), self.settings.cache_time);
                unless_expired(Arc::clone(vouched), even_expired)
            }
            None => {
                locked(&self.bad).keep(hash, (), BAD_TIME);
                Err(UNKNOWN)
            }
        }
    }

    /// Returns what is known about a token without asking.
    fn known(&self, hash: TokenHash, even_expired: bool) -> Option<Result<Arc<Vouched>, Rejection>> {
        if let Some(vouched) = locked(&self.vouched).get(hash) {
            return Some(unless_expired(vouched, even_expired));
        }
        // A token that was bad because it has expired may be good beside a service token.
        let is_bad = !even_expired && locked(&self.bad).get(hash).is_some();
        is_bad.then_some(Err(UNKNOWN))
    }

    /// Asks Keystone about a token; `None` if it is not valid.
    fn ask(
        &self,
        token: &str,
        even_expired: bool,
        until: Instant,
    ) -> Result<Option<Arc<Vouched>>, Rejection> {
        let (mut place, mut own_token) = (None, String::new());
        let answer = self.session.authorized(
            |own| {
                // After the login, because the catalogue comes with it.
                let url = self.place()?;
                let mut question = below(&url, &["auth", "tokens"]);
                question.set_query(self.query(even_expired));
                let answer = self.question(&question, own, token, until);
                place = Some(url);
                own.clone_into(&mut own_token);
                answer
            },
            |answer| answer.status == 401,
        );
        let answer = answer.map_err(|error| unavailable(&error))?;
        let place = place.as_ref().map(shown).unwrap_or_default();
        let who = self.session.who();
        let words = || answer.words(&[&own_token, token]);
        match answer.status {
            200 => self.read(&answer).map_err(|why| {
                Rejection::Unavailable(format!(
                    "the answer of {place} about a token is not understood: {why}"
                ))
            }),
            404 => Ok(None),
            401 => Err(Rejection::Unavailable(format!(
                "Keystone at {place} refuses our own token, also a new one (our service user is {who})"
            ))),
            403 => Err(Rejection::Unavailable(format!(
                "Keystone at {place} does not let us validate tokens ({}): give the role 'service' to our \
                 service user, {who}",
                words()
            ))),
            _ => Err(Rejection::Unavailable(format!(
                "Keystone at {place} does not judge a token: {}",
                words()
            ))),
        }
    }

    /// Returns the root of the Identity API that validates tokens: the catalogue's, or else that of the
    /// login.
    fn place(&self) -> Result<Url, KeystoneError> {
        let sought = ServiceSought {
            service_type: "identity",
            interface: &self.settings.interface,
            region: self.settings.region.as_deref(),
            settings: EndpointSettings::OF_GLANCE,
        };
        match self.session.endpoint(&sought) {
            Ok(url) => Ok(versioned(&url)),
            // The one that gave us the token can judge others, too.
            Err(error) if error.kind == Unhelpful::Misconfigured => self.session.base(),
            Err(error) => Err(error),
        }
    }

    /// Returns the query of a question about a token.
    fn query(&self, even_expired: bool) -> Option<&'static str> {
        match (self.settings.include_catalog, even_expired) {
            (true, false) => None,
            (true, true) => Some("allow_expired=1"),
            (false, false) => Some("nocatalog"),
            (false, true) => Some("nocatalog&allow_expired=1"),
        }
    }

    fn question(&self, url: &Url, own: &str, token: &str, until: Instant) -> Result<Answer, KeystoneError> {
        let headers =
            [("x-auth-token", own), ("x-subject-token", token), ("openstack-identity-access-rules", "1")];
        let question = Question { method: Method::GET, url, headers: &headers, body: "" };
        self.session.reach.until(until).ask(&question)
    }

    fn read(&self, answer: &Answer) -> Result<Option<Arc<Vouched>>, &'static str> {
        let data = answer.json::<TokenBody>().ok_or("it is no description of a token")?.token;
        if data.is_bound() && self.settings.refuse_bound {
            return Ok(None);
        }
        if data.expires().is_none() {
            return Err("it does not say when the token expires");
        }
        let vouched = Vouched::new(data, self.settings.service_type.as_deref());
        vouched.map(|vouched| Some(Arc::new(vouched))).ok_or("it does not say whose token it is")
    }
}

const UNKNOWN: Rejection = Rejection::Unauthorized("the token is unknown, expired or revoked");

/// The rejection of a token that is not known where nobody is asked.
const UNASKED: Rejection = Rejection::Unauthorized("Keystone was not asked");

/// Permission to ask Keystone. Some callers cannot wait for an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// Until this time.
    Until(Instant),
    Forbidden,
}

/// Returns the rejection of a request whose turn to ask Keystone does not come in time.
pub(crate) fn no_turn() -> Rejection {
    Rejection::Unavailable(format!(
        "{AT_ONCE} questions about tokens are under way, and Keystone is slow to answer them"
    ))
}

fn unless_expired(vouched: Arc<Vouched>, even_expired: bool) -> Result<Arc<Vouched>, Rejection> {
    if vouched.has_expired() && !even_expired { Err(UNKNOWN) } else { Ok(vouched) }
}

/// Returns the rejection because of our own trouble with Keystone.
fn unavailable(error: &KeystoneError) -> Rejection {
    Rejection::Unavailable(match error.kind {
        Unhelpful::Refused => format!("our service user cannot log in: {error}"),
        Unhelpful::Unreachable | Unhelpful::Misconfigured => error.to_string(),
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
