//! Logs on disk against the sessions that come of them.

use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::journal::disk::Part;
use engine::journal::entry::{Entry, EntryKind};
use engine::journal::record::{self, Head, Stamp};
use engine::journal::segment::{HEADER_PAGE_BYTES, SegmentHeader, file_name};
use sessions::{CommitPolicy, HistoryQuery};
use shm_transport::envelope::{Content, Encoder, EndV1, MessageV2};

use super::*;

const KEY: &str = "websocket:local:s";
const STAMP: Stamp = Stamp { generation: 1, salt: 77 };

/// A log, and its last segment.
struct Journal {
    start: LogStart,
    number: u64,
    bytes: Vec<u8>,
    encoder: Encoder,
}

impl Journal {
    fn new(root: &Path, set: &str) -> Self {
        let directory = root.join(set).join("shard-00");
        std::fs::create_dir_all(&directory).unwrap();
        let start = LogStart { name: format!("{set}/shard-00"), shard: 0, directory, next_sequence: 0 };
        let mut log = Self { start, number: 0, bytes: Vec::new(), encoder: Encoder::default() };
        log.next_segment();
        log
    }

    /// As another run begins it.
    fn next_segment(&mut self) {
        self.number += 1;
        let (part, number, first_sequence) = (Part::Entries, self.number, self.start.next_sequence);
        let header = SegmentHeader { part, log_index: 0, number, stamp: STAMP, first_sequence };
        self.bytes = header.encode().to_vec();
        self.bytes.resize(HEADER_PAGE_BYTES, 0);
    }

    fn add(&mut self, kind: EntryKind, turn: u64, content: &impl Content) {
        let entry =
            Entry { kind, durable: false, turn, session: 7, word: 1 << 40 | turn, attempt: 1, check: 0 };
        let body = self.encoder.encode(content);
        let words = entry.to_route().encode();
        let sequence = self.start.next_sequence;
        let head = Head { sequence, kind: body.kind().number(), at_ms: 1000 + sequence, words };
        record::encode(&mut self.bytes, STAMP, &head, body.bytes());
        self.start.next_sequence += 1;
    }

    /// Messages and their replies.
    fn exchange(&mut self, turns: Range<u64>) -> &mut Self {
        for turn in turns {
            self.accept(turn);
            self.add(EntryKind::Done, turn, &EndV1 { content: format!("reply {turn}") });
        }
        self.store()
    }

    fn accept(&mut self, turn: u64) {
        let message = MessageV2 {
            agent: "main".into(),
            channel: "websocket".into(),
            user: "local".into(),
            thread: "s".into(),
            client_id: format!("m{turn}"),
            ..MessageV2::default()
        };
        self.add(EntryKind::Accepted, turn, &message);
    }

    fn store(&mut self) -> &mut Self {
        let path = self.start.directory.join(file_name(self.number));
        std::fs::write(path, &self.bytes).unwrap();
        self
    }

    fn tails(&self) -> Tails {
        Tails::new([self.start.next_sequence], u64::MAX)
    }
}

fn open(directory: &Path) -> Arc<Sessions> {
    let never = CommitPolicy { rows: u64::MAX, interval: Duration::from_secs(1 << 20) };
    Arc::new(Sessions::open(directory, never).unwrap().0)
}

fn options() -> RecorderOptions {
    RecorderOptions { fallback_agent: "main".into(), archive_after: None }
}

fn work(sessions: &Arc<Sessions>, log: &Journal) -> Work {
    Work::new(Arc::clone(sessions), std::slice::from_ref(&log.start), options(), Arc::default()).unwrap()
}

fn caught_up(sessions: &Arc<Sessions>, log: &Journal) -> Work {
    let mut work = work(sessions, log);
    assert!(work.catch_up(&log.tails()).is_ok());
    work
}

/// The ids of all rows, once everything is written.
fn rows(sessions: &Sessions) -> Vec<String> {
    sessions.commit_all().unwrap();
    let query = HistoryQuery { limit: 1000, ..HistoryQuery::default() };
    sessions.history(KEY, &query).unwrap().rows.into_iter().map(|row| row.row.id).collect()
}

fn expected(turns: Range<u64>) -> Vec<String> {
    turns.flat_map(|turn| [format!("u-m{turn}"), format!("a-m{turn}")]).collect()
}

