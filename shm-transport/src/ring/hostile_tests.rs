//! A peer that writes anything into its half, at any time: between calls, and from a second thread between the
//! check of a value and its use.
//!
//! The memory is watched: an access outside of the data fails the test, and so does a call that looks more often
//! than its bound. `HOSTILE_MUTATIONS` says how many mutations there are, `HOSTILE_SEED` which.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Consumer, Memory, Producer, Refused};
use crate::layout::{ControlWords, Geometry};
use crate::record::{FLAGS_KNOWN, HEADER_BYTES, Header, KIND_PADDING, Poison, span};
use crate::sync::{AtomicU64, Ordering};
use crate::xorshift::Random;

const CAPACITY_BYTES: u64 = 4096;
const RECORDS_PER_POLL: usize = 4;
/// The most looks at the memory of the peer that one call may take, except to wait for room.
const LOOKS_MAX: u64 = 4;

/// What one side writes.
#[derive(Debug)]
struct Side {
    words: ControlWords,
    data: Vec<AtomicU64>,
}

impl Side {
    fn new() -> Arc<Self> {
        // Arc: the two views, and the thread that scribbles.
        let data = (0..CAPACITY_BYTES / 8).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { words: ControlWords::default(), data })
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        for (word, chunk) in self.data[offset / 8..].iter().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            // Relaxed: whoever scribbles keeps to no order.
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
    }
}

/// A view that fails the test on an access outside of the data, and counts the looks at the peer.
#[derive(Debug)]
struct Watched {
    own: Arc<Side>,
    peer: Arc<Side>,
    /// Looks that the call at hand may still take.
    looks: Cell<u64>,
}

impl Watched {
    fn look(&self) {
        let left = self.looks.get().checked_sub(1);
        self.looks.set(left.expect("no more looks than the bound of the call"));
    }
}

/// Ends the scribbling thread also when the test fails: a scope waits for its threads.
struct Stop<'a>(&'a AtomicU64);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        // Relaxed: it only ends a loop.
        self.0.store(1, Ordering::Relaxed);
    }
}

impl Memory for Watched {
    fn geometry(&self) -> Geometry {
        Geometry::new(CAPACITY_BYTES).unwrap()
    }

    fn own(&self) -> &ControlWords {
        &self.own.words
    }

    fn peer(&self) -> &ControlWords {
        self.look();
        &self.peer.words
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(8), "write at {offset}");
        assert!(offset + bytes.len() <= CAPACITY_BYTES as usize, "write of {} at {offset}", bytes.len());
        self.own.put(offset, bytes);
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.look();
        assert!(offset.is_multiple_of(8), "read at {offset}");
        assert!(offset + into.len() <= CAPACITY_BYTES as usize, "read of {} at {offset}", into.len());
        for (word, chunk) in self.peer.data[offset / 8..].iter().zip(into.chunks_mut(8)) {
            // Relaxed: the peer keeps to no order.
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
        }
    }

    fn prefetch(&self, offset: usize, bytes: usize) {
        assert!(offset + bytes <= CAPACITY_BYTES as usize, "prefetch of {bytes} at {offset}");
    }
}

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A control word near something plausible, or anything.
    fn word(&mut self, near: u64) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => near,
            2 | 3 => near.wrapping_add(self.below(600) * 16),
            4 => near.wrapping_sub(16 * self.below(4)),
            5 => near | self.below(16),
            6 => near ^ (1 << self.below(64)),
            _ => u64::MAX - self.below(64),
        }
    }

    /// A header that is good but perhaps for one field.
    fn header(&mut self, position: u64) -> Header {
        let good = Header {
            len: self.below(500) as u32,
            kind: 1 + self.below(7) as u16,
            flags: self.below(4) as u16,
            position,
        };
        match self.below(10) {
            0 => Header { len: self.next() as u32, ..good },
            1 => Header { len: u32::MAX - self.below(40) as u32, ..good },
            2 => Header { kind: KIND_PADDING, ..good },
            3 => {
                let rest = CAPACITY_BYTES - position % CAPACITY_BYTES - HEADER_BYTES as u64;
                Header { kind: KIND_PADDING, len: rest as u32, ..good }
            }
            4 => Header { flags: self.next() as u16, ..good },
            5 => Header { position: self.word(position), ..good },
            _ => good,
        }
    }

    /// Mutates what the peer of a side writes: a header where the side reads next, payload behind it, or a
    /// control word. `read` and `written` are the positions of the side.
    fn mutate(&mut self, peer: &Side, read: u64, written: u64) {
        let words = &peer.words;
        let offset = (read % CAPACITY_BYTES) as usize;
        match self.below(16) {
            0..=4 => {
                let header = self.header(read);
                peer.put(offset, &header.encode());
                let end = read.wrapping_add(span(header.len.min(4080) as usize));
                // Relaxed: a writer without rules.
                words.tail.0.store(end, Ordering::Relaxed);
            }
            5..=7 => peer.put(offset, &self.header(read).encode()[..8 * (1 + self.below(2) as usize)]),
            8..=11 => peer.put(self.below(CAPACITY_BYTES / 8) as usize * 8, &self.next().to_le_bytes()),
            12 => words.tail.0.store(self.word(read), Ordering::Relaxed),
            13 => words.head.0.store(self.word(written), Ordering::Relaxed),
            14 => words.sleep.0.store(self.word(written), Ordering::Relaxed),
            _ => words.space_wanted.0.store(self.word(read), Ordering::Relaxed),
        }
    }
}

