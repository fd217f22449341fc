//! What commands print: text in columns, or JSON.

use std::io::Write;

use serde::Serialize;

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// At the left edge.
    Left,
    /// At the right edge, as numbers do.
    Right,
}

/// Lines of text with aligned columns, the headings first.
pub fn render<const N: usize>(columns: &[(&str, Align); N], rows: &[[String; N]]) -> Vec<String> {
    let headings = columns.map(|(heading, _)| heading.to_owned());
    let mut widths = [0; N];
    for row in std::iter::once(&headings).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(widths).zip(columns) {
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                Align::Right => line.push_str(&format!("{cell:>width$}  ")),
            }
        }
        line.truncate(line.trim_end().len());
        line
    };
    std::iter::once(&headings).chain(rows).map(line).collect()
}

/// Prints a value as one line of JSON.
pub fn print_json(value: &impl Serialize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns are as wide as their widest cell, and lines have no blanks at the end.
    #[test]
    fn columns_are_aligned() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let columns = [("NAME", Align::Left), ("N", Align::Right)];
        let lines = render(&columns, &[row("a", "1"), row("longer", "23")]);
        assert_eq!(lines, ["NAME     N", "a        1", "longer  23"]);
        let lines = render(&[("A", Align::Right), ("B", Align::Left)], &[row("1", "x"), row("22", "")]);
        assert_eq!(lines, [" A  B", " 1  x", "22"]);
    }
}
