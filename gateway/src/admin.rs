//! The admin socket: questions to a running gateway, one JSON object a line each way.
//!
//! Served by the runtime of the control thread. Shards are asked through their mailboxes, and never waited for longer
//! than [`shards::ANSWER_PATIENCE`]. Operations and errors are tables in `docs/admin.md`.
//!
//! | module | decides |
//! |---|---|
//! | [`request`] | what may be asked |
//! | [`answer`] | what is answered, for both ends |
//! | `serve` | connections, their lines, and how many of both there may be |
//! | `shards` | how shards are asked |
//! | `explain`, `dead_letters`, `stats`, `events`, `agents`, `lifecycle`, [`sessions`] | operations |
//! | [`order`] | what the control thread is asked to do |
//! | [`bulletin`] | what the control thread tells of by itself |

pub mod agents;
pub mod answer;
pub mod bulletin;
mod dead_letters;
mod events;
mod explain;
mod lifecycle;
pub mod order;
pub mod request;
mod serve;
pub mod sessions;
pub mod shards;
pub mod stats;

#[cfg(test)]
mod tests;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::event::AgentIndex;
use engine::time::{Clock, Moment};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::rpc::sessions::Desk;
use bulletin::Bulletin;
use order::Order;
use shards::Shards;
use tokio::sync::mpsc;

/// The version of the protocol: `v` of every line.
pub const VERSION: u64 = 1;
/// The longest line, its end included.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Connections at once.
pub const CONNECTIONS_MAX: usize = 8;
/// How long a client may take for a line, or to take one.
pub const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may take for one of its events.
const EVENT_PATIENCE: Duration = Duration::from_secs(60);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
#[error("{step} of the admin socket {} failed", path.display())]
pub struct AdminSocketError {
    step: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Makes the socket, for the owner only. The directory must be the gateway's own: a dead socket in it is removed.
    pub fn bind(path: &Path) -> Result<Self, AdminSocketError> {
        let failed = |step: &'static str| {
            move |source: rustix::io::Errno| AdminSocketError {
                step,
                path: path.to_owned(),
                source: source.into(),
            }
        };
        match rustix::fs::unlink(path) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(failed("removing the dead file")(errno)),
        }
        let address = SocketAddrUnix::new(path).map_err(failed("the address"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("making"))?;
        rustix::net::bind(&socket, &address).map_err(failed("binding"))?;
        // Nobody can connect before `listen`, so nobody has while the mode was another.
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed("protecting"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listening"))?;
        Ok(Self { listener: UnixListener::from(socket), path: path.to_owned() })
    }

    /// Answers whoever connects, in tasks of the runtime that this is called on.
    pub fn serve(&self, admin: Arc<Admin>) -> std::io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        tokio::spawn(serve::accept(listener, admin));
        Ok(())
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that is gone already is what is wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What an agent is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentName {
    /// By itself.
    pub own: String,
    /// With the others of its pool.
    pub pool: String,
}

/// What operations need to know of the gateway.
#[derive(Debug)]
pub struct Admin {
    shards: Shards,
    // Arc: listeners on shards name agents too.
    agents: Arc<[AgentName]>,
    clock: Clock,
    /// Unix milliseconds at [`Moment::ZERO`].
    unix_ms_at_zero: u64,
    listeners: AtomicU64,
    // Arc: the control thread tells.
    bulletin: Arc<Bulletin>,
    orders: mpsc::UnboundedSender<Order>,
    // Arc: what is done with sessions is done on other threads.
    desk: Arc<Desk>,
}

impl Admin {
    /// Over these shards; agents in the order of their numbers. Orders are for the control thread: each connection has
    /// one under way at most.
    pub fn new(
        shards: Shards,
        agents: Arc<[AgentName]>,
        clock: Clock,
        bulletin: Arc<Bulletin>,
        orders: mpsc::UnboundedSender<Order>,
        desk: Arc<Desk>,
    ) -> Self {
        let unix_ms_at_zero = unix_ms_at_zero(clock);
        Self { shards, agents, clock, unix_ms_at_zero, listeners: AtomicU64::new(1), bulletin, orders, desk }
    }

    /// Where sessions are worked on.
    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    fn agent_name(&self, agent: AgentIndex) -> Option<String> {
        self.agents.get(agent.0 as usize).map(|name| name.own.clone())
    }

    fn unix_ms(&self, moment: Moment) -> u64 {
        unix_ms(self.unix_ms_at_zero, moment)
    }
}

/// Unix milliseconds at [`Moment::ZERO`] of a clock.
pub fn unix_ms_at_zero(clock: Clock) -> u64 {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let run_ms = clock.now().since(Moment::ZERO).as_millis();
    u64::try_from(unix_ms.saturating_sub(run_ms)).unwrap_or(0)
}

fn unix_ms(unix_ms_at_zero: u64, moment: Moment) -> u64 {
    let since = moment.since(Moment::ZERO).as_millis();
    unix_ms_at_zero.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
}

/// A turn or a session as it is written: 16 hexadecimal digits.
fn hex(word: u64) -> String {
    format!("{word:016x}")
}
