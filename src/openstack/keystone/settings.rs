//! `[keystone_authtoken]` as deployments write it, for Keystone's middleware in glance-api.
//!
//! The options mean what they mean there, with three exceptions: `token_cache_time` is 60 seconds if nothing
//! is set, `delay_auth_decision` changes nothing, because here nobody else decides, and memcached is not
//! used. Options of the time before there were plugins are refused with the names that took their place;
//! beside `auth_type` they are ignored, as there, with a remark.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use url::Url;

use super::catalog::plain_interface;
use super::login::{self, Login, LoginOptions};
use super::wire::Reach;
use crate::config::{
    AUTHTOKEN_AUTH_SECTION, AUTHTOKEN_AUTH_TYPE, AUTHTOKEN_AUTH_URL, AUTHTOKEN_AUTH_VERSION,
    AUTHTOKEN_CAFILE, AUTHTOKEN_CERTFILE, AUTHTOKEN_DELAY_AUTH_DECISION, AUTHTOKEN_ENFORCE_TOKEN_BIND,
    AUTHTOKEN_HTTP_CONNECT_TIMEOUT, AUTHTOKEN_HTTP_REQUEST_MAX_RETRIES, AUTHTOKEN_INCLUDE_SERVICE_CATALOG,
    AUTHTOKEN_INSECURE, AUTHTOKEN_INTERFACE, AUTHTOKEN_KEYFILE, AUTHTOKEN_REGION_NAME,
    AUTHTOKEN_SERVICE_TOKEN_ROLES, AUTHTOKEN_SERVICE_TOKEN_ROLES_REQUIRED, AUTHTOKEN_SERVICE_TYPE,
    AUTHTOKEN_TOKEN_CACHE_TIME, AUTHTOKEN_WWW_AUTHENTICATE_URI, Config, KNOWN, Opt, Setting, ValueKind,
};
use crate::net::http::Client;
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::openstack::cache_api::shown_url;

/// The options that took the place of each of the oldest ones.
const OLDEST: &[(&str, &str)] = &[
    ("identity_uri", "auth_url"),
    ("auth_host", "auth_url"),
    ("auth_port", "auth_url"),
    ("auth_protocol", "auth_url"),
    ("admin_user", "username and user_domain_name"),
    ("admin_password", "password"),
    ("admin_tenant_name", "project_name and project_domain_name"),
    ("admin_token", "username and password"),
];

/// The interfaces that endpoints in catalogues have.
const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

/// A connection that fails is tried again at most so often.
const MOST_RETRIES: i64 = 10;

/// The settings of a service that validates tokens.
#[derive(Debug)]
pub(crate) struct AuthTokenSettings {
    pub(crate) login: Login,
    pub(crate) reach: Reach,
    /// `None` if any region is as good.
    pub(crate) region: Option<String>,
    pub(crate) interface: String,
    /// Where those who have no token get one.
    pub(super) www_authenticate_uri: String,
    pub(super) service_roles: Vec<String>,
    pub(super) service_roles_required: bool,
    /// The type that access rules name this service by.
    pub(super) service_type: Option<String>,
    pub(super) include_catalog: bool,
    /// Zero if answers are not kept.
    pub(super) cache_time: Duration,
    pub(super) refuse_bound: bool,
    /// Sentences for the log when the service starts: settings that are unwise or that change nothing here.
    pub(crate) remarks: Vec<String>,
}

/// The options of the login, which may be in another section.
struct LoginSection<'a> {
    config: &'a Config,
    name: String,
}

impl LoginSection<'_> {
    fn option(&self, name: &str) -> Option<Opt<'_>> {
        let known = KNOWN.iter().find(|opt| opt.group == AUTHTOKEN_AUTH_URL.group && opt.name == name)?;
        Some(Opt { group: &self.name, ..*known })
    }
}

