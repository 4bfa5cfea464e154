//! The configuration: which files oslo.config would read, in which order, and what each option is worth.
//!
//! Promises: [`Config::load`] reads all files once and refuses the ones it cannot read or parse; a value is
//! judged only when it is asked for, and every value remembers its [`Origin`]. Nothing here writes, looks at the
//! process's own environment, or shows the value of a secret. Flags that override one setting are the caller's.
//!
//! From the lowest layer to the highest: defaults, `glance-{api,cache}-dist.conf`, default files, default
//! directories, then `--config-file` and `--config-dir` from left to right, the environment. `--config-file`
//! replaces the default files, `--config-dir` the default directories; neither replaces the other's.

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

use anyhow::{Result, anyhow, bail};
use nix::unistd::{Uid, User};
use rustix::fs::{OFlags, makedev};

pub(crate) use self::options::*;

/// Whose configuration is read: what its files are called, and where they are.
#[derive(Debug)]
pub(crate) struct Project {
    /// `/etc/NAME`, `~/.NAME` and so on.
    name: &'static str,
    /// Default files, later wins.
    files: &'static [&'static str],
    /// What distributions ship below everything else, later wins.
    dist_files: &'static [&'static str],
    /// Variables that name another default file and another default directory.
    variables: Option<(&'static str, &'static str)>,
    /// Whether values may refer to options that this tool does not know but that are set, such as `$state_path`.
    refers_freely: bool,
}

/// Glance lists `glance.conf` also before the first; that changes nothing.
pub(crate) static GLANCE: Project = Project {
    name: "glance",
    files: &["glance-api.conf", "glance.conf", "glance-cache.conf"],
    dist_files: &["glance-api-dist.conf", "glance-cache-dist.conf"],
    variables: None,
    refers_freely: false,
};

/// What a conductor reads.
pub(crate) static IRONIC: Project = Project {
    name: "ironic",
    files: &["ironic.conf", "ironic-conductor.conf"],
    dist_files: &["ironic-dist.conf"],
    variables: Some(("IRONIC_CONFIG_FILE", "IRONIC_CONFIG_DIR")),
    refers_freely: true,
};

/// How often a value may refer to a value that refers to a value.
const MAX_DEPTH: usize = 16;

/// A `--config-file` or `--config-dir`, as given.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Dir(PathBuf),
}

/// What decides which files are read.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) project: &'static Project,
    /// The name called by, without a `.py`: `glance-cache`, or one of the old tools', each with default directories of its own.
    pub(crate) program: String,
    /// In the order of the command line.
    pub(crate) sources: Vec<Source>,
    /// All variables; used are `OS_<GROUP>__<OPTION>`, `HOME`, `SNAP` and `SNAP_COMMON`.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// `/`, or in tests the directory that stands for it.
    pub(crate) root: PathBuf,
    /// Whether default files that this user may not read are passed over: for looking at a cache that is named anyway.
    pub(crate) pass_over_unreadable: bool,
}

/// A value and where it came from.
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

/// Where a value came from, as messages name it.
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

