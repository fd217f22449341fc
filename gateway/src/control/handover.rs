//! Leaving everything to the next gateway: `gateway restart`.
//!
//! Clients are sent away with close code 1001, and what has not been answered is in the journal. The listening socket
//! stays open in the keeper, so that nobody who connects meanwhile is refused. Agents are told nothing: they go on.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use adapters::edge::Phase;
use keeper::control::{Keep, Request, Start};

use super::{Control, ControlError, adoption};
use crate::config::restart::start_again;
use crate::config::source::Source;
use crate::config::{Config, Restart};
use crate::systemd;
use crate::transcripts;

/// What the keeper is told of the end of this gateway and of the next one.
#[derive(Debug)]
pub struct Succession {
    shape: String,
    patience_ms: u64,
    restart: Restart,
    start: Option<Start>,
    /// Whether this gateway has the listening socket of the one before.
    pub listener_taken_over: bool,
}

impl Succession {
    /// By the configuration, and the program of this gateway.
    pub fn new(config: &Config, executable: &Path, listener_taken_over: bool) -> Self {
        Self {
            shape: adoption::shape(config),
            patience_ms: u64::try_from(config.handover_timeout.as_millis()).unwrap_or(u64::MAX),
            restart: config.restart,
            start: start_again(executable),
            listener_taken_over,
        }
    }

    /// What the keeper is told once this gateway is up.
    pub fn keep(&self) -> Request {
        let restart = self.start.clone().filter(|_| self.restart.after_crash());
        Request::Keep(Keep { shape: self.shape.clone(), patience_ms: self.patience_ms, restart })
    }

    /// Whether somebody starts the next gateway after a crash: the keeper does.
    pub(super) fn restarts_after_crash(&self) -> bool {
        self.start.is_some() && self.restart.after_crash() && self.patience_ms > 0
    }

    /// Why the next gateway could not be started, if that can be told beforehand.
    pub(super) fn obstacle(&self, source: &Source) -> Option<String> {
        if self.start.is_none() && self.restart.after_handover() {
            return Some(
                "it cannot be started again: its directory is gone, or its arguments are too long or no text"
                    .to_owned(),
            );
        }
        let next = source.read().and_then(|text| source.check(text.document));
        next.err().map(|error| {
            let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
            format!("the next gateway would not start: {error}{cause}")
        })
    }

    fn handover(&self) -> Request {
        Request::Handover { start: self.start.clone().filter(|_| self.restart.after_handover()) }
    }
}

impl Control {
    /// Ends this process, and nothing else that [`super::Parts`] holds.
    pub(super) async fn hand_over(mut self) -> Result<ExitCode, ControlError> {
        // Relaxed: a single flag, and nobody relies on when exactly it is seen.
        self.parts.draining.store(true, Ordering::Relaxed);
        let open = self.parts.shared.sum(|stats| &stats.open_turns);
        tracing::info!(
            open,
            agents = self.agents.alive(),
            "going down for the next gateway, which takes over"
        );
        self.parts.phase.send_replace(Phase::Closing);
        self.join_edges().await;
        for shard in self.parts.shards.drain(..) {
            // A shard that panicked has ended the process already.
            let _ = shard.end();
        }
        // After the shards: what they wrote last is on disk when this returns.
        if let Some(journal) = self.parts.journal.take()
            && journal.end().is_err()
        {
            tracing::error!("the journal thread ended with an error");
        }
        transcripts::end(self.parts.recorder.take(), &self.parts.sessions);
        // Last, since from now on the keeper waits for the end of this process only.
        let handover = self.parts.succession.handover();
        if let Err(gone) = self.parts.keeper.send(&handover) {
            self.replace_keeper(gone)?;
            self.parts.keeper.send(&handover).map_err(ControlError::KeeperGone)?;
        }
        tracing::info!("gateway ended");
        Ok(if systemd::is_there() { ExitCode::from(systemd::EXIT_NEXT) } else { ExitCode::SUCCESS })
    }
}
