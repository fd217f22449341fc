//! The client side: sockets in, envelopes to shards, replies back.
//!
//! One edge is one thread: a current-thread runtime, one [`ShardPorts`], any number of connections. All
//! edges accept on one listening socket.
//!
//! | module | decides |
//! |---|---|
//! | [`stats`] | what the rest of the process may see |
//! | [`origin`] | which requests come from this machine |
//! | `http` | requests, health |
//! | `upgrade` | who comes in by an upgrade request |
//! | `completions` | requests that an agent answers, as the API of OpenAI has them |
//! | `webchat` | the page at `/` |
//! | `admission` | places for clients that nobody knows yet |
//! | `guarded` | how much of such a client is read |
//! | `state` | what the tasks of an edge share: ports, connection table, phase |
//! | `client` | what they know of one connection |
//! | `decide` | which dialect a connection speaks |
//! | `simple`, `driver`, `operator` | what is done with the frames of each dialect |
//! | `turns` | which messages of a connection await a reply |
//! | `words` | what a reply becomes |
//! | `calls` | the calls of OpenClaw clients |
//! | `runs` | turns that belong to no connection, and what they become |
//! | `stop` | how the rest of the gateway knows and stops them |
//! | [`events`] | what clients of all edges are shown |
//! | `mailbox` | notes between edge threads |
//! | `outbound` | frames that wait for a socket |
//! | `connection` | one WebSocket connection: reading and writing |
//! | `connections` | what is told of all of them |
//! | `echo` | what test suites of that layer connect to |
//! | `pump` | the receiving side of the rings, and the clock of the edge |
//!
//! **Who may touch what**
//!
//! 1. Everything behind `Rc` belongs to the edge's thread. No `RefCell` is borrowed across an await.
//! 2. `Arc<EdgeShared>` is shared with the gateway and the other edges. Each edge writes its own counters only.
//! 3. Nothing that is called while a `RefCell` is borrowed runs a task: wakers only schedule.
//!
//! **Back-pressure**
//!
//! - A shard that does not keep up: `SendError::Full` leaves the frame with its connection, which reads
//!   nothing more until little of the backlog is left. TCP does the rest.
//! - A client that does not read: above `outbound_bytes_max` of queued frames nothing more is read from it.
//!   Above that limit it lives on sufferance: it may hold one whole reply more (streamed blocks and closing
//!   frame, twice `reply_bytes_max`), for `slow_grace` at most, and only while all connections of the edge
//!   together hold less than `edge_outbound_bytes_max`. Otherwise it is closed with 1013; an OpenClaw client with 1008.
//! - An OpenClaw client that does not read its events: live text is joined while something waits, and above
//!   `event_bytes_max` of queued events those that it can do without are dropped under their number.

mod admission;
mod calls;
mod client;
mod completions;
mod connection;
mod connections;
mod decide;
mod driver;
mod echo;
pub mod events;
mod guarded;
mod http;
mod mailbox;
mod operator;
pub mod origin;
mod outbound;
pub mod pages;
mod pump;
mod resume;
mod runs;
mod simple;
mod state;
pub mod stats;
mod stop;
mod turns;
mod upgrade;
mod webchat;
mod words;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shm_transport::ports::ShardPorts;
use shm_transport::record::Poison;
use tokio::sync::watch;
use tokio::task::LocalSet;

pub use self::connections::ConnectionRow;
pub use self::runs::{CHANNEL as RUN_CHANNEL, USER as RUN_USER};
use self::state::Edge;
pub use self::stats::{About, AgentHealth, EdgeShared, EdgeStats, HealthReport, HealthStatus};
use crate::openclaw::conversation::HANDSHAKE_MS_MAX;

/// What the gateway wants of its edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Everything.
    Running,
    /// Finish what is open: new messages and WebSocket connections are refused, replies still go out, and who asks
    /// whether the gateway is ready is told that it is not.
    Draining,
    /// Tell the clients and come back.
    Closing,
}

/// How an edge behaves.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Which edge this is, from 0: its place in [`EdgeShared::stats`].
    pub edge_index: usize,
    /// Differs between runs of the gateway. Part of the session name of a connection that names none, so
    /// that it never finds the session of somebody before it.
    pub run: u64,
    /// The largest frame and message of a client.
    pub message_bytes_max: usize,
    /// The most WebSocket connections, all edges together.
    pub connections_max: u64,
    /// The most messages of one connection that await a reply.
    pub open_turns_max: usize,
    /// The longest text of one reply.
    pub reply_bytes_max: usize,
    /// Queued frames above which a connection is not read, and lives on sufferance.
    pub outbound_bytes_max: usize,
    /// Queued frames of all connections of this edge, above which sufferance ends.
    pub edge_outbound_bytes_max: usize,
    /// How long a connection may stay above `outbound_bytes_max`.
    pub slow_grace: Duration,
    /// How often a connection is asked whether it lives. After two intervals of silence it is closed.
    pub ping_interval: Duration,
    /// How long the head of an HTTP request may take.
    pub head_timeout: Duration,
    /// How long the body of an HTTP request may take.
    pub body_timeout: Duration,
    /// How long saying goodbye may take.
    pub close_timeout: Duration,
    /// Frames that were not understood, per second, after which a connection is closed.
    pub bad_frames_max: u32,
    /// How long a client may take until it is let in.
    pub admission_timeout: Duration,
    /// The most connections of one source address that were not let in yet.
    pub unauthenticated_per_source_max: usize,
    /// The most connections that were not let in yet, all edges together.
    pub unauthenticated_max: usize,
    /// Queued events of an OpenClaw client above which those that it can do without are dropped.
    pub event_bytes_max: usize,
    /// How often an OpenClaw client hears that the gateway is there.
    pub tick_interval: Duration,
    /// The most calls of one OpenClaw client that await an answer.
    pub open_calls_max: usize,
    /// Whether `/echo` is there, for test suites of the WebSocket layer.
    pub echoes: bool,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            edge_index: 0,
            run: 0,
            message_bytes_max: 1024 * 1024,
            connections_max: 20_000,
            open_turns_max: 1024,
            reply_bytes_max: 4 * 1024 * 1024,
            outbound_bytes_max: 256 * 1024,
            edge_outbound_bytes_max: 64 * 1024 * 1024,
            slow_grace: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(3),
            bad_frames_max: 20,
            admission_timeout: Duration::from_millis(HANDSHAKE_MS_MAX),
            unauthenticated_per_source_max: 32,
            unauthenticated_max: 1024,
            event_bytes_max: 256 * 1024,
            tick_interval: Duration::from_secs(30),
            open_calls_max: 256,
            echoes: false,
        }
    }
}

