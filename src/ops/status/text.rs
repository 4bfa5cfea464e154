//! The text of a status: lines of a heading and a value, which wrap at the width of a terminal.
//!
//! A check begins with the line that monitoring shows, and then the lines that need attention, because
//! monitoring may cut off the rest.

use std::fmt::Write as _;

use super::NAMED;
use super::age::AgeGroup;
use super::report::{Entries, SettingsInUse, StatusReport};
use crate::host::cache::Tally;
use crate::ops::attention::{Figure, first_line, plain};
use crate::os::locks::process;
use crate::output::Report;
use crate::output::table::wrapped;
use crate::units::{SECOND, count, human, span, when};

/// The width of the headings.
const INDENT: usize = 14;

/// The length of the longest bar of the ages.
const BAR: u64 = 8;

fn unknown() -> String {
    "unknown".to_owned()
}

/// The lines of a status as text, each with its heading.
struct StatusText {
    text: String,
    width: Option<usize>,
}

impl StatusText {
    fn add(&mut self, heading: &str, value: impl std::fmt::Display) {
        self.text.push_str(&wrapped(&format!("{heading:<INDENT$}{value}"), INDENT, self.width));
    }
}

impl StatusReport {
    fn size(&self, bytes: u64) -> String {
        if self.shown.human { human(bytes) } else { bytes.to_string() }
    }

    fn known_size(&self, bytes: Option<u64>) -> String {
        bytes.map_or_else(unknown, |bytes| self.size(bytes))
    }

    fn amount(&self, part: Tally) -> String {
        format!("{}, {}", part.count, self.size(part.bytes))
    }

    fn part(&self, part: Option<Tally>) -> String {
        part.map_or_else(unknown, |part| self.amount(part))
    }

    fn entries(&self, part: Option<Entries>) -> String {
        self.part(part.map(|Entries { count, bytes, .. }| Tally { count, bytes }))
    }

    fn size_line(&self) -> String {
        let mut text = self.known_size(self.cache_size);
        let Some(max) = self.max_size else { return text };
        let _ = write!(text, " of {} (", self.size(max));
        let part = match self.cache_size {
            Some(size) if max > 0 => Some(size as f64 / max as f64),
            Some(size) => Some(if size > 0 { 1.0 } else { 0.0 }),
            None => None,
        };
        if let Some(part) = part.filter(|_| max > 0) {
            let _ = write!(text, "{:.0} %, ", part * 100.0);
        }
        let _ = write!(text, "limit set by {})", self.max_size_set_by.as_deref().unwrap_or("default"));
        if let (Some(part), true) = (part, self.shown.is_terminal) {
            let full = ((part * 30.0).round() as usize).min(30);
            let _ = write!(text, " [{}{}]", "#".repeat(full), "-".repeat(30 - full));
        }
        text
    }

    fn index_lines(&self, lines: &mut StatusText) {
        let driver = self.driver.as_deref().unwrap_or("none");
        let path = self.index_path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
        let why = self.driver_why.as_deref().unwrap_or("not looked at");
        lines.add("index", format!("{driver}{path} ({why})"));
        if let (Some(database), Some(node)) = (&self.database, &self.node) {
            lines.add("database", database);
            lines.add("node", node);
        }
    }

    fn entry_lines(&self, lines: &mut StatusText) {
        lines.add("size", self.size_line());
        lines.add("tracked", self.part(self.tracked));
        lines.add("orphans", self.part(self.orphans));
        lines.add("ghosts", self.ghosts.map_or_else(unknown, |ghosts| ghosts.count.to_string()));
        lines.add("queued", self.queued.map_or_else(unknown, |queued| queued.count.to_string()));
        lines.add("incomplete", self.entries(self.incomplete));
        let stalled = self.entries(self.stalled);
        lines.add(
            "stalled",
            match (self.stall_time, &self.stall_time_set_by) {
                (Some(seconds), Some(origin)) => {
                    format!("{stalled} (after {}, set by {origin})", span(seconds.saturating_mul(SECOND)))
                }
                _ => stalled,
            },
        );
        lines.add("invalid", self.entries(self.invalid));
        if let (Some(oldest), Some(newest)) = (self.oldest_use, self.newest_use) {
            let hits = self.hits.map(|hits| format!(", {}", count(hits, "hit"))).unwrap_or_default();
            lines.add("used", format!("{} to {}{hits}", when(oldest), when(newest)));
        }
    }

