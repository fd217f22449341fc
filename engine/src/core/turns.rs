//! The open turns of a shard: messages that were accepted and have not ended, dead letters among them.
//!
//! | state | the session gave it the word | the journal keeps it | who moves it on |
//! |---|---|---|---|
//! | `Accepting` | perhaps (`begun`) | not yet | the journal |
//! | `Waiting` | no | yes | the end of the turn before it |
//! | `Unclaimed` | yes | yes | an agent that outlived the last gateway and has it, or the last one that has it not |
//! | `Preparing` | yes | its next attempt not yet | the journal |
//! | `Working` | yes | yes | its agent |
//! | `Spoiled` | yes | yes | its agent, by ending an attempt that is of no use |
//! | `BackingOff` | yes | yes | a timer |
//! | `Ending` | yes, or taken out of the queue | its end not yet | the journal |
//! | `Dead` | no | yes | whoever replays or drops the dead letter |
//!
//! A turn has one id for all its attempts, and keeps its place until its end is in the journal.

use std::collections::BTreeMap;

use shm_transport::envelope::{FailureCode, Priority, StoredBody};

use crate::classes::AddressRank;
use crate::dead_letters::FailedAttempt;
use crate::event::{AgentIndex, EdgeIndex, ShardIndex};
use crate::flight::FlightIndex;
use crate::session::SessionIndex;
use crate::time::Moment;
use crate::wheel::TimerId;

/// Bits of a turn id that name the place in the table.
const SLOT_BITS: u32 = 32;
/// Bits that count how often the place has been used.
const GENERATION_BITS: u32 = 24;
/// Of those, the bits that differ between runs of the gateway, so that an agent of an earlier run names no turn of this one.
const RUN_BITS: u32 = 10;
/// Listeners of one turn: the first sender, and those that sent it again.
pub const LISTENERS_MAX: usize = 16;

const _: () = assert!(SLOT_BITS + GENERATION_BITS + u8::BITS == u64::BITS, "a turn id is one word");

/// The shard that made a turn id.
#[inline]
pub fn owner(turn: u64) -> ShardIndex {
    ShardIndex((turn >> (SLOT_BITS + GENERATION_BITS)) as u8)
}

/// A client's message that awaits what a turn has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The edge thread.
    pub edge: EdgeIndex,
    /// The connection, as the edge numbers it.
    pub origin: u64,
    /// Which message of the connection.
    pub sequence: u32,
}

/// Who awaits a turn. The first sender takes no memory of its own; those that sent it again are rare.
#[derive(Clone, Default, Debug)]
pub struct Listeners {
    first: Option<Listener>,
    again: Vec<Listener>,
}

impl Listeners {
    /// Only this one.
    pub fn one(listener: Listener) -> Self {
        Self { first: Some(listener), again: Vec::new() }
    }

    /// Adds one, in place of the oldest that sent the message again if there are [`LISTENERS_MAX`] already: only a
    /// client that asks again and again gets there. Gives the one that had to go.
    pub fn push(&mut self, listener: Listener) -> Option<Listener> {
        if self.first.is_none() {
            self.first = Some(listener);
            return None;
        }
        let oldest = (1 + self.again.len() >= LISTENERS_MAX).then(|| self.again.remove(0));
        self.again.push(listener);
        oldest
    }

    /// Whether a connection is among them, under whatever number.
    pub fn has(&self, edge: EdgeIndex, origin: u64) -> bool {
        self.iter().any(|each| each.edge == edge && each.origin == origin)
    }

    /// All of them, the first sender first.
    pub fn iter(&self) -> impl Iterator<Item = Listener> + '_ {
        self.first.iter().chain(&self.again).copied()
    }
}

/// Where a turn stands; see the table of the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its acceptance is on its way to the journal.
    Accepting {
        /// Whether its session waits for nothing else.
        begun: bool,
    },
    /// The turns before it have not ended.
    Waiting,
    /// An agent of the last run may be at it, or at another turn of its session.
    Unclaimed,
    /// Another attempt is on its way to the journal.
    Preparing,
    /// It is with its agent, or waits for it.
    Working,
    /// Words of the attempt are missing, and its agent is still at it.
    Spoiled,
    /// It is tried again later.
    BackingOff {
        /// Whether the last attempt may have been made, so that the next one is another.
        tried: bool,
    },
    /// Its last word is on its way to the journal.
    Ending,
    /// It is a dead letter.
    Dead,
}

/// What the session role knows of an open turn.
#[derive(Debug)]
pub struct Turn {
    /// Where it stands.
    pub state: State,
    /// Who awaits the reply; empty for one that was found in the journal, or replayed.
    pub listeners: Listeners,
    /// Its session.
    pub session: SessionIndex,
    /// Hash of the session key.
    pub session_hash: u64,
    /// Hash of the client's id, 0 without one.
    pub id: u64,
    /// Fingerprint of the body.
    pub check: u32,
    /// Class and address rank, for queues.
    pub urgency: Urgency,
    /// Whether the client wants the reply.
    pub wants_reply: bool,
    /// Whether the client wants to be told of the acceptance.
    pub wants_ack: bool,
    /// Whether acceptance and end wait for the disk.
    pub durable: bool,
    /// Whether the journal has its acceptance. A turn may have ended before.
    pub kept: bool,
    /// How often it has been given out, the current time included; 0 before the first.
    pub attempt: u16,
    /// How many of those failed by themselves.
    pub failures: u16,
    /// Blocks of the present attempt that were sent to the journal.
    pub blocks: u32,
    /// Who works on it.
    pub agent: AgentIndex,
    /// Whether the message itself named an agent or pool.
    pub named: bool,
    /// Where the log has it.
    pub sequence: u64,
    /// Where the log had it first: the order of acceptance.
    pub order: u64,
    /// The timer of its back-off.
    pub retry: Option<TimerId>,
    /// The timer of its deadline.
    pub deadline: Option<TimerId>,
    /// Its place in the flight recorder.
    pub flight: FlightIndex,
    /// When the shard first saw it; in this run.
    pub seen: Moment,
    /// What became of earlier attempts.
    pub history: Vec<FailedAttempt>,
    /// The message.
    pub body: StoredBody,
}

