//! The settings of the service: `[cache_api]`, judged before anything is opened.
//!
//! A wrong value stops the start with exit code 2 and the place where it was set. Without a listener and
//! without an interval there would be nothing to do, which is refused, too.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use url::Url;

use crate::config::{self, Config, Opt};
use crate::exit::Failure;
use crate::serve::gate::ConnectionLimits;

/// The time that a client has for the head of a request.
const HEAD: Duration = Duration::from_secs(10);

/// A place to listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// Nowhere: the service only runs by the clock.
    None,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Place::None);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.strip_prefix('/') {
                Some(_) => Ok(Place::Unix(PathBuf::from(path))),
                None => {
                    Err("a socket is given with its absolute path, as in unix:/run/cache.sock".to_owned())
                }
            };
        }
        text.parse().map(Place::Tcp).map_err(|_| {
            "give ADDRESS:PORT, such as 127.0.0.1:9393 or [::1]:9393, unix:PATH, or none".to_owned()
        })
    }
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
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The authorities of clients' certificates. With them, a client must have one.
    pub(super) clients: Option<PathBuf>,
}

/// The times of what is done by the clock. `None` is never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    pub(super) prune: Option<Duration>,
    pub(super) clean: Option<Duration>,
    pub(super) prefetch: Option<Duration>,
    pub(super) poll: Option<Duration>,
}

/// The settings of the service.
#[derive(Clone, Debug)]
pub(super) struct ServeSettings {
    /// The places to listen at, unless systemd hands over sockets.
    pub(super) places: Vec<Place>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) strategy: Strategy,
    pub(super) intervals: Intervals,
    pub(super) lock_timeout: Duration,
    pub(super) operation_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    pub(super) max_connections: usize,
    pub(super) limits: ConnectionLimits,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) disable_by_file: Option<PathBuf>,
    /// Replaces the address in the list of versions.
    pub(super) public_endpoint: Option<String>,
    pub(super) glance_api: Option<Url>,
    /// True if Glance's database is configured.
    pub(super) has_database: bool,
}

impl ServeSettings {
    /// Reads the settings. Places on the command line replace those of the configuration.
    pub(super) fn new(config: &Config, places: &[Place]) -> Result<Self, Failure> {
        Self::read(config, places).map_err(Failure::usage)
    }

    fn read(config: &Config, places: &[Place]) -> Result<Self> {
        let path =
            |opt: &Opt<'static>| Ok::<_, Error>(config.optional(opt)?.map(|set| PathBuf::from(set.value)));
        let time = |opt: &Opt<'static>| config.duration(opt).map(|set| set.value);
        let interval = |opt: &Opt<'static>| time(opt).map(|time| Some(time).filter(|time| !time.is_zero()));
        let number = |opt: &Opt<'static>| config.integer(opt).map(|set| set.value.unsigned_abs() as usize);
        let places = if places.is_empty() { configured_places(config)? } else { places.to_vec() };
        Ok(ServeSettings {
            places: places.into_iter().filter(|place| *place != Place::None).collect(),
            tls: tls(config)?,
            strategy: match config.choice(&config::API_AUTH_STRATEGY)?.value {
                "none" => Strategy::None,
                _ => Strategy::Keystone,
            },
            intervals: Intervals {
                prune: interval(&config::API_PRUNE_INTERVAL)?,
                clean: interval(&config::API_CLEAN_INTERVAL)?,
                prefetch: interval(&config::API_PREFETCH_INTERVAL)?,
                poll: interval(&config::API_POLL_INTERVAL)?,
            },
            lock_timeout: time(&config::API_LOCK_TIMEOUT)?,
            operation_timeout: positive(config, &config::API_OPERATION_TIMEOUT)?,
            shutdown_timeout: time(&config::API_SHUTDOWN_TIMEOUT)?,
            max_connections: number(&config::API_MAX_CONNECTIONS)?,
            limits: ConnectionLimits {
                head: HEAD,
                silence: positive(config, &config::API_CLIENT_SOCKET_TIMEOUT)?,
                line: number(&config::API_MAX_HEADER_LINE)?,
            },
            metrics: metrics(config)?,
            disable_by_file: path(&config::API_DISABLE_BY_FILE_PATH)?,
            public_endpoint: public_endpoint(config)?,
            glance_api: url(config, &config::API_GLANCE_API_URL)?,
            has_database: config.optional(&config::DATABASE_CONNECTION)?.is_some(),
        })
    }

