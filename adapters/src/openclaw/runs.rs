//! Which runs there are, and what comes of the same request twice: the idempotency key is the run's name.
//!
//! | known as | the same message again | another message |
//! |---|---|---|
//! | going on | `in_flight` | a conflict |
//! | ended, less than five minutes ago | how it ended | a conflict |
//! | not known | a new run | a new run |
//!
//! The engine knows more than this table: what a gateway has accepted before it restarted is found again by its
//! journal.

use std::collections::{HashMap, VecDeque};

use ring::digest;
use serde_json::json;

#[cfg(doc)]
use super::run::DELTA_INTERVAL_MS;
use super::run::{Ending, Run, Sink};
use super::turn::Turn;
use crate::refusal::RpcError;

/// The most runs that go on.
pub const LIVE_MAX: usize = 10_000;
/// The most ended runs that are remembered.
pub const ENDED_MAX: usize = 1_000;
/// How long an ended run is remembered.
pub const ENDED_MS_MAX: u64 = 300_000;

/// What a message is, so that the same name for another one is found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(session_key: &str, message: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        // Neither holds a zero byte between them that the other could imitate: the length of the first is told.
        context.update(&(session_key.len() as u64).to_le_bytes());
        context.update(session_key.as_bytes());
        context.update(message.as_bytes());
        let mut bytes = [0u8; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

/// How a run ended, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// How.
    pub ending: Ending,
    /// When it began.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
}

/// What comes of a request for a run.
#[derive(Debug)]
pub enum Begun<'a> {
    /// It is a new one.
    New(&'a mut Run),
    /// It goes on already.
    InFlight,
    /// It has ended like this.
    Ended(&'a Ended),
    /// The name belongs to another message.
    Conflict,
    /// Too many go on.
    Full,
}

/// All runs of an edge that go on, and the last ones that have ended.
#[derive(Debug, Default)]
pub struct Runs {
    live: HashMap<String, (Fingerprint, Run)>,
    ended: HashMap<String, (Fingerprint, Ended)>,
    /// Names of those that have ended, oldest first.
    order: VecDeque<(String, u64)>,
}

impl Runs {
    /// Begins the run of this name, unless it is known.
    pub fn begin(&mut self, id: &str, turn: &Turn<'_>, now_ms: u64) -> Begun<'_> {
        self.forget(now_ms);
        let fingerprint = Fingerprint::of(&turn.session_key, &turn.message);
        if let Some((known, _)) = self.live.get(id) {
            return if *known == fingerprint { Begun::InFlight } else { Begun::Conflict };
        }
        if self.ended.contains_key(id) {
            let (known, ended) = &self.ended[id];
            return if *known == fingerprint { Begun::Ended(ended) } else { Begun::Conflict };
        }
        if self.live.len() >= LIVE_MAX {
            return Begun::Full;
        }
        let run = Run::new(id.to_owned(), turn.session_key.clone(), turn.agent.clone(), now_ms);
        let (_, run) = self.live.entry(id.to_owned()).or_insert((fingerprint, run));
        Begun::New(run)
    }

    /// A run that goes on.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Run> {
        self.live.get_mut(id).map(|(_, run)| run)
    }

    /// A run that was never accepted: its name is free again, so that the request may be made once more.
    pub fn withdraw(&mut self, id: &str) {
        self.live.remove(id);
    }

    /// A run has ended. It is given back, for the last response.
    pub fn end(&mut self, id: &str, ending: Ending, now_ms: u64) -> Option<Run> {
        let (fingerprint, run) = self.live.remove(id)?;
        self.forget(now_ms);
        if self.order.len() >= ENDED_MAX
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        let ended = Ended { ending, started_ms: run.started_ms(), ended_ms: now_ms };
        self.ended.insert(id.to_owned(), (fingerprint, ended));
        self.order.push_back((id.to_owned(), now_ms));
        Some(run)
    }

    /// How a run ended, if that is still known.
    pub fn ended(&mut self, id: &str, now_ms: u64) -> Option<&Ended> {
        self.forget(now_ms);
        self.ended.get(id).map(|(_, ended)| ended)
    }

    /// The runs of a session that go on.
    pub fn of_session(&self, session_key: &str) -> impl Iterator<Item = &str> {
        let of_it = move |(_, run): &&(Fingerprint, Run)| run.session_key() == session_key;
        self.live.values().filter(of_it).map(|(_, run)| run.id())
    }

    /// Tells what is due of all runs. Looks at each, so it is for a timer of [`DELTA_INTERVAL_MS`], not for every
    /// message.
    pub fn flush(&mut self, now_ms: u64, sink: &mut Sink<'_>) {
        let is_due = |run: &&mut Run| run.due_ms().is_some_and(|due_ms| due_ms <= now_ms);
        self.iter_mut().filter(is_due).for_each(|run| run.flush(now_ms, sink));
    }

    /// All runs that go on.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        self.live.values_mut().map(|(_, run)| run)
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((_, ended_ms)) = self.order.front()
            && now_ms.abs_diff(*ended_ms) >= ENDED_MS_MAX
            && let Some((id, _)) = self.order.pop_front()
        {
            self.ended.remove(&id);
        }
    }
}

