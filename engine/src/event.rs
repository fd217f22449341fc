//! What can wake a shard, and what it can do about it: two closed enums.

use shm_transport::envelope::{Body, Message, Route};
use shm_transport::record::Poison;

/// Names a shard, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ShardIndex(pub u8);

/// Names an edge thread, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct EdgeIndex(pub u8);

/// Names an agent definition by its place in the agent table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct AgentIndex(pub u32);

impl AgentIndex {
    /// The shard on which the agent lives.
    pub fn home(self, shard_count: u8) -> ShardIndex {
        ShardIndex((self.0 % u32::from(shard_count.max(1))) as u8)
    }
}

/// Names one incarnation of an agent process. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct InstanceId(pub u64);

/// Something happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A client's message, from an edge thread.
    FromEdge {
        /// Which edge thread.
        edge: EdgeIndex,
        /// What it says.
        message: Message<'a>,
    },
    /// A message or a piece of a reply, from another shard.
    FromShard {
        /// Which shard.
        shard: ShardIndex,
        /// What it says.
        message: Message<'a>,
    },
    /// Something an agent said.
    FromAgent {
        /// Which incarnation.
        instance: InstanceId,
        /// What it says.
        message: Message<'a>,
    },
    /// A new incarnation of an agent is attached.
    AgentUp {
        /// Which agent.
        agent: AgentIndex,
        /// The incarnation.
        instance: InstanceId,
    },
    /// An incarnation is gone; another will follow.
    AgentDown {
        /// Which agent.
        agent: AgentIndex,
        /// What happened, as a sentence.
        detail: &'a str,
    },
    /// An agent will not come back for now: who asks for it is refused.
    AgentUnavailable {
        /// Which agent.
        agent: AgentIndex,
        /// Why, as a sentence.
        detail: &'a str,
    },
    /// Tell all agents of this shard to finish.
    StopAgents,
    /// Time has passed.
    Tick,
}

/// What to do about it. Bodies are borrowed from the input or from the core, and end with the call.
#[derive(Clone, Copy, Debug)]
pub enum Effect<'a> {
    /// Send to an edge thread.
    ToEdge {
        /// Which.
        edge: EdgeIndex,
        /// Its routing words.
        route: Route,
        /// What it says.
        body: Body<'a>,
    },
    /// Send to another shard.
    ToShard {
        /// Which.
        shard: ShardIndex,
        /// Its routing words.
        route: Route,
        /// What it says.
        body: Body<'a>,
    },
    /// Send to an agent.
    ToAgent {
        /// Which incarnation.
        instance: InstanceId,
        /// Its routing words.
        route: Route,
        /// What it says.
        body: Body<'a>,
    },
    /// An agent has said its first words.
    AgentReady {
        /// Which incarnation.
        instance: InstanceId,
    },
    /// An agent broke the rules of its ring: nothing further may be read from it.
    Fence {
        /// Which incarnation.
        instance: InstanceId,
        /// What it did.
        poison: Poison,
    },
}
