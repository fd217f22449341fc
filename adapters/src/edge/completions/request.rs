//! What a request for a completion says: which agent, which session, which text.
//!
//! The text of the turn is the last message, which is the user's. What stands before it is handed to the agent as it
//! came, as `messages` of the metadata: the gateway makes no prompt of it. What asks for something that no agent here does
//! is refused by name; what only tunes a model has no effect.

use std::borrow::Cow;

use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::dialect::fields::too_deep;
use crate::openclaw::session_key::{KEY_CHARS_MAX, agent_of, canonical};
use crate::refusal::api::ApiRefusal;

/// Names the session, in full or in short.
const SESSION_HEADER: &str = "x-openclaw-session-key";
/// Names the agent, whatever the model is.
const AGENT_HEADER: &str = "x-openclaw-agent-id";
/// Models that mean the agent that is meant where none is named.
pub const DEFAULT_MODELS: [&str; 2] = ["openclaw", "openclaw/default"];
/// What may stand before the name of an agent.
const MODEL_PREFIXES: [&str; 3] = ["openclaw/", "openclaw:", "agent:"];
/// Sessions that are not for callers from outside.
const RESERVED: [&str; 3] = ["subagent:", "cron:", "acp:"];
/// The longest name of a user, and of an agent.
const NAME_BYTES_MAX: usize = 256;
/// The most messages.
const MESSAGES_MAX: usize = 10_000;

/// A request, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// As the client calls what answers it.
    pub model: String,
    /// The agent.
    pub agent: String,
    /// Its session, in full.
    pub session_key: String,
    /// The text of the turn.
    pub text: String,
    /// What stands before it, for the agent; empty if nothing does.
    pub metadata: String,
    /// Whether the reply is wanted piece by piece.
    pub stream: bool,
    /// Whether the usage is told at the end of that.
    pub include_usage: bool,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    n: Option<u64>,
    #[serde(borrow)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    functions: Option<Vec<&'a RawValue>>,
    response_format: Option<ResponseFormat<'a>>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct ResponseFormat<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Parts(#[serde(borrow)] Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

impl Request {
    /// Reads body and headers. `new_name` is that of a session which nobody has named.
    pub fn read(
        body: &[u8],
        headers: &HeaderMap,
        default_agent: &str,
        new_name: impl FnOnce() -> String,
    ) -> Result<Self, ApiRefusal> {
        let not_json = |why: String| ApiRefusal::new(400, "invalid_json", why);
        if too_deep(body) {
            return Err(not_json("the body is nested too deeply".to_owned()));
        }
        let fields: Fields<'_> = serde_json::from_slice(body)
            .map_err(|error| not_json(format!("the body cannot be read: {error}")))?;
        refuse_unsupported(&fields)?;
        let (agent, is_named) = agent(&fields, headers, default_agent)?;
        let (session_key, agent) = session(&fields, headers, agent, is_named, new_name)?;
        let messages = fields.messages.unwrap_or_default();
        let (last, earlier) =
            messages.split_last().filter(|_| messages.len() <= MESSAGES_MAX).ok_or_else(|| {
                ApiRefusal::invalid("messages", format!("1 to {MESSAGES_MAX} messages are needed"))
            })?;
        Ok(Self {
            model: fields.model.map(Cow::into_owned).unwrap_or_default(),
            text: text(last)?,
            metadata: metadata(earlier),
            agent,
            session_key,
            stream: fields.stream.unwrap_or(false),
            include_usage: fields.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        })
    }
}

/// What changes the form of the answer is done or refused, not passed over.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiRefusal> {
    let is_some = |list: &Option<Vec<&RawValue>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if fields.n.is_some_and(|n| n != 1) {
        return Err(ApiRefusal::invalid("n", "an agent gives one answer; leave n out"));
    }
    if is_some(&fields.tools) || is_some(&fields.functions) {
        let text = "agents have tools of their own, and cannot be given others here";
        return Err(ApiRefusal::invalid(if is_some(&fields.tools) { "tools" } else { "functions" }, text));
    }
    if fields.response_format.as_ref().is_some_and(|format| format.r#type != "text") {
        return Err(ApiRefusal::invalid("response_format", "only text can be promised"));
    }
    Ok(())
}

