//! Subject `spawn`: from the request to a keeper until the agent's first words are in its ring.
//!
//! The keeper is the one beside the program `openclaw`, and this program plays the gateway: it sends the request, attaches to
//! the rings and waits for the hello. Agents are started one after the other, at first alone and then beside many that
//! live: native ones in a whole sandbox with limits, and, for comparison, without. Beside it: how long other programs take to
//! run `true` in namespaces.

mod fleet;
mod others;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
const ALIVE: &str = "0,500";
/// From the request to the first words, native agents.
const MEDIAN_TARGET_NS: f64 = 5e6;
const P99_TARGET_NS: f64 = 25e6;
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
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was found of one number of agents alive.
struct Found {
    alive: u64,
    start_all: Duration,
    starts: BTreeMap<&'static str, Histogram<u64>>,
    /// Private bytes of an agent, in the mean; none without any.
    agent_bytes: Option<f64>,
    keeper_bytes: f64,
}

/// Runs `spawn`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    let openclaw = match &options.openclaw {
        Some(path) => path.canonicalize()?,
        None => std::env::current_exe()?.with_file_name("openclaw"),
    };
    let kinds = options.kinds(&openclaw);
    let most = options.alive.iter().max().copied().unwrap_or(0);
    crate::sleepers::allow_files(256 + 8 * most)?;
    let mut all = Vec::new();
    for &alive in &options.alive {
        all.push(measure(&openclaw, &kinds, alive, options.count)?);
    }
    let mut rows = report(&all);
    rows.extend(others::measure(options.count.min(100))?);
    publish(options.json.as_deref(), machine, calibration_ns, rows)
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
        let mut kinds = vec![
            Kind { name: "native", argv: native.clone(), sandbox, limits },
            Kind { name: "native-bare", argv: native, sandbox: None, limits: Limits::default() },
        ];
        if let Some(command) = &self.hosted {
            let mut argv = vec![openclaw, "agent-host".into(), "stdio".into(), "--".into()];
            argv.extend(command.split_whitespace().map(str::to_owned));
            kinds.push(Kind { name: "hosted-bare", argv, sandbox: None, limits: Limits::default() });
        }
        kinds
    }
}

/// Starts each kind of agent so many times beside those that are alive.
fn measure(openclaw: &Path, kinds: &[Kind], alive: u64, count: u64) -> io::Result<Found> {
    let mut fleet = Fleet::start(openclaw)?;
    let started = Instant::now();
    for _ in 0..alive {
        fleet.begin(&kinds[0])?;
    }
    fleet.wait_for_all()?;
    let start_all = started.elapsed();
    let private = fleet.private_bytes()?;
    let keeper_bytes = fleet.keeper_bytes()?;
    let mut starts = BTreeMap::new();
    for kind in kinds {
        let mut histogram = new_histogram()?;
        for _ in 0..count {
            histogram.saturating_record(nanoseconds(fleet.start_and_end(kind)?));
        }
        starts.insert(kind.name, histogram);
    }
    fleet.end()?;
    Ok(Found { alive, start_all, starts, agent_bytes: private, keeper_bytes })
}

/// Prints the tables and targets, and gives the rows.
fn report(all: &[Found]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut table = Table::new(&["agent", "alive", "p50", "p90", "p99", "p999", "max"]);
    let mut targets = Table::new(&["targets", "value", "limit", ""]);
    let verdict = |met| if met { "met" } else { "missed" }.to_owned();
    for found in all {
        for (kind, histogram) in &found.starts {
            let metrics = latency_metrics(histogram);
            let mut line = vec![(*kind).to_owned(), found.alive.to_string()];
            line.extend(metrics.iter().map(|&(.., value)| ns(Some(value))));
            table.push(line);
            rows.extend(
                metrics.iter().map(|&(metric, unit, value)| row(kind, found.alive, metric, unit, value)),
            );
            let limits = [("p50", MEDIAN_TARGET_NS), ("p99", P99_TARGET_NS)];
            for (wanted, limit) in limits.into_iter().filter(|_| *kind == "native") {
                let value = metrics.iter().find(|found| found.0 == wanted).map_or(0.0, |found| found.2);
                targets.push(vec![
                    format!("native, {} alive, {wanted}", found.alive),
                    ns(Some(value)),
                    format!("<= {}", ns(Some(limit))),
                    verdict(value <= limit),
                ]);
            }
        }
        let alive = found.alive;
        rows.push(row("native", alive, "start_all", "ns", nanoseconds(found.start_all) as f64));
        rows.push(row("keeper", alive, "rss", "B", found.keeper_bytes));
        let sizes = [
            ("memory of an agent alone", found.agent_bytes, AGENT_TARGET_BYTES),
            ("memory of the keeper", Some(found.keeper_bytes), KEEPER_TARGET_BYTES),
        ];
        for (what, value, limit) in sizes {
            let Some(value) = value else { continue };
            let (text, limit_text) = (format!("{:.1} MB", value / 1e6), format!("<= {:.1} MB", limit / 1e6));
            targets.push(vec![format!("{what}, {alive} alive"), text, limit_text, verdict(value <= limit)]);
        }
        if let Some(bytes) = found.agent_bytes {
            rows.push(row("native", alive, "private", "B", bytes));
            println!(
                "{alive} agents, each with its first words heard: {:.0} ms",
                found.start_all.as_secs_f64() * 1e3
            );
        }
    }
    print!("{table}\n{targets}");
    rows
}

fn row(subject: &str, alive: u64, metric: &str, unit: &str, value: f64) -> Row {
    Row {
        scenario: format!("spawn-{alive}-alive"),
        subject: subject.to_owned(),
        size_bytes: 0,
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        value,
    }
}
