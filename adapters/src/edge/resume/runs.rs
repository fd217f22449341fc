//! A resumed session as OpenClaw clients see it: its runs, told by `agent` and `chat` to this connection alone.
//!
//! All clients are told of the runs of all edges anyway. So from its request on, what others publish of the session is
//! kept back from this connection: until everything that is kept has been told, then the runs that it follows here are
//! left out for good, and all else is shown. So nothing is told on both ways, and nothing on neither.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shm_transport::envelope::{ArchivedResumedV1, BlockType, FailureCode, Message, TURN_OPEN};

use crate::dialect::place::{Place, write_gap, write_resumed};
use crate::dialect::simple::frames::escape;
use crate::edge::client::ConnectionState;
use crate::edge::events::{Event, Live};
use crate::edge::operator;
use crate::edge::state::Edge;
use crate::edge::turns::is_reply;
use crate::edge::words::Word;
use crate::openclaw::backend::Outcome;
use crate::openclaw::run::{Run, RunEvent};
use crate::refusal::RpcError;

/// Bytes of events that are kept back. Beyond it the session is asked for once more.
const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Gaps that the response names apart; what lies between those beyond it and the last counts as one.
const GAPS_MAX: usize = 64;

/// A run that the connection follows.
#[derive(Debug)]
struct Followed {
    run: Run,
    attempt: u32,
    /// Names its live text.
    number: u32,
    begun: bool,
    is_over: bool,
    /// Whether the response says that it goes on.
    is_open: bool,
}

/// The runs of a session that is resumed.
#[derive(Debug)]
pub(super) struct Runs {
    /// As the client calls its request, until it is answered.
    request: Option<String>,
    session_key: Arc<str>,
    gaps: Vec<(Place, Place)>,
    followed: HashMap<u64, Followed>,
    /// Names of the runs that are told here.
    names: HashSet<Arc<str>>,
    /// What others have published meanwhile.
    held: Vec<Arc<Event>>,
    held_bytes: usize,
    /// Whether some of that did not fit.
    overflowed: bool,
}

impl Runs {
    pub(super) fn new(request: String, session_key: &str) -> Self {
        Self {
            request: Some(request),
            session_key: session_key.into(),
            gaps: Vec::new(),
            followed: HashMap::new(),
            names: HashSet::new(),
            held: Vec::new(),
            held_bytes: 0,
            overflowed: false,
        }
    }

    /// Whether some run goes on.
    pub(super) fn go_on(&self) -> bool {
        self.followed.values().any(|each| !each.is_over)
    }

    /// Whether the connection is not to be shown an event of somebody else's. Until everything was told it is kept.
    pub(super) fn keep_back(&mut self, event: &Arc<Event>, is_live: bool) -> bool {
        if event.session.as_deref() != Some(&*self.session_key) || event.run.is_none() {
            return false;
        }
        if is_live {
            return self.follows(event);
        }
        self.held_bytes += event.payload.len();
        if self.held_bytes > HELD_BYTES_MAX {
            self.held = Vec::new();
            self.overflowed = true;
        } else {
            self.held.push(Arc::clone(event));
        }
        true
    }

    fn follows(&self, event: &Event) -> bool {
        event.run.as_ref().is_some_and(|run| self.names.contains(run))
    }

    pub(super) fn note_gap(&mut self, from: Place, to: Place) {
        let is_full = self.gaps.len() >= GAPS_MAX;
        match self.gaps.last_mut().filter(|_| is_full) {
            Some(last) => last.1 = to,
            None => self.gaps.push((from, to)),
        }
    }

