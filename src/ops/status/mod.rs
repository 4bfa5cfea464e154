//! Status: reports the state of a cache, and everything that needs attention.
//!
//! Nothing is changed or locked, and nothing is created but the memory of a verification. A wrong value in
//! the configuration, or an index that cannot be read, is reported among the things that need attention; it
//! does not fail the run. Images are read only if a verification is asked for, as [`verify`] says.

mod age;
mod report;
mod text;

use std::time::Duration;

use rustix::fs::{AtFlags, statat};

use self::age::by_age;
pub(crate) use self::report::StatusReport;
use self::report::{
    Entries, FileSystem, ForeignEntry, HeldLock, SettingInUse, SettingsInUse, Shown, UnusableImage,
    UnusableReport, WrongOwner,
};
use super::attention::{Attention, Concern, Removable, Threshold};
use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::{EntryKind, Image, Partial};
use crate::cache::index::Driver;
use crate::cache::index::sqlite::{Sqlite, locate};
use crate::cache::index::xattr::{self, Attribute, parse_hits};
use crate::cache::inventory::{Foreign, Inventory, Partials, Tracking};
use crate::cache::lock::{LOCKS, LockDir};
use crate::cache::plan::{CleanLimits, is_stalled};
use crate::cache::verified::Verified;
use crate::config::{self, Origin};
use crate::database::opening::{Opening, Purpose};
use crate::exit::{Exit, Failure};
use crate::host::cache::Tally;
use crate::host::glance::central::open_records;
use crate::host::glance::index::{IndexPlace, has_attributes};
use crate::host::glance::open::{
    Cache, GLANCE_PATIENCE, foreign, has_sqlite_file, take_stock, unreadable_errors,
};
use crate::host::glance::records::{Usability, unusable};
use crate::host::glance::settings::{Selection, Settings, max_size};
use crate::names::{ImageId, escaped};
use crate::openstack::cache_api::shown_url;
use crate::ops::verify::{
    MANY_ARE_BROKEN, Verdicts, Verification, VerifiedCache, VerifiedImages, VerifyRequest, require_owner,
    verified_images, verify,
};
use crate::os::locks::holders;
use crate::os::mounts::{Mount, mount_of};
use crate::os::space::{available, capacity};
use crate::run::Run;
use crate::units::{Amount, Nanos, SECOND, TimeSpan, count};

/// At most this many names of a kind are listed; the rest is only counted.
const NAMED: usize = 20;

/// The time to wait for Glance's records, without which nothing can be verified.
const RECORDS_PATIENCE: Duration = Duration::from_secs(60);

const NOATIME: &str = "noatime: reading does not change them";

/// The options of a status.
#[derive(Debug)]
pub(crate) struct StatusRequest {
    pub(crate) max_size: Option<Amount>,
    pub(crate) stall_time: Option<TimeSpan>,
    /// The most that is allowed of invalid files, and of downloads that stopped.
    pub(crate) max_invalid: Vec<Threshold>,
    pub(crate) max_stalled: Vec<Threshold>,
    pub(crate) human: bool,
    /// Show the first line of a check.
    pub(crate) check: bool,
    /// Ask Glance's database which images it still serves.
    pub(crate) asks_records: bool,
    /// Read the images and compare them with Glance's records.
    pub(crate) verify: Option<VerifyRequest>,
}

/// Reports the state of a cache and of its surroundings. If the cache cannot be looked at, the report has the
/// failure, and what is known without it.
pub(crate) fn status(
    run: &Run,
    selection: Selection,
    request: &StatusRequest,
) -> Result<StatusReport, Failure> {
    let config = selection.read_to_look(run)?;
    let settings = Settings::new(&config, selection)?;
    let shown = Shown {
        human: request.human,
        check: request.check,
        is_terminal: run.output.stdout_is_terminal(),
        width: run.output.stdout_width(),
    };
    let mut report = StatusReport::new(&settings.cache_dir, shown);
    for problem in settings.config.problems() {
        report.note(Concern::Setting, problem);
    }
    limits(&settings, request, &mut report);
    match survey(run, &settings, request, &mut report) {
        Err(failure) => report.refuse(failure),
        Ok(None) => {}
        Ok(Some((dir, inventory))) => {
            if request.asks_records {
                usable(run, &settings, &inventory.images, &mut report);
            }
            let (mut verification, verified) =
                contents(run, &settings, &dir, &inventory, request.verify.as_ref())?;
            report.errors = verification.as_mut().map(|found| std::mem::take(&mut found.errors));
            (report.verification, report.verified) = (verification, verified);
            broken(&mut report);
        }
    }
    if run.output.is_verbose() {
        report.settings = Some(settings_in_use(&settings));
    }
    Ok(report)
}

