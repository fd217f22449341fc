//! A log on a simulated disk, with a model of what was asked of it: what the tests of writer and recovery share.

use std::collections::BTreeSet;
use std::time::Duration;

use super::disk::{Operation, Part, SegmentName};
use super::entry::{Entry, EntryKind, IdEntry, JournalState, Progress};
use super::recovery::{Report, recover};
use super::simulated::SimulatedDisk;
use super::writer::{Lane, LogOptions, LogResume, LogWriter};
use crate::time::Moment;

/// What was appended under a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) entry: Entry,
    pub(super) body: Vec<u8>,
}

pub(super) const OPTIONS: LogOptions = LogOptions {
    log_index: 3,
    segment_bytes: 1 << 20,
    ids_keep: Duration::from_secs(3600),
    ids_max: 1000,
    salt: 0x1234_5678_9abc_def0,
};

pub(super) fn entry(kind: EntryKind, durable: bool, number: u64) -> Entry {
    Entry { kind, durable, turn: number, session: !number, word: number + 1, attempt: 1, check: 9 }
}

pub(super) fn name(number: u64) -> SegmentName {
    SegmentName { part: Part::Entries, number }
}

/// What a recovery has delivered.
pub(super) struct Read {
    pub(super) records: Vec<(u64, Kept)>,
    pub(super) ids: Vec<IdEntry>,
    pub(super) report: Report,
}

impl Read {
    pub(super) fn sequences(&self) -> Vec<u64> {
        self.records.iter().map(|(sequence, _)| *sequence).collect()
    }
}

pub(super) fn read(disk: &mut SimulatedDisk) -> Read {
    let (mut records, mut ids) = (Vec::new(), Vec::new());
    let each = |record: super::recovery::RecoveredRecord<'_>| {
        assert!(record.body.as_ptr().addr().is_multiple_of(16));
        records.push((record.sequence, Kept { entry: record.entry, body: record.body.to_vec() }));
    };
    let report = recover(disk, OPTIONS.log_index, u64::MAX, each, |id| ids.push(id)).unwrap();
    Read { records, ids, report }
}

pub(super) struct Rig {
    pub(super) disk: SimulatedDisk,
    pub(super) writer: LogWriter,
    /// By sequence.
    pub(super) model: Vec<Kept>,
    pub(super) trim: u64,
    /// What earlier recoveries have reported as lost.
    gone: BTreeSet<u64>,
    pub(super) now: Moment,
    pub(super) at_ms: u64,
    salt: u64,
}

impl Rig {
    /// Numbers that were lost in an earlier life.
    pub(super) fn gone(&self) -> usize {
        self.gone.len()
    }

    pub(super) fn new() -> Self {
        let disk = SimulatedDisk::default();
        let writer = LogWriter::new(&OPTIONS, LogResume::default());
        let (now, at_ms, salt) = (Moment::ZERO, 1_000_000, OPTIONS.salt);
        Self { disk, writer, model: Vec::new(), trim: 0, gone: BTreeSet::new(), now, at_ms, salt }
    }

    pub(super) fn append(&mut self, kind: EntryKind, durable: bool, body: Vec<u8>) -> u64 {
        let sequence = self.writer.next_sequence();
        assert_eq!(sequence, self.model.len() as u64, "sequences are continuous");
        let entry = entry(kind, durable, sequence);
        self.writer.append(&entry, 8, &body, self.at_ms);
        self.model.push(Kept { entry, body });
        sequence
    }

    /// Appends messages of so many bytes each.
    pub(super) fn messages(&mut self, count: usize, bytes: usize, durable: bool) {
        for index in 0..count {
            self.append(EntryKind::Accepted, durable, vec![index as u8; bytes]);
        }
    }

    pub(super) fn trim(&mut self, sequence: u64) {
        self.trim = self.trim.max(sequence);
        self.writer.trim(sequence);
    }

    /// The operations that may be under way together.
    pub(super) fn chain(&mut self) -> Vec<Operation> {
        self.lane(Lane::Front)
    }

    /// The same of a lane.
    pub(super) fn lane(&mut self, lane: Lane) -> Vec<Operation> {
        std::iter::from_fn(|| self.writer.next_operation(lane)).collect()
    }

    /// Executes one chain of operations, and says whether there was one.
    pub(super) fn step(&mut self) -> bool {
        let mut any = false;
        for lane in Lane::ALL {
            for operation in self.lane(lane) {
                any = true;
                let before = self.progress();
                let completion = self.disk.execute(operation);
                self.writer.completed(lane, completion);
                let after = self.progress();
                assert!(before.synced <= after.synced && before.written <= after.written);
                assert!(after.synced <= after.written && after.written <= self.writer.next_sequence());
            }
        }
        any
    }

    pub(super) fn settle(&mut self) {
        while self.step() {}
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        self.writer.tick(self.now);
    }

    pub(super) fn progress(&self) -> Progress {
        self.writer.progress()
    }

    pub(super) fn state(&self) -> JournalState {
        self.writer.progress().state
    }

    /// Starts again on what is left of the disk. Every number below `kept_to` must be there or have been trimmed,
    /// every other one there, reported as lost, or at the end; and ids must be there in either log.
    pub(super) fn restart(&mut self, kept_to: u64) -> Read {
        let found = read(&mut self.disk);
        let again = read(&mut self.disk);
        assert_eq!((&found.records, &found.ids), (&again.records, &again.ids));
        assert_eq!(found.report, again.report, "a repeated recovery finds the same");
        for (sequence, kept) in &found.records {
            assert_eq!(kept, &self.model[*sequence as usize], "record {sequence}");
        }
        let sequences: BTreeSet<u64> = found.records.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(sequences.len(), found.records.len(), "nothing is delivered twice");
        assert!(found.records.is_sorted_by_key(|(sequence, _)| *sequence));
        let lost: BTreeSet<u64> = found.report.lost_sequences().collect();
        assert!(sequences.is_disjoint(&lost));
        for sequence in self.trim..kept_to {
            let known = sequences.contains(&sequence) || self.gone.contains(&sequence);
            assert!(known, "{sequence} below {kept_to} is gone");
        }
        let next = found.report.next_sequence;
        assert!(kept_to <= next && next <= self.model.len() as u64);
        let first = sequences.iter().chain(&lost).min().copied().unwrap_or(next);
        assert!((first..next).all(|sequence| sequences.contains(&sequence) || lost.contains(&sequence)));
        let ids: BTreeSet<u64> = found.ids.iter().map(|id| id.id).collect();
        for sequence in (0..kept_to).filter(|sequence| !self.gone.contains(sequence)) {
            let Kept { entry, .. } = &self.model[sequence as usize];
            let message = matches!(entry.kind, EntryKind::Accepted | EntryKind::Moved);
            let known = !message || sequences.contains(&sequence) || ids.contains(&entry.word);
            assert!(known, "the id of {sequence} is gone");
        }
        self.gone.extend(lost);
        self.model.truncate(next as usize);
        self.trim = self.trim.min(next);
        self.salt = self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let options = LogOptions { salt: self.salt, ..OPTIONS };
        self.writer = LogWriter::new(&options, found.report.resume.clone());
        self.writer.tick(self.now);
        self.writer.trim(self.trim);
        found
    }
}
