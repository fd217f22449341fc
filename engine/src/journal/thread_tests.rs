//! The journal thread on real files: what shards send is acknowledged and found again, with either executor.

use std::path::Path;

use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{EndV1, Opened, Route};
use shm_transport::layout::Geometry;
use shm_transport::link::Limits;
use shm_transport::segment::in_process;

use super::*;
use crate::journal::disk::{Operation, Part, SegmentName};
use crate::journal::recovery::{Report, recover};
use crate::journal::segment::file_name;

const SHARDS: usize = 3;

/// The shards' ends of the links of a running journal.
struct Running {
    handle: JournalHandle,
    shards: Vec<Link>,
    // Arc: shared by all links, as in the gateway.
    bells: Vec<Arc<OwnedFd>>,
}

fn begin(directory: &Path, executor: ExecutorChoice, resume: Vec<LogResume>) -> Running {
    let bell = Arc::new(eventfd().unwrap());
    let (mut shards, mut links, mut bells) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SHARDS {
        let own = Arc::new(eventfd().unwrap());
        let geometry = Geometry::new(1 << 16).unwrap();
        let (shard, journal) = in_process(geometry, &own, &bell, Limits::default()).unwrap();
        shards.push(shard);
        links.push(journal);
        bells.push(own);
    }
    let options = JournalOptions {
        directory: directory.to_owned(),
        segment_bytes: SEGMENT_BYTES_MIN,
        ids_keep: Duration::from_secs(60),
        ids_max: 1000,
        executor,
    };
    let handle = start(&options, links, bell, resume).unwrap();
    Running { handle, shards, bells }
}

fn entry(kind: EntryKind, durable: bool, turn: u64) -> Entry {
    Entry { kind, durable, turn, session: 7, word: turn + 1, attempt: 1, check: 5 }
}

impl Running {
    fn send(&mut self, shard: usize, entry: Entry, bytes: usize) {
        let body = EndV1 { content: "x".repeat(bytes) };
        self.shards[shard].sender.send(&entry.to_route(), &body).unwrap();
    }

    /// Waits until everything below this number is written, or synced, and says how far the log is then.
    fn wait_for(&mut self, shard: usize, far_enough: impl Fn(Progress) -> bool) -> Progress {
        let mut progress = Progress::default();
        loop {
            self.shards[shard].sender.flush().unwrap();
            let heard = |message: Message<'_>| {
                assert!(matches!(message.open(), Opened::Journaled));
                progress = Progress::from_route(message.route).unwrap();
            };
            let receiver = &mut self.shards[shard].receiver;
            let count = receiver.receive(64, heard).unwrap();
            receiver.release();
            if count > 0 && far_enough(progress) {
                return progress;
            }
            if count == 0 && !receiver.arm().unwrap() {
                let timeout = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
                let bell = &*self.bells[shard];
                let mut polled = [rustix::event::PollFd::new(bell, rustix::event::PollFlags::IN)];
                assert_eq!(rustix::event::poll(&mut polled, Some(&timeout)), Ok(1), "the journal is silent");
                shm_transport::doorbell::silence(bell);
            }
            receiver.disarm();
        }
    }
}

/// What is found of one shard: sequence, turn and length of each record, and the report.
fn found(directory: &Path, shard: usize) -> (Vec<(u64, u64, usize)>, Report) {
    let mut log = LogDirectory::open(&log_directory(directory, shard)).unwrap();
    let mut records = Vec::new();
    let report = recover(
        &mut log,
        u32::try_from(shard).unwrap(),
        u64::MAX,
        |record| {
            let message = Message::checked(record.kind, Route::default(), record.body).unwrap();
            let Opened::End(end) = message.open() else { panic!("kind {}", record.kind) };
            records.push((record.sequence, record.entry.turn, end.content.len()));
        },
        |_| {},
    );
    (records, report.unwrap())
}

fn executors() -> Vec<ExecutorChoice> {
    let ring = uring::ring(1).map(drop);
    let uring = ring.map(|()| ExecutorChoice::Uring).ok();
    uring.into_iter().chain([ExecutorChoice::Files]).collect()
}

