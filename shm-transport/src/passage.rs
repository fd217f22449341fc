//! The side channel on which descriptors of large messages travel: a pair of SEQPACKET sockets beside the rings.
//!
//! A datagram is one descriptor and the number of its message. It is sent before the record that announces it is
//! published, and it stays in the socket until that record has been released: whoever takes over the ring from a
//! reader that died finds it there again. A datagram whose record was never published has a number below that of
//! its successor, and is dropped.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Datagrams looked at for one record. A peer that follows the rules leaves at most as many stale ones as it had
/// unreleased.
const LOOKS_MAX: usize = 4 * IN_FLIGHT_MAX;
/// The most messages by descriptor that a sender has unreleased.
pub(crate) const IN_FLIGHT_MAX: usize = 16;
/// Descriptors taken from one datagram; a well-behaved peer sends one.
const FDS_MAX: usize = 1;

/// A pair of connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// One end, of a sender or of a receiver.
#[derive(Debug)]
pub(crate) struct Passage {
    // Arc: sender and receiver of one side share the socket, and may sit on two threads.
    socket: std::sync::Arc<OwnedFd>,
}

impl Passage {
    pub(crate) fn new(socket: &std::sync::Arc<OwnedFd>) -> Self {
        Self { socket: std::sync::Arc::clone(socket) }
    }

    /// Sends a descriptor. `false`: the socket takes nothing now, or nobody reads it any more.
    pub(crate) fn send(&self, number: u64, file: BorrowedFd<'_>) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [file];
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return false;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let text = number.to_le_bytes();
        loop {
            match rustix::net::sendmsg(&*self.socket, &[IoSlice::new(&text)], &mut control, flags) {
                Err(Errno::INTR) => {}
                sent => return sent.is_ok(),
            }
        }
    }

    /// The descriptor of this number, which stays in the socket; what comes before it is dropped.
    pub(crate) fn look(&self, number: u64) -> Option<OwnedFd> {
        for _ in 0..LOOKS_MAX {
            let (found, file) = self.receive(RecvFlags::PEEK)?;
            if found == Some(number) {
                return file;
            }
            if found.is_some_and(|found| found > number) {
                return None;
            }
            self.receive(RecvFlags::empty())?;
        }
        None
    }

    /// Drops the descriptor that [`Self::look`] found: its record has been released.
    pub(crate) fn drop_seen(&self) {
        // What is there is what was seen; nothing is lost if it is gone.
        let _ = self.receive(RecvFlags::empty());
    }

    /// The first datagram: its number if it has one, its descriptor if it has one. `None`: there is no datagram.
    fn receive(&self, peek: RecvFlags) -> Option<(Option<u64>, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0u8; 8];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC | peek;
        let bytes = loop {
            let into = &mut [IoSliceMut::new(&mut text)];
            match rustix::net::recvmsg(&*self.socket, into, &mut control, flags) {
                Ok(received) => break received.bytes,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        };
        let mut file = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                // More than one: the others are closed here.
                file = fds.last();
            }
        }
        if bytes == 0 && file.is_none() {
            // The other end is closed, or a peer sent an empty datagram; both are an end.
            return None;
        }
        Some(((bytes == text.len()).then(|| u64::from_le_bytes(text)), file))
    }
}

impl AsFd for Passage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
