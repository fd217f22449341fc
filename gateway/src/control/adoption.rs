//! Agents of the gateway before: which of them go on in this one, and which are ended and started anew.
//!
//! One goes on if the configuration still has an agent of its name that would be started in the same way, and if the
//! shards are the same: turns have the numbers of their shards, so what an agent has in hand means nothing to others.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use engine::event::{AgentIndex, InstanceId, Tenant};
use engine::shard::{AgentWord, Command};
use engine::supervision::{Event, Supervisor};
use engine::time::Moment;
use keeper::client::{HeldAgent, Holding};
use keeper::control::{Adopt, Request};
use shm_transport::link::Link;
use shm_transport::segment::{AttachError, attach_engine};

use super::Parts;
use super::agents::{self, Agents, NOT_NEEDED};
use super::conversations::Known;
use super::held::HeldAgents;
use super::processes::{describe, link_limits, spawn_request};
use crate::config::{AgentConfig, Config};
use crate::state_directory::StateDirectory;

/// What the keeper holds the socket of the clients under.
pub const CLIENTS: &str = "clients";
/// How long an agent that does not go on may take to end.
const END_GRACE: Duration = Duration::from_secs(2);
const SIGTERM: i32 = 15;

/// What a gateway must have in common with the one before, for agents to go on: see [`keeper::control::Keep::shape`].
pub fn shape(config: &Config) -> String {
    format!("{} shards", config.shard_count)
}

/// Everything that the gateway before has left.
#[derive(Debug, Default)]
pub struct Inheritance {
    shape: Option<String>,
    listeners: Vec<(String, String, OwnedFd)>,
    agents: Vec<(HeldAgent, Result<Rings, String>)>,
    /// For the keeper that comes if this one dies.
    pub held: HeldAgents,
}

#[derive(Debug)]
struct Rings {
    link: Box<Link>,
    doorbell: OwnedFd,
}

/// An agent that goes on.
#[derive(Debug)]
pub struct Adopted {
    index: usize,
    instance: InstanceId,
    process_id: u32,
    rings: Rings,
}

/// What becomes of the agents of the gateway before.
#[derive(Debug, Default)]
pub struct Adoptions {
    adopted: Vec<Adopted>,
    /// Which are ended, with the number of the agent that is started then.
    ended: Vec<(InstanceId, Option<usize>)>,
}

impl Inheritance {
    /// Takes what the keeper tells, and tells the operator what is lost.
    pub fn take(&mut self, holding: Holding) {
        match holding {
            Holding::Shape(shape) => self.shape = Some(shape),
            Holding::Listener { name, address, socket } => self.listeners.push((name, address, socket)),
            Holding::Agent(mut agent) => {
                let HeldAgent { instance, generation, process_id, definition, .. } = agent;
                let (name, cgroup) = (agent.name.clone(), agent.cgroup.clone());
                let about = Adopt { instance, generation, name, process_id, definition, cgroup };
                self.held.take(about, &agent.descriptors);
                // At once: two of the descriptors are not needed once the rings are mapped.
                let rings = attach(std::mem::take(&mut agent.descriptors));
                self.agents.push((agent, rings));
            }
            Holding::Death { name, process_id, exit, cause, .. } => {
                let cause = describe(exit, cause);
                tracing::warn!(agent = name, process_id, cause, "agent ended while there was no gateway");
            }
            Holding::Untold(count) => tracing::warn!(count, "more agents ended while there was no gateway"),
        }
    }

    /// The socket on which the gateway before has listened, if it is configured as that one was.
    pub fn listener(&mut self, configured: SocketAddr) -> Option<TcpListener> {
        let address = configured.to_string();
        let held = |(name, held, _): &(String, String, OwnedFd)| name == CLIENTS && *held == address;
        let position = self.listeners.iter().position(held)?;
        let listener = TcpListener::from(self.listeners.swap_remove(position).2);
        let bound = listener.local_addr().ok()?;
        let same_port = bound.port() == configured.port() || configured.port() == 0;
        (bound.ip() == configured.ip() && same_port).then_some(listener)
    }

