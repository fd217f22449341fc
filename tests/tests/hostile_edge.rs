//! Clients that mean harm, against a gateway as people run it: each of them is closed for what it does, within the time
//! that it has; the memory of the gateway stays bounded, and who is honest is answered beside all of them.
//!
//! How much later the honest are answered is measured by `bench-harness edge`, and asserted nowhere.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tests::process::{Gateway, PATIENCE, configure, until};

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
/// Sockets that are opened and say nothing.
const HALF_OPEN: usize = 300;
/// What the gateway may need for all of them together.
const GROWTH_MAX_KIB: u64 = 64 * 1024;
/// Between two bytes of one who writes slowly.
const PACE: Duration = Duration::from_millis(20);

/// How it ended for a client.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// By a close frame with this code.
    Closed(u16),
    /// By a response with this status.
    Refused(u16),
    /// The socket was closed without a word.
    Cut,
    /// It is still let in, and answered.
    Answered,
}

/// A WebSocket as bytes.
struct Socket(TcpStream);

impl Socket {
    fn open(port: u16) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        stream
    }

    /// An upgraded socket, or the status that refused it.
    fn upgrade(port: u16, headers: &str) -> Result<Self, u16> {
        let mut stream = Self::open(port);
        let request = format!(
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the gateway takes it");
        let (mut head, mut byte) = (Vec::new(), [0u8]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        let status = String::from_utf8_lossy(&head[9..12]).parse().expect("a status");
        if status == 101 { Ok(Self(stream)) } else { Err(status) }
    }

    fn local(port: u16) -> Self {
        Self::upgrade(port, &format!("Host: 127.0.0.1:{port}\r\n")).expect("it is upgraded")
    }

    /// A client that was let in.
    fn hello(port: u16) -> Self {
        let mut socket = Self::local(port);
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read"],
            "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
            "auth": {"token": TOKEN},
        });
        socket.request("hello", "connect", &params);
        assert_eq!(socket.response("hello")["ok"], true);
        socket
    }

    /// Sends a masked frame; `false` if the gateway has hung up.
    fn send(&mut self, first: u8, payload: &[u8]) -> bool {
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length @ 0..126) => frame.push(0x80 | length.to_be_bytes()[1]),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write_all(&frame).is_ok()
    }

    fn request(&mut self, id: &str, method: &str, params: &Value) {
        let request = json!({"type": "req", "id": id, "method": method, "params": params});
        self.send(0x81, request.to_string().as_bytes());
    }

    /// The next frame: first byte and payload; `None` at the end.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0u8; 2];
        self.0.read_exact(&mut head).ok()?;
        let mut extended = [0u8; 8];
        let length = match head[1] {
            126 => {
                self.0.read_exact(&mut extended[6..]).ok()?;
                u64::from_be_bytes(extended)
            }
            127 => {
                self.0.read_exact(&mut extended).ok()?;
                u64::from_be_bytes(extended)
            }
            length => length.into(),
        };
        let mut payload = vec![0; usize::try_from(length).ok()?];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[0], payload))
    }

    /// The response to a request.
    fn response(&mut self, id: &str) -> Value {
        loop {
            let (_, payload) = self.frame().expect("a response");
            let frame: Value = serde_json::from_slice(&payload).unwrap_or_default();
            if frame["type"] == "res" && frame["id"] == id {
                return frame;
            }
        }
    }

    /// Reads until the end.
    fn end(mut self) -> End {
        loop {
            match self.frame() {
                Some((0x88, payload)) => return End::Closed(u16::from_be_bytes([payload[0], payload[1]])),
                Some(_) => {}
                None => return End::Cut,
            }
        }
    }

    /// Asks for something, and has an answer.
    fn answered(mut self) -> End {
        self.request("still", "health", &json!({}));
        assert_eq!(self.response("still")["ok"], true);
        End::Answered
    }
}

