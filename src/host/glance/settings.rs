//! The settings of a Glance cache: which directory, which index, which database, each with where it came from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustix::io::Errno;

use crate::cache::dir::CacheDir;
use crate::cache::index::Driver;
use crate::cache::lock::LockDir;
use crate::commands::flags::CacheArgs;
use crate::config::{self, Config, ConfigSource, Origin, Setting};
use crate::database::url::Address;
use crate::database::{Database, Opening, Patience, Purpose, Refusal, is_missing_table};
use crate::exit::Failure;
use crate::interrupt::Wait;
use crate::os::space::capacity;
use crate::output::Output;
use crate::run::Context;
use crate::units::{Amount, Nanos, SECOND};

/// How long a database may take to let us in, all attempts together, unless its URL says otherwise.
const LIMIT: Duration = Duration::from_secs(10);

/// What the command line says of the database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    pub(crate) node: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) database_file: Option<PathBuf>,
}

/// Which database, and which node of it.
pub(crate) struct CentralSettings {
    pub(crate) node: Option<Setting<String>>,
    /// A URL, with its credentials.
    pub(crate) database: Option<Setting<String>>,
    /// The database with the images' records: the same one, but it belongs to no directory.
    records: Option<Setting<String>>,
    /// What is wrong with the configured ones: whoever needs the database fails with it, nobody else.
    problem: Option<String>,
}

impl CentralSettings {
    /// Overlays the command line on the configuration, which does not count when it belongs to another directory.
    pub(crate) fn resolve(config: &Config, given: Given, elsewhere: bool) -> Result<Self, Failure> {
        let mut problem = None;
        let mut configured = |opt| match config.optional(opt) {
            _ if elsewhere => None,
            Ok(setting) => setting,
            Err(e) => {
                problem = Some(format!("{e:#}"));
                None
            }
        };
        let flag = |value, name| Setting { value, origin: Origin::Flag(name) };
        let database = match (given.database, given.database_file) {
            (Some(url), _) if Address::has_password(&url) => {
                return Err(Failure::usage(anyhow!(
                    "--database has a password in it, which every user of this host can see in the process list"
                ))
                .hint("write the URL to a file that only you can read, and give --database-file FILE"));
            }
            (Some(url), _) => Some(flag(url, "--database")),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read the database's URL from {}", file.display()))
                    .map_err(Failure::usage)?;
                Some(flag(text.trim().to_owned(), "--database-file"))
            }
            (None, None) => configured(&config::DATABASE_CONNECTION),
        };
        let records =
            database.clone().or_else(|| config.optional(&config::DATABASE_CONNECTION).ok().flatten());
        let node = match given.node {
            Some(url) => Some(flag(url, "--node")),
            None => configured(&config::WORKER_SELF_REFERENCE_URL),
        };
        Ok(CentralSettings { node, database, records, problem })
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.problem.as_ref().map_or(Ok(()), |problem| Err(Failure::usage(anyhow!("{problem}"))))
    }

    /// Connects to the database of the index.
    pub(crate) fn open(
        &self,
        config: &Config,
        purpose: Purpose,
        wait: &Wait,
    ) -> Result<Opening<Database>, Failure> {
        self.connect(self.database.as_ref(), config, purpose, wait)
    }

    /// Connects to the database with the images' records, to read them.
    pub(crate) fn open_records(&self, config: &Config, wait: &Wait) -> Result<Database, Failure> {
        match self.connect(self.records.as_ref(), config, Purpose::Look, wait)? {
            Opening::Open(mut database) => {
                let hint = "is it Glance's database, after glance-manage db_sync?";
                database.check_records().map_err(|refusal| hinting_at_tables(refusal, hint))?;
                Ok(database)
            }
            Opening::Unreadable(why) => Err(Failure::cannot_start(anyhow!(why))),
            Opening::Nothing(path) => Err(nothing_at(&path)),
        }
    }

    /// Whether the settings say where the images' records are, before anybody asks there.
    pub(crate) fn check_records(&self, config: &Config) -> Result<(), Failure> {
        patience(config)?;
        self.target(self.records.as_ref()).map(drop)
    }

    fn connect(
        &self,
        url: Option<&Setting<String>>,
        config: &Config,
        purpose: Purpose,
        wait: &Wait,
    ) -> Result<Opening<Database>, Failure> {
        Database::open(self.target(url)?, patience(config)?, purpose, wait).map_err(cannot_start)
    }

    fn target(&self, url: Option<&Setting<String>>) -> Result<Address, Failure> {
        self.check()?;
        let Some(url) = url else {
            return Err(Failure::usage(anyhow!("[database] connection is not set"))
                .hint("set it as for glance-api, or give --database URL or --database-file FILE"));
        };
        Address::parse(&url.value)
            .with_context(|| format!("[database] connection (set by {}) is not understood", url.origin))
            .map_err(Failure::usage)
    }
}

