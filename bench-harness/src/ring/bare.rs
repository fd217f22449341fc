//! The reference: the simplest ring over shared memory, without checks, and the bare cache lines.
//!
//! # Layout
//!
//! One file of two directions. Each has a control page of three words on 128-byte lines (`tail`, `head`,
//! `sleep`), then slots of a 16-byte header and one message, as many bytes apart as in the real ring.
//!
//! # What is copied
//!
//! The message once, from private memory into its slot; by `receive` once more, into private memory; by `echo`
//! from slot to slot.
//!
//! # What is deliberately absent
//!
//! Bounds checks of what the peer wrote, variable sizes, fragments, padding, and (while both spin) fences.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::thread::futex;
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

use super::endpoint::{Endpoint, RECEIVE_MAX, Waiting, sequence_of};

const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 128;
const HEADER_BYTES: usize = 16;
/// The longest sleep before a side looks again in any case.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Round trips of one calibration round: few, so that most rounds pass without another program in between.
const CALIBRATION_ROUND_TRIPS: u64 = 100;
/// Rounds of a calibration, whose median counts.
const CALIBRATION_ROUNDS: usize = 1_000;
/// The longest calibration.
const CALIBRATION_MAX: Duration = Duration::from_secs(10);

/// Which side of the channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The parent.
    First,
    /// The child.
    Second,
}

impl Side {
    /// The directions in which it sends and receives.
    pub fn out_and_into(self) -> (usize, usize) {
        match self {
            Self::First => (0, 1),
            Self::Second => (1, 0),
        }
    }
}

/// The shared file of both directions.
#[derive(Debug)]
pub struct Shared {
    region: MmapRegion,
    direction_bytes: usize,
}

impl Shared {
    /// Makes the file.
    pub fn create(ring_bytes: usize) -> io::Result<OwnedFd> {
        let file = rustix::fs::memfd_create("bench-bare", MemfdFlags::CLOEXEC)?;
        let bytes = 2 * (PAGE_BYTES + ring_bytes) as u64;
        rustix::fs::ftruncate(&file, bytes)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(file)
    }

    /// Maps the file.
    pub fn map(file: OwnedFd, ring_bytes: usize) -> io::Result<Self> {
        let direction_bytes = PAGE_BYTES + ring_bytes;
        let file = FileOffset::from_arc(Arc::new(File::from(file)), 0);
        let region = MmapRegion::from_file(file, 2 * direction_bytes).map_err(io::Error::other)?;
        Ok(Self { region, direction_bytes })
    }

    fn word(&self, direction: usize, line: usize) -> io::Result<&AtomicU64> {
        let at = direction * self.direction_bytes + line * LINE_BYTES;
        self.region.get_atomic_ref(at).map_err(io::Error::other)
    }

    /// A direction without slots: a word of 32 bits, and room for one message.
    pub fn lane(&self, index: usize, message_bytes: usize) -> io::Result<Lane<'_>> {
        let at = index * self.direction_bytes;
        Ok(Lane {
            word: self.region.get_atomic_ref(at).map_err(io::Error::other)?,
            message: self.region.get_slice(at + PAGE_BYTES, message_bytes).map_err(io::Error::other)?,
        })
    }

    fn direction(&self, index: usize, message_bytes: usize) -> io::Result<Direction<'_>> {
        let stride = (HEADER_BYTES + message_bytes).next_multiple_of(HEADER_BYTES);
        let data_bytes = self.direction_bytes - PAGE_BYTES;
        let slots = (data_bytes / stride).checked_ilog2().map(|bits| 1usize << bits);
        let slots = slots.ok_or_else(|| io::Error::other("a message does not fit in the bare ring"))?;
        let at = index * self.direction_bytes;
        let low = self.region.get_atomic_ref(at).map_err(io::Error::other)?;
        Ok(Direction {
            tail: self.word(index, 0)?,
            tail_low: low,
            head: self.word(index, 1)?,
            sleep: self.word(index, 2)?,
            data: self.region.get_slice(at + PAGE_BYTES, data_bytes).map_err(io::Error::other)?,
            stride,
            slots: slots as u64,
        })
    }
}

