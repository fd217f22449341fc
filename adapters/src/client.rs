//! The other end, for the command line: one message and its reply, one health report, or a connection of the OpenClaw
//! protocol.

pub mod openclaw;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use tokio_tungstenite::tungstenite::{self, Message};

use self::openclaw::RpcFailure;
use crate::dialect::simple::frames::escape;

/// How long connecting and the handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the gateway may be silent while a reply is awaited; it pings more often than that.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// The largest health report that is read.
const HEALTH_BYTES_MAX: u64 = 1024 * 1024;

/// The reply to a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Its whole text.
    pub text: String,
    /// The session it belongs to, to go on with.
    pub session: Option<String>,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not understood.
    #[error("{url} is not a gateway address; it looks like ws://127.0.0.1:18789")]
    Address {
        /// As given.
        url: String,
    },
    /// It cannot be sent.
    #[error("the token or password has characters that no header can carry")]
    Secret,
    /// The gateway does not let this client in.
    #[error("the gateway at {url} refuses the token or password; `openclaw token show` prints its token")]
    Unauthorized {
        /// As given.
        url: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to the gateway at {url}; start it with `openclaw gateway run`")]
    Connect {
        /// As given.
        url: String,
        /// The cause.
        #[source]
        source: tungstenite::Error,
    },
    /// Something answers, but too slowly.
    #[error("the gateway at {url} was silent for {limit:?}")]
    Silent {
        /// As given.
        url: String,
        /// For how long.
        limit: Duration,
    },
    /// The gateway does not let this client in, by the protocol.
    #[error("the gateway at {url} does not let this client in{}", advice(failure))]
    NotLetIn {
        /// As given.
        url: String,
        /// Why.
        #[source]
        failure: Box<RpcFailure>,
    },
    /// The gateway answers a request with an error.
    #[error(transparent)]
    Rpc(Box<RpcFailure>),
    /// The gateway or the agent refused the message.
    #[error("{code}: {text}")]
    Refused {
        /// The code on the wire.
        code: String,
        /// The sentence that came with it.
        text: String,
        /// Whether another try may succeed.
        retryable: bool,
        /// When, if that is known.
        retry_after_ms: Option<u32>,
    },
    /// The gateway ended the connection before the reply.
    #[error("the gateway at {url} closed the connection before the reply: {reason}")]
    Closed {
        /// As given.
        url: String,
        /// What it said.
        reason: String,
    },
    /// The gateway says something that this client does not understand.
    #[error("the gateway at {url} sent something unexpected: {text}")]
    Unexpected {
        /// As given.
        url: String,
        /// What.
        text: String,
    },
}

impl ClientError {
    /// Whether nobody listens there.
    pub fn is_nobody(&self) -> bool {
        let Self::Connect { source: tungstenite::Error::Io(error), .. } = self else { return false };
        error.kind() == std::io::ErrorKind::ConnectionRefused
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    r#type: String,
    id: Option<String>,
    session_id: Option<String>,
    content: Option<Content>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    content: String,
    block_type: String,
    code: String,
    message: String,
    retryable: bool,
    retry_after_ms: Option<u32>,
}

/// Sends one message and waits for its reply; `on_block` sees the pieces of text as they come. `secret` is the token or
/// password that is shown.
pub async fn send(
    url: &str,
    secret: Option<&str>,
    agent: &str,
    session: Option<&str>,
    content: &str,
    mut on_block: impl FnMut(&str),
) -> Result<Reply, ClientError> {
    let silent = |limit: Duration| ClientError::Silent { url: url.into(), limit };
    let upgrade = upgrade(url, secret)?;
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect_async(upgrade)).await;
    let (mut socket, _) =
        connecting.map_err(|_| silent(CONNECT_TIMEOUT))?.map_err(|source| failed(url, source))?;
    let closed = |reason: String| ClientError::Closed { url: url.into(), reason };
    let id = message_id(content);
    let request = request(&id, agent, session, content);
    socket.send(Message::text(request)).await.map_err(|error| closed(error.to_string()))?;
    loop {
        let item = tokio::time::timeout(SILENCE_MAX, socket.next()).await;
        let text = match item.map_err(|_| silent(SILENCE_MAX))? {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                return Err(closed(frame.map_or_else(String::new, |frame| frame.to_string())));
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(closed(error.to_string())),
            None => return Err(closed("no reason given".into())),
        };
        let unexpected = || ClientError::Unexpected { url: url.into(), text: excerpt(&text) };
        let frame: Incoming = serde_json::from_str(&text).map_err(|_| unexpected())?;
        if frame.id.as_deref().is_some_and(|found| found != id) {
            continue;
        }
        let content = frame.content.unwrap_or_default();
        match frame.r#type.as_str() {
            "event" if matches!(content.block_type.as_str(), "text" | "markdown" | "code") => {
                on_block(&content.content);
            }
            "event" | "status" | "connected" => {}
            "message" => return Ok(Reply { text: content.content, session: frame.session_id }),
            "error" => {
                let Content { code, message: text, retryable, retry_after_ms, .. } = content;
                return Err(ClientError::Refused { code, text, retryable, retry_after_ms });
            }
            _ => return Err(unexpected()),
        }
    }
}

