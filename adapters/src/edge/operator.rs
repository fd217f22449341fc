//! What an edge does with the frames of OpenClaw clients, and what it shows them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::calls::{self, Counted};
use super::client::{Connection, ConnectionState, Speech};
use super::events::{self, Event};
use super::state::{Edge, unix_ms};
use super::turns::Submitted;
use super::{EdgeOptions, Phase, resume};
use crate::dialect::place::Place;
use crate::openclaw::backend::Outcome;
use crate::openclaw::conversation::{Conversation, Heard};
use crate::openclaw::event::EventName;
use crate::openclaw::presence::{Seat, TEXT_BYTES_MAX};
use crate::openclaw::surroundings::{self, Limits, Surroundings};
use crate::openclaw::{devices, frame};
use crate::refusal::CloseReason;

/// Streams of live text that wait for one client.
const PENDING_MAX: usize = 8;
/// Joined pieces of one stream that wait for one client. Beyond it the oldest are left out: the next piece that
/// is sent has the whole text.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// What one image may take of a frame, and an attachment: its base 64 must fit.
const ATTACHMENT_SHARE: (u64, u64) = (2, 3);

/// The events that edges send.
pub const EVENTS: &[EventName] = &[
    EventName::ConnectChallenge,
    EventName::Tick,
    EventName::Agent,
    EventName::Chat,
    EventName::Shutdown,
    EventName::DevicePairRequested,
    EventName::DevicePairResolved,
    EventName::DevicePairChanged,
];

/// An OpenClaw client.
#[derive(Debug)]
pub struct Operator {
    /// Its side of the protocol.
    pub conversation: Conversation,
    /// Live text that waits until it has read what came before.
    pending: Vec<Pending>,
    /// Calls that were not answered yet.
    pub open_calls: usize,
    /// When the next tick is due.
    pub tick_at: Instant,
    /// Its place in the list of those connected.
    seat: Option<Seat>,
    /// As it calls itself, and its version.
    pub client: (String, String),
}

/// Pieces of one stream, joined.
#[derive(Debug)]
struct Pending {
    /// The new text of those before the last, escaped.
    earlier: Vec<u8>,
    /// Arc: other clients wait for it too.
    last: Arc<Event>,
}

/// The client has spoken the first frame of this protocol.
pub fn begin(edge: &Edge, state: &mut ConnectionState) {
    let speech = std::mem::replace(&mut state.speech, Speech::Simple);
    state.speech = match speech {
        Speech::Undecided(conversation) => Speech::OpenClaw(Box::new(Operator {
            conversation: *conversation,
            pending: Vec::new(),
            open_calls: 0,
            tick_at: Instant::now() + edge.options.tick_interval,
            seat: None,
            client: Default::default(),
        })),
        decided => decided,
    };
}

/// Reads a frame of a client and acts on it.
pub fn submit(edge: &Rc<Edge>, connection: &Connection, text: &str, now_ms: u64) -> Submitted {
    let mut out = std::mem::take(&mut edge.scratch.borrow_mut().json);
    out.clear();
    let surroundings = surroundings(edge, connection);
    let mut news = None;
    let heard = match connection.state.borrow_mut().operator() {
        Some(operator) => {
            let (access, peer) = (&edge.shared.access, &connection.peer);
            let conversation = &mut operator.conversation;
            let heard = conversation.hear(text, peer, access, &surroundings, now_ms, &mut out);
            news = conversation.take_news();
            heard
        }
        None => Heard::Answered,
    };
    if !out.is_empty() {
        edge.enqueue(&mut connection.state.borrow_mut(), &out);
    }
    edge.scratch.borrow_mut().json = out;
    if let Some(news) = news {
        tracing::info!(source = %connection.peer.source, ?news, "a device was paired, or asks for it");
        let (name, payload) = devices::event(&news, now_ms);
        events::publish(edge, Event::plain(name, payload.to_string().into_bytes()));
        edge.wake_dirty();
    }
    match heard {
        Heard::Answered => Submitted::Taken,
        Heard::Welcomed => {
            let state = &mut *connection.state.borrow_mut();
            let identity = state.operator().and_then(|operator| {
                let entry = operator.conversation.take_entry();
                operator.seat = entry.map(|entry| {
                    operator.client = (cut(&entry.host), cut(&entry.version));
                    edge.shared.presence.join(&connection.thread, entry)
                });
                operator.conversation.identity().cloned()
            });
            if let Some(identity) = identity {
                state.admit(identity);
                edge.listen(connection.id);
            }
            Submitted::Taken
        }
        Heard::Call(call) => {
            calls::serve(edge, connection, &call, now_ms);
            Submitted::Taken
        }
        Heard::Close(reason) => Submitted::Close(reason),
    }
}

