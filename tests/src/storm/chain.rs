//! The records a side sends: each a pure function of the position it is sent at.
//!
//! So a sender that was killed goes on with the very records it would have sent, and a checker knows count and
//! content of all records up to a tail. The arithmetic of the ring is written down here a second time, from
//! `docs/wire-format.md`, and not taken from the transport: it is what the transport is compared with.

use super::Side;

const HEADER_BYTES: u64 = 16;

/// The largest payload of a ring of this capacity.
fn payload_bytes_max(capacity_bytes: u64) -> u64 {
    capacity_bytes / 8 - HEADER_BYTES
}

fn span(payload_bytes: u64) -> u64 {
    (HEADER_BYTES + payload_bytes).next_multiple_of(16)
}

/// Mixes the bits of a number (the finaliser of splitmix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// All that a side will ever send.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    seed: u64,
    capacity_bytes: u64,
}

/// A record to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Payload bytes to reserve; never fewer than are written.
    pub room: usize,
    /// Payload bytes.
    pub len: usize,
    /// Where its header stands: behind the padding, if it does not fit before the end of the data.
    pub start: u64,
    /// Where the next record is sent.
    pub end: u64,
    /// Its kind.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
}

impl Chain {
    /// What `side` sends over a ring of this capacity.
    pub fn of(side: Side, capacity_bytes: u64) -> Self {
        let seed = match side {
            Side::Engine => 0x6a09_e667_f3bc_c908,
            Side::Agent => 0xbb67_ae85_84ca_a73b,
        };
        Self { seed, capacity_bytes }
    }

    /// A number that follows from a position, different for each purpose.
    pub fn number(&self, position: u64, purpose: u64) -> u64 {
        mixed(mixed(self.seed ^ position) ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The record that is sent at `position`. A quarter is tiny, a quarter reserves more than it needs.
    pub fn record(&self, position: u64) -> Record {
        let max = payload_bytes_max(self.capacity_bytes);
        let limit = if self.number(position, 1).is_multiple_of(4) { 33 } else { max + 1 };
        let len = self.number(position, 2) % limit;
        let spare = if self.number(position, 3).is_multiple_of(4) { max - len + 1 } else { 1 };
        let room = len + self.number(position, 4) % spare;
        let contiguous = self.capacity_bytes - position % self.capacity_bytes;
        let padding = if span(room) > contiguous { contiguous } else { 0 };
        let start = position + padding;
        Record {
            room: usize::try_from(room).unwrap_or(usize::MAX),
            len: usize::try_from(len).unwrap_or(usize::MAX),
            start,
            end: start + span(len),
            kind: 1 + (self.number(position, 5) % 7) as u16,
            flags: (self.number(position, 6) % 4) as u16,
        }
    }

    /// Writes the payload of the record that starts at `start`.
    pub fn fill(&self, start: u64, payload: &mut [u8]) {
        for (index, chunk) in (0u64..).zip(payload.chunks_mut(8)) {
            let word = mixed((self.seed ^ start).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }

    /// The effect of every record from where `effect` stands up to `end`, or where the chain misses `end`.
    pub fn effect_up_to(&self, mut effect: Effect, end: u64) -> Result<Effect, u64> {
        let mut payload = Vec::new();
        while effect.position < end {
            let record = self.record(effect.position);
            payload.resize(record.len, 0);
            self.fill(record.start, &mut payload);
            effect = effect.after(&record, &payload);
        }
        if effect.position == end { Ok(effect) } else { Err(effect.position) }
    }
}

/// What the records up to a position have done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Effect {
    /// Where the next record is sent.
    pub position: u64,
    /// How many there were.
    pub count: u64,
    /// What they were, and in which order.
    pub hash: u64,
}

impl Effect {
    /// With one record more.
    pub fn after(self, record: &Record, payload: &[u8]) -> Self {
        let mut hash = mixed(self.hash ^ record.start);
        for chunk in payload.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        Self { position: record.end, count: self.count + 1, hash }
    }
}
