//! Points in time as the core sees them: nanoseconds since the gateway started, given as arguments.

use std::time::Duration;

/// A point on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment {
    nanos: u64,
}

impl Moment {
    /// The start of the clock.
    pub const ZERO: Self = Self { nanos: 0 };

    /// This long after the start of the clock.
    pub fn after_start(duration: Duration) -> Self {
        Self { nanos: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) }
    }

    /// This much later; the end of time if that is too much.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)) }
    }

    /// How long from `earlier` to here; zero if it is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

/// The monotonic clock of a driver.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }
}
