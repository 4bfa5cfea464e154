//! A login to Keystone: the credentials, and the request for a token that they make.
//!
//! Settings files, clouds.yaml and the environment have the same options under other names; [`read`] turns
//! any of them into a [`Login`] and says which option is missing in the words of its source. What is not
//! supported is refused by name. A message never contains the value of a secret.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use url::Url;

use crate::openstack::secret::{Secret, is_token};

/// The credentials for a token, and the scope that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// Without query, fragment and credentials. `None` only for a token that is used as it is.
    pub(super) auth_url: Option<Url>,
    /// The setting that it is from, as messages name it.
    pub(super) auth_url_setting: String,
    pub(super) method: LoginMethod,
    pub(super) scope: LoginScope,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LoginMethod {
    Password { user: Named, password: Secret },
    ApplicationCredential { credential: ApplicationCredential, secret: Secret },
    Token(Secret),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApplicationCredential {
    Id(String),
    Name { name: String, user: Named },
}

/// A user or a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Id(String),
    Name { name: String, domain: DomainRef },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DomainRef {
    Id(String),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LoginScope {
    /// Of the user's default project, if there is one.
    Default,
    Project(Named),
    Domain(DomainRef),
    System,
}

/// A source of the options of a login.
pub(crate) trait LoginOptions {
    /// Returns the value of an option by its name in keystoneauth, such as `user_domain_id`, also if it has
    /// an older name there. An empty value is none.
    fn value(&self, name: &str) -> Result<Option<String>>;

    /// Returns the option's name as the operator wrote it, or would have to.
    fn shown(&self, name: &str) -> String;

    /// Returns the place where an option is set, before what is said of it; nothing if it is not known.
    fn origin(&self, _name: &str) -> String {
        String::new()
    }

    /// Returns the id of the domain of users and projects for which none is given.
    fn default_domain(&self) -> Option<String>;
}

/// Reads a login with the options of a plugin of keystoneauth.
pub(crate) fn read(options: &dyn LoginOptions, plugin: &str) -> Result<Login> {
    let reader = OptionReader { options };
    let (auth_url, method, scope) = match plugin {
        "password" | "v3password" => {
            let auth_url = Some(reader.auth_url()?);
            let user = reader.user()?;
            let method = LoginMethod::Password { user, password: reader.secret("password")? };
            (auth_url, method, reader.scope()?)
        }
        "v3applicationcredential" => {
            let auth_url = Some(reader.auth_url()?);
            let secret = reader.secret("application_credential_secret")?;
            let credential = reader.application_credential()?;
            // It has the scope of its project, and Keystone refuses any other.
            (auth_url, LoginMethod::ApplicationCredential { credential, secret }, LoginScope::Default)
        }
        "token" | "v3token" => {
            let auth_url = reader.optional("auth_url")?.is_some().then(|| reader.auth_url()).transpose()?;
            let scope = if auth_url.is_some() { reader.scope()? } else { LoginScope::Default };
            (auth_url, LoginMethod::Token(reader.token()?), scope)
        }
        _ => bail!(
            "{}: the plugin {plugin:?} is not supported: use password, v3applicationcredential or v3token",
            reader.placed("auth_type")
        ),
    };
    Ok(Login { auth_url, auth_url_setting: options.shown("auth_url"), method, scope })
}

struct OptionReader<'a> {
    options: &'a dyn LoginOptions,
}

impl OptionReader<'_> {
    /// Returns the option's name after the place where it is set.
    fn placed(&self, name: &str) -> String {
        self.options.origin(name) + &self.options.shown(name)
    }

    fn optional(&self, name: &str) -> Result<Option<String>> {
        Ok(self.options.value(name)?.filter(|value| !value.is_empty()))
    }

    fn required(&self, name: &str) -> Result<String> {
        self.optional(name)?.with_context(|| format!("{} is not set", self.options.shown(name)))
    }

    fn secret(&self, name: &str) -> Result<Secret> {
        let secret = self.required(name)?;
        // Such as the end of the line of a file that it was read from.
        ensure!(
            !secret.contains(char::is_control),
            "{}: it has a line break or another control character",
            self.placed(name)
        );
        Ok(Secret::new(secret))
    }

    fn token(&self) -> Result<Secret> {
        token(self.required("token")?, &self.placed("token"))
    }

    fn auth_url(&self) -> Result<Url> {
        let (origin, shown) = (self.options.origin("auth_url"), self.options.shown("auth_url"));
        auth_url(&self.required("auth_url")?).with_context(|| format!("{origin}cannot use {shown}"))
    }

    fn user(&self) -> Result<Named> {
        match self.named("user_id", "username", "user_domain")? {
            Some(user) => Ok(user),
            None => {
                bail!(
                    "neither {} nor {} is set",
                    self.options.shown("username"),
                    self.options.shown("user_id")
                )
            }
        }
    }

    fn application_credential(&self) -> Result<ApplicationCredential> {
        if let Some(id) = self.optional("application_credential_id")? {
            return Ok(ApplicationCredential::Id(id));
        }
        let shown = |name| self.options.shown(name);
        let name = self.optional("application_credential_name")?.with_context(|| {
            format!(
                "neither {} nor {} is set",
                shown("application_credential_id"),
                shown("application_credential_name")
            )
        })?;
        let user = self.user().with_context(|| {
            format!("{} also needs the user whose it is", shown("application_credential_name"))
        })?;
        Ok(ApplicationCredential::Name { name, user })
    }

    /// Returns what an id, or a name with its domain, stands for.
    fn named(&self, id: &str, name: &str, domain: &str) -> Result<Option<Named>> {
        if let Some(id) = self.optional(id)? {
            return Ok(Some(Named::Id(id)));
        }
        let Some(text) = self.optional(name)? else { return Ok(None) };
        let default = || -> Result<Option<DomainRef>> {
            if let Some(domain) = self.domain("default_domain")? {
                return Ok(Some(domain));
            }
            Ok(self.options.default_domain().map(DomainRef::Id))
        };
        let found = self.domain(domain)?.map_or_else(default, |domain| Ok(Some(domain)))?;
        let shown = |name: &str| self.options.shown(name);
        let domain = found.with_context(|| {
            format!(
                "{} needs {} or {}: a name is unique in its domain only",
                shown(name),
                shown(&format!("{domain}_name")),
                shown(&format!("{domain}_id"))
            )
        })?;
        Ok(Some(Named::Name { name: text, domain }))
    }

    fn domain(&self, prefix: &str) -> Result<Option<DomainRef>> {
        let id = self.optional(&format!("{prefix}_id"))?.map(DomainRef::Id);
        Ok(match id {
            Some(id) => Some(id),
            None => self.optional(&format!("{prefix}_name"))?.map(DomainRef::Name),
        })
    }

    fn scope(&self) -> Result<LoginScope> {
        let (shown, placed) = (|name: &str| self.options.shown(name), |name: &str| self.placed(name));
        ensure!(self.optional("trust_id")?.is_none(), "{}: trusts are not supported", placed("trust_id"));
        let project = self.named("project_id", "project_name", "project_domain")?;
        let domain = self.domain("domain")?;
        let system = self.optional("system_scope")?;
        if let Some(system) = &system {
            ensure!(system == "all", "{}: there is no system scope but \"all\"", placed("system_scope"));
        }
        match (project, domain, system) {
            (None, None, None) => Ok(LoginScope::Default),
            (Some(project), None, None) => Ok(LoginScope::Project(project)),
            (None, Some(domain), None) => Ok(LoginScope::Domain(domain)),
            (None, None, Some(_)) => Ok(LoginScope::System),
            _ => bail!(
                "a token is for one scope: set only one of {}, {} and {}",
                shown("project_name"),
                shown("domain_name"),
                shown("system_scope")
            ),
        }
    }
}

