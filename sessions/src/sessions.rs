//! The sessions of a gateway: what the rest of the program uses.
//!
//! Questions are answered from memory and by reading, on the thread that asks. What changes something is done by the
//! writer; [`Sessions::try_append`] does not wait for it, everything else that changes does, for as long as a sync takes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::embedded::EmbeddedStore;
use crate::files::{AgentsDirectory, FileError};
use crate::history::{ExportFormat, HistoryPage, HistoryQuery, NumberedRow, ReadError, Reader, stored};
use crate::index::{Page, Query, SESSIONS_MAX};
use crate::orders::{ARCHIVE_MAX, ChangeError};
use crate::queued::Queued;
use crate::repair::{self, OpenReport};
use crate::resident::Resident;
use crate::row::{Invalid, Patch, SessionId, SessionRow, check_agent, check_channel, check_key};
use crate::store::Mark;
use crate::store::{SessionStore, StoreError};
use crate::transcript::{LINE_BYTES_MAX, ROW_ID_BYTES_MAX};
use crate::writer::{
    Append, Board, CommitPolicy, OnWritten, Order, WriteError, Writer, WriterState, WriterStatus,
};

/// Rows that wait to be written.
pub const QUEUE_ROWS_MAX: usize = 4096;
/// Bytes of rows that wait to be written; one row may go beyond.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Orders that wait for the writer; more wait where they are given.
pub const ORDERS_MAX: usize = 64;
/// Longest content of a message: a line, less what else stands in it.
pub const CONTENT_BYTES_MAX: usize = LINE_BYTES_MAX - (64 << 10);
/// Longest run, provider, model or stop reason.
pub const FIELD_BYTES_MAX: usize = 512;

