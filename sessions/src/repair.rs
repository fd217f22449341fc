//! What is done about differences between transcripts and their index when both are opened.
//!
//! The index says how far a transcript went at the last commit. What stands behind that is read, row by row: rows are
//! taken in, what is torn is cut, and what was there already is left out. A transcript that the index does not know is
//! taken in as a whole, so an index that is lost is made again. Where a file lies decides whether its session is put
//! aside.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{
    AgentsDirectory, FileError, Found, Place, SYNCING, open_to_read, open_to_write, sync_directory,
};
use crate::index::Index;
use crate::row::{SessionId, SessionRow, check_agent, check_channel, check_key};
use crate::store::{Change, Durability, SessionStore};
use crate::transcript::{Header, LINE_BYTES_MAX, TRANSCRIPT_VERSION, TranscriptRow};
use crate::writer::WriteError;

/// Changes that are stored together.
const CHANGES_MAX: usize = 8192;
/// Bytes that are written together.
const CHUNK_BYTES: usize = 1 << 20;
/// Findings that are told one by one.
pub const FINDINGS_MAX: usize = 1000;

/// Something that was not as it should be, and what has been done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Rows behind the last commit have been taken in.
    Recovered {
        /// Where.
        path: PathBuf,
        /// How many.
        rows: u64,
    },
    /// Bytes that are no row, or one that was there already, have been cut.
    Cut {
        /// Where.
        path: PathBuf,
        /// How many.
        bytes: u64,
    },
    /// A transcript that was not in the index has been taken in.
    Adopted {
        /// Where.
        path: PathBuf,
        /// Key of its session.
        key: String,
    },
    /// A transcript has fewer committed rows than before, or none: somebody has changed it.
    Lost {
        /// Where.
        path: PathBuf,
        /// How many rows there were.
        rows_before: u64,
        /// How many there are.
        rows: u64,
    },
    /// A session was being put aside or taken back; it counts as where its file lies.
    Moved {
        /// Where.
        path: PathBuf,
    },
    /// A session was being deleted; it is.
    Deleted {
        /// Its key.
        key: String,
    },
    /// A file that is not one of ours, or whose key another session has. It is left alone.
    LeftAlone {
        /// Where.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
}

/// What opening has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenReport {
    /// What was not as it should be.
    pub findings: Vec<Finding>,
    /// How many more there were than are told.
    pub untold: usize,
}

impl OpenReport {
    fn tell(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.untold += 1;
        }
    }
}

/// What a look into the directories has found of one session.
#[derive(Debug, Default)]
struct Files {
    agent: u32,
    /// The one that counts: that in use, else that put aside.
    transcript: Option<Found>,
    deleted: Option<Place>,
}

/// Reads the index, and makes it and the transcripts agree.
pub fn open(agents: &AgentsDirectory, store: &dyn SessionStore) -> Result<(Index, OpenReport), WriteError> {
    let names = agents.agents()?;
    let mut files = HashMap::<SessionId, Files>::new();
    for (agent, name) in (0u32..).zip(&names) {
        agents.transcripts(name, &mut |found| {
            let files = files.entry(found.session).or_default();
            files.agent = agent;
            match found.place {
                Place::Live => files.transcript = Some(found),
                Place::Archive => files.transcript = files.transcript.or(Some(found)),
                Place::Deleted { .. } | Place::Erased => files.deleted = Some(found.place),
            }
        })?;
    }
    let (mut index, mut suspects) = (Index::default(), Vec::new());
    store.each(&mut |row| {
        let mut found = files.remove(&row.session_id).unwrap_or_default();
        if names.get(found.agent as usize).is_none_or(|name| *name != row.agent) {
            // Somebody has carried it to another agent, whose it is not.
            found = Files::default();
        }
        if agrees(&row, &found) {
            index.put(&row);
        } else {
            suspects.push((row, found));
        }
    })?;
    let mut repair = Repair {
        agents,
        store,
        index,
        report: OpenReport::default(),
        changes: Vec::new(),
        waiting: HashSet::new(),
        flushed: false,
    };
    for (row, found) in suspects {
        repair.known(row, &found)?;
    }
    for (session, files) in files {
        let agent = &names[files.agent as usize];
        if let Some(Place::Erased) = files.deleted {
            let path = agents.file(agent, session, Place::Erased);
            std::fs::remove_file(&path).map_err(FileError::at("removing", &path))?;
        }
        if let Some(found) = files.transcript {
            repair.unknown(agent, found)?;
        }
    }
    // A start that has nothing to repair writes nothing.
    if repair.flushed || !repair.changes.is_empty() {
        store.apply(&repair.changes, Durability::Disk)?;
    }
    Ok((repair.index, repair.report))
}

