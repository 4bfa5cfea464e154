//! The options that several commands have.
//!
//! They are only parsed here. The doc comments are the help texts.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::anyhow;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum, ValueHint};

use crate::cache::index::Driver;
use crate::cache::lock::LockWait;
use crate::config::{Config, ConfigSource};
use crate::exit::Failure;
use crate::host::glance::settings::Selection;
use crate::names::ImageId;
use crate::ops::Change;
use crate::ops::nodes::look::LookRequest;
use crate::ops::nodes::{NodesCall, NodesRequest};
use crate::ops::verify::{Budget, VerifyRequest};
use crate::output::audit::{LogOptions, own_log};
use crate::output::log::Log;
use crate::output::screen::ColorWhen;
use crate::output::{Format, Output};
use crate::run::Run;
use crate::units::{Amount, Moment, Nanos, TimeSpan, given_bytes, given_size, span};

/// The end of the short help of a command.
pub(crate) const EXIT_CODES_IN_SHORT: &str =
    "Exit codes: 0 done; 1 something failed, or over the limit; 2 wrong usage or
configuration; 3 could not start. After 2 and 3 nothing was changed.";

/// The end of the help of a command.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0    done, also if there was nothing to do
  1    finished, but something failed or the cache is still over its limit
  2    wrong usage or configuration; nothing was changed
  3    could not start: locked, index unreachable or no permission; nothing was
       changed
  130  ended by SIGINT, the index is consistent (143: ended by SIGTERM)";

/// The headings of the help. Each command has some of them.
pub(super) const LIMITS: &str = "Limits";
const CACHE: &str = "Cache";
const INDEX: &str = "Index";
pub(super) const ALL_CACHES: &str = "All caches";
pub(super) const NODES: &str = "Nodes";
pub(super) const OUTPUT: &str = "Output";
pub(super) const VERIFY: &str = "Verification";

/// All caches of a host.
#[derive(Debug, Args)]
#[command(next_help_heading = ALL_CACHES)]
pub(super) struct HostArgs {
    /// Include every image cache of this host
    ///
    /// These are Glance's cache, Ironic's master images, and the caches that the configuration declares in
    /// its sections image_cache:NAME.
    #[arg(long)]
    pub(super) all_caches: bool,
    #[command(flatten)]
    pub(super) ironic: IronicSources,
    /// In Ironic's caches, treat the files of a download as stale after this long without activity
    #[arg(long, value_name = "DURATION", default_value = "24h", hide_short_help = true)]
    pub(super) temp_grace: TimeSpan,
}

/// Which cache, and how much is said.
#[derive(Debug, Args)]
#[command(next_help_heading = CACHE)]
pub(crate) struct CacheArgs {
    /// The cache directory [default: image_cache_dir]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) cache_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Type of the index [default: image_cache_driver, or detected from the directory]
    #[arg(long, value_name = "DRIVER", ignore_case = true, help_heading = INDEX, hide_short_help = true)]
    pub(super) driver: Option<DriverName>,
    /// File of the sqlite index, relative to the cache directory [default: image_cache_sqlite_db]
    #[arg(long, value_name = "FILE", help_heading = INDEX, hide_short_help = true)]
    pub(super) sqlite_db: Option<PathBuf>,
    /// URL of this node in the central database [default: worker_self_reference_url]
    #[arg(long, value_name = "URL", help_heading = INDEX, hide_short_help = true)]
    pub(super) node: Option<String>,
    /// URL of the central database, without a password [default: connection in section database]
    ///
    /// A URL with a password is refused here, because every user of the host could read it in the list of
    /// processes. Write it to a file and use --database-file.
    #[arg(long, value_name = "URL", conflicts_with = "database_file", help_heading = INDEX,
        hide_short_help = true)]
    pub(super) database: Option<String>,
    /// Read the URL of the central database, with its password, from this file
    #[arg(long, value_name = "FILE", help_heading = INDEX, hide_short_help = true)]
    pub(super) database_file: Option<PathBuf>,
    /// Use this index even if another one in the directory knows the images
    ///
    /// Without this option, an index that has no row of any image of the cache is refused if the directory
    /// shows another one that has: it is probably the wrong one. list and status warn instead.
    #[arg(long, help_heading = INDEX, hide_short_help = true)]
    pub(super) ignore_other_index: bool,
    /// Print the result as text or as json
    ///
    /// [default: text for list and status; for the others text on a terminal, and json elsewhere]
    #[arg(long, value_name = "FORMAT", help_heading = OUTPUT, hide_possible_values = true,
        value_parser = form_of_results())]
    pub(crate) format: Option<Format>,
    /// Use colours: auto, always or never
    ///
    /// With auto, on a terminal that has them, unless the variable NO_COLOR is set [default: auto]
    #[arg(long, value_name = "WHEN", help_heading = OUTPUT, hide_possible_values = true,
        hide_short_help = true)]
    pub(crate) color: Option<ColorWhen>,
    /// Print only errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub(crate) quiet: bool,
    /// Print what is done and why
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    /// Write metrics to this file, for the textfile collector of Prometheus' node exporter
    ///
    /// Its name should end in .prom. The file is replaced at once, and readable by all users. Its counters go
    /// on from the numbers in it. Commands may share a file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "now",
        help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) textfile: Option<PathBuf>,
    /// Use this as the current time, to preview a later run
    ///
    /// The time is in RFC 3339, such as 2026-11-22T13:00:00Z, or in seconds since the epoch. Commands that
    /// change something accept it only with --dry-run.
    #[arg(long, value_name = "TIME", help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) now: Option<Moment>,
}

