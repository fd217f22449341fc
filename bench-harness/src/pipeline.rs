//! Subject `engine`: one shard with its driver, the journal's thread and an agent's thread, under the load of an edge.
//!
//! All of it is as the gateway wires it, in one process: rings between edge, shard and journal, the segments of an agent
//! between shard and agent. What is missing is the edge's sockets and another process for the agent.

mod load;
mod threads;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use engine::driver::{self, Choice, Runtime};
use shm_transport::envelope::DurabilityClass;

use crate::figures::{latency_metrics, median};
use crate::machine::Machine;
use crate::place::Place;
use crate::results::{Row, publish};
use crate::ring::name;
use crate::table::{Table, ns, rate};
use load::{Edge, Outcome};
use threads::Threads;

const ROUNDS_MAX: u64 = 1000;
const CONTENT_BYTES: usize = 256;
const WINDOW_MAX: u32 = 16_384;
const IDLE_AGENTS_MAX: i64 = 1000;
/// Sessions of the load that comes at a steady rate.
const OPEN_PLACES: u32 = 16_384;

/// What runs the shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum Driver {
    /// glommio on io_uring.
    Uring,
    /// tokio on epoll.
    Epoll,
}

/// How well messages are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum Class {
    /// Acknowledged when the kernel has them.
    Memory,
    /// Acknowledged when the disk has them.
    Durable,
}

impl Class {
    fn durability(self) -> DurabilityClass {
        match self {
            Self::Memory => DurabilityClass::Memory,
            Self::Durable => DurabilityClass::Durable,
        }
    }

    /// Messages a second and p99 at half load that are wanted.
    fn targets(self) -> (f64, f64) {
        match self {
            Self::Memory => (1e6, 100e3),
            Self::Durable => (1e5, 20e6),
        }
    }
}

/// How messages come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Load {
    /// So many are on their way; each reply is followed by the next message.
    Window(u32),
    /// At half of the highest rate of the windows of the same round, whatever becomes of them.
    HalfOfPeak,
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::Window(window) => format!("engine-window-{window}"),
            Self::HalfOfPeak => "engine-half-of-peak".to_owned(),
        }
    }
}

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; every cell is measured once in each, and the median over the rounds is reported.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// Seconds for each cell, over all rounds together.
    #[arg(long, default_value_t = 6.0, value_name = "SECONDS", value_parser = crate::ring::parse_seconds)]
    seconds_per_cell: f64,
    /// What runs the shard. Default: each that the machine allows.
    #[arg(long, value_enum, value_delimiter = ',')]
    driver: Vec<Driver>,
    /// How well messages are kept. Default: both.
    #[arg(long, value_enum, value_delimiter = ',')]
    class: Vec<Class>,
    /// Messages on their way at once; the largest stands for as many as there can be.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024,8192", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(WINDOW_MAX)))]
    window: Vec<u32>,
    /// Agents that are attached and never asked.
    #[arg(long, default_value_t = 0, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=IDLE_AGENTS_MAX))]
    idle_agents: u32,
    /// Where the journal's files are made, and removed. Default: beside this program.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

type Cell = (Class, Driver, Load);
/// By metric, with its unit: the value of each round.
type Figures = BTreeMap<&'static str, (&'static str, Vec<f64>)>;

/// Runs `engine`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    let place = Place::make(options.directory.as_deref())?;
    let drivers = options.drivers();
    let classes = if options.class.is_empty() { Class::value_variants() } else { &options.class };
    crate::sleepers::allow_files(64 + 8 * u64::from(options.idle_agents))?;
    let mut cells = BTreeMap::<Cell, Figures>::new();
    for _ in 0..options.rounds {
        for &class in classes {
            for &driver in &drivers {
                one_round(options, &place, class, driver, &mut cells)?;
            }
        }
    }
    let rows = report(&cells, options.idle_agents, &place.file_system()?);
    publish(options.json.as_deref(), machine, calibration_ns, rows)
}

impl Options {
    /// The chosen drivers, without those that the machine refuses.
    fn drivers(&self) -> Vec<Driver> {
        let chosen = if self.driver.is_empty() { Driver::value_variants() } else { &self.driver };
        let allowed = |driver: &Driver| match driver {
            Driver::Epoll => true,
            Driver::Uring => match driver::choose(Choice::Uring) {
                Ok(_) => true,
                Err(error) => {
                    println!("uring: left out, {error}");
                    false
                }
            },
        };
        chosen.iter().copied().filter(allowed).collect()
    }
}

