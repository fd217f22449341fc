//! How long `sessions.list` takes for a client of a running gateway: `session_lists URL CALLS`. The gateway is one of this
//! machine that lets everybody in; `sessions/examples/many.rs` fills its state directory.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::operator::Operator;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("an address is given");
    let calls: usize = arguments.next().and_then(|calls| calls.parse().ok()).expect("a number is given");
    let mut client = Operator::connect(&url, &["operator.read"]).await;
    let rows = [
        ("health, for comparison", "health", json!({})),
        ("newest 20", "sessions.list", json!({"limit": 20})),
        ("newest 100", "sessions.list", json!({})),
        ("newest 1000", "sessions.list", json!({"limit": 1000})),
        ("at 90,000", "sessions.list", json!({"limit": 20, "offset": 90_000})),
        ("of an agent", "sessions.list", json!({"limit": 20, "agentId": "rare", "offset": 5_000})),
        ("active", "sessions.list", json!({"limit": 20, "activeMinutes": 1})),
        ("label", "sessions.list", json!({"label": "Project 5000"})),
        ("search, few", "sessions.list", json!({"limit": 20, "search": "project 50"})),
        ("search, none", "sessions.list", json!({"limit": 20, "search": "no such thing"})),
        ("search, all", "sessions.list", json!({"limit": 20, "search": "webchat"})),
        ("pinned, none", "sessions.list", json!({"limit": 20, "pinned": true})),
        ("configured agents", "sessions.list", json!({"limit": 20, "configuredAgentsOnly": true})),
    ];
    println!("{:<24} {:>6} {:>10} {:>10} {:>10}", "what", "rows", "p50 us", "p99 us", "max us");
    for (what, method, params) in rows {
        let (mut times, mut count) = (Vec::with_capacity(calls), Value::Null);
        for _ in 0..calls {
            let start = Instant::now();
            let told = client.ask(method, params.clone()).await.expect("it is answered");
            times.push(start.elapsed());
            count = told["count"].clone();
        }
        times.sort();
        let at = |share: usize| micros(times[(times.len() - 1) * share / 1000]);
        println!("{what:<24} {:>6} {:>10} {:>10} {:>10}", count.to_string(), at(500), at(990), at(1000));
    }
}

fn micros(time: Duration) -> u128 {
    time.as_micros()
}