/// One direction without slots.
#[derive(Debug)]
pub struct Lane<'a> {
    /// What is waited on.
    pub word: &'a AtomicU32,
    /// The message.
    pub message: VolatileSlice<'a>,
}

/// One direction: counts of messages, and slots.
#[derive(Debug)]
struct Direction<'a> {
    tail: &'a AtomicU64,
    /// The same word as the kernel compares it.
    tail_low: &'a AtomicU32,
    head: &'a AtomicU64,
    sleep: &'a AtomicU64,
    data: VolatileSlice<'a>,
    stride: usize,
    slots: u64,
}

impl Direction<'_> {
    #[inline]
    fn slot(&self, count: u64, skip: usize, bytes: usize) -> io::Result<VolatileSlice<'_>> {
        let index = (count & (self.slots - 1)) as usize;
        self.data.subslice(index * self.stride + skip, bytes).map_err(io::Error::other)
    }
}

/// One end of the bare ring.
#[derive(Debug)]
pub struct BareEnd<'a> {
    out: Direction<'a>,
    into: Direction<'a>,
    waiting: Waiting,
    sent: u64,
    visible: u64,
    head_seen: u64,
    taken: u64,
    copy: Vec<u8>,
}

impl<'a> BareEnd<'a> {
    /// Takes one side.
    pub fn new(shared: &'a Shared, side: Side, message_bytes: usize, waiting: Waiting) -> io::Result<Self> {
        let (out, into) = side.out_and_into();
        Ok(Self {
            out: shared.direction(out, message_bytes)?,
            into: shared.direction(into, message_bytes)?,
            waiting,
            sent: 0,
            visible: 0,
            head_seen: 0,
            taken: 0,
            copy: vec![0; message_bytes],
        })
    }

    #[inline]
    fn room(&mut self) {
        while self.sent - self.head_seen == self.out.slots {
            // SYNC: pairs with the Release store in `release`.
            self.head_seen = self.out.head.load(Ordering::Acquire);
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn put_header(&self, bytes: usize) -> io::Result<()> {
        let mut header = [0u8; HEADER_BYTES];
        header[..8].copy_from_slice(&(bytes as u64).to_le_bytes());
        header[8..].copy_from_slice(&self.sent.to_le_bytes());
        self.out.slot(self.sent, 0, HEADER_BYTES)?.copy_from(&header);
        Ok(())
    }

    #[inline]
    fn available(&self) -> u64 {
        // SYNC: pairs with the Release store in `flush`.
        (self.into.tail.load(Ordering::Acquire) - self.taken).min(RECEIVE_MAX as u64)
    }

    #[inline]
    fn release(&self) {
        // SYNC: pairs with the Acquire load in `room`: our reads are done.
        self.into.head.store(self.taken, Ordering::Release);
    }
}

impl Endpoint for BareEnd<'_> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if self.sent - self.head_seen == self.out.slots {
            self.flush()?;
            self.room();
        }
        self.put_header(message.len())?;
        self.out.slot(self.sent, HEADER_BYTES, message.len())?.copy_from(message);
        self.sent += 1;
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        self.visible = self.sent;
        // SYNC: pairs with the Acquire load in `available`.
        self.out.tail.store(self.visible, Ordering::Release);
        if self.waiting == Waiting::Sleep {
            // SYNC: SeqCst, with the fence in `sleep`: either it sees this tail or we see that it sleeps.
            fence(Ordering::SeqCst);
            // Relaxed: ordered by the fence.
            if self.out.sleep.load(Ordering::Relaxed) != 0 {
                futex::wake(self.out.tail_low, futex::Flags::empty(), 1)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let available = self.available();
        for _ in 0..available {
            let bytes = self.copy.len();
            self.into.slot(self.taken, HEADER_BYTES, bytes)?.copy_to(&mut self.copy[..]);
            each(sequence_of(&self.copy));
            self.taken += 1;
        }
        if available > 0 {
            self.release();
        }
        Ok(available as usize)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let available = self.available();
        let bytes = self.copy.len();
        for _ in 0..available {
            self.room();
            let source = self.into.slot(self.taken, HEADER_BYTES, bytes)?;
            source.subslice(0, 8).map_err(io::Error::other)?.copy_to(&mut self.copy[..8]);
            each(sequence_of(&self.copy));
            self.put_header(bytes)?;
            source.copy_to_volatile_slice(self.out.slot(self.sent, HEADER_BYTES, bytes)?);
            self.taken += 1;
            self.sent += 1;
        }
        if available > 0 {
            self.flush()?;
            self.release();
        }
        Ok(available as usize)
    }

    fn sleep(&mut self) -> io::Result<()> {
        // Relaxed: ordered by the fence.
        self.into.sleep.store(1, Ordering::Relaxed);
        // SYNC: SeqCst, with the fence in `flush`.
        fence(Ordering::SeqCst);
        if self.available() == 0 {
            let timeout = futex::Timespec { tv_sec: 0, tv_nsec: SLEEP_MAX.subsec_nanos().into() };
            let expected = (self.taken & u64::from(u32::MAX)) as u32;
            // EAGAIN, EINTR and ETIMEDOUT all mean: look again.
            let _ = futex::wait(self.into.tail_low, futex::Flags::empty(), expected, Some(&timeout));
        }
        // Relaxed: a stale mark costs the other side one needless wake.
        self.into.sleep.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// Eight words on one line: the ping of the calibration, or its pong.
struct Words<'a>([&'a AtomicU64; 8]);

impl<'a> Words<'a> {
    fn new(shared: &'a Shared, direction: usize) -> io::Result<Self> {
        let word = |index: usize| {
            let at = direction * shared.direction_bytes + index * 8;
            shared.region.get_atomic_ref(at).map_err(io::Error::other)
        };
        Ok(Self([word(0)?, word(1)?, word(2)?, word(3)?, word(4)?, word(5)?, word(6)?, word(7)?]))
    }

