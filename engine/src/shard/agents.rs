//! The rings of agents: attached, read, written to and given back; and their doorbells.
//!
//! What an agent has said stays in its ring until the journal has it, so that the next gateway reads it again if this one
//! dies before. That is back-pressure, and no more: a journal that is full or has failed keeps agents waiting as long as
//! it is full, and those of a failed one not at all.

use std::os::fd::OwnedFd;
use std::time::Duration;

use shm_transport::envelope::Message;
use shm_transport::link::{Link, Receiver, SendError};

use super::{RECORDS_PER_TURN, Shard};
use crate::event::{Input, InstanceId};
use crate::time::Moment;

/// How often a hot agent may have nothing to say when the shard goes to sleep before it turns cold.
pub(super) const QUIET_SLEEPS_MAX: u8 = 8;
/// How often in a row an agent may ring without a message, and without having made room for one.
pub const EMPTY_RINGS_MAX: u32 = 64;
/// For how long the bell of one that did is not listened to, at first; each time twice as long.
pub const DEAF_MIN: Duration = Duration::from_millis(10);
/// The longest that a bell is not listened to.
pub const DEAF_MAX: Duration = Duration::from_secs(1);

/// A new doorbell that the driver has to listen to.
#[derive(Debug)]
pub struct NewDoorbell {
    /// Whose.
    pub instance: InstanceId,
    /// The eventfd.
    pub doorbell: OwnedFd,
}

/// The receiving side of one agent.
#[derive(Debug)]
pub(super) struct AgentInput {
    pub(super) receiver: Receiver,
    /// Up to where what it has said is kept.
    kept: u64,
    pub(super) hot: bool,
    pub(super) quiet_sleeps: u8,
    /// Rings since it last said something or made room.
    empty_rings: u32,
    /// For how long its bell is not listened to the next time.
    deaf: Duration,
}

impl AgentInput {
    /// It said something, or made room for something.
    fn useful(&mut self) {
        self.empty_rings = 0;
        self.deaf = DEAF_MIN;
    }
}

impl Shard {
    pub(super) fn attach(
        &mut self,
        now: Moment,
        instance: InstanceId,
        link: Link,
        doorbell: OwnedFd,
        start_timeout: Duration,
    ) {
        let Link { sender, receiver } = link;
        self.outputs.agents.insert(instance, sender);
        let kept = receiver.position();
        let heard = AgentInput { receiver, kept, hot: true, quiet_sleeps: 0, empty_rings: 0, deaf: DEAF_MIN };
        self.agents.insert(instance, heard);
        self.hot.push(instance);
        self.new_doorbells.push(NewDoorbell { instance, doorbell });
        self.heartbeats.attach(now, instance, start_timeout);
    }

    pub(super) fn detach(&mut self, instance: InstanceId) {
        self.agents.remove(&instance);
        self.outputs.agents.remove(&instance);
        self.hot.retain(|&hot| hot != instance);
        self.heartbeats.detach(instance);
        self.gone_doorbells.push(instance);
    }

    pub(super) fn receive_agents(&mut self, now: Moment) -> usize {
        let mut work = 0;
        for index in 0..self.hot.len() {
            if self.outputs.edges_behind() || self.outputs.shards_behind() || self.outputs.journal_behind() {
                break;
            }
            let Some(&instance) = self.hot.get(index) else { break };
            work += self.receive_agent(now, instance);
        }
        work
    }

    /// Receives all that a dead agent has left in its ring: it may be the replies to what it had in its hands.
    pub(super) fn hear_last_words(&mut self, now: Moment, instance: InstanceId) {
        // Ends: nobody adds to the ring any more, and a poisoned one gives nothing.
        while self.receive_agent(now, instance) > 0 {
            if let Some(agent) = self.agents.get_mut(&instance) {
                agent.receiver.release();
            }
        }
    }

    fn receive_agent(&mut self, now: Moment, instance: InstanceId) -> usize {
        let Self { core, agents, outputs, .. } = self;
        let Some(agent) = agents.get_mut(&instance) else { return 0 };
        let each = |message: Message<'_>| {
            core.on(now, Input::FromAgent { instance, message }, &mut |effect| outputs.apply(effect));
        };
        match agent.receiver.receive(RECORDS_PER_TURN, each) {
            Ok(0) => 0,
            Ok(count) => {
                agent.quiet_sleeps = 0;
                agent.useful();
                let until = agent.receiver.position();
                core.on(now, Input::AgentRead { instance, until }, &mut |effect| outputs.apply(effect));
                count
            }
            Err(poison) => {
                outputs.fenced.push((instance, poison));
                0
            }
        }
    }

    /// Gives back what is kept of what agents have said, and the beginnings of messages that need the room for the rest.
    pub(super) fn release_agents(&mut self) {
        let Self { outputs, agents, hot, .. } = self;
        for (instance, until) in outputs.releases.drain(..) {
            if let Some(agent) = agents.get_mut(&instance) {
                agent.kept = until;
                agent.receiver.release_until(until);
            }
        }
        for instance in hot {
            if let Some(agent) = agents.get_mut(instance) {
                agent.receiver.release_until(agent.kept);
            }
        }
    }

    pub(super) fn flush_agent(&mut self, instance: InstanceId) {
        let Some(sender) = self.outputs.agents.get_mut(&instance) else { return };
        let before = sender.backlog_bytes();
        if let Err(SendError::Poisoned(poison)) = sender.flush() {
            self.outputs.fenced.push((instance, poison));
        } else if sender.backlog_bytes() < before
            && let Some(agent) = self.agents.get_mut(&instance)
        {
            agent.useful();
        }
    }

    /// Looks at an agent's ring from now on, without being rung.
    pub(super) fn warm(&mut self, instance: InstanceId) {
        let Some(agent) = self.agents.get_mut(&instance) else { return };
        agent.quiet_sleeps = 0;
        if !agent.hot {
            agent.hot = true;
            agent.receiver.disarm();
            self.hot.push(instance);
        }
    }

    /// An agent has rung its doorbell. If it does so too often without a cause: for how long the driver should not
    /// listen to it.
    pub fn rung(&mut self, instance: InstanceId) -> Option<Duration> {
        self.warm(instance);
        let agent = self.agents.get_mut(&instance)?;
        agent.empty_rings += 1;
        if agent.empty_rings <= EMPTY_RINGS_MAX {
            return None;
        }
        let deaf = agent.deaf;
        agent.empty_rings = 0;
        agent.deaf = (deaf * 2).min(DEAF_MAX);
        Some(deaf)
    }
}
