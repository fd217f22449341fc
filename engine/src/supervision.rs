//! When a dead agent is started again, and when no longer: pure policy, one value per agent.
//!
//! | state \ event | `Start` | `Spawned` | `SpawnFailed` | `Died` | `Due` | `Stop` |
//! |---|---|---|---|---|---|---|
//! | `Idle` | `Starting`, spawn | – | – | – | – | `Stopped` |
//! | `Starting` | – | `Running` | back off or quarantine | back off or quarantine | – | `Stopped` |
//! | `Running` | – | – | – | back off or quarantine | – | `Stopped` |
//! | `BackingOff` | – | – | – | – | `Starting`, spawn | `Stopped` |
//! | `Quarantined` | – | – | – | – | `Starting`, spawn | `Stopped` |
//! | `Stopped` | – | – | – | – | – | – |
//!
//! `–` is an invalid transition and changes nothing. Deaths are counted in a sliding window: more than
//! [`Limits::deaths_max`] within [`Limits::window`] is a crash loop, and the agent is quarantined for
//! [`Limits::quarantine`], after which one more start is tried.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Moment;

/// How patient the supervisor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many deaths within the window are still restarted.
    pub deaths_max: usize,
    /// Length of the window.
    pub window: Duration,
    /// Delay before the second restart within a window; doubles with each further one.
    pub back_off_first: Duration,
    /// Longest delay.
    pub back_off_max: Duration,
    /// How long a crash-looping agent is left alone.
    pub quarantine: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deaths_max: 5,
            window: Duration::from_secs(10),
            back_off_first: Duration::from_millis(50),
            back_off_max: Duration::from_secs(30),
            quarantine: Duration::from_secs(30),
        }
    }
}

/// Where an agent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started yet.
    Idle,
    /// The keeper has been asked to spawn it.
    Starting,
    /// It runs.
    Running,
    /// It died and is started again at that moment.
    BackingOff {
        /// When.
        until: Moment,
    },
    /// It died too often; one more start is tried at that moment.
    Quarantined {
        /// When.
        until: Moment,
        /// What it died of last.
        reason: String,
    },
    /// It has been told to end.
    Stopped,
}

impl State {
    /// Its name, for people and pages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "created",
            Self::Starting => "initialising",
            Self::Running => "running",
            Self::BackingOff { .. } => "restarting",
            Self::Quarantined { .. } => "quarantined",
            Self::Stopped => "terminated",
        }
    }
}

/// What happened to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is wanted.
    Start,
    /// The keeper has spawned it.
    Spawned,
    /// The keeper could not spawn it, for this reason.
    SpawnFailed(String),
    /// It died, of this.
    Died(String),
    /// The moment that the state named has come.
    Due,
    /// It is not wanted any more.
    Stop,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the keeper to spawn it.
    Spawn,
    /// Send [`Event::Due`] at that moment; messages may wait.
    Wait(Moment),
    /// Send [`Event::Due`] at that moment; refuse messages until then.
    Refuse(Moment),
    /// Nothing.
    None,
}

/// An event that the state has no answer to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("agent in state {state} cannot take event {event:?}")]
pub struct InvalidTransition {
    /// The state's name.
    pub state: &'static str,
    /// The event.
    pub event: Event,
}

/// The supervisor of one agent.
#[derive(Clone, Debug)]
pub struct Supervisor {
    state: State,
    limits: Limits,
    /// Deaths within the window, oldest first; at most `deaths_max + 1`.
    deaths: VecDeque<Moment>,
    /// How often it has been started again.
    restarts: u64,
}

impl Supervisor {
    /// For an agent that has not been started.
    pub fn new(limits: Limits) -> Self {
        Self { state: State::Idle, limits, deaths: VecDeque::new(), restarts: 0 }
    }

    /// For an agent that runs already: its past is not known.
    pub fn running(limits: Limits) -> Self {
        Self { state: State::Running, ..Self::new(limits) }
    }

    /// Where the agent stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How often it has been started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Takes an event, moves on, and says what to do.
    pub fn on(&mut self, now: Moment, event: Event) -> Result<Action, InvalidTransition> {
        let (state, action) = match (&self.state, event) {
            (State::Stopped, event) => return self.invalid(event),
            (_, Event::Stop) => (State::Stopped, Action::None),
            (State::Idle, Event::Start) => (State::Starting, Action::Spawn),
            (State::Starting, Event::Spawned) => (State::Running, Action::None),
            (State::Starting, Event::SpawnFailed(reason) | Event::Died(reason))
            | (State::Running, Event::Died(reason)) => self.after_death(now, reason),
            (State::BackingOff { until } | State::Quarantined { until, .. }, Event::Due) if now >= *until => {
                self.restarts += 1;
                (State::Starting, Action::Spawn)
            }
            (_, event) => return self.invalid(event),
        };
        self.state = state;
        Ok(action)
    }

