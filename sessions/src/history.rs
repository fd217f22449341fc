//! Reading transcripts: a page from the end, one row, all of it.
//!
//! The store knows where each row begins, so a page is one read of the bytes it has, wherever it lies. What the store
//! says is in the file already, so nobody waits for the writer and no half row is seen.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::files::{AgentsDirectory, FileError, Place, open_to_read};
use crate::row::{SessionId, SessionRow};
use crate::store::{SessionStore, StoreError};
use crate::transcript::{Role, RowKind, TranscriptRow};

/// Most rows of a page.
pub const PAGE_ROWS_MAX: usize = 1000;
/// Most bytes of a page; one row may go beyond.
pub const PAGE_BYTES_MAX: u64 = 6 << 20;

/// Which rows are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryQuery {
    /// How many at most; never more than [`PAGE_ROWS_MAX`].
    pub limit: usize,
    /// How many of the last ones are left out.
    pub offset: u64,
    /// Only rows before this one; as [`HistoryPage::before`] of the page behind it. New rows do not move it.
    pub before: Option<u64>,
    /// Also what was said before the last reset.
    pub whole: bool,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { limit: 200, offset: 0, before: None, whole: false }
    }
}

/// A row and its place.
#[derive(Clone, PartialEq, Debug)]
pub struct NumberedRow {
    /// How many rows of the transcript are before it.
    pub number: u64,
    /// What it says.
    pub row: TranscriptRow,
}

/// A page of a transcript.
#[derive(Clone, PartialEq, Debug)]
pub struct HistoryPage {
    /// The oldest first.
    pub rows: Vec<NumberedRow>,
    /// How many rows there are, without a limit.
    pub total: u64,
    /// Where the page before this one ends, if there is one.
    pub before: Option<u64>,
}

/// How a transcript is written for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExportFormat {
    /// As it is.
    Jsonl,
    /// To be read by people: texts under headings.
    Markdown,
    /// One object of JSON: the session, and its rows.
    Json,
}

/// Why a transcript cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such session.
    #[error("there is no session {key:?}")]
    Unknown {
        /// The key asked for.
        key: String,
    },
    /// The file.
    #[error("the transcript of session {key:?} cannot be read")]
    File {
        /// Of which session.
        key: String,
        /// What has failed.
        #[source]
        source: FileError,
    },
    /// A line is not what was written there.
    #[error("row {number} of {} is not a row of a transcript", path.display())]
    Row {
        /// Which one.
        number: u64,
        /// In which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The index.
    #[error("the session index cannot be read")]
    Store(#[from] StoreError),
    /// Whoever wanted it does not take it.
    #[error("the export of session {key:?} cannot be written")]
    Export {
        /// Of which session.
        key: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Reads the transcripts of one state directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub agents: &'a AgentsDirectory,
    pub store: &'a dyn SessionStore,
}

impl Reader<'_> {
    fn file(&self, row: &SessionRow) -> Result<(std::fs::File, PathBuf), ReadError> {
        let path = self.agents.file(&row.agent, row.session_id, Place::of(row));
        let file = open_to_read(&path).map_err(|source| ReadError::File { key: row.key.clone(), source })?;
        Ok((file, path))
    }

    /// A page, from the end.
    pub fn page(&self, row: &SessionRow, query: &HistoryQuery) -> Result<HistoryPage, ReadError> {
        let first = if query.whole { 0 } else { row.first_row };
        let last = query.before.unwrap_or(u64::MAX).min(row.written.rows);
        let end = last.saturating_sub(query.offset).max(first);
        let total = row.written.rows.saturating_sub(first);
        let limit = query.limit.min(PAGE_ROWS_MAX) as u64;
        let start = end.saturating_sub(limit).max(first);
        if start == end {
            return Ok(HistoryPage { rows: Vec::new(), total, before: None });
        }
        let (start, bytes, path) = self.read(row, start, end)?;
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let rows = (start..).zip(lines).map(|(number, line)| parse(number, line, &path));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        Ok(HistoryPage { rows, total, before: (start > first).then_some(start) })
    }

    /// The row with that id.
    pub fn row(&self, row: &SessionRow, id: &str) -> Result<Option<NumberedRow>, ReadError> {
        let Some(number) = self.store.row_number(row.session_id, id)? else { return Ok(None) };
        let (number, bytes, path) = self.read(row, number, number + 1)?;
        parse(number, &bytes, &path).map(Some)
    }

    /// The bytes of these rows, or of as many of the last of them as a page may have; with the number of the first.
    fn read(&self, row: &SessionRow, start: u64, end: u64) -> Result<(u64, Vec<u8>, PathBuf), ReadError> {
        // The rows end where the transcript does, or where the next one begins.
        let mut stop = (end == row.written.rows).then_some(row.written.bytes);
        let (mut from, mut first) = (0, end);
        self.store.row_starts(row.session_id, start..end + 1, &mut |number, row_start| {
            let stop = *stop.get_or_insert(row_start);
            let fits = number + 1 == end || stop.saturating_sub(row_start) <= PAGE_BYTES_MAX;
            if number < end && fits {
                (from, first) = (row_start, number);
            }
            fits
        })?;
        let bytes = stop.unwrap_or(from).saturating_sub(from);
        let mut bytes = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        let (file, path) = self.file(row)?;
        file.read_exact_at(&mut bytes, from).map_err(|source| ReadError::File {
            key: row.key.clone(),
            source: FileError { step: "reading", path: path.clone(), source },
        })?;
        Ok((first, bytes, path))
    }

    /// Writes all of a transcript; how many rows.
    pub fn export(
        &self,
        row: &SessionRow,
        format: ExportFormat,
        out: &mut dyn Write,
    ) -> Result<u64, ReadError> {
        let key = || row.key.clone();
        let untaken = |source| ReadError::Export { key: key(), source };
        if row.written.bytes == 0 {
            let mut nothing = Told { row, format, out };
            if format == ExportFormat::Json {
                nothing.begin().and_then(|()| nothing.end()).map_err(untaken)?;
            }
            return Ok(0);
        }
        let (file, path) = self.file(row)?;
        let mut lines = BufReader::new(file.take(row.written.bytes));
        if format == ExportFormat::Jsonl {
            io::copy(&mut lines, out).map_err(untaken)?;
            return Ok(row.written.rows);
        }
        let mut told = Told { row, format, out };
        told.begin().map_err(untaken)?;
        let mut line = Vec::new();
        for number in 0..=row.written.rows {
            line.clear();
            let read = lines.read_until(b'\n', &mut line);
            let failed = |source| FileError { step: "reading", path: path.clone(), source };
            read.map_err(|source| ReadError::File { key: key(), source: failed(source) })?;
            let Some(number) = number.checked_sub(1) else { continue }; // The first line is no row.
            told.row(&parse(number, &line, &path)?, &line).map_err(untaken)?;
        }
        told.end().map_err(untaken)?;
        Ok(row.written.rows)
    }
}

/// A transcript on its way to somebody else.
struct Told<'a> {
    row: &'a SessionRow,
    format: ExportFormat,
    out: &'a mut dyn Write,
}

