//! Subject `ws-echo`: the bare WebSocket echo server that a gateway is compared with.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::os::fd::AsFd;

use futures_util::{FutureExt, SinkExt, StreamExt};
use rustix::fs::FileType;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::{Error, Message};

/// What the first line on standard output begins with; the URL follows.
pub const LISTENING: &str = "listening on ";
const THREADS_MAX: i64 = 64;
/// Frames answered before the replies are flushed at the latest.
const BATCH_MAX: usize = 256;

/// How to serve.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Threads, each with a runtime of its own.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX as u64))]
    threads: u64,
}

/// Serves until killed, or until standard input closes where that is a pipe or socket.
pub fn run(options: &Options) -> io::Result<()> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
    listener.set_nonblocking(true)?;
    println!("{LISTENING}ws://{}", listener.local_addr()?);
    io::stdout().flush()?;
    for _ in 0..options.threads {
        let listener = listener.try_clone()?;
        std::thread::Builder::new().name("ws-echo".to_owned()).spawn(move || {
            if let Err(error) = serve(listener) {
                eprintln!("ws-echo: {error}");
                std::process::exit(1);
            }
        })?;
    }
    wait_for_end()
}

/// A terminal or /dev/null says nothing about whether somebody still needs us; a pipe does.
fn wait_for_end() -> io::Result<()> {
    let mut stdin = io::stdin();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(stdin.as_fd())?.st_mode);
    if !matches!(kind, FileType::Fifo | FileType::Socket) {
        loop {
            std::thread::park();
        }
    }
    let mut ignored = [0u8; 64];
    while stdin.read(&mut ignored)? > 0 {}
    Ok(())
}

fn serve(listener: StdListener) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A connection that breaks is the load generator's to report.
                let _ = echo(stream).await;
            });
        }
    })
}

/// Answers each text frame with itself: takes what is ready, then flushes once.
async fn echo(stream: TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async(stream).await?;
    while let Some(first) = socket.next().await {
        let mut next = Some(first);
        let mut batch = 0;
        while let Some(frame) = next.take() {
            match frame? {
                Message::Text(text) => socket.feed(Message::Text(text)).await?,
                Message::Close(_) => return socket.close(None).await,
                // Pings are answered by the library.
                _ => {}
            }
            batch += 1;
            if batch < BATCH_MAX {
                next = socket.next().now_or_never().flatten();
            }
        }
        socket.flush().await?;
    }
    Ok(())
}
