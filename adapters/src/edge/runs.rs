//! Turns that belong to no connection: runs of OpenClaw clients.
//!
//! A run goes on when the client that asked for it goes, and all clients that may are shown what its agent
//! says. It belongs to the edge on which it was asked for; the [board](board::RunBoard) knows it on all. Its
//! messages have [`ORIGIN`] in their route, and the number of the run as sequence.

pub mod board;
pub mod telling;

use std::collections::HashMap;
use std::sync::Arc;

use shm_transport::envelope::{BlockType, FailureCode, Message, Opened, Route};
use shm_transport::ports::session_hash;

pub use self::board::RunBoard;
use self::board::{Ended, Owner, Waiter};
use self::telling::Telling;
use super::calls::{Caller, Counted};
use super::events::{self, Event};
use super::session_key::SessionKey;
use super::state::Edge;
use super::turns::{self, Offered, SequenceHash};
use crate::openclaw::backend::Answer;
use crate::refusal::RpcError;

/// The origin of all runs in their routes; no connection has it.
pub const ORIGIN: u64 = u64::MAX;
/// The first two parts of the session key of all runs; the third is what the client calls the session.
pub const CHANNEL: &str = "openclaw";
const USER: &str = "";

/// Runs of one edge, by sequence.
#[derive(Debug, Default)]
pub struct RunTable {
    runs: HashMap<u32, Run, SequenceHash>,
    next: u32,
}

impl RunTable {
    /// The number of the next run.
    pub fn next_sequence(&mut self) -> u32 {
        while self.runs.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        self.next
    }
}

#[derive(Debug)]
struct Run {
    telling: Telling,
    /// Hash of its session key.
    session: u64,
    attempt: u32,
    asked: Asked,
}

/// Who is told when the run is accepted.
#[derive(Debug)]
enum Asked {
    /// It has not been accepted, and this call waits for that.
    By(Request),
    /// That has been told.
    Told,
}

/// A call that begins a run.
#[derive(Debug)]
pub struct Request {
    /// Its response.
    pub answer: Answer,
    /// Who is told of the end too.
    pub last: Option<Caller>,
}

impl Request {
    /// The run does not begin: the response says what there is instead.
    pub fn give(self, payload: &serde_json::Value) {
        self.answer.give(Ok(payload.to_string().into_bytes()));
    }

    /// The run does not begin: the response says why.
    pub fn refuse(self, error: RpcError) {
        self.answer.give(Err(error));
    }
}

/// Hash of the session key of a run.
pub fn session_of(key: &SessionKey) -> u64 {
    session_hash(CHANNEL, USER, &key.key)
}

/// Names the session in an envelope: channel, user, thread.
pub fn session_parts(key: &SessionKey) -> [&str; 3] {
    [CHANNEL, USER, &key.key]
}

/// Hands the envelope in the scratch space to the shard as the run of this number.
pub fn offer(edge: &Edge, sequence: u32, key: &SessionKey) -> Result<(), RpcError> {
    let route = Route { turn: 0, session: session_of(key), origin: ORIGIN, sequence, attempt: 0 };
    match turns::offer(edge, &route) {
        Offered::Taken => Ok(()),
        Offered::Full => Err(busy()),
        Offered::Refused(refusal) => Err(RpcError::invalid(refusal.text)),
        Offered::Failed => Err(RpcError::unavailable("the gateway is shutting down")),
    }
}

/// Opens the run whose message was just taken.
pub fn open(edge: &Edge, sequence: u32, id: &Arc<str>, key: &SessionKey, request: Request, now_ms: u64) {
    let run = (edge.options.edge_index, sequence);
    let telling = Telling::new(run, Arc::clone(id), key.key.as_str().into(), key.agent.clone(), now_ms);
    let run = Run { telling, session: session_of(key), attempt: 0, asked: Asked::By(request) };
    let mut table = edge.runs.borrow_mut();
    table.runs.insert(sequence, run);
    table.next = sequence.wrapping_add(1);
    drop(table);
    edge.stats().open_turns.add(1);
    edge.stats().received.add(1);
}

/// What a client is told that should try again.
pub fn busy() -> RpcError {
    RpcError::unavailable("The server is busy. Please try again in a moment.")
}

/// Tells the shard that a run is not wanted any more. It ends as all do.
pub fn cancel(edge: &Edge, sequence: u32) {
    let Some(session) = edge.runs.borrow().runs.get(&sequence).map(|run| run.session) else { return };
    if turns::cancel(edge, ORIGIN, sequence, session) == Offered::Full {
        // Later, when the shard has taken some of what waits for it.
        let own = edge.options.edge_index;
        edge.shared.mailboxes[own].post(super::mailbox::Note::Cancel { sequence });
    } else {
        edge.flush();
    }
}