    /// Decides which agents go on.
    pub fn decide(self, config: &Config, executable: &Path, state: &StateDirectory) -> Adoptions {
        let same_shape = self.shape.as_deref() == Some(&*shape(config));
        let by_name: HashMap<_, _> =
            config.agents.iter().enumerate().map(|(index, agent)| (&*agent.name, index)).collect();
        let mut adoptions = Adoptions::default();
        let mut taken = vec![false; config.agents.len()];
        // The newest first: an older one of the same name was being ended.
        for (held, rings) in self.agents.into_iter().rev() {
            let HeldAgent { instance, name, process_id, definition, .. } = held;
            let instance = InstanceId(instance);
            let index = by_name.get(&*name).copied();
            let same = |agent: &AgentConfig| {
                spawn_request(agent, executable, state, instance).definition() == definition
            };
            let reason = match (index, rings) {
                (None, _) => "it is not configured any more".to_owned(),
                (Some(index), _) if taken[index] => "another of its name goes on".to_owned(),
                (Some(_), _) if !same_shape => "the number of shards has changed".to_owned(),
                (Some(index), _) if !same(&config.agents[index]) => {
                    "its configuration has changed".to_owned()
                }
                (Some(_), Err(reason)) => reason,
                (Some(index), Ok(rings)) => {
                    taken[index] = true;
                    adoptions.adopted.push(Adopted { index, instance, process_id, rings });
                    continue;
                }
            };
            tracing::info!(agent = name, process_id, reason, "agent of the gateway before is ended");
            adoptions.ended.push((instance, index.filter(|&index| !taken[index])));
        }
        adoptions
    }
}

fn attach(descriptors: Vec<OwnedFd>) -> Result<Rings, String> {
    let mut descriptors = descriptors.into_iter();
    let (Some(engine_half), Some(agent_half), Some(doorbell)) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err("the keeper sent less than three descriptors".to_owned());
    };
    let attached = attach_engine(engine_half, agent_half, descriptors.next(), link_limits());
    let refused = |error: AttachError| format!("its rings are refused: {error}");
    Ok(Rings { link: Box::new(attached.map_err(refused)?.link), doorbell })
}

impl Adoptions {
    /// The agents that go on, for all shards to expect them.
    pub fn expected(&self) -> Vec<(AgentIndex, InstanceId)> {
        self.adopted.iter().map(|adopted| (agents::agent_index(adopted.index), adopted.instance)).collect()
    }

    /// Tells the keeper to end who does not go on, and gives everything to the agents' table.
    fn begin(self, parts: &mut Parts) -> (Vec<Adopted>, Leaving) {
        let kill_at = Some(parts.clock.now().plus(END_GRACE));
        for &(instance, _) in &self.ended {
            agents::send(parts, &Request::Kill { instance: instance.0, signal: SIGTERM });
        }
        let leaving = self.ended.into_iter().map(|(instance, next)| (instance, Leaver { next, kill_at }));
        (self.adopted, Leaving { leavers: leaving.collect() })
    }
}

impl Agents {
    /// Goes on with the agents of the gateway before, and starts those that their pools need beyond.
    pub(super) fn start_all(&mut self, parts: &mut Parts, adoptions: Adoptions) {
        let (adopted, leaving) = adoptions.begin(parts);
        self.leaving = leaving;
        self.adopted = adopted.len();
        for adopted in adopted {
            self.go_on(parts, adopted);
        }
        let runs = |agents: &Self, index: usize| agents.agents[index].current.is_some();
        let needed: Vec<bool> = (0..self.agents.len())
            .map(|index| self.pools.starts_with(index, |member| runs(self, member)))
            .collect();
        self.leaving.start_only(&needed);
        for (index, needed) in needed.into_iter().enumerate() {
            if runs(self, index) {
                continue;
            }
            if !needed && self.serves_one(index) {
                agents::tell_all(parts, index, &AgentWord::Rests);
            } else if !needed {
                agents::tell_all(parts, index, &AgentWord::Drain { others: Some(NOT_NEEDED.into()) });
            } else if !self.leaving.blocks(index) {
                self.on(parts, index, Event::Start);
            }
        }
        self.publish(parts);
    }

    fn go_on(&mut self, parts: &mut Parts, adopted: Adopted) {
        let Adopted { index, instance, process_id, rings: Rings { link, doorbell } } = adopted;
        let now = parts.clock.now();
        let agent = &mut self.agents[index];
        agent.current = Some(instance);
        agent.sandbox.clone_from(&agent.config.sandbox);
        agent.supervisor = Supervisor::running(agent.config.life.patience);
        let start_timeout = agent.config.start_timeout;
        tracing::info!(agent = agent.config.name, process_id, "agent goes on");
        self.by_instance.insert(instance, index);
        self.runs(now, index, process_id);
        if self.serves_one(index) {
            self.pools.tenants[index] = Known::new(Tenant::Unknown);
        }
        let agent = agents::agent_index(index);
        agents::tell_home(parts, index, Command::Adopt { agent, instance, link, doorbell, start_timeout });
        self.note(now, index);
    }
}

