//! The single-producer single-consumer byte ring.
//!
//! # Layout
//!
//! A direction of a link runs from the data of one half to the reader of the other. Its words are spread
//! over both halves, each written by one side only:
//!
//! | word | lies in the half of | written by | read by |
//! |---|---|---|---|
//! | data, `tail`, `space_wanted` | the producer | producer | consumer |
//! | `head`, `sleep` | the consumer | consumer | producer |
//!
//! # Who may touch what
//!
//! 1. Data in `head..tail` belongs to the consumer, all other data to the producer.
//! 2. The producer moves `tail` with a Release store after the records are complete; that one store makes
//!    a batch visible. The consumer acquires it before it reads them.
//! 3. The consumer moves `head` with a Release store after it is through with the bytes. The producer
//!    acquires it before it writes over them.
//! 4. Both sides keep private copies of what the other last published. A word read from the peer is
//!    compared with the private copy before it is used; an impossible one poisons the ring. It is loaded
//!    Relaxed and followed by an Acquire fence, since the page may be mapped read-only (trust rule T6).
//! 5. A sleeper makes its word odd, fences, looks once more, and only then sleeps. A waker publishes,
//!    fences, and only then looks at the word. Either the sleeper sees the data or the waker the sleeper.
//! 6. The odd word is the position the sleeper saw last, plus one. A waker rings once for each such position,
//!    and not for the position itself: the sleeper has seen that. So once rung for, the position is behind
//!    the word a futex compares, and who is about to sleep on it does not.
//!
//! # What is deliberately absent
//!
//! Locks, compare-and-swap, a count that both sides write, and zeroing of consumed bytes: nothing beyond
//! `tail` is ever interpreted, so a producer killed at any instruction leaves no half record behind.

mod consumer;
mod producer;

#[cfg(all(test, not(loom)))]
mod boundary_tests;
#[cfg(all(test, not(loom)))]
mod hostile_tests;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_rig;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_takeover_tests;
#[cfg(all(test, loom, not(shuttle)))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;
#[cfg(all(test, loom, shuttle))]
mod shuttle_tests;

pub use consumer::Consumer;
pub use producer::{Producer, Refused, Slot};

use crate::layout::{ControlWords, Geometry};

/// The memory a ring runs over: mapped files outside of models, checked cells under loom.
pub trait Memory {
    /// Sizes of the ring, from our own copy.
    fn geometry(&self) -> Geometry;
    /// The control words of our half.
    fn own(&self) -> &ControlWords;
    /// The control words of the peer's half.
    fn peer(&self) -> &ControlWords;
    /// Writes into the data of our half. `offset + bytes.len()` is at most the capacity.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Copies from the data of the peer's half. `offset + into.len()` is at most the capacity.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Says that data of the peer's half will be read soon. `offset + bytes` is at most the capacity.
    fn prefetch(&self, offset: usize, bytes: usize);
}

/// Whether the other side sleeps and has to be woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a sleeping peer stays asleep unless its bell is rung"]
pub enum Wake {
    /// Ring its bell.
    Ring,
    /// It is awake, or has been rung for this sleep already.
    Quiet,
}

/// The sleep word of a side that is awake.
const AWAKE: u64 = 0;

/// The sleep word of a side that sleeps and has last seen `position` (rule 6).
#[inline]
fn asleep_at(position: u64) -> u64 {
    position | 1
}

/// What one side knows of the other's sleep word: which sleep it has rung for already.
#[derive(Debug, Default)]
struct Waker {
    /// The last odd value we rang for.
    rung: u64,
}

impl Waker {
    /// Decides on a sleep word read after the fence of rule 5, when we have moved to `position`.
    #[inline]
    fn decide(&mut self, word: u64, position: u64) -> Wake {
        // A ring for a position that the sleeper has seen would be spent before it sleeps, and the one it
        // needs would be saved.
        if word & 1 == 0 || word == self.rung || word == asleep_at(position) {
            return Wake::Quiet;
        }
        self.rung = word;
        Wake::Ring
    }
}
