//! `gateway status --deep`: has each part of a gateway answer.

use std::time::{Duration, Instant};

use adapters::client::openclaw::Connection;
use adapters::client::{self, ClientError};
use serde::Serialize;
use serde_json::json;

use super::{AskError, Gateway, agents};
use crate::admin::answer::{Stats, Status};
use crate::admin::request::Op;
use crate::client::{READ_SCOPES, run};
use crate::options::{FilePlace, Reach};
use crate::reach;
use crate::ring;
use crate::state_directory;

/// How long a part may take that is asked over the network.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a part has answered.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Which part.
    pub part: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What it says, or why it does not.
    pub says: String,
    /// How long that took.
    pub took_ms: f64,
}

/// Asks all of them, one after the other.
pub(super) fn probes(gateway: &mut Gateway, status: &Status, place: &FilePlace) -> Vec<Probe> {
    let url = format!("ws://{}", status.listener);
    vec![
        probe("health", || health(&url)),
        probe("clients", || clients(&url, place)),
        probe("shards", || shards(gateway)),
        probe("keeper", || keeper(place)),
        probe("agents", || agents_run(gateway)),
    ]
}

/// In a line for people.
pub(super) fn line(probe: &Probe) -> String {
    let word = if probe.ok { "ok" } else { "FAILS" };
    format!("{:<10}{word}, {} ({:.1} ms)", probe.part, probe.says, probe.took_ms)
}

fn probe(part: &'static str, ask: impl FnOnce() -> Result<String, String>) -> Probe {
    let begin = Instant::now();
    let answer = ask();
    let ok = answer.is_ok();
    let says = answer.unwrap_or_else(|reason| reason);
    Probe { part, ok, says, took_ms: begin.elapsed().as_secs_f64() * 1e3 }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn health(url: &str) -> Result<String, String> {
    let report = run(client::health(url)).map_err(|error| told(&error))?.map_err(|error| told(&error))?;
    let report: serde_json::Value = serde_json::from_str(&report).map_err(|error| told(&error))?;
    let word = report["status"].as_str().unwrap_or("unknown").to_owned();
    if report["ok"] == true { Ok(word) } else { Err(word) }
}

/// A request and its answer, as clients make them.
fn clients(url: &str, place: &FilePlace) -> Result<String, String> {
    let reach = Reach { url: Some(url.to_owned()), ..Reach::at(place.clone()) };
    let reached = reach::reach(&reach).map_err(|error| told(&error))?;
    let asked = async {
        let mut connection = Connection::open(url, reached.secret.as_ref(), READ_SCOPES, PATIENCE).await?;
        let answer = connection.call("health", &json!({})).await?;
        connection.close().await;
        Ok::<_, ClientError>(answer["ok"] == true)
    };
    let asked = run(async { tokio::time::timeout(PATIENCE, asked).await }).map_err(|error| told(&error))?;
    match asked {
        Ok(Ok(true)) => Ok("a request is answered".to_owned()),
        Ok(Ok(false)) => Err("a request is answered, and says that the gateway is not well".to_owned()),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn shards(gateway: &mut Gateway) -> Result<String, String> {
    let mut stats: Stats = gateway.ask(Op::Stats, json!({})).map_err(|error| told(&error))?;
    let mut count = stats.shards.len();
    let mut worst =
        stats.shards.iter().find(|shard| shard.journal != "writing").map(|shard| shard.journal.clone());
    while let Some(offset) = stats.next {
        stats = gateway.ask(Op::Stats, json!({"offset": offset})).map_err(|error| told(&error))?;
        stats.next = stats.next.filter(|&next| next > offset);
        count += stats.shards.len();
        let bad = stats.shards.iter().find(|shard| shard.journal != "writing");
        worst = worst.or_else(|| bad.map(|shard| shard.journal.clone()));
    }
    match worst {
        None => Ok(format!("{count} answer, and their journals are written")),
        Some(journal) => Err(format!("{count} answer, and a journal is {journal}")),
    }
}

fn keeper(place: &FilePlace) -> Result<String, String> {
    let directory =
        state_directory::chosen(place.state_dir.as_deref()).ok_or("there is no home directory")?;
    let rings = ring::all(&directory).map_err(|error| told(&error))?;
    Ok(format!("it shows {} rings", rings.len()))
}

fn agents_run(gateway: &mut Gateway) -> Result<String, String> {
    let found = agents::agents(gateway, &json!({})).map_err(|error: AskError| told(&error))?.agents;
    let is_well = |state: &str| matches!(state, "running" | "created");
    let sick: Vec<_> = found
        .iter()
        .filter(|agent| !is_well(&agent.state) || agent.sick.is_some())
        .map(|agent| format!("{} is {}", agent.name, agent.sick.as_deref().unwrap_or(&agent.state)))
        .collect();
    let running = found.iter().filter(|agent| agent.state == "running").count();
    let count = format!("{running} of {} run", found.len());
    if sick.is_empty() { Ok(count) } else { Err(format!("{count}; {}", sick.join(", "))) }
}
