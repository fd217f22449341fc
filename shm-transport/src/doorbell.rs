//! Futex and eventfd: how a sleeping side is woken, and how it sleeps.
//!
//! The engine wakes an agent through a futex on the very word it has moved (`tail` for data, `head` for
//! room), which lies in the engine's half and is mapped read-only by the agent. Everybody else is woken
//! through an eventfd of its own, so that no peer can drain or block another's bell.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::thread::futex;

use crate::stop_point::stop_point;
use crate::sync::AtomicU64;

/// Makes the eventfd on which one side is rung: non-blocking, counting, close-on-exec.
pub fn eventfd() -> std::io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// How a sleeping peer is woken.
#[derive(Clone, Debug)]
pub enum Bell {
    /// It never sleeps (it polls), so nobody rings.
    None,
    /// It sleeps on the futex word that we have just moved.
    Futex,
    /// It waits for its eventfd. Arc: many rings of one thread share the bell of the thread they wake.
    Event(Arc<OwnedFd>),
}

impl Bell {
    /// Wakes the peer. `moved` is the word whose change it waits for.
    #[cold]
    pub fn ring(&self, moved: &AtomicU64) {
        stop_point("wake.before");
        match self {
            Self::None => {}
            Self::Futex => {
                // An error can only be EFAULT or EINVAL of our own mapping; nobody sleeps there then.
                let _ = futex::wake(low_half(moved), futex::Flags::empty(), 1);
            }
            Self::Event(fd) => {
                // EAGAIN says that the counter is full: the bell is ringing already.
                let _ = rustix::io::write(fd.as_fd(), &1u64.to_ne_bytes());
            }
        }
        stop_point("wake.after");
    }
}

/// Silences an eventfd bell that has rung. `true` if it had. Never blocks.
///
/// An agent holds the same open description and can take its O_NONBLOCK away, so that a plain read of a
/// bell that did not ring would stop the shard for good: each read asks for itself not to wait.
pub fn silence(bell: impl AsFd) -> bool {
    let mut count = [0u8; 8];
    let into = &mut [IoSliceMut::new(&mut count)];
    // An offset of all ones means the file's own, which an eventfd does not have.
    match rustix::io::preadv2(&bell, into, u64::MAX, ReadWriteFlags::NOWAIT) {
        // Kernels before 5.8 know no such read of an eventfd.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::io::read(&bell, &mut count).is_ok(),
        answer => answer.is_ok(),
    }
}

/// Sleeps until `word` is moved away from `expected` and rung, at most `timeout`.
///
/// Returns early whenever the kernel likes: the caller looks again in any case.
pub fn futex_wait(word: &AtomicU64, expected: u64, timeout: Duration) {
    let timeout = futex::Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // The low half is enough: a ring is smaller than 4 GiB (layout.rs asserts it).
    let expected = (expected & u64::from(u32::MAX)) as u32;
    // EAGAIN (moved meanwhile), EINTR and ETIMEDOUT all mean: look again.
    let _ = futex::wait(low_half(word), futex::Flags::empty(), expected, Some(&timeout));
}

/// The half of a position that the kernel compares.
fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let at = std::ptr::from_ref(word).cast::<AtomicU32>();
    #[cfg(target_endian = "big")]
    compile_error!("the low half of a word is assumed to come first");
    // SAFETY: the first four bytes of a live, 8-aligned atomic, borrowed as long as `word`; only the kernel
    // reads through it, so no access of this process mixes sizes.
    unsafe { &*at }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bell whose O_NONBLOCK the peer took away is silenced all the same, and never waited for.
    #[test]
    fn silencing_never_blocks() {
        let bell = eventfd().unwrap();
        rustix::fs::fcntl_setfl(&bell, rustix::fs::OFlags::empty()).unwrap();
        let word = AtomicU64::new(0);
        let bell = Arc::new(bell);
        assert!(!silence(&bell));
        Bell::Event(Arc::clone(&bell)).ring(&word);
        Bell::Event(Arc::clone(&bell)).ring(&word);
        assert_eq!((silence(&bell), silence(&bell)), (true, false));
    }

    /// A word that has moved since the look is not slept on: the wait ends although nobody rings.
    #[test]
    fn a_moved_word_is_not_slept_on() {
        let word = AtomicU64::new((7 << 32) + 16);
        futex_wait(&word, 7 << 32, Duration::from_secs(3600));
    }
}