/// Why an edge cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The listening socket cannot be used.
    #[error("the listening socket cannot be used by edge {edge_index}")]
    Listener {
        /// Which edge.
        edge_index: usize,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The bell cannot be waited for.
    #[error("the bell of edge {edge_index} cannot be waited for")]
    Bell {
        /// Which edge.
        edge_index: usize,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A ring holds what no shard writes.
    #[error("the link of edge {edge_index} to shard {shard_index} is poisoned")]
    Poisoned {
        /// Which edge.
        edge_index: usize,
        /// Which shard.
        shard_index: usize,
        /// What was found.
        #[source]
        source: Poison,
    },
    /// There must be at least one shard, and a place for the counters.
    #[error("edge {edge_index} was given {shard_count} shards and counters for {edge_count} edges")]
    Wiring {
        /// Which edge.
        edge_index: usize,
        /// Links it was given.
        shard_count: usize,
        /// Places for counters there are.
        edge_count: usize,
    },
}

/// Serves clients until the phase is [`Phase::Closing`] (or its sender is gone) and all have been told.
///
/// Runs on a current-thread runtime with its I/O and time drivers enabled.
pub async fn serve(
    options: EdgeOptions,
    listener: std::net::TcpListener,
    ports: ShardPorts,
    shared: Arc<EdgeShared>,
    phase: watch::Receiver<Phase>,
) -> Result<(), EdgeError> {
    let edge_index = options.edge_index;
    if ports.links.is_empty() || shared.stats.len() <= edge_index {
        let (shard_count, edge_count) = (ports.links.len(), shared.stats.len());
        return Err(EdgeError::Wiring { edge_index, shard_count, edge_count });
    }
    let broken = |source| EdgeError::Listener { edge_index, source };
    listener.set_nonblocking(true).map_err(broken)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(broken)?;
    let bell = pump::Bell::new(&ports).map_err(|source| EdgeError::Bell { edge_index, source })?;
    let edge = Rc::new(Edge::new(options, ports, shared));
    LocalSet::new().run_until(run(edge, listener, bell, phase)).await
}

async fn run(
    edge: Rc<Edge>,
    listener: tokio::net::TcpListener,
    bell: pump::Bell,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), EdgeError> {
    let mut pump = tokio::task::spawn_local(pump::run(Rc::clone(&edge), bell));
    let clock = tokio::task::spawn_local(pump::tick(Rc::clone(&edge)));
    let flushing = {
        let edge = Rc::clone(&edge);
        tokio::task::spawn_local(async move { edge.flush_late().await })
    };
    let access = tokio::task::spawn_local(pump::watch_access(Rc::clone(&edge)));
    let deltas = tokio::task::spawn_local(runs::flush_due(Rc::clone(&edge)));
    let post = tokio::task::spawn_local(events::run(Rc::clone(&edge)));
    let accepting = tokio::task::spawn_local(http::accept(Rc::clone(&edge), listener));
    let failed = loop {
        let wanted = *phase.borrow_and_update();
        edge.set_phase(wanted);
        if wanted == Phase::Closing {
            break None;
        }
        tokio::select! {
            changed = phase.changed() => {
                if changed.is_err() {
                    edge.set_phase(Phase::Closing);
                    break None;
                }
            }
            failure = edge.failure() => break Some(failure),
            ended = &mut pump => match ended {
                Ok(failure) => break Some(failure),
                // Without it nobody would get a reply: whoever watches this thread has to know.
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
        }
    };
    accepting.abort();
    if let Some(failure) = failed {
        edge.set_phase(Phase::Closing);
        let _ = goodbye(&edge).await; // The cause is told, not how many clients missed it.
        return Err(failure);
    }
    if goodbye(&edge).await.is_err() {
        tracing::warn!(edge = edge.options.edge_index, "some clients did not take the goodbye in time");
    }
    runs::forget_all(&edge);
    pump.abort();
    post.abort();
    deltas.abort();
    access.abort();
    clock.abort();
    flushing.abort();
    Ok(())
}

/// Waits until all connections are gone, for as long as that may take.
async fn goodbye(edge: &Edge) -> Result<(), tokio::time::error::Elapsed> {
    tokio::time::timeout(edge.options.close_timeout * 3, edge.all_gone()).await
}
