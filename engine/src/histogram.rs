//! How long things took on a shard, for readers on other threads: log-linear histograms.
//!
//! # Layout
//!
//! Durations below 8 ns have a bucket each. Above, every power of two is divided into 8 buckets of equal width, so
//! that a bucket is at most 12.5 % wide. What took longer than 2^42 ns, 73 minutes, counts as that.
//!
//! # Who may touch what
//!
//! 1. A [`Histogram`] is plain numbers, owned by its shard.
//! 2. A [`SharedHistogram`] is written by that shard only, and only where something has changed; anyone reads it.
//!
//! # What is deliberately absent
//!
//! A consistent snapshot: a reader may see some counts of a publication before others. Each is right by itself, and
//! the total is their sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of each power of two.
const SUB_BUCKETS: usize = 8;
const SUB_BUCKET_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// The longest duration that is told apart, in bits of its nanoseconds.
const NANOS_BITS: u32 = 42;
const NANOS_MAX: u64 = (1 << NANOS_BITS) - 1;
/// Buckets of a histogram.
pub const BUCKETS: usize = (NANOS_BITS - SUB_BUCKET_BITS + 1) as usize * SUB_BUCKETS;
const CHANGED_WORDS: usize = BUCKETS.div_ceil(u64::BITS as usize);

const _: () = assert!(SUB_BUCKETS.is_power_of_two(), "a bucket is found by shifts");
const _: () = assert!(SUB_BUCKETS >= 8, "at most 12.5 % wide");
const _: () = assert!(NANOS_MAX >= 3600 * 1_000_000_000, "an hour is told apart");

/// The bucket of a duration.
#[inline]
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min(NANOS_MAX);
    // One bit and the next three are kept; shorter durations are kept whole.
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(SUB_BUCKET_BITS + 1);
    shift as usize * SUB_BUCKETS + (nanos >> shift) as usize
}

/// The longest duration of a bucket.
fn longest_of(bucket: usize) -> u64 {
    let shift = (bucket / SUB_BUCKETS).saturating_sub(1);
    let first = (bucket - shift * SUB_BUCKETS) as u64;
    ((first + 1) << shift) - 1
}

/// Counts of durations, owned by a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    nanos_sum: u64,
    nanos_max: u64,
    /// Bit by bucket: whether it differs from what was published.
    changed: [u64; CHANGED_WORDS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], nanos_sum: 0, nanos_max: 0, changed: [0; CHANGED_WORDS] }
    }
}

impl Histogram {
    /// Counts a duration.
    #[inline]
    pub fn record(&mut self, duration: Duration) {
        self.record_nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a duration of so many nanoseconds.
    ///
    /// HOT: touches two cache lines of its own, and no branch depends on the duration.
    #[inline]
    pub fn record_nanos(&mut self, nanos: u64) {
        let bucket = bucket(nanos);
        self.counts[bucket] += 1;
        self.nanos_sum = self.nanos_sum.saturating_add(nanos);
        self.nanos_max = self.nanos_max.max(nanos);
        self.changed[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, (mine, &theirs)) in self.counts.iter_mut().zip(&other.counts).enumerate() {
            if theirs > 0 {
                *mine += theirs;
                self.changed[bucket / 64] |= 1 << (bucket % 64);
            }
        }
        self.nanos_sum = self.nanos_sum.saturating_add(other.nanos_sum);
        self.nanos_max = self.nanos_max.max(other.nanos_max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos_sum)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.nanos_max)
    }

    /// The duration that a share of them did not exceed: `percentile(99, 100)` is the 99th percentile, and
    /// `percentile(9_999, 10_000)` the 99.99th. Too long by 12.5 % at most; zero if none was counted.
    pub fn percentile(&self, part: u32, whole: u32) -> Duration {
        let rank = u128::from(self.count()) * u128::from(part);
        // Rounded up: of three, the second is the median.
        let rank = u64::try_from(rank.div_ceil(u128::from(whole.max(1)))).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(longest_of(bucket).min(self.nanos_max));
            }
        }
        self.max()
    }

    /// The buckets that hold anything, with the longest duration of each, shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counts = self.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        counts.map(|(bucket, &count)| (Duration::from_nanos(longest_of(bucket)), count))
    }

    /// Publishes what has changed since the last time. Always to the same place, and by the shard only.
    pub fn publish(&mut self, shared: &SharedHistogram) {
        let mut any = false;
        for (word, changed) in self.changed.iter_mut().enumerate() {
            while *changed != 0 {
                let bucket = word * 64 + changed.trailing_zeros() as usize;
                *changed &= *changed - 1;
                // Relaxed: each is a number on its own; readers want no order between them.
                shared.counts[bucket].store(self.counts[bucket], Ordering::Relaxed);
                any = true;
            }
        }
        if any {
            // Relaxed: as above.
            shared.nanos_sum.store(self.nanos_sum, Ordering::Relaxed);
            // Relaxed: as above.
            shared.nanos_max.store(self.nanos_max, Ordering::Relaxed);
        }
    }
}

