//! The gateway's part in a standby ([`crate::control::Request::Standby`]).

use std::os::fd::AsFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Client, ClientError, StartError};
use crate::control::Request;

impl Client {
    /// Has the keeper keep a standby, in the place of an earlier one. Only once this process is the user that it stays: the
    /// kernel is asked who has made the sockets.
    pub fn keep_standby(&mut self) -> Result<(), ClientError> {
        self.standby = None;
        if !self.keeps_standbys {
            return Ok(());
        }
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (own, other) = pair.map_err(|errno| ClientError::System {
            step: "making the way to a standby",
            source: errno.into(),
        })?;
        self.send_with(&Request::Standby, &[other.as_fd()])?;
        self.standby = Some(own);
        Ok(())
    }

    /// Whether a standby that was wanted is not there: it has ended, or could not be started.
    pub fn lacks_standby(&self) -> bool {
        let Some(standby) = &self.standby else { return self.keeps_standbys };
        let gone = &mut [PollFd::new(standby, PollFlags::empty())];
        rustix::event::poll(gone, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Wakes the standby, which ends the keeper if it lives and takes its place. `None`: there is no standby.
    pub fn wake_standby(&mut self, socket_path: &Path) -> Option<Result<Self, StartError>> {
        let mut next = Self::unheard(self.standby.take()?, 0, None);
        // A new keeper holds nothing.
        let greeted = next.greet(socket_path, &mut |_| {});
        Some(greeted.map(|()| next))
    }
}
