//! The address of Glance's database: `[database] connection` is an `SQLAlchemy` URL, and is turned into an
//! [`Address`].
//!
//! It reads what deployments write: the dialects with any driver after a `+`, percent-encoded credentials,
//! IPv6 hosts, Unix sockets, the TLS options of `PyMySQL`, mysqlclient and libpq, and `PyMySQL`'s
//! `read_default_file`. Options that concern neither the place, nor the user, nor the safety of the
//! connection are ignored. All others that are not implemented here are refused, known or not: ignoring
//! them would connect with less safety than they ask for.
//!
//! A URL may hold a password anywhere. So no message repeats any part of it but option names and paths, and
//! an address is shown as its dialect, host, port and database, never with its user or password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::dialect::Dialect;
use crate::names::escaped;
use crate::net::tls::{Tls, TlsMode};

/// Options of `SQLAlchemy`, `PyMySQL` and mysqlclient that are ignored.
const MYSQL_IGNORED: [&str; 26] = [
    "auth_plugin",
    "autocommit",
    "bind_address",
    "binary_prefix",
    "charset",
    "client_flag",
    "collation",
    "compress",
    "conn_attrs",
    "defer_connect",
    "init_command",
    "local_infile",
    "max_allowed_packet",
    "multi_statements",
    "named_pipe",
    "plugin",
    "prepared_statement_cache_size",
    "program_name",
    "raise_on_warnings",
    "read_default_file",
    "read_default_group",
    "read_timeout",
    "sql_mode",
    "time_zone",
    "use_unicode",
    "write_timeout",
];

/// Options of libpq and `SQLAlchemy` that are ignored.
const POSTGRESQL_IGNORED: [&str; 20] = [
    "application_name",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "plugin",
    "prepared_statement_cache_size",
    "sslcompression",
    "sslkeylogfile",
    "sslsni",
    "ssl_max_protocol_version",
    "tcp_user_timeout",
];

/// A database to connect to, and how.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) dialect: Dialect,
    /// Hosts with ports, in the order to try. Empty for SQLite and sockets.
    pub(crate) hosts: Vec<(String, u16)>,
    /// A Unix socket. For PostgreSQL the directory of the socket, with the port that names it.
    pub(crate) socket: Option<(PathBuf, u16)>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// The name of the database. For SQLite the path of its file.
    pub(crate) database: String,
    pub(crate) tls: Tls,
    /// The limit for connecting, if the URL has one.
    pub(crate) connect_timeout: Option<Duration>,
    /// libpq's `options`: settings of the session.
    pub(crate) options: Option<String>,
    /// True if only a host that accepts writes will do.
    pub(super) writable: bool,
    /// True if the password may only be proved to the other end of the encryption.
    pub(super) channel_binding: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, port) = match self.dialect {
            Dialect::Sqlite => return write!(f, "sqlite {}", self.database),
            Dialect::MySql => ("mysql", 3306),
            Dialect::PostgreSql => ("postgresql", 5432),
        };
        write!(f, "{name} {}", self.database)?;
        if let Some((path, _)) = &self.socket {
            return write!(f, " at {}", path.display());
        }
        for (n, (host, number)) in self.hosts.iter().enumerate() {
            f.write_str(if n == 0 { " at " } else { ", " })?;
            if host.contains(':') {
                write!(f, "[{host}]")?;
            } else {
                f.write_str(host)?;
            }
            if *number != port {
                write!(f, ":{number}")?;
            }
        }
        Ok(())
    }
}

impl Address {
    /// True if the URL holds a password, and must not be given on the command line.
    pub(crate) fn has_password(url: &str) -> bool {
        Url::split(url).is_ok_and(|url| {
            url.password.is_some()
                || url.query.iter().any(|(key, _)| ["password", "passwd"].contains(&key.as_str()))
        })
    }

