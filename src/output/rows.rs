//! Lists: rows with named columns, as a table for people, or for programs as CSV, JSON lines or bare values.
//!
//! A table fits the terminal: its times are shortened first, and then the columns that matter least are left
//! out; ids stay whole. The other forms are written row by row, with sizes in bytes and times in RFC 3339,
//! and contain the same columns whatever the terminal is. CSV is quoted as RFC 4180 says, with lines that end
//! in a single newline.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::screen::Screen;
use super::table::{TableCell, TableColumn, fitted};
use crate::units::{Nanos, SECOND, human, moment, span};

/// A column of a list.
#[derive(Debug)]
pub(crate) struct Column {
    /// The name in `--columns`, with `_` in place of `-`, and the key in JSON lines and CSV.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    rank: Rank,
    /// True for numbers, which stand to the right.
    pub(crate) is_number: bool,
}

/// The weight of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rank {
    /// In every table.
    Always,
    /// In a table if there is space. Columns with higher numbers are left out first.
    Spare(u8),
    /// In a table if a row has a value of it, and otherwise as [`Rank::Asked`].
    Noted,
    /// Only if it is asked for, and in JSON lines where it has a value.
    Asked,
}

impl Rank {
    /// True if the column is in every form of a list, so that CSV has the same columns whatever the rows are.
    fn is_usual(self) -> bool {
        matches!(self, Rank::Always | Rank::Spare(_))
    }
}

impl Column {
    pub(crate) const fn text(key: &'static str, title: &'static str, rank: Rank) -> Self {
        Column { key, title, rank, is_number: false }
    }

    pub(crate) const fn number(key: &'static str, title: &'static str, rank: Rank) -> Self {
        Column { key, title, rank, is_number: true }
    }
}

/// A value in a list.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ListCell<'a> {
    /// Not known, or there is none.
    Unknown,
    Text(Cow<'a, str>),
    Number(i64),
    /// Bytes.
    Size(u64),
    Time(Nanos),
    /// Seconds.
    Span(i64),
    /// A number of entries, and their bytes. In CSV it is the bytes alone.
    Tally(u64, u64),
}

impl<'a> ListCell<'a> {
    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        ListCell::Text(text.into())
    }

    /// Returns the cell of a value that may be unknown.
    pub(crate) fn of<T>(value: Option<T>, cell: impl FnOnce(T) -> ListCell<'a>) -> Self {
        value.map_or(ListCell::Unknown, cell)
    }

    /// Returns the value for CSV, or `None` if it is unknown.
    fn bare(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            ListCell::Unknown => return None,
            ListCell::Text(text) => Cow::Borrowed(text.as_ref()),
            ListCell::Number(number) | ListCell::Span(number) => number.to_string().into(),
            ListCell::Size(bytes) | ListCell::Tally(_, bytes) => bytes.to_string().into(),
            ListCell::Time(time) => moment(*time)?.into(),
        })
    }

    fn in_table(&self, is_human: bool) -> TableCell {
        let size = |bytes: u64| if is_human { human(bytes) } else { bytes.to_string() };
        TableCell::Text(match self {
            ListCell::Unknown => "-".to_owned(),
            ListCell::Size(bytes) => size(*bytes),
            ListCell::Tally(count, bytes) => format!("{count}, {}", size(*bytes)),
            ListCell::Time(time) => return TableCell::Time(*time),
            ListCell::Span(seconds) => span(seconds.saturating_mul(SECOND)),
            ListCell::Text(_) | ListCell::Number(_) => self.bare().unwrap_or_default().into_owned(),
        })
    }
}

impl Serialize for ListCell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ListCell::Unknown => serializer.serialize_none(),
            ListCell::Text(text) => serializer.serialize_str(text),
            ListCell::Number(number) | ListCell::Span(number) => serializer.serialize_i64(*number),
            ListCell::Size(bytes) => serializer.serialize_u64(*bytes),
            ListCell::Time(time) => moment(*time).serialize(serializer),
            ListCell::Tally(count, bytes) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("count", count)?;
                map.serialize_entry("bytes", bytes)?;
                map.end()
            }
        }
    }
}

/// A report that is a list.
pub(crate) trait Listing {
    fn columns(&self) -> &'static [Column];

    /// Returns the rows, each with a cell for every column.
    fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_>;
}

