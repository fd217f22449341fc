//! The memory, the futex and the moves of the loom tests.
//!
//! Data lies in cells that loom checks, so an access that no ordering separates from another is reported as a
//! race, not only a wrong order of positions. Room for two records of 16 payload bytes.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};

use super::{Consumer, Memory, Producer, Refused, Wake};
use crate::layout::{ControlWords, Geometry};
use crate::record::Header;
use crate::sync::{AtomicU64, Ordering};

pub(super) const CAPACITY_BYTES: u64 = 64;
pub(super) const PAYLOAD_BYTES: usize = 16;
pub(super) const RECORD_BYTES: u64 = 32;

/// The words of both halves, the data of one, and the two places to sleep.
pub(super) struct Shared {
    pub(super) producer: ControlWords,
    pub(super) consumer: ControlWords,
    pub(super) data: Vec<UnsafeCell<u64>>,
    pub(super) data_bell: Futex,
    pub(super) space_bell: Futex,
    /// Stored to before each access to a word, see [`View::step`].
    steps: AtomicU64,
}

/// One side's view of it.
#[derive(Clone)]
pub(super) struct View {
    // Arc: both model threads own it.
    pub(super) shared: Arc<Shared>,
    pub(super) is_producer: bool,
    /// How often the holder may still touch shared memory or a bell before it is killed.
    lives: Cell<u32>,
}

/// Goes up the stack of a holder that is killed. Nothing on the way has a destructor that touches the memory,
/// so to the other side it is as sudden as a kill.
struct Killed;

/// Runs a holder of a role, which may be killed.
pub(super) fn until_killed<T>(holder: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(holder)) {
        Ok(value) => Some(value),
        Err(end) if end.is::<Killed>() => None,
        Err(failure) => resume_unwind(failure),
    }
}

impl View {
    /// The same view for a holder that is killed just before it touches anything for the `lives + 1`st time.
    pub(super) fn mortal(&self, lives: u32) -> Self {
        Self { lives: Cell::new(lives), ..self.clone() }
    }

    /// A place where the holder may be killed.
    pub(super) fn live(&self) {
        if self.lives.get() == 0 {
            // Past the panic hook: this is no failure.
            resume_unwind(Box::new(Killed));
        }
        self.lives.set(self.lives.get() - 1);
    }

    /// Wakes the peer whatever its sleep words say, as a successor does.
    pub(super) fn wake_peer(&self) {
        self.live();
        if self.is_producer {
            self.shared.data_bell.wake();
        } else {
            self.shared.space_bell.wake();
        }
    }

    /// Lets the other thread run here. Loom remembers one access to an object, the last: a thread that loads
    /// a word and then stores to it hides the other's load before both, and with it the interleavings in
    /// between. A store that nobody loads conflicts with all others and orders nothing.
    fn step(&self) {
        self.live();
        self.shared.steps.store(0, Ordering::Relaxed);
    }
}

impl Memory for View {
    fn geometry(&self) -> Geometry {
        Geometry::tiny(CAPACITY_BYTES)
    }

    fn own(&self) -> &ControlWords {
        self.step();
        if self.is_producer { &self.shared.producer } else { &self.shared.consumer }
    }

    fn peer(&self) -> &ControlWords {
        self.step();
        if self.is_producer { &self.shared.consumer } else { &self.shared.producer }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.live();
        for (index, chunk) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(chunk.try_into().unwrap());
            self.shared.data[offset / 8 + index].with_mut(|cell| {
                // SAFETY: the pointer of a live cell; loom fails the test if another access is concurrent.
                unsafe { *cell = word };
            });
        }
    }

    fn prefetch(&self, _offset: usize, _bytes: usize) {}

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.live();
        for (index, chunk) in into.chunks_exact_mut(8).enumerate() {
            let word = self.shared.data[offset / 8 + index].with(|cell| {
                // SAFETY: the pointer of a live cell; loom fails the test if a write is concurrent.
                unsafe { *cell }
            });
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Compares and sleeps in one step, as the kernel does under the lock of its bucket.
pub(super) struct Futex {
    lock: Mutex<()>,
    queue: Condvar,
}

impl Futex {
    fn new() -> Self {
        Self { lock: Mutex::new(()), queue: Condvar::new() }
    }

    pub(super) fn wait(&self, word: &AtomicU64, expected: u64) {
        let guard = self.lock.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(self.queue.wait(guard).unwrap());
        }
    }

    pub(super) fn wake(&self) {
        let _bucket = self.lock.lock().unwrap();
        self.queue.notify_one();
    }
}

