//! Settings of the heartbeat: how patient the gateway is with agents that say nothing.

use std::time::Duration;

use engine::heartbeat::HeartbeatLimits;
use schemars::JsonSchema;
use serde::Deserialize;

use super::range;

const HEARTBEAT_DEFAULT_MS: u64 = 100;
const HEARTBEAT_MAX_MS: u64 = 60_000;
const HEARTBEAT_IDLE_DEFAULT_MS: u64 = 5_000;
const HEARTBEAT_IDLE_MAX_MS: u64 = 3_600_000;
const MISSES_DEFAULT: u64 = 3;
const MISSES_MAX: u64 = 1_000;
const START_TIMEOUT_DEFAULT_MS: u64 = 30_000;
const START_TIMEOUT_MAX_MS: u64 = 3_600_000;

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileHeartbeat {
    interval_ms: Option<u64>,
    idle_interval_ms: Option<u64>,
    misses: Option<u64>,
}

pub(super) fn check(broken: &mut Vec<String>, file: &FileHeartbeat) -> HeartbeatLimits {
    let mut bounded = |key: &str, value: Option<u64>, default: u64, min: u64, max: u64| {
        let value = value.unwrap_or(default);
        range(broken, &format!("supervision.heartbeat.{key}"), value, min, max);
        value
    };
    let FileHeartbeat { interval_ms, idle_interval_ms, misses } = *file;
    let interval = bounded("intervalMs", interval_ms, HEARTBEAT_DEFAULT_MS, 10, HEARTBEAT_MAX_MS);
    let idle =
        bounded("idleIntervalMs", idle_interval_ms, HEARTBEAT_IDLE_DEFAULT_MS, 10, HEARTBEAT_IDLE_MAX_MS);
    let misses = bounded("misses", misses, MISSES_DEFAULT, 1, MISSES_MAX);
    HeartbeatLimits {
        interval: Duration::from_millis(interval),
        idle_interval: Duration::from_millis(idle),
        misses: u32::try_from(misses).unwrap_or(u32::MAX),
    }
}

/// How long an agent may take to say its first words. `key` is that of the agent.
pub(super) fn check_start(broken: &mut Vec<String>, key: &str, value: Option<u64>) -> Duration {
    let value = value.unwrap_or(START_TIMEOUT_DEFAULT_MS);
    range(broken, &format!("{key}.startTimeoutMs"), value, 1, START_TIMEOUT_MAX_MS);
    Duration::from_millis(value)
}
