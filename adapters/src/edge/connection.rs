//! One WebSocket connection: one task that reads and writes, woken by its socket, the pump or the clock.
//!
//! A turn of the task writes what waits, reads at most [`FRAMES_PER_TURN`] frames, shows the shards all of
//! them at once, and writes again. It never waits inside a turn.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::{Sink, SinkExt, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::client::Entrance;
use super::guarded::{self, Guarded};
use super::outbound::FRAGMENT_BYTES_MAX;
use super::state::{Connection, Edge, unix_ms};
use super::turns::{self, Submitted};
use super::{EdgeOptions, decide, operator, resume};
use crate::openclaw::conversation::PRE_AUTH_BYTES_MAX;
use crate::refusal::{CloseReason, Refusal};

/// Frames read before other connections get their turn.
const FRAMES_PER_TURN: usize = 64;
/// What one read of the socket takes at most; allocated for every connection.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// Frames are collected up to this size before they are written.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Room for the header of a frame, pongs and the close frame.
const CONTROL_BYTES: usize = 4 * 1024;
/// The most a socket's own buffer holds: frames are given to it only when nothing waits for the kernel.
const WRITE_BUFFER_BYTES_MAX: usize = WRITE_BUFFER_BYTES + FRAGMENT_BYTES_MAX + CONTROL_BYTES;
/// What may be read of a client that was not let in, for one frame: the frame, its header, and what a read takes of
/// the next one.
const PRE_AUTH_ALLOWANCE_BYTES: usize = PRE_AUTH_BYTES_MAX + READ_BUFFER_BYTES + CONTROL_BYTES;
/// What is read and thrown away after the close frame, so that the peer gets to see it.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Serves a socket that has been upgraded. `read` is what came with the upgrade request.
pub async fn run(edge: Rc<Edge>, stream: TcpStream, read: Vec<u8>, entrance: Entrance) {
    let config = config(&edge.options);
    let mut stream = Guarded::new(stream);
    stream.allow(entrance.identity.is_none().then_some(PRE_AUTH_ALLOWANCE_BYTES));
    let socket = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
    let connection = edge.open(entrance);
    let mut task = Task {
        socket,
        connection: Rc::clone(&connection),
        edge: Rc::clone(&edge),
        stalled: None,
        unflushed: false,
        bad_since: Instant::now(),
        bad_count: 0,
    };
    let _open = Open { edge, connection };
    let reason = std::future::poll_fn(|cx| task.poll_turn(cx)).await;
    task.finish(reason).await;
}

/// The limits of the WebSocket layer.
pub fn config(options: &EdgeOptions) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(options.message_bytes_max))
        .max_frame_size(Some(options.message_bytes_max))
}

/// Removes the connection from its edge, even if its task panics.
struct Open {
    edge: Rc<Edge>,
    connection: Rc<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.edge.remove(&self.connection);
    }
}

struct Task {
    socket: WebSocketStream<Guarded>,
    connection: Rc<Connection>,
    edge: Rc<Edge>,
    /// A frame that waits for room in a ring.
    stalled: Option<Utf8Bytes>,
    /// Whether the socket holds what the kernel has not.
    unflushed: bool,
    bad_since: Instant,
    bad_count: u32,
}

/// What a round of reading came to.
enum Reading {
    /// Nothing more to read now.
    Waiting,
    /// There may be more: come again.
    Pausing,
    /// There may be more, but what is queued must go first.
    Full,
}

impl Task {
    /// One turn. Ready when the connection is to end.
    ///
    /// HOT: for a batch of messages one read, one publication and one write.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        {
            let mut state = self.connection.state.borrow_mut();
            if let Some(reason) = state.ending {
                return Poll::Ready(reason);
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
        }
        if let Poll::Ready(Err(_)) = self.poll_write(cx) {
            return Poll::Ready(CloseReason::Gone);
        }
        let reading = match self.read(cx) {
            Ok(reading) => reading,
            Err(reason) => return Poll::Ready(reason),
        };
        if let Poll::Ready(Err(_)) = self.poll_write(cx) {
            return Poll::Ready(CloseReason::Gone);
        }
        let again = match reading {
            Reading::Waiting => false,
            Reading::Pausing => true,
            Reading::Full => !self.is_full(),
        };
        // Reading may have ended the connection, by queueing too much.
        if again || self.connection.state.borrow().ending.is_some() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether so much is queued that nothing more is read.
    fn is_full(&self) -> bool {
        self.connection.state.borrow().outbound.bytes() > self.edge.options.outbound_bytes_max
    }

