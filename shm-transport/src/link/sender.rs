//! The sending side: into the slot, or behind what waits, or by descriptor.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::{DESCRIPTOR_BYTES, FRAGMENTED_BYTES_MAX, Limits, SendError, fragments_bytes_max, poisoned};
use crate::doorbell::{Bell, futex_wait};
use crate::envelope::{Body, Content, Encoder, Kind, ROUTE_BYTES, Route, archive_into, archive_to};
use crate::heart::Heart;
use crate::layout::{FEATURE_DESCRIPTORS, KINDS_FIRST};
use crate::mapping::Halves;
use crate::passage::{IN_FLIGHT_MAX, Passage};
use crate::record::{FLAG_CONTINUED, FLAG_DESCRIPTOR, FLAG_FRAGMENT, Poison, span};
use crate::ring::{Memory, Producer, Refused, Wake};
use crate::sealed::Sealed;
use crate::stop_point::stop_point;
use crate::sync::Ordering;

/// Low bits of a descriptor's number count the large messages of one holder of the role; the others are its epoch.
const NUMBER_BITS: u32 = 40;

/// What a waiting message consists of.
#[derive(Debug)]
enum Waiting {
    /// Routing words and archive, of which so much is sent.
    Bytes { bytes: Vec<u8>, sent: usize },
    /// Routing words, and a file. Arc: it may be on its way on other links, too.
    Sealed { route: Route, sealed: Arc<Sealed> },
}

impl Waiting {
    fn bytes(route: &Route, archive: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(ROUTE_BYTES + archive.len());
        bytes.extend_from_slice(&route.encode());
        bytes.extend_from_slice(archive);
        Self::Bytes { bytes, sent: 0 }
    }
}

/// What became of the first message of the backlog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// All of it is in the ring.
    Sent,
    /// There is no room for the rest.
    NoRoom,
    /// Its descriptor cannot travel now. Too large for fragments, it waits for the next flush.
    Refused,
    /// The peer has not said yet what it understands. Its first message rings us, and the next flush asks again.
    PeerAway,
}

/// What a peer says of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Understood {
    Yes,
    No,
    /// It has not taken its roles.
    NotYet,
}

/// A message that waits for room, possibly half sent.
#[derive(Debug)]
struct Pending {
    kind: u16,
    len: usize,
    waiting: Waiting,
}

/// The sending side of a link.
#[derive(Debug)]
pub struct Sender {
    producer: Producer<Halves>,
    bell: Bell,
    passage: Option<Passage>,
    /// What the peer is known to understand. A kind that it understands is not asked for again: an agent has rings of
    /// its own, and what it sends to one gateway after the other is of the first layout, or answers a kind that is newer.
    kinds: u64,
    /// Number of the next descriptor.
    number: u64,
    /// Ends of the records with descriptors that the peer has not released yet, oldest first.
    descriptors: VecDeque<u64>,
    backlog: VecDeque<Pending>,
    backlog_bytes: usize,
    /// Whether we asked the peer to ring when there is room.
    waiting: bool,
    /// Makes what cannot be made in a slot.
    encoder: Encoder,
    limits: Limits,
}

impl Sender {
    pub(super) fn new(
        producer: Producer<Halves>,
        bell: Bell,
        passage: Option<Passage>,
        epoch: u64,
        limits: Limits,
    ) -> Self {
        Self {
            producer,
            bell,
            passage,
            kinds: KINDS_FIRST,
            number: epoch << NUMBER_BITS,
            descriptors: VecDeque::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            waiting: false,
            encoder: Encoder::default(),
            limits,
        }
    }

    /// Makes the archive of a message in the ring, or behind those that already wait. Visible after
    /// [`Self::flush`], which waits for a peer that has not said yet which kinds it understands, and fails for one
    /// that does not understand this one.
    ///
    /// HOT: for a message that fits in a record and finds room: no allocation, lock or syscall, and the archive is
    /// built where the peer reads it.
    #[inline]
    pub fn send<T: Content>(&mut self, route: &Route, value: &T) -> Result<(), SendError> {
        let bound = ROUTE_BYTES + value.archive_bytes_max();
        if self.backlog.is_empty() && bound <= self.record_bytes_max() && self.takes(T::KIND) {
            match self.producer.reserve(bound) {
                Ok(mut slot) => {
                    slot.fill(|space| {
                        let (words, archive) = space.split_at_mut(ROUTE_BYTES);
                        words.copy_from_slice(&route.encode());
                        ROUTE_BYTES + archive_into(value, archive)
                    });
                    slot.commit(T::KIND.number(), 0);
                    return Ok(());
                }
                Err(Refused::Poisoned(poison)) => return Err(self.broken(poison)),
                Err(Refused::Full { .. } | Refused::TooLarge { .. }) => {}
            }
        }
        self.send_elsewhere(route, value, bound)
    }

