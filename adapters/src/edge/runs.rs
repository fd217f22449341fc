//! Turns that belong to no connection: runs of OpenClaw clients.
//!
//! A run goes on when the client that asked for it goes, and all clients that may are shown what its agent
//! says. It belongs to the edge on which it was asked for; the [board](board::RunBoard) knows it on all. Its
//! messages have [`ORIGIN`] in their route, and the number of the run as sequence.

pub mod board;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shm_transport::envelope::{BlockType, FailureCode, Message, Route};
use shm_transport::ports::session_hash;
use tokio::sync::Notify;

pub use self::board::RunBoard;
use self::board::{Owner, Waiter};
use super::calls::{Caller, Counted};
use super::events::{self, Event, Live};
use super::state::Edge;
use super::turns::{self, Offered, SequenceHash};
use super::words::Word;
use crate::dialect::place::Place;
use crate::openclaw::run::{DELTA_INTERVAL_MS, Ending, Run, RunEvent};
use crate::openclaw::runs::{Ended, accepted, ack, completed, conflict, full, summary, waited};
use crate::openclaw::turn::Turn;
use crate::refusal::RpcError;

/// The origin of all runs in their routes; no connection has it.
pub const ORIGIN: u64 = u64::MAX;
/// The first two parts of the session key of all runs; the third is what the client calls the session, in full.
pub const CHANNEL: &str = "openclaw";
/// The second of these parts.
pub const USER: &str = "";

/// When a run is cancelled once more whose shard had no room for that.
const CANCEL_RETRY: Duration = Duration::from_millis(20);

/// Runs of one edge, by sequence.
#[derive(Debug, Default)]
pub struct RunTable {
    runs: HashMap<u32, Entry, SequenceHash>,
    next: u32,
    /// Rung when some text waits for its time.
    due: Rc<Notify>,
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
struct Entry {
    run: Run,
    /// Its name, shared with the board.
    id: Arc<str>,
    /// Its session, shared with its events.
    session_key: Arc<str>,
    /// Hash of its session key.
    session: u64,
    attempt: u32,
    /// Where the last word stands that came of it.
    place: Place,
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
    /// Whose.
    pub caller: Caller,
    /// Whether the caller is told of the end too.
    pub is_told_of_end: bool,
}

/// Hash of the session key of a run.
pub fn session_of(session_key: &str) -> u64 {
    session_hash(CHANNEL, USER, session_key)
}

/// Hands the envelope in the scratch space to the shard as the run of this number.
pub fn offer(edge: &Edge, sequence: u32, turn: &Turn<'_>) -> Result<(), RpcError> {
    let session = session_of(&turn.session_key);
    let route = Route { turn: 0, session, origin: ORIGIN, sequence, attempt: 0 };
    match turns::offer(edge, &route) {
        Offered::Taken => Ok(()),
        Offered::Full => Err(full()),
        Offered::Refused(refusal) => Err(RpcError::invalid(refusal.text)),
        Offered::Failed => Err(RpcError::unavailable("the gateway is shutting down")),
    }
}

/// Opens the run whose message was just taken.
pub fn open(edge: &Edge, sequence: u32, id: Arc<str>, turn: &Turn<'_>, request: Request, now_ms: u64) {
    let run = Run::new((*id).to_owned(), turn.session_key.clone(), turn.agent.clone(), now_ms);
    let session_key: Arc<str> = turn.session_key.as_str().into();
    let session = session_of(&session_key);
    let entry =
        Entry { run, id, session_key, session, attempt: 0, place: Place::NONE, asked: Asked::By(request) };
    let mut table = edge.runs.borrow_mut();
    table.runs.insert(sequence, entry);
    table.next = sequence.wrapping_add(1);
    drop(table);
    edge.stats().open_turns.add(1);
    edge.stats().received.add(1);
}

/// Tells the shard that a run is not wanted any more. It ends as all do.
pub fn cancel(edge: &Edge, sequence: u32) {
    let Some(session) = edge.runs.borrow().runs.get(&sequence).map(|entry| entry.session) else { return };
    if turns::cancel(edge, ORIGIN, sequence, session) == Offered::Full {
        // Later, when the shard has taken some of what waits for it.
        let (shared, own) = (Arc::clone(&edge.shared), edge.options.edge_index);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(CANCEL_RETRY).await;
            shared.mailboxes[own].post(super::mailbox::Note::Cancel { sequence });
        });
    } else {
        edge.flush();
    }
}

/// Which edge has the run of that number here.
pub fn owner(edge: &Edge, sequence: u32) -> Owner {
    Owner { edge_index: edge.options.edge_index, sequence }
}

