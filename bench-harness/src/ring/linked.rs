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
use shm_transport::envelope::{Kind, ROUTE_BYTES, Route, schema_hash};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link};
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
    /// Where a message is copied to that the link hands over in place; empty where it copies.
    copy: Vec<u8>,
}

/// What the agent's process has to be given, in this order.
pub type AgentFiles = [OwnedFd; 3];

impl LinkEnd {
    /// Makes the segments and attaches the engine.
    pub fn engine(ring_bytes: u64) -> io::Result<(Self, AgentFiles)> {
        let page = ConfigPage {
            geometry: Geometry::new(ring_bytes).map_err(io::Error::other)?,
            generation: 1,
            instance: 1,
            schema_hash: schema_hash(),
            features_required: 0,
            features_optional: 0,
        };
        let engine: Segment = create("bench-engine", &page).map_err(io::Error::other)?;
        let agent: Segment = create("bench-agent", &page).map_err(io::Error::other)?;
        let bell = eventfd()?;
        let attached =
            attach_engine(&engine.writable, &agent.read_only, Limits::default()).map_err(io::Error::other)?;
        let files = [engine.read_only, agent.writable, bell.try_clone()?];
        Ok((Self { link: attached.link, rest: Rest::Eventfd(Arc::new(bell)), copy: Vec::new() }, files))
    }

    /// Attaches the agent to what the engine's process gave it.
    pub fn agent(files: AgentFiles) -> io::Result<Self> {
        let [engine, agent, bell] = files;
        let attached = attach_agent(&engine, &agent, bell, Limits::default()).map_err(io::Error::other)?;
        Ok(Self { link: attached.link, rest: Rest::Futex, copy: Vec::new() })
    }

    /// Two ends between threads of this process.
    pub fn in_process(ring_bytes: u64, message_bytes: usize) -> io::Result<(Self, Self)> {
        let geometry = Geometry::new(ring_bytes).map_err(io::Error::other)?;
        let (first_bell, second_bell) = (Arc::new(eventfd()?), Arc::new(eventfd()?));
        let (first, second) = in_process(geometry, &first_bell, &second_bell, Limits::default())?;
        let end = |link, bell| Self { link, rest: Rest::Eventfd(bell), copy: vec![0; message_bytes] };
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

impl Endpoint for LinkEnd {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        // The first bytes of a message are its routing words, so that as many bytes travel as asked for.
        let Some((route, body)) = message.split_first_chunk::<ROUTE_BYTES>() else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let sender = &mut self.link.sender;
        sender.send(Kind::Block, &Route::decode(route), body).map_err(io::Error::other)?;
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
                if let Some(copy) = copy.get_mut(..message.body.len()) {
                    copy.copy_from_slice(message.body);
                }
                std::hint::black_box((message.body, &*copy));
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
                sent = sender.send(message.kind, &message.route, message.body);
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
