//! The follower against the model of what was appended, on a simulated disk.

use proptest::prelude::*;

use super::*;
use crate::journal::entry::EntryKind;
use crate::journal::rig::{OPTIONS, Rig, name};
use crate::journal::simulated::SimulatedDisk;

/// What somebody who follows a log has been told: numbers and lengths of bodies, and what was lost.
#[derive(Debug)]
struct Reading {
    follower: Follower,
    told: Vec<(u64, usize)>,
    lost: Vec<Range<u64>>,
}

impl Reading {
    fn new(from: Option<u64>, resumed_at: u64) -> Self {
        let follower = Follower::new(OPTIONS.log_index, from, resumed_at);
        Self { follower, told: Vec::new(), lost: Vec::new() }
    }

    /// Reads as far as it can.
    fn catch_up(&mut self, disk: &mut SimulatedDisk, written: u64) {
        let Self { follower, told, lost } = self;
        let mut passes = 0;
        while follower
            .read(disk, written, &mut |found| match found {
                Followed::Record(record) => {
                    assert!(record.body.as_ptr().addr().is_multiple_of(16));
                    told.push((record.sequence, record.body.len()));
                }
                Followed::Lost(range) => lost.push(range),
            })
            .unwrap()
        {
            passes += 1;
            assert!(passes < 10_000, "it gets nowhere at {:?}", follower.next());
        }
        assert!(follower.next().unwrap_or(0) <= written);
    }

    /// Everything from `from` on was told once and in order, as it was appended, except for what was lost.
    fn check(&self, rig: &Rig, from: u64, written: u64) {
        let lost = |sequence| self.lost.iter().any(|range| range.contains(&sequence));
        let model = rig.model.iter().map(|kept| kept.body.len()).zip(0..);
        let expected: Vec<_> = model
            .map(|(bytes, sequence)| (sequence, bytes))
            .filter(|&(sequence, _)| (from..written).contains(&sequence) && !lost(sequence))
            .collect();
        assert_eq!(self.told, expected);
    }
}

/// All is told as soon as it is written, over segments of the usual and of other sizes, and over restarts.
#[test]
fn a_log_is_followed_while_it_is_written() {
    let mut rig = Rig::new();
    let mut reading = Reading::new(None, 0);
    for round in 0..6 {
        rig.messages(100, 3000 * (round + 1), round % 2 == 0);
        rig.append(EntryKind::Done, false, vec![7; if round == 3 { 3 << 20 } else { 0 }]);
        while rig.step() {
            reading.catch_up(&mut rig.disk, rig.writer.progress().written);
        }
    }
    let written = rig.progress().written;
    reading.check(&rig, 0, written);
    assert_eq!((reading.told.len(), reading.lost.len()), (606, 0));

    // Another run, and a reader that begins in the middle of the one before.
    let mut other = Reading::new(Some(123), written);
    rig.restart(written);
    rig.messages(10, 100, false);
    rig.settle();
    other.catch_up(&mut rig.disk, written + 10);
    other.check(&rig, 123, written + 10);
    assert_eq!(other.lost, []);
}

/// Whatever was cut off the last segment of a run, the next run's records follow those that were left. The segment is cut
/// at every byte of its last three records.
#[test]
fn a_torn_tail_is_passed() {
    let mut whole = Rig::new();
    whole.messages(5, 100, false);
    whole.settle();
    let (bytes, span) = (whole.disk.contents(name(1)).unwrap().to_vec(), record::span(100));
    let end = HEADER_PAGE_BYTES + 5 * span;
    assert!(bytes[end..].iter().all(|&byte| byte == 0));
    for cut in end - 3 * span..=end {
        let mut rig = Rig::new();
        rig.messages(5, 100, false);
        rig.settle();
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        rig.disk.put(name(1), torn);
        let resumed_at = rig.restart(0).report.next_sequence;
        // Padding is not missed.
        assert_eq!(resumed_at, (cut + 12 - HEADER_PAGE_BYTES) as u64 / span as u64, "{cut}");
        let mut early = Reading::new(None, resumed_at);
        early.catch_up(&mut rig.disk, resumed_at);
        rig.messages(4, 50, false);
        rig.settle();
        let mut late = Reading::new(None, resumed_at);
        for reading in [&mut early, &mut late] {
            reading.catch_up(&mut rig.disk, resumed_at + 4);
            reading.check(&rig, 0, resumed_at + 4);
            assert_eq!(reading.lost, []);
        }
    }
}

/// What a recovery has cut and a crash has kept all the same is not told: the tail of the first run is whole, but the second
/// one was told to go on before it.
#[test]
fn a_stale_tail_is_not_told() {
    let mut rig = Rig::new();
    rig.messages(5, 100, false);
    rig.settle();
    let whole = rig.disk.contents(name(1)).unwrap().to_vec();
    let mut torn = whole.clone();
    torn[HEADER_PAGE_BYTES + 3 * record::span(100)..].fill(0);
    rig.disk.put(name(1), torn);
    assert_eq!(rig.restart(0).report.next_sequence, 3);
    rig.disk.put(name(1), whole);
    let mut early = Reading::new(None, 3);
    early.catch_up(&mut rig.disk, 3);
    rig.messages(4, 50, false);
    rig.settle();
    let mut late = Reading::new(None, 3);
    for reading in [&mut early, &mut late] {
        reading.catch_up(&mut rig.disk, 7);
        reading.check(&rig, 0, 7);
        assert_eq!(reading.lost, []);
    }
}