    /// Parses a URL. If it has a `read_default_file`, that file is read.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let url = Url::split(url)?;
        match url.dialect {
            Dialect::Sqlite => Self::sqlite(&url),
            Dialect::MySql => Self::mysql(url),
            Dialect::PostgreSql => Self::postgresql(url),
        }
    }

    /// Returns a server's message without the credentials that were sent to it, escaped. Messages repeat the
    /// user, and may repeat anything.
    pub(super) fn without_credentials(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(password) = self.password.as_deref().filter(|password| !password.is_empty()) {
            text = text.replace(password, "***");
        }
        if let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) {
            for quote in ['\'', '"'] {
                text = text.replace(&format!("{quote}{user}{quote}"), &format!("{quote}***{quote}"));
            }
        }
        escaped(text.as_bytes())
    }

    fn new(url: &Url) -> Self {
        Address {
            dialect: url.dialect,
            hosts: Vec::new(),
            socket: None,
            user: url.user.clone(),
            password: url.password.clone(),
            database: url.database.clone().unwrap_or_default(),
            tls: Tls::default(),
            connect_timeout: None,
            options: None,
            writable: false,
            channel_binding: false,
        }
    }

    fn sqlite(url: &Url) -> Result<Self> {
        let address = Address::new(url);
        ensure!(url.host.is_none(), "an sqlite URL has three slashes, or four before an absolute path");
        ensure!(
            !["", ":memory:"].contains(&address.database.as_str()) && !address.database.starts_with("file:"),
            "an sqlite URL must name a file by its path"
        );
        Ok(address)
    }

    fn mysql(mut url: Url) -> Result<Self> {
        let defaults = Defaults::read(&url)?;
        let mut option = |name: &str| url.take(name).or_else(|| defaults.get(&name.replace('_', "-")));
        refuse_mysql(&mut option)?;
        let tls = mysql_tls(&mut option)?;
        let (socket, timeout) =
            (option("unix_socket").or_else(|| defaults.get("socket")), option("connect_timeout"));
        let query = (
            option("user"),
            first([option("password"), option("passwd")]),
            first([option("database"), option("db")]),
        );
        let (host, port) = (option("host"), option("port"));
        url.refuse_the_rest(&MYSQL_IGNORED)?;
        let mut address = Address::new(&url);
        address.user = address.user.or(query.0);
        address.password = address.password.or(query.1);
        if address.database.is_empty() {
            address.database = query.2.unwrap_or_default();
        }
        address.tls = tls;
        address.connect_timeout = seconds(timeout)?;
        let port = match (url.port, port) {
            (Some(port), _) => port,
            (None, Some(text)) => {
                text.parse().map_err(|_| anyhow!("the option port must be a port number"))?
            }
            (None, None) => 3306,
        };
        match (url.host.clone().or(host), socket) {
            (_, Some(path)) => address.socket = Some((path.into(), port)),
            (host, None) => address.hosts.push((host.unwrap_or_else(|| "localhost".into()), port)),
        }
        ensure!(!address.database.is_empty(), "the URL names no database");
        Ok(address)
    }

    fn postgresql(mut url: Url) -> Result<Self> {
        let mut address = Address::new(&url);
        let hosts = url.hosts()?;
        match hosts.iter().find(|(host, _)| host.starts_with('/')) {
            Some((path, number)) => address.socket = Some((path.into(), *number)),
            None => address.hosts = hosts,
        }
        address.user = first([address.user, url.take("user")]);
        address.password = first([address.password, url.take("password")]);
        let database = url.take("dbname");
        if address.database.is_empty() {
            address.database = database.or_else(|| address.user.clone()).unwrap_or_default();
        }
        address.tls = postgresql_tls(&mut |name| url.take(name))?;
        address.connect_timeout = seconds(url.take("connect_timeout"))?;
        address.writable = match url.take("target_session_attrs").as_deref() {
            None | Some("any" | "prefer-standby") => false,
            Some("read-write" | "primary") => true,
            Some(_) => {
                bail!("target_session_attrs must be any, read-write or primary: rows are changed there")
            }
        };
        address.options = url.take("options");
        refuse_postgresql(&mut url)?;
        address.channel_binding = match url.take("channel_binding").as_deref() {
            None | Some("disable" | "prefer") => false,
            Some("require") => true,
            Some(_) => bail!("channel_binding must be disable, prefer or require"),
        };
        url.refuse_the_rest(&POSTGRESQL_IGNORED)?;
        Ok(address)
    }
}

/// Returns the first of two values that is there.
fn first([first, second]: [Option<String>; 2]) -> Option<String> {
    first.or(second)
}

/// Refuses options for the safety of a connection to MySQL that are not implemented.
fn refuse_mysql(option: &mut impl FnMut(&str) -> Option<String>) -> Result<()> {
    ensure!(option("ssl_capath").is_none(), "ssl_capath is not supported: name a file with ssl_ca");
    for name in [
        "server_public_key",
        "server_public_key_path",
        "ssl_cipher",
        "ssl_crl",
        "ssl_crlpath",
        "ssl_fp",
        "ssl_fplist",
        "ssl_key_password",
        "ssl_passphrase",
        "ssl_password",
        "tls_ciphersuites",
    ] {
        ensure!(option(name).is_none(), "{name} is not supported");
    }
    // Nothing older than TLS 1.2 is ever used here, whatever the list allows.
    let versions = first([option("tls_version"), option("tls_versions")]);
    ensure!(
        versions.is_none_or(|versions| versions.contains("TLSv1.2")),
        "tls_version must include TLSv1.2: no other minimum is supported"
    );
    Ok(())
}

/// Refuses options for the place or the safety of a connection to PostgreSQL that are not implemented.
fn refuse_postgresql(url: &mut Url) -> Result<()> {
    for name in [
        "hostaddr",
        "passfile",
        "require_auth",
        "requirepeer",
        "requiressl",
        "service",
        "sslcrl",
        "sslcrldir",
        "sslpassword",
    ] {
        ensure!(url.take(name).is_none(), "{name} is not supported");
    }
    for (name, supported) in [
        ("gssencmode", &["disable", "prefer"][..]),
        ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
        ("sslcertmode", &["disable", "allow"]),
        ("sslnegotiation", &["postgres"]),
    ] {
        let value = url.take(name);
        ensure!(
            value.is_none_or(|value| supported.contains(&value.as_str())),
            "{name} must be {}: nothing else is supported",
            supported.join(" or ")
        );
    }
    Ok(())
}

