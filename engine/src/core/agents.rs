//! The agents of a shard: which incarnation works on which turns, and what waits for it.

mod drain;
pub(super) mod load;
pub(super) mod share;
mod tenant;

use std::time::Duration;

use hashbrown::HashMap;
use shm_transport::envelope::{Body, Route, StoredBody};
use shm_transport::link::MESSAGE_BYTES_MAX;

use super::turns::{Turns, Urgency};
use super::{AgentDefinition, CoreLimits, Effects};
use crate::classes::{ClassQueue, Full};
use crate::event::{AgentIndex, Effect, InstanceId, Tenant};
use crate::hash::WordHash;
use crate::planted::{self, Bug};
use crate::time::Moment;
use drain::Draining;
use load::Done;
pub use load::{AgentLoad, Ended};

/// What became of a turn that was given to an agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is at the agent.
    Given,
    /// It waits for the agent.
    Queued,
    /// Too much waits already.
    Full {
        /// When another try makes sense.
        retry_after: Duration,
    },
    /// The agent serves another session.
    Taken,
    /// The agent does not run and will not soon.
    Unavailable(String),
}

#[derive(Debug)]
enum Presence {
    /// An incarnation is attached.
    Up(InstanceId),
    /// One of an earlier gateway is attached, and has not said what it works on: messages wait.
    Called(InstanceId),
    /// None is, but one is expected: messages wait.
    Down,
    /// None is expected, for this reason: messages are refused.
    Unavailable(String),
}

/// A turn that waits for an agent. The body of a turn of this shard stays in the table of turns.
#[derive(Debug)]
struct Waiting {
    route: Route,
    body: Option<StoredBody>,
}

/// A turn in the hands of an agent.
#[derive(Clone, Copy, Debug)]
struct InHand {
    bytes: usize,
    attempt: u32,
    /// When it was given, or claimed.
    since: Moment,
    hold: Hold,
}

/// How a turn is in the hands of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// It was given there, by this gateway or by an earlier one.
    Given,
    /// The agent has spoken of it, and has not said yet that it works on it.
    Spoken,
    /// The same, and its claim has been refused.
    Refused,
    /// Nobody waits for it any more; what the agent says of it is not passed on.
    Cancelled,
}

/// By what an agent of an earlier gateway claims a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claimed {
    /// By a word about it.
    ByWord,
    /// By its answer to the roll call.
    Listed {
        /// Bytes of its message, as it says. That is counted against its own credit only.
        bytes: u64,
    },
}

/// More turns are claimed than an agent may ever hold.
#[derive(Debug)]
pub struct TooMany;

/// Turns that one agent may claim: as many as the configuration may let it hold.
const CLAIMS_MAX: usize = 4096;

#[derive(Debug)]
struct Agent {
    presence: Presence,
    in_flight_max: usize,
    in_flight: HashMap<u64, InHand, WordHash>,
    in_flight_bytes: usize,
    queue: ClassQueue<Waiting>,
    /// Whether it is on its way out.
    draining: Option<Draining>,
    done: Done,
    tenant: Tenant,
}

impl Agent {
    /// The incarnation that is attached.
    fn instance(&self) -> Option<InstanceId> {
        match self.presence {
            Presence::Up(instance) | Presence::Called(instance) => Some(instance),
            Presence::Down | Presence::Unavailable(_) => None,
        }
    }

    /// Whether one more message of that size may be given out. One always may.
    fn has_credit(&self, bytes: usize, limits: CoreLimits) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < self.in_flight_max
                && self.in_flight_bytes + bytes <= limits.in_flight_bytes_max)
    }

    fn give(
        &mut self,
        now: Moment,
        instance: InstanceId,
        route: Route,
        body: Body<'_>,
        effects: &mut Effects<'_>,
    ) {
        let bytes = body.bytes().len();
        let in_hand = InHand { bytes, attempt: route.attempt, since: now, hold: Hold::Given };
        // An agent has a turn once, but one of an earlier gateway may have claimed what it did not have.
        if let Some(before) = self.in_flight.insert(route.turn, in_hand) {
            self.in_flight_bytes -= before.bytes;
        }
        self.in_flight_bytes += bytes;
        effects(Effect::ToAgent { instance, route, body });
    }
}

