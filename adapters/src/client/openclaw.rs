//! A client of the OpenClaw protocol, version 4: one connection, as an operator without a device.
//!
//! It asks under numbers of its own and says what comes back, in the order in which it comes: responses may overtake each
//! other, and events come in between. What a run says is in [`reply`].

pub mod reply;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{ClientError, excerpt, failed, upgrade};
use crate::openclaw::connect::PROTOCOL;

/// Frames that are passed over in wait for one of the handshake.
const HANDSHAKE_FRAMES_MAX: usize = 16;
/// How long a gateway may be silent if it does not say how often it ticks.
const TICK_DEFAULT: Duration = Duration::from_secs(30);
/// How long the end of the connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What proves who the client is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The shared token.
    Token(String),
    /// The shared password.
    Password(String),
}

impl Secret {
    /// Itself, whatever it is.
    pub fn expose(&self) -> &str {
        match self {
            Self::Token(text) | Self::Password(text) => text,
        }
    }

    /// As `connect` has it.
    fn auth(&self) -> Value {
        match self {
            Self::Token(token) => json!({ "token": token }),
            Self::Password(password) => json!({ "password": password }),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// Why a request got no result, as the gateway says it.
#[derive(Deserialize, Serialize, Clone, PartialEq, Debug, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error(
    "{code}: {message}{}{}",
    details.as_ref().map_or_else(String::new, |details| format!("; details {details}")),
    if *retryable { "; it may be tried again" } else { "" }
)]
pub struct RpcFailure {
    /// Which error.
    pub code: String,
    /// As a sentence.
    pub message: String,
    /// More of it, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// When, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl RpcFailure {
    /// The code among its details, which is finer.
    pub fn details_code(&self) -> Option<&str> {
        self.details.as_ref()?.get("code")?.as_str()
    }
}

/// What came from the gateway.
#[derive(Debug)]
pub enum Heard {
    /// To the request of this number. `agent` has two.
    Answer(u64, Result<Value, RpcFailure>),
    /// What happens.
    Event {
        /// Which.
        name: String,
        /// With what.
        payload: Value,
    },
}

#[derive(Deserialize)]
struct Frame {
    r#type: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    event: String,
    #[serde(default)]
    payload: Value,
    error: Option<RpcFailure>,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    url: String,
    /// Of the last request.
    number: u64,
    silence_max: Duration,
    methods: BTreeSet<String>,
    default_agent: Option<String>,
}

impl Connection {
    /// Connects, shows `secret`, and asks for `scopes`. All of that may take as long as `patience`.
    pub async fn open(
        url: &str,
        secret: Option<&Secret>,
        scopes: &[&str],
        patience: Duration,
    ) -> Result<Self, ClientError> {
        let silent = |_| ClientError::Silent { url: url.into(), limit: patience };
        timeout(patience, Self::handshake(url, secret, scopes)).await.map_err(silent)?
    }

    async fn handshake(url: &str, secret: Option<&Secret>, scopes: &[&str]) -> Result<Self, ClientError> {
        // Nothing is shown in the upgrade: whoever is there has to speak the protocol first.
        let request = upgrade(url, None)?;
        let (socket, _) = connect_async(request).await.map_err(|source| failed(url, source))?;
        let mut connection = Self {
            socket,
            url: url.to_owned(),
            number: 0,
            silence_max: 2 * TICK_DEFAULT,
            methods: BTreeSet::new(),
            default_agent: None,
        };
        connection.expect_challenge().await?;
        let number = connection.ask("connect", &introduction(secret, scopes)).await?;
        for _ in 0..HANDSHAKE_FRAMES_MAX {
            match connection.heard().await? {
                Heard::Answer(found, answer) if found == number => {
                    let refused =
                        |failure| ClientError::NotLetIn { url: url.into(), failure: Box::new(failure) };
                    connection.take(&answer.map_err(refused)?);
                    return Ok(connection);
                }
                _ => {}
            }
        }
        Err(connection.unexpected("no answer to connect"))
    }

    async fn expect_challenge(&mut self) -> Result<(), ClientError> {
        match self.heard().await? {
            Heard::Event { name, .. } if name == "connect.challenge" => Ok(()),
            _ => Err(self.unexpected("no challenge: it speaks another protocol")),
        }
    }