/// Whether there is nothing to do about a session. What is committed is all that the store says after a restart.
fn agrees(row: &SessionRow, files: &Files) -> bool {
    match files.transcript {
        None => row.written.bytes == 0 && files.deleted.is_none(),
        Some(found) => found.bytes == row.written.bytes && found.place == Place::of(row),
    }
}

struct Repair<'a> {
    agents: &'a AgentsDirectory,
    store: &'a dyn SessionStore,
    index: Index,
    report: OpenReport,
    changes: Vec<Change>,
    /// Ids of rows among the changes.
    waiting: HashSet<(SessionId, String)>,
    /// Whether some are in the store, but not on the disk.
    flushed: bool,
}

impl Repair<'_> {
    /// A session of the index with whose files something is not right.
    fn known(&mut self, mut row: SessionRow, files: &Files) -> Result<(), WriteError> {
        let Some(found) = files.transcript else {
            if let Some(place) = files.deleted {
                self.report.tell(Finding::Deleted { key: row.key });
                if place == Place::Erased {
                    let path = self.agents.file(&row.agent, row.session_id, place);
                    std::fs::remove_file(&path).map_err(FileError::at("removing", &path))?;
                }
                return self.change(Change::Remove(row.session_id));
            }
            let path = self.agents.file(&row.agent, row.session_id, Place::of(&row));
            self.report.tell(Finding::Lost { path, rows_before: row.written.rows, rows: 0 });
            self.change(Change::ForgetRows(row.session_id))?;
            begin_anew(&mut row);
            return self.keep(row);
        };
        let path = self.agents.file(&row.agent, row.session_id, found.place);
        if found.place != Place::of(&row) {
            row.archived = found.place == Place::Archive;
            self.report.tell(Finding::Moved { path: path.clone() });
        }
        let before = row.written;
        if found.bytes < before.bytes {
            self.change(Change::ForgetRows(row.session_id))?;
            // Rows that are asked for from here on are not to be found there any more.
            self.flush()?;
            begin_anew(&mut row);
        }
        if self.read_rest(&path, &mut row)?.is_none() {
            self.leave(path, "its first line is not that of a transcript");
            return self.change(Change::Remove(row.session_id));
        }
        if row.written.rows < before.rows {
            let (rows_before, rows) = (before.rows, row.written.rows);
            self.report.tell(Finding::Lost { path, rows_before, rows });
        } else if row.written.rows > before.rows {
            self.report.tell(Finding::Recovered { path, rows: row.written.rows - before.rows });
        }
        self.keep(row)
    }

    /// A transcript that the index does not know.
    fn unknown(&mut self, agent: &str, found: Found) -> Result<(), WriteError> {
        let path = self.agents.file(agent, found.session, found.place);
        let Some((header, _)) = read_header(&mut BufReader::new(open_to_read(&path)?), &path)? else {
            self.leave(path, "its first line is not that of a transcript");
            return Ok(());
        };
        if header.version > TRANSCRIPT_VERSION {
            self.leave(path, "it is of a later version");
            return Ok(());
        }
        let named =
            check_key(&header.key).and(check_channel(&header.channel)).and(check_agent(&header.agent));
        if header.id != found.session || header.agent != agent || named.is_err() {
            self.leave(path, "its first line is of another session");
            return Ok(());
        }
        if self.index.with_key(&header.key).is_some() {
            self.leave(path, "another session has its key");
            return Ok(());
        }
        let mut row = header.to_row();
        row.archived = found.place == Place::Archive;
        self.report.tell(Finding::Adopted { path: path.clone(), key: header.key });
        self.read_rest(&path, &mut row)?;
        self.keep(row)
    }

    fn leave(&mut self, path: PathBuf, why: &'static str) {
        self.report.tell(Finding::LeftAlone { path, why });
    }

    /// Reads what stands behind the end that is known, and takes it in. `None` if the file has no header.
    ///
    /// Every good line is written again where it belongs: after a sync that has failed, a page that was not written
    /// looks like one that was, and no later sync would write it.
    fn read_rest(&mut self, path: &Path, row: &mut SessionRow) -> Result<Option<()>, WriteError> {
        let mut reader = BufReader::new(open_to_read(path)?);
        let mut rest = Rest { file: open_to_write(path)?, path, end: row.written.bytes, good: Vec::new() };
        if row.written.bytes == 0 {
            let Some((_, line)) = read_header(&mut reader, path)? else { return Ok(None) };
            rest.keep(&line)?;
            row.written.bytes = rest.next();
        } else {
            reader.seek(SeekFrom::Start(row.written.bytes)).map_err(FileError::at("reading", path))?;
        }
        let (mut line, mut cut) = (Vec::new(), 0);
        loop {
            let bytes = read_line(&mut reader, &mut line).map_err(FileError::at("reading", path))?;
            if bytes == 0 {
                break;
            }
            match self.row_of(row.session_id, &line)? {
                Some(told) => {
                    let (session, number, start) = (row.session_id, row.written.rows, rest.next());
                    rest.keep(&line)?;
                    told.count(row, rest.next());
                    self.change(Change::Row { session, number, id: told.id, start })?;
                }
                None => cut += bytes,
            }
        }
        rest.finish()?;
        if cut > 0 {
            self.report.tell(Finding::Cut { path: path.to_owned(), bytes: cut });
        }
        Ok(Some(()))
    }

    /// The row that a line is, if it is a whole one that the session has not yet.
    fn row_of(&mut self, session: SessionId, line: &[u8]) -> Result<Option<TranscriptRow>, WriteError> {
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let Ok(row) = serde_json::from_slice::<TranscriptRow>(line) else { return Ok(None) };
        if row.check().is_err() {
            return Ok(None);
        }
        let new = self.waiting.insert((session, row.id.clone()));
        let known = !new || self.store.row_number(session, &row.id)?.is_some();
        Ok((!known).then_some(row))
    }

    fn keep(&mut self, mut row: SessionRow) -> Result<(), WriteError> {
        row.committed = row.written;
        self.index.put(&row);
        self.change(Change::Put(Arc::new(row)))
    }

    fn change(&mut self, change: Change) -> Result<(), WriteError> {
        self.changes.push(change);
        if self.changes.len() >= CHANGES_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.store.apply(&self.changes, Durability::Memory)?;
        self.flushed = true;
        self.changes.clear();
        self.waiting.clear();
        Ok(())
    }
}

