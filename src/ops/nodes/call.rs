//! The work that nodes are asked to do, and the words for it.

use crate::cache::outcome::Action;
use crate::names::ImageId;

/// The work of each node.
#[derive(Clone, Debug)]
pub(crate) enum NodesCall {
    Prune,
    Clean,
    /// Put these images into the queue.
    Queue(Vec<ImageId>),
}

impl NodesCall {
    pub(super) fn action(&self) -> Action {
        match self {
            NodesCall::Prune => Action::Prune,
            NodesCall::Clean => Action::Clean,
            NodesCall::Queue(_) => Action::Queue,
        }
    }

    /// Returns the things that a node counts.
    pub(super) fn what(&self) -> &'static str {
        if matches!(self, NodesCall::Queue(_)) { "image" } else { "file" }
    }

    /// Returns the words for the bar.
    pub(super) fn doing(&self) -> &'static str {
        match self {
            NodesCall::Prune => "pruning nodes",
            NodesCall::Clean => "cleaning nodes",
            NodesCall::Queue(_) => "queueing on nodes",
        }
    }

    /// Returns the words for the log.
    pub(super) fn did(&self) -> &'static str {
        match self {
            NodesCall::Prune => "asked to prune",
            NodesCall::Clean => "asked to clean",
            NodesCall::Queue(_) => "asked to queue on",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_words() {
        for (call, action, words) in [
            (NodesCall::Prune, Action::Prune, ["file", "pruning nodes", "asked to prune"]),
            (NodesCall::Clean, Action::Clean, ["file", "cleaning nodes", "asked to clean"]),
            (
                NodesCall::Queue(Vec::new()),
                Action::Queue,
                ["image", "queueing on nodes", "asked to queue on"],
            ),
        ] {
            assert_eq!((call.action(), [call.what(), call.doing(), call.did()]), (action, words));
        }
    }
}