/// What a shard has published of a histogram.
#[derive(Debug)]
#[repr(align(128))]
pub struct SharedHistogram {
    counts: [AtomicU64; BUCKETS],
    nanos_sum: AtomicU64,
    nanos_max: AtomicU64,
}

impl Default for SharedHistogram {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            nanos_sum: AtomicU64::new(0),
            nanos_max: AtomicU64::new(0),
        }
    }
}

impl SharedHistogram {
    /// What was published last.
    pub fn read(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for (mine, shared) in histogram.counts.iter_mut().zip(&self.counts) {
            // Relaxed: as in `publish`.
            *mine = shared.load(Ordering::Relaxed);
        }
        // Relaxed: as in `publish`.
        histogram.nanos_sum = self.nanos_sum.load(Ordering::Relaxed);
        // Relaxed: as in `publish`.
        histogram.nanos_max = self.nanos_max.load(Ordering::Relaxed);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERCENTILES: [(u32, u32); 6] = [(1, 100), (1, 2), (9, 10), (99, 100), (9_999, 10_000), (1, 1)];

    /// Buckets follow each other without gaps, each at most an eighth wide, and hold both of their ends.
    #[test]
    fn buckets_cover_everything_once() {
        let mut next = 0;
        for number in 0..BUCKETS {
            let longest = longest_of(number);
            assert!(longest - next <= next / 8, "bucket {number} goes from {next} to {longest}");
            assert_eq!((bucket(next), bucket(longest)), (number, number), "{next}..={longest}");
            next = longest + 1;
        }
        assert_eq!(next, 1 << NANOS_BITS);
        assert_eq!((bucket(next), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    /// Percentiles are those of a histogram of three digits, and at most an eighth above, for durations of
    /// every size.
    #[test]
    fn percentiles_are_those_of_a_finer_histogram() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ours = Histogram::default();
            let mut finer = hdrhistogram::Histogram::<u64>::new_with_bounds(1, NANOS_MAX, 3).expect("bounds");
            for _ in 0..random.usize(1..5000) {
                let nanos = random.u64(1..=NANOS_MAX) >> random.u32(..NANOS_BITS);
                ours.record_nanos(nanos);
                finer.record(nanos.max(1)).expect("it is within the bounds");
            }
            assert_eq!(ours.count(), finer.len());
            for (part, whole) in PERCENTILES {
                let expected = finer.value_at_quantile(f64::from(part) / f64::from(whole)) as f64;
                let found = ours.percentile(part, whole).as_nanos() as f64;
                // Three digits are off by a thousandth themselves.
                let bounds = expected * 0.998 - 1.0..=expected * 1.126 + 1.0;
                assert!(bounds.contains(&found), "seed {seed}: {part}/{whole} is {found}, not {expected}");
            }
        }
    }

    /// Nothing, one, and too long a duration; the largest is exact.
    #[test]
    fn ends_are_exact() {
        let mut histogram = Histogram::default();
        for (part, whole) in PERCENTILES {
            assert_eq!(histogram.percentile(part, whole), Duration::ZERO);
        }
        histogram.record(Duration::from_nanos(1_000_003));
        for (part, whole) in PERCENTILES {
            assert_eq!(histogram.percentile(part, whole), Duration::from_nanos(1_000_003));
        }
        histogram.record(Duration::MAX);
        assert_eq!((histogram.count(), histogram.max()), (2, Duration::from_nanos(u64::MAX)));
        assert_eq!(histogram.percentile(1, 1), Duration::from_nanos(NANOS_MAX));
        assert_eq!(histogram.sum(), Duration::from_nanos(u64::MAX), "no overflow");
        assert_eq!(histogram.buckets().map(|(_, count)| count).collect::<Vec<_>>(), [1, 1]);
    }

    /// Histograms that are published and read are merged as if one had counted everything; what did not change is
    /// not written again.
    #[test]
    fn published_histograms_add_up() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut whole = Histogram::default();
        let mut parts =
            [const { None }; 3].map(|_: Option<()>| (Histogram::default(), SharedHistogram::default()));
        for round in 0..1000 {
            let (part, shared) = &mut parts[round % 3];
            let nanos = random.u64(..) >> random.u32(20..60);
            part.record_nanos(nanos);
            whole.record_nanos(nanos);
            if random.bool() {
                part.publish(shared);
            }
        }
        let mut merged = Histogram::default();
        for (part, shared) in &mut parts {
            part.publish(shared);
            merged.merge(&shared.read());
        }
        assert_eq!(merged, whole);
        let (part, _) = &mut parts[0];
        let elsewhere = SharedHistogram::default();
        part.publish(&elsewhere);
        assert_eq!(elsewhere.read(), Histogram::default());
    }
}