/// The transcript of a session is read from its beginning.
fn begin_anew(row: &mut SessionRow) {
    let begun = SessionRow::new("", "", "", row.created_ms);
    row.written = begun.written;
    row.committed = begun.committed;
    row.first_row = begun.first_row;
    row.lifecycle_revision = begun.lifecycle_revision;
    row.tokens = begun.tokens;
    row.last_row_id = begun.last_row_id;
}

/// The end of a transcript that is written again.
struct Rest<'a> {
    file: File,
    path: &'a Path,
    end: u64,
    good: Vec<u8>,
}

impl Rest<'_> {
    /// Where the next line goes.
    fn next(&self) -> u64 {
        self.end + self.good.len() as u64
    }

    fn keep(&mut self, line: &[u8]) -> Result<(), FileError> {
        self.good.extend_from_slice(line);
        if self.good.len() >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), FileError> {
        self.file.write_all_at(&self.good, self.end).map_err(FileError::at("writing", self.path))?;
        self.end = self.next();
        self.good.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), FileError> {
        self.write()?;
        self.file.set_len(self.end).map_err(FileError::at("cutting", self.path))?;
        self.file.sync_all().map_err(FileError::at(SYNCING, self.path))?;
        sync_directory(self.path.parent().unwrap_or(self.path))
    }
}

/// Reads a line, with its newline if it has one; how many bytes it had. Of one that is too long only the beginning is
/// kept, without a newline.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<u64> {
    line.clear();
    let mut bytes = 0;
    loop {
        let chunk = reader.fill_buf()?;
        let end = memchr::memchr(b'\n', chunk).map(|at| at + 1);
        let taken = end.unwrap_or(chunk.len());
        if line.len() + taken <= LINE_BYTES_MAX {
            line.extend_from_slice(&chunk[..taken]);
        } else {
            line.truncate(LINE_BYTES_MAX);
            line.pop_if(|last| *last == b'\n');
        }
        reader.consume(taken);
        bytes += taken as u64;
        if taken == 0 || end.is_some() {
            return Ok(bytes);
        }
    }
}

fn read_header(reader: &mut impl BufRead, path: &Path) -> Result<Option<(Header, Vec<u8>)>, FileError> {
    let mut line = Vec::new();
    read_line(reader, &mut line).map_err(FileError::at("reading", path))?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&line).ok().map(|header| (header, line)))
}
