//! Whole messages over a pair of rings: fragments out, reassembly in, and a bounded backlog.
//!
//! A message is [`Route`] (32 bytes of routing words, rewritten by each hop) followed by a body (one rkyv
//! archive, which no hop rewrites). A message larger than a record travels as records with the FRAGMENT
//! flag on all but the last and CONTINUED on all but the first; since a ring has one producer, the fragments
//! of a message are adjacent. A first record in the place of a continuation says that the sender was replaced
//! in the middle of a message: the beginning is dropped, since the successor sends it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkyv::util::AlignedVec;

use crate::doorbell::{Bell, futex_wait};
use crate::envelope::{Kind, ROUTE_BYTES, Route};
use crate::mapping::{Half, Halves};
use crate::record::{FLAG_CONTINUED, FLAG_FRAGMENT, Poison};
use crate::ring::{Consumer, Memory, Producer, Refused, Wake};
use crate::stop_point::stop_point;

/// What a link may hold outside of its rings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest message, routing words included.
    pub message_bytes_max: usize,
    /// The most bytes that wait for room; beyond that a send is refused.
    pub backlog_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 2 * 1024 * 1024, backlog_bytes_max: 8 * 1024 * 1024 }
    }
}

/// How received messages are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// The peer may write at any time: copy first, then look (trust rule T1).
    CopyAndCheck,
    /// The peer is trusted not to touch what it has published (trust rule T2).
    InPlace,
}

