//! The sessions of this gateway on disk: opened at its start, filled from the journal, closed at its end.
//!
//! The crate `sessions` decides what is kept and how; this module says what was found. What is said is written down off the
//! way of messages (decision 0020):
//!
//! | module | decides |
//! |---|---|
//! | [`names`] | what sessions, agents and rows are called |
//! | [`projection`] | which rows the records of the journal become |
//! | [`recorder`] | when they are read and handed over, and what the journal may give up |

pub mod names;
pub mod projection;
pub mod recorder;

use std::path::Path;
use std::sync::Arc;

use engine::journal::tail::Tails;
use sessions::{CommitPolicy, OnWritten, OpenError, Sessions};

use crate::config::{Config, SessionsConfig};
use crate::routes;
use recorder::{LogStart, Recorder, RecorderOptions, StartError};

/// Opens the sessions of a state directory, and tells the operator what a crash has left of them.
#[cfg(test)]
pub fn open(state_directory: &Path) -> Result<Arc<Sessions>, OpenError> {
    open_with(state_directory, CommitPolicy::default())
}

/// The same, committed when it is configured.
pub fn open_with(state_directory: &Path, policy: CommitPolicy) -> Result<Arc<Sessions>, OpenError> {
    let (sessions, report) = Sessions::open(state_directory, policy)?;
    for finding in &report.findings {
        tracing::warn!(?finding, "a transcript was not as it should be");
    }
    if report.untold > 0 {
        tracing::warn!(count = report.untold, "more transcripts were not as they should be");
    }
    tracing::debug!(sessions = sessions.len(), "sessions opened");
    Ok(Arc::new(sessions))
}

/// Writes down what is said, if that is configured.
pub struct Scribe {
    // Arc: clients ask for what is written.
    sessions: Arc<Sessions>,
    config: SessionsConfig,
    options: RecorderOptions,
}

impl Scribe {
    /// By the configuration, into these sessions.
    pub fn new(config: &Config, sessions: &Arc<Sessions>) -> Self {
        let pools: Vec<_> = config.agents.iter().map(|agent| agent.pool.clone()).collect();
        let fallback = routes::default_agent(&pools, config.routing.default.as_deref());
        let options = RecorderOptions::new(&config.sessions, fallback);
        Self { sessions: Arc::clone(sessions), config: config.sessions, options }
    }

    /// The logs of a set are about to be removed, and others take their place.
    pub fn replacing(&self, logs: [&[LogStart]; 2]) {
        if !self.config.transcripts {
            return;
        }
        if let Err(error) = recorder::write_down(&self.sessions, logs, self.options.clone()) {
            tracing::error!(%error, "transcripts lack what was said last before the number of shards was changed");
        }
    }

    /// What the journal is told by whoever follows these logs; none if nobody does.
    pub fn tails(&self, logs: &[LogStart]) -> Option<Arc<Tails>> {
        let written = logs.iter().map(|log| log.next_sequence);
        self.config.transcripts.then(|| Arc::new(Tails::new(written, self.config.lag_bytes_max)))
    }

    /// Begins. `on_written` is told of each row once it is written, and must not wait for anything.
    pub fn start(
        self,
        logs: &[LogStart],
        tails: Option<Arc<Tails>>,
        on_written: Option<OnWritten>,
    ) -> Result<Option<Recorder>, StartError> {
        let Some(tails) = tails else { return Ok(None) };
        Recorder::start(self.sessions, logs, tails, self.options, on_written).map(Some)
    }
}

/// Ends the thread that writes down what is said, and has all of it on the disk. After the end of the journal.
pub fn end(recorder: Option<Recorder>, sessions: &Sessions) {
    if let Some(recorder) = recorder {
        let status = recorder.end();
        tracing::debug!(?status, "what was said is written down");
    }
    if let Err(error) = sessions.commit_all() {
        tracing::error!(%error, "the transcripts are not all on disk; the next start looks after them");
    }
}
