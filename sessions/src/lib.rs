//! Sessions on disk: which there are, what was said in them, and the files of agents.
//!
//! | module | decides |
//! |---|---|
//! | [`row`] | what is known of a session, and what is allowed in it |
//! | [`index`], `ranking`, `search` | lists: which sessions a query has, without looking at all of them |
//! | `resident` | what is in memory |
//! | [`store`], [`embedded`] | where the index is kept |
//! | [`transcript`], `files` | lines of transcripts, and where they lie |
//! | `queued` | what waits for the writer |
//! | [`writer`] | when what is written, by one thread |
//! | `addition` | what a batch adds to a transcript |
//! | `orders` | what changes a session |
//! | [`repair`] | what is done about what a crash has left |
//! | [`history`] | pages of transcripts, exports |
//! | [`workspace`] | the files that an agent has in its workspace |
//! | [`sessions`] | what the rest of the program uses |
//!
//! Formats and promises are in docs/sessions.md.

#![forbid(unsafe_code)]

mod addition;
pub mod embedded;
mod files;
pub mod history;
pub mod index;
mod orders;
mod queued;
mod ranking;
pub mod repair;
mod resident;
pub mod row;
mod search;
pub mod sessions;
pub mod store;
pub mod transcript;
pub mod workspace;
pub mod writer;

pub use files::FileError;
pub use history::{ExportFormat, HistoryPage, HistoryQuery, NumberedRow, ReadError};
pub use index::{Page, Query};
pub use orders::ChangeError;
pub use repair::{Finding, OpenReport};
pub use resident::ROWS_CACHED_MAX;
pub use row::{ContextReference, Patch, Position, Preference, SessionId, SessionRow, TokenCounts};
pub use search::HITS_MAX;
pub use sessions::{AppendError, OpenError, Sessions, Target};
pub use store::Mark;
pub use transcript::{Message, Role, RowKind, TranscriptRow, Usage};
pub use workspace::{BootstrapFile, Workspaces};
pub use writer::{Append, CommitPolicy, OnWritten, WriterState, WriterStatus, Written};
