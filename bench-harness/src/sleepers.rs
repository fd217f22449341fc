//! Subject `sleepers`: many agent processes asleep on their rings, of which the engine asks a random one.
//!
//! The agents run on whatever CPU the kernel gives them, and so does the engine. It waits as a shard does: on one
//! epoll over the eventfds of all agents, having armed the ring of whom it has asked, from whom alone something may
//! come. Or it spins on that ring.

pub mod agent;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::figures::latency_metrics;
use crate::machine::Machine;
use crate::note;
use crate::results::{Row, publish};
use crate::ring::endpoint::{Endpoint, nanoseconds, new_histogram, put_sequence};
use crate::ring::linked::LinkEnd;
use crate::ring::name;
use crate::table::{Table, ns};

const AGENTS_MAX: u64 = 2_000;
const PINGS_MAX: u64 = 10_000_000;
const MESSAGE_BYTES: usize = 64;
const RING_BYTES: u64 = 1 << 16;
/// Parts of the run between which the ways of waiting alternate.
const ROUNDS: u64 = 4;
/// The longest that all agents together may take to start.
const START_MAX: Duration = Duration::from_secs(60);
/// The longest an agent may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest an agent may take to exit once its link is closed.
const EXIT_MAX: Duration = Duration::from_secs(5);
/// Descriptors of this program besides those of the agents, and of each agent while it is started.
const FILES_BESIDES: u64 = 64;
const FILES_PER_AGENT: u64 = 3;
/// How much larger than the median the 99th percentile may be.
const P99_OVER_P50_TARGET: f64 = 3.0;
/// Any number: which agents are asked is the same in each run.
const SEED: u64 = 27;

/// How the engine waits for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Engine {
    /// Asleep, on one epoll over the bells of all agents.
    Asleep,
    /// Looking at the ring again and again.
    Spinning,
}

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Agent processes.
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=AGENTS_MAX))]
    agents: u64,
    /// The most questions for each way of waiting.
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(100..=PINGS_MAX))]
    pings: u64,
    /// The longest to ask, in seconds, for each way of waiting.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How the engine waits for an answer. Default: each way in turn.
    #[arg(long, value_enum, value_delimiter = ',')]
    engine: Vec<Engine>,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `sleepers`.
pub fn run(options: &Options) -> io::Result<()> {
    let machine = Machine::read();
    let calibration_ns = crate::ring::calibrate()?;
    allow_files(FILES_BESIDES + FILES_PER_AGENT * options.agents)?;
    let started = Instant::now();
    let mut fleet = Fleet::start(options.agents)?;
    let start_all = started.elapsed();
    println!("{} agents started and attached in {:.0} ms", options.agents, start_all.as_secs_f64() * 1e3);
    let engines = if options.engine.is_empty() { Engine::value_variants() } else { &options.engine };
    let mut histograms = Vec::new();
    for _ in engines {
        histograms.push(new_histogram()?);
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    for index in 0..fleet.agents.len() {
        fleet.ask(index, Engine::Asleep)?; // First contact maps pages; it is not counted.
    }
    for _ in 0..ROUNDS {
        for (&engine, histogram) in engines.iter().zip(&mut histograms) {
            let end = Instant::now() + Duration::from_secs(options.seconds) / ROUNDS as u32;
            for _ in 0..options.pings.div_ceil(ROUNDS) {
                let index = random.usize(..fleet.agents.len());
                histogram.saturating_record(nanoseconds(fleet.ask(index, engine)?));
                if Instant::now() >= end {
                    break;
                }
            }
        }
    }
    fleet.stop();
    let mut rows =
        vec![row("sleepers-start", options.agents, "start_all", "ns", start_all.as_nanos() as f64)];
    rows.extend(report(engines, &histograms, options.agents));
    publish(options.json.as_deref(), machine, calibration_ns, rows)
}

fn row(scenario: &str, agents: u64, metric: &str, unit: &str, value: f64) -> Row {
    Row {
        scenario: scenario.to_owned(),
        subject: format!("shm-transport-{agents}-agents"),
        size_bytes: MESSAGE_BYTES as u64,
        metric: metric.to_owned(),
        unit: unit.to_owned(),
        value,
    }
}

/// Prints the table, and gives its rows.
fn report(engines: &[Engine], histograms: &[Histogram<u64>], agents: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    let titles = ["engine", "asked", "p50", "p90", "p99", "p999", "max", "p99 / p50", "at most", ""];
    let mut table = Table::new(&titles);
    for (engine, histogram) in engines.iter().zip(histograms) {
        let mut line = vec![name(engine), histogram.len().to_string()];
        let scenario = format!("sleepers-engine-{}", name(engine));
        let metrics = latency_metrics(histogram);
        for &(metric, unit, value) in &metrics {
            line.push(ns(Some(value)));
            rows.push(row(&scenario, agents, metric, unit, value));
        }
        let at =
            |wanted| metrics.iter().find(|(metric, _, _)| *metric == wanted).map_or(0.0, |found| found.2);
        let ratio = at("p99") / at("p50");
        rows.push(row(&scenario, agents, "p99_over_p50", "ratio", ratio));
        let verdict = if ratio <= P99_OVER_P50_TARGET { "met" } else { "missed" };
        line.extend([format!("{ratio:.2}"), format!("{P99_OVER_P50_TARGET:.2}"), verdict.to_owned()]);
        table.push(line);
    }
    print!("{table}");
    rows
}

/// Raises the number of descriptors that this process may have, as far as it may do so itself.
pub fn allow_files(needed: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let maximum = limit.maximum.unwrap_or(0);
        return Err(io::Error::other(format!(
            "{needed} descriptors are needed, {maximum} allowed (ulimit -Hn)"
        )));
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })?)
}

