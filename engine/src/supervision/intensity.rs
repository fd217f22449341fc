//! How many ends within a window are too many, and how long to wait before the next start.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Moment;

/// How patient the supervisor of an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many ends within the window are still answered with a start.
    pub restarts_max: usize,
    /// Length of the window.
    pub window: Duration,
    /// Delay before the second restart within a window; doubles with each further one.
    pub back_off_first: Duration,
    /// Longest delay.
    pub back_off_max: Duration,
    /// How long a crash-looping agent is left alone.
    pub quarantine: Duration,
    /// How long an agent that was told to finish may take before it is killed.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            restarts_max: 5,
            window: Duration::from_secs(10),
            back_off_first: Duration::from_millis(50),
            back_off_max: Duration::from_secs(30),
            quarantine: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// What follows an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is started again after this delay.
    Restart(Duration),
    /// It has ended too often.
    TooOften,
}

/// The ends of one agent within the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Oldest first; at most [`Limits::restarts_max`] and one more.
    ends: VecDeque<Moment>,
}

impl Ends {
    /// Notes one more.
    pub(super) fn note(&mut self, now: Moment, limits: &Limits) -> Verdict {
        while self.ends.front().is_some_and(|&end| now.since(end) > limits.window) {
            self.ends.pop_front();
        }
        self.ends.push_back(now);
        if self.ends.len() > limits.restarts_max {
            self.ends.clear();
            return Verdict::TooOften;
        }
        // The first end of a window is answered at once, the next ones ever later.
        let Some(further) = self.ends.len().checked_sub(2) else { return Verdict::Restart(Duration::ZERO) };
        let doublings = u32::try_from(further).unwrap_or(u32::MAX).min(20);
        let delay = limits.back_off_first.saturating_mul(1 << doublings);
        Verdict::Restart(delay.min(limits.back_off_max))
    }

    /// The next start comes this much later than it should: that time does not count for the window. Otherwise an agent
    /// that the fleet holds back would never be found to loop.
    pub(super) fn postponed(&mut self, delay: Duration) {
        for end in &mut self.ends {
            *end = end.plus(delay);
        }
    }

    pub(super) fn forget(&mut self) {
        self.ends.clear();
    }
}
