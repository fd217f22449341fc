//! Which controllers can be used here, and what stands in the way of the others. Reads only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::layout::{self, Controller, Place};

/// Why a controller cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// No hierarchy with it is mounted.
    NotMounted,
    /// What is mounted does not show the own cgroup.
    Hidden {
        /// The own cgroup.
        own: String,
    },
    /// No cgroups can be made in the own one.
    NotWritable {
        /// Its directory.
        directory: PathBuf,
        /// The kernel's answer.
        reason: String,
    },
    /// The own cgroup of version 2 has not been given the controller.
    NotDelegated {
        /// Its directory.
        directory: PathBuf,
    },
    /// Processes of others are in the own cgroup of version 2, beside which no controller can be used.
    Shared {
        /// Its directory.
        directory: PathBuf,
        /// How many.
        processes: usize,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted => write!(f, "no cgroup hierarchy with this controller is mounted"),
            Self::Hidden { own } => write!(f, "the own cgroup {own} is not below what is mounted"),
            Self::NotWritable { directory, reason } => {
                write!(f, "no cgroup can be made in {}: {reason}", directory.display())
            }
            Self::NotDelegated { directory } => {
                write!(f, "the cgroup {} does not have this controller", directory.display())
            }
            Self::Shared { directory, processes } => {
                write!(f, "the cgroup {} holds {processes} processes of others", directory.display())
            }
        }
    }
}

/// What holds a limit or a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A hierarchy of version 1.
    Version1,
    /// The hierarchy of version 2.
    Version2,
}

/// What this process can do with cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Directories of the own cgroup in hierarchies of version 1 that are mounted.
    pub(super) v1: BTreeMap<Controller, Result<PathBuf, Obstacle>>,
    /// Directory of the own cgroup of version 2.
    pub(super) v2: Result<PathBuf, Obstacle>,
    /// What that can limit.
    v2_controllers: BTreeMap<Controller, Result<(), Obstacle>>,
    /// Processes that are moved into a leaf where that is needed.
    pub(super) own_processes: Vec<u32>,
}

impl Cgroups {
    /// Looks at the cgroups of this process. `own_processes` are those that the keeper moves: it and its gateway.
    pub fn of_this_process(own_processes: &[u32]) -> Self {
        // A file that cannot be read is as one that says nothing: no hierarchy is mounted.
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::detect(Path::new("/"), &read("/proc/self/cgroup"), &read("/proc/self/mountinfo"), own_processes)
    }

    /// As [`Self::of_this_process`], from the texts of the two files; mount points lie below `root`.
    pub fn detect(root: &Path, own_cgroup: &str, mountinfo: &str, own_processes: &[u32]) -> Self {
        let layout = layout::parse(own_cgroup, mountinfo);
        let writable = |place: &Place, files: &[&str]| match place {
            Place::NotMounted => Err(Obstacle::NotMounted),
            Place::Hidden { own } => Err(Obstacle::Hidden { own: own.clone() }),
            Place::At(path) => {
                let directory = root.join(path.strip_prefix("/").unwrap_or(path));
                let paths = files.iter().map(|file| directory.join(file));
                for path in std::iter::once(directory.clone()).chain(paths) {
                    if let Err(errno) = rustix::fs::access(&path, Access::WRITE_OK | Access::EXISTS) {
                        let reason = std::io::Error::from(errno).to_string();
                        return Err(Obstacle::NotWritable { directory, reason });
                    }
                }
                Ok(directory)
            }
        };
        let v1 = layout.v1.iter().map(|(controller, place)| (*controller, writable(place, &[]))).collect();
        let v2 = writable(&layout.v2, &["cgroup.procs", "cgroup.subtree_control"]);
        let v2_controllers = match &v2 {
            Ok(directory) => controllers(directory, own_processes),
            Err(_) => BTreeMap::new(),
        };
        Self { v1, v2, v2_controllers, own_processes: own_processes.to_owned() }
    }

    /// What can hold the limits of a controller.
    pub fn holder(&self, controller: Controller) -> Result<Holder, Obstacle> {
        match self.v1.get(&controller) {
            Some(Ok(_)) => return Ok(Holder::Version1),
            Some(Err(obstacle)) => return Err(obstacle.clone()),
            None => {}
        }
        match (self.v2_controllers.get(&controller), &self.v2) {
            (Some(found), _) => found.clone().map(|()| Holder::Version2),
            (None, Err(obstacle)) => Err(obstacle.clone()),
            // Version 2 is there, but no version has the controller.
            (None, Ok(_)) => Err(Obstacle::NotMounted),
        }
    }

    /// What can find all descendants of an agent.
    pub fn tree_holder(&self) -> Result<Holder, Obstacle> {
        match &self.v2 {
            Ok(_) => Ok(Holder::Version2),
            Err(obstacle) => self
                .holder(Controller::Processes)
                .or_else(|_| self.holder(Controller::Memory))
                .map_err(|other| if *obstacle == Obstacle::NotMounted { other } else { obstacle.clone() }),
        }
    }

    /// What the own cgroup of version 2 can limit.
    pub(super) fn v2_usable(&self) -> Vec<Controller> {
        let usable =
            |(controller, found): (&Controller, &Result<(), Obstacle>)| found.is_ok().then_some(*controller);
        self.v2_controllers.iter().filter_map(usable).filter(|c| !self.v1.contains_key(c)).collect()
    }
}

/// Whether a cgroup of version 2 is the root, for which fewer rules hold.
pub(super) fn is_root(directory: &Path) -> bool {
    !directory.join("cgroup.type").exists()
}

/// What a cgroup of version 2 can limit. A controller that a kernel has, but in no version 1 hierarchy, and that
/// has not been handed down to here, has an obstacle; others are left out where the cgroup is the root.
fn controllers(directory: &Path, own_processes: &[u32]) -> BTreeMap<Controller, Result<(), Obstacle>> {
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default(); // Says nothing.
    let (given, enabled, members) =
        (read("cgroup.controllers"), read("cgroup.subtree_control"), read("cgroup.procs"));
    let has = |text: &str, name: &str| text.split_ascii_whitespace().any(|word| word == name);
    let own = |text: &&str| text.parse().is_ok_and(|number| own_processes.contains(&number));
    let others = members.split_ascii_whitespace().filter(|text| !own(text)).count();
    let root = is_root(directory);
    let mut found = BTreeMap::new();
    for controller in Controller::ALL {
        let Some(name) = controller.v2_name() else { continue };
        let directory = directory.to_owned();
        let answer = if !has(&given, name) {
            if root {
                continue;
            }
            Err(Obstacle::NotDelegated { directory })
        } else if others > 0 && !root && !has(&enabled, name) {
            Err(Obstacle::Shared { directory, processes: others })
        } else {
            Ok(())
        };
        found.insert(controller, answer);
    }
    found
}
