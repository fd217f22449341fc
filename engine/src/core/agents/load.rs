//! What the agents of a shard have to do, and how that goes: read by whoever decides on pools and looks for sick ones.

use std::time::Duration;

use super::Agents;
use crate::core::ShardCore;
use crate::event::{AgentIndex, Effect, InstanceId, Tenant};
use crate::supervision::sickness::Outcomes;
use crate::time::Moment;

/// Bytes of what an agent may say of its software.
const SOFTWARE_BYTES_MAX: usize = 64;

/// An agent has said hello. What it says of its software is told if it can be shown.
pub fn ready(instance: InstanceId, software: &str) -> Effect<'_> {
    let shown =
        software.len() <= SOFTWARE_BYTES_MAX && !software.contains(|letter: char| letter.is_control());
    Effect::AgentReady { instance, software: if shown { software } else { "" } }
}

/// How a turn ended at an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With an answer.
    Answered,
    /// The agent said that it cannot.
    Failed,
}

/// What an incarnation has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done(Outcomes);

impl Done {
    pub(super) fn note(&mut self, ended: Ended, took: Duration) {
        match ended {
            Ended::Answered => self.0.answered += 1,
            Ended::Failed => self.0.failed += 1,
        }
        self.0.busy += took;
    }
}

/// What an agent has to do, and what its incarnation has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLoad {
    /// Which.
    pub agent: AgentIndex,
    /// Turns in its hands.
    pub open: usize,
    /// Turns that wait for it.
    pub queued: usize,
    /// How long the oldest of those has waited.
    pub oldest_wait: Duration,
    /// What its incarnation has ended.
    pub outcomes: Outcomes,
    /// Whom it serves.
    pub tenant: Tenant,
}

impl Agents {
    /// Whether that incarnation is the one of its agent.
    pub fn is_attached(&self, instance: InstanceId) -> bool {
        self.by_instance.contains_key(&instance.0)
    }

    /// The incarnation of an agent that is attached.
    pub fn instance_of(&self, index: AgentIndex) -> Option<InstanceId> {
        self.agents.get(index.0 as usize)?.instance()
    }

    fn load_of(&self, now: Moment, index: AgentIndex) -> Option<AgentLoad> {
        let agent = self.agents.get(index.0 as usize)?;
        Some(AgentLoad {
            agent: index,
            open: agent.in_flight.len(),
            queued: agent.queue.len(),
            oldest_wait: agent.queue.oldest_wait(now),
            outcomes: agent.done.0,
            tenant: agent.tenant,
        })
    }
}

impl ShardCore {
    /// The loads of the agents that live on this shard, in order.
    pub fn agent_loads(&self, now: Moment) -> Vec<AgentLoad> {
        let indices = (0..self.definitions.len()).filter_map(|index| u32::try_from(index).ok());
        let own = indices.map(AgentIndex).filter(|&index| self.home(index) == self.setting.shard);
        own.filter_map(|index| self.agents.load_of(now, index)).collect()
    }
}
