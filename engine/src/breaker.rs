//! Whether an agent or a channel is asked at all for now: circuit breakers.
//!
//! | state \ event | asked | success | failure |
//! |---|---|---|---|
//! | `Closed` | yes | – | one too many: `Open` |
//! | `Open`, before its time | no | – | – |
//! | `Open`, when its time has come | `HalfOpen`, probe | – | – |
//! | `HalfOpen` | probe, up to [`BreakerLimits::probes`] of them; then no | `Closed` | `Open`, twice as long |
//!
//! `–` keeps the state; a closed breaker counts. In `Open` only late words of earlier work arrive, which say nothing
//! new. Probes of which nothing is heard for as long as the breaker was open are given out again.
//!
//! One too many is [`BreakerLimits::failures_max`] in a row, or [`BreakerLimits::failures_percent`] of the last
//! [`BreakerLimits::window`] outcomes, once there are [`BreakerLimits::outcomes_min`] of them.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::AgentIndex;
use crate::time::Moment;

/// The most outcomes that a window may hold: bits of a word.
pub const WINDOW_LIMIT: u8 = 64;

const _: () = assert!(WINDOW_LIMIT as u32 == u64::BITS, "an outcome is a bit");
const _: () = assert!(size_of::<Breaker>() <= 64, "one cache line for each agent");

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerLimits {
    /// So many failures in a row open it.
    pub failures_max: u16,
    /// How many outcomes the ratio is taken over, at most [`WINDOW_LIMIT`].
    pub window: u8,
    /// Fewer outcomes give no ratio.
    pub outcomes_min: u8,
    /// So many percent of failures open it.
    pub failures_percent: u8,
    /// How long it is open the first time; doubles while probes fail.
    pub open_for: Duration,
    /// How long at most.
    pub open_for_max: Duration,
    /// How many may be asked before one has answered.
    pub probes: u16,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            failures_max: 5,
            window: 32,
            outcomes_min: 16,
            failures_percent: 50,
            open_for: Duration::from_secs(1),
            open_for_max: Duration::from_secs(60),
            probes: 1,
        }
    }
}

impl BreakerLimits {
    /// The name of the first limit that makes no sense, if one does.
    pub fn invalid(&self) -> Option<&'static str> {
        let rules = [
            ("failures_max", self.failures_max > 0),
            ("window", self.window > 0 && self.window <= WINDOW_LIMIT),
            ("outcomes_min", self.outcomes_min > 0 && self.outcomes_min <= self.window),
            ("failures_percent", self.failures_percent > 0 && self.failures_percent <= 100),
            ("open_for", self.open_for > Duration::ZERO && self.open_for <= self.open_for_max),
            ("probes", self.probes > 0),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }
}

/// Whether to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Allow {
    /// Ask.
    Yes,
    /// Ask, and say how it went: others wait for that.
    Probe,
    /// Do not ask.
    No {
        /// When another question makes sense.
        retry_after: Duration,
    },
}

/// Where a breaker stands, for people and events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakerState {
    /// Everything goes through.
    Closed,
    /// Nothing does.
    Open,
    /// Probes do.
    HalfOpen,
}

impl BreakerState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Open {
        until: Moment,
    },
    HalfOpen {
        probes_left: u16,
        /// When probes of which nothing was heard are given out again.
        renewed_at: Moment,
    },
}

/// The breaker of one agent or channel. Every call brings the limits, which many have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breaker {
    state: State,
    /// The last outcomes, newest in bit 0; a set bit is a failure.
    failures: u64,
    /// How many of them are known.
    outcomes: u8,
    /// How often it has opened without a success in between.
    openings: u8,
    failures_in_row: u16,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, failures: 0, outcomes: 0, openings: 0, failures_in_row: 0 }
    }
}

impl Breaker {
    /// Whether to ask now.
    ///
    /// HOT: one comparison while closed.
    #[inline]
    pub fn allow(&mut self, limits: &BreakerLimits, now: Moment) -> Allow {
        if self.state == State::Closed { Allow::Yes } else { self.allow_probe(limits, now) }
    }

    /// Whether [`Self::allow`] would say yes now. Takes no probe.
    #[inline]
    pub fn would_allow(&self, now: Moment) -> bool {
        match self.state {
            State::Open { until } | State::HalfOpen { probes_left: 0, renewed_at: until } => until <= now,
            State::Closed | State::HalfOpen { .. } => true,
        }
    }

    #[cold]
    fn allow_probe(&mut self, limits: &BreakerLimits, now: Moment) -> Allow {
        let probes_left = match self.state {
            State::Closed => return Allow::Yes,
            State::Open { until } | State::HalfOpen { probes_left: 0, renewed_at: until } if now < until => {
                return Allow::No { retry_after: until.since(now) };
            }
            State::Open { .. } | State::HalfOpen { probes_left: 0, .. } => limits.probes,
            State::HalfOpen { probes_left, .. } => probes_left,
        };
        let renewed_at = now.plus(self.open_for(limits));
        self.state = State::HalfOpen { probes_left: probes_left.saturating_sub(1), renewed_at };
        Allow::Probe
    }

    /// It went well. Returns the new state if it has changed.
    ///
    /// HOT: no branch but on the state.
    #[inline]
    pub fn on_success(&mut self, limits: &BreakerLimits) -> Option<BreakerState> {
        match self.state {
            State::Closed => {
                self.note(limits, 0);
                self.failures_in_row = 0;
                None
            }
            State::Open { .. } => None,
            State::HalfOpen { .. } => {
                *self = Self::default();
                Some(BreakerState::Closed)
            }
        }
    }