pub(crate) fn nothing_at(path: &Path) -> Failure {
    Failure::cannot_start(anyhow!("the database {} does not exist or is empty", path.display()))
        .hint("glance-manage db_sync makes it")
}

pub(crate) fn cannot_start(refusal: Refusal) -> Failure {
    Failure::cannot_start(refusal.into_error())
}

/// oslo.db's options for connecting, within our own limit: its defaults wait for a hundred seconds.
fn patience(config: &Config) -> Result<Patience, Failure> {
    let retries = config.integer(&config::DATABASE_MAX_RETRIES).map_err(Failure::usage)?.value;
    let interval = config.integer(&config::DATABASE_RETRY_INTERVAL).map_err(Failure::usage)?.value;
    Ok(Patience {
        limit: LIMIT,
        retries: u64::try_from(retries).ok(),
        interval: Duration::from_secs(u64::try_from(interval).unwrap_or(0)).max(Duration::from_millis(100)),
    })
}

/// Gives the hint where tables are what is missing.
pub(crate) fn hinting_at_tables(refusal: Refusal, hint: &str) -> Failure {
    let missing = is_missing_table(&refusal);
    let failure = cannot_start(refusal);
    if missing { failure.hint(hint) } else { failure }
}

/// Which cache, from the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) sources: Vec<ConfigSource>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) driver: Option<Driver>,
    pub(crate) sqlite_db: Option<PathBuf>,
    pub(crate) central: Given,
}

impl From<CacheArgs> for Selection {
    fn from(args: CacheArgs) -> Self {
        Selection {
            sources: args.sources.0,
            cache_dir: args.cache_dir,
            driver: args.driver.map(Into::into),
            sqlite_db: args.sqlite_db,
            central: Given { node: args.node, database: args.database, database_file: args.database_file },
        }
    }
}

/// The settings of a cache, each with where it came from.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) cache_dir: Setting<PathBuf>,
    /// `None` when neither the command line nor the configuration names one.
    pub(crate) driver: Option<Setting<Driver>>,
    /// What is wrong with `image_cache_driver`: whoever needs the index fails with it, nobody else.
    pub(crate) index_problem: Option<String>,
    pub(crate) sqlite_db: Setting<PathBuf>,
    pub(crate) central: CentralSettings,
    /// Whether the settings of the index belong to another directory than the one that was asked for.
    pub(crate) elsewhere: bool,
}

/// What stands where the cache should be.
pub(crate) enum Opened {
    /// Nothing: the text says why there is nothing to do.
    Nothing(String),
    Cache(CacheDir),
}

impl Settings {
    /// Reads the configuration and overlays the command line.
    pub(crate) fn load(context: &Context, selection: Selection) -> Result<Self, Failure> {
        let config = Self::read(context, selection.sources.clone(), false)?;
        Self::overlay(config, selection)
    }

    /// As [`Settings::load`], for looking: where the cache is named on the command line, files that an ordinary user may not
    /// read are no obstacle.
    pub(crate) fn load_to_look(context: &Context, selection: Selection) -> Result<Self, Failure> {
        let config = Self::read(context, selection.sources.clone(), selection.cache_dir.is_some())?;
        for path in config.files_passed_over() {
            context.output.warning(&format!("no permission to read {}: doing without it", path.display()));
        }
        Self::overlay(config, selection)
    }

    /// Reads the configuration files.
    pub(crate) fn read(
        context: &Context,
        sources: Vec<ConfigSource>,
        pass_over_unreadable: bool,
    ) -> Result<Config, Failure> {
        let request = config::ConfigSearch {
            project: &config::GLANCE,
            program: context.program.to_owned(),
            sources,
            environment: context.environment.clone(),
            root: PathBuf::from("/"),
            pass_over_unreadable,
        };
        Config::load(&request).map_err(Failure::usage)
    }

    pub(crate) fn overlay(config: Config, selection: Selection) -> Result<Self, Failure> {
        let Selection { cache_dir, driver, sqlite_db, central, .. } = selection;
        let configured = config.optional(&config::IMAGE_CACHE_DIR);
        let (cache_dir, elsewhere) = match (cache_dir, configured) {
            (Some(given), _) => {
                let elsewhere = is_elsewhere(&config, &given);
                (Setting { value: given, origin: Origin::Flag("--cache-dir") }, elsewhere)
            }
            (None, Ok(Some(configured))) => (configured.map(PathBuf::from), false),
            (None, Ok(None)) => {
                return Err(Failure::usage(anyhow!("image_cache_dir is not set"))
                    .hint("give --cache-dir DIR, or --config-file with the file that sets it"));
            }
            (None, Err(e)) => return Err(Failure::usage(e)),
        };
        let mut index_problem = None;
        let driver = match driver {
            Some(driver) => Some(Setting { value: driver, origin: Origin::Flag("--driver") }),
            None if elsewhere => None,
            None => configured_driver(&config).unwrap_or_else(|e| {
                index_problem = Some(format!("{e:#}"));
                None
            }),
        };
        let sqlite_db = match sqlite_db {
            Some(file) => Setting { value: file, origin: Origin::Flag("--sqlite-db") },
            None if elsewhere => Setting { value: PathBuf::from("cache.db"), origin: Origin::Default },
            None => config.text(&config::IMAGE_CACHE_SQLITE_DB).map_err(Failure::usage)?.map(PathBuf::from),
        };
        let central = CentralSettings::resolve(&config, central, elsewhere)?;
        Ok(Settings { config, cache_dir, driver, index_problem, sqlite_db, central, elsewhere })
    }