/// Checks that a text can be a token. `shown` names the option that it is from.
pub(in crate::openstack) fn token(text: String, shown: &str) -> Result<Secret> {
    ensure!(
        is_token(&text),
        "{shown}: it is no token, because it has a blank, a line break or another character that none has"
    );
    Ok(Secret::new(text))
}

/// Parses the address of a Keystone. The message does not repeat it, because it may hold a password.
pub(in crate::openstack) fn auth_url(text: &str) -> Result<Url> {
    let url = service_url(text)?;
    ensure!(
        !url.path().trim_end_matches('/').ends_with("/v2.0"),
        "version 2.0 of the Identity API is not supported: end it in /v3, or in neither"
    );
    Ok(url)
}

/// Parses the address of a service. The message does not repeat it, because it may hold a password.
pub(crate) fn service_url(text: &str) -> Result<Url> {
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let mut url = url.context("it is not a URL that begins with http:// or https://")?;
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "a URL with a user name or a password in it is not supported"
    );
    ensure!(url.query().is_none(), "a URL with a query is not supported");
    url.set_fragment(None);
    Ok(url)
}

impl Login {
    /// Returns a login with a token that is used as it is.
    pub(in crate::openstack) fn with_token(token: Secret, auth_url: Option<Url>, setting: &str) -> Self {
        let (auth_url_setting, scope) = (setting.to_owned(), LoginScope::Default);
        Login { auth_url, auth_url_setting, method: LoginMethod::Token(token), scope }
    }

