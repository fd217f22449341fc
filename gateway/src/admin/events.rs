//! Events as they happen: written as JSON on the thread of their shard, passed on by a task, counted where that is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::events::{Detail, Event, EventMask, EventType, Guarded, SessionChange};
use engine::shard::{Command, Listener, ListenerId, Listening};
use serde::Serialize;
use shm_transport::envelope::{Priority, SessionMode};
use tokio::sync::mpsc;

use super::explain::micros;
use super::request::Complaint;
use super::shards::beginning;
use super::{Admin, AgentName, VERSION, hex, unix_ms};

/// Events that wait for one client.
const EVENTS_WAITING_MAX: usize = 1024;
/// Bytes of a text in an event, as JSON.
const TEXT_BYTES_MAX: usize = 1024;

/// A client that listens. The shards are told when it is gone.
pub(super) struct Subscription<'a> {
    admin: &'a Admin,
    id: ListenerId,
    lines: mpsc::Receiver<Vec<u8>>,
    // Arc: the listeners on the shards count, the task that passes on tells.
    missed: Arc<AtomicU64>,
}

/// What is passed on.
pub(super) enum Told {
    /// A line.
    Event(Vec<u8>),
    /// So many events that there was no room for.
    Missed(u64),
}

impl<'a> Subscription<'a> {
    pub(super) fn start(admin: &'a Admin, mask: EventMask) -> Result<Self, Complaint> {
        // Relaxed: only that no number is given twice counts.
        let id = ListenerId(admin.listeners.fetch_add(1, Ordering::Relaxed));
        let (sender, lines) = mpsc::channel(EVENTS_WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        // From here on dropping it tells the shards.
        let subscription = Self { admin, id, lines, missed: Arc::clone(&missed) };
        for shard in 0..admin.shards.count() {
            let listener = listener_of(admin, Some(shard), &sender, &missed);
            admin.shards.tell(shard, Command::Subscribe { id, mask, listener })?;
        }
        admin.bulletin.subscribe(id, mask, listener_of(admin, None, &sender, &missed));
        Ok(subscription)
    }

    pub(super) async fn next(&mut self) -> Option<Told> {
        // Relaxed: a number on its own.
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            return Some(Told::Missed(missed));
        }
        // Nothing is missed unless lines wait, and behind each of those this is asked again.
        self.lines.recv().await.map(Told::Event)
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.admin.bulletin.unsubscribe(self.id);
        for shard in 0..self.admin.shards.count() {
            // One that cannot be told now finds out with its next event.
            let _ = self.admin.shards.tell(shard, Command::Unsubscribe(self.id));
        }
    }
}

/// `shard`: none for the control thread.
fn listener_of(
    admin: &Admin,
    shard: Option<usize>,
    lines: &mpsc::Sender<Vec<u8>>,
    missed: &Arc<AtomicU64>,
) -> Listener {
    let agents = Arc::clone(&admin.agents);
    Listener(Box::new(listener(shard, agents, admin.unix_ms_at_zero, lines.clone(), Arc::clone(missed))))
}

/// Runs on the thread of the shard: writes a line and does not wait.
fn listener(
    shard: Option<usize>,
    agents: Arc<[AgentName]>,
    unix_ms_at_zero: u64,
    lines: mpsc::Sender<Vec<u8>>,
    missed: Arc<AtomicU64>,
) -> impl FnMut(&Event<'_>) -> Listening + Send {
    move |event| match lines.try_reserve() {
        Ok(room) => {
            room.send(line(shard, &agents, unix_ms_at_zero, event));
            Listening::Goes
        }
        Err(mpsc::error::TrySendError::Full(())) => {
            // Relaxed: as above.
            missed.fetch_add(1, Ordering::Relaxed);
            Listening::Goes
        }
        Err(mpsc::error::TrySendError::Closed(())) => Listening::Ends,
    }
}

#[derive(Serialize)]
struct EventLine<'a> {
    v: u64,
    event: Happened<'a>,
}

/// An event as it is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Happened<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<usize>,
    /// Counts the events that anybody listens to on the shard.
    sequence: u64,
    at_ms: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(flatten)]
    detail: Details<'a>,
}

