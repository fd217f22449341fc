//! From the agent's words to the client: numbered, kept by the journal, shown; and ends of every kind.

use std::cmp::Ordering;
use std::time::Duration;

use shm_transport::envelope::{Body, FailureCode, FailureV1, Kind, Opened, Route};

use super::awaiting::Outcome;
use super::replies::{Asked, Word};
use super::turns::{Listener, Listeners, State, Turn};
use super::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect};
use crate::events::{Detail, Event};
use crate::flight::{Outcome as FlightOutcome, Stage};
use crate::journal::entry::{Entry, EntryKind};
use crate::planted::{self, Bug};
use crate::retry::FailureCause;
use crate::session::{SessionIndex, StreamPosition};
use crate::time::Moment;

/// Words of one reply that are kept; more of them end it with a failure.
const REPLY_WORDS_MAX: usize = 1 << 20;
/// Why an attempt is repeated although its agent has ended it.
const MISSING_WORDS: &str = "some of the agent's words about this message are missing";

/// Makes of a word's place what follows when the journal has it.
pub(super) type Then = fn(StreamPosition) -> Outcome;

impl ShardCore {
    /// Session role: a piece of a reply.
    pub(super) fn said(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        (turn, attempt, number): (u64, u32, u32),
        body: Body<'_>,
        effects: &mut Effects<'_>,
    ) {
        let Some(open) = self.at_agent(agent, turn, attempt) else {
            self.counters.agent_strays += 1;
            return;
        };
        let (flight, wants_reply) = (open.flight, open.wants_reply);
        let took = now.since(open.seen);
        let place = if wants_reply && !planted::is(Bug::WordsNotCompared) {
            number.cmp(&open.blocks)
        } else {
            Ordering::Equal
        };
        if body.kind() == Kind::Block {
            match place {
                _ if open.state == State::Spoiled => {}
                Ordering::Less => self.counters.words_repeated += 1,
                Ordering::Greater => open.state = State::Spoiled,
                Ordering::Equal => {
                    open.blocks += 1;
                    self.recorder.stamp_first(flight, Stage::FirstBlock, now);
                    if wants_reply {
                        self.keep_word(turn, EntryKind::Block, body, Outcome::Word, effects);
                    }
                }
            }
            return;
        }
        let whole = open.state == State::Working && place == Ordering::Equal;
        self.leave_agent(agent);
        self.recorder.stamp(flight, Stage::End, now);
        let again = retryable(body).or_else(|| (!whole).then(|| MISSING_WORDS.to_owned()));
        if let Some(text) = again {
            self.breakers.on_failure(agent, now);
            return self.failed(now, turn, FailureCause::AgentError { retryable: true }, &text, effects);
        }
        if body.kind() == Kind::Failure {
            self.breakers.on_failure(agent, now);
        } else {
            self.breakers.on_success(agent);
        }
        let (blocks, bytes) =
            self.replies.get(turn).map_or((0, 0), |reply| (reply.words.len(), reply.bytes()));
        let detail = Detail::ResponseGenerated {
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            bytes: bytes as u64,
            took,
        };
        self.tell(now, turn, detail, effects);
        self.end(turn, body, Outcome::Ended, effects);
    }

    /// The one last word of a turn goes to the journal.
    fn end(&mut self, turn: u64, body: Body<'_>, then: Then, effects: &mut Effects<'_>) {
        if let Some(open) = self.turns.get_mut(turn) {
            open.state = State::Ending;
        }
        self.keep_word(turn, EntryKind::Done, body, then, effects);
    }

    /// Numbers a word, stores it, and sends it to the journal. `then` is what follows when that has it.
    pub(super) fn keep_word(
        &mut self,
        turn: u64,
        kind: EntryKind,
        body: Body<'_>,
        then: Then,
        effects: &mut Effects<'_>,
    ) {
        let Self { turns, sessions, replies, log, awaiting, .. } = self;
        let Some(open) = turns.get(turn) else { return };
        let position = sessions.next_output(open.session);
        let word = Word { position, attempt: open.attempt, kept: false, body: body.to_stored() };
        replies.push(turn, open.session_hash, word, |asked| take_asked(asked, open));
        let entry = Entry {
            kind,
            durable: open.durable && kind != EntryKind::Block,
            turn,
            session: open.session_hash,
            word: position.word(),
            attempt: open.attempt,
            check: if kind == EntryKind::Dead { u32::from(open.cause() as u16) } else { 0 },
        };
        Self::keep(log, awaiting, entry, body, then(position), effects);
        if kind == EntryKind::Block
            && self.replies.get(turn).is_some_and(|reply| reply.words.len() > REPLY_WORDS_MAX)
        {
            let text = format!("the reply has more than {REPLY_WORDS_MAX} pieces");
            self.end_without_answer(turn, FailureCode::TooLarge, &text, Outcome::Withdrawn, effects);
        }
    }

