//! The ids of messages whose entries are gone: a log of its own, by which a late repetition is still known.
//!
//! An id is kept until it is older than `ids_keep` and more than `ids_max` newer ones exist. Whole segments are
//! dropped, so some ids stay longer.

use std::collections::VecDeque;

use super::appender::{Appender, Extent, Shape, Start, Unused};
use super::entry::IdEntry;
use super::record::Head;
use super::writer::LogOptions;

/// Bytes of one id.
pub const ID_BYTES: usize = 24;
/// The most ids of one record.
pub const IDS_PER_RECORD_MAX: usize = 4096;
/// What the records of the id log give as the kind of their body.
pub const KIND_IDS: u16 = 0;

impl IdEntry {
    /// As stored, little-endian.
    pub fn encode(&self) -> [u8; ID_BYTES] {
        let mut bytes = [0; ID_BYTES];
        bytes[..8].copy_from_slice(&self.session.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.check.to_le_bytes());
        bytes[20..].copy_from_slice(&self.at_s.to_le_bytes());
        bytes
    }

    /// From any 24 bytes.
    pub fn decode(bytes: &[u8; ID_BYTES]) -> Self {
        let [session, id, last] = [0, 8, 16].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        });
        Self { session, id, check: (last & u64::from(u32::MAX)) as u32, at_s: (last >> 32) as u32 }
    }
}

/// A segment of the id log, for the decision when to drop it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdSegment {
    /// Its number.
    pub number: u64,
    /// Size of its file.
    pub bytes: u64,
    /// Number of the record behind its last one.
    pub end_sequence: u64,
    /// How many ids it holds.
    pub id_count: u64,
    /// When the newest of them was accepted, Unix seconds.
    pub newest_s: u32,
}

/// The id log of a shard.
#[derive(Debug)]
pub(super) struct IdLog {
    pub(super) appender: Appender,
    segments: VecDeque<IdSegment>,
    id_count: u64,
    keep_s: u64,
    ids_max: u64,
    record: Vec<u8>,
}

impl IdLog {
    pub(super) fn new(options: &LogOptions, shape: Shape, start: Start, found: Vec<IdSegment>) -> Self {
        let extents = found.iter().map(|found| Extent { number: found.number, end: found.end_sequence });
        Self {
            appender: Appender::new(shape, start, extents),
            id_count: found.iter().map(|found| found.id_count).sum(),
            segments: found.into(),
            keep_s: options.ids_keep.as_secs(),
            ids_max: options.ids_max,
            record: Vec::new(),
        }
    }

    /// Takes ids, and says up to which record the log has to be synced before they survive.
    pub(super) fn append(&mut self, ids: &[IdEntry], at_ms: u64) -> u64 {
        for chunk in ids.chunks(IDS_PER_RECORD_MAX) {
            self.record.clear();
            chunk.iter().for_each(|id| self.record.extend_from_slice(&id.encode()));
            let head = |sequence| Head { sequence, kind: KIND_IDS, at_ms, words: Default::default() };
            let Some(place) = self.appender.append(true, head, &self.record) else { break };
            if self.segments.back().is_none_or(|last| last.number != place.number) {
                let (number, bytes) = (place.number, place.capacity);
                self.segments.push_back(IdSegment {
                    number,
                    bytes,
                    end_sequence: 0,
                    id_count: 0,
                    newest_s: 0,
                });
            }
            if let Some(last) = self.segments.back_mut() {
                last.end_sequence = place.sequence + 1;
                last.id_count += chunk.len() as u64;
                last.newest_s = chunk.iter().map(|id| id.at_s).fold(last.newest_s, u32::max);
            }
            self.id_count += chunk.len() as u64;
        }
        self.appender.next_sequence()
    }

    /// Drops the segments all of whose ids are too old and too many.
    pub(super) fn expire(&mut self, now_ms: u64) {
        // The last segment stays: its numbers are those that the next one goes on with.
        while let [oldest, next, ..] = *self.segments.make_contiguous() {
            let old = u64::from(oldest.newest_s).saturating_add(self.keep_s) < now_ms / 1000;
            let many = self.id_count - oldest.id_count > self.ids_max;
            if !old || !many || !self.appender.begins_synced(next.number) {
                return;
            }
            self.id_count -= oldest.id_count;
            self.segments.pop_front();
            self.appender.give_up(Unused { number: oldest.number, bytes: oldest.bytes, reusable: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::disk::{Completion, Part};

    /// A segment is dropped when its newest id is too old and enough newer ones exist, and never the last one.
    #[test]
    fn old_and_many_segments_are_dropped() {
        for (now_s, ids_max, kept) in
            [(160, 0, 4), (161, 0, 3), (181, 0, 1), (999, 9, 1), (999, 10, 2), (999, 29, 3), (999, 30, 4)]
        {
            let options = LogOptions { ids_keep: Duration::from_secs(60), ids_max, ..LogOptions::default() };
            let segment = |number: u64| {
                let newest_s = 90 + 10 * u32::try_from(number).unwrap();
                IdSegment { number, bytes: 1 << 20, end_sequence: number, id_count: 10, newest_s }
            };
            let shape = Shape { part: Part::Ids, log_index: 0, segment_bytes: 1 << 20, salt: 0 };
            let start = Start { number: 5, generation: 5, sequence: 4 };
            let mut log = IdLog::new(&options, shape, start, (1..5).map(segment).collect());
            log.expire(1000 * now_s);
            assert_eq!(log.segments.len(), 4, "nothing is dropped before the next one is synced");
            while log.appender.next_operation().is_some() {
                log.appender.completed(Completion::of(Ok(())));
            }
            log.expire(1000 * now_s);
            assert_eq!((log.segments.len(), log.id_count), (kept, 10 * kept as u64), "{now_s} {ids_max}");
        }
    }

    /// Every field comes back from its place.
    #[test]
    fn ids_come_back() {
        let id = IdEntry { session: 0x0807_0605_0403_0201, id: 9, check: 0x0a0b_0c0d, at_s: u32::MAX };
        let bytes = id.encode();
        assert_eq!(IdEntry::decode(&bytes), id);
        assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], [0x0d, 0x0c, 0x0b, 0x0a, 255, 255, 255, 255]);
    }
}
