//! Status: reports the state of a cache, and everything that needs attention.
//!
//! Nothing is changed, created or locked. A wrong value in the configuration, or an index that cannot be
//! read, is reported among the things that need attention; it does not fail the run.

use std::fmt::Write as _;

use rustix::fs::{AtFlags, statat};
use serde::Serialize;

use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::EntryKind;
use crate::cache::index::Driver;
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::inventory::{Foreign, Inventory, Partials, Tracking};
use crate::cache::ledger::Ledger;
use crate::cache::lock::{CLEAN, INDEX_START, LockDir, PREFETCH, PRUNE};
use crate::cache::plan::{CleanLimits, is_stalled};
use crate::config::{self, Origin, Setting};
use crate::database::opening::{Opening, Purpose};
use crate::exit::{Exit, Failure};
use crate::host::cache::Tally;
use crate::host::glance::index::IndexPlace;
use crate::host::glance::open::{
    Cache, GLANCE_PATIENCE, has_attributes, has_sqlite_file, take_stock, unreadable_errors,
};
use crate::host::glance::settings::{Selection, Settings};
use crate::interrupt::Wait;
use crate::names::escaped;
use crate::os::locks::{holders, process};
use crate::os::mounts::mount_of;
use crate::os::space::{available, capacity};
use crate::output::Report;
use crate::run::Run;
use crate::units::{Amount, Nanos, TimeSpan, count, human, when};

/// At most this many names of a kind are listed; the rest is only counted.
const NAMED: usize = 20;

/// The options of a status.
#[derive(Debug)]
pub(crate) struct StatusRequest {
    pub(crate) max_size: Option<Amount>,
    pub(crate) stall_time: Option<TimeSpan>,
    pub(crate) human: bool,
}

/// Reports the state of a cache and of its surroundings.
pub(crate) fn status(
    run: &Run,
    selection: Selection,
    request: &StatusRequest,
) -> Result<StatusReport, Failure> {
    let config = selection.read_to_look(run)?;
    let settings = Settings::new(&config, selection)?;
    let mut report = StatusReport {
        cache_dir: settings.cache_dir.value.display().to_string(),
        cache_dir_set_by: settings.cache_dir.origin.to_string(),
        human: request.human,
        bar: run.output.stdout_is_terminal(),
        ..StatusReport::default()
    };
    report.attention.extend(settings.config.problems());
    match settings.open()? {
        None => report.notes.push(settings.nothing_there()),
        Some(dir) => {
            report.exists = true;
            // A wrong value is already among the problems.
            let max = settings.max_size(request.max_size, &dir).ok();
            report.max_size = max.as_ref().map(|max| max.value);
            report.max_size_set_by = max.map(|max| max.origin.to_string());
            let stall = settings.stall_time(request.stall_time);
            let stall = stall.unwrap_or(Setting { value: Nanos::MAX, origin: Origin::Default });
            report.stall_time_set_by = Some(stall.origin.to_string());
            gather(run, &settings, &dir, stall.value, &mut report)?;
        }
    }
    if run.output.is_verbose() {
        report.settings = Some(settings_in_use(&settings));
    }
    Ok(report)
}

/// Surveys the cache, and fills in the report.
fn gather(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    stall_time: Nanos,
    report: &mut StatusReport,
) -> Result<(), Failure> {
    let wait = run.wait(GLANCE_PATIENCE);
    let cache = match take_stock(run, settings, dir, Purpose::Look, &wait) {
        Ok(cache) => cache,
        // The directory is not an image cache, or its index is not known. There is nothing else to report.
        Err(failure) if failure.exit == Exit::Usage && settings.driver().is_ok() => {
            return Err(failure);
        }
        Err(failure) => files_only(dir, wait, &failure)?,
    };
    images(dir, &cache, report);
    index(&cache, report);
    leftovers_of_drivers(run, settings, dir, &cache, report);
    let mut foreign = cache.inventory.foreign.clone();
    let limits = CleanLimits { stall_time, invalid_grace: 0 };
    partials(run, dir, limits, &mut foreign, report);
    report.foreign = foreign.iter().map(|entry| shown(dir, entry)).collect();
    file_system(dir, &cache, report);
    owners(dir, &cache, report);
    locks(settings, dir, &cache, report);
    for error in unreadable_errors(&cache.inventory.unreadable) {
        report.attention.push(error.to_string());
    }
    Ok(())
}

