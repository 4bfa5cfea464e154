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
use super::list::{Order, SortKey};
use super::report::{ChangeReport, Ending, Step, human_or_unknown};
use crate::cache::outcome::{Action, EntryError};
use crate::config::{Origin, Setting};
use crate::database::Database;
use crate::database::nodes::{Copies, NodeSummary, Placement};
use crate::database::opening::Purpose;
use crate::database::refusal::Refusal;
use crate::exit::Failure;
use crate::host::glance::central::{cannot_start, connect, existing, unknown};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::{DatabaseSettings, Selection};
use crate::names::{ImageId, escaped};
use crate::output::Report;
use crate::output::table::table;
use crate::run::Run;
use crate::units::{count, human, nanos, when};

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
            node: escaped(node.url.as_bytes()),
            images: node.images,
            bytes: node.bytes,
            hits: node.hits,
            oldest_use: node.oldest_use.map(when),
            newest_use: node.newest_use.map(when),
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
            let mut rows = vec![["IMAGE", "NODES", "SIZE"].map(str::to_owned)];
            rows.extend(
                images
                    .iter()
                    .map(|image| [image.image_id.clone(), image.nodes.to_string(), size(image.bytes)]),
            );
            let _ =
                write!(text, "\n{title}\n{}", if images.is_empty() { String::new() } else { table(&rows) });
        };
        list("images on most nodes".to_owned(), &self.on_most_nodes);
        let only = &self.on_one_node;
        list(format!("on only one node: {}; the largest", count(only.images, "image")), &only.largest);
        text
    }
}

/// Lists the images of all nodes, or the nodes of one image.
pub(crate) fn list(
    run: &Run,
    selection: &Selection,
    image: Option<ImageId>,
    order: Order,
    human: bool,
) -> Result<PlacementReport, Failure> {
    let config = selection.read(run, false)?;
    let settings = DatabaseSettings::new(&config, selection);
    let mut database = existing(connect(&settings, Purpose::Look, &run.wait(GLANCE_PATIENCE))?)?;
    let image_id = image.map(|id| id.to_string());
    let mut found = database.placements(image_id.as_deref()).map_err(cannot_start)?;
    found.sort_by(|a, b| {
        let by = match order.by {
            SortKey::Image | SortKey::State => Ordering::Equal,
            SortKey::LastUse => a.last_accessed.total_cmp(&b.last_accessed),
            SortKey::Modified => a.last_modified.total_cmp(&b.last_modified),
            SortKey::Size => a.size.cmp(&b.size),
            SortKey::Hits => a.hits.cmp(&b.hits),
        };
        let by = by.then_with(|| a.image_id.cmp(&b.image_id)).then_with(|| a.node.cmp(&b.node));
        if order.reverse { by.reverse() } else { by }
    });
    let mut nodes: Vec<String> = found.iter().map(|line| escaped(line.node.as_bytes())).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let cached_images = found.iter().map(PlacementLine::new).collect();
    Ok(PlacementReport { image_id, nodes, cached_images, human })
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
}

impl PlacementLine {
    fn new(line: &Placement) -> Self {
        PlacementLine {
            image_id: escaped(line.image_id.as_bytes()),
            node: escaped(line.node.as_bytes()),
            hits: line.hits,
            last_accessed: line.last_accessed,
            last_modified: line.last_modified,
            size: line.size,
            checksum: line.checksum.as_ref().map(|checksum| escaped(checksum.as_bytes())),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct PlacementReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    /// For one image, this is the answer of Glance's `GET /v2/cache/nodes/{id}`.
    nodes: Vec<String>,
    cached_images: Vec<PlacementLine>,
    #[serde(skip)]
    human: bool,
}

impl Report for PlacementReport {
    fn text(&self) -> String {
        let mut rows = vec![["IMAGE", "NODE", "LAST USE", "SIZE", "HITS"].map(str::to_owned)];
        rows.extend(self.cached_images.iter().map(|line| {
            [
                line.image_id.clone(),
                line.node.clone(),
                when(nanos(line.last_accessed)),
                if self.human { human(line.size) } else { line.size.to_string() },
                line.hits.to_string(),
            ]
        }));
        table(&rows)
    }
}

/// Removes the rows of a decommissioned node from the central database, and the node itself.
pub(crate) fn forget(
    run: &Run,
    selection: &Selection,
    change: &Change,
    url: &str,
) -> Result<ForgetReport, Failure> {
    let (node, ending) = (escaped(url.as_bytes()), Ending::new(change.dry_run));
    let mut report = ForgetReport { node, ending, ..ForgetReport::default() };
    let ended = fill(run, selection, change, url, &mut report);
    report.ending.settle(run, ended)?;
    Ok(report)
}

/// Forgets the node, or plans it, and fills in the report. The report is shown unless this fails.
fn fill(
    run: &Run,
    selection: &Selection,
    change: &Change,
    url: &str,
    report: &mut ForgetReport,
) -> Result<(), Failure> {
    let config = selection.read(run, false)?;
    let settings = DatabaseSettings::new(&config, selection);
    run.catch_signals()?;
    let purpose = if change.dry_run { Purpose::Look } else { Purpose::Change };
    let mut database = existing(connect(&settings, purpose, &run.wait(change.lock_wait.limit))?)?;
    let own = own_key(&mut database, &settings)?;
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
            escaped(url.as_bytes()),
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
    report.rows_forgotten = done.rows;
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
        let reason = format!("the node and its {}, {used}", count(summary.images, "row"));
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
        let did = if self.ending.dry_run { "would forget" } else { "forgot" };
        let node = if self.node_removed { "node" } else { "rows of node" };
        let rows = count(self.rows_forgotten, "row");
        let bytes = human_or_unknown(self.bytes);
        let mut text = format!("{did} {node} {} ({rows}, {bytes})\n", self.node);
        for entry in self.ending.plan.iter().flatten() {
            let _ = writeln!(text, "{} {}: {}", entry.action, entry.subject, entry.reason);
        }
        text
    }
}
