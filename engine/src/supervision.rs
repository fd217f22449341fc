//! The life of an agent: when it is started, drained and started again, and when no longer. Pure policy.
//!
//! | module | decides |
//! |---|---|
//! | this one | the life cycle of one agent |
//! | [`intensity`] | how many ends within a window are too many |
//! | [`fleet`] | how fast all agents together may be started again |
//! | [`pool`] | how many members of a pool run |
//! | [`conversations`] | the same, where each serves one session |
//! | [`sickness`] | whether an agent that runs does its work |
//!
//! # Life cycle
//!
//! | state \ event | `Start` | `Spawned` | `SpawnFailed` | `Ended` | `Due` | `Restart` | `Rest` | `Drain` | `Quarantine` | `Release` | `Stop` |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | `Created` | initialising | – | – | – | – | initialising | – | terminated | quarantined | – | terminated |
//! | `Initialising` | – | running | by policy | by policy | – | draining | draining | draining | draining | – | terminated |
//! | `Running` | – | – | – | by policy | – | draining | draining | draining | draining | – | terminated |
//! | `Draining` | – | draining | by purpose | by purpose | draining | draining | – | draining | draining | draining | terminated |
//! | `BackingOff` | – | – | – | – | initialising | initialising | – | terminated | quarantined | – | terminated |
//! | `Quarantined` | – | – | – | – | initialising | – | created | – | quarantined | initialising | terminated |
//! | `Terminated` | initialising | – | – | – | – | initialising | created | – | quarantined | initialising | – |
//!
//! `–` is an invalid transition and changes nothing.
//!
//! * *By policy*: [`RestartPolicy`] says whether an end is answered with a start. If so, the agent backs off; with more
//!   than [`Limits::restarts_max`] ends within [`Limits::window`] it is quarantined for [`Limits::quarantine`], after
//!   which one more start is tried. If not, it is terminated.
//! * *By purpose*: what a drain is for says what follows it. Restart: initialising. Rest, for a member that its pool does
//!   not need: created. Drain: terminated. Quarantine: quarantined, until it is released.
//! * A drain has steps: the agent gets no new turns; at [`Event::Due`] it is told to finish although it still has some;
//!   at the next it is killed. An agent whose turns have ended is told to finish by its shard.

pub mod conversations;
pub mod fleet;
pub mod intensity;
pub mod pool;
pub mod sickness;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::time::Moment;
use intensity::{Ends, Verdict};

pub use intensity::Limits;

/// Which ends are answered with a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// All.
    #[default]
    Permanent,
    /// Those that are failures: anything but exit status 0.
    Transient,
    /// None.
    Temporary,
}

impl RestartPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Permanent, Self::Transient, Self::Temporary];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Temporary => "temporary",
        }
    }

    fn restarts(self, normal: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !normal,
            Self::Temporary => false,
        }
    }
}

/// What a drain is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To start the agent anew.
    Restart,
    /// Its pool does not need it.
    Rest,
    /// An operator wants it ended.
    Drain,
    /// An operator wants it left alone, for this reason.
    Quarantine(String),
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its turns may end by themselves.
    Finishing,
    /// It has been told to finish.
    Stopping,
    /// It has been killed.
    Killed,
}

/// Where an agent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started yet, or not needed by its pool.
    Created,
    /// The keeper has been asked to spawn it.
    Initialising,
    /// It runs.
    Running,
    /// It gets no new turns, and ends.
    Draining {
        /// What follows.
        purpose: Purpose,
        /// How far that is.
        step: Step,
        /// When the next step is due.
        until: Moment,
    },
    /// It ended and is started again at that moment.
    BackingOff {
        /// When.
        until: Moment,
    },
    /// It is left alone.
    Quarantined {
        /// When one more start is tried; none if only a release ends it.
        until: Option<Moment>,
        /// Why.
        reason: String,
    },
    /// It has ended for good, unless somebody asks for it.
    Terminated {
        /// Why.
        cause: String,
    },
}

impl State {
    /// The names of all, in the order of the matrix.
    pub const NAMES: [&str; 7] =
        ["created", "initialising", "running", "draining", "backing-off", "quarantined", "terminated"];

