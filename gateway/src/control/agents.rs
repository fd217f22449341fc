//! The agents of this gateway: from the supervisor's decision to the keeper and the shards, and back.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use adapters::edge::AgentHealth;
use engine::event::{AgentIndex, InstanceId};
use engine::events::Detail;
use engine::journal::entry::JournalState;
use engine::registry::{Description, Registry};
use engine::shard::{AgentWord, Command, Notice};
use engine::supervision::fleet::{Fleet, Grant};
use engine::supervision::sickness::Sickness;
use engine::supervision::{Action, Event, InvalidTransition, State, Supervisor};
use engine::time::Moment;
use keeper::control::{Cause, Exit, Request, Usage};
use keeper::sandbox::spec::SandboxSpec;
use shm_transport::record::Poison;
use shm_transport::segment::attach_engine;

use super::Parts;
use super::adoption::Leaving;
use super::pools::Pools;
use super::processes::{describe, link_limits, spawn_request};
use super::rolling::Rolling;
use super::skills::Skills;
use crate::admin::bulletin::Bulletin;
use crate::config::{AgentConfig, Config, InstancesPer};

const SIGKILL: i32 = 9;
/// Why a member that its pool has not started takes no messages.
pub(super) const NOT_NEEDED: &str = "its pool does not need it now";

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) supervisor: Supervisor,
    /// The incarnation that was asked for last, until it is known to be dead.
    pub(super) current: Option<InstanceId>,
    /// What of its sandbox is not enforced, as it was logged last.
    not_enforced: Vec<String>,
    /// When the supervisor wants to hear [`Event::Due`].
    pub(super) due: Option<Moment>,
    /// Whether that moment is its place among the restarts of the fleet.
    granted: bool,
    /// Whether messages wait for it although it does not run, since nobody else takes them.
    pub(super) holds: bool,
    /// [`keeper::control::Spawn::definition`] of what was asked for last.
    definition: u64,
    /// Its process and since when it runs, while it does.
    pub(super) process: Option<(u32, Moment)>,
    /// What that process may see and do, which may differ from what the next one may.
    pub(super) sandbox: Option<SandboxSpec>,
    /// Whether it has said hello.
    pub(super) ready: bool,
    /// What it ended of last.
    pub(super) cause: Option<String>,
    pub(super) sickness: Sickness,
}

/// All agents, by their number.
#[derive(Debug)]
pub(super) struct Agents {
    pub(super) agents: Vec<Agent>,
    pub(super) by_instance: HashMap<InstanceId, usize>,
    /// Why we end those that are not dead yet.
    ended_for: HashMap<InstanceId, String>,
    pub(super) next_instance: u64,
    /// Those of the gateway before that do not go on.
    pub(super) leaving: Leaving,
    /// How many go on from the gateway before.
    pub(super) adopted: usize,
    /// How many processes have been asked for.
    started: u64,
    pub(super) registry: Registry,
    pub(super) fleet: Fleet,
    pub(super) pools: Pools,
    pub(super) rolling: Vec<Rolling>,
    pub(super) skills: Skills,
    // Arc: connections of the admin socket listen.
    pub(super) bulletin: Arc<Bulletin>,
}

pub(super) fn agent_index(index: usize) -> AgentIndex {
    AgentIndex(u32::try_from(index).unwrap_or(u32::MAX))
}

/// An agent as the registry knows it.
pub(super) fn description(config: &AgentConfig) -> Description {
    Description {
        name: config.name.clone(),
        pool: config.pool.clone(),
        skills: config.life.skills.clone(),
        channels: config.life.channels.clone(),
        capabilities: config.capabilities.clone(),
    }
}

impl Agents {
    /// `instance_max` is the largest number that any agent of the keeper has had.
    pub(super) fn new(config: &Config, now: Moment, instance_max: u64) -> Self {
        let agents = config.agents.iter().map(|config| Agent {
            config: config.clone(),
            supervisor: Supervisor::new(config.life.patience),
            current: None,
            due: None,
            granted: false,
            holds: false,
            definition: 0,
            process: None,
            sandbox: None,
            ready: false,
            cause: None,
            sickness: Sickness::default(),
            not_enforced: Vec::new(),
        });
        Self {
            agents: agents.collect(),
            by_instance: HashMap::new(),
            ended_for: HashMap::new(),
            next_instance: instance_max + 1,
            leaving: Leaving::default(),
            adopted: 0,
            started: 0,
            registry: Registry::new(now, config.agents.iter().map(description).collect()),
            fleet: Fleet::new(config.fleet),
            pools: Pools::new(&config.agents, now),
            rolling: Vec::new(),
            skills: Skills::new(config.skills.clone()),
            bulletin: Arc::default(),
        }
    }

