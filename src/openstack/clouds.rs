//! The credentials of whoever calls a service: from the environment, from clouds.yaml, or those of Glance.
//!
//! The first of these counts: the cloud that `--os-cloud` names; `OS_TOKEN`; the cloud that `OS_CLOUD` names;
//! `OS_AUTH_URL` with a password or an application credential; `[keystone_authtoken]`. They are not mixed: a
//! cloud's password never goes to the server of `OS_AUTH_URL`.
//!
//! clouds.yaml is `OS_CLIENT_CONFIG_FILE`, or else the first one in the working directory,
//! `~/.config/openstack` and `/etc/openstack`; secure.yaml is found in the same way and wins. What is not
//! supported there (other plugins, profiles of vendors) is refused by name: a login that is only half
//! understood would be another login.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use url::Url;

use super::keystone::catalog::EndpointSettings;
use super::keystone::login::{self, Login, LoginOptions, auth_url, service_url};
use super::keystone::settings::{self, AuthTokenSettings};
use super::keystone::wire::Reach;
use super::yaml::{self, Yaml, YamlMember};
use crate::config::Config;
use crate::names::escaped;
use crate::net::tls::Trust;
use crate::net::wire::Waits;

/// The names that a file of clouds may have in each directory.
const CLOUDS: [&str; 2] = ["clouds.yaml", "clouds.yml"];
const SECURE: [&str; 2] = ["secure.yaml", "secure.yml"];

/// The domain of users and projects for which none is given, as in the openstack command.
const DEFAULT_DOMAIN: &str = "default";

/// The source of credentials that are those of Glance itself.
pub(crate) const GLANCES_OWN: &str = "[keystone_authtoken]";

/// The places where credentials are looked for.
pub(crate) struct CloudSearch<'a> {
    /// The value of `--os-cloud`.
    pub(crate) name: Option<&'a str>,
    pub(crate) environment: &'a BTreeMap<OsString, OsString>,
    /// The settings of Glance, if there are any.
    pub(crate) config: Option<&'a Config>,
    pub(crate) waits: &'a Waits,
    /// `/`, or in tests the directory that takes its place.
    pub(crate) root: &'a Path,
    /// The working directory.
    pub(crate) directory: &'a Path,
}

/// The credentials for a cloud, and how it is reached.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) login: Login,
    pub(crate) reach: Reach,
    pub(crate) region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub(crate) interface: String,
    /// The address of the image service, if it is not the catalogue's.
    pub(crate) image_endpoint: Option<Url>,
    /// The settings of region and address, as messages name them.
    pub(crate) settings: EndpointSettings,
    /// Where the credentials are from, as messages name it.
    pub(crate) source: String,
}

