//! `status`: the options, and the request that is made of them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::{ArgGroup, Args};

use super::flags::{
    CacheArgs, EXIT_CODES_IN_SHORT, HostArgs, LIMITS, LimitArgs, LookedAtArgs, OUTPUT, PARALLEL, REMOTE,
    RecordArgs, VerifyArgs, form_of_state, no_records_of_all, no_records_wanted,
};
use super::{keep_metrics, look_at_all, show};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Selection;
use crate::ops::attention::{Threshold, first_line_of_failure};
use crate::ops::fleet;
use crate::ops::look::Overview;
use crate::ops::metrics::unknown_state;
use crate::ops::nodes::look::status_of_node;
use crate::ops::status::{StatusRequest, status};
use crate::output::Report;
use crate::run::Run;
use crate::units::TimeSpan;

/// Reports the status with the options of the command line.
pub(crate) fn run(run: &Run, args: StatusArgs) -> Result<Exit, Failure> {
    let is_check = args.check;
    let done = report(run, args);
    if let (true, Err(failure)) = (is_check && run.output.shows_text() && !run.output.is_quiet(), &done) {
        run.output.print(&first_line_of_failure(failure));
    }
    done
}

fn report(run: &Run, args: StatusArgs) -> Result<Exit, Failure> {
    let (human, check) = (!args.bytes, args.check);
    if let Some(node) = args.node.request() {
        return Ok(show(run, &status_of_node(run, &Selection::from(args.cache), &node, human)?, true));
    }
    if args.all_nodes {
        return Ok(show(run, &fleet::status(run, &Selection::from(args.cache), human)?, true));
    }
    if args.host.all_caches {
        if args.verify {
            return Err(no_records_of_all());
        }
        let mut report = look_at_all(run, args.cache, args.host, Overview::Status, human)?;
        report.check = check;
        let is_fine = report.errors().is_empty() && !(check && report.needs_attention());
        return Ok(conclude(run, &report, check, is_fine));
    }
    if args.verify && args.records.no_database {
        return Err(no_records_wanted());
    }
    let request = StatusRequest {
        max_size: args.limit.max_size,
        stall_time: args.stall_time,
        max_invalid: args.max_invalid,
        max_stalled: args.max_stalled,
        human,
        check,
        asks_records: !args.records.no_database,
        verify: if args.verify { Some(args.verification.request(false, &args.cache)?) } else { None },
    };
    let named = args.cache.cache_dir.as_ref().map_or_else(String::new, |dir| dir.display().to_string());
    let mut report = status(run, Selection::from(args.cache), &request).inspect_err(|_| {
        // The file of metrics must not keep the last good state.
        run.output.keep(&unknown_state(&named));
    })?;
    if let Some(failure) = report.refusal.take() {
        // An alert on a cache that cannot be read needs a metric that says so.
        keep_metrics(run, &report);
        return Err(failure);
    }
    let mut is_fine = !(check && report.needs_attention());
    for error in report.errors.iter().flatten() {
        run.output.error(&error.to_string());
        is_fine = false;
    }
    is_fine &= report.verification.as_ref().is_none_or(|verification| verification.broken.is_empty());
    let exit = conclude(run, &report, check, is_fine);
    let signal = report.verification.as_ref().filter(|verification| verification.is_interrupted);
    Ok(signal.and_then(|_| run.interrupt.signal()).map_or(exit, Exit::Signal))
}

const EXIT_CODES_OF_STATUS: &str = "Exit codes:
  0    done
  1    with --check: something needs attention; with --verify: an image is broken
       or could not be read
  2    wrong usage or configuration
  3    could not start: no permission, or with --verify: Glance's database did not
       answer
  130  --verify was ended by SIGINT (143: SIGTERM); the result has what was read";

/// Prints the report, unless it is a check of which only the exit code is wanted.
fn conclude(run: &Run, report: &impl Report, check: bool, is_fine: bool) -> Exit {
    match (check && run.output.is_quiet(), is_fine) {
        (false, _) => show(run, report, is_fine),
        (true, true) => Exit::Done,
        (true, false) => Exit::Incomplete,
    }
}

/// Show the state of the cache
///
/// Shows which cache and which index are used and why, the size against the limit, counts and bytes by state
/// and by last use, free space, which process holds a lock, and what needs attention. Changes nothing and
/// takes no lock.
///
/// With --verify, also reads the images and compares them with Glance's records, which takes as long as
/// reading them does. clean --verify moves what is broken.
///
/// With --check, the first line, its figures and the exit code are those of a monitoring plugin: 0 is OK, 1
/// is WARNING.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES_OF_STATUS)]
#[command(group = ArgGroup::new("local").args(NOT_REMOTE).multiple(true).conflicts_with(REMOTE))]
#[command(group = ArgGroup::new(PARALLEL).arg("verify"))]
#[command(mut_arg("format", |arg| arg
    .value_parser(form_of_state())
    .help("Print the result as text, json or prometheus")
    .long_help("Print the result as text, json or prometheus\n\n\
        prometheus prints metrics in its text format [default: text]")))]
pub(crate) struct StatusArgs {
    /// Exit with 1 if the cache is over its limit or needs attention
    ///
    /// The first line sums it up, as monitoring systems expect. With --quiet, only errors are
    /// printed.
    #[arg(long)]
    pub(super) check: bool,
    /// Needs attention if there are more invalid files, or an older one
    ///
    /// A number of files, or an age such as 36h. May be repeated. The age is the time since the last write,
    /// or since clean --verify moved the file.
    #[arg(long, value_name = "NUMBER|AGE", default_value = "7d", help_heading = LIMITS)]
    pub(super) max_invalid: Vec<Threshold>,
    /// Needs attention if there are more stalled downloads, or an older one
    ///
    /// A number of downloads, or an age such as 36h. May be repeated. The age is the time since the last
    /// write.
    #[arg(long, value_name = "NUMBER|AGE", default_value = "7d", help_heading = LIMITS)]
    pub(super) max_stalled: Vec<Threshold>,
    /// Instead sum up all nodes in the central database
    #[arg(long, conflicts_with_all = ["check", "max_size", "max_invalid", "max_stalled", "stall_time",
        "all_caches"])]
    pub(super) all_nodes: bool,
    /// Read the images and compare them with Glance's records
    ///
    /// Size and digest are compared. Images that were never verified come first, then those that were
    /// verified longest ago. Access times stay as they are, and so do the images in memory. Needs to read
    /// Glance's database. If an image is broken, the exit code is 1.
    #[arg(long, conflicts_with = "all_nodes")]
    pub(super) verify: bool,
    #[command(flatten)]
    pub(super) verification: VerifyArgs,
    #[command(flatten)]
    pub(super) limit: LimitArgs,
    /// Count incomplete entries as stalled after this long without a write
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, hide_short_help = true)]
    pub(super) stall_time: Option<TimeSpan>,
    #[command(flatten)]
    pub(super) records: RecordArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(super) host: HostArgs,
    /// Show sizes in bytes, not in KiB, MiB and so on
    #[arg(long, conflicts_with = "human", help_heading = OUTPUT)]
    pub(super) bytes: bool,
    /// Show sizes in KiB, MiB and so on, which is the default
    #[arg(long, help_heading = OUTPUT, hide = true)]
    pub(super) human: bool,
    #[command(flatten)]
    node: LookedAtArgs,
}

/// The options that no node can be asked for.
const NOT_REMOTE: [&str; 6] = ["verify", "check", "max_size", "max_invalid", "max_stalled", "stall_time"];
