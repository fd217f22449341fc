//! Subject `spawn`: from the request to a keeper until the agent's first words are in its ring.
//!
//! The keeper is the one beside the program `openclaw`, and this program plays the gateway: it sends the request, attaches to
//! the rings and waits for the hello. Agents are started one after the other, at first alone and then beside many that
//! live: native ones in a whole sandbox with limits, and, for comparison, without. With `--gateway-mib` this program, from
//! which the keeper is started, is as large as a gateway may become. A warm spare is an agent that has said its first words
//! and sleeps, and is asked for the first time. Beside it: how long other programs take to run `true` in namespaces.

mod fleet;
mod others;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adapters::agent::host::SMALL_PAGES;
use hdrhistogram::Histogram;
use keeper::control::Limits;
use keeper::sandbox::spec::{Bind, SandboxSpec};

use crate::figures::latency_metrics;
use crate::machine::Machine;
use crate::results::{Row, publish};
use crate::ring::endpoint::{nanoseconds, new_histogram};
use crate::table::{Table, ns};
use fleet::{Fleet, Kind};

const COUNT_MAX: u64 = 100_000;
const ALIVE_MAX: u64 = 10_000;
const GATEWAY_MIB_MAX: u64 = 65_536;
const ALIVE: &str = "0,500,1000";
/// The most spares that are asked in one cell.
const SPARES_MAX: u64 = 100;
/// What is measured, by name: a native agent that is started, and one that is asked.
const NATIVE: &str = "native";
const SPARE: &str = "warm-spare";
/// From the request to the first words, native agents.
const MEDIAN_TARGET_NS: f64 = 5e6;
const P99_TARGET_NS: f64 = 25e6;
/// From the need until a warm spare has replied.
const SPARE_TARGET_NS: f64 = 1e6;
/// Memory of an agent that nobody shares, and of the keeper.
const AGENT_TARGET_BYTES: f64 = 3e6;
const KEEPER_TARGET_BYTES: f64 = 5e6;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The gateway beside which the keeper lies that is measured. Default: `openclaw` beside this program.
    #[arg(long, value_name = "PATH")]
    openclaw: Option<PathBuf>,
    /// A native agent, by its path. Default: the built-in one of `openclaw`.
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Also a host with this command, split at white space, such as "python3 examples/streaming_agent.py".
    #[arg(long, value_name = "COMMAND")]
    hosted: Option<String>,
    /// Starts for each cell.
    #[arg(long, default_value_t = 200, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX))]
    count: u64,
    /// Native agents that live meanwhile.
    #[arg(long, value_delimiter = ',', default_value = ALIVE, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(0..=ALIVE_MAX))]
    alive: Vec<u64>,
    /// MiB of memory that the process holds which starts the keeper.
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=GATEWAY_MIB_MAX))]
    gateway_mib: Vec<u64>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was found of one number of agents alive, beside a gateway of one size.
struct Found {
    alive: u64,
    gateway_mib: u64,
    start_all: Duration,
    /// By what is started, or asked.
    latencies: BTreeMap<&'static str, Histogram<u64>>,
    /// Those that have replied, of those that are alive.
    answered: u64,
    /// Private bytes of an agent, in the mean; none without any.
    agent_bytes: Option<f64>,
    keeper_rss_bytes: f64,
    keeper_pss_bytes: f64,
}

/// Runs `spawn`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate_if_possible();
    let openclaw = crate::place::openclaw(options.openclaw.as_deref())?;
    let kinds = options.kinds(&openclaw);
    let most = options.alive.iter().max().copied().unwrap_or(0);
    crate::sleepers::allow_files(256 + 8 * (most + SPARES_MAX))?;
    let mut all = Vec::new();
    for &gateway_mib in &options.gateway_mib {
        let ballast = touched(gateway_mib);
        for &alive in &options.alive {
            all.push(measure(&openclaw, &kinds, alive, gateway_mib, options.count)?);
        }
        // Held until here.
        drop(std::hint::black_box(ballast));
    }
    let mut rows = report(&all);
    rows.extend(others::measure(options.count.min(100))?);
    publish(options.json.as_deref(), machine, calibration_ns, rows)
}

