//! The part of the command line that is about a gateway's own life.

use clap::{Args, ValueEnum};

use super::Place;

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
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
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
