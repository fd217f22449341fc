//! The threads of the shards: tokio on epoll, or glommio on io_uring.
//!
//! A driver only waits: for the bell of the shard, for the doorbells of its cold agents, and for the next
//! deadline of the core. Everything else is [`Shard::turn`].

mod doorbells;
mod epoll;
mod signal;
mod uring;
#[expect(unsafe_code, reason = "glommio takes an eventfd only as a raw descriptor")]
mod uring_bell;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use shm_transport::link::Link;
use shm_transport::ports::EdgePorts;
use tokio::sync::mpsc::UnboundedSender;

use crate::core::ShardCore;
use crate::event::{AgentIndex, InstanceId};
use crate::heartbeat::HeartbeatLimits;
use crate::shard::{Command, Notice, Progress, Shard};
use crate::stats::SharedCounters;
use crate::time::Clock;

/// Commands on their way to one shard.
pub const COMMANDS_MAX: usize = 1024;

/// How long a shard with nothing to do looks again before it sleeps, where cores are plenty.
const SPIN: Duration = Duration::from_micros(20);
/// How many turns a busy shard takes before it lets the runtime look at the doorbells.
const TURNS_PER_YIELD: u32 = 16;

/// What a user asks for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Choice {
    /// io_uring if the kernel allows it, else epoll.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll; chosen by measurement, see `docs/decisions/0019-epoll-by-default.md`.
    #[default]
    Epoll,
}

/// What runs the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// glommio on io_uring.
    Uring,
    /// tokio, one current-thread runtime per shard, on epoll.
    Epoll,
}

impl Runtime {
    /// Its name, as the `--runtime` option has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

/// A runtime, and the sentence that says why it was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The runtime.
    pub runtime: Runtime,
    /// Why.
    pub reason: String,
}

/// Why shards cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// io_uring was asked for and is refused.
    #[error("engine.runtime = \"uring\": io_uring is refused here ({reason}); use \"epoll\" or \"auto\"")]
    UringRefused {
        /// What refused it.
        reason: String,
    },
    /// A thread could not be started.
    #[error("the thread of shard {shard} could not be started")]
    Thread {
        /// Which shard.
        shard: usize,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Decides on a runtime, trying io_uring for real.
pub fn choose(choice: Choice) -> Result<Chosen, DriverError> {
    if choice == Choice::Epoll {
        return Ok(Chosen { runtime: Runtime::Epoll, reason: "engine.runtime is epoll".into() });
    }
    match (uring::probe(), choice) {
        (Ok(()), Choice::Uring) => {
            Ok(Chosen { runtime: Runtime::Uring, reason: "engine.runtime is uring".into() })
        }
        (Ok(()), _) => Ok(Chosen { runtime: Runtime::Uring, reason: "the kernel allows io_uring".into() }),
        (Err(reason), Choice::Uring) => Err(DriverError::UringRefused { reason }),
        (Err(reason), _) => {
            Ok(Chosen { runtime: Runtime::Epoll, reason: format!("io_uring is refused: {reason}") })
        }
    }
}

/// The CPUs this process may run on, in order.
pub fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// What the control thread holds of a shard.
#[derive(Debug)]
pub struct ShardHandle {
    mailbox: Sender<Command>,
    bell: Arc<OwnedFd>,
    // Arc: the shard publishes, pages read.
    counters: Arc<SharedCounters>,
    thread: JoinHandle<()>,
}

/// Why a command did not reach its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTold {
    /// It has not taken what was sent before.
    #[error("{COMMANDS_MAX} commands wait for it already")]
    Behind,
    /// Its thread is at its end.
    #[error("it has ended")]
    Ended,
}

/// Tells a shard things without ever waiting for it, from any thread.
#[derive(Clone, Debug)]
pub struct ShardCaller {
    mailbox: Sender<Command>,
    // Arc: whoever talks to the shard rings its bell.
    bell: Arc<OwnedFd>,
}

impl ShardCaller {
    /// Hands commands to the shard, in this order, and wakes it.
    pub fn tell(&self, commands: impl IntoIterator<Item = Command>) -> Result<(), NotTold> {
        let told = commands.into_iter().try_for_each(|command| {
            self.mailbox.try_send(command).map_err(|error| match error {
                TrySendError::Full(_) => NotTold::Behind,
                TrySendError::Disconnected(_) => NotTold::Ended,
            })
        });
        // EAGAIN says that the bell is ringing already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        told
    }
}

impl ShardHandle {
    /// Hands a command to the shard and wakes it. Waits if [`COMMANDS_MAX`] are on their way already.
    pub fn tell(&self, command: Command) {
        // A shard thread that has ended needs no commands.
        let _ = self.mailbox.send(command);
        // EAGAIN says that the bell is ringing already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }

    /// Something that tells it things without waiting.
    pub fn caller(&self) -> ShardCaller {
        ShardCaller { mailbox: self.mailbox.clone(), bell: Arc::clone(&self.bell) }
    }

    /// The counters it publishes.
    pub fn counters(&self) -> &Arc<SharedCounters> {
        &self.counters
    }

    /// Ends the thread and waits for it.
    pub fn end(self) -> std::thread::Result<()> {
        self.tell(Command::End);
        self.thread.join()
    }
}

/// How a shard is started.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// Number of the shard, for its thread's name.
    pub index: usize,
    /// What runs it.
    pub runtime: Runtime,
    /// The CPU it is pinned to, if any.
    pub cpu: Option<usize>,
    /// The clock of the gateway.
    pub clock: Clock,
    /// How patient it is with agents that say nothing.
    pub heartbeat: HeartbeatLimits,
    /// Agents that have outlived an earlier gateway: [`Command::Adopting`].
    pub adopting: Vec<(AgentIndex, InstanceId)>,
}

/// Puts a core between its rings and starts its thread.
pub fn start(
    core: ShardCore,
    ports: EdgePorts,
    journal: Link,
    notices: UnboundedSender<Notice>,
    options: StartOptions,
) -> Result<ShardHandle, DriverError> {
    let StartOptions { index, runtime, cpu, clock, heartbeat, adopting } = options;
    let (mailbox, commands) = crossbeam_channel::bounded(COMMANDS_MAX);
    if !adopting.is_empty() {
        // Before the thread begins, so that nothing that these agents may have is given out. There is room.
        let _ = mailbox.send(Command::Adopting { instances: adopting }); // Its other end is here.
    }
    let counters = Arc::new(SharedCounters::default());
    let bell = Arc::clone(&ports.bell);
    let shard = Shard::new(core, ports, journal, commands, notices, Arc::clone(&counters), heartbeat);
    // Spinning pays only where nobody waits for the core.
    let spin = if allowed_cpus().len() > 2 { SPIN } else { Duration::ZERO };
    let thread = std::thread::Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || {
            pin(cpu);
            match runtime {
                Runtime::Uring => uring::run(shard, clock, spin, cpu),
                Runtime::Epoll => epoll::run(shard, clock, spin),
            }
        })
        .map_err(|source| DriverError::Thread { shard: index, source })?;
    Ok(ShardHandle { mailbox, bell, counters, thread })
}

/// Looks again for a while, then arms all rings. `true`: the thread may sleep now.
fn rest(shard: &mut Shard, clock: Clock, spin: Duration) -> bool {
    if !spin.is_zero() {
        let end = Instant::now() + spin;
        while Instant::now() < end {
            if shard.turn(clock.now()) != Progress::Idle {
                return false;
            }
            std::hint::spin_loop();
        }
    }
    shard.prepare_sleep()
}

fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "this shard is not pinned");
    }
}
