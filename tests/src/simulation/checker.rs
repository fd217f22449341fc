//! The history, and what must be true of it. It knows what clients sent and heard, what agents were given and said,
//! what logs were asked to keep and reported lost; of the gateway itself it knows nothing.
//!
//! # What is checked
//!
//! 1. *Lost*: what was acknowledged, or answered with a word, is known afterwards: asked again it is the same turn, and
//!    no refusal but `already_answered`. That only if somebody may have answered it.
//! 2. *Duplicate effect*: one last word for each (session, id), however often it is asked for. A dead letter is none,
//!    but there is one for each time that it was tried anew.
//! 3. *Phantom*: a frame belongs to a message that was sent there, and its text was said about that message, by the
//!    attempt that it names. A refusal has its reason.
//! 4. *Order*: see [`turns`] for turns. One listener gets places that grow, attempts that never go back, the blocks of an
//!    attempt one after the other, all of them before the end, and nothing after it.
//! 5. *Streams*: a place of a session holds the same word for everybody, for ever; see [`streams`].
//! 6. *Conversations*: a process that has been given a message of one session, where each serves one, is never given one
//!    of another.
//! 7. *Skills*: what a living process asks for is answered once, as long as its gateway lives; see `skills`.
//! 8. *Attempts*: a turn is not given out again after it has failed by itself as often as it may.
//!
//! # What is excused
//!
//! What a log lost that was not promised to survive, or what it reports lost because bits changed, entry by entry: an
//! acceptance that is lost takes the promise with it, an end that is lost the answer, a block its place. Nothing else.

mod answers;
mod skills;
pub mod streams;
pub mod text;
pub mod turns;

use std::collections::{BTreeMap, HashMap};

use shm_transport::envelope::{DurabilityClass, FLAG_NO_REPLY, MessageV2, Priority, SessionMode};

use super::packet::Packet;
use super::people::Session;
use super::swarm::Swarm;
use super::tally::Tally;
use skills::SkillHistory;
use streams::Stream;
use turns::{Hands, Turn};

/// A message is sent there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) message: usize,
    pub(super) origin: u64,
    pub(super) sequence: u32,
}

