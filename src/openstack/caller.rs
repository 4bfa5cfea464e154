//! The caller of a request: the credentials that Keystone vouches for.
//!
//! Made from Keystone's answer about a token, never from headers of the request. Policy checks read it by the
//! names that oslo.context gives to them, and by no others: Glance hands no `is_admin`, `tenant` or `user` to
//! its policy.

/// The names of all credentials that a policy check can read. `system` is only there for a token with
/// system scope.
const CREDENTIALS: &[&str] = &[
    "user_id",
    "user_domain_id",
    "system_scope",
    "system",
    "domain_id",
    "project_id",
    "project_domain_id",
    "roles",
    "is_admin_project",
    "service_user_id",
    "service_user_domain_id",
    "service_project_id",
    "service_project_domain_id",
    "service_roles",
];

/// The credentials of a caller. A field is `None` if the token does not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user_id: Option<String>,
    pub(crate) user_domain_id: Option<String>,
    /// `all` for a token with system scope.
    pub(crate) system_scope: Option<String>,
    /// The domain of a token with domain scope.
    pub(crate) domain_id: Option<String>,
    pub(crate) project_id: Option<String>,
    pub(crate) project_domain_id: Option<String>,
    /// In lower case, as Glance has them: see [`Caller::with_roles`].
    pub(super) roles: Vec<String>,
    /// False only if Keystone has an admin project and says that this token is for another one.
    pub(super) is_admin_project: bool,
    /// These five come from the service token that a request carries beside the caller's.
    pub(super) service_user_id: Option<String>,
    pub(super) service_user_domain_id: Option<String>,
    pub(super) service_project_id: Option<String>,
    pub(super) service_project_domain_id: Option<String>,
    pub(super) service_roles: Vec<String>,
}

/// A credential as policy checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential<'a> {
    /// In Python's notation: `None`, `True` and `False` are texts like all others.
    One(&'a str),
    Many(&'a [String]),
    /// There is no credential of that name, so no check of it succeeds.
    Missing,
}

/// The kind of a token by its scope, as policies are limited to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenScope {
    System,
    Domain,
    /// Also of a token without any scope: it has no roles.
    Project,
}

impl Caller {
    /// Returns the caller with these roles in lower case.
    pub(super) fn with_roles(self, roles: &[impl AsRef<str>]) -> Self {
        Self { roles: roles.iter().map(|role| role.as_ref().to_lowercase()).collect(), ..self }
    }

    /// Returns the scope of the caller's token.
    pub(crate) fn scope(&self) -> TokenScope {
        let is_given = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
        match (is_given(&self.system_scope), is_given(&self.domain_id)) {
            (true, _) => TokenScope::System,
            (_, true) => TokenScope::Domain,
            _ => TokenScope::Project,
        }
    }

    /// True if policy checks know a credential of that name.
    pub(super) fn is_credential(name: &str) -> bool {
        CREDENTIALS.contains(&name)
    }

    /// Returns the credential of that name.
    pub(crate) fn credential(&self, name: &str) -> Credential<'_> {
        let field = match name {
            "user_id" => &self.user_id,
            "user_domain_id" => &self.user_domain_id,
            "system_scope" => &self.system_scope,
            "system" if self.scope() == TokenScope::System => &self.system_scope,
            "domain_id" => &self.domain_id,
            "project_id" => &self.project_id,
            "project_domain_id" => &self.project_domain_id,
            "service_user_id" => &self.service_user_id,
            "service_user_domain_id" => &self.service_user_domain_id,
            "service_project_id" => &self.service_project_id,
            "service_project_domain_id" => &self.service_project_domain_id,
            "roles" => return Credential::Many(&self.roles),
            "service_roles" => return Credential::Many(&self.service_roles),
            "is_admin_project" => {
                return Credential::One(if self.is_admin_project { "True" } else { "False" });
            }
            _ => return Credential::Missing,
        };
        Credential::One(field.as_deref().unwrap_or("None"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_a_credential_and_no_other() {
        let caller = Caller { system_scope: Some("all".to_owned()), ..Caller::default() };
        for name in CREDENTIALS {
            assert_ne!(caller.credential(name), Credential::Missing, "{name}");
        }
        for name in ["is_admin", "tenant", "user", "token", "", "Roles"] {
            assert_eq!(caller.credential(name), Credential::Missing, "{name}");
            assert!(!Caller::is_credential(name), "{name}");
        }
        assert_eq!(Caller::default().credential("system"), Credential::Missing);
    }

    #[test]
    fn credentials_are_in_python_notation() {
        let caller = Caller { user_id: Some("u1".to_owned()), ..Caller::default() }.with_roles(&["Admin"]);
        assert_eq!(caller.credential("user_id"), Credential::One("u1"));
        assert_eq!(caller.credential("domain_id"), Credential::One("None"));
        assert_eq!(caller.credential("is_admin_project"), Credential::One("False"));
        assert_eq!(caller.credential("roles"), Credential::Many(&["admin".to_owned()]));
    }

    #[test]
    fn the_scope_is_the_widest_that_is_given() {
        let text = |text: &str| Some(text.to_owned());
        let caller = |system, domain, project| Caller {
            system_scope: system,
            domain_id: domain,
            project_id: project,
            ..Caller::default()
        };
        for (caller, scope) in [
            (caller(text("all"), text("d"), None), TokenScope::System),
            (caller(None, text("d"), None), TokenScope::Domain),
            (caller(text(""), text(""), text("p")), TokenScope::Project),
            (caller(None, None, None), TokenScope::Project),
        ] {
            assert_eq!(caller.scope(), scope, "{caller:?}");
        }
    }
}