impl Told<'_> {
    fn begin(&mut self) -> io::Result<()> {
        if self.format == ExportFormat::Json {
            self.out.write_all(b"{\"session\":")?;
            serde_json::to_writer(&mut *self.out, self.row)?;
            return self.out.write_all(b",\"rows\":[");
        }
        let SessionRow { session_id, agent, .. } = self.row;
        let title = self.row.label.as_deref().unwrap_or(&self.row.key);
        writeln!(self.out, "# {title}\n\nSession `{session_id}` of agent `{agent}`.")
    }

    fn row(&mut self, told: &NumberedRow, line: &[u8]) -> io::Result<()> {
        let NumberedRow { number, row: told } = told;
        if self.format == ExportFormat::Json {
            let comma: &[u8] = if *number == 0 { b"" } else { b"," };
            self.out.write_all(comma)?;
            return self.out.write_all(line.trim_ascii_end());
        }
        let who = match (told.kind, told.message.role) {
            (RowKind::Reset, _) => "Reset",
            (_, Role::User) => "User",
            (_, Role::Assistant) => "Assistant",
            (_, Role::ToolResult) => "Tool",
            (_, Role::System) => "System",
        };
        let text = if told.kind == RowKind::Reset { String::new() } else { told.message.to_text() };
        writeln!(self.out, "\n## {who}\n\n{text}")
    }

    fn end(&mut self) -> io::Result<()> {
        if self.format == ExportFormat::Json { self.out.write_all(b"]}\n") } else { Ok(()) }
    }
}

fn parse(number: u64, line: &[u8], path: &std::path::Path) -> Result<NumberedRow, ReadError> {
    let row = serde_json::from_slice(line);
    let row = row.map_err(|source| ReadError::Row { number, path: path.to_owned(), source })?;
    Ok(NumberedRow { number, row })
}

/// The row of a session as the store has it: what it says is in the files.
pub(crate) fn stored(
    store: &dyn SessionStore,
    session: SessionId,
    key: &str,
) -> Result<SessionRow, ReadError> {
    store.session(session)?.ok_or_else(|| ReadError::Unknown { key: key.to_owned() })
}
