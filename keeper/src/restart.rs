//! How often a gateway that crashes is started again: pure policy.
//!
//! The first crash is answered at once, the next ones after 100 ms, 200 ms and so on, twice as long each time. More
//! than [`CRASHES_MAX`] within [`WINDOW`], and nobody is started any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many crashes within the window are answered.
pub(crate) const CRASHES_MAX: usize = 5;
/// Length of the window.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// Delay after the second crash of a window; doubles with each further one.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// The crashes of late.
#[derive(Debug, Default)]
pub(crate) struct Crashes {
    /// Within the window, oldest first; at most [`CRASHES_MAX`].
    at: VecDeque<Instant>,
}

impl Crashes {
    /// One more: when to start the next gateway, or `None` if there were too many.
    pub(crate) fn note(&mut self, now: Instant) -> Option<Instant> {
        while self.at.front().is_some_and(|&at| now.saturating_duration_since(at) > WINDOW) {
            self.at.pop_front();
        }
        if self.at.len() >= CRASHES_MAX {
            return None;
        }
        self.at.push_back(now);
        let delay = match u32::try_from(self.at.len()) {
            Ok(0 | 1) | Err(_) => Duration::ZERO,
            Ok(count) => BACK_OFF_FIRST * (1 << (count - 2)),
        };
        Some(now + delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Crashes at once: each start waits longer, and the one too many is not answered. Both sides of the limit.
    #[test]
    fn a_crash_loop_ends() {
        let (mut crashes, now) = (Crashes::default(), Instant::now());
        for delay_ms in [0, 100, 200, 400, 800] {
            assert_eq!(crashes.note(now), Some(now + Duration::from_millis(delay_ms)), "{delay_ms}");
        }
        assert_eq!(crashes.note(now), None);
        assert_eq!(crashes.note(now + WINDOW), None, "still within");
    }

    /// Crashes that are further apart than the window never add up.
    #[test]
    fn rare_crashes_are_forgiven() {
        let (mut crashes, start) = (Crashes::default(), Instant::now());
        for round in 0..50 {
            let now = start + (WINDOW + Duration::from_millis(1)) * round;
            assert_eq!(crashes.note(now), Some(now));
        }
    }
}
