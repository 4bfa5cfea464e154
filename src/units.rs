//! Sizes and times: parsing them from the command line and from configuration, and formatting them for
//! people.
//!
//! Parsing rejects anything that is not entirely a size or a time, and formatting accepts every value.
//! Nothing here does I/O or reads a clock.

use std::str::FromStr;

use humansize::{BINARY, format_size};
use jiff::Timestamp;

/// Nanoseconds since the epoch, UTC. Spans the years 1677 to 2262; file times outside are clamped.
pub(crate) type Nanos = i64;

pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Converts the epoch floats of Glance's indexes to [`Nanos`], to the nearest nanosecond, clamped.
///
/// The fraction is scaled separately: multiplying the whole value would merge neighbouring floats, because
/// today's nanoseconds need more digits than a float has.
pub(crate) fn nanos(seconds: f64) -> Nanos {
    let whole = seconds.trunc();
    let fraction = ((seconds - whole) * 1e9).round();
    (whole as i64).saturating_mul(SECOND).saturating_add(fraction as i64)
}

/// Returns [`Nanos`] as the epoch seconds that Glance's indexes store.
pub(crate) fn seconds(nanos: Nanos) -> f64 {
    (nanos / SECOND) as f64 + (nanos % SECOND) as f64 / 1e9
}

/// A size in bytes, or a percentage of something that the option names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Bytes(u64),
    /// 0 to 100.
    Percent(f64),
}

impl Amount {
    /// Returns the amount in bytes, unless it is a percentage.
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Amount::Bytes(bytes) => Some(bytes),
            Amount::Percent(_) => None,
        }
    }

    /// Returns the amount in bytes; a percentage is taken of `whole`.
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }
}

/// K, M, G, T and P are powers of 1024, like KiB, Ki and so on; KB, MB and so on are powers of 1000.
impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is not a size: give bytes, or a number with a unit such as 10GiB, 500M or 80%")
        };
        let (number, unit) = split_unit(text).ok_or_else(wrong)?;
        let value: f64 = number.parse().map_err(|_| wrong())?;
        if unit == "%" {
            let is_share = value <= 100.0;
            return is_share
                .then_some(Amount::Percent(value))
                .ok_or_else(|| format!("'{text}' is more than the whole: a percentage is at most 100%"));
        }
        let unit = unit.to_ascii_lowercase();
        let (letter, base) = match unit.as_bytes() {
            [] | [b'b'] => (None, 1024),
            [letter] | [letter, b'i'] | [letter, b'i', b'b'] => (Some(*letter), 1024_u64),
            [letter, b'b'] => (Some(*letter), 1000),
            _ => return Err(wrong()),
        };
        let power = match letter {
            None => 0,
            Some(letter) => b"kmgtp".iter().position(|l| *l == letter).ok_or_else(wrong)? as u32 + 1,
        };
        let factor = base.pow(power);
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(factor),
            Err(_) => Some(value * factor as f64).filter(|bytes| *bytes < 9e18).map(|bytes| bytes as u64),
        };
        bytes.map(Amount::Bytes).ok_or_else(|| format!("'{text}' is too large: no disk has that size"))
    }
}

/// Below this number of bytes, a size without a unit is taken for a unit that was forgotten.
const NEEDS_UNIT: u64 = 1 << 20;

/// Reads a size from the command line. Unlike a size in a file, a small number needs a unit: `10` for 10 GiB
/// would empty the cache.
pub(crate) fn given_size(text: &str) -> Result<Amount, String> {
    with_unit(text, true)
}

/// Reads a size that needs a unit if it is small. `takes_share`: a percentage would be taken, too.
fn with_unit(text: &str, takes_share: bool) -> Result<Amount, String> {
    let amount: Amount = text.parse()?;
    match amount {
        Amount::Bytes(bytes) if (1..NEEDS_UNIT).contains(&bytes) && !text.ends_with(char::is_alphabetic) => {
            let share = if takes_share && bytes <= 100 { format!(", or {text}%") } else { String::new() };
            let bytes = count(bytes, "byte");
            Err(format!("'{text}' has no unit: {bytes}? write {text}B, or {text}GiB{share}"))
        }
        amount => Ok(amount),
    }
}

