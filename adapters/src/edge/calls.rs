//! The calls of OpenClaw clients: those that are turns of agents are done here, the others by the gateway.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use shm_transport::envelope::{CONTENT_TEXT, FLAG_WANTS_ACK, MessageV2};

use super::events;
use super::mailbox::Note;
use super::resume::Asked;
use super::runs::board::{Begun, Found, Waiter};
use super::runs::{self, Request};
use super::state::{Connection, ConnectionId, Edge};
use super::turns::Offered;
use super::{EdgeShared, Phase, operator, resume};
use crate::dialect::simple::metadata::DEADLINE_MS_MAX;
use crate::openclaw::backend::{Answer, Outcome, OwnedCall};
use crate::openclaw::conversation::Call;
use crate::openclaw::method::{Method, MethodSet, Server};
use crate::openclaw::runs::{ack, conflict, full, no_such_queue_mode, summary, waited};
use crate::openclaw::turn::{Abort, Missed, Turn, Wait};
use crate::refusal::RpcError;

/// What the edge serves itself.
pub fn methods() -> MethodSet {
    MethodSet::of(&[
        Method::ChatSend,
        Method::ChatAbort,
        Method::ChatResume,
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
            return operator::respond(edge, state, &call.id, &Err(full()));
        }
        operator.open_calls += 1;
    }
    if call.method == Method::ChatResume {
        return resume(edge, connection, call);
    }
    let caller = Caller { connection: connection.id, request: call.id.as_ref().to_owned() };
    let answer = |caller: Caller| caller.answer(edge, Counted::Open);
    match call.method {
        Method::ChatSend | Method::SessionsSend | Method::Agent => {
            let request = Request { caller, is_told_of_end: call.method == Method::Agent };
            begin(edge, call, request, now_ms);
        }
        Method::AgentWait => wait(edge, &Wait::of(call), answer(caller)),
        Method::ChatAbort | Method::SessionsAbort => {
            match Abort::of(call, &edge.shared.about.default_agent) {
                Ok(Abort { session_key, run_id }) => {
                    edge.shared.stop_runs(session_key.as_deref(), run_id.as_deref(), answer(caller));
                }
                Err(error) => answer(caller).give(Err(error)),
            }
        }
        method => to_backend(edge, connection, method, call.params, answer(caller)),
    }
    // Most answers are there already.
    events::drain(edge);
}

