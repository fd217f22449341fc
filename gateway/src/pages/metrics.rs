//! `/metrics`: counters and latencies in the text format of OpenMetrics.
//!
//! Counters are what shards and edges have published, so they are told even if a shard hangs. Latencies and agents have
//! to be asked for; where they are not answered, `openclaw_unanswered` is 1 and they are left out.

use std::fmt::Error;

use adapters::edge::EdgeStats;
use engine::core::Latencies;
use engine::histogram::Histogram;
use engine::stats::{Counters, Described, Kind};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Sources;
use crate::admin::answer::AgentRow;
use crate::admin::{agents, stats};
use crate::process_usage::ProcessUsage;
use crate::transcripts::recorder::{RecorderStatus, Watch};

/// Of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The shortest and the longest bound of a histogram, in bits of its nanoseconds; between them each fourth power.
/// A bucket of ours never crosses a power of two.
const BOUND_BITS: (u32, u32) = (12, 36);

/// A number of each edge, or of each agent.
#[derive(Debug)]
pub struct Row<S> {
    /// Its name.
    pub name: &'static str,
    help: &'static str,
    kind: Kind,
    /// What it is.
    pub value: fn(&S) -> u64,
}

/// Counters of the edges.
pub const EDGES: [Row<EdgeStats>; 9] = [
    now("sockets", "Sockets, WebSocket or not", |stats| stats.sockets.get()),
    now("connections", "WebSocket connections", |stats| stats.connections.get()),
    now("turns_open", "Messages that await a reply", |stats| stats.open_turns.get()),
    now("unflushed", "Connections whose frames are not all with the kernel", |stats| stats.unflushed.get()),
    ever("messages_sent", "Messages handed to shards", |stats| stats.received.get()),
    ever("turns_answered", "Turns that ended with a reply or an acceptance", |stats| stats.answered.get()),
    ever("turns_refused", "Frames and turns that ended with an error frame", |stats| stats.refused.get()),
    ever("slow_closed", "Connections closed for reading too slowly", |stats| stats.slow_closed.get()),
    ever("replies_late", "Replies that came for nobody", |stats| stats.late.get()),
];

const AGENTS: [Row<AgentRow>; 4] = [
    now("messages_open", "Messages in the hands of an agent", |agent| agent.open as u64),
    now("messages_queued", "Messages that wait for an agent", |agent| agent.queued as u64),
    now("running", "Whether an agent has a process", |agent| u64::from(agent.process_id.is_some())),
    ever("restarts", "How often an agent was started again", |agent| agent.restarts),
];

const TRANSCRIPTS: [Row<RecorderStatus>; 5] = [
    ever("rows", "Rows handed to transcripts", |status| status.rows),
    now("lag_records", "Records of the journal that transcripts lack so far", |status| status.lag_records),
    ever("lost_records", "Records that were gone before they could be written down", |status| {
        status.lost_records
    }),
    ever("spoiled_rows", "Rows that were refused or cut", |status| status.spoiled_rows),
    now("stopped", "Whether nothing is written down until the next start", |status| {
        u64::from(status.has_stopped)
    }),
];

const fn now<S>(name: &'static str, help: &'static str, value: fn(&S) -> u64) -> Row<S> {
    Row { name, help, kind: Kind::Gauge, value }
}

const fn ever<S>(name: &'static str, help: &'static str, value: fn(&S) -> u64) -> Row<S> {
    Row { name, help, kind: Kind::Counter, value }
}

