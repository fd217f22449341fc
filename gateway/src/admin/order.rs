//! What connections of the admin socket ask the control thread for, and how it answers.

use tokio::sync::oneshot;

use super::answer::{Acted, AgentRow, Reloaded};
use super::request::Complaint;
use engine::event::AgentIndex;
use engine::registry::Field;

/// Where an answer goes. One that nobody waits for any more is dropped.
pub type Reply<T> = oneshot::Sender<Result<T, Complaint>>;

/// What is done with agents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Drained and started anew, one member of a pool after the other.
    Restart,
    /// Drained and ended.
    Drain,
    /// Drained and left alone, for this reason.
    Quarantine(String),
    /// Started, after a drain or a quarantine.
    Release,
}

/// An order.
#[derive(Debug)]
pub enum Order {
    /// Tell of agents to which all of this applies.
    List {
        /// By what, and which word.
        wanted: Vec<(Field, String)>,
        /// The answer: rows without loads, in the order of numbers.
        reply: Reply<Vec<(AgentIndex, AgentRow)>>,
    },
    /// Do something with an agent, or with all of a pool.
    Act {
        /// Its name.
        name: String,
        /// What.
        act: Act,
        /// The answer: what has begun.
        reply: Reply<Acted>,
    },
    /// Read the configuration again.
    Reload {
        /// The answer: what has changed.
        reply: Reply<Reloaded>,
    },
}