/// Which edge has the run of that number here.
pub fn owner(edge: &Edge, sequence: u32) -> Owner {
    Owner { edge_index: edge.options.edge_index, sequence }
}

/// Why a run has no reply, in a code and a sentence, and after how many milliseconds another try makes sense.
type Failure = (FailureCode, String, u32);

/// What a run comes to.
enum Outcome {
    Open,
    Answered,
    Failed(Failure),
}

/// Tells clients what a shard has sent for a run.
pub fn deliver(edge: &Edge, message: &Message<'_>, now_ms: u64) {
    let route = message.route;
    let mut told = Vec::new();
    let outcome = {
        let mut table = edge.runs.borrow_mut();
        let is_reply = turns::is_reply(message);
        let current = |run: &&mut Run| !is_reply || route.attempt >= run.attempt;
        let Some(run) = table.runs.get_mut(&route.sequence).filter(current) else {
            edge.stats().late.add(1);
            return;
        };
        if is_reply && route.attempt > run.attempt {
            run.attempt = route.attempt;
            run.telling.begin_again();
        }
        apply(edge, run, message, now_ms, &mut told)
    };
    match outcome {
        Outcome::Open => {}
        Outcome::Answered => finish(edge, route.sequence, None, now_ms, &mut told),
        Outcome::Failed(failure) => finish(edge, route.sequence, Some(&failure), now_ms, &mut told),
    }
    for event in told {
        events::publish(edge, event);
    }
}

fn apply(edge: &Edge, run: &mut Run, message: &Message<'_>, now_ms: u64, told: &mut Vec<Event>) -> Outcome {
    let reply_bytes_max = edge.options.reply_bytes_max;
    let too_long = |run: &Run, more: usize| run.telling.text.len() + more > reply_bytes_max;
    let failed_too_long = || {
        let text = format!("the reply is longer than the {reply_bytes_max} bytes that are passed on");
        Outcome::Failed((FailureCode::TooLarge, text, 0))
    };
    match message.open() {
        Opened::Accepted => {
            accept(edge, run, now_ms, told);
            Outcome::Open
        }
        Opened::Block(block) => {
            accept(edge, run, now_ms, told);
            if too_long(run, block.content.len()) {
                return failed_too_long();
            }
            let block_type = BlockType::from_number(block.block_type).unwrap_or_default();
            run.telling.block(block_type, &block.content, now_ms, told);
            Outcome::Open
        }
        Opened::End(end) => {
            accept(edge, run, now_ms, told);
            if too_long(run, end.content.len()) {
                return failed_too_long();
            }
            run.telling.delta(&end.content, now_ms, told);
            Outcome::Answered
        }
        Opened::Failure(failure) => {
            let code = FailureCode::from_number(failure.code.to_native()).unwrap_or(FailureCode::AgentError);
            Outcome::Failed((code, failure.text.as_str().to_owned(), failure.retry_after_ms.to_native()))
        }
        // Nothing that a client is told.
        Opened::Message(_)
        | Opened::Hello(_)
        | Opened::Stop
        | Opened::Cancel
        | Opened::Journaled
        | Opened::RollCall
        | Opened::Working
        | Opened::Kept => Outcome::Open,
    }
}

/// Once, whoever says it first: the run is accepted.
fn accept(edge: &Edge, run: &mut Run, now_ms: u64, told: &mut Vec<Event>) {
    let Asked::By(request) = std::mem::replace(&mut run.asked, Asked::Told) else { return };
    let telling = &mut run.telling;
    let payload = match &request.last {
        None => serde_json::json!({ "runId": &*telling.id, "status": "started" }),
        Some(_) => serde_json::json!({
            "runId": &*telling.id, "sessionKey": &*telling.session_key, "agentId": telling.agent,
            "status": "accepted", "acceptedAt": now_ms,
        }),
    };
    request.answer.give(Ok(payload.to_string().into_bytes()));
    if let Some(caller) = request.last {
        let answer = caller.answer(edge, Counted::Not);
        // It is in flight, so it cannot be over. If all places are taken, the answer says so.
        let _ = edge.shared.runs.wait(&telling.id, Waiter::Final(answer));
    }
    told.push(telling.start(now_ms));
}

