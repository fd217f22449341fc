//! Appends records to segment files: batches, segment switches, the reserve, and what is known to be on disk.
//!
//! Both logs of a shard are one of these. It does no IO: it hands out operations and is told what became of them.
//!
//! # Rules
//!
//! 1. At most one *chain* of operations is under way: one operation, or a write and the sync of the same segment. Beside
//!    it, of a log of entries, one sync that nobody's record waits for: it may take long, and writes need not wait for it.
//! 2. Every change of the directory is synced before anything rests on it. So a file is written only under a name that
//!    survives a loss of power, and files disappear oldest first.
//! 3. A write with a durable record is linked to a sync. Segments before it that still have unsynced bytes are synced
//!    first, one by one, so that `synced` never passes a record that could be lost. Without durable records nothing
//!    is synced, and older segments stay in the list of the unsynced until one comes.
//! 4. Records found by a recovery may so far be in the page cache only. They count as unsynced until their segments
//!    have been synced again.
//! 5. One file beyond the one that takes records is kept in reserve. While it cannot be had the log is full, but goes
//!    on writing into what there is. Records that find no file wait in memory.
//! 6. A failed sync may be reported only once by the kernel, and a failed write leaves a file whose contents nobody
//!    knows: after either nothing is asked for any more, and progress stands still.

mod aside;
mod steps;

use std::collections::VecDeque;
use std::time::Duration;

use rustix::io::Errno;

use super::disk::{Completion, DiskError, Operation, SegmentName};
use super::entry::{JournalState, Progress};
use super::record::{self, Head, Stamp};
use super::segment::{HEADER_PAGE_BYTES, SegmentHeader};
use crate::time::Moment;
use steps::{Batch, Change, Shortage, Spare, Step, Tail};
pub(super) use steps::{Extent, Place, Shape, Start, Unused};

/// How long to wait before a full disk is asked again.
pub const SPACE_RETRY: Duration = Duration::from_millis(100);
/// Unused files kept beyond the one that takes records, for what trimming gives back.
const SPARES_MAX: usize = 2;
/// Buffers kept for reuse: one gathers while the other is written.
const BUFFERS_KEPT: usize = 2;
/// A larger buffer is given back to the system after use.
const BUFFER_KEPT_BYTES_MAX: usize = 8 << 20;

/// One log, without its disk.
#[derive(Debug)]
pub(super) struct Appender {
    shape: Shape,
    tail: Tail,
    next_sequence: u64,
    batches: VecDeque<Batch>,
    buffers: Vec<Vec<u8>>,
    buffered_bytes: usize,
    chain: VecDeque<Step>,
    /// A sync that is under way beside the chain.
    aside: Option<Extent>,
    /// Completions still to come of a chain that has failed.
    ignored: usize,
    change: Option<Change>,
    spares: VecDeque<Spare>,
    /// The last segment that has been written to.
    begun: u64,
    unused: VecDeque<Unused>,
    housekeeping_first: bool,
    /// Written, but lost with the power; oldest first.
    unsynced: VecDeque<Extent>,
    /// How many of them, from the oldest on, somebody wants to have synced.
    syncs_wanted: usize,
    /// The last segment whose beginning survives a loss of power.
    synced_number: u64,
    written: u64,
    synced: u64,
    room: Shortage,
    space: Shortage,
    failed: Option<DiskError>,
    now: Moment,
}

impl Appender {
    /// Goes on behind the segments that a recovery has found, oldest first.
    pub(super) fn new(shape: Shape, start: Start, found: impl Iterator<Item = Extent>) -> Self {
        let unsynced: VecDeque<Extent> = found.collect();
        let syncs_wanted = unsynced.len();
        let before = start.number - 1;
        Self {
            shape,
            tail: Tail { number: before, generation: start.generation - 1, offset: 0, capacity: 0 },
            next_sequence: start.sequence,
            batches: VecDeque::new(),
            buffers: Vec::new(),
            buffered_bytes: 0,
            chain: VecDeque::new(),
            aside: None,
            ignored: 0,
            change: None,
            spares: VecDeque::new(),
            begun: before,
            unused: VecDeque::new(),
            housekeeping_first: false,
            unsynced,
            syncs_wanted,
            synced_number: 0,
            written: start.sequence,
            synced: if syncs_wanted > 0 { 0 } else { start.sequence },
            room: Shortage::default(),
            space: Shortage::default(),
            failed: None,
            now: Moment::ZERO,
        }
    }

