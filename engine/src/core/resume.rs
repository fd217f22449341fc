//! A client has come back and wants what its session has said since: what is kept in pages, what is not as gaps, and
//! from the last page on what is said.
//!
//! | the client asks | it gets |
//! |---|---|
//! | behind `after`, nothing sent yet | words, each turn introduced before its first, and gaps where they lie; then `More` or `Live` |
//! | again, with what `More` said | the next page |
//!
//! # Why nothing is missing and nothing comes twice
//!
//! A page holds words that the journal has, in the order of their places. It ends before the first word that the
//! journal does not have yet, or because it is full. In the second case the next page begins behind it, and nothing was
//! promised meanwhile. In the first case the client joins those who listen to the open turns of the session, in the same
//! call: all words up to here have been sent, all others are shown to listeners when the journal has them, and both
//! take the same ring. So the shard needs to remember nothing of a client between two pages, and a client that asks for
//! none costs nothing.
//!
//! Words of a turn that were said before `after` are sent too if there is more of that turn: the place says that they are
//! not new.

use shm_transport::envelope::{
    ArchivedResumeV1, Encoder, ResumeStep, ResumedV1, Route, TURN_BEGUN, TURN_OPEN, TURN_OVER,
};

use super::replies::{Asked, Page};
use super::respond::asked_of;
use super::turns::{Listener, State};
use super::{Effects, ShardCore};
use crate::event::Effect;
use crate::session::StreamPosition;

/// Words in one page.
pub const PAGE_WORDS_MAX: usize = 256;
/// Bytes of words in one page, but for a single one that is larger.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Where a page stands.
struct Reading {
    listener: Listener,
    session: u64,
    after: StreamPosition,
    /// The place behind `after` up to which the client knows everything, sent words and gaps.
    known: StreamPosition,
    /// Turns that this page has introduced.
    introduced: Vec<u64>,
}

impl ShardCore {
    /// A client wants what it missed.
    pub(super) fn resume(
        &mut self,
        listener: Listener,
        session: u64,
        asked: &ArchivedResumeV1,
        effects: &mut Effects<'_>,
    ) {
        let after = StreamPosition::from_word(asked.after.to_native());
        let sent = match asked.sent.to_native() {
            0 => None,
            word => Some(StreamPosition::from_word(word)),
        };
        let next = self.sessions.next_place(session);
        if next.is_none() && !self.replies.has_any(session) {
            return self.tell_resumed(listener, Route::default(), &step(ResumeStep::Unknown, 0), effects);
        }
        let open: Vec<u64> = self.sessions.open_turns(session).collect();
        let limits = (PAGE_WORDS_MAX, PAGE_BYTES_MAX);
        let Page { words, more } = self.replies.page(session, (after, sent), &open, limits);
        let known = sent.map_or(after, |sent| sent.max(after));
        let mut reading = Reading { listener, session, after, known, introduced: Vec::new() };
        let mut last = sent.unwrap_or_default();
        for (position, turn) in words {
            if !self.show_missed(&mut reading, turn, position, effects) {
                // It is shown to all who listen when the journal has it.
                return self.go_live(&reading, &open, asked.follow != 0, effects);
            }
            last = position;
        }
        if more {
            return self.tell_resumed(
                listener,
                Route::default(),
                &step(ResumeStep::More, last.word()),
                effects,
            );
        }
        // A session that has been forgotten has said all that it will say in its stream.
        let end = next.or_else(|| self.replies.newest(session, None).map(StreamPosition::next));
        if let Some(end) = end {
            self.note_gap(&mut reading, end, effects);
        }
        self.go_live(&reading, &open, asked.follow != 0, effects);
    }

    /// Shows a word to one who missed it. `false`: the journal does not have it.
    fn show_missed(
        &mut self,
        reading: &mut Reading,
        turn: u64,
        position: StreamPosition,
        effects: &mut Effects<'_>,
    ) -> bool {
        if !self.replies.word(turn, position).is_some_and(|word| word.kept) {
            return false;
        }
        if position > reading.after {
            self.note_gap(reading, position, effects);
            reading.known = position;
        }
        if !reading.introduced.contains(&turn) {
            reading.introduced.push(turn);
            let asked = self.replies.get(turn).map(|reply| reply.asked.clone()).unwrap_or_default();
            let is_open = self.turns.get(turn).is_some_and(|open| open.state != State::Dead);
            let place = if is_open { TURN_OPEN } else { TURN_OVER };
            self.introduce(reading.listener, turn, (&asked, place), effects);
        }
        if let Some(word) = self.replies.word(turn, position) {
            Self::show(turn, reading.listener, word, effects);
        }
        true
    }