/// Returns the cache without an index that could not be read.
fn files_only(dir: &CacheDir, wait: Wait, failure: &Failure) -> Result<Cache, Failure> {
    let tracking = Tracking::Unknown(format!("{:#}", failure.error));
    Ok(Cache {
        inventory: Inventory::scan(dir, tracking).map_err(Failure::cannot_start)?,
        ledger: Ledger::new(None, wait),
        driver: None,
        why: "cannot be read".to_owned(),
        place: IndexPlace::Files,
        warning: None,
    })
}

/// Counts images, orphans and ghosts.
fn images(dir: &CacheDir, cache: &Cache, report: &mut StatusReport) {
    let inventory = &cache.inventory;
    for image in &inventory.images {
        let part = if inventory.is_orphan(image) { &mut report.orphans } else { &mut report.tracked };
        part.count += 1;
        part.bytes = part.bytes.saturating_add(image.seen.size);
        report.allocated += image.seen.allocated;
    }
    report.cache_size = inventory.size();
    report.over_limit = report.max_size.is_some_and(|max| report.cache_size > max);
    report.ghosts = inventory.ghosts.len() as u64;
    report.impossible_rows = inventory.bad_rows.len() as u64;
    if !matches!(inventory.tracking, Tracking::Unknown(_)) {
        let uses = || inventory.images.iter().map(|image| image.last_use(inventory.tracked_by_file()));
        report.oldest_use = uses().min().map(when);
        report.newest_use = uses().max().map(when);
    }
    if report.over_limit {
        report.attention.push(
            "the cache is over its limit: glance-cache prune removes the least recently used images".into(),
        );
    }
    if report.orphans.count > 0 {
        let images = count(report.orphans.count, "image");
        report.attention.push(format!("{images} without a row in the index: clean --repair adds the rows"));
    }
    if report.ghosts > 0 {
        let rows = count(report.ghosts, "row");
        report.attention.push(format!("{rows} without an image: prune or clean --repair forgets them"));
    }
    if inventory.looks_misplaced(dir) {
        report.attention.push(
            "most images of the index are missing: is this the right directory, and is its file system \
             mounted?"
                .into(),
        );
    }
    for row in inventory.bad_rows.iter().take(NAMED) {
        report.attention.push(format!(
            "the index has a row with the id '{}', which is not a UUID: clean --repair drops it",
            row.shown
        ));
    }
}

/// Reports which index the cache has, and where it is.
fn index(cache: &Cache, report: &mut StatusReport) {
    report.driver = cache.driver.map(|driver| driver.to_string());
    report.driver_why.clone_from(&cache.why);
    match &cache.place {
        IndexPlace::Files => {}
        IndexPlace::File(path) => report.index_path = Some(path.display().to_string()),
        IndexPlace::Database(place) => {
            report.database = Some(place.database.clone());
            report.node = Some(place.node.clone());
        }
    }
    if let Tracking::Unknown(why) = &cache.inventory.tracking {
        report.index_unreadable = Some(why.clone());
        report.attention.push(format!("hits and last use are unknown: {why}"));
    }
    if !cache.inventory.images.is_empty() {
        report.attention.extend(cache.warning.clone());
    }
}

/// Reports an index that another driver has left behind. If the setting were removed, it would be used as the
/// index.
fn leftovers_of_drivers(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    cache: &Cache,
    report: &mut StatusReport,
) {
    let Ok(file) = settings.sqlite_db() else { return };
    let file = file.value;
    match cache.driver {
        Some(Driver::CentralizedDb) if has_sqlite_file(settings, dir) => report.attention.push(format!(
            "{} is a leftover of the sqlite driver: without the settings of the central database it would be \
             used as the index",
            file.display()
        )),
        Some(Driver::Sqlite | Driver::CentralizedDb) if has_attributes(dir, &cache.inventory) => {
            report.notes.push("images have the attribute user.hits, a leftover of the xattr driver".into());
        }
        Some(Driver::Xattr) => {
            let wait = run.wait(GLANCE_PATIENCE);
            let leftover = locate(dir, &file)
                .and_then(|location| Sqlite::open(location, Purpose::Look, &wait))
                .is_ok_and(|found| !matches!(found, Opening::Nothing(_)));
            if leftover {
                report.attention.push(format!(
                    "{} is a leftover of the sqlite driver: without image_cache_driver it would be used as \
                     the index",
                    file.display()
                ));
            }
        }
        _ => {}
    }
}

