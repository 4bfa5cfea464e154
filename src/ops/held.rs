//! `list --all-caches --images`: the images of every cache of the host, and the reason for keeping each.
//!
//! Nothing is changed or locked. A cache that cannot be opened is reported as an error, and the images of the
//! others are still listed. Files that crashed downloads left, and foreign files, are not images.

use std::cmp::Ordering;

use serde::{Serialize, Serializer};

use super::list::{EntryState, ListRequest, SortKey};
use super::look::survey;
use super::report::SCHEMA_VERSION;
use crate::cache::outcome::EntryError;
use crate::cache::plan::Kept;
use crate::exit::Failure;
use crate::host::Host;
use crate::host::cache::{HeldImage, Holder};
use crate::output::rows::{Column, ListCell, Listing, Rank};
use crate::units::{Nanos, moment};

/// Lists the images of every cache, with what holds them.
pub(crate) fn held(host: &Host<'_>, request: &ListRequest, temp_grace: Nanos) -> Result<HeldReport, Failure> {
    let (gathered, rules) = survey(host, temp_grace)?;
    let mut images = Vec::new();
    for member in &gathered.members {
        let (cache, kind) = (&member.declared.name, member.declared.kind.name());
        let found = member.cache.images(&rules).into_iter().filter(|image| {
            (request.states.is_empty() || request.states.contains(&state(image)))
                && request.admits(Some(image.last_use), None, Some(image.size))
        });
        images.extend(found.map(|image| HeldLine { cache: cache.clone(), kind, image }));
    }
    // The order of the caches, which is that of their priority, decides last; the sort is stable.
    images.sort_by(|a, b| {
        let (a, b) = (&a.image, &b.image);
        let order = match request.order.by {
            SortKey::Image | SortKey::Hits => a.name.cmp(&b.name),
            SortKey::State => state(a).cmp(&state(b)),
            SortKey::LastUse | SortKey::Modified => a.last_use.cmp(&b.last_use),
            SortKey::Size => a.size.cmp(&b.size),
        };
        if request.order.reverse { order.reverse() } else { order }
    });
    if request.order.by == SortKey::Image {
        let place = |name: &str| gathered.members.iter().position(|member| member.declared.name == name);
        images.sort_by(|a, b| match (a.cache == b.cache, request.order.reverse) {
            (true, _) => Ordering::Equal,
            (false, false) => place(&a.cache).cmp(&place(&b.cache)),
            (false, true) => place(&b.cache).cmp(&place(&a.cache)),
        });
    }
    images.truncate(request.limit.unwrap_or(usize::MAX));
    Ok(HeldReport {
        schema_version: SCHEMA_VERSION,
        images,
        warnings: gathered.warnings,
        errors: gathered.errors,
    })
}

fn state(image: &HeldImage) -> EntryState {
    if image.is_orphan { EntryState::Orphan } else { EntryState::Tracked }
}

/// An image of a cache.
#[derive(Debug)]
struct HeldLine {
    cache: String,
    kind: &'static str,
    image: HeldImage,
}

impl HeldLine {
    /// Returns the reason for keeping the image: a word for programs.
    fn held_by(&self) -> Option<&'static str> {
        self.image.held.map(|holder| match holder {
            Holder::InUse => "in_use",
            Holder::Rule(Kept::Young) => "recent_use",
            Holder::Rule(Kept::Listed) => "keep_list",
        })
    }

    fn cells(&self) -> Vec<ListCell<'_>> {
        let HeldLine { cache, kind, image } = self;
        vec![
            ListCell::text(cache),
            ListCell::text(&image.name),
            ListCell::text(state(image).name()),
            ListCell::Time(image.last_use),
            ListCell::of(self.held_by(), ListCell::text),
            ListCell::Number(i64::from(image.links)),
            ListCell::Size(image.size),
            ListCell::text(*kind),
        ]
    }
}

impl Serialize for HeldLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            cache: &'a str,
            kind: &'a str,
            image_id: &'a str,
            state: &'a str,
            size: u64,
            last_use: Option<String>,
            links: u32,
            in_use: bool,
            held_by: Option<&'a str>,
        }
        let image = &self.image;
        Line {
            cache: &self.cache,
            kind: self.kind,
            image_id: &image.name,
            state: state(image).name(),
            size: image.size,
            last_use: moment(image.last_use),
            links: image.links,
            in_use: image.held == Some(Holder::InUse),
            held_by: self.held_by(),
        }
        .serialize(serializer)
    }
}

/// The images of all caches of a host.
#[derive(Debug, Serialize)]
pub(crate) struct HeldReport {
    schema_version: u32,
    images: Vec<HeldLine>,
    warnings: Vec<String>,
    errors: Vec<EntryError>,
}

impl HeldReport {
    /// Returns the errors of caches that could not be surveyed.
    pub(crate) fn errors(&self) -> &[EntryError] {
        &self.errors
    }
}

impl Listing for HeldReport {
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::text("cache", "CACHE", Rank::Always),
            Column::text("image_id", "IMAGE", Rank::Always),
            Column::text("state", "STATE", Rank::Spare(2)),
            Column::text("last_use", "LAST USE", Rank::Spare(1)),
            Column::text("held_by", "HELD BY", Rank::Always),
            Column::number("links", "LINKS", Rank::Spare(3)),
            Column::number("size", "SIZE", Rank::Always),
            Column::text("kind", "KIND", Rank::Asked),
        ];
        COLUMNS
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
        Box::new(self.images.iter().map(HeldLine::cells))
    }
}
