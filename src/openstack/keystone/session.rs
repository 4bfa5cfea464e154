//! A session with Keystone: one login, its current token, and the catalogue that came with it.
//!
//! A token is asked for when it is first needed, and again when fewer than 30 seconds of it are left or when
//! a service refuses it. Threads share a session: one of them logs in, and the others wait for its result,
//! also if it is a failure. A login that is refused is not tried again at once
//! ([`refused`](super::refused)). The password goes to the server of `auth_url` and to no other.
//!
//! The lifetime of a token is taken by Keystone's clock, from its issue to its end, so that a wrong clock of
//! this host does no harm.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use url::Url;

use super::catalog::{Catalog, ServiceSought};
use super::error::KeystoneError;
use super::login::Login;
use super::token::{TokenBody, TokenData};
use super::wire::{Answer, Question, Reach, shown};
use crate::net::http::Method;
use crate::openstack::secret::{Secret, is_token, without_secrets};

/// A token with less than this is renewed.
const LEAST_LEFT: Duration = Duration::from_secs(30);

/// A login to Keystone, and what came of it. Shared by threads.
pub(crate) struct KeystoneSession {
    login: Login,
    pub(super) reach: Reach,
    state: Mutex<SessionState>,
}

#[derive(Default)]
struct SessionState {
    granted: Option<Arc<Granted>>,
    /// The root of version 3, once it is known that it is not where `auth_url` leads to expect it.
    base: Option<Url>,
    /// The last login failed at this time.
    failed: Option<(Instant, KeystoneError)>,
}

/// A token and its catalogue.
struct Granted {
    token: Secret,
    /// `None` for a given token, as long as nobody asked for it.
    catalog: Option<Catalog>,
    /// `None` if it is not known.
    good_until: Option<Instant>,
}

impl Granted {
    fn is_good(&self) -> bool {
        self.good_until.is_none_or(|end| Instant::now() < end)
    }
}

impl KeystoneSession {
    /// Returns a session that has not asked for anything yet.
    pub(crate) fn new(login: Login, reach: Reach) -> Self {
        KeystoneSession { login, reach, state: Mutex::default() }
    }

    /// Returns a token that is good for a while.
    pub(crate) fn token(&self) -> Result<Secret, KeystoneError> {
        self.granted(None).map(|granted| granted.token.clone())
    }

    /// Returns a text of a server without the current token.
    pub(crate) fn without_token(&self, text: &str) -> String {
        let granted = self.locked().granted.clone();
        let token = granted.as_ref().map_or("", |granted| granted.token.reveal());
        without_secrets(text, &[token])
    }

    /// Does something with a token, and does it once more with a new token if the first is refused.
    ///
    /// `ask` gets the token; `is_refused` is true for an answer of 401. The second answer is returned
    /// whatever it is. A given token cannot be renewed, so its first answer is returned.
    pub(crate) fn authorized<T, E: From<KeystoneError>>(
        &self,
        mut ask: impl FnMut(&str) -> Result<T, E>,
        is_refused: impl Fn(&T) -> bool,
    ) -> Result<T, E> {
        let granted = self.granted(None)?;
        let answer = ask(granted.token.reveal())?;
        if !is_refused(&answer) || self.login.ready_token().is_some() {
            return Ok(answer);
        }
        let renewed = self.granted(Some(&granted))?;
        ask(renewed.token.reveal())
    }

    /// Returns the address of a service.
    pub(crate) fn endpoint(&self, sought: &ServiceSought<'_>) -> Result<Url, KeystoneError> {
        let granted = self.with_catalog()?;
        let catalog = granted.catalog.as_ref();
        catalog.unwrap_or(&Catalog::default()).endpoint(sought)
    }

    /// Returns the root of version 3 of the Identity API at `auth_url`.
    pub(super) fn base(&self) -> Result<Url, KeystoneError> {
        let known = self.locked().base.clone();
        known.map_or_else(|| self.expected_base(), Ok)
    }

