//! What an edge does with the frames of the simple dialect.

use std::rc::Rc;

use shm_transport::ports::session_hash;

use super::resume::{self, Asked};
use super::state::{Connection, Edge};
use super::turns::{self, Offered, Spoken, Submitted, Turn};
use super::words::Dialect;
use crate::dialect::place::Place;
use crate::dialect::simple::{self, Request, frames};
use crate::refusal::{Code, Refusal};

/// The first two parts of the session key of all connections here.
const CHANNEL: &str = "websocket";
const USER: &str = "local";

/// Reads a frame of a client and acts on it.
///
/// HOT: no allocation once the buffers have grown, no syscall.
pub fn submit(edge: &Rc<Edge>, connection: &Connection, text: &str, now_ms: u64) -> Submitted {
    let message = match simple::parse(text) {
        Ok(Request::Message(message)) => message,
        Ok(Request::Cancel { id }) => return cancel(edge, connection, &id, now_ms),
        Ok(Request::Status { id }) => {
            tell_status(edge, connection, id.as_deref(), now_ms);
            return Submitted::Taken;
        }
        Ok(Request::Resume { id, session, after }) => {
            let asked = Asked::Simple { id: id.as_deref(), thread: &session };
            let found = resume::begin(edge, connection, session_hash(CHANNEL, USER, &session), after, &asked);
            return resume::answered(found, |refusal| {
                refuse(edge, connection, id.as_deref(), Some((None, Some(&session))), refusal, now_ms);
            });
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
    if let Err(refusal) = turns::check_room(edge, connection) {
        return refuse(&refusal);
    }
    let thread = message.session.as_deref().unwrap_or(&connection.thread);
    let session = session_hash(CHANNEL, USER, thread);
    let spoken = Spoken {
        agent: message.agent.as_deref().unwrap_or(""),
        key: [CHANNEL, USER, thread],
        id: message.id.as_deref().unwrap_or(""),
        content: &message.content,
        content_kind: message.content_kind,
        metadata: message.metadata,
        wishes: &message.wishes,
    };
    turns::fill(edge, &spoken, now_ms);
    match turns::offer(edge, &turns::next_route(connection, session)) {
        Offered::Taken => turns::open(edge, connection, |turn| label(turn, &message, thread, session)),
        Offered::Full => return Submitted::Stalled,
        Offered::Refused(refusal) => return refuse(&refusal),
        Offered::Failed => {}
    }
    Submitted::Taken
}

fn label(turn: &mut Turn, message: &simple::Message<'_>, thread: &str, session: u64) {
    frames::write_labels(&mut turn.labels, message.id.as_deref(), message.agent.as_deref(), Some(thread));
    turn.dialect = Dialect::Simple;
    turn.session = session;
    turn.requires_response = message.wishes.requires_response();
    turn.acceptance_due = message.wishes.wants_acceptance();
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
        // A message is cancelled once more when the frame comes again, which changes nothing.
        if turns::cancel(edge, connection.id.origin(), sequence, turn.session) == Offered::Full {
            return Submitted::Stalled;
        }
    }
    if !found {
        let refusal =
            Refusal::new(Code::UnknownId, "no message of this id awaits a reply on this connection");
        refuse(edge, connection, Some(id), None, &Refusal { field: Some("id"), ..refusal }, now_ms);
    }
    Submitted::Taken
}

/// Answers a frame with an error.
#[cold]
pub fn refuse(
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
    frames::write_error(json, &labels, Place::NONE, refusal, now_ms);
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