/// Returns the parser of the forms of commands that do not print a list.
fn form_of_results() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["text", "json"]).try_map(|name| Format::from_str(&name, false))
}

/// Returns the parser of the forms of `status`.
pub(super) fn form_of_state() -> impl TypedValueParser<Value = Format> {
    let names = PossibleValuesParser::new(["text", "json", "prometheus"]);
    names.map(|name| Format::from_str(&name, false).unwrap_or(Format::Prometheus))
}

/// The options of every command that changes something.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Show what would be done and why, and change nothing
    #[arg(short = 'n', long, conflicts_with = "textfile")]
    pub(super) dry_run: bool,
    /// Time to wait for a lock that another process holds, or for a busy index
    ///
    /// glance-api takes the same locks.
    #[arg(long, value_name = "DURATION", default_value = "60s", hide_short_help = true)]
    pub(super) lock_timeout: TimeSpan,
    /// If the lock is taken, do nothing and exit with 0
    ///
    /// The same holds if the index stays locked for longer than --lock-timeout.
    #[arg(long)]
    pub(super) skip_if_locked: bool,
    /// Before the run starts, wait for a random time of up to this long
    ///
    /// This spreads the cron jobs of many hosts. Nothing is read or locked meanwhile. A dry run does not
    /// wait.
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    pub(super) splay: Option<TimeSpan>,
}

impl ChangeArgs {
    /// Waits for the random time of `--splay`. A signal ends the process meanwhile, as before any change.
    pub(crate) fn wait_for_splay(&self, output: &Output) {
        let Some(splay) = self.splay.filter(|splay| !self.dry_run && splay.0 > 0) else { return };
        let random = RandomState::new().hash_one(std::process::id());
        let wait = TimeSpan((random % splay.0.unsigned_abs()) as Nanos);
        output.note(&format!("waiting {} of at most {} (--splay)", span(wait.0), span(splay.0)));
        std::thread::sleep(wait.as_std());
    }
}

/// Nodes that are asked to do it, instead of doing it here.
#[derive(Debug, Args)]
#[command(next_help_heading = NODES)]
pub(super) struct NodesArgs {
    /// Ask all nodes in the central database to do it
    ///
    /// Each node is asked at its own URL, and does it with its own settings. It needs Glance's Cache API, of
    /// version 2.18 or later for prune and clean, or glance-cache serve.
    #[arg(long, group = REMOTE, conflicts_with_all = NOT_REMOTE, hide_short_help = true)]
    all_nodes: bool,
    /// With --all-nodes: ask this port of each node, such as that of glance-cache serve
    #[arg(long, value_name = "PORT", requires = "all_nodes", hide_short_help = true)]
    nodes_port: Option<u16>,
    #[command(flatten)]
    asking: AskingArgs,
}

/// Nodes that are named.
#[derive(Debug, Args)]
#[command(next_help_heading = NODES)]
pub(super) struct NamedNodesArgs {
    /// Ask the node at this URL to do it
    ///
    /// May be repeated. The variable OS_IMAGE_URL never has this effect.
    #[arg(long, value_name = "URL", group = REMOTE, conflicts_with_all = DATABASE,
        conflicts_with_all = NOT_REMOTE, hide_short_help = true)]
    os_image_url: Vec<String>,
}

/// The number of nodes that are asked at a time, for commands that have no other `--jobs`.
#[derive(Debug, Args)]
#[command(next_help_heading = NODES)]
pub(super) struct NodeJobsArgs {
    /// Number of nodes to ask at a time [default: 8]
    #[arg(short, long, value_name = "NUMBER", requires = REMOTE, hide_short_help = true,
        value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) jobs: Option<u8>,
}

