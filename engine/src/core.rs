//! The brain of one shard: `on(now, input)` gives effects. No IO, no clock, no randomness of its own.
//!
//! A shard plays two roles, which may meet on one shard or talk over the mesh:
//!
//! * the **session role** ([`sessions`], [`turns`]) owns the sessions whose partition falls to the shard. It
//!   accepts a message, makes a *turn* of it, and gives the turns of a session to agents strictly one after
//!   the other, so that they are answered in order;
//! * the **agent role** ([`agents`]) owns the agents that live on the shard. It knows which incarnation works
//!   on which turns, and how much each may hold.
//!
//! Every turn ends in exactly one [`Kind::End`] or [`Kind::Failure`] to the edge it came from.
//!
//! # What is deliberately absent
//!
//! The journal: what an agent had in hand when it died is reported as failed, not given out again.

pub mod agents;
pub mod sessions;
pub mod turns;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use shm_transport::envelope::{
    Body, Encoder, FLAG_NO_REPLY, FailureCode, FailureV1, Kind, Message, Opened, Route,
};
use shm_transport::record::Poison;

use crate::event::{AgentIndex, EdgeIndex, Effect, Input, InstanceId, ShardIndex};
use crate::stats::Counters;
use crate::time::Moment;
use agents::{Admission, Agents};
use sessions::{Sessions, Waiting};
use turns::{Turn, Turns};

/// Where effects go: a closure of the driver or of the simulator.
pub type Effects<'a> = dyn FnMut(Effect<'_>) + 'a;

/// What a shard may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreLimits {
    /// Sessions in the table.
    pub sessions_max: usize,
    /// Messages of one session that wait for their turn.
    pub session_queue_max: usize,
    /// Messages that wait for one agent.
    pub agent_queue_max: usize,
    /// Bytes of messages that wait for one agent.
    pub agent_queue_bytes_max: usize,
    /// Bytes of messages in the hands of one agent.
    pub in_flight_bytes_max: usize,
    /// A session with nothing to do for so long is forgotten.
    pub session_idle: Duration,
    /// What a refused client is told to wait.
    pub retry_after: Duration,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self {
            sessions_max: 1_000_000,
            session_queue_max: 1024,
            agent_queue_max: 65_536,
            agent_queue_bytes_max: 64 * 1024 * 1024,
            in_flight_bytes_max: 4 * 1024 * 1024,
            session_idle: Duration::from_secs(30 * 60),
            retry_after: Duration::from_millis(250),
        }
    }
}

/// What every shard knows of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDefinition {
    /// How messages name it.
    pub name: String,
    /// How many turns it may have in its hands.
    pub in_flight_max: usize,
}

/// The core of one shard.
#[derive(Debug)]
pub struct ShardCore {
    shard: ShardIndex,
    shard_count: u8,
    limits: CoreLimits,
    // Arc: every shard reads the one agent table of the gateway, which never changes while it runs.
    definitions: Arc<[AgentDefinition]>,
    by_name: HashMap<String, AgentIndex>,
    sessions: Sessions,
    turns: Turns,
    agents: Agents,
    counters: Counters,
    encoder: Encoder,
    /// Sessions whose turn has ended and that may go on; drained before `on` returns, so that a chain of
    /// failures is a loop and not a recursion.
    ready: VecDeque<usize>,
}

impl ShardCore {
    /// A core with no sessions and no agents attached.
    pub fn new(
        shard: ShardIndex,
        shard_count: u8,
        definitions: Arc<[AgentDefinition]>,
        limits: CoreLimits,
    ) -> Self {
        let by_name = definitions
            .iter()
            .zip(0u32..)
            .map(|(definition, index)| (definition.name.clone(), AgentIndex(index)))
            .collect();
        Self {
            shard,
            shard_count,
            limits,
            by_name,
            sessions: Sessions::new(limits.sessions_max, limits.session_idle),
            turns: Turns::new(shard),
            agents: Agents::new(&definitions, limits),
            definitions,
            counters: Counters::default(),
            encoder: Encoder::default(),
            ready: VecDeque::new(),
        }
    }

    /// Takes what happened and says what to do about it.
    pub fn on(&mut self, now: Moment, input: Input<'_>, effects: &mut Effects<'_>) {
        match input {
            Input::FromEdge { edge, message } => self.accept(now, edge, &message, effects),
            Input::FromShard { message, .. } => self.heard_from_shard(now, &message, effects),
            Input::FromAgent { instance, message } => self.heard_from_agent(now, instance, &message, effects),
            Input::AgentUp { agent, instance } => self.agents.up(agent, instance, effects),
            Input::AgentDown { agent, detail } => self.agent_down(now, agent, detail, effects),
            Input::AgentUnavailable { agent, detail } => {
                self.agent_unavailable(now, agent, detail, effects);
            }
            Input::StopAgents => self.agents.stop(effects),
            Input::Tick => self.sessions.expire(now),
        }
        while let Some(slot) = self.ready.pop_front() {
            self.next_of_session(now, slot, effects);
        }
    }

