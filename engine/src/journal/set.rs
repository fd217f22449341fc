//! The directory of the journal: which set of logs is the current one.
//!
//! A set is a directory with one log per shard. If the number of shards changes, the entries are read from the old set
//! and written to a new one; [`Pending::commit`] then makes that the current one by renaming a manifest over the
//! other. Until then the old set is untouched, and a crash leaves it the current one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// A reader refuses a manifest of another version.
pub const MANIFEST_VERSION: u32 = 1;
/// Name of the manifest in the directory of the journal.
pub const MANIFEST_NAME: &str = "current";
/// First word of the manifest.
pub const MANIFEST_MAGIC: &str = "openclaw-journal";
/// The largest manifest.
pub const MANIFEST_BYTES_MAX: usize = 4096;

const MANIFEST_NEW: &str = "current.new";

/// Why the directory of the journal cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The system refuses something.
    #[error("{action} {} failed", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is damaged.
    #[error("the manifest {} has {found:?}, expected {expected}", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// The line.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A newer version has written the manifest.
    #[error("the manifest {} has format version {found}, this build reads {MANIFEST_VERSION}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The manifest names a set that is not there.
    #[error("the set {} that the manifest names is missing", path.display())]
    SetMissing {
        /// Which directory.
        path: PathBuf,
    },
    /// There are logs, but no manifest says that they are current.
    #[error("{} holds logs, but there is no manifest that names it", path.display())]
    ManifestMissing {
        /// Which directory.
        path: PathBuf,
    },
}

/// A set of logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Set {
    root: PathBuf,
    number: u32,
    shard_count: usize,
}

impl Set {
    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.root.join(set_name(self.number))
    }

    /// How many logs it has.
    pub fn shard_count(&self) -> usize {
        self.shard_count
    }

    fn manifest(&self) -> String {
        let name = set_name(self.number);
        let text = format!("{MANIFEST_MAGIC} {MANIFEST_VERSION}\nshards {}\nset {name}\n", self.shard_count);
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum {checksum:08x}\n")
    }
}

/// The directory of one log of a set.
pub fn log_directory(set: &Path, shard: usize) -> PathBuf {
    set.join(format!("shard-{shard:02}"))
}

/// A new set that is not the current one yet.
#[derive(Debug)]
pub struct Pending {
    old: Option<Set>,
    new: Set,
}

/// What was found.
#[derive(Debug)]
pub enum Opened {
    /// The current set has the right number of logs: go on in it.
    Current(Set),
    /// Recover from the old set, if there is one, write what is needed to the new one, and commit.
    New(Pending),
}

/// Opens the directory of the journal for so many shards. Removes what an interrupted change has left behind.
pub fn open(root: &Path, shard_count: usize) -> Result<Opened, SetError> {
    let writable = rustix::fs::access(root, Access::WRITE_OK | Access::EXEC_OK);
    writable.map_err(|error| system("writing to", root, error))?;
    let current = read_manifest(root)?;
    if let Some(set) = &current
        && !set.directory().is_dir()
    {
        return Err(SetError::SetMissing { path: set.directory() });
    }
    let mut number_max = current.as_ref().map_or(0, |set| set.number);
    for number in set_numbers(root)? {
        let path = root.join(set_name(number));
        match &current {
            Some(set) if set.number == number => continue,
            None if holds_logs(&path)? => return Err(SetError::ManifestMissing { path }),
            _ => {}
        }
        number_max = number_max.max(number);
        std::fs::remove_dir_all(&path).map_err(|error| system("removing", &path, error))?;
    }
    match current {
        Some(set) if set.shard_count == shard_count => Ok(Opened::Current(set)),
        old => {
            let new = Set { root: root.to_owned(), number: number_max + 1, shard_count };
            let path = new.directory();
            std::fs::create_dir(&path).map_err(|error| system("creating", &path, error))?;
            sync_directory(root)?;
            Ok(Opened::New(Pending { old, new }))
        }
    }
}

impl Pending {
    /// The set that is still the current one; none if this is the first.
    pub fn old(&self) -> Option<&Set> {
        self.old.as_ref()
    }

    /// The set that is going to be.
    pub fn new_set(&self) -> &Set {
        &self.new
    }

    /// Makes the new set the current one, and removes the old one. What was written to the new one has to be synced
    /// before.
    pub fn commit(self) -> Result<Set, SetError> {
        let Set { root, .. } = &self.new;
        let (path, new_path) = (root.join(MANIFEST_NAME), root.join(MANIFEST_NEW));
        sync_directory(&self.new.directory())?;
        let write = || {
            let mut file = std::fs::File::create(&new_path)?;
            io::Write::write_all(&mut file, self.new.manifest().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| system("writing", &new_path, error))?;
        std::fs::rename(&new_path, &path).map_err(|error| system("renaming", &new_path, error))?;
        sync_directory(root)?;
        if let Some(old) = &self.old {
            let path = old.directory();
            std::fs::remove_dir_all(&path).map_err(|error| system("removing", &path, error))?;
        }
        Ok(self.new)
    }
}

fn set_name(number: u32) -> String {
    format!("g{number:06}")
}

fn set_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix('g')?.parse().ok()?;
    (set_name(number) == name).then_some(number)
}

fn set_numbers(root: &Path) -> Result<Vec<u32>, SetError> {
    let failed = |error: io::Error| system("listing", root, error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        numbers.extend(name.to_str().and_then(set_number));
    }
    Ok(numbers)
}

