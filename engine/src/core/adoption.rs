//! Session role, after a start with agents that have outlived the last gateway: which open turns they have.
//!
//! The journal says which turns are open, and not who has them. Each such agent is asked by the shard on which it lives
//! (see [`super::agent_role`]). What it says of a turn comes to the shard of the turn's session as a *claim*, and behind
//! its last claim that it has been *heard*.
//!
//! 1. An open turn that is claimed is held: it goes on where the journal ends, under the attempt that its agent knows.
//! 2. One that is not claimed is given out again as soon as every agent that could have it, or another turn of its
//!    session, has been heard. An agent that dies counts as heard.
//! 3. A claim is refused if the turn has ended, if such a message is not for that agent, if the attempt is an old one,
//!    or if another turn of the session is held. Then the agent is told to cancel, and what it says is not listened to.

use std::collections::BTreeMap;

use shm_transport::envelope::{Body, Kind, Route};

use super::dispatch::{ATTEMPTS_ABSOLUTE_MAX, message_of};
use super::turns::{State, Turn};
use super::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect, ShardIndex};
use crate::planted::{self, Bug};
use crate::routing::RouteRequest;
use crate::time::Moment;

/// The agents that are to be heard.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// Each with the turns that wait for it first of all. In order: a run must be repeatable.
    unheard: BTreeMap<AgentIndex, Vec<u64>>,
}

impl Adoption {
    /// Whether all have been heard.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.unheard.is_empty()
    }

    /// Whether that agent is to be heard.
    pub(super) fn awaits(&self, agent: AgentIndex) -> bool {
        self.unheard.contains_key(&agent)
    }
}

impl ShardCore {
    /// Both roles: these agents will be adopted, or go down.
    pub(super) fn adopting(&mut self, agents: &[AgentIndex]) {
        let known = agents.iter().filter(|agent| (agent.0 as usize) < self.definitions.len());
        self.adoption.unheard.extend(known.map(|&agent| (agent, Vec::new())));
        for &agent in agents {
            if self.conversation_pool(agent).is_some() {
                self.conversations.adopting(agent);
            }
        }
    }

    /// Lets a turn that is to begin wait for the agents that may have it. `false`: there is none.
    #[cold]
    pub(super) fn waits_for_claims(&mut self, turn: u64) -> bool {
        if self.turns.get(turn).is_none_or(|open| open.state != State::Waiting) {
            return false;
        }
        let Some(agent) = self.possible_holder(turn) else { return false };
        if let Some(turns) = self.adoption.unheard.get_mut(&agent) {
            turns.push(turn);
        }
        if let Some(open) = self.turns.get_mut(turn) {
            open.state = State::Unclaimed;
        }
        true
    }

    /// An agent that has not been heard, and may have this turn or another one of its session.
    fn possible_holder(&self, turn: u64) -> Option<AgentIndex> {
        let session = self.turns.get(turn)?.session_hash;
        let claimable = |other| self.turns.get(other).filter(|open| is_claimable(open));
        let unheard = &self.adoption.unheard;
        self.sessions.open_turns(session).filter_map(claimable).find_map(|open| {
            if message_of(&open.body).agent.is_empty() {
                return unheard.keys().next().copied();
            }
            self.one_it_is_for(open, None, |agent| unheard.contains_key(&agent))
        })
    }

    /// One of these agents that the message of a turn could have been given to. One that names nobody may have gone to
    /// whoever its session was with.
    fn one_it_is_for(
        &self,
        open: &Turn,
        affinity: Option<AgentIndex>,
        which: impl Fn(AgentIndex) -> bool,
    ) -> Option<AgentIndex> {
        let request = RouteRequest { rotation: 0, ..self.request(message_of(&open.body), affinity) };
        self.routes.route(&request, |_| 0, which).ok().map(|decision| decision.member)
    }

    /// An agent says that it has a turn of this shard. `false`: it has nothing to do with it any more.
    pub(super) fn claim(&mut self, now: Moment, agent: AgentIndex, turn: u64, attempt: u32) -> bool {
        if self.at_agent(agent, turn, attempt).is_some() {
            // Claimed before, by a word about it.
            return true;
        }
        let Some(open) = self.turns.get(turn) else { return false };
        let Some(attempt) = u16::try_from(attempt).ok().filter(|&attempt| attempt <= ATTEMPTS_ABSOLUTE_MAX)
        else {
            return false;
        };
        let session = open.session;
        let possible = self.adoption.awaits(agent)
            && is_claimable(open)
            && attempt >= open.attempt
            && self.one_it_is_for(open, Some(agent), |other| other == agent).is_some();
        if !possible {
            return false;
        }
        if planted::is(Bug::HeldTurnGivenAgain) {
            return true;
        }
        if !self.make_way(session, turn) || !self.engage_claimed(now, session, agent) {
            return false;
        }
        self.settle(now, session, agent);
        let words = self.replies.get(turn).map_or(&[][..], |reply| &reply.words);
        let is_block = |kind: Kind| kind == Kind::Block;
        let blocks = words
            .iter()
            .filter(|word| word.attempt == attempt && is_block(word.body.as_body().kind()))
            .count();
        let Self { turns, outstanding, recorder, counters, .. } = self;
        let Some(open) = turns.get_mut(turn) else { return false };
        open.state = State::Working;
        open.agent = agent;
        open.attempt = attempt;
        open.blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        outstanding[agent.0 as usize] += 1;
        counters.turns_held += 1;
        recorder.dispatched(open.flight, agent, attempt, now);
        true
    }

    /// Makes a turn the one that its session is at. `false`: another one is under way already.
    fn make_way(&mut self, session: crate::session::SessionIndex, turn: u64) -> bool {
        let Some(active) = self.sessions.active_turn(session).filter(|&active| active != turn) else {
            return true;
        };
        let Some(other) = self.turns.get_mut(active) else { return false };
        match &mut other.state {
            State::Accepting { begun } => *begun = false,
            State::Waiting | State::Ending => {}
            State::Unclaimed => other.state = State::Waiting,
            State::Preparing | State::Working | State::Spoiled | State::BackingOff { .. } | State::Dead => {
                return false;
            }
        }
        let class = other.urgency.class;
        self.sessions.begin_instead(session, turn, class);
        true
    }

    /// That agent has said all that it has: turns that waited for nobody else go on.
    pub(super) fn heard_all(&mut self, agent: AgentIndex) {
        for turn in self.adoption.unheard.remove(&agent).into_iter().flatten() {
            if let Some(open) = self.turns.get_mut(turn)
                && open.state == State::Unclaimed
            {
                open.state = State::Waiting;
                // Others may have come meanwhile.
                self.ready.extend(self.sessions.reconsider(open.session, open.urgency.class));
            }
        }
    }

    /// Agent role: all shards are to know that an agent of this one has been heard, or never will be.
    pub(super) fn tell_heard(&mut self, agent: AgentIndex, effects: &mut Effects<'_>) {
        if !self.adoption.awaits(agent) {
            return;
        }
        for shard in (0..self.setting.shard_count).map(ShardIndex) {
            if shard != self.setting.shard {
                let route = Route { origin: u64::from(agent.0), ..Route::default() };
                effects(Effect::ToShard { shard, route, body: Body::WORKING });
            }
        }
        self.heard_all(agent);
    }
}

/// Whether an agent may have been given the turn in an earlier run, and nothing has become of it in this one.
fn is_claimable(open: &Turn) -> bool {
    open.attempt > 0 && matches!(open.state, State::Waiting | State::Unclaimed)
}
