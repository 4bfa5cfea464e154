//! Status: the state of a cache, and what needs attention.
//!
//! It changes nothing, takes no lock and makes nothing. A value that is wrong in the configuration is one of the things
//! that need attention, not a failure.

use std::fmt::Write as _;

use rustix::fs::{AtFlags, statat};
use serde::Serialize;

use crate::cache::dir::{CacheDir, Place};
use crate::cache::entry::Kind;
use crate::cache::index::Driver;
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::inventory::{Foreign, Inventory, Partials, Tracking};
use crate::cache::ledger::Ledger;
use crate::cache::lock::{CLEAN, INDEX_START, LockDir, PREFETCH, PRUNE};
use crate::cache::plan::{CleanLimits, is_stalled};
use crate::config::{self, Origin, Setting};
use crate::database::{Opening, Purpose};
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

/// Names listed one by one; more of a kind are only counted.
const NAMED: usize = 20;

/// What a status is asked for, besides the cache.
#[derive(Debug)]
pub(crate) struct StatusRequest {
    pub(crate) max_size: Option<Amount>,
    pub(crate) stall_time: Option<TimeSpan>,
    pub(crate) human: bool,
}

/// Looks at a cache and everything around it.
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
            // A wrong value is among the problems already.
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
        // This is no image cache, or its index cannot be known: there is nothing else to report.
        Err(failure) if failure.exit == Exit::Usage && settings.driver().is_ok() => {
            return Err(failure);
        }
        Err(failure) => files_only(dir, wait, &failure)?,
    };
    images(&cache, report);
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

/// Returns the cache without its index, which could not be read.
fn files_only(dir: &CacheDir, wait: Wait, failure: &Failure) -> Result<Cache, Failure> {
    let tracking = Tracking::Unknown(format!("{:#}", failure.error));
    Ok(Cache {
        inventory: Inventory::scan(dir, tracking).map_err(Failure::cannot_start)?,
        ledger: Ledger::new(None, wait),
        driver: None,
        why: "it cannot be read".to_owned(),
        place: IndexPlace::Files,
        warning: None,
    })
}

fn images(cache: &Cache, report: &mut StatusReport) {
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
            "the cache is over its limit: glance-cache prune removes what was not used for longest".into(),
        );
    }
    if report.orphans.count > 0 {
        let images = count(report.orphans.count, "image");
        report.attention.push(format!("{images} without a row in the index: clean --repair adopts them"));
    }
    if report.ghosts > 0 {
        let rows = count(report.ghosts, "row");
        report.attention.push(format!("{rows} without an image: prune or clean --repair forgets them"));
    }
    if inventory.looks_misplaced() {
        report.attention.push(
            "most images of the index are not here: is this the right directory, and is it mounted?".into(),
        );
    }
    for row in inventory.bad_rows.iter().take(NAMED) {
        report.attention.push(format!(
            "the index has a row with the impossible id '{}': clean --repair drops it",
            row.shown
        ));
    }
}

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

/// Names what another driver has left behind: it would be taken for the index if the setting were removed.
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
            "{} is a leftover of the sqlite driver: without a database or a node URL it would be taken for the index",
            file.display()
        )),
        Some(Driver::Sqlite | Driver::CentralizedDb) if has_attributes(dir, &cache.inventory) => {
            report.notes.push("images carry user.hits, a leftover of the xattr driver".into());
        }
        Some(Driver::Xattr) => {
            let wait = run.wait(GLANCE_PATIENCE);
            let leftover = locate(dir, &file)
                .and_then(|location| Sqlite::open(location, Purpose::Look, &wait))
                .is_ok_and(|found| !matches!(found, Opening::Nothing(_)));
            if leftover {
                report.attention.push(format!(
                    "{} is a leftover of the sqlite driver: with image_cache_driver unset it would be taken for the index",
                    file.display()
                ));
            }
        }
        _ => {}
    }
}

fn partials(
    run: &Run,
    dir: &CacheDir,
    limits: CleanLimits,
    foreign: &mut Vec<Foreign>,
    report: &mut StatusReport,
) {
    for place in Place::SUBDIRECTORIES {
        let found = match Partials::scan(dir, place) {
            Ok(found) => found,
            Err(e) => {
                report.attention.push(format!("{e:#}"));
                continue;
            }
        };
        for entry in &found.entries {
            let part = match place {
                Place::Queue => &mut report.queued,
                Place::Invalid => &mut report.invalid,
                Place::Incomplete if is_stalled(entry, limits, run.now) => &mut report.stalled,
                _ => &mut report.incomplete,
            };
            part.count += 1;
            part.bytes += if entry.kind == Kind::File { entry.seen.size } else { 0 };
        }
        for error in unreadable_errors(&found.unreadable) {
            report.attention.push(error.to_string());
        }
        foreign.extend(found.foreign);
    }
}

fn shown(dir: &CacheDir, entry: &Foreign) -> ForeignEntry {
    let name = entry.place.show(entry.name.as_name());
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Symlink => "symlink",
        Kind::Directory => "directory",
        Kind::Other => "special file",
    };
    let bytes = if entry.kind == Kind::Directory { below(dir, entry) } else { entry.size };
    ForeignEntry { name, kind, bytes }
}

