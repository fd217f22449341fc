//! One pass over the segments of a log: which bytes are records, which numbers are missing.

use std::ops::Range;

use super::{Part, Reader, RecoverError, SegmentName, UnusedFile};
use crate::journal::record::{self, RECORD_ALIGN, Record, Stamp};
use crate::journal::segment::{HEADER_PAGE_BYTES, SegmentHeader};

/// A segment that has been begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) name: SegmentName,
    pub(super) bytes: u64,
    header: SegmentHeader,
    /// Records from this number on are in later segments.
    limit: u64,
    /// Whether so many bytes of records are in later segments as are retained.
    pub(super) is_far: bool,
}

/// What a pass has found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The number that is due; none before the first segment.
    pub(super) expected: Option<u64>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) torn_bytes: u64,
    pub(super) lost: Vec<Range<u64>>,
    pub(super) generation_max: u32,
    pub(super) number_max: u64,
    /// Segments with the number behind their last record.
    pub(super) segments: Vec<(Segment, u64)>,
    pub(super) unused: Vec<UnusedFile>,
}

/// Is given a segment and its records.
type Each<'a> = dyn FnMut(&Segment, &[Record<'_>]) -> Result<(), RecoverError> + 'a;

impl Walk {
    /// Hands every segment with its records to `each`.
    pub(super) fn over(
        reader: &mut impl Reader,
        part: Part,
        log_index: u32,
        retain_bytes: u64,
        each: &mut Each<'_>,
    ) -> Result<Self, RecoverError> {
        let mut walk = Self::default();
        let mut segments = walk.headers(reader, part, log_index)?;
        let mut buffer = Aligned::default();
        mark_far(&mut segments, reader, retain_bytes, &mut buffer)?;
        let mut spare = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            if let Some(next) = segments.get(index + 1) {
                reader.will_read(next.name);
            }
            let mut records = emptied(spare);
            walk.segment(segment, buffer.fill(reader, segment)?, &mut records);
            each(segment, &records)?;
            spare = emptied(records);
        }
        Ok(walk)
    }

    /// Reads the header pages of all files. Gives the segments that have been begun.
    fn headers(
        &mut self,
        reader: &mut impl Reader,
        part: Part,
        log_index: u32,
    ) -> Result<Vec<Segment>, RecoverError> {
        let mut files = reader.list(part).map_err(|source| RecoverError::List { part, source })?;
        files.sort_unstable_by_key(|file| file.number);
        let mut segments: Vec<Segment> = Vec::new();
        for file in files {
            self.number_max = self.number_max.max(file.number);
            let name = SegmentName { part, number: file.number };
            // What a short file lacks is zero, as in one that was not begun.
            let mut page = [0; HEADER_PAGE_BYTES];
            reader.read(name, &mut page).map_err(|source| RecoverError::Read { file: name, source })?;
            let header = SegmentHeader::decode(&page, name, log_index)
                .map_err(|source| RecoverError::Header { file: name, source })?;
            let generation = header.map_or(0, |header| header.stamp.generation);
            self.generation_max = self.generation_max.max(generation);
            match header.filter(|header| header.number == file.number) {
                None => self.unused.push(file),
                Some(header) => {
                    for earlier in &mut segments {
                        earlier.limit = earlier.limit.min(header.first_sequence);
                    }
                    segments.push(Segment {
                        name,
                        bytes: file.bytes,
                        header,
                        limit: u64::MAX,
                        is_far: false,
                    });
                }
            }
        }
        Ok(segments)
    }

    /// Adds the records of a segment.
    fn segment<'a>(&mut self, segment: &Segment, bytes: &'a [u8], records: &mut Vec<Record<'a>>) {
        let first = segment.header.first_sequence;
        let mut due = self.expected.unwrap_or(first);
        self.miss(due..first);
        due = due.max(first);
        let mut at = HEADER_PAGE_BYTES;
        loop {
            match find(bytes, at, segment.header.stamp, due..segment.limit) {
                Found::Record(begin, record) => {
                    let sequence = record.head.sequence;
                    self.miss(due..sequence);
                    let span = record::span(record.body.len());
                    self.records += 1;
                    self.bytes += span as u64;
                    // A later record says that what seemed to be the tail was none.
                    self.torn_bytes = 0;
                    records.push(record);
                    due = sequence + 1;
                    at = begin + span;
                }
                Found::Superseded => break,
                Found::Torn(torn_bytes) => {
                    self.torn_bytes = torn_bytes as u64;
                    break;
                }
            }
        }
        self.expected = Some(due);
        self.segments.push((*segment, due));
    }

    fn miss(&mut self, numbers: Range<u64>) {
        if !numbers.is_empty() {
            self.lost.push(numbers);
        }
    }
}

