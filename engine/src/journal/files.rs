//! The directory of a log, and the executor that does everything by plain system calls.
//!
//! A file is open while it is written, and closed when another takes its place. Creating, renaming and removing are
//! rare, so also the other executor does them here.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, Advice, AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use shm_transport::doorbell::silence;

use super::disk::{Completion, DiskError, Operation, Part, SegmentName};
use super::recovery::Reader;
use super::segment::{file_name, file_number};
use super::writer::{Lane, UnusedFile};

/// Name of the directory of the id log in that of the entries.
const IDS_FOLDER: &str = "ids";
/// Name of the file that says that a write or sync has failed.
const FAILED_MARK: &str = "failed";
/// Bytes that are written again at once.
const REWRITE_BYTES: usize = 1 << 20;
/// Files of one log that are open at the same time.
pub(super) const OPEN_FILES_MAX: usize = 4;
/// How often a call that was interrupted is repeated.
pub(super) const INTERRUPTED_MAX: u32 = 1000;

/// What executes the operations of all logs.
pub(super) trait Executor: std::fmt::Debug {
    /// Takes an operation. Those of one lane of a log are executed in the order of their submission.
    fn submit(&mut self, log: usize, lane: Lane, operation: Operation);

    /// Starts everything that was submitted. Returns as soon as there are completions, the bell has rung, or the time
    /// is up; none means that it may take forever.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// The next completion, and of which lane of which log. Those of one lane come in the order of submission.
    fn take(&mut self) -> Option<(usize, Lane, Completion)>;
}

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the directory {} of the journal cannot be used", path.display())]
pub struct DirectoryError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The files of a shard.
#[derive(Debug)]
pub struct LogDirectory {
    entries: OwnedFd,
    ids: OwnedFd,
}

