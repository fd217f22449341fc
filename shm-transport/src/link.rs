//! Whole messages over a pair of rings: fragments out, reassembly in, a bounded backlog, large ones by descriptor.
//!
//! A message is [`Route`] (32 bytes of routing words, rewritten by each hop) followed by a body (one rkyv
//! archive, which no hop rewrites). How it travels depends on its size:
//!
//! | size | travels as |
//! |---|---|
//! | up to an eighth of the ring | one record |
//! | up to three eighths | adjacent records: FRAGMENT on all but the last, CONTINUED on all but the first |
//! | above | a [sealed](crate::sealed) file, whose descriptor goes beside the ring; its record carries the routing words and says DESCRIPTOR |
//!
//! A reader releases a message as a whole. So whoever takes over a ring finds every message that its predecessor
//! had not released, from its first byte. A first record in the place of a continuation says that the *sender* was
//! replaced in the middle of a message: the beginning is dropped, since the successor sends it again.
//!
//! Where a descriptor cannot travel (there is no side channel, the peer does not know of it, the system has no
//! descriptor left), large messages travel as fragments too. A reader then has to release their beginning before it
//! has seen their end.

mod receiver;
mod sender;

pub use receiver::Receiver;
pub use sender::Sender;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::doorbell::Bell;
use crate::envelope::Kind;
use crate::layout::{ControlWords, FEATURE_DESCRIPTORS, Geometry};
use crate::mapping::{Half, Halves};
use crate::passage::Passage;
use crate::record::{HEADER_BYTES, Poison};
use crate::ring::{Consumer, Producer};
use crate::sync::Ordering;

/// Bytes of what a record with DESCRIPTOR carries behind the routing words: number and size, 8 bytes each.
pub const DESCRIPTOR_BYTES: usize = 16;

/// The largest message: 64 MiB of text, and what goes with it.
pub const MESSAGE_BYTES_MAX: usize = (64 << 20) + (64 << 10);
/// The largest message that travels as fragments, where descriptors are not possible: both sides hold it in private
/// memory, also for a peer that never sends its end.
pub const FRAGMENTED_BYTES_MAX: usize = 2 << 20;

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
        Self { message_bytes_max: MESSAGE_BYTES_MAX, backlog_bytes_max: 2 * MESSAGE_BYTES_MAX }
    }
}

/// How received messages are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// The peer may write at any time: copy first, then look (trust rule T1).
    CopyAndCheck,
    /// The peer is trusted not to touch what it has published (trust rule T2), but may have made mistakes or speak
    /// another version: validate, in place.
    CheckInPlace,
    /// The peer is a thread of this process: valid by construction (rule 1 of [`crate::envelope::Body`]).
    Trust,
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

/// How one side of a link reaches the other, beside the memory.
#[derive(Clone, Debug)]
pub struct Side {
    /// Wakes the peer.
    pub bell: Bell,
    /// This side's end of the side channel for descriptors, if there is one.
    // Arc: shared by sender and receiver.
    pub passage: Option<Arc<OwnedFd>>,
    /// How the peer's messages are read.
    pub mode: ReadMode,
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
    /// Takes both roles of one side over its own and the peer's half, at the positions found there. If somebody
    /// held them before, the peer is woken: the predecessor may have died between publishing and ringing.
    ///
    /// Not public: whoever calls it twice for one half makes two writers of it (trust rule T3).
    pub(crate) fn new(
        own: &Arc<Half>,
        peer: &Arc<Half>,
        side: &Side,
        limits: Limits,
    ) -> Result<Self, Poison> {
        let producer = Producer::attach(Halves::of_producer(own, peer))?;
        let consumer = Consumer::attach(Halves::of_consumer(own, peer))?;
        let words = own.control();
        // Relaxed, all of them: only the holder of the roles writes these words, and whoever reads them may
        // find them older than they are.
        let epoch = words.epoch.0.load(Ordering::Relaxed) + 1;
        words.kinds.0.store(Kind::SET, Ordering::Relaxed);
        let features = if side.passage.is_some() { FEATURE_DESCRIPTORS } else { 0 };
        words.features.0.store(features, Ordering::Relaxed);
        words.poison.0.store(0, Ordering::Relaxed);
        words.epoch.0.store(epoch, Ordering::Relaxed);
        let passage = || side.passage.as_ref().map(Passage::new);
        let sender = Sender::new(producer, side.bell.clone(), passage(), epoch, limits);
        if epoch > 1 {
            sender.wake_peer();
        }
        let receiver = Receiver::new(consumer, side.bell.clone(), passage(), side.mode, limits);
        Ok(Self { sender, receiver })
    }

    /// Whether the peer has ever taken its roles, as far as it says. Who has not was never sent a message.
    pub fn peer_has_attached(&self) -> bool {
        self.sender.peer_has_attached()
    }
}

/// The most payload bytes of a message that travels as fragments where descriptors are possible, so that it can stay
/// in the ring until all of it has been read: three eighths. With headers, and padding of at most an eighth, that is
/// less than the half that a reader may hold back.
fn fragments_bytes_max(geometry: Geometry) -> usize {
    3 * (geometry.capacity_bytes() as usize / 8) - 4 * HEADER_BYTES
}

/// How much of the ring a reader holds back for a message that is not whole. A sender that waits is rung for as soon as
/// half of the ring is free, so more must not be kept from it.
fn held_bytes_max(geometry: Geometry) -> u64 {
    geometry.capacity_bytes() / 2
}

/// Writes into our half that we do not read the peer any more, and why.
#[cold]
fn poisoned(own: &ControlWords, poison: Poison) -> Poison {
    // Relaxed: for those who look from outside.
    own.poison.0.store(poison.code(), Ordering::Relaxed);
    poison
}

#[cfg(test)]
mod descriptor_tests;
#[cfg(test)]
mod tests;
