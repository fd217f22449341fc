//! Notes between processes of this program: one JSON value a datagram, and the descriptors that come along.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most descriptors that come with one note.
const FILES_MAX: usize = 4;
const NOTE_BYTES_MAX: usize = 4096;

/// A connected pair of sockets for notes.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a note and up to [`FILES_MAX`] descriptors.
pub fn send(socket: impl AsFd, note: &impl Serialize, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(note).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many descriptors for one note"));
    }
    sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next note and the descriptors that came with it, or `None` if the other side is gone.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; NOTE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Ok(None);
    }
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    let note = serde_json::from_slice(&bytes[..received]).map_err(io::Error::other)?;
    Ok(Some((note, files)))
}

/// Exactly as many descriptors as were expected.
pub fn exactly<const N: usize>(files: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    files.try_into().map_err(|files: Vec<OwnedFd>| {
        io::Error::other(format!("{} descriptors came, {N} were expected", files.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note and its descriptors arrive together; a closed socket is no note, and a wrong count is named.
    #[test]
    fn notes_bring_their_files() {
        let (a, b) = pair().unwrap();
        send(&a, &"hello", &[a.as_fd(), b.as_fd()]).unwrap();
        drop(a);
        let (note, files) = receive::<String>(&b).unwrap().unwrap();
        assert_eq!((note.as_str(), files.len()), ("hello", 2));
        let error = exactly::<3>(files).unwrap_err().to_string();
        assert_eq!(error, "2 descriptors came, 3 were expected");
        assert!(receive::<String>(&b).unwrap().is_none());
    }
}
