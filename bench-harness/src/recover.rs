//! Subject `recover`: from just before a `kill -9` until somebody serves again.
//!
//! The gateway is the program `openclaw`, with its keeper and its default settings, and agents that sleep. Killed is one
//! native agent after the other, each once, since the second death within a window is answered later on purpose. Then the
//! gateway: for the same reason each round has a gateway, a keeper and agents of its own, and one kill.
//!
//! What is asked of a killed agent is sent in an open loop, every millisecond in a session of its own, from the moment its
//! process is dead: a message that is unlucky keeps no other one waiting. The client of a killed gateway connects again and
//! again until it is let in, and sends one message.

pub mod client;
pub mod line;

use std::io;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::figures::latency_metrics;
use crate::machine::Machine;
use crate::place::Place;
use crate::results::{Row, publish};
use crate::ring::endpoint::{nanoseconds, new_histogram};
use crate::table::{Table, ns};
use client::Client;
use line::{Line, NATIVE_MAX};

const AGENTS_MAX: u64 = 2_000;
const ROUNDS_MAX: u64 = 1_000;
/// From the kill until the replacement of an agent has replied.
const AGENT_TARGETS_NS: [(&str, f64); 2] = [("p50", 20e6), ("p99", 250e6)];
/// From the kill until the next gateway has acknowledged a message.
const GATEWAY_TARGETS_NS: [(&str, f64); 2] = [("p50", 300e6), ("p99", 1e9)];

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The program that is the gateway. Default: `openclaw` beside this program.
    #[arg(long, value_name = "PATH")]
    openclaw: Option<PathBuf>,
    /// Agents that live meanwhile: native ones as far as a pool goes, beyond that hosts of `sleep`.
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=AGENTS_MAX))]
    agents: u64,
    /// The most agents to kill, each once.
    #[arg(long, default_value_t = 200, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=NATIVE_MAX))]
    kills: u64,
    /// Gateways to kill, each with agents of its own.
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// Where the state directories lie, on a disk. Default: beside this program.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was found.
struct Found {
    agents: u64,
    /// Until the replacement of a killed agent has replied.
    agent: Histogram<u64>,
    /// Until the gateway after a killed one has acknowledged a message.
    acknowledged: Histogram<u64>,
    /// Until an agent has replied to it.
    replied: Histogram<u64>,
    /// Agents that had another process afterwards, or none, in all rounds.
    lost: u64,
}

/// Runs `recover`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate_if_possible();
    let openclaw = crate::place::openclaw(options.openclaw.as_deref())?;
    let place = Place::make(options.directory.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(measure(&openclaw, &place, options))?;
    publish(options.json.as_deref(), machine, calibration_ns, report(&found))
}

async fn measure(openclaw: &Path, place: &Place, options: &Options) -> io::Result<Found> {
    let mut found = Found {
        agents: options.agents,
        agent: new_histogram()?,
        acknowledged: new_histogram()?,
        replied: new_histogram()?,
        lost: 0,
    };
    let line = Line::start(openclaw, place.next()?, options.agents)?;
    let mut client = Client::connect(line.port()).await?;
    let kills = usize::try_from(options.kills).unwrap_or(usize::MAX);
    for agent in line.agents()?.into_iter().filter(line::Agent::is_native).take(kills) {
        let took = client.outlive_agent(&agent.name, agent.process_id).await?;
        found.agent.saturating_record(nanoseconds(took));
    }
    println!("{} agents killed beside {}", found.agent.len(), options.agents);
    line.end()?;
    for round in 1..=options.rounds {
        let mut line = Line::start(openclaw, place.next()?, options.agents)?;
        let before = line.agents()?;
        let client = Client::connect(line.port()).await?;
        let times = client.outlive_gateway(line.port(), line.gateway()).await?;
        found.acknowledged.saturating_record(nanoseconds(times.acknowledged));
        found.replied.saturating_record(nanoseconds(times.replied));
        line.meet_next()?;
        let after = line.agents()?;
        let lost = before.iter().filter(|agent| !after.contains(agent)).count() as u64;
        found.lost += lost;
        let acknowledged = ns(Some(times.acknowledged.as_secs_f64() * 1e9));
        println!("gateway {round} of {}: {acknowledged}, {lost} agents lost", options.rounds);
        line.end()?;
    }
    Ok(found)
}

/// Prints the tables and targets, and gives the rows.
fn report(found: &Found) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut table = Table::new(&["kill -9 of", "until", "times", "p50", "p90", "p99", "p999", "max"]);
    let mut targets = Table::new(&["targets", "value", "limit", ""]);
    let verdict = |met| if met { "met" } else { "missed" }.to_owned();
    let beside = |killed: &str| format!("recover-{killed}-{}-agents", found.agents);
    let cells: [(_, _, _, &[(&str, f64)]); 3] = [
        ("agent", "replied", &found.agent, &AGENT_TARGETS_NS),
        ("gateway", "acknowledged", &found.acknowledged, &GATEWAY_TARGETS_NS),
        ("gateway", "replied", &found.replied, &[]),
    ];
    for (killed, until, histogram, limits) in cells {
        let metrics = latency_metrics(histogram);
        let mut line = vec![killed.to_owned(), until.to_owned(), histogram.len().to_string()];
        line.extend(metrics.iter().map(|&(.., value)| ns(Some(value))));
        table.push(line);
        rows.extend(
            metrics.iter().map(|&(metric, unit, value)| row(beside(killed), until, metric, unit, value)),
        );
        #[expect(clippy::cast_precision_loss, reason = "kills are few")]
        rows.push(row(beside(killed), until, "kills", "kills", histogram.len() as f64));
        for &(wanted, limit) in limits {
            let value = metrics.iter().find(|found| found.0 == wanted).map_or(0.0, |found| found.2);
            targets.push(vec![
                format!("{killed}, {wanted}"),
                ns(Some(value)),
                format!("<= {}", ns(Some(limit))),
                verdict(value <= limit),
            ]);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "agents are few")]
    rows.push(row(beside("gateway"), "agents", "lost", "agents", found.lost as f64));
    let lost = found.lost.to_string();
    targets.push(vec!["agents lost with their gateway".into(), lost, "0".into(), verdict(found.lost == 0)]);
    print!("{table}\n{targets}");
    rows
}

fn row(scenario: String, subject: &str, metric: &str, unit: &str, value: f64) -> Row {
    Row {
        scenario,
        subject: subject.to_owned(),
        size_bytes: 0,
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        value,
    }
}
