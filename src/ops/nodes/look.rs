//! A look at the cache of one node through its API: `list` and `status` with a URL.
//!
//! The API knows images in the index and in the queue, and nothing else: orphans, limits and free space are
//! only seen on the node itself. Its answer is not trusted: ids are escaped, and other keys are ignored.

use std::cmp::Ordering;
use std::time::Duration;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use super::ask::{Asker, Reply};
use super::{check_certificates, find_cloud, no_token, warn_of_exposure};
use crate::exit::Failure;
use crate::host::glance::settings::Selection;
use crate::interrupt::Interrupt;
use crate::names::{ImageId, escaped};
use crate::net::http::Client;
use crate::openstack::cache_api::{CacheCall, NodeStatus, node_url, shown_url};
use crate::openstack::keystone::session::KeystoneSession;
use crate::ops::list::{EntryState, ListRequest, SortKey};
use crate::ops::report::SCHEMA_VERSION;
use crate::output::Report;
use crate::output::rows::{Column, ListCell, Listing, Rank};
use crate::run::Run;
use crate::units::{count, human, moment, nanos};

/// A request to look at a node.
#[derive(Debug)]
pub(crate) struct LookRequest {
    pub(crate) url: String,
    pub(crate) timeout: Duration,
    /// The cloud of clouds.yaml whose credentials are used.
    pub(crate) cloud: Option<String>,
}

/// The body of `GET /v2/cache`.
#[derive(Deserialize)]
struct CacheBody {
    cached_images: Vec<RemoteImage>,
    queued_images: Vec<String>,
}

/// An image as the API has it, with its keys and types.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct RemoteImage {
    image_id: String,
    #[serde(default)]
    hits: i64,
    #[serde(default)]
    last_accessed: f64,
    #[serde(default)]
    last_modified: f64,
    #[serde(default)]
    size: u64,
}

/// The cache of a node, as its API has it.
struct RemoteCache {
    shown: String,
    api_version: Option<String>,
    body: CacheBody,
}

/// Asks a node for its cache. `doing` is what cannot be done if it fails.
fn look(
    run: &Run,
    selection: &Selection,
    request: &LookRequest,
    doing: &str,
) -> Result<RemoteCache, Failure> {
    let shown = shown_url(&request.url);
    let url = node_url(&request.url)
        .map_err(|reason| Failure::usage(anyhow!("cannot use --os-image-url {shown}: {reason}")))?;
    let config = selection.read(run, true)?;
    let cloud = find_cloud(run, Some(&config), request.cloud.as_deref())?;
    let client =
        Client { trust: cloud.reach.trust.clone(), proxies: Vec::new(), waits: cloud.reach.waits.clone() };
    let certificate = cloud.reach.certificate.clone();
    let session = KeystoneSession::new(cloud.login, cloud.reach);
    session.token().map_err(no_token)?;
    check_certificates(&client, certificate.as_ref(), std::iter::once(&url))?;
    warn_of_exposure(run, std::iter::once((&url, shown.as_str())));
    let asker = Asker {
        session: &session,
        client,
        certificate,
        timeout: request.timeout,
        stop: Interrupt::default(),
    };
    let reply = asker.ask(&url, CacheCall::List);
    let body = read_body(reply, &session)
        .map_err(|why| Failure::cannot_start(anyhow!("cannot {doing} {shown}: {why}")))?;
    Ok(RemoteCache { shown, api_version: asker.version(&url), body })
}

/// Returns the images and the queue, or the reason why there are none.
fn read_body(reply: Reply, session: &KeystoneSession) -> Result<CacheBody, String> {
    if reply.status != NodeStatus::Done {
        return Err(format!("{}: {}", reply.status, reply.message.unwrap_or_default()));
    }
    let mut body: CacheBody = serde_json::from_slice(&reply.body)
        .map_err(|_| "its answer is not that of the Cache API".to_owned())?;
    // A name that is no id may be anything, also the token that the node just got.
    let shown = |id: &str| match ImageId::new(id.as_bytes()) {
        Some(_) => id.to_owned(),
        None => escaped(session.without_token(id).as_bytes()),
    };
    for image in &mut body.cached_images {
        image.image_id = shown(&image.image_id);
    }
    for id in &mut body.queued_images {
        *id = shown(id);
    }
    Ok(body)
}

