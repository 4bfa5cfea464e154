//! Tables of text with aligned columns.
//!
//! Widths are counted in characters; the caller escapes and formats the cells. A table that has to fit a
//! terminal shortens its times first, then leaves out the columns that matter least. Other cells are never
//! shortened, because half an id is of no use.

use super::screen::wrap;
use crate::units::{Nanos, when};

/// The space between two columns.
const GAP: usize = 2;
/// A column that is narrower than this is no place for a sentence.
const NARROW: usize = 20;

/// Returns rows as lines with aligned columns: the last two columns, which hold numbers, to the right and the
/// others to the left.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let is_number = column + 2 >= N;
            text.push_str(if column == 0 { "" } else { "  " });
            if is_number {
                text.push_str(&padding);
            }
            text.push_str(cell);
            if !is_number {
                text.push_str(&padding);
            }
        }
        text.push('\n');
    }
    text
}

/// A column of a table.
#[derive(Debug)]
pub(super) struct TableColumn {
    pub(super) title: String,
    /// Columns with the highest number are left out first; those with 0 always stay.
    pub(super) spare: u8,
    /// True if it stands to the right.
    pub(super) is_number: bool,
    pub(super) cells: Vec<TableCell>,
}

/// A cell of a table.
#[derive(Debug)]
pub(super) enum TableCell {
    Text(String),
    Time(Nanos),
}

/// The ways to show a time, from long to short: with seconds and zone, to the minute, and the day.
const TIMES: [usize; 3] = [20, 16, 10];

impl TableCell {
    /// Returns the text, with times of at most this many characters.
    fn shown(&self, time: usize) -> String {
        match self {
            TableCell::Text(text) => text.clone(),
            TableCell::Time(moment) => short_time(when(*moment), time),
        }
    }
}

/// Shortens a time as [`when`] shows it, such as `2026-11-22T01:50:50Z`.
fn short_time(text: String, length: usize) -> String {
    if text.len() <= length || !text.ends_with('Z') { text } else { text[..length].replace('T', " ") }
}

impl TableColumn {
    /// Returns the width of the column, with times of at most this many characters.
    fn width(&self, header: bool, time: usize) -> usize {
        let title = if header { self.title.chars().count() } else { 0 };
        let cells = self.cells.iter().map(|cell| match cell {
            TableCell::Text(text) => text.chars().count(),
            TableCell::Time(moment) if (1..i64::MAX).contains(moment) => time,
            TableCell::Time(moment) => short_time(when(*moment), time).len(),
        });
        cells.fold(title, usize::max)
    }
}

/// Returns a table that fits a terminal of this width, if that is possible.
pub(super) fn fitted(columns: &[TableColumn], header: bool, width: Option<usize>) -> String {
    let most = columns.iter().map(|column| column.spare).max().unwrap_or(0);
    let mut layout = None;
    'search: for kept in (0..=most).rev() {
        for time in TIMES {
            let chosen: Vec<(&TableColumn, usize)> = columns
                .iter()
                .filter(|column| column.spare <= kept)
                .map(|column| (column, column.width(header, time)))
                .collect();
            let total = chosen.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP);
            layout = Some((chosen, time));
            if width.is_none_or(|width| total <= width) {
                break 'search;
            }
        }
    }
    let Some((columns, time)) = layout else { return String::new() };
    let mut text = String::new();
    if header {
        let titles = columns.iter().map(|(column, width)| (column.title.clone(), *width, column.is_number));
        line(&mut text, titles);
    }
    let rows = columns.first().map_or(0, |(column, _)| column.cells.len());
    for row in 0..rows {
        let cells =
            columns.iter().map(|(column, width)| (column.cells[row].shown(time), *width, column.is_number));
        line(&mut text, cells);
    }
    text
}

/// Adds a line of cells, each with the width of its column, and true if it stands to the right.
fn line(text: &mut String, cells: impl Iterator<Item = (String, usize, bool)>) {
    let mut gap = 0;
    for (number, (cell, width, to_the_right)) in cells.enumerate() {
        let padding = width.saturating_sub(cell.chars().count());
        let before = if number == 0 { 0 } else { GAP };
        let (left, right) = if to_the_right { (padding, 0) } else { (0, padding) };
        text.extend(std::iter::repeat_n(' ', gap + before + left));
        text.push_str(&cell);
        // Blanks at the end of a line are left out.
        gap = right;
    }
    text.push('\n');
}

/// Returns a table whose last column is a sentence, broken to fit a terminal of this width. The column before
/// it stands to the right. Columns without a title and a cell are left out.
///
/// Each row has its cells, and the sentence in full and in brief. The brief ones are used if a full one does
/// not fit on its line.
pub(crate) fn with_sentences<const N: usize>(
    titles: [&str; N],
    rows: &[([String; N], [String; 2])],
    width: usize,
) -> String {
    let mut widths = titles.map(str::len);
    for (cells, _) in rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }
    let left: usize = widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum();
    let space = width.saturating_sub(left);
    let is_short = rows.iter().all(|(_, [full, _])| full.chars().count() <= space);
    let mut text = String::new();
    let mut add = |cells: &[String; N], sentence: &[String]| {
        let cells = cells.iter().zip(widths).enumerate().filter(|(_, (_, width))| *width > 0);
        let cells = cells.map(|(number, (cell, width))| (cell.clone(), width, number + 1 == N));
        let (beside, below) =
            if space < NARROW { (None, sentence) } else { (sentence.first(), &sentence[1..]) };
        line(&mut text, cells.chain(beside.map(|part| (part.clone(), 0, false))));
        let indent = if space < NARROW { 2 * GAP } else { left };
        for part in below {
            text.extend(std::iter::repeat_n(' ', indent));
            text.push_str(part);
            text.push('\n');
        }
    };
    let sentence =
        |text: &str| wrap(text, if space < NARROW { width.saturating_sub(2 * GAP) } else { space });
    if space < NARROW {
        add(&titles.map(str::to_owned), &[]);
    } else {
        add(&titles.map(str::to_owned), &["REASON".to_owned()]);
    }
    for (cells, [full, brief]) in rows {
        add(cells, &sentence(if is_short { full } else { brief }));
    }
    text
}

