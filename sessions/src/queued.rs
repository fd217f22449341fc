//! What is handed to the writer, and what it tells of it.

use crate::addition::Addition;
use crate::store::{Change, Mark};
use crate::transcript::Message;

/// A row for a transcript.
#[derive(Clone, PartialEq, Debug)]
pub struct Append {
    /// Key of the session; one that is not known begins with this row.
    pub key: String,
    /// Whose session it is, if it begins. A session stays with its agent.
    pub agent: String,
    /// Where it comes from, if it begins.
    pub channel: String,
    /// Id of the row. One that the session has already is not written again.
    pub id: String,
    /// When it was said, Unix milliseconds.
    pub timestamp_ms: u64,
    /// What was said.
    pub message: Message,
}

impl Append {
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.id.len() + self.message.content.get().len()
    }
}

/// What waits for the writer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "rows are many and go without a box, marks are few")]
pub(crate) enum Queued {
    /// A row.
    Row(Append),
    /// The rows before it bring somebody so far.
    Mark(Mark),
}

impl Queued {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Row(append) => append.bytes(),
            Self::Mark(_) => 0,
        }
    }
}

/// A row that has been written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Key of its session.
    pub key: String,
    /// Its id.
    pub row_id: String,
    /// How many rows are before it.
    pub number: u64,
}

/// Is told of rows once they are written, on the thread that writes: it must not wait for anything.
pub type OnWritten = Box<dyn Fn(&[Written]) + Send>;

/// The rows of additions.
pub(crate) fn told_of(additions: &[Addition]) -> Vec<Written> {
    let rows = additions.iter().flat_map(|addition| {
        addition.changes.iter().filter_map(|change| match change {
            Change::Row { number, id, .. } => {
                Some(Written { key: addition.row.key.clone(), row_id: id.clone(), number: *number })
            }
            _ => None,
        })
    });
    rows.collect()
}
