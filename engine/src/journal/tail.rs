//! What the thread of the journal and whoever follows its logs tell each other: how far each log is written, and from where
//! on it is needed. Neither waits for the other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::Thread;
use std::time::Duration;

#[derive(Debug)]
struct Tail {
    written: AtomicU64,
    needed: AtomicU64,
}

/// The logs of a set, by shard.
#[derive(Debug)]
pub struct Tails {
    logs: Box<[Tail]>,
    held_bytes_max: u64,
    is_asleep: AtomicBool,
    reader: OnceLock<Thread>,
}

impl Tails {
    /// Of logs that are written so far, and of which everything is needed. For whoever follows them alone, files of at most
    /// so many bytes of a log are kept.
    pub fn new(written: impl IntoIterator<Item = u64>, held_bytes_max: u64) -> Self {
        let tail = |written| Tail { written: AtomicU64::new(written), needed: AtomicU64::new(0) };
        Self {
            logs: written.into_iter().map(tail).collect(),
            held_bytes_max,
            is_asleep: AtomicBool::new(false),
            reader: OnceLock::new(),
        }
    }

    /// How many logs there are.
    pub fn len(&self) -> usize {
        self.logs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Records of the log below this number are in its files.
    pub fn written(&self, log: usize) -> u64 {
        // SYNC: pairs with the Release store in `publish`; the files are read after it.
        self.logs[log].written.load(Ordering::Acquire)
    }

    /// Records of the log below this number are not needed any more.
    pub fn release(&self, log: usize, needed: u64) {
        // Relaxed: a bound that only grows; what was read of the files has been read.
        self.logs[log].needed.store(needed, Ordering::Relaxed);
    }

    /// Whoever follows the logs has ended for good.
    pub fn release_all(&self) {
        (0..self.logs.len()).for_each(|log| self.release(log, u64::MAX));
    }

    pub(super) fn needed(&self, log: usize) -> u64 {
        // Relaxed: as above; an old value only keeps a file a moment longer.
        self.logs[log].needed.load(Ordering::Relaxed)
    }

    pub(super) fn held_bytes_max(&self) -> u64 {
        self.held_bytes_max
    }

    /// The logs are written so far, in their order. Wakes whoever sleeps for it.
    ///
    /// HOT: no system call while nobody sleeps.
    pub(super) fn publish(&self, written: impl Iterator<Item = u64>) {
        let mut news = false;
        for (tail, written) in self.logs.iter().zip(written) {
            // Relaxed: nobody else stores it.
            if tail.written.load(Ordering::Relaxed) != written {
                // SYNC: pairs with the Acquire load in `written`.
                tail.written.store(written, Ordering::Release);
                news = true;
            }
        }
        if news {
            // Either this thread sees that the other one sleeps, or that one sees the news before it does: each stores
            // its word before it looks at the other's, and no weaker ordering keeps a store before a later load.
            // SYNC: pairs with the fence in `sleep`.
            fence(Ordering::SeqCst);
            // Relaxed: ordered by the fence.
            if self.is_asleep.load(Ordering::Relaxed)
                && let Some(reader) = self.reader.get()
            {
                reader.unpark();
            }
        }
    }

    /// Wakes whoever sleeps, as for an end.
    pub fn wake(&self) {
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    /// Sleeps, unless `has_news` says that there is something to do, until something is written, somebody calls
    /// [`Self::wake`], or the time is up. For one thread only.
    pub fn sleep(&self, timeout: Duration, has_news: impl FnOnce() -> bool) {
        self.reader.get_or_init(std::thread::current);
        // Relaxed: ordered by the fence.
        self.is_asleep.store(true, Ordering::Relaxed);
        // SYNC: pairs with the fence in `publish`.
        fence(Ordering::SeqCst);
        if !has_news() {
            std::thread::park_timeout(timeout);
        }
        // Relaxed: one wake too many does no harm.
        self.is_asleep.store(false, Ordering::Relaxed);
    }
}
