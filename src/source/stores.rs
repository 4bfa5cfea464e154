//! The configured stores, and which of them a location is read by.
//!
//! With `enabled_backends` there is a section for each store, and `[backend_defaults]` has what a section leaves out; without,
//! each of the types in `stores` is one store with all its options in `[glance_store]`. Values are judged once, when the
//! configuration is read; what a store lacks is said when a location needs it.
//!
//! A location is read by the store that its row names; where that is unknown or of another type, by those whose own
//! locations begin as it does; where none does, by all of its type, one after the other. A file may be in a directory of
//! any of them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use url::Url;

use super::file::FileSource;
use super::location::{self, Object, Place, RbdImage, shown, store_type};
use super::rbd::{self, RbdSource};
use super::s3::{self, S3Source};
use super::web::WebSource;
use super::{Refused, Source, sealed};
use crate::config::{
    Config, ENABLED_BACKENDS, FILESYSTEM_STORE_DATADIR, FILESYSTEM_STORE_DATADIRS, HTTP_PROXY_INFORMATION,
    HTTPS_CA_CERTIFICATES_FILE, HTTPS_INSECURE, METADATA_ENCRYPTION_KEY, Opt, RADOS_CONNECT_TIMEOUT,
    RBD_STORE_CEPH_CONF, RBD_STORE_POOL, RBD_STORE_USER, S3_STORE_ACCESS_KEY, S3_STORE_BUCKET,
    S3_STORE_BUCKET_URL_FORMAT, S3_STORE_CACERT, S3_STORE_HOST, S3_STORE_REGION_NAME, S3_STORE_SECRET_KEY,
    STORES, Setting, WEIGHT,
};
use crate::database::images::Location;
use crate::net::http::Client;
use crate::net::tls::Trust;
use crate::net::wire::Waits;

/// Stores of type `file` that Glance has beside the configured ones.
const RESERVED: [&str; 2] = ["os_glance_staging_store", "os_glance_tasks_store"];

/// What one location can be read from by one store, or why not.
pub(crate) type Readable = Result<Box<dyn Source>, Refused>;

/// All stores of a Glance.
pub(crate) struct Stores {
    /// In the order of the configuration.
    stores: Vec<Store>,
    /// Whether they are those of `enabled_backends`.
    several: bool,
    key: Option<Setting<String>>,
    waits: Waits,
}

struct Store {
    /// The store's id; without `enabled_backends` its type.
    id: String,
    kind: String,
    weight: i64,
    settings: Settings,
}

/// What reading from a store takes.
enum Settings {
    File(Vec<PathBuf>),
    Web {
        client: Client,
        warning: Option<String>,
    },
    S3(s3::Settings),
    Rbd(rbd::Settings),
    /// Of a type that is not read here.
    Unread,
}

impl Stores {
    /// Reads the settings of all stores. Opens nothing but the configuration.
    pub(crate) fn from_config(config: &Config, waits: Waits) -> Result<Self> {
        let key = config.optional(&METADATA_ENCRYPTION_KEY)?;
        if let Some(key) = &key {
            sealed::check_key(&key.value)
                .with_context(|| format!("{}: metadata_encryption_key is no key", key.origin))?;
        }
        let backends = config.dictionary(&ENABLED_BACKENDS)?.value;
        let several = !backends.is_empty();
        let store = |id: &str, kind: &str, options: &Options| -> Result<Store> {
            let kind = short(kind);
            let weight = options.config.integer(&options.of(WEIGHT))?.value;
            let settings = options.settings(kind, &waits)?;
            Ok(Store { id: id.to_owned(), kind: kind.to_owned(), weight, settings })
        };
        let mut stores = Vec::new();
        if several {
            let reserved = RESERVED.map(|id| (id.to_owned(), "file".to_owned()));
            for (id, kind) in backends.into_iter().chain(reserved) {
                stores.push(store(&id, &kind, &Options { config, groups: &[&id, "backend_defaults"] })?);
            }
        } else {
            for kind in config.list(&STORES)?.value {
                stores.push(store(&kind, &kind, &Options { config, groups: &["glance_store"] })?);
            }
        }
        Ok(Stores { stores, several, key, waits })
    }

    /// Returns what the locations of an image can be read from, in the order to try: by the weight of their stores, the
    /// highest first, those of equal weight in the order given.
    pub(crate) fn sources(&self, locations: &[Location]) -> Vec<Readable> {
        let mut weighed: Vec<_> = locations.iter().map(|location| self.read_by(location)).collect();
        weighed.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        weighed.into_iter().flat_map(|(_, sources)| sources).collect()
    }

