//! The command line of `openclaw session`.

use clap::{Args, Subcommand, ValueEnum};

use super::Place;

/// Examples of `session`.
pub(super) const SESSION_EXAMPLES: &str = "Examples:\n  \
    openclaw session list --agent main               the sessions of an agent, those that changed last first\n  \
    openclaw session get agent:main:main             all that is known of one\n  \
    openclaw session export agent:main:main > x.jsonl\n  \
    openclaw session archive --older-than 30d        put aside what nobody has touched for a month\n  \
    openclaw session reset agent:main:main --yes     begin it anew; what was said stays in its transcript\n\n\
    Where no gateway runs, list, get and export read the files of the state directory.";

/// What can be done with sessions.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Print a table of sessions, those that changed last first.
    List(SessionListOptions),
    /// Print all that is known of one.
    Get(SessionOptions),
    /// Have everything that was said put on the disk now, and wait for that.
    Commit(SessionCommitOptions),
    /// Put aside the sessions that have not changed for so long.
    Archive(SessionArchiveOptions),
    /// Print a whole transcript.
    Export(SessionExportOptions),
    /// Forget a session; its transcript is put aside, where nobody reads it any more.
    Delete(SessionDeleteOptions),
    /// Begin a session anew, in place.
    Reset(SessionConfirmedOptions),
}

/// Which sessions to list.
#[derive(Args, Clone, Debug)]
pub struct SessionListOptions {
    /// Of this agent.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// With this in the key or the label.
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// Those that are put aside instead of the others.
    #[arg(long)]
    pub archived: bool,
    /// Pass over so many.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: usize,
    /// Print at most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Print `{"total", "sessions": […], "next"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// Which session.
#[derive(Args, Clone, Debug)]
pub struct SessionOptions {
    /// Its key; `session list` prints it.
    pub key: String,
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// What to commit.
#[derive(Args, Clone, Debug)]
pub struct SessionCommitOptions {
    /// The key of one session.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub key: Option<String>,
    /// All sessions.
    #[arg(long)]
    pub all: bool,
    /// Print `{"key", "rows"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// What to put aside.
#[derive(Args, Clone, Debug)]
pub struct SessionArchiveOptions {
    /// How long nothing has changed, such as 90s, 30m, 12h, 7d or 4w.
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    pub older_than: u64,
    /// Only of this agent.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only print how many it would be.
    #[arg(long)]
    pub dry_run: bool,
    /// Print `{"count", "dryRun"}` as JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// How to print a transcript.
#[derive(Args, Clone, Debug)]
pub struct SessionExportOptions {
    /// Its key; `session list` prints it.
    pub key: String,
    /// How.
    #[arg(long, value_enum, default_value_t = SessionFormat::Jsonl)]
    pub format: SessionFormat,
    /// Print it as JSON: the same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// The values of `--format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SessionFormat {
    /// As it is on the disk.
    Jsonl,
    /// To be read by people.
    Markdown,
    /// One object: the session, and its rows.
    Json,
}

impl SessionFormat {
    /// Its name on the admin socket.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Markdown => "markdown",
            Self::Json => "json",
        }
    }
}

/// Which session to forget.
#[derive(Args, Clone, Debug)]
pub struct SessionDeleteOptions {
    /// Remove its transcript, too.
    #[arg(long)]
    pub erase: bool,
    /// Which one.
    #[command(flatten)]
    pub session: SessionConfirmedOptions,
}

/// Which session to change for good.
#[derive(Args, Clone, Debug)]
pub struct SessionConfirmedOptions {
    /// Its key; `session list` prints it.
    pub key: String,
    /// Do not ask; needed where standard input is no terminal.
    #[arg(long)]
    pub yes: bool,
    /// Print one object of JSON.
    #[arg(long)]
    pub json: bool,
    /// Which gateway.
    #[command(flatten)]
    pub place: Place,
}

/// How many milliseconds a text such as `7d` names.
fn milliseconds(text: &str) -> Result<u64, String> {
    let unit_ms = match text.chars().last() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        Some('w') => 604_800_000,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u64>().ok());
    let time = number.filter(|_| unit_ms > 0).and_then(|number| number.checked_mul(unit_ms));
    time.ok_or_else(|| "must be a number and a unit: s, m, h, d or w, such as 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are numbers with a unit, and nothing else. One row each.
    #[test]
    fn times_have_units() {
        let rows = [
            ("90s", Some(90_000)),
            ("30m", Some(1_800_000)),
            ("12h", Some(43_200_000)),
            ("7d", Some(604_800_000)),
            ("4w", Some(2_419_200_000)),
            ("0d", Some(0)),
            ("7", None),
            ("d", None),
            ("", None),
            ("-1d", None),
            ("1.5d", None),
            ("7 d", None),
            ("7ä", None),
            ("99999999999999999999d", None),
            ("99999999999999999w", None),
        ];
        for (text, expected) in rows {
            assert_eq!(milliseconds(text).ok(), expected, "{text}");
        }
    }
}
