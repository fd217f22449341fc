//! Sessions for the operator: listed, looked at, committed, put aside, exported, reset and deleted.

use std::collections::BTreeMap;
use std::io::{Error as IoError, ErrorKind, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sessions::{ChangeError, ExportFormat, Preference, Query, ReadError, SessionRow, Sessions, TokenCounts};
use tokio::sync::mpsc;

use super::Admin;
use super::answer::Error;
use super::request::{Complaint, ErrorCode};
use super::shards::{ROWS_BYTES_MAX, fitting};
use crate::rpc::now_ms;
use crate::rpc::sessions::Desk;

/// Bytes of a piece of a transcript. As JSON it may be six times as long, and has to fit a line.
const CHUNK_BYTES: usize = 8 * 1024;
/// Pieces that wait for the client.
const CHUNKS_MAX: usize = 4;
/// Bytes of preferences in an answer.
const PREFERENCES_BYTES_MAX: usize = ROWS_BYTES_MAX / 2;

const _: () = assert!(CHUNK_BYTES * 6 <= ROWS_BYTES_MAX, "a piece fits a line");

/// A page of sessions.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// How many there are of those that are wanted; null where all would have to be looked at.
    pub total: Option<usize>,
    /// Those that changed last first.
    pub sessions: Vec<SessionInfo>,
    /// The offset of the next page, if there is one.
    pub next: Option<usize>,
}

/// What is known of a session.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// Its key.
    pub key: String,
    /// Names its transcript.
    pub session_id: String,
    /// Whose it is.
    pub agent: String,
    /// Where it came from.
    pub channel: String,
    /// What its user calls it.
    pub label: Option<String>,
    /// When it began, Unix milliseconds.
    pub created_ms: u64,
    /// When it last changed, Unix milliseconds.
    pub updated_ms: u64,
    /// Whether it is put aside.
    pub archived: bool,
    /// Counts its resets, from 1.
    pub lifecycle_revision: u64,
    /// Rows since the last reset.
    pub messages: u64,
    /// Rows of its transcript.
    pub rows: u64,
    /// How many of them are on the disk whatever happens.
    pub committed_rows: u64,
    /// Bytes of its transcript.
    pub bytes: u64,
    /// What its messages have cost.
    pub tokens: Option<TokenCounts>,
    /// Its settings, as far as they fit; only where one session is asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preferences: BTreeMap<String, Preference>,
}

impl SessionInfo {
    fn of(row: &SessionRow) -> Self {
        Self {
            key: row.key.clone(),
            session_id: row.session_id.to_string(),
            agent: row.agent.clone(),
            channel: row.channel.clone(),
            label: row.label.clone(),
            created_ms: row.created_ms,
            updated_ms: row.updated_ms,
            archived: row.archived,
            lifecycle_revision: row.lifecycle_revision,
            messages: row.message_count(),
            rows: row.written.rows,
            committed_rows: row.committed.rows,
            bytes: row.written.bytes,
            tokens: row.tokens,
            preferences: BTreeMap::new(),
        }
    }

    /// With its settings.
    fn whole(row: &SessionRow) -> Self {
        let mut bytes = 0;
        let fits = |(name, value): &(&String, &Preference)| {
            bytes += name.len() + 8;
            bytes += if let Preference::Text(text) = value { text.len() * 6 } else { 24 };
            bytes <= PREFERENCES_BYTES_MAX
        };
        let preferences = row.preferences.iter().take_while(fits);
        let preferences = preferences.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { preferences, ..Self::of(row) }
    }
}

/// What is on the disk.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub struct Committed {
    /// Of which session; null for all.
    pub key: Option<String>,
    /// Rows of that session.
    pub rows: Option<u64>,
}

/// What was put aside.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// How many.
    pub count: usize,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// What was forgotten.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub struct Deleted {
    /// Which session.
    pub key: String,
    /// Where its transcript is now; null if it has none any more.
    pub transcript: Option<String>,
}

/// The first answer to a request for a transcript.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub struct Exporting {
    /// Of which session.
    pub key: String,
}

/// A line behind the first answer to a request for a transcript.
#[derive(Serialize, Deserialize, Debug, Default)]
pub struct ExportLine {
    /// [`super::VERSION`].
    pub v: u64,
    /// A piece of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chunk: Option<String>,
    /// Rows of all of it: this is the last line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<u64>,
    /// Why there is no more: this is the last line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Error>,
}

