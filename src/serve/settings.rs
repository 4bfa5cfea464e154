//! The settings of the service: `[cache_api]`, judged before anything is opened.
//!
//! A wrong value stops the start with exit code 2 and the place where it was set. Without a listener and
//! without an interval there would be nothing to do, which is refused, too. So are values that can only be
//! mistakes: intervals that would keep a disk busy, limits that limit nothing, and paths that would be looked
//! for wherever the service was started.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use url::Url;

use crate::config::{self, Config, Opt, Origin, Setting};
use crate::exit::Failure;
use crate::openstack::cache_api::shown_url;
use crate::serve::gate::{ConnectionLimits, MAX_HEAD};

/// The time that a client has for the head of a request.
const HEAD: Duration = Duration::from_secs(10);

/// The shortest interval, and the shortest time in which anything can be done.
const SHORTEST: Duration = Duration::from_secs(1);
/// The largest number of connections.
const MOST_CONNECTIONS: usize = 65_536;
/// The longest path of a Unix socket, in bytes: the kernel's 108 have a zero at their end.
const LONGEST_SOCKET: usize = 107;

/// A place to listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ListenPlace {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// Nowhere: the service only runs by the clock.
    None,
}

impl FromStr for ListenPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(ListenPlace::None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                _ if !path.starts_with('/') => {
                    Err("a socket is given with its absolute path, as in unix:/run/cache.sock".to_owned())
                }
                length if length > LONGEST_SOCKET => Err(too_long(length)),
                _ => Ok(ListenPlace::Unix(PathBuf::from(path))),
            };
        }
        text.parse().map(ListenPlace::Tcp).map_err(|_| {
            "give IP-ADDRESS:PORT, such as 127.0.0.1:9393 or [::1]:9393, unix:PATH, or none".to_owned()
        })
    }
}

impl fmt::Display for ListenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenPlace::Tcp(address) => write!(f, "{address}"),
            ListenPlace::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenPlace::None => f.write_str("none"),
        }
    }
}

fn too_long(length: usize) -> String {
    format!("the path of a socket has at most {LONGEST_SOCKET} bytes, and this one has {length}")
}

/// The one that is asked if a request is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strategy {
    Keystone,
    /// Nobody: the socket decides who can connect.
    None,
}

/// The files of TLS.
#[derive(Clone, Debug)]
pub(super) struct TlsFiles {
    pub(super) certificate: Setting<PathBuf>,
    pub(super) key: Setting<PathBuf>,
    /// The authorities of clients' certificates. With them, a client must have one.
    pub(super) clients: Option<Setting<PathBuf>>,
}

/// A place to listen at, and the option that says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SetPlace {
    pub(super) place: ListenPlace,
    option: &'static str,
    origin: Origin,
}

impl SetPlace {
    /// Adds to what is wrong with the place where it is set, if it is in the configuration.
    pub(super) fn named<T>(&self, result: Result<T>) -> Result<T> {
        match &self.origin {
            Origin::Flag(_) | Origin::Default => result,
            origin => result.with_context(|| format!("{origin}: [cache_api] {}", self.option)),
        }
    }
}

/// The times of what is done by the clock. `None` is never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    pub(super) prune: Option<Duration>,
    pub(super) clean: Option<Duration>,
    pub(super) prefetch: Option<Duration>,
    /// The time between two looks at the size, if there is an interval of prunes.
    pub(super) poll: Duration,
}

/// The settings of the service.
#[derive(Clone, Debug)]
pub(super) struct ServeSettings {
    /// The places to listen at, unless systemd hands over sockets.
    pub(super) places: Vec<SetPlace>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) strategy: Setting<Strategy>,
    pub(super) intervals: Intervals,
    pub(super) lock_timeout: Duration,
    pub(super) operation_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) max_connections: usize,
    pub(super) limits: ConnectionLimits,
    pub(super) metrics: Option<SetPlace>,
    pub(super) disable_by_file: Option<PathBuf>,
    /// Replaces the address in the list of versions.
    pub(super) public_endpoint: Option<String>,
    pub(super) glance_api: Option<Url>,
    /// True if systemd hands over sockets.
    pub(super) has_sockets: bool,
    /// True if Glance's database is configured.
    pub(super) has_database: bool,
}

