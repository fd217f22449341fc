//! Connections as a table: what each edge tells of its own when it is asked.
//!
//! Nothing is shared: the numbers are plain fields of a connection, which the thread of its edge writes beside what it
//! writes there anyway. An edge that is asked puts down some rows at a time, and serves its clients in between.

use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::EdgeShared;
use super::client::{Connection, ConnectionState, Speech};
use super::mailbox::Note;
use super::state::{Edge, unix_ms};
use crate::access::scopes::Scopes;

/// Slots that are looked at before other tasks of the edge get their turn.
const SLOTS_PER_TURN: usize = 256;
/// How long the edges may take together.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has gone over a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Since when it is there, Unix milliseconds.
    pub since_ms: u64,
    /// Messages of the client that were read.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Messages to the client that are with its socket.
    pub messages_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

/// A connection, as `/connz` tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRow {
    /// Its name, as its client was told.
    pub id: String,
    /// Whose thread serves it.
    pub edge: usize,
    /// What it speaks.
    pub dialect: &'static str,
    /// As the client calls itself; empty if it does not.
    pub client: String,
    /// Of that software.
    pub version: String,
    /// What it may do; nothing before it was let in.
    pub scopes: Scopes,
    /// The address at the other end.
    pub address: String,
    /// Since when it is there, Unix milliseconds.
    pub since_ms: u64,
    /// For how long nothing came from it, to the second.
    pub idle_ms: u64,
    /// Messages of the client that were read.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Messages to the client that are with its socket.
    pub messages_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Bytes that wait for its socket.
    pub buffered_bytes: usize,
    /// Messages that await a reply.
    pub open_turns: usize,
    /// Calls that await an answer.
    pub open_calls: usize,
    /// How it is, in one word.
    pub state: &'static str,
}

impl EdgeShared {
    /// The connections of all edges, by edge. `None`: an edge does not answer.
    pub async fn connections(&self) -> Option<Vec<ConnectionRow>> {
        let asked: Vec<_> = self
            .mailboxes
            .iter()
            .map(|mailbox| {
                let (reply, answer) = oneshot::channel();
                mailbox.post(Note::Connections(reply));
                answer
            })
            .collect();
        let answers = async {
            let mut rows = Vec::new();
            for answer in asked {
                rows.append(&mut answer.await.ok()?);
            }
            Some(rows)
        };
        tokio::time::timeout(PATIENCE, answers).await.ok()?
    }
}

/// Answers the question for the connections of this edge.
pub fn tell(edge: &Rc<Edge>, reply: oneshot::Sender<Vec<ConnectionRow>>) {
    let edge = Rc::clone(edge);
    tokio::task::spawn_local(async move {
        let mut rows = Vec::new();
        let mut slots = 0..SLOTS_PER_TURN;
        while edge.each_in(slots.clone(), |connection| rows.push(row(&edge, &connection))) {
            slots = slots.end..slots.end + SLOTS_PER_TURN;
            tokio::task::yield_now().await;
        }
        // Who has asked may have stopped waiting.
        let _ = reply.send(rows);
    });
}

fn row(edge: &Edge, connection: &Connection) -> ConnectionRow {
    let state = &mut *connection.state.borrow_mut();
    let condition = condition(edge, state);
    let (open_calls, (client, version)) = match state.operator() {
        Some(operator) => (operator.open_calls, operator.client.clone()),
        None => Default::default(),
    };
    let Traffic { since_ms, messages_in, bytes_in, messages_out, bytes_out } = state.traffic;
    ConnectionRow {
        id: connection.thread.clone(),
        edge: edge.options.edge_index,
        dialect: dialect(&state.speech),
        client,
        version,
        scopes: state.identity.as_ref().map_or(Scopes::NONE, |identity| identity.scopes),
        address: connection.peer.source.to_canonical().to_string(),
        since_ms,
        idle_ms: idle_ms(state),
        messages_in,
        bytes_in,
        messages_out,
        bytes_out,
        buffered_bytes: state.outbound.bytes(),
        open_turns: state.turns.len(),
        open_calls,
        state: condition,
    }
}

/// The clock of the edge looks now and then whether something was heard, so that no frame has to be timed.
fn idle_ms(state: &ConnectionState) -> u64 {
    let silent_ms =
        if state.heard { 0 } else { u64::try_from(state.silent_for.as_millis()).unwrap_or(u64::MAX) };
    silent_ms.min(unix_ms().saturating_sub(state.traffic.since_ms))
}

fn dialect(speech: &Speech) -> &'static str {
    match speech {
        Speech::Undecided(_) => "undecided",
        Speech::Simple => "simple",
        Speech::Driver(_) => "driver",
        Speech::OpenClaw(_) => "openclaw",
        Speech::Completion => "completion",
    }
}

fn condition(edge: &Edge, state: &ConnectionState) -> &'static str {
    if state.ending.is_some() {
        "closing"
    } else if state.identity.is_none() {
        "handshake"
    } else if state.outbound.bytes() > edge.options.outbound_bytes_max {
        "slow"
    } else if state.blocked {
        "blocked"
    } else {
        "open"
    }
}
