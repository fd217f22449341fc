//! System calls that no safe wrapper exists for.
//!
//! # Who may touch what
//!
//! 1. The child of [`clone_child`] runs [`super::enter::run`] on a copy of this process with one thread, and never returns
//!    from it. What it calls makes system calls only (rule 1 of `sandbox`).
//! 2. The kernel keeps no pointer beyond a call. What is pointed to lives in a parameter or in the caller's frame.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;
use seccompiler::sock_filter;

use super::enter::{self, Entry};

/// The namespaces of every sandbox.
pub(super) const NAMESPACES: c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// The namespace of the network.
pub(super) const NETWORK_NAMESPACE: c_int = libc::CLONE_NEWNET;

/// Since Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 1 << 33;
const SECCOMP_SET_MODE_FILTER: c_int = 1;
const SECCOMP_GET_ACTION_AVAIL: c_int = 2;
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
const LANDLOCK_RULE_PATH_BENEATH: c_int = 1;

/// Strings for exec: pointers to them, and a null at the end.
#[derive(Debug)]
pub(super) struct Strings {
    pointers: Vec<*const c_char>,
    /// What they point to; the heap blocks do not move with the vector.
    _owned: Vec<CString>,
}

impl Strings {
    pub(super) fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _owned: owned }
    }
}

fn checked(returned: c_long) -> io::Result<c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

fn descriptor(returned: c_long) -> io::Result<OwnedFd> {
    let number =
        RawFd::try_from(checked(returned)?).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made it for this process, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a child in new namespaces, which carries out `entry`; with a directory of a cgroup of version 2, in that cgroup.
/// Returns its process id here, and its pidfd.
pub(super) fn clone_child(
    namespaces: c_int,
    cgroup: Option<BorrowedFd<'_>>,
    entry: &mut Entry,
) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: a structure of integers, for which zero is "nothing asked".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    if let Some(number) = cgroup.and_then(|cgroup| u64::try_from(cgroup.as_raw_fd()).ok()) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = number;
    }
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    let size = size_of::<libc::clone_args>();
    // SAFETY: both pointers are to live values of the stated sizes (rule 2). Without CLONE_VM the child has its own
    // copy of all memory; it stays in the branch below and makes system calls only (rule 1).
    let returned = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) })?;
    if returned == 0 {
        enter::run(entry);
    }
    let process = i32::try_from(returned).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has stored a new descriptor there, which nobody else knows.
    Ok((process, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Ends this process at once, without any destructor.
pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: has no precondition.
    unsafe { libc::_exit(code) }
}

/// Gives signals back their default for a new program: nothing blocked, SIGPIPE not ignored.
pub(super) fn default_signals() -> io::Result<()> {
    // SAFETY: sets no handler of this program.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a set of bits, for which zero is the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives in this frame; no old set is asked for.
    checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) }.into())
        .map(drop)
}

/// Loads a program. Returns only if that fails.
pub(super) fn execute(program: &CStr, arguments: &Strings, environment: &Strings) -> io::Error {
    let (arguments, environment) = (arguments.pointers.as_ptr(), environment.pointers.as_ptr());
    // SAFETY: all three are null-terminated, and so is each string; they live as long as this frame (rule 2).
    unsafe { libc::execve(program.as_ptr(), arguments, environment) };
    io::Error::last_os_error()
}

/// Makes a mount and all below it nosuid, and more.
pub(super) fn restrict_mount(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOSUID | attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let size = size_of::<libc::mount_attr>();
    let call = libc::SYS_mount_setattr;
    // SAFETY: an open descriptor, an empty string, and a live structure of the stated size (rule 2).
    let returned =
        unsafe { libc::syscall(call, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size) };
    checked(returned).map(drop)
}

/// Drops every capability from the bounding set, as far as the kernel knows them.
pub(super) fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: takes numbers only.
        let returned = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match checked(returned.into()) {
            Ok(_) => {}
            // The last one has been passed.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the kernel can refuse system calls by a filter.
pub(super) fn seccomp_available() -> io::Result<()> {
    let action = SECCOMP_RET_ERRNO;
    // SAFETY: the number that is pointed to lives in this frame (rule 2).
    let returned =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    checked(returned).map(drop)
}

/// Has the kernel ask this program at each system call from now on. No-new-privs must be set.
pub(super) fn install_filter(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The two structures of an instruction are the kernel's, field by field.
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: the program has `len` instructions and is only read (rule 2).
    let returned = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    checked(returned).map(drop)
}

const _: () = assert!(size_of::<sock_filter>() == size_of::<libc::sock_filter>(), "one layout");

/// What a Landlock rule set handles. Older kernels are told the size they know.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Handled {
    pub(super) files: u64,
    pub(super) network: u64,
    pub(super) scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: c_int,
}

/// The newest Landlock interface that the kernel has.
pub(super) fn landlock_version() -> io::Result<u32> {
    let call = libc::SYS_landlock_create_ruleset;
    // SAFETY: with this flag the kernel wants no structure and size zero.
    let returned =
        unsafe { libc::syscall(call, ptr::null::<c_void>(), 0usize, LANDLOCK_CREATE_RULESET_VERSION) };
    checked(returned).map(|version| u32::try_from(version).unwrap_or(0))
}

/// Makes a Landlock rule set.
pub(super) fn landlock_ruleset(handled: &Handled, version: u32) -> io::Result<OwnedFd> {
    // Fields came with versions 1, 4 and 6.
    let size = if version >= 6 {
        24
    } else if version >= 4 {
        16
    } else {
        8usize
    };
    let handled: *const Handled = handled;
    // SAFETY: the structure has at least `size` bytes and lives through the call (rule 2).
    descriptor(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, handled, size, 0u32) })
}

/// Allows something at a path and below.
pub(super) fn landlock_allow(rules: BorrowedFd<'_>, path: BorrowedFd<'_>, allowed: u64) -> io::Result<()> {
    let rule = PathBeneath { allowed, parent: path.as_raw_fd() };
    let (call, kind) = (libc::SYS_landlock_add_rule, LANDLOCK_RULE_PATH_BENEATH);
    // SAFETY: the rule lives in this frame (rule 2), and both descriptors are open.
    checked(unsafe { libc::syscall(call, rules.as_raw_fd(), kind, &raw const rule, 0u32) }).map(drop)
}

/// Holds this process and all its children to a rule set. No-new-privs must be set.
pub(super) fn landlock_enforce(rules: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an open descriptor and a number.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) }).map(drop)
}
