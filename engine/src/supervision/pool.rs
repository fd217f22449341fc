//! How many members of a pool run: one more when messages wait, one less when a member has had nothing to do for long.
//!
//! A member has a *place*, from 0. Those that run are not always the first ones: any may fail. Looked at from time to
//! time; each look calls for one change at most, and after one that adds a member the load has to show anew
//! ([`crate::scaling`]), which is the cool-down.
//!
//! | first row that applies | change |
//! |---|---|
//! | fewer run than [`PoolLimits::min`] | one more |
//! | fewer run than are busy and [`PoolLimits::spares`] together | one more |
//! | much waits, or for long | one more |
//! | more run than the first two rows ask for, and one has been idle for [`PoolLimits::idle_timeout`] | that one goes, the last of several |
//!
//! Never more than [`PoolLimits::max`], and only members that rest can be started.

use std::time::Duration;

use crate::scaling::{Scaling, ScalingLimits, ScalingSignal};
use crate::time::Moment;

/// How many members a pool may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// So many always run.
    pub min: usize,
    /// So many at most.
    pub max: usize,
    /// So many run beyond those that are busy.
    pub spares: usize,
    /// How long a member has nothing to do before it goes.
    pub idle_timeout: Duration,
}

impl PoolLimits {
    /// A pool that always has so many members.
    pub fn fixed(count: usize) -> Self {
        Self { min: count, max: count, spares: 0, idle_timeout: Duration::from_secs(60) }
    }

    /// Whether there is anything to decide.
    pub fn is_fixed(&self) -> bool {
        self.min == self.max
    }
}

/// Whether a member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It can be started.
    Resting,
    /// It takes messages, now or soon.
    Running,
    /// It is on its way out, or out of order.
    Out,
}

/// What a member has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLoad {
    /// Whether it runs.
    pub phase: Phase,
    /// Turns in its hands.
    pub open: usize,
    /// Turns that wait for it.
    pub queued: usize,
    /// How long the oldest of those has waited.
    pub oldest_wait: Duration,
    /// Turns it has ended, ever.
    pub ended: u64,
}

/// What should change, by the place of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It should start.
    Start(usize),
    /// It should go.
    Rest(usize),
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    since: Moment,
    ended: u64,
}

/// Watches the members of one pool.
#[derive(Clone, Debug)]
pub struct Pool {
    limits: PoolLimits,
    signal: ScalingSignal,
    /// Since when each member has had nothing to do; none for those that have, or do not run.
    idle: Vec<Option<Idle>>,
}

impl Pool {
    /// Nothing has been seen of it.
    pub fn new(limits: PoolLimits, scaling: ScalingLimits) -> Self {
        Self { limits, signal: ScalingSignal::new(scaling), idle: Vec::new() }
    }

    /// Its limits.
    pub fn limits(&self) -> &PoolLimits {
        &self.limits
    }

    /// Other limits from now on.
    pub fn set_limits(&mut self, limits: PoolLimits) {
        self.limits = limits;
    }

