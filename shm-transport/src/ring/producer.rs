//! The writing end: reserve, fill, commit, publish.

use super::{AWAKE, Memory, Wake, Waker, asleep_at};
use crate::layout::{POSITION_MAX, TAIL_CLOSED};
use crate::record::{FLAGS_KNOWN, HEADER_BYTES, Header, KIND_PADDING, Poison, span};
use crate::stop_point::stop_point;
use crate::sync::{Ordering, fence};

/// Why a record was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// No room now; try again after the consumer has released.
    #[error("ring is full: {needed} bytes needed, {free} free")]
    Full {
        /// Ring bytes the record needs, padding included.
        needed: u64,
        /// Ring bytes free now.
        free: u64,
    },
    /// Never possible on this ring.
    #[error("record of {len} bytes is larger than the {max} that fit in one")]
    TooLarge {
        /// Payload bytes asked for.
        len: usize,
        /// The most that fit.
        max: usize,
    },
    /// The consumer's position is impossible.
    #[error("ring is poisoned")]
    Poisoned(#[source] Poison),
}

/// The one writer of a ring. Not `Clone`: a ring has one producer.
#[derive(Debug)]
pub struct Producer<M: Memory> {
    memory: M,
    /// End of what we have written; ahead of the published tail by the open batch.
    tail: u64,
    /// What the consumer can see.
    published: u64,
    /// The last good value of the consumer's head.
    head_seen: u64,
    /// [`TAIL_CLOSED`] once nothing more will come, zero before.
    closed: u64,
    sleeper: Waker,
}

impl<M: Memory> Producer<M> {
    /// Takes the role at the positions found in the memory.
    ///
    /// Our own tail is the truth of what was sent; the peer's head is bounded against it. A ring that the
    /// previous holder of the role closed is open again.
    pub fn attach(memory: M) -> Result<Self, Poison> {
        stop_point("attach.producer");
        // Relaxed: only this role writes the word, and the role was handed to us by other means.
        let found = memory.own().tail.0.load(Ordering::Relaxed);
        let tail = found & !TAIL_CLOSED;
        if tail > POSITION_MAX || !tail.is_multiple_of(HEADER_BYTES as u64) {
            return Err(Poison::Own { found });
        }
        let head_seen = tail.saturating_sub(memory.geometry().capacity_bytes());
        let mut producer =
            Self { memory, tail, published: tail, head_seen, closed: 0, sleeper: Waker::default() };
        producer.refresh_head()?;
        if found != tail {
            // SYNC: pairs with the Acquire fence in `Consumer::refresh_tail`: what the previous holder
            // published stays published.
            producer.memory.own().tail.0.store(tail, Ordering::Release);
            stop_point("attach.reopened");
        }
        stop_point("attach.produced");
        Ok(producer)
    }

    /// The memory under the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// End of what has been committed, published or not.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Bytes published so far.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// The head we saw last: the value a sleeper on the head word expects.
    pub fn head_seen(&self) -> u64 {
        self.head_seen
    }

    /// Bytes of published records that the consumer has not released, by our last look.
    pub fn in_flight_bytes(&self) -> u64 {
        self.tail - self.head_seen
    }

