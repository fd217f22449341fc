//! Thousands of clients that are connected and say nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{Client, PATIENCE, source};
use super::server::memory;

/// Connections that are opened at the same time.
const OPENING_MAX: usize = 256;
/// Between one attempt that fails and the next.
const RETRY: Duration = Duration::from_millis(20);
/// How often it is looked whether something has come true.
const LOOK: Duration = Duration::from_millis(5);
/// How long the gateway is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Until all were connected for the first time.
    pub connected: Duration,
    /// What one of them has taken of the memory of the gateway.
    pub bytes_each: f64,
    /// Until all were connected again after their side had dropped them.
    pub back: Duration,
    /// Until all were connected again after the gateway had been killed.
    pub back_after_kill: Duration,
}

/// Clients that connect again for as long as they are wanted.
pub struct Crowd {
    tasks: JoinSet<()>,
    // Arc: each client counts itself.
    connected: Arc<AtomicUsize>,
    size: usize,
}

impl Crowd {
    /// Connects so many, and waits for all of them.
    pub async fn gather(port: u16, size: usize) -> io::Result<Self> {
        let connected = Arc::new(AtomicUsize::new(0));
        let opening = Arc::new(Semaphore::new(OPENING_MAX));
        let mut tasks = JoinSet::new();
        for index in 0..size {
            let (connected, opening) = (Arc::clone(&connected), Arc::clone(&opening));
            tasks.spawn_local(async move {
                loop {
                    let Ok(place) = opening.acquire().await else { return };
                    let client = Client::hello(source(index), port).await;
                    drop(place);
                    if let Ok(mut client) = client {
                        // Relaxed: a number to look at, on one thread.
                        connected.fetch_add(1, Ordering::Relaxed);
                        client.rest().await;
                        connected.fetch_sub(1, Ordering::Relaxed);
                    } else {
                        sleep(RETRY).await;
                    }
                }
            });
        }
        let crowd = Self { tasks, connected, size };
        crowd.all_are_connected().await?;
        Ok(crowd)
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        // Relaxed: as above.
        self.connected.load(Ordering::Relaxed)
    }

    /// Waits for all of them.
    pub async fn all_are_connected(&self) -> io::Result<()> {
        self.until(|connected| connected == self.size).await
    }

    /// Waits until most of them have noticed that the gateway is gone.
    pub async fn most_are_gone(&self) -> io::Result<()> {
        self.until(|connected| connected < self.size / 2).await
    }

    async fn until(&self, is_so: impl Fn(usize) -> bool) -> io::Result<()> {
        let end = Instant::now() + 2 * PATIENCE;
        while !is_so(self.connected()) {
            if Instant::now() > end {
                let (connected, size) = (self.connected(), self.size);
                return Err(io::Error::other(format!("{connected} of {size} are connected")));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Drops all of them at once.
    pub async fn leave(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Connects so many, has them drop their connections and come back, and kills the gateway under them.
pub async fn measure(
    port: u16,
    gateway: u32,
    connections: usize,
    kill: impl FnOnce() -> io::Result<Instant>,
) -> io::Result<Idle> {
    let before = memory(gateway)?;
    let begun = Instant::now();
    let crowd = Crowd::gather(port, connections).await?;
    let connected = begun.elapsed();
    sleep(SETTLE).await;
    let after = memory(gateway)?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory stay below 2^53")]
    let bytes_each = after.anonymous.saturating_sub(before.anonymous) as f64 / connections as f64;
    crowd.leave().await;
    let begun = Instant::now();
    let crowd = Crowd::gather(port, connections).await?;
    let back = begun.elapsed();
    let killed = kill()?;
    crowd.most_are_gone().await?;
    crowd.all_are_connected().await?;
    let back_after_kill = killed.elapsed();
    crowd.leave().await;
    Ok(Idle { connected, bytes_each, back, back_after_kill })
}