impl LoginOptions for LoginSection<'_> {
    fn value(&self, name: &str) -> Result<Option<String>> {
        let Some(opt) = self.option(name) else { return Ok(None) };
        let setting = self.config.optional(&opt)?;
        Ok(setting.map(|setting| setting.value))
    }

    fn origin(&self, name: &str) -> String {
        self.option(name).map_or_else(String::new, |opt| place(self.config, &opt))
    }

    fn shown(&self, name: &str) -> String {
        format!("[{}] {name}", self.name)
    }

    fn default_domain(&self) -> Option<String> {
        None
    }
}

impl AuthTokenSettings {
    /// Reads the settings. Opens nothing but the configuration.
    pub(crate) fn from_config(config: &Config, waits: &Waits) -> Result<Self> {
        let text =
            |opt: &Opt<'static>| Ok::<_, anyhow::Error>(config.optional(opt)?.map(|found| found.value));
        let mut remarks = ignored_options(config);
        let login = login(config, &mut remarks)?;
        let reach = reach(config, waits, &mut remarks)?;
        if let Some(version) = config.optional(&AUTHTOKEN_AUTH_VERSION)? {
            let is_third = version.value.trim_start_matches('v').starts_with('3');
            ensure!(
                is_third,
                "{}: [keystone_authtoken] auth_version is {:?}, but only version 3 is supported",
                version.origin,
                version.value
            );
        }
        if config.boolean(&AUTHTOKEN_DELAY_AUTH_DECISION)?.value {
            remarks.push(
                "[keystone_authtoken] delay_auth_decision changes nothing: a request without a valid token \
                 is answered with 401 here"
                    .to_owned(),
            );
        }
        let www_authenticate_uri = match config.optional(&AUTHTOKEN_WWW_AUTHENTICATE_URI)? {
            Some(set) => shown_to_all(set, &mut remarks)?,
            None => {
                remarks.push(
                    "[keystone_authtoken] www_authenticate_uri is not set: callers without a token are sent \
                     to auth_url, which they may not reach"
                        .to_owned(),
                );
                login.auth_url.as_ref().map(ToString::to_string).unwrap_or_default()
            }
        };
        let service_roles_required = config.boolean(&AUTHTOKEN_SERVICE_TOKEN_ROLES_REQUIRED)?.value;
        if !service_roles_required {
            remarks.push(
                "[keystone_authtoken] service_token_roles_required is false: any valid token is taken as \
                 that of a service"
                    .to_owned(),
            );
        }
        Ok(AuthTokenSettings {
            login,
            reach,
            region: text(&AUTHTOKEN_REGION_NAME)?,
            interface: interface(config)?,
            www_authenticate_uri,
            service_roles: config.list(&AUTHTOKEN_SERVICE_TOKEN_ROLES)?.value,
            service_roles_required,
            service_type: text(&AUTHTOKEN_SERVICE_TYPE)?,
            include_catalog: config.boolean(&AUTHTOKEN_INCLUDE_SERVICE_CATALOG)?.value,
            cache_time: seconds(config.integer(&AUTHTOKEN_TOKEN_CACHE_TIME)?.value),
            refuse_bound: refuses_bound(config)?,
            remarks,
        })
    }

    /// Reads the files of certificates, as each connection to Keystone does. Fails if one of them cannot be
    /// used. If no connection uses them, because `auth_url` begins with `http:`, that is only a remark.
    pub(crate) fn check_certificates(&mut self, config: &Config) -> Result<()> {
        let is_encrypted = self.login.auth_url.as_ref().is_some_and(|url| url.scheme() == "https");
        let Reach { trust, certificate, waits, .. } = &self.reach;
        let check = |trust: Trust, identity: Option<&(PathBuf, PathBuf)>| {
            Client { trust, proxies: Vec::new(), waits: waits.clone() }.check_certificates(identity)
        };
        let authorities = match trust {
            Trust::Only(_) => check(trust.clone(), None),
            Trust::System | Trust::Anybody => Ok(()),
        };
        let own = certificate.as_ref().map_or(Ok(()), |identity| check(Trust::Anybody, Some(identity)));
        for (checked, opt, wanted) in [
            (authorities, AUTHTOKEN_CAFILE, "certificates (PEM)"),
            (own, AUTHTOKEN_CERTFILE, "a certificate and, unless keyfile is set, its key (PEM)"),
        ] {
            let (Err(error), Some(set)) = (checked, config.optional(&opt)?) else { continue };
            let Setting { value, origin } = set;
            let error = anyhow!(
                "{origin}: [keystone_authtoken] {} is {value:?}, but must be a file with {wanted}: {error:#}",
                opt.name
            );
            ensure!(!is_encrypted, error);
            self.remarks.push(format!("{error:#}; no connection uses it, as auth_url begins with http:"));
        }
        Ok(())
    }
}