    /// Reserves room for up to `payload_bytes_max`; fewer may be committed.
    ///
    /// HOT: no allocation, lock, syscall or log line. The peer's head is loaded only when our copy of it
    /// leaves no room.
    #[inline]
    pub fn reserve(&mut self, payload_bytes_max: usize) -> Result<Slot<'_, M>, Refused> {
        let geometry = self.memory.geometry();
        let max = geometry.record_bytes_max();
        if payload_bytes_max > max {
            return Err(Refused::TooLarge { len: payload_bytes_max, max });
        }
        debug_assert!(self.head_seen <= self.tail && self.tail - self.head_seen <= geometry.capacity_bytes());
        let contiguous = geometry.capacity_bytes() - geometry.offset(self.tail) as u64;
        let record = span(payload_bytes_max);
        let padding = if record > contiguous { contiguous } else { 0 };
        let needed = record + padding;
        if needed > geometry.capacity_bytes() - self.in_flight_bytes() {
            self.refresh_head().map_err(Refused::Poisoned)?;
            let free = geometry.capacity_bytes() - self.in_flight_bytes();
            if needed > free {
                return Err(Refused::Full { needed, free });
            }
        }
        if padding > 0 {
            // Invisible until the record behind it is committed and published.
            let len = u32::try_from(padding as usize - HEADER_BYTES).unwrap_or(u32::MAX);
            let header = Header { len, kind: KIND_PADDING, flags: 0, position: self.tail };
            self.memory.write(geometry.offset(self.tail), &header.encode());
            stop_point("send.padded");
        }
        stop_point("send.reserved");
        let start = self.tail + padding;
        Ok(Slot { producer: self, start, filled: 0, room: payload_bytes_max })
    }

    /// Makes everything committed so far visible, in one store.
    ///
    /// HOT: one Release store, one fence and one load for a batch of any size; nothing when there is none.
    #[inline]
    pub fn publish(&mut self) -> Wake {
        if self.tail == self.published {
            return Wake::Quiet;
        }
        self.published = self.tail;
        stop_point("publish.before_tail");
        // SYNC: pairs with the Acquire fence in `Consumer::refresh_tail`.
        self.memory.own().tail.0.store(self.tail | self.closed, Ordering::Release);
        stop_point("publish.after_tail");
        // SYNC: SeqCst, since a store must not pass the load that follows it: with the fence in
        // `Consumer::arm`, either the consumer sees this tail or we see that it sleeps (rule 5).
        fence(Ordering::SeqCst);
        stop_point("publish.after_fence");
        // Relaxed: ordered by the fence; the value is only compared.
        self.sleeper.decide(self.memory.peer().sleep.0.load(Ordering::Relaxed), self.tail)
    }

    /// Announces that we wait for room, and says whether `needed` bytes are free after all.
    ///
    /// `true`: go on, and call [`Self::disarm_space`]. `false`: the consumer will ring. For more than a quarter of the
    /// ring it does so only where it looks after each release ([`super::Consumer::look_for_waiter`]).
    pub fn arm_space(&mut self, needed: u64) -> Result<bool, Poison> {
        // Ends: the head moves at most up to our tail, which stands still.
        loop {
            let seen = self.head_seen;
            // Relaxed: only we write it; the fence orders it against the head.
            self.memory.own().space_wanted.0.store(asleep_at(seen), Ordering::Relaxed);
            stop_point("space.announced");
            // SYNC: SeqCst, pairs with the fence in `Consumer::look_for_waiter`: either we see its head or it sees
            // that we wait (rule 5).
            fence(Ordering::SeqCst);
            self.refresh_head()?;
            if self.memory.geometry().capacity_bytes() - self.in_flight_bytes() >= needed {
                return Ok(true);
            }
            if self.head_seen == seen {
                return Ok(false);
            }
            // Still too little, but we have seen more than the word says: announce that instead (rule 6).
        }
    }

    /// Takes back [`Self::arm_space`].
    pub fn disarm_space(&mut self) {
        // Relaxed: a stale odd value costs the consumer one needless ring.
        self.memory.own().space_wanted.0.store(AWAKE, Ordering::Relaxed);
    }

    /// Publishes what has been committed and says that nothing more will come. Ring the bell after it,
    /// whatever the sleep word says.
    ///
    /// The mark is a bit of the tail, so that the word a sleeper waits on changes: a futex sleeper that had
    /// looked just before would otherwise sleep on.
    pub fn close(&mut self) {
        self.closed = TAIL_CLOSED;
        self.published = self.tail;
        stop_point("close.before_tail");
        // SYNC: pairs with the Acquire fence in `Consumer::refresh_tail`: who sees the mark sees the records
        // before it.
        self.memory.own().tail.0.store(self.tail | TAIL_CLOSED, Ordering::Release);
        stop_point("close.after_tail");
    }

    /// Asks the consumer how far it is.
    #[cold]
    fn refresh_head(&mut self) -> Result<(), Poison> {
        // Relaxed, then a fence: the peer's half may be mapped read-only, where the language defines
        // nothing but relaxed loads.
        let head = self.memory.peer().head.0.load(Ordering::Relaxed);
        // SYNC: pairs with the Release store in `Consumer::release_to`: bytes below head are ours again.
        fence(Ordering::Acquire);
        // Bounded before use (rule 4): never behind what it was, never ahead of what it can have seen.
        if head < self.head_seen || head > self.published || !head.is_multiple_of(HEADER_BYTES as u64) {
            return Err(Poison::Head { found: head, seen: self.head_seen, tail: self.published });
        }
        self.head_seen = head;
        Ok(())
    }
}

/// Room for one record. Dropping it gives the room back.
#[must_use = "a slot that is not committed is given back"]
#[derive(Debug)]
pub struct Slot<'a, M: Memory> {
    producer: &'a mut Producer<M>,
    /// Position of the record.
    start: u64,
    /// Payload bytes written.
    filled: usize,
    /// Payload bytes reserved.
    room: usize,
}

impl<M: Memory> Slot<'_, M> {
    /// Appends payload. `false`, and nothing written, if the reservation is too small.
    #[inline]
    #[must_use = "bytes that do not fit are not written"]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room - self.filled {
            return false;
        }
        let at = self.producer.memory.geometry().offset(self.start) + HEADER_BYTES + self.filled;
        self.producer.memory.write(at, bytes);
        stop_point("send.payload");
        self.filled += bytes.len();
        true
    }

    /// Payload bytes written so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// The memory, the offset of the first free byte of the reservation, and how many are free.
    #[cfg(not(loom))]
    pub(crate) fn rest(&mut self) -> (&mut M, usize, usize) {
        let at = self.producer.memory.geometry().offset(self.start) + HEADER_BYTES + self.filled;
        (&mut self.producer.memory, at, self.room - self.filled)
    }

    /// Takes note of what was written into [`Self::rest`].
    #[cfg(not(loom))]
    pub(crate) fn wrote(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.room - self.filled);
        self.filled += bytes;
    }

    /// Completes the record with what has been put. It becomes visible with the next publish. The flags are
    /// those of [`crate::record`].
    #[inline]
    pub fn commit(self, kind: u16, flags: u16) {
        debug_assert!(kind != KIND_PADDING && flags & !FLAGS_KNOWN == 0);
        let header =
            Header { len: u32::try_from(self.filled).unwrap_or(u32::MAX), kind, flags, position: self.start };
        let at = self.producer.memory.geometry().offset(self.start);
        self.producer.memory.write(at, &header.encode());
        stop_point("send.header");
        self.producer.tail = self.start + span(self.filled);
        stop_point("send.committed");
    }
}
