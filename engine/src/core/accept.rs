//! Session role, from a client's message to an open turn: ingest, validate, enrich, route; then the journal.

use std::num::NonZeroU64;
use std::time::Duration;

use shm_transport::envelope::{
    ArchivedMessageV2, Body, BorrowedEnd, DurabilityClass, FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_MENTION,
    FLAG_NO_REPLY, FLAG_REPLY_TO_AGENT, FLAG_WANTS_ACK, FailureCode, FailureV1, Kind, Priority, Route,
    SessionMode,
};

use super::awaiting::Outcome;
use super::replies::Word;
use super::turns::{Listener, Listeners, State, Turn, Urgency};
use super::{Due, Effects, ShardCore};
use crate::classes::{AddressRank, share_for};
use crate::dedup::{Admit, body_check, id_hash};
use crate::event::{AgentIndex, Effect};
use crate::events::{Detail, Event, EventType};
use crate::flight::{FlightIndex, Outcome as FlightOutcome, Stage};
use crate::journal::entry::{Entry, EntryKind, JournalState};
use crate::planted::{self, Bug};
use crate::session::{Begin, SessionIndex, SessionKey};
use crate::time::Moment;
use crate::wheel::TimerId;

/// Bit of the attempt word of an acknowledgement: the message had been accepted before.
pub const ACK_DUPLICATE: u32 = 1 << 8;

/// Why a message never becomes a turn.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: FailureCode,
    pub(super) retry_after: Duration,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(code: FailureCode, text: String) -> Self {
        Self { code, retry_after: Duration::ZERO, text }
    }
}

/// A message on its way through the stages, and who waits for what becomes of it.
#[derive(Clone, Copy)]
pub(super) struct Arriving<'a> {
    pub(super) listener: Listener,
    /// Hash of its session key.
    pub(super) hash: u64,
    pub(super) archive: &'a ArchivedMessageV2,
    /// The same, as it is kept.
    pub(super) body: Body<'a>,
}

/// A message that has passed validation.
#[derive(Clone, Copy)]
struct Fresh {
    id: Option<NonZeroU64>,
    check: u32,
}

/// What enriching has found out about a message.
#[derive(Clone, Copy)]
struct Context {
    session: SessionIndex,
    urgency: Urgency,
}

/// The class and address rank of a message.
pub(super) fn urgency(archive: &ArchivedMessageV2) -> Urgency {
    Urgency { class: Priority::from_number(archive.priority), rank: AddressRank::from_flags(archive.flags) }
}

/// The key of the session a message belongs to.
pub(super) fn session_key(archive: &ArchivedMessageV2) -> SessionKey<'_> {
    SessionKey {
        namespace: &archive.namespace,
        channel: &archive.channel,
        user: &archive.user,
        thread: &archive.thread,
    }
}

/// Fingerprint of everything that makes a message another one.
pub(super) fn fingerprint(archive: &ArchivedMessageV2) -> u32 {
    body_check(&archive.agent, archive.content_kind, &archive.content, &archive.metadata)
}

/// For one who asks again, where no answer is kept that could be repeated. `state`: none if the turn has ended.
fn no_answer_kept(turn: u64, state: Option<State>) -> Refusal {
    match state {
        Some(_) => {
            let text = format!("this message is kept as dead letter {turn:016x}");
            Refusal::new(FailureCode::DeadLettered, text)
        }
        None => {
            let text = "this message has been answered, so long ago that the answer is not kept".into();
            Refusal::new(FailureCode::AlreadyAnswered, text)
        }
    }
}

impl ShardCore {
    /// Takes a message through the stages; a refusal ends it with one failure.
    pub(super) fn accept(&mut self, now: Moment, arriving: Arriving<'_>, effects: &mut Effects<'_>) {
        let Arriving { listener, hash, archive, .. } = arriving;
        let id = (!archive.client_id.is_empty()).then(|| id_hash(&archive.client_id));
        let id_word = id.map_or(0, NonZeroU64::get);
        let flight = self.recorder.begin(now, id_word, hash, 0);
        self.recorder.stamp(flight, Stage::Ingest, now);
        self.ingest(now, hash, archive, effects);
        let admitted = self.validate(arriving, id, effects).and_then(|fresh| {
            let Some(fresh) = fresh else { return Ok(()) };
            self.recorder.stamp(flight, Stage::Validate, now);
            let context = self.enrich(now, hash, archive, effects)?;
            self.recorder.stamp(flight, Stage::Enrich, now);
            let agent = self.route(now, context.session, archive)?;
            self.settle(now, context.session, agent);
            self.recorder.stamp(flight, Stage::Route, now);
            let turn = self.open(now, arriving, flight, (fresh, context, agent), effects);
            if planted::is(Bug::AckBeforeJournal)
                && archive.flags & FLAG_WANTS_ACK != 0
                && let Some(open) = self.turns.get(turn)
            {
                Self::acknowledge(turn, open.durable, false, listener, effects);
            }
            Ok(())
        });
        if let Err(refusal) = admitted {
            self.recorder.end(flight, FlightOutcome::Failed(refusal.code));
            self.refuse(listener, &refusal, effects);
        }
    }

