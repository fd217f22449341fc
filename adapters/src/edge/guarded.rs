//! A socket that stops reading when a client that nobody knows yet sends too much.
//!
//! The WebSocket layer takes its limits once, when a connection opens. What a client may send grows when it
//! is let in, so the smaller limit of the time before is kept here, below that layer.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a read fails with when the allowance is used up.
pub const EXCEEDED: ErrorKind = ErrorKind::FileTooLarge;

/// A TCP stream with an allowance for what is read from it.
#[derive(Debug)]
pub struct Guarded {
    stream: TcpStream,
    /// Bytes that may still be read; `None` where there is no limit.
    allowance: Option<usize>,
}

impl Guarded {
    /// A stream that is read without limit.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, allowance: None }
    }

    /// Sets how much may be read from now on.
    pub fn allow(&mut self, allowance: Option<usize>) {
        self.allowance = allowance;
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.allowance.is_some()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(allowance) = &mut self.allowance {
            let Some(rest) = allowance.checked_sub(buf.filled().len() - before) else {
                buf.set_filled(before);
                return Poll::Ready(Err(Error::from(EXCEEDED)));
            };
            *allowance = rest;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
