//! Plain text tables.

use std::fmt;

/// Rows of text under a heading. The first columns are names, the others numbers; all are right-aligned
/// but the first.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|&title| title.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (text, &width)) in row.iter().zip(&widths).enumerate() {
                let text = if column == 0 { format!("{text:<width$}") } else { format!("  {text:>width$}") };
                line.push_str(&text);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Nanoseconds for people; a dash for nothing.
pub fn ns(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(ns) if ns < 10_000.0 => format!("{ns:.0} ns"),
        Some(ns) if ns < 10_000_000.0 => format!("{:.1} us", ns / 1e3),
        Some(ns) => format!("{:.1} ms", ns / 1e6),
    }
}

/// Messages per second for people; a dash for nothing.
pub fn rate(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(rate) if rate < 10_000.0 => format!("{rate:.0}"),
        Some(rate) if rate < 1e6 => format!("{:.1} k", rate / 1e3),
        Some(rate) => format!("{:.2} M", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns line up, whatever the width of their cells.
    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "n"]);
        table.push(vec!["a".into(), "1".into()]);
        table.push(vec!["longer".into(), "1000".into()]);
        assert_eq!(table.to_string(), "name       n\na          1\nlonger  1000\n");
    }

    /// Both sides of each change of unit.
    #[test]
    fn numbers_are_short() {
        for (value, expected) in [(9_999.0, "9999 ns"), (10_000.0, "10.0 us"), (2e7, "20.0 ms")] {
            assert_eq!(ns(Some(value)), expected);
        }
        for (value, expected) in [(9_999.0, "9999"), (10_000.0, "10.0 k"), (2e7, "20.00 M")] {
            assert_eq!(rate(Some(value)), expected);
        }
        assert_eq!((ns(None), rate(None)), ("-".to_owned(), "-".to_owned()));
    }
}
