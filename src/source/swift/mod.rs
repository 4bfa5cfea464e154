//! Images in Swift, and in services that speak its protocol behind a Keystone.
//!
//! The object is read with a token of Keystone (version 3), at the endpoint of the catalogue or at
//! `swift_store_endpoint`. All images of a store share the sessions of its accounts. Credentials that are in
//! a location go to the Keystone of that location; those of the store go to the store's own Keystone and to
//! no other. Keys in old locations may have been replaced: where a location's key is refused, that of the
//! store takes its place, for the same user of the same project at the same Keystone.
//!
//! Users who may add locations to an image can name any object there, and any user. So the store's own
//! account stands in for a location's login only if the object is the image's own, which has the image's id:
//! nobody but Glance can write such an object into the store's account.
//!
//! A large object is one object here: Swift joins its segments. A stream that breaks is resumed as long as
//! the `ETag` is the same.

mod account;
#[cfg(test)]
mod login_tests;
mod references;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Error, Result, anyhow};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use self::account::SwiftAccount;
use self::references::References;
use super::download::{self, BusyServers, Proof, Proving};
use super::glance::OnlyGlance;
use super::logged_in::LoggedIn;
use super::swift_place::{SwiftLocation, SwiftPlace, parse};
use crate::config::{
    SWIFT_STORE_AUTH_INSECURE, SWIFT_STORE_CACERT, SWIFT_STORE_ENDPOINT, SWIFT_STORE_ENDPOINT_TYPE,
    SWIFT_STORE_REGION, SWIFT_STORE_SERVICE_TYPE,
};
use crate::names::ImageId;
use crate::net::http::{Client, Response};
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::openstack::cache_api::shown_url;
use crate::openstack::keystone::catalog::{EndpointSettings, ServiceSought};
use crate::openstack::keystone::error::Unhelpful;
use crate::openstack::keystone::login::{Login, service_url};
use crate::openstack::keystone::refused::RefusedLogins;
use crate::openstack::keystone::session::KeystoneSession;
use crate::openstack::keystone::wire::{Reach, SilentServers};
use crate::source::opened::{Opened, Source};
use crate::source::store::{Options, Store, Wanted};

/// A store of images in Swift.
struct SwiftStore {
    /// The accounts, or the reason why there are none.
    references: Result<References, String>,
    /// The place of the objects, or the reason why it is not known.
    address: Result<SwiftAddress, String>,
    client: Client,
    warning: Option<String>,
    /// The logins that were needed so far.
    sessions: Mutex<Vec<(Login, Arc<KeystoneSession>)>>,
    silent: SilentServers,
    refused: RefusedLogins,
    busy: BusyServers,
}

/// The place of the objects of an account.
#[derive(Clone)]
enum SwiftAddress {
    Given(Url),
    InCatalog { service_type: String, interface: String, region: Option<String> },
}

impl SwiftAddress {
    /// True if it is the root of Swift and not an account. radosgw can be set to need none.
    fn lacks_account(&self) -> bool {
        let SwiftAddress::Given(url) = self else { return false };
        let path = url.path().trim_end_matches('/');
        path.is_empty() || path.ends_with("/v1") || path.ends_with("/v1.0")
    }
}

/// Reads the options of a store.
pub(super) fn set_up(options: &Options<'_>, waits: &Waits) -> Result<Box<dyn Store>> {
    let insecure = options.config.boolean(&options.of(SWIFT_STORE_AUTH_INSECURE))?;
    let (trust, warning) = match options.value(SWIFT_STORE_CACERT)? {
        _ if insecure.value => {
            let warning = format!(
                "{}: swift_store_auth_insecure is set: Keystone and Swift are not verified, and anybody on \
                 the way to them can read the key and change the images",
                insecure.origin
            );
            (Trust::Anybody, Some(warning))
        }
        Some(file) => (Trust::Only(file.into()), None),
        None => (Trust::System, None),
    };
    let address = match options.optional(SWIFT_STORE_ENDPOINT)? {
        Some(endpoint) => {
            let why = |error| format!("{}: cannot use swift_store_endpoint: {error:#}", endpoint.origin);
            service_url(&endpoint.value).map(SwiftAddress::Given).map_err(why)
        }
        None => Ok(SwiftAddress::InCatalog {
            service_type: options.config.text(&options.of(SWIFT_STORE_SERVICE_TYPE))?.value,
            interface: options.config.text(&options.of(SWIFT_STORE_ENDPOINT_TYPE))?.value,
            region: options.value(SWIFT_STORE_REGION)?,
        }),
    };
    Ok(Box::new(SwiftStore {
        references: References::read(options).map_err(|error| format!("{error:#}")),
        address,
        client: Client { trust, proxies: Vec::new(), waits: waits.clone() },
        warning,
        sessions: Mutex::default(),
        silent: SilentServers::default(),
        refused: options.refused.clone(),
        busy: BusyServers::default(),
    }))
}