    /// It failed. Returns the new state if it has changed.
    pub fn on_failure(&mut self, limits: &BreakerLimits, now: Moment) -> Option<BreakerState> {
        match self.state {
            State::Open { .. } => return None,
            State::Closed => {
                self.note(limits, 1);
                self.failures_in_row = self.failures_in_row.saturating_add(1);
                if !self.is_one_too_many(limits) {
                    return None;
                }
            }
            State::HalfOpen { .. } => {}
        }
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open { until: now.plus(self.open_for(limits)) };
        Some(BreakerState::Open)
    }

    /// Where it stands.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// The name of where it stands.
    pub fn state_name(&self) -> &'static str {
        self.state().name()
    }

    /// Whether it knows of no failure: one that was never asked behaves alike.
    fn is_blank(&self) -> bool {
        self.state == State::Closed && self.failures == 0
    }

    fn note(&mut self, limits: &BreakerLimits, failure: u64) {
        let window = limits.window.clamp(1, WINDOW_LIMIT);
        self.failures = (self.failures << 1 | failure) & (u64::MAX >> (WINDOW_LIMIT - window));
        self.outcomes = (self.outcomes + 1).min(window);
    }

    fn is_one_too_many(&self, limits: &BreakerLimits) -> bool {
        let outcomes = u32::from(self.outcomes);
        self.failures_in_row >= limits.failures_max
            || self.outcomes >= limits.outcomes_min
                && self.failures.count_ones() * 100 >= outcomes * u32::from(limits.failures_percent)
    }

    fn open_for(&self, limits: &BreakerLimits) -> Duration {
        let doublings = u32::from(self.openings.saturating_sub(1)).min(31);
        limits.open_for.saturating_mul(1 << doublings).min(limits.open_for_max)
    }
}

/// The breakers of all agents, by their place in the agent table.
#[derive(Clone, Debug)]
pub struct AgentBreakers {
    limits: BreakerLimits,
    breakers: Vec<Breaker>,
}

impl AgentBreakers {
    /// All closed.
    pub fn new(limits: BreakerLimits, agent_count: usize) -> Self {
        Self { limits, breakers: vec![Breaker::default(); agent_count] }
    }

    /// Whether to ask an agent now. One that is not in the table has no breaker.
    #[inline]
    pub fn allow(&mut self, agent: AgentIndex, now: Moment) -> Allow {
        self.breakers.get_mut(agent.0 as usize).map_or(Allow::Yes, |breaker| breaker.allow(&self.limits, now))
    }

    /// Whether [`Self::allow`] would say yes now. Takes no probe.
    #[inline]
    pub fn would_allow(&self, agent: AgentIndex, now: Moment) -> bool {
        self.breakers.get(agent.0 as usize).is_none_or(|breaker| breaker.would_allow(now))
    }

    /// It answered. Returns the new state if it has changed.
    #[inline]
    pub fn on_success(&mut self, agent: AgentIndex) -> Option<BreakerState> {
        self.breakers.get_mut(agent.0 as usize)?.on_success(&self.limits)
    }

    /// It failed. Returns the new state if it has changed.
    pub fn on_failure(&mut self, agent: AgentIndex, now: Moment) -> Option<BreakerState> {
        self.breakers.get_mut(agent.0 as usize)?.on_failure(&self.limits, now)
    }

    /// Where the breaker of an agent stands.
    pub fn state(&self, agent: AgentIndex) -> BreakerState {
        self.breakers.get(agent.0 as usize).map_or(BreakerState::Closed, Breaker::state)
    }
}

/// The breakers of channels, by the hash of their name. Only those that know of a failure take a place.
#[derive(Clone, Debug)]
pub struct ChannelBreakers {
    limits: BreakerLimits,
    channels_max: usize,
    // Ordered, so that a run can be repeated exactly.
    breakers: BTreeMap<u64, Breaker>,
    untracked: u64,
}

impl ChannelBreakers {
    /// All closed.
    pub fn new(limits: BreakerLimits, channels_max: usize) -> Self {
        Self { limits, channels_max, breakers: BTreeMap::new(), untracked: 0 }
    }

    /// Whether to ask a channel now.
    #[inline]
    pub fn allow(&mut self, channel: u64, now: Moment) -> Allow {
        self.breakers.get_mut(&channel).map_or(Allow::Yes, |breaker| breaker.allow(&self.limits, now))
    }

    /// It went well. Returns the new state if it has changed.
    pub fn on_success(&mut self, channel: u64) -> Option<BreakerState> {
        let breaker = self.breakers.get_mut(&channel)?;
        let changed = breaker.on_success(&self.limits);
        if breaker.is_blank() {
            self.breakers.remove(&channel);
        }
        changed
    }

    /// It failed. Returns the new state if it has changed. Where too many channels fail at once, the breaker of
    /// another one stays closed.
    pub fn on_failure(&mut self, channel: u64, now: Moment) -> Option<BreakerState> {
        if self.breakers.len() >= self.channels_max && !self.breakers.contains_key(&channel) {
            self.untracked += 1;
            return None;
        }
        self.breakers.entry(channel).or_default().on_failure(&self.limits, now)
    }

    /// Where the breaker of a channel stands.
    pub fn state(&self, channel: u64) -> BreakerState {
        self.breakers.get(&channel).map_or(BreakerState::Closed, Breaker::state)
    }

    /// Failures of channels for which there was no place, ever.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }
}
