//! Whether a client's message has been accepted before: the ids that the clients of a shard gave, for a day and more.
//!
//! # Layout
//!
//! | part | holds | grows by |
//! |---|---|---|
//! | entries | one [`Slot`] of 40 bytes per id, in the order of acceptance | a chunk of [`CHUNK_SLOTS`] |
//! | heads | for each bucket the slot of its newest entry, 4 bytes | a chunk of [`CHUNK_HEADS`] |
//!
//! The entries of a bucket are chained through their slots. The buckets grow by *linear hashing*: an insert that
//! finds more entries than buckets splits one bucket, so that no insert ever moves more than one chain. A full
//! window costs 44 bytes per id.
//!
//! # What is deliberately absent
//!
//! Removal of a single id: what was accepted stays known, whatever became of it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroU64;

use xxhash_rust::xxh3::xxh3_64;

use crate::journal::entry::IdEntry;

/// Stands for no reference.
pub const NO_REFERENCE: u64 = u64::MAX;
/// The most ids a window may be told to hold.
pub const IDS_LIMIT: u32 = 1 << 30;

const CHUNK_SLOTS: usize = 4096;
const CHUNK_HEADS: usize = 1024;
/// Ends a chain.
const NO_SLOT: u32 = u32::MAX;
/// How many expired ids one insert forgets at most, so that no insert takes long.
const FORGOTTEN_PER_INSERT: usize = 4;

const _: () = assert!(size_of::<Slot>() == 40, "ten million of them are 400 MB");
const _: () = assert!(FORGOTTEN_PER_INSERT >= 2, "a window must be able to shrink while it is inserted into");
const _: () = assert!(CHUNK_HEADS.is_power_of_two(), "the first round of splits begins with one chunk");
const _: () =
    assert!(IDS_LIMIT as usize + 2 * CHUNK_SLOTS < NO_SLOT as usize, "every slot has a number of its own");

/// Hash of an id that a client gave. Never zero, which stands for "gave none". Fixed for good: journals keep it.
#[inline]
pub fn id_hash(client_id: &str) -> NonZeroU64 {
    NonZeroU64::new(xxh3_64(client_id.as_bytes())).unwrap_or(NonZeroU64::MAX)
}

/// Fingerprint of what a message says and to whom, by which another body under the same id is told apart. Fixed
/// for good: journals keep it.
#[inline]
pub fn body_check(agent: &str, content_kind: u8, content: &str, metadata: &str) -> u32 {
    let mut words = [0u8; 32];
    let parts = [
        xxh3_64(agent.as_bytes()),
        u64::from(content_kind),
        xxh3_64(content.as_bytes()),
        xxh3_64(metadata.as_bytes()),
    ];
    for (word, part) in words.as_chunks_mut().0.iter_mut().zip(parts) {
        *word = part.to_le_bytes();
    }
    let [a, b, c, d, ..] = xxh3_64(&words).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// How long ids are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupLimits {
    /// An id is remembered at least for so long, seconds.
    pub keep_s: u32,
    /// And at least until so many newer ones came.
    pub ids_max: u32,
    /// But where even more come, the oldest are forgotten before their time.
    pub ids_hard_max: u32,
}

impl Default for DedupLimits {
    fn default() -> Self {
        Self { keep_s: 24 * 60 * 60, ids_max: 10_000_000, ids_hard_max: 20_000_000 }
    }
}

/// What is known of an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Fingerprint of the body that was accepted under it.
    pub check: u32,
    /// What the core noted: a place, or [`NO_REFERENCE`].
    pub reference: u64,
    /// When it was accepted, Unix seconds.
    pub at_s: u32,
}

/// Whether a message is a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// The id is not known.
    New,
    /// The same message has been accepted.
    Duplicate(Known),
    /// Another message has been accepted under this id.
    Conflict(Known),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    session: u64,
    id: u64,
    known: Known,
    /// The next older entry of the bucket.
    next: u32,
}