    #[inline]
    fn write(&self, sequence: u64) {
        for word in &self.0[1..] {
            // Relaxed: the Release store below orders it.
            word.store(sequence, Ordering::Relaxed);
        }
        // SYNC: pairs with the Acquire load in `await_sequence`.
        self.0[0].store(sequence, Ordering::Release);
    }

    #[inline]
    fn await_sequence(&self, sequence: u64, end: Instant) -> io::Result<()> {
        let mut looks = 0u32;
        // SYNC: pairs with the Release store in `write`.
        while self.0[0].load(Ordering::Acquire) != sequence {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1 << 16) && Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the calibration partner is gone"));
            }
            std::hint::spin_loop();
        }
        // Relaxed: ordered by the Acquire load.
        let sum = self.0[1..].iter().fold(0, |sum, word| sum ^ word.load(Ordering::Relaxed));
        std::hint::black_box(sum);
        Ok(())
    }
}

/// The parent's part of the calibration: nanoseconds of a round trip, the median over the rounds.
pub fn calibrate(shared: &Shared) -> io::Result<f64> {
    let (ping, pong) = (Words::new(shared, 0)?, Words::new(shared, 1)?);
    let end = Instant::now() + CALIBRATION_MAX;
    let mut sequence = 0;
    let mut rounds = Vec::new();
    for _ in 0..CALIBRATION_ROUNDS {
        let start = Instant::now();
        for _ in 0..CALIBRATION_ROUND_TRIPS {
            sequence += 1;
            ping.write(sequence);
            pong.await_sequence(sequence, end)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "both are small")]
        rounds.push(start.elapsed().as_nanos() as f64 / CALIBRATION_ROUND_TRIPS as f64);
    }
    Ok(crate::figures::median(&mut rounds))
}

/// The child's part of the calibration.
pub fn answer_calibration(shared: &Shared) -> io::Result<()> {
    let (ping, pong) = (Words::new(shared, 0)?, Words::new(shared, 1)?);
    let end = Instant::now() + CALIBRATION_MAX;
    for sequence in 1..=CALIBRATION_ROUNDS as u64 * CALIBRATION_ROUND_TRIPS {
        ping.await_sequence(sequence, end)?;
        pong.write(sequence);
    }
    Ok(())
}
