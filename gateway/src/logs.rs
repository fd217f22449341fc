//! `logs`: the end of the log of a gateway, and what follows.
//!
//! It comes from the gateway (`logs.tail`), and from the file itself where none runs in the state directory. Whoever
//! follows it while gateways and files change gets each line once: with each change the end of the log is read anew, up to
//! the line that was printed last.

mod lines;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adapters::client::ClientError;
use adapters::client::openclaw::Connection;
use serde_json::{Value, json};

use self::lines::Wanted;
use crate::client::line::{CONNECT_PATIENCE, passes};
use crate::client::{READ_SCOPES, TalkError, ended, run as run_future};
use crate::colours;
use crate::log::file::LogPlace;
use crate::log::tail;
use crate::options::LogsOptions;
use crate::reach::{self, Reached};
use crate::state_directory;

/// How often it is looked for more.
const LOOK: Duration = Duration::from_millis(250);

/// Prints the end of a log, and perhaps what follows.
pub fn run(options: &LogsOptions) -> Result<ExitCode, TalkError> {
    ended(run_future(print(options))?.map(|()| ExitCode::SUCCESS))
}

async fn print(options: &LogsOptions) -> Result<(), TalkError> {
    let wanted = Wanted::of(&options.filter, options.level);
    let is_coloured = colours::wanted(std::io::stdout().is_terminal());
    let shown = |line: &String| if options.json { line.clone() } else { lines::text(line, is_coloured) };
    let mut reader = Reader::new(options);
    let found = reader.more().await?.ok_or_else(|| reader.nothing())?;
    let found: Vec<_> = found.iter().filter(|line| wanted.has(line)).map(shown).collect();
    write(&found[found.len().saturating_sub(options.lines)..])?;
    if !options.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let found = reader.more().await?.unwrap_or_default();
        write(&found.iter().filter(|line| wanted.has(line)).map(shown).collect::<Vec<_>>())?;
    }
}

fn write(lines: &[String]) -> Result<(), TalkError> {
    let mut out = std::io::stdout().lock();
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(TalkError::Print)
}

/// A log that is read while it grows.
struct Reader<'a> {
    options: &'a LogsOptions,
    connection: Option<Connection>,
    /// From where to ask next, on this connection.
    cursor: Option<u64>,
    /// The line that was read last.
    last: Option<String>,
    /// Why the file was not read.
    failure: Option<std::io::Error>,
}

impl<'a> Reader<'a> {
    fn new(options: &'a LogsOptions) -> Self {
        Self { options, connection: None, cursor: None, last: None, failure: None }
    }

    /// Where the log of the gateway of this machine lies.
    fn path(&self) -> PathBuf {
        let place = &self.options.reach.place;
        let directory = state_directory::chosen(place.state_dir.as_deref()).unwrap_or_default();
        state_directory::gateway_log(&directory)
    }

    fn nothing(&mut self) -> TalkError {
        let missing = || std::io::ErrorKind::NotFound.into();
        TalkError::NoLog { path: self.path(), source: self.failure.take().unwrap_or_else(missing) }
    }

    /// The lines since the last call; at first those of the end. `None`: there is no log to be read now.
    async fn more(&mut self) -> Result<Option<Vec<String>>, TalkError> {
        if self.connection.is_none() {
            self.connect().await?;
        }
        let Some(tail) = self.tail().await? else { return Ok(None) };
        let mut lines = tail.lines;
        if let Some(last) = self.last.as_ref().filter(|_| !tail.follows) {
            match lines.iter().rposition(|line| line == last) {
                Some(place) => drop(lines.drain(..=place)),
                None => eprintln!("openclaw: lines before these are not there any more"),
            }
        }
        if let Some(last) = lines.last() {
            self.last = Some(last.clone());
        }
        Ok(Some(lines))
    }

    /// Connects to the gateway, if one is there.
    async fn connect(&mut self) -> Result<(), TalkError> {
        let reach = &self.options.reach;
        if reach.url.is_none() && reach::running(&reach.place).is_none() {
            return Ok(());
        }
        let Reached { url, secret } = reach::reach(reach)?;
        match Connection::open(&url, secret.as_ref(), READ_SCOPES, CONNECT_PATIENCE).await {
            Ok(connection) => self.connection = Some(connection),
            // A gateway that is followed may come back; else the file tells what there is.
            Err(error) if passes(&error) && (self.last.is_some() || reach.url.is_none()) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn tail(&mut self) -> Result<Option<Tail>, TalkError> {
        if let Some(connection) = &mut self.connection {
            let mut params = json!({"limit": tail::LINES_MAX, "maxBytes": tail::BYTES_MAX});
            if let Some(cursor) = self.cursor {
                params["cursor"] = json!(cursor);
            }
            match connection.call("logs.tail", &params).await {
                Ok(answer) => {
                    let tail = Tail::of(&answer, self.cursor.is_some());
                    self.cursor = tail.cursor;
                    return Ok(Some(tail));
                }
                Err(ClientError::Rpc(failure)) if failure.retryable => return Ok(None),
                Err(error) if passes(&error) => (self.connection, self.cursor) = (None, None),
                Err(error) => return Err(error.into()),
            }
        }
        // The log of a gateway that was named by its address is not here.
        if self.options.reach.url.is_some() {
            return Ok(None);
        }
        let wanted =
            tail::Wanted { lines: Some(tail::LINES_MAX as u64), bytes: Some(tail::BYTES_MAX), cursor: None };
        match LogPlace::of_ended(&self.path()).and_then(|place| tail::read(&place, wanted)) {
            Ok(read) => Ok(Some(Tail { lines: read.lines, cursor: None, follows: false })),
            Err(error) => {
                self.failure = Some(error);
                Ok(None)
            }
        }
    }
}

/// The end of a log, as it is told.
struct Tail {
    lines: Vec<String>,
    cursor: Option<u64>,
    /// Its lines are the next ones after those of the call before.
    follows: bool,
}

impl Tail {
    fn of(answer: &Value, goes_on: bool) -> Self {
        let lines = answer["lines"].as_array().into_iter().flatten();
        Self {
            lines: lines.filter_map(|line| Some(line.as_str()?.to_owned())).collect(),
            cursor: answer["cursor"].as_u64(),
            follows: goes_on && answer["reset"] != true,
        }
    }
}
