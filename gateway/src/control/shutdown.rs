//! The orderly end: answer what was accepted or report it, end the agents, leave nothing behind.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adapters::edge::Phase;
use engine::shard::Command;
use keeper::control::{Event as KeeperEvent, Request};

use super::{Control, Wake};
use crate::edges::EdgeThread;
use crate::systemd;
use crate::transcripts;

/// How long agents may take after they have been told to finish.
const AGENT_GRACE: Duration = Duration::from_secs(2);
/// How long the edges may take to say goodbye.
const EDGE_GRACE: Duration = Duration::from_secs(5);
/// How often what dead agents have left is reaped meanwhile.
const REAP_TICK: Duration = Duration::from_millis(50);
/// How long the keeper may take beyond the grace of the agents.
const KEEPER_GRACE: Duration = Duration::from_secs(3);

impl Control {
    /// Ends everything that [`super::Parts`] holds. A second signal cuts the waiting short.
    pub(super) async fn end(mut self) -> ExitCode {
        // Relaxed: a single flag, and nobody relies on when exactly it is seen.
        self.parts.draining.store(true, Ordering::Relaxed);
        self.parts.phase.send_replace(Phase::Draining);
        let open = self.parts.shared.sum(|stats| &stats.open_turns);
        systemd::stopping();
        tracing::info!(open, "going down: nothing new is accepted, open messages are answered");
        let end = Instant::now() + self.drain_timeout;
        let drained = loop {
            if self.parts.shared.drained() {
                break true;
            }
            if Instant::now() >= end {
                break false;
            }
            match self.wake_going().await {
                Wake::Signal => break false,
                Wake::Look => {}
                wake => {
                    // Agents still die and come back while messages are on their way. A keeper that cannot be
                    // replaced ends the waiting.
                    if self.handle(wake).is_err() {
                        break false;
                    }
                }
            }
        };
        let unanswered = self.parts.shared.sum(|stats| &stats.open_turns);
        if !drained && unanswered > 0 {
            tracing::warn!(unanswered, "going down: these messages are worked on after the next start");
        }
        self.parts.phase.send_replace(Phase::Closing);
        self.join_edges().await;
        self.agents.stop_all(&mut self.parts);
        for shard in &self.parts.shards {
            shard.tell(Command::StopAgents);
        }
        self.end_agents().await;
        let clean = self.end_keeper().await;
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
        tracing::info!("gateway ended");
        if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    pub(super) async fn join_edges(&mut self) {
        let end = Instant::now() + EDGE_GRACE;
        while !self.parts.edges.iter().all(EdgeThread::is_finished) && Instant::now() < end {
            tokio::time::sleep(super::DRAIN_LOOK).await;
        }
        for edge in self.parts.edges.drain(..).filter(EdgeThread::is_finished) {
            if let Ok(Err(error)) = edge.join() {
                tracing::error!(%error, "an edge ended with an error");
            }
        }
    }

    /// Waits until the agents, which have been told, are gone.
    async fn end_agents(&mut self) {
        let end = Instant::now() + AGENT_GRACE;
        while self.agents.alive() > 0 && Instant::now() < end {
            match self.wake_going().await {
                Wake::Signal => return,
                wake => {
                    if self.handle(wake).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Ends a keeper that hangs or is gone, and the agents in its place.
    fn give_up_keeper(&self) {
        tracing::error!("the keeper does not end the agents; they are killed");
        self.parts.keeper.kill();
        self.parts.held.kill_all();
    }

    /// Has the keeper end what is left, and waits for it, until nothing of either is there any more.
    async fn end_keeper(&mut self) -> bool {
        let grace_ms = 500;
        let mut is_heard = !self.parts.keeper.answers_beats();
        // It answers the first even while its agents end. One that is of an older build is not asked.
        let beat = (!is_heard).then_some(Request::Beat);
        let told = [beat, Some(Request::Shutdown { grace_ms })];
        if told.iter().flatten().any(|request| self.parts.keeper.send(request).is_err()) {
            self.give_up_keeper();
            return false;
        }
        let stopped = async {
            loop {
                match self.parts.keeper.receive() {
                    Ok(Some((KeeperEvent::Stopped, _))) => return true,
                    // Who dies may have to be reaped here, and the keeper waits until it is.
                    Ok(Some((event, descriptors))) => {
                        is_heard = true;
                        self.heard_from_keeper(event, descriptors);
                    }
                    Ok(None) => {
                        self.reap_strays(true);
                        match tokio::time::timeout(REAP_TICK, self.keeper_ready.readable()).await {
                            Ok(Ok(mut ready)) => ready.clear_ready(),
                            Ok(Err(_)) => return false,
                            Err(_) => {}
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the keeper ended without saying so");
                        is_heard = false;
                        return false;
                    }
                }
            }
        };
        let stopped = tokio::time::timeout(Duration::from_millis(grace_ms) + KEEPER_GRACE, stopped).await;
        if !is_heard {
            self.give_up_keeper();
            return false;
        }
        // It exits after its last word. Nothing else is left to be done on this thread.
        stopped.unwrap_or(false) && self.parts.keeper.wait_until(Instant::now() + KEEPER_GRACE)
    }
}
