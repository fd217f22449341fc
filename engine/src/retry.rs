//! Whether and when a failed turn is given out again: pure policy. The caller brings the random numbers.
//!
//! | cause \ attempts so far | 0, 1 | 2 … `attempts_max` − 1 | `attempts_max` and more |
//! |---|---|---|---|
//! | [`FailureCause::AgentDied`] | at once | after delay `attempts − 2` | give up |
//! | [`FailureCause::AgentUnavailable`], [`FailureCause::Overloaded`], an agent's error that may pass | after delay `attempts − 1` | the same | give up |
//! | an agent's error that stays, [`FailureCause::Poison`] | give up | give up | give up |
//!
//! Delay *i* is `min(base · 2^i, cap)`, plus or times a random part, see [`Jitter`].

use std::time::Duration;

/// The random part that [`Jitter::Added`] adds at most.
pub const ADDED_JITTER_MAX: Duration = Duration::from_secs(1);

/// How delays are spread, so that what failed together does not come back together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Jitter {
    /// `min(base · 2^i, cap) + random(0..1 s)`.
    #[default]
    Added,
    /// `random(0..min(base · 2^i, cap))`.
    Full,
}

/// Why a turn has no reply yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureCause {
    /// The agent died with the turn in its hands.
    AgentDied,
    /// The agent is busy, or does not run for now.
    AgentUnavailable,
    /// The agent answered with an error.
    AgentError {
        /// Whether it may go well another time.
        retryable: bool,
    },
    /// A queue on the way was full.
    Overloaded,
    /// The message itself is what kills agents.
    Poison,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Give it out again at once.
    RetryNow,
    /// Give it out again after [`RetryPolicy::delay`] of this index.
    RetryAfter(u16),
    /// It is a dead letter.
    GiveUp,
}

/// How patient the gateway is with a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// How often a turn is given out, the first time included.
    pub attempts_max: u16,
    /// The first delay; doubles with each further one.
    pub base: Duration,
    /// The longest delay, before what jitter adds.
    pub cap: Duration,
    /// The random part.
    pub jitter: Jitter,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            jitter: Jitter::Added,
        }
    }
}

impl RetryPolicy {
    /// What to do with a turn that has been given out `attempts` times.
    pub fn decide(&self, cause: FailureCause, attempts: u16) -> Decision {
        if attempts >= self.attempts_max {
            return Decision::GiveUp;
        }
        match cause {
            FailureCause::AgentDied if attempts <= 1 => Decision::RetryNow,
            FailureCause::AgentDied => Decision::RetryAfter(attempts - 2),
            FailureCause::AgentUnavailable
            | FailureCause::Overloaded
            | FailureCause::AgentError { retryable: true } => {
                Decision::RetryAfter(attempts.saturating_sub(1))
            }
            FailureCause::AgentError { retryable: false } | FailureCause::Poison => Decision::GiveUp,
        }
    }

    /// How long to wait before the retry with this index, from 0; `random` is any number.
    pub fn delay(&self, index: u16, random: u64) -> Duration {
        let doubled = 1u32.checked_shl(u32::from(index)).and_then(|factor| self.base.checked_mul(factor));
        let delay = doubled.map_or(self.cap, |delay| delay.min(self.cap));
        match self.jitter {
            Jitter::Added => delay.saturating_add(below(ADDED_JITTER_MAX, random)),
            Jitter::Full => below(delay, random),
        }
    }
}

/// A duration from zero up to and without `end`, by a random number.
fn below(end: Duration, random: u64) -> Duration {
    let end = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
    let scaled = (u128::from(end) * u128::from(random)) >> u64::BITS;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds' formula to the nanosecond, at both ends and in the middle of the random part.
    #[test]
    fn delays_follow_the_formula() {
        let added = RetryPolicy::default();
        let full = RetryPolicy { jitter: Jitter::Full, ..added };
        let rows =
            [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30), (31, 30), (32, 30), (u16::MAX, 30)];
        for (index, seconds) in rows {
            let least = Duration::from_secs(seconds);
            let nanosecond = Duration::from_nanos(1);
            assert_eq!(added.delay(index, 0), least, "{index}");
            assert_eq!(added.delay(index, 1 << 63), least + Duration::from_millis(500), "{index}");
            assert_eq!(added.delay(index, u64::MAX), least + ADDED_JITTER_MAX - nanosecond, "{index}");
            assert_eq!(full.delay(index, 0), Duration::ZERO, "{index}");
            assert_eq!(full.delay(index, 1 << 63), least / 2, "{index}");
            assert_eq!(full.delay(index, u64::MAX), least - nanosecond, "{index}");
        }
    }

    /// No configuration overflows.
    #[test]
    fn extreme_policies_give_delays() {
        let endless = RetryPolicy { base: Duration::MAX, cap: Duration::MAX, ..RetryPolicy::default() };
        assert_eq!(endless.delay(0, u64::MAX), Duration::MAX);
        assert_eq!(endless.delay(u16::MAX, u64::MAX), Duration::MAX);
        let none = RetryPolicy { base: Duration::ZERO, jitter: Jitter::Full, ..RetryPolicy::default() };
        assert_eq!(none.delay(31, u64::MAX), Duration::ZERO);
    }

    /// The table of the module, with both sides of each of its columns.
    #[test]
    fn decisions_follow_the_table() {
        use Decision::{GiveUp, RetryAfter, RetryNow};
        let passing =
            [RetryAfter(0), RetryAfter(0), RetryAfter(1), RetryAfter(2), RetryAfter(3), GiveUp, GiveUp];
        let rows = [
            (
                FailureCause::AgentDied,
                [RetryNow, RetryNow, RetryAfter(0), RetryAfter(1), RetryAfter(2), GiveUp, GiveUp],
            ),
            (FailureCause::AgentUnavailable, passing),
            (FailureCause::Overloaded, passing),
            (FailureCause::AgentError { retryable: true }, passing),
            (FailureCause::AgentError { retryable: false }, [GiveUp; 7]),
            (FailureCause::Poison, [GiveUp; 7]),
        ];
        for (cause, decisions) in rows {
            for (attempts, decision) in (0u16..).zip(decisions) {
                assert_eq!(RetryPolicy::default().decide(cause, attempts), decision, "{cause:?} {attempts}");
            }
        }
        let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
        assert_eq!(once.decide(FailureCause::AgentDied, 1), GiveUp);
        let patient = RetryPolicy { attempts_max: u16::MAX, ..RetryPolicy::default() };
        assert_eq!(patient.decide(FailureCause::Overloaded, u16::MAX), GiveUp);
    }
}
