//! `clean`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::{ArgGroup, Args};

use super::flags::{
    CacheArgs, ChangeArgs, CloudArgs, EXIT_CODES, EXIT_CODES_IN_SHORT, HostArgs, LIMITS, LogArgs,
    NamedNodesArgs, NodesArgs, PARALLEL, REMOTE, VERIFY, VerifyArgs, no_records_of_all,
};
use super::{conclude, conclude_on_nodes, host_to_change};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::host::{Scope, Task};
use crate::ops::clean::{CleanRequest, clean};
use crate::ops::fleet;
use crate::ops::nodes::NodesCall;
use crate::ops::verify::mover::clean_verify;
use crate::run::Run;
use crate::units::TimeSpan;

/// Cleans with the options of the command line.
pub(crate) fn run(run: &Run, args: CleanArgs) -> Result<Exit, Failure> {
    args.change.check(&args.cache)?;
    if let Some(request) =
        args.named.request(&args.nodes, NodesCall::Clean, args.verification.jobs, args.cloud)
    {
        return conclude_on_nodes(run, args.cache, (args.change, args.log), &request);
    }
    if let Some(url) = args.forget_node {
        let selection = Selection::from(args.cache);
        let config = selection.read(run, false)?;
        args.log.open(run, &config, &args.change);
        let report = fleet::forget(run, &selection, &config, &args.change.into(), &url)?;
        return Ok(conclude(run, &report));
    }
    if args.verify {
        if args.host.all_caches {
            return Err(no_records_of_all());
        }
        let request = args.verification.request(args.change.dry_run, &args.cache)?;
        let selection = Selection::from(args.cache);
        let config = selection.read(run, false)?;
        let settings = Settings::new(&config, selection)?;
        args.log.open(run, &config, &args.change);
        return Ok(conclude(run, &clean_verify(run, &settings, &args.change.into(), &request)?));
    }
    let scope = if args.host.all_caches { Scope::All } else { Scope::One };
    let task = if args.repair { Task::Repair } else { Task::Clean };
    let (mut host, change) = host_to_change(run, args.cache, (scope, task), (args.change, args.log))?;
    let temp_grace = args.host.temp_grace.0;
    let request = CleanRequest { change, forget_all: args.forget_all, temp_grace };
    host.stall_time = args.stall_time;
    host.invalid_grace = args.invalid_grace.0;
    host.ironic_sources = args.host.ironic.0;
    Ok(conclude(run, &clean(&host, &request)?))
}

/// Remove failed and stalled downloads
///
/// Removes every file and symlink in invalid/. Removes those in incomplete/ that have not been written to for
/// the stall time and that no process has open for writing. Needs neither an index nor a database. With
/// --repair, repairs the index, too.
///
/// With --all-caches, does this in every Glance cache of the host, and removes the files that crashed
/// downloads left in Ironic's caches.
///
/// With --all-nodes or --os-image-url, asks nodes to clean their caches by their own settings.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
#[command(group = ArgGroup::new("local").args(NOT_REMOTE).multiple(true).conflicts_with(REMOTE))]
#[command(group = ArgGroup::new(PARALLEL).args(["verify", "all_nodes", "os_image_url"]).multiple(true))]
#[command(mut_arg("jobs", |arg| arg.long_help(JOBS)))]
pub(crate) struct CleanArgs {
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Repair the index
    ///
    /// Removes rows whose file is missing, adds rows for images that have none, and removes rows whose id
    /// cannot be that of an image.
    #[arg(long, conflicts_with = "all_caches")]
    pub(super) repair: bool,
    /// With --repair: forget rows even if most of the images in the index are missing
    ///
    /// Without this option such an index is left alone, because the directory is probably the wrong one, or
    /// its file system is not mounted.
    #[arg(long, requires = "repair", hide_short_help = true)]
    pub(super) forget_all: bool,
    /// Only remove a decommissioned node and its rows from the central database
    #[arg(long, value_name = "URL", conflicts_with_all = ["repair", "stall_time", "all_caches"],
        hide_short_help = true)]
    pub(super) forget_node: Option<String>,
    /// Instead verify the images, and move broken ones to invalid/
    ///
    /// Reads the images and compares size and digest with Glance's records, as status --verify does. Glance
    /// fetches a moved image again when it is used; a later clean removes it from invalid/. Also removes
    /// images whose record is deleted. Other processes are kept waiting only while an image is moved. Needs
    /// the index, and to read Glance's database.
    #[arg(long, conflicts_with_all = NOT_VERIFIED, help_heading = VERIFY)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(super) verification: VerifyArgs,
    /// Age at which incomplete entries are removed
    ///
    /// The age is the time since the last write.
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS)]
    pub(super) stall_time: Option<TimeSpan>,
    /// Age at which invalid entries are removed
    ///
    /// The age is the time since the last write, or since clean --verify moved the file.
    #[arg(long, value_name = "DURATION", default_value = "0", help_heading = LIMITS)]
    pub(super) invalid_grace: TimeSpan,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
    #[command(flatten)]
    pub(super) host: HostArgs,
    #[command(flatten)]
    nodes: NodesArgs,
    #[command(flatten)]
    named: NamedNodesArgs,
    #[command(flatten)]
    cloud: CloudArgs,
}

const JOBS: &str = "With --verify: number of images to read at a time [default: 1]\n\n\
     With --all-nodes or --os-image-url: number of nodes to ask at a time [default: 8]";

/// The options of a clean that removes, or that repairs the index.
const NOT_VERIFIED: [&str; 5] = ["repair", "forget_all", "forget_node", "stall_time", "invalid_grace"];

/// The options that no node can be asked for.
const NOT_REMOTE: [&str; 10] = [
    "verify",
    "repair",
    "forget_all",
    "forget_node",
    "stall_time",
    "invalid_grace",
    "all_caches",
    "ironic_config_file",
    "ironic_config_dir",
    "temp_grace",
];
