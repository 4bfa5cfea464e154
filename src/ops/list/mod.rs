//! List: the entries of a cache.
//!
//! Nothing is changed and no lock is taken. An index that cannot be read is a warning: the images are listed
//! without hits and last use. The JSON form of the list is in [`body`].

mod body;

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::anyhow;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::{EntryKind, Image, Partial};
use crate::cache::index::Driver;
use crate::cache::index::xattr::{self, Attribute, parse_hits};
use crate::cache::inventory::{Inventory, Partials, Tracking};
use crate::cache::plan::{CleanLimits, is_stalled};
use crate::cache::usable::{Unusable, UnusableImages};
use crate::database::opening::Purpose;
use crate::exit::Failure;
use crate::host::glance::index::IndexPlace;
use crate::host::glance::open::{Cache, GLANCE_PATIENCE, take_stock, unreadable_errors};
use crate::host::glance::records::{Usability, unusable};
use crate::host::glance::settings::{Selection, Settings};
use crate::names::{ImageId, escaped};
use crate::output::rows::{Column, ListCell, Listing, Rank};
use crate::run::Run;
use crate::units::{Nanos, SECOND, nanos};

/// The state of an entry, in the order of [`SortKey::State`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum EntryState {
    /// An image that the index knows.
    Tracked,
    /// An image without a row.
    Orphan,
    /// A row without an image.
    Ghost,
    Queued,
    /// An image that is being cached.
    Incomplete,
    /// An entry of `incomplete/` that was not written to for the stall time.
    Stalled,
    Invalid,
}

impl EntryState {
    /// Returns the word for the state, the same wherever it is shown or asked for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EntryState::Tracked => "tracked",
            EntryState::Orphan => "orphan",
            EntryState::Ghost => "ghost",
            EntryState::Queued => "queued",
            EntryState::Incomplete => "incomplete",
            EntryState::Stalled => "stalled",
            EntryState::Invalid => "invalid",
        }
    }
}

/// The key that a list is sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SortKey {
    Image,
    State,
    LastUse,
    Modified,
    Size,
    Hits,
}

/// The order of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) by: SortKey,
    pub(crate) reverse: bool,
}

/// The options of a list.
#[derive(Debug)]
pub(crate) struct ListRequest {
    /// The images to show. An empty list stands for all entries.
    pub(crate) images: Vec<ImageId>,
    /// The states to show. An empty list stands for all states.
    pub(crate) states: Vec<EntryState>,
    /// Show only what was last used, or changed if it has no use, before this time.
    pub(crate) used_before: Option<Nanos>,
    /// Show only what has more bytes than this.
    pub(crate) larger_than: Option<u64>,
    /// The number of entries to show, after they were sorted.
    pub(crate) limit: Option<usize>,
    pub(crate) order: Order,
    /// Ask Glance's database which images it still serves.
    pub(crate) asks_records: bool,
    /// Fail if the cache does not exist, its index cannot be read, or there are images without an index.
    pub(crate) needs_index: bool,
}

impl ListRequest {
    /// True if not all entries of the wanted images are shown.
    pub(crate) fn is_filtered(&self) -> bool {
        !self.states.is_empty()
            || self.used_before.is_some()
            || self.larger_than.is_some()
            || self.limit.is_some()
    }

    /// True if an entry with these times and this size is shown. An unknown value is neither old nor large.
    pub(super) fn admits(&self, last_use: Option<Nanos>, modified: Option<Nanos>, size: Option<u64>) -> bool {
        let used = last_use.or(modified);
        self.used_before.is_none_or(|before| used.is_some_and(|used| used < before))
            && self.larger_than.is_none_or(|bytes| size.is_some_and(|size| size > bytes))
    }
}