/// The error for a name that belongs to another message.
pub fn conflict() -> RpcError {
    RpcError::invalid("idempotencyKey was used for another message")
        .with_details(json!({ "reason": "chat-request-conflict" }))
}

/// The error for one run too many.
pub fn full() -> RpcError {
    RpcError {
        retry_after_ms: Some(1_000),
        ..RpcError::unavailable("The server is busy. Please try again in a moment.")
    }
}

/// The response of `chat.send` and `sessions.send`: `started`, `in_flight`, or how the run ended.
pub fn ack(run_id: &str, status: &str) -> Vec<u8> {
    json!({ "runId": run_id, "status": status }).to_string().into_bytes()
}

/// The first response of `agent`.
pub fn accepted(run: &Run) -> Vec<u8> {
    let response = json!({
        "runId": run.id(),
        "sessionKey": run.session_key(),
        "agentId": run.agent(),
        "status": "accepted",
        "acceptedAt": run.started_ms(),
    });
    response.to_string().into_bytes()
}

/// The last response of `agent`, of a run that ended with a reply.
pub fn completed(run: &Run, now_ms: u64) -> Vec<u8> {
    let payloads =
        if run.text().is_empty() { json!([]) } else { json!([{ "text": run.text(), "mediaUrl": null }]) };
    let meta = json!({ "durationMs": now_ms.saturating_sub(run.started_ms()) });
    let result = json!({ "payloads": payloads, "meta": meta });
    let response = json!({ "runId": run.id(), "status": "ok", "summary": "completed", "result": result });
    response.to_string().into_bytes()
}

/// The response of `agent` for a run that has ended before, or without a reply.
pub fn summary(run_id: &str, ending: &Ending) -> Vec<u8> {
    let summary = match ending {
        Ending::Ok => "completed",
        Ending::Failed { text, .. } => text,
        Ending::Aborted => "aborted",
    };
    let response = json!({ "runId": run_id, "status": ending.status(), "summary": summary });
    response.to_string().into_bytes()
}

/// The response of `agent.wait`: how the run ended, or that it has not within the time.
pub fn waited(run_id: &str, ended: Option<&Ended>) -> Vec<u8> {
    let mut response =
        json!({ "runId": run_id, "status": ended.map_or("timeout", |ended| ended.ending.status()) });
    if let Some(ended) = ended {
        response["startedAt"] = json!(ended.started_ms);
        response["endedAt"] = json!(ended.ended_ms);
        if let Some(stop_reason) = ended.ending.stop_reason() {
            response["stopReason"] = json!(stop_reason);
        }
        if let Ending::Failed { text, .. } = &ended.ending {
            response["error"] = json!(text);
        }
    }
    response.to_string().into_bytes()
}

