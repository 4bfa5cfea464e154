//! The command line under the new name.
//!
//! Only what was typed: words become amounts and durations here, what they mean is found out in `commands`. The help texts
//! are the man pages and the completions, too; a test compares the committed files with what this parser gives.

// The doc comments here are the help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::cache::index::Driver;
use crate::config::Source;
use crate::names::ImageId;
use crate::output::Format;
use crate::units::{Amount, Duration, Moment};

/// Clean, prune, fill and inspect the image caches of OpenStack Glance
///
/// Acts on a cache directory itself: no running glance-api, no token and no Python is needed. Which directory, its limits and
/// its index are read from Glance's own configuration files, or given as options.
///
/// Called as glance-cache-cleaner, glance-cache-pruner or glance-cache-prefetcher, it takes the options of those tools and does what they do.
#[derive(Debug, Parser)]
#[command(name = "glance-cache", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    Clean(CleanArgs),
    Prune(PruneArgs),
    Prefetch(PrefetchArgs),
    List(ListArgs),
    Status(StatusArgs),
}

const EXIT_CODES: &str = "Exit codes:
  0    done, also when there was nothing to do
  1    finished, but something failed or the cache is still over its limit
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable, no permission; nothing was changed
  130  ended by SIGINT, 143 by SIGTERM, with the index consistent";

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
    pub(crate) stall_time: Option<Duration>,
    /// Leave invalid entries alone that were written to less than this ago
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub(crate) invalid_grace: Duration,
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

const EXIT_CODES_AND_HOST: &str = "Exit codes:
  0    done, also when there was nothing to do
  1    finished, but something failed, the cache is still over its limit, or the required space cannot be had
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable, no permission; nothing was changed
  130  ended by SIGINT, 143 by SIGTERM, with the index consistent

All caches of a host:
  --require and --all-caches act on a list of caches, sorted by priority: Ironic's master images as ironic.conf has them, Glance's
  cache, and those that our own configuration (glance-cache.conf or any file of --config-file) declares. 'status --all-caches'
  shows the list. A section declares a cache, or sets priority, size and age of the one that has the kind's name:

    [image_cache:NAME]
    kind = ironic-instance
    directory = /srv/master_images
    size = 20GiB
    age = 7d
    priority = 30

  Priorities are whole numbers from 1; higher goes first, and among equals the one that was registered first: Glance, ISO, instance,
  TFTP, then declared ones. It is the list's order that counts, not which cache the space is for, as in Ironic today: who wants
  another cache to give first raises its priority. Ironic's own options are read as a conductor reads them; a directory has to be an
  absolute path. File systems are told apart by their device number: of btrfs, each subvolume is one. Images that share blocks
  with others (reflinks) free less than it seems beforehand.

Beside a running conductor:
  Only files named <uuid> or <uuid>.converted go, when no instance has a link to them and they were not used for --min-age. An image is
  renamed into a private subdirectory, looked at again, and unlinked there; one that has gained a link is put back. So no image that
  an instance uses is lost. Two things cannot be made safe from outside, because a conductor's locks are its own: a conductor that has just
  found an image and is about to link it misses it when it goes in between, and that one fetch fails with FileNotFoundError; and its own
  scan of a cache fails the same way when an entry vanishes meanwhile. Both are cured by trying again. --min-age keeps images in active use
  out of it; the first use after a long idle time stays exposed. Where that matters, prune while the conductor is stopped or idle.";

/// Remove least recently used images until the cache is within its limit
///
/// Rows without a file are forgotten first, whether the cache is over its limit or not. Images without a row take their turn by
/// the later of their access and modification time. Which images go is decided before the first does: where 10,000 and more go from an
/// sqlite index, they go in the order of its pages.
///
/// With --require, makes room on a file system instead, from all image caches of this host; with --all-caches, holds each of them to its
/// own age and size.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES_AND_HOST)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Once the cache is over its limit, prune down to this; a percentage is of the limit
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["all_caches", "require"])]
    pub(crate) target_size: Option<Amount>,
    /// Keep at least this much of the file system free; a percentage is of the file system
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["all_caches", "require"])]
    pub(crate) min_free: Option<Amount>,
    /// Keep images that were cached or used less than this ago [default: 0; 10m with --require or --all-caches]
    #[arg(long, value_name = "DURATION")]
    pub(crate) min_age: Option<Duration>,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// Keep this image; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) keep: Vec<ImageId>,
    /// Keep the images named in FILE, one id a line, # starts a comment; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) keep_from: Vec<PathBuf>,
    /// Go on even when most of the index's images are not in the directory, and forget their rows
    #[arg(long)]
    pub(crate) forget_all: bool,
    /// When the disk is too full for the index's journal, incomplete entries older than this go first [default:
    /// image_cache_stall_time]
    #[arg(long, value_name = "DURATION")]
    pub(crate) stall_time: Option<Duration>,
}

