//! The figures of a run: as rows of a report, and as tables for people.

use super::{Cell, Measured, Subject, name};
use crate::results::Row;
use crate::table::{Table, ns, rate};

/// All figures, each the median over the rounds.
pub fn rows(measured: &Measured) -> Vec<Row> {
    let mut rows = Vec::new();
    for (&(scenario, size_bytes, subject), figures) in &measured.cells {
        for figure in figures {
            rows.push(Row {
                scenario: name(&scenario),
                subject: name(&subject),
                size_bytes: size_bytes as u64,
                metric: figure.metric.to_owned(),
                unit: figure.unit.to_owned(),
                value: figure.median(),
            });
        }
    }
    rows
}

const ROUND_TRIP: [&str; 6] = ["p50", "p90", "p99", "p999", "max", "throughput_per_s"];
const ONE_WAY: [&str; 4] = ["throughput_per_s", "window_p50_per_s", "window_p99_per_s", "window_p999_per_s"];

/// Prints the round trips, then the one-way rates.
pub fn print_tables(measured: &Measured) {
    let titles = ["p50", "p90", "p99", "p999", "max", "msg/s"];
    print_table(measured, true, &ROUND_TRIP, &titles, "p50");
    let titles = ["msg/s", "window p50", "window p99", "window p999"];
    print_table(measured, false, &ONE_WAY, &titles, "window_p50_per_s");
}

/// One table; the last columns compare `compared` with the yardsticks that were measured too.
fn print_table(measured: &Measured, round_trips: bool, metrics: &[&str], titles: &[&str], compared: &str) {
    let cells: Vec<Cell> =
        measured.cells.keys().filter(|cell| cell.0.is_round_trip() == round_trips).copied().collect();
    if cells.is_empty() {
        return;
    }
    let yardsticks: Vec<Subject> = [Some(Subject::Bare), Subject::iceoryx2()]
        .into_iter()
        .flatten()
        .filter(|yardstick| cells.iter().any(|cell| cell.2 == *yardstick))
        .collect();
    let ratio_titles: Vec<String> = yardsticks.iter().map(|one| format!("of {}", name(one))).collect();
    let mut heading = vec!["scenario", "bytes", "subject"];
    heading.extend(titles);
    heading.extend(ratio_titles.iter().map(String::as_str));
    let mut table = Table::new(&heading);
    for cell in cells {
        let (scenario, size_bytes, subject) = cell;
        let mut line = vec![name(&scenario), size_bytes.to_string(), name(&subject)];
        line.extend(metrics.iter().map(|metric| {
            let value = measured.get(cell, metric);
            if metric.ends_with("_per_s") { rate(value) } else { ns(value) }
        }));
        line.extend(yardsticks.iter().map(|&yardstick| {
            let ratio = measured.ratio(cell, (scenario, size_bytes, yardstick), compared);
            ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
        }));
        table.push(line);
    }
    print!("{table}");
}
