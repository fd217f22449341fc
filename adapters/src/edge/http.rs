//! Requests, health, and the upgrade to WebSocket.
//!
//! | module | decides |
//! |---|---|
//! | `places` | what is found at which path, and by which methods |
//! | `answers` | how answers and refusals look |
//! | `bodies` | how much of a body is read |
//! | `patient` | how long a peer may take nothing |

pub mod answers;
pub mod bodies;
mod patient;
mod places;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use self::answers::{Answered, Form, json, refused};
use self::bodies::Bodies;
use self::patient::Patient;
use self::places::Place;
use super::client::Entrance;
use super::pages::PageName;
use super::state::Edge;
use super::upgrade::{self, Upgrade};
use super::{HealthStatus, Phase, completions, connection, echo, origin, webchat};
use crate::refusal::HttpRefusal;

/// The most sockets per edge that have not been upgraded: where another one comes, the oldest goes.
const HTTP_SOCKETS_MAX: u64 = 1024;
/// Entries of the list of them, finished ones among them. Twice as many, so that it is seldom looked through.
const WAITING_MAX: usize = 2 * HTTP_SOCKETS_MAX as usize;
/// How long a socket has at least to ask for something.
const ASKING_TIME: Duration = Duration::from_millis(250);
/// How often it is looked whether there is room for another one.
const ROOM_LOOK: Duration = Duration::from_millis(2);
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// Requests of one socket, the last of which ends it.
const REQUESTS_MAX: u32 = 1000;
/// How long to wait after accepting failed, for instance because descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The channel that health names when somebody is connected.
const CHANNEL: &str = "websocket";

/// Accepts sockets until it is aborted.
pub async fn accept(edge: Rc<Edge>, listener: TcpListener) {
    let bodies = Rc::new(Bodies::default());
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
            waiting.make_room(&edge).await;
        }
        let works = Rc::new(Cell::new(false));
        let shared = (Rc::clone(&bodies), Rc::clone(&works));
        let conversing = tokio::task::spawn_local(converse(Rc::clone(&edge), stream, peer.ip(), shared));
        waiting.push(conversing.abort_handle(), works);
    }
}

/// Sockets that have not been upgraded, the oldest first. Where there are too many the oldest goes that awaits nothing from
/// an agent: sockets that say nothing keep nobody out. But not before it has had time to ask: clients that come back all at
/// once wait where the kernel keeps them.
#[derive(Default)]
struct Waiting(VecDeque<Socketed>);

/// A socket in that list.
struct Socketed {
    conversing: AbortHandle,
    /// Whether an agent answers it.
    works: Rc<Cell<bool>>,
    since: Instant,
}

impl Waiting {
    fn push(&mut self, conversing: AbortHandle, works: Rc<Cell<bool>>) {
        if self.0.len() >= WAITING_MAX {
            self.0.retain(|each| !each.conversing.is_finished());
        }
        self.0.push_back(Socketed { conversing, works, since: Instant::now() });
    }

