//! Settings: the file, the environment and the flags, checked all at once.
//!
//! The keys are rows of `docs/config.md`. [`FileConfig`] is what the file may say; [`Config`] is what the
//! rest of the program sees. Flags win over the file, the file over defaults.

mod agents;
mod delivery;
mod heartbeat;
mod keys;
pub mod limits;
pub mod restart;
mod sandbox;
mod skills;
mod supervision;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::driver::Choice;
use engine::heartbeat::HeartbeatLimits;
use engine::supervision::fleet::FleetLimits;
use serde::Deserialize;

use crate::options::{RunOptions, RuntimeChoice};
use crate::state_directory;
pub use agents::{AgentConfig, AgentKind, ECHO_AGENT};
use agents::{FileAgents, Machine};
pub use delivery::{DeliveryConfig, RoutingConfig};
use delivery::{FileDelivery, FileJournal, FileRouting};
pub use keys::{Effort, Keys};
pub use restart::Restart;
pub use sandbox::with_host;
use skills::FileSkills;
use supervision::FileSupervision;
pub use supervision::{AgentLife, InstancesPer};

/// Default port, that of every OpenClaw gateway.
const PORT_DEFAULT: u16 = 18789;
const SHARDS_MAX: u64 = 64;
const EDGES_MAX: u64 = 16;
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
    #[serde(default)]
    supervision: FileSupervision,
    #[serde(default)]
    skills: FileSkills,
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
    /// The names of all skills.
    pub skills: BTreeSet<String>,
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
    let restart = restart::check(&mut broken, options.restart, file.gateway.restart.as_deref());
    let handover = options
        .handover_timeout_ms
        .or(file.gateway.handover_timeout_ms)
        .unwrap_or(HANDOVER_TIMEOUT_DEFAULT_MS);
    range(&mut broken, "gateway.handoverTimeoutMs", handover, 0, HANDOVER_TIMEOUT_MAX_MS);
    let runtime = runtime(&mut broken, options.runtime, file.engine.runtime.as_deref());
    let around = Machine { cores, state_directory: &state_directory };
    let mut agents = agents::check(&mut broken, file.agents, &options.agent, around);
    let skills = skills::check(&mut broken, file.skills, &mut agents, &state_directory);
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
        restart,
        handover_timeout: Duration::from_millis(handover),
        agents,
        skills,
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