/// So much memory, each page of it written.
fn touched(mib: u64) -> Vec<u8> {
    vec![1; usize::try_from(mib << 20).unwrap_or(0)]
}

impl Options {
    fn kinds(&self, openclaw: &Path) -> Vec<Kind> {
        let openclaw = openclaw.display().to_string();
        let native = match &self.agent {
            Some(agent) => {
                vec![std::path::absolute(agent).unwrap_or_else(|_| agent.clone()).display().to_string()]
            }
            None => vec![openclaw.clone(), "agent-host".into(), "echo".into()],
        };
        // All of a sandbox, with limits, and what it must see to load its program.
        let program = PathBuf::from(&native[0]);
        let binds = vec![Bind { source: program.clone(), target: program, writable: false }];
        let sandbox = Some(SandboxSpec { binds, require: true, ..SandboxSpec::default() });
        let limits = Limits { memory_bytes: Some(512 << 20), processes: Some(64), ..Limits::default() };
        let (name, value) = SMALL_PAGES;
        let environment = vec![(name.to_owned(), value.to_owned())];
        let bare = |name, argv| {
            let environment = environment.clone();
            Kind { name, argv, environment, sandbox: None, limits: Limits::default() }
        };
        let mut kinds = vec![
            Kind { name: NATIVE, argv: native.clone(), environment: environment.clone(), sandbox, limits },
            bare("native-bare", native),
        ];
        if let Some(command) = &self.hosted {
            let mut argv = vec![openclaw, "agent-host".into(), "stdio".into(), "--".into()];
            argv.extend(command.split_whitespace().map(str::to_owned));
            kinds.push(bare("hosted-bare", argv));
        }
        kinds
    }
}

/// Starts each kind of agent so many times beside those that are alive.
fn measure(openclaw: &Path, kinds: &[Kind], alive: u64, gateway_mib: u64, count: u64) -> io::Result<Found> {
    let mut fleet = Fleet::start(openclaw)?;
    let started = Instant::now();
    for _ in 0..alive {
        fleet.begin(&kinds[0])?;
    }
    fleet.wait_for_all()?;
    let start_all = started.elapsed();
    let agent_bytes = fleet.private_bytes()?;
    let [keeper_rss_bytes, keeper_pss_bytes] = fleet.keeper_bytes()?;
    let mut latencies = BTreeMap::new();
    for kind in kinds {
        let mut histogram = new_histogram()?;
        for _ in 0..count {
            histogram.saturating_record(nanoseconds(fleet.start_and_end(kind)?));
        }
        latencies.insert(kind.name, histogram);
    }
    latencies.insert(SPARE, ask_spares(&mut fleet, &kinds[0], count.min(SPARES_MAX))?);
    let mut answered = 0;
    for instance in fleet.instances() {
        fleet.ask(instance)?;
        answered += 1;
    }
    fleet.end()?;
    Ok(Found {
        alive,
        gateway_mib,
        start_all,
        latencies,
        answered,
        agent_bytes,
        keeper_rss_bytes,
        keeper_pss_bytes,
    })
}

/// Starts so many spares, and asks each once when all of them sleep.
fn ask_spares(fleet: &mut Fleet, kind: &Kind, count: u64) -> io::Result<Histogram<u64>> {
    let spares: Vec<u64> = (0..count).map(|_| fleet.begin(kind)).collect::<io::Result<_>>()?;
    fleet.wait_for_all()?;
    let mut histogram = new_histogram()?;
    for &spare in &spares {
        histogram.saturating_record(nanoseconds(fleet.ask(spare)?));
    }
    spares.into_iter().try_for_each(|spare| fleet.end_one(spare))?;
    Ok(histogram)
}