/// Lists the images and the queue of a node.
pub(crate) fn list_node(
    run: &Run,
    selection: &Selection,
    request: &LookRequest,
    list: &ListRequest,
) -> Result<NodeListReport, Failure> {
    let RemoteCache { shown, body, .. } = look(run, selection, request, "list")?;
    let is_named = |id: &str| list.images.iter().any(|named| named.as_str().eq_ignore_ascii_case(id));
    let is_wanted = |id: &str| list.images.is_empty() || is_named(id);
    let shows = |state: EntryState| list.states.is_empty() || list.states.contains(&state);
    let mut cached_images = body.cached_images;
    cached_images.retain(|image| {
        shows(EntryState::Tracked)
            && is_wanted(&image.image_id)
            && list.admits(
                Some(nanos(image.last_accessed)),
                Some(nanos(image.last_modified)),
                Some(image.size),
            )
    });
    let mut queued_images = body.queued_images;
    queued_images.retain(|id| shows(EntryState::Queued) && is_wanted(id) && list.admits(None, None, None));
    cached_images.sort_by(|a, b| {
        let by = match list.order.by {
            SortKey::Image | SortKey::State => Ordering::Equal,
            SortKey::LastUse => a.last_accessed.total_cmp(&b.last_accessed),
            SortKey::Modified => a.last_modified.total_cmp(&b.last_modified),
            SortKey::Size => a.size.cmp(&b.size),
            SortKey::Hits => a.hits.cmp(&b.hits),
        };
        let by = by.then_with(|| a.image_id.cmp(&b.image_id));
        if list.order.reverse { by.reverse() } else { by }
    });
    let limit = list.limit.unwrap_or(usize::MAX);
    cached_images.truncate(limit);
    queued_images.truncate(limit - cached_images.len());
    Ok(NodeListReport { schema_version: SCHEMA_VERSION, node: shown, cached_images, queued_images })
}

/// The images and the queue of a node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeListReport {
    schema_version: u32,
    node: String,
    cached_images: Vec<RemoteImage>,
    queued_images: Vec<String>,
}

impl NodeListReport {
    /// True if an image is in the cache or in the queue.
    pub(crate) fn has(&self, id: &str) -> bool {
        let cached = self.cached_images.iter().map(|image| &image.image_id);
        cached.chain(&self.queued_images).any(|found| found.eq_ignore_ascii_case(id))
    }
}

impl Listing for NodeListReport {
    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::text("image_id", "IMAGE", Rank::Always),
                Column::text("state", "STATE", Rank::Always),
                Column::text("last_use", "LAST USE", Rank::Always),
                Column::text("modified", "MODIFIED", Rank::Spare(2)),
                Column::number("size", "SIZE", Rank::Always),
                Column::number("hits", "HITS", Rank::Spare(1)),
            ]
        }
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
        let cached = self.cached_images.iter().map(|image| {
            vec![
                ListCell::text(&image.image_id),
                ListCell::text(EntryState::Tracked.name()),
                ListCell::Time(nanos(image.last_accessed)),
                ListCell::Time(nanos(image.last_modified)),
                ListCell::Size(image.size),
                ListCell::Number(image.hits),
            ]
        });
        let queued = self.queued_images.iter().map(|id| {
            let unknown = std::iter::repeat_with(|| ListCell::Unknown).take(4);
            [ListCell::text(id), ListCell::text(EntryState::Queued.name())]
                .into_iter()
                .chain(unknown)
                .collect()
        });
        Box::new(cached.chain(queued))
    }
}

/// Reports the state of a node's cache, as far as its API knows it.
pub(crate) fn status_of_node(
    run: &Run,
    selection: &Selection,
    request: &LookRequest,
    human: bool,
) -> Result<NodeStatusReport, Failure> {
    let RemoteCache { shown, api_version, body } = look(run, selection, request, "get the status of")?;
    let images = &body.cached_images;
    let uses = || {
        let uses = images.iter().map(|image| nanos(image.last_accessed));
        uses.filter_map(|time| Some((time, moment(time)?)))
    };
    Ok(NodeStatusReport {
        schema_version: SCHEMA_VERSION,
        node: shown,
        api_version,
        images: images.len() as u64,
        bytes: images.iter().map(|image| image.size).fold(0, u64::saturating_add),
        hits: images.iter().map(|image| image.hits).fold(0, i64::saturating_add),
        queued: body.queued_images.len() as u64,
        oldest_use: uses().min().map(|(_, time)| time),
        newest_use: uses().max().map(|(_, time)| time),
        human,
    })
}

/// The state of a node's cache. Sizes are in bytes, times RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatusReport {
    schema_version: u32,
    node: String,
    api_version: Option<String>,
    images: u64,
    bytes: u64,
    hits: i64,
    queued: u64,
    oldest_use: Option<String>,
    newest_use: Option<String>,
    #[serde(skip)]
    human: bool,
}

impl Report for NodeStatusReport {
    fn text(&self) -> String {
        let size = if self.human { human(self.bytes) } else { self.bytes.to_string() };
        let used = match (&self.oldest_use, &self.newest_use) {
            (Some(oldest), Some(newest)) => format!("{oldest} to {newest}"),
            _ => "-".to_owned(),
        };
        let version = self.api_version.as_deref().unwrap_or("unknown");
        format!(
            "node     {}\nversion  {version}\nimages   {}, {size}\nqueued   {}\nused     {used}\n",
            self.node,
            count(self.images, "image"),
            self.queued
        )
    }
}
