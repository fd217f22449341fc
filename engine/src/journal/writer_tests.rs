//! The log of one shard on a simulated disk: progress, switches, trimming, full and failing disks, loss of power.

use super::super::rig::{OPTIONS, Rig, entry, name, read};
use super::*;
use crate::journal::appender::SPACE_RETRY;

const SEGMENT: u64 = OPTIONS.segment_bytes;
/// What the smallest log takes: a segment of entries, one of ids, and a reserve of entries.
const ID_SEGMENT: u64 = SEGMENT_BYTES_MIN;

/// What comes during one write is one write again; only a batch with a durable record takes a sync along, and
/// progress moves with each completion.
#[test]
fn batches_gather_behind_a_write() {
    let mut rig = Rig::new();
    rig.settle();
    rig.messages(1, 100, false);
    let first = rig.chain();
    assert!(matches!(&first[..], [Operation::Write { offset: 0, .. }]), "{first:?}");
    rig.messages(3, 100, false);
    rig.messages(1, 100, true);
    assert!(rig.writer.next_operation(Lane::Front).is_none(), "one chain at a time");
    assert_eq!(rig.progress().written, 0);
    let done = first.into_iter().map(|operation| rig.disk.execute(operation)).collect::<Vec<_>>();
    done.into_iter().for_each(|completion| rig.writer.completed(Lane::Front, completion));
    assert_eq!((rig.progress().written, rig.progress().synced), (1, 0));
    // The first record has used the reserve up, so another is made.
    while rig.writer.progress().written < 5 {
        let chain = rig.chain();
        if let [Operation::Write { offset, bytes, .. }, Operation::Sync { .. }] = &chain[..] {
            assert_eq!((*offset, bytes.len()), (4096 + 176, 4 * 176));
        } else {
            assert!(!chain.iter().any(|o| matches!(o, Operation::Write { .. })), "{chain:?}");
        }
        for operation in chain {
            let completion = rig.disk.execute(operation);
            rig.writer.completed(Lane::Front, completion);
        }
    }
    assert_eq!((rig.progress().written, rig.progress().synced), (5, 5));
    assert_eq!(rig.writer.buffered_bytes(), 0);
}

/// Sequences go on over many segments, and a record larger than a segment gets a file of its own size.
#[test]
fn records_never_cross_segments() {
    let mut rig = Rig::new();
    rig.messages(40, 100_000, false);
    rig.append(EntryKind::Accepted, true, vec![7; 3 << 20]);
    rig.messages(15, 100_000, false);
    rig.settle();
    assert_eq!(rig.progress(), Progress { written: 56, synced: 41, state: JournalState::Writing });
    rig.writer.request_sync();
    rig.settle();
    assert!(rig.writer.is_synced());
    assert_eq!(rig.progress().synced, 56);
    let sizes: Vec<_> = rig.disk.names(Part::Entries);
    let sizes: Vec<usize> = sizes.iter().map(|&name| rig.disk.contents(name).unwrap().len()).collect();
    let usual = SEGMENT as usize;
    assert_eq!(sizes, [usual, usual, usual, usual, (3 << 20) + 8192, usual, usual, usual]);
    let found = rig.restart(56);
    assert_eq!(found.sequences(), (0..56).collect::<Vec<_>>());
    assert_eq!((found.report.torn_bytes, found.report.lost.len()), (0, 0));
}

/// A durable record counts as synced only after the older segments are, too.
#[test]
fn older_segments_are_synced_first() {
    let mut rig = Rig::new();
    rig.messages(25, 100_000, false);
    rig.settle();
    assert_eq!((rig.progress().written, rig.progress().synced), (25, 0));
    rig.append(EntryKind::Done, true, Vec::new());
    let mut synced = Vec::new();
    loop {
        let chain = rig.chain();
        if chain.is_empty() {
            break;
        }
        for operation in chain {
            if let Operation::Sync { segment } = &operation {
                synced.push(segment.number);
            }
            let completion = rig.disk.execute(operation);
            rig.writer.completed(Lane::Front, completion);
        }
    }
    assert_eq!(synced, [1, 2, 3]);
    assert_eq!(rig.progress().synced, 26);
}