/// The wishes about the form of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListStyle {
    /// The keys of the columns to show, in this order; empty for the usual ones.
    pub(crate) columns: Vec<String>,
    pub(crate) no_header: bool,
    /// Sizes in a table are shown with units.
    pub(crate) human: bool,
    /// A table may be wider than the terminal.
    pub(crate) wide: bool,
}

impl ListStyle {
    /// Returns the positions of the columns to show, or the key of one that the list does not have. If none
    /// were asked for, these are the usual ones and those of a rank that is among `further`.
    pub(super) fn choose(&self, columns: &[Column], further: &[Rank]) -> Result<Vec<usize>, String> {
        if self.columns.is_empty() {
            let usual = |column: &Column| column.rank.is_usual() || further.contains(&column.rank);
            return Ok((0..columns.len()).filter(|position| usual(&columns[*position])).collect());
        }
        let position = |key: &String| columns.iter().position(|column| column.key == key);
        self.columns.iter().map(|key| position(key).ok_or_else(|| key.clone())).collect()
    }
}

/// Returns a list as a table.
pub(super) fn table(list: &dyn Listing, chosen: &[usize], style: &ListStyle, screen: &Screen) -> String {
    let columns = list.columns();
    let has_value = |position| list.rows().any(|row| row[position] != ListCell::Unknown);
    let is_noted = |position: usize| columns[position].rank == Rank::Noted && style.columns.is_empty();
    let chosen: Vec<usize> =
        chosen.iter().copied().filter(|position| !is_noted(*position) || has_value(*position)).collect();
    let mut shown: Vec<TableColumn> = chosen
        .iter()
        .map(|position| {
            let Column { title, rank, is_number, .. } = columns[*position];
            let spare = match rank {
                // Columns that were asked for by name stay.
                Rank::Spare(weight) if style.columns.is_empty() => weight,
                _ => 0,
            };
            TableColumn { title: title.to_owned(), spare, is_number, cells: Vec::new() }
        })
        .collect();
    for row in list.rows() {
        for (column, position) in shown.iter_mut().zip(&chosen) {
            column.cells.push(row[*position].in_table(style.human));
        }
    }
    let width = screen.width.filter(|_| !style.wide);
    fitted(&shown, !style.no_header, width)
}