/// What an agent's word about a turn counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The turn is in the hands of that agent, in this attempt; or it has claimed so, and may not be believed.
    Current(AgentIndex),
    /// It is in its hands, but was cancelled.
    Cancelled,
    /// It is not in its hands, or in another attempt.
    Stray,
    /// It is one of an earlier gateway, which may have given it the turn.
    Unknown(AgentIndex),
}

/// The table of all agents; those that live elsewhere never get anything.
#[derive(Debug)]
pub struct Agents {
    agents: Vec<Agent>,
    by_instance: HashMap<u64, AgentIndex, WordHash>,
    limits: CoreLimits,
    waiting: usize,
}

impl Agents {
    /// All agents down.
    pub fn new(definitions: &[AgentDefinition], limits: CoreLimits) -> Self {
        let agents = definitions
            .iter()
            .map(|definition| Agent {
                presence: Presence::Down,
                in_flight_max: definition.in_flight_max.max(1),
                in_flight: HashMap::default(),
                in_flight_bytes: 0,
                queue: ClassQueue::new(format!("agent {}", definition.name), limits.agent_queue),
                draining: None,
                done: Done::default(),
                tenant: tenant::first(definition),
            })
            .collect();
        Self { agents, by_instance: HashMap::default(), limits, waiting: 0 }
    }

    /// How many messages wait for an agent.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many agents can take messages.
    pub fn up_count(&self) -> usize {
        self.by_instance.len()
    }

    /// Whether that incarnation has turns in its hands.
    pub fn has_work(&self, instance: InstanceId) -> bool {
        let index = self.by_instance.get(&instance.0);
        index.is_some_and(|index| !self.agents[index.0 as usize].in_flight.is_empty())
    }

    /// How many turns an agent of this shard has in its hands or in its queue.
    pub fn load(&self, index: AgentIndex) -> u32 {
        let agent = &self.agents[index.0 as usize];
        u32::try_from(agent.in_flight.len() + agent.queue.len()).unwrap_or(u32::MAX)
    }

