//! What one thread has counted, and how the threads' counts add up.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// One hour. A longer latency is recorded as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// The first failures are shown in words; one is enough to start looking, and a broken run has millions.
const FAILURE_SAMPLES_MAX: usize = 8;

/// Counts of one thread, or of the whole run.
#[derive(Debug)]
pub struct Tally {
    /// Messages sent after the warm-up.
    pub sent: u64,
    /// Of those, how many were closed by an answer.
    pub answered: u64,
    /// Messages sent during the warm-up.
    pub warmup_sent: u64,
    /// Of those, how many were closed by an answer.
    pub warmup_answered: u64,
    /// Messages without any closing frame at the end, the warm-up included, as in all counts below.
    pub lost: u64,
    /// Closing frames for messages that were closed before.
    pub duplicated: u64,
    /// Closing frames that came after that of a later message of their session.
    pub reordered: u64,
    /// Closing frames with other content, session or agent than expected.
    pub mismatched: u64,
    /// Error frames.
    pub errors: u64,
    /// Frames that are no answer to anything sent, or not JSON.
    pub unexpected: u64,
    /// Connections that broke during the run.
    pub broken_connections: u64,
    /// Streamed blocks.
    pub blocks: u64,
    /// Frames of kinds that are not for this program, such as `status`.
    pub ignored: u64,
    /// Arrival of the last measured answer.
    pub last_answer_ns: u64,
    /// Answer minus intended time, of measured messages.
    pub latency: Histogram<u64>,
    /// Actual minus intended time of sending, of measured messages: whether the load generator kept up.
    pub send_lag: Histogram<u64>,
    /// The first failures in words.
    pub failure_samples: Vec<String>,
}

impl Tally {
    /// All zero.
    pub fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
                .expect("the bounds are constants that the histogram accepts")
        };
        Self {
            sent: 0,
            answered: 0,
            warmup_sent: 0,
            warmup_answered: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
            mismatched: 0,
            errors: 0,
            unexpected: 0,
            broken_connections: 0,
            blocks: 0,
            ignored: 0,
            last_answer_ns: 0,
            latency: histogram(),
            send_lag: histogram(),
            failure_samples: Vec::new(),
        }
    }

    /// Adds the counts of another thread.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.warmup_sent += other.warmup_sent;
        self.warmup_answered += other.warmup_answered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.mismatched += other.mismatched;
        self.errors += other.errors;
        self.unexpected += other.unexpected;
        self.broken_connections += other.broken_connections;
        self.blocks += other.blocks;
        self.ignored += other.ignored;
        self.last_answer_ns = self.last_answer_ns.max(other.last_answer_ns);
        for (total, part) in [(&mut self.latency, &other.latency), (&mut self.send_lag, &other.send_lag)] {
            total.add(part).expect("both were made with the same bounds");
        }
        self.failure_samples.extend(other.failure_samples);
        self.failure_samples.truncate(FAILURE_SAMPLES_MAX);
    }

    /// Everything that makes the run fail.
    pub fn failures(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.reordered
            + self.mismatched
            + self.errors
            + self.unexpected
            + self.broken_connections
    }

    /// Keeps the words of a failure while there is room.
    #[cold]
    pub fn describe(&mut self, failure: impl FnOnce() -> String) {
        if self.failure_samples.len() < FAILURE_SAMPLES_MAX {
            self.failure_samples.push(failure());
        }
    }
}

/// Running totals for the progress bar. Owned by the main thread and every load thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Connections established.
    pub connected: AtomicU64,
    /// Messages closed by an answer, the warm-up included.
    pub answered: AtomicU64,
    /// Failures so far, without the lost ones.
    pub failures: AtomicU64,
}

impl Progress {
    /// Adds to one of the totals.
    pub fn add(total: &AtomicU64, count: u64) {
        // Relaxed: the totals are only shown; the final figures come from the tallies.
        total.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads one of the totals.
    pub fn read(total: &AtomicU64) -> u64 {
        total.load(Ordering::Relaxed) // As in `add`.
    }
}