    /// Tells of what is not kept before a place, if there was anything.
    fn note_gap(&mut self, reading: &mut Reading, until: StreamPosition, effects: &mut Effects<'_>) {
        // Who has seen nothing misses nothing that it knows of.
        let from_the_start = reading.known == StreamPosition::default();
        if reading.known.next() == until || from_the_start || self.ends_its_epoch(reading, until) {
            return;
        }
        let route = Route { session: reading.known.word(), ..Route::default() };
        self.tell_resumed(reading.listener, route, &step(ResumeStep::Gap, until.word()), effects);
    }

    /// Whether nothing can be missing before a place because it is of another epoch, and the last word of the epoch
    /// before is known to be the last: it is kept, and replies are given up in the order in which they ended.
    fn ends_its_epoch(&self, reading: &Reading, until: StreamPosition) -> bool {
        let Reading { session, known, .. } = *reading;
        until.epoch > known.epoch && self.replies.newest(session, Some(known.epoch)) == Some(known)
    }

    /// All that is kept has been sent: from now on the client is shown what the open turns say.
    fn go_live(&mut self, reading: &Reading, open: &[u64], follow: bool, effects: &mut Effects<'_>) {
        let Reading { listener, session, known, ref introduced, .. } = *reading;
        for &turn in open {
            let Some(found) = self.turns.get_mut(turn) else { continue };
            // What it waits for on the same connection anyway, it gets there.
            if !follow || found.listeners.has(listener.edge, listener.origin) {
                continue;
            }
            let oldest = found.listeners.push(listener);
            // What the journal does not have yet may still be lost with the gateway.
            let (asked, is_kept) = (asked_of(found), found.kept);
            if let Some(oldest) = oldest {
                Self::say_left(&mut self.encoder, turn, oldest, effects);
            }
            if !introduced.contains(&turn) {
                let place = if is_kept { TURN_OPEN } else { TURN_BEGUN };
                self.introduce(listener, turn, (&asked, place), effects);
            }
        }
        // Of a client that has seen nothing of a session that has said nothing.
        let place = match self.sessions.next_place(session) {
            Some(next) if known == StreamPosition::default() && next.offset > 0 => {
                StreamPosition { offset: next.offset - 1, ..next }
            }
            _ => known,
        };
        self.tell_resumed(listener, Route::default(), &step(ResumeStep::Live, place.word()), effects);
    }

    /// Says whose words follow.
    fn introduce(
        &mut self,
        listener: Listener,
        turn: u64,
        (asked, place): (&Asked, u64),
        effects: &mut Effects<'_>,
    ) {
        let said = ResumedV1 {
            wants_reply: u8::from(asked.wants_reply),
            agent: asked.agent.clone(),
            client_id: asked.client_id.clone(),
            ..step(ResumeStep::Turn, place)
        };
        self.tell_resumed(listener, Route { turn, ..Route::default() }, &said, effects);
    }

    fn tell_resumed(
        &mut self,
        listener: Listener,
        route: Route,
        said: &ResumedV1,
        effects: &mut Effects<'_>,
    ) {
        let Listener { edge, origin, sequence } = listener;
        let route = Route { origin, sequence, ..route };
        effects(Effect::ToEdge { edge, route, body: self.encoder.encode(said) });
    }

    /// One who listened to a turn does not any more: too many have asked for it since.
    pub(super) fn say_left(encoder: &mut Encoder, turn: u64, oldest: Listener, effects: &mut Effects<'_>) {
        let Listener { edge, origin, sequence } = oldest;
        let route = Route { turn, origin, sequence, ..Route::default() };
        let body = encoder.encode(&step(ResumeStep::Left, 0));
        effects(Effect::ToEdge { edge, route, body });
    }
}

fn step(step: ResumeStep, place: u64) -> ResumedV1 {
    ResumedV1 { step: step as u8, place, ..ResumedV1::default() }
}
