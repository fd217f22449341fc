//! Settings: the file, the environment and the flags, checked all at once.
//!
//! The keys are rows of `docs/config.md`. [`FileConfig`] is what the file may say; [`Config`] is what the
//! rest of the program sees. Flags win over the file, the file over defaults.

mod delivery;
mod heartbeat;
mod keys;
pub mod limits;
mod sandbox;
mod supervision;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::driver::Choice;
use engine::heartbeat::HeartbeatLimits;
use engine::supervision::fleet::FleetLimits;
use keeper::sandbox::spec::SandboxSpec;
use serde::Deserialize;

use crate::options::{RunOptions, RuntimeChoice};
use crate::state_directory;
pub use delivery::{DeliveryConfig, RoutingConfig};
use delivery::{FileDelivery, FileJournal, FileRouting};
use keeper::control::Limits;
pub use keys::{Effort, Keys};
use limits::FileLimits;
pub use sandbox::with_host;
use sandbox::{FileSandbox, Surroundings, program_refused};
pub use supervision::AgentLife;
use supervision::{FileRestart, FileSickness, FileSupervision};

/// Default port, that of every OpenClaw gateway.
const PORT_DEFAULT: u16 = 18789;
/// Name of the built-in agent.
pub const ECHO_AGENT: &str = "echo";
const SHARDS_MAX: u64 = 64;
const EDGES_MAX: u64 = 16;
const AGENTS_MAX: usize = 5_000;
const AGENT_NAME_BYTES_MAX: usize = 64;
const IN_FLIGHT_DEFAULT: u64 = 256;
const IN_FLIGHT_MAX: u64 = 4096;
/// Command, environment and directory of an agent, as JSON: what fits into one datagram to the keeper beside
/// the paths of this program and of the log.
const AGENT_BYTES_MAX: usize = 48 * 1024;
const DRAIN_TIMEOUT_DEFAULT_MS: u64 = 5_000;
const DRAIN_TIMEOUT_MAX_MS: u64 = 600_000;

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileConfig {
    #[serde(default)]
    gateway: FileGateway,
    #[serde(default)]
    engine: FileEngine,
    #[serde(default)]
    agents: FileAgents,
    #[serde(default)]
    journal: FileJournal,
    #[serde(default)]
    delivery: FileDelivery,
    #[serde(default)]
    routing: FileRouting,
    #[serde(default)]
    supervision: FileSupervision,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileGateway {
    host: Option<IpAddr>,
    port: Option<u16>,
    edge_threads: Option<u64>,
    drain_timeout_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileEngine {
    shards: Option<u64>,
    runtime: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileAgents {
    #[serde(default)]
    defaults: FileDefaults,
    #[serde(default)]
    entries: BTreeMap<String, FileAgent>,
}

/// What holds for every agent that does not say otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileDefaults {
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    sandbox: FileSandbox,
}

/// What settings of agents are bounded by.
#[derive(Clone, Copy, Debug)]
struct Machine<'a> {
    cores: u64,
    state_directory: &'a Path,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileAgent {
    /// The program and its arguments; left out for the built-in echo agent.
    command: Option<Vec<String>>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    working_directory: Option<PathBuf>,
    in_flight_max: Option<u64>,
    instances: Option<u64>,
    start_timeout_ms: Option<u64>,
    #[serde(default)]
    limits: FileLimits,
    #[serde(default)]
    sandbox: FileSandbox,
    min_instances: Option<u64>,
    max_instances: Option<u64>,
    spares: Option<u64>,
    idle_timeout_ms: Option<u64>,
    drain_timeout_ms: Option<u64>,
    #[serde(default)]
    restart: FileRestart,
    #[serde(default)]
    sickness: FileSickness,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    skills: Vec<String>,
    #[serde(default)]
    channels: Vec<String>,
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
}

/// All settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub address: SocketAddr,
    /// Where files are kept.
    pub state_directory: PathBuf,
    /// Shard threads.
    pub shard_count: usize,
    /// Edge threads.
    pub edge_count: usize,
    /// What runs the shards.
    pub runtime: Choice,
    /// How long Ctrl-C waits for replies.
    pub drain_timeout: Duration,
    /// The agents; their order is their number.
    pub agents: Vec<AgentConfig>,
    /// The journal and delivery.
    pub delivery: DeliveryConfig,
    /// Who gets what.
    pub routing: RoutingConfig,
    /// How patient the gateway is with agents that say nothing.
    pub heartbeat: HeartbeatLimits,
    /// How fast agents may be started again.
    pub fleet: FleetLimits,
    /// What the file says, by key.
    pub keys: Keys,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no home directory to derive the state directory from.
    #[error("HOME is not set: name the state directory with --state-dir or OPENCLAW_STATE_DIR")]
    NoHome,
    /// The file cannot be read.
    #[error("configuration file {path} cannot be read", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration file {path}", path = path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: json5::Error,
    },
    /// Rules are broken; all of them are listed.
    #[error("{0}")]
    Rules(BrokenRules),
}