/// Why the sessions cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory.
    #[error("the directory of sessions cannot be used")]
    Directory(#[from] FileError),
    /// The store.
    #[error("the session index cannot be used")]
    Store(#[from] StoreError),
    /// Transcripts and index cannot be made to agree.
    #[error("the transcripts cannot be read")]
    Repair(#[from] WriteError),
    /// No thread.
    #[error("the thread that writes transcripts cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why a row is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Too many wait. It is given back, to be tried again.
    #[error("{QUEUE_ROWS_MAX} rows or {QUEUE_BYTES_MAX} bytes wait to be written")]
    Full(Box<Append>),
    /// It will never be taken.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It would begin a session too many.
    #[error("there are {SESSIONS_MAX} sessions, session {key:?} cannot begin")]
    TooManySessions {
        /// Its key.
        key: String,
    },
    /// Nothing is written until the next start.
    #[error("transcripts are not written any more: {cause}")]
    Broken {
        /// What has happened.
        cause: String,
    },
}

/// Which session is to be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    /// By key.
    pub key: &'a str,
    /// And only if it is this one.
    pub expected: Option<SessionId>,
    /// And only in this revision.
    pub revision: Option<u64>,
    /// And only if it was last changed then, Unix milliseconds.
    pub updated_ms: Option<u64>,
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(key: &'a str) -> Self {
        Self { key, expected: None, revision: None, updated_ms: None }
    }
}

/// The senders to the writer, and its thread. Gone when the sessions are closed.
#[derive(Debug)]
struct Running {
    appends: Sender<Queued>,
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    resident: Arc<Resident>,
    agents: AgentsDirectory,
    board: Arc<Board>,
    running: Option<Running>,
}

impl Sessions {
    /// Opens `sessions.redb` and `agents/` in that directory, and makes them agree.
    pub fn open(state_directory: &Path, policy: CommitPolicy) -> Result<(Self, OpenReport), OpenError> {
        std::fs::create_dir_all(state_directory).map_err(FileError::at("making", state_directory))?;
        let store = EmbeddedStore::open(&state_directory.join("sessions.redb"))?;
        Self::open_with(Arc::new(store), state_directory.join("agents"), policy)
    }

    /// The same with another store.
    pub fn open_with(
        store: Arc<dyn SessionStore>,
        agents: PathBuf,
        policy: CommitPolicy,
    ) -> Result<(Self, OpenReport), OpenError> {
        let agents = AgentsDirectory::new(agents);
        let (index, report) = repair::open(&agents, &*store)?;
        let resident = Arc::new(Resident::new(store, index));
        let board = Arc::new(Board::default());
        resident.store().marks(&mut |mark| drop(board.marks().insert(mark.name.clone(), mark)))?;
        let writer = Writer::new(Arc::clone(&resident), agents.clone(), Arc::clone(&board), policy);
        let (appends, taken_appends) = bounded(QUEUE_ROWS_MAX);
        let (orders, taken_orders) = bounded(ORDERS_MAX);
        let thread = std::thread::Builder::new().name("sessions".to_owned());
        let thread =
            thread.spawn(move || writer.run(&taken_orders, &taken_appends)).map_err(OpenError::Thread)?;
        Ok((Self { resident, agents, board, running: Some(Running { appends, orders, thread }) }, report))
    }

    /// Writes and commits what waits, and ends the writer; how it was at last.
    pub fn close(mut self) -> WriterStatus {
        self.end();
        self.board.status().clone()
    }

    fn end(&mut self) {
        if let Some(Running { appends, orders, thread }) = self.running.take() {
            drop((appends, orders));
            // A panic there has been told by the hook, and the process ends by it.
            let _ = thread.join();
        }
    }

    /// Hands a row to the writer. Waits for nothing.
    pub fn try_append(&self, append: Append) -> Result<(), AppendError> {
        check_append(&append)?;
        let Some(Running { appends, .. }) = &self.running else {
            return Err(AppendError::Broken { cause: "sessions are closed".to_owned() });
        };
        match &self.board.status().state {
            WriterState::Broken(cause) => return Err(AppendError::Broken { cause: cause.clone() }),
            WriterState::Stalled(_) => return Err(AppendError::Full(Box::new(append))),
            WriterState::Writing => {}
        }
        if self.resident.count() >= SESSIONS_MAX
            && self.resident.index(|index| index.with_key(&append.key)).is_none()
        {
            return Err(AppendError::TooManySessions { key: append.key });
        }
        let bytes = append.bytes();
        // Only a bound: it orders nothing.
        if self.board.queued_bytes.fetch_add(bytes, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            self.board.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(AppendError::Full(Box::new(append)));
        }
        appends.try_send(Queued::Row(append)).map_err(|error| {
            self.board.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                TrySendError::Full(Queued::Row(append)) => AppendError::Full(Box::new(append)),
                TrySendError::Full(Queued::Mark(_)) | TrySendError::Disconnected(_) => {
                    AppendError::Broken { cause: "the writer has ended".to_owned() }
                }
            }
        })
    }

    /// The rows that were appended before bring somebody so far: kept when they are committed. `false`: too many wait.
    pub fn try_mark(&self, mark: Mark) -> bool {
        self.running.as_ref().is_some_and(|running| running.appends.try_send(Queued::Mark(mark)).is_ok())
    }

    /// How far somebody has got, by the marks that are on the disk.
    pub fn mark(&self, name: &str) -> Option<Mark> {
        self.board.marks().get(name).cloned()
    }

    /// Tells somebody of every row once it is written, on the thread that writes.
    pub fn on_written(&self, tell: OnWritten) -> Result<(), ChangeError> {
        self.order(move |writer| {
            writer.tell_written(tell);
            Ok(())
        })
    }

    /// How the writer is and what it has done.
    pub fn status(&self) -> WriterStatus {
        self.board.status().clone()
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.resident.count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A page of sessions, the newest first.
    pub fn list(&self, query: &Query) -> Result<Page<Arc<SessionRow>>, StoreError> {
        self.resident.list(query)
    }

    /// The session with that key.
    pub fn get(&self, key: &str) -> Result<Option<Arc<SessionRow>>, StoreError> {
        self.resident.with_key(key)
    }

    /// The session with that id.
    pub fn with_id(&self, session: SessionId) -> Result<Option<Arc<SessionRow>>, StoreError> {
        self.resident.row(session)
    }

    /// The session with that label.
    pub fn with_label(&self, label: &str) -> Result<Option<Arc<SessionRow>>, StoreError> {
        match self.resident.index(|index| index.with_label(label)) {
            Some(session) => self.resident.row(session),
            None => Ok(None),
        }
    }

    /// A page of a transcript, from its end. What has been appended is there once it is written.
    pub fn history(&self, key: &str, query: &HistoryQuery) -> Result<HistoryPage, ReadError> {
        self.read(key, |reader, row| reader.page(row, query))
    }

    /// One row of a transcript.
    pub fn message(&self, key: &str, id: &str) -> Result<Option<NumberedRow>, ReadError> {
        self.read(key, |reader, row| reader.row(row, id))
    }

    /// Writes a whole transcript; how many rows.
    pub fn export(&self, key: &str, format: ExportFormat, out: &mut dyn Write) -> Result<u64, ReadError> {
        self.read(key, |reader, row| reader.export(row, format, out))
    }

    fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Reader<'_>, &SessionRow) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let store = self.resident.store();
        let session = self.resident.index(|index| index.with_key(key));
        let session = session.ok_or_else(|| ReadError::Unknown { key: key.to_owned() })?;
        let row = stored(&**store, session, key)?;
        read(&Reader { agents: &self.agents, store: &**store }, &row)
    }

    /// Begins a session without a message.
    pub fn create(
        &self,
        key: &str,
        agent: &str,
        channel: &str,
        now_ms: u64,
    ) -> Result<Arc<SessionRow>, ChangeError> {
        check_key(key).and(check_agent(agent)).and(check_channel(channel))?;
        let row = SessionRow::new(key, agent, channel, now_ms);
        self.order(move |writer| writer.create(row))
    }

    /// Changes what is known of a session.
    pub fn patch(
        &self,
        target: Target<'_>,
        patch: Patch,
        now_ms: u64,
    ) -> Result<Arc<SessionRow>, ChangeError> {
        self.order_for(target, move |writer, row| writer.patch(row, &patch, now_ms))
    }

    /// Begins a session anew, in place: same key, same id, next revision.
    pub fn reset(&self, target: Target<'_>, now_ms: u64) -> Result<Arc<SessionRow>, ChangeError> {
        self.order_for(target, move |writer, row| writer.reset(row, now_ms))
    }

    /// Forgets a session. Its transcript is kept under the path that is returned, or removed.
    pub fn delete(
        &self,
        target: Target<'_>,
        keep_transcript: bool,
        now_ms: u64,
    ) -> Result<Option<PathBuf>, ChangeError> {
        self.order_for(target, move |writer, row| writer.delete(row, keep_transcript.then_some(now_ms)))
    }

    /// Puts aside all sessions that have not changed since; how many.
    pub fn archive_older(&self, agent: Option<&str>, before_ms: u64) -> Result<usize, ChangeError> {
        let mut archived = 0;
        loop {
            let agent = agent.map(str::to_owned);
            let count = self.order(move |writer| writer.archive_some(agent.as_deref(), before_ms))?;
            archived += count;
            if count < ARCHIVE_MAX {
                return Ok(archived);
            }
        }
    }

    /// Waits until everything that was appended before is on the disk; the session as it is then.
    pub fn commit(&self, key: &str) -> Result<Arc<SessionRow>, ChangeError> {
        self.order_for(key.into(), |writer, row| {
            writer.commit_all()?;
            writer.known(&row.key, None)
        })
    }

    /// The same for all sessions.
    pub fn commit_all(&self) -> Result<(), ChangeError> {
        self.order(Writer::commit_all)
    }

    fn order_for<T: Send + 'static>(
        &self,
        target: Target<'_>,
        what: impl FnOnce(&mut Writer, &SessionRow) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let Target { expected, revision, updated_ms, .. } = target;
        let key = target.key.to_owned();
        self.order(move |writer| {
            let row = writer.known(&key, expected)?;
            for (what, expected, found) in [
                ("lifecycle revision", revision, row.lifecycle_revision),
                ("last change", updated_ms, row.updated_ms),
            ] {
                if let Some(expected) = expected.filter(|expected| *expected != found) {
                    return Err(ChangeError::Changed { key, what, expected, found });
                }
            }
            what(writer, &row)
        })
    }

    /// Has something done by the writer, after the rows that wait, and waits for it.
    fn order<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Writer) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let Some(Running { orders, .. }) = &self.running else { return Err(ChangeError::Closed) };
        let (reply, answer) = bounded(1);
        let order: Order = Box::new(move |writer| {
            let done = match writer.broken() {
                Some(cause) => Err(ChangeError::Broken { cause }),
                None => what(writer),
            };
            // Whoever has ordered it waits, or has ended in a panic.
            let _ = reply.send(done);
        });
        orders.send(order).map_err(|_| ChangeError::Closed)?;
        answer.recv().map_err(|_| ChangeError::Closed)?
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.end();
    }
}

fn check_append(append: &Append) -> Result<(), Invalid> {
    check_key(&append.key).and(check_agent(&append.agent)).and(check_channel(&append.channel))?;
    let limited = |what, value: &str, bytes_max: usize| {
        if value.len() <= bytes_max {
            return Ok(());
        }
        Err(Invalid::new(what, value, format!("{} bytes, at most {bytes_max} are allowed", value.len())))
    };
    if append.id.is_empty() {
        return Err(Invalid::new("row id", &append.id, "must not be empty".to_owned()));
    }
    limited("row id", &append.id, ROW_ID_BYTES_MAX)?;
    let message = &append.message;
    limited("content", message.content.get(), CONTENT_BYTES_MAX)?;
    let fields = [&message.run_id, &message.provider, &message.model, &message.stop_reason];
    fields.into_iter().flatten().try_for_each(|field| limited("field of a message", field, FIELD_BYTES_MAX))
}
