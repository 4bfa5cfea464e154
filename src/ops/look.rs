//! `list --all-caches` and `status --all-caches`: reports every cache of the host, by priority.
//!
//! Nothing is changed or locked. A cache that cannot be opened is reported as an error, and the others are
//! still shown.

use std::collections::HashSet;
use std::fmt::Write as _;

use rustix::fs::fstatvfs;
use serde::Serialize;

use super::MIN_AGE;
use super::attention::{Attention, Concern, Figure, first_line};
use super::report::{CacheLine, SCHEMA_VERSION, human_or_unknown, shown_point};
use crate::cache::outcome::EntryError;
use crate::cache::plan::Choice;
use crate::config;
use crate::exit::Failure;
use crate::host::cache::{Rules, Tally};
use crate::host::gather::{Gathered, Member};
use crate::host::{Declared, Host};
use crate::os::mounts::{Mount, mount_of};
use crate::os::space::{available, capacity};
use crate::output::Report;
use crate::output::rows::{Column, ListCell, Listing, Rank};
use crate::output::table::table;
use crate::units::{Nanos, count, human};

/// At most this many names of a kind are listed; the rest is only counted.
const NAMED: usize = 20;

const HEADER: [&str; 10] = [
    "CACHE",
    "KIND",
    "PRIORITY",
    "DIRECTORY",
    "FILE SYSTEM",
    "SIZE",
    "LIMIT",
    "AGE LIMIT",
    "IN USE",
    "RECLAIMABLE",
];

/// The amount of detail to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overview {
    List,
    Status,
}

/// Opens and surveys every cache of the host, without changing anything, and prints the warnings. Returns
/// the rules, too: images that were used within [`MIN_AGE`] count as kept, because `prune --all-caches` keeps
/// them.
pub(super) fn survey<'h>(host: &'h Host<'_>, temp_grace: Nanos) -> Result<(Gathered<'h>, Rules), Failure> {
    let rules = Rules {
        now: host.run.now,
        min_age: MIN_AGE,
        grace: temp_grace,
        keep: HashSet::default(),
        changing: false,
        forget_all: true,
        choice: Choice::OverLimit,
        fits_without_index: None,
    };
    let mut gathered = Gathered::open(host, None)?;
    gathered.survey(&rules)?;
    gathered.report_warnings(host.run);
    Ok((gathered, rules))
}

/// Surveys every cache of the host. Images that were used within [`MIN_AGE`] are shown as kept.
pub(crate) fn look(
    host: &Host<'_>,
    look: Overview,
    temp_grace: Nanos,
    human: bool,
) -> Result<LookReport, Failure> {
    let (gathered, _) = survey(host, temp_grace)?;
    let caches: Vec<CacheLine> = gathered.members.iter().map(CacheLine::of).collect();
    let file_systems = file_systems(&gathered.members);
    Ok(LookReport {
        schema_version: SCHEMA_VERSION,
        is_status: look == Overview::Status,
        check: false,
        attention: attention(&caches, &file_systems, &gathered),
        files_read: host.run.output.is_verbose().then(|| files_read(host)),
        caches,
        file_systems,
        missing: gathered.missing.iter().map(Missing::of).collect(),
        warnings: gathered.warnings,
        errors: gathered.errors,
        human,
    })
}

/// Returns what needs attention.
fn attention(
    caches: &[CacheLine],
    file_systems: &[FileSystemLine],
    gathered: &Gathered<'_>,
) -> Vec<Attention> {
    let over = caches.iter().filter(|line| line.is_over());
    let over =
        over.map(|line| Attention::new(Concern::OverLimit, format!("{} is over its limit", line.name)));
    let read_only = file_systems.iter().filter(|fs| fs.is_read_only);
    let read_only = read_only.map(|fs| Attention::read_only(&fs.mount_point));
    // The warnings about directories that do not exist come last.
    let others = gathered.warnings.len().saturating_sub(gathered.missing.len());
    let warnings = gathered.warnings.iter().enumerate().map(|(number, warning)| {
        let code = if number < others { Concern::Warning } else { Concern::NoCache };
        Attention::new(code, warning.clone())
    });
    let errors = gathered.errors.iter();
    let errors = errors.map(|error| Attention::new(Concern::Unreadable, error.to_string()));
    over.chain(read_only).chain(warnings).chain(errors).collect()
}