/// Returns a line, ended by a newline, that is broken at blanks so that it is no wider than `width`. Further
/// lines are indented. A word that is wider has a line of its own.
pub(crate) fn wrapped(line: &str, indent: usize, width: Option<usize>) -> String {
    let mut text = String::new();
    // The characters in the last line, and those of them that are no indent.
    let (mut used, mut own) = (0, 0);
    for (number, word) in line.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 {
            if length > 0 && own > 0 && width.is_some_and(|width| used + 1 + length > width) {
                text.truncate(text.trim_end_matches(' ').len());
                text.push('\n');
                text.push_str(&" ".repeat(indent));
                (used, own) = (indent, 0);
            } else {
                text.push(' ');
                used += 1;
            }
        }
        text.push_str(word);
        used += length;
        // The heading does not count: its value begins on the same line.
        own += if used > indent { length } else { 0 };
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Nanos = 1_795_312_250_000_000_000;

    fn columns() -> Vec<TableColumn> {
        let text = |title: &str, spare, cell: &str, is_number| TableColumn {
            title: title.to_owned(),
            spare,
            is_number,
            cells: vec![TableCell::Text(cell.to_owned()), TableCell::Text("-".to_owned())],
        };
        let time = |title: &str, spare| TableColumn {
            title: title.to_owned(),
            spare,
            is_number: false,
            cells: vec![TableCell::Time(THEN), TableCell::Time(0)],
        };
        vec![
            text("IMAGE", 0, "11111111-1111", false),
            time("LAST USE", 0),
            time("MODIFIED", 2),
            text("HITS", 1, "7", true),
        ]
    }

    #[test]
    fn times_are_shortened_before_columns_are_left_out() {
        let shown = |width| fitted(&columns(), true, width).lines().nth(1).unwrap().to_owned();
        for (width, line) in [
            (None, "11111111-1111  2026-11-22T01:50:50Z  2026-11-22T01:50:50Z     7"),
            (Some(63), "11111111-1111  2026-11-22T01:50:50Z  2026-11-22T01:50:50Z     7"),
            (Some(62), "11111111-1111  2026-11-22 01:50  2026-11-22 01:50     7"),
            (Some(54), "11111111-1111  2026-11-22  2026-11-22     7"),
            (Some(41), "11111111-1111  2026-11-22T01:50:50Z     7"),
            (Some(40), "11111111-1111  2026-11-22 01:50     7"),
            (Some(36), "11111111-1111  2026-11-22     7"),
            (Some(27), "11111111-1111  2026-11-22"),
            (Some(9), "11111111-1111  2026-11-22"),
        ] {
            assert_eq!(shown(width), line, "{width:?}");
        }
    }

    #[test]
    fn numbers_stand_to_the_right_and_no_line_ends_in_blanks() {
        assert_eq!(
            fitted(&columns(), true, Some(54)),
            "IMAGE          LAST USE    MODIFIED    HITS\n\
             11111111-1111  2026-11-22  2026-11-22     7\n\
             -              never       never          -\n"
        );
        assert_eq!(fitted(&columns(), false, Some(27)), "11111111-1111  2026-11-22\n-              never\n");
    }

    #[test]
    fn sentences_are_broken_beside_the_cells_or_put_below_them() {
        let row = |action: &str, full: &str| {
            ([action.to_owned(), "1 MiB".to_owned()], [full.to_owned(), "used in May".to_owned()])
        };
        let rows = [row("remove", "least recently used (in May)")];
        assert_eq!(
            with_sentences(["ACTION", "SIZE"], &rows, 60),
            "ACTION   SIZE  REASON\nremove  1 MiB  least recently used (in May)\n"
        );
        assert_eq!(
            with_sentences(["ACTION", "SIZE"], &rows, 40),
            "ACTION   SIZE  REASON\nremove  1 MiB  used in May\n"
        );
        assert_eq!(
            with_sentences(["ACTION", "SIZE"], &rows, 30),
            "ACTION   SIZE\nremove  1 MiB\n    used in May\n"
        );
    }

    #[test]
    fn lines_wrap_with_an_indent() {
        for (line, width, expected) in [
            ("head  one two three", None, "head  one two three\n"),
            ("head  one two three", Some(19), "head  one two three\n"),
            ("head  one two three", Some(18), "head  one two\n      three\n"),
            ("head  one two three", Some(12), "head  one\n      two\n      three\n"),
            ("head  one two three", Some(3), "head  one\n      two\n      three\n"),
            ("head  a   b", Some(11), "head  a   b\n"),
            ("head  a   b", Some(9), "head  a\n      b\n"),
            ("head  /a/very/long/path is long", Some(16), "head  /a/very/long/path\n      is long\n"),
            ("", Some(10), "\n"),
        ] {
            assert_eq!(wrapped(line, 6, width), expected, "{line:?} in {width:?}");
        }
    }
}
