//! The seam between a log and its disk: what a log asks for, as data, and what became of it.
//!
//! A log never touches a file. It hands out [`Operation`]s, whoever executes them answers each with a [`Completion`],
//! in the same order. So a simulated disk can fail, fill up or lose power between any two of them.

use super::segment;

/// The two logs of a shard. Each has a directory of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// The entries.
    Entries,
    /// The ids of messages whose entries are gone.
    Ids,
}

/// Names one segment file of a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentName {
    /// Which of its logs.
    pub part: Part,
    /// Which segment.
    pub number: u64,
}

impl std::fmt::Display for SegmentName {
    /// As a path in the directory of the shard.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let folder = match self.part {
            Part::Entries => "",
            Part::Ids => "ids/",
        };
        write!(formatter, "{folder}{}", segment::file_name(self.number))
    }
}

/// What a log asks of its disk.
#[derive(Debug)]
pub enum Operation {
    /// Make sure that there is such a file with this much space of its own. It may exist, and be smaller.
    Create {
        /// Which.
        segment: SegmentName,
        /// Its size.
        bytes: u64,
    },
    /// Write all of this, at this place.
    Write {
        /// Where.
        segment: SegmentName,
        /// From which byte on.
        offset: u64,
        /// What. Given back with the completion.
        bytes: Vec<u8>,
    },
    /// Make everything written to it survive a loss of power.
    Sync {
        /// Which.
        segment: SegmentName,
    },
    /// Rename a file that is not needed any more to one that is going to be. Its contents stay.
    Recycle {
        /// Its name so far.
        from: SegmentName,
        /// Its new name.
        to: SegmentName,
    },
    /// Remove a file.
    Remove {
        /// Which.
        segment: SegmentName,
    },
    /// Make creations, renames and removals survive a loss of power.
    SyncDirectory {
        /// Of which log.
        part: Part,
    },
}

/// Why an operation did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no space; there may be some later.
    #[error("no space left")]
    NoSpace,
    /// The disk failed.
    #[error("the disk failed with error number {errno}")]
    Failed {
        /// What the kernel said.
        errno: i32,
    },
    /// It was not tried, since the operation before it failed.
    #[error("not tried, since the operation before it failed")]
    Skipped,
}

/// What became of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Whether all of it was done.
    pub result: Result<(), DiskError>,
    /// The buffer of a write; empty otherwise.
    pub bytes: Vec<u8>,
}

impl Completion {
    /// Of an operation without a buffer.
    pub fn of(result: Result<(), DiskError>) -> Self {
        Self { result, bytes: Vec::new() }
    }
}
