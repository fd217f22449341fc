//! The command line of `openclaw dlq`.

use clap::{Args, Subcommand};

use super::Place;

/// Examples of `dlq`.
pub(super) const DLQ_EXAMPLES: &str = "Examples:\n  \
    openclaw dlq list                            all of them\n  \
    openclaw dlq show 0000000100000000           its history, and what it says\n  \
    openclaw dlq replay --agent words --dry-run  what would be tried again\n  \
    openclaw dlq replay --agent words            try it again, in the order of death\n  \
    openclaw dlq drop --code agent_error         drop what the agent refused";

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Print a table of dead letters.
    List(DlqListOptions),
    /// Print one with its history and its message.
    Show(DlqShowOptions),
    /// Try some again; a reply goes to whoever sends the message again with its id.
    Replay(DlqReplayOptions),
    /// Drop some, for good.
    Drop(DlqDropOptions),
}

/// Which dead letters; all that is given must apply.
#[derive(Args, Clone, Debug, Default)]
pub struct DlqFilter {
    /// For this agent or pool.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// That died of this: agent_died, agent_error, agent_unavailable …
    #[arg(long)]
    pub code: Option<String>,
    /// Of this session, as its client names it (`sessionId`).
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
}

/// How to list dead letters.
#[derive(Args, Clone, Debug)]
pub struct DlqListOptions {
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Pass over so many.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: usize,
    /// Print at most so many.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
    /// Print `{"total", "letters": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which dead letter to show.
#[derive(Args, Clone, Debug)]
pub struct DlqShowOptions {
    /// Its turn; `dlq list` prints it.
    pub turn: String,
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which dead letters are meant.
#[derive(Args, Clone, Debug)]
pub struct DlqSelection {
    /// The turn of one; `dlq list` prints it.
    #[arg(required_unless_present_any = ["all", "agent", "code", "session"],
        conflicts_with_all = ["all", "agent", "code", "session"])]
    pub turn: Option<String>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["agent", "code", "session"])]
    pub all: bool,
    /// Some of them.
    #[command(flatten)]
    pub filter: DlqFilter,
}

/// Which dead letters to try again.
#[derive(Args, Clone, Debug)]
pub struct DlqReplayOptions {
    /// Which.
    #[command(flatten)]
    pub selection: DlqSelection,
    /// Only print which it would be.
    #[arg(long)]
    pub dry_run: bool,
    /// Print `{"count", "turns": […], "dryRun"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which dead letters to drop.
#[derive(Args, Clone, Debug)]
pub struct DlqDropOptions {
    /// Which.
    #[command(flatten)]
    pub selection: DlqSelection,
    /// Print `{"count", "turns": […]}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}
