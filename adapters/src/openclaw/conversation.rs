//! What the frames of one connection mean, in the order they come. Pure: text in, text out, time as an argument.
//!
//! | state | frame | becomes |
//! |---|---|---|
//! | challenged | a valid `connect` | open, `hello-ok` |
//! | challenged | a refused `connect`, another request | closed, after the response that says why |
//! | challenged | anything else | closed without a response |
//! | open | a request | an answer, or a call for the surroundings |
//! | open | JSON that is no request | an error, counted |
//! | open | anything else | ignored, counted |
//!
//! A frame is answered before the next one is heard, so frames that are sent behind `connect` need no queue: the
//! surroundings hand them over in order, and stop where this says close.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::connect::{self, Caps};
use super::event::{EventName, StateVersion};
use super::method::{Method, MethodSet, Need, Server};
use super::params::{self, Params, rules};
use super::presence::Entry;
use super::session_key::canonical;
use super::surroundings::{Phase, Surroundings};
use super::{frame, hello};
use crate::access::login::PairingNews;
use crate::access::scopes::Scope;
use crate::access::{Access, Identity, Peer, Role};
use crate::dialect::fields::too_deep;
pub use crate::refusal::CloseReason;
use crate::refusal::RpcError;

/// The largest frame of a client that was not let in yet. The surroundings hold it to that before they read it whole.
pub const PRE_AUTH_BYTES_MAX: usize = 65_536;
/// How long a client may take until it is let in.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Errors that a client may cause in a second.
pub const ERRORS_MAX: u32 = 20;
/// The second that they are counted in.
pub const ERRORS_WINDOW_MS: u64 = 1_000;
/// Calls that a client may not make, one after the other, until it is closed.
pub const UNAUTHORIZED_MAX: u32 = 10;
/// Sessions that a client may subscribe to.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// How a request without a readable id is answered.
const INVALID_ID: &str = "invalid";
/// How much of an unknown method is told back.
const METHOD_CHARS_SHOWN: usize = 64;
/// When a client may try again while the gateway starts, and while it restarts.
const STARTING_RETRY_MS: u64 = 500;
const RESTARTING_RETRY_MS: u64 = 1_000;

/// What a connection serves itself, once its client is let in.
pub const METHODS: MethodSet = MethodSet::of(&[
    Method::SessionsSubscribe,
    Method::SessionsMessagesSubscribe,
    Method::SessionsMessagesUnsubscribe,
]);

/// The state of one connection.
#[derive(Debug)]
pub struct Conversation {
    nonce: String,
    opened_ms: u64,
    client: Option<Client>,
    /// How many events have been addressed to this client.
    seq: u64,
    errors: Errors,
    /// Frames that were no JSON, and got no answer.
    ignored: u64,
    news: Option<PairingNews>,
    /// For the list of those connected, until it is taken.
    entry: Option<Box<Entry>>,
}

/// A client that was let in.
#[derive(Debug)]
struct Client {
    identity: Identity,
    caps: Caps,
    watches_list: bool,
    sessions: HashSet<Box<str>>,
    /// Calls in a row that it may not make.
    unauthorized: u32,
}

#[derive(Debug, Default)]
struct Errors {
    window_started_ms: u64,
    count: u32,
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
    /// Its parameters as they came.
    pub params: Option<&'a RawValue>,
    /// The same, read; they satisfy the method's rules.
    pub fields: Params<'a>,
}

/// A text frame that is not a request.
enum Unread<'a> {
    NotJson,
    NotRequest { id: Cow<'a, str>, faults: String },
}

/// What a request says.
struct Request<'a> {
    id: Cow<'a, str>,
    method: Cow<'a, str>,
    params: Option<&'a RawValue>,
}