/// A trimmed segment is renamed and used again, and what it held before never comes back.
#[test]
fn trimmed_segments_are_used_again() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        rig.messages(30, 50_000, false);
        rig.settle();
        rig.trim(rig.writer.next_sequence() - 10);
        rig.settle();
    }
    let files = rig.disk.names(Part::Entries);
    assert!(files.len() <= 6, "{files:?}");
    assert!(files[0].number > 20, "{files:?}");
    let written = rig.progress().written;
    let found = rig.restart(written);
    assert_eq!((found.report.lost.len(), found.report.torn_bytes), (0, 0));
    let unused = &found.report.resume.entries.unused;
    let stale = unused.iter().filter(|file| rig.disk.contents(name(file.number)).unwrap()[4096..] != [0; 1]);
    assert!(stale.count() > 0, "the test shows something");
}

/// Full as soon as the reserve is in use; what is under way goes into it; behind it records wait and are not
/// acknowledged; and space ends it without help.
#[test]
fn a_full_disk_is_survived() {
    let mut rig = Rig::new();
    rig.disk.bytes_max = Some(3 * SEGMENT + ID_SEGMENT);
    rig.messages(11, 90_000, true);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().written), (JournalState::Writing, 11));
    rig.messages(22, 90_000, true);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().synced), (JournalState::Full, 33), "the reserve is used");
    rig.messages(5, 90_000, true);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().written), (JournalState::Full, 33));
    assert_eq!(rig.writer.buffered_bytes(), 4096 + 5 * (90_000 + 64));
    rig.wait(SPACE_RETRY);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().written), (JournalState::Full, 33));
    rig.disk.bytes_max = None;
    assert!(!rig.step(), "it is not asked all the time");
    assert_eq!(rig.writer.next_deadline(), Some(Moment::ZERO.plus(2 * SPACE_RETRY)));
    rig.wait(SPACE_RETRY);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().synced), (JournalState::Writing, 38));
    rig.restart(38);
}

/// A full disk is cleared by trimming alone, since there is room for ids until then.
#[test]
fn trimming_ends_a_full_disk() {
    let mut rig = Rig::new();
    rig.disk.bytes_max = Some(3 * SEGMENT + 2 * ID_SEGMENT);
    for _ in 0..30 {
        rig.messages(11, 90_000, false);
        rig.wait(SPACE_RETRY);
        rig.settle();
        rig.trim(rig.writer.next_sequence() - 1);
        for _ in 0..3 {
            rig.wait(SPACE_RETRY);
            rig.settle();
        }
        assert_eq!(rig.writer.buffered_bytes(), 0);
    }
    let written = rig.progress().written;
    assert_eq!(written, 330);
    rig.restart(written);
}

/// A write without space is tried again at the same place, sync included.
#[test]
fn a_refused_write_is_repeated() {
    let mut rig = Rig::new();
    rig.settle();
    rig.disk.refuse_next_write = true;
    rig.messages(2, 100, true);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().written), (JournalState::Full, 0));
    rig.messages(1, 100, false);
    rig.wait(SPACE_RETRY);
    rig.settle();
    assert_eq!(rig.progress(), Progress { written: 3, synced: 3, state: JournalState::Writing });
    rig.restart(3);
}

/// A sync that was tried in spite of a refused write, and failed, is not forgotten.
#[test]
fn a_failed_sync_behind_a_refused_write_counts() {
    for (result, state) in [
        (Ok(()), JournalState::Full),
        (Err(DiskError::Skipped), JournalState::Full),
        (Err(DiskError::Failed { errno: 5 }), JournalState::Failed),
    ] {
        let mut rig = Rig::new();
        rig.settle();
        rig.messages(2, 100, true);
        let chain = rig.chain();
        assert!(matches!(&chain[..], [Operation::Write { .. }, Operation::Sync { .. }]), "{chain:?}");
        for (operation, result) in chain.into_iter().zip([Err(DiskError::NoSpace), result]) {
            let Completion { bytes, .. } = rig.disk.execute(operation);
            rig.writer.completed(Lane::Front, Completion { result, bytes });
        }
        assert_eq!(rig.progress(), Progress { written: 0, synced: 0, state });
    }
}

