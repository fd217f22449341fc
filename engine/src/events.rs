//! What subscribers are told, at the cost of one branch where there are none.
//!
//! The core asks [`Subscribed::next`] before it makes an event; nobody listening, it makes none. An event borrows
//! what it names, and whoever passes it on copies what it needs.

use std::time::Duration;

use shm_transport::envelope::{FailureCode, Priority, SessionMode};

use crate::breaker::BreakerState;
use crate::event::AgentIndex;
use crate::named::named;
use crate::time::Moment;

named! {
    /// What kind of thing has happened. The number is its bit in an [`EventMask`].
    #[derive(PartialOrd, Ord, Hash)]
    #[repr(u8)]
    pub enum EventType {
        /// A message has been accepted.
        MessageReceived = 0 "message.received",
        /// It has been decided which agent gets it.
        MessageRouted = 1 "message.routed",
        /// An agent has ended its reply.
        ResponseGenerated = 2 "response.generated",
        /// The end of a reply has been given to the edge.
        ResponseDelivered = 3 "response.delivered",
        /// A session has begun.
        SessionCreated = 4 "session.created",
        /// A session is something else than before.
        SessionUpdated = 5 "session.updated",
        /// A pool takes one more member.
        PoolScaleUp = 6 "pool.scale_up",
        /// A pool lets one member go.
        PoolScaleDown = 7 "pool.scale_down",
        /// A circuit breaker has opened, is tried, or has closed.
        BreakerChanged = 8 "breaker.changed",
        /// A message is given up.
        MessageDeadLettered = 9 "message.dead_lettered",
        /// An agent runs.
        AgentStarted = 10 "agent.started",
        /// The process of an agent has ended, or could not be started.
        AgentEnded = 11 "agent.ended",
        /// An agent gets no new messages, and ends.
        AgentDraining = 12 "agent.draining",
        /// An agent is left alone.
        AgentQuarantined = 13 "agent.quarantined",
        /// An agent is not started again.
        AgentTerminated = 14 "agent.terminated",
        /// An agent runs, but does not do its work.
        AgentSick = 15 "agent.sick",
        /// An agent that was sick is not any more.
        AgentWell = 16 "agent.well",
        /// The configuration has been read again.
        ConfigReloaded = 17 "config.reloaded",
    }
}

/// A set of types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EventMask(u32);

impl EventMask {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// All of them.
    pub fn all() -> Self {
        EventType::ALL.iter().copied().collect()
    }

    /// These and that one.
    #[must_use]
    pub fn with(self, event_type: EventType) -> Self {
        Self(self.0 | 1 << event_type as u8)
    }

