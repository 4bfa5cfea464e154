//! Options that several commands have.
//!
//! Only what was typed: what it means is found out by the commands. The doc comments are the help texts.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use crate::cache::index::Driver;
use crate::config::ConfigSource;
use crate::output::Format;
use crate::units::{Amount, Moment, TimeSpan};

pub(crate) const EXIT_CODES: &str = "Exit codes:
  0    done, also when there was nothing to do
  1    finished, but something failed or the cache is still over its limit
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable, no permission; nothing was changed
  130  ended by SIGINT, 143 by SIGTERM, with the index consistent";

/// All caches of a host.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Every image cache of this host: Glance's, Ironic's master images, and those that configuration declares
    #[arg(long)]
    pub(crate) all_caches: bool,
    #[command(flatten)]
    pub(crate) ironic: IronicSources,
    /// In Ironic's caches, what a download left counts as stale when it showed no sign of life for this long
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) temp_grace: TimeSpan,
}

/// Which cache, and how much is said.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// The cache directory [default: image_cache_dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The kind of index [default: image_cache_driver, else what the directory shows]
    #[arg(long, value_name = "DRIVER", ignore_case = true)]
    pub(crate) driver: Option<DriverName>,
    /// The file of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]
    #[arg(long, value_name = "FILE")]
    pub(crate) sqlite_db: Option<PathBuf>,
    /// This node's URL in the central database [default: worker_self_reference_url]
    #[arg(long, value_name = "URL")]
    pub(crate) node: Option<String>,
    /// The central database, as a URL without a password [default: connection in the section database]
    #[arg(long, value_name = "URL", conflicts_with = "database_file")]
    pub(crate) database: Option<String>,
    /// Read the central database's URL, password and all, from FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) database_file: Option<PathBuf>,
    /// How to print the result [default: json for clean, prune and prefetch, text for list and status]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Take this for the time it is, in RFC 3339 or as epoch seconds: to try out what a later run would do
    #[arg(long, value_name = "TIME")]
    pub(crate) now: Option<Moment>,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say what is done and why
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// How a change is made.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Print what would be done, with a reason for each entry, and touch nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// How long to wait for the lock that glance-api takes, too, and for a busy index
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) lock_timeout: TimeSpan,
    /// When somebody else holds the lock, do nothing and exit with 0
    #[arg(long)]
    pub(crate) skip_if_locked: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// The limit of the cache; a percentage is of the file system [default: image_cache_max_size]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<Amount>,
}

/// How sizes are shown.
#[derive(Debug, Args)]
pub(crate) struct PrintArgs {
    /// Show sizes in bytes [default when not on a terminal]
    #[arg(long, conflicts_with = "human")]
    pub(crate) bytes: bool,
    /// Show sizes in KiB, MiB and so on [default on a terminal]
    #[arg(long)]
    pub(crate) human: bool,
}

/// `image_cache_driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DriverName {
    Sqlite,
    Xattr,
    #[value(name = "centralized_db")]
    CentralizedDb,
}

impl From<DriverName> for Driver {
    fn from(name: DriverName) -> Self {
        match name {
            DriverName::Sqlite => Driver::Sqlite,
            DriverName::Xattr => Driver::Xattr,
            DriverName::CentralizedDb => Driver::CentralizedDb,
        }
    }
}

/// Configuration files and directories in the order they were given: oslo.config reads them from left to right.
#[derive(Debug, Default)]
pub(crate) struct Sources(pub(crate) Vec<ConfigSource>);

#[derive(Debug, Args)]
struct SourceArgs {
    /// Read this file instead of the default ones; may be repeated, later ones win
    #[arg(long, value_name = "FILE")]
    config_file: Vec<PathBuf>,
    /// Read the *.conf files in this directory, sorted; may be repeated, later ones win
    #[arg(long, value_name = "DIR")]
    config_dir: Vec<PathBuf>,
}

/// Puts files and directories into the order in which they were given.
fn in_order(
    matches: &ArgMatches,
    files: (&str, Vec<PathBuf>),
    dirs: (&str, Vec<PathBuf>),
) -> Vec<ConfigSource> {
    let places = |name| matches.indices_of(name).into_iter().flatten();
    let files = places(files.0).zip(files.1.into_iter().map(ConfigSource::File));
    let dirs = places(dirs.0).zip(dirs.1.into_iter().map(ConfigSource::Dir));
    let in_order: BTreeMap<usize, ConfigSource> = files.chain(dirs).collect();
    in_order.into_values().collect()
}

/// Lets clap fill a list of sources from the arguments of another structure.
macro_rules! sources {
    ($name:ident, $args:ident, $file:ident, $dir:ident) => {
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let args = $args::from_arg_matches(matches)?;
                Ok($name(in_order(matches, (stringify!($file), args.$file), (stringify!($dir), args.$dir))))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                $args::augment_args(command)
            }

            fn augment_args_for_update(command: Command) -> Command {
                $args::augment_args_for_update(command)
            }
        }
    };
}

sources!(Sources, SourceArgs, config_file, config_dir);

/// The same for Ironic's configuration.
#[derive(Debug, Default)]
pub(crate) struct IronicSources(pub(crate) Vec<ConfigSource>);

#[derive(Debug, Args)]
struct IronicSourceArgs {
    /// Read Ironic's configuration from this file instead of the default ones; may be repeated, later ones win
    #[arg(long, value_name = "FILE")]
    ironic_config_file: Vec<PathBuf>,
    /// Read the *.conf files in this directory for Ironic's configuration; may be repeated, later ones win
    #[arg(long, value_name = "DIR")]
    ironic_config_dir: Vec<PathBuf>,
}

sources!(IronicSources, IronicSourceArgs, ironic_config_file, ironic_config_dir);
