//! A store: what each type of store implements, and the options that it is set up from.

use std::path::PathBuf;

use anyhow::Result;

use crate::config::{Config, Opt, Setting};
use crate::names::ImageId;
use crate::openstack::keystone::refused::RefusedLogins;
use crate::source::opened::{Refused, Source};

/// A configured store.
pub(super) trait Store: Send + Sync {
    /// Returns the directories of a store of files. A location of several such stores may be in any of
    /// theirs.
    fn directories(&self) -> &[PathBuf] {
        &[]
    }

    /// True if the store's own locations begin as this one does.
    fn owns(&self, _url: &str) -> bool {
        false
    }

    /// Returns what a location is read from. Opens nothing.
    fn source(&self, wanted: Wanted<'_>) -> Result<Box<dyn Source>>;
}

/// A location that a store is to read.
pub(super) struct Wanted<'a> {
    pub(super) image: ImageId,
    /// Decrypted, of one of the schemes of the store's type.
    pub(super) url: &'a str,
    /// Without credentials.
    pub(super) shown: String,
    /// Directories of all stores that may have it.
    pub(super) directories: Vec<PathBuf>,
}

/// A location as one store reads it, or the reason why it does not.
pub(crate) type Readable = Result<Box<dyn Source>, Refused>;

/// The options of one store.
pub(super) struct Options<'a> {
    pub(super) config: &'a Config,
    /// The sections that may have an option; the first that sets it wins.
    pub(super) groups: &'a [&'a str],
    /// The logins that Keystone has refused, for all stores of a run.
    pub(super) refused: &'a RefusedLogins,
}

impl<'a> Options<'a> {
    /// Returns an option in the section that sets it.
    pub(super) fn of(&self, option: Opt<'static>) -> Opt<'a> {
        let in_group = |group: &&'a str| Opt { group, ..option };
        let set = self.groups.iter().map(in_group).find(|option| self.config.is_set(option));
        set.or(self.groups.first().map(in_group)).unwrap_or(option)
    }

    /// Returns the setting of an option that may be missing.
    pub(super) fn optional(&self, option: Opt<'static>) -> Result<Option<Setting<String>>> {
        self.config.optional(&self.of(option))
    }

    /// Returns the value of an option that may be missing.
    pub(super) fn value(&self, option: Opt<'static>) -> Result<Option<String>> {
        Ok(self.optional(option)?.map(|setting| setting.value))
    }
}
