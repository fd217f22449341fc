//! The one thread that writes: transcripts, and what the store knows of them.
//!
//! A batch of rows goes into the files first, at the places that the index names, then into the store in one
//! transaction that is not synced. A *commit* syncs the files, then the store. So what the store says after a crash is
//! never more than what is in the files, and what the files have beyond it is found at the next start (`repair.rs`).
//! A failed batch may be tried again as it is: it is written at the same places.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use crate::addition::Addition;
use crate::files::{AgentsDirectory, FileError, Place, SYNCING, open_to_write, sync_directory};
pub use crate::queued::{Append, OnWritten, Written};
use crate::queued::{Queued, told_of};
use crate::resident::Resident;
use crate::row::{Position, SessionId, SessionRow};
use crate::store::{Change, Durability, Mark, StoreError};
use crate::transcript::{Message, RowKind};

/// Rows that are written together at most.
pub const BATCH_ROWS_MAX: usize = 1024;
/// Bytes of messages from which on a batch is written; one message may go beyond.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Transcripts that are open at once.
pub const FILES_OPEN_MAX: usize = 128;
/// How often it is tried again while the disk is full.
pub const RETRY_INTERVAL_MS: u64 = 1000;
/// Batches that are written before an order gets its turn.
const BATCHES_PER_TURN: usize = 8;
/// Nothing is due: longer than anybody cares.
const IDLE: Duration = Duration::from_secs(3600);

/// When transcripts are committed without being asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitPolicy {
    /// When so many rows are not.
    pub rows: u64,
    /// When the oldest row that is not has waited for so long.
    pub interval: Duration,
}

impl Default for CommitPolicy {
    fn default() -> Self {
        Self { rows: 1024, interval: Duration::from_secs(5) }
    }
}

/// How the writer is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum WriterState {
    /// It writes what comes.
    #[default]
    Writing,
    /// The disk is full. It keeps what it has, takes nothing more, and goes on by itself.
    Stalled(String),
    /// What is on the disk is not known any more. Nothing is written until the next start.
    Broken(String),
}

/// What the writer has done since it was started.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriterStatus {
    /// How it is.
    pub state: WriterState,
    /// Rows written.
    pub rows_written: u64,
    /// Rows that were there already.
    pub rows_repeated: u64,
    /// Batches of rows.
    pub batches: u64,
    /// Commits.
    pub commits: u64,
}

/// What the writer shares with those who use it.
#[derive(Debug, Default)]
pub(crate) struct Board {
    status: Mutex<WriterStatus>,
    /// Bytes of rows that wait.
    pub queued_bytes: AtomicUsize,
    /// The marks that are on the disk whatever happens, by name.
    marks: Mutex<HashMap<String, Mark>>,
}

impl Board {
    pub fn status(&self) -> MutexGuard<'_, WriterStatus> {
        // Counters and a state: as good after a panic as before.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn marks(&self) -> MutexGuard<'_, HashMap<String, Mark>> {
        // Numbers: as above.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something to be done on the writer's thread, between batches.
pub(crate) type Order = Box<dyn FnOnce(&mut Writer) + Send>;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file or directory.
    #[error("a transcript cannot be written")]
    File(#[from] FileError),
    /// The store.
    #[error("the session index cannot be written")]
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    /// When it was used last, counted in uses.
    used: u64,
    unsynced: bool,
}

impl OpenFile {
    fn sync(&mut self) -> Result<(), FileError> {
        if std::mem::take(&mut self.unsynced) {
            self.file.sync_data().map_err(FileError::at(SYNCING, &self.path))?;
        }
        Ok(())
    }
}

/// See the module.
pub(crate) struct Writer {
    pub resident: Arc<Resident>,
    pub agents: AgentsDirectory,
    board: Arc<Board>,
    policy: CommitPolicy,
    files: HashMap<SessionId, OpenFile>,
    uses: u64,
    prepared: HashSet<String>,
    /// Sessions with rows that are not committed.
    uncommitted: HashSet<SessionId>,
    uncommitted_rows: u64,
    /// Since when there are any.
    uncommitted_since: Option<Instant>,
    /// Directories in which something has got or lost a name.
    unsynced_directories: HashSet<PathBuf>,
    /// What is not written yet.
    batch: Vec<Queued>,
    /// Marks whose rows are written and not committed, by name.
    marks: HashMap<String, Mark>,
    on_written: Option<OnWritten>,
}

impl Writer {
    pub fn new(
        resident: Arc<Resident>,
        agents: AgentsDirectory,
        board: Arc<Board>,
        policy: CommitPolicy,
    ) -> Self {
        Self {
            resident,
            agents,
            board,
            policy,
            files: HashMap::new(),
            uses: 0,
            prepared: HashSet::new(),
            uncommitted: HashSet::new(),
            uncommitted_rows: 0,
            uncommitted_since: None,
            unsynced_directories: HashSet::new(),
            batch: Vec::new(),
            marks: HashMap::new(),
            on_written: None,
        }
    }

