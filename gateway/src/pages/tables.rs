//! Tables: agents, connections, shards and rings, a page of rows of each, sorted as asked.

use std::cmp::Ordering;

use adapters::edge::ConnectionRow;
use serde::Serialize;
use serde_json::{Value, json};

use super::query::{Query, Window};
use super::{PageError, Sources};
use crate::admin::answer::{AgentRow, ShardStats};
use crate::admin::{agents as agent_rows, stats};
use crate::ring::{self, SeenRing};

/// By what rows can be sorted, and how.
type Column<T> = (&'static str, fn(&T, &T) -> Ordering);

const AGENTS: [Column<AgentRow>; 6] = [
    ("name", |a, b| a.name.cmp(&b.name)),
    ("state", |a, b| a.state.cmp(&b.state)),
    ("sinceMs", |a, b| a.since_ms.cmp(&b.since_ms)),
    ("restarts", |a, b| a.restarts.cmp(&b.restarts)),
    ("open", |a, b| a.open.cmp(&b.open)),
    ("queued", |a, b| a.queued.cmp(&b.queued)),
];
const SHARDS: [Column<ShardStats>; 4] = [
    ("shard", |a, b| a.shard.cmp(&b.shard)),
    ("sessions", |a, b| a.counters.get("sessions").cmp(&b.counters.get("sessions"))),
    ("turnsOpen", |a, b| a.counters.get("turns_open").cmp(&b.counters.get("turns_open"))),
    ("messagesQueued", |a, b| a.counters.get("messages_queued").cmp(&b.counters.get("messages_queued"))),
];
const RINGS: [Column<SeenRing>; 2] =
    [("name", |a, b| a.name.cmp(&b.name)), ("fillPercent", |a, b| fill(a).total_cmp(&fill(b)))];

const CONNECTIONS: [Column<ConnectionRow>; 13] = [
    ("id", |a, b| a.id.cmp(&b.id)),
    ("dialect", |a, b| a.dialect.cmp(b.dialect)),
    ("client", |a, b| a.client.cmp(&b.client)),
    ("address", |a, b| a.address.cmp(&b.address)),
    ("sinceMs", |a, b| a.since_ms.cmp(&b.since_ms)),
    ("idleMs", |a, b| a.idle_ms.cmp(&b.idle_ms)),
    ("messagesIn", |a, b| a.messages_in.cmp(&b.messages_in)),
    ("bytesIn", |a, b| a.bytes_in.cmp(&b.bytes_in)),
    ("messagesOut", |a, b| a.messages_out.cmp(&b.messages_out)),
    ("bytesOut", |a, b| a.bytes_out.cmp(&b.bytes_out)),
    ("bufferedBytes", |a, b| a.buffered_bytes.cmp(&b.buffered_bytes)),
    ("openTurns", |a, b| a.open_turns.cmp(&b.open_turns)),
    ("state", |a, b| a.state.cmp(b.state)),
];

/// Of the fuller direction.
fn fill(ring: &SeenRing) -> f64 {
    ring.directions.iter().filter_map(|direction| direction.fill_percent).fold(0.0, f64::max)
}

/// All agents.
pub async fn agents(sources: &Sources, query: &Query<'_>) -> Result<Value, PageError> {
    let window = window(query, &AGENTS)?;
    let rows = agent_rows::all(&sources.admin, Vec::new()).await.map_err(PageError::Unanswered)?;
    Ok(page("agents", rows, &AGENTS, window))
}

/// All connections.
pub async fn connections(sources: &Sources, query: &Query<'_>) -> Result<Value, PageError> {
    let window = window(query, &CONNECTIONS)?;
    let rows = sources.edges.connections().await.ok_or(PageError::Edges)?;
    Ok(page("connections", rows, &CONNECTIONS, window))
}

/// All shards.
pub async fn shards(sources: &Sources, query: &Query<'_>) -> Result<Value, PageError> {
    let window = window(query, &SHARDS)?;
    let found = stats::ask(&sources.admin).await.map_err(PageError::Unanswered)?;
    let rows = found.iter().enumerate().map(|(shard, found)| stats::stats(Some(shard), found));
    Ok(page("shards", rows.collect(), &SHARDS, window))
}

/// All rings.
pub async fn rings(sources: &Sources, query: &Query<'_>) -> Result<Value, PageError> {
    let window = window(query, &RINGS)?;
    let state = sources.state.clone();
    let seen = tokio::task::spawn_blocking(move || ring::all(&state)).await;
    let rows = match seen {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return Err(PageError::Rings(error.to_string())),
        Err(_) => return Err(PageError::Rings("the gateway is going down".to_owned())),
    };
    Ok(page("rings", rows, &RINGS, window))
}

fn window<'a, T>(query: &Query<'a>, columns: &[Column<T>]) -> Result<Window<'a>, PageError> {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    query.window(&names).map_err(PageError::Query)
}

fn page<T: Serialize>(name: &str, mut rows: Vec<T>, columns: &[Column<T>], window: Window<'_>) -> Value {
    if let Some((_, compare)) = columns.iter().find(|(column, _)| Some(*column) == window.sort) {
        // Stable, so rows that are equal stay in their order.
        rows.sort_by(|a, b| if window.descending { compare(b, a) } else { compare(a, b) });
    }
    let total = rows.len();
    let shown: Vec<_> = rows.into_iter().skip(window.offset).take(window.limit).collect();
    json!({"total": total, "offset": window.offset, "limit": window.limit, name: shown})
}

#[cfg(test)]
mod tests {
    use engine::stats::Counters;

    use super::*;

    /// Rows are sorted, passed over and counted. By three shards.
    #[test]
    fn a_page_is_a_window_of_sorted_rows() {
        let row = |shard, sessions: u64| ShardStats {
            shard: Some(shard),
            journal: "writing".to_owned(),
            counters: [("sessions".to_owned(), sessions)].into(),
            latencies: [].into(),
        };
        let check = |query, expected: &[u64]| {
            let query = Query::parse(query).unwrap();
            let rows = vec![row(0, 5), row(1, 9), row(2, 5)];
            let page = page("shards", rows, &SHARDS, window(&query, &SHARDS).unwrap());
            let shards = page["shards"].as_array().unwrap();
            assert_eq!(shards.iter().map(|row| row["shard"].as_u64().unwrap()).collect::<Vec<_>>(), expected);
            assert_eq!(page["total"], 3);
        };
        check("", &[0, 1, 2]);
        check("sort=sessions", &[0, 2, 1]);
        check("sort=-sessions", &[1, 0, 2]);
        check("sort=-shard&offset=1&limit=1", &[1]);
        check("offset=3", &[]);
    }

    /// Columns are counters that there are.
    #[test]
    fn columns_of_shards_are_counters() {
        let names: Vec<_> = Counters::default().described().map(|row| row.name).collect();
        for counter in ["sessions", "turns_open", "messages_queued"] {
            assert!(names.contains(&counter), "{counter}");
        }
    }
}
