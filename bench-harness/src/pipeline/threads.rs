//! One shard with everything around it but the edge: its driver, the journal's thread, an agent's thread.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use engine::core::{AgentDefinition, CoreLimits, CoreSetting, ShardCore};
use engine::driver::{self, Runtime, ShardHandle, StartOptions};
use engine::event::{AgentIndex, InstanceId, ShardIndex};
use engine::heartbeat::HeartbeatLimits;
use engine::journal::thread::JournalHandle;
use engine::routing::{AgentSpec, RoutingTable};
use engine::shard::Command;
use engine::stats::Counters;
use engine::time::Clock;
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{BorrowedEnd, Opened, Route};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link, Receiver, Sender};
use shm_transport::ports::{ShardPorts, connect};
use shm_transport::segment::{attach_agent, attach_engine, create};

use crate::journal::running;

/// As in the gateway: capacities of rings, and what may wait for them.
const INTERNAL_RING_BYTES: u64 = 256 * 1024;
const INTERNAL_BACKLOG_BYTES_MAX: usize = 256 * 1024 * 1024;
const AGENT_RING_BYTES: u64 = 1 << 20;
/// Rings of agents that are never asked.
const IDLE_RING_BYTES: u64 = 1 << 16;
const IN_FLIGHT_MAX: usize = 256;
const RECORDS_PER_RECEIVE: usize = 128;
/// The longest an agent sleeps before it looks whether its engine is gone.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The name of the agent that answers.
pub const AGENT: &str = "echo";

/// The threads, and the edge's end.
pub struct Threads {
    shard: ShardHandle,
    journal: JournalHandle,
    agent: JoinHandle<io::Result<()>>,
    /// Agents that are attached and never asked.
    _idle: Vec<Link>,
    /// Where the edge sends to the shard.
    pub edge: Link,
    /// What wakes the edge.
    pub bell: Arc<OwnedFd>,
}

impl Threads {
    /// Starts them on an empty directory.
    pub fn start(runtime: Runtime, idle_agents: u32, directory: &Path) -> io::Result<Self> {
        let geometry = Geometry::new(INTERNAL_RING_BYTES).map_err(io::Error::other)?;
        let limits = Limits { backlog_bytes_max: INTERNAL_BACKLOG_BYTES_MAX, ..Limits::default() };
        let mut ports = connect(1, 1, geometry, limits)?;
        let (Some(edge), Some(shard_ports)) = (ports.edges.pop(), ports.shards.pop()) else {
            return Err(io::Error::other("no ports were made"));
        };
        let ShardPorts { mut links, bell } = edge;
        let Some(edge) = links.pop() else { return Err(io::Error::other("the edge has no link")) };
        let (journal, to_journal) = running::start(directory, None, &shard_ports.bell)?;
        // What a shard tells the control thread: nobody listens here.
        let (notices, _) = tokio::sync::mpsc::unbounded_channel();
        let cpu = driver::allowed_cpus().last().copied();
        let options = StartOptions {
            index: 0,
            runtime,
            cpu,
            clock: Clock::start(),
            heartbeat: HeartbeatLimits::default(),
            adopting: Vec::new(),
        };
        let core = core(idle_agents)?;
        let shard =
            driver::start(core, shard_ports, to_journal, notices, options).map_err(io::Error::other)?;
        let agent = attach(&shard, 0, AGENT_RING_BYTES)?;
        let agent = std::thread::Builder::new().name("agent".into()).spawn(move || answer(agent))?;
        let idle = (1..=idle_agents).map(|agent| attach(&shard, agent, IDLE_RING_BYTES));
        let idle = idle.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { shard, journal, agent, _idle: idle, edge, bell })
    }

    /// What the shard has published last.
    pub fn counters(&self) -> Counters {
        self.shard.counters().read()
    }

    /// Ends them, one after the other.
    pub fn end(self) -> io::Result<()> {
        self.shard.tell(Command::StopAgents);
        let panicked = |who: &str| io::Error::other(format!("the thread of the {who} panicked"));
        self.agent.join().map_err(|_| panicked("agent"))??;
        self.shard.end().map_err(|_| panicked("shard"))?;
        running::end(self.journal)
    }
}

