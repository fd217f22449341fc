//! Rows on their way into one transcript: what is written, and what the store is told.

use std::collections::HashSet;

use crate::row::SessionRow;
use crate::store::{Change, SessionStore, StoreError};
use crate::transcript::{Header, Message, RowKind, TranscriptRow, write_line};

/// What a batch adds to one session.
#[derive(Debug)]
pub struct Addition {
    /// The session as it is with them.
    pub row: SessionRow,
    /// Where they go in the file.
    pub start: u64,
    /// Their lines.
    pub bytes: Vec<u8>,
    /// What the store is told of them.
    pub changes: Vec<Change>,
    ids: HashSet<String>,
}

impl Addition {
    /// Nothing yet but the header, if the session has none.
    pub fn new(row: SessionRow) -> Self {
        let (start, bytes) = (row.written.bytes, Vec::new());
        let mut addition = Self { row, start, bytes, changes: Vec::new(), ids: HashSet::new() };
        if start == 0 {
            write_line(&mut addition.bytes, &Header::of(&addition.row));
        }
        addition
    }

    /// Adds a row, unless the session has one with its id. Whether it has not.
    pub fn add(
        &mut self,
        store: &dyn SessionStore,
        (kind, id, timestamp_ms): (RowKind, &str, u64),
        message: Message,
    ) -> Result<bool, StoreError> {
        let session = self.row.session_id;
        if self.ids.contains(id) || store.row_number(session, id)?.is_some() {
            return Ok(false);
        }
        let row = TranscriptRow {
            kind,
            id: id.to_owned(),
            parent_id: self.row.last_row_id.take(),
            timestamp: timestamp_ms,
            lifecycle_revision: (kind == RowKind::Reset).then_some(self.row.lifecycle_revision + 1),
            message,
        };
        let (number, start) = (self.row.written.rows, self.start + self.bytes.len() as u64);
        write_line(&mut self.bytes, &row);
        row.count(&mut self.row, self.start + self.bytes.len() as u64);
        self.ids.insert(id.to_owned());
        self.changes.push(Change::Row { session, number, id: row.id, start });
        Ok(true)
    }
}