/// What else there is to say, by type of event.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Details<'a> {
    Received {
        id: &'a str,
        priority: &'static str,
        bytes: usize,
    },
    Routed {
        attempt: u16,
    },
    Generated {
        blocks: u32,
        bytes: u64,
        took_us: f64,
    },
    Delivered {
        code: Option<&'static str>,
        took_us: f64,
    },
    Created {
        user: &'a str,
        thread: &'a str,
        mode: &'static str,
    },
    Updated {
        change: &'static str,
    },
    Scale {
        pool: &'a str,
        depth: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        oldest_us: Option<f64>,
    },
    Breaker {
        guarded: &'static str,
        name: &'a str,
        state: &'static str,
    },
    Dead {
        code: &'static str,
        text: &'a str,
        attempts: u16,
    },
    Started {
        process_id: u32,
        restarts: u64,
    },
    Caused {
        cause: &'a str,
    },
    Reloaded {
        changes: usize,
    },
    Nothing {},
}

fn line(shard: Option<usize>, agents: &[AgentName], unix_ms_at_zero: u64, event: &Event<'_>) -> Vec<u8> {
    let some = |word: u64| (word != 0).then(|| hex(word));
    let (own, detail) = details(&event.detail);
    let known = event.agent.and_then(|agent| agents.get(agent.0 as usize)).map(|name| name.own.as_str());
    let event = Happened {
        r#type: event.event_type().name(),
        shard,
        sequence: event.sequence,
        at_ms: unix_ms(unix_ms_at_zero, event.at),
        channel: text(event.channel),
        session_hash: some(event.session),
        turn: some(event.turn),
        agent: own.or(known),
        detail,
    };
    // Text and numbers can always be written.
    let mut line = serde_json::to_vec(&EventLine { v: VERSION, event }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The agent that an event names itself, and the rest.
fn details<'a>(detail: &Detail<'a>) -> (Option<&'a str>, Details<'a>) {
    let details = match *detail {
        Detail::MessageReceived { client_id, priority, bytes } => {
            Details::Received { id: text(client_id), priority: priority_name(priority), bytes }
        }
        Detail::MessageRouted { agent, attempt } => return (Some(agent), Details::Routed { attempt }),
        Detail::ResponseGenerated { blocks, bytes, took } => {
            Details::Generated { blocks, bytes, took_us: micros(took) }
        }
        Detail::ResponseDelivered { failure, took } => {
            Details::Delivered { code: failure.map(|code| code.name()), took_us: micros(took) }
        }
        Detail::SessionCreated { user, thread, mode } => {
            Details::Created { user: text(user), thread: text(thread), mode: mode_name(mode) }
        }
        Detail::SessionUpdated { change } => match change {
            SessionChange::Agent(agent) => return (Some(agent), Details::Updated { change: "agent" }),
            SessionChange::Activated => Details::Updated { change: "activated" },
            SessionChange::Deactivated => Details::Updated { change: "deactivated" },
            SessionChange::Ended => Details::Updated { change: "ended" },
        },
        Detail::PoolScaleUp { pool, depth, oldest_wait } => {
            Details::Scale { pool, depth, oldest_us: Some(micros(oldest_wait)) }
        }
        Detail::PoolScaleDown { pool, depth } => Details::Scale { pool, depth, oldest_us: None },
        Detail::BreakerChanged { guarded, state } => {
            let (guarded, name) = match guarded {
                Guarded::Agent(name) => ("agent", name),
                Guarded::Channel(name) => ("channel", name),
            };
            Details::Breaker { guarded, name, state: state.name() }
        }
        Detail::MessageDeadLettered { code, text: why, attempts } => {
            Details::Dead { code: code.name(), text: text(why), attempts }
        }
        Detail::AgentStarted { process_id, restarts } => Details::Started { process_id, restarts },
        Detail::AgentEnded { cause }
        | Detail::AgentQuarantined { cause }
        | Detail::AgentTerminated { cause }
        | Detail::AgentSick { cause } => Details::Caused { cause: text(cause) },
        Detail::AgentDraining | Detail::AgentWell => Details::Nothing {},
        Detail::ConfigReloaded { changes } => Details::Reloaded { changes },
    };
    (None, details)
}

fn text(text: &str) -> &str {
    beginning(text, TEXT_BYTES_MAX)
}

fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High => "high",
        Priority::Critical => "critical",
    }
}

fn mode_name(mode: SessionMode) -> &'static str {
    match mode {
        SessionMode::Main => "main",
        SessionMode::Group => "group",
        SessionMode::Queue => "queue",
    }
}

/// The names of the types of a mask.
pub(super) fn names(mask: EventMask) -> Vec<String> {
    let types = EventType::ALL.iter().filter(|&&each| mask.contains(each));
    types.map(|each| each.name().to_owned()).collect()
}