/// A frame that says that it has 2^40 bytes.
fn oversize(port: u16) -> End {
    let mut socket = Socket::local(port);
    socket.0.write_all(&[0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).expect("it is taken");
    socket.end()
}

/// More than a handshake needs, from nobody.
fn large_before_login(port: u16) -> End {
    let mut socket = Socket::local(port);
    socket.send(0x81, &[b'x'; 100_000]);
    socket.end()
}

/// A message of fragments without an end.
fn fragments(port: u16) -> End {
    let mut socket = Socket::hello(port);
    let mut first = 0x01;
    // It goes on a while after it was closed, and the word for it is still there to be read.
    for _ in 0..40 {
        if !socket.send(std::mem::take(&mut first), &[b'x'; 64 * 1024]) {
            break;
        }
    }
    socket.end()
}

/// Texts that are nested a hundred thousand deep.
fn deep(port: u16) -> End {
    let mut socket = Socket::hello(port);
    for _ in 0..10 {
        socket.send(0x81, "[".repeat(100_000).as_bytes());
    }
    socket.answered()
}

/// Parameters with thousands of keys.
fn many_keys(port: u16) -> End {
    let mut socket = Socket::hello(port);
    let keys: serde_json::Map<_, _> = (0..5_000).map(|key| (format!("k{key}"), json!(0))).collect();
    for _ in 0..5 {
        socket.request("keys", "health", &Value::Object(keys.clone()));
        assert_eq!(socket.response("keys")["error"]["code"], "INVALID_REQUEST");
    }
    socket.answered()
}

/// Thousands of texts that say nothing.
fn nonsense(port: u16) -> End {
    let mut socket = Socket::hello(port);
    for _ in 0..5_000 {
        if !socket.send(0x81, b"x") {
            break;
        }
    }
    socket.end()
}

/// A request, a byte at a time.
fn slowly(port: u16) -> End {
    let mut stream = Socket::open(port);
    stream.set_read_timeout(Some(PACE)).expect("it can be set");
    for byte in b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ".iter().chain(std::iter::repeat(&b'x')) {
        if stream.write_all(&[*byte]).is_err() {
            return End::Cut;
        }
        match stream.read(&mut [0]) {
            Ok(0) => return End::Cut,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return End::Cut,
            // Nothing yet, or a response before the end.
            Ok(_) | Err(_) => {}
        }
    }
    unreachable!("the bytes do not end")
}

/// A WebSocket that does not say who it is.
fn silent(port: u16) -> End {
    Socket::local(port).end()
}

/// A page of somewhere else, and a name that leads here.
fn evil_origin(port: u16) -> End {
    let headers = format!("Host: 127.0.0.1:{port}\r\nOrigin: https://evil.example\r\n");
    Socket::upgrade(port, &headers).map_or_else(End::Refused, Socket::end)
}

fn evil_host(port: u16) -> End {
    Socket::upgrade(port, "Host: evil.example\r\n").map_or_else(End::Refused, Socket::end)
}

/// Asks until nothing more is taken, and reads no answer before it was given up for that.
fn never_reading(port: u16) -> End {
    let mut socket = Socket::hello(port);
    socket.0.set_write_timeout(Some(Duration::from_millis(500))).expect("it can be set");
    let request = json!({"type": "req", "id": "1", "method": "health", "params": {}}).to_string();
    while socket.send(0x81, request.as_bytes()) {}
    until("it was given up", || (slow_closed(port) > 0).then_some(()));
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = socket.0.read_to_end(&mut rest);
    End::Cut
}

