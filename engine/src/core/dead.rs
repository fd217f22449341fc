//! Dead letters: turns that have failed as often as they may. They keep their place, id and message until somebody
//! has them tried again, or drops them.

use shm_transport::envelope::{Body, FailureCode, FailureV1, Opened, Priority, Route, SessionMode};

use super::accept::session_key;
use super::awaiting::Outcome;
use super::turns::State;
use super::{Due, Effects, ShardCore};
use crate::classes::share_for;
use crate::dead_letters::{DeadLetter, Replay, Selection};
use crate::events::Detail;
use crate::journal::entry::{Entry, EntryKind};
use crate::session::{Begin, StreamPosition};
use crate::time::Moment;
use std::time::Duration;

/// How long a turn waits that cannot even become a dead letter.
const NO_ROOM_FOR_THE_DEAD: Duration = Duration::from_secs(1);
/// How long replayed letters wait that have no room.
const REPLAY_AGAIN: Duration = Duration::from_millis(100);

impl ShardCore {
    /// A turn is given up.
    pub(super) fn die(
        &mut self,
        now: Moment,
        turn: u64,
        code: FailureCode,
        text: &str,
        effects: &mut Effects<'_>,
    ) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        if !self.dead.has_room(open.body.bytes_len()) {
            // Never dropped silently: it waits, and so does its session, until dead letters are taken away.
            self.counters.dead_letters_full += 1;
            open.state = State::BackingOff;
            open.retry = Some(self.timers.insert(now.plus(NO_ROOM_FOR_THE_DEAD), Due::Retry(turn)));
            return;
        }
        open.state = State::Ending;
        let times = open.failures.max(1);
        let text = format!("{text} (failed {times} times; kept as dead letter {turn:016x}: {})", code.name());
        let failure = FailureV1 { code: FailureCode::DeadLettered as u16, retry_after_ms: 0, text };
        let mut encoder = std::mem::take(&mut self.encoder);
        self.keep_word(turn, EntryKind::Dead, encoder.encode(&failure), effects);
        self.encoder = encoder;
    }

    /// The journal has a dead letter: its client is told, and the session goes on.
    pub(super) fn died(
        &mut self,
        now: Moment,
        turn: u64,
        position: StreamPosition,
        effects: &mut Effects<'_>,
    ) {
        let died_at_ms = self.unix_ms(now);
        let Self { turns, replies, .. } = self;
        let Some(open) = turns.get_mut(turn) else { return };
        let Some(word) = replies.keep(turn, position) else { return };
        for listener in std::mem::take(&mut open.listeners) {
            Self::show(turn, listener, word, effects);
        }
        open.state = State::Dead;
        for timer in [open.deadline.take(), open.retry.take()].into_iter().flatten() {
            self.timers.cancel(timer);
        }
        let session = open.session;
        self.replies.end(turn);
        self.bury(turn, died_at_ms);
        self.counters.messages_failed += 1;
        self.counters.died += 1;
        let (code, text, attempts) = self.turns.get(turn).map_or_else(
            || (FailureCode::DeadLettered, String::new(), 0),
            |open| {
                let last = open.history.last();
                let code = last.map_or(FailureCode::DeadLettered, |failed| failed.code);
                (code, last.map_or_else(String::new, |failed| failed.text.clone()), open.attempt)
            },
        );
        self.tell(now, turn, Detail::MessageDeadLettered { code, text: &text, attempts }, effects);
        self.leave_session(now, session, turn);
    }

    /// Puts a dead turn into the list of dead letters.
    pub(super) fn bury(&mut self, turn: u64, died_at_ms: u64) {
        let Some(open) = self.turns.get(turn) else { return };
        let last = open.history.last();
        let letter = DeadLetter {
            turn,
            session: open.session_hash,
            id: open.id,
            agent: open.agent,
            code: last.map_or(FailureCode::DeadLettered, |failed| failed.code),
            text: last.map_or_else(String::new, |failed| failed.text.clone()),
            history: open.history.clone(),
            body_bytes: open.body.bytes_len(),
            died_at_ms,
        };
        // Room was asked for when it was given up, and is not taken from what the journal holds.
        self.dead.insert_regardless(letter);
    }

    /// Tries dead letters again, those of a session in the order of their death.
    pub(super) fn replay_dead(&mut self, now: Moment, selection: Selection) {
        self.dead.take_for_replay(selection, Replay::Mark);
        self.replay_marked(now);
    }

    /// As many marked letters as have room.
    pub(super) fn replay_marked(&mut self, now: Moment) {
        while let Some(letter) = self.dead.next_for_replay() {
            let turn = letter.turn;
            let open = self.turns.len() - self.dead.len();
            if open >= share_for(Priority::Low, self.limits.turns_max) || !self.revive(now, turn) {
                // Goes on when time has passed.
                self.timers.insert(now.plus(REPLAY_AGAIN), Due::Replay);
                return;
            }
            self.counters.replayed += 1;
        }
    }

    /// A dead turn waits for its session again. The journal learns of it by its next attempt.
    fn revive(&mut self, now: Moment, turn: u64) -> bool {
        let Some(open) = self.turns.get_mut(turn) else {
            debug_assert!(false, "a dead letter keeps its turn");
            self.dead.remove(turn);
            return true;
        };
        let body = open.body.clone();
        let message = body.as_message(Route::default());
        let Opened::Message(archive) = message.open() else {
            unreachable!("the body of a turn is a message");
        };
        let mode = SessionMode::from_number(archive.mode);
        let hash = open.session_hash;
        // Its session may have been forgotten meanwhile.
        let Ok((session, _)) = self.sessions.find_or_create(now, hash, &session_key(archive), mode) else {
            return false;
        };
        self.sessions.touch(now, session);
        match self.sessions.begin_or_wait(session, turn, open.urgency.class) {
            Begin::Now => self.ready.push_back(turn),
            Begin::Waiting => {}
            Begin::Full => return false,
        }
        open.session = session;
        open.state = State::Waiting;
        open.failures = 0;
        open.attempt = open.attempt.max(1);
        open.seen = now;
        self.dead.remove(turn);
        true
    }

    /// Dead letters are not wanted any more.
    pub(super) fn drop_dead(&mut self, selection: Selection, effects: &mut Effects<'_>) {
        for turn in self.dead.selected(selection) {
            self.dead.remove(turn);
            let Some(open) = self.turns.remove(turn) else { continue };
            let entry = Entry {
                kind: EntryKind::Dropped,
                durable: open.durable,
                turn,
                session: open.session_hash,
                word: 0,
                attempt: open.attempt,
                check: 0,
            };
            let Self { log, awaiting, .. } = self;
            Self::keep(log, awaiting, entry, Body::ACCEPTED, Outcome::Nothing, effects);
        }
    }

    /// Writes an open turn again at the head of the log, so that its old place may be given up.
    pub(super) fn write_again(&mut self, turn: u64, effects: &mut Effects<'_>) {
        let Self { turns, log, awaiting, replies, .. } = self;
        let Some(open) = turns.get_mut(turn) else { return };
        let entry = |kind, check| Entry {
            kind,
            durable: open.durable,
            turn,
            session: open.session_hash,
            word: open.id,
            attempt: open.attempt,
            check,
        };
        let (moved, attempt) =
            (entry(EntryKind::Moved, open.check), entry(EntryKind::Attempt, u32::from(open.failures)));
        open.sequence = Self::keep(log, awaiting, moved, open.body.as_body(), Outcome::Nothing, effects);
        if open.failures > 0 && open.state != State::Dead {
            Self::keep(log, awaiting, attempt, Body::ACCEPTED, Outcome::Nothing, effects);
        }
        if open.state == State::Dead {
            let word = replies.get(turn).and_then(|reply| reply.words.last());
            let position = word.map_or(StreamPosition::default(), |word| word.position);
            let dead = Entry { kind: EntryKind::Dead, word: position.word(), check: 0, ..moved };
            let failure = FailureV1 {
                code: FailureCode::DeadLettered as u16,
                retry_after_ms: 0,
                text: open.history.last().map_or_else(String::new, |last| last.text.clone()),
            };
            let body = self.encoder.encode(&failure);
            Self::keep(log, awaiting, dead, body, Outcome::Nothing, effects);
        }
        self.counters.written_again += 1;
    }
}