/// The ids of a shard.
#[derive(Debug)]
pub struct DedupWindow {
    limits: DedupLimits,
    /// Keeps clients from choosing ids that fall into one bucket.
    seed: u64,
    /// By chunk number; those that are not in use are empty.
    chunks: Vec<Vec<Slot>>,
    /// Numbers of the chunks in use, oldest entries first.
    order: VecDeque<u32>,
    /// Numbers of the chunks that are not in use.
    free: Vec<u32>,
    /// How many entries of the oldest chunk have been forgotten.
    forgotten_of_first: usize,
    heads: Vec<Box<[u32; CHUNK_HEADS]>>,
    /// Buckets when this round of splits began: a power of two.
    round: usize,
    /// How many buckets of this round have been split.
    split: usize,
    len: usize,
    forgotten_early: u64,
}

impl DedupWindow {
    /// An empty window. The seed is random, and the same only where a run is to be repeated.
    ///
    /// # Panics
    ///
    /// If `ids_hard_max` is zero, below `ids_max` or above [`IDS_LIMIT`].
    pub fn new(limits: DedupLimits, seed: u64) -> Self {
        assert!(limits.ids_hard_max > 0 && limits.ids_hard_max >= limits.ids_max, "{limits:?}");
        assert!(limits.ids_hard_max <= IDS_LIMIT, "{limits:?}");
        Self {
            limits,
            seed,
            chunks: Vec::new(),
            order: VecDeque::new(),
            free: Vec::new(),
            forgotten_of_first: 0,
            heads: vec![Box::new([NO_SLOT; CHUNK_HEADS])],
            round: CHUNK_HEADS,
            split: 0,
            len: 0,
            forgotten_early: 0,
        }
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many ids were forgotten before their time, ever.
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// Bytes of the tables.
    pub fn memory_bytes(&self) -> usize {
        self.order.len() * CHUNK_SLOTS * size_of::<Slot>()
            + self.heads.len() * size_of::<[u32; CHUNK_HEADS]>()
            + self.chunks.capacity() * size_of::<Vec<Slot>>()
    }

    /// Whether a message with this id and body is new.
    ///
    /// HOT: no allocation; a chain of one or two entries.
    #[inline]
    pub fn admit(&self, session: u64, id: NonZeroU64, check: u32) -> Admit {
        match self.get(session, id) {
            None => Admit::New,
            Some(known) if known.check == check => Admit::Duplicate(known),
            Some(known) => Admit::Conflict(known),
        }
    }

    /// What is known of an id.
    #[inline]
    pub fn get(&self, session: u64, id: NonZeroU64) -> Option<Known> {
        self.find(session, id).map(|slot| self.slot(slot).known)
    }

    /// Remembers an id that is not known yet.
    ///
    /// HOT: one allocation per [`CHUNK_SLOTS`] or [`CHUNK_HEADS`] inserts; splits one bucket, forgets a few.
    pub fn insert(&mut self, now_s: u32, session: u64, id: NonZeroU64, check: u32, reference: u64) {
        debug_assert!(self.find(session, id).is_none(), "an id is inserted once");
        self.forget(now_s);
        self.append(session, id.get(), Known { check, reference, at_s: now_s });
    }

    /// Notes something else for an id. False if it is not known (any more).
    pub fn set_reference(&mut self, session: u64, id: NonZeroU64, reference: u64) -> bool {
        let Some(slot) = self.find(session, id) else { return false };
        self.slot_mut(slot).known.reference = reference;
        true
    }

    /// Takes what a journal remembers, oldest first. Of several entries with one id the first counts.
    /// Each comes with what is noted for it.
    pub fn load(&mut self, now_s: u32, entries: impl IntoIterator<Item = (IdEntry, u64)>) {
        for (IdEntry { session, id, check, at_s }, reference) in entries {
            let Some(id) = NonZeroU64::new(id) else { continue };
            if self.find(session, id).is_none() {
                self.forget(now_s);
                self.append(session, id.get(), Known { check, reference, at_s });
            }
        }
    }

    #[inline]
    fn slot(&self, slot: u32) -> &Slot {
        &self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
    }

    #[inline]
    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
    }

    #[inline]
    fn head_mut(&mut self, bucket: usize) -> &mut u32 {
        &mut self.heads[bucket / CHUNK_HEADS][bucket % CHUNK_HEADS]
    }

