//! The targets of the rings: ratios within one run, each with its value, and met or missed.
//!
//! A benchmark reports and does not fail: `gate` is what fails, on limits that hold on every machine.

use super::{Cell, Measured, Scenario, Subject};
use crate::table::Table;

/// On which side of the limit a ratio has to be.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One target: a figure of the link over the same figure of a yardstick.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Target {
    what: &'static str,
    of: Cell,
    over: Option<Cell>,
    metric: &'static str,
    limit: Limit,
}

fn targets() -> Vec<Target> {
    let link = |scenario, size_bytes| (scenario, size_bytes, Subject::ShmTransport);
    let iceoryx2 = |scenario, size_bytes| Some((scenario, size_bytes, Subject::iceoryx2()?));
    let round_trip = |what, scenario, yardstick: Option<Subject>, most| Target {
        what,
        of: link(scenario, 64),
        over: yardstick.map(|yardstick| (scenario, 64, yardstick)),
        metric: "p50",
        limit: Limit::AtMost(most),
    };
    let one_way = |what, size_bytes, least| Target {
        what,
        of: link(Scenario::OneWayBatch16, size_bytes),
        over: iceoryx2(Scenario::OneWayBatch16, size_bytes),
        metric: "window_p50_per_s",
        limit: Limit::AtLeast(least),
    };
    let awake = Scenario::RoundTripAwake;
    vec![
        round_trip("round trip awake, 64 B, p50 / bare", awake, Some(Subject::Bare), 1.15),
        Target {
            of: (awake, 64, Subject::ShmRing),
            ..round_trip("the same of the ring without messages / bare", awake, Some(Subject::Bare), 1.15)
        },
        round_trip("round trip awake, 64 B, p50 / iceoryx2", awake, Subject::iceoryx2(), 0.45),
        one_way("one way, batches of 16, 64 B, rate / iceoryx2", 64, 8.0),
        one_way("one way, batches of 16, 1 KiB, rate / iceoryx2", 1024, 2.5),
        one_way("one way, batches of 16, 4 KiB, rate / iceoryx2", 4096, 1.2),
        Target {
            over: Some((Scenario::OneWay, 64, Subject::UnixStream)),
            ..one_way("one way, batches of 16, 64 B, rate / unix-stream unbatched", 64, 30.0)
        },
        round_trip(
            "round trip asleep, 64 B, p50 / futex",
            Scenario::RoundTripAsleep,
            Some(Subject::Futex),
            1.1,
        ),
    ]
}

/// The ratio, and how it stands to the limit.
fn judge(measured: &Measured, target: &Target) -> (Option<f64>, &'static str) {
    let ratio = target.over.and_then(|over| measured.ratio(target.of, over, target.metric));
    let met = match (ratio, target.limit) {
        (None, _) => return (None, "not measured"),
        (Some(ratio), Limit::AtMost(most)) => ratio <= most,
        (Some(ratio), Limit::AtLeast(least)) => ratio >= least,
    };
    (ratio, if met { "met" } else { "missed" })
}

/// Prints each target.
pub fn print(measured: &Measured) {
    let mut table = Table::new(&["targets", "value", "limit", ""]);
    for target in targets() {
        let (ratio, verdict) = judge(measured, &target);
        let limit = match target.limit {
            Limit::AtMost(most) => format!("<= {most:.2}"),
            Limit::AtLeast(least) => format!(">= {least:.2}"),
        };
        let value = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        table.push(vec![target.what.to_owned(), value, limit, verdict.to_owned()]);
    }
    print!("\n{table}");
}

#[cfg(test)]
mod tests {
    use super::super::Figure;
    use super::*;

    /// Both sides of both kinds of limit; without the yardstick there is no verdict.
    #[test]
    fn limits_are_inclusive() {
        let cell = |subject| (Scenario::RoundTripAwake, 64, subject);
        let figure = |value| vec![Figure { metric: "p50", unit: "ns", rounds: vec![value] }];
        let measured = |value| Measured {
            calibration_ns: None,
            cells: [(cell(Subject::ShmTransport), figure(value)), (cell(Subject::Bare), figure(100.0))]
                .into_iter()
                .collect(),
        };
        let target = |limit, over| Target {
            what: "",
            of: cell(Subject::ShmTransport),
            over: Some(cell(over)),
            metric: "p50",
            limit,
        };
        for (limit, over, value, expected) in [
            (Limit::AtMost(1.0), Subject::Bare, 100.0, "met"),
            (Limit::AtMost(1.0), Subject::Bare, 101.0, "missed"),
            (Limit::AtLeast(1.0), Subject::Bare, 100.0, "met"),
            (Limit::AtLeast(1.0), Subject::Bare, 99.0, "missed"),
            (Limit::AtLeast(1.0), Subject::Pipe, 100.0, "not measured"),
        ] {
            assert_eq!(judge(&measured(value), &target(limit, over)).1, expected, "{limit:?} {value}");
        }
    }
}