impl Conversation {
    /// A connection that has shown nothing yet. The nonce is random, and of this connection only.
    pub fn new(nonce: String, now_ms: u64) -> Self {
        let (client, seq, errors, ignored) = (None, 0, Errors::default(), 0);
        Self { nonce, opened_ms: now_ms, client, seq, errors, ignored, news: None, entry: None }
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

    /// The client in the list of those connected; once, when it has been let in.
    pub fn take_entry(&mut self) -> Option<Entry> {
        self.entry.take().map(|entry| *entry)
    }

    /// Who the client is, once it was let in.
    pub fn identity(&self) -> Option<&Identity> {
        self.client.as_ref().map(|client| &client.identity)
    }

    /// How many frames were no JSON.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// What the handshake did to the devices, once: for the log, and for those who watch devices.
    pub fn take_news(&mut self) -> Option<PairingNews> {
        self.news.take()
    }

    /// What a text frame means. What is to be sent is appended to `out`.
    pub fn hear<'a>(
        &mut self,
        text: &'a str,
        peer: &Peer,
        access: &Access,
        surroundings: &Surroundings<'_>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Heard<'a> {
        if self.client.is_none() {
            return self.shake_hands(text, peer, access, surroundings, now_ms, out);
        }
        match read_request(text) {
            Ok(request) => self.serve(request, surroundings, now_ms, out),
            Err(Unread::NotRequest { id, faults }) => {
                let error = RpcError::invalid(format!("invalid request frame: {faults}"));
                self.refuse(&id, &error, now_ms, out)
            }
            Err(Unread::NotJson) => {
                self.ignored += 1;
                self.budget(now_ms)
            }
        }
    }

    fn shake_hands<'a>(
        &mut self,
        text: &'a str,
        peer: &Peer,
        access: &Access,
        surroundings: &Surroundings<'_>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Heard<'a> {
        if text.len() > PRE_AUTH_BYTES_MAX {
            return Heard::Close(CloseReason::TooLargeBeforeLogin);
        }
        let Ok(Request { id, method, params }) = read_request(text) else {
            return Heard::Close(CloseReason::BadHandshake);
        };
        let refuse = |error: &RpcError, reason, out: &mut Vec<u8>| {
            frame::write_error(out, &id, error);
            Heard::Close(reason)
        };
        if method != Method::Connect.name() {
            let error = RpcError::invalid("invalid handshake: first request must be connect");
            return refuse(&error, CloseReason::BadHandshake, out);
        }
        if let Some((error, reason)) = not_running(surroundings.phase) {
            return refuse(&error, reason, out);
        }
        let params = match Params::of(Method::Connect, params) {
            Ok(params) => params,
            Err(faults) => return refuse(&RpcError::invalid(faults), CloseReason::BadHandshake, out),
        };
        let connected = match connect::connect(&params, &self.nonce, access, peer, now_ms) {
            Ok(connected) => connected,
            Err(refused) => {
                self.news = refused.news.map(|news| *news);
                return refuse(&refused.error, refused.reason, out);
            }
        };
        let mut payload = Vec::with_capacity(4_096);
        hello::write_hello(&mut payload, &connected, surroundings, access.mode());
        frame::write_result(out, &id, &payload);
        self.news = connected.admission.news;
        let (identity, caps) = (connected.admission.identity, connected.caps);
        let (watches_list, sessions, unauthorized) = (false, HashSet::new(), 0);
        self.client = Some(Client { identity, caps, watches_list, sessions, unauthorized });
        self.entry = Some(Box::new(connected.entry));
        Heard::Welcomed
    }

    fn serve<'a>(
        &mut self,
        request: Request<'a>,
        surroundings: &Surroundings<'_>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Heard<'a> {
        let Request { id, method: name, params } = request;
        if name == Method::Connect.name() {
            let error = RpcError::invalid("connect is only valid as the first request");
            return self.refuse(&id, &error, now_ms, out);
        }
        let known = Method::from_name(&name).filter(|&method| surroundings.methods().contains(method));
        let Some(method) = known else {
            let shown: String = name.chars().take(METHOD_CHARS_SHOWN).collect();
            return self.refuse(&id, &RpcError::invalid(format!("unknown method: {shown}")), now_ms, out);
        };
        if let Some(error) = self.client.as_ref().and_then(|client| forbidden(&client.identity, method)) {
            return self.refuse_unauthorized(&id, &error, now_ms, out);
        }
        let fields = match Params::of(method, params) {
            Ok(fields) => fields,
            Err(faults) => return self.refuse(&id, &RpcError::invalid(faults), now_ms, out),
        };
        if needs_admin(method, &fields)
            && !self.identity().is_some_and(|identity| identity.scopes.allow(Scope::Admin))
        {
            return self.refuse_unauthorized(&id, &RpcError::missing_scope(Scope::Admin), now_ms, out);
        }
        if let Some(client) = &mut self.client {
            client.unauthorized = 0;
        }
        if method.server() == Server::Conversation {
            return self.subscribe(&id, method, &fields, surroundings.default_agent, now_ms, out);
        }
        Heard::Call(Call { id, method, params, fields })
    }

    /// What concerns nobody but this client: which sessions it wants to hear of.
    fn subscribe<'a>(
        &mut self,
        id: &str,
        method: Method,
        fields: &Params<'_>,
        default_agent: &str,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Heard<'a> {
        let Some(client) = &mut self.client else { return Heard::Close(CloseReason::BadHandshake) };
        let is_subscribed = method != Method::SessionsMessagesUnsubscribe;
        let mut payload = Vec::with_capacity(64);
        payload.extend_from_slice(if is_subscribed {
            br#"{"subscribed":true"#.as_slice()
        } else {
            br#"{"subscribed":false"#.as_slice()
        });
        match fields.text("key") {
            None => client.watches_list = true,
            Some(key) => {
                let agent = fields.text("agentId");
                let key = canonical(&key, agent.as_deref().unwrap_or(default_agent));
                if !is_subscribed {
                    client.sessions.remove(key.as_ref());
                } else if client.sessions.len() >= SUBSCRIPTIONS_MAX
                    && !client.sessions.contains(key.as_ref())
                {
                    return self.refuse(id, &too_many_subscriptions(), now_ms, out);
                } else {
                    client.sessions.insert(key.as_ref().into());
                }
                payload.extend_from_slice(br#","key":"#);
                frame::write_string(&mut payload, &key);
            }
        }
        payload.push(b'}');
        frame::write_result(out, id, &payload);
        Heard::Answered
    }

    fn refuse_unauthorized<'a>(
        &mut self,
        id: &str,
        error: &RpcError,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Heard<'a> {
        let heard = self.refuse(id, error, now_ms, out);
        let Some(client) = &mut self.client else { return heard };
        client.unauthorized += 1;
        if client.unauthorized < UNAUTHORIZED_MAX {
            heard
        } else {
            Heard::Close(CloseReason::RepeatedUnauthorized)
        }
    }

