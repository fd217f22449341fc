//! Subject `core`: the core of a shard alone on one thread, without rings, journal and agents.
//!
//! A message's life has two halves, timed apart: from the edge to its agent (*routed*), and from the agent's end to the
//! client (the *whole life* is both). See [`rig`] for who plays the rest.

pub mod instructions;
mod memory;
pub mod rig;
pub mod yardstick;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::figures::median;
use crate::machine::{self, Machine};
use crate::results::{Row, publish};
use crate::table::{Table, ns, rate};
use rig::{Rig, Shape};

const ROUNDS_MAX: u64 = 1000;
const SESSIONS_MAX: u32 = 1_000_000;
const AGENTS_MAX: u32 = 1000;
const GROUP_MAX: u64 = 4096;
const CONTENT_BYTES: usize = 256;
/// Sessions while agents vary, and the number that others are compared with.
const SESSIONS_FEW: u32 = 1000;
/// Messages in one stretch, whose rates the median is taken of.
const STRETCH_MESSAGES: usize = 2048;
/// Messages that fill what is bounded: kept replies, remembered ids, recorded flights.
const WARM_UP_MESSAGES: u64 = 1_200_000;
/// Routed messages a second on one core.
const ROUTED_TARGET: f64 = 5e6;
/// How far a figure may be from that of few sessions and one agent.
const FLAT_TARGET: f64 = 0.1;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; every cell is measured once in each, and the median over the rounds is reported.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// Seconds for each cell, over all rounds together.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = crate::ring::parse_seconds)]
    seconds_per_cell: f64,
    /// Sessions, each with one agent; 1,000 is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,100000,1000000", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(SESSIONS_MAX)))]
    sessions: Vec<u32>,
    /// Agents, with 1,000 sessions.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(AGENTS_MAX)))]
    agents: Vec<u32>,
    /// Messages between two words of the journal.
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=GROUP_MAX))]
    group: u64,
    /// Afterwards, what a million idle sessions cost in memory.
    #[arg(long)]
    memory: bool,
    /// Afterwards, count the instructions of a message (needs valgrind; minutes).
    #[arg(long)]
    instructions: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured of a cell in a round: nanoseconds of a message.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// From the edge to the agent; the median stretch.
    pub routed_ns: f64,
    /// All of its life; the median stretch.
    pub whole_ns: f64,
    /// The same over all the time.
    pub routed_mean_ns: f64,
    /// The same over all the time.
    pub whole_mean_ns: f64,
}

/// Runs `core`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    if let Some(&cpu) = machine::usable_cpus().last() {
        machine::pin(cpu)?;
    }
    let shapes = options.shapes();
    let (costs, yardstick_ns) = measure(&shapes, options.rounds, options.round());
    let mut rows = report(&shapes, &costs, yardstick_ns);
    machine::unpin()?;
    if options.memory {
        rows.extend(memory::measure(SESSIONS_MAX)?);
    }
    if options.instructions {
        rows.extend(instructions::count(&shapes)?);
    }
    publish(options.json.as_deref(), machine, calibration_ns, rows)
}

impl Options {
    #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
    fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds_per_cell / self.rounds as f64).max(Duration::from_millis(10))
    }

    /// Sessions with one agent, then agents with few sessions; each without ids and with them.
    fn shapes(&self) -> Vec<Shape> {
        let group = usize::try_from(self.group).unwrap_or(usize::MAX);
        let of_sessions = self.sessions.iter().map(|&sessions| (sessions, 1));
        let of_agents = self.agents.iter().map(|&agents| (SESSIONS_FEW, agents));
        let mut shapes = Vec::new();
        for (sessions, agents) in of_sessions.chain(of_agents) {
            for ids in [false, true] {
                let shape = Shape::new(sessions, agents, ids, group, CONTENT_BYTES);
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
        }
        shapes
    }
}

/// The costs of each shape in each round, and the median of the yardstick. All of a round before the next.
pub fn measure(shapes: &[Shape], rounds: u64, round: Duration) -> (BTreeMap<Shape, Vec<Costs>>, f64) {
    let warm = |&shape: &Shape| {
        let mut rig = Rig::new(shape);
        rig.warm_up(WARM_UP_MESSAGES.max(u64::from(shape.sessions)));
        (shape, rig)
    };
    let mut rigs: Vec<_> = shapes.iter().map(warm).collect();
    let mut costs = BTreeMap::<Shape, Vec<Costs>>::new();
    let mut yardstick = yardstick::Yardstick::new(CONTENT_BYTES);
    let mut yardstick_ns = Vec::new();
    for _ in 0..rounds {
        yardstick_ns.push(yardstick.measure(round.min(Duration::from_millis(100))));
        for (shape, rig) in &mut rigs {
            costs.entry(*shape).or_default().push(one_round(rig, round));
        }
    }
    (costs, median(&mut yardstick_ns))
}

/// How many times the yardstick the whole life of a message takes: the median over the quotients of the rounds.
pub fn whole_life_over_yardstick(rounds: u64, round: Duration) -> f64 {
    let mut rig = Rig::new(Shape::new(SESSIONS_FEW, 10, false, 64, CONTENT_BYTES));
    rig.warm_up(WARM_UP_MESSAGES / 4);
    let mut yardstick = yardstick::Yardstick::new(CONTENT_BYTES);
    let mut quotients = Vec::new();
    for _ in 0..rounds {
        let yardstick_ns = yardstick.measure(round / 2);
        quotients.push(one_round(&mut rig, round).whole_ns / yardstick_ns);
    }
    median(&mut quotients)
}

