//! Notes between edge threads, and from the gateway to them.
//!
//! Events wait in a bounded queue: beyond [`EVENT_BYTES_MAX`] they are left out and counted, and every client
//! that reads events sees a gap in its numbers. Answers and orders are never left out; there is at most one for
//! each call and run that is open, and those are limited where they open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::calls::Counted;
use super::client::ConnectionId;
use super::connections::ConnectionRow;
use super::events::Event;
use crate::openclaw::backend::Outcome;

/// Bytes of events that wait for one edge.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What an edge is told.
#[derive(Debug)]
pub enum Note {
    /// Something happened that clients may see. Arc: each edge gets it.
    Event(Arc<Event>),
    /// What a driver has said to all others. Arc: each edge gets it.
    Relay(Arc<[u8]>),
    /// What came of a call of one of its clients.
    Answer {
        /// Which client.
        connection: ConnectionId,
        /// As the client calls its request.
        request: String,
        /// What came of it.
        outcome: Outcome,
        /// Whether the call is over with it.
        counted: Counted,
    },
    /// Somebody wants to know which connections there are.
    Connections(oneshot::Sender<Vec<ConnectionRow>>),
    /// A run of this edge is not wanted any more.
    Cancel {
        /// Which.
        sequence: u32,
    },
}

impl Note {
    fn event_bytes(&self) -> usize {
        match self {
            Self::Event(event) => event.payload.len(),
            Self::Relay(frame) => frame.len(),
            Self::Answer { .. } | Self::Connections(_) | Self::Cancel { .. } => 0,
        }
    }
}

/// The notes for one edge. Any thread posts, the edge takes.
#[derive(Debug, Default)]
pub struct Mailbox {
    inner: Mutex<Inner>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    notes: VecDeque<Note>,
    event_bytes: usize,
    missed: u64,
}

/// What an edge finds.
#[derive(Debug, Default)]
pub struct Mail {
    /// In the order in which they were posted.
    pub notes: VecDeque<Note>,
    /// Events that did not fit since the last time.
    pub missed: u64,
}

impl Mailbox {
    /// Leaves a note, and wakes the edge.
    pub fn post(&self, note: Note) {
        let bytes = note.event_bytes();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > 0 && inner.event_bytes + bytes > EVENT_BYTES_MAX {
            inner.missed += 1;
        } else {
            inner.event_bytes += bytes;
            inner.notes.push_back(note);
        }
        drop(inner);
        self.bell.notify_one();
    }

    /// Takes all notes, giving back the emptied queue of the last time.
    pub fn take(&self, mail: &mut Mail) {
        mail.notes.clear();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut mail.notes, &mut inner.notes);
        inner.event_bytes = 0;
        mail.missed = std::mem::take(&mut inner.missed);
    }

    /// Returns when something may have been posted.
    pub async fn wait(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes come in order; events that do not fit are counted, and the orders among them come all the same. By
    /// filling a mailbox that nobody empties.
    #[test]
    fn events_are_bounded_and_orders_are_not() {
        let mailbox = Mailbox::default();
        let frame: Arc<[u8]> = vec![0; EVENT_BYTES_MAX / 2].into();
        for sequence in 0..4 {
            mailbox.post(Note::Relay(Arc::clone(&frame)));
            mailbox.post(Note::Cancel { sequence });
        }
        let mut mail = Mail::default();
        mailbox.take(&mut mail);
        let relays = mail.notes.iter().filter(|note| matches!(note, Note::Relay(_))).count();
        let orders = mail.notes.iter().filter_map(|note| match note {
            Note::Cancel { sequence } => Some(*sequence),
            _ => None,
        });
        let orders: Vec<_> = orders.collect();
        assert_eq!((relays, mail.missed, orders), (2, 2, vec![0, 1, 2, 3]));
        mailbox.post(Note::Relay(frame));
        mailbox.take(&mut mail);
        assert_eq!((mail.notes.len(), mail.missed), (1, 0));
    }
}
