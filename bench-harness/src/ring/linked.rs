//! The subject: a link over two sealed segments, engine against agent; or between two threads.
//!
//! Copied: the message once, from private memory into the ring; by `receive` of the engine once more, into the
//! link's private memory, since it distrusts the agent. An agent reads in place, and `echo` copies from ring to
//! ring. Threads trust each other and read in place too: there `receive` copies the message out itself, so that
//! all of it is read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm_transport::doorbell::{eventfd, silence};
use shm_transport::envelope::{BlockV1, Encoder, ROUTE_BYTES, Route, StoredBody};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link};
use shm_transport::passage;
use shm_transport::segment::{Segment, attach_agent, attach_engine, create, in_process};

use super::endpoint::{Endpoint, RECEIVE_MAX};

/// The longest sleep before a side looks again in any case.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// How long a sender without room lets the other side work before it looks again.
const ROOM_SPINS: u32 = 32;
/// The longest wait for room.
const ROOM_MAX: Duration = Duration::from_secs(5);

/// How this side sleeps.
#[derive(Debug)]
enum Rest {
    /// The engine, or a thread: on its eventfd.
    Eventfd(Arc<OwnedFd>),
    /// The agent: on the futex word in the engine's half.
    Futex,
}

/// One end of a link.
#[derive(Debug)]
pub struct LinkEnd {
    link: Link,
    rest: Rest,
    /// What is sent, made at the first send.
    body: Option<StoredBody>,
    /// Where a message is copied to that the link hands over in place; empty where it copies.
    copy: Vec<u8>,
}

/// What the agent's process has to be given, in this order.
pub type AgentFiles = [OwnedFd; 4];

impl LinkEnd {
    /// Makes the segments and attaches the engine.
    pub fn engine(ring_bytes: u64) -> io::Result<(Self, AgentFiles)> {
        let page = ConfigPage::new(Geometry::new(ring_bytes).map_err(io::Error::other)?, 1, 1);
        let engine: Segment = create("bench-engine", &page).map_err(io::Error::other)?;
        let agent: Segment = create("bench-agent", &page).map_err(io::Error::other)?;
        let bell = eventfd()?;
        let (ours, theirs) = passage::pair()?;
        let attached = attach_engine(&engine.writable, &agent.read_only, Some(ours), Limits::default())
            .map_err(io::Error::other)?;
        let files = [engine.read_only, agent.writable, bell.try_clone()?, theirs];
        let rest = Rest::Eventfd(Arc::new(bell));
        Ok((Self { link: attached.link, rest, body: None, copy: Vec::new() }, files))
    }

    /// Attaches the agent to what the engine's process gave it.
    pub fn agent(files: AgentFiles) -> io::Result<Self> {
        let [engine, agent, bell, passage] = files;
        let attached = attach_agent(&engine, &agent, bell, Some(passage), Limits::default())
            .map_err(io::Error::other)?;
        Ok(Self { link: attached.link, rest: Rest::Futex, body: None, copy: Vec::new() })
    }

    /// Two ends between threads of this process.
    pub fn in_process(ring_bytes: u64, message_bytes: usize) -> io::Result<(Self, Self)> {
        let geometry = Geometry::new(ring_bytes).map_err(io::Error::other)?;
        let (first_bell, second_bell) = (Arc::new(eventfd()?), Arc::new(eventfd()?));
        let (first, second) = in_process(geometry, &first_bell, &second_bell, Limits::default())?;
        let end =
            |link, bell| Self { link, rest: Rest::Eventfd(bell), body: None, copy: vec![0; message_bytes] };
        Ok((end(first, first_bell), end(second, second_bell)))
    }
}

/// What a program with many links needs of one.
impl LinkEnd {
    /// What rings for this end, if it does not sleep on a futex.
    pub fn bell(&self) -> Option<&OwnedFd> {
        match &self.rest {
            Rest::Eventfd(bell) => Some(bell),
            Rest::Futex => None,
        }
    }

    /// Announces that this end sleeps until its bell rings. `true`: something came meanwhile, do not sleep.
    pub fn arm(&mut self) -> io::Result<bool> {
        self.link.receiver.arm().map_err(io::Error::other)
    }

