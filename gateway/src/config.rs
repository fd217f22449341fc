//! Settings: the file, the environment and the flags, checked all at once.
//!
//! The keys are rows of `docs/config.md`. [`FileConfig`] is what the file may say; [`Config`] is what the
//! rest of the program sees. Flags win over the environment, that over the file, the file over defaults.

mod agents;
pub mod auth;
mod delivery;
pub mod document;
pub mod edit;
pub mod file;
mod heartbeat;
mod http;
mod incumbent;
mod keys;
pub mod limits;
pub mod logging;
pub mod path;
mod reload;
pub mod restart;
mod runtime;
mod sandbox;
pub mod schema;
pub mod secrets;
mod sessions;
mod skills;
pub mod source;
mod supervision;
mod user;

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::driver::Choice;
use engine::heartbeat::HeartbeatLimits;
use engine::supervision::fleet::FleetLimits;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::auth::{AuthConfig, Environment, FileAuth, FileControlUi};
use self::document::Document;
use crate::log::levels::Levels;
use crate::options::{FilePlace, RunOptions};
use crate::state_directory;
pub use agents::{AgentConfig, AgentKind, ECHO_AGENT};
use agents::{FileAgents, Machine};
pub use delivery::{DeliveryConfig, RoutingConfig};
use delivery::{FileDelivery, FileJournal, FileRouting};
pub use keys::{By, Counts, Effort, Keys, rule_of};
use logging::FileLogging;
use reload::FileReload;
pub use reload::ReloadConfig;
pub use restart::Restart;
pub use sandbox::with_host;
use sessions::FileSessions;
pub use sessions::SessionsConfig;
use skills::FileSkills;
use supervision::FileSupervision;
pub use supervision::{AgentLife, InstancesPer};
use user::FileUser;
pub use user::{Account, Standing};

/// Default port, that of every OpenClaw gateway.
const PORT_DEFAULT: u16 = 18789;
/// The longest configuration file: room for thousands of agents.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
const SHARDS_MAX: u64 = 64;
const EDGES_MAX: u64 = 16;
const DRAIN_TIMEOUT_DEFAULT_MS: u64 = 5_000;
const DRAIN_TIMEOUT_MAX_MS: u64 = 600_000;
const HANDOVER_TIMEOUT_DEFAULT_MS: u64 = 60_000;
const HANDOVER_TIMEOUT_MAX_MS: u64 = 3_600_000;