/// A page of sessions; as many as fit a line.
pub fn list(sessions: &Sessions, query: &Query) -> Result<Listed, ReadError> {
    let page = sessions.list(query)?;
    let count = page.sessions.len();
    let told = fitting(page.sessions.iter().map(|row| SessionInfo::of(row)));
    let next = if told.len() < count { Some(query.offset + told.len()) } else { page.next_offset };
    Ok(Listed { total: page.total, sessions: told, next })
}

/// One session.
pub fn get(sessions: &Sessions, key: &str) -> Result<SessionInfo, ReadError> {
    let row = sessions.get(key)?.ok_or_else(|| ReadError::Unknown { key: key.to_owned() })?;
    Ok(SessionInfo::whole(&row))
}

/// Does something with sessions on a thread that may wait for the disk.
async fn at_disk<T: Send + 'static>(
    admin: &Admin,
    work: impl FnOnce(&Desk) -> Result<T, Complaint> + Send + 'static,
) -> Result<T, Complaint> {
    let desk = Arc::clone(admin.desk());
    let done = tokio::task::spawn_blocking(move || work(&desk)).await;
    // It is given up when the runtime ends.
    done.unwrap_or_else(|_| Err(Complaint::new(ErrorCode::NoAnswer, "the gateway is going down")))
}

pub(super) async fn page(admin: &Admin, query: Query) -> Result<Listed, Complaint> {
    at_disk(admin, move |desk| list(&desk.sessions, &query).map_err(|error| of_read(&error))).await
}

/// The key of a session that was named, perhaps in short.
pub(super) async fn named(admin: &Admin, key: String) -> Result<String, Complaint> {
    at_disk(admin, move |desk| desk.named(&key).map_err(|error| of_read(&error.into()))).await
}

pub(super) async fn one(admin: &Admin, key: String) -> Result<SessionInfo, Complaint> {
    at_disk(admin, move |desk| get(&desk.sessions, &key).map_err(|error| of_read(&error))).await
}

pub(super) async fn commit(admin: &Admin, key: Option<String>) -> Result<Committed, Complaint> {
    at_disk(admin, move |desk| {
        let rows = match &key {
            Some(key) => desk.sessions.commit(key).map(|row| Some(row.committed.rows)),
            None => desk.sessions.commit_all().map(|()| None),
        };
        Ok(Committed { rows: rows.map_err(|error| of_change(&error))?, key })
    })
    .await
}

pub(super) async fn archive(
    admin: &Admin,
    before_ms: u64,
    agent: Option<String>,
    dry_run: bool,
) -> Result<Archived, Complaint> {
    at_disk(admin, move |desk| {
        let sessions = &desk.sessions;
        if dry_run {
            let total = |active_since_ms| {
                let query = Query { limit: 0, agent: agent.clone(), active_since_ms, ..Query::default() };
                sessions.list(&query).map(|page| page.total.unwrap_or(0))
            };
            let count = total(None).and_then(|all| Ok(all.saturating_sub(total(Some(before_ms))?)));
            let count = count.map_err(|error| of_read(&error.into()))?;
            return Ok(Archived { count, dry_run });
        }
        let count = sessions.archive_older(agent.as_deref(), before_ms);
        let count = count.map_err(|error| of_change(&error))?;
        tracing::info!(count, agent, before_ms, "sessions were put aside");
        Ok(Archived { count, dry_run })
    })
    .await
}

/// Stops what runs in a session, if that may be changed.
async fn stopped(admin: &Admin, key: &str) -> Result<(), Complaint> {
    one(admin, key.to_owned()).await?;
    let stopped = admin.desk().stop(key).await;
    stopped.map_err(|busy| Complaint::new(ErrorCode::Refused, busy.to_string()))
}

pub(super) async fn delete(admin: &Admin, key: String, erase: bool) -> Result<Deleted, Complaint> {
    if crate::rpc::sessions::entry::is_main(&key) {
        let message = format!("{key} is a main session, which stays; it can be reset");
        return Err(Complaint::new(ErrorCode::Refused, message));
    }
    stopped(admin, &key).await?;
    at_disk(admin, move |desk| {
        let row = desk.sessions.get(&key).map_err(|error| of_read(&error.into()))?;
        let kept = desk.sessions.delete(key.as_str().into(), !erase, now_ms());
        let kept = kept.map_err(|error| of_change(&error))?;
        if let Some(row) = row {
            desk.tell_deleted(&row);
        }
        tracing::info!(key, erase, "a session was deleted");
        Ok(Deleted { key, transcript: kept.map(|path| path.display().to_string()) })
    })
    .await
}

