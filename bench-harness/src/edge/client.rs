//! A client of the OpenClaw protocol that costs little: frames as bytes, nothing parsed that need not be.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// No answer takes longer, or the run is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Connections of one source address: fewer than there are ports.
const PER_SOURCE: usize = 20_000;
/// The longest head of a response.
const HEAD_BYTES_MAX: usize = 4_096;
/// What a response begins with.
const RESPONSE: &[u8] = b"{\"type\":\"res\"";
/// First bytes of frames.
pub const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A connection.
pub struct Client {
    stream: TcpStream,
    /// What was read and not looked at yet begins at `at`.
    buffer: Vec<u8>,
    at: usize,
}

/// The source address of a connection.
pub fn source(index: usize) -> Ipv4Addr {
    let [_, second, third, fourth] = u32::try_from(index / PER_SOURCE + 1).unwrap_or(1).to_be_bytes();
    Ipv4Addr::new(127, second, third, fourth)
}

impl Client {
    /// Connects and is let in.
    pub async fn hello(source: Ipv4Addr, port: u16) -> io::Result<Self> {
        let mut client = Self::connect(source, port).await?;
        client.frame().await?;
        let hello = "{\"type\":\"req\",\"id\":\"hello\",\"method\":\"connect\",\"params\":{\"minProtocol\":4,\
            \"maxProtocol\":4,\"role\":\"operator\",\"scopes\":[\"operator.read\",\"operator.write\"],\
            \"caps\":[\"session-scoped-events\"],\
            \"client\":{\"id\":\"gateway-client\",\"version\":\"1\",\"platform\":\"linux\",\"mode\":\"backend\"}}}";
        client.call(hello.as_bytes()).await?;
        Ok(client)
    }

    /// Connects, and has the challenge before it.
    pub async fn connect(source: Ipv4Addr, port: u16) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::V4(SocketAddrV4::new(source, 0)))?;
        let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = timeout(PATIENCE, socket.connect(gateway)).await??;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, buffer: Vec::new(), at: 0 };
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {gateway}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.stream.write_all(request.as_bytes()).await?;
        let end = loop {
            if let Some(end) = find(&client.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if client.buffer.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("the head of the response does not end"));
            }
            client.more().await?;
        };
        if !client.buffer.starts_with(b"HTTP/1.1 101") {
            let head = String::from_utf8_lossy(&client.buffer[..end]).into_owned();
            return Err(io::Error::other(format!("refused: {}", head.lines().next().unwrap_or_default())));
        }
        client.at = end;
        Ok(client)
    }

    /// Sends a request and reads until its response, the only one that is awaited. How long that took.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<Duration> {
        let begun = Instant::now();
        self.send(TEXT, request).await?;
        self.until(|text| text.starts_with(RESPONSE)).await?;
        Ok(begun.elapsed())
    }

    /// Sends a message to an agent, and reads until the event that ends its run. How long that took.
    pub async fn turn(&mut self, session: &str, key: &str) -> io::Result<Duration> {
        let request = format!(
            "{{\"type\":\"req\",\"id\":\"{key}\",\"method\":\"chat.send\",\"params\":{{\"sessionKey\":\"{session}\",\
             \"message\":\"How are you today?\",\"idempotencyKey\":\"{key}\"}}}}"
        );
        let begun = Instant::now();
        self.send(TEXT, request.as_bytes()).await?;
        self.until(|text| {
            find(text, b"\"state\":\"final\"").is_some() && find(text, key.as_bytes()).is_some()
        })
        .await?;
        Ok(begun.elapsed())
    }

    /// Reads frames until one that is meant; a response that refuses is an error.
    async fn until(&mut self, is_meant: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        loop {
            let frame = timeout(PATIENCE, self.frame()).await??;
            let text = &self.buffer[frame];
            if text.starts_with(RESPONSE) && find(&text[..text.len().min(256)], b"\"ok\":false").is_some() {
                return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
            }
            if is_meant(text) {
                return Ok(());
            }
        }
    }

    /// Reads and forgets, until the connection ends.
    pub async fn rest(&mut self) -> io::Error {
        loop {
            if let Err(error) = self.frame().await {
                return error;
            }
        }
    }

    /// The place of the next text in the buffer. Pings are answered.
    pub async fn frame(&mut self) -> io::Result<Range<usize>> {
        loop {
            while let Some((first, payload)) = next(&self.buffer, self.at) {
                self.at = payload.end;
                match first {
                    PING => self.send(PONG, &[]).await?,
                    CLOSE => return Err(io::ErrorKind::ConnectionAborted.into()),
                    PONG => {}
                    _ => return Ok(payload),
                }
            }
            self.more().await?;
        }
    }

    /// Sends a frame. Its mask is zero, so that masking costs nothing.
    pub async fn send(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        frame.push(first);
        match u16::try_from(payload.len()) {
            Ok(length @ 0..=125) => frame.push(0x80 | length.to_be_bytes()[1]),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.raw(&frame).await
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.at == self.buffer.len() {
            // Thousands of these rest at the same time.
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..self.at);
        }
        self.at = 0;
        self.stream.readable().await?;
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// The first frame behind `at`, if it is there as a whole: its first byte, and the place of its payload.
fn next(buffer: &[u8], at: usize) -> Option<(u8, Range<usize>)> {
    let &[first, length, ref rest @ ..] = buffer.get(at..)? else { return None };
    let (length, begin) = match length {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), at + 4),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, at + 10),
        short => (usize::from(short), at + 2),
    };
    let end = begin.checked_add(length)?;
    (end <= buffer.len()).then_some((first, begin..end))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames are found where they are whole, and only there; sources are addresses of this machine.
    #[test]
    fn frames_are_found() {
        let mut bytes = vec![TEXT, 2, b'a', b'b', TEXT, 126, 0, 200];
        bytes.extend([b'x'; 200]);
        assert_eq!(next(&bytes, 0), Some((TEXT, 2..4)));
        assert_eq!(next(&bytes, 4), Some((TEXT, 8..208)));
        assert_eq!((next(&bytes[..207], 4), next(&bytes[..6], 4), next(&bytes, 208)), (None, None, None));
        assert_eq!((source(0), source(20_000)), (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)));
    }
}
