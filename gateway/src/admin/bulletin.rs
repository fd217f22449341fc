//! What the control thread tells those who listen to events: agents that come and go, pools, the configuration.

use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::event::AgentIndex;
use engine::events::{Detail, Event, EventMask};
use engine::shard::{Listener, ListenerId, Listening};
use engine::time::Moment;

#[derive(Debug, Default)]
struct Board {
    sequence: u64,
    listeners: Vec<(ListenerId, EventMask, Listener)>,
}

/// Who listens. Written by connections, read by the control thread, which both run on one thread.
///
/// A lock, since both own it; it is off the hot path, and nobody waits while holding it.
#[derive(Debug, Default)]
pub struct Bulletin {
    board: Mutex<Board>,
}

impl Bulletin {
    /// Tells whoever listens to events of that type.
    pub fn tell(&self, at: Moment, agent: Option<AgentIndex>, detail: Detail<'_>) {
        let mut board = self.board();
        let wanted = |(_, mask, _): &(ListenerId, EventMask, Listener)| mask.contains(detail.event_type());
        if !board.listeners.iter().any(wanted) {
            return;
        }
        board.sequence += 1;
        let event = Event { at, sequence: board.sequence, channel: "", session: 0, turn: 0, agent, detail };
        board.listeners.retain_mut(|(_, mask, Listener(listener))| {
            !mask.contains(detail.event_type()) || listener(&event) == Listening::Goes
        });
    }

    pub(super) fn subscribe(&self, id: ListenerId, mask: EventMask, listener: Listener) {
        self.board().listeners.push((id, mask, listener));
    }

    pub(super) fn unsubscribe(&self, id: ListenerId) {
        self.board().listeners.retain(|&(each, ..)| each != id);
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // A listener that panicked has ended the process.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