/// Rows are written once, however often and from wherever the log is read; what is not needed is released when it is on the
/// disk, and not before.
#[test]
fn a_log_is_written_down_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Journal::new(directory.path(), "g000001");
    let sessions = open(directory.path());
    log.exchange(0..3).accept(9);
    log.store();
    let mut work = caught_up(&sessions, &log);
    let tails = log.tails();
    work.release(&tails);
    assert_eq!((work.logs[0].released, work.all_is_released()), (0, false), "nothing is committed");
    assert_eq!(rows(&sessions), [expected(0..3), vec!["u-m9".into()]].concat());
    work.release(&tails);
    assert_eq!((work.logs[0].released, work.all_is_released()), (6, true), "one turn is open");
    assert_eq!(
        sessions.mark("g000001/shard-00"),
        Some(Mark { name: log.start.name.clone(), done: 7, needed: 6 })
    );

    // The next run goes on, with another reply of the turn that was open.
    drop(work);
    drop(sessions);
    let sessions = open(directory.path());
    log.add(EntryKind::Done, 9, &EndV1 { content: "late".into() });
    log.exchange(3..4);
    let work = caught_up(&sessions, &log);
    assert_eq!(work.board.rows.load(Ordering::Relaxed), 3, "no row is handed over again");
    assert_eq!(
        rows(&sessions),
        [expected(0..3), vec!["u-m9".into(), "a-m9".into()], expected(3..4)].concat()
    );

    // A state directory that has lost its marks.
    drop((work, sessions));
    std::fs::remove_file(directory.path().join("sessions.redb")).unwrap();
    let sessions = open(directory.path());
    let work = caught_up(&sessions, &log);
    assert_eq!((work.board.rows.load(Ordering::Relaxed), rows(&sessions).len()), (10, 10));
}

/// A log that has lost its end with the power is read from its new end on; a mark that says more is not believed.
#[test]
fn a_shorter_log_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = open(directory.path());
    caught_up(&sessions, Journal::new(directory.path(), "g000001").exchange(0..5));
    assert_eq!(rows(&sessions), expected(0..5));
    let mut log = Journal::new(directory.path(), "g000001");
    log.exchange(0..2);
    let mut work = work(&sessions, &log);
    let tails = log.tails();
    work.release(&tails);
    assert_eq!(work.logs[0].released, 4);
    log.next_segment();
    log.exchange(7..9);
    assert!(work.catch_up(&log.tails()).is_ok());
    assert_eq!(rows(&sessions), [expected(0..5), expected(7..9)].concat());
    work.release(&log.tails());
    assert_eq!(work.logs[0].released, 8);
}

/// What a set holds that is about to go is written down first, and of the next one only what is new.
#[test]
fn a_replaced_set_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = open(directory.path());
    let mut old = Journal::new(directory.path(), "g000001");
    old.exchange(0..3).accept(3);
    old.store();
    let mut new = Journal::new(directory.path(), "g000002");
    new.accept(4);
    new.store();
    let logs = [std::slice::from_ref(&old.start), std::slice::from_ref(&new.start)];
    write_down(&sessions, logs, options()).unwrap();
    let before = [expected(0..3), vec!["u-m3".into()]].concat();
    assert_eq!(rows(&sessions), before);
    new.add(EntryKind::Done, 4, &EndV1::default());
    new.store();
    caught_up(&sessions, &new);
    assert_eq!(rows(&sessions), [before, vec!["a-m4".into()]].concat());
}

/// Records that are gone are counted, and what follows them is written down.
#[test]
fn lost_records_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = open(directory.path());
    let mut log = Journal::new(directory.path(), "g000001");
    log.exchange(0..1);
    let damaged = log.bytes.len() as u64;
    log.exchange(1..3);
    let file = std::fs::OpenOptions::new().write(true).open(log.start.directory.join(file_name(1))).unwrap();
    file.write_all_at(&[0xff; 100], damaged).unwrap();
    let work = caught_up(&sessions, &log);
    let board = &work.board;
    assert_eq!((board.lost_records.load(Ordering::Relaxed), work.logs[0].projection.orphans), (1, 1));
    assert_eq!(rows(&sessions), [expected(0..1), expected(2..3)].concat());
}

/// Sessions in which nothing was said for long are put aside, and the next message brings them back. The thread does both.
#[test]
fn quiet_sessions_are_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let sessions = open(directory.path());
    let mut log = Journal::new(directory.path(), "g000001");
    caught_up(&sessions, log.exchange(0..1));
    assert_eq!(rows(&sessions), expected(0..1));
    let archived = |sessions: &Sessions| sessions.get(KEY).unwrap().unwrap().archived;
    assert_eq!((archive_quiet(&sessions, Duration::from_millis(500), 1400), archived(&sessions)), (0, false));
    assert_eq!((archive_quiet(&sessions, Duration::from_millis(500), 1600), archived(&sessions)), (1, true));
    log.exchange(1..2);
    let tails = Arc::new(log.tails());
    let options = RecorderOptions { archive_after: Some(Duration::from_millis(1)), ..options() };
    let logs = std::slice::from_ref(&log.start);
    let recorder = Recorder::start(Arc::clone(&sessions), logs, tails, options.clone(), None).unwrap();
    assert_eq!(recorder.end(), RecorderStatus { rows: 2, ..RecorderStatus::default() });
    assert_eq!((rows(&sessions), archived(&sessions)), (expected(0..2), false));
    let recorder =
        Recorder::start(Arc::clone(&sessions), logs, Arc::new(log.tails()), options, None).unwrap();
    while !archived(&sessions) {
        std::thread::yield_now();
    }
    assert_eq!(recorder.end(), RecorderStatus::default());
}
