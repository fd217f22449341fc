//! An attached agent: both directions of its link, before they are split.

use shm_transport::envelope::{HelloV1, Route};
use shm_transport::link::{Limits, MESSAGE_BYTES_MAX, SendError};
use shm_transport::segment;

use crate::heartbeat::Heartbeat;
use crate::inherited::{InheritError, Inherited};
use crate::outgoing::Shared;
use crate::{Inbox, Outbox};

/// What an agent holds outside of its rings. The backlog takes at least one message of the largest size.
const LIMITS: Limits =
    Limits { message_bytes_max: MESSAGE_BYTES_MAX, backlog_bytes_max: 2 * MESSAGE_BYTES_MAX };

const _: () = assert!(LIMITS.backlog_bytes_max >= LIMITS.message_bytes_max, "every message finds room");

/// Why an agent did not attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The keeper's descriptors could not be taken.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The segments were refused.
    #[error("the rings of agent {name} were refused")]
    Segment {
        /// The agent.
        name: String,
        /// Why.
        #[source]
        source: segment::AttachError,
    },
    /// The rings are of another incarnation.
    #[error("the rings of agent {name} are of generation {found}, expected {expected}")]
    Generation {
        /// The agent.
        name: String,
        /// What the segments say.
        found: u64,
        /// What the environment says.
        expected: u64,
    },
    /// The thread that gives signs of life could not be started.
    #[error("the heartbeat of agent {name} could not be started")]
    Heartbeat {
        /// The agent.
        name: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The gateway could not be greeted.
    #[error("the first message of agent {name} was not taken")]
    Hello {
        /// The agent.
        name: String,
        /// Why.
        #[source]
        source: SendError,
    },
}

/// What an agent says first, to each gateway.
pub(crate) fn hello() -> HelloV1 {
    HelloV1 {
        process_id: std::process::id(),
        software: concat!("agent-sdk/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// An agent that is attached to its gateway and has said hello.
#[derive(Debug)]
pub struct Agent {
    name: String,
    generation: u64,
    inbox: Inbox,
    outbox: Outbox,
}

impl Agent {
    /// Attaches to the rings this process was started with, and says hello. Works once per process.
    ///
    /// Starts a thread that gives the gateway signs of life until inbox and outbox are dropped. It inherits the signal
    /// mask of the caller: who handles signals on a thread of its own blocks them before.
    pub fn attach() -> Result<Self, AttachError> {
        Self::attach_to(Inherited::take()?)
    }

    /// Attaches to these rings, and says hello.
    pub fn attach_to(inherited: Inherited) -> Result<Self, AttachError> {
        let Inherited { name, generation: expected, engine_half, agent_half, doorbell, passage } = inherited;
        let (link, found) = match segment::attach_agent(&engine_half, &agent_half, doorbell, passage, LIMITS)
        {
            // The mappings outlive the descriptors of the halves.
            Ok(attached) => (attached.link, attached.generation),
            Err(source) => return Err(AttachError::Segment { name, source }),
        };
        if found != expected {
            return Err(AttachError::Generation { name, found, expected });
        }
        let mut sender = link.sender;
        let heartbeat = match Heartbeat::start(sender.heart()) {
            Ok(heartbeat) => heartbeat,
            Err(source) => return Err(AttachError::Heartbeat { name, source }),
        };
        let sent = sender.send(&Route::default(), &hello()).and_then(|()| sender.flush());
        if let Err(source) = sent {
            return Err(AttachError::Hello { name, source });
        }
        let outgoing = Shared::new(sender, heartbeat);
        let (inbox, outbox) = (Inbox::new(link.receiver, outgoing.clone()), Outbox::new(outgoing));
        Ok(Self { name, generation: found, inbox, outbox })
    }

    /// The agent's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which incarnation of the agent this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The two directions, which may live on two threads.
    pub fn split(self) -> (Inbox, Outbox) {
        (self.inbox, self.outbox)
    }
}
