//! Subject `ring`: two processes on two CPUs, over shared memory and over the kernel's streams.

#[cfg(feature = "peers")]
mod array_queue;
pub mod bare;
#[cfg(feature = "peers")]
mod byte_queue;
pub mod endpoint;
mod futex;
#[cfg(feature = "peers")]
mod iceoryx;
mod in_process;
mod job;
pub mod linked;
pub mod peer;
mod raw_ring;
mod report;
mod stream;
mod subject;
mod syscalls;
mod targets;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::figures::median;
use crate::machine::{self, Machine};
use crate::results::Report;
use endpoint::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN};
use job::Job;
use peer::Peer;

pub use subject::{Scenario, Subject, name};

const ROUNDS_MAX: u64 = 1000;
/// How many times slower the slowest calibration of a run may be than the fastest without a warning.
const CALIBRATION_SPREAD_MAX: f64 = 1.5;
/// The most messages of a cell: more than any machine carries in its time.
const MESSAGES_MAX: u64 = 1 << 40;
const CALIBRATIONS_ALONE: usize = 5;
const QUICK_SECONDS_PER_CELL: f64 = 0.15;

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
    /// Subjects. Default: bare, shm-transport, unix-stream and pipe.
    #[arg(long, value_enum, value_delimiter = ',')]
    subjects: Vec<Subject>,
    /// All subjects, also those of other projects; and at the end the targets, met or missed.
    #[arg(long, conflicts_with = "subjects")]
    peers: bool,
    /// Afterwards, count the system calls of a message while both sides are awake (needs strace).
    #[arg(long)]
    syscalls: bool,
    /// End each cell after this many messages, if its time is not over before.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=MESSAGES_MAX))]
    messages: Option<u64>,
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

pub fn parse_seconds(text: &str) -> Result<f64, String> {
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

pub fn parse_ring_bytes(text: &str) -> Result<usize, String> {
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
    /// After how many messages a cell ends before its time.
    pub messages_max: u64,
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
            subjects: or_all(
                &self.subjects,
                if self.peers { Subject::value_variants() } else { &Subject::FEW },
            ),
            scenarios: or_all(&self.scenarios, Scenario::value_variants()),
            ring_bytes: self.ring_bytes,
            messages_max: self.messages.unwrap_or(MESSAGES_MAX),
        }
    }
}

/// Names one cell of the table.
pub type Cell = (Scenario, usize, Subject);

/// One metric of a cell.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// Its name.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Its value in each round.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// The median over the rounds.
    pub fn median(&self) -> f64 {
        median(&mut self.rounds.clone())
    }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Nanoseconds of a bare round trip; none on one CPU.
    pub calibration_ns: Option<f64>,
    /// All figures, by cell.
    pub cells: BTreeMap<Cell, Vec<Figure>>,
}

impl Measured {
    fn figure(&self, cell: Cell, metric: &str) -> Option<&Figure> {
        self.cells.get(&cell)?.iter().find(|figure| figure.metric == metric)
    }

    /// One figure, the median over the rounds.
    pub fn get(&self, cell: Cell, metric: &str) -> Option<f64> {
        self.figure(cell, metric).map(Figure::median)
    }

    /// How many times the one cell is the other: the median over the quotients of the rounds, since the cells of
    /// one round have met the same state of the machine.
    pub fn ratio(&self, cell: Cell, other: Cell, metric: &str) -> Option<f64> {
        let (figure, other) = (self.figure(cell, metric)?, self.figure(other, metric)?);
        let mut quotients: Vec<f64> = figure.rounds.iter().zip(&other.rounds).map(|(a, b)| a / b).collect();
        Some(median(&mut quotients))
    }
}

/// Runs `ring`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let plan = options.plan();
    let measured = measure(&plan)?;
    report::print_tables(&measured);
    let mut rows = report::rows(&measured);
    if options.syscalls {
        rows.extend(syscalls::count(&plan)?);
    }
    if options.peers {
        targets::print(&measured);
    }
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

