//! Looks at a gateway as a stranger does: whether anybody listens, which dialects answer, and whether it takes a secret.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::{self, ClientError};

/// How long each step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a gateway may take for what it says unasked.
const UNASKED_TIMEOUT: Duration = Duration::from_millis(500);
/// Frames that are read in wait for one answer.
const FRAMES_MAX: usize = 16;
/// A message to no agent: every gateway refuses it, in the dialect in which it was said.
const PROBE: &str = r#"{"type":"message","id":"openclaw-probe"}"#;

/// What became of the secret.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase", tag = "state", content = "reason")]
pub enum Access {
    /// It is right, or nobody asks for one.
    Accepted,
    /// It is wrong, or one is needed and none was shown. With what the gateway says.
    Refused(String),
    /// The gateway did not say.
    Unknown,
}

/// What was found.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// Where was looked.
    pub url: String,
    /// Whether anybody accepts connections there.
    pub listening: bool,
    /// Whether `GET /health` is answered.
    pub health: bool,
    /// Whether a WebSocket begins with the challenge of the OpenClaw protocol.
    pub openclaw: bool,
    /// Whether a client that shows something is told at once that it is connected.
    pub connected: bool,
    /// Whether a `message` frame is answered.
    pub message: bool,
    /// Whether a secret was shown.
    pub shown: bool,
    /// What became of it.
    pub access: Access,
}

#[derive(Deserialize)]
struct Frame {
    r#type: String,
    event: Option<String>,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    payload: Value,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Looks at the gateway at this address. Nothing is shown to it but `secret`.
pub async fn probe(url: &str, secret: Option<&str>) -> Result<Findings, ClientError> {
    let mut findings = Findings {
        url: url.to_owned(),
        listening: false,
        health: false,
        openclaw: false,
        connected: false,
        message: false,
        shown: secret.is_some(),
        access: Access::Unknown,
    };
    match client::health(url).await {
        Ok(_) => (findings.listening, findings.health) = (true, true),
        Err(error @ ClientError::Address { .. }) => return Err(error),
        Err(error) if error.is_nobody() => return Ok(findings),
        // Somebody is there, and answers otherwise or not at all.
        Err(_) => findings.listening = true,
    }
    let request = client::upgrade(url, secret)?;
    match timeout(STEP_TIMEOUT, connect_async(request)).await {
        Ok(Ok((mut socket, _))) => talk(&mut socket, &mut findings).await,
        Ok(Err(Error::Http(response))) if matches!(response.status().as_u16(), 401 | 403 | 429) => {
            findings.access = Access::Refused(format!("HTTP {}", response.status()));
        }
        // No WebSocket at all.
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(findings)
}

async fn talk(socket: &mut Socket, findings: &mut Findings) {
    // What is said unasked comes first.
    while let Some(frame) = next(socket, UNASKED_TIMEOUT, findings).await {
        match frame.r#type.as_str() {
            "event" if frame.event.as_deref() == Some("connect.challenge") => findings.openclaw = true,
            "connected" => {
                (findings.connected, findings.access) = (true, Access::Accepted);
                break;
            }
            _ => break,
        }
    }
    if matches!(findings.access, Access::Refused(_)) || socket.send(Message::text(PROBE)).await.is_err() {
        return;
    }
    for _ in 0..FRAMES_MAX {
        let Some(frame) = next(socket, STEP_TIMEOUT, findings).await else { return };
        if frame.r#type != "error" {
            continue;
        }
        findings.message = true;
        let of = |from: &Value, name: &str| from.get(name).and_then(Value::as_str).map(str::to_owned);
        let said =
            |name: &str| of(&frame.content, name).or_else(|| of(&frame.payload, name)).unwrap_or_default();
        let code = said("code").to_ascii_lowercase();
        findings.access = if code.contains("auth") || code == "rate_limited" {
            Access::Refused(said("message"))
        } else {
            Access::Accepted
        };
        return;
    }
}

/// The next frame that is JSON; `None` at the end, after the time, and for anything else. A close tells why.
async fn next(socket: &mut Socket, patience: Duration, findings: &mut Findings) -> Option<Frame> {
    for _ in 0..FRAMES_MAX {
        match timeout(patience, socket.next()).await.ok()?? {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
            Ok(Message::Close(frame)) => {
                let frame = frame.filter(|frame| matches!(u16::from(frame.code), 4001 | 1008));
                if let Some(frame) = frame {
                    findings.access = Access::Refused(format!("{}: {}", u16::from(frame.code), frame.reason));
                }
                return None;
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;

    use super::*;

    /// A gateway that answers `/health`, then says `greeting`, then `answer` to whatever it is told; `None` closes with 4001.
    async fn gateway(greeting: &'static [&'static str], answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut health, _) = listener.accept().await.unwrap();
            let _ = health.read(&mut [0; 1024]).await.unwrap();
            health.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").await.unwrap();
            drop(health);
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(stream).await.unwrap();
            for text in greeting {
                socket.send(Message::text(*text)).await.unwrap();
            }
            match answer {
                Some(answer) => {
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_text() {
                            socket.send(Message::text(answer)).await.unwrap();
                        }
                    }
                }
                None => {
                    let frame = CloseFrame { code: 4001.into(), reason: "the token is wrong".into() };
                    socket.close(Some(frame)).await.unwrap();
                }
            }
        });
        url
    }

    const CHALLENGE: &str = r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"n"}}"#;
    const INVALID: &str = r#"{"type":"error","id":"openclaw-probe","content":{"code":"missing_field"}}"#;
    const REFUSAL: &str =
        r#"{"type":"error","content":{"code":"unauthorized","message":"a token is needed"}}"#;

    /// Each dialect is known by what it says, and a secret by what becomes of the client.
    #[tokio::test]
    async fn dialects_are_known_by_what_they_say() {
        let check = async |greeting, answer, found: (bool, bool, bool), access: Access| {
            let url = gateway(greeting, answer).await;
            let findings = probe(&url, Some("t")).await.unwrap();
            assert!(findings.listening && findings.health && findings.shown, "{findings:?}");
            assert_eq!((findings.openclaw, findings.connected, findings.message), found, "{findings:?}");
            assert_eq!(findings.access, access);
        };
        check(&[], Some(INVALID), (false, false, true), Access::Accepted).await;
        check(&[CHALLENGE], Some(INVALID), (true, false, true), Access::Accepted).await;
        let driver = r#"{"type":"error","payload":{"code":"unauthorized","message":"no"}}"#;
        check(&[], Some(driver), (false, false, true), Access::Refused("no".into())).await;
        check(&[CHALLENGE, r#"{"type":"connected"}"#], Some(INVALID), (true, true, true), Access::Accepted)
            .await;
        let refused = Access::Refused("a token is needed".into());
        check(&[CHALLENGE], Some(REFUSAL), (true, false, true), refused).await;
        let closed = Access::Refused("4001: the token is wrong".into());
        check(&[CHALLENGE], None, (true, false, false), closed).await;
    }

    /// Where nobody listens, nothing is found; somebody who is no gateway is found, and is shown nothing but a request.
    #[tokio::test]
    async fn nobody_and_somebody_else_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"220 mail\r\n").await;
            }
        });
        let findings = probe(&url, None).await.unwrap();
        assert_eq!((findings.listening, findings.health, findings.message), (true, false, false));
        assert_eq!(findings.access, Access::Unknown);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!probe(&format!("ws://{free}"), None).await.unwrap().listening);
        assert!(matches!(probe("x", None).await, Err(ClientError::Address { .. })));
    }
}
