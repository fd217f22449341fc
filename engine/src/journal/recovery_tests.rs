//! What recovery makes of damaged logs: cut, holed, flipped, stale, forged.

use super::super::rig::{OPTIONS, Rig, entry, name, read};
use super::*;
use crate::journal::record::{Head, RECORD_HEADER_BYTES, Stamp, encode, span};
use crate::journal::segment::{HEADER_BYTES, HEADER_PAGE_BYTES};
use crate::journal::simulated::SimulatedDisk;

const FIRST: SegmentName = SegmentName { part: Part::Entries, number: 1 };

/// A log of so many records of 40 bytes, in one segment.
fn log(records: usize) -> Rig {
    let mut rig = Rig::new();
    rig.messages(records, 40, true);
    rig.settle();
    rig
}

fn start_of(index: usize) -> usize {
    HEADER_PAGE_BYTES + index * span(40)
}

/// A disk with this as its only segment.
fn disk_of(contents: Vec<u8>) -> SimulatedDisk {
    let mut disk = SimulatedDisk::default();
    disk.put(FIRST, contents);
    disk
}

/// Cut at every byte of the last records, or zero from there on: the whole records before are delivered, the torn one
/// is counted, and none is reported as lost.
#[test]
fn a_tail_may_be_cut_anywhere() {
    let mut rig = log(4);
    let contents = rig.disk.contents(FIRST).unwrap().to_vec();
    assert_eq!(read(&mut rig.disk).sequences(), [0, 1, 2, 3]);
    for cut in start_of(1)..start_of(4) {
        let whole = (cut - HEADER_PAGE_BYTES) / span(40);
        // The padding of a record may be missing: it says nothing.
        let rest = (cut - HEADER_PAGE_BYTES) % span(40);
        let whole = whole + usize::from(rest >= RECORD_HEADER_BYTES + 40);
        let mut zeroed = contents[..cut].to_vec();
        zeroed.resize(contents.len(), 0);
        for contents in [contents[..cut].to_vec(), zeroed] {
            let found = read(&mut disk_of(contents));
            assert_eq!(found.sequences(), (0..whole as u64).collect::<Vec<_>>(), "cut at {cut}");
            assert_eq!(found.report.lost, [], "cut at {cut}");
            assert_eq!(found.report.next_sequence, whole as u64);
            let torn = (17..RECORD_HEADER_BYTES + 40).contains(&rest);
            assert!(!torn || found.report.torn_bytes > 0, "cut at {cut}: {}", found.report.torn_bytes);
            assert!(rest != 0 || found.report.torn_bytes == 0, "cut at {cut}");
        }
    }
}

/// Records destroyed in the middle are listed one by one, and those behind are delivered.
#[test]
fn holes_are_listed_exactly() {
    for lost in [3..4, 0..2, 5..9] {
        let mut rig = log(12);
        let mut contents = rig.disk.contents(FIRST).unwrap().to_vec();
        contents[start_of(lost.start)..start_of(lost.end)].fill(0xa5);
        let lost = [Range { start: lost.start as u64, end: lost.end as u64 }];
        rig.disk.put(FIRST, contents);
        let found = read(&mut rig.disk);
        assert_eq!(found.report.lost, lost);
        let missing: Vec<u64> = found.report.lost_sequences().collect();
        let expected: Vec<u64> = (0..12).filter(|sequence| !missing.contains(sequence)).collect();
        assert_eq!((found.sequences(), found.report.torn_bytes), (expected, 0));
    }
}

/// A whole segment that is gone is a hole, too; a recovered log goes on behind it, and the account stays the same.
#[test]
fn a_missing_segment_is_a_hole() {
    let mut rig = Rig::new();
    rig.messages(25, 100_000, true);
    rig.settle();
    let report = read(&mut rig.disk).report;
    let ends: Vec<u64> = report.resume.entries.segments.iter().map(|segment| segment.end_sequence).collect();
    assert_eq!(ends, [10, 20, 25]);
    let _done = rig.disk.execute(crate::journal::disk::Operation::Remove { segment: name(2) });
    let found = read(&mut rig.disk);
    assert_eq!((found.report.lost, found.report.next_sequence), (vec![Range { start: 10, end: 20 }], 25));
}