/// Everything that was configured, not yet judged.
#[derive(Debug)]
pub(crate) struct Config {
    project: &'static Project,
    /// Lowest layer first.
    files: Vec<ConfigFile>,
    missing: Vec<PathBuf>,
    /// Default files passed over because this user may not read them.
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

impl Config {
    /// Finds and reads all files.
    ///
    /// Fails when a file or directory given is missing, and when any file found is not a readable regular file
    /// in oslo's syntax: going on without it could mean another directory or another limit.
    pub(crate) fn load(request: &Request) -> Result<Self> {
        let home = home(&request.environment);
        let places = places(request, home.as_deref());
        let settings =
            request.environment.iter().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OS_"));
        let environment = settings.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut config = Self {
            project: request.project,
            files: Vec::new(),
            missing: Vec::new(),
            passed_over: Vec::new(),
            pass_over_unreadable: request.pass_over_unreadable,
            environment,
        };

        let project = request.project;
        let share = [request.root.join("usr/share").join(project.name)];
        for name in project.dist_files {
            config.read_first(&share, name)?;
        }
        let named = |variable: &str| {
            request.environment.get(OsStr::new(variable)).filter(|path| !path.is_empty()).map(Path::new)
        };
        let (other_file, other_dir) =
            project.variables.map_or((None, None), |(file, dir)| (named(file), named(dir)));
        if !request.sources.iter().any(|source| matches!(source, Source::File(_))) {
            match other_file {
                Some(path) => config.read_file(path)?,
                None => project.files.iter().try_for_each(|name| config.read_first(&places, name))?,
            }
        }
        if !request.sources.iter().any(|source| matches!(source, Source::Dir(_))) {
            match other_dir {
                Some(path) => config.read_dir(path)?,
                None => default_dirs(project, &request.program)
                    .iter()
                    .try_for_each(|name| config.read_first_dir(&places, name))?,
            }
        }
        for source in &request.sources {
            match source {
                Source::File(path) => config.read_file(&expand(path, home.as_deref()))?,
                Source::Dir(path) => config.read_dir(&expand(path, home.as_deref()))?,
            }
        }
        Ok(config)
    }