/// The first segment of a run is gone before it was looked at: its records are lost, and those of earlier runs end before it.
#[test]
fn a_run_without_its_beginning_is_followed() {
    let mut rig = Rig::new();
    rig.messages(3, 100, false);
    rig.settle();
    rig.restart(3);
    rig.messages(10, 200_000, false);
    rig.settle();
    let mut reading = Reading::new(Some(0), 3);
    reading.catch_up(&mut rig.disk, 3);
    for number in [2, 3] {
        rig.disk.put(name(number), vec![0; 1 << 20]);
    }
    let first = begun(&mut rig.disk, OPTIONS.log_index).unwrap().last().unwrap().1.first_sequence;
    reading.catch_up(&mut rig.disk, 13);
    let lost = if first > 3 { first } else { 13 };
    assert_eq!(reading.lost, [Range { start: 3, end: lost }]);
    reading.check(&rig, 0, 13);
}

/// Damaged records are told as lost, and those behind them are told: at the beginning, in the middle and at the end of a
/// segment, and a whole header.
#[test]
fn damage_is_told() {
    for (damaged, expected) in [(0, 0..1), (4, 4..5), (9, 9..10)] {
        let mut rig = Rig::new();
        rig.messages(10, 200_000, false);
        rig.settle();
        let (segment, place) =
            (1 + damaged / 5, HEADER_PAGE_BYTES as u64 + damaged % 5 * record::span(200_000) as u64);
        assert!(rig.disk.flip_bit(name(segment), (place + 100) * 8));
        let mut reading = Reading::new(None, 0);
        reading.catch_up(&mut rig.disk, 10);
        assert_eq!(reading.lost, [expected]);
        reading.check(&rig, 0, 10);
    }
    let mut rig = Rig::new();
    rig.messages(15, 200_000, false);
    rig.settle();
    assert!(rig.disk.flip_bit(name(2), 130));
    let mut reading = Reading::new(None, 0);
    reading.catch_up(&mut rig.disk, 15);
    assert_eq!(reading.lost, [Range { start: 5, end: 10 }]);
    reading.check(&rig, 0, 15);
}

/// A segment is kept as long as somebody follows the log and needs it; not longer, not if too much is kept for him, and not
/// if the disk is full. What is given up so is told as lost.
#[test]
fn segments_are_held_for_whoever_follows() {
    let live = |rig: &mut Rig| {
        let begun = begun(&mut rig.disk, OPTIONS.log_index).unwrap();
        begun.first().map_or(0, |(_, header)| header.first_sequence)
    };
    let mut rig = Rig::new();
    rig.writer.hold(0, 4 << 20);
    rig.messages(12, 200_000, false);
    rig.settle();
    rig.trim(12);
    rig.settle();
    assert_eq!(live(&mut rig), 0, "two segments are held");
    rig.writer.hold(7, 4 << 20);
    rig.settle();
    assert_eq!(live(&mut rig), 5, "the one that is not needed any more is given up");
    let mut reading = Reading::new(Some(7), 0);
    for _ in 0..7 {
        rig.messages(5, 200_000, false);
        rig.settle();
        rig.trim(rig.model.len() as u64);
        rig.settle();
    }
    assert!(live(&mut rig) > 15, "no more than four are held");
    reading.catch_up(&mut rig.disk, 47);
    let first = live(&mut rig);
    assert_eq!(reading.lost, [Range { start: 7, end: first }]);
    reading.check(&rig, 7, 47);

    let used: usize =
        rig.disk.names(Part::Entries).iter().map(|name| rig.disk.contents(*name).unwrap().len()).sum();
    let used_ids: usize =
        rig.disk.names(Part::Ids).iter().map(|name| rig.disk.contents(*name).unwrap().len()).sum();
    rig.disk.bytes_max = Some((used + used_ids) as u64);
    let before = live(&mut rig);
    rig.messages(15, 200_000, false);
    for _ in 0..50 {
        rig.settle();
        rig.wait(std::time::Duration::from_secs(1));
    }
    assert!(live(&mut rig) > before, "a full disk gets what is held only for a reader");
    assert_eq!(rig.progress().written, 62);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Sizes, batches, restarts, trims and a reader that looks now and then: everything is told once and in order, or as lost,
    /// and nothing is lost that was held.
    #[test]
    fn nothing_is_missed(
        steps in prop::collection::vec((0..400_000usize, 0..8u8), 1..60), from: u8, held: bool,
    ) {
        let mut rig = Rig::new();
        rig.messages(8, 10, false);
        rig.settle();
        let mut reading = Reading::new(Some(u64::from(from % 8)), 0);
        for (bytes, what) in steps {
            rig.writer.hold(if held { 0 } else { u64::MAX }, u64::MAX);
            match what {
                0 => {
                    rig.settle();
                    let written = rig.progress().written;
                    reading.catch_up(&mut rig.disk, written);
                    rig.restart(written);
                    let next = reading.follower.next();
                    reading.follower = Follower::new(OPTIONS.log_index, next, written);
                }
                1 => rig.trim(rig.progress().written),
                2 | 3 => {
                    let written = rig.progress().written;
                    reading.catch_up(&mut rig.disk, written);
                }
                4 => drop(rig.step()),
                5 => rig.settle(),
                _ => drop(rig.append(EntryKind::Accepted, what == 6, vec![what; bytes])),
            }
        }
        rig.settle();
        let written = rig.progress().written;
        reading.catch_up(&mut rig.disk, written);
        reading.check(&rig, u64::from(from % 8), written);
        prop_assert!(!held || reading.lost.is_empty(), "{:?}", reading.lost);
    }
}
