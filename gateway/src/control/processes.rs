//! How processes of agents are started, and how their ends are told.

use std::path::Path;

use adapters::agent::host::SMALL_PAGES;
use engine::event::InstanceId;
use engine::shard::SKILL_BACKLOG_BYTES_MAX;
use keeper::control::{Cause, Exit, Spawn};
use shm_transport::link::{Limits, MESSAGE_BYTES_MAX};

use crate::config::{AgentConfig, AgentKind, InstancesPer, with_host};
use crate::state_directory::StateDirectory;

/// The variable that tells an agent what its process is for, where that is not its pool.
const INSTANCES_PER: &str = "OPENCLAW_INSTANCES_PER";
/// Bytes of the ring to an agent, and of the one back.
const AGENT_RING_BYTES: u64 = 64 * 1024;
/// What may wait for room in the ring to an agent: its credit, one message beyond, and answers of skills.
const AGENT_BACKLOG_BYTES_MAX: usize = SKILL_BACKLOG_BYTES_MAX + MESSAGE_BYTES_MAX + 16 * 1024 * 1024;

/// The limits of the link to an agent.
pub(super) fn link_limits() -> Limits {
    Limits { backlog_bytes_max: AGENT_BACKLOG_BYTES_MAX, ..Limits::default() }
}

/// How an agent is started.
pub(super) fn spawn_request(
    agent: &AgentConfig,
    executable: &Path,
    state: &StateDirectory,
    instance: InstanceId,
) -> Spawn {
    let host = executable.to_string_lossy().into_owned();
    let argv = match &agent.kind {
        AgentKind::Echo => vec![host, "agent-host".into(), "echo".into()],
        AgentKind::Stdio(command) => {
            let mut argv = vec![host, "agent-host".into(), "stdio".into(), "--".into()];
            argv.extend(command.iter().cloned());
            argv
        }
    };
    let mut environment = environment(agent);
    if agent.life.per == InstancesPer::Conversation {
        // Agents may rely on it; and a gateway that is told otherwise does not go on with such a process.
        environment.push((INSTANCES_PER.into(), agent.life.per.name().into()));
    }
    Spawn {
        instance: instance.0,
        // Every incarnation gets rings of its own, so its number is the generation of both.
        generation: instance.0,
        name: agent.name.clone(),
        argv,
        environment,
        working_directory: agent.working_directory.clone(),
        to_agent_bytes: AGENT_RING_BYTES,
        from_agent_bytes: AGENT_RING_BYTES,
        log_path: Some(state.agent_log(&agent.name)),
        limits: agent.limits,
        sandbox: agent.sandbox.clone().map(|spec| Box::new(with_host(spec, executable))),
    }
}

/// What the configuration says, and what keeps the host of an agent small.
fn environment(agent: &AgentConfig) -> Vec<(String, String)> {
    let (name, value) = SMALL_PAGES;
    let own = (name.to_owned(), value.to_owned());
    agent.environment.iter().cloned().chain([own]).collect()
}

/// How a process ended, as words.
pub(super) fn describe(exit: Exit, cause: Option<Cause>) -> String {
    match cause {
        Some(Cause::OutOfMemory { limit_bytes: Some(bytes) }) => {
            return format!("out of memory (limit {} MiB)", bytes >> 20);
        }
        Some(Cause::OutOfMemory { limit_bytes: None }) => {
            return "out of memory (of the machine, or of the gateway's cgroup)".into();
        }
        None => {}
    }
    match exit {
        Exit::Code(127) => "exit status 127 (its program could not be started)".into(),
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::Unknown => "an unknown cause (its keeper had died before)".into(),
    }
}
