//! The executor on a ring of its own: the writes and syncs of all logs are under way at once.
//!
//! # Who may touch what
//!
//! 1. A buffer belongs to its flight from the submission on. It is neither moved out nor changed while the kernel may
//!    read it, that is, until the write has completed; dropping the executor waits for that.
//! 2. A flight keeps its place in the table while any completion of it is to come, since its place is its `user_data`.
//! 3. A slot of a registered file is not given to another file while a flight names it.
//!
//! # A write and its sync
//!
//! They are linked, so the kernel starts the sync when the write is complete. A short or interrupted write breaks the
//! link: the rest is written first, then the sync is asked for again, and what the first one said does not count,
//! unless it was an error.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{self, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode};
use rustix::event::PollFlags;
use rustix::io::Errno;
use shm_transport::doorbell::silence;

use super::disk::{Completion, DiskError, Operation, SegmentName};
use super::files::{
    Executor, INTERRUPTED_MAX, LogDirectory, OPEN_FILES_MAX, OpenFiles, disk_error, taken_away,
};
use super::writer::Lane;

/// `user_data` of the poll of the bell.
const BELL: u64 = u64::MAX;
/// The most bytes of one write; the kernel takes at most a page less than 2 GiB.
const WRITE_BYTES_MAX: usize = 1 << 30;
/// What this executor asks of the kernel.
const OPERATIONS: [(&str, u8); 3] =
    [("WRITE", opcode::Write::CODE), ("FSYNC", opcode::Fsync::CODE), ("POLL_ADD", opcode::PollAdd::CODE)];

#[derive(Debug)]
struct Log {
    directory: LogDirectory,
    open: OpenFiles,
}

/// How the write before a sync is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    UnderWay,
    Done,
    Failed,
}

#[derive(Debug)]
enum Job {
    Write {
        bytes: Vec<u8>,
        written: usize,
        offset: u64,
        /// The flight of the sync linked to it.
        sync: Option<usize>,
    },
    Sync {
        before: Before,
        /// Whether a completion is to come.
        asked: bool,
        /// Whether what it says is about all of the write.
        counts: bool,
        error: Option<Errno>,
    },
}

/// An operation that the kernel has, or is about to get.
#[derive(Debug)]
struct Flight {
    log: usize,
    lane: Lane,
    file: types::Fixed,
    interrupted: u32,
    job: Job,
}

/// Has operations executed by the kernel while the thread goes on.
pub(super) struct UringExecutor {
    ring: IoUring,
    logs: Vec<Log>,
    // Arc: those who ring it hold it, too.
    bell: Arc<OwnedFd>,
    bell_polled: bool,
    flights: Vec<Option<Flight>>,
    /// A write that waits for whether a sync follows.
    held: Option<usize>,
    /// Completions of flights that are to come.
    expected: usize,
    done: VecDeque<(usize, Lane, Completion)>,
}

impl std::fmt::Debug for UringExecutor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UringExecutor")
            .field("logs", &self.logs.len())
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// Makes a ring for so many logs, or says what the kernel refuses.
pub(super) fn ring(logs: usize) -> Result<IoUring, String> {
    // Two operations per lane of a log, and the bell.
    let entries = u32::try_from((4 * logs + 2).next_power_of_two()).unwrap_or(u32::MAX);
    let ring = IoUring::new(entries).map_err(|error| format!("io_uring_setup: {error}"))?;
    if !ring.params().is_feature_ext_arg() {
        return Err("the kernel cannot wait for a ring with a timeout".into());
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| format!("io_uring_register: {error}"))?;
    if let Some((name, _)) = OPERATIONS.into_iter().find(|(_, code)| !probe.is_supported(*code)) {
        return Err(format!("the kernel lacks the operation {name}"));
    }
    let files = u32::try_from(logs * OPEN_FILES_MAX).unwrap_or(u32::MAX);
    let registered = ring.submitter().register_files_sparse(files);
    registered.map_err(|error| format!("files cannot be registered: {error}"))?;
    Ok(ring)
}