/// A node that is looked at.
#[derive(Debug, Args)]
#[command(next_help_heading = NODES)]
pub(super) struct LookedAtArgs {
    /// Ask the node at this URL, instead of looking here
    ///
    /// Its API knows images in the index and in the queue only. The variable OS_IMAGE_URL never has this
    /// effect.
    #[arg(long, value_name = "URL", group = REMOTE, conflicts_with_all = NOT_LOOKED_AT,
        hide_short_help = true)]
    os_image_url: Option<String>,
    #[command(flatten)]
    asking: AskingArgs,
    #[command(flatten)]
    cloud: CloudArgs,
}

/// The options for a cache of this host and for the central database.
const NOT_LOOKED_AT: [&str; 14] = [
    "no_database",
    "cache_dir",
    "driver",
    "sqlite_db",
    "node",
    "database",
    "database_file",
    "ignore_other_index",
    "textfile",
    "all_nodes",
    "all_caches",
    "ironic_config_file",
    "ironic_config_dir",
    "temp_grace",
];

impl LookedAtArgs {
    /// Returns the request, if a node is to be asked.
    pub(super) fn request(&self) -> Option<LookRequest> {
        let url = self.os_image_url.clone()?;
        let cloud = self.cloud.os_cloud.clone();
        Some(LookRequest { url, timeout: self.asking.timeout.as_std(), cloud })
    }
}

/// The patience with nodes.
#[derive(Debug, Args)]
#[command(next_help_heading = NODES)]
pub(super) struct AskingArgs {
    /// The time that each node has
    ///
    /// A node whose cache is busy is asked again within this time.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = given_timeout,
        requires = REMOTE, hide_short_help = true)]
    timeout: TimeSpan,
}

/// Reads the time that a node has.
fn given_timeout(text: &str) -> Result<TimeSpan, String> {
    match text.parse()? {
        TimeSpan(0) => Err("no node answers in no time: give a duration such as 30s or 15m".to_owned()),
        time => Ok(time),
    }
}

/// The credentials for nodes.
#[derive(Debug, Args)]
#[command(next_help_heading = NODES)]
pub(super) struct CloudArgs {
    /// The cloud in clouds.yaml with the credentials for the nodes [default: OS_CLOUD]
    ///
    /// The first of these counts: this option; OS_TOKEN; OS_CLOUD; OS_AUTH_URL with OS_USERNAME and
    /// OS_PASSWORD, or with an application credential; section keystone_authtoken. None of them makes a
    /// command ask a node.
    #[arg(long, value_name = "NAME", requires = REMOTE, hide_short_help = true)]
    pub(super) os_cloud: Option<String>,
}

/// The group of the options whose work `--jobs` divides.
pub(super) const PARALLEL: &str = "parallel";

/// The group of the options that name nodes.
pub(super) const REMOTE: &str = "remote";

/// The options that nodes cannot be asked for, and those of a cache of this host. The others of a command are
/// in its own file.
const NOT_REMOTE: [&str; 10] = [
    "cache_dir",
    "driver",
    "sqlite_db",
    "node",
    "ignore_other_index",
    "textfile",
    "dry_run",
    "now",
    "lock_timeout",
    "skip_if_locked",
];

/// The options that name nodes in the central database.
const DATABASE: [&str; 3] = ["database", "database_file", "nodes_port"];

/// The number of nodes that are asked at a time.
const NODES_AT_A_TIME: u8 = 8;

impl NodesArgs {
    /// True if all nodes are to be asked.
    pub(super) fn are_asked(&self) -> bool {
        self.all_nodes
    }

    /// Returns the request to all nodes.
    pub(super) fn request(&self, call: NodesCall, jobs: Option<u8>, cloud: Option<String>) -> NodesRequest {
        NodesRequest {
            call,
            urls: None,
            port: self.nodes_port,
            jobs: jobs.unwrap_or(NODES_AT_A_TIME).into(),
            timeout: self.asking.timeout.as_std(),
            cloud,
        }
    }
}

impl NamedNodesArgs {
    /// Returns the request, if nodes are to be asked.
    pub(super) fn request(
        &self,
        nodes: &NodesArgs,
        call: NodesCall,
        jobs: Option<u8>,
        cloud: CloudArgs,
    ) -> Option<NodesRequest> {
        let is_named = !self.os_image_url.is_empty();
        if !is_named && !nodes.are_asked() {
            return None;
        }
        let request = nodes.request(call, jobs, cloud.os_cloud);
        let urls = is_named.then(|| self.os_image_url.clone());
        Some(NodesRequest { urls, ..request })
    }
}

