//! The log of one shard without its disk: entries in, operations out, and how far it is.
//!
//! Whoever drives it calls [`LogWriter::next_operation`] for each [`Lane`] until it gives none, has the operations of a lane
//! executed in that order, and reports each with [`LogWriter::completed`]. What is appended meanwhile becomes the next
//! batch, so that one write and one sync serve all that came during the one before. The lanes go on independently: a sync
//! of tens of megabytes takes a tenth of a second, and nobody who is content with a write need wait for it.
//!
//! # When a segment is given up
//!
//! 1. All of its records are below the trim sequence, and they are written.
//! 2. The ids of its messages are synced in the id log.
//! 3. The beginning of a later segment is synced, so that the numbering goes on there after any crash.
//! 4. Whoever follows the log needs none of its records any more ([`LogWriter::hold`]), or more is kept for him alone than
//!    he may have, or the disk has no room.
//!
//! Then its file is renamed to be used again, or removed if enough spare files exist, if it has another size, or if
//! the id log needs the space.

use std::collections::VecDeque;
use std::time::Duration;

use super::appender::{Appender, Extent, Shape, Start, Unused};
use super::disk::{Completion, DiskError, Operation, Part};
use super::entry::{Entry, EntryKind, IdEntry, JournalState, Progress};
use super::ids::{IdLog, IdSegment};
use super::record::Head;
use super::segment::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MIN};
use crate::time::Moment;

/// Segments of the id log are smaller by this. One of them still holds the ids of one segment of messages of the
/// usual sizes, so that also a full disk can be cleared by trimming.
pub const ID_SEGMENT_DIVISOR: u64 = 4;

/// How a log is written.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Which shard.
    pub log_index: u32,
    /// Size of a segment file; at least [`SEGMENT_BYTES_MIN`].
    pub segment_bytes: u64,
    /// For how long ids are kept at least.
    pub ids_keep: Duration,
    /// How many ids are kept at least.
    pub ids_max: u64,
    /// Random bits, other ones at each start: nobody who sends messages may know them.
    pub salt: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            log_index: 0,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            ids_keep: Duration::from_secs(24 * 60 * 60),
            ids_max: 10_000_000,
            salt: 0,
        }
    }
}

/// A segment of entries that is not given up yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveSegment {
    /// Its number.
    pub number: u64,
    /// Size of its file.
    pub bytes: u64,
    /// Number of the record behind its last one.
    pub end_sequence: u64,
    /// The ids of its messages.
    pub ids: Vec<IdEntry>,
}

/// A file that is in no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnusedFile {
    /// Its number.
    pub number: u64,
    /// Its size.
    pub bytes: u64,
}

/// Where one of the logs of a shard goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resume<Segment> {
    /// Number of the next segment.
    pub next_number: u64,
    /// Its generation.
    pub next_generation: u32,
    /// Number of the next record.
    pub next_sequence: u64,
    /// Segments that have been begun, oldest first.
    pub segments: Vec<Segment>,
    /// Files that have not.
    pub unused: Vec<UnusedFile>,
}

impl<Segment> Default for Resume<Segment> {
    /// An empty log.
    fn default() -> Self {
        let (segments, unused) = (Vec::new(), Vec::new());
        Self { next_number: 1, next_generation: 1, next_sequence: 0, segments, unused }
    }
}

impl<Segment> Resume<Segment> {
    fn start(&self) -> Start {
        let (number, generation) = (self.next_number, self.next_generation);
        Start { number, generation, sequence: self.next_sequence }
    }
}

/// Where a shard's logs go on; what a recovery has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogResume {
    /// The entries.
    pub entries: Resume<LiveSegment>,
    /// The ids.
    pub ids: Resume<IdSegment>,
}

/// A way to the disk. Operations of one lane are executed in their order, those of two in any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Writes of entries, the syncs that durable ones wait for, and their files.
    Front,
    /// Ids, and syncs of entries that no entry waits for.
    Back,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Front, Self::Back];
}

/// How far the oldest segment is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Retiring {
    /// It is needed, or nobody has looked.
    No,
    /// Its ids are on their way; they are safe once the id log is synced up to this record.
    IdsUnderWay { until: u64 },
}

/// The log of one shard.
#[derive(Debug)]
pub struct LogWriter {
    entries: Appender,
    ids: IdLog,
    live: VecDeque<LiveSegment>,
    trim: u64,
    /// Below this sequence whoever follows the log needs nothing any more.
    needed: u64,
    /// Bytes of files that are kept at most for him alone.
    held_bytes_max: u64,
    retiring: Retiring,
    /// Whose operations are under way in the back, or were last.
    turn: Part,
    at_ms: u64,
}

