//! Clients that mean harm, all kinds at once, for as long as somebody else is measured beside them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::client::{Client, TEXT, source};

/// Between the steps of one that goes slowly, and between two connections of one that is closed at once.
const PAUSE: Duration = Duration::from_millis(20);
/// How many there are of each kind that sends.
const OF_A_KIND: usize = 4;
/// A frame as deep as may be sent.
const DEPTH: usize = 100_000;
/// Keys of one object.
const KEYS: usize = 20_000;
/// What the header of a frame says that is never sent: 2^40 bytes, masked.
const OVERSIZE: [u8; 14] = [TEXT, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// All of them, on a thread of their own.
pub struct Attack {
    thread: JoinHandle<()>,
    // Arc: the thread looks at it.
    over: Arc<Notify>,
}

impl Attack {
    /// Starts all of them: so many sockets that say nothing, and some of every other kind.
    pub fn start(port: u16, half_open: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let over = Arc::new(Notify::new());
        let ended = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("hostile".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                let tasks = all(port, half_open);
                ended.notified().await;
                drop(tasks);
            });
        })?;
        Ok(Self { thread, over })
    }

    /// Ends all of them.
    pub fn end(self) {
        self.over.notify_one();
        // It only attacks; a panic of it would have been printed.
        let _ = self.thread.join();
    }
}

fn all(port: u16, half_open: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let kinds: [fn(u16) -> Step; 6] = [
        |port| Box::pin(oversize(port)),
        |port| Box::pin(fragments(port)),
        |port| Box::pin(bomb(port, "[".repeat(DEPTH))),
        |port| Box::pin(bomb(port, many_keys())),
        |port| Box::pin(slowly(port)),
        |port| Box::pin(never_reading(port)),
    ];
    let silent: fn(u16) -> Step = |port| Box::pin(half_open_one(port));
    let noisy = kinds.into_iter().flat_map(|kind| std::iter::repeat_n(kind, OF_A_KIND));
    for step in noisy.chain(std::iter::repeat_n(silent, half_open)) {
        tasks.spawn_local(async move {
            loop {
                // It is closed, which is what it came for.
                let _ = step(port).await;
                sleep(PAUSE).await;
            }
        });
    }
    tasks
}

type Step = std::pin::Pin<Box<dyn Future<Output = io::Result<()>>>>;

fn many_keys() -> String {
    let keys: Vec<_> = (0..KEYS).map(|number| format!("\"k{number}\":0")).collect();
    format!("{{\"type\":\"req\",\"id\":\"1\",\"method\":\"health\",\"params\":{{{}}}}}", keys.join(","))
}

/// A socket that says nothing.
async fn half_open_one(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(address(port)).await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// A request, a byte at a time.
async fn slowly(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(address(port)).await?;
    for byte in b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ".iter().chain([b'a'; 4_096].iter()) {
        stream.write_all(&[*byte]).await?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// A frame that says that it is larger than anything.
async fn oversize(port: u16) -> io::Result<()> {
    let mut client = Client::hello(source(0), port).await?;
    client.raw(&OVERSIZE).await?;
    Err(client.rest().await)
}

/// A message of fragments that never ends.
async fn fragments(port: u16) -> io::Result<()> {
    let mut client = Client::hello(source(0), port).await?;
    client.send(0x01, b"a").await?;
    loop {
        client.send(0x00, &[b'a'; 1_024]).await?;
    }
}

/// A text that is hard to read.
async fn bomb(port: u16, text: String) -> io::Result<()> {
    let mut client = Client::hello(source(0), port).await?;
    for _ in 0..100 {
        client.send(TEXT, text.as_bytes()).await?;
    }
    Err(client.rest().await)
}

/// Asks, and takes no answer.
async fn never_reading(port: u16) -> io::Result<()> {
    let mut client = Client::hello(source(0), port).await?;
    loop {
        client.send(TEXT, b"{\"type\":\"req\",\"id\":\"1\",\"method\":\"health\",\"params\":{}}").await?;
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