/// The ids of a segment, and the beginning of a later one, are synced before its file is touched; and its new name
/// before anything is written under it.
#[test]
fn nothing_is_given_up_before_its_ids_are_safe() {
    let mut rig = Rig::new();
    rig.messages(15, 100_000, false);
    rig.settle();
    rig.trim(12);
    let mut done = Vec::new();
    let mut step = |rig: &mut Rig, lane| {
        let operations = rig.lane(lane);
        let any = !operations.is_empty();
        for operation in operations {
            let word = match &operation {
                Operation::Sync { segment } => Some(format!("sync {segment}")),
                Operation::Recycle { from, to } => Some(format!("recycle {from} {to}")),
                Operation::Write { segment, .. } => Some(format!("write {segment}")),
                Operation::SyncDirectory { part } => Some(format!("sync {part:?}")),
                Operation::Create { .. } | Operation::Remove { .. } => None,
            };
            done.extend(word);
            let completion = rig.disk.execute(operation);
            rig.writer.completed(lane, completion);
        }
        any
    };
    while Lane::ALL.into_iter().any(|lane| step(&mut rig, lane)) {}
    done.retain(|word| word != "sync Ids");
    assert_eq!(
        done,
        [
            "sync 00000001.log",
            "sync 00000002.log",
            "write ids/00000001.log",
            "sync ids/00000001.log",
            "recycle 00000001.log 00000004.log",
            "sync Entries",
        ]
    );
}

/// A sync that only the end of a segment needs is under way for as long as it takes: meanwhile entries are written and
/// count as written, none of them counts as synced because of it, and a durable one has a sync of its own.
#[test]
fn writes_do_not_wait_for_syncs_that_nobody_waits_for() {
    let mut rig = Rig::new();
    rig.messages(15, 100_000, false);
    rig.settle();
    rig.trim(12);
    for (segment, written) in [(1, 18), (2, 21)] {
        let back = rig.lane(Lane::Back);
        assert!(
            matches!(back[..], [Operation::Sync { segment: found }] if found == name(segment)),
            "{back:?}"
        );
        rig.messages(2, 100, false);
        rig.messages(1, 100, segment == 2);
        while rig.progress().written < written {
            for operation in rig.chain() {
                let completion = rig.disk.execute(operation);
                rig.writer.completed(Lane::Front, completion);
            }
        }
        assert_eq!(rig.progress().synced, if segment == 1 { 0 } else { 21 }, "{segment}");
        for operation in back {
            let completion = rig.disk.execute(operation);
            rig.writer.completed(Lane::Back, completion);
        }
        // Segment 1 ends with the tenth record.
        assert_eq!(rig.progress().synced, if segment == 1 { 10 } else { 21 }, "{segment}");
    }
    rig.settle();
    rig.restart(21);
}

/// A segment stays while its ids find no space.
#[test]
fn ids_without_space_hold_their_segment() {
    let mut rig = Rig::new();
    rig.disk.bytes_max = Some(SEGMENT);
    rig.settle();
    rig.disk.bytes_max = None;
    rig.messages(15, 100_000, false);
    rig.trim(12);
    rig.settle();
    rig.settle();
    assert_eq!((rig.state(), rig.disk.names(Part::Ids).len()), (JournalState::Full, 0));
    assert!(rig.disk.contents(name(1)).is_some());
    rig.wait(SPACE_RETRY);
    rig.settle();
    assert_eq!((rig.state(), rig.progress().written), (JournalState::Writing, 15));
    assert!(rig.disk.contents(name(1)).is_none());
    rig.restart(15);
}

