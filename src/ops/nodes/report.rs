//! The report of calls to nodes: each node's truth, and the totals of those that have done it.

use serde::Serialize;

use super::ask::Reply;
use super::call::NodesCall;
use crate::cache::outcome::{Action, EntryError};
use crate::openstack::cache_api::{NodeStatus, Removals};
use crate::ops::report::{ChangeReport, Ending};
use crate::output::Report;
use crate::output::table::table;
use crate::units::{count, human};

/// The report of a call to several nodes.
#[derive(Debug, Serialize)]
pub(crate) struct NodesReport {
    #[serde(flatten)]
    totals: NodesTotals,
    nodes_asked: u64,
    nodes_done: u64,
    pub(super) nodes: Vec<NodeOutcome>,
    #[serde(flatten)]
    pub(super) ending: Ending,
}

/// The figures of a call, of one node or of all that have done it. `None` if a node does not say it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum NodesTotals {
    Pruned { total_files_pruned: Option<u64>, total_bytes_pruned: Option<u64> },
    Cleaned { total_files_cleaned: Option<u64>, total_bytes_cleaned: Option<u64> },
    Queued { total_images_queued: u64 },
}

/// One node in the report.
#[derive(Debug, Serialize)]
pub(super) struct NodeOutcome {
    pub(super) node: String,
    pub(super) status: NodeStatus,
    /// Of its last answer, if there was one.
    http_status: Option<u16>,
    #[serde(flatten)]
    totals: NodesTotals,
    /// The version of its API, if it does not have the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl NodesTotals {
    fn of(call: &NodesCall, removals: Removals, queued: u64) -> Self {
        let Removals { files, bytes } = removals;
        match call {
            NodesCall::Prune => NodesTotals::Pruned { total_files_pruned: files, total_bytes_pruned: bytes },
            NodesCall::Clean => {
                NodesTotals::Cleaned { total_files_cleaned: files, total_bytes_cleaned: bytes }
            }
            NodesCall::Queue(_) => NodesTotals::Queued { total_images_queued: queued },
        }
    }

    /// Returns the files, or the images, and the bytes.
    fn figures(self) -> (Option<u64>, Option<u64>) {
        match self {
            NodesTotals::Pruned { total_files_pruned: files, total_bytes_pruned: bytes }
            | NodesTotals::Cleaned { total_files_cleaned: files, total_bytes_cleaned: bytes } => {
                (files, bytes)
            }
            NodesTotals::Queued { total_images_queued } => (Some(total_images_queued), None),
        }
    }
}

impl NodeOutcome {
    /// Returns the outcome of a node. `queued` counts the images that it has put into its queue.
    pub(super) fn new(call: &NodesCall, node: String, reply: Reply, queued: u64, seconds: f64) -> Self {
        NodeOutcome {
            node,
            status: reply.status,
            http_status: reply.http_status,
            totals: NodesTotals::of(call, reply.removals, queued),
            api_version: reply.api_version,
            seconds: (seconds * 1000.0).round() / 1000.0,
            error: reply.message,
        }
    }

    fn was_asked(&self) -> bool {
        !matches!(self.status, NodeStatus::InvalidUrl | NodeStatus::NotAsked)
    }

    fn is_done(&self) -> bool {
        self.status == NodeStatus::Done
    }

    /// Returns the node as an error of the run, with the reason why it is not done.
    fn error(&self, action: Action) -> Option<EntryError> {
        let message = self.error.clone()?;
        let message = format!("{}: {message}", self.status);
        Some(EntryError { name: self.node.clone(), action, message })
    }

    /// Returns the outcome as a sentence for the log.
    pub(super) fn sentence(&self, call: &NodesCall) -> String {
        let (files, bytes) = self.totals.figures();
        let what = call.what();
        let files = files.map_or_else(|| format!("{what}s unknown"), |files| count(files, what));
        let bytes = bytes.map(|bytes| format!(", {}", human(bytes))).unwrap_or_default();
        format!("{} {}: {} ({files}{bytes})", call.did(), self.node, self.status)
    }
}

impl NodesReport {
    /// Adds up the nodes.
    pub(super) fn new(call: &NodesCall, nodes: Vec<NodeOutcome>) -> Self {
        let done = || nodes.iter().filter(|node| node.is_done()).map(|node| node.totals.figures());
        // A sum of which a part is not known is not known.
        let add = |sum: Option<u64>, figure: Option<u64>| Some(sum?.saturating_add(figure?));
        let files = done().map(|(files, _)| files).fold(Some(0), add);
        let bytes = done().map(|(_, bytes)| bytes).fold(Some(0), add);
        let queued = nodes.iter().filter_map(|node| node.totals.figures().0).fold(0, u64::saturating_add);
        let mut ending = Ending::new(false);
        ending.errors = nodes.iter().filter_map(|node| node.error(call.action())).collect();
        NodesReport {
            totals: NodesTotals::of(call, Removals { files, bytes }, queued),
            nodes_asked: nodes.iter().filter(|node| node.was_asked()).count() as u64,
            nodes_done: done().count() as u64,
            nodes,
            ending,
        }
    }

    /// True if no node was asked.
    pub(super) fn is_idle(&self) -> bool {
        self.nodes_asked == 0
    }
}

impl ChangeReport for NodesReport {
    fn ending(&self) -> &Ending {
        &self.ending
    }
}

impl Report for NodesReport {
    fn text(&self) -> String {
        let has_bytes = !matches!(self.totals, NodesTotals::Queued { .. });
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), human);
        let head = if has_bytes { ["FILES", "SIZE"] } else { ["IMAGES", ""] };
        let mut rows = vec![["NODE", "STATUS", head[0], head[1]].map(str::to_owned)];
        rows.extend(self.nodes.iter().map(|node| {
            let (files, bytes) = node.totals.figures();
            let (files, bytes) = if node.is_done() || !has_bytes { (files, bytes) } else { (None, None) };
            let bytes = if has_bytes { size(bytes) } else { String::new() };
            [node.node.clone(), node.status.to_string(), number(files), bytes]
        }));
        table(&rows) + &self.logged()
    }

    fn logged(&self) -> String {
        let (files, bytes) = self.totals.figures();
        let (verb, what) = match self.totals {
            NodesTotals::Pruned { .. } => ("pruned", "file"),
            NodesTotals::Cleaned { .. } => ("cleaned", "file"),
            NodesTotals::Queued { .. } => ("queued", "image"),
        };
        let unknown = || format!("an unknown number of {what}s");
        let files = files.map_or_else(unknown, |files| count(files, what));
        let bytes = bytes.filter(|_| !matches!(self.totals, NodesTotals::Queued { .. }));
        let bytes = bytes.map(|bytes| format!(" ({})", human(bytes))).unwrap_or_default();
        let (done, nodes) = (self.nodes_done, count(self.nodes.len() as u64, "node"));
        format!("{verb} {files}{bytes}; {done} of {nodes} done{}", self.ending.line_end())
    }
}