/// All loads of one class and driver, each on threads and files of its own.
fn one_round(
    options: &Options,
    place: &Place,
    class: Class,
    driver: Driver,
    cells: &mut BTreeMap<Cell, Figures>,
) -> io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
    let duration = Duration::from_secs_f64(options.seconds_per_cell / options.rounds as f64);
    let duration = duration.max(Duration::from_millis(50));
    let runtime = match driver {
        Driver::Uring => Runtime::Uring,
        Driver::Epoll => Runtime::Epoll,
    };
    let mut peak_per_s = 0.0f64;
    for load in options.window.iter().map(|&window| Load::Window(window)).chain([Load::HalfOfPeak]) {
        let directory = place.next()?;
        let mut threads = Threads::start(runtime, options.idle_agents, &directory)?;
        let places = if let Load::Window(window) = load { window } else { OPEN_PLACES };
        let mut edge = Edge::new(&mut threads, places, class.durability(), CONTENT_BYTES);
        edge.prime()?;
        let outcome = match load {
            Load::Window(_) => edge.closed(duration)?,
            Load::HalfOfPeak => edge.open(peak_per_s / 2.0, duration)?,
        };
        threads.end()?;
        std::fs::remove_dir_all(directory)?;
        peak_per_s = peak_per_s.max(outcome.per_s);
        add(cells.entry((class, driver, load)).or_default(), &outcome);
    }
    Ok(())
}

fn add(figures: &mut Figures, outcome: &Outcome) {
    let mut push = |metric, unit, value| figures.entry(metric).or_insert((unit, Vec::new())).1.push(value);
    for (metric, unit, value) in latency_metrics(&outcome.latency_ns) {
        push(metric, unit, value);
    }
    push("throughput_per_s", "msg/s", outcome.per_s);
    if !outcome.late_ns.is_empty() {
        let late_ns = latency_metrics(&outcome.late_ns);
        push(
            "sent_late_p99",
            "ns",
            late_ns.iter().find(|found| found.0 == "p99").map_or(0.0, |found| found.2),
        );
    }
}

/// Prints the table and the targets, and gives the rows.
fn report(cells: &BTreeMap<Cell, Figures>, idle_agents: u32, file_system: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let titles = ["class", "driver", "load", "msg/s", "p50", "p90", "p99", "p999", "max", "sent late p99"];
    let mut table = Table::new(&titles);
    let at =
        |figures: &Figures, metric: &str| figures.get(metric).map(|(_, rounds)| median(&mut rounds.clone()));
    for ((class, driver, load), figures) in cells {
        let idle = if idle_agents > 0 { format!("-{idle_agents}-idle-agents") } else { String::new() };
        let subject = format!("{}-{}-{file_system}{idle}", name(driver), name(class));
        let mut line = vec![name(class), name(driver), load.name(), rate(at(figures, "throughput_per_s"))];
        let latencies = ["p50", "p90", "p99", "p999", "max", "sent_late_p99"];
        line.extend(latencies.map(|metric| ns(at(figures, metric))));
        table.push(line);
        for (metric, (unit, rounds)) in figures {
            rows.push(Row {
                scenario: load.name(),
                subject: subject.clone(),
                size_bytes: CONTENT_BYTES as u64,
                metric: (*metric).to_owned(),
                unit: (*unit).to_owned(),
                value: median(&mut rounds.clone()),
            });
        }
    }
    print!("{table}");
    let mut table = Table::new(&["targets", "value", "limit", ""]);
    let verdict = |met| if met { "met" } else { "missed" }.to_owned();
    let mut subjects: Vec<_> = cells.keys().map(|&(class, driver, _)| (class, driver)).collect();
    subjects.dedup();
    for (class, driver) in subjects {
        let (rate_wanted, p99_wanted) = class.targets();
        let of_both = cells.iter().filter(|((c, d, _), _)| (*c, *d) == (class, driver));
        let peak = of_both.filter_map(|(_, figures)| at(figures, "throughput_per_s")).reduce(f64::max);
        let p99 = cells.get(&(class, driver, Load::HalfOfPeak)).and_then(|figures| at(figures, "p99"));
        let what = format!("{} {}", name(&class), name(&driver));
        table.push(vec![
            format!("{what}: messages a second"),
            rate(peak),
            format!(">= {}", rate(Some(rate_wanted))),
            verdict(peak.is_some_and(|peak| peak >= rate_wanted)),
        ]);
        table.push(vec![
            format!("{what}: p99 at half of that"),
            ns(p99),
            format!("< {}", ns(Some(p99_wanted))),
            verdict(p99.is_some_and(|p99| p99 < p99_wanted)),
        ]);
    }
    print!("\n{table}");
    rows
}