/// Entries of all shards are acknowledged, durable ones as synced, large ones too; the end writes and syncs the rest;
/// the next run goes on behind them, and trims.
#[test]
fn entries_are_acknowledged_and_found_again() {
    for executor in executors() {
        let directory = tempfile::tempdir().unwrap();
        let mut running = begin(directory.path(), executor, vec![LogResume::default(); SHARDS]);
        for turn in 0..2000 {
            for shard in 0..SHARDS {
                running.send(shard, entry(EntryKind::Done, turn % 3 == 0, turn), 100 * shard + 50);
            }
            running.shards.iter_mut().for_each(|shard| shard.sender.flush().unwrap());
        }
        running.send(1, entry(EntryKind::Accepted, true, 2000), 20 << 20);
        running.wait_for(0, |progress| progress.written == 2000);
        let progress = running.wait_for(1, |progress| progress.synced == 2001);
        assert_eq!(progress.state, JournalState::Writing);
        running.wait_for(2, |progress| progress.synced >= 1999);
        running.send(0, entry(EntryKind::Done, false, 2000), 1);
        running.shards[0].sender.flush().unwrap();
        running.handle.end().unwrap();

        let mut resume = Vec::new();
        for (shard, count) in [2001u64, 2001, 2000].into_iter().enumerate() {
            let (records, report) = found(directory.path(), shard);
            assert!((0..count).eq(records.iter().map(|record| record.0)), "{executor:?} {shard}");
            assert!((0..count).eq(records.iter().map(|record| record.1)), "{executor:?} {shard}");
            assert_eq!((report.lost.len(), report.torn_bytes, report.next_sequence), (0, 0, count));
            let last = records[2000.min(records.len() - 1)].2;
            assert_eq!(last, [1, 20 << 20, 250][shard]);
            resume.push(report.resume);
        }

        let mut running = begin(directory.path(), executor, resume);
        let trim = Entry { word: 2001, ..entry(EntryKind::Trim, false, 0) };
        running.shards[1].sender.forward(&trim.to_route(), Body::ACCEPTED).unwrap();
        running.send(1, entry(EntryKind::Done, true, 2001), 10);
        let progress = running.wait_for(1, |progress| progress.synced == 2002);
        assert_eq!(progress.written, 2002);
        running.handle.end().unwrap();
        let (records, _) = found(directory.path(), 1);
        assert_eq!(records.last().map(|record| (record.0, record.2)), Some((2001, 10)));
    }
}

/// Both executors make the same bytes of the same operations.
#[test]
fn executors_write_the_same() {
    let mut written = Vec::new();
    for choice in executors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shard");
        let bell = Arc::new(eventfd().unwrap());
        let directories = vec![LogDirectory::open(&path).unwrap()];
        let mut executor = choose(choice, directories, &bell).unwrap();
        let options =
            LogOptions { segment_bytes: SEGMENT_BYTES_MIN, salt: 11, ids_max: 10, ..LogOptions::default() };
        let mut writer = LogWriter::new(&options, LogResume::default());
        for turn in 0..300 {
            let bytes = vec![turn as u8; 40_000];
            writer.append(&entry(EntryKind::Accepted, turn % 2 == 0, turn), 8, &bytes, 1000 * turn);
            writer.trim(turn.saturating_sub(40));
            loop {
                let mut any = false;
                for lane in Lane::ALL {
                    while let Some(operation) = writer.next_operation(lane) {
                        executor.submit(0, lane, operation);
                        any = true;
                    }
                }
                if !any {
                    break;
                }
                while writer.is_busy() {
                    executor.wait(None).unwrap();
                    while let Some((_, lane, completion)) = executor.take() {
                        assert_eq!(completion.result, Ok(()));
                        writer.completed(lane, completion);
                    }
                }
            }
        }
        let mut files = Vec::new();
        for folder in [path.clone(), path.join("ids")] {
            for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
                if file.is_file() {
                    let name = file.strip_prefix(&path).unwrap().to_owned();
                    files.push((name, std::fs::read(&file).unwrap()));
                }
            }
        }
        files.sort();
        assert!(files.len() > 3 && writer.progress().written == 300);
        written.push(files);
    }
    assert!(written.iter().all(|files| *files == written[0]));
}

/// A failure is noted for the next start, which writes everything again and forgets it.
#[test]
fn a_failure_is_noted_for_the_next_start() {
    for executor in executors() {
        let directory = tempfile::tempdir().unwrap();
        let log = log_directory(directory.path(), 1);
        // Where a file is to be made, there is something else.
        let in_the_way = log.join(file_name(1));
        std::fs::create_dir_all(&in_the_way).unwrap();
        let mut running = begin(directory.path(), executor, vec![LogResume::default(); SHARDS]);
        running.send(1, entry(EntryKind::Done, false, 0), 50);
        running.wait_for(1, |progress| progress.state == JournalState::Failed);
        let failed =
            |shard| LogDirectory::open(&log_directory(directory.path(), shard)).unwrap().has_failed();
        assert_eq!([0, 1].map(|shard| failed(shard).unwrap()), [false, true], "{executor:?}");
        running.handle.end().unwrap();

        std::fs::remove_dir(in_the_way).unwrap();
        let contents: Vec<u8> = (0..3_000_000u32).map(|at| at as u8).collect();
        std::fs::write(log.join(file_name(7)), &contents).unwrap();
        LogDirectory::open(&log).unwrap().write_again().unwrap();
        assert!(!failed(1).unwrap());
        assert!(std::fs::read(log.join(file_name(7))).unwrap() == contents, "the contents are another");
    }
}

