//! The gateway's end of the control socket: start a keeper, talk to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::channel::{Channel, Sent};
use crate::control::{Event, Request, VERSION};
use crate::sandbox::probe::Enforcement;

pub use crate::channel::ChannelError as ClientError;

/// How long a new keeper may take to answer.
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);
/// How long a keeper may take to make room for a request.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Why no keeper was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket of an earlier keeper answers.
    #[error("a keeper still runs on {}; end it, or choose another state directory", path.display())]
    AlreadyRunning {
        /// The control socket.
        path: PathBuf,
    },
    /// The control socket could not be made.
    #[error("{step} of the control socket {} failed", path.display())]
    Socket {
        /// Which step.
        step: &'static str,
        /// The control socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be run.
    #[error("the keeper {} cannot be run", executable.display())]
    Run {
        /// The program.
        executable: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The keeper ended or broke off before it answered; its own words are on standard error.
    #[error("the keeper with process id {process_id} broke off before it answered")]
    BrokeOff {
        /// Its process id.
        process_id: u32,
        /// What was seen of it.
        #[source]
        source: ClientError,
    },
    /// The keeper did not answer in time.
    #[error("the keeper with process id {process_id} did not answer within {} s", WELCOME_DEADLINE.as_secs())]
    Silent {
        /// Its process id.
        process_id: u32,
    },
    /// The keeper answered, but not with a welcome.
    #[error("the keeper with process id {process_id} refuses: {reason}")]
    Refused {
        /// Its process id.
        process_id: u32,
        /// Its reason.
        reason: String,
    },
}

/// A running keeper. Dropping this kills nothing; the keeper sees the connection end.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    process_id: u32,
    child: Child,
    enforcement: Enforcement,
}

impl Client {
    /// Starts a keeper (`executable keeper --socket socket_path`) and greets it.
    ///
    /// The directory of the path must be the gateway's own: a dead socket in it is removed.
    pub fn start(executable: &Path, socket_path: &Path) -> Result<Self, StartError> {
        let path = socket_path;
        let failed = |step: &'static str| {
            move |errno: Errno| StartError::Socket { step, path: path.to_owned(), source: errno.into() }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("the address"))?;
        match rustix::net::connect(&socket().map_err(failed("making"))?, &address) {
            Ok(()) => return Err(StartError::AlreadyRunning { path: path.to_owned() }),
            Err(Errno::NOENT) => {}
            Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).map_err(failed("removing the dead file"))?,
            Err(errno) => return Err(failed("probing")(errno)),
        }
        let listener = socket().map_err(failed("making"))?;
        rustix::net::bind(&listener, &address).map_err(failed("binding"))?;
        // Nobody can connect before `listen`, so nobody has while the mode was another.
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed("protecting"))?;
        rustix::net::listen(&listener, BACKLOG).map_err(failed("listening"))?;
        let child = Command::new(executable)
            .args(["keeper", "--socket"])
            .arg(path)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(source) => {
                let _ = rustix::fs::unlink(path); // The error to report is the other one.
                return Err(StartError::Run { executable: executable.to_owned(), source });
            }
        };
        let connection = socket().map_err(failed("making"))?;
        rustix::net::connect(&connection, &address).map_err(failed("connecting"))?;
        let process_id = child.id();
        let enforcement = Enforcement::default();
        let mut client = Self { channel: Channel::new(connection), process_id, child, enforcement };
        client.greet()?;
        Ok(client)
    }

    /// Says hello and waits for the answer.
    fn greet(&mut self) -> Result<(), StartError> {
        let process_id = self.process_id;
        let broke_off = |source| StartError::BrokeOff { process_id, source };
        let software = concat!("keeper-client/", env!("CARGO_PKG_VERSION")).to_owned();
        let hello = Request::Hello {
            version_min: VERSION,
            version_max: VERSION,
            process_id: std::process::id(),
            software,
        };
        self.send(&hello).map_err(broke_off)?;
        let deadline = Instant::now() + WELCOME_DEADLINE;
        loop {
            match self.receive().map_err(broke_off)? {
                Some((Event::Welcome { enforcement, .. }, _)) => {
                    self.enforcement = enforcement;
                    return Ok(());
                }
                Some((Event::Refused { reason }, _)) => {
                    return Err(StartError::Refused { process_id, reason });
                }
                Some((other, _)) => {
                    let reason = format!("{other:?} came before the welcome");
                    return Err(StartError::Refused { process_id, reason });
                }
                None if !wait(&self.channel, PollFlags::IN, deadline) => {
                    return Err(StartError::Silent { process_id });
                }
                None => {}
            }
        }
    }

    /// The keeper's process id.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// What the keeper's machine allows of a sandbox.
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// Sends a request. Waits at most 5 s for room.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.send_with(request, &[])
    }

    /// Shows a ring between two threads to observers: read-only descriptors of the halves that the first and
    /// the second end of `name` write.
    pub fn show(&mut self, name: &str, halves: [BorrowedFd<'_>; 2]) -> Result<(), ClientError> {
        self.send_with(&Request::Show { name: name.to_owned() }, &halves)
    }

    fn send_with(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let deadline = Instant::now() + SEND_DEADLINE;
        while self.channel.send(request, fds)? == Sent::Blocked {
            if !wait(&self.channel, PollFlags::OUT, deadline) {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(ClientError::System { step: "waiting for room", source });
            }
        }
        Ok(())
    }

    /// The next event with its descriptors, or `None` if there is none now: poll [`Self::as_fd`].
    ///
    /// [`ClientError::Closed`] says that the keeper is gone.
    pub fn receive(&mut self) -> Result<Option<(Event, Vec<OwnedFd>)>, ClientError> {
        self.channel.receive()
    }

    /// Waits for the keeper's process to end.
    pub fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

pub(crate) fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Waits until the socket is ready. `false` if the deadline came first.
pub(crate) fn wait(socket: &Channel, flags: PollFlags, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    // An interrupted wait is not the end of it: the caller tries, and waits again.
    let interrupted = Err(Errno::INTR);
    let ready = rustix::event::poll(&mut [PollFd::new(socket, flags)], Some(&timeout));
    !left.is_zero() && (ready == interrupted || ready.is_ok_and(|count| count > 0))
}
