//! checkpointctl's tables: columns padded with blanks, a line of dashes below the headings.

use std::fmt::Write;

use crate::cli::output::plain;

/// The least width of a column, its padding included.
const LEAST: usize = 6;
/// Blanks behind the widest cell of a column.
const PADDING: usize = 3;

/// A table as text. The last column is not padded.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![
        headings.iter().map(|heading| heading.to_uppercase()).collect(),
        headings.iter().map(|heading| "-".repeat(heading.len())).collect(),
    ];
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| plain(cell).into_owned()).collect()));
    let width = |column: usize| {
        let widest = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        (widest.unwrap_or(0) + PADDING).max(LEAST)
    };
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = if column + 1 < line.len() { widths[column] } else { 0 };
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:width$}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_except_the_last() {
        let rows = [vec!["1".to_owned(), "python3".to_owned(), "13.9 MiB".to_owned()]];
        assert_eq!(
            table(&["PID", "Process name", "Memory size"], &rows),
            "PID   PROCESS NAME   MEMORY SIZE\n---   ------------   -----------\n1     python3        13.9 MiB\n"
        );
    }

    #[test]
    fn a_cell_cannot_leave_its_line() {
        let text = table(&["A"], &[vec!["a\nb".to_owned()]]);
        assert_eq!(text.lines().count(), 3);
    }
}