/// How many connections were closed because they read too slowly.
fn slow_closed(port: u16) -> u64 {
    let mut stream = Socket::open(port);
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let counts = text.lines().filter_map(|line| line.strip_prefix("openclaw_edge_slow_closed_total{"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A line of the status of a process.
fn status_of(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
    line.trim_start_matches(':')
        .split_whitespace()
        .next()
        .and_then(|value| value.parse().ok())
        .expect("a number")
}

fn start() -> Gateway {
    let state = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    configure(state.path(), &json!({"gateway": {"auth": {"mode": "token", "token": TOKEN}}}));
    Gateway::start_in(state, &[]).expect("it starts")
}

/// Every kind ends as it should, all at the same time, beside hundreds of sockets that say nothing; an honest client is
/// answered meanwhile, and a new one afterwards; and the gateway has not grown by more than it may.
#[test]
fn harm_is_bounded() {
    let gateway = start();
    let port = gateway.port();
    let mut honest = Socket::hello(port);
    let before_kib = status_of(gateway.process_id(), "VmRSS");
    type Kind = (&'static str, fn(u16) -> End, End);
    let kinds: [Kind; 11] = [
        ("oversize", oversize, End::Closed(1009)),
        ("large before login", large_before_login, End::Closed(1009)),
        ("fragments", fragments, End::Closed(1009)),
        ("deep", deep, End::Answered),
        ("many keys", many_keys, End::Answered),
        ("nonsense", nonsense, End::Closed(1008)),
        ("slowly", slowly, End::Cut),
        ("silent", silent, End::Closed(1008)),
        ("evil origin", evil_origin, End::Refused(403)),
        ("evil host", evil_host, End::Refused(403)),
        ("never reading", never_reading, End::Cut),
    ];
    let half_open: Vec<_> = (0..HALF_OPEN).map(|_| Socket::open(port)).collect();
    let mut attacks: Vec<_> = kinds
        .into_iter()
        .map(|(name, attack, expected)| (name, std::thread::spawn(move || attack(port)), expected))
        .collect();
    let mut asked = 0_u64;
    while attacks.iter().any(|(_, attack, _)| !attack.is_finished()) {
        asked += 1;
        let id = asked.to_string();
        honest.request(&id, "health", &json!({}));
        assert_eq!(honest.response(&id)["ok"], true);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    for (name, attack, expected) in attacks.drain(..) {
        assert_eq!(attack.join().expect("it has found its end"), expected, "{name}");
    }
    for mut socket in half_open {
        let mut rest = Vec::new();
        // A reset is an end as well; a socket that stays open runs into its timeout.
        if let Err(error) = socket.read_to_end(&mut rest) {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "a half-open socket stays");
        }
    }
    assert_eq!(Socket::hello(port).answered(), End::Answered);
    let peak_kib = status_of(gateway.process_id(), "VmHWM");
    println!("honest answers meanwhile: {asked}; memory: {before_kib} KiB, at most {peak_kib} KiB");
    assert!(peak_kib < before_kib + GROWTH_MAX_KIB, "{before_kib} KiB became {peak_kib} KiB");
}

/// More sockets that say nothing than an edge has places for keep nobody out. By opening them, and being let in beside
/// them before any of them has had its time.
#[test]
fn a_flood_keeps_nobody_out() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).expect("the lower limit may be raised to the upper one");
    let gateway = start();
    let flood: Vec<_> = (0..3_000).map(|_| Socket::open(gateway.port())).collect();
    assert_eq!(Socket::hello(gateway.port()).answered(), End::Answered);
    drop(flood);
}

/// Clients that come at the same moment find room, more than the standard library has for them. By connecting them
/// while the gateway is stopped and accepts nobody.
#[test]
fn hundreds_may_come_at_once() {
    let gateway = start();
    gateway.signal(rustix::process::Signal::STOP);
    let waiting: Vec<_> = (0..500).map(|_| Socket::open(gateway.port())).collect();
    gateway.signal(rustix::process::Signal::CONT);
    for mut stream in waiting {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
}

/// The gateway has its memory in small pages; what it starts is as the system wants it. By what the kernel says of both.
#[test]
fn only_the_gateway_does_without_large_pages() {
    let gateway = start();
    let keeper = until("the keeper runs", || gateway.keeper());
    let agents = until("an agent runs", || Some(gateway.agents()).filter(|agents| !agents.is_empty()));
    assert_eq!(status_of(gateway.process_id(), "THP_enabled"), 0);
    assert_eq!(status_of(keeper, "THP_enabled"), 1);
    // The built-in agent says so by itself, in its environment; other ones do not.
    assert_eq!(status_of(agents[0].1, "THP_enabled"), 0);
}
