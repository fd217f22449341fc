//! What people ask for over the admin socket: agents are listed, drained, started anew, left alone.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use engine::event::AgentIndex;
use engine::registry::{Entry, Field, Load};
use engine::supervision::{Event, State};
use engine::time::Moment;

use super::agents::{Agents, agent_index};
use super::lifecycle::Next;
use super::rolling::Rolling;
use super::{Control, Parts};
use crate::admin::answer::{Acted, AgentRow};
use crate::admin::order::{Act, Order};
use crate::admin::request::{Complaint, ErrorCode};

impl Control {
    /// Does what is asked for, answers, and says what follows from it. Whoever has gone meanwhile hears nothing.
    pub(super) async fn obey(&mut self, order: Order) -> Next {
        // Relaxed: a single flag, raised on this thread.
        let ending = self.parts.draining.load(Ordering::Relaxed);
        let refused = || Complaint::new(ErrorCode::Refused, "the gateway goes down already");
        match order {
            Order::List { wanted, reply } => {
                let _ = reply.send(self.list(&wanted));
            }
            Order::Act { name, act, reply } => {
                let done =
                    if ending { Err(refused()) } else { self.agents.order(&mut self.parts, &name, act) };
                let _ = reply.send(done);
            }
            Order::Reload { kind, reply } => {
                let _ = reply.send(if ending { Err(refused()) } else { self.reload(kind) });
            }
            Order::Lifecycle(order) => return self.obey_lifecycle(order, ending).await,
        }
        Next::GoOn
    }

    fn list(&self, wanted: &[(Field, String)]) -> Result<Vec<(AgentIndex, AgentRow)>, Complaint> {
        let registry = &self.agents.registry;
        let mut found: Option<Vec<AgentIndex>> = None;
        for (field, word) in wanted {
            let with = match field {
                Field::Name => self.agents.named(word)?.into_iter().map(agent_index).collect(),
                field => registry.find(*field, word),
            };
            found = Some(match found {
                None => with,
                Some(found) => found.into_iter().filter(|agent| with.contains(agent)).collect(),
            });
        }
        let found = found.unwrap_or_else(|| registry.all().map(|(agent, _)| agent).collect());
        let rows = found.into_iter().filter_map(|agent| Some((agent, self.row(agent, registry.get(agent)?))));
        Ok(rows.collect())
    }

    fn row(&self, agent: AgentIndex, entry: &Entry) -> AgentRow {
        let index = agent.0 as usize;
        let known = &self.agents.agents[index];
        let unix_ms = |moment: Moment| {
            let since = moment.since(Moment::ZERO).as_millis();
            self.unix_ms_at_zero.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
        };
        let Entry { description, version, status, since, load, sick } = entry.clone();
        let Load { open, queued } = load;
        AgentRow {
            name: description.name,
            pool: description.pool,
            state: status.state.to_owned(),
            since_ms: unix_ms(since),
            process_id: known.process.map(|(process_id, _)| process_id),
            started_ms: known.process.map(|(_, since)| unix_ms(since)),
            restarts: known.supervisor.restarts(),
            open,
            queued,
            cause: status.cause,
            sick,
            restart_pending: self.agents.restart_pending(index),
            version,
            policy: known.config.life.patience.policy.name().to_owned(),
            skills: description.skills,
            channels: description.channels,
            capabilities: description.capabilities,
        }
    }
}

impl Agents {
    /// The agent of a name, or all of a pool.
    fn named(&self, name: &str) -> Result<Vec<usize>, Complaint> {
        let found = self.registry.find(Field::Name, name);
        if !found.is_empty() {
            return Ok(found.iter().map(|agent| agent.0 as usize).collect());
        }
        let near = self.registry.near(name);
        let advice = match near[..] {
            [] => "`openclaw agent list` names all".to_owned(),
            _ => format!("did you mean {}?", near.join(" or ")),
        };
        let message = format!("no agent and no pool is named \"{name}\"; {advice}");
        Err(Complaint::of_field(ErrorCode::UnknownAgent, "agent", message))
    }