impl ServeSettings {
    /// Reads the settings. Places on the command line replace those of the configuration.
    pub(super) fn new(config: &Config, places: &[ListenPlace]) -> Result<Self, Failure> {
        Self::read(config, places).map_err(Failure::usage)
    }

    fn read(config: &Config, places: &[ListenPlace]) -> Result<Self> {
        let time = |opt: &Opt<'static>| config.duration(opt).map(|set| set.value);
        let interval = |opt: &Opt<'static>| interval(config, opt);
        let given = |place: &ListenPlace| {
            let (place, origin) = (place.clone(), Origin::Flag("--bind"));
            SetPlace { place, option: "bind", origin }
        };
        let places = match places {
            [] => configured_places(config)?,
            places => places.iter().map(given).collect(),
        };
        Ok(ServeSettings {
            places: places.into_iter().filter(|set| set.place != ListenPlace::None).collect(),
            tls: tls(config)?,
            strategy: config.choice(&config::API_AUTH_STRATEGY)?.map(|name| match name {
                "none" => Strategy::None,
                _ => Strategy::Keystone,
            }),
            intervals: Intervals {
                prune: interval(&config::API_PRUNE_INTERVAL)?,
                clean: interval(&config::API_CLEAN_INTERVAL)?,
                prefetch: interval(&config::API_PREFETCH_INTERVAL)?,
                poll: long_enough(config, &config::API_POLL_INTERVAL)?,
            },
            lock_timeout: time(&config::API_LOCK_TIMEOUT)?,
            operation_timeout: long_enough(config, &config::API_OPERATION_TIMEOUT)?,
            shutdown_timeout: time(&config::API_SHUTDOWN_TIMEOUT)?,
            max_connections: at_most(config, &config::API_MAX_CONNECTIONS, MOST_CONNECTIONS)?,
            limits: ConnectionLimits {
                head: HEAD,
                silence: long_enough(config, &config::API_CLIENT_SOCKET_TIMEOUT)?,
                line: at_most(config, &config::API_MAX_HEADER_LINE, MAX_HEAD)?,
            },
            metrics: metrics(config)?,
            disable_by_file: path(config, &config::API_DISABLE_BY_FILE_PATH)?.map(|set| set.value),
            public_endpoint: public_endpoint(config)?,
            glance_api: url(config, &config::API_GLANCE_API_URL)?,
            has_sockets: false,
            has_database: config.optional(&config::DATABASE_CONNECTION)?.is_some(),
        })
    }

    /// True if there is a listener: one of the settings, or of systemd.
    pub(super) fn listens(&self) -> bool {
        !self.places.is_empty() || self.has_sockets
    }

