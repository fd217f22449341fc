//! The command line of `openclaw agent` and `openclaw gateway reload`. What is said to an agent is in `talk.rs`.

use clap::{Args, Subcommand};

use super::{FilePlace, Place};

/// Examples of `agent`.
pub(super) const AGENT_EXAMPLES: &str = "Examples:\n  \
    openclaw agent list                               state, process, restarts and load of all\n  \
    openclaw agent list --state quarantined           those that are left alone\n  \
    openclaw agent status words                       all that is known of one, or of a pool\n  \
    openclaw agent restart words --wait               start it anew when it has ended its messages\n  \
    openclaw agent quarantine words --reason \"wrong\"  refuse messages for it until it is released\n  \
    openclaw agent logs words --follow                what it prints on standard error\n  \
    openclaw agent config set words inFlightMax 8     change its part of the configuration\n  \
    openclaw agent --agent words --message \"hello\"    say something, and print what it answers\n\n\
    NAME is an agent, such as words~1, or a pool, such as words: then all of its members are meant.";

/// What can be done with agents, and with what the configuration says of them.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// With those that run.
    #[command(flatten)]
    Running(AgentCommand),
    /// Print or change what the configuration file says of an agent.
    #[command(after_help = "Examples:\n  \
        openclaw agent config get words                  all of it\n  \
        openclaw agent config get words command          one key\n  \
        openclaw agent config set words maxInstances 4   as `config set agents.entries.words.maxInstances 4`")]
    Config {
        /// What to do.
        #[command(subcommand)]
        command: AgentConfigCommand,
    },
}

/// What can be done with the configuration of an agent.
#[derive(Debug, Subcommand)]
pub enum AgentConfigCommand {
    /// Print what the file says of an agent, without secrets.
    Get {
        /// The agent.
        name: String,
        /// One of its keys, such as command or restart.policy; all if left out.
        key: Option<String>,
        /// Print JSON, also of a text.
        #[arg(long)]
        json: bool,
        /// Which file.
        #[command(flatten)]
        place: FilePlace,
    },
    /// Change one of its keys. It is said after which command that counts.
    Set {
        /// The agent.
        name: String,
        /// Which key.
        key: String,
        /// JSON5, or a text; `-`: read it from standard input.
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Print `{"path", "changed", "keys": […]}` as JSON.
        #[arg(long)]
        json: bool,
        /// Which file.
        #[command(flatten)]
        place: FilePlace,
    },
}

/// What can be done with agents that run.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Print a table of agents.
    List(AgentListOptions),
    /// Print all that is known of an agent, or of the members of a pool.
    Status(AgentStatusOptions),
    /// Start an agent anew; the members of a pool one after the other.
    ///
    /// It gets no new messages, ends those it has, for up to drainTimeoutMs, and is started again. Messages for it go to
    /// the other members of its pool, or wait. If a member does not come up again, the others are left as they are.
    Restart(AgentActOptions),
    /// End an agent when it has ended its messages. Messages for it wait until it is released.
    Drain(AgentActOptions),
    /// Leave an agent alone: it is drained, and messages for it are refused until it is released.
    ///
    /// Messages that wait for it go to other members of its pool, or become dead letters (see `openclaw dlq`).
    Quarantine(AgentQuarantineOptions),
    /// Start an agent that was drained, quarantined, or has ended.
    Release(AgentActOptions),
    /// Print what an agent has written to standard error.
    Logs(AgentLogsOptions),
}

/// Which agents to list; all that is given must apply.
#[derive(Args, Clone, Debug)]
pub struct AgentListOptions {
    /// In this state: created, initialising, running, draining, backing-off, quarantined or terminated.
    #[arg(long)]
    pub state: Option<String>,
    /// That know this.
    #[arg(long, value_name = "WORD")]
    pub skill: Option<String>,
    /// That have this capability.
    #[arg(long, value_name = "WORD")]
    pub capability: Option<String>,
    /// That serve this channel.
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// That say they are this software.
    #[arg(long, value_name = "TEXT")]
    pub version_of: Option<String>,
    /// Print `{"total", "agents": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which agent to show.
#[derive(Args, Clone, Debug)]
pub struct AgentStatusOptions {
    /// An agent or a pool.
    pub name: String,
    /// Print `{"total", "agents": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// With which agent to do something.
#[derive(Args, Clone, Debug)]
pub struct AgentActOptions {
    /// An agent or a pool.
    pub name: String,
    /// Return when it is done, and fail if an agent does not run afterwards that should.
    #[arg(long)]
    pub wait: bool,
    /// Print `{"agents": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which agent to leave alone.
#[derive(Args, Clone, Debug)]
pub struct AgentQuarantineOptions {
    /// Why; it is shown, and told to those whose messages are refused.
    #[arg(long)]
    pub reason: Option<String>,
    /// Which agent.
    #[command(flatten)]
    pub act: AgentActOptions,
}

/// Which log to print.
#[derive(Args, Clone, Debug)]
pub struct AgentLogsOptions {
    /// An agent.
    pub name: String,
    /// Print so many of the last lines.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub lines: usize,
    /// Go on with what is written, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// How to tell of a configuration that was read again.
#[derive(Args, Clone, Debug)]
pub struct ReloadOptions {
    /// Print `{"applied", "restartAgents", "restartGateway"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}
