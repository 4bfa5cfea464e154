//! A value as a database returns it, and times as Glance's tables hold them: UTC, without saying so.
//!
//! Times are asked for as numbers ([`Dialect::epoch`]), so that neither the session's nor the server's time
//! zone matters. No I/O here.

use super::dialect::Dialect;
use crate::units::{self, Nanos, SECOND};

/// A value as a database returns it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl Cell {
    /// Returns the whole number; anything that is none counts as 0, and one that is too large as the largest.
    pub(crate) fn integer(&self) -> i64 {
        match self {
            Cell::Null => 0,
            Cell::Integer(number) => *number,
            Cell::Real(number) => *number as i64,
            Cell::Text(text) => {
                let number: i128 = text.parse().unwrap_or(0);
                number.clamp(i64::MIN.into(), i64::MAX.into()) as i64
            }
        }
    }

    /// Returns the value as text.
    pub(crate) fn text(self) -> String {
        match self {
            Cell::Null => "NULL".to_owned(),
            Cell::Integer(number) => number.to_string(),
            Cell::Real(number) => number.to_string(),
            Cell::Text(text) => text,
        }
    }

    /// Returns epoch seconds, of a column that was asked for with [`Dialect::epoch`]. A value that is no time
    /// sorts as in the sqlite index: NULL first, text last.
    pub(crate) fn epoch(&self, dialect: Dialect) -> f64 {
        match (dialect, self) {
            (_, Cell::Null) => f64::NEG_INFINITY,
            (Dialect::MySql, cell) => cell.integer() as f64 / 1e6,
            (_, Cell::Real(seconds)) => *seconds,
            (_, Cell::Integer(seconds)) => *seconds as f64,
            (_, Cell::Text(text)) => {
                text.parse::<jiff::civil::DateTime>().ok().map_or(f64::INFINITY, |time| {
                    let since = time.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
                    since.as_micros() as f64 / 1e6
                })
            }
        }
    }

    /// As [`Cell::epoch`], but returns `None` if there is no time.
    pub(super) fn time(&self, dialect: Dialect) -> Option<Nanos> {
        (*self != Cell::Null).then(|| units::nanos(self.epoch(dialect)))
    }
}

/// Writes a time as `SQLAlchemy` does: UTC, without saying so.
pub(crate) fn naive(time: Nanos) -> String {
    let whole = jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap_or_default();
    let micros = time.rem_euclid(SECOND) / 1000;
    format!("{}.{micros:06}", whole.strftime("%Y-%m-%d %H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_same_number_in_every_dialect() {
        let expected = 1_705_082_328.055_431_f64;
        let text = Cell::Text("2024-01-12 17:58:48.055431".into());
        assert_eq!(text.epoch(Dialect::Sqlite).to_bits(), expected.to_bits());
        let micros = Cell::Text("1705082328055431".into());
        assert_eq!(micros.epoch(Dialect::MySql).to_bits(), expected.to_bits());
        assert_eq!(Cell::Real(expected).epoch(Dialect::PostgreSql).to_bits(), expected.to_bits());
        assert_eq!(naive(1_705_082_328_055_431_999), "2024-01-12 17:58:48.055431");
        assert_eq!(naive(-1), "1969-12-31 23:59:59.999999");
    }

    #[test]
    fn sums_that_no_column_holds_are_the_largest_number() {
        let text = |text: &str| Cell::Text(text.into()).integer();
        assert_eq!((text("12"), text("-3"), text("yesterday")), (12, -3, 0));
        assert_eq!(text("27670116110564327421"), i64::MAX);
        assert_eq!(text("-27670116110564327421"), i64::MIN);
    }

    #[test]
    fn what_is_no_time_sorts_first_or_last() {
        for dialect in [Dialect::MySql, Dialect::PostgreSql, Dialect::Sqlite] {
            assert_eq!(Cell::Null.epoch(dialect).to_bits(), f64::NEG_INFINITY.to_bits());
        }
        assert_eq!(Cell::Text("yesterday".into()).epoch(Dialect::Sqlite).to_bits(), f64::INFINITY.to_bits());
    }
}
