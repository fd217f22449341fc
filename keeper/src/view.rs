//! What an observer and the keeper say to each other: one JSON object a datagram, one answer a question.
//!
//! An observer is whoever says [`crate::control::Request::Observe`] first. It can ask which rings there are,
//! and gets descriptors through which it can read them. No question changes anything.

use serde::{Deserialize, Serialize};

/// The most observers at a time.
pub const OBSERVERS_MAX: usize = 4;
/// The most rings of one answer; those behind them are asked for with [`Question::Rings::after`].
pub const RINGS_PER_ANSWER_MAX: usize = 32;
/// An observer that asks nothing for so long is sent away.
pub const SILENCE_MAX_MS: u64 = 120_000;

/// Names a ring pair as long as it lives. Rings are listed in this order.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum RingId {
    /// Between two threads of the gateway; counted in the order of their making.
    Internal(u64),
    /// Of an agent, by instance.
    Agent(u64),
}

/// What an observer asks.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Question {
    /// Which rings are there? Answered by [`Answer::Rings`].
    Rings {
        /// From behind this one; from the first if absent.
        after: Option<RingId>,
    },
    /// Show this one. Answered by [`Answer::Ring`] or [`Answer::NoSuchRing`].
    Ring {
        /// Which.
        id: RingId,
    },
}

/// What the keeper answers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// The observer is accepted.
    Welcome {
        /// The version both speak from now on.
        version: u32,
        /// The keeper's process id.
        process_id: u32,
    },
    /// A connection or a question was not accepted.
    Refused {
        /// A sentence that names the thing.
        reason: String,
    },
    /// Rings in the order of [`RingId`].
    Rings {
        /// At most [`RINGS_PER_ANSWER_MAX`].
        rings: Vec<Ring>,
        /// Whether there are others behind them.
        more: bool,
    },
    /// Comes with two descriptors, both read-only: what the first side writes, what the second side writes.
    Ring {
        /// Which.
        id: RingId,
    },
    /// It is not there, or not any more.
    NoSuchRing {
        /// Which.
        id: RingId,
    },
}

/// One ring pair.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Names it in questions.
    pub id: RingId,
    /// The agent's name, or both ends' with a slash between them.
    pub name: String,
    /// Which incarnation of the agent; zero inside the gateway.
    pub generation: u64,
    /// The agent's process, or the gateway's.
    pub process_id: u32,
    /// Capacity of the ring from the first side to the second. The first side of an agent's is the gateway.
    pub first_to_second_bytes: u64,
    /// Capacity of the ring back.
    pub second_to_first_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text form, which another build must read; rings of the gateway are listed before agents'.
    #[test]
    fn messages_have_this_form() {
        let text = r#"{"type":"rings","after":{"agent":3}}"#;
        let question = Question::Rings { after: Some(RingId::Agent(3)) };
        assert_eq!(serde_json::to_string(&question).unwrap(), text);
        assert_eq!(serde_json::from_str::<Question>(text).unwrap(), question);
        let first = serde_json::from_str::<Question>(r#"{"type":"rings"}"#).unwrap();
        assert_eq!(first, Question::Rings { after: None });
        let answer = Answer::NoSuchRing { id: RingId::Internal(0) };
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"type":"no_such_ring","id":{"internal":0}}"#);
        assert!(RingId::Internal(u64::MAX) < RingId::Agent(0));
    }
}
