//! Sessions whose words are shown to a connection that did not ask for them: its client has come back.
//!
//! | stage | the edge | the shard |
//! |---|---|---|
//! | `Asked` | waits | sends one page of words, and `More` or `Live` |
//! | `Wanted` | asks for the next page as soon as the client has read what it was sent | remembers nothing |
//! | `Live` | tells the client that it has everything, and shows what the open turns say, until the last has ended | shows words to all who listen |
//!
//! So a client that reads slowly gets pages slowly, and at most one page of each session that it has resumed waits for
//! it. What follows behind the last one is like the reply to a message of its own.
//!
//! A turn that the connection waits for anyway is not shown twice: its words are left out here. Words that the client
//! has seen already are sent by the shard all the same where a reply goes on behind them; they are taken note of, and
//! not shown.

mod runs;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use shm_transport::envelope::{
    ArchivedResumedV1, FailureCode, Message, Opened, ResumeStep, ResumeV1, Route, TURN_BEGUN, TURN_OVER,
};
use shm_transport::link::SendError;
use shm_transport::ports::shard_of;

use self::runs::Runs;
use super::events::Event;
use super::state::{Connection, ConnectionState, Edge};
use super::turns::{self, Offered, Submitted, Turn};
use super::words::{self, Dialect, Frames, Outcome};
use crate::dialect::place::Place;
use crate::dialect::simple::frames::escape;
use crate::dialect::{driver, simple};
use crate::refusal::{Code, Refusal};

/// Sessions that one connection resumes at once.
const RESUMPTIONS_MAX: usize = 16;

/// Who has come back, in words of its dialect.
pub enum Asked<'a> {
    /// [`simple`]
    Simple {
        /// As the client calls its request.
        id: Option<&'a str>,
        /// The conversation.
        thread: &'a str,
    },
    /// [`driver`]
    Driver {
        /// As the driver calls its request.
        id: &'a str,
        /// The conversation, as far as it is named.
        session: Option<&'a str>,
    },
    /// [`openclaw`](crate::openclaw)
    Runs {
        /// As the client calls its request.
        request: &'a str,
        /// The conversation, in full.
        session_key: &'a str,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A page is on its way.
    Asked,
    /// A page is to be asked for.
    Wanted,
    /// All pages have come.
    Live,
}

/// A turn of the session.
#[derive(Debug)]
struct Followed {
    turn: Turn,
    /// Its name, escaped and in quotes; empty if its client has not named it.
    name: Vec<u8>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Its end is still to come.
    Open,
    /// It has ended, or was open in a run whose end is among the words; more may follow if it was tried again.
    Over,
    /// The connection gets its words anyway.
    Own,
}

/// A session that a client has come back to.
#[derive(Debug)]
pub struct Resumption {
    /// Its number among the messages of the connection.
    sequence: u32,
    /// Hash of the session key.
    session: u64,
    dialect: Dialect,
    /// Labels of frames about the resumption, escaped.
    labels: Vec<u8>,
    /// What names the session in labels of turns.
    thread: Option<Box<str>>,
    /// The last place that the client had seen.
    after: Place,
    /// The place up to which pages have come.
    sent: Place,
    stage: Stage,
    /// The last word that came.
    heard: Place,
    turns: HashMap<u64, Followed>,
    /// Its runs, if its client speaks the OpenClaw protocol.
    runs: Option<Box<Runs>>,
}