/// Lists the entries of a cache.
pub(crate) fn list(run: &Run, selection: Selection, request: &ListRequest) -> Result<ListReport, Failure> {
    let config = selection.read_to_look(run)?;
    let settings = Settings::new(&config, selection)?;
    let mut report = ListReport { complete: true, ..ListReport::default() };
    match settings.open()? {
        None if request.needs_index => return Err(Failure::cannot_start(anyhow!(settings.nothing_there()))),
        None => run.output.note(&settings.nothing_there()),
        Some(dir) => {
            let wanted = request.images.iter().map(ImageId::folded).collect();
            let (asks_records, needs_index) = (request.asks_records, request.needs_index);
            let gathering =
                Gathering { run, settings: &settings, dir: &dir, wanted, asks_records, needs_index };
            gathering.gather(&mut report)?;
        }
    }
    report.is_central |= settings.names(Driver::CentralizedDb);
    let states = &request.states;
    report.entries.retain(|entry| {
        (states.is_empty() || states.contains(&entry.state))
            && request.admits(entry.last_use, entry.modified, entry.size)
    });
    report.entries.sort_by(|a, b| {
        let order = match request.order.by {
            SortKey::Image => a.name.cmp(&b.name),
            SortKey::State => a.state.cmp(&b.state),
            SortKey::LastUse => a.last_use.cmp(&b.last_use),
            SortKey::Modified => a.modified.cmp(&b.modified),
            SortKey::Size => a.size.cmp(&b.size),
            SortKey::Hits => a.hits.cmp(&b.hits),
        };
        let order = order.then_with(|| a.name.cmp(&b.name));
        if request.order.reverse { order.reverse() } else { order }
    });
    report.entries.truncate(request.limit.unwrap_or(usize::MAX));
    Ok(report)
}

/// The cache that is listed.
struct Gathering<'a> {
    run: &'a Run,
    settings: &'a Settings<'a>,
    dir: &'a CacheDir,
    /// The only images to list, each [`ImageId::folded`]. An empty set stands for all entries.
    wanted: HashSet<ImageId>,
    asks_records: bool,
    needs_index: bool,
}

impl Gathering<'_> {
    /// Adds the entries of the cache to the report.
    fn gather(&self, report: &mut ListReport) -> Result<(), Failure> {
        let Gathering { run, settings, dir, .. } = *self;
        let mut cache = take_stock(run, settings, dir, Purpose::Look, &run.wait(GLANCE_PATIENCE))?;
        if self.needs_index {
            cache.readable("cannot list the images")?;
            if let Some(missing) = cache.warning.as_ref().filter(|_| !cache.inventory.images.is_empty()) {
                return Err(Failure::cannot_start(anyhow!("cannot list the images: {missing}")));
            }
        }
        if let IndexPlace::File(path) = &cache.place {
            report.index_file = Some(path.clone()).filter(|_| cache.driver == Some(Driver::Sqlite));
        }
        report.is_central = cache.driver == Some(Driver::CentralizedDb);
        report.complete = cache.inventory.unreadable.is_empty();
        for error in unreadable_errors(&cache.inventory.unreadable) {
            run.output.error(&error.to_string());
        }
        if let Tracking::Unknown(why) = &cache.inventory.tracking {
            run.output.warning(&format!("hits and last use are unknown: {why}"));
            report.index_unreadable = Some(why.clone());
        }
        if let Some(doubt) = cache.doubt() {
            run.output.warning(&doubt);
        }
        self.images(&cache, report);
        let stall_time = self.stall_time();
        for place in [CachePlace::Queue, CachePlace::Incomplete, CachePlace::Invalid] {
            let mut partials = Partials::scan(dir, place).map_err(Failure::cannot_start)?;
            partials.entries.retain(|entry| {
                (entry.kind == EntryKind::File || place != CachePlace::Queue)
                    && (self.wanted.is_empty()
                        || ImageId::new(entry.name.as_name().as_bytes()).is_some_and(|id| self.wants(&id)))
            });
            report.entries.extend(partials.entries.iter().map(|entry| {
                let state = match place {
                    CachePlace::Queue => EntryState::Queued,
                    CachePlace::Invalid => EntryState::Invalid,
                    _ if stall_time.is_some_and(|limits| is_stalled(entry, limits, run.now)) => {
                        EntryState::Stalled
                    }
                    _ => EntryState::Incomplete,
                };
                partial(dir, place, state, entry)
            }));
        }
        Ok(())
    }

    fn wants(&self, id: &ImageId) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&id.folded())
    }

    /// Returns the time after which an entry has stalled. If its setting is wrong, nothing counts as stalled.
    fn stall_time(&self) -> Option<CleanLimits> {
        match self.settings.stall_time(None) {
            Ok(stall_time) => Some(CleanLimits { stall_time: stall_time.value, invalid_grace: 0 }),
            Err(failure) => {
                self.run.output.warning(&format!("{:#}; nothing counts as stalled", failure.error));
                None
            }
        }
    }

    /// Returns the images that Glance does not serve, as far as that is known.
    fn unusable(&self, images: &[Image]) -> UnusableImages {
        if !self.asks_records {
            return UnusableImages::default();
        }
        match unusable(self.run, &self.settings.database, images) {
            Usability::Known(found) => found,
            Usability::NotAsked => UnusableImages::default(),
            Usability::Unknown(why) => {
                self.run.output.note(&format!("it is not known which images Glance serves: {why}"));
                UnusableImages::default()
            }
        }
    }

    /// Adds images and ghosts to the report.
    fn images(&self, cache: &Cache, report: &mut ListReport) {
        let Inventory { images, ghosts, tracking, .. } = &cache.inventory;
        let images: Vec<Image> = images.iter().filter(|image| self.wants(&image.id)).copied().collect();
        // Of all images: if few are listed, a database that knows none of them may be the right one.
        let unusable = self.unusable(&cache.inventory.images);
        let entries = images
            .iter()
            .map(|image| ListEntry { unusable: unusable.get(image.id), ..entry(self.dir, image, tracking) });
        report.entries.extend(entries);
        let ghosts = ghosts.iter().filter(|ghost| self.wants(&ghost.id));
        report.entries.extend(ghosts.map(|ghost| ListEntry {
            last_use: Some(nanos(ghost.row.last_accessed)),
            modified: Some(nanos(ghost.row.last_modified)),
            size: u64::try_from(ghost.row.size).ok(),
            hits: Some(ghost.row.hits),
            times: Some((Epoch::Float(ghost.row.last_accessed), Epoch::Float(ghost.row.last_modified))),
            ..ListEntry::new(ghost.id.to_string(), EntryState::Ghost)
        }));
    }
}