/// Reads an amount of bytes from the command line where a share would be one of nothing.
pub(crate) fn given_bytes(text: &str) -> Result<u64, String> {
    match with_unit(text, false)? {
        Amount::Bytes(bytes) => Ok(bytes),
        Amount::Percent(_) => {
            Err(format!("'{text}' is a share of something: give a number of bytes, such as 20MiB or 2GiB"))
        }
    }
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeSpan(pub(crate) Nanos);

impl TimeSpan {
    pub(crate) fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.unsigned_abs())
    }
}

/// Seconds, or numbers with units from weeks to seconds: `90`, `36h`, `1d12h`.
impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is not a duration: give seconds, or a number with a unit such as 90s, 36h or 2d"
            )
        };
        let mut rest = text;
        let mut total = 0_f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            let seconds = match unit {
                "" if after.is_empty() && rest == text => 1.0,
                "ms" => 0.001,
                "s" | "sec" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return Err(wrong()),
            };
            total += number.parse::<f64>().map_err(|_| wrong())? * seconds;
            rest = after;
        }
        if text.is_empty() {
            return Err(wrong());
        }
        if total > 9e9 {
            return Err(format!("'{text}' is too long: give at most 100000d"));
        }
        Ok(TimeSpan((total * SECOND as f64) as Nanos))
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) Nanos);

/// RFC 3339, or seconds since the epoch.
/// Parses an age whose unit must be given: the age of what is removed must not be seconds by mistake.
pub(crate) fn given_age(text: &str) -> Result<TimeSpan, String> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("the unit is missing: write {trimmed}d for days, or {trimmed}s for seconds"));
    }
    text.parse()
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..9e9).contains(seconds));
        let time = seconds.map(crate::units::nanos).or_else(|| {
            let time: jiff::Timestamp = text.parse().ok()?;
            Nanos::try_from(time.as_nanosecond()).ok()
        });
        time.map(Moment).ok_or_else(|| {
            format!("'{text}' is not a time: give RFC 3339, such as 2026-11-22T13:00:00Z, or epoch seconds")
        })
    }
}

/// Splits a number from the unit that follows it; `None` if there is no number.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then(|| (number, unit.trim_start()))
}

/// Formats a size for people: `4.2 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    format_size(bytes, BINARY)
}

/// Formats a time as RFC 3339 in UTC, to the second.
///
/// The epoch itself is `never`, because an index stores 0 for an image that was not used yet; a clamped time
/// is `unknown`.
pub(crate) fn when(time: Nanos) -> String {
    match time {
        0 => "never".to_owned(),
        i64::MIN | i64::MAX => "unknown".to_owned(),
        time => Timestamp::from_nanosecond(i128::from(time))
            .ok()
            .and_then(|time| Timestamp::from_second(time.as_second()).ok())
            .map_or_else(|| "unknown".to_owned(), |time| time.to_string()),
    }
}

/// Formats a time for programs; `None` for one that is none, such as the last use of an image that was never
/// used.
pub(crate) fn moment(time: Nanos) -> Option<String> {
    Some(when(time)).filter(|text| text.ends_with('Z'))
}

