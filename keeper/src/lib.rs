//! Spawns agents, reaps them, and holds the descriptors that outlive the gateway.
//!
//! The keeper is mechanism only: it does what its gateway says and reports what happens. Which agent runs,
//! and whether one that died runs again, is decided elsewhere.
//!
//! | module | decides |
//! |---|---|
//! | [`control`] | what gateway and keeper say to each other |
//! | [`client`] | the gateway's end: start a keeper, talk to it |
//! | [`view`] | what observers and keeper say to each other |
//! | [`observer`] | an observer's end: ask which rings there are, and look |
//! | `channel` | one JSON datagram, with descriptors |
//! | `connection` | the keeper's end: one gateway at a time, bounded queue |
//! | `guests` | those that are not the gateway: strangers and observers |
//! | `shown` | which rings observers see, and through what |
//! | [`cgroup`] | limits and counters of agents, and their end with all descendants |
//! | `launch` | rings, log file, environment and command of a new agent |
//! | `spawn` | what happens between fork and exec of an agent without a sandbox |
//! | [`sandbox`] | what an agent may see and do, and how the kernel is made to hold it |
//! | `ledger` | which processes were started, on disk, for the keeper that comes when all are dead that knew |
//! | `pidfd` | signals to processes that somebody else may reap |
//! | `roster` | the agents alive, and what is left of the dead |
//! | `succession` | what is held when the gateway is gone, for how long, and whether the next one is started |
//! | `restart` | how often a gateway that crashes is started again |
//! | `start` | how it is started |
//! | `serve` | the loop |
//!
//! # How it starts
//!
//! The program `openclaw-keeper` (`main.rs`) is this library and nothing else: what it links, it has in memory for as long
//! as agents live.
//!
//! The gateway binds and listens on a socket, hands it to the keeper as standard input, and connects to its
//! path. So nothing has to be waited for, and whoever finds the path later can connect to the same keeper.
//!
//! # When the gateway is gone
//!
//! Its agents go on. The keeper holds their rings, their doorbells and the listening sockets of the gateway, reaps who
//! dies, and starts the next gateway if it was told how. That one connects, is told everything that is held, and goes
//! on in the same rings. If none comes in time, the keeper ends the agents (SIGTERM, one second, SIGKILL) and exits.
//! [`control::Request::Shutdown`] ends both at once.
//!
//! # When the keeper is gone
//!
//! Its agents go on. The gateway holds what the keeper holds of them, starts another one and hands it over
//! ([`control::Request::Adopt`]). That one is not their parent: it watches them by pidfd, and does not learn their exit
//! status. When keeper and gateway are gone, the next keeper kills what they have left: all that is in the cgroups of
//! agents, and the processes of the ledger.
//!
//! A gateway that has become another user cannot start a keeper of root. For it the keeper keeps a *standby*
//! (`serve/standby.rs`): a process that sleeps, and becomes the next keeper when the gateway says hello to it.
//!
//! # What is deliberately absent
//!
//! - A search for all descendants of an agent for which no cgroup can be made and that runs without a sandbox: one that
//!   makes a session of its own is not found; the agent's process group is.
#![deny(unsafe_code)]

pub mod cgroup;
mod channel;
pub mod client;
mod connection;
pub mod control;
mod guests;
mod launch;
mod ledger;
pub mod observer;
#[allow(unsafe_code, reason = "a system call without a safe wrapper")]
mod pidfd;
mod restart;
mod roster;
pub mod sandbox;
mod serve;
mod shown;
mod skills;
#[allow(unsafe_code, reason = "code between fork and exec, and descriptors at fixed numbers")]
mod spawn;
mod start;
mod succession;
pub mod view;

pub use channel::sentence;
pub use serve::{KeeperError, Options, run, stand_by};