/// Ends a run, and answers all who waited for that.
fn finish(edge: &Edge, sequence: u32, failure: Option<&Failure>, now_ms: u64, told: &mut Vec<Event>) {
    let Some(run) = edge.runs.borrow_mut().runs.remove(&sequence) else { return };
    let Run { mut telling, asked, .. } = run;
    let stats = edge.stats();
    stats.open_turns.sub(1);
    if failure.is_none() { &stats.answered } else { &stats.refused }.add(1);
    if let (Asked::By(request), Some((code, text, retry_after_ms))) = (asked, failure) {
        // It never began, so another request may have its key.
        for waiter in edge.shared.runs.forget(&telling.id) {
            give(waiter, &telling.id, &ended(&telling, failure, now_ms));
        }
        request.answer.give(refused_start(&telling, *code, text, *retry_after_ms));
        return;
    }
    let ended = Arc::new(ended(&telling, failure, now_ms));
    match failure {
        None => telling.end(now_ms, told),
        Some((FailureCode::Cancelled, ..)) => telling.abort(now_ms, told),
        Some((code, text, _)) => telling.fail(*code, text, now_ms, told),
    }
    for event in told.drain(..) {
        events::publish(edge, event);
    }
    for waiter in edge.shared.runs.end(&telling.id, Arc::clone(&ended)) {
        give(waiter, &telling.id, &ended);
    }
}

fn ended(telling: &Telling, failure: Option<&Failure>, now_ms: u64) -> Ended {
    Ended {
        started_ms: telling.started_ms,
        ended_ms: now_ms,
        text: telling.text.clone(),
        error: failure.map(|(_, text, _)| text.clone()),
        aborted: failure.is_some_and(|(code, ..)| *code == FailureCode::Cancelled),
    }
}

/// The response to a request whose run was refused.
fn refused_start(
    telling: &Telling,
    code: FailureCode,
    text: &str,
    retry_after_ms: u32,
) -> Result<Vec<u8>, RpcError> {
    match code {
        FailureCode::AlreadyAnswered => {
            let payload = serde_json::json!({ "runId": &*telling.id, "status": "ok" });
            Ok(payload.to_string().into_bytes())
        }
        FailureCode::UnknownAgent => {
            let text = format!("Agent \"{}\" no longer exists in configuration", telling.agent);
            Err(RpcError { message: text.into(), ..RpcError::of_failure(code, "", retry_after_ms) })
        }
        FailureCode::Conflict => Err(conflict()),
        code => Err(RpcError::of_failure(code, text, retry_after_ms)),
    }
}

/// What a client is told that uses one key for two requests.
pub fn conflict() -> RpcError {
    let details = serde_json::json!({ "reason": "chat-request-conflict" });
    RpcError::invalid("the idempotency key belongs to another request").with_details(details)
}

/// Answers a call that has waited for a run.
pub fn give(waiter: Waiter, id: &str, ended: &Ended) {
    match waiter {
        Waiter::Wait(answer) => answer.give(Ok(waited(id, ended).to_string().into_bytes())),
        Waiter::Final(answer) => answer.give(Ok(last(id, ended).to_string().into_bytes())),
        Waiter::Abort(aborting) => drop(aborting),
    }
}

/// The status of a run that is over.
pub fn status(ended: &Ended) -> &'static str {
    if ended.error.is_some() { "error" } else { "ok" }
}

/// The result of `agent.wait`.
fn waited(id: &str, ended: &Ended) -> serde_json::Value {
    let mut payload = serde_json::json!({
        "runId": id, "status": status(ended), "startedAt": ended.started_ms, "endedAt": ended.ended_ms,
        "stopReason": if ended.aborted { "rpc" } else if ended.error.is_some() { "error" } else { "stop" },
    });
    if let Some(error) = &ended.error {
        payload["error"] = serde_json::json!(error);
    }
    payload
}

/// The second result of `agent`.
pub fn last(id: &str, ended: &Ended) -> serde_json::Value {
    let summary = match &ended.error {
        None => "completed",
        Some(error) => error,
    };
    let payloads = if ended.text.is_empty() {
        serde_json::json!([])
    } else {
        serde_json::json!([{ "text": ended.text, "mediaUrl": null }])
    };
    serde_json::json!({
        "runId": id, "status": status(ended), "summary": summary,
        "result": {
            "payloads": payloads,
            "meta": {
                "durationMs": ended.ended_ms.saturating_sub(ended.started_ms), "aborted": ended.aborted,
            },
        },
    })
}

/// The edge ends: nobody hears of its runs any more. Their messages stay with their shards.
pub fn forget_all(edge: &Edge) {
    let runs = std::mem::take(&mut edge.runs.borrow_mut().runs);
    for run in runs.into_values() {
        edge.shared.runs.forget(&run.telling.id);
        edge.stats().open_turns.sub(1);
    }
}