/// Prints the tables and targets, and gives the rows.
fn report(all: &[Found]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut table = Table::new(&["agent", "alive", "gateway", "p50", "p90", "p99", "p999", "max"]);
    let mut targets = Table::new(&["targets", "value", "limit", ""]);
    for found in all {
        for (kind, histogram) in &found.latencies {
            let metrics = latency_metrics(histogram);
            let mut line =
                vec![(*kind).to_owned(), found.alive.to_string(), format!("{} MiB", found.gateway_mib)];
            line.extend(metrics.iter().map(|&(.., value)| ns(Some(value))));
            table.push(line);
            rows.extend(metrics.iter().map(|&(metric, unit, value)| found.row(kind, metric, unit, value)));
            let limits = match *kind {
                NATIVE => [("p50", MEDIAN_TARGET_NS), ("p99", P99_TARGET_NS)],
                SPARE => [("p50", SPARE_TARGET_NS), ("p99", SPARE_TARGET_NS)],
                _ => continue,
            };
            for (wanted, limit) in limits {
                let value = metrics.iter().find(|metric| metric.0 == wanted).map_or(0.0, |metric| metric.2);
                targets.push(vec![
                    format!("{kind}, {}, {wanted}", found.beside()),
                    ns(Some(value)),
                    format!("<= {}", ns(Some(limit))),
                    verdict(value <= limit),
                ]);
            }
        }
        rows.extend(found.report_sizes(&mut targets));
    }
    print!("{table}\n{targets}");
    rows
}

fn verdict(met: bool) -> String {
    if met { "met" } else { "missed" }.to_owned()
}

impl Found {
    fn beside(&self) -> String {
        match self.gateway_mib {
            0 => format!("{} alive", self.alive),
            mib => format!("{} alive, gateway of {mib} MiB", self.alive),
        }
    }

    /// Memory, and what concerns all that are alive.
    fn report_sizes(&self, targets: &mut Table) -> Vec<Row> {
        let mut rows = vec![
            self.row("keeper", "rss", "B", self.keeper_rss_bytes),
            self.row("keeper", "pss", "B", self.keeper_pss_bytes),
        ];
        let sizes = [
            ("memory of an agent alone", self.agent_bytes, AGENT_TARGET_BYTES),
            ("memory of the keeper", Some(self.keeper_rss_bytes), KEEPER_TARGET_BYTES),
        ];
        for (what, value, limit) in sizes {
            let Some(value) = value else { continue };
            let (text, limit_text) = (format!("{:.1} MB", value / 1e6), format!("<= {:.1} MB", limit / 1e6));
            targets.push(vec![
                format!("{what}, {}", self.beside()),
                text,
                limit_text,
                verdict(value <= limit),
            ]);
        }
        if let Some(bytes) = self.agent_bytes {
            rows.push(self.row(NATIVE, "private", "B", bytes));
            rows.push(self.row(NATIVE, "start_all", "ns", nanoseconds(self.start_all) as f64));
            #[expect(clippy::cast_precision_loss, reason = "agents are few")]
            rows.push(self.row(NATIVE, "answered", "agents", self.answered as f64));
            let milliseconds = self.start_all.as_secs_f64() * 1e3;
            println!(
                "{} agents, each with its first words heard: {milliseconds:.0} ms; {} have replied when asked",
                self.alive, self.answered
            );
        }
        rows
    }

    fn row(&self, subject: &str, metric: &str, unit: &str, value: f64) -> Row {
        let scenario = match self.gateway_mib {
            0 => format!("spawn-{}-alive", self.alive),
            mib => format!("spawn-{}-alive-gateway-{mib}-mib", self.alive),
        };
        Row {
            scenario,
            subject: subject.to_owned(),
            size_bytes: 0,
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            value,
        }
    }
}
