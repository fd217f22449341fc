//! What the commands share that talk to a gateway as its clients do: the connection, a turn, and how they fail.
//!
//! | module | decides |
//! |---|---|
//! | [`line`] | where the gateway is, and when it is tried again |
//! | [`turn`] | what the frames of a gateway mean for one turn of an agent |
//! | [`talk`] | turns one after the other, over connections that may end, with somebody who may interrupt them |
//! | [`controls`] | what that somebody types |
//! | [`screen`] | what is printed of a reply |

pub mod controls;
pub mod line;
pub mod screen;
pub mod talk;
pub mod turn;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adapters::client::ClientError;

use crate::reach::ReachError;

/// What a command ends with if nobody is there.
pub const EXIT_NOT_RUNNING: u8 = 3;
/// What a command ends with if something did not come in time.
pub const EXIT_LATE: u8 = 4;
/// What a command ends with that was interrupted, as for a shell.
pub const EXIT_INTERRUPTED: u8 = 130;

/// What the command line may do.
pub const ALL_SCOPES: &[&str] = &["operator.admin", "operator.approvals", "operator.pairing"];
/// What a chat needs.
pub const TALK_SCOPES: &[&str] = &["operator.read", "operator.write"];
/// What it takes to look.
pub const READ_SCOPES: &[&str] = &["operator.read"];

/// Why a command failed that talks to a gateway.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// No runtime for the connection, no thread, no signals.
    #[error("this command cannot start")]
    Start(#[source] std::io::Error),
    /// Nothing is sent there.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The connection or the gateway failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The gateway has not come back.
    #[error("the gateway has not come back within {} s", waited.as_secs())]
    GaveUp {
        /// How long it was tried.
        waited: Duration,
        /// What became of the last try.
        #[source]
        source: ClientError,
    },
    /// Something did not come in time.
    #[error("{what} did not come within {} ms; give more with {flag}", limit.as_millis())]
    Late {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        limit: Duration,
        /// How to wait for longer.
        flag: &'static str,
    },
    /// The run was ended for want of time.
    #[error("the agent has not answered in time: {reason}")]
    RunLate {
        /// What the gateway says.
        reason: String,
    },
    /// The run failed.
    #[error("the agent has not answered: {reason}")]
    RunFailed {
        /// What the gateway says.
        reason: String,
    },
    /// The run was aborted by somebody else.
    #[error("the run was aborted")]
    Aborted,
    /// The reply is not told any more.
    #[error("the message was answered, but the gateway does not tell the answer any more")]
    Forgotten,
    /// Whoever gave the command does not want to wait.
    #[error("interrupted")]
    Interrupted,
    /// Nobody is named, and nobody is meant by default.
    #[error("name an agent with --agent: this gateway has no default agent")]
    NoAgent,
    /// Nobody runs, and nobody has.
    #[error("no gateway runs there, and its log cannot be read: {}", path.display())]
    NoLog {
        /// Where it would be.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// What was to be said cannot be read.
    #[error("standard input cannot be read")]
    Input(#[source] std::io::Error),
    /// What came could not be printed.
    #[error("the answer cannot be printed")]
    Print(#[source] std::io::Error),
}

impl TalkError {
    /// What a command ends with that fails so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.is_nobody() => EXIT_NOT_RUNNING,
            Self::GaveUp { .. } | Self::NoLog { .. } => EXIT_NOT_RUNNING,
            Self::Client(ClientError::Silent { .. }) | Self::Late { .. } | Self::RunLate { .. } => EXIT_LATE,
            Self::Interrupted => EXIT_INTERRUPTED,
            _ => 1,
        }
    }
}

/// Runs what a command does, on a runtime of its own.
pub fn run<T>(future: impl Future<Output = T>) -> Result<T, TalkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(TalkError::Start)?.block_on(future))
}

/// How a command ends. Whoever read along has seen enough: `openclaw logs | head`.
pub fn ended(done: Result<ExitCode, TalkError>) -> Result<ExitCode, TalkError> {
    match done {
        Err(TalkError::Print(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        done => done,
    }
}
