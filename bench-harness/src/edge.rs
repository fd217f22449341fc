//! Subject `edge`: what clients of the OpenClaw protocol meet, and what they cost.
//!
//! The gateway is the program `openclaw` with its keeper, its default settings and the built-in agent. Clients are one
//! thread of this process; where the machine has few CPUs they compete with the gateway, and the figures say so. Each
//! figure is the median over the rounds, or of all starts.
//!
//! | scenario | what is done |
//! |---|---|
//! | `health`, `status` | each connection asks, waits for the answer, asks again |
//! | `turn` | the same with `chat.send` to the built-in agent, until the event `final` |
//! | `burst` | connections that come at the same moment, each with one question |
//! | `start` | from the spawn of the gateway until a client has its `hello-ok`, in a directory that has been used |
//! | `memory` | of the gateway and its keeper when nobody has come yet |
//! | `idle` | connections that say nothing: their memory; all of them again after they were dropped, and after a `kill -9` |
//! | `hostile` | `health` alone, and beside clients of all kinds that mean harm |

mod calls;
mod client;
mod hostile;
mod idle;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::figures::{latency_metrics, median};
use crate::machine::Machine;
use crate::place::Place;
use crate::recover::client::kill;
use crate::recover::line::Line;
use crate::results::{Row, publish};
use crate::table::{Table, ns, rate};
use calls::{Answers, Asked};

const CONNECTIONS_MAX: u64 = 20_000;
/// Connections of the scenarios with many.
const MANY: usize = 50;
/// Connections that are honest beside the hostile ones.
const HONEST: usize = 10;
/// Connections that come at the same moment.
const BURST: usize = 500;
/// How long a gateway is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// What is wanted: scenario, subject, metric, the limit, and whether a larger value is better.
const TARGETS: [(&str, &str, &str, f64, bool); 13] = [
    ("health", "1 connection", "p50", 100e3, false),
    ("health", "50 connections", "throughput_per_s", 50e3, true),
    ("status", "1 connection", "p99", 200e3, false),
    ("burst", "500 connections", "refused", 0.0, false),
    ("start", "gateway", "p50", 50e6, false),
    ("memory", "gateway", "resident", 20e6, false),
    ("memory", "keeper", "resident", 20e6, false),
    ("idle", "10000 connections", "bytes_each", 16_384.0, false),
    ("idle", "20000 connections", "bytes_each", 16_384.0, false),
    ("idle", "10000 connections", "back", 5e9, false),
    ("idle", "10000 connections", "back_after_kill", 5e9, false),
    ("idle", "20000 connections", "back_after_kill", 5e9, false),
    ("hostile", "beside/alone", "p99", 2.0, false),
];

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The program that is the gateway. Default: `openclaw` beside this program.
    #[arg(long, value_name = "PATH")]
    openclaw: Option<PathBuf>,
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// How long calls are measured, in each round.
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connections that say nothing; several runs.
    #[arg(long, value_delimiter = ',', default_value = "10000,20000", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    idle: Vec<u64>,
    /// Hostile sockets that are opened and say nothing.
    #[arg(long, default_value_t = 2_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(0..=CONNECTIONS_MAX))]
    half_open: u64,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = ["calls", "burst", "start", "memory", "idle", "hostile"])]
    scenarios: Vec<String>,
    /// Where the state directories lie, on a disk. Default: beside this program.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Rows by scenario, subject and metric, with a value of every round.
