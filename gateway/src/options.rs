//! The command line.

mod agents;
mod dead_letters;
mod lifecycle;
mod ring;
mod sessions;
mod settings;
mod talk;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use agents::AGENT_EXAMPLES;
pub use agents::{
    AgentActOptions, AgentCommand, AgentConfigCommand, AgentListOptions, AgentLogsOptions,
    AgentStatusOptions, AgentVerb, ReloadOptions,
};
use dead_letters::DLQ_EXAMPLES;
pub use dead_letters::{
    DlqCommand, DlqDropOptions, DlqFilter, DlqListOptions, DlqReplayOptions, DlqSelection, DlqShowOptions,
};
use lifecycle::{GATEWAY_EXAMPLES, INSTALL_EXAMPLES, START_EXAMPLES, STATUS_EXAMPLES};
pub use lifecycle::{
    InstallOptions, RestartChoice, RestartOptions, StartOptions, StatusOptions, StopOptions, UninstallOptions,
};
use ring::RING_EXAMPLES;
pub use ring::{RingCommand, RingWatchOptions};
use sessions::SESSION_EXAMPLES;
pub use sessions::{
    SessionArchiveOptions, SessionCommand, SessionCommitOptions, SessionConfirmedOptions,
    SessionDeleteOptions, SessionExportOptions, SessionFormat, SessionListOptions, SessionOptions,
};
use settings::{CONFIG_EXAMPLES, TOKEN_EXAMPLES};
pub use settings::{
    ConfigCommand, ConfigGetOptions, ConfigPrintOptions, ConfigSetOptions, ConfigUnsetOptions, TokenCommand,
    TokenNewOptions,
};
use talk::{CALL_EXAMPLES, CHAT_EXAMPLES, HEALTH_EXAMPLES, LOGS_EXAMPLES, OVERVIEW_EXAMPLES, SEND_EXAMPLES};
pub use talk::{
    CallOptions, ChatOptions, HealthOptions, LevelChoice, LogsOptions, MessageOptions, OverviewOptions,
    ProbeOptions, Reach, SendOptions,
};

/// Routes messages from clients to agent processes through shared-memory rings.
#[derive(Debug, Parser)]
#[command(name = "openclaw", version, about, max_term_width = 100)]
#[command(after_help = "Examples:\n  \
    openclaw gateway run                          start the gateway with the built-in echo agent\n  \
    openclaw gateway run --agent words=./words.py add an agent that is any command\n  \
    openclaw gateway restart                      replace a running gateway; its agents go on\n  \
    openclaw start                                start the gateway in the background\n  \
    openclaw send --agent echo \"hello\"            send a message and print the reply\n  \
    openclaw chat --agent echo                    talk with an agent\n  \
    openclaw logs --follow                        see what the gateway logs\n  \
    openclaw health                               ask a running gateway how it is\n  \
    openclaw token show                           print the token that clients show\n  \
    openclaw config set gateway.port 18790        change the configuration file\n  \
    openclaw agent list                           list its agents, and how each does\n  \
    openclaw ring list                            look at the rings of a running gateway\n  \
    openclaw explain m-1                          see where the time of a message went\n  \
    openclaw dlq list                             list the messages that were given up\n  \
    openclaw session list                         list the sessions, those that changed last first\n  \
    openclaw doctor                               see what this machine enforces of the sandbox")]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print without colours, as with NO_COLOR.
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway (the same as `gateway run`), or do something with one that runs.
    #[command(after_help = GATEWAY_EXAMPLES, args_conflicts_with_subcommands = true)]
    Gateway {
        /// Settings of the run.
        #[command(flatten)]
        options: Box<RunOptions>,
        /// What to do with it.
        #[command(subcommand)]
        command: Option<GatewayCommand>,
    },
    /// Start a gateway in the background, and wait until it is ready.
    #[command(after_help = START_EXAMPLES)]
    Start(StartOptions),
    /// Send one message to an agent and print its reply as it streams.
    #[command(after_help = SEND_EXAMPLES)]
    Send(SendOptions),
    /// Talk with an agent: replies are shown as they come, also over a restart of the gateway.
    #[command(after_help = CHAT_EXAMPLES, visible_alias = "tui")]
    Chat(ChatOptions),
    /// Ask a running gateway how it is.
    #[command(after_help = HEALTH_EXAMPLES)]
    Health(HealthOptions),
    /// Print what a gateway tells its clients of itself: health, uptime, memory, sessions, agents.
    #[command(after_help = OVERVIEW_EXAMPLES)]
    Status(OverviewOptions),
    /// Print the end of the log of a gateway, also of one that has ended, and what follows.
    #[command(after_help = LOGS_EXAMPLES)]
    Logs(LogsOptions),
    /// Say something to an agent (`--message`); or look at agents, restart, drain, quarantine and release them.
    #[command(after_help = AGENT_EXAMPLES, visible_alias = "agents", args_conflicts_with_subcommands = true)]
    Agent {
        /// What to say; `-` reads it from standard input.
        #[arg(long, short, value_name = "TEXT")]
        message: Option<String>,
        /// To whom.
        #[command(flatten)]
        options: Box<MessageOptions>,
        /// What to do.
        #[command(subcommand)]
        command: Option<AgentVerb>,
    },
    /// Look at the rings of a running gateway: how full they are, who sleeps, what waits.
    ///
    /// A ring pair joins two sides and has two directions. Those of agents have the agent's name, those
    /// between threads of the gateway both names, such as edge-0/shard-0. Looking changes nothing: the
    /// memory is mapped read-only, and no thread of the gateway is asked.
    #[command(after_help = RING_EXAMPLES)]
    Ring {
        /// What to look at.
        #[command(subcommand)]
        command: RingCommand,
    },
    /// Show what happened to a message, stage by stage.
    ///
    /// The gateway remembers the stages of the last messages of each shard, also of those that failed. Times are
    /// from the moment the shard saw the message.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainOptions),
    /// Look at dead letters, the messages that were given up; try them again, or drop them.
    ///
    /// A message becomes a dead letter when it has failed as often as it may. It is kept, also over a restart, until
    /// somebody has it tried again or drops it.
    #[command(after_help = DLQ_EXAMPLES)]
    Dlq {
        /// What to do.
        #[command(subcommand)]
        command: DlqCommand,
    },
    /// Look at sessions: lists, transcripts; put them aside, reset and delete them.
    #[command(after_help = SESSION_EXAMPLES, visible_alias = "sessions")]
    Session {
        /// What to do.
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// Look at the configuration file, and change it.
    #[command(after_help = CONFIG_EXAMPLES)]
    Config {
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print the token that clients show, or make another one.
    #[command(after_help = TOKEN_EXAMPLES)]
    Token {
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Print a script with which a shell completes the command line of this program.
    #[command(
        after_help = "Example:\n  openclaw completions bash > ~/.local/share/bash-completion/completions/openclaw"
    )]
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: CompletedShell,
    },
    /// Look at this machine: what it enforces of the sandbox of agents, and what else a gateway can use.
    ///
    /// Nothing is changed, and no gateway has to run. What is not enforced is printed with how to turn it on.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorOptions),
    /// Host one agent on a pair of rings (started by the keeper, not by people).
    #[command(hide = true)]
    AgentHost {
        /// Which agent.
        #[command(subcommand)]
        kind: AgentHostKind,
    },
}