    /// What `hello-ok` says.
    fn take(&mut self, hello: &Value) {
        let methods = hello["features"]["methods"].as_array().into_iter().flatten();
        self.methods = methods.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        let agent = hello["snapshot"]["sessionDefaults"]["defaultAgentId"].as_str();
        self.default_agent = agent.map(str::to_owned);
        if let Some(tick_ms) = hello["policy"]["tickIntervalMs"].as_u64().filter(|&tick_ms| tick_ms > 0) {
            self.silence_max = Duration::from_millis(tick_ms.saturating_mul(2));
        }
    }

    /// Whether the gateway serves a method.
    pub fn serves(&self, method: &str) -> bool {
        self.methods.contains(method)
    }

    /// Whom it talks to where nobody is named.
    pub fn default_agent(&self) -> Option<&str> {
        self.default_agent.as_deref()
    }

    /// Sends a request; the number says which answers are to it.
    pub async fn ask(&mut self, method: &str, params: &Value) -> Result<u64, ClientError> {
        self.number += 1;
        let number = self.number;
        let frame = json!({"type": "req", "id": number.to_string(), "method": method, "params": params});
        match self.socket.send(Message::text(frame.to_string())).await {
            Ok(()) => Ok(number),
            Err(error) => Err(self.closed(error.to_string())),
        }
    }

    /// Sends a request and waits for its first answer. Events that come meanwhile are passed over.
    pub async fn call(&mut self, method: &str, params: &Value) -> Result<Value, ClientError> {
        let number = self.ask(method, params).await?;
        loop {
            if let Heard::Answer(found, answer) = self.heard().await?
                && found == number
            {
                return answer.map_err(|failure| ClientError::Rpc(Box::new(failure)));
            }
        }
    }

    /// The next that comes. Nothing is lost when this is not waited for to the end.
    pub async fn heard(&mut self) -> Result<Heard, ClientError> {
        loop {
            let limit = self.silence_max;
            let item = timeout(limit, self.socket.next()).await;
            let text = match item.map_err(|_| ClientError::Silent { url: self.url.clone(), limit })? {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => {
                    return Err(self.closed(frame.map_or_else(String::new, |frame| frame.to_string())));
                }
                // Pings are answered by the socket.
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(self.closed(error.to_string())),
                None => return Err(self.closed("no reason given".into())),
            };
            let frame = serde_json::from_str(&text).map_err(|_| self.unexpected(&text))?;
            if let Some(heard) = heard(frame) {
                return Ok(heard);
            }
        }
    }

    /// Ends the connection as one should.
    pub async fn close(mut self) {
        // Whoever is gone already needs no goodbye.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close(None)).await;
    }

    fn closed(&self, reason: String) -> ClientError {
        ClientError::Closed { url: self.url.clone(), reason }
    }

    fn unexpected(&self, text: &str) -> ClientError {
        ClientError::Unexpected { url: self.url.clone(), text: excerpt(text) }
    }
}

/// Frames of a kind that this client does not know are passed over.
fn heard(frame: Frame) -> Option<Heard> {
    match frame.r#type.as_str() {
        "event" => Some(Heard::Event { name: frame.event, payload: frame.payload }),
        "res" => {
            let number = frame.id.parse().ok()?;
            let unknown = || RpcFailure {
                code: "UNKNOWN".into(),
                message: "the gateway does not say why".into(),
                details: None,
                retryable: false,
                retry_after_ms: None,
            };
            let answer = if frame.ok { Ok(frame.payload) } else { Err(frame.error.unwrap_or_else(unknown)) };
            Some(Heard::Answer(number, answer))
        }
        _ => None,
    }
}

