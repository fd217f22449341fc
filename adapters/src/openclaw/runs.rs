//! What clients are answered about runs. Which runs there are, the surroundings know: the idempotency key is the run's
//! name, on whichever connection it comes again.

use serde_json::json;

use super::run::{Ending, Run};
use crate::refusal::RpcError;

/// The most runs that go on, on all edges together.
pub const LIVE_MAX: usize = 10_000;
/// The most ended runs that are remembered.
pub const ENDED_MAX: usize = 1_000;
/// How long an ended run is remembered.
pub const ENDED_MS_MAX: u64 = 300_000;

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

/// The error for a name that belongs to another message.
pub fn conflict() -> RpcError {
    RpcError::invalid("idempotencyKey was used for another message")
        .with_details(json!({ "reason": "chat-request-conflict" }))
}

/// The error for a message that is not to wait for the run of its session that goes on.
pub fn no_such_queue_mode(mode: &str) -> RpcError {
    let text =
        format!("queueMode '{mode}' is not supported while a run of the session goes on; use 'followup'");
    RpcError::invalid(text)
        .with_details(json!({ "reason": "queue-mode-unsupported", "supported": ["followup"] }))
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
    use shm_transport::envelope::FailureCode;

    use super::*;

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
