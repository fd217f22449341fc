//! What changes a session, on the thread of the writer: each order is whole and on the disk when it is answered.
//!
//! A file is moved before the index says so. At the next start it counts where the file lies, so an order that was
//! interrupted has been carried out or has not.

use std::path::PathBuf;
use std::sync::Arc;

use crate::files::{FileError, Place};
use crate::index::SESSIONS_MAX;
use crate::row::{Invalid, Patch, SessionId, SessionRow};
use crate::store::{Change, StoreError};
use crate::writer::{WriteError, Writer};

/// Sessions that are put aside by one order; rows are written between two.
pub(crate) const ARCHIVE_MAX: usize = 64;

/// Why a session cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such session.
    #[error("there is no session {key:?}")]
    Unknown {
        /// The key asked for.
        key: String,
    },
    /// There is one already.
    #[error("there is a session {key:?} already")]
    Exists {
        /// Its key.
        key: String,
    },
    /// There are too many.
    #[error("there are {SESSIONS_MAX} sessions, session {key:?} cannot begin")]
    TooManySessions {
        /// The key asked for.
        key: String,
    },
    /// Another session has the label.
    #[error("label {label:?} is already in use by session {key:?}")]
    LabelTaken {
        /// Which label.
        label: String,
        /// Key of the other one.
        key: String,
    },
    /// It is not the session that was meant.
    #[error("session {key:?} is {found}, not {expected}")]
    Another {
        /// The key asked for.
        key: String,
        /// The session that was meant.
        expected: SessionId,
        /// The one that has the key.
        found: SessionId,
    },
    /// It is not as it was meant.
    #[error("{what} of session {key:?} is {found}, not {expected}")]
    Changed {
        /// The key asked for.
        key: String,
        /// What is different.
        what: &'static str,
        /// As it was meant.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// A value is not allowed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The disk is full, so not all rows can be committed.
    #[error("rows wait to be written: {cause}")]
    Stalled {
        /// What has happened.
        cause: String,
    },
    /// Nothing is written until the next start.
    #[error("sessions are not written any more: {cause}")]
    Broken {
        /// What has happened.
        cause: String,
    },
    /// A file or the store.
    #[error("the change cannot be written")]
    Write(#[from] WriteError),
    /// The gateway ends.
    #[error("sessions are closed")]
    Closed,
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl From<FileError> for ChangeError {
    fn from(error: FileError) -> Self {
        Self::Write(error.into())
    }
}

impl Writer {
    pub fn known(&self, key: &str, expected: Option<SessionId>) -> Result<Arc<SessionRow>, ChangeError> {
        let row = self.resident.with_key(key)?.ok_or_else(|| ChangeError::Unknown { key: key.to_owned() })?;
        match expected.filter(|expected| *expected != row.session_id) {
            Some(expected) => {
                Err(ChangeError::Another { key: key.to_owned(), expected, found: row.session_id })
            }
            None => Ok(row),
        }
    }

    fn keep(&mut self, row: SessionRow) -> Result<Arc<SessionRow>, ChangeError> {
        let key = row.key.clone();
        self.commit(vec![row], Vec::new())?;
        self.known(&key, None)
    }

    pub fn create(&mut self, row: SessionRow) -> Result<Arc<SessionRow>, ChangeError> {
        if self.resident.with_key(&row.key)?.is_some() {
            return Err(ChangeError::Exists { key: row.key });
        }
        if self.resident.count() >= SESSIONS_MAX {
            return Err(ChangeError::TooManySessions { key: row.key });
        }
        self.keep(row)
    }

    pub fn patch(
        &mut self,
        row: &SessionRow,
        patch: &Patch,
        now_ms: u64,
    ) -> Result<Arc<SessionRow>, ChangeError> {
        let mut row = row.clone();
        if let Some(Some(label)) = &patch.label
            && let Some(other) = self.resident.index(|index| index.with_label(label))
            && other != row.session_id
        {
            let key = self.resident.row(other)?.map(|row| row.key.clone()).unwrap_or_default();
            return Err(ChangeError::LabelTaken { label: label.clone(), key });
        }
        patch.apply(&mut row, now_ms)?;
        if let Some(archived) = patch.archived {
            self.set_archived(&mut row, archived)?;
        }
        self.keep(row)
    }

    fn set_archived(&mut self, row: &mut SessionRow, archived: bool) -> Result<(), ChangeError> {
        let from = Place::of(row);
        row.archived = archived;
        if from != Place::of(row) && row.written.bytes > 0 {
            self.move_file(row, from, Place::of(row))?;
        }
        Ok(())
    }

    pub fn reset(&mut self, row: &SessionRow, now_ms: u64) -> Result<Arc<SessionRow>, ChangeError> {
        self.write_reset(row, now_ms)?;
        self.commit(Vec::new(), Vec::new())?;
        self.known(&row.key, None)
    }

    pub fn delete(
        &mut self,
        row: &SessionRow,
        keep_at_ms: Option<u64>,
    ) -> Result<Option<PathBuf>, ChangeError> {
        let place = keep_at_ms.map_or(Place::Erased, |at_ms| Place::Deleted { at_ms });
        // Renamed first: a session whose transcript is named so counts as deleted at the next start.
        let path =
            if row.written.bytes > 0 { Some(self.move_file(row, Place::of(row), place)?) } else { None };
        self.close(row.session_id);
        self.commit(Vec::new(), vec![Change::Remove(row.session_id)])?;
        self.resident.remove(row.session_id);
        match (path, place) {
            (Some(path), Place::Erased) => {
                std::fs::remove_file(&path).map_err(FileError::at("removing", &path))?;
                Ok(None)
            }
            (path, _) => Ok(path),
        }
    }

    pub fn archive_some(&mut self, agent: Option<&str>, before_ms: u64) -> Result<usize, ChangeError> {
        let idle = self.resident.index(|index| index.idle_since(agent, before_ms, ARCHIVE_MAX));
        let mut rows = Vec::new();
        for session in idle {
            let Some(row) = self.resident.row(session)? else { continue };
            let mut row = (*row).clone();
            self.set_archived(&mut row, true)?;
            rows.push(row);
        }
        let count = rows.len();
        self.commit(rows, Vec::new())?;
        Ok(count)
    }

    pub fn commit_all(&mut self) -> Result<(), ChangeError> {
        if let Some(cause) = self.stalled() {
            return Err(ChangeError::Stalled { cause });
        }
        Ok(self.commit(Vec::new(), Vec::new())?)
    }
}