/// The side under attack, and what it has met.
#[derive(Default)]
struct Met {
    records: u64,
    sent: u64,
    poisons: BTreeMap<&'static str, u64>,
}

impl Met {
    fn poison(&mut self, poison: Poison) {
        let name = match poison {
            Poison::Tail { .. } => "tail",
            Poison::Head { .. } => "head",
            Poison::Position { .. } => "position",
            Poison::Length { .. } => "length",
            Poison::Padding { .. } => "padding",
            Poison::Flags { .. } => "flags",
            // Own positions are ours, and the rest is decided above the ring.
            other => panic!("{other}"),
        };
        *self.poisons.entry(name).or_default() += 1;
    }
}

/// Runs one call, which may look at the peer so often.
fn bounded<T, M>(
    role: &mut M,
    watched: impl Fn(&M) -> &Watched,
    max: u64,
    call: impl FnOnce(&mut M) -> T,
) -> T {
    watched(role).looks.set(max);
    call(role)
}

/// Receives a few records and whatever else a consumer does.
fn consume(consumer: &mut Consumer<Watched>, random: &mut Random, met: &mut Met) -> Result<(), Poison> {
    let mut payload = [0; CAPACITY_BYTES as usize];
    for _ in 0..RECORDS_PER_POLL {
        let Some(header) = bounded(consumer, Consumer::memory, LOOKS_MAX, Consumer::peek)? else { break };
        assert_eq!(header.position, consumer.position());
        assert!(header.len as usize <= consumer.memory().geometry().record_bytes_max());
        assert!(header.kind != KIND_PADDING && header.flags & !FLAGS_KNOWN == 0);
        consumer.copy_payload(header, &mut payload[..header.len as usize]);
        consumer.advance(header);
        met.records += 1;
    }
    let (before, at) = (consumer.position(), random.word(consumer.position()));
    match bounded(consumer, Consumer::memory, LOOKS_MAX, |consumer| consumer.resume_at(at)) {
        Ok(()) => assert!(consumer.position() == before || consumer.position() == at),
        // The store is ours and says nothing about the peer.
        Err(Poison::Own { .. }) => assert_eq!(consumer.position(), before),
        Err(poison) => return Err(poison),
    }
    let _anybody = bounded(consumer, Consumer::memory, LOOKS_MAX, Consumer::release);
    let armed = bounded(consumer, Consumer::memory, LOOKS_MAX, Consumer::arm);
    consumer.disarm();
    let _closed = bounded(consumer, Consumer::memory, 1, |consumer| consumer.peer_closed());
    armed.map(|_| ())
}