/// What a frame means to the one who hears it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// There is more to come.
    More,
    /// Another try may go better.
    Refused(&'static str),
    /// That was the answer.
    Ended(&'static str),
}

/// What a client has written.
#[derive(Clone, Debug)]
struct Message {
    identity: usize,
    session: usize,
    agent: String,
    class: Priority,
    durable: bool,
    wants_reply: bool,
    has_deadline: bool,
    cancelled: bool,
    given: bool,
}

/// An acknowledged promise.
#[derive(Clone, Copy, Debug)]
struct Promise {
    turn: u64,
    message: usize,
    /// When its client knew of it.
    known_at: u64,
}

/// Whatever was sent under one id of one session; without an id each message is its own.
#[derive(Clone, Debug, Default)]
struct Identity {
    bodies: Vec<usize>,
    promise: Option<Promise>,
    /// Fingerprint of the one answer.
    answer: Option<u64>,
    /// Places of the dead letters told of.
    deaths: Vec<u64>,
    /// How often somebody tried it anew.
    replays: usize,
    /// Whether an agent has said a last word about it, or a client took it back, or it was dropped.
    may_have_ended: bool,
    /// Whether the log was asked to keep it as a dead letter.
    may_have_died: bool,
    /// Whether so many came since that it could be taken for new, and was: no more than one effect each time.
    forgotten: bool,
    /// How many ids the shard had taken when it took this one for the first time, as far as is known.
    counted_at: u64,
}

/// Whoever waits for the words of a turn: one message of one connection.
#[derive(Clone, Copy, Debug)]
struct Listener {
    message: usize,
    /// When the shard read it; 0 before.
    arrived_at: u64,
    acknowledged: u32,
    ended: bool,
    place: u64,
    attempt: u32,
    next_block: u32,
}

/// The history.
#[derive(Debug)]
pub struct Checker {
    sessions: Vec<SessionHistory>,
    messages: Vec<Message>,
    identities: Vec<Identity>,
    by_id: HashMap<(usize, String), usize>,
    listeners: HashMap<(u64, u32), Listener>,
    turns: HashMap<u64, Turn>,
    /// All turns, in the order in which they were seen.
    turn_names: Vec<u64>,
    hands: Vec<Hands>,
    /// The first of those that serve one session at a time: all behind it do. And which session each of their processes
    /// was given a message of.
    members_from: usize,
    tenants: HashMap<u64, usize>,
    skills: SkillHistory,
    /// Counts events.
    clock: u64,
    /// Ids taken, by shard of the session.
    ids_taken: HashMap<usize, u64>,
    ids_max: u64,
    attempts_max: u32,
    in_flight_bytes_max: usize,
    pool: usize,
    durable_by_default: bool,
    shards: usize,
    excused: u64,
    redone: u64,
    /// What happened in this run, that refusals may speak of.
    pub(super) disk_full_seen: bool,
    pub(super) journal_failure_seen: bool,
}

#[derive(Debug)]
struct SessionHistory {
    hash: u64,
    mode: SessionMode,
    stream: Stream,
    /// Who works on a turn of it.
    at_agent: Option<(u64, u64, u32)>,
    /// Turns in the order of acceptance.
    line: BTreeMap<u64, u64>,
    /// When the turn that was given out last had its last word sent to the log, in this run.
    last_end: Option<u64>,
    last_begun: u64,
}

impl Checker {
    pub(super) fn new(swarm: &Swarm, sessions: &[Session]) -> Self {
        let sessions_history = sessions.iter().map(|session| SessionHistory {
            hash: session.hash,
            mode: session.mode,
            stream: Stream::default(),
            at_agent: None,
            line: BTreeMap::new(),
            last_end: None,
            last_begun: 0,
        });
        Self {
            sessions: sessions_history.collect(),
            messages: Vec::new(),
            identities: Vec::new(),
            by_id: HashMap::new(),
            listeners: HashMap::new(),
            turns: HashMap::new(),
            turn_names: Vec::new(),
            hands: swarm.in_flight_max.iter().map(|&max| Hands::new(max)).collect(),
            members_from: swarm.members().start,
            tenants: HashMap::new(),
            skills: SkillHistory::default(),
            clock: 0,
            ids_taken: HashMap::new(),
            ids_max: u64::from(swarm.limits.dedup.ids_max),
            attempts_max: u32::from(swarm.limits.retry.attempts_max),
            in_flight_bytes_max: swarm.limits.in_flight_bytes_max,
            pool: swarm.pool,
            durable_by_default: swarm.limits.durability == DurabilityClass::Durable,
            shards: swarm.shards,
            excused: 0,
            redone: 0,
            disk_full_seen: false,
            journal_failure_seen: false,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A client has written a message, which is numbered as it is.
    pub(super) fn written(&mut self, number: usize, session: usize, value: &MessageV2) {
        assert_eq!(number, self.messages.len(), "messages are numbered one by one");
        let fresh = self.identities.len();
        let identity = match value.client_id.as_str() {
            "" => fresh,
            id => *self.by_id.entry((session, id.to_owned())).or_insert(fresh),
        };
        if identity == fresh {
            self.identities.push(Identity::default());
        }
        self.identities[identity].bodies.push(number);
        let durable = match DurabilityClass::from_number(value.durability) {
            DurabilityClass::Default => self.durable_by_default,
            class => class == DurabilityClass::Durable,
        };
        self.messages.push(Message {
            identity,
            session,
            agent: value.agent.clone(),
            class: Priority::from_number(value.priority),
            durable,
            wants_reply: value.flags & FLAG_NO_REPLY == 0,
            has_deadline: value.deadline_ms != 0,
            cancelled: false,
            given: false,
        });
    }

    /// It is sent.
    pub(super) fn sent(&mut self, sending: Sending) {
        let Sending { message, origin, sequence } = sending;
        let listener = Listener {
            message,
            arrived_at: 0,
            acknowledged: 0,
            ended: false,
            place: 0,
            attempt: 0,
            next_block: 0,
        };
        let before = self.listeners.insert((origin, sequence), listener);
        assert!(before.is_none(), "a connection numbers its messages");
    }

    /// The shard reads it.
    pub(super) fn arrived(&mut self, packet: &Packet) {
        let now = self.tick();
        if packet.kind() == shm_transport::envelope::Kind::Message
            && let Some(listener) = self.listeners.get_mut(&(packet.route.origin, packet.route.sequence))
        {
            listener.arrived_at = now;
        }
    }

    /// Its client takes a message back; whoever else asked for it under the same id loses it too.
    pub(super) fn cancelled(&mut self, message: usize) {
        let identity = self.messages[message].identity;
        self.identities[identity].may_have_ended = true;
        for &body in &self.identities[identity].bodies {
            self.messages[body].cancelled = true;
        }
    }

    /// Whether an agent has the turn in its hands.
    pub(super) fn holds(&self, agent: usize, turn: u64) -> bool {
        self.hands[agent].has(turn)
    }

    /// A turn of any session.
    pub(super) fn some_turn(&self, random: &mut fastrand::Rng) -> Option<u64> {
        random.choice(self.turn_names.iter().rev().take(64).copied())
    }

    pub(super) fn count(&self, tally: &mut Tally) {
        tally.work("messages", self.messages.len() as u64);
        tally.work("turns", self.turns.len() as u64);
        tally.work("excused", self.excused);
        tally.work("redone", self.redone);
    }
}
