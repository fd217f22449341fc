//! Rings, log file, environment and command of a new agent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use agent_sdk::inherited as names;
use rustix::process::{Pid, PidfdFlags, Rlimit, Signal, WaitOptions};
use shm_transport::layout::{ConfigPage, Geometry, GeometryError};
use shm_transport::segment::{self, CreateError, Segment};

use crate::cgroup::AgentCgroup;
use crate::channel::sentence;
use crate::control::{KEPT_VARIABLES, Spawn};
use crate::ledger::Ledger;
use crate::sandbox::probe::Enforcement;
use crate::sandbox::{self, Place, SandboxError, Started, Task};
use crate::serve::say;
use crate::spawn::{self, Reservation};

/// A log file larger than this is put aside when its agent starts.
const LOG_BYTES_MAX: u64 = 1024 * 1024;

/// The descriptors of an agent, kept while it lives.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) engine_half: Segment,
    /// Read-only.
    pub(crate) agent_half: OwnedFd,
    pub(crate) doorbell: OwnedFd,
    /// The engine's end of the side channel for large messages.
    pub(crate) engine_passage: OwnedFd,
    /// The agent's end of it.
    pub(crate) agent_passage: OwnedFd,
}

impl Held {
    /// What the gateway gets, with the pidfd.
    pub(crate) fn of_gateway<'a>(&'a self, pidfd: &'a OwnedFd) -> [BorrowedFd<'a>; 6] {
        let halves = (self.engine_half.writable.as_fd(), self.agent_half.as_fd());
        let passage = (self.engine_passage.as_fd(), self.agent_passage.as_fd());
        [halves.0, halves.1, self.doorbell.as_fd(), passage.0, passage.1, pidfd.as_fd()]
    }
}

/// The descriptors of an agent that is being started.
#[derive(Debug)]
pub(crate) struct Fresh {
    held: Arc<Held>,
    /// Writable: nobody but the agent has it.
    agent_half: OwnedFd,
}

impl Fresh {
    /// What the agent gets, in the order of the numbers at which it finds them.
    pub(crate) fn of_agent(&self) -> [BorrowedFd<'_>; 4] {
        let halves = (self.held.engine_half.read_only.as_fd(), self.agent_half.as_fd());
        [halves.0, halves.1, self.held.doorbell.as_fd(), self.held.agent_passage.as_fd()]
    }
}

/// A new agent.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) process: Pid,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) held: Arc<Held>,
}

/// Why an agent could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("agent {name} has no command")]
    NoCommand { name: String },
    #[error("{field} of agent {name} cannot be used")]
    Geometry {
        name: String,
        field: &'static str,
        #[source]
        source: GeometryError,
    },
    #[error("the rings of agent {name} cannot be made")]
    Segment {
        name: String,
        #[source]
        source: CreateError,
    },
    #[error("the doorbell of agent {name} cannot be made")]
    Doorbell {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the socket for large messages of agent {name} cannot be made")]
    Passage {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("log file {} cannot be opened", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the cgroup of agent {name} cannot be entered")]
    Cgroup {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("working directory {} cannot be used", path.display())]
    WorkingDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("program {program} cannot be run")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("the descriptors of agent {name} cannot be copied")]
    Descriptors {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("program {program} was started but cannot be watched")]
    Watch {
        program: String,
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// What was being done.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            Self::NoCommand { .. } => "command",
            Self::Geometry { .. } | Self::Segment { .. } | Self::Doorbell { .. } | Self::Passage { .. } => {
                "rings"
            }
            Self::Log { .. } => "log",
            Self::Cgroup { .. } => "cgroup",
            Self::WorkingDirectory { .. } => "working directory",
            Self::Run { .. } | Self::Sandbox(SandboxError::Execute { .. }) => "run",
            Self::Sandbox(_) => "sandbox",
            Self::Descriptors { .. } => "descriptors",
            Self::Watch { .. } => "watch",
        }
    }
}

