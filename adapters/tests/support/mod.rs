//! An edge on a free port, with a shard that is not one: a thread that answers as it is told.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adapters::access::devices::Devices;
use adapters::access::secret::Secret;
use adapters::access::{Access, AccessSettings, AuthMode};
use adapters::edge::{About, EdgeError, EdgeOptions, EdgeShared, HealthReport, HealthStatus, Phase, serve};
use adapters::openclaw::backend::Backend;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use shm_transport::doorbell::silence;
use shm_transport::envelope::{
    ArchivedMessageV2, BlockV1, Body, EndV1, FailureCode, FailureV1, Message, Opened, Route,
};
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Sender};
use shm_transport::ports::{EdgePorts, connect};
use tokio::sync::watch;

/// No wait of a test takes longer, unless something is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What the shard does with a message whose content is `text`.
pub type Answer = fn(&mut Replies<'_>, text: &str);

/// Writes replies to one message.
pub struct Replies<'a> {
    /// The message. What is said of a cancelled one has none.
    pub said: Option<&'a ArchivedMessageV2>,
    sender: &'a mut Sender,
    route: Route,
}

impl Replies<'_> {
    pub fn attempt(&mut self, attempt: u32) {
        self.route.attempt = attempt;
    }
    pub fn block(&mut self, block_type: u8, content: &str) {
        let block = BlockV1 { block_type, content: content.into() };
        self.sender.send(&self.route, &block).unwrap();
    }
    pub fn end(&mut self, content: &str) {
        let end = EndV1 { content: content.into() };
        self.sender.send(&self.route, &end).unwrap();
    }
    pub fn failure(&mut self, code: u16, text: &str) {
        let failure = FailureV1 { code, retry_after_ms: 250, text: text.into() };
        self.sender.send(&self.route, &failure).unwrap();
    }
    /// `words` is the durability class, and 256 for a duplicate.
    pub fn accepted(&mut self, words: u32) {
        let route = Route { attempt: words, ..self.route };
        self.sender.forward(&route, Body::ACCEPTED).unwrap();
    }
}

/// What a test wants of its gateway.
pub struct Setup {
    pub limits: Limits,
    pub options: EdgeOptions,
    pub access: Arc<Access>,
    /// Each listens on a port of its own, so that a test can choose.
    pub edge_count: usize,
    pub backend: Option<Arc<dyn Backend>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits { backlog_bytes_max: 64 * 1024 * 1024, ..Limits::default() },
            options: EdgeOptions::default(),
            access: open(),
            edge_count: 1,
            backend: None,
        }
    }
}

/// Edges and one shard, until dropped.
pub struct Gateway {
    /// Of the first edge.
    pub address: SocketAddr,
    pub addresses: Vec<SocketAddr>,
    pub shared: Arc<EdgeShared>,
    pub phase: watch::Sender<Phase>,
    edges: Vec<JoinHandle<Result<(), EdgeError>>>,
    shard: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Gateway {
    pub fn start(options: EdgeOptions, answer: Answer) -> Self {
        Self::set_up(Setup { options, ..Setup::default() }, answer)
    }

    pub fn start_over(limits: Limits, options: EdgeOptions, answer: Answer) -> Self {
        Self::set_up(Setup { limits, options, ..Setup::default() }, answer)
    }

    pub fn set_up(setup: Setup, answer: Answer) -> Self {
        let Setup { limits, options, access, edge_count, backend } = setup;
        let geometry = Geometry::new(256 * 1024).unwrap();
        let mut ports = connect(edge_count, 1, geometry, limits).unwrap();
        let about = About { default_agent: "main".into(), ..About::new("v", "boot", &[]) };
        let mut shared =
            EdgeShared::new(edge_count, Box::new(health), access).with_about(about).with_completions(true);
        if let Some(backend) = backend {
            shared = shared.with_backend(backend);
        }
        let shared = Arc::new(shared);
        let (phase, watched) = watch::channel(Phase::Running);
        let mut addresses = Vec::new();
        let mut edges = Vec::new();
        for (edge_index, edge_ports) in ports.edges.into_iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.push(listener.local_addr().unwrap());
            let (shared, watched) = (Arc::clone(&shared), watched.clone());
            let options = EdgeOptions { edge_index, ..options.clone() };
            edges.push(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(serve(options, listener, edge_ports, shared, watched))
            }));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let shard_ports = ports.shards.remove(0);
        let shard_stop = Arc::clone(&stop);
        let shard = std::thread::spawn(move || shard(shard_ports, answer, &shard_stop));
        Self { address: addresses[0], addresses, shared, phase, edges, shard: Some(shard), stop }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Waits for the edges to come back, after [`Phase::Closing`].
    pub fn join(&mut self) -> Result<(), EdgeError> {
        self.edges.drain(..).try_for_each(|edge| edge.join().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Closing);
        for edge in self.edges.drain(..) {
            let _ = edge.join();
        }
        self.stop.store(true, Ordering::Release);
        if let Some(shard) = self.shard.take() {
            let _ = shard.join();
        }
    }
}

/// A token of full length.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

/// Lets those in who show [`TOKEN`].
pub fn guarded() -> Arc<Access> {
    Arc::new(Access::new(&by_token(TOKEN), Devices::in_memory()).unwrap())
}

/// Asks for a token.
pub fn by_token(token: &str) -> AccessSettings {
    AccessSettings::new(AuthMode::Token, Some(Secret::new(token).unwrap())).unwrap()
}

