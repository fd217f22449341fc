//! What gateway and keeper say to each other: one JSON object a datagram.
//!
//! The first request is [`Request::Hello`]; the answer to it settles the version. Everything after that is
//! asynchronous: requests are carried out in order, events come when something happens. Whoever says
//! [`Request::Observe`] instead goes on with [`crate::view`].
//!
//! Between [`Event::Welcome`] and [`Event::Held`] the gateway is told what is held from the one before it: in a
//! new keeper nothing.
//!
//! Whoever says [`Request::Shutdown`] first, while no gateway is served, ends the keeper: so a gateway gets rid of one
//! of another version. The text of that request and of [`Event::OtherVersion`] is the same in all versions.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::cgroup::Limits;
use crate::sandbox::probe::Enforcement;
use crate::sandbox::spec::SandboxSpec;

/// The version this build speaks.
pub const VERSION: u32 = 2;
/// The largest datagram.
pub const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// The most agents of one keeper.
pub const AGENTS_MAX: usize = 8192;
/// The longest name of an agent or of a ring, so that lists of them fit into datagrams.
pub const NAME_BYTES_MAX: usize = 256;
/// The most listening sockets that are held for the next gateway.
pub const LISTENERS_MAX: usize = 64;
/// The most rings that a gateway shows; fewer where the keeper may have few files open.
pub const SHOWN_RINGS_MAX: usize = 4096;

// A byte of a name is at most six of JSON.
const _: () = assert!(
    crate::view::RINGS_PER_ANSWER_MAX * (6 * NAME_BYTES_MAX + 256) < DATAGRAM_BYTES_MAX,
    "a page of rings fits a datagram"
);

/// What the gateway asks.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// First words. Answered by [`Event::Welcome`] or [`Event::Refused`].
    Hello {
        /// The oldest version the gateway speaks.
        version_min: u32,
        /// The newest version the gateway speaks.
        version_max: u32,
        /// The gateway's process id.
        process_id: u32,
        /// Name and version of the gateway.
        software: String,
    },
    /// First words of one that wants to look only. Answered by [`crate::view::Answer::Welcome`] or
    /// [`crate::view::Answer::Refused`].
    Observe {
        /// The oldest version the observer speaks.
        version_min: u32,
        /// The newest version the observer speaks.
        version_max: u32,
        /// Its process id.
        process_id: u32,
        /// Its name and version.
        software: String,
    },
    /// Show a ring between two threads of the gateway to observers, as long as the gateway is connected.
    /// Comes with two read-only descriptors: the halves that the first and the second end write.
    Show {
        /// Its two ends, with a slash between them.
        name: String,
    },
    /// Start an agent. Answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn(Spawn),
    /// Start a skill for an agent. Comes with two descriptors: its standard input and output. Answered by
    /// [`Event::Died`] when it has ended, or by [`Event::SpawnFailed`]. It is killed with its agent, and when the
    /// gateway is gone. Only to keepers that say so in [`Event::Welcome`].
    Skill(Skill),
    /// Send a signal to an agent or a skill and what it has started. One that is dead already is no error.
    Kill {
        /// Which agent.
        instance: u64,
        /// Number of the signal.
        signal: i32,
    },
    /// Hold a listening socket for the next gateway, in the place of an earlier one of that name. Comes with the
    /// socket.
    Listener {
        /// What it is for.
        name: String,
        /// Where it listens, in the words of the configuration.
        address: String,
    },
    /// The gateway is up. From now on its agents outlive it.
    Keep(Keep),
    /// The gateway leaves, and the next one is to take over: no crash, and no wait.
    Handover {
        /// How to start the next one; absent if somebody else does.
        start: Option<Start>,
    },
    /// Hold an agent that a keeper has started which is dead now. Comes with the descriptors of [`Event::Spawned`].
    /// Answered by [`Event::SpawnFailed`] if that is not possible.
    Adopt(Adopt),
    /// Those are all agents that are to live: what else is left of an earlier keeper is killed.
    Adopted,
    /// Keep a standby, which becomes a keeper when this one is dead or hangs. Comes with one end of a pair of sockets that the
    /// gateway has made. Only to keepers that say so in [`Event::Welcome`].
    Standby,
    /// A sign of life is wanted. Answered by [`Event::Beat`]. Only to keepers that say so in [`Event::Welcome`].
    Beat,
    /// End all agents, then the keeper. Answered by [`Event::Stopped`].
    Shutdown {
        /// How long agents may take before they are killed.
        grace_ms: u64,
    },
}

