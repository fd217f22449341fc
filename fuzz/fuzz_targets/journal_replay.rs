//! Any bytes as a segment of the journal: records, or a named error; and no record whose bytes are not there.
//!
//! Input: one byte of choices, then pieces of the segment, each one byte of length, one of what it is, and so many
//! bytes. A piece is raw, or a record made of them, since no input finds a checksum.
#![no_main]

use engine::journal::disk::{Part, SegmentName};
use engine::journal::record::{self, Head, RECORD_ALIGN, RECORD_HEADER_BYTES, Stamp};
use engine::journal::recovery::{Report, recover};
use engine::journal::segment::{HEADER_PAGE_BYTES, SegmentHeader};
use engine::journal::simulated::SimulatedDisk;
use libfuzzer_sys::fuzz_target;

/// Choice: the segment begins with raw bytes and not with a header.
const RAW_HEADER: u8 = 1;
/// Choice: the segment is one of ids.
const IDS: u8 = 2;
/// Choice: nothing is retained, so what began and ended in the segment is settled.
const SETTLED: u8 = 4;
/// Piece: raw bytes. Otherwise a record, whose sequence is so much more than the number of pieces before it.
const RAW: u8 = 0x80;

const STAMP: Stamp = Stamp { generation: 3, salt: 0x0123_4567_89ab_cdef };
const FIRST: u64 = 1000;

fuzz_target!(|input: &[u8]| {
    let Some((&choices, mut rest)) = input.split_first() else { return };
    let part = if choices & IDS == 0 { Part::Entries } else { Part::Ids };
    let mut contents = Vec::new();
    if choices & RAW_HEADER == 0 {
        let header = SegmentHeader { part, log_index: 0, number: 1, stamp: STAMP, first_sequence: FIRST };
        contents.extend_from_slice(&header.encode());
        contents.resize(HEADER_PAGE_BYTES, 0);
    }
    let mut pieces = FIRST;
    while let [length, what, tail @ ..] = rest {
        let (piece, tail) = tail.split_at(tail.len().min((*length).into()));
        rest = tail;
        if what & RAW != 0 {
            contents.extend_from_slice(piece);
            continue;
        }
        contents.resize(contents.len().next_multiple_of(RECORD_ALIGN), 0);
        let mut words = [0; 32];
        let (first, body) = piece.split_at(piece.len().min(words.len()));
        words[..first.len()].copy_from_slice(first);
        let sequence = pieces + u64::from(*what);
        let head = Head { sequence, kind: 8, at_ms: 0, words };
        record::encode(&mut contents, STAMP, &head, body);
        pieces += 1;
    }
    replay(part, contents, choices);
});

fn replay(part: Part, contents: Vec<u8>, choices: u8) {
    let mut disk = SimulatedDisk::default();
    disk.put(SegmentName { part, number: 1 }, contents.clone());
    let mut sequences = Vec::new();
    let proved = choices & RAW_HEADER == 0;
    let result = recover(
        &mut disk,
        0,
        if choices & SETTLED == 0 { u64::MAX } else { 0 },
        |found| {
            sequences.push(found.sequence);
            let words = found.entry.to_route().encode();
            let head = Head { sequence: found.sequence, kind: found.kind, at_ms: found.at_ms, words };
            let mut bytes = Vec::new();
            record::encode(&mut bytes, STAMP, &head, found.body);
            // Bits of the entry that no field stands for are not kept, so only the rest is compared.
            let behind = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + found.body.len();
            let there = |at: usize| {
                let header = contents[at + 8..at + 24] == bytes[8..24];
                let body = contents.get(at + behind.start..at + behind.end) == Some(&bytes[behind.clone()]);
                header && body
            };
            let last = contents.len().saturating_sub(RECORD_HEADER_BYTES);
            assert!(!proved || (HEADER_PAGE_BYTES..=last).step_by(RECORD_ALIGN).any(there));
        },
        |_| {},
    );
    match result {
        Ok(report) => account(&report, &sequences),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Every number is delivered once or lost once.
fn account(report: &Report, sequences: &[u64]) {
    assert!(sequences.is_sorted_by(|a, b| a < b));
    assert_eq!(report.records, sequences.len() as u64);
    let numbers = |range: &std::ops::Range<u64>| range.end - range.start;
    let lost: u64 = report.lost.iter().map(numbers).sum();
    let known = lost + report.records;
    assert!(report.lost.iter().all(|range| range.start < range.end));
    assert!(known <= report.next_sequence);
    assert!(report.lost.iter().all(|range| sequences.iter().all(|number| !range.contains(number))));
}