/// The page, as of now.
pub async fn text(sources: &Sources) -> String {
    let mut registry = Registry::with_prefix("openclaw");
    registry.register_collector(Box::new(Snapshot::take(sources).await));
    let mut text = String::new();
    // A string takes all that is written to it.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// Everything that is told, as it was at one moment.
#[derive(Debug)]
struct Snapshot {
    runtime: &'static str,
    uptime_seconds: f64,
    process: ProcessUsage,
    shards: Vec<Counters>,
    /// By row of [`EDGES`], then by edge.
    edges: Vec<Vec<u64>>,
    /// By shard; empty if one did not answer.
    latencies: Vec<Latencies>,
    agents: Vec<AgentRow>,
    unanswered: bool,
    /// Nothing if no transcripts are written.
    transcripts: Option<RecorderStatus>,
    dropped_lines: u64,
}

impl Snapshot {
    async fn take(sources: &Sources) -> Self {
        let found = stats::ask(&sources.admin).await;
        let agents = agents::all(&sources.admin, Vec::new()).await;
        let edges = EDGES.iter().map(|row| {
            let edges = sources.edges.stats.iter();
            edges.map(row.value).collect()
        });
        Self {
            runtime: sources.runtime,
            uptime_seconds: sources.uptime().as_secs_f64(),
            process: ProcessUsage::read(),
            shards: sources.shards.iter().map(|shard| shard.read()).collect(),
            edges: edges.collect(),
            unanswered: found.is_err() || agents.is_err(),
            latencies: found.unwrap_or_default().into_iter().map(|found| found.latencies).collect(),
            agents: agents.unwrap_or_default(),
            transcripts: sources.transcripts.as_ref().map(Watch::status),
            dropped_lines: sources.log.dropped(),
        }
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        encoder
            .encode_descriptor("build", "Version and runtime", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("runtime", self.runtime)])?;
        let mut gauge = |name, help, unit: Option<&Unit>, value: f64| {
            encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
        };
        gauge("uptime", "Since the gateway started", Some(&Unit::Seconds), self.uptime_seconds)?;
        gauge("memory", "Resident memory", Some(&Unit::Bytes), self.process.memory_bytes as f64)?;
        gauge("open_files", "Open descriptors", None, self.process.open_files as f64)?;
        let unanswered = f64::from(u8::from(self.unanswered));
        gauge("unanswered", "Whether latencies and agents are left out", None, unanswered)?;
        let mut cpu = encoder.encode_descriptor(
            "cpu",
            "Time of all threads",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        encode_counter(&mut cpu, &self.process.cpu_seconds)
    }

    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        // All shards have the same counters, in the same order.
        let mut columns: Vec<_> = self.shards.iter().map(Counters::described).collect();
        loop {
            let row: Vec<Described> = columns.iter_mut().filter_map(Iterator::next).collect();
            let Some(&Described { name, help, kind, .. }) = row.first() else { return Ok(()) };
            let name = format!("shard_{name}");
            encode_numbers(encoder, &name, help, kind, "shard", row.iter().map(|row| row.value))?;
        }
    }

    fn encode_edges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        for (row, values) in EDGES.iter().zip(&self.edges) {
            let name = format!("edge_{}", row.name);
            encode_numbers(encoder, &name, row.help, row.kind, "edge", values.iter().copied())?;
        }
        Ok(())
    }

    fn encode_latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "From the shard's first sight of a message to the journal's word, the agent's ring, the client's ring";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("shard_latency", help, unit, MetricType::Histogram)?;
        for (shard, latencies) in self.latencies.iter().enumerate() {
            for (until, histogram) in latencies.named() {
                let labels = [("shard", shard.to_string()), ("until", until.to_owned())];
                let sum = histogram.sum().as_secs_f64();
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    sum,
                    histogram.count(),
                    &buckets(histogram),
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn encode_records(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Lines of the log that came faster than they could be written";
        let mut family = encoder.encode_descriptor("log_dropped_lines", help, None, MetricType::Counter)?;
        encode_counter(&mut family, &self.dropped_lines)?;
        let Some(status) = &self.transcripts else { return Ok(()) };
        for Row { name, help, kind, value } in &TRANSCRIPTS {
            let name = format!("transcripts_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, metric_type(*kind))?;
            encode_number(&mut family, *kind, value(status))?;
        }
        Ok(())
    }

    fn encode_agents(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        for Row { name, help, kind, value } in &AGENTS {
            let name = format!("agent_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, metric_type(*kind))?;
            for agent in &self.agents {
                let labels = [("agent", agent.name.as_str()), ("pool", agent.pool.as_str())];
                encode_number(&mut family.encode_family(&labels)?, *kind, value(agent))?;
            }
        }
        Ok(())
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.encode_process(&mut encoder)?;
        self.encode_shards(&mut encoder)?;
        self.encode_edges(&mut encoder)?;
        self.encode_latencies(&mut encoder)?;
        self.encode_records(&mut encoder)?;
        self.encode_agents(&mut encoder)
    }
}

/// One number of each shard or edge.
fn encode_numbers(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: Kind,
    label: &str,
    values: impl Iterator<Item = u64>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help.trim_end_matches('.'), None, metric_type(kind))?;
    for (index, value) in values.enumerate() {
        encode_number(&mut family.encode_family(&[(label, index)])?, kind, value)?;
    }
    Ok(())
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Gauge => MetricType::Gauge,
        Kind::Counter => MetricType::Counter,
    }
}

fn encode_number(encoder: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> Result<(), Error> {
    match kind {
        Kind::Gauge => encoder.encode_gauge(&value),
        Kind::Counter => encode_counter(encoder, &value),
    }
}

fn encode_counter(
    encoder: &mut MetricEncoder<'_>,
    value: &impl prometheus_client::encoding::EncodeCounterValue,
) -> Result<(), Error> {
    encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
}

/// Upper bounds in seconds, each with what lies between it and the one before.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut found = histogram.buckets().peekable();
    let bounds = (BOUND_BITS.0..=BOUND_BITS.1).step_by(2).map(|bits| 1u64 << bits);
    let mut buckets: Vec<_> = bounds
        .map(|bound| {
            let mut count = 0;
            while let Some((_, more)) = found.next_if(|(longest, _)| longest.as_nanos() < u128::from(bound)) {
                count += more;
            }
            (bound as f64 / 1e9, count)
        })
        .collect();
    buckets.push((f64::INFINITY, found.map(|(_, count)| count).sum()));
    buckets
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn snapshot() -> Snapshot {
        let mut latencies = Latencies::default();
        for micros in [1, 5, 5, 100_000_000] {
            latencies.total.record(Duration::from_micros(micros));
        }
        Snapshot {
            runtime: "epoll",
            uptime_seconds: 1.5,
            process: ProcessUsage { memory_bytes: 4096, cpu_seconds: 0.25, open_files: 7 },
            shards: vec![
                Counters { sessions: 3, messages_received: 10, ..Counters::default() },
                Counters { sessions: 4, messages_received: 20, ..Counters::default() },
            ],
            edges: EDGES.iter().map(|_| vec![9]).collect(),
            latencies: vec![latencies],
            agents: vec![],
            unanswered: false,
            transcripts: Some(RecorderStatus { rows: 5, lag_records: 2, ..RecorderStatus::default() }),
            dropped_lines: 1,
        }
    }

    /// What grows ends in `_total`, what does not does not, each with the number of its shard; durations are told as
    /// cumulated counts. By looking for lines.
    #[test]
    fn the_page_is_open_metrics() {
        let mut registry = Registry::with_prefix("openclaw");
        registry.register_collector(Box::new(snapshot()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE openclaw_shard_sessions gauge",
            "openclaw_shard_sessions{shard=\"1\"} 4",
            "# TYPE openclaw_shard_messages_received counter",
            "openclaw_shard_messages_received_total{shard=\"0\"} 10",
            "openclaw_edge_connections{edge=\"0\"} 9",
            "openclaw_cpu_seconds_total 0.25",
            "openclaw_log_dropped_lines_total 1",
            "openclaw_transcripts_rows_total 5",
            "openclaw_transcripts_lag_records 2",
            "openclaw_transcripts_stopped 0",
            "openclaw_memory_bytes 4096.0",
            "openclaw_build_info{version=\"0.1.0\",runtime=\"epoll\"} 1",
            "openclaw_shard_latency_seconds_bucket{le=\"0.000004096\",shard=\"0\",until=\"total\"} 1",
            "openclaw_shard_latency_seconds_bucket{le=\"0.000016384\",shard=\"0\",until=\"total\"} 3",
            "openclaw_shard_latency_seconds_bucket{le=\"+Inf\",shard=\"0\",until=\"total\"} 4",
            "openclaw_shard_latency_seconds_count{shard=\"0\",until=\"total\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    /// Every duration is counted once, at the bound below which it lies. By durations on both sides of each bound.
    #[test]
    fn bounds_are_exact() {
        for bits in (BOUND_BITS.0..=BOUND_BITS.1).step_by(2) {
            let mut histogram = Histogram::default();
            histogram.record_nanos((1 << bits) - 1);
            histogram.record_nanos(1 << bits);
            let counts: Vec<_> = buckets(&histogram).into_iter().filter(|&(_, count)| count > 0).collect();
            assert_eq!(counts.len(), 2, "{bits}: {counts:?}");
            assert_eq!(counts[0], ((1u64 << bits) as f64 / 1e9, 1));
        }
    }
}
