//! The settings of a Glance cache, each with its origin.
//!
//! A setting is read when it is needed, so that a wrong value fails only the operations that use it. The
//! command line comes before the configuration. If the command line names another directory than the
//! configured one, the configured index settings are not used, because they belong to the configured
//! directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustix::io::Errno;

use crate::cache::dir::CacheDir;
use crate::cache::index::Driver;
use crate::cache::lock::LockDir;
use crate::config::{self, Config, ConfigSource, Opt, Origin, Setting};
use crate::database::Patience;
use crate::database::url::Address;
use crate::exit::Failure;
use crate::os::mounts::is_same_directory;
use crate::os::space::capacity;
use crate::output::Output;
use crate::run::Run;
use crate::units::{Amount, Nanos, SECOND, TimeSpan};

/// All attempts to connect to a database together may take this long, unless its URL sets another limit.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The choice of a cache on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) sources: Vec<ConfigSource>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) driver: Option<Driver>,
    pub(crate) sqlite_db: Option<PathBuf>,
    pub(crate) node: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) database_file: Option<PathBuf>,
    /// Use the index that is named even if another one knows the images.
    pub(crate) ignore_other_index: bool,
}

impl Selection {
    /// Reads the configuration files. With `pass_over_unreadable`, files that this user may not read are left
    /// out with a warning. There is also a warning of each unknown option in a section that only this program
    /// reads.
    pub(crate) fn read(&self, run: &Run, pass_over_unreadable: bool) -> Result<Config, Failure> {
        let config = self.load(run, pass_over_unreadable)?;
        for unknown in config.unknown_options() {
            run.output.warning(&unknown);
        }
        Ok(config)
    }

    fn load(&self, run: &Run, pass_over_unreadable: bool) -> Result<Config, Failure> {
        let request = config::ConfigSearch {
            project: &config::GLANCE,
            program: run.program.to_owned(),
            sources: self.sources.clone(),
            environment: run.environment.clone(),
            root: PathBuf::from("/"),
            pass_over_unreadable,
        };
        let config = Config::load(&request).map_err(Failure::usage)?;
        for path in config.files_passed_over() {
            run.output.warning(&format!("no permission to read {}; continuing without it", path.display()));
        }
        Ok(config)
    }

    /// Reads the configuration files for an operation that changes nothing. If the command line names the
    /// cache, files that this user may not read are left out. Unknown options are left to a report on the
    /// settings.
    pub(crate) fn read_to_look(&self, run: &Run) -> Result<Config, Failure> {
        self.load(run, self.cache_dir.is_some())
    }

    /// Returns the cache directory: the one on the command line, else the configured one.
    pub(crate) fn directory(&self, config: &Config) -> Result<Option<Setting<PathBuf>>, Failure> {
        match &self.cache_dir {
            Some(given) => Ok(Some(Setting { value: given.clone(), origin: Origin::Flag("--cache-dir") })),
            None => Ok(config
                .optional(&config::IMAGE_CACHE_DIR)
                .map_err(Failure::usage)?
                .map(|setting| setting.map(PathBuf::from))),
        }
    }

    /// True if the command line names another directory than the configured one.
    fn is_elsewhere(&self, config: &Config) -> bool {
        self.cache_dir.as_deref().is_some_and(|given| {
            let configured = config.optional(&config::IMAGE_CACHE_DIR).ok().flatten();
            !configured.is_some_and(|configured| is_same_directory(given, Path::new(&configured.value)))
        })
    }
}

/// The settings of one cache.
pub(crate) struct Settings<'a> {
    pub(crate) config: &'a Config,
    pub(crate) cache_dir: Setting<PathBuf>,
    pub(crate) database: DatabaseSettings<'a>,
    selection: Selection,
}