    fn invalid(&self, event: Event) -> Result<Action, InvalidTransition> {
        Err(InvalidTransition { state: self.state.name(), event })
    }

    /// Back off or quarantine, by how often it died lately.
    fn after_death(&mut self, now: Moment, reason: String) -> (State, Action) {
        while self.deaths.front().is_some_and(|&death| now.since(death) > self.limits.window) {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        if self.deaths.len() > self.limits.deaths_max {
            let until = now.plus(self.limits.quarantine);
            self.deaths.clear();
            return (State::Quarantined { until, reason }, Action::Refuse(until));
        }
        // The first death of a window is answered at once, the next ones ever later.
        let delay = match self.deaths.len() {
            0 | 1 => Duration::ZERO,
            deaths => {
                let doublings = u32::try_from(deaths - 2).unwrap_or(u32::MAX).min(20);
                self.limits.back_off_first.saturating_mul(1 << doublings).min(self.limits.back_off_max)
            }
        };
        let until = now.plus(delay);
        (State::BackingOff { until }, Action::Wait(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    fn died() -> Event {
        Event::Died("signal 9".into())
    }

    fn running() -> Supervisor {
        let mut supervisor = Supervisor::new(Limits::default());
        assert_eq!(supervisor.on(at(0), Event::Start), Ok(Action::Spawn));
        assert_eq!(supervisor.on(at(1), Event::Spawned), Ok(Action::None));
        supervisor
    }

    fn restart(supervisor: &mut Supervisor, moment: Moment) {
        assert_eq!(supervisor.on(moment, Event::Due), Ok(Action::Spawn));
        assert_eq!(supervisor.on(moment, Event::Spawned), Ok(Action::None));
    }

    /// The first death is answered at once, later ones of the window with doubled delays, and one too
    /// many with quarantine that names the last cause; after it one more start is tried.
    #[test]
    fn deaths_back_off_and_quarantine() {
        let mut supervisor = running();
        for delay in [0, 50, 100, 200, 400] {
            let until = at(1000 + delay);
            assert_eq!(supervisor.on(at(1000), died()), Ok(Action::Wait(until)), "{delay}");
            restart(&mut supervisor, until);
        }
        let until = at(31_000);
        assert_eq!(supervisor.on(at(1000), died()), Ok(Action::Refuse(until)));
        assert_eq!(supervisor.state(), &State::Quarantined { until, reason: "signal 9".into() });
        assert_eq!(supervisor.restarts(), 5);
        assert!(supervisor.on(at(30_999), Event::Due).is_err(), "too early");
        restart(&mut supervisor, until);
    }

    /// Deaths further apart than the window never add up.
    #[test]
    fn rare_deaths_are_forgiven() {
        let mut supervisor = running();
        for round in 1..50 {
            let moment = at(round * 10_001);
            assert_eq!(supervisor.on(moment, died()), Ok(Action::Wait(moment)));
            restart(&mut supervisor, moment);
        }
    }

    /// The whole matrix of the module: an event with no answer is refused and changes nothing.
    #[test]
    fn every_transition_is_in_the_matrix() {
        let states = [
            (State::Idle, vec!["Start", "Stop"]),
            (State::Starting, vec!["Spawned", "SpawnFailed", "Died", "Stop"]),
            (State::Running, vec!["Died", "Stop"]),
            (State::BackingOff { until: at(0) }, vec!["Due", "Stop"]),
            (State::Quarantined { until: at(0), reason: String::new() }, vec!["Due", "Stop"]),
            (State::Stopped, vec![]),
        ];
        let events = [
            ("Start", Event::Start),
            ("Spawned", Event::Spawned),
            ("SpawnFailed", Event::SpawnFailed("no such file".into())),
            ("Died", died()),
            ("Due", Event::Due),
            ("Stop", Event::Stop),
        ];
        for (state, allowed) in states {
            for (name, event) in &events {
                let mut supervisor = Supervisor { state: state.clone(), ..running() };
                let valid = supervisor.on(at(5), event.clone()).is_ok();
                assert_eq!(valid, allowed.contains(name), "{state:?} {name}");
                if !valid {
                    assert_eq!(supervisor.state(), &state);
                }
            }
        }
    }
}
