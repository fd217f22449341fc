//! What happened to each of the last messages, stage by stage: a flight recorder that is always on.
//!
//! # Layout
//!
//! A ring of [`FLIGHTS_DEFAULT`] entries of 88 bytes, allocated chunk by chunk in its first round and never again.
//! A [`FlightIndex`] counts flights: its low bits are the place in the ring, and the whole of it is kept in the
//! entry, so that a stamp for a flight whose place has been taken by a later one is dropped.
//!
//! An offset is a word: up to 2^31 ns, 2.1 s, to the nanosecond; above to 4,096 ns, and saturating at 2.4 hours.

#[cfg(test)]
mod tests;

use std::num::NonZeroU64;
use std::time::Duration;

use shm_transport::envelope::FailureCode;

use crate::event::AgentIndex;
use crate::named::named;
use crate::time::Moment;

/// Flights in the ring of a shard by default.
pub const FLIGHTS_DEFAULT: usize = 1 << 16;
/// The most a ring may be told to hold.
pub const FLIGHTS_LIMIT: usize = 1 << 24;

const CHUNK_FLIGHTS: usize = 1024;
/// An offset that was not stamped.
const ABSENT: u32 = u32::MAX;
/// Set in offsets that count [`COARSE_SHIFT`] bits less.
const COARSE: u32 = 1 << 31;
const COARSE_SHIFT: u32 = 12;
const COARSE_MAX: u64 = (COARSE - 2) as u64;
const NO_AGENT: u32 = u32::MAX;

const _: () = assert!(size_of::<Flight>() <= 96, "a ring of 65,536 stays below 6 MiB");
const _: () =
    assert!(COARSE | COARSE_MAX as u32 != ABSENT && (COARSE - 1) != ABSENT, "no offset looks absent");
const _: () = assert!(FLIGHTS_LIMIT <= 1 << 31, "a place comes round long before its number does");

const STAGES: usize = Stage::ALL.len();

named! {
    /// A point that a message passes, in the usual order.
    #[derive(PartialOrd, Ord)]
    #[repr(u8)]
    pub enum Stage {
        /// The shard has it.
        Ingest = 0 "ingest",
        /// Its archive and limits are in order.
        Validate = 1 "validate",
        /// Its session is found.
        Enrich = 2 "enrich",
        /// Its agent is decided.
        Route = 3 "route",
        /// It is kept.
        Journal = 4 "journal",
        /// It is in the queue of its agent.
        Queue = 5 "queue",
        /// It is in the ring of its agent.
        Dispatch = 6 "dispatch",
        /// The agent has said its first word.
        FirstBlock = 7 "first_block",
        /// The agent has said its last word.
        End = 8 "end",
        /// The end is kept.
        Kept = 9 "kept",
        /// The end is given to the edge.
        Respond = 10 "respond",
    }
}

/// How a flight ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has not.
    Open,
    /// With a reply.
    Replied,
    /// Without one, for this reason.
    Failed(FailureCode),
}

/// Names a flight of a shard. Comes round after 2^32 of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct FlightIndex(u32);

#[derive(Clone, Copy, Debug)]
struct Flight {
    /// Hash of the client's id; 0 if it gave none.
    id: u64,
    session: u64,
    turn: u64,
    start: Moment,
    /// Which flight has the place.
    index: u32,
    agent: u32,
    offsets: [u32; STAGES],
    attempts: u16,
    outcome: Outcome,
}

/// An offset as it is kept.
#[inline]
fn pack(nanos: u64) -> u32 {
    match u32::try_from(nanos) {
        Ok(nanos) if nanos < COARSE => nanos,
        _ => COARSE | (nanos >> COARSE_SHIFT).min(COARSE_MAX) as u32,
    }
}

fn unpack(offset: u32) -> Option<Duration> {
    match offset {
        ABSENT => None,
        fine if fine < COARSE => Some(Duration::from_nanos(u64::from(fine))),
        coarse => Some(Duration::from_nanos(u64::from(coarse & !COARSE) << COARSE_SHIFT)),
    }
}

/// The ring of a shard.
#[derive(Debug)]
pub struct FlightRecorder {
    chunks: Vec<Vec<Flight>>,
    capacity: usize,
    next: u32,
}