impl Turn {
    /// Why its last attempt failed.
    pub fn cause(&self) -> FailureCode {
        self.history.last().map_or(FailureCode::DeadLettered, |last| last.code)
    }
}

/// How urgent a message is among those that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Urgency {
    /// Its class.
    pub class: Priority,
    /// How it addresses the agent.
    pub rank: AddressRank,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    turn: Option<Turn>,
}

/// The table. Ids are never reused within 2^14 uses of a place, nor by the next 1,023 runs.
#[derive(Debug)]
pub struct Turns {
    shard: ShardIndex,
    first_generation: u32,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Turns of earlier runs whose place another turn of an earlier run has: both were open there if the log has lost
    /// the end of one. By name.
    displaced: BTreeMap<u64, Turn>,
    bytes: usize,
}

impl Turns {
    /// An empty table of the run with that number.
    pub fn new(shard: ShardIndex, run: u32) -> Self {
        let first_generation = (run & ((1 << RUN_BITS) - 1)) << (GENERATION_BITS - RUN_BITS);
        Self {
            shard,
            first_generation,
            places: Vec::new(),
            free: Vec::new(),
            displaced: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// How many are open, dead letters included.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len() + self.displaced.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of their messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a turn and names it.
    pub fn insert(&mut self, turn: Turn) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: self.first_generation, turn: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[slot as usize];
        debug_assert!(place.turn.is_none());
        // Zero is no turn: the generation of a used place is never zero for slot 0 of shard 0.
        place.generation = (place.generation + 1) & ((1 << GENERATION_BITS) - 1);
        if place.generation == 0 {
            place.generation = 1;
        }
        self.bytes += turn.body.bytes_len();
        place.turn = Some(turn);
        let generation = place.generation;
        self.id(slot, generation)
    }

    /// Puts a turn of an earlier run back where it was. `Err` gives it back if another shard has named it.
    pub fn restore(&mut self, id: u64, places_max: usize, turn: Turn) -> Result<(), Box<Turn>> {
        let slot = (id & u64::from(u32::MAX)) as usize;
        if owner(id) != self.shard {
            return Err(Box::new(turn));
        }
        self.bytes += turn.body.bytes_len();
        while self.places.len() <= slot && slot < places_max {
            self.free.push(self.places.len() as u32);
            self.places.push(Place { generation: self.first_generation, turn: None });
        }
        // Found from the end: turns of a log are restored in about the order of their places.
        let free = self.free.iter().rposition(|&free| free as usize == slot);
        let Some(free) = free else {
            self.displaced.insert(id, turn);
            return Ok(());
        };
        self.free.swap_remove(free);
        let generation = (id >> SLOT_BITS) as u32 & ((1 << GENERATION_BITS) - 1);
        self.places[slot] = Place { generation, turn: Some(turn) };
        Ok(())
    }

    fn id(&self, slot: u32, generation: u32) -> u64 {
        u64::from(self.shard.0) << (SLOT_BITS + GENERATION_BITS)
            | u64::from(generation) << SLOT_BITS
            | u64::from(slot)
    }

    fn slot(&self, id: u64) -> Option<usize> {
        let slot = (id & u64::from(u32::MAX)) as usize;
        let place = self.places.get(slot)?;
        (self.id(slot as u32, place.generation) == id).then_some(slot)
    }

    /// The open turn of that name.
    #[inline]
    pub fn get(&self, id: u64) -> Option<&Turn> {
        match self.slot(id) {
            Some(slot) => self.places[slot].turn.as_ref(),
            None => self.displaced.get(&id),
        }
    }

    /// The open turn of that name, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Turn> {
        match self.slot(id) {
            Some(slot) => self.places[slot].turn.as_mut(),
            None => self.displaced.get_mut(&id),
        }
    }

    /// Ends a turn.
    pub fn remove(&mut self, id: u64) -> Option<Turn> {
        let turn = match self.slot(id) {
            Some(slot) => {
                let place = &mut self.places[slot];
                let turn = place.turn.take()?;
                // A turn of an earlier run leaves its place to turns of this one.
                if place.generation < self.first_generation {
                    place.generation = self.first_generation;
                }
                self.free.push(slot as u32);
                turn
            }
            None => self.displaced.remove(&id)?,
        };
        self.bytes -= turn.body.bytes_len();
        Some(turn)
    }

    /// All open turns with their names, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Turn)> {
        let placed = self.places.iter().zip(0u32..).filter_map(|(place, slot)| {
            place.turn.as_ref().map(|turn| (self.id(slot, place.generation), turn))
        });
        placed.chain(self.displaced.iter().map(|(&id, turn)| (id, turn)))
    }
}
