//! Whether a client's message has been accepted before: the ids that the clients of a shard gave, for a day and more.
//!
//! # Layout
//!
//! | part | holds | grows by |
//! |---|---|---|
//! | entries | one [`Slot`] of 40 bytes per id, in the order of acceptance | a chunk of [`CHUNK_SLOTS`] |
//! | heads | for each bucket a [`Head`] of 8 bytes: its newest entry, and marks of its entries | a chunk of [`CHUNK_HEADS`] |
//!
//! Entries are numbered in the order of acceptance, and those below the oldest number are forgotten. The entries of a
//! bucket are chained from the newest to the oldest, so a chain ends where it names a forgotten one: to forget costs
//! no look at any bucket. A look-up of a new id is nearly always answered by the marks of the head, which have a bit for
//! each of its entries, and perhaps for some that are forgotten: one place of memory that nobody has touched lately.
//!
//! The buckets grow by *linear hashing*: an insert that finds more entries than buckets splits one bucket, so that no
//! insert ever moves more than one chain. A full window costs 48 bytes per id.
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
/// Bits of a head that number its newest entry: a million ids a second for eight years.
const NUMBER_BITS: u32 = 48;
/// Bits of a head that mark its entries.
const MARKS: u32 = u64::BITS - NUMBER_BITS;
/// The first number. Those below, zero among them, were never given.
const FIRST_NUMBER: u64 = CHUNK_SLOTS as u64;
/// Entries of a journal that are inserted as a group.
const LOAD_GROUP: usize = 32;
/// How many expired ids one insert forgets at most, so that no insert takes long.
const FORGOTTEN_PER_INSERT: usize = 4;

const _: () = assert!(size_of::<Slot>() == 40, "ten million of them are 400 MB");
const _: () = assert!(FORGOTTEN_PER_INSERT >= 2, "a window must be able to shrink while it is inserted into");
const _: () = assert!(CHUNK_HEADS.is_power_of_two(), "the first round of splits begins with one chunk");
const _: () = assert!(MARKS.is_power_of_two(), "a mark is chosen by bits of the hash");

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
    /// Number of the next older entry of the bucket, perhaps a forgotten one.
    next: u64,
}

/// A bucket: the number of its newest entry, perhaps a forgotten one, and a mark for each entry.
#[derive(Clone, Copy, Default, Debug)]
struct Head(u64);

impl Head {
    #[inline]
    fn newest(self) -> u64 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }

    /// Whether an entry with this hash may be in the bucket.
    #[inline]
    fn may_have(self, hash: u64) -> bool {
        self.0 & mark(hash) != 0
    }

    /// With another newest entry.
    #[inline]
    fn with(self, number: u64, hash: u64) -> Self {
        debug_assert!(number >> NUMBER_BITS == 0, "no shard lives so long");
        Self(self.0 >> NUMBER_BITS << NUMBER_BITS | mark(hash) | number)
    }
}

/// The mark of an entry: chosen by the top bits of its hash, since the bottom ones choose the bucket.
#[inline]
fn mark(hash: u64) -> u64 {
    1 << (NUMBER_BITS + (hash >> (u64::BITS - MARKS.trailing_zeros())) as u32)
}