    #[cold]
    fn send_elsewhere<T: Content>(
        &mut self,
        route: &Route,
        value: &T,
        bound: usize,
    ) -> Result<(), SendError> {
        if bound > fragments_bytes_max(self.geometry()) && self.descriptors_possible() {
            // Without a file it goes in fragments.
            if let Ok(sealed) = Sealed::create(|file| archive_to(value, file)) {
                return self.enqueue_sealed(T::KIND.number(), route, &Arc::new(sealed));
            }
        }
        let mut encoder = std::mem::take(&mut self.encoder);
        let sent = self.forward(route, encoder.encode(value));
        self.encoder = encoder;
        sent
    }

    /// Copies a message into the ring, or behind those that already wait. Visible after [`Self::flush`]. One that
    /// lies in a file of its own travels by descriptor, without a copy.
    ///
    /// HOT: for a message that fits in a record and finds room: no allocation, lock or syscall, one copy.
    #[inline]
    pub fn forward(&mut self, route: &Route, body: Body<'_>) -> Result<(), SendError> {
        let bytes = body.bytes();
        let len = ROUTE_BYTES + bytes.len();
        if self.backlog.is_empty() && len <= self.record_bytes_max() && self.takes(body.kind()) {
            match self.producer.reserve(len) {
                Ok(mut slot) => {
                    let _fits = slot.put(&route.encode()) && slot.put(bytes);
                    debug_assert!(_fits, "reserved for exactly this");
                    slot.commit(body.kind().number(), 0);
                    return Ok(());
                }
                Err(Refused::Poisoned(poison)) => return Err(self.broken(poison)),
                Err(Refused::Full { .. } | Refused::TooLarge { .. }) => {}
            }
        }
        self.enqueue(route, body)
    }

    #[cold]
    fn enqueue(&mut self, route: &Route, body: Body<'_>) -> Result<(), SendError> {
        let (kind, archive) = (body.kind().number(), body.bytes());
        let len = ROUTE_BYTES + archive.len();
        self.check_room(len)?;
        if len > fragments_bytes_max(self.geometry()) && self.descriptors_possible() {
            if let Some(sealed) = body.sealed() {
                return self.enqueue_sealed(kind, route, sealed);
            }
            // Without a file it goes in fragments.
            if let Ok(sealed) = Sealed::create(|file| file.write_all(archive)) {
                return self.enqueue_sealed(kind, route, &Arc::new(sealed));
            }
        }
        if len > FRAGMENTED_BYTES_MAX {
            return Err(SendError::TooLarge { len, max: FRAGMENTED_BYTES_MAX });
        }
        self.backlog.push_back(Pending { kind, len, waiting: Waiting::bytes(route, archive) });
        self.backlog_bytes += len;
        Ok(())
    }

    fn enqueue_sealed(&mut self, kind: u16, route: &Route, sealed: &Arc<Sealed>) -> Result<(), SendError> {
        let len = ROUTE_BYTES + sealed.bytes().len();
        self.check_room(len)?;
        let waiting = Waiting::Sealed { route: *route, sealed: Arc::clone(sealed) };
        self.backlog.push_back(Pending { kind, len, waiting });
        self.backlog_bytes += len;
        Ok(())
    }

    fn check_room(&self, len: usize) -> Result<(), SendError> {
        let Limits { message_bytes_max, backlog_bytes_max } = self.limits;
        if len > message_bytes_max {
            return Err(SendError::TooLarge { len, max: message_bytes_max });
        }
        if self.backlog_bytes + len > backlog_bytes_max {
            return Err(SendError::Full { queued: self.backlog_bytes, max: backlog_bytes_max });
        }
        Ok(())
    }

    fn geometry(&self) -> crate::layout::Geometry {
        self.producer.memory().geometry()
    }

    /// The most bytes, routing words included, that travel in one record.
    #[inline]
    fn record_bytes_max(&self) -> usize {
        self.geometry().record_bytes_max().min(self.limits.message_bytes_max)
    }

    /// Whether the peer understands this kind. What it does not, or perhaps not, goes through the backlog, which
    /// decides.
    #[inline]
    fn takes(&mut self, kind: Kind) -> bool {
        self.kinds & (1 << kind.number()) != 0 || self.ask(kind.number()) == Understood::Yes
    }

