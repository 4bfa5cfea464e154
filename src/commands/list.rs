//! `list`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::{Args, ValueEnum};

use super::flags::{CacheArgs, EXIT_CODES, EXIT_CODES_IN_SHORT, HostArgs, PrintArgs};
use super::{look_at_all, show};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Selection;
use crate::names::ImageId;
use crate::ops::fleet;
use crate::ops::list::{EntryState, ListRequest, Order, SortKey, list};
use crate::ops::look::Overview;
use crate::run::Run;

/// Lists with the options of the command line.
pub(crate) fn run(run: &Run, args: ListArgs) -> Result<Exit, Failure> {
    let human = args.print.is_human(&run.output);
    let order = Order { by: args.sort.into(), reverse: args.reverse };
    if args.all_nodes || args.image.is_some() {
        let report = fleet::list(run, &Selection::from(args.cache), args.image, order, human)?;
        return Ok(show(run, &report, true));
    }
    if args.host.all_caches {
        let report = look_at_all(run, args.cache, args.host, Overview::List, human)?;
        return Ok(show(run, &report, report.errors().is_empty()));
    }
    let states = args.state.iter().flat_map(|state| state.states()).copied().collect();
    let request = ListRequest { states, order, human };
    let report = list(run, Selection::from(args.cache), &request)?;
    Ok(show(run, &report, report.is_complete()))
}

/// List what is in the cache
///
/// Changes nothing, takes no lock, and works while Glance is running. The JSON form is that of Glance's GET
/// /v2/cache, with further arrays for what Glance does not report.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct ListArgs {
    /// Show only entries in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub(super) state: Vec<StateName>,
    /// Sort the entries by this key
    #[arg(long, value_name = "KEY", default_value = "image")]
    pub(super) sort: SortName,
    /// Reverse the order
    #[arg(long)]
    pub(super) reverse: bool,
    /// Instead list the images in the central database, of all nodes
    #[arg(long, conflicts_with_all = ["state", "all_caches"])]
    pub(super) all_nodes: bool,
    /// Instead list the nodes that have this image
    #[arg(long, value_name = "ID", conflicts_with_all = ["state", "all_caches"])]
    pub(super) image: Option<ImageId>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) host: HostArgs,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

/// The states of `--state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StateName {
    /// Images, with or without a row
    Cached,
    /// Images that the index knows
    Tracked,
    /// Images without a row
    Orphan,
    /// Rows whose image is missing
    Ghost,
    /// Images that wait to be fetched
    Queued,
    /// Images being cached, and what failed attempts left
    Incomplete,
    /// Images that turned out to be wrong
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortName {
    Image,
    State,
    LastUse,
    Modified,
    Size,
    Hits,
}

impl StateName {
    fn states(self) -> &'static [EntryState] {
        match self {
            StateName::Cached => &[EntryState::Tracked, EntryState::Orphan],
            StateName::Tracked => &[EntryState::Tracked],
            StateName::Orphan => &[EntryState::Orphan],
            StateName::Ghost => &[EntryState::Ghost],
            StateName::Queued => &[EntryState::Queued],
            StateName::Incomplete => &[EntryState::Incomplete],
            StateName::Invalid => &[EntryState::Invalid],
        }
    }
}

impl From<SortName> for SortKey {
    fn from(name: SortName) -> Self {
        match name {
            SortName::Image => SortKey::Image,
            SortName::State => SortKey::State,
            SortName::LastUse => SortKey::LastUse,
            SortName::Modified => SortKey::Modified,
            SortName::Size => SortKey::Size,
            SortName::Hits => SortKey::Hits,
        }
    }
}
