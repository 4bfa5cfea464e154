//! `prune`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{ArgGroup, Args};

use super::flags::{
    ALL_CACHES, CacheArgs, ChangeArgs, CloudArgs, EXIT_CODES_IN_SHORT, HostArgs, ImageArg, LIMITS, LimitArgs,
    LogArgs, NamedNodesArgs, NodeJobsArgs, NodesArgs, REMOTE, RecordArgs,
};
use super::{conclude, conclude_on_nodes, host_to_change};
use crate::cache::plan::Choice;
use crate::exit::{Exit, Failure};
use crate::host::{Scope, Task};
use crate::names::ImageId;
use crate::ops::ids::{kept_ids, named_ids};
use crate::ops::nodes::NodesCall;
use crate::ops::prune::{PruneRequest, prune};
use crate::ops::require::{SpaceRequest, require};
use crate::run::Run;
use crate::units::{Amount, TimeSpan, given_age, given_size};

/// Prunes with the options of the command line.
pub(crate) fn run(run: &Run, args: PruneArgs) -> Result<Exit, Failure> {
    args.change.check(&args.cache)?;
    if let Some(request) = args.named.request(&args.nodes, NodesCall::Prune, args.node_jobs.jobs, args.cloud)
    {
        return conclude_on_nodes(run, args.cache, (args.change, args.log), &request);
    }
    let choice = args.choice.choice()?;
    let is_one = !args.host.all_caches && args.space.require.is_none();
    if !is_one && args.limit.max_size.is_some() {
        return Err(Failure::usage(anyhow!(
            "--max-size cannot be used with --all-caches or --require: each cache has its own limit there"
        )));
    }
    let keep = kept_ids(&args.keep, &args.keep_from)?;
    let scope = if is_one { Scope::One } else { Scope::All };
    let (mut host, change) = host_to_change(run, args.cache, (scope, Task::Prune), (args.change, args.log))?;
    let request = PruneRequest {
        change,
        target_size: args.target_size,
        min_free: args.min_free,
        min_age: args.min_age.map(|age| age.0),
        keep,
        forget_all: args.forget_all,
        temp_grace: args.host.temp_grace.0,
        choice,
        only_when_over: false,
    };
    host.max_size = args.limit.max_size;
    host.stall_time = args.stall_time;
    host.asks_records = !args.records.no_database;
    host.ironic_sources = args.host.ironic.0;
    let Some(amount) = args.space.require else {
        return Ok(conclude(run, &prune(&host, &request)?));
    };
    let (on, best_effort) = (args.space.on, args.space.best_effort);
    let report = require(&host, &SpaceRequest { amount, on, best_effort, prune: request })?;
    Ok(conclude(run, &report))
}

const EXIT_CODES_OF_PRUNE: &str = "Exit codes:
  0    done, also if there was nothing to do
  1    finished, but something failed, the cache is still over its limit, or
       --require could not free enough
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable or no permission; nothing was
       changed
  130  ended by SIGINT, the index is consistent (143: ended by SIGTERM)";

/// Remove least recently used images until the cache fits its limit
///
/// First removes rows whose file is missing, whether or not the cache is over its limit. Images without a row
/// are removed in their turn, by the later of their access and modification times.
///
/// Images that Glance never serves, because their records are deleted, deactivated or missing, are removed
/// before all others, where the configuration names its database.
///
/// With --image, --older-than or --everything, removes the images that these name, whatever the limit.
///
/// With --require, frees space on a file system instead, from all image caches of the host that are on it.
/// With --all-caches, applies to each cache of the host its own limits for age and size.
///
/// With --all-nodes or --os-image-url, asks nodes to prune their caches by their own settings.
///
/// glance-cache-prune(8) explains how caches are declared and in which order they give space.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES_OF_PRUNE)]
#[command(group = ArgGroup::new("local").args(NOT_REMOTE).multiple(true).conflicts_with(REMOTE))]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    #[command(flatten)]
    pub(super) choice: ChoiceArgs,
    #[command(flatten)]
    pub(super) limit: LimitArgs,
    /// Once over the limit, prune down to this size
    ///
    /// A percentage refers to the limit.
    #[arg(long, value_name = "SIZE", value_parser = given_size,
        conflicts_with_all = ["all_caches", "require"], help_heading = LIMITS)]
    pub(super) target_size: Option<Amount>,
    /// Keep at least this much of the file system free
    ///
    /// A percentage refers to the size of the file system.
    #[arg(long, value_name = "SIZE", value_parser = given_size,
        conflicts_with_all = ["all_caches", "require"], help_heading = LIMITS)]
    pub(super) min_free: Option<Amount>,
    /// Keep images cached or used within this time
    ///
    /// [default: 0, or 10m with --require or --all-caches]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS)]
    pub(super) min_age: Option<TimeSpan>,
    /// Keep this image; may be repeated
    #[arg(long, value_name = "ID", help_heading = LIMITS)]
    pub(super) keep: Vec<ImageId>,
    /// Keep the images listed in this file
    ///
    /// The file has one id per line; # starts a comment. - is standard input. May be repeated.
    #[arg(long, value_name = "FILE", help_heading = LIMITS)]
    pub(super) keep_from: Vec<PathBuf>,
    /// Forget rows even if most of the images in the index are missing
    ///
    /// Without this option such an index is left alone, because the directory is probably the wrong one, or
    /// its file system is not mounted.
    #[arg(long, hide_short_help = true)]
    pub(super) forget_all: bool,
    /// If the disk is too full to change the index, first remove incomplete entries that are older than this
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, hide_short_help = true)]
    pub(super) stall_time: Option<TimeSpan>,
    #[command(flatten)]
    pub(super) records: RecordArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
    #[command(flatten)]
    pub(super) host: HostArgs,
    #[command(flatten)]
    pub(super) space: SpaceArgs,
    #[command(flatten)]
    nodes: NodesArgs,
    #[command(flatten)]
    named: NamedNodesArgs,
    #[command(flatten)]
    cloud: CloudArgs,
    #[command(flatten)]
    node_jobs: NodeJobsArgs,
}