/// The configuration file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
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
    #[serde(default)]
    logging: FileLogging,
    #[serde(default)]
    sessions: FileSessions,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileGateway {
    host: Option<IpAddr>,
    port: Option<u16>,
    edge_threads: Option<u64>,
    drain_timeout_ms: Option<u64>,
    restart: Option<String>,
    handover_timeout_ms: Option<u64>,
    user: Option<FileUser>,
    #[serde(default)]
    auth: FileAuth,
    #[serde(default)]
    control_ui: FileControlUi,
    #[serde(default)]
    reload: FileReload,
    #[serde(default)]
    http: http::FileHttp,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileEngine {
    shards: Option<u64>,
    runtime: Option<String>,
}

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub address: SocketAddr,
    /// How clients prove who they are.
    pub auth: AuthConfig,
    /// Whose pages may connect, beside those of this machine.
    pub allowed_origins: Vec<String>,
    /// Whether agents answer requests as models of the API of OpenAI do.
    pub completions: bool,
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
    /// As which user the gateway runs once it is up, if not as that which has started it.
    pub user: Option<Account>,
    /// The agents; their order is their number.
    pub agents: Vec<AgentConfig>,
    /// The names of all skills.
    pub skills: BTreeSet<String>,
    /// The journal and delivery.
    pub delivery: DeliveryConfig,
    /// The sessions on disk.
    pub sessions: SessionsConfig,
    /// Who gets what.
    pub routing: RoutingConfig,
    /// How patient the gateway is with agents that say nothing.
    pub heartbeat: HeartbeatLimits,
    /// How fast agents may be started again.
    pub fleet: FleetLimits,
    /// What is logged.
    pub levels: Levels,
    /// Whether changes of the file are looked for.
    pub reload: ReloadConfig,
    /// What the file says, by key.
    pub keys: Keys,
    /// Keys of the file that other gateways have and this one does not support.
    pub unsupported: Vec<String>,
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

/// The settings at a place, for a command that looks at them beside the gateway.
pub fn load_at(place: &FilePlace) -> Result<Config, ConfigError> {
    let options = RunOptions {
        config: place.config.clone(),
        state_dir: place.state_dir.clone(),
        ..RunOptions::default()
    };
    let standing = Standing::find(&options)?;
    load(&options, &standing)
}

/// Reads the file, the environment and the flags, and checks everything, for a process that has started with this standing.
pub fn load(options: &RunOptions, standing: &Standing) -> Result<Config, ConfigError> {
    let state_directory = state_directory::chosen(options.state_dir.as_deref()).ok_or(ConfigError::NoHome)?;
    let path = file::path(options.config.as_deref(), &state_directory);
    // Only a file that was named has to be there.
    let document =
        if options.config.is_none() && !path.exists() { Document::empty() } else { read(&path)?.1 };
    checked(document, &Around::of_this_machine(options, &state_directory, standing))
}

/// The settings of a file that keeps all rules.
fn checked(document: Document, around: &Around<'_>) -> Result<Config, ConfigError> {
    let Examined { config, broken, .. } = examine(document, around);
    config.ok_or(ConfigError::Rules(BrokenRules(broken)))
}

/// The text of a configuration file, and what it says.
pub fn read(path: &Path) -> Result<(String, Document), ConfigError> {
    let text = text(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let document =
        Document::parse(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
    Ok((text, document))
}

/// The text of a file, unless it is so long that it is none of ours. A pipe would have to be waited for.
pub fn text(path: &Path) -> std::io::Result<String> {
    let other = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    if !path.metadata()?.is_file() {
        return Err(other("it is no file".into()));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// What a file is checked with.
pub struct Around<'a> {
    options: &'a RunOptions,
    state_directory: &'a Path,
    cores: u64,
    environment: Environment<'a>,
    standing: &'a Standing,
}

impl<'a> Around<'a> {
    /// With the variables and the cores of this process.
    pub fn of_this_machine(
        options: &'a RunOptions,
        state_directory: &'a Path,
        standing: &'a Standing,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        Self { options, state_directory, cores, environment: &variable, standing }
    }
}

/// A variable of this process. Bytes that are no text become characters that no secret may have.
pub fn variable(name: &str) -> Option<String> {
    Some(std::env::var_os(name)?.to_string_lossy().into_owned())
}

/// What was found out about a file.
#[derive(Debug)]
pub struct Examined {
    /// The settings, if no rule is broken.
    pub config: Option<Config>,
    /// All broken rules, a line each.
    pub broken: Vec<String>,
    /// Keys that other gateways have and this one does not support.
    pub unsupported: Vec<String>,
}

/// Checks every rule that a file, the environment and flags have to keep.
pub fn examine(document: Document, around: &Around<'_>) -> Examined {
    let Document(mut file) = document;
    auth::overlay(&mut file, around.environment);
    let keys = Keys::of(&file);
    let schema::Misfits { mut broken, unsupported } = schema::fit(&mut file);
    let checked = match serde_json::from_value(file) {
        Ok(file) => validate(file, around),
        // What fits the types can be read, so this is a rule that the types do not tell.
        Err(error) => Err(vec![error.to_string()]),
    };
    let config = match checked {
        Ok(config) if broken.is_empty() => {
            broken = limits::unmet(&config.agents, &around.standing.limits);
            Some(Config { keys, unsupported: unsupported.clone(), ..config }).filter(|_| broken.is_empty())
        }
        Ok(_) => None,
        Err(rules) => {
            broken.extend(rules);
            None
        }
    };
    Examined { config, broken, unsupported }
}

/// Says which keys of a file have no effect here.
pub fn tell_unsupported(keys: &[String]) {
    for key in keys {
        tracing::warn!(key, "this key of the configuration is not supported, and has no effect");
    }
}

/// The keys that differ between two states of a file, each with what it takes until it counts.
pub fn differences(before: &Value, after: &Value) -> Vec<(String, Effort)> {
    let pools = |file: &Value| -> BTreeSet<String> {
        let entries = file.pointer("/agents/entries").and_then(Value::as_object);
        entries.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let kept = pools(before).intersection(&pools(after)).cloned().collect();
    Keys::of(before).changed(&Keys::of(after), &kept).into_iter().collect()
}

/// Checks every rule; `Err` lists all that are broken.
fn validate(file: FileConfig, around: &Around<'_>) -> Result<Config, Vec<String>> {
    let &Around { options, state_directory, cores, environment, standing } = around;
    let mut broken = Vec::new();
    let host = options.host.or(file.gateway.host).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if !host.is_loopback() {
        broken.push(format!("gateway.host = {host}: must be a loopback address, since there is no TLS yet"));
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
    let user = user::check(&mut broken, file.gateway.user.as_ref(), standing.user, state_directory);
    let auth = auth::check(&mut broken, file.gateway.auth, environment);
    let allowed_origins = auth::check_origins(&mut broken, file.gateway.control_ui);
    let runtime = runtime::check(&mut broken, options.runtime, file.engine.runtime.as_deref());
    let around = Machine { cores, state_directory };
    let mut agents = agents::check(&mut broken, file.agents, &options.agent, around);
    let skills = skills::check(&mut broken, file.skills, &mut agents, state_directory);
    let delivery = delivery::check(&mut broken, &file.journal, &file.delivery);
    let sessions = sessions::check(&mut broken, &file.sessions);
    let heartbeat = heartbeat::check(&mut broken, file.supervision.heartbeat());
    let routing = delivery::check_routing(&mut broken, file.routing, &agents);
    let fleet = supervision::check_fleet(&mut broken, &file.supervision);
    let levels = logging::check(&mut broken, &file.logging, options.log_level.as_deref());
    let reload = reload::check(&mut broken, &file.gateway.reload);
    let Some(auth) = auth.filter(|_| broken.is_empty()) else { return Err(broken) };
    Ok(Config {
        address: SocketAddr::new(host, port),
        auth,
        allowed_origins,
        completions: file.gateway.http.completions(),
        state_directory: state_directory.to_owned(),
        shard_count: shard_count as usize,
        edge_count: edge_count as usize,
        runtime,
        drain_timeout: Duration::from_millis(drain),
        restart,
        handover_timeout: Duration::from_millis(handover),
        user,
        agents,
        skills,
        delivery,
        sessions,
        routing,
        heartbeat,
        fleet,
        levels,
        reload,
        keys: Keys::default(),
        unsupported: Vec::new(),
    })
}

fn range(broken: &mut Vec<String>, key: &str, value: u64, min: u64, max: u64) {
    if value < min || value > max {
        broken.push(format!("{key} = {value}: must be between {min} and {max}"));
    }
}

#[cfg(test)]
mod tests;