/// The response of `chat.abort` and `sessions.abort`.
pub fn aborted(run_ids: &[&str]) -> Vec<u8> {
    let response = json!({ "ok": true, "aborted": !run_ids.is_empty(), "runIds": run_ids });
    response.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use shm_transport::envelope::{BlockType, FailureCode};

    use super::*;
    use crate::openclaw::event::EventName;
    use crate::openclaw::run::RunEvent;

    const NOW_MS: u64 = 1_000_000;

    fn turn(message: &'static str) -> Turn<'static> {
        Turn {
            run_id: None,
            session_key: "agent:pi:main".to_owned(),
            agent: "pi".to_owned(),
            message: message.into(),
            timeout_ms: None,
            attachments: None,
        }
    }

    fn begin(runs: &mut Runs, id: &str, message: &'static str, now_ms: u64) -> String {
        match runs.begin(id, &turn(message), now_ms) {
            Begun::New(run) => format!("new {}", run.id()),
            Begun::InFlight => "in_flight".to_owned(),
            Begun::Ended(ended) => ended.ending.status().to_owned(),
            Begun::Conflict => "conflict".to_owned(),
            Begun::Full => "full".to_owned(),
        }
    }

    /// One key is one run: begun once, told how it is or was, and refused for another message; until it is forgotten.
    #[test]
    fn one_key_is_one_run() {
        let mut runs = Runs::default();
        assert_eq!(begin(&mut runs, "k", "hi", NOW_MS), "new k");
        assert_eq!(begin(&mut runs, "k", "hi", NOW_MS), "in_flight");
        assert_eq!(begin(&mut runs, "k", "ho", NOW_MS), "conflict");
        assert_eq!(runs.of_session("agent:pi:main").collect::<Vec<_>>(), ["k"]);
        assert_eq!(runs.of_session("agent:pi:other").count(), 0);
        let run = runs.end("k", Ending::Ok, NOW_MS + 5).expect("it went on");
        assert_eq!(
            runs.end("k", Ending::Aborted, NOW_MS + 6).map(|run| run.id().to_owned()),
            None,
            "it ends once"
        );
        assert_eq!((run.id(), begin(&mut runs, "k", "hi", NOW_MS + 6).as_str()), ("k", "ok"));
        assert_eq!(begin(&mut runs, "k", "ho", NOW_MS + 6), "conflict");
        assert_eq!(begin(&mut runs, "k", "hi", NOW_MS + 5 + ENDED_MS_MAX - 1), "ok");
        assert_eq!(begin(&mut runs, "k", "ho", NOW_MS + 5 + ENDED_MS_MAX), "new k");
        runs.withdraw("k");
        assert_eq!(begin(&mut runs, "k", "hi", NOW_MS + 5 + ENDED_MS_MAX), "new k");
    }

    /// Text that waits is told by the timer, once it is due and not before.
    #[test]
    fn the_timer_tells_what_is_due() {
        let mut runs = Runs::default();
        begin(&mut runs, "k", "hi", NOW_MS);
        let mut told = Vec::new();
        let mut sink = |event: RunEvent<'_>| told.push(event.event);
        let run = runs.get_mut("k").expect("it goes on");
        run.block(BlockType::Text, "a", NOW_MS, &mut sink);
        run.block(BlockType::Text, "b", NOW_MS + 1, &mut sink);
        runs.flush(NOW_MS + 74, &mut sink);
        runs.flush(NOW_MS + 75, &mut sink);
        runs.flush(NOW_MS + 200, &mut sink);
        assert_eq!(told, [EventName::Agent, EventName::Chat].repeat(2));
    }

    /// Both tables are bounded. By filling them.
    #[test]
    fn runs_are_bounded() {
        let mut runs = Runs::default();
        for number in 0..LIVE_MAX {
            assert_ne!(begin(&mut runs, &number.to_string(), "hi", NOW_MS), "full");
        }
        assert_eq!(begin(&mut runs, "one more", "hi", NOW_MS), "full");
        for number in 0..=ENDED_MAX {
            runs.end(&number.to_string(), Ending::Ok, NOW_MS);
        }
        assert_eq!((runs.ended.len(), runs.order.len()), (ENDED_MAX, ENDED_MAX));
        assert_eq!(runs.ended("0", NOW_MS), None, "the oldest gives way");
        assert_eq!(runs.ended("1", NOW_MS).map(|ended| &ended.ending), Some(&Ending::Ok));
    }

    /// Responses say what clients look for. One row each.
    #[test]
    fn responses_say_how_it_went() {
        let failed = Ending::Failed { code: FailureCode::AgentDied, text: "it died".to_owned() };
        let late = Ending::Failed { code: FailureCode::DeadlineExceeded, text: "too late".to_owned() };
        let ended = |ending: &Ending| Ended { ending: ending.clone(), started_ms: 1, ended_ms: 3 };
        let rows = [
            (ack("k", "started"), json!({ "runId": "k", "status": "started" })),
            (aborted(&["k"]), json!({ "ok": true, "aborted": true, "runIds": ["k"] })),
            (aborted(&[]), json!({ "ok": true, "aborted": false, "runIds": [] })),
            (waited("k", None), json!({ "runId": "k", "status": "timeout" })),
            (
                waited("k", Some(&ended(&Ending::Ok))),
                json!({ "runId": "k", "status": "ok", "stopReason": "stop", "startedAt": 1, "endedAt": 3 }),
            ),
            (
                waited("k", Some(&ended(&failed))),
                json!({ "runId": "k", "status": "error", "error": "it died", "startedAt": 1, "endedAt": 3 }),
            ),
            (summary("k", &late), json!({ "runId": "k", "status": "timeout", "summary": "too late" })),
            (summary("k", &Ending::Ok), json!({ "runId": "k", "status": "ok", "summary": "completed" })),
        ];
        for (found, expected) in rows {
            let found: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
            assert_eq!(found, expected);
        }
    }
}
