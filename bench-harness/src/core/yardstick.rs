//! What the core is measured by within a run: work of the same kind that no change of the core can change.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use shm_transport::ports::session_hash;

use crate::figures::median;

const ROUND: usize = 1024;
/// Copies that are alive at once: as many as a group of messages has.
const ALIVE: usize = 64;
const NAMES: usize = 1000;

/// For each message two copies into memory of their own that is given back later, two hashes of a session key, and two
/// uses of a table: what about any core has to do.
pub struct Yardstick {
    message: Vec<u8>,
    names: Vec<String>,
    table: HashMap<u64, u64>,
    alive: Vec<Vec<u8>>,
    next: usize,
}

impl Yardstick {
    /// For messages of that size.
    pub fn new(content_bytes: usize) -> Self {
        Self {
            message: vec![0x5a; content_bytes],
            names: (0..NAMES).map(|name| format!("user-{name}")).collect(),
            table: HashMap::new(),
            alive: Vec::new(),
            next: 0,
        }
    }

    /// Nanoseconds for one message: the median of short stretches.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short stretch stay below 2^53")]
    pub fn measure(&mut self, duration: Duration) -> f64 {
        let end = Instant::now() + duration;
        let mut stretches_ns = Vec::new();
        while stretches_ns.len() < 3 || Instant::now() < end {
            let start = Instant::now();
            for _ in 0..ROUND {
                self.one();
            }
            stretches_ns.push(start.elapsed().as_nanos() as f64 / ROUND as f64);
        }
        median(&mut stretches_ns)
    }

    fn one(&mut self) {
        self.next += 1;
        for half in 0..2 {
            let name = &self.names[(self.next + half) % NAMES];
            let hash = session_hash("websocket", name, name);
            *self.table.entry(hash).or_default() += 1;
            self.alive.push(black_box(&self.message).clone());
        }
        if self.alive.len() >= 2 * ALIVE {
            self.alive.clear();
        }
    }
}
