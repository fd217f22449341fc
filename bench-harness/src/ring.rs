//! Subject `ring`: two processes on two CPUs, over shared memory and over the kernel's streams.

pub mod bare;
mod endpoint;
mod linked;
pub mod peer;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::figures::{latency_metrics, median};
use crate::machine::{self, Machine};
use crate::results::{Report, Row};
use crate::table::Table;
use endpoint::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN};
use peer::{Job, Outcome, Peer};

const ROUNDS_MAX: u64 = 1000;
/// How many times slower the slowest calibration of a run may be than the fastest without a warning.
const CALIBRATION_SPREAD_MAX: f64 = 1.5;
const CALIBRATIONS_ALONE: usize = 5;
const QUICK_SECONDS_PER_CELL: f64 = 0.15;

/// Over what the messages travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The simplest ring without checks.
    Bare,
    /// The link of this project, engine against agent.
    ShmTransport,
    /// A Unix stream socket.
    UnixStream,
    /// A pair of pipes.
    Pipe,
}

/// Which way the messages travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// There and back, one at a time, both sides spinning.
    RoundTripAwake,
    /// There and back, one at a time, both sides asleep in between.
    RoundTripAsleep,
    /// One way, each message made visible at once.
    OneWay,
    /// One way, made visible sixteen at a time.
    #[value(name = "one-way-batch16")]
    #[serde(rename = "one-way-batch16")]
    OneWayBatch16,
}

/// The name of an option value, as the command line and the reports spell it.
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; every cell is measured once in each, and the median over the rounds is reported.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// Seconds for each cell (subject, scenario, size), over all rounds together.
    #[arg(long, default_value_t = 0.6, value_name = "SECONDS", value_parser = parse_seconds)]
    seconds_per_cell: f64,
    /// Sizes 64 and 1024 only, and short cells: a look in less than ten seconds.
    #[arg(long)]
    quick: bool,
    /// Message sizes in bytes.
    #[arg(long, value_delimiter = ',', value_name = "BYTES", value_parser = parse_size)]
    sizes: Vec<usize>,
    /// Subjects.
    #[arg(long, value_enum, value_delimiter = ',')]
    subjects: Vec<Subject>,
    /// Scenarios.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,
    /// Bytes of each ring; a power of two.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", value_parser = parse_ring_bytes)]
    ring_bytes: usize,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.03..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number between 0.03 and 600".to_owned()),
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("must be between {MESSAGE_BYTES_MIN} and {MESSAGE_BYTES_MAX} bytes")),
    }
}

fn parse_ring_bytes(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(bytes) if bytes.is_power_of_two() && (1 << 18..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err("must be a power of two between 262144 and 1073741824".to_owned()),
    }
}

/// Which cells are measured, and how often.
#[derive(Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: u64,
    /// Of each cell in each round.
    pub duration: Duration,
    /// Message sizes.
    pub sizes: Vec<usize>,
    /// Subjects.
    pub subjects: Vec<Subject>,
    /// Scenarios.
    pub scenarios: Vec<Scenario>,
    /// Bytes of each ring.
    pub ring_bytes: usize,
}

impl Options {
    fn plan(&self) -> Plan {
        fn or_all<T: Clone>(chosen: &[T], all: &[T]) -> Vec<T> {
            if chosen.is_empty() { all.to_vec() } else { chosen.to_vec() }
        }
        let sizes: &[usize] = if self.quick { &[64, 1024] } else { &[64, 256, 1024, 4096, 65_536] };
        let seconds = if self.quick {
            self.seconds_per_cell.min(QUICK_SECONDS_PER_CELL)
        } else {
            self.seconds_per_cell
        };
        #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
        let duration = Duration::from_secs_f64(seconds / self.rounds as f64);
        Plan {
            rounds: self.rounds,
            duration: duration.max(Duration::from_millis(10)),
            sizes: or_all(&self.sizes, sizes),
            subjects: or_all(&self.subjects, Subject::value_variants()),
            scenarios: or_all(&self.scenarios, Scenario::value_variants()),
            ring_bytes: self.ring_bytes,
        }
    }
}

/// Names one cell of the table.
pub type Cell = (Scenario, usize, Subject);

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Nanoseconds of a bare round trip; none on one CPU.
    pub calibration_ns: Option<f64>,
    /// Median over the rounds, by cell and metric name.
    pub medians: BTreeMap<Cell, Vec<(&'static str, &'static str, f64)>>,
}

/// Runs `ring`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let measured = measure(&options.plan())?;
    let rows = rows(&measured);
    print_table(&measured);
    if let Some(path) = &options.json {
        let report = Report {
            calibration_ns: measured.calibration_ns.unwrap_or(0.0),
            machine,
            commit: machine::commit(),
            command: machine::command(),
            rows,
        };
        report.write(path)?;
    }
    Ok(())
}

/// Only the calibration, on threads of processes that are pinned for it and no longer.
pub fn calibrate() -> io::Result<Option<f64>> {
    let pinned = std::thread::spawn(|| {
        let (mut peer, first_ns) = start_pair()?;
        let mut calibrations_ns: Vec<f64> = first_ns.into_iter().collect();
        if first_ns.is_some() {
            for _ in 1..CALIBRATIONS_ALONE {
                calibrations_ns.push(peer.calibrate()?);
            }
        }
        Ok(over_the_run(&mut calibrations_ns))
    });
    pinned.join().unwrap_or_else(|_| Err(io::Error::other("the calibration panicked")))
}

