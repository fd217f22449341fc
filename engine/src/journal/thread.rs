//! The thread that writes the logs of all shards.
//!
//! A turn: take entries from every link whose log has room for more in memory, start what the logs ask for, look what
//! has become of it, and tell each shard once how far its log is. With nothing to do the thread arms its links and
//! sleeps until something completes or somebody rings its bell.
//!
//! Memory is bounded: a log with [`BUFFERED_BYTES_MAX`] unwritten bytes is not read from, so its ring fills up and its
//! shard is held back.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver as Mailbox, Sender, bounded};
use rustix::io::Errno;
use shm_transport::envelope::{Body, Message};
use shm_transport::link::{Link, SendError};
use shm_transport::record::Poison;

use super::disk::DiskError;
use super::entry::{Entry, EntryKind, JournalState, Progress};
use super::files::{DirectoryError, Executor, FilesExecutor, LogDirectory};
use super::segment::SEGMENT_BYTES_MIN;
use super::set::log_directory;
use super::tail::Tails;
use super::uring::{self, UringExecutor};
use super::writer::{Lane, LogOptions, LogResume, LogWriter};
use crate::time::Clock;

/// Messages taken from one link in one turn.
pub const MESSAGES_PER_TURN: usize = 256;
/// Unwritten bytes of one log from which on its link is not read. It may be exceeded by one turn's messages.
pub const BUFFERED_BYTES_MAX: usize = 8 << 20;

/// What executes operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ExecutorChoice {
    /// The first if the kernel allows it, else the second.
    #[default]
    Auto,
    /// A ring of the kernel: the operations of all logs at once.
    Uring,
    /// Plain system calls, one after the other.
    Files,
}

/// How the journal is written.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// The directory of the set; each shard has one in it.
    pub directory: PathBuf,
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// For how long ids are kept at least.
    pub ids_keep: Duration,
    /// How many ids are kept at least.
    pub ids_max: u64,
    /// What executes operations.
    pub executor: ExecutorChoice,
}

