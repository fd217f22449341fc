//! Restarts of pools: one member after the other, each when the one before it is ready.

use std::collections::VecDeque;
use std::time::Duration;

use engine::supervision::{Event, State};
use engine::time::Moment;

use super::Parts;
use super::agents::Agents;

/// How long a member has to run before the next one is started anew: its host says hello before its command has shown
/// that it works.
const PROBATION: Duration = Duration::from_secs(1);

/// A restart of a pool under way.
#[derive(Debug)]
pub(super) struct Rolling {
    /// The member that is being started anew.
    pub(super) current: usize,
    /// Those that come after it.
    pub(super) waiting: VecDeque<usize>,
}

/// How the member that is being started anew does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Ready,
    Underway,
    Failed,
}

impl Agents {
    /// Goes on with restarts whose member is ready. One whose member fails ends: the others keep what they run.
    pub(super) fn roll(&mut self, parts: &mut Parts) {
        let mut rolling = std::mem::take(&mut self.rolling);
        rolling.retain_mut(|rolling| self.goes_on(parts, rolling));
        self.rolling.append(&mut rolling);
    }

    fn goes_on(&mut self, parts: &mut Parts, rolling: &mut Rolling) -> bool {
        loop {
            match self.progress(parts.clock.now(), rolling.current) {
                Progress::Underway => return true,
                Progress::Failed => {
                    let agent = &self.agents[rolling.current].config;
                    let left = rolling.waiting.len();
                    if left > 0 {
                        let (pool, agent) = (&agent.pool, &agent.name);
                        tracing::error!(
                            pool,
                            agent,
                            left,
                            "the restart of the pool ends: this member does not run"
                        );
                    }
                    return false;
                }
                Progress::Ready => {
                    let Some(next) = rolling.waiting.pop_front() else { return false };
                    // One that cannot be started anew by now, such as one in quarantine, is passed over.
                    if self.try_on(parts, next, Event::Restart).is_ok() {
                        rolling.current = next;
                    }
                }
            }
        }
    }

    fn progress(&self, now: Moment, index: usize) -> Progress {
        let agent = &self.agents[index];
        match agent.supervisor.state() {
            State::Running if self.proven_at(index).is_some_and(|proven| proven <= now) => Progress::Ready,
            State::Running | State::Initialising | State::Draining { .. } => Progress::Underway,
            State::Created
            | State::BackingOff { .. }
            | State::Quarantined { .. }
            | State::Terminated { .. } => Progress::Failed,
        }
    }

    /// When an agent that runs and has said hello has done so for long enough.
    fn proven_at(&self, index: usize) -> Option<Moment> {
        let agent = &self.agents[index];
        let runs = agent.ready && *agent.supervisor.state() == State::Running;
        agent.process.filter(|_| runs).map(|(_, since)| since.plus(PROBATION))
    }

    /// When restarts want to go on.
    pub(super) fn next_roll(&self) -> Option<Moment> {
        self.rolling.iter().filter_map(|rolling| self.proven_at(rolling.current)).min()
    }

    /// Whether a restart is under way with an agent, or will come to it.
    pub(super) fn restart_pending(&self, index: usize) -> bool {
        self.rolling.iter().any(|rolling| rolling.current == index || rolling.waiting.contains(&index))
    }
}
