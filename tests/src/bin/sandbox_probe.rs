//! An agent that tries to get out of its sandbox: each message says what it aims at, as JSON, and is answered with what
//! each attempt met, by its name: `allowed`, or the name of the error.
//!
//! # Who may touch what
//!
//! 1. [`call`] is the only unsafe code. What is pointed to lives in the frame of the attempt, and is as large as the
//!    system call wants it.
//! 2. What an attempt that succeeds leaves is undone, or harms only the probe. Those that would harm the machine are
//!    made only if the message says that there is a sandbox.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Pid;
use serde_json::{Value, json};

/// A number that the kernel takes for "do not trace, only attach".
const PTRACE_SEIZE: usize = 0x4206;
const CLONE_NEWUSER: usize = 0x1000_0000;

/// What an attempt came to.
type Outcome = Result<(), Errno>;

/// What a message aims at.
struct Aim {
    /// The gateway's process.
    gateway: i32,
    /// Another agent's process.
    agent: i32,
    /// The state directory.
    state: String,
    /// A file of another agent.
    file: String,
}

/// Makes a system call by its number.
#[allow(unsafe_code, reason = "calls that only an attacker wants have no safe wrapper")]
fn call(number: i64, arguments: [usize; 6]) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller keeps rule 1.
    let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if returned >= 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// An error as manuals call it.
fn named(errno: Errno) -> String {
    match errno {
        Errno::PERM => "EPERM".to_owned(),
        Errno::NOENT => "ENOENT".to_owned(),
        Errno::SRCH => "ESRCH".to_owned(),
        Errno::ACCESS => "EACCES".to_owned(),
        Errno::ROFS => "EROFS".to_owned(),
        Errno::NOSYS => "ENOSYS".to_owned(),
        Errno::INVAL => "EINVAL".to_owned(),
        Errno::NOSPC => "ENOSPC".to_owned(),
        Errno::NOKEY => "ENOKEY".to_owned(),
        other => format!("error {}", other.raw_os_error()),
    }
}

/// An address that a process can read, if its map can be read; else one of ours.
fn address(process: i32, ours: usize) -> usize {
    let map = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let first = map.split('-').next().and_then(|text| usize::from_str_radix(text, 16).ok());
    first.unwrap_or(ours)
}

fn file(result: std::io::Result<impl Sized>) -> Outcome {
    result.map(drop).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Attempts that harm nothing where they succeed.
fn harmless(aim: &Aim) -> Vec<(&'static str, Outcome)> {
    let agent = aim.agent as usize;
    let mut byte = [0u8; 1];
    let ours = [byte.as_mut_ptr() as usize, 1];
    let (local, pid) = (ours.as_ptr() as usize, Pid::from_raw(aim.agent));
    let theirs = [address(aim.agent, ours[0]), 1];
    let remote = theirs.as_ptr() as usize;
    let params = [0u64; 32];
    let of = |file: &str| format!("/proc/{}/{file}", aim.agent);
    vec![
        ("trace another agent", call(libc::SYS_ptrace, [PTRACE_SEIZE, agent, 0, 0, 0, 0])),
        (
            "read the memory of another agent",
            call(libc::SYS_process_vm_readv, [agent, local, 1, remote, 1, 0]),
        ),
        ("open the memory of another agent", file(std::fs::File::open(of("mem")))),
        ("read the environment of another agent", file(std::fs::read(of("environ")))),
        ("look at the gateway in /proc", file(std::fs::read(format!("/proc/{}/status", aim.gateway)))),
        ("signal the gateway", signal(aim.gateway)),
        (
            "hold on to another agent",
            pid.map_or(Err(Errno::SRCH), |pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map(drop)
            }),
        ),
        ("list the state directory", file(std::fs::read_dir(&aim.state))),
        ("read a file of another agent", file(std::fs::read(&aim.file))),
        ("reach the root of another agent", file(std::fs::read_dir(of("root/")))),
        ("open a raw socket", socket(AddressFamily::INET, SocketType::RAW, libc::IPPROTO_ICMP as u32)),
        ("open a packet socket", socket(AddressFamily::PACKET, SocketType::DGRAM, 0)),
        ("set up io_uring", call(libc::SYS_io_uring_setup, [1, params.as_ptr() as usize, 0, 0, 0, 0])),
        ("watch for page faults (userfaultfd)", call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0])),
        ("use the keyring of the kernel", call(libc::SYS_keyctl, [0, usize::MAX, 0, 0, 0, 0])),
        ("write below /usr", remove(file(std::fs::write("/usr/.probe", "")), "/usr/.probe")),
        (
            "make a cgroup",
            folder("/sys/fs/cgroup/unified/.probe").or_else(|_| folder("/sys/fs/cgroup/.probe")),
        ),
        ("open the machine's memory", file(std::fs::File::open("/dev/mem"))),
    ]
}

