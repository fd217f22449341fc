//! What connections of the admin socket ask the control thread for, and how it answers.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::answer::{Acted, AgentRow, Going, Reloaded, Status};
use super::request::Complaint;
use crate::config::document::Document;
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
        /// To what end.
        kind: ReloadKind,
        /// The answer: what has changed.
        reply: Reply<Reloaded>,
    },
    /// Something about the life of the gateway itself.
    Lifecycle(LifecycleOrder),
}

/// To what end the configuration is read again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReloadKind {
    /// What can count at once does.
    Take,
    /// The same, for whoever has just changed the file.
    Follow,
    /// Nothing changes: only to know what would.
    Try {
        /// Another file than that of the gateway.
        config: Option<PathBuf>,
    },
    /// Nothing changes: only to know what would if the file said this.
    Weigh(Document),
}

/// To say how the gateway is, or to have it go.
#[derive(Debug)]
pub struct LifecycleOrder {
    /// What.
    pub kind: LifecycleKind,
    /// The answer.
    pub reply: Reply<LifecycleAnswer>,
    /// Ends when the client has been told: a gateway that goes waits for that.
    pub said: oneshot::Receiver<()>,
}

/// What is ordered of the gateway itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LifecycleKind {
    /// To say how it is.
    Status,
    /// To go down, with so much time for replies.
    Stop {
        /// If it is not to be that of the configuration.
        timeout: Option<Duration>,
    },
    /// To make way for the next gateway.
    Restart,
}

/// What the gateway says of itself.
#[derive(Debug)]
pub enum LifecycleAnswer {
    /// To [`LifecycleKind::Status`].
    Status(Status),
    /// To the others.
    Going(Going),
}
