//! The cgroup of one keeper, in each hierarchy that is used, in which those of its agents are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::agent::{AgentCgroup, members, remove_tree, set};
use super::detect::{Cgroups, Obstacle, is_root};
use super::layout::{Controller, KEEPER_LEAF, NAME_PREFIX};
use super::limits::{Device, Limits, Setting, v1_settings, v2_settings};
use crate::control::CgroupPlace;
use crate::serve::say;

/// What begins the name of an agent's cgroup.
const AGENT_PREFIX: &str = "agent-";
/// The longest part of an agent's name in that of its cgroup.
const AGENT_NAME_CHARS_MAX: usize = 100;
/// How many names are tried for an agent whose instance number is that of one which is being removed.
const NAMES_MAX: usize = 16;
/// How often a directory is locked that another keeper removes at the same time, or that a keeper has which is just
/// ending.
const LOCK_TRIES_MAX: usize = 50;
/// The time between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// The most cgroups of other keepers that are looked at.
const ABANDONED_MAX: usize = 1024;

/// Why an agent that requires its limits is not started.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The machine, or its set-up, cannot hold it.
    #[error("{limit} cannot be enforced: {reason}")]
    NotEnforced {
        /// The limit.
        limit: String,
        /// What stands in the way.
        reason: String,
    },
    /// The cgroup cannot be made.
    #[error("cgroup {} cannot be made", path.display())]
    Make {
        /// Its directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses the limit.
    #[error("{value} cannot be written to {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The cgroups of one keeper's agents.
#[derive(Debug)]
pub struct Subtree {
    v1: BTreeMap<Controller, PathBuf>,
    v2: Option<PathBuf>,
    /// What version 2 limits.
    v2_controllers: BTreeSet<Controller>,
    /// Why the others are not limited.
    obstacles: BTreeMap<Controller, String>,
    device: Result<Device, String>,
    /// Its directories that are locked, while this lives (rule 1).
    locks: Vec<(PathBuf, File)>,
}

impl Subtree {
    /// Takes the cgroup of a state directory, and removes what dead keepers have left empty.
    pub fn open(cgroups: &Cgroups, state_directory: &Path) -> Self {
        let name = subtree_name(state_directory);
        let below = |own: &Result<PathBuf, Obstacle>| own.as_ref().ok().map(|own| own.join(&name));
        let v1: BTreeMap<_, _> = cgroups.v1.iter().filter_map(|(c, own)| Some((*c, below(own)?))).collect();
        let v2 = below(&cgroups.v2);
        let mut subtree = Self {
            v1,
            v2,
            v2_controllers: BTreeSet::new(),
            obstacles: BTreeMap::new(),
            device: Device::of(state_directory).map_err(|error| error.to_string()),
            locks: Vec::new(),
        };
        for controller in Controller::ALL {
            if let Err(obstacle) = cgroups.holder(controller) {
                subtree.obstacles.insert(controller, obstacle.to_string());
            }
        }
        for base in subtree.bases() {
            match lock(&base) {
                Some(file) => subtree.locks.push((base, file)),
                None => say(&format!("cgroup {} is not locked; what is left in it stays", base.display())),
            }
        }
        if let (Ok(own), Some(base)) = (&cgroups.v2, subtree.v2.clone()) {
            for controller in cgroups.v2_usable() {
                match hand_down(own, &base, controller, &cgroups.own_processes) {
                    Ok(()) => _ = subtree.v2_controllers.insert(controller),
                    Err(error) => _ = subtree.obstacles.insert(controller, error.to_string()),
                }
            }
        }
        subtree.remove_abandoned();
        subtree
    }

    /// Its directories, each once.
    fn bases(&self) -> BTreeSet<PathBuf> {
        self.v1.values().chain(&self.v2).cloned().collect()
    }

    /// Makes the cgroup of an agent and sets its limits.
    ///
    /// Without [`Limits::require`] there is no error: what cannot be made or set is said on standard error.
    pub fn create(&self, name: &str, instance: u64, limits: &Limits) -> Result<AgentCgroup, LimitError> {
        let refused = |error: LimitError| {
            if limits.require {
                return Err(error);
            }
            say(&format!("agent {name} goes without: {}", crate::channel::sentence(&error)));
            Ok(())
        };
        if limits.require {
            self.check(limits)?;
        }
        let mut cgroup = self.make(name, instance, limits, &refused)?;
        let device = self.device.as_ref().ok().copied();
        let v1 = v1_settings(limits, device).into_iter().map(|setting| {
            let directory = cgroup.v1.get(&setting.controller).cloned();
            (setting, directory)
        });
        let on_v2 = |setting: &Setting| self.v2_controllers.contains(&setting.controller);
        let v2 = v2_settings(limits, device).into_iter().filter(on_v2);
        let v2 = v2.map(|setting| (setting, cgroup.v2.clone()));
        let settings: Vec<_> = v1.chain(v2).collect();
        for (setting, directory) in settings {
            // A limit that nothing holds was told when the gateway started.
            let Some(directory) = directory else { continue };
            if let Err(source) = cgroup.apply(&setting, &directory) {
                let path = directory.join(setting.file);
                if let Err(error) = refused(LimitError::Write { path, value: setting.value, source }) {
                    // Nothing was started in it.
                    cgroup.remove();
                    return Err(error);
                }
            } else if setting.controller == Controller::Memory {
                cgroup.memory_limit_bytes = limits.memory_bytes;
            }
        }
        Ok(cgroup)
    }

    /// Whether there is something to hold every limit.
    fn check(&self, limits: &Limits) -> Result<(), LimitError> {
        for controller in limits.controllers() {
            let reason = match (self.obstacles.get(&controller), &self.device) {
                (Some(obstacle), _) => obstacle,
                (None, Err(reason)) if controller == Controller::Io => reason,
                (None, _) => continue,
            };
            let (limit, reason) = (limits.describe(controller), reason.clone());
            return Err(LimitError::NotEnforced { limit, reason });
        }
        Ok(())
    }

    /// Makes the directories of an agent's cgroup.
    fn make(
        &self,
        name: &str,
        instance: u64,
        limits: &Limits,
        refused: &impl Fn(LimitError) -> Result<(), LimitError>,
    ) -> Result<AgentCgroup, LimitError> {
        let limited = limits.controllers();
        let is_used = |controller: Controller| match controller {
            Controller::Memory | Controller::Processes => true,
            Controller::Cpu | Controller::Io => limited.contains(&controller),
            // Version 2 counts by itself.
            Controller::CpuAccounting => self.v2.is_none(),
        };
        let leaf = self.free_leaf(name, instance);
        let make = |base: &PathBuf| -> Result<Option<PathBuf>, LimitError> {
            let path = base.join(&leaf);
            match std::fs::create_dir_all(&path) {
                Ok(()) => Ok(Some(path)),
                Err(source) => refused(LimitError::Make { path, source }).map(|()| None),
            }
        };
        let mut cgroup = AgentCgroup { v1: BTreeMap::new(), v2: None, memory_limit_bytes: None };
        cgroup.v2 = self.v2.as_ref().map(&make).transpose()?.flatten();
        for (controller, base) in self.v1.iter().filter(|(controller, _)| is_used(**controller)) {
            match make(base) {
                Ok(Some(path)) => _ = cgroup.v1.insert(*controller, path),
                Ok(None) => {}
                Err(error) => {
                    cgroup.remove();
                    return Err(error);
                }
            }
        }
        Ok(cgroup)
    }

    /// A name that no cgroup has here. Instances that live have different numbers, but the cgroup of a dead one may
    /// not be removed yet.
    fn free_leaf(&self, name: &str, instance: u64) -> String {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_.~".contains(*c);
        let plain: String = name.chars().filter(is_plain).take(AGENT_NAME_CHARS_MAX).collect();
        let name = format!("{AGENT_PREFIX}{plain}-{instance}");
        let is_taken = |leaf: &str| self.v1.values().chain(&self.v2).any(|base| base.join(leaf).exists());
        let others = (2..=NAMES_MAX).map(|number| format!("{name}.{number}"));
        std::iter::once(name.clone()).chain(others).find(|leaf| !is_taken(leaf)).unwrap_or(name)
    }

    /// The cgroups of agents that an earlier keeper has left. Their processes are not children of this one.
    pub fn leftovers(&self) -> Vec<AgentCgroup> {
        let locked = |base: &PathBuf| self.locks.iter().any(|(locked, _)| locked == base);
        let leaves: BTreeSet<String> =
            self.locks.iter().flat_map(|(base, _)| folders(base, AGENT_PREFIX)).collect();
        leaves.iter().map(|leaf| self.existing(leaf, None, &locked)).collect()
    }

    /// The cgroup of an agent that an earlier keeper of the same directory has started; an empty one if it had none.
    pub fn adopted(&self, place: Option<CgroupPlace>) -> AgentCgroup {
        let place = place.filter(|place| place.leaf.starts_with(AGENT_PREFIX) && !place.leaf.contains('/'));
        match place {
            Some(CgroupPlace { leaf, memory_limit_bytes }) => {
                self.existing(&leaf, memory_limit_bytes, &|_| true)
            }
            None => AgentCgroup { v1: BTreeMap::new(), v2: None, memory_limit_bytes: None },
        }
    }

    /// What there is of a cgroup in those hierarchies.
    fn existing(
        &self,
        leaf: &str,
        memory_limit_bytes: Option<u64>,
        within: &dyn Fn(&PathBuf) -> bool,
    ) -> AgentCgroup {
        let existing = |base: &PathBuf| Some(base.join(leaf)).filter(|path| within(base) && path.exists());
        AgentCgroup {
            v1: self.v1.iter().filter_map(|(c, base)| Some((*c, existing(base)?))).collect(),
            v2: self.v2.as_ref().and_then(existing),
            memory_limit_bytes,
        }
    }

    /// Removes it, as far as it is empty, and gives the lock back. The leaf of the keeper itself stays where there is one.
    pub fn close(self) {
        for base in self.bases() {
            // One that an agent is still in stays for the next keeper.
            let _ = std::fs::remove_dir(base); // As above.
        }
    }

    /// Removes empty cgroups of keepers that are dead (rule 1).
    fn remove_abandoned(&self) {
        for parent in self.bases().iter().filter_map(|base| base.parent()) {
            for name in folders(parent, NAME_PREFIX).into_iter().take(ABANDONED_MAX) {
                let directory = parent.join(name);
                if let Some(_lock) = try_lock(&directory) {
                    // What a process is in stays.
                    let _ = remove_tree(&directory); // As above.
                }
            }
        }
    }
}

/// Makes a controller usable below `base`, which is a child of `own`.
fn hand_down(own: &Path, base: &Path, controller: Controller, own_processes: &[u32]) -> io::Result<()> {
    let Some(name) = controller.v2_name() else { return Ok(()) };
    if !is_root(own) {
        let inside = members(own);
        let leaf = base.join(KEEPER_LEAF);
        for number in own_processes.iter().filter(|number| inside.contains(number)) {
            std::fs::create_dir_all(&leaf)?;
            set(&leaf.join("cgroup.procs"), &number.to_string())?;
        }
    }
    set(&own.join("cgroup.subtree_control"), &format!("+{name}"))?;
    set(&base.join("cgroup.subtree_control"), &format!("+{name}"))
}

/// Makes a directory and locks it. `None` if that is refused, or another process has the lock.
fn lock(directory: &Path) -> Option<File> {
    for _ in 0..LOCK_TRIES_MAX {
        // Another keeper may remove the directory between the two steps, since it is empty.
        std::fs::create_dir_all(directory).ok()?; // It is said that there is no lock.
        if let Some(file) = try_lock(directory) {
            return Some(file);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    None
}

/// Locks a directory that is there.
fn try_lock(directory: &Path) -> Option<File> {
    use std::os::unix::fs::MetadataExt;
    let file = File::open(directory).ok()?; // Gone.
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?; // Another has it.
    // Whoever had the lock may have removed the directory before.
    let same = std::fs::metadata(directory).ok()?.ino() == file.metadata().ok()?.ino();
    same.then_some(file)
}

/// The directories in a directory whose names begin with `prefix`.
fn folders(directory: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten(); // One that is gone has none.
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// The name of the cgroup of a state directory, the same for every keeper of it.
pub fn subtree_name(state_directory: &Path) -> String {
    // FNV-1a: the standard library's hash may differ between builds.
    let bytes = state_directory.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{NAME_PREFIX}{hash:016x}")
}
