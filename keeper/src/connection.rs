//! The keeper's end of the control socket: one gateway at a time, greeted, with a bounded queue of events.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::{Channel, ChannelError, Sent, sentence};
use crate::control::{Event, Request, VERSION, negotiate};
use crate::launch::Held;

/// The most events that wait for a gateway that does not read.
const EVENTS_MAX: usize = 4096;
/// How long a connection may take to say hello, and the first gateway to connect.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// An event with the descriptors that go with it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) event: Event,
    // Arc: the agent may die while its descriptors wait to be sent.
    pub(crate) attached: Option<Arc<Held>>,
}

impl From<Event> for Outgoing {
    fn from(event: Event) -> Self {
        Self { event, attached: None }
    }
}

/// Who is connected.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Nobody yet, since then.
    Nobody { since: Instant },
    /// Somebody who has not said hello, since then.
    Stranger { channel: Channel, since: Instant },
    /// The gateway.
    Gateway { channel: Channel, process_id: u32, queue: VecDeque<Outgoing> },
}

/// What came of looking at a connection.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing now.
    Nothing,
    /// A request of the gateway.
    Request(Request),
    /// A stranger is gone, or was sent away: whoever comes next may try.
    StrangerLeft,
    /// The gateway is gone, or cannot be talked to.
    GatewayGone { process_id: u32, reason: ChannelError },
}

impl Connection {
    /// The socket to watch.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nobody { .. } => None,
            Self::Stranger { channel, .. } | Self::Gateway { channel, .. } => Some(channel.as_fd()),
        }
    }

    /// Takes a new connection, or sends it away if there is one. `true` if it was taken.
    pub(crate) fn accept(&mut self, socket: OwnedFd, now: Instant) -> bool {
        let channel = Channel::new(socket);
        let reason = match self {
            Self::Nobody { .. } => {
                *self = Self::Stranger { channel, since: now };
                return true;
            }
            Self::Stranger { .. } => "another connection is being greeted".to_owned(),
            Self::Gateway { process_id, .. } => {
                format!("this keeper serves the gateway with process id {process_id}")
            }
        };
        let _ = channel.send(&Event::Refused { reason }, &[]); // Whoever does not read it sees the end.
        false
    }

    /// Reads what has come.
    pub(crate) fn listen(&mut self, now: Instant) -> Heard {
        match self {
            Self::Nobody { .. } => Heard::Nothing,
            Self::Stranger { .. } => self.greet(now),
            Self::Gateway { channel, process_id, .. } => {
                let process_id = *process_id;
                match channel.receive::<Request>() {
                    Ok(None) => Heard::Nothing,
                    Ok(Some((request, _))) => Heard::Request(request),
                    Err(error @ (ChannelError::Malformed { .. } | ChannelError::TooLarge { .. })) => {
                        self.push(Event::Refused { reason: sentence(&error) }.into());
                        Heard::Nothing
                    }
                    Err(reason) => Heard::GatewayGone { process_id, reason },
                }
            }
        }
    }

    /// Reads the first request of a stranger.
    fn greet(&mut self, now: Instant) -> Heard {
        let Self::Stranger { channel, .. } = self else { return Heard::Nothing };
        let reason = match channel.receive::<Request>() {
            Ok(None) => return Heard::Nothing,
            Ok(Some((Request::Hello { version_min, version_max, process_id, .. }, _))) => {
                match negotiate(version_min, version_max) {
                    Some(version) => return self.welcome(version, process_id, now),
                    None => format!(
                        "keeper speaks control version {VERSION}, the gateway {version_min} to {version_max}"
                    ),
                }
            }
            Ok(Some(_)) => "the first request must be hello".to_owned(),
            Err(ChannelError::Closed) => {
                *self = Self::Nobody { since: now };
                return Heard::StrangerLeft;
            }
            Err(error) => sentence(&error),
        };
        let _ = channel.send(&Event::Refused { reason }, &[]); // Whoever does not read it sees the end.
        *self = Self::Nobody { since: now };
        Heard::StrangerLeft
    }

    fn welcome(&mut self, version: u32, process_id: u32, now: Instant) -> Heard {
        let Self::Stranger { channel, .. } = std::mem::replace(self, Self::Nobody { since: now }) else {
            return Heard::Nothing;
        };
        *self = Self::Gateway { channel, process_id, queue: VecDeque::new() };
        self.push(Event::Welcome { version, process_id: std::process::id() }.into());
        Heard::Nothing
    }

    /// Queues an event. Without a gateway there is nobody to tell.
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        if let Self::Gateway { queue, .. } = self {
            queue.push_back(outgoing);
        }
    }

    /// Sends what waits. A gateway that leaves too much unread counts as gone.
    pub(crate) fn flush(&mut self) -> Heard {
        let Self::Gateway { channel, process_id, queue } = self else { return Heard::Nothing };
        let process_id = *process_id;
        while let Some(Outgoing { event, attached }) = queue.front() {
            let sent = match attached {
                Some(held) => channel.send(event, &held.of_gateway()),
                None => channel.send(event, &[]),
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

    /// When patience with whoever is expected ends, if somebody is.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Nobody { since } | Self::Stranger { since, .. } => Some(*since + HELLO_DEADLINE),
            Self::Gateway { .. } => None,
        }
    }
}
