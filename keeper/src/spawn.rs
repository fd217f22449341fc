//! What happens between fork and exec, and the descriptors at fixed numbers that an agent finds.
//!
//! # Who may touch what
//!
//! 1. From [`Reservation::new`] on, the numbers of [`TARGETS`] are taken for the life of the keeper. So no
//!    other descriptor, in particular not the pipe on which the standard library reports a failed exec,
//!    ever has one of them, and a copy onto them overwrites nothing that is needed.
//! 2. Between fork and exec only system calls are made: no allocation, no lock, no formatting.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;

use agent_sdk::inherited::{AGENT_HALF_FD, DOORBELL_FD, ENGINE_HALF_FD, PASSAGE_FD};
use rustix::io::FdFlags;
use rustix::process::{Pid, Resource, Rlimit};

use crate::launch::Fresh;
use crate::ledger::note_self;

/// The numbers at which an agent finds its descriptors.
const TARGETS: [RawFd; 4] = [ENGINE_HALF_FD, AGENT_HALF_FD, DOORBELL_FD, PASSAGE_FD];
/// The highest of them.
const TARGET_MAX: RawFd = 6;

const _: () = {
    let mut index = 0;
    while index < TARGETS.len() {
        assert!(TARGETS[index] <= TARGET_MAX, "the reservation covers every target");
        index += 1;
    }
};

/// Keeps the numbers of [`TARGETS`] occupied in the keeper (rule 1).
#[derive(Debug)]
pub(crate) struct Reservation {
    _placeholders: Vec<OwnedFd>,
}

impl Reservation {
    /// To be called before the keeper opens anything else.
    pub(crate) fn new() -> io::Result<Self> {
        close_inherited_on_exec()?;
        let mut placeholders = Vec::new();
        loop {
            let placeholder = OwnedFd::from(File::open("/dev/null")?);
            if placeholder.as_raw_fd() > TARGET_MAX {
                return Ok(Self { _placeholders: placeholders });
            }
            placeholders.push(placeholder);
        }
    }
}

/// Keeps whatever the keeper was started with, by whomever, from its agents.
fn close_inherited_on_exec() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|text| text.parse::<RawFd>().ok()); // The kernel's.
        let Some(number) = number.filter(|number| *number > 2) else { continue };
        // SAFETY: open, since it is listed (the listing itself is open, too, while this loop runs) and this
        // process has one thread, which closes nothing in this loop.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// Starts a command as the leader of a session and process group of its own, with its descriptors in place.
///
/// The reservation proves that rule 1 holds. `open_files` is the limit the agent gets, since the keeper has
/// raised its own. `cgroups` are what it writes to in order to be in its cgroups, before anything else; then it writes its
/// line in the ledger.
pub(crate) fn start(
    _reservation: &Reservation,
    command: &mut Command,
    fresh: &Arc<Fresh>,
    open_files: Rlimit,
    (cgroups, ledger): (Vec<OwnedFd>, Option<BorrowedFd<'_>>),
) -> io::Result<Child> {
    let keeper = rustix::process::getpid();
    // Arc: the standard library wants the closure to be `Send`; this process has one thread.
    let fresh = Arc::clone(fresh);
    let ledger = ledger.map(|file| file.try_clone_to_owned()).transpose()?;
    let mut targets = TARGETS.map(target);
    let enter = move || {
        for cgroup in &cgroups {
            rustix::io::write(cgroup, b"0")?;
        }
        if let Some(ledger) = &ledger {
            note_self(ledger.as_fd());
        }
        enter(keeper, &fresh, &mut targets, open_files)
    };
    // SAFETY: the closure keeps rule 2, so it needs no lock that another thread may have held at the fork;
    // it writes to no memory the parent reads, and the descriptors it overwrites are free by rule 1.
    unsafe { command.pre_exec(enter) };
    command.spawn()
}

/// The first steps of an agent, before its program is loaded. Rule 2.
fn enter(
    keeper: Pid,
    fresh: &Fresh,
    targets: &mut [Target; TARGETS.len()],
    open_files: Rlimit,
) -> io::Result<()> {
    rustix::process::setsid()?;
    if rustix::process::getppid() != Some(keeper) {
        // The keeper is dead, and the next one may have looked for what is left before this process could be found. If it
        // dies from here on, the next one finds this process in its cgroup or the ledger.
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
    }
    rustix::process::setrlimit(Resource::Nofile, open_files)?;
    for (source, target) in fresh.of_agent().into_iter().zip(targets) {
        // The copy is not close-on-exec, the source is.
        rustix::io::dup2(source, target)?;
    }
    Ok(())
}

/// A number that an agent finds one of its descriptors at. Only to be copied onto.
pub(crate) type Target = ManuallyDrop<OwnedFd>;

/// Copies of the descriptors of an agent, each with its number. The reservation proves that rule 1 holds.
pub(crate) fn rings(_reservation: &Reservation, fresh: &Fresh) -> io::Result<Vec<(OwnedFd, Target)>> {
    let sources = fresh.of_agent().into_iter().zip(TARGETS);
    sources.map(|(source, number)| Ok((source.try_clone_to_owned()?, target(number)))).collect()
}

/// A descriptor number as something that can be copied onto. Never closed.
fn target(number: RawFd) -> Target {
    // SAFETY: open by rule 1 (a placeholder holds the number in the keeper, and in its fork); never
    // closed through this value, since it is not dropped; used only to be overwritten in the fork.
    ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) })
}
