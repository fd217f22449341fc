//! The thread that reads the journal and hands what was said to the sessions.
//!
//! For each log of the journal: a follower, a projection, and a mark. The mark is put into the same queue behind the rows, so
//! that it is committed with them or later, never before. After a crash the log is read again from there, and rows that
//! were written before are known by their ids. What the marks on the disk do not need any more is released to the journal.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::journal::files::{DirectoryError, LogDirectory};
use engine::journal::follow::{FollowError, Followed, Follower};
use engine::journal::tail::Tails;
use sessions::{Append, AppendError, Mark, OnWritten, Sessions, WriterState};

use super::projection::Projection;
use crate::config::SessionsConfig;

/// How long the thread looks away after each pass, so that what comes meanwhile is dealt with together.
const PAUSE: Duration = Duration::from_millis(10);
/// How often it looks what has been committed, while something has not.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a row is handed over again that was not taken, and a file read again that could not be.
const RETRY: Duration = Duration::from_millis(50);
/// How often quiet sessions are put aside.
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(3600);
/// How long an orderly end waits for what has not been written down.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Refused rows that are told one by one.
const REFUSED_TOLD_MAX: u64 = 20;

/// A log of the journal, as it was found at the start.
#[derive(Clone, Debug)]
pub struct LogStart {
    /// Names it among the marks.
    pub name: String,
    /// Which shard's it is.
    pub shard: usize,
    /// Where its files lie.
    pub directory: PathBuf,
    /// Number of the record with which it goes on.
    pub next_sequence: u64,
}

/// How the sessions are written down.
#[derive(Clone, Debug)]
pub struct RecorderOptions {
    /// Whose session it is if nothing says it.
    pub fallback_agent: String,
    /// After how long without a word a session is put aside; never if `None`.
    pub archive_after: Option<Duration>,
}

impl RecorderOptions {
    /// As configured.
    pub fn new(config: &SessionsConfig, fallback_agent: &str) -> Self {
        Self { fallback_agent: fallback_agent.to_owned(), archive_after: config.archive_after }
    }
}

/// How far the thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecorderStatus {
    /// Rows handed to the sessions since the start.
    pub rows: u64,
    /// Records of the journal that were not read yet.
    pub lag_records: u64,
    /// Records that were gone when they should have been read.
    pub lost_records: u64,
    /// Rows that the sessions have refused, and rows that were cut.
    pub spoiled_rows: u64,
    /// Whether nothing is written down any more until the next start.
    pub has_stopped: bool,
}

#[derive(Debug, Default)]
struct Board {
    rows: AtomicU64,
    lag_records: AtomicU64,
    lost_records: AtomicU64,
    spoiled_rows: AtomicU64,
    has_stopped: AtomicBool,
    /// Until when the thread may go on, once it is told to end.
    end: OnceLock<Instant>,
}

impl Board {
    fn is_ending(&self) -> bool {
        self.end.get().is_some()
    }

