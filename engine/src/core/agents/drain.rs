//! An agent on its way out: it gets nothing more, ends what it has, and is told to finish when it has ended it.

use shm_transport::envelope::{Body, Route};

use super::{Agent, Agents, Presence};
use crate::core::mesh::GIVEN_BACK_FULL;
use crate::core::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect};
use crate::time::Moment;

/// How an agent leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Draining {
    /// Whether others take what is for it; else that waits for its next incarnation.
    pub(super) others: bool,
    /// Whether it has been told to finish.
    told: bool,
}

impl Agent {
    /// Tells an agent that drains to finish, once it has nothing in hand.
    pub(super) fn end_if_idle(&mut self, effects: &mut Effects<'_>) {
        // One that is asked what it works on has something, as far as is known.
        if self.in_flight.is_empty() && !matches!(self.presence, Presence::Called(_)) {
            self.tell_to_finish(effects);
        }
    }

    fn tell_to_finish(&mut self, effects: &mut Effects<'_>) {
        let instance = self.instance();
        let (Some(draining), Some(instance)) = (&mut self.draining, instance) else { return };
        if !std::mem::replace(&mut draining.told, true) {
            effects(Effect::ToAgent { instance, route: Route::default(), body: Body::STOP });
        }
    }
}

impl Agents {
    /// An agent gets nothing more. Returns the turns that waited for it, if others take them.
    pub fn drain(&mut self, index: AgentIndex, others: bool, effects: &mut Effects<'_>) -> Vec<(u64, u32)> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        let told = agent.draining.is_some_and(|draining| draining.told);
        agent.draining = Some(Draining { others, told });
        agent.end_if_idle(effects);
        if others { self.take_waiting(index) } else { Vec::new() }
    }

    /// None will follow. Returns the turns that waited for it.
    pub fn unavailable(&mut self, index: AgentIndex, detail: &str) -> Vec<(u64, u32)> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        agent.presence = Presence::Unavailable(detail.to_owned());
        agent.end_tenure();
        self.take_waiting(index)
    }

    /// One is expected again.
    pub fn expected(&mut self, index: AgentIndex) {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return };
        if matches!(agent.presence, Presence::Unavailable(_)) {
            agent.presence = Presence::Down;
        }
        if agent.draining.take().is_some_and(|draining| draining.others) {
            agent.end_tenure();
        }
    }

    /// Takes the turns that wait for an agent.
    pub(super) fn take_waiting(&mut self, index: AgentIndex) -> Vec<(u64, u32)> {
        let waiting = self.agents[index.0 as usize].queue.drain();
        self.waiting -= waiting.len();
        waiting.iter().map(|waiting| (waiting.route.turn, waiting.route.attempt)).collect()
    }

    /// An agent that drains is to finish now, whatever it has in hand.
    pub fn finish_now(&mut self, index: AgentIndex, effects: &mut Effects<'_>) {
        if let Some(agent) = self.agents.get_mut(index.0 as usize) {
            agent.tell_to_finish(effects);
        }
    }
}

impl ShardCore {
    /// Both roles: an agent gets no new turns. Those that wait for it go to others, if there are any.
    pub(in crate::core) fn agent_draining(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        others: Option<&str>,
        effects: &mut Effects<'_>,
    ) {
        if let Some(unavailable) = self.unavailable.get_mut(agent.0 as usize) {
            *unavailable = others.map(Into::into);
        }
        // One of an earlier gateway may still claim what it has in hand, and goes on serving that session to the end of it.
        if others.is_some() && !self.adoption.awaits(agent) {
            self.conversations.vacate(agent);
        }
        if self.home(agent) != self.setting.shard {
            return;
        }
        for (turn, attempt) in self.agents.drain(agent, others.is_some(), effects) {
            // Another one gets it, at once: that is no attempt, and no failure.
            self.give_back(now, agent, (turn, attempt), GIVEN_BACK_FULL, "0", effects);
        }
    }
}