/// Examples of `doctor`.
const DOCTOR_EXAMPLES: &str = "Examples:\n  \
    openclaw doctor         a table, and how to turn on what is missing\n  \
    openclaw doctor --json  {\"features\": [{\"feature\", \"enforced\", \"reason\", \"remedy\"}]}";

/// How to look at the machine.
#[derive(Args, Clone, Debug)]
pub struct DoctorOptions {
    /// Print `{"features": […]}` as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Which gateway's files to look at.
    #[command(flatten)]
    pub place: FilePlace,
}

/// What can be done with the gateway.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Run the gateway in the foreground until Ctrl-C.
    Run(Box<RunOptions>),
    /// Print counters, latencies and the state of the journal of a running gateway.
    Stats(StatsOptions),
    /// Print what happens in a running gateway, an event a line, until Ctrl-C.
    Events(EventsOptions),
    /// Have a running gateway read its configuration again.
    ///
    /// Rules of routing and most settings of agents count at once; the others are named, with what has to be started
    /// anew. If anything of the configuration cannot be used, nothing changes. SIGHUP does the same.
    Reload(ReloadOptions),
    /// Check the configuration, and say what would change for a running gateway. Nothing is changed.
    Validate(ConfigPrintOptions),
    /// Ask a running gateway how it is (the same as `openclaw health`).
    Health(HealthOptions),
    /// Look for a gateway as a client would: who listens, what it speaks, whether it takes the token.
    Probe(ProbeOptions),
    /// Call a method of the OpenClaw protocol, and print what it is answered.
    #[command(after_help = CALL_EXAMPLES)]
    Call(CallOptions),
    /// Print the end of its log, and what follows (the same as `openclaw logs`).
    #[command(after_help = LOGS_EXAMPLES)]
    Logs(LogsOptions),
    /// Print which processes a running gateway has, since when, and what it has taken over; --deep tries all of it.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusOptions),
    /// Start it in the background, and wait until it is ready (the same as `openclaw start`).
    #[command(after_help = START_EXAMPLES)]
    Start(StartOptions),
    /// Make it a service of your systemd: it is started when you log in, and again when it has crashed.
    #[command(after_help = INSTALL_EXAMPLES)]
    Install(InstallOptions),
    /// Write the service anew, for this program and these flags, and restart it if it runs.
    #[command(after_help = INSTALL_EXAMPLES)]
    Reinstall(InstallOptions),
    /// End the service and take it out of systemd. Nothing else is removed.
    Uninstall(UninstallOptions),
    /// End a running gateway and its agents, and wait for that: what was accepted is answered first.
    Stop(StopOptions),
    /// Replace a running gateway by the program that now has its path; its agents go on.
    ///
    /// The socket on which it listens stays open, so that clients who connect meanwhile are served by the new one. Those
    /// that are connected are told to come back (close code 1001); what they have not been answered they are when they
    /// send it again with the same id.
    Restart(RestartOptions),
}