    /// Writes what is queued. Ready when all of it is with the kernel.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let (frame, bytes) = {
                let mut state = self.connection.state.borrow_mut();
                if state.outbound.is_empty() {
                    operator::write_pending(&self.edge, &mut state);
                    resume::go_on(&self.edge, &self.connection, &mut state);
                }
                if state.outbound.is_empty() && !state.want_ping {
                    break;
                }
                ready!(Pin::new(&mut self.socket).poll_ready(cx))?;
                if std::mem::take(&mut state.want_ping) {
                    (Message::Ping(Bytes::new()), 0)
                } else {
                    let before = state.outbound.bytes();
                    let Some(frame) = state.outbound.pop() else { break };
                    let bytes = before - state.outbound.bytes();
                    state.traffic.bytes_out += bytes as u64;
                    state.traffic.messages_out += u64::from(is_last(&frame));
                    (frame, bytes)
                }
            };
            self.edge.written(bytes);
            self.unflushed = true;
            Pin::new(&mut self.socket).start_send(frame)?;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
            let mut state = self.connection.state.borrow_mut();
            state.outbound.shrink();
            if std::mem::take(&mut state.unflushed) {
                self.edge.stats().unflushed.sub(1);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there, within limits, and hands it to the shards.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Reading, CloseReason> {
        if self.connection.state.borrow().blocked {
            return Ok(Reading::Waiting);
        }
        let mut now_ms = None;
        let mut result = Ok(Reading::Pausing);
        let mut submitted = 0;
        for _ in 0..FRAMES_PER_TURN {
            if self.is_full() {
                result = Ok(Reading::Full);
                break;
            }
            let text = match self.stalled.take() {
                Some(text) => text,
                None => match self.next_text(cx) {
                    Ok(Some(text)) => text,
                    Ok(None) => {
                        result = Ok(Reading::Waiting);
                        break;
                    }
                    Err(reason) => {
                        result = Err(reason);
                        break;
                    }
                },
            };
            let now_ms = *now_ms.get_or_insert_with(unix_ms);
            let outcome = decide::submit(&self.edge, &self.connection, &text, now_ms);
            if self.socket.get_ref().is_limited() {
                self.limit();
            }
            match outcome {
                Submitted::Taken => submitted += 1,
                Submitted::Close(reason) => {
                    result = Err(reason);
                    break;
                }
                Submitted::Bad => {
                    if let Err(reason) = self.count_bad() {
                        result = Err(reason);
                        break;
                    }
                }
                Submitted::Stalled => {
                    self.stalled = Some(text);
                    result = Ok(Reading::Waiting);
                    break;
                }
            }
        }
        if submitted > 0 {
            self.edge.flush_soon(submitted);
        }
        if self.stalled.is_some() {
            self.edge.flush();
            // In the list first: the flush may have made the room already, and then no bell would ring.
            self.edge.block(&self.connection);
            self.edge.unblock();
        }
        result
    }

    /// The next text frame, if one is there.
    fn next_text(&mut self, cx: &mut Context<'_>) -> Result<Option<Utf8Bytes>, CloseReason> {
        loop {
            let Poll::Ready(item) = Pin::new(&mut self.socket).poll_next(cx) else { return Ok(None) };
            let state = &mut *self.connection.state.borrow_mut();
            state.heard = true;
            match item {
                None => return Err(CloseReason::Gone),
                Some(Err(error)) => return Err(reason_of(&error)),
                Some(Ok(Message::Text(text))) => {
                    if self.socket.get_ref().is_limited() && text.len() > PRE_AUTH_BYTES_MAX {
                        return Err(CloseReason::TooLargeBeforeLogin);
                    }
                    state.traffic.messages_in += 1;
                    state.traffic.bytes_in += text.len() as u64;
                    return Ok(Some(text));
                }
                Some(Ok(Message::Binary(_))) => return Err(CloseReason::Binary),
                // The next read answers these.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {}
            }
        }
    }

    /// Renews what may be read of a client that was not let in, and lifts the limit of one that was.
    fn limit(&mut self) {
        let admitted = self.connection.state.borrow().identity.is_some();
        self.socket.get_mut().allow((!admitted).then_some(PRE_AUTH_ALLOWANCE_BYTES));
    }

    /// Counts a frame that was not understood.
    #[cold]
    fn count_bad(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if now.duration_since(self.bad_since).as_secs() >= 1 {
            self.bad_since = now;
            self.bad_count = 0;
        }
        self.bad_count += 1;
        if self.bad_count > self.edge.options.bad_frames_max {
            Err(CloseReason::TooManyErrors)
        } else {
            Ok(())
        }
    }

    /// Says goodbye, as far as the peer listens.
    async fn finish(&mut self, reason: CloseReason) {
        if reason == CloseReason::GoingAway {
            let mut state = self.connection.state.borrow_mut();
            turns::fail_all(&self.edge, &mut state, &Refusal::shutting_down(), unix_ms());
        }
        self.connection.state.borrow_mut().ending.get_or_insert(reason);
        if reason.parts().is_none() {
            return;
        }
        let timeout = self.edge.options.close_timeout;
        let goodbye = async {
            std::future::poll_fn(|cx| self.poll_write(cx)).await?;
            say_goodbye(&mut self.socket, reason).await
        };
        // A peer that is gone or does not listen hears nothing; there is nobody else to tell.
        let _ = tokio::time::timeout(timeout, goodbye).await;
    }
}

/// Whether a message ends with this frame.
fn is_last(frame: &Message) -> bool {
    matches!(frame, Message::Frame(frame) if frame.header().is_final)
}

/// Sends the close frame, and reads until the peer has closed too.
pub async fn say_goodbye(socket: &mut WebSocketStream<Guarded>, reason: CloseReason) -> Result<(), Error> {
    let Some((code, text)) = reason.parts() else { return Ok(()) };
    let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(text) };
    socket.send(Message::Close(Some(frame))).await?;
    // Closing a socket with unread bytes would reset it, and the peer might never see the reason.
    let stream = socket.get_mut();
    stream.allow(None);
    stream.shutdown().await?;
    let mut discarded = 0;
    let mut buffer = vec![0u8; READ_BUFFER_BYTES];
    while discarded < DISCARD_BYTES_MAX {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => discarded += count,
        }
    }
    Ok(())
}

/// What an error of the WebSocket layer means for the connection.
pub fn reason_of(error: &Error) -> CloseReason {
    match error {
        Error::Capacity(_) => CloseReason::TooLarge,
        Error::Io(error) if error.kind() == guarded::EXCEEDED => CloseReason::TooLargeBeforeLogin,
        Error::Utf8(_) => CloseReason::InvalidText,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseReason::Gone,
        Error::Protocol(_) => CloseReason::Protocol,
        _ => CloseReason::Gone,
    }
}
