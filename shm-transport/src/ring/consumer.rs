//! The reading end: look, copy, advance, release.

use super::{AWAKE, Memory, Wake, Waker, asleep_at};
use crate::layout::{POSITION_MAX, TAIL_CLOSED};
use crate::record::{Checked, HEADER_BYTES, Header, Poison, check, span};
use crate::stop_point::stop_point;
use crate::sync::{Ordering, fence};

/// How much is fetched in advance when the consumer has caught up. Beyond that the processor sees the pattern.
const PREFETCH_BYTES_MAX: u64 = 1024;

/// The one reader of a ring. Not `Clone`: a ring has one consumer.
#[derive(Debug)]
pub struct Consumer<M: Memory> {
    memory: M,
    /// The next record to look at; ahead of the released head by what we still hold.
    position: u64,
    /// What the producer knows to be free.
    released: u64,
    /// The last good value of the producer's tail.
    tail_seen: u64,
    waiter: Waker,
}

impl<M: Memory> Consumer<M> {
    /// Takes the role at the positions found in the memory.
    ///
    /// Our own head is the truth of what was released; the peer's tail is bounded against it.
    pub fn attach(memory: M) -> Result<Self, Poison> {
        stop_point("attach.consumer");
        // Relaxed: only this role writes the word, and the role was handed to us by other means.
        let head = memory.own().head.0.load(Ordering::Relaxed);
        if head > POSITION_MAX || !head.is_multiple_of(HEADER_BYTES as u64) {
            return Err(Poison::Own { found: head });
        }
        let mut consumer =
            Self { memory, position: head, released: head, tail_seen: head, waiter: Waker::default() };
        consumer.refresh_tail()?;
        stop_point("attach.consumed");
        Ok(consumer)
    }

    /// Goes on at `position`, up to which a predecessor has stored the effect of every record but perhaps
    /// not released it. A position below the head changes nothing: released is released. The bytes in between
    /// are given back by the next [`Self::release`].
    ///
    /// The position comes from a store of our own. Whoever stored it had seen a tail not below it, so one
    /// beyond the tail says that the store belongs to another ring, or that the producer took its tail back.
    pub fn resume_at(&mut self, position: u64) -> Result<(), Poison> {
        if position > self.tail_seen || !position.is_multiple_of(HEADER_BYTES as u64) {
            return Err(Poison::Own { found: position });
        }
        self.position = self.position.max(position);
        stop_point("resume.moved");
        Ok(())
    }

    /// The memory under the ring.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Where the next record stands.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The tail we saw last: the value a sleeper on the tail word expects.
    pub fn tail_seen(&self) -> u64 {
        self.tail_seen
    }

