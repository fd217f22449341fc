//! A directory of sessions that can be ended, and left as a killed process leaves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sessions::{Append, AppendError, CommitPolicy, Message, OpenReport, Role, Sessions};
use tempfile::TempDir;

/// Nothing is committed unless it is asked for.
const NEVER: CommitPolicy = CommitPolicy { rows: u64::MAX, interval: Duration::from_secs(1 << 20) };

/// See the module.
pub struct Rig {
    directory: TempDir,
    sessions: Option<Sessions>,
    /// Rows given to the writer since it was started.
    appended: u64,
}

/// A row that says its own id.
pub fn append(key: &str, id: &str, timestamp_ms: u64) -> Append {
    let (key, id) = (key.to_owned(), id.to_owned());
    let message = Message::text(Role::User, &format!("this is {id}"));
    Append { key, agent: "main".into(), channel: "test".into(), id, timestamp_ms, message }
}

#[allow(dead_code, reason = "each test uses what it needs")]
impl Rig {
    /// An empty directory.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (sessions, _) = Sessions::open(directory.path(), NEVER).expect("it is empty");
        Self { directory, sessions: Some(sessions), appended: 0 }
    }

    /// A copy of what somebody has left, not started.
    pub fn copy_of(left: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        copy(left, directory.path());
        Self { directory, sessions: None, appended: 0 }
    }

    /// Where everything lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the transcripts in use lie.
    pub fn transcripts(&self) -> PathBuf {
        self.path().join("agents/main/sessions")
    }

    /// They are open.
    pub fn sessions(&self) -> &Sessions {
        self.sessions.as_ref().expect("they are open")
    }

    /// Hands a row over, as often as it takes.
    pub fn append(&mut self, row: Append) {
        let mut row = Some(row);
        while let Some(next) = row.take() {
            match self.sessions().try_append(next) {
                Ok(()) => {}
                Err(AppendError::Full(back)) => row = Some(*back),
                Err(error) => panic!("{error}"),
            }
        }
        self.appended += 1;
    }

    /// Waits until everything is written; nothing is committed by that.
    pub fn settle(&self) {
        loop {
            let status = self.sessions().status();
            if status.rows_written + status.rows_repeated == self.appended {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Ends and starts again.
    pub fn reopen(&mut self) -> OpenReport {
        drop(self.sessions.take());
        self.start()
    }

    /// Leaves everything as a killed process would, and starts there.
    pub fn crash(&mut self) -> OpenReport {
        self.leave();
        self.start()
    }

    /// The first half of [`Self::crash`]: files as they are while the writer runs.
    pub fn leave(&mut self) {
        self.settle();
        let left = Self::copy_of(self.path());
        drop(self.sessions.take());
        *self = left;
    }

    /// Starts.
    pub fn start(&mut self) -> OpenReport {
        let (sessions, report) = Sessions::open(self.path(), NEVER).expect("it can be opened");
        (self.sessions, self.appended) = (Some(sessions), 0);
        report
    }
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it is made");
    for entry in fs::read_dir(from).expect("it is listed") {
        let entry = entry.expect("it is listed");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("it is copied");
        }
    }
}
