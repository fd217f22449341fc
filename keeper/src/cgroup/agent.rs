//! The cgroup of one agent, in each hierarchy that is used: attach, kill, count, remove.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::layout::Controller;
use super::limits::Setting;
use crate::control::{Cause, Exit};

pub use crate::control::Usage;

/// The most cgroups inside that of an agent that are looked at: an agent that runs as root can make some.
const NESTED_MAX: usize = 4096;
/// The most processes that are held by pidfd at once, to kill them.
const HELD_MAX: usize = 1024;
/// What a shell, and the host of a command, add to the number of the signal that ended it.
const EXIT_SIGNAL_BASE: i32 = 128;

/// Where a process is that is put into a cgroup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Born {
    /// In the directory of version 2 already: it has been made there.
    Inside,
    /// Where its parent is.
    Outside,
}

/// The cgroup of one agent. Dropping it removes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCgroup {
    /// Its directories in hierarchies of version 1. Several controllers may share one.
    pub(super) v1: BTreeMap<Controller, PathBuf>,
    /// Its directory of version 2.
    pub(super) v2: Option<PathBuf>,
    /// What it may take, if that is limited here.
    pub(super) memory_limit_bytes: Option<u64>,
}

impl AgentCgroup {
    /// Its directories, each once.
    pub fn directories(&self) -> BTreeSet<&Path> {
        self.v1.values().chain(&self.v2).map(PathBuf::as_path).collect()
    }

    /// Its name in every hierarchy, for [`super::Subtree::adopted`]; `None` if it has no directory.
    pub fn leaf(&self) -> Option<&str> {
        self.v1.values().chain(&self.v2).next()?.file_name()?.to_str()
    }

    /// What it may take of memory, if that is limited here.
    pub fn memory_limit_bytes(&self) -> Option<u64> {
        self.memory_limit_bytes
    }

    /// What a process writes `0` to, in order to be in the cgroup with all that it starts.
    pub fn attach_fds(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |directory: &Path| File::options().write(true).open(directory.join("cgroup.procs"));
        self.directories().into_iter().map(|directory| open(directory).map(OwnedFd::from)).collect()
    }

