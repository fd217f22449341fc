//! The agents alive, and what is left of the dead.
//!
//! # Who may touch what
//!
//! 1. The keeper waits for one process at a time, by number; never for "any child": that would take the
//!    status of an agent away from [`Roster::bury`].
//! 2. The group and the cgroup of a dead agent is killed before the agent is reaped: until then its number cannot have
//!    been given to another process.
//! 3. An agent of an earlier keeper is the child of somebody else, who may reap it at any time: it is watched and signalled
//!    by its pidfd only, never by its number.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use crate::cgroup::AgentCgroup;
use crate::control::{CgroupPlace, Event, Exit};
use crate::launch::Held;
use crate::pidfd;
use crate::serve::say;
use crate::skills::{Running, Skills};

/// How long the members of a dead agent's group are looked for closely; the sweep finds later ones.
const GROUP_WATCH: Duration = Duration::from_secs(5);
/// How often they are looked for.
const GROUP_TICK: Duration = Duration::from_millis(10);
/// How often orphans of all kinds are looked for.
const SWEEP_TICK: Duration = Duration::from_secs(10);

/// An agent that has been started and not been buried.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) generation: u64,
    pub(crate) process: Pid,
    // Arc: an event under way holds it, too.
    pub(crate) pidfd: Arc<OwnedFd>,
    /// Whether this keeper has started it: then nobody else reaps it.
    pub(crate) is_child: bool,
    /// For those who look at its rings.
    pub(crate) name: String,
    /// What it was started with, for the next gateway.
    pub(crate) definition: u64,
    /// Capacities of the ring to it and of the one back.
    pub(crate) ring_bytes: [u64; 2],
    /// Kept while the agent lives. Arc: an event under way holds them, too.
    pub(crate) held: Arc<Held>,
    /// Removed when all that is in it has died.
    pub(crate) cgroup: AgentCgroup,
}

impl Agent {
    /// Where its cgroup is found again, for a keeper that comes later.
    pub(crate) fn cgroup_place(&self) -> Option<CgroupPlace> {
        let leaf = self.cgroup.leaf()?.to_owned();
        Some(CgroupPlace { leaf, memory_limit_bytes: self.cgroup.memory_limit_bytes() })
    }

    /// Sends a signal to its process group (rule 3).
    fn signal(&self, signal: Signal) {
        if self.is_child {
            signal_group(self.process, signal);
        } else {
            pidfd::signal_group(&self.pidfd, signal);
        }
    }

    /// Whether it has ended.
    fn is_dead(&self) -> bool {
        if self.is_child { is_dead_child(&self.pidfd) } else { pidfd::is_dead(&self.pidfd) }
    }

    /// Reaps it, and says how it ended.
    fn reap(&self) -> Option<Exit> {
        if self.is_child { reap_child(self.process) } else { Some(Exit::Unknown) }
    }
}

/// A killed process group, of which the keeper may inherit members.
#[derive(Debug)]
struct DeadGroup {
    group: Pid,
    until: Instant,
}

/// A killed cgroup that may hold processes which have not died yet.
#[derive(Debug)]
struct DeadCgroup {
    cgroup: AgentCgroup,
    until: Instant,
}

/// The agents of this keeper by instance.
#[derive(Debug)]
pub(crate) struct Roster {
    agents: BTreeMap<u64, Agent>,
    skills: Skills,
    /// The largest instance so far, dead ones included.
    instance_max: u64,
    dead_groups: Vec<DeadGroup>,
    dead_cgroups: Vec<DeadCgroup>,
    sweep_at: Instant,
}

