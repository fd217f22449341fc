//! Reads the entries of a log while it is written: each record once and in order, and which ones it came too late for.
//!
//! Nobody waits for it. It reads what the writer says is written, so nothing that it looks at is being changed, except for
//! segments that have been given up meanwhile: what was in those is lost to it. A record proves itself by its checksum and
//! number, so a file that another use has overwritten yields nothing wrong.
//!
//! | found where the next record should be | is |
//! |---|---|
//! | that record | told |
//! | nothing, and a segment that begins with its number | the end of a segment |
//! | a later record of the segment, after any bytes that are none | a hole: what is between is told as lost |
//! | nothing any more, and only segments that begin with later numbers, or none | the same |
//!
//! In the last segment of an earlier run more may stand than a recovery has found. So what earlier runs have written ends
//! for it at the number with which this one goes on.

use std::io;
use std::ops::Range;

use super::disk::{Part, SegmentName};
use super::entry::Entry;
use super::record::{self, RECORD_ALIGN, Record, Stamp};
use super::recovery::{Aligned, Reader, known_entry};
use super::segment::{HEADER_PAGE_BYTES, SegmentHeader};

/// Bytes that are read at once; a larger record is read as a whole.
pub const READ_BYTES: usize = 1 << 20;

/// One record of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowedRecord<'a> {
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
}

/// What comes next in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Followed<'a> {
    /// A record.
    Record(FollowedRecord<'a>),
    /// These are not to be had any more.
    Lost(Range<u64>),
}

/// A file of the log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the journal cannot be read on from record {sequence}")]
pub struct FollowError {
    /// Which record was due.
    pub sequence: u64,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Where the next record is looked for.
#[derive(Clone, Copy, Debug)]
struct Place {
    name: SegmentName,
    stamp: Stamp,
    offset: u64,
    /// Records from this number on are in later segments.
    limit: u64,
    /// Whether every place is tried, since none begins where one should.
    searching: bool,
}

/// A reader of one log.
#[derive(Debug)]
pub struct Follower {
    log_index: u32,
    /// None before the first record that there is.
    next: Option<u64>,
    /// Where the log went on when this run began.
    resumed_at: u64,
    place: Option<Place>,
    buffer: Aligned,
    /// Bytes that the next record is known to need.
    wanted: usize,
}

/// What has come of some bytes.
enum Parsed {
    /// So many were dealt with; read on behind them.
    Upto(usize),
    /// The record there needs so many.
    More(usize),
    /// No record of the segment is left.
    Over,
}

impl Follower {
    /// Reads from record `from` on, or from the first one that there is. `resumed_at` is the number with which the present
    /// run of the gateway goes on.
    pub fn new(log_index: u32, from: Option<u64>, resumed_at: u64) -> Self {
        let buffer = Aligned::default();
        Self { log_index, next: from, resumed_at, place: None, buffer, wanted: READ_BYTES }
    }

    /// The number of the record that is due; `None` if nobody knows yet with which the log begins.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Tells `each` some of the records below `written`, in order. `false`: there is nothing more for now.
    pub fn read(
        &mut self,
        reader: &mut impl Reader,
        written: u64,
        each: &mut dyn FnMut(Followed<'_>),
    ) -> Result<bool, FollowError> {
        if self.next.is_some_and(|next| next >= written) {
            return Ok(false);
        }
        let read = match self.place {
            Some(place) => self.read_at(reader, place, written, each),
            None => self.locate(reader, None, written, each).map(|()| self.place.is_some()),
        };
        match read {
            // Renamed or removed while it was looked at: it is looked for anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.place = None;
                Ok(true)
            }
            read => read.map_err(|source| FollowError { sequence: self.next.unwrap_or(0), source }),
        }
    }

