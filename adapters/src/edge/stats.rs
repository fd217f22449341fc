//! What the rest of the process may see of the edges, and what they may ask it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use serde::Serialize;

use super::admission::Places;
use super::driver::Channels;
use super::mailbox::Mailbox;
use super::operator;
use super::pages::PageDesk;
use super::runs::RunBoard;
use crate::access::Access;
use crate::openclaw::backend::{Answer, Backend, OwnedCall};
use crate::openclaw::event::{EventName, EventSet, StateVersion};
use crate::openclaw::method::MethodSet;
use crate::openclaw::presence::{Entry, Presence};

/// Shared by all edges and the gateway.
pub struct EdgeShared {
    /// Asks the gateway how it is. Called on an edge thread, so it must not block.
    pub health: Box<dyn Fn() -> HealthReport + Send + Sync>,
    /// Origins of pages that may connect, beside those of this machine. Read with each upgrade and each page; changed when the
    /// configuration is.
    allowed_origins: RwLock<Vec<String>>,
    /// Whether completions are served, and the models that stand for agents.
    pub completions: bool,
    /// Where pages are made that need more than an edge knows.
    pub pages: PageDesk,
    /// By edge.
    pub stats: Vec<EdgeStats>,
    /// Who is let in. Arc: the gateway changes it.
    pub access: Arc<Access>,
    /// Serves the calls of OpenClaw clients that are no turns of agents. Arc: the gateway's own.
    pub backend: Arc<dyn Backend>,
    /// OpenClaw clients that are connected. Arc: the gateway tells of them.
    pub presence: Arc<Presence>,
    /// What OpenClaw clients are told of the gateway.
    pub about: About,
    /// Places for those who were not let in yet. Arc: each place gives itself back.
    pub(super) places: Arc<Places>,
    /// Channels that drivers have connected. Arc: each driver takes its own out.
    pub(super) channels: Arc<Channels>,
    /// Runs of agents, whichever edge they belong to.
    pub(super) runs: RunBoard,
    /// By edge.
    pub(super) mailboxes: Vec<Mailbox>,
}

/// What OpenClaw clients are told of the gateway.
#[derive(Clone, Debug)]
pub struct About {
    /// The version of this build.
    pub version: String,
    /// Names this run of the gateway.
    pub boot_id: String,
    /// The agent that is meant where none is named; empty if there is none.
    pub default_agent: String,
    /// Where the configuration lies; told to admins only.
    pub config_path: Option<String>,
    /// Where the state lies; told to admins only.
    pub state_folder: Option<String>,
    /// When it started.
    pub started: Instant,
    /// All events that are sent: those of the edges, and what the gateway [publishes](EdgeShared::publish).
    pub events: EventSet,
}

impl About {
    /// A gateway that started now, of this version, and publishes these events.
    pub fn new(version: &str, boot_id: &str, published: &[EventName]) -> Self {
        Self {
            version: version.to_owned(),
            boot_id: boot_id.to_owned(),
            default_agent: String::new(),
            config_path: None,
            state_folder: None,
            started: Instant::now(),
            events: EventSet::of(&[operator::EVENTS, published].concat()),
        }
    }
}

impl Default for About {
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"), "unnamed", &[])
    }
}

/// Serves nothing.
#[derive(Debug)]
struct NoBackend;

impl Backend for NoBackend {
    fn methods(&self) -> MethodSet {
        MethodSet::NONE
    }
    // Never called, since it has no methods; the answer says so by itself.
    fn call(&self, _: OwnedCall, _: Answer) {}
    fn health(&self) -> Vec<u8> {
        b"{}".to_vec()
    }
    fn presence(&self) -> Vec<u8> {
        b"[]".to_vec()
    }
    fn state_version(&self) -> StateVersion {
        StateVersion::default()
    }
}

impl EdgeShared {
    /// For so many edges, which serve OpenClaw clients no more than turns of agents.
    pub fn new(
        edge_count: usize,
        health: Box<dyn Fn() -> HealthReport + Send + Sync>,
        access: Arc<Access>,
    ) -> Self {
        Self {
            health,
            allowed_origins: RwLock::default(),
            completions: false,
            pages: PageDesk::closed(),
            stats: (0..edge_count).map(|_| EdgeStats::default()).collect(),
            access,
            backend: Arc::new(NoBackend),
            presence: Arc::new(Presence::new(Entry::default())),
            about: About::default(),
            places: Arc::default(),
            channels: Arc::default(),
            runs: RunBoard::default(),
            mailboxes: (0..edge_count).map(|_| Mailbox::default()).collect(),
        }
    }