    fn refuse<'a>(&mut self, id: &str, error: &RpcError, now_ms: u64, out: &mut Vec<u8>) -> Heard<'a> {
        frame::write_error(out, id, error);
        self.budget(now_ms)
    }

    fn budget<'a>(&mut self, now_ms: u64) -> Heard<'a> {
        if self.note_error(now_ms) { Heard::Answered } else { Heard::Close(CloseReason::TooManyErrors) }
    }

    /// Counts an error that this client has caused, here or in the surroundings. False: it has caused too many.
    pub fn note_error(&mut self, now_ms: u64) -> bool {
        let errors = &mut self.errors;
        if now_ms.abs_diff(errors.window_started_ms) >= ERRORS_WINDOW_MS {
            *errors = Errors { window_started_ms: now_ms, count: 0 };
        }
        errors.count += 1;
        errors.count <= ERRORS_MAX
    }

    /// Whether an event of that name reaches this client, as far as it is not about one session.
    pub fn may_see(&self, event: EventName) -> bool {
        let Some(client) = &self.client else { return false };
        let is_allowed = event.scope().is_none_or(|scope| client.identity.scopes.allow(scope));
        is_allowed && (event != EventName::SessionsChanged || client.watches_list)
    }

    /// Whether an event about a session reaches this client. `is_tool`: it tells what a tool does.
    pub fn may_see_session(&self, event: EventName, session_key: &str, is_tool: bool) -> bool {
        let Some(client) = self.client.as_ref().filter(|_| self.may_see(event)) else { return false };
        let is_subscribed = || client.sessions.contains(session_key);
        match event {
            EventName::Agent | EventName::Chat => {
                (!is_tool || client.caps.tool_events)
                    && (!client.caps.session_scoped_events || is_subscribed())
            }
            EventName::SessionMessage | EventName::SessionTool => is_subscribed(),
            _ => true,
        }
    }

