//! What this gateway does not have, as clients want to hear it: empty lists that are valid, and nothing made up.

use adapters::openclaw::params::Params;
use serde_json::{Value, json};

/// How many jobs a page has unless asked otherwise.
const CRON_PAGE_JOBS: u64 = 50;
/// Names a state of the list of jobs. There is only the empty one.
const CRON_REVISION: &str = "0";

/// `models.list`: none. An agent brings its model along, and which one that is cannot be chosen here: a choice that does
/// nothing is not offered.
pub fn models() -> Value {
    json!({"models": []})
}

/// `cron.list`: a page of no jobs.
pub fn cron_list(params: &Params<'_>) -> Value {
    let offset = params.count("offset").unwrap_or(0);
    let limit = params.count("limit").unwrap_or(CRON_PAGE_JOBS);
    json!({
        "jobs": [],
        "total": 0,
        "offset": offset,
        "limit": limit,
        "hasMore": false,
        "nextOffset": null,
        "snapshotRevision": CRON_REVISION,
        "deliveryPreviews": {},
    })
}

/// `cron.status`: there is no scheduler.
pub fn cron_status() -> Value {
    json!({"enabled": false, "jobs": 0, "nextWakeAtMs": null})
}

/// `channels.status`: none.
pub fn channels(now_ms: u64) -> Value {
    json!({
        "ts": now_ms,
        "channelOrder": [],
        "channelLabels": {},
        "channelMeta": [],
        "channels": {},
        "channelAccounts": {},
        "channelDefaultAccountId": {},
    })
}

/// `node.list`: none.
pub fn nodes(now_ms: u64) -> Value {
    json!({"ts": now_ms, "nodes": []})
}

/// `last-heartbeat`: no agent is woken by the clock, so none has been.
pub fn heartbeat() -> Value {
    Value::Null
}
