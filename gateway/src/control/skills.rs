//! Skills: an agent asks, the keeper starts, and what the process has written goes back.
//!
//! The input is in a sealed file, so nothing has to be written while the process runs. The output comes through a pipe; a
//! task reads it up to the limit. A skill is over when both its process and its pipe have ended.

use std::collections::{BTreeSet, HashMap};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use engine::event::InstanceId;
use engine::shard::Command;
use engine::time::Moment;
use keeper::control::{Cause, Exit, Skill};
use keeper::sandbox::spec::NotNarrower;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use shm_transport::envelope::{SKILL_BYTES_MAX, SkillOutcome};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use super::Parts;
use super::agents::{Agents, kill, tell_home};
use super::processes::describe;

/// How long a skill that has been killed may hold its pipe open.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Why a skill has no output.
type Failure = (SkillOutcome, String);

/// A skill that has been asked for and is not over.
#[derive(Debug)]
struct Running {
    agent: InstanceId,
    index: usize,
    call: u64,
    name: String,
    timeout: Duration,
    /// When it is killed, or given up if it has been.
    due: Moment,
    failure: Option<Failure>,
    output: Option<Vec<u8>>,
    exit: Option<(Exit, Option<Cause>)>,
}

/// What a skill has written, once its pipe has ended; one byte more than may be if it is too much.
#[derive(Debug)]
pub(super) struct Said {
    instance: InstanceId,
    output: Vec<u8>,
}

/// All skills that run.
#[derive(Debug)]
pub(super) struct Skills {
    known: BTreeSet<String>,
    running: HashMap<InstanceId, Running>,
    said: mpsc::UnboundedSender<Said>,
    heard: mpsc::UnboundedReceiver<Said>,
}

impl Skills {
    pub(super) fn new(known: BTreeSet<String>) -> Self {
        let (said, heard) = mpsc::unbounded_channel();
        Self { known, running: HashMap::new(), said, heard }
    }

    /// Another configuration has these.
    pub(super) fn set_known(&mut self, known: BTreeSet<String>) {
        self.known = known;
    }

    /// What a skill has written.
    pub(super) async fn heard(&mut self) -> Option<Said> {
        self.heard.recv().await
    }

    /// When one of them has had its time.
    pub(super) fn next_due(&self) -> Option<Moment> {
        self.running.values().map(|running| running.due).min()
    }

    /// Whether an incarnation is a skill.
    pub(super) fn has(&self, instance: InstanceId) -> bool {
        self.running.contains_key(&instance)
    }
}

impl Agents {
    /// An agent asks for a skill.
    pub(super) fn skill_asked(
        &mut self,
        parts: &mut Parts,
        agent: InstanceId,
        call: u64,
        (name, input): (&str, &str),
    ) {
        // Who is dead is not answered.
        let Some(&index) = self.by_instance.get(&agent) else { return };
        if let Err((outcome, output)) = self.start_skill(parts, (agent, index), call, (name, input)) {
            // Not a warning: an agent could fill the log with them.
            tracing::debug!(
                agent = self.agents[index].config.name,
                skill = name,
                outcome = outcome.name(),
                reason = output,
                "the skill is refused"
            );
            tell_home(parts, index, Command::SkillEnded { instance: agent, call, outcome, output });
        }
    }