impl LogWriter {
    /// A log that goes on where a recovery has ended.
    pub fn new(options: &LogOptions, resume: LogResume) -> Self {
        assert!(options.segment_bytes >= SEGMENT_BYTES_MIN, "checked with the configuration");
        let LogOptions { log_index, segment_bytes, salt, .. } = *options;
        let LogResume { entries, ids } = resume;
        let shape = Shape { part: Part::Entries, log_index, segment_bytes, salt };
        let id_bytes = (segment_bytes / ID_SEGMENT_DIVISOR).max(SEGMENT_BYTES_MIN);
        let id_shape = Shape { part: Part::Ids, segment_bytes: id_bytes, ..shape };
        let extents =
            entries.segments.iter().map(|found| Extent { number: found.number, end: found.end_sequence });
        let mut appender = Appender::new(shape, entries.start(), extents);
        let start = ids.start();
        let mut id_log = IdLog::new(options, id_shape, start, ids.segments);
        for UnusedFile { number, bytes } in entries.unused {
            appender.give_up(Unused { number, bytes, reusable: true });
        }
        for UnusedFile { number, bytes } in ids.unused {
            id_log.appender.give_up(Unused { number, bytes, reusable: true });
        }
        Self {
            entries: appender,
            ids: id_log,
            live: entries.segments.into(),
            trim: 0,
            needed: u64::MAX,
            held_bytes_max: 0,
            retiring: Retiring::No,
            turn: Part::Ids,
            at_ms: 0,
        }
    }

    /// Takes one entry; its number is the next one.
    ///
    /// HOT: no allocation while the buffers are large enough; one copy.
    pub fn append(&mut self, entry: &Entry, body_kind: u16, body: &[u8], at_ms: u64) {
        debug_assert_ne!(entry.kind, EntryKind::Trim, "a trim is no entry of the log");
        let words = entry.to_route().encode();
        let head = |sequence| Head { sequence, kind: body_kind, at_ms, words };
        // After a failure nothing is kept, and nothing is acknowledged either.
        let Some(place) = self.entries.append(entry.durable, head, body) else { return };
        self.at_ms = self.at_ms.max(at_ms);
        if self.live.back().is_none_or(|last| last.number != place.number) {
            let (number, bytes) = (place.number, place.capacity);
            self.live.push_back(LiveSegment { number, bytes, end_sequence: 0, ids: Vec::new() });
        }
        if let Some(last) = self.live.back_mut() {
            last.end_sequence = place.sequence + 1;
            last.ids.extend(id_of(entry, at_ms));
        }
    }

    /// Nothing below this sequence is needed any more.
    pub fn trim(&mut self, sequence: u64) {
        self.trim = self.trim.max(sequence);
    }

    /// Whoever follows the log needs nothing below `needed` any more. For him alone files of at most so many bytes are kept.
    pub fn hold(&mut self, needed: u64, bytes_max: u64) {
        (self.needed, self.held_bytes_max) = (needed, bytes_max);
    }

    /// Whether the oldest segment, which nobody else needs, is kept for whoever follows the log.
    fn is_held(&self, trimmed: u64) -> bool {
        let held = |segment: &&LiveSegment| segment.end_sequence > self.needed;
        let unneeded = self.live.iter().take_while(|segment| segment.end_sequence <= trimmed);
        let bytes: u64 = unneeded.filter(held).map(|segment| segment.bytes).sum();
        self.live.front().is_some_and(|oldest| held(&oldest))
            && bytes <= self.held_bytes_max
            && self.progress().state == JournalState::Writing
    }

    /// Tells the time, by which a full disk is asked again.
    pub fn tick(&mut self, now: Moment) {
        self.entries.tick(now);
        self.ids.appender.tick(now);
    }

    /// When to call [`Self::tick`] at the latest; none while no time has to pass.
    pub fn next_deadline(&self) -> Option<Moment> {
        [self.entries.next_deadline(), self.ids.appender.next_deadline()].into_iter().flatten().min()
    }

    /// The next operation of a lane, if one may be started now.
    pub fn next_operation(&mut self, lane: Lane) -> Option<Operation> {
        if self.failure().is_some() {
            return None;
        }
        match lane {
            Lane::Front => {
                if !self.entries.is_busy() {
                    self.retire();
                }
                self.entries.next_operation()
            }
            Lane::Back => self.next_in_the_back(),
        }
    }