    /// Takes what the members have to do, in the order of their places.
    pub fn observe(&mut self, now: Moment, members: &[MemberLoad]) -> Option<Change> {
        self.idle.resize(members.len(), None);
        for (idle, member) in self.idle.iter_mut().zip(members) {
            let quiet = member.phase == Phase::Running && member.open == 0 && member.queued == 0;
            let known = idle.filter(|idle| idle.ended == member.ended);
            *idle = quiet.then(|| known.unwrap_or(Idle { since: now, ended: member.ended }));
        }
        let running = members.iter().filter(|member| member.phase == Phase::Running).count();
        let busy = running - self.idle.iter().flatten().count();
        let needed = (busy + self.limits.spares).clamp(self.limits.min, self.limits.max.max(self.limits.min));
        let depth = members.iter().map(|member| member.queued).sum();
        let oldest = members.iter().map(|member| member.oldest_wait).max().unwrap_or_default();
        let pressed = self.signal.observe(now, depth, oldest) == Some(Scaling::Up);
        if running < self.limits.max && (running < needed || pressed) {
            let place = members.iter().position(|member| member.phase == Phase::Resting)?;
            self.signal.rearm();
            return Some(Change::Start(place));
        }
        if pressed {
            // As large as it may be. If a member goes, the load is told anew.
            self.signal.rearm();
        }
        let out =
            |idle: &Option<Idle>| idle.is_some_and(|idle| now.since(idle.since) >= self.limits.idle_timeout);
        let place = self.idle.iter().rposition(out).filter(|_| running > needed)?;
        self.idle[place] = None;
        Some(Change::Rest(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PoolLimits = PoolLimits { min: 1, max: 3, spares: 0, idle_timeout: Duration::from_secs(5) };

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn pool(limits: PoolLimits) -> Pool {
        Pool::new(limits, ScalingLimits { high_water: 10, low_water: 2, ..ScalingLimits::default() })
    }

    /// `r`: rests. `i`: runs, idle. `b`: runs, busy. `w`: runs, and eleven messages wait. `o`: out.
    fn members(letters: &str) -> Vec<MemberLoad> {
        let member = |letter| {
            let (phase, open, queued) = match letter {
                'r' => (Phase::Resting, 0, 0),
                'i' => (Phase::Running, 0, 0),
                'b' => (Phase::Running, 1, 0),
                'w' => (Phase::Running, 1, 11),
                'o' => (Phase::Out, 0, 0),
                other => panic!("{other}"),
            };
            MemberLoad { phase, open, queued, oldest_wait: Duration::ZERO, ended: 0 }
        };
        letters.chars().map(member).collect()
    }

    /// The change that one look a second calls for after so many seconds of the same, if one comes.
    fn after(limits: PoolLimits, letters: &str, seconds: u64) -> Option<(u64, Change)> {
        let mut pool = pool(limits);
        (0..=seconds).find_map(|second| Some((second, pool.observe(at(second), &members(letters))?)))
    }

    /// Each row of the table, both sides of its limits.
    #[test]
    fn pools_follow_the_load() {
        use Change::{Rest, Start};
        let spares = PoolLimits { spares: 1, ..LIMITS };
        let check = |limits, letters, expected| assert_eq!(after(limits, letters, 20), expected, "{letters}");
        // Too few run.
        check(LIMITS, "rrr", Some((0, Start(0))));
        check(LIMITS, "orr", Some((0, Start(1))));
        check(LIMITS, "brr", None);
        // Spares.
        check(spares, "brr", Some((0, Start(1))));
        check(spares, "bir", None);
        check(spares, "irr", None);
        check(spares, "bbb", None);
        // Messages wait, for as long as `ScalingLimits::hold`.
        check(LIMITS, "wrr", Some((2, Start(1))));
        check(LIMITS, "wor", Some((2, Start(2))));
        check(LIMITS, "www", None);
        check(LIMITS, "woo", None);
        // Nothing to do for five seconds: the last one goes, but not below the least.
        check(LIMITS, "iii", Some((5, Rest(2))));
        check(LIMITS, "ibi", Some((5, Rest(2))));
        check(LIMITS, "iib", Some((5, Rest(1))));
        check(LIMITS, "irr", None);
        check(spares, "iib", Some((5, Rest(1))));
        check(spares, "bbi", None);
        check(PoolLimits::fixed(3), "iii", None);
    }

    /// Idle is who has ended nothing between two looks, not only who has nothing in hand at a look.
    #[test]
    fn work_between_looks_counts() {
        let mut pool = pool(LIMITS);
        let mut two = members("ii");
        for second in 0..20 {
            two[1].ended += 1;
            let change = pool.observe(at(second), &two);
            assert_eq!(change, (second == 5).then_some(Change::Rest(0)), "{second}");
            if change.is_some() {
                two[0].phase = Phase::Resting;
            }
        }
    }

    /// One member at a time: a load that stays has to show anew for as long as before.
    #[test]
    fn growth_has_a_cool_down() {
        let mut pool = pool(LIMITS);
        let mut letters = ["w", "r", "r"];
        let mut starts = Vec::new();
        for second in 0..10 {
            if let Some(Change::Start(place)) = pool.observe(at(second), &members(&letters.concat())) {
                letters[place] = "b";
                starts.push(second);
            }
        }
        assert_eq!(starts, [2, 5]);
    }
}
