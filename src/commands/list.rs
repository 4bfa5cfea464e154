//! `list`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use anyhow::anyhow;
use clap::{Args, ValueEnum, value_parser};

use super::flags::{
    ALL_CACHES, CacheArgs, EXIT_CODES_IN_SHORT, HostArgs, LookedAtArgs, OUTPUT, PrintArgs, RecordArgs,
};
use super::{host_to_look, look_at_all, show_list};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Selection;
use crate::names::ImageId;
use crate::ops::fleet;
use crate::ops::held::held;
use crate::ops::list::{EntryState, ListReport, ListRequest, Order, SortKey, list};
use crate::ops::look::Overview;
use crate::ops::nodes::look::list_node;
use crate::output::Format;
use crate::output::rows::ListStyle;
use crate::run::Run;
use crate::units::{TimeSpan, given_bytes};

/// Lists with the options of the command line.
pub(crate) fn run(run: &Run, args: ListArgs) -> Result<Exit, Failure> {
    args.check()?;
    let (request, style) = (args.request(run), args.style(run));
    if let Some(node) = args.node.request() {
        let report = list_node(run, &Selection::from(args.cache), &node, &request)?;
        let missing = report_missing(run, &request, |id| report.has(id.as_str()));
        return show_list(run, &report, &style, !missing);
    }
    if args.all_nodes {
        let report = fleet::list(run, &Selection::from(args.cache), &request, None)?;
        return show_list(run, &report, &style, true);
    }
    if args.host.all_caches {
        if args.images_of_all {
            return images_of_all(run, args, &request, &style);
        }
        let report = look_at_all(run, args.cache, args.host, Overview::List, style.human)?;
        return show_list(run, &report, &style, report.errors().is_empty());
    }
    let selection = Selection::from(args.cache);
    if request.images.is_empty() {
        let report = list(run, selection, &request)?;
        return show_list(run, &report, &style, report.is_complete());
    }
    named(run, &selection, &request, &style)
}

/// Lists the images of all caches of the host.
fn images_of_all(
    run: &Run,
    mut args: ListArgs,
    request: &ListRequest,
    style: &ListStyle,
) -> Result<Exit, Failure> {
    let host = host_to_look(run, args.cache, &mut args.host)?;
    let report = held(&host, request, args.host.temp_grace.0)?;
    for error in report.errors() {
        run.output.error(&error.to_string());
    }
    show_list(run, &report, style, report.errors().is_empty())
}

/// Lists the named images: those of this cache, and with a central database those of the other nodes, too.
fn named(
    run: &Run,
    selection: &Selection,
    request: &ListRequest,
    style: &ListStyle,
) -> Result<Exit, Failure> {
    let is_central = fleet::is_named(run, selection)?;
    let here = match list(run, selection.clone(), request) {
        Ok(here) if !here.is_central && !is_central => {
            let missing = report_missing(run, request, |id| here.has(id));
            return show_list(run, &here, style, here.is_complete() && !missing);
        }
        Ok(here) => Some(here),
        // The database can also be asked on a host that has no cache.
        Err(failure) if is_central => {
            run.output.note(&format!("{:#}", failure.error));
            None
        }
        Err(failure) => return Err(failure),
    };
    let is_complete = here.as_ref().is_none_or(ListReport::is_complete);
    let report = fleet::list(run, selection, request, here)?;
    let missing = report_missing(run, request, |id| report.has(id));
    show_list(run, &report, style, is_complete && !missing)
}

/// Reports the named images that are nowhere. Returns true if there are any.
fn report_missing(run: &Run, request: &ListRequest, has: impl Fn(&ImageId) -> bool) -> bool {
    // An image may be there, but not be old or large enough to be listed.
    if request.is_filtered() {
        return false;
    }
    let missing: Vec<&ImageId> = request.images.iter().filter(|id| !has(id)).collect();
    for id in &missing {
        run.output.error(&format!("image {id} is not in the cache"));
    }
    !missing.is_empty()
}

const EXIT_CODES_OF_LIST: &str = "Exit codes:
  0    done
  1    something could not be examined, or an image that was named is not in the
       cache
  2    wrong usage or configuration
  3    could not start: index unreachable or no permission";

/// List what is in the cache
///
/// Changes nothing, takes no lock, and works while Glance is running. The JSON form is that of Glance's GET
/// /v2/cache, with further arrays for what Glance does not report.
///
/// On a terminal the table fits its width: times are shortened first, and then MODIFIED and HITS are left
/// out.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES_OF_LIST)]
#[command(mut_arg("format", |arg| arg
    .value_parser(value_parser!(Format))
    .help("Print the list as table, json, jsonl, csv or value")
    .long_help("Print the list as table, json, jsonl, csv or value\n\n\
        The table (also called text) is for people. json is one object; jsonl is an object for each entry, \
        and csv a line for each: both are printed while they are made. value prints bare values with blanks \
        between them [default: table]")))]
