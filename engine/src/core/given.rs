//! Agents come, and end turns: what they are given out of their queues is noted like what they are given at once.

use shm_transport::envelope::Kind;

use super::agents::{Agents, Ended};
use super::turns::Turns;
use super::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect, InstanceId};
use crate::time::Moment;

impl ShardCore {
    /// Whether that incarnation of an agent of this shard has been given what it has not ended.
    pub fn has_work(&self, instance: InstanceId) -> bool {
        self.agents.has_work(instance)
    }

    /// Agent role: a new incarnation is given what waits.
    pub(super) fn agent_up(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        instance: InstanceId,
        effects: &mut Effects<'_>,
    ) {
        // If one of an earlier gateway was to be adopted, it is gone.
        self.tell_heard(agent, effects);
        self.noting(now, effects, |agents, turns, effects| agents.up(now, agent, instance, turns, effects));
    }

    /// Agent role: an agent of an earlier gateway has said what it works on, and is given what waits.
    pub(super) fn agent_answered(&mut self, now: Moment, agent: AgentIndex, effects: &mut Effects<'_>) {
        self.noting(now, effects, |agents, turns, effects| agents.give_out(now, agent, turns, effects));
    }

    /// Agent role: an agent has ended a turn, and is given what waits.
    pub(super) fn agent_finished(
        &mut self,
        now: Moment,
        instance: InstanceId,
        ended: (u64, Ended),
        effects: &mut Effects<'_>,
    ) {
        self.noting(now, effects, |agents, turns, effects| {
            agents.finish(now, instance, ended, turns, effects)
        });
    }

    /// Both roles: an agent is expected again.
    pub(super) fn agent_expected(&mut self, agent: AgentIndex) {
        if let Some(why) = self.unavailable.get_mut(agent.0 as usize) {
            *why = None;
        }
        self.conversations.starts(agent);
        self.agents.expected(agent);
    }

    /// Of messages of other shards, those know when they sent them.
    fn noting(
        &mut self,
        now: Moment,
        effects: &mut Effects<'_>,
        work: impl FnOnce(&mut Agents, &Turns, &mut Effects<'_>),
    ) {
        let Self { agents, turns, recorder, latencies, .. } = self;
        work(agents, turns, &mut |effect| {
            if let Effect::ToAgent { route, body, .. } = effect
                && body.kind() == Kind::Message
                && let Some(open) = turns.get(route.turn)
            {
                latencies.dispatch.record(now.since(open.seen));
                recorder.dispatched(open.flight, open.agent, open.attempt, now);
            }
            effects(effect);
        });
    }
}
