//! `gateway stats`: counters and latencies in a table.

use std::io::Write;

use engine::stats::Counters;
use serde_json::json;

use super::{AskError, Gateway, duration};
use crate::admin::answer::{ShardStats, Stats};
use crate::admin::request::Op;
use crate::options::StatsOptions;
use crate::table::{self, Align, print_json};

const LATENCIES: [(&str, Align); 6] = [
    ("LATENCY", Align::Left),
    ("COUNT", Align::Right),
    ("P50", Align::Right),
    ("P99", Align::Right),
    ("P99.9", Align::Right),
    ("MAX", Align::Right),
];
const COUNTERS: [(&str, Align); 2] = [("COUNTER", Align::Left), ("ALL SHARDS", Align::Right)];
const SHARDS: [(&str, Align); 6] = [
    ("SHARD", Align::Right),
    ("JOURNAL", Align::Left),
    ("SESSIONS", Align::Right),
    ("OPEN", Align::Right),
    ("ANSWERED", Align::Right),
    ("DEAD", Align::Right),
];

pub(super) fn run(options: &StatsOptions) -> Result<(), AskError> {
    let mut gateway = Gateway::connect(&options.place)?;
    let mut stats: Stats = gateway.ask(Op::Stats, json!({}))?;
    while let Some(offset) = stats.next.take() {
        let more: Stats = gateway.ask(Op::Stats, json!({"offset": offset}))?;
        stats.shards.extend(more.shards);
        stats.next = more.next.filter(|&next| next > offset);
    }
    if options.json {
        return print_json(&stats).map_err(AskError::Print);
    }
    writeln!(std::io::stdout(), "{}", text(&stats)).map_err(AskError::Print)
}

fn text(stats: &Stats) -> String {
    let latencies: Vec<_> = ["journal", "dispatch", "total"]
        .iter()
        .filter_map(|name| Some((name, stats.sum.latencies.get(*name)?)))
        .map(|(name, latency)| {
            let [p50, p99, p999, max] =
                [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us].map(duration);
            [(*name).to_owned(), latency.count.to_string(), p50, p99, p999, max]
        })
        .collect();
    // In the order in which they are declared, as far as the gateway has them.
    let counters: Vec<_> = Counters::default()
        .described()
        .filter_map(|row| Some([row.name.to_owned(), stats.sum.counters.get(row.name)?.to_string()]))
        .collect();
    let shards: Vec<_> = stats.shards.iter().map(shard_row).collect();
    [
        table::render(&SHARDS, &shards),
        table::render(&LATENCIES, &latencies),
        table::render(&COUNTERS, &counters),
    ]
    .map(|lines| lines.join("\n"))
    .join("\n\n")
}

fn shard_row(stats: &ShardStats) -> [String; 6] {
    let counter = |name: &str| stats.counters.get(name).map_or("-".to_owned(), u64::to_string);
    [
        stats.shard.map_or("-".to_owned(), |shard| shard.to_string()),
        stats.journal.clone(),
        counter("sessions"),
        counter("turns_open"),
        counter("replies_completed"),
        counter("dead_letters"),
    ]
}
