//! One message a datagram over a SEQPACKET socket, with up to six descriptors. Never blocks.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::DATAGRAM_BYTES_MAX;

/// The most descriptors of one message.
pub(crate) const FDS_MAX: usize = 6;

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the other side of the control socket is gone")]
    Closed,
    /// It does not fit in a datagram.
    #[error("control message of {bytes} bytes is larger than the {max} of a datagram")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It has no text form: a path that is not UTF-8, for instance.
    #[error("control message cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// The other side sent something else.
    #[error("control message of {bytes} bytes cannot be understood")]
    Malformed {
        /// Its size.
        bytes: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A system call failed.
    #[error("{step} on the control socket failed")]
    System {
        /// Which step.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Whether a message went out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Sent {
    /// It did.
    Now,
    /// The socket is full: try again when it is writable.
    Blocked,
}

/// A connected control socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] }
    }

    pub(crate) fn send(
        &self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Sent, ChannelError> {
        let text = serde_json::to_vec(message).map_err(ChannelError::Encode)?;
        if text.len() > DATAGRAM_BYTES_MAX {
            return Err(ChannelError::TooLarge { bytes: text.len(), max: DATAGRAM_BYTES_MAX });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "at most {FDS_MAX} descriptors");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(&text)], &mut control, flags) {
                Ok(_) => return Ok(Sent::Now),
                Err(Errno::INTR) => {}
                // TOOMANYREFS: too many descriptors are under way; those, too, become fewer.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => return Ok(Sent::Blocked),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::System { step: "sending", source: errno.into() }),
            }
        }
    }

    /// The next message with its descriptors, or `None` if there is none now.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            let into = &mut [IoSliceMut::new(&mut self.buffer)];
            match rustix::net::recvmsg(&self.socket, into, &mut control, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::System { step: "receiving", source: errno.into() }),
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        let bytes = received.bytes;
        if bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(ChannelError::TooLarge { bytes, max: DATAGRAM_BYTES_MAX });
        }
        let message = serde_json::from_slice(&self.buffer[..bytes])
            .map_err(|source| ChannelError::Malformed { bytes, source })?;
        Ok(Some((message, fds)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An error and its causes in one line.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