    /// Its name, for people and pages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Initialising => "initialising",
            Self::Running => "running",
            Self::Draining { .. } => "draining",
            Self::BackingOff { .. } => "backing-off",
            Self::Quarantined { .. } => "quarantined",
            Self::Terminated { .. } => "terminated",
        }
    }

    /// Whether messages may be given to the agent, now or soon.
    pub fn takes_messages(&self) -> bool {
        matches!(self, Self::Initialising | Self::Running | Self::BackingOff { .. })
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
    /// Its process has ended.
    Ended {
        /// Of what.
        cause: String,
        /// Whether that is no failure.
        normal: bool,
    },
    /// The moment that the state named has come.
    Due,
    /// It is to be started anew.
    Restart,
    /// Its pool does not need it.
    Rest,
    /// It is to end.
    Drain,
    /// It is to be left alone, for this reason.
    Quarantine(String),
    /// It is wanted again.
    Release,
    /// The gateway ends.
    Stop,
}

impl Event {
    /// The names of all, in the order of the matrix.
    pub const NAMES: [&str; 11] = [
        "Start",
        "Spawned",
        "SpawnFailed",
        "Ended",
        "Due",
        "Restart",
        "Rest",
        "Drain",
        "Quarantine",
        "Release",
        "Stop",
    ];

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Spawned => "Spawned",
            Self::SpawnFailed(_) => "SpawnFailed",
            Self::Ended { .. } => "Ended",
            Self::Due => "Due",
            Self::Restart => "Restart",
            Self::Rest => "Rest",
            Self::Drain => "Drain",
            Self::Quarantine(_) => "Quarantine",
            Self::Release => "Release",
            Self::Stop => "Stop",
        }
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the keeper to spawn it.
    Spawn,
    /// Send [`Event::Due`] at that moment; messages may wait.
    Wait(Moment),
    /// Send [`Event::Due`] at that moment, if there is one; refuse messages until then.
    Refuse(Option<Moment>),
    /// Give it nothing more; send [`Event::Due`] at that moment.
    Drain(Moment),
    /// Tell it to finish; send [`Event::Due`] at that moment.
    Finish(Moment),
    /// Kill it.
    Kill,
    /// It does not run; others of its pool take its messages, or they wait.
    Away,
    /// Nothing.
    None,
}

/// An event that the state has no answer to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent that is {state} cannot take {}", event.name())]
pub struct InvalidTransition {
    /// The state's name.
    pub state: &'static str,
    /// The event.
    pub event: Event,
}

/// What is configured of an agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Patience {
    /// Which ends are answered with a start.
    pub policy: RestartPolicy,
    /// How many of them.
    pub limits: Limits,
    /// How long its turns may take to end when it is drained.
    pub drain: Duration,
}

/// The supervisor of one agent.
#[derive(Clone, Debug)]
pub struct Supervisor {
    state: State,
    patience: Patience,
    ends: Ends,
    /// How often it has been started again.
    restarts: u64,
}

impl Supervisor {
    /// For an agent that has not been started.
    pub fn new(patience: Patience) -> Self {
        Self { state: State::Created, patience, ends: Ends::default(), restarts: 0 }
    }

    /// From now on it is as patient as that.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// For an agent that runs already: its past is not known.
    pub fn running(patience: Patience) -> Self {
        Self { state: State::Running, ..Self::new(patience) }
    }

    /// Where the agent stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How often it has been started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The start that was due at `due` is put off to `until`, for the sake of others.
    pub fn postpone(&mut self, due: Moment, until: Moment) {
        match &mut self.state {
            State::BackingOff { until: moment } => *moment = until,
            State::Quarantined { until: Some(moment), .. } => *moment = until,
            _ => return,
        }
        self.ends.postponed(until.since(due));
    }