const EXIT_CODES_OF_PREFETCH: &str = "Exit codes:
  0    done, also when there was nothing to do; images that Glance has cached or is caching count as done
  1    finished, but some image that was asked for is not in the cache
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index or database unreachable, no permission; nothing was changed
  130  ended by SIGINT, 143 by SIGTERM, with the index consistent and nothing staged left";

const LOCK_TIMEOUT_OF_PREFETCH: &str = "How long to wait for the lock that glance-api takes, too, and for a busy index; an image that is \
                                        fetched waits to be published as long as its fetch took, at least this long";

/// Fetch images into the cache before anybody asks for them
///
/// Fetches what is in the queue, oldest first, or the images named. Each is read from its locations in the order of their stores'
/// weights, verified by size and hash, and published with its row in the index; one that is there, or that Glance is just caching, is
/// left alone. Needs Glance's database, which knows the images and where they are.
///
/// What cannot be cached stays in the queue; an image whose data was fetched and wrong is not tried again until its record changes or
/// --retry is given. An image that is not, or no longer, in Glance's database leaves the queue.
///
/// The limit of the cache is the business of prune: the cache is filled beyond it, as Glance does, unless --within-limit or --make-room
/// is given.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES_OF_PREFETCH)]
#[command(mut_arg("lock_timeout", |arg| arg.help(LOCK_TIMEOUT_OF_PREFETCH)))]
pub(crate) struct PrefetchArgs {
    /// The images to fetch; - reads ids from standard input, one a line [default: what is in the queue]
    #[arg(value_name = "ID")]
    pub(crate) images: Vec<Wanted>,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
    /// Only put the images into the queue, for a later run or for Glance
    #[arg(long, requires = "images", conflicts_with_all = ["retry", "require_checksum", "within_limit", "make_room"])]
    pub(crate) enqueue: bool,
    /// Try again what failed before and has not changed since
    #[arg(long)]
    pub(crate) retry: bool,
    /// How many images to fetch at a time
    #[arg(short, long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Move no more than this in a second, all images together
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate_limit: Option<Amount>,
    /// Leave this much of the file system free; a percentage is of the file system
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub(crate) reserve: Amount,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Do not fetch what would put the cache over its limit
    #[arg(long, conflicts_with = "make_room")]
    pub(crate) within_limit: bool,
    /// First remove least recently used images, as prune does, where the limit or the disk leaves no room; never what is queued or
    /// wanted by this run
    #[arg(long)]
    pub(crate) make_room: bool,
    /// Do not fetch an image whose record has neither a hash nor a checksum to verify it by
    #[arg(long)]
    pub(crate) require_checksum: bool,
    /// Take over a half-cached image of somebody else's that was not written to for this long [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION")]
    pub(crate) stall_time: Option<Duration>,
}

/// An image that was asked for, or a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Image(ImageId),
    Stdin,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" { Ok(Wanted::Stdin) } else { text.parse().map(Wanted::Image) }
    }
}

/// List what is in the cache
///
/// Changes nothing, takes no lock, and works while Glance runs. The JSON form is the body of Glance's GET /v2/cache, with arrays
/// of its own for what Glance does not tell.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
    /// Show only entries in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub(crate) state: Vec<State>,
    /// Order the entries
    #[arg(long, value_name = "KEY", default_value = "image")]
    pub(crate) sort: SortKey,
    /// Turn the order round
    #[arg(long)]
    pub(crate) reverse: bool,
    /// List the images of all nodes of the central database instead
    #[arg(long, conflicts_with_all = ["state", "all_caches"])]
    pub(crate) all_nodes: bool,
    /// List the nodes that have this image instead
    #[arg(long, value_name = "ID", conflicts_with_all = ["state", "all_caches"])]
    pub(crate) image: Option<ImageId>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// Show how the cache is doing