/// A client asks for what it has missed of a session.
pub fn begin(edge: &Edge, connection: &Connection, session: u64, after: Place, asked: &Asked<'_>) -> Offered {
    if let Err(refusal) = turns::check_room(edge, connection) {
        return Offered::Refused(refusal);
    }
    let state = &mut *connection.state.borrow_mut();
    // What has come to its end is kept only so that what is late is not told again.
    state.resumptions.retain(|each| each.session != session || each.follows());
    if state.resumptions.len() >= RESUMPTIONS_MAX {
        state.resumptions.retain(|each| each.follows());
    }
    if state.resumptions.iter().any(|each| each.session == session) {
        let text = "what this session says is shown to this connection already";
        return Offered::Refused(Refusal::new(Code::Failure(FailureCode::Conflict), text));
    }
    if state.resumptions.len() >= RESUMPTIONS_MAX {
        let text = format!("a connection resumes at most {RESUMPTIONS_MAX} sessions at once");
        return Offered::Refused(Refusal::new(Code::Failure(FailureCode::Overloaded), text));
    }
    let mut labels = Vec::new();
    let mut runs = None;
    let (dialect, thread) = match *asked {
        Asked::Runs { request, session_key } => {
            runs = Some(Box::new(Runs::new(request.to_owned(), session_key)));
            (Dialect::default(), None)
        }
        Asked::Simple { id, thread } => {
            simple::frames::write_labels(&mut labels, id, None, Some(thread));
            (Dialect::Simple, Some(thread))
        }
        Asked::Driver { id, session } => {
            driver::frames::write_labels(&mut labels, Some(id), session);
            (Dialect::Driver, session)
        }
    };
    let resumption = Resumption {
        sequence: state.next_sequence,
        session,
        dialect,
        labels,
        thread: thread.map(Into::into),
        after,
        sent: Place::NONE,
        stage: Stage::Asked,
        heard: Place::NONE,
        turns: HashMap::new(),
        runs,
    };
    let offered = resumption.ask(edge, connection);
    if offered == Offered::Taken {
        state.next_sequence = state.next_sequence.wrapping_add(1);
        state.resumptions.push(resumption);
    }
    offered
}

/// Whether a client is not to be shown an event of others because it resumes the session. It may be shown later.
pub fn keep_back(state: &mut ConnectionState, event: &Arc<Event>) -> bool {
    state.resumptions.iter_mut().any(|each| {
        let is_live = each.stage == Stage::Live;
        each.runs.as_mut().is_some_and(|runs| runs.keep_back(event, is_live))
    })
}

