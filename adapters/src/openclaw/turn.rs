//! Requests that are turns of agents, or about them, with their parameters read.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::conversation::Call;
use super::method::Method;
use super::session_key::{KEY_CHARS_MAX, agent_of, canonical};
use crate::dialect::place::Place;
use crate::refusal::RpcError;

/// The longest run id, which is the idempotency key of the request.
pub const RUN_ID_BYTES_MAX: usize = 256;
/// How long `agent.wait` waits where the request does not say.
pub const WAIT_MS_DEFAULT: u64 = 30_000;
/// The longest that it waits.
pub const WAIT_MS_MAX: u64 = 3_600_000;

/// A message to an agent: `chat.send`, `sessions.send` or `agent`.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Names the run, and the message when it is sent again. `None`: the request names none, so it is never the same.
    pub run_id: Option<Cow<'a, str>>,
    /// In which conversation, in full.
    pub session_key: String,
    /// The agent that the key names.
    pub agent: String,
    /// What it says.
    pub message: Cow<'a, str>,
    /// How long the caller wants to wait for a reply; `None`: as long as it takes.
    pub timeout_ms: Option<u64>,
    /// What is to become of it while a run of the session goes on, if not what always does: that it waits.
    pub queue_mode: Option<Cow<'a, str>>,
    /// What is attached, as it came.
    pub attachments: Option<&'a RawValue>,
}

/// What `chat.abort` and `sessions.abort` ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Abort<'a> {
    /// All runs of this session, unless one is named.
    pub session_key: Option<String>,
    /// This run.
    pub run_id: Option<Cow<'a, str>>,
}

/// What `chat.resume` asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Missed {
    /// The session, in full.
    pub session_key: String,
    /// The last place that the client has seen.
    pub after: Place,
}

/// What `agent.wait` asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait<'a> {
    /// Which run.
    pub run_id: Cow<'a, str>,
    /// For how long.
    pub timeout_ms: u64,
}

impl<'a> Turn<'a> {
    /// Reads a call of one of the three methods.
    pub fn of(call: &Call<'a>, default_agent: &str) -> Result<Self, RpcError> {
        let fields = &call.fields;
        let invalid =
            |what: &str| RpcError::invalid(format!("invalid {} params: {what}", call.method.name()));
        let key = match call.method {
            Method::SessionsSend => fields.text("key"),
            _ => fields.text("sessionKey").filter(|key| !key.trim().is_empty()),
        };
        if key.is_none() && (fields.text("sessionId").is_some() || fields.text("to").is_some()) {
            return Err(invalid("name the session by sessionKey or agentId"));
        }
        let agent_id = fields.text("agentId");
        let agent = agent_id.as_deref().unwrap_or(default_agent);
        let session_key = canonical(key.as_deref().unwrap_or("main"), agent).into_owned();
        if session_key.chars().count() > KEY_CHARS_MAX {
            return Err(invalid(&format!(
                "at /sessionKey: must NOT have more than {KEY_CHARS_MAX} characters"
            )));
        }
        let agent = agent_of(&session_key).unwrap_or_default().to_owned();
        if agent.is_empty() {
            return Err(invalid("no agent is named, and there is no default agent"));
        }
        if agent_id.as_deref().is_some_and(|named| named != agent) {
            return Err(invalid(&format!("agentId does not match the agent of session key '{session_key}'")));
        }
        let run_id = fields.text("idempotencyKey");
        if run_id.as_ref().is_some_and(|id| id.len() > RUN_ID_BYTES_MAX || id.chars().any(char::is_control)) {
            let rule = format!("must be at most {RUN_ID_BYTES_MAX} bytes without control characters");
            return Err(invalid(&format!("at /idempotencyKey: {rule}")));
        }
        // The one in seconds is older than all the others.
        let timeout_ms = match call.method {
            Method::Agent => fields.count("timeout").map(|timeout_s| timeout_s.saturating_mul(1_000)),
            _ => fields.count("timeoutMs"),
        };
        Ok(Self {
            run_id,
            session_key,
            agent,
            message: fields.text("message").unwrap_or_default(),
            queue_mode: fields.text("queueMode").filter(|mode| mode != "followup"),
            timeout_ms: timeout_ms.filter(|&timeout_ms| timeout_ms > 0),
            attachments: fields.raw("attachments").filter(|list| !is_empty_list(list)),
        })
    }
}