/// Opens the cache, and reports what is in it. Returns its directory and its contents; `None` if there is no
/// directory.
fn survey(
    run: &Run,
    settings: &Settings<'_>,
    request: &StatusRequest,
    report: &mut StatusReport,
) -> Result<Option<(CacheDir, Inventory)>, Failure> {
    let Some(dir) = settings.open()? else {
        report.note(Concern::NoCache, settings.nothing_there());
        return Ok(None);
    };
    report.exists = true;
    // A wrong value is already among the problems.
    report.max_size = settings.max_size(request.max_size, &dir).ok().map(|max| max.value);
    let inventory = gather(run, settings, &dir, report)?;
    judge(run, request, report);
    Ok(Some((dir, inventory)))
}

/// Reports the limits, as far as they are known without the directory. A wrong value is already among the
/// problems.
fn limits(settings: &Settings<'_>, request: &StatusRequest, report: &mut StatusReport) {
    if let Ok(max) = max_size(settings.config, request.max_size) {
        report.max_size = max.value.bytes();
        report.max_size_set_by = Some(max.origin.to_string());
    }
    if let Ok(stall) = settings.stall_time(request.stall_time) {
        report.stall_time = Some(stall.value / SECOND);
        report.stall_time_set_by = Some(stall.origin.to_string());
    }
}

/// Compares the invalid files and the downloads that stopped with what is allowed.
fn judge(run: &Run, request: &StatusRequest, report: &mut StatusReport) {
    for (entries, thresholds, code, noun, option) in [
        (report.invalid, &request.max_invalid, Concern::Invalid, "invalid file", "--max-invalid"),
        (report.stalled, &request.max_stalled, Concern::Stalled, "stalled download", "--max-stalled"),
    ] {
        let Some(Entries { count, oldest, .. }) = entries else { continue };
        let found = Removable { code, noun, option, count, oldest };
        report.attention.extend(thresholds.iter().filter_map(|most| most.judge(&found, run.now)));
    }
}

/// Reports images that Glance does not serve any more.
fn usable(run: &Run, settings: &Settings<'_>, images: &[Image], report: &mut StatusReport) {
    let found = match unusable(run, &settings.database, images) {
        Usability::NotAsked => return,
        Usability::Unknown(why) => {
            report.notes.push(format!("it is not known which images Glance serves: {why}"));
            return;
        }
        Usability::Known(found) => found,
    };
    let mut unusable = UnusableReport::default();
    for image in images {
        let Some(why) = found.get(image.id) else { continue };
        let (image_id, bytes) = (image.id.to_string(), image.seen.size);
        unusable.count += 1;
        unusable.bytes = unusable.bytes.saturating_add(bytes);
        unusable.images.push(UnusableImage { image_id, reason: why.word(), bytes, sentence: why.sentence() });
    }
    unusable.images.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    report.unusable = Some(unusable);
}

/// Reads the images, if this is asked for. Returns what was found, and what is remembered of all runs.
fn contents(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    inventory: &Inventory,
    request: Option<&VerifyRequest>,
) -> Result<(Option<Verification>, Option<VerifiedImages>), Failure> {
    let Inventory { images, unreadable, .. } = inventory;
    let Some(request) = request else {
        return Ok((None, verified_images(images, &Verified::read(dir, run.now))));
    };
    run.catch_signals()?;
    require_owner(dir)?;
    let records = open_records(&settings.database, &run.wait(RECORDS_PATIENCE))?;
    let Verdicts { report, memory, .. } =
        verify(VerifiedCache { run, dir, images, unreadable, records }, request, &mut ())?;
    Ok((Some(report), verified_images(images, &memory)))
}

/// Reports images that are broken.
fn broken(report: &mut StatusReport) {
    let Some(verified) = report.verified.as_ref().filter(|verified| !verified.broken.is_empty()) else {
        return;
    };
    let images = count(verified.broken.len() as u64, "broken image");
    let message = if verified.are_mostly_broken {
        format!("{images}, too many to be moved: {MANY_ARE_BROKEN}")
    } else {
        format!("{images}: clean --verify moves them to invalid/, and Glance fetches them again")
    };
    report.note(Concern::Broken, message);
}

