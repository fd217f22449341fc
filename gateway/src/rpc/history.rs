//! `chat.history`: what was said in a session, a page at a time from its end, or what is new since a cursor.

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde_json::{Value, json};
use sessions::{HistoryQuery, NumberedRow, SessionRow};

use super::sessions::entry::{Entry, Shown};
use super::sessions::list::defaults;
use super::sessions::{Desk, key_of, of_read};
use super::{Known, json as write};

/// How many messages a page has unless asked otherwise.
const PAGE_MESSAGES: usize = 200;
/// Bytes of a response; that of the protocol.
const RESPONSE_BYTES_MAX: usize = 6 << 20;
/// Of these, what is not messages.
const REST_BYTES: usize = 64 << 10;
/// Messages that are told as new. Who has missed more reads a page.
const DELTA_MESSAGES_MAX: u64 = 200;
/// Bytes of messages that are told as new.
const DELTA_BYTES_MAX: usize = 1_000_000;

/// A page of messages, written.
struct Messages {
    /// As JSON, the oldest first.
    rows: Vec<Vec<u8>>,
    bytes: usize,
}

impl Messages {
    /// The last of these that have room, at least one; of one that has none alone, everything but its words.
    fn of(rows: &[NumberedRow], chars_max: Option<usize>, bytes_max: usize) -> Self {
        let mut messages = Self { rows: Vec::with_capacity(rows.len()), bytes: 0 };
        for told in rows.iter().rev() {
            let mut row = write(&Shown::of(told, chars_max));
            if row.len() > bytes_max {
                row = write(&Shown::of(told, chars_max).without_words());
            }
            if messages.bytes + row.len() > bytes_max && !messages.rows.is_empty() {
                break;
            }
            messages.bytes += row.len() + 1;
            messages.rows.push(row);
        }
        messages.rows.reverse();
        messages
    }

    /// An object with these messages and the fields of another one.
    fn within(self, rest: &Value) -> Vec<u8> {
        let rest = write(rest);
        let mut out = Vec::with_capacity(self.bytes + rest.len() + 32);
        out.extend_from_slice(b"{\"messages\":[");
        out.extend_from_slice(&self.rows.join(&b","[..]));
        out.extend_from_slice(b"],");
        // Behind its brace: it has fields, always.
        out.extend_from_slice(&rest[1..]);
        out
    }
}

/// How far a client has read: a session, its revision, and rows of its transcript.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cursor {
    session: String,
    revision: u64,
    rows: u64,
}

impl Cursor {
    fn of(row: &SessionRow, rows: u64) -> Self {
        Self { session: row.session_id.to_string(), revision: row.lifecycle_revision, rows }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (session, revision, rows) = (parts.next()?, parts.next()?, parts.next()?);
        let cursor =
            Self { session: session.to_owned(), revision: revision.parse().ok()?, rows: rows.parse().ok()? };
        parts.next().is_none().then_some(cursor)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.session, self.revision, self.rows)
    }
}

/// Serves `chat.history`.
pub fn page(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let key = key_of(known, desk, params, "sessionKey")?;
    let Some(row) = desk.sessions.get(&key).map_err(|error| of_read(error.into()))? else {
        return Ok(write(&nothing(&key)));
    };
    if params.text("sessionId").is_some_and(|id| id != row.session_id.to_string()) {
        return Err(RpcError::invalid(format!(
            "Session {key} is another session now; refresh and try again"
        )));
    }
    match params.text("cursor").filter(|cursor| !cursor.is_empty()) {
        Some(cursor) => since(desk, &row, Cursor::parse(&cursor), chars_max(params)),
        None => from_the_end(desk, &row, params),
    }
}

/// A session in which nothing was said yet; it begins with its first message.
fn nothing(key: &str) -> Value {
    json!({
        "sessionKey": key,
        "messages": [],
        "pendingInputs": {"items": [], "total": 0},
        "hasMore": false,
        "totalMessages": 0,
        "defaults": defaults(),
    })
}

fn chars_max(params: &Params<'_>) -> Option<usize> {
    params.count("maxChars").and_then(|count| usize::try_from(count).ok())
}