impl Missed {
    /// Reads a call of `chat.resume`.
    pub fn of(call: &Call<'_>, default_agent: &str) -> Result<Self, RpcError> {
        let fields = &call.fields;
        let agent = fields.text("agentId");
        let key = fields.text("sessionKey").unwrap_or_default();
        let session_key = canonical(&key, agent.as_deref().unwrap_or(default_agent)).into_owned();
        let invalid = |what: &str| RpcError::invalid(format!("invalid chat.resume params: {what}"));
        let after = match (fields.count("epoch"), fields.count("offset")) {
            (None, None) => Place::NONE,
            (Some(epoch), Some(offset)) => {
                Place::of(epoch, offset).ok_or_else(|| invalid("epoch and offset name no place"))?
            }
            _ => return Err(invalid("epoch and offset are named both, or neither")),
        };
        Ok(Self { session_key, after })
    }
}

impl<'a> Abort<'a> {
    /// Reads a call of one of the two methods.
    pub fn of(call: &Call<'a>, default_agent: &str) -> Result<Self, RpcError> {
        let fields = &call.fields;
        let agent = fields.text("agentId");
        let key = fields.text(if call.method == Method::ChatAbort { "sessionKey" } else { "key" });
        let in_full =
            |key: Cow<'_, str>| canonical(&key, agent.as_deref().unwrap_or(default_agent)).into_owned();
        let abort = Self { session_key: key.map(in_full), run_id: fields.text("runId") };
        if abort.session_key.is_none() && abort.run_id.is_none() {
            return Err(RpcError::invalid("invalid sessions.abort params: key or runId is needed"));
        }
        Ok(abort)
    }
}

impl<'a> Wait<'a> {
    /// Reads a call of `agent.wait`.
    pub fn of(call: &Call<'a>) -> Self {
        let timeout_ms = call.fields.count("timeoutMs").unwrap_or(WAIT_MS_DEFAULT).min(WAIT_MS_MAX);
        Self { run_id: call.fields.text("runId").unwrap_or_default(), timeout_ms }
    }
}

