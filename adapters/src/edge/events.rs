//! Events of the OpenClaw protocol: made once, seen by every client of every edge that may.
//!
//! An event is serialised once. For each client its own number is put beside the payload, so a client sees
//! numbers without gaps unless it reads too slowly: then events it can do without are dropped under their
//! number. The others wait with its replies, and end the connection where those do.
//!
//! **Live text** (what an agent says while it says it) waits for a client that has something unread: a newer
//! piece of the same stream is joined to the one that waits, so a slow client gets fewer and larger pieces.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::client::{Connection, ConnectionId, ConnectionState};
use super::mailbox::{Mail, Note};
use super::state::Edge;
use super::{EdgeShared, connections, driver, operator, runs};
use crate::dialect::place::Place;
use crate::dialect::simple::frames::write_number;
use crate::openclaw::event::{EventName, StateVersion};

/// Something that clients may see.
#[derive(Debug)]
pub struct Event {
    /// What kind.
    pub name: EventName,
    /// Its payload as JSON.
    pub payload: Vec<u8>,
    /// How often presence and health had changed, where that is told.
    pub state_version: Option<StateVersion>,
    /// The session it is about: clients that want only some sessions see only those.
    pub session: Option<Arc<str>>,
    /// The run it is about, as its client calls it.
    pub run: Option<Arc<str>>,
    /// The place in the stream of the session up to which this and what was told before says everything.
    pub place: Place,
    /// Whether it tells of a tool, which is for clients that ask for that.
    pub is_tool: bool,
    /// Whether a later one says all of it again.
    pub is_delta: bool,
    /// If it is a piece of a text that goes on where the one before ended.
    pub live: Option<Live>,
}

/// A piece of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Live {
    /// The run: its edge and its sequence there.
    pub run: (usize, u32),
    /// Where in the payload the new text lies, inside its quotes.
    pub delta: Range<usize>,
}

impl Event {
    /// An event about nothing but itself.
    pub fn plain(name: EventName, payload: Vec<u8>) -> Self {
        Self {
            name,
            payload,
            state_version: None,
            session: None,
            run: None,
            place: Place::NONE,
            is_tool: false,
            is_delta: false,
            live: None,
        }
    }

    /// Whether a client that reads too slowly can do without it.
    pub fn may_be_dropped(&self) -> bool {
        self.is_delta || self.name.may_be_dropped()
    }

    /// Whether it is a later piece of the same text.
    pub fn continues(&self, earlier: &Self) -> bool {
        let of = |event: &Self| event.live.as_ref().map(|live| live.run);
        self.name == earlier.name && of(self).is_some() && of(self) == of(earlier)
    }
}

impl EdgeShared {
    /// Shows an event to all clients of all edges that may see it.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        for mailbox in &self.mailboxes {
            mailbox.post(Note::Event(Arc::clone(&event)));
        }
    }
}

/// Shows an event of this edge to all clients of all edges that may see it: to those of this edge at once.
pub fn publish(edge: &Edge, event: Event) {
    let event = Arc::new(event);
    for mailbox in others(edge) {
        mailbox.post(Note::Event(Arc::clone(&event)));
    }
    show(edge, &event);
}

/// Gives all drivers of all edges but one what that one has said.
pub fn relay(edge: &Edge, from: ConnectionId, frame: &Arc<[u8]>) {
    for mailbox in others(edge) {
        mailbox.post(Note::Relay(Arc::clone(frame)));
    }
    driver::tell_all(edge, Some(from), frame);
    edge.wake_dirty();
}

fn others(edge: &Edge) -> impl Iterator<Item = &super::mailbox::Mailbox> {
    let own = edge.options.edge_index;
    edge.shared
        .mailboxes
        .iter()
        .enumerate()
        .filter(move |(index, _)| *index != own)
        .map(|(_, mailbox)| mailbox)
}

fn show(edge: &Edge, event: &Arc<Event>) {
    edge.each_listener(|connection| {
        let state = &mut *connection.state.borrow_mut();
        operator::show(edge, state, event);
        mark(edge, connection, state);
    });
}

fn mark(edge: &Edge, connection: &Rc<Connection>, state: &mut ConnectionState) {
    if !state.outbound.is_empty() || state.ending.is_some() {
        edge.mark_dirty(Rc::clone(connection), state);
    }
}

/// Takes the notes for this edge, for good.
pub async fn run(edge: Rc<Edge>) {
    loop {
        edge.shared.mailboxes[edge.options.edge_index].wait().await;
        drain(&edge);
        // Others go on; what comes meanwhile is the next batch.
        tokio::task::yield_now().await;
    }
}