/// Why the journal cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A directory of a shard cannot be used.
    #[error("the journal cannot be opened")]
    Directory(#[from] DirectoryError),
    /// Segments would be too small.
    #[error("journal segments of {found} bytes, at least {SEGMENT_BYTES_MIN} are needed")]
    SegmentBytes {
        /// The size asked for.
        found: u64,
    },
    /// Every link needs the state of its log.
    #[error("{links} links and {resumed} logs")]
    Count {
        /// Links given.
        links: usize,
        /// Logs given.
        resumed: usize,
    },
    /// The ring that was asked for is refused.
    #[error("io_uring was asked for and is refused: {reason}")]
    UringRefused {
        /// By what.
        reason: String,
    },
    /// The system has no thread left.
    #[error("the journal thread cannot be started")]
    Thread(#[source] io::Error),
}

/// The running journal thread.
#[derive(Debug)]
pub struct JournalHandle {
    end: Sender<()>,
    // Arc: shards ring it, too.
    bell: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl JournalHandle {
    /// Ends the thread after everything in its links has been written and synced, and waits for it. What a full or
    /// failed disk does not take is given up; it was never acknowledged.
    pub fn end(self) -> std::thread::Result<()> {
        // A thread that has ended, or been told already, needs no other word.
        let _ = self.end.try_send(());
        // EAGAIN says that the bell is ringing already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        self.thread.join()
    }

    /// Whether it still runs. It ends by itself only if something of this process is broken.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// Starts the thread. `links` and `resume` are in the order of the shards, whose entries arrive as messages with
/// [`Entry::to_route`] as routing words; `bell` is what the links ring on this side.
pub fn start(
    options: &JournalOptions,
    links: Vec<Link>,
    bell: Arc<OwnedFd>,
    resume: Vec<LogResume>,
) -> Result<JournalHandle, JournalError> {
    start_followed(options, links, bell, resume, None)
}

/// The same for logs that somebody follows.
pub fn start_followed(
    options: &JournalOptions,
    links: Vec<Link>,
    bell: Arc<OwnedFd>,
    resume: Vec<LogResume>,
    tails: Option<Arc<Tails>>,
) -> Result<JournalHandle, JournalError> {
    if options.segment_bytes < SEGMENT_BYTES_MIN {
        return Err(JournalError::SegmentBytes { found: options.segment_bytes });
    }
    if links.len() != resume.len() {
        return Err(JournalError::Count { links: links.len(), resumed: resume.len() });
    }
    let directories = (0..links.len())
        .map(|shard| LogDirectory::open(&log_directory(&options.directory, shard)))
        .collect::<Result<Vec<_>, _>>()?;
    let executor = choose(options.executor, directories, &bell)?;
    let logs = links.into_iter().zip(resume).zip(0u32..).map(|((link, resume), log_index)| {
        // Its keys come from the system's source of randomness.
        let salt = RandomState::new().hash_one(log_index);
        let JournalOptions { segment_bytes, ids_keep, ids_max, ref directory, .. } = *options;
        let options = LogOptions { log_index, segment_bytes, ids_keep, ids_max, salt };
        let directory = log_directory(directory, log_index as usize);
        let state = JournalState::Writing;
        Log { link, writer: LogWriter::new(&options, resume), told: None, state, directory }
    });
    let (end, mailbox) = bounded(1);
    let journal = JournalThread {
        logs: logs.collect(),
        executor,
        mailbox,
        clock: Clock::start(),
        stage: Stage::Running,
        tails,
    };
    let thread = std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || journal.run())
        .map_err(JournalError::Thread)?;
    Ok(JournalHandle { end, bell, thread })
}

/// Decides what executes operations, and says so once.
fn choose(
    choice: ExecutorChoice,
    directories: Vec<LogDirectory>,
    bell: &Arc<OwnedFd>,
) -> Result<Box<dyn Executor + Send>, JournalError> {
    let ring = match choice {
        ExecutorChoice::Files => Err("plain system calls were asked for".into()),
        ExecutorChoice::Auto | ExecutorChoice::Uring => uring::ring(directories.len()),
    };
    let bell = Arc::clone(bell);
    match (ring, choice) {
        (Ok(ring), _) => {
            tracing::info!(logs = directories.len(), "the journal is written through io_uring");
            Ok(Box::new(UringExecutor::new(ring, directories, bell)))
        }
        (Err(reason), ExecutorChoice::Uring) => Err(JournalError::UringRefused { reason }),
        (Err(reason), _) => {
            tracing::info!(logs = directories.len(), %reason, "the journal is written by plain system calls");
            Ok(Box::new(FilesExecutor::new(directories, bell)))
        }
    }
}

/// One shard's log, and the way to the shard.
#[derive(Debug)]
struct Log {
    link: Link,
    writer: LogWriter,
    /// What the shard knows.
    told: Option<Progress>,
    /// What the operator knows.
    state: JournalState,
    /// Where its files are.
    directory: PathBuf,
}

/// Whether the thread has been told to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Running,
    Ending,
}

#[derive(Debug)]
struct JournalThread {
    logs: Vec<Log>,
    executor: Box<dyn Executor + Send>,
    mailbox: Mailbox<()>,
    clock: Clock,
    stage: Stage,
    // Arc: shared with whoever follows the logs.
    tails: Option<Arc<Tails>>,
}

impl JournalThread {
    fn run(mut self) {
        loop {
            if self.mailbox.try_recv().is_ok() {
                self.stage = Stage::Ending;
            }
            let mut busy = self.receive();
            busy |= self.submit();
            if !busy && self.stage == Stage::Ending && self.logs.iter_mut().all(Log::is_finished) {
                return;
            }
            if busy || !self.prepare_sleep() {
                self.wait(Some(Duration::ZERO));
            } else {
                let now = self.clock.now();
                let deadline = self.logs.iter().filter_map(|log| log.writer.next_deadline()).min();
                self.wait(deadline.map(|deadline| deadline.since(now)));
            }
            for log in &mut self.logs {
                log.link.receiver.disarm();
            }
            self.complete();
            for (shard, log) in self.logs.iter_mut().enumerate() {
                log.tell(shard);
            }
            if let Some(tails) = &self.tails {
                tails.publish(self.logs.iter().map(|log| log.writer.progress().written));
            }
        }
    }

    /// Takes entries from the links. Whether there were any.
    fn receive(&mut self) -> bool {
        let at_ms = unix_ms();
        let mut count = 0;
        for (shard, log) in self.logs.iter_mut().enumerate() {
            count += log.receive(shard, at_ms);
        }
        count > 0
    }

    /// Starts what the logs ask for. Whether there was anything.
    fn submit(&mut self) -> bool {
        let now = self.clock.now();
        let mut any = false;
        for (index, log) in self.logs.iter_mut().enumerate() {
            log.writer.tick(now);
            if let Some(tails) = &self.tails {
                log.writer.hold(tails.needed(index), tails.held_bytes_max());
            }
            if self.stage == Stage::Ending && !log.writer.is_synced() {
                log.writer.request_sync();
            }
            for lane in Lane::ALL {
                while let Some(operation) = log.writer.next_operation(lane) {
                    self.executor.submit(index, lane, operation);
                    any = true;
                }
            }
        }
        any
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        if let Err(error) = self.executor.wait(timeout) {
            tracing::error!(%error, "the journal cannot reach its disk any more");
            let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            self.logs.iter_mut().for_each(|log| log.writer.fail(DiskError::Failed { errno }));
        }
    }

    fn complete(&mut self) {
        while let Some((index, lane, completion)) = self.executor.take() {
            self.logs[index].writer.completed(lane, completion);
        }
    }

    /// Arms the links that are read. `false`: something came meanwhile, take another turn.
    fn prepare_sleep(&mut self) -> bool {
        let mut quiet = self.mailbox.is_empty();
        for (shard, log) in self.logs.iter_mut().enumerate() {
            if log.has_room() {
                quiet &= !trusted(log.link.receiver.arm(), shard);
            }
        }
        quiet
    }
}

impl Log {
    fn has_room(&self) -> bool {
        self.writer.buffered_bytes() < BUFFERED_BYTES_MAX
    }

    fn receive(&mut self, shard: usize, at_ms: u64) -> usize {
        if !self.has_room() {
            return 0;
        }
        let Self { link, writer, .. } = self;
        let received = link.receiver.receive(MESSAGES_PER_TURN, |message| append(writer, message, at_ms));
        let count = trusted(received, shard);
        if count > 0 {
            link.receiver.release();
        }
        count
    }

    /// Tells the operator, if the state of the log has changed, and the shard how far it is.
    fn tell(&mut self, shard: usize) {
        let progress = self.writer.progress();
        if self.state != progress.state {
            self.state = progress.state;
            match (progress.state, self.writer.failure()) {
                (JournalState::Writing, _) => tracing::info!(shard, "the journal has space again"),
                (JournalState::Full, _) => tracing::warn!(shard, "the journal's disk is full"),
                (JournalState::Failed, Some(error)) => {
                    tracing::error!(shard, %error, "the journal has failed, nothing is acknowledged any more");
                    note_failure(&self.directory, shard);
                }
                (JournalState::Failed, None) => {}
            }
        }
        // One at a time: a shard that does not listen needs the latest only.
        if self.told != Some(progress) && self.link.sender.backlog_bytes() == 0 {
            match self.link.sender.forward(&progress.to_route(), Body::JOURNALED) {
                Ok(()) => self.told = Some(progress),
                Err(error) => trusted_sender(Err(error), shard),
            }
        }
        trusted_sender(self.link.sender.flush(), shard);
    }

    /// Whether an ending thread need not wait for this log.
    fn is_finished(&mut self) -> bool {
        let progress = self.writer.progress();
        let stuck = match progress.state {
            JournalState::Writing => false,
            JournalState::Full => !self.writer.is_busy(),
            JournalState::Failed => true,
        };
        // What was failing when the end came may still be with the executor, which waits for it when it is dropped.
        stuck || (self.writer.is_synced() && !self.writer.is_busy())
    }
}

/// For the next start.
fn note_failure(directory: &Path, shard: usize) {
    let opened = LogDirectory::open(directory).map_err(|error| error.source);
    if let Err(error) = opened.and_then(|log| log.note_failure()) {
        let directory = directory.display();
        tracing::error!(shard, %directory, %error, "the failure of the journal cannot be noted for the next start");
    }
}

/// Hands a message of a shard to its log.
fn append(writer: &mut LogWriter, message: Message<'_>, at_ms: u64) {
    let Some(entry) = Entry::from_route(message.route) else {
        // Only a shard of another build could send it: counting on would number all later entries wrongly.
        writer.fail(DiskError::Failed { errno: Errno::PROTO.raw_os_error() });
        return;
    };
    if entry.kind == EntryKind::Trim {
        writer.trim(entry.word);
    } else {
        writer.append(&entry, message.kind().number(), message.body().bytes(), at_ms);
    }
}

fn unix_ms() -> u64 {
    // A clock before 1970 makes ids look old; nothing else rests on it.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Rings inside the process are written by us: a broken one is a bug, and going on would lose entries.
fn trusted<T>(result: Result<T, Poison>, shard: usize) -> T {
    result.unwrap_or_else(|poison| panic!("the ring from shard {shard} to the journal is broken: {poison}"))
}

fn trusted_sender(result: Result<(), SendError>, shard: usize) {
    match result {
        // Told again in the next turn.
        Ok(()) | Err(SendError::Full { .. }) => {}
        Err(error) => panic!("the ring from the journal to shard {shard} is broken: {error}"),
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