    /// Opens the cache directory.
    ///
    /// A configured directory that is missing is nothing to do; one that was asked for by name is a mistake.
    pub(crate) fn open(&self) -> Result<Opened, Failure> {
        let path = &self.cache_dir.value;
        let opened = CacheDir::open(path).map_err(|e| match e.downcast_ref::<Errno>() {
            Some(&Errno::NOTDIR | &Errno::LOOP) => {
                Failure::usage(e.context(format!("{} is set by {}", path.display(), self.cache_dir.origin)))
            }
            Some(&Errno::ACCESS | &Errno::PERM) => {
                Failure::cannot_start(e).hint("run as the user glance-api runs as")
            }
            _ => Failure::cannot_start(e),
        })?;
        match opened {
            Some(dir) => Ok(Opened::Cache(dir)),
            None if self.cache_dir.origin == Origin::Flag("--cache-dir") => {
                Err(Failure::usage(anyhow!("cache directory {} does not exist", path.display())))
            }
            None => Ok(Opened::Nothing(format!(
                "cache directory {} (set by {}) does not exist",
                path.display(),
                self.cache_dir.origin
            ))),
        }
    }

    /// The limit in bytes: the command line's, else `image_cache_max_size`.
    pub(crate) fn max_size(&self, given: Option<Amount>, dir: &CacheDir) -> Result<Setting<u64>, Failure> {
        match given {
            Some(amount) => {
                let whole = dir.statvfs().map_err(Failure::cannot_start)?;
                Ok(Setting { value: amount.of(capacity(&whole)), origin: Origin::Flag("--max-size") })
            }
            None => {
                let max = self.config.integer(&config::IMAGE_CACHE_MAX_SIZE).map_err(Failure::usage)?;
                Ok(max.map(i64::unsigned_abs))
            }
        }
    }

    /// The stall time: the command line's, else `image_cache_stall_time`.
    pub(crate) fn stall_time(
        &self,
        given: Option<crate::units::TimeSpan>,
    ) -> Result<Setting<Nanos>, Failure> {
        match given {
            Some(duration) => Ok(Setting { value: duration.0, origin: Origin::Flag("--stall-time") }),
            None => {
                let seconds = self.config.integer(&config::IMAGE_CACHE_STALL_TIME).map_err(Failure::usage)?;
                Ok(seconds.map(|seconds| seconds.saturating_mul(SECOND)))
            }
        }
    }

    /// Opens the directory of the lock files.
    ///
    /// One that is configured but not there is passed over, as `-v` tells: the old tools took no locks, and whoever has no such
    /// directory shares none with us. The same goes for one that cannot be written: [`take_lock`].
    pub(crate) fn lock_dir(&self, dir: &CacheDir, output: &Output) -> Result<LockDir, Failure> {
        let configured = self.config.optional(&config::LOCK_PATH).map_err(Failure::usage)?;
        if let Some(lock_path) = configured {
            match LockDir::open(Some(Path::new(&lock_path.value)), dir) {
                Ok(locks) => return Ok(locks),
                Err(e) => output.note(&format!(
                    "{e:#} (set by {}): locking in the cache directory instead",
                    lock_path.origin
                )),
            }
        }
        LockDir::open(None, dir).map_err(Failure::cannot_start)
    }
}

/// `image_cache_driver`, if it is set. The default is no setting: what the directory shows is better evidence.
fn configured_driver(config: &Config) -> anyhow::Result<Option<Setting<Driver>>> {
    let driver = config.choice(&config::IMAGE_CACHE_DRIVER)?;
    if driver.origin == Origin::Default {
        return Ok(None);
    }
    Ok(Some(driver.map(|name| match name {
        "sqlite" => Driver::Sqlite,
        "xattr" => Driver::Xattr,
        _ => Driver::CentralizedDb,
    })))
}

/// Whether a directory is another than the configured one, so that the index settings are none of its.
pub(crate) fn is_elsewhere(config: &Config, given: &Path) -> bool {
    let configured = config.optional(&config::IMAGE_CACHE_DIR).ok().flatten();
    !configured.is_some_and(|configured| is_same_directory(given, Path::new(&configured.value)))
}

/// Whether two paths lead to the same directory; when either leads nowhere, whether they are spelt the same.
fn is_same_directory(a: &Path, b: &Path) -> bool {
    match (rustix::fs::stat(a), rustix::fs::stat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => a.components().eq(b.components()),
    }
}
