//! What the crash tests and the processes they kill must agree on.
//!
//! Two processes, *engine* and *agent*, send records to each other over both rings of a pair of segments. What
//! is sent follows from where it stands ([`chain`]), and what has arrived is stored with its effect
//! ([`effect`]). So whoever is killed, and whenever, the whole history can be computed and compared.

pub mod chain;
pub mod effect;
pub mod handover;

/// One of the two processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Sleeps on an eventfd, for data and for room at once.
    Engine,
    /// Sleeps on a futex: for room if its ring is full and nothing is to be read, else for data.
    Agent,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Engine, Self::Agent];

    /// The name of the side in arguments and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Agent => "agent",
        }
    }

    /// The side of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.name() == name)
    }

    /// Whom it talks to.
    pub fn peer(self) -> Self {
        match self {
            Self::Engine => Self::Agent,
            Self::Agent => Self::Engine,
        }
    }
}
