//! Which events there are, and who may see them: a closed table. What is not in it is not delivered.

use crate::access::scopes::Scope;

/// How often presence and health have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateVersion {
    /// Changes of presence.
    pub presence: u64,
    /// Changes of health.
    pub health: u64,
}

/// Declares the events with their names, the scope that sees them, and whether a slow client can do without.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $scope:expr, $droppable:expr;)*) => {
        /// An event of the gateway.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum EventName { $($(#[$doc])* $name,)* }

        impl EventName {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The scope that a client needs to see it, if any.
            pub fn scope(self) -> Option<Scope> {
                match self { $(Self::$name => $scope,)* }
            }

            /// Whether a client that reads too slowly can do without it. Its number is used up all the same.
            pub fn may_be_dropped(self) -> bool {
                match self { $(Self::$name => $droppable,)* }
            }
        }
    };
}

events! {
    /// What a client has to sign; the first frame of every connection.
    ConnectChallenge = "connect.challenge", None, false;
    /// The gateway is there.
    Tick = "tick", None, true;
    /// How the gateway is.
    Health = "health", None, true;
    /// What the last heartbeat came to.
    Heartbeat = "heartbeat", None, true;
    /// The gateway is going down.
    Shutdown = "shutdown", None, false;
    /// Who is connected.
    Presence = "presence", Some(Scope::Read), true;
    /// What an agent does in a run.
    Agent = "agent", Some(Scope::Read), false;
    /// What a chat shows of a run.
    Chat = "chat", Some(Scope::Read), false;
    /// A row of the list of sessions has changed.
    SessionsChanged = "sessions.changed", Some(Scope::Read), true;
    /// A transcript has grown.
    SessionMessage = "session.message", Some(Scope::Read), true;
    /// What a tool does in a session.
    SessionTool = "session.tool", Some(Scope::Read), true;
    /// Settings have changed.
    ConfigChanged = "config.changed", Some(Scope::Read), true;
    /// A scheduled job has changed.
    Cron = "cron", Some(Scope::Read), true;
    /// A device asks to be paired.
    DevicePairRequested = "device.pair.requested", Some(Scope::Pairing), false;
    /// It has been decided about a device.
    DevicePairResolved = "device.pair.resolved", Some(Scope::Pairing), false;
    /// A device has changed.
    DevicePairChanged = "device.pair.changed", Some(Scope::Pairing), false;
}

/// A set of events.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct EventSet(u64);

const _: () = assert!(EventName::ALL.len() <= 64, "a set of events is one word");

impl EventSet {
    /// Of these.
    pub fn of(events: &[EventName]) -> Self {
        Self(events.iter().fold(0, |set, &event| set | 1 << event as u8))
    }

    /// Whether it is in the set.
    pub fn contains(self, event: EventName) -> bool {
        self.0 & 1 << event as u8 != 0
    }

    /// In the order of [`EventName::ALL`].
    pub fn iter(self) -> impl Iterator<Item = EventName> {
        EventName::ALL.iter().copied().filter(move |&event| self.contains(event))
    }
}

impl std::fmt::Debug for EventSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(EventName::name)).finish()
    }
}