impl<'a> Settings<'a> {
    /// Fails if neither the command line nor the configuration names a directory.
    pub(crate) fn new(config: &'a Config, selection: Selection) -> Result<Self, Failure> {
        let cache_dir = selection.directory(config)?.ok_or_else(|| {
            Failure::usage(anyhow!("image_cache_dir is not set"))
                .hint("give --cache-dir DIR, or --config-file with the file that sets it")
        })?;
        let database = DatabaseSettings::new(config, &selection);
        Ok(Settings { config, cache_dir, database, selection })
    }

    /// True if the configured index settings are not used, because they belong to another directory.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.database.is_elsewhere
    }

    /// Returns the driver that the command line or the configuration names. If this is `None`, the directory
    /// shows it.
    pub(crate) fn driver(&self) -> Result<Option<Setting<Driver>>, Failure> {
        if let Some(driver) = self.selection.driver {
            return Ok(Some(Setting { value: driver, origin: Origin::Flag("--driver") }));
        }
        if self.is_elsewhere() {
            return Ok(None);
        }
        let driver = self.config.choice(&config::IMAGE_CACHE_DRIVER).map_err(Failure::usage)?;
        // The default of the option is ignored, because the directory is better evidence.
        if driver.origin == Origin::Default {
            return Ok(None);
        }
        Ok(Some(driver.map(|name| match name {
            "sqlite" => Driver::Sqlite,
            "xattr" => Driver::Xattr,
            _ => Driver::CentralizedDb,
        })))
    }

    /// True if the command line or the configuration names this driver.
    pub(crate) fn names(&self, driver: Driver) -> bool {
        self.driver().is_ok_and(|named| named.is_some_and(|named| named.value == driver))
    }

    /// True if the index that is named is used even if another one knows the images.
    pub(super) fn ignores_other_index(&self) -> bool {
        self.selection.ignore_other_index
    }

    /// True if an option names another driver than the central database, which the configuration names or
    /// leaves to be detected.
    pub(super) fn overrides_central(&self) -> bool {
        let given = self.selection.driver.is_some_and(|driver| driver != Driver::CentralizedDb);
        let configured = || self.config.choice(&config::IMAGE_CACHE_DRIVER);
        given && !self.is_elsewhere() && configured().is_ok_and(|driver| driver.value == "centralized_db")
    }

    /// True if an option names the file of the sqlite index.
    pub(super) fn gives_sqlite_db(&self) -> bool {
        self.selection.sqlite_db.is_some()
    }

    /// Returns the path of the sqlite index in the configuration, if an option names another one.
    pub(super) fn configured_sqlite_db(&self) -> Option<PathBuf> {
        let is_overridden = self.gives_sqlite_db() && !self.is_elsewhere();
        let file = is_overridden.then(|| self.config.text(&config::IMAGE_CACHE_SQLITE_DB))?.ok()?;
        Some(PathBuf::from(file.value))
    }

    /// Returns the path of the sqlite index, relative to the cache directory or absolute.
    pub(crate) fn sqlite_db(&self) -> Result<Setting<PathBuf>, Failure> {
        match &self.selection.sqlite_db {
            Some(file) => Ok(Setting { value: file.clone(), origin: Origin::Flag("--sqlite-db") }),
            None if self.is_elsewhere() => {
                Ok(Setting { value: PathBuf::from("cache.db"), origin: Origin::Default })
            }
            None => {
                let file = self.config.text(&config::IMAGE_CACHE_SQLITE_DB).map_err(Failure::usage)?;
                Ok(file.map(PathBuf::from))
            }
        }
    }

    /// Opens the cache directory. Returns `None` if it does not exist, but fails if the command line names
    /// it.
    pub(crate) fn open(&self) -> Result<Option<CacheDir>, Failure> {
        let path = &self.cache_dir.value;
        let opened = CacheDir::open(path).map_err(|e| match e.downcast_ref::<Errno>() {
            Some(&Errno::NOTDIR | &Errno::LOOP) => {
                let origin = &self.cache_dir.origin;
                Failure::usage(e.context(format!("cannot use the directory set by {origin}")))
            }
            Some(&Errno::ACCESS | &Errno::PERM) => {
                Failure::cannot_start(e).hint("run as the user that glance-api runs as")
            }
            _ => Failure::cannot_start(e),
        })?;
        if opened.is_none() && self.cache_dir.origin == Origin::Flag("--cache-dir") {
            return Err(Failure::usage(anyhow!("{}", self.nothing_there()))
                .hint("check the path, and that its file system is mounted"));
        }
        Ok(opened)
    }

    /// Returns the message that the cache directory does not exist, with its origin.
    pub(crate) fn nothing_there(&self) -> String {
        let Setting { value, origin } = &self.cache_dir;
        format!("cache directory {} (set by {origin}) does not exist", value.display())
    }

    /// Returns the limit in bytes: the one on the command line, else `image_cache_max_size`.
    pub(crate) fn max_size(&self, given: Option<Amount>, dir: &CacheDir) -> Result<Setting<u64>, Failure> {
        let max = max_size(self.config, given)?;
        let whole = match max.value {
            Amount::Percent(_) => capacity(&dir.statvfs().map_err(Failure::cannot_start)?),
            Amount::Bytes(_) => 0,
        };
        Ok(max.map(|amount| amount.of(whole)))
    }

    /// Returns the stall time: the one on the command line, else `image_cache_stall_time`.
    pub(crate) fn stall_time(&self, given: Option<TimeSpan>) -> Result<Setting<Nanos>, Failure> {
        if let Some(given) = given {
            return Ok(Setting { value: given.0, origin: Origin::Flag("--stall-time") });
        }
        let seconds = self.config.integer(&config::IMAGE_CACHE_STALL_TIME).map_err(Failure::usage)?;
        Ok(seconds.map(|seconds| seconds.saturating_mul(SECOND)))
    }

    /// Opens the directory of the lock files.
    ///
    /// If the configured directory does not exist, the cache directory is used, which `-v` reports. This is
    /// safe: the old tools took no locks, and without that directory no other process takes a lock there. For
    /// a directory that cannot be written, see [`super::open::take_lock`].
    pub(crate) fn lock_dir(&self, dir: &CacheDir, output: &Output) -> Result<LockDir, Failure> {
        let configured = self.config.optional(&config::LOCK_PATH).map_err(Failure::usage)?;
        if let Some(lock_path) = configured {
            match LockDir::open(Some(Path::new(&lock_path.value)), dir) {
                Ok(locks) => return Ok(locks),
                Err(e) => output.note(&format!(
                    "{e:#} (set by {}); using lock files in the cache directory instead",
                    lock_path.origin
                )),
            }
        }
        LockDir::open(None, dir).map_err(Failure::cannot_start)
    }
}

