//! The agents of this gateway: from the supervisor's decision to the keeper, and back.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use adapters::edge::AgentHealth;
use engine::event::{AgentIndex, InstanceId};
use engine::journal::entry::JournalState;
use engine::shard::{Command, Notice};
use engine::supervision::{Action, Event, Limits as Patience, Supervisor};
use engine::time::Moment;
use keeper::control::{Exit, Request, Spawn};
use shm_transport::link::{Limits, MESSAGE_BYTES_MAX};
use shm_transport::record::Poison;
use shm_transport::segment::attach_engine;

use super::Parts;
use crate::config::{AgentConfig, AgentKind};

/// Bytes of the ring to an agent, and of the one back.
const AGENT_RING_BYTES: u64 = 64 * 1024;
/// What may wait for room in the ring to an agent: its credit, and one message beyond.
const AGENT_BACKLOG_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 16 * 1024 * 1024;
const SIGKILL: i32 = 9;

#[derive(Debug)]
struct Agent {
    config: AgentConfig,
    supervisor: Supervisor,
    /// The incarnation that was asked for last, until it is known to be dead.
    current: Option<InstanceId>,
    /// When the supervisor wants to hear [`Event::Due`].
    due: Option<Moment>,
}

/// All agents, by their number.
#[derive(Debug)]
pub(super) struct Agents {
    agents: Vec<Agent>,
    by_instance: HashMap<InstanceId, usize>,
    next_instance: u64,
}

/// How a process ended, as words.
fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(127) => "exit status 127 (its program could not be started)".into(),
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

impl Agents {
    pub(super) fn new(configs: &[AgentConfig]) -> Self {
        let agents = configs
            .iter()
            .map(|config| Agent {
                config: config.clone(),
                supervisor: Supervisor::new(Patience::default()),
                current: None,
                due: None,
            })
            .collect();
        Self { agents, by_instance: HashMap::new(), next_instance: 1 }
    }