    /// Whether events tell this client where they stand in the stream of their session.
    pub fn wants_places(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.caps.places)
    }

    /// A client that sees the sessions it has subscribed to sees this one from now on.
    pub fn watch(&mut self, session_key: &str) -> Result<(), RpcError> {
        let Some(client) = self.client.as_mut().filter(|client| client.caps.session_scoped_events) else {
            return Ok(());
        };
        if client.sessions.len() >= SUBSCRIPTIONS_MAX && !client.sessions.contains(session_key) {
            return Err(too_many_subscriptions());
        }
        client.sessions.insert(session_key.into());
        Ok(())
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

fn too_many_subscriptions() -> RpcError {
    RpcError::invalid(format!("at most {SUBSCRIPTIONS_MAX} sessions can be subscribed to"))
}

/// Reads a text frame.
fn read_request(text: &str) -> Result<Request<'_>, Unread<'_>> {
    let not_request = |faults| Unread::NotRequest { id: Cow::Borrowed(INVALID_ID), faults };
    if too_deep(text.as_bytes()) {
        return Err(not_request("nested too deeply".to_owned()));
    }
    if !text.trim_ascii_start().starts_with('{') {
        let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
        return Err(if is_json { not_request("must be object".to_owned()) } else { Unread::NotJson });
    }
    let fields = Params::parse(text).map_err(|error| match error.is_data() {
        true => not_request(params::reason(&error)),
        false => Unread::NotJson,
    })?;
    let id = fields.text("id").filter(|id| !id.is_empty());
    match fields.check(rules::REQUEST) {
        Ok(()) => Ok(Request {
            id: id.unwrap_or(Cow::Borrowed(INVALID_ID)),
            method: fields.text("method").unwrap_or_default(),
            params: fields.raw("params"),
        }),
        Err(faults) => {
            let id = id.filter(|id| id.len() <= rules::ID_CHARS_MAX);
            Err(Unread::NotRequest { id: id.unwrap_or(Cow::Borrowed(INVALID_ID)), faults })
        }
    }
}

/// Why a gateway that is not running lets nobody in.
fn not_running(phase: Phase) -> Option<(RpcError, CloseReason)> {
    let (message, reason, retry_after_ms) = match phase {
        Phase::Running => return None,
        Phase::Starting => ("gateway starting; retry shortly", "startup-sidecars", STARTING_RETRY_MS),
        Phase::Restarting => ("gateway restarting; retry shortly", "gateway-restarting", RESTARTING_RETRY_MS),
    };
    let error = RpcError { retry_after_ms: Some(retry_after_ms), ..RpcError::unavailable(message) };
    Some((error.with_details(serde_json::json!({ "reason": reason })), CloseReason::Starting))
}

/// Why a client may not call a method, whatever its parameters.
fn forbidden(identity: &Identity, method: Method) -> Option<RpcError> {
    let scope = match method.need() {
        Need::Nothing => return None,
        Need::Scope(scope) | Need::AdminForSome(scope) => scope,
    };
    if identity.role == Role::Node {
        return Some(RpcError::wrong_role(identity.role));
    }
    (!identity.scopes.allow(scope)).then(|| RpcError::missing_scope(scope))
}

/// Whether these parameters are for admins only.
fn needs_admin(method: Method, fields: &Params<'_>) -> bool {
    match method {
        // What is archived already is no loss to anybody; the rest is.
        Method::SessionsDelete => !fields.is_true("archivedOnly"),
        _ => fields.admin_only(rules::of(method)).is_some(),
    }
}

#[cfg(test)]
mod tests;
