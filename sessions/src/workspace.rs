//! The files by which an agent knows who it is, in its own workspace.
//!
//! `agents/<agent>/workspace/` may be written by the agent, so nothing in it is trusted: names are a closed list, every
//! step down is taken without following a symbolic link, only plain files up to a size are read, and a file is replaced
//! by renaming.

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::row::{Invalid, check_agent};

/// Largest file that is read or written.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
// A pipe that somebody has put there must not make the reader wait.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const MAKE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file that every workspace has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BootstrapFile {
    /// What the agent is, and what it cares for.
    Soul,
    /// Its name and its ways.
    Identity,
    /// How it works.
    Agents,
    /// For whom.
    User,
    /// With what.
    Tools,
    /// What it wants to keep.
    Memory,
    /// Its own settings.
    Config,
}

impl BootstrapFile {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Soul, Self::Identity, Self::Agents, Self::User, Self::Tools, Self::Memory, Self::Config];

    /// Its name in the workspace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Soul => "SOUL.md",
            Self::Identity => "IDENTITY.md",
            Self::Agents => "AGENTS.md",
            Self::User => "USER.md",
            Self::Tools => "TOOLS.md",
            Self::Memory => "MEMORY.md",
            Self::Config => "config.json",
        }
    }

    /// The file of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.name() == name)
    }

    /// What it says until somebody writes something else.
    fn first_text(self, agent: &str) -> String {
        match self {
            Self::Soul => "# Soul\n\nBe useful, be honest, and say when you do not know.\n\
                Ask before anything that cannot be undone.\n"
                .to_owned(),
            Self::Identity => format!("# Identity\n\n- Name: {agent}\n- Manner: friendly and brief\n"),
            Self::Agents => "# How to work\n\n1. Read SOUL.md, USER.md and MEMORY.md first.\n\
                2. Keep what should outlast this conversation in MEMORY.md.\n\
                3. Stay inside this workspace unless you are asked to leave it.\n"
                .to_owned(),
            Self::User => "# User\n\n- Name:\n- Time zone:\n- Languages:\n- Prefers:\n".to_owned(),
            Self::Tools => {
                "# Tools\n\nNotes on the tools of this machine: names, paths, habits.\n".to_owned()
            }
            Self::Memory => "# Memory\n\nWhat is worth keeping, newest first.\n".to_owned(),
            Self::Config => "{}\n".to_owned(),
        }
    }
}

/// What a list says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileSummary {
    /// Which one.
    pub file: BootstrapFile,
    /// Its size and the time of its last change, Unix milliseconds; `None` if it is missing or no plain file.
    pub found: Option<(u64, u64)>,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileText {
    /// What it says.
    pub text: String,
    /// SHA-256 of it, 64 hexadecimal digits.
    pub hash: String,
    /// When it was last changed, Unix milliseconds.
    pub updated_ms: u64,
}

