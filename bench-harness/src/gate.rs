//! Subject `gate`: limits on ratios between subjects of one run, so that no stored baseline is needed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::core;
use crate::machine;
use crate::ring::{Measured, Plan, Scenario, Subject, measure};

/// The limits that are in force, from the committed file.
const LIMITS: &str = include_str!("../gate.json");
const ROUNDS: u64 = 7;
const ROUND: Duration = Duration::from_millis(80);
const SIZE_BYTES: usize = 64;
const RING_BYTES: usize = 1 << 20;
/// Another program on the machine can spoil a run; a regression spoils them all.
const ATTEMPTS_MAX: usize = 3;

/// What to judge by.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Limits to use instead of the built-in ones.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
}

/// The limits; each is the median of the ratios of the rounds of one run.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Round trip of 64 bytes, both sides awake: p50 of the link over p50 of the bare ring, at most.
    round_trip_p50_over_bare_max: f64,
    /// One way, 64 bytes, sixteen at a time: rate of the link over the rate of the bare ring, at least.
    one_way_batch16_over_bare_min: f64,
    /// Time of a message's whole life in the core over the time of the yardstick, at most.
    core_whole_life_over_yardstick_max: f64,
}

/// One figure and whether it is within its limit.
#[derive(Clone, PartialEq, Debug)]
struct Finding {
    name: &'static str,
    value: f64,
    limit: f64,
    passed: bool,
}

/// Runs `gate`. `false`: a limit was broken in every attempt.
pub fn run(options: &Options) -> io::Result<bool> {
    let text = match &options.limits {
        Some(path) => std::fs::read_to_string(path)?,
        None => LIMITS.to_owned(),
    };
    let limits: Limits = serde_json::from_str(&text).map_err(io::Error::other)?;
    if machine::usable_cpus().len() < 2 {
        println!("gate: not run (needs 2 CPUs)");
        return Ok(true);
    }
    let plan = Plan {
        rounds: ROUNDS,
        duration: ROUND,
        sizes: vec![SIZE_BYTES],
        subjects: vec![Subject::Bare, Subject::ShmTransport],
        scenarios: vec![Scenario::RoundTripAwake, Scenario::OneWayBatch16],
        ring_bytes: RING_BYTES,
        messages_max: u64::MAX,
    };
    let mut findings = Vec::new();
    for attempt in 1..=ATTEMPTS_MAX {
        let measured = measure(&plan)?;
        machine::unpin()?;
        let core = core::whole_life_over_yardstick(ROUNDS, ROUND);
        findings = judge(&measured, core, limits);
        for finding in &findings {
            println!("attempt {attempt}: {} {:.2}, limit {:.2}", finding.name, finding.value, finding.limit);
        }
        if findings.iter().all(|finding| finding.passed) {
            println!("gate: passed");
            return Ok(true);
        }
    }
    for finding in findings.iter().filter(|finding| !finding.passed) {
        println!("gate: FAILED {} {:.2} {:.2}", finding.name, finding.value, finding.limit);
    }
    Ok(false)
}

fn judge(measured: &Measured, core: f64, limits: Limits) -> Vec<Finding> {
    let ratio = |scenario, metric| {
        let cell = |subject| (scenario, SIZE_BYTES, subject);
        measured.ratio(cell(Subject::ShmTransport), cell(Subject::Bare), metric).unwrap_or(f64::NAN)
    };
    let round_trip = ratio(Scenario::RoundTripAwake, "p50");
    let one_way = ratio(Scenario::OneWayBatch16, "window_p50_per_s");
    // A figure that is missing is not a number, and passes neither comparison.
    vec![
        Finding {
            name: "round_trip_p50_over_bare",
            value: round_trip,
            limit: limits.round_trip_p50_over_bare_max,
            passed: round_trip <= limits.round_trip_p50_over_bare_max,
        },
        Finding {
            name: "one_way_batch16_over_bare",
            value: one_way,
            limit: limits.one_way_batch16_over_bare_min,
            passed: one_way >= limits.one_way_batch16_over_bare_min,
        },
        Finding {
            name: "core_whole_life_over_yardstick",
            value: core,
            limit: limits.core_whole_life_over_yardstick_max,
            passed: core <= limits.core_whole_life_over_yardstick_max,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Figure;

    fn measured(round_trip_ns: f64, rate: f64) -> Measured {
        let cell = |scenario, subject, metric, value| {
            ((scenario, SIZE_BYTES, subject), vec![Figure { metric, unit: "unit", rounds: vec![value] }])
        };
        let cells = [
            cell(Scenario::RoundTripAwake, Subject::Bare, "p50", 100.0),
            cell(Scenario::RoundTripAwake, Subject::ShmTransport, "p50", round_trip_ns),
            cell(Scenario::OneWayBatch16, Subject::Bare, "window_p50_per_s", 100.0),
            cell(Scenario::OneWayBatch16, Subject::ShmTransport, "window_p50_per_s", rate),
        ];
        Measured { calibration_ns: Some(100.0), cells: cells.into_iter().collect() }
    }

    /// Both sides of each limit; what was not measured does not pass.
    #[test]
    fn limits_are_inclusive() {
        let limits = Limits {
            round_trip_p50_over_bare_max: 2.0,
            one_way_batch16_over_bare_min: 0.5,
            core_whole_life_over_yardstick_max: 9.0,
        };
        for (round_trip, rate, core, expected) in [
            (200.0, 50.0, 9.0, [true, true, true]),
            (201.0, 50.0, 9.0, [false, true, true]),
            (200.0, 49.0, 9.0, [true, false, true]),
            (200.0, 50.0, 9.1, [true, true, false]),
        ] {
            let passed: Vec<_> =
                judge(&measured(round_trip, rate), core, limits).iter().map(|f| f.passed).collect();
            assert_eq!(passed, expected, "{round_trip} {rate} {core}");
        }
        let nothing = Measured { calibration_ns: None, cells: Default::default() };
        assert!(judge(&nothing, f64::NAN, limits).iter().all(|finding| !finding.passed));
    }

    /// The built-in limits parse.
    #[test]
    fn the_committed_limits_are_usable() {
        let limits: Limits = serde_json::from_str(LIMITS).unwrap();
        assert!(limits.round_trip_p50_over_bare_max >= 1.0 && limits.one_way_batch16_over_bare_min > 0.0);
        assert!(limits.core_whole_life_over_yardstick_max >= 1.0);
    }
}
