//! Which values of a configuration file are secrets, so that they are not shown unless that is asked for.

use serde_json::Value;

/// What stands for a secret that is not shown.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";

/// Parts of names whose values are secrets, in lower case. Also those of keys that are not supported here: a file may have
/// them.
const SECRET_NAMES: [&str; 7] =
    ["token", "password", "secret", "apikey", "api_key", "credential", "privatekey"];
/// Maps of which every value may be one.
const SECRET_MAPS: [&str; 3] = ["environment", "env", "headers"];

/// Puts [`REDACTED`] in the place of every secret text of `value`, which stands at a key of the name `name`.
pub fn redact(name: &str, value: &mut Value) {
    walk(value, is_secret(name));
    if SECRET_MAPS.contains(&name) {
        hide(value);
    }
}

/// Whether the value of a key of this name is a secret if it is a text.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

fn walk(value: &mut Value, secret: bool) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| redact(name, value)),
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, secret)),
        Value::String(text) if secret => REDACTED.clone_into(text),
        _ => {}
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) => REDACTED.clone_into(text),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Secrets are hidden wherever they stand, by name or in the environment of an agent; all else stays.
    #[test]
    fn secrets_are_hidden() {
        let mut file = json!({
            "gateway": {"port": 1, "auth": {"mode": "token", "token": "t", "password": "p"}},
            "agents": {"entries": {"a": {"command": ["ls"], "environment": {"LANGUAGE": "en", "X": "y"}}}},
            "models": {"providers": {"x": {"apiKey": "k", "baseUrl": "u", "maxTokens": 5, "tokens": ["a"]}}},
        });
        redact("", &mut file);
        let hidden = json!({
            "gateway": {"port": 1, "auth": {"mode": "token", "token": REDACTED, "password": REDACTED}},
            "agents": {"entries": {"a": {"command": ["ls"], "environment": {"LANGUAGE": REDACTED, "X": REDACTED}}}},
            "models": {"providers": {"x": {"apiKey": REDACTED, "baseUrl": "u", "maxTokens": 5, "tokens": [REDACTED]}}},
        });
        assert_eq!(file, hidden);
        let mut text = json!("t");
        redact("token", &mut text);
        assert_eq!(text, json!(REDACTED));
        let mut variables = json!({"A": "b"});
        redact("environment", &mut variables);
        assert_eq!(variables, json!({"A": REDACTED}));
    }
}
