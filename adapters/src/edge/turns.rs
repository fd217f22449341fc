//! Which messages of a connection await a reply.
//!
//! A turn opens when a message is in a ring and closes with exactly one frame: the reply, or an error. For
//! a message that wants no reply the acceptance is the frame, and the turn stays open without a further one
//! until its end, so that a later failure is still told. A cancelled one stays open until the shard says so.
//! It is found by the route that the reply carries: the connection in `origin`, the message in `sequence`.
//! What comes for a closed turn is counted and dropped. A reply of a later attempt replaces the text of an
//! earlier one; block numbers go on. Runs of the OpenClaw protocol belong to no connection; they are in
//! [`runs`](super::runs).

use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use shm_transport::envelope::{Body, FailureCode, Kind, Message, Route};
use shm_transport::link::SendError;
use shm_transport::ports::shard_of;

use super::Phase;
use super::resume;
use super::runs;
use super::state::{Connection, ConnectionId, ConnectionState, Edge};
use super::words::{self, Dialect, Frames, Outcome};
use crate::dialect::place::Place;
use crate::dialect::simple::metadata::Wishes;
use crate::refusal::{CloseReason, Code, Refusal};

/// When a client whose turns are all open may try again.
const OPEN_TURNS_RETRY_MS: u32 = 100;

/// A message that awaits a reply.
#[derive(Debug, Default)]
pub struct Turn {
    /// What its client speaks.
    pub dialect: Dialect,
    /// Labels of its frames, escaped.
    pub labels: Vec<u8>,
    /// Hash of its session key.
    pub session: u64,
    /// The text of the reply so far.
    pub text: String,
    /// Blocks sent.
    pub blocks: u32,
    /// The attempt that the text is of.
    pub attempt: u32,
    /// Its number, once the shard has said something of it.
    pub number: u64,
    /// Where its last word stands.
    pub place: Place,
    /// Whether its client waits for the reply.
    pub requires_response: bool,
    /// Whether the acceptance is still to be told.
    pub acceptance_due: bool,
}

/// Hashes sequences: they are counted up by us, so spreading them is enough.
#[derive(Default, Debug)]
pub struct SequenceHasher(u64);

/// Makes [`SequenceHasher`]s.
pub type SequenceHash = BuildHasherDefault<SequenceHasher>;

impl Hasher for SequenceHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A message as the shard gets it, whichever dialect it came in.
#[derive(Clone, Copy, Debug)]
pub struct Spoken<'a> {
    /// For whom; empty where nobody is named.
    pub agent: &'a str,
    /// Channel, user and thread: the key of its session.
    pub key: [&'a str; 3],
    /// As its client calls it; empty where it does not.
    pub id: &'a str,
    /// What it says.
    pub content: &'a str,
    /// What that is.
    pub content_kind: u8,
    /// As it came.
    pub metadata: &'a str,
    /// What is asked of the gateway.
    pub wishes: &'a Wishes,
}

/// Fills the envelope that is offered next.
///
/// HOT: no allocation once the envelope has grown.
pub fn fill(edge: &Edge, spoken: &Spoken<'_>, now_ms: u64) {
    let Spoken { agent, key: [channel, user, thread], id, content, content_kind, metadata, wishes } = *spoken;
    let envelope = &mut edge.scratch.borrow_mut().envelope;
    for (part, text) in [
        (&mut envelope.agent, agent),
        (&mut envelope.channel, channel),
        (&mut envelope.user, user),
        (&mut envelope.thread, thread),
        (&mut envelope.client_id, id),
        (&mut envelope.content, content),
        (&mut envelope.metadata, metadata),
        (&mut envelope.labels, wishes.labels.as_str()),
    ] {
        part.clear();
        part.push_str(text);
    }
    envelope.received_at_ms = now_ms;
    envelope.content_kind = content_kind;
    envelope.deadline_ms = wishes.deadline_ms;
    envelope.priority = wishes.priority as u8;
    envelope.flags = wishes.flags;
    envelope.mode = wishes.mode as u8;
    envelope.durability = wishes.durability as u8;
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// Done with, whatever the answer.
    Taken,
    /// Not understood: counts against the connection.
    Bad,
    /// No room in the ring: come again with the same frame.
    Stalled,
    /// Done with, and so is the connection.
    Close(CloseReason),
}

/// What became of what was offered to a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Offered {
    /// It is in the ring.
    Taken,
    /// There is no room in the ring: come again.
    Full,
    /// It can never be there.
    Refused(Refusal<'static>),
    /// The ring is broken, and the edge ends.
    Failed,
}

/// Whether a connection may open one more turn.
pub fn check_room(edge: &Edge, connection: &Connection) -> Result<(), Refusal<'static>> {
    if edge.phase() != Phase::Running {
        return Err(Refusal::shutting_down());
    }
    if connection.state.borrow().turns.len() >= edge.options.open_turns_max {
        return Err(too_many_turns());
    }
    Ok(())
}

#[cold]
fn too_many_turns() -> Refusal<'static> {
    let text = "too many messages of this connection await a reply";
    Refusal {
        retry_after_ms: OPEN_TURNS_RETRY_MS,
        ..Refusal::new(Code::Failure(FailureCode::Overloaded), text)
    }
}

/// The route of the next message of a connection.
pub fn next_route(connection: &Connection, session: u64) -> Route {
    let sequence = connection.state.borrow().next_sequence;
    Route { turn: 0, session, origin: connection.id.origin(), sequence, attempt: 0 }
}