    #[cold]
    fn ask(&mut self, kind: u16) -> Understood {
        let peer = self.producer.memory().peer();
        // SYNC: pairs with the Release store of the peer's producer, in `publish`: who has published anything wrote
        // its kinds before.
        let tail = peer.tail.0.load(Ordering::Acquire);
        // Relaxed: behind the load above. Written once per attach; an older value is zero.
        match peer.kinds.0.load(Ordering::Relaxed) {
            0 if tail == 0 => return Understood::NotYet,
            0 => {}
            kinds => self.kinds |= kinds,
        }
        if self.kinds & (1 << kind) != 0 { Understood::Yes } else { Understood::No }
    }

    /// Whether the peer has said which kinds it understands, or published anything.
    pub(super) fn peer_has_attached(&self) -> bool {
        let peer = self.producer.memory().peer();
        // Relaxed, both: an older value of either is that of a peer which nobody has sent a message to.
        peer.kinds.0.load(Ordering::Relaxed) != 0 || peer.tail.0.load(Ordering::Relaxed) != 0
    }

    /// Whether the peer takes large messages by descriptor.
    fn descriptors_possible(&self) -> bool {
        // Relaxed: who sees an old value sends fragments, which every peer takes.
        let features = self.producer.memory().peer().features.0.load(Ordering::Relaxed);
        self.passage.is_some() && features & FEATURE_DESCRIPTORS != 0
    }

    #[cold]
    fn broken(&self, poison: Poison) -> SendError {
        SendError::Poisoned(poisoned(self.producer.memory().own(), poison))
    }

    /// Bytes that wait for room in the ring.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Moves what waits into the ring as far as there is room, publishes the batch, and wakes the peer if
    /// it sleeps. Asks to be rung when room is missing.
    ///
    /// HOT: while nothing waits, one publish.
    #[inline]
    pub fn flush(&mut self) -> Result<(), SendError> {
        if self.backlog.is_empty() && !self.waiting {
            self.publish();
            return Ok(());
        }
        self.flush_backlog()
    }

    #[cold]
    fn flush_backlog(&mut self) -> Result<(), SendError> {
        let mut progress = self.drain_and_publish()?;
        while progress == Progress::NoRoom {
            // Ask for a ring, then look again: the room may have come in between.
            self.waiting = true;
            let needed = self.room_needed();
            if !self.producer.arm_space(needed).map_err(|poison| self.broken(poison))? {
                return Ok(());
            }
            progress = self.drain_and_publish()?;
        }
        if self.waiting {
            self.waiting = false;
            self.producer.disarm_space();
        }
        Ok(())
    }

    fn drain_and_publish(&mut self) -> Result<Progress, SendError> {
        let progress = self.drain_backlog().map_err(|poison| self.broken(poison))?;
        self.publish();
        Ok(progress)
    }

    #[inline]
    fn publish(&mut self) {
        if self.producer.publish() == Wake::Ring {
            self.bell.ring(&self.producer.memory().own().tail.0);
        }
    }

    /// An upper bound of the room the next record of the backlog needs, padding included.
    fn room_needed(&self) -> u64 {
        let geometry = self.geometry();
        match self.backlog.front().map(|pending| &pending.waiting) {
            None => 0,
            Some(Waiting::Bytes { bytes, sent }) => {
                2 * span((bytes.len() - sent).min(geometry.record_bytes_max()))
            }
            // So much that the oldest descriptor under way has been released.
            Some(Waiting::Sealed { .. }) if self.descriptors.len() >= IN_FLIGHT_MAX => {
                let behind = self.producer.tail() - self.descriptors[0];
                geometry.capacity_bytes() - behind
            }
            Some(Waiting::Sealed { .. }) => 2 * span(ROUTE_BYTES + DESCRIPTOR_BYTES),
        }
    }

    fn drain_backlog(&mut self) -> Result<Progress, Poison> {
        while let Some(mut pending) = self.backlog.pop_front() {
            if self.kinds & (1 << pending.kind) == 0 {
                match self.ask(pending.kind) {
                    Understood::Yes => {}
                    Understood::No => {
                        let kind = pending.kind;
                        // Stays first, so that nothing behind it is sent by a later call.
                        self.backlog.push_front(pending);
                        return Err(Poison::PeerKind { kind });
                    }
                    Understood::NotYet => {
                        self.backlog.push_front(pending);
                        return Ok(Progress::PeerAway);
                    }
                }
            }
            let progress = match &mut pending.waiting {
                Waiting::Bytes { bytes, sent } => self.put_fragments(pending.kind, bytes, sent)?,
                Waiting::Sealed { route, sealed } => {
                    let progress = self.put_descriptor(pending.kind, route, sealed)?;
                    if progress == Progress::Refused && pending.len <= FRAGMENTED_BYTES_MAX {
                        pending.waiting = Waiting::bytes(route, sealed.bytes());
                        self.backlog.push_front(pending);
                        continue;
                    }
                    progress
                }
            };
            if progress != Progress::Sent {
                self.backlog.push_front(pending);
                return Ok(progress);
            }
            self.backlog_bytes -= pending.len;
        }
        Ok(Progress::Sent)
    }