/// After a failed sync, or write, nothing is asked for any more, and progress stands still.
#[test]
fn a_failure_is_for_good() {
    for fail_sync in [true, false] {
        let mut rig = Rig::new();
        rig.messages(3, 100, true);
        rig.settle();
        let before = rig.progress();
        assert_eq!((before.written, before.synced), (3, 3));
        rig.disk.fail_next_sync = fail_sync;
        rig.disk.fail_next_write = !fail_sync;
        rig.messages(2, 100, true);
        rig.settle();
        let after = rig.progress();
        assert_eq!((after.state, after.synced), (JournalState::Failed, 3));
        for _ in 0..9 {
            rig.writer.append(&entry(EntryKind::Accepted, true, 5), 8, &[1; 100], 0);
        }
        rig.trim(5);
        rig.wait(SPACE_RETRY);
        assert!(rig.chain().is_empty());
        assert_eq!((rig.progress(), rig.writer.buffered_bytes()), (after, 0));
        assert!(matches!(rig.writer.failure(), Some(DiskError::Failed { .. })));
    }
}

/// Ids outlive their segments; whole id segments go once their ids are old and many newer ones exist.
#[test]
fn ids_are_kept_and_bounded() {
    let mut rig = Rig::new();
    let rounds = 60;
    for round in 0..rounds {
        // Small messages: many ids for few bytes.
        rig.messages(6000, 112, false);
        rig.settle();
        rig.trim(rig.writer.next_sequence());
        rig.settle();
        if round == 30 {
            let found = read(&mut rig.disk);
            let known = found.ids.len() + found.records.len();
            assert!(known >= rig.model.len(), "{known}: none is old, so all are kept");
        }
        rig.at_ms += 100_000;
    }
    let segments = rig.disk.names(Part::Ids);
    assert!(segments.len() <= 9, "{segments:?}");
    let found = read(&mut rig.disk);
    let newest_s = rig.at_ms / 1000;
    let young = found.ids.iter().filter(|id| u64::from(id.at_s) + 3600 >= newest_s).count();
    assert!(young >= 1000 && found.ids.len() < rig.model.len() * 4 / 5, "{young} of {}", found.ids.len());
    let id = found.ids.last().unwrap();
    let Entry { session, word, check, .. } = entry(EntryKind::Accepted, false, id.id - 1);
    assert_eq!((id.session, id.id, id.check), (session, word, check));
}

/// Entries without an id, and those that are no messages, leave none behind.
#[test]
fn only_messages_have_ids() {
    for &kind in EntryKind::ALL {
        let message = matches!(kind, EntryKind::Accepted | EntryKind::Moved | EntryKind::Known);
        let with_id = entry(kind, false, 4);
        assert_eq!(id_of(&with_id, 5000).map(|id| (id.id, id.at_s)), message.then_some((5, 5)));
        assert_eq!(id_of(&Entry { word: 0, ..with_id }, 5000), None);
    }
}

/// One life of a log: random entries, trims and crashes, of the process or of the power.
fn live_and_die(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rig = Rig::new();
    for _ in 0..4 {
        for _ in 0..random.usize(1..60) {
            match random.u32(..10) {
                0..6 => {
                    let kind = [EntryKind::Accepted, EntryKind::Block, EntryKind::Done, EntryKind::Moved];
                    let bytes = match random.u32(..12) {
                        0 => random.usize(..400_000),
                        1 => random.usize(..1_200_000),
                        _ => random.usize(..6000),
                    };
                    let body = vec![random.u8(..); bytes];
                    rig.append(kind[random.usize(..4)], random.u8(..4) == 0, body);
                }
                6 => rig.trim(random.u64(..=rig.progress().written)),
                7 => rig.settle(),
                _ => {
                    rig.step();
                }
            }
        }
        let power = random.bool();
        let progress = rig.progress();
        for operation in rig.chain() {
            rig.disk.interrupt(operation, &mut |below| random.u64(..below));
        }
        if power {
            rig.disk.power_loss(&mut |below| random.u64(..below));
            rig.restart(progress.synced);
        } else {
            rig.disk.crash_process();
            let gone = rig.gone();
            rig.restart(progress.written);
            assert_eq!(rig.gone(), gone, "seed {seed}: a crash of the process loses nothing");
        }
    }
}

/// Whatever is acknowledged as written survives any death of the process, and whatever is acknowledged as synced any
/// loss of power; nothing is delivered twice, changed, or from an earlier use of a file.
#[test]
fn acknowledged_entries_survive() {
    for seed in 0..150 {
        let life = std::panic::catch_unwind(|| live_and_die(seed));
        assert!(life.is_ok(), "seed {seed}");
    }
}
