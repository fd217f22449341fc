//! `/varz`: the gateway as a whole, in one object.

use std::collections::BTreeMap;

use serde::Serialize;

use super::metrics::EDGES;
use super::{PageError, Sources};
use crate::admin::answer::ShardStats;
use crate::admin::stats;
use crate::process_usage::ProcessUsage;

/// The gateway as a whole.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    version: &'static str,
    process_id: u32,
    uptime_ms: u64,
    runtime: &'static str,
    shard_count: usize,
    edge_count: usize,
    memory_bytes: u64,
    cpu_seconds: f64,
    open_files: u64,
    /// By name, all edges together.
    edges: BTreeMap<&'static str, u64>,
    /// All shards together.
    shards: ShardStats,
}

/// As it is now.
pub async fn of(sources: &Sources) -> Result<Overview, PageError> {
    let shards = stats::run(&sources.admin, usize::MAX).await.map_err(PageError::Unanswered)?.sum;
    let usage = ProcessUsage::read();
    let edges = EDGES.iter().map(|row| (row.name, sources.edges.stats.iter().map(row.value).sum()));
    Ok(Overview {
        version: env!("CARGO_PKG_VERSION"),
        process_id: std::process::id(),
        uptime_ms: u64::try_from(sources.uptime().as_millis()).unwrap_or(u64::MAX),
        runtime: sources.runtime,
        shard_count: sources.shards.len(),
        edge_count: sources.edges.stats.len(),
        memory_bytes: usage.memory_bytes,
        cpu_seconds: usage.cpu_seconds,
        open_files: usage.open_files,
        edges: edges.collect(),
        shards,
    })
}
