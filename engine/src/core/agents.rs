//! The agents of a shard: which incarnation works on which turns, and what waits for it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use shm_transport::envelope::{Body, Priority, Route, StoredBody};

use super::{AgentDefinition, CoreLimits, Effects};
use crate::event::{AgentIndex, Effect, InstanceId};

/// Classes of waiting messages, most urgent first.
const CLASSES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// What became of a turn that was given to an agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is at the agent, or waits for it.
    Taken,
    /// Too much waits already.
    Full,
    /// The agent does not run and will not soon.
    Unavailable(String),
}

#[derive(Debug)]
enum Presence {
    /// An incarnation is attached.
    Up(InstanceId),
    /// None is, but one is expected: messages wait.
    Down,
    /// None is expected, for this reason: messages are refused.
    Unavailable(String),
}

#[derive(Debug)]
struct Agent {
    presence: Presence,
    in_flight_max: usize,
    /// The turns in its hands, with the bytes of each. Ordered, so that a run can be repeated exactly.
    in_flight: BTreeMap<u64, usize>,
    in_flight_bytes: usize,
    /// By class, in the order of [`CLASSES`].
    queues: [VecDeque<(Route, StoredBody)>; CLASSES.len()],
    queued_bytes: usize,
}

impl Agent {
    fn queued(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Whether one more message of that size may be given out. One always may.
    fn has_credit(&self, bytes: usize, limits: CoreLimits) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < self.in_flight_max
                && self.in_flight_bytes + bytes <= limits.in_flight_bytes_max)
    }

    fn give(&mut self, instance: InstanceId, route: Route, body: Body<'_>, effects: &mut Effects<'_>) {
        let bytes = body.bytes().len();
        self.in_flight.insert(route.turn, bytes);
        self.in_flight_bytes += bytes;
        effects(Effect::ToAgent { instance, route, body });
    }
}

/// The class a number stands for; unknown ones are normal.
fn class(priority: u8) -> usize {
    CLASSES.iter().position(|&class| class as u8 == priority).unwrap_or(1)
}

/// The table of all agents; those that live elsewhere never get anything.
#[derive(Debug)]
pub struct Agents {
    agents: Vec<Agent>,
    by_instance: HashMap<InstanceId, AgentIndex>,
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
                in_flight: BTreeMap::new(),
                in_flight_bytes: 0,
                queues: Default::default(),
                queued_bytes: 0,
            })
            .collect();
        Self { agents, by_instance: HashMap::new(), limits, waiting: 0 }
    }

    /// How many messages wait for an agent.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many agents can take messages.
    pub fn up_count(&self) -> usize {
        self.by_instance.len()
    }

    /// A new incarnation is attached; what waited goes out.
    pub fn up(&mut self, index: AgentIndex, instance: InstanceId, effects: &mut Effects<'_>) {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return };
        debug_assert!(agent.in_flight.is_empty(), "the last incarnation has been taken down");
        if let Presence::Up(old) = std::mem::replace(&mut agent.presence, Presence::Up(instance)) {
            self.by_instance.remove(&old);
        }
        self.by_instance.insert(instance, index);
        self.give_out(index, effects);
    }

    /// The incarnation is gone. Returns the turns it had in its hands.
    pub fn down(&mut self, index: AgentIndex) -> Vec<u64> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        if let Presence::Up(instance) = std::mem::replace(&mut agent.presence, Presence::Down) {
            self.by_instance.remove(&instance);
        }
        agent.in_flight_bytes = 0;
        std::mem::take(&mut agent.in_flight).into_keys().collect()
    }

    /// None will follow. Returns the turns that waited for it.
    pub fn unavailable(&mut self, index: AgentIndex, detail: &str) -> Vec<u64> {
        let Some(agent) = self.agents.get_mut(index.0 as usize) else { return Vec::new() };
        agent.presence = Presence::Unavailable(detail.to_owned());
        agent.queued_bytes = 0;
        let turns: Vec<u64> =
            agent.queues.iter_mut().flat_map(|queue| queue.drain(..)).map(|(route, _)| route.turn).collect();
        self.waiting -= turns.len();
        turns
    }

    /// Gives a turn to an agent, or lets it wait.
    pub fn submit(
        &mut self,
        index: AgentIndex,
        route: Route,
        priority: u8,
        body: Body<'_>,
        effects: &mut Effects<'_>,
    ) -> Admission {
        let limits = self.limits;
        let bytes = body.bytes().len();
        let Some(agent) = self.agents.get_mut(index.0 as usize) else {
            return Admission::Unavailable(format!("agent {} is not in the table", index.0));
        };
        match &agent.presence {
            Presence::Unavailable(detail) => return Admission::Unavailable(detail.clone()),
            Presence::Up(instance) if agent.queued_bytes == 0 && agent.has_credit(bytes, limits) => {
                let instance = *instance;
                agent.give(instance, route, body, effects);
                return Admission::Taken;
            }
            Presence::Up(_) | Presence::Down => {}
        }
        if agent.queued() >= limits.agent_queue_max
            || agent.queued_bytes + bytes > limits.agent_queue_bytes_max
        {
            return Admission::Full;
        }
        agent.queued_bytes += bytes;
        agent.queues[class(priority)].push_back((route, body.to_stored()));
        self.waiting += 1;
        Admission::Taken
    }

    /// Whether the incarnation is current and has the turn in its hands.
    #[inline]
    pub fn owns(&self, instance: InstanceId, turn: u64) -> bool {
        self.by_instance
            .get(&instance)
            .is_some_and(|index| self.agents[index.0 as usize].in_flight.contains_key(&turn))
    }

    /// A turn has ended; what waits may go out.
    pub fn finish(&mut self, instance: InstanceId, turn: u64, effects: &mut Effects<'_>) {
        let Some(&index) = self.by_instance.get(&instance) else { return };
        let agent = &mut self.agents[index.0 as usize];
        if let Some(bytes) = agent.in_flight.remove(&turn) {
            agent.in_flight_bytes -= bytes;
        }
        self.give_out(index, effects);
    }

    fn give_out(&mut self, index: AgentIndex, effects: &mut Effects<'_>) {
        let limits = self.limits;
        let agent = &mut self.agents[index.0 as usize];
        let Presence::Up(instance) = agent.presence else { return };
        while let Some(class) = agent.queues.iter().position(|queue| !queue.is_empty()) {
            let bytes = agent.queues[class].front().map_or(0, |(_, body)| body.bytes_len());
            if !agent.has_credit(bytes, limits) {
                return;
            }
            let Some((route, body)) = agent.queues[class].pop_front() else { return };
            agent.queued_bytes -= bytes;
            self.waiting -= 1;
            agent.give(instance, route, body.as_body(), effects);
        }
    }

    /// Tells every attached agent to finish.
    pub fn stop(&mut self, effects: &mut Effects<'_>) {
        for agent in &self.agents {
            if let Presence::Up(instance) = agent.presence {
                effects(Effect::ToAgent { instance, route: Route::default(), body: Body::STOP });
            }
        }
    }
}