fn from_the_end(desk: &Desk, row: &SessionRow, params: &Params<'_>) -> Outcome {
    let count = |name| params.count(name).map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let limit = count("limit").unwrap_or(PAGE_MESSAGES);
    let mut query =
        HistoryQuery { limit, offset: params.count("offset").unwrap_or(0), ..HistoryQuery::default() };
    // How many messages are behind those that the page may have.
    let mut behind = query.offset;
    if let Some(id) = params.text("messageId") {
        let found = desk.sessions.message(&row.key, &id).map_err(of_read)?;
        let found = found.filter(|told| told.number >= row.first_row);
        let number = found.ok_or_else(|| RpcError::invalid(format!("message not found: {id}")))?.number;
        // It stands in the middle, where there are enough on both sides.
        let end = number.saturating_add(1 + limit as u64 / 2).min(row.written.rows);
        behind = row.written.rows.saturating_sub(end);
        (query.before, query.offset) = (Some(end), 0);
    }
    let page = desk.sessions.history(&row.key, &query).map_err(of_read)?;
    let bytes_max = RESPONSE_BYTES_MAX - REST_BYTES;
    let bytes_max = count("maxBytes").map_or(bytes_max, |bytes| bytes.min(bytes_max));
    let messages = Messages::of(&page.rows, chars_max(params), bytes_max);
    let told = messages.rows.len() as u64;
    let next_offset = behind.saturating_add(told);
    let has_more = told > 0 && next_offset < page.total;
    let end = row.first_row.saturating_add(page.total);
    let run = desk.run_in(&row.key);
    Ok(messages.within(&json!({
        "sessionKey": row.key,
        "sessionId": row.session_id.to_string(),
        "pendingInputs": {"items": [], "total": 0},
        "deltaCursor": Cursor::of(row, end).to_string(),
        "nextOffset": has_more.then_some(next_offset),
        "hasMore": has_more,
        "totalMessages": page.total,
        "defaults": defaults(),
        "sessionInfo": Entry::of(row, run.as_deref()),
        "inFlightRun": run.as_deref().map(|run| json!({"runId": run, "text": ""})),
    })))
}

/// What is new since a cursor, or that a page has to be read.
fn since(desk: &Desk, row: &SessionRow, cursor: Option<Cursor>, chars_max: Option<usize>) -> Outcome {
    let reset = || Ok(write(&json!({"kind": "reset"})));
    let Some(cursor) = cursor.filter(|cursor| Cursor { rows: cursor.rows, ..Cursor::of(row, 0) } == *cursor)
    else {
        return reset();
    };
    let end = row.written.rows;
    let Some(new) = end.checked_sub(cursor.rows).filter(|new| *new <= DELTA_MESSAGES_MAX) else {
        return reset();
    };
    let limit = usize::try_from(new).unwrap_or(usize::MAX);
    let query = HistoryQuery { limit, before: Some(end), ..HistoryQuery::default() };
    let page = desk.sessions.history(&row.key, &query).map_err(of_read)?;
    let messages = Messages::of(&page.rows, chars_max, DELTA_BYTES_MAX);
    if messages.rows.len() != limit || messages.bytes > DELTA_BYTES_MAX {
        return reset();
    }
    let run = desk.run_in(&row.key);
    let mut told = json!({
        "kind": "delta",
        "deltaCursor": Cursor::of(row, end).to_string(),
        "sessionInfo": Entry::of(row, run.as_deref()),
    });
    if let (Some(run), Value::Object(told)) = (run, &mut told) {
        told.insert("inFlightRun".to_owned(), json!({"runId": &*run, "text": ""}));
    }
    Ok(messages.within(&told))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cursor is read as it is written; what is none is not read.
    #[test]
    fn cursors_are_read_as_written() {
        let row = SessionRow::new("agent:a:main", "a", "openclaw", 1);
        let cursor = Cursor::of(&row, 7);
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        for text in ["", "a", "a:1", "a:1:x", "a:-1:2", "a:1:2:3"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
