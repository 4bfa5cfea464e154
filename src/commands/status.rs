//! `status`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::Args;

use super::flags::{CacheArgs, EXIT_CODES, EXIT_CODES_IN_SHORT, HostArgs, LIMITS, LimitArgs, PrintArgs};
use super::{look_at_all, show};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Selection;
use crate::ops::fleet;
use crate::ops::look::Overview;
use crate::ops::status::{StatusRequest, status};
use crate::run::Run;
use crate::units::TimeSpan;

/// Reports the status with the options of the command line.
pub(crate) fn run(run: &Run, args: StatusArgs) -> Result<Exit, Failure> {
    let human = args.print.is_human(&run.output);
    if args.all_nodes {
        return Ok(show(run, &fleet::status(run, &Selection::from(args.cache), human)?, true));
    }
    if args.host.all_caches {
        let report = look_at_all(run, args.cache, args.host, Overview::Status, human)?;
        let is_fine = !(args.check && report.needs_attention());
        return Ok(show(run, &report, is_fine && report.errors().is_empty()));
    }
    let request = StatusRequest { max_size: args.limit.max_size, stall_time: args.stall_time, human };
    let report = status(run, Selection::from(args.cache), &request)?;
    Ok(show(run, &report, !(args.check && report.needs_attention())))
}

/// Show the state of the cache
///
/// Shows which cache and which index are used and why, the size against the limit, counts and bytes by state,
/// free space, how the file system records access times, which process holds a lock, and what needs
/// attention. Changes nothing and takes no lock.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct StatusArgs {
    /// Exit with 1 if the cache is over its limit or needs attention
    #[arg(long)]
    pub(super) check: bool,
    /// Instead sum up all nodes in the central database
    #[arg(long, conflicts_with_all = ["check", "max_size", "stall_time", "all_caches"])]
    pub(super) all_nodes: bool,
    #[command(flatten)]
    pub(super) limit: LimitArgs,
    /// Count incomplete entries as stalled after this long without a write
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, hide_short_help = true)]
    pub(super) stall_time: Option<TimeSpan>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) host: HostArgs,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}
