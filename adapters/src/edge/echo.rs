//! `/echo`: gives back what comes, over the same WebSocket layer as the clients' connections.
//!
//! For test suites of RFC 6455, which ask for an echo; there only where [`EdgeOptions::echoes`](super::EdgeOptions)
//! says so. What is shared with `connection` is what decides about conformance: the layer with its buffers, which close
//! code follows which error, how long messages leave in fragments, and how goodbye is said. Not shared is that clients
//! send text only, and no more than `message_bytes_max`: the suites have messages of [`MESSAGE_BYTES_MAX`].

use std::rc::Rc;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::connection::{self, reason_of};
use super::guarded::Guarded;
use super::outbound::FRAGMENT_BYTES_MAX;
use super::state::Edge;
use crate::refusal::CloseReason;

/// The largest message that is given back: that of the Autobahn suite.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Serves a socket that has been upgraded. `read` is what came with the upgrade request.
pub async fn run(edge: Rc<Edge>, stream: TcpStream, read: Vec<u8>) {
    let config = connection::config(&edge.options)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = Guarded::new(stream);
    let mut socket = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
    let reason = give_back(&mut socket).await;
    // Who is gone or does not listen hears nothing.
    let _ =
        tokio::time::timeout(edge.options.close_timeout, connection::say_goodbye(&mut socket, reason)).await;
}

/// Until the other side closes or breaks a rule.
async fn give_back(socket: &mut WebSocketStream<Guarded>) -> CloseReason {
    loop {
        let sent = match socket.next().await {
            None => return CloseReason::Gone,
            Some(Err(error)) => return reason_of(&error),
            Some(Ok(Message::Text(text))) => send(socket, Data::Text, text.into()).await,
            Some(Ok(Message::Binary(bytes))) => send(socket, Data::Binary, bytes).await,
            // The layer has queued the answers to these.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {
                socket.flush().await
            }
        };
        if sent.is_err() {
            return CloseReason::Gone;
        }
    }
}

/// Sends a message as long replies are sent: in fragments for which the socket's buffer has room.
async fn send(socket: &mut WebSocketStream<Guarded>, kind: Data, mut rest: Bytes) -> Result<(), Error> {
    let mut code = kind;
    loop {
        let piece = rest.split_to(rest.len().min(FRAGMENT_BYTES_MAX));
        let last = rest.is_empty();
        socket.send(Message::Frame(Frame::message(piece, OpCode::Data(code), last))).await?;
        if last {
            return Ok(());
        }
        code = Data::Continue;
    }
}
