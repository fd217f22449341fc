//! The agent's side of a heartbeat: sleeps until the engine asks for a sign of life, and gives one.
//!
//! # Who may touch what
//!
//! 1. The engine counts up `beat` in its half when it asks, and rings the futex on it. The agent only reads it.
//! 2. The agent counts up `beat` in its half with one instruction, so several hearts of one side do no harm.
//!
//! # What is deliberately absent
//!
//! A clock, and a value that says which question is answered: any change is a sign of life. So an agent cannot say
//! anything by the word but that somebody changes it.

use std::sync::Arc;
use std::time::Duration;

use crate::doorbell::{Bell, futex_wait};
use crate::mapping::Half;
use crate::sync::{AtomicU64, Ordering};

/// Gives signs of life for one side of a link. Reads and writes the `beat` words only.
#[derive(Debug)]
pub struct Heart {
    // Arc: the roles of the link use the same maps.
    own: Arc<Half>,
    // Arc: as above.
    peer: Arc<Half>,
}

impl Heart {
    pub(crate) fn new(own: Arc<Half>, peer: Arc<Half>) -> Self {
        Self { own, peer }
    }

    /// Gives a sign of life. From the first one on the peer may count on more.
    pub fn beat(&self) {
        // Relaxed: only that it changes is looked at.
        self.own.control().beat.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the peer has asked for a sign of life. It is to be compared only.
    pub fn asked(&self) -> u64 {
        // Relaxed: nothing else is read because of it.
        self.question().load(Ordering::Relaxed)
    }

    /// Sleeps until the peer has asked more often than `seen`, or somebody calls [`Self::wake`]; at most `timeout`.
    /// Returns early whenever the kernel likes.
    pub fn wait(&self, seen: u64, timeout: Duration) {
        futex_wait(self.question(), seen, timeout);
    }

    /// Wakes one that sleeps in [`Self::wait`]. One that is about to sleep is not kept from it.
    pub fn wake(&self) {
        Bell::Futex.ring(self.question());
    }

    fn question(&self) -> &AtomicU64 {
        &self.peer.control().beat.0
    }
}
