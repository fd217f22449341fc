//! The sessions of a gateway that does not run, read from its files.
//!
//! They are opened as a gateway would open them, under the same lock, so that none starts meanwhile; what a crash has
//! left is put in order by that.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sessions::{CommitPolicy, ExportFormat, OpenError, Query, ReadError, Sessions};

use super::AskError;
use crate::admin::sessions::{Listed, SessionInfo, get, list};
use crate::state_directory::{StateDirectory, StateDirectoryError};

/// Why the sessions of a gateway that does not run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// They are somebody else's, and what is written would not be.
    #[error("{} belongs to another user; ask as that user, or start the gateway", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// A gateway starts or ends.
    #[error(transparent)]
    Directory(#[from] StateDirectoryError),
    /// They cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One of them cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Sessions in files, and the lock of their directory.
pub struct Files {
    // Closed before the lock is given back.
    sessions: Sessions,
    _state: StateDirectory,
}

impl Files {
    /// Those of a state directory, if there are any.
    pub fn open(directory: &Path) -> Result<Option<Self>, FilesError> {
        let path = directory.join("sessions.redb");
        let Ok(metadata) = path.metadata() else { return Ok(None) };
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(FilesError::Foreign { path });
        }
        let state = StateDirectory::open(directory, None)?;
        let (sessions, _) = Sessions::open(state.path(), CommitPolicy::default())?;
        Ok(Some(Self { sessions, _state: state }))
    }

    /// A page of them.
    pub fn list(&self, query: &Query) -> Result<Listed, AskError> {
        Ok(list(&self.sessions, query).map_err(FilesError::Read)?)
    }

    /// One of them.
    pub fn get(&self, key: &str) -> Result<SessionInfo, AskError> {
        Ok(get(&self.sessions, key).map_err(FilesError::Read)?)
    }

    /// A whole transcript.
    pub fn export(&self, key: &str, format: ExportFormat, out: &mut dyn Write) -> Result<(), AskError> {
        match self.sessions.export(key, format, out) {
            Ok(_) => Ok(()),
            Err(ReadError::Export { source, .. }) => Err(AskError::Print(source)),
            Err(error) => Err(FilesError::Read(error).into()),
        }
    }
}