/// The shells that are completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletedShell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Which agent a host runs.
#[derive(Debug, Subcommand)]
pub enum AgentHostKind {
    /// The built-in agent that answers with what it was told.
    Echo,
    /// Any command that reads and writes JSON lines.
    Stdio {
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
}

/// Settings of a run. Each overrides the configuration file.
#[derive(Args, Clone, Debug, Default)]
pub struct RunOptions {
    /// Configuration file (JSON5). Default: `openclaw.json` in the state directory; the first start writes it.
    #[arg(long, value_name = "FILE", env = "OPENCLAW_CONFIG_PATH")]
    pub config: Option<PathBuf>,
    /// Where the gateway keeps its files. Default: `~/.openclaw`.
    #[arg(long, value_name = "DIR", env = "OPENCLAW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address to listen on; loopback only, since there is no TLS yet. Default: 127.0.0.1.
    #[arg(long, value_name = "IP")]
    pub host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one. Default: 18789.
    #[arg(long)]
    pub port: Option<u16>,
    /// Shard threads. Default: the cores left by the edge threads, at least 1.
    #[arg(long, value_name = "N")]
    pub shards: Option<u64>,
    /// Edge threads. Default: 1 for every 4 cores, at least 1.
    #[arg(long, value_name = "N")]
    pub edges: Option<u64>,
    /// What runs the shards. Default: epoll. auto takes io_uring if the kernel allows it.
    #[arg(long, value_enum)]
    pub runtime: Option<RuntimeChoice>,
    /// Adds an agent: a name and a command, split at white space. May be repeated.
    #[arg(long, value_name = "NAME=COMMAND")]
    pub agent: Vec<String>,
    /// How long Ctrl-C waits for replies that are on their way. Default: 5000.
    #[arg(long, value_name = "MS")]
    pub drain_timeout_ms: Option<u64>,
    /// Whether the gateway is started again after a crash. Default: auto, which means yes, unless systemd has started it.
    #[arg(long, value_enum)]
    pub restart: Option<RestartChoice>,
    /// How long agents wait for the next gateway when this one is gone; 0: they end with it. Default: 60000.
    #[arg(long, value_name = "MS")]
    pub handover_timeout_ms: Option<u64>,
    /// What to log: silent, error, warn, info, debug, trace, or a filter such as `warn,engine=debug`. Default: info.
    #[arg(long, value_name = "LEVEL", env = "OPENCLAW_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// `openclaw start` has started it: it leaves the terminal, and only errors go to standard error.
    #[arg(long, hide = true)]
    pub background: bool,
}

/// The values of `--runtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuntimeChoice {
    /// io_uring if the kernel allows it, else epoll.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// Which gateway to look at.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Where the gateway keeps its files. Default: `~/.openclaw`.
    #[arg(long, value_name = "DIR", env = "OPENCLAW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Which gateway, with its configuration file.
#[derive(Args, Clone, Debug, Default)]
pub struct FilePlace {
    /// Configuration file (JSON5). Default: `openclaw.json` in the state directory.
    #[arg(long, value_name = "FILE", env = "OPENCLAW_CONFIG_PATH")]
    pub config: Option<PathBuf>,
    /// Where the gateway keeps its files. Default: `~/.openclaw`.
    #[arg(long, value_name = "DIR", env = "OPENCLAW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Examples of `explain`.
const EXPLAIN_EXAMPLES: &str = "Examples:\n  \
    openclaw explain m-1                     by the id its client gave it\n  \
    openclaw explain m-1 --session s         only in this session\n  \
    openclaw explain --turn 0000000100000000 by its turn, as `dlq list` prints it\n\n\
    Stages that a message has not passed are left out; of several attempts the last one shows.";

/// What to explain.
#[derive(Args, Clone, Debug)]
pub struct ExplainOptions {
    /// The id that the client gave the message; with --turn, its turn.
    #[arg(value_name = "MESSAGE-ID")]
    pub id: String,
    /// The name is that of a turn: 16 hexadecimal digits.
    #[arg(long, conflicts_with = "session")]
    pub turn: bool,
    /// Only in this session, as its client names it (`sessionId`).
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Print `{"matches": […], "leftOut"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// How to print counters.
#[derive(Args, Clone, Debug)]
pub struct StatsOptions {
    /// Print one object of JSON, with each shard.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which events to print.
#[derive(Args, Clone, Debug)]
pub struct EventsOptions {
    /// Only of this type, such as message.received; may be repeated.
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// End after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}