    /// When the next supervisor wants to be woken.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.agents.iter().filter_map(|agent| agent.due).min()
    }

    pub(super) fn start_all(&mut self, parts: &mut Parts) {
        for index in 0..self.agents.len() {
            self.on(parts, index, Event::Start);
        }
        self.publish(parts);
    }

    /// Nothing is started again from now on.
    pub(super) fn stop_all(&mut self, parts: &mut Parts) {
        for index in 0..self.agents.len() {
            self.on(parts, index, Event::Stop);
        }
        self.publish(parts);
    }

    pub(super) fn due(&mut self, parts: &mut Parts) {
        let now = parts.clock.now();
        for index in 0..self.agents.len() {
            if self.agents[index].due.is_some_and(|due| due <= now) {
                self.agents[index].due = None;
                self.on(parts, index, Event::Due);
            }
        }
        self.publish(parts);
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
        let limits = Limits { backlog_bytes_max: AGENT_BACKLOG_BYTES_MAX, ..Limits::default() };
        let mut descriptors = descriptors.into_iter();
        let (Some(engine_half), Some(agent_half), Some(doorbell)) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            tracing::error!(agent = name, "the keeper sent less than three descriptors; the agent is ended");
            return kill(parts, instance);
        };
        // An older keeper makes no side channel for large messages.
        match attach_engine(engine_half, agent_half, descriptors.next(), limits) {
            Ok(attached) => {
                tracing::info!(agent = name, process_id, "agent started");
                let agent = AgentIndex(u32::try_from(index).unwrap_or(u32::MAX));
                let link = Box::new(attached.link);
                tell_home(parts, index, Command::Attach { agent, instance, link, doorbell });
            }
            Err(error) => {
                tracing::error!(agent = name, %error, "the rings of the agent are refused; it is ended");
                kill(parts, instance);
            }
        }
        self.on(parts, index, Event::Spawned);
        self.publish(parts);
    }

    pub(super) fn spawn_failed(&mut self, parts: &mut Parts, instance: u64, reason: String) {
        let Some(index) = self.forget(InstanceId(instance)) else { return };
        self.on(parts, index, Event::SpawnFailed(reason));
        self.publish(parts);
    }

    pub(super) fn died(&mut self, parts: &mut Parts, instance: u64, exit: Exit) {
        let instance = InstanceId(instance);
        let Some(index) = self.forget(instance) else { return };
        let detail = describe(exit);
        let agent = AgentIndex(u32::try_from(index).unwrap_or(u32::MAX));
        tell_home(parts, index, Command::Down { agent, instance, detail: detail.clone() });
        self.on(parts, index, Event::Died(detail));
        self.publish(parts);
    }

    pub(super) fn noticed(&mut self, parts: &mut Parts, notice: &Notice) {
        match *notice {
            Notice::AgentReady { instance } => {
                if let Some(&index) = self.by_instance.get(&instance) {
                    tracing::debug!(agent = self.agents[index].config.name, "agent is ready");
                }
            }
            Notice::AgentAdopted { instance } => {
                if let Some(&index) = self.by_instance.get(&instance) {
                    tracing::debug!(
                        agent = self.agents[index].config.name,
                        "agent has said what it works on"
                    );
                }
            }
            Notice::AgentFenced { instance, poison } => {
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
            Notice::Scale { agent, signal, depth } => {
                if let Some(agent) = self.agents.get(agent.0 as usize) {
                    let (pool, signal) = (&agent.config.pool, signal.name());
                    tracing::info!(pool, signal, depth, "the queue of a pool calls for another size");
                }
            }
            Notice::Journal { shard, state } => {
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

    /// How many incarnations live.
    pub(super) fn alive(&self) -> usize {
        self.by_instance.len()
    }

    fn forget(&mut self, instance: InstanceId) -> Option<usize> {
        let index = self.by_instance.remove(&instance)?;
        if self.agents[index].current == Some(instance) {
            self.agents[index].current = None;
        }
        Some(index)
    }

    /// Gives an event to an agent's supervisor and does what it says.
    fn on(&mut self, parts: &mut Parts, index: usize, event: Event) {
        let now = parts.clock.now();
        let agent = &mut self.agents[index];
        let cause = match &event {
            Event::Died(reason) | Event::SpawnFailed(reason) => Some(reason.clone()),
            Event::Start | Event::Spawned | Event::Due | Event::Stop => None,
        };
        let action = match agent.supervisor.on(now, event) {
            Ok(action) => action,
            // After the end has begun, deaths are what is wanted.
            Err(refused) => return tracing::debug!(agent = agent.config.name, %refused, "ignored"),
        };
        let name = &agent.config.name;
        let log = parts.state.agent_log(name);
        match action {
            Action::Spawn => {
                let agent = AgentIndex(u32::try_from(index).unwrap_or(u32::MAX));
                for shard in &parts.shards {
                    shard.tell(Command::Expected { agent });
                }
                self.spawn(parts, index);
            }
            Action::Wait(until) => {
                agent.due = Some(until);
                let delay_ms = until.since(now).as_millis();
                tracing::warn!(agent = name, cause, delay_ms, log = %log.display(), "agent ended; it is started again");
            }
            Action::Refuse(until) => {
                agent.due = Some(until);
                let cause = cause.unwrap_or_default();
                let pause = until.since(now).as_secs();
                tracing::error!(
                    agent = name,
                    cause,
                    log = %log.display(),
                    "agent ends again and again; it is quarantined for {pause} s. See its log and agents.entries.{name}"
                );
                let detail = format!("it ended again and again, last with {cause}; next try in {pause} s");
                let agent = AgentIndex(u32::try_from(index).unwrap_or(u32::MAX));
                for shard in &parts.shards {
                    shard.tell(Command::Unavailable { agent, detail: detail.clone() });
                }
            }
            Action::None => {}
        }
    }

    fn spawn(&mut self, parts: &mut Parts, index: usize) {
        let instance = InstanceId(self.next_instance);
        self.next_instance += 1;
        let agent = &mut self.agents[index];
        agent.current = Some(instance);
        self.by_instance.insert(instance, index);
        let host = parts.executable.to_string_lossy().into_owned();
        let argv = match &agent.config.kind {
            AgentKind::Echo => vec![host, "agent-host".into(), "echo".into()],
            AgentKind::Stdio(command) => {
                let mut argv = vec![host, "agent-host".into(), "stdio".into(), "--".into()];
                argv.extend(command.iter().cloned());
                argv
            }
        };
        let request = Request::Spawn(Spawn {
            instance: instance.0,
            // Every incarnation gets rings of its own, so its number is the generation of both.
            generation: instance.0,
            name: agent.config.name.clone(),
            argv,
            environment: agent.config.environment.clone(),
            working_directory: agent.config.working_directory.clone(),
            to_agent_bytes: AGENT_RING_BYTES,
            from_agent_bytes: AGENT_RING_BYTES,
            log_path: Some(parts.state.agent_log(&agent.config.name)),
        });
        send(parts, &request);
    }

    /// Tells the pages.
    fn publish(&self, parts: &Parts) {
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

fn tell_home(parts: &Parts, index: usize, command: Command) {
    let agent = AgentIndex(u32::try_from(index).unwrap_or(u32::MAX));
    let count = u8::try_from(parts.shards.len()).unwrap_or(u8::MAX);
    parts.shards[usize::from(agent.home(count).0)].tell(command);
}

fn kill(parts: &mut Parts, instance: InstanceId) {
    send(parts, &Request::Kill { instance: instance.0, signal: SIGKILL });
}

/// A request that cannot be sent is not lost silently: the keeper is gone then, which its socket tells next.
fn send(parts: &mut Parts, request: &Request) {
    if let Err(error) = parts.keeper.send(request)
        // Relaxed: only decides on a log line.
        && !parts.draining.load(Ordering::Relaxed)
    {
        tracing::error!(%error, "a request to the keeper is lost");
    }
}
