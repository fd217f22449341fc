//! The calls of OpenClaw clients: those that are turns of agents are done here, the others by the gateway.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shm_transport::envelope::{CONTENT_TEXT, FLAG_WANTS_ACK, MessageV2};

use super::events;
use super::mailbox::Note;
use super::runs::board::{Aborting, Begun, Found, Waiter};
use super::runs::{self, Request};
use super::session_key::{SessionKey, normalise};
use super::state::{Connection, ConnectionId, Edge};
use super::{EdgeShared, Phase, operator};
use crate::openclaw::backend::{Answer, OwnedCall};
use crate::openclaw::conversation::Call;
use crate::openclaw::method::{Method, MethodSet, Server};
use crate::refusal::RpcError;

/// How long `agent.wait` waits where the client does not say.
const WAIT_MS: u64 = 30_000;
/// How long it waits at most.
const WAIT_MS_MAX: u64 = 3_600_000;
/// The longest time that a run may be given: a day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;
/// The longest key of a request.
const KEY_BYTES_MAX: usize = 256;

/// What the edge serves itself.
pub fn methods() -> MethodSet {
    MethodSet::of(&[
        Method::ChatSend,
        Method::ChatAbort,
        Method::Agent,
        Method::AgentWait,
        Method::SessionsSend,
        Method::SessionsAbort,
    ])
}

/// Serves a call; its response comes at once or later.
pub fn serve(edge: &Rc<Edge>, connection: &Connection, call: &Call<'_>, now_ms: u64) {
    {
        let state = &mut *connection.state.borrow_mut();
        let Some(operator) = state.operator() else { return };
        if operator.open_calls >= edge.options.open_calls_max {
            return operator::respond(edge, state, &call.id, &Err(runs::busy()));
        }
        operator.open_calls += 1;
    }
    let caller = Caller { connection: connection.id, request: call.id.as_ref().to_owned() };
    let answer = caller.clone().answer(edge, Counted::Open);
    let params = call.params.map_or("{}", RawValue::get);
    match call.method {
        Method::ChatSend | Method::SessionsSend | Method::Agent => {
            match Task::read(edge, call.method, params) {
                Ok(task) => {
                    let last = (call.method == Method::Agent).then_some(caller);
                    begin(edge, &task, Request { answer, last }, now_ms);
                }
                Err(error) => answer.give(Err(error)),
            }
        }
        Method::AgentWait => wait(edge, params, answer),
        Method::ChatAbort | Method::SessionsAbort => abort(edge, call.method, params, answer),
        method => to_backend(edge, connection, method, call.params, answer),
    }
    // Most answers are there already.
    events::drain(edge);
}

/// Whether an answer ends a call that counts as open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// It does.
    Open,
    /// It is one more answer to a call that has been answered.
    Not,
}

/// Who is to be answered: a request of a connection of this edge.
#[derive(Clone, Debug)]
pub struct Caller {
    connection: ConnectionId,
    request: String,
}

impl Caller {
    /// Its answer, which it gets from whatever thread.
    pub fn answer(self, edge: &Edge, counted: Counted) -> Answer {
        let shared: Arc<EdgeShared> = Arc::clone(&edge.shared);
        let edge_index = edge.options.edge_index;
        Answer::new(move |outcome| {
            let Self { connection, request } = self;
            shared.mailboxes[edge_index].post(Note::Answer { connection, request, outcome, counted });
        })
    }
}

fn to_backend(
    edge: &Edge,
    connection: &Connection,
    method: Method,
    params: Option<&RawValue>,
    answer: Answer,
) {
    debug_assert_eq!(method.server(), Server::Backend);
    let Some(identity) = connection.state.borrow().identity.clone() else { return };
    let params = params.map(ToOwned::to_owned);
    let call = OwnedCall { method, params, identity, connection: connection.thread.clone() };
    edge.shared.backend.call(call, answer);
}

/// The parameters that matter here of all methods that begin runs; which are needed is checked before.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sending<'a> {
    session_key: Option<String>,
    key: Option<String>,
    agent_id: Option<String>,
    message: Option<String>,
    idempotency_key: Option<String>,
    timeout_ms: Option<u64>,
    /// In seconds.
    timeout: Option<u64>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    attachments: Option<&'a RawValue>,
}