/// Lets everybody in.
pub fn open() -> Arc<Access> {
    let settings = AccessSettings::new(AuthMode::None, None).unwrap();
    Arc::new(Access::new(&settings, Devices::in_memory()).unwrap())
}

fn health() -> HealthReport {
    HealthReport {
        ok: true,
        status: HealthStatus::Healthy,
        uptime_seconds: 1,
        connected_channels: Vec::new(),
        active_sessions: 2,
        queued_messages: 3,
        registered_tools: 4,
        memory_usage_mb: 5,
        pid: 6,
        version: "v".into(),
        runtime: "none".into(),
        shards: 1,
        agents: Vec::new(),
    }
}

fn shard(mut ports: EdgePorts, answer: Answer, stop: &AtomicBool) {
    // The sessions of the messages that came, as a shard remembers them.
    let mut sessions = HashMap::new();
    while !stop.load(Ordering::Acquire) {
        let mut count = 0;
        for link in &mut ports.edges {
            let sender = &mut link.sender;
            let each = |message: Message<'_>| {
                let route = message.route;
                // What it says has no place in a stream.
                let of_reply = Route { session: 0, ..route };
                let mut replies = Replies { said: None, sender: &mut *sender, route: of_reply };
                match message.open() {
                    Opened::Message(said) => {
                        sessions.insert((route.origin, route.sequence), route.session);
                        replies.said = Some(said);
                        answer(&mut replies, said.content.as_str());
                    }
                    Opened::Cancel => {
                        assert_eq!(sessions.get(&(route.origin, route.sequence)), Some(&route.session));
                        replies.failure(FailureCode::Cancelled as u16, "cancelled by its sender");
                    }
                    _ => panic!("{:?}", message.kind()),
                }
            };
            count += link.receiver.receive(512, each).unwrap();
            link.receiver.release();
            link.sender.flush().unwrap();
        }
        if count > 0 {
            continue;
        }
        let mut some = false;
        for link in &mut ports.edges {
            some |= link.receiver.arm().unwrap();
        }
        if !some {
            let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            poll(&mut [PollFd::new(ports.bell.as_ref(), PollFlags::IN)], Some(&tenth)).unwrap();
            silence(ports.bell.as_ref());
        }
        for link in &mut ports.edges {
            link.receiver.disarm();
        }
    }
}

/// Looks until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// A blocking WebSocket client that shows what is on the wire.
pub struct Raw {
    pub stream: TcpStream,
}

/// What a server sent.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Json(Value),
    Close(u16),
    Ping,
    End,
}

impl Raw {
    /// A client that shows nothing, and has read the challenge.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_showing(address, "").1
    }

    /// A client with further headers, which has read the challenge; and the head of the response.
    pub fn connect_showing(address: SocketAddr, headers: &str) -> (String, Self) {
        let (head, stream) =
            request(address, &format!("GET / HTTP/1.1\r\nHost: {address}\r\n{headers}{UPGRADE}\r\n"));
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        let mut client = Self { stream };
        let challenge = client.json();
        assert_eq!(challenge["event"], "connect.challenge");
        assert_eq!(challenge["payload"]["nonce"].as_str().map(str::len), Some(36));
        assert!(challenge["payload"]["ts"].is_u64() && challenge.get("seq").is_none(), "{challenge}");
        (head, client)
    }

    /// Sends one masked frame.
    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..126 => out.push(0x80 | len as u8),
            len @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let mask = [1u8, 2, 3, 4];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        // The gateway may have closed already; what it said is read next.
        let _ = self.stream.write_all(&out);
    }

    pub fn text(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    pub fn say(&mut self, id: &str, session: &str, content: &str) {
        self.text(
            &serde_json::json!({"type":"message","id":id,"agent":"a","sessionId":session,"content":content})
                .to_string(),
        );
    }

    /// The next message or control frame, reassembled.
    pub fn next(&mut self) -> Frame {
        let mut text = Vec::new();
        loop {
            let mut head = [0u8; 2];
            if self.stream.read_exact(&mut head).is_err() {
                return Frame::End;
            }
            let len = match head[1] {
                126 => {
                    let mut len = [0u8; 2];
                    self.stream.read_exact(&mut len).unwrap();
                    usize::from(u16::from_be_bytes(len))
                }
                127 => {
                    let mut len = [0u8; 8];
                    self.stream.read_exact(&mut len).unwrap();
                    u64::from_be_bytes(len) as usize
                }
                len => usize::from(len),
            };
            let mut payload = vec![0u8; len];
            self.stream.read_exact(&mut payload).unwrap();
            match head[0] & 0x0f {
                8 => return Frame::Close(u16::from_be_bytes([payload[0], payload[1]])),
                9 => return Frame::Ping,
                10 => {}
                _ => {
                    text.extend_from_slice(&payload);
                    if head[0] & 0x80 != 0 {
                        let mut value: Value = serde_json::from_slice(&text).unwrap();
                        let stamp = value.as_object_mut().unwrap().remove("timestamp");
                        // The frames of OpenClaw have none.
                        let is_openclaw = value["type"] == "res" || value.get("payload").is_some();
                        assert!(stamp.is_some() || is_openclaw, "{value}");
                        return Frame::Json(value);
                    }
                }
            }
        }
    }

    pub fn json(&mut self) -> Value {
        match self.next() {
            Frame::Json(value) => value,
            other => panic!("{other:?}"),
        }
    }
}

pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Sends a request and reads the head of its response.
pub fn request(address: SocketAddr, text: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0u8];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), stream)
}
