//! What an appender keeps in mind: segments, batches, and operations under way.

use crate::journal::disk::Part;
use crate::time::Moment;

/// What does not change over the life of an appender.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Shape {
    pub(in crate::journal) part: Part,
    pub(in crate::journal) log_index: u32,
    pub(in crate::journal) segment_bytes: u64,
    pub(in crate::journal) salt: u64,
}

/// Where an appender goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::journal) struct Start {
    pub(in crate::journal) number: u64,
    pub(in crate::journal) generation: u32,
    pub(in crate::journal) sequence: u64,
}

/// A segment with records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::journal) struct Extent {
    pub(in crate::journal) number: u64,
    /// Number of the record behind its last one.
    pub(in crate::journal) end: u64,
}

/// The segment that takes the next record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) generation: u32,
    pub(super) offset: u64,
    /// Zero until the first record.
    pub(super) capacity: u64,
}

/// Adjacent records of one segment, written at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) capacity: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) end: u64,
    pub(super) durable: bool,
}

/// An operation under way.
#[derive(Debug)]
pub(super) enum Step {
    Create {
        number: u64,
        bytes: u64,
    },
    SyncDirectory,
    /// Its batch, whose bytes are with the executor.
    Write(Batch, usize),
    Sync(Extent),
    Recycle {
        to: u64,
        from: Unused,
    },
    Remove,
}

/// A change of the directory that is not synced yet (rule 2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Spare(Spare),
    Removal,
}

/// A file that is ready to be begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

/// A file whose records nobody needs any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::journal) struct Unused {
    pub(in crate::journal) number: u64,
    pub(in crate::journal) bytes: u64,
    /// Whether it may be used again; otherwise its space goes back to the disk.
    pub(in crate::journal) reusable: bool,
}

/// Whether the disk has refused something for lack of space, and until when it is not asked again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortage(pub(super) Option<Moment>);

impl Shortage {
    pub(super) fn waits(self, now: Moment) -> bool {
        self.0.is_some_and(|until| now < until)
    }
}

/// Where a record has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::journal) struct Place {
    pub(in crate::journal) number: u64,
    pub(in crate::journal) capacity: u64,
    pub(in crate::journal) sequence: u64,
}