    /// When a [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.sessions.next_expiry()
    }

    /// The counters as of now.
    pub fn counters(&self) -> Counters {
        Counters {
            sessions: self.sessions.len() as u64,
            turns_open: self.turns.len() as u64,
            messages_queued: (self.sessions.waiting() + self.agents.waiting()) as u64,
            agents_up: self.agents.up_count() as u64,
            ..self.counters
        }
    }

    /// Session role: a client's message.
    fn accept(&mut self, now: Moment, edge: EdgeIndex, message: &Message<'_>, effects: &mut Effects<'_>) {
        let Opened::Message(archive) = message.open() else {
            self.counters.invalid_internal += 1;
            return;
        };
        let sender = Sender { edge, origin: message.route.origin, sequence: message.route.sequence };
        let Some(&agent) = self.by_name.get(archive.agent.as_str()) else {
            let text = format!("no agent is named \"{}\"", archive.agent.as_str());
            return self.refuse(sender, FailureCode::UnknownAgent, &text, effects);
        };
        let hash = message.route.session;
        let found = self.sessions.find_or_create(now, &archive.channel, &archive.user, &archive.thread);
        let Some(slot) = found else {
            let text = format!("this shard holds {} sessions already", self.limits.sessions_max);
            return self.refuse(sender, FailureCode::Overloaded, &text, effects);
        };
        if self.sessions.queue_len(slot) >= self.limits.session_queue_max {
            let text = format!("{} messages of this session wait already", self.limits.session_queue_max);
            return self.refuse(sender, FailureCode::Overloaded, &text, effects);
        }
        self.counters.messages_accepted += 1;
        let wants_reply = archive.flags & FLAG_NO_REPLY == 0;
        let Sender { edge, origin, sequence } = sender;
        let turn = self.turns.insert(Turn { edge, origin, sequence, session: slot, agent, wants_reply });
        if !wants_reply {
            let route = Route { turn, session: hash, origin, sequence, attempt: 0 };
            effects(Effect::ToEdge { edge, route, body: Body::ACCEPTED });
        }
        let route = Route { turn, session: hash, origin: 0, sequence: 0, attempt: 1 };
        let priority = archive.priority;
        let store = || Waiting { route, priority, body: message.body().to_stored() };
        if self.sessions.begin_or_wait(slot, turn, store) {
            self.dispatch(now, agent, route, priority, message.body(), effects);
        }
    }

    /// Session role: gives a turn to the shard on which its agent lives.
    fn dispatch(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        route: Route,
        priority: u8,
        body: Body<'_>,
        effects: &mut Effects<'_>,
    ) {
        let home = agent.home(self.shard_count);
        if home == self.shard {
            self.submit(now, agent, route, priority, body, effects);
        } else {
            effects(Effect::ToShard { shard: home, route, body });
        }
    }

    /// Agent role: takes a turn for an agent of this shard.
    fn submit(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        route: Route,
        priority: u8,
        body: Body<'_>,
        effects: &mut Effects<'_>,
    ) {
        match self.agents.submit(agent, route, priority, body, effects) {
            Admission::Taken => {}
            Admission::Unavailable(detail) => {
                self.fail(now, route.turn, FailureCode::AgentUnavailable, &detail, effects);
            }
            Admission::Full => {
                let text = format!(
                    "too many messages wait for agent \"{}\"",
                    self.definitions[agent.0 as usize].name
                );
                self.fail(now, route.turn, FailureCode::Overloaded, &text, effects);
            }
        }
    }

    /// Either role: something from another shard.
    fn heard_from_shard(&mut self, now: Moment, message: &Message<'_>, effects: &mut Effects<'_>) {
        match message.open() {
            Opened::Message(archive) => match self.by_name.get(archive.agent.as_str()) {
                Some(&agent) => {
                    self.submit(now, agent, message.route, archive.priority, message.body(), effects);
                }
                None => self.counters.invalid_internal += 1,
            },
            Opened::Block(_) | Opened::End(_) | Opened::Failure(_) => {
                self.reply(now, message.route, message.body(), effects);
            }
            Opened::Accepted | Opened::Hello(_) | Opened::Stop | Opened::Cancel | Opened::Journaled => {
                self.counters.invalid_internal += 1
            }
        }
    }

    /// Agent role: something from an agent. Everything in it is input.
    fn heard_from_agent(
        &mut self,
        now: Moment,
        instance: InstanceId,
        message: &Message<'_>,
        effects: &mut Effects<'_>,
    ) {
        let ends = match message.open() {
            Opened::Block(_) => false,
            Opened::End(_) | Opened::Failure(_) => true,
            Opened::Hello(_) => return effects(Effect::AgentReady { instance }),
            Opened::Message(_) | Opened::Accepted | Opened::Stop | Opened::Cancel | Opened::Journaled => {
                let poison = Poison::Kind { kind: message.kind().number() };
                return effects(Effect::Fence { instance, poison });
            }
        };
        let turn = message.route.turn;
        if !self.agents.owns(instance, turn) {
            self.counters.agent_strays += 1;
            return;
        }
        let route = Route { turn, ..Route::default() };
        self.answer(now, route, message.body(), effects);
        if ends {
            self.agents.finish(instance, turn, effects);
        }
    }

    /// Agent role: a piece of a reply goes to the shard that owns the session.
    fn answer(&mut self, now: Moment, route: Route, body: Body<'_>, effects: &mut Effects<'_>) {
        let owner = turns::owner(route.turn);
        if owner == self.shard {
            self.reply(now, route, body, effects);
        } else {
            effects(Effect::ToShard { shard: owner, route, body });
        }
    }

    /// Session role: a piece of a reply goes to the client, and its end frees the session.
    fn reply(&mut self, now: Moment, route: Route, body: Body<'_>, effects: &mut Effects<'_>) {
        let Some(turn) = self.turns.get(route.turn) else {
            self.counters.agent_strays += 1;
            return;
        };
        let kind = body.kind();
        let ends = kind != Kind::Block;
        if turn.wants_reply || ends {
            let route = Route { turn: route.turn, origin: turn.origin, sequence: turn.sequence, ..route };
            effects(Effect::ToEdge { edge: turn.edge, route, body });
        }
        if ends {
            match kind {
                Kind::End => self.counters.replies_completed += 1,
                _ => self.counters.messages_failed += 1,
            }
            let session = turn.session;
            self.turns.remove(route.turn);
            self.sessions.end(now, session);
            self.ready.push_back(session);
        }
    }

    /// Session role: gives out the next waiting message of a session.
    fn next_of_session(&mut self, now: Moment, slot: usize, effects: &mut Effects<'_>) {
        let Some(Waiting { route, priority, body }) = self.sessions.begin_next(slot) else { return };
        let Some(turn) = self.turns.get(route.turn) else {
            debug_assert!(false, "a waiting message has a turn");
            return;
        };
        let agent = turn.agent;
        // Between the messages of one session order is by arrival; the class acts between sessions.
        self.dispatch(now, agent, route, priority, body.as_body(), effects);
    }

    /// A message that never became a turn.
    fn refuse(&mut self, sender: Sender, code: FailureCode, text: &str, effects: &mut Effects<'_>) {
        self.counters.messages_failed += 1;
        let Sender { edge, origin, sequence } = sender;
        let route = Route { origin, sequence, ..Route::default() };
        let failure = self.failure(code, text);
        let body = self.encoder.encode(&failure);
        effects(Effect::ToEdge { edge, route, body });
    }

    /// A turn that ends without a reply.
    fn fail(&mut self, now: Moment, turn: u64, code: FailureCode, text: &str, effects: &mut Effects<'_>) {
        let failure = self.failure(code, text);
        let mut encoder = std::mem::take(&mut self.encoder);
        let route = Route { turn, ..Route::default() };
        self.answer(now, route, encoder.encode(&failure), effects);
        self.encoder = encoder;
    }

    fn failure(&self, code: FailureCode, text: &str) -> FailureV1 {
        let retry = matches!(code, FailureCode::Overloaded | FailureCode::AgentUnavailable);
        let retry_after = if retry { self.limits.retry_after } else { Duration::ZERO };
        FailureV1 {
            code: code as u16,
            retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
            text: text.to_owned(),
        }
    }

    /// Agent role: what the dead incarnation had in its hands is reported as failed.
    fn agent_down(&mut self, now: Moment, agent: AgentIndex, detail: &str, effects: &mut Effects<'_>) {
        let lost = self.agents.down(agent);
        let name = self.definitions[agent.0 as usize].name.clone();
        for turn in lost {
            let text = format!("agent \"{name}\" ended while it worked on this message: {detail}");
            self.fail(now, turn, FailureCode::AgentDied, &text, effects);
        }
    }

    /// Agent role: nobody will serve what waits, so it is refused now rather than never.
    fn agent_unavailable(&mut self, now: Moment, agent: AgentIndex, detail: &str, effects: &mut Effects<'_>) {
        self.agent_down(now, agent, detail, effects);
        let name = self.definitions[agent.0 as usize].name.clone();
        let detail = format!("agent \"{name}\" is not available: {detail}");
        for turn in self.agents.unavailable(agent, &detail) {
            self.fail(now, turn, FailureCode::AgentUnavailable, &detail, effects);
        }
    }
}

/// Where a refusal goes.
#[derive(Clone, Copy, Debug)]
struct Sender {
    edge: EdgeIndex,
    origin: u64,
    sequence: u32,
}
