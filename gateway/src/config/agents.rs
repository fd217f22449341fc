//! Agents: what the file says of them, what holds for those that do not say otherwise, and what is checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keeper::control::Limits;
use keeper::sandbox::spec::SandboxSpec;
use schemars::JsonSchema;
use serde::Deserialize;

use super::limits::FileLimits;
use super::sandbox::{self, FileSandbox, Surroundings, program_refused};
use super::skills::SkillCommand;
use super::supervision::{self, AgentLife, FileRestart, FileSickness};
use super::{heartbeat, range};

/// Name of the built-in agent.
pub const ECHO_AGENT: &str = "echo";
const AGENTS_MAX: usize = 5_000;
const AGENT_NAME_BYTES_MAX: usize = 64;
const IN_FLIGHT_DEFAULT: u64 = 256;
const IN_FLIGHT_MAX: u64 = 4096;
/// Command, environment and directory of an agent, as JSON: what fits into one datagram to the keeper beside
/// the paths of this program and of the log.
const AGENT_BYTES_MAX: usize = 48 * 1024;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileAgents {
    #[serde(default)]
    defaults: FileDefaults,
    #[serde(default)]
    templates: BTreeMap<String, FileTemplate>,
    #[serde(default)]
    entries: BTreeMap<String, FileAgent>,
}

/// What clients may make agents of.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileTemplate {
    command: Option<Vec<String>>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    working_directory: Option<PathBuf>,
}

/// What holds for every agent that does not say otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileDefaults {
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    sandbox: FileSandbox,
}

/// What settings of agents are bounded by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) cores: u64,
    pub(super) state_directory: &'a Path,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileAgent {
    /// Which template gives it its command, with variables and a directory.
    pub(super) template: Option<String>,
    /// The program and its arguments; left out for the built-in echo agent.
    pub(super) command: Option<Vec<String>>,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    pub(super) working_directory: Option<PathBuf>,
    pub(super) in_flight_max: Option<u64>,
    pub(super) instances: Option<u64>,
    pub(super) instances_per: Option<String>,
    pub(super) start_timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) limits: FileLimits,
    #[serde(default)]
    pub(super) sandbox: FileSandbox,
    pub(super) min_instances: Option<u64>,
    pub(super) max_instances: Option<u64>,
    pub(super) spares: Option<u64>,
    pub(super) idle_timeout_ms: Option<u64>,
    pub(super) drain_timeout_ms: Option<u64>,
    #[serde(default)]
    pub(super) restart: FileRestart,
    #[serde(default)]
    pub(super) sickness: FileSickness,
    #[serde(default)]
    pub(super) capabilities: Vec<String>,
    #[serde(default)]
    pub(super) skills: Vec<String>,
    #[serde(default)]
    pub(super) channels: Vec<String>,
}

/// What an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentKind {
    /// The built-in agent that answers with what it was told.
    Echo,
    /// A program with arguments that reads and writes JSON lines.
    Stdio(Vec<String>),
}

/// An agent, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Its own name: that of its pool, with a number behind it where the pool has several.
    pub name: String,
    /// How messages name it.
    pub pool: String,
    /// What it can do, as rules and labels name it.
    pub capabilities: Vec<String>,
    /// What it runs.
    pub kind: AgentKind,
    /// Added to its environment.
    pub environment: Vec<(String, String)>,
    /// Where it starts; the gateway's own directory if left out.
    pub working_directory: Option<PathBuf>,
    /// How many messages it may have in its hands.
    pub in_flight_max: usize,
    /// How long it may take to say its first words.
    pub start_timeout: Duration,
    /// What each of its processes may take, with all that it starts.
    pub limits: Limits,
    /// What it may see and do; whatever the gateway may if absent.
    pub sandbox: Option<SandboxSpec>,
    /// How it is looked after.
    pub life: AgentLife,
    /// The skills that it may ask for, by name.
    pub skill_commands: BTreeMap<String, SkillCommand>,
}

