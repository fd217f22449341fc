//! Requests, health, and the upgrade to WebSocket.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use super::client::Entrance;
use super::state::Edge;
use super::upgrade::{self, Upgrade};
use super::{HealthStatus, Phase, connection, origin};
use crate::refusal::HttpRefusal;

/// The most sockets per edge that have not been upgraded.
const HTTP_SOCKETS_MAX: u64 = 1024;
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long to wait after accepting failed, for instance because descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The channel that health names when somebody is connected.
const CHANNEL: &str = "websocket";

/// Accepts sockets until it is aborted.
pub async fn accept(edge: Rc<Edge>, listener: TcpListener) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(edge = edge.options.edge_index, %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !peer.ip().to_canonical().is_loopback() {
            tracing::warn!(%peer, "refused a peer that is not on this machine");
            continue;
        }
        if edge.stats().sockets.get() >= HTTP_SOCKETS_MAX {
            continue;
        }
        tokio::task::spawn_local(converse(Rc::clone(&edge), stream, peer.ip()));
    }
}

/// Counts a socket while it has not been upgraded, even if its task panics.
struct Socket(Rc<Edge>);

impl Socket {
    fn open(edge: &Rc<Edge>) -> Self {
        edge.stats().sockets.add(1);
        Self(Rc::clone(edge))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.stats().sockets.sub(1);
    }
}

/// Answers the requests of one socket, and hands it on once it is upgraded.
async fn converse(edge: Rc<Edge>, stream: TcpStream, source: IpAddr) {
    // Without it, a small frame would wait for the acknowledgement of the one before. An error means
    // that the peer is gone, which the first read tells.
    let _ = stream.set_nodelay(true);
    let socket = Socket::open(&edge);
    let upgrade: Upgrading = RefCell::new(None);
    let service = service_fn(|request| {
        let response = answer(&edge, request, source, &upgrade);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(edge.options.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    drop(socket);
    let (Ok(()), Some((upgrade, entrance))) = (served, upgrade.take()) else { return };
    let Ok(upgraded) = upgrade.await else { return };
    if let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() {
        let stream = parts.io.into_inner();
        // A task of its own, since this one still has the size of the HTTP machinery.
        tokio::task::spawn_local(connection::run(edge, stream, parts.read_buf.to_vec(), entrance));
    }
}

/// What becomes of a socket when its response is out: who comes in, and by what.
type Upgrading = RefCell<Option<(OnUpgrade, Entrance)>>;

fn answer(
    edge: &Edge,
    mut request: Request<Incoming>,
    source: IpAddr,
    upgrading: &Upgrading,
) -> Response<Full<Bytes>> {
    let result = origin::check(request.headers(), request.uri().authority()).and_then(|()| {
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/health" | "/healthz" | "/" if !reading => Err(HttpRefusal::MethodNotAllowed),
            "/health" => Ok(json(StatusCode::OK, report(edge))),
            "/healthz" => {
                let live: &[u8] = br#"{"ok":true,"status":"live"}"#;
                Ok(json(StatusCode::OK, live.to_vec()))
            }
            "/" => {
                let Upgrade { response, entrance } = upgrade::check(edge, &request, source)?;
                *upgrading.borrow_mut() = Some((hyper::upgrade::on(&mut request), entrance));
                Ok(response)
            }
            _ => Err(HttpRefusal::NotFound),
        }
    });
    result.unwrap_or_else(refused)
}

/// The health report as JSON, with what the edge itself knows.
pub fn report(edge: &Edge) -> Vec<u8> {
    let mut report = (edge.shared.health)();
    let connected = edge.shared.sum(|stats| &stats.connections) > 0;
    if connected && !report.connected_channels.iter().any(|channel| channel == CHANNEL) {
        report.connected_channels.push(CHANNEL.into());
    }
    let named = edge.shared.channels.names();
    let news = named.into_iter().filter(|name| !report.connected_channels.contains(name)).collect::<Vec<_>>();
    report.connected_channels.extend(news);
    if edge.phase() != Phase::Running {
        report.ok = false;
        if report.status != HealthStatus::Failed {
            report.status = HealthStatus::Draining;
        }
    }
    // Strings and numbers always serialise.
    serde_json::to_vec(&report).unwrap_or_default()
}

#[derive(Serialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Serialize)]
struct ErrorText {
    code: &'static str,
    message: &'static str,
}

fn refused(refusal: HttpRefusal) -> Response<Full<Bytes>> {
    let (status, code, message) = refusal.parts();
    let body = serde_json::to_vec(&ErrorBody { error: ErrorText { code, message } }).unwrap_or_default();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, body);
    let headers = response.headers_mut();
    match refusal {
        HttpRefusal::MethodNotAllowed => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        HttpRefusal::UpgradeRequired => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        HttpRefusal::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        HttpRefusal::TooManyAttempts { retry_after_seconds } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
        }
        _ => {}
    }
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