/// Why a file of a workspace cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The agent cannot have a workspace.
    #[error(transparent)]
    Agent(#[from] Invalid),
    /// A step has failed.
    #[error("{step} {} failed", path.display())]
    System {
        /// Which step.
        step: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Something else lies where the file should.
    #[error("{} is no plain file of text in the workspace itself", path.display())]
    NotPlain {
        /// Which file.
        path: PathBuf,
    },
    /// It is too large.
    #[error("{} has {found} bytes, at most {FILE_BYTES_MAX} are allowed", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size, or that of what it should become.
        found: u64,
    },
    /// Somebody has changed it meanwhile.
    #[error("{} has changed: its hash is {}, expected was {expected}", path.display(), found.as_deref().unwrap_or("none"))]
    Changed {
        /// Which file.
        path: PathBuf,
        /// Its hash, if it is there.
        found: Option<String>,
        /// The hash that was expected.
        expected: String,
    },
    /// Settings have to be JSON.
    #[error("{} has to be a JSON object", path.display())]
    NotJson {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// The workspaces of all agents.
#[derive(Debug)]
pub struct Workspaces {
    agents: PathBuf,
    /// Between looking at a hash and replacing the file nobody else of this process does.
    writing: Mutex<()>,
}

/// An open workspace.
struct Workspace {
    directory: OwnedFd,
    path: PathBuf,
}

impl Workspaces {
    /// Those in that directory of agents.
    pub fn new(agents: PathBuf) -> Self {
        Self { agents, writing: Mutex::new(()) }
    }

    /// Where an agent works.
    pub fn path(&self, agent: &str) -> Result<PathBuf, WorkspaceError> {
        check_agent(agent)?;
        Ok(self.agents.join(agent).join("workspace"))
    }

    /// Makes the workspace of an agent and the files that it lacks; which ones.
    pub fn prepare(&self, agent: &str) -> Result<Vec<BootstrapFile>, WorkspaceError> {
        let workspace = self.open(agent)?;
        let mut made = Vec::new();
        for file in BootstrapFile::ALL {
            let path = workspace.path.join(file.name());
            let mut opened = match openat(&workspace.directory, file.name(), MAKE, Mode::from_raw_mode(0o600))
            {
                Ok(opened) => File::from(opened),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(failed("making", &path)(error)),
            };
            opened.write_all(file.first_text(agent).as_bytes()).map_err(failed("writing", &path))?;
            made.push(file);
        }
        Ok(made)
    }

    /// Says of each file whether it is there.
    pub fn list(&self, agent: &str) -> Result<Vec<FileSummary>, WorkspaceError> {
        let workspace = self.open(agent)?;
        let mut summaries = Vec::new();
        for file in BootstrapFile::ALL {
            let found = match workspace.look(file) {
                Ok(found) => found.map(|(_, bytes, updated_ms)| (bytes, updated_ms)),
                Err(WorkspaceError::NotPlain { .. }) => None,
                Err(error) => return Err(error),
            };
            summaries.push(FileSummary { file, found });
        }
        Ok(summaries)
    }

    /// Reads a file; `None` if it is missing.
    pub fn get(&self, agent: &str, file: BootstrapFile) -> Result<Option<FileText>, WorkspaceError> {
        self.open(agent)?.read(file)
    }

    /// Replaces a file, if it still has that hash; its new hash.
    pub fn set(
        &self,
        agent: &str,
        file: BootstrapFile,
        text: &str,
        expected_hash: Option<&str>,
    ) -> Result<String, WorkspaceError> {
        let workspace = self.open(agent)?;
        let path = workspace.path.join(file.name());
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(WorkspaceError::TooLarge { path, found: text.len() as u64 });
        }
        if file == BootstrapFile::Config
            && let Err(source) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
        {
            return Err(WorkspaceError::NotJson { path, source });
        }
        // Nothing is behind the lock but the right to go on.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expected) = expected_hash {
            let found = workspace.read(file)?.map(|file| file.hash);
            if !found.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(expected)) {
                return Err(WorkspaceError::Changed { path, found, expected: expected.to_owned() });
            }
        }
        workspace.replace(file, text)?;
        Ok(hash(text))
    }

    /// Opens the workspace of an agent, and makes it if there is none.
    fn open(&self, agent: &str) -> Result<Workspace, WorkspaceError> {
        let path = self.path(agent)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.agents);
        made.map_err(failed("making", &self.agents))?;
        let mut at =
            openat(CWD, &self.agents, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed("opening", &self.agents))?;
        for name in [agent, "workspace"] {
            match mkdirat(&at, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("making", &path)(error)),
            }
            at = openat(&at, name, DIRECTORY, Mode::empty()).map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR => WorkspaceError::NotPlain { path: path.clone() },
                error => failed("opening", &path)(error),
            })?;
        }
        Ok(Workspace { directory: at, path })
    }
}

