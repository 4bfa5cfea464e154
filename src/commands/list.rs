//! `list`: what is in the cache, for people and in the form of Glance's `GET /v2/cache`.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::{Args, ValueEnum};

use crate::commands::flags::{CacheArgs, EXIT_CODES, EXIT_CODES_IN_SHORT, HostArgs, PrintArgs};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Opened, Selection, Settings};
use crate::names::ImageId;
use crate::ops::host::{self, Look};
use crate::ops::list::{ListReport, gather};
use crate::output::shows_human;
use crate::run::Context;

/// Lists, as the command line says.
pub(crate) fn run(context: &Context, args: ListArgs) -> Result<Exit, Failure> {
    if args.all_nodes || args.image.is_some() {
        return crate::ops::fleet::list(context, args);
    }
    if args.host.all_caches {
        return host::look(context, args.cache, &args.print, args.host, Look::List);
    }
    let ListArgs { cache, print, state, sort, reverse, .. } = args;
    let settings = Settings::load_to_look(context, Selection::from(cache))?;
    let mut report = ListReport { human: shows_human(&context.output, &print), ..ListReport::default() };
    match settings.open()? {
        Opened::Nothing(why) => context.output.note(&why),
        Opened::Cache(dir) => gather(context, &settings, &dir, &mut report)?,
    }
    report.entries.retain(|entry| state.is_empty() || state.iter().any(|state| entry.state.is(*state)));
    report.entries.sort_by(|a, b| {
        let order = match sort {
            SortKey::Image => a.name.cmp(&b.name),
            SortKey::State => a.state.cmp(&b.state),
            SortKey::LastUse => a.last_use.cmp(&b.last_use),
            SortKey::Modified => a.modified.cmp(&b.modified),
            SortKey::Size => a.size.cmp(&b.size),
            SortKey::Hits => a.hits.cmp(&b.hits),
        };
        // Glance tells its queue in processing order.
        let order = order.then_with(|| a.name.cmp(&b.name));
        if reverse { order.reverse() } else { order }
    });
    context.output.result(&report);
    Ok(if report.complete && !context.output.has_failed() { Exit::Done } else { Exit::Incomplete })
}

/// List what is in the cache
///
/// Changes nothing, takes no lock, and works while Glance is running. The JSON form is that of Glance's GET /v2/cache,
/// with further arrays for what Glance does not report.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct ListArgs {
    /// Show only entries in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub(crate) state: Vec<State>,
    /// Sort the entries by this key
    #[arg(long, value_name = "KEY", default_value = "image")]
    pub(crate) sort: SortKey,
    /// Reverse the order
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Instead list the images in the central database, of all nodes
    #[arg(long, conflicts_with_all = ["state", "all_caches"])]
    pub(crate) all_nodes: bool,
    /// Instead list the nodes that have this image
    #[arg(long, value_name = "ID", conflicts_with_all = ["state", "all_caches"])]
    pub(crate) image: Option<ImageId>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
}

/// What `list` can be narrowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
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
    /// Images that are being cached, or were when it failed
    Incomplete,
    /// Images that turned out to be wrong
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortKey {
    Image,
    State,
    LastUse,
    Modified,
    Size,
    Hits,
}
