//! From the journal back to open turns, dead letters, replies and ids.

use std::num::NonZeroU64;
use std::time::Duration;

use hashbrown::HashMap;
use shm_transport::envelope::{
    ArchivedMessageV2, Body, FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_NO_REPLY, FailureCode, Message, Opened,
    Route, SessionMode,
};

use super::accept::{session_key, urgency};
use super::awaiting::Outcome;
use super::choose::Heed;
use super::dead::NO_PLACE;
use super::replies::Word;
use super::respond::take_asked;
use super::turns::{Listeners, State, Turn};
use super::{Due, Effects, ShardCore};
use crate::dead_letters::FailedAttempt;
use crate::dedup::NO_REFERENCE;
use crate::event::{AgentIndex, Recovered};
use crate::hash::WordHash;
use crate::journal::entry::{Entry, EntryKind, IdEntry};
use crate::session::{Begin, SessionRecord, StoredKey, StreamPosition};
use crate::time::Moment;

/// Ids that the window is told of at once.
const LOADED_AT_ONCE: usize = 256;

/// What is known while the journal is read.
#[derive(Debug, Default)]
pub(super) struct Recovering {
    /// Turns that could not keep their id, because another number of shards made it.
    renamed: HashMap<u64, u64, WordHash>,
    /// Ids of answered messages, if the log is replaced by another one.
    ids: Vec<IdEntry>,
    /// Ids of answered messages that the window is told of as a group.
    to_load: Vec<(IdEntry, u64)>,
    /// The turns of one session that were written again at the very end of what was found: more were to follow, if
    /// more are open.
    together: Vec<u64>,
    /// Where the stream of each session goes on, by its hash.
    streams: HashMap<u64, StreamPosition, WordHash>,
    /// Whether the log is replaced by another one.
    replaced: bool,
}

impl ShardCore {
    pub(super) fn recovered(&mut self, now: Moment, found: Recovered<'_>) {
        match found {
            Recovered::Replaced => self.recovering.replaced = true,
            Recovered::Id(id) => self.known(now, id),
            Recovered::NextSequence(sequence) => {
                self.load_ids(now);
                self.log.resume_at(sequence);
                // What was found has survived the death of a process.
                self.progress.written = sequence;
            }
            Recovered::Settled { sequence, at_ms, entry, body_bytes } => {
                self.counters.recovered += 1;
                self.recovering.together.clear();
                self.recovered_settled(now, at_ms, entry);
                if !self.recovering.replaced {
                    self.log.pass(sequence, body_bytes);
                }
            }
            Recovered::Record { sequence, at_ms, entry, message } => {
                self.counters.recovered += 1;
                let turn = self.recovering.renamed.get(&entry.turn).copied().unwrap_or(entry.turn);
                self.note_together(entry.kind, turn, entry.session);
                let turn = match entry.kind {
                    EntryKind::Accepted | EntryKind::Moved => {
                        self.recovered_message(now, at_ms, entry, turn, &message, sequence)
                    }
                    EntryKind::Known => {
                        self.known(now, id_of(&entry, at_ms));
                        turn
                    }
                    _ => {
                        self.recovered_step(now, at_ms, Entry { turn, ..entry }, &message);
                        turn
                    }
                };
                if !self.recovering.replaced {
                    self.log.count(sequence, entry.kind, turn, message.body().bytes().len());
                }
            }
        }
    }

    /// A turn that is written again is followed by what belongs to it, and then by the next one of its session.
    fn note_together(&mut self, kind: EntryKind, turn: u64, session: u64) {
        let Self { recovering, turns, .. } = self;
        let together = &mut recovering.together;
        match (kind, together.last()) {
            (EntryKind::Moved, Some(&last))
                if turns.get(last).is_some_and(|last| last.session_hash == session) =>
            {
                together.push(turn);
            }
            (EntryKind::Moved, _) => *together = vec![turn],
            (EntryKind::Attempt | EntryKind::Block, Some(&last)) if last == turn => {}
            _ => together.clear(),
        }
    }

    /// The id of a message that has been answered.
    fn known(&mut self, now: Moment, id: IdEntry) {
        if self.recovering.replaced {
            self.recovering.ids.push(id);
        }
        self.recovering.to_load.push((id, NO_REFERENCE));
        if self.recovering.to_load.len() >= LOADED_AT_ONCE {
            self.load_ids(now);
        }
    }

    /// Tells the window of the ids that wait; before it is told of any other.
    fn load_ids(&mut self, now: Moment) {
        self.ids.load(self.unix_s(now), &self.recovering.to_load);
        self.recovering.to_load.clear();
    }

    /// A record of a turn that has ended, and whose reply is not kept any more.
    fn recovered_settled(&mut self, now: Moment, at_ms: u64, entry: Entry) {
        match entry.kind {
            EntryKind::Accepted if entry.word != 0 => self.known(now, id_of(&entry, at_ms)),
            EntryKind::Block | EntryKind::Done => self.note_place(&entry),
            _ => {}
        }
    }