impl Store for SwiftStore {
    fn owns(&self, url: &str) -> bool {
        let (Ok(location), Ok(references)) = (parse(url), &self.references) else { return false };
        match location.account {
            SwiftPlace::Reference(name) => references.has(&name),
            SwiftPlace::OfUser { auth_url, .. } => {
                references.default().is_some_and(|account| is_same_keystone(account.auth_url(), &auth_url))
            }
            SwiftPlace::StorageUrl(url) => {
                references.unwritten_at(&url).is_some()
                    || matches!(&self.address, Ok(SwiftAddress::Given(own)) if url.starts_with(own.as_str()))
            }
        }
    }

    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>> {
        let location = parse(wanted.url)?;
        let accounts = self.accounts(&location, wanted.image)?;
        let session = self.session(&accounts.first)?;
        let own = accounts.own.as_ref().and_then(|own| {
            Some(OwnLogin { session: self.session(own).ok()?, place: own.place().to_owned() })
        });
        Ok(Box::new(SwiftSource {
            shown: wanted.shown,
            warning: self.warning.clone(),
            session,
            own,
            address: self.address.clone().map_err(|why| anyhow!(why))?,
            busy: self.busy.clone(),
            location,
            client: self.client.clone(),
        }))
    }
}

impl SwiftStore {
    /// Returns the accounts that an object may be read with.
    fn accounts(&self, location: &SwiftLocation, image: ImageId) -> Result<Accounts> {
        let references = || self.references.as_ref().map_err(|why| anyhow!("{why}"));
        let is_images_own = location.object == image.as_str();
        match &location.account {
            SwiftPlace::Reference(name) => {
                Ok(Accounts { first: references()?.get(name)?.clone(), own: None })
            }
            SwiftPlace::OfUser { auth_url, user, key } => {
                let own = references().ok().and_then(References::default);
                let first = SwiftAccount::of_location(auth_url, user, key, own)?;
                let is_same_user = |own: &&SwiftAccount| {
                    is_same_keystone(own.auth_url(), auth_url) && own.is_same_user_with_another_key(&first)
                };
                let own = own.filter(|_| is_images_own).filter(is_same_user).cloned();
                Ok(Accounts { first, own })
            }
            SwiftPlace::StorageUrl(url) => {
                let own = references().ok().and_then(|references| references.unwritten_at(url));
                let first = own.filter(|_| is_images_own).cloned().ok_or_else(|| {
                    OnlyGlance(
                        "it has no credentials, as in a store with swift_store_multi_tenant, which is read \
                         through Glance's API only"
                            .to_owned(),
                    )
                })?;
                Ok(Accounts { first, own: None })
            }
        }
    }

    /// Returns the session of an account, which all images share.
    fn session(&self, account: &SwiftAccount) -> Result<Arc<KeystoneSession>> {
        let login = account.login()?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, session)) = sessions.iter().find(|(known, _)| *known == login) {
            return Ok(Arc::clone(session));
        }
        let (trust, silent) = (self.client.trust.clone(), Some(self.silent.clone()));
        let refused = self.refused.clone();
        let reach = Reach { trust, silent, refused, ..Reach::new(self.client.waits.clone()) };
        let session = Arc::new(KeystoneSession::new(login.clone(), reach));
        sessions.push((login, Arc::clone(&session)));
        Ok(session)
    }
}

/// True if two addresses are of the same server.
fn is_same_keystone(one: &str, other: &str) -> bool {
    let origin = |text| Url::parse(text).ok().map(|url| url.origin());
    origin(one).is_some_and(|one| Some(one) == origin(other))
}

/// The accounts that an object may be read with.
struct Accounts {
    first: SwiftAccount,
    /// The store's own, if the first is the same user with a key that may be an old one.
    own: Option<SwiftAccount>,
}

/// The login of the store's own account.
struct OwnLogin {
    session: Arc<KeystoneSession>,
    /// The file and the section that it is from, as messages name them.
    place: String,
}