/// Writes a list as JSON lines: an object for each row.
pub(super) fn json_lines(
    list: &dyn Listing,
    chosen: &[usize],
    all_keys: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let columns = list.columns();
    for row in list.rows() {
        let mut line = serde_json::Serializer::new(&mut *out);
        let mut map = line.serialize_map(None)?;
        for position in chosen {
            let (column, cell) = (&columns[*position], &row[*position]);
            if all_keys || column.rank.is_usual() || *cell != ListCell::Unknown {
                map.serialize_entry(column.key, cell)?;
            }
        }
        map.end()?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes a list as CSV.
pub(super) fn csv(list: &dyn Listing, chosen: &[usize], header: bool, out: &mut dyn Write) -> io::Result<()> {
    let columns = list.columns();
    if header {
        let keys: Vec<&str> = chosen.iter().map(|position| columns[*position].key).collect();
        writeln!(out, "{}", keys.join(","))?;
    }
    for row in list.rows() {
        for (number, position) in chosen.iter().enumerate() {
            out.write_all(if number == 0 { b"" } else { b"," })?;
            out.write_all(quoted(&row[*position].bare().unwrap_or_default()).as_bytes())?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Returns a field of CSV: one with a comma, a quote or a line break is quoted, and quotes in it are doubled.
fn quoted(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\"")).into()
    } else {
        field.into()
    }
}

/// Writes the bare values of a list, with blanks between them. An unknown one is `-`, so that the number of
/// words in a line is always the same.
pub(super) fn values(list: &dyn Listing, chosen: &[usize], out: &mut dyn Write) -> io::Result<()> {
    for row in list.rows() {
        for (number, position) in chosen.iter().enumerate() {
            out.write_all(if number == 0 { b"" } else { b" " })?;
            out.write_all(row[*position].bare().as_deref().unwrap_or("-").as_bytes())?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Example;

    impl Listing for Example {
        fn columns(&self) -> &'static [Column] {
            const COLUMNS: &[Column] = &[
                Column::text("name", "NAME", Rank::Always),
                Column::number("size", "SIZE", Rank::Always),
                Column::text("used", "USED", Rank::Spare(1)),
                Column::text("error", "ERROR", Rank::Asked),
            ];
            COLUMNS
        }

        fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
            let used = ListCell::Time(1_795_312_250_000_000_000);
            Box::new(
                [
                    vec![ListCell::text("a, \"b\""), ListCell::Size(2048), used, ListCell::Unknown],
                    vec![
                        ListCell::text("c"),
                        ListCell::Unknown,
                        ListCell::Time(0),
                        ListCell::text("bad\r\nnews"),
                    ],
                ]
                .into_iter(),
            )
        }
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn csv_is_quoted_as_rfc_4180_says() {
        assert_eq!(
            written(|out| csv(&Example, &[0, 1, 2, 3], true, out)),
            "name,size,used,error\n\"a, \"\"b\"\"\",2048,2026-11-22T01:50:50Z,\nc,,,\"bad\r\nnews\"\n"
        );
        assert_eq!(written(|out| csv(&Example, &[1], false, out)), "2048\n\n");
    }

    #[test]
    fn json_lines_leave_out_what_only_some_rows_have() {
        assert_eq!(
            written(|out| json_lines(&Example, &[0, 1, 2, 3], false, out)),
            "{\"name\":\"a, \\\"b\\\"\",\"size\":2048,\"used\":\"2026-11-22T01:50:50Z\"}\n\
             {\"name\":\"c\",\"size\":null,\"used\":null,\"error\":\"bad\\r\\nnews\"}\n"
        );
        assert_eq!(
            written(|out| json_lines(&Example, &[3], true, out)),
            "{\"error\":null}\n{\"error\":\"bad\\r\\nnews\"}\n"
        );
    }

    #[test]
    fn every_line_of_values_has_as_many_words() {
        assert_eq!(written(|out| values(&Example, &[1, 2], out)), "2048 2026-11-22T01:50:50Z\n- -\n");
    }

    struct WithNote(Option<&'static str>);

    impl Listing for WithNote {
        fn columns(&self) -> &'static [Column] {
            const COLUMNS: &[Column] =
                &[Column::text("name", "NAME", Rank::Always), Column::text("note", "NOTE", Rank::Noted)];
            COLUMNS
        }

        fn rows(&self) -> Box<dyn Iterator<Item = Vec<ListCell<'_>>> + '_> {
            Box::new(std::iter::once(vec![ListCell::text("a"), ListCell::of(self.0, ListCell::text)]))
        }
    }

    #[test]
    fn a_note_is_in_a_table_if_there_is_one_and_in_csv_if_it_is_asked_for() {
        let shown = |note, style: &ListStyle| table(&WithNote(note), &[0, 1], style, &Screen::PLAIN);
        let usual = ListStyle::default();
        assert_eq!(shown(Some("x"), &usual), "NAME  NOTE\na     x\n");
        assert_eq!(shown(None, &usual), "NAME\na\n");
        let asked = ListStyle { columns: vec!["name".to_owned(), "note".to_owned()], ..usual.clone() };
        assert_eq!(shown(None, &asked), "NAME  NOTE\na     -\n");
        let columns = WithNote(None).columns();
        assert_eq!(usual.choose(columns, &[]), Ok(vec![0]));
        assert_eq!(asked.choose(columns, &[]), Ok(vec![0, 1]));
        let line = written(|out| json_lines(&WithNote(None), &[0, 1], false, out));
        assert_eq!(line, "{\"name\":\"a\"}\n");
    }

    #[test]
    fn columns_are_chosen_by_name_and_keep_that_order() {
        let style = |columns: &[&str]| ListStyle {
            columns: columns.iter().map(ToString::to_string).collect(),
            ..ListStyle::default()
        };
        let choose = |columns: &[&str], further: &[Rank]| style(columns).choose(Example.columns(), further);
        assert_eq!(choose(&[], &[]), Ok(vec![0, 1, 2]));
        assert_eq!(choose(&[], &[Rank::Asked]), Ok(vec![0, 1, 2, 3]));
        assert_eq!(choose(&["error", "name"], &[]), Ok(vec![3, 0]));
        assert_eq!(choose(&["name", "hits"], &[]), Err("hits".to_owned()));
        let shown = table(&Example, &[1, 0], &style(&["size", "name"]), &Screen::PLAIN);
        assert_eq!(shown, "SIZE  NAME\n2048  a, \"b\"\n   -  c\n");
    }
}