#[expect(clippy::arc_with_non_send_sync, reason = "loom checks what the bounds would forbid")]
pub(super) fn views(start: u64) -> (View, View) {
    let shared = Arc::new(Shared {
        producer: ControlWords::default(),
        consumer: ControlWords::default(),
        data: (0..CAPACITY_BYTES / 8).map(|_| UnsafeCell::new(0)).collect(),
        data_bell: Futex::new(),
        space_bell: Futex::new(),
        steps: AtomicU64::new(0),
    });
    shared.producer.tail.0.store(start, Ordering::Relaxed);
    shared.consumer.head.0.store(start, Ordering::Relaxed);
    let view = |shared, is_producer| View { shared, is_producer, lives: Cell::new(u32::MAX) };
    (view(Arc::clone(&shared), true), view(shared, false))
}

pub(super) fn ring(start: u64) -> (Producer<View>, Consumer<View>) {
    let (producer, consumer) = views(start);
    (Producer::attach(producer).unwrap(), Consumer::attach(consumer).unwrap())
}

/// Reserves, fills and commits one record that carries `number`.
pub(super) fn commit(producer: &mut Producer<View>, number: u8) -> Result<(), Refused> {
    let mut slot = producer.reserve(PAYLOAD_BYTES)?;
    assert!(slot.put(&[number; PAYLOAD_BYTES]));
    slot.commit(1, 0);
    Ok(())
}

/// Publishes records 1 and 2, which fill the ring.
pub(super) fn fill(producer: &mut Producer<View>) {
    commit(producer, 1).unwrap();
    commit(producer, 2).unwrap();
    publish(producer);
}

pub(super) fn publish(producer: &mut Producer<View>) {
    if producer.publish() == Wake::Ring {
        producer.memory().wake_peer();
    }
}

pub(super) fn release(consumer: &mut Consumer<View>) {
    if consumer.release() == Wake::Ring {
        consumer.memory().wake_peer();
    }
}

/// What a record carries, once all its bytes are found to agree.
pub(super) fn number(consumer: &Consumer<View>, header: Header) -> u8 {
    let mut payload = [0u8; PAYLOAD_BYTES];
    assert_eq!(header.len as usize, PAYLOAD_BYTES);
    consumer.copy_payload(header, &mut payload);
    assert_eq!(payload, [payload[0]; PAYLOAD_BYTES], "a torn record");
    payload[0]
}

/// The next record, if there is one, advanced over but not released.
pub(super) fn take(consumer: &mut Consumer<View>) -> Option<u8> {
    let header = consumer.peek().unwrap()?;
    let number = number(consumer, header);
    consumer.advance(header);
    Some(number)
}

/// The next so many records, which are there, released one by one.
pub(super) fn take_there(consumer: &mut Consumer<View>, count: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(take(consumer).unwrap());
        release(consumer);
    }
    seen
}

/// All there is, released one by one.
pub(super) fn drain(consumer: &mut Consumer<View>, into: &mut Vec<u8>) {
    while let Some(number) = take(consumer) {
        into.push(number);
        release(consumer);
    }
}

/// The numbers from 1 to `count`, in order.
pub(super) fn counted(count: usize) -> Vec<u8> {
    (1..=count as u8).collect()
}

/// Sleeps on the tail until there is a record, or the ring is closed and empty.
pub(super) fn take_or_sleep(consumer: &mut Consumer<View>) -> Option<u8> {
    loop {
        if let Some(number) = take(consumer) {
            return Some(number);
        }
        if !consumer.arm().unwrap() {
            if consumer.peer_closed() {
                consumer.disarm();
                return take(consumer);
            }
            consumer.memory().live();
            let shared = Arc::clone(&consumer.memory().shared);
            shared.data_bell.wait(&shared.producer.tail.0, consumer.tail_seen());
        }
        consumer.disarm();
    }
}

/// Reserves, asleep on the head until there is room.
pub(super) fn commit_or_sleep(producer: &mut Producer<View>, number: u8) {
    loop {
        match commit(producer, number) {
            Ok(()) => return,
            Err(Refused::Full { needed, .. }) => {
                if !producer.arm_space(needed).unwrap() {
                    producer.memory().live();
                    let shared = Arc::clone(&producer.memory().shared);
                    shared.space_bell.wait(&shared.consumer.head.0, producer.head_seen());
                }
                producer.disarm_space();
            }
            Err(refused) => panic!("{refused}"),
        }
    }
}
