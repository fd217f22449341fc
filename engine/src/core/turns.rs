//! The open turns of a shard: a message that was accepted and has not been answered yet.

use crate::event::{AgentIndex, EdgeIndex, ShardIndex};

/// Bits of a turn id that name the place in the table.
const SLOT_BITS: u32 = 32;
/// Bits that count how often the place has been used.
const GENERATION_BITS: u32 = 24;

const _: () = assert!(SLOT_BITS + GENERATION_BITS + u8::BITS == u64::BITS, "a turn id is one word");

/// The shard that made a turn id.
#[inline]
pub fn owner(turn: u64) -> ShardIndex {
    ShardIndex((turn >> (SLOT_BITS + GENERATION_BITS)) as u8)
}

/// What the session role knows of an open turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The edge thread that waits for the reply.
    pub edge: EdgeIndex,
    /// The connection that waits, as the edge numbers it.
    pub origin: u64,
    /// Which message of the connection it answers.
    pub sequence: u32,
    /// Place of its session.
    pub session: usize,
    /// Who works on it.
    pub agent: AgentIndex,
    /// Whether the client wants the reply.
    pub wants_reply: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    generation: u32,
    turn: Option<Turn>,
}

/// The table. Ids are never reused within 2^24 uses of a place.
#[derive(Debug)]
pub struct Turns {
    shard: ShardIndex,
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Turns {
    /// An empty table.
    pub fn new(shard: ShardIndex) -> Self {
        Self { shard, places: Vec::new(), free: Vec::new() }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a turn and names it. The number of open turns is bounded by the session queues.
    pub fn insert(&mut self, turn: Turn) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, turn: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[slot as usize];
        debug_assert!(place.turn.is_none());
        // Zero is no turn: the generation of a used place is never zero for slot 0 of shard 0.
        place.generation = (place.generation + 1) & ((1 << GENERATION_BITS) - 1);
        place.turn = Some(turn);
        let generation = place.generation;
        self.id(slot, generation)
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
    pub fn get(&self, id: u64) -> Option<Turn> {
        self.places[self.slot(id)?].turn
    }

    /// Ends a turn.
    pub fn remove(&mut self, id: u64) -> Option<Turn> {
        let slot = self.slot(id)?;
        let turn = self.places[slot].turn.take()?;
        self.free.push(slot as u32);
        Some(turn)
    }
}
