//! The configuration: the files that oslo.config would read, in its order, and the value of each option.
//!
//! Promises: [`Config::load`] reads all files once and fails on any that it cannot read or parse. A value is
//! judged only when it is asked for, so that a mistake in an option that is not needed stops no run, and
//! every value remembers its [`Origin`]. Nothing here writes, reads the process's own environment, or shows
//! the value of a secret. Command-line flags that override one setting are the caller's business.
//!
//! The layers from lowest to highest: defaults, `glance-{api,cache}-dist.conf`, default files, default
//! directories, then `--config-file` and `--config-dir` from left to right, and the environment.
//! `--config-file` replaces the default files and `--config-dir` the default directories; neither replaces
//! the other's.

#[cfg(test)]
mod fuzz;
mod options;
mod oslo;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use nix::unistd::{Uid, User};
use rustix::fs::{OFlags, makedev};

pub(crate) use self::options::*;
use crate::spelling::{edits, is_close};
use crate::units::TimeSpan;

/// A project whose configuration is read: the names and places of its files.
#[derive(Debug)]
pub(crate) struct Project {
    /// Names the directories: `/etc/NAME`, `~/.NAME` and so on.
    name: &'static str,
    /// Default files; later ones win.
    files: &'static [&'static str],
    /// Files that distributions ship as the lowest layer; later ones win.
    dist_files: &'static [&'static str],
    /// Variables that name a replacement for the default files and for the default directories.
    variables: Option<(&'static str, &'static str)>,
    /// True if values may refer to options that this tool does not know but that are set, such as
    /// `$state_path`.
    refers_freely: bool,
}

/// Glance also lists `glance.conf` before the first of these files, which changes nothing.
pub(crate) static GLANCE: Project = Project {
    name: "glance",
    files: &["glance-api.conf", "glance.conf", "glance-cache.conf"],
    dist_files: &["glance-api-dist.conf", "glance-cache-dist.conf"],
    variables: None,
    refers_freely: false,
};

/// The files that an Ironic conductor reads.
pub(crate) static IRONIC: Project = Project {
    name: "ironic",
    files: &["ironic.conf", "ironic-conductor.conf"],
    dist_files: &["ironic-dist.conf"],
    variables: Some(("IRONIC_CONFIG_FILE", "IRONIC_CONFIG_DIR")),
    refers_freely: true,
};

/// The sections with the options of this tool itself, and of its service.
const OWN_GROUPS: [&str; 2] = ["glance_cache", "cache_api"];

/// The longest chain of values that refer to one another; a longer one is a circle.
const MAX_DEPTH: usize = 16;

/// A `--config-file` or `--config-dir` as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConfigSource {
    File(PathBuf),
    Dir(PathBuf),
}

/// Everything that decides which files are read.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSearch {
    pub(crate) project: &'static Project,
    /// `glance-cache`, or the name of an old tool without `.py`; each has default directories of its own.
    pub(crate) program: String,
    /// In the order of the command line.
    pub(crate) sources: Vec<ConfigSource>,
    /// All variables; of these, `OS_<GROUP>__<OPTION>`, `HOME`, `SNAP`, `SNAP_COMMON` and the project's are
    /// used.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// `/`, or in tests the directory that takes its place.
    pub(crate) root: PathBuf,
    /// True if default files that this user may not read are skipped, for commands that only read a cache
    /// whose directory is given.
    pub(crate) pass_over_unreadable: bool,
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T> Setting<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Setting<U> {
        Setting { value: change(self.value), origin: self.origin }
    }
}