    /// Returns the files that were read, lowest layer first.
    pub(crate) fn files_read(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Returns the default files and directories that were looked for and are not there.
    pub(crate) fn files_missing(&self) -> &[PathBuf] {
        &self.missing
    }

    /// Returns the default files that were passed over because this user may not read them.
    pub(crate) fn files_passed_over(&self) -> &[PathBuf] {
        &self.passed_over
    }

    fn passes_over(&self, error: &io::Error) -> bool {
        self.pass_over_unreadable && error.kind() == io::ErrorKind::PermissionDenied
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

    /// Reads the `*.conf` of a directory in the order of their names, hidden ones left out.
    fn read_entries(&mut self, path: &Path, entries: io::Result<std::fs::ReadDir>) -> Result<()> {
        let names = entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
        let mut names = names.map_err(|error| cannot_read("directory", path, &error))?;
        names.retain(|name| {
            let name = name.as_encoded_bytes();
            name.ends_with(b".conf") && !name.starts_with(b".")
        });
        names.sort_unstable();
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

    /// Returns a text, or `None` when it is not set or set to nothing.
    pub(crate) fn optional(&self, opt: &Opt) -> Result<Option<Setting<String>>> {
        let setting = self.value(opt, |text| Ok(text.to_owned()))?;
        Ok(setting.filter(|setting| !setting.value.is_empty()))
    }

    /// Returns one of the option's choices, written as there.
    pub(crate) fn choice(&self, opt: &Opt<'static>) -> Result<Setting<&'static str>> {
        let choices = if let Kind::Choice(choices) = opt.kind { choices } else { &[] };
        self.value(opt, |text| choose(text, choices))?.ok_or_else(|| not_set(opt))
    }

    pub(crate) fn boolean(&self, opt: &Opt) -> Result<Setting<bool>> {
        self.value(opt, as_boolean)?.ok_or_else(|| not_set(opt))
    }

    /// Returns a number not below the option's minimum; one beyond 64 bits is the nearest that fits.
    pub(crate) fn integer(&self, opt: &Opt) -> Result<Setting<i64>> {
        let min = if let Kind::Integer { min } = opt.kind { min } else { i64::MIN };
        self.value(opt, |text| as_integer(text, min))?.ok_or_else(|| not_set(opt))
    }

    /// Returns the items of a list, none when it is not set.
    pub(crate) fn list(&self, opt: &Opt) -> Result<Setting<Vec<String>>> {
        let list = self.value(opt, |text| Ok(oslo::list(text)))?;
        Ok(list.unwrap_or(Setting { value: Vec::new(), origin: Origin::Default }))
    }

    /// Returns the items of a dictionary in their order, none when it is not set.
    pub(crate) fn dictionary(&self, opt: &Opt) -> Result<Setting<Vec<(String, String)>>> {
        let items = self.value(opt, oslo::dictionary)?;
        Ok(items.unwrap_or(Setting { value: Vec::new(), origin: Origin::Default }))
    }

    /// Returns every value of an option that may stand several times, lowest layer first.
    pub(crate) fn every(&self, opt: &Opt) -> Result<Vec<Setting<String>>> {
        let text = |raw: &str, origin| self.read(opt, raw, origin, 0, |text| Ok(text.to_owned()));
        match self.raw(opt)? {
            None => Ok(Vec::new()),
            Some((_, Origin::File { .. })) => self
                .files
                .iter()
                .flat_map(|file| file.all(opt.group, opt.name).map(move |found| (file, found)))
                .map(|(file, found)| {
                    text(&found.value, Origin::File { path: file.path.clone(), line: found.line })
                })
                .collect(),
            Some((raw, origin)) => Ok(vec![text(raw, origin)?]),
        }
    }

    /// Whether somebody set the option.
    pub(crate) fn is_set(&self, opt: &Opt) -> bool {
        !matches!(self.raw(&Opt { default: None, ..*opt }), Ok(None))
    }

    /// Describes every value of a known option that is not accepted, whether or not anybody asked for it, and
    /// settings that are elsewhere and not read at all.
    pub(crate) fn problems(&self) -> Vec<String> {
        let bad = KNOWN.iter().filter_map(|opt| self.shown(opt, 0).err()).map(|error| error.to_string());
        let elsewhere = self.optional(&CONFIG_SOURCE).ok().flatten();
        let elsewhere = elsewhere.map(|source| {
            format!(
                "{}: config_source is not supported, so what {:?} sets is not seen",
                source.origin, source.value
            )
        });
        bad.chain(elsewhere).collect()
    }

    /// Looks a value up, fills in what it refers to and reads it; `None` when there is neither value nor default.
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
        self.raw(opt)?.map(|(raw, origin)| self.read(opt, raw, origin, depth, read)).transpose()
    }

    /// Fills in what one value refers to and reads it.
    fn read<T>(
        &self,
        opt: &Opt,
        raw: &str,
        origin: Origin,
        depth: usize,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Setting<T>> {
        let value =
            oslo::interpolate(raw, |name| self.referred(opt, name, depth)).and_then(|text| read(&text));
        match value {
            Ok(value) => Ok(Setting { value, origin }),
            // The reason may quote a part of the value.
            Err(_) if opt.secret => {
                bail!("{origin}: {} has a value that is not accepted (not shown)", full_name(opt))
            }
            Err(reason) => bail!("{origin}: {} is {raw:?}, but {reason}", full_name(opt)),
        }
    }

    /// Returns the text that wins, as written.
    fn raw<'a>(&'a self, opt: &Opt<'a>) -> Result<Option<(&'a str, Origin)>> {
        let variable = format!("OS_{}__{}", opt.group.to_uppercase(), opt.name.to_uppercase());
        if let Some(text) = self.environment.get(OsStr::new(&variable)) {
            let Some(text) = text.to_str() else { bail!("{variable}: the value is not UTF-8") };
            return Ok(Some((text, Origin::Environment(variable))));
        }
        for file in self.files.iter().rev() {
            // Within one file the name of today wins over older ones, wherever they stand.
            for name in std::iter::once(&opt.name).chain(opt.older_names) {
                if let Some(found) = file.last(opt.group, name) {
                    let origin = Origin::File { path: file.path.clone(), line: found.line };
                    return Ok(Some((&found.value, origin)));
                }
            }
        }
        Ok(opt.default.map(|text| (text, Origin::Default)))
    }

    /// Returns what `$name` stands for in a value of `opt`: an option of its own group, else of `DEFAULT`.
    fn referred(&self, opt: &Opt, name: &str, depth: usize) -> Result<String, String> {
        if depth == MAX_DEPTH {
            return Err(format!("${name} leads back to itself"));
        }
        let known =
            |group: &str, name: &str| KNOWN.iter().find(|known| known.group == group && known.name == name);
        let found = match name.split_once('.') {
            Some((group, name)) => known(group, name).filter(|_| group != "DEFAULT"),
            None => known(opt.group, name).or_else(|| known("DEFAULT", name)),
        };
        if found.is_none() && self.project.refers_freely {
            let set = |group, name| {
                let opt = Opt::new(group, name, Kind::Text);
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
            .ok_or_else(|| format!("${name} names no option this tool knows (write $$ for a dollar sign)"))?;
        self.shown(found, depth + 1).map(Option::unwrap_or_default).map_err(|error| format!("{error:#}"))
    }

    /// Reads a value as its kind demands and writes it as Python would.
    fn shown(&self, opt: &Opt, depth: usize) -> Result<Option<String>> {
        let setting = self.value_at(opt, depth, |text| match opt.kind {
            Kind::Text | Kind::List => Ok(text.to_owned()),
            Kind::Dictionary => oslo::dictionary(text).map(|_| text.to_owned()),
            Kind::Choice(choices) => choose(text, choices).map(|_| text.to_owned()),
            Kind::Boolean => as_boolean(text).map(|on| if on { "True" } else { "False" }.to_owned()),
            Kind::Integer { min } => as_integer(text, min).map(|number| number.to_string()),
        })?;
        Ok(setting.map(|setting| setting.value))
    }
}

impl ConfigFile {
    /// Returns the last assignment of a name in all sections of that group.
    fn last(&self, group: &str, name: &str) -> Option<&oslo::Assignment> {
        self.all(group, name).next_back()
    }

    /// Returns all assignments of a name in all sections of that group, in their order.
    fn all(&self, group: &str, name: &str) -> impl DoubleEndedIterator<Item = &oslo::Assignment> {
        let sections = self.sections.iter().filter(move |section| oslo::same_group(&section.name, group));
        sections.flat_map(|section| &section.assignments).filter(move |assignment| assignment.key == name)
    }
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

/// The name as an operator would look for it in a file.
fn full_name(opt: &Opt) -> String {
    match opt.group {
        "DEFAULT" => opt.name.to_owned(),
        group => format!("[{group}] {}", opt.name),
    }
}

/// Returns the directories searched for default files and directories; the first that has one ends the search.
fn places(request: &Request, home: Option<&Path>) -> Vec<PathBuf> {
    let etc = request.root.join("etc");
    let mut places = Vec::with_capacity(6);
    if let Some(home) = home {
        places.extend([home.join(format!(".{}", request.project.name)), home.to_owned()]);
    }
    places.extend([etc.join(request.project.name), etc]);
    for variable in ["SNAP_COMMON", "SNAP"] {
        if let Some(snap) = request.environment.get(OsStr::new(variable)).filter(|snap| !snap.is_empty()) {
            places.push(Path::new(snap).join("etc").join(request.project.name));
        }
    }
    places
}

/// Returns the names of the default directories, later wins.
fn default_dirs(project: &Project, program: &str) -> Vec<String> {
    let own: &[&str] = match program {
        "glance-cache" => &["glance", "glance-api", "glance-cache"],
        // The old tools read no glance-api.conf.d; who calls one by its name gets what it did.
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

/// Replaces a leading `~`, for what no shell has expanded: `--config-file=~/glance.conf`.
fn expand<'a>(path: &'a Path, home: Option<&Path>) -> Cow<'a, Path> {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Cow::Owned(home.join(rest)),
        _ => Cow::Borrowed(path),
    }
}

/// Tells a path that is not there, or not to be seen, from one that is there and cannot be read.
fn is_missing(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || std::fs::metadata(path).is_err()
}

fn cannot_read(what: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let flag = if what == "file" { "--config-file" } else { "--config-dir" };
            format!(" (run as the user glance-api runs as, or name others with {flag})")
        }
        _ => String::new(),
    };
    anyhow!("cannot read configuration {what} {}: {error}{hint}", path.display())
}

/// Opens a regular file, or `/dev/null` for no settings at all. Never waits, as a FIFO without a writer would.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let is_null = metadata.file_type().is_char_device() && metadata.rdev() == makedev(1, 3);
    if metadata.is_file() || is_null { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}