    fn ingest(&mut self, now: Moment, hash: u64, archive: &ArchivedMessageV2, effects: &mut Effects<'_>) {
        self.counters.messages_received += 1;
        if let Some(sequence) = self.subscribed.next(EventType::MessageReceived) {
            let detail = Detail::MessageReceived {
                client_id: &archive.client_id,
                priority: Priority::from_number(archive.priority),
                bytes: archive.content.len(),
            };
            let channel = &archive.channel;
            let event = Event { at: now, sequence, channel, session: hash, turn: 0, agent: None, detail };
            effects(Effect::Event(event));
        }
    }

    /// `None`: the message has been accepted before, and its sender has been told.
    fn validate(
        &mut self,
        Arriving { listener, hash, archive, body }: Arriving<'_>,
        id: Option<NonZeroU64>,
        effects: &mut Effects<'_>,
    ) -> Result<Option<Fresh>, Refusal> {
        if self.journal_state == JournalState::Failed {
            // Also what was sent before: what has become of it cannot be told before the next start.
            let text = "the journal cannot be written, so nothing can be kept".into();
            return Err(self.busy(FailureCode::JournalFailed, text));
        }
        let check = if id.is_some() { fingerprint(archive) } else { 0 };
        if let Some(id) = id {
            match self.ids.admit(hash, id, check) {
                Admit::New => {}
                Admit::Duplicate(known) => {
                    self.sent_again(listener, known.reference, archive, effects);
                    return Ok(None);
                }
                Admit::Conflict(_) => {
                    let id = archive.client_id.as_str();
                    let text = format!("the id \"{id}\" has been used for another message of this session");
                    return Err(Refusal::new(FailureCode::Conflict, text));
                }
            }
        }
        if self.journal_state == JournalState::Full {
            return Err(self.busy(FailureCode::DiskFull, "the disk of the journal is full".into()));
        }
        let open = self.turns.len() - self.dead.len();
        let bytes = self.turns.bytes() + body.bytes().len();
        let class = Priority::from_number(archive.priority);
        if open >= share_for(class, self.limits.turns_max)
            || bytes > share_for(class, self.limits.turn_bytes_max)
        {
            let text = format!("{open} messages of this shard are not answered yet");
            return Err(self.busy(FailureCode::Overloaded, text));
        }
        Ok(Some(Fresh { id, check }))
    }

    fn enrich(
        &mut self,
        now: Moment,
        hash: u64,
        archive: &ArchivedMessageV2,
        effects: &mut Effects<'_>,
    ) -> Result<Context, Refusal> {
        let mode = SessionMode::from_number(archive.mode);
        let Ok((session, created)) = self.sessions.find_or_create(now, hash, &session_key(archive), mode)
        else {
            let text = format!("this shard holds {} sessions already", self.sessions.len());
            return Err(self.busy(FailureCode::Overloaded, text));
        };
        if created {
            self.sessions.set_stream(session, self.fresh_stream);
            self.counters.sessions_created += 1;
            if let Some(sequence) = self.subscribed.next(EventType::SessionCreated) {
                let (user, thread, channel) = (&archive.user, &archive.thread, &archive.channel);
                let detail = Detail::SessionCreated { user, thread, mode };
                let event = Event { at: now, sequence, channel, session: hash, turn: 0, agent: None, detail };
                effects(Effect::Event(event));
            }
        }
        self.sessions.touch(now, session);
        if archive.flags & FLAG_ACTIVATE != 0 {
            self.sessions.set_activated(session, true);
        } else if archive.flags & FLAG_DEACTIVATE != 0 {
            self.sessions.set_activated(session, false);
        }
        let addressed = archive.flags & (FLAG_MENTION | FLAG_REPLY_TO_AGENT) != 0;
        if self.sessions.mode(session) == SessionMode::Group
            && !addressed
            && !self.sessions.activated(session)
        {
            let text = "said in a group, and not to the agent".into();
            return Err(Refusal::new(FailureCode::NotAddressed, text));
        }
        if self.sessions.queue_len(session) >= self.limits.sessions.session_queue_max {
            let text = format!("{} messages of this session wait already", self.sessions.queue_len(session));
            return Err(self.busy(FailureCode::Overloaded, text));
        }
        Ok(Context { session, urgency: urgency(archive) })
    }