impl CloudSearch<'_> {
    /// Returns the first credentials that are found. An error is one of usage.
    pub(crate) fn find(&self) -> Result<Cloud> {
        // The openstack command has that name for the environment.
        let named = |name: Option<String>| name.filter(|name| name != "envvars");
        let of_cloud =
            |name: String| self.of_file(&name).with_context(|| format!("cannot use the cloud {name:?}"));
        // An option is said to this run, a variable to the shell.
        if let Some(name) = named(self.name.map(str::to_owned)) {
            return of_cloud(name);
        }
        if let Some(token) = self.variable("OS_TOKEN")? {
            let url = self.variable("OS_AUTH_URL")?;
            let url = url.map(|url| auth_url(&url).context("cannot use OS_AUTH_URL")).transpose()?;
            let login = Login::with_token(login::token(token, "OS_TOKEN")?, url, "OS_AUTH_URL");
            return self.of_environment(login, "OS_TOKEN");
        }
        let variable = if self.name.is_none() { self.variable("OS_CLOUD")? } else { None };
        if let Some(name) = named(variable) {
            return of_cloud(name);
        }
        if self.variable("OS_AUTH_URL")?.is_some() {
            let plugin = plugin(self.variable("OS_AUTH_TYPE")?, &EnvironmentOptions(self))?;
            let login = login::read(&EnvironmentOptions(self), &plugin)?;
            return self.of_environment(login, "OS_AUTH_URL");
        }
        if let Some(config) = self.config.filter(|config| settings::is_set(config)) {
            let AuthTokenSettings { login, reach, region, interface, .. } =
                AuthTokenSettings::from_config(config, self.waits)?;
            let source = GLANCES_OWN.to_owned();
            let settings = EndpointSettings::OF_GLANCE;
            return Ok(Cloud { login, reach, region, interface, image_endpoint: None, settings, source });
        }
        bail!(
            "there are no credentials: set OS_CLOUD (or --os-cloud), OS_AUTH_URL and what goes with it, or \
             OS_TOKEN, or name a configuration with [keystone_authtoken]"
        )
    }

    /// Returns a variable that is set and not empty.
    fn variable(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.environment.get(OsStr::new(name)).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let value = value.to_str().with_context(|| format!("{name}: the value is not UTF-8"))?;
        Ok(Some(value.to_owned()))
    }

    fn of_environment(&self, login: Login, source: &str) -> Result<Cloud> {
        let path = |name| Ok::<_, anyhow::Error>(self.variable(name)?.map(PathBuf::from));
        let mut reach = Reach::new(self.waits.clone());
        if let Some(file) = path("OS_CACERT")? {
            reach.trust = Trust::Only(file);
        }
        reach.certificate = pair(path("OS_CERT")?, path("OS_KEY")?);
        let variable = "OS_IMAGE_ENDPOINT_OVERRIDE";
        let settings = EndpointSettings { region: "OS_REGION_NAME", address: variable };
        let interface = match self.variable("OS_INTERFACE")? {
            None => self.variable("OS_ENDPOINT_TYPE")?,
            interface => interface,
        };
        Ok(Cloud {
            login,
            reach,
            region: self.variable("OS_REGION_NAME")?,
            interface: interface.unwrap_or_else(|| "public".to_owned()),
            image_endpoint: self
                .variable(variable)?
                .map(|url| service_url(&url).with_context(|| format!("cannot use {variable}")))
                .transpose()?,
            settings,
            source: source.to_owned(),
        })
    }

    /// Reads a cloud of clouds.yaml.
    fn of_file(&self, name: &str) -> Result<Cloud> {
        let (path, document) = self.document("OS_CLIENT_CONFIG_FILE", CLOUDS)?.with_context(
            || "there is no clouds.yaml in the working directory, ~/.config/openstack or /etc/openstack",
        )?;
        let shown = path.display().to_string();
        let clouds = document.get("clouds").filter(|clouds| !matches!(clouds, Yaml::Null));
        let clouds = clouds.with_context(|| format!("{shown} has no clouds"))?;
        let Yaml::Mapping(members) = clouds else {
            bail!("{shown}: clouds is {}, and has to be a mapping of names to clouds", clouds.kind());
        };
        ensure!(!members.is_empty(), "{shown} has no clouds");
        let cloud = clouds.get(name).with_context(|| format!("{shown} has only {}", names(members)))?;
        ensure!(
            matches!(cloud, Yaml::Mapping(_)),
            "{shown}: the cloud {name:?} is {}, and has to be a mapping of settings to values",
            cloud.kind()
        );
        let secure = self.document("OS_CLIENT_SECURE_FILE", SECURE)?;
        let secret = secure.as_ref().and_then(|(_, document)| document.get("clouds")?.get(name));
        let cloud = secret.map_or_else(|| cloud.clone(), |secret| merged(cloud, secret));
        let options = CloudOptions { cloud: &cloud, name, path: &shown };
        for key in ["profile", "cloud"] {
            let profile = options.text(&cloud, key)?;
            ensure!(
                profile.is_none(),
                "{}: profiles of vendors are not supported ({:?}): write what it says into the cloud",
                options.place(key),
                profile.unwrap_or_default()
            );
        }
        let login = login::read(&options, &plugin(options.text(&cloud, "auth_type")?, &options)?)?;
        let interface = match options.text(&cloud, "interface")? {
            None => options.text(&cloud, "endpoint_type")?,
            interface => interface,
        };
        Ok(Cloud {
            login,
            reach: options.reach(self.waits)?,
            region: options.text(&cloud, "region_name")?,
            interface: interface.unwrap_or_else(|| "public".to_owned()),
            image_endpoint: options.image_endpoint()?,
            settings: EndpointSettings {
                region: "region_name of the cloud",
                address: "image_endpoint_override of the cloud",
            },
            source: format!("the cloud {name:?} of {shown}"),
        })
    }

    /// Reads the file that a variable names, or else the first one in the usual directories.
    fn document(&self, variable: &str, names: [&str; 2]) -> Result<Option<(PathBuf, Yaml)>> {
        if let Some(path) = self.variable(variable)?.map(PathBuf::from) {
            let document = yaml::read(&path)?;
            let document = document
                .with_context(|| format!("there is no {}, which {variable} names", path.display()))?;
            return Ok(Some((path, document)));
        }
        let home = self.environment.get(OsStr::new("HOME")).map(|home| Path::new(home).join(".config"));
        let directories = [Some(self.directory.to_owned()), home.map(|home| home.join("openstack"))];
        let directories = directories.into_iter().flatten().chain([self.root.join("etc/openstack")]);
        for path in directories.flat_map(|directory| names.map(|name| directory.join(name))) {
            if let Some(document) = yaml::read(&path)? {
                return Ok(Some((path, document)));
            }
        }
        Ok(None)
    }
}

