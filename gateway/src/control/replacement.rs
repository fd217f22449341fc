//! A keeper that dies or hangs is replaced: its agents go on, and the gateway serves as before.
//!
//! This process holds what the keeper holds of each agent ([`super::held`]). It starts the next keeper and hands that
//! over. What is not handed over, agents that were just being started among it, the new keeper kills; here they
//! count as dead. Nothing is said to the shards: rings, positions and turns are what they were.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::client::{self, Client, ClientError};
use keeper::control::{Exit, Request, Usage};

use super::agents::Agents;
use super::beats::KeeperBeats;
use super::{Control, ControlError, Parts, watch_keeper};
use crate::control::adoption::CLIENTS;

/// The most keepers that are replaced within [`WINDOW`]; then the gateway ends.
pub const DEATHS_MAX: usize = 10;
/// See [`DEATHS_MAX`].
pub const WINDOW: Duration = Duration::from_secs(60);
/// How often it is looked for what dead agents have left to this process.
const REAP_TICK: Duration = Duration::from_secs(1);
/// How long the process of a keeper whose connection has ended may take to die.
const DEATH_PATIENCE: Duration = Duration::from_secs(2);

/// The keeper's program, which lies beside that of the gateway.
pub fn keeper_program(executable: &Path) -> PathBuf {
    executable.with_file_name(client::PROGRAM)
}

/// The deaths of keepers of late, oldest first.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    at: VecDeque<Instant>,
    /// When strays were looked for last.
    reaped_at: Option<Instant>,
}

impl Deaths {
    /// One more. `false`: that is one too many.
    fn note(&mut self, now: Instant) -> bool {
        while self.at.front().is_some_and(|&at| now.saturating_duration_since(at) > WINDOW) {
            self.at.pop_front();
        }
        self.at.push_back(now);
        self.at.len() <= DEATHS_MAX
    }

    /// Whether it is time to look for children: without a death there are none but the keeper.
    fn may_have_left_strays(&mut self, now: Instant, at_once: bool) -> bool {
        let is_due =
            at_once || self.reaped_at.is_none_or(|at| now.saturating_duration_since(at) >= REAP_TICK);
        let looks = !self.at.is_empty() && is_due;
        if looks {
            self.reaped_at = Some(now);
        }
        looks
    }
}

impl Control {
    /// Reaps what agents have left to this process since a keeper died; not more often than it makes sense, unless `now`.
    pub(super) fn reap_strays(&mut self, now: bool) {
        if self.keeper_deaths.may_have_left_strays(Instant::now(), now) {
            self.parts.held.reap_strays(self.parts.keeper.process_id());
        }
    }

    /// Ends the keeper, if it lives, and has another one.
    fn next_keeper(&mut self, gone: ClientError, began: Instant) -> Result<Client, ControlError> {
        let Parts { keeper: before, executable, state, open_files, .. } = &mut self.parts;
        let socket = state.keeper_socket();
        // There is one keeper at a time; what lives of this one is of no use. One of root lives on until its standby ends it.
        before.kill();
        let process_id = before.process_id();
        if self.config.user.is_some() {
            // One that this process starts would be of that user, and could not reach what root's keeper has started.
            let Some(next) = before.wake_standby(&socket) else {
                return Err(ControlError::KeeperOfRoot(gone));
            };
            let next = next.map_err(ControlError::KeeperStart)?;
            // It may be a child of this process, to be reaped.
            before.wait_until(began + DEATH_PATIENCE);
            tracing::error!(process_id, "the keeper is dead; its standby takes its agents over");
            return Ok(next);
        }
        if !before.wait_until(began + DEATH_PATIENCE) {
            return Err(ControlError::KeeperGone(gone));
        }
        tracing::error!(process_id, "the keeper is dead; another one takes its agents over");
        let next = Client::start_successor(&keeper_program(executable), &socket, *open_files);
        next.map_err(ControlError::KeeperStart)
    }

    /// Has the keeper keep a standby, where this process could not start another keeper.
    pub(super) fn mind_standby(&mut self) {
        if self.config.user.is_none() || !self.parts.keeper.lacks_standby() {
            return;
        }
        if !self.standbys.note(Instant::now()) {
            return;
        }
        if let Err(error) = self.parts.keeper.keep_standby() {
            tracing::warn!(%error, "there is no standby: the gateway ends if its keeper does");
        }
    }

    /// The connection to the keeper has ended, or it hangs ([`super::beats`]).
    pub(super) fn replace_keeper(&mut self, gone: ClientError) -> Result<(), ControlError> {
        let began = Instant::now();
        // What it has said before it died: the news of its death may come first.
        while let Ok(Some((event, descriptors))) = self.parts.keeper.receive() {
            self.heard_from_keeper(event, descriptors);
        }
        if !self.keeper_deaths.note(began) {
            return Err(ControlError::KeepersDie);
        }
        self.parts.keeper = self.next_keeper(gone, began)?;
        self.keeper_ready = watch_keeper(self.parts.keeper.as_fd()).map_err(ControlError::Start)?;
        self.keeper_beats = KeeperBeats::new(Instant::now());
        let count = hand_over(&mut self.parts).map_err(ControlError::KeeperGone)?;
        self.agents.lose_others(&mut self.parts);
        self.agents.lose_skills(&mut self.parts);
        self.mind_standby();
        tracing::warn!(
            process_id = self.parts.keeper.process_id(),
            agents = count,
            took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "the next keeper is there"
        );
        Ok(())
    }
}

/// Gives a new keeper all that the one before had. Returns the number of agents.
fn hand_over(parts: &mut Parts) -> Result<usize, ClientError> {
    let Parts { keeper, held, shown, clients, address_configured, succession, .. } = parts;
    let mut count = 0;
    for (about, descriptors) in held.all() {
        keeper.adopt(about.clone(), descriptors)?;
        count += 1;
    }
    keeper.send(&Request::Adopted)?;
    for (instance, signal) in held.signals() {
        keeper.send(&Request::Kill { instance, signal })?;
    }
    keeper.hold(CLIENTS, address_configured, clients.as_fd())?;
    for (name, halves) in shown {
        keeper.show(name, halves.each_ref().map(AsFd::as_fd))?;
    }
    keeper.send(&succession.keep())?;
    Ok(count)
}

impl Agents {
    /// Those that were not handed over are dead, or will be.
    fn lose_others(&mut self, parts: &mut Parts) {
        let known = self.by_instance.keys().copied().chain(self.leaving.instances());
        let lost: Vec<_> = known.filter(|instance| !parts.held.has(instance.0)).collect();
        for instance in lost {
            let runs = self.by_instance.get(&instance).is_none_or(|&index| {
                let agent = &self.agents[index];
                agent.current != Some(instance) || agent.process.is_some()
            });
            if runs {
                self.died(parts, instance.0, Exit::Unknown, None, Usage::default());
            } else {
                self.spawn_failed(parts, instance.0, "its keeper died while it was being started".into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of the limit; deaths that are longer ago than the window do not count.
    #[test]
    fn keepers_are_replaced_so_often() {
        let (mut deaths, now) = (Deaths::default(), Instant::now());
        assert!(!deaths.may_have_left_strays(now, false));
        for _ in 0..DEATHS_MAX {
            assert!(deaths.note(now));
        }
        assert!(!deaths.note(now + WINDOW));
        assert!(deaths.may_have_left_strays(now, false));
        assert!(!deaths.may_have_left_strays(now + REAP_TICK / 2, false));
        assert!(deaths.may_have_left_strays(now + REAP_TICK, false));
        assert!(deaths.note(now + WINDOW + Duration::from_millis(1)));
    }
}
