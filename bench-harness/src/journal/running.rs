//! A journal thread with one log, wired as the gateway wires it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use engine::journal::thread::{self, ExecutorChoice, JournalHandle, JournalOptions};
use engine::journal::writer::LogResume;
use shm_transport::doorbell::eventfd;
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link};
use shm_transport::segment::in_process;

/// As in the gateway: capacity of the ring, what may wait for it, size of a segment, and how long ids are kept.
const RING_BYTES: u64 = 1 << 20;
const BACKLOG_BYTES_MAX: usize = 256 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;
const IDS_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
const IDS_MAX: u64 = 10_000_000;

/// What executes the operations of a journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Executor {
    /// A ring of the kernel.
    Uring,
    /// Plain system calls.
    Files,
}

impl Executor {
    fn choice(self) -> ExecutorChoice {
        match self {
            Self::Uring => ExecutorChoice::Uring,
            Self::Files => ExecutorChoice::Files,
        }
    }
}

/// Starts the thread on an empty directory. `own` is the bell of the link's other end, which is returned.
pub fn start(
    directory: &Path,
    executor: Option<Executor>,
    own: &Arc<OwnedFd>,
) -> io::Result<(JournalHandle, Link)> {
    let geometry = Geometry::new(RING_BYTES).map_err(io::Error::other)?;
    let limits = Limits { backlog_bytes_max: BACKLOG_BYTES_MAX, ..Limits::default() };
    let bell = Arc::new(eventfd()?);
    let (ours, theirs) = in_process(geometry, own, &bell, limits)?;
    let options = JournalOptions {
        directory: directory.to_owned(),
        segment_bytes: SEGMENT_BYTES,
        ids_keep: IDS_KEEP,
        ids_max: IDS_MAX,
        executor: executor.map_or(ExecutorChoice::Auto, Executor::choice),
    };
    let handle =
        thread::start(&options, vec![theirs], bell, vec![LogResume::default()]).map_err(io::Error::other)?;
    Ok((handle, ours))
}

/// Ends it, with everything on disk.
pub fn end(handle: JournalHandle) -> io::Result<()> {
    handle.end().map_err(|_| io::Error::other("the journal thread panicked"))
}
