//! Which processes have been started, on disk. So a keeper that comes after one that was killed together with its
//! gateway finds what that one has left, also where no cgroup tells.
//!
//! The file lies beside the control socket. Its first line names the boot and the namespace of process ids: in others
//! the numbers mean nothing. Each other line is that of `/proc/PID/stat` when the process was made, before its program
//! was loaded. A process is one of the list if number and start time are the same, which no process can change.
//!
//! It is not synced: what was written survives the death of whoever wrote it, and after the death of the machine there
//! are no such processes. Where it cannot be written, agents are started all the same; then only cgroups tell.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::control::AGENTS_MAX;
use crate::pidfd;
use crate::serve::say;

/// Lines of processes that are gone, before the file is written anew.
const STALE_MAX: usize = 256;
/// The most lines that are read; a keeper writes fewer.
const LINES_MAX: usize = 2 * (AGENTS_MAX + STALE_MAX);
/// How long what is killed may take to die.
const DEATH_PATIENCE: Duration = Duration::from_secs(2);
/// Which field of a line, after the name in brackets, is the start time.
const START_TIME: usize = 19;

/// The list of one keeper.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    /// `None`: it cannot be written.
    file: Option<File>,
    /// Lines written since it was written anew.
    lines: usize,
}

impl Ledger {
    /// The list beside a control socket. What an earlier keeper has written stays until [`Self::begin`].
    pub(crate) fn beside(socket_path: &Path) -> Self {
        Self { path: socket_path.with_extension("agents"), file: None, lines: 0 }
    }

    /// Kills the processes of the list that live, but for those in `spared`, and waits for their end.
    pub(crate) fn kill_leftovers(&self, spared: &dyn Fn(Pid) -> bool) {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default(); // There was no keeper.
        let mut left: Vec<_> = living(&text)
            .into_iter()
            .filter(|(process, _)| !spared(*process))
            .map(|(_, pidfd)| pidfd)
            .collect();
        if left.is_empty() {
            return;
        }
        say(&format!("{} agents of an earlier keeper are ended", left.len()));
        left.iter().for_each(|pidfd| pidfd::signal_group(pidfd, Signal::KILL));
        let deadline = Instant::now() + DEATH_PATIENCE;
        while let Some(pidfd) = left.last() {
            let patience = deadline.saturating_duration_since(Instant::now());
            if pidfd::is_dead(pidfd) {
                left.pop();
            } else if patience.is_zero() {
                return say(&format!("{} of them do not die of SIGKILL", left.len()));
            } else {
                let timeout = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
                // It is looked again, whatever the wait says.
                let _ = rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout));
            }
        }
    }

    /// Writes the list anew, with these processes.
    pub(crate) fn begin(&mut self, alive: impl Iterator<Item = Pid>) {
        self.lines = 0;
        self.file = match self.write(alive) {
            Ok(file) => Some(file),
            Err(error) => {
                say(&format!(
                    "{} cannot be written: {error}; without cgroups, agents that are left by a \
                              killed keeper and gateway are not found",
                    self.path.display()
                ));
                None
            }
        };
    }

    fn write(&mut self, alive: impl Iterator<Item = Pid>) -> io::Result<File> {
        let aside = self.path.with_extension("agents.new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&aside)?;
        writeln!(file, "{}", place()?)?;
        for process in alive {
            // One that is dead already has no line.
            if let Ok(line) = stat(process) {
                file.write_all(line.as_bytes())?;
            }
        }
        drop(file);
        std::fs::rename(&aside, &self.path)?;
        // Processes between fork and exec write here, too.
        OpenOptions::new().append(true).open(&self.path)
    }

    /// Where a process between fork and exec writes its own line.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Writes the line of a process that has not loaded its program.
    pub(crate) fn note(&self, process: Pid) -> io::Result<()> {
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        file.write_all(stat(process)?.as_bytes())
    }

    /// One more line will be written: if there are too many of the dead, first the list is written anew.
    pub(crate) fn make_room(&mut self, alive: impl ExactSizeIterator<Item = Pid>) {
        self.lines += 1;
        if self.file.is_some() && self.lines > alive.len() + STALE_MAX {
            self.begin(alive);
        }
    }

    /// All are dead.
    pub(crate) fn remove(self) {
        // There is none where it could not be written.
        let _ = std::fs::remove_file(&self.path); // As above.
    }
}

