//! The threads that messages pass: shards and the journal, and the rings between them and the edges.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use engine::core::ShardCore;
use engine::driver::{self, Chosen, ShardHandle, StartOptions};
use engine::event::{AgentIndex, InstanceId};
use engine::heartbeat::HeartbeatLimits;
use engine::journal::tail::Tails;
use engine::journal::thread::JournalHandle;
use engine::shard::Notice;
use engine::time::Clock;
use keeper::client::Client;
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link};
use shm_transport::ports::{EdgePorts, Ports, ShardPorts, Shown, connect_shown};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::gateway::GatewayError;
use crate::journal::{OpenJournal, RunningJournal};

/// Capacity of the rings between threads. Not pre-faulted: an idle one costs a few pages.
const INTERNAL_RING_BYTES: u64 = 256 * 1024;
/// What may wait for room in a ring between threads; reading stops long before (`engine::shard`).
const INTERNAL_BACKLOG_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The most rings between threads that are shown again by a keeper that follows one that has died.
const SHOWN_AGAIN_MAX: usize = 256;

/// Shards and journal at work, and the rings between them and the edges.
pub struct Engine {
    /// The ends of the edges.
    pub edge_ports: Vec<ShardPorts>,
    /// The running shards.
    pub shards: Vec<ShardHandle>,
    /// The running journal.
    pub journal: JournalHandle,
    /// What the shards tell the control thread.
    pub notices: mpsc::UnboundedReceiver<Notice>,
    /// The rings that the next keeper is to show.
    pub shown: Vec<(String, [OwnedFd; 2])>,
}

/// Connects shards, edges and journal, and starts the shards with what the journal holds.
pub fn start(
    config: &Config,
    opened: OpenJournal,
    tails: Option<Arc<Tails>>,
    keeper: &mut Client,
    start: &ShardStart<'_>,
) -> Result<Engine, GatewayError> {
    let (notices, notices_in) = mpsc::unbounded_channel();
    let mut shower = Shower { keeper, failed: false, shown: Vec::new() };
    let ports = connect(config, &mut shower)?;
    let bells: Vec<_> = ports.shards.iter().map(|ports| Arc::clone(&ports.bell)).collect();
    let (journal, cores) = opened.start(&bells, &mut |ring| shower.show(ring), tails)?;
    let RunningJournal { handle: journal, links } = journal;
    let shown = shower.shown;
    let shards = start_shards(cores, ports.shards, links, &notices, start)?;
    Ok(Engine { edge_ports: ports.edges, shards, journal, notices: notices_in, shown })
}

/// Makes the rings between edges and shards, and those of the mesh.
fn connect(config: &Config, shower: &mut Shower<'_>) -> Result<Ports, GatewayError> {
    let geometry = Geometry::new(INTERNAL_RING_BYTES)
        .unwrap_or_else(|error| unreachable!("a constant of this file: {error}"));
    let limits = Limits { backlog_bytes_max: INTERNAL_BACKLOG_BYTES_MAX, ..Limits::default() };
    let (edge_count, shard_count) = (config.edge_count, config.shard_count);
    connect_shown(edge_count, shard_count, geometry, limits, |ring| shower.show(ring))
        .map_err(|source| GatewayError::Rings { edge_count, shard_count, source })
}

/// Shows the rings between threads to whoever looks at them through the keeper.
struct Shower<'a> {
    keeper: &'a mut Client,
    failed: bool,
    /// The first of them once more, to be shown by the next keeper.
    shown: Vec<(String, [OwnedFd; 2])>,
}

impl Shower<'_> {
    /// A ring that cannot be shown works all the same.
    fn show(&mut self, ring: Shown<'_>) {
        if self.failed {
            return;
        }
        if let Err(error) = self.keeper.show(ring.name, ring.halves) {
            self.failed = true;
            tracing::warn!(%error, ring = ring.name, "this ring and those behind it are not shown by `openclaw ring`");
        }
        // Where descriptors are short, the next keeper shows fewer.
        if self.shown.len() < SHOWN_AGAIN_MAX
            && let [Ok(first), Ok(second)] = ring.halves.map(|half| half.try_clone_to_owned())
        {
            self.shown.push((ring.name.to_owned(), [first, second]));
        }
    }
}

/// What all shards are started with.
pub struct ShardStart<'a> {
    /// What drives them.
    pub chosen: &'a Chosen,
    /// The clock of the gateway.
    pub clock: Clock,
    /// When an agent that is silent is given up.
    pub heartbeat: HeartbeatLimits,
    /// Agents that have outlived the gateway before.
    pub adopting: Vec<(AgentIndex, InstanceId)>,
}

fn start_shards(
    cores: Vec<ShardCore>,
    ports: Vec<EdgePorts>,
    links: Vec<Link>,
    notices: &mpsc::UnboundedSender<Notice>,
    start: &ShardStart<'_>,
) -> Result<Vec<ShardHandle>, GatewayError> {
    let &ShardStart { chosen, clock, heartbeat, ref adopting } = start;
    let cpus = driver::allowed_cpus();
    let mut shards = Vec::with_capacity(ports.len());
    for (index, ((core, ports), journal)) in cores.into_iter().zip(ports).zip(links).enumerate() {
        // From the last CPU down: interrupts and everybody else's work gather on the first.
        let cpu = (!cpus.is_empty()).then(|| cpus[cpus.len() - 1 - index % cpus.len()]);
        let options = StartOptions {
            index,
            runtime: chosen.runtime,
            cpu,
            clock,
            heartbeat,
            adopting: adopting.clone(),
        };
        shards.push(driver::start(core, ports, journal, notices.clone(), options)?);
    }
    Ok(shards)
}