    #[inline]
    fn bucket(&self, session: u64, id: u64) -> usize {
        let product = u128::from(session ^ self.seed) * u128::from(id ^ self.seed.rotate_left(32));
        // Both halves: the low bits of the product alone would know nothing of the high bits of its factors.
        let hash = ((product >> 64) as u64 ^ product as u64) as usize;
        let bucket = hash & (2 * self.round - 1);
        // The upper half of the buckets exists up to the one that was split last.
        if bucket < self.round + self.split { bucket } else { hash & (self.round - 1) }
    }

    #[inline]
    fn find(&self, session: u64, id: NonZeroU64) -> Option<u32> {
        let bucket = self.bucket(session, id.get());
        let mut at = self.heads[bucket / CHUNK_HEADS][bucket % CHUNK_HEADS];
        while at != NO_SLOT {
            let slot = self.slot(at);
            if slot.id == id.get() && slot.session == session {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    fn append(&mut self, session: u64, id: u64, known: Known) {
        let chunk = match self.order.back() {
            Some(&last) if self.chunks[last as usize].len() < CHUNK_SLOTS => last,
            _ => self.add_chunk(),
        };
        let place = self.chunks[chunk as usize].len();
        // By the bound on ids and the assertion at its constant.
        let number = u32::try_from(chunk as usize * CHUNK_SLOTS + place).expect("slots have numbers");
        let bucket = self.bucket(session, id);
        let next = std::mem::replace(self.head_mut(bucket), number);
        self.chunks[chunk as usize].push(Slot { session, id, known, next });
        self.len += 1;
        if self.len > self.round + self.split {
            self.split_bucket();
        }
    }

    #[cold]
    fn add_chunk(&mut self) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.chunks.push(Vec::new());
            u32::try_from(self.chunks.len() - 1).expect("chunks have numbers")
        });
        self.chunks[number as usize] = Vec::with_capacity(CHUNK_SLOTS);
        self.order.push_back(number);
        number
    }

    /// Deals the chain of the next bucket out to it and to its new sibling.
    fn split_bucket(&mut self) {
        let (old, new) = (self.split, self.round + self.split);
        if new / CHUNK_HEADS == self.heads.len() {
            self.heads.push(Box::new([NO_SLOT; CHUNK_HEADS]));
        }
        let mut at = std::mem::replace(self.head_mut(old), NO_SLOT);
        self.split += 1;
        if self.split == self.round {
            self.round *= 2;
            self.split = 0;
        }
        while at != NO_SLOT {
            let Slot { session, id, next, .. } = *self.slot(at);
            let bucket = self.bucket(session, id);
            debug_assert!(bucket == old || bucket == new);
            self.slot_mut(at).next = std::mem::replace(self.head_mut(bucket), at);
            at = next;
        }
    }

    /// Makes room for one more, and lets a few go whose time has passed.
    fn forget(&mut self, now_s: u32) {
        let limits = self.limits;
        for _ in 0..FORGOTTEN_PER_INSERT {
            let Some(&first) = self.order.front() else { return };
            let oldest = self.chunks[first as usize][self.forgotten_of_first].known;
            let expired = now_s.saturating_sub(oldest.at_s) > limits.keep_s;
            let may_go = expired && self.len >= limits.ids_max as usize;
            if !may_go && self.len < limits.ids_hard_max as usize {
                return;
            }
            self.forgotten_early += u64::from(!expired);
            self.forget_oldest(first);
        }
    }

    fn forget_oldest(&mut self, chunk: u32) {
        let number = u32::try_from(chunk as usize * CHUNK_SLOTS + self.forgotten_of_first)
            .expect("slots have numbers");
        let Slot { session, id, next, .. } = *self.slot(number);
        let bucket = self.bucket(session, id);
        let mut at = *self.head_mut(bucket);
        if at == number {
            *self.head_mut(bucket) = next;
        } else {
            while self.slot(at).next != number {
                at = self.slot(at).next;
            }
            self.slot_mut(at).next = next;
        }
        self.len -= 1;
        self.forgotten_of_first += 1;
        if self.forgotten_of_first == self.chunks[chunk as usize].len() {
            // Only a full chunk, or the last one, which is taken up again like a new one.
            self.order.pop_front();
            self.chunks[chunk as usize] = Vec::new();
            self.free.push(chunk);
            self.forgotten_of_first = 0;
        }
    }
}