#[derive(Clone, Copy, Debug)]
struct Leaver {
    /// Who is started when it is gone.
    next: Option<usize>,
    /// When it is killed; `None` once it has been.
    kill_at: Option<Moment>,
}

/// Agents of the gateway before that are being ended.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    leavers: HashMap<InstanceId, Leaver>,
}

impl Leaving {
    /// Of those that were to be started, only these are.
    fn start_only(&mut self, needed: &[bool]) {
        for leaver in self.leavers.values_mut() {
            leaver.next = leaver.next.filter(|&next| needed[next]);
        }
    }

    /// Whether the agent of this number is started when another is gone.
    pub(super) fn blocks(&self, index: usize) -> bool {
        self.leavers.values().any(|leaver| leaver.next == Some(index))
    }

    /// Who leaves.
    pub(super) fn instances(&self) -> impl Iterator<Item = InstanceId> {
        self.leavers.keys().copied()
    }

    /// One is gone: who is to be started now, if nobody else of its name still leaves.
    pub(super) fn gone(&mut self, instance: InstanceId) -> Option<usize> {
        let next = self.leavers.remove(&instance)?.next?;
        (!self.blocks(next)).then_some(next)
    }

    /// When somebody has to be killed.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.leavers.values().filter_map(|leaver| leaver.kill_at).min()
    }

    /// Those whose time is up by now, each once.
    pub(super) fn overdue(&mut self, now: Moment) -> Vec<InstanceId> {
        let mut overdue = Vec::new();
        for (instance, leaver) in &mut self.leavers {
            if leaver.kill_at.take_if(|at| *at <= now).is_some() {
                overdue.push(*instance);
            }
        }
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who does not go on is killed once when its time is up, and its successor is started when the last of its name is gone.
    #[test]
    fn those_who_leave_are_waited_for() {
        let at = |ms| Moment::after_start(Duration::from_millis(ms));
        let leaver = |instance, next, ms| (InstanceId(instance), Leaver { next, kill_at: Some(at(ms)) });
        let leavers = [leaver(1, Some(7), 10), leaver(2, Some(7), 10), leaver(3, None, 20)].into();
        let mut leaving = Leaving { leavers };
        assert_eq!((leaving.next_due(), leaving.blocks(7), leaving.blocks(3)), (Some(at(10)), true, false));
        assert!(leaving.overdue(at(9)).is_empty());
        let mut overdue = leaving.overdue(at(10));
        overdue.sort_unstable();
        assert_eq!(overdue, [InstanceId(1), InstanceId(2)]);
        assert!(leaving.overdue(at(10)).is_empty(), "once");
        assert_eq!(leaving.next_due(), Some(at(20)));
        assert_eq!(leaving.gone(InstanceId(1)), None, "another of its name still leaves");
        assert_eq!(leaving.gone(InstanceId(2)), Some(7));
        assert_eq!(leaving.gone(InstanceId(3)), None);
        assert_eq!(leaving.gone(InstanceId(4)), None, "not one of them");
        assert_eq!((leaving.next_due(), leaving.blocks(7)), (None, false));

        // One that its pool does not need is not started.
        let mut leaving = Leaving { leavers: [leaver(1, Some(0), 10), leaver(2, Some(1), 10)].into() };
        leaving.start_only(&[false, true]);
        assert_eq!((leaving.blocks(0), leaving.blocks(1)), (false, true));
        assert_eq!((leaving.gone(InstanceId(1)), leaving.gone(InstanceId(2))), (None, Some(1)));
    }

    /// The socket of the gateway before is taken only where it is configured, in the same words, and where it is bound there.
    #[test]
    fn the_configured_listener_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let other = SocketAddr::from(([127, 0, 0, 1], bound.port() ^ 1));
        let check = |name: &str, held: SocketAddr, wanted: SocketAddr, taken: bool| {
            let socket = OwnedFd::from(listener.try_clone().unwrap());
            let mut left = Inheritance::default();
            left.take(Holding::Listener { name: name.into(), address: held.to_string(), socket });
            assert_eq!(left.listener(wanted).is_some(), taken, "{name} {held} {wanted}");
        };
        check(CLIENTS, any, any, true);
        check(CLIENTS, bound, bound, true);
        check("others", any, any, false);
        check(CLIENTS, any, bound, false);
        check(CLIENTS, other, other, false);
    }
}