    fn next_in_the_back(&mut self) -> Option<Operation> {
        if self.ids.appender.is_busy() {
            return self.ids.appender.next_operation();
        }
        if self.entries.is_busy_aside() {
            return None;
        }
        self.retire();
        self.ids.expire(self.at_ms);
        let order = match self.turn {
            Part::Entries => [Part::Ids, Part::Entries],
            Part::Ids => [Part::Entries, Part::Ids],
        };
        order.into_iter().find_map(|part| {
            let operation = match part {
                Part::Entries => self.entries.next_aside(),
                Part::Ids => self.ids.appender.next_operation(),
            };
            self.turn = part;
            operation
        })
    }

    /// What became of the oldest operation of a lane that is under way.
    pub fn completed(&mut self, lane: Lane, completion: Completion) {
        match (lane, self.turn) {
            (Lane::Front, _) => self.entries.completed(completion),
            (Lane::Back, Part::Entries) => self.entries.aside_completed(completion.result),
            (Lane::Back, Part::Ids) => self.ids.appender.completed(completion),
        }
        if let Some(error) = self.failure() {
            self.fail(error);
        }
    }

    /// Brings the oldest segment a step further on its way out, by the rules above.
    fn retire(&mut self) {
        let progress = self.entries.progress();
        loop {
            let trimmed = self.trim.min(progress.written);
            let is_needed = |oldest: &LiveSegment| oldest.end_sequence > trimmed;
            if self.live.front().is_none_or(is_needed) || self.is_held(trimmed) {
                return;
            }
            let [oldest, next, ..] = self.live.make_contiguous() else { return };
            if !self.entries.begins_synced(next.number) {
                self.entries.request_sync();
                return;
            }
            match self.retiring {
                Retiring::No if !oldest.ids.is_empty() => {
                    let until = self.ids.append(&oldest.ids, self.at_ms);
                    self.retiring = Retiring::IdsUnderWay { until };
                    return;
                }
                Retiring::IdsUnderWay { until } if self.ids.appender.progress().synced < until => return,
                Retiring::No | Retiring::IdsUnderWay { .. } => {}
            }
            // A disk that has no room for ids gets some.
            let reusable = self.ids.appender.progress().state == JournalState::Writing;
            self.entries.give_up(Unused { number: oldest.number, bytes: oldest.bytes, reusable });
            self.retiring = Retiring::No;
            self.live.pop_front();
        }
    }

    /// How far it is. The state is the worse one of both logs.
    pub fn progress(&self) -> Progress {
        let progress = self.entries.progress();
        let states = [progress.state, self.ids.appender.progress().state];
        let worse =
            [JournalState::Failed, JournalState::Full].into_iter().find(|state| states.contains(state));
        Progress { state: worse.unwrap_or(JournalState::Writing), ..progress }
    }

    /// Number of the next entry.
    pub fn next_sequence(&self) -> u64 {
        self.entries.next_sequence()
    }

    /// Bytes in memory that are not written yet. Above a limit of the caller's it should read no more entries.
    pub fn buffered_bytes(&self) -> usize {
        self.entries.buffered_bytes() + self.ids.appender.buffered_bytes()
    }

    /// Ends the log for good: nothing more is written, and its progress stands still.
    pub fn fail(&mut self, error: DiskError) {
        self.entries.fail(error);
        self.ids.appender.fail(error);
    }

    /// What ended it, if something did.
    pub fn failure(&self) -> Option<DiskError> {
        self.entries.failure().or(self.ids.appender.failure())
    }

    /// Asks for a sync of everything, as before an orderly end.
    pub fn request_sync(&mut self) {
        self.entries.request_sync();
        self.ids.appender.request_sync();
    }

    /// Whether operations are under way.
    pub fn is_busy(&self) -> bool {
        self.entries.is_busy() || self.entries.is_busy_aside() || self.ids.appender.is_busy()
    }

    /// Whether everything appended survives a loss of power.
    pub fn is_synced(&self) -> bool {
        self.entries.is_synced() && self.ids.appender.is_synced()
    }
}

/// The id that has to be remembered after this entry is gone.
pub(super) fn id_of(entry: &Entry, at_ms: u64) -> Option<IdEntry> {
    let message = matches!(entry.kind, EntryKind::Accepted | EntryKind::Moved | EntryKind::Known);
    (message && entry.word != 0).then(|| IdEntry {
        session: entry.session,
        id: entry.word,
        check: entry.check,
        at_s: u32::try_from(at_ms / 1000).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