/// Returns the limit of a cache: the one on the command line, else `image_cache_max_size`.
pub(crate) fn max_size(config: &Config, given: Option<Amount>) -> Result<Setting<Amount>, Failure> {
    match given {
        Some(value) => Ok(Setting { value, origin: Origin::Flag("--max-size") }),
        None => {
            let max = config.integer(&config::IMAGE_CACHE_MAX_SIZE).map_err(Failure::usage)?;
            Ok(max.map(|bytes| Amount::Bytes(bytes.unsigned_abs())))
        }
    }
}

/// The settings of the central database and of this host's node in it.
pub(crate) struct DatabaseSettings<'a> {
    config: &'a Config,
    node: Option<String>,
    database: Option<String>,
    database_file: Option<PathBuf>,
    is_elsewhere: bool,
}

impl<'a> DatabaseSettings<'a> {
    pub(crate) fn new(config: &'a Config, selection: &Selection) -> Self {
        DatabaseSettings {
            config,
            node: selection.node.clone(),
            database: selection.database.clone(),
            database_file: selection.database_file.clone(),
            is_elsewhere: selection.is_elsewhere(config),
        }
    }

    /// Returns the URL of this node, which is its name in the database.
    pub(crate) fn node(&self) -> Result<Option<Setting<String>>, Failure> {
        match &self.node {
            Some(url) => Ok(Some(Setting { value: url.clone(), origin: Origin::Flag("--node") })),
            None => self.configured(&config::WORKER_SELF_REFERENCE_URL),
        }
    }