/// Why a message was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The backlog is full: nothing was taken, try again when the peer has caught up.
    #[error("backlog is full: {queued} bytes wait, at most {max} may")]
    Full {
        /// Bytes that wait.
        queued: usize,
        /// The limit.
        max: usize,
    },
    /// Never possible on this link.
    #[error("message of {len} bytes is larger than the {max} of the link")]
    TooLarge {
        /// Its size, routing words included.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The peer broke the ring.
    #[error("link is poisoned")]
    Poisoned(#[source] Poison),
}

/// Both directions of a link, as seen from one side.
#[derive(Debug)]
pub struct Link {
    /// Our messages to the peer.
    pub sender: Sender,
    /// The peer's messages to us.
    pub receiver: Receiver,
}

impl Link {
    /// Takes both roles of one side over its own and the peer's half.
    ///
    /// Not public: whoever calls it twice for one half makes two writers of it (trust rule T3).
    pub(crate) fn new(
        own: &Arc<Half>,
        peer: &Arc<Half>,
        bell: Bell,
        mode: ReadMode,
        limits: Limits,
    ) -> Result<Self, Poison> {
        let producer = Producer::attach(Halves::of_producer(own, peer))?;
        let consumer = Consumer::attach(Halves::of_consumer(own, peer))?;
        Ok(Self {
            sender: Sender {
                producer,
                bell: bell.clone(),
                backlog: VecDeque::new(),
                backlog_bytes: 0,
                waiting: false,
                limits,
            },
            receiver: Receiver { consumer, bell, arena: AlignedVec::new(), partial: None, mode, limits },
        })
    }
}

/// A message that waits for room, possibly half sent.
#[derive(Debug)]
struct Pending {
    kind: u16,
    bytes: Vec<u8>,
    sent: usize,
}

/// The sending side of a link.
#[derive(Debug)]
pub struct Sender {
    producer: Producer<Halves>,
    bell: Bell,
    backlog: VecDeque<Pending>,
    backlog_bytes: usize,
    /// Whether we asked the peer to ring when there is room.
    waiting: bool,
    limits: Limits,
}

impl Sender {
    /// Writes a message into the ring, or behind those that already wait. Visible after [`Self::flush`].
    ///
    /// HOT: for a message that fits in a record and finds room: no allocation, lock or syscall, one copy.
    #[inline]
    pub fn send(&mut self, kind: Kind, route: &Route, body: &[u8]) -> Result<(), SendError> {
        let len = ROUTE_BYTES + body.len();
        let one_record =
            self.producer.memory().geometry().record_bytes_max().min(self.limits.message_bytes_max);
        if self.backlog.is_empty() && len <= one_record {
            match self.producer.reserve(len) {
                Ok(mut slot) => {
                    let _fits = slot.put(&route.encode()) && slot.put(body);
                    debug_assert!(_fits, "reserved for exactly this");
                    slot.commit(kind.number(), 0);
                    return Ok(());
                }
                Err(Refused::Poisoned(poison)) => return Err(SendError::Poisoned(poison)),
                Err(Refused::Full { .. } | Refused::TooLarge { .. }) => {}
            }
        }
        self.enqueue(kind, route, body)
    }

    #[cold]
    fn enqueue(&mut self, kind: Kind, route: &Route, body: &[u8]) -> Result<(), SendError> {
        let len = ROUTE_BYTES + body.len();
        if len > self.limits.message_bytes_max {
            return Err(SendError::TooLarge { len, max: self.limits.message_bytes_max });
        }
        if self.backlog_bytes + len > self.limits.backlog_bytes_max {
            return Err(SendError::Full { queued: self.backlog_bytes, max: self.limits.backlog_bytes_max });
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&route.encode());
        bytes.extend_from_slice(body);
        self.backlog.push_back(Pending { kind: kind.number(), bytes, sent: 0 });
        self.backlog_bytes += len;
        Ok(())
    }

    /// Bytes that wait for room in the ring.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Moves what waits into the ring as far as there is room, publishes the batch, and wakes the peer if
    /// it sleeps. Asks to be rung when room is missing.
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.drain_backlog().map_err(SendError::Poisoned)?;
        self.publish();
        while !self.backlog.is_empty() {
            // Ask for a ring, then look again: the room may have come in between.
            self.waiting = true;
            let needed = self.next_fragment_span();
            if !self.producer.arm_space(needed).map_err(SendError::Poisoned)? {
                return Ok(());
            }
            self.drain_backlog().map_err(SendError::Poisoned)?;
            self.publish();
        }
        if self.waiting {
            self.waiting = false;
            self.producer.disarm_space();
        }
        Ok(())
    }

    fn publish(&mut self) {
        if self.producer.publish() == Wake::Ring {
            self.bell.ring(&self.producer.memory().own().tail.0);
        }
    }

    /// An upper bound of the room the next fragment needs, padding included.
    fn next_fragment_span(&self) -> u64 {
        let max = self.producer.memory().geometry().record_bytes_max();
        let rest = self.backlog.front().map_or(0, |p| p.bytes.len() - p.sent);
        2 * crate::record::span(rest.min(max))
    }

    fn drain_backlog(&mut self) -> Result<(), Poison> {
        let max = self.producer.memory().geometry().record_bytes_max();
        while let Some(pending) = self.backlog.front_mut() {
            let rest = &pending.bytes[pending.sent..];
            let piece = rest.len().min(max);
            let mut slot = match self.producer.reserve(piece) {
                Ok(slot) => slot,
                Err(Refused::Poisoned(poison)) => return Err(poison),
                Err(Refused::Full { .. } | Refused::TooLarge { .. }) => return Ok(()),
            };
            let _fits = slot.put(&rest[..piece]);
            debug_assert!(_fits, "reserved for exactly this");
            let more = if piece < rest.len() { FLAG_FRAGMENT } else { 0 };
            let continued = if pending.sent > 0 { FLAG_CONTINUED } else { 0 };
            slot.commit(pending.kind, more | continued);
            pending.sent += piece;
            if pending.sent == pending.bytes.len() {
                self.backlog_bytes -= pending.bytes.len();
                self.backlog.pop_front();
            }
        }
        Ok(())
    }

    /// Sleeps until the peer has released something, at most `timeout`. For a side woken by futex.
    pub fn wait_for_room(&mut self, timeout: Duration) {
        let head = &self.producer.memory().peer().head.0;
        // The value our last look saw; if the peer has moved since, the kernel refuses to sleep.
        let expected = self.producer.head_seen();
        futex_wait(head, expected, timeout);
    }

    /// Wakes the peer whatever its sleep words say. Due once after taking over a used segment: the previous
    /// holder of the role may have died between publishing or releasing and ringing.
    pub fn wake_peer(&self) {
        let own = self.producer.memory().own();
        stop_point("adopt.before");
        self.bell.ring(&own.tail.0);
        self.bell.ring(&own.head.0);
        stop_point("adopt.after");
    }

    /// Publishes what is in the ring, says that nothing more will come, and wakes the peer so that it
    /// notices. What waits in the backlog is not sent.
    pub fn close(&mut self) {
        self.producer.close();
        self.bell.ring(&self.producer.memory().own().tail.0);
    }

    /// Bytes published so far, ever.
    pub fn published(&self) -> u64 {
        self.producer.published()
    }
}

/// One received message. The body is borrowed from the ring or from the private copy.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its routing words.
    pub route: Route,
    /// Its archive, 16-aligned. Validate it with the accessors of [`crate::envelope`].
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(kind: u16, bytes: &'a [u8]) -> Result<Self, Poison> {
        let kind = Kind::from_number(kind).ok_or(Poison::Kind { kind })?;
        let Some((route, body)) = bytes.split_first_chunk::<ROUTE_BYTES>() else {
            return Err(Poison::Archive { kind: kind.number(), len: bytes.len() });
        };
        Ok(Self { kind, route: Route::decode(route), body })
    }
}