    /// Announces that this end is awake.
    pub fn disarm(&mut self) {
        self.link.receiver.disarm();
    }

    /// Silences the bell, which has rung.
    pub fn silence(&self) {
        if let Some(bell) = self.bell() {
            silence(bell);
        }
    }

    /// Sleeps on the futex until there may be something to receive, at most `longest`.
    pub fn sleep_on_futex(&mut self, longest: Duration) -> io::Result<()> {
        self.link.receiver.wait(Duration::ZERO, longest).map_err(io::Error::other)?;
        Ok(())
    }

    /// Says that nothing more will come.
    pub fn close(&mut self) {
        self.link.sender.close();
    }

    /// Whether the other end said that nothing more will come.
    pub fn peer_closed(&self) -> bool {
        self.link.receiver.peer_closed()
    }
}

/// Publishes, and waits while the ring has no room for what was sent.
///
/// HOT: the loop is entered only when the ring is full.
#[inline]
fn flush(sender: &mut shm_transport::link::Sender) -> io::Result<()> {
    sender.flush().map_err(io::Error::other)?;
    if sender.backlog_bytes() > 0 {
        return wait_for_room(sender);
    }
    Ok(())
}

#[cold]
fn wait_for_room(sender: &mut shm_transport::link::Sender) -> io::Result<()> {
    let end = Instant::now() + ROOM_MAX;
    while sender.backlog_bytes() > 0 {
        for _ in 0..ROOM_SPINS {
            std::hint::spin_loop();
        }
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the other process gives no room"));
        }
        sender.flush().map_err(io::Error::other)?;
    }
    Ok(())
}

/// A block whose archive has exactly so many bytes, a multiple of 4.
fn block_of(archive_bytes: usize) -> StoredBody {
    // Behind a text of more than 8 bytes lies its root.
    const ROOT_BYTES: usize = 12;
    let block = BlockV1 { block_type: 0, content: "x".repeat(archive_bytes.saturating_sub(ROOT_BYTES)) };
    Encoder::default().encode(&block).to_stored()
}

impl Endpoint for LinkEnd {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        // The first bytes of a message are its routing words, so that as many bytes travel as asked for.
        let Some((route, rest)) = message.split_first_chunk::<ROUTE_BYTES>() else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let body = self.body.get_or_insert_with(|| block_of(rest.len()));
        let sender = &mut self.link.sender;
        sender.forward(&Route::decode(route), body.as_body()).map_err(io::Error::other)?;
        if sender.backlog_bytes() > 0 { flush(sender) } else { Ok(()) }
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.link.sender)
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let (receiver, copy) = (&mut self.link.receiver, &mut self.copy);
        let taken = receiver
            .receive(RECEIVE_MAX, |message| {
                let bytes = message.body().bytes();
                if let Some(copy) = copy.get_mut(..bytes.len()) {
                    copy.copy_from_slice(bytes);
                }
                std::hint::black_box((bytes, &*copy));
                each(message.route.turn);
            })
            .map_err(io::Error::other)?;
        receiver.release();
        Ok(taken)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let Link { sender, receiver } = &mut self.link;
        let mut sent = Ok(());
        let taken = receiver
            .receive(RECEIVE_MAX, |message| {
                each(message.route.turn);
                sent = sender.forward(&message.route, message.body());
            })
            .map_err(io::Error::other)?;
        sent.map_err(io::Error::other)?;
        // Also without a message: a larger one comes as several records, of which some have room again.
        if taken > 0 {
            flush(sender)?;
        }
        receiver.release();
        Ok(taken)
    }

    fn sleep(&mut self) -> io::Result<()> {
        match &self.rest {
            Rest::Futex => self.sleep_on_futex(SLEEP_MAX)?,
            Rest::Eventfd(bell) => {
                if !self.link.receiver.arm().map_err(io::Error::other)? {
                    let timeout = Timespec { tv_sec: 0, tv_nsec: SLEEP_MAX.subsec_nanos().into() };
                    let mut files = [PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)];
                    match poll(&mut files, Some(&timeout)) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    silence(bell);
                }
                self.link.receiver.disarm();
            }
        }
        Ok(())
    }
}