    fn read_at(
        &mut self,
        reader: &mut impl Reader,
        mut place: Place,
        written: u64,
        each: &mut dyn FnMut(Followed<'_>),
    ) -> io::Result<bool> {
        let space = self.buffer.space(self.wanted);
        let filled = reader.read_at(place.name, place.offset, space)?;
        let is_end = filled < space.len();
        let due = self.next.get_or_insert_default();
        let until = written.min(place.limit);
        let parsed = parse(&space[..filled], is_end, &mut place, due, until, each);
        if self.wanted > READ_BYTES {
            self.buffer = Aligned::default();
        }
        self.wanted = READ_BYTES;
        let reached = *due;
        match parsed {
            Parsed::Upto(bytes) => place.offset += bytes as u64,
            Parsed::More(bytes) => self.wanted = bytes,
            // If no other segment has what is due, it may stand further behind in this one.
            Parsed::Over if place.searching => {
                self.locate(reader, Some(place.name), written, each)?;
                return Ok(true);
            }
            Parsed::Over => {
                place.searching = true;
                self.locate(reader, None, written, each)?;
                if self.place.is_none_or(|found| found.name != place.name) {
                    return Ok(true);
                }
            }
        }
        self.place = (reached < place.limit).then_some(place);
        Ok(reached < written)
    }

    /// Finds the segment that has the record that is due; not the one that was searched. What no segment has is lost.
    fn locate(
        &mut self,
        reader: &mut impl Reader,
        searched: Option<SegmentName>,
        written: u64,
        each: &mut dyn FnMut(Followed<'_>),
    ) -> io::Result<()> {
        let begun = begun(reader, self.log_index)?;
        self.place = None;
        let first = begun.iter().map(|(_, header)| header.first_sequence).min();
        let due = match (self.next, first) {
            (Some(next), _) => next,
            (None, Some(first)) if first < written => first,
            (None, _) => return Ok(()),
        };
        // What earlier runs have written ends where this one begins.
        let is_earlier = |header: &SegmentHeader| header.first_sequence < self.resumed_at;
        let has = |header: &SegmentHeader| {
            header.first_sequence <= due && (due < self.resumed_at || !is_earlier(header))
        };
        let found = begun.iter().rev().find(|(name, header)| has(header) && Some(*name) != searched);
        // An earlier one than that which was searched has nothing that belongs behind it.
        let found = found.filter(|(name, _)| searched.is_none_or(|searched| *name > searched));
        let later = begun.iter().filter(|(_, header)| header.first_sequence > due);
        let (next, found) = match found {
            Some(found) => (due, Some(found)),
            None => {
                let found = later.min_by_key(|(_, header)| header.first_sequence);
                let next = found.map_or(written, |(_, header)| header.first_sequence.min(written));
                each(Followed::Lost(due..next));
                (next, found)
            }
        };
        self.next = Some(next);
        self.place = found.filter(|_| next < written).map(|&(name, header)| {
            let limits = begun.iter().filter(|(other, _)| *other > name);
            let limit = limits.map(|(_, header)| header.first_sequence).min().unwrap_or(u64::MAX);
            let limit = if is_earlier(&header) { limit.min(self.resumed_at) } else { limit };
            let offset = HEADER_PAGE_BYTES as u64;
            Place { name, stamp: header.stamp, offset, limit, searching: false }
        });
        Ok(())
    }
}

/// The segments that have been begun, by number. A header that cannot be read is being written, or has nothing to tell.
fn begun(reader: &mut impl Reader, log_index: u32) -> io::Result<Vec<(SegmentName, SegmentHeader)>> {
    let mut files = reader.list(Part::Entries)?;
    files.sort_unstable_by_key(|file| file.number);
    let mut begun = Vec::with_capacity(files.len());
    for file in files {
        let name = SegmentName { part: Part::Entries, number: file.number };
        let mut page = [0; HEADER_PAGE_BYTES];
        reader.read(name, &mut page)?;
        if let Ok(Some(header)) = SegmentHeader::decode(&page, name, log_index)
            && header.number == file.number
        {
            begun.push((name, header));
        }
    }
    Ok(begun)
}

/// Tells `each` the records of `bytes` whose number is `due` or a later one below `until`.
fn parse(
    bytes: &[u8],
    is_end: bool,
    place: &mut Place,
    due: &mut u64,
    until: u64,
    each: &mut dyn FnMut(Followed<'_>),
) -> Parsed {
    let mut at = 0;
    while *due < until {
        let rest = &bytes[at..];
        match record::decode(rest, place.stamp) {
            Ok(record) if record.head.sequence >= until => return Parsed::Over,
            Ok(record) => {
                at += record::span(record.body.len()).min(rest.len());
                // Earlier ones were told before, or nobody asked for them.
                if record.head.sequence >= *due {
                    if record.head.sequence > *due {
                        each(Followed::Lost(*due..record.head.sequence));
                    }
                    tell(&record, each);
                    *due = record.head.sequence + 1;
                    place.searching = false;
                }
            }
            Err(_) => match record::wanted(rest, place.stamp).filter(|_| !is_end) {
                Some(wanted) if wanted > rest.len() && at == 0 => return Parsed::More(wanted),
                Some(wanted) if wanted > rest.len() => return Parsed::Upto(at),
                _ if !place.searching || rest.len() < RECORD_ALIGN => return Parsed::Over,
                _ => at += RECORD_ALIGN,
            },
        }
    }
    Parsed::Upto(at)
}

fn tell(record: &Record<'_>, each: &mut dyn FnMut(Followed<'_>)) {
    let record::Head { sequence, at_ms, kind, .. } = record.head;
    each(match known_entry(record) {
        Some(entry) => Followed::Record(FollowedRecord { sequence, at_ms, entry, kind, body: record.body }),
        // No start would have got past it.
        None => Followed::Lost(sequence..sequence + 1),
    });
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
