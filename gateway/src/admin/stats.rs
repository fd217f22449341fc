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
struct Found {
    counters: Counters,
    latencies: Latencies,
    journal: JournalState,
}

pub(super) async fn run(admin: &Admin, offset: usize) -> Result<Stats, Complaint> {
    let question = |core: &ShardCore| Found {
        counters: core.counters(),
        latencies: core.latencies().clone(),
        journal: core.journal_state(),
    };
    let all = admin.shards.ask_all(question, Vec::new).await?;
    let mut sum = Found {
        counters: Counters::default(),
        latencies: Latencies::default(),
        journal: JournalState::Writing,
    };
    for found in &all {
        sum.counters += found.counters;
        sum.latencies.journal.merge(&found.latencies.journal);
        sum.latencies.dispatch.merge(&found.latencies.dispatch);
        sum.latencies.total.merge(&found.latencies.total);
        if found.journal as u32 > sum.journal as u32 {
            sum.journal = found.journal;
        }
    }
    let each = all.iter().enumerate().skip(offset).map(|(shard, found)| stats(Some(shard), found));
    let shards = fitting(each);
    let end = offset.saturating_add(shards.len());
    let next = (end < all.len() && !shards.is_empty()).then_some(end);
    Ok(Stats { shard_count: all.len(), sum: stats(None, &sum), shards, next })
}

fn stats(shard: Option<usize>, found: &Found) -> ShardStats {
    let Latencies { journal, dispatch, total } = &found.latencies;
    let latencies = [("journal", journal), ("dispatch", dispatch), ("total", total)];
    ShardStats {
        shard,
        journal: found.journal.name().to_owned(),
        counters: found.counters.named().map(|(name, count)| (name.to_owned(), count)).collect(),
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
