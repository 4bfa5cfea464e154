//! Logins that Keystone refused, which are not tried again at once.
//!
//! A Keystone with `lockout_failure_attempts` locks a user out after a few wrong passwords, and a run asks
//! for many images. A refusal holds for the server, the user, the secret and the scope together, wherever in
//! the configuration or in locations they stand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::Origin;

use super::error::{KeystoneError, Unhelpful};
use super::login::{Login, LoginMethod, LoginScope};

/// Logins that were refused. Shared by its copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedLogins {
    /// The time after which a login is tried again; `None` for never.
    rest: Option<Duration>,
    known: Arc<Mutex<Vec<RefusedLogin>>>,
}

#[derive(Debug)]
struct RefusedLogin {
    origin: Option<Origin>,
    method: LoginMethod,
    scope: LoginScope,
    at: Instant,
    error: KeystoneError,
}

impl RefusedLogins {
    /// Returns the memory of a process that outlives what it was told: logins are tried again after a while.
    pub(super) fn for_a_while(rest: Duration) -> Self {
        RefusedLogins { rest: Some(rest), known: Arc::default() }
    }

    /// Returns the refusal of a login, if it is not to be tried now.
    pub(super) fn get(&self, login: &Login) -> Option<KeystoneError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|refused| self.rest.is_none_or(|rest| refused.at.elapsed() < rest));
        let origin = origin(login);
        let is_same = |refused: &&RefusedLogin| {
            (&refused.origin, &refused.method, &refused.scope) == (&origin, &login.method, &login.scope)
        };
        known.iter().find(is_same).map(|refused| refused.error.clone())
    }

    /// Remembers an error if it is a refusal.
    pub(super) fn note(&self, login: &Login, error: &KeystoneError) {
        if error.kind != Unhelpful::Refused {
            return;
        }
        let (origin, at, error) = (origin(login), Instant::now(), error.clone());
        let (method, scope) = (login.method.clone(), login.scope.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(RefusedLogin { origin, method, scope, at, error });
    }
}

fn origin(login: &Login) -> Option<Origin> {
    login.auth_url.as_ref().map(url::Url::origin)
}