    /// Whom to tell of rows that are written.
    pub fn tell_written(&mut self, on_written: OnWritten) {
        self.on_written = Some(on_written);
    }

    /// Works until nobody can order anything any more, and commits.
    pub fn run(mut self, orders: &Receiver<Order>, appends: &Receiver<Queued>) {
        loop {
            let mut order = None;
            let timeout = self.due_in();
            if self.batch.is_empty() && !self.is_broken() {
                select! {
                    recv(orders) -> next => match next {
                        Ok(next) => order = Some(next),
                        Err(_) => break,
                    },
                    recv(appends) -> next => self.batch.extend(next),
                    default(timeout) => {}
                }
            } else {
                match orders.recv_timeout(timeout) {
                    Ok(next) => order = Some(next),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            self.write_waiting(appends);
            if let Some(order) = order {
                order(&mut self);
            }
            self.commit_if_due();
        }
        self.write_waiting(appends);
        if !self.is_broken() {
            // The state says whether it went well; nobody is there who could be told otherwise.
            let _ = self.commit(Vec::new(), Vec::new());
        }
    }

    /// Whether rows that were taken are not in their files.
    pub fn stalled(&self) -> Option<String> {
        match &self.board.status().state {
            WriterState::Stalled(cause) => Some(cause.clone()),
            _ => None,
        }
    }

    /// Why nothing is written any more.
    pub fn broken(&self) -> Option<String> {
        match &self.board.status().state {
            WriterState::Broken(cause) => Some(cause.clone()),
            _ => None,
        }
    }

    fn is_broken(&self) -> bool {
        matches!(self.board.status().state, WriterState::Broken(_))
    }

    fn due_in(&self) -> Duration {
        if self.is_broken() {
            return IDLE;
        }
        if !self.batch.is_empty() {
            return Duration::from_millis(RETRY_INTERVAL_MS);
        }
        self.uncommitted_since.map_or(IDLE, |since| self.policy.interval.saturating_sub(since.elapsed()))
    }

    fn write_waiting(&mut self, appends: &Receiver<Queued>) {
        for _ in 0..BATCHES_PER_TURN {
            if self.is_broken() {
                return;
            }
            let mut bytes: usize = self.batch.iter().map(Queued::bytes).sum();
            while self.batch.len() < BATCH_ROWS_MAX && bytes < BATCH_BYTES_MAX {
                let Ok(append) = appends.try_recv() else { break };
                bytes += append.bytes();
                self.batch.push(append);
            }
            if self.batch.is_empty() {
                return;
            }
            let batch = std::mem::take(&mut self.batch);
            let written = self.write(&batch);
            let state = match &written {
                Ok(()) => WriterState::Writing,
                Err(WriteError::File(error)) if error.is_want_of_room() => WriterState::Stalled(told(error)),
                Err(error) => WriterState::Broken(told(error)),
            };
            self.board.status().state = state;
            if written.is_err() {
                self.batch = batch;
                return;
            }
            // Only a bound: whoever reads it a moment early or late is refused or let in a row too many.
            self.board.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.commit_if_due();
        }
    }

    /// Writes rows into the files, and tells the store.
    fn write(&mut self, batch: &[Queued]) -> Result<(), WriteError> {
        let store = Arc::clone(self.resident.store());
        let (mut additions, mut by_key) = (Vec::<Addition>::new(), HashMap::<&str, usize>::new());
        let (mut written, mut repeated, mut marks) = (0, 0, Vec::new());
        for queued in batch {
            let append = match queued {
                Queued::Row(append) => append,
                // None of the rows before it is committed before all of them are written.
                Queued::Mark(mark) => {
                    marks.push(mark);
                    continue;
                }
            };
            let index = match by_key.get(append.key.as_str()) {
                Some(index) => *index,
                None => {
                    let row = self.resident.with_key(&append.key)?.map(|row| (*row).clone());
                    let begun =
                        || SessionRow::new(&append.key, &append.agent, &append.channel, append.timestamp_ms);
                    additions.push(Addition::new(row.unwrap_or_else(begun)));
                    by_key.insert(&append.key, additions.len() - 1);
                    additions.len() - 1
                }
            };
            let row = (RowKind::Message, append.id.as_str(), append.timestamp_ms);
            let added = additions[index].add(&*store, row, append.message.clone())?;
            *(if added { &mut written } else { &mut repeated }) += 1;
        }
        additions.retain(|addition| !addition.changes.is_empty());
        for addition in &mut additions {
            self.write_file(addition)?;
        }
        let told = if self.on_written.is_some() { told_of(&additions) } else { Vec::new() };
        self.index(additions)?;
        if let Some(on_written) = self.on_written.as_ref().filter(|_| !told.is_empty()) {
            on_written(&told);
        }
        for mark in marks {
            self.uncommitted_since.get_or_insert_with(Instant::now);
            self.marks.insert(mark.name.clone(), mark.clone());
        }
        let mut status = self.board.status();
        status.rows_written += written;
        status.rows_repeated += repeated;
        status.batches += 1;
        Ok(())
    }

    /// Puts what is added to a session behind what its file has.
    fn write_file(&mut self, addition: &mut Addition) -> Result<(), FileError> {
        let archived = self.agents.file(&addition.row.agent, addition.row.session_id, Place::Archive);
        // An attempt that has failed later may have moved it already.
        if addition.row.archived && archived.exists() {
            self.move_file(&addition.row, Place::Archive, Place::Live)?;
        }
        addition.row.archived = false;
        let path = self.agents.file(&addition.row.agent, addition.row.session_id, Place::Live);
        let open = self.open(&addition.row, &path)?;
        open.unsynced = true;
        if let Err(error) = open.file.write_all_at(&addition.bytes, addition.start) {
            // What is left of it would be cut at the next start, or be overwritten at the next attempt.
            let _ = open.file.set_len(addition.start);
            return Err(FileError::at("writing", &path)(error));
        }
        Ok(())
    }

    /// Tells the store of rows that are in their files.
    fn index(&mut self, additions: Vec<Addition>) -> Result<(), StoreError> {
        let (mut changes, mut rows) = (Vec::new(), Vec::new());
        for addition in additions {
            self.uncommitted_rows += addition.changes.len() as u64;
            self.uncommitted.insert(addition.row.session_id);
            self.uncommitted_since.get_or_insert_with(Instant::now);
            let row = Arc::new(addition.row);
            changes.extend(addition.changes);
            changes.push(Change::Put(Arc::clone(&row)));
            rows.push(row);
        }
        self.resident.publish(&rows);
        self.resident.store().apply(&changes, Durability::Memory)?;
        self.resident.settle();
        Ok(())
    }

    /// Appends the row of a reset to its session, which is returned as it is then.
    pub fn write_reset(&mut self, row: &SessionRow, now_ms: u64) -> Result<(), WriteError> {
        let store = Arc::clone(self.resident.store());
        let mut addition = Addition::new(row.clone());
        let id = format!("reset-{}-{}", row.lifecycle_revision + 1, SessionId::fresh());
        let message = Message::text(crate::transcript::Role::System, "reset");
        addition.add(&*store, (RowKind::Reset, &id, now_ms), message)?;
        self.write_file(&mut addition)?;
        Ok(self.index(vec![addition])?)
    }

    fn commit_if_due(&mut self) {
        let waited = self.uncommitted_since.is_some_and(|since| since.elapsed() >= self.policy.interval);
        if (waited || self.uncommitted_rows >= self.policy.rows) && !self.is_broken() {
            // The state says it; what waits for a commit is told by the next order.
            let _ = self.commit(Vec::new(), Vec::new());
        }
    }

    /// Syncs all files that were written, then stores what is known of them, these rows, and these changes.
    ///
    /// After a failure nobody knows what is on the disk, so nothing more is written.
    pub fn commit(&mut self, rows: Vec<SessionRow>, changes: Vec<Change>) -> Result<(), WriteError> {
        let result = self.try_commit(rows, changes);
        if let Err(error) = &result {
            self.board.status().state = WriterState::Broken(told(error));
        }
        result
    }

    fn try_commit(&mut self, rows: Vec<SessionRow>, mut changes: Vec<Change>) -> Result<(), WriteError> {
        for open in self.files.values_mut() {
            open.sync()?;
        }
        for path in self.unsynced_directories.drain() {
            sync_directory(&path)?;
        }
        let mut all: HashMap<SessionId, SessionRow> =
            rows.into_iter().map(|row| (row.session_id, row)).collect();
        for session in self.uncommitted.drain() {
            if !all.contains_key(&session)
                && let Some(row) = self.resident.row(session)?
            {
                all.insert(session, (*row).clone());
            }
        }
        let committed = |row: SessionRow| Arc::new(SessionRow { committed: row.written, ..row });
        let rows: Vec<_> = all.into_values().map(committed).collect();
        changes.extend(rows.iter().map(Arc::clone).map(Change::Put));
        changes.extend(self.marks.values().cloned().map(Change::Mark));
        if !changes.is_empty() {
            self.resident.publish(&rows);
            self.resident.store().apply(&changes, Durability::Disk)?;
            self.resident.settle();
            self.board.status().commits += 1;
            self.board.marks().extend(self.marks.drain());
        }
        (self.uncommitted_rows, self.uncommitted_since) = (0, None);
        Ok(())
    }

    /// Moves a file of a session; the next commit syncs it.
    pub fn move_file(&mut self, row: &SessionRow, from: Place, to: Place) -> Result<PathBuf, FileError> {
        let [old, new] = self.agents.rename(&row.agent, row.session_id, from, to)?;
        self.unsynced_directories
            .extend([&old, &new].iter().filter_map(|path| path.parent()).map(Path::to_owned));
        Ok(new)
    }

    /// Nothing will be written to that session any more.
    pub fn close(&mut self, session: SessionId) {
        self.files.remove(&session);
        self.uncommitted.remove(&session);
    }

    fn open(&mut self, row: &SessionRow, path: &Path) -> Result<&mut OpenFile, FileError> {
        self.uses += 1;
        if !self.files.contains_key(&row.session_id) {
            self.make_room()?;
            if row.committed == Position::default() {
                if self.prepared.insert(row.agent.clone()) {
                    self.agents.prepare(&row.agent)?;
                }
                self.unsynced_directories.insert(self.agents.sessions(&row.agent));
            }
            let open =
                OpenFile { file: open_to_write(path)?, path: path.to_owned(), used: 0, unsynced: false };
            self.files.insert(row.session_id, open);
        }
        let open = self.files.get_mut(&row.session_id).expect("it has just been put there");
        open.used = self.uses;
        Ok(open)
    }

    /// Closes the file that was used least lately, if there are too many.
    fn make_room(&mut self) -> Result<(), FileError> {
        if self.files.len() < FILES_OPEN_MAX {
            return Ok(());
        }
        let oldest = self.files.iter().min_by_key(|(_, open)| open.used).map(|(session, _)| *session);
        // Synced first: whoever opens it again may not be told that its pages could not be written.
        oldest.and_then(|session| self.files.remove(&session)).map_or(Ok(()), |mut open| open.sync())
    }
}

/// An error with its causes, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