/// What became of a frame that asks for what was missed.
pub fn answered(offered: Offered, refuse: impl FnOnce(&Refusal<'_>)) -> Submitted {
    match offered {
        Offered::Taken | Offered::Failed => Submitted::Taken,
        Offered::Full => Submitted::Stalled,
        Offered::Refused(refusal) => {
            refuse(&refusal);
            Submitted::Taken
        }
    }
}

/// Asks for the next pages of a client that has read all that it was sent.
pub fn go_on(edge: &Edge, connection: &Rc<Connection>, state: &mut ConnectionState) {
    let mut asked = 0;
    for at in 0..state.resumptions.len() {
        let resumption = &mut state.resumptions[at];
        if resumption.stage != Stage::Wanted {
            continue;
        }
        match resumption.ask(edge, connection) {
            Offered::Full => {
                edge.block_now(connection, state);
                break;
            }
            Offered::Taken | Offered::Refused(_) | Offered::Failed => {
                state.resumptions[at].stage = Stage::Asked;
                asked += 1;
            }
        }
    }
    if asked > 0 {
        edge.flush_soon(asked);
    }
}

/// Takes what a shard has sent for a resumption. `false`: it is for a message of the connection.
pub fn deliver(
    edge: &Edge,
    connection: &Rc<Connection>,
    state: &mut ConnectionState,
    message: &Message<'_>,
    now_ms: u64,
) -> bool {
    let sequence = message.route.sequence;
    let Some(at) = state.resumptions.iter().position(|each| each.sequence == sequence) else { return false };
    let mut resumption = state.resumptions.swap_remove(at);
    if resumption.take(edge, state, message, now_ms) {
        state.resumptions.push(resumption);
    }
    edge.mark_dirty(Rc::clone(connection), state);
    true
}

impl Resumption {
    fn ask(&self, edge: &Edge, connection: &Connection) -> Offered {
        let (session, origin, sequence) = (self.session, connection.id.origin(), self.sequence);
        let route = Route { session, origin, sequence, ..Route::default() };
        let links = &mut edge.ports.borrow_mut().links;
        let shard_index = shard_of(session, links.len());
        let asked = ResumeV1 { after: self.after.0, sent: self.sent.0, follow: 1 };
        match links[shard_index].sender.send(&route, &asked) {
            // It has no text that could be too large.
            Ok(()) | Err(SendError::TooLarge { .. }) => Offered::Taken,
            Err(SendError::Full { .. }) => Offered::Full,
            Err(SendError::Poisoned(poison)) => {
                edge.fail(shard_index, poison);
                Offered::Failed
            }
        }
    }

    /// `false`: that was all.
    fn take(&mut self, edge: &Edge, state: &mut ConnectionState, message: &Message<'_>, now_ms: u64) -> bool {
        let route = message.route;
        let Opened::Resumed(said) = message.open() else {
            let place = Place(route.session);
            // Those of a page that was asked for once more may have come before.
            if place > self.heard {
                self.heard = place;
                match &mut self.runs {
                    Some(runs) => runs.show(edge, state, message, (place > self.after, now_ms)),
                    None => self.show(edge, state, message, now_ms),
                }
            }
            return self.goes_on();
        };
        let place = Place(said.place.to_native());
        match ResumeStep::from_number(said.step) {
            Some(ResumeStep::Turn) => match &mut self.runs {
                Some(runs) => runs.introduce(route.turn, said, now_ms),
                None => self.introduce(state, route.turn, said),
            },
            Some(ResumeStep::Gap) => self.tell_gap(edge, state, (Place(route.session), place), now_ms),
            Some(ResumeStep::More) => {
                self.sent = place;
                self.stage = Stage::Wanted;
            }
            Some(ResumeStep::Live) => self.tell_resumed(edge, state, place, now_ms),
            Some(ResumeStep::Left) if self.runs.is_some() => {
                if let Some(runs) = &mut self.runs {
                    runs.leave(route.turn);
                }
            }
            Some(ResumeStep::Left) => {
                let text = "too many connections have asked for this reply since; ask for it again";
                let refusal = Refusal::new(Code::Failure(FailureCode::Overloaded), text);
                if let Some(left) = self.turns.remove(&route.turn)
                    && left.standing == Standing::Open
                {
                    tell_error(edge, state, &left.turn, &refusal, now_ms);
                }
            }
            Some(ResumeStep::Unknown) => {
                if let Some(runs) = &mut self.runs {
                    runs.refuse(edge, state);
                    return false;
                }
                let refusal = Refusal::new(Code::UnknownSession, "nothing is kept of a session of that name");
                let turn = Turn { dialect: self.dialect, labels: self.labels.clone(), ..Turn::default() };
                tell_error(edge, state, &turn, &refusal, now_ms);
                return false;
            }
            None => edge.stats().late.add(1),
        }
        self.goes_on()
    }

    /// Whether it is still needed.
    fn goes_on(&self) -> bool {
        // An edge may be late to publish of a run what was told here: who follows it is remembered.
        self.runs.is_some() || self.follows()
    }

    /// Whether anything is still to come.
    fn follows(&self) -> bool {
        self.stage != Stage::Live
            || self.turns.values().any(|each| each.standing == Standing::Open)
            || self.runs.as_ref().is_some_and(|runs| runs.go_on())
    }

    /// Something is not kept.
    fn tell_gap(&mut self, edge: &Edge, state: &mut ConnectionState, gap: (Place, Place), now_ms: u64) {
        if let Some(runs) = &mut self.runs {
            return runs.note_gap(gap.0, gap.1);
        }
        let mut json = Vec::new();
        match self.dialect {
            Dialect::Simple => simple::frames::write_gap(&mut json, &self.labels, gap, now_ms),
            Dialect::Driver => driver::frames::write_gap(&mut json, &self.labels, gap, now_ms),
            // A request is over with its connection, and nobody comes back to it.
            Dialect::Completion | Dialect::CompletionStream => {}
        }
        edge.enqueue(state, &json);
    }

    /// Words of a turn follow.
    fn introduce(&mut self, state: &ConnectionState, number: u64, said: &ArchivedResumedV1) {
        if self.turns.contains_key(&number) {
            return;
        }
        let some = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let (id, agent) = (some(&said.client_id), some(&said.agent));
        let mut turn = Turn {
            dialect: self.dialect,
            session: self.session,
            number,
            requires_response: said.wants_reply != 0,
            ..Turn::default()
        };
        let (labels, thread) = (&mut turn.labels, self.thread.as_deref());
        match self.dialect {
            Dialect::Simple => {
                simple::frames::write_labels(labels, id.as_deref(), agent.as_deref(), thread);
            }
            Dialect::Driver => driver::frames::write_labels(labels, id.as_deref(), thread),
            // A request is over with its connection, and nobody comes back to it.
            Dialect::Completion | Dialect::CompletionStream => {}
        }
        let mut name = Vec::new();
        if let Some(id) = id {
            name.push(b'"');
            escape(&mut name, &id);
            name.push(b'"');
        }
        let is_own = state.turns.values().any(|own| own.number == number);
        let standing = match said.place.to_native() {
            _ if is_own => Standing::Own,
            TURN_OVER => Standing::Over,
            _ => Standing::Open,
        };
        if said.place.to_native() == TURN_BEGUN {
            // It may be lost with the gateway: its client is not told that it is kept.
            name.clear();
        }
        self.turns.insert(number, Followed { turn, name, standing });
    }

    /// A word of a turn.
    fn show(&mut self, edge: &Edge, state: &mut ConnectionState, message: &Message<'_>, now_ms: u64) {
        let route = message.route;
        let is_reply = turns::is_reply(message);
        let current = |each: &&mut Followed| !is_reply || route.attempt >= each.turn.attempt;
        let Some(followed) = self.turns.get_mut(&route.turn).filter(current) else {
            edge.stats().late.add(1);
            return;
        };
        if followed.standing == Standing::Own {
            return;
        }
        let turn = &mut followed.turn;
        turn.place = Place(route.session);
        if is_reply && route.attempt > turn.attempt {
            turn.attempt = route.attempt;
            turn.text.clear();
        }
        let scratch = &mut *edge.scratch.borrow_mut();
        let mut frames = Frames::new(&mut scratch.json);
        let outcome = words::apply(turn, message, &mut frames, edge.options.reply_bytes_max, now_ms);
        let second = frames.second;
        if outcome != Outcome::Open {
            // It is in the stream once more if it was a dead letter and is tried again.
            followed.standing = Standing::Over;
            followed.turn.text = String::new();
        }
        let is_new = Place(route.session) > self.after;
        if is_new && !scratch.json.is_empty() {
            let (first, rest) = scratch.json.split_at(second.unwrap_or(scratch.json.len()));
            edge.enqueue(state, first);
            if !rest.is_empty() {
                edge.enqueue(state, rest);
            }
        }
    }

    /// The client has been told everything; what ended is forgotten.
    fn tell_resumed(&mut self, edge: &Edge, state: &mut ConnectionState, place: Place, now_ms: u64) {
        self.stage = Stage::Live;
        if let Some(runs) = &mut self.runs {
            if !runs.tell_resumed(edge, state, place) {
                (self.sent, self.stage) = (place, Stage::Wanted);
            }
            return;
        }
        self.turns.retain(|_, each| each.standing != Standing::Over);
        let mut names: Vec<(&u64, &[u8])> = self.turns.iter().map(|(at, each)| (at, &*each.name)).collect();
        names.retain(|(_, name)| !name.is_empty());
        names.sort_unstable();
        let open = names.iter().map(|&(_, name)| name).collect::<Vec<_>>().join(&b',');
        let mut json = Vec::new();
        match self.dialect {
            Dialect::Simple => {
                simple::frames::write_resumed(&mut json, &self.labels, place, &open, now_ms);
            }
            Dialect::Driver => {
                driver::frames::write_resumed(&mut json, &self.labels, place, &open, now_ms);
            }
            // A request is over with its connection, and nobody comes back to it.
            Dialect::Completion | Dialect::CompletionStream => {}
        }
        edge.enqueue(state, &json);
    }
}

fn tell_error(edge: &Edge, state: &mut ConnectionState, turn: &Turn, refusal: &Refusal<'_>, now_ms: u64) {
    let mut json = Vec::new();
    words::write_error(turn, &mut Frames::new(&mut json), refusal, now_ms);
    edge.stats().refused.add(1);
    edge.enqueue(state, &json);
}
