//! The configured stores, and which of them a location is read by.
//!
//! With `enabled_backends` there is a section for each store, and `[backend_defaults]` has what a section
//! leaves out. Without it, each of the types in `stores` is one store with all its options in
//! `[glance_store]`. Values are judged once, when the configuration is read; an option that a store lacks is
//! reported when a location needs it.
//!
//! A location is read by the store that its row names. Where that is unknown or of another type, it is read
//! by the stores whose own locations begin as it does, and where there are none, by all of its type, one
//! after the other. A file may be in a directory of any of them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::location::shown;
use super::{Refused, Source, file, rbd, s3, sealed, web};
use crate::config::{Config, ENABLED_BACKENDS, METADATA_ENCRYPTION_KEY, Opt, STORES, Setting, WEIGHT};
use crate::database::images::Location;
use crate::net::wire::Waits;

/// The types of stores that Glance has, and how a store of each is set up. Another one is a file beside this
/// and a line.
#[rustfmt::skip]
const KINDS: [Kind; 7] = [
    Kind { name: "file", schemes: &["file", "filesystem"], set_up: Some(file::set_up) },
    Kind { name: "http", schemes: &["http", "https"], set_up: Some(web::set_up) },
    Kind { name: "rbd", schemes: &["rbd"], set_up: Some(rbd::set_up) },
    Kind { name: "s3", schemes: &["s3", "s3+http", "s3+https"], set_up: Some(s3::set_up) },
    Kind { name: "swift", schemes: &["swift", "swift+http", "swift+https", "swift+config"], set_up: None },
    Kind { name: "cinder", schemes: &["cinder"], set_up: None },
    Kind { name: "vmware", schemes: &["vsphere"], set_up: None },
];

/// Sets a store up from its options.
type SetUp = fn(&Options<'_>, &Waits) -> Result<Box<dyn Store>>;

/// A type of store.
struct Kind {
    name: &'static str,
    /// Those of its locations.
    schemes: &'static [&'static str],
    /// Reads the options of one store, or `None` for a type that is not read here.
    set_up: Option<SetUp>,
}

/// A configured store.
pub(super) trait Store: Send + Sync {
    /// Returns the directories of a store of files. A location of several such stores may be in any of
    /// theirs.
    fn directories(&self) -> &[PathBuf] {
        &[]
    }

    /// True if the store's own locations begin as this one does.
    fn owns(&self, _url: &str) -> bool {
        false
    }

    /// Returns what a location is read from. Opens nothing.
    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>>;
}

/// A location that a store is to read.
pub(super) struct Wanted<'a> {
    /// Decrypted, of one of the schemes of the store's type.
    pub(super) url: &'a str,
    /// Without credentials.
    pub(super) shown: String,
    /// Directories of all stores that may have it.
    pub(super) directories: Vec<PathBuf>,
}

/// A location as one store reads it, or the reason why it does not.
pub(crate) type Readable = Result<Box<dyn Source>, Refused>;

/// All stores of a Glance.
pub(crate) struct Stores {
    /// In the order of the configuration.
    stores: Vec<Configured>,
    /// True if they are those of `enabled_backends`.
    several: bool,
    key: Option<Setting<String>>,
}

struct Configured {
    /// The store's id; without `enabled_backends` its type.
    id: String,
    kind: String,
    weight: i64,
    store: Box<dyn Store>,
}

impl Configured {
    fn new(id: &str, kind: &str, options: &Options<'_>, waits: &Waits) -> Result<Self> {
        let kind = short(kind);
        let weight = options.config.integer(&options.of(WEIGHT))?.value;
        let set_up = KINDS.iter().find(|known| known.name == kind).and_then(|known| known.set_up);
        let store = match set_up {
            Some(set_up) => set_up(options, waits)?,
            None => Box::new(Unread(kind.to_owned())),
        };
        Ok(Configured { id: id.to_owned(), kind: kind.to_owned(), weight, store })
    }
}

impl Stores {
    /// Reads the settings of all stores. Opens nothing but the configuration.
    pub(crate) fn from_config(config: &Config, waits: &Waits) -> Result<Self> {
        let key = config.optional(&METADATA_ENCRYPTION_KEY)?;
        if let Some(key) = &key {
            sealed::check_key(&key.value)
                .with_context(|| format!("{}: metadata_encryption_key is not a key", key.origin))?;
        }
        let backends = config.dictionary(&ENABLED_BACKENDS)?.value;
        let several = !backends.is_empty();
        let mut stores = Vec::new();
        if several {
            let reserved = file::RESERVED.map(|id| (id.to_owned(), "file".to_owned()));
            for (id, kind) in backends.into_iter().chain(reserved) {
                let options = Options { config, groups: &[&id, "backend_defaults"] };
                stores.push(Configured::new(&id, &kind, &options, waits)?);
            }
        } else {
            for kind in config.list(&STORES)?.value {
                let options = Options { config, groups: &["glance_store"] };
                stores.push(Configured::new(&kind, &kind, &options, waits)?);
            }
        }
        Ok(Stores { stores, several, key })
    }

