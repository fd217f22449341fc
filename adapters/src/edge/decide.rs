//! What a connection speaks: its first frame decides.
//!
//! | first frame | speaks | without credentials |
//! |---|---|---|
//! | `{"type":"req",…}` | OpenClaw | as that protocol says |
//! | `message`, `cancel`, `status`, `resume` without `payload` | the simple dialect | its error, close 4001 |
//! | `message_in`, `presence`, `reaction`, `channel_status`, `resume` with `payload` | the dialect of drivers | its error, close 4001 |
//! | `{"type":"auth","token":…}` | the next frame decides | error, close 4001 |
//! | anything else | the next frame decides | error, close 1008 |
//!
//! Once decided, it stays.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::Speech;
use super::driver::Driver;
use super::state::{Connection, ConnectionState, Edge};
use super::turns::Submitted;
use super::{driver, operator, simple};
use crate::access::AuthRefusal;
use crate::dialect::driver::{RESUME, frames as driver_frames, is_type};
use crate::dialect::fields::{string, too_deep};
use crate::refusal::{CloseReason, Refusal};

/// Reads a frame of a client and acts on it.
///
/// HOT: no allocation once the buffers have grown, no syscall, for the dialects of messages.
pub fn submit(edge: &Rc<Edge>, connection: &Connection, text: &str, now_ms: u64) -> Submitted {
    let undecided = match connection.state.borrow().speech {
        Speech::Simple => Some(simple::submit as Submit),
        Speech::Driver(_) => Some(driver::submit as Submit),
        Speech::OpenClaw(_) => Some(operator::submit as Submit),
        Speech::Undecided(_) | Speech::Completion => None,
    };
    match undecided {
        Some(submit) => submit(edge, connection, text, now_ms),
        None => first(edge, connection, text, now_ms),
    }
}

type Submit = fn(&Rc<Edge>, &Connection, &str, u64) -> Submitted;

/// What decides.
#[derive(Deserialize, Default)]
struct First<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[cold]
fn first(edge: &Rc<Edge>, connection: &Connection, text: &str, now_ms: u64) -> Submitted {
    // What is not an object, or nested too deeply, has no type; whoever reads it next says why.
    let readable = !too_deep(text.as_bytes()) && text.trim_ascii_start().starts_with('{');
    let first: First<'_> =
        if readable { serde_json::from_str(text).unwrap_or_default() } else { First::default() };
    let kind = first.r#type.and_then(|kind| string(kind.get())).unwrap_or_default();
    if kind == "req" {
        let state = &mut *connection.state.borrow_mut();
        operator::begin(edge, state);
    } else if kind == "auth" {
        let token = first.token.and_then(|token| string(token.get()));
        return authenticate(edge, connection, token.as_deref(), now_ms);
    } else if is_type(&kind) || (kind == RESUME && first.payload.is_some()) {
        if connection.state.borrow().identity.is_none() {
            refuse_driver(edge, connection, &missing(edge), now_ms);
            return Submitted::Close(CloseReason::NotAdmitted);
        }
        let state = &mut *connection.state.borrow_mut();
        state.speech = Speech::Driver(Driver::new(&edge.shared.channels));
        greet(edge, connection, state, now_ms);
        edge.listen(connection.id);
    } else {
        let is_simple = matches!(kind.as_ref(), "message" | "cancel" | "status" | RESUME);
        if connection.state.borrow().identity.is_none() {
            simple::refuse(edge, connection, None, None, &missing(edge), now_ms);
            let not_understood = CloseReason::BadHandshake;
            return Submitted::Close(if is_simple { CloseReason::NotAdmitted } else { not_understood });
        }
        if !is_simple {
            return simple::submit(edge, connection, text, now_ms);
        }
        connection.state.borrow_mut().speech = Speech::Simple;
    }
    submit(edge, connection, text, now_ms)
}

/// Lets a client in that says who it is in a frame.
fn authenticate(edge: &Edge, connection: &Connection, token: Option<&str>, now_ms: u64) -> Submitted {
    let source = connection.peer.source;
    match edge.shared.access.check_secret(token, &connection.peer, now_ms) {
        Ok(identity) => {
            let state = &mut *connection.state.borrow_mut();
            state.admit(identity);
            state.greeted = false;
            greet(edge, connection, state, now_ms);
            Submitted::Taken
        }
        Err(refusal) => {
            tracing::warn!(%source, %refusal, "refused a client at its first frame");
            refuse_driver(edge, connection, &Refusal::of_auth(refusal), now_ms);
            Submitted::Close(CloseReason::NotAdmitted)
        }
    }
}

fn missing(edge: &Edge) -> Refusal<'static> {
    Refusal::of_auth(AuthRefusal::Missing(edge.shared.access.mode()))
}

fn refuse_driver(edge: &Edge, connection: &Connection, refusal: &Refusal<'_>, now_ms: u64) {
    driver::refuse(edge, connection, None, None, refusal, now_ms);
}

/// Tells a client, once, that it is connected.
pub fn greet(edge: &Edge, connection: &Connection, state: &mut ConnectionState, now_ms: u64) {
    if !std::mem::replace(&mut state.greeted, true) {
        let mut json = Vec::with_capacity(160);
        driver_frames::write_connected(&mut json, &connection.thread, &connection.thread, now_ms);
        edge.enqueue(state, &json);
    }
}