    /// Takes a record, and says where it goes: the segment's number and size, and the record's sequence.
    ///
    /// HOT: no allocation while the buffers are large enough; one copy.
    pub(super) fn append(
        &mut self,
        durable: bool,
        head: impl FnOnce(u64) -> Head,
        body: &[u8],
    ) -> Option<Place> {
        if self.failed.is_some() {
            return None;
        }
        let span = record::span(body.len()) as u64;
        if self.tail.offset + span > self.tail.capacity && !self.switch(span) {
            return None;
        }
        let Tail { number, generation, offset, capacity } = self.tail;
        let joins =
            self.batches.back().is_some_and(|last| last.number == number && last.end == self.next_sequence);
        if !joins {
            let bytes = self.buffers.pop().unwrap_or_default();
            let end = self.next_sequence;
            self.batches.push_back(Batch { number, capacity, offset, bytes, end, durable: false });
        }
        let stamp = Stamp { generation, salt: self.shape.salt };
        let batch = self.batches.back_mut()?;
        let before = batch.bytes.len();
        if offset == 0 {
            let Shape { part, log_index, .. } = self.shape;
            let first = SegmentHeader { part, log_index, number, stamp, first_sequence: self.next_sequence };
            batch.bytes.extend_from_slice(&first.encode());
            batch.bytes.resize(before + HEADER_PAGE_BYTES, 0);
        }
        record::encode(&mut batch.bytes, stamp, &head(self.next_sequence), body);
        let added = batch.bytes.len() - before;
        batch.durable |= durable;
        self.tail.offset += added as u64;
        self.buffered_bytes += added;
        self.next_sequence += 1;
        batch.end = self.next_sequence;
        Some(Place { number, capacity, sequence: batch.end - 1 })
    }

    /// Begins another segment, with room for at least one record. `false` after the last generation.
    #[cold]
    fn switch(&mut self, span: u64) -> bool {
        let page = HEADER_PAGE_BYTES as u64;
        let Some(generation) = self.tail.generation.checked_add(1) else {
            self.fail(DiskError::Failed { errno: Errno::OVERFLOW.raw_os_error() });
            return false;
        };
        let capacity = self.shape.segment_bytes.max((page + span).next_multiple_of(page));
        self.tail = Tail { number: self.tail.number + 1, generation, offset: 0, capacity };
        true
    }

    /// The next operation, if one may be started now.
    pub(super) fn next_operation(&mut self) -> Option<Operation> {
        if self.failed.is_some() {
            return None;
        }
        if !self.chain.is_empty() {
            return self.linked_sync();
        }
        if self.change.is_some() {
            return Some(self.start(Step::SyncDirectory));
        }
        if std::mem::take(&mut self.housekeeping_first)
            && let Some(operation) = self.keep_house()
        {
            return Some(operation);
        }
        self.next_write().or_else(|| self.keep_house())
    }

    /// A write under way whose batch has a durable record takes its sync along (rule 3).
    fn linked_sync(&mut self) -> Option<Operation> {
        let [Step::Write(batch, _)] = self.chain.make_contiguous() else { return None };
        if !batch.durable {
            return None;
        }
        let extent = Extent { number: batch.number, end: batch.end };
        Some(self.start(Step::Sync(extent)))
    }

    /// The file that has to be made next: one for the records that wait, or the reserve (rule 5).
    fn missing(&self) -> Option<Spare> {
        if let Some(first) = self.batches.front()
            && let Some(spare) = self.spares.front()
            && first.number == spare.number
            && first.capacity > spare.bytes
        {
            return Some(Spare { number: spare.number, bytes: first.capacity });
        }
        let last = self.last_prepared();
        (last <= self.tail.number).then(|| Spare { number: last + 1, bytes: self.bytes_of(last + 1) })
    }

    fn last_prepared(&self) -> u64 {
        self.spares.back().map_or(self.begun, |spare| spare.number)
    }

    /// The size of a segment that is not begun.
    fn bytes_of(&self, number: u64) -> u64 {
        let waiting = self.batches.iter().find(|batch| batch.number == number);
        waiting.map_or(self.shape.segment_bytes, |batch| batch.capacity)
    }