    fn is_late(&self) -> bool {
        self.end.get().is_some_and(|end| Instant::now() >= *end)
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Recorder {
    // Arc: shared with the thread.
    board: Arc<Board>,
    tails: Arc<Tails>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Starts the thread. `on_written` is told of every row once it is written, and must not wait for anything.
    pub fn start(
        sessions: Arc<Sessions>,
        logs: &[LogStart],
        tails: Arc<Tails>,
        options: RecorderOptions,
        on_written: Option<OnWritten>,
    ) -> Result<Self, StartError> {
        if let Some(Err(error)) = on_written.map(|on_written| sessions.on_written(on_written)) {
            tracing::warn!(%error, "nobody is told of rows of transcripts");
        }
        let board = Arc::new(Board::default());
        let mut work = Work::new(sessions, logs, options, Arc::clone(&board))?;
        for log in &work.logs {
            tails.release(log.start.shard, log.released);
        }
        let shared = Arc::clone(&tails);
        let run = move || work.run(&shared);
        let thread = std::thread::Builder::new().name("transcripts".to_owned());
        let thread = thread.spawn(run).map_err(StartError::Thread)?;
        Ok(Self { board, tails, thread })
    }

    /// By which others see how far it is.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.board))
    }

    /// Ends the thread after it has handed over what is in the journal, which has ended before; or after a few seconds.
    pub fn end(self) -> RecorderStatus {
        // It is told once.
        let _ = self.board.end.set(Instant::now() + END_PATIENCE);
        self.tails.wake();
        while !self.thread.is_finished() {
            std::thread::park_timeout(PAUSE);
        }
        let status = self.watch().status();
        if status.lag_records > 0 && !status.has_stopped {
            let records = status.lag_records;
            tracing::warn!(records, "transcripts lack what was said last; the next start writes it down");
        }
        // A panic there has ended the process already.
        let _ = self.thread.join();
        status
    }
}

/// Tells how far a recorder is.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Board>);

impl Watch {
    /// How far it is.
    pub fn status(&self) -> RecorderStatus {
        // Relaxed: figures, none of which says anything about another.
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let Board { rows, lag_records, lost_records, spoiled_rows, has_stopped, .. } = &*self.0;
        RecorderStatus {
            rows: load(rows),
            lag_records: load(lag_records),
            lost_records: load(lost_records),
            spoiled_rows: load(spoiled_rows),
            has_stopped: has_stopped.load(Ordering::Relaxed),
        }
    }
}

/// Why the thread cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The files of a log.
    #[error("the journal cannot be followed")]
    Directory(#[from] DirectoryError),
    /// No thread.
    #[error("the thread that reads the journal for transcripts cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Writes down what the logs of a set hold that is about to be replaced by another set, and marks all of that one as known:
/// it repeats what is open.
pub fn write_down(
    sessions: &Arc<Sessions>,
    [old, new]: [&[LogStart]; 2],
    options: RecorderOptions,
) -> Result<(), StartError> {
    let tails = Tails::new(old.iter().map(|log| log.next_sequence), 0);
    let mut work = Work::new(Arc::clone(sessions), old, options, Arc::default())?;
    if work.catch_up(&tails).is_err() {
        tracing::error!("transcripts lack what was said last before the number of shards was changed");
    }
    for log in new {
        let mark = Mark { name: log.name.clone(), done: log.next_sequence, needed: 0 };
        while !sessions.try_mark(mark.clone()) && work.writer_works() {
            std::thread::park_timeout(RETRY);
        }
    }
    if let Err(error) = sessions.commit_all() {
        tracing::error!(%error, "the transcripts are not all on disk; the next start looks after them");
    }
    Ok(())
}

/// Puts sessions aside in which nothing was said for so long; how many.
pub fn archive_quiet(sessions: &Sessions, after: Duration, now_ms: u64) -> usize {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    match sessions.archive_older(None, now_ms.saturating_sub(after_ms)) {
        Ok(count) => count,
        Err(error) => {
            tracing::warn!(%error, "quiet sessions are not put aside now");
            0
        }
    }
}

/// Nothing more can be handed over.
enum Stop {
    /// The sessions are broken until the next start.
    Broken(String),
    /// The time of an orderly end is up.
    Late,
}

/// What has come of a look at a log.
enum Passed {
    Nothing,
    Some,
}

#[derive(Debug)]
struct Log {
    start: LogStart,
    files: LogDirectory,
    follower: Follower,
    projection: Projection,
    /// What stands before this record has been handed over by an earlier run.
    done: u64,
    /// The mark that was put behind the rows last.
    marked: Option<Mark>,
    released: u64,
    /// A mark on the disk that says more than the log has: not to be believed.
    stale: Option<Mark>,
    is_readable: bool,
}

/// What the thread has.
#[derive(Debug)]
struct Work {
    sessions: Arc<Sessions>,
    options: RecorderOptions,
    board: Arc<Board>,
    logs: Vec<Log>,
    rows: Vec<Append>,
    archive_at: Instant,
}

impl Work {
    fn new(
        sessions: Arc<Sessions>,
        logs: &[LogStart],
        options: RecorderOptions,
        board: Arc<Board>,
    ) -> Result<Self, StartError> {
        let begin = |start: &LogStart| {
            let mark = sessions.mark(&start.name);
            // More than the log has: it has lost its end with the power, or all.
            let done = mark.as_ref().map_or(0, |mark| mark.done.min(start.next_sequence));
            let from = mark.as_ref().map(|mark| mark.needed.min(done));
            let log_index = u32::try_from(start.shard).unwrap_or(u32::MAX);
            Ok(Log {
                files: LogDirectory::open(&start.directory)?,
                follower: Follower::new(log_index, from, start.next_sequence),
                projection: Projection::new(&options.fallback_agent),
                done,
                released: from.unwrap_or(0),
                stale: mark.clone().filter(|mark| mark.done > done),
                marked: mark,
                is_readable: true,
                start: start.clone(),
            })
        };
        let logs = logs.iter().map(begin).collect::<Result<_, DirectoryError>>()?;
        Ok(Self { sessions, options, board, logs, rows: Vec::new(), archive_at: Instant::now() })
    }

    fn run(&mut self, tails: &Tails) {
        let stopped = loop {
            self.archive();
            match self.pass(tails) {
                Err(stop) => break stop,
                Ok(Passed::Some) => continue,
                Ok(Passed::Nothing) if self.board.is_ending() => return,
                Ok(Passed::Nothing) => {}
            }
            self.release(tails);
            std::thread::park_timeout(PAUSE);
            let timeout = if self.all_is_released() { ARCHIVE_INTERVAL } else { LOOK };
            let news = || {
                self.board.is_ending()
                    || self.logs.iter().any(|log| !log.has_read(tails.written(log.start.shard)))
            };
            tails.sleep(timeout, news);
        };
        if let Stop::Broken(cause) = stopped {
            // Relaxed: a flag for people.
            self.board.has_stopped.store(true, Ordering::Relaxed);
            tracing::error!(
                cause,
                "transcripts are not written any more until the next start; what the journal gives up meanwhile is missing in them"
            );
        }
        tails.release_all();
    }

    fn catch_up(&mut self, tails: &Tails) -> Result<(), Stop> {
        while let Passed::Some = self.pass(tails)? {}
        Ok(())
    }

    /// Reads some of every log, and hands it over.
    fn pass(&mut self, tails: &Tails) -> Result<Passed, Stop> {
        let mut passed = Passed::Nothing;
        let (mut lag_records, mut read) = (0, Ok(false));
        for index in 0..self.logs.len() {
            let written = tails.written(self.logs[index].start.shard);
            match self.logs[index].read(written, &mut self.rows, &self.board) {
                Ok(true) => passed = Passed::Some,
                Ok(false) => {}
                Err(error) => read = Err(error),
            }
            self.hand_over()?;
            let Self { logs, sessions, .. } = self;
            logs[index].mark(sessions);
            lag_records += logs[index].lag(written);
        }
        // Relaxed: a figure.
        self.board.lag_records.store(lag_records, Ordering::Relaxed);
        if read.is_err() {
            if self.board.is_ending() {
                return Err(Stop::Late);
            }
            std::thread::park_timeout(RETRY);
        }
        Ok(passed)
    }

    /// Hands rows to the sessions, as often as it takes.
    fn hand_over(&mut self) -> Result<(), Stop> {
        for row in self.rows.drain(..) {
            let mut next = Some(row);
            while let Some(row) = next.take() {
                match self.sessions.try_append(row) {
                    // Relaxed: figures.
                    Ok(()) => drop(self.board.rows.fetch_add(1, Ordering::Relaxed)),
                    Err(AppendError::Full(row)) => {
                        if self.board.is_late() {
                            return Err(Stop::Late);
                        }
                        next = Some(*row);
                        std::thread::park_timeout(RETRY);
                    }
                    Err(AppendError::Broken { cause }) => return Err(Stop::Broken(cause)),
                    Err(error @ (AppendError::Invalid(_) | AppendError::TooManySessions { .. })) => {
                        let count = self.board.spoiled_rows.fetch_add(1, Ordering::Relaxed);
                        if count < REFUSED_TOLD_MAX {
                            tracing::error!(%error, "a row is missing in a transcript");
                        }
                    }
                }
            }
        }
        if self.board.is_late() { Err(Stop::Late) } else { Ok(()) }
    }

    /// Gives the journal back what is written down for good.
    fn release(&mut self, tails: &Tails) {
        for log in &mut self.logs {
            let mark = self.sessions.mark(&log.start.name).filter(|mark| log.stale.as_ref() != Some(mark));
            let Some(Mark { needed, .. }) = mark else { continue };
            if needed > log.released {
                log.released = needed;
                tails.release(log.start.shard, needed);
            }
        }
    }

    fn all_is_released(&self) -> bool {
        self.logs.iter().all(|log| log.marked.as_ref().is_none_or(|mark| mark.needed <= log.released))
    }

    fn writer_works(&self) -> bool {
        !matches!(self.sessions.status().state, WriterState::Broken(_))
    }

    fn archive(&mut self) {
        let Some(after) = self.options.archive_after else { return };
        let now = Instant::now();
        // Whatever else is ordered while the disk is full may fail for good.
        let works = self.sessions.status().state == WriterState::Writing;
        if now >= self.archive_at && works && !self.board.is_ending() {
            self.archive_at = now + ARCHIVE_INTERVAL;
            let count = archive_quiet(&self.sessions, after, unix_ms());
            if count > 0 {
                tracing::info!(count, "sessions were put aside in which nothing was said for long");
            }
        }
    }
}

impl Log {
    /// Appends the rows of some records. Whether there may be more.
    fn read(&mut self, written: u64, rows: &mut Vec<Append>, board: &Board) -> Result<bool, FollowError> {
        let Self { files, follower, projection, done, is_readable, start, .. } = self;
        let (mut lost, cut) = (0, projection.cut);
        let read = follower.read(files, written, &mut |found| match found {
            Followed::Record(record) => {
                projection.take(&record, rows);
                if record.sequence < *done {
                    rows.clear();
                }
            }
            Followed::Lost(records) => {
                projection.lost();
                let Range { start, end } = records;
                lost += end.saturating_sub(start.max(*done));
            }
        });
        // Relaxed: figures.
        board.spoiled_rows.fetch_add(projection.cut - cut, Ordering::Relaxed);
        if lost > 0 {
            board.lost_records.fetch_add(lost, Ordering::Relaxed);
            let shard = start.shard;
            tracing::error!(shard, records = lost, "records of the journal are gone that transcripts lack");
        }
        match &read {
            Ok(_) => *is_readable = true,
            Err(error) if std::mem::take(is_readable) => {
                let shard = start.shard;
                let cause = &error.source;
                tracing::error!(shard, %error, %cause, "transcripts wait until it can");
            }
            Err(_) => {}
        }
        read
    }

    fn has_read(&self, written: u64) -> bool {
        self.lag(written) == 0
    }

    fn lag(&self, written: u64) -> u64 {
        written.saturating_sub(self.follower.next().unwrap_or(0))
    }

    /// Puts a mark behind the rows, if there is something new to be said by it. One that finds no room is put there later.
    fn mark(&mut self, sessions: &Sessions) {
        let Some(next) = self.follower.next() else { return };
        // Before that an earlier run has handed over more.
        if next < self.done {
            return;
        }
        let mark = Mark { name: self.start.name.clone(), done: next, needed: self.projection.needed(next) };
        if self.marked.as_ref() != Some(&mark) && sessions.try_mark(mark.clone()) {
            self.marked = Some(mark);
        }
    }
}

fn unix_ms() -> u64 {
    // A clock before 1970 puts nothing aside.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