/// Counts the entries of the subdirectories.
fn partials(
    run: &Run,
    dir: &CacheDir,
    limits: CleanLimits,
    foreign: &mut Vec<Foreign>,
    report: &mut StatusReport,
) {
    for place in CachePlace::SUBDIRECTORIES {
        let found = match Partials::scan(dir, place) {
            Ok(found) => found,
            Err(e) => {
                report.attention.push(format!("{e:#}"));
                continue;
            }
        };
        for entry in &found.entries {
            let part = match place {
                CachePlace::Queue => &mut report.queued,
                CachePlace::Invalid => &mut report.invalid,
                CachePlace::Incomplete if is_stalled(entry, limits, run.now) => &mut report.stalled,
                _ => &mut report.incomplete,
            };
            part.count += 1;
            part.bytes += if entry.kind == EntryKind::File { entry.seen.size } else { 0 };
        }
        for error in unreadable_errors(&found.unreadable) {
            report.attention.push(error.to_string());
        }
        foreign.extend(found.foreign);
    }
}

/// Returns a foreign entry as the report shows it.
fn shown(dir: &CacheDir, entry: &Foreign) -> ForeignEntry {
    let name = entry.place.show(entry.name.as_name());
    let kind = match entry.kind {
        EntryKind::File => "file",
        EntryKind::Symlink => "symlink",
        EntryKind::Directory => "directory",
        EntryKind::Other => "special file",
    };
    let bytes = if entry.kind == EntryKind::Directory { below(dir, entry) } else { entry.size };
    ForeignEntry { name, kind, bytes }
}