    /// Returns who logs in, as messages name it.
    pub(super) fn who(&self) -> String {
        self.login.shown()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a good token other than a refused one, and logs in for it if necessary.
    fn granted(&self, refused: Option<&Arc<Granted>>) -> Result<Arc<Granted>, KeystoneError> {
        let start = Instant::now();
        let mut state = self.locked();
        let is_other = |granted: &&Arc<Granted>| refused.is_none_or(|refused| !Arc::ptr_eq(refused, granted));
        if let Some(granted) = state.granted.as_ref().filter(is_other).filter(|granted| granted.is_good()) {
            return Ok(Arc::clone(granted));
        }
        // Another thread found out while this one waited.
        if let Some((_, error)) = state.failed.as_ref().filter(|(at, _)| *at >= start) {
            return Err(error.clone());
        }
        state.granted = None;
        if let Some(error) = self.reach.refused.get(&self.login) {
            return Err(error);
        }
        match self.log_in(&mut state) {
            Ok(granted) => {
                let granted = Arc::new(granted);
                state.granted = Some(Arc::clone(&granted));
                state.failed = None;
                Ok(granted)
            }
            Err(error) => {
                self.reach.refused.note(&self.login, &error);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn with_catalog(&self) -> Result<Arc<Granted>, KeystoneError> {
        let granted = self.granted(None)?;
        if granted.catalog.is_some() {
            return Ok(granted);
        }
        let token = granted.token.clone();
        let granted = Arc::new(self.look_at(&token)?);
        self.locked().granted = Some(Arc::clone(&granted));
        Ok(granted)
    }

    fn expected_base(&self) -> Result<Url, KeystoneError> {
        let none = || {
            let setting = &self.login.auth_url_setting;
            KeystoneError::misconfigured(format!(
                "there is a token, but {setting}, which says where its Keystone is, is not set"
            ))
        };
        self.login.auth_url.as_ref().map(versioned).ok_or_else(none)
    }

    /// Gets a token.
    fn log_in(&self, state: &mut SessionState) -> Result<Granted, KeystoneError> {
        if let Some(token) = self.login.ready_token() {
            return Ok(Granted { token: token.clone(), catalog: None, good_until: None });
        }
        let base = state.base.clone().map_or_else(|| self.expected_base(), Ok)?;
        let mut url = below(&base, &["auth", "tokens"]);
        let mut answer = self.post(&url)?;
        if is_elsewhere(&answer) {
            let found = self.discover(&base, answer.status)?;
            url = below(&found, &["auth", "tokens"]);
            answer = self.post(&url)?;
            state.base = Some(found);
        }
        self.grant(&url, &answer)
    }

    fn post(&self, url: &Url) -> Result<Answer, KeystoneError> {
        let body = self.login.body();
        self.reach.ask(&Question { method: Method::POST, url, headers: &[], body: &body })
    }

    /// Looks where `auth_url` says that version 3 is, after an answer from where it was expected.
    fn discover(&self, expected: &Url, status: u16) -> Result<Url, KeystoneError> {
        let none = |why: &str| {
            KeystoneError::misconfigured(format!(
                "there is no Keystone at {}: it answers {status}{why}; {} has to be the address of the \
                 Identity API, with or without /v3",
                shown(expected),
                self.login.auth_url_setting
            ))
        };
        let root = self.login.auth_url.as_ref().unwrap_or(expected);
        let answer = self.reach.ask(&Question { method: Method::GET, url: root, headers: &[], body: "" })?;
        let Some(href) = answer.json::<Versions>().and_then(Versions::third) else {
            return Err(none(""));
        };
        let Some(found) = root.join(&href).ok().map(|url| versioned(&url)) else {
            return Err(none(", and the address that it gives for version 3 is no URL"));
        };
        if found.origin() != root.origin() {
            let found = without_secrets(&shown(&found), &[self.login.secret()]);
            return Err(none(&format!(
                ", and it gives {found} as the address of version 3, which is another server, to which the \
                 password is not sent"
            )));
        }
        if found == *expected {
            return Err(none(", although it says that version 3 is there"));
        }
        Ok(found)
    }

    /// Reads the answer to a login.
    fn grant(&self, url: &Url, answer: &Answer) -> Result<Granted, KeystoneError> {
        let place = shown(url);
        let words = || answer.words(&[self.login.secret()]);
        match answer.status {
            200 | 201 => {
                let wrong = |lacking: &str| {
                    let message = format!("the answer of {place} is not that of a Keystone: it {lacking}");
                    KeystoneError::misconfigured(message)
                };
                let token = answer.subject_token.clone().filter(|token| is_token(token));
                let token = token.ok_or_else(|| wrong("has no token"))?;
                let body: Option<TokenBody> = answer.json();
                let data = body.ok_or_else(|| wrong("does not describe the token"))?.token;
                Ok(as_granted(Secret::new(token), data))
            }
            // Keystone answers 404 for an application credential that does not exist.
            401 | 404 => Err(KeystoneError::refused(format!(
                "Keystone at {place} refuses {}: {} ({})",
                self.login.shown(),
                self.login.doubts(),
                words()
            ))),
            403 => {
                let message = format!("Keystone at {place} refuses {}: {}", self.login.shown(), words());
                Err(KeystoneError::refused(message))
            }
            429 | 500.. => {
                let message = format!("Keystone at {place} is out of order: {}", words());
                Err(KeystoneError::unreachable(message))
            }
            _ => {
                let message = format!(
                    "Keystone at {place} does not accept the login of {}: {}",
                    self.login.shown(),
                    words()
                );
                Err(KeystoneError::misconfigured(message))
            }
        }
    }

    /// Asks Keystone about a given token, with that token.
    fn look_at(&self, token: &Secret) -> Result<Granted, KeystoneError> {
        let url = below(&self.base()?, &["auth", "tokens"]);
        let headers = [("x-auth-token", token.reveal()), ("x-subject-token", token.reveal())];
        let question = Question { method: Method::GET, url: &url, headers: &headers, body: "" };
        let mut answer = self.reach.ask(&question)?;
        // The answer to this question does not repeat the token.
        answer.subject_token = Some(token.reveal().to_owned());
        self.grant(&url, &answer)
    }
}

/// True if an answer to a login shows that it was not Keystone's version 3 that was asked.
fn is_elsewhere(answer: &Answer) -> bool {
    match answer.status {
        300..400 | 405 => true,
        404 => !answer.is_of_keystone(),
        _ => false,
    }
}

fn as_granted(token: Secret, data: TokenData) -> Granted {
    let lifetime = data.lifetime();
    let good_until = lifetime.map(|lifetime| {
        // Of a token that is shorter than that anyway, half is used.
        Instant::now() + lifetime.checked_sub(LEAST_LEFT).unwrap_or_default().max(lifetime / 2)
    });
    Granted { token, catalog: Some(Catalog::new(data.catalog)), good_until }
}

/// Returns the address with `/v3` at its end.
pub(super) fn versioned(url: &Url) -> Url {
    let path = url.path().trim_end_matches('/');
    let mut url = url.clone();
    let path = if path.ends_with("/v3") { path.to_owned() } else { format!("{path}/v3") };
    url.set_path(&path);
    url
}

/// Returns the address of something below another one.
pub(super) fn below(url: &Url, names: &[&str]) -> Url {
    let mut path = url.path().trim_end_matches('/').to_owned();
    for name in names {
        path = path + "/" + name;
    }
    let mut url = url.clone();
    url.set_path(&path);
    url
}

/// The versions that a Keystone says it has: all of them at its root, or one at its own place.
#[derive(Deserialize)]
struct Versions {
    #[serde(default)]
    versions: Option<VersionList>,
    #[serde(default)]
    version: Option<ApiVersion>,
}

#[derive(Deserialize)]
struct VersionList {
    #[serde(default)]
    values: Vec<ApiVersion>,
}

#[derive(Deserialize)]
struct ApiVersion {
    #[serde(default)]
    id: String,
    #[serde(default)]
    links: Vec<VersionLink>,
}

#[derive(Deserialize)]
struct VersionLink {
    #[serde(default)]
    rel: String,
    #[serde(default)]
    href: String,
}

impl Versions {
    /// Returns the address of version 3.
    fn third(self) -> Option<String> {
        let listed = self.versions.map(|list| list.values).unwrap_or_default();
        let third = listed.into_iter().chain(self.version).find(|version| version.id.starts_with("v3"))?;
        third.links.into_iter().find(|link| link.rel == "self").map(|link| link.href)
    }
}