/// What an agent is to do.
struct Task {
    key: SessionKey,
    message: String,
    idempotency_key: String,
    timeout_ms: u32,
    /// What is passed on to the agent, as JSON.
    metadata: String,
}

impl Task {
    fn read(edge: &Edge, method: Method, params: &str) -> Result<Self, RpcError> {
        let read: Sending<'_> = serde_json::from_str(params).map_err(|error| unread(method, &error))?;
        let missing = |name: &str| {
            let text = format!("invalid {} params: must have required property '{name}'", method.name());
            RpcError::invalid(text)
        };
        let key = match method {
            Method::ChatSend => Some(read.session_key.ok_or_else(|| missing("sessionKey"))?),
            Method::SessionsSend => Some(read.key.ok_or_else(|| missing("key"))?),
            _ => read.session_key,
        };
        let default = &edge.shared.about.default_agent;
        let key = normalise(key.as_deref(), read.agent_id.as_deref(), default)?;
        let message = read.message.ok_or_else(|| missing("message"))?;
        let idempotency_key = match read.idempotency_key {
            Some(key) if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) => {
                let text =
                    format!("idempotencyKey must have 1 to {KEY_BYTES_MAX} bytes, no control characters");
                return Err(RpcError::invalid(text));
            }
            Some(key) => key,
            // Only there the key is optional: each request is one of its own.
            None if method == Method::SessionsSend => edge.random_name(),
            None => return Err(missing("idempotencyKey")),
        };
        let timeout_ms = read.timeout_ms.or(read.timeout.map(|seconds| seconds.saturating_mul(1000)));
        let timeout_ms = timeout_ms.unwrap_or(0).min(TIMEOUT_MS_MAX);
        let timeout_ms = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
        let extras = [("thinking", read.thinking), ("attachments", read.attachments)];
        let metadata = metadata(&key, extras);
        Ok(Self { key, message, idempotency_key, timeout_ms, metadata })
    }

    /// Tells requests with one key apart.
    fn fingerprint(&self) -> u64 {
        // Fixed keys: the same on all edges.
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (&self.key.key, &self.message, &self.metadata).hash(&mut hasher);
        hasher.finish()
    }

    fn fill(&self, envelope: &mut MessageV2, now_ms: u64) {
        *envelope = MessageV2::default();
        let [channel, user, thread] = runs::session_parts(&self.key);
        envelope.agent.push_str(if self.key.is_named { &self.key.agent } else { "" });
        envelope.channel.push_str(channel);
        envelope.user.push_str(user);
        envelope.thread.push_str(thread);
        envelope.client_id.push_str(&self.idempotency_key);
        envelope.content.push_str(&self.message);
        envelope.metadata.push_str(&self.metadata);
        envelope.content_kind = CONTENT_TEXT;
        envelope.received_at_ms = now_ms;
        envelope.deadline_ms = self.timeout_ms;
        envelope.flags = FLAG_WANTS_ACK;
    }
}

fn unread(method: Method, error: &serde_json::Error) -> RpcError {
    RpcError::invalid(format!("invalid {} params: {error}", method.name()))
}

fn metadata(key: &SessionKey, extras: [(&str, Option<&RawValue>); 2]) -> String {
    let mut object = serde_json::Map::new();
    object.insert("sessionKey".to_owned(), key.key.as_str().into());
    for (name, value) in extras {
        if let Some(value) = value.and_then(|raw| serde_json::from_str(raw.get()).ok()) {
            object.insert(name.to_owned(), value);
        }
    }
    serde_json::Value::Object(object).to_string()
}