/// Returns the entry of an image. The fields depend on the index that tracks it.
fn entry(dir: &CacheDir, image: &Image, tracking: &Tracking) -> ListEntry {
    let seen = &image.seen;
    let whole = |time: Nanos| Epoch::Whole(time.div_euclid(SECOND));
    let mut line = ListEntry {
        last_use: Some(seen.last_use()),
        modified: Some(seen.mtime),
        size: Some(seen.size),
        ..ListEntry::new(image.id.to_string(), EntryState::Tracked)
    };
    match (&image.row, tracking) {
        (Some(row), _) => {
            line.last_use = Some(nanos(row.last_accessed));
            line.modified = Some(nanos(row.last_modified));
            line.hits = Some(row.hits);
            line.key = Some(row.key);
            line.times = Some((Epoch::Float(row.last_accessed), Epoch::Float(row.last_modified)));
        }
        (None, Tracking::ByFile) => {
            line.last_use = Some(seen.atime);
            line.hits = match dir.fd(CachePlace::Base).map(|base| xattr::hits(base, image.id.as_name())) {
                Some(Attribute::Value(value)) => Some(parse_hits(&value)),
                Some(Attribute::Absent) => Some(0),
                _ => None,
            };
            line.times = Some((whole(seen.atime), whole(seen.mtime)));
        }
        (None, Tracking::ByRow) => {
            line.state = EntryState::Orphan;
            line.times = Some((whole(seen.last_use()), whole(seen.mtime)));
        }
        (None, Tracking::Unknown(_)) => line.last_use = None,
    }
    line
}

/// Returns the entry of a subdirectory.
fn partial(dir: &CacheDir, place: CachePlace, state: EntryState, entry: &Partial) -> ListEntry {
    // Glance's xattr driver writes the reason for rejecting an image into an attribute.
    let error = match dir.fd(place).filter(|_| place == CachePlace::Invalid && entry.kind == EntryKind::File)
    {
        Some(fd) => match xattr::error(fd, entry.name.as_name()) {
            Attribute::Value(text) => Some(escaped(&text)),
            _ => None,
        },
        None => None,
    };
    let bytes = entry.name.as_name().as_bytes();
    ListEntry {
        modified: Some(entry.seen.mtime),
        size: (place != CachePlace::Queue).then_some(entry.seen.size),
        times: Some((Epoch::Whole(0), Epoch::Float(entry.seen.mtime as f64 / SECOND as f64))),
        error,
        name_bytes: std::str::from_utf8(bytes).is_err().then(|| BASE64_STANDARD.encode(bytes)),
        ..ListEntry::new(entry.name.to_string(), state)
    }
}

