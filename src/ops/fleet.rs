//! All nodes in the central database: `status --all-nodes`, `list --all-nodes`, `list --image` and
//! `clean --forget-node`.
//!
//! No cache directory is opened, so that this also works on another host. `forget` deletes the rows of a node
//! in portions and the node last. After a crash, the node and the rest of its rows are still there, and it
//! can be repeated.

use std::cmp::Ordering;
use std::fmt::Write as _;

use anyhow::anyhow;
use serde::Serialize;

use super::Change;
use super::list::{EntryState, ListReport, ListRequest, SortKey};
use super::report::{ChangeReport, Ending, SCHEMA_VERSION, Step, human_or_unknown};
use crate::cache::index::Driver;
use crate::cache::outcome::{Action, EntryError};
use crate::config::{Config, Origin, Setting};
use crate::database::Database;
use crate::database::nodes::{Copies, NodeSummary, Placement};
use crate::database::opening::Purpose;
use crate::database::refusal::Refusal;
use crate::exit::Failure;
use crate::host::glance::central::{cannot_start, connect, existing, unknown};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::{DatabaseSettings, Selection, Settings};
use crate::names::{ImageId, escaped};
use crate::openstack::cache_api::shown_url;
use crate::output::Report;
use crate::output::rows::{Column, ListCell, Listing, Rank};
use crate::output::table::table;
use crate::run::Run;
use crate::units::{count, human, moment, nanos, when};

/// The hint for a database without nodes.
pub(super) const REGISTERED: &str = "a node is registered when glance-api is started";
/// At most this many images of a kind are listed; the rest is only counted.
const NAMED: usize = 10;

/// Returns the key of this host's node in the database.
fn own_key(database: &mut Database, settings: &DatabaseSettings<'_>) -> Result<Option<i64>, Failure> {
    settings.node()?.map_or(Ok(None), |own| database.node(&own.value).map_err(cannot_start))
}

/// Sums up all nodes.
pub(crate) fn status(run: &Run, selection: &Selection, human: bool) -> Result<FleetReport, Failure> {
    let config = selection.read(run, false)?;
    let settings = DatabaseSettings::new(&config, selection);
    let mut database = existing(connect(&settings, Purpose::Look, &run.wait(GLANCE_PATIENCE))?)?;
    let summaries = database.summaries().map_err(cannot_start)?;
    let spread = database.spread(NAMED).map_err(cannot_start)?;
    let own = own_key(&mut database, &settings)?;
    Ok(FleetReport {
        schema_version: SCHEMA_VERSION,
        database: database.shown(),
        total: Total {
            nodes: summaries.len() as u64,
            images: summaries.iter().map(|node| node.images).sum(),
            bytes: summaries.iter().map(|node| node.bytes).sum(),
            different_images: spread.different,
        },
        nodes: summaries.iter().map(|node| NodeLine::new(node, own)).collect(),
        on_most_nodes: spread.most.iter().map(CopiesLine::new).collect(),
        on_one_node: OnOneNode {
            images: spread.on_one_node,
            largest: spread.only.iter().map(CopiesLine::new).collect(),
        },
        human,
    })
}

#[derive(Debug, Serialize)]
struct Total {
    nodes: u64,
    images: u64,
    bytes: u64,
    different_images: u64,
}

#[derive(Debug, Serialize)]
struct NodeLine {
    node: String,
    images: u64,
    bytes: u64,
    hits: u64,
    oldest_use: Option<String>,
    newest_use: Option<String>,
    /// True if this is the node of this host.
    this_node: bool,
}

impl NodeLine {
    fn new(node: &NodeSummary, own: Option<i64>) -> Self {
        NodeLine {
            node: shown_url(&node.url),
            images: node.images,
            bytes: node.bytes,
            hits: node.hits,
            oldest_use: node.oldest_use.and_then(moment),
            newest_use: node.newest_use.and_then(moment),
            this_node: own == Some(node.key),
        }
    }
}

#[derive(Debug, Serialize)]
struct CopiesLine {
    image_id: String,
    nodes: u64,
    bytes: u64,
    hits: u64,
}