/// One cell of one round. The time counts in which messages are made, but they are not charged for it.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds and counts of a short run stay below 2^53")]
pub fn one_round(rig: &mut Rig, round: Duration) -> Costs {
    let end = Instant::now() + round;
    let groups = STRETCH_MESSAGES.div_ceil(rig.group());
    let messages = (groups * rig.group()) as f64;
    let (mut routed_ns, mut whole_ns) = (Vec::new(), Vec::new());
    while routed_ns.is_empty() || Instant::now() < end {
        let (mut routed, mut finished) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..groups {
            let halves = rig.timed();
            routed += halves.0;
            finished += halves.1;
        }
        routed_ns.push(routed.as_nanos() as f64 / messages);
        whole_ns.push((routed + finished).as_nanos() as f64 / messages);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    Costs {
        routed_mean_ns: mean(&routed_ns),
        whole_mean_ns: mean(&whole_ns),
        routed_ns: median(&mut routed_ns),
        whole_ns: median(&mut whole_ns),
    }
}

/// How a shape is called in the file: 1,000 sessions, 10 agents, with ids.
pub fn name(shape: &Shape) -> String {
    let ids = if shape.ids { "ids" } else { "no-ids" };
    format!("{}-sessions-{}-agents-{ids}", shape.sessions, shape.agents)
}

/// Prints the table and the targets, and gives the rows.
fn report(shapes: &[Shape], costs: &BTreeMap<Shape, Vec<Costs>>, yardstick_ns: f64) -> Vec<Row> {
    let mut rows = vec![row("core-yardstick", "copy-hash-table", "p50", "ns", yardstick_ns)];
    println!("yardstick: two copies, two hashes and a table {}", ns(Some(yardstick_ns)));
    let titles = [
        "sessions",
        "agents",
        "ids",
        "group",
        "routed/s",
        "routed",
        "of few",
        "whole life/s",
        "whole",
        "of few",
        "of yardstick",
    ];
    let mut table = Table::new(&titles);
    for shape in shapes {
        let few = (SESSIONS_FEW, 1, shape.ids);
        let at = |shape: &Shape, metric: fn(&Costs) -> f64| {
            let rounds = costs.get(shape)?;
            Some(median(&mut rounds.iter().map(metric).collect::<Vec<_>>()))
        };
        let ratio = |metric: fn(&Costs) -> f64| {
            let few = costs.iter().find(|(other, _)| (other.sessions, other.agents, other.ids) == few)?.1;
            let quotients = costs.get(shape)?.iter().zip(few).map(|(a, b)| metric(a) / metric(b));
            Some(median(&mut quotients.collect::<Vec<_>>()))
        };
        let mut line = vec![
            shape.sessions.to_string(),
            shape.agents.to_string(),
            if shape.ids { "yes" } else { "no" }.into(),
            shape.group.to_string(),
        ];
        for (scenario, typical, mean) in [
            (
                "core-routed",
                (|costs| costs.routed_ns) as fn(&Costs) -> f64,
                (|costs| costs.routed_mean_ns) as fn(&Costs) -> f64,
            ),
            ("core-whole-life", |costs| costs.whole_ns, |costs| costs.whole_mean_ns),
        ] {
            let per_s = |metric| at(shape, metric).map(|ns| 1e9 / ns);
            line.extend([rate(per_s(typical)), ns(at(shape, typical)), shown_ratio(ratio(typical))]);
            for (metric, unit, value) in [
                ("window_p50_per_s", "msg/s", per_s(typical)),
                ("throughput_per_s", "msg/s", per_s(mean)),
                ("of_few", "ratio", ratio(typical)),
            ] {
                rows.extend(value.map(|value| row(scenario, &name(shape), metric, unit, value)));
            }
        }
        let of_yardstick = at(shape, |costs| costs.whole_ns).map(|ns| ns / yardstick_ns);
        line.push(shown_ratio(of_yardstick));
        rows.extend(
            of_yardstick.map(|value| row("core-whole-life", &name(shape), "of_yardstick", "ratio", value)),
        );
        table.push(line);
    }
    print!("{table}");
    targets(&rows);
    rows
}

fn shown_ratio(ratio: Option<f64>) -> String {
    ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
}

/// Prints each target, met or missed.
fn targets(rows: &[Row]) {
    let values = |metric: &str| {
        let of_metric = rows.iter().filter(move |row| row.scenario == "core-routed" && row.metric == metric);
        of_metric.map(|row| row.value).collect::<Vec<_>>()
    };
    let mut table = Table::new(&["targets", "value", "limit", ""]);
    let mut push = |what: &str, value: Option<f64>, text: String, limit: &str, met: fn(f64) -> bool| {
        let verdict = value.map_or("not measured", |value| if met(value) { "met" } else { "missed" });
        table.push(vec![what.to_owned(), text, limit.to_owned(), verdict.to_owned()]);
    };
    let best = values("window_p50_per_s").into_iter().reduce(f64::max);
    push("routed a second, best cell", best, rate(best), &format!(">= {}", rate(Some(ROUTED_TARGET))), |v| {
        v >= ROUTED_TARGET
    });
    let worst = values("of_few").into_iter().map(|ratio| ratio - 1.0).reduce(f64::max);
    let text = worst.map(|worst| format!("{:+.0} %", worst * 100.0)).unwrap_or_default();
    let limit = format!("<= {:+.0} %", FLAT_TARGET * 100.0);
    push("time to route, worst cell beside 1,000 sessions and 1 agent", worst, text, &limit, |v| {
        v <= FLAT_TARGET
    });
    print!("\n{table}");
}

pub(crate) fn row(scenario: &str, subject: &str, metric: &str, unit: &str, value: f64) -> Row {
    Row {
        scenario: scenario.to_owned(),
        subject: subject.to_owned(),
        size_bytes: CONTENT_BYTES as u64,
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        value,
    }
}
