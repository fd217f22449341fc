//! Agents that serve one session at a time: whom, and that nobody else gets in.
//!
//! A process that has been given a turn of a session is never given one of another. So an agent serves a session until
//! its process is gone: it rests, is not available, or has been drained and is started anew. One that has died and is
//! started again goes on with the session, since it remembers nothing.

use super::{Agent, Agents, Presence};
use crate::core::{AgentDefinition, Effects};
use crate::event::{AgentIndex, Effect, Tenant, Tenure};
use crate::planted::{self, Bug};

/// Whom an agent serves at first.
pub(super) fn first(definition: &AgentDefinition) -> Tenant {
    if definition.conversation_pool.is_some() { Tenant::Nobody } else { Tenant::Everybody }
}

impl Agent {
    /// Whether a turn of that session may be given to it.
    pub(super) fn admits(&self, session: u64) -> bool {
        match self.tenant {
            // Of a process of an earlier gateway nobody asks for turns but whose claims have been accepted.
            Tenant::Everybody | Tenant::Nobody | Tenant::Unknown => true,
            Tenant::Session(tenant) => tenant == session,
        }
    }

    /// It serves that session from now on, if it serves one at a time.
    pub(super) fn begin_tenure(&mut self, index: AgentIndex, session: u64, effects: &mut Effects<'_>) {
        if matches!(self.tenant, Tenant::Nobody | Tenant::Unknown) {
            if !planted::is(Bug::SeatNotKept) {
                self.tenant = Tenant::Session(session);
            }
            effects(Effect::AgentTenure { agent: index, tenure: Tenure::Begun(session) });
        }
    }

    /// Its process has served whom an earlier gateway knew.
    pub(super) fn forget_tenant(&mut self) {
        if self.tenant != Tenant::Everybody {
            self.tenant = Tenant::Unknown;
        }
    }

    /// Its process is gone for good.
    pub(super) fn end_tenure(&mut self) {
        if self.tenant != Tenant::Everybody {
            self.tenant = Tenant::Nobody;
        }
    }
}

impl Agents {
    /// An agent has no process, and is started for the next session. Returns the turns that waited for it.
    pub fn rest(&mut self, index: AgentIndex) -> Vec<(u64, u32)> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        debug_assert!(agent.in_flight.is_empty(), "the last incarnation has been taken down");
        agent.presence = Presence::Down;
        agent.draining = None;
        agent.end_tenure();
        self.take_waiting(index)
    }

    /// Whether an agent that has said what it works on works on nothing, and may have served somebody.
    pub fn has_lost_its_session(&self, index: AgentIndex) -> bool {
        let agent = &self.agents[index.0 as usize];
        agent.tenant == Tenant::Unknown && agent.in_flight.is_empty()
    }
}