/// Surveys the cache, and fills in the report. Returns what it found.
fn gather(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    report: &mut StatusReport,
) -> Result<Inventory, Failure> {
    let wait = run.wait(GLANCE_PATIENCE);
    let cache = match take_stock(run, settings, dir, Purpose::Look, &wait) {
        Ok(cache) => cache,
        // The directory is not an image cache, or its index is not known. There is nothing else to report.
        Err(failure) if failure.exit == Exit::Usage && settings.driver().is_ok() => {
            return Err(failure);
        }
        Err(failure) => Cache::files_only(dir, wait, format!("{:#}", failure.error))?,
    };
    images(run, &cache, report);
    report.hits = hits(dir, &cache.inventory);
    problems_of_rows(dir, &cache.inventory, report);
    index(&cache, report);
    leftovers_of_drivers(run, settings, dir, &cache, report);
    let mut strangers: Vec<Foreign> = foreign(settings, dir, &cache).cloned().collect();
    partials(run, dir, &mut strangers, report);
    report.foreign = strangers.iter().map(|entry| shown(dir, entry)).collect();
    file_system(dir, &cache, report);
    owners(dir, &cache, report);
    locks(settings, dir, &cache, report);
    for error in unreadable_errors(&cache.inventory.unreadable) {
        report.note(Concern::Unreadable, error.to_string());
    }
    Ok(cache.inventory)
}

/// Counts the images, and with an index that can be read also by what it knows of them.
fn images(run: &Run, cache: &Cache, report: &mut StatusReport) {
    let inventory = &cache.inventory;
    report.images = Some(inventory.images.len() as u64);
    report.cache_size = Some(inventory.size());
    let allocated = inventory.images.iter().map(|image| image.seen.allocated);
    report.allocated = Some(allocated.fold(0, u64::saturating_add));
    report.over_limit = report.max_size.map(|max| inventory.size() > max);
    if report.over_limit == Some(true) {
        report.note(
            Concern::OverLimit,
            "the cache is over its limit: glance-cache prune removes the least recently used images",
        );
    }
    if matches!(inventory.tracking, Tracking::Unknown(_)) {
        return;
    }
    let (mut tracked, mut orphans, mut ghosts) = (Tally::default(), Tally::default(), Tally::default());
    for image in &inventory.images {
        let part = if inventory.is_orphan(image) { &mut orphans } else { &mut tracked };
        part.add(image.seen.size);
    }
    for ghost in &inventory.ghosts {
        ghosts.add(u64::try_from(ghost.row.size).unwrap_or(0));
    }
    (report.tracked, report.orphans, report.ghosts) = (Some(tracked), Some(orphans), Some(ghosts));
    report.impossible_rows = Some(inventory.bad_rows.len() as u64);
    let by_file = inventory.tracked_by_file();
    let uses = || inventory.images.iter().map(|image| (image.last_use(by_file), image.seen.size));
    // An index has 0 for an image that was not used yet. Other times that cannot be are clamped.
    let known = || uses().map(|(time, _)| time).filter(|time| ![0, Nanos::MIN, Nanos::MAX].contains(time));
    (report.oldest_use, report.newest_use) = (known().min(), known().max());
    report.by_last_use = Some(by_age(uses(), run.now));
}

/// Returns the hits of all images; `None` if the index or an attribute cannot be read.
fn hits(dir: &CacheDir, inventory: &Inventory) -> Option<u64> {
    let of_image = |image: &Image| match &inventory.tracking {
        Tracking::Unknown(_) => None,
        Tracking::ByRow => Some(image.row.as_ref().map_or(0, |row| row.hits)),
        Tracking::ByFile => match xattr::hits(dir.fd(CachePlace::Base)?, image.id.as_name()) {
            Attribute::Value(value) => Some(parse_hits(&value)),
            Attribute::Absent => Some(0),
            Attribute::Unknown => None,
        },
    };
    inventory.images.iter().try_fold(0u64, |sum, image| {
        // A negative number in a row is no hit.
        Some(sum.saturating_add(u64::try_from(of_image(image)?).unwrap_or(0)))
    })
}

/// Reports orphans, ghosts, and rows that name no image.
fn problems_of_rows(dir: &CacheDir, inventory: &Inventory, report: &mut StatusReport) {
    let number = |tally: Option<Tally>| tally.map_or(0, |tally| tally.count);
    let (orphans, ghosts) = (number(report.orphans), number(report.ghosts));
    if orphans > 0 {
        let images = count(orphans, "image");
        report.note(
            Concern::Orphans,
            format!("{images} without a row in the index: clean --repair adds the rows"),
        );
    }
    if ghosts > 0 {
        let rows = count(ghosts, "row");
        report
            .note(Concern::Ghosts, format!("{rows} without an image: prune or clean --repair forgets them"));
    }
    if inventory.looks_misplaced(dir) {
        report.note(
            Concern::Misplaced,
            "most images of the index are missing: is this the right directory, and is its file system \
             mounted?",
        );
    }
    for row in inventory.bad_rows.iter().take(NAMED) {
        report.note(
            Concern::ImpossibleRow,
            format!(
                "the index has a row with the id '{}', which is not a UUID: clean --repair drops it",
                row.shown
            ),
        );
    }
}

