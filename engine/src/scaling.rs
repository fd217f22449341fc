//! When a pool needs one member more or less: hysteresis over how much waits and for how long.
//!
//! | state \ load | high | middle | low |
//! |---|---|---|---|
//! | `Steady` | `Pressed` | – | `Slack` |
//! | `Pressed` | after [`ScalingLimits::hold`]: `Raised`, up | `Steady` | `Slack` |
//! | `Raised` | – | `Steady` | `Slack` |
//! | `Slack` | `Pressed` | `Steady` | after [`ScalingLimits::calm`]: `Lowered`, down |
//! | `Lowered` | `Pressed` | `Steady` | – |
//!
//! `–` changes nothing. A load that stays is told once; [`ScalingSignal::rearm`], after a member has come or gone,
//! makes the state `Steady`, so that it is told again if it stays even then.

use std::time::Duration;

use crate::time::Moment;

/// What is much, what is little, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScalingLimits {
    /// More waiting messages than these are a high load.
    pub high_water: usize,
    /// Up to so many are a low one.
    pub low_water: usize,
    /// A message that has waited longer is a high load by itself.
    pub wait_max: Duration,
    /// How long a load has to be high.
    pub hold: Duration,
    /// How long it has to be low.
    pub calm: Duration,
}

impl Default for ScalingLimits {
    fn default() -> Self {
        Self {
            high_water: 100,
            low_water: 10,
            wait_max: Duration::from_secs(5),
            hold: Duration::from_secs(2),
            calm: Duration::from_secs(60),
        }
    }
}

/// What the pool should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scaling {
    /// Take one more member.
    Up,
    /// Let one go.
    Down,
}

impl Scaling {
    /// Its name, for people and pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Load {
    High,
    Middle,
    Low,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Steady,
    Pressed { since: Moment },
    Raised,
    Slack { since: Moment },
    Lowered,
}

/// Watches the queue of one pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScalingSignal {
    limits: ScalingLimits,
    state: State,
}

impl ScalingSignal {
    /// For a queue that has not been looked at.
    ///
    /// # Panics
    ///
    /// If a load could be high and low at once.
    pub fn new(limits: ScalingLimits) -> Self {
        assert!(limits.low_water <= limits.high_water, "{limits:?}");
        Self { limits, state: State::Steady }
    }

    /// Takes how much waits, and how long the oldest has.
    pub fn observe(&mut self, now: Moment, depth: usize, oldest_wait: Duration) -> Option<Scaling> {
        let (state, scaling) = match (self.state, self.load(depth, oldest_wait)) {
            (State::Pressed { since }, Load::High) if now.since(since) >= self.limits.hold => {
                (State::Raised, Some(Scaling::Up))
            }
            (State::Slack { since }, Load::Low) if now.since(since) >= self.limits.calm => {
                (State::Lowered, Some(Scaling::Down))
            }
            (state @ (State::Pressed { .. } | State::Raised), Load::High)
            | (state @ (State::Slack { .. } | State::Lowered), Load::Low) => (state, None),
            (_, Load::High) => (State::Pressed { since: now }, None),
            (_, Load::Low) => (State::Slack { since: now }, None),
            (_, Load::Middle) => (State::Steady, None),
        };
        self.state = state;
        scaling
    }

    /// The pool has changed: the load has to show anew.
    pub fn rearm(&mut self) {
        self.state = State::Steady;
    }

    fn load(&self, depth: usize, oldest_wait: Duration) -> Load {
        if depth > self.limits.high_water || oldest_wait > self.limits.wait_max {
            Load::High
        } else if depth <= self.limits.low_water {
            Load::Low
        } else {
            Load::Middle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ScalingLimits = ScalingLimits {
        high_water: 10,
        low_water: 2,
        wait_max: Duration::from_secs(5),
        hold: Duration::from_secs(2),
        calm: Duration::from_secs(4),
    };

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    /// Both sides of each threshold.
    #[test]
    fn loads_are_told_apart() {
        let rows = [
            (0, 0, Load::Low),
            (2, 0, Load::Low),
            (3, 0, Load::Middle),
            (10, 5, Load::Middle),
            (11, 0, Load::High),
            (0, 5, Load::Low),
            (0, 6, Load::High),
        ];
        for (depth, seconds, load) in rows {
            let signal = ScalingSignal::new(LIMITS);
            assert_eq!(signal.load(depth, Duration::from_secs(seconds)), load, "{depth} {seconds}");
        }
    }

    /// The whole matrix of the module, before and after the time that two of its cells name.
    #[test]
    fn every_transition_is_in_the_matrix() {
        let (pressed, slack) = (State::Pressed { since: at(10) }, State::Slack { since: at(10) });
        let (pressed_now, slack_now) =
            (|now| State::Pressed { since: now }, |now| State::Slack { since: now });
        for seconds in [11, 12, 13, 14] {
            let now = at(seconds);
            let held = if seconds >= 12 { (State::Raised, Some(Scaling::Up)) } else { (pressed, None) };
            let calmed = if seconds >= 14 { (State::Lowered, Some(Scaling::Down)) } else { (slack, None) };
            let middle = (State::Steady, None);
            let rows = [
                (State::Steady, (pressed_now(now), None), (slack_now(now), None)),
                (pressed, held, (slack_now(now), None)),
                (State::Raised, (State::Raised, None), (slack_now(now), None)),
                (slack, (pressed_now(now), None), calmed),
                (State::Lowered, (pressed_now(now), None), (State::Lowered, None)),
            ];
            for (state, high, low) in rows {
                for (depth, expected) in [(11, high), (5, middle), (0, low)] {
                    let mut signal = ScalingSignal { limits: LIMITS, state };
                    let scaling = signal.observe(now, depth, Duration::ZERO);
                    assert_eq!((signal.state, scaling), expected, "{state:?} {depth} at {seconds}");
                }
            }
        }
    }

    /// A load that stays is told once, and once more after the pool has changed.
    #[test]
    fn a_load_that_stays_is_told_once() {
        let mut signal = ScalingSignal::new(LIMITS);
        let ups = |signal: &mut ScalingSignal, from: u64| -> Vec<u64> {
            (from..from + 10)
                .filter(|&second| signal.observe(at(second), 11, Duration::ZERO) == Some(Scaling::Up))
                .collect()
        };
        assert_eq!(ups(&mut signal, 0), [2]);
        assert_eq!(ups(&mut signal, 10), [0; 0]);
        signal.rearm();
        assert_eq!(ups(&mut signal, 20), [22]);
    }
}