/// Formats a span of time in its two largest units: `3d 4h`.
pub(crate) fn span(nanos: Nanos) -> String {
    let seconds = nanos.unsigned_abs() / 1_000_000_000;
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, size) in units.iter().skip(first).take(2) {
        if rest / size > 0 || parts.is_empty() {
            parts.push(format!("{}{name}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

/// Returns a number with its noun: `1 image`, `2 images`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_floats_keep_their_order_as_nanoseconds() {
        let now = 1_795_312_250.060_123_f64;
        assert!(nanos(now) < nanos(now.next_up()));
        assert_eq!(nanos(1.5), 1_500_000_000);
        assert_eq!(nanos(-1.5), -1_500_000_000);
        assert_eq!(nanos(f64::NEG_INFINITY), i64::MIN);
        assert_eq!(nanos(f64::INFINITY), i64::MAX);
        assert_eq!(nanos(1e300), i64::MAX);
    }

    #[test]
    fn spans_are_shown_in_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1min"),
            (61, "1min 1s"),
            (3_600, "1h"),
            (90_061, "1d 1h"),
            (86_461, "1d"),
        ] {
            assert_eq!(span(seconds * 1_000_000_000), text);
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(when(1_795_312_250_060_123_456), "2026-11-22T01:50:50Z");
        assert_eq!(when(0), "never");
        assert_eq!(when(i64::MIN), "unknown");
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(1, "entry"), "1 entry");
        assert_eq!(count(2, "entry"), "2 entries");
        assert_eq!(count(0, "image"), "0 images");
    }

    #[test]
    fn reads_sizes() {
        for (text, expected) in [
            ("0", Some(Amount::Bytes(0))),
            ("10737418240", Some(Amount::Bytes(10_737_418_240))),
            ("1B", Some(Amount::Bytes(1))),
            ("10GiB", Some(Amount::Bytes(10 << 30))),
            ("10G", Some(Amount::Bytes(10 << 30))),
            ("10 GiB", Some(Amount::Bytes(10 << 30))),
            ("10Gi", Some(Amount::Bytes(10 << 30))),
            ("10GI", Some(Amount::Bytes(10 << 30))),
            ("500m", Some(Amount::Bytes(500 << 20))),
            ("500MB", Some(Amount::Bytes(500_000_000))),
            ("1.5K", Some(Amount::Bytes(1536))),
            ("80%", Some(Amount::Percent(80.0))),
            ("0%", Some(Amount::Percent(0.0))),
            ("101%", None),
            ("", None),
            ("-1", None),
            ("G", None),
            ("1.2.3", None),
            ("1X", None),
            ("1i", None),
            ("1GiBs", None),
            ("99999999999P", None),
        ] {
            assert_eq!(text.parse::<Amount>().ok(), expected, "{text:?}");
        }
        assert_eq!(Amount::Percent(80.0).of(1000), 800);
    }

    #[test]
    fn a_small_size_on_the_command_line_needs_a_unit() {
        for (text, expected) in [
            ("0", Ok(Amount::Bytes(0))),
            ("10B", Ok(Amount::Bytes(10))),
            ("1b", Ok(Amount::Bytes(1))),
            ("1K", Ok(Amount::Bytes(1024))),
            ("0.5K", Ok(Amount::Bytes(512))),
            ("80%", Ok(Amount::Percent(80.0))),
            ("1048576", Ok(Amount::Bytes(1 << 20))),
            ("10", Err("'10' has no unit: 10 bytes? write 10B, or 10GiB, or 10%")),
            ("1048575", Err("'1048575' has no unit: 1048575 bytes? write 1048575B, or 1048575GiB")),
            ("1.5", Err("'1.5' has no unit: 1 byte? write 1.5B, or 1.5GiB, or 1.5%")),
        ] {
            assert_eq!(given_size(text), expected.map_err(str::to_owned), "{text:?}");
        }
        let no_share = "'5' has no unit: 5 bytes? write 5B, or 5GiB";
        assert_eq!(given_bytes("5"), Err(no_share.to_owned()));
    }

    #[test]
    fn reads_durations() {
        for (text, expected) in [
            ("0", Some(0.0)),
            ("86400", Some(86_400.0)),
            ("1.5", Some(1.5)),
            ("90s", Some(90.0)),
            ("15m", Some(900.0)),
            ("36h", Some(129_600.0)),
            ("1d12h", Some(129_600.0)),
            ("2w", Some(1_209_600.0)),
            ("250ms", Some(0.25)),
            ("", None),
            ("-1", None),
            ("h", None),
            ("1h30", None),
            ("1y", None),
            ("99999999999", None),
        ] {
            let expected = expected.map(|s: f64| TimeSpan((s * 1e9) as Nanos));
            assert_eq!(text.parse::<TimeSpan>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn reads_times() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1795312250.5", Some(1_795_312_250_500_000_000)),
            ("2026-11-22T01:50:50Z", Some(1_795_312_250_000_000_000)),
            ("2026-11-22T02:50:50+01:00", Some(1_795_312_250_000_000_000)),
            ("-1", None),
            ("1e300", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Moment>().ok(), expected.map(Moment), "{text:?}");
        }
    }
}
