//! The commands that ask a running gateway over its admin socket: `explain`, `dlq`, `agent`, the `gateway` ones.

mod agents;
mod dead_letters;
mod deep;
mod events;
mod explain;
mod lifecycle;
mod logs;
mod reload;
mod sessions;
mod stats;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::admin::answer::{Line, Reloaded, Status};
use crate::admin::request::Op;
use crate::admin::{LINE_BYTES_MAX, VERSION};
use crate::options::{
    AgentCommand, DlqCommand, EventsOptions, ExplainOptions, Place, ReloadOptions, RestartOptions,
    SessionCommand, StatsOptions, StatusOptions, StopOptions,
};
use crate::state_directory::{self, Unreached};
pub use sessions::files::FilesError;

/// How long the gateway may take for an answer; longer than it gives its shards.
const PATIENCE: Duration = Duration::from_secs(10);

const _: () = assert!(PATIENCE.as_secs() > crate::admin::shards::ANSWER_PATIENCE.as_secs());

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The gateway cannot be reached.
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// The connection does not work.
    #[error("the gateway cannot be asked")]
    Connection(#[source] std::io::Error),
    /// The gateway says nothing.
    #[error("the gateway did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The gateway ended the connection.
    #[error("the gateway ended the connection")]
    Ended,
    /// What the gateway says is not what this command understands.
    #[error("the gateway is of another version: its answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// The gateway was to end.
    #[error(
        "gateway {process_id} still runs after {} s; its log says what it waits for",
        waited.as_secs()
    )]
    Stays {
        /// Which.
        process_id: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The next gateway was to answer.
    #[error(
        "no gateway has followed gateway {process_id} within {} s; its log, which goes to where that of the first gateway \
         went, says why",
        waited.as_secs()
    )]
    NoSuccessor {
        /// The one before.
        process_id: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The gateway refuses.
    #[error("{message} ({code})")]
    Refused {
        /// Which error.
        code: String,
        /// As a sentence.
        message: String,
    },
    /// No message is known so.
    #[error(
        "nothing is known of {what}; the gateway remembers the last messages of each shard, and only those since its start"
    )]
    Unknown {
        /// What was asked for.
        what: String,
    },
    /// Agents do not run that should.
    #[error("{names} {} not run; `openclaw agent status` says why", if *many { "do" } else { "does" })]
    NotRunning {
        /// Which.
        names: String,
        /// Whether there are several.
        many: bool,
    },
    /// A pool has several logs.
    #[error("\"{pool}\" is a pool; name one of its members: {members}")]
    ManyLogs {
        /// Which pool.
        pool: String,
        /// Its members.
        members: String,
    },
    /// The log of an agent cannot be read.
    #[error("the log {} cannot be read", path.display())]
    Log {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Nobody has said yes.
    #[error("{what}: say yes, or give --yes where standard input is no terminal; nothing was changed")]
    Unconfirmed {
        /// What would be done.
        what: String,
    },
    /// The sessions of a gateway that does not run cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The answer could not be printed.
    #[error("the answer cannot be printed")]
    Print(#[source] std::io::Error),
}

/// Shows what happened to a message.
pub fn explain(options: &ExplainOptions) -> Result<ExitCode, AskError> {
    ended(explain::run(options))
}

/// Does what one of the `dlq` commands says.
pub fn dead_letters(command: &DlqCommand) -> Result<ExitCode, AskError> {
    ended(dead_letters::run(command))
}

/// Does what one of the `session` commands says.
pub fn sessions(command: &SessionCommand) -> Result<ExitCode, AskError> {
    ended(sessions::run(command))
}

/// Prints processes, and what was taken over.
pub fn status(options: &StatusOptions) -> Result<ExitCode, AskError> {
    let mut is_well = true;
    let done = lifecycle::status(options).map(|found| is_well = found);
    ended(done).map(|code| if is_well { code } else { ExitCode::FAILURE })
}

/// Ends a gateway.
pub fn stop(options: &StopOptions) -> Result<ExitCode, AskError> {
    ended(lifecycle::stop(options))
}

/// Has the next gateway take over.
pub fn restart(options: &RestartOptions) -> Result<ExitCode, AskError> {
    ended(lifecycle::restart(options))
}

/// Prints counters.
pub fn stats(options: &StatsOptions) -> Result<ExitCode, AskError> {
    ended(stats::run(options))
}

/// Prints events.
pub fn events(options: &EventsOptions) -> Result<ExitCode, AskError> {
    ended(events::run(options))
}

/// Does what one of the `agent` commands says.
pub fn agents(command: &AgentCommand) -> Result<ExitCode, AskError> {
    ended(agents::run(command))
}

/// Has the configuration read again.
pub fn reload(options: &ReloadOptions) -> Result<ExitCode, AskError> {
    ended(reload::run(options))
}

/// How the gateway of a state directory is.
pub fn gateway_status(place: &Place) -> Result<Status, AskError> {
    Gateway::connect(place)?.ask(Op::GatewayStatus, json!({}))
}

/// Has the gateway of a state directory read its configuration again.
pub fn take_configuration(place: &Place) -> Result<Reloaded, AskError> {
    Gateway::connect(place)?.ask(Op::Reload, json!({}))
}

/// What would change if it did, perhaps with another file.
pub fn try_configuration(place: &Place, config: Option<&Path>) -> Result<Reloaded, AskError> {
    Gateway::connect(place)?.ask(Op::Reload, json!({"dryRun": true, "config": config}))
}

pub use reload::text as reloaded_text;

fn ended(done: Result<(), AskError>) -> Result<ExitCode, AskError> {
    match done {
        // Whoever read along has seen enough: `dlq list | head`.
        Err(AskError::Print(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A gateway that is asked.
struct Gateway {
    stream: BufReader<UnixStream>,
}

impl Gateway {
    fn connect(place: &Place) -> Result<Self, AskError> {
        let directory = state_directory::chosen(place.state_dir.as_deref()).ok_or(Unreached::NoHome)?;
        let stream = match UnixStream::connect(state_directory::admin_socket(&directory)) {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                        Unreached::NoGateway { directory }.into()
                    }
                    ErrorKind::PermissionDenied => Unreached::NotAllowed { what: "ask", directory }.into(),
                    _ => AskError::Connection(error),
                });
            }
        };
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&stream, Some(PATIENCE)).map_err(AskError::Connection)?;
        }
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks for something. Fields that are null are left out.
    fn ask<T: DeserializeOwned>(&mut self, op: Op, fields: Value) -> Result<T, AskError> {
        let mut request = Map::new();
        request.insert("v".into(), VERSION.into());
        request.insert("op".into(), op.name().into());
        if let Value::Object(fields) = fields {
            request.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        }
        let sent = writeln!(self.stream.get_mut(), "{}", Value::Object(request));
        // A gateway that has too many connections says so and does not read.
        let sent = sent.map_err(failed);
        let line = match self.line() {
            Ok(line) => line,
            Err(error) => return Err(sent.err().unwrap_or(error)),
        };
        let Line { ok, error, .. }: Line<T> = serde_json::from_slice(&line).map_err(AskError::Unreadable)?;
        match (ok, error) {
            (Some(answer), _) => Ok(answer),
            (None, Some(error)) => Err(AskError::Refused { code: error.code, message: error.message }),
            (None, None) => Err(AskError::Ended),
        }
    }

    /// The next line, with its end.
    fn line(&mut self) -> Result<Vec<u8>, AskError> {
        let mut line = Vec::new();
        let limited = &mut (&mut self.stream).take(LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() == Some(&b'\n') { Ok(line) } else { Err(AskError::Ended) }
    }

    /// Waits for an answer that may take longer than others.
    fn patient(&mut self, patience: Duration) -> Result<(), AskError> {
        self.stream.get_mut().set_read_timeout(Some(patience)).map_err(AskError::Connection)
    }

    /// Waits for lines for as long as it takes.
    fn wait_forever(&mut self) -> Result<(), AskError> {
        self.stream.get_mut().set_read_timeout(None).map_err(AskError::Connection)
    }
}

fn failed(error: std::io::Error) -> AskError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => AskError::Silent,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => AskError::Ended,
        _ => AskError::Connection(error),
    }
}

/// How long ago that was, for people.
fn age(at_ms: u64) -> String {
    format!("{} ago", elapsed(at_ms))
}

/// How long something lasts that began then, for people.
fn elapsed(at_ms: u64) -> String {
    match elapsed_ms(at_ms) / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Milliseconds since a moment given as Unix milliseconds.
fn elapsed_ms(at_ms: u64) -> u64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(now_ms).unwrap_or(u64::MAX).saturating_sub(at_ms)
}

/// Microseconds in the unit in which they are read most easily.
fn duration(micros: f64) -> String {
    match micros {
        micros if micros < 10_000.0 => format!("{micros:.1} us"),
        micros if micros < 10_000_000.0 => format!("{:.1} ms", micros / 1e3),
        micros => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Durations change their unit where numbers get long. One row for each side of a change.
    #[test]
    fn durations_are_short() {
        let check = |micros, text| assert_eq!(duration(micros), text);
        check(0.0, "0.0 us");
        check(9_999.9, "9999.9 us");
        check(10_000.0, "10.0 ms");
        check(9_999_900.0, "9999.9 ms");
        check(10_000_000.0, "10.0 s");
    }
}