/// Hands the envelope in the scratch space to the shard of its session.
pub fn offer(edge: &Edge, route: &Route) -> Offered {
    let envelope = &edge.scratch.borrow().envelope;
    let links = &mut edge.ports.borrow_mut().links;
    let shard_index = shard_of(route.session, links.len());
    match links[shard_index].sender.send(route, envelope) {
        Ok(()) => Offered::Taken,
        Err(SendError::Full { .. }) => Offered::Full,
        Err(error @ SendError::TooLarge { .. }) => {
            Offered::Refused(Refusal::new(Code::Failure(FailureCode::TooLarge), error.to_string()))
        }
        Err(SendError::Poisoned(poison)) => {
            edge.fail(shard_index, poison);
            Offered::Failed
        }
    }
}

/// Tells the shard of a message that nobody waits for its reply any more.
pub fn cancel(edge: &Edge, origin: u64, sequence: u32, session: u64) -> Offered {
    let route = Route { session, origin, sequence, ..Route::default() };
    let links = &mut edge.ports.borrow_mut().links;
    let shard_index = shard_of(session, links.len());
    match links[shard_index].sender.forward(&route, Body::CANCEL) {
        Err(SendError::Full { .. }) => Offered::Full,
        Err(SendError::Poisoned(poison)) => {
            edge.fail(shard_index, poison);
            Offered::Failed
        }
        // It has no archive that could be too large.
        Ok(()) | Err(SendError::TooLarge { .. }) => Offered::Taken,
    }
}

/// Opens the turn of the message that was just taken; `label` says what it is.
pub fn open(edge: &Edge, connection: &Connection, label: impl FnOnce(&mut Turn)) {
    let mut turn = edge.scratch.borrow_mut().spare.pop().unwrap_or_default();
    turn.labels.clear();
    turn.text.clear();
    (turn.blocks, turn.attempt) = (0, 0);
    (turn.number, turn.place) = (0, Place::NONE);
    label(&mut turn);
    let state = &mut *connection.state.borrow_mut();
    state.turns.insert(state.next_sequence, turn);
    state.next_sequence = state.next_sequence.wrapping_add(1);
    let stats = edge.stats();
    stats.open_turns.add(1);
    stats.received.add(1);
}

/// Gives what a shard sent to the connection it is for.
///
/// HOT: no allocation once the buffers have grown, no syscall.
pub fn deliver(edge: &Edge, message: &Message<'_>, now_ms: u64) {
    let route = message.route;
    if route.origin == runs::ORIGIN {
        return runs::deliver(edge, message, now_ms);
    }
    let Some(connection) = edge.find(ConnectionId::from_origin(route.origin)) else {
        edge.stats().late.add(1);
        return;
    };
    let state = &mut *connection.state.borrow_mut();
    if !state.resumptions.is_empty() && resume::deliver(edge, &connection, state, message, now_ms) {
        return;
    }
    let is_reply = is_reply(message);
    let current = |turn: &&mut Turn| !is_reply || route.attempt >= turn.attempt;
    let Some(turn) = state.turns.get_mut(&route.sequence).filter(current) else {
        edge.stats().late.add(1);
        return;
    };
    turn.number = route.turn;
    // That of an acceptance is zero, and that of what is no word of a session.
    turn.place = Place(route.session);
    if is_reply && route.attempt > turn.attempt {
        turn.attempt = route.attempt;
        turn.text.clear();
    }
    let scratch = &mut *edge.scratch.borrow_mut();
    let mut frames = Frames::new(&mut scratch.json);
    let outcome = words::apply(turn, message, &mut frames, edge.options.reply_bytes_max, now_ms);
    let second = frames.second;
    if outcome != Outcome::Open {
        if let Some(turn) = state.turns.remove(&route.sequence) {
            scratch.recycle(turn);
        }
        let stats = edge.stats();
        stats.open_turns.sub(1);
        if outcome == Outcome::Answered { &stats.answered } else { &stats.refused }.add(1);
    }
    if !scratch.json.is_empty() {
        let (first, rest) = scratch.json.split_at(second.unwrap_or(scratch.json.len()));
        edge.enqueue(state, first);
        if !rest.is_empty() {
            edge.enqueue(state, rest);
        }
        edge.mark_dirty(Rc::clone(&connection), state);
    }
}

/// Whether the attempt of a message says which attempt of a reply it is. That of an acceptance says something else;
/// a failure of no attempt is the gateway's own last word, and comes whatever attempts there were.
pub fn is_reply(message: &Message<'_>) -> bool {
    match message.kind() {
        Kind::Accepted => false,
        Kind::Failure => message.route.attempt != 0,
        _ => true,
    }
}

/// Ends all open turns of a connection with an error frame, oldest first.
pub fn fail_all(edge: &Edge, state: &mut ConnectionState, refusal: &Refusal<'_>, now_ms: u64) {
    let mut turns: Vec<(u32, Turn)> = state.turns.drain().collect();
    turns.sort_unstable_by_key(|&(sequence, _)| sequence);
    let stats = edge.stats();
    let mut json = Vec::new();
    for (_, turn) in turns {
        words::write_error(&turn, &mut Frames::new(&mut json), refusal, now_ms);
        edge.enqueue(state, &json);
        stats.open_turns.sub(1);
        stats.refused.add(1);
    }
}