    /// Returns what the locations of an image can be read from, in the order to try: by the weight of their
    /// stores, the highest first, those of equal weight in the order given.
    pub(crate) fn sources(&self, locations: &[Location]) -> Vec<Readable> {
        let mut weighed: Vec<_> = locations.iter().map(|location| self.read_by(location)).collect();
        weighed.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        weighed.into_iter().flat_map(|(_, sources)| sources).collect()
    }

    /// Returns the weight of one location, and what it can be read from.
    fn read_by(&self, location: &Location) -> (i64, Vec<Readable>) {
        let named =
            self.stores.iter().find(|store| self.several && location.store.as_ref() == Some(&store.id));
        let weight = named.map_or(0, |store| store.weight);
        let url = match self.plain(&location.value) {
            Ok(url) => url,
            Err(error) => return (weight, vec![Err(Refused { shown: shown(&location.value), error })]),
        };
        let refused = |error| Refused { shown: shown(&url), error };
        let mut stores = match self.choose(&url, named) {
            Ok(stores) => stores,
            Err(error) => return (weight, vec![Err(refused(error))]),
        };
        let directories: Vec<_> =
            stores.iter().flat_map(|store| store.store.directories().to_owned()).collect();
        if !directories.is_empty() {
            // One look in all of them is enough.
            stores.truncate(1);
        }
        let source = |store: &Configured| {
            let wanted = Wanted { url: &url, shown: shown(&url), directories: directories.clone() };
            store.store.source(wanted).map_err(refused)
        };
        (weight, stores.into_iter().map(source).collect())
    }

    /// Returns a row's URL, decrypted where it is encrypted.
    fn plain(&self, value: &str) -> Result<String> {
        if store_type(value).is_some() {
            return Ok(value.to_owned());
        }
        let Some(key) = &self.key else {
            bail!(
                "it is not a URL of a store that Glance has, or it is encrypted: then \
                 metadata_encryption_key has to be set as it is for glance-api"
            );
        };
        let opened = sealed::open(&key.value, value).ok().filter(|url| store_type(url).is_some());
        opened.with_context(|| {
            format!(
                "it is not a URL of a store that Glance has, and metadata_encryption_key ({}) does not \
                 decrypt it: use the key that glance-api used",
                key.origin
            )
        })
    }

    /// Returns the stores to read a location by, in order.
    fn choose<'a>(&'a self, url: &str, named: Option<&'a Configured>) -> Result<Vec<&'a Configured>> {
        let kind = store_type(url).unwrap_or_default();
        if let Some(store) = named.filter(|store| store.kind == kind) {
            return Ok(vec![store]);
        }
        let of_kind: Vec<_> = self.stores.iter().filter(|store| store.kind == kind).collect();
        let own: Vec<_> = of_kind.iter().copied().filter(|store| store.store.owns(url)).collect();
        match (of_kind.is_empty(), own.is_empty(), self.several) {
            (true, _, true) => bail!("no store of the type {kind} is enabled: add one to enabled_backends"),
            (true, _, false) => {
                bail!("the store type {kind} is not enabled: add it to stores in [glance_store]")
            }
            (_, true, _) => Ok(of_kind),
            _ => Ok(own),
        }
    }
}

/// A store of a type that is not read here.
struct Unread(String);

impl Store for Unread {
    fn source(&self, _: Wanted<'_>) -> Result<Box<dyn Source>> {
        let readable: Vec<_> =
            KINDS.iter().filter(|kind| kind.set_up.is_some()).map(|kind| kind.name).collect();
        bail!(
            "stores of the type {} are not read by this tool yet: let glance-api cache the image (boot from \
             it, or PUT /v2/cache/ID), or copy it to a store of one of the types {}",
            self.0,
            readable.join(", ")
        )
    }
}

/// Returns the type of store for a URL, or `None` if it is not a URL of a scheme that Glance has.
pub(super) fn store_type(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once("://")?;
    KINDS.iter().find(|kind| kind.schemes.contains(&scheme)).map(|kind| kind.name)
}

/// Returns a type of store by its usual name.
fn short(kind: &str) -> &str {
    match kind.strip_prefix("glance.store.").and_then(|kind| kind.strip_suffix(".Store")) {
        None => kind,
        Some("filesystem") => "file",
        Some("vmware_datastore") => "vmware",
        Some(kind) => kind,
    }
}

/// The options of one store.
pub(super) struct Options<'a> {
    pub(super) config: &'a Config,
    /// The sections that may have an option; the first that sets it wins.
    pub(super) groups: &'a [&'a str],
}

impl<'a> Options<'a> {
    /// Returns an option in the section that sets it.
    pub(super) fn of(&self, option: Opt<'static>) -> Opt<'a> {
        let in_group = |group: &&'a str| Opt { group, ..option };
        let set = self.groups.iter().map(in_group).find(|option| self.config.is_set(option));
        set.or(self.groups.first().map(in_group)).unwrap_or(option)
    }

    /// Returns the setting of an option that may be missing.
    pub(super) fn optional(&self, option: Opt<'static>) -> Result<Option<Setting<String>>> {
        self.config.optional(&self.of(option))
    }

    /// Returns the value of an option that may be missing.
    pub(super) fn value(&self, option: Opt<'static>) -> Result<Option<String>> {
        Ok(self.optional(option)?.map(|setting| setting.value))
    }
}
