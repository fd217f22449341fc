//! What the child does before its program is loaded, as data: made by the parent, carried out by the child in order.

use std::ffi::CString;
use std::fmt;

use rustix::process::Resource;
use seccompiler::BpfProgram;

/// One step. Where it fails, its words and the kernel's answer are what the gateway is told.
#[derive(Debug)]
pub(super) enum Step {
    /// Waits until the parent has attached this process.
    Await,
    /// A session and process group of its own.
    Session,
    /// Ends when the keeper does.
    DieWithKeeper,
    /// Standard descriptors and those of the rings at their numbers.
    Descriptors,
    /// Gives up the groups of the keeper's user.
    Groups,
    /// A host name that tells nothing.
    HostName,
    /// No mount from here on is seen outside.
    Private,
    /// Takes hold of a file or directory of the machine.
    Open {
        source: CString,
        /// Where it is kept.
        slot: usize,
        /// Whether symbolic links are followed: on paths of the system only.
        follow: bool,
    },
    /// An empty root.
    Root,
    /// A directory of the root, or below another mount of it.
    Directory { at: CString },
    /// An empty file to bind onto.
    File { at: CString },
    /// A symbolic link.
    Link { to: CString, at: CString },
    /// Puts what is held in a slot into the view.
    Place { slot: usize, at: CString, attributes: u64 },
    /// A private directory in memory.
    Memory { at: CString, options: CString },
    /// The processes of the new namespace.
    Processes,
    /// No user namespaces below this one.
    NoNamespaces,
    /// Nothing of /proc is changed any more.
    SealProcesses,
    /// Makes the new root the root, and lets go of the old one.
    Pivot,
    /// The root itself is not changed any more.
    Seal,
    /// Starts a Landlock rule set.
    Rules,
    /// Allows something at a path and below.
    Allow { at: CString, access: u64 },
    /// Has Landlock hold the rule set.
    Restrict,
    /// Where the agent starts.
    WorkingDirectory { at: CString },
    /// A bound on a resource; never above the one there is.
    Limit { resource: Resource, most: u64 },
    /// All capabilities.
    Capabilities,
    /// No program from here on gives more rights than there are.
    NoNewPrivileges,
    /// A filter of system calls.
    Filter { program: BpfProgram },
    /// The program of the agent.
    Execute,
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |at: &CString| format!("/{}", at.to_string_lossy().trim_start_matches('/'));
        match self {
            Self::Await => to.write_str("waiting for the keeper"),
            Self::Session => to.write_str("making a session"),
            Self::DieWithKeeper => to.write_str("tying it to the keeper"),
            Self::Descriptors => to.write_str("placing descriptors"),
            Self::Groups => to.write_str("giving up groups"),
            Self::HostName => to.write_str("setting the host name"),
            Self::Private => to.write_str("making mounts private"),
            Self::Open { source, .. } => write!(to, "opening {} for the view", path(source)),
            Self::Root => to.write_str("mounting an empty root"),
            Self::Directory { at } => write!(to, "making directory {}", path(at)),
            Self::File { at } => write!(to, "making file {}", path(at)),
            Self::Link { at, .. } => write!(to, "making link {}", path(at)),
            Self::Place { at, attributes, .. } if attributes & libc::MOUNT_ATTR_RDONLY != 0 => {
                write!(to, "mounting {} read-only", path(at))
            }
            Self::Place { at, .. } => write!(to, "mounting {}", path(at)),
            Self::Memory { at, .. } => write!(to, "mounting a private {}", path(at)),
            Self::Processes => to.write_str("mounting /proc"),
            Self::NoNamespaces => to.write_str("forbidding user namespaces"),
            Self::SealProcesses => to.write_str("making /proc read-only"),
            Self::Pivot => to.write_str("changing the root"),
            Self::Seal => to.write_str("making the root read-only"),
            Self::Rules => to.write_str("making Landlock rules"),
            Self::Allow { at, .. } => write!(to, "allowing {} by Landlock", path(at)),
            Self::Restrict => to.write_str("enforcing Landlock rules"),
            Self::WorkingDirectory { at } => write!(to, "changing to directory {}", path(at)),
            Self::Limit { resource, .. } => write!(to, "limiting {resource:?}"),
            Self::Capabilities => to.write_str("dropping capabilities"),
            Self::NoNewPrivileges => to.write_str("giving up new privileges"),
            Self::Filter { .. } => to.write_str("installing the seccomp filter"),
            Self::Execute => to.write_str("loading the program"),
        }
    }
}
