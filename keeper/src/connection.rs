//! The keeper's end of the control socket: one gateway at a time, with a bounded queue of events.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::channel::{Channel, ChannelError, Sent, sentence};
use crate::control::{AGENTS_MAX, Event, Request};
use crate::launch::Held;
use crate::sandbox::probe::Enforcement;
use crate::shown::ShownRings;

/// The most events that wait for a gateway that does not read: all that live, twice.
const EVENTS_MAX: usize = 2 * AGENTS_MAX;

/// What goes with an event.
#[derive(Debug)]
pub(crate) enum Attached {
    Nothing,
    /// Whose death it is. Not sent: it is for a gateway that comes later.
    Name(String),
    /// The descriptors of an agent, and its pidfd. Arc: it may die while they wait to be sent.
    Agent(Arc<Held>, Arc<OwnedFd>),
    /// A listening socket. Arc: it may be replaced while it waits to be sent.
    Socket(Arc<OwnedFd>),
}

/// An event with what goes with it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) event: Event,
    pub(crate) attached: Attached,
}

impl From<Event> for Outgoing {
    fn from(event: Event) -> Self {
        Self { event, attached: Attached::Nothing }
    }
}

/// The gateway's end of the control socket, if there is one.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Nobody.
    Nobody,
    /// The gateway.
    Gateway { channel: Channel, process_id: u32, queue: VecDeque<Outgoing>, shown: ShownRings },
}

/// What came of looking at a connection.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing now.
    Nothing,
    /// A request of the gateway, with its descriptors.
    Request(Box<Request>, Vec<OwnedFd>),
    /// The gateway is gone, or cannot be talked to.
    GatewayGone { process_id: u32, reason: ChannelError },
}

impl Connection {
    /// The gateway, welcomed.
    pub(crate) fn welcome(
        channel: Channel,
        version: u32,
        process_id: u32,
        shape: Option<String>,
        shown: ShownRings,
        enforcement: Enforcement,
    ) -> Self {
        let mut gateway = Self::Gateway { channel, process_id, queue: VecDeque::new(), shown };
        let process_id = std::process::id();
        let welcome = Event::Welcome {
            version,
            process_id,
            enforcement,
            shape,
            skills: true,
            beats: true,
            standbys: true,
        };
        gateway.push(welcome.into());
        gateway
    }

    /// Takes what could not be sent.
    pub(crate) fn unsent(&mut self) -> VecDeque<Outgoing> {
        match self {
            Self::Nobody => VecDeque::new(),
            Self::Gateway { queue, .. } => std::mem::take(queue),
        }
    }

    /// The socket to watch.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nobody => None,
            Self::Gateway { channel, .. } => Some(channel.as_fd()),
        }
    }

    /// The gateway's process id.
    pub(crate) fn gateway(&self) -> Option<u32> {
        match self {
            Self::Nobody => None,
            Self::Gateway { process_id, .. } => Some(*process_id),
        }
    }

    /// The rings that the gateway shows.
    pub(crate) fn shown(&self) -> Option<&ShownRings> {
        match self {
            Self::Nobody => None,
            Self::Gateway { shown, .. } => Some(shown),
        }
    }

    /// Takes a ring that the gateway shows.
    pub(crate) fn show(&mut self, name: String, descriptors: Vec<OwnedFd>) {
        let Self::Gateway { shown, .. } = self else { return };
        if let Err(error) = shown.add(name, descriptors) {
            self.push(Event::NotShown { reason: sentence(&error) }.into());
        }
    }

    /// Reads what has come.
    pub(crate) fn listen(&mut self) -> Heard {
        match self {
            Self::Nobody => Heard::Nothing,
            Self::Gateway { channel, process_id, .. } => {
                let process_id = *process_id;
                match channel.receive::<Request>() {
                    Ok(None) => Heard::Nothing,
                    Ok(Some((request, descriptors))) => Heard::Request(Box::new(request), descriptors),
                    Err(error @ (ChannelError::Malformed { .. } | ChannelError::TooLarge { .. })) => {
                        self.push(Event::Refused { reason: sentence(&error) }.into());
                        Heard::Nothing
                    }
                    Err(reason) => Heard::GatewayGone { process_id, reason },
                }
            }
        }
    }

    /// Queues an event. Without a gateway there is nobody to tell.
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        if let Self::Gateway { queue, .. } = self {
            queue.push_back(outgoing);
        }
    }

    /// Sends what waits. A gateway that leaves too much unread counts as gone.
    pub(crate) fn flush(&mut self) -> Heard {
        let Self::Gateway { channel, process_id, queue, .. } = self else { return Heard::Nothing };
        let process_id = *process_id;
        while let Some(Outgoing { event, attached }) = queue.front() {
            let sent = match attached {
                Attached::Agent(held, pidfd) => channel.send(event, &held.of_gateway(pidfd)),
                Attached::Socket(socket) => channel.send(event, &[socket.as_fd()]),
                Attached::Nothing | Attached::Name(_) => channel.send(event, &[]),
            };
            match sent {
                Ok(Sent::Now) => {
                    queue.pop_front();
                }
                Ok(Sent::Blocked) if queue.len() <= EVENTS_MAX => return Heard::Nothing,
                Ok(Sent::Blocked) => {
                    return Heard::GatewayGone { process_id, reason: ChannelError::Closed };
                }
                Err(reason) => return Heard::GatewayGone { process_id, reason },
            }
        }
        Heard::Nothing
    }

    /// Whether events wait for the socket.
    pub(crate) fn is_blocked(&self) -> bool {
        matches!(self, Self::Gateway { queue, .. } if !queue.is_empty())
    }
}