    /// True if there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        !self.listens() && !self.has_interval()
    }

    /// True if anything is done by the clock.
    pub(super) fn has_interval(&self) -> bool {
        let Intervals { prune, clean, prefetch, .. } = self.intervals;
        [prune, clean, prefetch].iter().any(Option::is_some)
    }

    /// Returns the places of all listeners of the settings, and of the metrics.
    pub(super) fn all_places(&self) -> impl Iterator<Item = &SetPlace> {
        self.places.iter().chain(&self.metrics)
    }

    /// Fails if there is nothing to do, or if the places cannot be what somebody wants.
    pub(super) fn check_places(&self) -> Result<(), Failure> {
        if self.is_idle() {
            return Err(nothing_to_do());
        }
        for (n, SetPlace { place, .. }) in self.places.iter().enumerate() {
            self.check_strategy(place)?;
            if self.has_sockets {
                // They come instead of the places.
                continue;
            }
            let metrics = self.metrics.iter().map(|set| ("[cache_api] metrics_bind", &set.place));
            let others = self.places[n + 1..].iter().map(|other| ("another listener", &other.place));
            if let Some((what, other)) = others.chain(metrics).find(|(_, other)| place.excludes(other)) {
                return Err(Failure::usage(anyhow!(
                    "a listener at {place} and {what} at {other} would be at the same address"
                ))
                .hint("give each an address or a port of its own"));
            }
        }
        Ok(())
    }

    /// Fails if a listener is open to others than this host while nobody is asked who may call.
    pub(super) fn check_strategy(&self, place: &ListenPlace) -> Result<(), Failure> {
        match place {
            ListenPlace::Tcp(address)
                if self.strategy.value == Strategy::None && !is_loopback(address.ip()) =>
            {
                Err(Failure::usage(anyhow!(
                    "{}: [cache_api] auth_strategy = none is only for a Unix socket or the loopback \
                     interface, not for {address}: everybody who reaches it could remove images",
                    self.strategy.origin
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The service would do nothing.
pub(super) fn nothing_to_do() -> Failure {
    Failure::usage(anyhow!("there is nothing to do: no listener and no interval is set"))
        .hint("set bind_port or bind_socket, or prune_interval, in the section [cache_api]")
}

impl ListenPlace {
    /// True if only one of two listeners could be opened.
    fn excludes(&self, other: &ListenPlace) -> bool {
        match (self, other) {
            (ListenPlace::Tcp(a), ListenPlace::Tcp(b)) => {
                // Each gets a free port if it is 0.
                a.port() == b.port() && a.port() != 0 && overlap(a.ip(), b.ip())
            }
            (a, b) => a == b && *a != ListenPlace::None,
        }
    }
}

/// True if two addresses are the same, or one of them is all addresses and has the other.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    let has = |all: IpAddr, one: IpAddr| {
        // Those of IPv6 include those of IPv4.
        all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    a == b || has(a, b) || has(b, a)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns the places of the configuration: a socket of its own replaces the port that nobody set.
fn configured_places(config: &Config) -> Result<Vec<SetPlace>> {
    let (host, port) = (config.text(&config::API_BIND_HOST)?, config.integer(&config::API_BIND_PORT)?);
    let socket = config.optional(&config::API_BIND_SOCKET)?;
    let is_set = config.is_set(&config::API_BIND_HOST) || config.is_set(&config::API_BIND_PORT);
    let mut places = Vec::new();
    if let Some(socket) = &socket {
        let path = absolute(&config::API_BIND_SOCKET, socket)?;
        let length = path.as_os_str().as_bytes().len();
        ensure!(length <= LONGEST_SOCKET, "{}: [cache_api] bind_socket: {}", socket.origin, too_long(length));
        let (place, origin) = (ListenPlace::Unix(path), socket.origin.clone());
        places.push(SetPlace { place, option: "bind_socket", origin });
    }
    if port.value != 0 && (is_set || socket.is_none()) {
        let address = host.value.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let address = address.with_context(|| {
            format!("{}: [cache_api] bind_host is {:?}, which is no IP address", host.origin, host.value)
        })?;
        let number = u16::try_from(port.value).ok().with_context(|| {
            format!("{}: [cache_api] bind_port is {}; a port is at most 65535", port.origin, port.value)
        })?;
        let place = ListenPlace::Tcp(SocketAddr::new(address, number));
        let (option, origin) = match host.origin {
            Origin::Default => ("bind_port", port.origin),
            origin => ("bind_host", origin),
        };
        places.push(SetPlace { place, option, origin });
    }
    Ok(places)
}

/// Returns the error for a value that is well-formed, but not possible.
fn wrong(config: &Config, opt: &Opt<'static>, but: &str) -> anyhow::Error {
    match config.text(opt) {
        Ok(Setting { value, origin }) => {
            anyhow!("{origin}: [{}] {} is {value:?}, but must be {but}", opt.group, opt.name)
        }
        Err(error) => error,
    }
}

/// Returns a time in which something can be done.
fn long_enough(config: &Config, opt: &Opt<'static>) -> Result<Duration> {
    let time = config.duration(opt)?;
    ensure!(time.value >= SHORTEST, wrong(config, opt, "at least 1 s"));
    Ok(time.value)
}

/// Returns the time between two runs; `None` if there are none.
fn interval(config: &Config, opt: &Opt<'static>) -> Result<Option<Duration>> {
    let time = config.duration(opt)?;
    if time.value.is_zero() {
        return Ok(None);
    }
    ensure!(time.value >= SHORTEST, wrong(config, opt, "at least 1 s, or 0 for never"));
    Ok(Some(time.value))
}

/// Returns a number that has a limit.
fn at_most(config: &Config, opt: &Opt<'static>, most: usize) -> Result<usize> {
    let number = config.integer(opt)?;
    let value = usize::try_from(number.value).ok().filter(|value| *value <= most);
    value.ok_or_else(|| wrong(config, opt, &format!("at most {most}")))
}

/// Returns a path, which is absolute: a service is not started where its files are.
fn absolute(opt: &Opt<'static>, set: &Setting<String>) -> Result<PathBuf> {
    let path = PathBuf::from(&set.value);
    let (Setting { value, origin }, name) = (set, opt.name);
    let is_absolute = path.is_absolute();
    ensure!(is_absolute, "{origin}: [cache_api] {name} is {value:?}, but must be an absolute path");
    Ok(path)
}

fn path(config: &Config, opt: &Opt<'static>) -> Result<Option<Setting<PathBuf>>> {
    let Some(set) = config.optional(opt)? else { return Ok(None) };
    Ok(Some(Setting { value: absolute(opt, &set)?, origin: set.origin }))
}

fn tls(config: &Config) -> Result<Option<TlsFiles>> {
    let certificate = path(config, &config::API_CERT_FILE)?;
    let key = path(config, &config::API_KEY_FILE)?;
    let clients = path(config, &config::API_CA_FILE)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key, clients })),
        (Some(set), None) => bail!("{}: cert_file is set in [cache_api], but key_file is not", set.origin),
        (None, Some(set)) => bail!("{}: key_file is set in [cache_api], but cert_file is not", set.origin),
        (None, None) => match clients {
            Some(set) => bail!("{}: ca_file is set in [cache_api], but cert_file is not", set.origin),
            None => Ok(None),
        },
    }
}

fn metrics(config: &Config) -> Result<Option<SetPlace>> {
    let Some(set) = config.optional(&config::API_METRICS_BIND)? else { return Ok(None) };
    let address = set.value.parse().ok().with_context(|| {
        format!("{}: [cache_api] metrics_bind is {:?}; give IP-ADDRESS:PORT", set.origin, set.value)
    })?;
    Ok(Some(SetPlace { place: ListenPlace::Tcp(address), option: "metrics_bind", origin: set.origin }))
}

/// Returns the URL that is shown to clients, without a slash at its end.
fn public_endpoint(config: &Config) -> Result<Option<String>> {
    let Some(set) = url(config, &config::API_PUBLIC_ENDPOINT)? else { return Ok(None) };
    Ok(Some(set.as_str().trim_end_matches('/').to_owned()))
}

/// Returns a URL of a web server.
fn url(config: &Config, opt: &Opt<'static>) -> Result<Option<Url>> {
    let Some(set) = config.optional(opt)? else { return Ok(None) };
    let url = Url::parse(&set.value).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    let place = format!("{}: [{}] {}", set.origin, opt.group, opt.name);
    let shown = shown_url(&set.value);
    let url = url.with_context(|| format!("{place} is {shown:?}, which is no http URL"))?;
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "{place} is {shown:?}, but must not contain credentials"
    );
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let longest = format!("unix:/{}", "x".repeat(LONGEST_SOCKET - 1));
        let too_long = format!("{longest}x");
        for (text, expected) in [
            ("127.0.0.1:9393", Some(ListenPlace::Tcp("127.0.0.1:9393".parse().unwrap()))),
            ("[::1]:1", Some(ListenPlace::Tcp("[::1]:1".parse().unwrap()))),
            ("unix:/run/x.sock", Some(ListenPlace::Unix("/run/x.sock".into()))),
            ("none", Some(ListenPlace::None)),
            ("unix:x.sock", None),
            (&*longest, Some(ListenPlace::Unix(longest[5..].into()))),
            (&*too_long, None),
            ("localhost:9393", None),
            ("9393", None),
            ("127.0.0.1:99999", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<ListenPlace>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn places_that_exclude_each_other_are_known() {
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::1]:1", "[::]:1", true),
            ("[::1]:1", "0.0.0.0:1", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:1", false),
            ("none", "none", false),
        ] {
            let place = |text: &str| text.parse::<ListenPlace>().unwrap();
            for (a, b) in [(a, b), (b, a)] {
                assert_eq!(place(a).excludes(&place(b)), expected, "{a} {b}");
            }
        }
    }

    #[test]
    fn only_this_host_counts_as_loopback() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), expected, "{address}");
        }
    }
}