/// Begins a run, unless its key has one.
fn begin(edge: &Edge, task: &Task, request: Request, now_ms: u64) {
    if edge.phase() != Phase::Running {
        return request.refuse(RpcError::unavailable("the gateway is shutting down"));
    }
    let sequence = edge.runs.borrow_mut().next_sequence();
    let (id, key): (Arc<str>, Arc<str>) =
        (task.idempotency_key.as_str().into(), task.key.key.as_str().into());
    let owner = runs::owner(edge, sequence);
    match edge.shared.runs.begin(&id, &key, task.fingerprint(), owner, now_ms) {
        Begun::New => {}
        Begun::InFlight => return request.give(&json!({ "runId": &*id, "status": "in_flight" })),
        Begun::Over(ended) => {
            let is_agent = request.last.is_some();
            return request.give(&over(&id, &ended, is_agent));
        }
        Begun::Conflict => return request.refuse(runs::conflict()),
        Begun::Full => return request.refuse(runs::busy()),
    }
    task.fill(&mut edge.scratch.borrow_mut().envelope, now_ms);
    match runs::offer(edge, sequence, &task.key) {
        Ok(()) => runs::open(edge, sequence, &id, &task.key, request, now_ms),
        Err(error) => {
            edge.shared.runs.forget(&id);
            request.refuse(error);
        }
    }
}

/// What is answered to a request whose run is over.
fn over(id: &str, ended: &runs::board::Ended, is_agent: bool) -> Value {
    if is_agent { runs::last(id, ended) } else { json!({ "runId": id, "status": runs::status(ended) }) }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    run_id: String,
    timeout_ms: Option<u64>,
}

fn wait(edge: &Rc<Edge>, params: &str, answer: Answer) {
    let waiting: Waiting = match parse(Method::AgentWait, params) {
        Ok(waiting) => waiting,
        Err(error) => return answer.give(Err(error)),
    };
    let id = waiting.run_id;
    let timeout = Duration::from_millis(waiting.timeout_ms.unwrap_or(WAIT_MS).min(WAIT_MS_MAX));
    let number = match edge.shared.runs.wait(&id, Waiter::Wait(answer)) {
        Found::Over(waiter, ended) => return runs::give(waiter, &id, &ended),
        Found::Unknown(waiter) => return time_out(waiter, &id),
        Found::Full(Waiter::Wait(answer)) => return answer.give(Err(runs::busy())),
        Found::Full(_) => return,
        Found::Waiting(number) => number,
    };
    let edge = Rc::clone(edge);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(timeout).await;
        if let Some(waiter) = edge.shared.runs.stop_waiting(&id, number) {
            time_out(waiter, &id);
        }
    });
}

fn time_out(waiter: Waiter, id: &str) {
    if let Waiter::Wait(answer) = waiter {
        answer.give(Ok(json!({ "runId": id, "status": "timeout" }).to_string().into_bytes()));
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stopping {
    session_key: Option<String>,
    key: Option<String>,
    agent_id: Option<String>,
    run_id: Option<String>,
}

/// Stops the runs of a session, or one of them. Answered when they are over.
fn abort(edge: &Edge, method: Method, params: &str, answer: Answer) {
    let found = parse::<Stopping>(method, params).and_then(|stopping| {
        let Stopping { session_key, key, agent_id, run_id } = stopping;
        let key = session_key.or(key);
        if key.is_none() && run_id.is_none() {
            let text = format!("invalid {} params: must have a session key or a runId", method.name());
            return Err(RpcError::invalid(text));
        }
        let default = &edge.shared.about.default_agent;
        let key = key.map(|key| normalise(Some(&key), agent_id.as_deref(), default)).transpose()?;
        Ok(edge.shared.runs.in_flight(key.as_ref().map(|key| key.key.as_str()), run_id.as_deref()))
    });
    let found = match found {
        Ok(found) => found,
        Err(error) => return answer.give(Err(error)),
    };
    let ids: Vec<&str> = found.iter().map(|(id, _)| &**id).collect();
    let payload = json!({ "ok": true, "aborted": !ids.is_empty(), "runIds": ids });
    let aborting = Arc::new(Aborting::new(answer, payload.to_string().into_bytes()));
    for (id, owner) in &found {
        match edge.shared.runs.wait(id, Waiter::Abort(Arc::clone(&aborting))) {
            Found::Waiting(_) => {
                let note = Note::Cancel { sequence: owner.sequence };
                edge.shared.mailboxes[owner.edge_index].post(note);
            }
            // Over meanwhile, or about to be.
            Found::Over(..) | Found::Unknown(_) | Found::Full(_) => {}
        }
    }
    // Answered when the last of the runs lets go of it.
    drop(aborting);
}

fn parse<T: DeserializeOwned>(method: Method, params: &str) -> Result<T, RpcError> {
    serde_json::from_str(params).map_err(|error| unread(method, &error))
}
