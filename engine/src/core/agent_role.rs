//! Agent role: what the agents of this shard say, and that they are gone.
//!
//! # Roll calls
//!
//! The rings of an agent outlive the gateway, and so does what it works on. Whoever takes over its rings asks it, behind
//! whatever is still unread there, which turns it has received and not ended; it answers behind all that it has said
//! before. Until the answer has come it is given nothing. What it says of a turn meanwhile counts as a claim of the turn,
//! and so does the answer; the shard of the turn's session decides about claims ([`super::adoption`]).

use shm_transport::envelope::{Body, Message, Opened, Route};

use super::agents::{Claimed, Ended, Standing, load};
use super::mesh::{GIVEN_BACK_DIED, GIVEN_BACK_UNAVAILABLE};
use super::turns;
use super::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect, InstanceId, Tenure};
use crate::time::Moment;
use shm_transport::record::Poison;

impl ShardCore {
    /// Something from an agent. Everything in it is input.
    pub(super) fn heard_from_agent(
        &mut self,
        now: Moment,
        instance: InstanceId,
        message: &Message<'_>,
        effects: &mut Effects<'_>,
    ) {
        let ended = match message.open() {
            Opened::Block(_) => None,
            Opened::End(_) => Some(Ended::Answered),
            Opened::Failure(_) => Some(Ended::Failed),
            Opened::Hello(hello) => return effects(load::ready(instance, &hello.software)),
            Opened::Skill(asked) => return self.skill_asked(instance, message.route.origin, asked, effects),
            Opened::Working => return self.roll_answered(now, instance, message.route, effects),
            Opened::Message(_)
            | Opened::Accepted
            | Opened::Stop
            | Opened::Cancel
            | Opened::Journaled
            | Opened::RollCall
            | Opened::SkillResult(_)
            | Opened::Resume(_)
            | Opened::Resumed(_)
            | Opened::Kept => return Self::fence(instance, message, effects),
        };
        let Route { turn, attempt, sequence, .. } = message.route;
        let mut standing = self.agents.standing(instance, turn, attempt);
        if let Standing::Unknown(agent) = standing {
            match self.agents.claim(now, agent, turn, attempt, Claimed::ByWord) {
                Ok(()) => self.pass_claim(now, agent, turn, attempt, effects),
                Err(_) => return Self::fence(instance, message, effects),
            }
            standing = self.agents.standing(instance, turn, attempt);
        }
        match standing {
            Standing::Stray | Standing::Unknown(_) => {
                self.counters.agent_strays += 1;
                return;
            }
            Standing::Cancelled => {}
            Standing::Current(agent) => {
                let owner = turns::owner(turn);
                if owner == self.setting.shard {
                    self.said(now, agent, (turn, attempt, sequence), message.body(), effects);
                } else {
                    self.releases.sent(owner);
                    let route = Route { turn, session: u64::from(agent.0), origin: 0, sequence, attempt };
                    effects(Effect::ToShard { shard: owner, route, body: message.body() });
                }
            }
        }
        if let Some(ended) = ended {
            self.agent_finished(now, instance, (turn, ended), effects);
        }
    }

    fn fence(instance: InstanceId, message: &Message<'_>, effects: &mut Effects<'_>) {
        let poison = Poison::Kind { kind: message.kind().number() };
        effects(Effect::Fence { instance, poison });
    }

    /// An incarnation has outlived the gateway that it was attached to.
    pub(super) fn agent_adopted(
        &mut self,
        agent: AgentIndex,
        instance: InstanceId,
        effects: &mut Effects<'_>,
    ) {
        if self.agents.adopt(agent, instance) {
            let route = Route { session: self.roll_call(), ..Route::default() };
            effects(Effect::ToAgent { instance, route, body: Body::ROLL_CALL });
        }
    }

    /// Tells the answer to a roll call of this run from that to one of a gateway that did not live to hear it.
    fn roll_call(&self) -> u64 {
        u64::from(self.setting.run)
    }

    /// A piece of the answer to a roll call.
    fn roll_answered(&mut self, now: Moment, instance: InstanceId, route: Route, effects: &mut Effects<'_>) {
        let Route { turn, session: roll_call, origin: bytes, attempt, .. } = route;
        let fenced = Effect::Fence { instance, poison: Poison::Kind { kind: Body::WORKING.kind().number() } };
        let Some(agent) = self.agents.called(instance) else { return effects(fenced) };
        if roll_call != self.roll_call() {
            return;
        }
        if turn != 0 {
            match self.agents.claim(now, agent, turn, attempt, Claimed::Listed { bytes }) {
                Ok(()) => self.pass_claim(now, agent, turn, attempt, effects),
                Err(_) => effects(fenced),
            }
            return;
        }
        let name = &self.definitions[agent.0 as usize].name;
        let text = format!("agent \"{name}\" has spoken of this message and does not work on it");
        for (turn, attempt) in self.agents.answered(agent, effects) {
            self.give_back(now, agent, (turn, attempt), GIVEN_BACK_DIED, &text, effects);
        }
        self.tell_heard(agent, effects);
        if self.agents.has_lost_its_session(agent) {
            effects(Effect::AgentTenure { agent, tenure: Tenure::Lost });
        }
        effects(Effect::AgentAdopted { instance });
        self.agent_answered(now, agent, effects);
    }

    /// An agent claims a turn: the shard of its session decides.
    fn pass_claim(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        turn: u64,
        attempt: u32,
        effects: &mut Effects<'_>,
    ) {
        let owner = turns::owner(turn);
        if owner != self.setting.shard && owner.0 < self.setting.shard_count {
            let route = Route { turn, origin: u64::from(agent.0), attempt, ..Route::default() };
            effects(Effect::ToShard { shard: owner, route, body: Body::WORKING });
        } else if owner != self.setting.shard || !self.claim(now, agent, turn, attempt) {
            self.agents.refuse(agent, turn, attempt, effects);
        }
    }

    /// What the dead incarnation had in its hands goes back.
    pub(super) fn agent_down(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        detail: &str,
        effects: &mut Effects<'_>,
    ) {
        self.forget_skills(agent);
        let lost = self.agents.down(agent);
        if !lost.is_empty() {
            let name = &self.definitions[agent.0 as usize].name;
            let text = format!("agent \"{name}\" ended while it worked on this message: {detail}");
            for (turn, attempt) in lost {
                self.give_back(now, agent, (turn, attempt), GIVEN_BACK_DIED, &text, effects);
            }
        }
        self.tell_heard(agent, effects);
    }

    /// Both roles: nobody will serve what waits, so it goes back now rather than never.
    pub(super) fn agent_unavailable(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        detail: &str,
        effects: &mut Effects<'_>,
    ) {
        if let Some(why) = self.unavailable.get_mut(agent.0 as usize) {
            *why = Some(detail.into());
        }
        self.conversations.vacate(agent);
        if self.home(agent) != self.setting.shard {
            return;
        }
        self.agent_down(now, agent, detail, effects);
        let name = &self.definitions[agent.0 as usize].name;
        let detail = format!("agent \"{name}\" is not available: {detail}");
        for (turn, attempt) in self.agents.unavailable(agent, &detail) {
            self.give_back(now, agent, (turn, attempt), GIVEN_BACK_UNAVAILABLE, &detail, effects);
        }
    }
}
