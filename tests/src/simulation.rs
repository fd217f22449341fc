//! The whole gateway in one thread, from one seed: shards, journals on simulated disks, edges, agents and clients,
//! under faults of every kind, with a checker that knows only what went in and what came out.
//!
//! | module | holds |
//! |---|---|
//! | [`swarm`] | what a seed chooses: sizes, limits, which faults and how often |
//! | [`world`] | the parts, the queues between them, and what a step does |
//! | `machine`, `store` | cores and writers of one run of the gateway; disks, and what was asked of them |
//! | `people`, `workers`, `liars` | clients and agents |
//! | `conversations`, `skills` | the control thread: who serves one session at a time, and what agents ask for |
//! | `faults` | kills, power losses, damage, and what follows them |
//! | `settle` | the end of a run: no faults any more, everything has to come to rest |
//! | [`checker`] | the history, and what must be true of it |
//!
//! A run has two phases. In the first one faults happen, and what is promised to be true at any time is checked. In
//! the second one there are none, clients ask for everything that they have no answer to, and within a bounded number of
//! rounds everything has to be answered and at rest.

pub mod checker;
mod conversations;
pub mod failure;
mod faults;
mod history;
mod liars;
mod machine;
mod packet;
mod people;
mod planted;
mod settle;
mod skills;
mod store;
pub mod swarm;
mod tally;
mod workers;
pub mod world;

use std::time::Duration;

pub use planted::{Planted, planted};
pub use tally::Tally;

/// What is wanted of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Every step is printed.
    pub trace: bool,
    /// How much of the usual number of steps, in percent; 0: all.
    pub steps_percent: usize,
}

/// What a run was.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of everything that happened, in order.
    pub digest: u64,
    /// How much time passed in the simulation.
    pub simulated: Duration,
    /// What happened how often.
    pub tally: Tally,
}

/// Runs one seed.
///
/// # Panics
///
/// If something is true of it that must not be; the panic says what.
pub fn run(seed: u64, options: Options) -> Outcome {
    let mut world = world::World::new(seed, options);
    let steps = world.steps();
    for _ in 0..steps {
        world.step();
    }
    world.settle();
    world.outcome()
}
