//! A standby: a process of the keeper's user that sleeps, and is the next keeper when its gateway wants one.
//!
//! A gateway that has become another user cannot start a keeper like the first one. So it has its keeper start this
//! process while all is well, and gives it one end of a pair of sockets. When its keeper is dead or hangs it says hello there.
//! That wakes this process: it ends the keeper before, if that lives, makes the control socket anew and is a keeper whose
//! gateway is connected already. When the gateway is gone, so is this process.
//!
//! # Who may touch what
//!
//! 1. Until it is woken it reads nothing and opens nothing but what it was started with.
//! 2. Nobody but its gateway has the other end, so who says hello there is not asked for its user.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{GUEST_FIRST, Keeper, KeeperError, Options};
use crate::client::{listen, wait};
use crate::pidfd::is_dead;
use crate::spawn::Reservation;

/// How long the keeper before may take to die once it is killed.
const DEATH_PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no standby.
#[derive(Debug, thiserror::Error)]
pub(super) enum StandbyError {
    #[error("the request came with {count} descriptors, expected 1")]
    Descriptors { count: usize },
    #[error("its socket is not one of a pair that the gateway has made")]
    Socket,
    #[error("{step} failed for it")]
    System {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Sleeps until the gateway at the other end of standard input says hello, and is its keeper from then on. Standard output
/// is the pidfd of the keeper before. The main function of the standby's process.
pub fn stand_by(path: &Path, options: Options) -> Result<(), KeeperError> {
    let failed = |step: &'static str| {
        move |source: io::Error| KeeperError::System { step, path: path.to_owned(), source }
    };
    // First of all, so that the numbers are free.
    let reservation = Reservation::new().map_err(failed("reserving descriptors"))?;
    let (gateway, before) = take_standard().map_err(failed("taking standard descriptors"))?;
    if !is_wanted(&gateway).map_err(|errno| failed("waiting for the gateway")(errno.into()))? {
        return Ok(());
    }
    // One that is dead already is what is wanted.
    let _ = pidfd_send_signal(&before, Signal::KILL); // As above.
    let deadline = Instant::now() + DEATH_PATIENCE;
    while !is_dead(&before) {
        if !wait(&before, PollFlags::IN, deadline) {
            return Err(failed("ending the keeper before")(io::ErrorKind::TimedOut.into()));
        }
    }
    let listener = listen(path).map_err(KeeperError::Listen)?;
    let process = sockopt::socket_peercred(&gateway).ok().map(|peer| peer.pid);
    let options = Options { successor: true, ..options };
    let mut keeper = Keeper::new(path, listener, options, (reservation, process))?;
    keeper.expect(gateway)?;
    keeper.serve()
}

/// Takes the two descriptors that a standby is started with; others come in their place.
fn take_standard() -> io::Result<(OwnedFd, OwnedFd)> {
    let (gateway, before) =
        (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok((gateway, before))
}

/// Whether the gateway has said something; if not, it is gone.
fn is_wanted(gateway: &OwnedFd) -> Result<bool, Errno> {
    loop {
        let ready = &mut [PollFd::new(gateway, PollFlags::IN)];
        match rustix::event::poll(ready, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    // An error or the end: nobody is there.
    Ok(rustix::net::recv(gateway, &mut [0; 1], flags).is_ok_and(|(bytes, _)| bytes > 0))
}

impl Keeper {
    /// Seats the gateway that has woken this process.
    fn expect(&mut self, gateway: OwnedFd) -> Result<(), KeeperError> {
        let seat = self.guests.expect(gateway, Instant::now());
        let Some(socket) = self.guests.socket(seat) else { return Ok(()) };
        epoll::add(&self.epoll, socket, EventData::new_u64(GUEST_FIRST + seat as u64), EventFlags::IN)
            .map_err(self.system("watching the gateway"))
    }

    /// Starts a standby for the gateway, in the place of an earlier one.
    pub(super) fn start_standby(&mut self, descriptors: Vec<OwnedFd>) -> Result<(), StandbyError> {
        let count = descriptors.len();
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            return Err(StandbyError::Descriptors { count });
        };
        let own_gateway = self.succession.process().map(|process| process.id);
        let peer = sockopt::socket_peercred(&socket).ok().map(|peer| peer.pid);
        let is_pair = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::SEQPACKET);
        if !is_pair || peer.is_none() || peer != own_gateway {
            return Err(StandbyError::Socket);
        }
        self.end_standby();
        let failed = |step: &'static str| move |source: io::Error| StandbyError::System { step, source };
        let program = std::env::current_exe().map_err(failed("finding the program"))?;
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|errno| failed("opening the own process")(errno.into()))?;
        let mut command = Command::new(program);
        command.arg("--standby").arg("--socket").arg(&self.socket_path);
        if let Some(count) = self.open_files.current {
            command.arg("--open-files").arg(count.to_string());
        }
        let child = command.stdin(Stdio::from(socket)).stdout(Stdio::from(own)).spawn();
        let child = Pid::from_child(&child.map_err(failed("starting its program"))?);
        // It is reaped as an orphan when it has ended, and not before this.
        let pidfd = pidfd_open(child, PidfdFlags::empty());
        self.standby = Some(pidfd.map_err(|errno| failed("watching it")(errno.into()))?);
        Ok(())
    }

    /// Ends the standby: its gateway is another one now, or wants another one.
    fn end_standby(&mut self) {
        if let Some(standby) = self.standby.take() {
            // One that has ended is what is wanted.
            let _ = pidfd_send_signal(&standby, Signal::KILL); // As above.
        }
    }
}