/// The receiving side of a link.
#[derive(Debug)]
pub struct Receiver {
    consumer: Consumer<Halves>,
    bell: Bell,
    /// Private copy of the message at hand; holds the fragments of an unfinished one between polls.
    arena: AlignedVec<16>,
    /// Kind of the unfinished message in the arena.
    partial: Option<u16>,
    mode: ReadMode,
    limits: Limits,
}

impl Receiver {
    /// Hands up to `records_max` records to `each`, whole messages only, and says how many messages.
    ///
    /// The records stay in the ring until [`Self::release`], which is due also when the answer is 0: all of
    /// them may have been fragments of one message. An error means that the peer broke the ring:
    /// nothing further may be read from it.
    ///
    /// HOT: no allocation once the arena has grown, no lock or syscall. Bounded work per call.
    #[inline]
    pub fn receive(
        &mut self,
        records_max: usize,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<usize, Poison> {
        let mut messages = 0;
        for _ in 0..records_max {
            let Some(header) = self.consumer.peek()? else { break };
            let len = header.len as usize;
            if len > self.limits.message_bytes_max {
                return Err(Poison::MessageTooLarge { max: self.limits.message_bytes_max });
            }
            if header.flags == 0 {
                self.partial = None;
                if self.mode == ReadMode::InPlace {
                    let memory = self.consumer.memory();
                    let at = memory.geometry().offset(header.position) + crate::record::HEADER_BYTES;
                    // SAFETY: `peek` checked that the record lies inside the published bytes; it is
                    // released only by `release`, which needs `&mut self`; the peer is trusted not to
                    // write it before that by T2.
                    let bytes = unsafe { memory.slice(at, len) };
                    each(Message::parse(header.kind, bytes)?);
                } else {
                    self.copy(header, 0);
                    each(Message::parse(header.kind, &self.arena)?);
                }
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
    fn copy(&mut self, header: crate::record::Header, keep: usize) {
        let len = header.len as usize;
        self.arena.resize(keep + len, 0);
        self.consumer.copy_payload(header, &mut self.arena[keep..]);
    }

    #[cold]
    fn assemble(
        &mut self,
        header: crate::record::Header,
        each: &mut impl FnMut(Message<'_>),
    ) -> Result<bool, Poison> {
        let continued = header.flags & FLAG_CONTINUED != 0;
        let keep = match self.partial {
            _ if !continued => 0,
            // We, or our predecessor, gave the beginning back before the message was whole: it is lost, and
            // whoever supervises the peer has to have it sent again.
            None => return Err(Poison::Orphan { position: header.position }),
            Some(expected) if expected == header.kind => self.arena.len(),
            Some(expected) => return Err(Poison::FragmentKind { expected, found: header.kind }),
        };
        if keep + header.len as usize > self.limits.message_bytes_max {
            return Err(Poison::MessageTooLarge { max: self.limits.message_bytes_max });
        }
        self.copy(header, keep);
        if header.flags & FLAG_FRAGMENT != 0 {
            self.partial = Some(header.kind);
            return Ok(false);
        }
        self.partial = None;
        each(Message::parse(header.kind, &self.arena)?);
        // A rare large message must not leave its memory behind for good.
        if self.arena.capacity() > 256 * 1024 {
            self.arena = AlignedVec::new();
        }
        Ok(true)
    }

    /// Gives everything received so far back to the peer, and wakes it if it waits for room.
    #[inline]
    pub fn release(&mut self) {
        if self.consumer.release() == Wake::Ring {
            self.bell.ring(&self.consumer.memory().own().head.0);
        }
    }

    /// Announces that we sleep until the bell rings. `true`: something came meanwhile, do not sleep.
    pub fn arm(&mut self) -> Result<bool, Poison> {
        self.consumer.arm()
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
        if !self.consumer.arm()? && !self.peer_closed() {
            futex_wait(&self.consumer.memory().peer().tail.0, self.consumer.tail_seen(), timeout);
        }
        self.consumer.disarm();
        Ok(self.consumer.peek()?.is_some())
    }

    /// Whether the peer said that nothing more will come.
    pub fn peer_closed(&self) -> bool {
        self.consumer.peer_closed()
    }

    /// Where the next record stands.
    pub fn position(&self) -> u64 {
        self.consumer.position()
    }
}

#[cfg(test)]
mod tests;