/// The place that a value came from, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The flag's name, dashes included.
    Flag(&'static str),
    /// The variable's name.
    Environment(String),
    /// The line is counted from 1.
    File {
        path: PathBuf,
        line: usize,
    },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => f.write_str(name),
            Self::Environment(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// All configured values, not yet judged.
#[derive(Debug)]
pub(crate) struct Config {
    project: &'static Project,
    /// Lowest layer first.
    files: Vec<ConfigFile>,
    missing: Vec<PathBuf>,
    /// In the order in which they were read.
    dirs_read: Vec<PathBuf>,
    /// Where other files of the project are looked for.
    search_path: Vec<PathBuf>,
    /// Default files that were skipped because this user may not read them.
    passed_over: Vec<PathBuf>,
    pass_over_unreadable: bool,
    /// The variables that could hold a setting.
    environment: BTreeMap<OsString, OsString>,
}

#[derive(Debug)]
struct ConfigFile {
    path: PathBuf,
    sections: Vec<oslo::Section>,
}

/// The text of a value as written, before `$name` is replaced.
struct Raw<'a> {
    text: &'a str,
    origin: Origin,
}

impl Config {
    /// Finds and reads all files.
    ///
    /// Fails if a file or directory that was given is missing, and if any file found is not a readable
    /// regular file in oslo's syntax: without that file, the run could use another directory or another
    /// limit.
    pub(crate) fn load(search: &ConfigSearch) -> Result<Self> {
        let is_setting = |name: &OsString| name.as_encoded_bytes().starts_with(b"OS_");
        let settings = search.environment.iter().filter(|(name, _)| is_setting(name));
        let mut config = Self {
            project: search.project,
            files: Vec::new(),
            missing: Vec::new(),
            dirs_read: Vec::new(),
            search_path: Vec::new(),
            passed_over: Vec::new(),
            pass_over_unreadable: search.pass_over_unreadable,
            environment: settings.map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        let home = home(&search.environment);
        config.read_defaults(search, home.as_deref())?;
        for source in &search.sources {
            match source {
                ConfigSource::File(path) => config.read_file(&expand(path, home.as_deref()))?,
                ConfigSource::Dir(path) => config.read_dir(&expand(path, home.as_deref()))?,
            }
        }
        config.note_search_path(search, home.as_deref());
        Ok(config)
    }

    /// Notes where other files are looked for: in the directories that were read, beside the files that were
    /// read from the last to the first, and in the default places.
    fn note_search_path(&mut self, search: &ConfigSearch, home: Option<&Path>) {
        let is_in_dir = |path: &Path| self.dirs_read.iter().any(|dir| path.parent() == Some(dir));
        let beside = self.files.iter().rev().map(|file| file.path.as_path());
        let beside = beside.filter(|path| !is_in_dir(path)).filter_map(Path::parent);
        let dirs = self.dirs_read.iter().map(PathBuf::as_path).chain(beside).map(Path::to_owned);
        self.search_path = dirs.chain(places(search, home)).collect();
    }

    /// Returns the directories in which other files of the project are looked for, such as policies.
    pub(crate) fn search_path(&self) -> &[PathBuf] {
        &self.search_path
    }

    /// Returns the files that were read, lowest layer first.
    pub(crate) fn files_read(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Returns the default files and directories that do not exist.
    pub(crate) fn files_missing(&self) -> &[PathBuf] {
        &self.missing
    }

    /// Returns the default files that were skipped because this user may not read them.
    pub(crate) fn files_passed_over(&self) -> &[PathBuf] {
        &self.passed_over
    }

    fn passes_over(&self, error: &io::Error) -> bool {
        self.pass_over_unreadable && error.kind() == io::ErrorKind::PermissionDenied
    }

    /// Reads the distribution's files, then the default files and directories that no flag replaces.
    fn read_defaults(&mut self, search: &ConfigSearch, home: Option<&Path>) -> Result<()> {
        let project = search.project;
        let share = [search.root.join("usr/share").join(project.name)];
        for name in project.dist_files {
            self.read_first(&share, name)?;
        }
        let places = places(search, home);
        let named = |variable: &str| {
            search.environment.get(OsStr::new(variable)).filter(|path| !path.is_empty()).map(Path::new)
        };
        let (other_file, other_dir) =
            project.variables.map_or((None, None), |(file, dir)| (named(file), named(dir)));
        if !search.sources.iter().any(|source| matches!(source, ConfigSource::File(_))) {
            match other_file {
                Some(path) => self.read_file(path)?,
                None => project.files.iter().try_for_each(|name| self.read_first(&places, name))?,
            }
        }
        if !search.sources.iter().any(|source| matches!(source, ConfigSource::Dir(_))) {
            match other_dir {
                Some(path) => self.read_dir(path)?,
                None => default_dirs(project, &search.program)
                    .iter()
                    .try_for_each(|name| self.read_first_dir(&places, name))?,
            }
        }
        Ok(())
    }

    /// Reads the first file of that name, if there is one.
    fn read_first(&mut self, places: &[PathBuf], name: &str) -> Result<()> {
        for place in places {
            let path = place.join(name);
            match open(&path) {
                Err(error) if is_missing(&path, &error) => self.missing.push(path),
                Err(error) if self.passes_over(&error) => {
                    self.passed_over.push(path);
                    return Ok(());
                }
                opened => return self.read_opened(&path, opened),
            }
        }
        Ok(())
    }

    /// Reads the first directory of that name, if there is one.
    fn read_first_dir(&mut self, places: &[PathBuf], name: &str) -> Result<()> {
        for place in places {
            let path = place.join(name);
            match std::fs::read_dir(&path) {
                Err(error) if is_missing(&path, &error) => self.missing.push(path),
                Err(error) if self.passes_over(&error) => {
                    self.passed_over.push(path);
                    return Ok(());
                }
                entries => return self.read_entries(&path, entries),
            }
        }
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        self.read_opened(path, open(path))
    }

    fn read_opened(&mut self, path: &Path, opened: io::Result<File>) -> Result<()> {
        let bytes = opened.and_then(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = bytes.map_err(|error| cannot_read("file", path, &error))?;
        let sections = oslo::parse(&bytes)
            .map_err(|error| anyhow!("{}:{}: {}", path.display(), error.line, error.message))?;
        self.files.push(ConfigFile { path: path.to_owned(), sections });
        Ok(())
    }

    fn read_dir(&mut self, path: &Path) -> Result<()> {
        self.read_entries(path, std::fs::read_dir(path))
    }

    /// Reads the `*.conf` files of a directory in the order of their names, except hidden ones.
    fn read_entries(&mut self, path: &Path, entries: io::Result<std::fs::ReadDir>) -> Result<()> {
        let names = entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
        let mut names = names.map_err(|error| cannot_read("directory", path, &error))?;
        names.retain(|name| {
            let name = name.as_encoded_bytes();
            name.ends_with(b".conf") && !name.starts_with(b".")
        });
        names.sort_unstable();
        self.dirs_read.push(path.to_owned());
        names.iter().try_for_each(|name| self.read_file(&path.join(name)))
    }

    /// Returns the names of all sections as written, each once.
    pub(crate) fn sections(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for section in self.files.iter().flat_map(|file| &file.sections) {
            if !names.iter().any(|name| oslo::same_group(name, &section.name)) {
                names.push(&section.name);
            }
        }
        names
    }

    /// Returns a text that is set or has a default.
    pub(crate) fn text(&self, opt: &Opt) -> Result<Setting<String>> {
        self.value(opt, |text| Ok(text.to_owned()))?.ok_or_else(|| not_set(opt))
    }

    /// Returns a text, or `None` if it is not set or empty.
    pub(crate) fn optional(&self, opt: &Opt) -> Result<Option<Setting<String>>> {
        let setting = self.value(opt, |text| Ok(text.to_owned()))?;
        Ok(setting.filter(|setting| !setting.value.is_empty()))
    }

    /// Returns a text of this program's own files or variables, its default, or `None`.
    pub(crate) fn own_text(&self, opt: &Opt) -> Result<Option<Setting<String>>> {
        let raw = self.raw_in(opt, &is_own)?;
        let setting = raw.map(|raw| self.read(opt, raw, 0, |text| Ok(text.to_owned()))).transpose()?;
        Ok(setting.filter(|setting| !setting.value.is_empty()))
    }

    /// Returns a boolean of this program's own files or variables, or its default.
    pub(crate) fn own_boolean(&self, opt: &Opt) -> Result<Setting<bool>> {
        let raw = self.raw_in(opt, &is_own)?.ok_or_else(|| not_set(opt))?;
        self.read(opt, raw, 0, as_boolean)
    }

    /// Returns one of the option's choices, in the spelling of the option's own list.
    pub(crate) fn choice(&self, opt: &Opt<'static>) -> Result<Setting<&'static str>> {
        let choices = if let ValueKind::Choice(choices) = opt.kind { choices } else { &[] };
        self.value(opt, |text| choose(text, choices))?.ok_or_else(|| not_set(opt))
    }

    /// Returns a boolean that is set or has a default.
    pub(crate) fn boolean(&self, opt: &Opt) -> Result<Setting<bool>> {
        self.value(opt, as_boolean)?.ok_or_else(|| not_set(opt))
    }

    /// Returns a number not below the option's minimum; one beyond 64 bits becomes the nearest that fits.
    pub(crate) fn integer(&self, opt: &Opt) -> Result<Setting<i64>> {
        let min = if let ValueKind::Integer { min } = opt.kind { min } else { i64::MIN };
        self.value(opt, |text| as_integer(text, min))?.ok_or_else(|| not_set(opt))
    }

    /// Returns a time: seconds, or numbers with units.
    pub(crate) fn duration(&self, opt: &Opt) -> Result<Setting<Duration>> {
        self.value(opt, |text| text.trim().parse::<TimeSpan>())?
            .map(|setting| setting.map(TimeSpan::as_std))
            .ok_or_else(|| not_set(opt))
    }

    /// Returns the items of a list; none if it is not set.
    pub(crate) fn list(&self, opt: &Opt) -> Result<Setting<Vec<String>>> {
        let list = self.value(opt, |text| Ok(oslo::list(text)))?;
        Ok(list.unwrap_or(Setting { value: Vec::new(), origin: Origin::Default }))
    }

    /// Returns the items of a dictionary in their order; none if it is not set.
    pub(crate) fn dictionary(&self, opt: &Opt) -> Result<Setting<Vec<(String, String)>>> {
        let items = self.value(opt, oslo::dictionary)?;
        Ok(items.unwrap_or(Setting { value: Vec::new(), origin: Origin::Default }))
    }

    /// Returns every value of an option that may be given several times, lowest layer first.
    pub(crate) fn every(&self, opt: &Opt) -> Result<Vec<Setting<String>>> {
        let text = |raw| self.read(opt, raw, 0, |text| Ok(text.to_owned()));
        match self.raw(opt)? {
            None => Ok(Vec::new()),
            Some(Raw { origin: Origin::File { .. }, .. }) => self
                .files
                .iter()
                .flat_map(|file| file.all(opt.group, opt.name).map(move |found| (file, found)))
                .map(|(file, found)| text(file.raw(found)))
                .collect(),
            Some(raw) => Ok(vec![text(raw)?]),
        }
    }

    /// True if the option is set anywhere, so that its value is not merely the default.
    pub(crate) fn is_set(&self, opt: &Opt) -> bool {
        !matches!(self.raw(&Opt { default: None, ..*opt }), Ok(None))
    }

    /// Returns the place where an option is set; `None` if it is not, or if its text cannot be read.
    pub(crate) fn origin(&self, opt: &Opt) -> Option<Origin> {
        let raw = self.raw(&Opt { default: None, ..*opt }).ok()??;
        Some(raw.origin)
    }

    /// Describes options that this tool does not know in the sections that only this tool reads, which are
    /// `[glance_cache]`, `[cache_api]` and `[image_cache:NAME]`.
    pub(crate) fn unknown_options(&self) -> Vec<String> {
        let is_own = |section: &str| {
            let section = section.to_lowercase();
            match section.strip_prefix("image_cache:") {
                Some(_) => Some(OF_DECLARATIONS.to_vec()),
                None => OWN_GROUPS.contains(&section.as_str()).then(|| known_names(&section)),
            }
        };
        let describe = |section: &str, known: &[&str], key: &str| {
            let close = known.iter().find(|name| is_close(key, name));
            let advice = match close {
                Some(name) => format!("did you mean {name}?"),
                None if known.is_empty() => "it has no options".to_owned(),
                None => format!("its options are {}", known.join(", ")),
            };
            format!("[{section}] has no option {key:?}; {advice}")
        };
        let sections = self.sections_with_files().filter_map(|(file, section)| {
            let known = is_own(&section.name)?;
            Some((file, section, known))
        });
        sections
            .flat_map(|(file, section, known)| {
                let unknown = section.assignments.iter().filter({
                    let known = known.clone();
                    move |assignment| !known.contains(&assignment.key.as_str())
                });
                unknown
                    .map(|assignment| {
                        let origin = file.raw(assignment).origin;
                        format!("{origin}: {}", describe(&section.name, &known, &assignment.key))
                    })
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Describes options in `[DEFAULT]` that this tool does not know, but whose names differ by one letter,
    /// or only in case and dashes, from one that it reads.
    fn misspelt_options(&self) -> Vec<String> {
        let known = known_names("DEFAULT");
        let folded = |key: &str| key.to_lowercase().replace('-', "_");
        let in_default = self.sections_with_files().filter(|(_, section)| section.name == "DEFAULT");
        let assignments =
            in_default.flat_map(|(file, section)| section.assignments.iter().map(move |found| (file, found)));
        assignments
            .filter(|(_, assignment)| !known.contains(&assignment.key.as_str()))
            .filter_map(|(file, assignment)| {
                let key = &assignment.key;
                let close = |name: &&&str| folded(key) == **name || edits(key, name) == 1;
                let meant = known.iter().find(close)?;
                let origin = file.raw(assignment).origin;
                Some(format!("{origin}: {key:?} is not an option; did you mean {meant}?"))
            })
            .collect()
    }

    fn sections_with_files(&self) -> impl Iterator<Item = (&ConfigFile, &oslo::Section)> {
        self.files.iter().flat_map(|file| file.sections.iter().map(move |section| (file, section)))
    }

    /// Describes every invalid value of a known option, even of options that this run does not need, options
    /// that are misspelt or unknown, and settings in external sources, which this tool does not read.
    pub(crate) fn problems(&self) -> Vec<String> {
        let bad = KNOWN.iter().filter_map(|opt| self.shown(opt, 0).err()).map(|error| error.to_string());
        let elsewhere = self.optional(&CONFIG_SOURCE).ok().flatten();
        let elsewhere = elsewhere.map(|source| {
            format!(
                "{}: config_source is not supported, so the settings in {:?} are ignored",
                source.origin, source.value
            )
        });
        let misspelt = self.unknown_options().into_iter().chain(self.misspelt_options());
        bad.chain(misspelt).chain(elsewhere).collect()
    }

    /// Returns a value after replacing what it refers to; `None` if there is neither a value nor a default.
    fn value<T>(
        &self,
        opt: &Opt,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<Setting<T>>> {
        self.value_at(opt, 0, read)
    }

    fn value_at<T>(
        &self,
        opt: &Opt,
        depth: usize,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<Setting<T>>> {
        self.raw(opt)?.map(|raw| self.read(opt, raw, depth, read)).transpose()
    }

    /// Replaces the references in one value and reads it.
    fn read<T>(
        &self,
        opt: &Opt,
        Raw { text, origin }: Raw<'_>,
        depth: usize,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Setting<T>> {
        let value =
            oslo::interpolate(text, |name| self.referred(opt, name, depth)).and_then(|text| read(&text));
        match value {
            Ok(value) => Ok(Setting { value, origin }),
            // The reason is left out, because it may quote a part of the value.
            Err(_) if opt.secret => {
                bail!("{origin}: {} has an invalid value (not shown, because it is secret)", full_name(opt))
            }
            Err(reason) => bail!("{origin}: {} is {text:?}, but {reason}", full_name(opt)),
        }
    }

    /// Returns the text of the highest layer, as written.
    fn raw<'a>(&'a self, opt: &Opt<'a>) -> Result<Option<Raw<'a>>> {
        self.raw_in(opt, &|_| true)
    }

    /// Returns the text of the highest layer, as written. Of the files, only those that `counts` accepts
    /// count.
    fn raw_in<'a>(&'a self, opt: &Opt<'a>, counts: &dyn Fn(&Path) -> bool) -> Result<Option<Raw<'a>>> {
        let variable = format!("OS_{}__{}", opt.group.to_uppercase(), opt.name.to_uppercase());
        if let Some(text) = self.environment.get(OsStr::new(&variable)) {
            let Some(text) = text.to_str() else { bail!("{variable}: the value is not UTF-8") };
            return Ok(Some(Raw { text, origin: Origin::Environment(variable) }));
        }
        for file in self.files.iter().rev().filter(|file| counts(&file.path)) {
            // Within one file the current name wins over older ones, in whatever order they are written.
            for name in std::iter::once(&opt.name).chain(opt.older_names) {
                if let Some(found) = file.last(opt.group, name) {
                    return Ok(Some(file.raw(found)));
                }
            }
        }
        Ok(opt.default.map(|text| Raw { text, origin: Origin::Default }))
    }

    /// Returns the value of `$name` within a value of `opt`: an option of the same group, else of `DEFAULT`.
    fn referred(&self, opt: &Opt, name: &str, depth: usize) -> Result<String, String> {
        if depth == MAX_DEPTH {
            return Err(format!("${name} refers back to itself"));
        }
        let known =
            |group: &str, name: &str| KNOWN.iter().find(|known| known.group == group && known.name == name);
        let found = match name.split_once('.') {
            Some((group, name)) => known(group, name).filter(|_| group != "DEFAULT"),
            None => known(opt.group, name).or_else(|| known("DEFAULT", name)),
        };
        if found.is_none() && self.project.refers_freely {
            let set = |group, name| {
                let opt = Opt::new(group, name, ValueKind::Text);
                self.shown(&opt, depth + 1).map_err(|error| format!("{error:#}"))
            };
            let text = match name.split_once('.') {
                Some((group, name)) => set(group, name)?,
                None => set(opt.group, name)?.map_or_else(|| set("DEFAULT", name), |text| Ok(Some(text)))?,
            };
            if let Some(text) = text {
                return Ok(text);
            }
        }
        let found = found
            .ok_or_else(|| format!("${name} is not an option of this tool (write $$ for a dollar sign)"))?;
        self.shown(found, depth + 1).map(Option::unwrap_or_default).map_err(|error| format!("{error:#}"))
    }

    /// Returns a value of any kind in Python's notation, which is what `$name` is replaced by.
    fn shown(&self, opt: &Opt, depth: usize) -> Result<Option<String>> {
        let setting = self.value_at(opt, depth, |text| match opt.kind {
            ValueKind::Text | ValueKind::List => Ok(text.to_owned()),
            ValueKind::Dictionary => oslo::dictionary(text).map(|_| text.to_owned()),
            ValueKind::Choice(choices) => choose(text, choices).map(|_| text.to_owned()),
            ValueKind::Boolean => as_boolean(text).map(|on| if on { "True" } else { "False" }.to_owned()),
            ValueKind::Integer { min } => as_integer(text, min).map(|number| number.to_string()),
        })?;
        Ok(setting.map(|setting| setting.value))
    }
}

impl ConfigFile {
    fn raw<'a>(&'a self, assignment: &'a oslo::Assignment) -> Raw<'a> {
        let origin = Origin::File { path: self.path.clone(), line: assignment.line };
        Raw { text: &assignment.value, origin }
    }

    /// Returns the last assignment of a name in all sections of that group.
    fn last(&self, group: &str, name: &str) -> Option<&oslo::Assignment> {
        self.all(group, name).next_back()
    }

    /// Returns all assignments of a name in all sections of that group, in the order of the file.
    fn all(&self, group: &str, name: &str) -> impl DoubleEndedIterator<Item = &oslo::Assignment> {
        let sections = self.sections.iter().filter(move |section| oslo::same_group(&section.name, group));
        sections.flat_map(|section| &section.assignments).filter(move |assignment| assignment.key == name)
    }
}

/// True for a file of this program itself: `glance-cache.conf`, the one that distributions ship with it, or
/// one in a directory `glance-cache.conf.d`. All others are also read by glance-api.
fn is_own(path: &Path) -> bool {
    let is_named =
        |path: &Path, names: &[&str]| names.iter().any(|name| path.file_name() == Some(OsStr::new(name)));
    is_named(path, &["glance-cache.conf", "glance-cache-dist.conf"])
        || path.parent().is_some_and(|dir| is_named(dir, &["glance-cache.conf.d"]))
}

/// Returns the names of all known options of a group, the older ones, too.
fn known_names(group: &str) -> Vec<&'static str> {
    let options = KNOWN.iter().filter(|opt| opt.group == group);
    options.flat_map(|opt| std::iter::once(&opt.name).chain(opt.older_names)).copied().collect()
}

fn choose<'a>(text: &str, choices: &[&'a str]) -> Result<&'a str, String> {
    let found = choices.iter().find(|choice| choice.eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| format!("must be one of {}", choices.join(", ")))
}

fn as_boolean(text: &str) -> Result<bool, String> {
    oslo::boolean(text).ok_or_else(|| "must be true or false (or 1, on, yes, 0, off, no)".to_owned())
}

fn as_integer(text: &str, min: i64) -> Result<i64, String> {
    match oslo::integer(text) {
        Some(number) if number >= min => Ok(number),
        _ if min == i64::MIN => Err("must be a whole number, without a unit".to_owned()),
        _ => Err(format!("must be a whole number of {min} or more, without a unit")),
    }
}

fn not_set(opt: &Opt) -> anyhow::Error {
    anyhow!("{} is not set", full_name(opt))
}

/// Returns the name with its section, as an operator would look for it in a file.
fn full_name(opt: &Opt) -> String {
    match opt.group {
        "DEFAULT" => opt.name.to_owned(),
        group => format!("[{group}] {}", opt.name),
    }
}

/// Returns the directories in which default files and directories are searched; the search for each of them
/// ends at the first place that has it.
fn places(search: &ConfigSearch, home: Option<&Path>) -> Vec<PathBuf> {
    let etc = search.root.join("etc");
    let mut places = Vec::with_capacity(6);
    if let Some(home) = home {
        places.extend([home.join(format!(".{}", search.project.name)), home.to_owned()]);
    }
    places.extend([etc.join(search.project.name), etc]);
    for variable in ["SNAP_COMMON", "SNAP"] {
        if let Some(snap) = search.environment.get(OsStr::new(variable)).filter(|snap| !snap.is_empty()) {
            places.push(Path::new(snap).join("etc").join(search.project.name));
        }
    }
    places
}

/// Returns the names of the default directories; later ones win.
fn default_dirs(project: &Project, program: &str) -> Vec<String> {
    let own: &[&str] = match program {
        "glance-cache" => &["glance", "glance-api", "glance-cache"],
        // The old tools do not read glance-api.conf.d, so this program does not read it under their names.
        program => &[project.name, program],
    };
    own.iter().map(|name| format!("{name}.conf.d")).collect()
}

/// Returns the home directory as Python finds it: `HOME`, else the user database.
fn home(environment: &BTreeMap<OsString, OsString>) -> Option<PathBuf> {
    match environment.get(OsStr::new("HOME")) {
        Some(home) if home.is_empty() => Some(PathBuf::from("/")),
        Some(home) => Some(PathBuf::from(home)),
        None => Some(User::from_uid(Uid::current()).ok()??.dir),
    }
}

/// Replaces a leading `~`, which the shell leaves in `--config-file=~/glance.conf`.
fn expand<'a>(path: &'a Path, home: Option<&Path>) -> Cow<'a, Path> {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Cow::Owned(home.join(rest)),
        _ => Cow::Borrowed(path),
    }
}

/// True if a path does not exist or is hidden from this user; false if it exists and cannot be read.
#[expect(clippy::disallowed_methods, reason = "a configuration file is given by its path")]
fn is_missing(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || std::fs::metadata(path).is_err()
}

fn cannot_read(kind: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let flag = if kind == "file" { "--config-file" } else { "--config-dir" };
            format!(" (run as the user glance-api runs as, or give another one with {flag})")
        }
        _ => String::new(),
    };
    anyhow!("cannot read configuration {kind} {}: {error}{hint}", path.display())
}

/// Opens a regular file, or `/dev/null` as a file without settings.
///
/// Never blocks: opening a FIFO that has no writer would.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let is_null = metadata.file_type().is_char_device() && metadata.rdev() == makedev(1, 3);
    if metadata.is_file() || is_null { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}
