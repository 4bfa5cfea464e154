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
//!
//! The first location that no store here reads is read through Glance's API, if there are credentials for it
//! and `--via` does not leave it out; Glance tries the others itself. The API is not asked for an image that
//! has a location in Swift with an object of another name than the image's id. A Glance with
//! `swift_store_multi_tenant` would read that object with the rights of our user, who may be allowed more in
//! Swift than the user who added the location.

use std::sync::Arc;

use anyhow::{Context as _, Error, Result, bail};

use super::glance::{ApiAccess, ImageApi, ImageOfGlance, OnlyGlance, Via};
use super::location::shown;
use super::swift_place::{self, SwiftPlace};
use super::{file, rbd, s3, sealed, swift, web};
use crate::config::{Config, ENABLED_BACKENDS, METADATA_ENCRYPTION_KEY, STORES, Setting, WEIGHT};
use crate::database::images::Location;
use crate::names::ImageId;
use crate::net::wire::Waits;
use crate::openstack::keystone::refused::RefusedLogins;
use crate::source::location::store_type;
use crate::source::opened::{Refused, Source};
use crate::source::store::{Options, Readable, Store, Wanted};

/// The types of stores that Glance has, and how a store of each is set up. Another one is a file beside this
/// and a line.
#[rustfmt::skip]
const KINDS: [Kind; 7] = [
    Kind { name: "file", set_up: Some(file::set_up) },
    Kind { name: "http", set_up: Some(web::set_up) },
    Kind { name: "rbd", set_up: Some(rbd::set_up) },
    Kind { name: "s3", set_up: Some(s3::set_up) },
    Kind { name: "swift", set_up: Some(swift::set_up) },
    Kind { name: "cinder", set_up: None },
    Kind { name: "vmware", set_up: None },
];