impl Roster {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            agents: BTreeMap::new(),
            skills: Skills::new(),
            instance_max: 0,
            dead_groups: Vec::new(),
            dead_cgroups: Vec::new(),
            sweep_at: now + SWEEP_TICK,
        }
    }

    /// Whether all agents are dead, and all that they have started.
    pub(crate) fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.skills.is_empty() && self.dead_cgroups.is_empty()
    }

    pub(crate) fn agents(&self) -> &BTreeMap<u64, Agent> {
        &self.agents
    }

    pub(crate) fn skills(&self) -> &Skills {
        &self.skills
    }

    /// The processes of the agents.
    pub(crate) fn processes(&self) -> impl ExactSizeIterator<Item = Pid> {
        self.agents.values().map(|agent| agent.process)
    }

    pub(crate) fn instance_max(&self) -> u64 {
        self.instance_max
    }

    pub(crate) fn add(&mut self, instance: u64, agent: Agent) {
        self.instance_max = self.instance_max.max(instance);
        let before = self.agents.insert(instance, agent);
        assert!(before.is_none(), "the caller has looked");
    }

    pub(crate) fn add_skill(&mut self, instance: u64, skill: Running) {
        self.instance_max = self.instance_max.max(instance);
        let before = self.skills.insert(instance, skill);
        assert!(before.is_none(), "the caller has looked");
    }

    /// Kills the skills of an agent, or all.
    pub(crate) fn kill_skills(&self, of: Option<u64>) {
        for skill in self.skills.values().filter(|skill| of.is_none_or(|agent| agent == skill.parent)) {
            signal_group(skill.process, Signal::KILL);
            skill.cgroup.kill();
        }
    }

    /// Sends a signal to an agent or a skill and its process group.
    pub(crate) fn signal(&self, instance: u64, signal: Signal) {
        if let Some(agent) = self.agents.get(&instance) {
            agent.signal(signal);
        } else if let Some(skill) = self.skills.get(&instance) {
            signal_group(skill.process, signal);
        }
    }

    /// Sends a signal to all agents and their process groups. Their skills are killed.
    pub(crate) fn signal_all(&self, signal: Signal) {
        self.kill_skills(None);
        for agent in self.agents.values() {
            agent.signal(signal);
        }
    }

    /// If this agent is dead: kills its group, reaps it, and says how it ended.
    pub(crate) fn bury(&mut self, instance: u64, now: Instant) -> Option<Event> {
        let Some(agent) = self.agents.get(&instance) else { return self.bury_skill(instance, now) };
        if !agent.is_dead() {
            return None;
        }
        agent.signal(Signal::KILL); // Rule 2.
        agent.cgroup.kill();
        let exit = agent.reap()?;
        self.kill_skills(Some(instance));
        let event = Event::Died {
            instance,
            generation: agent.generation,
            process_id: number(agent.process),
            exit,
            cause: agent.cgroup.cause(exit),
            usage: agent.cgroup.usage(),
        };
        let agent = self.agents.remove(&instance)?;
        if agent.is_child {
            self.dead_groups.push(DeadGroup { group: agent.process, until: now + GROUP_WATCH });
        }
        self.bury_cgroup(agent.cgroup, now);
        Some(event)
    }

    fn bury_skill(&mut self, instance: u64, now: Instant) -> Option<Event> {
        let skill = self.skills.get(&instance).filter(|skill| is_dead_child(&skill.pidfd))?;
        signal_group(skill.process, Signal::KILL); // Rule 2.
        skill.cgroup.kill();
        let exit = reap_child(skill.process)?;
        let Running { process, cgroup, .. } = self.skills.remove(&instance)?;
        let (cause, usage) = (cgroup.cause(exit), cgroup.usage());
        self.dead_groups.push(DeadGroup { group: process, until: now + GROUP_WATCH });
        self.bury_cgroup(cgroup, now);
        Some(Event::Died { instance, generation: 0, process_id: number(process), exit, cause, usage })
    }

    /// Takes a cgroup whose processes have been killed, to remove it when they are dead and reaped.
    pub(crate) fn bury_cgroup(&mut self, cgroup: AgentCgroup, now: Instant) {
        self.dead_cgroups.push(DeadCgroup { cgroup, until: now + GROUP_WATCH });
    }

    /// Kills and reaps an agent that has just been added but cannot be watched.
    pub(crate) fn drop_unwatched(&mut self, instance: u64, now: Instant) {
        if let Some(agent) = self.agents.remove(&instance) {
            signal_group(agent.process, Signal::KILL);
            agent.cgroup.kill();
            let _ = rustix::process::waitpid(Some(agent.process), WaitOptions::empty()); // It was added.
            self.bury_cgroup(agent.cgroup, now);
        }
    }

    /// The same for a skill.
    pub(crate) fn drop_unwatched_skill(&mut self, instance: u64, now: Instant) {
        if let Some(Running { process, cgroup, .. }) = self.skills.remove(&instance) {
            signal_group(process, Signal::KILL);
            cgroup.kill();
            let _ = rustix::process::waitpid(Some(process), WaitOptions::empty()); // It was added.
            self.bury_cgroup(cgroup, now);
        }
    }

    /// When [`Self::reap_orphans`] has something to look at next.
    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        let watched = !self.dead_groups.is_empty() || !self.dead_cgroups.is_empty();
        if watched { now + GROUP_TICK } else { self.sweep_at }
    }

    /// Reaps what dead agents have left behind.
    pub(crate) fn reap_orphans(&mut self, now: Instant) {
        self.dead_groups.retain(|dead| {
            loop {
                match rustix::process::waitpgid(dead.group, WaitOptions::NOHANG) {
                    Ok(Some(_)) | Err(Errno::INTR) => {}
                    Ok(None) => return now < dead.until,
                    // No child of ours is in it, and the dead have no more children to leave us.
                    Err(_) => return false,
                }
            }
        });
        if !self.dead_cgroups.is_empty() {
            // Those in groups of their own count in the cgroup until they are reaped.
            self.sweep();
            self.dead_cgroups.retain(|dead| !is_removed(&dead.cgroup, now >= dead.until));
        }
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_TICK;
            self.sweep();
        }
    }

    /// Reaps those that left their group, or whose agent lives on.
    fn sweep(&self) {
        // Without this file (a kernel option) such orphans stay zombies until the keeper ends.
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let skills = self.skills.values().map(|skill| skill.process);
        let agents: BTreeSet<u32> = self.processes().chain(skills).map(number).collect();
        let orphans = children
            .split_ascii_whitespace()
            .filter_map(|text| text.parse().ok().and_then(Pid::from_raw)) // The kernel writes numbers only.
            .filter(|pid| !agents.contains(&number(*pid)));
        for orphan in orphans {
            let _ = rustix::process::waitpid(Some(orphan), WaitOptions::NOHANG); // One that lives on is none.
        }
    }
}

