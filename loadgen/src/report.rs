//! The summary for people and the JSON file for scripts.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::options::{Check, Load, Options};
use crate::process_usage::Usage;
use crate::tally::Tally;

const BYTES_PER_MIB: f64 = 1_048_576.0;

/// Everything a run has shown. The field names are the keys of the JSON file.
#[derive(Debug, Serialize)]
pub struct Summary {
    sent: u64,
    answered: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    throughput_per_s: f64,
    latency_ns: Percentiles,
    server_cpu_s: Option<f64>,
    server_rss_bytes: Option<u64>,
    /// Like `server_rss_bytes`, with memory shared between the processes counted once.
    server_pss_bytes: Option<u64>,
    server_process_count: usize,
    mismatched: u64,
    errors: u64,
    unexpected: u64,
    broken_connections: u64,
    blocks: u64,
    ignored: u64,
    warmup_sent: u64,
    warmup_answered: u64,
    /// From the end of the warm-up to the last measured answer.
    duration_s: f64,
    send_lag_ns: Percentiles,
    mode: &'static str,
    rate_per_s: Option<u64>,
    in_flight: Option<usize>,
    check: &'static str,
    connections: usize,
    sessions: usize,
    threads: usize,
    agent: String,
    url: String,
    corpus_messages: usize,
    corpus_mean_bytes: usize,
    command: Vec<String>,
    failure_samples: Vec<String>,
    #[serde(skip)]
    failures: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Percentiles {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

/// What the run was made of, besides the options.
#[derive(Debug)]
pub struct Setting {
    /// The command line, program first.
    pub command: Vec<String>,
    /// Messages in the corpus.
    pub corpus_messages: usize,
    /// Their mean size.
    pub corpus_mean_bytes: usize,
}

impl Summary {
    /// Puts the figures together.
    pub fn new(options: &Options, setting: Setting, tally: Tally, usage: Option<Usage>) -> Self {
        let warmup_ns = u64::try_from(options.warmup.as_nanos()).unwrap_or(u64::MAX);
        let duration_s = Duration::from_nanos(tally.last_answer_ns.saturating_sub(warmup_ns)).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a message count stays below 2^53")]
        let throughput_per_s = if duration_s > 0.0 { tally.answered as f64 / duration_s } else { 0.0 };
        let (mode, rate_per_s, in_flight) = match options.load {
            Load::Open { rate_per_s } => ("open", Some(rate_per_s), None),
            Load::Closed { in_flight } => ("closed", None, Some(in_flight)),
        };
        Self {
            failures: tally.failures(),
            sent: tally.sent,
            answered: tally.answered,
            lost: tally.lost,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            throughput_per_s,
            latency_ns: Percentiles::of(&tally.latency),
            server_cpu_s: usage.map(|usage| usage.cpu_s),
            server_rss_bytes: usage.map(|usage| usage.resident_bytes),
            server_pss_bytes: usage.and_then(|usage| usage.proportional_bytes),
            server_process_count: usage.map_or(0, |usage| usage.process_count),
            mismatched: tally.mismatched,
            errors: tally.errors,
            unexpected: tally.unexpected,
            broken_connections: tally.broken_connections,
            blocks: tally.blocks,
            ignored: tally.ignored,
            warmup_sent: tally.warmup_sent,
            warmup_answered: tally.warmup_answered,
            duration_s,
            send_lag_ns: Percentiles::of(&tally.send_lag),
            mode,
            rate_per_s,
            in_flight,
            check: match options.check {
                Check::None => "none",
                Check::Order => "order",
                Check::Content => "content",
            },
            connections: options.connections,
            sessions: options.sessions,
            threads: options.threads,
            agent: options.agent.clone(),
            url: options.url.to_string(),
            corpus_messages: setting.corpus_messages,
            corpus_mean_bytes: setting.corpus_mean_bytes,
            command: setting.command,
            failure_samples: tally.failure_samples,
        }
    }

    /// Whether every message was answered once, in order and rightly. A run without any answer has shown nothing.
    pub fn is_success(&self) -> bool {
        self.failures == 0 && self.answered > 0
    }

    /// The JSON object, with a line end.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("plain numbers and strings are always JSON");
        json.push('\n');
        json
    }
}

impl Summary {
    fn write_server(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.server_cpu_s, self.server_rss_bytes) {
            (Some(cpu_s), Some(resident_bytes)) => {
                let count = self.server_process_count;
                writeln!(formatter, "  {:<20}{cpu_s:>13.2} s   {count} processes", "server CPU")?;
                #[expect(clippy::cast_precision_loss, reason = "a memory size, shown with one decimal")]
                let mebibytes = |bytes: u64| bytes as f64 / BYTES_PER_MIB;
                writeln!(formatter, "  {:<20}{:>11.1} MiB", "server memory", mebibytes(resident_bytes))?;
                if let Some(bytes) = self.server_pss_bytes {
                    writeln!(formatter, "  {:<20}{:>11.1} MiB   shared memory once", "", mebibytes(bytes))?;
                }
            }
            _ => {
                writeln!(formatter, "  {:<20}{:>15}   (name it with --server-pid)", "server CPU", "unknown")?
            }
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = match (self.rate_per_s, self.in_flight) {
            (Some(rate), _) => format!("open loop, {} msg/s", thousands(rate)),
            (None, in_flight) => format!("closed loop, {} in flight each", in_flight.unwrap_or(0)),
        };
        writeln!(
            formatter,
            "{load}, {} connections, {} sessions, agent {}, messages of {} bytes on average",
            thousands(self.connections as u64),
            thousands(self.sessions as u64),
            self.agent,
            self.corpus_mean_bytes
        )?;
        let counts = [
            ("sent", self.sent),
            ("answered", self.answered),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("wrong content", self.mismatched),
            ("errors", self.errors),
            ("unexpected", self.unexpected),
            ("broken connections", self.broken_connections),
        ];
        for (label, count) in counts {
            writeln!(formatter, "  {label:<20}{:>15}", thousands(count))?;
        }
        let Percentiles { p50, p90, p99, p999, max } = self.latency_ns;
        for (label, value) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)] {
            writeln!(formatter, "  {:<20}{:>15}", format!("latency {label}"), time(value))?;
        }
        if self.rate_per_s.is_some() {
            let lag = self.send_lag_ns;
            writeln!(
                formatter,
                "  {:<20}{:>15}   (p99; how late the load generator sent)",
                "send lag",
                time(lag.p99)
            )?;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate, shown without fraction"
        )]
        let throughput = self.throughput_per_s.round() as u64;
        writeln!(
            formatter,
            "  {:<20}{:>15}   over {:.2} s",
            "msg/s",
            thousands(throughput),
            self.duration_s
        )?;
        self.write_server(formatter)?;
        for sample in &self.failure_samples {
            writeln!(formatter, "  failure: {sample}")?;
        }
        formatter.write_str(if self.is_success() { "PASS" } else { "FAIL" })
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time with three or four significant digits.
fn time(nanoseconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a time, shown with few digits")]
    let value = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grouping and units at both sides of each limit.
    #[test]
    fn numbers_are_readable() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        for (nanoseconds, text) in
            [(999, "999 ns"), (1_000, "1.0 µs"), (1_000_000, "1.00 ms"), (2_500_000_000, "2.50 s")]
        {
            assert_eq!(time(nanoseconds), text);
        }
    }

    /// Percentiles are those of the recorded values, to three digits, and never above the largest.
    #[test]
    fn percentiles_come_from_the_histogram() {
        let mut tally = Tally::new();
        for value in 1..=1000 {
            tally.latency.record(value * 1000).unwrap();
        }
        let percentiles = Percentiles::of(&tally.latency);
        assert_eq!(percentiles.max, 1_000_447);
        assert_eq!(percentiles.p50, 500_223);
        assert!(percentiles.p999 <= percentiles.max);
    }
}