    /// Shows a word to one who awaits it.
    pub(super) fn show(turn: u64, listener: Listener, word: &Word, effects: &mut Effects<'_>) {
        let Listener { edge, origin, sequence } = listener;
        let (session, attempt) = (word.position.word(), u32::from(word.attempt));
        let route = Route { turn, session, origin, sequence, attempt };
        effects(Effect::ToEdge { edge, route, body: word.body.as_body() });
    }

    /// The journal has a word: it may be shown.
    pub(super) fn word_kept(&mut self, turn: u64, position: StreamPosition, effects: &mut Effects<'_>) {
        let Self { turns, replies, .. } = self;
        let Some(word) = replies.keep(turn, position) else { return };
        let Some(open) = turns.get(turn) else { return };
        // A word of an attempt that has failed meanwhile stays in the stream; the next attempt replaces it.
        for listener in open.listeners.iter() {
            Self::show(turn, listener, word, effects);
        }
    }

    /// The journal has the last word: it is shown, and the turn is gone.
    pub(super) fn ended(
        &mut self,
        now: Moment,
        turn: u64,
        position: StreamPosition,
        effects: &mut Effects<'_>,
    ) {
        let Self { turns, replies, recorder, latencies, .. } = self;
        let Some(word) = replies.keep(turn, position) else { return };
        let answered = word.body.as_body().kind() == Kind::End;
        let failure = (!answered).then(|| code_of(word));
        let mut took = Duration::ZERO;
        if let Some(open) = turns.get(turn) {
            for listener in open.listeners.iter() {
                Self::show(turn, listener, word, effects);
            }
            recorder.stamp(open.flight, Stage::Kept, now);
            recorder.stamp(open.flight, Stage::Respond, now);
            recorder.end(open.flight, failure.map_or(FlightOutcome::Replied, FlightOutcome::Failed));
            took = now.since(open.seen);
            latencies.total.record(took);
        }
        if answered {
            self.counters.replies_completed += 1;
        } else {
            self.counters.messages_failed += 1;
        }
        self.tell(now, turn, Detail::ResponseDelivered { failure, took }, effects);
        self.replies.end(turn);
        let Some(open) = self.turns.remove(turn) else { return };
        for timer in [open.deadline, open.retry].into_iter().flatten() {
            self.timers.cancel(timer);
        }
        self.leave_session(now, open.session, turn);
    }

    /// The session goes on without that turn.
    pub(super) fn leave_session(&mut self, now: Moment, session: SessionIndex, turn: u64) {
        if self.sessions.active_turn(session) == Some(turn) {
            self.sessions.end(now, session);
            if let Some(next) = self.sessions.begin_next(session)
                && !planted::is(Bug::LostWake)
            {
                self.ready.push_back(next);
            }
        } else {
            self.sessions.remove_waiting(now, session, turn);
        }
        if self.sessions.active_turn(session).is_none() {
            self.conversations.quiet(session);
        }
    }

    /// A turn ends without an answer.
    fn end_without_answer(
        &mut self,
        turn: u64,
        code: FailureCode,
        text: &str,
        then: Then,
        effects: &mut Effects<'_>,
    ) {
        let failure = FailureV1 { code: code as u16, retry_after_ms: 0, text: text.to_owned() };
        let mut encoder = std::mem::take(&mut self.encoder);
        self.end(turn, encoder.encode(&failure), then, effects);
        self.encoder = encoder;
    }

    /// A client does not want its reply any more.
    pub(super) fn cancel_asked(&mut self, listener: Listener, session: u64, effects: &mut Effects<'_>) {
        let turns = &self.turns;
        let of_listener = |turn: &u64| {
            turns.get(*turn).is_some_and(|open| open.listeners.iter().any(|each| each == listener))
        };
        let found = self.sessions.open_turns(session).find(of_listener);
        match found {
            Some(turn) => self.cancel(turn, FailureCode::Cancelled, "cancelled by its sender", effects),
            // It has been answered meanwhile, or its answer is on its way.
            None => self.counters.cancels_late += 1,
        }
    }