    /// Takes an event, moves on, and says what to do.
    pub fn on(&mut self, now: Moment, event: Event) -> Result<Action, InvalidTransition> {
        let again = || (State::Initialising, Action::Spawn);
        let (state, action) = match (&self.state, event) {
            (State::Terminated { .. }, event @ Event::Stop) => return self.invalid(event),
            (_, Event::Stop) => (terminated("the gateway ends"), Action::None),
            (State::Created | State::Terminated { .. }, Event::Start) => again(),
            (State::Initialising, Event::Spawned) => (State::Running, Action::None),
            (State::Initialising, Event::SpawnFailed(cause)) => self.by_policy(now, &cause, false),
            (State::Initialising | State::Running, Event::Ended { cause, normal }) => {
                self.by_policy(now, &cause, normal)
            }
            (State::Draining { purpose, .. }, Event::SpawnFailed(_) | Event::Ended { .. }) => {
                after_drain(purpose)
            }
            // It was drained before it was there: what the shards know of the drain is said again.
            (draining @ State::Draining { until, .. }, Event::Spawned) => {
                (draining.clone(), Action::Drain(*until))
            }
            (State::Draining { purpose, step, until }, Event::Due) if now >= *until => {
                self.next_step(now, purpose.clone(), *step)
            }
            (State::Draining { step, until, .. }, event) => {
                let purpose = match &event {
                    // Wanted again before it has ended: it comes back.
                    Event::Release => Purpose::Restart,
                    // Whoever drains it has more to say than its pool.
                    Event::Rest => return self.invalid(event),
                    other => match purpose_of(other) {
                        Some(purpose) => purpose,
                        None => return self.invalid(event),
                    },
                };
                (State::Draining { purpose, step: *step, until: *until }, Action::Drain(*until))
            }
            (State::BackingOff { until } | State::Quarantined { until: Some(until), .. }, Event::Due)
                if now >= *until =>
            {
                again()
            }
            (State::Created | State::BackingOff { .. } | State::Terminated { .. }, Event::Restart)
            | (State::Quarantined { .. } | State::Terminated { .. }, Event::Release) => {
                self.ends.forget();
                again()
            }
            (State::Created | State::BackingOff { .. }, Event::Drain) => (terminated(DRAINED), Action::Away),
            (State::Quarantined { .. } | State::Terminated { .. }, Event::Rest) => {
                (State::Created, Action::Away)
            }
            (State::Initialising | State::Running, event) => match purpose_of(&event) {
                None => return self.invalid(event),
                Some(purpose) => {
                    let until = now.plus(self.patience.drain);
                    (State::Draining { purpose, step: Step::Finishing, until }, Action::Drain(until))
                }
            },
            (_, Event::Quarantine(reason)) => {
                (State::Quarantined { until: None, reason }, Action::Refuse(None))
            }
            (_, event) => return self.invalid(event),
        };
        if action == Action::Spawn && self.state != State::Created {
            self.restarts += 1;
        }
        self.state = state;
        Ok(action)
    }

    fn invalid(&self, event: Event) -> Result<Action, InvalidTransition> {
        Err(InvalidTransition { state: self.state.name(), event })
    }

    fn by_policy(&mut self, now: Moment, cause: &str, normal: bool) -> (State, Action) {
        if !self.patience.policy.restarts(normal) {
            let policy = self.patience.policy.name();
            let cause = format!("it ended with {cause} and is {policy}, so it is not started again");
            return (State::Terminated { cause }, Action::Refuse(None));
        }
        match self.ends.note(now, &self.patience.limits) {
            Verdict::Restart(delay) => {
                let until = now.plus(delay);
                (State::BackingOff { until }, Action::Wait(until))
            }
            Verdict::TooOften => {
                let until = Some(now.plus(self.patience.limits.quarantine));
                let reason = format!("it ended again and again, last with {cause}");
                (State::Quarantined { until, reason }, Action::Refuse(until))
            }
        }
    }

    fn next_step(&self, now: Moment, purpose: Purpose, step: Step) -> (State, Action) {
        let until = now.plus(self.patience.limits.stop_grace);
        let (step, action) = match step {
            Step::Finishing => (Step::Stopping, Action::Finish(until)),
            Step::Stopping | Step::Killed => (Step::Killed, Action::Kill),
        };
        (State::Draining { purpose, step, until }, action)
    }
}

/// The cause of an end that was asked for.
const DRAINED: &str = "it has been drained";

fn terminated(cause: &str) -> State {
    State::Terminated { cause: cause.to_owned() }
}

fn after_drain(purpose: &Purpose) -> (State, Action) {
    match purpose {
        Purpose::Restart => (State::Initialising, Action::Spawn),
        Purpose::Rest => (State::Created, Action::Away),
        Purpose::Drain => (terminated(DRAINED), Action::Away),
        Purpose::Quarantine(reason) => {
            (State::Quarantined { until: None, reason: reason.clone() }, Action::Refuse(None))
        }
    }
}

/// What an agent that runs is drained for.
fn purpose_of(event: &Event) -> Option<Purpose> {
    match event {
        Event::Restart => Some(Purpose::Restart),
        Event::Rest => Some(Purpose::Rest),
        Event::Drain => Some(Purpose::Drain),
        Event::Quarantine(reason) => Some(Purpose::Quarantine(reason.clone())),
        _ => None,
    }
}