fn surroundings<'a>(edge: &'a Edge, connection: &'a Connection) -> Surroundings<'a> {
    let about = &edge.shared.about;
    Surroundings {
        phase: match edge.phase() {
            Phase::Running => surroundings::Phase::Running,
            Phase::Draining | Phase::Closing => surroundings::Phase::Restarting,
        },
        version: &about.version,
        boot_id: &about.boot_id,
        connection_id: &connection.thread,
        uptime_ms: u64::try_from(about.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        default_agent: &about.default_agent,
        edge_methods: calls::methods(),
        events: about.events,
        config_path: about.config_path.as_deref(),
        state_folder: about.state_folder.as_deref(),
        limits: limits(&edge.options),
        backend: &*edge.shared.backend,
    }
}

fn limits(options: &EdgeOptions) -> Limits {
    let payload_bytes_max = options.message_bytes_max as u64;
    let (part, whole) = ATTACHMENT_SHARE;
    Limits {
        payload_bytes_max,
        buffered_bytes_max: options.event_bytes_max as u64,
        tick_interval_ms: u64::try_from(options.tick_interval.as_millis()).unwrap_or(u64::MAX),
        attachment_bytes_max: payload_bytes_max * part / whole,
        image_bytes_max: payload_bytes_max * part / whole,
    }
}

/// What a client says of itself may be long.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// Answers a call.
pub fn answer(edge: &Edge, connection: &Rc<Connection>, request: &str, outcome: &Outcome, counted: Counted) {
    let state = &mut *connection.state.borrow_mut();
    if let Some(operator) = state.operator().filter(|_| counted == Counted::Open) {
        operator.open_calls = operator.open_calls.saturating_sub(1);
    }
    respond(edge, state, request, outcome);
    edge.mark_dirty(Rc::clone(connection), state);
}

/// Whether a client has caused too many errors, with this answer to a call of its own.
fn is_over_budget(operator: &mut Operator, outcome: &Outcome) -> bool {
    // What it may try again is not its fault.
    let is_its_fault = matches!(outcome, Err(error) if !error.retryable);
    is_its_fault && !operator.conversation.note_error(unix_ms())
}

/// Writes the response to a call.
pub fn respond(edge: &Edge, state: &mut ConnectionState, request: &str, outcome: &Outcome) {
    let mut out = std::mem::take(&mut edge.scratch.borrow_mut().json);
    out.clear();
    match outcome {
        Ok(payload) => frame::write_result(&mut out, request, payload),
        Err(error) => frame::write_error(&mut out, request, error),
    }
    edge.enqueue(state, &out);
    edge.scratch.borrow_mut().json = out;
    if state.operator().is_some_and(|operator| is_over_budget(operator, outcome)) {
        state.ending.get_or_insert(CloseReason::TooManyErrors);
    }
}

/// Shows an event to a client, if it may see it.
pub fn show(edge: &Edge, state: &mut ConnectionState, event: &Arc<Event>) {
    if state.resumptions.is_empty() || !resume::keep_back(state, event) {
        show_now(edge, state, event);
    }
}

/// Shows an event to a client, if it may see it, also where it resumes the session.
pub fn show_now(edge: &Edge, state: &mut ConnectionState, event: &Arc<Event>) {
    let is_busy = !state.outbound.is_empty();
    let Some(operator) = state.operator() else { return };
    if !operator.may_see(event) {
        return;
    }
    if event.live.is_some() && is_busy && operator.put_off(event) {
        return;
    }
    // What waits of the same run comes before.
    write_pending(edge, state);
    write(edge, state, &[], event);
}

impl Operator {
    fn may_see(&self, event: &Event) -> bool {
        match &event.session {
            Some(session) => self.conversation.may_see_session(event.name, session, event.is_tool),
            None => self.conversation.may_see(event.name),
        }
    }

    /// Keeps a piece of live text for later. `false`: there is no room for it.
    fn put_off(&mut self, event: &Arc<Event>) -> bool {
        if let Some(pending) = self.pending.iter_mut().find(|pending| event.continues(&pending.last)) {
            if let Some(live) = &pending.last.live {
                pending.earlier.extend_from_slice(&pending.last.payload[live.delta.clone()]);
            }
            if pending.earlier.len() > PENDING_BYTES_MAX {
                // The client sees the gap, and the whole text in the piece that is left.
                pending.earlier = Vec::new();
                self.conversation.skip_event();
            }
            pending.last = Arc::clone(event);
            return true;
        }
        if self.pending.len() >= PENDING_MAX {
            return false;
        }
        self.pending.push(Pending { earlier: Vec::new(), last: Arc::clone(event) });
        true
    }
}

/// Writes the live text that waits.
pub fn write_pending(edge: &Edge, state: &mut ConnectionState) {
    let Some(operator) = state.operator() else { return };
    if operator.pending.is_empty() {
        return;
    }
    let mut pending = std::mem::take(&mut operator.pending);
    for Pending { earlier, last } in pending.drain(..) {
        write(edge, state, &earlier, &last);
    }
    if let Some(operator) = state.operator() {
        operator.pending = pending;
    }
}

/// Writes an event under the next number, or drops it under that number.
fn write(edge: &Edge, state: &mut ConnectionState, earlier: &[u8], event: &Event) {
    let size = earlier.len() + event.payload.len();
    let waiting = state.outbound.event_bytes();
    // One that is larger than all may be sent where no other waits.
    let is_full = waiting > 0 && waiting + size > edge.options.event_bytes_max;
    let Some(operator) = state.operator() else { return };
    if is_full && event.may_be_dropped() {
        operator.conversation.skip_event();
        edge.stats().dropped_events.add(1);
        return;
    }
    let mut out = std::mem::take(&mut edge.scratch.borrow_mut().json);
    out.clear();
    let (name, version) = (event.name, event.state_version);
    if earlier.is_empty() && !(event.place != Place::NONE && operator.conversation.wants_places()) {
        operator.conversation.write_event(&mut out, name, &event.payload, version);
    } else {
        let mut payload = Vec::with_capacity(size);
        events::join(&mut payload, earlier, event);
        if operator.conversation.wants_places() {
            events::add_place(&mut payload, event.place);
        }
        operator.conversation.write_event(&mut out, name, &payload, version);
    }
    edge.enqueue_event(state, &out);
    edge.scratch.borrow_mut().json = out;
}

/// Sends the ticks that are due.
pub fn tick(edge: &Edge, state: &mut ConnectionState, now: Instant, event: &Arc<Event>) {
    let interval = edge.options.tick_interval;
    let due = match state.operator() {
        Some(operator) if state_is_open(operator) && now >= operator.tick_at => {
            operator.tick_at = now + interval;
            true
        }
        _ => false,
    };
    if due {
        show(edge, state, event);
    }
}

/// Tells a client that the gateway goes down. Gives the reason that its connection ends with.
pub fn say_goodbye(edge: &Edge, state: &mut ConnectionState) -> CloseReason {
    if state.operator().is_none() {
        return CloseReason::GoingAway;
    }
    let payload = br#"{"reason":"the gateway is shutting down"}"#.to_vec();
    show(edge, state, &Arc::new(Event::plain(EventName::Shutdown, payload)));
    CloseReason::ServiceRestart
}

fn state_is_open(operator: &Operator) -> bool {
    operator.conversation.identity().is_some()
}
