//! What a gateway is told when it comes: what its keeper holds from the one before.

use std::os::fd::OwnedFd;

use crate::control::{Cause, CgroupPlace, Exit, Usage};

/// What a keeper holds from the gateway before.
#[derive(Debug)]
pub enum Holding {
    /// What that gateway has said of itself. Told first.
    Shape(String),
    /// A listening socket.
    Listener {
        /// What it is for.
        name: String,
        /// Where it listens, in the words of the configuration.
        address: String,
        /// The socket.
        socket: OwnedFd,
    },
    /// An agent that lives.
    Agent(HeldAgent),
    /// The death of an agent while no gateway was there.
    Death {
        /// Which agent.
        name: String,
        /// What was its process id.
        process_id: u32,
        /// How it ended.
        exit: Exit,
        /// Why, where its cgroup tells.
        cause: Option<Cause>,
        /// What it has taken.
        usage: Usage,
    },
    /// Deaths that are not told, since there were too many.
    Untold(u64),
}

/// An agent that lives, with its descriptors.
#[derive(Debug)]
pub struct HeldAgent {
    /// Which agent.
    pub instance: u64,
    /// Its name in the configuration it was started by.
    pub name: String,
    /// Its process id.
    pub process_id: u32,
    /// [`crate::control::Spawn::definition`] of what it was started with.
    pub definition: u64,
    /// Which incarnation.
    pub generation: u64,
    /// Where its cgroup is found again.
    pub cgroup: Option<CgroupPlace>,
    /// Those of [`Event::Spawned`].
    pub descriptors: Vec<OwnedFd>,
}
