//! A disk in memory that can lose power, fill up and fail: what a simulation puts under a log.
//!
//! Pure and deterministic: whatever is left to chance is asked of the caller, as a number below a bound.
//!
//! # What it models
//!
//! - What is written is readable at once, and survives the death of the process. A write during which the process dies is
//!   done up to some page.
//! - A sync makes the pages of 4 KiB that were written before it, and the size of the file, survive a loss of power.
//!   Of the other pages a loss of power keeps any, loses any, and tears any between sectors of 512 bytes.
//! - A file that was created, renamed or removed is so after a loss of power if its directory was synced. Of the
//!   later changes the first few are kept, since file systems log them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::io::Errno;

use super::disk::{Completion, DiskError, Operation, Part, SegmentName};
use super::recovery::Reader;
use super::writer::UnusedFile;

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// A number below the given one, which is at least 1.
pub type Random<'a> = &'a mut dyn FnMut(u64) -> u64;

#[derive(Clone, Debug, Default)]
struct File {
    written: Vec<u8>,
    synced: Vec<u8>,
    /// Pages that were written and not synced.
    dirty: BTreeSet<usize>,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.written.len() < end {
            self.written.resize(end, 0);
        }
        self.written[offset..end].copy_from_slice(bytes);
        if end > offset {
            self.dirty.extend(offset / PAGE_BYTES..=(end - 1) / PAGE_BYTES);
        }
    }

    fn sync(&mut self) {
        self.synced.resize(self.written.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            let range = page * PAGE_BYTES..self.written.len().min((page + 1) * PAGE_BYTES);
            self.synced[range.clone()].copy_from_slice(&self.written[range]);
        }
    }

    fn lose_power(&mut self, random: Random<'_>) {
        if self.synced.len() < self.written.len() && (!self.dirty.is_empty() || random(2) == 0) {
            self.synced.resize(self.written.len(), 0);
        }
        for page in std::mem::take(&mut self.dirty) {
            let choice = random(3);
            for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                let start = page * PAGE_BYTES + sector * SECTOR_BYTES;
                let range = start..self.written.len().min(start + SECTOR_BYTES);
                let kept = choice == 0 || (choice == 1 && random(2) == 0);
                if kept && !range.is_empty() {
                    self.synced[range.clone()].copy_from_slice(&self.written[range]);
                }
            }
        }
        self.written = self.synced.clone();
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Add { name: SegmentName, file: usize },
    Rename { from: SegmentName, to: SegmentName },
    Remove { name: SegmentName },
}

impl Change {
    fn part(self) -> Part {
        match self {
            Self::Add { name, .. } | Self::Remove { name } | Self::Rename { from: name, .. } => name.part,
        }
    }

    fn apply(self, directory: &mut BTreeMap<SegmentName, usize>) {
        match self {
            Self::Add { name, file } => {
                directory.insert(name, file);
            }
            Self::Rename { from, to } => {
                if let Some(file) = directory.remove(&from) {
                    directory.insert(to, file);
                }
            }
            Self::Remove { name } => {
                directory.remove(&name);
            }
        }
    }
}

/// The disk under both logs of a shard.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    files: Vec<File>,
    directory: BTreeMap<SegmentName, usize>,
    synced_directory: BTreeMap<SegmentName, usize>,
    changes: Vec<Change>,
    /// The most bytes that files may take together; none if there is no limit.
    pub bytes_max: Option<u64>,
    /// The next write fails.
    pub fail_next_write: bool,
    /// The next sync of a file fails.
    pub fail_next_sync: bool,
    /// The next write finds no space, although its file has it.
    pub refuse_next_write: bool,
    write_failed: Option<SegmentName>,
}

impl SimulatedDisk {
    /// Does what a log asks for.
    pub fn execute(&mut self, operation: Operation) -> Completion {
        let after_failure = std::mem::take(&mut self.write_failed);
        match operation {
            Operation::Create { segment, bytes } => Completion::of(self.create(segment, bytes)),
            Operation::Write { segment, offset, bytes } => {
                let result = self.write(segment, offset, &bytes);
                self.write_failed = result.is_err().then_some(segment);
                Completion { result, bytes }
            }
            Operation::Sync { segment } if after_failure == Some(segment) => {
                Completion::of(Err(DiskError::Skipped))
            }
            Operation::Sync { segment } => Completion::of(self.sync(segment)),
            Operation::Recycle { from, to } => {
                let known = self.directory.contains_key(&from) && !self.directory.contains_key(&to);
                self.change(Change::Rename { from, to });
                Completion::of(if known { Ok(()) } else { Err(failed(Errno::NOENT)) })
            }
            Operation::Remove { segment } => {
                let known = self.directory.contains_key(&segment);
                self.change(Change::Remove { name: segment });
                Completion::of(if known { Ok(()) } else { Err(failed(Errno::NOENT)) })
            }
            Operation::SyncDirectory { part } => {
                let (synced, later) = self.changes.iter().partition(|change| change.part() == part);
                let (synced, later): (Vec<Change>, Vec<Change>) = (synced, later);
                synced.into_iter().for_each(|change| change.apply(&mut self.synced_directory));
                self.changes = later;
                Completion::of(Ok(()))
            }
        }
    }

