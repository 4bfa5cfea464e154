//! Images through Glance's own API, `GET /v2/images/ID/file`: whatever store has them.
//!
//! Any node can be asked. A node that is asked for an image caches it, as for anybody; the node itself does
//! not do it a second time, because our claim in `incomplete/` tells its middleware that the image is being
//! cached already. A stream that breaks is resumed as long as `Content-MD5` is the same, if the image's store
//! can be read from the middle.

use std::fmt;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow, ensure};
use percent_encoding::percent_decode_str;
use url::Url;

use super::download::{self, BusyServers, Proof, Proving};
use super::logged_in::{LoggedIn, ServiceAnswer};
use crate::names::{ImageId, escaped};
use crate::net::http::{Client, Response};
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::openstack::cache_api::{NodeAnswer, node_url, shown_url};
use crate::openstack::clouds::Cloud;
use crate::openstack::keystone::catalog::{EndpointSettings, ServiceSought};
use crate::openstack::keystone::session::KeystoneSession;
use crate::openstack::keystone::wire::SilentServers;
use crate::openstack::secret::Secret;
use crate::source::opened::{Opened, Refused, Source};
use crate::source::store::Readable;

/// The ways to read images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Via {
    /// From their stores, and through Glance's API what cannot be read from there.
    #[default]
    Auto,
    /// From their stores only.
    Store,
    /// Through Glance's API only.
    Api,
}

/// An image as Glance's record has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageOfGlance {
    pub(crate) id: ImageId,
    /// In bytes.
    pub(crate) size: Option<u64>,
}

/// Glance's API, with the credentials for it.
pub(crate) struct ImageApi {
    service: LoggedIn,
    /// The address that takes the place of the catalogue's.
    endpoint: Option<Url>,
    interface: String,
    region: Option<String>,
    settings: EndpointSettings,
    /// The variable that has the token, where it is not from a login.
    given_token: Option<String>,
    warning: Option<String>,
}

/// A location that Glance can read and nothing here can.
#[derive(Debug)]
pub(super) struct OnlyGlance(pub(super) String);

impl fmt::Display for OnlyGlance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OnlyGlance {}

/// Glance's API as the stores of a run know it.
pub(super) enum ApiAccess {
    /// Left out by `--via store`.
    LeftOut,
    /// There are no credentials, for this reason.
    Closed(String),
    Open(Arc<ImageApi>),
}

impl ImageApi {
    /// Returns the API of a cloud. Asks for nothing yet. `waits` are those for an image.
    pub(crate) fn new(cloud: Cloud, waits: &Waits) -> Self {
        let Cloud { login, mut reach, region, interface, image_endpoint, settings, source } = cloud;
        reach.silent = Some(SilentServers::default());
        let warning = (reach.trust == Trust::Anybody).then(|| {
            format!(
                "{source} switches the verification of certificates off: anybody on the way to Keystone and \
                 Glance can read the token and change the images"
            )
        });
        let client = Client { trust: reach.trust.clone(), proxies: Vec::new(), waits: waits.clone() };
        let given_token = login.is_given_token().then_some(source);
        let certificate = reach.certificate.clone();
        let session = Arc::new(KeystoneSession::new(login, reach));
        let service = LoggedIn { session, client, certificate, busy: BusyServers::default() };
        ImageApi { service, endpoint: image_endpoint, interface, region, settings, given_token, warning }
    }

    /// Returns the URL of an image's data.
    fn url(&self, image: ImageId) -> Result<Url> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.service.endpoint(&ServiceSought {
                service_type: "image",
                interface: &self.interface,
                region: self.region.as_deref(),
                settings: self.settings,
            })?,
        };
        let mut url = node_url(endpoint.as_str())
            .map_err(|why| anyhow!("cannot use Glance's address {}: {why}", shown_url(endpoint.as_str())))?;
        let path = format!("{}/v2/images/{image}/file", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(url)
    }
}

impl ApiAccess {
    /// True if the API can be asked.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, ApiAccess::Open(_))
    }

    /// Returns what an image is read from for a location that only Glance reads; without a location, for all
    /// of them.
    pub(super) fn source(&self, image: ImageOfGlance, location: Option<Refused>) -> Readable {
        let name = "Glance's API";
        let why = match self {
            ApiAccess::Open(api) => {
                let of = |location: Refused| format!("{} (through {name})", location.shown);
                let shown = location.map_or_else(|| name.to_owned(), of);
                return Ok(Box::new(ApiSource { shown, image, api: Arc::clone(api) }));
            }
            ApiAccess::LeftOut => "--via store leaves it out",
            ApiAccess::Closed(why) => why,
        };
        Err(match location {
            None => Refused { shown: name.to_owned(), error: anyhow!("{why}") },
            Some(Refused { shown, error }) => {
                Refused { shown, error: anyhow!("{error:#}; {name} could give the image, but {why}") }
            }
        })
    }
}

