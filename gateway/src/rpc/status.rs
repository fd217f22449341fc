//! `status`: the gateway in numbers; and the line that it has in the list of those connected.
//!
//! The schema has no shape for it. The keys are those that the incumbent's command line reads, and a few more.

use std::net::SocketAddr;

use adapters::openclaw::presence::Entry;
use serde_json::{Value, json};

use super::sessions::list::in_status;
use super::{Known, Sources, now_ms};
use crate::process_usage;

/// Version of this build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The gateway in numbers. Counters of tasks begin with this run of the gateway.
pub fn of(known: &Known, sources: &Sources) -> Value {
    let health = &sources.health;
    let counters = health.counters();
    let running = counters.turns_open.saturating_sub(counters.messages_queued);
    let terminal = counters.replies_completed + counters.messages_failed + counters.cancelled;
    json!({
        "runtimeVersion": VERSION,
        "pid": std::process::id(),
        "uptimeMs": u64::try_from(health.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "health": health.status(),
        "shards": health.shards.len(),
        "runtime": health.runtime,
        "processMemory": {"rssBytes": process_usage::resident_bytes()},
        "log": {"droppedLines": sources.log.dropped()},
        "heartbeat": {"defaultAgentId": known.default_agent, "agents": []},
        "channelSummary": [],
        "queuedSystemEvents": [],
        "degradedSecretOwners": [],
        "tasks": {
            "total": counters.turns_open + terminal,
            "active": counters.turns_open,
            "terminal": terminal,
            "failures": counters.messages_failed,
            "byStatus": {
                "queued": counters.turns_open - running,
                "running": running,
                "succeeded": counters.replies_completed,
                "failed": counters.messages_failed,
                "cancelled": counters.cancelled,
            },
            "byRuntime": {},
        },
        // No letter is dead without a word: each is a finding.
        "taskAudit": {
            "total": counters.dead_letters,
            "errors": counters.dead_letters,
            "warnings": 0,
            "byCode": {"dead_letter": counters.dead_letters},
        },
        "sessions": in_status(known, &sources.sessions, counters.sessions),
    })
}

/// The gateway among those who are connected, which it is under this address.
pub fn own_entry(address: SocketAddr) -> Entry {
    let system = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let (host, ip) = (text(system.nodename()), address.ip().to_string());
    Entry {
        text: format!("Gateway: {host} ({ip}) · app {VERSION} · mode gateway · reason self"),
        host,
        ip,
        version: VERSION.to_owned(),
        platform: format!("{} {}", std::env::consts::OS, text(system.release())),
        device_family: text(system.sysname()),
        mode: "gateway".to_owned(),
        reason: "self".to_owned(),
        ts: now_ms(),
        ..Entry::default()
    }
}
