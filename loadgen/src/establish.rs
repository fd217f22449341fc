//! Opens WebSocket connections: a few at a time, again and again until a deadline.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::ClientHandshake;
use tokio_tungstenite::tungstenite::handshake::{HandshakeError, MidHandshake};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue, InvalidHeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, WebSocket};

use crate::duplex::Duplex;

/// Larger than any answer to a corpus message of reasonable size.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// The codec zeroes this much before each read, so larger is not faster; it holds a batch of usual messages.
const CODEC_BUFFER_BYTES: usize = 16 << 10;
/// With more connections than this, memory matters more than batches do.
const LARGE_BUFFER_CONNECTIONS_MAX: usize = 1024;
const CODEC_BUFFER_BYTES_MANY: usize = 4 << 10;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
const HANDSHAKE_READ_BYTES: usize = 4 << 10;

/// Where connections go, and what is shown there.
#[derive(Clone, Debug)]
pub struct Target {
    /// As given.
    pub url: Uri,
    /// Of its host.
    pub address: SocketAddr,
    /// The header with the token.
    pub authorization: Option<HeaderValue>,
}

/// The header that shows a token.
pub fn authorization(token: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why a connection could not be established in time: the last of perhaps many attempts.
#[derive(Debug)]
pub enum EstablishError {
    /// The token cannot be sent.
    Token,
    /// No TCP connection, or it broke during the handshake.
    Transport { address: SocketAddr, source: std::io::Error },
    /// The server does not speak WebSocket there.
    Handshake { url: Uri, source: WebSocketError },
    /// The server accepted but did not answer until the deadline.
    Silent { address: SocketAddr, waited: Duration },
}

impl fmt::Display for EstablishError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => write!(formatter, "the token has characters that no header can carry"),
            Self::Transport { address, .. } => {
                write!(formatter, "cannot connect to {address}; is the server running?")
            }
            Self::Handshake { url, .. } => write!(formatter, "{url} refused the WebSocket handshake"),
            Self::Silent { address, waited } => {
                write!(formatter, "{address} did not answer the WebSocket handshake within {waited:?}")
            }
        }
    }
}

impl std::error::Error for EstablishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Transport { source, .. } => Some(source),
            Self::Handshake { source, .. } => Some(source),
            Self::Token | Self::Silent { .. } => None,
        }
    }
}

/// The codec settings for a run with `connection_count` connections.
pub fn codec_config(connection_count: usize) -> WebSocketConfig {
    let buffer_bytes = if connection_count <= LARGE_BUFFER_CONNECTIONS_MAX {
        CODEC_BUFFER_BYTES
    } else {
        CODEC_BUFFER_BYTES_MANY
    };
    WebSocketConfig::default()
        .read_buffer_size(buffer_bytes)
        .write_buffer_size(buffer_bytes)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// Connects, and tries again with growing pauses until `timeout` has passed.
///
/// # Errors
/// The error of the last attempt.
pub async fn establish(
    target: &Target,
    config: WebSocketConfig,
    timeout: Duration,
) -> Result<(TcpStream, WebSocket<Duplex>), EstablishError> {
    let deadline = Instant::now() + timeout;
    let mut pause = RETRY_FIRST;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match tokio::time::timeout(left, attempt(target, config)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => EstablishError::Silent { address: target.address, waited: timeout },
        };
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn attempt(
    target: &Target,
    config: WebSocketConfig,
) -> Result<(TcpStream, WebSocket<Duplex>), EstablishError> {
    let &Target { ref url, address, ref authorization } = target;
    let transport = |source| EstablishError::Transport { address, source };
    let refused = |source| EstablishError::Handshake { url: url.clone(), source };
    let mut stream = TcpStream::connect(address).await.map_err(transport)?;
    stream.set_nodelay(true).map_err(transport)?;
    let mut request = url.into_client_request().map_err(refused)?;
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    let mut handshake = ClientHandshake::start(Duplex::default(), request, Some(config)).map_err(refused)?;
    loop {
        handshake = match handshake.handshake() {
            // Bytes behind the answer are already in the codec: a server may speak first.
            Ok((socket, _response)) => return Ok((stream, socket)),
            Err(HandshakeError::Failure(source)) => return Err(refused(source)),
            Err(HandshakeError::Interrupted(waiting)) => {
                pump(&mut stream, waiting).await.map_err(transport)?
            }
        };
    }
}

/// Sends what the handshake wrote, and waits for more from the server.
async fn pump(
    stream: &mut TcpStream,
    mut handshake: MidHandshake<ClientHandshake<Duplex>>,
) -> Result<MidHandshake<ClientHandshake<Duplex>>, std::io::Error> {
    let duplex = handshake.get_mut().get_mut();
    let unsent = duplex.unsent().len();
    stream.write_all(duplex.unsent()).await?;
    duplex.advance(unsent);
    let mut received = vec![0; HANDSHAKE_READ_BYTES];
    let mut target = ReadBuf::new(&mut received);
    poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut target)).await?;
    match target.filled().len() {
        0 => duplex.close_inbox(),
        filled => duplex.fill(received, filled),
    }
    Ok(handshake)
}