/// An image of Glance's API.
struct ApiSource {
    shown: String,
    image: ImageOfGlance,
    api: Arc<ImageApi>,
}

impl Source for ApiSource {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn warning(&self) -> Option<&str> {
        self.api.warning.as_deref()
    }

    fn open(&self) -> Result<Opened> {
        let url = self.api.url(self.image.id)?;
        let waits = self.api.service.client.waits.clone();
        let api = Arc::clone(&self.api);
        let ask = move |rest: Option<(u64, &str)>| ask(&api, &url, rest.map(|(from, _)| from));
        // With its cache switched on, Glance does not say how long an image is, and a break would look like
        // the end.
        download::open(Box::new(ask), waits, BY_CHECKSUM, self.image.size)
    }
}

/// Glance does not honour `If-Range`, and its checksum is that of the whole image in each answer.
const BY_CHECKSUM: Proving =
    Proving { find: checksum, lacking: "Glance gives no Content-MD5", is_repeated: true };

fn checksum(response: &Response) -> Option<Proof> {
    let value = response.header("content-md5")?.to_owned();
    Some(Proof { header: "content-md5", value })
}

fn ask(api: &ImageApi, url: &Url, from: Option<u64>) -> Result<Response> {
    let ServiceAnswer { response, token } = api.service.get(url, from)?;
    match response.status {
        200 => {
            let kind = response.header("content-type").unwrap_or_default();
            let is_page = kind.starts_with("text/") || kind.starts_with("application/json");
            ensure!(
                !is_page,
                "{} answers with a page ({}) in place of the image: is Glance's API there?",
                shown_url(url.as_str()),
                escaped(kind.as_bytes())
            );
            Ok(response)
        }
        // Not every store of Glance can be read from the middle: then it answers one of the last two.
        206 | 416 | 400 | 501 if from.is_some() => Ok(response),
        401 if let Some(source) = &api.given_token => Err(download::refused(
            401,
            format!(
                "{} answers 401 ({source} is expired or revoked, or is of another cloud)",
                shown_url(url.as_str())
            ),
        )),
        _ => Err(refusal(url, response, token)),
    }
}

/// Returns the error for a status that is not a success: its meaning, and what to do.
fn refusal(url: &Url, response: Response, token: Secret) -> Error {
    let status = response.status;
    let place = shown_url(url.as_str());
    let meaning = match status {
        204 => "the image has no data: its store has lost it".to_owned(),
        301 | 302 | 303 | 307 | 308 => "it redirects, which is not followed with a token".to_owned(),
        401 => "it refuses our token, also a new one".to_owned(),
        403 => "these credentials may not download the image: use those of an administrator".to_owned(),
        404 => "there is no such image, or these credentials may not see it".to_owned(),
        status if download::is_busy(status) => download::busy(&response),
        _ => words(response, token),
    };
    let meaning = if meaning.is_empty() { meaning } else { format!(" ({meaning})") };
    download::refused(status, format!("{place} answers {status}{meaning}"))
}

/// Returns Glance's own words about a failure, if there are any that may be shown.
fn words(response: Response, token: Secret) -> String {
    let answer = NodeAnswer { status: response.status, token, ..NodeAnswer::default() };
    let answer = NodeAnswer { body: response.message().into_bytes(), ..answer };
    let words = answer.words();
    let words = words.strip_prefix(&format!("it answers {}", answer.status)).unwrap_or_default();
    if may_be_location(words) { String::new() } else { words.trim_start_matches(": ").to_owned() }
}

/// True if a text may repeat a location, with its credentials, in whatever code: of URLs, of HTML or of JSON.
fn may_be_location(text: &str) -> bool {
    // These two are quotes, which Glance's own pages have.
    let mut plain = text.to_lowercase().replace("&#x27;", "").replace("&#39;", "").replace('\\', "");
    // A text can be coded twice.
    for _ in 0..3 {
        plain = percent_decode_str(&plain).decode_utf8_lossy().into_owned();
    }
    ["@", "://", "&#", "&commat", "&colon", "&sol", "u0040", "u003a", "u002f"]
        .iter()
        .any(|part| plain.contains(part))
}
