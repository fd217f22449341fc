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

type Each<'a> = dyn FnMut(&Segment, Record<'_>) -> Result<(), RecoverError> + 'a;

impl Walk {
    /// Hands every record to `each`.
    pub(super) fn over(
        reader: &mut impl Reader,
        part: Part,
        log_index: u32,
        each: &mut Each<'_>,
    ) -> Result<Self, RecoverError> {
        let mut walk = Self::default();
        let segments = walk.headers(reader, part, log_index)?;
        let mut buffer = Aligned::default();
        for (index, segment) in segments.iter().enumerate() {
            if let Some(next) = segments.get(index + 1) {
                reader.will_read(next.name);
            }
            let size = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
            let space = buffer.space(size);
            let filled = reader
                .read(segment.name, space)
                .map_err(|source| RecoverError::Read { file: segment.name, source })?;
            walk.segment(segment, &buffer.space(size)[..filled], each)?;
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
                    segments.push(Segment { name, bytes: file.bytes, header, limit: u64::MAX });
                }
            }
        }
        Ok(segments)
    }

    fn segment(&mut self, segment: &Segment, bytes: &[u8], each: &mut Each<'_>) -> Result<(), RecoverError> {
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
                    each(segment, record)?;
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
        Ok(())
    }

    fn miss(&mut self, numbers: Range<u64>) {
        if !numbers.is_empty() {
            self.lost.push(numbers);
        }
    }
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
struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    fn space(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < size + RECORD_ALIGN {
            // Not resized: the old contents need no copy, and fresh zeros cost nothing.
            self.bytes = vec![0; size + RECORD_ALIGN];
        }
        let skip = self.bytes.as_ptr().align_offset(RECORD_ALIGN);
        &mut self.bytes[skip..skip + size]
    }
}
