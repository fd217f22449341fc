//! What a connection has to know of its gateway: who it is, what it serves, and its limits.

use super::backend::Backend;
use super::event::EventSet;
use super::method::MethodSet;

/// The gateway around a connection.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Whether it lets anybody in.
    pub phase: Phase,
    /// The version of this build.
    pub version: &'a str,
    /// Names this run of the gateway.
    pub boot_id: &'a str,
    /// Names this connection.
    pub connection_id: &'a str,
    /// How long the gateway has been running.
    pub uptime_ms: u64,
    /// The agent that is meant where none is named; empty if there is none.
    pub default_agent: &'a str,
    /// The methods that the edge itself serves.
    pub edge_methods: MethodSet,
    /// The events that are sent.
    pub events: EventSet,
    /// Where the configuration lies; told to admins only.
    pub config_path: Option<&'a str>,
    /// Where the state lies; told to admins only.
    pub state_folder: Option<&'a str>,
    /// What clients are held to.
    pub limits: Limits,
    /// Serves the other methods, and knows presence and health.
    pub backend: &'a dyn Backend,
}

impl Surroundings<'_> {
    /// Every method that a client may find served: these alone are advertised.
    pub fn methods(&self) -> MethodSet {
        self.edge_methods.and(self.backend.methods()).and(super::conversation::METHODS)
    }
}

/// Whether the gateway lets anybody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Not yet.
    Starting,
    /// It does.
    Running,
    /// Not any more: it goes down, and another comes.
    Restarting,
}

/// What clients are held to, and told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest frame of a client that was let in.
    pub payload_bytes_max: u64,
    /// How much may wait to be read by a client.
    pub buffered_bytes_max: u64,
    /// How often the event `tick` comes.
    pub tick_interval_ms: u64,
    /// The largest attachment, decoded.
    pub attachment_bytes_max: u64,
    /// The largest image, decoded.
    pub image_bytes_max: u64,
}
