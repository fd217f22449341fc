//! What a core is made for, and what it may hold.

use std::time::Duration;

use shm_transport::envelope::DurabilityClass;

use super::LogLimits;
use crate::breaker::BreakerLimits;
use crate::classes::QueueLimits;
use crate::dead_letters::DeadLetterLimits;
use crate::dedup::DedupLimits;
use crate::event::ShardIndex;
use crate::retry::RetryPolicy;
use crate::session::SessionLimits;

/// What a shard may hold, and how patient it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreLimits {
    /// The table of sessions.
    pub sessions: SessionLimits,
    /// Turns that are open at once, dead letters not counted.
    pub turns_max: usize,
    /// Bytes of the messages of open turns.
    pub turn_bytes_max: usize,
    /// The queue of each agent.
    pub agent_queue: QueueLimits,
    /// Bytes of messages in the hands of one agent.
    pub in_flight_bytes_max: usize,
    /// Bytes of replies that are kept for those who ask again.
    pub reply_bytes_max: usize,
    /// Ids that are remembered.
    pub dedup: DedupLimits,
    /// Dead letters that are kept.
    pub dead_letters: DeadLetterLimits,
    /// When a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// When an agent that fails is left alone.
    pub breaker: BreakerLimits,
    /// How much of the log is kept.
    pub log: LogLimits,
    /// Messages whose stages are remembered.
    pub flights: usize,
    /// The class of messages that name none.
    pub durability: DurabilityClass,
    /// What a refused client is told to wait where nothing better is known.
    pub retry_after: Duration,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self {
            sessions: SessionLimits::default(),
            turns_max: 262_144,
            turn_bytes_max: 256 << 20,
            agent_queue: QueueLimits::default(),
            in_flight_bytes_max: 4 << 20,
            reply_bytes_max: 64 << 20,
            dedup: DedupLimits::default(),
            dead_letters: DeadLetterLimits::default(),
            retry: RetryPolicy::default(),
            breaker: BreakerLimits::default(),
            log: LogLimits::default(),
            flights: 65_536,
            durability: DurabilityClass::Memory,
            retry_after: Duration::from_millis(250),
        }
    }
}

/// What every shard knows of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDefinition {
    /// Its own name.
    pub name: String,
    /// How many turns it may have in its hands.
    pub in_flight_max: usize,
    /// The number of its pool, if the members of that serve one session at a time.
    pub conversation_pool: Option<u32>,
}

/// What a core is made for.
#[derive(Clone, Debug)]
pub struct CoreSetting {
    /// Which shard.
    pub shard: ShardIndex,
    /// Of how many.
    pub shard_count: u8,
    /// Counts the runs of the gateway; names the epochs of new streams.
    pub run: u32,
    /// Unix milliseconds at [`Moment::ZERO`].
    pub unix_ms_at_zero: u64,
    /// Where the jitter of retries begins.
    pub seed: u64,
}