/// One entry of the list.
#[derive(Debug)]
pub(super) struct ListEntry {
    /// The id of the image, or the escaped name of the entry.
    name: String,
    state: EntryState,
    last_use: Option<Nanos>,
    modified: Option<Nanos>,
    /// Bytes.
    size: Option<u64>,
    hits: Option<i64>,
    /// The key of the row.
    key: Option<i64>,
    /// Last use and modification as Glance's driver reports them.
    times: Option<(Epoch, Epoch)>,
    error: Option<String>,
    /// The name in base64, if it is not UTF-8.
    name_bytes: Option<String>,
    /// The reason for which Glance does not serve the image.
    unusable: Option<Unusable>,
}

impl ListEntry {
    fn new(name: String, state: EntryState) -> Self {
        ListEntry {
            name,
            state,
            last_use: None,
            modified: None,
            size: None,
            hits: None,
            key: None,
            times: None,
            error: None,
            name_bytes: None,
            unusable: None,
        }
    }

    /// Returns a cell for each of [`COLUMNS`].
    pub(super) fn cells(&self) -> Vec<ListCell<'_>> {
        vec![
            ListCell::text(&self.name),
            ListCell::text(self.state.name()),
            ListCell::of(self.last_use, ListCell::Time),
            ListCell::of(self.modified, ListCell::Time),
            ListCell::of(self.size, ListCell::Size),
            ListCell::of(self.hits, ListCell::Number),
            ListCell::of(self.error.as_deref(), ListCell::text),
            ListCell::of(self.name_bytes.as_deref(), ListCell::text),
            ListCell::of(self.unusable, |why| ListCell::text(why.word())),
        ]
    }
}

/// The columns of the list.
const COLUMNS: &[Column] = &[
    Column::text("image_id", "IMAGE", Rank::Always),
    Column::text("state", "STATE", Rank::Always),
    Column::text("last_use", "LAST USE", Rank::Always),
    Column::text("modified", "MODIFIED", Rank::Spare(2)),
    Column::number("size", "SIZE", Rank::Always),
    Column::number("hits", "HITS", Rank::Spare(1)),
    Column::text("error", "ERROR", Rank::Asked),
    Column::text("name_bytes", "NAME BYTES", Rank::Asked),
    Column::text("unusable", "UNUSABLE", Rank::Noted),
];

/// The list.
#[derive(Debug, Default)]
pub(crate) struct ListReport {
    entries: Vec<ListEntry>,
    /// The reason if the index could not be read.
    index_unreadable: Option<String>,
    /// True if every entry could be examined.
    complete: bool,
    /// True if the index is in a central database, which knows other nodes, too.
    pub(crate) is_central: bool,
    /// The file of the sqlite index, if that is the index.
    pub(super) index_file: Option<PathBuf>,
}

impl ListReport {
    /// True if every entry could be examined.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &ListEntry> {
        self.entries.iter()
    }

    /// True if there is an entry of an image, in any state.
    pub(crate) fn has(&self, id: &ImageId) -> bool {
        self.entries.iter().any(|entry| entry.name.eq_ignore_ascii_case(id.as_str()))
    }
}

impl Listing for ListReport {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
        Box::new(self.entries.iter().map(ListEntry::cells))
    }
}

/// A time as Glance's drivers report it: seconds since the epoch, which are whole numbers for the xattr
/// driver. It is null in JSON if it is not a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Epoch {
    Float(f64),
    Whole(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_value_is_neither_old_nor_large() {
        let request = |used_before, larger_than| ListRequest {
            images: Vec::new(),
            states: Vec::new(),
            used_before,
            larger_than,
            limit: None,
            order: Order { by: SortKey::Image, reverse: false },
            asks_records: false,
            needs_index: false,
        };
        for (used_before, larger_than, last_use, modified, size, expected) in [
            (None, None, None, None, None, true),
            (Some(10), None, Some(9), Some(20), None, true),
            (Some(10), None, Some(10), Some(1), None, false),
            (Some(10), None, None, Some(9), None, true),
            (Some(10), None, None, None, None, false),
            (None, Some(5), None, None, Some(5), false),
            (None, Some(5), None, None, Some(6), true),
            (None, Some(5), None, None, None, false),
            (Some(10), Some(5), Some(9), None, Some(5), false),
        ] {
            let found = request(used_before, larger_than).admits(last_use, modified, size);
            assert_eq!(found, expected, "{used_before:?} {larger_than:?} {last_use:?} {modified:?} {size:?}");
        }
    }
}