/// Returns the sum of the sizes of all files below a foreign directory.
fn below(dir: &CacheDir, entry: &Foreign) -> u64 {
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(entry.name.as_name().as_bytes());
    walkdir::WalkDir::new(dir.path().join(entry.place.name()).join(name))
        .same_file_system(true)
        .follow_root_links(false)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Reports the file system: its free space, and how it records access times.
fn file_system(dir: &CacheDir, cache: &Cache, report: &mut StatusReport) {
    let mount = mount_of(dir.path());
    let stat = dir.statvfs().ok();
    let options =
        mount.as_ref().map(|mount| format!("{},{}", mount.options, mount.super_options)).unwrap_or_default();
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    let access_times = if has("noatime") {
        "noatime: reading does not change them"
    } else if has("relatime") {
        "relatime: reading changes them at most once a day, or after a change"
    } else {
        "strictatime: every reading changes them"
    };
    if has("noatime") && cache.driver == Some(Driver::Xattr) {
        report.attention.push(
            "the file system is mounted noatime, so that uses are not recorded for the xattr driver: the \
             images that were cached first are removed first"
                .into(),
        );
    }
    report.file_system = Some(FileSystem {
        mount_point: mount.as_ref().map(|mount| escaped(mount.point.as_bytes())),
        kind: mount.map(|mount| mount.kind),
        size: stat.as_ref().map(capacity),
        available: stat.as_ref().map(|stat| available(stat).min(capacity(stat))),
        access_times,
    });
}

/// Reports entries that do not belong to the owner of the cache directory.
fn owners(dir: &CacheDir, cache: &Cache, report: &mut StatusReport) {
    let owner = dir.owner().uid;
    let mut number = 0;
    let mut wrong = |name: String, uid: u32| {
        if uid != owner {
            number += 1;
            if report.wrong_owners.len() < NAMED {
                report.wrong_owners.push(WrongOwner { name, uid });
            }
        }
    };
    for image in &cache.inventory.images {
        wrong(image.id.to_string(), image.seen.owner);
    }
    for place in CachePlace::SUBDIRECTORIES {
        if let Some(stat) = dir.fd(place).and_then(|fd| rustix::fs::fstat(fd).ok()) {
            wrong(format!("{}/", place.name()), stat.st_uid);
        }
    }
    for entry in &cache.inventory.foreign {
        if let Ok(Some((EntryKind::File, seen))) = dir.look(CachePlace::Base, entry.name.as_name()) {
            wrong(entry.name.to_string(), seen.owner);
        }
    }
    if number > 0 {
        let entries = count(number, "entry");
        report.attention.push(format!(
            "{entries} not owned by user {owner}, the owner of the cache directory (for example {}): Glance \
             may not be able to change or remove them",
            report.wrong_owners[0].name
        ));
    }
}

/// Reports locks that processes hold.
fn locks(settings: &Settings<'_>, dir: &CacheDir, cache: &Cache, report: &mut StatusReport) {
    let Ok(table) = std::fs::read_to_string("/proc/locks") else {
        return;
    };
    let lock_path = settings.config.optional(&config::LOCK_PATH).ok().flatten();
    let lock_path = lock_path.map_or_else(|| dir.path().to_owned(), |setting| setting.value.into());
    let Ok(lock_dir) = LockDir::open(Some(&lock_path), dir) else {
        return;
    };
    let mut found = |name: &str, stat: Option<(u64, u64)>| {
        let Some((device, inode)) = stat else { return };
        let pids = holders(&table, device, inode);
        if !pids.is_empty() {
            report.locks.push(HeldLock { name: name.to_owned(), holders: pids });
        }
    };
    for name in [CLEAN, PRUNE, PREFETCH, INDEX_START] {
        found(name, lock_dir.identity(name));
    }
    if let IndexPlace::File(path) = &cache.place {
        let stat = statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok();
        found(&path.display().to_string(), stat.map(|stat| (stat.st_dev, stat.st_ino)));
    }
}

/// Returns every setting that is set, with its origin.
fn settings_in_use(settings: &Settings<'_>) -> SettingsInUse {
    let values = config::KNOWN
        .iter()
        .filter_map(|opt| {
            let setting = settings.config.optional(opt).ok().flatten()?;
            if setting.origin == Origin::Default {
                return None;
            }
            let value = if opt.secret { "***".to_owned() } else { escaped(setting.value.as_bytes()) };
            Some(SettingInUse {
                name: format!("[{}] {}", opt.group, opt.name),
                value,
                set_by: setting.origin.to_string(),
            })
        })
        .collect();
    SettingsInUse {
        files_read: settings.config.files_read().map(|path| path.display().to_string()).collect(),
        files_missing: settings
            .config
            .files_missing()
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        values,
        index_settings_dropped: settings.is_elsewhere()
            && settings.config.optional(&config::IMAGE_CACHE_DIR).is_ok_and(|d| d.is_some()),
    }
}

#[derive(Debug, Serialize)]
struct ForeignEntry {
    name: String,
    kind: &'static str,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct WrongOwner {
    name: String,
    uid: u32,
}

#[derive(Debug, Serialize)]
struct HeldLock {
    name: String,
    /// Process ids.
    holders: Vec<i32>,
}

#[derive(Debug, Serialize)]
struct FileSystem {
    mount_point: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    size: Option<u64>,
    available: Option<u64>,
    access_times: &'static str,
}

#[derive(Debug, Serialize)]
struct SettingInUse {
    name: String,
    value: String,
    set_by: String,
}

#[derive(Debug, Serialize)]
struct SettingsInUse {
    files_read: Vec<String>,
    files_missing: Vec<String>,
    values: Vec<SettingInUse>,
    /// True if the configured index settings are not used because they belong to another directory.
    index_settings_dropped: bool,
}

/// The state of a cache. Sizes are in bytes. Times are RFC 3339 in UTC.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StatusReport {
    cache_dir: String,
    cache_dir_set_by: String,
    exists: bool,
    driver: Option<String>,
    driver_why: String,
    index_path: Option<String>,
    /// The URL of the central database, without credentials; `node` is this host's node in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// The reason if the index could not be read.
    index_unreadable: Option<String>,
    /// The sizes of all images, including orphans. The limit refers to this.
    cache_size: u64,
    max_size: Option<u64>,
    max_size_set_by: Option<String>,
    /// The origin of the time after which an incomplete entry counts as stalled.
    stall_time_set_by: Option<String>,
    over_limit: bool,
    /// Bytes of disk that the images hold.
    allocated: u64,
    tracked: Tally,
    orphans: Tally,
    ghosts: u64,
    impossible_rows: u64,
    queued: Tally,
    incomplete: Tally,
    stalled: Tally,
    invalid: Tally,
    oldest_use: Option<String>,
    newest_use: Option<String>,
    file_system: Option<FileSystem>,
    foreign: Vec<ForeignEntry>,
    wrong_owners: Vec<WrongOwner>,
    locks: Vec<HeldLock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<SettingsInUse>,
    /// Problems that somebody should look at.
    attention: Vec<String>,
    /// Remarks that need no action.
    notes: Vec<String>,
    /// Show sizes with units in the text.
    #[serde(skip)]
    human: bool,
    /// Draw a bar of the size against the limit in the text.
    #[serde(skip)]
    bar: bool,
}

impl StatusReport {
    /// True if the cache is over its limit, or something else needs attention.
    pub(crate) fn needs_attention(&self) -> bool {
        self.over_limit || !self.attention.is_empty()
    }