/// Starts an agent and takes hold of what belongs to it.
pub(crate) fn launch(
    request: &Spawn,
    reservation: &Reservation,
    open_files: Rlimit,
    cgroup: &AgentCgroup,
    (enforcement, ledger): (&Enforcement, &Ledger),
) -> Result<Launched, LaunchError> {
    let fresh = Arc::new(fresh(request)?);
    let held = Arc::clone(&fresh.held);
    let Some(program) = request.argv.first() else {
        return Err(LaunchError::NoCommand { name: request.name.clone() });
    };
    check_working_directory(request)?;
    let in_no_cgroup = |refused: &dyn std::error::Error| {
        say(&format!("agent {} is in no cgroup: {}", request.name, sentence(refused)));
    };
    if let Some(spec) = &request.sandbox {
        let task = task(request, reservation, open_files, &fresh, output(request)?)?;
        let attach = |process, born| {
            // Where the disk is full, only its cgroup tells of it.
            let _ = ledger.note(process); // As above.
            match cgroup.attach(process, born) {
                Err(refused) if !request.limits.require => {
                    in_no_cgroup(&refused);
                    Ok(())
                }
                attached => attached,
            }
        };
        let place = Place { birth: cgroup.birthplace(), attach: &attach };
        let Started { process, pidfd } = sandbox::start(spec, enforcement, task, &place)?;
        return Ok(Launched { process, pidfd: Arc::new(pidfd), held });
    }
    let cgroups =
        cgroup.attach_fds().map_err(|source| LaunchError::Cgroup { name: request.name.clone(), source })?;
    let is_optional = !cgroups.is_empty() && !request.limits.require;
    let start = |cgroups| {
        let mut command = command(request, program, output(request)?);
        spawn::start(reservation, &mut command, &fresh, open_files, (cgroups, ledger.file()))
            .map_err(|source| LaunchError::Run { program: program.to_owned(), source })
    };
    let child = match start(cgroups) {
        // It is not told whether its program or its cgroup refused it. Nothing has run yet.
        Err(refused) if is_optional => {
            let started = start(Vec::new())?;
            in_no_cgroup(&refused);
            started
        }
        started => started?,
    };
    let process = Pid::from_child(&child);
    match rustix::process::pidfd_open(process, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Launched { process, pidfd: Arc::new(pidfd), held }),
        Err(errno) => {
            // Whatever these two answer, the process is not ours to use.
            let _ = rustix::process::kill_process_group(process, Signal::KILL); // As above.
            let _ = rustix::process::waitpid(Some(process), WaitOptions::empty()); // As above.
            Err(LaunchError::Watch { program: program.to_owned(), source: errno.into() })
        }
    }
}

/// What a sandboxed agent is made of.
fn task(
    request: &Spawn,
    reservation: &Reservation,
    open_files: Rlimit,
    fresh: &Fresh,
    (stdout, stderr): (File, File),
) -> Result<Task, LaunchError> {
    let failed = |source| LaunchError::Descriptors { name: request.name.clone(), source };
    let input = File::open("/dev/null").map_err(failed)?;
    Ok(Task {
        argv: request.argv.clone(),
        // The private /tmp is where the default is, whatever the keeper's own is called.
        environment: environment(request).into_iter().filter(|(name, _)| name != "TMPDIR").collect(),
        working_directory: match &request.working_directory {
            Some(path) => path.clone(),
            None => std::env::current_dir().map_err(failed)?,
        },
        standard: [input.into(), stdout.into(), stderr.into()],
        rings: spawn::rings(reservation, fresh).map_err(failed)?,
        open_files_max: open_files.maximum,
        dies_with_keeper: false,
    })
}