/// Writes the line of this process, which has been forked and has not loaded its program: system calls only.
pub(crate) fn note_self(file: BorrowedFd<'_>) {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let Ok(stat) = rustix::fs::open(c"/proc/self/stat", flags, rustix::fs::Mode::empty()) else { return };
    let mut line = [0; 1024];
    if let Ok(bytes) = rustix::io::read(&stat, &mut line) {
        // Where the disk is full, only its cgroup tells of it.
        let _ = rustix::io::write(file, &line[..bytes]); // As above.
    }
}

/// The boot and the namespace in which numbers mean something.
fn place() -> io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = std::fs::read_link("/proc/self/ns/pid")?;
    Ok(format!("{} {}", boot.trim(), namespace.display()))
}

fn stat(process: Pid) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))
}

/// Number and start time of a process, from its line.
fn identity(line: &str) -> Option<(Pid, u64)> {
    let number = line.split_once(' ')?.0.parse().ok()?;
    // The name in brackets may contain anything.
    let (_, rest) = line.rsplit_once(')')?;
    Some((Pid::from_raw(number)?, rest.split_ascii_whitespace().nth(START_TIME)?.parse().ok()?))
}

/// The processes of a list that live, held by descriptor.
fn living(text: &str) -> Vec<(Pid, OwnedFd)> {
    let mut lines = text.lines();
    if lines.next().map(str::to_owned) != place().ok() {
        return Vec::new();
    }
    let held = |line: &str| {
        let known = identity(line)?;
        let pidfd = rustix::process::pidfd_open(known.0, PidfdFlags::empty()).ok()?; // Gone.
        // Looked at after it is held: from here on the number is not given to another one unseen.
        let same = stat(known.0).ok().and_then(|line| identity(&line)) == Some(known);
        (same && !pidfd::is_dead(&pidfd)).then_some((known.0, pidfd))
    };
    lines.take(LINES_MAX).filter_map(held).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn child() -> Child {
        Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Those of the list that live are killed but for the spared ones; who has the number of one of them, but began at
    /// another time, is not, nor is anybody if the list is of another boot.
    #[test]
    fn leftovers_are_killed_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("keeper.sock");
        let (mut left, mut spared, mut other) = (child(), child(), child());
        let ids = [&left, &spared].map(Pid::from_child);
        let mut ledger = Ledger::beside(&socket);
        ledger.begin(ids.into_iter());
        let path = folder.path().join("keeper.agents");
        let text = std::fs::read_to_string(&path).unwrap();
        let line = stat(Pid::from_child(&other)).unwrap();
        let (head, tail) = line.rsplit_once(')').unwrap();
        let mut fields: Vec<_> = tail.split(' ').map(str::to_owned).collect();
        fields[START_TIME + 1] = (fields[START_TIME + 1].parse::<u64>().unwrap() + 1).to_string();
        let foreign = format!("{text}{head}){}", fields.join(" "));
        assert_eq!(foreign.lines().count(), 4);

        std::fs::write(&path, format!("another boot{foreign}")).unwrap();
        Ledger::beside(&socket).kill_leftovers(&|_| false);
        assert_eq!(left.try_wait().unwrap(), None);

        std::fs::write(&path, format!("{foreign}garbage\n")).unwrap();
        Ledger::beside(&socket).kill_leftovers(&|process| process == Pid::from_child(&spared));
        assert!(left.try_wait().unwrap().is_some(), "it is waited for");
        assert_eq!((spared.try_wait().unwrap(), other.try_wait().unwrap()), (None, None));
        for child in [&mut spared, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Who is dead is forgotten in time, so that the file does not grow with each start.
    #[test]
    fn the_list_stays_short() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::beside(&folder.path().join("keeper.sock"));
        ledger.begin(std::iter::empty());
        let this = rustix::process::getpid();
        let lines = |ledger: &Ledger| std::fs::read_to_string(&ledger.path).unwrap().lines().count();
        for count in 1..=STALE_MAX + 1 {
            ledger.make_room([this].into_iter());
            ledger.note(this).unwrap();
            assert_eq!(lines(&ledger), 1 + count);
        }
        ledger.make_room([this].into_iter());
        note_self(ledger.file().unwrap());
        assert_eq!(lines(&ledger), 3);
        let path = ledger.path.clone();
        ledger.remove();
        assert!(!path.exists());
    }
}