impl CopiesLine {
    fn new(copies: &Copies) -> Self {
        let image_id = escaped(copies.image_id.as_bytes());
        CopiesLine { image_id, nodes: copies.nodes, bytes: copies.bytes, hits: copies.hits }
    }
}

#[derive(Debug, Serialize)]
struct OnOneNode {
    images: u64,
    largest: Vec<CopiesLine>,
}

/// The summary of all nodes. Sizes are in bytes and come from the rows. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub(crate) struct FleetReport {
    schema_version: u32,
    database: String,
    nodes: Vec<NodeLine>,
    total: Total,
    on_most_nodes: Vec<CopiesLine>,
    on_one_node: OnOneNode,
    #[serde(skip)]
    human: bool,
}

impl Report for FleetReport {
    fn text(&self) -> String {
        if self.nodes.is_empty() {
            return format!("database  {}\n\nno node is registered: {REGISTERED}\n", self.database);
        }
        let size = |bytes: u64| if self.human { human(bytes) } else { bytes.to_string() };
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
        let mut rows = vec![["NODE", "OLDEST USE", "NEWEST USE", "IMAGES", "SIZE"].map(str::to_owned)];
        rows.extend(self.nodes.iter().map(|node| {
            let name = if node.this_node { format!("{} (this node)", node.node) } else { node.node.clone() };
            [name, time(&node.oldest_use), time(&node.newest_use), node.images.to_string(), size(node.bytes)]
        }));
        let total = &self.total;
        let name =
            format!("{}, {}", count(total.nodes, "node"), count(total.different_images, "different image"));
        rows.push([name, String::new(), String::new(), total.images.to_string(), size(total.bytes)]);
        let mut text = format!("database  {}\n\n{}", self.database, table(&rows));
        let mut list = |title: String, images: &[CopiesLine]| {
            if images.is_empty() {
                return;
            }
            let mut rows = vec![["IMAGE", "NODES", "SIZE"].map(str::to_owned)];
            rows.extend(
                images
                    .iter()
                    .map(|image| [image.image_id.clone(), image.nodes.to_string(), size(image.bytes)]),
            );
            let _ = write!(text, "\n{title}\n{}", table(&rows));
        };
        list("images on most nodes".to_owned(), &self.on_most_nodes);
        let only = &self.on_one_node;
        list(format!("on only one node: {}; the largest", count(only.images, "image")), &only.largest);
        text
    }
}

/// True if the settings or the options name a central database as the index.
pub(crate) fn is_named(run: &Run, selection: &Selection) -> Result<bool, Failure> {
    let config = selection.read_to_look(run)?;
    let given = selection.database.is_some() || selection.database_file.is_some();
    Ok(given || Settings::new(&config, selection.clone())?.names(Driver::CentralizedDb))
}