/// An agent that another keeper has started.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// As in [`Spawn`].
    pub instance: u64,
    /// As in [`Spawn`].
    pub generation: u64,
    /// As in [`Spawn`].
    pub name: String,
    /// Its process id. Only told: it is watched and killed by its pidfd.
    pub process_id: u32,
    /// [`Spawn::definition`] of what it was started with.
    pub definition: u64,
    /// As its keeper has said.
    pub cgroup: Option<CgroupPlace>,
}

/// Where the cgroup of an agent is found again.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CgroupPlace {
    /// Its name in every hierarchy.
    pub leaf: String,
    /// What it may take of memory, if that is limited there.
    pub memory_limit_bytes: Option<u64>,
}

/// What is kept when a gateway is gone without [`Request::Shutdown`], and how the next one comes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// What the next gateway must know of this one to take agents over; the keeper only passes it on.
    pub shape: String,
    /// How long agents wait for the next gateway. 0: they end with this one.
    pub patience_ms: u64,
    /// How to start a gateway that has crashed; absent if somebody else does.
    pub restart: Option<Start>,
}

/// How to start a gateway.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where it starts.
    pub working_directory: PathBuf,
    /// Variables that it has, or has not, in spite of the keeper's own environment.
    pub environment: Vec<(String, Option<String>)>,
}

/// An agent to be started.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// Names the agent in later requests and events. At most one of that number is alive.
    pub instance: u64,
    /// Which incarnation of it.
    pub generation: u64,
    /// The agent's name in the configuration.
    pub name: String,
    /// Program and arguments. Never given to a shell.
    pub argv: Vec<String>,
    /// Variables beside those of [`KEPT_VARIABLES`] and the agent's own.
    pub environment: Vec<(String, String)>,
    /// Where it starts; the keeper's own directory if absent.
    pub working_directory: Option<PathBuf>,
    /// Capacity of the ring to the agent.
    pub to_agent_bytes: u64,
    /// Capacity of the ring from the agent.
    pub from_agent_bytes: u64,
    /// Where its output is appended; the keeper's standard error if absent.
    pub log_path: Option<PathBuf>,
    /// What it may take.
    #[serde(default)]
    pub limits: Limits,
    /// What it may see and do; everything that the keeper may if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Box<SandboxSpec>>,
}

/// A skill to be started.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// Names it in later requests and events: no agent has that number.
    pub instance: u64,
    /// The agent that has asked for it.
    pub parent: u64,
    /// Its name in the configuration.
    pub name: String,
    /// Program and arguments. Never given to a shell.
    pub argv: Vec<String>,
    /// Where its standard error is appended.
    pub log_path: PathBuf,
    /// What it may take.
    pub limits: Limits,
    /// What it may see and do.
    pub sandbox: Box<SandboxSpec>,
}

