//! What the core knows of its log: which sequence comes next, and what is still needed.
//!
//! The log keeps everything back to the oldest turn that has not ended, and replies back to
//! [`LogLimits::retain_bytes`]. A turn that has been left behind by more than [`LogLimits::straggler_bytes`] is
//! written again at the head, so that one slow conversation does not keep gigabytes.

use std::collections::VecDeque;

use crate::journal::entry::EntryKind;
use crate::long_queue::LongQueue;

/// Bytes of a record beside its body, about.
const RECORD_BYTES: u64 = 72;
/// Records that are written at most where a turn is written again.
const RECORDS_PER_MOVE: u64 = 4;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Replies are kept for so many bytes of log.
    pub retain_bytes: u64,
    /// A turn that is older than this, counted from the head, is written again; at least twice
    /// [`Self::retain_bytes`]. Well above what open turns can hold, or they would be written again and again.
    pub straggler_bytes: u64,
    /// How often, in bytes of log, the journal is told what it may give up.
    pub trim_every_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { retain_bytes: 128 << 20, straggler_bytes: 1 << 30, trim_every_bytes: 8 << 20 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    sequence: u64,
    bytes: u64,
}

/// What to do about the tail of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upkeep {
    /// Nothing now.
    Nothing,
    /// This turn has to be written again.
    Move(u64),
    /// Nothing below this sequence is needed any more.
    Trim(u64),
}

/// The log of a shard, as the core counts it.
#[derive(Debug)]
pub struct Log {
    limits: LogLimits,
    next: u64,
    bytes: u64,
    /// Places in the log, about every [`LogLimits::trim_every_bytes`].
    marks: VecDeque<Mark>,
    /// Turns by the place of their message, oldest first; some have ended or been moved since.
    live: LongQueue<(u64, u64, u64)>,
    trimmed: u64,
}

impl Log {
    /// A log whose next record has that sequence.
    pub fn new(next: u64, limits: LogLimits) -> Self {
        Self { limits, next, bytes: 0, marks: VecDeque::new(), live: LongQueue::new(), trimmed: 0 }
    }

    /// The sequence of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Sets it; after recovery.
    pub fn resume_at(&mut self, next: u64) {
        debug_assert!(next >= self.next);
        self.next = next;
    }

    /// Counts a record and says which sequence it has.
    #[inline]
    pub fn append(&mut self, kind: EntryKind, turn: u64, body_bytes: usize) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.count(sequence, kind, turn, body_bytes);
        sequence
    }

    /// Counts a record that was found in the log.
    pub fn count(&mut self, sequence: u64, kind: EntryKind, turn: u64, body_bytes: usize) {
        if self.marks.back().is_none_or(|mark| self.bytes - mark.bytes >= self.limits.trim_every_bytes) {
            self.marks.push_back(Mark { sequence, bytes: self.bytes });
        }
        if matches!(kind, EntryKind::Accepted | EntryKind::Moved) {
            self.live.push_back((sequence, turn, self.bytes));
        }
        self.bytes += RECORD_BYTES + body_bytes as u64;
    }

    /// Counts a record that was found in the log, and of which nothing is needed any more.
    pub fn pass(&mut self, sequence: u64, body_bytes: usize) {
        // As a record that opens nothing.
        self.count(sequence, EntryKind::Dropped, 0, body_bytes);
    }

    /// What is due. `open_count` and `open_bytes` are those of all turns that have not ended; `place` says of one of them
    /// at which sequence the log has it, and whether it may be written again.
    pub fn upkeep(
        &mut self,
        open_count: usize,
        open_bytes: usize,
        place: impl Fn(u64) -> Option<(u64, bool)>,
    ) -> Upkeep {
        // A mark is made every few megabytes; between marks there is nothing to decide.
        if self.marks.len() < 2 || self.bytes - self.marks[0].bytes < self.limits.retain_bytes {
            return Upkeep::Nothing;
        }
        let at = |&(sequence, turn, _): &(u64, u64, u64)| {
            place(turn).filter(|&(found, _)| found == sequence).map(|(_, movable)| movable)
        };
        while self.live.front().is_some_and(|live| at(live).is_none()) {
            self.live.pop_front();
        }
        let oldest = self.live.front().copied();
        let movable = oldest.as_ref().and_then(at) == Some(true);
        let open_bytes = RECORDS_PER_MOVE * RECORD_BYTES * open_count as u64 + open_bytes as u64;
        if let Some((_, turn, bytes)) = oldest
            && movable
            && self.bytes - bytes > self.straggler_bytes(open_bytes)
        {
            return Upkeep::Move(turn);
        }
        let needed = oldest.map_or(self.next, |(sequence, ..)| sequence);
        let mut trim = self.trimmed;
        while self.marks.len() > 1
            && self.bytes - self.marks[1].bytes >= self.limits.retain_bytes
            && self.marks[1].sequence <= needed
        {
            trim = self.marks[1].sequence;
            self.marks.pop_front();
        }
        if trim == self.trimmed {
            return Upkeep::Nothing;
        }
        self.trimmed = trim;
        Upkeep::Trim(trim)
    }

    /// How far a turn may be left behind. To write all of them again must not make the first of them a straggler
    /// again, or it would never end.
    fn straggler_bytes(&self, open_bytes: u64) -> u64 {
        let LogLimits { retain_bytes, straggler_bytes, .. } = self.limits;
        straggler_bytes.max(2 * retain_bytes).max(2 * open_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LogLimits = LogLimits { retain_bytes: 1000, straggler_bytes: 5000, trim_every_bytes: 200 };

    /// The log is given up behind the oldest open turn and behind what is retained, whichever is older.
    #[test]
    fn what_is_needed_is_kept() {
        let mut log = Log::new(0, LIMITS);
        let mut trimmed = 0;
        for turn in 0..100 {
            log.append(EntryKind::Accepted, turn, 28);
            // Turn 40 stays open, the others have ended.
            match log.upkeep(1, 0, |turn| (turn == 40).then_some((40, true))) {
                Upkeep::Nothing => {}
                Upkeep::Trim(sequence) => {
                    assert!(sequence > trimmed && sequence <= 40, "{sequence}");
                    assert!((turn + 1 - sequence) * 100 >= LIMITS.retain_bytes, "{sequence} at {turn}");
                    trimmed = sequence;
                }
                Upkeep::Move(turn) => {
                    assert_eq!(turn, 40);
                    assert_eq!(log.next(), 40 + LIMITS.straggler_bytes / 100 + 1);
                    return;
                }
            }
        }
        panic!("the straggler is not written again");
    }

    /// A turn that was written again counts from its new place.
    #[test]
    fn what_was_written_again_does_not_hold_the_log() {
        let mut log = Log::new(7, LIMITS);
        assert_eq!(log.append(EntryKind::Accepted, 1, 28), 7);
        for _ in 0..60 {
            log.append(EntryKind::Attempt, 1, 28);
        }
        assert_eq!(log.upkeep(1, 0, |_| Some((7, true))), Upkeep::Move(1));
        let moved = log.append(EntryKind::Moved, 1, 28);
        let Upkeep::Trim(sequence) = log.upkeep(1, 0, |_| Some((moved, true))) else {
            panic!("nothing is given up")
        };
        assert!(sequence > 50, "{sequence}");
    }
}
