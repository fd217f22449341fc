//! Messages that wait for one member of a pool while another has nothing to do: they are given to whoever has least.

use super::Agents;
use crate::core::dispatch::message_of;
use crate::core::mesh::GIVEN_BACK_SHARED;
use crate::core::turns::State;
use crate::core::{Effects, ShardCore};
use crate::event::AgentIndex;
use crate::time::Moment;

/// Turns that are given back at once: others wait meanwhile.
const SHARED_MAX: usize = 1024;

impl Agents {
    /// Takes turns that wait for an agent, those first that would be next.
    fn share(&mut self, now: Moment, index: AgentIndex) -> Vec<(u64, u32)> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        let popped = std::iter::from_fn(|| agent.queue.pop(now)).take(SHARED_MAX);
        let turns: Vec<_> =
            popped.map(|waiting| (waiting.item.route.turn, waiting.item.route.attempt)).collect();
        self.waiting -= turns.len();
        turns
    }
}

impl ShardCore {
    /// Agent role: what waits for an agent is routed anew.
    pub(in crate::core) fn agent_shares(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        effects: &mut Effects<'_>,
    ) {
        if self.home(agent) != self.setting.shard {
            return;
        }
        for (turn, attempt) in self.agents.share(now, agent) {
            self.give_back(
                now,
                agent,
                (turn, attempt),
                GIVEN_BACK_SHARED,
                "another one may take it",
                effects,
            );
        }
    }

    /// Session role: a turn that was given back goes to whoever has least to do, which is no attempt and no failure.
    pub(in crate::core) fn shared(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        // Until it is given out again, which is now.
        open.state = State::BackingOff { tried: false };
        let (session, before) = (open.session, open.agent);
        self.sessions.set_agent(session, None);
        let taker = self.turns.get(turn).map(|open| self.route(now, session, message_of(&open.body)));
        let taker = taker.and_then(Result::ok).unwrap_or(before);
        self.settle(now, session, taker);
        if let Some(open) = self.turns.get_mut(turn) {
            open.agent = taker;
        }
        self.dispatch(now, turn, effects);
    }
}
