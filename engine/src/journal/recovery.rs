//! Reads the logs of a shard back: every record once and in order, and an exact account of what is missing.
//!
//! Nothing is changed on disk, so a recovery that is interrupted can be repeated and finds the same.
//!
//! # What is found where records should be
//!
//! | found | is |
//! |---|---|
//! | a record with the number that is due | delivered |
//! | a valid record with a later number, after any bytes that are none | a hole: the numbers between are lost, one by one |
//! | a segment that begins with a later number than is due | a hole, too |
//! | bytes that are no record, and no record after them | the torn tail, if it is the end of the log |
//! | a record with a number that a later segment begins with | what an earlier recovery has cut: not delivered |
//! | a header page that is zero, or of an earlier use | a file that was not begun: nothing in it counts |
//! | any other header page | a named error; nothing is guessed |

mod walk;

use std::io;
use std::ops::Range;

use hashbrown::HashSet;

use super::disk::{Part, SegmentName};
use super::entry::{Entry, EntryKind, IdEntry};
use super::ids::{ID_BYTES, IdSegment};
use super::record::{self, Record};
use super::segment::HeaderError;
use super::writer::{LiveSegment, LogResume, Resume, UnusedFile, id_of};
use crate::hash::WordHash;
use shm_transport::envelope::Route;
pub(super) use walk::Aligned;
use walk::{Segment, Walk};

/// Where the files of a shard's logs are read from.
pub trait Reader {
    /// Number and size of every segment file of this log.
    fn list(&mut self, part: Part) -> io::Result<Vec<UnusedFile>>;
    /// Reads a file from that byte on, and says how much of `into` that has filled.
    fn read_at(&mut self, segment: SegmentName, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The same from its beginning on.
    fn read(&mut self, segment: SegmentName, into: &mut [u8]) -> io::Result<usize> {
        self.read_at(segment, 0, into)
    }
    /// This file will be read soon.
    fn will_read(&mut self, segment: SegmentName);
}

/// One record of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveredRecord<'a> {
    /// Its number in the log.
    pub sequence: u64,
    /// When it was appended, Unix milliseconds.
    pub at_ms: u64,
    /// The entry.
    pub entry: Entry,
    /// Kind of the body, as the envelope numbers it.
    pub kind: u16,
    /// The body, 16-aligned. Proved by its checksum, but not validated as an archive.
    pub body: &'a [u8],
    /// Whether its turn began and ended in one segment behind which come as many bytes as are retained: then only its id
    /// and its place in the session's stream count.
    pub is_settled: bool,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Records of entries.
    pub records: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Ids in the id log.
    pub ids: u64,
    /// Bytes of a torn tail that were cut off the entries.
    pub torn_bytes: u64,
    /// Numbers of entries that are missing, ascending.
    pub lost: Vec<Range<u64>>,
    /// The same for records of the id log.
    pub lost_ids: Vec<Range<u64>>,
    /// Number of the next entry.
    pub next_sequence: u64,
    /// Where the logs go on.
    pub resume: LogResume,
}

impl Report {
    /// Every missing entry, one by one.
    pub fn lost_sequences(&self) -> impl Iterator<Item = u64> + '_ {
        self.lost.iter().cloned().flatten()
    }
}

/// Why a log cannot be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory cannot be read.
    #[error("the files of the journal ({part:?}) cannot be listed")]
    List {
        /// Of which log.
        part: Part,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("journal segment {file} cannot be read")]
    Read {
        /// Which.
        file: SegmentName,
        /// Why.
        source: io::Error,
    },
    /// A file has a header that this build cannot use.
    #[error("journal segment {file} has an unusable header")]
    Header {
        /// Which.
        file: SegmentName,
        /// What it has, and what it should have.
        source: HeaderError,
    },
    /// A record is intact and says something that this build does not know.
    #[error("entry {sequence} in journal segment {file} has the unknown kind {found}")]
    Kind {
        /// Where.
        file: SegmentName,
        /// Its number.
        sequence: u64,
        /// The kind.
        found: u8,
    },
    /// A record of ids does not hold whole ids.
    #[error(
        "record {sequence} in journal segment {file} has {found} bytes, expected a multiple of {ID_BYTES}"
    )]
    Ids {
        /// Where.
        file: SegmentName,
        /// Its number.
        sequence: u64,
        /// Bytes of its body.
        found: usize,
    },
}