    /// The header of the next record, checked, or `None` if nothing is published.
    ///
    /// HOT: no allocation, lock, syscall or log line. The peer's tail is loaded only when all that was
    /// seen is consumed.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Header>, Poison> {
        loop {
            if self.position == self.tail_seen {
                self.refresh_tail()?;
                if self.position == self.tail_seen {
                    return Ok(None);
                }
                self.prefetch();
            }
            let geometry = self.memory.geometry();
            let mut bytes = [0u8; HEADER_BYTES];
            // Read once, into private memory (rule 4): the peer may change it at any time.
            self.memory.read(geometry.offset(self.position), &mut bytes);
            let header = Header::decode(bytes);
            match check(header, geometry, self.position, self.tail_seen - self.position)? {
                Checked::Record(header) => {
                    stop_point("receive.peeked");
                    return Ok(Some(header));
                }
                // At most once in a row: padding never starts at offset 0.
                Checked::Padding(bytes) => {
                    self.position += bytes;
                    stop_point("receive.skipped");
                }
            }
        }
    }

    /// Fetches the first lines of what has just been published at once. Otherwise the rest of a record is asked for
    /// only when its header, which says how long it is, has arrived: one more trip to the producer's cache.
    #[inline]
    fn prefetch(&self) {
        let geometry = self.memory.geometry();
        let offset = geometry.offset(self.position);
        let contiguous = geometry.capacity_bytes() - offset as u64;
        let bytes = (self.tail_seen - self.position).min(contiguous).min(PREFETCH_BYTES_MAX);
        self.memory.prefetch(offset, bytes as usize);
    }

    /// Copies the payload of a record that [`Self::peek`] returned.
    #[inline]
    pub fn copy_payload(&self, header: Header, into: &mut [u8]) {
        debug_assert!(into.len() == header.len as usize && header.position == self.position);
        let at = self.memory.geometry().offset(self.position) + HEADER_BYTES;
        self.memory.read(at, into);
        stop_point("receive.copied");
    }

    /// Goes on to the record behind `header`. The bytes stay ours until [`Self::release`].
    #[inline]
    pub fn advance(&mut self, header: Header) {
        debug_assert!(header.position == self.position);
        self.position += span(header.len as usize);
        stop_point("receive.advanced");
    }

    /// Gives everything we advanced over back to the producer.
    #[inline]
    pub fn release(&mut self) -> Wake {
        self.release_to(self.position)
    }

    /// Gives what we advanced over back to the producer, up to `until`.
    ///
    /// A producer that waits for up to a quarter of the ring has more than three quarters of it published, so we
    /// come by a whole quarter before all of that is released. There, and only there, we look whether it waits.
    ///
    /// HOT: one Release store for a batch of any size, and in each quarter of the ring one fence and one load;
    /// nothing when there is nothing to release.
    #[inline]
    pub fn release_to(&mut self, until: u64) -> Wake {
        debug_assert!(until <= self.position && until.is_multiple_of(HEADER_BYTES as u64));
        if until <= self.released {
            return Wake::Quiet;
        }
        let quarter = self.memory.geometry().quarter_bytes();
        let same_quarter = (self.released ^ until) < quarter;
        self.released = until;
        stop_point("release.before_head");
        // SYNC: pairs with the Acquire fence in `Producer::refresh_head`: our reads are done.
        self.memory.own().head.0.store(until, Ordering::Release);
        stop_point("release.after_head");
        if same_quarter {
            return Wake::Quiet;
        }
        self.look_for_waiter()
    }

    /// Looks whether the producer waits for the room that has been released, and decides whether to ring.
    #[inline]
    pub fn look_for_waiter(&mut self) -> Wake {
        // SYNC: SeqCst, pairs with the fence in `Producer::arm_space`: either the producer sees this head
        // or we see that it waits (rule 5).
        fence(Ordering::SeqCst);
        stop_point("release.after_fence");
        // Relaxed: ordered by the fence; the value is only compared.
        let wanted = self.memory.peer().space_wanted.0.load(Ordering::Relaxed);
        // A waiting producer is woken when half the ring is free, not for every record.
        if wanted & 1 == 0 || self.tail_seen - self.released > self.memory.geometry().capacity_bytes() / 2 {
            return Wake::Quiet;
        }
        self.waiter.decide(wanted, self.released)
    }

    /// Announces that we sleep. `true`: records came meanwhile, go on and call [`Self::disarm`].
    pub fn arm(&mut self) -> Result<bool, Poison> {
        // Relaxed: only we write it; the fence orders it against the tail. Where this returns `false`, all
        // that was seen is consumed and the look below finds nothing newer, so the word is exact (rule 6).
        self.memory.own().sleep.0.store(asleep_at(self.tail_seen), Ordering::Relaxed);
        stop_point("sleep.announced");
        // SYNC: SeqCst, pairs with the fence in `Producer::publish`: either we see its tail or it sees
        // that we sleep (rule 5).
        fence(Ordering::SeqCst);
        self.refresh_tail()?;
        Ok(self.position != self.tail_seen)
    }

    /// Takes back [`Self::arm`]: from now on the producer does not ring.
    pub fn disarm(&mut self) {
        // Relaxed: a stale odd value costs the producer one needless ring.
        self.memory.own().sleep.0.store(AWAKE, Ordering::Relaxed);
        stop_point("awake.announced");
    }

    /// Whether the producer said that nothing more will come. Records may still be unread.
    pub fn peer_closed(&self) -> bool {
        // Relaxed: the mark is a bit of the tail, and who has seen a value of a word never sees an older
        // one; `refresh_tail` acquires the records when they are read.
        self.memory.peer().tail.0.load(Ordering::Relaxed) & TAIL_CLOSED != 0
    }

    /// Asks the producer how far it is.
    fn refresh_tail(&mut self) -> Result<(), Poison> {
        // Relaxed, then a fence: the peer's half may be mapped read-only, where the language defines
        // nothing but relaxed loads.
        let found = self.memory.peer().tail.0.load(Ordering::Relaxed);
        // SYNC: pairs with the Release stores in `Producer::publish` and `Producer::close`: the records
        // below are complete.
        fence(Ordering::Acquire);
        let tail = found & !TAIL_CLOSED;
        let capacity = self.memory.geometry().capacity_bytes();
        // Bounded before use (rule 4): never backwards, never more than the ring holds.
        if tail < self.tail_seen
            || tail - self.released > capacity
            || !tail.is_multiple_of(HEADER_BYTES as u64)
        {
            return Err(Poison::Tail { found, seen: self.tail_seen, capacity });
        }
        self.tail_seen = tail;
        Ok(())
    }
}
