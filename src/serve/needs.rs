//! Judges Glance's own settings before the service starts, as far as its calls and its passes need them.
//!
//! Each operation reads these settings in a process of its own, and refuses those that are wrong. So the
//! start refuses what operations of this service would refuse every time, with the same code. There are only
//! warnings of what none of its operations needs, and of directories and lists that may come back while it
//! runs. No index and no database is opened: they may be away for a while.

use anyhow::anyhow;

use super::settings::ServeSettings;
use crate::cache::index::Driver;
use crate::config::{self, Config, Opt, Setting};
use crate::exit::{Exit, Failure};
use crate::host::glance::central::check_records;
use crate::host::glance::settings::{Settings, max_size};
use crate::interrupt::Interrupt;
use crate::net::wire::Waits;
use crate::ops::clouds::find_image_cloud;
use crate::ops::ids::configured_keep;
use crate::run::Run;
use crate::source::Stores;

/// The settings of a service, and those of Glance that it works with.
pub(super) struct Needs<'a> {
    pub(super) run: &'a Run,
    pub(super) config: &'a Config,
    pub(super) glance: &'a Settings<'a>,
    pub(super) service: &'a ServeSettings,
}

impl Needs<'_> {
    /// Fails if the operations of this service would refuse a setting every time.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let intervals = &self.service.intervals;
        let fills = self.service.listens() || intervals.prefetch.is_some();
        let (prunes, cleans) = (intervals.prune.is_some(), intervals.clean.is_some());
        self.directory()?;
        self.if_needed(fills || prunes, max_size(self.config, None).map(drop))?;
        self.if_needed(fills || prunes, self.glance.driver().map(drop))?;
        self.if_needed(fills || cleans, self.glance.stall_time(None).map(drop))?;
        self.database()?;
        self.stores()?;
        if self.service.listens() || prunes {
            self.unless_mended("no image is pruned", configured_keep(self.config).map(drop));
        }
        Ok(())
    }

    /// Fails because of a wrong value that is needed, and warns of one that is not.
    fn if_needed(&self, is_needed: bool, checked: Result<(), Failure>) -> Result<(), Failure> {
        match checked {
            Err(failure) if !is_needed => {
                let line = format!("{:#}; nothing that this service does needs it", failure.error);
                self.run.output.warning(&line);
                Ok(())
            }
            checked => checked,
        }
    }

    /// Warns of what may be mended while the service runs.
    fn unless_mended(&self, until: &str, checked: Result<(), Failure>) {
        if let Err(failure) = checked {
            self.run.output.warning(&format!("{:#}; until then, {until}", failure.error));
        }
    }

    /// Judges the directory of the cache. It may be away for now, with its file system.
    fn directory(&self) -> Result<(), Failure> {
        let Setting { value, origin } = &self.glance.cache_dir;
        if !value.is_absolute() {
            let shown = value.display().to_string();
            return Err(Failure::usage(anyhow!(
                "{origin}: image_cache_dir is {shown:?}, but a service needs an absolute path: this one is \
                 looked for wherever the service is started"
            ))
            .hint("set it to the whole path of the directory that glance-api uses"));
        }
        let opened = match self.glance.open() {
            Err(failure) if failure.exit == Exit::Usage => return Err(failure),
            Ok(None) => Err(Failure::cannot_start(anyhow!("{}", self.glance.nothing_there()))),
            opened => opened.map(drop),
        };
        self.unless_mended("each operation fails", opened);
        Ok(())
    }

    /// Judges the settings of the database, if the index or an operation needs them.
    fn database(&self) -> Result<(), Failure> {
        let (glance, settings) = (self.glance, &self.glance.database);
        let has_connection = self.config.optional(&config::DATABASE_CONNECTION).map_err(Failure::usage)?;
        let has_connection = has_connection.is_some();
        let is_central = glance.names(Driver::CentralizedDb);
        let node = settings.node()?;
        let what = if is_central {
            Some(self.shown(&config::IMAGE_CACHE_DRIVER)?)
        } else if self.service.intervals.prefetch.is_some() {
            Some(self.shown(&config::API_PREFETCH_INTERVAL)?)
        } else if has_connection && node.is_some() && matches!(glance.driver(), Ok(None)) {
            Some("image_cache_driver is not set".to_owned())
        } else if has_connection && self.service.listens() {
            Some("the calls of the API ask the database for images and nodes".to_owned())
        } else {
            None
        };
        match (what, has_connection) {
            (Some(what), false) => Err(Failure::usage(anyhow!(
                "{what}, which needs Glance's database, but [database] connection is not set"
            ))
            .hint("set it to the same value as for glance-api")),
            (Some(what), true) => {
                check_records(settings).map_err(|failure| failure.hint(format!("it is needed: {what}")))?;
                if is_central && node.is_none() {
                    return Err(Failure::usage(anyhow!("{what}, but worker_self_reference_url is not set"))
                        .hint("set it to the same value as for glance-api on this host"));
                }
                Ok(())
            }
            (None, true) => {
                let until = "prune does not remove first what Glance no longer serves";
                self.unless_mended(until, check_records(settings));
                Ok(())
            }
            (None, false) => Ok(()),
        }
    }

    /// Judges the settings of the stores, and the ways to read from them, if images are fetched.
    fn stores(&self) -> Result<(), Failure> {
        let is_asked = self.service.intervals.prefetch.is_some();
        let is_called = self.service.listens() && self.service.has_database;
        if !(is_asked || is_called) {
            return Ok(());
        }
        let stores = match Stores::from_config(self.config, &Waits::new(Interrupt::default())) {
            Err(error) if is_asked => return Err(Failure::usage(error)),
            Err(error) => {
                self.unless_mended("queued images are not fetched", Err(Failure::usage(error)));
                return Ok(());
            }
            Ok(stores) => stores,
        };
        let (through_api, all) = stores.read_through_api();
        if through_api.is_empty() {
            return Ok(());
        }
        let Err(error) = find_image_cloud(self.run, self.config, None) else { return Ok(()) };
        let shown = through_api.join(", ");
        let error = error.context(format!("images of {shown} are read through Glance's API only"));
        if is_asked && through_api.len() == all {
            let interval = self.shown(&config::API_PREFETCH_INTERVAL)?;
            return Err(Failure::usage(error.context(format!("{interval}, but nothing can be fetched"))));
        }
        self.unless_mended("they are not fetched", Err(Failure::usage(error)));
        Ok(())
    }

    /// Returns an option with its value, and the place where it is set.
    fn shown(&self, opt: &Opt<'static>) -> Result<String, Failure> {
        let Setting { value, origin } = self.config.text(opt).map_err(Failure::usage)?;
        let section = if opt.group == "DEFAULT" { String::new() } else { format!("[{}] ", opt.group) };
        Ok(format!("{origin}: {section}{} is {value}", opt.name))
    }
}