    /// When somebody wants to be woken.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.agents
            .iter()
            .filter_map(|agent| agent.due)
            .chain(self.pools.next_look())
            .chain(self.next_roll())
            .chain(self.leaving.next_due())
            .chain(self.skills.next_due())
            .min()
    }

    /// Nothing is started again from now on.
    pub(super) fn stop_all(&mut self, parts: &mut Parts) {
        for index in 0..self.agents.len() {
            self.on(parts, index, Event::Stop);
        }
        self.rolling.clear();
        self.publish(parts);
    }

    pub(super) fn due(&mut self, parts: &mut Parts) {
        let now = parts.clock.now();
        for instance in self.leaving.overdue(now) {
            kill(parts, instance);
        }
        for index in 0..self.agents.len() {
            let agent = &mut self.agents[index];
            let Some(due) = agent.due.filter(|&due| due <= now) else { continue };
            let restarts =
                matches!(agent.supervisor.state(), State::BackingOff { .. } | State::Quarantined { .. });
            if restarts
                && !agent.granted
                && let Grant::Later { at, first } = self.fleet.grant(now)
            {
                agent.supervisor.postpone(due, at);
                (agent.due, agent.granted) = (Some(at), true);
                if first {
                    tracing::warn!(
                        agent = agent.config.name,
                        "too many agents end at once: restarts are spread from now on (supervision.fleet)"
                    );
                }
                continue;
            }
            // Once, whatever comes of it: a moment that stays would wake this thread for ever.
            self.agents[index].due = None;
            self.on(parts, index, Event::Due);
        }
        self.skills_due(parts);
        self.roll(parts);
        self.look_at_loads(parts);
        self.publish(parts);
    }

    /// Logs what of an agent's sandbox is not enforced: once, not with each incarnation.
    pub(super) fn name_missing(&mut self, instance: u64, not_enforced: &[String]) {
        let Some(&index) = self.by_instance.get(&InstanceId(instance)) else { return };
        let agent = &mut self.agents[index];
        if agent.not_enforced != not_enforced {
            agent.not_enforced = not_enforced.to_vec();
            tracing::warn!(
                "agent {}: not enforced: {}; see `openclaw doctor`",
                agent.config.name,
                not_enforced.join("; ")
            );
        }
    }

    /// Attaches to the rings of a new incarnation and hands them to its shard.
    pub(super) fn spawned(
        &mut self,
        parts: &mut Parts,
        instance: u64,
        process_id: u32,
        descriptors: Vec<OwnedFd>,
    ) {
        let instance = InstanceId(instance);
        let Some(&index) = self.by_instance.get(&instance) else { return };
        let name = self.agents[index].config.name.clone();
        if matches!(self.agents[index].supervisor.state(), State::Terminated { .. }) {
            // It was on its way when its end was decided, so no shard will tell it to stop.
            return kill(parts, instance);
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(engine_half), Some(agent_half), Some(doorbell)) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            tracing::error!(agent = name, "the keeper sent less than three descriptors; the agent is ended");
            return kill(parts, instance);
        };
        // An older keeper makes no side channel for large messages.
        match attach_engine(engine_half, agent_half, descriptors.next(), link_limits()) {
            Ok(attached) => {
                tracing::info!(agent = name, process_id, "agent started");
                let agent = agent_index(index);
                let link = Box::new(attached.link);
                let start_timeout = self.agents[index].config.start_timeout;
                let attach = Command::Attach { agent, instance, link, doorbell, start_timeout };
                tell_home(parts, index, attach);
            }
            Err(error) => {
                tracing::error!(agent = name, %error, "the rings of the agent are refused; it is ended");
                kill(parts, instance);
            }
        }
        self.runs(parts.clock.now(), index, process_id);
        self.on(parts, index, Event::Spawned);
        self.publish(parts);
    }

    /// Name and definition of what was asked for as this instance.
    pub(super) fn asked(&self, instance: u64) -> Option<(String, u64)> {
        let agent = &self.agents[*self.by_instance.get(&InstanceId(instance))?];
        Some((agent.config.name.clone(), agent.definition))
    }

    /// A process of an agent is there.
    pub(super) fn runs(&mut self, now: Moment, index: usize, process_id: u32) {
        let agent = &mut self.agents[index];
        agent.process = Some((process_id, now));
        agent.ready = false;
        agent.sickness.begin(now);
        self.registry.sick(agent_index(index), None);
    }

    pub(super) fn spawn_failed(&mut self, parts: &mut Parts, instance: u64, reason: String) {
        if self.skills.has(InstanceId(instance)) {
            return self.skill_not_started(parts, InstanceId(instance), reason);
        }
        let Some(index) = self.forget(InstanceId(instance)) else { return };
        self.on(parts, index, Event::SpawnFailed(reason));
        self.roll(parts);
        self.publish(parts);
    }

    pub(super) fn died(
        &mut self,
        parts: &mut Parts,
        instance: u64,
        exit: Exit,
        cause: Option<Cause>,
        usage: Usage,
    ) {
        let instance = InstanceId(instance);
        if self.skills.has(instance) {
            return self.skill_died(parts, instance, exit, cause);
        }
        if let Some(next) = self.leaving.gone(instance) {
            self.on(parts, next, Event::Start);
            return self.publish(parts);
        }
        let Some(index) = self.forget(instance) else { return };
        let detail = self.ended_for.remove(&instance).unwrap_or_else(|| describe(exit, cause));
        tracing::debug!(
            agent = self.agents[index].config.name,
            detail,
            cpu_ms = usage.cpu_us.map(|us| us / 1000),
            memory_peak_kib = usage.memory_peak_bytes.map(|bytes| bytes >> 10),
            "agent ended"
        );
        let agent = agent_index(index);
        tell_home(parts, index, Command::Down { agent, instance, detail: detail.clone() });
        self.on(parts, index, Event::Ended { cause: detail, normal: exit == Exit::Code(0) });
        self.roll(parts);
        self.publish(parts);
    }

    pub(super) fn noticed(&mut self, parts: &mut Parts, notice: &Notice) {
        match notice {
            Notice::AgentReady { instance, software } => {
                if let Some(&index) = self.by_instance.get(instance) {
                    tracing::debug!(agent = self.agents[index].config.name, software, "agent is ready");
                    self.agents[index].ready = true;
                    self.registry.said_hello(agent_index(index), software);
                    self.roll(parts);
                }
            }
            Notice::AgentAdopted { instance } => {
                if let Some(&index) = self.by_instance.get(instance) {
                    tracing::debug!(
                        agent = self.agents[index].config.name,
                        "agent has said what it works on"
                    );
                    self.agents[index].ready = true;
                    self.roll(parts);
                }
            }
            &Notice::AgentFenced { instance, poison } => {
                if let Some(&index) = self.by_instance.get(&instance) {
                    let agent = &self.agents[index].config.name;
                    match poison {
                        Poison::PeerKind { .. } => tracing::error!(
                            agent, %poison,
                            "the agent is of an older build than this gateway; it is ended: link a newer agent-sdk"
                        ),
                        _ => tracing::error!(
                            agent, %poison, "the agent broke the rules of its ring; it is ended"
                        ),
                    }
                    kill(parts, instance);
                }
            }
            Notice::Skill { instance, call, skill, input } => {
                self.skill_asked(parts, *instance, *call, (skill, input));
            }
            &Notice::AgentTenure { agent, tenure } => self.tenure(parts, agent, tenure),
            &Notice::AgentHung { instance, silent } => self.hung(parts, instance, silent),
            &Notice::AgentMute { instance, waited } => self.mute(parts, instance, waited),
            &Notice::Journal { shard, state } => {
                parts.agents.note_journal(shard, state);
                match state {
                    JournalState::Writing => {
                        tracing::info!(shard = shard.0, "the journal takes new work again")
                    }
                    JournalState::Full => {
                        tracing::error!(
                            shard = shard.0,
                            "the disk of the journal is full: new messages are refused"
                        );
                    }
                    JournalState::Failed => tracing::error!(
                        shard = shard.0,
                        "the journal cannot be written: nothing is acknowledged any more until the next start"
                    ),
                }
            }
        }
    }

    /// Ends an incarnation for this reason, which is what its death is put down to.
    pub(super) fn end(&mut self, parts: &mut Parts, instance: InstanceId, cause: String) {
        let Some(&index) = self.by_instance.get(&instance) else { return };
        tracing::error!(agent = self.agents[index].config.name, cause, "the agent is ended");
        self.ended_for.insert(instance, cause);
        kill(parts, instance);
    }

    /// How many go on from the gateway before, and how many processes have been started since.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.adopted, self.started)
    }

    /// How many incarnations live.
    pub(super) fn alive(&self) -> usize {
        self.by_instance.len()
    }

    fn forget(&mut self, instance: InstanceId) -> Option<usize> {
        let index = self.by_instance.remove(&instance)?;
        let agent = &mut self.agents[index];
        if agent.current == Some(instance) {
            (agent.current, agent.process, agent.ready) = (None, None, false);
        }
        Some(index)
    }

    /// Gives an event to an agent's supervisor and does what it says. One that makes no sense now is dropped.
    pub(super) fn on(&mut self, parts: &mut Parts, index: usize, event: Event) {
        if let Err(refused) = self.try_on(parts, index, event) {
            // After the end has begun, deaths are what is wanted.
            tracing::debug!(agent = self.agents[index].config.name, %refused, "ignored");
        }
    }

    /// As [`Self::on`], for those who want to know whether it makes sense.
    pub(super) fn try_on(
        &mut self,
        parts: &mut Parts,
        index: usize,
        event: Event,
    ) -> Result<(), InvalidTransition> {
        let now = parts.clock.now();
        let agent = &mut self.agents[index];
        let cause = match &event {
            Event::Ended { cause, .. } | Event::SpawnFailed(cause) => Some(cause.clone()),
            _ => None,
        };
        let mut action = agent.supervisor.on(now, event)?;
        if agent.config.life.per == InstancesPer::Conversation
            && action == Action::Refuse(None)
            && matches!(agent.supervisor.state(), State::Terminated { .. })
        {
            // It is not started again for its session, but for the next one.
            action = agent.supervisor.on(now, Event::Rest)?;
        }
        (agent.due, agent.granted) = (None, false);
        if let Some(cause) = &cause {
            agent.cause = Some(cause.clone());
            self.bulletin.tell(now, Some(agent_index(index)), Detail::AgentEnded { cause });
        }
        self.act(parts, index, action);
        self.note(now, index);
        Ok(())
    }

    pub(super) fn spawn(&mut self, parts: &mut Parts, index: usize) {
        let instance = InstanceId(self.next_instance);
        self.next_instance += 1;
        let agent = &mut self.agents[index];
        agent.current = Some(instance);
        agent.sandbox.clone_from(&agent.config.sandbox);
        self.by_instance.insert(instance, index);
        let request = spawn_request(&agent.config, &parts.executable, &parts.state, instance);
        agent.definition = request.definition();
        self.started += 1;
        send(parts, &Request::Spawn(request));
    }

    /// Tells the pages.
    pub(super) fn publish(&self, parts: &Parts) {
        let board = self
            .agents
            .iter()
            .map(|agent| AgentHealth {
                name: agent.config.name.clone(),
                status: agent.supervisor.state().name().to_owned(),
            })
            .collect();
        parts.agents.publish(board);
    }
}

/// Tells all shards something about an agent: those of its sessions, and the one it lives on.
pub(super) fn tell_all(parts: &Parts, index: usize, word: &AgentWord) {
    for shard in &parts.shards {
        shard.tell(Command::Agent { agent: agent_index(index), word: word.clone() });
    }
}

pub(super) fn tell_home(parts: &Parts, index: usize, command: Command) {
    let agent = agent_index(index);
    let count = u8::try_from(parts.shards.len()).unwrap_or(u8::MAX);
    parts.shards[usize::from(agent.home(count).0)].tell(command);
}

pub(super) fn kill(parts: &mut Parts, instance: InstanceId) {
    send(parts, &Request::Kill { instance: instance.0, signal: SIGKILL });
}

/// A request that cannot be sent is not lost silently: the keeper is gone then, which its socket tells next.
pub(super) fn send(parts: &mut Parts, request: &Request) {
    if let Request::Kill { instance, signal } = request {
        parts.held.note_signal(*instance, *signal);
    }
    if let Err(error) = parts.keeper.send(request)
        // Relaxed: only decides on a log line.
        && !parts.draining.load(Ordering::Relaxed)
    {
        tracing::error!(%error, "a request to the keeper is lost");
    }
}