/// The same for a run whose own figures need no two CPUs: where they are too crowded for it, that is said, and the run goes on.
pub fn calibrate_if_possible() -> Option<f64> {
    calibrate().unwrap_or_else(|error| {
        println!("calibration: not measured ({error}); do not compare these figures with another run");
        None
    })
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
    let cells = plan.cells(first_calibration_ns.is_some());
    let mut figures: BTreeMap<Cell, Vec<Figure>> = BTreeMap::new();
    for _ in 0..plan.rounds {
        if first_calibration_ns.is_some() {
            // Again and again: a virtual machine can become several times slower within a run.
            calibrations_ns.push(peer.calibrate()?);
        }
        for &(scenario, size_bytes, subject) in &cells {
            let job = Job {
                subject,
                scenario,
                size_bytes,
                ring_bytes: plan.ring_bytes,
                duration_ms: u64::try_from(plan.duration.as_millis()).unwrap_or(u64::MAX),
                messages_max: plan.messages_max,
            };
            let outcome = peer.run(job).map_err(|error| {
                let cell = format!("{} {} {size_bytes} bytes", name(&scenario), name(&subject));
                io::Error::other(format!("{cell}: {error}"))
            })?;
            add_round(figures.entry((scenario, size_bytes, subject)).or_default(), &outcome.metrics());
        }
    }
    Ok(Measured { calibration_ns: over_the_run(&mut calibrations_ns), cells: figures })
}

fn add_round(figures: &mut Vec<Figure>, metrics: &[(&'static str, &'static str, f64)]) {
    for &(metric, unit, value) in metrics {
        match figures.iter_mut().find(|figure| figure.metric == metric) {
            Some(figure) => figure.rounds.push(value),
            None => figures.push(Figure { metric, unit, rounds: vec![value] }),
        }
    }
}

impl Plan {
    /// What is measured in each round, in this order. Says what is left out, and why.
    fn cells(&self, spinning: bool) -> Vec<Cell> {
        let mut cells = Vec::new();
        let mut obstacles = std::collections::BTreeSet::new();
        for &size_bytes in &self.sizes {
            for &scenario in &self.scenarios {
                if !spinning && scenario != Scenario::RoundTripAsleep {
                    continue;
                }
                for &subject in &self.subjects {
                    match subject.obstacle(scenario, size_bytes) {
                        Some(why) => {
                            obstacles.insert((subject, why));
                        }
                        None => cells.push((scenario, size_bytes, subject)),
                    }
                }
            }
        }
        for (subject, why) in obstacles {
            println!("{}: some cells are left out, {why}", name(&subject));
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ratio is the median of the quotients, not the quotient of the medians.
    #[test]
    fn ratios_are_within_rounds() {
        let cell = |subject| (Scenario::OneWay, 64, subject);
        let figure = |rounds: &[f64]| vec![Figure { metric: "p50", unit: "ns", rounds: rounds.to_vec() }];
        let cells = [
            (cell(Subject::Bare), figure(&[1.0, 10.0, 2.0])),
            (cell(Subject::Pipe), figure(&[3.0, 30.0, 80.0])),
        ];
        let measured = Measured { calibration_ns: None, cells: cells.into_iter().collect() };
        assert_eq!(measured.ratio(cell(Subject::Pipe), cell(Subject::Bare), "p50"), Some(3.0));
        assert_eq!(measured.ratio(cell(Subject::Pipe), cell(Subject::UnixStream), "p50"), None);
        assert_eq!(measured.get(cell(Subject::Pipe), "p50"), Some(30.0));
    }

    /// On one CPU nothing spins, and a cell with an obstacle is left out.
    #[test]
    fn cells_without_a_way_are_left_out() {
        let plan = Plan {
            rounds: 1,
            duration: Duration::from_millis(10),
            sizes: vec![64],
            subjects: vec![Subject::Bare, Subject::Futex],
            scenarios: vec![Scenario::RoundTripAwake, Scenario::RoundTripAsleep],
            ring_bytes: 1 << 18,
            messages_max: MESSAGES_MAX,
        };
        let asleep = [Subject::Bare, Subject::Futex].map(|subject| (Scenario::RoundTripAsleep, 64, subject));
        assert_eq!(plan.cells(false), asleep);
        let awake = (Scenario::RoundTripAwake, 64, Subject::Bare);
        assert_eq!(plan.cells(true), [&[awake][..], &asleep].concat());
    }
}
