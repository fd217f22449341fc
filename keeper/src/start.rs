//! Starts a gateway in the place of one that is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit};

use crate::control::Start;
use crate::succession::Process;

/// Why no gateway was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("it has no command")]
    NoCommand,
    #[error("standard error cannot be shared with it")]
    Output(#[source] io::Error),
    #[error("program {program} cannot be run")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("program {program} was started and is gone already")]
    Gone { program: String },
}

/// Starts it in a process group of its own; what it prints goes to the keeper's standard error, which was that of the
/// first gateway. `open_files` is the limit it gets, since the keeper has raised its own.
pub(crate) fn start(how: &Start, open_files: Rlimit) -> Result<Process, StartError> {
    let Some((program, arguments)) = how.argv.split_first() else { return Err(StartError::NoCommand) };
    let output = || -> Result<OwnedFd, StartError> {
        io::stderr().as_fd().try_clone_to_owned().map_err(StartError::Output)
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&how.working_directory).process_group(0);
    command.stdin(Stdio::null()).stdout(output()?).stderr(output()?);
    for (name, value) in &how.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // The loop reaps it when its pidfd says that it is dead.
    let child = command.spawn().map_err(|source| StartError::Run { program: program.to_owned(), source })?;
    let id = Pid::from_child(&child);
    // With the keeper's limit it works as well.
    let _ = rustix::process::prlimit(Some(id), Resource::Nofile, open_files); // As above.
    Process::watch(id).ok_or_else(|| StartError::Gone { program: program.to_owned() })
}
