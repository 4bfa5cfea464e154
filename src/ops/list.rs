//! List: the entries of a cache, in the form of Glance's `GET /v2/cache`.
//!
//! Nothing is changed and no lock is taken. Entries that Glance's API does not report have arrays of their
//! own. An index that cannot be read is a warning: the images are listed without hits and last use.

use serde::{Serialize, Serializer};

use crate::cache::dir::{CacheDir, CachePlace};
use crate::cache::entry::{EntryKind, Image, Partial};
use crate::cache::index::xattr::{self, Attribute, parse_hits};
use crate::cache::inventory::{Inventory, Partials, Tracking};
use crate::database::opening::Purpose;
use crate::exit::Failure;
use crate::host::glance::open::{Cache, GLANCE_PATIENCE, take_stock, unreadable_errors};
use crate::host::glance::settings::{Selection, Settings};
use crate::names::escaped;
use crate::ops::report::SCHEMA_VERSION;
use crate::output::Report;
use crate::output::table::table;
use crate::run::Run;
use crate::units::{Nanos, SECOND, human, nanos, when};

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
    Incomplete,
    Invalid,
}

impl EntryState {
    fn name(self) -> &'static str {
        match self {
            EntryState::Tracked => "cached",
            EntryState::Orphan => "orphan",
            EntryState::Ghost => "ghost",
            EntryState::Queued => "queued",
            EntryState::Incomplete => "incomplete",
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
    /// The states to show. An empty list stands for all states.
    pub(crate) states: Vec<EntryState>,
    pub(crate) order: Order,
    pub(crate) human: bool,
}

/// Lists the entries of a cache.
pub(crate) fn list(run: &Run, selection: Selection, request: &ListRequest) -> Result<ListReport, Failure> {
    let config = selection.read_to_look(run)?;
    let settings = Settings::new(&config, selection)?;
    let mut report =
        ListReport { entries: Vec::new(), index_unreadable: None, complete: true, human: request.human };
    match settings.open()? {
        None => run.output.note(&settings.nothing_there()),
        Some(dir) => gather(run, &settings, &dir, &mut report)?,
    }
    let states = &request.states;
    report.entries.retain(|entry| states.is_empty() || states.contains(&entry.state));
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
    Ok(report)
}

/// Adds the entries of the cache to the report.
fn gather(
    run: &Run,
    settings: &Settings<'_>,
    dir: &CacheDir,
    report: &mut ListReport,
) -> Result<(), Failure> {
    let cache = take_stock(run, settings, dir, Purpose::Look, &run.wait(GLANCE_PATIENCE))?;
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
    images(dir, &cache, report);
    for (place, state) in [
        (CachePlace::Queue, EntryState::Queued),
        (CachePlace::Incomplete, EntryState::Incomplete),
        (CachePlace::Invalid, EntryState::Invalid),
    ] {
        let mut partials = Partials::scan(dir, place).map_err(Failure::cannot_start)?;
        partials.entries.retain(|entry| entry.kind == EntryKind::File || place != CachePlace::Queue);
        report.entries.extend(partials.entries.iter().map(|entry| partial(dir, place, state, entry)));
    }
    Ok(())
}

/// Adds images and ghosts to the report.
fn images(dir: &CacheDir, cache: &Cache, report: &mut ListReport) {
    let Inventory { images, ghosts, tracking, .. } = &cache.inventory;
    report.entries.extend(images.iter().map(|image| line(dir, image, tracking)));
    report.entries.extend(ghosts.iter().map(|ghost| Line {
        name: ghost.id.to_string(),
        state: EntryState::Ghost,
        last_use: Some(nanos(ghost.row.last_accessed)),
        modified: Some(nanos(ghost.row.last_modified)),
        size: u64::try_from(ghost.row.size).ok(),
        hits: Some(ghost.row.hits),
        times: Some((Epoch::Float(ghost.row.last_accessed), Epoch::Float(ghost.row.last_modified))),
        error: None,
    }));
}

/// Returns the line of an image. The fields depend on the index that tracks it.
fn line(dir: &CacheDir, image: &Image, tracking: &Tracking) -> Line {
    let seen = &image.seen;
    let whole = |time: Nanos| Epoch::Whole(time.div_euclid(SECOND));
    let mut line = Line {
        name: image.id.to_string(),
        state: EntryState::Tracked,
        last_use: Some(seen.last_use()),
        modified: Some(seen.mtime),
        size: Some(seen.size),
        hits: None,
        times: None,
        error: None,
    };
    match (&image.row, tracking) {
        (Some(row), _) => {
            line.last_use = Some(nanos(row.last_accessed));
            line.modified = Some(nanos(row.last_modified));
            line.hits = Some(row.hits);
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

/// Returns the line of an entry in a subdirectory.
fn partial(dir: &CacheDir, place: CachePlace, state: EntryState, entry: &Partial) -> Line {
    // Glance's xattr driver writes the reason for rejecting an image into an attribute.
    let error = match dir.fd(place).filter(|_| place == CachePlace::Invalid && entry.kind == EntryKind::File)
    {
        Some(fd) => match xattr::error(fd, entry.name.as_name()) {
            Attribute::Value(text) => Some(escaped(&text)),
            _ => None,
        },
        None => None,
    };
    Line {
        name: entry.name.to_string(),
        state,
        last_use: None,
        modified: Some(entry.seen.mtime),
        size: (place != CachePlace::Queue).then_some(entry.seen.size),
        hits: None,
        times: Some((Epoch::Whole(0), Epoch::Float(entry.seen.mtime as f64 / SECOND as f64))),
        error,
    }
}

/// One entry of the list.
#[derive(Debug)]
struct Line {
    /// The id of the image, or the escaped name of the entry.
    name: String,
    state: EntryState,
    last_use: Option<Nanos>,
    modified: Option<Nanos>,
    /// Bytes.
    size: Option<u64>,
    hits: Option<i64>,
    /// Last use and modification as Glance's driver reports them.
    times: Option<(Epoch, Epoch)>,
    error: Option<String>,
}

/// The list.
#[derive(Debug)]
pub(crate) struct ListReport {
    entries: Vec<Line>,
    /// The reason if the index could not be read.
    index_unreadable: Option<String>,
    /// True if every entry could be examined.
    complete: bool,
    human: bool,
}

/// An image as Glance's API reports it.
#[derive(Serialize)]
struct ApiImage<'a> {
    image_id: &'a str,
    #[serde(skip_serializing_if = "is_left_out")]
    hits: Shape<i64>,
    last_accessed: Option<Epoch>,
    last_modified: Option<Epoch>,
    size: Option<u64>,
}

/// A field that is reported, null if unknown, or left out.
#[derive(Serialize)]
#[serde(untagged)]
enum Shape<T> {
    Shown(Option<T>),
    LeftOut,
}

fn is_left_out<T>(shape: &Shape<T>) -> bool {
    matches!(shape, Shape::LeftOut)
}

/// An entry of a subdirectory.
#[derive(Serialize)]
struct ApiPartial<'a> {
    /// The name of the entry, even if it is not an id.
    image_id: &'a str,
    size: Option<u64>,
    last_modified: Option<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct ApiList<'a> {
    schema_version: u32,
    cached_images: Vec<ApiImage<'a>>,
    queued_images: Vec<&'a str>,
    orphans: Vec<ApiImage<'a>>,
    ghosts: Vec<ApiImage<'a>>,
    incomplete: Vec<ApiPartial<'a>>,
    invalid: Vec<ApiPartial<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_unreadable: Option<&'a str>,
}

impl Serialize for ListReport {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of = |state| self.entries.iter().filter(move |line| line.state == state);
        let images = |state| {
            of(state)
                .map(|line| ApiImage {
                    image_id: &line.name,
                    hits: if state == EntryState::Orphan { Shape::LeftOut } else { Shape::Shown(line.hits) },
                    last_accessed: line.times.map(|times| times.0),
                    last_modified: line.times.map(|times| times.1),
                    size: line.size,
                })
                .collect()
        };
        let partials = |state| {
            of(state)
                .map(|line| ApiPartial {
                    image_id: &line.name,
                    size: line.size,
                    last_modified: line.times.map(|times| times.1),
                    error: line.error.as_deref(),
                })
                .collect()
        };
        let mut queue: Vec<&Line> = of(EntryState::Queued).collect();
        queue.sort_by(|a, b| a.modified.cmp(&b.modified).then_with(|| a.name.cmp(&b.name)));
        ApiList {
            schema_version: SCHEMA_VERSION,
            cached_images: images(EntryState::Tracked),
            queued_images: queue.iter().map(|line| line.name.as_str()).collect(),
            orphans: images(EntryState::Orphan),
            ghosts: images(EntryState::Ghost),
            incomplete: partials(EntryState::Incomplete),
            invalid: partials(EntryState::Invalid),
            index_unreadable: self.index_unreadable.as_deref(),
        }
        .serialize(serializer)
    }
}

impl ListReport {
    /// True if every entry could be examined.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Report for ListReport {
    fn text(&self) -> String {
        let time = |time: Option<Nanos>| time.map_or_else(|| "-".to_owned(), when);
        let mut rows = vec![["IMAGE", "STATE", "LAST USE", "MODIFIED", "SIZE", "HITS"].map(str::to_owned)];
        rows.extend(self.entries.iter().map(|line| {
            let size = line.size.map(|size| if self.human { human(size) } else { size.to_string() });
            [
                line.name.clone(),
                line.state.name().to_owned(),
                time(line.last_use),
                time(line.modified),
                size.unwrap_or_else(|| "-".to_owned()),
                line.hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string()),
            ]
        }));
        table(&rows)
    }
}

/// A time as Glance's drivers report it: seconds since the epoch, which are whole numbers for the xattr
/// driver. It is null in JSON if it is not a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Epoch {
    Float(f64),
    Whole(i64),
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Epoch::Float(seconds) => serializer.serialize_f64(*seconds),
            Epoch::Whole(seconds) => serializer.serialize_i64(*seconds),
        }
    }
}
