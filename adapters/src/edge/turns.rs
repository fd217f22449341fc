//! Which messages await a reply, and what a reply becomes.
//!
//! A turn opens when a message is in a ring and closes with exactly one frame: the reply, or an error. For
//! a message that wants no reply the acceptance is the frame, and the turn stays open without a further one
//! until its end, so that a later failure is still told. A cancelled one stays open until the shard says so. It is found by the route that the reply carries: the
//! connection in `origin`, the message in `sequence`. What comes for a closed turn is counted and dropped.
//! A reply of a later attempt replaces the text of an earlier one; block numbers go on.

use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use shm_transport::envelope::{
    ACCEPTED_DUPLICATE, BlockType, Body, DurabilityClass, FailureCode, Kind, Message, MessageV2, Opened,
    Route,
};
use shm_transport::link::SendError;
use shm_transport::ports::{session_hash, shard_of};

use super::Phase;
use super::state::{Connection, ConnectionId, ConnectionState, Edge, Scratch};
use crate::dialect::simple::{self, Request, frames};
use crate::refusal::{Code, Refusal};

/// The first two parts of the session key of all connections here.
const CHANNEL: &str = "websocket";
const USER: &str = "local";
/// When a client whose turns are all open may try again.
const OPEN_TURNS_RETRY_MS: u32 = 100;

/// A message that awaits a reply.
#[derive(Debug, Default)]
pub struct Turn {
    /// Labels of its frames, escaped.
    labels: Vec<u8>,
    /// Hash of its session key.
    session: u64,
    /// The text of the reply so far.
    pub text: String,
    /// Blocks sent.
    blocks: u32,
    /// The attempt that the text is of.
    attempt: u32,
    requires_response: bool,
    /// Whether the acceptance is still to be told.
    acceptance_due: bool,
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

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// Done with, whatever the answer.
    Taken,
    /// Not understood: counts against the connection.
    Bad,
    /// No room in the ring: come again with the same frame.
    Stalled,
}

/// Reads a frame of a client and acts on it.
///
/// HOT: no allocation once the buffers have grown, no syscall.
pub fn submit(edge: &Edge, connection: &Connection, text: &str, now_ms: u64) -> Submitted {
    let message = match simple::parse(text) {
        Ok(Request::Message(message)) => message,
        Ok(Request::Cancel { id }) => return cancel(edge, connection, &id, now_ms),
        Ok(Request::Status { id }) => {
            tell_status(edge, connection, id.as_deref(), now_ms);
            return Submitted::Taken;
        }
        Err(unread) => {
            refuse(edge, connection, unread.id.as_deref(), None, &unread.refusal, now_ms);
            return Submitted::Bad;
        }
    };
    let refuse = |refusal: &Refusal<'_>| {
        let names = (message.agent.as_deref(), message.session.as_deref());
        refuse(edge, connection, message.id.as_deref(), Some(names), refusal, now_ms);
        Submitted::Taken
    };
    if edge.phase() != Phase::Running {
        return refuse(&Refusal::shutting_down());
    }
    if connection.state.borrow().turns.len() >= edge.options.open_turns_max {
        return refuse(&too_many_turns());
    }
    let thread = message.session.as_deref().unwrap_or(&connection.thread);
    let session = session_hash(CHANNEL, USER, thread);
    let sequence = connection.state.borrow().next_sequence;
    let route = Route { turn: 0, session, origin: connection.id.origin(), sequence, attempt: 0 };
    let sent = {
        let Scratch { envelope, .. } = &mut *edge.scratch.borrow_mut();
        fill(envelope, &message, thread, now_ms);
        let links = &mut edge.ports.borrow_mut().links;
        let shard_index = shard_of(session, links.len());
        links[shard_index].sender.send(&route, envelope).map_err(|error| (shard_index, error))
    };
    match sent {
        Ok(()) => open(edge, connection, &message, thread, session),
        Err((_, SendError::Full { .. })) => return Submitted::Stalled,
        Err((_, error @ SendError::TooLarge { .. })) => {
            return refuse(&Refusal::new(Code::Failure(FailureCode::TooLarge), error.to_string()));
        }
        Err((shard_index, SendError::Poisoned(poison))) => edge.fail(shard_index, poison),
    }
    Submitted::Taken
}

fn fill(envelope: &mut MessageV2, message: &simple::Message<'_>, thread: &str, now_ms: u64) {
    for (part, text) in [
        (&mut envelope.agent, message.agent.as_deref().unwrap_or("")),
        (&mut envelope.channel, CHANNEL),
        (&mut envelope.user, USER),
        (&mut envelope.thread, thread),
        (&mut envelope.client_id, message.id.as_deref().unwrap_or("")),
        (&mut envelope.content, message.content.as_ref()),
        (&mut envelope.metadata, message.metadata),
        (&mut envelope.labels, &message.wishes.labels),
    ] {
        part.clear();
        part.push_str(text);
    }
    envelope.received_at_ms = now_ms;
    envelope.content_kind = message.content_kind;
    let wishes = &message.wishes;
    envelope.deadline_ms = wishes.deadline_ms;
    envelope.priority = wishes.priority as u8;
    envelope.flags = wishes.flags;
    envelope.mode = wishes.mode as u8;
    envelope.durability = wishes.durability as u8;
}

