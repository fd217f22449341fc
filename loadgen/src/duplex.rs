//! The byte buffers between one TCP socket and the WebSocket codec, so that the codec never touches a file descriptor.
//!
//! The codec reads from `inbox` and writes to `outbox`, both in memory. The connection moves bytes between these
//! and the socket, with one read and one write system call for a whole batch of frames.

use std::io::{self, Read, Write};

/// In-memory byte stream in both directions. Reading past the end of `inbox` says "would block".
#[derive(Debug, Default)]
pub struct Duplex {
    inbox: Vec<u8>,
    inbox_read: usize,
    inbox_filled: usize,
    outbox: Vec<u8>,
    outbox_written: usize,
    peer_closed: bool,
}

impl Duplex {
    /// Lends a receive buffer to the codec, `filled` bytes of it. The codec has emptied the previous one.
    pub fn fill(&mut self, received: Vec<u8>, filled: usize) {
        debug_assert_eq!(self.inbox_read, self.inbox_filled);
        debug_assert!(filled <= received.len());
        self.inbox = received;
        self.inbox_read = 0;
        self.inbox_filled = filled;
    }

    /// Takes the receive buffer back for the next connection of the same thread, whatever is in it.
    pub fn take_inbox(&mut self) -> Vec<u8> {
        self.inbox_read = 0;
        self.inbox_filled = 0;
        std::mem::take(&mut self.inbox)
    }

    /// Remembers that the server will send no more bytes.
    pub fn close_inbox(&mut self) {
        self.peer_closed = true;
    }

    /// The bytes that still have to go to the socket.
    pub fn unsent(&self) -> &[u8] {
        &self.outbox[self.outbox_written..]
    }

    /// Drops the first `count` unsent bytes, because the socket took them.
    pub fn advance(&mut self, count: usize) {
        self.outbox_written += count;
        debug_assert!(self.outbox_written <= self.outbox.len());
        if self.outbox_written == self.outbox.len() {
            self.outbox.clear();
            self.outbox_written = 0;
        }
    }
}

impl Read for Duplex {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let rest = &self.inbox[self.inbox_read..self.inbox_filled];
        if rest.is_empty() {
            return if self.peer_closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = rest.len().min(target.len());
        target[..count].copy_from_slice(&rest[..count]);
        self.inbox_read += count;
        Ok(count)
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was filled in comes out in order, then "would block", then end of stream once the peer closed.
    #[test]
    fn inbox_is_read_in_order_and_then_blocks() {
        let mut duplex = Duplex::default();
        duplex.fill(b"abcdexxx".to_vec(), 5);
        let mut target = [0; 3];
        assert_eq!(duplex.read(&mut target).unwrap(), 3);
        assert_eq!(&target, b"abc");
        assert_eq!(duplex.read(&mut target).unwrap(), 2);
        assert_eq!(&target[..2], b"de");
        assert_eq!(duplex.read(&mut target).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        duplex.close_inbox();
        assert_eq!(duplex.read(&mut target).unwrap(), 0);
    }

    /// A partial write to the socket leaves exactly the rest.
    #[test]
    fn outbox_keeps_what_the_socket_did_not_take() {
        let mut duplex = Duplex::default();
        duplex.write_all(b"hello ").unwrap();
        duplex.write_all(b"world").unwrap();
        duplex.advance(4);
        assert_eq!(duplex.unsent(), b"o world");
        duplex.write_all(b"!").unwrap();
        duplex.advance(8);
        assert_eq!(duplex.unsent(), b"");
    }
}