    /// Begins with what is asked for.
    fn order(&mut self, parts: &mut Parts, name: &str, act: Act) -> Result<Acted, Complaint> {
        let members = self.named(name)?;
        let done = match act {
            Act::Restart => self.restart(parts, name, &members),
            Act::Drain => self.each(parts, &members, |_, _| Event::Drain),
            Act::Quarantine(reason) => self.each(parts, &members, |_, _| Event::Quarantine(reason.clone())),
            Act::Release => self.release(parts, &members),
        };
        self.roll(parts);
        self.publish(parts);
        let agents = done?.into_iter().map(|index| self.agents[index].config.name.clone()).collect();
        Ok(Acted { agents })
    }

    /// Gives all of them an event. Fails if none of them takes it.
    fn each(
        &mut self,
        parts: &mut Parts,
        members: &[usize],
        event: impl Fn(&Self, usize) -> Event,
    ) -> Result<Vec<usize>, Complaint> {
        let mut done = Vec::new();
        let mut refused = None;
        for &index in members {
            let event = event(self, index);
            match self.try_on(parts, index, event) {
                Ok(()) => done.push(index),
                Err(why) => refused = refused.or(Some((index, why.state))),
            }
        }
        match refused {
            Some((index, state)) if done.is_empty() => Err(self.senseless(index, state)),
            _ => Ok(done),
        }
    }

    fn senseless(&self, index: usize, state: &str) -> Complaint {
        let name = &self.agents[index].config.name;
        let advice = match state {
            "quarantined" => "; `openclaw agent release` starts it",
            "terminated" => "; `openclaw agent restart` starts it",
            _ => "",
        };
        Complaint::new(ErrorCode::NotPossible, format!("agent \"{name}\" is {state}{advice}"))
    }

    /// Starts them anew, one after the other. Members that their pool has not started stay as they are.
    fn restart(&mut self, parts: &mut Parts, name: &str, members: &[usize]) -> Result<Vec<usize>, Complaint> {
        let busy = |rolling: &Rolling| {
            members.iter().any(|index| rolling.current == *index || rolling.waiting.contains(index))
        };
        if self.rolling.iter().any(busy) {
            let message = format!("\"{name}\" is being restarted already");
            return Err(Complaint::new(ErrorCode::NotPossible, message));
        }
        let alone = members.len() == 1;
        let started = |index: &usize| alone || *self.agents[*index].supervisor.state() != State::Created;
        let mut waiting: VecDeque<usize> = members.iter().copied().filter(started).collect();
        let mut all = Vec::new();
        let mut refused = None;
        while let Some(current) = waiting.pop_front() {
            match self.try_on(parts, current, Event::Restart) {
                Ok(()) => {
                    all.push(current);
                    all.extend(&waiting);
                    self.rolling.push(Rolling { current, waiting });
                    return Ok(all);
                }
                Err(why) => refused = Some((current, why.state)),
            }
        }
        Err(match refused {
            Some((index, state)) => self.senseless(index, state),
            None => Complaint::new(ErrorCode::NotPossible, format!("no member of \"{name}\" runs")),
        })
    }

    /// Starts as many as their pool needs, and leaves the others to it.
    fn release(&mut self, parts: &mut Parts, members: &[usize]) -> Result<Vec<usize>, Complaint> {
        let min = if members.len() == 1 { 1 } else { self.pools.min(members[0]) };
        let wanted = |index: &usize| {
            let state = self.agents[*index].supervisor.state();
            matches!(state, State::Quarantined { .. } | State::Terminated { .. } | State::Draining { .. })
        };
        let runs = members.iter().filter(|&&index| self.agents[index].supervisor.state().takes_messages());
        let needed = min.saturating_sub(runs.count());
        let held: Vec<usize> = members.iter().copied().filter(wanted).collect();
        if held.is_empty() {
            return Err(self.senseless(members[0], self.agents[members[0]].supervisor.state().name()));
        }
        let count = if members.len() == 1 { 1 } else { needed };
        self.each(parts, &held, |_, index| {
            let place = held.iter().position(|&other| other == index).unwrap_or_default();
            if place < count { Event::Release } else { Event::Rest }
        })
    }
}