/// Returns the plugin that is named, or the one whose options are there.
fn plugin(named: Option<String>, options: &dyn LoginOptions) -> Result<String> {
    let has_credential = || Ok::<_, anyhow::Error>(options.value("application_credential_secret")?.is_some());
    Ok(match named {
        Some(named) => named,
        None if has_credential()? => "v3applicationcredential".to_owned(),
        None => "password".to_owned(),
    })
}

/// Returns the files of a certificate and its key; one file may hold both.
fn pair(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Option<(PathBuf, PathBuf)> {
    let certificate = certificate?;
    Some((certificate.clone(), key.unwrap_or(certificate)))
}

/// Returns the names of all clouds, in words.
fn names(clouds: &[YamlMember]) -> String {
    let names: Vec<_> = clouds.iter().map(|member| escaped(member.key.as_bytes())).collect();
    names.join(", ")
}

/// Returns a value with those of another one in it and above it.
fn merged(below: &Yaml, above: &Yaml) -> Yaml {
    let (Yaml::Mapping(lower), Yaml::Mapping(upper)) = (below, above) else { return above.clone() };
    let mut members = lower.clone();
    for member in upper {
        let value =
            below.get(&member.key).map_or_else(|| member.value.clone(), |lower| merged(lower, &member.value));
        // The last one of a name counts.
        members.push(YamlMember { value, ..member.clone() });
    }
    Yaml::Mapping(members)
}

/// The options of a login in the environment.
struct EnvironmentOptions<'a>(&'a CloudSearch<'a>);

impl LoginOptions for EnvironmentOptions<'_> {
    fn value(&self, name: &str) -> Result<Option<String>> {
        match self.0.variable(&self.shown(name))? {
            None => match name.strip_prefix("project_") {
                Some(rest @ ("id" | "name")) => {
                    self.0.variable(&format!("OS_TENANT_{}", rest.to_uppercase()))
                }
                _ => Ok(None),
            },
            found => Ok(found),
        }
    }

    fn shown(&self, name: &str) -> String {
        format!("OS_{}", name.to_uppercase())
    }

    fn default_domain(&self) -> Option<String> {
        let named = self.0.variable("OS_DEFAULT_DOMAIN").ok().flatten();
        Some(named.unwrap_or_else(|| DEFAULT_DOMAIN.to_owned()))
    }
}

/// The options of a cloud in a file.
struct CloudOptions<'a> {
    cloud: &'a Yaml,
    name: &'a str,
    path: &'a str,
}

