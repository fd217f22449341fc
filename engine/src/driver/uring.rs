//! The io_uring driver: glommio, one executor per shard.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use futures_util::future::{Either, select};
use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, Task};
use io_uring::{IoUring, opcode};

use super::doorbells::{Deaf, Doorbells};
use super::signal::Signal;
use super::uring_bell::UringBell;
use super::{TURNS_PER_YIELD, rest};
use crate::event::InstanceId;
use crate::shard::{Progress, Shard};
use crate::time::Clock;

/// Memory that an executor registers for file I/O; its default of 10 MiB is more than many machines may lock.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Entries of an executor's ring: one per doorbell that waits, and some to spare.
const RING_DEPTH: usize = 256;

fn executor(placement: Placement) -> Result<LocalExecutor, String> {
    LocalExecutorBuilder::new(placement)
        .name("shard")
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .make()
        .map_err(|error| error.to_string())
}

/// What an executor of glommio uses of io_uring. It ends the process if the kernel lacks one of them.
const OPERATIONS: [(&str, u8); 23] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
];

/// Whether an executor can be made here, and if not, what refused it.
pub(super) fn probe() -> Result<(), String> {
    // Asked of the kernel first, since glommio panics where it is refused.
    let ring = IoUring::new(RING_DEPTH as u32).map_err(|error| format!("io_uring_setup: {error}"))?;
    let mut supported = io_uring::Probe::new();
    let registered = ring.submitter().register_probe(&mut supported);
    registered.map_err(|error| format!("io_uring_register: {error}"))?;
    for (name, code) in OPERATIONS {
        if !supported.is_supported(code) {
            return Err(format!("the kernel lacks the operation {name}"));
        }
    }
    // On a thread of its own: an executor may leave settings of the thread behind.
    std::thread::spawn(|| executor(Placement::Unbound).map(drop))
        .join()
        .unwrap_or_else(|_| Err("the executor panicked while it was made".into()))
}

/// Runs a shard until it is told to end.
pub(super) fn run(shard: Shard, clock: Clock, spin: Duration, cpu: Option<usize>) {
    let executor = match executor(cpu.map_or(Placement::Unbound, Placement::Fixed)) {
        Ok(executor) => executor,
        Err(reason) => panic!("the io_uring executor of a shard cannot start: {reason}"),
    };
    executor.run(turn_after_turn(shard, clock, spin));
}

async fn turn_after_turn(mut shard: Shard, clock: Clock, spin: Duration) {
    // The first sleep of an executor is late by milliseconds; spend it here.
    Timer::new(Duration::from_micros(1)).await;
    let signal = Signal::default();
    let mut doorbells = Doorbells::new();
    let bell = match shard.bell().as_fd().try_clone_to_owned() {
        Ok(bell) => bell,
        Err(error) => panic!("no descriptor left for the bell of a shard: {error}"),
    };
    let _own_bell = listen(bell, signal.clone(), None, Deaf::default());
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
                glommio::executor().yield_task_queue_now().await;
            }
            continue;
        }
        match shard.next_deadline().map(|deadline| deadline.since(clock.now())) {
            Some(pause) => {
                let wait = std::pin::pin!(signal.wait());
                match select(wait, Timer::new(pause)).await {
                    Either::Left(_) | Either::Right(_) => {}
                }
            }
            None => signal.wait().await,
        }
        shard.awake();
    }
}

/// Keeps a read of an eventfd pending, unless deaf. Dropping the task cancels it.
fn listen(bell: OwnedFd, signal: Signal, instance: Option<InstanceId>, deaf: Deaf) -> Task<()> {
    glommio::spawn_local(async move {
        let bell = match UringBell::new(bell) {
            Ok(bell) => bell,
            Err(error) => {
                tracing::error!(%error, "a doorbell cannot be watched: its agent is heard late or not at all");
                return;
            }
        };
        while bell.rung().await.is_ok() {
            match instance {
                Some(instance) => signal.ring(instance),
                None => signal.raise(),
            }
            if let Some(pause) = deaf.take() {
                Timer::new(pause).await;
            }
        }
        // Only the peer can have made its bell unreadable; its messages then wait for other wake-ups.
        tracing::warn!(?instance, "a doorbell cannot be read any more");
        bell.close().await;
    })
}
