//! An edge on a free port, with a shard that is not one: a thread that answers as it is told.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adapters::edge::pages::PageDesk;
use adapters::edge::{EdgeError, EdgeOptions, EdgeShared, HealthReport, HealthStatus, Phase, serve};
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

/// One edge and one shard, until dropped.
pub struct Gateway {
    pub address: SocketAddr,
    pub shared: Arc<EdgeShared>,
    pub phase: watch::Sender<Phase>,
    edge: Option<JoinHandle<Result<(), EdgeError>>>,
    shard: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Gateway {
    pub fn start(options: EdgeOptions, answer: Answer) -> Self {
        let limits = Limits { backlog_bytes_max: 64 * 1024 * 1024, ..Limits::default() };
        Self::start_over(limits, options, answer)
    }

    pub fn start_over(limits: Limits, options: EdgeOptions, answer: Answer) -> Self {
        let geometry = Geometry::new(256 * 1024).unwrap();
        let mut ports = connect(1, 1, geometry, limits).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(EdgeShared::new(1, Box::new(health), PageDesk::open().0));
        let (phase, watched) = watch::channel(Phase::Running);
        let edge_ports = ports.edges.remove(0);
        let edge_shared = Arc::clone(&shared);
        let edge = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(options, listener, edge_ports, edge_shared, watched))
        });
        let stop = Arc::new(AtomicBool::new(false));
        let shard_ports = ports.shards.remove(0);
        let shard_stop = Arc::clone(&stop);
        let shard = std::thread::spawn(move || shard(shard_ports, answer, &shard_stop));
        Self { address, shared, phase, edge: Some(edge), shard: Some(shard), stop }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Waits for the edge to come back, after [`Phase::Closing`].
    pub fn join(&mut self) -> Result<(), EdgeError> {
        self.edge.take().unwrap().join().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Closing);
        if let Some(edge) = self.edge.take() {
            let _ = edge.join();
        }
        self.stop.store(true, Ordering::Release);
        if let Some(shard) = self.shard.take() {
            let _ = shard.join();
        }
    }
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
                let mut replies = Replies { said: None, sender: &mut *sender, route };
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
    pub fn connect(address: SocketAddr) -> Self {
        let (head, stream) = request(address, &format!("GET / HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n"));
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        Self { stream }
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
                        value.as_object_mut().unwrap().remove("timestamp").unwrap();
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
