//! The sans-IO core, supervision policy and shard drivers.
//!
//! | module | decides |
//! |---|---|
//! | [`event`] | what can wake a shard, and what it can do about it: two closed enums |
//! | [`core`] | sessions, agents and turns of one shard; no IO, no clock, no randomness |
//! | [`heartbeat`] | when an agent that gives no sign of life counts as hung |
//! | [`supervision`] | when an agent is started, drained and started again, and how many of a pool run |
//! | [`registry`] | which agents there are, what they can do, and where each stands |
//! | [`session`] | which sessions a shard has, what each remembers, and when it is forgotten |
//! | [`routing`] | which agent a message goes to |
//! | [`wheel`] | what is due when |
//! | [`time`] | points in time as the core sees them |
//! | [`journal`] | what is kept on disk, and how it is read back |
//! | [`dedup`] | whether a client's message has been accepted before |
//! | [`classes`] | which waiting message of an agent goes next, and which new one is refused |
//! | [`scaling`] | when a pool needs one member more or less |
//! | [`retry`] | whether and when a failed turn is given out again |
//! | [`breaker`] | whether an agent or a channel is asked at all for now |
//! | [`dead_letters`] | the turns that ended without a reply, and their replay |
//! | [`flight`] | what happened to each of the last messages, stage by stage |
//! | [`events`] | what subscribers are told, at the cost of one branch where there are none |
//! | [`histogram`] | how long things took on a shard, for readers on other threads |
//! | [`planted`] | mistakes that tests plant, to see whether they are found |
//! | [`stats`] | the counters of a shard, for readers on other threads |
//! | [`shard`] | the rings around a core: what both drivers share |
//! | [`driver`] | the threads: glommio on io_uring, or tokio on epoll |
//!
//! Unsafe code lives in `driver::uring_bell` and `journal::uring` only.
#![deny(unsafe_code)]

pub mod breaker;
pub mod classes;
pub mod core;
pub mod dead_letters;
pub mod dedup;
pub mod driver;
pub mod event;
pub mod events;
pub mod flight;
mod hash;
pub mod heartbeat;
pub mod histogram;
pub mod journal;
mod long_queue;
mod named;
mod paged;
pub mod planted;
pub mod registry;
pub mod retry;
pub mod routing;
pub mod scaling;
pub mod session;
pub mod shard;
mod spread;
pub mod stats;
pub mod supervision;
pub mod time;
pub mod wheel;
