//! What the frames of one connection mean, in the order they come. Pure: text in, text out, time as an argument.
//!
//! | state | frame | becomes |
//! |---|---|---|
//! | challenged | a valid `connect` | open, `hello-ok` |
//! | challenged | a refused `connect`, another request | closed, after the response that says why |
//! | challenged | anything else | closed without a response |
//! | open | a request | an answer, or a call for the surroundings |
//! | open | no JSON object | ignored, counted against the budget of errors |

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::event::{EventName, StateVersion};
use super::frame;
use super::method::{Method, MethodSet};
use super::surroundings::Surroundings;
use crate::access::{Access, Identity, Peer};
pub use crate::refusal::CloseReason;

/// The largest frame of a client that was not let in yet.
pub const PRE_AUTH_BYTES_MAX: usize = 65_536;
/// How long a client may take until it is let in.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;

/// What a connection serves itself.
pub const METHODS: MethodSet = MethodSet::NONE;

/// The state of one connection.
#[derive(Debug)]
pub struct Conversation {
    nonce: String,
    opened_ms: u64,
    identity: Option<Identity>,
    /// How many events have been addressed to this client.
    seq: u64,
}

/// What came of a frame.
#[derive(Debug)]
pub enum Heard<'a> {
    /// `out` holds what is to be sent, which may be nothing; nothing else to do.
    Answered,
    /// As before, and the client is let in now: `identity()` is there.
    Welcomed,
    /// A request that the surroundings serve: known method, scope and parameters checked.
    Call(Call<'a>),
    /// `out` may hold a last frame; then close with this code and reason.
    Close(CloseReason),
}

/// A request that the surroundings serve.
#[derive(Debug)]
pub struct Call<'a> {
    /// As the client calls this request.
    pub id: Cow<'a, str>,
    /// What is called.
    pub method: Method,
    /// Its parameters, an object that satisfies the method's rules.
    pub params: Option<&'a RawValue>,
}

impl Conversation {
    /// A connection that has shown nothing yet. The nonce is random, and of this connection only.
    pub fn new(nonce: String, now_ms: u64) -> Self {
        Self { nonce, opened_ms: now_ms, identity: None, seq: 0 }
    }

    /// The first frame, which every client gets.
    pub fn challenge(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(96);
        payload.extend_from_slice(br#"{"nonce":"#);
        frame::write_string(&mut payload, &self.nonce);
        payload.extend_from_slice(br#","ts":"#);
        frame::write_number(&mut payload, self.opened_ms);
        payload.push(b'}');
        frame::write_event(out, EventName::ConnectChallenge, &payload, None, None);
    }

    /// What a text frame means. What is to be sent is appended to `out`.
    pub fn hear<'a>(
        &mut self,
        _text: &'a str,
        _peer: &Peer,
        _access: &Access,
        _surroundings: &Surroundings<'_>,
        _now_ms: u64,
        _out: &mut Vec<u8>,
    ) -> Heard<'a> {
        Heard::Close(CloseReason::BadHandshake)
    }

    /// Who the client is, once it was let in.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether an event of that name reaches this client.
    pub fn may_see(&self, event: EventName) -> bool {
        let Some(identity) = &self.identity else { return false };
        event.scope().is_none_or(|scope| identity.scopes.allow(scope))
    }

    /// Writes an event under the next number of this connection.
    pub fn write_event(
        &mut self,
        out: &mut Vec<u8>,
        event: EventName,
        payload_json: &[u8],
        state_version: Option<StateVersion>,
    ) {
        self.skip_event();
        frame::write_event(out, event, payload_json, Some(self.seq), state_version);
    }

    /// Uses up the number of an event that is dropped because the client reads too slowly: it sees the gap.
    pub fn skip_event(&mut self) {
        self.seq += 1;
    }
}
