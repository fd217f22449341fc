//! The file that `--json` writes and `compare` reads.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};

/// One run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Nanoseconds of a 64-byte round trip over bare cache lines, the median over the run; zero if not measured.
    pub calibration_ns: f64,
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub commit: String,
    /// How.
    pub command: String,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was done.
    pub scenario: String,
    /// By what.
    pub subject: String,
    /// With messages of this size; zero where sizes vary.
    pub size_bytes: u64,
    /// Which figure.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Its value.
    pub value: f64,
}

/// Writes the figures of a run to the file that `--json` names, if it does.
pub fn publish(
    json: Option<&Path>,
    machine: Machine,
    calibration_ns: Option<f64>,
    rows: Vec<Row>,
) -> io::Result<()> {
    let Some(path) = json else { return Ok(()) };
    let (commit, command) = (machine::commit(), machine::command());
    Report { calibration_ns: calibration_ns.unwrap_or(0.0), machine, commit, command, rows }.write(path)
}

impl Report {
    /// Writes the file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| named(path, &error))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| named(path, &error))?;
        serde_json::from_str(&text).map_err(|error| named(path, &error))
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            calibration_ns: 150.0,
            machine: Machine { cpu_model: "c".into(), kernel: "k".into(), ..Machine::default() },
            commit: "abc".into(),
            command: "bench-harness ring".into(),
            rows: vec![Row {
                scenario: "one-way".into(),
                subject: "bare".into(),
                size_bytes: 64,
                metric: "throughput_per_s".into(),
                unit: "msg/s".into(),
                value: 3e7,
            }],
        }
    }

    /// The file has exactly the documented keys, at both levels.
    #[test]
    fn keys_are_the_documented_ones() {
        let value = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&value), ["calibration_ns", "command", "commit", "machine", "rows"]);
        let row = ["metric", "scenario", "size_bytes", "subject", "unit", "value"];
        assert_eq!(keys(&value["rows"][0]), row);
    }

    /// A report survives writing and reading, and an unknown key is refused.
    #[test]
    fn reports_round_trip() {
        let text = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report());
        let other = text.replacen("\"commit\"", "\"comit\"", 1);
        assert!(serde_json::from_str::<Report>(&other).unwrap_err().to_string().contains("comit"));
    }
}
