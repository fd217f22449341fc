//! Dead letters: turns that have failed as often as they may. They keep their place, id and message until somebody
//! has them tried again, or drops them.

use shm_transport::envelope::{Body, FailureCode, FailureV1, Kind, Priority, SessionMode};

use super::accept::session_key;
use super::awaiting::Outcome;
use super::dispatch::message_of;
use super::turns::State;
use super::{Due, Effects, Moves, ShardCore};
use crate::classes::share_for;
use crate::dead_letters::{DeadLetter, FailedAttempt, Replay, Selection};
use crate::events::Detail;
use crate::journal::entry::{Entry, EntryKind};
use crate::planted::{self, Bug};
use crate::session::{Begin, StreamPosition};
use crate::time::Moment;
use std::time::Duration;

/// How long a turn waits that cannot even become a dead letter.
const NO_ROOM_FOR_THE_DEAD: Duration = Duration::from_secs(1);
/// How long replayed letters wait that have no room.
const REPLAY_AGAIN: Duration = Duration::from_millis(100);

/// The place of a word that is not kept any more. Epochs are runs, which count from 1.
pub(super) const NO_PLACE: StreamPosition = StreamPosition { epoch: 0, offset: 0 };

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
        let at_ms = self.unix_ms(now);
        let Some(open) = self.turns.get_mut(turn) else { return };
        // It may be given up before it is given out: then that is all its history.
        if open.history.last().is_none_or(|last| last.code != code || last.text != text) {
            open.history.push(FailedAttempt { attempt: open.attempt, at_ms, code, text: text.to_owned() });
        }
        if !self.dead.has_room(open.body.bytes_len()) {
            // Never dropped silently: it waits, and so does its session, until dead letters are taken away.
            self.counters.dead_letters_full += 1;
            open.state = State::BackingOff { tried: true };
            open.retry = Some(self.timers.insert(now.plus(NO_ROOM_FOR_THE_DEAD), Due::Death(turn)));
            return;
        }
        open.state = State::Ending;
        let times = open.failures.max(1);
        let text = format!("{text} (failed {times} times; kept as dead letter {turn:016x}: {})", code.name());
        let failure = FailureV1 { code: FailureCode::DeadLettered as u16, retry_after_ms: 0, text };
        let mut encoder = std::mem::take(&mut self.encoder);
        self.keep_word(turn, EntryKind::Dead, encoder.encode(&failure), Outcome::Dead, effects);
        self.encoder = encoder;
    }

    /// There was no room for it: perhaps there is some now. Nobody works on it once more.
    pub(super) fn death_due(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        if !matches!(open.state, State::BackingOff { .. }) {
            return;
        }
        open.retry = None;
        let last = open.history.last().map(|last| (last.code, last.text.clone()));
        let (code, text) = last.unwrap_or((FailureCode::DeadLettered, String::new()));
        self.die(now, turn, code, &text, effects);
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
        for listener in std::mem::take(&mut open.listeners).iter() {
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
            code: open.cause(),
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
        let archive = message_of(&open.body);
        let mode = SessionMode::from_number(archive.mode);
        let hash = open.session_hash;
        // Its session may have been forgotten meanwhile.
        let Ok((session, created)) = self.sessions.find_or_create(now, hash, &session_key(archive), mode)
        else {
            return false;
        };
        if created {
            self.sessions.set_stream(session, self.fresh_stream);
        }
        self.sessions.touch(now, session);
        match self.sessions.begin_or_wait(session, turn, open.urgency.class) {
            Begin::Now => self.ready.push_back(turn),
            Begin::Waiting => {}
            Begin::Full => return false,
        }
        // Whoever asks again waits for the reply, and is not told of the death.
        self.replies.forget(turn);
        open.session = session;
        open.state = State::Waiting;
        open.failures = 0;
        open.attempt = open.attempt.max(1);
        open.seen = now;
        if planted::is(Bug::ReplayedLetterStays) {
            self.dead.unmark(turn);
        } else {
            self.dead.remove(turn);
        }
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

    /// Writes a turn again, and behind it all others of its session, so that they keep their order.
    pub(super) fn write_session_again(&mut self, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get(turn) else { return };
        if open.state == State::Dead {
            return self.write_again(turn, effects);
        }
        let place = |other| self.turns.get(other).map(|open| (open.order, other, open.state));
        let mut together: Vec<_> = self.sessions.open_turns(open.session_hash).filter_map(place).collect();
        together.sort_unstable_by_key(|&(order, ..)| order);
        for (_, other, state) in together {
            // One whose last word is on its way has no place in the order any more.
            if state != State::Ending {
                self.write_again(other, effects);
            }
        }
    }

    /// Writes an open turn again at the head of the log, so that its old place may be given up: its message, its
    /// failures, and what it has said.
    pub(super) fn write_again(&mut self, turn: u64, effects: &mut Effects<'_>) {
        let Self { turns, log, awaiting, replies, .. } = self;
        let Some(open) = turns.get_mut(turn) else { return };
        let entry = |kind, word, attempt, check| Entry {
            kind,
            durable: open.durable && !matches!(kind, EntryKind::Block | EntryKind::Attempt),
            turn,
            session: open.session_hash,
            word,
            attempt,
            check,
        };
        let moved = entry(EntryKind::Moved, open.id, open.attempt, open.check);
        let sequence = Self::keep(log, awaiting, moved, open.body.as_body(), Outcome::Nothing, effects);
        if open.failures > 0 && open.state != State::Dead {
            let attempt = entry(EntryKind::Attempt, 0, open.attempt, u32::from(open.failures));
            Self::keep(log, awaiting, attempt, Body::ACCEPTED, Outcome::Nothing, effects);
        }
        let words = replies.get(turn).map_or(&[][..], |reply| &reply.words);
        for word in words {
            let body = word.body.as_body();
            let dead = body.kind() != Kind::Block;
            // Of a former death only the words are left.
            if dead && open.state != State::Dead {
                continue;
            }
            let kind = if dead { EntryKind::Dead } else { EntryKind::Block };
            // A death names its cause.
            let check = if dead { u32::from(open.cause() as u16) } else { 0 };
            let word = entry(kind, word.position.word(), word.attempt, check);
            Self::keep(log, awaiting, word, body, Outcome::Nothing, effects);
        }
        if words.is_empty() && open.state == State::Dead {
            let failure = FailureV1 {
                code: FailureCode::DeadLettered as u16,
                retry_after_ms: 0,
                text: open.history.last().map_or_else(String::new, |last| last.text.clone()),
            };
            let check = u32::from(open.cause() as u16);
            let dead = entry(EntryKind::Dead, NO_PLACE.word(), open.attempt, check);
            let body = self.encoder.encode(&failure);
            Self::keep(log, awaiting, dead, body, Outcome::Nothing, effects);
        }
        open.sequence = sequence;
        let kept = self.moves.are_kept(self.progress);
        self.moves = Moves { until: self.log.next(), durable: open.durable || (self.moves.durable && !kept) };
        self.counters.written_again += 1;
    }
}