    fn next_write(&mut self) -> Option<Operation> {
        let first = self.batches.front()?;
        let ready = first.number <= self.begun
            || self
                .spares
                .front()
                .is_some_and(|spare| spare.number == first.number && spare.bytes >= first.capacity);
        if !ready || self.space.waits(self.now) {
            return None;
        }
        let older = self.unsynced.front().filter(|extent| extent.number < first.number);
        if let Some(&older) = older.filter(|_| first.durable) {
            let comes = self.aside.is_some_and(|aside| aside.number == older.number);
            return (!comes).then(|| self.start(Step::Sync(older)));
        }
        let mut batch = self.batches.pop_front()?;
        let bytes = std::mem::take(&mut batch.bytes);
        let (segment, offset) = (self.segment(batch.number), batch.offset);
        self.chain.push_back(Step::Write(batch, bytes.len()));
        Some(Operation::Write { segment, offset, bytes })
    }

    /// Files that are missing, syncs that somebody asked for, and files that nobody needs. Comes after every write, so
    /// that no load can keep it from happening.
    fn keep_house(&mut self) -> Option<Operation> {
        if let Some(Spare { number, bytes }) = self.missing()
            && !self.room.waits(self.now)
        {
            return Some(self.start(Step::Create { number, bytes }));
        }
        if let Some(&oldest) = self.unsynced.front().filter(|_| self.syncs_wanted > 0 && !self.syncs_aside())
        {
            return Some(self.start(Step::Sync(oldest)));
        }
        let unused = self.unused.pop_front()?;
        let to = self.last_prepared() + 1;
        let usable = unused.reusable
            && unused.bytes == self.shape.segment_bytes
            && self.bytes_of(to) == unused.bytes
            && self.spares.len() < SPARES_MAX;
        if usable {
            return Some(self.start(Step::Recycle { to, from: unused }));
        }
        self.chain.push_back(Step::Remove);
        Some(Operation::Remove { segment: self.segment(unused.number) })
    }

    fn segment(&self, number: u64) -> SegmentName {
        SegmentName { part: self.shape.part, number }
    }

    fn start(&mut self, step: Step) -> Operation {
        let operation = match &step {
            Step::Create { number, bytes } => {
                Operation::Create { segment: self.segment(*number), bytes: *bytes }
            }
            Step::SyncDirectory => Operation::SyncDirectory { part: self.shape.part },
            Step::Sync(extent) => Operation::Sync { segment: self.segment(extent.number) },
            Step::Recycle { to, from } => {
                Operation::Recycle { from: self.segment(from.number), to: self.segment(*to) }
            }
            Step::Write(..) | Step::Remove => unreachable!("these are started where their data is"),
        };
        self.chain.push_back(step);
        operation
    }

    /// What became of the oldest operation under way.
    pub(super) fn completed(&mut self, completion: Completion) {
        let Some(step) = self.chain.pop_front() else {
            debug_assert!(false, "a completion without an operation");
            return;
        };
        if self.failed.is_some() {
            return;
        }
        if self.ignored > 0 {
            self.ignored -= 1;
            // An executor that tried it all the same must not swallow what it heard (rule 6).
            if let Err(error @ DiskError::Failed { .. }) = completion.result {
                self.fail(error);
            }
            return;
        }
        match completion.result {
            Ok(()) => self.succeeded(step, completion.bytes),
            Err(DiskError::NoSpace) => self.refused(step, completion.bytes),
            // Taken for one that follows a refused write. It is not done, and asked for again.
            Err(DiskError::Skipped) if matches!(step, Step::Sync(_)) => {}
            Err(error) => self.fail(error),
        }
    }

    fn succeeded(&mut self, step: Step, bytes: Vec<u8>) {
        match step {
            Step::Create { number, bytes } => {
                // Still full if this was only a part of what is missing, but there is no need to wait.
                self.room = Shortage(self.room.0.map(|_| self.now));
                self.change = Some(Change::Spare(Spare { number, bytes }));
            }
            Step::Recycle { to, from } => {
                self.change = Some(Change::Spare(Spare { number: to, bytes: from.bytes }));
            }
            Step::Remove => self.change = Some(Change::Removal),
            Step::SyncDirectory => self.directory_synced(),
            Step::Write(batch, len) => {
                self.space = Shortage::default();
                self.buffered_bytes = self.buffered_bytes.saturating_sub(len);
                self.reuse(bytes);
                self.batch_written(&batch);
                if batch.durable && self.chain.is_empty() {
                    // Its sync was not asked for while it was under way.
                    self.request_sync();
                }
                self.housekeeping_first = true;
            }
            Step::Sync(extent) => {
                let was_wanted = self.unsynced.front().is_some_and(|first| first.number == extent.number);
                self.syncs_wanted = self.syncs_wanted.saturating_sub(usize::from(was_wanted));
                self.extent_synced(extent);
            }
        }
    }

