//! Processes that are held by descriptor: whether one is dead, and signals to it and its group, which can never reach
//! another process that was given the same number.

use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

/// `PIDFD_SIGNAL_PROCESS_GROUP`, since Linux 6.9.
const PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Whether a process has ended; it may not be reaped yet.
pub(crate) fn is_dead(pidfd: impl AsFd) -> bool {
    let ended = &mut [PollFd::new(&pidfd, PollFlags::IN)];
    rustix::event::poll(ended, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// Sends a signal to a process and the group that it leads, also when it is dead and others of the group live. Kernels
/// before 6.9 reach the process only.
pub(crate) fn signal_group(pidfd: impl AsFd, signal: Signal) {
    let (call, fd) = (libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd());
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: an open descriptor, integers, and a null pointer, which asks for the usual information.
    let sent = unsafe { libc::syscall(call, fd, signal.as_raw(), nothing, PROCESS_GROUP) };
    if sent < 0 {
        // An old kernel, or a process that leads no group (yet). One that is dead needs no signal.
        let _ = rustix::process::pidfd_send_signal(pidfd, signal); // As above.
    }
}
