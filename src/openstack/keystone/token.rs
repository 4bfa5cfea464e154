//! A token as Keystone describes it, in the answers to whoever gets one and to whoever validates one.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::catalog::{CatalogService, services};
use super::rules::AccessRule;

#[derive(Debug, Deserialize)]
pub(super) struct TokenBody {
    pub(super) token: TokenData,
}

/// A description of a token. A field is empty or `None` if Keystone does not say it.
#[derive(Debug, Deserialize)]
pub(super) struct TokenData {
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    issued_at: Option<String>,
    #[serde(default, deserialize_with = "services")]
    pub(super) catalog: Option<Vec<CatalogService>>,
    #[serde(default)]
    pub(super) user: Option<TokenUser>,
    #[serde(default)]
    pub(super) project: Option<TokenProject>,
    #[serde(default)]
    pub(super) domain: Option<TokenDomain>,
    #[serde(default)]
    system: Option<TokenSystem>,
    #[serde(default)]
    roles: Vec<TokenRole>,
    #[serde(default)]
    pub(super) is_admin_project: Option<bool>,
    #[serde(default)]
    application_credential: Option<TokenCredential>,
    #[serde(default)]
    bind: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenUser {
    pub(super) id: String,
    #[serde(default)]
    pub(super) domain: Option<TokenDomain>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenProject {
    pub(super) id: String,
    #[serde(default)]
    pub(super) domain: Option<TokenDomain>,
}

/// The domain of the token, of its user or of its project.
#[derive(Debug, Deserialize)]
pub(super) struct TokenDomain {
    /// A project that acts as a domain is in none.
    #[serde(default)]
    pub(super) id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct TokenSystem {
    #[serde(default)]
    all: bool,
}

#[derive(Debug, Deserialize)]
struct TokenRole {
    name: String,
}

#[derive(Debug, Deserialize)]
struct TokenCredential {
    #[serde(default)]
    access_rules: Option<Vec<AccessRule>>,
}

impl TokenData {
    /// Returns how long the token is valid from when it was issued, by Keystone's own clock.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        let issued = self.issued_at.as_ref()?.parse::<Timestamp>().ok()?;
        let expires = self.expires_at.as_ref()?.parse::<Timestamp>().ok()?;
        Some(expires.duration_since(issued).unsigned_abs()).filter(|_| expires > issued)
    }

    /// Returns when the token expires, in seconds since the epoch.
    pub(super) fn expires(&self) -> Option<i64> {
        Some(self.expires_at.as_ref()?.parse::<Timestamp>().ok()?.as_second())
    }

    pub(super) fn role_names(&self) -> Vec<&str> {
        self.roles.iter().map(|role| role.name.as_str()).collect()
    }

    pub(super) fn has_system_scope(&self) -> bool {
        self.system.as_ref().is_some_and(|system| system.all)
    }

    /// Returns the rules that limit which requests the token is for; `None` if it is for all.
    pub(super) fn access_rules(&mut self) -> Option<Vec<AccessRule>> {
        self.application_credential.as_mut()?.access_rules.take()
    }

    /// True if the token is for a client with certain credentials of the connection only.
    pub(super) fn is_bound(&self) -> bool {
        match &self.bind {
            None | Some(Value::Null) => false,
            Some(Value::Object(bind)) => !bind.is_empty(),
            Some(_) => true,
        }
    }
}
