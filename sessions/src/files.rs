//! Where transcripts lie, and their files.
//!
//! A transcript of an agent lies in `agents/<agent>/sessions/`; one that is put aside in `archive/` in there. Names of
//! agents are checked when a session is made, and ids are ids, so no path leads out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::row::{SessionId, SessionRow};

/// Where in the directory of an agent a file lies, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In use.
    Live,
    /// Put aside.
    Archive,
    /// Of a session that is deleted; kept.
    Deleted {
        /// When, Unix milliseconds.
        at_ms: u64,
    },
    /// Of a session that is deleted; about to be removed.
    Erased,
}

impl Place {
    /// Where the transcript of that session is.
    pub fn of(row: &SessionRow) -> Self {
        if row.archived { Self::Archive } else { Self::Live }
    }

    fn file_name(self, session: SessionId) -> String {
        match self {
            Self::Live => format!("{session}.jsonl"),
            Self::Archive => format!("archive/{session}.jsonl"),
            Self::Deleted { at_ms } => format!("archive/{session}.jsonl.deleted.{at_ms}"),
            Self::Erased => format!("archive/{session}.jsonl.erased"),
        }
    }

    /// What a file of that name is, by the end behind the id.
    fn parse(ending: &str, in_archive: bool) -> Option<Self> {
        match (ending, in_archive) {
            ("", false) => Some(Self::Live),
            ("", true) => Some(Self::Archive),
            (".erased", true) => Some(Self::Erased),
            (_, true) => Some(Self::Deleted { at_ms: ending.strip_prefix(".deleted.")?.parse().ok()? }),
            _ => None,
        }
    }
}

/// The step after whose failure nobody knows what is on the disk.
pub const SYNCING: &str = "syncing";

/// A step with a file that has failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {} failed", path.display())]
pub struct FileError {
    /// Which step.
    pub step: &'static str,
    /// Which file or directory.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { step, path, source }
    }

    /// Whether it may go well later without anybody doing anything here. After a failed sync it may not.
    pub fn is_want_of_room(&self) -> bool {
        self.step != SYNCING
            && matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The directory of all agents.
#[derive(Clone, Debug)]
pub struct AgentsDirectory {
    path: PathBuf,
}

/// A transcript that has been found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Of which session.
    pub session: SessionId,
    /// Where it lies.
    pub place: Place,
    /// Its size.
    pub bytes: u64,
}

impl AgentsDirectory {
    /// That directory; it is made when it is needed.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the transcripts of an agent lie.
    pub fn sessions(&self, agent: &str) -> PathBuf {
        self.path.join(agent).join("sessions")
    }

    /// The file of a session.
    pub fn file(&self, agent: &str, session: SessionId, place: Place) -> PathBuf {
        self.sessions(agent).join(place.file_name(session))
    }

    /// Makes the directories for the transcripts of an agent.
    pub fn prepare(&self, agent: &str) -> Result<(), FileError> {
        let path = self.sessions(agent).join("archive");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(FileError::at("making", &path))?;
        // The names of the directories themselves have to be on the disk before a transcript in them counts.
        path.ancestors().skip(1).take(4).try_for_each(sync_directory)
    }

    /// Moves a file of a session. The directories of both paths have to be synced before anything rests on it.
    pub fn rename(
        &self,
        agent: &str,
        session: SessionId,
        from: Place,
        to: Place,
    ) -> Result<[PathBuf; 2], FileError> {
        let (old, new) = (self.file(agent, session, from), self.file(agent, session, to));
        std::fs::rename(&old, &new).map_err(FileError::at("moving", &old))?;
        Ok([old, new])
    }

    /// The names of all agents that have transcripts.
    pub fn agents(&self) -> Result<Vec<String>, FileError> {
        let names = names_in(&self.path)?;
        Ok(names.into_iter().filter(|name| crate::row::check_agent(name).is_ok()).collect())
    }

    /// Shows every transcript of an agent.
    pub fn transcripts(&self, agent: &str, visit: &mut dyn FnMut(Found)) -> Result<(), FileError> {
        let live = self.sessions(agent);
        for (directory, in_archive) in [(live.join("archive"), true), (live, false)] {
            for name in names_in(&directory)? {
                let Some((id, ending)) = name.split_once(".jsonl") else { continue };
                let Some(session) = SessionId::parse(id) else { continue };
                let Some(place) = Place::parse(ending, in_archive) else { continue };
                let path = directory.join(&name);
                let metadata =
                    std::fs::symlink_metadata(&path).map_err(FileError::at("looking at", &path))?;
                if metadata.is_file() {
                    visit(Found { session, place, bytes: metadata.len() });
                }
            }
        }
        Ok(())
    }
}

/// Names in a directory; none if there is no such directory.
fn names_in(path: &Path) -> Result<Vec<String>, FileError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(FileError::at("listing", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(FileError::at("listing", path))?.file_name();
        names.extend(name.into_string().ok()); // No name that we give is not UTF-8.
    }
    Ok(names)
}

/// Opens a transcript to read it.
pub fn open_to_read(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path).map_err(FileError::at("opening", path))
}

/// Opens a transcript to write it, or makes it.
pub fn open_to_write(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path).map_err(FileError::at("opening", path))
}

/// Waits until the names in a directory are on the disk.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = File::open(path).map_err(FileError::at("opening", path))?;
    directory.sync_all().map_err(FileError::at(SYNCING, path))
}