    /// The stream of a session goes on behind this word.
    fn note_place(&mut self, entry: &Entry) {
        let position = StreamPosition::from_word(entry.word);
        if position != NO_PLACE {
            let next = self.recovering.streams.entry(entry.session).or_default();
            *next = position.next().max(*next);
        }
    }

    fn recovered_message(
        &mut self,
        now: Moment,
        at_ms: u64,
        entry: Entry,
        known_as: u64,
        message: &Message<'_>,
        sequence: u64,
    ) -> u64 {
        let Opened::Message(archive) = message.open() else {
            self.counters.invalid_internal += 1;
            return entry.turn;
        };
        if let Some(open) = self.turns.get_mut(known_as) {
            // Written again.
            open.sequence = sequence;
            open.attempt = open.attempt.max(entry.attempt);
            return known_as;
        }
        let turn = self.restored(now, entry, archive, message, sequence);
        let left = deadline_left(archive, at_ms, self.unix_ms(now));
        if let Some(left) = left
            && let Some(open) = self.turns.get_mut(turn)
        {
            open.deadline = Some(self.timers.insert(now.plus(left), Due::Deadline(turn)));
        }
        if entry.word != 0 {
            self.load_ids(now);
            self.ids.load(self.unix_s(now), &[(id_of(&entry, at_ms), turn)]);
            if let Some(known) = NonZeroU64::new(entry.word) {
                // Its first place may have been given up, and its id be known from there.
                self.ids.set_reference(entry.session, known, turn);
            }
        }
        turn
    }

    fn restored(
        &mut self,
        now: Moment,
        entry: Entry,
        archive: &ArchivedMessageV2,
        message: &Message<'_>,
        sequence: u64,
    ) -> u64 {
        let mode = SessionMode::from_number(archive.mode);
        // More sessions than allowed now, if need be: what has been accepted is not refused afterwards.
        let key = StoredKey::new(&session_key(archive));
        let record =
            SessionRecord { stream: self.fresh_stream, ..SessionRecord::new(entry.session, key, mode) };
        let session = self.sessions.restore_regardless(now, record);
        if archive.flags & FLAG_ACTIVATE != 0 {
            self.sessions.set_activated(session, true);
        } else if archive.flags & FLAG_DEACTIVATE != 0 {
            self.sessions.set_activated(session, false);
        }
        let wants_reply = archive.flags & FLAG_NO_REPLY == 0;
        let turn = Turn {
            state: State::Waiting,
            listeners: Listeners::default(),
            session,
            session_hash: entry.session,
            id: entry.word,
            check: entry.check,
            urgency: urgency(archive),
            wants_reply,
            wants_ack: false,
            durable: entry.durable,
            kept: true,
            // It may have been given out once without a trace.
            attempt: entry.attempt.max(1),
            failures: 0,
            blocks: 0,
            agent: AgentIndex::NONE,
            named: !archive.agent.is_empty(),
            sequence,
            order: sequence,
            retry: None,
            deadline: None,
            flight: self.recorder.begin(now, entry.word, entry.session, entry.turn),
            seen: now,
            history: Vec::new(),
            body: message.body().to_stored(),
        };
        match self.turns.restore(entry.turn, self.limits.turns_max * 2, turn) {
            Ok(()) => entry.turn,
            Err(turn) => {
                let renamed = self.turns.insert(*turn);
                self.recovering.renamed.insert(entry.turn, renamed);
                renamed
            }
        }
    }

    fn recovered_step(&mut self, now: Moment, at_ms: u64, entry: Entry, message: &Message<'_>) {
        let turn = entry.turn;
        let position = StreamPosition::from_word(entry.word);
        if matches!(entry.kind, EntryKind::Block | EntryKind::Done | EntryKind::Dead) {
            // Also of words whose message has been given up: the stream goes on behind them.
            self.note_place(&entry);
        }
        let Some(open) = self.turns.get_mut(turn) else {
            // Its message has been given up already: only the last words of a reply are left of it.
            return;
        };
        match entry.kind {
            EntryKind::Attempt => {
                open.attempt = entry.attempt;
                open.failures = u16::try_from(entry.check).unwrap_or(u16::MAX);
                if open.state == State::Dead {
                    open.state = State::Waiting;
                    self.dead.remove(turn);
                    self.replies.forget(turn);
                }
            }
            EntryKind::Block | EntryKind::Done | EntryKind::Dead => {
                open.attempt = open.attempt.max(entry.attempt);
                let last = self.replies.get(turn).and_then(|reply| reply.words.last());
                // What was written again is found twice, as long as its first place is not given up.
                let known = position == NO_PLACE || last.is_some_and(|last| last.position >= position);
                if !known {
                    let body = message.body().to_stored();
                    let word = Word { position, attempt: entry.attempt, kept: true, body };
                    self.replies.push(turn, entry.session, word, |asked| take_asked(asked, open));
                }
                if entry.kind == EntryKind::Done {
                    self.forget_recovered(turn);
                } else if entry.kind == EntryKind::Dead {
                    let cause = u16::try_from(entry.check).ok().and_then(FailureCode::from_number);
                    self.recovered_dead(now, turn, at_ms, cause, message);
                }
            }
            EntryKind::Dropped => self.forget_recovered(turn),
            EntryKind::Accepted
            | EntryKind::Moved
            | EntryKind::Known
            | EntryKind::Trim
            | EntryKind::Routed => {}
        }
    }