/// Reports which index the cache has, and where it is.
fn index(cache: &Cache, report: &mut StatusReport) {
    report.driver = cache.driver.map(|driver| driver.to_string());
    report.driver_why = Some(cache.why.clone());
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
        report.note(Concern::IndexUnreadable, format!("hits and last use are unknown: {why}"));
    }
    if let Some(doubt) = cache.doubt() {
        report.note(Concern::WrongIndex, doubt);
    } else if let (Some(warning), false) = (&cache.warning, cache.inventory.images.is_empty()) {
        report.note(Concern::IndexMissing, warning.clone());
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
        Some(Driver::CentralizedDb) if has_sqlite_file(settings, dir) => report.note(
            Concern::OtherIndex,
            format!(
                "{} is a leftover of the sqlite driver: without the settings of the central database it \
                 would be used as the index",
                file.display()
            ),
        ),
        Some(Driver::Sqlite | Driver::CentralizedDb) if has_attributes(dir, &cache.inventory) => {
            report.notes.push("images have the attribute user.hits, a leftover of the xattr driver".into());
        }
        Some(Driver::Xattr) => {
            let wait = run.wait(GLANCE_PATIENCE);
            let leftover = locate(dir, &file)
                .and_then(|location| Sqlite::open(location, Purpose::Look, &wait))
                .is_ok_and(|found| !matches!(found, Opening::Nothing(_)));
            if leftover {
                report.note(
                    Concern::OtherIndex,
                    format!(
                        "{} is a leftover of the sqlite driver: without image_cache_driver it would be used \
                         as the index",
                        file.display()
                    ),
                );
            }
        }
        _ => {}
    }
}

/// Counts the entries of the subdirectories. Without a stall time, all downloads count as incomplete.
fn partials(run: &Run, dir: &CacheDir, strangers: &mut Vec<Foreign>, report: &mut StatusReport) {
    let stall_time = report.stall_time.map(|seconds| seconds.saturating_mul(SECOND));
    let limits = stall_time.map(|stall_time| CleanLimits { stall_time, invalid_grace: 0 });
    for place in CachePlace::SUBDIRECTORIES {
        let found = match Partials::scan(dir, place) {
            Ok(found) => found,
            Err(e) => {
                report.note(Concern::Unreadable, format!("{e:#}"));
                continue;
            }
        };
        let (mut entries, mut stalled) = (Entries::default(), Entries::default());
        for entry in &found.entries {
            if place == CachePlace::Queue && !is_queued(entry) {
                let (name, kind, size) = (entry.name.clone(), entry.kind, entry.seen.size);
                strangers.push(Foreign { place, name, kind, size });
                continue;
            }
            let is_stalled = place == CachePlace::Incomplete
                && limits.is_some_and(|limits| is_stalled(entry, limits, run.now));
            let bytes = if entry.kind == EntryKind::File { entry.seen.size } else { 0 };
            let part = if is_stalled { &mut stalled } else { &mut entries };
            part.add(bytes, entry.seen.mtime);
        }
        match place {
            CachePlace::Queue => report.queued = Some(entries),
            CachePlace::Invalid => report.invalid = Some(entries),
            _ => {
                report.incomplete = Some(entries);
                report.stalled = limits.map(|_| stalled);
            }
        }
        for error in unreadable_errors(&found.unreadable) {
            report.note(Concern::Unreadable, error.to_string());
        }
        strangers.extend(found.foreign);
    }
}

/// True if an entry of the queue asks for an image, as prefetch understands it.
fn is_queued(entry: &Partial) -> bool {
    entry.kind == EntryKind::File && ImageId::new(entry.name.as_name().as_bytes()).is_some()
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
    let bytes = if entry.kind == EntryKind::Directory { below(dir, entry) } else { Some(entry.size) };
    ForeignEntry { name, kind, bytes }
}

