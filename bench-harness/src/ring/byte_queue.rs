//! rtrb: a queue of bytes between two threads, a message being so many of them.
//!
//! Copied: the message once, from private memory into the queue, and once out of it into private memory; `echo`
//! copies out and in again, since both ends of a chunk are slices of their own. Each message is visible as soon
//! as it is pushed: its batches without a copy more need unsafe code.

use std::io;
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use super::endpoint::{Endpoint, RECEIVE_MAX, sequence_of};

/// How often a sender without room tries before it reads the clock.
const TRIES_PER_CLOCK: u32 = 1 << 12;
/// The longest wait for room.
const ROOM_MAX: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub struct ByteEnd {
    out: Producer<u8>,
    into: Consumer<u8>,
    copy: Vec<u8>,
}

impl ByteEnd {
    /// Two connected ends.
    pub fn pair(ring_bytes: usize, message_bytes: usize) -> (Self, Self) {
        let (there_in, there_out) = RingBuffer::new(ring_bytes);
        let (back_in, back_out) = RingBuffer::new(ring_bytes);
        let copy = || vec![0; message_bytes];
        (
            Self { out: there_in, into: back_out, copy: copy() },
            Self { out: back_in, into: there_out, copy: copy() },
        )
    }
}

#[inline]
fn push(out: &mut Producer<u8>, message: &[u8]) -> io::Result<()> {
    if out.push_entire_slice(message).is_ok() { Ok(()) } else { push_when_there_is_room(out, message) }
}

#[cold]
fn push_when_there_is_room(out: &mut Producer<u8>, message: &[u8]) -> io::Result<()> {
    let end = Instant::now() + ROOM_MAX;
    loop {
        for _ in 0..TRIES_PER_CLOCK {
            if out.push_entire_slice(message).is_ok() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the other thread gives no room"));
        }
    }
}

impl Endpoint for ByteEnd {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        push(&mut self.out, message)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        for taken in 0..RECEIVE_MAX {
            // Refused, and nothing taken, unless the whole message is there.
            if self.into.pop_entire_slice(&mut self.copy).is_err() {
                return Ok(taken);
            }
            each(sequence_of(std::hint::black_box(&self.copy)));
        }
        Ok(RECEIVE_MAX)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        for taken in 0..RECEIVE_MAX {
            if self.into.pop_entire_slice(&mut self.copy).is_err() {
                return Ok(taken);
            }
            each(sequence_of(&self.copy));
            push(&mut self.out, &self.copy)?;
        }
        Ok(RECEIVE_MAX)
    }

    fn sleep(&mut self) -> io::Result<()> {
        Err(io::Error::other("rtrb cannot sleep"))
    }
}