/// Reads the TLS options of `PyMySQL`, mysqlclient and the my.cnf files that they read.
///
/// Without any of them the connection is encrypted if the server offers it, as `PyMySQL` does. Any of them
/// asks for TLS. It then includes the check of the certificate and its host name, unless an option says
/// otherwise.
fn mysql_tls(option: &mut impl FnMut(&str) -> Option<String>) -> Result<Tls> {
    let text = |value: Option<String>| value.filter(|text| !text.is_empty());
    let ca = text(option("ssl_ca")).map(PathBuf::from);
    let identity = identity(text(option("ssl_cert")), text(option("ssl_key")), "ssl_cert", "ssl_key")?;
    let mut switch = |name: &str| {
        option(name).map(|text| is_on(&text).ok_or_else(|| anyhow!("{name} must be true or false")))
    };
    let verify = switch("ssl_verify_cert").transpose()?;
    let name = switch("ssl_verify_identity").or_else(|| switch("ssl_check_hostname")).transpose()?;
    let disabled = switch("ssl_disabled").transpose()?;
    let plain = switch("ssl").transpose()?;
    let mode = option("ssl_mode").map(|mode| mode.to_ascii_uppercase());
    let asked = ca.is_some()
        || identity.is_some()
        || verify == Some(true)
        || name == Some(true)
        || plain == Some(true)
        || verify.is_some()
        || name.is_some();
    let mode = match mode.as_deref() {
        _ if disabled == Some(true) => TlsMode::Off,
        Some("DISABLED") => TlsMode::Off,
        None if !asked && plain == Some(false) => TlsMode::Off,
        None | Some("PREFERRED") if !asked => TlsMode::Offered,
        _ if verify == Some(false) => TlsMode::Unverified,
        Some("VERIFY_CA") => TlsMode::Authority,
        None | Some("PREFERRED" | "REQUIRED" | "VERIFY_IDENTITY") if name == Some(false) => {
            TlsMode::Authority
        }
        None | Some("PREFERRED" | "REQUIRED" | "VERIFY_IDENTITY") => TlsMode::Full,
        Some(_) => bail!("ssl_mode must be DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY"),
    };
    Ok(Tls { mode, ca, identity })
}

/// Reads the TLS options of libpq. Other than there, `require` includes the check of the certificate.
fn postgresql_tls(option: &mut impl FnMut(&str) -> Option<String>) -> Result<Tls> {
    let text = |value: Option<String>| value.filter(|text| !text.is_empty());
    let ca = text(option("sslrootcert"));
    let system = ca.as_deref() == Some("system");
    let ca = ca.filter(|_| !system).map(PathBuf::from);
    let identity = identity(text(option("sslcert")), text(option("sslkey")), "sslcert", "sslkey")?;
    let mode = match option("sslmode").as_deref() {
        Some("disable" | "allow" | "prefer") if system => {
            bail!("sslrootcert=system needs sslmode=verify-full")
        }
        Some("disable") => TlsMode::Off,
        None | Some("verify-ca") if system => TlsMode::Full,
        None | Some("allow" | "prefer") => TlsMode::Offered,
        Some("require") if ca.is_none() => TlsMode::Full,
        Some("require" | "verify-ca") => TlsMode::Authority,
        Some("verify-full") => TlsMode::Full,
        Some(_) => bail!("sslmode must be disable, allow, prefer, require, verify-ca or verify-full"),
    };
    Ok(Tls { mode, ca, identity })
}

fn identity(
    certificate: Option<String>,
    key: Option<String>,
    certificate_name: &str,
    key_name: &str,
) -> Result<Option<(PathBuf, PathBuf)>> {
    match (certificate, key) {
        (None, None) => Ok(None),
        // One file may hold the certificate and its key.
        (Some(certificate), key) => Ok(Some((certificate.clone().into(), key.unwrap_or(certificate).into()))),
        (None, Some(_)) => bail!("{key_name} is set, but {certificate_name} is not"),
    }
}

