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

use super::state::{Connection, Edge, unix_ms};
use super::{EdgeError, turns};
use crate::refusal::CloseReason;

/// Records taken from one shard before the next is looked at and the connections get their turn.
const RECORDS_PER_TURN: usize = 512;
/// How often the clock ticks at most and at least.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(5);

/// The eventfd on which shards ring this edge.
///
/// Arc: shared with the links of all shards.
pub struct Bell(AsyncFd<Arc<OwnedFd>>);

impl Bell {
    /// Registers the bell with the reactor of this thread.
    pub fn new(ports: &ShardPorts) -> std::io::Result<Self> {
        #[expect(
            deprecated,
            reason = "unsound only for types whose descriptor changes; an OwnedFd's never does"
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

/// Receives for all connections until the edge fails.
pub async fn run(edge: Rc<Edge>, bell: Bell) -> EdgeError {
    let edge_index = edge.options.edge_index;
    let poisoned = |(shard_index, source)| EdgeError::Poisoned { edge_index, shard_index, source };
    loop {
        match turn(&edge) {
            Ok(0) => {}
            Ok(_) => {
                // Connections write now; what comes meanwhile is the next batch.
                tokio::task::yield_now().await;
                continue;
            }
            Err(found) => return poisoned(found),
        }
        match arm(&edge) {
            Ok(true) => {}
            Ok(false) => {
                if let Err(source) = bell.wait().await {
                    return EdgeError::Bell { edge_index, source };
                }
            }
            Err(found) => return poisoned(found),
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
    for (shard_index, link) in edge.ports.borrow_mut().links.iter_mut().enumerate() {
        count += link
            .receiver
            .receive(RECORDS_PER_TURN, |message| turns::deliver(edge, &message, now_ms))
            .map_err(|poison| (shard_index, poison))?;
        link.receiver.release();
        if link.sender.backlog_bytes() > 0 {
            // An error here is found again, and told, by whoever sends next.
            let _ = link.sender.flush();
        }
    }
    edge.unblock();
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

/// Asks silent connections whether they live, and ends those that do not or are too slow.
///
/// A tick counts for two periods at most: if this thread was held up, its clients had no chance either.
pub async fn tick(edge: Rc<Edge>) {
    let options = &edge.options;
    let period = (options.ping_interval.min(options.slow_grace) / 4).clamp(TICK_MIN, TICK_MAX);
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Instant::now();
    loop {
        interval.tick().await;
        let now = Instant::now();
        let passed = now.duration_since(before).min(2 * period);
        before = now;
        edge.each(|connection| look_after(&edge, &connection, now, passed));
        edge.wake_dirty();
    }
}

fn look_after(edge: &Edge, connection: &Rc<Connection>, now: Instant, passed: Duration) {
    let options = &edge.options;
    let mut state = connection.state.borrow_mut();
    // While it waits for room in a ring, it is we who do not listen.
    if std::mem::take(&mut state.heard) || state.blocked {
        state.silent_for = Duration::ZERO;
    } else {
        state.silent_for += passed;
        if state.silent_for > 2 * options.ping_interval {
            drop(state);
            edge.end(connection, CloseReason::Silent);
            return;
        }
    }
    if now >= state.ping_at {
        state.ping_at = now + options.ping_interval;
        state.want_ping = true;
        edge.mark_dirty(Rc::clone(connection), &mut state);
    }
    if state.outbound.bytes() <= options.outbound_bytes_max {
        state.over_for = Duration::ZERO;
    } else {
        state.over_for += passed;
        if state.over_for >= options.slow_grace {
            edge.give_up(&mut state);
            edge.mark_dirty(Rc::clone(connection), &mut state);
        }
    }
}
