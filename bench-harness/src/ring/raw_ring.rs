//! The ring of this project without the link: checked records of plain bytes over two sealed segments.
//!
//! Copied: the message once, from private memory into the ring; by `receive` once more, out of it, after its header
//! has been bounded; by `echo` out of the ring and into the other. No routing words, no archive, no validation, no
//! sleeping: what lies between this and `shm-transport` is what messages cost, what lies between this and `bare` is
//! what bounds cost.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::mapping::Halves;
use shm_transport::ring::{Producer, Refused};
use shm_transport::roles::{self, Roles};
use shm_transport::segment::create;

use super::endpoint::{Endpoint, RECEIVE_MAX, sequence_of};

/// Any kind that is not padding.
const KIND: u16 = 1;

/// One end.
#[derive(Debug)]
pub struct RingEnd {
    roles: Roles,
    copy: Vec<u8>,
}

/// What the second process has to be given: its own half, and the first one's.
pub type SecondFiles = [OwnedFd; 2];

impl RingEnd {
    /// Makes the segments and takes the first side.
    pub fn first(ring_bytes: u64, message_bytes: usize) -> io::Result<(Self, SecondFiles)> {
        let page = ConfigPage::new(Geometry::new(ring_bytes).map_err(io::Error::other)?, 1, 1);
        let ours = create("bench-first", &page).map_err(io::Error::other)?;
        let theirs = create("bench-second", &page).map_err(io::Error::other)?;
        let end = Self::attach(ours.writable, theirs.read_only, message_bytes)?;
        Ok((end, [theirs.writable, ours.read_only]))
    }

    /// Takes the second side.
    pub fn second(files: SecondFiles, message_bytes: usize) -> io::Result<Self> {
        let [own, peer] = files;
        Self::attach(own, peer, message_bytes)
    }

    fn attach(own: impl AsFd, peer: impl AsFd, message_bytes: usize) -> io::Result<Self> {
        let roles = roles::attach(own, peer).map_err(io::Error::other)?;
        Ok(Self { roles, copy: vec![0; message_bytes] })
    }
}

/// Waits for room while the ring is full.
#[inline]
fn put(producer: &mut Producer<Halves>, message: &[u8]) -> io::Result<()> {
    loop {
        match producer.reserve(message.len()) {
            Ok(mut slot) => {
                let _fits = slot.put(message); // Reserved for exactly this.
                slot.commit(KIND, 0);
                return Ok(());
            }
            Err(Refused::Full { .. }) => {
                let _spinning = producer.publish(); // Nobody sleeps in this subject.
                std::hint::spin_loop();
            }
            Err(refused) => return Err(io::Error::other(refused)),
        }
    }
}

impl Endpoint for RingEnd {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        put(&mut self.roles.producer, message)
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        let _spinning = self.roles.producer.publish(); // Nobody sleeps in this subject.
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let consumer = &mut self.roles.consumer;
        let mut taken = 0;
        while taken < RECEIVE_MAX
            && let Some(header) = consumer.peek().map_err(io::Error::other)?
        {
            self.copy.resize(header.len as usize, 0);
            consumer.copy_payload(header, &mut self.copy);
            each(sequence_of(&self.copy));
            consumer.advance(header);
            taken += 1;
        }
        let _spinning = consumer.release(); // Nobody sleeps in this subject.
        Ok(taken)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let Roles { producer, consumer } = &mut self.roles;
        let mut taken = 0;
        while taken < RECEIVE_MAX
            && let Some(header) = consumer.peek().map_err(io::Error::other)?
        {
            self.copy.resize(header.len as usize, 0);
            consumer.copy_payload(header, &mut self.copy);
            each(sequence_of(&self.copy));
            put(producer, &self.copy)?;
            consumer.advance(header);
            taken += 1;
        }
        if taken > 0 {
            self.flush()?;
            let _spinning = self.roles.consumer.release(); // As above.
        }
        Ok(taken)
    }

    fn sleep(&mut self) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