    /// Begins what a log asks for, and is killed in the middle of it.
    pub fn interrupt(&mut self, operation: Operation, random: Random<'_>) {
        match operation {
            Operation::Write { segment, offset, bytes } => {
                // Killed between two pages: a page is copied as a whole.
                let end = offset + random(bytes.len() as u64 + 1);
                let whole = if end == offset + bytes.len() as u64 {
                    end
                } else {
                    end / PAGE_BYTES as u64 * PAGE_BYTES as u64
                };
                let done = usize::try_from(whole.saturating_sub(offset)).unwrap_or(usize::MAX);
                let _cannot_be_told = self.write(segment, offset, &bytes[..done]);
            }
            other => {
                if random(2) == 0 {
                    let _cannot_be_told = self.execute(other);
                }
            }
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.directory);
        self.changes.push(change);
    }

    fn create(&mut self, name: SegmentName, bytes: u64) -> Result<(), DiskError> {
        let known = self.directory.get(&name).copied();
        let has = known.map_or(0, |file| self.files[file].written.len() as u64);
        let used: u64 = self.directory.values().map(|&file| self.files[file].written.len() as u64).sum();
        if self.bytes_max.is_some_and(|max| used - has + bytes.max(has) > max) {
            return Err(DiskError::NoSpace);
        }
        let file = known.unwrap_or_else(|| {
            self.files.push(File::default());
            let file = self.files.len() - 1;
            self.change(Change::Add { name, file });
            file
        });
        let bytes = usize::try_from(bytes.max(has)).unwrap_or(usize::MAX);
        self.files[file].written.resize(bytes, 0);
        Ok(())
    }

    fn write(&mut self, name: SegmentName, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if std::mem::take(&mut self.fail_next_write) {
            return Err(failed(Errno::IO));
        }
        if std::mem::take(&mut self.refuse_next_write) {
            return Err(DiskError::NoSpace);
        }
        let Some(&file) = self.directory.get(&name) else { return Err(failed(Errno::NOENT)) };
        self.files[file].write(usize::try_from(offset).unwrap_or(usize::MAX), bytes);
        Ok(())
    }

    fn sync(&mut self, name: SegmentName) -> Result<(), DiskError> {
        let Some(&file) = self.directory.get(&name) else { return Err(failed(Errno::NOENT)) };
        if std::mem::take(&mut self.fail_next_sync) {
            // As the page cache does it: the pages count as clean from now on, and are not on the disk.
            self.files[file].dirty.clear();
            return Err(failed(Errno::IO));
        }
        self.files[file].sync();
        Ok(())
    }

    /// The process is gone; everything written stays.
    pub fn crash_process(&mut self) {
        self.write_failed = None;
        self.fail_next_write = false;
        self.fail_next_sync = false;
        self.refuse_next_write = false;
    }

    /// The power is gone; see the module about what stays.
    pub fn power_loss(&mut self, random: Random<'_>) {
        self.crash_process();
        let kept = random(self.changes.len() as u64 + 1) as usize;
        self.changes.drain(..).take(kept).for_each(|change| change.apply(&mut self.synced_directory));
        self.directory = self.synced_directory.clone();
        for file in &mut self.files {
            file.lose_power(random);
        }
    }

    /// Changes one bit of a file, on the disk and in the cache. `false` if it has no such bit.
    pub fn flip_bit(&mut self, name: SegmentName, bit: u64) -> bool {
        let Some(&file) = self.directory.get(&name) else { return false };
        let (byte, mask) = (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8));
        let File { written, synced, .. } = &mut self.files[file];
        let found = written.get_mut(byte).map(|byte| *byte ^= mask).is_some();
        if let Some(byte) = synced.get_mut(byte) {
            *byte ^= mask;
        }
        found
    }

    /// The contents of a file.
    pub fn contents(&self, name: SegmentName) -> Option<&[u8]> {
        Some(&self.files[*self.directory.get(&name)?].written)
    }

    /// Puts a file in place, synced.
    pub fn put(&mut self, name: SegmentName, contents: Vec<u8>) {
        self.files.push(File { written: contents.clone(), synced: contents, dirty: BTreeSet::new() });
        let file = self.files.len() - 1;
        self.directory.insert(name, file);
        self.synced_directory.insert(name, file);
    }

    /// The files of a log, by number.
    pub fn names(&self, part: Part) -> Vec<SegmentName> {
        self.directory.keys().copied().filter(|name| name.part == part).collect()
    }
}

impl Reader for SimulatedDisk {
    fn list(&mut self, part: Part) -> io::Result<Vec<UnusedFile>> {
        let file = |name: SegmentName| {
            let bytes = self.contents(name).unwrap_or_default().len() as u64;
            UnusedFile { number: name.number, bytes }
        };
        Ok(self.names(part).into_iter().map(file).collect())
    }

    fn read_at(&mut self, segment: SegmentName, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let contents = self.contents(segment).ok_or(io::ErrorKind::NotFound)?;
        let contents =
            usize::try_from(offset).ok().and_then(|offset| contents.get(offset..)).unwrap_or_default();
        let len = contents.len().min(into.len());
        into[..len].copy_from_slice(&contents[..len]);
        Ok(len)
    }

    fn will_read(&mut self, _segment: SegmentName) {}
}

fn failed(errno: Errno) -> DiskError {
    DiskError::Failed { errno: errno.raw_os_error() }
}
