//! The one source of atomics, so that a model checker can replace them.
//!
//! `--cfg loom` makes a model: the crate is its rings only, over heap memory. `--cfg shuttle` on top of it has
//! the model run under shuttle, which takes random schedules of any length and no weak orderings; by itself it
//! means nothing.

#[cfg(all(loom, not(shuttle)))]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(all(loom, shuttle))]
pub use shuttle::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};
