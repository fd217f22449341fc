//! What waits for the journal: a queue for each durability class, in the order of the log.

use std::collections::VecDeque;

use crate::journal::entry::Progress;
use crate::planted::{self, Bug};
use crate::session::StreamPosition;

/// What happens when the journal has an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// A message is acknowledged and may be worked on.
    Accepted,
    /// A turn may be given out again.
    Prepared,
    /// A word may be shown.
    Word(StreamPosition),
    /// The last word may be shown, and the turn ends.
    Ended(StreamPosition),
    /// The same, and its agent is told that nobody waits for it any more.
    Withdrawn(StreamPosition),
    /// The turn is a dead letter, and its client may be told.
    Dead(StreamPosition),
    /// Nothing waits for it.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    sequence: u64,
    turn: u64,
    outcome: Outcome,
}

/// The queues. Entries that need the disk do not hold up those that do not.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    written: VecDeque<Waiting>,
    synced: VecDeque<Waiting>,
}

impl Awaiting {
    /// Adds what waits for an entry.
    #[inline]
    pub(super) fn push(&mut self, durable: bool, sequence: u64, turn: u64, outcome: Outcome) {
        if outcome == Outcome::Nothing {
            return;
        }
        let durable = durable && !planted::is(Bug::DurableWhenWritten);
        let queue = if durable { &mut self.synced } else { &mut self.written };
        debug_assert!(queue.back().is_none_or(|last| last.sequence < sequence));
        queue.push_back(Waiting { sequence, turn, outcome });
    }

    /// The next thing that need not wait any more. What needs no disk goes first: a block before the end of its reply.
    #[inline]
    pub(super) fn pop(&mut self, progress: Progress) -> Option<(u64, Outcome)> {
        for (queue, until) in [(&mut self.written, progress.written), (&mut self.synced, progress.synced)] {
            let early = |outcome| match outcome {
                Outcome::Word(_) | Outcome::Ended(_) | Outcome::Withdrawn(_) => {
                    planted::is(Bug::ShownBeforeKept)
                }
                Outcome::Accepted | Outcome::Prepared | Outcome::Dead(_) | Outcome::Nothing => false,
            };
            if queue.front().is_some_and(|next| next.sequence < until || early(next.outcome)) {
                return queue.pop_front().map(|next| (next.turn, next.outcome));
            }
        }
        None
    }

    /// Nothing will be written any more.
    pub(super) fn clear(&mut self) {
        self.written.clear();
        self.synced.clear();
    }
}