fn is_on(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "" | "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads the limit for connecting. Without one, or with one that means for ever, our own applies.
fn seconds(text: Option<String>) -> Result<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    let seconds: i64 =
        text.parse().map_err(|_| anyhow!("the option connect_timeout must be a number of seconds"))?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

/// The options of one group in the file that `read_default_file` names.
struct Defaults(Vec<(String, String)>);

impl Defaults {
    fn read(url: &Url) -> Result<Self> {
        let find = |name: &str| url.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let group = find("read_default_group");
        let file = find("read_default_file").or_else(|| group.is_some().then(|| "/etc/my.cnf".to_owned()));
        let Some(file) = file else { return Ok(Defaults(Vec::new())) };
        // Going on without the file would mean to go on without the TLS that it asks for.
        let text = std::fs::read_to_string(Path::new(&file))
            .with_context(|| format!("cannot read {file}, which the option read_default_file names"))?;
        Ok(Defaults(group_of(&text, group.as_deref().unwrap_or("client"))))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }
}

/// Reads one group of a my.cnf. Underscores in names become dashes.
fn group_of(text: &str, group: &str) -> Vec<(String, String)> {
    let mut options = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '!'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == group;
        } else if inside && !line.is_empty() {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let value = value.trim();
            let bare = [('"', '"'), ('\'', '\'')]
                .iter()
                .find_map(|(open, close)| value.strip_prefix(*open)?.strip_suffix(*close))
                .unwrap_or(value);
            options.push((key.trim().to_ascii_lowercase().replace('_', "-"), bare.to_owned()));
        }
    }
    options
}

/// A URL, split into its parts as `SQLAlchemy` does.
struct Url {
    dialect: Dialect,
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    /// In the order of the URL.
    query: Vec<(String, String)>,
    /// The names of the options that were asked for.
    asked: Vec<String>,
}