/// Takes the notes that are there.
pub fn drain(edge: &Rc<Edge>) {
    let mut mail = edge.mail.take();
    edge.shared.mailboxes[edge.options.edge_index].take(&mut mail);
    if mail.missed > 0 {
        skip(edge, mail.missed);
    }
    for note in mail.notes.drain(..) {
        match note {
            Note::Event(event) => show(edge, &event),
            Note::Relay(frame) => driver::tell_all(edge, None, &frame),
            Note::Answer { connection, request, outcome, counted } => {
                if let Some(connection) = edge.find(connection) {
                    operator::answer(edge, &connection, &request, &outcome, counted);
                }
            }
            Note::Connections(reply) => connections::tell(edge, reply),
            Note::Cancel { sequence } => runs::cancel(edge, sequence),
        }
    }
    *edge.mail.borrow_mut() = Mail { notes: mail.notes, missed: 0 };
    edge.wake_dirty();
}

/// Uses up the numbers of events that did not fit into the mailbox, so that clients see the gap.
#[cold]
fn skip(edge: &Edge, missed: u64) {
    tracing::warn!(edge = edge.options.edge_index, missed, "events were left out, more came than fit");
    edge.each_listener(|connection| {
        if let Some(operator) = connection.state.borrow_mut().operator() {
            (0..missed).for_each(|_| operator.conversation.skip_event());
        }
    });
}

/// Writes the joined pieces of a text: the last one with the text of all as its new text.
pub fn join(out: &mut Vec<u8>, earlier: &[u8], last: &Event) {
    match &last.live {
        Some(live) if !earlier.is_empty() => {
            out.extend_from_slice(&last.payload[..live.delta.start]);
            out.extend_from_slice(earlier);
            out.extend_from_slice(&last.payload[live.delta.start..]);
        }
        _ => out.extend_from_slice(&last.payload),
    }
}

/// Adds where it stands to a payload, for a client that wants to know.
pub fn add_place(payload: &mut Vec<u8>, place: Place) {
    if place != Place::NONE && payload.pop_if(|last| *last == b'}').is_some() {
        payload.extend_from_slice(b",\"place\":{");
        place.write(payload);
        payload.extend_from_slice(b"}}");
    }
}

/// The `tick` of a client: the gateway is there.
pub fn tick(now_ms: u64) -> Event {
    let mut payload = Vec::with_capacity(32);
    payload.extend_from_slice(b"{\"ts\":");
    write_number(&mut payload, now_ms);
    payload.push(b'}');
    Event::plain(EventName::Tick, payload)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use shm_transport::envelope::BlockType;

    use super::*;
    use crate::openclaw::run::{DELTA_INTERVAL_MS, Run, RunEvent};

    fn deltas(run: &mut Run, text: &str, now_ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut sink = |event: RunEvent<'_>| {
            let live = event.joint.map(|delta| Live { run: (0, 1), delta });
            events.push(Event { live, ..Event::plain(event.event, event.payload.to_vec()) });
        };
        run.block(BlockType::Text, text, now_ms, &mut sink);
        events
    }

    /// Pieces of a text that are joined say what they say apart, and a piece that replaces what was told is joined to
    /// nothing. By joining two deltas, and by a second attempt.
    #[test]
    fn pieces_are_joined() {
        let mut run = Run::new("r".into(), "agent:a:main".into(), "a".into(), 0);
        let first = deltas(&mut run, "a\"b", DELTA_INTERVAL_MS);
        let second = deltas(&mut run, "c\n", 2 * DELTA_INTERVAL_MS);
        for (index, field) in [(0, "/data/delta"), (1, "/deltaText")] {
            let (first, second) = (&first[index], &second[index]);
            assert!(second.continues(first));
            let earlier = &first.payload[first.live.as_ref().unwrap().delta.clone()];
            let mut joined = Vec::new();
            join(&mut joined, earlier, second);
            let joined: Value = serde_json::from_slice(&joined).unwrap();
            assert_eq!(joined.pointer(field).unwrap(), "a\"bc\n");
        }
        assert!(!second[0].continues(&first[1]), "one stream is not another");
        run.restart();
        let third = deltas(&mut run, "new", 3 * DELTA_INTERVAL_MS);
        let replaced: Value = serde_json::from_slice(&third[1].payload).unwrap();
        assert_eq!((&replaced["replace"], &replaced["deltaText"]), (&Value::Bool(true), &"new".into()));
        assert!(!third[1].continues(&second[1]));
    }
}