/// The agent that is meant, and whether it was named.
fn agent(
    fields: &Fields<'_>,
    headers: &HeaderMap,
    default_agent: &str,
) -> Result<(String, bool), ApiRefusal> {
    let named = header(headers, AGENT_HEADER)?;
    let model = fields.model.as_deref().unwrap_or_default().trim();
    if model.is_empty() {
        let text = "name an agent, such as openclaw/main; GET /v1/models lists them";
        return Err(ApiRefusal::invalid("model", text));
    }
    let named = named.or_else(|| (!DEFAULT_MODELS.contains(&model)).then(|| of_model(model)));
    let (agent, is_named) = named.map_or((default_agent, false), |agent| (agent, true));
    if agent.is_empty() {
        return Err(ApiRefusal::invalid("model", "no agent is named, and there is no default agent"));
    }
    if agent.len() > NAME_BYTES_MAX || agent.contains(char::is_control) || agent.contains(':') {
        let text = format!(
            "no agent can have this name: more than {NAME_BYTES_MAX} bytes, ':' or a control character"
        );
        return Err(ApiRefusal::invalid("model", text));
    }
    Ok((agent.to_owned(), is_named))
}

/// The agent that a model stands for.
pub fn of_model(model: &str) -> &str {
    MODEL_PREFIXES.iter().find_map(|prefix| model.strip_prefix(prefix)).unwrap_or(model)
}

