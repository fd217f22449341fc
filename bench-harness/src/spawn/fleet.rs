//! A keeper and its agents, as a gateway has them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use keeper::client::{Client, PROGRAM};
use keeper::control::{Event, Request, Spawn};
use keeper::sandbox::spec::SandboxSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm_transport::envelope::{Kind as MessageKind, MessageV2, Route};
use shm_transport::link::{Limits, Link};
use shm_transport::segment::attach_engine;

use crate::bell;
use crate::place::Place;

const RING_BYTES: u64 = 1 << 16;
/// The longest an agent may take to start, and to die.
const PATIENCE: Duration = Duration::from_secs(30);
const SIGKILL: i32 = 9;

/// What is started.
pub struct Kind {
    /// Its name in the tables.
    pub name: &'static str,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables it is started with, as a gateway has them.
    pub environment: Vec<(String, String)>,
    /// What it may see and do; whatever this program may if absent.
    pub sandbox: Option<SandboxSpec>,
    /// What it may take.
    pub limits: keeper::control::Limits,
}

/// An agent that runs.
struct Agent {
    process_id: u32,
    link: Link,
    doorbell: OwnedFd,
    /// Whether its first words have been heard.
    greeted: bool,
    /// How often it was asked.
    asked: u64,
}

/// A keeper and its agents.
pub struct Fleet {
    client: Client,
    agents: BTreeMap<u64, Agent>,
    next_instance: u64,
    /// Agents that were asked for and do not run yet.
    awaited: u64,
    place: Place,
}

impl Fleet {
    /// Starts the keeper that lies beside a gateway.
    pub fn start(openclaw: &Path) -> io::Result<Self> {
        let place = Place::make(Some(&std::env::temp_dir()))?;
        let keeper = openclaw.with_file_name(PROGRAM);
        let client = Client::start(&keeper, &place.next()?.join("keeper.sock")).map_err(io::Error::other)?;
        Ok(Self { client, agents: BTreeMap::new(), next_instance: 1, awaited: 0, place })
    }

    /// Asks for an agent.
    pub fn begin(&mut self, kind: &Kind) -> io::Result<u64> {
        let instance = self.next_instance;
        self.next_instance += 1;
        let request = Request::Spawn(Spawn {
            instance,
            generation: instance,
            name: format!("{}-{instance}", kind.name),
            argv: kind.argv.clone(),
            environment: kind.environment.clone(),
            working_directory: None,
            to_agent_bytes: RING_BYTES,
            from_agent_bytes: RING_BYTES,
            log_path: Some("/dev/null".into()),
            limits: kind.limits,
            sandbox: kind.sandbox.clone().map(Box::new),
        });
        self.client.send(&request).map_err(io::Error::other)?;
        self.awaited += 1;
        Ok(instance)
    }

    /// Until everyone that was asked for has said its first words.
    pub fn wait_for_all(&mut self) -> io::Result<()> {
        while self.awaited > 0 {
            self.hear(PATIENCE)?;
        }
        self.instances().into_iter().try_for_each(|instance| self.greet(instance))
    }

    /// Starts an agent and ends it. How long it took until its first words.
    pub fn start_and_end(&mut self, kind: &Kind) -> io::Result<Duration> {
        let started = Instant::now();
        let instance = self.begin(kind)?;
        while !self.agents.contains_key(&instance) {
            self.hear(PATIENCE)?;
        }
        self.greet(instance)?;
        let took = started.elapsed();
        self.end_one(instance)?;
        Ok(took)
    }