/// Makes the rings and the doorbell.
fn fresh(request: &Spawn) -> Result<Fresh, LaunchError> {
    let half = |field: &'static str, label: &str, bytes: u64| {
        let name = || request.name.clone();
        let geometry =
            Geometry::new(bytes).map_err(|source| LaunchError::Geometry { name: name(), field, source })?;
        let page = ConfigPage::new(geometry, request.instance, request.generation);
        segment::create(&format!("openclaw-{label}-{}", request.instance), &page)
            .map_err(|source| LaunchError::Segment { name: name(), source })
    };
    let failed = |source| LaunchError::Passage { name: request.name.clone(), source };
    let (engine_passage, agent_passage) = shm_transport::passage::pair().map_err(failed)?;
    let engine_half = half("to_agent_bytes", "engine", request.to_agent_bytes)?;
    let Segment { writable, read_only } = half("from_agent_bytes", "agent", request.from_agent_bytes)?;
    let doorbell = shm_transport::doorbell::eventfd()
        .map_err(|source| LaunchError::Doorbell { name: request.name.clone(), source })?;
    let held = Held { engine_half, agent_half: read_only, doorbell, engine_passage, agent_passage };
    Ok(Fresh { held: Arc::new(held), agent_half: writable })
}

/// All variables of the agent.
fn environment(request: &Spawn) -> BTreeMap<OsString, OsString> {
    let kept = KEPT_VARIABLES.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
    let asked = request.environment.iter().map(|(name, value)| (name.into(), value.into()));
    let own = [
        (names::NAME_VARIABLE, request.name.clone()),
        (names::GENERATION_VARIABLE, request.generation.to_string()),
        (names::ENGINE_HALF_VARIABLE, names::ENGINE_HALF_FD.to_string()),
        (names::AGENT_HALF_VARIABLE, names::AGENT_HALF_FD.to_string()),
        (names::DOORBELL_VARIABLE, names::DOORBELL_FD.to_string()),
        (names::PASSAGE_VARIABLE, names::PASSAGE_FD.to_string()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.into(), value.into()));
    kept.chain(asked).chain(own).collect()
}

/// Looked at here, since a failed change of directory and a missing program are told alike.
fn check_working_directory(request: &Spawn) -> Result<(), LaunchError> {
    let Some(path) = &request.working_directory else { return Ok(()) };
    let source = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => io::ErrorKind::NotADirectory.into(),
        Err(error) => error,
    };
    Err(LaunchError::WorkingDirectory { path: path.clone(), source })
}

/// Where standard output and standard error go.
fn output(request: &Spawn) -> Result<(File, File), LaunchError> {
    match &request.log_path {
        Some(path) => {
            let failed = |source| LaunchError::Log { path: path.clone(), source };
            let log = open_log(path).map_err(failed)?;
            Ok((log.try_clone().map_err(failed)?, log))
        }
        None => {
            let own = || io::stderr().as_fd().try_clone_to_owned().map(File::from);
            let failed = |source| LaunchError::Log { path: PathBuf::from("/dev/stderr"), source };
            Ok((own().map_err(failed)?, own().map_err(failed)?))
        }
    }
}

/// The command of an agent without a sandbox, with everything that needs no fork.
fn command(request: &Spawn, program: &str, (stdout, stderr): (File, File)) -> Command {
    let mut command = Command::new(program);
    command.args(&request.argv[1..]).env_clear().envs(environment(request));
    if let Some(path) = &request.working_directory {
        command.current_dir(path);
    }
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command
}

/// Opens a log for appending. A large one is put aside first, in place of the one put aside before.
fn open_log(path: &Path) -> io::Result<File> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > LOG_BYTES_MAX => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".1");
            std::fs::rename(path, aside)?;
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log above the limit is put aside, one at the limit is appended to, and both are private.
    #[test]
    fn a_large_log_is_put_aside() {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let aside = directory.path().join("agent.log.1");
        let length = |path: &Path| std::fs::metadata(path).unwrap().len();

        open_log(&path).unwrap().set_len(LOG_BYTES_MAX).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        open_log(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!((length(&path), aside.exists()), (LOG_BYTES_MAX + 1, false));
        open_log(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!((length(&path), length(&aside)), (3, LOG_BYTES_MAX + 1));
    }
}