    /// The oldest unsynced segment is synced up to there; it may have been given up meanwhile, or have more since.
    fn extent_synced(&mut self, extent: Extent) {
        self.unsynced.retain(|other| other.number != extent.number || other.end > extent.end);
        self.syncs_wanted = self.syncs_wanted.min(self.unsynced.len());
        let synced = if self.unsynced.is_empty() { self.written } else { extent.end };
        self.synced = self.synced.max(synced);
        self.synced_number = self.synced_number.max(extent.number);
    }

    fn directory_synced(&mut self) {
        if let Some(Change::Spare(spare)) = self.change.take() {
            // A spare may have been made larger.
            self.spares.retain(|other| other.number != spare.number);
            let at = self.spares.partition_point(|other| other.number < spare.number);
            self.spares.insert(at, spare);
            if self.missing().is_none() {
                self.room = Shortage::default();
            }
        }
    }

    fn batch_written(&mut self, batch: &Batch) {
        if batch.number > self.begun {
            self.begun = batch.number;
            self.spares.pop_front();
        }
        self.written = batch.end;
        match self.unsynced.back_mut().filter(|last| last.number == batch.number) {
            Some(last) => last.end = batch.end,
            None => self.unsynced.push_back(Extent { number: batch.number, end: batch.end }),
        }
    }

    fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.buffers.len() < BUFFERS_KEPT && bytes.capacity() <= BUFFER_KEPT_BYTES_MAX {
            bytes.clear();
            self.buffers.push(bytes);
        }
    }

    /// There was no space. Nothing is lost: it is asked for again later.
    #[cold]
    fn refused(&mut self, step: Step, bytes: Vec<u8>) {
        let again = Shortage(Some(self.now.plus(SPACE_RETRY)));
        match step {
            Step::Create { .. } => self.room = again,
            Step::Write(mut batch, _) => {
                self.space = again;
                batch.bytes = bytes;
                self.batches.push_front(batch);
                self.ignored = self.chain.len();
            }
            Step::Recycle { from, .. } => self.unused.push_front(Unused { reusable: false, ..from }),
            // Rule 6: no space at a sync means that written data is lost.
            Step::Sync(_) | Step::SyncDirectory | Step::Remove => self.fail(DiskError::NoSpace),
        }
    }

    /// Ends the log for good (rule 6).
    #[cold]
    pub(super) fn fail(&mut self, error: DiskError) {
        self.failed.get_or_insert(error);
        // Nobody will ever write them, and what is appended from now on is not kept either.
        self.batches.clear();
        self.buffered_bytes = 0;
    }

    /// What ended the log, if something did.
    pub(super) fn failure(&self) -> Option<DiskError> {
        self.failed
    }

    pub(super) fn tick(&mut self, now: Moment) {
        self.now = now;
    }

    /// When a full disk is asked again.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        if self.failed.is_some() {
            return None;
        }
        [self.room.0, self.space.0].into_iter().flatten().min()
    }

    pub(super) fn progress(&self) -> Progress {
        let state = match (self.failed, self.room.0.or(self.space.0)) {
            (Some(_), _) => JournalState::Failed,
            (None, Some(_)) => JournalState::Full,
            (None, None) => JournalState::Writing,
        };
        Progress { written: self.written, synced: self.synced, state }
    }

    /// Asks for a sync of everything written so far.
    pub(super) fn request_sync(&mut self) {
        self.syncs_wanted = self.unsynced.len();
    }

    /// Gives a file up. Its records must not be needed any more, also not after a loss of power.
    pub(super) fn give_up(&mut self, unused: Unused) {
        self.unsynced.retain(|extent| extent.number != unused.number);
        self.syncs_wanted = self.syncs_wanted.min(self.unsynced.len());
        self.unused.push_back(unused);
    }

    /// Whether the beginning of this segment survives a loss of power.
    pub(super) fn begins_synced(&self, number: u64) -> bool {
        number <= self.synced_number
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Bytes that are not written yet, those under way included.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Whether operations are under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.chain.is_empty()
    }

    /// Whether everything appended survives a loss of power.
    pub(super) fn is_synced(&self) -> bool {
        self.batches.is_empty() && self.chain.is_empty() && self.unsynced.is_empty() && self.aside.is_none()
    }
}
