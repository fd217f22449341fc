//! crossbeam's bounded array queue of messages by value, between two threads.
//!
//! Copied: the message into a value and the value into its slot; out of the slot into a value, where it is
//! read. `echo` moves the value it has received. What of that the compiler saves is its business; who has
//! messages of tens of KiB would send boxes instead. Each message is visible as soon as it is pushed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::endpoint::{Endpoint, RECEIVE_MAX, sequence_of};

/// Message sizes that have a type.
pub const SIZES: [usize; 5] = [64, 256, 1024, 4096, 65_536];
/// How often a sender without room tries before it reads the clock.
const TRIES_PER_CLOCK: u32 = 1 << 12;
/// The longest wait for room.
const ROOM_MAX: Duration = Duration::from_secs(5);

/// One end.
#[derive(Debug)]
pub struct QueueEnd<const N: usize> {
    out: Arc<ArrayQueue<[u8; N]>>,
    into: Arc<ArrayQueue<[u8; N]>>,
}

impl<const N: usize> QueueEnd<N> {
    /// Two connected ends, whose queues hold as many bytes of messages as a ring.
    pub fn pair(ring_bytes: usize) -> (Self, Self) {
        let queue = || Arc::new(ArrayQueue::new((ring_bytes / N).max(1)));
        let (there, back) = (queue(), queue());
        (Self { out: Arc::clone(&there), into: Arc::clone(&back) }, Self { out: back, into: there })
    }

    #[inline]
    fn push(&self, message: [u8; N]) -> io::Result<()> {
        match self.out.push(message) {
            Ok(()) => Ok(()),
            Err(message) => self.push_when_there_is_room(message),
        }
    }

    #[cold]
    fn push_when_there_is_room(&self, mut message: [u8; N]) -> io::Result<()> {
        let end = Instant::now() + ROOM_MAX;
        loop {
            for _ in 0..TRIES_PER_CLOCK {
                // Looking is cheaper than pushing, and only we push.
                if self.out.is_full() {
                    std::hint::spin_loop();
                    continue;
                }
                match self.out.push(message) {
                    Ok(()) => return Ok(()),
                    Err(refused) => message = refused,
                }
            }
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the other thread gives no room"));
            }
        }
    }
}

impl<const N: usize> Endpoint for QueueEnd<N> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let message = message.try_into().map_err(io::Error::other)?;
        self.push(message)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        for taken in 0..RECEIVE_MAX {
            let Some(message) = self.into.pop() else { return Ok(taken) };
            each(sequence_of(std::hint::black_box(&message)));
        }
        Ok(RECEIVE_MAX)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        for taken in 0..RECEIVE_MAX {
            let Some(message) = self.into.pop() else { return Ok(taken) };
            each(sequence_of(&message));
            self.push(message)?;
        }
        Ok(RECEIVE_MAX)
    }

    fn sleep(&mut self) -> io::Result<()> {
        Err(io::Error::other("an array queue cannot sleep"))
    }
}
