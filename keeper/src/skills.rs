//! Skills: processes that live for one question of an agent, and never longer than the agent or its gateway.
//!
//! A skill has no rings. Its standard input and output are descriptors that the gateway has sent; what it writes to
//! standard error is in the log of its agent. It is killed when its agent is buried, when the gateway that waits for
//! it is gone, and by the kernel when the keeper dies.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::process::Pid;

use crate::cgroup::AgentCgroup;
use crate::channel::sentence;
use crate::control::{KEPT_VARIABLES, Skill};
use crate::sandbox::probe::Enforcement;
use crate::sandbox::{self, Place, SandboxError, Started, Task};
use crate::serve::say;

/// The most skills of one keeper.
pub(crate) const SKILLS_MAX: usize = 512;
/// Where a skill finds its name.
const NAME_VARIABLE: &str = "OPENCLAW_SKILL_NAME";

/// A skill that has been started and not been buried.
#[derive(Debug)]
pub(crate) struct Running {
    /// The agent that has asked for it.
    pub(crate) parent: u64,
    pub(crate) process: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: AgentCgroup,
}

/// Those that run, by instance: numbers of the same row as those of agents.
pub(crate) type Skills = BTreeMap<u64, Running>;

/// Why a skill could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SkillError {
    #[error("standard input and output of skill {name} came as {count} descriptors, not two")]
    Descriptors { name: String, count: usize },
    #[error("log file {} cannot be opened", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl SkillError {
    /// What was being done.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            Self::Descriptors { .. } => "descriptors",
            Self::Log { .. } => "log",
            Self::Sandbox(SandboxError::Execute { .. }) => "run",
            Self::Sandbox(_) => "sandbox",
        }
    }
}

/// Starts a skill in its sandbox.
pub(crate) fn launch(
    request: &Skill,
    descriptors: Vec<OwnedFd>,
    open_files_max: Option<u64>,
    cgroup: &AgentCgroup,
    enforcement: &Enforcement,
) -> Result<Started, SkillError> {
    let count = descriptors.len();
    let Ok([input, output]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err(SkillError::Descriptors { name: request.name.clone(), count });
    };
    let failed = |source| SkillError::Log { path: request.log_path.clone(), source };
    let log: File =
        OpenOptions::new().create(true).append(true).mode(0o600).open(&request.log_path).map_err(failed)?;
    let kept = KEPT_VARIABLES.into_iter().filter(|name| *name != "TMPDIR");
    let kept = kept.filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let own = (OsString::from(NAME_VARIABLE), OsString::from(&request.name));
    let task = Task {
        argv: request.argv.clone(),
        environment: kept.chain([own]).collect(),
        working_directory: PathBuf::from("/"),
        standard: [input, output, log.into()],
        rings: Vec::new(),
        open_files_max,
        dies_with_keeper: true,
    };
    let attach = |process, born| match cgroup.attach(process, born) {
        Err(refused) if !request.limits.require => {
            say(&format!("skill {} is in no cgroup: {}", request.name, sentence(&refused)));
            Ok(())
        }
        attached => attached,
    };
    let place = Place { birth: cgroup.birthplace(), attach: &attach };
    Ok(sandbox::start(&request.sandbox, enforcement, task, &place)?)
}
