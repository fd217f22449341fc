//! Counters, latencies and journals of all shards.

use engine::core::{Latencies, ShardCore};
use engine::histogram::Histogram;
use engine::journal::entry::JournalState;
use engine::stats::Counters;

use super::Admin;
use super::answer::{Latency, ShardStats, Stats};
use super::explain::micros;
use super::request::Complaint;
use super::shards::fitting;

/// What is asked of a shard.
pub struct Found {
    /// What it has counted.
    pub counters: Counters,
    /// How long things took.
    pub latencies: Latencies,
    /// How its journal is.
    pub journal: JournalState,
}

pub async fn run(admin: &Admin, offset: usize) -> Result<Stats, Complaint> {
    let all = ask(admin).await?;
    let mut sum = Found {
        counters: Counters::default(),
        latencies: Latencies::default(),
        journal: JournalState::Writing,
    };
    for found in &all {
        sum.counters += found.counters;
        sum.latencies.merge(&found.latencies);
        sum.journal = sum.journal.max(found.journal);
    }
    let each = all.iter().enumerate().skip(offset).map(|(shard, found)| stats(Some(shard), found));
    let shards = fitting(each);
    let end = offset.saturating_add(shards.len());
    let next = (end < all.len() && !shards.is_empty()).then_some(end);
    Ok(Stats { shard_count: all.len(), sum: stats(None, &sum), shards, next })
}

/// Asks all shards; answers in their order.
pub async fn ask(admin: &Admin) -> Result<Vec<Found>, Complaint> {
    let question = |core: &ShardCore| Found {
        counters: core.counters(),
        latencies: core.latencies().clone(),
        journal: core.journal_state(),
    };
    admin.shards.ask_all(question, Vec::new).await
}

/// As it is told; of all together without a shard.
pub fn stats(shard: Option<usize>, found: &Found) -> ShardStats {
    let latencies = found.latencies.named();
    ShardStats {
        shard,
        journal: found.journal.name().to_owned(),
        counters: found.counters.described().map(|row| (row.name.to_owned(), row.value)).collect(),
        latencies: latencies.map(|(name, histogram)| (name.to_owned(), latency(histogram))).into(),
    }
}

fn latency(histogram: &Histogram) -> Latency {
    Latency {
        count: histogram.count(),
        p50_us: micros(histogram.percentile(50, 100)),
        p99_us: micros(histogram.percentile(99, 100)),
        p999_us: micros(histogram.percentile(999, 1000)),
        max_us: micros(histogram.max()),
    }
}