/// An object in Swift.
struct SwiftSource {
    shown: String,
    warning: Option<String>,
    session: Arc<KeystoneSession>,
    own: Option<OwnLogin>,
    address: SwiftAddress,
    busy: BusyServers,
    location: SwiftLocation,
    client: Client,
}

impl Source for SwiftSource {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn open(&self) -> Result<Opened> {
        // Nothing was asked of Swift yet: another login may be accepted.
        let Err(refusal) = self.session.token() else { return self.read(&self.session) };
        let Some(own) = self.own.as_ref().filter(|_| refusal.kind == Unhelpful::Refused) else {
            return Err(refusal.into());
        };
        let opened = own.session.token().map_err(Error::from).and_then(|_| self.read(&own.session));
        let place = &own.place;
        let opened = opened.map_err(|error| {
            anyhow!("{refusal}; with the key of {place}, which is another one: {error:#}")
        })?;
        let warning = format!(
            "images are read with the key of {place}, because the key in their locations is another one and \
             is refused: {refusal}"
        );
        Ok(Opened { warning: Some(warning), ..opened })
    }
}

impl SwiftSource {
    fn read(&self, session: &Arc<KeystoneSession>) -> Result<Opened> {
        let service = LoggedIn {
            session: Arc::clone(session),
            client: self.client.clone(),
            certificate: None,
            busy: self.busy.clone(),
        };
        let url = self.url(session)?;
        let waits = self.client.waits.clone();
        let endpoint = self.address.clone();
        let ask = move |rest: Option<(u64, &str)>| ask(&service, &url, rest.map(|(from, _)| from), &endpoint);
        download::open(Box::new(ask), waits, BY_ETAG, None)
    }

    /// Returns the URL of the object.
    fn url(&self, session: &KeystoneSession) -> Result<Url> {
        let mut url = match &self.address {
            SwiftAddress::Given(url) => url.clone(),
            SwiftAddress::InCatalog { service_type, interface, region } => {
                let region = region.as_deref();
                session.endpoint(&ServiceSought { service_type, interface, region, settings: SETTINGS })?
            }
        };
        let SwiftLocation { container, object, .. } = &self.location;
        let coded = |name: &str| utf8_percent_encode(name, CODED).to_string();
        let account = url.path().trim_end_matches('/');
        url.set_path(&format!("{account}/{}/{}", coded(container), coded(object)));
        Ok(url)
    }
}

/// The characters of a name that are coded in a URL.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The options that choose an endpoint.
const SETTINGS: EndpointSettings =
    EndpointSettings { region: "swift_store_region", address: "swift_store_endpoint" };

/// Each answer has the tag again. It is not sent (`If-Match`), because radosgw compares it with that of the
/// list of segments, and refuses its own.
const BY_ETAG: Proving =
    Proving { find: etag, lacking: "the server gives no ETag that proves it", is_repeated: true };

/// The `ETag` of nothing, which radosgw gives to each list of segments.
const OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

fn etag(response: &Response) -> Option<Proof> {
    let value = response.header("etag").filter(|tag| !tag.is_empty() && !tag.starts_with("W/"))?;
    let header = if value.trim_matches('"') == OF_NOTHING { "x-timestamp" } else { "etag" };
    Some(Proof { header, value: response.header(header)?.to_owned() })
}

fn ask(service: &LoggedIn, url: &Url, from: Option<u64>, address: &SwiftAddress) -> Result<Response> {
    let response = service.get(url, from)?.response;
    match response.status {
        200 => Ok(response),
        206 | 416 if from.is_some() => Ok(response),
        _ => Err(refusal(url, &response, address)),
    }
}

/// Returns the error for a status that is not a success: its meaning, and what to do.
fn refusal(url: &Url, response: &Response, address: &SwiftAddress) -> Error {
    let status = response.status;
    let meaning = match status {
        400..=499 if !download::is_busy(status) && address.lacks_account() => {
            "does swift_store_endpoint lack the account at its end, as in /v1/AUTH_PROJECT?"
        }
        401 => "it refuses our token, also a new one",
        403 => "the user of the account may not read it",
        404 => "it is not there: are the account, the region and the endpoint right?",
        409 => "a segment of it is missing, or has changed",
        status if download::is_busy(status) => &download::busy(response),
        301 | 302 | 303 | 307 | 308 => "it redirects, which is not followed with a token",
        _ => "",
    };
    let meaning = if meaning.is_empty() { String::new() } else { format!(" ({meaning})") };
    download::refused(status, format!("{} answers {status}{meaning}", shown_url(url.as_str())))
}
