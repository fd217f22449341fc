//! The receiving side: in place or copied out, whole messages only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rkyv::util::AlignedVec;

use super::{DESCRIPTOR_BYTES, FRAGMENTED_BYTES_MAX, Limits, ReadMode, held_bytes_max, poisoned};
use crate::doorbell::{Bell, futex_wait};
use crate::envelope::{Message, ROUTE_BYTES, Route};
use crate::mapping::Halves;
use crate::passage::Passage;
use crate::record::{FLAG_CONTINUED, FLAG_DESCRIPTOR, FLAG_FRAGMENT, HEADER_BYTES, Header, Poison};
use crate::ring::{Consumer, Memory, Wake};
use crate::sealed::Sealed;
use crate::sync::Ordering;

/// A private copy above this is not kept for the next message.
const ARENA_KEPT_BYTES_MAX: usize = 256 * 1024;

/// An unfinished message.
#[derive(Clone, Copy, Debug)]
struct Partial {
    kind: u16,
    /// Position of its first record.
    start: u64,
}

/// The receiving side of a link.
#[derive(Debug)]
pub struct Receiver {
    consumer: Consumer<Halves>,
    bell: Bell,
    passage: Option<Passage>,
    /// Private copy of the message at hand; holds the fragments of an unfinished one between polls.
    arena: AlignedVec<16>,
    /// What the arena holds the beginning of.
    partial: Option<Partial>,
    /// Whether the message read last came by descriptor, and is not released yet.
    descriptor_seen: bool,
    mode: ReadMode,
    limits: Limits,
}

impl Receiver {
    pub(super) fn new(
        consumer: Consumer<Halves>,
        bell: Bell,
        passage: Option<Passage>,
        mode: ReadMode,
        limits: Limits,
    ) -> Self {
        Self {
            consumer,
            bell,
            passage,
            arena: AlignedVec::new(),
            partial: None,
            descriptor_seen: false,
            mode,
            limits,
        }
    }

    /// Goes on behind the messages whose effects a predecessor has stored but perhaps not released. `position` is what
    /// [`Self::position`] said when the last of them had been received. To be called before anything is received.
    pub fn resume_at(&mut self, position: u64) -> Result<(), Poison> {
        self.consumer.resume_at(position).map_err(|poison| poisoned(self.consumer.memory().own(), poison))
    }