/// Sets a store up from its options.
type SetUp = fn(&Options<'_>, &Waits) -> Result<Box<dyn Store>>;

/// A type of store.
struct Kind {
    name: &'static str,
    /// Reads the options of one store, or `None` for a type that is not read here.
    set_up: Option<SetUp>,
}

/// All stores of a Glance.
pub(crate) struct Stores {
    /// In the order of the configuration.
    stores: Vec<Configured>,
    /// True if they are those of `enabled_backends`.
    several: bool,
    key: Option<Setting<String>>,
    api: ApiAccess,
    /// True if all images are read through the API.
    only_api: bool,
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
        let (mut stores, refused) = (Vec::new(), &RefusedLogins::default());
        if several {
            let reserved = file::RESERVED.map(|id| (id.to_owned(), "file".to_owned()));
            for (id, kind) in backends.into_iter().chain(reserved) {
                let options = Options { config, groups: &[&id, "backend_defaults"], refused };
                stores.push(Configured::new(&id, &kind, &options, waits)?);
            }
        } else {
            for kind in config.list(&STORES)?.value {
                let options = Options { config, groups: &["glance_store"], refused };
                stores.push(Configured::new(&kind, &kind, &options, waits)?);
            }
        }
        Ok(Stores { stores, several, key, api: ApiAccess::LeftOut, only_api: false })
    }

    /// Returns the ids of the stores of Glance's images that are read through its API only, and the number of
    /// all of them.
    pub(crate) fn read_through_api(&self) -> (Vec<&str>, usize) {
        let of_images = || self.stores.iter().filter(|store| !file::RESERVED.contains(&&*store.id));
        let through_api = of_images().filter(|store| !is_read(&store.kind)).map(|store| &*store.id);
        (through_api.collect(), of_images().count())
    }

    /// Sets the ways to read images. `api` is Glance's API, or the reason why there is none.
    pub(crate) fn reading(self, via: Via, api: Result<ImageApi>) -> Self {
        let api = match (via, api) {
            (Via::Store, _) => ApiAccess::LeftOut,
            (_, Ok(api)) => ApiAccess::Open(Arc::new(api)),
            (_, Err(why)) => ApiAccess::Closed(format!("{why:#}")),
        };
        Stores { api, only_api: via == Via::Api, ..self }
    }

    /// Returns what an image with these locations can be read from, in the order to try: by the weight of
    /// their stores, the highest first, those of equal weight in the order given.
    pub(crate) fn sources(&self, image: ImageOfGlance, locations: &[Location]) -> Vec<Readable> {
        let closed = self.foreign_object(image.id, locations).map(ApiAccess::Closed);
        let api = closed.as_ref().filter(|_| self.api.is_open()).unwrap_or(&self.api);
        if self.only_api {
            return vec![api.source(image, None)];
        }
        let mut weighed: Vec<_> = locations.iter().map(|location| self.read_by(image.id, location)).collect();
        weighed.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let mut is_asked = false;
        let source = |readable: Readable| match readable {
            Err(refused) if refused.error.is::<OnlyGlance>() => {
                let is_first = !std::mem::replace(&mut is_asked, api.is_open());
                is_first.then(|| api.source(image, Some(refused)))
            }
            readable => Some(readable),
        };
        weighed.into_iter().flat_map(|(_, sources)| sources).filter_map(source).collect()
    }

    /// Returns why Glance's API is not asked for an image, if one of its locations in Swift is not of the
    /// object that Glance itself would have stored. Locations with a reference are not looked at: Glance lets
    /// nobody add one.
    fn foreign_object(&self, image: ImageId, locations: &[Location]) -> Option<String> {
        let is_own = |url: &str| {
            let place = swift_place::parse(url);
            place.is_ok_and(|place| {
                matches!(place.account, SwiftPlace::Reference(_)) || place.object == image.as_str()
            })
        };
        let urls = locations.iter().filter_map(|location| self.plain(&location.value).ok());
        let url = urls.into_iter().find(|url| store_type(url) == Some("swift") && !is_own(url))?;
        Some(format!(
            "it is not asked: the name of the object of {} is not the image's id, and Glance could read it \
             with rights in Swift that the image's owner does not have",
            shown(&url)
        ))
    }

    /// Returns the weight of one location, and what it can be read from.
    fn read_by(&self, image: ImageId, location: &Location) -> (i64, Vec<Readable>) {
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
            let wanted = Wanted { image, url: &url, shown: shown(&url), directories: directories.clone() };
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
            bail!(OnlyGlance(
                "it is not a URL of a store that Glance has, or it is encrypted: then \
                 metadata_encryption_key has to be set as it is for glance-api"
                    .to_owned()
            ));
        };
        let opened = sealed::open(&key.value, value).ok().filter(|url| store_type(url).is_some());
        opened.with_context(|| {
            OnlyGlance(format!(
                "it is not a URL of a store that Glance has, and metadata_encryption_key ({}) does not \
                 decrypt it: use the key that glance-api used",
                key.origin
            ))
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
        if of_kind.is_empty() && !is_read(kind) {
            return Err(through_api_only(kind));
        }
        match (of_kind.is_empty(), own.is_empty(), self.several) {
            (true, _, true) => bail!(OnlyGlance(format!(
                "no store of the type {kind} is enabled: add one to enabled_backends"
            ))),
            (true, _, false) => bail!(OnlyGlance(format!(
                "the store type {kind} is not enabled: add it to stores in [glance_store]"
            ))),
            (_, true, _) => Ok(of_kind),
            _ => Ok(own),
        }
    }
}

/// A store of a type that is not read here.
struct Unread(String);

impl Store for Unread {
    fn source(&self, _: Wanted<'_>) -> Result<Box<dyn Source>> {
        Err(through_api_only(&self.0))
    }
}

/// True if stores of this type are read here.
fn is_read(kind: &str) -> bool {
    KINDS.iter().any(|known| known.name == kind && known.set_up.is_some())
}

fn through_api_only(kind: &str) -> Error {
    OnlyGlance(format!("a store of the type {kind} is read through Glance's API only")).into()
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