/// An operation that cannot be done completes with its error, in order, and a sync behind a failed write is skipped.
#[test]
fn errors_complete_in_order() {
    for choice in executors() {
        let directory = tempfile::tempdir().unwrap();
        let bell = Arc::new(eventfd().unwrap());
        let directories = vec![LogDirectory::open(&directory.path().join("shard")).unwrap()];
        let mut executor = choose(choice, directories, &bell).unwrap();
        let missing = SegmentName { part: Part::Entries, number: 9 };
        let present = SegmentName { number: 1, ..missing };
        let mut results = |operations: Vec<Operation>| {
            let count = operations.len();
            operations.into_iter().for_each(|operation| executor.submit(0, Lane::Front, operation));
            let mut results = Vec::new();
            while results.len() < count {
                executor.wait(None).unwrap();
                results.extend(std::iter::from_fn(|| executor.take()).map(|(.., done)| done.result));
            }
            results
        };
        let failed = |errno: Errno| Err(DiskError::Failed { errno: errno.raw_os_error() });
        assert_eq!(results(vec![Operation::Sync { segment: missing }]), [failed(Errno::NOENT)]);
        let create = Operation::Create { segment: present, bytes: SEGMENT_BYTES_MIN };
        assert_eq!(results(vec![create]), [Ok(())]);
        // No file may be that large.
        let offset = i64::MAX as u64 - 3;
        let chain = |offset| {
            let write = Operation::Write { segment: present, offset, bytes: vec![1; 100] };
            vec![write, Operation::Sync { segment: present }]
        };
        let refused = results(chain(offset));
        assert!(matches!(refused[0], Err(DiskError::Failed { .. })), "{choice:?} {refused:?}");
        assert_eq!(refused[1], Err(DiskError::Skipped), "{choice:?}");
        assert_eq!(results(chain(0)), [Ok(()), Ok(())]);
        assert_eq!(results(vec![Operation::Recycle { from: missing, to: present }]), [failed(Errno::NOENT)]);
        assert_eq!(results(vec![Operation::Remove { segment: present }]), [Ok(())]);
    }
}

/// A bell that rings ends a wait.
#[test]
fn the_bell_wakes_either_executor() {
    for choice in executors() {
        let directory = tempfile::tempdir().unwrap();
        let bell = Arc::new(eventfd().unwrap());
        let directories = vec![LogDirectory::open(&directory.path().join("shard")).unwrap()];
        let mut executor = choose(choice, directories, &bell).unwrap();
        for _ in 0..3 {
            rustix::io::write(&*bell, &1u64.to_ne_bytes()).unwrap();
            executor.wait(Some(Duration::from_secs(3600))).unwrap();
            assert!(!shm_transport::doorbell::silence(&*bell), "it is silenced");
        }
        executor.wait(Some(Duration::from_millis(1))).unwrap();
    }
}

/// What cannot work is refused before a thread is started.
#[test]
fn wrong_options_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        directory: directory.path().join("missing"),
        segment_bytes: SEGMENT_BYTES_MIN,
        ids_keep: Duration::ZERO,
        ids_max: 0,
        executor: ExecutorChoice::Files,
    };
    let begin = |options: &JournalOptions, logs| {
        let bell = Arc::new(eventfd().unwrap());
        start(options, Vec::new(), bell, vec![LogResume::default(); logs]).map(|handle| handle.end().unwrap())
    };
    let small = JournalOptions { segment_bytes: SEGMENT_BYTES_MIN - 1, ..options.clone() };
    assert!(matches!(begin(&small, 0), Err(JournalError::SegmentBytes { found: 1_048_575 })));
    assert!(matches!(begin(&options, 2), Err(JournalError::Count { links: 0, resumed: 2 })));
    assert!(begin(&options, 0).is_ok(), "a journal of no shards has nothing to open");
    let error = LogDirectory::open(&log_directory(&options.directory, 0)).unwrap_err();
    assert_eq!(error.path, log_directory(&options.directory, 0));
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
}
