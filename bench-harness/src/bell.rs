//! Waiting as the threads of the gateway do: armed, on an eventfd.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm_transport::doorbell::silence;
use shm_transport::link::Receiver;

/// Sleeps until something may have come, at most `longest`.
pub fn wait(receiver: &mut Receiver, bell: &OwnedFd, longest: Duration) -> io::Result<()> {
    if !receiver.arm().map_err(io::Error::other)? {
        let timeout =
            Timespec { tv_sec: longest.as_secs().cast_signed(), tv_nsec: longest.subsec_nanos().into() };
        if poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&timeout))? > 0 {
            silence(bell);
        }
    }
    receiver.disarm();
    Ok(())
}