fn is_empty_list(json: &RawValue) -> bool {
    json.get().trim_start_matches('[').trim_start().starts_with(']')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::openclaw::params::Params;

    fn with_call<T>(method: Method, params: &Value, then: impl FnOnce(&Call<'_>) -> T) -> T {
        let raw = serde_json::value::to_raw_value(params).expect("JSON");
        let fields = Params::of(method, Some(&raw)).expect("valid");
        then(&Call { id: "1".into(), method, params: Some(&raw), fields })
    }

    /// Where a message goes, from all the ways to say it. One row each: method, parameters, and key, agent and run, or
    /// why it is refused.
    #[test]
    fn messages_find_their_session() {
        use Method::{Agent, ChatSend, SessionsSend};
        let run = |key: &str, agent: &str, id: Option<&str>| {
            Ok((key.to_owned(), agent.to_owned(), id.map(str::to_owned)))
        };
        let rows = [
            (
                ChatSend,
                json!({"sessionKey": "main", "idempotencyKey": "k"}),
                run("agent:pi:main", "pi", Some("k")),
            ),
            (
                ChatSend,
                json!({"sessionKey": "x", "agentId": "ada", "idempotencyKey": "k"}),
                run("agent:ada:x", "ada", Some("k")),
            ),
            (
                ChatSend,
                json!({"sessionKey": "agent:ada:x", "agentId": "pi", "idempotencyKey": "k"}),
                Err(
                    "invalid chat.send params: agentId does not match the agent of session key 'agent:ada:x'",
                ),
            ),
            (
                ChatSend,
                json!({"sessionKey": "main", "idempotencyKey": "k".repeat(257)}),
                Err(
                    "invalid chat.send params: at /idempotencyKey: must be at most 256 bytes without control characters",
                ),
            ),
            (SessionsSend, json!({"key": "main"}), run("agent:pi:main", "pi", None)),
            (
                Agent,
                json!({"agentId": "ada", "idempotencyKey": "k"}),
                run("agent:ada:main", "ada", Some("k")),
            ),
            (Agent, json!({"idempotencyKey": "k"}), run("agent:pi:main", "pi", Some("k"))),
            (
                Agent,
                json!({"sessionId": "s", "idempotencyKey": "k"}),
                Err("invalid agent params: name the session by sessionKey or agentId"),
            ),
        ];
        for (method, mut params, expected) in rows {
            params["message"] = json!("hi");
            let found = with_call(method, &params, |call| {
                let found = Turn::of(call, "pi");
                found
                    .map(|turn| (turn.session_key, turn.agent, turn.run_id.map(Cow::into_owned)))
                    .map_err(|error| error.message.into_owned())
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{params}");
        }
        let nobody = with_call(Agent, &json!({"message": "hi", "idempotencyKey": "k"}), |call| {
            Turn::of(call, "").map(|turn| turn.agent).map_err(|error| error.message.into_owned())
        });
        let reason = "invalid agent params: no agent is named, and there is no default agent";
        assert_eq!(nobody, Err(reason.to_owned()));
    }

    /// Times are in the unit of their method, and an empty list of attachments is none.
    #[test]
    fn times_and_attachments() {
        let agent = json!({"message": "m", "idempotencyKey": "k", "timeout": 7, "attachments": [ ]});
        with_call(Method::Agent, &agent, |call| {
            let turn = Turn::of(call, "pi").expect("valid");
            assert_eq!((turn.timeout_ms, turn.attachments.is_none()), (Some(7_000), true));
        });
        let chat = json!({"message": "m", "idempotencyKey": "k", "sessionKey": "main", "timeoutMs": 0,
            "attachments": [{"type": "image"}]});
        with_call(Method::ChatSend, &chat, |call| {
            let turn = Turn::of(call, "pi").expect("valid");
            assert_eq!((turn.timeout_ms, turn.attachments.is_some()), (None, true));
        });
        for (params, expected) in
            [(json!({"runId": "r"}), 30_000), (json!({"runId": "r", "timeoutMs": 9e15 as u64}), WAIT_MS_MAX)]
        {
            with_call(Method::AgentWait, &params, |call| assert_eq!(Wait::of(call).timeout_ms, expected));
        }
    }

    /// An abort names a session, a run, or both; never nothing.
    #[test]
    fn aborts_name_something() {
        let rows = [
            (Method::ChatAbort, json!({"sessionKey": "main"}), Ok((Some("agent:pi:main"), None))),
            (
                Method::ChatAbort,
                json!({"sessionKey": "main", "runId": "r"}),
                Ok((Some("agent:pi:main"), Some("r"))),
            ),
            (Method::SessionsAbort, json!({"runId": "r"}), Ok((None, Some("r")))),
            (Method::SessionsAbort, json!({}), Err("invalid sessions.abort params: key or runId is needed")),
        ];
        for (method, params, expected) in rows {
            with_call(method, &params, |call| {
                let found = Abort::of(call, "pi").map_err(|error| error.message.into_owned());
                let expected = expected
                    .map(|(key, run)| Abort {
                        session_key: key.map(str::to_owned),
                        run_id: run.map(Cow::Borrowed),
                    })
                    .map_err(str::to_owned);
                assert_eq!(found, expected, "{params}");
            });
        }
    }
}
