//! The receiving side of the rings, and the clock of the edge.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_transport::doorbell::silence;
use shm_transport::ports::ShardPorts;
use shm_transport::record::Poison;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::state::{Edge, unix_ms};
use super::turns;
use crate::refusal::CloseReason;

/// Records taken from one shard before the next is looked at and the connections get their turn.
const RECORDS_PER_TURN: usize = 512;
/// How often the clock ticks at most and at least.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(5);
/// Bytes of backlog below which connections that wait for room may go on.
const BACKLOG_RESUME_BYTES: usize = 1024 * 1024;

/// The eventfd on which shards ring this edge.
///
/// Arc: shared with the links of all shards.
pub struct Bell(AsyncFd<Arc<OwnedFd>>);

impl Bell {
    /// Registers the bell with the reactor of this thread.
    pub fn new(ports: &ShardPorts) -> std::io::Result<Self> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor may change or close; that of an `OwnedFd` does not"
        )]
        AsyncFd::with_interest(Arc::clone(&ports.bell), Interest::READABLE).map(Self)
    }

    /// Returns when it has been rung.
    async fn wait(&self) -> std::io::Result<()> {
        let mut guard = self.0.readable().await?;
        silence(self.0.get_ref().as_ref());
        guard.clear_ready();
        Ok(())
    }
}

/// Receives for all connections until the edge ends or fails.
pub async fn run(edge: Rc<Edge>, bell: Bell) {
    loop {
        match turn(&edge) {
            Ok(0) => {}
            Ok(_) => {
                // Connections write now; what comes meanwhile is the next batch.
                tokio::task::yield_now().await;
                continue;
            }
            Err((shard_index, poison)) => return edge.fail(shard_index, poison),
        }
        match arm(&edge) {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = bell.wait().await {
                    // Only a runtime that shuts down says this.
                    tracing::error!(edge = edge.options.edge_index, %error, "the bell cannot be waited for");
                    return;
                }
            }
            Err((shard_index, poison)) => return edge.fail(shard_index, poison),
        }
        for link in &mut edge.ports.borrow_mut().links {
            link.receiver.disarm();
        }
    }
}

/// Takes what the shards have sent, and says how many messages that was.
fn turn(edge: &Edge) -> Result<usize, (usize, Poison)> {
    let now_ms = unix_ms();
    let mut count = 0;
    let mut waiting_bytes = 0;
    for (shard_index, link) in edge.ports.borrow_mut().links.iter_mut().enumerate() {
        let at = |poison| (shard_index, poison);
        let mut broken = None;
        count += link
            .receiver
            .receive(RECORDS_PER_TURN, |message| {
                if let Err(poison) = turns::deliver(edge, &message, now_ms) {
                    broken = Some(poison);
                }
            })
            .map_err(at)?;
        if let Some(poison) = broken {
            return Err((shard_index, poison));
        }
        link.receiver.release();
        if link.sender.backlog_bytes() > 0 {
            // An error here is found again, and told, by whoever sends next.
            let _ = link.sender.flush();
            waiting_bytes = waiting_bytes.max(link.sender.backlog_bytes());
        }
    }
    if edge.some_blocked() && waiting_bytes <= BACKLOG_RESUME_BYTES {
        edge.unblock();
    }
    edge.wake_dirty();
    edge.scratch.borrow_mut().shrink();
    Ok(count)
}

/// Announces that we sleep. `true`: something came meanwhile.
fn arm(edge: &Edge) -> Result<bool, (usize, Poison)> {
    let mut some = false;
    for (shard_index, link) in edge.ports.borrow_mut().links.iter_mut().enumerate() {
        some |= link.receiver.arm().map_err(|poison| (shard_index, poison))?;
    }
    Ok(some)
}

/// Moves the clock, asks silent connections whether they live, and ends those that do not or are too slow.
pub async fn tick(edge: Rc<Edge>) {
    let options = &edge.options;
    let period = (options.ping_interval.min(options.slow_grace) / 4).clamp(TICK_MIN, TICK_MAX);
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = Instant::now();
        edge.set_now(now);
        edge.each(|connection| {
            let mut state = connection.state.borrow_mut();
            if now.saturating_duration_since(state.heard_at) > 2 * options.ping_interval {
                drop(state);
                edge.end(&connection, CloseReason::Silent);
                return;
            }
            let mut wake = false;
            if now >= state.ping_at {
                state.ping_at = now + options.ping_interval;
                state.want_ping = true;
                wake = true;
            }
            if state.outbound.bytes() <= options.outbound_bytes_max {
                state.over_since = None;
            } else if now.duration_since(*state.over_since.get_or_insert(now)) >= options.slow_grace {
                edge.give_up(&mut state);
                wake = true;
            }
            if wake {
                edge.mark_dirty(Rc::clone(&connection), &mut state);
            }
        });
        edge.wake_dirty();
    }
}
