//! The log file: `gateway.log`, and the ones before it under numbers, oldest last. A few of bounded size.
//!
//! Lines have a place in one row of bytes, however many files they lie in, so that whoever follows the log loses nothing
//! when a file is put away. The row begins with the newest file that an earlier run has put away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest file.
pub const FILE_BYTES_MAX: u64 = 8 << 20;
/// How many there are at most, with the one that is written.
pub const FILES_MAX: usize = 4;

const _: () = assert!(FILES_MAX >= 2, "the file before the one that is written can be read");

/// Where the log lies. Shared by the thread that writes it and whoever reads its end.
#[derive(Debug)]
pub struct LogPlace {
    path: PathBuf,
    /// The place in the row at which the present file begins. Held while files are renamed, and while they are opened
    /// to be read.
    base: Mutex<u64>,
}

/// Files as they were at one moment, open.
#[derive(Debug)]
pub struct Opened {
    /// The file before the present one, if there is one, and where it begins.
    pub previous: Option<(File, u64)>,
    /// The present file, and where it begins.
    pub present: (File, u64),
}

impl LogPlace {
    /// Of a log that nobody writes: the gateway has ended.
    pub fn of_ended(path: &Path) -> io::Result<Self> {
        fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), base: Mutex::new(begin_of_present(path)?) })
    }

    /// The present file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the end of the log.
    pub fn open(&self) -> io::Result<Opened> {
        let base = self.lock();
        let present = (File::open(&self.path)?, *base);
        let previous = match File::open(numbered(&self.path, 1)) {
            Ok(file) => {
                let begin = base.saturating_sub(file.metadata()?.len());
                Some((file, begin))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Opened { previous, present })
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        // A number, and files that are renamed one by one: nothing that a panic could leave half done.
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that is written.
#[derive(Debug)]
pub struct LogFile {
    // Arc: whoever reads the end of the log has it too.
    place: Arc<LogPlace>,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Goes on with the file that is there, or begins one, for its owner only.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<(Self, Arc<LogPlace>)> {
        let file = begin(path)?;
        let bytes = file.metadata()?.len();
        let base = begin_of_present(path)?;
        let place = Arc::new(LogPlace { path: path.to_owned(), base: Mutex::new(base) });
        Ok((Self { place: Arc::clone(&place), file, bytes, bytes_max }, place))
    }

    /// Puts the file away and begins the next one. The oldest is gone with that.
    fn put_away(&mut self) -> io::Result<()> {
        let path = &self.place.path;
        let mut base = self.place.lock();
        for number in (1..FILES_MAX - 1).rev() {
            rename(&numbered(path, number), &numbered(path, number + 1))?;
        }
        rename(path, &numbered(path, 1))?;
        *base += self.bytes;
        self.bytes = 0;
        self.file = begin(path)?;
        Ok(())
    }
}

impl Write for LogFile {
    /// Takes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes.saturating_add(lines.len() as u64) > self.bytes_max {
            self.put_away()?;
        }
        match self.file.write_all(lines) {
            Ok(()) => self.bytes += lines.len() as u64,
            Err(error) => {
                // A part of it may be written.
                self.bytes = self.file.metadata()?.len();
                return Err(error);
            }
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the present file begins, for whoever has not seen the ones before.
fn begin_of_present(path: &Path) -> io::Result<u64> {
    match fs::metadata(numbered(path, 1)) {
        Ok(previous) => Ok(previous.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// A file that is not there has no place to be put to.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are never more files than allowed, none is larger than allowed, the newest lines are in them, and nobody
    /// else may read them. By writing many times as much as is kept, with a gateway that starts anew in between.
    #[test]
    fn what_is_kept_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.log");
        for run in 0..3 {
            let (mut file, _) = LogFile::open(&path, 100).unwrap();
            for line in 0..100 {
                file.write_all(format!("{run} {line:017}\n").as_bytes()).unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap()).collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        let names: Vec<_> = names.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(names, ["gateway.log", "gateway.log.1", "gateway.log.2", "gateway.log.3"]);
        let text: String = names
            .iter()
            .rev()
            .map(|name| {
                let path = directory.path().join(name);
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.len() <= 100, "{name}");
                let mode =
                    std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
                assert_eq!(mode & 0o777, 0o600, "{name}");
                text
            })
            .collect();
        assert!(text.lines().count() >= 15 && text.ends_with("2 00000000000000099\n"), "{text}");
    }
}