/// Returns the configuration files that were read, those of Ironic included.
fn files_read(host: &Host<'_>) -> Vec<String> {
    let ironic = host.ironic().ok();
    let files = host.config.files_read().chain(ironic.into_iter().flat_map(config::Config::files_read));
    files.map(|path| path.display().to_string()).collect()
}

/// Returns each file system that has caches on it, once.
fn file_systems(members: &[Member<'_>]) -> Vec<FileSystemLine> {
    let mut found: Vec<FileSystemLine> = Vec::new();
    let mut seen = Vec::new();
    for member in members {
        if seen.contains(&member.identity.0) {
            continue;
        }
        seen.push(member.identity.0);
        let Ok(figures) = fstatvfs(member.cache.fd()) else { continue };
        let on_it = || members.iter().filter(|other| other.identity.0 == member.identity.0);
        let mount = mount_of(&member.declared.directory.value);
        found.push(FileSystemLine {
            is_read_only: mount.as_ref().is_some_and(Mount::is_file_system_read_only),
            mount_point: shown_point(mount.as_ref()),
            size: capacity(&figures),
            available: available(&figures).min(capacity(&figures)),
            reclaimable: on_it().map(|other| other.stock.reclaimable.bytes).sum(),
            caches: on_it().map(|other| other.declared.name.clone()).collect(),
        });
    }
    found
}

/// A file system with caches on it.
#[derive(Debug, Serialize)]
struct FileSystemLine {
    #[serde(skip)]
    is_read_only: bool,
    mount_point: String,
    size: u64,
    available: u64,
    /// Bytes that the images on it would free if they were removed, as far as they may be removed.
    reclaimable: u64,
    caches: Vec<String>,
}

/// A cache whose directory is configured but does not exist.
#[derive(Debug, Serialize)]
struct Missing {
    name: String,
    kind: &'static str,
    priority: u32,
    directory: String,
    directory_set_by: String,
}

impl Missing {
    fn of(declared: &Declared) -> Self {
        Missing {
            name: declared.name.clone(),
            kind: declared.kind.name(),
            priority: declared.priority,
            directory: declared.directory.value.display().to_string(),
            directory_set_by: declared.directory.origin.to_string(),
        }
    }
}

/// The report on all caches of a host.
#[derive(Debug, Serialize)]
pub(crate) struct LookReport {
    schema_version: u32,
    #[serde(skip)]
    is_status: bool,
    /// Begin the text with the first line of a check.
    #[serde(skip)]
    pub(crate) check: bool,
    caches: Vec<CacheLine>,
    file_systems: Vec<FileSystemLine>,
    missing: Vec<Missing>,
    attention: Vec<Attention>,
    warnings: Vec<String>,
    errors: Vec<EntryError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files_read: Option<Vec<String>>,
    #[serde(skip)]
    human: bool,
}

impl LookReport {
    /// True if a cache is over its limit, or there was a warning or an error.
    pub(crate) fn needs_attention(&self) -> bool {
        !self.attention.is_empty()
    }

    /// Returns the first line of a check.
    fn first_line(&self) -> String {
        let bytes = self.caches.iter().map(|line| line.size).sum::<Option<u64>>();
        let summary = format!("{}, {}", count(self.caches.len() as u64, "cache"), human_or_unknown(bytes));
        let over = self.caches.iter().filter(|line| line.is_over()).count() as u64;
        first_line(
            &self.attention,
            &summary,
            &[
                Figure { label: "size", value: bytes, unit: "B", limit: None },
                Figure::number("caches", Some(self.caches.len() as u64)),
                Figure::number("over_limit", Some(over)),
                Figure::number("missing", Some(self.missing.len() as u64)),
            ],
        )
    }

    /// Returns the errors of caches that could not be surveyed.
    pub(crate) fn errors(&self) -> &[EntryError] {
        &self.errors
    }

    fn size(&self, bytes: u64) -> String {
        if self.human { human(bytes) } else { bytes.to_string() }
    }

    fn part(&self, part: Option<Tally>) -> String {
        part.map_or_else(unknown, |part| format!("{}, {}", part.count, self.size(part.bytes)))
    }

    fn table(&self) -> String {
        let mut rows = vec![HEADER.map(str::to_owned)];
        rows.extend(self.caches.iter().map(|line| {
            [
                line.name.clone(),
                line.kind.to_owned(),
                line.priority.to_string(),
                line.directory.clone(),
                line.file_system.clone(),
                line.size.map_or_else(unknown, |size| self.size(size)),
                self.size(line.limit),
                line.age(),
                self.part(line.in_use),
                self.part(line.reclaimable),
            ]
        }));
        table(&rows)
    }

    /// Returns the lines below the table of a status, each with its heading.
    fn details(&self) -> Vec<(&str, String)> {
        let mut lines = Vec::new();
        for fs in &self.file_systems {
            lines.push(("file system", self.file_system(fs)));
            if fs.is_read_only {
                lines.push(("attention", Attention::read_only(&fs.mount_point).message));
            }
        }
        for cache in &self.caches {
            self.cache(cache, &mut lines);
        }
        lines.extend(self.missing.iter().map(|Missing { name, directory, directory_set_by, .. }| {
            ("missing", format!("{name} ({directory}, set by {directory_set_by})"))
        }));
        lines.extend(self.files_read.iter().flatten().map(|path| ("read", path.clone())));
        lines
    }

    fn file_system(&self, fs: &FileSystemLine) -> String {
        format!(
            "{}: {} of {} free; {} could free {}",
            fs.mount_point,
            self.size(fs.available),
            self.size(fs.size),
            fs.caches.join(", "),
            self.size(fs.reclaimable)
        )
    }

    fn cache<'a>(&self, cache: &'a CacheLine, lines: &mut Vec<(&'a str, String)>) {
        let origins = format!("directory set by {}, limit by {}", cache.directory_set_by, cache.limit_set_by);
        lines.push((&cache.name, origins));
        for (part, what) in [
            (cache.kept, "used too recently to be removed"),
            (Some(cache.leftovers), "left by crashed downloads, or invalid"),
        ] {
            if part.is_some_and(|part| part.count > 0) {
                lines.push(("", format!("{} {what}", self.part(part))));
            }
        }
        if cache.is_over() {
            lines.push(("attention", format!("{} is over its limit", cache.name)));
        }
        let directory = cache.directory.trim_end_matches('/');
        let foreign = cache.foreign.as_deref().unwrap_or_default();
        let named = foreign.iter().take(NAMED);
        lines.extend(named.map(|name| ("foreign", format!("{directory}/{name}"))));
        if foreign.len() > NAMED {
            lines.push(("foreign", format!("... and {} more", foreign.len() - NAMED)));
        }
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

impl Report for LookReport {
    fn text(&self) -> String {
        let mut text = self.table();
        if self.is_status {
            for (name, value) in self.details() {
                let _ = writeln!(text, "{name:<17}{value}");
            }
        }
        if self.check {
            // A `|` would begin more figures.
            return self.first_line() + &text.replace('|', "/");
        }
        text
    }
}

impl Listing for LookReport {
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::text("cache", "CACHE", Rank::Always),
            Column::text("kind", "KIND", Rank::Spare(5)),
            Column::number("priority", "PRIORITY", Rank::Spare(4)),
            Column::text("directory", "DIRECTORY", Rank::Spare(3)),
            Column::text("file_system", "FILE SYSTEM", Rank::Spare(6)),
            Column::number("size", "SIZE", Rank::Always),
            Column::number("limit", "LIMIT", Rank::Always),
            Column::text("age_limit", "AGE LIMIT", Rank::Spare(2)),
            Column::number("in_use", "IN USE", Rank::Spare(1)),
            Column::number("reclaimable", "RECLAIMABLE", Rank::Spare(1)),
        ];
        COLUMNS
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
        let tally = |tally: Tally| ListCell::Tally(tally.count, tally.bytes);
        Box::new(self.caches.iter().map(move |line| {
            vec![
                ListCell::text(&line.name),
                ListCell::text(line.kind),
                ListCell::Number(line.priority.into()),
                ListCell::text(&line.directory),
                ListCell::text(&line.file_system),
                ListCell::of(line.size, ListCell::Size),
                ListCell::Size(line.limit),
                ListCell::of(line.age_limit, ListCell::Span),
                ListCell::of(line.in_use, tally),
                ListCell::of(line.reclaimable, tally),
            ]
        }))
    }
}