impl CloudOptions<'_> {
    /// Returns an option as text. Its name may have dashes in place of underscores.
    fn text(&self, mapping: &Yaml, name: &str) -> Result<Option<String>> {
        let found = mapping.get(name).or_else(|| mapping.get(&name.replace('_', "-")));
        let Some(found) = found else { return Ok(None) };
        match found {
            Yaml::List(_) | Yaml::Mapping(_) => {
                bail!("{}: it is {}, not a text", self.place(name), found.kind())
            }
            found => Ok(found.scalar().filter(|text| !text.is_empty())),
        }
    }

    fn place(&self, name: &str) -> String {
        format!("{}: {name} of the cloud {:?}", self.path, self.name)
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>> {
        match self.cloud.get(name) {
            None | Some(Yaml::Null) => Ok(None),
            Some(Yaml::Boolean(value)) => Ok(Some(*value)),
            Some(_) => bail!("{}: it is neither true nor false", self.place(name)),
        }
    }

    fn reach(&self, waits: &Waits) -> Result<Reach> {
        let path = |name| Ok::<_, anyhow::Error>(self.text(self.cloud, name)?.map(PathBuf::from));
        let mut reach = Reach::new(waits.clone());
        if self.boolean("verify")? == Some(false) || self.boolean("insecure")? == Some(true) {
            reach.trust = Trust::Anybody;
        } else if let Some(file) = path("cacert")? {
            reach.trust = Trust::Only(file);
        }
        reach.certificate = pair(path("cert")?, path("key")?);
        Ok(reach)
    }

    fn image_endpoint(&self) -> Result<Option<Url>> {
        let name = "image_endpoint_override";
        let Some(text) = self.text(self.cloud, name)? else { return Ok(None) };
        service_url(&text).map(Some).with_context(|| format!("cannot use {}", self.place(name)))
    }
}

