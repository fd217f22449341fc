//! Long random schedules: hundreds of records through a ring of a few, both sides asleep whenever they can be,
//! and both killed again and again just before an access to shared memory or a bell.
//!
//! Loom sees every interleaving of three records, and weak orderings; this sees some interleavings of many, so
//! what needs a history. `SHUTTLE_ITERATIONS` says how many schedules, `SHUTTLE_RANDOM_SEED` which.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, MaxSteps, Runner, thread};

use super::{Consumer, Memory, Producer, Refused, Wake};
use crate::layout::{ControlWords, Geometry};
use crate::record::{HEADER_BYTES, span};
use crate::sync::{AtomicU64, Ordering};

/// The smallest ring whose records keep to an eighth, so that the consumer looks for a waiting producer in some of its
/// releases only.
const CAPACITY_BYTES: u64 = 1024;
/// Nothing is sent at or behind this position.
const END: u64 = 25 * CAPACITY_BYTES;
const RECORDS_PER_POLL: usize = 3;
/// The most accesses that a mortal holder lives for.
const LIVES_MAX: u32 = 400;
/// Holders of a role that are killed in one schedule; the one after them is not.
const KILLS_MAX: u32 = 40;

/// Where a side sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Compares and sleeps in one step.
    Futex,
    /// Counts its rings; knows nothing of positions.
    Event,
}

struct Bell {
    kind: Kind,
    rings: Mutex<u64>,
    queue: Condvar,
}

impl Bell {
    fn new(kind: Kind) -> Self {
        Self { kind, rings: Mutex::new(0), queue: Condvar::new() }
    }

    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.queue.notify_one();
    }

    fn wait(&self, word: &AtomicU64, expected: u64) {
        let mut rings = self.rings.lock().unwrap();
        match self.kind {
            Kind::Futex if word.load(Ordering::Relaxed) == expected => drop(self.queue.wait(rings).unwrap()),
            Kind::Futex => {}
            Kind::Event => {
                while *rings == 0 {
                    rings = self.queue.wait(rings).unwrap();
                }
                *rings = 0;
            }
        }
    }
}

/// The words of both halves, the data of one, and the two places to sleep.
struct Shared {
    producer: ControlWords,
    consumer: ControlWords,
    data: Vec<AtomicU64>,
    data_bell: Bell,
    space_bell: Bell,
}

/// One holder's view of it.
struct View {
    // Arc: both threads, and all holders of a role, own it.
    shared: Arc<Shared>,
    is_producer: bool,
    /// How often the holder may still touch shared memory or a bell.
    lives: Cell<u32>,
}

/// Goes up the stack of a holder that is killed.
struct Killed;

impl View {
    fn live(&self) {
        if self.lives.get() == 0 {
            // Past the panic hook: this is no failure.
            resume_unwind(Box::new(Killed));
        }
        self.lives.set(self.lives.get() - 1);
    }

    fn ring_peer(&self) {
        self.live();
        if self.is_producer { self.shared.data_bell.ring() } else { self.shared.space_bell.ring() }
    }
}

impl Memory for View {
    fn geometry(&self) -> Geometry {
        Geometry::tiny(CAPACITY_BYTES)
    }

    fn own(&self) -> &ControlWords {
        self.live();
        if self.is_producer { &self.shared.producer } else { &self.shared.consumer }
    }

    fn peer(&self) -> &ControlWords {
        self.live();
        if self.is_producer { &self.shared.consumer } else { &self.shared.producer }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (word, chunk) in self.shared.data[offset / 8..].iter().zip(bytes.chunks_exact(8)) {
            self.live();
            word.store(u64::from_le_bytes(chunk.try_into().unwrap()), Ordering::Relaxed);
        }
    }

    fn prefetch(&self, _offset: usize, _bytes: usize) {}

