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