    /// Takes one event of the keeper.
    fn hear(&mut self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: 0 };
        if poll(&mut [PollFd::new(&self.client, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the keeper is silent"));
        }
        let Some((event, descriptors)) = self.client.receive().map_err(io::Error::other)? else {
            return Ok(());
        };
        match event {
            Event::Spawned { instance, process_id, .. } => {
                let mut descriptors = descriptors.into_iter();
                let (Some(engine), Some(agent), Some(doorbell)) =
                    (descriptors.next(), descriptors.next(), descriptors.next())
                else {
                    return Err(io::Error::other("the keeper sent less than three descriptors"));
                };
                let attached = attach_engine(engine, agent, descriptors.next(), Limits::default());
                let link = attached.map_err(io::Error::other)?.link;
                self.agents.insert(instance, Agent { process_id, link, doorbell, greeted: false, asked: 0 });
                self.awaited -= 1;
                Ok(())
            }
            Event::SpawnFailed { step, reason, .. } => {
                Err(io::Error::other(format!("an agent was not started ({step}): {reason}")))
            }
            Event::Died { instance, .. } => {
                self.agents.remove(&instance);
                Ok(())
            }
            other => Err(io::Error::other(format!("the keeper said {other:?}"))),
        }
    }

    /// Waits for the first words of an agent.
    fn greet(&mut self, instance: u64) -> io::Result<()> {
        let Some(agent) = self.agents.get_mut(&instance) else { return Ok(()) };
        let end = Instant::now() + PATIENCE;
        while !agent.greeted {
            let Agent { link, greeted, doorbell, .. } = agent;
            let heard = link.receiver.receive(1, |message| *greeted = message.kind() == MessageKind::Hello);
            link.receiver.release();
            if heard.map_err(io::Error::other)? == 0 {
                bell::wait(&mut link.receiver, doorbell, PATIENCE)?;
            }
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "an agent does not say its first words"));
            }
        }
        Ok(())
    }

    /// Asks an agent that sleeps, and waits for the end of its reply.
    pub fn ask(&mut self, instance: u64) -> io::Result<Duration> {
        let agent = self.agents.get_mut(&instance);
        let Agent { link, doorbell, asked, .. } =
            agent.ok_or_else(|| io::Error::other(format!("agent {instance} does not run")))?;
        *asked += 1;
        let message = MessageV2 { content: "x".into(), ..MessageV2::default() };
        let route = Route { turn: *asked, attempt: 1, ..Route::default() };
        let begun = Instant::now();
        link.sender.send(&route, &message).and_then(|()| link.sender.flush()).map_err(io::Error::other)?;
        let mut ended = false;
        while !ended {
            let heard = link.receiver.receive(1, |reply| {
                ended = reply.kind() == MessageKind::End && reply.route.turn == route.turn;
            });
            link.receiver.release();
            if heard.map_err(io::Error::other)? == 0 {
                bell::wait(&mut link.receiver, doorbell, PATIENCE)?;
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "an agent does not reply"));
            }
        }
        Ok(begun.elapsed())
    }

    /// Those that run.
    pub fn instances(&self) -> Vec<u64> {
        self.agents.keys().copied().collect()
    }

    /// Ends an agent.
    pub fn end_one(&mut self, instance: u64) -> io::Result<()> {
        self.client.send(&Request::Kill { instance, signal: SIGKILL }).map_err(io::Error::other)?;
        while self.agents.contains_key(&instance) {
            self.hear(PATIENCE)?;
        }
        Ok(())
    }

    /// Bytes of memory that an agent shares with nobody, in the mean.
    pub fn private_bytes(&self) -> io::Result<Option<f64>> {
        let mut sum = 0.0;
        for agent in self.agents.values() {
            sum += rollup(agent.process_id, &["Private_Clean:", "Private_Dirty:"])?;
        }
        #[expect(clippy::cast_precision_loss, reason = "agents are few")]
        let count = self.agents.len() as f64;
        Ok((count > 0.0).then(|| sum / count))
    }

    /// Bytes of memory of the keeper: with all that it shares, and with its part of that.
    pub fn keeper_bytes(&self) -> io::Result<[f64; 2]> {
        let keeper = self.client.process_id();
        Ok([rollup(keeper, &["Rss:"])?, rollup(keeper, &["Pss:"])?])
    }

    /// Ends all of it.
    pub fn end(mut self) -> io::Result<()> {
        self.client.send(&Request::Shutdown { grace_ms: 0 }).map_err(io::Error::other)?;
        self.client.wait()?;
        drop(self.place);
        Ok(())
    }
}

/// The sum of some lines of a process' memory map, in bytes.
fn rollup(process_id: u32, lines: &[&str]) -> io::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process_id}/smaps_rollup"))?;
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<f64>().ok();
    let found = text.lines().filter(|line| lines.iter().any(|name| line.starts_with(name)));
    Ok(found.filter_map(kib).sum::<f64>() * 1024.0)
}