impl LogDirectory {
    /// Opens the directory of a shard; makes it if there is none.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let entries = open_folder(path)?;
        let ids = open_folder(&path.join(IDS_FOLDER))?;
        Ok(Self { entries, ids })
    }

    /// Has everything that lies here on disk. After a recovery, before anybody is told of what was found: it may be in the
    /// page cache only, of a process that was killed before its sync.
    pub fn sync_all(&mut self) -> io::Result<()> {
        for part in [Part::Entries, Part::Ids] {
            for file in self.list(part)? {
                let segment = SegmentName { part, number: file.number };
                rustix::fs::fdatasync(self.open_segment(segment, OFlags::RDONLY)?)?;
            }
            rustix::fs::fsync(self.folder(part))?;
        }
        Ok(())
    }

    /// Notes that a write or sync has failed. The kernel may then count pages as clean that are not on disk, so that no
    /// later sync says anything about them, also in the next run.
    pub fn note_failure(&self) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mark = rustix::fs::openat(&self.entries, FAILED_MARK, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::fsync(mark)?;
        Ok(rustix::fs::fsync(&self.entries)?)
    }

    /// Whether a failure was noted.
    pub fn has_failed(&self) -> io::Result<bool> {
        match rustix::fs::accessat(&self.entries, FAILED_MARK, Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// After a failure: writes every file again as it is read, so that a sync says something about all of it, and has it
    /// on disk.
    pub fn write_again(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; REWRITE_BYTES];
        for part in [Part::Entries, Part::Ids] {
            for file in self.list(part)? {
                let segment = SegmentName { part, number: file.number };
                let file = std::fs::File::from(self.open_segment(segment, OFlags::RDWR)?);
                let mut offset = 0;
                loop {
                    let read = file.read_at(&mut buffer, offset)?;
                    if read == 0 {
                        break;
                    }
                    file.write_all_at(&buffer[..read], offset)?;
                    offset += read as u64;
                }
            }
        }
        self.sync_all()?;
        rustix::fs::unlinkat(&self.entries, FAILED_MARK, AtFlags::empty())?;
        Ok(rustix::fs::fsync(&self.entries)?)
    }

    fn folder(&self, part: Part) -> BorrowedFd<'_> {
        match part {
            Part::Entries => self.entries.as_fd(),
            Part::Ids => self.ids.as_fd(),
        }
    }

    fn open_segment(&self, segment: SegmentName, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mode = Mode::RUSR | Mode::WUSR;
        let name = file_name(segment.number);
        rustix::fs::openat(self.folder(segment.part), name, flags | OFlags::CLOEXEC, mode)
    }

    /// Does what is neither a write nor a sync of a segment.
    pub(super) fn change(&self, operation: &Operation) -> rustix::io::Result<()> {
        let names = |from: SegmentName, to: SegmentName| (file_name(from.number), file_name(to.number));
        match *operation {
            Operation::Create { segment, bytes } => self.create(segment, bytes),
            Operation::Recycle { from, to } => {
                let folder = self.folder(from.part);
                let (from, to) = names(from, to);
                rustix::fs::renameat(folder, from, folder, to)
            }
            Operation::Remove { segment } => {
                let name = file_name(segment.number);
                rustix::fs::unlinkat(self.folder(segment.part), name, AtFlags::empty())
            }
            Operation::SyncDirectory { part } => rustix::fs::fsync(self.folder(part)),
            Operation::Write { .. } | Operation::Sync { .. } => Err(Errno::INVAL),
        }
    }

    fn create(&self, segment: SegmentName, bytes: u64) -> rustix::io::Result<()> {
        let file = self.open_segment(segment, OFlags::RDWR | OFlags::CREATE)?;
        let before = rustix::fs::fstat(&file)?.st_size;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP) => {
                // Then space is only found out about by writing, and a write without it is repeated.
                rustix::fs::ftruncate(&file, bytes.max(u64::try_from(before).unwrap_or(0)))
            }
            Err(error) => {
                // What it got before there was no more would be missing elsewhere. Its own result says nothing new.
                let _ = match u64::try_from(before) {
                    Ok(before @ 1..) => rustix::fs::ftruncate(&file, before),
                    _ => self.change(&Operation::Remove { segment }),
                };
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, DirectoryError> {
    let failed = |error: Errno| DirectoryError { path: path.to_owned(), source: error.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdir(path, Mode::RWXU).map_err(failed)?;
            let parent = path.parent().unwrap_or(Path::new("."));
            let parent = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed)?;
            rustix::fs::fsync(&parent).map_err(failed)?;
            rustix::fs::open(path, flags, Mode::empty()).map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

/// What an error of a system call means for a log.
pub(super) fn disk_error(error: Errno) -> DiskError {
    match error {
        Errno::NOSPC | Errno::DQUOT => DiskError::NoSpace,
        other => DiskError::Failed { errno: other.raw_os_error() },
    }
}

impl Reader for LogDirectory {
    fn list(&mut self, part: Part) -> io::Result<Vec<UnusedFile>> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.folder(part))? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().ok().and_then(file_number) else { continue };
            let stat = rustix::fs::statat(self.folder(part), entry.file_name(), AtFlags::empty())?;
            files.push(UnusedFile { number, bytes: u64::try_from(stat.st_size).unwrap_or(0) });
        }
        Ok(files)
    }

    fn read_at(&mut self, segment: SegmentName, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.open_segment(segment, OFlags::RDONLY)?;
        let mut filled = 0;
        let mut interrupted = 0;
        while filled < into.len() {
            match rustix::io::pread(&file, &mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) if interrupted < INTERRUPTED_MAX => interrupted += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    fn will_read(&mut self, segment: SegmentName) {
        // Advice only: without it reading is slower, and an error is met again by the reading.
        let _ = self
            .open_segment(segment, OFlags::RDONLY)
            .and_then(|file| rustix::fs::fadvise(&file, 0, None, Advice::WillNeed));
    }
}

/// The few files of a log that are open for writing.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    files: [Option<(SegmentName, OwnedFd)>; OPEN_FILES_MAX],
    next: usize,
}

/// Where an open file is, and whether it has just been opened.
pub(super) struct Opened {
    pub(super) slot: usize,
    pub(super) fresh: bool,
}

impl OpenFiles {
    /// Opens a segment in place of the one opened longest ago, unless it is open.
    pub(super) fn open(
        &mut self,
        directory: &LogDirectory,
        segment: SegmentName,
        is_busy: impl Fn(usize) -> bool,
    ) -> rustix::io::Result<Opened> {
        let open = self.files.iter().position(|file| file.as_ref().is_some_and(|(name, _)| *name == segment));
        if let Some(slot) = open {
            return Ok(Opened { slot, fresh: false });
        }
        let file = directory.open_segment(segment, OFlags::RDWR)?;
        let free =
            (self.next..).map(|slot| slot % OPEN_FILES_MAX).take(OPEN_FILES_MAX).find(|&slot| !is_busy(slot));
        let slot = free.ok_or(Errno::MFILE)?;
        self.next = (slot + 1) % OPEN_FILES_MAX;
        self.files[slot] = Some((segment, file));
        Ok(Opened { slot, fresh: true })
    }