impl UringExecutor {
    pub(super) fn new(ring: IoUring, directories: Vec<LogDirectory>, bell: Arc<OwnedFd>) -> Self {
        let log = |directory| Log { directory, open: OpenFiles::default() };
        Self {
            ring,
            logs: directories.into_iter().map(log).collect(),
            bell,
            bell_polled: false,
            flights: Vec::new(),
            held: None,
            expected: 0,
            done: VecDeque::new(),
        }
    }

    fn open(&mut self, log: usize, segment: SegmentName) -> rustix::io::Result<types::Fixed> {
        let Self { logs, flights, ring, .. } = self;
        let Log { directory, open } = &mut logs[log];
        let of_slot = |slot: usize| u32::try_from(log * OPEN_FILES_MAX + slot).unwrap_or(u32::MAX);
        // A flight names a slot until it is over: the sync of a chain looks it up only when the write is complete.
        let is_busy = |slot: usize| flights.iter().flatten().any(|flight| flight.file.0 == of_slot(slot));
        let opened = open.open(directory, segment, is_busy)?;
        let at = of_slot(opened.slot);
        if opened.fresh {
            let file = open.file(opened.slot).ok_or(Errno::BADF)?;
            let updated = ring.submitter().register_files_update(at, &[file.as_raw_fd()]);
            if let Err(error) = updated {
                open.close(segment);
                return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
        }
        Ok(types::Fixed(at))
    }

    fn close(&mut self, log: usize, segment: SegmentName) {
        // What is in the queue is about to name the slot.
        self.release_held();
        // An error is met again by the next wait.
        let _ = self.ring.submit();
        let Some(slot) = self.logs[log].open.close(segment) else { return };
        let at = u32::try_from(log * OPEN_FILES_MAX + slot).unwrap_or(u32::MAX);
        // If it stays registered, a removed file keeps its space until the slot is used again.
        let _ = self.ring.submitter().register_files_update(at, &[-1]);
    }

    fn take_off(&mut self, (log, lane): (usize, Lane), file: types::Fixed, job: Job) -> usize {
        let flight = Some(Flight { log, lane, file, interrupted: 0, job });
        match self.flights.iter().position(Option::is_none) {
            Some(free) => {
                self.flights[free] = flight;
                free
            }
            None => {
                self.flights.push(flight);
                self.flights.len() - 1
            }
        }
    }

    fn land(&mut self, flight: usize, result: Result<(), DiskError>) {
        let Some(Flight { log, lane, job, .. }) = self.flights[flight].take() else { return };
        let bytes = match job {
            Job::Write { bytes, .. } => bytes,
            Job::Sync { .. } => Vec::new(),
        };
        self.done.push_back((log, lane, Completion { result, bytes }));
    }

    /// Hands the held write to the ring: no sync follows it.
    fn release_held(&mut self) {
        if let Some(flight) = self.held.take() {
            self.push_chain(&[flight]);
        }
    }

    /// Puts flights into the ring, each linked to the next.
    fn push_chain(&mut self, chain: &[usize]) {
        let free = {
            let submission = self.ring.submission();
            submission.capacity() - submission.len()
        };
        if free < chain.len() {
            // An error is met again by the next wait; until then the queue is only longer than the kernel's.
            let _ = self.ring.submit();
        }
        for (index, &flight) in chain.iter().enumerate() {
            let flags = if index + 1 < chain.len() { Flags::IO_LINK } else { Flags::empty() };
            let Some(entry) = self.entry(flight) else { continue };
            let entry = entry.flags(flags).user_data(flight as u64);
            // SAFETY: what the entry points to is the buffer of a flight, which rule 1 keeps in place until its
            // completion; files are registered (rule 3).
            let pushed = unsafe { self.ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "the ring has room for two operations of every lane");
            self.expected += 1;
        }
    }

    fn entry(&self, flight: usize) -> Option<Entry> {
        let Flight { file, job, .. } = self.flights.get(flight)?.as_ref()?;
        Some(match job {
            Job::Write { bytes, written, offset, .. } => {
                let rest = &bytes[*written..];
                let len = rest.len().min(WRITE_BYTES_MAX) as u32;
                opcode::Write::new(*file, rest.as_ptr(), len).offset(offset + *written as u64).build()
            }
            Job::Sync { .. } => opcode::Fsync::new(*file).flags(FsyncFlags::DATASYNC).build(),
        })
    }

    fn poll_bell(&mut self) {
        if self.bell_polled {
            return;
        }
        let events = u32::from(PollFlags::IN.bits());
        let entry = opcode::PollAdd::new(types::Fd(self.bell.as_raw_fd()), events).build().user_data(BELL);
        // SAFETY: the entry points to no memory; the bell is open for as long as this executor.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // Without room it is tried again by the next wait, which comes as soon as something completes.
        self.bell_polled = pushed.is_ok();
    }

    fn reap(&mut self) {
        while let Some(completion) = self.next_completion() {
            let (user_data, result) = completion;
            if user_data == BELL {
                self.bell_polled = false;
                silence(&*self.bell);
                continue;
            }
            self.expected -= 1;
            let flight = user_data as usize;
            match self.flights.get(flight).and_then(Option::as_ref).map(|flight| &flight.job) {
                Some(Job::Write { .. }) => self.write_completed(flight, result),
                Some(Job::Sync { .. }) => self.sync_completed(flight, result),
                None => debug_assert!(false, "a completion without a flight (rule 2)"),
            }
        }
    }

    fn next_completion(&mut self) -> Option<(u64, i32)> {
        let entry = self.ring.completion().next()?;
        Some((entry.user_data(), entry.result()))
    }

    fn write_completed(&mut self, index: usize, result: i32) {
        let Some(flight) = &mut self.flights[index] else { return };
        let Job::Write { bytes, written, sync, .. } = &mut flight.job else { return };
        let sync = *sync;
        let error = match usize::try_from(result) {
            Ok(0) => Some(Errno::IO),
            Ok(count) => {
                *written += count;
                None
            }
            Err(_) if is_interrupted(result) && flight.interrupted < INTERRUPTED_MAX => {
                flight.interrupted += 1;
                None
            }
            Err(_) => Some(Errno::from_raw_os_error(-result)),
        };
        if let Some(error) = error {
            self.land(index, Err(disk_error(error)));
            self.write_ended(sync, Before::Failed);
        } else if *written < bytes.len() {
            self.doubt(sync);
            self.push_chain(&[index]);
        } else {
            self.land(index, Ok(()));
            self.write_ended(sync, Before::Done);
        }
    }

    /// What the sync says that has been asked for is not about all of the write.
    fn doubt(&mut self, sync: Option<usize>) {
        let flight = sync.and_then(|sync| self.flights[sync].as_mut());
        if let Some(Flight { job: Job::Sync { counts, .. }, .. }) = flight {
            *counts = false;
        }
    }

    fn write_ended(&mut self, sync: Option<usize>, how: Before) {
        let Some(index) = sync else { return };
        let Some(Flight { job: Job::Sync { before, asked, .. }, .. }) = &mut self.flights[index] else {
            return;
        };
        *before = how;
        if !*asked {
            self.decide_sync(index);
        }
    }

    fn sync_completed(&mut self, index: usize, result: i32) {
        let Some(flight) = &mut self.flights[index] else { return };
        let Job::Sync { asked, counts, error, .. } = &mut flight.job else { return };
        *asked = false;
        if result == -Errno::CANCELED.raw_os_error() || is_interrupted(result) {
            *counts = false;
        } else if result < 0 {
            // Also if it does not count: the kernel may report it only once.
            *error = Some(Errno::from_raw_os_error(-result));
        }
        self.decide_sync(index);
    }

    /// Ends a sync of which no completion is to come, or asks for it again.
    fn decide_sync(&mut self, index: usize) {
        let Some(flight) = &mut self.flights[index] else { return };
        let Job::Sync { before, asked, counts, error } = &mut flight.job else { return };
        match (*before, *error) {
            (Before::UnderWay, _) => {}
            (Before::Done | Before::Failed, Some(error)) => self.land(index, Err(disk_error(error))),
            (Before::Failed, None) => self.land(index, Err(DiskError::Skipped)),
            (Before::Done, None) if *counts => self.land(index, Ok(())),
            (Before::Done, None) if flight.interrupted < INTERRUPTED_MAX => {
                flight.interrupted += 1;
                (*asked, *counts) = (true, true);
                self.push_chain(&[index]);
            }
            (Before::Done, None) => self.land(index, Err(disk_error(Errno::INTR))),
        }
    }
}

impl Executor for UringExecutor {
    fn submit(&mut self, log: usize, lane: Lane, operation: Operation) {
        let done = match operation {
            Operation::Write { segment, offset, bytes } => match self.open(log, segment) {
                Ok(file) => {
                    self.release_held();
                    let job = Job::Write { bytes, written: 0, offset, sync: None };
                    self.held = Some(self.take_off((log, lane), file, job));
                    return;
                }
                Err(error) => Completion { result: Err(disk_error(error)), bytes },
            },
            Operation::Sync { segment } => match self.open(log, segment) {
                Ok(file) => return self.submit_sync((log, lane), file),
                Err(error) => Completion::of(Err(disk_error(error))),
            },
            rare => {
                if let Some(segment) = taken_away(&rare) {
                    self.close(log, segment);
                }
                Completion::of(self.logs[log].directory.change(&rare).map_err(disk_error))
            }
        };
        self.done.push_back((log, lane, done));
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.release_held();
        self.poll_bell();
        let blocks = self.done.is_empty() && timeout.is_none_or(|timeout| !timeout.is_zero());
        let entered = match (blocks, timeout) {
            (false, _) if self.ring.submission().is_empty() => Ok(0),
            (false, _) => self.ring.submit(),
            (true, None) => self.ring.submit_and_wait(1),
            (true, Some(timeout)) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        self.reap();
        match entered.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            // Busy: there were more completions than places for them; they have been taken now.
            Ok(_) | Err(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self) -> Option<(usize, Lane, Completion)> {
        self.done.pop_front()
    }
}

impl UringExecutor {
    /// Links a sync to the write before it, if that is of the same lane and file and still here.
    fn submit_sync(&mut self, of: (usize, Lane), file: types::Fixed) {
        let held = self.held.and_then(|write| Some((write, self.flights[write].as_ref()?)));
        let same = |held: &Flight| (held.log, held.lane) == of && held.file.0 == file.0;
        let write = held.filter(|(_, held)| same(held)).map(|(write, _)| write);
        let before = if write.is_some() { Before::UnderWay } else { Before::Done };
        let job = Job::Sync { before, asked: true, counts: true, error: None };
        let own = self.take_off(of, file, job);
        let Some(write) = write else {
            self.release_held();
            return self.push_chain(&[own]);
        };
        self.held = None;
        if let Some(Flight { job: Job::Write { sync, .. }, .. }) = &mut self.flights[write] {
            *sync = Some(own);
        }
        self.push_chain(&[write, own]);
    }
}

impl Drop for UringExecutor {
    fn drop(&mut self) {
        while self.expected > 0 {
            let entered = self.ring.submit_and_wait(1);
            self.reap();
            if entered.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                // The kernel may still read the buffers (rule 1), and cannot be asked.
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
        }
    }
}

fn is_interrupted(result: i32) -> bool {
    [Errno::INTR, Errno::AGAIN].iter().any(|errno| result == -errno.raw_os_error())
}
