//! What an agent process links: attach to the rings, receive, stream a reply.
//!
//! The smallest agent is `examples/echo.rs`: attach, split, receive in place, reply, flush once a batch. One that
//! streams its reply is `examples/words.rs`. Neither notices a restart of the gateway: the rings outlive it, and an agent
//! sleeps until the next one wakes it; what it works on is told the next gateway by [`Inbox::receive`].
//!
//! A thread of the SDK answers when the gateway asks for a sign of life, also while the agent is at work on a message. An
//! agent that gives none, since its process is stopped or starved, is ended and its messages are given to the next one. A
//! handler that works for ever is not found by this: the deadline of its message bounds it.
//!
//! What the keeper hands to an agent, descriptors and variables, is named in [`inherited`].
#![deny(unsafe_code)]

mod agent;
mod heartbeat;
mod inbox;
#[allow(unsafe_code, reason = "inherited descriptors are numbers until somebody vouches for them")]
pub mod inherited;
mod outbox;
mod outgoing;

pub use agent::{Agent, AttachError};
pub use inbox::{Inbox, ReceiveError, Received, SkillResult, Turn, TurnId};
pub use inherited::Inherited;
pub use outbox::{Outbox, ReplyError};
pub use shm_transport::envelope::{BlockType, FailureCode, SkillOutcome};