/// The sizes of all files below a foreign directory.
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
            "the file system is mounted noatime, so the xattr index never learns of a use: images go first in, first out".into(),
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

fn owners(dir: &CacheDir, cache: &Cache, report: &mut StatusReport) {
    let owner = dir.owner().uid;
    let mut count = 0;
    let mut wrong = |name: String, uid: u32| {
        if uid != owner {
            count += 1;
            if report.wrong_owners.len() < NAMED {
                report.wrong_owners.push(WrongOwner { name, uid });
            }
        }
    };
    for image in &cache.inventory.images {
        wrong(image.id.to_string(), image.seen.owner);
    }
    for place in Place::SUBDIRECTORIES {
        if let Some(stat) = dir.fd(place).and_then(|fd| rustix::fs::fstat(fd).ok()) {
            wrong(format!("{}/", place.name()), stat.st_uid);
        }
    }
    for entry in &cache.inventory.foreign {
        if let Ok(Some((Kind::File, seen))) = dir.look(Place::Base, entry.name.as_name()) {
            wrong(entry.name.to_string(), seen.owner);
        }
    }
    if count > 0 {
        report.attention.push(format!(
            "{count} entries do not belong to user {owner}, who owns the cache directory (for example {}): Glance may not be \
             able to change them",
            report.wrong_owners[0].name
        ));
    }
}

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

/// Returns every setting that is set, with where it came from.
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
    /// Whether the index settings of the configuration were left out because they belong to another directory.
    index_settings_dropped: bool,
}

/// How a cache is doing. Sizes are bytes, times RFC 3339 in UTC.
#[derive(Debug, Default, Serialize)]
pub(crate) struct StatusReport {
    cache_dir: String,
    cache_dir_set_by: String,
    exists: bool,
    driver: Option<String>,
    driver_why: String,
    index_path: Option<String>,
    /// Where the central index is, and as whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    index_unreadable: Option<String>,
    /// The sizes of all images, orphans included: what the limit is about.
    cache_size: u64,
    max_size: Option<u64>,
    max_size_set_by: Option<String>,
    /// What decides from when on an incomplete entry is stalled.
    stall_time_set_by: Option<String>,
    over_limit: bool,
    /// Bytes of disk the images take.
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
    /// What somebody should look at.
    attention: Vec<String>,
    /// What is good to know.
    notes: Vec<String>,
    #[serde(skip)]
    human: bool,
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

impl Report for StatusReport {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<14}{value}");
        };
        line("cache", format!("{} (set by {})", self.cache_dir, self.cache_dir_set_by));
        if self.exists {
            let driver = self.driver.as_deref().unwrap_or("none");
            let path = self.index_path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
            line("index", format!("{driver}{path} ({})", self.driver_why));
            if let (Some(database), Some(node)) = (&self.database, &self.node) {
                line("database", database.clone());
                line("node", node.clone());
            }
            line("size", self.size_line());
            line("tracked", self.part(self.tracked));
            line("orphans", self.part(self.orphans));
            line("ghosts", self.ghosts.to_string());
            line("queued", self.queued.count.to_string());
            line("incomplete", self.part(self.incomplete));
            let stall = self.stall_time_set_by.as_deref().unwrap_or("default");
            line("stalled", format!("{} (stall time set by {stall})", self.part(self.stalled)));
            line("invalid", self.part(self.invalid));
            if let (Some(oldest), Some(newest)) = (&self.oldest_use, &self.newest_use) {
                line("used", format!("{oldest} to {newest}"));
            }
        }
        if let Some(fs) = &self.file_system {
            let unknown = || "unknown".to_owned();
            let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| self.size(bytes));
            let kind = fs.kind.clone().unwrap_or_else(unknown);
            let point = fs.mount_point.clone().unwrap_or_else(unknown);
            line(
                "file system",
                format!("{kind} at {point}, {} of {} free", size(fs.available), size(fs.size)),
            );
            line("access times", fs.access_times.to_owned());
        }
        for lock in &self.locks {
            let who: Vec<String> = lock.holders.iter().map(|pid| process(*pid)).collect();
            line("lock", format!("{} is held by {}", lock.name, who.join(", ")));
        }
        for entry in self.foreign.iter().take(NAMED) {
            line("foreign", format!("{} ({}, {})", entry.name, entry.kind, self.size(entry.bytes)));
        }
        if self.foreign.len() > NAMED {
            line("foreign", format!("... and {} more", self.foreign.len() - NAMED));
        }
        if let Some(settings) = &self.settings {
            for path in &settings.files_read {
                line("read", path.clone());
            }
            for path in &settings.files_missing {
                line("not there", path.clone());
            }
            for setting in &settings.values {
                line("setting", format!("{} = {} ({})", setting.name, setting.value, setting.set_by));
            }
            if settings.index_settings_dropped {
                line("setting", "the index settings belong to another directory and are left out".to_owned());
            }
        }
        for note in &self.notes {
            line("note", note.clone());
        }
        for attention in &self.attention {
            line("attention", attention.clone());
        }
        text
    }
}
