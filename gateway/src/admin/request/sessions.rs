//! What may be asked about sessions.

use ::sessions::ExportFormat;

use super::{Complaint, ErrorCode, Fields, Op, missing, wrong};

/// The most sessions of one answer.
pub const SESSIONS_MAX: usize = 100;

/// The formats of an export, by name.
const FORMATS: [(&str, ExportFormat); 3] =
    [("jsonl", ExportFormat::Jsonl), ("markdown", ExportFormat::Markdown), ("json", ExportFormat::Json)];

/// A request about sessions, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionRequest {
    /// [`Op::SessionList`].
    List {
        /// How many to pass over.
        offset: usize,
        /// How many at most.
        limit: usize,
        /// Of this agent.
        agent: Option<String>,
        /// With this in key or label.
        search: Option<String>,
        /// Those that are put aside instead of the others.
        archived: bool,
    },
    /// [`Op::SessionGet`].
    Get {
        /// Which.
        key: String,
    },
    /// [`Op::SessionCommit`].
    Commit {
        /// Which; all where none is named.
        key: Option<String>,
    },
    /// [`Op::SessionArchive`].
    Archive {
        /// How long nothing has changed.
        older_than_ms: u64,
        /// Of this agent only.
        agent: Option<String>,
        /// Only to see how many it would be.
        dry_run: bool,
    },
    /// [`Op::SessionExport`].
    Export {
        /// Which.
        key: String,
        /// How.
        format: ExportFormat,
    },
    /// [`Op::SessionDelete`].
    Delete {
        /// Which.
        key: String,
        /// Whether its transcript is removed.
        erase: bool,
    },
    /// [`Op::SessionReset`].
    Reset {
        /// Which.
        key: String,
    },
}

/// Reads the fields of an operation on sessions.
pub(super) fn read(op: Op, fields: &mut Fields) -> Result<SessionRequest, Complaint> {
    Ok(match op {
        Op::SessionList => SessionRequest::List {
            archived: flag(fields, "archived")?,
            offset: fields.number("offset")?.unwrap_or(0),
            limit: fields.number("limit")?.unwrap_or(SESSIONS_MAX).min(SESSIONS_MAX),
            agent: fields.text("agent")?,
            search: fields.text("search")?,
        },
        Op::SessionCommit => {
            let (all, key) = (flag(fields, "all")?, fields.text("key")?);
            match (all, key) {
                (true, Some(_)) => return Err(wrong("key", "left out where all is true")),
                (false, None) => return Err(missing("key")),
                (_, key) => SessionRequest::Commit { key },
            }
        }
        Op::SessionArchive => SessionRequest::Archive {
            dry_run: flag(fields, "dryRun")?,
            older_than_ms: fields
                .take("olderThanMs", "a whole number that is not negative")?
                .ok_or_else(|| missing("olderThanMs"))?,
            agent: fields.text("agent")?,
        },
        Op::SessionExport => {
            let name = fields.text("format")?;
            let format = match name.as_deref() {
                None => ExportFormat::Jsonl,
                Some(name) => {
                    let found = FORMATS.into_iter().find(|(known, _)| *known == name);
                    found.ok_or_else(|| wrong("format", "jsonl, markdown or json"))?.1
                }
            };
            SessionRequest::Export { key: key(fields)?, format }
        }
        Op::SessionDelete => SessionRequest::Delete { erase: flag(fields, "erase")?, key: key(fields)? },
        Op::SessionReset => SessionRequest::Reset { key: key(fields)? },
        Op::SessionGet => SessionRequest::Get { key: key(fields)? },
        other => {
            let message = format!("{} is not about sessions", other.name());
            return Err(Complaint::new(ErrorCode::UnknownOp, message));
        }
    })
}

fn flag(fields: &mut Fields, name: &str) -> Result<bool, Complaint> {
    Ok(fields.take(name, "true or false")?.unwrap_or(false))
}

fn key(fields: &mut Fields) -> Result<String, Complaint> {
    fields.text("key")?.ok_or_else(|| missing("key"))
}