    fn size(&self, bytes: u64) -> String {
        if self.human { human(bytes) } else { bytes.to_string() }
    }

    fn part(&self, part: Tally) -> String {
        format!("{}, {}", part.count, self.size(part.bytes))
    }

    fn size_line(&self) -> String {
        let mut text = self.size(self.cache_size);
        if let (Some(max), Some(origin)) = (self.max_size, &self.max_size_set_by) {
            let part = if max == 0 { 1.0 } else { self.cache_size as f64 / max as f64 };
            let _ = write!(text, " of {} ({:.0} %, limit set by {origin})", self.size(max), part * 100.0);
            if self.bar {
                let full = ((part * 30.0).round() as usize).min(30);
                let _ = write!(text, " [{}{}]", "#".repeat(full), "-".repeat(30 - full));
            }
        }
        text
    }
}

/// The lines of a status as text, each with its heading.
struct StatusText(String);

impl StatusText {
    fn add(&mut self, heading: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{heading:<14}{value}");
    }
}

impl StatusReport {
    fn index_lines(&self, lines: &mut StatusText) {
        let driver = self.driver.as_deref().unwrap_or("none");
        let path = self.index_path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
        lines.add("index", format!("{driver}{path} ({})", self.driver_why));
        if let (Some(database), Some(node)) = (&self.database, &self.node) {
            lines.add("database", database);
            lines.add("node", node);
        }
    }

    fn entry_lines(&self, lines: &mut StatusText) {
        lines.add("size", self.size_line());
        lines.add("tracked", self.part(self.tracked));
        lines.add("orphans", self.part(self.orphans));
        lines.add("ghosts", self.ghosts);
        lines.add("queued", self.queued.count);
        lines.add("incomplete", self.part(self.incomplete));
        let stall = self.stall_time_set_by.as_deref().unwrap_or("default");
        lines.add("stalled", format!("{} (stall time set by {stall})", self.part(self.stalled)));
        lines.add("invalid", self.part(self.invalid));
        if let (Some(oldest), Some(newest)) = (&self.oldest_use, &self.newest_use) {
            lines.add("used", format!("{oldest} to {newest}"));
        }
    }

    fn file_system_lines(&self, lines: &mut StatusText) {
        let Some(fs) = &self.file_system else { return };
        let unknown = || "unknown".to_owned();
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| self.size(bytes));
        let kind = fs.kind.clone().unwrap_or_else(unknown);
        let point = fs.mount_point.clone().unwrap_or_else(unknown);
        let (free, whole) = (size(fs.available), size(fs.size));
        lines.add("file system", format!("{kind} at {point}, {free} of {whole} free"));
        lines.add("access times", fs.access_times);
    }

    fn other_lines(&self, lines: &mut StatusText) {
        for lock in &self.locks {
            let who: Vec<String> = lock.holders.iter().map(|pid| process(*pid)).collect();
            lines.add("lock", format!("{} is held by {}", lock.name, who.join(", ")));
        }
        for entry in self.foreign.iter().take(NAMED) {
            lines.add("foreign", format!("{} ({}, {})", entry.name, entry.kind, self.size(entry.bytes)));
        }
        if self.foreign.len() > NAMED {
            lines.add("foreign", format!("... and {} more", self.foreign.len() - NAMED));
        }
    }
}

impl SettingsInUse {
    fn lines(&self, lines: &mut StatusText) {
        self.files_read.iter().for_each(|path| lines.add("read", path));
        self.files_missing.iter().for_each(|path| lines.add("missing", path));
        for setting in &self.values {
            lines.add("setting", format!("{} = {} ({})", setting.name, setting.value, setting.set_by));
        }
        if self.index_settings_dropped {
            lines.add(
                "setting",
                "the configured index settings are not used: they belong to another directory",
            );
        }
    }
}

impl Report for StatusReport {
    fn text(&self) -> String {
        let mut lines = StatusText(String::new());
        lines.add("cache", format!("{} (set by {})", self.cache_dir, self.cache_dir_set_by));
        if self.exists {
            self.index_lines(&mut lines);
            self.entry_lines(&mut lines);
        }
        self.file_system_lines(&mut lines);
        self.other_lines(&mut lines);
        if let Some(settings) = &self.settings {
            settings.lines(&mut lines);
        }
        self.notes.iter().for_each(|note| lines.add("note", note));
        self.attention.iter().for_each(|attention| lines.add("attention", attention));
        lines.0
    }
}