/// True if the section says who logs in.
pub(in crate::openstack) fn is_set(config: &Config) -> bool {
    [&AUTHTOKEN_AUTH_SECTION, &AUTHTOKEN_AUTH_TYPE, &AUTHTOKEN_AUTH_URL].iter().any(|opt| config.is_set(opt))
}

/// Reads who logs in.
fn login(config: &Config, remarks: &mut Vec<String>) -> Result<Login> {
    let named = config.optional(&AUTHTOKEN_AUTH_SECTION)?.map(|section| section.value);
    let name = named.unwrap_or_else(|| AUTHTOKEN_AUTH_URL.group.to_owned());
    let section = LoginSection { config, name };
    let plugin = config.optional(&Opt { group: &section.name, ..AUTHTOKEN_AUTH_TYPE })?;
    let Some(plugin) = plugin else {
        for (oldest, new) in OLDEST {
            let oldest = Opt::new(AUTHTOKEN_AUTH_URL.group, oldest, ValueKind::Text);
            ensure!(
                !config.is_set(&oldest),
                "[keystone_authtoken] {} is of a time before auth_type and is not supported: set auth_type = \
                 password, and {new} in its place",
                oldest.name
            );
        }
        bail!(
            "{} is not set, so it is unknown how to log in to Keystone: set it to password, and auth_url, \
             username, password, project_name and their domains",
            section.shown("auth_type")
        );
    };
    let login = login::read(&section, &plugin.value)?;
    if login.lacks_scope() {
        remarks.push(format!(
            "{} is not set: unless the user has a default project, Keystone does not let it validate tokens",
            section.shown("project_name")
        ));
    }
    ensure!(
        login.auth_url.is_some(),
        "{} is not set, so it is unknown where Keystone is",
        section.shown("auth_url")
    );
    Ok(login)
}

fn reach(config: &Config, waits: &Waits, remarks: &mut Vec<String>) -> Result<Reach> {
    let path = |opt: &Opt<'static>| {
        Ok::<_, anyhow::Error>(config.optional(opt)?.map(|found| PathBuf::from(found.value)))
    };
    let mut reach = Reach::new(waits.clone());
    let insecure = config.boolean(&AUTHTOKEN_INSECURE)?;
    if insecure.value {
        remarks.push(format!(
            "{}: [keystone_authtoken] insecure is set: Keystone's certificate is not verified, and anybody \
             on the way to it can read our password and forge its answers",
            insecure.origin
        ));
        reach.trust = Trust::Anybody;
    } else if let Some(file) = path(&AUTHTOKEN_CAFILE)? {
        reach.trust = Trust::Only(file);
    }
    reach.certificate = match (path(&AUTHTOKEN_CERTFILE)?, path(&AUTHTOKEN_KEYFILE)?) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        // As in Python, a file may hold both.
        (Some(both), None) => Some((both.clone(), both)),
        // As in Python, a key alone is not used.
        (None, Some(_)) => {
            remarks.push(format!(
                "{}[keystone_authtoken] keyfile is ignored: without certfile, no certificate is shown to \
                 Keystone",
                place(config, &AUTHTOKEN_KEYFILE)
            ));
            None
        }
    };
    if config.is_set(&AUTHTOKEN_HTTP_CONNECT_TIMEOUT) {
        let limit = config.integer(&AUTHTOKEN_HTTP_CONNECT_TIMEOUT)?;
        let is_fit = (1..=3600).contains(&limit.value);
        ensure!(
            is_fit,
            "{}: [keystone_authtoken] http_connect_timeout is {}, but must be from 1 to 3600 seconds",
            limit.origin,
            limit.value
        );
        reach = reach.within(seconds(limit.value));
    }
    let retries = config.integer(&AUTHTOKEN_HTTP_REQUEST_MAX_RETRIES)?;
    let nearest = retries.value.clamp(0, MOST_RETRIES);
    if nearest != retries.value {
        remarks.push(format!(
            "{}: [keystone_authtoken] http_request_max_retries is {}, which is taken for {nearest}: set a \
             number from 0 to {MOST_RETRIES}",
            retries.origin, retries.value
        ));
    }
    reach.retries = nearest as u32;
    Ok(reach)
}