fn open(edge: &Edge, connection: &Connection, message: &simple::Message<'_>, thread: &str, session: u64) {
    let mut turn = edge.scratch.borrow_mut().spare.pop().unwrap_or_default();
    turn.labels.clear();
    frames::write_labels(&mut turn.labels, message.id.as_deref(), message.agent.as_deref(), Some(thread));
    turn.text.clear();
    (turn.blocks, turn.attempt) = (0, 0);
    turn.session = session;
    turn.requires_response = message.wishes.requires_response();
    turn.acceptance_due = message.wishes.wants_acceptance();
    let state = &mut *connection.state.borrow_mut();
    state.turns.insert(state.next_sequence, turn);
    state.next_sequence = state.next_sequence.wrapping_add(1);
    let stats = edge.stats();
    stats.open_turns.add(1);
    stats.received.add(1);
}

/// Tells the shard of a message that nobody waits for its reply any more. The shard ends the turn, as it ends all.
///
/// Several messages may have one id; then each is meant.
#[cold]
fn cancel(edge: &Edge, connection: &Connection, id: &str, now_ms: u64) -> Submitted {
    let mut label = Vec::new();
    frames::write_labels(&mut label, Some(id), None, None);
    let mut found = false;
    for (&sequence, turn) in &connection.state.borrow().turns {
        // The id comes first, up to its closing quote.
        if !turn.labels.starts_with(&label) {
            continue;
        }
        found = true;
        let route =
            Route { session: turn.session, origin: connection.id.origin(), sequence, ..Route::default() };
        let links = &mut edge.ports.borrow_mut().links;
        let shard_index = shard_of(turn.session, links.len());
        match links[shard_index].sender.forward(&route, Body::CANCEL) {
            // A message is cancelled once more when the frame comes again, which changes nothing.
            Err(SendError::Full { .. }) => return Submitted::Stalled,
            Err(SendError::Poisoned(poison)) => edge.fail(shard_index, poison),
            // It has no archive that could be too large.
            Ok(()) | Err(SendError::TooLarge { .. }) => {}
        }
    }
    if !found {
        let refusal =
            Refusal::new(Code::UnknownId, "no message of this id awaits a reply on this connection");
        refuse(edge, connection, Some(id), None, &Refusal { field: Some("id"), ..refusal }, now_ms);
    }
    Submitted::Taken
}

#[cold]
fn too_many_turns() -> Refusal<'static> {
    let text = "too many messages of this connection await a reply";
    Refusal {
        retry_after_ms: OPEN_TURNS_RETRY_MS,
        ..Refusal::new(Code::Failure(FailureCode::Overloaded), text)
    }
}

#[cold]
fn refuse(
    edge: &Edge,
    connection: &Connection,
    id: Option<&str>,
    names: Option<(Option<&str>, Option<&str>)>,
    refusal: &Refusal<'_>,
    now_ms: u64,
) {
    let mut labels = Vec::new();
    let (agent, session) = names.unwrap_or_default();
    frames::write_labels(&mut labels, id, agent, session);
    let json = &mut edge.scratch.borrow_mut().json;
    json.clear();
    frames::write_error(json, &labels, refusal, now_ms);
    edge.stats().refused.add(1);
    edge.enqueue(&mut connection.state.borrow_mut(), json);
}

#[cold]
fn tell_status(edge: &Edge, connection: &Connection, id: Option<&str>, now_ms: u64) {
    let report = super::http::report(edge);
    let mut labels = Vec::new();
    frames::write_labels(&mut labels, id, None, None);
    let json = &mut edge.scratch.borrow_mut().json;
    json.clear();
    frames::write_status(json, &labels, &report, now_ms);
    edge.enqueue(&mut connection.state.borrow_mut(), json);
}

/// What a piece of a reply does to its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Open,
    Answered,
    Refused,
}