impl LoginOptions for CloudOptions<'_> {
    fn value(&self, name: &str) -> Result<Option<String>> {
        let Some(auth) = self.cloud.get("auth") else { return Ok(None) };
        let older = match name {
            "project_id" => "tenant_id",
            "project_name" => "tenant_name",
            "username" => "user_name",
            name => name,
        };
        match self.text(auth, name)? {
            None => self.text(auth, older),
            found => Ok(found),
        }
    }

    fn shown(&self, name: &str) -> String {
        let name = if name == "auth_type" { name.to_owned() } else { format!("auth.{name}") };
        self.place(&name)
    }

    fn default_domain(&self) -> Option<String> {
        Some(DEFAULT_DOMAIN.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::config::{ConfigSearch, ConfigSource, GLANCE};
    use crate::interrupt::Interrupt;

    const CLOUD: &str = "
clouds:
  site:
    auth:
      auth_url: https://k.example.com:5000
      username: operator
      project_name: admin
      user_domain_name: Users
      project_domain_name: Default
    region_name: North
    interface: internal
    cacert: /etc/ssl/site.pem
    image_endpoint_override: http://node:9292
  robot:
    auth_type: v3applicationcredential
    auth: {auth-url: 'http://k/v3', application_credential_id: 12345, application_credential_secret: s3cret}
    verify: false
    cert: /c.pem
    key: /k.pem
  guessed:
    auth: {auth_url: 'http://k/v3', application_credential_id: a1, application_credential_secret: s3cret}
  vendor: {profile: rackspace, auth: {username: u}}
  other: {auth_type: v3oidcpassword, auth: {auth_url: 'http://k'}}
  odd: {auth: {auth_url: [1]}}
  odder: {verify: maybe, auth: {auth_url: 'http://k', username: u, password: x}}
";

    /// A directory with clouds.yaml and secure.yaml, and variables.
    struct Place {
        dir: TempDir,
        environment: BTreeMap<OsString, OsString>,
    }

    impl Place {
        fn new(variables: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("etc/openstack")).unwrap();
            fs::create_dir_all(dir.path().join("home/.config/openstack")).unwrap();
            let mut place = Place { dir, environment: BTreeMap::new() };
            place.set("HOME", place.dir.path().join("home").to_str().unwrap().to_owned().as_str());
            for (name, value) in variables {
                place.set(name, value);
            }
            place
        }

        fn set(&mut self, name: &str, value: &str) {
            self.environment.insert(name.into(), value.into());
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.dir.path().join(path), text).unwrap();
        }

        fn find(&self, name: Option<&str>) -> Result<Cloud, String> {
            self.find_with(name, None)
        }

        fn find_with(&self, name: Option<&str>, config: Option<&Config>) -> Result<Cloud, String> {
            let waits = Waits::new(Interrupt::default());
            let search = CloudSearch {
                name,
                environment: &self.environment,
                config,
                waits: &waits,
                root: self.dir.path(),
                directory: &self.dir.path().join("home"),
            };
            let found = search.find().map_err(|error| format!("{error:#}"));
            assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
            found
        }
    }

    #[test]
    fn reads_a_cloud_and_its_secrets() {
        let place = Place::new(&[]);
        place.write("etc/openstack/clouds.yaml", CLOUD);
        place.write("home/.config/openstack/secure.yaml", "clouds: {site: {auth: {password: s3cret}}}");
        let cloud = place.find(Some("site")).unwrap();
        assert_eq!(cloud.region.as_deref(), Some("North"));
        assert_eq!(cloud.interface, "internal");
        assert_eq!(cloud.reach.trust, Trust::Only("/etc/ssl/site.pem".into()));
        assert_eq!(cloud.image_endpoint.unwrap().as_str(), "http://node:9292/");
        assert!(cloud.source.starts_with("the cloud \"site\" of /"), "{}", cloud.source);
        let body = cloud.login.body();
        assert!(body.contains("s3cret") && body.contains("Users") && body.contains("operator"), "{body}");

        let cloud = place.find(Some("robot")).unwrap();
        assert_eq!(cloud.reach.trust, Trust::Anybody);
        assert_eq!(cloud.reach.certificate, Some(("/c.pem".into(), "/k.pem".into())));
        assert!(cloud.login.body().contains("\"id\":\"12345\""), "{}", cloud.login.body());
        assert_eq!(cloud.interface, "public");
        assert!(place.find(Some("guessed")).unwrap().login.body().contains("application_credential"));
    }

    #[test]
    fn the_first_file_that_is_there_counts() {
        let cloud = |user: &str| {
            format!("clouds: {{c: {{auth: {{auth_url: 'http://k', username: {user}, password: s3cret}}}}}}")
        };
        let mut place = Place::new(&[("OS_CLOUD", "c")]);
        let user = |place: &Place| place.find(None).unwrap().login.shown();
        assert!(place.find(None).unwrap_err().contains("there is no clouds.yaml"));
        for (path, name) in [
            ("etc/openstack/clouds.yml", "a"),
            ("etc/openstack/clouds.yaml", "b"),
            ("home/.config/openstack/clouds.yaml", "c"),
            ("home/clouds.yaml", "d"),
        ] {
            place.write(path, &cloud(name));
            assert_eq!(user(&place), format!("the user '{name}' (domain 'default')"));
        }
        let path = place.dir.path().join("named.yaml");
        place.set("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap());
        assert!(place.find(None).unwrap_err().contains("which OS_CLIENT_CONFIG_FILE names"));
        place.write("named.yaml", &cloud("e"));
        assert_eq!(user(&place), "the user 'e' (domain 'default')");
    }

    #[test]
    fn refuses_what_is_not_supported_by_name() {
        let place = Place::new(&[]);
        place.write("etc/openstack/clouds.yaml", CLOUD);
        for (name, message) in [
            ("nowhere", "has only site, robot, guessed, vendor, other, odd, odder"),
            (
                "vendor",
                "profile of the cloud \"vendor\": profiles of vendors are not supported (\"rackspace\")",
            ),
            ("other", "auth_type of the cloud \"other\": the plugin \"v3oidcpassword\" is not supported"),
            ("odd", "auth_url of the cloud \"odd\": it is a list, not a text"),
            ("odder", "verify of the cloud \"odder\": it is neither true nor false"),
            ("site", "auth.password of the cloud \"site\" is not set"),
        ] {
            let error = place.find(Some(name)).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        place.write("etc/openstack/clouds.yaml", "a: &b s3cret\nc: *b\n");
        let error = place.find(Some("site")).unwrap_err();
        assert!(error.ends_with("clouds.yaml:2: aliases are not supported"), "{error}");
        place.write("etc/openstack/clouds.yaml", "[]");
        assert!(place.find(Some("site")).unwrap_err().contains("has no clouds"));
    }

    #[test]
    fn the_environment_has_credentials_too() {
        let place = Place::new(&[
            ("OS_AUTH_URL", "http://k:5000/v3"),
            ("OS_USERNAME", "operator"),
            ("OS_PASSWORD", "s3cret"),
            ("OS_TENANT_NAME", "admin"),
            ("OS_USER_DOMAIN_NAME", "Users"),
            ("OS_ENDPOINT_TYPE", "internalURL"),
            ("OS_REGION_NAME", "North"),
            ("OS_CACERT", "/ca.pem"),
        ]);
        let cloud = place.find(Some("envvars")).unwrap();
        assert_eq!(
            cloud.login.shown(),
            "the user 'operator' (domain 'Users') for the project 'admin' (domain 'default')"
        );
        assert_eq!((cloud.interface.as_str(), cloud.region.as_deref()), ("internalURL", Some("North")));
        assert_eq!(cloud.reach.trust, Trust::Only("/ca.pem".into()));
        assert_eq!(cloud.source, "OS_AUTH_URL");
        let place = Place::new(&[
            ("OS_AUTH_URL", "http://k:5000/v3"),
            ("OS_APPLICATION_CREDENTIAL_ID", "a1"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "s3cret"),
        ]);
        assert_eq!(place.find(None).unwrap().login.shown(), "the application credential with the id 'a1'");
        let place = Place::new(&[("OS_AUTH_URL", "http://k"), ("OS_USERNAME", "u")]);
        assert_eq!(place.find(None).unwrap_err(), "OS_PASSWORD is not set");
        let place = Place::new(&[("OS_AUTH_URL", "http://k"), ("OS_AUTH_TYPE", "v3kerberos")]);
        assert!(place.find(None).unwrap_err().starts_with("OS_AUTH_TYPE: the plugin \"v3kerberos\""));
    }

    #[test]
    fn an_option_and_a_token_come_first_and_the_settings_of_glance_last() {
        let mut place = Place::new(&[]);
        let path = place.dir.path().join("glance-api.conf");
        fs::write(
            &path,
            "[keystone_authtoken]\nauth_type = password\nauth_url = http://k\nusername = glance\n\
             user_domain_id = default\npassword = s3cret\n",
        )
        .unwrap();
        let config = Config::load(&ConfigSearch {
            project: &GLANCE,
            program: "glance-cache".into(),
            sources: vec![ConfigSource::File(path)],
            environment: BTreeMap::new(),
            root: place.dir.path().to_owned(),
            pass_over_unreadable: false,
        })
        .unwrap();
        let source = |place: &Place| place.find_with(None, Some(&config)).unwrap().source;
        assert_eq!(source(&place), "[keystone_authtoken]");
        assert_eq!(place.find_with(None, Some(&config)).unwrap().interface, "internal");
        assert!(place.find(None).unwrap_err().starts_with("there are no credentials: set OS_CLOUD"));
        place.set("OS_AUTH_URL", "http://k");
        place.set("OS_USER_ID", "u1");
        place.set("OS_PASSWORD", "s3cret");
        assert_eq!(source(&place), "OS_AUTH_URL");
        place.write("etc/openstack/clouds.yaml", CLOUD);
        place.set("OS_CLOUD", "guessed");
        assert!(source(&place).starts_with("the cloud \"guessed\""));
        place.set("OS_TOKEN", "s3cret");
        assert_eq!(source(&place), "OS_TOKEN");
        // An option is said to this run, a variable to the shell.
        let named = place.find(Some("guessed")).unwrap();
        assert!(named.source.starts_with("the cloud \"guessed\""), "{}", named.source);
        assert_eq!(place.find(Some("envvars")).unwrap().source, "OS_TOKEN");
        place.set("OS_AUTH_URL", "keystone");
        assert!(place.find(None).unwrap_err().starts_with("cannot use OS_AUTH_URL: "));
    }
}
