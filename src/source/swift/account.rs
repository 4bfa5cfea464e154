//! An account of Swift: who logs in to which Keystone for it.
//!
//! The names of options in messages are those that the operator wrote, not Keystone's.

use anyhow::{Context as _, Result, ensure};

use crate::openstack::keystone::login::{self, Login, LoginOptions};
use crate::openstack::secret::Secret;

/// The domain of users and projects for which none is given.
const DEFAULT_DOMAIN: &str = "default";
/// The place of a login that is in a location.
const LOCATION: &str = "the location";

/// A login for an account of Swift, in Keystone's words and in those of its place.
#[derive(Clone, Debug)]
pub(super) struct SwiftAccount {
    /// The file and the section, as messages name them.
    place: String,
    auth_url: String,
    identity: SwiftIdentity,
    /// `user_domain_id` and its relatives.
    domains: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug)]
enum SwiftIdentity {
    User { project: String, name: String, key: Secret },
    ApplicationCredential { id: String, secret: Secret },
}

/// Returns an option of a section, or `None` if it is not there.
type LookUp<'a> = dyn Fn(&str) -> Result<Option<String>> + 'a;

impl SwiftAccount {
    /// Reads the account of a section: `auth_address`, `user` and `key` or an application credential, and the
    /// domains.
    pub(super) fn of_section(place: &str, look_up: &LookUp<'_>) -> Result<Self> {
        let get = |name: &str| Ok::<_, anyhow::Error>(look_up(name)?.filter(|value| !value.is_empty()));
        let need = |name: &str| get(name)?.with_context(|| format!("{name} is not set in {place}"));
        let address = need("auth_address")?;
        let credential = (get("application_credential_id")?, get("application_credential_secret")?);
        let identity = match credential {
            (Some(id), Some(secret)) => {
                SwiftIdentity::ApplicationCredential { id, secret: Secret::new(secret) }
            }
            _ => user(&need("user")?, Secret::new(need("key")?))
                .with_context(|| format!("cannot use user in {place}"))?,
        };
        let mut domains = Vec::new();
        for prefix in [["user_domain_id", "user_domain_name"], ["project_domain_id", "project_domain_name"]] {
            for name in prefix {
                domains.extend(get(name)?.map(|value| (name, value)));
            }
        }
        Ok(SwiftAccount { place: place.to_owned(), auth_url: with_scheme(&address), identity, domains })
    }

    /// Returns the account that a location gives itself, with the domains of another account.
    pub(super) fn of_location(
        auth_url: &str,
        name: &str,
        key: &Secret,
        like: Option<&SwiftAccount>,
    ) -> Result<Self> {
        let identity = user(name, key.clone())?;
        let domains = like.map(|like| like.domains.clone()).unwrap_or_default();
        Ok(SwiftAccount { place: LOCATION.to_owned(), auth_url: auth_url.to_owned(), identity, domains })
    }

    /// True if it is the same user of the same project as another account, with another key.
    pub(super) fn is_same_user_with_another_key(&self, other: &SwiftAccount) -> bool {
        use SwiftIdentity::User;
        match (&self.identity, &other.identity) {
            (User { project, name, key }, User { project: of_project, name: named, key: old }) => {
                (project, name, &self.domains) == (of_project, named, &other.domains) && key != old
            }
            _ => false,
        }
    }

    /// True if it logs in with an application credential.
    pub(super) fn has_application_credential(&self) -> bool {
        matches!(self.identity, SwiftIdentity::ApplicationCredential { .. })
    }

    /// Returns the file and the section, as messages name them.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Returns the address of its Keystone.
    pub(super) fn auth_url(&self) -> &str {
        &self.auth_url
    }

    /// Returns the login.
    pub(super) fn login(&self) -> Result<Login> {
        let plugin = match &self.identity {
            SwiftIdentity::User { .. } => "v3password",
            SwiftIdentity::ApplicationCredential { .. } => "v3applicationcredential",
        };
        login::read(self, plugin)
    }
}

/// Takes `PROJECT:USER` apart.
fn user(text: &str, key: Secret) -> Result<SwiftIdentity> {
    let parts = text
        .split_once(':')
        .filter(|(project, name)| !project.is_empty() && !name.is_empty() && !name.contains(':'));
    let (project, name) = parts.context("the user is not PROJECT:USER")?;
    ensure!(!key.reveal().is_empty(), "the key is empty");
    Ok(SwiftIdentity::User { project: project.to_owned(), name: name.to_owned(), key })
}

/// Returns an address with the scheme that Glance takes when there is none.
fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("https://{address}") }
}

impl LoginOptions for SwiftAccount {
    fn value(&self, name: &str) -> Result<Option<String>> {
        if name == "auth_url" {
            return Ok(Some(self.auth_url.clone()));
        }
        let of_identity = match (&self.identity, name) {
            (SwiftIdentity::User { project, .. }, "project_name") => Some(project.clone()),
            (SwiftIdentity::User { name, .. }, "username") => Some(name.clone()),
            (SwiftIdentity::User { key, .. }, "password") => Some(key.reveal().to_owned()),
            (SwiftIdentity::ApplicationCredential { id, .. }, "application_credential_id") => {
                Some(id.clone())
            }
            (SwiftIdentity::ApplicationCredential { secret, .. }, "application_credential_secret") => {
                Some(secret.reveal().to_owned())
            }
            _ => None,
        };
        let of_domain = || self.domains.iter().find(|(known, _)| *known == name);
        Ok(of_identity.or_else(|| of_domain().map(|(_, value)| value.clone())))
    }

    fn shown(&self, name: &str) -> String {
        let own = match name {
            "auth_url" if self.place == LOCATION => return "the address in the location".to_owned(),
            "auth_url" => "auth_address",
            "username" | "project_name" => "user",
            "password" => "key",
            name => name,
        };
        format!("{own} of {}", self.place)
    }

    fn default_domain(&self) -> Option<String> {
        Some(DEFAULT_DOMAIN.to_owned())
    }
}
