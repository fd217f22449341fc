//! The sandbox of agents: what an agent may see and do, and how the kernel is made to hold it.
//!
//! | module | decides |
//! |---|---|
//! | [`spec`] | what can be asked for; a closed set, which a child can only narrow |
//! | `view` | which files an agent sees, as a list |
//! | `filter` | which system calls it may make, as programs for the kernel |
//! | `steps` | what the child does before its program is loaded, as data |
//! | `enter` | the child: carries out the steps |
//! | `start` | the parent: prepares everything, clones, writes the maps, hears what failed |
//! | `kernel` | system calls that no safe wrapper exists for; the only unsafe code |
//! | [`probe`] | what this machine allows, and what is not enforced without it |
//!
//! # Layers
//!
//! 1. Namespaces (user, pid, mount, ipc, uts; net if asked): other processes and files have no names.
//! 2. Landlock, with the same view: holds where there are no namespaces, too.
//! 3. Seccomp: system calls that no agent needs are refused.
//! 4. No capabilities, no new privileges, limits on resources.
//!
//! What the machine does not allow is left out and named ([`probe::Enforcement`]), unless the specification requires all.
//!
//! # Who may touch what
//!
//! 1. From the clone to the exec the child makes system calls only: no allocation, no lock, no formatting. All
//!    strings, filters and steps are made before.
//! 2. The keeper has one thread. So the child finds no lock held.
//! 3. The child goes on when its parent has written one byte, and ends when the pipe ends without it. Until then
//!    the parent writes the maps of its user namespace, and may attach it to whatever else holds it.

mod enter;
mod filter;
#[allow(unsafe_code, reason = "system calls without a safe wrapper")]
mod kernel;
pub mod probe;
pub mod spec;
mod start;
mod steps;
mod view;

pub(crate) use start::{Place, SandboxError, Started, Task, start};
