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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Request, parse};
    use super::*;

    fn read(request: &Value) -> Result<SessionRequest, (ErrorCode, Option<String>)> {
        match parse(request.to_string().as_bytes()) {
            Ok(Request::Session(request)) => Ok(request),
            Ok(other) => panic!("{other:?}"),
            Err(complaint) => Err((complaint.code, complaint.field)),
        }
    }

    /// What is right is read. One row for each form.
    #[test]
    fn requests_are_read() {
        let key = || "k".to_owned();
        let list = |archived, limit| SessionRequest::List {
            offset: 3,
            limit,
            agent: Some("a".into()),
            search: Some("s".into()),
            archived,
        };
        let rows = [
            (
                json!({"op": "session.list", "offset": 3, "agent": "a", "search": "s", "archived": true}),
                list(true, SESSIONS_MAX),
            ),
            (
                json!({"op": "session.list", "offset": 3, "agent": "a", "search": "s", "limit": 7}),
                list(false, 7),
            ),
            (json!({"op": "session.get", "key": "k"}), SessionRequest::Get { key: key() }),
            (json!({"op": "session.commit", "key": "k"}), SessionRequest::Commit { key: Some(key()) }),
            (json!({"op": "session.commit", "all": true}), SessionRequest::Commit { key: None }),
            (
                json!({"op": "session.archive", "olderThanMs": 7, "dryRun": true}),
                SessionRequest::Archive { older_than_ms: 7, agent: None, dry_run: true },
            ),
            (
                json!({"op": "session.export", "key": "k"}),
                SessionRequest::Export { key: key(), format: ExportFormat::Jsonl },
            ),
            (
                json!({"op": "session.export", "key": "k", "format": "markdown"}),
                SessionRequest::Export { key: key(), format: ExportFormat::Markdown },
            ),
            (
                json!({"op": "session.delete", "key": "k"}),
                SessionRequest::Delete { key: key(), erase: false },
            ),
            (json!({"op": "session.reset", "key": "k"}), SessionRequest::Reset { key: key() }),
        ];
        for (mut request, expected) in rows {
            request["v"] = json!(1);
            assert_eq!(read(&request), Ok(expected), "{request}");
        }
    }

    /// What is wrong has a name, and the field. One row for each way.
    #[test]
    fn what_is_wrong_has_a_name() {
        use ErrorCode::{InvalidField, MissingField, UnknownField};
        let rows = [
            (json!({"op": "session.get"}), MissingField, "key"),
            (json!({"op": "session.get", "key": ""}), InvalidField, "key"),
            (json!({"op": "session.get", "key": "k", "all": true}), UnknownField, "all"),
            (json!({"op": "session.commit"}), MissingField, "key"),
            (json!({"op": "session.commit", "key": "k", "all": true}), InvalidField, "key"),
            (json!({"op": "session.archive"}), MissingField, "olderThanMs"),
            (json!({"op": "session.archive", "olderThanMs": -1}), InvalidField, "olderThanMs"),
            (json!({"op": "session.export", "key": "k", "format": "xml"}), InvalidField, "format"),
            (json!({"op": "session.delete", "key": "k", "erase": 1}), InvalidField, "erase"),
        ];
        for (mut request, code, field) in rows {
            request["v"] = json!(1);
            assert_eq!(read(&request), Err((code, Some(field.to_owned()))), "{request}");
        }
    }
}