    pub(super) fn deadline_due(&mut self, turn: u64, effects: &mut Effects<'_>) {
        if let Some(open) = self.turns.get_mut(turn) {
            open.deadline = None;
            let text = "its time has passed before it was answered";
            self.cancel(turn, FailureCode::DeadlineExceeded, text, effects);
        }
    }

    fn cancel(&mut self, turn: u64, code: FailureCode, text: &str, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get(turn) else { return };
        let then: Then = match open.state {
            State::Ending | State::Dead => return,
            // When the journal has it: a successor of this gateway would take what the agent says then for an answer.
            State::Working | State::Spoiled => Outcome::Withdrawn,
            State::Accepting { .. } | State::Waiting | State::Unclaimed | State::Preparing => Outcome::Ended,
            State::BackingOff { .. } => {
                if let Some(timer) = open.retry {
                    self.timers.cancel(timer);
                }
                Outcome::Ended
            }
        };
        self.counters.cancelled += 1;
        self.end_without_answer(turn, code, text, then, effects);
    }

    /// Tells whoever listens of something about a turn.
    pub(super) fn tell(&mut self, now: Moment, turn: u64, detail: Detail<'_>, effects: &mut Effects<'_>) {
        let Self { subscribed, turns, sessions, .. } = self;
        let Some(sequence) = subscribed.next(detail.event_type()) else { return };
        let Some(open) = turns.get(turn) else { return };
        let channel = sessions.key(open.session).parts().channel;
        let (session, agent) = (open.session_hash, Some(open.agent));
        effects(Effect::Event(Event { at: now, sequence, channel, session, turn, agent, detail }));
    }

    /// The journal is broken: nothing can be kept, so nothing more is acknowledged or answered. What has been accepted
    /// is done after the next start.
    pub(super) fn abandon(&mut self, effects: &mut Effects<'_>) {
        self.awaiting.clear();
        let open: Vec<u64> = self.turns.iter().map(|(turn, _)| turn).collect();
        let failure = FailureV1 {
            code: FailureCode::JournalFailed as u16,
            retry_after_ms: 0,
            text: "the journal cannot be written; an accepted message is worked on after the next start"
                .into(),
        };
        for turn in open {
            let Some(open) = self.turns.get(turn) else { continue };
            for Listener { edge, origin, sequence } in open.listeners.iter() {
                let route =
                    Route { turn, origin, sequence, attempt: u32::from(open.attempt), ..Route::default() };
                effects(Effect::ToEdge { edge, route, body: self.encoder.encode(&failure) });
            }
            if matches!(open.state, State::Working | State::Spoiled) {
                // The agent is not told: the next gateway may take over both, and what it says until then is missing.
                let agent = open.agent;
                self.leave_agent(agent);
                self.withdraw(agent, turn, effects);
            }
            if let Some(open) = self.turns.get_mut(turn) {
                open.listeners = Listeners::default();
                open.state = State::Ending;
            }
            self.counters.messages_failed += 1;
        }
    }
}

/// Takes what the message of a turn says about itself.
pub(super) fn take_asked(asked: &mut Asked, open: &Turn) {
    match open.body.as_message(Route::default()).open() {
        Opened::Message(archive) => asked.take(archive),
        _ => *asked = Asked::default(),
    }
}

/// The same on its own.
pub(super) fn asked_of(open: &Turn) -> Asked {
    let mut asked = Asked::default();
    take_asked(&mut asked, open);
    asked
}

/// The code of a failure.
fn code_of(word: &Word) -> FailureCode {
    match word.body.as_message(Route::default()).open() {
        Opened::Failure(failure) => FailureCode::from_number(failure.code.to_native()),
        _ => None,
    }
    .unwrap_or(FailureCode::AgentError)
}

/// The sentence of an agent's failure that asks for another attempt.
fn retryable(body: Body<'_>) -> Option<String> {
    if body.kind() != Kind::Failure {
        return None;
    }
    let failure = body.to_stored();
    let Opened::Failure(failure) = failure.as_message(Route::default()).open() else { return None };
    (failure.retry_after_ms.to_native() > 0).then(|| failure.text.as_str().to_owned())
}
