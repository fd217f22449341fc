//! `health`: made at most once in [`AGE_MAX`], however often it is asked for.
//!
//! Clients ask for it all the time, and it is in the snapshot that each of them gets first. A closed object of the
//! schema: `ok` is there and true, or not there at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adapters::edge::HealthStatus;
use serde_json::{Value, json};

use super::now_ms;
use crate::health::HealthSource;

/// How old an answer may be.
pub const AGE_MAX: Duration = Duration::from_millis(100);
/// Where the index of sessions lies in the state directory. Without the path of that: everybody is told this.
const SESSIONS_FILE: &str = "sessions.redb";
/// How the dead letters are called among queues.
const DEAD_LETTERS: &str = "dead-letters";

/// The answer, and how often it has changed in what matters.
#[derive(Debug)]
pub struct Health {
    source: Arc<HealthSource>,
    default_agent: String,
    /// A lock: whoever comes while a new answer is made waits for that, which takes microseconds.
    made: Mutex<Made>,
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Made {
    at: Option<Instant>,
    json: Vec<u8>,
    told: Option<Told>,
}

/// What clients would like to hear of when it changes. Numbers change all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    status: HealthStatus,
    dead_letters: bool,
}

impl Health {
    /// Of this gateway.
    pub fn new(source: Arc<HealthSource>, default_agent: String) -> Self {
        Self { source, default_agent, made: Mutex::default(), version: AtomicU64::new(0) }
    }

    /// The object, no older than [`AGE_MAX`].
    pub fn json(&self) -> Vec<u8> {
        // Nothing can panic between a change and its end.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if made.at.is_none_or(|at| now.duration_since(at) >= AGE_MAX) {
            self.make(&mut made, now);
        }
        made.json.clone()
    }

    /// How often the state of the gateway has changed, as far as anybody has asked for it.
    pub fn version(&self) -> u64 {
        // Relaxed: a number on its own.
        self.version.load(Ordering::Relaxed)
    }

    /// Has the next answer made anew.
    #[cfg(test)]
    pub fn forget(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).at = None;
    }

    fn make(&self, made: &mut Made, now: Instant) {
        let counters = self.source.counters();
        let told = Told { status: self.source.status(), dead_letters: counters.dead_letters > 0 };
        let mut health = json!({
            "ts": now_ms(),
            "plugins": {"loaded": [], "errors": []},
            "channels": {},
            "channelOrder": [],
            "channelLabels": {},
            "heartbeatSeconds": 0,
            "defaultAgentId": self.default_agent,
            "sessions": {"path": SESSIONS_FILE, "count": counters.sessions, "recent": []},
        });
        if told.status == HealthStatus::Healthy {
            health["ok"] = Value::Bool(true);
        }
        if told.dead_letters {
            health["deliveryQueues"] =
                json!({"failed": [{"queueName": DEAD_LETTERS, "count": counters.dead_letters}]});
        }
        health["durationMs"] = json!(u64::try_from(now.elapsed().as_millis()).unwrap_or(u64::MAX));
        made.json = super::json(&health);
        made.at = Some(now);
        if made.told.replace(told) != Some(told) {
            // Relaxed: as above.
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }
}
