//! A client, as all tasks of the edge see it. One thread, see rules 1 and 3 of `edge`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::admission::Place;
use super::connections::Traffic;
use super::driver::Driver;
use super::operator::Operator;
use super::outbound::Outbound;
use super::resume::Resumption;
use super::turns::{SequenceHash, Turn};
use crate::access::{Identity, Peer};
use crate::openclaw::conversation::Conversation;
use crate::refusal::CloseReason;

/// Names a connection for the life of its edge: a slot and how often that has been used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// From a slot and how often it has been used.
    pub fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// From the `origin` of a route.
    pub fn from_origin(origin: u64) -> Self {
        Self(origin)
    }

    /// As the `origin` of a route.
    pub fn origin(self) -> u64 {
        self.0
    }

    /// The slot.
    pub fn slot(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

/// A connection, as all tasks of the edge see it.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnectionId,
    /// Names it among all connections of all gateways; the session of messages that name none.
    pub thread: String,
    /// Where it comes from.
    pub peer: Peer,
    /// What changes.
    pub state: RefCell<ConnectionState>,
}

/// How a client came in.
#[derive(Debug)]
pub struct Entrance {
    /// Where it comes from.
    pub peer: Peer,
    /// Who it is, if the upgrade request showed that, or nobody is asked.
    pub identity: Option<Identity>,
    /// Its place, if it is nobody yet.
    pub place: Option<Place>,
    /// Whether the upgrade request asked for the greeting of drivers.
    pub wants_greeting: bool,
    /// Whether it is one HTTP request that an agent answers, and no upgrade.
    pub is_request: bool,
}

/// What a client speaks.
#[derive(Debug)]
pub enum Speech {
    /// It has not said anything. The conversation is what the challenge belongs to.
    Undecided(Box<Conversation>),
    /// [`dialect::simple`](crate::dialect::simple)
    Simple,
    /// [`dialect::driver`](crate::dialect::driver)
    Driver(Driver),
    /// [`openclaw`](crate::openclaw)
    OpenClaw(Box<Operator>),
    /// One request of [`completions`](super::completions).
    Completion,
}

/// What changes about a connection.
#[derive(Debug)]
pub struct ConnectionState {
    /// What it speaks.
    pub speech: Speech,
    /// Who it is, once it was let in.
    pub identity: Option<Identity>,
    /// Its place among those that were not let in yet.
    pub place: Option<Place>,
    /// When it must have been let in.
    pub admitted_by: Option<Instant>,
    /// Whether it has been told that it is connected, as drivers are.
    pub greeted: bool,
    /// Messages that await a reply, by sequence.
    pub turns: HashMap<u32, Turn, SequenceHash>,
    /// Sessions whose words are shown to it although it did not ask for them on this connection.
    pub resumptions: Vec<Resumption>,
    /// The sequence of the next message.
    pub next_sequence: u32,
    /// What has gone over it.
    pub traffic: Traffic,
    /// Frames that wait for the socket.
    pub outbound: Outbound,
    /// Whether some frame is not with the kernel yet.
    pub unflushed: bool,
    /// How to wake its task.
    pub waker: Option<Waker>,
    /// Whether it is in the list of those to be woken.
    pub dirty: bool,
    /// Whether it is in the list of those that wait for room in a ring, and therefore does not read.
    pub blocked: bool,
    /// Why it is to end.
    pub ending: Option<CloseReason>,
    /// Whether a ping is due.
    pub want_ping: bool,
    /// When the next ping is due.
    pub ping_at: Instant,
    /// Whether the client was heard since the last tick.
    pub heard: bool,
    /// For how long it has not been heard, as far as we were able to listen.
    pub silent_for: Duration,
    /// For how long its queue has been above the limit, as far as we were able to write.
    pub over_for: Duration,
}

impl ConnectionState {
    /// Of a connection that has said nothing.
    pub fn new(
        speech: Speech,
        identity: Option<Identity>,
        place: Option<Place>,
        admitted_by: Option<Instant>,
        ping_at: Instant,
    ) -> Self {
        Self {
            speech,
            identity,
            place,
            admitted_by,
            greeted: false,
            turns: HashMap::default(),
            resumptions: Vec::new(),
            next_sequence: 0,
            traffic: Traffic::default(),
            outbound: Outbound::default(),
            unflushed: false,
            waker: None,
            dirty: false,
            blocked: false,
            ending: None,
            want_ping: false,
            ping_at,
            heard: true,
            silent_for: Duration::ZERO,
            over_for: Duration::ZERO,
        }
    }

    /// The client is let in: nothing is asked of it any more.
    pub fn admit(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.place = None;
        self.admitted_by = None;
    }

    /// The OpenClaw client, if it is one.
    pub fn operator(&mut self) -> Option<&mut Operator> {
        match &mut self.speech {
            Speech::OpenClaw(operator) => Some(operator),
            Speech::Undecided(_) | Speech::Simple | Speech::Driver(_) | Speech::Completion => None,
        }
    }
}