/// What a piece of a reply does to its run.
enum Outcome {
    Open,
    Over(Ending),
    /// The shard did not take it at all: why, and after how many milliseconds another try makes sense.
    Refused(FailureCode, String, u32),
}

/// Tells clients what a shard has sent for a run.
pub fn deliver(edge: &Edge, message: &Message<'_>, now_ms: u64) {
    let route = message.route;
    let mut told = Vec::new();
    let outcome = {
        let table = &mut *edge.runs.borrow_mut();
        let is_reply = turns::is_reply(message);
        let current = |entry: &&mut Entry| !is_reply || route.attempt >= entry.attempt;
        let Some(entry) = table.runs.get_mut(&route.sequence).filter(current) else {
            edge.stats().late.add(1);
            return;
        };
        if is_reply && route.attempt > entry.attempt {
            entry.attempt = route.attempt;
            entry.run.restart();
        }
        let outcome = apply(edge, entry, message, now_ms, &mut told);
        if route.session != 0 {
            entry.place = Place(route.session);
        }
        if entry.run.due_ms().is_some() {
            // What waits is told with its place, when it is told.
            table.due.notify_one();
        } else {
            place_last(&mut told, entry.place);
        }
        outcome
    };
    for event in told {
        events::publish(edge, event);
    }
    match outcome {
        Outcome::Open => {}
        Outcome::Over(ending) => finish(edge, route.sequence, ending, now_ms),
        Outcome::Refused(code, text, retry_after_ms) => {
            refuse(edge, route.sequence, code, &text, retry_after_ms);
        }
    }
}

/// What is told last of a word says that all up to it was told.
fn place_last(told: &mut [Event], place: Place) {
    if let Some(last) = told.last_mut() {
        last.place = place;
    }
}

