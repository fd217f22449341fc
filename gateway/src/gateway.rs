//! The role `gateway run`: puts everything together, runs it, and takes it apart again.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use adapters::edge::Phase;
use engine::core::{AgentDefinition, CoreSetting, ShardCore};
use engine::driver::{self, Chosen, DriverError, ShardHandle};
use engine::event::ShardIndex;
use engine::routing::RuleError;
use engine::time::Clock;
use keeper::client::{Client, Found, StartError};
use keeper::sandbox::probe::Enforcement;
use sessions::OpenError;
use tokio::sync::watch;

use crate::admin::{AdminSocket, AdminSocketError};
use crate::announcement;
use crate::background;
use crate::config::file::FileError;
use crate::config::source::{Source, SourceError, Text};
use crate::config::{self, AgentConfig, Config, ConfigError, InstancesPer, Standing};
use crate::control::adoption::{CLIENTS, Inheritance};
use crate::control::handover::Succession;
use crate::control::held;
use crate::control::replacement::keeper_program;
use crate::control::{Control, ControlError, Parts};
use crate::edges::{self, EdgeStartError};
use crate::front::{Behind, Front, FrontError};
use crate::health::{AgentBoard, HealthSource};
use crate::journal::JournalStartError;
use crate::log::levels::{Levels, LevelsError};
use crate::log::{FlushOnDrop, Log};
use crate::options::RunOptions;
use crate::privileges::{self, PrivilegeError};
use crate::routes;
use crate::rpc::sessions::news::News;
use crate::state_directory::{self, StateDirectory, StateDirectoryError, admin_socket};
use crate::stores::{self, Stores};
use crate::threads::{self, Engine, ShardStart};
use crate::transcripts::recorder::StartError as RecorderError;