impl Spawn {
    /// A hash of everything that an agent is started with; the same in every build that has the same fields. So the
    /// next gateway sees whether an agent that lives is still the one that its configuration describes.
    pub fn definition(&self) -> u64 {
        let unnumbered = Self { instance: 0, generation: 0, ..self.clone() };
        // What cannot be written cannot be sent to a keeper either.
        let text = serde_json::to_vec(&unnumbered).unwrap_or_default();
        // FNV-1a: short, and fixed for good, unlike the hash of the standard library. Nobody gains by a collision.
        text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// Variables of the gateway's environment that every agent gets. All others, secrets among them, it gets
/// only by name in [`Spawn::environment`].
pub const KEPT_VARIABLES: [&str; 8] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "RUST_BACKTRACE"];

/// What the keeper reports.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The gateway is accepted.
    Welcome {
        /// The version both speak from now on.
        version: u32,
        /// The keeper's process id.
        process_id: u32,
        /// What its machine allows of a sandbox.
        #[serde(default)]
        enforcement: Enforcement,
        /// [`Keep::shape`] of the gateway before, if there was one.
        shape: Option<String>,
        /// Whether it starts skills.
        #[serde(default)]
        skills: bool,
        /// Whether it answers [`Request::Beat`].
        #[serde(default)]
        beats: bool,
        /// Whether it carries out [`Request::Standby`].
        #[serde(default)]
        standbys: bool,
    },
    /// The keeper speaks none of the versions of the hello.
    OtherVersion {
        /// The one it speaks.
        version: u32,
    },
    /// A listening socket is held from the gateway before. Comes with the socket.
    Listener {
        /// What it is for.
        name: String,
        /// Where it listens, in the words of the configuration.
        address: String,
    },
    /// An agent that the gateway before has started lives. Comes with the descriptors of [`Event::Spawned`].
    Alive {
        /// Which agent.
        instance: u64,
        /// Which incarnation.
        generation: u64,
        /// The agent's name in the configuration it was started by.
        name: String,
        /// Its process id, which is also its process group.
        process_id: u32,
        /// [`Spawn::definition`] of what it was started with.
        definition: u64,
        /// As in [`Event::Spawned`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<CgroupPlace>,
    },
    /// An agent died while no gateway was there.
    Missed {
        /// Which agent.
        instance: u64,
        /// The agent's name.
        name: String,
        /// What was its process id.
        process_id: u32,
        /// How it ended.
        exit: Exit,
        /// As in [`Event::Died`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// As in [`Event::Died`].
        #[serde(default, skip_serializing_if = "Usage::is_unknown")]
        usage: Usage,
    },
    /// That is all that is held.
    Held {
        /// The largest number that any agent had, dead ones included; 0 if there was none.
        instance_max: u64,
        /// Deaths that are not told, since there were too many.
        untold: u64,
    },
    /// A connection or a request was not accepted.
    Refused {
        /// A sentence that names the thing.
        reason: String,
    },
    /// A ring of [`Request::Show`] is not shown to observers.
    NotShown {
        /// A sentence that names the ring.
        reason: String,
    },
    /// An agent runs. Comes with six descriptors: the engine's half, writable; the agent's half,
    /// read-only; the eventfd on which the agent rings; the engine's end of the socket on which large
    /// messages travel by descriptor. The last two are for [`Request::Adopt`]: the agent's end of that socket, and the
    /// pidfd. Keepers of earlier builds send the first four.
    Spawned {
        /// Which agent.
        instance: u64,
        /// Which incarnation.
        generation: u64,
        /// Its process id, which is also its process group.
        process_id: u32,
        /// What of its sandbox is not enforced, a sentence each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        not_enforced: Vec<String>,
        /// Where its cgroup is found again, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<CgroupPlace>,
    },
    /// An agent could not be started.
    SpawnFailed {
        /// Which agent.
        instance: u64,
        /// Which incarnation.
        generation: u64,
        /// What was being done.
        step: String,
        /// A sentence that names the thing.
        reason: String,
    },
    /// An agent is dead, and so is its process group; all that is left in its cgroup has been killed.
    Died {
        /// Which agent.
        instance: u64,
        /// Which incarnation.
        generation: u64,
        /// What was its process id.
        process_id: u32,
        /// How it ended.
        exit: Exit,
        /// Why, if more is known than that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// What it has taken with all its descendants.
        #[serde(default, skip_serializing_if = "Usage::is_unknown")]
        usage: Usage,
    },
    /// The keeper gets on with its work: all that was asked before has been done.
    Beat,
    /// All agents are dead, the socket is removed, and the keeper exits.
    Stopped,
}

/// How a process ended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Its keeper was not its parent, so nobody here knows.
    Unknown,
}

/// Why a process ended.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The kernel killed it, since its memory was used up.
    OutOfMemory {
        /// Its limit; without one it was the memory of the machine, or of a cgroup above.
        limit_bytes: Option<u64>,
    },
}

/// What an agent has taken with all its descendants; `None` where it was not counted.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in microseconds.
    pub cpu_us: Option<u64>,
    /// The most memory at once, in bytes.
    pub memory_peak_bytes: Option<u64>,
}

impl Usage {
    /// Whether nothing was counted.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// The version to speak with a gateway that speaks `version_min..=version_max`, if there is one.
pub(crate) fn negotiate(version_min: u32, version_max: u32) -> Option<u32> {
    (version_min..=version_max).contains(&VERSION).then_some(VERSION)
}

#[cfg(test)]
mod tests;
