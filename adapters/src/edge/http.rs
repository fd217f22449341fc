//! Requests, health, and the upgrade to WebSocket.

use std::cell::RefCell;
use std::collections::VecDeque;
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
use tokio::task::AbortHandle;

use super::client::Entrance;
use super::pages::{Page, PageName};
use super::state::Edge;
use super::upgrade::{self, Upgrade};
use super::{HealthStatus, Phase, connection, echo, origin};
use crate::refusal::HttpRefusal;

/// The most sockets per edge that have not been upgraded: where another one comes, the oldest goes.
const HTTP_SOCKETS_MAX: u64 = 1024;
/// Entries of the list of them, finished ones among them. Twice as many, so that it is seldom looked through.
const WAITING_MAX: usize = 2 * HTTP_SOCKETS_MAX as usize;
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
    let mut waiting = Waiting::default();
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
            waiting.give_up_oldest();
        }
        let conversing = tokio::task::spawn_local(converse(Rc::clone(&edge), stream, peer.ip()));
        waiting.push(conversing.abort_handle());
    }
}

/// Sockets that have not been upgraded, the oldest first. Where there are too many the oldest goes: whoever means to
/// ask something has asked by then, and sockets that say nothing keep nobody out.
#[derive(Default)]
struct Waiting(VecDeque<AbortHandle>);

impl Waiting {
    fn push(&mut self, conversing: AbortHandle) {
        if self.0.len() >= WAITING_MAX {
            self.0.retain(|conversing| !conversing.is_finished());
        }
        self.0.push_back(conversing);
    }

    #[cold]
    fn give_up_oldest(&mut self) {
        while let Some(conversing) = self.0.pop_front() {
            if !conversing.is_finished() {
                conversing.abort();
                return;
            }
        }
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
        let answer = answer(&edge, request, source, &upgrade);
        let edge = &edge;
        async move {
            Ok::<_, Infallible>(match answer {
                Answer::Now(response) => response,
                Answer::Page(page, query) => passed_on(edge.shared.pages.ask(page, query).await),
            })
        }
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
        let (stream, read) = (parts.io.into_inner(), parts.read_buf.to_vec());
        // A task of its own, since this one still has the size of the HTTP machinery.
        match entrance {
            Some(entrance) => tokio::task::spawn_local(connection::run(edge, stream, read, entrance)),
            None => tokio::task::spawn_local(echo::run(edge, stream, read)),
        };
    }
}

/// What a request is answered with.
enum Answer {
    /// This.
    Now(Response<Full<Bytes>>),
    /// A page that the gateway makes, with these parameters.
    Page(PageName, String),
}

/// What is found at a path.
enum Place {
    Upgrade,
    Echo,
    Health,
    /// Whether the process runs.
    Live,
    /// Whether the gateway has started.
    Started,
    /// Whether it takes messages.
    Ready,
    Page(PageName),
}

impl Place {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Upgrade,
            "/echo" => Self::Echo,
            "/health" => Self::Health,
            "/healthz" => Self::Live,
            "/startup" | "/startupz" => Self::Started,
            "/ready" | "/readyz" => Self::Ready,
            _ => return PageName::at(path).map(Self::Page),
        })
    }
}

/// What becomes of a socket when its response is out: who comes in, and by what. Nobody for an echo.
type Upgrading = RefCell<Option<(OnUpgrade, Option<Entrance>)>>;

fn answer(edge: &Edge, mut request: Request<Incoming>, source: IpAddr, upgrading: &Upgrading) -> Answer {
    let place = origin::check(request.headers(), request.uri().authority(), &edge.shared.allowed_origins)
        .and_then(|()| Place::at(request.uri().path()).ok_or(HttpRefusal::NotFound))
        .and_then(|place| match *request.method() {
            Method::GET | Method::HEAD => Ok(place),
            _ => Err(HttpRefusal::MethodNotAllowed),
        });
    Answer::Now(match place {
        Err(refusal) => refused(refusal),
        Ok(Place::Page(page)) => match upgrade::authenticate(edge, request.headers(), source) {
            Err(refusal) => refused(refusal),
            Ok(()) => return Answer::Page(page, request.uri().query().unwrap_or_default().to_owned()),
        },
        Ok(Place::Health) => json(StatusCode::OK, report(edge)),
        Ok(Place::Live) => json(StatusCode::OK, br#"{"ok":true,"status":"live"}"#.to_vec()),
        Ok(Place::Started) => started(edge),
        Ok(Place::Ready) => ready(edge),
        Ok(Place::Upgrade) => match upgrade::check(edge, &request, source) {
            Err(refusal) => refused(refusal),
            Ok(Upgrade { response, entrance }) => {
                *upgrading.borrow_mut() = Some((hyper::upgrade::on(&mut request), Some(entrance)));
                response
            }
        },
        Ok(Place::Echo) => upgrade::check_echo(edge, &request, source).map_or_else(refused, |response| {
            *upgrading.borrow_mut() = Some((hyper::upgrade::on(&mut request), None));
            response
        }),
    })
}

/// Nobody can ask before the gateway has started: it listens when all else is up.
fn started(edge: &Edge) -> Response<Full<Bytes>> {
    if edge.phase() == Phase::Running {
        json(StatusCode::OK, br#"{"ok":true,"status":"started"}"#.to_vec())
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, br#"{"ok":false,"status":"draining"}"#.to_vec())
    }
}

/// Whether new messages are taken, and if not, what is in the way.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    failing: Vec<&'static str>,
    uptime_ms: u64,
}

fn ready(edge: &Edge) -> Response<Full<Bytes>> {
    let report = (edge.shared.health)();
    let draining = edge.phase() != Phase::Running;
    let failing = match report.status {
        HealthStatus::Failed => vec!["journal"],
        HealthStatus::Full => vec!["disk"],
        HealthStatus::Draining => vec!["draining"],
        HealthStatus::Healthy if draining => vec!["draining"],
        HealthStatus::Healthy => vec![],
    };
    let ready = failing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Readiness { ready, failing, uptime_ms: report.uptime_seconds * 1000 };
    // Words and numbers always serialise.
    json(status, serde_json::to_vec(&body).unwrap_or_default())
}

/// A page that the gateway has made, if it has.
fn passed_on(page: Option<Page>) -> Response<Full<Bytes>> {
    let Some(Page { status, content_type, body }) = page else {
        return refused(HttpRefusal::PageUnavailable);
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
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
