//! Tables of text with aligned columns.
//!
//! Widths are counted in characters; the caller escapes and formats the cells.

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
