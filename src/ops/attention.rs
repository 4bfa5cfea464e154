//! The things that need attention, each with a stable code, the thresholds of a check, and its first line.
//!
//! The first line and the exit codes are those of a monitoring plugin: the state, a summary, and after a `|`
//! the figures. Nothing is looked at or printed here.

use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::units::{Nanos, TimeSpan, count, span};

/// The code of something that needs attention. It is a value of our JSON, and does not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Concern {
    /// The configured directory does not exist.
    NoCache,
    OverLimit,
    /// Images without a row.
    Orphans,
    /// Rows without an image.
    Ghosts,
    /// A row whose id is no image id.
    ImpossibleRow,
    /// Most images of the index are missing.
    Misplaced,
    IndexUnreadable,
    /// The index does not exist or is empty, although there are images.
    IndexMissing,
    /// The index knows no image, and another one does.
    WrongIndex,
    /// Another driver has left an index behind.
    OtherIndex,
    /// Invalid files, more or older than allowed.
    Invalid,
    /// Downloads that stopped, more or older than allowed.
    Stalled,
    /// An entry or a subdirectory that could not be looked at.
    Unreadable,
    /// Entries of another owner than the cache directory's.
    WrongOwner,
    /// The file system does not record the uses that the driver needs.
    Noatime,
    /// The file system of the cache is mounted read-only.
    ReadOnly,
    /// A wrong value in the configuration.
    Setting,
    /// Images whose contents are not what Glance's records say.
    Broken,
    /// Any other warning about one of several caches.
    Warning,
}

impl Concern {
    /// Returns the code in words.
    fn words(self) -> &'static str {
        match self {
            Concern::NoCache => "no cache directory",
            Concern::OverLimit => "over the limit",
            Concern::Orphans => "orphans",
            Concern::Ghosts => "ghosts",
            Concern::ImpossibleRow => "impossible rows",
            Concern::Misplaced => "most images missing",
            Concern::IndexUnreadable => "index unreadable",
            Concern::IndexMissing => "index missing",
            Concern::WrongIndex => "probably the wrong index",
            Concern::OtherIndex => "another index",
            Concern::Invalid => "invalid files",
            Concern::Stalled => "stalled downloads",
            Concern::Unreadable => "unreadable entries",
            Concern::WrongOwner => "wrong owners",
            Concern::Noatime => "noatime",
            Concern::ReadOnly => "read-only file system",
            Concern::Setting => "wrong settings",
            Concern::Broken => "broken images",
            Concern::Warning => "warnings",
        }
    }
}

/// Something that somebody should look at.
#[derive(Debug, Serialize)]
pub(super) struct Attention {
    pub(super) code: Concern,
    pub(super) message: String,
}

impl Attention {
    pub(super) fn new(code: Concern, message: impl Into<String>) -> Self {
        Attention { code, message: message.into() }
    }

    /// Returns the one about a file system that is read-only.
    pub(super) fn read_only(mount_point: &str) -> Self {
        let message = format!(
            "the file system at {mount_point} is mounted read-only: nothing can be pruned, cleaned or cached"
        );
        Attention::new(Concern::ReadOnly, message)
    }
}

/// The entries of one kind that `clean` removes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removable {
    pub(super) code: Concern,
    /// The name of one of them.
    pub(super) noun: &'static str,
    /// The option that sets the thresholds.
    pub(super) option: &'static str,
    pub(super) count: u64,
    /// The time of the last write to the oldest of them.
    pub(super) oldest: Option<Nanos>,
}

/// The most that is allowed of entries that `clean` removes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threshold {
    /// At most so many.
    Count(u64),
    /// None that was last written longer ago than this.
    Age(Nanos),
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Threshold::Count(number));
        }
        let age = text.parse::<TimeSpan>().ok().filter(|_| text.ends_with(|c: char| c.is_ascii_alphabetic()));
        age.map(|age| Threshold::Age(age.0))
            .ok_or_else(|| format!("'{text}' is neither a number of files nor an age such as 36h or 7d"))
    }
}

impl Threshold {
    /// Returns what needs attention if there is more than allowed.
    pub(super) fn judge(self, kind: &Removable, now: Nanos) -> Option<Attention> {
        let Removable { code, noun, option, count: number, oldest } = *kind;
        let message = match self {
            Threshold::Count(most) if number > most => {
                format!("{}, more than the {most} that {option} allows", count(number, noun))
            }
            Threshold::Age(age) => {
                let written = oldest.filter(|time| *time < now.saturating_sub(age))?;
                let (ago, age) = (span(now.saturating_sub(written)), span(age));
                format!("the oldest {noun} is {ago} old, and {option} allows {age}")
            }
            Threshold::Count(_) => return None,
        };
        Some(Attention::new(code, format!("{message}: glance-cache clean removes what is old enough")))
    }
}

