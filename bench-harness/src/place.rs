//! Where files of a run lie: a directory of its own on a named file system, gone when the run ends.

use std::io;
use std::path::{Path, PathBuf};

/// Numbers of file systems, as `statfs` gives them.
const FILE_SYSTEMS: [(u64, &str); 8] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0x794c_7630, "overlayfs"),
    (0x0102_1994, "tmpfs"),
];

/// A directory that is removed with all that is in it.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    next: std::cell::Cell<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed harms no figure; the name says whose it was.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Place {
    /// A new directory in `parent`; without one beside this program, which is on a disk as a rule. Says where it is.
    pub fn make(parent: Option<&Path>) -> io::Result<Self> {
        let beside = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
        let parent = parent.unwrap_or(&beside);
        let directory = parent.join(format!("bench-harness-{}", std::process::id()));
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", directory.display()));
        std::fs::create_dir_all(&directory).map_err(named)?;
        let place = Self { directory, next: std::cell::Cell::new(0) };
        println!("files: on {}", place.file_system()?);
        if place.file_system()? == "tmpfs" {
            println!(
                "a tmpfs syncs to nothing: figures of durable messages say nothing here, use --directory"
            );
        }
        Ok(place)
    }

    /// The name of its file system, or its number.
    pub fn file_system(&self) -> io::Result<String> {
        let number = u64::try_from(rustix::fs::statfs(&self.directory)?.f_type).unwrap_or(0);
        let known = FILE_SYSTEMS.iter().find(|(known, _)| *known == number);
        Ok(known.map_or_else(|| format!("{number:#x}"), |(_, name)| (*name).to_owned()))
    }

    /// A new directory in it.
    pub fn next(&self) -> io::Result<PathBuf> {
        self.next.set(self.next.get() + 1);
        let path = self.directory.join(self.next.get().to_string());
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    Ok(files)
}

/// The gateway to measure: this one, or the one beside this program.
pub fn openclaw(given: Option<&Path>) -> io::Result<PathBuf> {
    match given {
        Some(path) => path.canonicalize(),
        None => Ok(std::env::current_exe()?.with_file_name("openclaw")),
    }
}