    /// Returns the URL of the database that holds the index, with its credentials.
    pub(super) fn index(&self) -> Result<Option<Setting<String>>, Failure> {
        match self.given()? {
            Some(given) => Ok(Some(given)),
            None => self.configured(&config::DATABASE_CONNECTION),
        }
    }

    /// Fails if one of the settings is wrong.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.node()?;
        self.index().map(drop)
    }

    /// True if the settings name both a database and a node.
    pub(super) fn are_complete(&self) -> bool {
        matches!((self.node(), self.index()), (Ok(Some(_)), Ok(Some(_))))
    }

    /// Returns the address of the database that holds the index.
    pub(super) fn index_address(&self) -> Result<Address, Failure> {
        address(self.index()?)
    }

    /// Returns the address of the database with Glance's records of the images. It is the same database, but
    /// this setting does not depend on the cache directory.
    pub(super) fn records_address(&self) -> Result<Address, Failure> {
        let url = match self.given()? {
            Some(given) => Some(given),
            None => self.config.optional(&config::DATABASE_CONNECTION).map_err(Failure::usage)?,
        };
        address(url)
    }

    /// True if a setting or an option names the database with Glance's records.
    pub(super) fn name_records(&self) -> bool {
        let is_given = self.database.is_some() || self.database_file.is_some();
        is_given || !matches!(self.config.optional(&config::DATABASE_CONNECTION), Ok(None))
    }

    /// Returns oslo.db's options for connecting, with a time limit of our own, because its defaults would
    /// wait for a hundred seconds.
    pub(super) fn patience(&self) -> Result<Patience, Failure> {
        let retries = self.config.integer(&config::DATABASE_MAX_RETRIES).map_err(Failure::usage)?.value;
        let interval = self.config.integer(&config::DATABASE_RETRY_INTERVAL).map_err(Failure::usage)?.value;
        let interval = Duration::from_secs(u64::try_from(interval).unwrap_or(0));
        Ok(Patience {
            limit: CONNECT_LIMIT,
            retries: u64::try_from(retries).ok(),
            interval: interval.max(Duration::from_millis(100)),
        })
    }

    fn configured(&self, opt: &Opt<'static>) -> Result<Option<Setting<String>>, Failure> {
        if self.is_elsewhere {
            return Ok(None);
        }
        self.config.optional(opt).map_err(Failure::usage)
    }

    /// Returns the URL on the command line. A URL with a password is refused, because every user of the host
    /// can read the process list.
    fn given(&self) -> Result<Option<Setting<String>>, Failure> {
        if let Some(url) = &self.database {
            if Address::has_password(url) {
                return Err(Failure::usage(anyhow!(
                    "the URL of --database contains a password, which every user of this host can see in the \
                     process list"
                ))
                .hint("write the URL to a file that only you can read, and give --database-file FILE"));
            }
            return Ok(Some(Setting { value: url.clone(), origin: Origin::Flag("--database") }));
        }
        let Some(file) = &self.database_file else { return Ok(None) };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the URL of the database from {}", file.display()))
            .map_err(|e| {
                Failure::usage(e).hint("--database-file is a file with one line: the URL, with its password")
            })?;
        Ok(Some(Setting { value: text.trim().to_owned(), origin: Origin::Flag("--database-file") }))
    }
}

fn address(url: Option<Setting<String>>) -> Result<Address, Failure> {
    let Some(url) = url else {
        return Err(Failure::usage(anyhow!("[database] connection is not set")).hint(
            "set it to the same value as for glance-api, or give --database URL or --database-file FILE",
        ));
    };
    let option = if matches!(url.origin, Origin::Flag(_)) { "" } else { " in [database] connection" };
    Address::parse(&url.value)
        .with_context(|| format!("cannot use the URL of the database{option} (set by {})", url.origin))
        .map_err(Failure::usage)
}
