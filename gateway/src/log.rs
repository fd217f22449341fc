//! The log: text on standard error for people, JSON lines in a file for programs. Nobody waits for either.
//!
//! | module | decides |
//! |---|---|
//! | [`sink`] | what happens to lines that come faster than they can be written |
//! | [`file`] | where lines lie, and how much of them is kept |
//! | [`format`] | what a line of the file says |
//! | [`levels`] | what is said at all |
//! | [`tail`] | which lines somebody gets who follows the file |

pub mod file;
mod format;
pub mod levels;
mod sink;
pub mod tail;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use self::file::{LogFile, LogPlace};
use self::levels::Levels;
use self::sink::Sink;
use crate::colours;

/// How long the end of the process waits until its last lines are written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The log of this process.
#[derive(Clone, Debug)]
pub struct Log {
    text: Sink,
    json: Sink,
    /// What is said; absent in tests, where nobody listens.
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl Log {
    /// From now on what is said is kept: until [`Self::write`] for standard error, until there is one for the file.
    /// With `only_errors`, standard error is told nothing else: nobody reads it, and nobody puts it away.
    pub fn start(levels: &Levels, only_errors: bool) -> Self {
        let (filter, handle) = reload::Layer::new(levels.targets());
        let log = Self {
            text: Sink::new(format::dropped_text),
            json: Sink::new(format::dropped_json),
            filter: Some(handle),
        };
        let text = tracing_subscriber::fmt::layer()
            // Said on standard error, too: where that is closed, it would end the gateway.
            .log_internal_errors(false)
            .with_writer(log.text.clone())
            .with_ansi(colours::wanted(io::stderr().is_terminal()))
            .with_filter(if only_errors { LevelFilter::ERROR } else { LevelFilter::TRACE });
        let json = tracing_subscriber::fmt::layer()
            .log_internal_errors(false)
            .event_format(format::JsonLine)
            .with_writer(log.json.clone());
        tracing_subscriber::registry().with(filter).with(text).with(json).init();
        log
    }

    /// From now on this is said.
    pub fn set_levels(&self, levels: &Levels) {
        if let Some(filter) = &self.filter
            && let Err(error) = filter.reload(levels.targets())
        {
            tracing::error!(%error, %levels, "what is logged cannot be changed");
        }
    }

    /// Starts the thread that writes to standard error, once. Not before privileges have been given up: each thread has
    /// its own.
    pub fn write(&self) {
        if self.text.has_writer() {
            return;
        }
        if let Err(error) = self.text.write_to("log-text", io::stderr()) {
            // There is no other place to say it.
            eprintln!("openclaw: no thread writes the log: {error}");
        }
    }

    /// A log that nobody writes to.
    #[cfg(test)]
    pub fn detached() -> Self {
        Self { text: Sink::new(format::dropped_text), json: Sink::new(format::dropped_json), filter: None }
    }

    /// Has lines written to this file, too. Says where they can be read.
    pub fn open_file(&self, path: &Path) -> io::Result<Arc<LogPlace>> {
        let (file, place) = LogFile::open(path, file::FILE_BYTES_MAX)?;
        self.json.write_to("log-file", file)?;
        Ok(place)
    }

    /// Lines that nobody will read, since they came faster than they could be written.
    pub fn dropped(&self) -> u64 {
        self.text.dropped() + self.json.dropped()
    }

    /// Waits until what was said is written, but not for long.
    pub fn flush(&self) {
        self.write();
        self.json.flush(FLUSH_PATIENCE);
        self.text.flush(FLUSH_PATIENCE);
    }
}

/// Sees to it that the last lines are written when it is dropped.
#[derive(Debug)]
pub struct FlushOnDrop(pub Log);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.flush();
    }
}
