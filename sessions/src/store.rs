//! Where the index of sessions is kept: what any store must do.
//!
//! A store holds facts about transcripts, and transcripts can be read again: what a store loses after the last
//! [`Durability::Disk`] is found by reading the ends of the files (`repair.rs`).

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::row::{SessionId, SessionRow};

/// What is to be kept.
#[derive(Clone, Debug)]
pub enum Change {
    /// A session, new or in place of what was known of it.
    Put(Arc<SessionRow>),
    /// A row that is in a transcript.
    Row {
        /// In which.
        session: SessionId,
        /// How many rows are before it.
        number: u64,
        /// Its id.
        id: String,
        /// Where it begins in the file.
        start: u64,
    },
    /// All rows of a transcript are forgotten.
    ForgetRows(SessionId),
    /// A session is forgotten with all its rows.
    Remove(SessionId),
    /// How far somebody has got, in place of what was known of that.
    Mark(Mark),
}

/// How far somebody has got who writes down what stands elsewhere. It is kept with the rows that came of it, or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// In what.
    pub name: String,
    /// What stands before this number has been written down.
    pub done: u64,
    /// From which number on it is needed to go on.
    pub needed: u64,
}

/// What survives when a call has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Nothing, not even the end of the process. Readers see it.
    Memory,
    /// It and everything before it survive the end of power.
    Disk,
}

/// Why a store cannot do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("opening the session store {} failed", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The database refuses.
    #[error("{step} the session store {} failed", path.display())]
    Database {
        /// What was to be done.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: Box<redb::Error>,
    },
    /// A row cannot be read.
    #[error("session {session} in the session store {} is no session row", path.display())]
    Row {
        /// Which one.
        session: String,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// It was written by a later version.
    #[error("the session store {} has format {found}, this version knows {known}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest that is known.
        known: u64,
    },
}

/// Where the index of sessions is kept. One thread writes, any number read.
pub trait SessionStore: Send + Sync + std::fmt::Debug {
    /// Keeps all of them, or none.
    fn apply(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError>;

    /// Shows every session, in no order.
    fn each(&self, visit: &mut dyn FnMut(SessionRow)) -> Result<(), StoreError>;

    /// Shows those of these sessions that there are, in no order.
    fn sessions(&self, sessions: &[SessionId], visit: &mut dyn FnMut(SessionRow)) -> Result<(), StoreError>;

    /// A session.
    fn session(&self, session: SessionId) -> Result<Option<SessionRow>, StoreError> {
        let mut found = None;
        self.sessions(&[session], &mut |row| found = Some(row))?;
        Ok(found)
    }

    /// Shows all marks, in no order.
    fn marks(&self, visit: &mut dyn FnMut(Mark)) -> Result<(), StoreError>;

    /// The number of the row with that id.
    fn row_number(&self, session: SessionId, id: &str) -> Result<Option<u64>, StoreError>;

    /// Shows numbers and beginnings of rows, the last one first, until `visit` says no.
    fn row_starts(
        &self,
        session: SessionId,
        rows: Range<u64>,
        visit: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), StoreError>;
}