    fn open(
        &mut self,
        now: Moment,
        Arriving { listener, hash, archive, body }: Arriving<'_>,
        flight: FlightIndex,
        (fresh, context, agent): (Fresh, Context, AgentIndex),
        effects: &mut Effects<'_>,
    ) -> u64 {
        let named = DurabilityClass::from_number(archive.durability);
        let durability = if named == DurabilityClass::Default { self.limits.durability } else { named };
        let durable = durability == DurabilityClass::Durable;
        let id_word = fresh.id.map_or(0, NonZeroU64::get);
        let wants_reply = archive.flags & FLAG_NO_REPLY == 0;
        let turn = self.turns.insert(Turn {
            state: State::Accepting { begun: false },
            listeners: Listeners::one(listener),
            session: context.session,
            session_hash: hash,
            id: id_word,
            check: fresh.check,
            urgency: context.urgency,
            wants_reply,
            wants_ack: !wants_reply || archive.flags & FLAG_WANTS_ACK != 0,
            durable,
            kept: false,
            attempt: 0,
            failures: 0,
            blocks: 0,
            agent,
            named: !archive.agent.is_empty(),
            sequence: 0,
            order: 0,
            retry: None,
            deadline: None,
            flight,
            seen: now,
            history: Vec::new(),
            body: body.to_stored(),
        });
        self.recorder.set_turn(flight, turn);
        if archive.agent.is_empty() {
            self.keep_routed(turn, hash, agent, effects);
        }
        let entry = Entry {
            kind: EntryKind::Accepted,
            durable,
            turn,
            session: hash,
            word: id_word,
            attempt: 0,
            check: fresh.check,
        };
        let sequence = Self::keep(&mut self.log, &mut self.awaiting, entry, body, Outcome::Accepted, effects);
        if let Some(id) = fresh.id
            && !(planted::is(Bug::IdForgotten) && id.get() % 8 == 0)
        {
            self.ids.insert(self.unix_s(now), hash, id, fresh.check, turn);
        }
        // Room was asked for before, so it is never full.
        let begun = self.sessions.begin_or_wait(context.session, turn, context.urgency.class) == Begin::Now;
        let deadline = self.deadline(now, turn, archive.deadline_ms.to_native());
        if let Some(open) = self.turns.get_mut(turn) {
            open.state = State::Accepting { begun };
            (open.sequence, open.order) = (sequence, sequence);
            open.deadline = deadline;
        }
        self.tell_routed(now, turn, agent, archive, effects);
        turn
    }

    /// For transcripts, which have to say whose the session is that begins with a message: the number of an agent is that of
    /// one run, and its rules may be other ones later.
    fn keep_routed(&mut self, turn: u64, session: u64, agent: AgentIndex, effects: &mut Effects<'_>) {
        let Self { log, awaiting, encoder, definitions, .. } = self;
        let kind = EntryKind::Routed;
        let entry = Entry { kind, durable: false, turn, session, word: 0, attempt: 0, check: 0 };
        let body = encoder.encode(&BorrowedEnd { content: &definitions[agent.0 as usize].name });
        Self::keep(log, awaiting, entry, body, Outcome::Nothing, effects);
    }

    /// The timer of a deadline so many milliseconds from now; 0 for none.
    fn deadline(&mut self, now: Moment, turn: u64, deadline_ms: u32) -> Option<TimerId> {
        let at = now.plus(Duration::from_millis(u64::from(deadline_ms)));
        (deadline_ms != 0).then(|| self.timers.insert(at, Due::Deadline(turn)))
    }

