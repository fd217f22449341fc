//! What is answered: the shapes of the JSON, for the gateway that writes and the command that reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A line from the gateway.
#[derive(Serialize, Deserialize, Debug)]
pub struct Line<T> {
    /// [`super::VERSION`].
    pub v: u64,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    pub ok: Option<T>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Error>,
}

fn none<T>() -> Option<T> {
    None
}

/// Why something is not answered.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// A row of `docs/admin.md`.
    pub code: String,
    /// As a sentence.
    pub message: String,
    /// Which field, if it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
}

/// What happened to messages.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Newest first.
    pub matches: Vec<Flight>,
    /// How many older ones are left out.
    pub left_out: usize,
}

/// How a message ended.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not.
    Open,
    /// With a reply.
    Replied,
    /// It had been accepted before: see the older match.
    Repeated,
    /// Without a reply.
    Failed,
}

/// What happened to one message.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Flight {
    /// The shard of its session.
    pub shard: usize,
    /// Its turn, if it became one.
    pub turn: Option<String>,
    /// Hash of its session's key.
    pub session_hash: String,
    /// Who got it last.
    pub agent: Option<String>,
    /// How often it was given out.
    pub attempts: u16,
    /// How it ended.
    pub outcome: Ending,
    /// Why it failed, if it did.
    pub code: Option<String>,
    /// When it came, Unix milliseconds.
    pub at_ms: u64,
    /// From the first stage to the last.
    pub total_us: f64,
    /// In the order of passing.
    pub stages: Vec<Stage>,
}

/// A stage that a message passed.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Which.
    pub stage: String,
    /// Since it came.
    pub at_us: f64,
    /// Since the stage before.
    pub delta_us: f64,
}

/// A page of dead letters.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Letters {
    /// How many there are of those that are wanted.
    pub total: usize,
    /// By shard, then in the order of death.
    pub letters: Vec<Letter>,
    /// The offset of the next page, if there is one.
    pub next: Option<usize>,
}

/// A dead letter.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Letter {
    /// Its turn.
    pub turn: String,
    /// The shard that has it.
    pub shard: usize,
    /// The id its client gave it.
    pub id: Option<String>,
    /// The conversation, as its client named it.
    pub session: String,
    /// Whom it was for.
    pub agent: Option<String>,
    /// Why it died.
    pub code: String,
    /// As a sentence.
    pub text: String,
    /// How often it was given out.
    pub attempts: u16,
    /// When it died, Unix milliseconds.
    pub died_at_ms: u64,
    /// Bytes of its message.
    pub bytes: usize,
    /// Whether it waits for room to be tried again.
    pub replaying: bool,
}

/// A dead letter with everything that is known of it.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// What lists show too.
    #[serde(flatten)]
    pub letter: Letter,
    /// What was tried, oldest first.
    pub history: Vec<Attempt>,
    /// Where it came from.
    pub channel: String,
    /// From whom.
    pub user: String,
    /// What it says, cut at [`super::shards::CONTENT_BYTES_MAX`] bytes as JSON.
    pub content: String,
    /// Bytes of all that it says.
    pub content_bytes: usize,
    /// Whether it says JSON and not text.
    pub content_is_json: bool,
}

/// An attempt that failed.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Which, from 1.
    pub attempt: u16,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Why.
    pub code: String,
    /// As a sentence.
    pub text: String,
}

/// What was done with dead letters.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// How many.
    pub count: usize,
    /// Which; the first of many.
    pub turns: Vec<String>,
    /// Whether it was only asked which it would be.
    pub dry_run: bool,
}

/// Counters by name.
pub type Counts = BTreeMap<String, u64>;

/// How the gateway does.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// How many shards there are.
    pub shard_count: usize,
    /// Of all shards together.
    pub sum: ShardStats,
    /// Of each.
    pub shards: Vec<ShardStats>,
    /// The offset of the next page of shards, if there is one.
    pub next: Option<usize>,
}

/// How a shard does.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ShardStats {
    /// Which; absent for all together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<usize>,
    /// `writing`, `full` or `failed`; of all together the worst.
    pub journal: String,
    /// By name.
    pub counters: Counts,
    /// By name: `journal`, `dispatch`, `total`.
    pub latencies: BTreeMap<String, Latency>,
}

/// How long something took.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1000 took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// The first answer to a request for events.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub struct Listening {
    /// What will be told.
    pub types: Vec<String>,
}

/// A page of agents.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Agents {
    /// How many there are of those that are wanted.
    pub total: usize,
    /// In the order of their names.
    pub agents: Vec<AgentRow>,
    /// The offset of the next page, if there is one.
    pub next: Option<usize>,
}

/// An agent, and how it does.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct AgentRow {
    /// Its own name.
    pub name: String,
    /// Its pool; the same if it is alone.
    pub pool: String,
    /// A row of the matrix in `docs/agents.md`.
    pub state: String,
    /// Since when it is in that state, Unix milliseconds.
    pub since_ms: u64,
    /// Its process, while it has one.
    pub process_id: Option<u32>,
    /// Since when that runs, Unix milliseconds.
    pub started_ms: Option<u64>,
    /// How often it has been started again.
    pub restarts: u64,
    /// Messages in its hands.
    pub open: usize,
    /// Messages that wait for it.
    pub queued: usize,
    /// Why it is in that state, or ended last.
    pub cause: Option<String>,
    /// Why it is thought to be sick.
    pub sick: Option<String>,
    /// Whether a restart is under way with it, or will come to it.
    pub restart_pending: bool,
    /// What it says of its software.
    pub version: String,
    /// The policy of its restarts.
    pub policy: String,
    /// What it knows.
    pub skills: Vec<String>,
    /// Which channels it serves.
    pub channels: Vec<String>,
    /// What messages may ask of it.
    pub capabilities: Vec<String>,
}

/// What has begun with agents.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Acted {
    /// With which.
    pub agents: Vec<String>,
}

/// What reading the configuration again has changed.
#[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Keys that count from now on.
    pub applied: Vec<String>,
    /// Keys that count for the next process of these agents.
    pub restart_agents: BTreeMap<String, Vec<String>>,
    /// Keys that count after the next start of the gateway.
    pub restart_gateway: Vec<String>,
}

/// Which processes a gateway has, since when, and what it has taken over.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The gateway's.
    pub process_id: u32,
    /// Its keeper's.
    pub keeper_process_id: u32,
    /// Its version.
    pub version: String,
    /// Since when.
    pub uptime_ms: u64,
    /// Where clients connect.
    pub listener: String,
    /// Whether its listening socket is that of the gateway before.
    pub listener_taken_over: bool,
    /// Whether the keeper starts the next gateway if this one crashes.
    pub restarts_after_crash: bool,
    /// How long it waits for replies when it is stopped.
    pub drain_timeout_ms: u64,
    /// How many agents.
    pub agents: AgentCounts,
}

/// How many agents a gateway has.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentCounts {
    /// That it should have.
    pub configured: usize,
    /// That run.
    pub alive: usize,
    /// That went on from the gateway before.
    pub adopted: usize,
    /// Processes that it has started.
    pub started: u64,
}

/// A gateway goes.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Going {
    /// Which.
    pub process_id: u32,
}