    /// Its directory of version 2, in which the kernel can make a process; `None` where there is none.
    pub fn birthplace(&self) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // One that cannot be opened cannot be entered later either, which is then told.
        rustix::fs::open(self.v2.as_ref()?, flags, Mode::empty()).ok()
    }

    /// Puts a process into the cgroup, by its number.
    pub fn attach(&self, process: Pid, born: Born) -> io::Result<()> {
        let number = process.as_raw_nonzero().to_string();
        let mut directories = self.directories();
        if let (Born::Inside, Some(directory)) = (born, &self.v2) {
            directories.remove(directory.as_path());
        }
        directories.into_iter().try_for_each(|directory| set(&directory.join("cgroup.procs"), &number))
    }

    /// Writes limits. What is missing though it may be is passed over.
    pub(super) fn apply(&self, setting: &Setting, directory: &Path) -> io::Result<()> {
        match set(&directory.join(setting.file), &setting.value) {
            Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// Kills all processes inside. To be called again until [`Self::is_empty`]: without version 2, what is started
    /// while this runs may be missed.
    pub fn kill(&self) {
        if let Some(directory) = &self.v2 {
            // Kernels before 5.14 lack the file. The members are killed one by one then, as in version 1.
            let _ = set(&directory.join("cgroup.kill"), "1"); // As above.
        }
        if let Some(directory) = self.v1.get(&Controller::Processes) {
            // Nothing is started from now on. If that is refused, killing takes more rounds.
            let _ = set(&directory.join("pids.max"), "0"); // As above.
        }
        for directory in self.directories() {
            for nested in with_nested(directory) {
                kill_members(&nested);
            }
        }
    }

    /// Whether no process is inside, and none that has died and is not reaped.
    pub fn is_empty(&self) -> bool {
        let counted = [self.v1.get(&Controller::Processes), self.v2.as_ref()].into_iter().flatten();
        // Without the controller there is no such file; then the members tell.
        let zombies = counted
            .filter_map(|directory| read_number(&directory.join("pids.current")))
            .any(|count| count > 0);
        let is_free =
            |directory: &Path| with_nested(directory).iter().all(|nested| members(nested).is_empty());
        !zombies && self.directories().into_iter().all(is_free)
    }

    /// Removes its directories. `false` if some are still in use.
    pub fn remove(&self) -> bool {
        let used = self.directories().into_iter().filter(|directory| !remove_tree(directory));
        used.count() == 0
    }

    /// What it has taken until now.
    pub fn usage(&self) -> Usage {
        let v1 = |controller, file| read_number(&self.v1.get(&controller)?.join(file));
        let v2 = |file| Some(self.v2.as_ref()?.join(file));
        let cpu_us = v2("cpu.stat")
            .and_then(|path| read_field(&path, "usage_usec"))
            .or_else(|| v1(Controller::CpuAccounting, "cpuacct.usage").map(|ns| ns / 1000));
        let memory_peak_bytes = v1(Controller::Memory, "memory.max_usage_in_bytes")
            .or_else(|| v2("memory.peak").and_then(|path| read_number(&path)));
        Usage { cpu_us, memory_peak_bytes }
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let v1 = self.v1.get(&Controller::Memory).map(|directory| directory.join("memory.oom_control"));
        let v2 = self.v2.as_ref().map(|directory| directory.join("memory.events"));
        [v1, v2].into_iter().flatten().filter_map(|path| read_field(&path, "oom_kill")).sum()
    }

    /// Why an agent in it ended, if its cgroup knows more than its exit status.
    ///
    /// A process that was killed for want of memory counts if the agent ended with SIGKILL, or says that its command
    /// did: an agent may as well go on when a helper of it was killed, and end later of something else.
    pub fn cause(&self, exit: Exit) -> Option<Cause> {
        let killed = Signal::KILL.as_raw();
        // Of one whose exit status nobody has, the cgroup is all there is.
        let is_killed =
            [Exit::Signal(killed), Exit::Code(EXIT_SIGNAL_BASE + killed), Exit::Unknown].contains(&exit);
        (is_killed && self.oom_kills() > 0)
            .then_some(Cause::OutOfMemory { limit_bytes: self.memory_limit_bytes })
    }
}

/// Kills the members of one cgroup, by rule 2 of [`super`].
fn kill_members(directory: &Path) {
    let numbers: Vec<u32> = members(directory).into_iter().collect();
    for numbers in numbers.chunks(HELD_MAX) {
        let held: Vec<_> = numbers.iter().filter_map(|number| Some((*number, hold(*number)?))).collect();
        let still = members(directory);
        for (_, pidfd) in held.iter().filter(|(number, _)| still.contains(number)) {
            // One that is dead already is what is wanted.
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL); // As above.
        }
    }
}

fn hold(number: u32) -> Option<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(number).ok()?)?;
    rustix::process::pidfd_open(process, PidfdFlags::empty()).ok() // Gone already.
}

/// The processes in one cgroup that live.
pub(super) fn members(directory: &Path) -> BTreeSet<u32> {
    // A cgroup that is gone has none.
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// A cgroup and those inside it, each behind the one that it is in.
fn with_nested(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let inside = std::fs::read_dir(directory).into_iter().flatten().flatten(); // One that is gone has none.
        let inside = inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = NESTED_MAX - found.len();
        let inside: Vec<_> = inside.map(|entry| entry.path()).take(room).collect();
        found.extend(inside);
        next += 1;
    }
    found
}

/// Removes a cgroup and those inside it, as far as they are not in use. `false` if some are.
pub(super) fn remove_tree(directory: &Path) -> bool {
    for nested in with_nested(directory).iter().rev() {
        match std::fs::remove_dir(nested) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return false,
            Ok(()) | Err(_) => {}
        }
    }
    true
}

/// Writes a line into a file of a cgroup.
pub(super) fn set(path: &Path, value: &str) -> io::Result<()> {
    // In one piece: each write is a command of its own. The file is the kernel's, so it is never made here.
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok() // A kernel without the file does not count.
}

/// The number behind a name at the beginning of a line.
fn read_field(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?; // As above.
    let mut fields = text.lines().filter_map(|line| line.split_once(' '));
    fields.find(|(found, _)| *found == name)?.1.trim().parse().ok()
}