/// Lists the images of all nodes, or the nodes that have some images.
///
/// `here` is the list of these images on this host, if it was made. Its entries stand in the place of this
/// node's rows, which do not say if the images are there.
pub(crate) fn list(
    run: &Run,
    selection: &Selection,
    request: &ListRequest,
    here: Option<ListReport>,
) -> Result<PlacementReport, Failure> {
    let config = selection.read(run, false)?;
    let settings = DatabaseSettings::new(&config, selection);
    let mut database = existing(connect(&settings, Purpose::Look, &run.wait(GLANCE_PATIENCE))?)?;
    let mut found = Vec::new();
    if request.images.is_empty() {
        found = database.placements(None).map_err(cannot_start)?;
    }
    for id in &request.images {
        found.append(&mut database.placements(Some(id.as_str())).map_err(cannot_start)?);
    }
    found.retain(|line| request.admits(Some(nanos(line.last_accessed)), None, Some(line.size)));
    found.sort_by(|a, b| {
        let by = match request.order.by {
            SortKey::Image | SortKey::State => Ordering::Equal,
            SortKey::LastUse => a.last_accessed.total_cmp(&b.last_accessed),
            SortKey::Modified => a.last_modified.total_cmp(&b.last_modified),
            SortKey::Size => a.size.cmp(&b.size),
            SortKey::Hits => a.hits.cmp(&b.hits),
        };
        let by = by.then_with(|| a.image_id.cmp(&b.image_id)).then_with(|| a.node.cmp(&b.node));
        if request.order.reverse { by.reverse() } else { by }
    });
    found.truncate(request.limit.unwrap_or(usize::MAX));
    let own = settings.node()?.map(|own| own.value);
    let image_id = match &request.images[..] {
        [id] => Some(id.to_string()),
        _ => None,
    };
    let mut nodes: Vec<String> = found.iter().map(|line| shown_url(&line.node)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let is_own = |line: &Placement| own.as_ref() == Some(&line.node);
    let cached_images = found.iter().map(|line| PlacementLine::new(line, is_own(line))).collect();
    let own = own.map(|own| shown_url(&own));
    Ok(PlacementReport { schema_version: SCHEMA_VERSION, image_id, nodes, cached_images, here, own })
}

/// An image on a node, with the keys of Glance's API as far as it has them.
#[derive(Debug, Serialize)]
struct PlacementLine {
    image_id: String,
    node: String,
    hits: i64,
    last_accessed: f64,
    last_modified: f64,
    size: u64,
    checksum: Option<String>,
    #[serde(skip)]
    is_own: bool,
}

impl PlacementLine {
    fn new(line: &Placement, is_own: bool) -> Self {
        PlacementLine {
            image_id: escaped(line.image_id.as_bytes()),
            node: shown_url(&line.node),
            hits: line.hits,
            last_accessed: line.last_accessed,
            last_modified: line.last_modified,
            size: line.size,
            checksum: line.checksum.as_ref().map(|checksum| escaped(checksum.as_bytes())),
            is_own,
        }
    }

    fn cells(&self) -> Vec<ListCell<'_>> {
        vec![
            ListCell::text(&self.image_id),
            ListCell::text(EntryState::Tracked.name()),
            ListCell::text(&self.node),
            ListCell::Time(nanos(self.last_accessed)),
            ListCell::Time(nanos(self.last_modified)),
            ListCell::Size(self.size),
            ListCell::Number(self.hits),
            ListCell::of(self.checksum.as_deref(), ListCell::text),
        ]
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct PlacementReport {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    /// For one image, this is the answer of Glance's `GET /v2/cache/nodes/{id}`.
    nodes: Vec<String>,
    cached_images: Vec<PlacementLine>,
    /// The images on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<ListReport>,
    /// The URL of this host's node.
    #[serde(skip)]
    own: Option<String>,
}

impl PlacementReport {
    /// True if an image is on a node, or on this host in some state.
    pub(crate) fn has(&self, id: &ImageId) -> bool {
        let is_it = |line: &PlacementLine| line.image_id.eq_ignore_ascii_case(id.as_str());
        self.cached_images.iter().any(is_it) || self.here.as_ref().is_some_and(|here| here.has(id))
    }
}

impl Listing for PlacementReport {
    fn columns(&self) -> &'static [Column] {
        const fn columns(state: Rank) -> [Column; 8] {
            [
                Column::text("image_id", "IMAGE", Rank::Always),
                Column::text("state", "STATE", state),
                Column::text("node", "NODE", Rank::Always),
                Column::text("last_use", "LAST USE", Rank::Always),
                Column::text("modified", "MODIFIED", Rank::Asked),
                Column::number("size", "SIZE", Rank::Spare(1)),
                Column::number("hits", "HITS", Rank::Spare(2)),
                Column::text("checksum", "CHECKSUM", Rank::Asked),
            ]
        }
        const OF_ROWS: &[Column] = &columns(Rank::Asked);
        const WITH_STATES: &[Column] = &columns(Rank::Spare(3));
        if self.here.is_some() { WITH_STATES } else { OF_ROWS }
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
        let is_shown = |line: &&PlacementLine| self.here.is_none() || !line.is_own;
        let others = self.cached_images.iter().filter(is_shown).map(PlacementLine::cells);
        let here = self.here.iter().flat_map(ListReport::entries).map(|entry| {
            let mut cells = entry.cells();
            cells.truncate(6);
            cells.insert(2, ListCell::of(self.own.as_deref(), ListCell::text));
            cells.push(ListCell::Unknown);
            cells
        });
        Box::new(here.chain(others))
    }
}

/// Removes the rows of a decommissioned node from the central database, and the node itself.
pub(crate) fn forget(
    run: &Run,
    selection: &Selection,
    config: &Config,
    change: &Change,
    url: &str,
) -> Result<ForgetReport, Failure> {
    let (node, ending) = (shown_url(url), Ending::new(change.dry_run));
    let mut report = ForgetReport { node, ending, ..ForgetReport::default() };
    let ended = fill(run, &DatabaseSettings::new(config, selection), change, url, &mut report);
    report.ending.settle(run, change, ended)?;
    Ok(report)
}

/// Forgets the node, or plans it, and fills in the report. The report is shown unless this fails.
fn fill(
    run: &Run,
    settings: &DatabaseSettings<'_>,
    change: &Change,
    url: &str,
    report: &mut ForgetReport,
) -> Result<(), Failure> {
    run.catch_signals()?;
    let purpose = if change.dry_run { Purpose::Look } else { Purpose::Change };
    let mut database = existing(connect(settings, purpose, &run.wait(change.lock_wait.limit))?)?;
    let own = own_key(&mut database, settings)?;
    let summaries = database.summaries().map_err(cannot_start)?;
    // The URL must match exactly. A comparison in the database may ignore case, accents or trailing blanks.
    let Some(summary) = summaries.iter().find(|node| node.url == url) else {
        let named = Setting { value: url.to_owned(), origin: Origin::Flag("--forget-node") };
        let known: Vec<String> = summaries.into_iter().map(|node| node.url).collect();
        return Err(unknown(&named, &known));
    };
    if let Some(own) = settings.node()?.filter(|_| own == Some(summary.key)) {
        return Err(Failure::usage(anyhow!(
            "{} is the node of this host (set by {}), which is not decommissioned",
            shown_url(url),
            own.origin
        ))
        .hint("to forget rows of this node whose images are missing, run prune or clean --repair"));
    }
    report.fill(summary);
    if change.dry_run {
        report.ending.plan = Some(vec![report.step(summary)]);
        return Ok(());
    }
    let (done, refusal) = database.forget_node(summary.key);
    (report.rows_forgotten, report.bytes) = (done.rows, Some(done.bytes));
    report.node_removed = done.reference;
    match refusal {
        None => {}
        Some(Refusal::Interrupted) => report.ending.stopped(run),
        Some(refusal) if done.rows == 0 => {
            return Err(cannot_start(refusal.context("nothing was changed".to_owned())));
        }
        Some(refusal) => report.ending.errors.push(EntryError {
            name: report.node.clone(),
            action: Action::Forget,
            message: format!("{:#}", refusal.into_error()),
        }),
    }
    Ok(())
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct ForgetReport {
    node: String,
    rows_forgotten: u64,
    /// The sum of the sizes in the node's rows; `None` if they were not read.
    bytes: Option<u64>,
    node_removed: bool,
    #[serde(flatten)]
    ending: Ending,
}

impl ForgetReport {
    /// Fills in the expected result.
    fn fill(&mut self, summary: &NodeSummary) {
        self.rows_forgotten = summary.images;
        self.bytes = Some(summary.bytes);
        self.node_removed = true;
    }

    /// Returns the only step of the plan.
    fn step(&self, summary: &NodeSummary) -> Step {
        let used =
            summary.newest_use.map_or("never used".to_owned(), |time| format!("last used {}", when(time)));
        let reason = format!("a node with {}, {used}", count(summary.images, "row"));
        Step::other("forget", self.node.clone(), summary.bytes, reason)
    }
}

impl ChangeReport for ForgetReport {
    fn ending(&self) -> &Ending {
        &self.ending
    }
}

impl Report for ForgetReport {
    fn text(&self) -> String {
        if self.ending.dry_run {
            return self.ending.preamble();
        }
        let node = if self.node_removed { "node" } else { "rows of node" };
        let rows = count(self.rows_forgotten, "row");
        let bytes = human_or_unknown(self.bytes);
        format!("forgot {node} {} ({rows}, {bytes})\n", self.node)
    }
}