/// Reads both logs of a shard: first the ids, which are older, then the entries. Bodies are borrowed for the call only.
/// `retain_bytes` says how many bytes of log replies are kept for ([`crate::core::LogLimits::retain_bytes`]).
pub fn recover(
    reader: &mut impl Reader,
    log_index: u32,
    retain_bytes: u64,
    mut each_record: impl FnMut(RecoveredRecord<'_>),
    mut each_id: impl FnMut(IdEntry),
) -> Result<Report, RecoverError> {
    let mut report = Report::default();
    let mut id_segments: Vec<IdSegment> = Vec::new();
    let walk = Walk::over(reader, Part::Ids, log_index, u64::MAX, &mut |file, records| {
        let (number, bytes) = (file.name.number, file.bytes);
        let mut segment = IdSegment { number, bytes, end_sequence: 0, id_count: 0, newest_s: 0 };
        for record in records {
            let (ids, rest) = record.body.as_chunks::<ID_BYTES>();
            if !rest.is_empty() {
                let (sequence, found) = (record.head.sequence, record.body.len());
                return Err(RecoverError::Ids { file: file.name, sequence, found });
            }
            for id in ids.iter().map(IdEntry::decode) {
                segment.id_count += 1;
                segment.newest_s = segment.newest_s.max(id.at_s);
                report.ids += 1;
                each_id(id);
            }
        }
        id_segments.push(segment);
        Ok(())
    })?;
    for (segment, (_, end_sequence)) in id_segments.iter_mut().zip(&walk.segments) {
        segment.end_sequence = *end_sequence;
    }
    report.resume.ids = resume(&walk, id_segments);
    report.lost_ids = walk.lost;

    let mut segments = Vec::new();
    let mut settled = Settled::default();
    let walk = Walk::over(reader, Part::Entries, log_index, retain_bytes, &mut |file, records| {
        settled.find(if file.is_far { records } else { &[] });
        let mut ids = Vec::new();
        for record in records {
            let record::Head { sequence, at_ms, kind, .. } = record.head;
            let entry = known_entry(record).ok_or_else(|| unknown(file, record))?;
            ids.extend(id_of(&entry, at_ms));
            let is_settled = settled.ended.contains(&entry.turn);
            each_record(RecoveredRecord { sequence, at_ms, entry, kind, body: record.body, is_settled });
        }
        segments.push(LiveSegment { number: file.name.number, bytes: file.bytes, end_sequence: 0, ids });
        Ok(())
    })?;
    for (segment, (_, end_sequence)) in segments.iter_mut().zip(&walk.segments) {
        segment.end_sequence = *end_sequence;
    }
    (report.records, report.bytes, report.torn_bytes) = (walk.records, walk.bytes, walk.torn_bytes);
    report.next_sequence = walk.expected.unwrap_or(0);
    report.resume.entries = resume(&walk, segments);
    report.lost = walk.lost;
    Ok(report)
}

/// What a record says, if this build knows it.
pub(super) fn known_entry(record: &Record<'_>) -> Option<Entry> {
    Entry::from_route(Route::decode(&record.head.words)).filter(|entry| entry.kind != EntryKind::Trim)
}

fn unknown(file: &Segment, record: &Record<'_>) -> RecoverError {
    let [found, ..] = Route::decode(&record.head.words).sequence.to_le_bytes();
    RecoverError::Kind { file: file.name, sequence: record.head.sequence, found }
}

/// The turns that begin and end in one segment. Kept from segment to segment for its memory.
#[derive(Default)]
struct Settled {
    begun: HashSet<u64, WordHash>,
    ended: HashSet<u64, WordHash>,
}

impl Settled {
    fn find(&mut self, records: &[Record<'_>]) {
        self.begun.clear();
        self.ended.clear();
        for entry in records.iter().filter_map(known_entry) {
            match entry.kind {
                EntryKind::Accepted => drop(self.begun.insert(entry.turn)),
                EntryKind::Done if self.begun.contains(&entry.turn) => drop(self.ended.insert(entry.turn)),
                _ => {}
            }
        }
    }
}

fn resume<T>(walk: &Walk, segments: Vec<T>) -> Resume<T> {
    // A file that was begun, and whose header was lost with the power, has taken a generation that nobody can see.
    let unseen = u32::try_from(walk.unused.len()).unwrap_or(u32::MAX);
    Resume {
        next_number: walk.number_max.saturating_add(1),
        next_generation: walk.generation_max.saturating_add(1).saturating_add(unseen),
        next_sequence: walk.expected.unwrap_or(0),
        segments,
        unused: walk.unused.clone(),
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
