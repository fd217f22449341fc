//! Control groups of agents: limits, counters, and an end that no descendant escapes.
//!
//! | module | decides |
//! |---|---|
//! | [`layout`] | where the own cgroups are; pure |
//! | `detect` | which controllers can be used, and what stands in the way of the others |
//! | [`enforcement`] | what of this a person is told, and how to turn on what is missing |
//! | [`limits`] | which file of which version holds which limit; pure |
//! | `subtree` | the cgroup of one keeper, in which those of its agents are |
//! | `agent` | the cgroup of one agent: attach, kill, count, remove |
//!
//! # Names
//!
//! Below the process's own cgroup, in each hierarchy that is used: `openclaw-<hash of the state
//! directory>/agent-<name>-<instance>`. So the next keeper of a state directory finds what the last one left.
//!
//! # Which hierarchies
//!
//! A controller is used where it is mounted. Where version 2 is mounted at all, agents have a cgroup there too,
//! since only that can be killed as one. Each agent has a cgroup, with or without limits: memory and processes are
//! counted, and its end is complete. Limits of CPU time and of writing have one only if they are set.
//!
//! Version 2 allows no processes beside cgroups that have controllers. So the keeper moves itself and its
//! gateway into a leaf, `openclaw-<hash>/keeper`; processes of others are not moved, and stand in the way.
//!
//! # Who may touch what
//!
//! 1. The cgroup `openclaw-<hash>` of a hierarchy belongs to the keeper that holds the lock of its directory. Others
//!    may remove it only when they have that lock, and only as far as it is empty; they kill nobody.
//! 2. A process is killed by number only after it has been seen in the cgroup while a pidfd of it was open.
//!    So the number cannot have become that of another process.
//!
//! # What is deliberately absent
//!
//! - The freezer. A frozen process of version 1 does not die before it is thawed. Instead the limit of
//!   processes is set to 0 before the members are killed, so that there are no new ones.
//! - Reclaiming the page cache of the dead. A memory cgroup that is removed is kept by the kernel, unseen, until the last
//!   page that was charged to it is; waiting for that would hold up the keeper.
//! - Limits of reading, of the network, of swap alone. Memory and swap have one limit together.

mod agent;
mod detect;
pub mod enforcement;
pub mod layout;
pub mod limits;
mod subtree;
#[cfg(test)]
mod tests;

pub use agent::{AgentCgroup, Born, Usage};
pub use detect::{Cgroups, Holder, Obstacle};
pub use limits::{Device, Limits};
pub use subtree::{LimitError, Subtree, subtree_name};