/// A figure behind the `|` of a check's first line.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) label: &'static str,
    /// `None` if it is not known.
    pub(super) value: Option<u64>,
    /// `B` for bytes, or nothing for a number.
    pub(super) unit: &'static str,
    /// More than this needs attention.
    pub(super) limit: Option<u64>,
}

impl Figure {
    /// Returns a number without a limit.
    pub(super) fn number(label: &'static str, value: Option<u64>) -> Self {
        Figure { label, value, unit: "", limit: None }
    }
}

/// Returns the first line of a check.
pub(super) fn first_line(attention: &[Attention], summary: &str, figures: &[Figure]) -> String {
    let mut words: Vec<&str> = Vec::new();
    for entry in attention {
        if !words.contains(&entry.code.words()) {
            words.push(entry.code.words());
        }
    }
    let exit = if attention.is_empty() { Exit::Done } else { Exit::Incomplete };
    let concerns = if words.is_empty() { String::new() } else { format!("{}; ", words.join(", ")) };
    let mut line = format!("GLANCE-CACHE {} - {}", state(exit), plain(&format!("{concerns}{summary}")));
    for (number, Figure { label, value, unit, limit }) in figures.iter().enumerate() {
        line.push_str(if number == 0 { " | " } else { " " });
        let limit = limit.map(|limit| format!(";{limit}")).unwrap_or_default();
        let _ = match value {
            Some(value) => write!(line, "{label}={value}{unit}{limit}"),
            None => write!(line, "{label}=U"),
        };
    }
    line.push('\n');
    line
}

/// Returns the first line of a check that failed.
pub(crate) fn first_line_of_failure(failure: &Failure) -> String {
    format!("GLANCE-CACHE {} - {}\n", state(failure.exit), plain(&format!("{:#}", failure.error)))
}

/// Returns the state that monitoring systems read from an exit code.
fn state(exit: Exit) -> &'static str {
    match exit.code() {
        0 => "OK",
        1 => "WARNING",
        2 => "CRITICAL",
        _ => "UNKNOWN",
    }
}

/// Returns a text without `|` and line breaks, which separate the parts of a plugin's output.
pub(super) fn plain(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    #[test]
    fn thresholds_are_numbers_or_ages() {
        for (text, expected) in [
            ("0", Some(Threshold::Count(0))),
            ("12", Some(Threshold::Count(12))),
            ("90s", Some(Threshold::Age(90 * SECOND))),
            ("7d", Some(Threshold::Age(7 * 86_400 * SECOND))),
            ("1.5", None),
            ("-1", None),
            ("", None),
            ("many", None),
            ("10MiB", None),
        ] {
            assert_eq!(text.parse::<Threshold>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_threshold_is_what_is_still_allowed() {
        let now = 1_000_000 * SECOND;
        let kind = |count, ago: Option<i64>| Removable {
            code: Concern::Invalid,
            noun: "invalid file",
            option: "--max-invalid",
            count,
            oldest: ago.map(|ago| now - ago * SECOND),
        };
        for (threshold, kind, needs) in [
            (Threshold::Count(2), kind(2, Some(5)), false),
            (Threshold::Count(2), kind(3, Some(5)), true),
            (Threshold::Count(0), kind(0, None), false),
            (Threshold::Age(10 * SECOND), kind(9, Some(10)), false),
            (Threshold::Age(10 * SECOND), kind(1, Some(11)), true),
            (Threshold::Age(0), kind(0, None), false),
            (Threshold::Age(0), kind(1, Some(-5)), false),
        ] {
            assert_eq!(threshold.judge(&kind, now).is_some(), needs, "{threshold:?} {kind:?}");
        }
    }

    #[test]
    fn the_first_line_is_one_that_monitoring_reads() {
        let concerns = [
            Attention::new(Concern::Ghosts, "x"),
            Attention::new(Concern::Unreadable, "a|b"),
            Attention::new(Concern::Ghosts, "y"),
        ];
        let figures = [
            Figure { label: "size", value: Some(12), unit: "B", limit: Some(10) },
            Figure::number("orphans", None),
        ];
        assert_eq!(
            first_line(&concerns, "12 B | 1 image", &figures),
            "GLANCE-CACHE WARNING - ghosts, unreadable entries; 12 B / 1 image | size=12B;10 orphans=U\n"
        );
        assert_eq!(first_line(&[], "fine", &[]), "GLANCE-CACHE OK - fine\n");
        let failure = Failure::cannot_start(anyhow::anyhow!("no\npermission"));
        assert_eq!(first_line_of_failure(&failure), "GLANCE-CACHE UNKNOWN - no permission\n");
    }
}