    /// The weight of one location, and what it can be read from.
    fn read_by(&self, location: &Location) -> (i64, Vec<Readable>) {
        let named =
            self.stores.iter().find(|store| self.several && location.store.as_ref() == Some(&store.id));
        let weight = named.map_or(0, |store| store.weight);
        let url = match self.plain(&location.value) {
            Ok(url) => url,
            Err(error) => return (weight, vec![Err(Refused { shown: shown(&location.value), error })]),
        };
        let refused = |error| Refused { shown: shown(&url), error };
        let found = location::parse(&url).and_then(|place| Ok((self.choose(&url, &place, named)?, place)));
        let sources = match found {
            // Of several stores it may be in any.
            Ok((stores, Place::File(path))) => {
                let directories = stores.iter().flat_map(|store| store.settings.directories().to_owned());
                let (directories, waits) = (directories.collect(), self.waits.clone());
                vec![Ok(
                    Box::new(FileSource { shown: shown(&url), path, directories, waits }) as Box<dyn Source>
                )]
            }
            Ok((stores, place)) => stores
                .iter()
                .map(|store| self.source(store, place.clone(), shown(&url)).map_err(refused))
                .collect(),
            Err(error) => vec![Err(refused(error))],
        };
        (weight, sources)
    }

    /// A row's URL, decrypted where it is encrypted.
    fn plain(&self, value: &str) -> Result<String> {
        if store_type(value).is_some() {
            return Ok(value.to_owned());
        }
        let Some(key) = &self.key else {
            bail!(
                "it is no URL of a store that Glance has, or it is encrypted: then metadata_encryption_key has to be \
                 set as it is for glance-api"
            );
        };
        let opened = sealed::open(&key.value, value).ok().filter(|url| store_type(url).is_some());
        opened.with_context(|| {
            format!(
                "it is no URL of a store that Glance has, and metadata_encryption_key ({}) does not decrypt it: use \
                 the key that glance-api used",
                key.origin
            )
        })
    }

    /// The stores to read a location by, in order.
    fn choose<'a>(&'a self, url: &str, place: &Place, named: Option<&'a Store>) -> Result<Vec<&'a Store>> {
        let kind = store_type(url).unwrap_or_default();
        if let Some(store) = named.filter(|store| store.kind == kind) {
            return Ok(vec![store]);
        }
        let of_kind: Vec<&Store> = self.stores.iter().filter(|store| store.kind == kind).collect();
        let own: Vec<&Store> = of_kind.iter().copied().filter(|store| store.settings.is_own(place)).collect();
        match (of_kind.is_empty(), own.is_empty(), self.several) {
            (true, _, true) => bail!("no store of the type {kind} is enabled: add one to enabled_backends"),
            (true, _, false) => {
                bail!("the store type {kind} is not enabled: add it to stores in [glance_store]")
            }
            (_, true, _) => Ok(of_kind),
            _ => Ok(own),
        }
    }

    fn source(&self, store: &Store, place: Place, shown: String) -> Result<Box<dyn Source>> {
        Ok(match (&store.settings, place) {
            (Settings::Web { client, warning }, Place::Http { url, credentials }) => Box::new(WebSource {
                shown,
                warning: warning.clone(),
                url,
                credentials,
                client: client.clone(),
            }),
            (Settings::S3(settings), Place::S3(object)) => {
                Box::new(S3Source::new(shown, settings, object, &self.waits)?)
            }
            (Settings::Rbd(settings), Place::Rbd(image)) => {
                Box::new(RbdSource::new(shown, settings, image, &self.waits)?)
            }
            _ => bail!(
                "stores of the type {} are not read by this tool yet: let glance-api cache the image (boot from it, or \
                 PUT /v2/cache/ID), or copy it to a store of the type file, http, s3 or rbd",
                store.kind
            ),
        })
    }
}

impl Settings {
    fn directories(&self) -> &[PathBuf] {
        if let Settings::File(directories) = self { directories } else { &[] }
    }

    /// Whether the store's own locations begin as this one does.
    fn is_own(&self, place: &Place) -> bool {
        match (self, place) {
            (_, Place::File(path)) => self.directories().iter().any(|directory| path.starts_with(directory)),
            (Settings::S3(settings), Place::S3(Object { service, bucket, .. })) => {
                settings.host.as_ref().is_some_and(|host| without_scheme(&host.value) == service)
                    && settings.bucket.as_ref() == Some(bucket)
            }
            (Settings::Rbd(settings), Place::Rbd(RbdImage { pool: Some(pool), .. })) => {
                settings.pool == *pool
            }
            _ => false,
        }
    }
}

/// A type of store by its usual name.
fn short(kind: &str) -> &str {
    match kind.strip_prefix("glance.store.").and_then(|kind| kind.strip_suffix(".Store")) {
        None => kind,
        Some("filesystem") => "file",
        Some("vmware_datastore") => "vmware",
        Some(kind) => kind,
    }
}

