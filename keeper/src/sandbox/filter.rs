//! Which system calls an agent may make, as programs for the kernel.
//!
//! Two filters are installed, of which the stricter answer counts. The first makes calls look unknown (ENOSYS) whose
//! arguments no filter can see, so that libraries fall back to older ones: clone3, openat2. The second refuses with EPERM.
//! A call of another architecture ends the process.
//!
//! No file is made a program that runs with the rights of its owner or group: outside of the sandbox its owner is the user of
//! the gateway, and others may start it there.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::*;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::spec::Seccomp;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Flags of clone that make namespaces.
const NAMESPACE_FLAGS: [c_int; 8] = [
    CLONE_NEWNS,
    CLONE_NEWCGROUP,
    CLONE_NEWUTS,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    CLONE_NEWPID,
    CLONE_NEWNET,
    0x80, // CLONE_NEWTIME
];

/// The kind of a socket on packets before they had a family of their own.
const OLD_PACKET_SOCKET: c_int = 10;

/// What no agent may call, whatever its arguments.
#[rustfmt::skip] // A list to be read, not code.
const DENIED: &[c_long] = &[
    // Other processes.
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd, SYS_kcmp, SYS_process_madvise,
    // Mounts and roots.
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount, SYS_fsopen,
    SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_open_by_handle_at, SYS_name_to_handle_at,
    SYS_quotactl, SYS_quotactl_fd, SYS_swapon, SYS_swapoff, SYS_mknodat,
    // Namespaces.
    SYS_unshare, SYS_setns,
    // Large or rarely used parts of the kernel.
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_bpf, SYS_userfaultfd,
    SYS_perf_event_open, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_fanotify_init, SYS_fanotify_mark,
    SYS_lookup_dcookie,
    // The machine.
    SYS_kexec_load, SYS_kexec_file_load, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_reboot,
    SYS_acct, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_sethostname,
    SYS_setdomainname, SYS_syslog, SYS_vhangup, SYS_nfsservctl, SYS_mbind, SYS_migrate_pages,
    SYS_move_pages, SYS_set_mempolicy,
];
/// As above, on this architecture only.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] =
    &[SYS_mknod, SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_uselib, SYS_ustat, SYS_sysfs, SYS__sysctl];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[c_long] = &[];

/// A bit of open's flags that no other name of them has alone: a file without a name.
const TMPFILE: c_int = O_TMPFILE & !O_DIRECTORY;
const SYS_FCHMODAT2: c_long = 452;
/// Calls that take the mode of a file: which argument that is, and where the flags are that say whether one is made.
const MODES: &[(c_long, u8, Option<u8>)] =
    &[(SYS_fchmod, 1, None), (SYS_fchmodat, 2, None), (SYS_FCHMODAT2, 2, None), (SYS_openat, 3, Some(2))];
#[cfg(target_arch = "x86_64")]
const MODES_HERE: &[(c_long, u8, Option<u8>)] =
    &[(SYS_chmod, 1, None), (SYS_creat, 1, None), (SYS_open, 2, Some(1))];
#[cfg(not(target_arch = "x86_64"))]
const MODES_HERE: &[(c_long, u8, Option<u8>)] = &[];