    /// Returns the setting that lacks, if it is not known where Keystone is.
    pub(crate) fn lacks_keystone(&self) -> Option<&str> {
        self.auth_url.is_none().then_some(&self.auth_url_setting)
    }

    /// True if a user logs in without saying for which project or other scope.
    pub(super) fn lacks_scope(&self) -> bool {
        matches!((&self.method, &self.scope), (LoginMethod::Password { .. }, LoginScope::Default))
    }

    /// True if it is a token that is used as it is, and cannot be renewed.
    pub(crate) fn is_given_token(&self) -> bool {
        self.ready_token().is_some()
    }

    /// Returns the token that needs no request to Keystone, if there is one.
    pub(super) fn ready_token(&self) -> Option<&Secret> {
        match (&self.method, &self.scope) {
            (LoginMethod::Token(token), LoginScope::Default) => Some(token),
            _ => None,
        }
    }

    /// Returns the body of the request for a token.
    pub(in crate::openstack) fn body(&self) -> String {
        let identity = match &self.method {
            LoginMethod::Password { user, password } => {
                let mut user = named(user);
                user["password"] = json!(password.reveal());
                json!({"methods": ["password"], "password": {"user": user}})
            }
            LoginMethod::ApplicationCredential { credential, secret } => {
                let mut credential = match credential {
                    ApplicationCredential::Id(id) => json!({"id": id}),
                    ApplicationCredential::Name { name, user } => json!({"name": name, "user": named(user)}),
                };
                credential["secret"] = json!(secret.reveal());
                json!({"methods": ["application_credential"], "application_credential": credential})
            }
            LoginMethod::Token(token) => json!({"methods": ["token"], "token": {"id": token.reveal()}}),
        };
        let scope = match &self.scope {
            LoginScope::Default => None,
            LoginScope::Project(project) => Some(json!({"project": named(project)})),
            LoginScope::Domain(domain) => Some(json!({"domain": self::domain(domain)})),
            LoginScope::System => Some(json!({"system": {"all": true}})),
        };
        let mut auth = json!({"identity": identity});
        if let Some(scope) = scope {
            auth["scope"] = scope;
        }
        json!({"auth": auth}).to_string()
    }

    /// Returns what is sent to Keystone and to nobody else, which its words may repeat.
    pub(super) fn secret(&self) -> &str {
        match &self.method {
            LoginMethod::Password { password: secret, .. }
            | LoginMethod::ApplicationCredential { secret, .. }
            | LoginMethod::Token(secret) => secret.reveal(),
        }
    }

    /// Returns who logs in and for what, such as `the user 'glance' for the project 'service'`.
    pub(in crate::openstack) fn shown(&self) -> String {
        let quoted = |named: &Named| match named {
            Named::Id(id) => format!("with the id '{id}'"),
            Named::Name { name, domain: DomainRef::Id(domain) | DomainRef::Name(domain) } => {
                format!("'{name}' (domain '{domain}')")
            }
        };
        let who = match &self.method {
            LoginMethod::Password { user, .. } => format!("the user {}", quoted(user)),
            LoginMethod::ApplicationCredential { credential: ApplicationCredential::Id(id), .. } => {
                format!("the application credential with the id '{id}'")
            }
            LoginMethod::ApplicationCredential {
                credential: ApplicationCredential::Name { name, user },
                ..
            } => format!("the application credential '{name}' of the user {}", quoted(user)),
            LoginMethod::Token(_) => "the given token".to_owned(),
        };
        match &self.scope {
            LoginScope::Default => who,
            LoginScope::Project(project) => format!("{who} for the project {}", quoted(project)),
            LoginScope::Domain(DomainRef::Id(domain) | DomainRef::Name(domain)) => {
                format!("{who} for the domain '{domain}'")
            }
            LoginScope::System => format!("{who} for the whole system"),
        }
    }