pub(super) async fn reset(admin: &Admin, key: String) -> Result<SessionInfo, Complaint> {
    stopped(admin, &key).await?;
    at_disk(admin, move |desk| {
        let row = desk.sessions.reset(key.as_str().into(), now_ms());
        let row = row.map_err(|error| of_change(&error))?;
        desk.tell_changed(&row, "reset");
        tracing::info!(key, "a session was reset");
        Ok(SessionInfo::whole(&row))
    })
    .await
}

/// What comes of an export.
pub(super) enum Piece {
    /// The next words.
    Chunk(String),
    /// All has been told; how many rows.
    End(u64),
    /// It cannot go on.
    Failed(Complaint),
}

/// Has a transcript read piece by piece, as fast as the pieces are taken.
pub(super) fn export(admin: &Admin, key: String, format: ExportFormat) -> mpsc::Receiver<Piece> {
    let (sender, pieces) = mpsc::channel(CHUNKS_MAX);
    let desk = Arc::clone(admin.desk());
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { sender: sender.clone(), bytes: Vec::with_capacity(CHUNK_BYTES) };
        let done = desk.sessions.export(&key, format, &mut out);
        let done = done.and_then(|rows| {
            out.flush().map_err(|source| ReadError::Export { key: key.clone(), source })?;
            Ok(rows)
        });
        let last = done.map_or_else(|error| Piece::Failed(of_read(&error)), Piece::End);
        // Nobody waits any more if the client is gone.
        let _ = sender.blocking_send(last);
    });
    pieces
}

/// Cuts what is written to it into pieces of text.
struct Pieces {
    sender: mpsc::Sender<Piece>,
    bytes: Vec<u8>,
}

impl Pieces {
    /// Gives on what is there, up to the last whole character.
    fn give(&mut self) -> std::io::Result<()> {
        let (text, rest) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => (text.to_owned(), Vec::new()),
            Err(error) if error.error_len().is_none() => {
                let (whole, rest) = self.bytes.split_at(error.valid_up_to());
                (String::from_utf8_lossy(whole).into_owned(), rest.to_vec())
            }
            Err(_) => return Err(IoError::new(ErrorKind::InvalidData, "the transcript is no text")),
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(&rest);
        if text.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Piece::Chunk(text)).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = CHUNK_BYTES.saturating_sub(self.bytes.len()).max(1);
        let taken = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        if self.bytes.len() >= CHUNK_BYTES {
            self.give()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.give()?;
        if self.bytes.is_empty() { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }
}

fn of_read(error: &ReadError) -> Complaint {
    let code =
        if matches!(error, ReadError::Unknown { .. }) { ErrorCode::NotFound } else { ErrorCode::Refused };
    Complaint::new(code, with_causes(error))
}

fn of_change(error: &ChangeError) -> Complaint {
    let code = match error {
        ChangeError::Unknown { .. } => ErrorCode::NotFound,
        ChangeError::Invalid(_) => ErrorCode::InvalidField,
        _ => ErrorCode::Refused,
    };
    Complaint::new(code, with_causes(error))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces are whole characters, in order, and no longer than they may be. By writing wide characters in bits of
    /// every size.
    #[test]
    fn pieces_are_text() {
        let text = "aä🦞\n".repeat(5_000);
        for step in [1, 2, 3, 5, 7, 4_096, usize::MAX] {
            let (sender, mut pieces) = mpsc::channel(1_000);
            let mut out = Pieces { sender, bytes: Vec::new() };
            text.as_bytes().chunks(step.min(text.len())).for_each(|bytes| out.write_all(bytes).unwrap());
            out.flush().unwrap();
            drop(out);
            let mut told = String::new();
            while let Some(Piece::Chunk(piece)) = pieces.blocking_recv() {
                assert!(piece.len() <= CHUNK_BYTES);
                told.push_str(&piece);
            }
            assert_eq!(told, text, "{step}");
        }
        let (sender, _pieces) = mpsc::channel(1_000);
        let mut out = Pieces { sender, bytes: Vec::new() };
        out.write_all(b"a\xff").unwrap();
        assert_eq!(out.flush().unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
