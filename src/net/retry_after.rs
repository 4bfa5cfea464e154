//! `Retry-After`: the time after which a busy server wants to be asked again.
//!
//! Pure. It is a number of seconds or a date. A date counts from the server's own `Date`, if it gives one,
//! because its clock and ours may differ.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Longer pauses are not told apart, so that calculations with them do not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Returns the pause that a value means, `None` if it is neither a number nor a date. `date` is the server's
/// own.
pub(super) fn pause(value: &str, date: Option<&str>, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // The only other mistake is that it is too large.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let then = time(value)?;
    let now = date.and_then(|date| time(date.trim())).unwrap_or(now);
    let left = u64::try_from(then.as_second().saturating_sub(now.as_second())).unwrap_or(0);
    Some(Duration::from_secs(left).min(LONGEST))
}

/// Reads a date as HTTP/1.1 has it.
fn time(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_or_a_date() {
        let now: Timestamp = "2026-11-29T10:00:00Z".parse().unwrap();
        let date = Some("Sun, 29 Nov 2026 12:00:00 GMT");
        for (value, date, expected) in [
            ("5", None, Some(5)),
            (" 0 ", date, Some(0)),
            ("18446744073709551615", None, Some(LONGEST.as_secs())),
            ("99999999999999999999999", None, Some(LONGEST.as_secs())),
            ("Sun, 29 Nov 2026 10:01:00 GMT", None, Some(60)),
            ("Sun, 29 Nov 2026 09:59:00 GMT", None, Some(0)),
            ("Sun, 29 Nov 2026 12:00:07 GMT", date, Some(7)),
            ("Sun, 29 Nov 2026 11:59:59 GMT", date, Some(0)),
            ("Sun, 29 Nov 2026 10:01:00 GMT", Some("today"), Some(60)),
            ("Tue, 31 Dec 2999 23:59:59 GMT", None, Some(LONGEST.as_secs())),
            ("Sat, 29 Nov 2026 10:01:00 GMT", None, None),
            ("Sun, 29 Nov 2026 10:01:00 CET", None, None),
            ("2026-11-29T10:01:00Z", None, None),
            ("-1", None, None),
            ("1.5", None, None),
            ("", None, None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(pause(value, date, now), expected, "{value:?} {date:?}");
        }
    }
}
