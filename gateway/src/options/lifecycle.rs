//! The part of the command line that is about a gateway's own life.

use clap::{Args, ValueEnum};

use super::{FilePlace, Place};

/// Examples of `gateway`.
pub(super) const GATEWAY_EXAMPLES: &str = "Examples:\n  \
    openclaw gateway run --port 18790     run one in this terminal\n  \
    openclaw gateway start                run one in the background\n  \
    openclaw gateway status --deep        see whether each part of it answers\n  \
    openclaw gateway call health          call a method, as its clients do\n  \
    openclaw gateway restart              replace it by the program that is there now; agents go on\n  \
    openclaw gateway stop                 end it";

/// Examples of `gateway status`.
pub(super) const STATUS_EXAMPLES: &str = "Examples:\n  \
    openclaw gateway status          processes, listener, agents\n  \
    openclaw gateway status --deep   has each part answer; exit code 1 if one does not";

/// Examples of `start`.
pub(super) const START_EXAMPLES: &str = "Examples:\n  \
    openclaw start                       with the configuration of the state directory\n  \
    openclaw start -- --port 18790       with flags of `openclaw gateway run`\n  \
    openclaw gateway stop                end it\n\n\
    Where `openclaw gateway install` has made it a service, systemd starts it.";

/// Examples of `gateway install`.
pub(super) const INSTALL_EXAMPLES: &str = "Examples:\n  \
    openclaw gateway install --print     only show the unit\n  \
    openclaw gateway install             write ~/.config/systemd/user/openclaw-gateway.service\n  \
    loginctl enable-linger               so that it runs also while you are logged out";

/// The values of `--restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestartChoice {
    /// Yes, unless systemd has started it, which does so itself.
    Auto,
    /// Yes.
    Always,
    /// No; agents wait for a gateway that somebody else starts.
    Never,
}

/// What to print of a gateway.
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    /// Have each part of it answer: clients, shards, keeper, agents.
    #[arg(long)]
    pub deep: bool,
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: FilePlace,
}

/// How to start a gateway in the background.
#[derive(Args, Clone, Debug)]
pub struct StartOptions {
    /// How long it may take until it is ready.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub timeout_ms: u64,
    /// Print `{"started", "processId", "url", "log", "by"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: FilePlace,
    /// Flags of `openclaw gateway run`, behind `--`.
    #[arg(last = true, value_name = "FLAGS")]
    pub run: Vec<String>,
}

/// Which service to make of a gateway.
#[derive(Args, Clone, Debug)]
pub struct InstallOptions {
    /// Only print the unit.
    #[arg(long)]
    pub print: bool,
    /// Print `{"unit", "path", "written"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: FilePlace,
}

/// How to take a service away.
#[derive(Args, Clone, Copy, Debug)]
pub struct UninstallOptions {
    /// Print `{"path", "removed"}` as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How to stop a gateway.
#[derive(Args, Clone, Debug)]
pub struct StopOptions {
    /// How long to wait for replies that are on their way. Default: as the gateway is configured.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=600_000))]
    pub timeout_ms: Option<u64>,
    /// Print `{"processId", "tookMs"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// How to restart a gateway.
#[derive(Args, Clone, Debug)]
pub struct RestartOptions {
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}
