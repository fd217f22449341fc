//! Another turn of a session is the one at work than first come, first served would have it: after a start, when it turns
//! out which one an agent has.

use shm_transport::envelope::{Priority, SessionMode};

use super::{SessionIndex, Sessions};

impl Sessions {
    /// Makes a turn that waits the one at work. The one that was waits again, before others of that class.
    pub fn begin_instead(&mut self, index: SessionIndex, turn: u64, class: Priority) {
        let session = self.session_mut(index);
        let class = if session.mode == SessionMode::Queue { Priority::Normal } else { class };
        let (Some(line), Some(before)) = (session.waiting.as_mut(), session.active_turn) else { return };
        if line.remove(turn) {
            line.push_front(class, before);
            session.active_turn = Some(turn);
        }
    }

    /// The turn at work has not been begun after all: the most urgent one is at work now. The one that was is the first
    /// of its class. Gives the one at work.
    pub fn reconsider(&mut self, index: SessionIndex, class: Priority) -> Option<u64> {
        let session = self.session_mut(index);
        let class = if session.mode == SessionMode::Queue { Priority::Normal } else { class };
        if let (Some(line), Some(before)) = (session.waiting.as_mut(), session.active_turn) {
            line.push_front(class, before);
            session.active_turn = line.pop();
        }
        session.active_turn
    }
}
