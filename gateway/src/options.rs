//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Routes messages from clients to agent processes through shared-memory rings.
#[derive(Debug, Parser)]
#[command(name = "openclaw", version, about, max_term_width = 100)]
#[command(after_help = "Examples:\n  \
    openclaw gateway run                          start the gateway with the built-in echo agent\n  \
    openclaw gateway run --agent words=./words.py add an agent that is any command\n  \
    openclaw send --agent echo \"hello\"            send a message and print the reply\n  \
    openclaw health                               ask a running gateway how it is")]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway (the same as `gateway run`).
    #[command(args_conflicts_with_subcommands = true)]
    Gateway {
        /// Settings of the run.
        #[command(flatten)]
        options: Box<RunOptions>,
        /// What to do with it.
        #[command(subcommand)]
        command: Option<GatewayCommand>,
    },
    /// Send one message to an agent and print its reply as it streams.
    Send(SendOptions),
    /// Ask a running gateway how it is.
    Health(HealthOptions),
    /// Hold agents and their rings (started by the gateway, not by people).
    #[command(hide = true)]
    Keeper {
        /// Path of the control socket; the socket itself is standard input.
        #[arg(long)]
        socket: PathBuf,
    },
    /// Host one agent on a pair of rings (started by the keeper, not by people).
    #[command(hide = true)]
    AgentHost {
        /// Which agent.
        #[command(subcommand)]
        kind: AgentHostKind,
    },
}

/// What can be done with the gateway.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Run the gateway in the foreground until Ctrl-C.
    Run(Box<RunOptions>),
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
    /// Configuration file (JSON5). Default: `openclaw.json` in the state directory, if it is there.
    #[arg(long, value_name = "FILE", env = "OPENCLAW_CONFIG_PATH")]
    pub config: Option<PathBuf>,
    /// Where the gateway keeps its files. Default: `~/.openclaw`.
    #[arg(long, value_name = "DIR", env = "OPENCLAW_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address to listen on; loopback only, since there is no authentication yet. Default: 127.0.0.1.
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
    /// What runs the shards. Default: auto, which takes io_uring if the kernel allows it.
    #[arg(long, value_enum)]
    pub runtime: Option<RuntimeChoice>,
    /// Adds an agent: a name and a command, split at white space. May be repeated.
    #[arg(long, value_name = "NAME=COMMAND")]
    pub agent: Vec<String>,
    /// How long Ctrl-C waits for replies that are on their way. Default: 5000.
    #[arg(long, value_name = "MS")]
    pub drain_timeout_ms: Option<u64>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `engine=debug`.
    #[arg(long, value_name = "LEVEL", env = "OPENCLAW_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
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

/// A message to send.
#[derive(Args, Clone, Debug)]
pub struct SendOptions {
    /// Which agent.
    #[arg(long)]
    pub agent: String,
    /// In which session; a new one if left out.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Address of the gateway.
    #[arg(long, default_value = "ws://127.0.0.1:18789")]
    pub url: String,
    /// How long to wait for the whole reply.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub timeout_ms: u64,
    /// Print `{"text", "session"}` as JSON when the reply is whole, instead of the text as it comes.
    #[arg(long)]
    pub json: bool,
    /// What to say.
    pub content: String,
}

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub struct HealthOptions {
    /// Address of the gateway.
    #[arg(long, default_value = "ws://127.0.0.1:18789")]
    pub url: String,
    /// Print the answer as the gateway gave it.
    #[arg(long)]
    pub json: bool,
}
