//! What of an agent's limits holds on this machine, and how to turn on what does not.

use std::fmt;
use std::path::Path;

use super::detect::{Cgroups, Holder, Obstacle};
use super::layout::Controller;
use super::limits::{Device, Limits};

/// Something that can be held to, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// The limit of memory.
    Memory,
    /// The limit of processes and threads.
    Processes,
    /// The limit of CPU time.
    Cpu,
    /// The limit of writing.
    IoWrite,
    /// Whatever an agent has started ends with it, also in sessions of its own.
    WholeTree,
}

impl Feature {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Processes, Self::Cpu, Self::IoWrite, Self::WholeTree];

    fn controller(self) -> Option<Controller> {
        match self {
            Self::Memory => Some(Controller::Memory),
            Self::Processes => Some(Controller::Processes),
            Self::Cpu => Some(Controller::Cpu),
            Self::IoWrite => Some(Controller::Io),
            Self::WholeTree => None,
        }
    }

    /// The key below `limits` that it belongs to, if it is a limit.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memoryMib"),
            Self::Processes => Some("processes"),
            Self::Cpu => Some("cpus"),
            Self::IoWrite => Some("ioWriteMibPerS"),
            Self::WholeTree => None,
        }
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory limit",
            Self::Processes => "process limit",
            Self::Cpu => "CPU limit",
            Self::IoWrite => "write limit",
            Self::WholeTree => "end of all descendants",
        }
    }

    /// Whether these limits need it.
    pub fn is_needed(self, limits: &Limits) -> bool {
        self.controller().is_some_and(|controller| limits.controllers().contains(&controller))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a feature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does, by this version of cgroups.
    Enforced(Holder),
    /// It does not.
    NotEnforced {
        /// What stands in the way.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// A feature and whether it holds on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// Which feature.
    pub feature: Feature,
    /// Whether it holds.
    pub state: State,
}

impl Cgroups {
    /// What holds for agents of a gateway with this state directory, each [`Feature`] once.
    pub fn enforcement(&self, state_directory: &Path) -> Vec<Enforcement> {
        let device = Device::of(state_directory).map_err(|error| error.to_string());
        Feature::ALL.into_iter().map(|feature| self.enforcement_of(feature, &device)).collect()
    }

    fn enforcement_of(&self, feature: Feature, device: &Result<Device, String>) -> Enforcement {
        let holder = match feature.controller() {
            Some(controller) => self.holder(controller),
            None => self.tree_holder(),
        };
        let state = match (holder, device) {
            (Err(obstacle), _) => {
                State::NotEnforced { reason: obstacle.to_string(), remedy: remedy(&obstacle) }
            }
            (Ok(_), Err(reason)) if feature == Feature::IoWrite => State::NotEnforced {
                reason: reason.clone(),
                remedy: "put the state directory on a file system of one disk",
            },
            (Ok(holder), _) => State::Enforced(holder),
        };
        Enforcement { feature, state }
    }
}

fn remedy(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NotMounted => "use a kernel with this controller, and mount its hierarchy",
        Obstacle::Hidden { .. } => "give the container its own cgroup (for example --cgroupns=private)",
        Obstacle::NotWritable { .. } => {
            "run as root, or as a systemd service with Delegate=yes; in a container mount /sys/fs/cgroup writable"
        }
        Obstacle::NotDelegated { .. } => "run as a systemd service with Delegate=cpu memory pids io",
        Obstacle::Shared { .. } => {
            "give the gateway a cgroup of its own, for example by systemd-run --scope -p Delegate=yes"
        }
    }
}