/// Whether a child of ours is dead, and waits to be reaped.
fn is_dead_child(pidfd: &OwnedFd) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look), Ok(Some(_)))
}

/// Reaps a child of ours that is dead, and says how it ended.
fn reap_child(process: Pid) -> Option<Exit> {
    // It is dead, and nobody else waits (rule 1).
    let (_, status) = rustix::process::waitpid(Some(process), WaitOptions::NOHANG).ok()??; // As above.
    Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    })
}

/// Removes a dead cgroup, or kills again what is in it. After its time is up it is left to the next keeper.
fn is_removed(cgroup: &AgentCgroup, is_late: bool) -> bool {
    if cgroup.is_empty() && cgroup.remove() {
        return true;
    }
    if is_late {
        let directories: Vec<_> =
            cgroup.directories().into_iter().map(|path| path.display().to_string()).collect();
        say(&format!("what is left in {} does not die; the next start kills it", directories.join(", ")));
    } else {
        cgroup.kill();
    }
    is_late
}

fn signal_group(group: Pid, signal: Signal) {
    // ESRCH: all are dead already, which is what a signal is for.
    let _ = rustix::process::kill_process_group(group, signal); // As above; the process is our child.
}

/// A process id as it is told to the gateway.
pub(crate) fn number(process: Pid) -> u32 {
    process.as_raw_nonzero().get().unsigned_abs()
}