/// A service as locations have it.
fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_matches('/')
}

/// The options of one store.
struct Options<'a> {
    config: &'a Config,
    /// The sections that may have an option; the first that sets it wins.
    groups: &'a [&'a str],
}

impl<'a> Options<'a> {
    /// An option in the section that sets it.
    fn of(&self, option: Opt<'static>) -> Opt<'a> {
        let in_group = |group: &&'a str| Opt { group, ..option };
        let set = self.groups.iter().map(in_group).find(|option| self.config.is_set(option));
        set.or(self.groups.first().map(in_group)).unwrap_or(option)
    }

    fn optional(&self, option: Opt<'static>) -> Result<Option<Setting<String>>> {
        self.config.optional(&self.of(option))
    }

    fn value(&self, option: Opt<'static>) -> Result<Option<String>> {
        Ok(self.optional(option)?.map(|setting| setting.value))
    }

    fn settings(&self, kind: &str, waits: &Waits) -> Result<Settings> {
        Ok(match kind {
            "file" => Settings::File(self.directories()?),
            "http" => self.web(waits)?,
            "s3" => Settings::S3(self.s3()?),
            "rbd" => Settings::Rbd(rbd::Settings {
                conf: self.value(RBD_STORE_CEPH_CONF)?,
                user: self.value(RBD_STORE_USER)?,
                pool: self.config.text(&self.of(RBD_STORE_POOL))?.value,
                timeout: self.config.integer(&self.of(RADOS_CONNECT_TIMEOUT))?.value,
            }),
            _ => Settings::Unread,
        })
    }

    /// Where a store of files may have them. Its default counts only where no list is set.
    fn directories(&self) -> Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for entry in self.config.every(&self.of(FILESYSTEM_STORE_DATADIRS))? {
            let path = entry.value.rsplit_once(':').map_or(entry.value.as_str(), |(path, _)| path).trim();
            directories.extend(Some(PathBuf::from(path)).filter(|_| !path.is_empty()));
        }
        let single = self.of(FILESYSTEM_STORE_DATADIR);
        if directories.is_empty() || self.config.is_set(&single) {
            // The default of a reserved store has its own name.
            let reserved = self.groups.first().filter(|id| RESERVED.contains(id));
            let default = reserved.map(|id| format!("/var/lib/glance/{id}"));
            let single = Opt { default: default.as_deref().or(single.default), ..single };
            directories.extend(self.config.optional(&single)?.map(|setting| setting.value.into()));
        }
        Ok(directories)
    }

    fn web(&self, waits: &Waits) -> Result<Settings> {
        let insecure = self.config.boolean(&self.of(HTTPS_INSECURE))?;
        let (trust, warning) = match self.value(HTTPS_CA_CERTIFICATES_FILE)? {
            Some(file) => (Trust::Only(file.into()), None),
            None if insecure.value => {
                let warning = format!(
                    "{}: https_insecure is set: servers of images are not verified, anybody on the way can change them",
                    insecure.origin
                );
                (Trust::Anybody, Some(warning))
            }
            None => (Trust::System, None),
        };
        let proxies = self.config.dictionary(&self.of(HTTP_PROXY_INFORMATION))?;
        let proxy = |(scheme, text): (String, String)| {
            let full = if text.contains("://") { text } else { format!("http://{text}") };
            // The value may hold a password, and the parser's message a part of it.
            let url = Url::parse(&full).ok().filter(|url| url.scheme() == "http" && url.has_host());
            let url = url.ok_or_else(|| {
                anyhow!(
                    "{}: http_proxy_information: the proxy for {scheme} is no http proxy (host:port)",
                    proxies.origin
                )
            })?;
            Ok((scheme, url))
        };
        let proxies = proxies.value.into_iter().map(proxy).collect::<Result<_>>()?;
        Ok(Settings::Web { client: Client { trust, proxies, waits: waits.clone() }, warning })
    }

    fn s3(&self) -> Result<s3::Settings> {
        let keys = (self.value(S3_STORE_ACCESS_KEY)?, self.value(S3_STORE_SECRET_KEY)?);
        let format = self.of(S3_STORE_BUCKET_URL_FORMAT);
        Ok(s3::Settings {
            host: self.optional(S3_STORE_HOST)?,
            credentials: keys.0.zip(keys.1),
            region: self.value(S3_STORE_REGION_NAME)?,
            bucket: self.value(S3_STORE_BUCKET)?,
            addressing: self.config.text(&format)?.value,
            trust: self.value(S3_STORE_CACERT)?.map_or(Trust::System, |file| Trust::Only(file.into())),
        })
    }
}