pub(crate) struct ListArgs {
    /// Show only these images [default: all entries]
    ///
    /// With a central database, the other nodes that have them are shown, too. If an image is in no state in
    /// the cache, the exit code is 1.
    #[arg(value_name = "ID", conflicts_with_all = ["all_nodes", "all_caches"])]
    pub(super) ids: Vec<ImageId>,
    /// Show only this image, as ID does
    #[arg(long, value_name = "ID", conflicts_with_all = ["all_nodes", "all_caches"], hide_short_help = true)]
    pub(super) image: Vec<ImageId>,
    /// Show only entries in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub(super) state: Vec<StateName>,
    /// Show only what was not used for this long
    ///
    /// Entries without a use, such as those of the queue, are taken by their last change.
    #[arg(long, value_name = "DURATION")]
    pub(super) older_than: Option<TimeSpan>,
    /// Show only what is larger than this
    #[arg(long, value_name = "SIZE", value_parser = given_bytes, hide_short_help = true)]
    pub(super) larger_than: Option<u64>,
    /// Show only the first entries
    #[arg(long, value_name = "NUMBER", hide_short_help = true)]
    pub(super) limit: Option<usize>,
    /// Sort the entries by this key
    #[arg(long, value_name = "KEY", default_value = "image")]
    pub(super) sort: SortName,
    /// Reverse the order
    #[arg(long)]
    pub(super) reverse: bool,
    /// Instead list the images in the central database, of all nodes
    #[arg(long, conflicts_with_all = ["state", "all_caches"], hide_short_help = true)]
    pub(super) all_nodes: bool,
    #[command(flatten)]
    pub(super) records: RecordArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) host: HostArgs,
    /// With --all-caches, list the images of the caches and what holds them
    #[arg(long = "images", requires = "all_caches", help_heading = ALL_CACHES, hide_short_help = true)]
    pub(super) images_of_all: bool,
    /// Show these columns, in this order
    #[arg(long, value_name = "COLUMN", value_delimiter = ',', help_heading = OUTPUT,
        hide_possible_values = true)]
    #[arg(long_help = "Show these columns, in this order\n\n\
        Every list has some of these: image, state, last-use, modified, size, hits, error, name-bytes and \
        unusable; with --all-nodes also node and checksum; with --all-caches also cache, kind, links and \
        held-by, or priority, directory, file-system, limit, age-limit, in-use and reclaimable")]
    pub(super) columns: Vec<ColumnName>,
    /// Print no line with the names of the columns
    #[arg(long, help_heading = OUTPUT, hide_short_help = true)]
    pub(super) no_header: bool,
    /// Do not fit the table to the terminal
    #[arg(long, help_heading = OUTPUT, hide_short_help = true)]
    pub(super) wide: bool,
    #[command(flatten)]
    pub(super) print: PrintArgs,
    #[command(flatten)]
    node: LookedAtArgs,
}

impl ListArgs {
    /// Fails if an option would have no effect.
    fn check(&self) -> Result<(), Failure> {
        let chooses = !self.state.is_empty()
            || self.older_than.is_some()
            || self.larger_than.is_some()
            || self.limit.is_some();
        if self.host.all_caches && !self.images_of_all && chooses {
            return Err(Failure::usage(anyhow!(
                "--state, --older-than, --larger-than and --limit choose images, and --all-caches lists \
                 caches"
            ))
            .hint("add --images to list the images of all caches"));
        }
        Ok(())
    }

    fn request(&self, run: &Run) -> ListRequest {
        ListRequest {
            images: self.ids.iter().chain(&self.image).copied().collect(),
            states: self.state.iter().flat_map(|state| state.states()).copied().collect(),
            used_before: self.older_than.map(|age| run.now.saturating_sub(age.0)),
            larger_than: self.larger_than,
            limit: self.limit,
            asks_records: !self.records.no_database,
            order: Order { by: self.sort.into(), reverse: self.reverse },
            needs_index: false,
        }
    }

    fn style(&self, run: &Run) -> ListStyle {
        ListStyle {
            columns: self.columns.iter().map(|name| name.key()).collect(),
            no_header: self.no_header,
            human: self.print.is_human(&run.output),
            wide: self.wide,
        }
    }
}

/// The states of `--state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StateName {
    /// Images that the index knows
    Tracked,
    /// Images without a row
    Orphan,
    /// Rows whose image is missing
    Ghost,
    /// Images that wait to be fetched
    Queued,
    /// Images being cached
    Incomplete,
    /// Entries that failed attempts to cache an image left
    Stalled,
    /// Images that turned out to be wrong
    Invalid,
    /// Images, with or without a row: tracked and orphan
    #[value(hide = true)]
    Cached,
}

/// The columns of `--columns`. Each list has some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ColumnName {
    #[value(alias = "image-id", alias = "image_id")]
    Image,
    State,
    #[value(alias = "last_use")]
    LastUse,
    Modified,
    Size,
    Hits,
    Error,
    #[value(alias = "name_bytes")]
    NameBytes,
    Unusable,
    Node,
    Checksum,
    Cache,
    Kind,
    Links,
    #[value(alias = "held_by")]
    HeldBy,
    Priority,
    Directory,
    #[value(alias = "file_system")]
    FileSystem,
    Limit,
    #[value(alias = "age_limit")]
    AgeLimit,
    #[value(alias = "in_use")]
    InUse,
    Reclaimable,
}

impl ColumnName {
    /// Returns the key of the column.
    fn key(self) -> String {
        match (self, self.to_possible_value()) {
            (ColumnName::Image, _) | (_, None) => "image_id".to_owned(),
            (_, Some(value)) => value.get_name().replace('-', "_"),
        }
    }
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
            StateName::Stalled => &[EntryState::Stalled],
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