#[derive(Default)]
struct Found(Vec<(&'static str, String, &'static str, &'static str, Vec<f64>)>);

impl Found {
    fn add(
        &mut self,
        scenario: &'static str,
        subject: &str,
        metric: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        let known = self.0.iter_mut().find(|row| row.0 == scenario && row.1 == subject && row.2 == metric);
        match known {
            Some(row) => row.4.push(value),
            None => self.0.push((scenario, subject.to_owned(), metric, unit, vec![value])),
        }
    }

    fn duration(&mut self, scenario: &'static str, subject: &str, metric: &'static str, took: Duration) {
        self.add(scenario, subject, metric, "ns", took.as_secs_f64() * 1e9);
    }

    fn answers(&mut self, scenario: &'static str, connections: usize, answers: &Answers) {
        let subject = subject_of(connections);
        for (metric, unit, value) in latency_metrics(&answers.latency) {
            self.add(scenario, &subject, metric, unit, value);
        }
        self.add(scenario, &subject, "throughput_per_s", "msg/s", answers.rate);
        self.add(scenario, &subject, "cpu_each", "us", answers.cpu_us);
    }

    fn value(&self, scenario: &str, subject: &str, metric: &str) -> Option<f64> {
        let row = self.0.iter().find(|row| row.0 == scenario && row.1 == subject && row.2 == metric)?;
        Some(median(&mut row.4.clone()))
    }
}

fn subject_of(connections: usize) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

/// Runs `edge`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate_if_possible();
    let openclaw = crate::place::openclaw(options.openclaw.as_deref())?;
    let place = Place::make(options.directory.as_deref())?;
    let most = options.idle.iter().copied().max().unwrap_or(0);
    let room = server::room_for(most);
    if room < most {
        println!("descriptors: this machine allows {room} connections, runs with more are left out");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut found = Found::default();
    LocalSet::new().block_on(&runtime, measure(&openclaw, &place, options, room, &mut found))?;
    publish(options.json.as_deref(), machine, calibration_ns, report(&found))
}

async fn measure(
    openclaw: &Path,
    place: &Place,
    options: &Options,
    room: u64,
    found: &mut Found,
) -> io::Result<()> {
    let wants = |scenario: &str| {
        options.scenarios.is_empty() || options.scenarios.iter().any(|wanted| wanted == scenario)
    };
    let state = place.next()?;
    std::fs::write(state.join("openclaw.json"), "{gateway: {auth: {mode: \"none\"}}}")?;
    for round in 0..=options.rounds {
        if wants("start") {
            let took = server::cold_start(openclaw, &state).await?;
            // The first one makes the files of the directory.
            let metric = if round == 0 { "first" } else { "p50" };
            found.duration("start", "gateway", metric, took);
        }
    }
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        let line = Line::start(openclaw, place.next()?, 1)?;
        if wants("memory") {
            sleep(SETTLE).await;
            measure_memory(&line, found)?;
        }
        if wants("calls") {
            measure_calls(&line, options, found).await?;
        }
        if wants("burst") {
            let (answered, took) = calls::burst(line.port(), BURST).await;
            #[expect(clippy::cast_precision_loss, reason = "connections are few")]
            found.add("burst", &subject_of(BURST), "refused", "connections", (BURST - answered) as f64);
            found.duration("burst", &subject_of(BURST), "all", took);
        }
        if wants("hostile") {
            measure_hostile(&line, options, found).await?;
        }
        line.end()?;
        if wants("idle") {
            for &connections in options.idle.iter().filter(|&&connections| connections <= room) {
                measure_idle(openclaw, place, usize::try_from(connections).unwrap_or(0), found).await?;
            }
        }
    }
    Ok(())
}

fn measure_memory(line: &Line, found: &mut Found) -> io::Result<()> {
    for (subject, process) in [("gateway", line.gateway()), ("keeper", line.keeper())] {
        let memory = server::memory(process)?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory stay below 2^53")]
        for (metric, bytes) in [("resident", memory.resident as f64), ("anonymous", memory.anonymous as f64)]
        {
            found.add("memory", subject, metric, "B", bytes);
        }
    }
    Ok(())
}

async fn measure_calls(line: &Line, options: &Options, found: &mut Found) -> io::Result<()> {
    let duration = Duration::from_secs(options.seconds);
    let processes: Vec<_> = [line.gateway(), line.keeper()]
        .into_iter()
        .chain(line.agents()?.into_iter().map(|agent| agent.process_id))
        .collect();
    for (scenario, asked) in
        [("health", Asked::Method("health")), ("status", Asked::Method("status")), ("turn", Asked::Turn)]
    {
        for connections in [1, MANY] {
            let answers = calls::measure(line.port(), &processes, asked, connections, duration).await?;
            found.answers(scenario, connections, &answers);
        }
    }
    Ok(())
}

async fn measure_hostile(line: &Line, options: &Options, found: &mut Found) -> io::Result<()> {
    let (port, gateway) = (line.port(), line.gateway());
    let duration = Duration::from_secs(options.seconds);
    let honest = || calls::measure(port, &[], Asked::Method("health"), HONEST, duration);
    let alone = honest().await?;
    let before = server::memory(gateway)?;
    let attack = hostile::Attack::start(port, usize::try_from(options.half_open).unwrap_or(0))?;
    sleep(SETTLE).await;
    let beside = honest().await?;
    let after = server::memory(gateway)?;
    attack.end();
    let mut p99 = [0.0; 2];
    for (index, (subject, answers)) in [("alone", &alone), ("beside", &beside)].into_iter().enumerate() {
        for (metric, unit, value) in latency_metrics(&answers.latency) {
            found.add("hostile", subject, metric, unit, value);
            if metric == "p99" {
                p99[index] = value;
            }
        }
    }
    found.add("hostile", "beside/alone", "p99", "ratio", p99[1] / p99[0].max(1.0));
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory stay below 2^53")]
    let grown = after.resident.saturating_sub(before.resident) as f64;
    found.add("hostile", "gateway", "grown", "B", grown);
    Ok(())
}

async fn measure_idle(
    openclaw: &Path,
    place: &Place,
    connections: usize,
    found: &mut Found,
) -> io::Result<()> {
    let mut line = Line::start(openclaw, place.next()?, 1)?;
    let gateway = line.gateway();
    let killing = || -> io::Result<Instant> { kill(gateway) };
    let idle = idle::measure(line.port(), gateway, connections, killing).await?;
    line.meet_next()?;
    line.end()?;
    let subject = subject_of(connections);
    found.add("idle", &subject, "bytes_each", "B", idle.bytes_each);
    found.duration("idle", &subject, "connected", idle.connected);
    found.duration("idle", &subject, "back", idle.back);
    found.duration("idle", &subject, "back_after_kill", idle.back_after_kill);
    Ok(())
}

/// Prints the tables, and gives the rows.
fn report(found: &Found) -> Vec<Row> {
    let mut table = Table::new(&["scenario", "of", "metric", "value", "least", "most"]);
    let mut rows = Vec::new();
    for (scenario, subject, metric, unit, values) in &found.0 {
        let value = median(&mut values.clone());
        let (least, most) =
            values.iter().fold((f64::MAX, 0.0_f64), |(low, high), &value| (low.min(value), high.max(value)));
        let cells = [value, least, most].map(|value| shown(unit, value));
        let names = [(*scenario).to_owned(), subject.clone(), (*metric).to_owned()];
        table.push(names.into_iter().chain(cells).collect());
        rows.push(Row {
            scenario: format!("edge-{scenario}"),
            subject: subject.clone(),
            size_bytes: 0,
            metric: (*metric).to_owned(),
            unit: (*unit).to_owned(),
            value,
        });
    }
    let mut targets = Table::new(&["targets", "value", "limit", ""]);
    for (scenario, subject, metric, limit, more) in TARGETS {
        let Some(value) = found.value(scenario, subject, metric) else { continue };
        let is_meant = |row: &&(&str, String, &str, &str, Vec<f64>)| {
            row.0 == scenario && row.1 == subject && row.2 == metric
        };
        let unit = found.0.iter().find(is_meant).map_or("", |row| row.3);
        let met = if more { value >= limit } else { value <= limit };
        targets.push(vec![
            format!("{scenario}, {subject}, {metric}"),
            shown(unit, value),
            format!("{} {}", if more { ">=" } else { "<=" }, shown(unit, limit)),
            if met { "met" } else { "missed" }.to_owned(),
        ]);
    }
    print!("{table}\n{targets}");
    rows
}

fn shown(unit: &str, value: f64) -> String {
    match unit {
        "ns" => ns(Some(value)),
        "msg/s" => rate(Some(value)),
        "B" if value >= 1e6 => format!("{:.1} MB", value / 1e6),
        "ratio" => format!("{value:.2}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of all rounds become one row each, and a target is that of its own row.
    #[test]
    fn rounds_become_rows() {
        let mut found = Found::default();
        for value in [3.0, 1.0, 2.0] {
            found.add("hostile", "beside/alone", "p99", "ratio", value);
        }
        found.duration("start", "gateway", "p50", Duration::from_millis(7));
        assert_eq!(found.value("hostile", "beside/alone", "p99"), Some(2.0));
        assert_eq!(found.value("start", "gateway", "p50"), Some(7e6));
        assert_eq!(found.value("start", "keeper", "p50"), None);
        let rows = report(&found);
        let names: Vec<_> = rows.iter().map(|row| (row.scenario.as_str(), row.metric.as_str())).collect();
        assert_eq!(names, [("edge-hostile", "p99"), ("edge-start", "p50")]);
    }
}