/// The session, and the agent that it is of. One that nobody names is new, so nothing is remembered.
fn session(
    fields: &Fields<'_>,
    headers: &HeaderMap,
    agent: String,
    is_named: bool,
    new_name: impl FnOnce() -> String,
) -> Result<(String, String), ApiRefusal> {
    let Some(key) = header(headers, SESSION_HEADER)? else {
        let user = fields.user.as_deref().filter(|user| !user.trim().is_empty());
        if user.is_some_and(|user| user.len() > NAME_BYTES_MAX || user.contains(char::is_control)) {
            let text = format!("must have at most {NAME_BYTES_MAX} bytes and no control characters");
            return Err(ApiRefusal::invalid("user", text));
        }
        let name = user.map_or_else(new_name, str::to_owned);
        return Ok((format!("agent:{agent}:openai:{name}"), agent));
    };
    let invalid = |text: String| Err(ApiRefusal::new(400, "invalid_session_key", text));
    let key = canonical(key, &agent).into_owned();
    let of_key = agent_of(&key).unwrap_or_default().to_owned();
    if key.chars().count() > KEY_CHARS_MAX || key.contains(char::is_control) || of_key.is_empty() {
        return invalid(format!(
            "{SESSION_HEADER} must have at most {KEY_CHARS_MAX} characters, and name something"
        ));
    }
    let rest = key.splitn(3, ':').nth(2).unwrap_or_default();
    if RESERVED.iter().any(|reserved| rest.starts_with(reserved)) {
        return invalid(format!(
            "{SESSION_HEADER} {key}: sessions of this kind are not for callers from outside"
        ));
    }
    if is_named && of_key != agent {
        return invalid(format!(
            "{SESSION_HEADER} {key} is a session of agent {of_key}, and agent {agent} is asked for"
        ));
    }
    Ok((key, of_key))
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, ApiRefusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let not_text = |_| ApiRefusal::new(400, "invalid_header", format!("the header {name} is not plain text"));
    let text = value.to_str().map_err(not_text)?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// What the last message says.
fn text(last: &RawValue) -> Result<String, ApiRefusal> {
    let unread = |error| ApiRefusal::invalid("messages", format!("the last message cannot be read: {error}"));
    let message: Message<'_> = serde_json::from_str(last.get()).map_err(unread)?;
    if message.role != "user" {
        let text = format!("the last message must be the user's, and is of role {}", message.role);
        return Err(ApiRefusal::invalid("messages", text));
    }
    let text = match message.content {
        None => String::new(),
        Some(Content::Text(text)) => text.into_owned(),
        Some(Content::Parts(parts)) => {
            let mut texts = Vec::with_capacity(parts.len());
            for Part { r#type, text } in parts {
                match text.filter(|_| r#type == "text") {
                    Some(text) => texts.push(text),
                    None => {
                        let text = format!("a part of type {} cannot be handed to an agent here", r#type);
                        return Err(ApiRefusal::invalid("messages", text));
                    }
                }
            }
            texts.join("\n")
        }
    };
    if text.trim().is_empty() {
        return Err(ApiRefusal::invalid("messages", "the last message says nothing"));
    }
    Ok(text)
}

fn metadata(earlier: &[&RawValue]) -> String {
    if earlier.is_empty() {
        return String::new();
    }
    let messages: Vec<_> = earlier.iter().map(|message| message.get()).collect();
    format!("{{\"messages\":[{}]}}", messages.join(","))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &Value, headers: &[(&'static str, &'static str)]) -> Result<Request, String> {
        let headers = headers.iter().map(|&(name, value)| {
            (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value))
        });
        let read =
            Request::read(body.to_string().as_bytes(), &headers.collect(), "main", || "new".to_owned());
        read.map_err(|refusal| refusal.message)
    }

    fn hi(more: &Value) -> Value {
        let mut body = json!({"model": "openclaw", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    /// Agent and session, by all the ways to name them. One row each.
    #[test]
    fn agents_and_sessions_are_found() {
        let key = "x-openclaw-session-key";
        let agent = "x-openclaw-agent-id";
        for (more, headers, expected) in [
            (json!({}), &[][..], "agent:main:openai:new"),
            (json!({"model": "openclaw/default"}), &[], "agent:main:openai:new"),
            (json!({"model": "openclaw/ada"}), &[], "agent:ada:openai:new"),
            (json!({"model": "openclaw:ada"}), &[], "agent:ada:openai:new"),
            (json!({"model": "agent:ada"}), &[], "agent:ada:openai:new"),
            (json!({"model": "ada"}), &[], "agent:ada:openai:new"),
            (json!({"model": "gpt"}), &[(agent, "ada")], "agent:ada:openai:new"),
            (json!({"user": "u:1"}), &[], "agent:main:openai:u:1"),
            (json!({"user": "u"}), &[(key, "main")], "agent:main:main"),
            (json!({}), &[(key, "agent:ada:x")], "agent:ada:x"),
        ] {
            let request = read(&hi(&more), headers).unwrap();
            assert_eq!(request.session_key, expected);
            assert_eq!(agent_of(expected), Some(request.agent.as_str()));
        }
        for (more, headers, expected) in [
            (json!({"model": ""}), &[][..], "name an agent"),
            (json!({"model": "openclaw/a:b"}), &[], "no agent can have this name"),
            (
                json!({"model": "openclaw/ada"}),
                &[(key, "agent:main:x")],
                "x-openclaw-session-key agent:main:x is a",
            ),
            (
                json!({}),
                &[(key, "cron:1")],
                "x-openclaw-session-key agent:main:cron:1: sessions of this kind",
            ),
            (json!({"user": "a\nb"}), &[], "must have at most"),
        ] {
            let refused = read(&hi(&more), headers).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    /// The last message is the text, what is before it is handed on as it came, and what cannot be done is refused.
    #[test]
    fn messages_become_a_turn() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let body = json!({"model": "ada", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.1,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]});
        let request = read(&body, &[]).unwrap();
        assert_eq!(request.text, "a\nb");
        assert_eq!(request.metadata, r#"{"messages":[{"content":"be brief","role":"system"}]}"#);
        assert!(request.stream && request.include_usage);
        assert_eq!(read(&hi(&json!({})), &[]).unwrap().metadata, "");
        for (more, expected) in [
            (json!({"messages": []}), "1 to 10000 messages"),
            (
                json!({"messages": [{"role": "assistant", "content": "x"}]}),
                "the last message must be the user's",
            ),
            (json!({"messages": [{"role": "user", "content": " "}]}), "the last message says nothing"),
            (json!({"messages": [{"role": "user"}]}), "the last message says nothing"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "a part of type image_url",
            ),
            (json!({"messages": "x"}), "the body cannot be read"),
            (json!({"n": 2}), "an agent gives one answer"),
            (json!({"tools": [{}]}), "agents have tools of their own"),
            (json!({"response_format": {"type": "json_object"}}), "only text"),
        ] {
            let refused = read(&hi(&more), &[]).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        let deep = "[".repeat(100);
        let refused = Request::read(deep.as_bytes(), &HeaderMap::new(), "main", String::new).unwrap_err();
        assert_eq!(refused.message, "the body is nested too deeply");
    }
}
