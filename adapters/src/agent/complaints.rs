//! Lines on standard error about an agent's mistakes, few enough to be read.

use std::time::{Duration, Instant};

/// Lines of one window.
const LINES_MAX: u32 = 10;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

/// Decides which complaints are written.
#[derive(Debug)]
pub(super) struct Complaints {
    window_start: Instant,
    written: u32,
    swallowed: u64,
}

impl Complaints {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_start: now, written: 0, swallowed: 0 }
    }

    /// The line to write, if this complaint may be written.
    pub(super) fn line(&mut self, complaint: &str, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.window_start) >= WINDOW {
            (self.window_start, self.written) = (now, 0);
        }
        if self.written == LINES_MAX {
            self.swallowed += 1;
            return None;
        }
        self.written += 1;
        match std::mem::take(&mut self.swallowed) {
            0 => Some(format!("agent-host: {complaint}")),
            more => Some(format!("agent-host: {complaint} ({more} more were not written)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten lines a window; the first of the next window says how many were swallowed.
    #[test]
    fn complaints_are_limited() {
        let start = Instant::now();
        let mut complaints = Complaints::new(start);
        for _ in 0..10 {
            assert_eq!(complaints.line("x", start).as_deref(), Some("agent-host: x"));
        }
        assert_eq!(complaints.line("x", start + WINDOW - Duration::from_millis(1)), None);
        assert_eq!(
            complaints.line("y", start + WINDOW).as_deref(),
            Some("agent-host: y (1 more were not written)")
        );
        assert_eq!(complaints.line("y", start + WINDOW).as_deref(), Some("agent-host: y"));
    }
}