/// Whether a set has files, and not only directories.
fn holds_logs(set: &Path) -> Result<bool, SetError> {
    for shard in std::fs::read_dir(set).map_err(|error| system("listing", set, error))? {
        let shard = shard.map_err(|error| system("listing", set, error))?.path();
        let files = std::fs::read_dir(&shard).map_err(|error| system("listing", &shard, error))?;
        let is_log = |path: PathBuf| path.extension().is_some_and(|extension| extension == "log");
        if files.flatten().any(|file| is_log(file.path())) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_manifest(root: &Path) -> Result<Option<Set>, SetError> {
    let path = root.join(MANIFEST_NAME);
    let file = match std::fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| system("opening", &path, error))?,
    };
    let mut bytes = Vec::new();
    let read = file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| system("reading", &path, error))?;
    parse_manifest(root, &path, &bytes).map(Some)
}

fn parse_manifest(root: &Path, path: &Path, bytes: &[u8]) -> Result<Set, SetError> {
    let shown = &bytes[..bytes.len().min(MANIFEST_BYTES_MAX)];
    let text = String::from_utf8_lossy(shown);
    let mut lines = text.lines();
    let mut value = |key: &str, expected| {
        let line = lines.next().unwrap_or_default();
        let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
        let found = line.to_owned();
        value.map(str::to_owned).ok_or(SetError::Manifest { path: path.to_owned(), found, expected })
    };
    let wrong =
        |found: &str, expected| SetError::Manifest { path: path.to_owned(), found: found.into(), expected };
    let version = value(MANIFEST_MAGIC, "the format version")?;
    let version: u32 = version.parse().map_err(|_| wrong(&version, "the format version"))?;
    if version != MANIFEST_VERSION {
        return Err(SetError::Version { path: path.to_owned(), found: version });
    }
    let shards = value("shards", "the number of shards")?;
    let name = value("set", "the name of the set")?;
    let checksum = value("checksum", "the checksum")?;
    let shard_count = shards.parse().map_err(|_| wrong(&shards, "the number of shards"))?;
    let number = set_number(&name).ok_or_else(|| wrong(&name, "the name of the set"))?;
    let set = Set { root: root.to_owned(), number, shard_count };
    // Compared as a whole: nothing else may be in the file, and the checksum has to be right.
    if set.manifest().as_bytes() != bytes {
        return Err(wrong(&checksum, "the checksum of the lines above"));
    }
    Ok(set)
}

fn sync_directory(path: &Path) -> Result<(), SetError> {
    let opened = std::fs::File::open(path).and_then(|directory| directory.sync_all());
    opened.map_err(|error| system("syncing", path, error))
}

fn system(action: &'static str, path: &Path, error: impl Into<io::Error>) -> SetError {
    SetError::System { action, path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(root: &Path, shard_count: usize) -> Pending {
        match open(root, shard_count).unwrap() {
            Opened::New(pending) => pending,
            Opened::Current(set) => panic!("{set:?}"),
        }
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(root).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A set becomes the current one by its commit only; one that never did is removed; the old one is kept until then
    /// and removed after it.
    #[test]
    fn sets_follow_each_other() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        drop(pending(root, 4));
        let first = pending(root, 4);
        assert_eq!((first.old(), names(root)), (None, vec!["g000002".to_owned()]));
        let first = first.commit().unwrap();
        std::fs::create_dir(log_directory(&first.directory(), 0)).unwrap();
        assert!(matches!(open(root, 4).unwrap(), Opened::Current(set) if set == first));
        drop(pending(root, 8));
        assert_eq!(names(root), ["current", "g000002", "g000003"]);
        let second = pending(root, 8);
        assert_eq!((second.old(), second.new_set().shard_count()), (Some(&first), 8));
        assert_eq!(names(root), ["current", "g000002", "g000004"]);
        let second = second.commit().unwrap();
        assert_eq!(names(root), ["current", "g000004"]);
        assert!(matches!(open(root, 8).unwrap(), Opened::Current(set) if set == second));
    }

    /// Whatever is wrong is a named error, and everything stays as it was.
    #[test]
    fn damage_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let set = pending(root, 4).commit().unwrap();
        let path = root.join(MANIFEST_NAME);
        let good = std::fs::read_to_string(&path).unwrap();
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = open(root, 4).unwrap_err();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert!(set.directory().is_dir());
            error
        };
        for byte in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[byte] ^= 1;
            let error = refused(std::str::from_utf8(&bytes).unwrap());
            assert!(matches!(error, SetError::Manifest { .. } | SetError::Version { .. }), "{error}");
        }
        let newer = good.replace("openclaw-journal 1", "openclaw-journal 2");
        assert!(matches!(refused(&newer), SetError::Version { found: 2, .. }));
        assert!(matches!(refused(""), SetError::Manifest { .. }));
        assert!(matches!(refused(&format!("{good}more\n")), SetError::Manifest { .. }));
        std::fs::remove_file(&path).unwrap();
        let log = log_directory(&set.directory(), 0);
        std::fs::create_dir(&log).unwrap();
        std::fs::write(log.join("00000001.log"), "").unwrap();
        assert!(matches!(open(root, 4).unwrap_err(), SetError::ManifestMissing { .. }));
        std::fs::write(&path, &good).unwrap();
        std::fs::remove_dir_all(set.directory()).unwrap();
        assert!(matches!(open(root, 4).unwrap_err(), SetError::SetMissing { .. }));
        let missing = root.join("missing");
        assert!(matches!(open(&missing, 4).unwrap_err(), SetError::System { action: "writing to", .. }));
    }
}