/// The logs of changes.
#[derive(Debug, Args)]
#[command(next_help_heading = OUTPUT)]
pub(super) struct LogArgs {
    /// Log each change and the result to this file [default: log_file in glance-cache.conf]
    ///
    /// Lines are appended. A dry run logs nothing. A log that cannot be written is a warning.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true)]
    log_file: Option<PathBuf>,
    /// Log each change and the result to syslog [default: use_syslog in glance-cache.conf]
    #[arg(long, hide_short_help = true)]
    syslog: bool,
    /// Log each change and the result to the systemd journal [default: use_journal in glance-cache.conf]
    #[arg(long, hide_short_help = true)]
    journal: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = LIMITS)]
pub(super) struct LimitArgs {
    /// Limit of the cache [default: image_cache_max_size]
    ///
    /// A percentage refers to the size of the file system.
    #[arg(long, value_name = "SIZE", value_parser = given_size)]
    pub(super) max_size: Option<Amount>,
}

/// Glance's records of the images.
#[derive(Debug, Args)]
#[command(next_help_heading = INDEX)]
pub(super) struct RecordArgs {
    /// Do not ask Glance's database which images it still serves
    ///
    /// Where the configuration names a database, images whose records are deleted, deactivated or missing
    /// are found out: Glance never serves them. Nothing fails if the database does not answer.
    #[arg(long, hide_short_help = true)]
    pub(super) no_database: bool,
}

/// The options of a verification.
#[derive(Debug, Args)]
#[command(next_help_heading = VERIFY)]
pub(super) struct VerifyArgs {
    /// With --verify: number of images to read at a time [default: 1]
    #[arg(short, long, value_name = "NUMBER", requires = PARALLEL,
        value_parser = clap::value_parser!(u8).range(1..=64), hide_short_help = true)]
    pub(super) jobs: Option<u8>,
    /// With --verify: read no more than this per second
    ///
    /// The rate is that of all images together.
    #[arg(long, value_name = "SIZE", value_parser = given_bytes, requires = "verify", hide_short_help = true)]
    rate_limit: Option<u64>,
    /// With --verify: read no more than this in all
    ///
    /// The next run goes on where this one ended. One image is read in any case.
    #[arg(long, value_name = "SIZE", value_parser = given_bytes, requires = "verify", hide_short_help = true)]
    budget: Option<u64>,
    /// With --verify: begin no further image after this time
    ///
    /// The next run goes on where this one ended.
    #[arg(long = "for", value_name = "DURATION", requires = "verify", hide_short_help = true)]
    lasting: Option<TimeSpan>,
}

impl VerifyArgs {
    /// Returns the request for a verification.
    ///
    /// A run that only looks, or that was given another time (`--now`), leaves no trace in the memory.
    pub(super) fn request(&self, dry_run: bool, cache: &CacheArgs) -> Result<VerifyRequest, Failure> {
        let bytes = |given: Option<u64>, option: &str| match given {
            Some(0) => Err(Failure::usage(anyhow!("{option} takes a size of at least one byte"))),
            given => Ok(given),
        };
        let time = self.lasting.map(TimeSpan::as_std);
        Ok(VerifyRequest {
            jobs: self.jobs.unwrap_or(1).into(),
            rate: bytes(self.rate_limit, "--rate-limit")?,
            budget: Budget { bytes: bytes(self.budget, "--budget")?, time },
            remembers: !dry_run && cache.now.is_none(),
        })
    }
}

/// Returns the error for a verification of all caches of a host.
pub(super) fn no_records_of_all() -> Failure {
    Failure::usage(anyhow!(
        "--verify cannot be used with --all-caches: Glance has no records of the images in Ironic's caches"
    ))
    .hint("give --cache-dir DIR for each Glance cache")
}

/// Returns the error for a verification without the records.
pub(super) fn no_records_wanted() -> Failure {
    Failure::usage(anyhow!(
        "--verify cannot be used with --no-database: images are compared with records in Glance's database"
    ))
}

/// The options for showing sizes.
#[derive(Debug, Args)]
#[command(next_help_heading = OUTPUT)]
pub(super) struct PrintArgs {
    /// Show sizes in bytes
    ///
    /// [default if the output is not a terminal]
    #[arg(long, conflicts_with = "human", hide_short_help = true)]
    pub(super) bytes: bool,
    /// Show sizes in KiB, MiB and so on
    ///
    /// [default on a terminal]
    #[arg(long)]
    pub(super) human: bool,
}

