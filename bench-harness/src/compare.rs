//! Subject `compare`: the regression gate, on ratios to the calibration of each run.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::results::{Report, Row};
use crate::table::Table;

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The run to compare with.
    baseline: PathBuf,
    /// The run to judge.
    current: PathBuf,
    /// How many times worse a row may be.
    #[arg(long, default_value_t = 1.3, value_name = "RATIO", value_parser = parse_threshold)]
    threshold: f64,
    /// Metrics to judge. Tails, maxima and rates over all the time move with whatever else the machine does; name
    /// them to judge them too.
    #[arg(long, value_delimiter = ',', default_value = "p50,window_p50_per_s", value_name = "METRIC")]
    metric: Vec<String>,
    /// Scenarios to judge. Default: all.
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    scenario: Vec<String>,
}

fn parse_threshold(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(threshold) if threshold.is_finite() && threshold >= 1.0 => Ok(threshold),
        _ => Err("must be a number of at least 1".to_owned()),
    }
}

type Key = (String, String, u64, String);

/// How a row of the baseline did.
#[derive(Clone, PartialEq, Debug)]
enum Verdict {
    /// Both runs have it: how many times worse it has become (below one: better).
    Worse(f64),
    /// Only the baseline has it.
    MissingInCurrent,
    /// Only the current run has it.
    MissingInBaseline,
}

/// Runs `compare`. `false`: something got worse than the threshold allows, or is missing.
pub fn run(options: &Options) -> io::Result<bool> {
    let (baseline, current) = (Report::read(&options.baseline)?, Report::read(&options.current)?);
    for (report, path) in [(&baseline, &options.baseline), (&current, &options.current)] {
        if report.calibration_ns <= 0.0 {
            return Err(io::Error::other(format!("{}: the run has no calibration", path.display())));
        }
    }
    println!(
        "calibration: baseline {:.0} ns, current {:.0} ns",
        baseline.calibration_ns, current.calibration_ns
    );
    if baseline.machine != current.machine {
        println!("the machines differ: the comparison is by calibration ratio only");
    }
    let verdicts = judge(&baseline, &current, &options.metric, &options.scenario);
    if verdicts.is_empty() {
        return Err(io::Error::other("neither run has a row of the chosen metrics and scenarios"));
    }
    let mut table = Table::new(&["scenario", "subject", "bytes", "metric", "times worse", ""]);
    let mut failures = Vec::new();
    for ((scenario, subject, size, metric), verdict) in &verdicts {
        let (figure, remark) = match verdict {
            Verdict::Worse(ratio) if *ratio > options.threshold => (format!("{ratio:.2}"), "WORSE"),
            Verdict::Worse(ratio) => (format!("{ratio:.2}"), ""),
            Verdict::MissingInCurrent => ("-".to_owned(), "MISSING in current"),
            Verdict::MissingInBaseline => ("-".to_owned(), "missing in baseline"),
        };
        table.push(
            [scenario, subject, &size.to_string(), metric, &figure, remark].map(str::to_owned).to_vec(),
        );
        if matches!(remark, "WORSE" | "MISSING in current") {
            failures.push(format!("{scenario} {subject} {size} {metric}: {figure} {remark}"));
        }
    }
    print!("{table}");
    for failure in &failures {
        println!("compare: FAILED {failure} (threshold {})", options.threshold);
    }
    if failures.is_empty() {
        println!("compare: passed, {} rows within {}", verdicts.len(), options.threshold);
    }
    Ok(failures.is_empty())
}

/// All rows of the chosen metrics and scenarios. No chosen scenario means all.
fn judge(
    baseline: &Report,
    current: &Report,
    metrics: &[String],
    scenarios: &[String],
) -> BTreeMap<Key, Verdict> {
    let chosen = |row: &&Row| {
        metrics.contains(&row.metric) && (scenarios.is_empty() || scenarios.contains(&row.scenario))
    };
    let by_key = |report: &Report| -> BTreeMap<Key, f64> {
        let cost = |row: &Row| cost(row, report.calibration_ns);
        report.rows.iter().filter(chosen).filter_map(|row| Some((key(row), cost(row)?))).collect()
    };
    let (before, after) = (by_key(baseline), by_key(current));
    let keys = before.keys().chain(after.keys());
    keys.map(|key| {
        let verdict = match (before.get(key), after.get(key)) {
            (Some(before), Some(after)) => Verdict::Worse(after / before),
            (Some(_), None) => Verdict::MissingInCurrent,
            (None, _) => Verdict::MissingInBaseline,
        };
        (key.clone(), verdict)
    })
    .collect()
}