impl FlightRecorder {
    /// An empty ring.
    ///
    /// # Panics
    ///
    /// If the capacity is no power of two from 1 to [`FLIGHTS_LIMIT`].
    pub fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two() && capacity <= FLIGHTS_LIMIT, "{capacity}");
        Self { chunks: Vec::new(), capacity, next: 0 }
    }

    /// A message sets out. `id` is the hash of the client's id, 0 if it gave none.
    ///
    /// HOT: one allocation per chunk in the first round, then none.
    pub fn begin(&mut self, start: Moment, id: u64, session: u64, turn: u64) -> FlightIndex {
        let index = self.next;
        self.next = index.wrapping_add(1);
        let flight = Flight {
            id,
            session,
            turn,
            start,
            index,
            agent: NO_AGENT,
            offsets: [ABSENT; STAGES],
            attempts: 0,
            outcome: Outcome::Open,
        };
        let place = index as usize & (self.capacity - 1);
        let (chunk, within) = (place / CHUNK_FLIGHTS, place % CHUNK_FLIGHTS);
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK_FLIGHTS.min(self.capacity)));
        }
        match self.chunks[chunk].get_mut(within) {
            Some(old) => *old = flight,
            None => self.chunks[chunk].push(flight),
        }
        FlightIndex(index)
    }

    /// The flight passes a stage. What is stamped twice counts as of the second time.
    ///
    /// HOT: no allocation; one entry of the ring.
    #[inline]
    pub fn stamp(&mut self, index: FlightIndex, stage: Stage, now: Moment) {
        if let Some(flight) = self.flight(index) {
            let passed = now.since(flight.start);
            // Nanoseconds of a `Moment` fit a word.
            let nanos = passed.as_secs() * 1_000_000_000 + u64::from(passed.subsec_nanos());
            flight.offsets[stage as usize] = pack(nanos);
        }
    }

    /// The flight passes a stage, if it has not passed it before.
    ///
    /// HOT: as [`Self::stamp`].
    #[inline]
    pub fn stamp_first(&mut self, index: FlightIndex, stage: Stage, now: Moment) {
        if self.flight(index).is_some_and(|flight| flight.offsets[stage as usize] == ABSENT) {
            self.stamp(index, stage, now);
        }
    }

    /// The flight is given to an agent: stamps [`Stage::Dispatch`], and forgets what came after an earlier one.
    ///
    /// HOT: as [`Self::stamp`].
    #[inline]
    pub fn dispatched(&mut self, index: FlightIndex, agent: AgentIndex, attempts: u16, now: Moment) {
        if let Some(flight) = self.flight(index) {
            flight.agent = agent.0;
            flight.attempts = attempts;
            flight.offsets[Stage::Dispatch as usize..].fill(ABSENT);
            self.stamp(index, Stage::Dispatch, now);
        }
    }

    /// The flight has a turn now.
    #[inline]
    pub fn set_turn(&mut self, index: FlightIndex, turn: u64) {
        if let Some(flight) = self.flight(index) {
            flight.turn = turn;
        }
    }

    /// The flight is over.
    #[inline]
    pub fn end(&mut self, index: FlightIndex, outcome: Outcome) {
        if let Some(flight) = self.flight(index) {
            flight.outcome = outcome;
        }
    }

    /// What happened to the last message with this hash of a client's id, of one session or of any.
    pub fn explain(&self, id: NonZeroU64, session: Option<u64>) -> Option<Explanation> {
        self.newest(|flight| flight.id == id.get() && session.is_none_or(|session| flight.session == session))
    }

    /// As [`Self::explain`], of all such messages, newest first, at most so many.
    pub fn explain_all(&self, id: NonZeroU64, session: Option<u64>, count_max: usize) -> Vec<Explanation> {
        let wanted = |flight: &&Flight| {
            flight.id == id.get() && session.is_none_or(|session| flight.session == session)
        };
        let mut found: Vec<&Flight> = self.chunks.iter().flatten().filter(wanted).collect();
        found.sort_unstable_by_key(|flight| self.next.wrapping_sub(flight.index));
        found.into_iter().take(count_max).map(Explanation::new).collect()
    }

    /// What happened to a turn.
    pub fn explain_turn(&self, turn: u64) -> Option<Explanation> {
        self.newest(|flight| flight.turn == turn)
    }

    /// The newest flight that is wanted. Looks at all of them.
    fn newest(&self, wanted: impl Fn(&Flight) -> bool) -> Option<Explanation> {
        let found = self.chunks.iter().flatten().filter(|flight| wanted(flight));
        // By age: numbers come round.
        let newest = found.min_by_key(|flight| self.next.wrapping_sub(flight.index));
        newest.map(Explanation::new)
    }

    /// The entry of a flight, unless a later one has taken its place.
    #[inline]
    fn flight(&mut self, index: FlightIndex) -> Option<&mut Flight> {
        let place = index.0 as usize & (self.capacity - 1);
        let flight = self.chunks.get_mut(place / CHUNK_FLIGHTS)?.get_mut(place % CHUNK_FLIGHTS)?;
        (flight.index == index.0).then_some(flight)
    }
}

/// A stage that a message passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Which.
    pub stage: Stage,
    /// Time since the start of the flight.
    pub offset: Duration,
    /// Time since the stage before.
    pub delta: Duration,
}

/// What happened to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Hash of the client's id; 0 if it gave none.
    pub id: u64,
    /// Hash of the session key.
    pub session: u64,
    /// Its turn.
    pub turn: u64,
    /// When it set out.
    pub start: Moment,
    /// Who got it last.
    pub agent: Option<AgentIndex>,
    /// How often it was given to an agent.
    pub attempts: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// By offset, and in the usual order where that is the same; those that were passed come first.
    stages: [(Option<Duration>, Stage); STAGES],
}

impl Explanation {
    fn new(flight: &Flight) -> Self {
        let mut stages: [_; STAGES] = std::array::from_fn(|at| (unpack(flight.offsets[at]), Stage::ALL[at]));
        stages.sort_unstable_by_key(|&(offset, stage)| (offset.is_none(), offset, stage));
        Self {
            id: flight.id,
            session: flight.session,
            turn: flight.turn,
            start: flight.start,
            agent: (flight.agent != NO_AGENT).then_some(AgentIndex(flight.agent)),
            attempts: flight.attempts,
            outcome: flight.outcome,
            stages,
        }
    }

    /// The stages that it passed, in the order of passing. The last attempt shows where there were several.
    pub fn stages(&self) -> impl Iterator<Item = Passed> {
        let passed = self.stages.iter().map_while(|&(offset, stage)| Some((offset?, stage)));
        passed.scan(Duration::ZERO, |before, (offset, stage)| {
            let delta = offset - std::mem::replace(before, offset);
            Some(Passed { stage, offset, delta })
        })
    }
}