/// All broken rules, a line each: key, value, rule.
#[derive(Debug, PartialEq, Eq)]
pub struct BrokenRules(pub Vec<String>);

impl fmt::Display for BrokenRules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of the settings cannot be used", self.0.len())?;
        self.0.iter().try_for_each(|rule| write!(formatter, "\n  {rule}"))
    }
}

/// Reads the file and the flags, and checks everything.
pub fn load(options: &RunOptions) -> Result<Config, ConfigError> {
    let state_directory = state_directory::chosen(options.state_dir.as_deref()).ok_or(ConfigError::NoHome)?;
    let (file, keys) = match &options.config {
        Some(path) => read(path)?,
        None => {
            let path = state_directory.join("openclaw.json");
            if path.exists() { read(&path)? } else { Default::default() }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let broken = |rules| ConfigError::Rules(BrokenRules(rules));
    let config = validate(file, options, state_directory, cores).map_err(broken)?;
    let unmet = limits::unmet(&config.agents, &limits::enforcement(&config));
    if unmet.is_empty() { Ok(Config { keys, ..config }) } else { Err(broken(unmet)) }
}

/// What a file says: checked for its form, and key by key.
fn read(path: &Path) -> Result<(FileConfig, Keys), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let failed = |source| ConfigError::Parse { path: path.to_owned(), source };
    let file = json5::from_str(&text).map_err(failed)?;
    Ok((file, Keys::of(&json5::from_str(&text).map_err(failed)?)))
}

/// Checks every rule; `Err` lists all that are broken.
fn validate(
    file: FileConfig,
    options: &RunOptions,
    state_directory: PathBuf,
    cores: u64,
) -> Result<Config, Vec<String>> {
    let mut broken = Vec::new();
    let host = options.host.or(file.gateway.host).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if !host.is_loopback() {
        broken.push(format!(
            "gateway.host = {host}: must be a loopback address, since there is no authentication yet"
        ));
    }
    let port = options.port.or(file.gateway.port).unwrap_or(PORT_DEFAULT);
    let edge_count = options.edges.or(file.gateway.edge_threads).unwrap_or((cores / 4).max(1));
    range(&mut broken, "gateway.edgeThreads", edge_count, 1, EDGES_MAX);
    let shards_left = cores.saturating_sub(edge_count).clamp(1, SHARDS_MAX);
    let shard_count = options.shards.or(file.engine.shards).unwrap_or(shards_left);
    range(&mut broken, "engine.shards", shard_count, 1, SHARDS_MAX);
    let drain =
        options.drain_timeout_ms.or(file.gateway.drain_timeout_ms).unwrap_or(DRAIN_TIMEOUT_DEFAULT_MS);
    range(&mut broken, "gateway.drainTimeoutMs", drain, 0, DRAIN_TIMEOUT_MAX_MS);
    let runtime = runtime(&mut broken, options.runtime, file.engine.runtime.as_deref());
    let around = Machine { cores, state_directory: &state_directory };
    let agents = agents(&mut broken, file.agents, &options.agent, around);
    let delivery = delivery::check(&mut broken, &file.journal, &file.delivery);
    let heartbeat = heartbeat::check(&mut broken, file.supervision.heartbeat());
    let routing = delivery::check_routing(&mut broken, file.routing, &agents);
    let fleet = supervision::check_fleet(&mut broken, &file.supervision);
    if !broken.is_empty() {
        return Err(broken);
    }
    Ok(Config {
        address: SocketAddr::new(host, port),
        state_directory,
        shard_count: shard_count as usize,
        edge_count: edge_count as usize,
        runtime,
        drain_timeout: Duration::from_millis(drain),
        agents,
        delivery,
        routing,
        heartbeat,
        fleet,
        keys: Keys::default(),
    })
}

fn range(broken: &mut Vec<String>, key: &str, value: u64, min: u64, max: u64) {
    if value < min || value > max {
        broken.push(format!("{key} = {value}: must be between {min} and {max}"));
    }
}

fn runtime(broken: &mut Vec<String>, flag: Option<RuntimeChoice>, file: Option<&str>) -> Choice {
    match (flag, file) {
        (Some(RuntimeChoice::Auto), _) | (None, None | Some("auto")) => Choice::Auto,
        (Some(RuntimeChoice::Uring), _) | (None, Some("uring")) => Choice::Uring,
        (Some(RuntimeChoice::Epoll), _) | (None, Some("epoll")) => Choice::Epoll,
        (None, Some(other)) => {
            broken.push(format!("engine.runtime = \"{other}\": must be \"auto\", \"uring\" or \"epoll\""));
            Choice::Auto
        }
    }
}

/// The agents of the file and of the flags, and the built-in one.
fn agents(
    broken: &mut Vec<String>,
    file: FileAgents,
    flags: &[String],
    around: Machine<'_>,
) -> Vec<AgentConfig> {
    let FileAgents { defaults, mut entries } = file;
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
    let check = |(name, agent)| check_agent(broken, name, agent, &defaults, around);
    let agents: Vec<_> = entries.into_iter().flat_map(check).collect();
    if agents.len() > AGENTS_MAX {
        broken.push(format!("agents.entries has {} agents: at most {AGENTS_MAX} are possible", agents.len()));
    }
    agents
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
    if let Some(directory) = &agent.working_directory
        && !directory.is_dir()
    {
        broken.push(format!("{key}.workingDirectory = {}: is not a directory", directory.display()));
    }
    let limits = agent.limits.of_agent(broken, &key, &defaults.limits, around.cores);
    let surroundings = Surroundings {
        command: agent.command.as_deref(),
        working_directory: agent.working_directory.as_deref(),
        state_directory: around.state_directory,
    };
    let sandbox = sandbox::check(broken, &key, &agent.sandbox, &defaults.sandbox, surroundings);
    let said = (&agent.command, &agent.environment, &agent.working_directory, &sandbox);
    let said = serde_json::json!(said).to_string();
    if said.len() > AGENT_BYTES_MAX {
        broken.push(format!(
            "{key} has {} bytes of command, environment, directory and sandbox: at most {AGENT_BYTES_MAX} are possible",
            said.len()
        ));
    }
    let directory = agent.working_directory.as_deref();
    let kind = kind(broken, &key, agent.command, name == ECHO_AGENT, directory, sandbox.as_ref());
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
    };
    if members <= 1 {
        return vec![member];
    }
    (1..=members)
        .map(|number| AgentConfig { name: format!("{}~{number}", member.pool), ..member.clone() })
        .collect()
}

