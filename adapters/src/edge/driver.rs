//! What an edge does with the frames of channel drivers.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use shm_transport::envelope::{DurabilityClass, FailureCode, SessionMode};
use shm_transport::ports::session_hash;

use super::client::Speech;
use super::events;
use super::resume::{self, Asked};
use super::state::{Connection, ConnectionId, Edge};
use super::turns::{self, Offered, Spoken, Submitted, Turn};
use super::words::Dialect;
use crate::dialect::driver::{self, Message, Request, Resume, Said, frames};
use crate::dialect::place::Place;
use crate::refusal::{Code, Refusal};

/// The most channels that one driver may say are connected.
const CHANNELS_MAX: usize = 64;

/// Which channels can be reached, and through how many drivers.
///
/// A lock, since drivers come to several edges; it is taken when a channel comes or goes, and for health.
#[derive(Debug, Default)]
pub struct Channels(Mutex<BTreeMap<String, usize>>);

impl Channels {
    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn come(&self, channel: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(channel.to_owned()).or_insert(0) += 1;
    }

    fn go(&self, channel: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(channel) {
            *count -= 1;
            if *count == 0 {
                counts.remove(channel);
            }
        }
    }
}

/// The channels of one driver. They go with it.
#[derive(Debug)]
pub struct Driver {
    /// Arc: the channels of all edges.
    all: Arc<Channels>,
    connected: Vec<String>,
}

impl Driver {
    /// A driver that has not named any.
    pub fn new(all: &Arc<Channels>) -> Self {
        Self { all: Arc::clone(all), connected: Vec::new() }
    }

    /// Takes note of a channel. `false`: there are too many.
    fn set(&mut self, channel: &str, connected: bool) -> bool {
        let found = self.connected.iter().position(|name| name == channel);
        match (found, connected) {
            (None, true) if self.connected.len() >= CHANNELS_MAX => return false,
            (None, true) => {
                self.connected.push(channel.to_owned());
                self.all.come(channel);
            }
            (Some(index), false) => {
                self.connected.swap_remove(index);
                self.all.go(channel);
            }
            (None, false) | (Some(_), true) => {}
        }
        true
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for channel in &self.connected {
            self.all.go(channel);
        }
    }
}

/// Reads a frame of a driver and acts on it.
///
/// HOT: no allocation once the buffers have grown, no syscall, for a message.
pub fn submit(edge: &Rc<Edge>, connection: &Connection, text: &str, now_ms: u64) -> Submitted {
    let request = match driver::parse(text) {
        Ok(request) => request,
        Err(unread) => {
            refuse(edge, connection, unread.id.as_deref(), None, &unread.refusal, now_ms);
            return Submitted::Bad;
        }
    };
    match &request.said {
        Said::Message(message) => say(edge, connection, &request, message, now_ms),
        Said::Resume(missed) => {
            let Resume { channel, sender, after } = missed;
            let session = session_hash(channel, sender, request.session.as_deref().unwrap_or(""));
            let asked = Asked::Driver { id: &request.id, session: request.session.as_deref() };
            resume::answered(resume::begin(edge, connection, session, *after, &asked), |refusal| {
                refuse(edge, connection, Some(&request.id), request.session.as_deref(), refusal, now_ms);
            })
        }
        Said::Presence { .. } | Said::Reaction { .. } => {
            pass_on(edge, connection, &request, now_ms);
            Submitted::Taken
        }
        Said::ChannelStatus { channel, connected } => {
            let taken = match &mut connection.state.borrow_mut().speech {
                Speech::Driver(driver) => driver.set(channel, *connected),
                Speech::Undecided(_) | Speech::Simple | Speech::OpenClaw(_) | Speech::Completion => true,
            };
            if taken {
                pass_on(edge, connection, &request, now_ms);
            } else {
                let text = format!("a driver has at most {CHANNELS_MAX} channels");
                let refusal = Refusal::new(Code::Failure(FailureCode::Overloaded), text);
                refuse(edge, connection, Some(&request.id), request.session.as_deref(), &refusal, now_ms);
            }
            Submitted::Taken
        }
    }
}

fn say(
    edge: &Edge,
    connection: &Connection,
    request: &Request<'_>,
    message: &Message<'_>,
    now_ms: u64,
) -> Submitted {
    let refuse = |refusal: &Refusal<'_>| {
        refuse(edge, connection, Some(&request.id), request.session.as_deref(), refusal, now_ms);
        Submitted::Taken
    };
    if let Err(refusal) = turns::check_room(edge, connection) {
        return refuse(&refusal);
    }
    // A group has one session, whoever speaks.
    let user = if message.wishes.mode == SessionMode::Group { "" } else { &message.sender };
    let thread = request.session.as_deref().unwrap_or("");
    let session = session_hash(&message.channel, user, thread);
    let spoken = Spoken {
        agent: message.agent.as_deref().unwrap_or(""),
        key: [&message.channel, user, thread],
        id: &request.id,
        content: &message.content,
        content_kind: message.content_kind,
        metadata: message.metadata,
        wishes: &message.wishes,
    };
    turns::fill(edge, &spoken, now_ms);
    match turns::offer(edge, &turns::next_route(connection, session)) {
        Offered::Taken => turns::open(edge, connection, |turn| label(turn, request, session)),
        Offered::Full => return Submitted::Stalled,
        Offered::Refused(refusal) => return refuse(&refusal),
        Offered::Failed => {}
    }
    Submitted::Taken
}

fn label(turn: &mut Turn, request: &Request<'_>, session: u64) {
    frames::write_labels(&mut turn.labels, Some(&request.id), request.session.as_deref());
    turn.dialect = Dialect::Driver;
    turn.session = session;
    turn.requires_response = true;
    turn.acceptance_due = true;
}

/// Acknowledges what is not for an agent, and tells it to all other drivers.
fn pass_on(edge: &Edge, connection: &Connection, request: &Request<'_>, now_ms: u64) {
    let mut labels = Vec::new();
    frames::write_labels(&mut labels, Some(&request.id), request.session.as_deref());
    let mut json = Vec::new();
    frames::write_relayed(&mut json, &labels, &request.said, now_ms);
    events::relay(edge, connection.id, &json.into());
    let mut json = Vec::new();
    frames::write_ack(&mut json, &labels, DurabilityClass::Default, false, now_ms);
    edge.enqueue(&mut connection.state.borrow_mut(), &json);
}

/// Gives all drivers of this edge what another one has said. Who reads too slowly misses it.
pub fn tell_all(edge: &Edge, except: Option<ConnectionId>, frame: &[u8]) {
    edge.each_listener(|connection| {
        let state = &mut *connection.state.borrow_mut();
        let is_driver = matches!(state.speech, Speech::Driver(_));
        let is_slow = state.outbound.bytes() > edge.options.outbound_bytes_max;
        if is_driver && !is_slow && except != Some(connection.id) {
            edge.enqueue(state, frame);
            edge.mark_dirty(Rc::clone(connection), state);
        }
    });
}

/// Answers a frame with an error.
#[cold]
pub fn refuse(
    edge: &Edge,
    connection: &Connection,
    id: Option<&str>,
    session: Option<&str>,
    refusal: &Refusal<'_>,
    now_ms: u64,
) {
    let mut labels = Vec::new();
    frames::write_labels(&mut labels, id, session);
    let json = &mut edge.scratch.borrow_mut().json;
    json.clear();
    frames::write_error(json, &labels, Place::NONE, refusal, now_ms);
    edge.stats().refused.add(1);
    edge.enqueue(&mut connection.state.borrow_mut(), json);
}