///
/// Which cache and index it is and why, its size against the limit, counts and bytes by state, free space, how access times work
/// there, who holds a lock, and what needs attention. Changes nothing and takes no lock.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) print: PrintArgs,
    #[command(flatten)]
    pub(crate) limit: LimitArgs,
    /// Count incomplete entries as stalled that were not written to for this long [default: image_cache_stall_time]
    #[arg(long, value_name = "DURATION")]
    pub(crate) stall_time: Option<Duration>,
    /// Exit with 1 when the cache is over its limit or something needs attention
    #[arg(long)]
    pub(crate) check: bool,
    /// Sum up all nodes of the central database instead
    #[arg(long, conflicts_with_all = ["check", "max_size", "stall_time", "all_caches"])]
    pub(crate) all_nodes: bool,
    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// Space that is needed, whichever cache gives it.
#[derive(Debug, Args)]
pub(crate) struct RoomArgs {
    /// Make sure that this much is free, taking images from every cache of this host on that file system: expired ones first,
    /// then by priority of the cache. When all of them cannot give it, nothing is removed. A percentage is of the file system
    #[arg(long, value_name = "SIZE", conflicts_with = "all_caches")]
    pub(crate) require: Option<Amount>,
    /// With --require, the file system that this file or directory is on [default: the Glance cache's]
    #[arg(long, value_name = "PATH", requires = "require")]
    pub(crate) on: Option<PathBuf>,
    /// With --require, take what there is even when it is not enough
    #[arg(long, requires = "require")]
    pub(crate) best_effort: bool,
}

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
    pub(crate) temp_grace: Duration,
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
    pub(crate) lock_timeout: Duration,
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

/// What `list` can be narrowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Images, with or without a row
    Cached,
    /// Images that the index knows
    Tracked,
    /// Images without a row
    Orphan,
    /// Rows without an image
    Ghost,
    Queued,
    Incomplete,
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

/// Configuration files and directories in the order they were given: oslo.config reads them from left to right.
#[derive(Debug, Default)]
pub(crate) struct Sources(pub(crate) Vec<Source>);

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
fn in_order(matches: &ArgMatches, files: (&str, Vec<PathBuf>), dirs: (&str, Vec<PathBuf>)) -> Vec<Source> {
    let places = |name| matches.indices_of(name).into_iter().flatten();
    let files = places(files.0).zip(files.1.into_iter().map(Source::File));
    let dirs = places(dirs.0).zip(dirs.1.into_iter().map(Source::Dir));
    let in_order: BTreeMap<usize, Source> = files.chain(dirs).collect();
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
pub(crate) struct IronicSources(pub(crate) Vec<Source>);

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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap_complete::Shell;

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn keeps_the_order_of_configuration_sources() {
        let cli = Cli::try_parse_from([
            "glance-cache",
            "status",
            "--config-dir",
            "d1",
            "--config-file",
            "f1",
            "--config-dir=d2",
            "--config-file=f2",
        ])
        .unwrap();
        let Action::Status(args) = cli.command else { panic!("status was asked for") };
        assert_eq!(
            format!("{:?}", args.cache.sources.0),
            r#"[Dir("d1"), File("f1"), Dir("d2"), File("f2")]"#
        );
    }

    /// Renders the man pages and completions; with GLANCE_CACHE_UPDATE_DOCS set, writes them.
    #[test]
    fn man_pages_and_completions_are_current() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let mut command = Cli::command();
        command.build();
        let mut page = |command: &Command, name: &str| {
            let man = clap_mangen::Man::new(command.clone())
                .title(name.to_uppercase())
                .manual("glance-cache manual")
                .source(format!("glance-cache {}", env!("CARGO_PKG_VERSION")));
            let mut text = Vec::new();
            man.render(&mut text).unwrap();
            files.push((root.join("man").join(format!("{name}.1")), text));
        };
        page(&command, "glance-cache");
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            page(sub, &format!("glance-cache-{}", sub.get_name()));
        }
        for (shell, name) in [
            (Shell::Bash, "glance-cache.bash"),
            (Shell::Zsh, "_glance-cache"),
            (Shell::Fish, "glance-cache.fish"),
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "glance-cache", &mut text);
            files.push((root.join("completions").join(name), text));
        }
        for (path, text) in files {
            if std::env::vars_os().any(|(name, _)| name == "GLANCE_CACHE_UPDATE_DOCS") {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let committed = std::fs::read(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{} is not current: run GLANCE_CACHE_UPDATE_DOCS=1 cargo test man_pages",
                path.strip_prefix(root).unwrap().display()
            );
        }
    }
}