/// The parameters of `connect`: the command line on this machine, which needs no device.
fn introduction(secret: Option<&Secret>, scopes: &[&str]) -> Value {
    let mut params = json!({
        "minProtocol": PROTOCOL,
        "maxProtocol": PROTOCOL,
        "client": {
            "id": "cli",
            "version": env!("CARGO_PKG_VERSION"),
            "platform": std::env::consts::OS,
            "mode": "cli",
        },
        "role": "operator",
        "scopes": scopes,
        "caps": ["tool-events", "session-scoped-events"],
    });
    if let Some(secret) = secret {
        params["auth"] = secret.auth();
    }
    params
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A gateway that says each of these in turn; behind a `>` it hears something first. Then it closes with 1012. What it
    /// has heard.
    async fn gateway(said: &[&'static str]) -> (String, tokio::task::JoinHandle<Vec<Value>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let said = said.to_vec();
        let heard = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(stream).await.unwrap();
            let mut heard = Vec::new();
            for text in said {
                let answer = text.strip_prefix('>');
                if answer.is_some() {
                    let frame = socket.next().await.unwrap().unwrap();
                    heard.push(serde_json::from_str(frame.to_text().unwrap()).unwrap());
                }
                socket.send(Message::text(answer.unwrap_or(text))).await.unwrap();
            }
            let restart = CloseFrame { code: 1012.into(), reason: "service restart".into() };
            // A client that has gone first is none the worse.
            let _ = socket.close(Some(restart)).await;
            heard
        });
        (url, heard)
    }

    const CHALLENGE: &str = r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"n"}}"#;
    const HELLO: &str = r#">{"type":"res","id":"1","ok":true,"payload":{"type":"hello-ok",
        "features":{"methods":["health"]},"policy":{"tickIntervalMs":1000},
        "snapshot":{"sessionDefaults":{"defaultAgentId":"pi"}}}}"#;

    /// A client shows its secret only behind the challenge, finds its answer among what else comes, and is told how the
    /// connection ends.
    #[tokio::test]
    async fn answers_are_found_among_events() {
        let answers = [
            CHALLENGE,
            HELLO,
            r#">{"type":"event","event":"tick","payload":{"ts":1},"seq":1}"#,
            r#"{"type":"res","id":"7","ok":true,"payload":{}}"#,
            r#"{"type":"new-kind"}"#,
            r#"{"type":"res","id":"2","ok":true,"payload":{"ok":true}}"#,
            r#">{"type":"res","id":"3","ok":false,"error":{"code":"UNAVAILABLE","message":"busy","retryable":true,
                "retryAfterMs":5,"details":{"code":"X"}}}"#,
        ];
        let (url, said) = gateway(&answers).await;
        let secret = Secret::Token("hush".into());
        let mut connection =
            Connection::open(&url, Some(&secret), &["operator.read"], PATIENCE).await.unwrap();
        assert!(connection.serves("health") && !connection.serves("status"));
        assert_eq!((connection.default_agent(), connection.silence_max.as_secs()), (Some("pi"), 2));
        assert_eq!(connection.call("health", &json!({})).await.unwrap(), json!({"ok": true}));
        let Err(ClientError::Rpc(failure)) = connection.call("nope", &json!({})).await else {
            panic!("it is refused")
        };
        assert_eq!((failure.retry_after_ms, failure.details_code()), (Some(5), Some("X")));
        let text = r#"UNAVAILABLE: busy; details {"code":"X"}; it may be tried again"#;
        assert_eq!(failure.to_string(), text);
        let end = connection.heard().await.unwrap_err().to_string();
        assert!(end.contains("service restart"), "{end}");
        let said = said.await.unwrap();
        assert_eq!(said[0]["params"]["auth"], json!({"token": "hush"}));
        assert_eq!(said[1]["method"], "health");
        assert!(!format!("{connection:?} {secret:?}").contains("hush"));
    }

    /// Who is not let in is told why; who meets another protocol has shown nothing to it.
    #[tokio::test]
    async fn who_is_not_let_in_is_told_why() {
        let refusal = r#">{"type":"res","id":"1","ok":false,"error":{"code":"INVALID_REQUEST",
            "message":"unauthorized: token mismatch","details":{"code":"AUTH_TOKEN_MISMATCH"}}}"#;
        let (url, _) = gateway(&[CHALLENGE, refusal]).await;
        let secret = Secret::Password("hush".into());
        let refused = Connection::open(&url, Some(&secret), &[], PATIENCE).await.unwrap_err();
        let ClientError::NotLetIn { failure, .. } = refused else { panic!("{refused}") };
        assert_eq!(failure.details_code(), Some("AUTH_TOKEN_MISMATCH"));
        let (url, said) = gateway(&[r#"{"type":"connected"}"#, r#"{"type":"event","event":"x"}"#]).await;
        let refused = Connection::open(&url, Some(&secret), &[], PATIENCE).await.unwrap_err();
        assert!(matches!(refused, ClientError::Unexpected { .. }), "{refused}");
        assert_eq!(said.await.unwrap(), Vec::<Value>::new());
        // The kernel takes the connection, and nobody says anything.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let silent = Connection::open(&url, None, &[], Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(silent, ClientError::Silent { .. }), "{silent}");
    }
}