/// Connections that may wait to be accepted; the system may allow fewer. Those of thousands of clients come at the same
/// moment when a gateway follows another one, and who finds no place tries again a second later.
const BACKLOG: i32 = 4_096;

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration has no place.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Privileges cannot be given up.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The first configuration cannot be written.
    #[error(transparent)]
    FirstConfig(#[from] FileError),
    /// Clients cannot be served.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDirectory(#[from] StateDirectoryError),
    /// The address is taken by somebody else.
    #[error("port {port} is taken: stop the program that listens on {address}, or give another --port", port = address.port())]
    PortTaken {
        /// Where it should listen.
        address: SocketAddr,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where it should listen.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The shards cannot run.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The log filter cannot be used.
    #[error(transparent)]
    LogLevel(#[from] LevelsError),
    /// The rings between threads cannot be made.
    #[error("the rings between {edge_count} edges and {shard_count} shards cannot be made")]
    Rings {
        /// Edge threads.
        edge_count: usize,
        /// Shard threads.
        shard_count: usize,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalStartError),
    /// The sessions on disk cannot be used.
    #[error(transparent)]
    Sessions(#[from] OpenError),
    /// What is said cannot be written down.
    #[error(transparent)]
    Transcripts(#[from] RecorderError),
    /// The rules of routing contradict each other; all of them are listed.
    #[error("the rules of routing cannot be used{}", routes::list(.0))]
    Routing(Vec<RuleError>),
    /// The path of this program is unknown, so no keeper can be started.
    #[error("the path of this program cannot be found out")]
    OwnPath(#[source] std::io::Error),
    /// The keeper cannot be started.
    #[error("the keeper cannot be started")]
    Keeper(#[from] StartError),
    /// Agents require what this machine does not allow.
    #[error("sandbox.require is set, and this machine does not enforce all of the sandbox{}", sentences(.0))]
    Sandbox(Vec<String>),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminSocketError),
    /// An edge thread cannot be started.
    #[error(transparent)]
    Edges(#[from] EdgeStartError),
    /// The control thread cannot go on.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn sentences(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect::<String>() + "\nSee `openclaw doctor`."
}

/// Runs the gateway until it is told to end.
pub fn run(options: &RunOptions) -> Result<ExitCode, GatewayError> {
    spare_memory();
    let log = start_log(options.log_level.as_deref(), options.background)?;
    let settled = settle(options)?;
    log.0.set_levels(&settled.1.levels);
    put_together(options, &log.0, settled)
}

fn put_together(options: &RunOptions, log: &Log, settled: Settled) -> Result<ExitCode, GatewayError> {
    let (source, config, state) = settled;
    let executable = std::env::current_exe().map_err(GatewayError::OwnPath)?;
    let open_files = held::prepare();
    let Beginning { keeper, listener, address, mut left, succession } =
        begin(&config, &executable, &state, open_files)?;
    log.write();
    // Not before: what runs shards now may be what only root was allowed.
    let chosen = driver::choose(config.runtime)?;
    let clock = Clock::start();
    let news = Arc::<News>::default();
    let Stores { sessions, scribe, journal: opened, logs, tails } =
        stores::open(&config, &state, &core_maker(&config)?)?;
    let mut keeper = meet(keeper, &config, &listener)?;
    let held = std::mem::take(&mut left.held);
    let adoptions = left.decide(&config, &executable, &state);
    let start =
        ShardStart { chosen: &chosen, clock, heartbeat: config.heartbeat, adopting: adoptions.expected() };
    let Engine { edge_ports, shards, journal, notices, shown } =
        threads::start(&config, opened, tails.clone(), &mut keeper, &start)?;

    let agents = Arc::new(AgentBoard::default());
    let draining = Arc::new(AtomicBool::new(false));
    let health = Arc::new(health(&chosen, &shards, &agents, &draining));
    let run = run_number();
    let behind = Behind {
        health,
        sessions: Arc::clone(&sessions),
        news: Arc::clone(&news),
        source: Arc::clone(&source),
    };
    let Front { access, shared, pages, rpc } =
        Front::open(&config, &state, address, log.clone(), behind, run)?;
    let recorder = scribe.start(&logs, tails, Some(stores::news_of(news)))?;
    let (phase, phase_seen) = watch::channel(Phase::Running);
    let edges = edges::start(&listener, edge_ports, &shared, &phase_seen, run)?;
    let admin = AdminSocket::bind(&admin_socket(state.path()))?;
    let greeting = announcement::text(address, options, &config, &chosen, &executable, keeper.process_id());
    let parts = Parts {
        source,
        log: log.clone(),
        executable,
        open_files,
        held,
        shown,
        clients: listener.into(),
        address_configured: config.address.to_string(),
        admin,
        state,
        access,
        sessions,
        recorder,
        keeper,
        shards,
        journal: Some(journal),
        notices,
        edges,
        shared,
        pages: Some(pages),
        rpc: Some(rpc),
        runtime: chosen.runtime.name(),
        phase,
        agents,
        draining,
        clock,
        address,
        succession,
    };
    Ok(Control::run(config, parts, adoptions, |parts| tell_up(parts, &greeting))?)
}

/// Has the system give this process memory in small pages: large ones, which the allocator asks for, make a gateway
/// that rests twice as large. Its keeper takes that back for itself and its agents.
fn spare_memory() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "memory comes in large pages");
    }
}

/// The configuration file, its settings, and the state directory that they name.
type Settled = (Arc<Source>, Config, StateDirectory);

/// Reads the configuration, and takes the state directory.
fn settle(options: &RunOptions) -> Result<Settled, GatewayError> {
    let standing = Standing::find(options)?;
    begin_configuration(options)?;
    let source = Source::new(options, &standing)?;
    let Text { document, hash, .. } = source.read()?;
    let config = source.check(document)?;
    source.set_applied(&hash);
    config::tell_unsupported(&config.unsupported);
    config::limits::report(&config, &standing);
    let state = StateDirectory::open(&config.state_directory, config.user)?;
    if options.background {
        background::leave_terminal(&state, config.user)?;
    }
    Ok((Arc::new(source), config, state))
}

/// The first start of a gateway in a state directory: a configuration with a token of its own.
fn begin_configuration(options: &RunOptions) -> Result<(), GatewayError> {
    let directory = state_directory::chosen(options.state_dir.as_deref()).ok_or(ConfigError::NoHome)?;
    if options.config.is_none() && config::file::begin(&directory)? {
        tracing::info!(
            file = %config::file::path(None, &directory).display(),
            "there was no configuration: one is written; `openclaw token show` prints its token"
        );
    }
    Ok(())
}

/// What pages tell of this gateway.
fn health(
    chosen: &Chosen,
    shards: &[ShardHandle],
    agents: &Arc<AgentBoard>,
    draining: &Arc<AtomicBool>,
) -> HealthSource {
    HealthSource {
        started: Instant::now(),
        runtime: chosen.runtime.name(),
        shards: shards.iter().map(|shard| Arc::clone(shard.counters())).collect(),
        agents: Arc::clone(agents),
        draining: Arc::clone(draining),
    }
}

/// Refuses the start if an agent requires a sandbox of which something is not enforced.
fn require_sandbox(config: &Config, enforcement: &Enforcement) -> Result<(), GatewayError> {
    let missing = config.agents.iter().filter_map(|agent| {
        let spec = agent.sandbox.as_ref().filter(|spec| spec.require)?;
        let missing = enforcement.not_enforced(spec);
        (!missing.is_empty()).then(|| format!("agent {}: {}", agent.name, missing.join("; ")))
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() { Ok(()) } else { Err(GatewayError::Sandbox(missing)) }
}

/// What a gateway begins with: a keeper, and what that one holds of the gateway before.
struct Beginning {
    keeper: Found,
    listener: TcpListener,
    address: SocketAddr,
    left: Inheritance,
    succession: Succession,
}

/// Finds the keeper of the gateway before, or starts one, opens the socket on which clients are heard, and gives up the
/// privileges that this may take.
fn begin(
    config: &Config,
    executable: &Path,
    state: &StateDirectory,
    open_files: Option<u64>,
) -> Result<Beginning, GatewayError> {
    let mut left = Inheritance::default();
    let keeper = Client::connect_or_begin(
        &keeper_program(executable),
        &state.keeper_socket(),
        open_files,
        &mut |held| left.take(held),
    )?;
    let taken_over = left.listener(config.address);
    let succession = Succession::new(config, executable, taken_over.is_some());
    let listener = taken_over.map_or_else(|| listen(config.address), Ok)?;
    let address = listener.local_addr().unwrap_or(config.address);
    privileges::give_up(config.user, state)?;
    Ok(Beginning { keeper, listener, address, left, succession })
}

/// Hears what the keeper says of the machine, and has it hold the socket on which clients are heard.
fn meet(keeper: Found, config: &Config, listener: &TcpListener) -> Result<Client, GatewayError> {
    let mut keeper = keeper.meet()?;
    tracing::info!(process_id = keeper.process_id(), "keeper is there");
    require_sandbox(config, keeper.enforcement())?;
    if let Err(error) = keeper.hold(CLIENTS, &config.address.to_string(), listener.as_fd()) {
        tracing::warn!(%error, "the next gateway has to open a socket of its own");
    }
    Ok(keeper)
}

/// Says that the gateway is up: to whoever has started it, and to those who have to do with its end.
fn tell_up(parts: &mut Parts, greeting: &str) {
    // To standard output: this is what the command is for; everything else is the log. A closed standard output must
    // not end a gateway.
    let _ = writeln!(std::io::stdout(), "{greeting}");
    if let Err(error) = parts.keeper.send(&parts.succession.keep()) {
        tracing::warn!(%error, "agents end with this gateway");
    }
}

/// The number of the pool of an agent whose processes serve one conversation each: that of its first member.
fn conversation_pool(config: &Config, agent: &AgentConfig) -> Option<u32> {
    if agent.life.per != InstancesPer::Conversation {
        return None;
    }
    let first = config.agents.iter().position(|member| member.pool == agent.pool);
    first.and_then(|first| u32::try_from(first).ok())
}

/// Makes the core of a shard, in a run of the gateway with that number.
fn core_maker(config: &Config) -> Result<impl Fn(usize, u32) -> ShardCore + use<>, GatewayError> {
    let shard_count = u8::try_from(config.shard_count).unwrap_or(u8::MAX);
    let definitions: Arc<[AgentDefinition]> = config
        .agents
        .iter()
        .map(|agent| AgentDefinition {
            name: agent.name.clone(),
            in_flight_max: agent.in_flight_max,
            conversation_pool: conversation_pool(config, agent),
        })
        .collect();
    let agents: Vec<_> = config.agents.iter().collect();
    let table = routes::table(routes::VERSION_FIRST, &agents, &config.routing, config.shard_count);
    let routes = Arc::new(table.map_err(GatewayError::Routing)?);
    let limits = config.delivery.limits;
    let unix_ms_at_zero =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Ok(move |index: usize, run: u32| {
        let setting = CoreSetting {
            shard: ShardIndex(u8::try_from(index).unwrap_or(u8::MAX)),
            shard_count,
            run,
            unix_ms_at_zero,
            // Its keys come from the system's source of randomness.
            seed: RandomState::new().hash_one(index),
        };
        ShardCore::new(setting, Arc::clone(&definitions), Arc::clone(&routes), limits)
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => GatewayError::PortTaken { address },
        _ => GatewayError::Listen { address, source },
    })?;
    // Where this is refused, the length that the library has chosen stays.
    let _ = rustix::net::listen(&listener, BACKLOG);
    Ok(listener)
}

/// Differs between runs, so that the names of nameless sessions do.
fn run_number() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn start_log(filter: Option<&str>, only_errors: bool) -> Result<FlushOnDrop, GatewayError> {
    let levels = filter.map_or_else(|| Ok(Levels::default()), Levels::parse)?;
    let log = Log::start(&levels, only_errors);
    end_on_panic(log.clone());
    Ok(FlushOnDrop(log))
}

/// A thread that panics takes the process with it: a gateway that lost a shard or an edge must not go on
/// as if nothing were missing. The keeper sees the end and cleans up.
fn end_on_panic(log: Log) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        log.flush();
        std::process::exit(101);
    }));
}