    /// True if anything is done by the clock.
    pub(super) fn has_interval(&self) -> bool {
        let Intervals { prune, clean, prefetch, .. } = self.intervals;
        [prune, clean, prefetch].iter().any(Option::is_some)
    }

    /// Fails if a listener is open to others than this host while nobody is asked who may call.
    pub(super) fn check_strategy(&self, place: &Place) -> Result<(), Failure> {
        match place {
            Place::Tcp(address) if self.strategy == Strategy::None && !is_loopback(address.ip()) => {
                Err(Failure::usage(anyhow!(
                    "[cache_api] auth_strategy = none is only for a Unix socket or the loopback interface, \
                     not for {address}: everybody who reaches it could remove images"
                )))
            }
            _ => Ok(()),
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns the places of the configuration: a socket of its own replaces the port that nobody set.
fn configured_places(config: &Config) -> Result<Vec<Place>> {
    let (host, port) = (config.text(&config::API_BIND_HOST)?, config.integer(&config::API_BIND_PORT)?);
    let socket = config.optional(&config::API_BIND_SOCKET)?;
    let is_set = config.is_set(&config::API_BIND_HOST) || config.is_set(&config::API_BIND_PORT);
    let mut places = Vec::new();
    if let Some(socket) = &socket {
        let path = PathBuf::from(&socket.value);
        ensure!(path.is_absolute(), "{}: bind_socket is not an absolute path", socket.origin);
        places.push(Place::Unix(path));
    }
    if port.value != 0 && (is_set || socket.is_none()) {
        let address = host.value.trim_matches(['[', ']']).parse::<IpAddr>();
        let address = address.with_context(|| {
            format!("{}: bind_host is {:?}, which is no IP address", host.origin, host.value)
        })?;
        let number = u16::try_from(port.value)
            .with_context(|| format!("{}: bind_port is {}, which is no port", port.origin, port.value))?;
        places.push(Place::Tcp(SocketAddr::new(address, number)));
    }
    Ok(places)
}

/// Returns a time that must not be 0.
fn positive(config: &Config, opt: &Opt<'static>) -> Result<Duration> {
    let time = config.duration(opt)?;
    ensure!(!time.value.is_zero(), "{}: [cache_api] {} must be longer than 0", time.origin, opt.name);
    Ok(time.value)
}

fn tls(config: &Config) -> Result<Option<TlsFiles>> {
    let path = |opt: &Opt<'static>| config.optional(opt);
    let certificate = path(&config::API_CERT_FILE)?;
    let key = path(&config::API_KEY_FILE)?;
    let clients = path(&config::API_CA_FILE)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.value.into(),
            key: key.value.into(),
            clients: clients.map(|clients| clients.value.into()),
        })),
        (Some(set), None) => bail!("{}: cert_file is set in [cache_api], but key_file is not", set.origin),
        (None, Some(set)) => bail!("{}: key_file is set in [cache_api], but cert_file is not", set.origin),
        (None, None) => match clients {
            Some(set) => bail!("{}: ca_file is set in [cache_api], but cert_file is not", set.origin),
            None => Ok(None),
        },
    }
}

fn metrics(config: &Config) -> Result<Option<SocketAddr>> {
    let Some(set) = config.optional(&config::API_METRICS_BIND)? else { return Ok(None) };
    let address = set
        .value
        .parse()
        .with_context(|| format!("{}: metrics_bind is {:?}; give ADDRESS:PORT", set.origin, set.value))?;
    Ok(Some(address))
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
    let url = url.with_context(|| format!("{}: {} is no http URL", set.origin, opt.name))?;
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "{}: {} must not contain credentials",
        set.origin,
        opt.name
    );
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        for (text, expected) in [
            ("127.0.0.1:9393", Some(Place::Tcp("127.0.0.1:9393".parse().unwrap()))),
            ("[::1]:1", Some(Place::Tcp("[::1]:1".parse().unwrap()))),
            ("unix:/run/x.sock", Some(Place::Unix("/run/x.sock".into()))),
            ("none", Some(Place::None)),
            ("unix:x.sock", None),
            ("localhost:9393", None),
            ("9393", None),
            ("127.0.0.1:99999", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Place>().ok(), expected, "{text:?}");
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
