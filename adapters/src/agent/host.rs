//! The agent host's role: attach to the rings, run one kind of agent, end with its exit code.

use agent_sdk::inherited::InheritError;
use agent_sdk::{Agent, AttachError, Inherited, ReceiveError, ReplyError};

use super::{echo, stdio};

/// A variable that a host is started with, and its value: no huge pages. The allocator of the program asks for them, and the
/// first bytes that a host allocates would take 4 MiB, of which it needs a tenth. The allocator reads it before `main` does
/// anything, so the host itself would be too late. What a host runs knows nothing of it.
pub const SMALL_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");

/// What the host runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostKind {
    /// The built-in agent that answers with the text of the message.
    Echo,
    /// A command that speaks JSON lines.
    Stdio {
        /// Program and arguments. Never given to a shell.
        argv: Vec<String>,
    },
}

/// Why a host ended with nothing to say for it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The process was not started as an agent.
    #[error("this process cannot be an agent")]
    Inherit(#[from] InheritError),
    /// The rings were refused.
    #[error("the agent is not attached")]
    Attach(#[from] AttachError),
    /// The ring from the gateway is of no use any more.
    #[error("nothing more can be received")]
    Receive(#[from] ReceiveError),
    /// The ring to the gateway is of no use any more.
    #[error("nothing more can be replied")]
    Reply(#[from] ReplyError),
    /// A system call failed.
    #[error("{step} of command {program} failed")]
    Command {
        /// Which step.
        step: &'static str,
        /// The command's program.
        program: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Runs until the gateway stops the agent or the command ends, and returns the exit code of the process.
pub fn run(kind: HostKind) -> Result<u8, HostError> {
    let inherited = Inherited::take()?;
    match kind {
        HostKind::Echo => {
            echo::run(Agent::attach_to(inherited)?)?;
            Ok(0)
        }
        HostKind::Stdio { argv } => stdio::run(&argv, || Ok(Agent::attach_to(inherited)?)),
    }
}