/// Gives what a shard sent to the connection it is for.
///
/// HOT: no allocation once the buffers have grown, no syscall.
pub fn deliver(edge: &Edge, message: &Message<'_>, now_ms: u64) {
    let route = message.route;
    let Some(connection) = edge.find(ConnectionId::from_origin(route.origin)) else {
        edge.stats().late.add(1);
        return;
    };
    let state = &mut *connection.state.borrow_mut();
    // The attempt of an acceptance says something else; a failure of no attempt is the gateway's own last word, and
    // comes whatever attempts there were.
    let is_reply = match message.kind() {
        Kind::Accepted => false,
        Kind::Failure => route.attempt != 0,
        _ => true,
    };
    let current = |turn: &&mut Turn| !is_reply || route.attempt >= turn.attempt;
    let Some(turn) = state.turns.get_mut(&route.sequence).filter(current) else {
        edge.stats().late.add(1);
        return;
    };
    if is_reply && route.attempt > turn.attempt {
        turn.attempt = route.attempt;
        turn.text.clear();
    }
    let scratch = &mut *edge.scratch.borrow_mut();
    scratch.json.clear();
    let outcome = apply(turn, message, &mut scratch.json, edge.options.reply_bytes_max, now_ms);
    if outcome != Outcome::Open {
        if let Some(turn) = state.turns.remove(&route.sequence) {
            scratch.recycle(turn);
        }
        let stats = edge.stats();
        stats.open_turns.sub(1);
        if outcome == Outcome::Answered { &stats.answered } else { &stats.refused }.add(1);
    }
    if !scratch.json.is_empty() {
        edge.enqueue(state, &scratch.json);
        edge.mark_dirty(Rc::clone(&connection), state);
    }
}

/// Writes the frame that a piece of a reply becomes, if any.
fn apply(
    turn: &mut Turn,
    message: &Message<'_>,
    json: &mut Vec<u8>,
    reply_bytes_max: usize,
    now_ms: u64,
) -> Outcome {
    match message.open() {
        Opened::Block(block) => {
            if !turn.requires_response {
                return Outcome::Open;
            }
            let block_type = BlockType::from_number(block.block_type).unwrap_or_default();
            if block_type.is_text() {
                if turn.text.len() + block.content.len() > reply_bytes_max {
                    return too_long(turn, json, reply_bytes_max, now_ms);
                }
                turn.text.push_str(&block.content);
            }
            frames::write_block(json, &turn.labels, block_type, turn.blocks, &block.content, now_ms);
            turn.blocks += 1;
            Outcome::Open
        }
        Opened::End(end) => {
            if !turn.requires_response {
                tell_accepted(turn, json, 0, now_ms);
            } else if turn.text.len() + end.content.len() > reply_bytes_max {
                return too_long(turn, json, reply_bytes_max, now_ms);
            } else {
                frames::write_reply(json, &turn.labels, &turn.text, &end.content, now_ms);
            }
            Outcome::Answered
        }
        Opened::Failure(failure) => {
            let (code, retry) = (failure.code.to_native(), failure.retry_after_ms.to_native());
            let refusal = Refusal::of_failure(code, &failure.text, retry);
            frames::write_error(json, &turn.labels, &refusal, now_ms);
            Outcome::Refused
        }
        Opened::Accepted => {
            tell_accepted(turn, json, message.route.attempt, now_ms);
            Outcome::Open
        }
        // Nothing that a client is told.
        Opened::Message(_)
        | Opened::Hello(_)
        | Opened::Skill(_)
        | Opened::SkillResult(_)
        | Opened::Stop
        | Opened::Cancel
        | Opened::Journaled
        | Opened::RollCall
        | Opened::Working
        | Opened::Kept => Outcome::Open,
    }
}

/// Once, whoever says it first, if the client wants to know. `words` is the attempt of an acceptance; zero where only
/// the end of the turn says that there was one.
fn tell_accepted(turn: &mut Turn, json: &mut Vec<u8>, words: u32, now_ms: u64) {
    if std::mem::take(&mut turn.acceptance_due) {
        let [class, ..] = words.to_le_bytes();
        let durability = DurabilityClass::from_number(class);
        let duplicate = words & ACCEPTED_DUPLICATE != 0;
        frames::write_accepted(json, &turn.labels, durability, duplicate, now_ms);
    }
}

#[cold]
fn too_long(turn: &Turn, json: &mut Vec<u8>, reply_bytes_max: usize, now_ms: u64) -> Outcome {
    let text = format!("the reply is longer than the {reply_bytes_max} bytes that are passed on");
    let refusal = Refusal::new(Code::Failure(FailureCode::TooLarge), text);
    frames::write_error(json, &turn.labels, &refusal, now_ms);
    Outcome::Refused
}

/// Ends all open turns of a connection with an error frame, oldest first.
pub fn fail_all(edge: &Edge, state: &mut ConnectionState, refusal: &Refusal<'_>, now_ms: u64) {
    let mut turns: Vec<(u32, Turn)> = state.turns.drain().collect();
    turns.sort_unstable_by_key(|&(sequence, _)| sequence);
    let stats = edge.stats();
    let mut json = Vec::new();
    for (_, turn) in turns {
        json.clear();
        frames::write_error(&mut json, &turn.labels, refusal, now_ms);
        edge.enqueue(state, &json);
        stats.open_turns.sub(1);
        stats.refused.add(1);
    }
}
