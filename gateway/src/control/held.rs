//! What this gateway holds of each agent, so that a keeper that dies can be replaced without it: the descriptors of its
//! rings, and its process by pidfd.
//!
//! It also reaps: while no keeper is there, agents that die are the children of whoever comes next above it, which is
//! this process if it has started the keeper. So their exit status is known here, and no zombie is left.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keeper::control::{Adopt, Cause, Exit};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getrlimit, pidfd_send_signal,
    set_child_subreaper, setrlimit, waitid, waitpid,
};

/// Descriptors of an agent: those of [`keeper::control::Event::Spawned`].
const DESCRIPTORS: usize = 6;
/// Of the files that this process may have open, so many are for agents that are held: one in this.
const FILES_SHARE: usize = 2;
const SIGKILL: i32 = 9;
/// Where the system does not say how many files a process may have open.
const FILES_DEFAULT: u64 = 1024;

/// Takes the right to as many open files as the system allows, and the children of keepers that die. Returns how many
/// files it might have open before, which its keeper and its agents are to keep to.
pub fn prepare() -> Option<u64> {
    // Where it is refused, they are the children of the first process of the system.
    let _ = set_child_subreaper(rustix::process::getpid().into()); // As above.
    let before = getrlimit(Resource::Nofile);
    // With the old limit fewer agents are held.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }); // As above.
    before.current
}

/// How an agent ended, where its keeper does not know and this process does. That the kernel has killed something of it for
/// want of memory is its cause only if it was killed, or its command was.
pub(super) fn known_better(exit: Exit, cause: Option<Cause>, own: Option<Exit>) -> (Exit, Option<Cause>) {
    match own.filter(|_| exit == Exit::Unknown) {
        Some(own) => {
            (own, cause.filter(|_| [Exit::Signal(SIGKILL), Exit::Code(128 + SIGKILL)].contains(&own)))
        }
        None => (exit, cause),
    }
}

#[derive(Debug)]
struct Held {
    about: Adopt,
    descriptors: [OwnedFd; DESCRIPTORS],
    /// The last that was asked for.
    signal: Option<i32>,
}

/// The agents that a keeper could take over, by their instance.
#[derive(Debug)]
pub struct HeldAgents {
    by_instance: BTreeMap<u64, Held>,
    max: usize,
    told: bool,
}

impl Default for HeldAgents {
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(FILES_DEFAULT);
        let max = usize::try_from(files).unwrap_or(usize::MAX) / FILES_SHARE / DESCRIPTORS;
        Self { by_instance: BTreeMap::new(), max, told: false }
    }
}

impl HeldAgents {
    /// Holds an agent, by copies of the descriptors that its keeper has sent.
    pub fn take(&mut self, about: Adopt, descriptors: &[OwnedFd]) {
        if self.by_instance.len() >= self.max {
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(
                    held = self.max,
                    "too few files may be open to hold all agents; the others end if the keeper does"
                );
            }
            return;
        }
        let copies: Result<Vec<_>, _> = descriptors.iter().map(OwnedFd::try_clone).collect();
        match copies.map(<[OwnedFd; DESCRIPTORS]>::try_from) {
            Ok(Ok(descriptors)) => {
                _ = self.by_instance.insert(about.instance, Held { about, descriptors, signal: None });
            }
            // A keeper of an earlier build, whose agents end with it.
            Ok(Err(_)) => {}
            Err(error) => tracing::warn!(agent = about.name, %error, "the agent ends if the keeper does"),
        }
    }

    /// Whether this agent is held.
    pub(super) fn has(&self, instance: u64) -> bool {
        self.by_instance.contains_key(&instance)
    }

    /// A signal has been asked for, which a keeper that died may not have sent.
    pub(super) fn note_signal(&mut self, instance: u64, signal: i32) {
        if let Some(held) = self.by_instance.get_mut(&instance) {
            held.signal = Some(signal);
        }
    }

    /// An agent is dead: how it ended, if it was the child of this process.
    pub(super) fn bury(&mut self, instance: u64) -> Option<Exit> {
        let held = self.by_instance.remove(&instance)?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Any error: it is the child of another process.
        let status = waitid(WaitId::PidFd(held.pidfd()), options).ok()??; // As above.
        let code = status.exit_status().map(Exit::Code);
        code.or_else(|| status.terminating_signal().map(Exit::Signal))
    }

    /// All agents, to be handed over.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Adopt, [BorrowedFd<'_>; DESCRIPTORS])> {
        self.by_instance.values().map(|held| (&held.about, held.descriptors.each_ref().map(AsFd::as_fd)))
    }

    /// The signals that were asked for of agents that are not known to be dead.
    pub(super) fn signals(&self) -> Vec<(u64, i32)> {
        let asked = self.by_instance.iter();
        asked.filter_map(|(instance, held)| Some((*instance, held.signal?))).collect()
    }

    /// Kills all agents: there is no keeper that would.
    pub(super) fn kill_all(&self) {
        for held in self.by_instance.values() {
            // One that is dead already is what is wanted.
            let _ = pidfd_send_signal(held.pidfd(), Signal::KILL); // As above.
        }
    }

    /// Reaps what agents have left to this process, but neither agents nor the keeper.
    pub(super) fn reap_strays(&self, keeper: u32) {
        // Without this file (a kernel option) they stay zombies until this process ends.
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let known = |process: &u32| {
            *process == keeper || self.by_instance.values().any(|held| held.about.process_id == *process)
        };
        let numbers = children.split_ascii_whitespace().filter_map(|text| text.parse::<u32>().ok());
        for stray in numbers.filter(|process| !known(process)) {
            let process = i32::try_from(stray).ok().and_then(Pid::from_raw);
            let _ = waitpid(process, WaitOptions::NOHANG); // One that lives on is none.
        }
    }
}

impl Held {
    fn pidfd(&self) -> BorrowedFd<'_> {
        let [.., pidfd] = &self.descriptors;
        pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the keeper knows counts. Else what this process knows; then an agent that was not killed is not put down to
    /// a want of memory that one of its helpers had.
    #[test]
    fn who_was_the_parent_knows_best() {
        let memory = Some(Cause::OutOfMemory { limit_bytes: Some(1) });
        let (unknown, exited, killed) = (Exit::Unknown, Exit::Code(3), Exit::Signal(9));
        assert_eq!(known_better(exited, None, Some(killed)), (exited, None));
        assert_eq!(known_better(killed, memory, None), (killed, memory));
        assert_eq!(known_better(unknown, memory, None), (unknown, memory));
        assert_eq!(known_better(unknown, memory, Some(exited)), (exited, None));
        assert_eq!(known_better(unknown, memory, Some(killed)), (killed, memory));
        assert_eq!(known_better(unknown, memory, Some(Exit::Code(137))), (Exit::Code(137), memory));
    }
}