/// `image_cache_driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DriverName {
    Sqlite,
    Xattr,
    #[value(name = "centralized_db")]
    CentralizedDb,
}

/// An image id on the command line, or `-` for a list on standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageArg {
    Image(ImageId),
    Stdin,
}

impl ImageArg {
    /// Returns the image, or `None` for the list.
    pub(super) fn id(&self) -> Option<ImageId> {
        match self {
            ImageArg::Image(id) => Some(*id),
            ImageArg::Stdin => None,
        }
    }
}

impl FromStr for ImageArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" { Ok(ImageArg::Stdin) } else { text.parse().map(ImageArg::Image) }
    }
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

/// Configuration files and directories in the order of the command line: oslo.config reads them from left to
/// right.
#[derive(Debug, Default)]
pub(crate) struct Sources(pub(crate) Vec<ConfigSource>);

#[derive(Debug, Args)]
struct SourceArgs {
    /// Read this file instead of the default ones
    ///
    /// May be repeated; a later file wins.
    #[arg(long, value_name = "FILE")]
    config_file: Vec<PathBuf>,
    /// Read the *.conf files in this directory instead of the default directories
    ///
    /// The files are read in the order of their names. May be repeated; a later file or directory wins.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, hide_short_help = true)]
    config_dir: Vec<PathBuf>,
}

/// Puts files and directories into the order of the command line.
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

/// Makes clap fill a list of sources from the arguments of another structure.
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

/// The configuration files and directories of Ironic, in the order of the command line.
#[derive(Debug, Default)]
pub(super) struct IronicSources(pub(crate) Vec<ConfigSource>);

#[derive(Debug, Args)]
struct IronicSourceArgs {
    /// Read Ironic's configuration from this file instead of the default ones
    ///
    /// May be repeated; a later file wins.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    ironic_config_file: Vec<PathBuf>,
    /// Read Ironic's configuration from the *.conf files in this directory
    ///
    /// The files are read in the order of their names. May be repeated; a later file or directory wins.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, hide_short_help = true)]
    ironic_config_dir: Vec<PathBuf>,
}

sources!(IronicSources, IronicSourceArgs, ironic_config_file, ironic_config_dir);

impl From<CacheArgs> for Selection {
    fn from(args: CacheArgs) -> Self {
        Selection {
            sources: args.sources.0,
            cache_dir: args.cache_dir,
            driver: args.driver.map(Into::into),
            sqlite_db: args.sqlite_db,
            node: args.node,
            database: args.database,
            database_file: args.database_file,
            ignore_other_index: args.ignore_other_index,
        }
    }
}

impl LogArgs {
    /// Opens the logs, unless nothing is changed.
    pub(super) fn open(self, run: &Run, config: &Config, change: &ChangeArgs) {
        if !change.dry_run {
            run.output.set_log(self.own(config));
        }
    }

    /// Returns the options as they were given.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let file = self.log_file.iter().flat_map(|file| ["--log-file".into(), file.clone().into_os_string()]);
        let [syslog, journal] = [(self.syslog, "--syslog"), (self.journal, "--journal")]
            .map(|(is_given, option)| is_given.then(|| option.into()));
        file.chain(syslog).chain(journal).collect()
    }

    /// Returns the logs, and a warning for each that cannot be used.
    pub(super) fn own(self, config: &Config) -> (Log, Vec<String>) {
        let LogArgs { log_file, syslog, journal } = self;
        own_log(config, LogOptions { file: log_file, syslog, journal })
    }
}

impl ChangeArgs {
    /// Fails if a run that changes something was given another time than now: what is in use would look old.
    pub(super) fn check(&self, cache: &CacheArgs) -> Result<(), Failure> {
        if cache.now.is_some() && !self.dry_run {
            return Err(Failure::usage(anyhow!("--now is only for dry runs, list and status"))
                .hint("add --dry-run to see what would be done at that time"));
        }
        Ok(())
    }
}

impl From<ChangeArgs> for Change {
    fn from(args: ChangeArgs) -> Self {
        let lock_wait = LockWait { limit: args.lock_timeout.as_std(), skip_if_locked: args.skip_if_locked };
        Change { dry_run: args.dry_run, lock_wait }
    }
}

impl PrintArgs {
    /// True if sizes are shown with units: on a terminal, unless an option decides.
    pub(super) fn is_human(&self, output: &Output) -> bool {
        self.human || (!self.bytes && output.stdout_is_terminal())
    }
}