/// The median of the calibrations of a run, with a warning where they differ too much to compare runs by.
fn over_the_run(calibrations_ns: &mut [f64]) -> Option<f64> {
    let median = median(calibrations_ns);
    let (least, most) = (*calibrations_ns.first()?, *calibrations_ns.last()?); // Sorted by now.
    println!("calibration over the run: median {median:.0} ns, {least:.0} to {most:.0} ns");
    if most > least * CALIBRATION_SPREAD_MAX {
        println!(
            "the machine changed its speed during the run: do not compare these figures with another run"
        );
    }
    Some(median)
}

/// The second process, and the calibration: the first line that a run prints. Pins this thread.
fn start_pair() -> io::Result<(Peer, Option<f64>)> {
    let cpus = machine::usable_cpus();
    let [first, second, ..] = cpus.as_slice() else {
        println!("calibration: not run (needs 2 CPUs); scenarios that spin are skipped");
        return Ok((Peer::start(None)?, None));
    };
    machine::pin(*first)?;
    let mut peer = Peer::start(Some(*second))?;
    let ns = peer.calibrate()?;
    println!("calibration: 64-byte round trip between two processes {ns:.0} ns");
    Ok((peer, Some(ns)))
}

/// Measures every cell once per round, all cells of a round before the next.
pub fn measure(plan: &Plan) -> io::Result<Measured> {
    let (mut peer, first_calibration_ns) = start_pair()?;
    let mut calibrations_ns: Vec<f64> = first_calibration_ns.into_iter().collect();
    let mut samples: BTreeMap<Cell, BTreeMap<&'static str, (&'static str, Vec<f64>)>> = BTreeMap::new();
    for _ in 0..plan.rounds {
        if first_calibration_ns.is_some() {
            // Again and again: a virtual machine can become several times slower within a run.
            calibrations_ns.push(peer.calibrate()?);
        }
        for &size_bytes in &plan.sizes {
            for &scenario in &plan.scenarios {
                if calibrations_ns.is_empty() && scenario != Scenario::RoundTripAsleep {
                    continue;
                }
                for &subject in &plan.subjects {
                    let duration_ms = u64::try_from(plan.duration.as_millis()).unwrap_or(u64::MAX);
                    let job = Job { subject, scenario, size_bytes, ring_bytes: plan.ring_bytes, duration_ms };
                    let metrics = metrics(&peer.run(job)?);
                    let cell = samples.entry((scenario, size_bytes, subject)).or_default();
                    for (metric, unit, value) in metrics {
                        cell.entry(metric).or_insert((unit, Vec::new())).1.push(value);
                    }
                }
            }
        }
    }
    let medians = samples.into_iter().map(|(cell, metrics)| {
        let of = |(metric, (unit, mut values)): (_, (_, Vec<f64>))| (metric, unit, median(&mut values));
        (cell, metrics.into_iter().map(of).collect())
    });
    Ok(Measured { calibration_ns: over_the_run(&mut calibrations_ns), medians: medians.collect() })
}

fn metrics(outcome: &Outcome) -> Vec<(&'static str, &'static str, f64)> {
    match outcome {
        Outcome::OneWay(rate) => vec![
            ("throughput_per_s", "msg/s", rate.throughput_per_s),
            ("window_p50_per_s", "msg/s", rate.window_p50_per_s),
        ],
        Outcome::RoundTrips(trips) => {
            #[expect(clippy::cast_precision_loss, reason = "a message count stays below 2^53")]
            let count = trips.latency_ns.len() as f64;
            let mut metrics = latency_metrics(&trips.latency_ns);
            metrics.push(("throughput_per_s", "msg/s", count / trips.total.as_secs_f64()));
            metrics
        }
    }
}

impl Measured {
    /// One figure.
    pub fn get(&self, cell: Cell, metric: &str) -> Option<f64> {
        self.medians.get(&cell)?.iter().find(|(name, _, _)| *name == metric).map(|(_, _, value)| *value)
    }
}

fn rows(measured: &Measured) -> Vec<Row> {
    let mut rows = Vec::new();
    for (&(scenario, size_bytes, subject), metrics) in &measured.medians {
        for &(metric, unit, value) in metrics {
            rows.push(Row {
                scenario: name(&scenario),
                subject: name(&subject),
                size_bytes: size_bytes as u64,
                metric: metric.to_owned(),
                unit: unit.to_owned(),
                value,
            });
        }
    }
    rows
}

fn print_table(measured: &Measured) {
    let mut table = Table::new(&[
        "scenario",
        "bytes",
        "subject",
        "p50",
        "p90",
        "p99",
        "p999",
        "max",
        "msg/s",
        "window p50",
        "of bare",
    ]);
    for &(scenario, size, subject) in measured.medians.keys() {
        let get = |metric| measured.get((scenario, size, subject), metric);
        let round_trip = matches!(scenario, Scenario::RoundTripAwake | Scenario::RoundTripAsleep);
        let compared = if round_trip { "p50" } else { "window_p50_per_s" };
        let bare = measured.get((scenario, size, Subject::Bare), compared);
        let ratio = get(compared).zip(bare).map(|(value, bare)| format!("{:.2}", value / bare));
        let mut cells = vec![name(&scenario), size.to_string(), name(&subject)];
        cells.extend(["p50", "p90", "p99", "p999", "max"].map(|metric| crate::table::ns(get(metric))));
        cells.push(crate::table::rate(get("throughput_per_s")));
        cells.push(crate::table::rate(get("window_p50_per_s")));
        cells.push(ratio.unwrap_or_default());
        table.push(cells);
    }
    print!("{table}");
}
