//! The epoll driver: tokio, one current-thread runtime.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{AbortHandle, LocalSet};

use super::doorbells::{Deaf, Doorbells};
use super::signal::Signal;
use super::{TURNS_PER_YIELD, rest};
use crate::event::InstanceId;
use crate::shard::{Progress, Shard};
use crate::time::Clock;

/// Runs a shard until it is told to end.
pub(super) fn run(shard: Shard, clock: Clock, spin: Duration) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("the epoll runtime of a shard cannot start: {error}"),
    };
    LocalSet::new().block_on(&runtime, turn_after_turn(shard, clock, spin));
}

async fn turn_after_turn(mut shard: Shard, clock: Clock, spin: Duration) {
    let signal = Signal::default();
    let mut doorbells = Doorbells::new();
    let _own_bell = listen(duplicate(shard.bell()), signal.clone(), None, Deaf::default());
    let mut turns = 0u32;
    loop {
        doorbells.hear(&mut shard, &signal);
        let progress = shard.turn(clock.now());
        doorbells
            .follow(&mut shard, |bell, instance, deaf| listen(bell, signal.clone(), Some(instance), deaf));
        if progress == Progress::Ended {
            return;
        }
        if progress == Progress::Busy || !rest(&mut shard, clock, spin) {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_PER_YIELD) {
                // Doorbells of cold agents and timers are heard here.
                tokio::task::yield_now().await;
            }
            continue;
        }
        let pause = shard.next_deadline().map(|deadline| deadline.since(clock.now()));
        match pause {
            Some(pause) => tokio::select! { () = signal.wait() => {}, () = tokio::time::sleep(pause) => {} },
            None => signal.wait().await,
        }
        shard.awake();
    }
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens to an eventfd until dropped.
///
/// The counter is never read: registration is edge-triggered, so each ring is an edge of its own, and a
/// peer that drains or blocks its bell cannot stop this thread. While deaf it is not registered at all.
fn listen(mut bell: OwnedFd, signal: Signal, instance: Option<InstanceId>, deaf: Deaf) -> Listening {
    let task = tokio::task::spawn_local(async move {
        loop {
            let registered = match register(bell) {
                Ok(registered) => registered,
                Err(error) => {
                    tracing::error!(
                        %error,
                        "a doorbell cannot be watched: its agent is heard late or not at all"
                    );
                    return;
                }
            };
            let pause = loop {
                let Ok(mut ready) = registered.readable().await else { return };
                ready.clear_ready();
                match instance {
                    Some(instance) => signal.ring(instance),
                    None => signal.raise(),
                }
                if let Some(pause) = deaf.take() {
                    break pause;
                }
            };
            bell = registered.into_inner();
            tokio::time::sleep(pause).await;
        }
    });
    Listening(task.abort_handle())
}

#[expect(deprecated, reason = "unsound only for types whose descriptor changes; an OwnedFd's never does")]
fn register(bell: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(bell, Interest::READABLE)
}

fn duplicate(bell: &impl AsFd) -> OwnedFd {
    match bell.as_fd().try_clone_to_owned() {
        Ok(bell) => bell,
        Err(error) => panic!("no descriptor left for the bell of a shard: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bell that is to be unheard for an hour is not heard again after the ring that brought that about; another
    /// one is. The order of the kernel's events makes the other's ring the proof that there was time enough.
    #[test]
    fn a_deaf_bell_is_not_listened_to() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rings_heard = |deaf: Deaf| {
            LocalSet::new().block_on(&runtime, async {
                let bells = [(); 2].map(|()| shm_transport::doorbell::eventfd().unwrap());
                let signal = Signal::default();
                let (first, other) = (InstanceId(1), InstanceId(2));
                let _first = listen(duplicate(&bells[0]), signal.clone(), Some(first), deaf);
                let _other = listen(duplicate(&bells[1]), signal.clone(), Some(other), Deaf::default());
                let mut heard = 0;
                for round in 0..4 {
                    for bell in &bells {
                        rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
                    }
                    let mut others = 0;
                    while others == 0 {
                        tokio::task::yield_now().await;
                        for rung in signal.take_rung() {
                            heard += usize::from(rung == first);
                            others += usize::from(rung == other);
                        }
                    }
                    assert!(heard <= round + 1);
                }
                heard
            })
        };
        let deaf = Deaf::default();
        deaf.ask(Duration::from_secs(3600));
        assert_eq!((rings_heard(Deaf::default()), rings_heard(deaf)), (4, 1));
    }
}
