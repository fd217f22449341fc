//! What a running gateway says about itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use adapters::edge::{AgentHealth, HealthReport, HealthStatus};
use engine::event::ShardIndex;
use engine::journal::entry::JournalState;
use engine::stats::{Counters, SharedCounters};

use crate::process_usage;

/// The state of every agent and journal, written by the control thread and read by the pages of the edges.
///
/// A lock, since it is off the hot path: agents change state a few times an hour.
#[derive(Debug, Default)]
pub struct AgentBoard {
    agents: Mutex<Vec<AgentHealth>>,
    /// By shard, as far as any has been heard of.
    journals: Mutex<Vec<JournalState>>,
}

impl AgentBoard {
    /// Replaces what is known of all agents.
    pub fn publish(&self, agents: Vec<AgentHealth>) {
        // A writer that panicked left the list whole: it is replaced in one assignment.
        *self.agents.lock().unwrap_or_else(PoisonError::into_inner) = agents;
    }

    /// Notes how the journal of a shard is.
    pub fn note_journal(&self, shard: ShardIndex, state: JournalState) {
        // As above: one assignment.
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::from(shard.0);
        if journals.len() <= index {
            journals.resize(index + 1, JournalState::Writing);
        }
        journals[index] = state;
    }

    /// How the journal is that is worst off.
    fn worst_journal(&self) -> JournalState {
        let journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        journals.iter().copied().max().unwrap_or_default()
    }

    fn read(&self) -> Vec<AgentHealth> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the pages need to know of the gateway.
#[derive(Debug)]
pub struct HealthSource {
    /// When it started.
    pub started: Instant,
    /// What runs its shards.
    pub runtime: &'static str,
    /// Counters of its shards. Arc: the shards publish them.
    pub shards: Vec<Arc<SharedCounters>>,
    /// Its agents. Arc: the control thread publishes them.
    pub agents: Arc<AgentBoard>,
    /// Tells whether it is going down. Arc: the control thread raises it.
    pub draining: Arc<std::sync::atomic::AtomicBool>,
}

impl HealthSource {
    /// What all shards together have counted.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for shard in &self.shards {
            sum += shard.read();
        }
        sum
    }

    /// In one word.
    pub fn status(&self) -> HealthStatus {
        // Relaxed: a single flag, and nobody relies on when exactly it is seen.
        let draining = self.draining.load(std::sync::atomic::Ordering::Relaxed);
        match (self.agents.worst_journal(), draining) {
            (JournalState::Failed, _) => HealthStatus::Failed,
            (_, true) => HealthStatus::Draining,
            (JournalState::Full, false) => HealthStatus::Full,
            (JournalState::Writing, false) => HealthStatus::Healthy,
        }
    }

    /// As of now. Reads counters and one file of /proc; never waits for a shard.
    pub fn report(&self) -> HealthReport {
        let sum = self.counters();
        let status = self.status();
        HealthReport {
            ok: status == HealthStatus::Healthy,
            status,
            uptime_seconds: self.started.elapsed().as_secs(),
            connected_channels: Vec::new(),
            active_sessions: sum.sessions,
            queued_messages: sum.messages_queued,
            // The tool registry comes with the tools; until then there is none to count.
            registered_tools: 0,
            memory_usage_mb: process_usage::resident_bytes() / (1024 * 1024),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: self.runtime.to_owned(),
            shards: u32::try_from(self.shards.len()).unwrap_or(u32::MAX),
            agents: self.agents.read(),
        }
    }
}