/// Tells a client what it has missed of a session. Answered when that is done.
fn resume(edge: &Edge, connection: &Connection, call: &Call<'_>) {
    let offered = Missed::of(call, &edge.shared.about.default_agent).and_then(|missed| {
        let session_key = &*missed.session_key;
        if let Some(operator) = connection.state.borrow_mut().operator() {
            operator.conversation.watch(session_key)?;
        }
        let asked = Asked::Runs { request: &call.id, session_key };
        match resume::begin(edge, connection, runs::session_of(session_key), missed.after, &asked) {
            Offered::Taken | Offered::Failed => Ok(()),
            Offered::Full => Err(full()),
            Offered::Refused(refusal) => Err(RpcError::unavailable(refusal.text)),
        }
    });
    let state = &mut *connection.state.borrow_mut();
    match offered {
        Ok(()) => edge.flush_soon(1),
        Err(error) => {
            if let Some(operator) = state.operator() {
                operator.open_calls = operator.open_calls.saturating_sub(1);
            }
            operator::respond(edge, state, &call.id, &Err(error));
        }
    }
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

    /// Answers it now, before anything that is told after this; on the edge of its connection.
    pub fn respond(&self, edge: &Edge, outcome: &Outcome) {
        if let Some(connection) = edge.find(self.connection) {
            operator::answer(edge, &connection, &self.request, outcome, Counted::Open);
        }
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
    let source = connection.peer.source;
    let call = OwnedCall { method, params, identity, source, connection: connection.thread.clone() };
    edge.shared.backend.call(call, answer);
}

/// Begins a run, unless its name has one.
fn begin(edge: &Edge, call: &Call<'_>, request: Request, now_ms: u64) {
    let turn = match Turn::of(call, &edge.shared.about.default_agent) {
        Ok(turn) => turn,
        Err(error) => return request.caller.respond(edge, &Err(error)),
    };
    if edge.phase() != Phase::Running {
        let error = RpcError::unavailable("the gateway is shutting down");
        return request.caller.respond(edge, &Err(error));
    }
    if let Some(mode) = &turn.queue_mode
        && !edge.shared.runs.in_flight(Some(&turn.session_key), None).is_empty()
        && turn.run_id.as_deref().is_none_or(|id| !edge.shared.runs.knows(id))
    {
        return request.caller.respond(edge, &Err(no_such_queue_mode(mode)));
    }
    // A request without a key is never the same as another one.
    let id: Arc<str> = match &turn.run_id {
        Some(id) => id.as_ref().into(),
        None => edge.random_name().into(),
    };
    let sequence = edge.runs.borrow_mut().next_sequence();
    let (owner, fingerprint) = (runs::owner(edge, sequence), fingerprint(&turn));
    let status = match edge.shared.runs.begin(&id, &turn.session_key, fingerprint, owner, now_ms) {
        Begun::New => None,
        Begun::InFlight => Some(ack(&id, "in_flight")),
        Begun::Over(ended) if request.is_told_of_end => Some(summary(&id, &ended.ending)),
        Begun::Over(ended) => Some(ack(&id, ended.ending.status())),
        Begun::Conflict => return request.caller.respond(edge, &Err(conflict())),
        Begun::Full => return request.caller.respond(edge, &Err(full())),
    };
    if let Some(status) = status {
        return request.caller.respond(edge, &Ok(status));
    }
    fill(&mut edge.scratch.borrow_mut().envelope, &turn, &id, now_ms);
    match runs::offer(edge, sequence, &turn) {
        Ok(()) => runs::open(edge, sequence, id, &turn, request, now_ms),
        Err(error) => {
            drop(edge.shared.runs.forget(&id));
            request.caller.respond(edge, &Err(error));
        }
    }
}

/// Tells messages under one name apart.
fn fingerprint(turn: &Turn<'_>) -> u64 {
    // Fixed keys: the same on all edges.
    let mut hasher = DefaultHasher::new();
    (&turn.session_key, &turn.message, turn.attachments.map(RawValue::get)).hash(&mut hasher);
    hasher.finish()
}

fn fill(envelope: &mut MessageV2, turn: &Turn<'_>, id: &str, now_ms: u64) {
    *envelope = MessageV2::default();
    envelope.agent.push_str(&turn.agent);
    envelope.channel.push_str(runs::CHANNEL);
    envelope.user.push_str(runs::USER);
    envelope.thread.push_str(&turn.session_key);
    envelope.client_id.push_str(id);
    envelope.content.push_str(&turn.message);
    if let Some(attachments) = turn.attachments {
        envelope.metadata.push_str("{\"attachments\":");
        envelope.metadata.push_str(attachments.get());
        envelope.metadata.push('}');
    }
    envelope.content_kind = CONTENT_TEXT;
    envelope.received_at_ms = now_ms;
    envelope.deadline_ms = turn
        .timeout_ms
        .map_or(0, |timeout_ms| u32::try_from(timeout_ms).unwrap_or(DEADLINE_MS_MAX).min(DEADLINE_MS_MAX));
    envelope.flags = FLAG_WANTS_ACK;
}

fn wait(edge: &Rc<Edge>, wait: &Wait<'_>, answer: Answer) {
    let id = wait.run_id.as_ref().to_owned();
    let timeout = Duration::from_millis(wait.timeout_ms);
    let number = match edge.shared.runs.wait(&id, Waiter::Wait(answer)) {
        Found::Over(waiter, ended) => return runs::give(waiter, &id, &ended),
        Found::Unknown(waiter) => return time_out(waiter, &id),
        Found::Full(Waiter::Wait(answer)) => return answer.give(Err(full())),
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
        answer.give(Ok(waited(id, None)));
    }
}