    /// These and those.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether that one is among them.
    #[inline]
    pub fn contains(self, event_type: EventType) -> bool {
        self.0 & 1 << event_type as u8 != 0
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<EventType> for EventMask {
    fn from_iter<I: IntoIterator<Item = EventType>>(types: I) -> Self {
        types.into_iter().fold(Self::NONE, Self::with)
    }
}

/// What a circuit breaker guards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarded<'a> {
    /// An agent, by its name.
    Agent(&'a str),
    /// A channel, by its name.
    Channel(&'a str),
}

/// What has changed of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionChange<'a> {
    /// Its agent answers every message from now on.
    Activated,
    /// Its agent answers only where it is addressed.
    Deactivated,
    /// Another agent answers from now on.
    Agent(&'a str),
    /// It is forgotten.
    Ended,
}

/// What an event says beyond whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail<'a> {
    /// See [`EventType::MessageReceived`].
    MessageReceived {
        /// The id the client gave it, or an empty string.
        client_id: &'a str,
        /// Its class.
        priority: Priority,
        /// Its size.
        bytes: usize,
    },
    /// See [`EventType::MessageRouted`].
    MessageRouted {
        /// Name of the agent.
        agent: &'a str,
        /// How often it has been given out, this time included.
        attempt: u16,
    },
    /// See [`EventType::ResponseGenerated`].
    ResponseGenerated {
        /// How many pieces the reply has.
        blocks: u32,
        /// Their size.
        bytes: u64,
        /// Time since the message was given to the agent.
        took: Duration,
    },
    /// See [`EventType::ResponseDelivered`].
    ResponseDelivered {
        /// Why there is no reply, if there is none.
        failure: Option<FailureCode>,
        /// Time since the message was accepted.
        took: Duration,
    },
    /// See [`EventType::SessionCreated`].
    SessionCreated {
        /// Of whom.
        user: &'a str,
        /// In which conversation.
        thread: &'a str,
        /// What order it keeps.
        mode: SessionMode,
    },
    /// See [`EventType::SessionUpdated`].
    SessionUpdated {
        /// In which way.
        change: SessionChange<'a>,
    },
    /// See [`EventType::PoolScaleUp`].
    PoolScaleUp {
        /// Name of the pool.
        pool: &'a str,
        /// How many messages wait.
        depth: usize,
        /// How long the oldest has.
        oldest_wait: Duration,
    },
    /// See [`EventType::PoolScaleDown`].
    PoolScaleDown {
        /// Name of the pool.
        pool: &'a str,
        /// How many messages wait.
        depth: usize,
    },
    /// See [`EventType::BreakerChanged`].
    BreakerChanged {
        /// Which breaker.
        guarded: Guarded<'a>,
        /// Where it stands now.
        state: BreakerState,
    },
    /// See [`EventType::MessageDeadLettered`].
    MessageDeadLettered {
        /// Why.
        code: FailureCode,
        /// Why, as a sentence.
        text: &'a str,
        /// How often it was given out.
        attempts: u16,
    },
    /// See [`EventType::AgentStarted`].
    AgentStarted {
        /// Its process.
        process_id: u32,
        /// How often it has been started again.
        restarts: u64,
    },
    /// See [`EventType::AgentEnded`].
    AgentEnded {
        /// Of what.
        cause: &'a str,
    },
    /// See [`EventType::AgentDraining`].
    AgentDraining,
    /// See [`EventType::AgentQuarantined`].
    AgentQuarantined {
        /// Why.
        cause: &'a str,
    },
    /// See [`EventType::AgentTerminated`].
    AgentTerminated {
        /// Why.
        cause: &'a str,
    },
    /// See [`EventType::AgentSick`].
    AgentSick {
        /// How that shows.
        cause: &'a str,
    },
    /// See [`EventType::AgentWell`].
    AgentWell,
    /// See [`EventType::ConfigReloaded`].
    ConfigReloaded {
        /// How many keys have changed.
        changes: usize,
    },
}

impl Detail<'_> {
    /// The type that has such details.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::MessageReceived { .. } => EventType::MessageReceived,
            Self::MessageRouted { .. } => EventType::MessageRouted,
            Self::ResponseGenerated { .. } => EventType::ResponseGenerated,
            Self::ResponseDelivered { .. } => EventType::ResponseDelivered,
            Self::SessionCreated { .. } => EventType::SessionCreated,
            Self::SessionUpdated { .. } => EventType::SessionUpdated,
            Self::PoolScaleUp { .. } => EventType::PoolScaleUp,
            Self::PoolScaleDown { .. } => EventType::PoolScaleDown,
            Self::BreakerChanged { .. } => EventType::BreakerChanged,
            Self::MessageDeadLettered { .. } => EventType::MessageDeadLettered,
            Self::AgentStarted { .. } => EventType::AgentStarted,
            Self::AgentEnded { .. } => EventType::AgentEnded,
            Self::AgentDraining => EventType::AgentDraining,
            Self::AgentQuarantined { .. } => EventType::AgentQuarantined,
            Self::AgentTerminated { .. } => EventType::AgentTerminated,
            Self::AgentSick { .. } => EventType::AgentSick,
            Self::AgentWell => EventType::AgentWell,
            Self::ConfigReloaded { .. } => EventType::ConfigReloaded,
        }
    }
}

/// Something that has happened on a shard, or that the control thread has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// When.
    pub at: Moment,
    /// Counts the events of the shard or of the control thread, from 1.
    pub sequence: u64,
    /// Where the message came from; empty where the event is of no message.
    pub channel: &'a str,
    /// Hash of the session key; 0 where the event is of no session.
    pub session: u64,
    /// The turn; 0 where the event is of none.
    pub turn: u64,
    /// The agent, where one is decided.
    pub agent: Option<AgentIndex>,
    /// What else there is to say.
    pub detail: Detail<'a>,
}