/// The agents of the file and of the flags, and the built-in one.
pub(super) fn check(
    broken: &mut Vec<String>,
    file: FileAgents,
    flags: &[String],
    around: Machine<'_>,
) -> Vec<AgentConfig> {
    let FileAgents { defaults, templates, mut entries } = file;
    defaults.limits.check(broken, "agents.defaults.limits", around.cores);
    for flag in flags {
        let Some((name, command)) = flag.split_once('=') else {
            broken.push(format!("--agent {flag}: must be NAME=COMMAND"));
            continue;
        };
        let command = command.split_whitespace().map(str::to_owned).collect();
        let agent = FileAgent { command: Some(command), ..FileAgent::default() };
        if entries.insert(name.to_owned(), agent).is_some() {
            broken.push(format!("--agent {flag}: an agent \"{name}\" is defined already"));
        }
    }
    entries.entry(ECHO_AGENT.to_owned()).or_default();
    check_templates(broken, &templates, &defaults, around);
    for (name, agent) in &mut entries {
        take_template(broken, name, agent, &templates);
    }
    let check = |(name, agent)| check_agent(broken, name, agent, &defaults, around);
    let agents: Vec<_> = entries.into_iter().flat_map(check).collect();
    if agents.len() > AGENTS_MAX {
        broken.push(format!("agents.entries has {} agents: at most {AGENTS_MAX} are possible", agents.len()));
    }
    agents
}

/// Checks each template as the agent that it would be: who uses it later must not be the first to find out.
fn check_templates(
    broken: &mut Vec<String>,
    templates: &BTreeMap<String, FileTemplate>,
    defaults: &FileDefaults,
    around: Machine<'_>,
) {
    for (name, template) in templates {
        let key = format!("agents.templates.{name}");
        if name.is_empty() {
            broken.push(format!("{key}: a template has a name"));
        }
        let FileTemplate { command, environment, working_directory } = template;
        let agent = FileAgent {
            command: command.clone(),
            environment: environment.clone(),
            working_directory: working_directory.clone(),
            ..FileAgent::default()
        };
        check_program(broken, &key, &agent, defaults, around, false);
    }
}

/// Gives an agent the command of its template.
fn take_template(
    broken: &mut Vec<String>,
    name: &str,
    agent: &mut FileAgent,
    templates: &BTreeMap<String, FileTemplate>,
) {
    let Some(wanted) = &agent.template else { return };
    let key = format!("agents.entries.{name}");
    let own = [
        ("command", agent.command.is_some()),
        ("environment", !agent.environment.is_empty()),
        ("workingDirectory", agent.working_directory.is_some()),
    ];
    for (own, _) in own.iter().filter(|(_, is_set)| *is_set) {
        broken.push(format!("{key}.{own}: comes from the template \"{wanted}\"; give it or a template"));
    }
    match templates.get(wanted) {
        None => {
            broken.push(format!(
                "{key}.template = \"{wanted}\": agents.templates has no template of that name"
            ));
            // The missing command is no second fault.
            agent.command.get_or_insert_with(|| vec!["true".to_owned()]);
        }
        Some(FileTemplate { command, environment, working_directory }) => {
            agent.command.get_or_insert_with(|| command.clone().unwrap_or_default());
            if agent.environment.is_empty() {
                agent.environment.clone_from(environment);
            }
            if agent.working_directory.is_none() {
                agent.working_directory.clone_from(working_directory);
            }
        }
    }
}

/// The members of a pool; most pools have one.
fn check_agent(
    broken: &mut Vec<String>,
    name: String,
    agent: FileAgent,
    defaults: &FileDefaults,
    around: Machine<'_>,
) -> Vec<AgentConfig> {
    let key = format!("agents.entries.{name}");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty()
        || name.len() > AGENT_NAME_BYTES_MAX
        || name.starts_with('.')
        || !name.chars().all(plain)
    {
        broken.push(format!(
            "{key}: a name has 1 to {AGENT_NAME_BYTES_MAX} letters, digits, '-', '_' or '.', and no '.' first"
        ));
    }
    let life = supervision::check_life(broken, &key, &agent);
    let in_flight = agent.in_flight_max.unwrap_or(IN_FLIGHT_DEFAULT);
    range(broken, &format!("{key}.inFlightMax"), in_flight, 1, IN_FLIGHT_MAX);
    let limits = agent.limits.of_agent(broken, &key, &defaults.limits, around.cores);
    let (kind, sandbox) = check_program(broken, &key, &agent, defaults, around, name == ECHO_AGENT);
    supervision::check_words(broken, &format!("{key}.capabilities"), &agent.capabilities);
    let members = life.pool.max;
    let member = AgentConfig {
        name: name.clone(),
        pool: name,
        capabilities: agent.capabilities,
        kind,
        environment: agent.environment.into_iter().collect(),
        working_directory: agent.working_directory,
        in_flight_max: in_flight as usize,
        start_timeout: heartbeat::check_start(broken, &key, agent.start_timeout_ms),
        limits,
        sandbox,
        life,
        skill_commands: BTreeMap::new(),
    };
    if members <= 1 {
        return vec![member];
    }
    (1..=members)
        .map(|number| AgentConfig { name: format!("{}~{number}", member.pool), ..member.clone() })
        .collect()
}