/// The ids of a shard.
#[derive(Debug)]
pub struct DedupWindow {
    limits: DedupLimits,
    /// Keeps clients from choosing ids that fall into one bucket.
    seed: u64,
    /// Oldest entries first; all full but the last.
    chunks: VecDeque<Vec<Slot>>,
    /// A chunk that was given up, for the next one.
    spare: Vec<Slot>,
    /// Number of the oldest entry that is not forgotten.
    first: u64,
    /// Number of the next entry.
    next: u64,
    heads: Vec<Box<[Head; CHUNK_HEADS]>>,
    /// Buckets when this round of splits began: a power of two.
    round: usize,
    /// How many buckets of this round have been split.
    split: usize,
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
            chunks: VecDeque::new(),
            spare: Vec::new(),
            first: FIRST_NUMBER,
            next: FIRST_NUMBER,
            heads: vec![Box::new([Head::default(); CHUNK_HEADS])],
            round: CHUNK_HEADS,
            split: 0,
            forgotten_early: 0,
        }
    }

    /// How many ids are remembered.
    pub fn len(&self) -> usize {
        (self.next - self.first) as usize
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many ids were forgotten before their time, ever.
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// Bytes of the tables.
    pub fn memory_bytes(&self) -> usize {
        (self.chunks.len() * CHUNK_SLOTS + self.spare.capacity()) * size_of::<Slot>()
            + self.heads.len() * size_of::<[Head; CHUNK_HEADS]>()
    }

    /// Whether a message with this id and body is new.
    ///
    /// HOT: no allocation; for a new id one head, and rarely a chain of one or two entries.
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
    /// HOT: one allocation per [`CHUNK_SLOTS`] or [`CHUNK_HEADS`] inserts while the window grows, then none; splits one
    /// bucket, forgets a few.
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
    /// Each comes with what is noted for it. Many at once are several times as fast as one by one.
    pub fn load(&mut self, now_s: u32, entries: &[(IdEntry, u64)]) {
        for group in entries.chunks(LOAD_GROUP) {
            self.touch(group);
            for &(IdEntry { session, id, check, at_s }, reference) in group {
                let Some(id) = NonZeroU64::new(id) else { continue };
                if self.find(session, id).is_none() {
                    self.forget(now_s);
                    self.append(session, id.get(), Known { check, reference, at_s });
                }
            }
        }
    }

    /// Reads what inserts of these entries will read, so that memory is waited for once and not once for each.
    fn touch(&self, entries: &[(IdEntry, u64)]) {
        let mut read = 0;
        for (entry, _) in entries {
            read |= self.head(self.bucket(self.hash(entry.session, entry.id))).0;
        }
        // Nearly every insert splits a bucket.
        for bucket in self.split..(self.split + entries.len()).min(self.round) {
            let newest = self.head(bucket).newest();
            if newest >= self.first {
                read |= self.slot(newest).next;
            }
        }
        std::hint::black_box(read);
    }

    /// Where an entry lies: its chunk, and its place in it.
    #[inline]
    fn place(&self, number: u64) -> (usize, usize) {
        debug_assert!((self.first..self.next).contains(&number));
        let chunk_slots = CHUNK_SLOTS as u64;
        ((number / chunk_slots - self.first / chunk_slots) as usize, (number % chunk_slots) as usize)
    }

    #[inline]
    fn slot(&self, number: u64) -> &Slot {
        let (chunk, place) = self.place(number);
        &self.chunks[chunk][place]
    }

    #[inline]
    fn slot_mut(&mut self, number: u64) -> &mut Slot {
        let (chunk, place) = self.place(number);
        &mut self.chunks[chunk][place]
    }

    #[inline]
    fn head(&self, bucket: usize) -> Head {
        self.heads[bucket / CHUNK_HEADS][bucket % CHUNK_HEADS]
    }

    #[inline]
    fn head_mut(&mut self, bucket: usize) -> &mut Head {
        &mut self.heads[bucket / CHUNK_HEADS][bucket % CHUNK_HEADS]
    }

    #[inline]
    fn hash(&self, session: u64, id: u64) -> u64 {
        let product = u128::from(session ^ self.seed) * u128::from(id ^ self.seed.rotate_left(32));
        // Both halves: the low bits of the product alone would know nothing of the high bits of its factors.
        (product >> 64) as u64 ^ product as u64
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let bucket = hash as usize & (2 * self.round - 1);
        // The upper half of the buckets exists up to the one that was split last.
        if bucket < self.round + self.split { bucket } else { hash as usize & (self.round - 1) }
    }

    #[inline]
    fn find(&self, session: u64, id: NonZeroU64) -> Option<u64> {
        let hash = self.hash(session, id.get());
        let head = self.head(self.bucket(hash));
        if !head.may_have(hash) {
            return None;
        }
        let mut at = head.newest();
        while at >= self.first {
            let slot = self.slot(at);
            if slot.id == id.get() && slot.session == session {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    fn append(&mut self, session: u64, id: u64, known: Known) {
        let number = self.next;
        if number.is_multiple_of(CHUNK_SLOTS as u64) {
            self.add_chunk();
        }
        let hash = self.hash(session, id);
        let bucket = self.bucket(hash);
        let mut head = self.head(bucket);
        let next = head.newest();
        if next < self.first {
            // All that was marked is forgotten.
            head = Head::default();
        }
        *self.head_mut(bucket) = head.with(number, hash);
        let chunk = self.chunks.back_mut();
        chunk.expect("every number has a chunk").push(Slot { session, id, known, next });
        self.next += 1;
        if self.len() > self.round + self.split {
            self.split_bucket();
        }
    }

    #[cold]
    fn add_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.spare);
        chunk.clear();
        chunk.reserve_exact(CHUNK_SLOTS);
        self.chunks.push_back(chunk);
    }

    /// Deals the chain of the next bucket out to it and to its new sibling, each in order.
    fn split_bucket(&mut self) {
        let (old, new) = (self.split, self.round + self.split);
        if new / CHUNK_HEADS == self.heads.len() {
            self.heads.push(Box::new([Head::default(); CHUNK_HEADS]));
        }
        let mut at = std::mem::take(self.head_mut(old)).newest();
        self.split += 1;
        if self.split == self.round {
            self.round *= 2;
            self.split = 0;
        }
        // Of each of the two: its head, and its oldest entry so far.
        let mut heads = [Head::default(); 2];
        let mut oldest = [None; 2];
        while at >= self.first {
            let Slot { session, id, next, .. } = *self.slot(at);
            let hash = self.hash(session, id);
            let bucket = self.bucket(hash);
            debug_assert!(bucket == old || bucket == new);
            let side = usize::from(bucket == new);
            match oldest[side].replace(at) {
                None => heads[side] = heads[side].with(at, hash),
                Some(before) => {
                    let newest = heads[side].newest();
                    heads[side] = heads[side].with(newest, hash);
                    self.slot_mut(before).next = at;
                }
            }
            at = next;
        }
        for last in oldest.into_iter().flatten() {
            self.slot_mut(last).next = 0;
        }
        *self.head_mut(old) = heads[0];
        *self.head_mut(new) = heads[1];
    }

    /// Makes room for one more, and lets a few go whose time has passed.
    fn forget(&mut self, now_s: u32) {
        let limits = self.limits;
        for _ in 0..FORGOTTEN_PER_INSERT {
            if self.is_empty() {
                return;
            }
            let oldest = self.slot(self.first).known;
            let expired = now_s.saturating_sub(oldest.at_s) > limits.keep_s;
            let may_go = expired && self.len() >= limits.ids_max as usize;
            if !may_go && self.len() < limits.ids_hard_max as usize {
                return;
            }
            self.forgotten_early += u64::from(!expired);
            self.first += 1;
            if self.first.is_multiple_of(CHUNK_SLOTS as u64) {
                self.spare = self.chunks.pop_front().unwrap_or_default();
            }
        }
    }
}
