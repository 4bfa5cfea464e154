//! `status`: how a cache is doing, and what needs attention. Changes nothing, takes no lock, makes nothing.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use clap::Args;

use crate::commands::flags::{
    CacheArgs, EXIT_CODES, EXIT_CODES_IN_SHORT, HostArgs, LIMITS, LimitArgs, PrintArgs,
};
use crate::config::{Origin, Setting};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Opened, Selection, Settings};
use crate::ops::host::{self, Look};
use crate::ops::status::{StatusReport, gather, told_settings};
use crate::output::shows_human;
use crate::run::Context;
use crate::units::{Nanos, TimeSpan};

/// Reports, as the command line says.
pub(crate) fn run(context: &Context, args: StatusArgs) -> Result<Exit, Failure> {
    if args.all_nodes {
        return crate::ops::fleet::status(context, args);
    }
    if args.host.all_caches {
        return host::look(context, args.cache, &args.print, args.host, Look::Status { check: args.check });
    }
    let StatusArgs { cache, print, limit, stall_time, check, .. } = args;
    let settings = Settings::load_to_look(context, Selection::from(cache))?;
    let mut report = StatusReport {
        cache_dir: settings.cache_dir.value.display().to_string(),
        cache_dir_set_by: settings.cache_dir.origin.to_string(),
        human: shows_human(&context.output, &print),
        bar: context.output.stdout_is_terminal(),
        ..StatusReport::default()
    };
    report.attention.extend(settings.config.problems());
    match settings.open()? {
        Opened::Nothing(why) => report.notes.push(why),
        Opened::Cache(dir) => {
            report.exists = true;
            // A wrong value is among the problems already.
            let max = settings.max_size(limit.max_size, &dir).ok();
            report.max_size = max.as_ref().map(|max| max.value);
            report.max_size_set_by = max.map(|max| max.origin.to_string());
            let stall = settings.stall_time(stall_time);
            let stall = stall.unwrap_or(Setting { value: Nanos::MAX, origin: Origin::Default });
            report.stall_time_set_by = Some(stall.origin.to_string());
            gather(context, &settings, &dir, stall.value, &mut report)?;
        }
    }
    if context.output.is_verbose() {
        report.settings = Some(told_settings(&settings));
    }
    context.output.result(&report);
    let bad = check && (report.over_limit || !report.attention.is_empty());
    Ok(if bad || context.output.has_failed() { Exit::Incomplete } else { Exit::Done })
}

/// Show the state of the cache
///
/// Shows which cache and which index are used and why, the size against the limit, counts and bytes by state, free space,
/// how the file system records access times, which process holds a lock, and what needs attention. Changes nothing and
/// takes no lock.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_IN_SHORT, after_long_help = EXIT_CODES)]
pub(crate) struct StatusArgs {
    /// Exit with 1 if the cache is over its limit or needs attention
    #[arg(long)]
    pub(crate) check: bool,
    /// Instead sum up all nodes in the central database
    #[arg(long, conflicts_with_all = ["check", "max_size", "stall_time", "all_caches"])]
    pub(crate) all_nodes: bool,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Count incomplete entries as stalled after this long without a write
    ///
    /// [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION", help_heading = LIMITS, hide_short_help = true)]
    pub(crate) stall_time: Option<TimeSpan>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
}