/// The options that no node can be asked for.
const NOT_REMOTE: [&str; 17] = [
    "no_database",
    "image",
    "older_than",
    "everything",
    "max_size",
    "target_size",
    "min_free",
    "min_age",
    "keep",
    "keep_from",
    "forget_all",
    "stall_time",
    "all_caches",
    "ironic_config_file",
    "ironic_config_dir",
    "temp_grace",
    "require",
];

/// Images that are removed whatever the limit.
#[derive(Debug, Args)]
#[command(next_help_heading = LIMITS)]
#[group(multiple = false)]
pub(super) struct ChoiceArgs {
    /// Remove these images, whatever the limit
    ///
    /// An id of - reads ids from standard input, one per line. Other images stay, even if the cache is over
    /// its limit. An image that is not in the cache is reported, and is no error. Images in the queue stay
    /// there: prefetch --dequeue takes them out of it.
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with_all = LIMITS_AND_OTHERS)]
    image: Vec<ImageArg>,
    /// Remove images neither cached nor used for this long
    ///
    /// Other images stay, even if the cache is over its limit. The unit must be given, as in 30d.
    #[arg(long, value_name = "AGE", value_parser = given_age, conflicts_with_all = LIMITS_AND_OTHERS)]
    older_than: Option<TimeSpan>,
    /// Remove all images
    #[arg(long, conflicts_with_all = LIMITS_AND_OTHERS)]
    everything: bool,
}

/// The options that say which images are removed, and so exclude those that name them.
const LIMITS_AND_OTHERS: [&str; 5] = ["max_size", "target_size", "min_free", "all_caches", "require"];

impl ChoiceArgs {
    fn choice(&self) -> Result<Choice, Failure> {
        Ok(match (self.everything, self.older_than) {
            (true, _) => Choice::Everything,
            (_, Some(age)) => Choice::Unused(age.0),
            _ if self.image.is_empty() => Choice::OverLimit,
            _ => {
                let ids = named_ids("the images to remove", self.image.iter().map(ImageArg::id))?;
                Choice::Named(ids.iter().map(ImageId::folded).collect())
            }
        })
    }
}

/// Space that is needed, whichever cache gives it.
#[derive(Debug, Args)]
#[command(next_help_heading = ALL_CACHES)]
pub(super) struct SpaceArgs {
    /// Make sure that this much of a file system is free
    ///
    /// Expired images are removed first, then others by the priority of their cache, until this much is
    /// free. If all caches together cannot free that much, nothing is removed. A percentage refers to the
    /// size of the file system.
    #[arg(long, value_name = "SIZE", value_parser = given_size, conflicts_with = "all_caches")]
    pub(super) require: Option<Amount>,
    /// With --require: a path on that file system
    ///
    /// [default: the Glance cache]
    #[arg(long, value_name = "PATH", requires = "require")]
    pub(super) on: Option<PathBuf>,
    /// With --require: remove images even if they cannot free enough
    #[arg(long, requires = "require", hide_short_help = true)]
    pub(super) best_effort: bool,
}