/// Makes events for everybody of the events of a run.
fn collect<'a>(
    edge_index: usize,
    sequence: u32,
    (session_key, id): (&Arc<str>, &Arc<str>),
    told: &'a mut Vec<Event>,
) -> impl FnMut(RunEvent<'_>) + use<'a> {
    let (session_key, id) = (Arc::clone(session_key), Arc::clone(id));
    move |event| {
        told.push(Event {
            session: Some(Arc::clone(&session_key)),
            run: Some(Arc::clone(&id)),
            is_tool: event.is_tool,
            is_delta: event.is_delta,
            live: event.joint.map(|delta| Live { run: (edge_index, sequence), delta }),
            ..Event::plain(event.event, event.payload.to_vec())
        });
    }
}

fn apply(
    edge: &Edge,
    entry: &mut Entry,
    message: &Message<'_>,
    now_ms: u64,
    told: &mut Vec<Event>,
) -> Outcome {
    let Some(word) = Word::of(message) else { return Outcome::Open };
    if !matches!(word, Word::Failure(_)) {
        accept(edge, entry, message.route.sequence, now_ms, told);
    }
    let reply_bytes_max = edge.options.reply_bytes_max;
    let room = reply_bytes_max.saturating_sub(entry.run.text().len());
    let mut sink =
        collect(edge.options.edge_index, message.route.sequence, (&entry.session_key, &entry.id), told);
    let run = &mut entry.run;
    let more = match &word {
        Word::Block(block) => block.content.len(),
        Word::End(end) => end.content.len(),
        Word::Failure(_) | Word::Accepted => 0,
    };
    if more > room {
        let text = format!("the reply is longer than the {reply_bytes_max} bytes that are passed on");
        return Outcome::Over(run.fail(FailureCode::TooLarge, &text, now_ms, &mut sink));
    }
    match word {
        Word::Block(block) => {
            let block_type = BlockType::from_number(block.block_type).unwrap_or_default();
            run.block(block_type, &block.content, now_ms, &mut sink);
            Outcome::Open
        }
        Word::End(end) => Outcome::Over(run.end(&end.content, now_ms, &mut sink)),
        Word::Failure(failure) => {
            let code = FailureCode::from_number(failure.code.to_native()).unwrap_or(FailureCode::AgentError);
            if matches!(entry.asked, Asked::By(_)) {
                let retry_after_ms = failure.retry_after_ms.to_native();
                return Outcome::Refused(code, failure.text.as_str().to_owned(), retry_after_ms);
            }
            Outcome::Over(run.fail(code, &failure.text, now_ms, &mut sink))
        }
        // Told above.
        Word::Accepted => Outcome::Open,
    }
}

/// Once, whoever says it first: the run is accepted.
fn accept(edge: &Edge, entry: &mut Entry, sequence: u32, now_ms: u64, told: &mut Vec<Event>) {
    let Asked::By(request) = std::mem::replace(&mut entry.asked, Asked::Told) else { return };
    let Request { caller, is_told_of_end } = request;
    // The response comes first, then the events of the run.
    if !is_told_of_end {
        caller.respond(edge, &Ok(ack(&entry.id, "started")));
        entry.run.start(
            now_ms,
            &mut collect(edge.options.edge_index, sequence, (&entry.session_key, &entry.id), told),
        );
        return;
    }
    caller.respond(edge, &Ok(accepted(&entry.run)));
    // It is in flight, so it cannot be over. If all places are taken, the answer says that there is none.
    let _ = edge.shared.runs.wait(&entry.id, Waiter::Final(caller.answer(edge, Counted::Not)));
    entry.run.start(
        now_ms,
        &mut collect(edge.options.edge_index, sequence, (&entry.session_key, &entry.id), told),
    );
}

/// A run was not accepted: its name is free again.
fn refuse(edge: &Edge, sequence: u32, code: FailureCode, text: &str, retry_after_ms: u32) {
    let Some(entry) = edge.runs.borrow_mut().runs.remove(&sequence) else { return };
    edge.stats().open_turns.sub(1);
    edge.stats().refused.add(1);
    // Who waits for it is told that there is none.
    drop(edge.shared.runs.forget(&entry.id));
    let Asked::By(Request { caller, .. }) = entry.asked else { return };
    let outcome = match code {
        FailureCode::AlreadyAnswered => Ok(ack(&entry.id, Ending::Ok.status())),
        FailureCode::UnknownAgent => {
            let message = format!("Agent \"{}\" no longer exists in configuration", entry.run.agent());
            Err(RpcError { message: message.into(), ..RpcError::of_failure(code, text, retry_after_ms) })
        }
        FailureCode::Conflict => Err(conflict()),
        code => Err(RpcError::of_failure(code, text, retry_after_ms)),
    };
    caller.respond(edge, &outcome);
}

/// Ends a run, and answers all who waited for that.
fn finish(edge: &Edge, sequence: u32, ending: Ending, now_ms: u64) {
    let Some(Entry { run, id, .. }) = edge.runs.borrow_mut().runs.remove(&sequence) else { return };
    let stats = edge.stats();
    stats.open_turns.sub(1);
    if ending == Ending::Ok { &stats.answered } else { &stats.refused }.add(1);
    let ended = Arc::new(Ended { ending, started_ms: run.started_ms(), ended_ms: now_ms });
    for waiter in edge.shared.runs.end(&id, Arc::clone(&ended)) {
        match waiter {
            Waiter::Final(answer) if ended.ending == Ending::Ok => answer.give(Ok(completed(&run, now_ms))),
            waiter => give(waiter, &id, &ended),
        }
    }
}

/// Answers a call that has waited for a run.
pub fn give(waiter: Waiter, id: &str, ended: &Ended) {
    match waiter {
        Waiter::Wait(answer) => answer.give(Ok(waited(id, Some(ended)))),
        Waiter::Final(answer) => answer.give(Ok(summary(id, &ended.ending))),
        Waiter::Abort(aborting) => drop(aborting),
    }
}

/// Tells what was said since it was last told, when its time has come; for good.
pub async fn flush_due(edge: Rc<Edge>) {
    let due = Rc::clone(&edge.runs.borrow().due);
    loop {
        due.notified().await;
        loop {
            tokio::time::sleep(Duration::from_millis(DELTA_INTERVAL_MS)).await;
            if !flush(&edge, super::state::unix_ms()) {
                break;
            }
        }
    }
}

/// Says whether some text still waits.
fn flush(edge: &Edge, now_ms: u64) -> bool {
    let mut told = Vec::new();
    let mut waits = false;
    for (&sequence, entry) in &mut edge.runs.borrow_mut().runs {
        let Some(due_ms) = entry.run.due_ms() else { continue };
        if due_ms > now_ms {
            waits = true;
            continue;
        }
        let mut sink = collect(edge.options.edge_index, sequence, (&entry.session_key, &entry.id), &mut told);
        entry.run.flush(now_ms, &mut sink);
        drop(sink);
        place_last(&mut told, entry.place);
    }
    for event in told {
        events::publish(edge, event);
    }
    edge.wake_dirty();
    waits
}

/// The edge ends: nobody hears of its runs any more. Their messages stay with their shards.
pub fn forget_all(edge: &Edge) {
    let runs = std::mem::take(&mut edge.runs.borrow_mut().runs);
    for entry in runs.into_values() {
        drop(edge.shared.runs.forget(&entry.id));
        edge.stats().open_turns.sub(1);
    }
}
