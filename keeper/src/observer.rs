//! The observer's end of the control socket: find the keeper of a running gateway, ask it for rings.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use crate::channel::{Channel, ChannelError, Sent};
use crate::client::{socket, wait};
use crate::control::AGENTS_MAX;
use crate::control::{Request, SHOWN_RINGS_MAX, VERSION};
use crate::view::{Answer, Question, RINGS_PER_ANSWER_MAX, Ring, RingId};

/// How long a keeper may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The most pages of a list: more would be more rings than a keeper holds.
const PAGES_MAX: usize = (AGENTS_MAX + SHOWN_RINGS_MAX).div_ceil(RINGS_PER_ANSWER_MAX) + 1;

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Nobody listens.
    #[error("no gateway runs on {}", path.display())]
    NoGateway {
        /// The control socket.
        path: PathBuf,
    },
    /// It is another user's.
    #[error("not allowed to look at the gateway of {}: only its own user is", path.display())]
    NotAllowed {
        /// The control socket.
        path: PathBuf,
    },
    /// The keeper does not accept the connection.
    #[error("the keeper of {} refuses: {reason}", path.display())]
    Refused {
        /// The control socket.
        path: PathBuf,
        /// Its reason.
        reason: String,
    },
    /// The keeper does not answer in time.
    #[error("the keeper of {} did not answer within {} s", path.display(), ANSWER_DEADLINE.as_secs())]
    Silent {
        /// The control socket.
        path: PathBuf,
    },
    /// The keeper answers something else than was asked.
    #[error("the keeper of {} gave no answer to {question}", path.display())]
    Confused {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        question: &'static str,
    },
    /// The gateway, and its keeper, have ended.
    #[error("the gateway of {} has ended", path.display())]
    Ended {
        /// The control socket.
        path: PathBuf,
    },
    /// The connection failed.
    #[error("talking to the keeper of {} failed", path.display())]
    Channel {
        /// The control socket.
        path: PathBuf,
        /// What failed.
        #[source]
        source: ChannelError,
    },
    /// A system call failed.
    #[error("{step} {} failed", path.display())]
    System {
        /// Which step.
        step: &'static str,
        /// The control socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// A connection that can look and nothing else.
#[derive(Debug)]
pub struct Observer {
    channel: Channel,
    path: PathBuf,
}

impl Observer {
    /// Connects to the keeper that listens on `path`.
    pub fn connect(path: &Path) -> Result<Self, ObserveError> {
        let failed = |step: &'static str| {
            let path = path.to_owned();
            move |errno: Errno| ObserveError::System { step, path, source: errno.into() }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("the address"))?;
        let connection = socket().map_err(failed("a socket for"))?;
        match rustix::net::connect(&connection, &address) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => {
                return Err(ObserveError::NoGateway { path: path.to_owned() });
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err(ObserveError::NotAllowed { path: path.to_owned() });
            }
            Err(errno) => return Err(failed("connecting to")(errno)),
        }
        let mut observer = Self { channel: Channel::new(connection), path: path.to_owned() };
        let software = concat!("keeper-observer/", env!("CARGO_PKG_VERSION")).to_owned();
        let process_id = std::process::id();
        let greeting = Request::Observe { version_min: VERSION, version_max: VERSION, process_id, software };
        match observer.ask(&greeting)? {
            (Answer::Welcome { .. }, _) => Ok(observer),
            _ => Err(observer.confused("observe")),
        }
    }

    /// All rings, in the order of [`RingId`].
    pub fn rings(&mut self) -> Result<Vec<Ring>, ObserveError> {
        let mut found: Vec<Ring> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after = found.last().map(|ring| ring.id);
            let (Answer::Rings { rings, more }, _) = self.ask(&Question::Rings { after })? else {
                return Err(self.confused("rings"));
            };
            let stuck = rings.is_empty();
            found.extend(rings);
            if !more || stuck {
                return Ok(found);
            }
        }
        Err(self.confused("rings"))
    }

    /// Read-only descriptors of what the first and the second side of a ring write; `None` if it is gone.
    pub fn ring(&mut self, id: RingId) -> Result<Option<[OwnedFd; 2]>, ObserveError> {
        match self.ask(&Question::Ring { id })? {
            (Answer::Ring { .. }, descriptors) => {
                let halves = <[OwnedFd; 2]>::try_from(descriptors);
                halves.map(Some).map_err(|_| self.confused("ring: two descriptors were expected"))
            }
            (Answer::NoSuchRing { .. }, _) => Ok(None),
            _ => Err(self.confused("ring")),
        }
    }

    fn confused(&self, question: &'static str) -> ObserveError {
        ObserveError::Confused { path: self.path.clone(), question }
    }

    fn failed(&self, source: ChannelError) -> ObserveError {
        let path = self.path.clone();
        match source {
            ChannelError::Closed => ObserveError::Ended { path },
            source => ObserveError::Channel { path, source },
        }
    }

    fn ask(&mut self, question: &impl serde::Serialize) -> Result<(Answer, Vec<OwnedFd>), ObserveError> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        match self.channel.send(question, &[]) {
            Ok(Sent::Now) => {}
            Ok(Sent::Blocked) => return Err(ObserveError::Silent { path: self.path.clone() }),
            // A keeper that does not want us may have said so before it hung up.
            Err(ChannelError::Closed) => {}
            Err(error) => return Err(self.failed(error)),
        }
        let mut resets = 0;
        loop {
            match self.channel.receive::<Answer>() {
                Ok(Some((Answer::Refused { reason }, _))) => {
                    return Err(ObserveError::Refused { path: self.path.clone(), reason });
                }
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) if wait(&self.channel, PollFlags::IN, deadline) => {}
                Ok(None) => return Err(ObserveError::Silent { path: self.path.clone() }),
                // A reset is told before what was said last, which is still there.
                Err(ChannelError::Closed) if resets == 0 => resets += 1,
                Err(error) => return Err(self.failed(error)),
            }
        }
    }
}