impl Url {
    /// Splits a URL as `make_url` of `SQLAlchemy` 2.1 does. A password ends at the first `@`, whatever else
    /// is in it, a user name at the last one before a colon or slash, and an option without a value is no
    /// option.
    ///
    /// Other than there, some mistakes are refused: text after the bracket of an IPv6 address (ignored
    /// there), percent codes that are no UTF-8, and ports that are not plain digits.
    fn split(url: &str) -> Result<Self> {
        let (name, rest) = url
            .trim()
            .split_once("://")
            .context("it must be a URL such as mysql+pymysql://USER@HOST/DATABASE")?;
        let driver = |c: char| c.is_alphanumeric() || c == '_' || c == '+';
        let dialect = match name.split('+').next() {
            Some("mysql" | "mariadb") if name.chars().all(driver) => Dialect::MySql,
            Some("postgresql") if name.chars().all(driver) => Dialect::PostgreSql,
            Some("sqlite") if name.chars().all(driver) => Dialect::Sqlite,
            _ => bail!("its dialect must be mysql, mariadb, postgresql or sqlite"),
        };
        let (user, rest) = rest.split_at(rest.find([':', '/']).unwrap_or(rest.len()));
        let password = rest.strip_prefix(':').and_then(|rest| rest.split_once('@'));
        let (user, password, rest) = match (password, user.rsplit_once('@')) {
            (Some((password, rest)), _) => (Some(decoded(user)?), Some(decoded(password)?), rest.to_owned()),
            (None, Some((user, place))) => (Some(decoded(user)?), None, format!("{place}{rest}")),
            (None, None) => (None, None, format!("{user}{rest}")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((&rest, ""));
        let (place, database) = match rest.split_once('/') {
            Some((place, database)) => (place, Some(decoded(database)?)),
            None => (rest, None),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.rsplit_once(']').context("an IPv6 address must end with ]")?;
                ensure!(
                    !host.is_empty() && (port.is_empty() || port.starts_with(':')),
                    "an IPv6 address must end with ]"
                );
                (host, port.strip_prefix(':'))
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = port.map(str::parse).transpose().map_err(|_| {
            anyhow!("its port must be a number (a password with @ in it must be percent-encoded)")
        })?;
        let query = query
            .split('&')
            .filter_map(|pair| pair.split_once('=').filter(|(_, value)| !value.is_empty()))
            .map(|(key, value)| Ok((decoded(&key.replace('+', " "))?, decoded(&value.replace('+', " "))?)))
            .collect::<Result<_>>()?;
        let host = Some(host.to_owned()).filter(|host| !host.is_empty());
        Ok(Url { dialect, user, password, host, port, database, query, asked: Vec::new() })
    }

    /// Returns the hosts of a PostgreSQL URL with their ports, in the order to try.
    fn hosts(&mut self) -> Result<Vec<(String, u16)>> {
        // Several hosts may have a port each, or one for all.
        let numbers =
            self.take("port").map(|text| text.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>());
        let numbers = numbers.transpose().map_err(|_| anyhow!("the option port must be a port number"))?;
        let numbers = self.port.map(|port| vec![port]).or(numbers).unwrap_or_else(|| vec![5432]);
        let port = numbers[0];
        let mut hosts: Vec<(String, u16)> = self.host.clone().map(|host| (host, port)).into_iter().collect();
        while let Some(more) = self.take("host") {
            for host in more.split(',') {
                // Several hosts are written as host:port, each in an option of its own.
                let (name, number) = match host.rsplit_once(':') {
                    Some((name, number)) if !name.contains(':') && !host.starts_with('/') => (
                        name,
                        number.parse().map_err(|_| {
                            anyhow!("the option host must have a port number after its colon")
                        })?,
                    ),
                    _ => (host, port),
                };
                hosts.push((name.to_owned(), number));
            }
        }
        if hosts.is_empty() {
            hosts.push(("/var/run/postgresql".into(), port));
        }
        if numbers.len() > 1 {
            ensure!(
                numbers.len() == hosts.len(),
                "the option port must have as many ports as there are hosts"
            );
            for (host, number) in hosts.iter_mut().zip(numbers) {
                host.1 = number;
            }
        }
        Ok(hosts)
    }

    /// Removes the first option of this name and returns its value.
    fn take(&mut self, name: &str) -> Option<String> {
        self.asked.push(name.to_owned());
        let position = self.query.iter().position(|(key, _)| key == name)?;
        Some(self.query.remove(position).1)
    }

    /// Fails if an option is left that nobody asked for, except those that may be ignored.
    fn refuse_the_rest(&self, ignored: &[&str]) -> Result<()> {
        let left = self.query.iter().map(|(name, _)| name).find(|name| !ignored.contains(&name.as_str()));
        let Some(name) = left else { return Ok(()) };
        ensure!(!self.asked.contains(name), "the option '{name}' is given twice");
        // With an unquoted @ in the password, what looks like an option may be a part of it.
        let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !self.query.iter().any(|(_, value)| value.contains('@'));
        ensure!(
            !is_name,
            "the option '{name}' is not known, and it is not ignored because it might concern the safety of \
             the connection"
        );
        bail!("an option is not known (a password with @ in it must be percent-encoded)")
    }
}

/// Replaces `%XX`. As in Python, an invalid code stays as it is.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.filter(|code| !code.starts_with('+')).and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| anyhow!("it is not UTF-8 once its percent codes are replaced"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    use serde_json::{Value, json};

    use super::*;

    fn parsed(url: &str) -> Address {
        Address::parse(url).unwrap()
    }

    #[test]
    fn credentials_do_not_come_back_in_a_servers_words() {
        let address = Address::parse("mysql://gl:s3cret@db/glance").unwrap();
        let shown =
            address.without_credentials("Access denied for user 'gl'@'::1' with s3cret\u{1b}[0m in 'glance'");
        assert_eq!(shown, "Access denied for user '***'@'::1' with ***\\u{1b}[0m in 'glance'");
    }

    #[test]
    fn shows_the_place_and_never_the_credentials() {
        for (url, shown) in [
            ("mysql+pymysql://g:s3cret@db/glance", "mysql glance at db"),
            ("mysql+mysqldb://g:s3cret@db:3307/glance?charset=utf8", "mysql glance at db:3307"),
            ("mysql://g:s3cret@[fd00::1]:3307/glance", "mysql glance at [fd00::1]:3307"),
            ("mariadb+mariadbconnector://g:p%40s%2Fs3cret@[::1]/glance", "mysql glance at [::1]"),
            (
                "mysql+pymysql://g:s3cret@localhost/glance?unix_socket=/run/my.sock",
                "mysql glance at /run/my.sock",
            ),
            ("postgresql://g:s3cret@db/glance", "postgresql glance at db"),
            ("postgresql+psycopg2://g:s3cret@db:5433/glance", "postgresql glance at db:5433"),
            ("postgresql://g:s3cret@/glance?host=/run/postgresql", "postgresql glance at /run/postgresql"),
            ("postgresql://g:s3cret@/glance?host=a:1&host=b", "postgresql glance at a:1, b"),
            ("sqlite:////var/lib/glance/glance.sqlite", "sqlite /var/lib/glance/glance.sqlite"),
            ("sqlite:///glance.sqlite", "sqlite glance.sqlite"),
        ] {
            assert_eq!(parsed(url).to_string(), shown, "{url}");
        }
    }

    #[test]
    fn credentials_are_percent_decoded() {
        let address = parsed("mysql+pymysql://gl%40nce:p%2F%3A%25w+d@db/glance");
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("gl@nce"), Some("p/:%w+d")));
        assert_eq!(parsed("mysql://g:p/w?:x@db/glance").password.as_deref(), Some("p/w?:x"));
        assert_eq!(parsed("mysql://g@dom@db/glance").user.as_deref(), Some("g@dom"));
        assert_eq!(parsed("postgresql://g@db/glance").password, None);
        assert_eq!(parsed("mysql://g:@db/glance").password.as_deref(), Some(""));
        assert!(
            Address::has_password("mysql://g:x@db/glance") && !Address::has_password("mysql://g@db/glance")
        );
        assert!(Address::has_password("postgresql://g@db/glance?password=x"));
    }

