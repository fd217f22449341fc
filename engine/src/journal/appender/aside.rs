//! Syncs that no record waits for: beside the chain, since they may take long.

use super::{Appender, Step};
use crate::journal::disk::{DiskError, Operation, Part};

impl Appender {
    /// Whether syncs that nobody's record waits for are done beside the chain.
    pub(super) fn syncs_aside(&self) -> bool {
        self.shape.part == Part::Entries
    }

    /// A sync that somebody asked for, if it may be started now, beside the chain.
    pub(in crate::journal) fn next_aside(&mut self) -> Option<Operation> {
        let syncs = self.chain.iter().any(|step| matches!(step, Step::Sync(_)));
        if self.failed.is_some() || syncs || self.aside.is_some() || self.syncs_wanted == 0 {
            return None;
        }
        let oldest = *self.unsynced.front().filter(|_| self.syncs_aside())?;
        self.syncs_wanted -= 1;
        self.aside = Some(oldest);
        Some(Operation::Sync { segment: self.segment(oldest.number) })
    }

    /// What became of the sync beside the chain.
    pub(in crate::journal) fn aside_completed(&mut self, result: Result<(), DiskError>) {
        let Some(extent) = self.aside.take() else {
            debug_assert!(false, "a completion without an operation");
            return;
        };
        match result {
            Ok(()) => self.extent_synced(extent),
            // Taken for one that follows a refused write.
            Err(DiskError::Skipped) => self.syncs_wanted = self.syncs_wanted.max(1).min(self.unsynced.len()),
            Err(error) => self.fail(error),
        }
    }

    /// Whether a sync is under way beside the chain.
    pub(in crate::journal) fn is_busy_aside(&self) -> bool {
        self.aside.is_some()
    }
}