    /// Hands the messages of up to `records_max` records to `each`, and says how many that were.
    ///
    /// What a message borrows stays valid during the call only; the ring gets its room back with
    /// [`Self::release`]. After a message that came by descriptor nothing further is read before that.
    ///
    /// HOT: no allocation, lock or syscall; one copy in mode [`ReadMode::CopyAndCheck`], none in the others.
    pub fn receive(&mut self, records_max: usize, each: impl FnMut(Message<'_>)) -> Result<usize, Poison> {
        self.receive_records(records_max, each)
            .map_err(|poison| poisoned(self.consumer.memory().own(), poison))
    }

    #[inline]
    fn receive_records(
        &mut self,
        records_max: usize,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<usize, Poison> {
        let mut messages = 0;
        for _ in 0..records_max {
            if self.descriptor_seen {
                break;
            }
            let Some(header) = self.consumer.peek()? else { break };
            let len = header.len as usize;
            if len > self.limits.message_bytes_max {
                return Err(Poison::MessageTooLarge { max: self.limits.message_bytes_max });
            }
            if header.flags == 0 {
                self.partial = None;
                if self.mode == ReadMode::CopyAndCheck {
                    self.copy(header, 0);
                    let (route, body) = split(header, &self.arena)?;
                    each(Message::checked(header.kind, route, body)?);
                } else {
                    let memory = self.consumer.memory();
                    let at = memory.geometry().offset(header.position) + HEADER_BYTES;
                    // SAFETY: `peek` checked that the record lies inside the published bytes; it is
                    // released only by `release`, which needs `&mut self`; the peer is trusted not to
                    // write it before that by T2.
                    let bytes = unsafe { memory.slice(at, len) };
                    let (route, body) = split(header, bytes)?;
                    each(match self.mode {
                        ReadMode::Trust => Message::trusted(header.kind, route, body)?,
                        _ => Message::checked(header.kind, route, body)?,
                    });
                }
                messages += 1;
            } else if header.flags & FLAG_DESCRIPTOR != 0 {
                self.take_descriptor(header, &mut each)?;
                messages += 1;
            } else {
                messages += usize::from(self.assemble(header, &mut each)?);
            }
            self.consumer.advance(header);
        }
        Ok(messages)
    }

    /// Appends a record's payload to the arena, after the first `keep` bytes.
    #[inline]
    fn copy(&mut self, header: Header, keep: usize) {
        let len = header.len as usize;
        self.arena.resize(keep + len, 0);
        self.consumer.copy_payload(header, &mut self.arena[keep..]);
    }

    #[cold]
    fn assemble(&mut self, header: Header, each: &mut impl FnMut(Message<'_>)) -> Result<bool, Poison> {
        let continued = header.flags & FLAG_CONTINUED != 0;
        let (keep, start) = match self.partial {
            _ if !continued => (0, header.position),
            // The beginning was given back before the message was whole: it is lost, and whoever supervises
            // the peer has to have it sent again.
            None => return Err(Poison::Orphan { position: header.position }),
            Some(Partial { kind, start }) if kind == header.kind => (self.arena.len(), start),
            Some(Partial { kind, .. }) => {
                return Err(Poison::FragmentKind { expected: kind, found: header.kind });
            }
        };
        let max = self.limits.message_bytes_max.min(FRAGMENTED_BYTES_MAX);
        if keep + header.len as usize > max {
            return Err(Poison::MessageTooLarge { max });
        }
        self.copy(header, keep);
        if header.flags & FLAG_FRAGMENT != 0 {
            self.partial = Some(Partial { kind: header.kind, start });
            return Ok(false);
        }
        self.partial = None;
        let (route, body) = split(header, &self.arena)?;
        each(match self.mode {
            ReadMode::Trust => Message::trusted(header.kind, route, body)?,
            ReadMode::CheckInPlace | ReadMode::CopyAndCheck => Message::checked(header.kind, route, body)?,
        });
        self.shrink();
        Ok(true)
    }

    /// A rare large message must not leave its memory behind for good.
    fn shrink(&mut self) {
        if self.arena.capacity() > ARENA_KEPT_BYTES_MAX {
            self.arena = AlignedVec::new();
        }
    }

    /// Takes a message whose archive lies in a file of its own.
    #[cold]
    fn take_descriptor(&mut self, header: Header, each: &mut impl FnMut(Message<'_>)) -> Result<(), Poison> {
        let position = header.position;
        let broken = |reason| Poison::Descriptor { position, reason };
        self.partial = None;
        if header.flags != FLAG_DESCRIPTOR || header.len as usize != ROUTE_BYTES + DESCRIPTOR_BYTES {
            return Err(broken("its record has another form"));
        }
        self.copy(header, 0);
        let (route, words) = split(header, &self.arena)?;
        let (mut number, mut bytes) = ([0u8; 8], [0u8; 8]);
        number.copy_from_slice(&words[..8]);
        bytes.copy_from_slice(&words[8..DESCRIPTOR_BYTES]);
        let (number, bytes) = (u64::from_le_bytes(number), u64::from_le_bytes(bytes));
        let bytes_max =
            (self.limits.message_bytes_max - ROUTE_BYTES.min(self.limits.message_bytes_max)) as u64;
        if bytes > bytes_max {
            return Err(Poison::MessageTooLarge { max: self.limits.message_bytes_max });
        }
        let passage = self.passage.as_ref().ok_or(broken("this link has no side channel"))?;
        let file = passage.look(number).ok_or(broken("it did not come with its record"))?;
        let sealed = Sealed::receive(file, bytes).map_err(|error| broken(error.reason()))?;
        let sealed = Arc::new(sealed);
        each(match self.mode {
            ReadMode::Trust => Message::trusted_sealed(header.kind, route, &sealed)?,
            // Nobody can change it, so it is checked where it lies (trust rule T7).
            ReadMode::CheckInPlace | ReadMode::CopyAndCheck => {
                Message::checked_sealed(header.kind, route, &sealed)?
            }
        });
        self.descriptor_seen = true;
        Ok(())
    }

    /// Gives everything received so far back to the peer, and wakes it if it waits for room. The beginning of an
    /// unfinished message stays.
    #[inline]
    pub fn release(&mut self) {
        let until = match self.partial {
            None => self.consumer.position(),
            Some(partial) => self.keep_partial(partial),
        };
        let mut wake = self.consumer.release_to(until);
        if self.descriptor_seen || self.partial.is_some() {
            if self.descriptor_seen {
                self.drop_descriptor();
            }
            // The sender may wait for a descriptor to be released, or for the rest of what we hold back: then no whole
            // quarter may follow in which we would look.
            if wake == Wake::Quiet {
                wake = self.consumer.look_for_waiter();
            }
        }
        if wake == Wake::Ring {
            self.bell.ring(&self.consumer.memory().own().head.0);
        }
    }

    /// As [`Self::release`], but gives back only what lies before `position`, which [`Self::position`] has said before:
    /// the effects of what was received behind it are not stored yet. Until they are, nothing is read behind a message
    /// that came by descriptor.
    #[inline]
    pub fn release_until(&mut self, position: u64) {
        if position >= self.position() {
            // All whole messages: then also as much as has to be of one that is not whole.
            return self.release();
        }
        if self.consumer.release_to(position) == Wake::Ring {
            self.bell.ring(&self.consumer.memory().own().head.0);
        }
    }

    /// Whether nothing is read before what has been read is released.
    pub fn awaits_release(&self) -> bool {
        self.descriptor_seen
    }

    /// Up to where to release while a message is unfinished.
    #[cold]
    fn keep_partial(&self, partial: Partial) -> u64 {
        let position = self.consumer.position();
        let kept = position - partial.start;
        // Only a peer without descriptors sends more than this, and it needs the room for the rest.
        if kept > held_bytes_max(self.consumer.memory().geometry()) {
            return position;
        }
        partial.start
    }

    /// After the release: who dies in between leaves a descriptor whose number says that it is stale.
    #[cold]
    fn drop_descriptor(&mut self) {
        self.descriptor_seen = false;
        if let Some(passage) = &self.passage {
            passage.drop_seen();
        }
    }

    /// Goes as far as a reader that dies in the middle of [`Self::release`].
    #[cfg(test)]
    pub(super) fn release_without_drop(&mut self) -> Wake {
        self.consumer.release_to(self.consumer.position())
    }

    /// Announces that we sleep until the bell rings. `true`: something came meanwhile, do not sleep.
    pub fn arm(&mut self) -> Result<bool, Poison> {
        self.consumer.arm().map_err(|poison| poisoned(self.consumer.memory().own(), poison))
    }

    /// Announces that we are awake: the peer need not ring.
    pub fn disarm(&mut self) {
        self.consumer.disarm();
    }

    /// Sleeps until there is something to receive, at most `timeout`. For a side woken by futex.
    ///
    /// `spin` is how long to look before sleeping; zero on a crowded machine.
    pub fn wait(&mut self, spin: Duration, timeout: Duration) -> Result<bool, Poison> {
        if !spin.is_zero() {
            let end = Instant::now() + spin;
            while Instant::now() < end {
                for _ in 0..64 {
                    if self.consumer.peek()?.is_some() {
                        return Ok(true);
                    }
                    std::hint::spin_loop();
                }
            }
        }
        if !self.arm()? && !self.peer_closed() {
            futex_wait(&self.consumer.memory().peer().tail.0, self.consumer.tail_seen(), timeout);
        }
        self.consumer.disarm();
        Ok(self.consumer.peek()?.is_some())
    }

    /// Whether the peer said that nothing more will come.
    pub fn peer_closed(&self) -> bool {
        self.consumer.peer_closed()
    }

    /// The peer's signs of life: a change is one, whatever the value. Zero from a peer that gives none.
    pub fn beat(&self) -> u64 {
        // Relaxed: it is only compared with itself.
        self.consumer.memory().peer().beat.0.load(Ordering::Relaxed)
    }

    /// Whether the peer has published anything, ever.
    pub fn peer_has_spoken(&self) -> bool {
        // Relaxed: only whether; what it has published is acquired when it is read.
        self.consumer.memory().peer().tail.0.load(Ordering::Relaxed) != 0
    }

    /// Where the next record stands. While a message is unfinished, where its first one does: the position behind the
    /// last whole message.
    pub fn position(&self) -> u64 {
        self.partial.map_or(self.consumer.position(), |partial| partial.start)
    }
}

/// Parts routing words and archive.
#[inline]
fn split(header: Header, bytes: &[u8]) -> Result<(Route, &[u8]), Poison> {
    match bytes.split_first_chunk::<ROUTE_BYTES>() {
        Some((words, body)) => Ok((Route::decode(words), body)),
        None => Err(Poison::Archive { kind: header.kind, len: bytes.len() }),
    }
}