/// One agent process, as the engine sees it.
#[derive(Debug)]
struct Agent {
    end: LinkEnd,
    child: Child,
    socket: OwnedFd,
}

/// All agents.
struct Fleet {
    agents: Vec<Agent>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    asked: u64,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            // It may have exited already, and nothing of it is worth keeping.
            let _ = agent.child.kill();
            let _ = agent.child.wait(); // As above.
        }
    }
}

impl Fleet {
    /// Starts them all, then waits until the last has attached.
    fn start(count: u64) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let program = std::env::current_exe()?;
        let mut fleet = Self { agents: Vec::new(), epoll, events: Vec::with_capacity(64), asked: 0 };
        for number in 0..count {
            let (end, files) = LinkEnd::engine(RING_BYTES)?;
            if let Some(bell) = end.bell() {
                let data = epoll::EventData::new_u64(number);
                epoll::add(&fleet.epoll, bell, data, epoll::EventFlags::IN)?;
            }
            let (socket, theirs) = note::pair()?;
            let mut command = Command::new(&program);
            command.arg(agent::SUBCOMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null());
            let child = command.spawn()?;
            note::send(&socket, &agent::Hello::Attach, &files.each_ref().map(AsFd::as_fd))?;
            fleet.agents.push(Agent { end, child, socket });
        }
        let end = Instant::now() + START_MAX;
        for (index, agent) in fleet.agents.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            if poll(&mut [PollFd::new(&agent.socket, PollFlags::IN)], Some(&timeout))? == 0 {
                return Err(io::Error::other(format!("agent {index} has not attached in time")));
            }
            match note::receive(&agent.socket)? {
                Some((agent::Hello::Attached, _)) => {}
                other => return Err(io::Error::other(format!("agent {index} has not attached: {other:?}"))),
            }
        }
        Ok(fleet)
    }

    /// Sends one message to an agent and waits for it to come back.
    fn ask(&mut self, index: usize, engine: Engine) -> io::Result<Duration> {
        let mut message = [0x5a; MESSAGE_BYTES];
        self.asked += 1;
        put_sequence(&mut message, self.asked);
        let start = Instant::now();
        self.agents[index].end.send(&message)?;
        self.agents[index].end.flush()?;
        let mut answer = None;
        let mut looks = 0u32;
        while self.agents[index].end.receive(|sequence| answer = Some(sequence))? == 0 {
            looks = looks.wrapping_add(1);
            if (engine == Engine::Asleep || looks.is_multiple_of(1 << 16)) && start.elapsed() > ANSWER_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("agent {index} does not answer"),
                ));
            }
            match engine {
                Engine::Asleep => self.sleep(index)?,
                Engine::Spinning => std::hint::spin_loop(),
            }
        }
        let latency = start.elapsed();
        if answer != Some(self.asked) {
            let expected = self.asked;
            return Err(io::Error::other(format!("agent {index} answered {answer:?}, not {expected}")));
        }
        Ok(latency)
    }

    /// Sleeps until an agent rings; `asked` is the one whose answer is awaited.
    fn sleep(&mut self, asked: usize) -> io::Result<()> {
        if !self.agents[asked].end.arm()? {
            self.events.clear();
            let timeout = Timespec { tv_sec: ANSWER_MAX.as_secs().cast_signed(), tv_nsec: 0 };
            match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &self.events {
                let rung = usize::try_from(event.data.u64()).ok();
                if let Some(agent) = rung.and_then(|rung| self.agents.get(rung)) {
                    agent.end.silence();
                }
            }
        }
        self.agents[asked].end.disarm();
        Ok(())
    }

    /// Closes all links and waits for the agents to exit; who does not is killed when the fleet is dropped.
    fn stop(mut self) {
        for agent in &mut self.agents {
            agent.end.close();
        }
        let end = Instant::now() + EXIT_MAX;
        for agent in &mut self.agents {
            while matches!(agent.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
