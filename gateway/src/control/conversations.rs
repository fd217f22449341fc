//! Agents that serve one conversation each: started when a session's first message has been given to one, ended when its
//! session needs it no more.
//!
//! Who serves whom is decided by the shard on which an agent lives. This thread hears of it, starts processes, and tells
//! the other shards, so that they do not ask in vain. News may cross: what a shard says at two looks in a row is right.

use engine::event::{AgentIndex, Tenant, Tenure};
use engine::shard::AgentWord;
use engine::supervision::conversations::Seat;
use engine::supervision::pool::Change;
use engine::supervision::{Event, State};

use super::Parts;
use super::agents::{Agents, tell_all};
use super::pools::Policy;
use crate::config::InstancesPer;

/// Whom an agent serves, as far as this thread knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) tenant: Tenant,
    /// Whether its shard has said something else when it was looked at last.
    doubted: bool,
}

impl Known {
    pub(super) fn new(tenant: Tenant) -> Self {
        Self { tenant, doubted: false }
    }

    /// Its shard says that. Gives what is believed from now on, if it is something else than before.
    fn heard(&mut self, tenant: Tenant) -> Option<Tenant> {
        if tenant == self.tenant {
            self.doubted = false;
            return None;
        }
        if !std::mem::replace(&mut self.doubted, true) {
            return None;
        }
        *self = Self::new(tenant);
        Some(tenant)
    }
}

impl Agents {
    /// Whether each process of an agent serves one conversation.
    pub(super) fn serves_one(&self, index: usize) -> bool {
        self.agents[index].config.life.per == InstancesPer::Conversation
    }

    /// A shard says that an agent begins to serve a session, or that one does not need it any more.
    pub(super) fn tenure(&mut self, parts: &mut Parts, agent: AgentIndex, tenure: Tenure) {
        let index = agent.0 as usize;
        let Some(known) = self.pools.tenants.get_mut(index) else { return };
        match tenure {
            Tenure::Begun(session) => {
                *known = Known::new(Tenant::Session(session));
                tell_all(parts, index, &AgentWord::Serves(known.tenant));
                if *self.agents[index].supervisor.state() == State::Created {
                    self.on(parts, index, Event::Start);
                }
                self.start_spares(parts, index);
            }
            Tenure::Over(session) => {
                let its = known.tenant;
                if its == Tenant::Session(session) || its == Tenant::Unknown {
                    self.on(parts, index, Event::Rest);
                }
            }
            Tenure::Lost => {
                let (agent, reason) = (&self.agents[index].config.name, "nobody knows whom it has served");
                tracing::info!(agent, reason, "agent of the gateway before is ended");
                self.on(parts, index, Event::Rest);
            }
        }
        self.publish(parts);
    }

    /// The process of an agent is gone, and the next one is for whoever comes.
    pub(super) fn vacate(&mut self, index: usize) {
        if self.serves_one(index) {
            self.pools.tenants[index] = Known::new(Tenant::Nobody);
        }
    }

    /// All shards have said whom their agents serve: where that is not what they were told, they are told now.
    pub(super) fn compare_tenants(&mut self, parts: &Parts) {
        for index in 0..self.agents.len() {
            let tenant = self.pools.tenant_at_look(index);
            if let Some(tenant) = self.pools.tenants[index].heard(tenant) {
                tell_all(parts, index, &AgentWord::Serves(tenant));
            }
        }
    }

    /// Starts as many members of an agent's pool as are to be free.
    fn start_spares(&mut self, parts: &mut Parts, index: usize) {
        let seats = self.seats(index);
        let (Policy::Conversations(policy), indices) = self.pools.policy_of(index) else { return };
        let starts: Vec<usize> = policy.missing(&seats).into_iter().map(|place| indices[place]).collect();
        for index in starts {
            self.on(parts, index, Event::Start);
        }
    }

    /// Starts and ends members of an agent's pool.
    pub(super) fn look_at_conversations(&mut self, parts: &mut Parts, index: usize) {
        let now = parts.clock.now();
        let seats = self.seats(index);
        let (Policy::Conversations(policy), indices) = self.pools.policy_of(index) else { return };
        let changes = policy.observe(now, &seats);
        let member = |place: usize| indices[place];
        let events: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::Start(place) => (member(place), Event::Start),
                Change::Rest(place) => (member(place), Event::Rest),
            })
            .collect();
        for (index, event) in events {
            if event == Event::Rest {
                tracing::info!(
                    agent = self.agents[index].config.name,
                    "no messages for long: the agent is ended"
                );
            }
            self.on(parts, index, event);
        }
    }

    /// How the members of an agent's pool stand.
    fn seats(&self, index: usize) -> Vec<Seat> {
        let seat = |&index: &usize| Seat {
            load: self.pools.load(index, self.agents[index].supervisor.state()),
            tenant: self.pools.tenants[index].tenant,
        };
        self.pools.members_of(index).iter().map(seat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shard says is believed when it says so twice; what it says late, once, is not.
    #[test]
    fn news_that_cross_are_not_believed() {
        let (nobody, session) = (Tenant::Nobody, Tenant::Session(7));
        let mut known = Known::new(session);
        assert_eq!(known.heard(nobody), None, "said before it served that session");
        assert_eq!(known.heard(session), None);
        assert_eq!(known.heard(nobody), None, "again once");
        assert_eq!(known.heard(nobody), Some(nobody));
        assert_eq!(known.heard(nobody), None);
    }
}