    /// A new incarnation is attached; what waited goes out.
    pub fn up(
        &mut self,
        now: Moment,
        index: AgentIndex,
        instance: InstanceId,
        turns: &Turns,
        effects: &mut Effects<'_>,
    ) {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return };
        debug_assert!(agent.in_flight.is_empty(), "the last incarnation has been taken down");
        if let Some(old) = agent.instance() {
            self.by_instance.remove(&old.0);
        }
        agent.presence = Presence::Up(instance);
        self.by_instance.insert(instance.0, index);
        agent.draining = None;
        agent.done = Done::default();
        self.give_out(now, index, turns, effects);
    }

    /// An incarnation of an earlier gateway is attached, and is asked what it works on. `false`: there is no such agent.
    pub fn adopt(&mut self, index: AgentIndex, instance: InstanceId) -> bool {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return false };
        debug_assert!(agent.in_flight.is_empty(), "the last incarnation has been taken down");
        if let Some(old) = agent.instance() {
            self.by_instance.remove(&old.0);
        }
        agent.presence = Presence::Called(instance);
        agent.forget_tenant();
        self.by_instance.insert(instance.0, index);
        agent.draining = None;
        agent.done = Done::default();
        true
    }

    /// Whose incarnation that is, if it is asked what it works on.
    pub fn called(&self, instance: InstanceId) -> Option<AgentIndex> {
        let index = *self.by_instance.get(&instance.0)?;
        matches!(self.agents[index.0 as usize].presence, Presence::Called(_)).then_some(index)
    }

    /// An agent of an earlier gateway says that it has a turn.
    pub fn claim(
        &mut self,
        now: Moment,
        index: AgentIndex,
        turn: u64,
        attempt: u32,
        claimed: Claimed,
    ) -> Result<(), TooMany> {
        let agent = &mut self.agents[index.0 as usize];
        let (hold, bytes) = match claimed {
            Claimed::ByWord => (Hold::Spoken, 0),
            Claimed::Listed { bytes } => {
                (Hold::Given, usize::try_from(bytes).unwrap_or(usize::MAX).min(MESSAGE_BYTES_MAX))
            }
        };
        let claims = agent.in_flight.len();
        match agent.in_flight.get_mut(&turn) {
            None if claims >= CLAIMS_MAX => return Err(TooMany),
            None => {
                agent.in_flight.insert(turn, InHand { bytes, attempt, since: now, hold });
            }
            // What it lists in another attempt than it has spoken of is a lie about one of them.
            Some(in_hand) if in_hand.attempt != attempt => return Ok(()),
            Some(in_hand) => {
                agent.in_flight_bytes -= in_hand.bytes;
                in_hand.bytes = bytes;
                match in_hand.hold {
                    Hold::Spoken => in_hand.hold = hold,
                    Hold::Refused => in_hand.hold = Hold::Cancelled,
                    Hold::Given | Hold::Cancelled => {}
                }
            }
        }
        agent.in_flight_bytes += bytes;
        Ok(())
    }

    /// A claim is refused: what the agent says of the turn is not passed on, and it is told that nobody waits for it.
    pub fn refuse(&mut self, index: AgentIndex, turn: u64, attempt: u32, effects: &mut Effects<'_>) {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return };
        let instance = agent.instance();
        if let Some(in_hand) = agent.in_flight.get_mut(&turn).filter(|in_hand| in_hand.attempt == attempt) {
            in_hand.hold = match in_hand.hold {
                Hold::Spoken | Hold::Refused => Hold::Refused,
                Hold::Given | Hold::Cancelled => Hold::Cancelled,
            };
            if let Some(instance) = instance {
                let route = Route { turn, attempt, ..Route::default() };
                effects(Effect::ToAgent { instance, route, body: Body::CANCEL });
            }
        }
    }

    /// An agent has said all that it works on. Returns the turns that it has spoken of besides and not ended, in order.
    pub fn answered(&mut self, index: AgentIndex, effects: &mut Effects<'_>) -> Vec<(u64, u32)> {
        let agent = &mut self.agents[index.0 as usize];
        if let Some(instance) = agent.instance() {
            agent.presence = Presence::Up(instance);
        }
        let not_listed = |_: &u64, in_hand: &mut InHand| matches!(in_hand.hold, Hold::Spoken | Hold::Refused);
        let spoken =
            agent.in_flight.extract_if(not_listed).filter(|(_, in_hand)| in_hand.hold == Hold::Spoken);
        let mut spoken: Vec<_> = spoken.map(|(turn, in_hand)| (turn, in_hand.attempt)).collect();
        spoken.sort_unstable();
        agent.end_if_idle(effects);
        spoken
    }

    /// The incarnation is gone. Returns the turns it had in its hands and that somebody waits for, in order.
    pub fn down(&mut self, index: AgentIndex) -> Vec<(u64, u32)> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        if let Some(instance) = agent.instance() {
            self.by_instance.remove(&instance.0);
        }
        agent.presence = Presence::Down;
        agent.in_flight_bytes = 0;
        let lost = agent.in_flight.drain();
        let lost = lost.filter(|(_, in_hand)| matches!(in_hand.hold, Hold::Given | Hold::Spoken));
        let mut lost: Vec<_> = lost.map(|(turn, in_hand)| (turn, in_hand.attempt)).collect();
        // The table has no order; a run must be repeatable.
        lost.sort_unstable();
        lost
    }

    /// Gives a turn to an agent, or lets it wait. `of_this_shard`: its body stays in the table of turns.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a message is, and where it goes; called in two places"
    )]
    pub fn submit(
        &mut self,
        now: Moment,
        index: AgentIndex,
        route: Route,
        urgency: Urgency,
        body: Body<'_>,
        of_this_shard: bool,
        effects: &mut Effects<'_>,
    ) -> Admission {
        let limits = self.limits;
        let bytes = body.bytes().len();
        let Some(agent) = self.agents.get_mut(index.0 as usize) else {
            return Admission::Unavailable(format!("agent {} is not in the table", index.0));
        };
        match (&agent.presence, agent.draining) {
            (Presence::Unavailable(detail), _) => return Admission::Unavailable(detail.clone()),
            // Who asks has not heard yet that others take its turns.
            (_, Some(Draining { others: true, .. })) => {
                return Admission::Full { retry_after: Duration::ZERO };
            }
            _ if !agent.admits(route.session) => return Admission::Taken,
            (Presence::Up(instance), None) if agent.queue.is_empty() && agent.has_credit(bytes, limits) => {
                let instance = *instance;
                agent.begin_tenure(index, route.session, effects);
                agent.give(now, instance, route, body, effects);
                return Admission::Given;
            }
            (Presence::Up(_) | Presence::Called(_) | Presence::Down, _) => {}
        }
        agent.begin_tenure(index, route.session, effects);
        let waiting = || Waiting { route, body: (!of_this_shard).then(|| body.to_stored()) };
        match agent.queue.push(now, urgency.class, urgency.rank, bytes, waiting) {
            Ok(()) => {
                self.waiting += 1;
                Admission::Queued
            }
            Err(Full { retry_after }) => Admission::Full { retry_after },
        }
    }

    /// What a word of that incarnation about that turn counts for.
    #[inline]
    pub fn standing(&self, instance: InstanceId, turn: u64, attempt: u32) -> Standing {
        let Some(&index) = self.by_instance.get(&instance.0) else { return Standing::Stray };
        let agent = &self.agents[index.0 as usize];
        match agent.in_flight.get(&turn) {
            None if matches!(agent.presence, Presence::Called(_)) => Standing::Unknown(index),
            Some(in_hand) if in_hand.attempt == attempt => match in_hand.hold {
                Hold::Given | Hold::Spoken => Standing::Current(index),
                Hold::Refused | Hold::Cancelled => Standing::Cancelled,
            },
            None | Some(_) => Standing::Stray,
        }
    }

    /// A turn has ended; what waits may go out.
    pub fn finish(
        &mut self,
        now: Moment,
        instance: InstanceId,
        (turn, ended): (u64, Ended),
        turns: &Turns,
        effects: &mut Effects<'_>,
    ) {
        let Some(&index) = self.by_instance.get(&instance.0) else { return };
        let agent = &mut self.agents[index.0 as usize];
        if let Some(in_hand) = agent.in_flight.remove(&turn) {
            agent.in_flight_bytes -= in_hand.bytes;
            agent.done.note(ended, now.since(in_hand.since));
        }
        if planted::is(Bug::DoubleRelease)
            && let Some(&other) = agent.in_flight.keys().min()
            && let Some(in_hand) = agent.in_flight.remove(&other)
        {
            agent.in_flight_bytes -= in_hand.bytes;
        }
        agent.end_if_idle(effects);
        if !agent.queue.is_empty() {
            self.give_out(now, index, turns, effects);
        }
    }

    /// Gives out what waits for an agent, as far as it has credit.
    pub fn give_out(&mut self, now: Moment, index: AgentIndex, turns: &Turns, effects: &mut Effects<'_>) {
        let limits = self.limits;
        let agent = &mut self.agents[index.0 as usize];
        let Presence::Up(instance) = agent.presence else { return };
        if agent.draining.is_some() {
            return;
        }
        while let Some(next) = agent.queue.peek() {
            if !agent.has_credit(next.bytes, limits) {
                return;
            }
            let Some(waiting) = agent.queue.pop(now) else { return };
            self.waiting -= 1;
            let Waiting { route, body } = waiting.item;
            let turn = route.turn;
            let body = match &body {
                Some(body) => Some(body),
                None => turns.get(turn).map(|turn| &turn.body),
            };
            // A turn that has ended meanwhile has been taken out of the queue.
            debug_assert!(body.is_some(), "a waiting turn is open");
            if let Some(body) = body {
                agent.give(now, instance, route, body.as_body(), effects);
            }
        }
    }

    /// Nobody waits for the turn any more.
    pub fn cancel(&mut self, index: AgentIndex, turn: u64, effects: &mut Effects<'_>) {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return };
        let instance = agent.instance();
        if let Some(in_hand) = agent.in_flight.get_mut(&turn) {
            in_hand.hold = Hold::Cancelled;
            if let Some(instance) = instance {
                let route = Route { turn, attempt: in_hand.attempt, ..Route::default() };
                effects(Effect::ToAgent { instance, route, body: Body::CANCEL });
            }
        } else {
            self.withdraw(index, turn);
        }
    }

    /// The turn is not to be given out, if it waits.
    pub fn withdraw(&mut self, index: AgentIndex, turn: u64) {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return };
        if agent.queue.remove(|waiting| waiting.route.turn == turn).is_some() {
            self.waiting -= 1;
        }
    }

    /// Tells every attached agent to finish.
    pub fn stop(&mut self, effects: &mut Effects<'_>) {
        for agent in &self.agents {
            if let Some(instance) = agent.instance() {
                effects(Effect::ToAgent { instance, route: Route::default(), body: Body::STOP });
            }
        }
    }
}
