//! Decides what each answer means: first, duplicated, reordered or never asked for. Pure; no sockets and no clock.
//!
//! One [`Outstanding`] belongs to one connection. Sequences are dense, so the table is a queue whose front is the
//! oldest message without an answer, and a look-up is a subtraction.

use std::collections::VecDeque;

/// More messages without an answer than this on one connection end it; the table would grow without end.
pub const OUTSTANDING_MAX: usize = 1 << 22;

/// What was sent, as needed to judge the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When it should have been sent.
    pub intended_ns: u64,
    /// Index into the corpus.
    pub payload_index: usize,
    /// Index into the sessions of the connection.
    pub session_index: usize,
    /// False during the warm-up.
    pub measured: bool,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Waiting(Sent),
    Closed,
}

/// What a closing or error frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first frame that closes this message.
    First {
        /// The message it closes.
        sent: Sent,
        /// A later message of the same session was answered before.
        reordered: bool,
    },
    /// The message was closed before.
    Duplicate,
    /// No such message was sent.
    Unknown,
}

/// The table is full; see [`OUTSTANDING_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOutstanding;

/// The messages of one connection that wait for their answer.
#[derive(Debug)]
pub struct Outstanding {
    /// Sequence of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    waiting: usize,
    /// Per session: one past the highest sequence answered.
    answered_up_to: Vec<u64>,
}

impl Outstanding {
    /// An empty table for a connection with `session_count` sessions.
    pub fn new(session_count: usize) -> Self {
        Self { base: 0, slots: VecDeque::new(), waiting: 0, answered_up_to: vec![0; session_count] }
    }

