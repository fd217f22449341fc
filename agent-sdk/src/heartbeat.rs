//! Signs of life: a thread that sleeps until the gateway asks for one.
//!
//! It says that the process is scheduled, and nothing of what its other threads do: an agent may work on a message for as
//! long as the message allows. It has no clock of its own, so how often an idle agent wakes is the gateway's choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shm_transport::heart::Heart;

/// Stack of the thread. It calls nothing deep; the system rounds up to what it needs.
const STACK_BYTES: usize = 16 * 1024;
/// How long to sleep before looking again: a net under a lost ring, rare enough for hundreds of idle agents.
const LOOK: Duration = Duration::from_secs(60);

/// Gives signs of life until it is dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    // Arc: the thread.
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    heart: Heart,
    ended: AtomicBool,
}

impl Heartbeat {
    /// Gives the first sign of life, and starts the thread that gives the others.
    pub(crate) fn start(heart: Heart) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { heart, ended: AtomicBool::new(false) });
        // Before the first beat: a question that comes after that one is answered.
        let seen = shared.heart.asked();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let of_thread = Arc::clone(&shared);
        thread.spawn(move || answer(&of_thread, seen))?;
        shared.heart.beat();
        Ok(Self { shared })
    }
}

impl Drop for Heartbeat {
    /// The thread ends now, or, if it is about to sleep just now, when it is woken next.
    fn drop(&mut self) {
        // Relaxed: nothing else is read because of it.
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.heart.wake();
    }
}

/// Allocates nothing, since an allocator may set apart megabytes for a thread that does once. The standard library
/// does so for a thread that it is to name.
fn answer(shared: &Shared, mut seen: u64) {
    // For people; without it the thread works all the same.
    let _ = rustix::thread::set_name(c"heartbeat");
    // Relaxed: as in `drop`.
    while !shared.ended.load(Ordering::Relaxed) {
        let asked = shared.heart.asked();
        if asked == seen {
            shared.heart.wait(seen, LOOK);
        } else {
            seen = asked;
            shared.heart.beat();
        }
    }
}
