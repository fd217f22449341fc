//! `chat.inject`: words in a session that no agent has said. Nobody is asked for an answer.

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::event::EventName;
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde_json::json;
use sessions::{Append, AppendError, Message, Role, SessionId};

use super::entry::text_part;
use super::{Desk, key_of, not_found, of_change, of_read};
use crate::rpc::{Facts, json as write, now_ms};

/// Who has said it, where others name a model.
const PROVIDER: &str = "openclaw";
const MODEL: &str = "gateway-injected";
/// When it makes sense to try again while rows wait.
const RETRY_AFTER_MS: u64 = 500;

/// Adds a note of the gateway to a session that is there.
pub fn inject(facts: &Facts, desk: &Desk, params: &Params<'_>) -> Outcome {
    let key = key_of(&facts.known, desk, params, "sessionKey")?;
    let row = desk.sessions.get(&key).map_err(|error| of_read(error.into()))?;
    let row = row.ok_or_else(|| not_found(&key))?;
    let said = params.text("message").unwrap_or_default();
    let text = match params.text("label").filter(|label| !label.is_empty()) {
        Some(label) => format!("[{label}]\n\n{said}"),
        None => said.into_owned(),
    };
    let (id, now_ms) = (SessionId::fresh().to_string(), now_ms());
    let run_id = format!("inject-{id}");
    let message = Message::parts(Role::Assistant, text_part(&text).get());
    let mut message = message.map_err(|error| RpcError::invalid(error.to_string()))?;
    message.provider = Some(PROVIDER.to_owned());
    message.model = Some(MODEL.to_owned());
    message.stop_reason = Some("stop".to_owned());
    message.run_id = Some(run_id.clone());
    let append = Append {
        key: key.clone(),
        agent: row.agent.clone(),
        channel: row.channel.clone(),
        id: id.clone(),
        timestamp_ms: now_ms,
        message,
    };
    desk.sessions.try_append(append).map_err(|error| of_append(&error))?;
    desk.sessions.commit(&key).map_err(of_change)?;
    facts.sources.news.written(&key, &id);
    let told = json!({
        "runId": run_id,
        "sessionKey": key,
        "agentId": row.agent,
        "seq": 0,
        "state": "final",
        "stopReason": "stop",
        "message": {"role": "assistant", "content": text_part(&text), "timestamp": now_ms},
    });
    desk.publish(EventName::Chat, &key, &row.agent, write(&told));
    Ok(write(&json!({"ok": true, "messageId": id})))
}

fn of_append(error: &AppendError) -> RpcError {
    let message = error.to_string();
    match error {
        AppendError::Full(_) => {
            RpcError { retry_after_ms: Some(RETRY_AFTER_MS), ..RpcError::unavailable(message) }
        }
        AppendError::Invalid(_) => RpcError::invalid(message),
        AppendError::TooManySessions { .. } | AppendError::Broken { .. } => {
            RpcError { retryable: false, ..RpcError::unavailable(message) }
        }
    }
}