    /// The sequence that [`Outstanding::insert`] gives out next.
    pub fn next_sequence(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Remembers a message under [`Outstanding::next_sequence`].
    ///
    /// # Errors
    /// The table is full.
    pub fn insert(&mut self, sent: Sent) -> Result<(), TooManyOutstanding> {
        debug_assert!(sent.session_index < self.answered_up_to.len());
        if self.slots.len() == OUTSTANDING_MAX {
            return Err(TooManyOutstanding);
        }
        self.slots.push_back(Slot::Waiting(sent));
        self.waiting += 1;
        Ok(())
    }

    /// Judges a closing frame.
    pub fn answer(&mut self, sequence: u64) -> Verdict {
        let verdict = self.close(sequence);
        let Verdict::First { sent, .. } = verdict else { return verdict };
        let answered_up_to = &mut self.answered_up_to[sent.session_index];
        let reordered = sequence < *answered_up_to;
        *answered_up_to = (*answered_up_to).max(sequence + 1);
        Verdict::First { sent, reordered }
    }

    /// Judges an error frame. A refusal may overtake answers, so it has no part in the order.
    pub fn fail(&mut self, sequence: u64) -> Verdict {
        self.close(sequence)
    }

    /// What an open message is, for frames that do not close it.
    pub fn open(&self, sequence: u64) -> Verdict {
        let Some(offset) = sequence.checked_sub(self.base) else { return Verdict::Duplicate };
        match usize::try_from(offset).ok().and_then(|offset| self.slots.get(offset)) {
            Some(&Slot::Waiting(sent)) => Verdict::First { sent, reordered: false },
            Some(Slot::Closed) => Verdict::Duplicate,
            None => Verdict::Unknown,
        }
    }

    fn close(&mut self, sequence: u64) -> Verdict {
        let verdict = self.open(sequence);
        if let Verdict::First { .. } = verdict {
            // In range, or `open` had found nothing.
            let offset = usize::try_from(sequence - self.base).unwrap_or(usize::MAX);
            self.slots[offset] = Slot::Closed;
            self.waiting -= 1;
            while let Some(Slot::Closed) = self.slots.front() {
                self.slots.pop_front();
                self.base += 1;
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames in order of arrival, by sequence.
    #[derive(Clone, Copy)]
    enum Frame {
        Answer(u64),
        Fail(u64),
    }
    use Frame::{Answer, Fail};

    /// What a run of frames amounts to.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Totals {
        first: u32,
        reordered: u32,
        duplicate: u32,
        unknown: u32,
        lost: usize,
    }

    /// Sends `count` messages, round-robin over `sessions`, then judges `frames`.
    fn check(label: &str, sessions: usize, count: usize, frames: &[Frame], expected: &Totals) {
        let mut table = Outstanding::new(sessions);
        for index in 0..count {
            assert_eq!(table.next_sequence(), index as u64);
            let sent = Sent {
                intended_ns: 0,
                payload_index: index,
                session_index: index % sessions,
                measured: true,
            };
            table.insert(sent).unwrap();
        }
        let mut totals = Totals::default();
        for &frame in frames {
            let (verdict, sequence) = match frame {
                Answer(sequence) => (table.answer(sequence), sequence),
                Fail(sequence) => (table.fail(sequence), sequence),
            };
            match verdict {
                Verdict::First { sent, reordered } => {
                    assert_eq!(sent.payload_index as u64, sequence, "{label}");
                    totals.first += 1;
                    totals.reordered += u32::from(reordered);
                }
                Verdict::Duplicate => totals.duplicate += 1,
                Verdict::Unknown => totals.unknown += 1,
            }
        }
        totals.lost = table.waiting();
        assert_eq!(&totals, expected, "{label}");
    }

    /// One row per rule: every kind of wrong answer is counted as that kind and no other.
    #[test]
    fn each_fault_is_counted_once_as_itself() {
        let none = Totals::default;
        let all = |count: u32| Totals { first: count, ..none() };
        check("nothing sent", 1, 0, &[], &none());
        check("in order", 1, 3, &[Answer(0), Answer(1), Answer(2)], &all(3));
        check("never answered", 1, 2, &[], &Totals { lost: 2, ..none() });
        check("lost in the middle", 1, 3, &[Answer(0), Answer(2)], &Totals { lost: 1, ..all(2) });
        check("swapped", 1, 2, &[Answer(1), Answer(0)], &Totals { reordered: 1, ..all(2) });
        check(
            "one late by two",
            1,
            3,
            &[Answer(1), Answer(2), Answer(0)],
            &Totals { reordered: 1, ..all(3) },
        );
        check("reversed", 1, 3, &[Answer(2), Answer(1), Answer(0)], &Totals { reordered: 2, ..all(3) });
        check("other session overtakes", 2, 2, &[Answer(1), Answer(0)], &all(2));
        check(
            "swapped within one of two sessions",
            2,
            4,
            &[Answer(2), Answer(1), Answer(0), Answer(3)],
            &Totals { reordered: 1, ..all(4) },
        );
        check(
            "duplicated at once",
            1,
            2,
            &[Answer(0), Answer(0), Answer(1)],
            &Totals { duplicate: 1, ..all(2) },
        );
        check(
            "duplicated later",
            1,
            2,
            &[Answer(0), Answer(1), Answer(0)],
            &Totals { duplicate: 1, ..all(2) },
        );
        check(
            "duplicated behind a gap",
            1,
            3,
            &[Answer(2), Answer(2)],
            &Totals { first: 1, duplicate: 1, lost: 2, ..none() },
        );
        check("never sent", 1, 1, &[Answer(1), Answer(u64::MAX)], &Totals { unknown: 2, lost: 1, ..none() });
        check("refused", 1, 1, &[Fail(0)], &all(1));
        check("a refusal may overtake", 1, 2, &[Fail(1), Answer(0)], &all(2));
        check("answered after refusal", 1, 1, &[Fail(0), Answer(0)], &Totals { duplicate: 1, ..all(1) });
        check("refused twice", 1, 1, &[Fail(0), Fail(0)], &Totals { duplicate: 1, ..all(1) });
    }

    /// The table shrinks as answers come, so a long run needs memory for the open messages only.
    #[test]
    fn answered_messages_leave_the_table() {
        let mut table = Outstanding::new(1);
        let sent = Sent { intended_ns: 0, payload_index: 0, session_index: 0, measured: false };
        for sequence in 0..1000 {
            table.insert(sent).unwrap();
            assert_eq!(table.open(sequence), Verdict::First { sent, reordered: false });
            assert_eq!(table.answer(sequence), Verdict::First { sent, reordered: false });
            assert_eq!(table.slots.len(), 0);
            assert_eq!(table.open(sequence), Verdict::Duplicate);
        }
        assert_eq!(table.next_sequence(), 1000);
    }
}
