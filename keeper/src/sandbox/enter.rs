//! The child: carries out the steps, and tells its parent which one failed. Rule 1 of `sandbox` holds in all of this
//! file: system calls only.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::kernel::{self, Handled, Strings};
use super::steps::Step;
use crate::spawn::Target;

/// The host name of every agent.
const HOST_NAME: &[u8] = b"openclaw-agent";
/// Where the new root is mounted while it is made: a directory that is everywhere. What it covers has been opened before.
const STAGE: &CStr = c"/usr";
/// Directories and files to mount onto; nothing else lies in the root.
const ROOT_OPTIONS: &CStr = c"mode=0755,size=1m";
/// Exit code of a child that has told why it ends.
const TOLD: i32 = 127;

/// The program to load.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: CString,
    pub(super) arguments: Strings,
    pub(super) environment: Strings,
    /// Standard input, output, error.
    pub(super) standard: [OwnedFd; 3],
}

/// All that the child needs.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) steps: Vec<Step>,
    /// What [`Step::Open`] takes hold of; as long as its slots.
    pub(super) slots: Vec<Option<OwnedFd>>,
    /// What is copied to which number, for [`Step::Descriptors`].
    pub(super) rings: Vec<(OwnedFd, Target)>,
    pub(super) program: Option<Program>,
    pub(super) handled: Handled,
    pub(super) landlock_version: u32,
    /// Where the parent writes its byte.
    pub(super) hold: OwnedFd,
    /// Its other end, which the child closes, so that the death of the keeper is seen.
    pub(super) hold_writer: Option<OwnedFd>,
    /// Where the number of the step that failed is told, and the kernel's answer.
    pub(super) report: OwnedFd,
    /// The rule set under way.
    pub(super) rules: Option<OwnedFd>,
}

/// Carries out all steps. Does not return: it ends with another program, or with the process.
pub(super) fn run(entry: &mut Entry) -> ! {
    for index in 0..entry.steps.len() {
        if let Err(error) = carry_out(entry, index) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let mut told = [0; 8];
            told[..4].copy_from_slice(&(index as u32).to_ne_bytes());
            told[4..].copy_from_slice(&errno.to_ne_bytes());
            let _ = rustix::io::write(&entry.report, &told); // The parent sees the end in any case.
            kernel::exit_now(TOLD);
        }
    }
    kernel::exit_now(0)
}

fn carry_out(entry: &mut Entry, index: usize) -> io::Result<()> {
    match &entry.steps[index] {
        Step::Await => await_parent(&entry.hold, &mut entry.hold_writer),
        Step::Session => Ok(rustix::process::setsid().map(drop)?),
        Step::DieWithKeeper => Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?),
        Step::Descriptors => place_descriptors(entry),
        Step::Groups => Ok(rustix::thread::set_thread_groups(&[])?),
        Step::HostName => Ok(rustix::system::sethostname(HOST_NAME)?),
        Step::Private => {
            let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            Ok(rustix::mount::mount_change(c"/", flags)?)
        }
        Step::Open { source, slot, follow } => {
            entry.slots[*slot] = Some(open_tree(source, *follow)?);
            Ok(())
        }
        Step::Root => empty_root(),
        Step::Directory { at } => made(rustix::fs::mkdirat(CWD, at.as_c_str(), Mode::from_raw_mode(0o755))),
        Step::File { at } => {
            let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::RDONLY | OFlags::NOFOLLOW;
            made(rustix::fs::openat(CWD, at.as_c_str(), flags, Mode::from_raw_mode(0o444)).map(drop))
        }
        Step::Link { to, at } => made(rustix::fs::symlinkat(to.as_c_str(), CWD, at.as_c_str())),
        Step::Place { slot, at, attributes } => place(entry.slots[*slot].as_ref(), at, *attributes),
        Step::Memory { at, options } => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            Ok(rustix::mount::mount(c"tmpfs", at.as_c_str(), c"tmpfs", flags, options.as_c_str())?)
        }
        Step::Processes => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            Ok(rustix::mount::mount(c"proc", c"proc", c"proc", flags, None)?)
        }
        Step::NoNamespaces => forbid_namespaces(),
        Step::SealProcesses => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
            Ok(rustix::mount::mount_remount(c"proc", flags, c"")?)
        }
        Step::Pivot => pivot(),
        Step::Seal => {
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            Ok(rustix::mount::mount_remount(c"/", flags, c"")?)
        }
        Step::Rules => {
            entry.rules = Some(kernel::landlock_ruleset(&entry.handled, entry.landlock_version)?);
            Ok(())
        }
        Step::Allow { at, access } => allow(entry.rules.as_ref(), at, *access),
        Step::Restrict => match &entry.rules {
            Some(rules) => kernel::landlock_enforce(rules.as_fd()),
            None => Err(io::ErrorKind::NotFound.into()),
        },
        Step::WorkingDirectory { at } => Ok(rustix::process::chdir(at.as_c_str())?),
        Step::Limit { resource, most } => limit(*resource, *most),
        Step::Capabilities => drop_capabilities(),
        Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
        Step::Filter { program } => kernel::install_filter(program),
        Step::Execute => {
            let Some(program) = &entry.program else { return Err(io::ErrorKind::NotFound.into()) };
            kernel::default_signals()?;
            Err(kernel::execute(&program.path, &program.arguments, &program.environment))
        }
    }
}