    /// Returns what may be wrong if Keystone refuses this login: it never says more than no.
    pub(super) fn doubts(&self) -> &'static str {
        match (&self.method, &self.scope) {
            (LoginMethod::Token(_), _) => "it is unknown, expired or revoked, or has no access there",
            (LoginMethod::ApplicationCredential { .. }, _) => {
                "it does not exist, has expired, or its secret is wrong"
            }
            (LoginMethod::Password { .. }, LoginScope::Default) => {
                "the password is wrong, or there is no such user"
            }
            (LoginMethod::Password { .. }, _) => {
                "the password is wrong, there is no such user or project, or the user has no role there"
            }
        }
    }
}

fn named(named: &Named) -> Value {
    match named {
        Named::Id(id) => json!({"id": id}),
        Named::Name { name, domain } => json!({"name": name, "domain": self::domain(domain)}),
    }
}

fn domain(domain: &DomainRef) -> Value {
    match domain {
        DomainRef::Id(id) => json!({"id": id}),
        DomainRef::Name(name) => json!({"name": name}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options as `name=value` words, named in messages as they are.
    struct Words(&'static str);

    impl LoginOptions for Words {
        fn value(&self, name: &str) -> Result<Option<String>> {
            let mut words = self.0.split(' ').filter_map(|word| word.split_once('='));
            Ok(words.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()))
        }

        fn shown(&self, name: &str) -> String {
            name.to_owned()
        }

        fn default_domain(&self) -> Option<String> {
            None
        }
    }

    const USER: &str = "auth_url=http://k:5000 username=glance user_domain_id=default password=pw";

    fn body(words: &'static str, plugin: &str) -> Result<Value, String> {
        let login = read(&Words(words), plugin).map_err(|error| format!("{error:#}"))?;
        assert!(!format!("{login:?} {}", login.shown()).contains("pw"), "{login:?}");
        Ok(serde_json::from_str(&login.body()).unwrap())
    }

    #[test]
    fn asks_for_a_token_as_keystoneauth_does() {
        let password = |scope: Option<Value>| {
            let user = json!({"name": "glance", "domain": {"id": "default"}, "password": "pw"});
            let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": user}}});
            if let Some(scope) = scope {
                auth["scope"] = scope;
            }
            Ok(json!({"auth": auth}))
        };
        let with = |more: &str| -> &'static str { format!("{USER} {more}").leak() };
        for plugin in ["password", "v3password"] {
            assert_eq!(body(USER, plugin), password(None));
        }
        for (more, scope) in [
            ("project_id=p1", json!({"project": {"id": "p1"}})),
            (
                "project_name=service project_domain_name=Default",
                json!({"project": {"name": "service", "domain": {"name": "Default"}}}),
            ),
            (
                "project_name=service default_domain_id=d1",
                json!({"project": {"name": "service", "domain": {"id": "d1"}}}),
            ),
            ("domain_name=Default", json!({"domain": {"name": "Default"}})),
            ("system_scope=all", json!({"system": {"all": true}})),
        ] {
            assert_eq!(body(with(more), "password"), password(Some(scope)), "{more}");
        }
        let found = body("auth_url=http://k user_id=u1 password=pw", "password").unwrap();
        assert_eq!(found["auth"]["identity"]["password"]["user"], json!({"id": "u1", "password": "pw"}));
    }

    #[test]
    fn asks_with_application_credentials_and_tokens() {
        let url = "auth_url=http://k/v3 application_credential_secret=pw";
        let with = |more: &str| -> &'static str { format!("{url} {more}").leak() };
        let credential = |credential: Value| {
            let identity =
                json!({"methods": ["application_credential"], "application_credential": credential});
            Ok(json!({"auth": {"identity": identity}}))
        };
        assert_eq!(
            body(with("application_credential_id=a1 project_name=ignored"), "v3applicationcredential"),
            credential(json!({"id": "a1", "secret": "pw"}))
        );
        assert_eq!(
            body(with("application_credential_name=a user_id=u1"), "v3applicationcredential"),
            credential(json!({"name": "a", "user": {"id": "u1"}, "secret": "pw"}))
        );
        assert_eq!(
            body("auth_url=http://k token=pw project_id=p1", "v3token").unwrap(),
            json!({"auth": {"identity": {"methods": ["token"], "token": {"id": "pw"}},
                            "scope": {"project": {"id": "p1"}}}})
        );
        assert!(read(&Words("token=pw"), "token").unwrap().ready_token().is_some());
        assert!(read(&Words(USER), "password").unwrap().ready_token().is_none());
    }

    #[test]
    fn says_which_option_is_missing_or_wrong() {
        let with = |more: &str| -> &'static str { format!("{USER} {more}").leak() };
        for (words, plugin, message) in [
            ("username=u", "password", "auth_url is not set".to_owned()),
            ("auth_url=http://k", "password", "neither username nor user_id is set".to_owned()),
            (
                "auth_url=http://k username=u password=x",
                "password",
                "username needs user_domain_name or user_domain_id: a name is unique in its domain only"
                    .to_owned(),
            ),
            ("auth_url=http://k user_id=u password=", "password", "password is not set".to_owned()),
            (
                with("project_name=p"),
                "password",
                "project_name needs project_domain_name or project_domain_id: a name is unique in its \
                 domain only"
                    .to_owned(),
            ),
            (
                with("project_id=p domain_id=d"),
                "password",
                "a token is for one scope: set only one of project_name, domain_name and system_scope"
                    .to_owned(),
            ),
            (
                with("system_scope=some"),
                "password",
                "system_scope: there is no system scope but \"all\"".to_owned(),
            ),
            (with("trust_id=t"), "password", "trust_id: trusts are not supported".to_owned()),
            (
                "auth_url=http://k application_credential_secret=x",
                "v3applicationcredential",
                "neither application_credential_id nor application_credential_name is set".to_owned(),
            ),
        ] {
            assert_eq!(body(words, plugin), Err(message), "{words}");
        }
    }

    #[test]
    fn says_which_plugin_or_address_is_not_supported() {
        let only = "cannot use auth_url: ";
        for (words, plugin, message) in [
            (
                USER,
                "v3kerberos",
                "auth_type: the plugin \"v3kerberos\" is not supported: use password, \
                 v3applicationcredential or v3token"
                    .to_owned(),
            ),
            (
                "auth_url=keystone:5000",
                "password",
                format!("{only}it is not a URL that begins with http:// or https://"),
            ),
            (
                "auth_url=http://u:pw@k",
                "password",
                format!("{only}a URL with a user name or a password in it is not supported"),
            ),
            (
                "auth_url=http://k/v2.0/",
                "password",
                format!(
                    "{only}version 2.0 of the Identity API is not supported: end it in /v3, or in neither"
                ),
            ),
        ] {
            assert_eq!(body(words, plugin), Err(message), "{words}");
        }
    }

    #[test]
    fn shows_who_logs_in_for_what() {
        let with = |more: &str| -> &'static str { format!("{USER} {more}").leak() };
        for (words, plugin, shown) in [
            (USER, "password", "the user 'glance' (domain 'default')"),
            (
                with("project_name=service project_domain_id=default"),
                "password",
                "the user 'glance' (domain 'default') for the project 'service' (domain 'default')",
            ),
            (
                with("system_scope=all"),
                "password",
                "the user 'glance' (domain 'default') for the whole system",
            ),
            (
                "auth_url=http://k application_credential_secret=pw application_credential_id=a1",
                "v3applicationcredential",
                "the application credential with the id 'a1'",
            ),
            ("token=pw", "token", "the given token"),
        ] {
            let login = read(&Words(words), plugin).unwrap();
            assert_eq!(login.shown(), shown);
            assert_eq!(login.secret(), "pw");
        }
    }
}