    pub(super) fn file(&self, slot: usize) -> Option<&OwnedFd> {
        self.files.get(slot)?.as_ref().map(|(_, file)| file)
    }

    /// Closes a segment that gets another name, or none. Says where it was.
    pub(super) fn close(&mut self, segment: SegmentName) -> Option<usize> {
        let slot = self.files.iter().position(|file| file.as_ref().is_some_and(|(name, _)| *name == segment));
        if let Some(slot) = slot {
            self.files[slot] = None;
        }
        slot
    }
}

/// The segment that an operation takes away under its name.
pub(super) fn taken_away(operation: &Operation) -> Option<SegmentName> {
    match *operation {
        Operation::Recycle { from, .. } => Some(from),
        Operation::Remove { segment } => Some(segment),
        _ => None,
    }
}

#[derive(Debug)]
struct Log {
    directory: LogDirectory,
    open: OpenFiles,
    /// A write in the front has failed, and the sync behind it, if one follows, is not tried.
    write_failed: bool,
}

/// Executes each operation while it is submitted.
#[derive(Debug)]
pub(super) struct FilesExecutor {
    logs: Vec<Log>,
    // Arc: those who ring it hold it, too.
    bell: Arc<OwnedFd>,
    done: VecDeque<(usize, Lane, Completion)>,
}

impl FilesExecutor {
    pub(super) fn new(directories: Vec<LogDirectory>, bell: Arc<OwnedFd>) -> Self {
        let log = |directory| Log { directory, open: OpenFiles::default(), write_failed: false };
        Self { logs: directories.into_iter().map(log).collect(), bell, done: VecDeque::new() }
    }
}

impl Log {
    fn execute(&mut self, lane: Lane, operation: Operation) -> Completion {
        let after_failure = lane == Lane::Front && std::mem::take(&mut self.write_failed);
        match operation {
            Operation::Sync { .. } if after_failure => Completion::of(Err(DiskError::Skipped)),
            Operation::Sync { segment } => Completion::of(self.sync(segment).map_err(disk_error)),
            Operation::Write { segment, offset, bytes } => {
                let result = self.write(segment, offset, &bytes);
                self.write_failed |= lane == Lane::Front && result.is_err();
                Completion { result: result.map_err(disk_error), bytes }
            }
            rare => {
                if let Some(segment) = taken_away(&rare) {
                    self.open.close(segment);
                }
                Completion::of(self.directory.change(&rare).map_err(disk_error))
            }
        }
    }

    fn sync(&mut self, segment: SegmentName) -> rustix::io::Result<()> {
        let Opened { slot, .. } = self.open.open(&self.directory, segment, |_| false)?;
        let file = self.open.file(slot).ok_or(Errno::BADF)?;
        // Not repeated when interrupted: that would hide what the first call was told.
        rustix::fs::fdatasync(file)
    }

    fn write(&mut self, segment: SegmentName, offset: u64, bytes: &[u8]) -> rustix::io::Result<()> {
        let Opened { slot, .. } = self.open.open(&self.directory, segment, |_| false)?;
        let file = self.open.file(slot).ok_or(Errno::BADF)?;
        let (mut written, mut interrupted) = (0, 0);
        while written < bytes.len() {
            match rustix::io::pwrite(file, &bytes[written..], offset + written as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => written += count,
                Err(Errno::INTR | Errno::AGAIN) if interrupted < INTERRUPTED_MAX => interrupted += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Executor for FilesExecutor {
    fn submit(&mut self, log: usize, lane: Lane, operation: Operation) {
        let completion = self.logs[log].execute(lane, operation);
        self.done.push_back((log, lane, completion));
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.done.is_empty() || timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Ok(());
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&*self.bell, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        silence(&*self.bell);
        Ok(())
    }

    fn take(&mut self) -> Option<(usize, Lane, Completion)> {
        self.done.pop_front()
    }
}