/// What ordinary programs call; `strict` allows nothing else. Those with rules of their own are not in it.
#[rustfmt::skip] // A list to be read, not code.
const ALLOWED: &[c_long] = &[
    // Files.
    SYS_openat, SYS_close, SYS_close_range, SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_preadv2,
    SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2, SYS_lseek, SYS_fstat, SYS_newfstatat,
    SYS_statx, SYS_fstatfs, SYS_statfs, SYS_faccessat, SYS_faccessat2, SYS_getdents64, SYS_readlinkat,
    SYS_fcntl, SYS_flock, SYS_dup, SYS_dup3, SYS_pipe2, SYS_ftruncate, SYS_truncate, SYS_fallocate,
    SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs, SYS_sync_file_range, SYS_mkdirat, SYS_unlinkat,
    SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_fchown, SYS_fchownat, SYS_utimensat, SYS_umask,
    SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_sendfile, SYS_copy_file_range, SYS_splice, SYS_tee,
    SYS_fadvise64, SYS_readahead, SYS_memfd_create, SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr,
    SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_inotify_init1, SYS_inotify_add_watch,
    SYS_inotify_rm_watch, SYS_renameat,
    // Memory.
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk, SYS_mlock, SYS_mlock2,
    SYS_munlock, SYS_msync, SYS_mincore, SYS_membarrier, SYS_rseq, SYS_pkey_alloc, SYS_pkey_free,
    SYS_pkey_mprotect,
    // Processes and threads.
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_getpid, SYS_getppid,
    SYS_gettid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_getuid, SYS_geteuid, SYS_getgid,
    SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_set_tid_address, SYS_set_robust_list,
    SYS_get_robust_list, SYS_futex, SYS_futex_waitv, SYS_sched_yield, SYS_sched_getaffinity,
    SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_getpriority, SYS_prctl, SYS_prlimit64, SYS_getrlimit, SYS_setrlimit,
    SYS_getrusage, SYS_times, SYS_capget, SYS_kill, SYS_tkill, SYS_tgkill, SYS_pidfd_open,
    SYS_pidfd_send_signal, SYS_getcpu, SYS_uname, SYS_sysinfo, SYS_getrandom, SYS_landlock_create_ruleset,
    SYS_landlock_add_rule, SYS_landlock_restrict_self, SYS_seccomp,
    // Signals and time.
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo, SYS_sigaltstack, SYS_restart_syscall, SYS_nanosleep,
    SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_getitimer,
    SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun,
    SYS_timer_delete, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_signalfd4,
    // Waiting, and sockets.
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2,
    SYS_eventfd2, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4,
    SYS_getsockname, SYS_getpeername, SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_recvfrom, SYS_recvmsg,
    SYS_recvmmsg, SYS_shutdown, SYS_setsockopt, SYS_getsockopt,
];
/// As above: calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip] // A list to be read, not code.
const ALLOWED_HERE: &[c_long] = &[
    SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_dup2, SYS_pipe, SYS_mkdir, SYS_rmdir,
    SYS_unlink, SYS_rename, SYS_link, SYS_symlink, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes,
    SYS_futimesat, SYS_fork, SYS_vfork, SYS_getpgrp, SYS_alarm, SYS_pause, SYS_time, SYS_poll, SYS_select,
    SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_signalfd, SYS_inotify_init, SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// The filters of a profile, in the order in which they are installed. Made once for each profile.
pub(super) fn programs(profile: Seccomp) -> Result<Vec<BpfProgram>, BackendError> {
    static STRICT: OnceLock<Vec<BpfProgram>> = OnceLock::new();
    static STANDARD: OnceLock<Vec<BpfProgram>> = OnceLock::new();
    let made = match profile {
        Seccomp::None => return Ok(Vec::new()),
        Seccomp::Standard => &STANDARD,
        Seccomp::Strict => &STRICT,
    };
    if let Some(programs) = made.get() {
        return Ok(programs.clone());
    }
    let programs = make(profile)?;
    Ok(made.get_or_init(|| programs).clone())
}

fn make(profile: Seccomp) -> Result<Vec<BpfProgram>, BackendError> {
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    let (rules, otherwise, matched) = match profile {
        Seccomp::None => return Ok(Vec::new()),
        Seccomp::Standard => (denied()?, SeccompAction::Allow, SeccompAction::Errno(EPERM as u32)),
        Seccomp::Strict => (allowed()?, SeccompAction::Errno(EPERM as u32), SeccompAction::Allow),
    };
    let filter = SeccompFilter::new(rules, otherwise, matched, target)?;
    Ok(vec![unknown_calls(), filter.try_into()?])
}

fn when(conditions: &[(u8, Op, i64)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.iter().map(|(argument, operator, value)| {
        SeccompCondition::new(*argument, Len::Dword, operator.clone(), *value as u32 as u64)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

fn denied() -> Result<Rules, BackendError> {
    let mut rules: Rules = DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
    let flags = NAMESPACE_FLAGS
        .iter()
        .map(|flag| when(&[(0, Op::MaskedEq(u64::from(*flag as u32)), (*flag).into())]));
    rules.insert(SYS_clone, flags.collect::<Result<_, _>>()?);
    let kind = |kind: c_int| (1, Op::MaskedEq(0xf), i64::from(kind));
    // Netlink is left alone: libraries ask it for addresses, by sockets that call themselves raw.
    let mut sockets = vec![when(&[kind(OLD_PACKET_SOCKET)])?];
    for family in [AF_INET, AF_INET6] {
        sockets.push(when(&[(0, Op::Eq, family.into()), kind(SOCK_RAW)])?);
    }
    for family in [AF_PACKET, AF_VSOCK, AF_ALG, AF_BLUETOOTH] {
        sockets.push(when(&[(0, Op::Eq, family.into())])?);
    }
    rules.insert(SYS_socket, sockets);
    rules.insert(
        SYS_ioctl,
        vec![when(&[(1, Op::Eq, TIOCSTI as i64)])?, when(&[(1, Op::Eq, TIOCLINUX as i64)])?],
    );
    for (call, mode, flags) in MODES.iter().chain(MODES_HERE) {
        let mut bits = Vec::new();
        for bit in [S_ISUID, S_ISGID] {
            let set = (*mode, Op::MaskedEq(bit.into()), bit.into());
            match flags {
                None => bits.push(when(&[set])?),
                Some(flags) => {
                    for making in [O_CREAT, TMPFILE] {
                        let making = (*flags, Op::MaskedEq(u64::from(making as u32)), making.into());
                        bits.push(when(&[set.clone(), making])?);
                    }
                }
            }
        }
        rules.insert(*call, bits);
    }
    // Other than asking which one it is, or the ordinary one.
    rules.insert(SYS_personality, vec![when(&[(0, Op::Ne, 0), (0, Op::Ne, 0xffff_ffff)])?]);
    Ok(rules)
}

fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    // The other filter answers them.
    rules.insert(SYS_clone3, Vec::new());
    rules.insert(SYS_openat2, Vec::new());
    for (call, mode, flags) in MODES.iter().chain(MODES_HERE) {
        let mut plain = vec![when(&[(*mode, Op::MaskedEq((S_ISUID | S_ISGID).into()), 0)])?];
        if let Some(flags) = flags {
            // The mode counts only where a file is made.
            plain.push(when(&[(*flags, Op::MaskedEq((O_CREAT | TMPFILE) as u64), 0)])?);
        }
        rules.insert(*call, plain);
    }
    let every = NAMESPACE_FLAGS.iter().fold(0, |all, flag| all | u64::from(*flag as u32));
    rules.insert(SYS_clone, vec![when(&[(0, Op::MaskedEq(every), 0)])?]);
    let mut sockets = Vec::new();
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        for family in [AF_UNIX, AF_INET, AF_INET6] {
            sockets.push(when(&[(0, Op::Eq, family.into()), (1, Op::MaskedEq(0xf), kind.into())])?);
        }
    }
    for kind in [SOCK_RAW, SOCK_DGRAM] {
        // The one protocol of netlink that addresses are asked by is number zero.
        let route = (2, Op::Eq, i64::from(NETLINK_ROUTE));
        sockets.push(when(&[(0, Op::Eq, AF_NETLINK.into()), (1, Op::MaskedEq(0xf), kind.into()), route])?);
    }
    rules.insert(SYS_socket, sockets);
    let requests = [FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TCGETS, TIOCGWINSZ];
    let requests = requests.iter().map(|request| when(&[(1, Op::Eq, *request as i64)]));
    rules.insert(SYS_ioctl, requests.collect::<Result<_, _>>()?);
    Ok(rules)
}

/// A program that answers ENOSYS to clone3 and openat2, and to the second set of call numbers of x86-64, which no rule names.
fn unknown_calls() -> BpfProgram {
    const LOAD: u16 = (BPF_LD | BPF_W | BPF_ABS) as u16;
    const EQUAL: u16 = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
    const AT_LEAST: u16 = (BPF_JMP | BPF_JGE | BPF_K) as u16;
    const RETURN: u16 = (BPF_RET | BPF_K) as u16;
    const FIRST_OF_X32: u32 = 0x4000_0000;
    // The number of the call is the first word of what a filter sees.
    let code = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        code(LOAD, 0, 0, 0),
        code(EQUAL, 3, 0, SYS_clone3 as u32),
        code(EQUAL, 2, 0, SYS_openat2 as u32),
        code(AT_LEAST, 1, 0, FIRST_OF_X32),
        code(RETURN, 0, 0, SECCOMP_RET_ALLOW),
        code(RETURN, 0, 0, SECCOMP_RET_ERRNO | ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `standard` refuses `strict` does not allow, so strict is narrower; and both are programs.
    #[test]
    fn strict_is_narrower_than_standard() {
        let (denied, allowed) = (denied().unwrap(), allowed().unwrap());
        for call in DENIED.iter().chain(DENIED_HERE) {
            assert!(denied.contains_key(call) && !allowed.contains_key(call), "system call {call}");
        }
        for call in [SYS_socket, SYS_clone, SYS_ioctl, SYS_openat, SYS_fchmod, SYS_fchmodat, SYS_FCHMODAT2] {
            assert!(!allowed[&call].is_empty(), "system call {call} is looked at in strict");
        }
        assert!(!allowed.contains_key(&SYS_personality));
        assert_eq!(programs(Seccomp::None).unwrap().len(), 0);
        let lengths = [Seccomp::Standard, Seccomp::Strict].map(|profile| programs(profile).unwrap().len());
        assert_eq!(lengths, [2, 2]);
    }
}