/// What an agent runs: the built-in one only under its own name.
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

    pub(super) fn check(text: &str, options: &RunOptions) -> Result<Config, Vec<String>> {
        validate(json5::from_str(text).unwrap(), options, PathBuf::from("state"), 8)
    }

    /// An empty file gives the documented defaults and the built-in agent.
    #[test]
    fn defaults() {
        let config = check("{}", &RunOptions::default()).unwrap();
        assert_eq!(config.address, SocketAddr::from(([127, 0, 0, 1], 18789)));
        assert_eq!((config.shard_count, config.edge_count, config.runtime), (6, 2, Choice::Auto));
        let names: Vec<_> = config.agents.iter().map(|agent| (&*agent.name, &agent.kind)).collect();
        assert_eq!(names, [("echo", &AgentKind::Echo)]);
    }

    /// Flags win over the file.
    #[test]
    fn flags_win() {
        let options = RunOptions {
            port: Some(1),
            runtime: Some(RuntimeChoice::Epoll),
            agent: vec!["list=ls -l".into()],
            ..RunOptions::default()
        };
        let config = check("{gateway: {port: 2}, engine: {runtime: 'uring', shards: 3}}", &options).unwrap();
        assert_eq!((config.address.port(), config.runtime, config.shard_count), (1, Choice::Epoll, 3));
        assert_eq!(config.agents[1].kind, AgentKind::Stdio(vec!["ls".into(), "-l".into()]));
    }

    /// All broken rules come at once, each with key, value and rule.
    #[test]
    fn every_broken_rule_is_listed() {
        let text = "{gateway: {host: '0.0.0.0', edgeThreads: 17}, engine: {shards: 0, runtime: 'x'},
            agents: {entries: {'a b': {}, gone: {command: ['no-such-program-here']}, none: {command: []},
            much: {command: ['ls'], inFlightMax: 5000, workingDirectory: '/no/such'}}}}";
        let options = RunOptions { agent: vec!["nothing".into(), "gone=ls".into()], ..RunOptions::default() };
        let broken = check(text, &options).unwrap_err();
        let keys: Vec<_> = broken.iter().map(|rule| rule.split([':', ' ']).next().unwrap()).collect();
        assert_eq!(
            keys,
            [
                "gateway.host",
                "gateway.edgeThreads",
                "engine.shards",
                "engine.runtime",
                "--agent",
                "--agent",
                "agents.entries.a",
                "agents.entries.a",
                "agents.entries.much.inFlightMax",
                "agents.entries.much.workingDirectory",
                "agents.entries.none.command",
            ]
        );
    }

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

    /// A program that is not there, and an unknown key, are named.
    #[test]
    fn missing_programs_and_unknown_keys_are_named() {
        let broken =
            check("{agents: {entries: {a: {command: ['no-such-program-here']}}}}", &RunOptions::default());
        let rule = "agents.entries.a.command[0] = \"no-such-program-here\": no such program; give its path, or install it";
        assert_eq!(broken.unwrap_err(), [rule]);
        let unknown = json5::from_str::<FileConfig>("{gatewy: {}}").unwrap_err();
        assert!(unknown.to_string().contains("gatewy"), "{unknown}");
    }
}
