//! The byte streams of the kernel: a Unix socket, or a pair of pipes.
//!
//! Copied: the message into a private outbox, from there by the kernel into its memory, and out of it into a
//! private inbox. A batch is one write.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::endpoint::{Endpoint, MESSAGE_BYTES_MAX, Waiting, sequence_of};

/// One end of a stream: what it reads from and what it writes to.
#[derive(Debug)]
pub struct StreamEnd {
    reader: OwnedFd,
    writer: OwnedFd,
    message_bytes: usize,
    inbox: Vec<u8>,
    filled: usize,
    outbox: Vec<u8>,
}

/// Two connected ends: reader and writer of each.
pub type Ends = ([OwnedFd; 2], [OwnedFd; 2]);

/// A connected pair of Unix stream sockets.
pub fn unix_stream() -> io::Result<Ends> {
    let (a, b) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    Ok(([a.try_clone()?, a], [b.try_clone()?, b]))
}

/// Two pipes, one for each direction.
pub fn pipes() -> io::Result<Ends> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let ((first_reads, second_writes), (second_reads, first_writes)) = (pipe()?, pipe()?);
    Ok(([first_reads, first_writes], [second_reads, second_writes]))
}

impl StreamEnd {
    /// Takes one side. A spinning side must not block in the kernel.
    pub fn new(files: [OwnedFd; 2], message_bytes: usize, waiting: Waiting) -> io::Result<Self> {
        let [reader, writer] = files;
        if waiting == Waiting::Spin {
            rustix::io::ioctl_fionbio(&reader, true)?;
            rustix::io::ioctl_fionbio(&writer, true)?;
        }
        Ok(Self {
            reader,
            writer,
            message_bytes,
            inbox: vec![0; 2 * MESSAGE_BYTES_MAX],
            filled: 0,
            outbox: Vec::with_capacity(16 * message_bytes),
        })
    }

    /// Reads what is there; says how many whole messages the inbox holds.
    #[inline]
    fn fill(&mut self) -> io::Result<usize> {
        match rustix::io::read(&self.reader, &mut self.inbox[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => self.filled += bytes,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(self.filled / self.message_bytes)
    }

    /// Forgets the whole messages of the inbox.
    #[inline]
    fn consume(&mut self, messages: usize) {
        let used = messages * self.message_bytes;
        self.inbox.copy_within(used..self.filled, 0);
        self.filled -= used;
    }
}

impl Endpoint for StreamEnd {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.outbox.extend_from_slice(message);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.outbox.len() {
            match rustix::io::write(&self.writer, &self.outbox[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(Errno::AGAIN | Errno::INTR) => std::hint::spin_loop(),
                Err(errno) => return Err(errno.into()),
            }
        }
        self.outbox.clear();
        Ok(())
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let messages = self.fill()?;
        self.inbox.chunks_exact(self.message_bytes).take(messages).for_each(|one| each(sequence_of(one)));
        self.consume(messages);
        Ok(messages)
    }

    #[inline]
    fn echo(&mut self, mut each: impl FnMut(u64)) -> io::Result<usize> {
        let messages = self.fill()?;
        for one in self.inbox.chunks_exact(self.message_bytes).take(messages) {
            each(sequence_of(one));
            self.outbox.extend_from_slice(one);
        }
        self.consume(messages);
        self.flush()?;
        Ok(messages)
    }

    /// Nothing to do: a sleeping end blocks in its reads.
    fn sleep(&mut self) -> io::Result<()> {
        Ok(())
    }
}