    fn start_skill(
        &mut self,
        parts: &mut Parts,
        (agent, index): (InstanceId, usize),
        call: u64,
        (name, input): (&str, &str),
    ) -> Result<(), Failure> {
        let config = &self.agents[index].config;
        let Some(skill) = config.skill_commands.get(name) else {
            return Err(if self.skills.known.contains(name) {
                let text = format!("agent \"{}\" does not list skill \"{name}\"", config.pool);
                (SkillOutcome::NotAllowed, text)
            } else {
                (SkillOutcome::UnknownSkill, format!("no skill is named \"{name}\""))
            });
        };
        if let Some(outer) = &self.agents[index].sandbox
            && let Err(NotNarrower { field }) = outer.narrow(&skill.sandbox)
        {
            let text = format!(
                "{field} of its sandbox is wider than that of the agent's process: restart the agent"
            );
            return Err((SkillOutcome::TooWide, text));
        }
        let not_started = |reason: String| (SkillOutcome::NotStarted, reason);
        if !parts.keeper.starts_skills() {
            let reason = "the keeper is of an older build; stop the gateway and start it again";
            return Err(not_started(reason.to_owned()));
        }
        let failed =
            |error: std::io::Error| not_started(format!("its input or output cannot be made: {error}"));
        let file = sealed(input).map_err(failed)?;
        let (output, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let output = Receiver::from_owned_fd(output).map_err(failed)?;
        let request = Skill {
            instance: self.next_instance,
            parent: agent.0,
            name: name.to_owned(),
            argv: skill.command.clone(),
            log_path: parts.state.agent_log(&config.name),
            limits: config.limits,
            sandbox: Box::new(skill.sandbox.clone()),
        };
        let (timeout, due) = (skill.timeout, parts.clock.now().plus(skill.timeout));
        parts
            .keeper
            .start_skill(request, [file.as_fd(), writer.as_fd()])
            .map_err(|error| not_started(format!("the keeper does not take it: {error}")))?;
        let instance = InstanceId(self.next_instance);
        self.next_instance += 1;
        tokio::spawn(read(instance, output, self.skills.said.clone()));
        let name = name.to_owned();
        let (failure, output, exit) = (None, None, None);
        let running = Running { agent, index, call, name, timeout, due, failure, output, exit };
        self.skills.running.insert(instance, running);
        Ok(())
    }

    /// A skill has ended its output.
    pub(super) fn skill_said(&mut self, parts: &mut Parts, Said { instance, output }: Said) {
        let Some(running) = self.skills.running.get_mut(&instance) else { return };
        if output.len() > SKILL_BYTES_MAX {
            let text = format!("skill \"{}\" has written more than {SKILL_BYTES_MAX} bytes", running.name);
            running.failure.get_or_insert((SkillOutcome::TooLarge, text));
            kill(parts, instance);
        }
        running.output = Some(output);
        self.end_skill(parts, instance);
    }

    /// The process of a skill is dead.
    pub(super) fn skill_died(
        &mut self,
        parts: &mut Parts,
        instance: InstanceId,
        exit: Exit,
        cause: Option<Cause>,
    ) {
        let Some(running) = self.skills.running.get_mut(&instance) else { return };
        running.exit = Some((exit, cause));
        self.end_skill(parts, instance);
    }

    /// The keeper has died, and the kernel has killed all skills with it.
    pub(super) fn lose_skills(&mut self, parts: &mut Parts) {
        for instance in self.skills.running.keys().copied().collect::<Vec<_>>() {
            if let Some(running) = self.skills.running.get_mut(&instance) {
                let text = format!("the keeper died while skill \"{}\" ran", running.name);
                running.failure.get_or_insert((SkillOutcome::Lost, text));
            }
            self.skill_died(parts, instance, Exit::Unknown, None);
        }
    }

    /// A skill could not be started.
    pub(super) fn skill_not_started(&mut self, parts: &mut Parts, instance: InstanceId, reason: String) {
        let Some(running) = self.skills.running.remove(&instance) else { return };
        answer(parts, running, SkillOutcome::NotStarted, reason);
    }

    /// Skills that have had their time are killed; those that hold their pipe open even then are given up.
    pub(super) fn skills_due(&mut self, parts: &mut Parts) {
        let now = parts.clock.now();
        let due = self.skills.running.iter().filter(|(_, running)| running.due <= now);
        for instance in due.map(|(&instance, _)| instance).collect::<Vec<_>>() {
            let Some(running) = self.skills.running.get_mut(&instance) else { continue };
            let (name, timeout_ms) = (&running.name, running.timeout.as_millis());
            let given_up = running.failure.is_some();
            let text = format!("skill \"{name}\" has not ended within {timeout_ms} ms");
            running.failure.get_or_insert((SkillOutcome::TimedOut, text));
            running.due = now.plus(KILL_PATIENCE);
            kill(parts, instance);
            if given_up {
                running.output.get_or_insert_default();
                running.exit.get_or_insert((Exit::Signal(0), None));
                self.end_skill(parts, instance);
            }
        }
    }

    /// Answers, if all of a skill has ended.
    fn end_skill(&mut self, parts: &mut Parts, instance: InstanceId) {
        let over = |running: &mut Running| running.output.is_some() && running.exit.is_some();
        let Some(mut running) = self.skills.running.remove(&instance) else { return };
        if !over(&mut running) {
            self.skills.running.insert(instance, running);
            return;
        }
        let (outcome, output) = running.verdict();
        answer(parts, running, outcome, output);
    }
}

impl Running {
    fn verdict(&mut self) -> Failure {
        let name = &self.name;
        match (self.failure.take(), self.exit, self.output.take()) {
            (Some(failure), ..) => failure,
            (None, Some((Exit::Code(0), _)), output) => match String::from_utf8(output.unwrap_or_default()) {
                Ok(text) => (SkillOutcome::Done, text),
                Err(_) => (SkillOutcome::NotText, format!("what skill \"{name}\" has written is not UTF-8")),
            },
            (None, exit, _) => {
                let how = exit.map_or_else(String::new, |(exit, cause)| describe(exit, cause));
                (SkillOutcome::Died, format!("skill \"{name}\" ended with {how}"))
            }
        }
    }
}

fn answer(parts: &Parts, running: Running, outcome: SkillOutcome, output: String) {
    let Running { agent, index, call, name, .. } = running;
    tracing::debug!(skill = name, outcome = outcome.name(), "a skill has ended");
    tell_home(parts, index, Command::SkillEnded { instance: agent, call, outcome, output });
}

/// A file that holds the input and cannot be changed, at its beginning.
fn sealed(input: &str) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("openclaw-skill-input", flags)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Reads what a skill writes, up to one byte more than may be. A pipe that breaks has ended.
async fn read(instance: InstanceId, pipe: Receiver, said: mpsc::UnboundedSender<Said>) {
    let mut output = Vec::new();
    let _ = pipe.take(SKILL_BYTES_MAX as u64 + 1).read_to_end(&mut output).await; // As above.
    let _ = said.send(Said { instance, output }); // Nobody listens only when the gateway ends.
}