    fn put_fragments(&mut self, kind: u16, bytes: &[u8], sent: &mut usize) -> Result<Progress, Poison> {
        let max = self.geometry().record_bytes_max();
        while *sent < bytes.len() {
            let rest = &bytes[*sent..];
            let piece = rest.len().min(max);
            let mut slot = match self.producer.reserve(piece) {
                Ok(slot) => slot,
                Err(Refused::Poisoned(poison)) => return Err(poison),
                Err(Refused::Full { .. } | Refused::TooLarge { .. }) => return Ok(Progress::NoRoom),
            };
            let _fits = slot.put(&rest[..piece]);
            debug_assert!(_fits, "reserved for exactly this");
            let more = if piece < rest.len() { FLAG_FRAGMENT } else { 0 };
            let continued = if *sent > 0 { FLAG_CONTINUED } else { 0 };
            slot.commit(kind, more | continued);
            *sent += piece;
        }
        Ok(Progress::Sent)
    }

    fn put_descriptor(&mut self, kind: u16, route: &Route, sealed: &Sealed) -> Result<Progress, Poison> {
        let head = self.producer.head_seen();
        while self.descriptors.front().is_some_and(|&end| end <= head) {
            self.descriptors.pop_front();
        }
        let Some(passage) = &self.passage else { return Ok(Progress::Refused) };
        let mut slot = match self.producer.reserve(ROUTE_BYTES + DESCRIPTOR_BYTES) {
            Ok(slot) => slot,
            Err(Refused::Poisoned(poison)) => return Err(poison),
            Err(Refused::Full { .. } | Refused::TooLarge { .. }) => return Ok(Progress::NoRoom),
        };
        if self.descriptors.len() >= IN_FLIGHT_MAX {
            return Ok(Progress::NoRoom);
        }
        // Before its record: who sees the record finds the descriptor.
        if !passage.send(self.number, sealed.as_fd()) {
            return Ok(Progress::Refused);
        }
        let bytes = sealed.bytes().len() as u64;
        let _fits = slot.put(&route.encode())
            && slot.put(&self.number.to_le_bytes())
            && slot.put(&bytes.to_le_bytes());
        debug_assert!(_fits, "reserved for exactly this");
        slot.commit(kind, FLAG_DESCRIPTOR);
        self.number += 1;
        self.descriptors.push_back(self.producer.tail());
        Ok(Progress::Sent)
    }

    /// Sleeps until the peer has released something, at most `timeout`. For a side woken by futex.
    pub fn wait_for_room(&mut self, timeout: Duration) {
        let head = &self.producer.memory().peer().head.0;
        // The value our last look saw; if the peer has moved since, the kernel refuses to sleep.
        let expected = self.producer.head_seen();
        futex_wait(head, expected, timeout);
    }

    /// Wakes the peer whatever its sleep words say.
    pub(crate) fn wake_peer(&self) {
        let own = self.producer.memory().own();
        stop_point("adopt.before");
        self.bell.ring(&own.tail.0);
        self.bell.ring(&own.head.0);
        stop_point("adopt.after");
    }

    /// Asks the peer for a sign of life: see [`Receiver::beat`](super::Receiver::beat).
    pub fn ask_for_beat(&mut self) {
        let word = &self.producer.memory().own().beat.0;
        // Relaxed, both: only we write it, and what follows from it is another word that is only compared.
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.bell.ring(word);
    }

    /// What gives signs of life to the peer, as long as somebody asks it to.
    pub fn heart(&self) -> Heart {
        self.producer.memory().heart()
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

    /// Goes as far as a sender that dies before it publishes.
    #[cfg(test)]
    pub(super) fn drain_unpublished(&mut self) {
        let _progress = self.drain_backlog().unwrap();
        assert!(self.producer.tail() > self.producer.published());
    }

    /// How many descriptors the peer has not released.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.descriptors.len()
    }
}