/// A turn is settled if it began and ended in one segment, behind which comes as much as is retained.
#[test]
fn what_ended_long_ago_is_settled() {
    use EntryKind::{Accepted, Attempt, Block, Done};
    let first =
        [(Accepted, 1), (Done, 1), (Accepted, 2), (Accepted, 3), (Block, 3), (Done, 3), (Accepted, 4)];
    let second = [(Attempt, 4), (Done, 2), (Accepted, 5), (Done, 5), (Done, 4)];
    let third = [(Accepted, 6), (Done, 6)];
    let mut rig = Rig::new();
    // Segments have room for ten of these.
    let fill = |count| std::iter::repeat_n((Accepted, 100), count);
    let all = first.into_iter().chain(fill(3)).chain(second).chain(fill(5)).chain(third);
    for ((kind, turn), sequence) in all.zip(0u64..) {
        rig.writer.append(&Entry { turn, ..entry(kind, true, sequence) }, 8, &[0; 100_000], 1);
    }
    rig.settle();
    let mut settled = |retain_bytes| {
        let mut turns = Vec::new();
        let mut each = |record: RecoveredRecord<'_>| {
            if record.is_settled {
                turns.push(record.entry.turn);
            }
        };
        recover(&mut rig.disk, OPTIONS.log_index, retain_bytes, &mut each, |_| {}).unwrap();
        turns
    };
    let third_bytes = 2 * span(100_000) as u64;
    assert_eq!(settled(u64::MAX), [0; 0]);
    assert_eq!(settled(third_bytes + 1), [1, 1, 3, 3, 3]);
    assert_eq!(settled(third_bytes), [1, 1, 3, 3, 3, 5, 5]);
    assert_eq!(settled(0), [1, 1, 3, 3, 3, 5, 5, 6, 6]);
}

/// A disk that counts how often each segment of the entries is read beyond its header.
struct Counting<'a> {
    disk: &'a mut SimulatedDisk,
    reads: Vec<u64>,
}

impl Reader for Counting<'_> {
    fn list(&mut self, part: Part) -> io::Result<Vec<UnusedFile>> {
        self.disk.list(part)
    }

    fn read_at(&mut self, segment: SegmentName, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if segment.part == Part::Entries && into.len() > HEADER_PAGE_BYTES {
            self.reads.push(segment.number);
        }
        self.disk.read_at(segment, offset, into)
    }

    fn will_read(&mut self, segment: SegmentName) {
        self.disk.will_read(segment);
    }
}

/// Files are large, also those with a single record: none is read to find out what nobody asks for. A row for each number
/// of segments and of bytes that are retained.
#[test]
fn no_file_is_read_in_vain() {
    for (records, retain_bytes, expected) in [
        (4, 100, vec![1]),
        (25, 0, vec![1, 2, 3]),
        (25, 100, vec![3, 1, 2, 3]),
        (25, u64::MAX - 1, vec![3, 2, 1, 2, 3]),
        (25, u64::MAX, vec![1, 2, 3]),
    ] {
        let mut rig = Rig::new();
        rig.messages(records, 100_000, true);
        rig.settle();
        let mut disk = Counting { disk: &mut rig.disk, reads: Vec::new() };
        let report = recover(&mut disk, OPTIONS.log_index, retain_bytes, |_| {}, |_| {}).unwrap();
        assert_eq!((report.records, disk.reads), (records as u64, expected), "{records}, {retain_bytes}");
    }
}

/// A file whose header was lost with the power may hold records of any generation that nobody sees: the next one is
/// above all of them. Names that were taken are not given again.
#[test]
fn lost_headers_keep_their_generations() {
    let mut rig = Rig::new();
    rig.messages(45, 100_000, false);
    rig.settle();
    let next = |disk: &mut SimulatedDisk| {
        let entries = read(disk).report.resume.entries;
        (entries.next_generation, entries.next_number, entries.next_sequence)
    };
    // Five segments, and the reserve.
    assert_eq!(next(&mut rig.disk), (7, 7, 45));
    for number in 3..6 {
        let mut contents = rig.disk.contents(name(number)).unwrap().to_vec();
        contents[..HEADER_PAGE_BYTES].fill(0);
        rig.disk.put(name(number), contents);
    }
    assert_eq!(next(&mut rig.disk), (7, 7, 20));
}