/// Sends a few records and whatever else a producer does.
fn produce(producer: &mut Producer<Watched>, random: &mut Random, met: &mut Met) -> Result<(), Poison> {
    for _ in 0..RECORDS_PER_POLL {
        let room = random.below(600) as usize;
        let filled = random.below(room as u64 + 1) as usize / 8 * 8;
        match bounded(producer, Producer::memory, LOOKS_MAX, |p| {
            p.reserve(room).map(|mut slot| {
                assert!(slot.put(&vec![7; filled]));
                slot.commit(1, 0);
            })
        }) {
            Ok(()) => met.sent += 1,
            Err(Refused::Poisoned(poison)) => return Err(poison),
            Err(Refused::TooLarge { .. }) => {}
            Err(Refused::Full { needed, .. }) => {
                // A head that creeps up costs one look for each step it can take.
                let looks = CAPACITY_BYTES / HEADER_BYTES as u64 + 1;
                bounded(producer, Producer::memory, looks, |p| p.arm_space(needed))?;
                producer.disarm_space();
                break;
            }
        }
    }
    let _anybody = bounded(producer, Producer::memory, LOOKS_MAX, Producer::publish);
    Ok(())
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Both roles of a side, attached anew after a poison.
fn attach(own: &Arc<Side>, peer: &Arc<Side>) -> Result<(Producer<Watched>, Consumer<Watched>), Poison> {
    let view = || Watched { own: Arc::clone(own), peer: Arc::clone(peer), looks: Cell::new(LOOKS_MAX) };
    Ok((Producer::attach(view())?, Consumer::attach(view())?))
}

/// Whatever a peer writes, and whenever, every call ends in a value or a named poison after a bounded number of
/// looks, and touches nothing outside of the data. Each poison that a ring knows is met.
#[test]
fn hostile_mutations_end_in_values_or_poisons() {
    let mutations = number("HOSTILE_MUTATIONS", 100_000);
    let seed = number("HOSTILE_SEED", 0x9e37_79b9_7f4a_7c15);
    println!("HOSTILE_SEED={seed}");
    let (own, peer) = (Side::new(), Side::new());
    let stop = AtomicU64::new(0);
    let mut met = Met::default();
    let scribbled = std::thread::scope(|scope| {
        let scribbler = scope.spawn(|| {
            let (mut random, mut count) = (Random(seed.rotate_left(32) | 1), 0u64);
            // Relaxed: it only ends the loop, and the positions are hints.
            while stop.load(Ordering::Relaxed) == 0 {
                let read = own.words.head.0.load(Ordering::Relaxed);
                random.mutate(&peer, read, own.words.tail.0.load(Ordering::Relaxed));
                count += 1;
            }
            count
        });
        let stop = Stop(&stop);
        let mut random = Random(seed | 1);
        let mut roles = None;
        for _ in 0..mutations {
            let (read, written) = match &roles {
                Some((producer, consumer)) => (Consumer::position(consumer), Producer::published(producer)),
                None => (own.words.head.0.load(Ordering::Relaxed), own.words.tail.0.load(Ordering::Relaxed)),
            };
            random.mutate(&peer, read, written);
            let outcome = match &mut roles {
                Some((producer, consumer)) => consume(consumer, &mut random, &mut met)
                    .and_then(|()| produce(producer, &mut random, &mut met)),
                none => attach(&own, &peer).map(|attached| *none = Some(attached)),
            };
            if let Err(poison) = outcome {
                met.poison(poison);
                roles = None;
                // As a reset would: else only luck would make the words possible again.
                peer.words.tail.0.store(own.words.head.0.load(Ordering::Relaxed), Ordering::Relaxed);
                peer.words.head.0.store(own.words.tail.0.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        drop(stop);
        scribbler.join().unwrap()
    });
    println!(
        "{mutations} mutations between calls, {scribbled} during them: {} records read, {} sent, poisons {:?}",
        met.records, met.sent, met.poisons
    );
    assert!(met.records > 0 && met.sent > 0);
    assert_eq!(met.poisons.len(), 6, "{:?}", met.poisons);
}