/// Returns the interface of Keystone's endpoints. As for Keystone's middleware, none is the public one, and a
/// name that no endpoint has is an error.
fn interface(config: &Config) -> Result<String> {
    let Setting { value, origin } = config.text(&AUTHTOKEN_INTERFACE)?;
    if value.is_empty() {
        return Ok("public".to_owned());
    }
    ensure!(
        INTERFACES.contains(&plain_interface(&value)),
        "{origin}: [keystone_authtoken] interface is {value:?}, but must be one of {}",
        INTERFACES.join(", ")
    );
    Ok(value)
}

/// Describes the options of the time before `auth_type` that are set beside it. Their values may be secret.
fn ignored_options(config: &Config) -> Vec<String> {
    let set = OLDEST.iter().filter_map(|(oldest, new)| {
        let opt = Opt::new(AUTHTOKEN_AUTH_URL.group, oldest, ValueKind::Text);
        Some((config.origin(&opt)?, oldest, new))
    });
    set.map(|(origin, oldest, new)| {
        format!(
            "{origin}: [keystone_authtoken] {oldest} is ignored beside auth_type: remove it; {new} took its \
             place"
        )
    })
    .collect()
}

/// Returns the place where an option is set, before what is said of it.
fn place(config: &Config, opt: &Opt<'_>) -> String {
    config.origin(opt).map_or_else(String::new, |origin| format!("{origin}: "))
}

/// True if a token that is bound to a client's other credentials is refused, because they are not checked.
fn refuses_bound(config: &Config) -> Result<bool> {
    let Setting { value, origin } = config.text(&AUTHTOKEN_ENFORCE_TOKEN_BIND)?;
    match value.as_str() {
        "disabled" => Ok(false),
        "permissive" | "strict" => Ok(true),
        _ => bail!(
            "{origin}: [keystone_authtoken] enforce_token_bind = {value} is not supported: Keystone no \
             longer binds tokens; use permissive"
        ),
    }
}

/// Checks `www_authenticate_uri`, which is sent to everybody who comes without a token, in a quoted part of a
/// header. Keystone's middleware sends whatever it is.
fn shown_to_all(set: Setting<String>, remarks: &mut Vec<String>) -> Result<String> {
    let Setting { value: uri, origin } = set;
    let place = format!("{origin}: [keystone_authtoken] www_authenticate_uri");
    let shown = shown_url(&uri);
    let is_fit = uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    ensure!(is_fit, "{place} is {shown:?}, which is no URL");
    let authority = uri.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    ensure!(
        authority.is_none_or(|authority| !authority.contains('@')),
        "{place} has credentials: it is sent to callers, so leave them out"
    );
    if !Url::parse(&uri).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
        remarks.push(format!(
            "{place} is {shown:?}, which is no http URL: callers without a token do not find Keystone there"
        ));
    }
    Ok(uri)
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}