/// What an agent runs, where and in which sandbox: the built-in one only under its own name.
fn check_program(
    broken: &mut Vec<String>,
    key: &str,
    agent: &FileAgent,
    defaults: &FileDefaults,
    around: Machine<'_>,
    is_echo: bool,
) -> (AgentKind, Option<SandboxSpec>) {
    let directory = agent.working_directory.as_deref();
    if let Some(directory) = directory
        && !directory.is_dir()
    {
        broken.push(format!("{key}.workingDirectory = {}: is not a directory", directory.display()));
    }
    let surroundings = Surroundings {
        command: agent.command.as_deref(),
        working_directory: directory,
        state_directory: around.state_directory,
    };
    let sandbox = sandbox::check(broken, key, &agent.sandbox, &defaults.sandbox, surroundings);
    let said = (&agent.command, &agent.environment, &agent.working_directory, &sandbox);
    let said = serde_json::json!(said).to_string();
    if said.len() > AGENT_BYTES_MAX {
        broken.push(format!(
            "{key} has {} bytes of command, environment, directory and sandbox: at most {AGENT_BYTES_MAX} are possible",
            said.len()
        ));
    }
    (kind(broken, key, agent.command.clone(), is_echo, directory, sandbox.as_ref()), sandbox)
}

/// The command, checked.
fn kind(
    broken: &mut Vec<String>,
    key: &str,
    command: Option<Vec<String>>,
    is_echo: bool,
    directory: Option<&Path>,
    sandbox: Option<&SandboxSpec>,
) -> AgentKind {
    let Some(command) = command else {
        if !is_echo {
            broken
                .push(format!("{key}.command: must name a program, for example [\"python3\", \"agent.py\"]"));
        }
        return AgentKind::Echo;
    };
    match command.first() {
        None => broken.push(format!("{key}.command = []: must name a program")),
        Some(program) => {
            if let Some(rule) = program_refused(program, directory, sandbox) {
                broken.push(format!("{key}.command[0] = \"{program}\": {rule}"));
            }
        }
    }
    AgentKind::Stdio(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::check;
    use crate::options::RunOptions;

    /// What does not fit into one datagram to the keeper is refused before anything starts.
    #[test]
    fn agents_fit_into_a_datagram() {
        let text = |bytes: usize| {
            format!(
                "{{agents: {{entries: {{a: {{command: ['ls'], sandbox: {{mode: 'off'}}, environment: {{A: '{}'}}}}}}}}}}",
                "x".repeat(bytes)
            )
        };
        assert!(check(&text(AGENT_BYTES_MAX - 100), &RunOptions::default()).is_ok());
        let broken = check(&text(AGENT_BYTES_MAX), &RunOptions::default()).unwrap_err();
        assert!(broken[0].starts_with("agents.entries.a has 49179 bytes of command"), "{broken:?}");
    }

    /// An agent has the command of its template, and nothing of both; a template is checked though nobody uses it.
    #[test]
    fn templates_give_commands() {
        let of = |templates: &str, entry: &str| {
            let text = format!("{{agents: {{templates: {templates}, entries: {{a: {entry}}}}}}}");
            check(&text, &RunOptions::default())
        };
        let config = of("{t: {command: ['ls', '-l'], environment: {A: 'b'}}}", "{template: 't'}").unwrap();
        let agent = config.agents.iter().find(|agent| agent.name == "a").unwrap();
        assert_eq!(agent.kind, AgentKind::Stdio(vec!["ls".into(), "-l".into()]));
        assert_eq!(agent.environment, [("A".to_owned(), "b".to_owned())]);
        let broken = |templates: &str, entry: &str, rule: &str| {
            assert_eq!(of(templates, entry).unwrap_err(), [rule]);
        };
        broken(
            "{}",
            "{template: 't'}",
            "agents.entries.a.template = \"t\": agents.templates has no template of that name",
        );
        broken(
            "{t: {command: ['ls']}}",
            "{template: 't', command: ['ls']}",
            "agents.entries.a.command: comes from the template \"t\"; give it or a template",
        );
        broken(
            "{t: {}}",
            "{command: ['ls']}",
            "agents.templates.t.command: must name a program, for example [\"python3\", \"agent.py\"]",
        );
        broken(
            "{t: {command: ['ls'], workingDirectory: '/no/such'}}",
            "{command: ['ls']}",
            "agents.templates.t.workingDirectory = /no/such: is not a directory",
        );
    }
}