    fn read(&self, offset: usize, into: &mut [u8]) {
        for (word, chunk) in self.shared.data[offset / 8..].iter().zip(into.chunks_exact_mut(8)) {
            self.live();
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }
}

/// Words of payload of the record that is sent at a position.
fn words_at(position: u64) -> usize {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % 7
}

/// Where the header of the record that is sent at a position stands, and where the next is sent.
fn record_at(position: u64) -> (u64, u64) {
    let bytes = span(words_at(position) * 8);
    let contiguous = CAPACITY_BYTES - position % CAPACITY_BYTES;
    let start = if bytes > contiguous { position + contiguous } else { position };
    (start, start + bytes)
}

/// Gives a role to one holder after the other, until one is through.
fn held(shared: &Arc<Shared>, is_producer: bool, mut holder: impl FnMut(View)) {
    for kills in 0.. {
        let mortal = kills < KILLS_MAX && thread_rng().gen_range(0..8) != 0;
        let lives = if mortal { thread_rng().gen_range(0..LIVES_MAX) } else { u32::MAX };
        let view = View { shared: Arc::clone(shared), is_producer, lives: Cell::new(lives) };
        match catch_unwind(AssertUnwindSafe(|| holder(view))) {
            Ok(()) => return,
            Err(end) if end.is::<Killed>() => {}
            Err(failure) => resume_unwind(failure),
        }
    }
}

/// Sends what is not sent yet, and closes.
fn send(view: View) {
    let mut producer = Producer::attach(view).unwrap();
    producer.memory().ring_peer();
    let mut next = producer.published();
    while next < END {
        let words = words_at(next);
        match producer.reserve(words * 8) {
            Ok(mut slot) => {
                for index in 0..words as u64 {
                    assert!(slot.put(&(next + index).to_le_bytes()));
                }
                slot.commit(1, 0);
                next = record_at(next).1;
            }
            Err(Refused::Full { needed, .. }) => {
                publish(&mut producer);
                if !producer.arm_space(needed).unwrap() {
                    producer.memory().live();
                    let shared = Arc::clone(&producer.memory().shared);
                    shared.space_bell.wait(&shared.consumer.head.0, producer.head_seen());
                }
                producer.disarm_space();
                continue;
            }
            Err(refused) => panic!("{refused}"),
        }
        // Batches of one and more.
        if next % 48 != 0 {
            publish(&mut producer);
        }
    }
    producer.close();
    producer.memory().ring_peer();
}

fn publish(producer: &mut Producer<View>) {
    if producer.publish() == Wake::Ring {
        producer.memory().ring_peer();
    }
}

fn release(consumer: &mut Consumer<View>) {
    if consumer.release() == Wake::Ring {
        consumer.memory().ring_peer();
    }
}

/// Receives and applies until the ring is closed and empty. `applied` outlives the holder.
fn receive(view: View, applied: &Cell<u64>) {
    let mut consumer = Consumer::attach(view).unwrap();
    consumer.resume_at(applied.get()).unwrap();
    assert_eq!(consumer.position(), applied.get(), "released is applied");
    release(&mut consumer);
    consumer.memory().ring_peer();
    loop {
        let closed = consumer.peer_closed();
        let mut count = 0;
        while count < RECORDS_PER_POLL
            && let Some(header) = consumer.peek().unwrap()
        {
            let words = words_at(applied.get());
            assert_eq!((header.position, header.len as usize), (record_at(applied.get()).0, words * 8));
            let mut payload = vec![0; words * 8];
            consumer.copy_payload(header, &mut payload);
            for (index, word) in (0..).zip(payload.chunks_exact(8)) {
                assert_eq!(word, (applied.get() + index).to_le_bytes());
            }
            consumer.advance(header);
            applied.set(record_at(applied.get()).1);
            count += 1;
        }
        release(&mut consumer);
        if count > 0 {
            continue;
        }
        if closed {
            return;
        }
        if !consumer.arm().unwrap() && !consumer.peer_closed() {
            consumer.memory().live();
            let shared = Arc::clone(&consumer.memory().shared);
            shared.data_bell.wait(&shared.producer.tail.0, consumer.tail_seen());
        }
        consumer.disarm();
    }
}

/// One schedule.
fn stream(data: Kind, space: Kind) {
    let shared = Arc::new(Shared {
        producer: ControlWords::default(),
        consumer: ControlWords::default(),
        data: (0..CAPACITY_BYTES / 8).map(|_| AtomicU64::new(0)).collect(),
        data_bell: Bell::new(data),
        space_bell: Bell::new(space),
    });
    let theirs = Arc::clone(&shared);
    let writer = thread::spawn(move || held(&theirs, true, send));
    let applied = Cell::new(0);
    held(&shared, false, |view| receive(view, &applied));
    writer.join().unwrap();
    assert!(applied.get() >= END, "{applied:?}");
    assert_eq!(shared.producer.tail.0.load(Ordering::Relaxed), applied.get() | 1);
}

fn run(scheduler: impl Scheduler + 'static, data: Kind, space: Kind) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(10_000_000);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || stream(data, space));
}

fn iterations() -> usize {
    std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|value| value.parse().ok()).unwrap_or(100)
}

/// Every record is applied once, in order, and nobody sleeps for good, whoever is killed and whenever: as engine
/// and agent sleep, in random schedules.
#[test]
fn shuttle_random_schedules() {
    for (data, space) in [(Kind::Futex, Kind::Event), (Kind::Event, Kind::Futex)] {
        run(RandomScheduler::new(iterations()), data, space);
    }
}

/// The same in schedules where one thread runs as long as it can, but for a few changes.
#[test]
fn shuttle_few_preemptions() {
    for (data, space) in [(Kind::Futex, Kind::Event), (Kind::Event, Kind::Futex)] {
        run(PctScheduler::new(5, iterations()), data, space);
    }
}

const _: () = assert!(HEADER_BYTES.is_multiple_of(8), "headers are written in words");
