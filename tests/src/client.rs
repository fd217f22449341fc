//! A WebSocket client for tests: sends JSON, receives JSON, with a deadline on everything.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::process::PATIENCE;

/// A connection to a gateway.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What came from the gateway.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// A frame.
    Frame(Value),
    /// The connection is closed, with this code if one was given.
    Closed(Option<u16>),
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If that does not work in time.
    pub async fn connect(url: &str) -> Self {
        let connecting = timeout(PATIENCE, tokio_tungstenite::connect_async(url)).await;
        let (socket, _) = connecting.expect("in time").expect("the gateway accepts the connection");
        Self { socket }
    }

    /// Sends any message.
    ///
    /// # Panics
    /// If the connection is broken.
    pub async fn send_raw(&mut self, message: Message) {
        timeout(PATIENCE, self.socket.send(message)).await.expect("in time").expect("it can be sent");
    }

    /// Sends a JSON frame.
    ///
    /// # Panics
    /// If the connection is broken.
    pub async fn send(&mut self, frame: &Value) {
        self.send_raw(Message::text(frame.to_string())).await;
    }

    /// Sends text to an agent, in a session.
    ///
    /// # Panics
    /// If the connection is broken.
    pub async fn say(&mut self, agent: &str, session: &str, id: &str, content: &str) {
        let frame =
            json!({"type": "message", "id": id, "agent": agent, "sessionId": session, "content": content});
        self.send(&frame).await;
    }

    /// The next frame, or the end. The challenge, which every client gets first, is left out.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub async fn receive(&mut self) -> Received {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    if frame["event"] != "connect.challenge" {
                        return Received::Frame(frame);
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    return Received::Closed(frame.map(|frame| CloseCode::into(frame.code)));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Received::Closed(None),
            }
        }
    }

    /// The next frame.
    ///
    /// # Panics
    /// If the connection ends instead.
    pub async fn frame(&mut self) -> Value {
        match self.receive().await {
            Received::Frame(frame) => frame,
            Received::Closed(code) => panic!("closed with {code:?} instead of a frame"),
        }
    }

    /// The blocks of the next reply, and its closing frame (`message` or `error`).
    ///
    /// # Panics
    /// If the connection ends before it.
    pub async fn reply(&mut self) -> (Vec<Value>, Value) {
        let mut blocks = Vec::new();
        loop {
            let frame = self.frame().await;
            match frame["type"].as_str() {
                Some("event") => blocks.push(frame),
                Some("message" | "error") => return (blocks, frame),
                _ => {}
            }
        }
    }
}
