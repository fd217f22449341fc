//! Subject `segment`: how long it takes until the first message of a new pair of segments has arrived.
//!
//! Everything in one process: the keeper's part and the engine's (both halves created, allocated, sealed; the
//! engine attached), the agent's (attached), and one message of 64 bytes from engine to agent. The start of a
//! process is not in it.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::figures::quantile_of_sorted;
use crate::machine::Machine;
use crate::results::{Row, publish};
use crate::ring::endpoint::Endpoint;
use crate::ring::linked::LinkEnd;
use crate::table::{Table, ns};

const CAPACITIES: [u64; 3] = [64 << 10, 256 << 10, 1 << 20];
const MESSAGE: [u8; 64] = [0x5a; 64];
const REPEATS_MAX: u64 = 100_000;
/// Not counted: the first ones meet code that is not mapped yet.
const WARM_UP: u64 = 5;
/// All of it, with the smallest rings.
const TARGET_NS: f64 = 1e6;
const STEPS: [&str; 4] = ["create-and-attach-engine", "attach-agent", "first-message", "all"];

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Pairs of segments for each capacity.
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(10..=REPEATS_MAX))]
    repeats: u64,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `segment`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    let mut samples: [[Vec<f64>; STEPS.len()]; CAPACITIES.len()] = Default::default();
    for round in 0..WARM_UP + options.repeats {
        // One of each capacity in turn, so that all meet the same state of the machine.
        for (&capacity, samples) in CAPACITIES.iter().zip(&mut samples) {
            let steps_ns = one_pair(capacity)?;
            if round >= WARM_UP {
                samples.iter_mut().zip(steps_ns).for_each(|(sample, ns)| sample.push(ns));
            }
        }
    }
    let mut table = Table::new(&["step", "ring bytes", "p50", "p90", "p99", "max"]);
    let mut rows = Vec::new();
    for (&capacity, samples) in CAPACITIES.iter().zip(&mut samples) {
        for (step, sample) in STEPS.iter().zip(samples) {
            sample.sort_by(f64::total_cmp);
            let mut line = vec![(*step).to_owned(), capacity.to_string()];
            for (metric, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
                let value = quantile_of_sorted(sample, quantile);
                line.push(ns(Some(value)));
                rows.push(Row {
                    scenario: format!("segment-{step}"),
                    subject: "shm-transport".to_owned(),
                    size_bytes: capacity,
                    metric: metric.to_owned(),
                    unit: "ns".to_owned(),
                    value,
                });
            }
            table.push(line);
        }
    }
    print!("{table}");
    let smallest =
        samples.first().and_then(|steps| steps.last()).map_or(f64::NAN, |all| quantile_of_sorted(all, 0.5));
    let verdict = if smallest < TARGET_NS { "met" } else { "missed" };
    println!("target: all of it at {} bytes, p50 below {}: {verdict}", CAPACITIES[0], ns(Some(TARGET_NS)));
    publish(options.json.as_deref(), machine, calibration_ns, rows)
}

/// Nanoseconds of each step, for one new pair of segments.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short step stay below 2^53")]
fn one_pair(capacity: u64) -> io::Result<[f64; STEPS.len()]> {
    let start = Instant::now();
    let (mut engine, files) = LinkEnd::engine(capacity)?;
    let attached_engine = Instant::now();
    let mut agent = LinkEnd::agent(files)?;
    let attached_agent = Instant::now();
    engine.send(&MESSAGE)?;
    engine.flush()?;
    let mut first = None;
    let taken = agent.receive(|sequence| first = Some(sequence))?;
    let end = Instant::now();
    if (taken, first) != (1, Some(crate::ring::endpoint::sequence_of(&MESSAGE))) {
        return Err(io::Error::other(format!("{taken} messages came, the last numbered {first:?}")));
    }
    let ns = |from: Instant, to: Instant| (to - from).as_nanos() as f64;
    Ok([
        ns(start, attached_engine),
        ns(attached_engine, attached_agent),
        ns(attached_agent, end),
        ns(start, end),
    ])
}
