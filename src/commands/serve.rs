//! `serve`: the options, and the service that is started with them.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use anyhow::anyhow;
use clap::Args;

use super::flags::{LogArgs, OUTPUT, Sources};
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Selection;
use crate::run::Run;
use crate::serve::settings::ListenPlace;
use crate::serve::{Start, serve};

/// Serves with the options of the command line.
pub(crate) fn run(run: &Run, args: ServeArgs) -> Result<Exit, Failure> {
    if rustix::process::geteuid().is_root() && !args.allow_root {
        return Err(Failure::usage(anyhow!("serve does not run as root")).hint(
            "start it as the user that glance-api runs as, as in runuser -u glance -- glance-cache serve; \
             --allow-root is for containers that have no other user",
        ));
    }
    check_places(&args.bind)?;
    let selection = Selection { sources: args.sources.0, ..Selection::default() };
    let config = selection.read(run, false)?;
    let log_options = args.log.arguments();
    let log = args.log.own(&config);
    let start = Start { selection, config, places: args.bind, log, log_options, is_check: args.check };
    serve(run, start)
}

/// Fails if `none` is given beside a place: one of them would be ignored.
fn check_places(places: &[ListenPlace]) -> Result<(), Failure> {
    let other = places.iter().find(|place| **place != ListenPlace::None);
    match other.filter(|_| places.contains(&ListenPlace::None)) {
        Some(other) => Err(Failure::usage(anyhow!(
            "--bind none listens nowhere, and --bind {other} listens there: give one of them"
        ))),
        None => Ok(()),
    }
}

const EXIT_CODES_OF_SERVE: &str = "Exit codes:
  0    ended by SIGTERM or SIGINT, or with --check: the settings are in order
  2    wrong usage or configuration
  3    could not start: an address in use, a file that cannot be read";

/// Serve the Cache API of Glance, and prune by the clock
///
/// Answers the requests of Glance's Cache API (GET and DELETE /v2/cache, PUT and DELETE /v2/cache/ID, POST
/// /v2/cache/clean and /v2/cache/prune) for the cache of this host, with the authentication and the policy
/// that Glance itself uses. python-glanceclient, python-openstackclient and openstacksdk work with it
/// unmodified.
///
/// With prune_interval, clean_interval or prefetch_interval, it also does this work by the clock, with or
/// without a listener. All settings are in the section cache_api of the configuration.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_OF_SERVE)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(super) sources: Sources,
    /// Listen at this address and port, or at unix:PATH; none listens nowhere
    ///
    /// May be repeated. Sockets that systemd hands over come first.
    ///
    /// [default: bind_host, bind_port and bind_socket in cache_api]
    #[arg(long, value_name = "PLACE")]
    pub(super) bind: Vec<ListenPlace>,
    /// Only check the settings, the certificates and the policy
    ///
    /// Fails with everything for which the service would not start, except an address that is in use. Run it
    /// as the user of the service.
    #[arg(long)]
    pub(super) check: bool,
    /// Run as root
    ///
    /// Files that root makes in the cache belong to its owner. Without this option, serve does not start as
    /// root, because it listens to the network.
    #[arg(long)]
    pub(super) allow_root: bool,
    /// Print only errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub(crate) quiet: bool,
    /// Print requests for health and metrics, too
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(super) log: LogArgs,
}