    /// Adds a line for each group of images by age, with a bar, and with what a prune of older images
    /// removes. Groups without images are left out.
    fn age_lines(&self, lines: &mut StatusText) {
        let groups = self.by_last_use.iter().flatten().filter(|group| group.images.count > 0);
        let groups: Vec<&AgeGroup> = groups.collect();
        let days = |seconds: i64| format!("{}d", seconds / 86_400);
        let largest = groups.iter().map(|group| group.images.bytes).max().unwrap_or(0).max(1);
        let amounts = groups.iter().map(|group| self.amount(group.images).len());
        let width = amounts.max().unwrap_or(0);
        for (number, AgeGroup { older_than, younger_than, images, all_older }) in
            groups.into_iter().enumerate()
        {
            let label = match younger_than {
                Some(younger) => format!("{} to {}", older_than / 86_400, days(*younger)),
                None => format!("over {}", days(*older_than)),
            };
            let length = (u128::from(images.bytes) * u128::from(BAR)).div_ceil(u128::from(largest));
            let bar = "#".repeat(usize::try_from(length).unwrap_or(0));
            let mut line = format!("{label:<10}{bar:<9}{:<width$}", self.amount(*images));
            if *older_than > 0 {
                let _ = write!(line, "  --older-than {}: {}", days(*older_than), self.amount(*all_older));
            }
            lines.add(if number == 0 { "last use" } else { "" }, line.trim_end());
        }
    }

    fn file_system_lines(&self, lines: &mut StatusText) {
        let Some(fs) = &self.file_system else { return };
        let kind = fs.kind.clone().unwrap_or_else(unknown);
        let point = fs.mount_point.as_ref().map_or_else(|| "an unknown place".to_owned(), Clone::clone);
        let (free, whole) = (self.known_size(fs.available), self.known_size(fs.size));
        lines.add("file system", format!("{kind} at {point}, {free} of {whole} free"));
        // Only where no row has the last use, it is the access time of the file.
        let matters = self.driver.as_deref() == Some("xattr") || self.orphans.is_some_and(|o| o.count > 0);
        if matters {
            lines.add("access times", fs.access_times.unwrap_or("unknown"));
        }
    }

    /// Adds the images that Glance does not serve, if there are any.
    fn unusable_lines(&self, lines: &mut StatusText) {
        let Some(unusable) = self.unusable.as_ref().filter(|unusable| unusable.count > 0) else { return };
        lines.add("unusable", self.amount(Tally { count: unusable.count, bytes: unusable.bytes }));
        for image in unusable.images.iter().take(NAMED) {
            let size = self.size(image.bytes);
            lines.add("", format!("{} ({size}): {}", image.image_id, image.sentence));
        }
        if unusable.images.len() > NAMED {
            lines.add("", format!("... and {} more", unusable.images.len() - NAMED));
        }
    }

    /// Adds what is known of the contents of the images.
    fn contents_lines(&self, lines: &mut StatusText) {
        if let Some(verification) = &self.verification {
            lines.add("read", verification.summary());
            for image in &verification.broken {
                lines.add("broken", format!("{}: {}", image.image_id, image.fault.message));
            }
        }
        let Some(verified) = &self.verified else { return };
        let tally = Tally { count: verified.count, bytes: verified.bytes };
        let (oldest, newest) = (when(verified.oldest), when(verified.newest));
        lines.add("verified", format!("{}, {oldest} to {newest}", self.amount(tally)));
        let is_new = |id: &&String| {
            let mut found = self.verification.iter().flat_map(|verification| &verification.broken);
            !found.any(|image| image.image_id == **id)
        };
        for id in verified.broken.iter().filter(is_new).take(NAMED) {
            lines.add("broken", format!("{id}: found by an earlier verification"));
        }
    }

    fn other_lines(&self, lines: &mut StatusText) {
        for lock in self.locks.iter().flatten() {
            let who: Vec<String> = lock.holders.iter().map(|pid| process(*pid)).collect();
            lines.add("lock", format!("{} is held by {}", lock.name, who.join(", ")));
        }
        for entry in self.foreign.iter().take(NAMED) {
            let size = self.known_size(entry.bytes);
            lines.add("foreign", format!("{} ({}, {size})", entry.name, entry.kind));
        }
        if self.foreign.len() > NAMED {
            lines.add("foreign", format!("... and {} more", self.foreign.len() - NAMED));
        }
    }

    /// Returns the first line of a check.
    fn first_line(&self) -> String {
        let max = self.max_size.map(human);
        let summary = match (self.images, self.cache_size, max) {
            (Some(images), Some(size), Some(max)) => {
                format!("{}, {} of {max}", count(images, "image"), human(size))
            }
            (Some(images), Some(size), None) => format!("{}, {}", count(images, "image"), human(size)),
            (_, _, Some(max)) => format!("size unknown, limit {max}"),
            (_, _, None) => "size unknown".to_owned(),
        };
        let number = |part: Option<Entries>| part.map(|part| part.count);
        let tally = |part: Option<Tally>| part.map(|part| part.count);
        let available = self.file_system.as_ref().and_then(|fs| fs.available);
        first_line(
            &self.attention,
            &summary,
            &[
                Figure { label: "size", value: self.cache_size, unit: "B", limit: self.max_size },
                Figure { label: "free", value: available, unit: "B", limit: None },
                Figure::number("images", self.images),
                Figure::number("orphans", tally(self.orphans)),
                Figure::number("ghosts", tally(self.ghosts)),
                Figure::number("queued", number(self.queued)),
                Figure::number("incomplete", number(self.incomplete)),
                Figure::number("stalled", number(self.stalled)),
                Figure::number("invalid", number(self.invalid)),
            ],
        )
    }