    fn forget_recovered(&mut self, turn: u64) {
        // Also one that was to be tried again, and ended before it was.
        self.dead.remove(turn);
        self.replies.end(turn);
        let Some(open) = self.turns.remove(turn) else { return };
        if let Some(timer) = open.deadline {
            self.timers.cancel(timer);
        }
        if self.recovering.replaced && open.id != 0 {
            let id = IdEntry { session: open.session_hash, id: open.id, check: open.check, at_s: 0 };
            self.recovering.ids.push(id);
        }
    }

    fn recovered_dead(
        &mut self,
        now: Moment,
        turn: u64,
        at_ms: u64,
        cause: Option<FailureCode>,
        message: &Message<'_>,
    ) {
        let Some(open) = self.turns.get(turn) else { return };
        // Numbers of agents are those of one run: whom it would be for today.
        let agent = match open.body.as_message(Route::default()).open() {
            Opened::Message(archive) => self.candidate(now, open.session, archive, Heed::Nothing).ok(),
            _ => None,
        };
        let Some(open) = self.turns.get_mut(turn) else { return };
        open.agent = agent.unwrap_or(AgentIndex::NONE);
        open.state = State::Dead;
        if let Some(timer) = open.deadline.take() {
            self.timers.cancel(timer);
        }
        if let Opened::Failure(failure) = message.open() {
            open.history = vec![FailedAttempt {
                attempt: open.attempt,
                at_ms,
                code: cause.unwrap_or(FailureCode::DeadLettered),
                text: failure.text.as_str().to_owned(),
            }];
        }
        self.replies.end(turn);
        self.bury(turn, at_ms);
    }

    /// All has been read: what is open goes to its agents again, in the order of acceptance.
    pub(super) fn recovery_ends(&mut self, now: Moment, effects: &mut Effects<'_>) {
        self.load_ids(now);
        let Recovering { replaced, ids, together, streams, .. } = std::mem::take(&mut self.recovering);
        for (session, next) in streams {
            self.sessions.set_place(session, next);
        }
        for IdEntry { session, id, check, .. } in ids {
            let entry = Entry {
                kind: EntryKind::Known,
                durable: false,
                turn: 0,
                session,
                word: id,
                attempt: 0,
                check,
            };
            let Self { log, awaiting, .. } = self;
            Self::keep(log, awaiting, entry, Body::ACCEPTED, Outcome::Nothing, effects);
        }
        if !replaced {
            self.write_others_again(&together, effects);
        }
        let mut open: Vec<(u64, u64)> = self.turns.iter().map(|(turn, open)| (open.sequence, turn)).collect();
        open.sort_unstable();
        for &(_, turn) in &open {
            if replaced {
                // Whoever reads the new log begins it; here that would only count as an attempt.
                self.write_again(turn, effects);
                continue;
            }
            let Some(open) = self.turns.get(turn) else { continue };
            if open.state == State::Dead {
                continue;
            }
            let (session, class) = (open.session, open.urgency.class);
            // More in a queue than allowed now, if need be: what has been accepted is not refused afterwards.
            if self.sessions.begin_or_wait_regardless(session, turn, class) == Begin::Now {
                self.ready.push_back(turn);
            }
        }
    }
}

impl ShardCore {
    /// The log ends while the turns of a session were written again: of the last one some may be missing, and the others
    /// still have their old places, before those that were there before them.
    fn write_others_again(&mut self, together: &[u64], effects: &mut Effects<'_>) {
        let Some(&last) = together.last() else { return };
        let Some(open) = self.turns.get(last) else { return };
        let hash = open.session_hash;
        let alone = open.state == State::Dead;
        self.write_again(last, effects);
        if alone {
            return;
        }
        let is_other = |(turn, open): &(u64, &Turn)| {
            open.session_hash == hash && open.state != State::Dead && !together.contains(turn)
        };
        let others = self.turns.iter().filter(is_other).map(|(turn, open)| (open.sequence, turn));
        let mut others: Vec<(u64, u64)> = others.collect();
        others.sort_unstable();
        for (_, turn) in others {
            self.write_again(turn, effects);
        }
    }
}

/// The id that a message was accepted under, as it is remembered.
fn id_of(entry: &Entry, at_ms: u64) -> IdEntry {
    let at_s = u32::try_from(at_ms / 1000).unwrap_or(u32::MAX);
    IdEntry { session: entry.session, id: entry.word, check: entry.check, at_s }
}

/// How long until nobody wants the reply any more, if that ever comes.
fn deadline_left(archive: &ArchivedMessageV2, at_ms: u64, now_ms: u64) -> Option<Duration> {
    let deadline_ms = archive.deadline_ms.to_native();
    (deadline_ms != 0).then(|| Duration::from_millis((at_ms + u64::from(deadline_ms)).saturating_sub(now_ms)))
}
