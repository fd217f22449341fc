//! Whether an agent that runs does its work: how many of its turns fail, and how long they take, window by window.
//!
//! Passive: it only looks at turns that were given anyway. A window with fewer than [`OUTCOMES_MIN`] turns says nothing,
//! neither for nor against; of one that is sick a single turn is enough, since its breaker lets few through. The first bad window is told; so many in a row as configured call for a restart; a good one
//! ends it.

use std::time::Duration;

use crate::time::Moment;

/// Fewer turns of a window say nothing.
pub const OUTCOMES_MIN: u64 = 8;

/// What is sick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SicknessLimits {
    /// So many percent of failed turns.
    pub error_percent: u64,
    /// Turns that take longer than this on average; zero if that does not count.
    pub latency_max: Duration,
    /// Length of a window.
    pub window: Duration,
    /// So many bad windows in a row call for a restart; 0 if none do.
    pub windows: u32,
}

impl Default for SicknessLimits {
    fn default() -> Self {
        Self { error_percent: 50, latency_max: Duration::ZERO, window: Duration::from_secs(10), windows: 0 }
    }
}

/// What an incarnation has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Turns it has answered.
    pub answered: u64,
    /// Turns it has failed.
    pub failed: u64,
    /// How long all of them were in its hands, together.
    pub busy: Duration,
}

/// What a window has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It has become sick, for this reason.
    Sick(String),
    /// It has been sick for so long that it should be started anew.
    Restart(String),
    /// It is well again.
    Well,
}

/// Watches one agent.
#[derive(Clone, Debug, Default)]
pub struct Sickness {
    /// When the window began, and what had been done by then.
    begun: Option<(Moment, Outcomes)>,
    /// Bad windows in a row.
    bad: u32,
    reason: Option<String>,
}

impl Sickness {
    /// Why it is sick, if it is.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Another incarnation, which has done nothing so far.
    pub fn begin(&mut self, now: Moment) {
        *self = Self { begun: Some((now, Outcomes::default())), ..Self::default() };
    }

    /// Takes what has been done up to now; looks at it when the window ends.
    pub fn observe(&mut self, now: Moment, outcomes: Outcomes, limits: &SicknessLimits) -> Option<Finding> {
        let Some((begun, before)) = self.begun else {
            self.begun = Some((now, outcomes));
            return None;
        };
        if now.since(begun) < limits.window {
            return None;
        }
        self.begun = Some((now, outcomes));
        let answered = outcomes.answered.saturating_sub(before.answered);
        let failed = outcomes.failed.saturating_sub(before.failed);
        let count = answered + failed;
        if count < if self.reason.is_some() { 1 } else { OUTCOMES_MIN } {
            return None;
        }
        let busy = outcomes.busy.saturating_sub(before.busy);
        let mean = busy / u32::try_from(count).unwrap_or(u32::MAX);
        let reason = if failed * 100 >= count * limits.error_percent {
            format!("{failed} of {count} messages failed within {} s", limits.window.as_secs())
        } else if !limits.latency_max.is_zero() && mean > limits.latency_max {
            format!("messages took {} ms on average", mean.as_millis())
        } else {
            self.bad = 0;
            return self.reason.take().map(|_| Finding::Well);
        };
        self.bad += 1;
        let new = self.reason.replace(reason.clone()).is_none();
        if limits.windows > 0 && self.bad >= limits.windows {
            self.bad = 0;
            return Some(Finding::Restart(reason));
        }
        new.then_some(Finding::Sick(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SicknessLimits = SicknessLimits {
        error_percent: 50,
        latency_max: Duration::from_millis(100),
        window: Duration::from_secs(10),
        windows: 3,
    };

    /// What the windows of an agent show that answers, fails, and takes so many milliseconds for each, window by window.
    fn findings(limits: &SicknessLimits, windows: &[(u64, u64, u64)]) -> Vec<Option<Finding>> {
        let mut sickness = Sickness::default();
        let mut all = Outcomes::default();
        assert_eq!(sickness.observe(Moment::ZERO, all, limits), None);
        let ends = (1u64..).map(|number| Moment::after_start(limits.window * u32::try_from(number).unwrap()));
        windows
            .iter()
            .zip(ends)
            .map(|(&(answered, failed, millis), end)| {
                all.answered += answered;
                all.failed += failed;
                all.busy += Duration::from_millis(millis * (answered + failed));
                sickness.observe(end, all, limits)
            })
            .collect()
    }

    fn failed(count: u64, of: u64) -> String {
        format!("{count} of {of} messages failed within 10 s")
    }

    /// Both sides of each limit: how many turns say something, how many of them fail, how long they take.
    #[test]
    fn windows_are_judged() {
        let check = |window, expected: Option<Finding>| {
            assert_eq!(findings(&LIMITS, &[window]), [expected], "{window:?}");
        };
        check((0, 7, 0), None);
        check((4, 4, 0), Some(Finding::Sick(failed(4, 8))));
        check((5, 4, 0), None);
        check((8, 0, 100), None);
        check((8, 0, 101), Some(Finding::Sick("messages took 101 ms on average".into())));
        assert_eq!(
            findings(&SicknessLimits { latency_max: Duration::ZERO, ..LIMITS }, &[(8, 0, 9999)]),
            [None]
        );
    }

    /// Sickness is told once, calls for a restart in the third bad window, and ends with a good one; a window that says
    /// nothing changes nothing.
    #[test]
    fn sickness_has_a_course() {
        let (good, bad, idle) = ((8, 0, 0), (0, 8, 0), (0, 0, 0));
        let reason = failed(8, 8);
        let (sick, restart) = (Some(Finding::Sick(reason.clone())), Some(Finding::Restart(reason)));
        assert_eq!(
            findings(&LIMITS, &[bad, idle, bad, good, good, bad, bad, bad, bad]),
            [sick.clone(), None, None, Some(Finding::Well), None, sick.clone(), None, restart, None]
        );
        let probed = findings(&LIMITS, &[(0, 1, 0), bad, (0, 1, 0), (1, 0, 0)]);
        assert_eq!(probed, [None, sick.clone(), None, Some(Finding::Well)]);
        let never = SicknessLimits { windows: 0, ..LIMITS };
        assert_eq!(findings(&never, &[bad, bad, bad, bad]), [sick, None, None, None]);
    }

    /// Before its window ends nothing is judged, and another incarnation begins anew.
    #[test]
    fn windows_have_a_length() {
        let mut sickness = Sickness::default();
        let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let bad = Outcomes { failed: 100, ..Outcomes::default() };
        assert_eq!(sickness.observe(at(0), Outcomes::default(), &LIMITS), None);
        assert_eq!(sickness.observe(at(9), bad, &LIMITS), None);
        assert_eq!(sickness.observe(at(10), bad, &LIMITS), Some(Finding::Sick(failed(100, 100))));
        assert!(sickness.reason().is_some());
        sickness.begin(at(20));
        assert_eq!(sickness.reason(), None);
        assert_eq!(sickness.observe(at(29), bad, &LIMITS), None);
        assert_eq!(sickness.observe(at(30), bad, &LIMITS), Some(Finding::Sick(failed(100, 100))));
    }
}