impl Workspace {
    /// Opens a file, with its size and the time of its last change.
    fn look(&self, file: BootstrapFile) -> Result<Option<(File, u64, u64)>, WorkspaceError> {
        let path = self.path.join(file.name());
        let opened = match openat(&self.directory, file.name(), READ, Mode::empty()) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(WorkspaceError::NotPlain { path }),
            Err(error) => return Err(failed("opening", &path)(error)),
        };
        let metadata = opened.metadata().map_err(failed("looking at", &path))?;
        if !metadata.is_file() {
            return Err(WorkspaceError::NotPlain { path });
        }
        let updated_ms =
            metadata.mtime().unsigned_abs() * 1000 + metadata.mtime_nsec().unsigned_abs() / 1_000_000;
        Ok(Some((opened, metadata.len(), updated_ms)))
    }

    fn read(&self, file: BootstrapFile) -> Result<Option<FileText>, WorkspaceError> {
        let path = self.path.join(file.name());
        let Some((opened, _, updated_ms)) = self.look(file)? else { return Ok(None) };
        let (mut text, mut limited) = (String::new(), opened.take(FILE_BYTES_MAX + 1));
        let bytes = match limited.read_to_string(&mut text) {
            Ok(bytes) => bytes as u64,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(WorkspaceError::NotPlain { path });
            }
            Err(error) => return Err(failed("reading", &path)(error)),
        };
        if bytes > FILE_BYTES_MAX {
            return Err(WorkspaceError::TooLarge { path, found: bytes });
        }
        let hash = hash(&text);
        Ok(Some(FileText { text, hash, updated_ms }))
    }

    fn replace(&self, file: BootstrapFile, text: &str) -> Result<(), WorkspaceError> {
        let (path, new) = (self.path.join(file.name()), format!(".{}.new", file.name()));
        match unlinkat(&self.directory, &new, rustix::fs::AtFlags::empty()) {
            // What is left of an attempt that was not finished.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("removing an earlier attempt of", &path)(error)),
        }
        let opened = openat(&self.directory, &new, MAKE, Mode::from_raw_mode(0o600));
        let mut opened = File::from(opened.map_err(failed("making", &path))?);
        opened.write_all(text.as_bytes()).map_err(failed("writing", &path))?;
        opened.sync_all().map_err(failed("syncing", &path))?;
        renameat(&self.directory, &new, &self.directory, file.name()).map_err(failed("replacing", &path))?;
        rustix::fs::fsync(&self.directory).map_err(failed("syncing", &self.path))
    }
}

fn failed<E: Into<std::io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> WorkspaceError {
    let path = path.to_owned();
    move |error| WorkspaceError::System { step, path, source: error.into() }
}