/// A core for agent 0, which answers, and those that are never asked.
fn core(idle_agents: u32) -> io::Result<ShardCore> {
    let names = (0..=idle_agents).map(|agent| match agent {
        0 => AGENT.to_owned(),
        idle => format!("idle-{idle}"),
    });
    let definitions: Arc<[AgentDefinition]> = names
        .map(|name| AgentDefinition { name, in_flight_max: IN_FLIGHT_MAX, conversation_pool: None })
        .collect();
    let spec = |(index, definition): (u32, &AgentDefinition)| {
        AgentSpec::alone(AgentIndex(index), &definition.name, 1)
    };
    let specs: Vec<_> = (0..).zip(&*definitions).map(spec).collect();
    let routes = RoutingTable::build(1, &specs, &[], None)
        .map_err(|errors| io::Error::other(format!("the agents cannot be routed to: {errors:?}")))?;
    let setting = CoreSetting { shard: ShardIndex(0), shard_count: 1, run: 1, unix_ms_at_zero: 0, seed: 27 };
    Ok(ShardCore::new(setting, definitions, Arc::new(routes), CoreLimits::default()))
}

/// Makes the rings of an agent, hands one end to the shard and returns the other.
fn attach(shard: &ShardHandle, agent: u32, ring_bytes: u64) -> io::Result<Link> {
    let instance = u64::from(agent) + 1;
    let page = ConfigPage::new(Geometry::new(ring_bytes).map_err(io::Error::other)?, instance, 1);
    let engine_half = create("bench-engine", &page).map_err(io::Error::other)?;
    let agent_half = create("bench-agent", &page).map_err(io::Error::other)?;
    let doorbell = eventfd()?;
    let ours = attach_engine(&engine_half.writable, &agent_half.read_only, None, Limits::default())
        .map_err(io::Error::other)?;
    let theirs = doorbell.try_clone()?;
    let agent_end =
        attach_agent(&engine_half.read_only, &agent_half.writable, theirs, None, Limits::default())
            .map_err(io::Error::other)?;
    shard.tell(Command::Attach {
        agent: AgentIndex(agent),
        instance: InstanceId(instance),
        link: Box::new(ours.link),
        doorbell,
        // The idle ones never say anything.
        start_timeout: Duration::MAX,
    });
    Ok(agent_end.link)
}

/// The agent: ends every turn with the text of its message, until it is told to stop.
fn answer(link: Link) -> io::Result<()> {
    let Link { mut sender, mut receiver } = link;
    loop {
        let (received, stopped) = answer_some(&mut sender, &mut receiver)?;
        if stopped {
            return Ok(());
        }
        if received == 0 {
            receiver.wait(Duration::ZERO, SLEEP_MAX).map_err(io::Error::other)?;
        }
    }
}

fn answer_some(sender: &mut Sender, receiver: &mut Receiver) -> io::Result<(usize, bool)> {
    let (mut failed, mut stopped) = (None, false);
    let received = receiver.receive(RECORDS_PER_RECEIVE, |message| match message.open() {
        Opened::Message(archive) => {
            let Route { turn, attempt, .. } = message.route;
            let route = Route { turn, attempt, ..Route::default() };
            if let Err(error) = sender.send(&route, &BorrowedEnd { content: &archive.content }) {
                failed = Some(error);
            }
        }
        Opened::Stop => stopped = true,
        _ => {}
    });
    let received = received.map_err(io::Error::other)?;
    if let Some(error) = failed {
        return Err(io::Error::other(error));
    }
    sender.flush().map_err(io::Error::other)?;
    receiver.release();
    Ok((received, stopped))
}
