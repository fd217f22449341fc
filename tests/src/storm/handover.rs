//! What the keeper of a crash test hands to each process it starts, over a socket on standard input.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

const DESCRIPTORS: usize = 5;

/// The descriptors of one process.
#[derive(Debug)]
pub struct Handover<F: AsFd> {
    /// The half it writes.
    pub own: F,
    /// The half it reads, read-only.
    pub peer: F,
    /// The eventfd on which the engine sleeps.
    pub bell: F,
    /// Where it stores the effects of what it receives.
    pub effects: F,
    /// What it is to do, see [`is_over`].
    pub plan: F,
}

impl Handover<BorrowedFd<'_>> {
    /// A socket from which a process takes all of this; meant to be its standard input.
    pub fn socket(&self) -> rustix::io::Result<OwnedFd> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.own, self.peer, self.bell, self.effects, self.plan];
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(fits, "the space is for {DESCRIPTORS} descriptors");
        rustix::net::sendmsg(&ours, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(theirs)
    }
}

impl Handover<OwnedFd> {
    /// Takes what [`Handover::socket`] holds.
    pub fn take(socket: impl AsFd) -> rustix::io::Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let into = &mut [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let found: [OwnedFd; DESCRIPTORS] = descriptors.try_into().map_err(|_| Errno::PROTO)?;
        let [own, peer, bell, effects, plan] = found;
        Ok(Self { own, peer, bell, effects, plan })
    }
}

/// Whether the plan says that nothing more is to be sent: read what is there, and end.
pub fn is_over(plan: impl AsFd) -> rustix::io::Result<bool> {
    let mut byte = [0];
    Ok(rustix::io::pread(plan, &mut byte, 0)? == 1 && byte == [1])
}

/// Writes the plan.
pub fn set_over(plan: impl AsFd, over: bool) -> rustix::io::Result<()> {
    rustix::io::pwrite(plan, &[u8::from(over)], 0)?;
    Ok(())
}