/// SHA-256 as hexadecimal digits.
fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Files are made where they are missing, and what is there is never touched.
    #[test]
    fn what_is_there_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let workspaces = Workspaces::new(directory.path().join("agents"));
        assert_eq!(workspaces.prepare("main").expect("it is made"), BootstrapFile::ALL);
        let soul = directory.path().join("agents/main/workspace/SOUL.md");
        std::fs::write(&soul, "mine").expect("it is written");
        std::fs::remove_file(soul.with_file_name("USER.md")).expect("it is removed");
        assert_eq!(workspaces.prepare("main").expect("it is made"), [BootstrapFile::User]);
        let text = |file| workspaces.get("main", file).expect("it is read").expect("it is there").text;
        assert_eq!(text(BootstrapFile::Soul), "mine");
        assert_eq!(text(BootstrapFile::Identity), BootstrapFile::Identity.first_text("main"));
        assert_eq!(workspaces.get("other", BootstrapFile::Soul).expect("it is read"), None);
    }

    /// A file is replaced only if it is what the writer has seen; the hash is that of the known algorithm.
    #[test]
    fn a_hash_guards_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let workspaces = Workspaces::new(directory.path().join("agents"));
        let file = BootstrapFile::Tools;
        let first = workspaces.set("main", file, "abc", None).expect("it is written");
        assert_eq!(first, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let second =
            workspaces.set("main", file, "abcd", Some(&first.to_uppercase())).expect("it is written");
        let Err(WorkspaceError::Changed { found, expected, .. }) =
            workspaces.set("main", file, "lost", Some(&first))
        else {
            panic!("a file that has changed was replaced")
        };
        assert_eq!((found, expected), (Some(second.clone()), first.clone()));
        let Err(WorkspaceError::Changed { found: None, .. }) =
            workspaces.set("main", BootstrapFile::Soul, "lost", Some(&first))
        else {
            panic!("a file that is missing has a hash")
        };
        let read = workspaces.get("main", file).expect("it is read").expect("it is there");
        assert_eq!((read.text.as_str(), read.hash), ("abcd", second));
        let names: Vec<_> = std::fs::read_dir(directory.path().join("agents/main/workspace"))
            .expect("it is listed")
            .map(|entry| entry.expect("it is listed").file_name())
            .collect();
        assert_eq!(names, ["TOOLS.md"]);
    }

    /// Whatever an agent puts in the place of a file, nothing outside of the workspace is read or written.
    #[test]
    fn nothing_leads_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let agents = directory.path().join("agents");
        let workspaces = Workspaces::new(agents.clone());
        workspaces.prepare("main").expect("it is made");
        let workspace = agents.join("main/workspace");
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "secret").expect("it is written");

        for file in BootstrapFile::ALL {
            let path = workspace.join(file.name());
            std::fs::remove_file(&path).expect("it is removed");
            symlink(&secret, &path).expect("it is linked");
            let Err(WorkspaceError::NotPlain { path: named }) = workspaces.get("main", file) else {
                panic!("{} was followed", file.name())
            };
            assert_eq!(named, path);
        }
        assert!(workspaces.list("main").expect("it is listed").iter().all(|summary| summary.found.is_none()));
        assert_eq!(workspaces.prepare("main").expect("links are there"), []);
        workspaces.set("main", BootstrapFile::Soul, "new", None).expect("the link is replaced");
        assert_eq!(std::fs::read_to_string(&secret).expect("it is read"), "secret");
        assert!(workspace.join("SOUL.md").symlink_metadata().expect("it is there").is_file());

        let pipe = workspace.join("USER.md");
        std::fs::remove_file(&pipe).expect("it is removed");
        rustix::fs::mkfifoat(CWD, &pipe, Mode::from_raw_mode(0o600)).expect("a pipe");
        assert!(matches!(workspaces.get("main", BootstrapFile::User), Err(WorkspaceError::NotPlain { .. })));

        std::fs::create_dir_all(agents.join("other")).expect("it is made");
        symlink(&workspace, agents.join("other/workspace")).expect("it is linked");
        symlink(agents.join("main"), agents.join("third")).expect("it is linked");
        for agent in ["other", "third"] {
            assert!(matches!(workspaces.list(agent), Err(WorkspaceError::NotPlain { .. })), "{agent}");
        }
        for agent in ["../main", "", ".", "a/b"] {
            assert!(matches!(workspaces.list(agent), Err(WorkspaceError::Agent(_))), "{agent}");
        }
    }

    /// Names are a closed list, sizes have a limit, settings are JSON.
    #[test]
    fn what_is_no_such_file_is_refused() {
        for file in BootstrapFile::ALL {
            assert_eq!(BootstrapFile::from_name(file.name()), Some(file));
        }
        for name in ["soul.md", "../SOUL.md", "SOUL.md\0", "NOTES.md", ""] {
            assert_eq!(BootstrapFile::from_name(name), None, "{name}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let workspaces = Workspaces::new(directory.path().join("agents"));
        let most = "x".repeat(usize::try_from(FILE_BYTES_MAX).expect("it fits"));
        workspaces.set("main", BootstrapFile::Soul, &most, None).expect("it is just small enough");
        let more = format!("{most}x");
        let refused = workspaces.set("main", BootstrapFile::Soul, &more, None);
        assert!(
            matches!(refused, Err(WorkspaceError::TooLarge { found, .. }) if found == FILE_BYTES_MAX + 1)
        );
        std::fs::write(directory.path().join("agents/main/workspace/USER.md"), more).expect("it is written");
        let refused = workspaces.get("main", BootstrapFile::User);
        assert!(
            matches!(refused, Err(WorkspaceError::TooLarge { found, .. }) if found == FILE_BYTES_MAX + 1)
        );
        for bad in ["", "[]", "{\"a\":}"] {
            let refused = workspaces.set("main", BootstrapFile::Config, bad, None);
            assert!(matches!(refused, Err(WorkspaceError::NotJson { .. })), "{bad}");
        }
        workspaces.set("main", BootstrapFile::Config, "{\"model\": \"m\"}", None).expect("it is JSON");
    }
}