impl Event<'_> {
    /// What kind of thing it is.
    pub fn event_type(&self) -> EventType {
        self.detail.event_type()
    }
}

/// What somebody wants to be told of, as the core knows it. Who that is, the shard knows.
#[derive(Clone, Debug, Default)]
pub struct Subscribed {
    mask: EventMask,
    sequence: u64,
}

impl Subscribed {
    /// From now on these are made.
    pub fn set(&mut self, mask: EventMask) {
        self.mask = mask;
    }

    /// The sequence of the event of this type that is about to be made; `None` if nobody wants to know of it.
    ///
    /// HOT: one branch where nobody listens.
    #[inline]
    pub fn next(&mut self, event_type: EventType) -> Option<u64> {
        if !self.mask.contains(event_type) {
            return None;
        }
        self.sequence += 1;
        Some(self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type has a bit and a name of its own.
    #[test]
    fn types_have_names_and_bits() {
        let mut seen = EventMask::NONE;
        for (bit, &event_type) in (0u8..).zip(EventType::ALL) {
            assert_eq!(event_type as u8, bit);
            assert!(u32::from(bit) < u32::BITS);
            assert_eq!(EventType::from_name(event_type.name()), Some(event_type));
            assert!(!seen.contains(event_type), "{}", event_type.name());
            seen = seen.with(event_type);
        }
        assert_eq!(seen, EventMask::all());
        assert_eq!(EventType::from_name("message"), None);
    }

    /// Only what somebody wants gets a number, and numbers have no gaps.
    #[test]
    fn only_what_is_wanted_is_numbered() {
        use EventType::{BreakerChanged, MessageReceived, SessionCreated};
        let mut subscribed = Subscribed::default();
        assert_eq!(EventType::ALL.iter().filter_map(|&each| subscribed.next(each)).count(), 0);
        subscribed.set([MessageReceived, SessionCreated].into_iter().collect());
        let numbers = [MessageReceived, BreakerChanged, SessionCreated].map(|each| subscribed.next(each));
        assert_eq!(numbers, [Some(1), None, Some(2)]);
        subscribed.set(EventMask::NONE);
        assert_eq!(subscribed.next(MessageReceived), None);
    }

    /// An event says what type it is by what it holds.
    #[test]
    fn details_name_their_type() {
        let (took, text) = (Duration::ZERO, "");
        let details = [
            Detail::MessageReceived { client_id: text, priority: Priority::Normal, bytes: 0 },
            Detail::MessageRouted { agent: text, attempt: 1 },
            Detail::ResponseGenerated { blocks: 0, bytes: 0, took },
            Detail::ResponseDelivered { failure: None, took },
            Detail::SessionCreated { user: text, thread: text, mode: SessionMode::Main },
            Detail::SessionUpdated { change: SessionChange::Activated },
            Detail::PoolScaleUp { pool: text, depth: 0, oldest_wait: took },
            Detail::PoolScaleDown { pool: text, depth: 0 },
            Detail::BreakerChanged { guarded: Guarded::Channel(text), state: BreakerState::Open },
            Detail::MessageDeadLettered { code: FailureCode::AgentDied, text, attempts: 5 },
            Detail::AgentStarted { process_id: 7, restarts: 0 },
            Detail::AgentEnded { cause: text },
            Detail::AgentDraining,
            Detail::AgentQuarantined { cause: text },
            Detail::AgentTerminated { cause: text },
            Detail::AgentSick { cause: text },
            Detail::AgentWell,
            Detail::ConfigReloaded { changes: 0 },
        ];
        let event = |detail| Event {
            at: Moment::ZERO,
            sequence: 1,
            channel: text,
            session: 0,
            turn: 0,
            agent: None,
            detail,
        };
        let types: Vec<_> = details.into_iter().map(|detail| event(detail).event_type()).collect();
        assert_eq!(types, EventType::ALL);
    }
}
