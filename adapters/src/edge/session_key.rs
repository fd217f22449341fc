//! Which session and agent an OpenClaw client means.
//!
//! A key is `agent:AGENT:REST`. A bare key, such as `main`, is the rest of one of the agent that the request
//! names, or of the default agent.

use crate::refusal::RpcError;

/// The longest key.
pub const SESSION_KEY_BYTES_MAX: usize = 512;
/// What a key of one agent begins with.
const AGENT_PREFIX: &str = "agent:";
/// The session of an agent that is meant where none is named.
const MAIN: &str = "main";
/// The agent of keys where the gateway has no default.
const NO_AGENT: &str = "main";
/// Bare keys that only the gateway makes.
const RESERVED: [&str; 3] = ["subagent:", "cron:", "acp:"];

/// A session and its agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionKey {
    /// The whole key.
    pub key: String,
    /// The agent in it.
    pub agent: String,
    /// Whether the agent was named, or is a default that there is; otherwise routing decides.
    pub is_named: bool,
}

/// Normalises what a client says.
pub fn normalise(
    key: Option<&str>,
    agent: Option<&str>,
    default_agent: &str,
) -> Result<SessionKey, RpcError> {
    let key = key.map(str::trim).filter(|key| !key.is_empty()).unwrap_or(MAIN);
    let agent = agent.map(str::trim).filter(|agent| !agent.is_empty());
    if key.len() > SESSION_KEY_BYTES_MAX || key.chars().any(char::is_control) {
        let text =
            format!("session key must have at most {SESSION_KEY_BYTES_MAX} bytes and no control characters");
        return Err(RpcError::invalid(text));
    }
    if let Some(rest) = key.strip_prefix(AGENT_PREFIX) {
        let Some((named, rest)) =
            rest.split_once(':').filter(|(named, rest)| !named.is_empty() && !rest.is_empty())
        else {
            return Err(RpcError::invalid(format!("session key \"{key}\" must be agent:AGENT:NAME")));
        };
        if agent.is_some_and(|agent| agent != named) {
            let text = format!("session key \"{key}\" is not of agent \"{}\"", agent.unwrap_or_default());
            return Err(RpcError::invalid(text));
        }
        let key = format!("{AGENT_PREFIX}{named}:{rest}");
        return Ok(SessionKey { key, agent: named.to_owned(), is_named: true });
    }
    if let Some(prefix) = RESERVED.iter().find(|prefix| key.starts_with(**prefix)) {
        return Err(RpcError::invalid(format!("session keys that begin with \"{prefix}\" are reserved")));
    }
    let default = Some(default_agent).filter(|agent| !agent.is_empty());
    let (agent, is_named) = match agent.or(default) {
        Some(agent) => (agent, true),
        None => (NO_AGENT, false),
    };
    Ok(SessionKey { key: format!("{AGENT_PREFIX}{agent}:{key}"), agent: agent.to_owned(), is_named })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form of a key leads to one session and agent, and what contradicts itself is refused. By one row each.
    #[test]
    fn keys_are_normalised() {
        for (key, agent, default, expected) in [
            (Some("main"), None, "", Some(("agent:main:main", "main", false))),
            (Some(" main "), None, "words", Some(("agent:words:main", "words", true))),
            (None, Some("cook"), "words", Some(("agent:cook:main", "cook", true))),
            (Some("work"), Some("cook"), "", Some(("agent:cook:work", "cook", true))),
            (Some("agent:cook:a:b"), None, "words", Some(("agent:cook:a:b", "cook", true))),
            (Some("agent:cook:x"), Some("cook"), "", Some(("agent:cook:x", "cook", true))),
            (Some("agent:cook:x"), Some("words"), "", None),
            (Some("agent:cook"), None, "", None),
            (Some("agent::x"), None, "", None),
            (Some("cron:1"), None, "", None),
            (Some("a\nb"), None, "", None),
            (Some(&"x".repeat(513)), None, "", None),
        ] {
            let found = normalise(key, agent, default).ok();
            let found = found.as_ref().map(|it| (it.key.as_str(), it.agent.as_str(), it.is_named));
            assert_eq!(found, expected, "{key:?} {agent:?} {default}");
        }
    }
}