    fn attention_lines(&self, lines: &mut StatusText) {
        self.attention.iter().for_each(|attention| lines.add("attention", &attention.message));
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
        let mut lines = StatusText { text: String::new(), width: self.shown.width };
        if self.shown.check {
            self.attention_lines(&mut lines);
        }
        lines.add("cache", format!("{} (set by {})", self.cache_dir, self.cache_dir_set_by));
        if self.exists {
            self.index_lines(&mut lines);
            self.entry_lines(&mut lines);
            self.age_lines(&mut lines);
            self.unusable_lines(&mut lines);
            self.contents_lines(&mut lines);
        }
        self.file_system_lines(&mut lines);
        self.other_lines(&mut lines);
        if let Some(settings) = &self.settings {
            settings.lines(&mut lines);
        }
        self.notes.iter().for_each(|note| lines.add("note", note));
        if !self.shown.check {
            self.attention_lines(&mut lines);
            return lines.text;
        }
        // A `|` would begin more figures.
        let rest: String = lines.text.lines().map(|line| plain(line) + "\n").collect();
        self.first_line() + &rest
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{ForeignEntry, UnusableImage, UnusableReport};
    use super::*;
    use crate::ops::verify::VerifiedImages;

    #[test]
    fn the_size_is_a_share_of_the_limit() {
        let set = "limit set by default)";
        let (full, empty) = ("#".repeat(30), "-".repeat(30));
        let half = format!("{}{}", "#".repeat(15), "-".repeat(15));
        for (size, max, is_terminal, expected) in [
            (None, None, false, "unknown".to_owned()),
            (Some(5), None, true, "5".to_owned()),
            (None, Some(100), true, format!("unknown of 100 ({set}")),
            (Some(50), Some(100), false, format!("50 of 100 (50 %, {set}")),
            (Some(50), Some(100), true, format!("50 of 100 (50 %, {set} [{half}]")),
            (Some(300), Some(100), true, format!("300 of 100 (300 %, {set} [{full}]")),
            (Some(1), Some(0), true, format!("1 of 0 ({set} [{full}]")),
            (Some(0), Some(0), true, format!("0 of 0 ({set} [{empty}]")),
        ] {
            let mut report = StatusReport::default();
            (report.cache_size, report.max_size, report.shown.is_terminal) = (size, max, is_terminal);
            assert_eq!(report.size_line(), expected);
        }
    }

    #[test]
    fn of_many_entries_some_are_named_and_the_others_counted() {
        let of = |count: usize| {
            let mut report = StatusReport::default();
            report.exists = true;
            let image = |n| UnusableImage {
                image_id: format!("image-{n}"),
                reason: "deleted",
                bytes: 1,
                sentence: "its record is deleted",
            };
            let images: Vec<_> = (0..count).map(image).collect();
            report.unusable = Some(UnusableReport { count: count as u64, bytes: 1, images });
            let entry = |n| ForeignEntry { name: format!("file-{n}"), kind: "file", bytes: Some(1) };
            report.foreign = (0..count).map(entry).collect();
            report.text()
        };
        for (count, named, rest) in [(0, 0, 0), (1, 1, 0), (NAMED, NAMED, 0), (NAMED + 1, NAMED, 2)] {
            let text = of(count);
            assert_eq!(text.matches("image-").count(), named, "{text}");
            assert_eq!(text.matches("file-").count(), named, "{text}");
            assert_eq!(text.matches("... and ").count(), rest, "{text}");
            assert_eq!(text.contains("unusable"), count > 0, "{text}");
        }
    }

    #[test]
    fn images_that_an_earlier_verification_found_broken_are_named() {
        let mut report = StatusReport::default();
        report.exists = true;
        assert!(!report.text().contains("verified"), "{}", report.text());
        report.verified = Some(VerifiedImages {
            count: 2,
            bytes: 10,
            oldest: SECOND,
            newest: 2 * SECOND,
            broken: vec!["an image".to_owned()],
            are_mostly_broken: false,
        });
        let text = report.text();
        assert!(
            text.contains("verified      2, 10, 1970-01-01T00:00:01Z to 1970-01-01T00:00:02Z\n"),
            "{text}"
        );
        assert!(text.contains("broken        an image: found by an earlier verification\n"), "{text}");
    }
}