/// An id for a message: another one each time, since a message under a known id is taken for the same message.
pub fn message_id(content: &str) -> String {
    format!("cli-{:016x}{:08x}", RandomState::new().hash_one(content), std::process::id())
}

/// What helps where the secret is missing or wrong.
fn advice(failure: &RpcFailure) -> &'static str {
    let code = failure.details_code().unwrap_or_default();
    if code.starts_with("AUTH_") || code == "DEVICE_IDENTITY_REQUIRED" {
        "; `openclaw token show` prints its token, for --token or OPENCLAW_GATEWAY_TOKEN"
    } else {
        ""
    }
}

/// The request that opens a WebSocket, with what the client shows.
pub fn upgrade(url: &str, secret: Option<&str>) -> Result<Request, ClientError> {
    let mut request = url.into_client_request().map_err(|source| failed(url, source))?;
    if let Some(secret) = secret {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {secret}")).map_err(|_| ClientError::Secret)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

fn failed(url: &str, source: tungstenite::Error) -> ClientError {
    match source {
        tungstenite::Error::Url(_) | tungstenite::Error::HttpFormat(_) => {
            ClientError::Address { url: url.into() }
        }
        tungstenite::Error::Http(answer) if matches!(answer.status().as_u16(), 401 | 403) => {
            ClientError::Unauthorized { url: url.into() }
        }
        source => ClientError::Connect { url: url.into(), source },
    }
}

fn request(id: &str, agent: &str, session: Option<&str>, content: &str) -> String {
    let mut out = Vec::with_capacity(content.len() + 128);
    let fields = [("agent", Some(agent)), ("sessionId", session), ("content", Some(content))];
    out.extend_from_slice(b"{\"type\":\"message\",\"id\":\"");
    out.extend_from_slice(id.as_bytes());
    for (name, value) in fields {
        if let Some(value) = value {
            out.extend_from_slice(b"\",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":\"");
            escape(&mut out, value);
        }
    }
    out.extend_from_slice(b"\"}");
    // Made of strings, so it is one.
    String::from_utf8(out).unwrap_or_default()
}

/// The start of a text, for a person.
fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The body of the gateway's `/health`, JSON. `url` is `ws://` or `http://`, host and port.
pub async fn health(url: &str) -> Result<String, ClientError> {
    let rest = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| ClientError::Address { url: url.into() })?;
    let connect = |source: std::io::Error| ClientError::Connect { url: url.into(), source: source.into() };
    let exchange = async {
        let mut stream = TcpStream::connect(host).await.map_err(connect)?;
        let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(connect)?;
        let mut response = Vec::new();
        stream.take(HEALTH_BYTES_MAX).read_to_end(&mut response).await.map_err(connect)?;
        Ok(response)
    };
    let timeout = tokio::time::timeout(CONNECT_TIMEOUT, exchange).await;
    let response = timeout.map_err(|_| ClientError::Silent { url: url.into(), limit: CONNECT_TIMEOUT })??;
    let response = String::from_utf8_lossy(&response);
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_string()),
        _ => Err(ClientError::Unexpected { url: url.into(), text: excerpt(&response) }),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::Response;

    use super::*;

    /// A secret goes into one header that nothing prints; one that no header can carry is refused before anything is sent.
    #[test]
    fn a_secret_is_shown_in_a_header() {
        let request = upgrade("ws://127.0.0.1:1", Some("hush")).unwrap();
        let header = &request.headers()[AUTHORIZATION];
        assert_eq!((header.to_str().unwrap(), header.is_sensitive()), ("Bearer hush", true));
        assert!(!format!("{request:?}").contains("hush"));
        assert!(!upgrade("ws://127.0.0.1:1", None).unwrap().headers().contains_key(AUTHORIZATION));
        assert!(matches!(upgrade("ws://127.0.0.1:1", Some("a\nb")), Err(ClientError::Secret)));
    }

    /// A gateway that refuses the secret is not taken for one that is not there.
    #[test]
    fn a_refusal_at_the_upgrade_is_told() {
        let answer = |status: u16| {
            let response = Response::builder().status(status).body(None).unwrap();
            failed("ws://x", tungstenite::Error::Http(Box::new(response)))
        };
        for status in [401, 403] {
            assert!(matches!(answer(status), ClientError::Unauthorized { .. }), "{status}");
        }
        assert!(matches!(answer(500), ClientError::Connect { .. }));
    }
}