/// Finds the segments behind which so many bytes of records come. Files may be nearly empty, so it looks into them,
/// the last first; not into the first one, which is behind none. That is the only one of a log that is young, and to read a
/// file twice takes a good part of the time in which nobody is served.
fn mark_far(
    segments: &mut [Segment],
    reader: &mut impl Reader,
    retain_bytes: u64,
    buffer: &mut Aligned,
) -> Result<(), RecoverError> {
    let mut behind = Walk::default();
    let mut spare = Vec::new();
    // Nothing is as far as that.
    if retain_bytes == u64::MAX {
        return Ok(());
    }
    for (index, segment) in segments.iter_mut().enumerate().rev() {
        segment.is_far = behind.bytes >= retain_bytes;
        if !segment.is_far && index > 0 {
            behind.expected = None;
            let mut records = emptied(spare);
            behind.segment(segment, buffer.fill(reader, segment)?, &mut records);
            spare = emptied(records);
        }
    }
    Ok(())
}

/// The same memory for the records of another segment: a segment has a hundred thousand.
fn emptied<'a>(mut records: Vec<Record<'_>>) -> Vec<Record<'a>> {
    records.clear();
    // Collected in place, as nothing is longer than before.
    records.into_iter().map(|_| unreachable!("it is empty")).collect()
}

enum Found<'a> {
    /// A record, and where it begins.
    Record(usize, Record<'a>),
    /// A record that an earlier recovery has not seen, and whose number was given again.
    Superseded,
    /// No further record; so many bytes look like pieces of some.
    Torn(usize),
}

/// The next record from `at` on whose number is one of `numbers`. Usually it begins there; if not, every place
/// where one could begin is tried.
fn find(bytes: &[u8], at: usize, stamp: Stamp, numbers: Range<u64>) -> Found<'_> {
    let rest = bytes.get(at..).unwrap_or_default();
    match record::decode(rest, stamp) {
        Ok(record) if numbers.contains(&record.head.sequence) => return Found::Record(at, record),
        Ok(record) if record.head.sequence >= numbers.end => return Found::Superseded,
        Ok(_) | Err(_) => {}
    }
    let mut torn_bytes = record::torn_bytes(rest, stamp, numbers.start);
    for skipped in (RECORD_ALIGN..rest.len()).step_by(RECORD_ALIGN) {
        let candidate = &rest[skipped..];
        if !record::may_begin(candidate, stamp) {
            continue;
        }
        match record::decode(candidate, stamp) {
            Ok(record) if numbers.contains(&record.head.sequence) => {
                return Found::Record(at + skipped, record);
            }
            Ok(record) if record.head.sequence >= numbers.end => return Found::Superseded,
            Ok(_) => {}
            Err(_) => {
                let piece = record::torn_bytes(candidate, stamp, numbers.start);
                if piece > 0 {
                    torn_bytes = torn_bytes.max(skipped + piece);
                }
            }
        }
    }
    Found::Torn(torn_bytes)
}

/// A reused buffer that begins where an archive may.
#[derive(Debug, Default)]
pub(in crate::journal) struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    /// All of a segment's file.
    fn fill(&mut self, reader: &mut impl Reader, segment: &Segment) -> Result<&[u8], RecoverError> {
        let space = self.space(usize::try_from(segment.bytes).unwrap_or(usize::MAX));
        let read = reader.read(segment.name, space);
        let filled = read.map_err(|source| RecoverError::Read { file: segment.name, source })?;
        Ok(&space[..filled])
    }

    pub(in crate::journal) fn space(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < size + RECORD_ALIGN {
            // Not resized: the old contents need no copy, and fresh zeros cost nothing.
            self.bytes = vec![0; size + RECORD_ALIGN];
        }
        let skip = self.bytes.as_ptr().align_offset(RECORD_ALIGN);
        &mut self.bytes[skip..skip + size]
    }
}
