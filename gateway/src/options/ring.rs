//! The command line of `openclaw ring`.

use clap::{Args, Subcommand};

use super::Place;

/// Examples of `ring`.
pub(super) const RING_EXAMPLES: &str = "Examples:\n  \
    openclaw ring list                         fill, sleepers, poison of all\n  \
    openclaw ring inspect echo                 every word, and what waits\n  \
    openclaw ring watch                        bytes a second, until Ctrl-C\n  \
    openclaw ring watch edge-0/shard-0 --json  a line of JSON a second\n\n\
    A consumer that stays asleep while bytes are in flight has missed its bell.\n\
    Epochs: how often the producer's and the consumer's side have been taken.\n\
    A poisoned direction is not read any more.";

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub enum RingCommand {
    /// Print a table of all rings, one row for each direction.
    List(RingListOptions),
    /// Print all words of one ring, its config pages, and the headers of what waits in it.
    Inspect(RingInspectOptions),
    /// Print how many bytes a second go through rings; ends on Ctrl-C, or when they are gone.
    Watch(RingWatchOptions),
}

/// How to list.
#[derive(Args, Clone, Debug)]
pub struct RingListOptions {
    /// Print `{"rings": […]}` as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// What to inspect.
#[derive(Args, Clone, Debug)]
pub struct RingInspectOptions {
    /// The name of an agent, or of two threads, such as edge-0/shard-0; `ring list` prints them.
    pub name: String,
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// The least and most milliseconds between two reports.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=60_000;

const _: () = assert!(*INTERVAL_MS.end() < keeper::view::SILENCE_MAX_MS, "the keeper would hang up");

/// What to watch.
#[derive(Args, Clone, Debug)]
pub struct RingWatchOptions {
    /// The name of an agent, or of two threads, such as edge-0/shard-0; all rings if left out.
    pub name: Option<String>,
    /// Time between two reports.
    #[arg(long, value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(INTERVAL_MS))]
    pub interval_ms: u64,
    /// End after so many reports.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print a line of JSON for each report.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}