fn empty_root() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(c"tmpfs", STAGE, c"tmpfs", flags, ROOT_OPTIONS)?;
    Ok(rustix::process::chdir(STAGE)?)
}

fn place(tree: Option<&OwnedFd>, at: &CStr, attributes: u64) -> io::Result<()> {
    let Some(tree) = tree else { return Err(io::ErrorKind::NotFound.into()) };
    kernel::restrict_mount(tree.as_fd(), attributes)?;
    Ok(rustix::mount::move_mount(tree, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn forbid_namespaces() -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let bound = rustix::fs::openat(CWD, c"proc/sys/user/max_user_namespaces", flags, Mode::empty())?;
    Ok(rustix::io::write(&bound, b"0").map(drop)?)
}

fn pivot() -> io::Result<()> {
    // Onto itself: the old root then lies over the new one, and is taken off.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

/// Waits for the byte of the parent. The end of the pipe instead says that the keeper is dead.
fn await_parent(hold: &OwnedFd, writer: &mut Option<OwnedFd>) -> io::Result<()> {
    *writer = None;
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(hold, &mut byte))? {
        0 => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        _ => Ok(()),
    }
}

fn place_descriptors(entry: &mut Entry) -> io::Result<()> {
    let Some(program) = &entry.program else { return Ok(()) };
    let [input, output, error] = &program.standard;
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(error)?;
    for (source, target) in &mut entry.rings {
        // The copy is not close-on-exec, the source is.
        rustix::io::dup2(source, target)?;
    }
    Ok(())
}

/// A directory or file that is there already will do.
fn made(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A copy of what is mounted at a path and below, mounted nowhere yet.
fn open_tree(source: &CStr, follow: bool) -> io::Result<OwnedFd> {
    let resolve = if follow { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
    let place = rustix::fs::openat2(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(place, c"", flags)?)
}

fn allow(rules: Option<&OwnedFd>, at: &CStr, access: u64) -> io::Result<()> {
    let Some(rules) = rules else { return Err(io::ErrorKind::NotFound.into()) };
    let place = rustix::fs::openat(CWD, at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    kernel::landlock_allow(rules.as_fd(), place.as_fd(), access)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let there = rustix::process::getrlimit(resource);
    let most = there.maximum.map_or(most, |maximum| maximum.min(most));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

fn drop_capabilities() -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        kernel::drop_bounding_set()?;
    }
    // Without the right to it the bounding set stays, which gives nothing to a process without new privileges.
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}