    #[test]
    fn a_password_may_hold_anything_but_an_at_sign() {
        for (url, password, shown) in [
            ("mysql://g:a/b?c@db:3307/glance", Some("a/b?c"), "mysql glance at db:3307"),
            ("mysql://g:a:b/c@[::1]:3307/glance", Some("a:b/c"), "mysql glance at [::1]:3307"),
            ("mysql://g:a@db/glance?charset=x@y", Some("a"), "mysql glance at db"),
            ("mysql://db/glance?user=a@b", None, "mysql glance at db"),
            ("sqlite:////var/lib/a@b:c", None, "sqlite /var/lib/a@b:c"),
        ] {
            let address = parsed(url);
            assert_eq!(
                (address.password.as_deref(), address.to_string().as_str()),
                (password, shown),
                "{url}"
            );
        }
    }

    #[test]
    fn a_limit_for_connecting_that_is_none_is_ours() {
        for (option, limit) in [
            ("", None),
            ("connect_timeout=3", Some(Duration::from_secs(3))),
            ("connect_timeout=0", None),
            ("connect_timeout=-1", None),
        ] {
            for dialect in ["mysql", "postgresql"] {
                assert_eq!(parsed(&format!("{dialect}://g@db/glance?{option}")).connect_timeout, limit);
            }
        }
    }

