//! Subject `plot`: pictures of the figures of `ring`, by size of the message and subject.

mod svg;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::results::{Report, Row};
use svg::{Chart, Series};

/// What to draw.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A file that `ring --json` has written.
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// The folder for the pictures; made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// One picture: which rows, and what its axis shows.
struct Picture {
    file: &'static str,
    title: &'static str,
    scenario: &'static str,
    metric: &'static str,
    axis: &'static str,
    /// How many of the axis's unit one of the row's is.
    scale: f64,
}

const PICTURES: [Picture; 4] = [
    Picture {
        file: "round-trip-awake.svg",
        title: "Round trip, both sides awake, p50",
        scenario: "round-trip-awake",
        metric: "p50",
        axis: "nanoseconds (less is better)",
        scale: 1.0,
    },
    Picture {
        file: "round-trip-asleep.svg",
        title: "Round trip, both sides asleep in between, p50",
        scenario: "round-trip-asleep",
        metric: "p50",
        axis: "microseconds (less is better)",
        scale: 1e-3,
    },
    Picture {
        file: "one-way.svg",
        title: "One way, each message visible at once",
        scenario: "one-way",
        metric: "window_p50_per_s",
        axis: "million messages a second (more is better)",
        scale: 1e-6,
    },
    Picture {
        file: "one-way-batch16.svg",
        title: "One way, batches of 16 where the subject can",
        scenario: "one-way-batch16",
        metric: "window_p50_per_s",
        axis: "million messages a second (more is better)",
        scale: 1e-6,
    },
];

/// Runs `plot`.
pub fn run(options: &Options) -> io::Result<()> {
    let report = Report::read(&options.json)?;
    let named = |path: &Path, error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&options.out).map_err(|error| named(&options.out, error))?;
    let mut drawn = 0;
    for picture in &PICTURES {
        let series = series(&report.rows, picture);
        if series.is_empty() {
            println!("{}: not drawn, the run has no {}", picture.file, picture.scenario);
            continue;
        }
        let chart = Chart {
            title: picture.title.to_owned(),
            note: note(&report),
            axis: picture.axis.to_owned(),
            series,
        };
        let path = options.out.join(picture.file);
        std::fs::write(&path, chart.to_string()).map_err(|error| named(&path, error))?;
        println!("{}", path.display());
        drawn += 1;
    }
    if drawn == 0 {
        return Err(io::Error::other(format!("{}: nothing to draw", options.json.display())));
    }
    Ok(())
}

/// Where and of what, so that a picture does not travel without it.
fn note(report: &Report) -> String {
    let commit: String = report.commit.chars().take(7).collect();
    let dirty = if report.commit.ends_with("-dirty") { "-dirty" } else { "" };
    let Report { calibration_ns, machine, .. } = report;
    format!(
        "{}, {} CPUs, Linux {}; commit {commit}{dirty}; calibration {calibration_ns:.0} ns",
        machine.cpu_model, machine.cores, machine.kernel
    )
}

/// The rows of a picture by subject, each ordered by size.
fn series(rows: &[Row], picture: &Picture) -> Vec<Series> {
    let mut by_subject: BTreeMap<&str, Vec<(u64, f64)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.scenario == picture.scenario && row.metric == picture.metric) {
        // What is not above zero has no place on a logarithmic axis.
        if row.value > 0.0 && row.size_bytes > 0 {
            by_subject.entry(&row.subject).or_default().push((row.size_bytes, row.value * picture.scale));
        }
    }
    let series = by_subject.into_iter().map(|(name, mut points)| {
        points.sort_by_key(|point| point.0);
        Series { name: name.to_owned(), points }
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture takes its scenario and metric only, in order of size and scaled.
    #[test]
    fn a_picture_takes_its_rows() {
        let row = |scenario: &str, metric: &str, size_bytes, value| Row {
            scenario: scenario.into(),
            subject: "pipe".into(),
            size_bytes,
            metric: metric.into(),
            unit: "ns".into(),
            value,
        };
        let rows = [
            row("round-trip-asleep", "p50", 1024, 30_000.0),
            row("round-trip-asleep", "p50", 64, 20_000.0),
            row("round-trip-asleep", "p50", 256, 0.0),
            row("round-trip-asleep", "p99", 64, 1.0),
            row("round-trip-awake", "p50", 64, 1.0),
        ];
        let found = series(&rows, &PICTURES[1]);
        let points: Vec<_> = found[0].points.iter().map(|(size, value)| (*size, value.round())).collect();
        assert_eq!((found.len(), points), (1, vec![(64, 20.0), (1024, 30.0)]));
    }
}
