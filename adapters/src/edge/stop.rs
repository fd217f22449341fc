//! Runs of a session, as the rest of the gateway knows and stops them.

use std::sync::Arc;

use super::EdgeShared;
use super::mailbox::Note;
use super::runs::board::{Aborting, Found, Waiter};
use crate::openclaw::backend::Answer;
use crate::openclaw::runs::aborted;

impl EdgeShared {
    /// The runs that are not over, each with the key of its session.
    pub fn running(&self) -> Vec<(String, Arc<str>)> {
        self.runs.running()
    }

    /// The runs of a session that are not over.
    pub fn running_in(&self, session_key: &str) -> Vec<Arc<str>> {
        self.runs.in_flight(Some(session_key), None).into_iter().map(|(id, _)| id).collect()
    }

    /// Stops the runs of a session, or one of them. Answered when they are over.
    pub fn stop_runs(&self, session_key: Option<&str>, run: Option<&str>, answer: Answer) {
        let found = self.runs.in_flight(session_key, run);
        let ids: Vec<&str> = found.iter().map(|(id, _)| &**id).collect();
        let aborting = Arc::new(Aborting::new(answer, aborted(&ids)));
        for (id, owner) in &found {
            match self.runs.wait(id, Waiter::Abort(Arc::clone(&aborting))) {
                Found::Waiting(_) => {
                    let note = Note::Cancel { sequence: owner.sequence };
                    self.mailboxes[owner.edge_index].post(note);
                }
                // Over meanwhile, or about to be.
                Found::Over(..) | Found::Unknown(_) | Found::Full(_) => {}
            }
        }
        // Answered when the last of the runs lets go of it.
        drop(aborting);
    }
}