/// Returns the sum of the sizes of all files below a foreign directory, or `None` if one of them could not be
/// looked at.
fn below(dir: &CacheDir, entry: &Foreign) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(entry.name.as_name().as_bytes());
    walkdir::WalkDir::new(dir.path().join(entry.place.name()).join(name))
        .same_file_system(true)
        .follow_root_links(false)
        .into_iter()
        .filter(|entry| entry.as_ref().map_or(true, |entry| entry.file_type().is_file()))
        .map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
        .sum()
}

/// Reports the file system: its free space, and how it records access times.
fn file_system(dir: &CacheDir, cache: &Cache, report: &mut StatusReport) {
    let mount = mount_of(dir.path());
    let stat = dir.statvfs().ok();
    let access_times = mount.as_ref().map(access_times);
    if access_times == Some(NOATIME) && cache.driver == Some(Driver::Xattr) {
        report.note(
            Concern::Noatime,
            "the file system is mounted noatime, so that uses are not recorded for the xattr driver: the \
             images that were cached first are removed first",
        );
    }
    read_only(mount.as_ref(), report);
    report.file_system = Some(FileSystem {
        mount_point: mount.as_ref().map(|mount| escaped(mount.point.as_bytes())),
        kind: mount.map(|mount| mount.kind),
        size: stat.as_ref().map(capacity),
        available: stat.as_ref().map(|stat| available(stat).min(capacity(stat))),
        access_times,
    });
}

/// Reports a file system that is read-only. A place where only this mount of it is, such as a container that
/// looks at the cache, is not at fault.
fn read_only(mount: Option<&Mount>, report: &mut StatusReport) {
    let Some(mount) = mount else { return };
    let point = escaped(mount.point.as_bytes());
    if mount.is_file_system_read_only() {
        report.attention.push(Attention::read_only(&point));
    } else if mount.is_read_only() {
        report
            .notes
            .push(format!("{point} is mounted read-only here: prune, clean and prefetch need another mount"));
    }
}

/// Returns how a mount treats access times.
fn access_times(mount: &Mount) -> &'static str {
    let options = mount.options.split(',').chain(mount.super_options.split(','));
    let has = |wanted| options.clone().any(|option| option == wanted);
    if has("noatime") {
        NOATIME
    } else if has("relatime") {
        "relatime: reading changes them at most once a day, or after a change"
    } else {
        "strictatime: every reading changes them"
    }
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
        let example = &report.wrong_owners[0].name;
        let message = format!(
            "{entries} not owned by user {owner}, the owner of the cache directory (for example {example}): \
             Glance may not be able to change or remove them"
        );
        report.note(Concern::WrongOwner, message);
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
    let mut held = Vec::new();
    let mut found = |name: &str, stat: Option<(u64, u64)>| {
        let Some((device, inode)) = stat else { return };
        let pids = holders(&table, device, inode);
        if !pids.is_empty() {
            held.push(HeldLock { name: name.to_owned(), holders: pids });
        }
    };
    for name in LOCKS {
        found(name, lock_dir.identity(name));
    }
    if let IndexPlace::File(path) = &cache.place {
        let stat = statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok();
        found(&path.display().to_string(), stat.map(|stat| (stat.st_dev, stat.st_ino)));
    }
    report.locks = Some(held);
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
            let value = match setting.value {
                _ if opt.secret => "***".to_owned(),
                value if value.contains("://") => shown_url(&value),
                value => escaped(value.as_bytes()),
            };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(options: &str, super_options: &str) -> Mount {
        Mount {
            point: "/images".to_owned(),
            options: options.to_owned(),
            kind: "ext4".to_owned(),
            super_options: super_options.to_owned(),
        }
    }

    #[test]
    fn the_options_of_a_mount_say_when_access_times_change() {
        for (options, super_options, expected) in [
            ("rw,noatime", "rw", "noatime: "),
            ("rw", "rw,noatime", "noatime: "),
            ("rw,relatime", "rw", "relatime: "),
            ("rw,nodiratime", "rw", "strictatime: "),
        ] {
            let found = access_times(&mount(options, super_options));
            assert!(found.starts_with(expected), "{options} {super_options}: {found}");
        }
    }

    #[test]
    fn only_a_file_system_that_is_read_only_everywhere_needs_attention() {
        for (options, super_options, expected) in [
            ("rw", "rw", (0, 0)),
            ("ro,relatime", "rw", (0, 1)),
            ("ro", "ro,errors=continue", (1, 0)),
            ("rw,errors=remount-ro", "rw", (0, 0)),
        ] {
            let mut report = StatusReport::default();
            read_only(Some(&mount(options, super_options)), &mut report);
            assert_eq!((report.attention.len(), report.notes.len()), expected, "{options} {super_options}");
        }
    }
}