    /// Words of a turn follow.
    pub(super) fn introduce(&mut self, number: u64, said: &ArchivedResumedV1, now_ms: u64) {
        let index = u32::try_from(self.followed.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = said.client_id.as_str().into();
        let (key, agent) = ((*self.session_key).to_owned(), said.agent.as_str().to_owned());
        self.followed.entry(number).or_insert_with(|| Followed {
            run: Run::new((*name).to_owned(), key, agent, now_ms),
            attempt: 0,
            number: index,
            begun: false,
            is_over: said.place.to_native() == 0,
            is_open: said.place.to_native() == TURN_OPEN,
        });
        self.names.insert(name);
    }

    /// A word of a run. It is shown if it is new to the client, else taken note of.
    pub(super) fn show(
        &mut self,
        edge: &Edge,
        state: &mut ConnectionState,
        message: &Message<'_>,
        (is_new, now_ms): (bool, u64),
    ) {
        let route = message.route;
        let is_reply = is_reply(message);
        let current = |each: &&mut Followed| !is_reply || route.attempt >= each.attempt;
        let found = self.followed.get_mut(&route.turn).filter(current);
        let (Some(followed), Some(word)) = (found, Word::of(message)) else {
            edge.stats().late.add(1);
            return;
        };
        if is_reply && route.attempt > followed.attempt {
            followed.attempt = route.attempt;
            followed.run.restart();
        }
        let mut told = Vec::new();
        followed.apply(word, edge.options.reply_bytes_max, &self.session_key, now_ms, &mut told);
        if !is_new {
            return;
        }
        if let Some(last) = told.last_mut() {
            last.place = Place(route.session);
        }
        for event in told {
            operator::show_now(edge, state, &Arc::new(event));
        }
    }

    /// A run is not told here any more: it is told as it is to all others.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(left) = self.followed.remove(&number) {
            self.names.remove(left.run.id());
        }
    }

    /// Everything that is kept has been told up to a place. `false`: more has happened meanwhile than was kept back, so
    /// the session is to be asked for once more.
    pub(super) fn tell_resumed(&mut self, edge: &Edge, state: &mut ConnectionState, place: Place) -> bool {
        self.held_bytes = 0;
        if std::mem::take(&mut self.overflowed) {
            return false;
        }
        operator::write_pending(edge, state);
        let mut payload = br#"{"ok":true,"sessionKey":""#.to_vec();
        escape(&mut payload, &self.session_key);
        payload.extend_from_slice(b"\",");
        let mut open: Vec<(u32, &str)> = Vec::new();
        for followed in self.followed.values().filter(|each| each.is_open && !each.is_over) {
            open.push((followed.number, followed.run.id()));
        }
        open.sort_unstable();
        let mut names = Vec::new();
        for (index, (_, name)) in open.iter().enumerate() {
            names.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            escape(&mut names, name);
            names.push(b'"');
        }
        write_resumed(&mut payload, place, &names);
        payload.extend_from_slice(b",\"gaps\":[");
        for (index, &(from, to)) in self.gaps.iter().enumerate() {
            payload.extend_from_slice(if index == 0 { b"{" } else { b",{" });
            write_gap(&mut payload, from, to);
            payload.push(b'}');
        }
        payload.extend_from_slice(b"]}");
        self.answer(edge, state, &Ok(payload));
        for event in std::mem::take(&mut self.held) {
            if !self.follows(&event) {
                operator::show_now(edge, state, &event);
            }
        }
        true
    }

    /// There is nothing to be told.
    pub(super) fn refuse(&mut self, edge: &Edge, state: &mut ConnectionState) {
        let text = format!("unknown session '{}'", self.session_key);
        let error = RpcError::invalid(text).with_details(serde_json::json!({ "reason": "unknown_session" }));
        self.answer(edge, state, &Err(error));
        for event in std::mem::take(&mut self.held) {
            operator::show_now(edge, state, &event);
        }
    }

    fn answer(&mut self, edge: &Edge, state: &mut ConnectionState, outcome: &Outcome) {
        let Some(request) = self.request.take() else { return };
        if let Some(operator) = state.operator() {
            operator.open_calls = operator.open_calls.saturating_sub(1);
        }
        operator::respond(edge, state, &request, outcome);
    }
}

impl Followed {
    /// Makes events of a word.
    fn apply(
        &mut self,
        word: Word<'_>,
        reply_bytes_max: usize,
        session_key: &Arc<str>,
        now_ms: u64,
        told: &mut Vec<Event>,
    ) {
        let (number, run_id): (u32, Arc<str>) = (self.number, self.run.id().into());
        let mut sink = |event: RunEvent<'_>| {
            told.push(Event {
                session: Some(Arc::clone(session_key)),
                run: Some(Arc::clone(&run_id)),
                is_tool: event.is_tool,
                is_delta: event.is_delta,
                // No edge has this number.
                live: event.joint.map(|delta| Live { run: (usize::MAX, number), delta }),
                ..Event::plain(event.event, event.payload.to_vec())
            });
        };
        if matches!(word, Word::Accepted) {
            return;
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.run.start(now_ms, &mut sink);
        }
        let run = &mut self.run;
        let more = match &word {
            Word::Block(block) => block.content.len(),
            Word::End(end) => end.content.len(),
            Word::Failure(_) | Word::Accepted => 0,
        };
        if run.text().len() + more > reply_bytes_max {
            let text = format!("the reply is longer than the {reply_bytes_max} bytes that are passed on");
            run.fail(FailureCode::TooLarge, &text, now_ms, &mut sink);
            self.is_over = true;
            return;
        }
        self.is_over = !matches!(word, Word::Block(_));
        match word {
            Word::Block(block) => {
                let block_type = BlockType::from_number(block.block_type).unwrap_or_default();
                run.block(block_type, &block.content, now_ms, &mut sink);
                // Pieces are joined where the client reads slowly, not by a timer.
                run.flush(now_ms, &mut sink);
            }
            Word::End(end) => drop(run.end(&end.content, now_ms, &mut sink)),
            Word::Failure(failure) => {
                let code = FailureCode::from_number(failure.code.to_native());
                let code = code.unwrap_or(FailureCode::AgentError);
                drop(run.fail(code, &failure.text, now_ms, &mut sink));
            }
            Word::Accepted => {}
        }
    }
}