/// Whatever bit is flipped: what is delivered is what was appended, and what is missing is listed or at the end.
#[test]
fn a_flipped_bit_is_never_delivered() {
    let mut rig = log(4);
    let size = start_of(4);
    // The rest of the file is zero, and reading it thousands of times takes long.
    let used = rig.disk.contents(FIRST).unwrap()[..size].to_vec();
    rig.disk = disk_of(used);
    for bit in (0..HEADER_BYTES * 8).chain(start_of(0) * 8..size * 8) {
        assert!(rig.disk.flip_bit(FIRST, bit as u64));
        let result = recover(&mut rig.disk, OPTIONS.log_index, u64::MAX, |_| {}, |_| {});
        if bit < HEADER_BYTES * 8 {
            let error = result.unwrap_err();
            assert!(matches!(error, RecoverError::Header { file: FIRST, .. }), "bit {bit}: {error}");
        } else {
            let found = read(&mut rig.disk);
            for (sequence, kept) in &found.records {
                assert_eq!(kept, &rig.model[*sequence as usize], "bit {bit}");
            }
            let accounted = found.records.len() + found.report.lost_sequences().count();
            assert_eq!(accounted as u64, found.report.next_sequence, "bit {bit}");
            assert!(accounted >= 3, "bit {bit}");
        }
        assert!(rig.disk.flip_bit(FIRST, bit as u64));
    }
}

/// A client that sends records as its message gets them back as its message, even if the record around it is destroyed:
/// it cannot know the salt.
#[test]
fn a_body_cannot_forge_records() {
    let mut forged = Vec::new();
    let words = rig_words();
    for salt in [0, OPTIONS.salt & 0xffff_ffff, OPTIONS.salt] {
        for sequence in 1..4 {
            let head = Head { sequence, kind: 8, at_ms: 0, words };
            encode(&mut forged, Stamp { generation: 1, salt }, &head, b"forged");
        }
    }
    let by_client = forged.len() / 3 * 2;
    let delivered = |body: Vec<u8>| {
        let mut rig = Rig::new();
        rig.append(EntryKind::Accepted, true, body);
        rig.settle();
        rig.disk.flip_bit(FIRST, (HEADER_PAGE_BYTES as u64 + 30) * 8);
        read(&mut rig.disk).sequences()
    };
    assert!(delivered(forged[..by_client].to_vec()).is_empty(), "without the salt");
    assert_eq!(delivered(forged), [1, 2, 3], "with it, so the test shows something");
}

fn rig_words() -> [u8; 32] {
    super::super::rig::entry(EntryKind::Accepted, false, 1).to_route().encode()
}

/// What an earlier recovery has cut off stays cut off, also if it can be read later on.
#[test]
fn numbers_given_again_are_delivered_once() {
    let mut rig = log(6);
    let whole = rig.disk.contents(FIRST).unwrap().to_vec();
    let mut cut = whole[..start_of(4) + 20].to_vec();
    cut.resize(whole.len(), 0);
    rig.disk.put(FIRST, cut);
    let found = rig.restart(4);
    assert_eq!(found.report.next_sequence, 4);
    rig.append(EntryKind::Done, true, b"the new fourth".to_vec());
    rig.settle();
    rig.disk.put(FIRST, whole);
    let found = rig.restart(5);
    assert_eq!((found.sequences(), found.report.torn_bytes), (vec![0, 1, 2, 3, 4], 0));
}

/// What cannot be understood is a named error.
#[test]
fn unknown_contents_are_refused_by_name() {
    let segment_of = |kind: u8| {
        let rig = log(1);
        let mut contents = rig.disk.contents(FIRST).unwrap()[..HEADER_PAGE_BYTES].to_vec();
        let mut words = rig_words();
        words[24] = kind;
        let head = Head { sequence: 0, kind: 8, at_ms: 0, words };
        encode(&mut contents, Stamp { generation: 1, salt: OPTIONS.salt }, &head, b"");
        contents
    };
    let refusal =
        |contents| recover(&mut disk_of(contents), OPTIONS.log_index, u64::MAX, |_| {}, |_| {}).unwrap_err();
    for found in [0, 9, 11, 255] {
        let error = refusal(segment_of(found));
        assert!(
            matches!(error, RecoverError::Kind { sequence: 0, found: kind, .. } if kind == found),
            "{error}"
        );
    }
    let mut newer = segment_of(1);
    newer[8] = 2;
    let error = refusal(newer);
    assert!(
        matches!(error, RecoverError::Header { source: HeaderError::Version { found: 2 }, .. }),
        "{error}"
    );
    let mut foreign = SimulatedDisk::default();
    foreign.put(FIRST, segment_of(1));
    let error = recover(&mut foreign, 4, u64::MAX, |_| {}, |_| {}).unwrap_err();
    let RecoverError::Header { source, .. } = error else { panic!("{error}") };
    assert_eq!(source, HeaderError::LogIndex { found: OPTIONS.log_index, expected: 4 });
}
