//! `clean`: removes what is invalid or stalled, and with `--repair` mends the index.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::Args;

use crate::cache::plan::CleanLimits;
use crate::commands::flags::{CacheArgs, ChangeArgs, EXIT_CODES, HostArgs};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::ops::clean::{Repair, clean};
use crate::ops::host;
use crate::run::Context;
use crate::units::TimeSpan;

/// Cleans, as the command line says.
pub(crate) fn run(context: &Context, args: CleanArgs) -> Result<Exit, Failure> {
    if args.host.all_caches {
        return host::clean(context, args);
    }
    let CleanArgs { cache, change, stall_time, invalid_grace, repair, forget_all, forget_node, host: _ } =
        args;
    if let Some(url) = forget_node {
        return crate::ops::fleet::forget(context, Selection::from(cache), &change, &url);
    }
    let settings = Settings::load(context, Selection::from(cache))?;
    let limits =
        CleanLimits { stall_time: settings.stall_time(stall_time)?.value, invalid_grace: invalid_grace.0 };
    clean(context, &settings, &change, limits, repair.then_some(Repair { forget_all }))
}

/// Remove invalid and stalled entries
///
/// Removes every file and symlink in invalid/, and those in incomplete/ that were not written to for the stall time and that
/// no process has open for writing. Needs no index and no database. With --repair, mends the index too.
///
/// With --all-caches, does that in every cache of Glance's on this host, and removes from Ironic's what downloads that died left there:
/// temporary directories and .part files, older than --temp-grace and with nothing in them open. A directory is a download's when it is
/// named and protected as Python's mkdtemp does (mode 0700) and holds nothing but files named after images; any other stays.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CleanArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Leave incomplete entries alone that were written to less than this ago [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION")]
    pub(crate) stall_time: Option<TimeSpan>,
    /// Leave invalid entries alone that were written to less than this ago
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub(crate) invalid_grace: TimeSpan,
    /// Mend the index: forget rows without a file, adopt files without a row, drop rows whose id is no UUID
    #[arg(long, conflicts_with = "all_caches")]
    pub(crate) repair: bool,
    /// Forget the rows even when most of the index's images are not in the directory
    #[arg(long, requires = "repair")]
    pub(crate) forget_all: bool,
    /// Do nothing but drop the rows of a node that is gone for good from the central database, and the node itself
    #[arg(long, value_name = "URL", conflicts_with_all = ["repair", "stall_time", "all_caches"])]
    pub(crate) forget_node: Option<String>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}
