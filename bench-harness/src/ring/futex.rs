//! The least that sleeping can cost: a word to wait on, and a message beside it, in each direction.
//!
//! Copied: the message once, from private memory into the shared page; by `receive` once more, into private
//! memory; by `echo` from page to page. There is no queue, so one message is on its way at most, and no mark
//! that says whether the other side sleeps: every message makes one call to wake.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::thread::futex;

use super::bare::{Lane, Shared, Side};
use super::endpoint::{Endpoint, sequence_of};

/// The longest sleep before a side looks again in any case.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// One end.
#[derive(Debug)]
pub struct FutexEnd<'a> {
    out: Lane<'a>,
    into: Lane<'a>,
    sent: u32,
    taken: u32,
    copy: Vec<u8>,
}

impl<'a> FutexEnd<'a> {
    /// Takes one side.
    pub fn new(shared: &'a Shared, side: Side, message_bytes: usize) -> io::Result<Self> {
        let (out, into) = side.out_and_into();
        Ok(Self {
            out: shared.lane(out, message_bytes)?,
            into: shared.lane(into, message_bytes)?,
            sent: 0,
            taken: 0,
            copy: vec![0; message_bytes],
        })
    }

    #[inline]
    fn came(&self) -> bool {
        // SYNC: pairs with the Release store in `flush`.
        self.into.word.load(Ordering::Acquire) != self.taken
    }
}

impl Endpoint for FutexEnd<'_> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.out.message.copy_from(message);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        self.sent = self.sent.wrapping_add(1);
        // SYNC: pairs with the Acquire load in `came`.
        self.out.word.store(self.sent, Ordering::Release);
        futex::wake(self.out.word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        if !self.came() {
            return Ok(0);
        }
        self.taken = self.taken.wrapping_add(1);
        self.into.message.copy_to(&mut self.copy[..]);
        each(sequence_of(&self.copy));
        Ok(1)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        if !self.came() {
            return Ok(0);
        }
        self.taken = self.taken.wrapping_add(1);
        self.into.message.subslice(0, 8).map_err(io::Error::other)?.copy_to(&mut self.copy[..8]);
        self.into.message.copy_to_volatile_slice(self.out.message);
        each(sequence_of(&self.copy));
        self.flush()?;
        Ok(1)
    }

    fn sleep(&mut self) -> io::Result<()> {
        let timeout = futex::Timespec { tv_sec: 0, tv_nsec: SLEEP_MAX.subsec_nanos().into() };
        // EAGAIN, EINTR and ETIMEDOUT all mean: look again.
        let _ = futex::wait(self.into.word, futex::Flags::empty(), self.taken, Some(&timeout));
        Ok(())
    }
}