    /// Waits until there is room for one more.
    #[cold]
    async fn make_room(&mut self, edge: &Edge) {
        while edge.stats().sockets.get() >= HTTP_SOCKETS_MAX {
            self.0.retain(|each| !each.conversing.is_finished());
            let oldest = self.0.iter().position(|each| !each.works.get());
            match oldest.filter(|&oldest| self.0[oldest].since.elapsed() >= ASKING_TIME) {
                Some(oldest) => {
                    if let Some(given_up) = self.0.remove(oldest) {
                        given_up.conversing.abort();
                    }
                    tokio::task::yield_now().await;
                }
                None => tokio::time::sleep(ROOM_LOOK).await,
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
async fn converse(
    edge: Rc<Edge>,
    stream: TcpStream,
    source: IpAddr,
    (bodies, works): (Rc<Bodies>, Rc<Cell<bool>>),
) {
    // Without it, a small frame would wait for the acknowledgement of the one before. An error means
    // that the peer is gone, which the first read tells.
    let _ = stream.set_nodelay(true);
    let socket = Socket::open(&edge);
    let upgrade: Upgrading = RefCell::new(None);
    let served = Cell::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let form = Form::of(request.uri().path(), request.headers());
        let answer = answer(&edge, request, source, &upgrade, form);
        served.set(served.get() + 1);
        works.set(false);
        let is_last = served.get() >= REQUESTS_MAX;
        let (edge, bodies, works) = (&edge, &bodies, &works);
        async move {
            let mut response = match answer {
                Answer::Now(response) => response.map(Answered::Whole),
                Answer::Page(page, query) => {
                    let page = edge.shared.pages.ask(page, query).await;
                    answers::passed_on(page, form).map(Answered::Whole)
                }
                Answer::Completion(request) => {
                    completions::serve(edge, request, source, (bodies, works)).await
                }
            };
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                answers::harden(response.headers_mut());
                if is_last {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
            }
            Ok::<_, Infallible>(response)
        }
    });
    let stream = Patient::new(stream, 2 * edge.options.ping_interval);
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
    if let Ok(parts) = upgraded.downcast::<TokioIo<Patient>>() {
        let (stream, read) = (parts.io.into_inner().into_inner(), parts.read_buf.to_vec());
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
    /// What an agent says to it.
    Completion(Request<Incoming>),
}

/// What becomes of a socket when its response is out: who comes in, and by what. Nobody for an echo.
type Upgrading = RefCell<Option<(OnUpgrade, Option<Entrance>)>>;

fn answer(
    edge: &Edge,
    request: Request<Incoming>,
    source: IpAddr,
    upgrading: &Upgrading,
    form: Form,
) -> Answer {
    let (headers, uri) = (request.headers(), request.uri());
    let place = origin::check(headers, uri.authority(), &edge.shared.allowed_origins())
        .and_then(|()| places::check_query(uri.query()))
        .and_then(|()| Place::at(uri.path(), edge.shared.completions))
        .and_then(|place| place.check_method(request.method()));
    let place = match place {
        Err(refusal) => return Answer::Now(refused(refusal, form)),
        Ok(place) if request.method() == Method::OPTIONS => {
            return Answer::Now(answers::options(place.methods()));
        }
        Ok(place) => place,
    };
    let page = |page, query: String| match upgrade::authenticate(edge, headers, source) {
        Err(refusal) => Answer::Now(refused(refusal, form)),
        Ok(()) => Answer::Page(page, query),
    };
    Answer::Now(match place {
        Place::Page(name) => return page(name, uri.query().unwrap_or_default().to_owned()),
        Place::Model(model) => return page(PageName::Models, format!("id={model}")),
        Place::Completions => return Answer::Completion(request),
        Place::Health => json(StatusCode::OK, report(edge)),
        Place::Live => json(StatusCode::OK, br#"{"ok":true,"status":"live"}"#.to_vec()),
        Place::Started => started(edge),
        Place::Ready => ready(edge),
        Place::Chat if !headers.contains_key(UPGRADE) => webchat::page(),
        Place::Chat => {
            upgrade(edge, request, source, upgrading).unwrap_or_else(|refusal| refused(refusal, form))
        }
        Place::Echo => {
            echo(edge, request, source, upgrading).unwrap_or_else(|refusal| refused(refusal, form))
        }
    })
}

fn upgrade(
    edge: &Edge,
    mut request: Request<Incoming>,
    source: IpAddr,
    upgrading: &Upgrading,
) -> Result<Response<Full<Bytes>>, HttpRefusal> {
    let Upgrade { response, entrance } = upgrade::check(edge, &request, source)?;
    *upgrading.borrow_mut() = Some((hyper::upgrade::on(&mut request), Some(entrance)));
    Ok(response)
}

fn echo(
    edge: &Edge,
    mut request: Request<Incoming>,
    source: IpAddr,
    upgrading: &Upgrading,
) -> Result<Response<Full<Bytes>>, HttpRefusal> {
    let response = upgrade::check_echo(edge, &request, source)?;
    *upgrading.borrow_mut() = Some((hyper::upgrade::on(&mut request), None));
    Ok(response)
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