    #[test]
    fn errors_hold_no_part_of_the_url() {
        for url in [
            "s3cret",
            "oracle://g:s3cret@db/glance",
            "mysql://g:s3cret@db",
            "mysql://g:s3cret@x@db:s3cret/glance",
            "mysql://g@[::1]s3cret/glance",
            "mysql://g:s3cret@db:s3cret/glance",
            "mysql://g:s3cret@[::1/glance",
            "mysql://g:%ffs3cret@db/glance",
            "mysql://g:s3cret@db/glance?ssl_verify_cert=s3cret",
            "mysql://g:s3cret@db/glance?ssl_mode=s3cret",
            "mysql://g:s3cret@db/glance?connect_timeout=s3cret",
            "postgresql://g:s3cret@db/glance?sslmode=s3cret",
            "postgresql://g:s3cret@db/glance?target_session_attrs=s3cret",
            "sqlite://s3cret/x",
            "sqlite://",
        ] {
            let error =
                format!("{:#}", Address::parse(url).err().unwrap_or_else(|| panic!("{url} was accepted")));
            assert!(!error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn tls_is_verified_when_asked_for() {
        for (options, mode) in [
            ("mysql", "", TlsMode::Offered),
            ("mysql", "charset=utf8", TlsMode::Offered),
            ("mysql", "ssl_mode=PREFERRED", TlsMode::Offered),
            ("mysql", "ssl=false", TlsMode::Off),
            ("mysql", "ssl_disabled=true", TlsMode::Off),
            ("mysql", "ssl_ca=/ca", TlsMode::Full),
            ("mysql", "ssl=true", TlsMode::Full),
            ("mysql", "ssl_cert=/c&ssl_key=/k", TlsMode::Full),
            ("mysql", "ssl_verify_cert=true", TlsMode::Full),
            ("mysql", "ssl_ca=/ca&ssl_check_hostname=false", TlsMode::Authority),
            ("mysql", "ssl_ca=/ca&ssl_verify_identity=false", TlsMode::Authority),
            ("mysql", "ssl_ca=/ca&ssl_verify_cert=false", TlsMode::Unverified),
            ("mysql", "ssl_ca=/ca&ssl_disabled=true", TlsMode::Off),
            ("mysql", "ssl_mode=REQUIRED", TlsMode::Full),
            ("mysql", "ssl_mode=VERIFY_CA&ssl_ca=/ca", TlsMode::Authority),
            ("mysql", "ssl_mode=DISABLED", TlsMode::Off),
            ("postgresql", "", TlsMode::Offered),
            ("postgresql", "sslmode=disable", TlsMode::Off),
            ("postgresql", "sslmode=prefer", TlsMode::Offered),
            ("postgresql", "sslmode=require", TlsMode::Full),
            ("postgresql", "sslmode=require&sslrootcert=/ca", TlsMode::Authority),
            ("postgresql", "sslmode=verify-ca&sslrootcert=/ca", TlsMode::Authority),
            ("postgresql", "sslmode=verify-full", TlsMode::Full),
            ("postgresql", "sslrootcert=system", TlsMode::Full),
        ]
        .map(|(dialect, options, mode)| ((dialect, options), mode))
        {
            let url = format!("{}://g@db/glance?{}", options.0, options.1);
            assert_eq!(parsed(&url).tls.mode, mode, "{url}");
        }
    }

    #[test]
    fn an_option_that_would_be_ignored_is_refused() {
        for (dialect, options, expected) in [
            ("mysql", "ssl_cipher=AES", "ssl_cipher is not supported"),
            ("mysql", "ssl_crl=/crl", "ssl_crl is not supported"),
            ("mysql", "ssl_capath=/etc/ssl", "ssl_capath is not supported: name a file with ssl_ca"),
            ("mysql", "ssl_fp=ab", "ssl_fp is not supported"),
            ("mysql", "tls_version=TLSv1.3", "tls_version must"),
            ("mysql", "server_public_key=x", "server_public_key is not supported"),
            ("mysql", "ssl_key_password=x", "ssl_key_password is not supported"),
            ("mysql", "sslmode=verify-full", "'sslmode' is not known"),
            ("mysql", "charset=utf8&unheard_of=s3cret", "'unheard_of' is not known"),
            ("mysql", "ssl_ca=/a&ssl_ca=/b", "'ssl_ca' is given twice"),
            ("mysql", "s3cret%20=x", "an option is not known"),
            ("mysql", "s3cret=x@db/y", "an option is not known"),
            ("postgresql", "sslcrl=/crl", "sslcrl is not supported"),
            ("postgresql", "sslcrldir=/crl", "sslcrldir is not supported"),
            ("postgresql", "require_auth=scram-sha-256", "require_auth is not supported"),
            ("postgresql", "gssencmode=require", "gssencmode must be disable or prefer"),
            ("postgresql", "channel_binding=s3cret", "channel_binding must be"),
            ("postgresql", "requirepeer=postgres", "requirepeer is not supported"),
            ("postgresql", "ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version must"),
            ("postgresql", "sslcertmode=require", "sslcertmode must be"),
            ("postgresql", "hostaddr=10.0.0.1", "hostaddr is not supported"),
            ("postgresql", "service=glance", "service is not supported"),
            ("postgresql", "sslrootcert=system&sslmode=prefer", "sslrootcert=system"),
            ("postgresql", "ssl_ca=/ca", "'ssl_ca' is not known"),
            ("postgresql", "sslmode=require&sslmode=disable", "'sslmode' is given twice"),
        ] {
            let url = format!("{dialect}://g@db/glance?{options}");
            let error = format!("{:#}", Address::parse(&url).err().unwrap_or_else(|| panic!("{url} passed")));
            assert!(error.contains(expected) && !error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn several_hosts_may_stand_in_one_option() {
        let hosts = |options: &str| parsed(&format!("postgresql://g@/glance?{options}")).hosts;
        let pair = |a: u16, b: u16| [("a".to_owned(), a), ("b".to_owned(), b)];
        assert_eq!(hosts("host=a,b"), pair(5432, 5432));
        assert_eq!(hosts("host=a,b&port=7"), pair(7, 7));
        assert_eq!(hosts("host=a,b&port=1,2"), pair(1, 2));
        assert_eq!(hosts("host=a:1&host=b:2"), pair(1, 2));
        let error = Address::parse("postgresql://g@/glance?host=a,b&port=1,2,3").err().unwrap().to_string();
        assert!(error.contains("as many"), "{error}");
    }

    #[test]
    fn options_that_change_nothing_here_are_accepted() {
        for (dialect, options) in [
            ("mysql+pymysql", "charset=utf8&charset=utf8mb4&plugin=dbcounter&plugin=x"),
            ("mysql+pymysql", "read_timeout=10&write_timeout=10&init_command=SET+x%3D1&program_name=glance"),
            ("mysql+pymysql", "client_flag=2&local_infile=0&bind_address=10.0.0.1&autocommit=true"),
            ("mysql+mysqldb", "use_unicode=1&compress=1&auth_plugin=mysql_native_password"),
            ("mysql", "tls_version=TLSv1.2,TLSv1.3"),
            ("postgresql+psycopg2", "application_name=glance&keepalives=1&keepalives_idle=5&sslsni=1"),
            ("postgresql+psycopg2", "client_encoding=utf8&tcp_user_timeout=5000&load_balance_hosts=random"),
            ("postgresql", "gssencmode=prefer&channel_binding=prefer&ssl_min_protocol_version=TLSv1.2"),
            ("postgresql", "user=x&password=y&dbname=z"),
        ] {
            parsed(&format!("{dialect}://g@db/glance?{options}"));
        }
        assert!(parsed("postgresql://g@db/glance?channel_binding=require").channel_binding);
    }

    /// URLs made of parts that are hard to read.
    fn urls() -> impl Strategy<Value = String> {
        let text = prop_oneof![
            4 => "[a-z0-9]{0,4}",
            1 => "[a-z0-9:@/?&=+%#.;,|_\\[\\]-]{0,6}",
            1 => "(%[0-9a-fA-F]{2}|%[0-9a-zA-Z]|[a-z]|%|\\+){0,4}",
            1 => "[é٣ \\]\\[]{0,2}",
        ];
        let dialect = prop_oneof![
            4 => Just("mysql".to_owned()),
            4 => "(mysql|mariadb|postgresql|sqlite)(\\+[a-z0-9_]{0,8}){0,2}",
            1 => "(mysql|sqlite|x)[-. +a-z:]{0,2}",
        ];
        let host = prop_oneof![
            3 => text.clone(),
            1 => "\\[[0-9a-f:.]{0,6}\\]?",
            1 => "[a-z]{1,3}\\.[a-z]{1,3}",
        ];
        let port = prop_oneof![4 => "(:[0-9]{0,5})?", 1 => text.clone().prop_map(|text| format!(":{text}"))];
        let user = prop_oneof![
            2 => text.clone().prop_map(|user| format!("{user}@")),
            3 => (text.clone(), text.clone()).prop_map(|(user, password)| format!("{user}:{password}@")),
            1 => Just(String::new()),
        ];
        let option = (text.clone(), text.clone()).prop_map(|(key, value)| format!("{key}={value}"));
        let query =
            prop::collection::vec(prop_oneof![4 => option, 1 => text.clone()], 0..4).prop_map(|options| {
                if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) }
            });
        let database = prop_oneof![3 => text.prop_map(|text| format!("/{text}")), 1 => Just(String::new())];
        (dialect, user, host, port, database, query).prop_map(
            |(dialect, user, host, port, database, query)| {
                format!("{dialect}://{user}{host}{port}{database}{query}")
            },
        )
    }

    /// Every URL means the same here and to the `SQLAlchemy` of the Python named by
    /// `GLANCE_CACHE_TEST_PYTHON`, or both refuse it, except for the mistakes that [`Url::split`] refuses on
    /// purpose.
    #[test]
    #[ignore = "needs GLANCE_CACHE_TEST_PYTHON, a Python with glance 33"]
    #[expect(clippy::disallowed_methods, reason = "a test finds its peer through the environment")]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn agrees_with_the_real_sqlalchemy() {
        let python = std::env::var_os("GLANCE_CACHE_TEST_PYTHON").expect("GLANCE_CACHE_TEST_PYTHON is set");
        let cases = std::env::var("GLANCE_CACHE_TEST_CASES").map_or(5000, |text| text.parse().unwrap());
        let mut peer = Command::new(python)
            .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/database_urls.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let questions = RefCell::new(peer.stdin.take().unwrap());
        let answers = RefCell::new(BufReader::new(peer.stdout.take().unwrap()).lines());
        let counts = RefCell::new([0; 5]);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let outcome = TestRunner::new_with_rng(config, rng).run(&urls(), |url| {
            writeln!(questions.borrow_mut(), "{}", json!(url)).unwrap();
            let theirs: Value = serde_json::from_str(&answers.borrow_mut().next().unwrap().unwrap()).unwrap();
            let ours = Url::split(&url);
            let which = match (&ours, theirs["error"].as_str()) {
                (Err(_), Some(_)) => 0,
                (Ok(ours), None) => {
                    let mut query: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                    for (key, value) in &ours.query {
                        query.entry(key).or_default().push(value);
                    }
                    let ours = json!({
                        "user": ours.user, "password": ours.password, "host": ours.host, "port": ours.port,
                        "database": ours.database, "query": query,
                    });
                    prop_assert_eq!(ours, theirs);
                    1
                }
                (Err(error), None) => {
                    let port = theirs["port"].as_i64();
                    let parts = theirs.to_string();
                    match &*error.to_string() {
                        text if text.contains("port") => {
                            let plain = port.filter(|port| {
                                u16::try_from(*port).is_ok() && url.contains(&format!(":{port}"))
                            });
                            prop_assert_eq!(plain, None, "its port is a plain number");
                            2
                        }
                        text if text.contains("UTF-8") => {
                            prop_assert!(parts.contains('\u{fffd}'), "nothing was replaced: {}", parts);
                            3
                        }
                        text => {
                            prop_assert!(
                                text.contains("IPv6") && url.contains('['),
                                "only we refuse: {}; {}",
                                text,
                                parts
                            );
                            4
                        }
                    }
                }
                (Ok(_), Some(error)) => {
                    return Err(TestCaseError::fail(format!("only SQLAlchemy refuses: {error}")));
                }
            };
            counts.borrow_mut()[which] += 1;
            Ok(())
        });
        drop(questions);
        peer.wait().unwrap();
        let [both, same, port, utf8, bracket] = counts.into_inner();
        println!(
            "{cases} URLs: {same} the same, {both} refused by both; refused only here: {port} for the port, \
             {utf8} for percent codes that are no UTF-8, {bracket} for a bracket"
        );
        outcome.unwrap();
    }

    #[test]
    fn a_default_file_fills_what_the_url_leaves_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "# RHOSO's\n[mysql]\nuser=other\n[client]\nuser = g\npassword='s3cret'\n\
             ssl-ca=/etc/ca.pem\nssl\nport=3310\n",
        )
        .unwrap();
        let url = format!("mysql+pymysql://db/glance?read_default_file={}", file.path().display());
        let address = parsed(&url);
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("g"), Some("s3cret")));
        assert_eq!(address.hosts, [("db".to_owned(), 3310)]);
        assert_eq!(address.tls, Tls { mode: TlsMode::Full, ca: Some("/etc/ca.pem".into()), identity: None });
        assert_eq!(parsed(&url.replace("//db", "//x:y@db:1")).hosts, [("db".to_owned(), 1)]);
        assert!(Address::parse("mysql://db/glance?read_default_file=/nonexistent/my.cnf").is_err());
    }
}
