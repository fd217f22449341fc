//! What the keeper hands to an agent: four descriptors at fixed numbers and six variables.
//!
//! | descriptor | variable | what |
//! |---|---|---|
//! | 3 | `OPENCLAW_AGENT_ENGINE_HALF_FD` | the half the engine writes, read-only |
//! | 4 | `OPENCLAW_AGENT_AGENT_HALF_FD` | the half the agent writes |
//! | 5 | `OPENCLAW_AGENT_DOORBELL_FD` | the eventfd that wakes the engine |
//! | 6 | `OPENCLAW_AGENT_PASSAGE_FD` | the socket on which large messages travel by descriptor; older keepers have none |
//! |   | `OPENCLAW_AGENT_NAME` | the agent's name in the configuration |
//! |   | `OPENCLAW_AGENT_GENERATION` | which incarnation this is |

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

/// Variable: the agent's name in the configuration.
pub const NAME_VARIABLE: &str = "OPENCLAW_AGENT_NAME";
/// Variable: which incarnation of the agent this process is.
pub const GENERATION_VARIABLE: &str = "OPENCLAW_AGENT_GENERATION";
/// Variable: number of the descriptor of the engine's half.
pub const ENGINE_HALF_VARIABLE: &str = "OPENCLAW_AGENT_ENGINE_HALF_FD";
/// Variable: number of the descriptor of the agent's half.
pub const AGENT_HALF_VARIABLE: &str = "OPENCLAW_AGENT_AGENT_HALF_FD";
/// Variable: number of the descriptor of the doorbell.
pub const DOORBELL_VARIABLE: &str = "OPENCLAW_AGENT_DOORBELL_FD";
/// Variable: number of the descriptor of the side channel for large messages. May be absent.
pub const PASSAGE_VARIABLE: &str = "OPENCLAW_AGENT_PASSAGE_FD";

/// All of them; a host removes them from the environment of the command it runs.
pub const VARIABLES: [&str; 6] = [
    NAME_VARIABLE,
    GENERATION_VARIABLE,
    ENGINE_HALF_VARIABLE,
    AGENT_HALF_VARIABLE,
    DOORBELL_VARIABLE,
    PASSAGE_VARIABLE,
];

/// Where the keeper puts the engine's half.
pub const ENGINE_HALF_FD: RawFd = 3;
/// Where the keeper puts the agent's half.
pub const AGENT_HALF_FD: RawFd = 4;
/// Where the keeper puts the doorbell.
pub const DOORBELL_FD: RawFd = 5;
/// Where the keeper puts the side channel for large messages.
pub const PASSAGE_FD: RawFd = 6;

/// Standard input, output and error are never ring descriptors.
const FD_MIN: RawFd = 3;

/// Set once the descriptors have an owner.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Why what the keeper hands over could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The process was not started by the keeper.
    #[error("environment variable {variable} is not set; agents are started by the gateway")]
    Missing {
        /// Which variable.
        variable: &'static str,
    },
    /// A variable holds something else than a number in range.
    #[error("environment variable {variable} is {value:?}, expected {expected}")]
    Invalid {
        /// Which variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// Two variables name one descriptor.
    #[error("environment variable {variable} names descriptor {fd}, which another variable names too")]
    Shared {
        /// Which variable.
        variable: &'static str,
        /// The descriptor.
        fd: RawFd,
    },
    /// There is no such descriptor.
    #[error("environment variable {variable} names descriptor {fd}, which is not open")]
    NotOpen {
        /// Which variable.
        variable: &'static str,
        /// The descriptor.
        fd: RawFd,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Somebody in this process has them already.
    #[error("the descriptors of this agent have been taken before")]
    Taken,
}

/// The agent's end of a link, as the keeper hands it over.
#[derive(Debug)]
pub struct Inherited {
    /// The agent's name in the configuration.
    pub name: String,
    /// Which incarnation this is.
    pub generation: u64,
    /// The half the engine writes, read-only.
    pub engine_half: OwnedFd,
    /// The half the agent writes.
    pub agent_half: OwnedFd,
    /// Wakes the engine.
    pub doorbell: OwnedFd,
    /// Carries the descriptors of large messages, if the keeper has made one.
    pub passage: Option<OwnedFd>,
}

impl Inherited {
    /// Takes the descriptors and closes them to programs this process starts. Works once per process.
    pub fn take() -> Result<Self, InheritError> {
        let name = variable(NAME_VARIABLE)?;
        let value = variable(GENERATION_VARIABLE)?;
        let Ok(generation) = value.parse() else {
            let (variable, expected) = (GENERATION_VARIABLE, "a number");
            return Err(InheritError::Invalid { variable, value, expected });
        };
        let variables = [ENGINE_HALF_VARIABLE, AGENT_HALF_VARIABLE, DOORBELL_VARIABLE, PASSAGE_VARIABLE];
        let has_passage = std::env::var_os(PASSAGE_VARIABLE).is_some();
        let mut numbers = [0; 4];
        for (index, variable) in variables.into_iter().enumerate().take(3 + usize::from(has_passage)) {
            let fd = number(variable)?;
            if numbers.contains(&fd) {
                return Err(InheritError::Shared { variable, fd });
            }
            numbers[index] = fd;
        }
        // Relaxed: only one caller sees `false`, and nothing else is published by it.
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(InheritError::Taken);
        }
        let [engine_half, agent_half, doorbell, passage] = numbers;
        Ok(Self {
            name,
            generation,
            engine_half: own(ENGINE_HALF_VARIABLE, engine_half)?,
            agent_half: own(AGENT_HALF_VARIABLE, agent_half)?,
            doorbell: own(DOORBELL_VARIABLE, doorbell)?,
            passage: if has_passage { Some(own(PASSAGE_VARIABLE, passage)?) } else { None },
        })
    }
}

fn variable(variable: &'static str) -> Result<String, InheritError> {
    match std::env::var(variable) {
        Ok(value) => Ok(value),
        Err(std::env::VarError::NotPresent) => Err(InheritError::Missing { variable }),
        Err(std::env::VarError::NotUnicode(value)) => Err(InheritError::Invalid {
            variable,
            value: value.to_string_lossy().into_owned(),
            expected: "text",
        }),
    }
}

fn number(name: &'static str) -> Result<RawFd, InheritError> {
    let value = variable(name)?;
    match value.parse() {
        Ok(fd) if fd >= FD_MIN => Ok(fd),
        _ => Err(InheritError::Invalid {
            variable: name,
            value,
            expected: "the number of a descriptor above 2",
        }),
    }
}

/// Takes ownership of one inherited descriptor, and sees that it is open.
fn own(variable: &'static str, fd: RawFd) -> Result<OwnedFd, InheritError> {
    // SAFETY: nobody else owns the number: the keeper's variables hand it to this process, `TAKEN` lets one
    // caller pass, and the numbers differ. Whether it is open is asked next, before any other
    // use; if it is not, the value is given up without being closed.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    match rustix::io::fcntl_setfd(&owned, FdFlags::CLOEXEC) {
        Ok(()) => Ok(owned),
        Err(errno) => {
            let fd = owned.into_raw_fd();
            Err(InheritError::NotOpen { variable, fd, source: errno.into() })
        }
    }
}