    fn tell_routed(
        &mut self,
        now: Moment,
        turn: u64,
        agent: AgentIndex,
        archive: &ArchivedMessageV2,
        effects: &mut Effects<'_>,
    ) {
        self.counters.messages_accepted += 1;
        if let Some(sequence) = self.subscribed.next(EventType::MessageRouted) {
            let session = self.turns.get(turn).map_or(0, |open| open.session_hash);
            let name = &self.definitions[agent.0 as usize].name;
            let detail = Detail::MessageRouted { agent: name, attempt: 1 };
            let channel = &archive.channel;
            let event = Event { at: now, sequence, channel, session, turn, agent: Some(agent), detail };
            effects(Effect::Event(event));
        }
    }

    /// A message that has been accepted before: its sender joins those who await it, or is told how it ended.
    fn sent_again(
        &mut self,
        listener: Listener,
        turn: u64,
        archive: &ArchivedMessageV2,
        effects: &mut Effects<'_>,
    ) {
        self.counters.messages_repeated += 1;
        let state = self.turns.get(turn).map(|open| open.state);
        let kept = match self.turns.get_mut(turn) {
            Some(open) => {
                // Who asks for a dead letter has its answer.
                if open.state != State::Dead
                    && let Some(oldest) = open.listeners.push(listener)
                {
                    Self::say_left(&mut self.encoder, turn, oldest, effects);
                }
                if open.kept && (archive.flags & FLAG_WANTS_ACK != 0 || !open.wants_reply) {
                    Self::acknowledge(turn, open.durable, true, listener, effects);
                }
                open.kept
            }
            None => true,
        };
        if kept {
            self.show_reply(listener, turn, state, archive.flags & FLAG_NO_REPLY == 0, effects);
        }
    }

    /// Shows what a turn has said so far to one who asks again. `state`: none if it has ended.
    fn show_reply(
        &mut self,
        listener: Listener,
        turn: u64,
        state: Option<State>,
        wants_reply: bool,
        effects: &mut Effects<'_>,
    ) {
        let words = self.replies.get(turn).map_or(&[][..], |reply| &reply.words);
        let ends = |word: &Word| word.body.as_body().kind() != Kind::Block;
        let over = matches!(state, None | Some(State::Dead));
        // Of an end that a log has lost only blocks may be left, which nobody can be given as an answer.
        if over && !words.last().is_some_and(ends) {
            let refusal = no_answer_kept(turn, state);
            return self.refuse(listener, &refusal, effects);
        }
        // A dead letter that was tried again has ended before: that end counts no more.
        let former = words.len() - usize::from(over).min(words.len());
        let from =
            words[..former].iter().rposition(|word| word.kept && ends(word)).map_or(0, |last| last + 1);
        for word in words[from..].iter().filter(|word| word.kept && (wants_reply || ends(word))) {
            Self::show(turn, listener, word, effects);
        }
    }

    /// Tells a client that its message is kept, and how well.
    pub(super) fn acknowledge(
        turn: u64,
        durable: bool,
        duplicate: bool,
        listener: Listener,
        effects: &mut Effects<'_>,
    ) {
        let class = if durable { DurabilityClass::Durable } else { DurabilityClass::Memory };
        let attempt = class as u32 | if duplicate { ACK_DUPLICATE } else { 0 };
        let Listener { edge, origin, sequence } = listener;
        let route = Route { turn, session: 0, origin, sequence, attempt };
        effects(Effect::ToEdge { edge, route, body: Body::ACCEPTED });
    }

    /// A message that never became a turn.
    pub(super) fn refuse(&mut self, listener: Listener, refusal: &Refusal, effects: &mut Effects<'_>) {
        self.counters.messages_refused += 1;
        let Listener { edge, origin, sequence } = listener;
        let route = Route { origin, sequence, ..Route::default() };
        let failure = FailureV1 {
            code: refusal.code as u16,
            retry_after_ms: u32::try_from(refusal.retry_after.as_millis()).unwrap_or(u32::MAX),
            text: refusal.text.clone(),
        };
        let body = self.encoder.encode(&failure);
        effects(Effect::ToEdge { edge, route, body });
    }

    /// A refusal that another try may get past.
    pub(super) fn busy(&self, code: FailureCode, text: String) -> Refusal {
        Refusal { code, retry_after: self.limits.retry_after, text }
    }

    pub(super) fn unix_s(&self, now: Moment) -> u32 {
        u32::try_from(self.unix_ms(now) / 1000).unwrap_or(u32::MAX)
    }
}