    /// With calls that the gateway serves.
    pub fn with_backend(self, backend: Arc<dyn Backend>) -> Self {
        Self { backend, ..self }
    }

    /// With pages of these origins beside those of this machine.
    pub fn with_allowed_origins(self, allowed_origins: Vec<String>) -> Self {
        Self { allowed_origins: RwLock::new(allowed_origins), ..self }
    }

    /// Pages of these origins may connect, beside those of this machine.
    pub fn allowed_origins(&self) -> RwLockReadGuard<'_, Vec<String>> {
        // A list is replaced as a whole.
        self.allowed_origins.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on pages of these may.
    pub fn set_allowed_origins(&self, allowed_origins: Vec<String>) {
        *self.allowed_origins.write().unwrap_or_else(PoisonError::into_inner) = allowed_origins;
    }

    /// With completions, if they are wanted.
    pub fn with_completions(self, completions: bool) -> Self {
        Self { completions, ..self }
    }

    /// With pages that the gateway makes.
    pub fn with_pages(self, pages: PageDesk) -> Self {
        Self { pages, ..self }
    }

    /// With this list of clients that are connected.
    pub fn with_presence(self, presence: Arc<Presence>) -> Self {
        Self { presence, ..self }
    }

    /// With what clients are told.
    pub fn with_about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// One counter, summed over all edges.
    pub fn sum(&self, counter: impl Fn(&EdgeStats) -> &Counter) -> u64 {
        self.stats.iter().map(|stats| counter(stats).get()).sum()
    }

    /// Whether no message awaits a reply and no frame awaits its socket, on any edge.
    pub fn drained(&self) -> bool {
        self.sum(|stats| &stats.open_turns) == 0 && self.sum(|stats| &stats.unflushed) == 0
    }
}

impl std::fmt::Debug for EdgeShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeShared").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// A number with one writer, its edge, and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// As of about now.
    pub fn get(&self) -> u64 {
        // Relaxed: a number to look at; nothing else is read because of it.
        self.0.load(Ordering::Relaxed)
    }

    /// Adds; no read-modify-write, since only one thread writes.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        // Relaxed: as above.
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes away, never below zero.
    #[inline]
    pub(crate) fn sub(&self, count: u64) {
        // Relaxed: as above.
        self.0.store(self.get().saturating_sub(count), Ordering::Relaxed);
    }
}

/// Counters of one edge, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EdgeStats {
    /// Sockets now, WebSocket or not.
    pub sockets: Counter,
    /// Connections now: of WebSocket, and requests that an agent answers.
    pub connections: Counter,
    /// Messages that await a reply now.
    pub open_turns: Counter,
    /// Connections now whose frames are not all with the kernel.
    pub unflushed: Counter,
    /// Messages handed to shards, ever.
    pub received: Counter,
    /// Turns that ended with a reply or an acceptance, ever.
    pub answered: Counter,
    /// Frames and turns that ended with an error frame, ever.
    pub refused: Counter,
    /// Connections closed for reading too slowly, ever.
    pub slow_closed: Counter,
    /// Events that a client missed because it read too slowly, ever.
    pub dropped_events: Counter,
    /// Replies that came for nobody, ever: their connection or turn was gone.
    pub late: Counter,
}

/// How the gateway is, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// It takes messages.
    Healthy,
    /// It finishes what is open.
    Draining,
    /// The disk of its journal is full: it finishes what is open, and refuses new messages.
    Full,
    /// Its journal cannot be written: nothing is acknowledged or answered before the next start.
    Failed,
}

/// An agent, as health tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AgentHealth {
    /// Its name.
    pub name: String,
    /// Its state, in one word.
    pub status: String,
}

/// The body of `/health` and of a status frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HealthReport {
    /// Whether messages are taken.
    pub ok: bool,
    /// The same in a word.
    pub status: HealthStatus,
    /// Since the gateway started.
    pub uptime_seconds: u64,
    /// Channels through which somebody is connected. The edge adds its own.
    pub connected_channels: Vec<String>,
    /// Sessions that shards hold.
    pub active_sessions: u64,
    /// Messages that wait for an agent.
    pub queued_messages: u64,
    /// Tools that agents may call.
    pub registered_tools: u64,
    /// Memory of the gateway, in MiB.
    pub memory_usage_mb: u64,
    /// Process id of the gateway.
    pub pid: u32,
    /// Version of the gateway.
    pub version: String,
    /// What drives its shards.
    pub runtime: String,
    /// How many shards it has.
    pub shards: u32,
    /// All agents it knows.
    pub agents: Vec<AgentHealth>,
}