/// Attempts that could harm the machine, or would keep the probe from the rest.
fn harmful(aim: &Aim) -> Vec<(&'static str, Outcome)> {
    let device = rustix::fs::mknodat(CWD, "/tmp/.probe", FileType::CharacterDevice, Mode::RWXU, 0x103);
    let up = Path::new("/tmp/../../../..").join(aim.state.trim_start_matches('/'));
    vec![
        ("climb out by ..", file(std::fs::read_dir(up))),
        ("make a device node", device),
        ("mount", rustix::mount::mount("none", "/tmp", "tmpfs", MountFlags::empty(), None)),
        ("unmount /proc", rustix::mount::unmount("/proc", UnmountFlags::DETACH)),
        ("change the root", rustix::process::chroot("/tmp")),
        ("put another root in place", rustix::process::pivot_root("/tmp", "/tmp")),
        ("become another user", call(libc::SYS_setuid, [12_345, 0, 0, 0, 0, 0])),
        ("load a program into the kernel (bpf)", call(libc::SYS_bpf, [0, 0, 0, 0, 0, 0])),
        ("load a kernel module", call(libc::SYS_init_module, [0, 0, 0, 0, 0, 0])),
        (
            "write a setting of the kernel",
            file(OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")),
        ),
        ("set the clock", call(libc::SYS_settimeofday, [0, 0, 0, 0, 0, 0])),
        ("raise the bound on open files", raise()),
        ("make a program that runs as its owner", file(set_user_id())),
        // Of no size, so that it makes no process where it is known.
        ("clone by a call whose flags no filter sees", call(libc::SYS_clone3, [0; 6])),
        // Last, since it gives rights where it succeeds.
        ("make a user namespace", call(libc::SYS_unshare, [CLONE_NEWUSER, 0, 0, 0, 0, 0])),
    ]
}

fn signal(process: i32) -> Outcome {
    // Number zero: only whether it may be sent.
    Pid::from_raw(process).map_or(Err(Errno::SRCH), rustix::process::test_kill_process)
}

fn socket(family: AddressFamily, kind: SocketType, protocol: u32) -> Outcome {
    let protocol = std::num::NonZeroU32::new(protocol).map(rustix::net::Protocol::from_raw);
    rustix::net::socket(family, kind, protocol).map(drop)
}

fn folder(path: &str) -> Outcome {
    rustix::fs::mkdir(path, Mode::RWXU)?;
    rustix::fs::rmdir(path)
}

fn remove(outcome: Outcome, path: &str) -> Outcome {
    outcome?;
    rustix::fs::unlink(path)
}

fn set_user_id() -> std::io::Result<()> {
    std::fs::write("/tmp/.program", "")?;
    // By either way, and the first that succeeds counts.
    let mode = std::fs::Permissions::from_mode(0o4755);
    let by_mode = std::fs::set_permissions("/tmp/.program", mode);
    by_mode
        .or_else(|_| OpenOptions::new().append(true).create(true).mode(0o4755).open("/tmp/.other").map(drop))
}

fn raise() -> Outcome {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum = limit.maximum.map(|most| most + 1);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
}

fn answer(aim: &Value) -> Value {
    let number = |name: &str| i32::try_from(aim[name].as_i64().expect("a number")).expect("a process id");
    let text = |name: &str| aim[name].as_str().expect("a path").to_owned();
    let sandboxed = aim["sandboxed"].as_bool().expect("true or false");
    let aim =
        Aim { gateway: number("gateway"), agent: number("agent"), state: text("state"), file: text("file") };
    let mut outcomes = harmless(&aim);
    if sandboxed {
        outcomes.extend(harmful(&aim));
    }
    let answers: BTreeMap<_, _> = outcomes
        .into_iter()
        .map(|(name, outcome)| (name, outcome.map_or_else(named, |()| "allowed".to_owned())))
        .collect();
    json!(answers)
}

fn main() {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line.expect("a line")).expect("a line of JSON");
        if message["type"] != "message" {
            continue;
        }
        let aim =
            serde_json::from_str(message["content"].as_str().expect("text")).expect("the tests send JSON");
        let reply = json!({"type": "end", "id": message["id"], "content": answer(&aim).to_string()});
        writeln!(out, "{reply}").and_then(|()| out.flush()).expect("the host reads");
    }
}
