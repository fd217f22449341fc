//! How fast all agents together may be started again: a machine full of crash loops must not become a storm of spawns.
//!
//! Up to [`FleetLimits::restarts_max`] restarts within [`FleetLimits::window`] go through at once. Each one beyond gets
//! a place of its own behind the last, at a gap that doubles from `window / restarts_max` up to
//! [`GAP_GROWTH_MAX`] times that, until there are fewer again. So no window ever has more than twice `restarts_max`.
//! Places are given in the order of asking: nobody is passed over.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Moment;

/// How many times the first gap the longest one is.
pub const GAP_GROWTH_MAX: u32 = 4;

/// How many restarts of all agents together are usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetLimits {
    /// So many within the window go through at once.
    pub restarts_max: usize,
    /// Length of the window.
    pub window: Duration,
}

impl Default for FleetLimits {
    fn default() -> Self {
        Self { restarts_max: 1000, window: Duration::from_secs(10) }
    }
}

/// When a restart may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Now.
    Now,
    /// At that moment, which nobody else gets.
    Later {
        /// When.
        at: Moment,
        /// Whether it is the first that has to wait: worth a line in the log.
        first: bool,
    },
}

/// The restarts of all agents.
#[derive(Clone, Debug)]
pub struct Fleet {
    limits: FleetLimits,
    /// The latest places given, oldest first; at most [`FleetLimits::restarts_max`].
    given: VecDeque<Moment>,
    /// How many had to wait, one after the other.
    delayed: u32,
}

impl Fleet {
    /// None yet.
    pub fn new(limits: FleetLimits) -> Self {
        Self { limits, given: VecDeque::new(), delayed: 0 }
    }

    /// Other limits from now on. Places that were given stay.
    pub fn set_limits(&mut self, limits: FleetLimits) {
        self.limits = limits;
    }

    /// Gives a place to a restart that is due now.
    pub fn grant(&mut self, now: Moment) -> Grant {
        let max = self.limits.restarts_max.max(1);
        let last = self.given.back().copied().unwrap_or(now).max(now);
        while self.given.len() > max
            || self.given.front().is_some_and(|&first| last.since(first) > self.limits.window)
        {
            self.given.pop_front();
        }
        let crowded = self.given.len() >= max;
        let at = if crowded { last.plus(self.gap(max)) } else { last };
        self.delayed = if crowded { self.delayed.saturating_add(1) } else { 0 };
        self.given.push_back(at);
        if at <= now { Grant::Now } else { Grant::Later { at, first: crowded && self.delayed == 1 } }
    }

    fn gap(&self, max: usize) -> Duration {
        let first = self.limits.window / u32::try_from(max).unwrap_or(u32::MAX);
        first.saturating_mul(1 << self.delayed.min(8)).min(first * GAP_GROWTH_MAX)
    }
}
