//! The sessions of this gateway on disk: opened at its start, closed at its end.
//!
//! The crate `sessions` decides what is kept and how; this module says what was found.

use std::path::Path;
use std::sync::Arc;

use sessions::{CommitPolicy, OpenError, Sessions};

/// Opens the sessions of a state directory, and tells the operator what a crash has left of them.
pub fn open(state_directory: &Path) -> Result<Arc<Sessions>, OpenError> {
    let (sessions, report) = Sessions::open(state_directory, CommitPolicy::default())?;
    for finding in &report.findings {
        tracing::warn!(?finding, "a transcript was not as it should be");
    }
    if report.untold > 0 {
        tracing::warn!(count = report.untold, "more transcripts were not as they should be");
    }
    tracing::debug!(sessions = sessions.len(), "sessions opened");
    Ok(Arc::new(sessions))
}
