//! What a supervisor decides becomes words to the keeper, to the shards, and to those who watch.

use std::time::Duration;

use engine::events::Detail;
use engine::registry::Status;
use engine::shard::AgentWord;
use engine::supervision::{Action, Purpose, State};
use engine::time::Moment;

use super::Parts;
use super::agents::{Agents, NOT_NEEDED, agent_index, kill, tell_all};

impl Agents {
    /// Does what a supervisor has decided.
    pub(super) fn act(&mut self, parts: &mut Parts, index: usize, action: Action) {
        let others = self.others(index);
        let agent = &mut self.agents[index];
        agent.due = match action {
            Action::Wait(until) | Action::Drain(until) | Action::Finish(until) => Some(until),
            Action::Refuse(until) => until,
            Action::Spawn | Action::Kill | Action::Away | Action::None => None,
        };
        match action {
            Action::Spawn => {
                agent.holds = false;
                tell_all(parts, index, &AgentWord::Expected);
                self.spawn(parts, index);
                self.take_what_others_hold(parts, index);
            }
            Action::Wait(until) => {
                let log = parts.state.agent_log(&agent.config.name);
                let delay_ms = until.since(parts.clock.now()).as_millis();
                let (agent, cause) = (&agent.config.name, &agent.cause);
                tracing::warn!(agent, cause, delay_ms, log = %log.display(), "agent ended; it is started again");
            }
            Action::Refuse(until) => {
                let detail =
                    refusal(agent.supervisor.state(), until.map(|until| until.since(parts.clock.now())));
                let name = &agent.config.name;
                let log = parts.state.agent_log(name);
                if until.is_some() {
                    tracing::error!(agent = name, log = %log.display(), "messages for the agent are refused: {detail}");
                } else {
                    tracing::info!(agent = name, "messages for the agent are refused: {detail}");
                }
                tell_all(parts, index, &AgentWord::Unavailable(detail));
                self.vacate(index);
            }
            Action::Drain(_) => {
                let name = &agent.config.name;
                tracing::info!(agent = name, "agent is drained: it gets no new messages");
                let others = match agent.supervisor.state() {
                    State::Draining { purpose: Purpose::Quarantine(reason), .. } => {
                        Some(format!("it is quarantined: {reason}"))
                    }
                    _ => others.then(|| "it is being drained".to_owned()),
                };
                agent.holds = others.is_none();
                tell_all(parts, index, &AgentWord::Drain { others });
            }
            Action::Finish(_) => {
                let name = &agent.config.name;
                tracing::warn!(
                    agent = name,
                    "agent still works on messages: it is told to finish all the same"
                );
                tell_all(parts, index, &AgentWord::Finish);
            }
            Action::Kill => {
                if let Some(instance) = agent.current {
                    tracing::warn!(agent = agent.config.name, "agent does not end: it is killed");
                    kill(parts, instance);
                }
            }
            Action::Away => self.away(parts, index, others),
            Action::None => {}
        }
    }

    /// An agent does not run, and its pool does not start it now. `others`: some take its messages.
    fn away(&mut self, parts: &Parts, index: usize, others: bool) {
        let serves_one = self.serves_one(index);
        let agent = &mut self.agents[index];
        let word = match agent.supervisor.state() {
            State::Created if serves_one => AgentWord::Rests,
            state if serves_one => AgentWord::Unavailable(refusal(state, None)),
            _ if others => AgentWord::Drain { others: Some(NOT_NEEDED.into()) },
            // Messages wait for whoever is started next.
            _ => return agent.holds = true,
        };
        agent.holds = false;
        tell_all(parts, index, &word);
        self.vacate(index);
    }

    /// Messages that wait for members of the pool that do not run go to one that is started.
    fn take_what_others_hold(&mut self, parts: &Parts, index: usize) {
        for &other in self.pools.members_of(index) {
            let agent = &mut self.agents[other];
            if other != index
                && !agent.supervisor.state().takes_messages()
                && std::mem::take(&mut agent.holds)
            {
                tell_all(parts, other, &AgentWord::Drain { others: Some(NOT_NEEDED.into()) });
            }
        }
    }

    /// Whether another member of its pool takes messages. Where each serves one conversation any of them is started.
    fn others(&self, index: usize) -> bool {
        if self.serves_one(index) {
            return true;
        }
        let pool = self.pools.members_of(index).iter();
        pool.filter(|&&other| other != index)
            .any(|&other| self.agents[other].supervisor.state().takes_messages())
    }

    /// Tells the registry and those who listen where an agent stands.
    pub(super) fn note(&mut self, now: Moment, index: usize) {
        let agent = &self.agents[index];
        let state = agent.supervisor.state();
        let cause = match state {
            State::Quarantined { reason, .. } => Some(reason.clone()),
            State::Terminated { cause } => Some(cause.clone()),
            _ => agent.cause.clone(),
        };
        let process_id = agent.process.map(|(process_id, _)| process_id);
        let restarts = agent.supervisor.restarts();
        let status = Status { state: state.name(), cause: cause.clone(), process_id, restarts };
        if self.registry.moved(now, agent_index(index), status).is_none() {
            return;
        }
        let cause = cause.as_deref().unwrap_or_default();
        let detail = match state {
            State::Running => Detail::AgentStarted { process_id: process_id.unwrap_or_default(), restarts },
            State::Draining { .. } => Detail::AgentDraining,
            State::Quarantined { .. } => Detail::AgentQuarantined { cause },
            State::Terminated { .. } => Detail::AgentTerminated { cause },
            State::Created | State::Initialising | State::BackingOff { .. } => return,
        };
        self.bulletin.tell(now, Some(agent_index(index)), detail);
    }
}

/// Why messages are refused, as a sentence.
fn refusal(state: &State, pause: Option<Duration>) -> String {
    match (state, pause) {
        (State::Quarantined { reason, .. }, Some(pause)) => {
            format!("{reason}; it is quarantined, next try in {} s", pause.as_secs())
        }
        (State::Quarantined { reason, .. }, None) => {
            format!("it is quarantined ({reason}) until `openclaw agent release`")
        }
        (State::Terminated { cause }, _) => cause.clone(),
        (other, _) => format!("it is {}", other.name()),
    }
}
