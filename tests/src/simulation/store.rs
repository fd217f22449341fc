//! The disk of one shard, and what its log was asked to keep: by this, not by what a recovery says, it is judged what
//! is missing.

use std::collections::BTreeSet;

use engine::journal::disk::{Operation, Part, SegmentName};
use engine::journal::entry::{Entry, EntryKind, IdEntry, Progress};
use engine::journal::recovery::{RecoveredRecord, Report, recover};
use engine::journal::simulated::SimulatedDisk;

/// An entry that the log was asked to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) kind: EntryKind,
    pub(super) turn: u64,
    pub(super) session: u64,
    pub(super) word: u64,
    pub(super) attempt: u16,
    pub(super) durable: bool,
}

/// An entry that is not there any more, although nobody said it was not needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missing {
    pub(super) asked: Asked,
    /// Whether the shard had been told that it is kept: somebody may know of it.
    pub(super) told: bool,
    /// Whether the disk had said that it was broken, or somebody has damaged what lay on it.
    pub(super) damaged: bool,
    /// Whether the message of the turn stands in another place of the log.
    pub(super) elsewhere: bool,
}

/// What ended the last run of the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Ended {
    #[default]
    Killed,
    PowerLost,
}

/// The disk and its model.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) disk: SimulatedDisk,
    /// What was asked for, by number. One that was reported missing has no contents any more.
    asked: Vec<Option<Asked>>,
    /// What is below is not needed.
    trimmed: u64,
    /// What the shard was told last.
    pub(super) told: Progress,
    /// Whether bits were changed since the last recovery.
    pub(super) flipped: bool,
    pub(super) ended: Ended,
    /// Whether a write or sync has failed: pages may count as clean that are not on disk.
    failed: bool,
}

impl Store {
    pub(super) fn ask(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Trim {
            self.trimmed = entry.word;
            return;
        }
        let Entry { kind, turn, session, word, attempt, durable, .. } = *entry;
        self.asked.push(Some(Asked { kind, turn, session, word, attempt, durable }));
    }

    pub(super) fn tell(&mut self, progress: Progress) {
        self.told.written = self.told.written.max(progress.written);
        self.told.synced = self.told.synced.max(progress.synced);
    }

    /// A write or sync has failed, which the log notes for the next start.
    pub(super) fn note_failure(&mut self) {
        self.failed = true;
    }

    /// After a failure, everything is written again before it is read.
    fn write_again(&mut self) {
        let names = [Part::Entries, Part::Ids].map(|part| self.disk.names(part));
        for segment in names.into_iter().flatten() {
            let bytes = self.disk.contents(segment).expect("it was listed").to_vec();
            let written = self.disk.execute(Operation::Write { segment, offset: 0, bytes }).result;
            let synced = self.disk.execute(Operation::Sync { segment }).result;
            assert_eq!((written, synced), (Ok(()), Ok(())), "the disk is fine at a start");
        }
    }

    /// Reads the logs back.
    ///
    /// # Panics
    ///
    /// If something is missing that had to be there, or is not reported.
    pub(super) fn recover(
        &mut self,
        log_index: usize,
        retain_bytes: u64,
        mut each: impl FnMut(RecoveredRecord<'_>),
        each_id: impl FnMut(IdEntry),
    ) -> (Report, Vec<Missing>) {
        if std::mem::take(&mut self.failed) {
            self.write_again();
        }
        let log_index = u32::try_from(log_index).expect("there are few shards");
        let mut found = BTreeSet::new();
        let asked = &self.asked;
        let report = recover(
            &mut self.disk,
            log_index,
            retain_bytes,
            |record| {
                assert!(found.insert(record.sequence), "record {} is delivered twice", record.sequence);
                let asked = asked.get(usize::try_from(record.sequence).expect("it fits"));
                let asked = asked.expect("a recovery finds only what was asked for");
                let asked = asked.expect("what was gone does not come back");
                assert_eq!((asked.kind, asked.turn), (record.entry.kind, record.entry.turn));
                each(record);
            },
            each_id,
        );
        let report = report.unwrap_or_else(|error| panic!("the log cannot be read back: {error}"));
        let missing = self.judge(&report, &found);
        (report, missing)
    }

    /// What was found survives a loss of power from now on.
    pub(super) fn sync(&mut self, report: &Report) {
        for segment in &report.resume.entries.segments {
            let segment = SegmentName { part: Part::Entries, number: segment.number };
            let synced = self.disk.execute(Operation::Sync { segment }).result;
            assert_eq!(synced, Ok(()), "the disk is fine at a start");
        }
        self.told.synced = report.next_sequence;
    }

    /// Compares what was found with what was asked for.
    fn judge(&mut self, report: &Report, found: &BTreeSet<u64>) -> Vec<Missing> {
        let next = report.next_sequence;
        let kept_until = match self.ended {
            Ended::Killed => self.told.written,
            Ended::PowerLost => self.told.synced,
        };
        assert!(next >= kept_until, "the log ends at {next}, although {kept_until} was promised");
        let reported: BTreeSet<u64> = report.lost_sequences().collect();
        let first_found = found.first().copied().unwrap_or(next);
        let place = |&sequence: &u64| *self.asked.get(usize::try_from(sequence).expect("it fits"))?;
        let is_message = |asked: &Asked| matches!(asked.kind, EntryKind::Accepted | EntryKind::Moved);
        let messages: BTreeSet<u64> =
            found.iter().filter_map(place).filter(is_message).map(|asked| asked.turn).collect();
        let mut missing = Vec::new();
        for (place, sequence) in self.asked.iter_mut().zip(0u64..) {
            if found.contains(&sequence) {
                continue;
            }
            // What was given up may be gone. While it is not, it may still be lost, and its id with it.
            let losable =
                reported.contains(&sequence) || (self.ended == Ended::PowerLost && sequence >= kept_until);
            if sequence < self.trimmed && !losable {
                continue;
            }
            let Some(asked) = place.take() else { continue };
            // What is lost from the beginning of a log cannot be told from what was given up.
            let at_an_end = sequence >= next || sequence < first_found;
            assert!(at_an_end || reported.contains(&sequence), "record {sequence} is skipped silently");
            let excused = self.flipped || sequence >= kept_until;
            assert!(excused, "record {sequence} is gone, although it was promised: {asked:?}");
            let (damaged, elsewhere) = (self.flipped, messages.contains(&asked.turn));
            missing.push(Missing { asked, told: sequence < self.told.written, damaged, elsewhere });
        }
        let end = usize::try_from(next).expect("it fits");
        self.asked.truncate(end);
        // A log that was lost as a whole begins anew.
        self.trimmed = self.trimmed.min(next);
        self.flipped = false;
        self.told = Progress { written: next, synced: 0, ..Progress::default() };
        missing
    }
}
