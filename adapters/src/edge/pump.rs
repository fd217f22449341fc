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
use super::{EdgeError, events, operator, turns};
use crate::refusal::CloseReason;

/// Records taken from one shard before the next is looked at and the connections get their turn.
const RECORDS_PER_TURN: usize = 512;
/// How often the clock ticks at most and at least.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(5);
/// How often it is looked whether secrets have changed.
const ACCESS_LOOK: Duration = Duration::from_millis(200);

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
    let shortest = options.ping_interval.min(options.slow_grace).min(options.tick_interval);
    let period = (shortest.min(options.admission_timeout) / 4).clamp(TICK_MIN, TICK_MAX);
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Instant::now();
    loop {
        interval.tick().await;
        let now = Instant::now();
        let passed = now.duration_since(before).min(2 * period);
        before = now;
        edge.each(|connection| look_after(&edge, &connection, now, passed));
        let event = Arc::new(events::tick(unix_ms()));
        edge.each_listener(|connection| {
            let state = &mut *connection.state.borrow_mut();
            operator::tick(&edge, state, now, &event);
            if !state.outbound.is_empty() {
                edge.mark_dirty(Rc::clone(connection), state);
            }
        });
        edge.wake_dirty();
    }
}

/// Ends connections whose clients were let in by what does not hold any more.
pub async fn watch_access(edge: Rc<Edge>) {
    let mut interval = tokio::time::interval(ACCESS_LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let access = &edge.shared.access;
        let generation = access.generation();
        if edge.access_generation.replace(generation) == generation {
            continue;
        }
        edge.each(|connection| {
            let holds = connection.state.borrow().identity.as_ref().is_none_or(|it| access.holds(it));
            if !holds {
                edge.end(&connection, CloseReason::AuthChanged);
            }
        });
    }
}

fn look_after(edge: &Edge, connection: &Rc<Connection>, now: Instant, passed: Duration) {
    let options = &edge.options;
    let mut state = connection.state.borrow_mut();
    if state.admitted_by.is_some_and(|by| now >= by) {
        drop(state);
        edge.end(connection, CloseReason::HandshakeTimeout);
        return;
    }
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
    state.outbound.rest();
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
