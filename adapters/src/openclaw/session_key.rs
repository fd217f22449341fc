//! The names of sessions: `agent:<agent>:<rest>`, and the short forms that clients use for them.

use std::borrow::Cow;

/// The longest key.
pub const KEY_CHARS_MAX: usize = 512;
/// What every key in full begins with.
const PREFIX: &str = "agent:";

/// The key in full: a short one names a session of `agent`, which is the default agent where the request names none.
/// A key in full names its agent itself.
pub fn canonical<'a>(key: &'a str, agent: &str) -> Cow<'a, str> {
    let key = key.trim();
    if agent_of(key).is_some() { Cow::Borrowed(key) } else { Cow::Owned(format!("{PREFIX}{agent}:{key}")) }
}

/// The agent that a key in full names.
pub fn agent_of(key: &str) -> Option<&str> {
    let (agent, rest) = key.strip_prefix(PREFIX)?.split_once(':')?;
    (!agent.is_empty() && !rest.is_empty()).then_some(agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short forms belong to the agent that is meant, full ones to the one they name. One row a form.
    #[test]
    fn keys_have_one_full_form() {
        let rows = [
            ("main", "agent:pi:main"),
            (" main ", "agent:pi:main"),
            ("telegram:direct:7", "agent:pi:telegram:direct:7"),
            ("agent:main:main", "agent:main:main"),
            ("agent:main:telegram:group:1", "agent:main:telegram:group:1"),
            ("agent:", "agent:pi:agent:"),
            ("agent:x", "agent:pi:agent:x"),
            ("agent::x", "agent:pi:agent::x"),
        ];
        for (key, expected) in rows {
            assert_eq!(canonical(key, "pi"), expected, "{key}");
            assert_eq!(canonical(&canonical(key, "pi"), "other"), expected, "once is enough: {key}");
        }
        assert_eq!((agent_of("agent:main:x"), agent_of("main")), (Some("main"), None));
    }
}
