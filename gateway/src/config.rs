//! Settings: the file, the environment and the flags, checked all at once.
//!
//! The keys are rows of `docs/config.md`. [`FileConfig`] is what the file may say; [`Config`] is what the
//! rest of the program sees. Flags win over the file, the file over defaults.

mod delivery;
pub mod restart;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::driver::Choice;
use serde::Deserialize;

use crate::options::{RunOptions, RuntimeChoice};
use crate::state_directory;
pub use delivery::{DeliveryConfig, RoutingConfig};
use delivery::{FileDelivery, FileJournal, FileRouting};
pub use restart::Restart;

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
const INSTANCES_MAX: u64 = 256;
const DRAIN_TIMEOUT_DEFAULT_MS: u64 = 5_000;
const DRAIN_TIMEOUT_MAX_MS: u64 = 600_000;
const HANDOVER_TIMEOUT_DEFAULT_MS: u64 = 60_000;
const HANDOVER_TIMEOUT_MAX_MS: u64 = 3_600_000;

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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileGateway {
    host: Option<IpAddr>,
    port: Option<u16>,
    edge_threads: Option<u64>,
    drain_timeout_ms: Option<u64>,
    restart: Option<String>,
    handover_timeout_ms: Option<u64>,
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
    entries: BTreeMap<String, FileAgent>,
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
    #[serde(default)]
    capabilities: Vec<String>,
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
    /// Whether the keeper starts a gateway that has crashed.
    pub restart: Restart,
    /// How long agents wait for the next gateway.
    pub handover_timeout: Duration,
    /// The agents; their order is their number.
    pub agents: Vec<AgentConfig>,
    /// The journal and delivery.
    pub delivery: DeliveryConfig,
    /// Who gets what.
    pub routing: RoutingConfig,
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
    let file = match &options.config {
        Some(path) => read(path)?,
        None => {
            let path = state_directory.join("openclaw.json");
            if path.exists() { read(&path)? } else { FileConfig::default() }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    validate(file, options, state_directory, cores).map_err(|rules| ConfigError::Rules(BrokenRules(rules)))
}

fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    json5::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
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
    let restart = restart::check(&mut broken, options.restart, file.gateway.restart.as_deref());
    let handover = options
        .handover_timeout_ms
        .or(file.gateway.handover_timeout_ms)
        .unwrap_or(HANDOVER_TIMEOUT_DEFAULT_MS);
    range(&mut broken, "gateway.handoverTimeoutMs", handover, 0, HANDOVER_TIMEOUT_MAX_MS);
    let runtime = runtime(&mut broken, options.runtime, file.engine.runtime.as_deref());
    let agents = agents(&mut broken, file.agents.entries, &options.agent);
    let delivery = delivery::check(&mut broken, &file.journal, &file.delivery);
    let routing = delivery::check_routing(&mut broken, file.routing, &agents);
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
        restart,
        handover_timeout: Duration::from_millis(handover),
        agents,
        delivery,
        routing,
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
    mut entries: BTreeMap<String, FileAgent>,
    flags: &[String],
) -> Vec<AgentConfig> {
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
    let agents: Vec<_> =
        entries.into_iter().flat_map(|(name, agent)| check_agent(broken, name, agent)).collect();
    if agents.len() > AGENTS_MAX {
        broken.push(format!("agents.entries has {} agents: at most {AGENTS_MAX} are possible", agents.len()));
    }
    agents
}

/// The members of a pool; most pools have one.
fn check_agent(broken: &mut Vec<String>, name: String, agent: FileAgent) -> Vec<AgentConfig> {
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
    let in_flight = agent.in_flight_max.unwrap_or(IN_FLIGHT_DEFAULT);
    range(broken, &format!("{key}.inFlightMax"), in_flight, 1, IN_FLIGHT_MAX);
    if let Some(directory) = &agent.working_directory
        && !directory.is_dir()
    {
        broken.push(format!("{key}.workingDirectory = {}: is not a directory", directory.display()));
    }
    let said = serde_json::json!([agent.command, agent.environment, agent.working_directory]).to_string();
    if said.len() > AGENT_BYTES_MAX {
        broken.push(format!(
            "{key} has {} bytes of command, environment and directory: at most {AGENT_BYTES_MAX} are possible",
            said.len()
        ));
    }
    let kind = match agent.command {
        None if name == ECHO_AGENT => AgentKind::Echo,
        None => {
            broken
                .push(format!("{key}.command: must name a program, for example [\"python3\", \"agent.py\"]"));
            AgentKind::Echo
        }
        Some(command) => {
            match command.first() {
                None => broken.push(format!("{key}.command = []: must name a program")),
                Some(program) if find_program(program, agent.working_directory.as_deref()).is_none() => {
                    broken.push(format!(
                        "{key}.command[0] = \"{program}\": no such program; give its path, or install it"
                    ));
                }
                Some(_) => {}
            }
            AgentKind::Stdio(command)
        }
    };
    let instances = agent.instances.unwrap_or(1);
    range(broken, &format!("{key}.instances"), instances, 1, INSTANCES_MAX);
    for capability in &agent.capabilities {
        if capability.is_empty() || capability.contains(char::is_whitespace) {
            broken.push(format!("{key}.capabilities has \"{capability}\": must be a word"));
        }
    }
    let member = AgentConfig {
        name: name.clone(),
        pool: name,
        capabilities: agent.capabilities,
        kind,
        environment: agent.environment.into_iter().collect(),
        working_directory: agent.working_directory,
        in_flight_max: in_flight as usize,
    };
    if instances == 1 {
        return vec![member];
    }
    (1..=instances.min(INSTANCES_MAX))
        .map(|number| AgentConfig { name: format!("{}~{number}", member.pool), ..member.clone() })
        .collect()
}

/// Where a program lies: as given if it has a slash, else in one of the directories of PATH.
fn find_program(program: &str, directory: Option<&Path>) -> Option<PathBuf> {
    if program.contains('/') {
        let path = directory.map_or_else(|| PathBuf::from(program), |directory| directory.join(program));
        return path.is_file().then_some(path);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, options: &RunOptions) -> Result<Config, Vec<String>> {
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
        let text =
            "{gateway: {host: '0.0.0.0', edgeThreads: 17, restart: 'x'}, engine: {shards: 0, runtime: 'x'},
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
                "gateway.restart",
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
                "{{agents: {{entries: {{a: {{command: ['ls'], environment: {{A: '{}'}}}}}}}}}}",
                "x".repeat(bytes)
            )
        };
        assert!(check(&text(AGENT_BYTES_MAX - 100), &RunOptions::default()).is_ok());
        let broken = check(&text(AGENT_BYTES_MAX), &RunOptions::default()).unwrap_err();
        assert!(broken[0].starts_with("agents.entries.a has 49174 bytes of command"), "{broken:?}");
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