fn key(row: &Row) -> Key {
    (row.scenario.clone(), row.subject.clone(), row.size_bytes, row.metric.clone())
}

/// What a row costs in round trips of the calibration, more being worse. Nothing for other units.
fn cost(row: &Row, calibration_ns: f64) -> Option<f64> {
    match row.unit.as_str() {
        "ns" => Some(row.value / calibration_ns),
        // The time of one message in round trips of the calibration; a rate of zero costs infinitely much.
        "msg/s" => Some(1e9 / (row.value * calibration_ns)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    fn report(calibration_ns: f64, rows: &[(&str, &str, f64)]) -> Report {
        let row = |&(metric, unit, value): &(&str, &str, f64)| Row {
            scenario: "one-way".into(),
            subject: "bare".into(),
            size_bytes: 64,
            metric: metric.into(),
            unit: unit.into(),
            value,
        };
        Report {
            calibration_ns,
            machine: Machine::default(),
            commit: String::new(),
            command: String::new(),
            rows: rows.iter().map(row).collect(),
        }
    }

    fn verdicts(baseline: &Report, current: &Report, scenarios: &[&str]) -> Vec<(String, Verdict)> {
        let metrics = ["p50", "throughput_per_s", "server_rss"].map(str::to_owned);
        let scenarios: Vec<_> = scenarios.iter().map(|&name| name.to_owned()).collect();
        let verdicts = judge(baseline, current, &metrics, &scenarios);
        verdicts.into_iter().map(|((_, _, _, metric), verdict)| (metric, verdict)).collect()
    }

    /// A machine that became twice as slow as a whole makes no row worse, in either direction of goodness.
    #[test]
    fn the_calibration_cancels_the_machine() {
        let baseline = report(100.0, &[("p50", "ns", 200.0), ("throughput_per_s", "msg/s", 1e7)]);
        let current = report(200.0, &[("p50", "ns", 400.0), ("throughput_per_s", "msg/s", 5e6)]);
        let expected = [("p50", 1.0), ("throughput_per_s", 1.0)]
            .map(|(metric, ratio)| (metric.to_owned(), Verdict::Worse(ratio)));
        assert_eq!(verdicts(&baseline, &current, &[]), expected);
    }

    /// More nanoseconds and fewer messages are both worse.
    #[test]
    fn both_directions_of_goodness() {
        let baseline = report(100.0, &[("p50", "ns", 200.0), ("throughput_per_s", "msg/s", 1e7)]);
        let current = report(100.0, &[("p50", "ns", 300.0), ("throughput_per_s", "msg/s", 5e6)]);
        let expected = [("p50", 1.5), ("throughput_per_s", 2.0)]
            .map(|(metric, ratio)| (metric.to_owned(), Verdict::Worse(ratio)));
        assert_eq!(verdicts(&baseline, &current, &[]), expected);
    }

    /// Rows that only one run has are named; other units, metrics and scenarios are left out.
    #[test]
    fn missing_rows_are_named() {
        let baseline = report(100.0, &[("p50", "ns", 200.0), ("p99", "ns", 1.0), ("server_rss", "B", 1.0)]);
        let current = report(100.0, &[("throughput_per_s", "msg/s", 5e6)]);
        let expected = vec![
            ("p50".to_owned(), Verdict::MissingInCurrent),
            ("throughput_per_s".to_owned(), Verdict::MissingInBaseline),
        ];
        assert_eq!(verdicts(&baseline, &current, &["one-way"]), expected);
        assert_eq!(verdicts(&baseline, &current, &["other"]), vec![]);
    }
}
